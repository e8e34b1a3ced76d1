"""The pictures show what they say, and the share of colour is what it says."""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import network_fixtures as fixtures
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax import figures, settings
from alexnet_jax.errors import UserError
from alexnet_jax.pictures import colour, curves, figure3, of_runs
from alexnet_jax.run.checkpoint import Checkpoints


def pixels_of(path: Path) -> np.ndarray:
    """(H, W, 3) integers of 0..255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def rows_of_a_run(factor: float = 1.0) -> list[dict[str, Any]]:
    """Rows of every kind: ten of training, two of validation, the test in one view and in ten."""

    def row(step: int, split: str, views: int, value: float) -> dict[str, Any]:
        scores = {"loss": 3 * value, "top1_error": value, "top5_error": value / 3}
        return {"step": step, "epoch": step / 10, "split": split, "views": views, **scores}

    training = [row(step, "train", 1, factor / step) for step in range(1, 11)]
    validation = [row(step, "validation", 1, factor / step) for step in (5, 10)]
    test = [row(10, "test", 1, factor / 12), row(10, "test", 10, factor / 16)]
    return [*training, *validation, *test]


def write_rows(workdir: Path, rows: list[dict[str, Any]]) -> None:
    """As a run does."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A run with a checkpoint of step 10 and metrics, not trained, and conv1's kernels in it."""
    workdir = tmp_path_factory.mktemp("figures") / "run"
    write_rows(workdir, rows_of_a_run())
    network = fixtures.small_network()
    settings.save(fixtures.small_config(network=network), workdir / "config.json")
    params = {
        name: {which: np.asarray(array, np.float32) for which, array in layer.items()}
        for name, layer in fixtures.random_params(network).items()
    }
    params["conv1"]["kernel"][..., :4] = params["conv1"]["kernel"][:, :, :1, :4]  # tower A is grey
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        model = {"params": params, "batch_stats": {}}
        checkpoints.save(10, {"model": model}, {}, None)
    return workdir, params["conv1"]["kernel"]


def test_colour_of_kernels_made_by_hand() -> None:
    """Grey has none, one channel alone two thirds, opponent colours nothing else; zeros none."""
    shape = np.random.default_rng(0).normal(size=(5, 5))
    colours = [(1, 1, 1), (1, 0, 0), (1, -1, 0), (1, 1, -2), (2, 2, 0), (0, 0, 0)]
    kernel = np.stack([shape[..., None] * np.array(c, float) for c in colours], -1)
    expected = [0, 2 / 3, 1, 1, 1 / 3, 0]
    np.testing.assert_allclose(colour.shares(kernel), expected, rtol=0, atol=1e-15)


def test_a_uniform_tint_is_colour_and_a_uniform_grey_is_not() -> None:
    """The mean of a kernel belongs to it: green on a grey pattern raises the share."""
    tint = np.broadcast_to(np.array([0.0, 1.0, 0.0])[:, None], (3, 3, 3, 1))
    grey = np.ones((3, 3, 3, 1))
    np.testing.assert_allclose(colour.shares(tint), [2 / 3])
    # 27 (1, 2, 1): energy 6, of which (4/sqrt 3)^2 = 16/3 is grey.
    np.testing.assert_allclose(colour.shares(tint + grey), [1 - 16 / 18])


def test_colour_by_projection_on_the_grey_axis() -> None:
    """The same from its definition, pixel by pixel; float32 kernels are measured in float64."""
    kernel = np.random.default_rng(1).normal(0.1, 1, (4, 3, 3, 5)).astype(np.float32)
    axis = np.ones(3) / np.sqrt(3)
    expected = []
    for n in range(5):
        grey = energy = 0.0
        for y, x in itertools.product(range(4), range(3)):
            pixel = [float(value) for value in kernel[y, x, :, n]]
            grey += float(np.dot(pixel, axis)) ** 2
            energy += sum(value**2 for value in pixel)
        expected.append(1 - grey / energy)
    found = colour.shares(kernel)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_colour_does_not_depend_on_scale() -> None:
    """Nor on the sign, nor on how small the weights are."""
    kernel = np.random.default_rng(2).normal(size=(5, 5, 3, 6))
    expected = colour.shares(kernel)
    for scale in (-1, 1e-30, 1e30):
        np.testing.assert_allclose(colour.shares(scale * kernel), expected, rtol=1e-12)
    assert np.all((expected > 0) & (expected < 1))


