"""The network of 2012 in numbers, its three readings and its variants."""

import dataclasses
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import network_fixtures as fixtures
import numpy as np
import pytest
from network_fixtures import FullSize

from alexnet_jax import settings
from alexnet_jax.configs import base, half
from alexnet_jax.model import AlexNet, Conv, Dense, Network
from alexnet_jax.pictures.network_table import network_table

# Weights and biases together; alexnet-2012.md, section 1.3.
PARAMETERS = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}
PRODUCTS = {
    "conv1": 105_415_200,
    "conv2": 223_948_800,
    "conv3": 149_520_384,
    "conv4": 112_140_288,
    "conv5": 74_760_192,
    "fc6": 37_748_736,
    "fc7": 16_777_216,
    "fc8": 4_096_000,
}
MIDDLE = ("conv2", "conv3", "conv4", "conv5")


def shapes(network: Network) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Parameters, as shapes, and the shape of every stage for one image; nothing is computed."""
    model = AlexNet(network)
    images = jax.ShapeDtypeStruct((1, network.input_size, network.input_size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    logits, stages = jax.eval_shape(
        lambda v, x: model.apply(v, x, intermediates=True), variables, images
    )
    assert logits.shape == (1, network.classes)
    return variables["params"], {name: stage.shape[1:] for name, stage in stages.items()}


def counts(network: Network) -> dict[str, int]:
    """Parameters of each layer."""
    params, _ = shapes(network)
    return {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in params}


def preset(name: str) -> Network:
    """The full network in one reading."""
    return settings.network(base.get_config(name))


@pytest.mark.parametrize("name", ["reconciled", "paper", "source"])
def test_parameters(name: str) -> None:
    """60,965,224 in every reading."""
    found = counts(preset(name))
    assert found == PARAMETERS
    assert sum(found.values()) == 60_965_224


def test_the_default_network_is_the_reconciled_one() -> None:
    assert preset("reconciled") == Network()
    assert Network.from_dict(dataclasses.asdict(Network())) == Network()


@pytest.mark.parametrize("name", ["reconciled", "source"])
def test_description(name: str) -> None:
    """Every count of the table that the README shows; `source` has its pools elsewhere."""
    text = network_table(preset(name))
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()}
    for layer in PARAMETERS:
        assert f" {PARAMETERS[layer]:,} | " in rows[layer], layer
        assert rows[layer].endswith(f" {PRODUCTS[layer]:,} |"), layer
    assert "60,965,224" in rows["total"] and "724,406,816" in rows["total"]
    assert sum(PRODUCTS.values()) == 724_406_816
    assert "55x55x96 → 27x27x96" in rows["conv1"]
    assert "27x27x256 → 13x13x256" in rows["conv2"]
    assert "13x13x256 → 6x6x256" in rows["conv5"]
    sees = {layer: " both " in rows[layer] for layer in ("conv2", "conv3", "conv4", "conv5", "fc6")}
    assert sees == {"conv2": False, "conv3": True, "conv4": False, "conv5": False, "fc6": True}
    assert len({len(line) for line in text.splitlines()}) == 1, "the columns do not line up"


@pytest.mark.parametrize("size", [224, 227])
def test_maps(size: int) -> None:
    """55-27-13-6 at 224, whose filters read three rows of zeros, and at 227, where nobody does."""
    params, stages = shapes(Network(input_size=size))
    assert stages["conv1"] == (55, 55, 96)
    assert stages["conv1/pool"] == (27, 27, 96)
    assert stages["conv2"] == (27, 27, 256)
    assert stages["conv2/pool"] == (13, 13, 256)
    assert stages["conv3"] == stages["conv4"] == (13, 13, 384)
    assert stages["conv5"] == (13, 13, 256)
    assert stages["conv5/pool"] == (6, 6, 256)
    assert params["fc6"]["kernel"].shape == (9216, 4096)
    assert params["conv2"]["kernel"].shape == (5, 5, 48, 256)  # sees its own tower
    assert params["conv3"]["kernel"].shape == (3, 3, 256, 384)  # sees both


def test_224_is_227_with_zeros() -> None:
    """On a small network: 96 pixels, and the same with three rows and columns of zeros, are one."""
    network = fixtures.small_network(**few_layers())
    params = jax.tree.map(np.float32, fixtures.random_params(network))
    images = fixtures.random_images(2, 96).astype(np.float32)
    wide = np.pad(images, [(0, 0), (0, 3), (0, 3), (0, 0)])
    alone = jax.jit(AlexNet(network).apply)({"params": params}, images)
    larger = dataclasses.replace(network, input_size=99)
    same = jax.jit(AlexNet(larger).apply)({"params": params}, wide)
    assert fixtures.difference(same, alone) < 1e-6


@pytest.mark.parametrize("name", ["reconciled", "source"])
def test_half_network(name: str) -> None:
    """The one-GPU control of footnote 2: conv5 and the fully connected layers at full width."""
    network = settings.network(half.get_config(name))
    params, stages = shapes(network)
    widths = [params[layer]["kernel"].shape[-1] for layer in ("conv1", *MIDDLE)]
    assert widths == [48, 128, 192, 192, 256]
    assert params["conv2"]["kernel"].shape == (5, 5, 48, 128)
    assert stages["conv5/pool"] == (6, 6, 256)
    assert sum(counts(network).values()) == 59_798_312


def test_conv6() -> None:
    """The pretrained nets: after pool5, 128 kernels a tower that see both; unpooled."""
    network = dataclasses.replace(Network(), conv6=dataclasses.replace(Network().conv6, width=256))
    params, stages = shapes(network)
    assert params["conv6"]["kernel"].shape == (3, 3, 256, 256)
    assert stages["conv6"] == stages["conv6/activation"] == (6, 6, 256)
    assert "conv6/pool" not in stages
    assert sum(counts(network).values()) == 60_965_224 + 3 * 3 * 256 * 256 + 256


@pytest.mark.parametrize("name", ["conv3", "conv4", "fc6", "fc7"])
def test_removed_layer(name: str) -> None:
    """A width of 0: "removing any of the middle layers" (section 7)."""
    network = Network()
    layer = dataclasses.replace(getattr(network, name), width=0)
    found = counts(dataclasses.replace(network, **{name: layer}))
    assert set(found) == set(PARAMETERS) - {name}


def test_geometry_without_overlap() -> None:
    """layers-147.cfg, "output of equivalent dimensions": 2x2 pools, that round up."""
    network = Network()
    network = dataclasses.replace(
        network,
        pool_window=2,
        conv1=dataclasses.replace(network.conv1, pool_padding=(0, 1)),
        conv2=dataclasses.replace(network.conv2, padding=(1, 1)),
        conv5=dataclasses.replace(network.conv5, padding=(0, 0), pool_padding=(0, 1)),
    )
    _, stages = shapes(network)
    layers = ("conv1", "conv1/pool", "conv2", "conv2/pool", "conv3", "conv4", "conv5", "conv5/pool")
    assert [stages[name][0] for name in layers] == [55, 28, 26, 13, 13, 13, 11, 6]
    assert sum(counts(network).values()) == 60_965_224


# alexnet-2012.md, section 5: every field in which a reading differs from `reconciled`.
DIFFERENCES = {
    "paper": {
        "preset": "paper",
        "model.conv3.std": 0.01,  # row 2
        "model.conv4.std": 0.01,
        "model.conv5.std": 0.01,
        "model.conv6.std": 0.01,
        "model.lrn_alpha": 1e-4,  # row 3
        "optim.bias_multiplier": 1.0,  # row 7
        "optim.schedule": "plateau",
        "data.lighting": "eigenvalue",  # row 9
        "data.lighting_until": 1.0,  # row 10
        "data.last_offset": False,  # row 11
        "data.mean": "aligned",  # row 13
    },
    "source": {
        "preset": "source",
        "model.conv1.after": "norm pool activation",  # row 4
        "model.conv2.after": "activation norm within_map_norm pool",  # row 6
        "model.conv5.after": "pool activation",
        "epochs": 91.0,
        "optim.bias_drops": (),  # row 7
        "optim.conv1_slow_after": 0.74,
        "optim.conv1_frozen_after": 0.79,
        "data.lighting_until": 0.74,  # row 10
        "data.lighting_divisor": 1.1,  # row 9
    },
}


@pytest.mark.parametrize("name", ["paper", "source"])
def test_presets_differ_in_these_fields_and_no_other(name: str) -> None:
    reconciled = settings.flatten(base.get_config())
    other = settings.flatten(base.get_config(name))
    assert reconciled.keys() == other.keys()
    found = {field: other[field] for field in other if other[field] != reconciled[field]}
    assert found == DIFFERENCES[name]


# Standard deviation and bias at the start: section 1.1; in `paper` 0.01 everywhere (section 5).
INITIAL = {
    "conv1": (0.01, 0), "conv2": (0.01, 1), "conv3": (0.03, 0), "conv4": (0.03, 1),
    "conv5": (0.03, 1), "fc6": (0.01, 1), "fc7": (0.01, 1), "fc8": (0.01, 0),
}  # fmt: skip


def check_initial(params: Any, expected: dict[str, tuple[float, float]]) -> None:
    """Biases to the bit, weights within five standard errors."""
    assert set(params) == set(expected)
    for name, (std, bias) in expected.items():
        kernel = np.asarray(params[name]["kernel"], np.float64)
        np.testing.assert_array_equal(params[name]["bias"], np.float32(bias))
        assert abs(kernel.mean()) < 5 * std / kernel.size**0.5, name
        assert abs(kernel.std() / std - 1) < 5 / (2 * kernel.size) ** 0.5, name
        assert np.abs(kernel).max() > 2.5 * std, "a Gaussian, not truncated at two"


def test_initial_values_of_the_full_network(full_size: FullSize) -> None:
    """Of `reconciled`, and so of `source`, which has the same values."""
    check_initial(full_size.params, INITIAL)
    for name in ("conv1", *MIDDLE, "fc6", "fc7"):
        ours, theirs = getattr(preset("reconciled"), name), getattr(preset("source"), name)
        assert (ours.std, ours.bias) == (theirs.std, theirs.bias)


def test_initial_values_as_printed() -> None:
    """`paper`, at small widths; the deviations are the preset's."""
    config = base.get_config("paper")
    config.model.input_size = 67
    for name in ("conv1", *MIDDLE):
        config.model[name].width = 16
    config.model.fc6.width = config.model.fc7.width = 32
    network = settings.network(config)
    params = jax.jit(AlexNet(network).init)(jax.random.key(1), jnp.zeros((1, 67, 67, 3)))["params"]
    check_initial(params, {name: (0.01, bias) for name, (_, bias) in INITIAL.items()})


