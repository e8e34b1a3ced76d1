"""Networks combined, every way against NumPy in float64, and what an ensemble refuses."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import data_fixtures
import jax
import network_fixtures as fixtures
import numpy as np
import pytest
import run_fixtures

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import ensemble, trained_network
from alexnet_jax.evaluation.ensemble import (
    Ensemble,
    Half,
    Member,
    evaluate_ensemble,
    mixture_weights,
)
from alexnet_jax.evaluation.evaluator import evaluate_run
from alexnet_jax.evaluation.scores import Score, interval, score_table
from alexnet_jax.evaluation.viewer import Viewer
from alexnet_jax.model import AlexNet, Conv, Dense, Network, make_mesh
from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.run.inputs import write_input
from alexnet_jax.run.parts import build

SIZE, CLASSES, COUNT = 30, 7, 13
Logits = list[list[np.ndarray]]  # of each network, of each view: (N, classes)


def tiny(crop: int, width: int) -> Network:
    """conv1, fc6 and fc8 alone: what is tested here is not the network."""
    gone = {name: Conv(0, 3) for name in ("conv2", "conv3", "conv4", "conv5")}
    conv1 = Conv(4, 11, 4, std=0.02, after="activation")
    return Network(
        classes=CLASSES,
        input_size=crop,
        conv1=conv1,
        **gone,
        fc6=Dense(width, std=0.05),
        fc7=Dense(0),
        fc8_std=0.5,
    )


def pictures(count: int = COUNT) -> np.ndarray:
    """Noise, so that no two views look alike."""
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@functools.cache
def networks() -> list[tuple[Network, Any, np.ndarray]]:
    """Three, of which the third is another network; each has its own mean image."""
    found = []
    for seed, (crop, width) in enumerate([(23, 8), (23, 8), (20, 6)]):
        network = tiny(crop, width)
        params = jax.tree.map(np.float32, fixtures.random_params(network, seed))
        mean = np.random.default_rng(90 + seed).uniform(100, 140, (SIZE, SIZE, 3))
        found.append((network, params, mean.astype(np.float32)))
    return found


def numpy_logits(
    network: Network, params: Any, mean: np.ndarray, images: np.ndarray
) -> list[np.ndarray]:
    """Of the ten views of section 4.1, cut by NumPy slices, in float64."""
    size, crop = images.shape[1], network.input_size
    edge, middle = size - crop, (size - crop) // 2
    inside = mean[middle : middle + crop, middle : middle + crop].astype(np.float64)
    corners = [(middle, middle), (0, 0), (0, edge), (edge, 0), (edge, edge)]
    with jax.enable_x64(True):
        apply = jax.jit(AlexNet(network).apply)
        params = jax.tree.map(np.float64, params)
        found = []
        for step in (1, -1):
            for top, left in corners:
                cut = images[:, top : top + crop, left : left + crop][:, :, ::step] - inside
                found.append(np.asarray(apply({"params": params}, cut)))
    assert found[0].dtype == np.float64
    return found


@functools.cache
def witnesses() -> Logits:
    """Those of `networks` for `pictures`."""
    return [numpy_logits(*parts, pictures()) for parts in networks()]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


def numpy_score(probabilities: np.ndarray, labels: np.ndarray, count: int) -> Score:
    """Loss and errors by the places of a sort."""
    rows = np.arange(len(labels))
    rank = np.argmax(np.argsort(-probabilities, axis=1) == labels[:, None], axis=1)
    loss = -np.log(probabilities[rows, labels]).mean()
    top1, top5 = float(np.mean(rank >= 1)), float(np.mean(rank >= 5))
    return Score(count, len(labels), float(loss), top1, top5)


@functools.cache
def labels() -> np.ndarray:
    return fixtures.random_labels(COUNT, CLASSES, seed=3)


@functools.cache
def viewers(mesh: tuple[int, int]) -> list[Member]:
    """The members, and so the compiled functions, of a mesh."""
    return [
        Member(f"network {i}", Viewer(AlexNet(net, make_mesh(*mesh)), mean), {"params": params})
        for i, (net, params, mean) in enumerate(networks(), 1)
    ]


@functools.cache
def found(mesh: tuple[int, int] = (1, 2), batch_size: int = 4) -> ensemble.Found:
    """The ensemble's answer, with the second network once more as one that is not combined."""
    first, second, third = viewers(mesh)
    other = Member("other", second.viewer, second.variables)
    return Ensemble([first, second, third], batch_size, [other])(pictures(), labels())


