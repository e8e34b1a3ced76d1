"""From names and flags to a configuration, and from one to a file and back.

A configuration is a typed `ml_collections.ConfigDict` of plain values. It is made by a file of
`configs/` (or any file with a `get_config`), changed field by field, checked once, and saved with
the run, so that the run can be evaluated and resumed without its flags.
"""

import ast
import difflib
import importlib.util
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import UserError
from alexnet_jax.model import Network

CONFIGS = Path(__file__).parent / "configs"
NOT_CONFIGS = {"__init__", "presets", "small"}

# What a run may change when it goes on: how long, how often, on what. All else makes another
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


# Fields that came after version 0.1, with what they mean for a run of before.
LATER = {
    "data.cache": None,
    "dtype": "float32",
    "init_from": None,
    "model.lrn_across_towers": False,
}


class ConfigError(UserError):
    """A configuration that cannot be."""

    exit_code = 2


def names() -> list[str]:
    """The configurations that come with the package."""
    return sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem not in NOT_CONFIGS)


def load(spec: str) -> ConfigDict:
    """The configuration NAME, NAME:PRESET, or that of a file PATH.py, PATH.py:PRESET.

    Raises:
        ConfigError: there is no such configuration or preset.
    """
    name, colon, preset = spec.partition(":")
    path = Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py"
    if not path.is_file() or (path.stem in NOT_CONFIGS and path.parent == CONFIGS):
        if name.endswith(".py"):
            raise ConfigError(f"--config={spec}: there is no file {path}")
        raise ConfigError(
            f"--config={spec}: unknown configuration {name!r}{_nearest(name, names())} "
            f"There are {', '.join(names())}; a path that ends in .py works too."
        )
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config(preset) if colon else module.get_config()
    except Exception as error:
        raise ConfigError(f"--config={spec}: {error}") from error
    return _complete(config, f"--config={spec}")


def override(config: ConfigDict, assignments: Iterable[str]) -> ConfigDict:
    """Sets fields, each given as 'field.of.a.field=value', on a copy.

    Raises:
        ConfigError: an unknown field, with the nearest known one, or a value of the wrong type.
    """
    config = config.copy_and_resolve_references()
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        flag = f"--config.{assignment}"
        known = flatten(config)
        if field not in known:
            raise ConfigError(f"{flag}: unknown field {field!r}{_nearest(field, known)}")
        if not equals:
            raise ConfigError(f"{flag}: write --config.{field}=VALUE")
        if field == "preset":  # which stands for many fields
            raise ConfigError(f"{flag}: choose a preset by --config=NAME:{text}")
        old = known[field]
        try:
            config.update_from_flattened_dict({field: _parse(text, old)})
        except (TypeError, ValueError, SyntaxError) as error:
            raise ConfigError(
                f"{flag}: {field} is {_kind(old)} (now {old!r}), which {text!r} is not"
            ) from error
    return config


def _parse(text: str, old: Any) -> Any:
    if isinstance(old, str) or old is None:
        return text
    if isinstance(old, bool):
        words = {"true": True, "false": False}
        return words[text.lower()] if text.lower() in words else _refuse()
    value = ast.literal_eval(text.strip()) if text.strip() else _refuse()
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(old):
        _refuse()
    return value


def _refuse() -> Any:
    raise ValueError


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a tuple"}
    return kinds.get(type(value), "a text")


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # a field without its section: 'learning_rate' for 'optim.learning_rate'
        close = [k for k in known if k.endswith("." + name.rpartition(".")[2])][:1]
    return f"; did you mean {close[0]!r}?" if close else "."


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim.momentum': 0.9, ...}"""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (ConfigDict, dict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


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


def _complete(config: Any, where: object) -> ConfigDict:
    """The configuration, if it has every field of a run."""
    from alexnet_jax.configs import base

    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{where}: get_config has to return a ConfigDict, not {config!r:.80}")
    known, given = flatten(base.get_config()).keys(), flatten(config).keys()
    unknown = sorted(given - known)
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}{_nearest(unknown[0], known)}")
    missing = sorted(known - given)
    if missing:
        raise ConfigError(
            f"{where} has no field {', '.join(missing[:4])}{' and more' * (len(missing) > 4)}: "
            "start from alexnet_jax.configs.base.get_config()"
        )
    return config


def save(config: ConfigDict, path: Path) -> None:
    """Writes a configuration as JSON, all at once or not at all."""
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    partial.replace(path)


def read(path: Path) -> ConfigDict:
    """The configuration that `save` wrote.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict):
            raise ValueError("it is no JSON object")
        for field, value in LATER.items():
            *sections, name = field.split(".")
            place: Any = fields
            for section in sections:
                place = place.get(section, {}) if isinstance(place, dict) else {}
            if isinstance(place, dict):
                place.setdefault(name, value)
        return _complete(ConfigDict(_tuples(fields)), path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent} holds no run (no {path.name}); train one with --workdir={path.parent}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def check_same_run(saved: ConfigDict, asked: ConfigDict, workdir: Path) -> None:
    """Refuses to go on with a run under a configuration that makes another one of it.

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
