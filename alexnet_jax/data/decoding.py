"""From an image file's bytes to the uint8 square that is trained on.

Pillow says what a file is, and decodes it. Only a flawless upright JPEG is left to simplejpeg,
which takes a quarter less time for the same pixels and, told to be strict, refuses where there is
anything to complain of: then Pillow judges. (OpenCV is as fast, but of a damaged file it prints
"Corrupt JPEG data" to stderr, which nothing in Python can catch, and fills what is missing with
grey.)
"""

import contextlib
import ctypes
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from alexnet_jax.errors import UserError

MAX_PIXELS = 89_478_485  # a quarter of a GiB of RGB; Pillow's own default, from where on it warns
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")  # of a segment, in or behind a scan
MAX_SCANS = 100  # of a progressive JPEG file; ten are usual
MAX_ASPECT = 64  # longer over shorter side; more is cut off before scaling

# Raster formats only: Pillow's reader of EPS files would start Ghostscript on them. Phones' MPO
# files are JPEG to Pillow's `formats`; AVIF and WebP are there if Pillow was built with them.
Image.init()
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
    if name in Image.OPEN
)

# What Pillow and its libtiff say of odd or damaged files names no file, and what matters is raised
# as BadImage. Told once and for all: `warnings.catch_warnings` is not safe among threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with contextlib.suppress(AttributeError, OSError):  # where libtiff's functions cannot be reached
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)

_UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


WHITE = (255, 255, 255)
Colour = tuple[int, int, int]


class BadImage(UserError):
    """An image that cannot be used. Its text is the reason; the caller knows the image's name."""


def load(content: bytes | np.ndarray, size: int, background: Colour = WHITE) -> np.ndarray:
    """The square of an image: decodes what is encoded, then `fit`.

    Args:
        content: the bytes of an image file, or pixels, uint8 (H, W, 3) in RGB order.
        size: S in pixels.
        background: see `decode`.

    Returns:
        uint8 (S, S, 3), RGB. It may be a read-only view of a larger array.

    Raises:
        BadImage: as `decode`, or the pixels are of another type or shape.
    """
    if not isinstance(content, np.ndarray):
        return fit(decode(content, background), size)
    shape = content.shape
    if content.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise BadImage(f"pixels are {content.dtype} {shape}, expected uint8 (H, W, 3)")
    return fit(content, size)


def decode(content: bytes, background: Colour = WHITE) -> np.ndarray:
    """Decodes an image file to RGB, upright as a viewer shows it; the first of several frames.

    Grey is repeated, CMYK converted (without its colour profile), what is transparent laid over a
    background; of 16 bits the upper eight are kept.

    Args:
        content: the bytes of a file in one of FORMATS, whatever its name says.
        background: the colour behind transparent pixels, RGB; as on paper white by default, for the
            colour that a file keeps of what nobody sees is black more often than not.

    Returns:
        uint8 (H, W, 3), C-contiguous, perhaps read-only.

    Raises:
        BadImage: empty, no image, truncated, damaged, over MAX_PIXELS, or of a colour mode that
            has no known range. Nothing else is raised.
    """
    if not content:
        raise BadImage("the file is empty")
    if _is_plain_jpeg(content):
        with contextlib.suppress(ValueError):
            return _flawless_jpeg(content)
    if content[4:8] == b"ftyp" and b"heic" in content[8:40]:  # a phone's, by its list of brands
        raise BadImage("a HEIC image, which is not read: convert it to JPEG or PNG")
    with _reasons(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.format in ("JPEG", "MPO"):
            _check_scans(content)
        return _pixels(image, background)


def of_pillow(image: Image.Image, background: Colour = WHITE) -> np.ndarray:
    """The pixels of Pillow's image, as `decode` gives those of its file; it stays as it is.

    Raises:
        BadImage: as `decode`.
    """
    with _reasons():
        return _pixels(image, background)


def _pixels(image: Image.Image, background: Colour) -> np.ndarray:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width}x{height}")
    if not width * height:
        raise BadImage("it has no pixels")
    image.load()
    turn = _UPRIGHT.get(_orientation(image))  # now, since a TIFF file turns as it loads
    picture = _to_rgb(image, background)
    return np.asarray(picture if turn is None else picture.transpose(turn))


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Makes a `BadImage` of whatever Pillow stumbles over."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(f"not an image ({', '.join(FORMATS)}), or damaged at its start") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(str(error)) from error
    except MemoryError as error:
        raise BadImage("it takes more memory to decode than there is") from error
    except Exception as error:  # Pillow's readers raise all kinds
        kind = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise BadImage(f"{kind} ({type(error).__name__}: {error})") from error


