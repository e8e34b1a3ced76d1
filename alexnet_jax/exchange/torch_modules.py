"""The modules of PyTorch that the network is made of, and their names.

A module has the name that Caffe gives it, conv1, relu1, norm1, pool1, ... fc8. Where the network is
torchvision's `alexnet`, it has that one's, features.0 ... classifier.6.
"""

import itertools
from typing import NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.exchange import from_torch
from alexnet_jax.model.network import Conv, Dense, Network

ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "sigmoid": "Sigmoid", "linear": "Identity"}


class Module(NamedTuple):
    """A module of the network.

    Attributes:
        name: Caffe's: 'conv1', 'norm1'.
        text: what makes it, such as 'nn.ReLU()'.
        stage: of `AlexNet`, what comes out of it; empty for what only pads or flattens.
    """

    name: str
    text: str
    stage: str = ""


def paths(network: Network) -> list[list[tuple[str, Module]]]:
    """The modules of each layer, in order, each with its name in the whole network.

    Raises:
        UserError: a layer is local.
    """
    theirs = is_torchvisions(network)
    found: list[list[tuple[str, Module]]] = []
    for part, layers in zip(("features", "classifier"), halves(network), strict=True):
        number = itertools.count()
        for layer in layers:
            named = [(f"{part}.{next(number)}" if theirs else own.name, own) for own in layer]
            found.append(named)
    return found


def places(network: Network) -> dict[str, str]:
    """The name of the module that each stage of the network comes out of: of 'conv1/norm' 'norm1',
    of 'conv5/pool' perhaps 'features.12'. A norm that is none is left out."""
    return {own.stage: path for layer in paths(network) for path, own in layer if own.stage}


def halves(network: Network) -> tuple[list[list[Module]], list[list[Module]]]:
    """The modules of the convolutional layers, and of the fully connected ones, a list a layer.

    torchvision drops units of the last maps when they are flattened, which is the same.
    """
    maps, units = [], []
    inputs = 3
    for name, conv in network.convolutions().items():
        maps.append(_convolution(network, name, conv, inputs))
        inputs = conv.width
    inputs *= network.final_maps() ** 2
    for name, dense in {**network.hidden(), "fc8": Dense(network.classes, after="")}.items():
        apart = not network.sees_all(name) and network.towers == 2
        shape = f"({inputs // 2 if apart else inputs}, {dense.width})"
        layer = [Module(name, ("TowerLinear" if apart else "nn.Linear") + shape, name)]
        for word in dense.after.split():
            layer += _after(network, name, dense, word)
        units.append(layer)
        inputs = dense.width
    if is_torchvisions(network):
        maps[-1], drop = maps[-1][:-1], maps[-1][-1:]
        units.insert(0, drop)
    else:
        units[0].insert(0, Module("flatten", "nn.Flatten()"))
    return maps, units


def is_torchvisions(network: Network) -> bool:
    """Whether it is torchvision's `alexnet`, of any widths."""
    convolutions = [
        (conv.kernel, conv.stride, conv.padding, conv.pool_padding, conv.local, conv.after)
        for conv in network.convolutions().values()
    ]
    theirs = [
        (kernel, stride, (pad, pad), (0, 0), False, after)
        for kernel, stride, pad, after in from_torch.CONVOLUTIONS.values()
    ]
    dense = [*(dense.after for dense in network.hidden().values()), ""]
    return (
        (convolutions, dense) == (theirs, list(from_torch.DENSE.values()))
        and (network.towers, network.activation) == (1, "relu")
        and (network.pool_window, network.pool_stride, network.final_maps()) == (3, 2, 6)
    )


def _convolution(network: Network, name: str, conv: Conv, inputs: int) -> list[Module]:
    if conv.local:
        raise UserError(
            f"model.{name}.local: PyTorch has no layer whose kernels are others at every place; "
            "--format=stablehlo keeps it"
        )
    before, after = conv.padding
    pads = before != after  # which a convolution of PyTorch's does only evenly
    options = {
        "stride": (conv.stride, 1),
        "padding": (0 if pads else before, 0),
        "groups": (1 if network.sees_all(name) else network.towers, 1),
    }
    given = "".join(f", {key}={own}" for key, (own, usual) in options.items() if own != usual)
    layer = [Module(f"pad_{name}", f"nn.ZeroPad2d({_four(conv.padding)})")] * pads
    layer.append(Module(name, f"nn.Conv2d({inputs}, {conv.width}, {conv.kernel}{given})", name))
    for word in conv.after.split():
        layer += _after(network, name, conv, word)
    return layer


def _after(network: Network, name: str, layer: Conv | Dense, word: str) -> list[Module]:
    """What a word of `Conv.after` or `Dense.after` is made of."""
    net, stage = network, f"{name}/{word}"
    number = "_conv6" if name == "conv6" else name[-1]  # those of fc6 have the 6
    window = f"{net.pool_window}, {net.pool_stride}"
    padding = layer.pool_padding if isinstance(layer, Conv) else (0, 0)
    match word:
        case "activation":
            kind = ACTIVATIONS[net.activation]
            return [Module(kind.lower() + number, f"nn.{kind}()", stage)]
        case "norm" if net.norm == "none":
            return []
        case "norm":
            return [Module(f"norm{number}", _norm(net, layer.width), stage)]
        case "within_map_norm":
            text = f"WithinMapNorm({net.within_map_size}, 1, {net.within_map_size // 2})"
            return [Module(f"mapnorm{number}", text, stage)]
        case "pool":
            pad = f'nn.ConstantPad2d({_four(padding)}, -float("inf"))'
            pads = [Module(f"pool{number}_pad", pad)] * (padding != (0, 0))
            return [*pads, Module(f"pool{number}", f"nn.MaxPool2d({window})", stage)]
        case "average_pool" if padding == (0, 0):
            return [Module(f"pool{number}", f"nn.AvgPool2d({window})", stage)]
        case "average_pool":
            text = f"AveragePool(nn.ZeroPad2d({_four(padding)}), nn.AvgPool2d({window}))"
            return [Module(f"pool{number}", text, stage)]
        case _:
            return [Module(f"drop{number}", f"Dropout({net.dropout})", stage)]


def _norm(network: Network, width: int) -> str:
    if network.norm == "batch_norm":
        return f"nn.BatchNorm2d({width})"  # its epsilon is 1e-5 as well
    apart = network.towers == 2 and not network.lrn_across_towers
    kind = "TowerLRN" if apart else "nn.LocalResponseNorm"
    # PyTorch divides alpha by the size of the window, as the released code does.
    alpha = float(f"{network.lrn_alpha * network.lrn_size:.12g}")
    return f"{kind}({network.lrn_size}, {alpha}, {network.lrn_beta}, {network.lrn_k})"


def _four(padding: tuple[int, int]) -> str:
    """The same padding of columns and of rows, as PyTorch writes it."""
    return f"({', '.join(map(str, 2 * padding))})"
