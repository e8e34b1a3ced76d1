"""Do the maps that explain an answer find the object? Where it lies is known in the embedded set.

    python -m experiments.why [--images=100]

Trains the embedded run for two epochs, and explains its answers for test images: the first that it
answers rightly of the easy look, of the hard one, half of whose objects are small and partly
hidden, and of those of the hard ones whose object does not lie over the middle. It plays the
pointing game (Zhang and others 2016, arXiv:1608.00507): does the most telling place of a map lie in
the object's box? What that is worth is told by three others: a place drawn blindly, the same places
in the boxes of the other images, and the middle of the view. The same network with drawn weights is
a control, on the same images and classes: a map that finds the object without what was learned
finds edges (Adebayo and others 2018, arXiv:1810.03292), and whether it finds it less often is
tested image by image (McNemar). Writes why.json, why.md and why.png, an explanation. The run stays
in the folder of the results: started again with the same `--out`, the command resumes.
"""

import argparse
import copy
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from scipy import stats

import alexnet_jax
from alexnet_jax.data.sources import dead_leaves, embedded
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.scores import interval
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.evaluation.why import Explanation, Occlusion, explain
from alexnet_jax.pictures import why as drawing
from experiments.shared import machine, runs
from experiments.shared.command import Flags, Results, add_fields, fields, number, start
from experiments.shared.tables import table

SPLIT = "test"
MAPS = ("occlusion", "saliency", "saliency in squares")
KINDS = {"easy": "easy", "hard": "hard", "hard, beside the middle": "hard"}  # and their looks
SOURCES = {"easy": "embedded", "hard": "embedded/hard"}  # of the looks
TRAINED, DRAWN = "trained", "drawn weights"
PATIENCE = 100  # images that are looked through for one
HEAD = (
    "network", "objects", "images", "map", "finds it", "blindly", "others' boxes", "the middle",
    "more than with drawn weights",
)  # fmt: skip


class Game(NamedTuple):
    """How often a map's most telling place lies in the object's box.

    Attributes:
        images: that were looked at.
        found: the share of those where it does.
        low, high: the 95% interval of that (Wilson).
        blindly: the mean share of the places that the map could have told of, in the box.
        others: how often the places lie in the box of another image, over all pairs of images.
        middle: how often the middle of the view lies in the box.
        hits: whether it does, of each image.
    """

    images: int
    found: float
    low: float
    high: float
    blindly: float
    others: float
    middle: float
    hits: list[bool]


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, explains and counts."""
    flags = Flags("why", __doc__)
    flags.add_argument("--config", default="embedded", help="Name or file of the configuration.")
    flags.add_argument("--epochs", type=number(0.0), default=2.0, help="Of the run.")
    flags.add_argument("--images", type=number(2), default=100, help="Of each kind.")
    add_fields(flags)
    arguments = flags.parse(argv)
    results = Results("why", arguments)
    assigned = [f"epochs={arguments.epochs:g}", *fields(arguments)]
    training = runs.train(results, "W", arguments.config, assigned)
    trained = alexnet_jax.load(results.folder / "W")
    rows = play(trained, arguments, results)
    of = {look: embedded.full_name(source) for look, source in SOURCES.items()}
    found = results.made_by() | {
        "commands": [training],
        "split": SPLIT,
        "images": of,
        "games": rows,
    }
    results.write("why.json", found)
    results.write_page("why.md", page(found))
    results.finish()


def play(
    trained: TrainedNetwork, arguments: argparse.Namespace, results: Results
) -> list[dict[str, Any]]:
    """Plays with both networks and all kinds of images, and draws one explanation."""
    networks = {TRAINED: trained, DRAWN: untrained(trained)}
    rows = []
    for kind in KINDS:
        images = list(islice(right(trained, kind, PATIENCE * arguments.images), arguments.images))
        if len(images) < 2:
            raise UserError(f"{kind}: hardly an image is answered rightly; train longer (--epochs)")
        boxes = np.array([image.box for image in images])
        numbers = [image.number for image in images]
        for name, network in networks.items():
            shown = tqdm.tqdm(images, f"{kind}, {name}")
            found = [explain(network, image.picture, image.label) for image in shown]
            for which in MAPS:
                row = {"network": name, "objects": kind, "map": which, "numbers": numbers}
                rows.append(row | game(found, boxes, which)._asdict())
            if len(rows) == len(MAPS):  # the first
                title = f"test image {images[0].number}"
                drawing.draw(found[0], network.classes, title, results.path("why.png"))
    return rows


class Known(NamedTuple):
    """An image whose object's place is known.

    Attributes:
        number: in the split.
        picture: (S, S, 3) uint8.
        label: of its class.
        box: of the object, see `box_in_view`.
    """

    number: int
    picture: np.ndarray
    label: int
    box: np.ndarray


def right(network: TrainedNetwork, kind: str, most: int) -> Iterator[Known]:
    """Yields the test images of a kind that the network answers rightly, of the first `most`."""
    look, middle = KINDS[kind], np.array([network.viewer.crop / 2] * 2)
    for index in range(most):
        box = box_in_view(network, dead_leaves.drawing(SPLIT, index, look))
        if kind != look and inside(middle, box):
            continue
        (picture,) = network.pictures(dead_leaves.encode(SPLIT, index, look))
        label = dead_leaves.label_of(index)
        if network.predict(picture)[0].argmax() == label:
            yield Known(index, picture, label, box)


def untrained(network: TrainedNetwork) -> TrainedNetwork:
    """The same network with the weights that a run would start from, of another seed."""
    model = network.viewer.model
    size = model.network.input_size
    drawn = jax.jit(model.init)(jax.random.key(1), np.zeros((1, size, size, 3), np.float32))
    other = copy.copy(network)
    other.variables = {**network.variables, "params": drawn["params"]}
    return other


def box_in_view(network: TrainedNetwork, drawn: dead_leaves.Drawing) -> np.ndarray:
    """The object's box [[left, top], [right, bottom]] in what the network sees, pixels from its top
    left corner; what lies beyond its borders is cut off."""
    height, width = drawn.picture.shape[:2]
    side = min(height, width)
    corner = np.array([(width - side) // 2, (height - side) // 2])
    in_square = (drawn.box - corner) * (network.size / side)
    return np.clip(in_square - network.viewer.views[0].top, 0, network.viewer.crop)


def place_of(found: Explanation, which: str) -> tuple[float, float]:
    """The most telling place of a map: pixels from the left and from the top."""
    if which != "saliency":
        square = found.occlusion
        if which != "occlusion":
            square = square._replace(probabilities=-in_squares(found.saliency, square))
        down, across = square.place
        return across, down
    row, column = np.unravel_index(found.saliency.argmax(), found.saliency.shape)
    return float(column) + 0.5, float(row) + 0.5


def in_squares(saliency: np.ndarray, square: Occlusion) -> np.ndarray:
    """The sum of a map over each of the grey squares, (P, P): one pixel alone is noisy."""
    side = square.side
    return np.array([
        [saliency[top : top + side, left : left + side].sum() for left in square.starts]
        for top in square.starts
    ])  # fmt: skip


def possible(found: Explanation, which: str) -> np.ndarray:
    """All distances from the left, or from the top, of the places that a map could tell of."""
    if which != "saliency":
        return found.occlusion.starts + found.occlusion.side / 2
    return np.arange(len(found.saliency)) + 0.5


def game(found: Sequence[Explanation], boxes: np.ndarray, which: str) -> Game:
    """Counts for one of the maps.

    Args:
        found: of some images.
        boxes: of their objects, (N, 2, 2), see `box_in_view`.
        which: of `MAPS`.
    """
    places = np.array([place_of(one, which) for one in found])
    within = inside(places[:, None], boxes[None])  # (places, boxes)
    count = len(found)
    hits = float(np.diag(within).mean())
    others = float((within.sum() - np.diag(within).sum()) / (count * (count - 1)))
    grid = possible(found[0], which)
    every = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 1, 2)
    middle = np.array([len(found[0].seen) / 2] * 2)
    return Game(
        count,
        hits,
        *interval(hits, count),
        float(inside(every, boxes[None]).mean()),
        others,
        float(inside(middle, boxes).mean()),
        np.diag(within).tolist(),
    )


def inside(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether places (..., 2) lie in boxes (..., 2, 2)."""
    return ((places >= boxes[..., 0, :]) & (places < boxes[..., 1, :])).all(axis=-1)