def is_image(path: str) -> bool:
    """Whether the start of a file is that of an image in one of FORMATS, whatever its name is."""
    try:
        with Image.open(path, formats=FORMATS):
            return True
    except Exception:  # Pillow's readers raise whatever they stumble over
        return False


def _too_large(detail: str) -> BadImage:
    return BadImage(f"more than {MAX_PIXELS} pixels, perhaps a decompression bomb ({detail})")


def _is_plain_jpeg(content: bytes) -> bool:
    """Whether it is a JPEG file of one scan, without EXIF, which could say that it lies on its
    side. Walks over the segments before the scan: a search of the whole file takes as long as a
    tenth of its decoding."""
    place, components = 2, 0
    while content.startswith(b"\xff", place) and len(content) > place + 9:
        marker = content[place + 1]
        if marker in (0xC0, 0xC1):  # SOF of a sequential file
            components = content[place + 9]
        elif marker == 0xE1 and content.startswith(b"Exif", place + 4):
            return False
        elif marker == 0xDA:  # SOS
            return content.startswith(b"\xff\xd8") and content[place + 4] == components
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


def _flawless_jpeg(content: bytes) -> np.ndarray:
    """Decodes a JPEG file of YCbCr, RGB or grey; a ValueError where it is something else."""
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    if colours not in ("YCbCr", "RGB", "Gray") or width * height > MAX_PIXELS:
        raise ValueError(colours)
    return simplejpeg.decode_jpeg(content, strict=True)


def _check_scans(content: bytes) -> None:
    """Refuses a JPEG file that refines the same pixels hundreds of times, to take minutes. What
    lies behind the picture, such as a phone's film of it, is not looked at."""
    place, scans = 2, 0
    while (found := _MARKER.search(content, place)) and found[1] != b"\xd9":  # EOI
        scans += found[1] == b"\xda"  # SOS
        length = content[found.end() : found.end() + 2]
        place = found.end() + int.from_bytes(length, "big")
    if scans > MAX_SCANS:
        raise BadImage(f"a JPEG file of {scans} scans, perhaps a decompression bomb")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 if there is none."""
    with contextlib.suppress(Exception):  # a broken EXIF block does not make a broken picture
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _to_rgb(image: Image.Image, background: Colour) -> Image.Image:
    """Converts a loaded image from any mode to RGB, over a background where it is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BadImage("its pixels are floating-point numbers, whose range is not known")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips at 255
        return _of_sixteen_bits(image, background)
    if not image.has_transparency_data:
        return image.convert("RGB")
    return _composed(image.convert("LA" if image.mode == "La" else "RGBA"), background)


def _of_sixteen_bits(image: Image.Image, background: Colour) -> Image.Image:
    """The upper eight bits of a grey image."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise BadImage(f"its grey values go from {low} to {high}, expected 0 to 65535")
    # Pillow reads 12-bit TIFF files into this mode too, without scaling them.
    bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (16,))[0]
    grey = Image.fromarray((values >> (4 if bits == 12 else 8)).astype(np.uint8))
    if "transparency" not in image.info:
        return grey.convert("RGB")
    opaque = Image.fromarray(np.uint8(255) * (values != image.info["transparency"]))
    return _composed(Image.merge("LA", (grey, opaque)), background)


def _composed(image: Image.Image, background: Colour) -> Image.Image:
    image = image.convert("RGBA")
    behind = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(behind, image).convert("RGB")


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Scales the shorter side to `size` and cuts the central square.

    As cuda-convnet2, make-data/pyext/src/pyext.cpp:103-122: area interpolation to shrink, cubic to
    enlarge; without its second JPEG encoding. Of a strip longer than MAX_ASPECT times its width
    only the middle is scaled, or a line of pixels would become gigabytes.

    Args:
        image: uint8 (H, W, 3), H and W at least 1.
        size: S in pixels; what returns is uint8 (S, S, 3).
    """
    height, width = image.shape[:2]
    shorter = min(height, width)
    # As much is cut from either end, so that the centre stays.
    top, left = (max(0, (side - MAX_ASPECT * shorter) // 2) for side in (height, width))
    image = image[top : height - top, left : width - left]
    height, width = image.shape[:2]
    if shorter != size:
        scale = size / shorter
        height, width = math.floor(scale * height + 0.5), math.floor(scale * width + 0.5)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (width, height), interpolation=how)
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]
