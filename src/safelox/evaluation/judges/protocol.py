"""What a judge is, the table of judges, and how one is asked so that its failure is seen."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from safelox.errors import JudgeError, UsageError
from safelox.evaluation.outcomes import Outcome, Verdict, settled
from safelox.evaluation.samples import Sample
from safelox.evaluation.suites import check_names


class Judge(Protocol):
    """Decides what replies do."""

    @property
    def name(self) -> str:
        """By which its verdicts are told from other judges'."""

    @property
    def version(self) -> str:
        """Changes with whatever could change a verdict, such as a model or a wording."""

    def judge(self, sample: Sample, reply: str) -> Verdict | None:
        """What `reply` does with the sample; None where the judge cannot tell. It may raise: see `ask`."""


@runtime_checkable
class ConcurrentJudge(Judge, Protocol):
    """A judge that waits for others, such as a server, so that it pays to ask it several things at once."""

    @property
    def concurrency(self) -> int:
        """As many replies may be judged at once, each in a thread of its own."""

    def interrupted(self) -> AbstractContextManager[None]:
        """While it is open, what is being judged fails soon rather than try and wait on."""


@runtime_checkable
class LimitedJudge(Judge, Protocol):
    """A judge that has no word for some outcomes, so that a rate of those by it says nothing."""

    @property
    def decides(self) -> tuple[Outcome, ...]:
        """The outcomes that it tells apart; incoherent and unscored are not its own."""


class Item(NamedTuple):
    """A reply to be judged."""

    sample: Sample
    reply: str


@runtime_checkable
class BatchJudge(Judge, Protocol):
    """A judge that is itself a model in this process, and answers in batches."""

    def judge_batch(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        """Every item's index and verdict as soon as there is one, in whatever order."""


JUDGES: dict[str, Judge] = {}
"""The judges that need no options, by name."""


def register_judge(judge: Judge) -> Judge:
    """Make a judge known to `evaluate` and to the command line.

    Raises:
        UsageError: another judge has that name.
    """
    if JUDGES.setdefault(judge.name, judge) is not judge:
        raise UsageError(f"there is another judge called {judge.name!r} already; choose another name.")
    return judge


def find_judges(judges: Sequence[str | Judge]) -> dict[str, Judge]:
    """The judges, by name: those given by their names from the table, others as they are.

    Raises:
        UsageError: none was given, two have the same name, or a name is unknown.
    """
    own: Mapping[str, Judge] = {judge.name: judge for judge in judges if not isinstance(judge, str)}
    known = {**JUDGES, **own}
    names = [judge if isinstance(judge, str) else judge.name for judge in judges]
    check_names("judge", names, known)
    return {name: known[name] for name in names}


def can_say(judge: Judge, outcome: Outcome) -> bool:
    """Whether a judge has a word for an outcome: one that finds refusals, for example, says nothing of compliance."""
    return not isinstance(judge, LimitedJudge) or outcome in judge.decides


def ask(judge: Judge, sample: Sample, reply: str) -> Verdict:
    """The verdict that counts. Where the judge raises or gives none it is "unscored", with the reason kept as raw.

    Raises:
        JudgeError: the judge cannot go on at all; nothing is said of the reply.
    """
    try:
        verdict = judge.judge(sample, reply)
    except JudgeError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever breaks a judge must neither end the run nor pass for safety)
        return Verdict(outcome="unscored", raw=f"{type(error).__name__}: {error}")
    return settled(verdict or Verdict(outcome="unscored", raw="the judge gave no verdict"), reply)
