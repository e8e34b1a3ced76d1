"""A whole configuration as text: every field with its value, and what the source says of it.

The words are the comments above and beside the fields, in `configs/base.py` and, for `model`, in
`model/network.py`: one place for a field, its default, its meaning and its source.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator

from ml_collections import ConfigDict

from alexnet_jax.model import network
from alexnet_jax.settings.fields import flatten
from alexnet_jax.settings.files import CONFIGS

WIDTH = 80  # columns


def listed(config: ConfigDict) -> str:
    """Every field with its value as `--config.` takes it, below its meaning."""
    values = flatten(config)
    return _with_meanings(values, (f"{field}={_shown(value)}" for field, value in values.items()))


def compared(config: ConfigDict, other: ConfigDict) -> str:
    """The fields in which two configurations differ, with both values, below their meaning."""
    ours, theirs = flatten(config), flatten(other)
    differing = [field for field in ours if ours[field] != theirs[field]]
    if not differing:
        return "no field differs"
    return _with_meanings(
        differing,
        (f"{field}={_shown(ours[field])} | {_shown(theirs[field])}" for field in differing),
    )


def meanings() -> dict[str, str]:
    """What the comments say of each field, in the order of the source.

    The fields that all convolutional layers have stand under `model.conv`, those of the hidden ones
    under `model.fc`.
    """
    found: dict[str, str] = {}
    for target, comment in _commented((CONFIGS / "base.py").read_text()):
        field = target.removeprefix("config.")
        if field == "model":
            for kind in (network.Network, network.Conv, network.Dense):
                prefix = {network.Conv: "model.conv.", network.Dense: "model.fc."}.get(
                    kind, "model."
                )
                names = {f.name for f in dataclasses.fields(kind)}
                source = textwrap.dedent(inspect.getsource(kind))
                found |= {prefix + name: c for name, c in _commented(source) if name in names}
        elif field != target:
            found[field] = comment
    return found


def _with_meanings(fields: Iterable[str], lines: Iterable[str]) -> str:
    """The lines in the order of the source, each below what its field means, which is said once."""
    words = meanings()
    order = list(words)
    places: list[tuple[list[int], list[str], str]] = []
    for field, line in zip(fields, lines, strict=True):
        layer = re.match(r"model\.(conv|fc)\d(?=\.)", field)
        section = field.rpartition(".")[0]
        general = f"model.{layer[1]}{field[layer.end() :]}" if layer else field
        said = [layer[0], general] if layer else [field if field in words else section]
        places.append(([order.index(name) for name in said], said, line))
    text: list[str] = []
    for _, said, line in sorted(places):
        for name in said:
            text += [f"# {row}" for row in textwrap.wrap(words[name], WIDTH - 2)]
            words[name] = ""
        text.append(line)
    return "\n".join(text)


def _commented(source: str) -> Iterator[tuple[str, str]]:
    """What is assigned to, and the comments above and beside it."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.Assign, ast.AnnAssign)):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        first = node.lineno - 1
        while lines[first - 1].strip().startswith("#"):
            first -= 1
        words = [line.strip().removeprefix("# ") for line in lines[first : node.lineno - 1]]
        assert node.end_lineno is not None
        words.append(lines[node.end_lineno - 1].partition("  # ")[2])
        yield ast.unparse(target), " ".join(word for word in words if word)


def _shown(value: object) -> str:
    return "" if value is None else str(value)
