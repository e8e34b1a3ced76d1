"""The loop of stochastic gradient descent (section 5): steps, rows, validations and saves."""

import math
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.stream import device_stream, process_share, training_stream
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.evaluator import Evaluator
from alexnet_jax.evaluation.scores import score_row
from alexnet_jax.model import Network
from alexnet_jax.model.mesh import IMAGES
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.run import hosts
from alexnet_jax.run.checkpoint import Checkpoints
from alexnet_jax.run.metrics import Row
from alexnet_jax.signals import Stopped, stop_signals
from alexnet_jax.training import update_rule
from alexnet_jax.training.clock import Clock
from alexnet_jax.training.report import Report
from alexnet_jax.training.step import State, lighting_steps

Tree = Any

# A third of a run's steps, but at least and at most so many: by then a loss has left chance. Of 20
# classes the full network, where it starts at all, has by step 140 (`experiments.starts`).
STUCK_AFTER = 100, 1_000


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
        crops=config.data.crop,
        with_offsets=config.data.mean == "aligned",
        process_index=index,
        process_count=count,
        split=config.data.train,
        threads=config.data.threads,
    )
    return device_stream(stream, sharding)


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
        votes = hosts.Votes(self.evaluator.viewer.mesh)
        with stop_signals() as stopped_by:
            clock = Clock()
            for step in range(start + 1, self.steps + 1):
                with clock.waiting(state.step):
                    batch = next(batches)
                platform.settle(state.step)
                state = train_step(state, batch)
                clock.stepped(state.step)
                self.report.advance()

                last = step == self.steps
                stop = votes.cast(stopped_by[0] if stopped_by else 0, last=last)
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
                    hosts.gather("saved")
                    raise Stopped(stop, f"saved at step {step:,}")
            if stopped_by and not hosts.several():  # while the last step was validated or saved
                self.checkpoints.wait()
                raise Stopped(stopped_by[0], f"saved at step {self.steps:,}")
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
        """Says so, once, if the loss has not left chance after the first steps."""
        classes = len(self.cache.class_names)
        chance = math.log(classes)
        least, most = STUCK_AFTER
        early = row["step"] < min(most, max(least, self.steps // 3))
        if early or self.said_stuck or row["loss"] <= 0.98 * chance:
            return
        self.said_stuck = True
        where, why = (
            "still at",
            "Are the initial weights too small for what they see (model.conv1.std and the others; "
            "2012's are for pixels of 0 to 255, see data.lighting_divisor, and for its widths, see "
            "settings/scaling.py), is the learning rate too low (optim.learning_rate), or are the "
            "labels shuffled?",
        )
        if row["loss"] > 1.05 * chance:
            where, why = (
                "far above",
                "Is the learning rate too high (optim.learning_rate), or are the initial weights "
                "too large (model.conv1.std and the others)?",
            )
        self.report.say(
            f"warning: after {row['step']:,} steps the loss, {row['loss']:.3f}, is {where} chance, "
            f"ln({classes}) = {chance:.3f}. {why}"
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
