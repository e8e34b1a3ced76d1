"""From names and flags to a configuration, and from one to a file and back.

A configuration is a typed `ml_collections.ConfigDict` of plain values. It is made by a file of
`configs/` (or any file with a `get_config`), changed field by field, completed by what weights and
images say if they are to be fine-tuned on (`adapting`), checked once, and saved with the run, so
that the run can be evaluated and resumed without its flags.
"""

from alexnet_jax.errors import ConfigError
from alexnet_jax.settings.adapting import adapt, read_source
from alexnet_jax.settings.checks import check, check_same_run, network
from alexnet_jax.settings.fields import flatten, override
from alexnet_jax.settings.files import load, names, read, save
from alexnet_jax.settings.places import absolute

__all__ = [
    "ConfigError",
    "absolute",
    "adapt",
    "check",
    "check_same_run",
    "flatten",
    "load",
    "names",
    "network",
    "override",
    "read",
    "read_source",
    "save",
]
