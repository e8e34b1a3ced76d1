"""Two towers on a device mesh compute what one device computes, and speak four times.

Every error is the largest absolute difference over the largest absolute value, tensor by tensor.
"""

import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from network_fixtures import FullSize, gradient_function

from alexnet_jax import settings
from alexnet_jax.configs import base
from alexnet_jax.model import AlexNet, Conv, Dense, Network, make_mesh
from alexnet_jax.model import mesh as mesh_module
from alexnet_jax.model.mesh import IMAGES, shardings, spec_of
from alexnet_jax.settings import scaling
from alexnet_jax.training import update_rule
from alexnet_jax.training.step import State, initial_state, make_train_step

MESHES = [(1, 2), (2, 1), (2, 2), (4, 2)]  # data x tower
BATCH, STEPS = 8, 10


def placed(model: AlexNet, params: Any, *batch: Any) -> tuple[Any, ...]:
    """Parameters and per-example arrays where they lie during training."""
    params = jax.device_put(params, shardings(params, model.mesh))
    return params, *jax.device_put(batch, NamedSharding(model.mesh, IMAGES))


@functools.cache
def once(
    data: int, tower: int, classes: int, *apart: str, over_conv4: bool = False
) -> dict[str, Any]:
    """Everything that one step computes, and the logits at test, on a mesh.

    In float64: in float32 two almost equal pixels under a pool change places now and then, from one
    order of summation to another, and a gradient with them.
    """
    network = fixtures.apart(fixtures.small_network(classes=classes), *apart)
    if over_conv4:
        network = fixtures.dropout_over_conv4(network)
    model = AlexNet(network, make_mesh(data, tower))
    with jax.enable_x64(True):
        params, images, labels, masks = placed(
            model,
            fixtures.random_params(network),
            fixtures.random_images(BATCH, 96),
            fixtures.random_labels(BATCH, classes),
            fixtures.random_masks(network, BATCH),
        )
        (loss, logits), gradients = jax.jit(gradient_function(model))(params, images, labels, masks)
        at_test = jax.jit(model.apply)({"params": params}, images)
    found = {"loss": loss, "logits": logits, "gradients": gradients, "at test": at_test}
    return jax.device_get(found)


def run_config(norm: str) -> ConfigDict:
    """6-16-24-24-16 kernels that learn as calmly as the network of 2012."""
    config = base.get_config()
    config.seed, config.model.norm = 3, norm
    config.model.classes, config.model.input_size = 12, 96
    scaling.shrink(config.model, conv=1 / 16, fc=32)
    return config


@functools.cache
def start(norm: str) -> State:
    """The state before the first step, on the host. Once, since drawing takes long to compile."""
    config = run_config(norm)
    model = AlexNet(settings.network(config), make_mesh(1, 1))
    optimizer = update_rule.update_rule(config.optim, STEPS)
    return jax.device_get(initial_state(model, optimizer, config.seed))


@functools.cache
def trained(data: int, tower: int, norm: str = "lrn") -> dict[str, Any]:
    """Ten real training steps over two drops of the rate: the losses, and what batch norm keeps."""
    config = run_config(norm)
    model = AlexNet(settings.network(config), make_mesh(data, tower))
    rng = np.random.default_rng(0)
    mean_image = rng.uniform(100, 140, (104, 104, 3)).astype(np.float32)
    optimizer = update_rule.update_rule(config.optim, STEPS)
    step = make_train_step(model, optimizer, mean_image, config, STEPS)
    state = jax.device_put(start(norm), shardings(start(norm), model.mesh))
    losses = []
    for _ in range(STEPS):
        batch = {
            "image": rng.integers(0, 256, (BATCH, 96, 96, 3), np.uint8),
            "label": rng.integers(0, 12, BATCH, np.int32),
        }
        state = step(state, jax.device_put(batch, NamedSharding(model.mesh, IMAGES)))
        losses.append(float(state.running["loss"]) / BATCH)
        state = state.replace(running=jax.tree.map(jnp.zeros_like, state.running))
    return {"losses": np.array(losses), "batch_stats": jax.device_get(state.batch_stats)}


class Drawn(NamedTuple):
    """What chance decides."""

    params: Any
    masks: dict[str, np.ndarray]
    conv2_on_a_device: tuple[int, ...]


