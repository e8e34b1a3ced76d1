"""Networks in every form that a layer can have, with random weights, for those who export them."""

from typing import Any

import jax
import network_fixtures as fixtures
import numpy as np
import trained_fixtures

from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.model import Conv, Dense, Network, make_mesh


def steep(conv1: str, gain: float) -> dict[str, Any]:
    """Layers for tanh and sigmoid, which are steep and narrow: what differs from image to image is
    neither lost in them nor all of their rounding."""
    return {
        "conv1": Conv(8, 11, 4, (0, 3), std=0.001, after=conv1),
        "conv2": Conv(16, 5, 1, (2, 2), std=0.3, after="activation norm pool"),
        "conv3": Conv(24, 3, 1, (1, 1), communicates=True, std=0.1 * gain),
        "conv4": Conv(24, 3, 1, (1, 1), std=0.3 * gain),
        "conv5": Conv(16, 3, 1, (1, 1), std=0.3 * gain, after="activation pool"),
        "fc6": Dense(32, std=0.3 * gain),
        "fc7": Dense(32, std=0.5 * gain),
    }


TAKEN_OUT = {"conv4": Conv(0, 3), "fc7": Dense(0)}
VARIANTS = {
    "2012": {},
    "source": {
        "conv1": Conv(8, 11, 4, (0, 3), std=0.05, after="norm pool activation"),
        "conv2": Conv(
            16, 5, 1, (2, 2), std=0.05, bias=1.0, after="activation norm within_map_norm pool"
        ),
        "conv5": Conv(16, 3, 1, (1, 1), std=0.1, bias=1.0, after="pool activation"),
    },
    "one tower": {
        **steep("activation norm pool", 0.3),
        "towers": 1,
        "activation": "tanh",
        "dropout": 0.0,
    },
    "batch norm": {
        **steep("norm activation pool", 3),
        "norm": "batch_norm",
        "activation": "sigmoid",
        "classes": 7,
    },
    "Caffe's LRN": {"lrn_across_towers": True, "lrn_k": 1.0, "lrn_size": 3, "lrn_beta": 0.5},
    "padded pools": {
        "norm": "none",
        "conv4": Conv(24, 3, 1, (1, 1), std=0.1, bias=1.0, after="activation dropout"),
        "conv5": Conv(16, 3, 1, (1, 1), std=0.1, after="pool activation", pool_padding=(0, 2)),
    },
    "six layers, dropout on maps": {
        "conv6": Conv(8, 3, 1, (1, 1), communicates=True, std=0.1, after="activation dropout"),
        "activation": "linear",
        "lrn_size": 7,
    },
    "average pools, norms of 3x3": {
        "conv1": Conv(8, 11, 4, (0, 3), std=0.05, after="activation average_pool within_map_norm"),
        "conv2": Conv(
            16, 5, 1, (2, 2), std=0.05, after="activation average_pool", pool_padding=(0, 2)
        ),
        "within_map_size": 3,
        "within_map_scale": 0.01,
    },
    "towers that never talk": {
        "conv3": Conv(24, 3, 1, (1, 1), std=0.05),
        "fc6": Dense(32, 0.3, communicates=False),
        "fc7": Dense(32, 0.3, communicates=False),
    },
    "no hidden layers": {**TAKEN_OUT, "fc6": Dense(0), "pool_window": 2},
    "taken out": TAKEN_OUT,
}


def with_random_weights(
    network: Network, size: int = trained_fixtures.SIZE, *assignments: str
) -> TrainedNetwork:
    """A network that was never saved."""
    params = jax.tree.map(np.float32, fixtures.random_params(network))
    rng = np.random.default_rng(1)
    averages: dict[str, Any] = {}
    for name, conv in network.convolutions().items():
        if network.norm == "batch_norm" and "norm" in conv.after.split():
            spread = {k: np.float32(rng.uniform(0.5, 2, conv.width)) for k in ("scale", "variance")}
            around = {k: np.float32(rng.normal(0, 1, conv.width)) for k in ("shift", "mean")}
            params[name] |= {"scale": spread["scale"], "shift": around["shift"]}
            averages[name] = {"mean": around["mean"], "variance": spread["variance"]}
    config = fixtures.small_config(f"data.size={size}", *assignments, network=network)
    variables = {"params": params, "batch_stats": averages}
    names = [f"class {i}" for i in range(network.classes)]
    mean_image = np.float32(trained_fixtures.mean_image(size))
    return TrainedNetwork("random", config, make_mesh(1, 1), variables, mean_image, names, 0)
