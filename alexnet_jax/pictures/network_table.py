"""The network layer by layer, as a table (`--mode=describe`)."""

import jax
import numpy as np
from tabulate import tabulate

from alexnet_jax.evaluation import layers
from alexnet_jax.model import AlexNet, Network


def network_table(network: Network, form: str = "pipe") -> str:
    """A Markdown table: shapes, parameters, multiply-adds, and where the towers communicate.

    The multiply-adds are of one image's forward pass, convolutions and products only.

    Args:
        network: to be described.
        form: another of tabulate's than Markdown, such as html.
    """
    size = network.input_size
    variables, shapes = AlexNet(network).shapes(), layers.shapes(network)
    convolutions, hidden = network.convolutions(), network.hidden()
    head = ("layer", "output", "kernels", "then", "sees", "parameters", "multiply-adds")
    rows: list[tuple[str, ...]] = []
    rows.append(("input", f"{size}x{size}x3", "", "minus the mean image", "", "", ""))
    total_parameters = total_products = 0
    for number, name in enumerate([*convolutions, *hidden, "fc8"]):
        parameters = variables["params"][name]
        count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
        shape, kernel = shapes[name], parameters["kernel"].shape
        local = name in convolutions and convolutions[name].local
        products = int(np.prod(kernel[:-1])) * (1 if local else int(np.prod(shape[:-1])))
        products *= shape[-1]
        total_parameters, total_products = total_parameters + count, total_products + products
        after = ""
        if name in convolutions:
            layer = convolutions[name]
            after = layer.after
            stride = f" every {layer.stride}" if layer.stride > 1 else ""
            channels = kernel[2] // layer.kernel**2 if layer.local else kernel[2]
            place = ", at every place" if layer.local else ""
            kernels = f"{kernel[3]} of {layer.kernel}x{layer.kernel}x{channels}{stride}{place}"
            sees = "the image" if number == 0 else "both" if layer.communicates else "own tower"
        else:
            kernels = f"{kernel[1]} of {kernel[0]}"
            sees = "both" if network.sees_all(name) else "own tower"
            after = hidden[name].after if name in hidden else after
        words = {"activation": network.activation.replace("relu", "ReLU"), "norm": network.norm}
        then = ", ".join(words.get(word, word.replace("_", " ")) for word in after.split())
        final = shapes["/".join([name, *after.split()[-1:]])]
        output = _shape(shape) + (f" → {_shape(final)}" if final != shape else "")
        sees = sees if network.towers > 1 or number == 0 else "all"
        rows.append(
            (
                name,
                output,
                kernels,
                "softmax" if name == "fc8" else then,
                sees,
                f"{count:,}",
                f"{products:,}",
            )
        )
    rows.append(("total", "", "", "", "", f"{total_parameters:,}", f"{total_products:,}"))
    aligned = ["left"] * 5 + ["right"] * 2
    return tabulate(rows, head, form, disable_numparse=True, colalign=aligned)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
