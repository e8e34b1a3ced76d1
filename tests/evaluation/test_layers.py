"""What layers are called: PyTorch's modules and onnxruntime's graph say what each name means."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import convert_fixtures as other
import jax
import network_fixtures as fixtures
import numpy as np
import onnx
import onnxruntime
import pytest
from asked_fixtures import CLASSES, network, squares
from onnx import helper

import alexnet_jax
from alexnet_jax import settings
from alexnet_jax.configs import base
from alexnet_jax.errors import UserError
from alexnet_jax.evaluation import features, layers
from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.exchange.converting import convert
from alexnet_jax.model import AlexNet, Conv, Network, make_mesh
from alexnet_jax.model.cpu import portions
from alexnet_jax.settings.presets import PRESETS


def converted(file: Path) -> TrainedNetwork:
    """The network of a file, on one device."""
    convert(file, file.parent / "w")
    return alexnet_jax.load(file.parent / "w", mesh=make_mesh(1, 1))


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory: pytest.TempPathFactory) -> TrainedNetwork:
    """A small network of torchvision's form."""
    folder = tmp_path_factory.mktemp("torchvision")
    return converted(other.saved(other.torchvision_arrays(), folder / "small.safetensors"))


def test_torchvisions_modules(torchvision: TrainedNetwork, reference: ModuleType) -> None:
    """Each index is what a hook on that module of PyTorch sees, all of one pass; in one row of
    channels first the very numbers in their order."""
    pictures = other.pictures(3)
    modules = other.torchvision_alexnet(other.torchvision_arrays())
    seen: dict[str, np.ndarray] = {}
    for name, module in modules.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: seen.update({name: output.numpy().copy()})
            )
    other.run_torch(modules, other.seen_by_torchvision(pictures))
    assert len(seen) == 13 + 1 + 7
    found = torchvision.features(pictures, [*seen])
    wanted = features.Wanted(tuple(seen), maps="flat", order="channels_first")
    flat = features.look(torchvision, wanted, pictures, "abc")
    for name, expected in seen.items():
        assert fixtures.difference(flat[name], expected.reshape(3, -1)) < 1e-5, name
        own = found[name].transpose(0, 3, 1, 2) if found[name].ndim == 4 else found[name]
        assert fixtures.difference(own.reshape(3, -1), flat[name]) < 1e-5
    assert np.abs(seen["features.0"] - seen["features.1"]).max() > 0.1


def test_caffes_names(tmp_path: Path) -> None:
    """Each is what onnxruntime computes at its place in the graph of a small BVLC AlexNet: the ReLU
    is in place there, and dropout does nothing."""
    path = other.bvlc_like().save(tmp_path / "small.onnx")
    net, pictures = converted(path), other.pictures(2)
    places = {
        "conv1": 1, "relu1": 1, "norm1": 2, "pool1": 3, "conv2": 5, "norm2": 6, "pool2": 7,
        "conv3": 9, "relu3": 9, "conv4": 11, "conv5": 13, "pool5": 14, "fc6": 17, "relu6": 17,
        "fc7": 20, "fc8": 22, "prob": 23,
    }  # fmt: skip
    model = onnx.load(path)
    names = [f"x{place}" for place in places.values()]
    del model.graph.output[:]
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, dict.fromkeys(names)))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    given = other.seen_by_caffe(pictures, 48)
    runs = [session.run(names, {"v": image[None]}) for image in given]
    found = net.features(pictures, [*places])
    for name, *expected in zip(places, *runs, strict=True):
        theirs = np.concatenate(expected)
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        assert fixtures.difference(found[name], theirs) < 1e-5, name


def test_torchvisions_names_are_for_its_form_alone() -> None:
    """The sequence of its modules: not for the networks of 2012, which have others between."""
    ours = Network()
    with pytest.raises(UserError, match=r"no layer 'features\.10' \(this network is not made like"):
        layers.stage_of(ours, "features.10")
    form = dataclasses.replace(ours, norm="none")
    with pytest.raises(UserError, match=r"no layer 'features\.13': one of conv1, "):
        layers.stage_of(form, "features.13")
    assert layers.stage_of(form, "features.10") == "conv5"
    for changes in (
        {"activation": "tanh"},
        {"input_size": 256},
        {"conv6": Conv(256, 3, 1, (1, 1))},
        {"fc7": dataclasses.replace(ours.fc7, width=0)},
        {"conv1": dataclasses.replace(ours.conv1, after="pool activation")},
    ):
        assert layers.torchvision_names(dataclasses.replace(form, **changes)) == {}, changes
    assert "relu1" not in layers.caffe_names(dataclasses.replace(ours, activation="tanh"))
    assert "norm1" not in layers.caffe_names(form)


def test_each_stage_has_names_and_a_shape() -> None:
    """In every reading; of its own names the longest says what it is. Caffe's are for layers that
    are made as there: in `source` the pool of conv1 and conv5 comes before the ReLU."""
    for preset in PRESETS:
        net = settings.network(base.get_config(preset))
        shapes, names = layers.shapes(net), layers.all_names(net)
        assert {*names.values()} == shapes.keys()
        order = [*net.stages(), *(stage for stage in shapes if not stage.startswith("conv"))]
        assert [*shapes] == order and order[-5:-2] == ["fc7", "fc7/activation", "fc7/dropout"]
        assert shapes["conv2/pool"] == (13, 13, 256) and shapes["prob"] == (1000,)
        assert layers.own_name(net, names["conv3"]) == "conv3/activation"
        assert layers.own_name(net, names["conv3/sum"]) == "conv3/sum"
        assert layers.own_name(net, names["pool2"]) == "conv2/pool"
        assert ("pool5" in names) == ("relu1" in names) == (preset != "source")


def test_several_layers_are_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many layers and batches, the network is traced once."""
    calls: list[Any] = []
    apply = AlexNet.apply

    def counted(*given: Any, **more: Any) -> Any:
        calls.append(more)
        return apply(*given, **more)

    old = network()
    new = TrainedNetwork(
        "new", old.config, make_mesh(1, 1), old.variables, old.viewer.mean_image, CLASSES, 0
    )
    monkeypatch.setattr(AlexNet, "apply", counted)
    found = new.features(squares(40), ["conv1", "pool5", "fc6/sum", "prob"], ten_views=True)
    assert [len(values) for values in found.values()] == [40] * 4
    assert len(calls) == 1


def test_stages_that_are_named_come_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the convolutions pass on, and what follows, leaves them in their fast form: loops over a
    few images."""
    monkeypatch.setattr(portions, "AT_A_TIME", 3 * 23 * 23 * 8 * 8)
    model = AlexNet(fixtures.small_network(), make_mesh(1, 1))
    variables = model.shapes()
    images = jax.ShapeDtypeStruct((14, 96, 96, 3), np.float32)

    def program(wanted: Any) -> Any:
        return jax.jit(lambda v, x: model.apply(v, x, intermediates=wanted)).lower(
            variables, images
        )

    def loops(wanted: Any) -> int:
        return program(wanted).as_text().count("stablehlo.while")

    passed_on = ["conv5/pool", "fc6", "fc7/activation"]
    assert [*program(passed_on).out_info[1]] == sorted(passed_on)
    assert [*program(["conv1", "fc8"]).out_info[1]] == ["conv1", "fc8"]
    assert loops(passed_on) == loops(False) > loops(True)
    with pytest.raises(KeyError, match="fc9"):
        program(["fc9"])
