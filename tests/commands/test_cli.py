"""Bad input: one clear line that names the value and the way out, an exit code, no harm done."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import data_fixtures
import jax
import pytest
from run_fixtures import Tiny

from alexnet_jax import main as command
from alexnet_jax import settings
from alexnet_jax.configs import base
from alexnet_jax.configs.cifar10 import NETWORKS
from alexnet_jax.errors import UserError
from alexnet_jax.model.network import LAYERS
from alexnet_jax.run.parts import build
from alexnet_jax.training.session import train


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The program's flags, as they were before any was parsed; signals are left alone."""
    jax.devices()  # eight: the program must not choose another number
    command.define_flags()
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    known = command.FLAGS
    saved = {name: (known[name].value, known[name].present) for name in known}
    yield
    for name, (value, present) in saved.items():
        known[name].value, known[name].present = value, present
    known.unparse_flags()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code and the only line on stderr of the program with these arguments."""
    with pytest.raises(SystemExit) as info:
        command.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "Traceback" not in line
    return int(str(info.value.code)), line


# What the program is given beside --workdir and --config of the tiny run, and what it has to say.
BAD_FIELDS = {
    "batch_size=10x": "batch_size is a whole number (now 8), which '10x' is not",
    "batch_size=1 2": "batch_size is a whole number",
    "batch_size=6.5": "which '6.5' is not",
    "batch_size=": "batch_size is a whole number",
    "batch_size": "write --config.batch_size=VALUE",
    "batch_size=0": "must be greater than 0",
    "batch_sise=64": "unknown field 'batch_sise'; did you mean 'batch_size'?",
    "learning_rate=1": "did you mean 'optim.learning_rate'?",
    "model=3": "unknown field 'model'",
    "optim.learning_rate=fast": "optim.learning_rate is a number (now 0.01)",
    "optim.learning_rate=1e999": "must be a finite number",
    "epochs=1e999": "must be a finite number",
    "data.flip=maybe": "data.flip is true or false (now True)",
    "data.flip=1": "data.flip is true or false",
    "optim.drops=0.5": "optim.drops is a tuple",
    "optim.drops=('a',)": "numbers",
    "optim.schedule=cosine": "one of steps, plateau, dexp",
    "model.activation=gelu": "one of",
    "model.classes=1": "a classifier needs two classes",
    "model.classes=5": "has 4 classes; set --config.model.classes=4",
    "model.conv1.padding=(1,2,3)": "padding",
    "model.input_size=200": "data.size=24: images must be at least as large",
    "seed=-1": "seed=-1",
    "preset=paper": "--config=NAME:paper",
    "data.train=training": "are train, validation, test",
    "data.test=": "data.test",
    "data.source=folder:/nowhere": "there is no /nowhere/train",
    "data.source=tfds:imagenet2012": "is not prepared under",
    "data.source=imagenet": "did you mean tfds:imagenet?",
    "mesh.tower=3": "mesh.tower=3: the network has two towers, so the tower axis is 1 or 2",
    "mesh.data=3": "batch_size=8 does not divide over the data axis of the mesh",
    "mesh.data=-1": "mesh.data=-1",
    "model.conv1.width=0": "the first layer cannot be taken out",
    "model.conv2.width=-4": "model.conv2.width=-4",
    "model.conv1.after=dropout activation": "dropout is the last that happens to maps",
    "model.fc6.after=norm": "norm is none of activation, dropout",
    "model.pool_stride=0": "model.conv1: a pool of 3 every 0 pixels",
    "model.input_size=8": "model.conv5: a pool of 3 every 2 pixels does not fit onto maps of 1",
    "model.dropout=1.5": "model.dropout=1.5",
    "batch_size=65": "1 to 64, the images",
}


@pytest.mark.parametrize(("field", "words"), BAD_FIELDS.items())
def test_a_bad_field_is_refused_before_anything_is_written(
    flags, capsys, tiny: Tiny, tmp_path: Path, field: str, words: str
) -> None:
    workdir = tmp_path / "run"
    more = ("--config.mesh.data=1",) if field == "batch_size=65" else ()
    code, line = refusal(
        capsys, f"--workdir={workdir}", f"--config={tiny.config}", f"--config.{field}", *more
    )
    assert code in (1, 2)
    assert words in line
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--config=embeded", "--workdir=w"],
            "unknown configuration 'embeded'; did you mean 'embedded'?",
        ),
        (["--config=presets", "--workdir=w"], "unknown configuration 'presets'"),
        (["--config=embedded:papers", "--workdir=w"], "one of paper, source, reconciled"),
        (["--config=/none/x.py", "--workdir=w"], "there is no file /none/x.py"),
        (["--config=embedded"], "--workdir is missing: a directory for the run"),
        (["--workdir="], "--workdir is missing"),
        (["--workdir"], "Missing value for flag --workdir"),
        (["--wrkdir=w"], "Unknown command line flag 'wrkdir'. Did you mean: workdir ?"),
        (["--workdir=w", "extra"], "unexpected argument 'extra'; see --help"),
        (["--workdir=w", "--report"], "--report with --mode=train: it is for --mode=evaluate"),
        (["--workdir=w", "--best"], "--best with --mode=train: it is for --mode=evaluate"),
        (
            ["--workdir=w", "--mode=evaluate", "--report", "--ensemble=v"],
            "--report with --ensemble: a report is of one run",
        ),
        (["--workdir=w", "--mode=tain"], "should be one of <train|evaluate|describe|config>"),
    ],
)
def test_bad_arguments(flags, capsys, tmp_path, monkeypatch, arguments, words) -> None:
    monkeypatch.chdir(tmp_path)
    code, line = refusal(capsys, *arguments)
    assert code == 2
    assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config(:", "invalid syntax"),
        ("def get_config():\n    raise RuntimeError('no luck')", "no luck"),
        ("get_konfig = None", "get_config"),
        ("def get_config():\n    return {'epochs': 1}", "ConfigDict"),
        (
            "from ml_collections import ConfigDict\n"
            "def get_config():\n    return ConfigDict({'epochs': 1})",
            "has no field",
        ),
        (
            "from alexnet_jax.configs import base\n"
            "def get_config():\n"
            "    config = base.get_config()\n    config.optim.learnig_rate = 1.0\n"
            "    return config",
            "unknown field 'optim.learnig_rate'; did you mean 'optim.learning_rate'?",
        ),
    ],
)
def test_a_configuration_file_that_does_not_work(flags, capsys, tmp_path, content, words) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    code, line = refusal(capsys, f"--workdir={tmp_path / 'run'}", f"--config={path}")
    assert code == 2
    assert str(path) in line and words in line


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"epochs": 1}', "\0\0", '{"model": 3}'])
def test_a_damaged_config_json(flags, capsys, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    code, line = refusal(capsys, f"--workdir={tmp_path}")
    assert code == 2
    assert str(tmp_path / "config.json") in line
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.parametrize("place", ["file/run", "/proc/run"])
def test_a_workdir_that_cannot_be_written(flags, capsys, tiny, tmp_path, place) -> None:
    (tmp_path / "file").write_text("kept")
    workdir = tmp_path / place  # an absolute place stays itself
    code, line = refusal(capsys, f"--workdir={workdir}", f"--config={tiny.config}")
    assert code == 1
    assert f"--workdir={workdir} cannot be written" in line and "give another" in line
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_a_dataset_of_one_class_or_none(flags, capsys, tiny, tmp_path, classes) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    for name in classes:
        (tmp_path / "images" / "train" / name).mkdir()
        picture = data_fixtures.encode(data_fixtures.photo(0), "PNG")
        (tmp_path / "images" / "train" / name / "0.png").write_bytes(picture)
    source = f"--config.data.source=folder:{tmp_path / 'images'}"
    code, line = refusal(capsys, f"--workdir={tmp_path / 'run'}", f"--config={tiny.config}", source)
    assert code == 1
    assert f"has {len(classes)} class(es); at least two are needed" in line


def test_a_class_with_a_line_break_in_its_name(flags, capsys, tiny, tmp_path) -> None:
    """Said before anything is trained: afterwards no command could read the names."""
    data_fixtures.write_folder(tmp_path / "images", {"train": 4}, ("cat", "d\nog"))
    source = f"--config.data.source=folder:{tmp_path / 'images'}"
    code, line = refusal(capsys, f"--workdir={tmp_path / 'run'}", f"--config={tiny.config}", source)
    assert code == 1
    assert r"has a class called 'd\nog': a name with a line break" in line and "rename" in line


def test_more_devices_than_there_are(tiny: Tiny) -> None:
    """Eight here, where jax runs already; else the program makes as many as it is asked for."""
    jax.devices()
    config = settings.override(settings.load(str(tiny.config)), ["mesh.data=8", "mesh.tower=2"])
    with pytest.raises(settings.ConfigError, match=r"mesh.data=8 .* needs 16 devices, there are 8"):
        build(config)


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "model.conv2.width=16",
        "data.source=embedded",
        "optim.momentum=0.8",
        "batch_size=16",
    ],
)
def test_the_workdir_of_another_run_is_left_alone(tiny, tmp_path: Path, change: str) -> None:
    config = settings.load(str(tiny.config))
    settings.save(config, tmp_path / "config.json")
    before = (tmp_path / "config.json").read_bytes()
    other = settings.override(config, [change])
    with pytest.raises(settings.ConfigError) as info:
        train(other, tmp_path)
    assert change.split("=")[0] in str(info.value)
    assert "or another --workdir" in str(info.value)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == before


def test_evaluate_where_there_is_no_run(flags, capsys, tmp_path: Path) -> None:
    code, line = refusal(capsys, f"--workdir={tmp_path / 'none'}", "--mode=evaluate")
    assert code == 2
    assert f"{tmp_path / 'none'} holds no run" in line
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("--config.model.fc6.width=32", "{} holds checkpoints of its own network"),
        ("--config.data.size=160", "--config.data.size=160: the mean image of {} has"),
    ],
)
def test_evaluate_takes_no_other_network_nor_size(
    flags, capsys, tiny: Tiny, tmp_path: Path, other: str, words: str
) -> None:
    """Whose checkpoints, or mean image, would otherwise be called damaged."""
    settings.save(settings.load(str(tiny.config)), tmp_path / "config.json")
    code, line = refusal(capsys, f"--workdir={tmp_path}", "--mode=evaluate", other)
    assert code == 2
    assert words.format(tmp_path) in line


def test_a_field_that_is_empty_can_be_given_as_it_is_shown(tmp_path: Path) -> None:
    """`config` prints `init_from=`; given so it is the same run as without."""
    config = settings.load("embedded")
    assert config.init_from is None
    again = settings.override(config.copy_and_resolve_references(), ["init_from="])
    settings.check_same_run(config, again, tmp_path)


# --- real processes -------------------------------------------------------------------------------


def test_help_shows_the_flags() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_jax.main", "--help"], capture_output=True, text=True
    )
    for flag in ("--workdir", "--config", "--mode", "--[no]best"):
        assert flag in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_describe_takes_flags_in_two_words(tiny: Tiny) -> None:
    done = tiny.run("--mode", "describe", "--config", "half")
    assert (done.returncode, done.stderr) == (0, "")
    assert "59,798,312" in done.stdout


def test_a_full_disk(tiny: Tiny, tmp_path: Path) -> None:
    """The checkpoint before stays, and with space again the run goes on from it."""
    wide = "--config.model.fc6.width=512"
    tiny.train(tmp_path, "--config.epochs=1", wide)
    config = f"--config={tiny.config}"
    # No file of this process may be longer than 40 KiB; Python ignores the signal by itself.
    limited = ("bash", "-c", 'ulimit -f 40; exec "$@"', "bash")
    no_cache = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # whose files are longer
    arguments = (f"--workdir={tmp_path}", config, wide, "--config.epochs=2")
    done = tiny.run(*arguments, prefix=limited, env=no_cache)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: could not save a checkpoint to {tmp_path / 'checkpoints'}: ")
    assert "Checkpoints that stand: 8. Free some space" in line
    printed = tiny.train(tmp_path, "--config.epochs=2", wide)
    assert "resuming from the checkpoint of step 8" in printed


def test_damaged_checkpoints(tiny: Tiny, tmp_path: Path) -> None:
    tiny.train(tmp_path, "--config.epochs=2")

    def damage(step: int) -> None:
        for file in (tmp_path / "checkpoints" / str(step) / "model" / "d").iterdir():
            file.write_bytes(file.read_bytes()[:-200])

    damage(16)
    printed = tiny.train(tmp_path, "--config.epochs=2")
    assert f"checkpoint {tmp_path / 'checkpoints/16'} is damaged: " in printed
    assert "falling back to the checkpoint of step 8" in printed
    assert f"moved the damaged checkpoint to {tmp_path / 'damaged_checkpoints/16'}" in printed
    damage(8)
    damage(16)
    files = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.name != ".lock"}
    done = tiny.run(f"--workdir={tmp_path}")
    assert done.returncode == 1
    # Asyncio may add a warning of its own about what orbax left half done; never a traceback.
    assert "Traceback" not in done.stderr, done.stderr
    error = f"error: no checkpoint in {tmp_path / 'checkpoints'} can be read"
    assert any(line.startswith(error) for line in done.stderr.splitlines())
    assert {f: f.read_bytes() for f in files} == files


# --- configurations -------------------------------------------------------------------------------


WORDS = {"cifar10": NETWORKS, "finetune": LAYERS}


def test_every_configuration_and_preset_is_sound_and_survives_its_file(tmp_path: Path) -> None:
    for name in settings.names():
        for preset in WORDS.get(name, ("paper", "source", "reconciled")):
            if name.startswith("fashion_mnist") and preset == "paper":
                continue  # the plateau rule looks at a validation split, which this one lacks
            config = settings.load(f"{name}:{preset}")
            settings.check(config)
            settings.save(config, tmp_path / "config.json")
            assert settings.read(tmp_path / "config.json").to_dict() == config.to_dict()
    assert os.listdir(tmp_path) == ["config.json"]


def test_overrides_keep_the_type_of_a_field() -> None:
    config = settings.override(
        base.get_config(),
        [
            "epochs=3", "optim.drops=[0.5, 0.75]", "model.conv1.padding=(1, 2)", "data.flip=FALSE",
            "data.dir=/data", "batch_size=64", "optim.bias_drops=()", "data.validation=",
        ],
    )  # fmt: skip
    assert (type(config.epochs), config.epochs) == (float, 3.0)
    assert config.optim.drops == (0.5, 0.75)
    assert config.model.conv1.padding == (1, 2)
    assert config.data.flip is False
    assert config.data.dir == "/data"
    assert config.batch_size == 64
    assert config.optim.bias_drops == ()
    assert config.data.validation == ""


def test_a_dir_of_none_survives_the_file(tmp_path: Path) -> None:
    config = base.get_config()
    settings.save(config, tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["data"]["dir"] is None
    again = settings.read(tmp_path / "config.json")
    assert settings.override(again, ["data.dir=/data"]).data.dir == "/data"


def test_a_refused_configuration_is_a_user_error() -> None:
    assert issubclass(settings.ConfigError, UserError)
