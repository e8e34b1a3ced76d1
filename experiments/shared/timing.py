"""Several ways to do the same work, timed in turns: wall clock and processor time.

On a machine that others use too, two numbers compare only if they were taken at the same time, so
every variant runs once in each round. Processor time (user and system, of this process, its threads
and the child processes that it waited for) hardly notices the others; the wall clock does.
"""

import dataclasses
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple


class Reading(NamedTuple):
    """What some work took."""

    images: int
    wall_seconds: float
    cpu_seconds: float


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._cpu, self._wall = cpu_seconds(), time.perf_counter()

    def read(self, images: int) -> Reading:
        """The time since the start, in which so many images were made."""
        return Reading(images, time.perf_counter() - self._wall, cpu_seconds() - self._cpu)


def cpu_seconds() -> float:
    """Processor time so far. A child process counts from when it has ended and was waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the ways.

    Attributes:
        key: its name in the result file.
        group: the heading that it stands under.
        name: what it is, for the table.
        run: does the work for so many images, a multiple of `step`, and times it.
        step: images that it cannot do fewer of.
        longer: a round takes it so many times the common least duration; where starting is counted
            too, so that it weighs less.
    """

    key: str
    group: str
    name: str
    run: Callable[[int], Reading]
    step: int
    longer: float = 1


def repeat(work: Callable[[int], Any]) -> Callable[[int], Reading]:
    """A `Variant.run` that calls `work` with 0, 1, 2 and so on, once for each image."""

    def run(images: int) -> Reading:
        stopwatch = Stopwatch()
        for number in range(images):
            work(number)
        return stopwatch.read(images)

    return run


def in_turns(
    variants: Iterable[Variant], rounds: int, seconds: float, until: float = math.inf
) -> Iterator[tuple[int, Variant, Reading]]:
    """Times all variants once in each round, there and back again.

    Each has first run twice or more, untimed, until it was clear how many images it needs to last
    for `seconds`; it makes that number in every round. After `until`, of `time.monotonic`, no round
    but the first begins.

    Yields:
        The round, from 0, the variant and its reading.
    """
    variants = list(variants)
    amounts = {variant.key: amount(variant, seconds * variant.longer) for variant in variants}
    for number in range(rounds):
        if number and time.monotonic() > until:
            return
        for variant in variants if number % 2 == 0 else reversed(variants):
            yield number, variant, variant.run(amounts[variant.key])


def readings(
    variants: Iterable[Variant],
    rounds: int,
    seconds: float,
    tell: Callable[[str], None],
    until: float = math.inf,
) -> dict[str, list[Reading]]:
    """The readings of `in_turns`, by the keys of the variants.

    Args:
        variants: to be timed.
        rounds: how often.
        seconds: about how long each runs in a round.
        tell: is given a line about every reading.
        until: see `in_turns`.
    """
    variants = list(variants)
    found: dict[str, list[Reading]] = {variant.key: [] for variant in variants}
    tell("warming up")
    for number, variant, reading in in_turns(variants, rounds, seconds, until):
        found[variant.key].append(reading)
        rate = reading.images / reading.wall_seconds
        tell(f"round {number + 1}/{rounds}  {rate:11,.1f} images/s  {variant.key}")
    return found


def amount(variant: Variant, seconds: float) -> int:
    """How many images the variant makes in so many seconds, at least one step of them."""
    variant.run(variant.step)
    images = variant.step
    while True:
        wall = variant.run(images).wall_seconds
        steps = max(1, math.ceil(images / variant.step * seconds / wall))
        if wall > seconds / 4:
            return steps * variant.step
        images = min(steps * variant.step, 8 * images)


def summary(readings: Iterable[Reading]) -> dict[str, Any]:
    """A variant's readings and, of its images per second, the median, the least and the most."""
    readings = list(readings)
    return {
        "images_per_second": spread([r.images / r.wall_seconds for r in readings]),
        "images_per_cpu_second": spread([r.images / r.cpu_seconds for r in readings]),
        "rounds": [reading._asdict() for reading in readings],
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
