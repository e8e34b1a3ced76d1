"""What was found, as text: for a terminal of 80 columns, and as a Markdown page."""

import textwrap
from collections.abc import Mapping
from typing import Any

from experiments.claims.catalogue import CLAIMS
from experiments.claims.claim import RATIO, WRONG, Claim, unchanged
from experiments.claims.statistics import SEEN
from experiments.labnotes import BY_NAME
from experiments.shared.machine import made_by
from experiments.shared.tables import listed, table

Found = Mapping[str, Any]  # of a claim, by configuration

WIDTH = 80
HEAD = """# What the paper says, tried

Small networks on small data, trained for minutes: what is seen here need not hold at the size of
ImageNet, nor the other way round. For each network the training error stands beside the test
errors: a mean over the last tenth of the steps, with dropout and changed images, which says how
much there was to overfit. The first rows are those of 2012, as noted then: large networks, errors
on ImageNet.
Rates and epochs were chosen for the network as it is, and no other has its own (but for ReLU
against tanh): that alone favours the network as it is. The claims share its runs, so that if these
were lucky or unlucky, all the claims are right or wrong together.

Every number is a mean over seeds (for ratios the geometric mean) with its 95% interval (Student's
t); differences are between runs that share a seed. *Seen*: the interval of the difference lies on
the side that is claimed; *though less*: all of it is below the size that is claimed. *The
opposite*: the interval lies on the other side. *Not seen*: it contains 0, but not the size that is
claimed: the one that a run of 2012 (#148) or the paper found, as a share of the error, or, where
neither gives one, a size that we chose. *Cannot be told at this scale*: it contains both, or a run
never came to a number. With so many comparisons, about one in twenty comes out as seen, or as the
opposite, by chance. A cell is empty where the images or the network say nothing about a claim, as
grey ones about colours or one without padding about borders, or where it was not tried. How far the
mean of five seeds can be from that of many is shown by the list below, where a network was trained
with both.

What `embedded_hard` looks like, its rate and its epochs were chosen on validation images, to give
an error of 15 to 35% and seeds that differ little; the epochs of `fashion_mnist_small` after the
test of two runs of the network as it is ([experiments/README.md](../../README.md)). Within a claim
no test image chooses anything.
"""


def listing(every: Mapping[str, Found]) -> str:
    """All claims, for a terminal."""
    parts = [paragraph(claim, every.get(name, {})) for name, claim in CLAIMS.items()]
    for config, network in _networks(every).items():
        parts.append("\n".join(textwrap.wrap(f"{config}: {network}.", WIDTH)))
    return "\n\n".join(parts)


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
            lines += _indented(f"{config}: {told}: {verdict(comparison)}.")
    if not found:
        lines += _indented("not tried yet.")
    return "\n".join([*lines, f"  $ python -m experiments.claims {claim.name}"])


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")


def _told(comparison: Mapping[str, Any]) -> str:
    """'24.16 instead of 23.82 % wrong, +0.34 (-6.62 to +7.30)', or '2.30 (1.89 to 2.71) times'; and
    how many have no number."""
    pairs = complete(comparison)
    if not pairs:
        return f"none of {len(comparison['base'])} pairs of runs came to a number"
    base, other = (sum(numbers) / len(numbers) for numbers in zip(*pairs, strict=True))
    found, missing = comparison["difference"], len(comparison["base"]) - len(pairs)
    if comparison["unit"] == RATIO:
        times = {name: None if number is None else 1 + number for name, number in found.items()}
        told = f"{_interval(times)} {RATIO}"
    else:
        told = f"{other:.2f} instead of {base:.2f} {comparison['unit']}, {_interval(found, '+')}"
    left_out = f", {missing} of {len(comparison['base'])} never came to a number"
    return told + (left_out if missing else "")


def _claimed(comparison: Mapping[str, Any], *, share: bool = False) -> str:
    """'+1.37 (#148)', as a share '+3.4% of the error (#148)'; or '2 times (section 4.2)'."""
    if comparison["size"] is None:  # a share of an error that no run came to
        return f"({comparison['source']})"
    size, unit, base = (
        comparison["sign"] * comparison["size"],
        comparison["unit"],
        complete(comparison),
    )
    if unit == RATIO:
        told = f"{1 + size:g} {RATIO}"
    elif share and unit == WRONG and base:
        told = f"{size / (sum(number for number, _ in base) / len(base)):+.1%} of the error"
    else:
        told = f"{size:+.2f}" + (f" {unit}" if share else "")
    return f"{told} ({comparison['source']})"


