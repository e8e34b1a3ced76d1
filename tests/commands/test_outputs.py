"""What the commands write, and where: nobody's file is lost, and `~` is the home directory."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from asked_fixtures import write_run
from matplotlib.figure import Figure

from alexnet_jax import cli, convert, export, features, figures, main, predict
from alexnet_jax.errors import UserError
from alexnet_jax.pictures.saving import save


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("outputs") / "run")


def refusal(capsys: pytest.CaptureFixture[str], call: Callable[[], int]) -> str:
    """The only line on stderr of a command that fails."""
    with pytest.raises(SystemExit) as info:
        call()
    assert info.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("suffix", cli.PICTURES)
def test_a_picture_has_the_mark_and_is_whole_or_not_there(tmp_path: Path, suffix: str) -> None:
    """In every format; the older one stays where the new one cannot be drawn."""
    path = tmp_path / "new" / f"picture{suffix}"
    figure = Figure()
    figure.subplots().plot([1, 2])
    assert save(figure, path) == path and cli.is_ours(path)
    before = path.read_bytes()
    figure.axes[0].set_title(r"$\no$ formula")
    with pytest.raises(ValueError, match="no"):
        save(figure, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]


def test_letters_that_no_font_has_are_boxes(tmp_path: Path) -> None:
    """Which is no reason to warn: the tests make an error of any warning."""
    figure = Figure()
    figure.suptitle("猫")
    assert save(figure, tmp_path / "cat.png").exists()


@pytest.mark.parametrize("form", [form for form in export.FORMATS if form != "torch"])
def test_export_replaces_its_own_only(workdir, tmp_path, capsys, form: str) -> None:
    """The folder that torch makes is in `test_torch_folder`."""
    out = tmp_path / "network"
    flags = [f"--workdir={workdir}", f"--format={form}", f"--out={out}"]
    files = [out, Path(f"{out}.json")][: 2 if form == "stablehlo" else 1]
    for file in reversed(files):
        for overwrite in ([], ["--overwrite"]):
            file.write_text("mine")
            line = refusal(capsys, lambda more=overwrite: export.main([*flags, *more]))
            reason = "was not written by this program" if overwrite else "give --overwrite"
            assert f"{file} is there already" in line and reason in line
            assert file.read_text() == "mine"
        file.unlink()
    assert export.main(flags) == 0
    before = {file: file.stat().st_mtime_ns for file in files}
    capsys.readouterr()
    assert "is there already" in refusal(capsys, lambda: export.main(flags))
    assert export.main([*flags, "--overwrite"]) == 0
    assert all(file.stat().st_mtime_ns > time for file, time in before.items())
    assert sorted(tmp_path.iterdir()) == files


def test_figures_replace_their_own_only(workdir, tmp_path, capsys, monkeypatch) -> None:
    """In a folder that is named; in the run's own the pictures are drawn again, as in training."""
    monkeypatch.setattr("alexnet_jax.pictures.colour.DRAWS", 10)
    flags = [f"--workdir={workdir}"]
    there = [*flags, f"--out={tmp_path}"]
    for name in ("conv1.png", "conv1.json"):
        for overwrite in ([], ["--overwrite"]):
            (tmp_path / name).write_text("mine")
            line = refusal(capsys, lambda more=overwrite: figures.main([*there, *more]))
            assert f"{tmp_path / name} is there already" in line
            assert [p.name for p in tmp_path.iterdir()] == [name]
            assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert figures.main(there) == 0
    assert "give --overwrite" in refusal(capsys, lambda: figures.main(there))
    assert figures.main([*there, "--overwrite"]) == 0
    (workdir / "figures").mkdir()
    (workdir / "figures" / "conv1.png").write_text("of an earlier version, without a mark")
    assert figures.main(flags) == 0
    assert cli.is_ours(workdir / "figures" / "conv1.png")


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    """A photo by another name is a photo, and a link to nowhere is no free name."""
    (tmp_path / "photo.jpg").write_text("a photo")
    (tmp_path / "link.jpg").symlink_to("photo.jpg")
    (tmp_path / "nowhere.jpg").symlink_to("none.jpg")
    with pytest.raises(UserError, match="is one of the files to read"):
        cli.check_output("figure", tmp_path / "link.jpg", True, [tmp_path / "photo.jpg"])
    for name in ("link.jpg", "nowhere.jpg"):
        with pytest.raises(UserError, match="was not written by this program"):
            cli.check_output("figure", tmp_path / name, True)
    cli.check_output("figure", tmp_path / "none.jpg", False, [tmp_path / "photo.jpg"])


