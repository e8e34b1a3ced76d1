"""From names and flags to a configuration, and from one to a file and back.

A configuration is a typed `ml_collections.ConfigDict` of plain values. It is made by a file of
`configs/` (or any file with a `get_config`), changed field by field, checked once, and saved with
the run, so that the run can be evaluated and resumed without its flags.
"""

from alexnet_jax.errors import ConfigError
from alexnet_jax.settings.checks import check, check_same_run, network
from alexnet_jax.settings.fields import flatten, override
from alexnet_jax.settings.files import load, names, read, save
from alexnet_jax.settings.places import absolute

__all__ = [
    "ConfigError",
    "absolute",
    "check",
    "check_same_run",
    "flatten",
    "load",
    "names",
    "network",
    "override",
    "read",
    "save",
]
