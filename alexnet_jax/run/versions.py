"""The versions of the libraries on which the numbers of a run depend."""

import functools
import platform
from collections.abc import Mapping
from importlib import metadata

LIBRARIES = (
    "alexnet_jax", "flax", "grain", "jax", "jaxlib", "numpy", "opencv-python-headless", "optax",
    "orbax-checkpoint", "Pillow", "simplejpeg", "tensorflow-datasets",
)  # fmt: skip


@functools.cache
def installed() -> dict[str, str]:
    """The version of each library that is here, and of Python."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # another build of it, or the package's own checkout
            continue
    return found


def differing(before: Mapping[str, str]) -> str:
    """What has another version here than in a checkpoint's record: 'jax 0.10.1, now 0.10.2'."""
    now = installed()
    pairs = [(name, version, now.get(name, "gone")) for name, version in before.items()]
    return "; ".join(f"{name} {then}, now {here}" for name, then, here in pairs if then != here)
