"""Images: every format and colour mode against known pixels, each refusal, the resize, and a fuzz.

`python tests/data/test_decoding.py 20000 1` fuzzes with 20,000 mutants from seed 1.
"""

import io
import os
import pathlib
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from unittest import mock

import cv2
import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import EpsImagePlugin, Image, PngImagePlugin

from alexnet_jax.data import decoding

ROOT = pathlib.Path(__file__).parents[2]


def photo(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth uint8 colour image (H, W, 3): JPEG keeps such to a few grey levels."""
    coarse = np.random.default_rng(seed).integers(30, 226, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, form: str, mode: str | None = None, **options) -> bytes:
    """Encodes an image by Pillow, converted to `mode` first."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(width: int, height: int, bits: int, colours: int, lines: bytes) -> bytes:
    """A PNG file of raw lines, each with its filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., None], 3, axis=2)


# --- decoding -------------------------------------------------------------------------------------

PHOTO = photo(0)
EDGES = {"height": 37, "width": 61}  # no multiple of a JPEG's 8 or 16


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}]
)
def test_jpeg_as_opencv_decodes_it(quality, subsampling, options):
    content = encode(photo(1, **EDGES), "JPEG", quality=quality, subsampling=subsampling, **options)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    decoded = decoding.decode(content)
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous


def test_grey_jpeg_as_opencv_decodes_it():
    content = encode(photo(1, **EDGES), "JPEG", "L")
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(decoding.decode(content), grey(expected))


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_every_pixel(form):
    options = {"lossless": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decoding.decode(encode(PHOTO, form, **options)), PHOTO)


@pytest.mark.parametrize("form", ["JPEG", "MPO", "WEBP", "AVIF"])
def test_lossy_formats_keep_the_colours(form):
    if form not in Image.SAVE:
        pytest.skip(f"Pillow without {form}")
    assert np.abs(decoding.decode(encode(PHOTO, form, quality=95)).astype(int) - PHOTO).mean() < 4


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form):
    ink = 255 - np.concatenate([PHOTO, np.full_like(PHOTO[..., :1], 205)], axis=2)  # 50 of black
    decoded = decoding.decode(
        encode(Image.fromarray(ink, "CMYK"), form)
    )  # JPEG: as Adobe, inverted
    assert np.abs(decoded - PHOTO * (205 / 255)).mean() < (6 if form == "JPEG" else 1)


def test_ycck_jpeg():
    ycc = np.asarray(Image.fromarray(255 - PHOTO).convert("YCbCr"))
    ink = Image.fromarray(np.dstack([255 - ycc, np.zeros_like(ycc[..., 0])]), "CMYK")
    content = bytearray(encode(ink, "JPEG", quality=95))
    transform = content.index(b"Adobe") + 11
    assert content[transform] == 0
    content[transform] = 2  # the first three components are YCbCr of the ink
    assert np.abs(decoding.decode(bytes(content)).astype(int) - PHOTO).mean() < 4


def over(colours: np.ndarray, alpha: np.ndarray, background: ArrayLike = 255) -> np.ndarray:
    """What is seen of colours (H, W, 3) of some opacity (H, W), 0..255, before a background."""
    share = alpha[..., None] / 255
    return np.rint(colours * share + np.asarray(background) * (1 - share))


ALPHA = np.random.default_rng(2).integers(0, 256, PHOTO.shape[:2], dtype=np.uint8)
ALPHA[:3, :3], ALPHA[:3, 3:6] = 0, 255
BLUE = (10, 20, 230)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_seen_before_a_background(form, mode):
    """White by default: a drawing in black on nothing stays one."""
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    colours = PHOTO if mode == "RGBA" else grey(PHOTO[..., 0])
    layers = [PHOTO] if mode == "RGBA" else [PHOTO[..., 0]]
    content = encode(Image.fromarray(np.dstack([*layers, ALPHA]), mode), form, **options)
    np.testing.assert_array_equal(decoding.decode(content), over(colours, ALPHA))
    np.testing.assert_array_equal(decoding.decode(content, BLUE), over(colours, ALPHA, BLUE))
    np.testing.assert_array_equal(
        decoding.load(content, 40, BLUE), decoding.fit(decoding.decode(content, BLUE), 40)
    )
    line = encode(Image.fromarray(np.uint8([[[0, 0, 0, 0], [0, 0, 0, 255]]])), "PNG")
    np.testing.assert_array_equal(decoding.decode(line)[0, :, 0], [255, 0])


def test_palettes_are_looked_up_and_their_transparent_colours_seen_through():
    palette = Image.fromarray(PHOTO).quantize(16)
    places = np.asarray(palette)
    colours = np.reshape(palette.getpalette(), (-1, 3))[places]
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        np.testing.assert_array_equal(decoding.decode(encode(palette, form)), colours)
    for form in ("PNG", "GIF"):
        content = encode(palette, form, transparency=3)
        seen = over(colours, np.where(places == 3, 0, 255))
        assert (seen == 255).all(-1).any()
        np.testing.assert_array_equal(decoding.decode(content), seen)
    shares = np.arange(0, 256, 16, dtype=np.uint8)
    content = encode(palette, "PNG", transparency=shares.tobytes())
    np.testing.assert_array_equal(decoding.decode(content), over(colours, shares[places]))


@pytest.mark.parametrize("kind", ["1", "L", "RGB", "16 bits"])
def test_one_colour_is_declared_transparent(kind):
    image = PHOTO
    if kind == "16 bits":
        image = PHOTO[..., 0].astype(np.uint16) * 256 + PHOTO[..., 1]
    elif kind != "RGB":
        image = PHOTO[..., 0] if kind == "L" else np.where(PHOTO[..., 0] > 128, 255, 0) == 255
    colour = image[0, 0].tolist()
    content = encode(image, "PNG", transparency=tuple(colour) if kind == "RGB" else int(colour))
    there = image == colour if image.ndim == 2 else (image == colour).all(-1)
    opaque = decoding.decode(encode(image, "PNG"))
    assert there.any() and not there.all()
    np.testing.assert_array_equal(
        decoding.decode(content, BLUE), over(opaque, np.where(there, 0, 255), BLUE)
    )


def test_an_image_of_pillow_is_its_file_and_stays_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray(PHOTO).quantize(16)
    contents = [encode(PHOTO, form, exif=exif) for form in ("JPEG", "PNG", "TIFF")]
    contents += [encode(palette, "PNG", transparency=3), encode(PHOTO, "JPEG", "CMYK")]
    for content in contents:
        with Image.open(io.BytesIO(content)) as image:
            for _ in range(2):
                np.testing.assert_array_equal(decoding.of_pillow(image), decoding.decode(content))
                assert image.info.get("transparency") == (3 if image.mode == "P" else None)
    with pytest.raises(decoding.BadImage, match="no pixels"):
        decoding.of_pillow(Image.new("RGB", (0, 5)))
    cut = Image.open(io.BytesIO(JPEG[:-200]))
    with cut, pytest.raises(decoding.BadImage, match="truncated"):
        decoding.of_pillow(cut)


def test_one_bit_and_sixteen_bits():
    bits = np.random.default_rng(3).integers(0, 2, (16, 16), dtype=np.uint8) * 255
    deep = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 255  # the high byte counts
    for form in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(decoding.decode(encode(bits, form, "1")), grey(bits))
        np.testing.assert_array_equal(
            decoding.decode(encode(deep, form))[..., 1], np.arange(256).reshape(16, 16)
        )
    big_endian = encode(Image.frombytes("I;16B", (16, 16), deep.astype(">u2").tobytes()), "TIFF")
    np.testing.assert_array_equal(decoding.decode(big_endian), grey((deep >> 8).astype(np.uint8)))
    rgb = np.random.default_rng(4).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in rgb)
    np.testing.assert_array_equal(decoding.decode(png(7, 5, 16, 2, lines)), rgb >> 8)


def test_twelve_bits():
    content = bytearray(encode(np.zeros((1, 2), np.uint16), "TIFF"))
    entry = content.index(struct.pack("<HHI", 258, 3, 1)) + 8  # BitsPerSample
    content[entry] = 12
    pixels = struct.unpack("<I", content[content.index(struct.pack("<HHI", 273, 4, 1)) + 8 :][:4])
    content[pixels[0] : pixels[0] + 3] = b"\xab\xc1\x23"
    np.testing.assert_array_equal(decoding.decode(bytes(content))[0, :, 0], [0xAB, 0x12])


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_of_several_frames(form):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (decoding.decode(content) == (255, 0, 0)).all()


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.fliplr(np.rot90(stored, -1)),
    6: lambda stored: np.rot90(stored, -1),  # a quarter turn clockwise
    7: lambda stored: np.fliplr(np.rot90(stored, 1)),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = decoding.decode(encode(PHOTO, form))
    turned = decoding.decode(encode(PHOTO, form, exif=exif))
    np.testing.assert_array_equal(turned, UPRIGHT[orientation](stored))
    assert turned.flags.c_contiguous


@pytest.mark.filterwarnings("ignore:::PIL.TiffImagePlugin")  # as the module does; see the fuzz
@pytest.mark.parametrize("block", [b"", b"\xff" * 40, b"MM\0*\0\0\0\x08\0\x09\x01\x12", b"II*\0"])
def test_a_broken_exif_block_is_ignored(block):
    content = encode(PHOTO, "JPEG", exif=b"Exif\0\0" + block)
    np.testing.assert_array_equal(decoding.decode(content), decoding.decode(encode(PHOTO, "JPEG")))


# --- refusals -------------------------------------------------------------------------------------

JPEG, PNG = encode(PHOTO, "JPEG"), encode(PHOTO, "PNG")
TEXT_BOMB = PNG[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))) + PNG[33:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", r"not an image \(JPEG, PNG"),
        (JPEG[:20], "not an image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99), "a HEIC image.*convert it to JPEG"),
        (JPEG[:-200], r"truncated .*image file is truncated"),
        (PNG[:-300], "truncated"),
        (PNG[:60] + b"\xff" + PNG[61:], "damaged .*broken PNG file|damaged .*broken data stream"),
        (png(50_000, 50_000, 8, 2, b""), "more than 89478485 pixels.*bomb"),
        (png(10_000, 10_000, 8, 2, b""), "more than 89478485 pixels.*bomb"),
        (JPEG[:-2] + 150 * b"\xff\xda\0\x02" + JPEG[-2:], "a JPEG file of 151 scans.*bomb"),
        (TEXT_BOMB, "damaged .*Decompressed data too large"),
        (encode(np.zeros((3, 3), np.float32), "TIFF"), "floating-point"),
        (encode(np.full((3, 3), 70_000, np.int32), "TIFF"), "from 70000 to 70000, expected 0 to 6"),
    ],
)
def test_refusals_say_why(content, reason):
    with pytest.raises(decoding.BadImage, match=reason):
        decoding.decode(content)


def test_what_lies_behind_a_photo_is_no_bomb():
    """A phone's film of it, whose bytes look like scans now and then; so do those of a picture in
    EXIF. Its scans are counted wherever they are."""
    film = np.random.default_rng(0).bytes(8_000_000)
    assert film.count(b"\xff\xda") > decoding.MAX_SCANS
    exif = b"\xff\xe1\x04\x02Exif" + 508 * b"\xff\xda" + bytes(4)
    photo = JPEG[:2] + exif + JPEG[2:]
    np.testing.assert_array_equal(decoding.decode(photo + film), decoding.decode(JPEG))
    bomb = photo[:-2] + 150 * b"\xff\xda\0\x02" + photo[-2:] + film
    with pytest.raises(decoding.BadImage, match="a JPEG file of 151 scans"):
        decoding.decode(bomb)


def test_bombs_by_the_modules_own_check(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(decoding.BadImage, match=r"more than 89478485 pixels.*\(10000x10000\)"):
        decoding.decode(png(10_000, 10_000, 8, 2, b""))


def test_no_memory_and_deep_recursion_are_reasons(monkeypatch):
    reader = mock.Mock()
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", reader)
    for error, reason in ((MemoryError(), "more memory"), (RecursionError("deep"), "deep")):
        reader.side_effect = error
        with pytest.raises(decoding.BadImage, match=reason):
            decoding.decode(PNG)
    reader.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        decoding.decode(PNG)


def test_postscript_is_not_run(monkeypatch):
    ghostscript = mock.Mock(return_value=Image.core.new("RGB", (9, 9)))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(decoding.BadImage, match="not an image"):
        decoding.decode(eps)
    assert not ghostscript.called
    with Image.open(io.BytesIO(eps)) as image:
        image.load()
    assert ghostscript.called  # what Pillow does unless told: the test would see it


# --- geometry -------------------------------------------------------------------------------------


def area_weights(source: int, target: int) -> np.ndarray:
    """(target, source): the share of each source pixel in each target pixel, by their overlap."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) * target / source


def cubic_weights(source: int, target: int) -> np.ndarray:
    """(target, source): Keys' cubic with a = -0.75, pixel centres at one half, edges repeated."""
    weights = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x, a = abs(centre - j), -0.75
            if x <= 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[i, min(max(j, 0), source - 1)] += weight
    return weights


@pytest.mark.parametrize(
    ("height", "width", "size", "new_height", "new_width", "top", "left"),
    [
        (375, 500, 256, 256, 341, 0, 42),  # ImageNet's usual size
        (500, 375, 256, 341, 256, 42, 0),
        (300, 300, 256, 256, 256, 0, 0),
        (256, 401, 256, 256, 401, 0, 72),  # nothing to scale
        (28, 28, 32, 32, 32, 0, 0),  # Fashion-MNIST, enlarged
        (90, 150, 128, 128, 213, 0, 42),
    ],
)
def test_fit_is_the_papers_resize(height, width, size, new_height, new_width, top, left):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    weights = area_weights if min(height, width) > size else cubic_weights
    rows, columns = weights(height, new_height), weights(width, new_width)
    whole = np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)
    expected = np.clip(whole, 0, 255)[top : top + size, left : left + size]
    fitted = decoding.fit(image, size)
    assert fitted.shape == (size, size, 3) and fitted.dtype == np.uint8
    assert np.abs(fitted - expected).max() < 1.0  # half a level by rounding, OpenCV's fixed point


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (7, 1), (3, 10_000), (1, 300_000), (300, 299)]
)
@pytest.mark.parametrize("size", [1, 31, 256])
def test_fit_is_a_square_of_any_image(height, width, size):
    for shape in ((height, width, 3), (width, height, 3)):
        fitted = decoding.fit(np.full(shape, 77, np.uint8), size)
        assert fitted.shape == (size, size, 3) and (fitted == 77).all()


