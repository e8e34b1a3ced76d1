"""Caffe's own files: networks that answer as PyTorch and OpenCV say, means, and what is refused."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import caffe_fixtures as caffe
import convert_fixtures as other
import cv2
import network_fixtures as fixtures
import numpy as np
import pytest
from caffe_fixtures import Layer, alexnet, field

import alexnet_jax
from alexnet_jax import convert as command
from alexnet_jax import settings
from alexnet_jax.errors import UserError
from alexnet_jax.exchange import converting, from_caffe
from alexnet_jax.exchange.converting import convert
from alexnet_jax.exchange.weights import PIXELS
from alexnet_jax.model import make_mesh


def answers(workdir: Path, pictures: np.ndarray) -> np.ndarray:
    """The logits of the imported network, all the way from pixels 256 x 256."""
    return alexnet_jax.load(workdir, mesh=make_mesh(1, 1)).logits(pictures)


def check(layers: list[Layer], path: Path, **how: Any) -> None:
    """The imported network answers as PyTorch does, and its answers differ between pictures."""
    side = layers[0].says["transform.crop_size"]
    pictures = other.pictures(2)
    expected = caffe.run_torch(layers, other.seen_by_caffe(pictures, side))
    assert np.abs(expected[0] - expected[1]).max() > 0.05 * np.abs(expected).max()
    convert(caffe.save(path / "net.caffemodel", layers, **how), path / "w")
    assert fixtures.difference(answers(path / "w", pictures), expected) < 1e-4


def with_measures(layers: list[Layer]) -> list[Layer]:
    """As DIGITS saves it: accuracy is measured in training as well, so that Caffe adds Splits."""
    *layers, loss = layers
    ends = ("fc8_fc8_0_split_0", "fc8_fc8_0_split_1")
    labels = ("label_data_1_split_0", "label_data_1_split_1")
    return [
        layers[0],
        Layer("Split", "label_data_1_split", ("label",), labels),
        *layers[1:],
        Layer("Split", "fc8_fc8_0_split", ("fc8",), ends),
        Layer("Accuracy", "accuracy", (ends[0], labels[0]), ("accuracy",)),
        dataclasses.replace(loss, bottom=(ends[1], labels[1])),
    ]


def with_tanh(layers: list[Layer]) -> list[Layer]:
    """Other activations, a pool that is padded, a layer without bias, and a Softmax at the end."""
    changed = []
    for layer in layers[:-1]:
        if layer.kind == "ReLU":
            layer = dataclasses.replace(layer, kind="TanH")
        if layer.name == "pool5":  # 5 to 3, the last window half outside
            layer = dataclasses.replace(layer, says=layer.says | {"pooling.pad": 1})
        if layer.name == "fc6":
            kernel = np.float32(np.random.default_rng(1).normal(0, 0.2, (24, 72)))
            layer = dataclasses.replace(layer, arrays=[kernel])
        changed.append(layer)
    return [*changed, Layer("Softmax", "prob", ("fc8",), ("prob",))]


NETWORKS: dict[str, Callable[[], list[Layer]]] = {
    "BVLC's AlexNet": alexnet,
    "CaffeNet: pool, then norm": lambda: alexnet(order="Pooling LRN"),
    "measured in training": lambda: with_measures(alexnet()),
    "tanh, a padded pool, no bias": lambda: with_tanh(alexnet()),
}


@pytest.mark.parametrize("old", [True, False], ids=["V1", "new"])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network: str, old: bool, reference: ModuleType, tmp_path: Path) -> None:
    """In both forms: the layers, their geometry and their order are read from the file."""
    check(NETWORKS[network](), tmp_path, old=old)


def test_the_fields_of_a_network(tmp_path: Path) -> None:
    """What the layers say stands in the configuration, in the numbers that people write."""
    path = caffe.save(tmp_path / "a.caffemodel", alexnet(order="Pooling LRN", alpha=1e-4))
    made = convert(path, tmp_path / "w")
    network = settings.network(settings.read(tmp_path / "w/config.json"))
    assert (network.towers, network.classes, network.input_size) == (2, 10, 48)
    assert [conv.communicates for conv in network.convolutions().values()] == [0, 0, 1, 0, 0]
    assert (network.lrn_alpha, network.lrn_k, network.lrn_across_towers) == (2e-5, 1.0, True)
    assert network.conv1.after == network.conv2.after == "activation pool norm"
    assert network.conv5.after == "activation pool" and network.dropout == 0.5
    assert network.fc6.after == network.fc7.after == "activation dropout"
    assert made["format"] == "Caffe network of 24 layers" and made["pixels"] == "caffe"
    assert made["trained_with_mean"] == "data/ilsvrc12/imagenet_mean.binaryproto"


@pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromCaffe"), reason="OpenCV 5 reads no Caffe")
@pytest.mark.parametrize("old", [True, False], ids=["V1", "new"])
@pytest.mark.parametrize("network", ["BVLC's AlexNet", "CaffeNet: pool, then norm"])
def test_against_opencv(network: str, old: bool, tmp_path: Path) -> None:
    """A second reader of the same file, and of the .prototxt beside it."""
    layers = NETWORKS[network]()
    path = caffe.save(tmp_path / "net.caffemodel", layers, old)
    text = 'name: "AlexNet" input: "data" input_shape { dim: 1 dim: 3 dim: 48 dim: 48 }\n'
    (tmp_path / "deploy.prototxt").write_text(text + "".join(x.text() for x in layers[1:-1]))
    reader = cv2.dnn.readNetFromCaffe(str(tmp_path / "deploy.prototxt"), str(path))
    pictures = other.pictures(2)
    reader.setInput(other.seen_by_caffe(pictures, 48))
    expected = reader.forward()
    convert(path, tmp_path / "w")
    assert fixtures.difference(answers(tmp_path / "w", pictures), expected) < 1e-4


def test_bvlc_alexnet(reference: ModuleType, tmp_path: Path) -> None:
    """As BVLC distributes it, in the old form and at 227 pixels, with a twelfth of the kernels."""
    layers = alexnet(WIDTHS, 227, (11, 4), alpha=1e-4)
    check(layers, tmp_path, old=True)
    network = alexnet_jax.load(tmp_path / "w").viewer.model.network
    assert network.sides()["conv1"] == (55, 27) and network.sides()["conv5"] == (13, 6)


WIDTHS = (8, 20, 32, 32, 20, 48, 48, 1000)
SHAPE = field(1, b"".join(map(caffe.varint, (10, 3, 50, 50))))
SIZES = {
    "a crop, in the first form of V1": ({"data.crop_size": 50}, b"", 50),
    "images in memory": ({"memory_data.height": 50, "memory_data.width": 50}, b"", 50),
    "an Input layer": ({"input.shape": SHAPE}, b"", 50),
    "input_dim": ({}, field(3, "data") + field(4, [10, 3, 50, 50]), 50),
    "input_shape": ({}, field(3, "data") + field(8, SHAPE), 50),
    "nothing": ({}, b"", 227),
}


@pytest.mark.parametrize("way", SIZES)
def test_the_size_of_images(way: str, tmp_path: Path) -> None:
    """Is said in one of five ways, or it is BVLC's, which is said aloud."""
    says, head, expected = SIZES[way]
    data, *layers = alexnet(side=expected)
    first = [dataclasses.replace(data, says=says)] if says else []
    if "input.shape" in says:
        first = [Layer("Input", "data", (), ("data",), says=says)]
    old = way.endswith("V1")
    path = caffe.save(tmp_path / "a.caffemodel", [*first, *layers], old, head)
    found = from_caffe.read(path)
    assert found.input_size == expected
    assert ("do not say how large images are: 227 pixels" in found.format) == (way == "nothing")


