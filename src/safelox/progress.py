"""What long work reports to: nothing by default; the command line passes bars or plain lines."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Literal, Protocol


class Task(Protocol):
    """One running piece of work with a known or unknown amount."""

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Say that `amount` more units are done; `note` names what is being worked on."""


class Progress(Protocol):
    """Where long work reports. Implementations must be safe to call from several threads."""

    def task(self, description: str, total: float | None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task of `total` units (None where it is not known)."""

    def message(self, text: str) -> None:
        """Say one thing worth a line."""


class _NullTask:
    def advance(self, amount: float = 1, note: str | None = None) -> None:
        pass


class _NullProgress:
    @contextmanager
    def task(self, description: str, total: float | None, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        yield _NullTask()

    def message(self, text: str) -> None:
        pass


@contextmanager
def no_foreign_bars(library: Literal["transformers", "datasets"] = "transformers") -> Iterator[None]:
    """Without the library's progress bars, which would cut through ours. Imports the library."""
    logging = import_module(f"{library}.utils.logging")
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


NULL: Progress = _NullProgress()
"""Reports to nobody: the default of every library function."""
