"""What an operator said beats what is worked out."""

from __future__ import annotations

import pytest

from migrate_v2.tuning import SIZES, Left, Measured, MiB, Transfer, advise, transfer


def test_small_objects_get_few_requests_because_the_process_is_bound_by_its_cpu() -> None:
    assert transfer(4096, 2) == Transfer(16, 1000, 8 * MiB, 8 * MiB, None)


def test_large_objects_get_more_and_larger_ranges() -> None:
    assert transfer(256 * MiB, 8) == Transfer(32, 1000, 8 * MiB, 16 * MiB, None)


def test_explicit_values_win() -> None:
    chosen = transfer(4096, 2, threshold=1, chunk=2, concurrency=3, bandwidth=4)
    assert chosen == Transfer(3, 1000, 1, 2, 4)


def test_without_threads_there_is_one_request_at_a_time() -> None:
    assert transfer(4096, 2, concurrency=9, use_threads=False).max_concurrent_requests == 1


MACHINE = {"cores": 4, "memory_available": 8 << 30, "open_files": 1024}
FAST = {
    "single": 1e9, "parallel": {8: 1e9, 32: 1e9}, "objects": {8: 1e5, 32: 1e5},
    "write": 1e9, "files": 1e5, "read_hash": {1: 1e9, 4: 1e9},
}  # fmt: skip


def left(objects: int, size: int) -> Left:
    """Objects of one size."""
    at = next((n for n, limit in enumerate(SIZES) if size < limit), len(SIZES))
    return Left(
        tuple(objects if n == at else 0 for n in range(len(SIZES) + 1)),
        tuple(objects * size if n == at else 0 for n in range(len(SIZES) + 1)),
    )


@pytest.mark.parametrize(
    ("slow", "of", "bottleneck"),
    [
        ({"throttled": 3}, left(10, MiB), "S3"),
        (dict.fromkeys(FAST), left(10, MiB), "unknown"),
        ({"single": 1e6, "parallel": {8: 1e7, 32: 1e7}}, left(100, 100 * MiB), "the network"),
        ({"write": 1e7}, left(100, 100 * MiB), "the destination"),
        ({"objects": {8: 10.0, 32: 20.0}}, left(10**5, 1000), "S3's answers to small objects"),
        ({}, left(10**5, 1000), "the AWS CLI"),
        ({"files": 50.0}, left(10**5, 1000), "the destination's small files"),
        ({"read_hash": {1: 1e6, 4: 1e6}}, left(100, 100 * MiB), "reading back"),
        ({"write": 2e9}, Left(), "the network"),
        ({"write": 1e6}, Left(), "the destination"),
    ],
)
def test_the_slowest_part_is_the_bottleneck(slow: dict[str, object], of: Left, bottleneck: str) -> None:
    advice = advise(of, Measured(**{**MACHINE, **FAST, **slow}))  # type: ignore[arg-type]
    assert advice.bottleneck == bottleneck, advice


def test_the_time_is_that_of_the_slowest_part_and_of_reading_back() -> None:
    advice = advise(left(1000, 100 * MiB), Measured(**{**MACHINE, **FAST, "write": 1e8}))  # type: ignore[arg-type]
    size = 1000 * 100 * MiB
    assert advice.seconds == size / 1e8 + size / 1e9 and advice.times["the network"] == size / 1e9
    assert advise(Left(), Measured(**{**MACHINE, **FAST})).seconds is None  # type: ignore[arg-type]


def test_no_more_connections_or_threads_than_bring_something() -> None:
    more = {"parallel": {8: 1e8, 32: 3e8}, "read_hash": {1: 1e8, 4: 1.1e8}}
    advice = advise(left(10, 100 * MiB), Measured(**{**MACHINE, **FAST, **more}))  # type: ignore[arg-type]
    assert advice.settings == {
        "engine": "cli", "max_concurrency": 32, "max_concurrent_downloads": 32, "max_concurrent_verifications": 1,
        "multipart_chunksize": "16MiB",
    }  # fmt: skip
    few = advise(left(10, 100 * MiB), Measured(**{**MACHINE, **FAST, **more, "open_files": 104}))  # type: ignore[arg-type]
    assert few.settings["max_concurrency"] == 10


def test_small_objects_are_for_the_native_engine_where_there_is_one() -> None:
    advice = advise(left(10**6, 1000), Measured(**{**MACHINE, **FAST}), native=True)  # type: ignore[arg-type]
    assert advice.settings["engine"] == "native" and "the AWS CLI" not in advice.times
    assert advise(left(10, 100 * MiB), Measured(**{**MACHINE, **FAST}), native=True).settings["engine"] == "cli"  # type: ignore[arg-type]
