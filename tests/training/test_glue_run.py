"""`train` and `evaluate_run` put the parts together as the preset says: a run of four steps beside
`glue_reference`, its scores, and the activations' type."""

import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import data_fixtures
import glue_reference as expected
import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
import run_fixtures
from glue_reference import Params, Rates, each
from ml_collections import ConfigDict

from alexnet_jax import load, settings
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.dataset import ensure_cache
from alexnet_jax.errors import ConfigError, UserError
from alexnet_jax.evaluation.evaluator import evaluate_run
from alexnet_jax.evaluation.scores import Score
from alexnet_jax.model import make_mesh
from alexnet_jax.run.parts import build
from alexnet_jax.training import session
from alexnet_jax.training.loop import input_stream
from alexnet_jax.training.session import train
from alexnet_jax.training.step import dropout_key, initial_state
from alexnet_jax.training.update_rule import update_rule

CLASSES = ("ant", "bee", "cat", "dog")
STEPS = 4  # of a run
# Of weights, biases and conv1's weights, step by step; the plateau rule comes on top in `paper`.
RATES = {
    "reconciled": [
        Rates(0.01 / 10**drops, 0.02 / 10**drops, 0.01 / 10**drops) for drops in range(4)
    ],
    "paper": [Rates(0.01, 0.01, 0.01)] * STEPS,
    "source": [
        Rates(0.01, 0.02, 0.01),
        Rates(1e-3, 0.02, 1e-3),
        Rates(1e-4, 0.02, 1e-4),
        Rates(1e-5, 0.02, 1e-5),
    ],
}
DIVISORS = dict.fromkeys(RATES, [1.0] * STEPS) | {"source": [1.1, 1.1, 1.1, 1.0]}


class Run(NamedTuple):
    """A run of four steps, and what it was told."""

    config: ConfigDict
    workdir: Path
    cache: Cache
    scores: list[Score]

    @property
    def aligned(self) -> bool:
        """Whether the mean is subtracted where the crop was."""
        return self.config.preset == "paper"

    def params(self) -> Params:
        """Of the last checkpoint, in float64."""
        arrays = run_fixtures.arrays(self.workdir / f"checkpoints/{STEPS}")
        found: Params = {}
        for name, array in arrays.items():
            if name.startswith("model/params."):
                _, layer, kind = name.split(".")
                found.setdefault(layer, {})[kind] = array.astype(np.float64)
        return found