def test_order_of_the_stages() -> None:
    """Section 3.5, and the released code, where layer 1 is norm, pool, ReLU."""

    def order(network: Network, layer: str) -> list[str]:
        names: list[str] = []  # as they come: jax sorts the keys of what a function returns

        def trace(images: jax.Array) -> None:
            model = AlexNet(network)
            variables = model.init(jax.random.key(0), images)
            names.extend(model.apply(variables, images, intermediates=True)[1])

        jax.eval_shape(trace, jnp.zeros((1, 224, 224, 3)))
        return [name.partition("/")[2] for name in names if name.startswith(f"{layer}/")]

    assert order(Network(), "conv1") == order(Network(), "conv2") == ["activation", "norm", "pool"]
    assert order(Network(), "conv3") == ["activation"]
    assert order(Network(), "conv5") == ["activation", "pool"]
    assert order(Network(), "fc6") == order(Network(), "fc7") == ["activation", "dropout"]
    source = preset("source")
    assert order(source, "conv1") == ["norm", "pool", "activation"]
    assert order(source, "conv2") == ["activation", "norm", "within_map_norm", "pool"]
    assert order(source, "conv5") == ["pool", "activation"]


def few_layers() -> dict[str, Any]:
    """Changes that leave conv1, conv2, fc6 and fc8, for tests of what all layers share."""
    return {**{name: Conv(0, 3) for name in ("conv3", "conv4", "conv5")}, "fc7": Dense(0)}


