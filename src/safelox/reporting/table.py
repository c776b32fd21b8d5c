"""Tables, once as figures, and in the forms that pages, spreadsheets and papers take."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Literal

from safelox.manifest import Record

Kind = Literal["text", "percent", "bounds", "count", "number"]
"""What a column holds: words, shares, intervals of shares, whole numbers, or any numbers."""
Cell = str | int | float | tuple[float, float] | None
ABSENT = "\u2013"

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\u00b7": r"$\cdot$",
    "\u00d7": r"$\times$",
    "\u2013": "--",
    "\u2212": "$-$",
    "\u03b1": r"$\alpha$",
}


class Column(Record):
    name: str
    kind: Kind = "text"


class Table(Record):
    """A table of which each column is of one kind."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """Shares go from 0 to 1; None where there is nothing."""

    def texts(self) -> list[list[str]]:
        """The cells as people read them."""
        kinds = [column.kind for column in self.columns]
        return [[format_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)] for row in self.rows]


def make_table(
    id: str,
    caption: str,
    columns: Sequence[tuple[str, Kind]],
    rows: Sequence[Sequence[Cell]],
    *,
    once: Sequence[str] = (),
) -> Table:
    """A table from plain lists.

    Args:
        once: columns that go into the caption where all their cells are the same.
    """
    same = {i: rows[0][i] for i, (name, _) in enumerate(columns) if name in once and len({row[i] for row in rows}) == 1}
    said = ", ".join(str(cell) for cell in same.values() if cell)
    return Table(
        id=id,
        caption=f"{caption} ({said})" if said else caption,
        columns=tuple(Column(name=name, kind=kind) for i, (name, kind) in enumerate(columns) if i not in same),
        rows=tuple(tuple(cell for i, cell in enumerate(row) if i not in same) for row in rows),
    )


def format_cell(cell: Cell, kind: Kind) -> str:
    """A cell as people read it."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ABSENT
    if isinstance(cell, str):
        return cell
    if isinstance(cell, tuple):
        return f"{100 * cell[0]:.1f} to {100 * cell[1]:.1f} %"
    if kind == "percent":
        return f"{100 * cell:.1f} %"
    return f"{cell:,.0f}" if kind == "count" else f"{cell:.4g}"


def to_csv(table: Table) -> str:
    """The table for a spreadsheet: shares as they are, and what is missing empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = [column.kind for column in table.columns]
    names = [[f"{c.name} low", f"{c.name} high"] if c.kind == "bounds" else [c.name] for c in table.columns]
    writer.writerow([name for own in names for name in own])
    for row in table.rows:
        writer.writerow([plain for cell, kind in zip(row, kinds, strict=True) for plain in _plain(cell, kind)])
    return text.getvalue()


def to_latex(table: Table) -> str:
    """The table for a paper, with the rules of booktabs."""
    alignment = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    head = " & ".join(escape_latex(column.name) for column in table.columns)
    rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in table.texts()]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\label{{tab:{table.id}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """The text as LaTeX sets it, whatever signs are in it; line breaks become spaces, control characters vanish."""
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()) if sign.isprintable())


def _plain(cell: Cell, kind: Kind) -> list[Cell]:
    """What stands in the file: one value, or two of an interval."""
    if kind == "bounds":
        return list(cell) if isinstance(cell, tuple) else [None, None]
    if isinstance(cell, float) and math.isnan(cell):
        return [None]
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return [f"'{cell}"]  # or a spreadsheet would run it as a formula
    return [cell]
