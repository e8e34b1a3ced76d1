"""The fields of a configuration by their dotted names, and their values from text."""

import ast
import difflib
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import ConfigError


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
            raise ConfigError(f"{flag}: unknown field {field!r}{nearest(field, known)}")
        if not equals:
            raise ConfigError(f"{flag}: write --config.{field}=VALUE")
        if field == "preset":  # which stands for many fields
            raise ConfigError(f"{flag}: choose a preset by --config=NAME:{text}")
        old = known[field]
        try:
            config.update_from_flattened_dict({field: _parse(text, old)})
        except (TypeError, ValueError, SyntaxError) as error:
            raise ConfigError(
                f"{flag}: {field} is {kind(old)} (now {old!r}), which {text!r} is not"
            ) from error
    return config


def _parse(text: str, old: Any) -> Any:
    if old is None:
        return text or None
    if isinstance(old, str):
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


def of_kind(value: Any, like: Any) -> bool:
    """Whether a value may stand in a field whose default is `like`."""
    if like is None:
        return value is None or isinstance(value, str)
    return type(value) is type(like) or (isinstance(like, float) and type(value) is int)


def kind(value: Any) -> str:
    """Returns what a field with this default holds, in words."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a tuple"}
    return kinds.get(type(value), "a text")


def nearest(name: str, known: Iterable[str]) -> str:
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
