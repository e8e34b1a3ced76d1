"""The images of a run: a data source brought to one size, from its cache or made on the way."""

import hashlib
import os
import re
import shlex

from alexnet_jax.data import on_demand, sources
from alexnet_jax.data.cache import building, estimate
from alexnet_jax.data.cache.store import Cache, open_cache
from alexnet_jax.errors import UserError

LARGE = 10e9  # bytes; a larger cache is made by the user's own command, not on the way to training


def ensure_cache(
    spec: str, size: int, data_dir: str | None = None, holdout: float = 0, path: str | None = None
) -> Cache:
    """Opens the cache of a data source, made first where it is not there and not large.

    Two processes that ask at once make it once. A source whose images were changed keeps its
    cache: delete the cache to have it made again.

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
    if path == "none":
        return on_demand.open_undecoded(sources.open_source(spec, data_dir), size, holdout)
    if path:
        cache = open_cache(os.path.expanduser(path))
        if holdout:
            raise UserError(
                f"--config.data.holdout={holdout:g}: what is held out of {path} was decided when "
                "it was prepared (--holdout of alexnet_jax.prepare); set it to 0"
            )
        if cache.size != size:
            raise UserError(
                f"--config.data.cache={path} holds images of {cache.size} pixels: set "
                f"--config.data.size={cache.size}"
            )
        return cache
    if "://" in data_dir:
        raise UserError(
            f"config.data.dir={data_dir}: a cache is memory-mapped; give a local directory, or "
            "--config.data.cache=DIR with a cache made by alexnet_jax.prepare"
        )
    path = os.path.join(data_dir, "alexnet_jax", cache_name(spec, size, holdout))
    if os.path.isdir(path):
        return open_cache(path)
    source = sources.open_source(spec, data_dir)
    if estimate.footprint(source, size) > LARGE:
        cost = estimate.estimate(source, size)
        command = ["--source=" + spec, "--out=" + path, f"--size={size}"]
        command += [f"--holdout={holdout:g}"] if holdout else []
        command += [f"--data_dir={data_dir}"] if spec.startswith("tfds:") else []
        raise UserError(
            f"{spec} is not prepared yet, and large: {cost}. Run\n\n    python -m "
            f"alexnet_jax.prepare {shlex.join(command)}\n\nonce (any other --out=DIR will do, with "
            "--config.data.cache=DIR afterwards), and then this command again; or decode every "
            "image in every epoch, at "
            f"{cost.images_per_second:,.0f} images/s at best, by --config.data.cache=none"
        )
    return building.make_cache(source, size, path, holdout)


def cache_name(spec: str, size: int, holdout: float = 0) -> str:
    """A readable directory name: embedded-full-1.0.0-128, imagenet2012-5.1.0-256, pets-1f3a99c0-64.

    A folder's name alone would be ambiguous, so eight digits of its path's hash follow it.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("folder", "idx", "ilsvrc"):
        full = os.path.realpath(os.path.expanduser(rest))
        name = f"{os.path.basename(full)}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    elif kind.startswith("embedded"):
        from alexnet_jax.data.sources import embedded  # a newer version may draw other pictures

        name = f"embedded-{spec.partition('/')[2] or 'full'}-{embedded.EmbeddedImages.VERSION}"
    else:
        name = rest or kind
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return f"{name}-{size}" + (f"-holdout{holdout:g}" if holdout else "")
