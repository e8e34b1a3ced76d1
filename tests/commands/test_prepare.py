"""`python -m alexnet_jax.prepare`, as a user calls it, and what `main` makes of its work."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time

import data_fixtures as fixtures
import numpy as np
import pytest
from data_fixtures import assert_same_files
from run_fixtures import Tiny, rows

from alexnet_jax import settings
from alexnet_jax.data.cache import store
from alexnet_jax.data.cache.building import make_cache
from alexnet_jax.data.preparing import report
from alexnet_jax.data.sources import open_source
from alexnet_jax.run.parts import build


def prepare(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alexnet_jax.prepare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def test_prepare_verify_and_train(tiny, tmp_path):
    out = tmp_path / "cache"
    flags = [f"--source=folder:{tiny.root}/images", f"--out={out}", "--size=24"]
    done = prepare(*flags)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "4 classes; train 64, validation 20, test 24" in done.stdout
    assert f"--config.data.cache={out} --config.data.size=24" in done.stdout
    done = prepare(f"--out={out}")
    assert done.returncode == 0 and "all 108 images are as they were written" in done.stdout
    done = prepare(*flags)
    assert done.returncode == 0 and "is complete already" in done.stdout
    done = prepare(f"--source=folder:{tiny.root}/images", f"--out={out}", "--size=22")
    assert done.returncode == 1 and "give another directory" in done.stderr

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


@pytest.mark.parametrize(
    ("counts", "size", "tested"),
    [
        ({"train": 2}, 256, "train"),
        ({"train": 2, "test": 1}, 256, "test"),
        ({"train": 2, "val": 1}, 256, "validation"),
        ({"train": 2, "val": 1, "test": 1}, 230, "validation"),
    ],
)
def test_the_printed_command_fits_what_was_prepared(tmp_path, capsys, counts, size, tested):
    """Its fields, whatever splits, classes and size there are, make a run that can be built."""
    fixtures.write_folder(tmp_path / "pets and more", counts, ("cat", "dog", "emu"))
    source = open_source(f"folder:{tmp_path}/pets and more")
    report(make_cache(source, size, str(tmp_path / "a cache")))
    command = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert command[:3] == ["python", "-m", "alexnet_jax.main"]
    fields = [a.removeprefix("--config.") for a in command if a.startswith("--config.")]
    (name,) = (a.removeprefix("--config=") for a in command if a.startswith("--config="))
    config = settings.override(settings.load(name), fields)
    cache, _, model = build(config)
    assert (cache.path, model.network.classes) == (str(tmp_path / "a cache"), 3)
    assert config.data.test == tested
    assert (config.data.validation == "") == ("val" not in counts)


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
