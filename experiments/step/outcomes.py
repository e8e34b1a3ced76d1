"""What a way computes, to be compared with what another does."""

from collections.abc import Mapping

import numpy as np

from experiments.step.contender import Arrays, Params

CHECKED_STEPS = 3  # the third loss depends on a velocity


def difference(found: Arrays, expected: Arrays) -> float:
    """The norm of the difference over the norm of what was expected, of the worst array."""
    worst = 0.0
    for name, wanted in expected.items():
        if name.startswith("mask/"):
            continue
        apart = float(np.linalg.norm(found[name] - wanted) / max(np.linalg.norm(wanted), 1e-30))
        worst = max(worst, apart if np.isfinite(apart) else float("inf"))
    return worst


def changes(before: Params, after: Params) -> Arrays:
    """What an update did to every parameter."""
    return {
        f"{layer}/{kind}": after[layer][kind] - array
        for layer, pair in before.items()
        for kind, array in pair.items()
    }


def masks_of(first: Mapping[str, np.ndarray], step: int) -> Arrays:
    """The dropout masks of a step among an outcome; empty if it has none."""
    start = f"mask/{step}/"
    return {key.removeprefix(start): first[key] for key in first if key.startswith(start)}