def verdict(comparison: Mapping[str, Any]) -> str:
    """One of four, and whether what is seen is less than what is claimed."""
    ends = [comparison["difference"][end] for end in ("low", "high")]
    seen = comparison["verdict"] == SEEN
    less = seen and max(comparison["sign"] * end for end in ends) < comparison["size"]
    return f"{SEEN}, though less" if less else str(comparison["verdict"])


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
    networks = listed(f"`{config}`, {words}." for config, words in _networks(every).items())
    parts = [HEAD.strip(), networks, "![All of them](claims.png)", _verdicts(every)]
    for name, found in every.items():
        claim = CLAIMS[name]
        parts += [f"## {claim.sentence}", f"`python -m experiments.claims {name}`"]
        parts.append(
            f"Section {claim.section}. 2012: {claim.in_2012}."
            + (f" Caveat: {claim.caveat}." if claim.caveat else "")
        )
        for config, result in found.items():
            parts += [_arms(claim, config, result), _comparisons(result), *result["extra"]]
            parts.append(f"{_trained(result)} {made_by(result, ('jax', 'alexnet_jax'))}")
        parts.append(f"![{claim.sentence}]({name}.png)")
    if missing := [name for name in CLAIMS if name not in every]:
        parts.append(f"Not tried yet: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def _networks(every: Mapping[str, Found]) -> dict[str, str]:
    """What each configuration trains, and how that errs as it is, for each number of seeds."""
    words, errors = {}, {}
    for name, found in every.items():
        first, change = next(iter(CLAIMS[name].arms.items()))
        for config, result in found.items():
            words[config] = (
                f"{result['test_images']:,} test images of {result['dataset']}: {result['network']}"
            )
            if change is unchanged:
                seeds, error = len(result["seeds"]), result["arms"][first]["error"]["10"]
                errors[config, seeds] = f"{_interval(error)} % wrong over {seeds} seeds"
    return {
        config: f"{words[config]}; as it is "
        + ", ".join(errors[key] for key in sorted(errors) if key[0] == config)
        + ", in ten views"
        for config in sorted(words)
    }


def _trained(result: Mapping[str, Any]) -> str:
    """How many runs there were, and what they cost."""
    seconds = result["seconds_a_run"]
    cost = "" if seconds is None else f" of {seconds:.0f} seconds each"
    return f"{result['runs']} runs{cost}."


def _verdicts(every: Mapping[str, Found]) -> str:
    """All comparisons, a row each, with what was found on every dataset."""
    configs = sorted({config for found in every.values() for config in found})
    rows = []
    for name, found in every.items():
        cells: dict[str, dict[str, str]] = {}  # by what is compared and configuration
        for config, result in found.items():
            for of in result["comparisons"]:
                row = cells.setdefault(of["what"], {"claimed": _claimed(of, share=True)})
                row[config] = f"{_told(of)}: **{verdict(of)}**"
        claim = f"{CLAIMS[name].sentence} ({CLAIMS[name].section})"
        for what, of_configs in cells.items():
            columns = ("claimed", *configs)
            rows.append([claim, what, *(of_configs.get(column, "") for column in columns)])
            claim = ""
    return table(("claim", "compared", "claimed", *configs), rows, names=3 + len(configs))


def _arms(claim: Claim, config: str, result: Mapping[str, Any]) -> str:
    where = {"training": "wrong in training, %", "1": "test, one view", "10": "test, ten views"}
    rows = [
        [f"2012: #{run}", "", *(top1.get(views, "") for views in (1, 10))]
        for run in claim.notes
        for top1 in [{found.views: f"{found.top1:.2f}" for found in BY_NAME[run].errors}]
    ]
    rows += [
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
        ([c["what"], _told(c), _claimed(c), verdict(c)] for c in result["comparisons"]),
        names=4,
    )