def computed(network: Network, masks: Any = None, **variables: Any) -> Any:
    """The stages of four images, and the running averages after them if there are any."""
    params = {"params": jax.tree.map(np.float32, fixtures.random_params(network)), **variables}
    images = fixtures.random_images(4, 96).astype(np.float32)
    (_, stages), updated = jax.jit(
        lambda v: AlexNet(network).apply(
            v, images, masks, intermediates=True, mutable=["batch_stats"]
        )
    )(params)
    return jax.device_get(stages), updated.get("batch_stats")


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activations(activation: str) -> None:
    """What came before the ReLU, in every layer; and with it, no norm."""
    network = fixtures.small_network(activation=activation, norm="none", **few_layers())
    stages, _ = computed(network)
    formula = {"tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x.astype(np.float64)))}
    for layer in ("conv1", "conv2", "fc6"):
        expected = formula[activation](stages[layer])
        assert fixtures.difference(stages[f"{layer}/activation"], expected) < 1e-5
    np.testing.assert_array_equal(stages["conv1/norm"], stages["conv1/activation"])


def batch_norm_network() -> tuple[Network, dict[str, Any]]:
    """Small, with running averages that are no zeros and ones."""
    network = fixtures.small_network(norm="batch_norm", **few_layers())
    rng = np.random.default_rng(0)
    running = {
        name: {
            "mean": rng.normal(0, 1, width).astype(np.float32),
            "variance": rng.uniform(1, 2, width).astype(np.float32),
        }
        for name, width in (("conv1", 8), ("conv2", 16))
    }
    return network, running


def with_norm(network: Network) -> Any:
    """Parameters with batch norm's own, which are no zeros and ones either."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(np.float32, fixtures.random_params(network))
    for name, width in (("conv1", 8), ("conv2", 16)):
        params[name]["scale"] = rng.uniform(1, 2, width).astype(np.float32)
        params[name]["shift"] = rng.normal(0, 1, width).astype(np.float32)
    return params


def test_batch_norm_in_training() -> None:
    """Statistics of the batch normalise; a tenth of them goes into the running averages."""
    network, running = batch_norm_network()
    params, masks = with_norm(network), fixtures.random_masks(network, 4)
    stages, updated = computed(network, masks, params=params, batch_stats=running)
    for layer in ("conv1", "conv2"):
        x = stages[f"{layer}/activation"].astype(np.float64)
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        normal = (x - mean) / np.sqrt(variance + 1e-5)
        expected = normal * params[layer]["scale"] + params[layer]["shift"]
        assert fixtures.difference(stages[f"{layer}/norm"], expected) < 1e-5
        for name, value in (("mean", mean), ("variance", variance)):
            expected = 0.9 * running[layer][name] + 0.1 * value
            assert fixtures.difference(updated[layer][name], expected) < 1e-5


def test_batch_norm_at_test() -> None:
    """The running averages normalise, and stay as they are."""
    network, running = batch_norm_network()
    params = with_norm(network)
    stages, updated = computed(network, params=params, batch_stats=running)
    for layer in ("conv1", "conv2"):
        x = stages[f"{layer}/activation"].astype(np.float64)
        normal = (x - running[layer]["mean"]) / np.sqrt(running[layer]["variance"] + 1e-5)
        expected = normal * params[layer]["scale"] + params[layer]["shift"]
        assert fixtures.difference(stages[f"{layer}/norm"], expected) < 1e-5
        jax.tree.map(np.testing.assert_array_equal, updated[layer], running[layer])


def test_dropout_of_the_last_maps() -> None:
    """Torchvision has it there (`classifier.0`): masked in training, halved at test."""
    last = "conv2"
    conv = dataclasses.replace(fixtures.small_network().conv2, after="activation pool dropout")
    network = fixtures.small_network(**few_layers(), conv2=conv)
    model, images = AlexNet(network), fixtures.random_images(2, network.input_size)
    params = {"params": fixtures.random_params(network)}
    masks = model.dropout_masks(jax.random.key(0), 2)
    assert masks.keys() == {last, "fc6"}
    for given, share in ((masks, masks[last]), (None, 0.5)):
        _, stages = model.apply(params, images, given, intermediates=True)
        maps = np.asarray(stages[f"{last}/pool"])
        np.testing.assert_array_equal(stages[f"{last}/dropout"], maps * share)
        seen = np.asarray(stages[f"{last}/dropout"], np.float32).reshape(2, -1)
        kernel, bias = (np.float32(params["params"]["fc6"][kind]) for kind in ("kernel", "bias"))
        np.testing.assert_allclose(stages["fc6"], seen @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_no_dropout() -> None:
    """A rate of 0 draws no masks and multiplies by 1."""
    network = fixtures.small_network(dropout=0.0, **few_layers())
    assert AlexNet(network).dropout_masks(jax.random.key(0), 4) == {}
    stages, _ = computed(network)
    np.testing.assert_array_equal(stages["fc6/dropout"], stages["fc6/activation"])


def test_share_of_units_that_stay() -> None:
    """1 - dropout of them, at any rate."""
    network = dataclasses.replace(Network(), dropout=0.2)
    masks = AlexNet(network).dropout_masks(jax.random.key(0), 16)
    assert {name: mask.shape for name, mask in masks.items()} == {
        "fc6": (16, 4096), "fc7": (16, 4096)
    }  # fmt: skip
    for mask in masks.values():
        assert abs(float(mask.mean()) - 0.8) < 5 * (0.16 / mask.size) ** 0.5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"activation": "gelu"}, r"model\.activation='gelu'"),
        ({"norm": "layer"}, r"model\.norm='layer'"),
        ({"towers": 3}, r"model\.towers=3"),
        ({"classes": 1}, r"model\.classes=1"),
        ({"conv2": Conv(15, 5)}, r"model\.conv2\.width=15"),
        ({"conv1": Conv(8, 11, after="activation lrn")}, r"model\.conv1\.after='activation lrn'"),
        ({"fc6": Dense(33)}, r"model\.fc6\.width=33"),
        ({"conv2": Conv(-2, 5)}, r"model\.conv2\.width=-2"),
        ({"conv1": Conv(0, 11)}, r"model\.conv1\.width=0"),
        (
            {"conv2": Conv(16, 5, after="pool pool")},
            r"model\.conv2\.after='pool pool': each .* once",
        ),
        ({"conv2": Conv(16, 5, std=-0.01)}, r"model\.conv2\.std=-0.01"),
        ({"lrn_size": 2}, r"model\.lrn_size=2"),
        ({"lrn_size": -1}, r"model\.lrn_size=-1"),
        ({"lrn_k": 0.0}, r"model\.lrn_k=0.0"),
        ({"lrn_alpha": -1e-4}, r"model\.lrn_alpha=-0.0001"),
        ({"fc8_std": float("nan")}, r"model\.fc8_std=nan"),
        ({"dropout": 1.0}, r"model\.dropout=1.0"),
        ({"conv2": Conv(16, 29)}, r"model\.conv2: a kernel of 29 .* maps of 11 \(padded 11\)"),
        ({"conv2": Conv(16, 5, 0)}, r"model\.conv2: a kernel of 5 every 0"),
        ({"conv2": Conv(16, 5, padding=(-1, 2))}, r"model\.conv2: a kernel of 5 .*\(padded 12\)"),
        ({"pool_window": 12}, r"model\.conv2: a pool of 12 every 2 pixels .* maps of 6 "),
        (
            {"conv5": Conv(16, 3, 1, (1, 1), after="pool", pool_padding=(3, 0))},
            r"pool_padding=\(3, 0\)",
        ),
    ],
)
def test_bad_fields(changes: dict[str, Any], field: str) -> None:
    """Each names the field as it is written on the command line."""
    with pytest.raises(ValueError, match=field):
        fixtures.small_network(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 2}, {"towers": 1}, {"dropout": 0.0}, {"dropout": 0.99}, {"lrn_size": 1},
        {"lrn_alpha": 0.0}, {"lrn_beta": 0.0}, {"lrn_k": 1e-9}, {"fc8_std": 0.0},
        {"conv2": Conv(2, 1)}, {"pool_window": 1}, {"fc6": Dense(2, std=0.0)},
        {"conv2": Conv(16, 11), "conv5": Conv(16, 3, 1, (1, 1))},
        {"conv5": Conv(16, 3, 1, (1, 1), after="pool", pool_padding=(2, 2))},
    ],
    ids=str,
)  # fmt: skip
def test_the_last_values_that_mean_something(changes: dict[str, Any]) -> None:
    shapes(fixtures.small_network(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"conv3": Conv(24, 3, 1, (1, 1), after="dropout activation")},
        {"fc6": Dense(32, after="activation pool")},
    ],
)
def test_stages_in_the_wrong_place(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="after"):
        shapes(fixtures.small_network(**changes))


def test_the_model_needs_jax_and_flax_alone() -> None:
    """Researchers import it without the rest: grain, TFDS, orbax, torch and configurations."""
    program = """
import sys
for name in "grain tensorflow_datasets tensorflow orbax torch ml_collections cv2".split():
    sys.modules[name] = None
import jax, jax.numpy as jnp
from alexnet_jax.model import AlexNet, Network, make_mesh
images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
shapes = jax.eval_shape(AlexNet(Network()).init, jax.random.key(0), images)
print(sum(leaf.size for leaf in jax.tree.leaves(shapes)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "60965224"


def test_the_smaller_configurations_keep_what_source_says_of_biases() -> None:
    """They shorten the schedule; the released run never lowered the biases' rate."""
    for name in ("embedded", "fashion_mnist"):
        assert settings.load(name).optim.bias_drops == settings.load(name).optim.drops
        assert settings.load(f"{name}:source").optim.bias_drops == ()
        assert settings.load(f"{name}:source").model.conv1.after == "norm pool activation"
