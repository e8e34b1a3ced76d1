"""From a run to its report: one test of all images, what is drawn of it, and the files."""

import shlex
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from alexnet_jax.data.photos import printable
from alexnet_jax.evaluation import by_class
from alexnet_jax.evaluation.answers import Answer
from alexnet_jax.evaluation.by_class import Answered, Notes
from alexnet_jax.evaluation.evaluator import Opened, evaluate, open_run, progress
from alexnet_jax.evaluation.neighbours import OfImages
from alexnet_jax.evaluation.scores import Score
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.files import whole
from alexnet_jax.model import make_mesh
from alexnet_jax.pictures import figure4
from alexnet_jax.pictures.confusion import draw_confusions
from alexnet_jax.pictures.curves import FIELDS, draw_curve
from alexnet_jax.pictures.figure4 import Neighbours, Shown, spread
from alexnet_jax.pictures.report.page import Contents, page
from alexnet_jax.run import hosts
from alexnet_jax.run.metrics import read_rows

VIEWS, SEEN = 10, "ten views"  # in which the report is; the total is told in one as well
WORST, ANSWERS, QUERIES = 16, 8, 5  # images that are shown
FILES = (
    "report.html", "classes.csv", "confusion.csv", "confusion.png", "mistakes.csv", "mistakes.png",
)  # fmt: skip


def written(workdir: Path) -> list[Path]:
    """The files of a report. The first has the mark of this program, also for the others."""
    return [workdir / "report" / name for name in FILES]


def report_run(config: ConfigDict, workdir: Path, *, best: bool = False) -> list[Score]:
    """Tests a run as `evaluate_run` does, and writes the report of it into `report/`.

    Args:
        config: of the run.
        workdir: of the run. An older report there is replaced.
        best: the checkpoint with the lowest validation error instead of the last.

    Raises:
        UserError: see `open_run`.
    """
    run = open_run(config, workdir, best=best)
    notes = Notes(VIEWS)
    scores = evaluate(run, notes)
    variables = jax.tree.map(hosts.whole, run.variables)
    with hosts.together():
        if hosts.first():
            # From here on this process is alone, with its own devices.
            mesh = make_mesh(0, 1, devices=jax.local_devices())
            network = TrainedNetwork(
                str(workdir),
                config,
                mesh,
                jax.device_put(variables, NamedSharding(mesh, PartitionSpec())),
                run.mean_image,
                run.class_names,
                run.record["step"],
            )
            write(workdir, files(run, network, scores, notes.answered(), best))
    return scores


def write(workdir: Path, contents: dict[str, bytes]) -> None:
    """Writes the files, the page first, which says whose they all are, and removes those of an
    older report that this one does not have."""
    (workdir / "report").mkdir(exist_ok=True)
    for path in written(workdir):
        if path.name in contents:
            with whole(path, replace=True) as file:
                file.write(contents[path.name])
        else:
            path.unlink(missing_ok=True)
    page_, *others = contents
    print(f"report: {workdir / 'report' / page_}\nbeside it: {', '.join(others)}")


def files(
    run: Opened, network: TrainedNetwork, scores: Sequence[Score], answered: Answered, best: bool
) -> dict[str, bytes]:
    """The contents of each file."""
    split = run.config.data.test
    names = told_apart(run.class_names, network.classes)
    counts = by_class.confusions(answered, len(names))
    found = by_class.by_class(answered, counts)
    images = by_class.image_names(run.cache, split)
    worst = shown(run, network, images, answered.mistakes[:WORST].tolist())
    net = network.viewer.model.network
    *_, layer = [*net.convolutions(), *net.hidden()]
    contents = {
        "classes.csv": by_class.classes_csv(found, run.class_names, network.classes, VIEWS),
        "confusion.csv": by_class.confusion_csv(counts, run.class_names),
        "mistakes.csv": by_class.mistakes_csv(answered, run.class_names, images),
    }
    rows = read_rows(run.workdir / "metrics.jsonl")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        draw_confusions(counts, names, place / "confusion.png", SEEN)
        if worst:
            figure4.draw_answers(worst, names, place / "mistakes.png")
        contents |= {path.name: path.read_bytes() for path in place.iterdir()}
        curves = {}
        if rows:
            for field in FIELDS:
                curves[field] = draw_curve(rows, field, place / f"{field}.png").read_bytes()
    text = page(
        Contents(
            run=run,
            network=network,
            best=best,
            names=names,
            scores=scores,
            counts=counts,
            found=found,
            confusion=contents["confusion.png"],
            mistakes=worst,
            curves=curves,
            answers=shown(run, network, images, spread(ANSWERS, len(images))),
            layer=layer,
            neighbours=neighbours(run, network, names, layer),
            command=shlex.join(
                ["python", "-m", "alexnet_jax.main", f"--workdir={run.workdir}", "--mode=evaluate"]
                + ["--best"] * best
                + ["--report"]
            ),
        )
    )
    return {"report.html": text.encode()} | dict(sorted(contents.items()))


def told_apart(class_names: Sequence[str], words: Sequence[str]) -> list[str]:
    """The words of each class, with its name where others share them, as two of ImageNet's do."""
    count = Counter(words)
    pairs = zip(class_names, words, strict=True)
    return [printable(f"{word} ({name})" if count[word] > 1 else word) for name, word in pairs]


def shown(
    run: Opened, network: TrainedNetwork, names: Sequence[str], numbers: Sequence[int]
) -> list[Answer]:
    """Some images of the split with their answers in ten views."""
    if not numbers:
        return []
    split = run.config.data.test
    pictures = np.stack([np.asarray(run.cache.images[split][number]) for number in numbers])
    rows = zip(numbers, pictures, network.predict(pictures, ten_views=VIEWS > 1), strict=True)
    labels = run.cache.labels[split]
    return [Answer(names[i], "", picture, row, int(labels[i])) for i, picture, row in rows]


def neighbours(
    run: Opened, network: TrainedNetwork, names: Sequence[str], layer: str
) -> list[Neighbours]:
    """Images from all over the split, each with those of the others that are nearest by what a
    layer says of them in one view; none of a single image."""
    split = run.config.data.test
    images, labels = run.cache.images[split], run.cache.labels[split]

    def show(number: int) -> Shown:
        label = int(labels[number])
        return Shown(np.asarray(images[number]), names[label], label)

    if len(images) < 2:
        return []
    with progress(len(images)) as bar:
        features = OfImages(network, network.stage(layer), images, bar.update)
        return figure4.neighbours(features, spread(QUERIES, len(images)), show)
