"""Pictures for print: one style, and files that appear once they are whole."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safelox.errors import PrerequisiteError, TargetError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png")
DOTS_PER_INCH = 300
STYLE: Any = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "grid.color": "#cccccc",
    "lines.linewidth": 1.1,
    "lines.markersize": 3.0,
    "svg.hashsalt": "safelox",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, which readers who see few colours can tell apart, but for their yellow, which print loses."""
DASHES: tuple[Any, ...] = ("-", "--", ":")
"""The dash changes where the colours begin anew."""
MARKERS = "osD^vPX<>*"
"""More than colours, so that the two together name a module."""


def check_picture(path: str | Path, *, overwrite: bool = False) -> None:
    """Whether a picture can be drawn there, before any work.

    Raises:
        UsageError: the name ends in no known format.
        TargetError: something is there already and may not be replaced, or the folder is missing.
        PrerequisiteError: matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"{target}: the name of a picture ends in {' or '.join(FORMATS)}.")
    if not target.parent.is_dir():
        raise TargetError(f"{target}: there is no folder {target.parent}. Make it first.")
    if target.is_dir() or (target.exists() and not overwrite):
        raise TargetError(f"{target} is there already. Give another name, or say --overwrite to replace a picture.")
    try:
        import matplotlib.figure  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise PrerequisiteError(
            "pictures are drawn with matplotlib, which is not installed: pip install 'safelox[report]'"
        ) from error


def save_picture(draw: "Callable[[], Figure]", path: str | Path, *, overwrite: bool = False) -> None:
    """Draw a figure in the common style and write it, so that it appears once it is whole.

    Raises:
        UsageError, TargetError, PrerequisiteError: as `check_picture`; or the file cannot be written (TargetError).
    """
    check_picture(path, overwrite=overwrite)
    import matplotlib

    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    kind = target.suffix[1:].lower()
    with matplotlib.rc_context(STYLE):
        figure = draw()
        try:
            figure.savefig(partial, format=kind, dpi=DOTS_PER_INCH, metadata={"Date": None} if kind == "svg" else None)
            os.replace(partial, target)
        except OSError as error:
            raise TargetError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)


def short_name(reference: str) -> str:
    """A model's name without the folders that lead there."""
    return reference.rstrip("/").rpartition("/")[2] or reference
