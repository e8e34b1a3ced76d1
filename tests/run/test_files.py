"""Locks, also where a file system or a system has none, and files that are whole or not there."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from alexnet_jax import files
from alexnet_jax.errors import UserError
from alexnet_jax.files import exclusive_lock, sole_owner, whole

HOLD = """
import errno, os, sys, time
if sys.argv[2]:
    import fcntl
    def flock(file, how): raise OSError(int(sys.argv[2]), "no locks")
    fcntl.flock = flock
from pathlib import Path
from alexnet_jax.files import sole_owner
with sole_owner(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(params=[0, *NO_LOCKS])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A file system with locks, 0, and some without, by the error that they give."""
    if request.param:
        import fcntl

        def flock(file: Any, how: int) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


def test_a_second_owner_is_kept_out_until_the_first_is_done(tmp_path: Path, locks: int) -> None:
    with (
        sole_owner(tmp_path),
        pytest.raises(UserError, match="another process is training in"),
        sole_owner(tmp_path),
    ):
        pass
    with sole_owner(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("number", [0, errno.ENOSYS])
def test_a_process_that_is_killed_lets_go(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if number:
        import fcntl

        def flock(file: Any, how: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
    command = [sys.executable, "-c", HOLD, str(tmp_path), str(number or "")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is training"), sole_owner(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with sole_owner(tmp_path):
        pass


def test_nobody_can_tell_of_another_machine(tmp_path: Path, locks: int) -> None:
    """On a file system without locks; where there are some, its file means nothing."""
    owner = tmp_path / ".lock.owner"
    owner.write_text("elsewhere 12 1.5")
    if not locks:
        with sole_owner(tmp_path):
            return
    with pytest.raises(UserError) as info, sole_owner(tmp_path):
        pass
    assert f"{owner} says that process 12 on elsewhere is at work" in str(info.value)
    assert "delete that file" in str(info.value)
    owner.write_text("")  # cut short by a full disk
    with pytest.raises(UserError, match=r"process \? on another machine"), sole_owner(tmp_path):
        pass


def test_an_earlier_process_of_the_same_number_holds_nothing(tmp_path: Path, locks: int) -> None:
    host, number, _ = files.OURSELVES.split()
    (tmp_path / ".lock.owner").write_text(f"{host} {number} 1.5")
    with sole_owner(tmp_path):
        pass


def test_who_does_not_mind_waits(
    tmp_path: Path, locks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path, order = tmp_path / "deep" / ".lock", []

    def hold() -> None:
        with exclusive_lock(path):
            order.append("first")
            held.set()
            time.sleep(0.5)
            order.append("done")

    held = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with exclusive_lock(str(path)):
        order.append("second")
    thread.join()
    assert order == ["first", "done", "second"]
    assert capsys.readouterr().out == f"waiting for another process to let go of {path}\n"


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match=r"cannot write .*: choose a directory you can write"),
        exclusive_lock(tmp_path / "file" / "lock"),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"--workdir=.*: give another"),
        sole_owner(tmp_path / "file" / "run"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("module", ["msvcrt.py", "nothing.py"])
def test_without_fcntl_windows_own_locks_are_used(tmp_path: Path, module: str) -> None:
    """In a process of its own, whose msvcrt is a stand-in that knows one lock, or is missing."""
    (tmp_path / module).write_text(
        "LK_NBLCK, held = 2, set()\n"
        "def locking(number, how, count):\n"
        "    import os\n"
        "    key = os.fstat(number).st_ino\n"
        "    if key in held: raise PermissionError(13, 'Permission denied')\n"
        "    held.add(key)\n"
    )
    program = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from pathlib import Path\n"
        "from alexnet_jax import files\n"
        "from alexnet_jax.errors import UserError\n"
        "with files.sole_owner(Path('run')):\n"
        "    try:\n"
        "        with files.sole_owner(Path('run')): print('both')\n"
        "    except UserError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith("another process is training in run"), done.stderr


# --- files that are whole or not there ------------------------------------------------------------


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path, mine = tmp_path / "x.npy", tmp_path / "x.npy.partial"
    mine.write_text("my only copy")
    with whole(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "y.npy") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert sorted(tmp_path.iterdir()) == [path, mine]
    assert mine.read_text() == "my only copy"


def test_what_came_meanwhile_is_replaced_only_if_that_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(FileExistsError, match="is kept"), whole(path) as file:
        file.write(b"new")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    with whole(path, replace=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "x", []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((number, path.exists())))
    with whole(path) as file:
        number = file.fileno()
    assert seen == [(number, False)]
