"""Doing a few things ahead: in threads, with a bound, and their results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int
) -> Iterator[_Result]:
    """The results of ``function`` for each item, in their order, at most ``threads`` of them under way or waiting.

    Items are taken in the caller's thread, when their turn comes. The first exception ends it; what was not begun
    by then is never begun, and what was has ended when the exception arrives.
    """
    pool = ThreadPoolExecutor(threads)
    under_way: deque[Future[_Result]] = deque()
    try:
        for item in items:
            if len(under_way) == threads:
                yield under_way.popleft().result()
            under_way.append(pool.submit(function, item))
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
