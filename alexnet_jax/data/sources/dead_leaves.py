"""Draws the embedded dataset: a patterned, coloured object among dead leaves, as JPEG.

The picture is the class: one of five patterns in one of four hue families. Everything else is
there to be ignored: the object's outline, size, place and shading, the light, and a background of
occluding discs and rectangles whose radii follow a 1/r^3 law, which gives it the statistics of
natural images (Ruderman 1997; Lee, Mumford and Huang 2001, "Occlusion models for natural images").

Image ``index`` of a split is a function of (look, split, index) alone, whoever draws it, so the
dataset is the same from one worker or from many. NumPy and OpenCV are all this file needs, and it
is run by its path in fresh processes (see `stream`): importing it must stay cheap.
"""

import contextlib
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike

PATTERNS = ("stripes-vertical", "stripes-horizontal", "checks", "dots", "plain")
# Mean and standard deviation of the hue, in degrees.
FAMILIES = {"red": (0, 11), "yellow": (52, 8), "green": (125, 15), "blue": (225, 15)}
CLASSES = tuple(f"{family}-{pattern}" for family in FAMILIES for pattern in PATTERNS)
# A split's number seeds its images: renumbering makes another dataset.
SPLITS = {"train": 0, "validation": 1, "test": 2}

# The knobs. Lengths are in pixels where the shorter side has UNIT of them; `draw` scales them.
UNIT = 128
SHORTER_SIDE = (128, 192)  # of the stored picture, real pixels
ASPECT = (1.0, 1.4)  # longer over shorter side; lying or standing, half of the pictures each
OUTLINE = 0.07  # size of the wobble of the outline, per harmonic
PERIOD = (7.0, 11.0)  # of the pattern; an 11x11 kernel should see it, and JPEG not blur it away
EDGE = (1.0, 2.5)  # width of the pattern's edges
PLAIN_BLUR = (1.0, 6.0)  # standard deviation, of the edge between a plain object's two colours
DUTY = 0.4  # most that the ink is broadened or thinned, in amplitudes of its wave
PLAIN_SIZE = (0.65, 0.9)  # of the coloured part of a plain object, over its bounding diameter
TILT = 4.0  # standard deviation of the pattern's tilt, degrees
LEAVES = 130  # behind the object
LEAF_RADIUS = (7.0, 70.0)
VIVID = 0.7  # greatest saturation of a leaf
BRIGHT = (0.15, 0.75)  # value of a leaf, from the darkest to the brightest
TEXTURED = 0.3  # share of leaves with a rough surface
RAMP = 0.25  # the light's gain runs from 1 - RAMP to 1 + RAMP across the picture, at most
SHADE = 0.4  # the object's shading: its gain runs from 1 - SHADE to 1 + SHADE, at most
CAST = 0.05  # standard deviation of the log gain of each colour channel
GRAIN = 3  # roughness of every surface, in 1/255 of its brightness
QUALITY = 90  # of the JPEG


class Look(NamedTuple):
    """How well the object is seen. Changing a number, or the seed, makes another dataset."""

    seed: int
    object_size: tuple[float, float]  # bounding diameter over the shorter side; width: 0.8 of it
    contrast: float  # least difference of luma between a pattern's two colours, of 1
    front_leaves: tuple[int, int]  # over the object, at least and at most
    front_radius: tuple[float, float]


# The images of a class take turns.
LOOKS = {
    "easy": (Look(2012, (0.65, 0.9), 0.5, (0, 2), (4.0, 9.0)),),
    # Every other object is small, half hidden and of little contrast. Were all so, it would be a
    # matter of luck when a run finds out that there are patterns, and that would decide its error.
    "hard": (
        Look(2014, (0.65, 0.9), 0.5, (0, 2), (4.0, 9.0)),
        Look(2014, (0.25, 0.5), 0.1, (6, 24), (3.0, 14.0)),
    ),
}

_LUMA = np.array([0.299, 0.587, 0.114])
_MAX_WORKERS = 16  # past that the process which writes the files is the slower side


def label_of(index: int) -> int:
    """Class number of image ``index``, 0..19: in turn, so that every prefix is balanced."""
    return index % len(CLASSES)


