"""stdout and stderr of one of several processes: what C code says is heard, what Python prints
stays."""

import os
import subprocess
import sys

import pytest

SHARED = """
import os, sys
from alexnet_jax import streams
streams.last()
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SHARED + code], capture_output=True, text=True)


def test_a_silent_process_prints_on_stderr_alone() -> None:
    done = python("""
print("before", flush=True)
streams.silence()
print("after", flush=True)
os.write(1, b"and C code\\n")
print("an error", file=sys.stderr)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\n", "an error\n")


def test_c_code_is_overheard_and_python_is_not() -> None:
    done = python("""
import time
heard = []
def hear(line):
    heard.append(line)
    return b"shown" in line
print("a word before")
streams.overhear(hear)
print("from Python")
print("an error of Python", file=sys.stderr)
os.write(2, b"hidden\\nto be shown\\n")
os.write(1, b"also hidden, ")
os.write(1, b"in pieces\\n")
while len(heard) < 3:
    time.sleep(0.01)
print(heard)
""")
    heard = [b"hidden\n", b"to be shown\n", b"also hidden, in pieces\n"]
    assert done.returncode == 0
    assert done.stdout == f"a word before\nfrom Python\n{heard}\n"
    assert done.stderr == "an error of Python\nto be shown\n"


def test_a_silent_process_that_overhears_prints_nothing() -> None:
    done = python("""
streams.overhear(lambda line: True)
streams.silence()
print("nothing", flush=True)
print("an error", file=sys.stderr)
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "an error\n")


def test_what_is_overheard_may_end_the_process() -> None:
    """While its main thread does something else, and holds what Python needs most of the time."""
    done = python("""
def hear(line):
    print("heard", file=sys.stderr, flush=True)
    os._exit(7)
streams.overhear(hear)
os.write(2, b"the end\\n")
while True:
    sum(range(1000))
""")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "heard\n")


@pytest.mark.parametrize("attempt", range(5))
def test_who_overhears_has_the_last_word_before_an_abort(attempt: int) -> None:
    """Also where the page and the abort come at once, and the main thread is busy."""
    done = python("""
import ctypes, threading
def hear(line):
    print("heard", file=sys.stderr, flush=True)
    os._exit(7)
streams.overhear(hear)
streams.slow_abort()
c = ctypes.CDLL(None)
threading.Thread(target=lambda: (c.write(2, b"the end\\n", 8), c.abort())).start()
while True:
    sum(range(1000))
""")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "heard\n")


def test_who_does_not_read_stderr_ends_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    code = (
        SHARED
        + """
streams.overhear(lambda line: True)
os.write(2, b"nobody reads this\\n")
import time
time.sleep(0.2)
os.write(2, b"nor this\\n")
print("done")
"""
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=write)
    os.close(write)
    assert (done.returncode, done.stdout) == (0, b"done\n")
