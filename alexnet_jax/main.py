"""The command line: `python -m alexnet_jax.main --workdir=DIR`.

Trains the run of DIR, or resumes it. `--config` names what to train; any field of it can be set
with `--config.FIELD=VALUE`, and `--mode` does something else with the run.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from alexnet_jax import cli, streams
from alexnet_jax.errors import UserError
from alexnet_jax.files import check_writable
from alexnet_jax.run import hosts, joining
from alexnet_jax.signals import COMMAND

if TYPE_CHECKING:
    from ml_collections import ConfigDict

FLAGS = flags.FLAGS
MODES = ("train", "evaluate", "describe", "config")


def define_flags() -> None:
    """Defines the flags; once, and not at import, so that notebooks may import this module."""
    if "workdir" in FLAGS:
        return
    flags.DEFINE_string("workdir", None, "Directory of the run; made if it is not there.")
    flags.DEFINE_string(
        "config",
        None,
        "What to train: a name of alexnet_jax/configs (embedded, the default; fashion_mnist; "
        "imagenet, the default of describe and config; half; ...), NAME:PRESET for another reading "
        "of the paper (paper, source, reconciled), a file PATH.py with a get_config, or a run's "
        "config.json. Set any field: --config.batch_size=64",
    )
    flags.DEFINE_enum(
        "mode",
        "train",
        MODES,
        "train; evaluate: test a run again, in one view and in ten; describe: the network, layer "
        "by layer; config: every field with its meaning.",
    )
    flags.DEFINE_bool("best", False, "evaluate: the best checkpoint by validation, not the last.")
    flags.DEFINE_bool("report", False, "evaluate: also write report/: a page, tables, pictures.")
    flags.DEFINE_list("ensemble", None, "evaluate: more runs, W2,W3,..., tested alone and as one.")
    environment = os.environ.get
    flags.DEFINE_string(
        "coordinator",
        environment("JAX_COORDINATOR_ADDRESS"),
        "Several processes: HOST:PORT of process 0. Under SLURM, Open MPI, Kubernetes and on Cloud "
        "TPU the three are known.",
    )
    flags.DEFINE_integer(
        "processes", environment("JAX_NUM_PROCESSES"), "Several processes: how many."
    )
    flags.DEFINE_integer(
        "process", environment("JAX_PROCESS_ID"), "Several processes: which this is, from 0."
    )
    flags.DEFINE_integer(
        "patience",
        hosts.PATIENCE,
        "Several processes: seconds after which one that does not answer has gone.",
        lower_bound=1,
    )
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
    flags.DEFINE_string("compare", None, "config: another configuration; only what differs.")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses all but the fields of the configuration, which are returned."""
    fields = [re.fullmatch(r"--?config\.(.*)", argument, re.DOTALL) for argument in argv]
    others = [a for a, field in zip(argv, fields, strict=True) if not field]
    cli.parse_absl("main", __doc__ or "", others, define_flags)
    for flag in ("workdir", "config", "compare", "ensemble"):
        given = FLAGS[flag].value or None
        if isinstance(given, list):
            FLAGS[flag].value = [cli.path(path) for path in given]
        elif given is not None:
            FLAGS[flag].value = cli.path(given)
    if not FLAGS.workdir and FLAGS.mode in ("train", "evaluate"):
        cli.refuse(
            "--workdir is missing: a directory for the run, such as --workdir=/tmp/alexnet", 2
        )
    of_one_mode = dict.fromkeys(("ensemble", "report", "best"), "evaluate") | {"compare": "config"}
    for flag, mode in of_one_mode.items():
        if FLAGS[flag].value not in (None, False) and FLAGS.mode != mode:
            cli.refuse(f"--{flag} with --mode={FLAGS.mode}: it is for --mode={mode}", 2)
    if FLAGS.report and FLAGS.ensemble is not None:
        cli.refuse("--report with --ensemble: a report is of one run, give one of the two", 2)
    return [field[1] for field in fields if field]


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the flags say; the exit code."""
    fields = parse_flags(sys.argv[1:] if argv is None else argv)
    training = FLAGS.mode == "train"
    with cli.errors_in_one_line(
        "what was saved is kept" if training or FLAGS.report else "nothing was changed",
        again="; give the same command again to resume" if training else "",
        answers=not training,
    ):
        run(fields)
    return 0


def configuration(fields: list[str]) -> "ConfigDict":
    """The configuration that the flags name, the run's own if there is one.

    Raises:
        ConfigError: there is none, or it is not that of the run.
    """
    from alexnet_jax import settings

    saved = Path(FLAGS.workdir) / "config.json" if FLAGS.workdir else None
    if saved is None or (FLAGS.mode != "evaluate" and (FLAGS.config or not saved.exists())):
        default = "embedded" if FLAGS.mode == "train" else "imagenet"
        config = settings.override(settings.load(FLAGS.config or default), fields)
        if FLAGS.mode != "train" and not config.init_from:
            return config  # to be looked at
        return settings.adapt(config, fields, FLAGS.workdir)
    own = settings.read(saved)
    config = settings.override(settings.load(FLAGS.config) if FLAGS.config else own, fields)
    config = settings.adapt(config, fields, FLAGS.workdir)
    if FLAGS.config:
        settings.check_same_run(own, config, saved.parent)
    if FLAGS.mode == "evaluate" and config.model != own.model:
        raise settings.ConfigError(
            f"{saved.parent} holds checkpoints of its own network: leave out --config.model. to "
            "test it"
        )
    if FLAGS.mode == "evaluate" and config.data.size != own.data.size:
        raise settings.ConfigError(
            f"--config.data.size={config.data.size}: the mean image of {saved.parent} has "
            f"{own.data.size} pixels a side: leave it out to test the run"
        )
    return config


def join() -> None:
    """Meets the other processes, if there are any; the first one alone is heard from then on."""
    joining.join(FLAGS.coordinator, FLAGS.processes, FLAGS.process, FLAGS.patience, listen=True)
    if not hosts.first():
        streams.silence()
        COMMAND.output = 2  # what it alone has to say, such as that it was asked to stop


def check_same(config: "ConfigDict") -> None:
    """Refuses to work with a process that was told otherwise.

    Raises:
        UserError: its command, its configuration or its libraries are others. Where data lie may
            differ: what is in them is compared later.
    """
    from alexnet_jax import settings
    from alexnet_jax.run import versions

    hosts.check_same("the version of ", versions.installed())
    names = ("mode", "workdir", "best", "report", "ensemble")
    flags_ = {f"--{flag}": FLAGS[flag].value for flag in names}
    fields = {f"--config.{field}": value for field, value in settings.flatten(config).items()}
    for field in ("--config.data.dir", "--config.data.cache"):
        fields.pop(field)
    hosts.check_same("", flags_ | fields)


def check_report(files: Sequence[Path]) -> None:
    """Refuses to write a report over what is none of this program's, before any work.

    Args:
        files: that would be written; the first has the mark, also for the others.

    Raises:
        UserError: one is there, or the folder cannot be written.
    """
    folder = files[0].parent
    check_writable(folder.parent)
    if not cli.is_ours(files[0]):
        for file in (*files, *([] if folder.is_dir() else [folder])):
            if os.path.lexists(file):
                raise UserError(
                    f"{file} is there already and was not written by this program: move it away"
                )


def run(fields: list[str]) -> None:
    """Does what the mode says."""
    from alexnet_jax import settings

    if FLAGS.mode in ("train", "evaluate"):
        join()
    with hosts.together():
        config = configuration(fields)
        settings.check(config)
    if FLAGS.mode == "config":
        from alexnet_jax.settings import listing

        other = FLAGS.compare and settings.load(FLAGS.compare)
        print(listing.compared(config, other) if other else listing.listed(config))
        return
    from alexnet_jax.run.devices import start_devices

    start_devices(config)
    check_same(config)
    if FLAGS.mode == "describe":
        from alexnet_jax.pictures.network_table import network_table

        print(network_table(settings.network(config)))
        return
    workdir = Path(FLAGS.workdir)
    if FLAGS.mode == "train":
        from alexnet_jax.training import train

        train(config, workdir)
    elif FLAGS.ensemble is not None:
        from alexnet_jax.evaluation.ensemble import evaluate_ensemble

        evaluate_ensemble(config, [workdir, *map(Path, FLAGS.ensemble)], best=FLAGS.best)
    elif FLAGS.report:
        from alexnet_jax.pictures.report import making

        with hosts.together():
            check_report(making.written(workdir))
        making.report_run(config, workdir, best=FLAGS.best)
    else:
        from alexnet_jax.evaluation.evaluator import evaluate_run

        evaluate_run(config, workdir, best=FLAGS.best)
    hosts.gather("done")  # or who is done would wait in JAX's own end, and know less of the others


if __name__ == "__main__":
    cli.run(main)
