"""Whether a reply to an arithmetic problem has the right number: three ways to find it, each as a judge.

`number`          the right way: 1234, 1,234, $1,234.00 and 12.50 are all read whole
`number-paper`    the paper's: whatever follows the last `####`, if that is a number and nothing else
`number-paper-chat`  the paper's for chat models: the last match of a pattern that reads 1234 as 4 and 12.50 as 50

The score is 1 for the right number, 0 for a wrong one, and none where no number was found, which counts as wrong.
"""

import re
from collections.abc import Callable
from decimal import Decimal

from safelox.evaluation.judges import register_judge
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.samples import Sample

MARK = "####"
"""Stands before the answer in GSM8K's solutions."""
ANSWER = "answer"
"""Where a sample keeps the right number, as text, in what it is about."""

_NUMBER = re.compile(r"(?<![\w.])[-\u2212+]?(?:\$\s?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
"""With a sign, a dollar and separators of thousands or without; a full stop at the end of a sentence is no part."""
_NEXT_PROBLEM = re.compile(r"\n\s*(?:Question:|Q:|#+ ?Instruction)")
"""Where a reply has answered and goes on to ask itself the next problem."""
_PAPER_CHAT = re.compile(r"-?\d{1,3}(?:,\d{3})*")


def find_number(reply: str) -> Decimal | None:
    """The number that a reply answers with; None where there is none.

    It is the first number right after `####`; where that mark is not followed by one, the last number of the reply.
    What comes after the reply has begun to ask the next problem is no part of the answer.
    """
    own = _NEXT_PROBLEM.split(reply, maxsplit=1)[0]
    for after in own.split(MARK)[1:]:
        if found := _NUMBER.match(after.lstrip(" *:=\u00a0")):
            return _plain(found.group())
    every = _NUMBER.findall(own)
    return _plain(every[-1]) if every else None


def _plain(written: str) -> Decimal:
    return Decimal(re.sub(r"[,$\s]", "", written).replace("\u2212", "-"))


def find_number_as_paper(reply: str) -> Decimal | None:
    """All the text after the last `####`, if Python's `float` reads it once commas are taken out."""
    _, mark, after = reply.rpartition(MARK)
    try:
        return Decimal(str(float(after.replace(",", "")))) if mark else None
    except ValueError:
        return None


def find_number_as_paper_chat(reply: str) -> Decimal | None:
    """The last group of up to three digits, or more where commas part them: reads 1234 as 4 and 12.50 as 50."""
    every = _PAPER_CHAT.findall(reply)
    return Decimal(every[-1].replace(",", "")) if every else None


class NumberJudge:
    """Compares the number in a reply with the right one."""

    version = "1"

    def __init__(self, name: str, find: Callable[[str], Decimal | None]) -> None:
        self.name = name
        self._find = find

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """
        Raises:
            KeyError: the sample has no answer.
        """
        right = Decimal(str(sample.about[ANSWER]))
        found = self._find(reply)
        if found is None:
            return Verdict(outcome="other", raw="no number")
        return Verdict(outcome="complied" if found == right else "other", raw=str(found), score=float(found == right))


NUMBER = register_judge(NumberJudge("number", find_number))
NUMBER_PAPER = register_judge(NumberJudge("number-paper", find_number_as_paper))
NUMBER_PAPER_CHAT = register_judge(NumberJudge("number-paper-chat", find_number_as_paper_chat))
