"""The paper's Figure 4: what a network says of test images, and the nearest images by its features.

    python -m experiments.figure4 [--epochs=1]

Trains for one epoch, when the network is still wrong now and then. Draws answers.jpg, what it says
of the first test images of classes that a lot has drawn, by `alexnet_jax.predict`, and
neighbours.jpg, images from all over the test split and those nearest to each, by
`alexnet_jax.features`; figure4.json says how. The run stays in the folder of the results: started
again with the same `--out`, the command resumes where it was stopped.
"""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.settings import read
from experiments.shared import runs
from experiments.shared.command import Flags, Results, add_fields, fields, number, start

ANSWERS = 8  # images
QUERIES = 5  # rows of neighbours
SEED = 2012  # draws the classes


class Chosen(NamedTuple):
    """A test image: its class, and its number in the split."""

    class_name: str
    number: int


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, chooses and draws."""
    flags = Flags("figure4", __doc__)
    flags.add_argument("--config", default="embedded", help="Name or file of the configuration.")
    flags.add_argument("--epochs", type=number(0.0), default=1.0, help="Of the run.")
    add_fields(flags)
    arguments = flags.parse(argv)
    results = Results("figure4", arguments)
    workdir = results.folder / "W"
    assigned = [f"epochs={arguments.epochs:g}", *fields(arguments)]
    training = runs.train(results, workdir.name, arguments.config, assigned)
    data = read(workdir / "config.json").data
    cache = ensure_cache(data.source, data.size, data.dir, data.holdout, data.cache)
    chosen = list(choose(cache, data.test))
    with tempfile.TemporaryDirectory(dir=results.folder) as new:
        files = [save(one, cache, data.test, Path(new)) for one in chosen]
        answers, neighbours = Path(new) / "answers.jpg", Path(new) / "neighbours.jpg"
        asking = ("predict", f"--workdir={workdir}", f"--figure={answers}", *files)
        split, queries = f"--split={data.test}", f"--queries={QUERIES}"
        looking = ("features", f"--workdir={workdir}", split, queries, f"--neighbours={neighbours}")
        for command in (asking, looking):
            runs.call(*command)
        for picture in (answers, neighbours):
            picture.replace(results.path(picture.name))
        lines = [
            runs.line(*command).replace(f"{new}/", "").replace(f"{results.folder}/", "")
            for command in (asking, looking)
        ]
    about = {
        "commands": [training, *lines],
        "split": data.test,
        "chosen": [c._asdict() for c in chosen],
    }
    results.write("figure4.json", results.made_by() | about)
    results.finish()


def choose(cache: Cache, split: str) -> Iterator[Chosen]:
    """Yields the first image of each class, then the second of each and so on, until enough.

    A lot draws the order of the classes, which no answer has a part in.
    """
    labels = np.asarray(cache.labels[split])
    classes = np.random.default_rng(SEED).permutation(np.unique(labels))
    turns = zip_longest(*(np.flatnonzero(labels == label) for label in classes))
    images = (index for turn in turns for index in turn if index is not None)
    for index in islice(images, ANSWERS):
        yield Chosen(cache.class_names[labels[index]], int(index))


def save(one: Chosen, cache: Cache, split: str, folder: Path) -> str:
    """Writes the pixels of an image into the folder of its class; the file's name."""
    path = folder / "images" / one.class_name / f"{one.number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(cache.images[split][one.number])).save(path)
    return str(path)


if __name__ == "__main__":
    start(main)
