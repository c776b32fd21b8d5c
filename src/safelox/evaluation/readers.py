"""The prompts of a suite, read from the files of data sets as they are published."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safelox.errors import DataError, UsageError
from safelox.evaluation.answers import ANSWER, MARK
from safelox.evaluation.samples import Message, Sample, distinct, read_samples, read_text

Row = Mapping[str, Any]
Place = tuple[int, str]
"""The number of a row, from 0, and what people call its place."""


def read_suite(reader: str, path: Path) -> list[Sample]:
    """The samples in the file of a suite.

    Args:
        reader: a name of `READERS`.

    Raises:
        UsageError: there is no such reader.
        DataError: the file cannot be read, or a row is not what the reader expects.
    """
    if reader not in READERS:
        raise UsageError(f"no reader of suites is called {reader!r}; there are: {', '.join(READERS)}.")
    return READERS[reader](path)


def worked_examples(path: Path, count: int) -> str:
    """The first so many problems of a GSM8K file with their solutions, as they stand before a question.

    Raises:
        DataError: the file holds fewer, or cannot be read.
    """
    rows = [(_text(path, place, row, "question"), _text(path, place, row, "answer")) for place, row in _objects(path)]
    if len(rows) < count:
        raise DataError(f"{path}: holds {len(rows)} solved problems; {count} were asked for.")
    return "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in rows[:count])


def with_examples(sample: Sample, examples: str) -> Sample:
    """The sample with solved problems before its question, all in one message so that every prompt format takes it."""
    *before, last = sample.messages
    asked = Message(role="user", content=f"{examples}Question: {last.content}\nAnswer:")
    return sample.model_copy(update={"messages": (*before, asked)})


def _column(
    prompt: str, *, id: str | None = None, keep: Callable[[Row], bool] = lambda _: True
) -> Callable[[Path], list[Sample]]:
    """A CSV file with the prompts in a column; the other columns are what a sample is about.

    Args:
        id: the column of the ids; else the number of the row, from 0.
        keep: which rows belong to the suite.
    """

    def read(path: Path) -> list[Sample]:
        found = []
        for place, row in _table(path):
            text = _text(path, place, row, prompt)
            if keep(row):
                name = str(place[0]) if id is None else _text(path, place, row, id)
                found.append(_sample(name, text, {key: value for key, value in row.items() if key != prompt}))
        return distinct(path, found)

    return read


def _harmbench(path: Path) -> list[Sample]:
    """A context, where there is one, stands before the behaviour, as in HarmBench's own direct requests."""
    found = []
    for place, row in _table(path):
        behaviour = _text(path, place, row, "Behavior")
        context = row.get("ContextString") or ""
        asked = f"{context}\n\n---\n\n{behaviour}" if context else behaviour
        found.append(_sample(_text(path, place, row, "BehaviorID"), asked, row))
    return distinct(path, found)


def _gsm8k(path: Path) -> list[Sample]:
    found = []
    for place, row in _objects(path):
        question, solution = _text(path, place, row, "question"), _text(path, place, row, "answer")
        _, mark, answer = solution.rpartition(MARK)
        if not mark:
            raise DataError(f"{path}, {place[1]}: the answer has no {MARK} before its number, as GSM8K's have.")
        about = {ANSWER: answer.strip().replace(",", ""), "solution": solution}
        found.append(_sample(str(place[0]), question, about))
    return found


def _just_eval(path: Path) -> list[Sample]:
    """The everyday instructions; those on safety have suites of their own."""
    found = []
    for place, row in _objects(path):
        instruction = _text(path, place, row, "instruction")
        if row.get("category") == "regular":
            about = {name: row[name] for name in ("source_id", "dataset") if name in row}
            found.append(_sample(str(row.get("id", place[0])), instruction, about))
    return distinct(path, found)


def _mt_bench(path: Path) -> list[Sample]:
    found = []
    for place, row in _objects(path):
        turns = row.get("turns")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
            raise DataError(f'{path}, {place[1]}: expected the questions as a list of texts called "turns".')
        about = {name: row[name] for name in ("category", "reference") if name in row}
        name = str(row.get("question_id", place[0]))
        found.append(_sample(name, turns[0], about).model_copy(update={"then": tuple(turns[1:])}))
    return distinct(path, found)


def _custom(path: Path) -> list[Sample]:
    """JSON Lines of samples, or of objects with a text "prompt"; a CSV file with a column "prompt"; by its ending."""
    if path.suffix.lower() == ".csv":
        return _column("prompt")(path)
    rows = list(_objects(path))
    if any("messages" in row for _, row in rows):
        return read_samples(path)
    found = []
    for place, row in rows:
        about = {key: value for key, value in row.items() if key not in ("id", "prompt")}
        found.append(_sample(str(row.get("id", place[0])), _text(path, place, row, "prompt"), about))
    return distinct(path, found)


READERS: dict[str, Callable[[Path], list[Sample]]] = {
    "samples": read_samples,
    "advbench": _column("goal"),
    "harmbench": _harmbench,
    "strongreject": _column("forbidden_prompt"),
    "jailbreakbench": _column("Goal", id="Index"),
    "xstest-safe": _column("prompt", id="id", keep=lambda row: row.get("label") == "safe"),
    "xstest-unsafe": _column("prompt", id="id", keep=lambda row: row.get("label") == "unsafe"),
    "gsm8k": _gsm8k,
    "just-eval": _just_eval,
    "mt-bench": _mt_bench,
    "custom": _custom,
}
"""Every reader by its name; a suite's entry says which its file needs."""


def _sample(name: str, prompt: str, about: Row) -> Sample:
    return Sample(id=name, messages=(Message(role="user", content=prompt),), about=dict(about))


def _table(path: Path) -> Iterator[tuple[Place, Row]]:
    for number, row in enumerate(csv.DictReader(io.StringIO(read_text(path), newline=""))):
        # Under None stand the fields that are too many, and None in those that are missing.
        yield (number, f"row {number + 1}"), {key: value or "" for key, value in row.items() if key is not None}


def _objects(path: Path) -> Iterator[tuple[Place, Row]]:
    """The objects of a file: one in every line, or one list of them all."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        values = _json(path, "the file", text)
        places = [(number, f"row {number + 1}") for number in range(len(values))]
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        values = [_json(path, f"line {number}", line) for number, line in lines]
        places = [(count, f"line {number}") for count, (number, _) in enumerate(lines)]
    for place, value in zip(places, values, strict=True):
        if not isinstance(value, dict):
            raise DataError(f"{path}, {place[1]}: expected a JSON object.")
        yield place, value


def _json(path: Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}, {place}: not JSON: {error}.") from error


def _text(path: Path, place: Place, row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        found = "it is empty" if name in row else f"found: {', '.join(row) or 'nothing'}"
        raise DataError(f"{path}, {place[1]}: expected a text called {name!r}; {found}.")
    return value
