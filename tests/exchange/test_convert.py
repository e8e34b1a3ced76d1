"""Imported weights answer as they did where they come from; all else is refused.

The witnesses are onnxruntime and PyTorch, each fed through its own preprocessing. Every error is
the largest absolute difference over the largest absolute value, tensor by tensor.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import convert_fixtures as other
import jax
import network_fixtures as fixtures
import numpy as np
import onnx
import pytest
from network_fixtures import gradient_function

import alexnet_jax
from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.exchange.converting import convert
from alexnet_jax.model import AlexNet, Conv, make_mesh
from alexnet_jax.model.cpu import portions
from alexnet_jax.model.mesh import IMAGES, shardings
from alexnet_jax.training.update_rule import update_rule


def answers(workdir: Path, pictures: np.ndarray) -> np.ndarray:
    """The logits of the imported network, all the way from pixels 256 x 256."""
    return alexnet_jax.load(workdir, mesh=make_mesh(1, 1)).logits(pictures)


def tell_apart(logits: np.ndarray) -> bool:
    """Whether the witness's logits differ enough between images for the comparison to mean much."""
    return bool(np.abs(logits[0] - logits[1]).max() > 0.05 * np.abs(logits).max())


def test_bvlc_alexnet_at_full_size(tmp_path: Path) -> None:
    """The zoo's own graph: two groups, LRN across them, conv1 unpadded, pool5 padded."""
    logits = other.fill_light(tmp_path / "bvlc.onnx")
    made = convert(tmp_path / "bvlc.onnx", tmp_path / "w")
    pictures = other.pictures(2)
    inputs = other.seen_by_caffe(pictures, 224)
    expected = other.run_onnx(tmp_path / "bvlc.onnx", inputs, logits)
    assert tell_apart(expected)
    network = alexnet_jax.load(tmp_path / "w")
    assert fixtures.difference(network.logits(pictures), expected) < 1e-4
    probabilities = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    assert fixtures.difference(network.predict(pictures), probabilities) < 1e-4

    sides = network.viewer.model.network.sides()
    assert sides["conv1"] == (54, 26) and sides["conv5"] == (12, 6)
    assert made["parameters"] == 60_965_224
    assert network.class_names[0] == "n01440764" and network.classes[0] == "tench"
    content = (tmp_path / "bvlc.onnx").read_bytes()
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert json.loads((tmp_path / "w/converted.json").read_text()) == made


def test_torchvision_alexnet_at_full_size(reference: ModuleType, tmp_path: Path) -> None:
    """From a .pth file: one tower, no LRN, and a division by the deviations folded into conv1."""
    import torch

    layers = other.torchvision_alexnet(other.torchvision_arrays(other.FULL_WIDTHS))
    torch.save(layers.state_dict(), tmp_path / "alexnet.pth")
    made = convert(tmp_path / "alexnet.pth", tmp_path / "w")
    pictures = other.pictures(2)
    expected = other.run_torch(layers, other.seen_by_torchvision(pictures))
    assert tell_apart(expected)
    assert fixtures.difference(answers(tmp_path / "w", pictures), expected) < 1e-4
    assert made["parameters"] == 61_100_840  # as torchvision documents


