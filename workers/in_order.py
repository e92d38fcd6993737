"""Work on many items in threads, answered in their order, a bounded number ahead of whoever takes the answers."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_MOST_THREADS = 32
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None = None) -> Iterator[_Result]:
    """The results of `work` in the order of `items`, at most twice as many ahead as there are threads.

    By default a thread a core, and 32 at most. What was not begun when the taker stops is not done.
    """
    count = threads or min(os.cpu_count() or 1, _MOST_THREADS)
    pending: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(count, thread_name_prefix="in-order")
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
