"""Image files that a user names: found, decoded ahead, and what their folders say of them."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from itertools import islice
from pathlib import Path

import numpy as np

from alexnet_jax.data import decoding
from alexnet_jax.data.sources.image_files import image_files
from alexnet_jax.data.sources.record import LeftOut
from alexnet_jax.data.threads import cores


def find_images(
    paths: Iterable[str], left_out: LeftOut | None = None
) -> tuple[list[str], dict[str, str]]:
    """The files that are named, and the image files in the folders that are named.

    A folder gives the image files below it, sorted, see `image_files`; `left_out` gets the rest.

    Returns:
        The files, and the reason for each path where there is none.
    """
    left_out = LeftOut() if left_out is None else left_out
    files: list[str] = []
    problems: dict[str, str] = {}
    for path in paths:
        if not os.path.isdir(path):
            if os.path.isfile(path):
                files.append(path)
            elif os.path.exists(path):  # to open a pipe is to wait for its writer, perhaps for ever
                problems[path] = "it is a pipe, socket or device, not a file"
            else:
                problems[path] = "No such file or directory"
            continue
        others = LeftOut()
        below = os.path.join(path, "")
        named = image_files(path, others, below, lambda error: _unreadable(error, problems))
        found = sorted(below + name for name in named)
        if not found and path not in problems:
            problems[path] = "the folder holds no image files" + f" ({others})" * bool(others)
        else:
            left_out.merge(others)
        files += found
    return files, problems


def tell(left_out: LeftOut) -> None:
    """Prints on stderr what a folder holds that is not used, if there is anything."""
    if left_out:
        print(left_out, file=sys.stderr)


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
    waiting = iter(files)
    with futures.ThreadPoolExecutor(cores()) as pool:

        def start() -> list[tuple[str, futures.Future[np.ndarray | str]]]:
            return [(file, pool.submit(_read, file, size)) for file in islice(waiting, at_once)]

        ahead = start()
        while ahead:
            batch, ahead = ahead, start()
            yield [(file, found.result()) for file, found in batch]


def _read(file: str, size: int) -> np.ndarray | str:
    try:
        return decoding.load(Path(file).read_bytes(), size)
    except decoding.BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)


def labels_by_name(class_names: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The label of every class, by its name in the dataset, and by its words if they are its own:
    of ImageNet's classes two are 'sunglasses', say, and a folder of that name could be either."""
    return _unique(classes) | _unique(class_names)


def _unique(names: Sequence[str]) -> dict[str, int]:
    count = Counter(names)
    return {name: label for label, name in enumerate(names) if count[name] == 1}


def folder_label(file: str, labels: Mapping[str, int]) -> int | None:
    """What the folder of a file says that it shows, if that is one of the classes."""
    return labels.get(os.path.basename(os.path.dirname(os.path.abspath(file))))


def printable(name: str) -> str:
    """A file's name in one line, whatever its bytes are."""
    return os.fsencode(name).decode(errors="replace").replace("\n", "\\n")
