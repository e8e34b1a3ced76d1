"""One cache as it is asked for: of what, how large, where; and the command that makes it."""

import dataclasses
import functools
import hashlib
import shlex
from collections.abc import Mapping
from typing import Any

from alexnet_jax.data.cache.listing import Listing, versions
from alexnet_jax.data.cache.splits import Plan, check_text, number, plan_splits
from alexnet_jax.data.sources.record import Source


@dataclasses.dataclass(frozen=True)
class Request:
    """What a cache is to be made of.

    Attributes:
        source: the dataset.
        size: S, the side of the cached images in pixels.
        path: the directory of the cache, absolute.
        holdout: as in `building.make_cache`.
        data_dir: TFDS's directory, or None for its default.
    """

    source: Source
    size: int
    path: str
    holdout: float = 0
    data_dir: str | None = None

    def check(self) -> None:
        """Refuses what cannot be made, before anything is.

        Raises:
            UserError: the source cannot be trained on, or the path not be written down.
        """
        check_text("the cache's directory", self.path)
        _ = self.plan

    @functools.cached_property
    def plan(self) -> Plan:
        """Which images go into which split.

        Raises:
            UserError: the source cannot be trained on.
        """
        return plan_splits(self.source, self.size, self.holdout)

    @functools.cached_property
    def listing(self) -> Listing:
        """The list of the images, with the sizes and times of their files."""
        return Listing(self.source)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What makes one cache another than another, in plain values."""
        return {
            "source": self.source.name,
            "list": hashlib.sha256(self.source.identity.encode()).hexdigest(),
            "size": self.size,
            "holdout": float(self.holdout),
            "images": {split: len(indices) for split, (_, indices) in self.plan.items()},
        }

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """What may change without another cache being asked for, in plain values."""
        held_out = hashlib.sha256()
        for split, (_, indices) in sorted(self.plan.items()):
            held_out.update(split.encode() + indices.astype("<i8").tobytes())
        return {
            "identity": self.source.identity,
            "files": self.listing.digest,
            "places": held_out.hexdigest(),
            "versions": versions(),
            "data_dir": self.data_dir,
        }

    def is_of(self, settings: Mapping[str, Any]) -> bool:
        """Whether a cache of these settings is one of this source, size and holdout, whatever its
        images were."""
        return all(settings[part] == self.settings[part] for part in ("source", "size", "holdout"))

    def has_files_of(self, origin: Mapping[str, Any]) -> bool:
        """Whether the files of an `origin` are those of now, as far as any are known."""
        files = {origin["files"], self.origin["files"]}
        return len(files) == 1 or "" in files

    def is_same_kind(self, facts: Mapping[str, Any]) -> bool:
        """Whether an image that has not changed would be the same in a cache of these facts."""
        made = facts.get("origin", {})
        return (
            all(facts["settings"][part] == self.settings[part] for part in ("source", "size"))
            and made.get("versions") == self.origin["versions"]
        )

    def command(self, *more: str) -> str:
        """Returns the command that makes it, with more flags if they are given."""
        return prepare_command(
            self.source.name, self.size, self.path, self.holdout, self.data_dir, *more
        )


def prepare_command(
    source: str, size: int, path: str, holdout: float, data_dir: str | None, *more: str
) -> str:
    """Returns the command that makes a cache, ready for a shell."""
    flags = [f"--source={source}", f"--out={path}", f"--size={size}"]
    flags += [f"--holdout={number(holdout)}"] if holdout else []
    if data_dir and source.startswith(("tfds:", "embedded")):
        flags.append(f"--data_dir={data_dir}")
    return f"python -m alexnet_jax.prepare {shlex.join([*flags, *more])}"


def described(settings: Mapping[str, Any]) -> str:
    """The settings in a line, for people."""
    counts = ", ".join(f"{split} {count:,}" for split, count in settings["images"].items())
    return (
        f"{settings['source']} ({counts}; list {settings['list'][:8]}) at {settings['size']} pixels"
        + f" with holdout={number(settings['holdout'])}" * bool(settings["holdout"])
    )
