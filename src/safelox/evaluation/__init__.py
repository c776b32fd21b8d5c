"""Ask a model, judge its replies, and keep both in a folder.

outcomes.py    what a reply does, and the order in which that is decided
intervals.py   rates with their counts and confidence intervals
samples.py     prompts with what a judge needs to know of them, read from JSONL
suites.py      the table of suites, and where their data is looked for
judges.py      the table of judges, and how one is asked safely
generation.py  greedy replies in batches
results.py     the records of a results folder and the rates in it
folder.py      a results folder on disk: appended to, resumed
running.py     evaluate: where the above meet
"""

from safelox.evaluation.intervals import Rate
from safelox.evaluation.judges import JUDGES, Judge, register_judge
from safelox.evaluation.outcomes import Outcome, Verdict
from safelox.evaluation.results import Results
from safelox.evaluation.running import evaluate
from safelox.evaluation.samples import Message, Sample
from safelox.evaluation.suites import SUITES, Suite, register_suite

__all__ = [
    "JUDGES",
    "SUITES",
    "Judge",
    "Message",
    "Outcome",
    "Rate",
    "Results",
    "Sample",
    "Suite",
    "Verdict",
    "evaluate",
    "register_judge",
    "register_suite",
]
