"""Work on many rows at once keeps a bounded number of them in memory, and stops when it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event, Lock
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item, Event], Result], items: Iterable[Item], *, threads: int, tick: float = 0.5
) -> Iterator[tuple[Item, Result] | None]:
    """(item, result) as they come, in any order; None about every `tick` seconds in which nothing came.

    `items` is drawn in the caller's thread. An exception of `work` is raised here. Closing the generator sets the Event
    that each `work` was given and waits for those under way: work that takes long looks at it.
    """
    source = iter(items)
    stop = Event()
    pool = ThreadPoolExecutor(threads)
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            for item in islice(source, 2 * threads - len(running)):
                running[pool.submit(work, item, stop)] = item
            if not running:
                return
            done, _ = wait(running, timeout=tick, return_when=FIRST_COMPLETED)
            if not done:
                yield None
            for future in done:
                yield running.pop(future), future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


class Meter:
    """Bytes that several threads have worked off, counted up, or down again where work is done anew."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


class Limit:
    """Bytes a second that several threads may take together, as `rate` says at the moment; None is no limit."""

    def __init__(self, rate: Callable[[], int | None]) -> None:
        self._rate = rate
        self._lock = Lock()
        self._due = 0.0

    def take(self, count: int, stop: Event) -> None:
        """Returns when so many more may be taken, or at once when `stop` is set."""
        rate = self._rate()
        if rate is None:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._due)
            self._due = begin + count / rate
        stop.wait(begin - now)


def batched(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    source = iter(items)
    while batch := tuple(islice(source, size)):
        yield batch
