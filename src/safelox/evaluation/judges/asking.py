"""Many replies, one judge: in batches, side by side or one by one, as the judge is made."""

from collections.abc import Iterable, Iterator, Sized
from contextlib import closing

from safelox.evaluation.concurrency import side_by_side
from safelox.evaluation.judges.protocol import BatchJudge, ConcurrentJudge, Item, Judge, ask
from safelox.evaluation.outcomes import Verdict, settled
from safelox.evaluation.samples import Sample
from safelox.progress import NULL, Progress


def judge_many(
    judge: Judge, items: Iterable[tuple[Sample, str]], *, progress: Progress = NULL
) -> Iterator[tuple[int, Verdict]]:
    """Every item's index and the verdict that counts, as soon as there is one, in whatever order.

    A judge with a `concurrency` above 1 is asked so many at once, and never more. Items are taken as they are needed;
    only a judge with a `judge_batch` gets all of them at once.

    Raises:
        JudgeError: the judge cannot go on. The verdicts that it still gave have been yielded by then.
    """
    total = len(items) if isinstance(items, Sized) else None
    numbered = ((index, Item(*item)) for index, item in enumerate(items))
    with progress.task(f"judge: {judge.name}", total, "verdicts") as task:
        for index, verdict in _judged(judge, numbered):
            yield index, verdict
            task.advance(1)


def _judged(judge: Judge, numbered: Iterator[tuple[int, Item]]) -> Iterator[tuple[int, Verdict]]:
    if isinstance(judge, BatchJudge):
        items = [item for _, item in numbered]
        for index, verdict in judge.judge_batch(items):
            yield index, settled(verdict, items[index].reply)
    elif isinstance(judge, ConcurrentJudge) and judge.concurrency > 1:
        verdicts = side_by_side(lambda key: ask(judge, *key[1]), numbered, judge.concurrency, judge.interrupted)
        with closing(verdicts):
            for (index, _), verdict in verdicts:
                yield index, verdict
    else:
        for index, item in numbered:
            yield index, ask(judge, *item)
