"""The training of paper section 5: stochastic gradient descent, and what surrounds it.

`train` is the whole run: it makes or restores the state, then steps, logs, validates and saves
until the last step, tests the result in one view and in ten, says it, and draws the first layer's
kernels.
"""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from alexnet_jax import settings
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.stream import device_stream, process_share, training_stream
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.evaluator import Evaluator
from alexnet_jax.evaluation.scores import Score, score_row
from alexnet_jax.files import check_writable, sole_owner
from alexnet_jax.model import Network
from alexnet_jax.model.mesh import IMAGES, describe_mesh
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.run import inputs, versions
from alexnet_jax.run.checkpoint import SAVED, Checkpoints
from alexnet_jax.run.devices import enough_memory
from alexnet_jax.run.metrics import Row, read_rows
from alexnet_jax.run.parts import build, check_batch
from alexnet_jax.signals import Stopped, stop_signals
from alexnet_jax.training import first_weights, update_rule
from alexnet_jax.training.clock import Clock
from alexnet_jax.training.report import Report, conclude, read_test_scores
from alexnet_jax.training.step import (
    State,
    initial_state,
    lighting_steps,
    make_train_step,
    total_steps,
)

Tree = Any


def input_stream(
    config: ConfigDict, cache: Cache, network: Network, mesh: Mesh, steps: int
) -> grain.IterDataset:
    """The training batches of a run, on their devices (section 4.1)."""
    sharding = NamedSharding(mesh, IMAGES)
    index, count = process_share(sharding, config.batch_size)
    stream = training_stream(
        cache,
        batch_size=config.batch_size,
        crop=network.input_size,
        seed=config.seed,
        lighting=config.data.lighting,
        lighting_steps=lighting_steps(config, steps),
        lighting_on=config.data.lighting_on,
        last_offset=config.data.last_offset,
        flip=config.data.flip,
        with_offsets=config.data.mean == "aligned",
        process_index=index,
        process_count=count,
        split=config.data.train,
    )
    return device_stream(stream, sharding)


def train(config: ConfigDict, workdir: str | Path) -> list[Score]:
    """Trains, or resumes, the run of `workdir` and tests it.

    Returns:
        The scores on the test split: in one view and in ten.

    Raises:
        UserError: anything the user can fix; nothing was overwritten.
        Stopped: SIGTERM or SIGINT came; the run was saved first if it was under way.
    """
    workdir = Path(workdir).expanduser()
    saved = workdir / "config.json"
    first_weights.check_workdir(workdir)
    check_same_run(saved, config)
    check_writable(workdir)
    taken = first_weights.take(config, workdir)
    cache, mesh, model = build(config)
    check_batch(config, mesh)
    network = model.network
    images = len(cache.images[config.data.train])
    steps = total_steps(config, images)
    optimizer = update_rule.update_rule(config.optim, steps)
    print(
        f"{cache.name}: {images:,} training images, {network.classes} classes; "
        f"{steps:,} steps of {config.batch_size} on a mesh of {describe_mesh(mesh)}",
        flush=True,
    )

    stream = input_stream(config, cache, network, mesh, steps)
    evaluator = Evaluator(
        model, cache.mean_image, config.eval_batch_size, aligned=config.data.mean == "aligned"
    )
    with (
        sole_owner(workdir),
        enough_memory(config, "batch_size", "eval_batch_size"),
        Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints,
        contextlib.closing(iter(stream)) as batches,
    ):
        check_same_run(saved, config)  # another process may have been here meanwhile
        state = first_weights.start(initial_state(model, optimizer, config.seed), taken)
        state, start = resume(state, batches, checkpoints, cache, mesh)
        if start == 0:
            check_never_saved(saved, config)
        if start < steps:
            checkpoints.prepare_to_save()
        save_configuration(config, saved, finished=start >= steps)  # nothing stands in the way
        inputs.write_input(workdir, cache.mean_image, cache.class_names)
        with Report(workdir, start, steps) as report:
            if start >= steps:
                report.say(f"this run is complete: {start:,} steps")
            else:
                run = Run(config, steps, cache, evaluator, checkpoints, report)
                step = make_train_step(model, optimizer, cache.mean_image, config, steps)
                state = run.loop(state, start, step, batches)
                checkpoints.wait()  # a failure is told now, not after the test
            end = max(start, steps)
            scores = read_test_scores(workdir, end) or score_test_split(
                evaluator, state.model(), cache, config, report, end
            )
        best = checkpoints.best()
    conclude(workdir, scores, best)
    draw(np.asarray(state.params["conv1"]["kernel"]), network.towers, workdir)
    return scores


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
        or any(row["split"] == "test" or row.get("epoch", 0) > 2 * every for row in rows)
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
    if record["dataset"] != cache.fingerprint:
        raise UserError(
            f"the run in {checkpoints.directory.parent} was trained on other data than "
            f"{cache.path} holds now (fingerprint {record['dataset']}, here {cache.fingerprint}). "
            "Give the --config.data.dir of before, or another --workdir."
        )
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


