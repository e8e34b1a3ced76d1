"""Configurations by name and from files, and those that are saved with a run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import ConfigError
from alexnet_jax.files import whole
from alexnet_jax.model.network import LAYERS
from alexnet_jax.settings.fields import flatten, kind, nearest, of_kind

CONFIGS = Path(__file__).parents[1] / "configs"


# Fields that came after the first runs, with what those did.
LATER = {
    "adapt": False, **{f"optim.rates.{layer}": 1.0 for layer in LAYERS},
    "precision": "default", "deterministic": False, "accumulate": 1, "optim.rule": "sgd",
    "optim.rises": (), "optim.trust": 0.001, "optim.final_share": 0.004, "optim.warmup": 0.0,
    "data.threads": 0, "data.crop": True,
    "model.within_map_size": 5, "model.within_map_scale": 0.001, "model.fc8_decay": 1.0,
    **{f"model.conv{number}.local": False for number in range(1, 7)},
    **{f"model.conv{number}.{field}": 1.0 for number in range(1, 7) for field in ("decay", "rate")},
    **{f"model.fc{number}.communicates": True for number in (6, 7)},
    **{f"model.fc{number}.{field}": 1.0 for number in (6, 7) for field in ("decay", "rate")},
}  # fmt: skip


def names() -> list[str]:
    """The configurations that come with the package."""
    return sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")


def load(spec: str) -> ConfigDict:
    """The configuration NAME, NAME:PRESET, or that of a file: PATH.py, PATH.py:PRESET, or a run's
    config.json.

    Raises:
        ConfigError: there is no such configuration or preset.
    """
    name, colon, preset = spec.partition(":")
    is_path = name.endswith((".py", ".json"))
    path = Path(name) if is_path else CONFIGS / f"{name}.py"
    if not path.is_file():
        if is_path:
            raise ConfigError(f"--config={spec}: there is no file {path}")
        if (Path(spec) / "config.json").is_file():
            raise ConfigError(
                f"--config={spec} is a directory: {spec}/config.json is what was trained there; to "
                f"start from its weights, give --config=finetune --config.init_from={spec}"
            )
        raise ConfigError(
            f"--config={spec}: unknown configuration {name!r}{nearest(name, names())} "
            f"There are {', '.join(names())}; a path that ends in .py works too, and so does a "
            "run's config.json."
        )
    if path.suffix == ".json":
        if colon:
            raise ConfigError(f"--config={spec}: a run's own configuration has no presets")
        return read(path)
    try:
        config = _get_config(path, *[preset] * bool(colon))
    except Exception as error:
        raise ConfigError(f"--config={spec}: {error}") from error
    return _complete(config, f"--config={spec}")


def base(preset: str) -> ConfigDict:
    """The configuration that all others start from, in a reading of the paper."""
    return _get_config(CONFIGS / "base.py", preset)


def _get_config(path: Path, *preset: str) -> Any:
    """What the `get_config` of a file returns."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*preset)


def _complete(config: Any, where: object) -> ConfigDict:
    """The configuration, if it has every field of a run."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{where}: get_config has to return a ConfigDict, not {config!r:.80}")
    default, values = flatten(base("reconciled")), flatten(config)
    known, given = default.keys(), values.keys()
    unknown = sorted(given - known)
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}{nearest(unknown[0], known)}")
    missing = sorted(known - given)
    if missing:
        raise ConfigError(
            f"{where} has no field {', '.join(missing[:4])}{' and more' * (len(missing) > 4)}: "
            "start from alexnet_jax.configs.base.get_config()"
        )
    for field, value in values.items():
        if not of_kind(value, default[field]):
            raise ConfigError(f"{where}: {field}={value!r}: expected {kind(default[field])}")
    return config


def save(config: ConfigDict, path: Path) -> None:
    """Writes a configuration as JSON, all at once or not at all."""
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    if not path.is_file() or path.read_bytes() != text.encode():
        with whole(path, replace=True) as file:
            file.write(text.encode())


def read(path: Path) -> ConfigDict:
    """The configuration that `save` wrote.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict):
            raise ValueError("it is no JSON object")
        for name, value in LATER.items():
            *parts, field = name.split(".")
            room: Any = fields
            for part in parts:
                room = room.setdefault(part, {}) if isinstance(room, dict) else None
            if isinstance(room, dict):
                room.setdefault(field, value)
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
