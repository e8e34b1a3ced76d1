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
    "keep_checkpoints", "data.dir", "data.cache", "data.validation", "data.threads",
)  # fmt: skip


CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "precision": ("default", "high", "highest"),
    "optim.rule": ("sgd", "lars"),
    "optim.schedule": ("steps", "plateau", "dexp", "exp", "poly"),
    "data.lighting": ("sqrt", "eigenvalue", "none"),
    "data.lighting_on": ("host", "device"),
    "data.mean": ("centre", "aligned"),
}
POSITIVE = (
    "batch_size", "epochs", "eval_batch_size", "log_every", "eval_every", "checkpoint_every",
    "keep_checkpoints", "data.size", "data.lighting_divisor", "optim.patience",
    "optim.learning_rate", "optim.trust", "optim.final_share", "accumulate",
)  # fmt: skip
NOT_NEGATIVE = (
    "optim.weight_decay",
    "optim.bias_multiplier",
    "optim.rates.",
    "data.holdout",
    "data.threads",
    "mesh.data",
)
# Of the run; 1 is its end.
SHARES = (
    "optim.drops", "optim.bias_drops", "optim.rises", "optim.conv1_slow_after",
    "optim.conv1_frozen_after", "optim.warmup", "optim.final_share", "data.lighting_until",
)  # fmt: skip
# Of what any run could mean; steps and sizes are 32-bit numbers.
AT_MOST = {
    "epochs": 1e6, "eval_every": 1e6, "checkpoint_every": 1e6, "data.size": 2**16 - 1,
    "mesh.data": 2**12, "data.threads": 2**10,
    "model.classes": 2**20, "model.fc6.width": 2**20, "model.fc7.width": 2**20,
    **{f"model.conv{number}.width": 2**13 for number in range(1, 7)},
}  # fmt: skip
LARGEST = {int: 2**31 - 1, float: 3.4e38}
SMALLEST = 1.2e-38  # of float32, before it becomes 0


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
            value = flat[field] if flat[field].isprintable() else repr(flat[field])
            raise ConfigError(f"--config.{field}={value}: one of {', '.join(allowed)}")
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"--config.seed={config.seed}: from 0 to {2**32 - 1}")
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"--config.accumulate={config.accumulate}: batch_size={config.batch_size} does not "
            "divide into so many parts"
        )
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
    if config.optim.rises and config.optim.schedule != "steps":
        raise ConfigError(
            f"--config.optim.rises={config.optim.rises}: optim.schedule={config.optim.schedule} "
            "never raises a rate; set optim.schedule=steps, or leave optim.rises out"
        )
    layers = network(config).decays()
    if not any(config.optim.rates[layer] for layer in layers):
        raise ConfigError(
            f"--config.optim.rates: all layers are frozen ({', '.join(layers)}); leave one of them "
            "a rate above 0"
        )


def _check_numbers(field: str, value: Any) -> None:
    """Refuses a value that is wrong whatever the other fields are."""
    if field == "seed":  # an unsigned one
        return
    values = value if isinstance(value, tuple) else (value,)
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    wrong = ""
    if isinstance(value, tuple) and len(numbers) < len(value):
        wrong = "a tuple of numbers"
    elif not all(math.isfinite(v) for v in numbers):
        wrong = "must be a finite number"
    elif any(abs(v) > (largest := AT_MOST.get(field, LARGEST[type(v)])) for v in numbers):
        wrong = f"at most {largest:g}"
    elif field in POSITIVE and not value > SMALLEST:
        wrong = "must be greater than 0"
    elif field.startswith(NOT_NEGATIVE) and value < 0:
        wrong = "must not be negative"
    elif field in SHARES and not all(0 <= v <= 1 for v in numbers):
        wrong = "shares of the run, each from 0 to 1"
    elif field == "mesh.tower" and value not in (0, 1, 2):
        wrong = "the network has two towers, so the tower axis is 1 or 2"
    elif field == "optim.momentum" and not 0 <= value < 1:
        wrong = "from 0 to less than 1"
    elif field == "data.holdout" and value >= 1 and value % 1:
        wrong = "below 1 a share, from 1 on a whole number of images"
    elif field.endswith("padding") and (
        [type(v) for v in values] != [int, int] or min(values, default=0) < 0
    ):
        wrong = "two whole numbers from 0 on, before and after"
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
