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
    """An array of which both towers send something."""

    layer: str  # whose input it is, or whose input's gradient; '': of none
    back: bool  # on the way back
    kind: str  # of the collective
    dtype: str
    operand: tuple[int, ...]  # each device's
    result: tuple[int, ...]
    sent: int  # bytes, by each tower, at least
    instruction: str  # its name in the program, and in a profile


class Program:
    """The instructions of a compiled program."""

    def __init__(self, text: str, layers: Sequence[str]) -> None:
        """Args:
        text: as `compiled.as_text()` gives it.
        layers: names to look for.
        """
        self.made: dict[str, str] = {}  # the line of every instruction
        self.users: dict[str, list[str]] = {}  # the instructions that read it
        self.layer = re.compile(rf"[/(]({'|'.join(layers)})[/)]")
        for line in text.splitlines():
            if found := DEFINITION.search(line):
                self.made[found["name"]] = line
                for operand in NAME.findall(found["operands"].partition("metadata=")[0]):
                    self.users.setdefault(operand, []).append(found["name"])

    def layer_of(self, name: str) -> str:
        """The layer that an instruction is of, by what the compiler calls it; '' if by none."""
        words = OP_NAME.search(self.made.get(name, ""))
        found = self.layer.findall(words[1]) if words else []
        return found[-1] if found else ""

    def user_of(self, name: str) -> str:
        """The layer of the nearest instruction that has one, among those that use another."""
        level = seen = {name}
        while level:
            level = {user for other in level for user in self.users.get(other, [])} - seen
            seen = seen | level
            if layers := sorted(filter(None, map(self.layer_of, level))):
                return layers[0]
        return ""

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of an instruction's one result."""
        found = DEFINITION.search(self.made[name])
        assert found is not None
        return _numbers(SHAPE.findall(found["result"])[0][1])


def exchanges(text: str, layers: Sequence[str]) -> list[Exchange]:
    """All communication of a compiled step on two towers, in the program's order.

    A gather belongs to the layer that uses it, a sum to the one that makes its summands: where the
    network does not ask for it by name, the compiler calls it as it likes. What has no partner is
    none. Of several arrays in one instruction each counts.

    Args:
        text: of the program.
        layers: names to look for.

    Raises:
        ValueError: a kind of communication that two towers do not need.
    """
    program, found = Program(text, layers), []
    for match in COLLECTIVE.finditer(text):
        if ALONE.search(match["attributes"]):
            continue
        name, kind, attributes = match["name"], match["kind"], match["attributes"]
        if kind not in SENT:
            raise ValueError(f"two towers exchange by {', '.join(SENT)}, not by {kind}")
        operands = NAME.findall(match["operands"])
        results = SHAPE.findall(match["results"])[-len(operands) :]  # of a start, the last
        for operand, (dtype, result) in zip(operands, results, strict=True):
            if "/all_gather" in attributes:
                layer = program.layer_of(name)
            elif kind == "all-gather":
                layer = program.user_of(name)
            else:
                layer = program.layer_of(operand if len(operands) > 1 else name)
            shape = program.shape_of(operand)
            sent = round(SENT[kind] * math.prod(shape) * itemsize(dtype))
            found.append(
                Exchange(
                    layer, kind != "all-gather", kind, dtype, shape, _numbers(result), sent, name
                )
            )
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, text.split(","))))


def itemsize(dtype: str) -> int:
    """Bytes of a number of the compiler's type, such as f32, bf16 or pred."""
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


def places(found: Iterable[Exchange]) -> dict[tuple[str, bool], int]:
    """Bytes that each tower sends, by layer and direction, in the order of the program."""
    total: dict[tuple[str, bool], int] = {}
    for exchange in found:
        key = (exchange.layer, exchange.back)
        total[key] = total.get(key, 0) + exchange.sent
    return total
