"""A full disk, at every file that a run writes.

No file of the process may grow beyond a limit. For every size that a file of the finished run has
there is a case whose limit is one byte less: the first longer file that the run writes meets it.
The run must end with one line, or do without; with space again the same command ends like a run
that never lacked any.
"""

import resource
from pathlib import Path

from experiments.reliability.case import EXACT, FAILED, Outcome
from experiments.reliability.small import Small, differs


def limits(small: Small) -> list[int]:
    """The limits in bytes, in order."""
    files = [path for path in small.unbroken.rglob("*") if path.is_file()]
    return sorted({max(0, path.stat().st_size - 1) for path in files})


def full_disk(small: Small, workdir: Path, limit: int) -> Outcome:
    """Trains with such a limit, and then without."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = small.train(workdir, preexec_fn=limited)
    if wrong := ended.complaint():
        return Outcome(FAILED, wrong)
    again = small.train(workdir)
    if again.code:
        return Outcome(FAILED, f"does not go on: {again.complaint() or again.reason()}")
    if wrong := differs(workdir, small.unbroken):
        return Outcome(FAILED, wrong)
    return Outcome(EXACT, ended.reason() or "nothing was as long")
