"""What the layers of a network are called: here, in Caffe and in torchvision.

Here 'conv3' is what a layer passes on after its activation, 'conv3/sum' its responses before, and
'conv1/norm' or 'conv5/pool' what comes out of that. Each name means a stage of the network, see
`AlexNet.__call__`.
"""

import re

import jax
import jax.numpy as jnp
from tabulate import tabulate

from alexnet_jax.errors import UserError
from alexnet_jax.evaluation.viewer import PROBABILITIES
from alexnet_jax.model import AlexNet, Network

Names = dict[str, str]  # a layer's name, and the stage that it means

# What follows each layer of torchvision's alexnet at test, where dropout does nothing there
# (torchvision/models/alexnet.py).
TORCHVISION = {
    "conv1": ["activation", "pool"],
    "conv2": ["activation", "pool"],
    "conv3": ["activation"],
    "conv4": ["activation"],
    "conv5": ["activation", "pool"],
    "fc6": ["activation"],
    "fc7": ["activation"],
}


def own_names(network: Network) -> Names:
    """The names that this program gives."""
    found: Names = {}
    for name, layer in network.layers().items():
        words = layer.after.split()
        found[name] = f"{name}/activation" if "activation" in words else name
        found[f"{name}/sum"] = name
        found |= {f"{name}/{word}": f"{name}/{word}" for word in words}
    return found | {"fc8": "fc8", PROBABILITIES: PROBABILITIES}


def caffe_names(network: Network) -> Names:
    """The names in the files of BVLC's AlexNet and CaffeNet that are not this program's.

    There 'conv3' and 'fc7' are the activations as well: ReLU works in place. A layer whose
    activation does not come first, as in `source`, is none of theirs.
    """
    called = {"pool": "pool", "average_pool": "pool"}
    called |= {"activation": "relu"} if network.activation == "relu" else {}
    called |= {"norm": "norm"} if network.norm == "lrn" else {}
    return {
        f"{called[word]}{name[-1]}": f"{name}/{word}"
        for name, layer in network.layers().items()
        for word in layer.after.split()
        if word in called and layer.after.startswith("activation")
    }


def torchvision_names(network: Network) -> Names:
    """What the modules of torchvision's alexnet give, if the network has their sequence.

    'features.0' is what that module gives, the responses of conv1; the ReLU after it writes into
    the same tensor, so that a hook that keeps no copy shows 'features.1' twice. 'classifier.0' and
    'classifier.3', dropout, pass on what they are given; the stages 'conv5/dropout' and
    'fc6/dropout' are that times 1 - rate, since this program multiplies at test (section 4.2).
    """
    nothing = {"dropout"} | ({"norm"} if network.norm == "none" else set())
    after = {
        name: [word for word in layer.after.split() if word not in nothing]
        for name, layer in network.layers().items()
    }
    if after != TORCHVISION or network.activation != "relu" or network.final_maps() != 6:
        return {}
    features = [
        f"{name}/{word}" if word else name
        for name in network.convolutions()
        for word in ("", *after[name])
    ]
    maps, units = features[-1], "fc6/activation"
    classifier = (maps, "fc6", units, units, "fc7", "fc7/activation", "fc8")
    return {
        **{f"features.{number}": stage for number, stage in enumerate(features)},
        "avgpool": maps,
        **{f"classifier.{number}": stage for number, stage in enumerate(classifier)},
    }


def all_names(network: Network) -> Names:
    """Every name that `stage_of` knows."""
    return caffe_names(network) | torchvision_names(network) | own_names(network)


def stage_of(network: Network, layer: str) -> str:
    """The stage that the name of a layer means.

    Raises:
        UserError: there is no such layer.
    """
    known = all_names(network)
    if isinstance(layer, str) and layer in known:
        return known[layer]
    why = ""
    theirs = isinstance(layer, str) and re.fullmatch(r"(features|classifier)\.\d+|avgpool", layer)
    if theirs and not torchvision_names(network):
        why = " (this network is not made like torchvision's, whose modules have such names)"
    raise UserError(f"there is no layer {layer!r}{why}: one of {', '.join(own_names(network))}")


def own_name(network: Network, stage: str) -> str:
    """The one name of a stage that says what it is: 'conv3/sum', 'conv3/activation'."""
    return max((name for name, own in own_names(network).items() if own == stage), key=len)


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """The shape of every stage, of one image, in the order of the network; nothing is computed."""
    model = AlexNet(network)
    images = jax.ShapeDtypeStruct((1, network.input_size, network.input_size, 3), jnp.float32)
    _, stages = jax.eval_shape(
        lambda variables, images: model.apply(variables, images, intermediates=True),
        model.shapes(),
        images,
    )
    in_order = [
        f"{name}/{word}" if word else name
        for name, layer in network.layers().items()
        for word in ("", *layer.after.split())
    ]
    found = {stage: stages[stage].shape[1:] for stage in (*in_order, "fc8")}
    return found | {PROBABILITIES: found["fc8"]}


def table(network: Network) -> str:
    """Every layer with its other names and its shape, in 80 columns."""
    names = all_names(network)
    own = own_names(network)
    rows = []
    for stage, shape in shapes(network).items():
        first, *others = sorted((name for name in own if own[name] == stage), key=len)
        others += [name for name, there in names.items() if there == stage and name not in own]
        rows.append((first, "x".join(map(str, shape)), " ".join(others)))
    return tabulate(rows, ("layer", "shape", "also"), tablefmt="simple", disable_numparse=True)
