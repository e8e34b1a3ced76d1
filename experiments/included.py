"""Makes the network that comes with the package: `alexnet_jax.load()`.

    python -m experiments.included [--seed=0] [--publish]

Trains the README's first command, rounds the weights to eleven binary digits (those of float16; the
arrays stay float32, and a checkpoint packs the zeros) and leaves out all that only training needs.
What is left is a directory like that of a run. summary.json has the test errors before and after;
`--publish` puts the directory into the package.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.evaluator import evaluate_run
from alexnet_jax.files import INCLUDED
from alexnet_jax.model import make_mesh
from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.run.restore import restore_weights
from experiments.shared import runs
from experiments.shared.command import Flags, Results, number, say, start

CONFIG = "embedded"
DIGITS = 11  # binary, of a weight
MOST = 4_000_000  # bytes


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, rounds and tests."""
    flags = Flags("included", __doc__)
    flags.add_argument("--seed", type=number(0), default=0, help="Of the run.")
    arguments = flags.parse(argv)
    results = Results("included", arguments)
    trained, network = results.folder / "trained", results.folder / "network"
    runs.train(results, trained.name, CONFIG, [f"seed={arguments.seed}"])
    shutil.rmtree(network, ignore_errors=True)
    step = keep_weights(trained, network)
    errors = [errors_of(trained), errors_of(network)]
    (network / "metrics.jsonl").write_bytes((trained / "metrics.jsonl").read_bytes())
    size = sum(file.stat().st_size for file in network.rglob("*") if file.is_file())
    if size > MOST:
        raise UserError(f"{size:,} bytes, and a package may have {MOST:,} of them")
    say(f"{size:,} bytes")
    summary = {
        "seed": arguments.seed,
        "step": step,
        "bytes": size,
        "top1_error": dict(zip(("as trained", "rounded"), errors, strict=True)),
    }
    results.write("summary.json", results.made_by() | summary)
    if arguments.publish:
        shutil.rmtree(INCLUDED, ignore_errors=True)
        shutil.copytree(network, INCLUDED)
    results.finish()


def keep_weights(trained: Path, network: Path) -> int:
    """Writes a run's last weights, rounded, as a directory of weights alone; the step they are of.

    Args:
        trained: directory of the run.
        network: the directory to make.
    """
    config = settings.read(trained / "config.json")
    mesh = make_mesh(1, 1)
    variables, record = restore_weights(config, trained, mesh)
    variables = jax.tree.map(
        lambda array: jax.device_put(rounded(array), array.sharding), variables
    )
    with Checkpoints(network / "checkpoints") as checkpoints:
        checkpoints.save(0, {"model": variables}, {"dataset": None, "input": None}, None)
    for name in ("input", "config.json"):
        copy = shutil.copytree if (trained / name).is_dir() else shutil.copy
        copy(trained / name, network / name)
    (network / ".saved").unlink(missing_ok=True)
    for said in network.rglob("commit_success.txt"):  # it names the directory
        said.write_text("")
    return int(record["step"])


def rounded(array: Any, digits: int = DIGITS) -> np.ndarray:
    """Numbers to the nearest that have so many binary digits, float32."""
    mantissa, exponent = np.frexp(np.asarray(array, np.float32))
    return np.ldexp(np.round(np.ldexp(mantissa, digits)), exponent - digits)


def errors_of(workdir: Path) -> dict[str, float]:
    """Top-1 error of the test split, by the number of views."""
    scores = evaluate_run(settings.read(workdir / "config.json"), workdir)
    return {str(score.views): score.top1_error for score in scores}


if __name__ == "__main__":
    start(main)