def test_random_weights_have_two_thirds() -> None:
    """What the README and the table compare with."""
    kernel = np.random.default_rng(3).normal(size=(11, 11, 3, 500))
    assert abs(colour.shares(kernel).mean() - 2 / 3) < 0.005


def test_p_is_that_of_all_splits() -> None:
    """The drawn p is the exact one of the 252 splits of 5 and 5, within what 10,000 draws allow."""
    rng = np.random.default_rng(4)
    for shift in (0.0, 1.0, 2.0):
        a, b = rng.normal(0, 1, 5), rng.normal(shift, 1, 5)
        both = np.concatenate([a, b])
        seen = abs(a.mean() - b.mean())
        splits = list(itertools.combinations(range(10), 5))
        assert len(splits) == 252
        exact = np.mean(
            [
                abs(both[list(own)].mean() - np.delete(both, own).mean()) >= seen - 1e-9
                for own in splits
            ]
        )
        spread = np.sqrt(exact * (1 - exact) / colour.DRAWS)
        assert abs(colour.permutation_p(a, b) - exact) < 4 * spread + 1e-4


def test_p_of_towers_that_differ_and_of_towers_that_do_not() -> None:
    """Small, down to 1 / 10,001, and not small; the same at every call; 1 for equal numbers."""
    rng = np.random.default_rng(5)
    grey, colourful = rng.uniform(0, 0.2, 12), rng.uniform(0.6, 0.9, 12)
    assert colour.permutation_p(grey, colourful) == 1 / (1 + colour.DRAWS)
    same = rng.uniform(0, 1, 24)
    p = colour.permutation_p(same[:12], same[12:])
    assert p > 0.05
    assert colour.permutation_p(same[:12], same[12:]) == p
    assert colour.permutation_p(np.full(4, 0.3), np.full(6, 0.3)) == 1


def test_measure_tower_by_tower() -> None:
    """Means, and shares by energy: in B a strong grey kernel outweighs a weak red one."""
    kernel = np.zeros((2, 2, 3, 4))
    kernel[..., 0, 0], kernel[..., 1, 1] = 1, 5  # tower A: red, green
    kernel[..., :, 2], kernel[..., 2, 3] = 10, 1  # tower B: strong grey, weak blue
    found = colour.measure(kernel, 2)
    a, b = found["towers"]
    assert (a["tower"], b["tower"]) == ("A", "B")
    np.testing.assert_allclose(a["kernels"], [2 / 3, 2 / 3])
    np.testing.assert_allclose(b["kernels"], [0, 2 / 3])
    np.testing.assert_allclose([a["mean"], a["by_energy"]], [2 / 3, 2 / 3])
    np.testing.assert_allclose([b["mean"], b["by_energy"]], [1 / 3, (2 / 3) / 301])
    np.testing.assert_allclose(found["difference"], 1 / 3)
    assert found["p"] > 0.9  # all splits differ by that much
    one = colour.measure(kernel, 1)
    assert "p" not in one and len(one["towers"]) == 1
    assert "p:" not in colour.colour_table({"run": one})


def test_kernels_are_drawn_tower_by_tower(tmp_path: Path) -> None:
    """A red tower and a green one: the upper half of the picture is red, the lower green."""
    kernel = np.zeros((11, 11, 3, 24), np.float32)
    kernel[:, :, 0, :12] = 0.2
    kernel[:, :, 1, 12:] = 0.1
    path = figure3.kernels(kernel, 2, tmp_path)
    assert path == tmp_path / "figures" / "conv1.png"
    pixels = pixels_of(path)
    red = np.argwhere((pixels[..., 0] > 240) & (pixels[..., 1] < 140) & (pixels[..., 2] < 140))
    green = np.argwhere((pixels[..., 1] > 240) & (pixels[..., 0] < 140) & (pixels[..., 2] < 140))
    assert len(red) > 1000 and abs(len(red) - len(green)) < 0.02 * len(red)
    assert red[:, 0].max() < green[:, 0].min()


@pytest.mark.parametrize(("colour", "share"), [((1, 1, 1), 0), ((1, 0, 0), 2 / 3), ((1, -1, 0), 1)])
def test_the_bar_below_a_kernel_is_its_share(
    tmp_path: Path, colour: tuple[int, ...], share: float
) -> None:
    """Dark pixels of the bar, of all its pixels."""
    kernel = np.tile(np.array(colour, float)[:, None], (5, 5, 1, 6))
    pixels = pixels_of(figure3.kernels(kernel, 1, tmp_path))
    bar = np.all(pixels == round(0.88 * 255), -1)
    dark = np.all(pixels == round(0.2 * 255), -1)
    # The row of the picture with the most of both: through the middle of the bars.
    row = (bar | dark).sum(1).argmax()
    assert abs(dark[row].sum() / (bar | dark)[row].sum() - share) < 0.03


