"""A compiled program, read from its text: what each kernel reads and writes, and whose it is.

`compiled.as_text()` is XLA's own form of what a device runs, after all of its optimization. On a
GPU every instruction of the entry computation is a kernel (or a library's call), on a TPU too; what
stands inside of a fusion stays in registers or in the chip's own memory.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
DEFINITION = re.compile(
    r"%(?P<name>[\w.-]+) = (?P<result>\(.*?\)|\S+) (?P<kind>[\w-]+)\((?P<operands>.*)"
)
NAME, SHAPE = re.compile(r"%([\w.-]+)"), re.compile(r"([a-z]+\d\w*|pred)\[([\d,]*)\]")
OP_NAME, CALLS = re.compile(r'op_name="((?:[^"\\]|\\.)*)"'), re.compile(r"calls=%([\w.-]+)")
CYCLES, FRAME = re.compile(r'"estimated_cycles":"(\d+)"'), re.compile(r"stack_frame_id=(\d+)")
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}")
GENERATED = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
NO_KERNEL = {  # names and views of what is in memory already
    "parameter",
    "constant",
    "bitcast",
    "tuple",
    "get-tuple-element",
    "partition-id",
    "replica-id",
    "after-all",
    "all-gather-done",
    "all-reduce-done",
    "reduce-scatter-done",
    "collective-permute-done",
    "async-done",
    "copy-done",
}


class Array(NamedTuple):
    """The type and shape of an array."""

    dtype: str  # as XLA has it: f32, bf16, pred
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * itemsize(self.dtype)


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    kind: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]  # their names
    line: str

    @property
    def op_name(self) -> str:
        """What JAX calls it, a path of scopes; '' if nothing."""
        found = OP_NAME.search(self.line)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """The TPU compiler's estimate, 0 where it has none."""
        found = CYCLES.search(self.line)
        return int(found[1]) if found else 0

    @property
    def calls(self) -> str:
        """The computation that a fusion is of, or ''."""
        found = CALLS.search(self.line)
        return found[1] if found else ""

    @property
    def size(self) -> int:
        """Bytes of all results."""
        return sum(array.size for array in self.results)


class Kernel(NamedTuple):
    """One launch of a device, and the bytes that it moves."""

    instruction: Instruction
    read: int
    written: int
    source: str  # the line of code it comes from, 'file.py:12'; '' if it is not known

    @property
    def moved(self) -> int:
        """Bytes, both ways."""
        return self.read + self.written


class Collective(NamedTuple):
    """What devices tell each other by one instruction."""

    kind: str
    arrays: tuple[Array, ...]  # that go in, on each device
    groups: tuple[tuple[int, ...], ...]  # of devices that talk; () is all of them
    op_name: str

    @property
    def size(self) -> int:
        """Bytes that go in."""
        return sum(array.size for array in self.arrays)


class Program:
    """The computations of a program's text."""

    def __init__(self, text: str) -> None:
        """Args:
        text: as `compiled.as_text()` gives it.
        """
        self.text = text
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        inside: dict[str, Instruction] = {}
        for line in text.splitlines():
            if head := COMPUTATION.match(line):
                inside = self.computations[head["name"]] = {}
                self.entry = head["name"] if head["entry"] else self.entry
            elif found := DEFINITION.search(line):
                inside[found["name"]] = _instruction(found, line)

    def instructions(self) -> Iterator[Instruction]:
        """Those of the entry computation, in the order of the schedule."""
        yield from self.computations[self.entry].values()

    def kernels(self) -> list[Kernel]:
        """Everything that the entry computation launches."""
        found = []
        for instruction in self.instructions():
            if instruction.kind not in NO_KERNEL:
                read, written = self._moved(instruction)
                found.append(Kernel(instruction, read, written, self.source(instruction)))
        return found

    def collectives(self) -> list[Collective]:
        """All communication, wherever it stands; what has no partner is none.

        A TPU's reduce-scatter is a fusion of that name of an all-reduce and a slice.
        """
        found = []
        for name, inside in self.computations.items():
            for instruction in inside.values():
                kind = instruction.kind.removesuffix("-start")
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                    kind = "reduce-scatter"
                groups = _groups(instruction.line)
                if kind not in COLLECTIVES or (groups and max(map(len, groups)) < 2):
                    continue
                arrays = [array for name in instruction.operands for array in inside[name].results]
                found.append(Collective(kind, tuple(arrays), groups, instruction.op_name))
        return found

    def _moved(self, instruction: Instruction) -> tuple[int, int]:
        """Bytes that a kernel reads and writes: each array once, and of a slice its part."""
        entry = self.computations[self.entry]
        inside = self.computations.get(instruction.calls, {})
        parameters = {
            int(other.line.partition("parameter(")[2].partition(")")[0]): other.name
            for other in inside.values()
            if other.kind == "parameter"
        }
        read: dict[str, int] = {}
        for number, operand in enumerate(instruction.operands):
            if operand not in entry or entry[operand].kind == "after-all":
                continue
            whole = entry[operand].size
            part = _part_read(parameters[number], inside, whole) if inside else whole
            read[operand] = min(whole, read.get(operand, 0) + part)
        return sum(read.values()), instruction.size

    def source(self, instruction: Instruction) -> str:
        """The line of the innermost function of this repository that an instruction is of."""
        found = FRAME.search(instruction.line)
        seen: set[int] = set()
        frame = int(found[1]) if found else 0
        while frame in self._frames and frame not in seen:
            seen.add(frame)
            location, parent = self._frames[frame]
            file, line = self._locations[location]
            path = self._files[file]
            if "alexnet_jax/" in path and "site-packages" not in path:
                return f"{path.rpartition('alexnet_jax/')[2]}:{line}"
            frame = parent - 1  # a parent of 1 is none; frames are counted from 1
        return ""

    @cached_property
    def _files(self) -> dict[int, str]:
        return {int(a): b for a, b in re.findall(r'^(\d+) "(.*)"$', self._part("FileNames"), re.M)}

    @cached_property
    def _locations(self) -> dict[int, tuple[int, int]]:
        pattern = r"^(\d+) \{file_name_id=(\d+) function_name_id=\d+ line=(\d+)"
        rows = re.findall(pattern, self._part("FileLocations"), re.M)
        return {int(key): (int(file), int(line)) for key, file, line in rows}

    @cached_property
    def _frames(self) -> dict[int, tuple[int, int]]:
        pattern = r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?"
        rows = re.findall(pattern, self._part("StackFrames"), re.M)
        return {int(key): (int(place), int(parent or 0)) for key, place, parent in rows}

    def _part(self, name: str) -> str:
        """A table at the head of the text."""
        return self.text.partition(f"\n{name}\n")[2].partition("\n\n")[0]