@pytest.mark.parametrize(("height", "width"), [(3, 400), (5, 331), (40, 3001), (64, 4999)])
@pytest.mark.parametrize("size", [16, 33, 224])
def test_fit_of_a_strip_is_its_middle(monkeypatch, height, width, size):
    for strip in (photo(5, height, width), photo(6, width, height)):
        fitted = decoding.fit(strip, size).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "MAX_ASPECT", 10_000)
            assert np.abs(fitted - decoding.fit(strip, size)).max() <= 2


def test_load_takes_bytes_and_pixels():
    np.testing.assert_array_equal(decoding.load(PNG, 32), decoding.fit(PHOTO, 32))
    np.testing.assert_array_equal(decoding.load(PHOTO, 32), decoding.fit(PHOTO, 32))
    for pixels in (PHOTO[..., 0], PHOTO[..., :2], PHOTO / 255, PHOTO[:0]):
        with pytest.raises(decoding.BadImage, match=r"expected uint8 \(H, W, 3\)"):
            decoding.load(pixels, 32)


# --- fuzz -----------------------------------------------------------------------------------------


def specimens() -> list[bytes]:
    """Real files of every format and most modes."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    deep = PHOTO[..., 0].astype(np.uint16) * 257
    frames = {"save_all": True, "append_images": [Image.fromarray(photo(1))]}
    makings: list[tuple] = [
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "RGB", {"restart_marker_blocks": 2, "dpi": (72, 72)}),
        ("WEBP", "RGB", {"lossless": True}),
        ("TIFF", "1", {"compression": "group4"}),
    ]
    makings += [(form, "RGB", frames) for form in ("MPO", "PNG", "GIF", "WEBP")]
    makings += [(form, "RGB", {"exif": exif}) for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
    makings += [(form, "RGB", {}) for form in ("BMP", "PPM")]
    makings += [("JPEG", mode, {}) for mode in ("L", "CMYK")]
    makings += [("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGBA")]
    makings += [("PNG", "P", {"transparency": bytes(range(99))}), ("GIF", "P", {"transparency": 1})]
    makings += [(form, "RGBA", {}) for form in ("WEBP", "TIFF")]
    makings += [(form, mode, {}) for form in ("BMP", "PPM") for mode in ("1", "L")]
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    makings += [("TIFF", "RGB", {"compression": kind}) for kind in compressions]
    files = [
        encode(PHOTO, form, mode, **options)
        for form, mode, options in makings
        if form in Image.SAVE
    ]
    return [*files, encode(deep, "PNG"), encode(deep, "TIFF")]


def mutate(rng: np.random.Generator, files: list[bytes]) -> bytes:
    """One of the files, damaged in one or two ways, more often near its start."""
    content = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 3)):
        start = int(len(content) * rng.random() ** 2)
        stop = start + int(rng.integers(1, 33))
        match rng.integers(8):
            case 0 | 1 if start < len(content):
                content[start] ^= 1 << int(rng.integers(8))
            case 2 if start < len(content):
                content[start] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            case 3:
                content[start:start] = rng.bytes(stop - start)
            case 4:
                del content[start:stop]
            case 5:
                content[start:stop] = bytes(len(content[start:stop]))
            case 6:
                del content[int(len(content) * rng.random()) :]
            case 7:
                other = files[rng.integers(len(files))]
                content[start:] = other[int(len(other) * rng.random() ** 2) :]
    return bytes(content)


def fuzz(count: int, seed: int) -> None:
    """Loads `count` mutants; fails unless each gives an image or a reason, and soon."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    rng, files, refused = np.random.default_rng(seed), specimens(), 0
    for number in range(count):
        content, start = mutate(rng, files), time.monotonic()
        try:
            square = decoding.load(content, 32)
            assert square.shape == (32, 32, 3) and square.dtype == np.uint8
        except decoding.BadImage as error:
            assert len(str(error)) > 10
            refused += 1
        except BaseException:
            print(f"mutant {number} of seed {seed}: {content!r}", file=sys.stderr)
            raise
        assert time.monotonic() - start < 5, f"mutant {number} took too long"
    assert 0.2 < refused / count < 0.8, f"{refused} of {count} refused: a dull fuzz"


def test_mutants_give_an_image_or_a_reason_and_no_word_besides():
    # In a process of its own: as little memory as there may be, and Python's usual warnings,
    # which with libraries' own messages would show in its output.
    command = [sys.executable, __file__, "5000", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


if __name__ == "__main__":
    fuzz(int(sys.argv[1]), int(sys.argv[2]))
