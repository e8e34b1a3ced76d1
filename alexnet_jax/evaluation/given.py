"""What people give to a network as images, as the pictures that views are cut from.

One image or many: files by their paths or opened, their bytes, images of Pillow, pixels of NumPy,
jax, torch or whatever else has `__array__` or `__dlpack__`, in any mixture. What could mean two
things, such as numbers that may go up to 1 or up to 255, is refused in one sentence.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax.data import decoding
from alexnet_jax.data.decoding import BadImage

EXPECTED = (
    "expected a path, a file's bytes, an image of Pillow, pixels (H, W, 3), or several of them"
)


def squares(images: Any, size: int) -> np.ndarray:
    """The central squares of images, as the cache of a dataset has them (paper section 2).

    Args:
        images: one image, or an iterable of them, or pixels (N, H, W, channels). Pixels are uint8
            (H, W), (H, W, 1), (H, W, 3) in RGB order, or (H, W, 4), which is laid over white.
        size: S in pixels.

    Returns:
        uint8 (N, S, S, 3); `images` itself where it is such an array of NumPy.

    Raises:
        BadImage: one cannot be used, or is none; the text says which, and why.
    """
    whole = (np.dtype(np.uint8), (size, size, 3))
    if isinstance(images, np.ndarray) and (images.dtype, images.shape[1:]) == whole:
        return images
    found = []
    for name, image in _each(images):
        try:
            found.append(_square(image, size))
        except BadImage as error:
            raise BadImage(f"{name}{error}") from error.__cause__
    return np.stack(found) if found else np.zeros((0, size, size, 3), np.uint8)


def _each(images: Any) -> Iterator[tuple[str, Any]]:
    """Every image, with what to call it in an error."""
    array = None if _is_file(images) else _array(images)
    if array is not None and array.dtype.kind in "OSU":  # of paths, perhaps
        images = array.tolist()
    elif array is not None and array.ndim == 4:
        images = array
    elif array is not None:
        yield "", array
        return
    if _is_file(images):
        yield "", images
    elif isinstance(images, Mapping | Set) or not isinstance(images, Iterable):
        raise BadImage(f"images are {_called(images)}: {EXPECTED}")
    else:
        for number, image in enumerate(images):
            yield f"image {number}: ", image


def _is_file(image: Any) -> bool:
    """Whether it is a file, or what Pillow made of one; no array and no collection."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(image, kinds) or callable(getattr(image, "read", None))


def _square(image: Any, size: int) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        path = os.path.expanduser(os.fsdecode(image))
        content = _content(path)
        try:
            return decoding.load(content, size)
        except BadImage as error:
            raise BadImage(f"{path!r}: {error}") from error.__cause__
    if isinstance(image, bytes | bytearray | memoryview):
        return decoding.load(bytes(image), size)
    if isinstance(image, Image.Image):
        return decoding.fit(decoding.of_pillow(image), size)
    if _is_file(image):
        return decoding.load(_read(image), size)
    array = _array(image)
    if array is None:
        raise BadImage(f"{_called(image)}: {EXPECTED}")
    return decoding.fit(_pixels(array), size)


def _content(path: str) -> bytes:
    if os.path.isdir(path):
        raise BadImage(f"{path!r} is a folder: give the files in it")
    if not os.path.isfile(path):
        raise BadImage(f"there is no file {path!r}")
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadImage(f"{path!r} cannot be read: {error.strerror or error}") from error


def _read(file: Any) -> bytes:
    try:
        content = file.read()
    except Exception as error:  # whatever kind of file it is
        raise BadImage(f"{_called(file)} cannot be read: {error}") from error
    if not isinstance(content, bytes):
        raise BadImage(f"{_called(file)} gives no bytes: open it in binary mode, 'rb'")
    return content


def _array(image: Any) -> np.ndarray | None:
    """It as an array of NumPy; None where it is nothing of that kind."""
    if isinstance(image, np.ndarray):
        return image
    try:
        if hasattr(image, "__array__"):
            return np.asarray(image)
        if hasattr(image, "__dlpack__"):
            return np.from_dlpack(image)
    except Exception as error:  # a tensor on a GPU, or one that has gradients, say
        raise BadImage(f"{_called(image)} cannot be had as a NumPy array: {error}") from error
    return None


def _pixels(array: np.ndarray) -> np.ndarray:
    """Pixels of one image as uint8 (H, W, 3)."""
    shape = array.shape
    if array.dtype != np.uint8:
        hint = "" if array.dtype.kind != "f" else "; of 0..1 make (255 * x).round().astype('uint8')"
        raise BadImage(f"pixels are {array.dtype} {shape}, expected uint8 from 0 to 255{hint}")
    grey = array.ndim == 2 or shape[2:] == (1,)
    if not grey and shape[2:] not in ((3,), (4,)):
        channels_first = array.ndim == 3 and shape[0] in (1, 3, 4)
        hint = "; channels come last, as x.transpose(1, 2, 0) has them" * channels_first
        raise BadImage(f"pixels are {shape}, expected (H, W) or (H, W, 1, 3 or 4){hint}")
    if 0 in shape:
        raise BadImage(f"pixels are {shape}: there are none")
    if grey:
        return np.repeat(array.reshape(*shape[:2], 1), 3, axis=2)
    return array if shape[2] == 3 else decoding.of_pillow(Image.fromarray(array))


def _called(thing: Any) -> str:
    return "None" if thing is None else f"of type {type(thing).__name__}"
