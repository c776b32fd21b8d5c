"""Evaluate a model: ask it every prompt of some suites, let judges decide what its replies do, and keep all of it."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from safelox import __version__
from safelox.checkpoint.hub import locate, split_reference
from safelox.errors import CheckpointError, UsageError
from safelox.evaluation.folder import ResultsFolder, open_results
from safelox.evaluation.generation import (
    BATCH_SIZE,
    LanguageModel,
    load_language_model,
    replies,
    require_transformers,
)
from safelox.evaluation.judges import Judge, ask, find_judges
from safelox.evaluation.results import (
    EvaluationConfig,
    EvaluationManifest,
    ModelRecord,
    Results,
    ScoredSample,
    SuiteConfig,
    collect,
)
from safelox.evaluation.samples import Sample, conversation, read_samples
from safelox.evaluation.suites import Suite, find_data, find_suites
from safelox.formats import find_format
from safelox.hashing import hash_files
from safelox.machine import Clock, environment
from safelox.progress import NULL, Progress

FORMAT = "chat"
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model's folder that can change a reply."""


def evaluate(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    suites: Sequence[str],
    judges: Sequence[str | Judge],
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    system: str | None = None,
    batch_size: int = BATCH_SIZE,
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress = NULL,
) -> Results:
    """Ask `model` every prompt of the suites, judge its replies, and write the results folder `out`.

    Replies are greedy, in fp32 on the CPU. Each is on disk, with its verdicts, as soon as it is judged: where a run was
    killed, the same call goes on and asks nothing twice.

    Args:
        model: a folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA.
        out: a new or an empty folder, or one with unfinished or finished results of the same call.
        suites: names from `SUITES`.
        judges: names from `JUDGES`, or judges; each gives its own verdict on every reply.
        data: the folder with the suites' files; else $SAFELOX_DATA, else the user's cache.
        limit: ask only the first so many prompts of each suite.
        system: a system message for every prompt, in place of its own.
        batch_size: prompts answered at once; halves itself where memory runs out.
        overwrite: start over where other results stand.

    Raises:
        UsageError: a suite or a judge is unknown, or a number makes no sense.
        DataError: a suite's data is missing or is not what it should be.
        CheckpointError: the model cannot be read.
        TargetError: `out` holds something else or the results of another call.
        PrerequisiteError: transformers is not installed, or there is too little memory.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit}: at least one prompt of each suite has to be asked.")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: at least one prompt has to be answered at once.")
    require_transformers()
    clock = Clock()
    asked_suites, asked_judges = find_suites(suites), find_judges(judges)
    files = {suite.name: find_data(suite, None if data is None else Path(data)) for suite in asked_suites}
    samples = {name: read_samples(path) for name, path in files.items()}
    hashes = hash_files(files)
    config = EvaluationConfig(
        model=_model_record(os.fspath(model), progress),
        suites={
            suite.name: SuiteConfig(
                asks=suite.asks,
                version=suite.version,
                data=hashes[suite.name],
                max_new_tokens=suite.max_new_tokens,
            )
            for suite in asked_suites
        },
        judges={name: judge.version for name, judge in asked_judges.items()},
        limit=limit,
        system=system,
        format=FORMAT,
    )
    clock.lap("check")
    wanted = {name: found[:limit] for name, found in samples.items()}
    with open_results(Path(out), config, overwrite=overwrite) as folder:
        left = {
            name: [sample for sample in found if (name, sample.id) not in folder.scored]
            for name, found in wanted.items()
        }
        generated = sum(map(len, left.values()))
        if generated:
            loaded = load_language_model(config.model.reference)
            clock.lap("load")
            for suite in asked_suites:
                _run(loaded, suite, left[suite.name], asked_judges, folder, system, batch_size, progress)
            clock.lap("ask and judge")
        scored = [folder.scored[name, sample.id] for name, found in wanted.items() for sample in found]
        results = collect(config, scored, {name: len(found) for name, found in samples.items()})
        folder.finish(results, _manifest(config, batch_size, generated, command, clock))
    return results


def _run(
    loaded: LanguageModel,
    suite: Suite,
    samples: Sequence[Sample],
    judges: Mapping[str, Judge],
    folder: ResultsFolder,
    system: str | None,
    batch_size: int,
    progress: Progress,
) -> None:
    """Ask and judge the samples of one suite that are left."""
    prompts = [sample.asked(system) for sample in samples]
    ids = find_format(FORMAT).prompts(loaded.tokenizer, [conversation(prompt) for prompt in prompts])
    with progress.task(suite.name, len(samples), "replies") as task:
        for index, reply in replies(loaded, ids, max_new_tokens=suite.max_new_tokens, batch_size=batch_size):
            verdicts = {name: ask(judge, samples[index], reply) for name, judge in judges.items()}
            folder.append(
                ScoredSample(
                    suite=suite.name,
                    id=samples[index].id,
                    prompt=prompts[index],
                    completion=reply,
                    verdicts=verdicts,
                )
            )
            task.advance(1)


def _model_record(reference: str, progress: Progress) -> ModelRecord:
    """
    Raises:
        CheckpointError: the reference points nowhere, or to a folder without weights in safetensors.
    """
    base, adapter = split_reference(reference)
    folder, commit = locate(base, allow_pickle=False)
    files = dict(_model_files(folder))
    if not any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(f"{base}: no file *.safetensors there, so it is no model that can be asked.")
    if adapter is not None:
        files |= {f"+{name}": path for name, path in _model_files(locate(adapter, allow_pickle=False).folder)}
    return ModelRecord(reference=reference, commit=commit, files=hash_files(files, "hash the model", progress))


def _model_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for pattern in MODEL_FILES:
        yield from ((path.name, path) for path in sorted(folder.glob(pattern)))


def _manifest(
    config: EvaluationConfig, batch_size: int, generated: int, command: str | None, clock: Clock
) -> EvaluationManifest:
    machine = environment(torch.device("cpu"))
    libraries = machine.libraries | {name: version(name) for name in ("transformers", "tokenizers")}
    return EvaluationManifest(
        safelox=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command or shlex.join(sys.argv),
        model=config.model,
        environment=machine.model_copy(update={"libraries": libraries}),
        batch_size=batch_size,
        generated=generated,
        seconds=clock.seconds,
    )