@pytest.fixture(scope="module", params=list(RATES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """16 images to train on, and 12 each to validate and to test with."""
    root = tmp_path_factory.mktemp(request.param)
    data_fixtures.write_folder(root / "images", {"train": 4, "val": 3, "test": 3}, CLASSES)
    config = configuration(root, request.param)
    cache = ensure_cache(config.data.source, config.data.size, config.data.dir)
    return Run(config, root / "run", cache, train(config, root / "run"))


def configuration(root: Path, preset: str = "reconciled", *assignments: str) -> ConfigDict:
    """Two epochs of the images in a folder, and a validation after every step."""
    fields = (
        f"data.source=folder:{root}/images", f"data.dir={root}", f"data.size={expected.SIZE}",
        "data.test=test", "batch_size=8", "epochs=2", "eval_every=0.5", "optim.patience=1",
        "eval_batch_size=8", "seed=7", "mesh.data=1", "mesh.tower=2",
    )  # fmt: skip
    network = expected.network(classes=len(CLASSES))
    return fixtures.small_config(*fields, *assignments, network=network, preset=preset)


def test_four_steps(run: Run) -> None:
    """From the initial weights to the last checkpoint. In `paper` every validation that is no
    better than the best divides the rate by 10."""
    config, mesh, model = run.config, *build(run.config)[1:]
    stream = iter(input_stream(config, run.cache, model.network, mesh, STEPS))
    state = initial_state(model, update_rule(config.optim, STEPS), config.seed)
    before = params = each(np.float64, jax.device_get(state.params))
    velocity = each(np.zeros_like, params)
    best, factors = np.inf, [1.0]
    for step, (rates, divisor) in enumerate(
        zip(RATES[config.preset], DIVISORS[config.preset], strict=True)
    ):
        batch = jax.device_get(next(stream))
        images = expected.network_input(
            batch, run.cache.mean_image, aligned=run.aligned, divisor=divisor
        )
        masks = model.dropout_masks(dropout_key(config.seed, step), 8)
        _, gradients = expected.loss_and_gradients(params, images, batch["label"], masks)
        scaled = Rates(*(factors[-1] * rate for rate in rates))
        params, velocity = expected.update(params, velocity, gradients, scaled)
        (_, error), _ = scores(run, params, "validation", run.aligned)
        stalled = config.preset == "paper" and error >= best
        factors.append(factors[-1] / 10 if stalled else factors[-1])
        best = min(best, error)
    stream.close()
    assert (factors[STEPS - 1] < 1) == (config.preset == "paper")
    found, wanted = (each(np.subtract, after, before) for after in (run.params(), params))
    assert fixtures.difference(found, wanted) < 1e-4


def scores(run: Run, params: Params, split: str, aligned: bool) -> list[tuple[float, float]]:
    """Loss and top-1 error of a network, in one view and in ten."""
    images, labels = np.asarray(run.cache.images[split]), run.cache.labels[split]
    views = expected.ten_views(images, run.cache.mean_image, aligned=aligned)
    seen = [expected.softmax(expected.logits(params, view)) for view in views]
    found = []
    for count in (1, 10):
        mean = np.mean(seen[:count], axis=0)
        loss = -np.log(mean[np.arange(len(labels)), labels]).mean()
        found.append((loss, float(np.mean(mean.argmax(1) != labels))))
    return found


def test_scores(run: Run) -> None:
    """What `train` returns and validates by, and afterwards `evaluate_run` and `load`, subtract the
    mean as the preset says."""
    params = run.params()
    wanted, other = (scores(run, params, "test", a) for a in (run.aligned, not run.aligned))
    assert abs(wanted[1][0] / other[1][0] - 1) > 1e-3, "nothing compared"
    again = evaluate_run(run.config, run.workdir)
    for found in (run.scores, again):
        assert [score.views for score in found] == [1, 10]
        assert [(score.loss, score.top1_error) for score in found] == [
            pytest.approx(pair, rel=1e-5) for pair in wanted
        ]
    images, labels = run.cache.images["test"], run.cache.labels["test"]
    loaded = load(run.workdir, mesh=make_mesh(1, 2)).predict(np.asarray(images), ten_views=True)
    loss = -np.log(loaded[np.arange(len(labels)), labels]).mean()
    assert loss == pytest.approx(wanted[1][0], rel=1e-5)
    *_, row = (row for row in run_fixtures.rows(run.workdir) if row["split"] == "validation")
    (loss, error), _ = scores(run, params, "validation", run.aligned)
    assert (row["loss"], row["top1_error"]) == pytest.approx((loss, error), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_type_of_the_activations(tmp_path: Path, dtype: str) -> None:
    """`config.dtype` reaches every layer; parameters and logits are float32 all the same."""
    data_fixtures.write_folder(tmp_path / "images", {"train": 2, "val": 1, "test": 1}, CLASSES)
    model = build(configuration(tmp_path, "reconciled", f"dtype={dtype}")).model
    images = jnp.zeros((2, expected.CROP, expected.CROP, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    look = functools.partial(model.apply, intermediates=True)
    logits, stages = jax.eval_shape(look, variables, images)
    types = {name: stage.dtype.name for name, stage in stages.items()}
    assert types == dict.fromkeys(stages, dtype) | {"fc8": "float32"}
    assert logits.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


def test_a_layer_decays_and_learns_by_its_own_in_a_run(tmp_path: Path) -> None:
    """After one step the same weights of fc8 differ by the decay that one of two runs has not, and
    those of fc6, whose biases move, are what they were; which layers are frozen the model knows."""
    data_fixtures.write_folder(tmp_path / "images", {"train": 2, "val": 1, "test": 1}, CLASSES)
    kernels = []
    for decay in (0.0, 1000.0):
        fields = ("epochs=1", "optim.drops=()", f"model.fc8_decay={decay}", "model.fc6.rate=0")
        config = configuration(tmp_path, "reconciled", *fields)
        train(config, tmp_path / f"run{decay:g}")
        arrays = run_fixtures.arrays(tmp_path / f"run{decay:g}/checkpoints/1")
        kernels.append(arrays["model/params.fc8.kernel"].astype(np.float64))
    model = build(config).model
    optimizer = update_rule(config.optim, 1)
    first = jax.device_get(initial_state(model, optimizer, config.seed).params)
    shrunk = 0.01 * 0.0005 * 1000 * first["fc8"]["kernel"].astype(np.float64)
    assert fixtures.difference(kernels[0] - kernels[1], shrunk) < 1e-3
    np.testing.assert_array_equal(arrays["model/params.fc6.kernel"], first["fc6"]["kernel"])
    assert np.any(arrays["model/params.fc6.bias"] != first["fc6"]["bias"])
    config.optim.rates.conv1 = 0.0
    assert build(config).model.frozen == ("conv1",)


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data_fixtures.write_folder(tmp_path / "images", {"train": 3, "val": 1, "test": 1}, CLASSES)
    config = configuration(
        tmp_path, "reconciled", "batch_size=9", "mesh.data=2", "mesh.tower=1", "eval_batch_size=2"
    )
    with pytest.raises(ConfigError, match=r"batch_size=9 does not divide over the data axis"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("run", ["reconciled"], indirect=True)
def test_a_run_that_is_complete_and_then_goes_on(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked again, it trains nothing; asked for half an epoch more, it makes one step."""
    workdir = tmp_path / "run"
    shutil.copytree(run.workdir, workdir)
    pictures = [workdir / "figures" / name for name in ("conv1.png", "curves.png")]
    for picture in pictures:
        picture.unlink()
    before = {name: (workdir / name).read_bytes() for name in ("config.json", "metrics.jsonl")}
    with monkeypatch.context() as nothing_to_save:
        nothing_to_save.setattr(session.Checkpoints, "prepare_to_save", None)
        assert train(run.config, workdir) == run.scores
    assert "this run is complete: 4 steps" in capsys.readouterr().out
    assert before == {name: (workdir / name).read_bytes() for name in before}
    assert all(picture.stat().st_size > 1000 for picture in pictures)

    longer = settings.override(run.config, ["epochs=2.5"])
    scores = train(longer, workdir)
    printed = capsys.readouterr().out
    assert "resuming from the checkpoint of step 4\n" in printed
    assert "testing 12 images in one view and in ten\n" in printed
    assert [score.examples for score in scores] == [12, 12] and scores != run.scores
    assert settings.read(workdir / "config.json").epochs == 2.5
    text = (workdir / "metrics.jsonl").read_text()
    assert text.startswith(before["metrics.jsonl"].decode())
    steps = [(row["split"], row["step"]) for row in run_fixtures.rows(workdir)][-4:]
    assert steps == [("train", 5), ("validation", 5), ("test", 5), ("test", 5)]
    assert run_fixtures.checkpoint_steps(workdir)[-1] == 5


@pytest.mark.parametrize("run", ["reconciled"], indirect=True)
def test_metrics_that_cannot_be_written_are_noticed_before_anything_changes(
    run: Run, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(run.workdir, workdir)
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.jsonl").symlink_to("metrics.jsonl")
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"could not write to .*metrics\.jsonl"):
        train(settings.override(run.config, ["epochs=2.5"]), workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_two_starts_at_once_compare_with_the_first_one_s_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written while the second one was opening its data."""
    data_fixtures.write_folder(tmp_path / "images", {"train": 4, "val": 3, "test": 3}, CLASSES)
    config = configuration(tmp_path)
    opened = session.build

    def build_and_be_late(config: ConfigDict) -> object:
        found = opened(config)
        (tmp_path / "run").mkdir()
        settings.save(settings.override(config, ["seed=8"]), tmp_path / "run/config.json")
        return found

    monkeypatch.setattr(session, "build", build_and_be_late)
    with pytest.raises(ConfigError, match="another configuration"):
        train(config, tmp_path / "run")
    assert settings.read(tmp_path / "run/config.json").seed == 8


@pytest.mark.parametrize("run", ["reconciled"], indirect=True)
def test_another_configuration_is_refused_before_the_data_are_prepared(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "build", None)
    with pytest.raises(ConfigError, match="another configuration"):
        train(settings.override(run.config, ["seed=8"]), run.workdir)


def test_a_directory_that_cannot_be_is_refused_before_the_data_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "build", None)
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"file/run cannot be written .* is no directory"):
        train(configuration(tmp_path), tmp_path / "file/run")
    assert sorted(tmp_path.iterdir()) == before
