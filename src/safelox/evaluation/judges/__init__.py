"""Judges decide what replies do, all behind one small protocol.

protocol.py     what a judge is, the table of those that need no options, and how one is asked safely
asking.py       judge_many: in batches, side by side or one by one, as a judge is made
phrases.py      refusal: phrases that refuse
replay.py       replay: verdicts from a file
questions.py    what a language model is asked as a judge; the user's own wording
rubrics.py      policy-rubric and strongreject
aspects.py      aspect-helpfulness and its like
classifiers.py  llama-guard and harmbench
cache.py        answers that were paid for already
spending.py     tokens, money, and the budget
server.py       a model behind a server, asked within a budget and nothing twice
models.py       a question and a model, behind a server or in this process, as a judge
building.py     build_judges: from names and options
"""

from safelox.evaluation.judges.asking import judge_many
from safelox.evaluation.judges.building import (
    MODEL_JUDGES,
    JudgeOptions,
    ModelJudge,
    build_judges,
    judge_usage,
    known_judges,
)
from safelox.evaluation.judges.phrases import refusal_phrase
from safelox.evaluation.judges.protocol import (
    JUDGES,
    BatchJudge,
    ConcurrentJudge,
    Item,
    Judge,
    LimitedJudge,
    ask,
    can_say,
    find_judges,
    register_judge,
)
from safelox.evaluation.judges.server import Patience
from safelox.evaluation.judges.spending import Price, Usage

__all__ = [
    "JUDGES",
    "MODEL_JUDGES",
    "BatchJudge",
    "ConcurrentJudge",
    "Item",
    "Judge",
    "JudgeOptions",
    "LimitedJudge",
    "ModelJudge",
    "Patience",
    "Price",
    "Usage",
    "ask",
    "build_judges",
    "can_say",
    "find_judges",
    "judge_many",
    "judge_usage",
    "known_judges",
    "refusal_phrase",
    "register_judge",
]
