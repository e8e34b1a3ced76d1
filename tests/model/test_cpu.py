"""The operators that are fast on a CPU against the plain ones, values and derivatives."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest

from alexnet_jax.model import AlexNet, Conv, Network, make_mesh, operators
from alexnet_jax.model.cpu import compiler, convolution, normalization, portions, winograd
from alexnet_jax.model.cpu.convolution import Form
from alexnet_jax.model.mesh import shardings

Tree = Any


@pytest.fixture
def for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd also where the layers are too small for it to be faster."""
    monkeypatch.setattr(convolution, "CHANNELS", 0)


def values_and_gradients(
    layer: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], slopes: jax.Array
) -> tuple[jax.Array, ...]:
    """A layer's values and the gradients by its input, kernels and biases."""

    @jax.jit
    def both(arrays: tuple[jax.Array, ...], slopes: jax.Array) -> tuple[jax.Array, ...]:
        values, pullback = jax.vjp(layer, *arrays)
        return values, *pullback(slopes)

    return both(arrays, slopes)


def plain(form: Form) -> Callable[..., jax.Array]:
    """The layer of the paper: the witness."""

    def layer(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        responses = operators.convolution(x, kernel, form.stride, form.padding, form.groups)
        return operators.ACTIVATIONS[form.activation](responses + bias)

    return layer


def in_portions(form: Form, few: int) -> Callable[..., jax.Array]:
    """The layer as a CPU computes it, a few images at a time where that may be."""

    def layer(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        kernels = convolution.kernels(kernel, form)
        at_once = few if convolution.may_loop(kernels) else len(x)
        found: jax.Array = portions.in_portions(
            lambda x: convolution.respond(x, kernels, bias, form), x, at_once
        )
        return found

    return layer


def geometries() -> list[tuple[Any, ...]]:
    """The network's own (with fewer channels), the smallest stride of its own, six at random."""
    found: list[tuple[Any, ...]] = [
        # images, height, width, channels, kernels, taps, stride, padding, groups, few
        (3, 40, 40, 3, 8, 11, 4, (0, 3), 1, 2),
        (5, 27, 27, 6, 8, 5, 1, (2, 2), 2, 2),
        (4, 13, 13, 8, 6, 3, 1, (1, 1), 1, 4),
        (3, 13, 13, 8, 6, 3, 1, (1, 1), 2, 1),
        (3, 9, 10, 4, 6, 3, 2, (1, 1), 1, 2),
    ]
    rng = np.random.default_rng(0)
    for _ in range(6):
        groups, taps, stride = int(rng.integers(1, 3)), int(rng.integers(1, 7)), 1
        if rng.random() < 0.4:
            stride = int(rng.integers(2, 5))
        height, width = (int(n) for n in rng.integers(taps + stride, 20, 2))
        padding = tuple(int(n) for n in rng.integers(0, min(taps, 4), 2))
        channels, kernels = (groups * int(n) for n in rng.integers(1, 5, 2))
        images = int(rng.integers(1, 6))
        few = int(rng.integers(1, images + 1))
        shape = images, height, width, channels, kernels, taps, stride, padding, groups, few
        found.append(shape)
    return found


@pytest.mark.usefixtures("for_everything")
@pytest.mark.parametrize("geometry", geometries(), ids=str)
def test_a_layer(geometry: tuple[Any, ...]) -> None:
    """To float64's last digits; in float32 the sums of Winograd's tiles cost one digit more."""
    images, height, width, channels, kernels, taps, stride, padding, groups, few = geometry
    rng = np.random.default_rng(1)
    x = rng.normal(size=(images, height, width, channels))
    kernel = rng.normal(size=(taps, taps, channels // groups, kernels))
    bias = rng.normal(size=kernels)
    activation = ("relu", "tanh", "sigmoid", "linear")[(height + taps) % 4]
    form = Form(taps, stride, padding, groups, activation)
    with jax.enable_x64(True):
        arrays = tuple(jnp.asarray(a) for a in (x, kernel, bias))
        slopes = jnp.asarray(rng.normal(size=plain(form)(*arrays).shape))
        expected = values_and_gradients(plain(form), arrays, slopes)
        found = values_and_gradients(in_portions(form, few), arrays, slopes)
        assert max(map(fixtures.difference, found, expected)) < 1e-12
        if activation in ("linear", "sigmoid"):  # a ReLU may change its mind in the last digit
            narrow = tuple(a.astype(jnp.float32) for a in arrays)
            found = values_and_gradients(in_portions(form, few), narrow, slopes.astype(jnp.float32))
            assert all(a.dtype == jnp.float32 for a in found)
            assert max(map(fixtures.difference, found, expected)) < 3e-5


@pytest.mark.parametrize("taps", winograd.POINTS)
def test_winograd_by_its_definition(taps: int) -> None:
    """The three matrices multiply polynomials: m outputs of a correlation, in exact numbers."""
    matrices = winograd.transforms(taps)
    n = matrices.tile + taps - 1
    rng = np.random.default_rng(0)
    x, k = rng.integers(-9, 10, n), rng.integers(-9, 10, taps)
    found = matrices.output @ ((matrices.kernel @ k) * (matrices.input @ x))
    np.testing.assert_allclose(found, np.correlate(x, k, "valid"), atol=1e-9)
    assert (matrices.output[:, winograd.ONE] == 1).all()


def test_winograd_is_for_kernels_that_are_many_enough() -> None:
    """And for float32: half precision has its own units elsewhere."""
    form = Form(3, 1, (1, 1), 2, "relu")
    enough, few = jnp.zeros((3, 3, 50, 80)), jnp.zeros((3, 3, 50, 78))
    assert convolution.CHANNELS == 50 * 80 // 2
    assert convolution.may_loop(convolution.kernels(enough, form))
    assert not convolution.may_loop(convolution.kernels(few, form))
    assert not convolution.may_loop(convolution.kernels(enough.astype(jnp.bfloat16), form))


@pytest.mark.parametrize("images, portion", [(128, 8), (8, None)])
def test_the_network_of_2012_goes_through_conv1_in_portions_that_fit_a_cache(
    images: int, portion: int | None
) -> None:
    """Of 96 maps of 55 x 55 in float32, 1.16 MB an image, 8 fit; 8 images go at once."""
    network = Network()
    shapes = jax.eval_shape(AlexNet(network).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    pixels = jax.ShapeDtypeStruct((images, 224, 224, 3), jnp.float32)
    program = str(jax.make_jaxpr(AlexNet(network).apply)(shapes, pixels))
    lengths = re.findall(r"\blength=(\d+)", program)
    assert (str(images // portion) in lengths) if portion else not lengths, lengths


@pytest.mark.parametrize("constants", [{"beta": 0.75}, {"beta": 0.5}])
def test_lrn_apart(constants: dict[str, float]) -> None:
    """With its powers kept apart LRN is the same, in both directions."""
    fixed = {"size": 5, "k": 2.0, "alpha": 2e-5, "towers": 2, **constants}
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(0, 150, (2, 3, 3, 12)))
        both = []
        for norm in (operators.local_response_norm, normalization.local_response_norm):
            values, pullback = jax.vjp(partial(norm, **fixed), x)
            both.append((values, *pullback(x)))
        assert max(map(fixtures.difference, *both)) < 1e-14


@pytest.mark.parametrize("images, largest, few", [
    (128, 1_161_600, 8), (128, 260_000, 32), (1, 10**9, 1), (97, 1_161_600, 8), (20, 10**6, 10),
    (64, 1_000, 64), (15, 1_250_000, 5), (14, 1_250_000, 7), (25, 1_000_000, 9),
])  # fmt: skip
def test_portions(images: int, largest: int, few: int) -> None:
    """As many as fit, in equal portions; where none come out even, the last is filled up."""
    assert portions.portion(images, largest) == few


CONV6 = Conv(16, 3, 1, (1, 1), communicates=True, std=0.1, bias=1.0)
FIRST = Conv(8, 11, 4, (0, 3), std=0.05, after="norm pool activation")


@pytest.mark.usefixtures("for_everything")
@pytest.mark.parametrize(
    "mesh, changes",
    [
        ((1, 1), {"conv1": FIRST, "activation": "tanh"}),
        ((2, 2), {"conv6": CONV6}),
    ],
    ids=["source order", "pretrained"],
)
def test_a_whole_network(
    mesh: tuple[int, int], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits and all gradients, three images at a time, in float64: the plain forms, which an
    apply with `intermediates` takes, are the witness."""
    monkeypatch.setattr(portions, "AT_A_TIME", 3 * 23 * 23 * 8 * 8)
    network = fixtures.small_network(**changes)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, fixtures.random_params(network))
        images = jnp.asarray(fixtures.random_images(14, 96))
        slopes = jnp.asarray(np.random.default_rng(0).normal(size=(14, network.classes)))

        def score(model: AlexNet, params: Tree, plain: bool) -> tuple[jax.Array, jax.Array]:
            found: Any = model.apply({"params": params}, images, intermediates=plain)
            logits = found[0] if plain else found
            return jnp.sum(slopes * logits), logits

        def both(model: AlexNet, params: Tree, plain: bool) -> Tree:
            gradient = jax.value_and_grad(lambda params: score(model, params, plain), has_aux=True)
            return jax.jit(gradient)(params)

        expected = both(AlexNet(network), params, True)
        there = make_mesh(*mesh)
        placed = jax.device_put(params, shardings(params, there))
        found = both(AlexNet(network, there), placed, False)
    errors = jax.tree.map(lambda a, b: fixtures.difference(np.asarray(a), b), found, expected)
    assert max(jax.tree.leaves(errors)) < 1e-11


def test_xla_knows_the_option() -> None:
    """What is asked of the compiler is understood, and what it does not know is left out."""
    assert compiler.compiler_options(training=False).keys() == {compiler.LIBRARIES}
    assert not compiler._known("xla_cpu_no_such_option")


def test_bfloat16() -> None:
    """Activations of two bytes: near the float32 logits, which come out as float32."""
    network = fixtures.small_network()
    params = jax.tree.map(jnp.float32, fixtures.random_params(network))
    images = jnp.float32(fixtures.random_images(4, 96))
    wide, narrow = (
        jax.jit(AlexNet(network, dtype=dtype).apply)({"params": params}, images)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert isinstance(narrow, jax.Array) and narrow.dtype == jnp.float32
    assert 1e-6 < fixtures.difference(narrow, wide) < 0.05
