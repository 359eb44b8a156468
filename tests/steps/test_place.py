"""Each version has a path of its own, and none gets the path of another's copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from migrate_v2.edges.disk import Disk
from migrate_v2.edges.store import Store
from migrate_v2.errors import Refused
from migrate_v2.events import Noted
from migrate_v2.model import NONCURRENT, FileState, Place, Verdict
from tests.steps.conftest import Job, assert_tallies

SIDE = ".migrate-v2/b/objects/"


def put(job: Job, *keys: str) -> None:
    for key in keys:
        job.server.put("b", key, b"" if key.endswith("/") else key.encode())


def places(job: Job) -> dict[str, Place | None]:
    return {row.key: row.place for row in job.rows()}


def assert_each_has_its_own(job: Job) -> None:
    """On disk, too: everything is brought, and every copy is its own object's."""
    paths = [row.path for row in job.rows() if row.place]
    assert len(set(paths)) == len(paths)
    job.fetch()
    job.verify()
    assert {row.state for row in job.rows()} <= {FileState.VERIFIED, FileState.DELETED}
    for row in job.rows():
        if row.place is not Place.FOLDER and row.state is FileState.VERIFIED:
            stored = job.server.get("b", row.key, row.version.version_id)
            assert stored and (job.disk.base / row.path).read_bytes() == stored.body


@pytest.mark.parametrize(
    ("keys", "aside"),
    [
        (["a", "a/b"], {"a"}),
        (["a", "a/b/c/d", "a.b"], {"a"}),
        (["a", "a/b", "a/b/c"], {"a", "a/b"}),
        (["dir", "dir/"], {"dir"}),
        (["dir/", "dir/x"], set()),
        (["x//y", "x/y"], {"x//y"}),
        (["/k", "k"], {"/k"}),
        (["./c", "a/../b", "..", "c", "b"], {"./c", "a/../b", ".."}),
        (["n" * 255, "n" * 256, "é" * 123, "é" * 123 + "x"], {"n" * 256, "é" * 123 + "x"}),
        (["A", "a", "\u00e9", "e\u0301"], set()),
        (["report.20240131", "report.2024013a"], {"report.2024013a"}),
        (["a b", "a\nb", "a\\b", 'a"b', "a*b", "a?b"], set()),
    ],
)
def test_what_cannot_lie_together_lies_apart(job: Job, keys: list[str], aside: set[str]) -> None:
    put(job, *keys)
    job.scan()
    told = job.place()
    assert {key for key, place in places(job).items() if place is Place.SIDE} == aside
    for row in job.rows():
        assert row.path.startswith(SIDE) if row.key in aside else row.path == f"b/{row.key.removesuffix('/')}"
    assert [type(e) for e in told] == ([Noted] if aside else [])
    assert_each_has_its_own(job)


def test_placing_again_changes_nothing(job: Job) -> None:
    put(job, "a", "a/b", "x//y", "dir/", "k")
    job.scan()
    job.place()
    before = job.rows()
    assert job.place() == []
    assert job.rows() == before


def place_folding(job: Job, **how: bool) -> None:
    """As on a destination that keeps twins under one name; macOS and Windows have such."""
    job.disk._file_system = replace(job.disk.filesystem(), **how)  # type: ignore[arg-type]
    job.place()


@pytest.mark.parametrize(
    ("how", "keys", "aside"),
    [
        ({"folds_case": True}, ["A", "a", "b"], {"A", "a"}),
        ({"folds_case": True}, ["Dir/x", "dir/y"], set()),
        ({"folds_case": True}, ["Dir/X", "dir/x"], {"Dir/X", "dir/x"}),
        ({"folds_case": True}, ["DIR", "dir/x"], {"DIR"}),
        ({"folds_case": True}, ["\u00c9", "\u00e9"], {"\u00c9", "\u00e9"}),
        ({"folds_case": True}, ["\u00e9", "e\u0301"], set()),
        ({"normalises": True}, ["\u00e9", "e\u0301", "E"], {"\u00e9", "e\u0301"}),
        ({"normalises": True}, ["A", "a"], set()),
        ({"normalises": True, "folds_case": True}, ["\u00c9", "e\u0301"], {"\u00c9", "e\u0301"}),
    ],
)
def test_twins_on_a_file_system_that_folds(job: Job, how: dict[str, bool], keys: list[str], aside: set[str]) -> None:
    put(job, *keys)
    job.scan()
    place_folding(job, **how)
    assert {key for key, place in places(job).items() if place is Place.SIDE} == aside
    assert_each_has_its_own(job)


