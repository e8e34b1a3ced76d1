"""Whether a cache is still what its source holds: noticed where the cache is opened, and said."""

import itertools
import os
import zlib
from collections.abc import Mapping
from typing import Any

from alexnet_jax.data import decoding, sources
from alexnet_jax.data.cache import listing
from alexnet_jax.data.cache.request import Request, prepare_command
from alexnet_jax.data.cache.store import read_meta, read_rows
from alexnet_jax.data.threads import one_opencv_thread
from alexnet_jax.errors import UserError

TOUCHED = 256  # images of the same size, but touched since, whose pixels are compared


def check(path: str, data_dir: str | None = None) -> None:
    """Compares a cache with its source, if that is there; says in a line what is worth knowing.

    Args:
        path: the cache.
        data_dir: TFDS's directory; None for that which the cache was made from.

    Raises:
        UserError: the source holds other images or classes now; the message has the command.
    """
    meta = read_meta(path)
    if meta is None or "settings" not in meta:
        return
    settings, origin = meta["settings"], meta.get("origin", {})
    spec, data_dir = settings["source"], data_dir or origin.get("data_dir")
    command = prepare_command(
        spec, settings["size"], path, settings["holdout"], data_dir, "--overwrite"
    )
    others = listing.other_versions(origin.get("versions", {}))
    if others:
        print(
            f"{path} was made with {others}: its pixels may differ from what predict sees by "
            f"single grey levels; `{command}` makes it again",
            flush=True,
        )
    if spec.startswith("embedded"):  # drawn here: what changes its images changes its version
        from alexnet_jax.data.sources import embedded

        was, now = origin.get("identity", "").partition(":")[0], embedded.full_name(spec)
        if was and was != now:
            raise UserError(
                f"{path} is the cache of {spec} as it was, {was}; now it is {now}: make it again "
                f"by `{command}`"
            )
        return
    before = listing.read(path)
    if spec.startswith("ilsvrc:") and before and _same_files(before):
        return  # instead of looking through the tars for minutes
    try:
        source = sources.open_source(spec, data_dir)
    except UserError as error:
        place = spec.partition(":")[2]
        if spec.startswith(("folder:", "idx:", "ilsvrc:", "cifar10:")) and os.path.exists(place):
            raise UserError(
                f"{path} is the cache of {spec}, which has changed since and cannot be used as it "
                f"is: {error}"
            ) from error
        print(f"{path} is used although its source, {spec}, is not here any more", flush=True)
        return
    if source.name != spec:  # Fashion-MNIST, which may come from two places
        return
    request = Request(source, settings["size"], path, settings["holdout"], data_dir)
    changed = changes(path, meta, request)
    if not changed:
        return
    if before is None:  # its list of images was made by other rules, perhaps
        print(
            f"{path} has no {listing.FILE}, so what has changed in {spec} since is not known; "
            f"`{command}` makes it again",
            flush=True,
        )
        return
    listed = os.path.join(path, listing.FILE)
    raise UserError(
        f"{path} is the cache of {spec} as it was; {changed} since: make it again, taking over "
        f"what has not changed, by `{command}`; or delete {listed} to go on "
        "with the images as they were"
    )


def changes(path: str, meta: Mapping[str, Any], request: Request) -> str:
    """What the source of a cache holds otherwise now, for people; '' if nothing.

    Args:
        path: the cache.
        meta: its meta.json.
        request: the same cache, asked for now.
    """
    origin = meta.get("origin")
    same_list = meta["settings"]["list"] == request.settings["list"]
    same_files = origin is None or request.has_files_of(origin)
    suspects = _suspects(path, origin, request) if same_list else []
    if same_list and same_files and not suspects:
        return ""
    classes = listing.classes_changed(meta["class_names"], request.source.class_names)
    before = listing.read(path)
    if before is None or origin is None:
        return classes or "its list of images has changed"
    identity = request.source.identity
    if origin["identity"] != identity and " " in identity:  # of TFDS, for people to read
        return f"it was {origin['identity']} and is {identity}"
    found = listing.compare(before, request.listing.listed())
    touched = {*found.touched, *suspects} - {*found.changed}
    found = found._replace(touched=sorted(touched))
    if same_list and not found.changed and _same_pixels(path, meta, request, found.touched):
        return ""
    counts = "" if str(found) and classes and not (found.added or found.removed) else str(found)
    parts = [part for part in (classes, counts) if part]
    if parts:
        return "; ".join(parts)
    return "the order of its images has changed" if before else "it has other images or labels"


def _suspects(
    path: str, origin: Mapping[str, Any] | None, request: Request
) -> list[tuple[str, str]]:
    """Images whose files may have been replaced by others of the same size and time.

    None where there are many, as after the dataset was copied; or where other versions of the
    libraries would give other pixels.
    """
    if origin is None or listing.other_versions(origin["versions"]):
        return []
    suspects = request.listing.suspects(listing.written_at(path))
    found = list(itertools.islice(suspects, TOUCHED + 1))  # there may be a million
    return found if len(found) <= TOUCHED else []


def _same_files(before: listing.Listed) -> bool:
    """Whether files that hold many images have the sizes that they had."""
    return all(
        not stamp.label and os.path.isfile(name) and os.path.getsize(name) == stamp.bytes
        for (_, name), stamp in before.items()
    )


def _same_pixels(
    path: str, meta: Mapping[str, Any], request: Request, touched: list[tuple[str, str]]
) -> bool:
    """Whether files that were written again, with the same size, still hold the cache's pixels."""
    if len(touched) > TOUCHED or listing.other_versions(meta["origin"]["versions"]):
        return not touched
    wanted, names = set(touched), {name for _, name in touched}  # no name is in two splits
    crcs: dict[str, int] = {}
    for split in meta["counts"]:
        rows = read_rows(os.path.join(path, f"{split}.csv"))
        crcs |= {name: crc for _, crc, name in rows if name in names}
    with one_opencv_thread():
        for split_name, split in request.source.splits.items():
            for index in range(len(split)):
                stamped = request.listing.stamp(split_name, index)
                if stamped is None or (split_name, stamped[0]) not in wanted:
                    continue
                try:
                    pixels = decoding.load(split[index].content, request.size)
                except (OSError, decoding.BadImage):
                    return False
                if zlib.crc32(pixels.tobytes()) != crcs.get(stamped[0]):
                    return False
    return True