def same(score: Score, expected: Score) -> None:
    assert score._replace(loss=0.0) == expected._replace(loss=0.0)
    assert score.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.mark.parametrize(("mesh", "batch_size"), [((1, 2), 4), ((4, 1), 32)])
def test_every_way_is_what_numpy_says(mesh: tuple[int, int], batch_size: int) -> None:
    """Thirteen images, in batches that do not fit and in one that is larger than both halves."""
    result = found(mesh, batch_size)
    expected: dict[str, list[Score]] = {}
    for count in (1, 10):
        logits = np.stack([np.stack(of[:count]) for of in witnesses()])  # (K, views, N, classes)
        alone = softmax(logits).mean(axis=1)
        mean = alone.mean(axis=0)
        mixture = np.einsum("k,knc->nc", result.weights[count], alone)
        ways = {
            "network 1": alone[0],
            "network 2": alone[1],
            "network 3": alone[2],
            ensemble.PROBABILITIES: mean,
            ensemble.LOGITS: softmax(logits.mean(axis=(0, 1))),
            ensemble.PROBABILITIES_ODD: mean[1::2],
            ensemble.SEARCHED_ODD: mixture[1::2],
            "other": alone[1],
        }
        for name, p in ways.items():
            of = labels()[1::2] if name.startswith("odd images") else labels()
            expected.setdefault(name, []).append(numpy_score(p, of, count))
    assert list(result.scores) == list(expected)
    for name, scores in expected.items():
        for score, wanted in zip(result.scores[name], scores, strict=True):
            same(score, wanted)
    assert len({scores[1].loss for scores in expected.values()}) == len(expected) - 1


def test_mean_logits_are_the_geometric_mean_of_the_probabilities() -> None:
    """Over networks and views; made to add up to one."""
    logits = np.stack([np.stack(of) for of in witnesses()])
    product = np.prod(softmax(logits), axis=(0, 1)) ** (1 / 30)
    geometric = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(logits.mean(axis=(0, 1))), geometric, rtol=1e-12)
    same(found().scores[ensemble.LOGITS][1], numpy_score(geometric, labels(), 10))


def likelihood(given: np.ndarray, weights: np.ndarray) -> float:
    """The mean log-likelihood of the labels under a mixture."""
    return float(np.log(given @ weights).mean())


@pytest.mark.parametrize("count", [1, 10])
def test_the_searched_weights_are_the_best_on_the_even_images(count: int) -> None:
    """No point of a grid over the three weights is better, equal ones among them."""
    alone = np.stack([softmax(np.stack(of[:count])).mean(axis=0) for of in witnesses()])
    given = np.take_along_axis(alone, labels()[None, :, None], 2)[..., 0].T[::2]
    weights = found().weights[count]
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    reached = likelihood(given, weights)
    assert reached >= likelihood(given, np.full(3, 1 / 3))
    steps = range(101)
    grid = [(i / 100, j / 100, (100 - i - j) / 100) for i in steps for j in steps[: 101 - i]]
    assert reached >= max(likelihood(given, np.array(point)) for point in grid) - 2e-6


@pytest.mark.parametrize("seed", range(4))
def test_searched_weights_of_two_networks(seed: int) -> None:
    """Beside the best of ten thousand mixtures."""
    rng = np.random.default_rng(seed)
    given = rng.beta(0.3 + seed, 1.0, (200, 2)) * [1.0, 0.8]
    weights = mixture_weights(given, tolerance=1e-10)
    grid = np.linspace(0, 1, 10_001)
    likelihoods = [likelihood(given, np.array([w, 1 - w])) for w in grid]
    assert likelihood(given, weights) >= max(likelihoods) - 1e-9
    assert weights[0] == pytest.approx(grid[np.argmax(likelihoods)], abs=2e-3)


