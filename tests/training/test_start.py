"""How a run starts, goes on and ends: what it refuses, keeps, and where it finds its data."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.configs import base
from alexnet_jax.errors import UserError
from alexnet_jax.run import inputs, versions
from alexnet_jax.run.checkpoint import SAVED
from alexnet_jax.run.devices import enough_memory
from alexnet_jax.training import session
from alexnet_jax.training.update_rule import schedules

TRAINED = {"split": "train", "views": 1, "loss": 2.0}


def write_run(workdir: Path, *rows: dict[str, Any], saved: bool = False) -> ConfigDict:
    """A run's `config.json` and metrics, without checkpoints."""
    config = base.get_config()
    config.checkpoint_every = 0.5
    settings.save(config, workdir / "config.json")
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if saved:
        (workdir / SAVED).write_text("8\n")
    return config


# --- checkpoints that are gone --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "saved"),
    [
        ([{"step": 8, "epoch": 0.5, **TRAINED}], True),  # its mark says that it was saved
        ([{"step": 24, "epoch": 1.1, **TRAINED}], False),  # an earlier version's, by its length
        ([{"step": 8, "epoch": 0.5, **TRAINED | {"split": split, "views": views}}
          for split, views in (("test", 1), ("test", 10))], False),  # or because it was tested
    ],
)  # fmt: skip
def test_a_run_whose_checkpoints_are_gone_is_not_started_over(
    tmp_path: Path, rows: list[dict[str, Any]], saved: bool
) -> None:
    config = write_run(tmp_path, *rows, saved=saved)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as info:
        session.check_never_saved(tmp_path / "config.json", config)
    words = f"{tmp_path} has metrics up to step {rows[-1]['step']} but no checkpoint: put"
    assert str(info.value).startswith(words)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    (tmp_path / "metrics.jsonl").rename(tmp_path / "metrics.old")  # as the message says
    session.check_never_saved(tmp_path / "config.json", config)
    # From here on it is a new run, which may be killed before its first checkpoint.
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 4, "epoch": 0.25, **TRAINED}))
    session.check_never_saved(tmp_path / "config.json", config)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    config = write_run(tmp_path, {"step": 8, "epoch": 1.0, **TRAINED})
    session.check_never_saved(tmp_path / "config.json", config)
    session.check_never_saved(tmp_path / "none" / "config.json", config)


def test_who_saves_at_every_step_may_be_killed_before_the_first(tmp_path: Path) -> None:
    """A step can be more of an epoch than `checkpoint_every` is."""
    config = write_run(tmp_path, {"step": 1, **TRAINED}, {"step": 1, "epoch": 1.5, **TRAINED})
    session.check_never_saved(tmp_path / "config.json", config)


# --- what is saved is what was trained ------------------------------------------------------------


def test_a_finished_run_keeps_its_configuration_but_for_where_its_data_are(tmp_path: Path) -> None:
    trained = write_run(tmp_path)
    saved = tmp_path / "config.json"
    asked = settings.override(trained, ["epochs=1", "eval_every=0.5", "data.dir=/elsewhere"])
    session.save_configuration(asked, saved, finished=True)
    assert settings.read(saved) == settings.override(trained, ["data.dir=/elsewhere"])
    session.save_configuration(asked, saved, finished=False)
    assert settings.read(saved) == asked
    saved.unlink()
    asked = settings.override(asked, ["data.source=folder:pets"])
    session.save_configuration(asked, saved, finished=True)
    assert settings.read(saved) == settings.absolute(asked) != asked


def test_the_input_is_written_once(tmp_path: Path) -> None:
    """A reader never sees half of it: what is there is left alone, or replaced as a whole."""
    mean, names = np.full((4, 4, 3), 7.0), ["a", "b\udcff"]
    inputs.write_input(tmp_path, mean, names)
    files = sorted((tmp_path / "input").iterdir())
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    inputs.write_input(tmp_path, mean, names)
    assert before == [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    with files[0].open("rb") as reader:  # opened before, read after
        inputs.write_input(tmp_path, mean, ["a", "c"])
        assert reader.read() == b"a\nb\xff\n"
    assert files[0].read_bytes() == b"a\nc\n"
    assert sorted((tmp_path / "input").iterdir()) == files
    assert files[1].stat().st_ino == before[1][0]


# --- results and pictures -------------------------------------------------------------------------


def test_a_picture_that_fails_is_said_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alexnet_jax.pictures import figure3

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure3, "kernels", fail)
    session.draw(np.zeros((5, 5, 3, 4), np.float32), 2, tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"note: {tmp_path / 'figures'} could not be drawn ([Errno 28] No space left on device); "
        "the run is complete"
    )


# --- resuming -------------------------------------------------------------------------------------


