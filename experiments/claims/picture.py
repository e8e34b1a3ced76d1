"""A claim as a picture: the differences, their mean and its interval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alexnet_jax.pictures.saving import save
from experiments.claims.claim import Claim
from experiments.claims.statistics import NOT_SEEN, OPPOSITE, SEEN

COLOURS = {SEEN: "C2", OPPOSITE: "C3", NOT_SEEN: "C0"}


def draw(claim: Claim, found: Mapping[str, Any], path: Path) -> Path:
    """Draws what was found on every dataset, one panel each, into a file."""
    rows = max(len(result["comparisons"]) for result in found.values())
    figure = Figure(figsize=(8, (1.1 + 0.55 * rows) * len(found) + 0.4), dpi=120)
    panels = figure.subplots(len(found), squeeze=False)[:, 0]
    for axes, (config, result) in zip(panels, found.items(), strict=True):
        comparisons = result["comparisons"]
        for place, comparison in enumerate(comparisons):
            colour = COLOURS.get(comparison["verdict"], "0.45")
            pairs = zip(comparison["base"], comparison["other"], strict=True)
            each = [other - base for base, other in pairs]
            mean = comparison["difference"]
            claimed = comparison["sign"] * comparison["size"]
            axes.plot([claimed] * 2, [place - 0.35, place + 0.35], ":", color="0.3", lw=1)
            axes.plot(each, [place] * len(each), "o", color=colour, ms=4, alpha=0.45)
            axes.plot([mean["low"], mean["high"]], [place] * 2, color=colour, lw=2)
            axes.plot([mean["mean"]], [place], "D", color=colour, ms=7)
            axes.annotate(
                comparison["verdict"], (1.01, place), xycoords=("axes fraction", "data"),
                va="center", fontsize=8, color=colour,
            )  # fmt: skip
        axes.axvline(0, color="0.7", lw=1, zorder=0)
        axes.set_yticks(range(len(comparisons)), [c["what"] for c in comparisons], fontsize=8)
        axes.set_ylim(len(comparisons) - 0.4, -0.6)
        units = dict.fromkeys(c["unit"] for c in comparisons)
        axes.set_xlabel(f"difference, {' / '.join(units)}", fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(f"{config}, {len(result['seeds'])} seeds", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{claim.sentence} ({claim.section})", fontsize=10, x=0.01, ha="left")
    figure.text(
        0.01, 0.005,
        f"dots: {claim.dots}; bar: 95% interval of the mean; dotted: what the claim amounts to",
        fontsize=7, color="0.4",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.03, 0.98, 1))
    return save(figure, path)
