"""A session of a run (paper section 5): from its configuration to its test.

`train` makes or restores the state, lets the loop step until the last step, tests the result in one
view and in ten, says it, and draws the first layer's kernels.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.evaluator import Evaluator
from alexnet_jax.evaluation.scores import Score, score_row
from alexnet_jax.files import check_writable, sole_owner
from alexnet_jax.model.mesh import describe_mesh
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.run import hosts, inputs, versions
from alexnet_jax.run.checkpoint import SAVED, Checkpoints
from alexnet_jax.run.devices import enough_memory
from alexnet_jax.run.metrics import read_rows
from alexnet_jax.run.parts import build, check_batch
from alexnet_jax.training import first_weights, update_rule
from alexnet_jax.training.loop import Run, input_stream
from alexnet_jax.training.report import Report, Silence, add_rows, conclude, read_test_scores
from alexnet_jax.training.step import State, initial_state, make_train_step, total_steps

Tree = Any


def train(config: ConfigDict, workdir: str | Path) -> list[Score]:
    """Trains, or resumes, the run of `workdir` and tests it.

    Returns:
        The scores on the test split: in one view and in ten.

    Raises:
        UserError: anything the user can fix; nothing was overwritten.
        Stopped: SIGTERM or SIGINT came; the run was saved first if it was under way.
    """
    workdir = Path(workdir).expanduser()
    config = settings.adapt(config, (), workdir)
    saved = workdir / "config.json"
    with hosts.together():
        first_weights.check_workdir(workdir)
        check_same_run(saved, config)
        check_writable(workdir)
    taken = first_weights.take(config, workdir)
    cache, mesh, model = build(config)
    check_batch(config, mesh)
    network = model.network
    images = len(cache.images[config.data.train])
    steps = total_steps(config, images)
    optimizer = update_rule.update_rule(config.optim, steps, network.decays(), network.rates())
    numbers = platform_of(mesh).describe_numbers(
        config.dtype, config.precision, deterministic=config.deterministic
    )
    print(
        f"{cache.name}: {images:,} training images, {network.classes} classes; "
        f"{steps:,} steps of {config.batch_size} on a mesh of {describe_mesh(mesh)}, "
        f"in {numbers}",
        flush=True,
    )
    if hosts.several():
        print(
            f"{hosts.count()} processes: images/s are of all, the wait for data is of process 0",
            flush=True,
        )

    stream = input_stream(config, cache, network, mesh, steps)
    evaluator = Evaluator(
        model, cache.mean_image, config.eval_batch_size, aligned=config.data.mean == "aligned"
    )
    with (
        one_owner(workdir),
        enough_memory(config, "batch_size", "eval_batch_size"),
        Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints,
        contextlib.closing(iter(stream)) as batches,
    ):
        with hosts.together():
            check_same_run(saved, config)  # another process may have been here meanwhile
        state = first_weights.start(initial_state(model, optimizer, config.seed), taken)
        state, start = resume(state, batches, checkpoints, cache, mesh)
        with hosts.together():
            if hosts.first():
                add_rows(workdir / "metrics.jsonl")  # or nothing is changed
                if start == 0:
                    check_never_saved(saved, config)
        if start < steps:
            checkpoints.prepare_to_save()
        report: Any = Silence()
        with hosts.together():
            if hosts.first():
                save_configuration(config, saved, finished=start >= steps)  # nothing is in the way
                inputs.write_input(workdir, cache.mean_image, cache.class_names)
                report = Report(workdir, start, steps)
        with report:
            if start >= steps:
                report.say(f"this run is complete: {start:,} steps")
            else:
                run = Run(config, steps, cache, evaluator, checkpoints, report)
                step = make_train_step(model, optimizer, cache.mean_image, config, steps)
                state = run.loop(state, start, step, batches)
                checkpoints.wait()  # a failure is told now, not after the test
            end = max(start, steps)
            tested = hosts.from_first(lambda: read_test_scores(workdir, end))
            scores = [Score(*score) for score in tested] or score_test_split(
                evaluator, state.model(), cache, config, report, end
            )
        best = checkpoints.best()
        kernels = hosts.whole(state.params["conv1"]["kernel"])
    if hosts.first():
        conclude(workdir, scores, best, fine_tuned=bool(config.init_from))
        draw(kernels, network.towers, workdir)
    return scores


@contextlib.contextmanager
def one_owner(workdir: Path) -> Iterator[None]:
    """Keeps a second training out of a run's directory, which all processes of this one share."""
    with contextlib.ExitStack() as stack:
        with hosts.together():
            if hosts.first():
                stack.enter_context(sole_owner(workdir))
        hosts.check_shared(workdir)
        yield


