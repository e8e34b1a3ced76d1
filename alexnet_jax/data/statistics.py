"""The mean image and the RGB components of a training set, from exact integer sums.

Integers do not know the order in which they were added: the statistics are the same, to the last
bit, for any number of workers and for a preparation that was broken off and went on.
"""

import dataclasses

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
        """Of no images of `size` pixels a side."""
        return cls(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    @classmethod
    def of(cls, images: np.ndarray) -> "Sums":
        """Of uint8 (N, S, S, 3).

        OpenCV adds images five times faster than NumPy, in float32, which is exact up to 2^24 and
        so for 65,793 images; its sums of products are in float64, exact for an image of up to
        1.4e11 pixels.
        """
        image = np.zeros(images.shape[1:], np.int64)
        products = np.zeros((3, 3), np.int64)
        for start in range(0, len(images), 1 << 16):
            part = np.zeros(images.shape[1:], np.float32)
            for pixels in images[start : start + (1 << 16)]:
                cv2.accumulate(pixels, part)
                rgb = pixels.reshape(-1, 3)
                products += cv2.mulTransposed(rgb, True, dtype=cv2.CV_64F).astype(np.int64)
            image += part.astype(np.int64)
        return cls(len(images), image, products)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.count + other.count, self.image + other.image, self.products + other.products
        )

    def mean_image(self) -> np.ndarray:
        """float32 (S, S, 3)."""
        return (self.image / self.count).astype(np.float32)

    def principal_components(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (3,), ascending, and eigenvectors (3, 3) as columns, of the RGB covariance.

        The covariance is over all pixels of all images (paper section 4.1), divided by their
        number. Its numerator is taken in Python's integers: n * products overflows int64 on
        ImageNet. An eigenvector's sign is free; its largest entry is made positive.
        """
        n = self.count * self.image.shape[0] * self.image.shape[1]
        total = self.image.sum(axis=(0, 1)).astype(object)
        numerator = n * self.products.astype(object) - np.outer(total, total)
        covariance = (numerator / (n * n)).astype(np.float64)
        values, vectors = np.linalg.eigh(covariance)
        largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(3)]
        return np.maximum(values, 0.0), vectors * np.sign(largest)
