"""PyTorch's DataLoader, from the cache, and from JPEG files with Pillow."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from alexnet_jax.data.augmentation import LIGHTING_STD, crop_positions
from experiments.input.material import SIZE, WORKERS_LONGER, Material
from experiments.shared.timing import Reading, Stopwatch, Variant

WORKERS = 2


def one_thread_each() -> None:
    """Sets PyTorch to one thread in every process."""
    torch.set_num_threads(1)
    # PyTorch forks its workers, which never use JAX; grain only imports it.
    warnings.filterwarnings("ignore", r".*fork", RuntimeWarning)
    warnings.filterwarnings("ignore", r".*fork", DeprecationWarning)


def variants(material: Material) -> list[Variant]:
    """From both kinds of data, each without workers and with some."""
    kinds = (
        ("cached", FromCache(material), "PyTorch's DataLoader, from the cache, in PyTorch"),
        ("jpeg", FromFiles(material), "PyTorch's DataLoader, from the JPEG files, with Pillow"),
    )
    return [
        Variant(
            f"torch_{key}_{workers}",
            group,
            f"{workers} workers" if workers else "no workers",
            loading(dataset, material, workers),
            material.batch_size * max(1, workers),
            WORKERS_LONGER if workers else 1,
        )
        for key, dataset, group in kinds
        for workers in (0, WORKERS)
    ]


def loading(dataset: "Crops", material: Material, workers: int) -> Callable[[int], Reading]:
    """A `Variant.run` that loads batches with so many worker processes."""

    def run(count: int) -> Reading:
        loader = DataLoader(
            dataset,
            material.batch_size,
            sampler=RandomSampler(dataset, num_samples=count),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        stopwatch = Stopwatch()
        for batch, _ in loader:
            material.expect(batch.numpy())
        return stopwatch.read(count)  # the workers have ended: they count

    return run


class Crops(Dataset):
    """Random crops, one image at a time."""

    def __init__(self, material: Material) -> None:
        self._labels = material.labels
        self._crop = material.crop
        self._positions = crop_positions(SIZE, material.crop)
        self._eigenvectors = material.cache.eigenvectors
        self._deviations = np.sqrt(material.cache.eigenvalues)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        # Python's generator is the fastest for a few numbers, and PyTorch seeds it in each worker.
        top, left = random.randrange(self._positions), random.randrange(self._positions)
        alphas = [random.gauss(0, LIGHTING_STD) for _ in range(3)]
        shift = self._eigenvectors @ (self._deviations * alphas)
        window = self.window(index, top, left)
        return augmented(window, random.random() < 0.5, shift), self._labels[index]

    def window(self, index: int, top: int, left: int) -> np.ndarray:
        """A crop as it is, uint8 (crop, crop, 3)."""
        raise NotImplementedError


class FromFiles(Crops):
    """Decodes, resizes and crops with Pillow."""

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self._paths = material.paths

    def window(self, index: int, top: int, left: int) -> np.ndarray:
        image = opened_by_pillow(self._paths[index])
        return np.asarray(image.crop((left, top, left + self._crop, top + self._crop)))


class FromCache(Crops):
    """Crops the memory-mapped cache."""

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self._images = material.cache.images["train"]

    def window(self, index: int, top: int, left: int) -> np.ndarray:
        return self._images[index, top : top + self._crop, left : left + self._crop]


def augmented(window: np.ndarray, mirrored: bool, shift: np.ndarray) -> torch.Tensor:
    """The same as `ways_grain.augmented`, on uint8 tensors: cheaper in PyTorch than in NumPy, and
    than `ToTensor`'s floats."""
    image = torch.from_numpy(np.array(window))
    if mirrored:
        image = image.flip(1)
    return (image + torch.from_numpy(np.rint(shift).astype(np.int16))).clamp_(0, 255).byte()


def opened_by_pillow(path: Path) -> Image.Image:
    """The usual transforms: shorter side to 256, then the central 256x256."""
    image = Image.open(path).convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (round(scale * side) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return image.crop((left, top, left + SIZE, top + SIZE))