def against_drawn(row: dict[str, Any], games: Sequence[dict[str, Any]]) -> str:
    """How many more images the trained network's map finds the object in than that of drawn
    weights, and the exact p of McNemar's test: '+9.0, p = 0.25'."""
    if row["network"] != TRAINED:
        return ""
    (other,) = (
        game
        for game in games
        if (game["network"], game["objects"], game["map"]) == (DRAWN, row["objects"], row["map"])
    )
    pairs = list(zip(row["hits"], other["hits"], strict=True))
    more, less = pairs.count((True, False)), pairs.count((False, True))
    p = stats.binomtest(more, more + less).pvalue if more + less else 1.0
    return f"{100 * (more - less) / len(pairs):+.1f}, p = {p:.2g}"


def page(found: dict[str, Any]) -> str:
    """The result, to be read."""
    rows = [
        (
            row["network"],
            row["objects"],
            f"{row['images']:,}",
            row["map"],
            f"{row['found']:.1%} ({100 * row['low']:.1f}-{100 * row['high']:.1f})",
            *(f"{row[name]:.1%}" for name in ("blindly", "others", "middle")),
            against_drawn(row, found["games"]),
        )
        for row in found["games"]
    ]
    return "\n\n".join([
        "# Do the maps find the object?",
        machine.made_by(found, ("jax",)),
        "How often the most telling place of a map lies in the box of the object, with its 95% "
        "interval over images; the mean share of the box in all places that the map could have "
        "told of; how often the same places lie in the boxes of other images; how often the middle "
        "of the view lies in the box; and in how many more images, in points, the map of the "
        "trained network finds it than that of drawn weights, with McNemar's exact p. One network "
        "of each, on images that the trained one answers rightly, drawn as the test images of "
        f"`{found['images']['easy']}` and `{found['images']['hard']}` are, and as many more as it "
        "takes.",
        table(HEAD, rows, names=2),
        "![An explanation](why.png)\n",
    ])  # fmt: skip


if __name__ == "__main__":
    start(main)
