"""Many replies, one judge: in batches, side by side or one by one, as the judge is made."""

import itertools
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

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
        yield from _side_by_side(judge, numbered)
    else:
        for index, item in numbered:
            yield index, ask(judge, *item)


def _side_by_side(judge: ConcurrentJudge, numbered: Iterator[tuple[int, Item]]) -> Iterator[tuple[int, Verdict]]:
    asked: dict[Future[Verdict], int] = {}
    failed: BaseException | None = None
    with ExitStack() as until_all_have_ended, ThreadPoolExecutor(judge.concurrency) as threads:
        try:
            while True:
                if failed is None:
                    for index, item in itertools.islice(numbered, judge.concurrency - len(asked)):
                        asked[threads.submit(ask, judge, *item)] = index
                if not asked:
                    break
                for future in wait(asked, return_when=FIRST_COMPLETED).done:
                    index = asked.pop(future)
                    if (error := future.exception()) is None:
                        yield index, future.result()
                    else:
                        failed = failed or error  # what is under way is still waited for
        except BaseException:  # such as Ctrl-C, or a reader that has had enough
            until_all_have_ended.enter_context(judge.interrupted())
            raise
    if failed is not None:
        raise failed