def look_of(index: int, look: str) -> Look:
    """How well the object of image ``index`` is seen."""
    return LOOKS[look][index // len(CLASSES) % len(LOOKS[look])]


def generator(split: str, index: int, look: str = "easy") -> np.random.Generator:
    """The random numbers of one image, from the look's seed, split and index alone."""
    seed = np.random.SeedSequence([look_of(index, look).seed, SPLITS[split], index])
    return np.random.Generator(np.random.Philox(seed))


def hsv_to_rgb(hue: ArrayLike, saturation: ArrayLike, value: ArrayLike) -> np.ndarray:
    """Colours ``[..., 3]`` in 0..1 from hue in degrees, saturation and value in 0..1."""
    k = (np.array([5.0, 3.0, 1.0]) + np.asarray(hue)[..., None] / 60) % 6
    saturation, value = np.asarray(saturation)[..., None], np.asarray(value)[..., None]
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


class Drawing(NamedTuple):
    """An image, and what is known of it.

    Attributes:
        picture: RGB uint8 ``[height, width, 3]`` with a shorter side of 128 to 192 pixels.
        label: 0..19, an index of `CLASSES`.
        box: where the object lies, ``[[left, top], [right, bottom]]`` in whole pixels: the square
            that its outline just fits into, within the picture's central square.
    """

    picture: np.ndarray
    label: int
    box: np.ndarray


def draw(split: str, index: int, look: str = "easy") -> tuple[np.ndarray, int]:
    """The picture and the label of `drawing`."""
    found = drawing(split, index, look)
    return found.picture, found.label


def drawing(split: str, index: int, look: str = "easy") -> Drawing:
    """Draws one image.

    Args:
        split: 'train', 'validation' or 'test'.
        index: number of the image in its split, from 0. Any number is allowed.
        look: a name of `LOOKS`.

    Raises:
        KeyError: if there is no such split, or look.
    """
    rng, label, style = generator(split, index, look), label_of(index), look_of(index, look)
    family, pattern = divmod(label, len(PATTERNS))
    side = int(rng.integers(SHORTER_SIDE[0], SHORTER_SIDE[1] + 1))
    height = width = side
    if rng.random() < 0.5:
        width = round(side * rng.uniform(*ASPECT))
    else:
        height = round(side * rng.uniform(*ASPECT))
    scale = side / UNIT

    # Three colours, and how rough the surface is: OpenCV draws four channels as fast as three.
    ground = 255 * hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.4), rng.uniform(0.1, 0.7))
    canvas = np.empty((height, width, 4), np.uint8)
    canvas[:] = [*ground.astype(np.uint8), 2 * GRAIN]
    everywhere = np.array([[0, 0], [width, height]], float)
    # Longer pictures get more leaves, so that they are covered as well.
    count = round(LEAVES * height * width / side**2)
    draw_leaves(canvas, rng, everywhere, count, LEAF_RADIUS, scale)
    box = _object_box(rng, height, width, side, style.object_size)
    _draw_object(canvas, rng, box, family, pattern, scale, style.contrast)
    least, most = style.front_leaves
    front = int(rng.integers(least, most + 1))
    draw_leaves(canvas, rng, box, front, style.front_radius, scale)
    return Drawing(light(canvas, rng, scale), label, box)


