"""Figures and tables for papers."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from safelox.errors import TargetError
from safelox.pictures import check_picture, save_picture
from safelox.progress import NULL, Progress
from safelox.reporting.chart import Section
from safelox.reporting.drawing import draw_chart
from safelox.reporting.table import Table, make_table, to_csv, to_latex
from safelox.writer.disk import explained, put_text

CONTENTS = "contents"
"""The table that says what the other files are."""


def check_papers(folder: Path, *, overwrite: bool) -> None:
    """
    Raises:
        TargetError: the folder cannot take the files.
        PrerequisiteError: matplotlib is missing.
    """
    if folder.exists() and not folder.is_dir():
        raise TargetError(f"{folder}: this is a file; figures need a folder.")
    if not folder.parent.is_dir():
        raise TargetError(f"{folder}: there is no folder {folder.parent}. Make it first.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise TargetError(
            f"{folder}: not empty. Choose another folder, or say --overwrite to replace what has the same name."
        )
    with explained(folder):
        folder.mkdir(exist_ok=True)
    check_picture(folder / "picture.svg", overwrite=True)


def write_papers(sections: Sequence[Section], folder: Path, *, progress: Progress = NULL) -> list[Path]:
    """Every chart as SVG and PNG, every table as CSV and LaTeX (booktabs), and a table of contents.

    Returns: the paths of the files.
    """
    written = []
    charts = [chart for section in sections for figure in section.figures for chart in figure.charts]
    with progress.task("drawing", len(charts)) as task:
        for chart in charts:
            for kind in ("svg", "png"):
                path = folder / f"{chart.id}.{kind}"
                save_picture(partial(draw_chart, chart), path, overwrite=True)
                written.append(path)
            task.advance(1, chart.id)
    titles = make_table(
        CONTENTS,
        "What the files are",
        [("file", "text"), ("title", "text"), ("what it shows", "text")],
        [[chart.id, chart.title, chart.caption] for chart in charts]
        + [[table.id, table.caption, ""] for section in sections for table in section.tables],
    )
    for table in (titles, *_tables(sections)):
        for kind, text in (("csv", to_csv(table)), ("tex", to_latex(table))):
            path = folder / f"{table.id}.{kind}"
            with explained(path):
                put_text(path, text)
            written.append(path)
    return written


def _tables(sections: Sequence[Section]) -> Iterator[Table]:
    for section in sections:
        yield from section.tables
        for figure in section.figures:
            yield from (chart.table for chart in figure.charts)
