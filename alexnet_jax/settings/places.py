"""The fields that name files or directories, as they are saved: from the root on."""

from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax import files


def absolute(config: ConfigDict) -> ConfigDict:
    """Returns a copy whose paths mean the same from any directory, `~` expanded."""
    config = config.copy_and_resolve_references()
    config.init_from = _absolute(config.init_from)
    config.data.dir = _absolute(config.data.dir)
    if config.data.cache != "none":
        config.data.cache = _absolute(config.data.cache)
    kind, colon, path = config.data.source.partition(":")
    if path and kind != "tfds":  # which has names
        config.data.source = f"{kind}{colon}{_absolute(path)}"
    return config


def _absolute(path: str | None) -> str | None:
    return path if not path or "://" in path else str(files.absolute(path))


def same_kind(source: str, other: str) -> bool:
    """Whether two data sources may be the same images at two places."""
    (kind, _, path), (other_kind, _, other_path) = source.partition(":"), other.partition(":")
    return source == other or (kind == other_kind != "tfds" and bool(path and other_path))


def without_folder(source: str) -> str:
    """What others may know of a source: where its files are is nobody's business."""
    kind, colon, place = source.partition(":")
    return f"{kind}{colon}{Path(place).name}"
