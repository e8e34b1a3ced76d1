"""Every file of a run's directory: deleted, truncated, altered and unreadable.

The run was trained for two epochs of three. Asked for the third, it goes on exactly, or refuses
with a reason and leaves all other files as they were. What nobody can know is left out: whether a
row of `metrics.jsonl` was altered into another; then the arrays have to be right.
"""

import os
import shutil
from pathlib import Path

from experiments.reliability.case import EXACT, FAILED, REFUSED, Outcome
from experiments.reliability.small import Small, contents, differs

WAYS = ("deleted", "truncated", "altered", "unreadable")


def files(small: Small) -> list[str]:
    """Of the run that is damaged, by their paths from its directory; not the empty ones."""
    paths = [path for path in small.halfway.rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(str(path.relative_to(small.halfway)) for path in paths)


def damaged(small: Small, workdir: Path, file: str, way: str) -> Outcome:
    """Damages a copy of the run, and goes on with it."""
    shutil.copytree(small.halfway, workdir)
    path = workdir / file
    data = bytearray(path.read_bytes())
    match way:
        case "deleted":
            path.unlink()
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "altered":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "unreadable":  # a link to itself: what root cannot read either
            path.unlink()
            os.symlink(path.name, path)
    before = contents(workdir)
    ended = small.train(workdir)
    if wrong := ended.complaint():
        return Outcome(FAILED, wrong)
    if ended.code:
        after = contents(workdir)
        lost = sorted(name for name in before if after.get(name) != before[name])
        if lost:
            return Outcome(FAILED, f"refused, and changed {', '.join(lost)}")
        return Outcome(REFUSED, ended.reason())
    if wrong := differs(workdir, small.unbroken, rows=file != "metrics.jsonl"):
        return Outcome(FAILED, wrong)
    said = [li for li in ended.out.splitlines() if "damaged" in li or "resuming" in li]
    return Outcome(EXACT, "; ".join(said)[:300])
