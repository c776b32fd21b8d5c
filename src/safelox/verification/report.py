"""What a verification found."""

from collections.abc import Sequence

from pydantic import computed_field

from safelox.manifest import Record
from safelox.methods import ControlName

_LISTED = 5


class Check(Record):
    """One thing that was looked at."""

    name: str
    ok: bool | None
    """None where it could not be checked: the detail says why, and what to give so that it can."""
    detail: str


class VerifyReport(Record):
    """All checks, in the order in which they were made."""

    out: str
    kind: str
    control: ControlName | None = None
    """Set where what was checked is no hardened model, but a control."""
    checks: tuple[Check, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ok(self) -> bool:
        """Whether no check failed. What was not checked has not failed."""
        return all(check.ok is not False for check in self.checks)


def check(name: str, problems: Sequence[str], otherwise: str) -> Check:
    """A check that failed if there are problems, whose first few become its detail."""
    if not problems:
        return Check(name=name, ok=True, detail=otherwise)
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return Check(name=name, ok=False, detail="; ".join(problems[:_LISTED]) + more)
