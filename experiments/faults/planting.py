"""Finds the places of a module where one small change makes a fault, and makes the change.

A fault replaces a piece of the source and nothing else, so that all lines keep their numbers.
"""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from experiments.shared.journal import fingerprint

OPERATORS: dict[type, str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
    ast.And: "or", ast.Or: "and",
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "//",
    ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip
OPERATOR = re.compile(rb"is\s+not|not\s+in|[a-z]+|[-<>=!+*/%&|^@]+")
SIGN = re.compile(rb"(not|[-~])\s*")
COMMA = re.compile(rb"[ \t]*,?[ \t]*")
WORD = re.compile(r"[a-z][a-z0-9_]*")
# What only people read or the type checker.
SPEAKING = {"print", "say", "warn", "info", "warning", "DEFINE_string", "Literal", "TypeVar"}
# Words for people, guards against what never happens, and what costs time or memory alone.
UNSEEN = {"help", "description", "metavar", "stacklevel", "strict", "frozen"}
UNSEEN |= {"maxsize", "num_threads", "prefetch_buffer_size", "dst"}
ANNOTATIONS = {"annotation", "returns", "type_params"}
CONDITIONS = {"TYPE_CHECKING", "__name__ == '__main__'"}
Change = tuple[str, int, int, bytes]  # what it does, from byte, to byte, new text


class Fault(NamedTuple):
    """One change of one file."""

    key: str  # the same for the same change of the same source
    file: str
    line: int
    kind: str
    diff: str  # the lines before and after
    lines: tuple[int, int]  # first and last of the statement, which execute the fault
    start: int  # of the bytes that it replaces
    end: int
    after: str

    def planted(self, source: bytes) -> bytes:
        """The module with the fault in it."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def faults_of(file: str, source: bytes) -> list[Fault]:
    """All faults that can be planted in a module, in the order of its lines."""
    module = _Module(source)
    found = []
    for lines, (kind, start, end, after) in module.visit(module.tree, None, (1, 1)):
        after += b"\n" * source[start:end].count(b"\n")
        changed = source[:start] + after + source[end:]
        try:
            tree = ast.parse(changed)
        except SyntaxError:  # the grammar forbids what the tree allows
            continue
        if ast.dump(tree) != ast.dump(module.tree):
            key = fingerprint(file, source, start, end, after)
            line = source.count(b"\n", 0, start) + 1
            diff = _diff(source, changed)
            found.append(Fault(key, file, line, kind, diff, lines, start, end, after.decode()))
    return sorted(found, key=lambda fault: (fault.start, fault.end, fault.after))


def _diff(before: bytes, after: bytes) -> str:
    """The lines that differ, first all of those before."""
    pairs = list(zip(before.decode().splitlines(), after.decode().splitlines(), strict=True))
    old, new = zip(*(pair for pair in pairs if pair[0] != pair[1]), strict=True)
    lines = [f"-{line}" for line in old] + [f"+{line}" for line in new if line.strip()]
    return "\n".join(line.rstrip() for line in lines)


class _Module:
    """A module's source and its tree."""

    def __init__(self, source: bytes) -> None:
        self.source, self.tree = source, ast.parse(source)
        self.line_starts = [0]
        for line in source.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))
        words: set[Any] = {node.value for node in ast.walk(self.tree) if _is_word(node)}
        self.words = [*sorted(words), "other"]

    def visit(
        self, node: ast.AST, parent: ast.AST | None, lines: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], Change]]:
        """The changes of a node and of all below it, each with the lines of its statement."""
        if _is_left_alone(node):
            return
        lines = _header(node) or lines
        for change in self.changes(node, parent):
            yield lines, change
        if isinstance(node, ast.Raise) or _name(node) in SPEAKING:
            return
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and field not in ANNOTATIONS:
                    yield from self.visit(child, node, lines)

    def changes(self, node: Any, parent: Any) -> Iterator[Change]:
        """The changes of a node itself."""
        match node:
            case ast.Compare():
                yield from self.operators([node.left, *node.comparators], node.ops)
            case ast.BinOp():
                yield from self.operators([node.left, node.right], [node.op])
            case ast.BoolOp():
                yield from self.operators(node.values, [node.op] * (len(node.values) - 1))
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
                if sign := SIGN.match(self.source, self.span(node)[0]):
                    yield f"{sign[1].decode()} removed", *sign.span(), b""
            case ast.Constant():
                yield from self.constant(node, parent)
            case ast.If() | ast.IfExp():
                yield "condition", *self.span(node.test), b"True"
                yield "condition", *self.span(node.test), b"False"
            case ast.While():
                yield "condition", *self.span(node.test), b"False"
            case ast.comprehension():
                for condition in node.ifs:
                    yield "condition", *self.span(condition), b"True"
            case ast.keyword() if isinstance(parent, ast.Call):
                start, end = self.span(node)
                if comma := COMMA.match(self.source, end):
                    yield f"{node.arg or '**'}= left out", start, comma.end(), b""
            case ast.AugAssign():
                yield from self.operators([node.target, node.value], [node.op], suffix="=")
        if _is_removable(node) and not _is_all_of_an_if(node, parent):
            yield "statement removed", *self.span(node), b"pass"

    def operators(
        self, operands: list[ast.expr], operators: list[Any], suffix: str = ""
    ) -> Iterator[Change]:
        """Every operator between the operands replaced by its neighbour."""
        for (left, right), operator in zip(pairwise(operands), operators, strict=True):
            start, end = self.span(left)[1], self.span(right)[0]
            found = OPERATOR.search(self.source, start, end)
            if found is None or b"#" in self.source[start:end] or type(operator) not in OPERATORS:
                continue
            after = OPERATORS[type(operator)] + suffix
            yield f"{found[0].decode()} to {after}", *found.span(), after.encode()

    def constant(self, node: ast.Constant, parent: Any) -> Iterator[Change]:
        """A number and the next one, True and False, a word and another of the module's words."""
        after: Any = None
        if isinstance(node.value, bool):
            after = not node.value
        elif isinstance(node.value, int | float):
            after = node.value + 1
        elif _is_word(node) and _is_choice(parent):
            after = self.words[self.words.index(node.value) + 1]
        if after is not None:
            yield f"{node.value!r} to {after!r}", *self.span(node), repr(after).encode()

    def span(self, node: Any) -> tuple[int, int]:
        """From which byte to which."""
        return (
            self.line_starts[node.lineno - 1] + node.col_offset,
            self.line_starts[node.end_lineno - 1] + node.end_col_offset,
        )


