"""The loop around the step, with stand-ins for its parts: intervals, rows, alarms and stops."""

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from alexnet_jax.configs import base
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.scores import Score
from alexnet_jax.model import make_mesh
from alexnet_jax.signals import Stopped
from alexnet_jax.training import clock, loop, session
from alexnet_jax.training.step import NOTHING_YET, State
from alexnet_jax.training.update_rule import Plateau

STEPS, IMAGES, BATCH, CLASSES = 12, 24, 6, 8  # three epochs of 4 steps


class Record:
    """What the loop tells the report and the checkpoints, in the order in which it does."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.directory = "checkpoints"

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.log.append((name, given))

    def steps(self) -> list[int]:
        return [given[0] for given in self.of("save")]

    def of(self, name: str) -> list[Any]:
        return [given for called, given in self.log if called == name]


class Evaluator:
    """Gives the scores it was made with, one after the other."""

    def __init__(self, *errors: float) -> None:
        self.errors = iter(errors)
        self.viewer = SimpleNamespace(mesh=make_mesh(1, 1))
        self.asked: list[tuple[int, list[int], bool]] = []

    def __call__(self, variables: Any, images: Any, labels: Any, *, ten_views: bool) -> list[Score]:
        del variables
        self.asked.append((len(images), list(labels), ten_views))
        error = next(self.errors)
        return [Score(n, len(images), 1.5, error, error / 2) for n in ([1, 10][: 1 + ten_views])]


def configuration(**changes: Any) -> ConfigDict:
    config = base.get_config("reconciled")
    config.batch_size, config.epochs, config.log_every = BATCH, STEPS * BATCH / IMAGES, 5
    config.data.train, config.data.test, config.data.validation = "train", "test", "holdout"
    with config.unlocked():
        config.update(changes)
    return config


def make_run(config: ConfigDict, evaluator: Any = None) -> tuple[loop.Run, Record]:
    counts = {"train": IMAGES, "holdout": 3, "test": 5}
    cache: Any = SimpleNamespace(
        images={split: np.zeros((n, 4, 4, 3), np.uint8) for split, n in counts.items()},
        labels={split: np.arange(n) for split, n in counts.items()},
        class_names=[*"abcdefgh"],
        fingerprint="f00d",
    )
    record: Any = Record()
    evaluator = evaluator or Evaluator(*[0.5] * STEPS)
    return loop.Run(config, STEPS, cache, evaluator, record, record), record


def initial_state(loss: float = 2.0) -> State:
    """What `step` adds to: the sums of four steps of six images."""
    return State(
        seed=jnp.uint32(0),
        step=jnp.int32(0),
        params={"weight": jnp.ones(2)},
        batch_stats={},
        opt_state={},
        plateau=Plateau.start(),
        running={name: jnp.float32(0) for name in NOTHING_YET},
        bad_step=jnp.int32(-1),
    )


def step(state: State, batch: dict[str, Any]) -> State:
    """A step in which half of the images are wrong at first sight, and a third in five."""
    del batch
    seen = {"loss": 2.0 * BATCH, "top1": BATCH / 2, "top5": BATCH / 3, "examples": float(BATCH)}
    running = {name: total + seen[name] for name, total in state.running.items()}
    return state.replace(step=state.step + 1, running=running)


class Batches:
    """An input that counts."""

    def __init__(self) -> None:
        self.position = 0

    def __next__(self) -> dict[str, Any]:
        self.position += 1
        return {}

    def get_state(self) -> int:
        return self.position


# --- what is done when ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "validated", "saved"),
    [
        ({}, [4, 8, 12], [4, 8, 12]),
        ({"eval_every": 0.5, "checkpoint_every": 2.0}, [2, 4, 6, 8, 10, 12], [8, 12]),
        ({"eval_every": 1.25, "checkpoint_every": 0.01}, [5, 10, 12], [*range(1, 13)]),
        ({"eval_every": 9.0, "checkpoint_every": 9.0}, [12], [12]),
    ],
)
def test_intervals_in_epochs(
    changes: dict[str, float], validated: list[int], saved: list[int]
) -> None:
    """Validations and checkpoints, both also at the end; rows of training every so many steps."""
    run, record = make_run(configuration(**changes))
    end = run.loop(initial_state(), 0, step, Batches())
    assert int(end.step) == STEPS
    assert [row["step"] for (row,) in record.of("rows")] == validated
    assert record.steps() == saved
    assert [row["step"] for (row,) in record.of("training")] == [5, 10, 12]
    assert len(record.of("advance")) == STEPS


def test_the_best_validation_so_far_is_saved() -> None:
    """Between the others, or it could not be had again."""
    errors = [0.5, 0.3, 0.4, 0.2, 0.6, 0.2]
    run, record = make_run(configuration(eval_every=0.5, checkpoint_every=1.5), Evaluator(*errors))
    best = [1.0]
    vars(record)["is_best"] = lambda error: error is not None and error < min(best)
    vars(record)["save"] = lambda step, *_: (
        record.log.append(("save", (step,))),
        best.append(errors[step // 2 - 1]),
    )
    run.loop(initial_state(), 0, step, Batches())
    assert record.steps() == [2, 4, 6, 8, 12]


def test_without_a_validation_split_nothing_is_validated() -> None:
    config = configuration()
    config.data.validation = ""
    run, record = make_run(config, Evaluator())
    run.loop(initial_state(), 0, step, Batches())
    assert not record.of("rows")
    assert [error for *_, error in record.of("save")] == [None] * 3


def test_a_resumed_run_begins_after_its_step() -> None:
    run, record = make_run(configuration())
    end = run.loop(initial_state().replace(step=jnp.int32(6)), 6, step, Batches())
    assert int(end.step) == STEPS
    assert [row["step"] for (row,) in record.of("training")] == [10, 12]


def test_a_checkpoint_has_the_place_in_the_input_the_dataset_and_the_last_error() -> None:
    """The error is that of a validation at this step; None where there was none."""
    run, record = make_run(
        configuration(eval_every=2.0, checkpoint_every=1.0), Evaluator(0.75, 0.25)
    )
    run.loop(initial_state(), 0, step, Batches())
    saved = record.of("save")
    assert [step for step, *_ in saved] == [4, 8, 12]
    assert [row["input"] for _, _, row, _ in saved] == [4, 8, 12]
    assert {row["dataset"] for _, _, row, _ in saved} == {"f00d"}
    assert [error for *_, error in saved] == [None, 0.75, 0.25]
    assert int(saved[1][1]["training"]["step"]) == 8


# --- rows -----------------------------------------------------------------------------------------


def test_a_row_has_the_averages_since_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.Clock, "seconds_per_step", lambda clock: 0.5)
    monkeypatch.setattr(loop.Clock, "wait_fraction", lambda clock: 0.25)
    config = configuration()
    config.optim.drops = (0.5,)
    run, record = make_run(config)
    state = initial_state()
    run.loop(state.replace(plateau=state.plateau._replace(factor=0.1)), 0, step, Batches())
    rows = [row for (row,) in record.of("training")]
    assert rows[0] == {
        "step": 5, "epoch": 1.25, "split": "train", "loss": 2.0, "top1_error": 0.5,
        "top5_error": pytest.approx(1 / 3), "views": 1, "examples": 30,
        "learning_rate": pytest.approx(1e-3), "images_per_second": 12.0,
        "data_wait_fraction": 0.25, "seconds_left": 3.5,
    }  # fmt: skip
    assert [row["examples"] for row in rows] == [30, 30, 12]
    assert [row["loss"] for row in rows] == [2.0] * 3
    assert [row["seconds_left"] for row in rows] == [3.5, 1.0, 0.0]
    # Of the last step that was made: the rate drops after six of twelve.
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 1e-4, 1e-4])


def test_a_rate_counts_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compilation, no validation, no save: each takes a minute here, and step n takes n seconds,
    of which a row averages those since the last one."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def takes(seconds: float, do: Any) -> Any:
        def timed(*given: Any, **named: Any) -> Any:
            now[0] += seconds
            return do(*given, **named)

        return timed

    config = configuration(log_every=1, eval_every=0.5, checkpoint_every=0.75)
    evaluator = Evaluator(*[0.5] * STEPS)
    run, record = make_run(config, evaluator)
    run.evaluator = takes(60, evaluator)
    run.evaluator.viewer = evaluator.viewer
    record.save = takes(60, lambda *given: record.log.append(("save", given)))

    def longer_and_longer(state: State, batch: dict[str, Any]) -> State:
        return takes(int(state.step) + 1, step)(state, batch)

    run.loop(initial_state(), 0, longer_and_longer, Batches())
    rates = [row["images_per_second"] for (row,) in record.of("training")]
    assert record.steps() == [3, 6, 9, 12]
    assert rates == [BATCH / seconds for seconds in range(1, STEPS + 1)]


def test_validation_sees_its_split_in_one_view_and_says_what_it_saw() -> None:
    evaluator = Evaluator(0.75, 0.5, 0.25)
    run, record = make_run(configuration(), evaluator)
    run.loop(initial_state(), 0, step, Batches())
    assert evaluator.asked == [(3, [0, 1, 2], False)] * 3
    row = record.of("rows")[0][0]
    found = {name: row[name] for name in ("step", "epoch", "split", "views", "top1_error")}
    assert found == {"step": 4, "epoch": 1.0, "split": "validation", "views": 1, "top1_error": 0.75}
    assert record.of("say")[0][0].startswith("step      4  validation: top-1 error 75.00%")


def test_the_test_has_its_split_and_its_epoch() -> None:
    evaluator = Evaluator(0.5)
    run, record = make_run(configuration(), evaluator)
    found = session.score_test_split(evaluator, {}, run.cache, run.config, record, STEPS)
    assert [score.views for score in found] == [1, 10]
    assert evaluator.asked == [(5, [0, 1, 2, 3, 4], True)]
    assert record.of("say") == [("testing 5 images in one view and in ten",)]
    (rows,) = record.of("rows")
    assert [(row["split"], row["views"], row["epoch"]) for row in rows] == [
        ("test", 1, 3.0),
        ("test", 10, 3.0),
    ]


# --- the plateau rule -----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["plateau", "steps"])
def test_a_stalled_validation_lowers_the_rate_where_the_schedule_says_so(schedule: str) -> None:
    config = configuration()
    config.optim.schedule, config.optim.patience = schedule, 2
    run, record = make_run(config, Evaluator(0.5, 0.5, 0.5))
    end = run.loop(initial_state(), 0, step, Batches())
    stalled = schedule == "plateau"
    assert float(end.plateau.factor) == pytest.approx(0.1 if stalled else 1)
    said = [text for (text,) in record.of("say") if "stalled" in text]
    assert said == ["the validation error stalled: learning rate divided by 10"] * stalled


# --- alarms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "step", "loss", "where"),
    [
        (90_000, 1000, 2.08, "still at"), (90_000, 999, 2.08, ""), (90_000, 1000, 2.03, ""),
        (600, 200, 2.04, "still at"), (600, 199, 2.08, ""), (90, 99, 2.08, ""),
        (600, 500, 2.18, "still at"), (600, 500, 2.19, "far above"), (600, 500, 3, "far above"),
    ],
)  # fmt: skip
def test_a_loss_at_or_above_chance_after_the_first_steps(
    steps: int, step: int, loss: float, where: str
) -> None:
    """A thousand, or a third of a shorter run, but not before a hundred. 98% of ln(8) is 2.038, and
    105% is 2.183: what starts too hot is not stuck at chance."""
    run, record = make_run(configuration())
    run.steps = steps
    run.alarm_if_stuck({"step": step, "loss": loss})
    said = [text for (text,) in record.of("say")]
    assert len(said) == bool(where)
    if where:
        assert f"the loss, {loss:.3f}, is {where} chance, ln(8) = {math.log(8):.3f}" in said[0]
        advice = "rate too low" if where == "still at" else "rate too high"
        assert advice in said[0]


def test_it_is_said_once() -> None:
    run, record = make_run(configuration())
    for step in (1, 100, 110, 120):
        run.alarm_if_stuck({"step": step, "loss": 2.08})
    assert len(record.of("say")) == 1


def test_the_loop_looks_for_it_at_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of 2.08 in all steps: said at step 10, the first row from step 8 on."""
    monkeypatch.setattr(loop, "STUCK_AFTER", (8, 1000))

    def at_chance(state: State, batch: dict[str, Any]) -> State:
        after = step(state, batch)
        return after.replace(running=after.running | {"loss": after.running["examples"] * 2.08})

    run, record = make_run(configuration())
    run.loop(initial_state(), 0, at_chance, Batches())
    said = [text for (text,) in record.of("say") if "at chance" in text]
    assert len(said) == 1 and "after 10 steps" in said[0]


