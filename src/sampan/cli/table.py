"""Columns as Go's tabwriter lays them out: cells end with a tab, a column is as wide as its widest cell."""

from __future__ import annotations

_CONTROLS = {number: "?" for number in (*range(32), *range(127, 160)) if chr(number) not in "\t\n"}


def harmless(text: str) -> str:
    """Without what a terminal takes for an order: images and their labels are strangers' words."""
    return text.translate(_CONTROLS)


def align(text: str, minimum: int = 10, padding: int = 3) -> str:
    """`text` with its tab-separated cells aligned; the last cell of a line is not padded.

    `minimum` and `padding` are tabwriter's; Docker's tables use 10 and 3.
    """
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[0] * (len(cells) - 1) for cells in lines]
    _measure(lines, widths, 0, len(lines), 0, minimum, padding)
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(cells, [*row, 0], strict=True))
        for cells, row in zip(lines, widths, strict=True)
    )


def _measure(
    lines: list[list[str]],
    widths: list[list[int]],
    start: int,
    end: int,
    column: int,
    minimum: int,
    padding: int,
) -> None:
    """A column is a run of neighbouring lines that have a terminated cell there; it is measured for itself."""
    index = start
    while index < end:
        if len(lines[index]) - 1 <= column:
            index += 1
            continue
        stop = index
        while stop < end and len(lines[stop]) - 1 > column:
            stop += 1
        width = max(len(lines[row][column]) for row in range(index, stop)) + padding
        for row in range(index, stop):
            widths[row][column] = max(width, minimum)
        _measure(lines, widths, index, stop, column + 1, minimum, padding)
        index = stop
