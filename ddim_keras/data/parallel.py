"""A `map` that uses all cores, keeps the order, and holds only a few results at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields `function(item)` for each item in order, computed by a thread for each core.

    Threads suffice for work that lets others run meanwhile, as Pillow's decoding and resizing and
    NumPy on large arrays do. Items are taken, and results held, at most two a core ahead of what
    has been yielded, however many there are.

    Raises:
        Whatever `function` or `items` raise, when it is the turn of that item.
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
