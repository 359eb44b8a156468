"""What an operator said beats what is worked out."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate_v2 import tuning
from migrate_v2.tuning import (
    SIZES,
    Crew,
    Directory,
    Left,
    Measured,
    MiB,
    Transfer,
    advise,
    crew,
    directories,
    pieces,
    processes,
    transfer,
)


def test_small_objects_get_few_requests_because_the_process_is_bound_by_its_cpu() -> None:
    assert transfer(4096, 2) == Transfer(16, 1000, 8 * MiB, 8 * MiB, None)


def test_large_objects_get_more_and_larger_ranges() -> None:
    assert transfer(256 * MiB, 8) == Transfer(32, 1000, 8 * MiB, 16 * MiB, None)
    assert transfer(256 * MiB, 2).max_concurrent_requests == 10, (
        "the CLI's own: two cores have no time for more threads"
    )


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


def test_the_native_engine_has_a_process_a_core_and_what_an_operator_said() -> None:
    assert crew(4096, 4, 8 << 30) == Crew(4, 64, 8 * MiB, 8 * MiB)
    assert crew(4096, 4, 500 * MiB) == Crew(1, 128, 8 * MiB, 8 * MiB), "memory for one"
    assert crew(256 * MiB, 2, 8 << 30) == Crew(2, 16, 8 * MiB, 8 * MiB)
    assert crew(4096, 4, 8 << 30, threshold=1, part=2, concurrency=3) == Crew(3, 1, 1, 2)
    assert crew(4096, 4, 8 << 30, use_threads=False).window == 1


NAMES = st.sampled_from(["a", "b", "c*", "d-", "[e]", "-f", "g.h"])
KEYS = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=5).map("/".join), st.integers(0, 4 << 20)), max_size=80)


def covers(shard: Directory, key: str) -> bool:
    if shard.names:
        return key in {shard.prefix + name for name in shard.names}
    return any(key.startswith(folder) for folder in shard.folders())


@settings(max_examples=300)
@given(KEYS, *[st.sampled_from([0.5, 2.0, 5.0, 20.0])] * 2, st.sampled_from([0.5, 3.0]), st.sampled_from([1, 2, 40]))
def test_no_object_is_in_two_shards_and_counts_are_those_of_the_objects(
    given_keys: list[tuple[str, int]], alone: float, together: float, worth: float, patterns: int
) -> None:
    objects = dict(given_keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "WORTH_A_PROCESS", worth)
        patch.setattr(tuning, "MOST_PATTERNS", patterns)
        patch.setattr(tuning, "_CHILDREN", 4)
        patch.setattr(tuning, "WORTH_A_NAME", 2 << 20)
        patch.setattr(tuning, "MOST_NAMES", 8)
        shards = directories(sorted(objects.items(), key=lambda entry: entry[0].encode()), alone, together)
    for key in objects:
        assert sum(covers(shard, key) for shard in shards) <= 1, (key, shards)
    for shard in shards:
        inside = [size for key, size in objects.items() if covers(shard, key)]
        assert (shard.objects, shard.bytes) == (len(inside), sum(inside))
        assert shard.weight >= min(worth, alone) and len(shard.children) + len(shard.names) <= patterns
        assert shard.prefix == "" or shard.prefix.endswith("/")
        assert not set("*?[") & set(shard.prefix), "the CLI would take it for a pattern"
    assert shards == sorted(shards, key=lambda shard: -shard.weight)


def test_large_folders_are_shards_small_ones_are_grouped_and_the_rest_is_for_others() -> None:
    objects = [(f"big{n}/x{i}", 10) for n in range(3) for i in range(2000)]
    objects += [(f"deep/in/{n}/x{i}", 10) for n in range(2) for i in range(2000)]
    objects += [(f"small{n:02}/x{i}", 10) for n in range(30) for i in range(50)]
    objects += [(f"loose{i}", 10) for i in range(100)] + [("deep/loose", 1), ("tiny/x", 1)]
    shards = directories(sorted(objects), 1600, 1600)
    whole = {shard.prefix: shard.objects for shard in shards if not shard.children}
    assert whole == {**{f"big{n}/": 2000 for n in range(3)}, **{f"deep/in/{n}/": 2000 for n in range(2)}}
    (group,) = [shard for shard in shards if shard.children]
    assert group.prefix == "" and group.objects == 1501
    assert group.children == (*(f"small{n:02}" for n in range(30)), "tiny")
    assert not any(covers(shard, key) for shard in shards for key in ("loose1", "deep/loose"))


def test_a_flat_folder_is_one_shard_however_large_and_a_flat_bucket_none() -> None:
    assert directories([(f"d/x{i:06}", 1) for i in range(50_000)], 1000, 1000) == [Directory("d/", (), 50_000, 50_000)]
    assert directories([(f"x{i:06}", 1) for i in range(50_000)], 1000, 1000) == []


def test_a_flat_folder_of_large_objects_is_cut_by_their_names() -> None:
    large = [(f"d/x{i}", 256 * MiB) for i in range(8)]
    sizes = pieces(8, 8 * 256 * MiB, 2)
    halves = [tuple(f"x{i}" for i in part) for part in (range(4), range(4, 8))]
    assert [(shard.prefix, shard.names) for shard in directories(large, *sizes)] == [("d/", half) for half in halves]
    # Few small ones beside them are for others. Where they are many, one process brings all, for each lists all.
    few, many = ([(f"d/y{i:05}", 10) for i in range(count)] for count in (300, 3000))
    assert [shard.names for shard in directories(large + few, *sizes)] == halves
    assert directories(large + many, *sizes) == [Directory("d/", (), 3008, 8 * 256 * MiB + 30_000)]
    # A folder that is no more than one process's share, or has a sign of the CLI's patterns in its name, is not cut.
    assert [shard.names for shard in directories(large, 1600, 3000)] == [()]
    small_share = [(f"d/x{i:02}", 64 * MiB) for i in range(41)]
    assert [shard.names for shard in directories(small_share, 1600, 4000)] == [()]
    assert [(s.prefix, s.names) for s in directories([("d[" + key[1:], size) for key, size in large], *sizes)] == [
        ("", ())
    ]
    # As many as are worth a process, each with as many names as one may have.
    shards = directories([(f"d/x{i:04}", 100 * MiB) for i in range(400)], *pieces(400, 400 * 100 * MiB, 2))
    assert [len(shard.names) for shard in shards] == [40] * 10
    # Beside a folder that is a shard by itself, too.
    deep = [(f"d/e/x{i:04}", 10) for i in range(2000)] + [(f"d/x{i}", 1 << 30) for i in range(8)]
    assert {(s.prefix, len(s.names)) for s in directories(deep, 1600, 6000)} == {("d/", 4), ("d/e/", 0)}


def test_names_are_held_of_few_folders_however_many_there_are() -> None:
    tracemalloc.start()
    objects = ((f"set{i:05}/part-{j:03}.parquet", 64 * MiB) for i in range(1000) for j in range(41))
    shards = directories(objects, *pieces(41_000, 41_000 * 64 * MiB, 2))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not any(shard.names for shard in shards) and peak < 1 << 20


def test_a_million_tiny_folders_are_no_shards_and_are_not_held_in_memory() -> None:
    tracemalloc.start()
    shards = directories(((f"user{i:07}/x", 1) for i in range(100_000)), 4000, 4000)
    assert shards == [] and tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_groups_are_large_since_each_process_lists_all_of_the_folder_above() -> None:
    objects = [(f"d{n:02}/x{i:03}", 4096) for n in range(20) for i in range(1000)]
    shards = directories(objects, *pieces(20_000, 20_000 * 4096, 2))
    assert [len(shard.children) for shard in shards] == [10, 10]
    # Where one group is too small a part of what is listed for it, others fetch it.
    objects += [(f"e/x{i:06}", 4096) for i in range(100_000)]
    shards = directories(objects, 20_000, 5000)
    assert [shard.prefix for shard in shards] == ["e/"]


def test_pieces_are_enough_for_all_processes_and_worth_a_process() -> None:
    assert pieces(1_000_000, 0, 2) == (1_000_000 / 64, 500_000) and pieces(10_000_000, 0, 2)[0] == 20_000
    assert pieces(2000, 0, 2) == (1600, 1600)
    assert processes(8, 64 << 30, None) == 8 and processes(8, 900 * MiB, None) == 2
    assert processes(8, 64 << 30, 3 * MiB) == 3 and processes(8, 64 << 30, 1024) == 1