class Run:
    """The training loop, and the clocks and intervals that go with it."""

    def __init__(
        self,
        config: ConfigDict,
        steps: int,
        cache: Cache,
        evaluator: Evaluator,
        checkpoints: Checkpoints,
        report: Report,
    ) -> None:
        self.config, self.steps, self.cache = config, steps, cache
        self.evaluator, self.checkpoints, self.report = evaluator, checkpoints, report
        self.rates = update_rule.schedules(config.optim, steps)
        self.epoch_steps = len(cache.images[config.data.train]) / config.batch_size
        self.eval_every = max(1, round(config.eval_every * self.epoch_steps))
        self.save_every = max(1, round(config.checkpoint_every * self.epoch_steps))
        self.said_stuck = False

    def loop(
        self,
        state: State,
        start: int,
        train_step: Callable[[State, dict[str, jax.Array]], State],
        batches: Any,
    ) -> State:
        """Steps from `start` to the end."""
        platform = platform_of(self.evaluator.viewer.mesh)
        with stop_signals() as stopped_by:
            clock = Clock()
            for step in range(start + 1, self.steps + 1):
                with clock.waiting(state.step):
                    batch = next(batches)
                platform.settle(state.step)
                state = train_step(state, batch)
                clock.stepped(state.step)
                self.report.advance()

                last, stop = step == self.steps, bool(stopped_by)
                if step % self.config.log_every == 0 or last:
                    state = self.log(state, step, clock)
                error = None
                if self.config.data.validation and (step % self.eval_every == 0 or last):
                    state, error = self.validate(state, step)
                    clock.restart()
                if step % self.save_every == 0 or last or stop or self.checkpoints.is_best(error):
                    self.save(state, step, batches, error)
                    clock.restart()
                if stop:
                    self.checkpoints.wait()
                    raise Stopped(stopped_by[0], f"saved at step {step:,}")
        return state

    def log(self, state: State, step: int, clock: "Clock") -> State:
        """Writes the averages since the last row, and starts new ones."""
        check_finite(state, self.checkpoints)
        totals = {name: float(total) for name, total in state.running.items()}
        examples = totals["examples"]
        seconds = clock.seconds_per_step()
        row: Row = {
            "step": step,
            "epoch": round(step / self.epoch_steps, 4),
            "split": "train",
            "loss": totals["loss"] / examples,
            "top1_error": totals["top1"] / examples,
            "top5_error": totals["top5"] / examples,
            "views": 1,
            "examples": round(examples),
            "learning_rate": float(self.rates["weights"](step - 1) * state.plateau.factor),
            "images_per_second": self.config.batch_size / seconds,
            "data_wait_fraction": clock.wait_fraction(),
            "seconds_left": (self.steps - step) * seconds,
        }
        self.report.training(row)
        self.alarm_if_stuck(row)
        clock.restart()
        zeros = jax.tree.map(jnp.zeros_like, state.running)
        return state.replace(running=zeros)

    def alarm_if_stuck(self, row: Row) -> None:
        """Says so, once, if the loss has not left chance after the first epochs."""
        classes = len(self.cache.class_names)
        chance = math.log(classes)
        if row["epoch"] < 2 or self.said_stuck or row["loss"] <= 0.98 * chance:
            return
        self.said_stuck = True
        where, why = (
            "still at",
            (
                "Is the learning rate too low, are the initial weights too small for this network "
                "(see settings/scaling.py), or are the labels shuffled?"
            ),
        )
        if row["loss"] > 1.05 * chance:
            where, why = (
                "far above",
                ("Is the learning rate too high, or are the initial weights too large?"),
            )
        self.report.say(
            f"warning: after {row['epoch']:.1f} epochs the loss, {row['loss']:.3f}, is {where} "
            f"chance, ln({classes}) = {chance:.3f}. {why}"
        )

    def validate(self, state: State, step: int) -> tuple[State, float]:
        """One view of the validation split; the plateau rule looks at its top-1 error."""
        check_finite(state, self.checkpoints)
        split = self.config.data.validation
        (score,) = self.evaluator(
            state.model(), self.cache.images[split], self.cache.labels[split], ten_views=False
        )
        self.report.rows(score_row(score, step, step / self.epoch_steps, "validation"))
        self.report.say(f"step {step:>6}  validation: {score}")
        if self.config.optim.schedule == "plateau":
            plateau = state.plateau.after(score.top1_error, self.config.optim.patience)
            if plateau.factor < state.plateau.factor:
                self.report.say("the validation error stalled: learning rate divided by 10")
            places = jax.tree.map(lambda x: x.sharding, state.plateau)
            state = state.replace(plateau=jax.device_put(plateau, places))
        return state, score.top1_error

    def save(self, state: State, step: int, batches: Any, error: float | None) -> None:
        """Saves state and input position, unless the numbers have gone bad."""
        check_finite(state, self.checkpoints)
        record = {"input": batches.get_state(), "dataset": self.cache.fingerprint}
        self.checkpoints.save(step, state.trees(), record, error)


def check_finite(state: State, checkpoints: Checkpoints) -> None:
    """Raises UserError if the loss of some step, or a weight by now, is not a finite number."""
    bad = int(state.bad_step)
    if bad < 0 and not all_finite(state.model()):
        bad = int(state.step)
    if bad >= 0:
        kept = checkpoints.steps()
        back = (
            f"the checkpoint of step {kept[-1]} is kept" if kept else "there is no checkpoint yet"
        )
        raise UserError(
            f"the loss or a weight was not a finite number at step {bad}; {back}. Lower "
            "--config.optim.learning_rate and start in another --workdir."
        )


@jax.jit
def all_finite(tree: Tree) -> jax.Array:
    """Whether no array of the tree holds an infinity or a nan."""
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


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
