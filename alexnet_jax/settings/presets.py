"""Three readings of one paper: where the text and the code that made its numbers disagree.

`reconciled`, the default, is the base configuration: the paper's architecture, with the code's
values where they seem to matter. `paper` is the text as printed, with the code's value where the
text is silent, and in two places besides: LRN stays inside a tower (the text sums over all kernels
of a layer), and eigenvalues are those of pixels in 0..1. `source` is the released `layers-145.cfg`
in every row, but that each image has its own crop (the code shared one among 32) and the order
changes every epoch.
"""

from ml_collections import ConfigDict


def paper(config: ConfigDict) -> None:
    """The text as printed."""
    for conv in ("conv3", "conv4", "conv5", "conv6"):
        config.model[conv].std = 0.01  # section 5: "from a zero-mean Gaussian ... 0.01"
    config.model.lrn_alpha = 1e-4  # section 3.3
    config.optim.bias_multiplier = 1.0  # section 5: "an equal learning rate for all layers"
    config.optim.schedule = "plateau"  # section 5: when the validation error stopped improving
    config.data.lighting = "eigenvalue"  # section 4.1
    config.data.lighting_until = 1.0
    config.data.last_offset = False  # section 4.1: "a factor of 2048" is 32 x 32 x 2
    config.data.mean = "aligned"  # section 2: the mean activity "from each pixel"


def source(config: ConfigDict) -> None:
    """The configuration that produced the paper's numbers."""
    config.model.conv1.after = "norm pool activation"  # layers-145.cfg:35-63
    config.model.conv2.after = "activation norm within_map_norm pool"  # layers-145.cfg:95-133
    config.model.conv5.after = "pool activation"  # layers-145.cfg:220-236, the same either way
    # layer-params-145.cfg:169-181: changes after epochs 25, 51, 67, 72 and 79 of 91; the biases
    # stayed at 0.02 to the end.
    config.epochs = 91.0
    config.optim.bias_drops = ()
    config.optim.conv1_slow_after = 0.74
    config.optim.conv1_frozen_after = 0.79
    config.data.lighting_until = 0.74
    config.data.lighting_divisor = 1.1  # convdata_jpeg.py:155-179


PRESETS = {"paper": paper, "source": source, "reconciled": lambda config: None}


def apply(config: ConfigDict, preset: str) -> ConfigDict:
    """Changes the fields in which a reading differs from the base.

    Raises:
        ValueError: there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: one of {', '.join(PRESETS)}")
    PRESETS[preset](config)
    return config


def set_drops(config: ConfigDict, *shares: float) -> None:
    """Sets the shares of the run after which the rates drop; the biases' too, if they ever do
    (`source` never lowers them)."""
    config.optim.drops = shares
    if config.optim.bias_drops:
        config.optim.bias_drops = shares


def large_steps(config: ConfigDict) -> None:
    """Sets what lets a network learn in large steps, but not how large they are, nor the rate.

    Batch norm before every ReLU for LRN, LARS, and a rate that rises and then falls to nothing: see
    `configs.large_batch` for the sources.
    """
    config.model.norm = "batch_norm"
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        pool = " pool" * ("pool" in config.model[name].after.split())
        config.model[name].after = f"norm activation{pool}"
    config.optim.rule, config.optim.schedule = "lars", "poly"
    config.optim.warmup = 600 / 15_600
