"""What does each tower know: which answers suffer when one is silenced?

The classes of the embedded dataset are a hue and a pattern each, so that what a tower is good for
can be told: when its maps are taken away from all that sees them (conv3 of both towers, and fc6),
is the hue lost, or the pattern? H. Tamura, Scientific Reports 14:9097 (2024), is the study of
ImageNet's classes to stand beside.
"""

import numpy as np

from alexnet_jax.evaluation.trained_network import TrainedNetwork
from alexnet_jax.evaluation.why import silenced
from alexnet_jax.pictures import colour
from experiments.claims import answers
from experiments.claims.claim import Claim, Comparison, Run, Runs, unchanged


def losses(run: Run) -> dict[str, tuple[float, float]]:
    """How many more answers have the wrong hue, and the wrong pattern, in points: without the tower
    whose first kernels have more colour, and without the other."""
    network = answers.network(run)
    images, labels = answers.images(run, "test")
    names = [name.split("-", 1) for name in network.class_names]
    hues, patterns = (np.unique(part, return_inverse=True)[1] for part in zip(*names, strict=True))
    kernel = np.asarray(network.variables["params"]["conv1"]["kernel"])
    shares = [tower["mean"] for tower in colour.measure(kernel, 2)["towers"]]
    coloured = int(np.argmax(shares))

    def errors(network: TrainedNetwork) -> np.ndarray:
        said = network.predict(images, batch_size=128).argmax(axis=1)
        parts = [100 * np.mean(of[said] != of[labels]) for of in (hues, patterns)]
        return np.array(parts)

    whole = errors(network)
    without = {
        "the coloured tower": errors(silenced(network, coloured)) - whole,
        "the other": errors(silenced(network, 1 - coloured)) - whole,
    }
    return {name: (float(hue), float(pattern)) for name, (hue, pattern) in without.items()}


def compare(runs: Runs) -> list[Comparison]:
    """Hues and patterns lost with one tower against those lost with the other."""
    (every,) = runs.values()
    found = [losses(run) for run in every]
    compared = []
    for part, (what, sign) in enumerate((("hues", 1), ("patterns", -1))):
        other, coloured = (
            [one[name][part] for one in found] for name in ("the other", "the coloured tower")
        )
        words = f"{what} lost without the coloured tower, not the other"
        compared.append(Comparison(words, "points wrong", other, coloured, sign, 5.0))
    return compared


CLAIM = Claim(
    name="lesions",
    section="6.1, a reader's question",
    sentence="The tower with the colours in conv1 knows the hues, the other one the patterns",
    in_2012="not tried; H. Tamura (2024): without a stream some classes suffer and others do not",
    arms={"the network": unchanged},
    compare=compare,
    caveat="in one view; a tower is silenced where others hear it, at conv3 and fc6",
    weights=True,
    applies=lambda config: config.data.source.startswith("embedded"),
)