@functools.cache
def drawn(data: int, tower: int) -> Drawn:
    """Weights and masks of a seed, for a network of few layers."""
    gone = {name: Conv(0, 3) for name in ("conv3", "conv4", "conv5")}
    model = AlexNet(fixtures.small_network(**gone), make_mesh(data, tower))
    optimizer = update_rule.update_rule(base.get_config().optim, STEPS)
    state = initial_state(model, optimizer, seed=3)
    masks = jax.jit(lambda key: model.dropout_masks(key, BATCH))(jax.random.key(5))
    conv2 = state.params["conv2"]["kernel"].addressable_shards[0].data.shape
    return Drawn(jax.device_get(state.params), jax.device_get(masks), conv2)


@pytest.mark.parametrize(
    ("mesh", "classes"), [*((mesh, 12) for mesh in MESHES), ((1, 2), 13), ((2, 2), 13)]
)
def test_every_mesh_computes_the_same(mesh: tuple[int, int], classes: int) -> None:
    """Outputs, loss and every gradient; 13 classes do not halve, so both towers have all of fc8."""
    found, expected = once(*mesh, classes), once(1, 1, classes)
    assert np.abs(expected["logits"]).max() > 0.1
    for name, value in expected.items():
        assert fixtures.difference(found[name], value) < 1e-8, name


@pytest.mark.parametrize("apart", [("fc6",), ("conv3", "fc6", "fc7")], ids=",".join)
def test_towers_that_talk_less_compute_the_same_on_a_mesh(apart: tuple[str, ...]) -> None:
    """fc6 alone is given nothing, or nothing is given but what fc8 sees."""
    found, expected = once(2, 2, 12, *apart), once(1, 1, 12, *apart)
    for name, value in expected.items():
        assert fixtures.difference(found[name], value) < 1e-8, name


def test_dropout_over_convolutions_is_the_same_on_a_mesh() -> None:
    """Each tower has its own part of the mask."""
    found, expected = (once(*mesh, 12, over_conv4=True) for mesh in ((2, 2), (1, 1)))
    for name, value in expected.items():
        assert fixtures.difference(found[name], value) < 1e-8, name
    assert fixtures.difference(expected["logits"], once(1, 1, 12)["logits"]) > 0.01


@pytest.mark.parametrize("mesh", MESHES)
def test_ten_steps_go_the_same_way_on_every_mesh(mesh: tuple[int, int]) -> None:
    """The whole step of step.py: input, masks, gradients, update."""
    found, expected = trained(*mesh), trained(1, 1)
    assert np.all(np.isfinite(expected["losses"])) and np.ptp(expected["losses"]) > 0.1
    assert fixtures.difference(found["losses"], expected["losses"]) < 1e-5


def test_batch_norm_is_over_the_global_batch() -> None:
    """Statistics of a device's own images would be others on every mesh."""
    found, expected = trained(2, 2, "batch_norm"), trained(1, 1, "batch_norm")
    assert set(expected["batch_stats"]) == {"conv1", "conv2"}
    before = jax.tree.leaves(start("batch_norm").batch_stats)
    for was, became in zip(before, jax.tree.leaves(expected["batch_stats"]), strict=True):
        assert np.abs(became - was).min() > 1e-3  # after ten steps, of every map
    assert fixtures.difference(found["losses"], expected["losses"]) < 1e-5
    assert fixtures.difference(found["batch_stats"], expected["batch_stats"]) < 1e-5


@pytest.mark.parametrize("mesh", [(1, 2), (2, 2)])
def test_a_seed_means_the_same_weights_and_masks_on_every_mesh(mesh: tuple[int, int]) -> None:
    """To the bit: they are drawn at global shape."""
    found, expected = drawn(*mesh), drawn(1, 1)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, found.masks, expected.masks)


def test_the_towers_start_differently_and_drop_different_units() -> None:
    """A key replicated to both towers would give twins (a trap of shard_map)."""
    found = drawn(1, 2)
    for layer, pair in found.params.items():
        a, b = np.split(pair["kernel"], 2, axis=-1)
        assert np.mean(a == b) < 0.01, layer
    for layer, mask in found.masks.items():
        assert mask.shape == (BATCH, 32) and mask.dtype == bool
        a, b = np.split(mask, 2, axis=-1)
        assert 0.3 < np.mean(a == b) < 0.7, layer  # 0.5 +- 0.044 if drawn independently
    assert 0.3 < np.mean(found.masks["fc6"] == found.masks["fc7"]) < 0.7


