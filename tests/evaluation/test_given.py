"""What people hand to a network as images: all kinds give the plain one's picture, or a reason."""

import io
import os
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import data_fixtures
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax.data import decoding
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.given import squares

SIZE = 24


def plain(*images: np.ndarray) -> np.ndarray:
    """The squares of pixels (H, W, 3)."""
    return np.stack([decoding.fit(np.ascontiguousarray(image), SIZE) for image in images])


class Tensor:
    """What has `__array__` and nothing else, as a tensor of torch has."""

    def __init__(self, array: np.ndarray, error: str = ""):
        self._array, self._error = array, error

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self._error:
            raise TypeError(self._error)
        return self._array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> "Tensor":
        return Tensor(self._array[index])


class Exported:
    """What has `__dlpack__` and nothing else."""

    def __init__(self, array: np.ndarray):
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


def png(image: np.ndarray, form: str = "PNG") -> bytes:
    return data_fixtures.encode(image, form)


def over_white(rgba: np.ndarray) -> np.ndarray:
    share = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


# Of pixels (H, W, 3): the same image in another form, and what is then seen.
FORMS: dict[str, Any] = {
    "pixels": lambda rgb, _: (rgb, rgb),
    "jax": lambda rgb, _: (jnp.asarray(rgb), rgb),
    "__array__": lambda rgb, _: (Tensor(rgb), rgb),
    "__dlpack__": lambda rgb, _: (Exported(rgb), rgb),
    "backwards": lambda rgb, _: (rgb[::-1, ::-1, ::-1], rgb[::-1, ::-1, ::-1]),
    "read-only": lambda rgb, _: (np.frombuffer(rgb.tobytes(), np.uint8).reshape(rgb.shape), rgb),
    "grey": lambda rgb, _: (rgb[..., 0], np.repeat(rgb[..., :1], 3, 2)),
    "grey, one channel": lambda rgb, _: (rgb[..., 1:2], np.repeat(rgb[..., 1:2], 3, 2)),
    "four channels": lambda rgb, _: (
        (rgba := np.dstack([rgb, rgb[..., 0]])), over_white(rgba)
    ),
    "file's bytes": lambda rgb, _: (png(rgb), rgb),
    "bytearray": lambda rgb, _: (bytearray(png(rgb)), rgb),
    "memoryview": lambda rgb, _: (memoryview(png(rgb, "BMP")), rgb),
    "open file": lambda rgb, _: (io.BytesIO(png(rgb)), rgb),
    "text path": lambda rgb, place: (str(written(rgb, place)), rgb),
    "path": lambda rgb, place: (written(rgb, place), rgb),
    "numpy's text": lambda rgb, place: (np.str_(written(rgb, place)), rgb),
    "Pillow": lambda rgb, _: (Image.fromarray(rgb), rgb),
    "Pillow, lazily": lambda rgb, _: (Image.open(io.BytesIO(png(rgb))), rgb),
    "Pillow, grey": lambda rgb, _: (
        Image.fromarray(rgb[..., 2]), np.repeat(rgb[..., 2:], 3, 2)
    ),
    "Pillow, transparent": lambda rgb, _: (
        Image.fromarray(rgba := np.dstack([rgb, rgb[..., 1]])), over_white(rgba)
    ),
}  # fmt: skip
WRONG: dict[str, Any] = {
    "None": lambda rgb: None,
    "a number": lambda rgb: 7,
    "numpy's number": lambda rgb: np.uint8(7),
    "dict": lambda rgb: {"a.jpg": rgb},
    "set": lambda rgb: {"a.jpg"},
    "a type": lambda rgb: np.ndarray,
    "an object": lambda rgb: SimpleNamespace(),
    "floats of 0..1": lambda rgb: rgb / 255,
    "floats of 0..255": lambda rgb: rgb.astype(np.float32),
    "int64": lambda rgb: rgb.astype(int),
    "booleans": lambda rgb: rgb > 9,
    "jax floats": lambda rgb: jnp.asarray(rgb) / 255,
    "two channels": lambda rgb: rgb[..., :2],
    "channels first": lambda rgb: rgb.transpose(2, 0, 1).repeat(5, 2),
    "five axes": lambda rgb: rgb[None, None],
    "one axis": lambda rgb: rgb[0, 0],
    "no rows": lambda rgb: rgb[:0],
    "no columns": lambda rgb: rgb[:, :0],
    "nested lists": lambda rgb: rgb.tolist(),
    "no such file": lambda rgb: "~/no/such/file.jpg",
    "an address": lambda rgb: "https://example.com/cat.jpg",
    "no name": lambda rgb: "",
    "a name with a zero": lambda rgb: "a\0b.jpg",
    "a long name": lambda rgb: "x" * 5000,
    "a folder": lambda rgb: Path(__file__).parent,
    "no image": lambda rgb: b"<html>404</html>",
    "cut off": lambda rgb: png(rgb)[:-30],
    "nothing": lambda rgb: b"",
    "text file": lambda rgb: io.StringIO("text"),
    "closed file": lambda rgb: closed(),
    "on a GPU": lambda rgb: Tensor(rgb, "can't convert cuda:0 device type tensor to numpy."),
    "texts that are no files": lambda rgb: np.array(["no.jpg", "none.jpg"]),
    "Pillow, floats": lambda rgb: Image.fromarray(rgb[..., 0].astype(np.float32)),
    "Pillow, closed": lambda rgb: closed_picture(rgb),
}


def closed() -> io.BytesIO:
    file = io.BytesIO(b"x")
    file.close()
    return file


