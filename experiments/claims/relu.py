"""Does ReLU learn six times as fast as tanh (section 3.1, Figure 1)?

A network of four layers (two convolutions, two fully connected), without dropout, decay or changed
images, is trained with each, at several learning rates; counted are the steps until a quarter of
the training images is wrong. The rate of each is the one that was fastest in a run whose seed is
not among those compared, as "chosen independently". The initial weights are fit for both: no
bias is 1, as none is in cuda-convnet's networks for CIFAR-10; what comes to the units of conv1 is
of the order of 1 (at the deviation of 2012, ten times this, most of a tanh would be saturated
before it learns), and to those of fc6, which here sees more maps, as much as in the whole network.
"""

import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from alexnet_jax import settings
from experiments.claims.claim import RATIO, Change, Claim, Comparison, Runs
from experiments.claims.curves import at_the_end, steps_until

ACTIVATIONS = ("relu", "tanh")
ERROR = 0.25  # of the training images
GREYS = 50.0  # by which a pixel deviates from the mean image, or thereabouts
RATES = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def four_layers(activation: str, rate: float) -> Change:
    """The network of Figure 1, as far as the paper says what it is."""

    def change(config: ConfigDict) -> None:
        model, data, optim = config.model, config.data, config.optim
        model.activation, optim.learning_rate = activation, rate
        inputs = inputs_of_fc6(config)
        for name in ("conv3", "conv4", "conv5", "fc7"):
            model[name].width = 0
        model.fc6.std *= math.sqrt(inputs / inputs_of_fc6(config))
        model.conv1.std = 1 / (GREYS * math.sqrt(3 * model.conv1.kernel**2))
        model.conv2.bias = model.fc6.bias = 0.0
        model.dropout = optim.weight_decay = 0.0
        data.flip = data.crop = False
        data.lighting = "none"
        optim.schedule, optim.drops, optim.bias_drops = "steps", (), ()
        config.log_every = 10

    return change


def inputs_of_fc6(config: ConfigDict) -> int:
    """What the last convolution gives it."""
    network = settings.network(config)
    *_, last = network.convolutions().values()
    return network.final_maps() ** 2 * last.width


def name(activation: str, rate: float) -> str:
    """Of an arm."""
    return f"{activation} at {rate:g}"


def chosen(runs: Runs) -> list[str]:
    """Of each activation the rate that came first to the error in the first run; if none did, the
    one that ended nearest to it."""

    def order(arm: str) -> tuple[float, float]:
        found = steps_until(runs[arm][0], ERROR), at_the_end(runs[arm][0])
        steps, error = (math.inf if math.isnan(number) else number for number in found)
        return steps, error

    return [min((name(a, rate) for rate in RATES), key=order) for a in ACTIVATIONS]


def compare(runs: Runs) -> list[Comparison]:
    """How many times the steps of ReLU tanh needs."""
    fast, slow = ([steps_until(run, ERROR) for run in of[1:]] for of in runs.values())
    ratios = [there / here for here, there in zip(fast, slow, strict=True)]
    what = "steps of tanh, in steps of ReLU"
    return [Comparison(what, RATIO, [1.0] * len(ratios), ratios, 1, 5.0, "Figure 1")]


def extra(runs: Runs) -> list[str]:
    """Whether a rate that was chosen is the lowest or highest that was tried."""
    ends = {name(activation, rate) for activation in ACTIVATIONS for rate in (RATES[0], RATES[-1])}
    found = [arm for arm in runs if arm in ends]
    told = f"At an end of the rates that were tried: {', '.join(found)}; others may be faster."
    return [told] if found else []


ARMS: Mapping[str, Change] = {
    name(activation, rate): four_layers(activation, rate)
    for activation in ACTIVATIONS
    for rate in RATES
}
CLAIM = Claim(
    name="relu",
    section="3.1, Figure 1",
    sentence="With ReLU a network comes to 25% training error in fewer steps than with tanh",
    in_2012="six times fewer, on CIFAR-10 (the network is not named, no log of it is left)",
    arms=ARMS,
    compare=compare,
    chosen=chosen,
    extra=extra,
    level=ERROR,
    caveat="the four layers are conv1, conv2, fc6 and the last, with the norms that the network "
    "has; initial weights are the same for both, those of conv1 a tenth of 2012's, and no bias is "
    "1; steps are read off means over ten; the first of the seeds chose the rates, which stand "
    "beside the networks' names, and is not compared",
    notes=(),
    applies=lambda config: config.model.fc6.width > 0,  # or there are three layers
    seeds=6,
)
