"""Where a cache is made and what lies there: what is gone on with, kept, given way to, refused.

PATH is the cache, PATH.partial what is being made. What was made of a list of images that has
changed since is moved to PATH.earlier-1 (and so on) and serves the next as a store of finished
images. Only what carries this program's mark is ever deleted or moved.
"""

import itertools
import os
import pathlib
from typing import Any

from alexnet_jax.data.cache import journal
from alexnet_jax.data.cache.estimate import check_disk, footprint
from alexnet_jax.data.cache.freshness import changes
from alexnet_jax.data.cache.journal import Position
from alexnet_jax.data.cache.listing import other_versions, versions
from alexnet_jax.data.cache.request import Request, described
from alexnet_jax.data.cache.statistics import Sums
from alexnet_jax.data.cache.store import open_cache, partial_path, read_meta
from alexnet_jax.errors import UserError

Facts = dict[str, Any]  # of a request, as its record and meta.json have them


def is_made(request: Request, overwrite: bool = False) -> bool:
    """Whether the cache that is asked for is there.

    Raises:
        UserError: there is something else, or a cache could not be put there; with `overwrite`
            another cache may be there.
    """
    path = request.path
    if os.path.ismount(path):  # a directory cannot be moved onto it
        raise UserError(f"{path} is where a disk is mounted: give a directory on it, {path}/cache")
    if not os.path.lexists(path) or (os.path.isdir(path) and not os.listdir(path)):
        return False
    if not os.path.isfile(os.path.join(path, "meta.json")):
        raise UserError(f"{path} is there and is no cache: give a new or an empty directory")
    if overwrite and read_meta(path) is not None and _differs(request):
        return False
    open_cache(path)  # or it is damaged
    meta = read_meta(path) or {}
    if not request.is_of(meta["settings"]):
        raise UserError(
            f"{path} is the cache of {described(meta['settings'])}; asked for is "
            f"{described(request.settings)}: give another directory, or --overwrite"
        )
    changed = changes(path, meta, request)
    if changed:
        raise UserError(
            f"{path} is the cache of {request.source.name} as it was; {changed} since: give "
            "another directory, or make this one again, taking over what has not changed, by "
            f"`{request.command('--overwrite')}`"
        )
    return True


def _differs(request: Request) -> bool:
    """Whether the cache that is there is another than is asked for, or of other libraries."""
    meta = read_meta(request.path) or {}
    return bool(
        not request.is_of(meta["settings"])
        or meta.get("origin", {}).get("versions") != request.origin["versions"]
        or changes(request.path, meta, request)
    )


def start(request: Request) -> tuple[Position, Facts]:
    """Returns the position from which PATH.partial, which is made if need be, goes on.

    Raises:
        UserError: it is someone else's, or part of another cache, or the disk is too small.
    """
    partial = pathlib.Path(partial_path(request.path))
    needed = footprint(request.source, request.size)
    if os.path.lexists(partial):
        if not (partial.is_dir() and not partial.is_symlink() and journal.is_marked(partial)):
            raise UserError(
                f"{partial} is there, where the cache would be made, and is not of this program's "
                "making: move it away, or give another directory"
            )
        found = _recorded(partial)
        if found and found.facts["settings"] == request.settings and _same_images(found, request):
            check_disk(needed - sum(found.position.lengths.values()), str(partial))
            origin = found.facts.get("origin")
            if origin is None:  # of a version that wrote no list
                origin = request.origin
                request.listing.write(partial)
            mixed = _said_versions(partial, origin["versions"])
            journal.begin(partial)
            facts = {"settings": request.settings, "origin": origin | {"versions": mixed}}
            return found.position, facts
        if found and not request.is_of(found.facts["settings"]):
            raise UserError(
                f"{partial} is part of another preparation, {described(found.facts['settings'])}; "
                f"asked for is {described(request.settings)}: delete it, or give another place"
            )
        if found:
            done = sum(found.position.read.values())
            same_kind = request.is_same_kind(found.facts)
            print(
                f"the images of {request.source.name}, or which are held out, have changed since "
                f"{partial} was begun: of the {done:,} that it holds, "
                + (
                    "those that are the same are taken over"
                    if same_kind
                    else "none is taken over, since the libraries were of other versions"
                ),
                flush=True,
            )
            if same_kind:
                partial.rename(_next_earlier(request))
        if partial.exists():
            journal.discard(partial)
    check_disk(needed, str(partial.parent))
    journal.begin(partial)
    request.listing.write(partial)
    fresh = Position({}, {}, Sums.zero(request.size))
    return fresh, {"settings": request.settings, "origin": request.origin}


def _recorded(partial: pathlib.Path) -> journal.Recorded | None:
    """What PATH.partial holds; says so if it holds work that is lost."""
    try:
        found = journal.recorded(partial)
        reason = f"{journal.RECORD} is missing"
    except ValueError as error:
        found, reason = None, str(error)
    work = sum(path.stat().st_size for path in partial.glob("*.images.npy"))
    if found is None and work:
        print(
            f"{partial} is damaged ({reason}): the {work / 1e6:,.1f} MB of images that it holds "
            "are thrown away and made again",
            flush=True,
        )
    return found


def _same_images(found: journal.Recorded, request: Request) -> bool:
    """Whether the images that a preparation was begun with are those of now, in their places."""
    made = found.facts.get("origin", request.origin)  # none: of a version without
    return request.has_files_of(made) and made["places"] == request.origin["places"]


def _said_versions(partial: pathlib.Path, before: dict[str, str]) -> dict[str, str]:
    """The versions of the libraries that the images will be of, both where they are mixed."""
    if other_versions(before):
        print(
            f"{partial} was begun with {other_versions(before)}: its images may differ from the "
            "rest by single grey levels; delete it to have all of one kind",
            flush=True,
        )
    return {
        name: version if before.get(name, version) == version else f"{before[name]} and {version}"
        for name, version in versions().items()
    }


def finish(request: Request) -> None:
    """Gives PATH.partial, which is complete, its name; what is at PATH gives way."""
    path, partial = pathlib.Path(request.path), pathlib.Path(partial_path(request.path))
    if path.exists() and any(path.iterdir()):
        path.rename(_next_earlier(request))
    os.rename(partial, path)
    journal.sync_directory(path.parent)
    clean(request)


def clean(request: Request) -> None:
    """Removes what only a preparation needs."""
    for name in (journal.RECORD, journal.MARK):
        pathlib.Path(request.path, name).unlink(missing_ok=True)
    for directory in _earlier_partials(request):
        journal.discard(directory)


def earlier(request: Request) -> list[pathlib.Path]:
    """The directories that hold images of the same source, the best last."""
    path = pathlib.Path(request.path)
    return [path] * (read_meta(path) is not None) + _earlier_partials(request)


def _earlier_partials(request: Request) -> list[pathlib.Path]:
    path = pathlib.Path(request.path)
    found = [path.with_name(f"{path.name}.earlier-{n}") for n in range(1, 100)]
    return [p for p in found if p.is_dir() and (read_meta(p) or journal.is_marked(p))]


def _next_earlier(request: Request) -> pathlib.Path:
    path = pathlib.Path(request.path)
    names = (path.with_name(f"{path.name}.earlier-{n}") for n in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))
