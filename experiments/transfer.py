"""What a start from another network's weights is worth where there are few images.

    python -m experiments.transfer

The embedded dataset has five patterns in four hues. A network is trained on the ten red and yellow
classes, with all their images. Another network then learns the ten green and blue ones from ten
images each, once from drawn weights and once from those of the first (`--config.init_from`), in the
same number of steps, each at the learning rate of a run from scratch and at a tenth of it, as in
2012. A seed draws the weights, the order and the few images. Every run is a process of its own, as
a user would start it.

Into `experiments/results/transfer/` go `summary.json`, `transfer.md` and `output.txt`, what a
fine-tuning printed.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from alexnet_jax.data.cache import Cache, ensure_cache
from alexnet_jax.data.preparation import make_cache
from alexnet_jax.data.records import Record, Source
from experiments.shared import machine

FLAGS = flags.FLAGS
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
flags.DEFINE_integer("per_class", 10, "Training images of each class to be learned from few.")
flags.DEFINE_string("out", None, "Where to write; experiments/results/transfer by default.")

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


def main(_: list[str]) -> None:
    """Runs all seeds, and writes after each."""
    out = Path(FLAGS.out or Path(__file__).parent / "results" / "transfer")
    out.mkdir(parents=True, exist_ok=True)
    whole = ensure_cache("embedded", 128)
    start = time.perf_counter()
    runs: list[dict[str, Any]] = []
    seeds = [int(seed) for seed in FLAGS.seeds]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as place:
            for done, printed in runs_of(seed, whole, Path(place)):
                runs.append({"seed": seed, **done})
                print(json.dumps(runs[-1]), flush=True)
                if done["start"] == "taken" and seed == seeds[0]:
                    (out / "output.txt").write_text(printed.replace(place, "DIR"))
        summary = {
            "command": " ".join(["python -m experiments.transfer", *sys.argv[1:]]),
            "machine": machine.describe(),
            "seconds": round(time.perf_counter() - start),
            "images_per_class": FLAGS.per_class,
            "settings": {"first": FIRST, "then": THEN, "rates": RATES},
            "runs": runs,
        }
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        (out / "transfer.md").write_text(table(summary))
    print(f"\n{table(summary)}")


def runs_of(seed: int, whole: Cache, place: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields what each run of a seed came to, and what it printed."""
    make_cache(half(whole, KNOWN, None, seed), whole.size, str(place / "known"))
    make_cache(half(whole, NEW, FLAGS.per_class, seed), whole.size, str(place / "few"))
    yield run("first", place / "first", place / "known", seed, *FIRST)
    for rate in RATES:
        for start in STARTS:
            from_first = [f"init_from={place / 'first'}"] * (start == "taken")
            settings = (*THEN, f"optim.learning_rate={rate}", *from_first)
            done, printed = run(start, place / f"{start}-{rate}", place / "few", seed, *settings)
            yield {**done, "rate": rate}, printed


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


def run(
    start: str, workdir: Path, cache: Path, seed: int, *fields: str
) -> tuple[dict[str, Any], str]:
    """One run of `alexnet_jax.main`: its errors and losses, and what it printed."""
    common = (f"data.cache={cache}", "data.validation=", "model.classes=10", f"seed={seed}")
    flags_ = [f"--config.{field}" for field in (*common, *fields)]
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=embedded"]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, f"--workdir={workdir}", *flags_],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{start}, seed {seed}, failed:\n{done.stdout}")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    test = {row["views"]: row for row in rows if row["split"] == "test"}
    training = [row for row in rows if row["split"] == "train"]
    found = {
        "start": start,
        "seconds": round(time.perf_counter() - begin, 1),
        "steps": training[-1]["step"],
        "test_images": test[10]["examples"],
        "top1_error_one_view": test[1]["top1_error"],
        "top1_error_ten_views": test[10]["top1_error"],
        "test_loss_ten_views": test[10]["loss"],
        "training_loss_at_the_end": training[-1]["loss"],
    }
    return found, done.stdout


def table(summary: dict[str, Any]) -> str:
    """The errors on the new classes, by start and rate."""
    seeds = list(dict.fromkeys(run["seed"] for run in summary["runs"]))
    columns = [*(f"seed {seed}" for seed in seeds), "mean", "mean loss"]
    head = ["starts from", "learning rate", *columns]
    lines = [head, ["---", "---:", *["---:"] * len(columns)]]
    for start, words in STARTS.items():
        for rate in RATES:
            found = [r for r in summary["runs"] if r["start"] == start and r["rate"] == rate]
            errors = [100 * r["top1_error_ten_views"] for r in found]
            cells = [f"{error:.1f}%" for error in (*errors, sum(errors) / len(errors))]
            loss = sum(r["test_loss_ten_views"] for r in found) / len(found)
            lines.append([words, f"{rate:g}", *cells, f"{loss:.2f}"])
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    last, where = summary["runs"][-1], summary["machine"]
    first = [f"{r['top1_error_ten_views']:.1%}" for r in summary["runs"] if r["start"] == "first"]
    return f"""# A start from another network's weights

{rows}

Top-1 error and loss in ten views of {last["test_images"]:,} test images of the ten green and
blue classes, after {last["steps"]} steps on {summary["images_per_class"]} training images of each;
chance is 90%. The other network had learned the ten red and yellow classes from 300 images of each
(its own errors there: {", ".join(first)}). The settings were chosen beforehand; no others were run.

Made by `{summary["command"]}` in {summary["seconds"]} s on {where["cores"]} cores
({where["processor"]}, Python {where["python"]}, jax {where["packages"]["jax"]}, commit
{where["commit"]}; the machine had other work to do as well).
"""


if __name__ == "__main__":
    app.run(main)
