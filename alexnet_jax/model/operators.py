"""The operators of one tower: convolution, LRN, within-map norm, pooling, dropout; and what the
networks for CIFAR-10 have beside them, local connections and average pooling.

Plain functions of arrays in NHWC layout. Each runs on what one device holds: one tower, or both,
side by side along the channels. Two of them look unlike the formula they compute. On a CPU, where
XLA's own way is several times slower once it is differentiated, that was measured to be faster;
elsewhere it has not been measured yet.

* LRN's sum over neighbouring channels is a product with a banded matrix of ones;
* pooling is the maximum of shifted slices, rows first, then columns.

Where a platform computes an operator in another way, that way is in the platform's own folder, and
is compared with the one here.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = tuple[int, int]  # zeros before the first and after the last row, and column


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(0, x); its derivative is told from its value, so that only that has to be kept."""
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = relu(x)
    return y, y


def _relu_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    y = lax.optimization_barrier(y)  # or XLA, which knows what y is, looks at x and keeps it
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": relu,  # paper section 3.1
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}


def convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int = 1
) -> jax.Array:
    """Convolves (N, H, W, groups * I) with (K, K, I, O), each group with its share of the O.

    Two groups are two convolutions: on a CPU XLA's grouped one is 4.5 times slower.
    """
    apply = partial(
        lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    if groups == 1:
        return apply(x, kernel)
    pairs = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
    return jnp.concatenate([apply(*pair) for pair in pairs], axis=-1)


def local_convolution(
    x: jax.Array, kernel: jax.Array, size: int, stride: int, padding: Padding, groups: int = 1
) -> jax.Array:
    """A convolution whose kernels are others at every place (cuda-convnet's `local`).

    Args:
        x: (N, H, W, groups * I).
        kernel: (rows, columns of the result, I * size * size, O): of every place the channels one
            after the other, each row by row; each group with its share of the O.
        size: of a kernel, pixels.
        stride: pixels.
        padding: see `Padding`.
        groups: of channels, that see nothing of each other.
    """
    parts = [
        jnp.einsum(
            "nhwp,hwpo->nhwo",
            lax.conv_general_dilated_patches(
                own, (size, size), (stride, stride), (padding, padding),
                dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST,
            ),
            kernels,
        )
        for own, kernels in zip(
            jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True
        )
    ]  # fmt: skip
    return jnp.concatenate(parts, axis=-1) if groups > 1 else parts[0]


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The products of a fully connected layer, of units or of whole maps.

    Multiplied in the type of `x` and summed in float32, both ways: also the kernel's gradient, that
    of a device and the sum over all devices.

    Args:
        x: (N, ...).
        kernel: (I, O), where I counts all that there is of an image.

    Returns:
        (N, O), float32 where `x` is narrower.
    """
    return _dense(x, kernel)


@jax.custom_vjp
def _dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    flat = x.reshape(x.shape[0], -1)
    return jnp.matmul(flat, kernel.astype(x.dtype), preferred_element_type=wide(x.dtype))


def _dense_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _dense(x, kernel), (x, kernel)


def _dense_backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    gradient = gradient.astype(x.dtype)
    flat = x.reshape(x.shape[0], -1)
    by_kernel = jnp.tensordot(flat, gradient, (0, 0), preferred_element_type=kernel.dtype)
    # In the shape of the maps: each tower's half of the sum over both is then that of its own maps.
    of_maps = kernel.astype(x.dtype).reshape(*x.shape[1:], -1)
    return jnp.tensordot(gradient, of_maps, (1, x.ndim - 1)), by_kernel


_dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """(..., O) + (O,), in the type of `x`; the bias's gradient is summed in its own type."""
    return x + bias.astype(x.dtype)


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add_bias(x, bias), bias


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    every = tuple(range(gradient.ndim - 1))
    return gradient, gradient.astype(bias.dtype).sum(every)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def wide(dtype: Any) -> Any:
    """float32, or what is wider."""
    return jnp.promote_types(dtype, jnp.float32)


def local_response_norm(
    x: jax.Array, *, size: int, k: float, alpha: float, beta: float, towers: int = 1
) -> jax.Array:
    """Divides every response by (k + alpha * sum of squares of its neighbours) ** beta.

    The neighbours are the `size` channels around a channel, itself among them, clipped at the ends
    of its tower: LRN never looks across the tower border (paper section 3.3;
    `layers-145.cfg:38,98`; window: cuda-convnet `conv_util.cu:1068-1070`). Computed in float32, or
    in float64 where that is given, since squares of activations overflow narrower types.

    Args:
        x: (..., channels), the channels of `towers` towers one after the other.
        size: width of the window in channels, odd.
        k, alpha, beta: the constants; alpha is per squared response. The released code divides its
            0.0001 by the window's size first (`layer.py:1183`).
        towers: how many towers the channels hold.
    """
    lrn = LRN(size, k, alpha, beta)
    return by_tower(lambda x: _lrn(x, lrn), x, towers)


def by_tower(norm: Callable[[jax.Array], jax.Array], x: jax.Array, towers: int) -> jax.Array:
    """`norm` of each tower's channels, (..., towers, channels of one), in float32 or wider."""
    per_tower = x.reshape(*x.shape[:-1], towers, x.shape[-1] // towers).astype(wide(x.dtype))
    return norm(per_tower).reshape(x.shape).astype(x.dtype)


class LRN(NamedTuple):
    """The constants of local response normalization, and its value and derivative in pieces.

    With a the responses and d_i = k + alpha * sum of a_j ** 2 over j near i,

        b_i = a_i d_i ** -beta
        d b_i / d a_j = d_i ** -beta [i = j] - 2 alpha beta a_i a_j d_i ** (-beta - 1) [j near i]

    and "near" sums the same way in both directions.
    """

    size: int
    k: float
    alpha: float
    beta: float

    def near(self, x: jax.Array) -> jax.Array:
        """The sum over the neighbours of each channel, as a product with a banded matrix."""
        channel = np.arange(x.shape[-1])
        band = np.abs(channel[:, None] - channel[None, :]) <= self.size // 2
        return jnp.matmul(x, jnp.asarray(band, x.dtype), precision=lax.Precision.HIGHEST)

    def value(self, x: jax.Array, squares: jax.Array) -> jax.Array:
        """b, of the responses and `near` of their squares."""
        return x * _negative_powers(self.k + self.alpha * squares, self.beta)[0]

    def shares(self, gradient: jax.Array, x: jax.Array, squares: jax.Array) -> jax.Array:
        """What each b_i passes on to its neighbours, before `near` collects it."""
        scale, inverse = _negative_powers(self.k + self.alpha * squares, self.beta)
        return gradient * x * (scale * inverse)

    def gradient(
        self, gradient: jax.Array, x: jax.Array, squares: jax.Array, collected: jax.Array
    ) -> jax.Array:
        """The gradient by a, of that by b and what was collected from the neighbours."""
        scale, _ = _negative_powers(self.k + self.alpha * squares, self.beta)
        return gradient * scale - 2 * self.alpha * self.beta * x * collected


def _negative_powers(x: jax.Array, beta: float) -> tuple[jax.Array, jax.Array]:
    """x ** -beta and 1 / x; at the paper's 3/4 from square roots, far cheaper than a power."""
    if beta == 0.75:
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root), root * root
    return x**-beta, 1 / x


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _lrn(x: jax.Array, lrn: LRN) -> jax.Array:
    return _lrn_forward(x, lrn)[0]


def _lrn_forward(x: jax.Array, lrn: LRN) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    squares = lrn.near(x * x)
    return lrn.value(x, squares), (x, squares)


def _lrn_backward(
    lrn: LRN, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    collected = lrn.near(lrn.shares(gradient, *saved))
    return (lrn.gradient(gradient, *saved, collected),)


_lrn.defvjp(_lrn_forward, _lrn_backward)


def within_map_norm(x: jax.Array, size: int = 5, scale: float = 0.001) -> jax.Array:
    """The released code's extra norm after LRN2, absent from the paper.

    x / (1 + scale / size^2 * sum of squares over the window of the same map) ** 0.75, windows of
    `size` x `size` pixels, clipped at the border (`layers-145.cfg:107-117`,
    `layer-params-145.cfg:157-163`).
    """
    a = x.astype(wide(x.dtype))
    squares, half = a * a, size // 2
    for axis in (1, 2):
        length = squares.shape[axis]
        padded = jnp.pad(squares, [(half, half) if a == axis else (0, 0) for a in range(4)])
        shifted = [lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size)]
        squares = reduce(jnp.add, shifted)
    return (a * _negative_powers(1 + scale / size**2 * squares, 0.75)[0]).astype(x.dtype)


def max_pool(x: jax.Array, window: int, stride: int, padding: Padding = (0, 0)) -> jax.Array:
    """Maximum over `window` x `window` squares every `stride` pixels (paper section 3.4)."""
    for axis in (1, 2):
        if padding != (0, 0):
            pads = [padding if a == axis else (0, 0) for a in range(4)]
            x = jnp.pad(x, pads, constant_values=-jnp.inf)
        last = x.shape[axis] - window
        if last < 0:
            raise ValueError(f"a pooling window of {window} is larger than maps of {x.shape[axis]}")
        slices = [
            lax.slice_in_dim(x, i, i + last // stride * stride + 1, stride, axis)
            for i in range(window)
        ]
        x = slices[0]
        for other in slices[1:]:
            x = jnp.maximum(x, other)
    return x


def average_pool(x: jax.Array, window: int, stride: int, padding: Padding = (0, 0)) -> jax.Array:
    """Mean over squares as `max_pool` has them, of the pixels that are there: what lies beyond the
    maps counts for nothing (cuda-convnet's `conv_util.cuh:80`)."""
    counts = []
    for axis in (1, 2):
        pads = [padding if a == axis else (0, 0) for a in range(4)]
        length, x = x.shape[axis], jnp.pad(x, pads)
        starts = np.arange(0, x.shape[axis] - window + 1, stride) - padding[0]
        counts.append(np.minimum(starts + window, length) - np.maximum(starts, 0))
        last = int(starts[-1]) + padding[0]
        slices = [lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(window)]
        x = reduce(jnp.add, slices)
    return x / jnp.asarray(np.outer(*counts)[:, :, None], x.dtype)


def dropout(x: jax.Array, mask: jax.Array | None, rate: float) -> jax.Array:
    """The dropout of 2012 (paper section 4.2; `layer.cu:1126-1135`).

    In training the units outside `mask` are zero and the others keep their value; at test (no mask)
    every unit is multiplied by the share that would have been kept. Today's libraries rescale in
    training instead, which with these learning rates is another network.
    """
    if mask is None:
        return x * (1 - rate)
    return x * mask.astype(x.dtype)
