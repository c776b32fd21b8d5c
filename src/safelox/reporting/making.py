"""`report`: a folder of results as one page, and as figures and tables for papers."""

import os
from pathlib import Path

from safelox.errors import TargetError
from safelox.manifest import Record
from safelox.progress import NULL, Progress
from safelox.reporting.headline import headlines
from safelox.reporting.page import render_page, require_page
from safelox.reporting.papers import check_papers, write_papers
from safelox.reporting.reading import read_folder
from safelox.reporting.sections import make_sections
from safelox.writer.disk import explained


class ReportResult(Record):
    """What `report` made."""

    results: str
    """The folder that was read."""
    page: str
    page_bytes: int
    models: int
    """That have been asked something."""
    replies: int
    charts: int
    sentences: tuple[str, ...]
    """What the page says first."""
    missing: tuple[str, ...]
    """What was not there, failed or could not be read, a sentence each."""
    figures: tuple[str, ...]
    """Files for papers, inside `figures_folder`."""
    figures_folder: str | None


def report(
    results: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    figures: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress = NULL,
) -> ReportResult:
    """Make one self-contained HTML page of a folder of results; no model is opened.

    What is not there yet or cannot be read is said on the page, and the rest is shown.

    Args:
        results: the folder of an experiment, finished or not, or any with results of `evaluate`, `rank_curve`,
            `landscape` and `tune` in it or below it, or with spectrum.json, drift.json or NAME.drift.json as
            `safelox spectrum --json` and `safelox drift --json` print them.
        out: where the page goes.
        figures: a folder that gets every chart as SVG and PNG and every table as CSV and LaTeX.
        overwrite: replace the page, and figures of the same names.

    Raises:
        TargetError: there are no results, or the page or the figures cannot be written there.
        PrerequisiteError: jinja2, plotly or matplotlib is missing.
    """
    target = Path(out)
    require_page()
    _check_target(target, overwrite=overwrite)
    if figures is not None:
        check_papers(Path(figures), overwrite=overwrite)
    with progress.task("reading", None):
        found = read_folder(Path(results))
    first = headlines(found)
    sections = make_sections(found)
    with progress.task("writing the page", None):
        content = render_page(found, first, sections).encode("utf-8", "replace")
        _put(target, content)
    written = [] if figures is None else write_papers(sections, Path(figures), progress=progress)
    replies = [asked.replies for model in found.models for asked in model.asked if asked.replies is not None]
    return ReportResult(
        results=str(results),
        page=str(target),
        page_bytes=len(content),
        models=sum(any(asked.replies is not None for asked in model.asked) for model in found.models),
        replies=sum(len(one.samples) for one in replies),
        charts=sum(len(figure.charts) for section in sections for figure in section.figures),
        sentences=tuple(headline.sentence for headline in first),
        missing=found.missing,
        figures=tuple(path.name for path in written),
        figures_folder=None if figures is None else str(figures),
    )


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        raise TargetError(f"{target}: this is a folder; name the file of the page, such as {target / 'report.html'}.")
    if not target.parent.is_dir():
        raise TargetError(f"{target}: there is no folder {target.parent}. Make it first.")
    if target.exists() and not overwrite:
        raise TargetError(f"{target} is there already. Give another name, or say --overwrite to replace it.")


def _put(target: Path, content: bytes) -> None:
    """Write the page in one step, so that it is never seen half-written."""
    partial = target.with_name(f".{target.name}.partial")
    with explained(target):
        try:
            partial.write_bytes(content)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
