"""What was found, as text: for a terminal of 80 columns, and as a Markdown page."""

import textwrap
from collections.abc import Mapping
from typing import Any

from experiments.claims.catalogue import CLAIMS
from experiments.claims.claim import Claim
from experiments.shared.machine import made_by
from experiments.shared.tables import table

Found = Mapping[str, Any]  # of a claim, by configuration

WIDTH = 80
HEAD = """# What the paper says, tried

Small networks on small data, trained for minutes: what is seen here need not be so at the size of
ImageNet, nor the other way round. Most still err in a fifth of the training images when they end,
so that what speeds learning up helps, and what is against overfitting has little to do: the errors
on training images, means over the last tenth of the steps with dropout and changed images, stand
beside those of the test.

Every number is a mean over seeds with its 95% interval (Student's t); differences are of runs that
share a seed. *Seen*: the interval of the difference lies on the side that is claimed. *The
opposite*: on the other. *Not seen*: it holds 0, and not what the claim amounts to: what a run of
2012 (#148) or the paper found, as a share of the error, or where neither says it what seemed worth
a word to us. *Cannot be told at this scale*: it holds both, or a run never came to a number. With
so many comparisons one in twenty or so is seen, or the opposite, by chance; five seeds of a network
that comes to 20% in some and to 40% in others say little, whatever the interval.

Of the test images of `embedded_hard` one or two runs of the network as it is were seen before its
look was settled, and of `fashion_mnist_small` two before its epochs were
([experiments/README.md](../../README.md)); within a claim none chooses anything.
"""


def listing(every: Mapping[str, Found]) -> str:
    """All claims, for a terminal."""
    return "\n\n".join(paragraph(claim, every.get(name, {})) for name, claim in CLAIMS.items())


def paragraph(claim: Claim, found: Found) -> str:
    """One claim, what was found in 2012 and here, and the command."""
    lines = [
        *textwrap.wrap(f"{claim.sentence} (section {claim.section}).", WIDTH),
        *_indented(f"2012: {claim.in_2012}."),
    ]
    for config, result in found.items():
        for comparison in result["comparisons"]:
            seeds = len(comparison["base"])
            told = f"{comparison['what']} {_told(comparison)} over {seeds} seeds"
            lines += _indented(f"{config}: {told}: {comparison['verdict']}.")
    if not found:
        lines += _indented("not tried yet.")
    return "\n".join([*lines, f"  $ python -m experiments.claims {claim.name}"])


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")


def _told(comparison: Mapping[str, Any]) -> str:
    """'24.16 instead of 23.82 % wrong, +0.34 (-6.62 to +7.30)'; and how many have no number."""
    pairs = complete(comparison)
    if not pairs:
        return f"none of {len(comparison['base'])} pairs of runs came to a number"
    base, other = (sum(numbers) / len(numbers) for numbers in zip(*pairs, strict=True))
    missing = len(comparison["base"]) - len(pairs)
    return (
        f"{other:.2f} instead of {base:.2f} {comparison['unit']}, "
        f"{_interval(comparison['difference'], '+')}"
        + (f", {missing} of {len(comparison['base'])} never came to a number" if missing else "")
    )


def complete(comparison: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The numbers of the base and of the other, of the seeds that have both."""
    pairs = zip(comparison["base"], comparison["other"], strict=True)
    return [(base, other) for base, other in pairs if base is not None and other is not None]


def _interval(found: Mapping[str, float | None], sign: str = "") -> str:
    """'+1.32 (+0.80 to +1.84)', or as much of it as is known."""
    mean, low, high = ("" if n is None else f"{n:{sign}.2f}" for n in found.values())
    return f"{mean} ({low} to {high})" if low and high else mean


def page(every: Mapping[str, Found]) -> str:
    """The Markdown page of all that was tried."""
    parts = [HEAD.strip(), _networks(every), "![All of them](claims.png)", _verdicts(every)]
    for name, found in every.items():
        claim = CLAIMS[name]
        parts += [f"## {claim.sentence}", f"`python -m experiments.claims {name}`"]
        parts.append(
            f"Section {claim.section}. 2012: {claim.in_2012}."
            + (f" To be remembered: {claim.caveat}." if claim.caveat else "")
        )
        for config, result in found.items():
            parts += [_arms(config, result), _comparisons(result), *result["extra"]]
            parts.append(f"{_trained(result)} {made_by(result, ('jax', 'alexnet_jax'))}")
        parts.append(f"![{claim.sentence}]({name}.png)")
    if missing := [name for name in CLAIMS if name not in every]:
        parts.append(f"Not tried yet: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def _networks(every: Mapping[str, Found]) -> str:
    """What each configuration trains."""
    found = {config: result for of in every.values() for config, result in of.items()}
    return "\n".join(
        f"- `{config}`, of `{result['dataset']}`: {result['network']}."
        for config, result in sorted(found.items())
    )


def _trained(result: Mapping[str, Any]) -> str:
    """How many runs there were, what they cost, and by which commits."""
    seconds = result["seconds_a_run"]
    cost = "" if seconds is None else f" of {seconds:.0f} seconds on one core each"
    return f"{result['runs']} runs{cost}, trained at {', '.join(result['trained_at'])}."


def _verdicts(every: Mapping[str, Found]) -> str:
    """All comparisons, a row each, with what was found on every dataset."""
    configs = sorted({config for found in every.values() for config in found})
    rows = []
    for name, found in every.items():
        cells: dict[str, dict[str, str]] = {}  # by what is compared and configuration
        for config, result in found.items():
            for of in result["comparisons"]:
                cell = f"{_told(of)}: **{of['verdict']}**"
                cells.setdefault(of["what"], {})[config] = cell
        claim = f"{CLAIMS[name].sentence} ({CLAIMS[name].section})"
        for what, of_configs in cells.items():
            rows.append([claim, what, *(of_configs.get(config, "") for config in configs)])
            claim = ""
    return table(("claim", "compared", *configs), rows, names=2 + len(configs))


def _arms(config: str, result: Mapping[str, Any]) -> str:
    where = {"training": "wrong in training, %", "1": "test, one view", "10": "test, ten views"}
    rows = [
        [name, *(_interval(arm["error"][column]) for column in where)]
        for name, arm in result["arms"].items()
    ]
    return (
        f"`{config}`: {result['test_images']:,} test images of `{result['dataset']}`, "
        f"{len(result['seeds'])} seeds.\n\n{table(('network', *where.values()), rows)}"
    )


def _comparisons(result: Mapping[str, Any]) -> str:
    head = ("compared", "found", "claimed", "verdict")
    return table(
        head,
        (
            [c["what"], _told(c), f"{c['sign'] * c['size']:+.2f} ({c['source']})", c["verdict"]]
            for c in result["comparisons"]
        ),
        names=4,
    )
