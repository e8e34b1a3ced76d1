"""What two towers send each other in a step: read from the text of the compiled program."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

COLLECTIVE = re.compile(
    r"%(?P<name>[\w.-]+) = (?P<results>.*?) (?P<kind>all-gather|all-reduce|all-to-all"
    r"|reduce-scatter|collective-permute|collective-broadcast)(?:-start)?\((?P<operands>.*?)\)"
    r"(?P<attributes>.*)"
)
DEFINITION = re.compile(r"%(?P<name>[\w.-]+) = (?P<result>\(.*?\)|\S+) [\w-]+\((?P<operands>.*)")
NAME, SHAPE = re.compile(r"%([\w.-]+)"), re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
OP_NAME = re.compile(r'op_name="([^"]*)"')
ALONE = re.compile(r"replica_groups=\{(\{\d+\},?)+\}")  # every device is a group of its own
SENT = {  # of its operand, what each of two devices has to send
    "all-gather": 1.0,
    "reduce-scatter": 0.5,  # the half that the other one keeps
    "all-reduce": 1.0,  # one half to be added, the other one as the sum
}


class Exchange(NamedTuple):
    """An array that both towers send."""

    layer: str  # whose input, or whose input's gradient, it is; '' is none of those given
    back: bool  # a gradient
    kind: str  # of the collective
    dtype: str
    operand: tuple[int, ...]  # each device's
    result: tuple[int, ...]
    sent: int  # bytes, by each tower, at least
    instruction: str  # its name in the program and in a profile


def exchanges(program: str, layers: Sequence[str]) -> list[Exchange]:
    """All communication of a compiled step on two towers, in the program's order.

    A gather belongs to the layer that uses it, a sum to the layer that makes its summands: that is
    what the compiler's `op_name`s say. What has no partner is none.

    Args:
        program: its text, as `compiled.as_text()` gives it.
        layers: names to look for.

    Raises:
        ValueError: a kind of communication that two towers do not need.
    """
    lines = program.splitlines()
    made: dict[str, str] = {}  # the line of every instruction
    used: dict[str, list[str]] = {}  # the instructions that read it
    for line in lines:
        if found := DEFINITION.search(line):
            made[found["name"]] = line
            for operand in NAME.findall(found["operands"].partition("metadata=")[0]):
                used.setdefault(operand, []).append(found["name"])
    word = re.compile(r"[/(](%s)[/)]" % "|".join(map(re.escape, layers)))

    def layer_of(line: str) -> str:
        names = word.findall("".join(OP_NAME.findall(line)))
        return names[-1] if names else ""

    def user_of(name: str) -> str:
        """The layer of the nearest instruction that has one, among those that follow."""
        level, seen = [name], {name}
        while level:
            for layer in filter(None, (layer_of(made[other]) for other in level)):
                return layer
            level = [n for o in level for n in used.get(o, []) if n not in seen]
            seen.update(level)
        return ""

    found = []
    for line in lines:
        match = COLLECTIVE.search(line)
        if match is None or ALONE.search(match["attributes"]):
            continue
        name, kind = match["name"], match["kind"]
        if kind not in SENT:
            raise ValueError(f"two towers exchange by {', '.join(SENT)}, not by {kind}: {line}")
        operands = NAME.findall(match["operands"])
        results = SHAPE.findall(match["results"])[-len(operands) :]
        for operand, (dtype, to) in zip(operands, results, strict=True):
            definition = DEFINITION.search(made[operand])
            assert definition is not None
            ((_, of),) = SHAPE.findall(definition["result"])
            shape, result = (tuple(map(int, filter(None, s.split(",")))) for s in (of, to))
            by_itself = layer_of(line) if len(operands) == 1 else ""
            if kind == "all-gather":
                # The compiler moves it up to what made the array, unless the network asked for it.
                own = by_itself if "/all_gather" in line else ""
                layer = own or next(
                    filter(None, map(user_of, used.get(name, []))), by_itself
                )
            else:
                layer = by_itself or layer_of(made[operand])
            sent = round(SENT[kind] * math.prod(shape) * itemsize(dtype))
            back = kind != "all-gather"
            found.append(Exchange(layer, back, kind, dtype, shape, result, sent, name))
    return found


def itemsize(dtype: str) -> int:
    """Bytes of a number of the compiler's type, such as f32, bf16 or pred."""
    digits = re.search(r"\d+", dtype)
    return max(1, int(digits[0]) // 8) if digits else 1


def places(found: Iterable[Exchange]) -> dict[tuple[str, bool], int]:
    """Bytes that each tower sends, by layer and direction, in the order of the program."""
    total: dict[tuple[str, bool], int] = {}
    for exchange in found:
        key = (exchange.layer, exchange.back)
        total[key] = total.get(key, 0) + exchange.sent
    return total
