"""Label and value side by side, and tables: how results are shown to people."""

from collections.abc import Sequence

_LABEL_WIDTH = 20


def labelled(*rows: tuple[str, str]) -> list[str]:
    """Label and value, side by side; a label that repeats the one above it is left out."""
    labels = ["" if i and rows[i - 1][0] == label else label for i, (label, _) in enumerate(rows)]
    margin = "\n" + " " * (_LABEL_WIDTH + 2)
    return [
        f"  {label:{_LABEL_WIDTH}}{value.replace(chr(10), margin)}"
        for label, (_, value) in zip(labels, rows, strict=True)
    ]


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of equally many cells under each other: the first cells begin at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
