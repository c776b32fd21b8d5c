"""How far a judge agrees with people, on a file that they have labelled."""

import csv
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from safelox.errors import DataError, UsageError
from safelox.evaluation.intervals import rate
from safelox.evaluation.judges import Judge, Usage, can_say, judge_many, judge_usage
from safelox.evaluation.outcomes import Outcome
from safelox.evaluation.samples import Message, Sample
from safelox.hashing import hash_files
from safelox.manifest import FileRecord, Record
from safelox.progress import NULL, Progress
from safelox.rates import Rate

On = Literal["refused", "complied"]
Half = Literal["tuning", "reporting"]

XSTEST: Mapping[str, Outcome] = {
    "1_full_compliance": "complied",
    "2_full_refusal": "refused",
    "3_partial_refusal": "partial",
}
"""XSTest's labels as outcomes."""
LABELS: Mapping[str, Outcome] = {**{outcome: outcome for outcome in get_args(Outcome)}, **XSTEST}
"""What a label may be."""
HUMAN = ("final_label", "label")
"""Columns that may hold the people's labels, the first of which counts."""
OTHER = "_label"
"""Columns that end so hold the labels of other judges."""


class Agreement(Record):
    """How often two label the same replies alike, as to whether a reply does one thing."""

    accuracy: Rate
    """Share of all replies on which they agree; one that the judge could not judge counts against it."""
    kappa: float
    """Cohen's: the agreement beyond what chance would give, with "unscored" as a label of its own; NaN where chance
    alone gives full agreement."""
    unparsed: int
    """Replies that the judge could not judge."""
    confusion: dict[Outcome, dict[Outcome, int]]
    """Counts, by the people's label and by the judge's."""


class JudgeCheck(Record):
    """What `check_judge` finds."""

    judge: str
    version: str
    file: FileRecord
    on: On
    """What a reply does or not, in the eyes of either."""
    half: Half | None
    """The half of the file that was used; None for all of it."""
    agreement: Agreement
    groups: dict[str, Agreement]
    """The same by the model that replied, where the file names it."""
    others: dict[str, Agreement]
    """The same for judges whose labels are in the file, by column."""
    usage: Usage | None
    """What the judge used, where it is paid by the token."""


class Labelled(NamedTuple):
    """A row of the file."""

    sample: Sample
    reply: str
    human: Outcome
    group: str | None
    others: dict[str, Outcome]


def check_judge(
    judge: Judge, file: Path, *, on: On = "refused", half: Half | None = None, progress: Progress = NULL
) -> JudgeCheck:
    """Ask a judge about every reply of a labelled file, and compare.

    The file is CSV with a header: `prompt`, `completion`, and the people's label as `final_label` or `label`; possibly
    `model`, by which results are also told apart, and labels of other judges in columns that end in `_label`. Labels
    are outcomes or XSTest's.

    Args:
        on: compare whether a reply is labelled this or not.
        half: use only that half of the file, cut by a checksum of the prompt, so that all replies to a prompt are in
            the same one. Phrases and wordings are to be chosen on "tuning" and reported on "reporting".

    Raises:
        DataError: the file cannot be read, has no rows, or a row has no such label.
        JudgeError: the judge cannot go on.
        UsageError: the judge has no word for what is to be compared.
    """
    if not can_say(judge, on):
        raise UsageError(f"the judge {judge.name} never says {on!r}, so there is nothing to compare; see --on.")
    rows = [row for row in read_labelled(file) if half is None or half_of(row.sample) == half]
    if not rows:
        raise DataError(f"{file}: no rows to compare.")
    judged: dict[int, Outcome] = {}
    for index, verdict in judge_many(judge, [(row.sample, row.reply) for row in rows], progress=progress):
        judged[index] = verdict.outcome
    pairs = [(row.human, judged[index]) for index, row in enumerate(rows)]
    groups: defaultdict[str, list[tuple[Outcome, Outcome]]] = defaultdict(list)
    others: defaultdict[str, list[tuple[Outcome, Outcome]]] = defaultdict(list)
    for row, pair in zip(rows, pairs, strict=True):
        if row.group is not None:
            groups[row.group].append(pair)
        for name, label in row.others.items():
            others[name].append((row.human, label))
    return JudgeCheck(
        judge=judge.name,
        version=judge.version,
        file=hash_files({"file": file})["file"],
        on=on,
        half=half,
        agreement=agreement(pairs, on),
        groups={name: agreement(own, on) for name, own in groups.items()},
        others={name: agreement(own, on) for name, own in others.items()},
        usage=judge_usage([judge]).get(judge.name),
    )


def agreement(pairs: Sequence[tuple[Outcome, Outcome]], on: On) -> Agreement:
    """How far two agree.

    Args:
        pairs: each the people's label of a reply and the judge's.
    """
    said = [(_seen(human, on), _seen(judge, on)) for human, judge in pairs]
    confusion: defaultdict[Outcome, Counter[Outcome]] = defaultdict(Counter)
    for human, judge in pairs:
        confusion[human][judge] += 1
    return Agreement(
        accuracy=rate(sum(human == judge for human, judge in said), len(said)),
        kappa=cohens_kappa(said),
        unparsed=sum(judge == "unscored" for _, judge in pairs),
        confusion={human: dict(counts) for human, counts in sorted(confusion.items())},
    )


def cohens_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Agreement beyond chance, 1 at most; NaN for no pairs, and where chance alone gives full agreement."""
    n = len(pairs)
    if n == 0:
        return math.nan
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    agreed = sum(one == other for one, other in pairs)
    # In integers, so that full agreement by chance is seen exactly.
    by_chance = sum(count * second[label] for label, count in first.items())
    return math.nan if by_chance == n * n else (n * agreed - by_chance) / (n * n - by_chance)


def half_of(sample: Sample) -> Half:
    """The half of a file that a sample belongs to."""
    digest = hashlib.sha256(sample.messages[-1].content.encode()).digest()
    return "tuning" if digest[0] % 2 == 0 else "reporting"


def read_labelled(path: Path) -> Iterator[Labelled]:
    """The rows of a labelled file; see `check_judge`.

    Raises:
        DataError: the file cannot be read, a column is missing, or a label is unknown.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            human = next((name for name in HUMAN if name in columns), None)
            missing = [name for name in ("prompt", "completion") if name not in columns]
            if human is None or missing:
                named = " and ".join([*missing, *([] if human else ["final_label or label"])])
                raise DataError(f"{path}: has no column {named}; it has: {', '.join(columns) or 'none'}.")
            others = [name for name in columns if name.endswith(OTHER) and name != human]
            for number, row in enumerate(reader, start=1):
                yield _labelled(path, number, row, human, others)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8: {error}") from error


def _labelled(path: Path, number: int, row: Mapping[str, str | None], human: str, others: Sequence[str]) -> Labelled:
    prompt, reply = row["prompt"], row["completion"]
    if prompt is None or reply is None:
        raise DataError(f"{path}, row {number}: has fewer fields than the header.")
    return Labelled(
        sample=Sample(id=str(number), messages=(Message(role="user", content=prompt),)),
        reply=reply,
        human=_label(path, number, row[human]),
        group=row.get("model"),
        others={name: _label(path, number, row[name]) for name in others},
    )


def _label(path: Path, number: int, value: str | None) -> Outcome:
    if value is None or value not in LABELS:
        raise DataError(f"{path}, row {number}: the label {value!r} is none of: {', '.join(LABELS)}.")
    return LABELS[value]


def _seen(label: Outcome, on: On) -> str:
    return label if label in (on, "unscored") else "not"
