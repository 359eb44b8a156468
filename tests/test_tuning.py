"""What an operator said beats what is worked out."""

from __future__ import annotations

from migrate_v2.tuning import MiB, Transfer, transfer


def test_small_objects_get_few_requests_because_the_process_is_bound_by_its_cpu() -> None:
    assert transfer(4096, 2) == Transfer(16, 1000, 8 * MiB, 8 * MiB, None)


def test_large_objects_get_more_and_larger_ranges() -> None:
    assert transfer(256 * MiB, 8) == Transfer(32, 1000, 8 * MiB, 16 * MiB, None)


def test_explicit_values_win() -> None:
    chosen = transfer(4096, 2, threshold=1, chunk=2, concurrency=3, bandwidth=4)
    assert chosen == Transfer(3, 1000, 1, 2, 4)


def test_without_threads_there_is_one_request_at_a_time() -> None:
    assert transfer(4096, 2, concurrency=9, use_threads=False).max_concurrent_requests == 1
