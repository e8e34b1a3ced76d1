"""How many threads do the work, and OpenCV's own among them."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator

import cv2

CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")


def cores() -> int:
    """The cores this process may use; a container's share is not the machine's count."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:  # macOS, Windows
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def _quota() -> float:
    """The cores' worth of time that Linux's control groups allow, as `docker --cpus` sets it."""
    allowed = math.inf
    try:
        rows = [line.split(":", 2) for line in OWN_CGROUPS.read_text().splitlines()]
    except OSError:  # not Linux
        return allowed
    for _, controllers, own in rows:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        # Groups lie within each other, and each may set a limit. In a container the own one is
        # often mounted as the root.
        place = pathlib.PurePosixPath(own)
        for inner in {place, *place.parents}:
            group = root / str(inner).lstrip("/")
            allowed = min(allowed, _share(group, version_2=not controllers))
    return allowed


def _share(group: pathlib.Path, version_2: bool) -> float:
    """The cores' worth of one control group; infinite if it has no limit."""
    try:
        if version_2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # none; "max"
        return math.inf


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """The workers are the parallelism; OpenCV's own threads would fight them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
