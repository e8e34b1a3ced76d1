"""What no run can have, refused before anything is read or written."""

import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import ConfigError
from alexnet_jax.model import Network
from alexnet_jax.settings import places
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
AT_LEAST_ONE = (
    "batch_size", "eval_batch_size", "log_every", "keep_checkpoints", "data.size", "optim.patience",
    "model.input_size", "model.pool_window", "model.pool_stride", "model.lrn_size",
)  # fmt: skip
POSITIVE = (
    "epochs", "eval_every", "checkpoint_every", "data.lighting_divisor", "optim.learning_rate",
    "model.lrn_k",
)  # fmt: skip
# Of the run; 1 is its end.
SHARES = (
    "optim.drops", "optim.bias_drops", "optim.conv1_slow_after", "optim.conv1_frozen_after",
    "data.lighting_until",
)  # fmt: skip
NOT_NEGATIVE = (
    "optim.weight_decay", "optim.bias_multiplier", "data.holdout", "mesh.data", "mesh.tower",
    "model.lrn_alpha", "model.lrn_beta", "std", "width",
)  # fmt: skip
LARGEST = 2**31 - 1  # what a whole number on a device, or a size, may be


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
    """Refuses a value that is wrong whatever the other fields are."""
    last = field.rpartition(".")[2]
    values = value if isinstance(value, tuple) else (value,)
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    wrong = ""
    if isinstance(value, tuple) and len(numbers) < len(value):
        wrong = "a tuple of numbers"
    elif not all(math.isfinite(v) for v in numbers):
        wrong = "must be a finite number"
    elif any(isinstance(v, int) and abs(v) > LARGEST for v in numbers) and field != "seed":
        wrong = f"at most {LARGEST}"
    elif field in AT_LEAST_ONE and not value >= 1:
        wrong = "must be at least 1"
    elif field in POSITIVE and not value > 0:
        wrong = "must be greater than 0"
    elif field in SHARES and not all(0 <= v <= 1 for v in numbers):
        wrong = "shares of the run, each from 0 to 1"
    elif (field in NOT_NEGATIVE or last in NOT_NEGATIVE or last.endswith("_std")) and value < 0:
        wrong = "must not be negative"
    elif field == "optim.momentum" and not 0 <= value < 1:
        wrong = "from 0 to less than 1"
    elif field == "model.lrn_size" and value % 2 == 0:
        wrong = "an odd number of channels, with one in the middle"
    elif last in ("padding", "pool_padding"):
        if [type(v) for v in values] != [int, int] or min(values) < 0:
            wrong = "two whole numbers from 0 on, before and after"
    elif isinstance(value, tuple) and min(value, default=0) < 0:
        wrong = "numbers from 0 on"
    if wrong:
        raise ConfigError(f"--config.{field}={value}: {wrong}")


def check_same_run(saved: ConfigDict, asked: ConfigDict, workdir: Path) -> None:
    """Refuses to resume a run under a configuration that makes another one of it.

    Raises:
        ConfigError: names the fields that differ.
    """
    free: tuple[str, ...] = FREE
    if asked.optim.schedule == "plateau":  # the validation is then part of the update rule
        free = tuple(field for field in FREE if field not in ("eval_every", "data.validation"))
    if places.same_kind(saved.data.source, asked.data.source):
        free = (*free, "data.source")  # the fingerprint in a checkpoint tells other images
    before, now = flatten(places.absolute(saved)), flatten(places.absolute(asked))
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
