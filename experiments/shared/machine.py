"""Where a number was measured, which goes into every result file, and what is installed there."""

import contextlib
import importlib
import importlib.util
import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import alexnet_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Processor, cores, cards, versions of Python and packages, and the commit of this code.

    Args:
        packages: more of them, of which those that are installed are listed.
    """
    versions = {"alexnet_jax": alexnet_jax.__version__}
    for name in (*PACKAGES, *packages):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "processor": _processor(),
        "cores": cores(),
        "cards": _cards(),
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
    }


def made_by(result: Mapping[str, Any], names: Iterable[str]) -> str:
    """Where, when idle or not, and by which command a result was made: a paragraph for its page.

    Args:
        result: with `command`, `machine` and `load_average`, and where it stands on runs that
            were kept `trained_at`.
        names: of the packages whose versions are given, if they were installed.
    """
    where, packages = result["machine"], result["machine"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
    begun = ", ".join(result.get("trained_at", ()))
    devices = [f"{where['cores']} cores", *where.get("cards", ())]  # older results name no cards
    return (
        f"{where['processor']}, {', '.join(devices)}; Python {where['python']}, {versions}; "
        f"commit {where['commit']}{begun and f', runs begun at {begun}'}. "
        f"Load average before: {result['load_average']['before'][0]:.1f}. "
        f"Made by `{result['command']}`."
    )


def optional(module: str, *, needs: str) -> ModuleType | None:
    """A module of the experiments, or None where the package that it needs is not installed."""
    return importlib.import_module(module) if importlib.util.find_spec(needs) else None


def cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux has it, macOS has not
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cards() -> list[str]:
    """Names of the GPUs that jax may use, by NVIDIA's own command: to ask jax would take one."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()


def _commit() -> str:
    """Its short name; '-dirty' says that other files than results differ from it."""
    commit = _git("describe", "--always")
    if not commit:
        return "unknown"
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!results")
    return f"{commit}-dirty" if changes else commit


def _git(*arguments: str) -> str:
    return _output("git", *arguments)


def _output(*command: str) -> str:
    """What a command prints of this code or machine; nothing where it fails, or is not there."""
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