def test_each_tower_holds_its_own_kernels() -> None:
    """conv2 is 5x5x4x16 in all (8 maps, half of them seen) and 5x5x4x8 on each of two devices."""
    assert drawn(1, 2).params["conv2"]["kernel"].shape == (5, 5, 4, 16)
    assert drawn(1, 2).conv2_on_a_device == (5, 5, 4, 8)
    assert drawn(1, 1).conv2_on_a_device == (5, 5, 4, 16)


def test_full_network_on_two_towers(full_size: FullSize) -> None:
    """Logits, loss and all gradients of the network of 2012, against one device."""
    model = AlexNet(full_size.network, make_mesh(1, 2))
    with jax.enable_x64(True):
        arguments = placed(model, *full_size[1:5])
        (loss, logits), gradients = jax.jit(gradient_function(model))(*arguments)
    assert fixtures.difference(logits, full_size.logits) < 1e-9
    assert fixtures.difference(loss, full_size.loss) < 1e-9
    assert fixtures.difference(gradients, full_size.gradients) < 1e-9


COLLECTIVE = re.compile(
    r"= (?P<results>.*?) (?P<kind>all-gather|all-reduce|all-to-all|ragged-all-to-all"
    r"|reduce-scatter|collective-permute|collective-broadcast|send|recv)(?:-start)?"
    r"\((?P<operands>.*?)\)(?P<attributes>.*)"
)
NAME, SHAPE = re.compile(r"%([\w.-]+)"), re.compile(r"\w+\[([\d,]*)\]")
ALONE = re.compile(r"replica_groups=\{(\{\d+\},?)+\}")  # every device is a group of its own
Collective = tuple[str, tuple[int, ...], tuple[int, ...]]


def collectives(program: str) -> list[Collective]:
    """Kind, operand shape and result shape of all communication in a compiled program's text.

    Where XLA sends several arrays at once, each counts. What has no partner is none.
    """

    def shapes(text: str) -> list[tuple[int, ...]]:
        return [tuple(map(int, filter(None, found.split(",")))) for found in SHAPE.findall(text)]

    def operand(name: str) -> tuple[int, ...]:
        definition = re.search(rf"%{re.escape(name)} = (\S+) ", program)
        assert definition is not None
        return shapes(definition[1])[0]

    found: list[Collective] = []
    for match in COLLECTIVE.finditer(program):
        if ALONE.search(match["attributes"]):
            continue
        sent = [operand(name) for name in NAME.findall(match["operands"])]
        received = shapes(match["results"])[-len(sent) :]  # of a start, what it was given is first
        found += [(match["kind"], *pair) for pair in zip(sent, received, strict=True)]
    return sorted(found)


def program_at_test(network: Network) -> str:
    """The compiled text for two devices with a tower each, and two images."""
    model = AlexNet(network, make_mesh(1, 2))
    images = jax.ShapeDtypeStruct(
        (2, 224, 224, 3), jnp.float32, sharding=NamedSharding(model.mesh, IMAGES)
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings(shapes, model.mesh),
    )
    return jax.jit(model.apply).lower(variables, images).compile().as_text()