def test_what_is_done_to_pixels(reference: ModuleType, tmp_path: Path) -> None:
    """A mean of each channel, and a factor: the file's, unless the user says otherwise."""
    data, *layers = alexnet()
    says = {"transform.crop_size": 48, "transform.mean_value": [90.0, 100.0, 110.0]}
    says["transform.scale"] = 1 / 64
    path = caffe.save(tmp_path / "a.caffemodel", [dataclasses.replace(data, says=says), *layers])
    made = convert(path, tmp_path / "w")
    assert made["mean"] == [110, 100, 90]  # RGB
    assert made["seen"] == "BGR pixels minus their mean, divided by 64"
    pictures = other.pictures(2)
    bgr = other.centre(pictures, 48)[..., ::-1].astype(np.float64)
    inputs = ((bgr - (90, 100, 110)) / 64).transpose(0, 3, 1, 2)
    expected = caffe.run_torch([data, *layers], inputs)
    assert fixtures.difference(answers(tmp_path / "w", pictures), expected) < 1e-4
    assert from_caffe.read(path).seen != PIXELS["caffe"]
    made = convert(path, tmp_path / "w2", pixels="torchvision")
    assert made["seen"] == "RGB pixels minus their mean, divided by their deviation"


@pytest.mark.parametrize("old", [True, False], ids=["V1", "new"])
def test_mean_images(old: bool, tmp_path: Path) -> None:
    """A .binaryproto is the image that the .npy is: BGR there, RGB here."""
    image = other.pictures(1)[0].astype(np.float32)  # BGR
    path = tmp_path / "mean.binaryproto"
    channels = image.transpose(2, 0, 1)
    path.write_bytes(caffe.blob(channels if old else channels[None], old))
    np.testing.assert_array_equal(converting.mean_of(PIXELS["caffe"], 227, path), image[:, :, ::-1])
    path.write_bytes(caffe.blob(channels[:, :100]))
    with pytest.raises(UserError, match=r"shape \(100, 256, 3\), expected \(S, S, 3\)"):
        converting.mean_of(PIXELS["caffe"], 227, path)
    path.write_bytes(caffe.blob(channels[:, :200, :200]))
    assert converting.mean_of(PIXELS["caffe"], 200, path).shape == (200, 200, 3)
    path.write_bytes(caffe.blob(channels)[:-40])
    with pytest.raises(UserError, match=r"--mean_file=.* cannot be read as Caffe's binary"):
        converting.mean_of(PIXELS["caffe"], 227, path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"shape \(0, 0, 0, 0\), expected .* at least 227"):
        converting.mean_of(PIXELS["caffe"], 227, path)


