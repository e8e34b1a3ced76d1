"""What a start from another network's weights is worth where there are few images.

    python -m experiments.transfer [--seeds=0,1,2] [--per_class=10]

The embedded dataset has five patterns in four hues. A network is trained on the ten red and yellow
classes, with all their images. Another network then learns the ten green and blue ones from ten
images each, once from drawn weights and once from those of the first (`--config.init_from`), in the
same number of steps, each at the learning rate of a run from scratch and at a tenth of it, as in
2012. A seed draws the weights, the order and the few images. Every run is a process of its own, as
a user would start it. Writes summary.json, transfer.md, the page that is printed, and output.txt,
what a fine-tuning printed.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data.cache.building import make_cache
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.data.sources.record import Record, Source
from experiments.shared import runs
from experiments.shared.command import Flags, Results, listing, number, start
from experiments.shared.machine import made_by
from experiments.shared.tables import table

Row = dict[str, Any]

KNOWN, NEW = range(10), range(10, 20)  # classes: red and yellow; green and blue
FIRST = ("epochs=3",)  # 141 steps of 64 images
THEN = ("epochs=60", "batch_size=50")  # 120 steps
RATES = (0.01, 0.001)
STARTS = {"drawn": "drawn weights", "taken": "the other network's"}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Some images of a split of a cache, with their labels counted from a class on."""

    cache: Cache
    split: str
    indices: np.ndarray
    first_class: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        here = int(self.indices[index])
        label = int(self.cache.labels[self.split][here]) - self.first_class
        return Record(f"{self.split} {here}", label, self.cache.images[self.split][here])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all seeds, and writes after each."""
    flags = Flags("transfer", __doc__)
    flags.add_argument("--seeds", type=listing(int), default="0,1,2", help="Five runs each.")
    flags.add_argument(
        "--per_class", type=number(5), default=10, help="Training images of each new class."
    )
    arguments = flags.parse(argv)
    results = Results("transfer", arguments)
    whole = ensure_cache("embedded", 128)
    begin = time.perf_counter()
    found: list[Row] = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as place:
            for row, printed in runs_of(seed, whole, arguments.per_class, Path(place)):
                found.append({"seed": seed, **row})
                print(json.dumps(found[-1]), flush=True)
                if row["start"] == "taken" and "output.txt" not in results.names:
                    results.write("output.txt", printed.replace(place, "DIR"))
        summary = results.made_by() | {
            "seconds": round(time.perf_counter() - begin),
            "images_per_class": arguments.per_class,
            "settings": {"first": FIRST, "then": THEN, "rates": RATES},
            "runs": found,
        }
        results.write("summary.json", summary)
        results.write("transfer.md", report(summary))
    print(f"\n{report(summary)}")
    results.finish()


def runs_of(seed: int, whole: Cache, per_class: int, place: Path) -> Iterator[tuple[Row, str]]:
    """Yields what each run of a seed came to, and what it printed."""
    make_cache(half(whole, KNOWN, None, seed), whole.size, str(place / "known"))
    make_cache(half(whole, NEW, per_class, seed), whole.size, str(place / "few"))
    yield run("first", place / "first", place / "known", seed, *FIRST)
    for rate in RATES:
        for begins in STARTS:
            from_first = [f"init_from={place / 'first'}"] * (begins == "taken")
            settings = (*THEN, f"optim.learning_rate={rate}", *from_first)
            row, printed = run(begins, place / f"{begins}-{rate}", place / "few", seed, *settings)
            yield {**row, "rate": rate}, printed


def half(whole: Cache, classes: range, per_class: int | None, seed: int) -> Source:
    """The images of some classes; if asked, only a few for training, which the seed draws."""
    splits = {}
    for split in ("train", "test"):
        labels = np.asarray(whole.labels[split])
        order = np.random.default_rng(seed).permutation(len(labels))
        wanted = per_class if split == "train" else None
        each = [order[labels[order] == label][:wanted] for label in classes]
        splits[split] = Chosen(whole, split, np.sort(np.concatenate(each)), classes[0])
    names = whole.class_names[classes[0] : classes[-1] + 1]
    return Source("embedded, half", names, splits, f"{whole.fingerprint} {classes} {per_class}")


def run(begins: str, workdir: Path, cache: Path, seed: int, *fields: str) -> tuple[Row, str]:
    """One run of `alexnet_jax.main`: its errors and losses, and what it printed."""
    common = (f"data.cache={cache}", "data.validation=", "model.classes=10", f"seed={seed}")
    started = time.perf_counter()
    printed = runs.call(*runs.training(workdir, "embedded", (*common, *fields)))
    seconds = round(time.perf_counter() - started, 1)
    test = {row["views"]: row for row in runs.metrics(workdir, "test")}
    training = runs.metrics(workdir, "train")
    found = {
        "start": begins,
        "seconds": seconds,
        "steps": training[-1]["step"],
        "test_images": test[10]["examples"],
        "top1_error_one_view": test[1]["top1_error"],
        "top1_error_ten_views": test[10]["top1_error"],
        "test_loss_ten_views": test[10]["loss"],
        "training_loss_at_the_end": training[-1]["loss"],
    }
    return found, printed


def report(summary: Row) -> str:
    """The Markdown page of what stands in the JSON file."""
    last = summary["runs"][-1]
    first = [f"{r['top1_error_ten_views']:.1%}" for r in summary["runs"] if r["start"] == "first"]
    return f"""# A start from another network's weights

{errors(summary["runs"])}

Top-1 error and loss in ten views of {last["test_images"]:,} test images of the ten green and
blue classes, after {last["steps"]} steps on {summary["images_per_class"]} training images of each;
chance is 90%. The other network had learned the ten red and yellow classes from 300 images of each
(its own errors there: {", ".join(first)}). The settings were chosen beforehand; no others were run.

{made_by(summary, ["jax"])} {summary["seconds"]:,} s.
"""


def errors(rows: Sequence[Row]) -> str:
    """The table of the errors on the new classes, by start and learning rate."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    head = [
        "starts from",
        "learning rate",
        *(f"seed {seed}" for seed in seeds),
        "mean",
        "mean loss",
    ]
    lines = []
    for begins, words in STARTS.items():
        for rate in RATES:
            found = [r for r in rows if r["start"] == begins and r["rate"] == rate]
            each = [r["top1_error_ten_views"] for r in found]
            cells = [f"{error:.1%}" for error in (*each, sum(each) / len(each))]
            loss = sum(r["test_loss_ten_views"] for r in found) / len(found)
            lines.append([words, f"{rate:g}", *cells, f"{loss:.2f}"])
    return table(head, lines)


if __name__ == "__main__":
    start(main)
