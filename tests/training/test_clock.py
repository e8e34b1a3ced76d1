"""The clock of the training loop, on a time that the tests turn themselves."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from alexnet_jax.training import clock as clock_module
from alexnet_jax.training.clock import Clock

STEP = jnp.int32(0)  # any result of a step


class Time:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    turned = Time()
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: turned.now)
    return turned


def fetch(clock: Clock, time: Time, seconds: float, *, idle: bool) -> None:
    """A batch that comes after so many seconds, while the device is idle or still at work."""
    with clock.waiting(SimpleNamespace(is_ready=lambda: idle)):
        time.passes(seconds)


def test_the_first_step_which_compiles_is_counted_only_where_it_is_the_only_one(
    time: Time,
) -> None:
    clock = Clock()
    assert clock.seconds_per_step() == 0
    time.passes(20)
    clock.stepped(STEP)
    assert clock.seconds_per_step() == 20
    for _ in range(4):
        time.passes(0.5)
        clock.stepped(STEP)
    assert clock.seconds_per_step() == 0.5


def test_a_restart_forgets_what_came_before_it(time: Time) -> None:
    clock = Clock()
    clock.stepped(STEP)
    fetch(clock, time, 7, idle=True)
    clock.stepped(STEP)
    time.passes(30)  # a validation
    clock.restart()
    time.passes(2)
    clock.stepped(STEP)
    assert clock.seconds_per_step() == 2
    assert clock.wait_fraction() == 0


def test_waiting_is_what_the_device_waits(time: Time) -> None:
    """A batch that is fetched while the step before is under way costs nothing."""
    clock = Clock()
    clock.stepped(STEP)
    fetch(clock, time, 3, idle=False)
    time.passes(5)
    assert clock.wait_fraction() == 0
    fetch(clock, time, 2, idle=True)
    assert clock.wait_fraction() == pytest.approx(2 / 10)
    fetch(clock, time, 10, idle=True)
    assert clock.wait_fraction() == pytest.approx(12 / 20)
