"""The operators of `layers` in the forms that are fast on a CPU, for many large maps.

XLA's convolutions and products are good there; what is between them costs as much as they do, and
so it is kept small:

* the images go through the layers a few at a time, so that what one stage writes the next one finds
  in the cache; on the way back everything but the layers' values is computed again;
* a convolution is `winograd`'s, a quarter of the multiplications; at a stride it is one at stride 1
  over blocks of pixels (conv1: squares of 4 x 4, and 3 x 3 of those instead of 11 x 11);
* it is one operator with its bias and activation, with one rule for the way back, which reads the
  activation's slope off its value. Nothing else of a layer is kept;
* `apart` keeps XLA from fusing a stage into each of the next one's slices, and so computing it many
  times over.

What fits into the cache at once is left to XLA, which is faster there. Measured beside the plain
forms in `experiments/results/step`; each has the values and derivatives of its plain form
(`tests/test_cpu.py`).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from alexnet_jax.model import layers, towers, winograd
from alexnet_jax.model.layers import Form, Padding
from alexnet_jax.model.winograd import Grid, apart

AT_A_TIME = 10_000_000  # bytes of the largest maps: what a cache holds
# Kernels times the channels that each sees; below, Winograd's transforms cost more than they save.
CHANNELS = 2_000

Kernels = jax.Array | list[Grid]  # as they are, or those of each group as `winograd` wants them

SLOPES: dict[str, Callable[[jax.Array], jax.Array]] = {  # derivatives, from the values
    "relu": lambda z: (z > 0).astype(z.dtype),
    "tanh": lambda z: 1 - z * z,
    "sigmoid": lambda z: z * (1 - z),
    "linear": jnp.ones_like,
}


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
    """`layers.respond`. Inside `shard_map` all arrays have to vary over the same axes."""
    if not isinstance(kernels, list):
        return layers.respond(x, kernels, bias, form)
    inputs = jnp.split(x, form.groups, axis=-1)
    padding = form.padding
    if form.stride > 1:
        inputs = [apart(partial(_blocks, form=form))(own) for own in inputs]
        padding = 0, 0
    groups = zip(inputs, kernels, jnp.split(bias, form.groups), strict=True)
    responses = [_respond(*own, padding, form.activation) for own in groups]
    return jnp.concatenate(responses, axis=-1) if form.groups > 1 else responses[0]


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
        return layers.ACTIVATIONS[activation](y + bias)

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


def portion(images: int, largest: int) -> int:
    """How many images to take at once.

    Args:
        images: all of them. A number that is not known yet (`jax.export`) is taken at once.
        largest: bytes of the largest maps of one image.
    """
    if not isinstance(images, int):
        return images
    most = max(1, min(images, AT_A_TIME // largest))
    even = max(few for few in range(1, most + 1) if images % few == 0)
    return even if 2 * even > most else -(-images // -(-images // most))


def in_portions(f: Callable[[jax.Array], Any], x: jax.Array, few: int) -> Any:
    """`f` of (N, ...), `few` images at a time. If N does not come out even, zeros follow.

    For the derivative only what `respond` names is kept, and the rest computed again.
    """
    images = x.shape[0]
    portions = -(-images // few)
    if portions == 1:
        return f(x)
    spare = portions * few - images
    x = jnp.pad(x, [(0, spare), *[(0, 0)] * (x.ndim - 1)]) if spare else x
    keep = jax.checkpoint_policies.save_only_these_names("values")
    remembering = jax.checkpoint(f, policy=keep, prevent_cse=False)
    _, found = lax.scan(
        lambda _, x: (None, remembering(x)), None, x.reshape(portions, few, *x.shape[1:])
    )
    return jax.tree.map(lambda y: y.reshape(portions * few, *y.shape[2:])[:images], found)


OPERATORS = layers.Operators(portion, kernels, may_loop, respond, apart, in_portions)


LIBRARIES = "xla_cpu_experimental_ynn_fusion_type"
TRAINING = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


def compiler_options(mesh: Mesh, *, training: bool = False) -> dict[str, str]:
    """For `jax.jit`: which of XLA's two libraries computes what.

    YNNPACK's products of small matrices are the faster ones, which is good for training. Its
    convolutions (jax before 0.12) and its products with fc6's and fc7's weights at few images are
    slower than Eigen's by up to two times. Off a CPU, or where XLA knows no such option, nothing.
    """
    options = {LIBRARIES: TRAINING if training else ""}
    return options if towers.platform(mesh) == "cpu" and _known(LIBRARIES) else {}


@cache
def _known(option: str) -> bool:
    trial = jax.jit(lambda: 0, compiler_options={option: ""})
    try:
        trial.lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