def broken(state: State, batch: dict[str, Any]) -> State:
    """A step whose loss is no number the third time."""
    after = step(state, batch)
    return after.replace(bad_step=jnp.where(after.step >= 3, 3, -1))


def exploding(state: State, batch: dict[str, Any]) -> State:
    """A step after which, the third time, a weight is infinite, though the loss was not yet."""
    after = step(state, batch)
    weights = jnp.where(after.step >= 3, jnp.array([1, jnp.inf]), jnp.ones(2))
    return after.replace(params={"weight": weights})


@pytest.mark.parametrize("train_step", [broken, exploding])
@pytest.mark.parametrize(
    ("when", "at"),
    [
        ({"log_every": 3, "eval_every": 9.0, "checkpoint_every": 9.0}, 3),
        ({"log_every": 99, "eval_every": 1.0, "checkpoint_every": 9.0}, 4),
        ({"log_every": 99, "eval_every": 9.0, "checkpoint_every": 1.25}, 5),
    ],
)
def test_numbers_gone_bad_stop_the_run_before_a_row_a_validation_or_a_save(
    train_step: Any, when: dict[str, Any], at: int
) -> None:
    run, record = make_run(configuration(**when))
    step_named = 3 if train_step is broken else at
    message = rf"not a finite number at step {step_named}; there is no checkpoint yet\. Lower"
    with pytest.raises(UserError, match=message):
        run.loop(initial_state(), 0, train_step, Batches())
    assert len(record.of("advance")) == at
    assert not record.of("training") and not record.of("rows") and not record.of("save")


