"""The files of the checkout, and what all parts of the tool need."""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path


def tracked_files(root: Path) -> list[str]:
    """All files that git does not ignore, from the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted(file for file in {*listed.split("\0")} if (root / file).is_file())


def named(files: Iterable[str], paths: list[str], pattern: str = "*.py") -> list[str]:
    """Those of the files that are named, or lie in folders that are."""
    folders = [os.path.relpath(path) for path in paths]
    found = [f for f in files if any(Path(f).is_relative_to(folder) for folder in folders)]
    return [file for file in found if Path(file).match(pattern)]


def fingerprint(*parts: object) -> str:
    """A name that only the same parts have."""
    return hashlib.sha1(repr(parts).encode()).hexdigest()
