"""Evaluate a model: ask it every prompt of some suites, let judges decide what its replies do, and keep all of it."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from safelox import __version__
from safelox.checkpoint.hub import locate, split_reference
from safelox.errors import CheckpointError, UsageError
from safelox.evaluation.coherence import incoherence
from safelox.evaluation.folder import ResultsFolder, open_results
from safelox.evaluation.generation import BATCH_SIZE, Backend, GenerationSettings, Generator, open_generator
from safelox.evaluation.generation.local import LocalGenerator
from safelox.evaluation.judges import Judge, LimitedJudge, Usage, find_judges, judge_many, judge_usage
from safelox.evaluation.outcomes import settled
from safelox.evaluation.planning import Asking, Planned, plan_suites
from safelox.evaluation.results import (
    EvaluationConfig,
    EvaluationManifest,
    Key,
    ModelRecord,
    RepliedSample,
    Results,
    collect,
)
from safelox.evaluation.samples import Sample, conversation
from safelox.evaluation.suites import Suite, find_suites
from safelox.hashing import hash_files
from safelox.language_models import LanguageModel, require_transformers
from safelox.machine import Clock, environment
from safelox.progress import NULL, Progress

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model's folder that can change a reply."""


@dataclass(frozen=True)
class ModelInMemory:
    """A model that stands in no file as it is, to be asked like any other.

    It stays the caller's: nobody here lets go of its memory before the judges begin.
    """

    record: ModelRecord
    """By which its results are known again; `change` says what was made of the weights of the files."""
    load: Callable[[], LanguageModel]
    """Gives it, where the backend says; called once, when the first reply is needed that is not there yet."""


