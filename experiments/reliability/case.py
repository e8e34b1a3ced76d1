"""One thing that goes wrong, and what came of it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

EXACT = "went on exactly"
REFUSED = "refused with a reason"
FAILED = "failed"
GOOD = (EXACT, REFUSED)
PATIENCE = 300  # seconds after which a process counts as hanging


class Outcome(NamedTuple):
    """What came of a case."""

    word: str  # EXACT, REFUSED or FAILED
    detail: str  # the reason that was given, or what is wrong


class Ended(NamedTuple):
    """A process that has ended."""

    code: int  # negative: killed by that signal
    out: str
    err: str

    def complaint(self) -> str | None:
        """What no user may see: a traceback, or a failure without one line that says why."""
        said = self.out + self.err
        if "Traceback (most recent call last)" in said:
            return f"traceback: {said.strip().splitlines()[-1]}"
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if self.code == 1 and len(errors) != 1:
            return f"exit code 1 with {len(errors)} errors: {self.err[-300:]!r}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}: {self.err[-300:]!r}"
        return None

    def reason(self) -> str:
        """The line that says why it failed."""
        return next((li for li in self.err.splitlines() if li.startswith("error: ")), "")


def start(
    *arguments: object,
    compiled: Path | None,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[str]:
    """A process of `python -m`, on the CPU, whose words go where the options say.

    Args:
        arguments: the module and its arguments.
        compiled: a folder of programs that others have compiled.
        environment: more variables.
        options: of `Popen`.
    """
    environment = (
        os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"} | (environment or {})
    )
    if compiled:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, text=True, env=environment, **(pipes | options))


def run(*arguments: object, compiled: Path | None = None, **options: Any) -> Ended:
    """The same, to its end.

    Raises:
        subprocess.TimeoutExpired: it hangs.
    """
    with start(*arguments, compiled=compiled, **options) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
    return Ended(process.returncode, out, err)