# --- the home directory ---------------------------------------------------------------------------


def test_home_in_every_flag(monkeypatch, tmp_path: Path) -> None:
    """Which a shell leaves alone in --out=~/x."""
    monkeypatch.setenv("HOME", str(tmp_path))
    home = str(tmp_path)
    asked = predict.parse_flags(["--workdir=~/w", "--figure=~/f.png", "~/a.jpg"])
    assert (asked.workdir, asked.figure) == (tmp_path / "w", f"{home}/f.png")
    assert asked.files == [f"{home}/a.jpg"]
    assert cli.workdirs("~/w,~/v") == [tmp_path / "w", tmp_path / "v"]
    (tmp_path / "lr=0.1,bs=64").mkdir()  # one run, if there is such a directory
    assert cli.workdirs("~/lr=0.1,bs=64") == [tmp_path / "lr=0.1,bs=64"]
    names = ("out", "cache", "data_dir", "neighbours")
    given = [f"--{name}=~/{name}.png" for name in names if name != "out"]
    found = features.parse_flags([*given, "--out=~/out.npy", "--split=~"])
    for name in names:
        assert getattr(found, name) == f"{home}/{name}.{'npy' if name == 'out' else 'png'}"
    assert found.split == "~"
    drawn = figures.parse_flags(["--workdir=~/a,~/b", "--out=~/c"])
    assert (drawn.workdir, drawn.out) == ([tmp_path / "a", tmp_path / "b"], f"{home}/c")
    taken = convert.parse_flags(["~/x.onnx", "--out=~/w", "--mean_file=~/m.npy"])
    assert (taken.files, taken.out) == ([f"{home}/x.onnx"], f"{home}/w")
    assert taken.mean_file == f"{home}/m.npy"
    written = export.parse_flags(["--workdir=~/w", "--format=onnx", "--out=~/x.onnx"])
    assert (written.workdir, written.out) == (f"{home}/w", f"{home}/x.onnx")


def test_home_in_the_flags_of_main(monkeypatch, tmp_path: Path) -> None:
    jax.devices()
    main.define_flags()
    monkeypatch.setenv("HOME", str(tmp_path))
    known = main.FLAGS
    saved = {name: (known[name].value, known[name].present) for name in known}
    try:
        given = ["--workdir=~/w", "--config=~/c.py", "--mode=evaluate", "--ensemble=~/v,u"]
        assert main.parse_flags([*given, "--config.data.dir=~/d"]) == ["data.dir=~/d"]
        assert (known.workdir, known.config) == (f"{tmp_path}/w", f"{tmp_path}/c.py")
        assert known.ensemble == [f"{tmp_path}/v", "u"]
    finally:
        for name, (value, present) in saved.items():
            known[name].value, known[name].present = value, present
        known.unparse_flags()


def test_a_bar_where_the_answers_are_not_seen(monkeypatch) -> None:
    """On stderr, if that is a terminal and stdout is none."""
    for out, err, seen in ((False, True, True), (True, True, False), (False, False, False)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda value=out: value, raising=False)
        monkeypatch.setattr(sys.stderr, "isatty", lambda value=err: value, raising=False)
        with predict.progress(5) as bar:
            assert bar.disable is not seen


def test_no_file_is_called_home(tmp_path: Path) -> None:
    """The one function that all of these flags have."""
    assert cli.path("~") == os.path.expanduser("~")
    assert cli.path("a/~/b") == "a/~/b"
