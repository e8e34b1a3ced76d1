"""Markdown tables: names to the left, numbers to the right."""

from collections.abc import Iterable, Sequence

from tabulate import tabulate

Cells = Sequence[str]


def table(head: Cells, rows: Iterable[Cells], *, names: int = 1) -> str:
    """A table that reads well as text, too.

    Args:
        head: of its columns.
        rows: each with as many cells.
        names: how many columns, from the left, are no numbers.
    """
    sides = ["left" if column < names else "right" for column in range(len(head))]
    return tabulate(
        list(rows), headers=list(head), tablefmt="pipe", colalign=sides, disable_numparse=True
    )


def in_groups(rows: Iterable[tuple[str, Cells]]) -> list[list[str]]:
    """The rows of a table, with a bold heading above those that have the same group in turn.

    Args:
        rows: each with the name of its group.
    """
    found: list[list[str]] = []
    last = None
    for group, cells in rows:
        if group != last:
            found.append([f"**{group}**", *[""] * (len(cells) - 1)])
            last = group
        found.append(list(cells))
    return found


def listed(sentences: Iterable[str]) -> str:
    """A Markdown list with one sentence a line; an empty text if there are none."""
    return "\n".join(f"- {sentence.removesuffix('.')}." for sentence in sentences)
