"""The images of a run: a data source brought to one size, from its cache or made on the way."""

import hashlib
import os
import re

from alexnet_jax.data import on_demand, sources
from alexnet_jax.data.cache import building, estimate, freshness
from alexnet_jax.data.cache.request import Request
from alexnet_jax.data.cache.splits import check_text, number
from alexnet_jax.data.cache.store import Cache, open_cache
from alexnet_jax.errors import UserError

LARGE = 10e9  # bytes; a larger cache is made by the user's own command, not on the way to training


def ensure_cache(
    spec: str, size: int, data_dir: str | None = None, holdout: float = 0, path: str | None = None
) -> Cache:
    """Opens the cache of a data source, made first where it is not there and not large.

    Two processes that ask at once make it once. A cache whose source holds other images by now is
    refused (see `freshness`); one whose source is gone is used.

    Args:
        spec: the data source, see `sources`.
        size: S, the side of the cached images in pixels (256 in the paper).
        data_dir: TFDS's directory, or None for its default; the cache lies under it, in
            alexnet_jax/.
        holdout: how many training images become the split 'validation'; below 1, their share.
        path: a cache that was prepared elsewhere, of any source; or 'none': decode every image
            whenever it is wanted.

    Raises:
        UserError: if the source, the size or the directory is not usable; for a large dataset that
            is not prepared yet, with the command, the time and the space that it takes.
    """
    data_dir = sources.resolve_data_dir(data_dir)
    if path and path != "none":
        return _open_elsewhere(path, size, holdout)
    if "://" in data_dir and not path:
        raise UserError(
            f"--config.data.dir={data_dir}: a cache is memory-mapped; give a local directory, or "
            "--config.data.cache=DIR with a cache made by alexnet_jax.prepare"
        )
    check_text("the data source", spec)
    check_text("the directory for caches", data_dir)
    place = _place(spec, size, data_dir, holdout)
    if not path and _is_there(place):
        cache = open_cache(place)
        freshness.check(place, data_dir)
        return cache
    source = sources.open_source(spec, data_dir)
    if source.left_out:
        print(source.left_out, flush=True)
    request = Request(source, size, place, holdout, data_dir)
    if path == "none":
        skipping = request.command("--on_bad_image=skip")
        return on_demand.open_undecoded(source, size, holdout, skipping)
    if estimate.footprint(source, size) > LARGE:
        cost = estimate.estimate(source, size)
        raise UserError(
            f"{spec} is not prepared yet, and large: {cost}. Run\n\n    {request.command()}\n\n"
            "once (any other --out=DIR will do, with --config.data.cache=DIR afterwards), and then "
            "this command again; or decode every image in every epoch, at "
            f"{cost.images_per_second:,.0f} images/s at best, by --config.data.cache=none"
        )
    return building.make_cache(source, size, place, holdout, data_dir=data_dir)


def is_at_hand(
    spec: str, size: int, data_dir: str | None = None, holdout: float = 0, path: str | None = None
) -> bool:
    """Whether `ensure_cache` would open a cache, and not make one or decode images."""
    if path:
        return path != "none" and os.path.isdir(os.path.expanduser(path))
    return _is_there(_place(spec, size, sources.resolve_data_dir(data_dir), holdout))


def _place(spec: str, size: int, data_dir: str, holdout: float) -> str:
    """Where the cache of a data source lies."""
    return os.path.join(data_dir, "alexnet_jax", cache_name(spec, size, holdout))


def _is_there(place: str) -> bool:
    return os.path.isdir(place) and bool(os.listdir(place))


def _open_elsewhere(path: str, size: int, holdout: float) -> Cache:
    """Opens the cache that the user names."""
    cache = open_cache(os.path.abspath(os.path.expanduser(path)))
    if holdout:
        raise UserError(
            f"--config.data.holdout={number(holdout)}: what is held out of {path} was decided when "
            "it was prepared (--holdout of alexnet_jax.prepare); set it to 0"
        )
    if cache.size != size:
        raise UserError(
            f"--config.data.cache={path} holds images of {cache.size} pixels: set "
            f"--config.data.size={cache.size}"
        )
    freshness.check(cache.path)
    return cache


def cache_name(spec: str, size: int, holdout: float = 0) -> str:
    """A readable directory name: embedded-full-1.0.0-128, imagenet2012-5.1.0-256, pets-1f3a99c0-64.

    A folder's name alone would be ambiguous, so eight digits of its path's hash follow it.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("folder", "idx", "ilsvrc", "cifar10"):
        full = os.path.realpath(os.path.expanduser(rest))
        name = f"{os.path.basename(full)}-{hashlib.sha256(os.fsencode(full)).hexdigest()[:8]}"
    elif kind.startswith("embedded"):
        from alexnet_jax.data.sources import embedded  # a newer version may draw other pictures

        name = embedded.full_name(spec).replace("_images", "")
    else:
        name = rest or kind
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return f"{name}-{size}" + (f"-holdout{number(holdout)}" if holdout else "")
