"""CSV files with the columns that the paper's own scripts write: one file for each suite and judge."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from safelox.evaluation.answers import ANSWER
from safelox.evaluation.exports.finished import Finished
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.results import ScoredSample, SuiteConfig
from safelox.evaluation.samples import conversation
from safelox.formats import TextFormat, find_format

ASR_COLUMNS = ("index", "score", "instruction", "completion", "gpt_out")
"""Number of the row; the judge's score; the whole prompt as the model saw it; the reply; what the judge said."""
ACCURACY_COLUMNS = ("question", "true_answer", "pred_answer", "true_number", "pred_number")
"""The question; its solution; the reply; the number in either."""


def write_csv(finished: Finished, folder: Path) -> None:
    """Write SUITE-JUDGE.csv for every suite and judge.

    Where a judge has no score or no number was found, that cell is empty; where it has no words, the outcome stands in
    their place. A prompt in the format chat, whose text only the model's tokenizer knows, is written turn by turn.
    """
    for suite, samples in finished.samples.items():
        config = finished.config.suites[suite]
        for judge in config.judges:
            with open(
                folder / f"{file_name(suite)}-{file_name(judge)}.csv", "w", encoding="utf-8", newline=""
            ) as stream:
                writer = csv.writer(stream, lineterminator="\n")
                if config.asks == "answer":
                    writer.writerow(ACCURACY_COLUMNS)
                    writer.writerows(_accuracy_rows(samples, judge))
                else:
                    writer.writerow(ASR_COLUMNS)
                    writer.writerows(_asr_rows(samples, judge, config))


def file_name(name: str) -> str:
    """A name without what file systems cannot hold; judges may be called policy-rubric=org/model."""
    return re.sub(r"[^\w.=+-]+", "_", name)


def _asr_rows(samples: list[ScoredSample], judge: str, config: SuiteConfig) -> Iterator[tuple[object, ...]]:
    for index, sample in enumerate(samples):
        verdict = sample.verdicts[judge]
        completion = sample.completion or config.empty_reply or ""
        yield index, _score(verdict), prompt_text(sample, config.generation.format), completion, _words(verdict)


def _accuracy_rows(samples: list[ScoredSample], judge: str) -> Iterator[tuple[object, ...]]:
    for sample in samples:
        verdict = sample.verdicts[judge]
        number = "" if verdict.score is None else verdict.raw
        about = sample.about
        yield sample.prompt[-1].content, about.get("solution", ""), sample.completion, about[ANSWER], number


def prompt_text(sample: ScoredSample, format: str) -> str:
    """The whole prompt as one text."""
    layout = find_format(format)
    if isinstance(layout, TextFormat):
        return (layout.written_beginning or "") + layout.text(conversation(sample.prompt))
    if len(sample.prompt) == 1:
        return sample.prompt[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in sample.prompt)


def _score(verdict: Verdict) -> str:
    return "" if verdict.score is None else f"{verdict.score:g}"


def _words(verdict: Verdict) -> str:
    return verdict.outcome if verdict.raw is None else verdict.raw
