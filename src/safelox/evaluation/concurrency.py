"""Work side by side in threads: bounded, yielded as it comes, and stopped in order."""

import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def side_by_side(
    work: Callable[[Key], Value],
    keys: Iterator[Key],
    concurrency: int,
    interrupted: Callable[[], AbstractContextManager[None]],
) -> Generator[tuple[Key, Value], None, None]:
    """Every key with what `work` makes of it, in whatever order, with never more than `concurrency` under way.

    Keys are taken as they are needed. After an error no more are taken, what is under way is still waited for and
    yielded, and the first error is raised.

    Args:
        interrupted: entered where the reader stops early, such as by Ctrl-C, and left when all threads have ended.
    """
    under_way: dict[Future[Value], Key] = {}
    failed: BaseException | None = None
    with ExitStack() as until_all_have_ended, ThreadPoolExecutor(concurrency) as threads:
        try:
            while True:
                if failed is None:
                    for key in itertools.islice(keys, concurrency - len(under_way)):
                        under_way[threads.submit(work, key)] = key
                if not under_way:
                    break
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    key = under_way.pop(future)
                    if (error := future.exception()) is None:
                        yield key, future.result()
                    else:
                        failed = failed or error
        except BaseException:
            until_all_have_ended.enter_context(interrupted())
            raise
    if failed is not None:
        raise failed
