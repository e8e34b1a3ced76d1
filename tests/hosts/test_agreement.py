"""What processes agree upon, by threads that stand for them; and that one alone does nothing."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import hosts_fixtures as fixtures
import jax
import numpy as np
import pytest
from hosts_fixtures import at_once
from jax.sharding import NamedSharding, PartitionSpec

from alexnet_jax.errors import UserError
from alexnet_jax.model import make_mesh
from alexnet_jax.run import hosts


class Refused(UserError):
    """With an exit code of its own."""

    exit_code = 2


# --- alone ----------------------------------------------------------------------------------------


def test_one_process_agrees_with_itself(tmp_path: Path) -> None:
    assert (hosts.count(), hosts.number(), hosts.name()) == (1, 0, "")
    assert hosts.first() and not hosts.several()
    assert hosts.gather("a") == ["a"]
    assert hosts.in_turn(lambda: 3) == hosts.from_first(lambda: 3) == 3
    hosts.check_same("", object())
    hosts.check_shared(tmp_path / "not there")
    with pytest.raises(Refused), hosts.together():
        raise Refused("no")
    assert not hosts.said_by_another("", 1)
    assert hosts.why_lost(RuntimeError("Gloo")) == ""


def test_one_process_votes_for_itself_at_once() -> None:
    votes = hosts.Votes(make_mesh(2, 2))
    assert [votes.cast(number) for number in (0, 15, 0)] == [0, 15, 0]


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("data"), PartitionSpec("tower")])
def test_arrays_are_placed_and_come_back_whole(spec: PartitionSpec) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    placed = hosts.place(array, NamedSharding(make_mesh(2, 2), spec))
    assert placed.sharding.spec == spec
    np.testing.assert_array_equal(hosts.whole(placed), array)


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("data"), PartitionSpec("tower")])
def test_each_process_places_its_part_of_an_array(
    spec: PartitionSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    sharding = NamedSharding(make_mesh(2, 2), spec)
    expected = jax.device_put(array, sharding)
    monkeypatch.setattr(hosts, "several", lambda: True)
    placed = hosts.place(array, sharding)
    assert placed.sharding == sharding
    for ours, theirs in zip(placed.addressable_shards, expected.addressable_shards):
        assert ours.device == theirs.device
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_the_largest_vote_counts_a_step_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody waits for the step under way; the last step has no later one."""
    monkeypatch.setattr(hosts, "several", lambda: True)
    votes = hosts.Votes(make_mesh(2, 2))
    assert [votes.cast(number) for number in (0, 15, 2, 0, 0)] == [0, 0, 15, 2, 0]
    assert votes.cast(2, last=True) == 2


# --- agreement ------------------------------------------------------------------------------------


def test_all_hear_all_in_their_order_whoever_comes_first() -> None:
    of = fixtures.processes(3)

    def speak(process: Any) -> list[list[str]]:
        return [process.gather(f"{process.number()} {call}") for call in range(20)]

    expected = [[f"{number} {call}" for number in range(3)] for call in range(20)]
    assert at_once(speak, of, apart=0.1) == [expected] * 3
    held = of[0]._state().client.held
    assert len(held) <= 6, "what all have read is forgotten"


def test_who_has_left_is_not_waited_for() -> None:
    of = fixtures.processes(2)

    def leave_or_wait(process: Any) -> Any:
        if not process.first():
            return process.said_by_another("no space left", 3)
        return process.gather("here")

    found, left = at_once(leave_or_wait, of)
    assert (type(found).__name__, found.exit_code) == ("Elsewhere", 3)
    assert str(found) == "process 1 has ended: no space left"
    assert not left


def test_the_error_of_one_is_that_of_all() -> None:
    of = fixtures.processes(3)

    def fail(process: Any) -> None:
        with process.together():
            if process.number() == 1:
                raise Refused("no such file")

    first, own, last = at_once(fail, of)
    assert isinstance(own, Refused) and str(own) == "no such file"
    for other in (first, last):
        assert (type(other).__name__, other.exit_code) == ("Elsewhere", 2)
        assert str(other) == "process 1: no such file"


def test_of_several_errors_the_first_process_says_its_own() -> None:
    of = fixtures.processes(3)

    def fail(process: Any) -> None:
        with process.together():
            if process.number():
                raise Refused(f"error {process.number()}")

    found = at_once(fail, of, apart=0.05)
    assert [str(error) for error in found] == [
        "process 1: error 1",
        "error 1",
        "process 1: error 1",
    ]
    assert [type(error).__name__ for error in found] == ["Elsewhere", "Refused", "Elsewhere"]


def test_after_an_error_they_still_understand_each_other() -> None:
    of = fixtures.processes(2)

    def go_on(process: Any) -> list[str]:
        with pytest.raises(UserError), process.together():
            raise UserError("not this way")
        return process.gather("another")

    assert at_once(go_on, of) == [["another"] * 2] * 2


