"""Work on many rows at once keeps a bounded number of them in memory, and stops when it is told to."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

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


def ahead(items: Iterable[Item], most: int = 2) -> Iterator[Item]:
    """The items in their order, drawn in a thread of its own, at most so many before they are asked for.

    What drawing raises is raised here. Closing the generator does not wait: what is being drawn then is nobody's.
    """
    drawn: Queue[tuple[bool, Any]] = Queue(most)
    stop = Event()

    def give(word: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            with suppress(Full):
                drawn.put(word, timeout=0.2)
                return True
        return False

    def draw() -> None:
        try:
            for item in items:
                if not give((True, item)):
                    return
            give((False, None))
        except BaseException as error:  # noqa: BLE001 - raised where the next one is waited for
            give((False, error))

    Thread(target=draw, daemon=True).start()  # it may hang on a server: the end of the program does not wait for it
    try:
        while True:
            more, item = drawn.get()
            if more:
                yield item
            elif item is not None:
                raise item
            else:
                return
    finally:
        stop.set()


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


class Allowance:
    """So many requests a second, for all threads together: fewer where the other side asks for it, and slowly more again.

    A bucket of tokens that holds one: nothing is saved up for a burst.
    """

    def __init__(self, a_second: float, *, pause: float = 1.0) -> None:
        self._lock = Lock()
        self._most = self._rate = a_second
        self._pause = pause
        self._next = 0.0
        self._slowed = 0.0

    @property
    def rate(self) -> float:
        return self._rate

    def take(self, stop: Event) -> float:
        """Waits for its turn, or for `stop`; returns the moment at which it came, for slow_down()."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + 1 / self._rate
        stop.wait(turn - time.monotonic())
        return turn

    def slow_down(self, began: float) -> None:
        """Half as many, after a pause. Requests that were under way together are one reason and not many."""
        with self._lock:
            if began >= self._slowed:
                self._slowed = time.monotonic()
                self._rate = max(1.0, self._rate / 2)
                self._next = max(self._next, self._slowed + self._pause)

    def went_well(self) -> None:
        with self._lock:
            self._rate = min(self._most, self._rate + self._most / 5000)


def few_collections() -> None:
    """What is there now is not looked through for cycles again, and the rest seldom: rows are no cycles, and by the
    usual thresholds the search for some took 5 to 10 % of all CPU."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def batched(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    source = iter(items)
    while batch := tuple(islice(source, size)):
        yield batch
