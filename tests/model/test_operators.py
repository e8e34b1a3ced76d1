"""Each operator against the formula, written out in NumPy loops or taken from another library."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
from jax import lax

from alexnet_jax.model import gpu, operators, tpu
from alexnet_jax.model.cpu import PLATFORM as CPU
from alexnet_jax.model.plain import Plain
from alexnet_jax.model.tower import Tower

FORMS = {"plain": Plain(), "cpu": CPU, "gpu": gpu.PLATFORM, "tpu": tpu.PLATFORM}
CONSTANTS = {"size": 5, "k": 2.0, "alpha": 2e-5, "beta": 0.75}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> type[Tower]:
    """How a platform computes LRN and pooling."""
    return FORMS[request.param].tower


def lrn_loop(x: np.ndarray, towers: int, size: int, k: float, alpha: float, beta: float) -> Any:
    """Section 3.3, one response at a time; x is (N, H, W, C)."""
    out = np.empty_like(x)
    per_tower = x.shape[-1] // towers
    for place in np.ndindex(x.shape[:-1]):
        for channel in range(x.shape[-1]):
            first = channel // per_tower * per_tower  # of the tower
            low = max(first, channel - size // 2)
            high = min(first + per_tower - 1, channel + size // 2)
            total = 0.0
            for neighbour in range(low, high + 1):
                total += x[place][neighbour] ** 2
            out[(*place, channel)] = x[(*place, channel)] / (k + alpha * total) ** beta
    return out


def responses(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers so large that LRN divides by two or three."""
    return np.random.default_rng(seed).normal(0, 150, shape)


@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize("constants", [CONSTANTS, {"size": 3, "k": 1, "alpha": 1e-4, "beta": 0.5}])
def test_lrn(form: type[Tower], towers: int, constants: dict[str, Any]) -> None:
    """In float64, for the paper's power and for one that takes the general way."""
    x = responses(2, 2, 3, 12)
    with jax.enable_x64(True):
        found = form.lrn(jnp.asarray(x), towers=towers, **constants)
    assert fixtures.difference(found, lrn_loop(x, towers, **constants)) < 1e-12


def test_lrn_stops_at_the_tower_border(form: type[Tower]) -> None:
    """Six channels at 1000, two towers: a border channel sees three of its own, not five."""
    x = jnp.full((1, 1, 1, 6), 1000.0)
    found = form.lrn(x, towers=2, **CONSTANTS)
    assert fixtures.difference(found[0, 0, 0], np.full(6, 1000 / (2 + 2e-5 * 3e6) ** 0.75)) < 1e-6
    whole = form.lrn(x, towers=1, **CONSTANTS)[0, 0, 0]
    seen = np.array([3, 4, 5, 5, 4, 3])
    assert fixtures.difference(whole, 1000 / (2 + 2e-5 * 1e6 * seen) ** 0.75) < 1e-6


@pytest.mark.parametrize("towers", [1, 2])
def test_lrn_derivative(form: type[Tower], towers: int) -> None:
    """Its hand-written backward rule against central differences of the loop, in float64."""
    x, weights, step = responses(1, 1, 2, 12), responses(1, 1, 2, 12, seed=1), 1e-3
    expected = np.empty_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        slope = lrn_loop(up, towers, **CONSTANTS) - lrn_loop(down, towers, **CONSTANTS)
        expected[place] = np.sum(weights * slope) / (2 * step)
    with jax.enable_x64(True):
        found = jax.grad(lambda x: jnp.sum(weights * form.lrn(x, towers=towers, **CONSTANTS)))(
            jnp.asarray(x)
        )
    assert fixtures.difference(found, expected) < 1e-8


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_lrn_of_narrow_types(form: type[Tower], dtype: Any, error: float, seed: int) -> None:
    """Random shapes, values and derivatives: as exact as the type of the maps is."""
    rng = np.random.default_rng(seed)
    towers, channels = (int(n) for n in rng.integers((1, 3), (3, 20)))
    shape = (*(int(n) for n in rng.integers(1, 5, 3)), towers * channels)
    x, slopes = (jnp.asarray(rng.normal(0, 150, shape), dtype) for _ in range(2))
    values, pullback = jax.vjp(lambda x: form.lrn(x, towers=towers, **CONSTANTS), x)
    (by_x,) = pullback(slopes)
    assert (values.dtype, by_x.dtype) == (dtype, dtype)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.float64(x))
        norm = Plain.tower.lrn
        expected, pullback = jax.vjp(lambda x: norm(x, towers=towers, **CONSTANTS), wide)
        (expected_by_x,) = pullback(jnp.asarray(np.float64(slopes)))
    assert fixtures.difference(np.float64(values), expected) < error
    assert fixtures.difference(np.float64(by_x), expected_by_x) < error


def test_lrn_of_a_narrow_type_does_not_overflow(form: type[Tower]) -> None:
    """Squares are taken in float32: 1000 squared is no float16."""
    x = jnp.full((1, 1, 1, 8), 1000.0, jnp.float16)
    found = form.lrn(x, **CONSTANTS)
    assert found.dtype == jnp.float16
    expected = lrn_loop(np.full((1, 1, 1, 8), 1000.0), 1, **CONSTANTS)
    assert fixtures.difference(found, expected) < 1e-3