@pytest.mark.parametrize(
    "network",
    [Network(), Network(classes=999), Network(fc7=Dense(2048))],
    ids=["full", "odd number of classes", "narrow fc7"],
)
def test_the_towers_speak_four_times(network: Network) -> None:
    """Section 3.2: "the GPUs communicate only in certain layers": into conv3, fc6, fc7 and fc8.

    A narrower fc7 tells the gather of fc6's units, into fc7, from that of fc7's, into fc8.
    """
    program = program_at_test(network)
    fc7 = network.fc7.width
    assert collectives(program) == sorted([
        ("all-gather", (2, 13, 13, 128), (2, 13, 13, 256)),
        ("all-gather", (2, 6, 6, 128), (2, 6, 6, 256)),
        ("all-gather", (2, 2048), (2, 4096)),
        ("all-gather", (2, fc7 // 2), (2, fc7)),
    ])  # fmt: skip


def test_towers_that_never_talk() -> None:
    """2012's net #150: fc8 alone sees both."""
    program = program_at_test(fixtures.apart(Network(), "conv3", "fc6", "fc7"))
    assert collectives(program) == [("all-gather", (2, 2048), (2, 4096))]


def test_the_search_for_collectives_finds_them() -> None:
    """Of each kind, synchronous or not, alone or several at once, or the tests above and below
    would pass on a parser that is blind."""
    lines = """
      %x.1 = f32[2,8]{1,0} parameter(0)
      %y = f32[] parameter(1)
      %a = f32[2,8]{1,0} all-reduce(%x.1), channel_id=1, replica_groups={{0,1}}, to_apply=%sum
      %b = (f32[2,8]{1,0}, f32[2,16]{1,0}) all-gather-start(f32[2,8]{1,0} %x.1), dimensions={1}
      %c = f32[2,16]{1,0} all-gather-done(%b)
      %d = (f32[2,8]{1,0}, /*index=1*/f32[]) all-reduce(%x.1, /*index=1*/%y), to_apply=%sum
      %e = f32[2,8]{1,0} all-reduce(%x.1), replica_groups={{0},{1}}, to_apply=%sum
      ROOT %f = f32[2,8]{1,0} collective-permute(%x.1), source_target_pairs={{0,1}}
    """
    assert collectives(lines) == [
        ("all-gather", (2, 8), (2, 16)),
        ("all-reduce", (), ()),
        ("all-reduce", (2, 8), (2, 8)),
        ("all-reduce", (2, 8), (2, 8)),
        ("collective-permute", (2, 8), (2, 8)),
    ]


def training_collectives(data: int, tower: int) -> tuple[list[Collective], State]:
    """The communication of a training step, and the shapes of the state that it changes."""
    config = fixtures.small_config(network=fixtures.small_network(fc7=Dense(20)))
    model = AlexNet(settings.network(config), make_mesh(data, tower))
    optimizer = update_rule.update_rule(config.optim, STEPS)
    step = make_train_step(model, optimizer, np.zeros((96, 96, 3), np.float32), config, STEPS)
    state = jax.eval_shape(lambda: initial_state(model, optimizer, seed=0))
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, 96, 96, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), np.int32),
    }
    images = dict.fromkeys(batch, NamedSharding(model.mesh, IMAGES))
    arguments = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        (state, batch),
        (shardings(state, model.mesh), images),
    )
    return collectives(step.lower(*arguments).compile().as_text()), state


def test_what_two_towers_say_in_training() -> None:
    """Forward the four gathers into conv3, fc6, fc7 and fc8. Backward, at the same places, the sum
    of what both towers' kernels say of their inputs, of which each tower keeps its own half: for
    conv3's 5x5 maps by a reduce-scatter, for the inputs of fc6 (2x2x16), fc7 and fc8 XLA sums all
    on a CPU (on a GPU it does not, see test_compilers.py). The rest is a number or two of each
    image: the softmax over classes of which each tower has half. No weight is sent.
    """
    found, _ = training_collectives(1, 2)
    assert [c for c in found if max(map(math.prod, c[1:])) > BATCH] == [
        ("all-gather", (BATCH, 2, 2, 8), (BATCH, 2, 2, 16)),
        ("all-gather", (BATCH, 5, 5, 8), (BATCH, 5, 5, 16)),
        ("all-gather", (BATCH, 10), (BATCH, 20)),
        ("all-gather", (BATCH, 16), (BATCH, 32)),
        ("all-reduce", (BATCH, 2, 2, 16), (BATCH, 2, 2, 16)),
        ("all-reduce", (BATCH, 20), (BATCH, 20)),
        ("all-reduce", (BATCH, 32), (BATCH, 32)),
        ("reduce-scatter", (BATCH, 5, 5, 16), (BATCH, 5, 5, 8)),
    ]
    small = [c for c in found if max(map(math.prod, c[1:])) <= BATCH]
    assert {kind for kind, *_ in small} == {"all-reduce"} and len(small) <= 8


