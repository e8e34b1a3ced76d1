"""The mean image and the RGB components of a training set, from exact integer sums.

Integers do not know the order in which they were added: the statistics are the same, to the last
bit, for any number of workers and for a preparation that was broken off and went on.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over images, from which every statistic follows.

    Attributes:
        count: images.
        image: int64 (S, S, 3), the sum of the images.
        products: int64 (3, 3), the sum over all pixels of (r, g, b)^T (r, g, b).
    """

    count: int
    image: np.ndarray
    products: np.ndarray

    @classmethod
    def zero(cls, size: int) -> "Sums":
        """Returns the sums of no images of `size` pixels a side."""
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    @classmethod
    def of(cls, images: np.ndarray) -> "Sums":
        """Returns the sums of images, uint8 (N, S, S, 3).

        OpenCV adds images five times faster than NumPy, in float32, which is exact up to 2^24 and
        so for 65,793 images.
        """
        image = np.zeros(images.shape[1:], np.int64)
        products = np.zeros((3, 3), np.int64)
        channels = [np.empty(images.shape[1:3], np.uint8) for _ in range(3)]
        for start in range(0, len(images), 1 << 16):
            part = np.zeros(images.shape[1:], np.float32)
            for pixels in images[start : start + (1 << 16)]:
                cv2.accumulate(pixels, part)
                products += _products(cv2.split(pixels, channels))
            image += part.astype(np.int64)
        return cls(len(images), image, products)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.count + other.count, self.image + other.image, self.products + other.products
        )

    def mean_image(self) -> np.ndarray:
        """float32 (S, S, 3)."""
        return (self.image / self.count).astype(np.float32)

    def covariance(self) -> np.ndarray:
        """float64 (3, 3), of R, G and B over all pixels of all images (paper section 4.1), divided
        by their number, in squared grey levels.

        The numerator is taken in Python's integers: n * products overflows int64 on ImageNet.
        """
        n = self.count * self.image.shape[0] * self.image.shape[1]
        total = self.image.sum(axis=(0, 1)).astype(object)
        numerator = n * self.products.astype(object) - np.outer(total, total)
        return (numerator / (n * n)).astype(np.float64)

    def principal_components(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (3,), ascending, and eigenvectors (3, 3) as columns, of the covariance.

        An eigenvector's sign is free; its largest entry is made positive.
        """
        values, vectors = np.linalg.eigh(self.covariance())
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(3)]
        return np.maximum(values, 0.0), vectors * np.sign(largest)


def _products(channels: Sequence[np.ndarray]) -> np.ndarray:
    """int64 (3, 3), the sum of (r, g, b)^T (r, g, b) over the pixels of an image.

    From squared norms, since r g = (r^2 + g^2 - (r - g)^2) / 2: OpenCV has those of uint8 in vector
    instructions, six times faster than a product in float64. It may return the square of a root,
    off by some 1e-16 of itself, hence the rounding to the integer that it is.

    Args:
        channels: uint8 (H, W), red, green and blue.
    """
    squares = [round(cv2.norm(channel, cv2.NORM_L2SQR)) for channel in channels]
    products = np.diag(np.array(squares, np.int64))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        apart = round(cv2.norm(channels[i], channels[j], cv2.NORM_L2SQR))
        products[i, j] = products[j, i] = (squares[i] + squares[j] - apart) // 2
    return products
