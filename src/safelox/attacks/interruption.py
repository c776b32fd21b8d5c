"""Ctrl-C during long work that first comes to a place where it can stop."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interruption:
    """While its context is open, the first Ctrl-C is only noted; a second one interrupts at once, as ever.

    Only the main thread hears signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