def encode(split: str, index: int, look: str = "easy") -> bytes:
    """The image of `draw` as a JPEG file's bytes."""
    picture = cv2.cvtColor(draw(split, index, look)[0], cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV could not encode image {index} of split {split!r} as JPEG")
    return data.tobytes()


def draw_leaves(
    canvas: np.ndarray,
    rng: np.random.Generator,
    box: np.ndarray,
    count: int,
    radius: tuple[float, float],
    scale: float,
) -> None:
    """Draws discs and rectangles on ``canvas``, centres in ``box`` [[x0, y0], [x1, y1]]."""
    # Density 1/r^3 between two radii, by the inverse of its distribution function.
    low, high = radius[0] ** -2, radius[1] ** -2
    radii = scale * (low - rng.random(count) * (low - high)) ** -0.5
    centres = rng.uniform(box[0], box[1], (count, 2))
    hue, saturation = rng.uniform(0, 360, count), VIVID * rng.beta(1.2, 1.6, count)
    colours = 255 * hsv_to_rgb(hue, saturation, rng.uniform(*BRIGHT, count))
    rough = np.where(rng.random(count) < TEXTURED, rng.uniform(20, 70, count), GRAIN)
    paints = np.concatenate([colours, rough[:, None]], axis=1).tolist()

    # Rectangles reach to their corners at `radii`; a turned corner vector gives the others.
    turn, slant = rng.uniform(0, np.pi, count), rng.uniform(0.3, np.pi / 2 - 0.3, count)
    angles = turn[:, None] + np.stack([slant, -slant, slant + np.pi, np.pi - slant], axis=1)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[:, None, None]
    # OpenCV takes integers with `shift` binary digits after the point: here eighths of a pixel.
    corners = np.rint(8 * (corners + centres[:, None])).astype(np.int32)
    points, sizes = np.rint(8 * centres).astype(int).tolist(), np.rint(8 * radii).astype(int)
    for i, disc in enumerate(rng.random(count) < 0.5):
        if disc:
            cv2.circle(canvas, points[i], int(sizes[i]), paints[i], -1, cv2.LINE_AA, shift=3)
        else:
            cv2.fillConvexPoly(canvas, corners[i], paints[i], cv2.LINE_AA, shift=3)


def _object_box(
    rng: np.random.Generator, height: int, width: int, side: int, sizes: tuple[float, float]
) -> np.ndarray:
    """A square [[x0, y0], [x1, y1]], whole pixels, within the picture's central square."""
    size = int(side * rng.uniform(*sizes))
    corner = np.array([(width - side) // 2, (height - side) // 2])
    corner = corner + rng.integers(0, side - size + 1, 2)
    return np.stack([corner, corner + size])


def _draw_object(
    canvas: np.ndarray,
    rng: np.random.Generator,
    box: np.ndarray,
    family: int,
    pattern: int,
    scale: float,
    contrast: float,
) -> None:
    """Paints the object of a class into its ``box`` of ``canvas``."""
    (left, top), (right, bottom) = box.tolist()
    size = right - left
    mask = _outline(rng, size)
    colour, other = _colours(rng, family, contrast)
    ink = _ink(rng, PATTERNS[pattern], size, scale)
    shade = _slope(rng, size, size, SHADE)
    # Row by row the mixture is colour * ink + other * (1 - ink); the fourth channel is roughness.
    paint = np.empty((size, size, 4), np.float32)
    for channel in range(3):
        paint[..., channel] = (other[channel] + (colour - other)[channel] * ink) * shade
    paint[..., 3] = GRAIN
    view = canvas[top:bottom, left:right]
    paint = np.clip(paint, 0, 255).astype(np.uint8)
    view[:] = cv2.blendLinear(paint, np.ascontiguousarray(view), mask, 1 - mask)


def _outline(rng: np.random.Generator, size: int) -> np.ndarray:
    """Coverage ``[size, size]`` of a random smooth blob, float32 0..1, that just fits in."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    phase, strength = rng.uniform(0, 2 * np.pi, (4, 1)), rng.normal(0, OUTLINE, (4, 1))
    radius = np.clip(1 + (strength * np.cos(waves * angle + phase)).sum(0), 0.5, None)
    radius *= (size / 2 - 1) / radius.max()
    points = size / 2 + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.rint(8 * points).astype(np.int32)], 255, cv2.LINE_AA, shift=3)
    return mask.astype(np.float32) / 255


def _colours(
    rng: np.random.Generator, family: int, contrast: float
) -> tuple[np.ndarray, np.ndarray]:
    """The family's colour and a near-neutral grey of quite another brightness, RGB 0..255."""
    mean, spread = list(FAMILIES.values())[family]
    hue, saturation = rng.normal(mean, spread), rng.uniform(0.65, 1.0)
    colour = hsv_to_rgb(hue, saturation, rng.uniform(0.6, 1.0))
    luma = _LUMA @ colour
    # Lighter or darker, whichever has room; where both have, by lot.
    lighter, darker = max(0.0, 1 - luma - contrast), max(0.0, luma - contrast)
    if rng.random() * (lighter + darker) < lighter or darker == 0:
        value = rng.uniform(min(luma + contrast, 0.95), 1.0)
    else:
        value = rng.uniform(0.02, max(luma - contrast, 0.05))
    other = hsv_to_rgb(rng.uniform(0, 360), rng.uniform(0, 0.1), value)
    return 255 * colour, 255 * other


def _ink(rng: np.random.Generator, pattern: str, size: int, scale: float) -> np.ndarray:
    """Share of the family's colour, ``[size, size]`` float32 0..1; the rest is the grey's.

    No histogram should tell the patterns apart, so each has about as much of either colour, and
    as much of what lies between them at its soft edges, as the others have.
    """
    if pattern == "plain":  # A plain thing that lies on a grey one, both with outlines of any kind.
        part = int(size * rng.uniform(*PLAIN_SIZE))
        left, top = rng.integers(0, size - part + 1, 2)
        ink = np.zeros((size, size), np.float32)
        ink[top : top + part, left : left + part] = _outline(rng, part)
        return cv2.GaussianBlur(ink, (0, 0), scale * rng.uniform(*PLAIN_BLUR))
    period = scale * np.exp(rng.uniform(*np.log(PERIOD)))
    if pattern == "checks":  # They have edges both ways: twice as many, were they as close.
        period *= 1.8
    tilt, phase = np.deg2rad(rng.normal(0, TILT)), rng.uniform(0, 2 * np.pi, 2)
    # How broad the ink is, and which of the two colours it is.
    duty, swap = np.float32(rng.uniform(-DUTY, DUTY)), rng.random() < 0.5
    step = np.arange(size, dtype=np.float32) * np.float32(2 * np.pi / period)
    cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    across = np.cos(step * cos + (step * sin + np.float32(phase[0]))[:, None])
    down = np.cos((step * cos + np.float32(phase[1]))[:, None] - step * sin)
    wave: np.ndarray
    if pattern == "stripes-vertical":
        wave = across + duty
    elif pattern == "stripes-horizontal":
        wave = down + duty
    elif pattern == "checks":  # More of `duty` would part them into dots.
        wave = 1.5 * across * down + duty / 4
    else:  # Round about the crests of a lattice; nearer to 0 they join into diagonal checks.
        wave = across + down - (0.75 + duty / 2)
    # A wave's slope is at most 2 pi / period a pixel: this makes an edge so many pixels wide.
    sharpness = period / (2 * np.pi * scale * rng.uniform(*EDGE))
    ink = np.clip(0.5 + wave * np.float32(sharpness), 0, 1)
    return 1 - ink if swap else ink


def _slope(rng: np.random.Generator, height: int, width: int, most: float) -> np.ndarray:
    """A plane ``[height, width]`` float32 about 1, rising in some direction by up to ``most``."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, most)
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(strength * np.cos(angle))
    y = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(strength * np.sin(angle))
    return 1 + x + y[:, None]


def light(canvas: np.ndarray, rng: np.random.Generator, scale: float) -> np.ndarray:
    """The lit picture, RGB uint8: roughness, a ramp of light and a colour cast, multiplied in."""
    height, width = canvas.shape[:2]
    noise = rng.standard_normal((height, width), np.float32)
    rough = cv2.GaussianBlur(noise, (0, 0), scale * rng.uniform(0.6, 1.5))
    rough = rough / (255 * rough.std())
    gain = (1 + canvas[..., 3] * rough) * _slope(rng, height, width, RAMP)
    casts = np.exp(rng.normal(0, CAST, 3)).astype(np.float32)
    gains = cv2.merge([gain * cast for cast in casts])
    return cv2.multiply(canvas[..., :3], gains, dtype=cv2.CV_8U)  # rounds and saturates


def default_workers() -> int:
    """Processes to draw with: one for each core this process may use, 16 at most."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on macOS or Windows
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, _MAX_WORKERS)


def stream(
    split: str, count: int, workers: int | None = None, look: str = "easy"
) -> Iterator[tuple[bytes, int]]:
    """Draws images 0..count-1 of a split and yields (JPEG bytes, label) in that order.

    Worker ``w`` of ``n`` draws images w, w + n, w + 2n ..., and the pipes are read in turn. The
    workers are fresh interpreters that run this file: a fork is unsafe beside JAX's threads, and
    multiprocessing's 'spawn' would run the caller's script again where it lacks a
    ``__name__ == '__main__'`` guard.

    Args:
        split: 'train', 'validation' or 'test'.
        count: number of images.
        workers: processes to start; None for one a core; 0 draws in this process.
        look: a name of `LOOKS`.

    Raises:
        KeyError: if there is no such split, or look.
        RuntimeError: if a worker dies; the message ends with what it printed.
    """
    _ = SPLITS[split], LOOKS[look]
    workers = min(default_workers() if workers is None else workers, count)
    # A short job is done before a worker has started; no interpreter: Python is embedded.
    if workers == 0 or count < 64 or not sys.executable:
        for index in range(count):
            yield encode(split, index, look), label_of(index)
        return
    with contextlib.ExitStack() as stack:
        ranges = [(start, count, workers) for start in range(workers)]
        pool = [stack.enter_context(_worker(split, *images, look)) for images in ranges]
        for index in range(count):
            yield pool[index % workers](), label_of(index)


@contextlib.contextmanager
def _worker(
    split: str, start: int, stop: int, step: int, look: str
) -> Iterator[Callable[[], bytes]]:
    """Starts a process that draws ``range(start, stop, step)``; gives a function that reads one."""
    # -P keeps this file's folder off the import path, where its neighbours could hide a library.
    command = [sys.executable, "-P", os.path.abspath(__file__), split]
    command += [str(start), str(stop), str(step), look]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        pipe = process.stdout
        assert pipe is not None  # asked for above

        def read() -> bytes:
            head = pipe.read(4)
            size = struct.unpack("<I", head)[0] if len(head) == 4 else 0
            data = pipe.read(size)
            if not data or len(data) < size:
                code = process.wait()
                errors.seek(0)
                said = errors.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"{' '.join(command)} ended early, exit code {code}: {said}")
            return data

        try:
            yield read
        finally:  # Also when the reader stops half-way.
            process.kill()
            pipe.close()
            process.wait()


def main(arguments: list[str]) -> None:
    """Worker: SPLIT START STOP STEP LOOK; writes each JPEG to stdout after its length, a uint32."""
    split, (start, stop, step), look = arguments[0], map(int, arguments[1:4]), arguments[4]
    cv2.setNumThreads(1)
    for index in range(start, stop, step):
        data = encode(split, index, look)
        sys.stdout.buffer.write(struct.pack("<I", len(data)) + data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