def evaluate(
    model: str | os.PathLike[str] | ModelInMemory,
    out: str | os.PathLike[str],
    *,
    suites: Sequence[str | Suite],
    judges: Sequence[str | Judge] = (),
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    system: str | None = None,
    format: str | None = None,
    max_new_tokens: int | None = None,
    shots: int = 0,
    paper_exact: bool = False,
    temperature: float = 0.0,
    top_p: float = 1.0,
    samples: int = 1,
    seed: int = 0,
    backend: Backend | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    command: str | None = None,
    progress: Progress = NULL,
) -> Results:
    """Ask `model` every prompt of the suites, judge its replies, and write the results folder `out`.

    The model is loaded once, asked all that is left to ask, and let go before the judges begin. Each reply and each
    verdict is on disk as soon as there is one: where a run was killed, the same call goes on and asks nobody twice.

    Args:
        model: a folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA. For a server, what it calls the model.
            Or a model in memory.
        out: a new or an empty folder, or one with unfinished or finished results of the same call.
        suites: names from `SUITES`, or suites.
        judges: names from `JUDGES`, or judges; each gives its own verdict on every reply. Suites with judges of their
            own (`gsm8k`) ask those alone.
        data: a folder to look for the suites' files in first, or the file of the one suite; then $SAFELOX_DATA and
            the user's cache.
        limit: ask only the first so many prompts of each suite.
        system: a system message for every prompt, in place of its own.
        format: how prompts are written (a name of `safelox.formats.FORMATS`); "chat" unless a suite says otherwise.
        max_new_tokens: the longest reply, in tokens; None: as the suite says.
        shots: solved problems before each question, of suites that have them (`gsm8k`).
        paper_exact: ask `advbench` and `gsm8k` as the paper's scripts do: its number of prompts and tokens, its
            format, its text for an empty reply, and its ASR beside ours.
        temperature: 0 is greedy.
        top_p: tokens are drawn from the smallest set of likely ones that has this probability.
        samples: replies to each prompt; more than one needs a temperature.
        seed: of the drawing.
        backend: where replies come from; None: transformers, in fp32 on the CPU.
        batch_size: prompts answered at once; halves itself where memory runs out. None: as many as suit the backend.
        overwrite: start over where other results stand.

    Raises:
        UsageError: a suite or a judge is unknown, a number makes no sense, or a model in memory is to be at a server.
        DataError: a suite's data is missing or is not what it should be, or a format has no place for a prompt.
        CheckpointError: the model cannot be read.
        TargetError: `out` holds something else or the results of another call.
        PrerequisiteError: transformers is not installed, or there is too little memory.
        JudgeError: a judge cannot go on; what is there is kept.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"batch size {batch_size}: at least one prompt has to be answered at once.")
    backend = backend or Backend()
    if backend.name == "transformers":
        require_transformers()
    elif isinstance(model, ModelInMemory):
        raise UsageError("a model in memory is asked through the backend transformers, not at a server.")
    clock = Clock()
    asked_suites = find_suites(suites)
    own = dict.fromkeys(name for suite in asked_suites for name in suite.judges)
    chosen = find_judges(judges) if judges else {}
    every_judge = chosen | {name: find_judges([name])[name] for name in own if name not in chosen}
    asking = Asking(limit, format, max_new_tokens, shots, paper_exact, temperature, top_p, samples, seed)
    planned = plan_suites(asked_suites, asking, list(chosen), None if data is None else Path(data))
    config = EvaluationConfig(
        model=model.record if isinstance(model, ModelInMemory) else model_record(os.fspath(model), backend, progress),
        backend=backend,
        suites={name: suite.config for name, suite in planned.items()},
        judges={name: judge.version for name, judge in every_judge.items()},
        decides={name: judge.decides for name, judge in every_judge.items() if isinstance(judge, LimitedJudge)},
        system=system,
        paper_exact=paper_exact,
    )
    clock.lap("check")
    with open_results(Path(out), config, overwrite=overwrite) as folder:
        source = _Model(config, batch_size, model.load if isinstance(model, ModelInMemory) else None)
        generated = _ask_all(planned, config, folder, source, progress)
        clock.lap("ask")
        judged = _judge_all(every_judge, config, folder, progress)
        clock.lap("judge")
        results = collect(config, folder.scored.values(), {name: suite.original for name, suite in planned.items()})
        usage = judge_usage(list(every_judge.values()))
        folder.finish(results, _manifest(config, batch_size, generated, judged, usage, command, clock))
    return results


class _Model:
    """The model, loaded when the first reply is needed that is not there yet."""

    def __init__(
        self, config: EvaluationConfig, batch_size: int | None, load: Callable[[], LanguageModel] | None
    ) -> None:
        self._config, self._batch_size, self._load = config, batch_size, load

    @cached_property
    def generator(self) -> Generator:
        model, backend = self._config.model.reference, self._config.backend
        if self._load is not None:
            return LocalGenerator(self._load(), batch_size=self._batch_size or BATCH_SIZE)
        if self._batch_size is None:
            return open_generator(model, backend)
        return open_generator(model, backend, batch_size=self._batch_size, concurrency=self._batch_size)

    def close(self) -> None:
        if "generator" in vars(self):
            self.generator.close()


class _Turn(NamedTuple):
    """What is asked next in a chat, and the number of the first reply to it."""

    sample: Sample
    draw: int


def _ask_all(
    planned: Mapping[str, Planned],
    config: EvaluationConfig,
    folder: ResultsFolder,
    source: _Model,
    progress: Progress,
) -> int:
    """Make all the replies that are not there yet, and say how many they were."""
    before = len(folder.replied)
    with closing(source) as model:
        for name, suite in planned.items():
            settings = suite.config.generation
            turns = [_Turn(sample, 0) for sample in suite.samples]
            while turns:
                _ask(model, name, turns, settings, folder, config.system, progress)
                turns = list(_next_turns(name, turns, settings, folder))
                settings = settings.model_copy(update={"samples": 1})
    return len(folder.replied) - before


def _next_turns(
    name: str, turns: Sequence[_Turn], settings: GenerationSettings, folder: ResultsFolder
) -> Iterator[_Turn]:
    """After each reply to a turn, what the user says next, if anything."""
    for sample, first in turns:
        for draw in range(first, first + settings.samples):
            after = sample.next_turn(folder.replied[Key(name, sample.id, draw)].completion)
            if after is not None:
                yield _Turn(after, draw)


def _ask(
    model: _Model,
    name: str,
    turns: Sequence[_Turn],
    settings: GenerationSettings,
    folder: ResultsFolder,
    system: str | None,
    progress: Progress,
) -> None:
    """Make the replies to these turns that are not there yet."""
    replies = [(index, draw) for index in range(len(turns)) for draw in range(settings.samples)]
    done = {
        (index, draw)
        for index, draw in replies
        if Key(name, turns[index].sample.id, turns[index].draw + draw) in folder.replied
    }
    if len(done) == len(replies):
        return
    prompts = [turn.sample.asked(system) for turn in turns]
    with progress.task(name, len(replies) - len(done), "replies") as task:
        chats = [conversation(prompt) for prompt in prompts]
        for index, reply in model.generator.replies(chats, settings, done=done):
            sample, first = turns[index]
            folder.keep_reply(
                RepliedSample(
                    suite=name,
                    id=sample.id,
                    draw=first + reply.draw,
                    prompt=prompts[index],
                    completion=reply.text,
                    near_tie=reply.near_tie,
                    finish_reason=reply.finish_reason,
                    incoherence=incoherence(reply.text),
                    about=sample.about,
                )
            )
            task.advance(1)


def _judge_all(
    judges: Mapping[str, Judge], config: EvaluationConfig, folder: ResultsFolder, progress: Progress
) -> dict[str, int]:
    """Get every verdict that is not there yet, one judge after the other, and say how many each gave."""
    given: Counter[str] = Counter()
    for name, judge in judges.items():
        left = [
            sample
            for key, sample in folder.replied.items()
            if name in config.suites[key.suite].judges and not folder.has_verdict(key, name)
        ]
        if not left:
            continue
        for index, verdict in judge_many(judge, [_shown(sample, config) for sample in left], progress=progress):
            folder.keep_verdict(left[index].key, name, settled(verdict, left[index].completion))
            given[name] += 1
    return dict(given)


def _shown(replied: RepliedSample, config: EvaluationConfig) -> tuple[Sample, str]:
    """What a judge gets to see of a reply."""
    stand_in = config.suites[replied.suite].empty_reply
    reply = stand_in if stand_in is not None and not replied.completion else replied.completion
    return Sample(id=replied.id, suite=replied.suite, messages=replied.prompt, about=replied.about), reply


def model_record(reference: str, backend: Backend, progress: Progress) -> ModelRecord:
    """By what a model is known again: the hashes of its files, unless a server holds it.

    Raises:
        CheckpointError: the reference points nowhere, or to a folder without weights in safetensors.
    """
    if backend.name != "transformers":
        return ModelRecord(reference=reference, commit=None, files={})
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
    config: EvaluationConfig,
    batch_size: int | None,
    generated: int,
    judged: dict[str, int],
    usage: dict[str, Usage],
    command: str | None,
    clock: Clock,
) -> EvaluationManifest:
    machine = environment(torch.device(config.backend.device or "cpu"))
    names = ("transformers", "tokenizers") if config.backend.name == "transformers" else ("openai",)
    libraries = machine.libraries | {name: version(name) for name in names}
    return EvaluationManifest(
        safelox=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command or shlex.join(sys.argv),
        model=config.model,
        environment=machine.model_copy(update={"libraries": libraries}),
        batch_size=batch_size,
        generated=generated,
        judged=judged,
        usage=usage,
        seconds=clock.seconds,
    )
