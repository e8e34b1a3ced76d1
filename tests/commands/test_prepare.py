"""`python -m alexnet_jax.prepare`, as a user calls it, and what `main` makes of its work."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time

import data_fixtures as fixtures
import glue_reference
import numpy as np
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from data_fixtures import assert_same_files
from ml_collections import ConfigDict
from network_fixtures import small_config
from run_fixtures import rows

from alexnet_jax import main, settings
from alexnet_jax.data.cache import store
from alexnet_jax.data.sources import open_source
from alexnet_jax.prepare import main as prepare_command
from alexnet_jax.run.parts import Parts, build, check_batch
from alexnet_jax.training import train
from alexnet_jax.training.loop import input_stream


def prepare(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alexnet_jax.prepare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_prepare_verify_and_train(tiny, tmp_path, capsys):
    out = tmp_path / "cache"
    flags = [f"--source=folder:{tiny.root}/images", f"--out={out}", "--size=24"]
    done = prepare(*flags)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "4 classes; train 64, validation 20, test 24" in done.stdout
    assert f"--config.data.cache={out} --config.data.size=24" in done.stdout
    assert prepare_command([f"--out={out}"]) == 0
    assert "all 108 images are as they were written" in capsys.readouterr().out
    assert prepare_command(flags) == 0
    assert "is complete already" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        prepare_command([*flags[:2], "--size=22"])
    assert "give another directory" in capsys.readouterr().err

    # Trained from there, from the cache that main makes, and without any: the same run.
    short = ["--config.epochs=1", "--config.data.source=tfds:elsewhere"]
    tiny.train(tmp_path / "w1", *short, f"--config.data.cache={out}")
    tiny.train(tmp_path / "w2", "--config.epochs=1")
    said = tiny.train(tmp_path / "w3", "--config.epochs=1", "--config.data.cache=none")
    assert "every image is decoded in every epoch" in said
    assert rows(tmp_path / "w1") == rows(tmp_path / "w2") == rows(tmp_path / "w3")
    # The cache may move.
    out.rename(tmp_path / "moved")
    tiny.train(
        tmp_path / "w1", *short, "--config.epochs=1.5", f"--config.data.cache={tmp_path}/moved"
    )


def in_process(command: list[str]) -> tuple[ConfigDict, Parts]:
    """What `main` makes of a printed command, up to the first batch."""
    assert command[:3] == ["python", "-m", "alexnet_jax.main"]
    main.define_flags()
    with flagsaver.flagsaver():
        absl_flags.FLAGS.unparse_flags()
        config = main.configuration(main.parse_flags(command[3:]))
    settings.check(config)
    parts = build(config)
    check_batch(config, parts.mesh)
    iter(input_stream(config, parts.cache, parts.model.network, parts.mesh, 10)).close()
    return config, parts


def printed(said: str) -> list[list[str]]:
    """The commands in a text, each on an indented line of its own."""
    return [shlex.split(line) for line in said.splitlines() if line.startswith("    python -m ")]


LAYOUTS = {
    "train": {"train": 1}, "train, val": {"train": 1, "val": 1},
    "train, test": {"train": 1, "test": 1}, "all": {"train": 1, "val": 1, "test": 1},
}  # fmt: skip


TINIEST = small_config("data.size=16", network=glue_reference.network())


@pytest.mark.parametrize(
    ("layout", "size", "images", "classes"),
    [
        ("train", 256, 12, 3), ("train, val", 256, 80, 2), ("all", 256, 12, 2),
        ("train, test", 230, 12, 2), ("train", 128, 80, 20), ("train, val", 128, 12, 3),
        ("all", 128, 80, 2), ("train, test", 150, 7, 3), ("train", 32, 260, 10),
        ("train, val", 32, 12, 3), ("train, test", 32, 12, 3), ("all", 32, 12, 3),
        ("all", 28, 80, 2), ("train, test", 16, 12, 2), ("train", 16, 3, 3),
    ],
)  # fmt: skip
def test_the_printed_command_runs_as_it_is(
    tmp_path, capsys, monkeypatch, layout, size, images, classes
):
    """For every layout, size and number of images; and the training images are no test unsaid."""
    names = tuple(f"class {i}" for i in range(classes))
    counts = LAYOUTS[layout] | {"train": -(-images // classes)}
    fixtures.write_folder(tmp_path / "pets and more", counts, names)
    flags = [f"--source=folder:{tmp_path}/pets and more", f"--size={size}"]
    assert prepare_command([*flags, f"--out={tmp_path}/a cache"]) == 0
    said = capsys.readouterr().out
    *_, command, fine_tuning = printed(said)
    config, (cache, mesh, model) = in_process(command)
    assert (cache.path, model.network.classes) == (str(tmp_path / "a cache"), classes)
    assert (config.data.validation == "") == ("val" not in layout and layout != "all")
    expected = {"train": "train", "train, val": "validation"}.get(layout, "test")
    assert config.data.test == expected
    assert config.batch_size <= counts["train"] * classes and mesh.shape["data"] in (1, 4)
    assert ("Nothing is kept to test on" in said) == (layout == "train")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "W").mkdir()
    settings.save(TINIEST, tmp_path / "W/config.json")
    tuned, (_, _, model) = in_process(fine_tuning)
    assert (tuned.data.test, tuned.data.size) == (expected, size)
    assert model.network.input_size == 16 and model.network.classes == classes
    assert tuned.batch_size <= counts["train"] * classes
    if layout != "train":
        return
    # What is offered instead: prepared with some images held out, which are tested on.
    capsys.readouterr()
    assert printed(said)[0][:3] == ["python", "-m", "alexnet_jax.prepare"]
    assert prepare_command(printed(said)[0][3:]) == 0
    command, _ = printed(capsys.readouterr().out)
    config, (cache, _, _) = in_process(command)
    assert config.data.test == config.data.validation == "validation"
    assert len(cache.images["validation"]) == max(1, counts["train"] * classes // 10)


def test_images_too_small_to_train_on(tmp_path, capsys):
    fixtures.write_folder(tmp_path / "pets", {"train": 2}, ("cat", "dog"))
    assert (
        prepare_command([f"--source=folder:{tmp_path}/pets", f"--out={tmp_path}/c", "--size=14"])
        == 0
    )
    said = capsys.readouterr().out
    assert "Too small to train on: prepare images of 15 pixels or more" in said and not printed(
        said
    )


def test_the_printed_command_trains(tmp_path, capsys):
    """Twelve images; with fewer units and epochs, that it may be quick."""
    fixtures.write_folder(tmp_path / "pets", {"train": 6, "val": 2}, ("cat", "dog"))
    arguments = [f"--source=folder:{tmp_path}/pets", f"--out={tmp_path}/c", "--size=16"]
    assert prepare_command(arguments) == 0
    command, _ = printed(capsys.readouterr().out)
    fewer = [f"--config.model.conv{i}.width=2" for i in range(1, 6)]
    fewer += [f"--config.model.fc{i}.width=2" for i in (6, 7)]
    config, _ = in_process([*command, *fewer, "--config.epochs=2"])
    scores = train(config, tmp_path / "w")
    assert "12 training images, 2 classes; 3 steps of 8" in capsys.readouterr().out
    assert [score.examples for score in scores] == [4, 4]


def test_what_is_asked_of_a_cache_that_is_there_is_not_ignored(tmp_path, capsys):
    fixtures.write_folder(tmp_path / "pets", {"train": 4}, ("cat", "dog"))
    out, source = f"--out={tmp_path}/c", f"--source=folder:{tmp_path}/pets"
    assert prepare_command([source, out, "--size=16", "--holdout=2"]) == 0
    for arguments, message in (
        ([out, "--size=32"], "--size=32: .* holds images of 16 pixels"),
        ([out, "--holdout=0.5"], r"--holdout=0\.5: .* was made with --holdout=2"),
        ([source, out, "--size=32", "--holdout=2"], "asked for is .* at 32 pixels"),
        ([source, out, "--size=16"], "at 16 pixels with holdout=2; asked for is .*give another"),
        ([source, out, "--holdout=8"], "--holdout=8: expected 1 to 7"),
    ):
        with pytest.raises(SystemExit):
            prepare_command(arguments)
        assert re.search(message, capsys.readouterr().err)
    assert prepare_command([out, "--size=16", "--holdout=2"]) == 0
    assert "all 8 images are as they were written" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "pets"]


def test_messages_name_the_flags_of_the_command(tmp_path, capsys):
    """Not the fields of a configuration, which this command has none of."""
    for arguments in (
        ["--source=tfds:not_there", f"--data_dir={tmp_path}"],
        ["--source=folder:/not/there", "--holdout=3"],
        ["--source=fashion_mnist", f"--data_dir={tmp_path}", "--holdout=1e9"],
    ):
        with pytest.raises(SystemExit):
            prepare_command([*arguments, f"--out={tmp_path}/c", "--size=32"])
        error = capsys.readouterr().err
        assert not re.search(r"config\.data|data\.(dir|holdout|size|source)", error), error
    fixtures.write_folder(tmp_path / "pets", {"train": 2}, ("cat", "dog"))
    with pytest.raises(SystemExit):
        prepare_command(
            [f"--source=folder:{tmp_path}/pets", f"--out={tmp_path}/c", "--size=400000"]
        )
    assert "(--data_dir, or --out of alexnet_jax.prepare)" in capsys.readouterr().err


def test_what_a_source_leaves_out_is_said(tmp_path, capsys):
    fixtures.write_folder(tmp_path / "pets", {"train": 2}, ("cat", "dog"))
    (tmp_path / "pets/train/cat/x.heic").write_text("a poem")
    assert (
        prepare_command([f"--source=folder:{tmp_path}/pets", f"--out={tmp_path}/c", "--size=16"])
        == 0
    )
    said = capsys.readouterr().out
    left_out = open_source(f"folder:{tmp_path}/pets").left_out
    assert (str(left_out) in said) == bool(left_out)


def test_sigterm_keeps_what_was_prepared(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 1200}, ("cat", "dog"))
    flags = [f"--source=folder:{tmp_path}/pets", "--size=256", "--holdout=0.25"]
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_jax.prepare", *flags, f"--out={tmp_path}/c"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    images = tmp_path / "c.partial" / "train.images.npy"
    while not (images.exists() and images.stat().st_size > 128 * 256 * 256 * 3):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and errors == ""
    assert "what was prepared is kept; give the same command again" in out
    with np.load(tmp_path / "c.partial" / "progress.npz") as progress:
        assert json.loads(str(progress["facts"]))["read"]["train"] >= 64
    done = prepare(*flags, f"--out={tmp_path}/c")
    assert done.returncode == 0 and "less what is in" in done.stdout, done.stderr
    prepare(*flags, f"--out={tmp_path}/at_once", "--workers=1")
    assert_same_files(tmp_path / "c", tmp_path / "at_once")
    cache = store.open_cache(str(tmp_path / "c"))
    assert {name: len(images) for name, images in cache.images.items()} == {
        "train": 1800, "validation": 600,
    }  # fmt: skip


def test_bad_images(tmp_path):
    fixtures.write_folder(tmp_path / "pets", {"train": 4, "val": 2}, ("cat", "dog"))
    (tmp_path / "pets" / "train" / "dog" / "2.png").write_text("a poem")
    flags = [f"--source=folder:{tmp_path}/pets", f"--out={tmp_path}/c", "--size=16"]
    done = prepare(*flags)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "error: " in done.stderr and "train/dog/2.png" in done.stderr
    done = prepare(*flags, "--on_bad_image=skip")
    assert done.returncode == 0 and "train       " in done.stdout
    assert re.search(r"left out +1 images", done.stdout) and "train/dog/2.png: " in done.stdout


def test_a_prepared_tfds_directory(tmp_path):
    fixtures.prepare_tfds(fixtures.TinyPhotos, tmp_path)
    flags = ["--source=tfds:tiny_photos", f"--data_dir={tmp_path}", f"--out={tmp_path}/c"]
    done = prepare(*flags, "--size=32")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    again = prepare(*flags, "--size=32")
    assert again.returncode == 0 and "is complete already" in again.stdout, again.stderr
    cache = store.open_cache(str(tmp_path / "c"))
    assert len(cache.images["train"]) == 12 and len(cache.images["validation"]) == 4
    assert sorted(name for _, _, name in cache.rows("train")) == sorted(map(str, range(12)))


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--source=embedded"], 2, "--out is missing"),
        (["--source=nonsense", "--out=c"], 1, "unknown data source 'nonsense'"),
        (["--out=c"], 1, "c is no cache"),
        (["--source=embedded", "--out=c", "--size=0"], 2, "size"),
        (["--source=embedded", "--out=c", "--on_bad_image=ignore"], 2, "on_bad_image"),
        (["--source=ilsvrc:/not/there", "--out=c"], 1, "ILSVRC2012_img_train.tar"),
        (["somewhere"], 2, "unexpected argument 'somewhere'"),
    ],
)
def test_what_is_refused(tmp_path, flags, code, message):
    done = prepare(*flags, cwd=tmp_path)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "c").exists()
