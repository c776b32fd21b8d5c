"""The outcome of `report` as text for people."""

import textwrap
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled
from safelox.units import format_bytes

if TYPE_CHECKING:
    from safelox.reporting import ReportResult

WIDTH = 100
MISSING_SHOWN = 5


def render_report(result: "ReportResult") -> str:
    """What the page says first, what is missing, and where it is."""
    lines = [textwrap.fill(sentence, WIDTH) for sentence in result.sentences]
    rows = [
        ("models, replies", f"{result.models:,}, {result.replies:,}"),
        ("charts", f"{result.charts:,}"),
        *(("missing", text) for text in result.missing[:MISSING_SHOWN]),
    ]
    if len(result.missing) > MISSING_SHOWN:
        rows.append(("missing", f"and {len(result.missing) - MISSING_SHOWN} more, all told on the page"))
    if result.figures:
        rows.append(("figures, tables", f"{len(result.figures)} files in {result.figures_folder}"))
    rows.append(("page", f"{result.page} ({format_bytes(result.page_bytes)})"))
    return "\n".join([*lines, *([""] if lines else []), *labelled(*rows)])
