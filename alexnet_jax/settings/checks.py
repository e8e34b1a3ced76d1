"""What no run can have, refused before anything is read or written."""

import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import ConfigError
from alexnet_jax.model import Network
from alexnet_jax.settings.fields import flatten

# What a run may change when it resumes: how long, how often, on what. All else makes another
# network, other data or another update rule, which a checkpoint does not fit.
FREE = (
    "epochs", "mesh.", "eval_batch_size", "log_every", "eval_every", "checkpoint_every",
    "keep_checkpoints", "data.dir", "data.cache", "data.validation",
)  # fmt: skip


CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "optim.schedule": ("steps", "plateau", "dexp"),
    "data.lighting": ("sqrt", "eigenvalue", "none"),
    "data.lighting_on": ("host", "device"),
    "data.mean": ("centre", "aligned"),
}
POSITIVE = (
    "batch_size", "epochs", "eval_batch_size", "log_every", "eval_every", "checkpoint_every",
    "keep_checkpoints", "data.size", "data.lighting_divisor", "optim.patience",
    "optim.learning_rate",
)  # fmt: skip


def network(config: ConfigDict) -> Network:
    """The network a configuration asks for.

    Raises:
        ConfigError: a network that cannot be.
    """
    try:
        return Network.from_dict(config.model.to_dict())
    except ValueError as error:
        raise ConfigError(f"--config.{error}") from error


def check(config: ConfigDict) -> None:
    """Refuses values that no run can have, before anything is read or written.

    Raises:
        ConfigError: names the field, its value, and what it may be.
    """
    flat = flatten(config)
    for field, value in flat.items():
        _check_numbers(field, value)
    for field in ("data.train", "data.test"):
        if not flat[field]:
            raise ConfigError(f"--config.{field}=: name a split of {config.data.source}")
    for field, allowed in CHOICES.items():
        if flat[field] not in allowed:
            raise ConfigError(f"--config.{field}={flat[field]}: one of {', '.join(allowed)}")
    for field in POSITIVE:
        if not flat[field] > 0:
            raise ConfigError(f"--config.{field}={flat[field]}: must be greater than 0")
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"--config.seed={config.seed}: from 0 to {2**32 - 1}")
    if config.data.size < config.model.input_size:
        raise ConfigError(
            f"--config.data.size={config.data.size}: images must be at least as large as the "
            f"network's input, model.input_size={config.model.input_size}"
        )
    if config.optim.schedule == "plateau" and not config.data.validation:
        raise ConfigError(
            "--config.optim.schedule=plateau looks at the validation error: set "
            "data.validation=validation, and data.holdout=N where the source has no such split"
        )
    network(config)


def _check_numbers(field: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"--config.{field}={value}: must be a finite number")
    if isinstance(value, tuple):
        if not all(isinstance(v, (int, float)) and 0 <= v < math.inf for v in value):
            raise ConfigError(f"--config.{field}={value}: a tuple of numbers from 0 on")
        if field.endswith("padding") and [type(v) for v in value] != [int, int]:
            raise ConfigError(f"--config.{field}={value}: two whole numbers, before and after")


def check_same_run(saved: ConfigDict, asked: ConfigDict, workdir: Path) -> None:
    """Refuses to resume a run under a configuration that makes another one of it.

    Raises:
        ConfigError: names the fields that differ.
    """
    free: tuple[str, ...] = FREE
    if asked.optim.schedule == "plateau":  # the validation is then part of the update rule
        free = tuple(field for field in FREE if field not in ("eval_every", "data.validation"))
    before, now = flatten(saved), flatten(asked)
    differing = [
        f"{field} ({before.get(field)!r} there, {now.get(field)!r} asked)"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and not field.startswith(free)
    ]
    if differing:
        raise ConfigError(
            f"{workdir} holds a run with another configuration: {'; '.join(differing[:6])}"
            f"{' and more' * (len(differing) > 6)}. Give that configuration, or another --workdir."
        )
