"""The table of judges, and how one is asked so that its failure is seen."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from safelox.errors import UsageError
from safelox.evaluation.outcomes import Verdict, settled
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


JUDGES: dict[str, Judge] = {}
"""The judges that `evaluate` knows, by name."""


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


def ask(judge: Judge, sample: Sample, reply: str) -> Verdict:
    """The verdict that counts. Where the judge raises or gives none it is "unscored", with the reason kept as raw."""
    try:
        verdict = judge.judge(sample, reply)
    except Exception as error:  # noqa: BLE001 (whatever breaks a judge must neither end the run nor pass for safety)
        return Verdict(outcome="unscored", raw=f"{type(error).__name__}: {error}")
    return settled(verdict or Verdict(outcome="unscored", raw="the judge gave no verdict"), reply)
