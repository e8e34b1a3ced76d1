"""The command line: `python -m alexnet_jax.main --workdir=DIR`.

Trains the run of DIR, or goes on with it. `--config` names what to train; any field of it can be
set with `--config.FIELD=VALUE`, and `--mode` does something else with the run.
"""

import os
import re
from pathlib import Path

from absl import app, flags

from alexnet_jax import cli

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FLAGS = flags.FLAGS

MODES = ("train", "evaluate", "describe")


def define_flags() -> None:
    """Defines the flags; once, and not at import, so that notebooks may import this module."""
    if "workdir" in FLAGS:
        return
    flags.DEFINE_string("workdir", None, "Directory of the run; made if it is not there.")
    flags.DEFINE_string(
        "config",
        None,
        "What to train: a name of alexnet_jax/configs (embedded, the default; fashion_mnist; "
        "imagenet; half; ...), NAME:PRESET for another reading of the paper (paper, source, "
        "reconciled), or a file PATH.py with a get_config. Set any field: --config.batch_size=64",
    )
    flags.DEFINE_enum("mode", "train", MODES, "What to do.")
    flags.DEFINE_bool("best", False, "evaluate: the best checkpoint by validation, not the last.")
    flags.DEFINE_list("ensemble", None, "evaluate: more runs, W2,W3,..., tested alone and as one.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses all but the fields of the configuration, which are returned."""
    fields = [re.fullmatch(r"--?config\.(.*)", argument, re.DOTALL) for argument in argv]
    cli.parse([a for a, field in zip(argv, fields, strict=True) if not field], define_flags)
    if not FLAGS.workdir and FLAGS.mode != "describe":
        cli.refuse(
            "--workdir is missing: a directory for the run, such as --workdir=/tmp/alexnet", 2
        )
    if FLAGS.ensemble is not None and FLAGS.mode != "evaluate":
        cli.refuse(f"--ensemble with --mode={FLAGS.mode}: it is for --mode=evaluate", 2)
    return [field[1] for field in fields if field]


def main(fields: list[str]) -> None:
    """Does what the flags say."""
    with cli.mendable(FLAGS.workdir):
        run(fields)


def run(fields: list[str]) -> None:
    """The three modes."""
    from alexnet_jax import config as config_lib
    from alexnet_jax.build import start_devices

    workdir = Path(FLAGS.workdir) if FLAGS.workdir else None
    saved = workdir / "config.json" if workdir is not None else None
    if saved is not None and (FLAGS.mode == "evaluate" or (not FLAGS.config and saved.exists())):
        config = config_lib.read(saved)  # the run's own
        if FLAGS.config:
            asked = config_lib.override(config_lib.load(FLAGS.config), fields)
            config_lib.check_same_run(config, asked, saved.parent)
            config = asked
    else:
        default = "imagenet" if FLAGS.mode == "describe" else "embedded"
        config = config_lib.load(FLAGS.config or default)
    config = config_lib.override(config, fields)
    if FLAGS.mode == "evaluate" and saved and config.model != config_lib.read(saved).model:
        raise config_lib.ConfigError(
            f"{workdir} holds checkpoints of its own network: leave out --config.model. to test it"
        )
    config_lib.check(config)
    start_devices(config)

    if FLAGS.mode == "describe":
        from alexnet_jax.describe import table

        print(table(config_lib.network(config)))
        return
    assert workdir is not None
    if FLAGS.mode == "train":
        from alexnet_jax.train import train

        train(config, workdir)
    elif FLAGS.ensemble is not None:
        from alexnet_jax.ensemble import evaluate_ensemble

        evaluate_ensemble(config, [workdir, *map(Path, FLAGS.ensemble)], best=FLAGS.best)
    else:
        from alexnet_jax.evaluate import evaluate_run

        evaluate_run(config, workdir, best=FLAGS.best)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
