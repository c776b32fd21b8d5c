"""The suites of a search, each split in two: on one part points are chosen, on the other the chosen one is confirmed.

Without that, the number shown for the best of many points would be too good: it was chosen for being so.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from safelox.analysis.search.record import Role, SuiteRecord
from safelox.errors import DataError, UsageError
from safelox.evaluation import Judge, Sample, Suite, custom_suite
from safelox.evaluation.judges import LimitedJudge, find_judges
from safelox.evaluation.metrics import METRICS, not_judged
from safelox.evaluation.readers import read_suite
from safelox.evaluation.suites import Asks
from safelox.known_data import find
from safelox.writer.disk import put_text

Half = Literal["search", "confirm"]
HALVES: tuple[Half, ...] = ("search", "confirm")
LEAST = 2
"""Prompts of a suite that can be split."""

READ_OFF: dict[Role, tuple[str, ...]] = {
    "safety": ("asr",),
    "utility": ("compliance", "accuracy"),
    "over-refusal": ("over_refusal",),
}
"""What each suite is asked for: the first of these that its kind of prompts has."""
WANTED: dict[Role, str] = {
    "safety": "forbidden requests, for the ASR",
    "utility": "permitted requests or questions with one right answer, for the utility",
    "over-refusal": "permitted requests, for over-refusal",
}


class Asked(NamedTuple):
    """A suite in one role."""

    role: Role
    suite: Suite
    metric: str
    judge: Judge


class Split(NamedTuple):
    """What is asked."""

    records: tuple[SuiteRecord, ...]
    """One for each role."""
    suites: dict[Half, dict[str, Suite]]
    """By name; one suite may serve two roles."""


def named_suite(what: str, name: str | None, file: Path | None, asks: Asks) -> str | Suite:
    """A suite by its name, or one made of a file of prompts.

    Args:
        what: it is called in an error.
        asks: what the prompts of the file ask for.

    Raises:
        UsageError: neither is given, or both are.
        DataError: there is no such file.
    """
    if name is not None and file is None:
        return name
    if file is None or name is not None:
        raise UsageError(f"the {what}: give either the name of one, or a file of prompts.")
    return replace(custom_suite(file, asks), name=f"custom-{asks}")


def check_roles(
    safety: Suite, utility: Suite, over_refusal: Suite | None, judges: Sequence[str | Judge]
) -> tuple[Asked, ...]:
    """Each suite with what is read off it and by whom.

    Args:
        over_refusal: None: the suite of the utility.

    Raises:
        UsageError: a suite asks for something else, no judge gives what is to be read off it, or over-refusal would go
            unseen.
    """
    if over_refusal is None and utility.asks != "permitted":
        raise UsageError(
            f"suite {utility.name} shows no over-refusal, since it asks no permitted requests: name one that does, "
            "such as xstest, as the suite of over-refusal."
        )
    chosen: dict[Role, Suite] = {"safety": safety, "utility": utility, "over-refusal": over_refusal or utility}
    for one, other in ((safety, utility), (safety, chosen["over-refusal"]), (utility, chosen["over-refusal"])):
        if one != other and one.name == other.name:
            raise UsageError(f"two different suites are called {one.name!r}; give one of them another name.")
    return tuple(_asked(role, suite, judges) for role, suite in chosen.items())


def _asked(role: Role, suite: Suite, judges: Sequence[str | Judge]) -> Asked:
    metric = next((name for name in READ_OFF[role] if name in METRICS[suite.asks]), None)
    if metric is None:
        raise UsageError(f"suite {suite.name} does not serve here, where {WANTED[role]} are needed.")
    named: Sequence[str | Judge] = suite.judges or judges
    if not named:
        raise UsageError(f"suite {suite.name} has no judges of its own: name one.")
    for judge in find_judges(named).values():
        decides = judge.decides if isinstance(judge, LimitedJudge) else None
        if metric not in not_judged(METRICS[suite.asks], decides):
            return Asked(role, suite, metric, judge)
    names = ", ".join(name if isinstance(name, str) else name.name for name in named)
    raise UsageError(
        f"none of the judges ({names}) gives the {metric} of suite {suite.name}: add one that does. Each rate is taken "
        "from the first judge that gives it."
    )


def split(asked: Sequence[Asked], data: Path | None, limit: int | None, seed: int) -> tuple[Split, dict[str, str]]:
    """The suites, split, and the content of the files that they are read from, by path inside the folder of prompts.

    Prompts are shuffled by the seed and the suite's name; the first half is for the search, the rest to confirm.

    Args:
        data: a folder to look for the suites' files in first.
        limit: the most prompts in each part.

    Raises:
        UsageError: the limit makes no sense, or the data is one file for several suites.
        DataError: a suite's data is missing, is not what it should be, or holds too little.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit}: at least one prompt of each suite has to be asked.")
    if data is not None and data.is_file():
        raise UsageError(f"{data} is one file, which cannot hold several suites; name a folder.")
    records, contents = [], {}
    suites: dict[Half, dict[str, Suite]] = {half: {} for half in HALVES}
    for role, suite, metric, judge in asked:
        found = find(suite.source, suite.file, data)
        parts = _parts(found.path, read_suite(suite.reader, found.path), limit, f"safelox {suite.name} {seed}")
        for half in HALVES:
            file = f"{half}/{suite.name}.jsonl"
            contents[file] = "".join(sample.model_dump_json() + "\n" for sample in parts[half])
            suites[half][suite.name] = replace(suite, file=file, reader="samples", source=None, examples=None)
        record = SuiteRecord(
            role=role,
            name=suite.name,
            asks=suite.asks,
            metric=metric,
            judge=judge.name,
            data=found.record,
            called=found.label,
            search_prompts=len(parts["search"]),
            confirm_prompts=len(parts["confirm"]),
        )
        records.append(record)
    return Split(tuple(records), suites), contents


def write_prompts(folder: Path, contents: dict[str, str]) -> None:
    """Write the files of the split suites.

    Raises:
        TargetError: they cannot be written.
    """
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        put_text(folder / name, text)


def _parts(path: Path, samples: Sequence[Sample], limit: int | None, seed: str) -> dict[Half, list[Sample]]:
    if len(samples) < LEAST:
        raise DataError(f"{path}: holds {len(samples)} prompts; at least {LEAST} are needed, one of them to confirm.")
    shuffled = random.Random(seed).sample(list(samples), len(samples))
    middle = (len(shuffled) + 1) // 2
    return {"search": shuffled[:middle][:limit], "confirm": shuffled[middle:][:limit]}