GRAPHS = {
    "Caffe's AlexNet": other.bvlc_like,
    "CaffeNet: pool, then norm": lambda: other.bvlc_like("Relu MaxPool LRN"),
    "norm first, as in the released code": lambda: other.bvlc_like("LRN MaxPool Relu"),
    "one tower, dropout as an attribute": lambda: other.bvlc_like(groups=1, opset=11),
    "dropout over conv4": lambda: other.bvlc_like(over_conv4=True),
    "two layers and the other forms": other.short,
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs(graph: str, tmp_path: Path) -> None:
    """Orders, groups, paddings, rounding up, and nodes in all the ways they are written."""
    made = GRAPHS[graph]()
    path = made.save(tmp_path / "small.onnx")
    convert(path, tmp_path / "w", pixels="caffe")
    pictures = other.pictures(3)
    logits = made.nodes[-1].input[0]
    expected = other.run_onnx(path, other.seen_by_caffe(pictures, 48), logits)
    assert tell_apart(expected)
    assert fixtures.difference(answers(tmp_path / "w", pictures), expected) < 1e-4


def test_the_pixels_are_guessed_only_where_the_graph_says(tmp_path: Path) -> None:
    """LRN or two groups are Caffe's. Without them it may be torchvision's: both are named."""
    for number, graph in enumerate((other.bvlc_like(), other.bvlc_like(groups=1, opset=11))):
        path = graph.save(tmp_path / "caffes.onnx")
        assert convert(path, tmp_path / f"caffes{number}")["pixels"] == "caffe"
    path = other.short().save(tmp_path / "short.onnx")
    with pytest.raises(UserError, match=r"give --pixels=caffe \(BGR .* or --pixels=torchvision"):
        convert(path, tmp_path / "w")
    assert not (tmp_path / "w").exists()
    assert convert(path, tmp_path / "w", pixels="torchvision")["pixels"] == "torchvision"


def test_the_fields_of_a_graph(tmp_path: Path) -> None:
    """What the nodes say stands in the configuration, in the numbers that people write."""
    path = other.bvlc_like().save(tmp_path / "small.onnx")
    convert(path, tmp_path / "w")
    network = settings.network(settings.read(tmp_path / "w/config.json"))
    assert (network.towers, network.classes, network.input_size) == (2, 10, 48)
    assert [conv.communicates for conv in network.convolutions().values()] == [0, 0, 1, 0, 0]
    assert (network.lrn_alpha, network.lrn_k, network.lrn_across_towers) == (0.1, 1.0, True)
    assert network.conv1.after == "activation norm pool" and network.dropout == 0.5
    assert network.conv5.pool_padding == (0, 1) and network.fc7.after == "activation dropout"


def test_converted_weights_learn_as_in_pytorch(reference: ModuleType, tmp_path: Path) -> None:
    """A step of its own SGD beside one of the update rule, without dropout's dice. Here conv1 is in
    units of pixels, of which there is one rate for three deviations, and fc6 and fc7 are twice as
    large."""
    import torch

    arrays = other.torchvision_arrays()
    other.saved(arrays, tmp_path / "w.safetensors")
    convert(tmp_path / "w.safetensors", tmp_path / "w")
    config = settings.read(tmp_path / "w/config.json")
    config.optim.learning_rate, config.optim.weight_decay = 0.02, 0.05
    pictures, labels = other.pictures(4), np.array([0, 1, 2, 3])

    layers = other.torchvision_alexnet(arrays)
    ways = {True: {"weight_decay": 0.05, "lr": 0.02}, False: {"weight_decay": 0.0, "lr": 0.04}}
    groups = [
        {"params": [p for p in layers.parameters() if (p.ndim > 1) == weights], **way}
        for weights, way in ways.items()
    ]
    descent = torch.optim.SGD(groups, momentum=0.9)
    maps = layers["features"](torch.tensor(other.seen_by_torchvision(pictures)))
    logits = layers["classifier"](layers["avgpool"](maps).flatten(1))
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    descent.step()
    expected = [array.detach().numpy() - arrays[name] for name, array in layers.named_parameters()]

    network = alexnet_jax.load(tmp_path / "w", mesh=make_mesh(1, 1))
    mean = np.asarray(network.viewer.mean_image)[np.newaxis]
    images = other.centre(pictures, 224) - other.centre(mean, 224)
    params = network.variables["params"]
    _, gradients = jax.jit(gradient_function(network.viewer.model))(params, images, labels, None)
    own = settings.network(config)
    rule = update_rule(config.optim, 1000, own.decays(), own.rates())
    updates, _ = jax.jit(rule.update)(gradients, rule.init(params), params)
    units = {"conv1": 57.6, "fc6": 0.5, "fc7": 0.5}
    for number, (name, layer) in enumerate(updates.items()):
        kernel = np.asarray(layer["kernel"]) * units.get(name, 1.0)
        if name == "fc6":
            kernel = kernel.reshape(6, 6, -1, kernel.shape[-1])
        order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        weights, biases = expected[2 * number : 2 * number + 2]
        kernel = kernel.transpose(order).reshape(weights.shape)
        tolerance = 0.04 if name == "conv1" else 1e-4
        assert fixtures.difference(kernel, weights) < tolerance, name
        assert fixtures.difference(layer["bias"], biases) < 1e-4, name


@pytest.mark.parametrize("kind", ["pth", "safetensors", "half"])
def test_a_state_dict(kind: str, reference: ModuleType, tmp_path: Path) -> None:
    """In half precision within its rounding; where scripts keep it is in `test_state_dicts`."""
    import torch

    expected = other.run_torch(
        other.torchvision_alexnet(other.torchvision_arrays()),
        other.seen_by_torchvision(other.pictures(2)),
    )
    tensors = {name: torch.tensor(array) for name, array in other.torchvision_arrays().items()}
    path = tmp_path / "weights.pth"
    match kind:
        case "pth":
            torch.save(tensors, path)
        case "safetensors":
            path = other.saved(other.torchvision_arrays(), tmp_path / "weights.safetensors")
        case "half":
            torch.save({n: tensor.bfloat16() for n, tensor in tensors.items()}, path)
    convert(path, tmp_path / "w")
    found = answers(tmp_path / "w", other.pictures(2))
    assert tell_apart(expected)
    assert fixtures.difference(found, expected) < (0.05 if kind == "half" else 1e-4)


def test_training_is_the_same_function(reference: ModuleType, tmp_path: Path) -> None:
    """With the units dropped by hand on both sides; there, those that stay are doubled."""
    import torch

    convert(other.saved(other.torchvision_arrays(), tmp_path / "w.safetensors"), tmp_path / "w")
    loaded = alexnet_jax.load(tmp_path / "w", mesh=make_mesh(1, 1))
    rng = np.random.default_rng(0)
    pictures = other.pictures(2)
    masks = {"conv5": rng.random((2, 6, 6, 8)) < 0.5, "fc6": rng.random((2, 32)) < 0.5}
    mean = loaded.viewer.mean_image[:224, :224]
    inputs = np.float32(other.centre(pictures, 224)) - mean
    found = jax.jit(loaded.viewer.model.apply)(loaded.variables, inputs, masks)

    layers = other.torchvision_alexnet(other.torchvision_arrays())
    dropouts = iter([masks["conv5"].transpose(0, 3, 1, 2).reshape(2, -1), masks["fc6"]])
    x = layers["features"](torch.tensor(other.seen_by_torchvision(pictures))).flatten(1)
    for layer in layers["classifier"]:
        if isinstance(layer, torch.nn.Dropout):
            x = 2 * x * torch.tensor(next(dropouts))
        else:
            x = layer(x)
    assert fixtures.difference(found, x.detach().numpy()) < 1e-4


def test_a_mean_image_is_subtracted_where_the_crop_was(tmp_path: Path) -> None:
    """Caffe's mean file, in either layout; the crop is central in neither answer."""
    path = other.bvlc_like(dropout=0).save(tmp_path / "small.onnx")
    mean = other.pictures(1, seed=5)[0].astype(np.float32)  # BGR
    np.save(tmp_path / "chw.npy", mean.transpose(2, 0, 1))
    np.save(tmp_path / "hwc.npy", mean)
    pictures = other.pictures(2)
    corner = (pictures[..., ::-1] - mean)[:, :48, -48:, :].transpose(0, 3, 1, 2)
    logits = onnx.load(path).graph.node[-1].input[0]
    expected = other.run_onnx(path, np.float32(corner), logits)
    for layout in ("chw", "hwc"):
        convert(path, tmp_path / layout, mean_file=tmp_path / f"{layout}.npy")
        loaded = alexnet_jax.load(tmp_path / layout, mesh=make_mesh(1, 1))
        (view,) = [
            i for i, view in enumerate(loaded.viewer.views) if tuple(view) == (0, 208, False)
        ]
        assert fixtures.difference(loaded.logits(pictures, view), expected) < 1e-4


def test_pixels_may_be_those_of_the_other(reference: ModuleType, tmp_path: Path) -> None:
    """A state dict trained on Caffe's pixels."""
    path = other.saved(other.torchvision_arrays(), tmp_path / "w.safetensors")
    convert(path, tmp_path / "w", pixels="caffe")
    pictures = other.pictures(2)
    expected = other.run_torch(
        other.torchvision_alexnet(other.torchvision_arrays()), other.seen_by_caffe(pictures, 224)
    )
    assert fixtures.difference(answers(tmp_path / "w", pictures), expected) < 1e-4


def expected_of(reference: ModuleType, params: Any, images: Any, labels: Any, masks: Any) -> Any:
    """Logits, loss and gradients by PyTorch, with its own LRN, and masks of conv5, fc6 and fc7."""
    import torch
    import torch.nn.functional as F

    tensors = reference.tensors(params)

    def forward(masks: Any) -> torch.Tensor:
        def drop(x: torch.Tensor, mask: np.ndarray | None) -> torch.Tensor:
            return x / 2 if mask is None else x * torch.tensor(mask)

        x = torch.tensor(images).permute(0, 3, 1, 2)
        x = reference.convolution(F.pad(x, (0, 3, 0, 3)), tensors["conv1"], stride=4)
        x = reference.pool(F.local_response_norm(x.relu(), 5, 5e-3, 0.75, 1.0))
        x = reference.convolution(x, tensors["conv2"], 2, padding=2)
        x = reference.pool(F.local_response_norm(x.relu(), 5, 5e-3, 0.75, 1.0))
        x = reference.pool(reference.convolution(x, tensors["conv5"], 2, padding=1).relu())
        x = drop(x.permute(0, 2, 3, 1), masks.get("conv5")).flatten(1)
        for name in ("fc6", "fc7"):
            x = (x @ tensors[name]["kernel"] + tensors[name]["bias"]).relu()
            x = drop(x, masks.get(name))
        return x @ tensors["fc8"]["kernel"] + tensors["fc8"]["bias"]

    logits = forward(masks)
    loss = F.cross_entropy(logits, torch.tensor(labels))
    loss.backward()
    gradients = {
        layer: {kind: t.grad.numpy() for kind, t in pair.items()} for layer, pair in tensors.items()
    }
    return {
        "loss": loss.detach().numpy(),
        "logits": logits.detach().numpy(),
        "gradients": gradients,
        "at test": forward({}).detach().numpy(),
    }


def imported_like() -> Any:
    """Three convolutions with Caffe's LRN, strong enough to matter, and dropout after the last."""
    layers = {name: Conv(0, 3) for name in ("conv3", "conv4")}
    layers["conv5"] = Conv(16, 3, 1, (1, 1), std=0.1, bias=1.0, after="activation pool dropout")
    return fixtures.small_network(**layers, lrn_across_towers=True, lrn_k=1.0, lrn_alpha=1e-3)


@pytest.mark.parametrize(("mesh", "looping"), [((1, 1), False), ((1, 2), False), ((1, 2), True)])
def test_lrn_across_towers_and_dropout_of_maps(
    mesh: tuple[int, int], looping: bool, reference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits and every gradient are PyTorch's, on every mesh, and an image at a time as well."""
    if looping:
        monkeypatch.setattr(portions, "AT_A_TIME", 1)
    network = imported_like()
    params, masks = fixtures.random_params(network), fixtures.random_masks(network, 4)
    masks["conv5"] = np.random.default_rng(1).random((4, 2, 2, 16)) < 0.5
    images, labels = fixtures.random_images(4, 96), fixtures.random_labels(4, 12)
    expected = expected_of(reference, params, images, labels, masks)
    with jax.enable_x64(True):
        model = AlexNet(network, make_mesh(*mesh))
        placed = jax.device_put(params, shardings(params, model.mesh))
        batch = jax.device_put((images, labels, masks), jax.NamedSharding(model.mesh, IMAGES))
        (loss, logits), gradients = jax.jit(gradient_function(model))(placed, *batch)
        at_test = jax.jit(model.apply)({"params": placed}, batch[0])
    found = {"loss": loss, "logits": logits, "gradients": gradients, "at test": at_test}
    assert fixtures.difference(found, expected) < 1e-8
    slopes = jax.tree.leaves(expected["gradients"])
    assert min(np.abs(slope).max() for slope in slopes) > 1e-5, "nothing compared"


def test_lrn_across_towers_is_another_than_within(reference: ModuleType) -> None:
    """Or the test above would hold nothing: without the field the logits are not PyTorch's."""
    network = dataclasses.replace(imported_like(), lrn_across_towers=False)
    params, images = fixtures.random_params(network), fixtures.random_images(2, 96)
    expected = expected_of(reference, params, images, fixtures.random_labels(2, 12), {})
    with jax.enable_x64(True):
        found = jax.jit(AlexNet(network, make_mesh(1, 1)).apply)({"params": params}, images)
    assert fixtures.difference(found, expected["at test"]) > 1e-4


def test_masks_of_maps_and_their_stage() -> None:
    """Drawn at global shape, the same on every mesh; 'conv5/dropout' is a stage like others."""
    network = dataclasses.replace(imported_like(), conv2=Conv(0, 3))
    found = {}
    for mesh in ((1, 1), (1, 2)):
        model = AlexNet(network, make_mesh(*mesh))
        found[mesh] = jax.device_get(
            jax.jit(lambda key, model=model: model.dropout_masks(key, 4))(jax.random.key(5))
        )
    jax.tree.map(np.testing.assert_array_equal, found[1, 2], found[1, 1])
    mask = found[1, 1]["conv5"]
    assert mask.shape == (4, 5, 5, 16) and 0.3 < mask.mean() < 0.7
    params, images = fixtures.random_params(network), fixtures.random_images(2, 96)
    _, stages = jax.jit(lambda p, x: model.apply({"params": p}, x, intermediates=True))(
        params, images
    )
    assert fixtures.difference(stages["conv5/dropout"], stages["conv5/pool"] / 2) < 1e-6


@pytest.mark.parametrize("after", ["pool dropout activation", "dropout pool"])
def test_dropout_of_maps_is_the_last_word(after: str) -> None:
    """Whichever convolution has made them."""
    conv = dataclasses.replace(imported_like().conv5, after=after)
    with pytest.raises(ValueError, match="dropout is the last that happens"):
        fixtures.small_network(conv5=conv)
    with pytest.raises(ValueError, match=r"model\.conv4.*dropout is the last"):
        fixtures.small_network(conv4=Conv(24, 3, 1, (1, 1), after="dropout activation"))


def command(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program of this package, as a user calls it."""
    line = [sys.executable, "-m", f"alexnet_jax.{module}", *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment)


def test_the_command(tmp_path: Path) -> None:
    """It says what it did; a second time it refuses; `main` knows the directory for a run."""
    path = other.bvlc_like().save(tmp_path / "small.onnx")
    done = command("convert", path, f"--out={tmp_path}/w")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for said in (
        "ONNX graph of 24 nodes, ",
        "10 classes",
        "Trained on BGR pixels minus their mean (--pixels=caffe)",
        "  conv1: the input channels in the order RGB",
        "  fc7: the kernels times 2, after dropout",
        "minus a mean image, RGB 122.68, 116.67, 104.01",
        f"    python -m alexnet_jax.predict --workdir={tmp_path}/w photo.jpg",
    ):
        assert said in done.stdout
    done = command("convert", path, f"--out={tmp_path}/w")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: --out={tmp_path}/w is in use: name a directory that is not there, or is empty\n"
    )
    assert command("convert", f"--out={tmp_path}/x").returncode == 2
    assert command("convert", path).returncode == 2
    table = command("main", "--mode=describe", f"--workdir={tmp_path}/w").stdout
    conv1 = next(line for line in table.splitlines() if line.startswith("| conv1 "))
    cells = [cell.strip() for cell in conv1.split("|")]
    assert cells[2:4] == ["21x21x8 → 10x10x8", "8 of 7x7x3 every 2"]
    (tmp_path / "empty").mkdir()
    flags = [f"--workdir={tmp_path}/w", "--mode=evaluate"]
    done = command("main", *flags, f"--config.data.source=folder:{tmp_path}/empty")
    assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
