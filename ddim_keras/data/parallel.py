"""Parallel `map`: uses all cores, keeps the order, and holds only a few results at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields `function(item)` for each item in order, computed by one thread per core.

    Threads suffice for work that releases the GIL, such as Pillow's decoding and resizing and NumPy
    on large arrays. Items are taken, and results held, at most two per core ahead of the results
    already yielded.

    Raises:
        Any error of `function` or `items`, when it is the turn of that item.
    """
    num_threads = os.cpu_count() or 1
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