def test_a_kernel_of_zeros_is_grey(tmp_path: Path) -> None:
    """No division by zero, and no colour."""
    pixels = pixels_of(figure3.kernels(np.zeros((5, 5, 3, 4)), 1, tmp_path))
    grey = np.all(pixels == 127, -1).sum()
    side = 0.55 * 0.93 * 150  # of a kernel, in pixels
    assert abs(grey - 4 * side**2) < 4 * 4 * side  # four squares, but for their borders
    assert np.all(pixels.max(-1) - pixels.min(-1) <= 1)


def test_the_grid_holds_all_kernels() -> None:
    """At most sixteen in a row, as few rows as that allows, and no row without a kernel."""
    assert [figure3._grid(n) for n in (1, 12, 17, 24, 48, 64)] == [
        (1, 1), (1, 12), (2, 9), (2, 12), (3, 16), (4, 16)
    ]  # fmt: skip
    for count in range(1, 100):
        rows, columns = figure3._grid(count)
        assert columns <= 16 and (rows - 1) * columns < count <= rows * columns


def test_curves_of_a_run(tmp_path: Path) -> None:
    """Rows of every kind are drawn, and a run without validation, of a single row, or with none."""
    rows = rows_of_a_run()
    write_rows(tmp_path, rows)
    path = curves.curves(tmp_path)
    assert path == tmp_path / "figures" / "curves.png"
    pixels = pixels_of(path)
    assert pixels.shape[1] > 800
    for name in ("1f77b4", "ff7f0e", "2ca02c", "d62728"):  # a colour for each kind
        wanted = [int(name[i : i + 2], 16) for i in (0, 2, 4)]
        assert np.abs(pixels - wanted).max(-1).min() < 40, name
    for few in ([r for r in rows if r["split"] != "validation"], rows[:1], []):
        curves.draw_curves({"run": few}, tmp_path / "few.png")


def test_an_axis_is_logarithmic_only_where_it_can_and_should() -> None:
    """Numbers within a factor of five, or with a zero among them, stay on a scale from zero."""
    for values, scale in (([1, 4], "linear"), ([1, 6], "log"), ([0, 6], "linear"), ([], "linear")):
        axes = Figure().subplots()
        axes.plot(values, values)
        curves._scale(axes)
        assert axes.get_yscale() == scale
        assert scale == "log" or axes.get_ylim()[0] == 0


