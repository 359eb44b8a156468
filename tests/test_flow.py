"""Bounded concurrency: nothing is lost, nothing is drawn ahead without bound, and closing stops the work."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from migrate_v2.flow import Allowance, Limit, Meter, ahead, batched, in_threads


def test_every_item_comes_with_its_own_result() -> None:
    results = [r for r in in_threads(lambda n, _: n * n, range(500), threads=4) if r is not None]
    assert sorted(results) == [(n, n * n) for n in range(500)]


def test_the_source_is_drawn_only_as_fast_as_it_is_worked_off() -> None:
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for n in range(1000):
            drawn += 1
            yield n

    seen = 0
    for answer in in_threads(lambda n, _: n, source(), threads=3):
        seen += answer is not None
        assert drawn - seen <= 6
    assert seen == 1000


def test_closing_tells_those_under_way_and_waits_for_them() -> None:
    ended = threading.Event()

    def work(n: int, stop: threading.Event) -> None:
        if n and stop.wait(30):
            ended.set()

    answers = in_threads(work, range(4), threads=2)
    next(answers)
    began = time.monotonic()
    answers.close()
    assert ended.is_set()
    assert time.monotonic() - began < 5


def test_silence_is_told_as_none() -> None:
    gate = threading.Event()
    answers = in_threads(lambda n, _: gate.wait(30), [1], threads=1, tick=0.01)
    assert next(answers) is None
    gate.set()
    assert [a for a in answers if a is not None] == [(1, True)]


def test_an_exception_of_the_work_is_raised_to_the_caller() -> None:
    def work(n: int, _: threading.Event) -> int:
        return 1 // (n - 3)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(work, range(10), threads=2))


def test_batches_hold_everything_once_in_order() -> None:
    assert list(batched(range(7), 3)) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert list(batched([], 3)) == []


def test_a_meter_counts_what_many_threads_add() -> None:
    meter = Meter()
    list(in_threads(lambda n, _: meter.add(n), range(1000), threads=8))
    meter.add(-500)
    assert meter.bytes == sum(range(1000)) - 500


def test_a_limit_is_for_all_threads_together_and_a_stop_ends_the_waiting() -> None:
    limit = Limit(lambda: 1000)
    stop = threading.Event()
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: limit.take(100, stop), range(5)))
    assert 0.4 <= time.monotonic() - began < 3
    stop.set()
    limit.take(10**9, stop)
    before = time.monotonic()
    limit.take(1, stop)
    assert time.monotonic() - before < 0.2
    Limit(lambda: None).take(10**12, threading.Event())


def test_no_more_a_second_than_allowed_for_all_threads_together() -> None:
    allowance = Allowance(200)
    began = time.monotonic()
    turns = [turn for _, turn in filter(None, in_threads(lambda _, stop: allowance.take(stop), range(60), threads=8))]
    assert time.monotonic() - began > 59 / 200 - 0.01
    turns.sort()
    assert all(b - a > 0.004 for a, b in itertools.pairwise(turns)), "no burst"


def test_the_allowance_is_halved_once_for_what_was_under_way_together_and_comes_back() -> None:
    allowance = Allowance(800, pause=0.05)
    stop = threading.Event()
    together = [allowance.take(stop) for _ in range(5)]
    for began in together:
        allowance.slow_down(began)
    assert allowance.rate == 400
    began = time.monotonic()
    turn = allowance.take(stop)
    assert time.monotonic() - began > 0.04, "a pause first"
    allowance.slow_down(turn)
    assert allowance.rate == 200
    for _ in range(6000):
        allowance.went_well()
    assert allowance.rate == 800
    stop.set()
    for _ in range(1000):
        allowance.take(stop)


def test_ahead_gives_all_in_order_and_draws_no_more_than_it_may() -> None:
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for n in range(200):
            drawn += 1
            yield n

    for seen, n in enumerate(ahead(source(), 2)):
        assert n == seen
        assert drawn - seen <= 4  # two that wait, one in the making, one here
    assert drawn == 200


def test_ahead_raises_what_drawing_raised_after_what_came_before_it() -> None:
    items = ahead(1 // n for n in (1, 1, 0, 1))
    assert [next(items), next(items)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_closing_does_not_wait_for_what_hangs_and_nothing_is_drawn_any_more() -> None:
    gate = threading.Event()
    drawn = []

    def source() -> Iterator[int]:
        for n in range(100):
            drawn.append(n)
            yield n
            if n == 1:
                gate.wait(30)

    items = ahead(source())
    assert next(items) == 0
    began = time.monotonic()
    items.close()
    assert time.monotonic() - began < 5
    gate.set()
    time.sleep(0.5)
    assert len(drawn) <= 4
