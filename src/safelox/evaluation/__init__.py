"""Ask a model, judge its replies, and keep both in a folder.

coherence.py   whether a reply makes any sense by its form
outcomes.py    what a reply does, and the order in which that is decided
intervals.py   rates and their differences, with confidence intervals
samples.py     prompts with what a judge needs to know of them
suites.py      the table of suites
concurrency.py work side by side in threads, bounded
judges/        the judges, and how they are asked
answers.py     judges of arithmetic: the number in a reply
readers.py     prompts, read from the files of data sets as they are published
published.py   the suites of published data sets
generation/    replies, from a model in this process or from a server
metrics.py     what is read off verdicts
results.py     the records of a results folder and the rates in it
folder.py      a results folder on disk: appended to, resumed
planning.py    which prompts of which suites are asked, and how
running.py     evaluate: where the above meet
comparison.py  compare: two results folders, prompt by prompt
exports/       results in the forms that other tools read
harness.py     tasks of lm-evaluation-harness on the same model
"""

from safelox.evaluation.comparison import Comparison, compare
from safelox.evaluation.generation import Backend
from safelox.evaluation.judges import JUDGES, Judge, register_judge
from safelox.evaluation.outcomes import Outcome, Verdict
from safelox.evaluation.published import PUBLISHED
from safelox.evaluation.results import Results
from safelox.evaluation.running import evaluate
from safelox.evaluation.samples import Message, Sample
from safelox.evaluation.suites import SUITES, Suite, custom_suite, register_suite
from safelox.rates import Rate

__all__ = [
    "JUDGES",
    "PUBLISHED",
    "SUITES",
    "Backend",
    "Comparison",
    "Judge",
    "Message",
    "Outcome",
    "Rate",
    "Results",
    "Sample",
    "Suite",
    "Verdict",
    "compare",
    "custom_suite",
    "evaluate",
    "register_judge",
    "register_suite",
]
