"""Grain as its tutorials use it: a map for each image, and batches of what comes out."""

import cv2
import grain
import numpy as np

from alexnet_jax.data.augmentation import LIGHTING_STD, crop_positions
from experiments.input.material import SEED, SIZE, Material
from experiments.input.ways_stream import reading_batches
from experiments.shared.timing import Variant


def variants(material: Material) -> list[Variant]:
    """From the cache, with as many threads as grain takes, with one, and with none."""
    default = grain.ReadOptions().num_threads
    return [
        variant(material, default, f"{default} threads, its default"),
        variant(material, 1, "1 thread"),
        variant(material, 0, "no thread, as it advises for data in memory"),
    ]


def variant(material: Material, threads: int, name: str) -> Variant:
    """With so many threads."""
    pixels, labels = material.cache.images["train"], material.cache.labels["train"]
    eigenvectors = material.cache.eigenvectors
    deviations = np.sqrt(material.cache.eigenvalues)
    positions = crop_positions(SIZE, material.crop)

    def example(index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        top, left = rng.integers(0, positions, 2).tolist()
        shift = eigenvectors @ (deviations * rng.normal(0, LIGHTING_STD, 3))
        window = pixels[index, top : top + material.crop, left : left + material.crop]
        return {"image": augmented(window, rng.random() < 0.5, shift), "label": labels[index]}

    order = grain.MapDataset.range(len(pixels)).seed(SEED).shuffle().repeat()
    dataset = order.random_map(example).to_iter_dataset(grain.ReadOptions(num_threads=threads))
    run = reading_batches(dataset.batch(material.batch_size), material)
    group = "grain with a map for each image, from the cache"
    return Variant(f"grain_{threads}", group, name, run, material.batch_size)


def augmented(window: np.ndarray, mirrored: bool, shift: np.ndarray) -> np.ndarray:
    """A crop, mirrored and lit as this package does it, one image at a time.

    Args:
        window: uint8 (crop, crop, 3).
        mirrored: left to right.
        shift: what lighting adds, float (3,) in grey levels.
    """
    image = cv2.flip(window, 1) if mirrored else window.copy()
    colour = np.append(np.rint(shift), 0.0)
    cv2.add(image, np.clip(colour, 0, 255), dst=image)
    return np.asarray(cv2.subtract(image, np.clip(-colour, 0, 255), dst=image))