def test_searched_weights_where_networks_say_nothing() -> None:
    """Zeros and what is no number: all goes to the network that knows."""
    given = np.array([[0.0, 0.5, np.nan], [0.0, 0.25, np.nan]])
    np.testing.assert_allclose(mixture_weights(given), [0, 1, 0], atol=1e-5)
    assert np.isfinite(mixture_weights(np.zeros((3, 2)))).all()


@pytest.mark.parametrize(
    ("errors", "examples", "low", "high"),
    [
        (10, 100, 0.0552, 0.1744),  # (0.1 + 0.019208 -+ 1.96 sqrt(0.0009 + 0.00009604)) / 1.038416
        (50, 100, 0.4038, 0.5962),
        (0, 100, 0.0, 0.0370),  # 3.8415 / 103.8415
        (100, 100, 0.9630, 1.0),
        (31, 2000, 0.0109, 0.0219),
    ],
)
def test_wilson(errors: int, examples: int, low: float, high: float) -> None:
    """By hand, to the fourth digit."""
    assert interval(errors / examples, examples) == pytest.approx((low, high), abs=6e-5)


def test_table() -> None:
    """Every error has its interval and its number of views."""
    scores = {"one": [Score(1, 100, 1.25, 0.5, 0.1), Score(10, 100, 1.125, 0.1, 0.0)]}
    head, _, row = score_table(scores).splitlines()
    titles, cells = ([cell.strip() for cell in line.split("|")[2:-1]] for line in (head, row))
    assert list(zip(titles, cells, strict=True)) == [
        ("images", "100"),
        ("one view: top-1", "50.00% (40.38-59.62)"),
        ("top-5", "10.00% (5.52-17.44)"),
        ("loss", "1.2500"),
        ("ten views: top-1", "10.00% (5.52-17.44)"),
        ("top-5", "0.00% (0.00-3.70)"),
        ("loss", "1.1250"),
    ]


@pytest.mark.parametrize("count", [2, 7, 8])
def test_halves(count: int) -> None:
    """Slices of both halves, also beyond their end, hold every image once."""
    images = data_fixtures.position_images(count, 2)
    halves = [Half(images, first) for first in (0, 1)]
    assert sum(map(len, halves)) == count
    for first, half in enumerate(halves):
        assert half.shape == (len(half), 2, 2, 3)
        rows = np.concatenate([half[start : start + 3] for start in range(0, len(half), 3)])
        np.testing.assert_array_equal(rows, images[first::2])


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and its configuration, 24 pixels and 4 classes."""
    root = tmp_path_factory.getbasetemp() / "tiny"
    root.mkdir(exist_ok=True)
    run_fixtures.Tiny(root)
    return root


def save_run(root: Path, workdir: Path, seeds: tuple[int, ...], *changes: str) -> Path:
    """What a run leaves that `evaluate` reads; a checkpoint for each seed. Mean image 110."""
    config = settings.load(str(root / "tiny.py"))
    small = ["conv2.width=0", "conv3.width=0", "conv4.width=0", "conv5.width=0", "fc7.width=0"]
    small += ["conv1.std=0.02", "fc6.std=0.1"]  # so that no probability is zero in float32
    changes = ("mesh.data=1", "mesh.tower=1", *(f"model.{field}" for field in small), *changes)
    config = settings.override(config, changes)
    workdir.mkdir()
    settings.save(config, workdir / "config.json")
    network = settings.network(config)
    with Checkpoints(workdir / "checkpoints", keep=len(seeds)) as checkpoints:
        for step, seed in enumerate(seeds, 1):
            params = jax.tree.map(np.float32, fixtures.random_params(network, seed))
            model = jax.tree.map(jax.numpy.asarray, {"params": params, "batch_stats": {}})
            checkpoints.save(step, {"model": model}, {"dataset": "elsewhere"}, error=step / 10)
            checkpoints.wait()
    names = ("a", "b", "c", "d")
    write_input(workdir, np.full((24, 24, 3), 110.0), names)
    return workdir


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one network, the first with three checkpoints, and one of another network."""
    path = tmp_path_factory.mktemp("runs")
    return [
        save_run(root, path / "one", (1, 2, 3)),
        save_run(root, path / "two", (4,)),
        save_run(
            root, path / "three", (5,), "model.input_size=16", "model.fc6.width=8", "model.towers=1"
        ),
    ]