def test_one_makes_what_the_others_find(tmp_path: Path) -> None:
    of, made = fixtures.processes(3), tmp_path / "made"

    def make(process: Any) -> bool:
        there = made.exists()
        made.touch()
        return there

    assert at_once(lambda process: process.in_turn(lambda: make(process)), of) == [
        False,
        True,
        True,
    ]


def test_what_the_first_cannot_make_nobody_looks_for() -> None:
    of, looked = fixtures.processes(2), threading.Event()

    def make(process: Any) -> None:
        if process.first():
            raise UserError("no space left")
        looked.set()

    own, other = at_once(lambda process: process.in_turn(lambda: make(process)), of)
    assert (str(own), str(other)) == ("no space left", "process 0: no space left")
    assert not looked.is_set()


def test_the_first_alone_looks_and_all_know() -> None:
    of = fixtures.processes(3)
    found = at_once(lambda p: p.from_first(lambda: [p.number(), None, "x"]), of)
    assert found == [[0, None, "x"]] * 3
    errors = at_once(lambda p: p.from_first(lambda: 1 // p.number()), of)
    assert [type(error).__name__ for error in errors] == [
        "ZeroDivisionError",
        "Elsewhere",
        "Elsewhere",
    ]


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        ("abc", "abd", "the fingerprint is 'abc' in process 0 and 'abd' in process 2"),
        ({"--a": 1, "--b": 2}, {"--a": 1, "--b": 3}, "--b is 2 in process 0 and 3 in process 2"),
        ({"--a": 1}, {"--a": 1, "--c": 3}, "--c is None in process 0 and 3 in process 2"),
    ],
)
def test_what_differs_is_named(mine: Any, theirs: Any, said: str) -> None:
    of = fixtures.processes(3)
    what = "" if isinstance(mine, dict) else "the fingerprint"

    def check(process: Any) -> None:
        process.check_same(what, theirs if process.number() == 2 else mine)

    own, *others = at_once(check, of)
    assert type(own) is UserError and str(own) == f"{said}: give the same command to all"
    assert [type(error).__name__ for error in others] == ["Elsewhere"] * 2
    assert at_once(lambda process: process.check_same(what, mine), of) == [None] * 3


def test_a_directory_that_is_not_shared_is_noticed(tmp_path: Path) -> None:
    of = fixtures.processes(2)
    for number in range(2):
        (tmp_path / str(number)).mkdir()

    first, second = at_once(lambda p: p.check_shared(tmp_path / str(p.number())), of)
    assert str(second).startswith(f"--workdir={tmp_path}/1 is not the one that process 0 writes: ")
    assert str(first) == f"process 1: {second}"
    assert at_once(lambda process: process.check_shared(tmp_path / "0"), of) == [None] * 2
    assert not [*(tmp_path / "0").iterdir()], "nothing of it is left"


def test_the_mark_of_a_run_before_is_not_taken_for_the_one_of_now(tmp_path: Path) -> None:
    of = fixtures.processes(2)
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / ".hosts").write_text("node 12 345")
    found = at_once(lambda p: p.check_shared(tmp_path / str(p.number())), of)
    assert "is not the one that process 0 writes" in str(found[1])


# --- how it ends ----------------------------------------------------------------------------------


def test_what_all_would_say_is_said_by_the_first() -> None:
    of = fixtures.processes(3)
    said = at_once(lambda process: process.said_by_another("stopped by SIGTERM", 143), of)
    assert said == [False, True, True]
    of = fixtures.processes(2)
    said = at_once(lambda process: process.said_by_another(f"error {process.number()}", 1), of)
    assert said == [False, False]


def test_what_came_of_the_end_of_another_is_not_called_an_error_of_its_own() -> None:
    of = fixtures.processes(2)
    broken = RuntimeError("INTERNAL: [external/gloo/...] Connection closed by peer [Gloo]")
    assert of[0].why_lost(ValueError("3")) == ""
    assert of[0].why_lost(broken) == "another process has gone"
    of[1].said_by_another("out of memory", 1)
    assert of[0].why_lost(broken) == "process 1 has ended: out of memory"


def test_the_first_leaves_when_the_others_have_said_what_they_have_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the end of the coordination service, which is its own, would cut them short."""

    class Left(Exception):
        pass

    def leave(code: int) -> None:
        raise Left(code)

    order: list[int] = []

    def go(process: Any) -> None:
        process.said_by_another(f"error {process.number()}", 3)
        time.sleep(0.1 * process.number())
        try:
            process.leave(3)
        finally:
            order.append(process.number())

    monkeypatch.setattr(os, "_exit", leave)
    of, began = fixtures.processes(3), time.monotonic()
    of[0].LAST_WORDS = 10.0
    left = at_once(go, of)
    assert time.monotonic() - began < 8, "and not later"
    assert len(order) == 3 and order[-1] == 0
    assert [(type(one), one.args) for one in left] == [(Left, (3,))] * 3
    of, began = fixtures.processes(2), time.monotonic()
    at_once(lambda process: process.first() and process.leave(3), of)
    assert 0.3 <= time.monotonic() - began < 2, "one that is gone is not waited for"
