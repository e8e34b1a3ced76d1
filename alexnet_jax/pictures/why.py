"""Why a network gave its answer, as one picture: what `evaluation.why` found, drawn."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib import colormaps

from alexnet_jax.evaluation.answers import best
from alexnet_jax.evaluation.why import Explanation
from alexnet_jax.pictures.sheet import BAR, Sheet, clipped, short

STRONGEST = 6  # maps of each tower

# All in pixels.
PANEL, GAP = 272, 14
WIDTH = 3 * PANEL + 4 * GAP
TITLE, CAPTION = 22, 40  # above and below a panel
BESIDE, BETWEEN = 62, 4  # the name of a layer; the space between maps
MAP = (WIDTH - 3 * GAP - BESIDE) // (2 * STRONGEST) - BETWEEN
UNITS, ROWS = 32, 8  # the height of a strip of units, and in how many rows it has them
BEHIND = {"facecolor": "black", "pad": 0.6, "lw": 0, "alpha": 0.6}  # the number of a map
LINE = 13  # of the caption
LETTERS = 164  # in such a line


class Strongest(NamedTuple):
    """The maps of a layer that respond most on average, of one tower.

    Attributes:
        numbers: of the kernels, among those of both towers.
        maps: (N, H, W).
        responding: how many maps of the tower respond at all.
        total: of its maps.
    """

    numbers: list[int]
    maps: np.ndarray
    responding: int
    total: int


def strongest(values: np.ndarray, tower: int, count: int) -> Strongest:
    """Those of one tower's maps.

    Args:
        values: (H, W, maps), of the tower.
        tower: 0 or 1.
        count: how many.
    """
    means = values.mean((0, 1))
    order = np.argsort(-means, kind="stable")[:count]
    numbers = (tower * len(means) + order).tolist()
    maps = values.transpose(2, 0, 1)
    return Strongest(numbers, maps[order], int((maps != 0).any((1, 2)).sum()), len(means))


def occlusion(found: Explanation) -> np.ndarray:
    """The photo in grey, uint8 (C, C, 3), brighter and warmer where the grey square takes more of
    the answer's probability away, with the outline of the one that takes most."""
    probability = found.occlusion.at_pixels()
    least, most = probability.min(), probability.max()
    taken = (most - probability) / max(most - least, 1e-12)
    warm = colormaps["inferno"](taken)[..., :3]
    grey = cv2.cvtColor(found.seen, cv2.COLOR_RGB2GRAY)[..., None] / 255
    picture = (255 * (0.35 * grey + 0.65 * warm)).astype(np.uint8)
    half = found.occlusion.side / 2
    top, left = (int(middle - half) for middle in found.occlusion.place)
    end = found.occlusion.side - 1
    return cv2.rectangle(picture, (left, top), (left + end, top + end), (255, 255, 255), 1)


