"""Winograd's convolution: the outputs of a small kernel at stride 1, tile by tile.

In one dimension, m outputs of r taps are the middle of a product of polynomials, and polynomials
are multiplied by their values at n = m + r - 1 points. In two, with fixed small matrices,

    tile = output @ ((kernel @ k @ kernel.T) * (input @ x @ input.T)) @ output.T

so that for all tiles, channels and kernels together the multiplications are n * n products of
matrices, (tiles, I) @ (I, O). For 3x3 a tile of 5 x 5 needs 49 multiplications instead of 225, for
5x5 one of 4 x 4 needs 64 instead of 400; the maps around them only add. Both derivatives are the
same three maps, transposed. In float32 the results are a little less exact than the sum itself, see
`POINTS`.

S. Winograd, Arithmetic Complexity of Computations, 1980; for images Lavin and Gray,
arXiv:1509.09308.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

Padding = tuple[int, int]
Grid = list[list[jax.Array]]  # n rows of n matrices

HALF = Fraction(1, 2)
# Outputs of a tile, and the finite points, by taps of the kernel; the last point is infinity. The
# tiles fill the maps of 2012: 55 lines of conv1 are 11 of 5, 27 of conv2 7 of 4 and 13 of conv3 to
# conv5 3 of 5, with a line or two to spare. The points decide the error: of those tried these have
# the smallest without thirds (float32: 8e-6 and 9e-6 of the largest value, where the sum itself has
# 1e-6).
POINTS: dict[int, tuple[int, tuple[int | Fraction, ...]]] = {
    3: (5, (0, 1, -1, HALF, 2, Fraction(-3, 2))),
    5: (4, (0, 1, -1, 2, -2, HALF, -HALF)),
}
ONE = 1  # where in the points 1 stands, at which a polynomial is the sum of its coefficients
TAPS = {tile + taps - 1: taps for taps, (tile, _) in POINTS.items()}  # by n


def apart(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` as a computation of its own: XLA neither inlines the call nor fuses across its border.

    A transform of rows feeds one of columns six times; fused, it is computed six times. (A
    `lax.optimization_barrier` does not help: XLA on a CPU drops barriers before it fuses.)
    """
    compiled = jax.jit(f)

    def call(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return compiled(*args)

    return call


class Transforms(NamedTuple):
    """The three matrices, see the module."""

    tile: int  # m
    output: np.ndarray  # (m, n)
    kernel: np.ndarray  # (n, r)
    input: np.ndarray  # (n, n)


@cache
def transforms(taps: int) -> Transforms:
    """Toom and Cook's matrices for a kernel of so many taps."""
    tile, points = POINTS[taps]
    n = tile + taps - 1

    def values(count: int) -> np.ndarray:
        """Values of polynomials of `count` coefficients at every point; at infinity the last."""
        rows = [[Fraction(p) ** power for power in range(count)] for p in points]
        return np.array([*rows, [Fraction(0)] * (count - 1) + [Fraction(1)]], dtype=object)

    inverse = np.linalg.inv(values(n).astype(float))
    exact = np.vectorize(lambda v: Fraction(v).limit_denominator(10**6), otypes=[object])(inverse)
    assert (values(n) @ exact == np.eye(n, dtype=int)).all()
    kernel, data = values(taps), exact.T.copy()
    for row, p in enumerate(points):  # the denominators go to the kernel, which is smaller
        scale = Fraction(1)
        for q in points:
            scale *= p - q if p != q else 1
        data[row], kernel[row] = data[row] * scale, kernel[row] / scale
    return Transforms(tile, *(m.astype(float) for m in (values(tile).T, kernel, data)))


def _combination(weights: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
    """The weighted sum; what has weight 0 is not read."""
    total = None
    for weight, array in zip(weights, arrays, strict=True):
        if weight:
            scaled = {1: array, -1: -array}.get(weight)
            term = array * np.asarray(weight, array.dtype) if scaled is None else scaled
            total = term if total is None else total + term
    assert total is not None
    return total


def _all(matrix: np.ndarray, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    return [_combination(weights, arrays) for weights in matrix]


def transform_kernel(kernel: jax.Array) -> Grid:
    """(r, r, I, O) to n x n matrices (I, O). Raises KeyError for an r that `POINTS` lacks."""
    matrix = transforms(kernel.shape[0]).kernel

    def down(kernel: jax.Array) -> Grid:
        return [_all(matrix, column) for column in zip(*kernel, strict=True)]

    def across(columns: Grid) -> Grid:
        return [_all(matrix, row) for row in zip(*columns, strict=True)]

    return apart(across)(apart(down)(kernel))


class Tiling(NamedTuple):
    """How the outputs of a convolution are cut into tiles; `down` x `across` of them an image.

    Four linear maps: `input`, `output`, and the two transposed.
    """

    forms: Transforms
    size: tuple[int, int]  # of the input, (H, W)
    padding: Padding
    height: int  # of the output
    width: int
    down: int
    across: int

    @staticmethod
    def of(x: jax.Array, kernels: Grid, padding: Padding) -> "Tiling":
        """Returns the tiling of an input (N, H, W, I) for kernels from `transform_kernel`."""
        taps = TAPS[len(kernels)]
        forms = transforms(taps)
        height, width = (size + sum(padding) - taps + 1 for size in x.shape[1:3])
        tiles = -(-height // forms.tile), -(-width // forms.tile)
        return Tiling(forms, (x.shape[1], x.shape[2]), padding, height, width, *tiles)

    def input(self, x: jax.Array) -> Grid:
        """(N, H, W, I) to n x n matrices (tiles, I)."""
        m, matrix = self.forms.tile, self.forms.input

        def slices(x: jax.Array, tiles: int, axis: int) -> list[jax.Array]:
            lines = range(len(matrix))
            return [lax.slice_in_dim(x, i, i + m * (tiles - 1) + 1, m, axis) for i in lines]

        def down(x: jax.Array) -> list[jax.Array]:
            spare = [
                (tiles - 1) * m + len(matrix) - size - self.padding[0]
                for tiles, size in zip((self.down, self.across), self.size, strict=True)
            ]
            x = pad(x, *((self.padding[0], after) for after in spare))
            return _all(matrix, slices(x, self.down, 1))

        def across(rows: list[jax.Array]) -> Grid:
            return [
                [
                    column.reshape(-1, row.shape[-1])
                    for column in _all(matrix, slices(row, self.across, 2))
                ]
                for row in rows
            ]

        return apart(across)(apart(down)(x))

    def output(
        self, products: Grid, images: int, finish: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """n x n matrices (tiles, O) to (N, height, width, O), of which `finish` makes the result
        in the same pass over memory."""
        m, matrix = self.forms.tile, self.forms.output
        shape = (images, self.down, self.across, -1)

        def down(products: Grid) -> Grid:
            return [_all(matrix, column) for column in zip(*products, strict=True)]

        def across(columns: Grid) -> jax.Array:
            lines = []
            for row in zip(*columns, strict=True):
                parts = [part.reshape(shape) for part in _all(matrix, row)]
                line = jnp.stack(parts, axis=3)
                lines.append(line.reshape(images, self.down, m * self.across, -1))
            whole = jnp.stack(lines, axis=2)
            whole = whole.reshape(images, m * self.down, m * self.across, -1)
            return finish(whole[:, : self.height, : self.width])

        return apart(across)(apart(down)(products))

    def output_transposed(self, begin: Callable[..., jax.Array], *gradients: jax.Array) -> Grid:
        """`begin` of the gradients, (N, height, width, O), to n x n matrices (tiles, O)."""
        m, matrix = self.forms.tile, self.forms.output.T

        def down(*gradients: jax.Array) -> list[jax.Array]:
            spare = (m * self.down - self.height, m * self.across - self.width)
            gradient = pad(begin(*gradients), *((0, after) for after in spare))
            return _all(matrix, [lax.slice_in_dim(gradient, p, None, m, 1) for p in range(m)])

        def across(rows: list[jax.Array]) -> Grid:
            grid = []
            for row in rows:
                parts = [lax.slice_in_dim(row, p, None, m, 2) for p in range(m)]
                grid.append([part.reshape(-1, row.shape[-1]) for part in _all(matrix, parts)])
            return grid

        return apart(across)(apart(down)(*gradients))

    def input_transposed(self, products: Grid, images: int) -> jax.Array:
        """n x n matrices (tiles, I) to (N, H, W, I); where tiles overlap, sums."""
        matrix = self.forms.input.T
        shape = (images, self.down, self.across, -1)

        def down(products: Grid) -> Grid:
            columns = zip(*products, strict=True)
            return [[part.reshape(shape) for part in _all(matrix, column)] for column in columns]

        def rows(columns: Grid) -> list[jax.Array]:
            return [self._overlapped(column, 1) for column in columns]

        def across(rows: list[jax.Array]) -> list[jax.Array]:
            return _all(matrix, rows)

        def columns(parts: list[jax.Array]) -> jax.Array:
            return self._overlapped(parts, 2)

        return apart(columns)(apart(across)(apart(rows)(apart(down)(products))))

    def _overlapped(self, parts: list[jax.Array], axis: int) -> jax.Array:
        """Adds part i of tile t to line m * t + i, and cuts the padding off."""
        m, n = self.forms.tile, len(parts)
        tiles = parts[0].shape[axis]
        blocks = tiles + (n - 1) // m  # of m lines
        lines = []
        for first in range(m):
            shares = []
            for later, part in enumerate(parts[first::m]):
                pads = [(0, 0, 0)] * part.ndim
                pads[axis] = (later, blocks - tiles - later, 0)
                shares.append(lax.pad(part, jnp.zeros((), part.dtype), pads))
            lines.append(sum(shares[1:], start=shares[0]))
        shape = list(parts[0].shape)
        shape[axis] = blocks * m
        whole = jnp.stack(lines, axis=axis + 1).reshape(shape)
        before, size = self.padding[0], self.size[axis - 1]
        return lax.slice_in_dim(whole, before, before + size, axis=axis)


def pad(x: jax.Array, rows: tuple[int, int], columns: tuple[int, int]) -> jax.Array:
    """Adds zeros around maps; negative numbers cut off."""
    config = [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def products(a: Grid, b: Grid, axes: tuple[int, int]) -> Grid:
    """Multiplies each pair of matrices, summed over these axes of the two."""
    over = (((axes[0],), (axes[1],)), ((), ()))
    return [
        [lax.dot_general(p, q, over, precision="highest") for p, q in zip(*rows, strict=True)]
        for rows in zip(a, b, strict=True)
    ]
