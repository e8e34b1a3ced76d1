"""What the network sees of an image: crops of the fixed-size picture, minus the mean image.

Pixels keep their scale of 0..255. Everything here runs on the device; what varies from image to
image during training (crop, flip, lighting) was drawn by the host, in `data/`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class View(NamedTuple):
    """The place of a crop, in pixels from the top left, and whether it is mirrored."""

    top: int
    left: int
    flip: bool


def ten_views(size: int, crop: int) -> list[View]:
    """The ten views of section 4.1: four corners and the centre, and their mirror images.

    The centre crop, which alone is the one view, comes first.
    """
    end, middle = size - crop, (size - crop) // 2
    corners = [(middle, middle), (0, 0), (0, end), (end, 0), (end, end)]
    return [View(top, left, flip) for flip in (False, True) for top, left in corners]


def centre(mean_image: jax.Array, crop: int) -> jax.Array:
    """The central crop of the mean image, which the released code subtracts from every crop,
    wherever that came from (`convdata_jpeg.py:95,207-211`)."""
    start = (mean_image.shape[0] - crop) // 2
    return mean_image[start : start + crop, start : start + crop]


def cut(
    images: jax.Array,
    mean_image: jax.Array,
    view: View | tuple[jax.Array, ...],
    crop: int,
    *,
    aligned: bool = False,
) -> jax.Array:
    """One view of every image.

    Args:
        images: (N, S, S, 3) uint8.
        mean_image: (S, S, 3).
        view: the same for all images; may be traced.
        crop: side of the view in pixels.
        aligned: subtract the mean where the crop was, as the paper has it, not its centre.

    Returns:
        (N, crop, crop, 3) float32.
    """
    top, left, flip = view
    if aligned:
        images = images.astype(jnp.float32) - mean_image
    cropped = jax.lax.dynamic_slice_in_dim(images, top, crop, axis=1)
    cropped = jax.lax.dynamic_slice_in_dim(cropped, left, crop, axis=2)
    cropped = jnp.where(flip, cropped[:, :, ::-1], cropped)
    return cropped if aligned else cropped.astype(jnp.float32) - centre(mean_image, crop)


def training_images(
    batch: Mapping[str, jax.Array],
    mean_image: jax.Array,
    divisor: jax.Array | float = 1.0,
) -> jax.Array:
    """The network's input from a batch of the training stream: (N, crop, crop, 3) float32.

    Args:
        batch: 'image' (N, crop, crop, 3) uint8, already cropped and flipped; perhaps 'shift'
            (N, 3), the lighting in grey levels that is left to the device; perhaps 'offset' (N, 3),
            top, left and flip of the crop, in which case the mean is subtracted where the crop was.
        mean_image: (S, S, 3).
        divisor: of the result; the released code's is 1.1 while lighting is on
            (`convdata_jpeg.py:155-179`).
    """
    images = batch["image"].astype(jnp.float32)
    crop = images.shape[1]
    if "offset" in batch:
        mean = jax.vmap(lambda offset: _mean_at(mean_image, offset, crop))(batch["offset"])
    else:
        mean = centre(mean_image, crop)
    images = images - mean
    if "shift" in batch:
        images = images + batch["shift"][:, None, None, :]
    return images / divisor


def _mean_at(mean_image: jax.Array, offset: jax.Array, crop: int) -> jax.Array:
    """The mean image under one crop."""
    top, left, flip = offset
    mean = jax.lax.dynamic_slice(mean_image, (top, left, 0), (crop, crop, 3))
    return jnp.where(flip != 0, mean[:, ::-1], mean)