def changed(name: str, **changes: Any) -> list[Layer]:
    """A network with a layer that is different, in what it says or otherwise."""
    says = {k.replace("__", "."): v for k, v in changes.items() if "__" in k}
    plain = {k: v for k, v in changes.items() if "__" not in k}
    return [
        dataclasses.replace(layer, says=layer.says | says, **plain) if layer.name == name else layer
        for layer in alexnet()
    ]


ONES = np.ones((8, 3, 7, 7), np.float32)
REFUSED: dict[str, Callable[[], list[Layer]]] = {
    "holds no layers": list,
    "the Conv 'conv1' has dilations=[2, 2], expected [1, 1]": lambda: changed(
        "conv1", convolution__dilation=2
    ),
    "the Conv 'conv1' has strides=[2, 3], expected [2, 2]": lambda: changed(
        "conv1", convolution__stride=[2, 3]
    ),
    "the Conv 'conv1' has kernel_shape=[5, 5], its kernels (8, 3, 7, 7)": lambda: changed(
        "conv1", convolution__kernel_size=5
    ),
    "the Conv 'conv2' has pads=[2, 1, 2, 1], expected": lambda: changed(
        "conv2", convolution__pad=[], convolution__pad_h=2, convolution__pad_w=1
    ),
    "the Conv 'conv2' has group=4: the two towers": lambda: changed("conv2", convolution__group=4),
    "the layer 'conv1' has axis=2, expected 1": lambda: changed("conv1", convolution__axis=2),
    "the layer 'conv1' has a field 99 in convolution_param": lambda: changed(
        "conv1", convolution__unheard_of=1
    ),
    "the layer 'conv1' holds 0 arrays, expected kernels and a bias": lambda: changed(
        "conv1", arrays=[]
    ),
    "the layer 'conv1' holds kernels of shape (8, 147), expected 4 dimensions": lambda: changed(
        "conv1", arrays=[ONES.reshape(8, -1)]
    ),
    "conv1 kernels holds 1,176 numbers that are not finite": lambda: changed(
        "conv1", arrays=[ONES * np.nan]
    ),
    "the bias of conv1 kernels has shape (7,), expected (8,)": lambda: changed(
        "conv1", arrays=[ONES, np.ones(7, np.float32)]
    ),
    "fc6 kernels has shape (24, 33), expected (24, 32)": lambda: changed(
        "fc6", arrays=[np.ones((24, 33), np.float32)]
    ),
    "the layer 'fc7' has the name of another one": lambda: [
        dataclasses.replace(layer, name=layer.name.replace("fc6", "fc7")) for layer in alexnet()
    ],
    "the layer 'norm1' normalises within maps": lambda: changed("norm1", lrn__norm_region=1),
    "has lrn_alpha 0.1, a layer before it 0.05": lambda: changed("norm1", lrn__alpha=0.25),
    "the layer 'pool1' pools otherwise": lambda: changed("pool1", pooling__pool=1),
    "the layer 'pool2' pools otherwise": lambda: changed("pool2", pooling__global_pooling=1),
    "the layer 'pool5' says in field 13 how it rounds": lambda: changed(
        "pool5", pooling__round_mode=0
    ),
    "the layer 'relu3' has negative_slope=0.1": lambda: changed("relu3", relu__negative_slope=0.1),
    "the layer 'drop6' scales at test": lambda: changed("drop6", dropout__scale_train=0),
    "the layer 'data' multiplies pixels by 0": lambda: changed("data", transform__scale=0.0),
    "the layer 'data' subtracts [1.0, 2.0], expected one": lambda: changed(
        "data", transform__mean_value=[1.0, 2.0]
    ),
    "the Concat 'relu1' is nothing that this network does": lambda: changed("relu1", kind="Concat"),
    "the Python 'relu1' is nothing that this network does": lambda: changed("relu1", kind="Python"),
    "read the same value: this network has no branches": lambda: changed(
        "relu3", top=("elsewhere",)
    ),
    "has no fully connected layer at its end": lambda: alexnet()[:10],
}


