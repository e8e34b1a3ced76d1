"""Image files below a folder: which files are such, and of all others the reason why not."""

import os
from collections.abc import Callable, Iterator

from alexnet_jax.data import decoding
from alexnet_jax.data.sources.record import LeftOut

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
    ".pgm", ".avif",
})  # fmt: skip
KINDS = {".heic": "HEIC", ".heif": "HEIC"}  # of other files; their suffix says it of most

# Reasons for leaving something out, that fit behind a number.
HIDDEN = "hidden"
BROKEN, TWICE = "behind a broken link", "behind a link to what is read already"


def image_files(
    top: str,
    left_out: LeftOut,
    name: str = "",
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[str]:
    """Yields the image files below a directory, relative to it, in no order.

    Links to files and to folders are followed; a folder that several links lead to, or a link back
    to where it came from, is read once. Hidden files and folders are none of a user's images.

    Args:
        top: the directory.
        left_out: gets what is no image file; not all of it until all are yielded.
        name: how people know the directory; the names in `left_out` begin with it.
        on_error: is told of a folder that cannot be read; without it the error is raised.
    """
    real = os.path.realpath(top)
    seen = {real, *_ancestors(real)}
    folders: list[tuple[str, str]] = [("", real)]  # relative to `top`, and where they are
    links: list[tuple[str, str]] = []
    while folders or links:
        if folders:
            below, real = folders.pop()
        else:  # links last, and in order: so an image has one name, and its own where it can
            links.sort(reverse=True)
            below, real = links.pop()
            if real in seen:
                left_out.add(TWICE, name + below)
                continue
            seen.add(real)
        try:
            with os.scandir(os.path.join(top, below)) as scanned:
                entries = list(scanned)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        for entry in entries:
            path = below + entry.name
            if is_folder(entry):
                if hidden(entry.name):
                    continue
                if entry.is_symlink():
                    links.append((f"{path}/", os.path.realpath(entry.path)))
                elif (target := os.path.join(real, entry.name)) in seen:
                    left_out.add(TWICE, name + path)
                else:
                    seen.add(target)
                    folders.append((f"{path}/", target))
            elif (reason := why_not(entry)) == HIDDEN:
                continue  # as folders; nobody misses them
            elif reason:
                left_out.add(reason, name + path)
            else:
                yield path


def _ancestors(path: str) -> Iterator[str]:
    while path != (path := os.path.dirname(path)):
        yield path


def hidden(name: str) -> bool:
    """Whether a file or folder is one that file managers make or do not show."""
    return name.startswith(".") or name == "__MACOSX"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; of a link to itself it is false, not an error."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def why_not(entry: os.DirEntry[str]) -> str:
    """Why something that is no folder is no image file, or '' if it is one.

    The name decides; the first bytes do where it has no suffix. A link to nowhere with an image's
    name is one: reading it then says so, where leaving it out might cost a class half its images.
    """
    suffix = os.path.splitext(entry.name)[1].lower()
    if hidden(entry.name):
        return HIDDEN
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "" if suffix in IMAGE_SUFFIXES else BROKEN
    if not entry.is_file():
        return "pipe, socket or device"  # to open a pipe is to wait for its writer
    if suffix in IMAGE_SUFFIXES:
        return ""
    if suffix:
        return KINDS.get(suffix, suffix)
    return "" if decoding.is_image(entry.path) else "without a suffix"
