"""That all the ways to read the images give the same ones: checked before anything is timed."""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from alexnet_jax.data import augmentation
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.data.stream import training_stream
from experiments.input.material import SEED, SIZE, Material
from experiments.input.ways_grain import augmented

MOST = 64  # images that are compared one by one
BILINEAR = 8  # grey levels, on average, that Pillow's resizing may differ by from the package's


def check(material: Material, ways_torch: ModuleType | None) -> list[str]:
    """Compares the images of all ways.

    Args:
        material: what they work on.
        ways_torch: the module; None without PyTorch.

    Returns:
        What was found to be so.

    Raises:
        ValueError: two that have to agree do not.
    """
    return [
        *cache_agrees(material),
        *streams_agree(material),
        *maps_agree(material, ways_torch),
    ]


def equal(one: Any, other: Any, sentence: str) -> str:
    """The sentence, which two arrays have to bear out by being equal.

    Raises:
        ValueError: they are not.
    """
    if not np.array_equal(one, other):
        raise ValueError(f"not so: {sentence}")
    return sentence


def cache_agrees(material: Material) -> list[str]:
    """The cache is of these files."""
    pixels, count = material.cache.images["train"], min(len(material.paths), MOST)
    decoded = material.decoding.images["train"]
    return [
        equal(decoded[:count], pixels[:count], "decoded = cached pixels"),
        equal(
            material.cache.labels["train"],
            material.labels,
            "the cache's labels are the folders'",
        ),
    ]


def streams_agree(material: Material) -> list[str]:
    """The package's streams give the same first batch."""
    cache = material.cache

    def first(source: Cache, **options: Any) -> dict[str, np.ndarray]:
        sizes = {"batch_size": material.batch_size, "crop": material.crop}
        iterator = iter(training_stream(source, **sizes, seed=SEED, **options))
        batch = next(iterator)
        iterator.close()
        return batch

    host, device = first(cache), first(cache, lighting_on="device")
    lit = np.clip(device["image"] + np.rint(device["shift"])[:, None, None], 0, 255)
    # Without a cache the colours' components come from a sample.
    colours = {"eigenvalues": cache.eigenvalues, "eigenvectors": cache.eigenvectors}
    decoding = first(dataclasses.replace(material.decoding, **colours))
    return [
        equal(host["image"], lit, "lighting on the device, rounded = on the host"),
        equal(decoding["image"], host["image"], "the stream without a cache = the cached one"),
    ]


def maps_agree(material: Material, ways_torch: ModuleType | None) -> list[str]:
    """The others' maps of one image do what the package does with a batch."""
    cache, crop = material.cache, material.crop
    pixels, count = cache.images["train"], min(len(material.paths), MOST)
    draws = augmentation.draw(
        np.random.default_rng(SEED), count, augmentation.crop_positions(SIZE, crop)
    )
    shift = augmentation.lighting_shift(draws.alphas, cache.eigenvalues, cache.eigenvectors, "sqrt")
    wanted = augmentation.cut(pixels, np.arange(count), draws.offsets, crop, shift)

    def one_by_one(
        function: Callable[[np.ndarray, bool, np.ndarray], Any],
        window: Callable[[int, int, int], np.ndarray],
    ) -> np.ndarray:
        offsets = enumerate(draws.offsets.tolist())
        return np.stack(
            [function(window(i, y, x), bool(flip), shift[i]) for i, (y, x, flip) in offsets]
        )

    def from_cache(index: int, top: int, left: int) -> np.ndarray:
        return pixels[index, top : top + crop, left : left + crop]

    by_grain = one_by_one(augmented, from_cache)
    found = [equal(by_grain, wanted, "grain's map for an image = the stream's crop")]
    if ways_torch is None:
        return found
    by_torch = one_by_one(ways_torch.augmented, ways_torch.FromCache(material).window)
    found.append(equal(by_torch, wanted, "PyTorch's map for an image = the stream's crop"))
    by_pillow = one_by_one(ways_torch.augmented, ways_torch.FromFiles(material).window)
    apart = float(np.abs(by_pillow.astype(int) - wanted).mean())
    sentence = f"Pillow's bilinear resizing is {apart:.1f} grey levels from ours on average"
    if apart > BILINEAR:
        raise ValueError(sentence)
    return [*found, sentence]
