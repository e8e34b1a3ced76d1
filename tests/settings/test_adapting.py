"""`--config=finetune`: the network of the weights, and what the images say, unless it is given."""

import json
import shutil
from pathlib import Path
from typing import Any

import data_fixtures
import network_fixtures as fixtures
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from ml_collections import ConfigDict

from alexnet_jax import main, settings
from alexnet_jax.errors import UserError
from alexnet_jax.model import Conv
from alexnet_jax.prepare import main as prepare
from alexnet_jax.settings.adapting import batch_size_for


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to be in, with weights W of another network than any configuration has."""
    monkeypatch.chdir(tmp_path)
    network = fixtures.small_network(towers=1, conv6=Conv(8, 3, 1, (1, 1)), dropout=0.25)
    (tmp_path / "W").mkdir()
    settings.save(
        fixtures.small_config("data.size=100", network=network), tmp_path / "W/config.json"
    )
    return tmp_path


def images(**counts: int) -> str:
    """Writes ./pets with so many images of each of two classes in each split; the flag for it."""
    data_fixtures.write_folder(Path("pets"), counts, ("cat", "왕의 깃발"))
    return "--config.data.source=folder:pets"


def configured(*arguments: str, config: str = "finetune") -> ConfigDict:
    """What `main` makes of arguments, up to where it would start."""
    main.define_flags()
    with flagsaver.flagsaver():
        absl_flags.FLAGS.unparse_flags()
        fields = main.parse_flags(["--workdir=W2", f"--config={config}", *arguments])
        found = main.configuration(fields)
    settings.check(found)
    return found


FROM_W = "--config.init_from=W"


def test_the_network_is_that_of_the_weights_but_for_its_classes(place: Path, capsys) -> None:
    config = configured(FROM_W, images(train=10, val=3))
    there = settings.read(place / "W/config.json")
    assert config.model.classes == 2
    config.model.classes = there.model.classes
    assert config.model == there.model
    assert config.data.size == 100
    assert not config.adapt
    said = capsys.readouterr().out
    assert said == (
        "from W: the network, data.size=100\n"
        "from folder:pets: model.classes=2, data.validation=validation,\n"
        "  data.test=validation, batch_size=8, mesh.data=1\n"
    )


@pytest.mark.parametrize(
    ("counts", "splits"),
    [
        ({"train": 10}, (4.0, "validation", "validation")),
        ({"train": 2}, (0.0, "", "train")),
        ({"train": 10, "test": 1}, (0.0, "", "test")),
        ({"train": 10, "val": 1, "test": 1}, (0.0, "validation", "test")),
    ],
)
def test_the_splits_are_those_that_there_are(
    place: Path, counts: dict[str, int], splits: tuple[Any, ...]
) -> None:
    """Of training images alone every fifth is held out, if there are so many."""
    data = configured(FROM_W, images(**counts)).data
    assert (data.holdout, data.validation, data.test) == splits


def test_a_cache_says_the_same_and_its_size(place: Path, capsys) -> None:
    """Of which nothing can be held out any more."""
    images(train=10)
    assert prepare(["--source=folder:pets", "--out=cache", "--size=110"]) == 0
    config = configured(FROM_W, "--config.data.cache=cache")
    data = config.data
    assert (config.model.classes, data.size, data.holdout, data.test) == (2, 110, 0.0, "train")
    assert prepare(["--source=folder:pets", "--out=small", "--size=60"]) == 0
    with pytest.raises(settings.ConfigError, match=r"data.size=60: .* model.input_size=96"):
        configured(FROM_W, "--config.data.cache=small")


def test_what_is_given_wins(place: Path, capsys) -> None:
    """On the command line, even if it is what `configs/base.py` has; or in a file."""
    given = ("batch_size=128", "model.dropout=0.5", "data.holdout=3", "epochs=2")
    config = configured(FROM_W, images(train=10), *(f"--config.{field}" for field in given))
    assert (config.batch_size, config.model.dropout, config.data.holdout) == (128, 0.5, 3.0)
    assert config.data.test == "validation" and config.mesh.data == 0
    said = capsys.readouterr().out
    assert said.endswith("as given: batch_size=128, model.dropout=0.5, data.holdout=3.0\n")
    Path("own.py").write_text(
        "from alexnet_jax.configs import finetune\n"
        "def get_config():\n"
        "    config = finetune.get_config('fc6')\n"
        "    config.batch_size, config.data.source = 4, 'folder:pets'\n"
        "    return config\n"
    )
    config = configured(FROM_W, config="own.py")
    assert (config.batch_size, config.model.dropout, config.model.classes) == (4, 0.25, 2)


def test_a_run_that_goes_on_needs_neither(place: Path, capsys) -> None:
    """The same command, and what it gave before; a number that was given may be left out."""
    arguments = (FROM_W, images(train=10))
    first = configured(*arguments, "--config.batch_size=2")
    (place / "W2").mkdir()
    settings.save(first, place / "W2/config.json")
    shutil.rmtree("W")
    shutil.rmtree("pets")
    capsys.readouterr()
    assert configured(*arguments, "--config.batch_size=2") == first == configured(*arguments)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config.init_from is missing: whose weights to start from"),
        (["--config.init_from=none"], "--config.init_from=none: there is no run, nor converted"),
        ([FROM_W], "--config.data.source is missing: the images, such as folder:PATH"),
        ([FROM_W, "--config.data.cache=none"], "--config.data.source is missing"),
        ([FROM_W, "--config.data.source=folder:nowhere"], "nowhere"),
        ([FROM_W, "--config.data.cache=nowhere"], "nowhere"),
    ],
)
def test_what_is_missing(place: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as info:
        configured(*arguments)
    assert "\n" not in str(info.value)
    assert not Path("W2").exists()


def test_weights_whose_configuration_is_damaged(place: Path) -> None:
    (place / "W/config.json").write_text("{")
    with pytest.raises(settings.ConfigError, match=r"--config.init_from=W: W/config.json cannot"):
        configured(FROM_W, images(train=1))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (1, 1),
        (3, 2),
        (12, 8),
        (100, 8),
        (200, 16),
        (1000, 64),
        (1279, 64),
        (1280, 128),
        (10**6, 128),
    ],
)
def test_batches(images: int, expected: int) -> None:
    """Powers of two; ten steps an epoch, where they are of eight images at least."""
    assert batch_size_for(images) == expected


def test_from_a_layer_on(capsys) -> None:
    """finetune:fc6 trains fc6, fc7 and fc8."""
    rates = settings.load("finetune:fc6").optim.rates
    assert [layer for layer, rate in rates.items() if rate] == ["fc6", "fc7", "fc8"]
    assert set(settings.load("finetune").optim.rates.values()) == {1.0}
    with pytest.raises(settings.ConfigError, match=r"finetune:fc9: unknown layer 'fc9': one of"):
        settings.load("finetune:fc9")


def test_a_run_s_own_configuration_by_its_file(place: Path) -> None:
    """`--config=W/config.json` is what W was trained with."""
    assert settings.load("W/config.json") == settings.read(place / "W/config.json")
    for spec, words in {
        "none.json": ": there is no file none.json",
        "W/config.json:paper": ": a run's own configuration has no presets",
        "W": " is a directory: W/config.json is what was trained there; to start from its weights",
    }.items():
        with pytest.raises(settings.ConfigError, match=f"--config={spec}{words}"):
            settings.load(spec)


def test_a_configuration_of_before_a_section_was(place: Path) -> None:
    """Runs that began before layers had rates."""
    path = place / "W/config.json"
    now, fields = settings.read(path), json.loads(path.read_text())
    del fields["optim"]["rates"], fields["adapt"]
    path.write_text(json.dumps(fields))
    assert settings.read(path) == now