def test_what_two_halves_of_a_batch_say_in_training() -> None:
    """The sum of every gradient over the images, once, and the loss and errors of the metrics."""
    found, state = training_collectives(2, 1)
    assert {kind for kind, *_ in found} == {"all-reduce"}
    sent = sorted(operand for _, operand, _ in found if operand)
    # XLA may turn a kernel over before it sends it.
    gradients = sorted(leaf.shape for leaf in jax.tree.leaves(state.params))
    assert sorted(map(sorted, sent)) == sorted(map(sorted, gradients))
    assert 1 <= sum(operand == () for _, operand, _ in found) <= 4


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((0, 0, 8), (4, 2)),
        ((0, 0, 1), (1, 1)),
        ((0, 0, 3), (3, 1)),
        ((1, 0, 8), (1, 2)),
        ((0, 1, 8), (8, 1)),
        ((3, 2, 8), (3, 2)),
    ],
)
def test_mesh_defaults(asked: tuple[int, int, int], made: tuple[int, int]) -> None:
    """0 is two towers for an even number of devices, and all devices: (data, tower, there are)."""
    data, tower, devices = asked
    assert make_mesh(data, tower, devices=jax.devices()[:devices]).devices.shape == made


@pytest.mark.parametrize(
    ("data", "tower", "message"),
    [(0, 3, "mesh.tower=3"), (-1, 1, "mesh.data=-1"), (5, 2, "needs 10 devices, there are 8")],
)
def test_impossible_meshes(data: int, tower: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mesh(data, tower)


class Device(NamedTuple):
    """Of a process."""

    process_index: int
    id: int


def devices_of(*counts: int) -> list[Device]:
    """So many devices of each process, in the order of their numbers, which are not the processes'
    order: number 0 of each comes first."""
    found = [Device(process, id) for process, count in enumerate(counts) for id in range(count)]
    return sorted(found, key=lambda device: device.id)


@pytest.mark.parametrize(
    ("counts", "data", "tower", "chosen"),
    [
        ((1, 1), 1, 2, ["0.0 1.0"]),  # a tower each
        ((1, 1), 2, 1, ["0.0", "1.0"]),
        ((2, 2), 2, 2, ["0.0 0.1", "1.0 1.1"]),  # a pair of towers shares a process
        ((2, 2), 4, 1, ["0.0", "0.1", "1.0", "1.1"]),
        ((1, 1, 1, 1), 2, 2, ["0.0 1.0", "2.0 3.0"]),
        ((4, 4), 2, 2, ["0.0 0.1", "1.0 1.1"]),  # as many of each, though one has enough
        ((4, 2), 1, 2, ["0.0 1.0"]),
        ((3, 3), 2, 2, ["0.0 0.1", "1.0 1.1"]),
        ((8,), 1, 2, ["0.0 0.1"]),
    ],
)
def test_the_devices_of_a_mesh_are_as_many_of_each_process(
    counts: tuple[int, ...], data: int, tower: int, chosen: list[str]
) -> None:
    found = mesh_module._of_each_process(devices_of(*counts), data, tower)
    names = [f"{device.process_index}.{device.id}" for device in found]
    assert [" ".join(names[row : row + tower]) for row in range(0, len(names), tower)] == chosen


@pytest.mark.parametrize(
    ("counts", "data", "tower", "message"),
    [
        ((1, 1), 1, 1, "mesh.data=1 with mesh.tower=1 cannot be shared by 2 processes of 1 and 1"),
        ((2, 2), 3, 1, "at least one"),
        ((2, 1), 2, 2, "2 processes of 2 and 1 devices: each has to give as many"),
        ((3, 3), 3, 2, "one or an even number of them"),  # a pair would be torn apart
        ((1, 1, 1), 1, 2, "cannot be shared by 3 processes"),
    ],
)
def test_a_mesh_that_processes_cannot_share_evenly(
    counts: tuple[int, ...], data: int, tower: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mesh_module._of_each_process(devices_of(*counts), data, tower)


def test_one_tower_does_not_spread_over_two() -> None:
    """The half network of footnote 2 has no second tower to put on a second device."""
    model = AlexNet(fixtures.small_network(towers=1), make_mesh(1, 2))
    with pytest.raises(ValueError, match=r"set mesh\.tower=1"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 96, 96, 3)))


def test_the_rule_of_placement() -> None:
    """The last axis over the towers if it divides; scalars and odd classes on both."""
    assert spec_of((5, 5, 48, 256), 2) == PartitionSpec(None, None, None, "tower")
    assert spec_of((4096,), 2) == PartitionSpec("tower")
    assert spec_of((4096, 999), 2) == spec_of((), 2) == PartitionSpec()