def pool_loop(x: np.ndarray, window: int, stride: int, padding: tuple[int, int]) -> np.ndarray:
    """The maximum of the pixels under each window that are there."""
    count, height, width, channels = x.shape
    before, after = padding

    def positions(length: int) -> range:
        return range(-before, length + after - window + 1, stride)

    out = np.empty((count, len(positions(height)), len(positions(width)), channels))
    for i, top in enumerate(positions(height)):
        for j, left in enumerate(positions(width)):
            rows = slice(max(top, 0), top + window)
            columns = slice(max(left, 0), left + window)
            out[:, i, j] = x[:, rows, columns].max(axis=(1, 2))
    return out


@pytest.mark.parametrize(
    ("side", "window", "stride", "padding", "pooled"),
    [
        (13, 3, 2, (0, 0), 6),  # pool5
        (8, 3, 2, (0, 0), 3),  # a row and a column left over
        (55, 2, 2, (0, 1), 28),  # #147: cuda-convnet rounds up
        (7, 3, 2, (1, 1), 4),
    ],
)
def test_max_pool(
    form: type[Tower], side: int, window: int, stride: int, padding: tuple[int, int], pooled: int
) -> None:
    """Values, all negative: padding is nothing, not a zero."""
    x = -1 - np.abs(responses(2, side, side + 2, 3))
    found = form.max_pool(jnp.asarray(x, jnp.float32), window, stride, padding)
    expected = pool_loop(x.astype(np.float32), window, stride, padding)
    assert found.shape[1] == pooled
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("side", [8, 13])
@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 0), (2, 2, 0), (3, 2, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_gradient(
    form: type[Tower],
    reference: ModuleType,
    side: int,
    window: int,
    stride: int,
    padding: int,
    ties: bool,
) -> None:
    """Against PyTorch, where a tie goes to the first; on a CPU it goes in halves."""
    if ties and form.max_pool is operators.max_pool:
        pytest.skip("another rule for ties")
    x = responses(2, side, side, 3)
    x = np.round(x / 100) if ties else x
    assert (len(np.unique(x)) == x.size) != ties
    torch = reference.torch
    leaf = torch.tensor(x, requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(leaf.permute(0, 3, 1, 2), window, stride, padding)
    pooled = pooled.permute(0, 2, 3, 1)
    weights = responses(*pooled.shape, seed=1)
    (pooled * torch.tensor(weights)).sum().backward()
    with jax.enable_x64(True):
        found = jax.grad(
            lambda x: jnp.sum(weights * form.max_pool(x, window, stride, (padding, padding)))
        )(jnp.asarray(x))
    assert fixtures.difference(found, leaf.grad) < 1e-12


def test_max_pool_refuses_maps_that_are_too_small(form: type[Tower]) -> None:
    with pytest.raises(ValueError, match=r"window of 3.*maps of 2"):
        form.max_pool(jnp.zeros((1, 2, 2, 1)), 3, 2)


def test_within_map_norm() -> None:
    """layers-145.cfg:107-117, one pixel at a time."""
    x = responses(2, 6, 7, 3)
    expected = np.empty_like(x)
    for n, row, column, channel in np.ndindex(x.shape):
        window = x[n, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3, channel]
        scale = (1 + 0.001 / 25 * np.sum(window**2)) ** 0.75
        expected[n, row, column, channel] = x[n, row, column, channel] / scale
    with jax.enable_x64(True):
        found = operators.within_map_norm(jnp.asarray(x))
    assert fixtures.difference(found, expected) < 1e-12


def test_dropout_of_2012() -> None:
    """In training what stays keeps its value; at test everything is multiplied by what stays."""
    x = jnp.array([[1.0, -2.0, 3.0, 4.0]])
    mask = jnp.array([[True, False, True, False]])
    np.testing.assert_array_equal(operators.dropout(x, mask, 0.5), [[1, 0, 3, 0]])
    np.testing.assert_array_equal(operators.dropout(x, None, 0.5), [[0.5, -1, 1.5, 2]])
    np.testing.assert_array_equal(operators.dropout(x, None, 0.25), [[0.75, -1.5, 2.25, 3]])
    np.testing.assert_array_equal(operators.dropout(x, None, 0.0), x)


@pytest.mark.parametrize(("stride", "padding"), [(1, (2, 2)), (4, (0, 3))])
def test_two_groups(stride: int, padding: tuple[int, int]) -> None:
    """Against XLA's own grouped convolution, and against each tower alone."""
    x, kernel = responses(2, 13, 13, 8), responses(5, 5, 4, 6, seed=1)
    with jax.enable_x64(True):
        found = operators.convolution(
            jnp.asarray(x), jnp.asarray(kernel), stride, padding, groups=2
        )
        expected = lax.conv_general_dilated(
            jnp.asarray(x),
            jnp.asarray(kernel),
            (stride, stride),
            (padding, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )
        second = operators.convolution(
            jnp.asarray(x[..., 4:]), jnp.asarray(kernel[..., 3:]), stride, padding
        )
    assert fixtures.difference(found, expected) < 1e-12
    assert fixtures.difference(found[..., 3:], second) < 1e-12


def test_a_convolution_is_what_section_3_says() -> None:
    """One response by hand: a filter at the lower right corner reads zeros beyond the image."""
    image, kernel = responses(1, 8, 8, 3), responses(11, 11, 3, 2, seed=1)
    with jax.enable_x64(True):
        found = operators.convolution(jnp.asarray(image), jnp.asarray(kernel), 4, (0, 3))
    assert found.shape == (1, 1, 1, 2)
    expected = np.einsum("hwc,hwco->o", image[0], kernel[:8, :8])
    assert fixtures.difference(found[0, 0, 0], expected) < 1e-12
