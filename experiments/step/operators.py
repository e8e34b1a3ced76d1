"""The network's operators one by one: this package's beside `plain`'s, forward and backward.

A pair is added to `operators`; everything else follows from it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alexnet_jax.model import Network, make_mesh
from alexnet_jax.model import operators as network_operators
from alexnet_jax.model.cpu import convolution as cpu_convolution
from alexnet_jax.model.cpu.portions import in_portions, portion
from alexnet_jax.model.platforms import platform_of
from alexnet_jax.model.tower import Tower
from alexnet_jax.training.update_rule import update_rule
from experiments.step import given, plain, ways_jax
from experiments.step.contender import Arrays, Contender, Task, Way
from experiments.step.plain import Padding
from experiments.step.ways_jax import Compiled
from experiments.step.work import conv_flops, convolutions, denses

Tree = Any

start = ways_jax.start
VERSIONS = {"fast": "this package", "plain": "plain lax"}
SAMPLE = 1_000_000  # numbers of an outcome that are compared


class Operator(NamedTuple):
    """A function in two versions.

    Attributes:
        name: in the table.
        fast: this package's version.
        plain: the other one.
        shapes: of the arguments of both, without the batch's: an image's part and the weights.
        weights: how many of the arguments, from the last, are weights.
        flops: of the products in one forward pass, for an image.
        inputs: the gradient by the first argument is wanted too.
    """

    name: str
    fast: Callable[..., jax.Array]
    plain: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]
    weights: int = 0
    flops: float = 0.0
    inputs: bool = True


def operators(network: Network) -> Iterator[Operator]:
    """All but the update, in the order of the network."""
    for conv in convolutions(network):
        layer = conv.layer
        side, channels = conv.maps
        geometry = {"stride": layer.stride, "padding": layer.padding, "groups": conv.groups}
        yield Operator(
            conv.name,
            partial(convolution, **geometry),
            partial(plain.convolution, **geometry),
            ((side, side, channels), conv.kernel),
            weights=1,
            flops=conv_flops(conv),
            inputs=conv.name != "conv1",
        )
        for stage, side in conv.stages:
            shapes = ((side, side, layer.width),)
            if stage == "norm" and network.norm == "lrn":
                constants = {
                    "size": network.lrn_size,
                    "k": network.lrn_k,
                    "alpha": network.lrn_alpha,
                    "beta": network.lrn_beta,
                    "towers": network.towers,
                }
                yield Operator(
                    f"{conv.name} LRN",
                    partial(local_response_norm, **constants),
                    partial(plain.local_response_norm, **constants),
                    shapes,
                )
            if stage == "pool":
                squares = {
                    "window": network.pool_window,
                    "stride": network.pool_stride,
                    "padding": layer.pool_padding,
                }
                yield Operator(
                    f"{conv.name} pooling",
                    partial(own_tower().max_pool, **squares),
                    partial(plain.max_pool, **squares),
                    shapes,
                )
    for name, (inputs, units) in denses(network).items():
        shapes = ((inputs,), (inputs, units), (units,))
        products = 2.0 * inputs * units
        yield Operator(name, plain.dense, plain.dense, shapes, weights=2, flops=products)


def own_tower() -> type[Tower]:
    """What the devices' platform computes a tower with."""
    return platform_of(make_mesh(1, 1)).tower


