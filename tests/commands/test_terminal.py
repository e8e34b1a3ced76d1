"""What a user sees in a terminal of 80 columns, and what happens when a pipe closes early."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import NamedTuple

import pytest
from run_fixtures import Tiny, checkpoint_steps, rows

COLUMNS = 80
# A process that leads a session takes the terminal that it opens for its own: Ctrl-C reaches it.
OWN_TERMINAL = (
    sys.executable,
    "-c",
    "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])",
)


class Screen(NamedTuple):
    """What a terminal has shown.

    Attributes:
        lines: as they stand there at the end.
        passed: what stood there for a while and was written over, such as a progress bar.
    """

    lines: list[str]
    passed: list[str]


def screen(output: str) -> Screen:
    """What stands on a screen after `output`, which may go back to the start of a line."""
    assert "\x1b" not in output, "the terminal here knows no other moves"
    lines: list[list[str]] = [[]]
    passed: list[str] = []
    column = 0
    for character in output:
        if character == "\r":
            passed.append("".join(lines[-1]).rstrip())
            column = 0
        elif character == "\n":
            lines.append([])
        else:
            lines[-1][column : column + 1] = [character]
            column += 1
    return Screen(["".join(line).rstrip() for line in lines], passed)


class Terminal:
    """The program of `Tiny.start` in a terminal of its own."""

    def __init__(self, tiny: Tiny, *arguments: object) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        options = {"prefix": OWN_TERMINAL, "start_new_session": True, **ends}
        self._process = tiny.start(*arguments, **options)
        os.close(theirs)
        self._shown = b""

    def read_until(self, pattern: str) -> None:
        """Waits until this has been shown."""
        while not re.search(pattern, self._shown.decode(errors="ignore")):
            part = os.read(self._ours, 1 << 16)
            assert part, self._shown
            self._shown += part

    def press(self, key: bytes) -> None:
        """As if the user had."""
        os.write(self._ours, key)

    def end(self) -> tuple[int, str]:
        """Waits for the exit code and all that was shown."""
        with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
            while part := os.read(self._ours, 1 << 16):
                self._shown += part
        os.close(self._ours)
        return self._process.wait(timeout=60), self._shown.decode()


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two epochs of eight steps in a terminal, and what was shown."""
    workdir = tmp_path_factory.mktemp("terminal") / "run"
    flags = (f"--workdir={workdir}", f"--config={tiny.config}", "--config.epochs=2")
    code, shown = Terminal(tiny, *flags).end()
    assert code == 0, shown
    return workdir, shown


# --- a terminal -----------------------------------------------------------------------------------


def test_the_screen_of_these_tests() -> None:
    """A bar that is written over, cleared for a line, and drawn again below it."""
    found = screen(" 50%|##\r100%|####\r         \rsaved\r\n100%|####\r\n")
    assert found.lines == ["saved", "100%|####", ""]
    assert found.passed == [" 50%|##", "100%|####", "", "saved", "100%|####"]


def test_the_bar_of_a_training(trained: tuple[Path, str]) -> None:
    """It counts the steps, shows loss and error as they are in `metrics.jsonl`, fits into the
    terminal, and takes the place of the plain lines."""
    workdir, shown = trained
    found = screen(shown)
    bars = [text for text in found.passed if re.search(r"\d+%\|", text)]
    assert max(map(len, bars)) <= COLUMNS
    bars = [bar for bar in bars if not re.match(r"\w+ at ", bar)]  # of preparing
    counts = [re.search(r" (\d+)/16 \[", bar) for bar in bars]
    steps = [int(count[1]) for count in counts if count]
    assert len(steps) == len(bars) and steps == sorted(steps) and {0, 16} <= {*steps}
    *_, last = (row for row in rows(workdir) if row["split"] == "train")
    assert f"loss {last['loss']:.3f}, error {last['top1_error']:.1%}, " in bars[-1]
    assert not re.search(r"step +\d+/16 ", shown)


