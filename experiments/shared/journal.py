"""What has been found so far, in a file that has it as soon as it is known: a journal to resume."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def tracked_files(root: Path) -> list[str]:
    """All files that git does not ignore, from the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted(file for file in {*listed.split("\0")} if (root / file).is_file())


def fingerprint(*parts: object) -> str:
    """A name that only the same parts have."""
    return hashlib.sha1(repr(parts).encode()).hexdigest()


class Journal:
    """Rows by key.

    Attributes:
        rows: the newest of every key.
        tree: the fingerprint of the sources by which new rows are found; a row has that of its own.
    """

    def __init__(self, path: Path, tree: str) -> None:
        """Reads the file, if there is one; a last line that was cut short is left out."""
        self.path, self.tree = path, tree
        self.rows: dict[str, dict[str, Any]] = {}
        text = path.read_text() if path.exists() else ""
        whole, _, _ = text.rpartition("\n")
        try:
            for line in whole.splitlines():
                row = json.loads(line)
                self.rows[row["key"]] = row
        except (json.JSONDecodeError, KeyError) as error:
            sys.exit(f"{path} is corrupt ({error}): delete the broken line, or name another --out")
        if len(whole) + 1 < len(text):
            with path.open("r+") as file:
                os.ftruncate(file.fileno(), len((whole + "\n").encode()) if whole else 0)

    def add(self, other: Path) -> None:
        """Adds the rows of another file that this one has not, as they are."""
        lines = [row for key, row in Journal(other, "").rows.items() if key not in self.rows]
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in lines)
        self.rows |= {row["key"]: row for row in lines}

    def keep(self, key: str, **row: Any) -> None:
        """Adds a row; it takes the place of an earlier one of the same key."""
        self.rows[key] = {"key": key, "tree": self.tree, **row}
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[key]) + "\n")
