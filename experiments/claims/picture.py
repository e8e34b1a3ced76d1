"""Claims as pictures: one with its differences, or the mean differences of all."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alexnet_jax.pictures.saving import save
from experiments.claims.claim import RATIO, WRONG, Claim
from experiments.claims.page import complete, verdict
from experiments.claims.statistics import NOT_SEEN, OPPOSITE, SEEN

COLOURS = {SEEN: "C2", OPPOSITE: "C3", NOT_SEEN: "C0"}
UNTOLD = "0.45"


def draw(claim: Claim, found: Mapping[str, Any], path: Path) -> Path:
    """Draws what was found on every dataset into a file: a panel for each unit, and one more with
    the courses of the training if the claim is about them."""
    heights, drawn = [], []
    for config, result in found.items():
        title = f"{config}, {len(result['comparisons'][0]['base'])} seeds"
        for of in in_units(result["comparisons"]):
            heights.append(1.0 + 0.5 * len(of))
            drawn.append(functools.partial(_differences, title=title, comparisons=of))
            title = ""
        if claim.level:
            heights.append(2.6)
            drawn.append(functools.partial(_courses, arms=result["arms"], level=claim.level))
    figure = Figure(figsize=(8, sum(heights) + 0.4), dpi=120)
    panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(panels, drawn, strict=True):
        panel(axes)
    figure.suptitle(f"{claim.sentence} ({claim.section})", fontsize=10, x=0.01, ha="left")
    figure.text(
        0.01, 0.005,
        f"dots: {claim.dots}; bar: 95% interval of the mean; dotted: what the claim amounts to",
        fontsize=7, color="0.4",
    )  # fmt: skip
    height = figure.get_figheight()
    figure.tight_layout(rect=(0, 0.2 / height, 0.98, 1 - 0.25 / height))
    return save(figure, path)


def in_units(comparisons: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Those of the same unit together, in their order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for comparison in comparisons:
        found.setdefault(comparison["unit"], []).append(comparison)
    return list(found.values())


def _differences(axes: Axes, title: str, comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Of every seed, their mean and its interval, a line for each comparison; ratios as they are,
    not as what is more than once."""
    ratios = comparisons[0]["unit"] == RATIO
    base = 1.0 if ratios else 0.0
    for place, comparison in enumerate(comparisons):
        colour = COLOURS.get(comparison["verdict"], UNTOLD)
        each = [base + other - one for one, other in complete(comparison)]
        mean = {k: None if n is None else base + n for k, n in comparison["difference"].items()}
        if comparison["size"] is not None:
            claimed = base + comparison["sign"] * comparison["size"]
            axes.plot([claimed] * 2, [place - 0.35, place + 0.35], ":", color="0.3", lw=1)
        axes.plot(each, [place] * len(each), "o", color=colour, ms=4, alpha=0.45)
        if None not in mean.values():
            axes.plot([mean["low"], mean["high"]], [place] * 2, color=colour, lw=2)
            axes.plot([mean["mean"]], [place], "D", color=colour, ms=7)
        axes.annotate(
            verdict(comparison), (1.01, place), xycoords=("axes fraction", "data"),
            va="center", fontsize=8, color=colour,
        )  # fmt: skip
    axes.axvline(base, color="0.7", lw=1, zorder=0)
    axes.set_yticks(range(len(comparisons)), [c["what"] for c in comparisons], fontsize=8)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    axes.set_xlabel(RATIO if ratios else f"difference, {comparisons[0]['unit']}", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _courses(axes: Axes, arms: Mapping[str, Mapping[str, Any]], level: float) -> None:
    """The training error by step, as in Figure 1: the mean over the seeds of every network."""
    for name, arm in arms.items():
        steps, errors = zip(*arm["course"], strict=True)
        axes.plot(steps, [100 * error for error in errors], lw=1.5, label=name)
    axes.axhline(100 * level, color="0.3", ls=":", lw=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("training error, %", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def overview(every: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Draws how much more is wrong than in the network as it is, of all claims about that.

    In percent of its errors, so that datasets stand beside each other and beside 2012; what was
    claimed lies to the right.

    Args:
        every: what was found, by claim and configuration.
        path: of the picture.
    """
    configs = sorted({config for found in every.values() for config in found})
    markers = dict(zip(configs, itertools.cycle("Ds^o"), strict=False))
    rows: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for name, found in every.items():
        for config, result in found.items():
            for comparison in result["comparisons"]:
                known = None not in comparison["difference"].values()
                if known and comparison["unit"] == WRONG and any(comparison["base"]):  # or no share
                    rows.setdefault((name, comparison["what"]), {})[config] = comparison
    figure = Figure(figsize=(9, 1.4 + 0.36 * len(rows)), dpi=120)
    axes = figure.subplots()
    for place, comparisons in enumerate(rows.values()):
        for config, comparison in comparisons.items():
            base = [one for one, _ in complete(comparison)]
            share = 100 * comparison["sign"] * len(base) / sum(base)
            low, mean, high = (share * comparison["difference"][n] for n in ("low", "mean", "high"))
            colour = COLOURS.get(comparison["verdict"], UNTOLD)
            at = place + 0.3 * (configs.index(config) - (len(configs) - 1) / 2)
            axes.plot([low, high], [at] * 2, color=colour, lw=1.5)
            axes.plot([mean], [at], markers[config], color=colour, ms=5)
            claimed = abs(share) * comparison["size"]
            axes.plot([claimed] * 2, [place - 0.3, place + 0.3], ":", color="0.3", lw=1)
    axes.axvline(0, color="0.7", lw=1, zorder=0)
    axes.set_xscale("symlog", linthresh=10)
    ticks = (-50, -20, -10, -5, 0, 5, 10, 20, 50, 100)
    axes.set_xticks(ticks, [f"{tick:+d}%" if tick else "0" for tick in ticks], fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{name}: {what}" for name, what in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("difference of the error, in percent of it; right: as claimed", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    shapes = [Line2D([], [], marker=of, ls="", color="0.3") for of in markers.values()]
    colours = [Line2D([], [], color=colour, lw=2) for colour in (*COLOURS.values(), UNTOLD)]
    figure.legend(
        shapes + colours, [*configs, *COLOURS, "cannot be told"], loc="upper left", ncols=6,
        fontsize=8, frameon=False,
    )  # fmt: skip
    figure.text(
        0.01, 0.008, "bars: 95% intervals of means over seeds; dotted: what the claim amounts to",
        fontsize=7, color="0.4",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.02, 1, 0.97))
    return save(figure, path)
