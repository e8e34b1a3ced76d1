"""Compiles the program for accelerators that are not here, and shows what it would do on them.

    python -m experiments.ahead [--target=h100,v5e] [--mesh=1x1,1x2,2x2] [--batch=128,1024]
                                [--dtype=bfloat16] [--mode=training,inference]

The compilers of XLA need no device. `pip install 'alexnet_jax[ahead]'` brings them, and a target
whose compiler is missing is skipped. What they print says what a step moves, keeps and exchanges,
and for a TPU how many cycles the compiler expects. A time it does not say: the bound is what the
card's published rates leave, and a device may be slower.

Writes ahead.json and the page that is printed, ahead.md. The same command resumes where it was
stopped, as long as the sources are the same. A TPU's program takes minutes to compile.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError
from experiments.ahead.report import PACKAGES, page
from experiments.ahead.targets import TARGETS
from experiments.shared.command import (
    PUBLISHED,
    Flags,
    Results,
    add_fields,
    fields,
    listing,
    number,
    say,
    start,
)
from experiments.shared.journal import Journal, fingerprint, tracked_files

MODES = ("training", "inference")
DTYPES = ("bfloat16", "float32")
ENVIRONMENT = {  # no device is looked for, and libtpu asks no metadata server
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Case(NamedTuple):
    """A program for some devices."""

    target: str
    mode: str
    mesh: str
    batch: int
    dtype: str


def main(argv: Sequence[str] | None = None) -> None:
    """Compiles everything that is not in the journal, and reports."""
    flags = Flags("ahead", __doc__)
    add = flags.add_argument
    add("--target", type=listing(), default=["h100", "v5e"], help=f"Of {', '.join(TARGETS)}.")
    add("--mesh", type=listing(mesh), default=["1x1", "1x2", "2x2"], help="DATAxTOWER devices.")
    add("--batch", type=listing(number(1)), default=[128, 1024], help="Images, over all devices.")
    add("--dtype", type=listing(), default=["bfloat16"], help=f"Of the maps: {', '.join(DTYPES)}.")
    add("--mode", type=listing(), default=list(MODES), help=f"Of {', '.join(MODES)}.")
    add("--config", default="imagenet", help="Whose network it is.")
    add_fields(flags)
    arguments = flags.parse(argv)
    for name, known in (("target", TARGETS), ("dtype", DTYPES), ("mode", MODES)):
        if unknown := [word for word in getattr(arguments, name) if word not in known]:
            flags.error(f"--{name}={unknown[0]}: expected some of {', '.join(known)}")
    targets = [name for name in arguments.target if available(name)]
    if not targets:
        raise UserError("no target is left: pip install 'alexnet_jax[ahead]' brings the compilers")
    results = Results("ahead", arguments, PACKAGES)
    more = [arguments.config, *fields(arguments)]
    journal = Journal(results.folder / "programs.jsonl", sources(more, results.machine["packages"]))
    cases = [
        Case(*values)
        for values in itertools.product(
            targets, arguments.mode, arguments.mesh, arguments.batch, arguments.dtype
        )
    ]
    for place, case in enumerate(cases, 1):
        key = " ".join(map(str, case))
        if journal.rows.get(key, {}).get("tree") == journal.tree:
            continue
        say(f"[{place}/{len(cases)}] compiling {key}")
        began = time.perf_counter()
        journal.keep(key, **case._asdict(), **compiled(case, more))
        say(f"[{place}/{len(cases)}] {time.perf_counter() - began:5.0f} s")
    rows = [journal.rows[" ".join(map(str, case))] for case in cases]
    result = results.made_by() | {"config": arguments.config, "programs": rows}
    results.write("ahead.json", result)
    results.write_page("ahead.md", page(result))
    results.finish()


def mesh(text: str) -> str:
    """The type of a mesh: '1x2'."""
    if not re.fullmatch(r"[1-9]\d*x[12]", text):
        raise ValueError(f"{text}: expected DATAxTOWER, such as 1x2")
    return text


def available(name: str) -> bool:
    """Whether the compiler of a target is here; says so if not."""
    target = TARGETS[name]
    if target.missing():
        say(f"skipping {name}: its compiler, {target.compiler}, is not installed")
    return not target.missing()


def sources(*more: object) -> str:
    """A name of everything that decides what is compiled, and how it is read."""
    root = PUBLISHED.parents[1]
    files = [
        file
        for file in tracked_files(root)
        if file.startswith(("alexnet_jax/", "experiments/ahead/", "experiments/shared/compiled"))
    ]
    return fingerprint(*more, [(file, (root / file).read_bytes()) for file in files])


def compiled(case: Case, config: Sequence[str]) -> dict[str, Any]:
    """What the compiler says of a program, see `experiments.ahead.program`.

    Raises:
        UserError: it failed.
    """
    module = "experiments.ahead.program"
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, case), *config],
        env=os.environ | ENVIRONMENT,
        cwd=PUBLISHED.parents[1],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        *_, last = done.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(f"{' '.join(map(str, case))} was not compiled: {last}")
    *_, last = done.stdout.splitlines()
    return dict(json.loads(last))


if __name__ == "__main__":
    start(main)