def test_libraries_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    path = caffe.save(tmp_path / "a.caffemodel", alexnet())
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(path, "a .caffemodel file needs onnx: pip install onnx")
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    refused(path, "a .caffemodel file needs protobuf: pip install protobuf")


@pytest.mark.parametrize("message", REFUSED)
def test_what_this_network_cannot_be(message: str, tmp_path: Path) -> None:
    """Each is refused by the layer's name with the reason, and nothing is left behind."""
    refused(caffe.save(tmp_path / "bad.caffemodel", REFUSED[message]()), message)


def refused(path: Path, message: str) -> None:
    """The file is named in one line, with the message, and no directory is made."""
    with pytest.raises(UserError) as info:
        convert(path, path.parent / "w")
    text = str(info.value)
    assert message in text and str(path) in text and "\n" not in text, text
    assert [p for p in path.parent.iterdir() if p.is_dir()] == []


def test_damaged_files(tmp_path: Path) -> None:
    """Truncated, of the first format, of text, and cut into the weights."""
    path = caffe.save(tmp_path / "a.caffemodel", alexnet())
    whole = path.read_bytes()
    text = b"".join(layer.text().encode() for layer in alexnet())
    for content in (whole[:-9], whole[:1000], b"<html>404</html>", text):
        path.write_bytes(content)
        refused(path, "cannot be read as Caffe's binary NetParameter")
    path.write_bytes(field(2, field(1, field(1, "conv1"))))
    refused(path, "is in Caffe's first format (V0)")
    path.write_bytes(whole.replace(bytes([8, 3, 7, 7]), bytes([8, 3, 7, 6])))
    refused(path, "conv1 kernels has shape (8, 3, 7, 6), but 1,176 numbers")
    path.write_bytes(whole.replace(b"\x05conv1", b"\x05conv\xff"))
    refused(path, "has a layer b'conv\\xff' with a name that is no text")


def test_bytes_that_are_wrong(tmp_path: Path) -> None:
    """Whatever is in the file, it is refused in words or read: no other error gets out."""
    whole = caffe.network(alexnet(), old=False)
    rng = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    path = tmp_path / "a.caffemodel"
    for _ in range(200):
        content = bytearray(whole)
        start = rng.integers(len(content)) if rng.random() < 0.5 else rng.integers(400)
        for place in rng.integers(start, min(start + 300, len(content)), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            from_caffe.read(path)
            outcomes[True] += 1
        except UserError as error:
            assert "\n" not in str(error)
            outcomes[False] += 1
    assert min(outcomes.values()) > 20, outcomes


def test_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean image and the names as Caffe's users have them; without, what is missing is said."""
    path = caffe.save(tmp_path / "net.caffemodel", alexnet(), old=True)
    mean = other.pictures(1)[0, :64, :64].astype(np.float32).transpose(2, 0, 1)  # of small pictures
    (tmp_path / "mean.binaryproto").write_bytes(caffe.blob(mean, old=True))
    (tmp_path / "names.txt").write_text("".join(f"/k/kind_{n} {n}\n" for n in range(10)))
    flags = [f"--classes={tmp_path}/names.txt", f"--mean_file={tmp_path}/mean.binaryproto"]
    assert command.main([str(path), f"--out={tmp_path}/w", *flags]) == 0
    said = capsys.readouterr().out
    assert f"{path}: Caffe network of 24 layers, " in said
    assert "minus a mean image, mean.binaryproto." in said and "In training" not in said
    loaded = alexnet_jax.load(tmp_path / "w", mesh=make_mesh(1, 1))
    assert loaded.classes[9] == "kind_9" and loaded.config.data.size == 64
    np.testing.assert_array_equal(loaded.viewer.mean_image, mean[::-1].transpose(1, 2, 0))

    assert command.main([str(path), f"--out={tmp_path}/w2"]) == 0
    said = capsys.readouterr().out
    assert "class0, class1, ...: --classes=FILE gives others" in said
    assert "In training this was 'imagenet_mean.binaryproto': --mean_file=PATH takes that." in said
    assert max(map(len, said.replace(str(tmp_path), "").splitlines())) <= 80