def test_a_copy_already_there_stays_and_the_newcomer_goes_aside(job: Job) -> None:
    put(job, "a", "dir/x", "Twin")
    job.scan()
    place_folding(job, folds_case=True)
    job.fetch()
    job.verify()
    before = {row.key: row.path for row in job.rows()}
    # a file where a folder is wanted, a folder where a file is wanted, a twin
    put(job, "a/b", "a/c/d", "dir", "tWIN")
    job.scan()
    place_folding(job, folds_case=True)
    after = {row.key: row.path for row in job.rows()}
    assert {key: after[key] for key in before} == before
    assert {key for key, place in places(job).items() if place is Place.SIDE} == {"a/b", "a/c/d", "dir", "tWIN"}
    assert_each_has_its_own(job)
    for key, path in before.items():
        assert (job.disk.base / path).read_bytes() == key.encode()


@pytest.mark.parametrize(
    ("first", "then"),
    [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/", "a"), ("a", "a/"), ("x//y", "x//y"), ("a/b/c", "a/b"), ("A", "a")],
)
def test_the_path_of_a_deleted_row_is_never_given_away(job: Job, first: str, then: str) -> None:
    job.server.put("b", first, b"" if first.endswith("/") else b"the only copy")
    job.scan()
    place_folding(job, folds_case=True)
    job.fetch()
    job.verify()
    job.delete()
    assert job.server.versions("b") == []
    job.server.put("b", then, b"" if then.endswith("/") else b"another")
    job.scan()
    place_folding(job, folds_case=True)
    (old,) = [row for row in job.rows() if row.state is FileState.DELETED]
    (new,) = [row for row in job.rows() if row.state is not FileState.DELETED]
    assert old.path != new.path
    assert_each_has_its_own(job)
    copy = job.disk.base / old.path
    assert copy.is_dir() if old.place is Place.FOLDER else copy.read_bytes() == b"the only copy"
    job.verify_again("run-2")
    assert {row.verdict for row in job.rows()} == {Verdict.MATCH}


def old_versions(job: Job) -> list[str]:
    job.server.bucket("b", versioning="Enabled")
    ids = [job.server.put("b", "k", f"v{n}".encode()).version_id for n in range(3)]
    put(job, "current")
    return ids[:2]


def test_old_versions_are_kept_where_the_setting_says_so_and_fetched_when_it_does_not(job: Job) -> None:
    old = old_versions(job)
    job.noncurrent = "keep"
    job.bring()
    for version_id in old:
        row = job.row("k", version_id)
        assert (row.state, row.verdict, row.reason) == (FileState.DISCOVERED, Verdict.KEPT, NONCURRENT.text)
    assert sum(row.state is FileState.VERIFIED for row in job.rows()) == 2
    job.place()
    assert job.row("k", old[0]).verdict is Verdict.KEPT
    counts = job.store.counts("b")
    assert (counts.to_fetch, counts.fetch_errors, counts.verified) == (0, 0, 2)
    job.noncurrent = "fetch"
    job.bring()
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    assert [job.path("k", v).read_bytes() for v in old] == [b"v0", b"v1"]
    # What is there already is not given up when the setting changes again.
    job.noncurrent = "keep"
    job.choose()
    assert {(row.state, row.verdict) for row in job.rows()} == {(FileState.VERIFIED, Verdict.MATCH)}


def test_an_old_version_that_becomes_current_is_fetched_although_old_ones_are_kept(job: Job) -> None:
    old = old_versions(job)
    job.noncurrent = "keep"
    job.bring()
    current = job.server.get("b", "k")
    assert current
    job.server.remove("b", "k", current.version_id)
    job.bring()
    assert job.row("k", old[1]).state is FileState.VERIFIED
    assert job.row("k", old[0]).verdict is Verdict.KEPT
    assert job.path("k", old[1]).read_bytes() == b"v1"


@pytest.mark.parametrize("state", [FileState.DOWNLOADING, FileState.RESTORE_REQUESTED, FileState.RESTORING])
def test_the_setting_may_change_while_a_version_is_on_its_way(job: Job, state: FileState) -> None:
    old = old_versions(job)
    job.scan()
    rows = [job.row("k", version_id) for version_id in old]
    job.place()
    if state is FileState.DOWNLOADING:
        job.store.start_fetching("b", everything=True)
    else:
        job.store.restore_asked([row.version for row in rows], "Bulk")
        if state is FileState.RESTORING:
            job.store.restore_seen([(row.version, False, None) for row in rows])
    job.noncurrent = "keep"
    job.choose()
    assert [job.row("k", v).verdict for v in old] == [Verdict.KEPT] * 2
    job.noncurrent = "fetch"
    job.choose()
    assert [(job.row("k", v).verdict, job.row("k", v).state) for v in old] == [(None, state)] * 2
    assert job.store.counts("b").to_fetch + job.store.counts("b").restoring == 4


def test_another_destination_is_refused(job: Job, tmp_path: Path) -> None:
    put(job, "k")
    job.bring()
    with Disk.open(tmp_path / "elsewhere") as elsewhere, pytest.raises(Refused, match="not where this work began"):
        job.place(elsewhere)
    assert job.row("k").state is FileState.VERIFIED


def test_a_long_base_leaves_less_room(job: Job, tmp_path: Path) -> None:
    """PATH_MAX holds for the whole path; 1,024 bytes of key in deep folders fit here, and not below a deep base."""
    key = "/".join(["d" * 100] * 10)
    put(job, key, "short")

    job.disk._file_system = replace(job.disk.filesystem(), path_max=len(str(job.disk.base)) + 500)
    job.scan()
    job.place()
    assert places(job) == {key: Place.SIDE, "short": Place.PLAIN}
    assert_each_has_its_own(job)


def test_a_destination_that_folds_later_is_asked_again(job: Job) -> None:
    """The rows were placed where twins can lie together; then the folder was moved to a file system that folds."""
    put(job, "Twin")
    job.scan()
    job.place()
    job.fetch()
    job.verify()
    put(job, "twin")
    job.scan()
    place_folding(job, folds_case=True)
    assert places(job) == {"Twin": Place.PLAIN, "twin": Place.SIDE}


def test_two_buckets_never_share_a_folder(job: Job) -> None:
    job.server.bucket("B")
    for name in ("b", "B"):
        job.server.put(name, "k", b"body")
    job.scan()
    other = replace(job, bucket="B")
    other.scan()
    place_folding(job, folds_case=False)
    with pytest.raises(Refused, match="would share a folder"):
        place_folding(other, folds_case=True)


def test_a_state_file_that_does_not_know_of_the_only_copies_is_refused(job: Job, tmp_path: Path) -> None:
    put(job, "k")
    job.bring()
    job.store.identity()
    job.store.snapshot("b", tmp_path / "older.db")  # as a backup from before: of the same name, and it knows of less
    job.delete()
    put(job, "k")
    for name in ("fresh.db", "older.db"):
        with Store.open(tmp_path / name) as store:
            other = replace(job, store=store)
            other.scan()
            with pytest.raises(Refused, match="holds the only copies of objects that were deleted from b"):
                other.place()
            assert_tallies(store)
    job.scan()
    job.place()
    assert_each_has_its_own(job)