def resumed(record: dict[str, Any]) -> int:
    """The step that `resume` goes on from, with a checkpoint of this record."""
    state: Any = SimpleNamespace(trees=dict, with_trees=lambda trees: "state")
    checkpoints: Any = SimpleNamespace(
        restore=lambda abstract, mesh: ({}, record), discard_after=lambda step: [],
        directory=Path("W/checkpoints"),
    )  # fmt: skip
    batches = SimpleNamespace(set_state=lambda position: None)
    cache: Any = SimpleNamespace(fingerprint="f00d", path="here")
    return session.resume(state, batches, checkpoints, cache, None)[1]  # type: ignore[arg-type]


def test_other_versions_of_libraries_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"dataset": "f00d", "step": 8, "input": {}}
    now = versions.installed()
    for known in ({}, {"versions": now}):  # an earlier version's, or the same
        assert resumed(record | known) == 8
        assert capsys.readouterr().out == "resuming from the checkpoint of step 8\n"
    resumed(record | {"versions": now | {"numpy": "1.0"}})
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"note: that checkpoint was saved with numpy 1.0, now {now['numpy']}; ")


def test_other_images_are_refused_by_their_fingerprint() -> None:
    with pytest.raises(UserError, match=r"other data than here holds now \(fingerprint beef"):
        resumed({"dataset": "beef", "step": 8, "input": {}})


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "dtype", "words"),
    [
        (["batch_size", "eval_batch_size"], "float32",
         "--config.batch_size=128 and --config.eval_batch_size=128 in --config.dtype=float32: give "
         "fewer images at a time, or --config.dtype=bfloat16"),
        (["batch_size"], "bfloat16",
         "--config.batch_size=128 in --config.dtype=bfloat16: give fewer images at a time"),
        (["eval_batch_size"], "bfloat16",
         "--config.eval_batch_size=128 in float32, as every test is: give fewer images at a time"),
    ],
)  # fmt: skip
def test_a_device_that_is_out_of_memory(fields: list[str], dtype: str, words: str) -> None:
    config = base.get_config()
    config.dtype = dtype
    with pytest.raises(UserError) as info, enough_memory(config, *fields):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
    assert str(info.value) == f"a device is out of memory, with {words}"


def test_other_errors_of_a_device_are_not_taken_for_that() -> None:
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        enough_memory(base.get_config(), "batch_size"),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


# --- conv1's slow rate ----------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 1e-6, 0.08])
def test_the_slow_rate_of_conv1_is_a_share_of_the_rate(rate: float) -> None:
    """The notes' 1e-5 at the paper's 0.01."""
    optim = base.get_config("source").optim
    optim.learning_rate = rate
    conv1 = schedules(optim, 100)["conv1"]
    assert float(conv1(75)) == pytest.approx(rate / 1000)
    assert rate != 0.01 or conv1(75) == np.float32(1e-5)
    assert float(conv1(80)) == 0


# --- places ---------------------------------------------------------------------------------------


def test_what_is_saved_means_the_same_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    config = base.get_config()
    for field, given, expected in (
        ("data.source", "folder:pets", f"folder:{tmp_path}/pets"),
        ("data.source", "idx:~/pets/", "idx:/home/me/pets"),
        ("data.source", "tfds:imagenet2012", "tfds:imagenet2012"),
        ("data.source", "embedded/tiny", "embedded/tiny"),
        ("data.dir", "../data", f"{tmp_path.parent}/data"),
        ("data.dir", "gs://bucket/data", "gs://bucket/data"),
        ("data.cache", "~/cache", "/home/me/cache"),
        ("data.cache", "none", "none"),
        ("init_from", "W", f"{tmp_path}/W"),
    ):
        changed = settings.override(config, [f"{field}={given}"])
        assert settings.flatten(settings.absolute(changed))[field] == expected
        assert settings.flatten(changed)[field] == given
    unset = settings.absolute(config)
    assert (unset.data.dir, unset.data.cache, unset.init_from) == (None, None, None)


def test_a_run_goes_on_with_its_data_at_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not with data of another kind, which no fingerprint need be computed to refuse."""
    monkeypatch.chdir(tmp_path)

    def check(before: str, now: str, *more: str) -> None:
        config = base.get_config()
        saved = settings.override(config, [f"data.source={before}"])
        asked = settings.override(config, [f"data.source={now}", *more])
        settings.check_same_run(saved, asked, tmp_path)

    check("folder:/old/pets", "folder:new/pets")
    check("ilsvrc:/a", "ilsvrc:/b", "data.dir=/c")
    check("folder:pets", f"folder:{tmp_path}/pets")
    for before, now in (
        ("folder:pets", "idx:pets"),
        ("embedded", "fashion_mnist"),
        ("embedded/full", "embedded/tiny"),
        ("tfds:cifar10", "tfds:mnist"),
    ):
        with pytest.raises(settings.ConfigError, match=r"configuration: data\.source \("):
            check(before, now)
    with pytest.raises(settings.ConfigError, match=r"data\.size"):
        check("folder:a", "folder:b", "data.size=300")
