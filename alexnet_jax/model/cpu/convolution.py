"""A convolution with its bias and activation as one operator, and one rule for the way back.

It is `winograd`'s where the layer is large enough; at a stride it is one at stride 1 over blocks of
pixels (conv1: squares of 4 x 4, and 3 x 3 of those instead of 11 x 11). The way back reads the
activation's slope off its value, so that nothing else of a layer is kept.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from alexnet_jax.model import operators
from alexnet_jax.model.cpu import winograd
from alexnet_jax.model.cpu.winograd import Grid, apart
from alexnet_jax.model.operators import Padding

# Kernels times the channels that each sees; below, Winograd's transforms cost more than they save.
CHANNELS = 2_000


Kernels = jax.Array | list[Grid]  # as they are, or those of each group as `winograd` wants them


SLOPES: dict[str, Callable[[jax.Array], jax.Array]] = {  # derivatives, from the values
    "relu": lambda z: (z > 0).astype(z.dtype),
    "tanh": lambda z: 1 - z * z,
    "sigmoid": lambda z: z * (1 - z),
    "linear": jnp.ones_like,
}


class Form(NamedTuple):
    """How a convolutional layer responds, but for its numbers."""

    size: int  # of the kernels, pixels
    stride: int
    padding: Padding
    groups: int
    activation: str


def kernels(kernel: jax.Array, form: Form) -> Kernels:
    """The kernels (K, K, I, O) in the form in which `respond` is fastest."""
    blocks = _kernel_of_blocks(kernel, form.stride)
    size, _, channels, width = blocks.shape
    fits = size in winograd.POINTS and kernel.dtype != jnp.bfloat16
    if not fits or channels * width // form.groups < CHANNELS:
        return kernel
    return [winograd.transform_kernel(own) for own in jnp.split(blocks, form.groups, axis=-1)]


def may_loop(kernels: Kernels) -> bool:
    """Whether the convolution is Winograd's.

    Of jax 0.10, XLA's own (by Eigen) inside a loop, on two virtual devices at once, gave wrong
    numbers for the first image of some portions in every second run of the full network, and its
    derivatives there are slower by two orders. Outside it is right, and faster on a whole batch.
    """
    return isinstance(kernels, list)


def respond(x: jax.Array, kernels: Kernels, bias: jax.Array, form: Form) -> jax.Array:
    """The activation of the kernels' responses and the bias, (N, H, W, O).

    Inside `shard_map` all arrays have to vary over the same axes.
    """
    if not isinstance(kernels, list):
        responses = operators.convolution(x, kernels, form.stride, form.padding, form.groups)
        return operators.ACTIVATIONS[form.activation](operators.add_bias(responses, bias))
    inputs = jnp.split(x, form.groups, axis=-1)
    padding = form.padding
    if form.stride > 1:
        inputs = [apart(partial(_blocks, form=form))(own) for own in inputs]
        padding = 0, 0
    groups = zip(inputs, kernels, jnp.split(bias, form.groups), strict=True)
    parts = [_respond(*own, padding, form.activation) for own in groups]
    return jnp.concatenate(parts, axis=-1) if form.groups > 1 else parts[0]


def _blocks(x: jax.Array, form: Form) -> jax.Array:
    """The input (N, H, W, I) with every square of `stride` pixels as one pixel of more channels."""
    images, *size, channels = x.shape
    stride, before = form.stride, form.padding[0]
    taps = -(-form.size // stride)
    down, across = ((side + sum(form.padding) - form.size) // stride + taps for side in size)
    padding = (
        (before, stride * blocks - before - side)
        for side, blocks in zip(size, (down, across), strict=True)
    )
    x = winograd.pad(x, *padding)
    x = x.reshape(images, down, stride, across, stride, channels).swapaxes(2, 3)
    return x.reshape(images, down, across, stride * stride * channels)


def _kernel_of_blocks(kernel: jax.Array, stride: int) -> jax.Array:
    """The kernel (K, K, I, O) that says of `_blocks`, at stride 1, what `kernel` says of pixels."""
    size, _, channels, width = kernel.shape
    taps = -(-size // stride)
    spare = 0, taps * stride - size
    kernel = jnp.pad(kernel, (spare, spare, (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, width).swapaxes(1, 2)
    return kernel.reshape(taps, taps, stride * stride * channels, width)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _respond(
    x: jax.Array, kernel: Grid, bias: jax.Array, padding: Padding, activation: str
) -> jax.Array:
    def finish(y: jax.Array) -> jax.Array:
        return operators.ACTIVATIONS[activation](y + bias)

    tiling = winograd.Tiling.of(x, kernel, padding)
    products = winograd.products(tiling.input(x), kernel, (1, 0))
    return tiling.output(products, x.shape[0], finish)


Saved = tuple[jax.Array, Grid, jax.Array]


def _respond_forward(
    x: jax.Array, kernel: Grid, bias: jax.Array, padding: Padding, activation: str
) -> tuple[jax.Array, Saved]:
    values = checkpoint_name(_respond(x, kernel, bias, padding, activation), "values")
    return values, (x, kernel, values)


def _respond_backward(
    padding: Padding, activation: str, saved: Saved, gradient: jax.Array
) -> tuple[jax.Array, Grid, jax.Array]:
    x, kernel, values = saved

    def slope(gradient: jax.Array, values: jax.Array) -> jax.Array:
        return gradient * SLOPES[activation](values)

    tiling = winograd.Tiling.of(x, kernel, padding)
    slopes = tiling.output_transposed(slope, gradient, values)
    by_x = tiling.input_transposed(winograd.products(slopes, kernel, (1, 1)), x.shape[0])
    by_kernel = winograd.products(tiling.input(x), slopes, (0, 0))
    return by_x, by_kernel, slopes[winograd.ONE][winograd.ONE].sum(0)


_respond.defvjp(_respond_forward, _respond_backward)
