"""The table of what does not fit, and that whoever is nearly done is not turned away."""

from __future__ import annotations

import pytest

from migrate_v2.space import RECORDS, Need, Volume, in_blocks, lacking


def disk(free: int = 10**9, inodes: int | None = 1000, largest: int | None = None) -> Volume:
    return Volume("/d", 1, free, inodes, 4096, 255, largest)


def need(objects: int = 1, size: int = 4096, biggest: int = 4096, inodes: int = 1) -> Need:
    return Need(objects, size, size, inodes, biggest)


@pytest.mark.parametrize(
    ("wanted", "there", "said"),
    [
        (need(), disk(), ""),
        (need(), disk(free=4096 + RECORDS), ""),
        (need(), disk(free=4095 + RECORDS), "1 are lacking"),
        (need(size=10**10), disk(), "are lacking"),
        (need(inodes=1001), disk(), "inodes for 1,000"),
        (need(inodes=1001), disk(inodes=None), ""),
        (need(biggest=2**32), disk(largest=2**32 - 1), "the largest object has 4,294,967,296 bytes"),
        (need(biggest=2**32 - 1), disk(largest=2**32 - 1), ""),
        (Need(0, 0, 0, 0, 0), disk(free=0, inodes=0), ""),  # nothing is to come
    ],
)
def test_what_does_not_fit(wanted: Need, there: Volume, said: str) -> None:
    reasons = lacking(wanted, there)
    assert (said in reasons[0]) if said else reasons == []


def test_all_reasons_are_told_at_once() -> None:
    assert len(lacking(need(objects=5, size=10**12, biggest=10**12, inodes=5000), disk(largest=10**9))) == 3


def test_a_file_takes_whole_blocks() -> None:
    assert [in_blocks(size, 4096) for size in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