def draw(kernels: np.ndarray, towers: int, workdir: Path) -> None:
    """Draws what a run looks like; that it could not is said, and no reason to lose a result."""
    try:
        from alexnet_jax.pictures import curves, figure3  # matplotlib would delay the first step

        figure3.kernels(kernels, towers, workdir)
        curves.curves(workdir)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        print(f"note: {workdir / 'figures'} could not be drawn ({reason}); the run is complete")


def check_same_run(saved: Path, config: ConfigDict) -> None:
    """Refuses to go on with another configuration than a run's `config.json`, if it has one."""
    if saved.exists():
        settings.check_same_run(settings.read(saved), config, saved.parent)


def check_never_saved(saved: Path, config: ConfigDict) -> None:
    """Refuses to start over a run whose checkpoints are gone, and with them what it measured.

    Raises:
        UserError: its metrics show that there were some.
    """
    workdir = saved.parent
    rows = read_rows(workdir / "metrics.jsonl")
    every = (settings.read(saved) if saved.exists() else config).checkpoint_every
    # A run that was killed before its first save has rows too. The mark is a save's own; runs of
    # earlier versions have none, but were saved by the time of their second checkpoint.
    if rows and (
        (workdir / SAVED).exists()
        or any(
            row["split"] == "test"
            or (epoch := row.get("epoch", 0)) > 2 * max(every, epoch / max(1, row["step"]))
            for row in rows
        )
    ):
        raise UserError(
            f"{workdir} has metrics up to step {max(row['step'] for row in rows):,} but no "
            "checkpoint: put its checkpoints/ back (is a disk not mounted?), or give another "
            "--workdir; to train it again from the start, move metrics.jsonl away first"
        )
    (workdir / SAVED).unlink(missing_ok=True)


def save_configuration(config: ConfigDict, saved: Path, *, finished: bool) -> None:
    """Writes `config.json`; of a finished run only where its data are now.

    What is saved is what was trained, whatever is asked of a run that trains no more; its paths
    mean the same from any directory.
    """
    config = settings.absolute(config)
    if finished and saved.exists():
        trained = settings.read(saved)
        for place in ("source", "dir", "cache"):
            trained.data[place] = config.data[place]
        config = trained
    settings.save(config, saved)


def resume(
    state: State, batches: Any, checkpoints: Checkpoints, cache: Cache, mesh: Mesh
) -> tuple[State, int]:
    """The state and the input where the newest sound checkpoint left them.

    The order: arrays, then the input's position, then `metrics.jsonl` is cut (by `Report`).
    """
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.trees())
    found = checkpoints.restore(abstract, mesh)
    if found is None:
        return state, 0
    trees, record = found
    with hosts.together():
        if record["dataset"] != cache.fingerprint:
            raise UserError(
                f"the run in {checkpoints.directory.parent} was trained on other data than "
                f"{cache.path} holds now (fingerprint {record['dataset']}, here "
                f"{cache.fingerprint}). Give the --config.data.dir of before, or another --workdir."
            )
        if hosts.first():
            for aside in checkpoints.discard_after(record["step"]):
                print(f"moved the damaged checkpoint to {aside}")
    batches.set_state(record["input"])
    print(f"resuming from the checkpoint of step {record['step']:,}", flush=True)
    if others := versions.differing(record.get("versions", {})):
        print(
            f"note: that checkpoint was saved with {others}; from here on the numbers may differ "
            "a little from those of an unbroken run"
        )
    return state.with_trees(trees), record["step"]


def score_test_split(
    evaluator: Evaluator,
    variables: Tree,
    cache: Cache,
    config: ConfigDict,
    report: Report,
    step: int,
) -> list[Score]:
    """One and ten views of the test split, by the weights of the last step."""
    split = config.data.test
    report.say(f"testing {len(cache.images[split]):,} images in one view and in ten")
    scores = evaluator(variables, cache.images[split], cache.labels[split], ten_views=True)
    epoch = step * config.batch_size / len(cache.images[config.data.train])
    report.rows(*(score_row(score, step, epoch, "test") for score in scores))
    return scores