@pytest.mark.parametrize("count", [1, 2, 12])
def test_the_lines_are_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Every kind of row of every run is a line: epochs, nats, per cent; each run has its colour."""
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, path: drawn.append(figure))
    runs = {f"run{i}": rows_of_a_run(1 - i / 20) for i in range(count)}
    curves.draw_curves(runs, tmp_path / "all.png")
    for axes, field, scale in zip(drawn[0].axes, ("loss", "top1_error"), (1, 100), strict=True):
        assert len(axes.lines) == 4 * count
        lines = iter(axes.lines)
        for rows in runs.values():
            for split, views in (("train", 1), ("validation", 1), ("test", 1), ("test", 10)):
                own = [r for r in rows if r["split"] == split and r["views"] == views]
                expected = [(r["epoch"], scale * r[field]) for r in own]
                np.testing.assert_allclose(np.asarray(next(lines).get_xydata()), expected)
    legend = drawn[0].axes[1].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    if count == 1:
        assert labels[2:] == ["test, one view: 8.33%", "test, ten views: 6.25%"]
        return
    assert labels[4:] == [
        f"run{i}: {100 * (1 - i / 20) / 16:.2f}% in ten views" for i in range(count)
    ]
    assert len({str(handle.get_color()) for handle in legend.get_lines()[4:]}) == count


def test_names_are_the_shortest_that_tell_runs_apart() -> None:
    """The last part where that is enough, more where it is not."""

    def names(*paths: str) -> list[str]:
        return of_runs.short_names([Path(path) for path in paths])

    assert names("/a/run") == ["run"]
    assert names("/a/run1", "/b/run2") == ["run1", "run2"]
    assert names("/a/x/run", "/a/y/run", "/a/other") == ["x/run", "y/run", "other"]
    assert names("/run", "/a/run") == ["/run", "a/run"]
    assert names("/a/b/../run1/", "/a/run2") == ["run1", "run2"]


def test_draw_a_run_with_a_checkpoint(
    saved: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table and `conv1.json` hold what the kernels of the checkpoint have."""
    workdir, kernel = saved
    of_runs.draw([workdir], tmp_path)
    out = capsys.readouterr().out
    names = ["conv1.png", "conv1.json", "curves.png"]
    assert out.splitlines()[-1] == "wrote " + ", ".join(str(tmp_path / name) for name in names)
    written = json.loads((tmp_path / "conv1.json").read_text())
    (run,) = written["runs"]
    assert (run["run"], run["workdir"], run["step"]) == ("run", str(workdir), 10)
    weights = kernel.astype(float)
    expected = 1 - (weights.sum(2) ** 2).sum((0, 1)) / 3 / (weights**2).sum((0, 1, 2))
    found = [share for tower in run["towers"] for share in tower["kernels"]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert max(found[:4]) < 1e-9 and min(found[4:]) > 0.5  # the grey tower and the other
    assert run["p"] < 0.05  # 2 of the 70 splits are as far apart: 0.029
    assert f"p = {run['p']:.4f}" in out
    assert ["run", "A", "4", "0.000"] in [line.split()[:4] for line in out.splitlines()]


def test_draw_several_runs(
    saved: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs that have only one of the two are drawn as far as they go, and named."""
    workdir, _ = saved
    for name, kept in (("untrained", "metrics.jsonl"), ("converted", "checkpoints")):
        (tmp_path / name).mkdir()
        shutil.copy(workdir / "config.json", tmp_path / name)
        copy = shutil.copytree if kept == "checkpoints" else shutil.copy
        copy(workdir / kept, tmp_path / name / kept)
    runs = [workdir, tmp_path / "untrained", tmp_path / "converted"]
    of_runs.draw(runs, tmp_path / "out")
    out = capsys.readouterr().out
    assert "no kernels of untrained" in out and "no curves of converted" in out
    assert "no kernels of run" not in out and "no curves of run" not in out
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["conv1-runs.json", "conv1-runs.png", "curves-runs.png"]
    written = json.loads((tmp_path / "out" / "conv1-runs.json").read_text())
    assert [run["run"] for run in written["runs"]] == ["run", "converted"]


def test_what_is_not_there_is_refused(saved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """No run, and a run with neither a checkpoint nor metrics: nothing is written."""
    workdir, _ = saved
    out = tmp_path / "out"
    with pytest.raises(settings.ConfigError, match=r"holds no run .*train one with --workdir="):
        of_runs.draw([workdir, tmp_path], out)
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"neither a checkpoint nor metrics yet: train it with"):
        of_runs.draw([workdir, tmp_path], out)
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    for path in (tmp_path / "checkpoints" / "10").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match="can be read"):
        of_runs.draw([workdir, tmp_path], out)
    assert not out.exists()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, as a user calls it."""
    line = [sys.executable, "-m", "alexnet_jax.figures", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_the_command(saved: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """It writes into `figures/` of the first run unless told otherwise, and says so."""
    workdir = tmp_path / "run"
    shutil.copytree(saved[0], workdir)
    done = command(f"--workdir={workdir}")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "share of colour in conv1" in done.stdout
    assert f"{workdir}/figures/conv1.png, {workdir}/figures/conv1.json" in done.stdout
    assert sorted(path.name for path in (workdir / "figures").iterdir()) == [
        "conv1.json", "conv1.png", "curves.png"
    ]  # fmt: skip


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The exit code and the only line on stderr for arguments."""

    def ask(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as info:
            figures.parse_flags(arguments)
        (line,) = capsys.readouterr().err.splitlines()
        return int(str(info.value.code)), line

    return ask


def test_a_wrong_command_is_refused(
    refusal: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """One line and exit code 2."""
    file = tmp_path / "file"
    file.touch()
    wrong = {
        ("--workdir=",): "--workdir has an empty name: the directory of a run",
        (f"--workdir={tmp_path},,",): "--workdir has an empty name: the directory of a run",
        (f"--workdir={tmp_path},{tmp_path}/../{tmp_path.name}/",): f"names {tmp_path} twice",
        (f"--workdir={tmp_path}", f"--out={file}"): f"--out={file} is a file",
        ("more",): "unexpected argument 'more'",
        ("--wrkdir=W",): "unknown flag --wrkdir, did you mean --workdir?",
    }
    for arguments, text in wrong.items():
        code, line = refusal(*arguments)
        assert code == 2 and text in line
