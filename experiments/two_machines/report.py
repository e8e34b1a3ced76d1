"""The page about two processes with a tower each."""

from collections.abc import Iterator
from typing import Any

from experiments.shared.machine import made_by
from experiments.shared.tables import listed, table
from experiments.two_machines.exchanges import Exchange, places

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
HOW = (
    "Median, least and most of {rounds} rounds. In each all rows take turns, for {seconds:g} s or "
    "more, after a warm-up; no two run at the same time. Images lie where they are needed",
    "`differs by`: the norm of the difference from one process with two devices over that of what "
    "it has, of the worst array. In float32 sums in another order let a pool choose another pixel "
    "now and then",
    "Every process has a thread for each core: two processes share the cores, as two virtual "
    "devices do",
    "Bytes are those of the compiled program's collectives, of what one tower has to send: all of "
    "its own array in a gather, half of it in a reduce-scatter, and in a sum that both get once "
    "half to be added and half as the sum",
    "Milliseconds are those of a profile of {steps} steps: of each exchange in the process that "
    "came to it last; what it takes longer in the other one is waiting",
)


def page(result: dict[str, Any]) -> str:
    """The Markdown page of what stands in the JSON file."""
    settings = result["settings"]
    parts = [
        f"# Two processes, a tower each: the network of `{settings['config']}`, "
        f"{settings['batch']} images a step",
        made_by(result, PACKAGES),
        rates(result["rows"]),
        exchanged(result),
        "![Two towers in two processes, and what they send each other](towers.png)",
        listed(findings(result)),
        listed(line.format(**settings) for line in HOW),
    ]
    return "\n\n".join(parts) + "\n"


def rates(rows: list[dict[str, Any]]) -> str:
    """The table of the rates."""
    base = rows[-1]["images_per_second"]["median"]
    head = ("", "images/s", "from - to", "of one device", "images per CPU second", "differs by")
    lines = []
    for row in rows:
        rate = row["images_per_second"]
        lines.append((
            row["name"],
            f"{rate['median']:,.1f}",
            f"{rate['min']:,.1f} - {rate['max']:,.1f}",
            f"{rate['median'] / base:.2f}",
            f"{row['images_per_cpu_second']['median']:,.1f}",
            "" if row["key"] == "together" else f"{row['difference']:.1g}",
        ))  # fmt: skip
    return table(head, lines)


def exchanged(result: dict[str, Any]) -> str:
    """The table of what one tower sends the other."""
    head = ("into", "forward", "bytes an image", "back", "bytes an image", "MB a step", "ms")
    sent, batch = sent_of(result), result["settings"]["batch"]
    lines, total = [], [0, 0]
    for layer in dict.fromkeys(exchange.layer for exchange in sent if exchange.layer):
        own = [exchange for exchange in sent if exchange.layer == layer]
        ways = [[e for e in own if e.back == back] for back in (False, True)]
        counts = [sum(exchange.sent for exchange in way) for way in ways]
        total = [before + count for before, count in zip(total, counts, strict=True)]
        cells = [layer]
        for way, count in zip(ways, counts, strict=True):
            cells += [", ".join(_words(exchange) for exchange in way), f"{count / batch:,.0f}"]
        spent = _milliseconds(result, {exchange.instruction for exchange in own})
        lines.append([*cells, f"{sum(counts) / 1e6:.2f}", f"{spent:.1f}"])
    cells = ["all four", "", f"{total[0] / batch:,.0f}", "", f"{total[1] / batch:,.0f}"]
    names = {exchange.instruction for exchange in sent if exchange.layer}
    spent = _milliseconds(result, names)
    lines.append([*cells, f"{sum(total) / 1e6:.2f}", f"{spent:.1f}"])
    return table(head, lines)


def _words(exchange: Exchange) -> str:
    """Such as 13x13x128 gathered."""
    what = {
        "all-gather": "gathered",
        "reduce-scatter": "added, each its half",
        "all-reduce": "added",
    }
    size = "x".join(map(str, exchange.operand[1:]))
    return f"{size} {exchange.dtype} {what[exchange.kind]}"


def _milliseconds(result: dict[str, Any], names: set[str], what: str = "travel") -> float:
    return 1000 * sum(result["profile"]["seconds"][name][what] for name in names)


def sent_of(result: dict[str, Any]) -> list[Exchange]:
    """The exchanges of a result."""
    return [
        Exchange(**(e | {"operand": tuple(e["operand"]), "result": tuple(e["result"])}))
        for e in result["exchanges"]
    ]


def bytes_of(result: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """What a tower sends of an image into each layer that sees both, and of gradients back."""
    batch = result["settings"]["batch"]
    total = places(sent_of(result))
    layers = dict.fromkeys(layer for layer, _ in total if layer)
    return {
        layer: (total.get((layer, False), 0) // batch, total.get((layer, True), 0) // batch)
        for layer in layers
    }


def findings(result: dict[str, Any]) -> Iterator[str]:
    """What the tables come to."""
    sent, batch = sent_of(result), result["settings"]["batch"]
    step = 1000 * result["profile"]["seconds_per_step"]
    four = {exchange.instruction for exchange in sent if exchange.layer}
    rest = {exchange.instruction for exchange in sent} - four
    waiting = _milliseconds(result, four, "with_waiting") - _milliseconds(result, four)
    others = _milliseconds(result, rest, "with_waiting")
    yield (
        f"Of a step of {step:,.0f} ms in the profile {_milliseconds(result, four) / step:.1%} is "
        f"the four exchanges there and back, {waiting / step:.1%} is waiting in them for the other "
        f"tower, and {others / step:.1%} is the loss and the errors, of which each tower has half "
        "the classes"
    )
    by_place = places(sent)
    bytes_ = sum(by_place.values()) / batch
    small = sum(count for (layer, _), count in by_place.items() if not layer) / batch
    yield (
        f"A tower sends {bytes_:,.0f} bytes an image in all, {small:,.0f} of them for the loss and "
        "the errors; no weight and no gradient of a weight is among them"
    )
    carried = result["loopback_bytes_per_image"]
    if carried == carried:  # it is known
        yield (
            f"The loopback device carried {carried / 2:,.0f} bytes an image in each direction, "
            f"{carried / 2 / bytes_:.2f} times as many"
        )
    apart = next(row for row in result["rows"] if row["key"] == "apart")
    yield (
        "Two processes and one with two devices agree in the losses of three steps and in the "
        "change of every parameter in the first, "
        + ("bit for bit" if apart["difference"] == 0 else "but for rounding")
    )