def convolution(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> jax.Array:
    """As a layer of the network takes its share of the images, with no bias and no activation."""
    plainly = partial(network_operators.convolution, stride=stride, padding=padding, groups=groups)
    few = at_once(jax.eval_shape(plainly, x, kernel))
    if few >= len(x):
        return plainly(x, kernel)
    bias = jnp.zeros(kernel.shape[-1], x.dtype)
    form = cpu_convolution.Form(kernel.shape[0], stride, padding, groups, "linear")
    kernels = cpu_convolution.kernels(kernel, form)

    def respond(x: jax.Array) -> jax.Array:
        return cpu_convolution.respond(x, kernels, bias, form)

    found: jax.Array
    found = in_portions(respond, x, few if cpu_convolution.may_loop(kernels) else len(x))
    return found


def local_response_norm(x: jax.Array, **constants: Any) -> jax.Array:
    """As the network has it on this machine."""
    in_cache = jax.default_backend() == "cpu" and at_once(x) >= len(x)
    form = network_operators.local_response_norm if in_cache else own_tower().lrn
    return form(x, **constants)


def at_once(maps: Any) -> int:
    """How many images the network takes at a time on this machine, as `cpu.tower` chooses."""
    images = maps.shape[0]
    if jax.default_backend() != "cpu":
        return int(images)
    return portion(images, maps.size * maps.dtype.itemsize // images)


def ways(task: Task) -> list[Way]:
    """Two of each operator in each direction; one where both versions are the same."""
    found = []

    def add(name: str, direction: str, versions: list[str]) -> None:
        for version in versions:
            key = f"{name} {direction} {version}".replace(" ", "_")
            agrees = f"{name}_{direction}".replace(" ", "_")
            found.append(Way(key, f"{name}, {direction}", VERSIONS[version], agrees))

    for operator in operators(task.network):
        both = ["fast", "plain"] if operator.fast is not operator.plain else ["fast"]
        add(operator.name, "forward", both)
        add(operator.name, "backward", both)
    add("update", "step", ["fast", "plain"])
    return found + ways_jax.ways(task)


def make(key: str, task: Task) -> Contender:
    """Gets one of the `ways` ready."""
    if key.startswith("jax_"):
        return ways_jax.make(key, task)
    words, _, version = key.rpartition("_")
    name, _, direction = words.rpartition("_")
    if name == "update":
        return Update(task, version)
    (operator,) = (o for o in operators(task.network) if o.name.replace(" ", "_") == name)
    function = operator.fast if version == "fast" else operator.plain
    arguments = arguments_of(operator, task)
    size = sum(array.nbytes for array in arguments)
    fixed = 0 if operator.inputs else 1

    def forward(*arguments: jax.Array) -> Any:
        return jax.vjp(partial(function, *arguments[:fixed]), *arguments[fixed:])

    options = {}
    if version == "fast":
        options = platform_of(make_mesh(1, 1)).compiler_options(training=True)
    if direction == "forward":
        out = jax.eval_shape(function, *arguments)
        return Compiled(
            jax.jit(function, compiler_options=options),
            arguments,
            batch=task.batch,
            flops=operator.flops,
            bytes=(size + out.size * out.dtype.itemsize) / task.batch,
            result=lambda out: _sample([out]),
        )
    out, pullback = jax.jit(forward)(*arguments)
    slopes = out[::-1]  # any numbers will do
    gradients = sum(array.nbytes for array in arguments[fixed:])
    return Compiled(
        jax.jit(lambda pullback, slopes: pullback(slopes), compiler_options=options),
        (pullback, slopes),
        batch=task.batch,
        flops=operator.flops * (2 - fixed),
        bytes=(size + slopes.nbytes + gradients) / task.batch,
        result=_sample,
    )


def arguments_of(operator: Operator, task: Task) -> tuple[jax.Array, ...]:
    """Random maps on the scale of the network's, and random weights."""
    keys = jax.random.split(jax.random.key(given.SEED), len(operator.shapes))
    arguments = []
    for number, (key, shape) in enumerate(zip(keys, operator.shapes, strict=True)):
        weight = number >= len(operator.shapes) - operator.weights
        whole, scale = (shape, 0.05) if weight else ((task.batch, *shape), 30.0)
        arguments.append(scale * jax.random.normal(key, whole, task.dtype))
    return tuple(arguments)


class Update(Compiled):
    """One update of all parameters."""

    def __init__(self, task: Task, version: str) -> None:
        rules = {
            "fast": partial(update_rule, steps=ways_jax.STEPS),
            "plain": plain.update_rule,
        }
        rule = optax.with_extra_args_support(rules[version](task.config.optim))
        params = jax.tree.map(jnp.asarray, given.parameters(task.network))
        gradients = jax.tree.map(jnp.array, params)  # any numbers will do
        size = sum(array.nbytes for array in jax.tree.leaves(params))

        def update(params: Tree, opt_state: Tree, gradients: Tree) -> tuple[Tree, Tree]:
            updates, opt_state = rule.update(gradients, opt_state, params, plateau_factor=1.0)
            return optax.apply_updates(params, updates), opt_state

        super().__init__(
            jax.jit(update, donate_argnums=(0, 1)),
            (params, rule.init(params), gradients),
            batch=task.batch,
            bytes=5 * size / task.batch,  # parameters, velocities, gradients; two of them change
            result=lambda out: _sample(jax.tree.leaves(out[0])),
        )

    def step(self) -> None:
        """The outcome takes the place of the arguments."""
        super().step()
        self.arguments = (*self.out, self.arguments[2])


def _sample(arrays: Any) -> Arrays:
    """Some numbers of every array."""
    flat = {f"{number}": np.asarray(array).ravel() for number, array in enumerate(arrays)}
    return {name: array[:: max(1, array.size // SAMPLE)] for name, array in flat.items()}