def _instruction(found: re.Match[str], line: str) -> Instruction:
    results = tuple(arrays(found["result"]))
    operands = tuple(NAME.findall(_to_closing(found["operands"])))
    return Instruction(found["name"], found["kind"], results, operands, line)


def _to_closing(text: str) -> str:
    """What stands before the parenthesis that closes one that is open."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:place]
    return text


def _part_read(parameter: str, inside: dict[str, Instruction], whole: int) -> int:
    """Bytes of a fusion's operand that it reads: all, or the slices that are all it looks at."""
    uses = [other for other in inside.values() if parameter in other.operands]
    slices = [other for other in uses if other.kind in ("slice", "dynamic-slice")]
    if not slices or len(slices) < len(uses):
        return whole
    return min(whole, sum(other.size for other in slices))


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """The devices that talk with each other; () where all do, or two by two."""
    if listed := LISTED.search(line):
        return tuple(numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1]))
    if generated := GENERATED.search(line):
        shape, order, turned = (numbers(text or "") for text in generated.groups())
        devices = np.arange(math.prod(order)).reshape(order)
        devices = devices.transpose(turned) if turned else devices
        return tuple(tuple(map(int, group)) for group in devices.reshape(shape))
    if named := NAMED.search(line):
        names, sizes = zip(*re.findall(r"'(\w+)'=(\d+)", named[1]), strict=True)
        talk = [names.index(name) for name in re.findall(r"'(\w+)'", named[2])]
        grid = np.arange(math.prod(map(int, sizes))).reshape(tuple(map(int, sizes)))
        apart = np.moveaxis(grid, talk, range(-len(talk), 0))
        count = math.prod(grid.shape[axis] for axis in talk)
        return tuple(tuple(map(int, group)) for group in apart.reshape(-1, count))
    return ()


def arrays(text: str) -> list[Array]:
    """The arrays of a result, of a tuple each of them."""
    return [Array(dtype, numbers(shape)) for dtype, shape in SHAPE.findall(text)]


def numbers(text: str) -> tuple[int, ...]:
    """'3,4' as numbers."""
    return tuple(map(int, filter(None, text.split(","))))


def itemsize(dtype: str) -> int:
    """Bytes of a number of XLA's type, such as f32, bf16 or pred."""
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1


WRITTEN = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = \w+\[([\d,]*)\]\S* ([\w-]+)\((.*)")
CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
KERNEL_AXES = re.compile(r"dim_labels=\w+_(\w+)->")


def product_operations(text: str) -> int:
    """Additions and multiplications of all products and convolutions of a program.

    Args:
        text: as `lowered.as_text(dialect="hlo")` gives it, before any optimization, on one device.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    total = 0
    for line in text.splitlines():
        found = WRITTEN.match(line)
        if not found:
            continue
        name, shape, kind, rest = found.groups()
        shapes[name] = result = numbers(shape)
        operands = [word.strip().lstrip("%") for word in _to_closing(rest).split(",")]
        if kind == "dot":
            axes = CONTRACTED.search(rest)
            assert axes is not None
            terms = math.prod(shapes[operands[0]][axis] for axis in numbers(axes[1]))
        elif kind == "convolution":
            axes = KERNEL_AXES.search(rest)
            assert axes is not None
            kernel = shapes[operands[1]]
            terms = math.prod(kernel) // kernel[axes[1].index("o")]
        else:
            continue
        total += 2 * math.prod(result) * terms
    return total


def largest(kernels: Sequence[Kernel], count: int) -> list[Kernel]:
    """Those that move the most bytes, or take the most cycles where they are known."""
    return sorted(kernels, key=lambda kernel: (kernel.instruction.cycles, kernel.moved))[::-1][
        :count
    ]