def closed_picture(rgb: np.ndarray) -> Image.Image:
    with io.BytesIO(png(rgb)) as file:
        return Image.open(file)


def written(rgb: np.ndarray, place: Path) -> Path:
    path = place / f"ä {len(list(place.iterdir()))}.png"
    path.write_bytes(png(rgb))
    return path


def noise(seed: int, height: int = 9, width: int = 13) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_alone_in_a_list_and_among_others(form: str, tmp_path: Path) -> None:
    for images in (lambda one: one, lambda one: [one], lambda one: iter((one,))):
        image, seen = FORMS[form](noise(1), tmp_path)
        np.testing.assert_array_equal(squares(images(image), SIZE), plain(seen))


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused(wrong: str) -> None:
    """In one sentence, alone or second in a list."""
    texts = []
    for images in (lambda one: one, lambda one: [noise(0), one]):
        with pytest.raises(UserError) as caught:
            squares(images(WRONG[wrong](noise(1))), SIZE)
        texts.append(str(caught.value))
        assert 10 < len(texts[-1]) < 5200 and "\n" not in texts[-1]
    assert "image 1" in texts[1]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mixture_is_the_plain_pixels_or_one_error(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever the kinds, the sizes, and what holds them."""
    names = data.draw(st.lists(st.sampled_from([*FORMS, *FORMS, *WRONG]), max_size=5))
    sides = st.integers(1, 40)
    given_images, seen = [], []
    for number, name in enumerate(names):
        rgb = noise(number, data.draw(sides), data.draw(sides))
        if name in FORMS:
            image, pixels = FORMS[name](rgb, tmp_path)
            given_images.append(image)
            seen.append(pixels)
        else:
            given_images.append(WRONG[name](rgb))
    holder = data.draw(st.sampled_from([list, tuple, iter, lambda x: (i for i in x)]))
    if len(seen) < len(names):
        with pytest.raises(UserError, match=r"^image \d: "):
            squares(holder(given_images), SIZE)
    else:
        expected = plain(*seen) if seen else np.zeros((0, SIZE, SIZE, 3), np.uint8)
        np.testing.assert_array_equal(squares(holder(given_images), SIZE), expected)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, Tensor, Exported, list])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_is_its_images(kind: Any, channels: int) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 30, 40, channels), np.uint8)
    found = squares(kind(batch), SIZE)
    np.testing.assert_array_equal(found, np.concatenate([squares(one, SIZE) for one in batch]))
    assert squares(kind(batch[:0]), SIZE).shape == (0, SIZE, SIZE, 3)
    with pytest.raises(UserError, match="image 0: pixels are float32"):
        squares(kind(batch.astype(np.float32)), SIZE)


def test_pictures_of_the_right_size_are_not_copied() -> None:
    batch = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    assert squares(batch, SIZE) is batch


def test_arrays_of_paths(tmp_path: Path) -> None:
    paths = [str(written(noise(i), tmp_path)) for i in range(3)]
    expected = plain(*(noise(i) for i in range(3)))
    for images in (np.array(paths), np.array(paths, object), np.array(list(map(Path, paths)))):
        np.testing.assert_array_equal(squares(images, SIZE), expected)
    np.testing.assert_array_equal(squares(np.array(paths[0]), SIZE), expected[:1])


def test_files_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the home directory, in an archive; a pipe is not waited for."""
    path = written(noise(0), tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(squares(f"~/{path.name}", SIZE), plain(noise(0)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png(noise(1)))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("a.png") as member:
        np.testing.assert_array_equal(squares([member, path], SIZE), plain(noise(1), noise(0)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"there is no file .*pipe"):
        squares(tmp_path / "pipe", SIZE)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    with pytest.raises(UserError, match=r"image 1: '.*bad\.jpg': not an image"):
        squares([path, bad], SIZE)


def test_errors_say_the_way_out() -> None:
    for images, words in (
        (noise(0) / 255, r"pixels are float64 .*, expected uint8 from 0 to 255; of 0\.\.1 make"),
        (WRONG["channels first"](noise(0)), r"x\.transpose\(1, 2, 0\)"),
        ([WRONG["on a GPU"](noise(0))], r"image 0: of type Tensor cannot be had .*cuda:0"),
        ({}, r"images are of type dict: expected a path, a file's bytes, an image of Pillow"),
        (None, r"images are None: expected"),
        (["a.jpg", 3], r"image 0: there is no file 'a\.jpg'"),
        (Path(__file__).parent, r"is a folder: give the files in it"),
        (io.StringIO(), r"binary mode"),
    ):
        with pytest.raises(UserError, match=words):
            squares(images, SIZE)


def test_torch(reference: ModuleType) -> None:
    """Its tensors, and what a tensor with gradients says."""
    torch = reference.torch
    rgb = noise(0)
    np.testing.assert_array_equal(squares(torch.from_numpy(rgb), SIZE), plain(rgb))
    np.testing.assert_array_equal(squares([torch.from_numpy(rgb)] * 2, SIZE), plain(rgb, rgb))
    batch = torch.from_numpy(np.stack([rgb, rgb]))
    np.testing.assert_array_equal(squares(batch, SIZE), plain(rgb, rgb))
    with pytest.raises(UserError, match=r"Tensor cannot be had as a NumPy array: .*grad"):
        squares(torch.zeros(5, 5, 3, requires_grad=True), SIZE)
    with pytest.raises(UserError, match=r"transpose\(1, 2, 0\)"):
        squares(batch[0].permute(2, 0, 1), SIZE)
