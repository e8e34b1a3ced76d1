"""The full network of 2012 from the command line, on a few images under ImageNet's name."""

import shutil
from pathlib import Path

import data_fixtures
import numpy as np
import run_fixtures as fixtures
import tensorflow_datasets as tfds
from run_fixtures import Tiny


class Imagenet2012(tfds.core.GeneratorBasedBuilder):
    """TFDS's name, version, splits and features, with 16 pictures of ours."""

    VERSION = tfds.core.Version("5.1.0")

    def _info(self) -> tfds.core.DatasetInfo:
        names = [f"n{number:08}" for number in range(1000)]
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=names),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples(0, 8, 1),
            "validation": self._generate_examples(8, 12, 1),
            "test": self._generate_examples(12, 16, 0),
        }

    def _generate_examples(self, start, stop, labelled):
        for i in range(start, stop):
            encoded = data_fixtures.encode(data_fixtures.photo(i, 270, 300))
            label = 61 * i if labelled else -1  # the test split's labels are not public
            yield i, {"image": encoded, "label": label, "file_name": f"{i}.JPEG"}


def test_the_2012_run_takes_two_steps_is_killed_resumes_and_evaluates(tmp_path: Path) -> None:
    directory = data_fixtures.prepare_tfds(Imagenet2012, tmp_path / "tfds")
    assert (directory.parent.name, directory.name) == ("imagenet2012", "5.1.0")
    workdir = tmp_path / "run"
    # 4 images a step, and a checkpoint each.
    arguments = (
        f"--workdir={workdir}",
        "--config=imagenet",
        f"--config.data.dir={tmp_path / 'tfds'}",
        "--config.batch_size=4",
        "--config.eval_batch_size=4",
        "--config.epochs=1",
        "--config.log_every=1",
        "--config.checkpoint_every=0.5",
    )
    program, as_a_user = Tiny(tmp_path), {"XLA_FLAGS": ""}  # it computes more than it compiles
    process = program.start(*arguments, env=as_a_user)
    assert fixtures.wait_until(process, lambda: fixtures.checkpoint_steps(workdir) == [1])
    out = fixtures.kill(process)
    assert "2 steps of 4 on a mesh of 1 x 2" in out

    done = program.run(*arguments, env=as_a_user)
    assert (done.returncode, done.stderr) == (0, "")
    assert "resuming from the checkpoint of step 1" in done.stdout
    arrays = fixtures.arrays(workdir / "checkpoints" / "2")
    parameters = [array for name, array in arrays.items() if name.startswith("model/params.")]
    assert sum(array.size for array in parameters) == 60_965_224
    assert all(np.isfinite(array).all() for array in parameters)
    rows = fixtures.rows(workdir)
    assert [(row["split"], row["step"], row["views"]) for row in rows] == [
        ("train", 1, 1), ("train", 2, 1), ("validation", 2, 1), ("test", 2, 1), ("test", 2, 10),
    ]  # fmt: skip
    # Initial weights know nothing: ln(1000) = 6.908, here of four images.
    assert abs(rows[0]["loss"] - 6.908) < 0.5

    done = program.run(f"--workdir={workdir}", "--mode=evaluate", env=as_a_user)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"loss {rows[-1]['loss']:.4f} in ten views of 4 images" in done.stdout
    shutil.rmtree(workdir)  # 500 MB a checkpoint
