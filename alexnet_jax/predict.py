"""What a trained network sees in photos: `python -m alexnet_jax.predict --workdir=W a.jpg dir/`.

Without --workdir the network that comes with the package answers, which knows patterns and hues.

Answers on stdout, a file at a time: its five most probable classes. What cannot be used is named on
stderr with the reason, the rest is answered, and the exit code is 1. A table of all probabilities
of many images is what `alexnet_jax.features --layers=prob --out=FILE.csv` writes.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from alexnet_jax import cli

if TYPE_CHECKING:
    import tqdm

SHOWN = 16  # panels of a figure


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags, and the files and folders."""
    parser = cli.Parser("predict", __doc__)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", type=cli.path, help="An image, or a folder of them."
    )
    cli.add_workdir(parser)
    parser.add_argument(
        "--figure",
        type=cli.path,
        metavar="PICTURE",
        help=f"Also draw the first {SHOWN} answers, as in Figure 4, in the file PICTURE.",
    )
    cli.add_overwrite(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="One JSON object a line: file, top5 and labels, or error.",
    )
    parser.add_argument(
        "--ten_views",
        action="store_true",
        help="Average ten views (section 4.1): ten times the work.",
    )
    parser.add_argument(
        "--best", action="store_true", help="The best checkpoint by validation error, not the last."
    )
    flags = parser.parse(argv)
    if not flags.files:
        cli.refuse("no images were given: name image files, or folders of them", 2)
    if flags.figure:
        cli.check_picture("figure", flags.figure)
    flags.workdir = cli.workdir(flags.workdir)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the flags say; the exit code."""
    flags = parse_flags(argv)
    with cli.errors_in_one_line("the answers so far stand", answers=True):
        return answer(flags)


def answer(flags: argparse.Namespace) -> int:
    """Answers for all files; the exit code."""
    from alexnet_jax.data import photos
    from alexnet_jax.data.sources.record import LeftOut
    from alexnet_jax.evaluation import answers

    left_out = LeftOut()
    files, problems = photos.find_images(flags.files, left_out)
    if flags.figure:
        cli.check_output("figure", flags.figure, flags.overwrite, files)
    show = answers.print_json if flags.json else answers.print_block
    for file, problem in problems.items():
        show(file, problem)
    photos.tell(left_out)
    if not files:
        return 1
    from alexnet_jax import load

    clock = [time.perf_counter()]
    with contextlib.redirect_stdout(sys.stderr):  # what it says is no answer
        network = load(flags.workdir, best=flags.best)
    clock.append(time.perf_counter())
    answers.compile_for(network, len(files))
    clock.append(time.perf_counter())
    panels: list[answers.Answer] = []
    answered = 0
    with progress(len(files)) as bar:
        for answer in answers.answers(network, files, flags.ten_views):
            bar.clear()
            found = answer.problem or answer.top(network.classes)
            show(answer.file, found, answer.numbers(network.class_names))
            bar.update()
            if answer.problem:
                problems[answer.file] = answer.problem
            else:
                answered += 1
                if flags.figure and len(panels) < SHOWN:
                    panels.append(answer)
            if cli.unread() and not (flags.figure and len(panels) < SHOWN):
                break
    sys.stdout.flush()
    clock.append(time.perf_counter())
    if answered and not cli.unread():
        answers.print_times(network, answered, flags.ten_views, clock)
    if panels:
        from alexnet_jax.pictures import figure4

        figure4.draw_answers(panels, network.classes, flags.figure)
        more = f", the first {len(panels)} of {answered:,} images" if answered > SHOWN else ""
        print(f"drawn in {flags.figure}{more}", file=sys.stderr)
    return 1 if problems else 0


def progress(total: int) -> "tqdm.tqdm[NoReturn]":
    """A bar, where stderr is a terminal and the answers themselves are not seen there."""
    import tqdm

    hidden = sys.stdout.isatty() or not sys.stderr.isatty()
    return tqdm.tqdm(total=total, unit=" images", disable=hidden, dynamic_ncols=True)


if __name__ == "__main__":
    cli.run(main)