def witness(workdir: Path, params: Any) -> list[Score]:
    """In one view and in ten of the test images, with the run's own mean image."""
    config = settings.read(workdir / "config.json")
    cache = build(config).cache
    images, truth = np.asarray(cache.images["test"]), np.asarray(cache.labels["test"])
    assert len(images) == 24 and np.abs(cache.mean_image - 110).max() > 1
    logits = numpy_logits(settings.network(config), params, np.full((24, 24, 3), 110.0), images)
    probabilities = softmax(np.stack(logits))
    return [numpy_score(probabilities[:n].mean(axis=0), truth, n) for n in (1, 10)]


def params_of(workdir: Path, step: int) -> Any:
    """Of a checkpoint, in float64, read by tensorstore alone."""
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, array in run_fixtures.arrays(workdir / "checkpoints" / str(step)).items():
        part, layer, which = name.split(".")
        assert part == "model/params"
        params.setdefault(layer, {})[which] = array.astype(np.float64)
    return params


def test_runs_of_different_networks(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Each alone is what NumPy says, and so are the mean parameters of the first's checkpoints; the
    file holds what was found. The third is of one tower, so that all lie on a mesh for that."""
    config = settings.override(settings.read(runs[0] / "config.json"), ["mesh.tower=2"])
    result = evaluate_ensemble(config, runs)
    steps = (3, 1, 1)
    for i, (workdir, step) in enumerate(zip(runs, steps, strict=True), 1):
        for score, expected in zip(
            result.scores[f"network {i}"], witness(workdir, params_of(workdir, step)), strict=True
        ):
            same(score, expected)
    every = [params_of(runs[0], step) for step in (1, 2, 3)]
    mean = jax.tree.map(lambda *arrays: np.mean(arrays, axis=0), *every)
    (name,) = (way for way in result.scores if "checkpoints" in way)
    assert name == "network 1, mean of 3 checkpoints"
    for score, expected in zip(result.scores[name], witness(runs[0], mean), strict=True):
        same(score, expected)

    assert not any(way.endswith("mean parameters") for way in result.scores)  # of other shapes

    out = capsys.readouterr().out
    assert score_table(result.scores) in out
    assert f"network 3: step 1 of {runs[2]}" in out and "mesh of 1 x 1" in out
    assert "searched on 12 even images" in out
    written = json.loads((runs[0] / "ensemble.json").read_text())
    assert written["runs"] == [
        {"workdir": str(w), "step": s} for w, s in zip(runs, steps, strict=True)
    ]
    assert [row["way"] for row in written["rows"][::2]] == list(result.scores)
    assert written["searched_weights"] == {str(n): list(w) for n, w in result.weights.items()}
    for row in written["rows"]:
        score = result.scores[row["way"]][row["views"] > 1]
        assert {name: row[name] for name in Score._fields} == score._asdict()
        assert row["top1_interval"] == list(interval(score.top1_error, score.examples))


def test_mean_parameters_of_runs(runs: list[Path]) -> None:
    """Of two that are the same network, on two devices; with --best, which is the first here."""
    config = settings.override(settings.read(runs[1] / "config.json"), ["mesh.tower=2"])
    result = evaluate_ensemble(config, runs[1::-1], best=True)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, params_of(runs[0], 1), params_of(runs[1], 1))
    scores = result.scores["networks 1 to 2, mean parameters"]
    for score, expected in zip(scores, witness(runs[0], mean), strict=True):
        same(score, expected)
    assert not any("checkpoints" in name for name in result.scores)  # there is one


def test_a_damaged_checkpoint_is_left_out_of_the_mean(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And said aloud."""
    workdir = save_run(root, tmp_path / "run", (1, 2, 3))
    for file in (workdir / "checkpoints/2/model/d").iterdir():
        file.write_bytes(file.read_bytes()[:-200])
    kept = ensemble.kept_variables(trained_network.load(workdir, mesh=make_mesh(1, 1)))
    expected = [params_of(workdir, step) for step in (1, 3)]
    assert len(kept) == 2
    for variables, params in zip(kept, expected, strict=True):
        assert fixtures.difference(variables["params"], params) == 0
    assert f"{workdir}/checkpoints/2 is damaged" in capsys.readouterr().out


def test_a_run_is_tested_with_its_own_mean_image(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with the dataset's; and every error has its interval."""
    scores = evaluate_run(settings.read(runs[1] / "config.json"), runs[1])
    for score, expected in zip(scores, witness(runs[1], params_of(runs[1], 1)), strict=True):
        same(score, expected)
    lines = capsys.readouterr().out.splitlines()
    low, high = interval(scores[0].top1_error, 24)
    assert f"95% intervals: top-1 {low:.2%} to {high:.2%}, top-5 0.00% to 13.80%" in lines[-4]
    assert lines[-4].endswith("in one view") and lines[-3].endswith("in ten views")
    assert lines[-2:] == [str(score) for score in scores]


@pytest.mark.parametrize("together", [False, True])
def test_other_classes_are_refused(runs: list[Path], tmp_path: Path, together: bool) -> None:
    """Also if they are the same in another order, as every label would mean another class."""
    workdir = tmp_path / "run"
    shutil.copytree(runs[1], workdir)
    (workdir / "input/classes.txt").write_text("a\nc\nb\nd\n")
    config = settings.read(workdir / "config.json")
    with pytest.raises(UserError, match=r"the classes of .*run are not those of .*label 1 is 'c'"):
        if together:
            evaluate_ensemble(config, [runs[0], workdir])
        else:
            evaluate_run(config, workdir)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.size=32", r"has data.size=32, .*one has 24"),
        ("model.classes=5", r"has model.classes=5, .*one has 4"),
    ],
)
def test_runs_that_do_not_combine(
    runs: list[Path], tmp_path: Path, change: str, words: str
) -> None:
    """The message has both values."""
    config = settings.read(runs[0] / "config.json")
    settings.save(settings.override(config, [change]), tmp_path / "config.json")
    with pytest.raises(UserError, match=words):
        evaluate_ensemble(config, [runs[0], tmp_path])