def test_the_message_names_the_checkpoint_that_is_kept() -> None:
    run, _ = make_run(configuration(checkpoint_every=0.25))
    with pytest.raises(UserError, match=r"at step 3; the checkpoint of step 2 is kept"):
        run.loop(initial_state(), 0, broken, Batches())


# --- stopped --------------------------------------------------------------------------------------


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Fails if the handlers of the signals are others afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_and_its_save(number: signal.Signals) -> None:
    def stopped(state: State, batch: dict[str, Any]) -> State:
        after = step(state, batch)
        if int(after.step) == 6:
            os.kill(os.getpid(), number)
        return after

    run, record = make_run(configuration())
    with handlers_kept(), pytest.raises(Stopped, match=f"by {number.name}: saved at step 6"):
        run.loop(initial_state(), 0, stopped, Batches())
    assert record.steps() == [4, 6]
    assert record.log[-1][0] == "wait"  # until the checkpoint is on the disk


def test_a_signal_while_the_last_step_is_saved_ends_the_run_too() -> None:
    """And not after a test of ten views, which would begin now."""

    class Interrupted(Batches):
        def get_state(self) -> int:
            if self.position == STEPS:
                os.kill(os.getpid(), signal.SIGINT)
            return super().get_state()

    run, record = make_run(configuration())
    with handlers_kept(), pytest.raises(Stopped, match=f"by SIGINT: saved at step {STEPS}"):
        run.loop(initial_state(), 0, step, Interrupted())
    assert record.steps()[-1] == STEPS and record.log[-1][0] == "wait"


def test_the_second_signal_does_not_wait() -> None:
    def stopped_twice(state: State, batch: dict[str, Any]) -> State:
        after = step(state, batch)
        if int(after.step) == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return after

    run, record = make_run(configuration())
    with handlers_kept(), pytest.raises(Stopped, match="not saved since the last checkpoint"):
        run.loop(initial_state(), 0, stopped_twice, Batches())
    assert record.steps() == [4]
