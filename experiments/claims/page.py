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

Small networks on small data: what is seen here need not be so at the size of ImageNet, nor the
other way round. Every number is a mean over seeds with its 95% interval (Student's t); differences
are of runs that share a seed. *Seen*: the interval of the difference lies on the side that is
claimed. *The opposite*: on the other. *Not seen*: it holds 0, and not the size that 2012 found, as
a share of the error. *Cannot be told at this scale*: it holds both.
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
            lines += _indented(f"{config}: {_sentence(comparison)}.")
    if not found:
        lines += _indented("not tried yet.")
    return "\n".join([*lines, f"  $ python -m experiments.claims {claim.name}"])


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")


def _sentence(comparison: Mapping[str, Any]) -> str:
    seeds = len(comparison["base"])  # one of the runs may have chosen, and is not compared
    base = sum(comparison["base"]) / len(comparison["base"])
    other = sum(comparison["other"]) / len(comparison["other"])
    return (
        f"{comparison['what']} {other:.2f} instead of {base:.2f} {comparison['unit']}, "
        f"{interval(comparison['difference'])} over {seeds} seeds: {comparison['verdict']}"
    )


def interval(found: Mapping[str, float]) -> str:
    """'+1.32 (+0.80 to +1.84)'."""
    return "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**found)


def page(every: Mapping[str, Found]) -> str:
    """The Markdown page of all that was tried."""
    parts = [HEAD.strip(), "![All of them](claims.png)", _verdicts(every)]
    for name, found in every.items():
        claim = CLAIMS[name]
        parts += [f"## {claim.sentence}", f"`python -m experiments.claims {name}`"]
        parts.append(
            f"Section {claim.section}. 2012: {claim.in_2012}."
            + (f" To be remembered: {claim.caveat}." if claim.caveat else "")
        )
        for config, result in found.items():
            parts.append(_arms(config, result))
            parts.append(_comparisons(result))
            parts += result["extra"]
        parts.append(f"![{claim.sentence}]({name}.png)")
        last = list(found.values())[-1]
        parts.append(made_by(last, ("jax", "alexnet_jax")))
    return "\n\n".join(parts) + "\n"


def _verdicts(every: Mapping[str, Found]) -> str:
    """All comparisons, a row each, with what was found on every dataset."""
    configs = sorted({config for found in every.values() for config in found})
    rows = []
    for name, found in every.items():
        cells: dict[str, dict[str, str]] = {}  # by what is compared and configuration
        for config, result in found.items():
            for of in result["comparisons"]:
                cell = f"{interval(of['difference'])} {of['unit']}: **{of['verdict']}**"
                cells.setdefault(of["what"], {})[config] = cell
        claim = f"{CLAIMS[name].sentence} ({CLAIMS[name].section})"
        for what, cell in cells.items():
            rows.append([claim, what, *(cell.get(config, "") for config in configs)])
            claim = ""
    return table(("claim", "compared", *configs), rows, names=2 + len(configs))


def _arms(config: str, result: Mapping[str, Any]) -> str:
    head = ("network", "wrong in one view, %", "in ten views, %")
    rows = []
    for name, arm in result["arms"].items():
        means = [arm["error"][views] for views in ("1", "10")]
        cells = ["{mean:.2f} ({low:.2f} to {high:.2f})".format(**of) for of in means]
        rows.append([name, *cells])
    return (
        f"`{config}`: {result['test_images']:,} test images of `{result['dataset']}`, "
        f"{len(result['seeds'])} seeds.\n\n{table(head, rows)}"
    )


def _comparisons(result: Mapping[str, Any]) -> str:
    head = ("compared", "difference, paired", "", "verdict")
    return table(
        head,
        (
            [c["what"], interval(c["difference"]), c["unit"], c["verdict"]]
            for c in result["comparisons"]
        ),
        names=4,
    )
