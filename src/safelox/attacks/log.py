"""The course of a training as JSON Lines: one line per optimizer step."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safelox.writer.disk import explained

LOG_NAME = "log.jsonl"


class StepLog:
    """A file with a line for every step: step, epoch, loss, learning rate, gradient norm, tokens per second."""

    def __init__(self, path: Path, after: int = 0) -> None:
        """Go on after that step; lines of later ones, of a run that was killed, are dropped.

        Raises:
            TargetError: the file cannot be written.
        """
        self._path = path
        self._tokens = 0.0
        self._time = time.perf_counter()
        with explained(path):
            kept = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            path.write_text("".join(line for line in kept if _step(line) <= after), encoding="utf-8")

    def add(self, step: int, logs: Mapping[str, Any]) -> None:
        """Append the line of a step from what the trainer says of it.

        Raises:
            TargetError: it cannot be written.
        """
        now, tokens = time.perf_counter(), float(logs.get("num_tokens", 0.0))
        line = {
            "step": step,
            "epoch": logs.get("epoch"),
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "tokens_per_second": (tokens - self._tokens) / (now - self._time),
        }
        self._tokens, self._time = tokens, now
        with explained(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _step(line: str) -> float:
    """The step of a line; that of a torn one lies after all others."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
