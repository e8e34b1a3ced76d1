"""How much of the first layer is colour, tower by tower (section 6.1, Figure 3).

The paper saw one tower "largely color-agnostic" and the other "largely color-specific", in every
run. Here that is a number for each kernel and each tower, and the chance that it means nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tabulate import tabulate

DRAWS, SEED = 10_000, 0  # of the permutation test

MEASURED = (
    "The share of colour of a kernel is the share of its squared weights off the grey axis: at "
    "each pixel the squared distance of (R, G, B) from their mean. Nothing is subtracted before. "
    "0: grey, R = G = B everywhere; 2/3: random weights, on average, or one channel alone; "
    "1: opponent colours, R + G + B = 0 everywhere."
)


def shares(kernel: np.ndarray) -> np.ndarray:
    """How much of each kernel is colour and not brightness (section 6.1, Figure 3).

    With w the (R, G, B) of a pixel and g = (1, 1, 1) / sqrt(3), it is 1 - sum (w.g)^2 / sum |w|^2
    over the pixels of the kernel: a uniform tint counts as colour, a uniform grey as brightness.
    What is expected of independent weights of one variance is 2/3, so training that makes kernels
    grey lowers it.

    Args:
        kernel: (K, K, 3, N).

    Returns:
        (N,) float64 from 0 to 1; 0 for a kernel of zeros.
    """
    energy, colour = _energies(kernel)
    return np.divide(colour, energy, out=np.zeros_like(energy), where=energy > 0)


def _energies(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums each kernel's squared weights, and those that are left without the grey."""
    weights = np.asarray(kernel, np.float64)
    colours = weights - weights.mean(2, keepdims=True)
    return (weights**2).sum((0, 1, 2)), (colours**2).sum((0, 1, 2))


def permutation_p(a: np.ndarray, b: np.ndarray, draws: int = DRAWS, seed: int = SEED) -> float:
    """How often a random split of the same numbers has means that differ as much, both ways.

    Args:
        a: (M,) numbers.
        b: (N,) numbers.
        draws: random splits into M and N.
        seed: of the draws.

    Returns:
        (1 + splits that differ as much or more) / (1 + splits).
    """
    both = np.tile(np.concatenate([a, b]), (draws, 1))
    shuffled = np.random.default_rng(seed).permuted(both, axis=1)
    differences = np.abs(shuffled[:, : len(a)].mean(1) - shuffled[:, len(a) :].mean(1))
    # The same split in another order is the same difference but for rounding.
    as_much = differences >= abs(a.mean() - b.mean()) - 1e-12
    return float(1 + as_much.sum()) / (1 + draws)


def measure(kernel: np.ndarray, towers: int) -> dict[str, Any]:
    """The colour in conv1, as it is written to `conv1.json`.

    Args:
        kernel: (K, K, 3, N); the first half of the kernels is the first tower's.
        towers: 1 or 2.

    Returns:
        `towers`: of each its name, the mean share of its kernels, the share of all its squared
        weights (`by_energy`: large weights count more) and the share of every kernel, in order.
        With two towers also `difference`, of the means, and the `p` of `permutation_p`.
    """
    split = np.split(shares(kernel), towers)
    energies = [_energies(part) for part in np.split(kernel, towers, axis=-1)]
    found: dict[str, Any] = {"towers": []}
    for name, share, (energy, colour) in zip("AB", split, energies, strict=False):
        by_energy = float(colour.sum() / energy.sum()) if energy.any() else 0.0
        own = {"mean": float(share.mean()), "by_energy": by_energy, "kernels": share.tolist()}
        found["towers"].append({"tower": name, **own})
    if towers == 2:
        found["difference"] = float(abs(split[0].mean() - split[1].mean()))
        found["p"] = permutation_p(split[0], split[1])
    return found


def colour_table(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """What `measure` found for each run, to be read."""
    head = ("share of colour in conv1", "tower", "kernels", "mean", "by energy", "least", "most")
    rows, verdicts = [], []
    for name, found in runs.items():
        for tower in found["towers"]:
            own = tower["kernels"]
            shares = tower["mean"], tower["by_energy"], min(own), max(own)
            rows.append((name, tower["tower"], len(own), *(f"{share:.3f}" for share in shares)))
        if "p" in found:
            verdicts.append(
                f"{name}: the means of the towers differ by {found['difference']:.3f}, "
                f"p = {found['p']:.4f}"
            )
    if verdicts:
        verdicts.append(f"p: the share of {DRAWS:,} random splits that differ as much or more")
    scale = "share of colour: 0 grey, 2/3 random weights or one channel alone, 1 opponent colours"
    aligned = ["left", "left", *["right"] * 5]
    shown = tabulate(rows, head, "simple", disable_numparse=True, colalign=aligned)
    return "\n".join([shown, "", *verdicts, scale])
