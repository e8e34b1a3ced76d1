"""What a trained network sees in photos: `python -m alexnet_jax.predict --workdir=W a.jpg dir/`.

Answers on stdout, a file at a time: its five most probable classes. What cannot be used is named on
stderr with the reason, the rest is answered, and the exit code is 1.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import app, flags

from alexnet_jax import cli

if TYPE_CHECKING:
    from alexnet_jax.trained import Trained

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FLAGS = flags.FLAGS

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # what `--figure` may be
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
    check_workdir(FLAGS.workdir)
    if not arguments:
        cli.refuse("no images were given: name image files, or folders of them", 2)
    if FLAGS.figure:
        check_picture("figure", FLAGS.figure)
    return arguments


def check_workdir(workdir: str | None) -> None:
    """Ends the program if there is none."""
    if not workdir:
        cli.refuse("--workdir is missing: the directory of a run, such as /tmp/alexnet", 2)


def check_picture(flag: str, path: str) -> None:
    """Ends the program if a flag's value cannot become a picture."""
    if Path(path).suffix.lower() not in PICTURES:
        cli.refuse(f"--{flag}={path}: a picture's name ends in one of {', '.join(PICTURES)}", 2)
    check_folder(flag, path)


def check_folder(flag: str, path: str) -> None:
    """Ends the program if a file would lie in a folder that is not there."""
    if not Path(path).parent.is_dir():
        cli.refuse(f"--{flag}={path}: there is no folder {Path(path).parent}", 2)


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
    files, problems = find_images(arguments)
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
        print(f"skipped {printable(file)}: {answer}", file=sys.stderr)
        return
    print(printable(file))
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

    labels = labels_by_name(network.class_names, network.classes)
    drawn = []
    for file, picture, probabilities in shown:
        label = folder_label(file, labels)
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
    for batch in read_images(files, network.size, at_once):
        usable = [found for _, found in batch if isinstance(found, np.ndarray)]
        rows: Iterator[np.ndarray] = iter(())
        if usable:
            rows = iter(network.predict(filled(usable, at_once), ten_views=ten_views))
        for file, found in batch:
            yield file, found, next(rows) if isinstance(found, np.ndarray) else np.zeros(0)


# --- files ----------------------------------------------------------------------------------------


def find_images(paths: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The files that are named, and the image files in the folders that are named.

    A folder gives the files below it whose names end like those of images, sorted; hidden ones are
    left out.

    Returns:
        The files, and the reason for each path where there is none.
    """
    from alexnet_jax.data.folders import IMAGE_SUFFIXES

    files: list[str] = []
    problems: dict[str, str] = {}
    for path in paths:
        if not os.path.isdir(path):
            if os.path.lexists(path):
                files.append(path)
            else:
                problems[path] = "No such file or directory"
            continue
        found = []
        for folder, folders, names in os.walk(path, onerror=lambda e: _unreadable(e, problems)):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [
                os.path.join(folder, name)
                for name in names
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
            ]
        if not found and path not in problems:
            problems[path] = "the folder holds no image files"
        files += sorted(found)
    return files, problems


def _unreadable(error: OSError, problems: dict[str, str]) -> None:
    problems[str(error.filename)] = error.strerror or str(error)


def read_images(
    files: Iterable[str], size: int, at_once: int
) -> Iterator[list[tuple[str, np.ndarray | str]]]:
    """Decodes files, the next ones while the caller has those before.

    Args:
        files: of images.
        size: S in pixels.
        at_once: files in a batch.

    Yields:
        Of each file its name and its picture, uint8 (S, S, 3), or the reason why it has none.
    """
    from alexnet_jax.data.cost import cores

    waiting = iter(files)
    with futures.ThreadPoolExecutor(cores()) as pool:

        def start() -> list[tuple[str, futures.Future[np.ndarray | str]]]:
            return [(file, pool.submit(_read, file, size)) for file in islice(waiting, at_once)]

        ahead = start()
        while ahead:
            batch, ahead = ahead, start()
            yield [(file, found.result()) for file, found in batch]


def _read(file: str, size: int) -> np.ndarray | str:
    from alexnet_jax.data import images

    try:
        return images.load(Path(file).read_bytes(), size)
    except images.BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def batch_size(count: int) -> int:
    """Of so many images: 32, or a power of two that holds all."""
    from alexnet_jax.trained import AT_ONCE

    return min(AT_ONCE, 1 << max(0, count - 1).bit_length())


def filled(pictures: Sequence[np.ndarray] | np.ndarray, count: int) -> np.ndarray:
    """Pictures and then black ones, (count, S, S, 3): one shape for all batches, compiled once."""
    some = np.stack(list(pictures))
    return np.concatenate([some, np.zeros((count - len(some), *some.shape[1:]), np.uint8)])


def labels_by_name(class_names: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The label of every class, by its name in the dataset and by its words."""
    labels = {name: label for label, name in reversed(list(enumerate(classes)))}
    return labels | {name: label for label, name in enumerate(class_names)}


def folder_label(file: str, labels: Mapping[str, int]) -> int | None:
    """What the folder of a file says that it shows, if that is one of the classes."""
    return labels.get(os.path.basename(os.path.dirname(os.path.abspath(file))))


def printable(name: str) -> str:
    """A file's name in one line, whatever its bytes are."""
    return os.fsencode(name).decode(errors="replace").replace("\n", "\\n")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