def saliency(found: Explanation) -> np.ndarray:
    """The saliency in grey, uint8 (C, C, 3); white is what one pixel in two hundred exceeds."""
    white = max(np.quantile(found.saliency, 0.995), 1e-30)
    grey = (255 * np.clip(found.saliency / white, 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def scale(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Black and white of a layer, the same for both of its towers."""
    return min(0.0, *(float(own.min()) for own in values)), max(
        1e-12, *(float(own.max()) for own in values)
    )


def folded(units: np.ndarray) -> np.ndarray:
    """Units in as many rows as divide them, eight at most."""
    rows = next(count for count in range(ROWS, 0, -1) if len(units) % count == 0)
    return units.reshape(rows, -1)


def sentences(found: Explanation, classes: Sequence[str]) -> dict[str, str]:
    """What stands under each panel: `seen`, `occlusion`, `saliency`."""
    name, square = clipped(classes[found.label], 30), found.occlusion
    least, most = square.probabilities.min(), square.probabilities.max()
    down, across = square.place
    return {
        "seen": f"What the network saw, {len(found.seen)} pixels a side.",
        "occlusion": f"{name} under a grey square: {least:.1%} (bright) to {most:.1%} (dark). "
        f"Most is lost {across:.0f} from the left, {down:.0f} from the top.",
        "saliency": f"How steeply the logit of {name} changes with each pixel: white "
        f"{np.quantile(found.saliency, 0.995):.2g} for a grey level.",
    }


def sources(found: Explanation) -> str:
    """How all of it was made, and whose methods they are."""
    towers = (
        "Without a tower: the maps of its convolutions are heard by nobody. "
        if len(found.silenced)
        else "This network is one tower, of which none can be silenced. "
    )
    return (
        f"Occlusion: a grey square of {found.occlusion.side} pixels is slid over the photo "
        "(Zeiler and Fergus 2013, section 4.2). Saliency: the gradient of the logit, at each pixel "
        "the largest of three colours (Simonyan, Vedaldi and Zisserman 2013, section 3.1): what "
        "the answer is sensitive to, which need not be what it rests on. "
        f"{towers}Activations: the maps that respond most on average, by their numbers, and all "
        "units; black to white is the same in all of a layer."
    )


def draw(found: Explanation, classes: Sequence[str], name: str, path: str | Path) -> None:
    """Draws an explanation.

    Args:
        found: see `evaluation.why.explain`.
        classes: what each label means, in words.
        name: of the photo.
        path: of the drawing.
    """
    bars = len(best(found.probabilities))
    below = TITLE + PANEL + CAPTION
    layers = GAP + below + TITLE + BAR * bars + GAP
    heights = [(MAP if own[0].ndim == 3 else UNITS) + GAP for own in found.activations.values()]
    caption = textwrap.wrap(sources(found), LETTERS)
    end = layers + TITLE + sum(heights)
    sheet = Sheet(WIDTH, end + LINE * len(caption) + GAP)
    panels = {
        "seen": (name, found.seen),
        "occlusion": ("occlusion", occlusion(found)),
        "saliency": ("saliency", saliency(found)),
    }
    said = sentences(found, classes)
    for place, (which, (title, picture)) in enumerate(panels.items()):
        left = GAP + place * (PANEL + GAP)
        axes = sheet.picture(left, GAP + TITLE, picture, PANEL)
        axes.set_title(short(title, 36), fontsize=8, fontweight="bold", loc="left", pad=4)
        lines = "\n".join(textwrap.wrap(said[which], 50))
        sheet.text(left, GAP + TITLE + PANEL + 4, lines, fontsize=7, color="0.25")
    answers = {"the answer": found.probabilities}
    answers |= {f"without tower {'AB'[t]}": own for t, own in enumerate(found.silenced)}
    for place, (title, probabilities) in enumerate(answers.items()):
        left = GAP + place * (PANEL + GAP)
        shown = best(probabilities)
        top = GAP + below + TITLE
        axes = sheet.bars(left, top, PANEL, probabilities, shown, classes, found.label)
        axes.set_title(title, fontsize=8, fontweight="bold", loc="left", pad=4)
    _activations(sheet, found, layers)
    sheet.text(GAP, end, "\n".join(caption), fontsize=7, color="0.25", linespacing=1.3)
    sheet.save(path)


def _activations(sheet: Sheet, found: Explanation, top: int) -> None:
    """Draws every layer, the towers side by side."""
    towers = len(next(iter(found.activations.values())))
    count = 2 * STRONGEST // towers
    width = count * (MAP + BETWEEN)
    starts = [GAP + BESIDE + tower * (width + GAP) for tower in range(towers)]
    for tower, left in enumerate(starts):
        title = f"tower {'AB'[tower]}" if towers > 1 else "strongest maps, and all units"
        sheet.text(left, top, title, fontsize=8, fontweight="bold")
    top += TITLE
    for name, values in found.activations.items():
        black, white = scale(values)
        tones: dict[str, Any] = {"cmap": "gray", "vmin": black, "vmax": white}
        maps = values[0].ndim == 3
        size = "x".join(map(str, values[0].shape[:2])) if maps else f"{len(values[0])} units"
        sheet.text(GAP, top, name, fontsize=8, fontweight="bold")
        sheet.text(GAP, top + LINE + 1, size, fontsize=7, color="0.25")
        for tower, (left, own) in enumerate(zip(starts, values, strict=True)):
            if maps:
                some = strongest(own, tower, count)
                for place, (number, one) in enumerate(zip(some.numbers, some.maps, strict=True)):
                    axes = sheet.axes(left + place * (MAP + BETWEEN), top, MAP, MAP)
                    axes.imshow(one, interpolation="nearest", aspect="auto", **tones)
                    axes.spines[:].set_visible(False)
                    axes.text(
                        0.03, 0.96, str(number), transform=axes.transAxes, va="top", fontsize=5,
                        color="#ffd27f", bbox=BEHIND,
                    )  # fmt: skip
            else:
                axes = sheet.axes(left, top, width - BETWEEN, UNITS)
                axes.imshow(folded(own), interpolation="nearest", aspect="auto", **tones)
                axes.spines[:].set_visible(False)
        top += (MAP if maps else UNITS) + GAP
