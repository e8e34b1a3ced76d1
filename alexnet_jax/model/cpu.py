"""The operators of `layers` in the forms that are fast on a CPU.

XLA's convolutions and products are good there; what is between them costs as much as they do, and
so it is kept small:

* a layer is one operator: convolution, bias and activation forward, and one rule for the way back,
  which reads the activation's slope off its value. Nothing else of a layer is kept;
* the larger convolutions at stride 1 are `winograd`'s, a quarter of the multiplications;
* the images go through the layers a few at a time, so that what one stage writes the next one finds
  in the cache; on the way back everything but the layers' values is computed again;
* `apart` keeps XLA from fusing a stage into each of the next one's slices, and so computing it many
  times over.

Measured beside the plain forms in `experiments/results/step`; each has the values and derivatives
of its plain form (`tests/test_cpu.py`).
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
from alexnet_jax.model.layers import Form
from alexnet_jax.model.winograd import Grid, apart

AT_A_TIME = 10_000_000  # bytes of the largest maps: what a cache holds
# Below these numbers Winograd's transforms cost more than they save.
CHANNELS = 4_000  # kernels times the channels that each of them sees
IMAGES = 8

Kernel = jax.Array | Grid  # as it is, or as `winograd` wants it

SLOPES: dict[str, Callable[[jax.Array], jax.Array]] = {  # derivatives, from the values
    "relu": lambda z: (z > 0).astype(z.dtype),
    "tanh": lambda z: 1 - z * z,
    "sigmoid": lambda z: z * (1 - z),
    "linear": jnp.ones_like,
}


def kernels(kernel: jax.Array, form: Form, images: int) -> list[Kernel]:
    """The kernels of each group, in the form in which `respond` is fastest.

    Args:
        kernel: (K, K, I, O), of all groups.
        form: of the layer.
        images: how many at a time `respond` will see.
    """
    parts = jnp.split(kernel, form.groups, axis=-1)
    size, _, channels, width = parts[0].shape
    fits = form.stride == 1 and size in winograd.POINTS and kernel.dtype != jnp.bfloat16
    if fits and images >= IMAGES and channels * width >= CHANNELS:
        return [winograd.transform_kernel(part) for part in parts]
    return list(parts)


def may_loop(kernels: list[Kernel]) -> bool:
    """Whether the convolution is Winograd's.

    Of jax 0.10, XLA's own (by Eigen) inside a loop, on two virtual devices at once, gave wrong
    numbers for the first image of some portions in every second run of the full network, and its
    derivatives there are slower by two orders. Outside it is right, and faster on a whole batch.
    """
    return isinstance(kernels[0], list)


def respond(x: jax.Array, kernels: list[Kernel], bias: jax.Array, form: Form) -> jax.Array:
    """`layers.respond`. Inside `shard_map` all arrays have to vary over the same axes."""
    groups = form.groups
    own = zip(jnp.split(x, groups, axis=-1), kernels, jnp.split(bias, groups), strict=True)
    parts = [_respond(*arrays, form._replace(groups=1)) for arrays in own]
    return jnp.concatenate(parts, axis=-1) if groups > 1 else parts[0]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _respond(x: jax.Array, kernel: Kernel, bias: jax.Array, form: Form) -> jax.Array:
    if not isinstance(kernel, list):
        return layers.respond(x, kernel, bias, form)

    def finish(y: jax.Array) -> jax.Array:
        return layers.ACTIVATIONS[form.activation](y + bias)

    tiling = winograd.Tiling.of(x, kernel, form.padding)
    products = winograd.products(tiling.input(x), kernel, (1, 0))
    return tiling.output(products, x.shape[0], finish)


Saved = tuple[jax.Array, Kernel, jax.Array]


def _respond_forward(
    x: jax.Array, kernel: Kernel, bias: jax.Array, form: Form
) -> tuple[jax.Array, Saved]:
    values = checkpoint_name(_respond(x, kernel, bias, form), "values")
    return values, (x, kernel, values)


def _respond_backward(
    form: Form, saved: Saved, gradient: jax.Array
) -> tuple[jax.Array, Kernel, jax.Array]:
    x, kernel, values = saved

    def slope(gradient: jax.Array, values: jax.Array) -> jax.Array:
        return gradient * SLOPES[form.activation](values)

    if isinstance(kernel, list):
        tiling = winograd.Tiling.of(x, kernel, form.padding)
        slopes = tiling.output_transposed(slope, gradient, values)
        by_x = tiling.input_transposed(winograd.products(slopes, kernel, (1, 1)), x.shape[0])
        by_kernel = winograd.products(tiling.input(x), slopes, (0, 0))
        return by_x, by_kernel, slopes[winograd.ONE][winograd.ONE].sum(0)
    gradient = apart(slope)(gradient, values)
    convolution = partial(layers.convolution, stride=form.stride, padding=form.padding)
    _, pullback = jax.vjp(convolution, x, kernel)
    return *pullback(gradient), gradient.sum((0, 1, 2))


_respond.defvjp(_respond_forward, _respond_backward)


def portion(images: int, largest: int) -> int:
    """How many images to take at once.

    Args:
        images: all of them.
        largest: bytes of the largest maps of one image.
    """
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