def test_a_run_that_is_named_twice_or_not_there(runs: list[Path], tmp_path: Path) -> None:
    """Twice the same network is a mistake of the command line."""
    config = settings.read(runs[0] / "config.json")
    with pytest.raises(UserError, match="is named twice"):
        evaluate_ensemble(config, [runs[0], runs[1], runs[0] / "../one"])
    with pytest.raises(UserError, match="holds no run"):
        evaluate_ensemble(config, [runs[0], tmp_path])


def test_one_image_is_not_two_halves(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No half to report on."""
    config = settings.read(runs[0] / "config.json")
    parts = build(config)
    one = {**parts.cache.images, "test": parts.cache.images["test"][:1]}
    parts = parts._replace(cache=dataclasses.replace(parts.cache, images=one))
    monkeypatch.setattr(ensemble, "build", lambda _: parts)
    with pytest.raises(UserError, match="does not divide into two halves"):
        evaluate_ensemble(config, runs)


def test_the_command(root: Path, runs: list[Path]) -> None:
    """From another process."""
    program = run_fixtures.Tiny(root)
    others = ",".join(map(str, runs[1:]))
    done = program.run(f"--workdir={runs[0]}", "--mode=evaluate", f"--ensemble={others}")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads((runs[0] / "ensemble.json").read_text())["rows"]
    assert f" {rows[0]['top1_error']:.2%} (" in done.stdout
    done = program.run(f"--workdir={runs[0]}", f"--ensemble={others}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --ensemble with --mode=train: it is for --mode=evaluate\n"