def _is_left_alone(node: ast.AST) -> bool:
    """Whether nobody would look for a fault here: messages, types, checks for the type checker."""
    match node:
        case ast.JoinedStr() | ast.Assert() | ast.Expr(value=ast.Constant()):
            return True
        case ast.keyword(arg=name):
            return name in UNSEEN
        case ast.If(test=test):
            return ast.unparse(test) in CONDITIONS
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
    return False


def _name(node: ast.AST) -> str:
    """Of the function that is called or the type that is subscripted."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name
        case ast.Subscript(value=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name
    return ""


def _is_word(node: Any) -> bool:
    match node:
        case ast.Constant(value=str(text)):
            return WORD.fullmatch(text) is not None
    return False


def _is_choice(parent: Any) -> bool:
    """Whether a word under this node chooses something: no key of a dictionary, no argument whose
    meaning is not known."""
    choosing = ast.Compare | ast.MatchValue | ast.keyword | ast.Return | ast.Assign | ast.AnnAssign
    return isinstance(parent, choosing | ast.arguments | ast.IfExp | ast.Tuple | ast.List | ast.Set)


def _is_removable(node: Any) -> bool:
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
        case ast.Delete(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


def _is_all_of_an_if(node: Any, parent: Any) -> bool:
    """Whether without the statement the program is the one whose condition is False."""
    return isinstance(parent, ast.If) and parent.body == [node] and not parent.orelse


def _header(node: Any) -> tuple[int, int] | None:
    """First and last line of a statement without the statements in it; None if it is none."""
    match node:
        case ast.match_case():
            first, body = node.pattern, node.body
        case ast.Match():
            first, body = node, [case.pattern for case in node.cases]
        case ast.stmt() | ast.ExceptHandler():
            first = (getattr(node, "decorator_list", None) or [node])[0]
            body = getattr(node, "body", [])
        case _:
            return None
    return first.lineno, max(first.lineno, body[0].lineno - 1 if body else node.end_lineno)
