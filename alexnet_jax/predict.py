"""What a trained network sees in photos: `python -m alexnet_jax.predict --workdir=W a.jpg dir/`.

Answers on stdout, a file at a time: its five most probable classes. What cannot be used is named on
stderr with the reason, the rest is answered, and the exit code is 1.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags

from alexnet_jax import cli
from alexnet_jax.data import files as image_files

if TYPE_CHECKING:
    from alexnet_jax.trained import Trained

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FLAGS = flags.FLAGS

SHOWN = 16  # panels of a figure
TOP = 5


def define_flags() -> None:
    """Defines the flags; not at import, so that others may import this module."""
    flags.DEFINE_string("workdir", None, "Directory of a run, or of converted weights.")
    flags.DEFINE_string("figure", None, f"Also draw the first {SHOWN} answers, as in Figure 4.")
    flags.DEFINE_bool("json", False, "One JSON object a line: file, and top5 or error.")
    flags.DEFINE_bool("ten_views", False, "Average ten views (section 4.1): ten times the work.")
    flags.DEFINE_bool("best", False, "The best checkpoint by validation error, not the last.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags; returns the files and folders."""
    arguments = cli.parse(argv, define_flags, files=True)
    cli.check_workdir(FLAGS.workdir)
    if not arguments:
        cli.refuse("no images were given: name image files, or folders of them", 2)
    if FLAGS.figure:
        cli.check_picture("figure", FLAGS.figure)
    return arguments


def main(arguments: list[str]) -> int:
    """Does what the flags say; the exit code."""
    with cli.mendable(FLAGS.workdir):
        try:
            return run(arguments)
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1


def run(arguments: Sequence[str]) -> int:
    """Answers for all files; the exit code."""
    files, problems = image_files.find_images(arguments)
    report = _json_line if FLAGS.json else _block
    for file, problem in problems.items():
        report(file, problem)
    if not files:
        return 1
    from alexnet_jax.trained import load

    clock = [time.perf_counter()]
    with contextlib.redirect_stdout(sys.stderr):  # what it says is no answer
        network = load(FLAGS.workdir, best=FLAGS.best)
    clock.append(time.perf_counter())
    at_once = batch_size(len(files))
    network.predict(np.zeros((at_once, network.size, network.size, 3), np.uint8))
    clock.append(time.perf_counter())

    shown: list[tuple[str, np.ndarray, np.ndarray]] = []
    answered = 0
    for file, picture, probabilities in predictions(network, files, FLAGS.ten_views):
        if isinstance(picture, str):
            problems[file] = picture
            report(file, picture)
            continue
        answered += 1
        report(file, top(probabilities, network.classes))
        if FLAGS.figure and len(shown) < SHOWN:
            shown.append((file, picture, probabilities))
    sys.stdout.flush()
    clock.append(time.perf_counter())
    if shown:
        _draw(network, shown, answered)
    if answered:
        restoring, compiling, predicting = np.diff(clock)
        images = f"{answered:,} image{'s' * (answered > 1)}"
        print(
            f"{images} in {'ten views' if FLAGS.ten_views else 'one view'}, "
            f"{1000 * predicting / answered:,.1f} ms each; before that restoring step "
            f"{network.step:,} of {network.name} took {restoring:.1f} s and compiling "
            f"{compiling:.1f} s",
            file=sys.stderr,
        )
    return 1 if problems else 0


def _block(file: str, answer: str | Sequence[tuple[str, float]]) -> None:
    """An answer for people."""
    if isinstance(answer, str):
        sys.stdout.flush()
        print(f"skipped {image_files.printable(file)}: {answer}", file=sys.stderr)
        return
    print(image_files.printable(file))
    for name, probability in answer:
        print(f"  {probability:6.1%}  {name}")


def _json_line(file: str, answer: str | Sequence[tuple[str, float]]) -> None:
    """An answer for programs; a reason is for people as well."""
    if isinstance(answer, str):
        _block(file, answer)
    field: dict[str, Any] = {"error": answer} if isinstance(answer, str) else {"top5": answer}
    print(json.dumps({"file": file} | field))


def _draw(
    network: "Trained", shown: Sequence[tuple[str, np.ndarray, np.ndarray]], count: int
) -> None:
    from alexnet_jax import panels

    labels = image_files.labels_by_name(network.class_names, network.classes)
    drawn = []
    for file, picture, probabilities in shown:
        label = image_files.folder_label(file, labels)
        truth = None if label is None else network.classes[label]
        drawn.append(panels.Prediction(picture, top(probabilities, network.classes), truth))
    panels.draw_predictions(drawn, FLAGS.figure)
    more = f", the first {len(shown)} of {count:,} images" if count > len(shown) else ""
    print(f"drawn in {FLAGS.figure}{more}", file=sys.stderr)


def top(probabilities: np.ndarray, classes: Sequence[str]) -> list[tuple[str, float]]:
    """The most probable classes, five or all, with their probabilities."""
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return [(classes[i], float(probabilities[i])) for i in order]


def predictions(
    network: "Trained", files: Sequence[str], ten_views: bool = False
) -> Iterator[tuple[str, np.ndarray | str, np.ndarray]]:
    """Answers for files, in their order; however many they are, two batches are in memory.

    Args:
        network: which is asked.
        files: of images.
        ten_views: average over the ten views.

    Yields:
        Of each file its name, its picture, uint8 (S, S, 3), and the probabilities of the classes,
        float32; of one that cannot be used the reason in the picture's place, and none.
    """
    at_once = batch_size(len(files))
    for batch in image_files.read_images(files, network.size, at_once):
        usable = [found for _, found in batch if isinstance(found, np.ndarray)]
        rows: Iterator[np.ndarray] = iter(())
        if usable:
            rows = iter(network.predict(filled(usable, at_once), ten_views=ten_views))
        for file, found in batch:
            yield file, found, next(rows) if isinstance(found, np.ndarray) else np.zeros(0)


def batch_size(count: int) -> int:
    """Of so many images: 32, or a power of two that holds all."""
    from alexnet_jax.trained import AT_ONCE

    return min(AT_ONCE, 1 << max(0, count - 1).bit_length())


def filled(pictures: Sequence[np.ndarray] | np.ndarray, count: int) -> np.ndarray:
    """Pictures and then black ones, (count, S, S, 3): one shape for all batches, compiled once."""
    some = np.stack(list(pictures))
    return np.concatenate([some, np.zeros((count - len(some), *some.shape[1:]), np.uint8)])


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
