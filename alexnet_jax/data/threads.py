"""How many threads do the work, and OpenCV's own among them."""

import contextlib
import os
from collections.abc import Iterator

import cv2


def cores() -> int:
    """The cores this process may use; a container's share is not the machine's count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """The workers are the parallelism; OpenCV's own threads would fight them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
