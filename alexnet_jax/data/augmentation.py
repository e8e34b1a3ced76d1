"""Crop, flip and PCA lighting (paper section 4.1), in NumPy and OpenCV on the host.

Random numbers are drawn for a whole batch at once, apart from the cutting, so that several
processes can draw the same numbers and cut only their own rows.
"""

import dataclasses
from typing import Literal

import cv2
import numpy as np

LIGHTING_STD = 0.1  # paper: "drawn from a Gaussian with mean zero and standard deviation 0.1"

Lighting = Literal["sqrt", "eigenvalue", "none"]


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers of one batch.

    Attributes:
        offsets: int32 (B, 3): top and left of the crop in pixels, and 1 where it is mirrored.
        alphas: float64 (B, 3), the Gaussian factors of the three components.
    """

    offsets: np.ndarray
    alphas: np.ndarray

    def rows(self, rows: slice) -> "Draws":
        """The draws of some of the batch's images."""
        return Draws(self.offsets[rows], self.alphas[rows])


def draw(
    rng: np.random.Generator,
    batch_size: int,
    positions: int,
    flip: bool = True,
    centre: int | None = None,
) -> Draws:
    """Draws a batch's crops, flips and lighting.

    Everything is drawn whether it is used or not: without flips, or once lighting is over, the
    other numbers stay what they were.

    Args:
        rng: where the numbers come from.
        batch_size: B.
        positions: crop positions along each side (33 for 224 from 256, see `crop_positions`).
        flip: whether half of the images are mirrored.
        centre: where all crops are taken, along each side; None for anywhere.
    """
    corners = rng.integers(0, positions, (batch_size, 2), dtype=np.int32)
    if centre is not None:
        corners[:] = centre
    mirrored = rng.integers(0, 2, batch_size, dtype=np.int32) * flip
    alphas = rng.normal(0.0, LIGHTING_STD, (batch_size, 3))
    return Draws(np.column_stack([corners, mirrored]), alphas)


def crop_positions(size: int, crop: int, last_offset: bool = True) -> int:
    """How many positions a crop has along one side of an image.

    The paper counts 32 for 224 from 256 ("a factor of 2048" = 32 * 32 * 2); the released code
    draws from 33 (convdata_jpeg.py:239, `randint(0, 2*16+1)`), which `last_offset` stands for.
    """
    return max(1, size - crop + last_offset)


def lighting_shift(
    alphas: np.ndarray, eigenvalues: np.ndarray, eigenvectors: np.ndarray, lighting: Lighting
) -> np.ndarray:
    """The colour that lighting adds to each image, in grey levels.

    The paper adds [p1, p2, p3][a1 l1, a2 l2, a3 l3]^T with l the eigenvalues. 'sqrt' takes their
    square roots, as the released code does (convdata_jpeg.py:155-179). 'eigenvalue' is the printed
    formula on pixels scaled to 0..1, brought back to 0..255: on 0..255 itself it would shift a
    channel by some 1,500 grey levels.

    Args:
        alphas: float (B, 3).
        eigenvalues: float (3,), of pixels in 0..255.
        eigenvectors: float (3, 3), one in each column.
        lighting: 'sqrt', 'eigenvalue' or 'none'.

    Returns:
        float32 (B, 3) in RGB order.
    """
    if lighting == "none":
        return np.zeros(alphas.shape, np.float32)
    scale = np.sqrt(eigenvalues) if lighting == "sqrt" else eigenvalues / 255**2 * 255
    return ((alphas * scale) @ eigenvectors.T).astype(np.float32)


def cut(
    images: np.ndarray,
    indices: np.ndarray,
    offsets: np.ndarray,
    crop: int,
    shift: np.ndarray | None = None,
) -> np.ndarray:
    """Cuts a batch of crops out of fixed-size images.

    Args:
        images: uint8 (N, S, S, 3), usually memory-mapped.
        indices: int (B,), which images.
        offsets: int (B, 3): top, left, mirrored.
        crop: side of a crop in pixels.
        shift: float (B, 3) to add, rounded and saturating, or None.

    Returns:
        uint8 (B, crop, crop, 3).
    """
    batch = np.empty((len(indices), crop, crop, 3), np.uint8)
    colours = None if shift is None else _colours(shift)
    for row, (index, (top, left, mirrored)) in enumerate(zip(indices, offsets.tolist())):
        out = batch[row]
        window = images[index, top : top + crop, left : left + crop]
        if mirrored:
            window = cv2.flip(window, 1, dst=out)  # 18 times faster than window[:, ::-1]
        if colours is not None:
            more, less = colours[row]
            window = cv2.subtract(cv2.add(window, more, dst=out), less, dst=out)
        if window is not out:
            out[:] = window
    return batch


def _colours(shift: np.ndarray) -> np.ndarray:
    """Colours to add to and to subtract from uint8 images, saturating at 0 and 255.

    A channel is touched by one of the two only, so it saturates once. OpenCV takes a scalar that
    fits uint8 in one vector instruction, a mixed one through wider integers (half the speed).

    Args:
        shift: float (B, 3).

    Returns:
        float64 (B, 2, 4): OpenCV's scalars have four channels.
    """
    rounded = np.pad(np.rint(shift), [(0, 0), (0, 1)])
    return np.clip(np.stack([rounded, -rounded], axis=1), 0, 255).astype(np.float64)
