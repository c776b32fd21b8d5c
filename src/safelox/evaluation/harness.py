"""Tasks of lm-evaluation-harness, asked of the same model; what comes of them is kept beside our own results."""

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from safelox.errors import PrerequisiteError, TargetError, UsageError
from safelox.evaluation.generation.backends import Backend
from safelox.evaluation.generation.local import load_on_device
from safelox.manifest import Record
from safelox.writer.disk import explained
from safelox.writer.place import Place

FOLDER, ASKED, RESULTS = "lm-eval", "asked.json", "results.json"
BATCH_SIZE = 8
"""Requests at once: lm-eval keeps the logits of whole texts, so more would take much memory."""


class Asked(Record):
    """What was asked of whom."""

    model: str
    backend: Backend
    tasks: tuple[str, ...]
    limit: int | None


class HarnessResults(Record):
    """What came of it."""

    asked: Asked
    folder: str
    """Where lm-eval's whole results stand, and every sample."""
    results: dict[str, dict[str, float]]
    """By task, and by metric as lm-eval names it."""


class Harness:
    """lm-evaluation-harness with some of its tasks.

    Args:
        tasks: names of its tasks, groups or tags, or paths of YAML files with a task.
        backend: transformers alone; None: in fp32 on the CPU.

    Raises:
        PrerequisiteError: lm-eval is not installed.
        UsageError: no task is named, one is unknown to it or named twice, or the backend is a server.
    """

    def __init__(self, tasks: Sequence[str], backend: Backend | None = None) -> None:
        self._backend = backend or Backend()
        if self._backend.name != "transformers":
            raise UsageError("lm-eval's tasks need the model in this process: they go with the backend transformers.")
        if find_spec("lm_eval") is None:
            raise PrerequisiteError("lm-evaluation-harness is not installed: pip install 'lm-eval[hf]'")
        names = [task.strip() for task in tasks]
        if not all(names) or not names or len(set(names)) < len(names):
            raise UsageError("lm-eval: name its tasks, each once, with commas between them.")
        known: Any = import_module("lm_eval.tasks").TaskManager()
        for name in names:
            if name not in known.all_tasks and not (name.endswith(".yaml") and Path(name).is_file()):
                raise UsageError(f"lm-eval has no task called {name!r}, nor is it the YAML file of one.")
        self._tasks = tuple(names)

    def run(
        self,
        model: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        limit: int | None = None,
        batch_size: int = BATCH_SIZE,
        overwrite: bool = False,
    ) -> HarnessResults:
        """Ask the tasks, and write `out`/lm-eval; where the same stands there already, that is the result.

        Args:
            model: a folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA.
            out: a results folder.
            limit: ask only the first so many samples of each task.
            batch_size: requests at once.
            overwrite: start over where other tasks' results stand.

        Raises:
            UsageError: the limit makes no sense.
            CheckpointError: the model cannot be read.
            TargetError: results of other tasks stand there, or nothing can be written.
        """
        if limit is not None and limit < 1:
            raise UsageError(f"limit {limit}: at least one sample of each task has to be asked.")
        asked = Asked(model=os.fspath(model), backend=self._backend, tasks=self._tasks, limit=limit)
        folder = Path(out) / FOLDER
        if not overwrite and folder.exists():
            return _read(folder, asked)
        found = _evaluate(asked, batch_size)
        _write(folder, asked, found, overwrite=overwrite)
        return _read(folder, asked)


def _evaluate(asked: Asked, batch_size: int) -> dict[str, Any]:
    harness: Any = import_module("lm_eval")
    models: Any = import_module("lm_eval.models.huggingface")
    model, tokenizer = load_on_device(asked.model, asked.backend.device or "cpu", asked.backend.dtype or "fp32")
    wrapped = models.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found: dict[str, Any] = dict(harness.simple_evaluate(wrapped, tasks=list(asked.tasks), limit=asked.limit))
    return found


def _write(folder: Path, asked: Asked, found: Mapping[str, Any], *, overwrite: bool) -> None:
    """results.json has all that lm-eval gives but the samples, which have a file for each task."""
    place = Place(folder, overwrite=overwrite, mark=ASKED)
    samples = found.get("samples", {})
    place.open(0, [])
    try:
        place.clear()
        with explained(place.folder):
            whole = {name: value for name, value in found.items() if name != "samples"}
            (place.folder / RESULTS).write_text(json.dumps(whole, indent=1, default=str), encoding="utf-8")
            for task, lines in samples.items():
                text = "".join(json.dumps(line, default=str) + "\n" for line in lines)
                (place.folder / f"samples_{task}.jsonl").write_text(text, encoding="utf-8")
            (place.folder / ASKED).write_text(asked.model_dump_json(indent=1) + "\n", encoding="utf-8")
        place.rename()
    except BaseException:
        place.remove()
        raise
    finally:
        place.close()


def _read(folder: Path, asked: Asked) -> HarnessResults:
    """
    Raises:
        TargetError: what stands there is something else.
    """
    try:
        before = Asked.model_validate_json((folder / ASKED).read_bytes())
        whole = json.loads((folder / RESULTS).read_bytes())["results"]
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise TargetError(f"{folder}: holds something else than what lm-eval gave; --overwrite starts over.") from error
    if before != asked:
        raise TargetError(
            f"{folder}: holds what lm-eval gave for {', '.join(before.tasks)} (limit {before.limit}) of "
            f"{before.model}; choose another OUT, or --overwrite to start over."
        )
    results = {
        task: {metric: value for metric, value in metrics.items() if isinstance(value, float)}
        for task, metrics in whole.items()
    }
    return HarnessResults(asked=asked, folder=str(folder), results=results)
