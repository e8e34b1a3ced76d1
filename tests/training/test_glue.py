"""What joins configuration, stream and step: the presets, from their names to parameters.

Each part has its own tests. Here the parts are put together as `train` does it, from a preset of
which only the network is replaced, and what comes out is compared with `glue_reference`, in float64
where the program allows it. What the presets mean stands here once more, as numbers.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import data_fixtures
import glue_reference as expected
import grain
import jax
import network_fixtures as fixtures
import numpy as np
import pytest
from glue_reference import COUNT, SIZE, Origin, Params, Rates, each
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from alexnet_jax.configs.base import get_config
from alexnet_jax.data.cache.store import Cache
from alexnet_jax.model import AlexNet, Conv, make_mesh
from alexnet_jax.model.mesh import IMAGES, shardings
from alexnet_jax.settings import network as network_of
from alexnet_jax.settings.scaling import shrink
from alexnet_jax.training.loop import input_stream
from alexnet_jax.training.step import State, dropout_key, initial_state, make_train_step
from alexnet_jax.training.update_rule import update_rule

STEPS, BATCH = 100, 8  # of a run, so that a step is one per cent of it
PRESETS = ("reconciled", "paper", "source")
EXACT = 1e-8  # in float64
EIGENVALUES = np.array([19.721, 37.094, 121.780]) ** 2


class Reading(NamedTuple):
    """What a preset says of the input (paper sections 2 and 4.1).

    Attributes:
        scales: by which lighting multiplies its three Gaussians.
        lit: the step at which lighting ends.
        divisor: of the image until then.
        positions: of a crop along a side of 20 pixels.
        aligned: whether the mean is subtracted where the crop was.
    """

    scales: np.ndarray
    lit: int
    divisor: float
    positions: int
    aligned: bool


ROOTS, PRINTED = np.sqrt(EIGENVALUES), EIGENVALUES / 255
READINGS = {
    "reconciled": Reading(ROOTS, 75, 1.0, 5, False),
    "paper": Reading(PRINTED, 100, 1.0, 4, True),
    "source": Reading(ROOTS, 74, 1.1, 5, False),
}


def rates(preset: str, step: int) -> Rates:
    """What a preset says of the rates, before any plateau."""
    weights = 0.01 / 10 ** sum(step >= drop for drop in (27, 56, 87))
    if preset == "reconciled":
        return Rates(weights, 2 * weights, weights)
    if preset == "paper":
        return Rates(0.01, 0.01, 0.01)
    return Rates(weights, 0.02, weights if step < 74 else 1e-5 if step < 79 else 0.0)


def configuration(preset: str, *assignments: str, **changes: Any) -> ConfigDict:
    """A preset with the small network, `changes` to it, and `assignments` as after `--config.`"""
    sizes = (f"batch_size={BATCH}", f"data.size={SIZE}", "seed=5")
    network = expected.network(**changes)
    return fixtures.small_config(*sizes, *assignments, network=network, preset=preset)


def mesh() -> Mesh:
    """A tower on each of two devices."""
    return make_mesh(1, 2)


@contextlib.contextmanager
def batches(config: ConfigDict, cache: Cache) -> Iterator[Iterator[dict[str, jax.Array]]]:
    """The training batches of a run, as `train` has them."""
    stream = input_stream(config, cache, network_of(config), mesh(), STEPS)
    with contextlib.closing(iter(stream)) as iterator:
        yield iterator


@functools.cache
def recorded(preset: str, *assignments: str, count: int = STEPS) -> list[dict[str, np.ndarray]]:
    """The first batches of a run, on the host."""
    with batches(configuration(preset, *assignments), expected.cache()) as iterator:
        return [jax.device_get(next(iterator)) for _ in range(count)]


@functools.cache
def origins(preset: str, *assignments: str) -> list[list[Origin]]:
    """Where the crops of all batches come from."""
    found = recorded(preset, *assignments)
    return [[expected.origin(crop) for crop in batch["image"]] for batch in found]


# --- the input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_crops(preset: str) -> None:
    """Every position that the preset allows and no other, half of them mirrored; the labels are
    those of the images; every image comes once an epoch."""
    places = [place for batch in origins(preset) for place in batch]
    positions = set(range(READINGS[preset].positions))
    assert {place.top for place in places} == {place.left for place in places} == positions
    assert 0.45 < np.mean([place.mirrored for place in places]) < 0.55
    labels = np.concatenate([batch["label"] for batch in recorded(preset)])
    np.testing.assert_array_equal(labels, [place.image % 7 for place in places])
    assert sorted(place.image for place in places[:COUNT]) == list(range(COUNT))


@pytest.mark.parametrize("preset", PRESETS)
def test_offsets_come_along_where_the_mean_needs_them(preset: str) -> None:
    """And say where the crops are."""
    for batch, places in zip(recorded(preset), origins(preset), strict=True):
        assert ("offset" in batch) == READINGS[preset].aligned
        if "offset" in batch:
            np.testing.assert_array_equal(batch["offset"], [place[1:4] for place in places])


def test_flips_may_be_switched_off() -> None:
    """The same crops, and none is mirrored."""
    upright = origins("source", "data.flip=false")
    for places, as_drawn in zip(upright, origins("source"), strict=True):
        assert places == [place._replace(mirrored=0) for place in as_drawn]


def test_crops_may_be_switched_off() -> None:
    """The same images, flips and colours, and every crop from the centre."""
    central = origins("source", "data.crop=false")
    for places, as_drawn in zip(central, origins("source"), strict=True):
        top = left = (SIZE - configuration("source").model.input_size) // 2
        assert places == [place._replace(top=top, left=left) for place in as_drawn]


def test_the_seed_and_the_split_are_those_of_the_configuration() -> None:
    """Another seed cuts other crops; another split has other images."""
    other_seed = recorded("source", "seed=6", count=1)[0]
    assert not np.array_equal(other_seed["label"], recorded("source")[0]["label"])
    black = np.zeros((BATCH, SIZE, SIZE, 3), np.uint8)
    images = {"train": expected.cache().images["train"], "black": black}
    labels = {name: np.zeros(len(of_split), np.int32) for name, of_split in images.items()}
    cache = dataclasses.replace(expected.cache(), images=images, labels=labels)
    config = configuration("source", "data.train=black", "data.lighting=none")
    with batches(config, cache) as iterator:
        assert not np.asarray(next(iterator)["image"]).any()


@pytest.mark.parametrize("preset", PRESETS)
def test_lighting(preset: str) -> None:
    """A tenth of the preset's scale along each component of the colours, until the step at which it
    ends, and not a grey level after that."""
    reading = READINGS[preset]
    shifts = np.array([[place.shift for place in batch] for batch in origins(preset)])
    assert shifts[: reading.lit].any(axis=(1, 2)).all()
    assert not shifts[reading.lit :].any()
    along = shifts[: reading.lit].reshape(-1, 3) @ expected.cache().eigenvectors
    # What rounding to whole grey levels adds has a variance of 1/12.
    deviations = np.sqrt(0.01 * reading.scales**2 + 1 / 12)
    np.testing.assert_allclose(along.std(axis=0), deviations, rtol=0.1)  # 600 draws: 3%


@pytest.mark.parametrize("preset", ["paper", "source"])
def test_lighting_on_the_device(preset: str) -> None:
    """The crops are as they were, and the colours that the host would have added come along."""
    device, host = recorded(preset, "data.lighting_on=device"), origins(preset)
    seen = origins(preset, "data.lighting_on=device")
    for batch, places, lit in zip(device, seen, host, strict=True):
        assert batch["shift"].dtype == np.float32
        np.testing.assert_array_equal(np.rint(batch["shift"]), [place.shift for place in lit])
        assert places == [place._replace(shift=(0, 0, 0)) for place in lit]
    assert all("shift" not in batch for batch in recorded(preset))


@pytest.mark.parametrize("where", ["host", "device"])
def test_no_lighting(where: str) -> None:
    """The same crops, and nothing is added to them, here or there."""
    off = ("data.lighting=none", f"data.lighting_on={where}")
    for places, lit in zip(origins("source", *off), origins("source"), strict=True):
        assert places == [place._replace(shift=(0, 0, 0)) for place in lit]
    assert not any(batch["shift"].any() for batch in recorded("source", *off) if "shift" in batch)


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as were asked for prepare the same batches."""
    asked, options = [], grain.ReadOptions
    monkeypatch.setattr(
        grain, "ReadOptions", lambda **given: asked.append(given) or options(**given)
    )
    fixed, three = recorded("paper"), recorded("paper", "data.threads=3")
    assert [given["num_threads"] for given in asked][-1] == 3
    for one, other in zip(fixed, three, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


# --- the step -------------------------------------------------------------------------------------


class Program:
    """A run's network and its compiled step, which computes in float64 under `enable_x64`."""

    def __init__(self, config: ConfigDict, mean_image: np.ndarray) -> None:
        self.config, self.mean_image = config, mean_image.astype(np.float64)
        self.model = AlexNet(network_of(config), mesh())
        optimizer = update_rule(config.optim, STEPS)
        shapes = jax.eval_shape(lambda: initial_state(self.model, optimizer, config.seed))
        self.initial = jax.tree.map(self._zeros, shapes).replace(
            seed=np.uint32(config.seed), params=fixtures.random_params(self.model.network)
        )
        with jax.enable_x64(True):
            self._step = make_train_step(self.model, optimizer, self.mean_image, config, STEPS)

    @staticmethod
    def _zeros(x: jax.ShapeDtypeStruct) -> np.ndarray:
        return np.zeros(x.shape, np.float64 if x.dtype.kind == "f" else x.dtype)

    def start(self, factor: float = 1.0) -> State:
        """A state with weights and without momentum, in which the plateau rule has lowered the rate
        by `factor`."""
        plateau = self.initial.plateau._replace(factor=np.float64(factor))
        state = self.initial.replace(plateau=plateau)
        return jax.device_put(state, shardings(state, self.model.mesh))

    def step(self, state: State, number: int, batch: dict[str, np.ndarray]) -> State:
        """The state after step `number`, which need not be the one that comes next."""

        def jump(x: jax.Array) -> jax.Array:
            return x if x.dtype.kind == "f" else jax.device_put(np.int32(number), x.sharding)

        opt_state = jax.tree.map(jump, state.opt_state)
        state = state.replace(step=jump(state.step), opt_state=opt_state)
        if "offset" in batch:  # beside it are Python's integers, which are of 64 bits here
            batch = batch | {"offset": batch["offset"].astype(np.int64)}
        return self._step(state, jax.device_put(batch, NamedSharding(self.model.mesh, IMAGES)))

    def masks(self, number: int) -> dict[str, np.ndarray]:
        """The units that stay in a step."""
        key = dropout_key(self.config.seed, number)
        return jax.device_get(self.model.dropout_masks(key, BATCH))


@functools.cache
def program(preset: str, *assignments: str) -> Program:
    """One for all tests, so that it is compiled once."""
    return Program(configuration(preset, *assignments), expected.cache().mean_image)


def compare(
    run: Program,
    batches: Mapping[int, dict[str, np.ndarray]],
    factor: float = 1.0,
    witness: Callable[..., tuple[float, Params]] = expected.loss_and_gradients,
) -> list[Params]:
    """Goes steps of a run beside the reference, and asserts that every loss and every update is the
    same; returns the updates.

    Args:
        run: of a preset.
        batches: by the numbers of the steps.
        factor: by which the plateau rule has lowered the rate.
        witness: loss and gradients of parameters, images, labels and masks.
    """
    preset = run.config.preset
    reading, updates = READINGS[preset], []
    with jax.enable_x64(True):
        state = run.start(factor)
        params: Params = jax.device_get(state.params)
        velocity, total = each(np.zeros_like, params), 0.0
        for number, batch in batches.items():
            divisor = reading.divisor if number < reading.lit else 1.0
            images = expected.network_input(
                batch, run.mean_image, aligned=reading.aligned, divisor=divisor
            )
            loss, gradients = witness(params, images, batch["label"], run.masks(number))
            scaled = Rates(*(factor * rate for rate in rates(preset, number)))
            paces = run.config.optim.rates
            after, velocity = expected.update(params, velocity, gradients, scaled, paces)
            updates.append(each(np.subtract, after, params))

            before = jax.device_get(state.params)
            state = run.step(state, number, batch)
            total += loss * BATCH
            assert abs(float(state.running["loss"]) - total) < EXACT * total
            found = each(np.subtract, jax.device_get(state.params), before)
            assert fixtures.difference(found, updates[-1]) < EXACT, f"step {number}"
            params = after
    return updates


def smallest(updates: Params) -> float:
    """The largest value of the tensor where that is smallest."""
    return min(float(np.abs(update).max()) for pair in updates.values() for update in pair.values())


def some(numbers: tuple[int, ...], preset: str, *assignments: str) -> dict[int, Any]:
    """Batches of the steps with these numbers."""
    return {number: recorded(preset, *assignments)[number] for number in numbers}


@pytest.mark.parametrize("at", [1, 26, 73, 74, 78, 86])
@pytest.mark.parametrize("preset", PRESETS)
def test_steps(preset: str, at: int) -> None:
    """The first step of a run and then two others: before and after a drop of the rate, the end of
    lighting, and where conv1 slows down and freezes."""
    first, *_ = compare(program(preset), some((0, at, at + 1), preset))
    assert smallest(first) > 1e-6


@pytest.mark.parametrize("conv1", [0, 0.1])
def test_steps_of_layers_at_a_pace_of_their_own(conv1: float) -> None:
    """Frozen or slow below, fast above: from the configuration to the weights, biases and all."""
    paces = ("source", f"optim.rates.conv1={conv1}", "optim.rates.fc8=10")
    first, *_ = compare(program(*paces), some((0, 26, 27), "source"))
    assert (np.abs(first["conv1"]["kernel"]).max() > 0) == (conv1 > 0)


def test_lighting_on_the_device_reaches_the_network() -> None:
    """And what the host sends along there is divided too."""
    on_device = ("source", "data.lighting_on=device")
    compare(program(*on_device), some((0, 73, 74), *on_device))


def test_without_lighting_nothing_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """The divisor is "of the image while lighting is on"."""
    monkeypatch.setitem(READINGS, "source", READINGS["source"]._replace(divisor=1.0))
    off = ("source", "data.lighting=none")
    compare(program(*off), some((0, 1), *off))


def test_the_plateau_rule_lowers_the_update() -> None:
    """A tenth of the rate is a tenth of the first update."""
    run, batches = program("paper"), some((0, 1, 2), "paper")
    before, *_ = compare(run, batches)
    after, *_ = compare(run, batches, 0.1)
    assert fixtures.difference(after, each(lambda update: update / 10, before)) < EXACT


def test_dropout_depends_on_the_seed_and_on_the_step() -> None:
    """The masks that `test_steps` has seen at work are others in every step and in every run."""
    draw = program("source").model.dropout_masks
    keys = [dropout_key(seed, step) for seed in (5, 6) for step in range(4)]
    masks = [np.asarray(draw(key, BATCH)["fc6"]) for key in keys]
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    assert 0.4 < np.mean(masks) < 0.6


def test_running_averages_of_batch_norm() -> None:
    """Nine tenths of what they were and a tenth of the batch's own mean and variance."""
    conv1 = Conv(4, expected.KERNEL, expected.STRIDE, std=0.02, after="activation norm")
    config = configuration("reconciled", norm="batch_norm", conv1=conv1)
    run = Program(config, expected.cache().mean_image)
    with jax.enable_x64(True):
        state = run.start()
        averages = jax.device_get(state.batch_stats["conv1"])
        for number, batch in some((0, 1), "reconciled").items():
            images = expected.network_input(batch, run.mean_image, aligned=False, divisor=1)
            _, maps = expected.responses(jax.device_get(state.params), images)
            maps = np.maximum(maps, 0).reshape(-1, 4)
            now = {"mean": maps.mean(0), "variance": maps.var(0)}
            averages = {name: 0.9 * averages[name] + 0.1 * now[name] for name in averages}
            state = run.step(state, number, batch)
            assert fixtures.difference(dict(state.batch_stats["conv1"]), averages) < EXACT


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
def test_a_step_in_bfloat16(shape: tuple[int, int]) -> None:
    """On two towers, and on two halves of a batch: every update is that of float64 to two digits,
    and not to four as in float32; the parameters stay float32."""
    run, before = program("reconciled"), program("reconciled").initial.params
    mean_image, optimizer = np.float32(run.mean_image), update_rule(run.config.optim, STEPS)

    def nearest_to_zero(batch: dict[str, np.ndarray]) -> float:  # rounding may open or shut a ReLU
        return float(np.abs(expected.responses(before, seen(batch))[1]).min())

    def seen(batch: dict[str, np.ndarray]) -> np.ndarray:
        return expected.network_input(batch, mean_image, aligned=False, divisor=1)

    batch = max(recorded("reconciled"), key=nearest_to_zero)
    _, gradients = expected.loss_and_gradients(before, seen(batch), batch["label"], run.masks(0))
    still = each(np.zeros_like, before)
    _, wanted = expected.update(before, still, gradients, rates("reconciled", 0))

    model = AlexNet(run.model.network, make_mesh(*shape), jax.numpy.bfloat16)
    step = make_train_step(model, optimizer, mean_image, run.config, STEPS)
    state = jax.device_get(run.start())  # which is of float32, but under `enable_x64`
    state = jax.device_put(state, shardings(state, model.mesh))
    after = step(state, jax.device_put(batch, NamedSharding(model.mesh, IMAGES))).params
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after)} == {"float32"}
    moved = each(np.subtract, jax.device_get(after), before)
    apart = each(lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b), moved, wanted)
    assert all(2e-4 < share < 0.02 for pair in apart.values() for share in pair.values()), apart


@pytest.mark.parametrize("preset", ["paper", "source"])
def test_the_network_of_a_preset(reference: ModuleType, preset: str) -> None:
    """Two steps of all eight layers, in the order and with the constants of the preset."""
    config = get_config(preset)
    config.batch_size, config.data.size, config.seed = BATCH, 104, 5
    config.model.classes, config.model.input_size = 7, 96
    shrink(config.model, conv=1 / 16, fc=32)
    images = np.random.default_rng(1).integers(0, 256, (COUNT, 104, 104, 3), np.uint8)
    cache = data_fixtures.memory_cache(images)
    reading = {"released": preset == "source", "lrn_alpha": 1e-4 if preset == "paper" else 2e-5}

    def witness(params: Params, images: Any, labels: Any, masks: Any) -> tuple[float, Params]:
        tensors, numbers = reference.tensors(params), labels.astype(np.int64)
        _, loss, slopes = reference.loss_and_gradients(tensors, images, numbers, masks, **reading)
        return loss.item(), reference.numbers(slopes)

    with batches(config, cache) as iterator:
        found = {number: jax.device_get(next(iterator)) for number in range(2)}
    updates = compare(Program(config, cache.mean_image), found, 1.0, witness)
    assert smallest(updates[0]) > 1e-6