def test_what_is_said_stands_on_lines_of_its_own(trained: tuple[Path, str]) -> None:
    """No rest of a bar before or behind it, no traceback; the result is the last."""
    workdir, shown = trained
    lines = screen(shown).lines
    assert "Traceback" not in shown
    score = (
        r"top-1 error [\d.]+%, top-5 error [\d.]+%, loss [\d.]+ in (one|ten) views? of \d+ images"
    )
    validations = [line for line in lines if "validation: " in line]
    assert len(validations) == 2
    assert all(re.fullmatch(rf"step +\d+  validation: {score}", line) for line in validations)
    tests = [line for line in lines if "test, last step" in line]
    assert [bool(re.fullmatch(rf"test, last step: {score}", line)) for line in tests] == [True] * 2
    assert "testing 24 images in one view and in ten" in lines
    assert lines.index(tests[0]) > max(i for i, line in enumerate(lines) if "%|" in line)
    assert f"In {workdir}: metrics.jsonl" in "\n".join(lines)


def test_evaluation_has_a_bar_and_its_result_on_lines_of_its_own(
    tiny: Tiny, trained: tuple[Path, str]
) -> None:
    code, shown = Terminal(tiny, f"--workdir={trained[0]}", "--mode=evaluate").end()
    found = screen(shown)
    assert code == 0 and "Traceback" not in shown
    bars = [text for text in found.passed if re.search(r"\d+%\|", text)]
    assert max(map(len, bars)) <= COLUMNS and "24/24" in bars[-1] and " images/s" in bars[-1]
    result = [line for line in screen(trained[1]).lines if "test, last step" in line]
    printed = [f"test, last step: {line}" for line in found.lines if line.startswith("top-1 error")]
    assert printed == result


def test_ctrl_c_in_a_terminal(tiny: Tiny, tmp_path: Path) -> None:
    """The run is saved, and that is said in a line, without a traceback."""
    flags = (f"--workdir={tmp_path}", f"--config={tiny.config}", "--config.epochs=500")
    terminal = Terminal(tiny, *flags, "--config.checkpoint_every=1000")
    terminal.read_until(r"loss \d")
    terminal.press(b"\x03")
    code, shown = terminal.end()
    assert code == 128 + signal.SIGINT and "Traceback" not in shown
    *_, step = checkpoint_steps(tmp_path)  # perhaps after that of the first validation
    said = [line for line in screen(shown).lines if "stopped by" in line]
    assert said == [
        f"stopped by SIGINT: saved at step {step}; give the same command again to resume"
    ]


# --- a pipe ---------------------------------------------------------------------------------------


def test_predict_into_a_pipe_that_closes(tiny: Tiny, trained: tuple[Path, str]) -> None:
    """As `| head -1` does it: the first line comes, and nothing is said of the rest."""
    command = [sys.executable, "-m", "alexnet_jax.predict", f"--workdir={trained[0]}"]
    folders = [str(tiny.root / "images")] * 12  # 1,296 answers, which no pipe holds
    with subprocess.Popen(
        [*command, *folders],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == f"{tiny.root}/images/test/a/0.png\n"
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode != 0, said) == (True, "")


INTERRUPTED = """
import signal
from alexnet_jax import streams

streams.last()
signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
numbers = iter(range(2000))
left = True
while left:
    try:
        for number in numbers:
            signal.setitimer(signal.ITIMER_REAL, 2e-6 * (number % 20 + 1))
            print(f"<{number}>", flush=True)
            signal.setitimer(signal.ITIMER_REAL, 0)  # a second one would come outside
        left = False
    except ZeroDivisionError:
        pass
"""


def test_an_interrupted_print_is_not_printed_twice() -> None:
    """A signal may come between the system's write and the note that it is done."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True
    )
    printed = re.findall(r"<\d+>", done.stdout)
    assert len(printed) > 100
    assert len(printed) == len(set(printed))
