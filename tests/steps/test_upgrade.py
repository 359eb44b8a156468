"""An old state file becomes ours whole or not at all; what it believed earns a look, and what it fetched is kept."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from migrate_v2 import cli
from migrate_v2.deletion import plan
from migrate_v2.edges.store import UNKNOWN_VERSION, Store
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Ended, Event, Noted, Progress, Started
from migrate_v2.model import Adopt, FileState, GoneKind, Place, Rules, Verdict
from migrate_v2.steps import restore as restore_step
from migrate_v2.steps.adopt import adopt
from migrate_v2.steps.upgrade import upgrade
from tests.fakes.oldfiles import KINDS, old_file
from tests.steps.conftest import Job, assert_tallies, found

STATES = [state.value for state in FileState]
ROWS = [
    {"bucket": f"bucket-{n % 3}", "key": f"k{n:03}", "size": n, "state": STATES[n % len(STATES)], "etag": "e"}
    for n in range(64)
]


def run(source: Path, target: Path) -> list[Event]:
    (target.parent / f"{target.name}.run/.upgrade").mkdir(parents=True, exist_ok=True)
    return list(upgrade(source, target, rows_per_commit=10))


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def by_state(store: Store) -> dict[tuple[str, str], tuple[int, int]]:
    sql = "SELECT bucket, state, count(*), sum(size) FROM files GROUP BY 1, 2"
    return {(b, s): (n, size) for b, s, n, size in store._conn.execute(sql)}


def expected(rows: Iterable[dict[str, object]]) -> dict[tuple[str, str], tuple[int, int]]:
    amounts: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        key = (str(row["bucket"]), str(row["state"]).replace("verified", "downloaded"))
        objects, size = amounts.get(key, (0, 0))
        amounts[key] = (objects + 1, size + int(str(row["size"])))
    return amounts


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_nothing_is_lost_and_the_old_file_stays(tmp_path: Path, kind: str) -> None:
    path = old_file(tmp_path / "s.db", ROWS, kind)
    before = path.read_bytes()
    events = run(path, path)
    assert [type(e) for e in events if not isinstance(e, Progress)] == [Started, Ended, Noted, Noted]
    assert sum(isinstance(e, Progress) for e in events) == 7
    assert (tmp_path / "s.db.v1").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.db", "s.db.key", "s.db.run", "s.db.v1"]
    assert path.stat().st_mode & 0o777 == 0o600
    with Store.open(path) as store:
        assert by_state(store) == expected(ROWS)
        assert_tallies(store)
        assert store.buckets() == ["bucket-0", "bucket-1", "bucket-2"]
        assert not any(store.bucket(b).scan_complete for b in store.buckets())  # type: ignore[union-attr]
        assert not list(store.verified("bucket-0"))
        assert all(row.place is None for row in store.rows("bucket-0", "1"))
    after = tree(tmp_path)
    (told,) = run(path, path)
    assert isinstance(told, Noted) and "already" in told.text
    assert tree(tmp_path).keys() == after.keys()


def test_to_another_name_and_again(tmp_path: Path) -> None:
    source = old_file(tmp_path / "old.db", ROWS)
    before = source.read_bytes(), source.stat().st_mtime_ns
    run(source, tmp_path / "new.db")
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before
    (told,) = run(source, tmp_path / "new.db")
    assert isinstance(told, Noted) and "already" in told.text
    other = old_file(tmp_path / "other.db", ROWS[:5])
    with pytest.raises(Refused, match="not made of this file"):
        run(other, tmp_path / "new.db")
    with pytest.raises(Refused, match="older toolkit too"):
        run(source, other)
    with pytest.raises(Refused, match="nothing is to be upgraded"):
        run(tmp_path / "new.db", tmp_path / "third.db")
    with pytest.raises(Failure, match="no file"):
        run(tmp_path / "none.db", tmp_path / "third.db")


@pytest.mark.parametrize("in_place", [True, False])
def test_interrupted_anywhere_nothing_has_changed(tmp_path: Path, in_place: bool) -> None:
    source = old_file(tmp_path / "s.db", ROWS)
    target = source if in_place else tmp_path / "new.db"
    before = tree(tmp_path)
    (tmp_path / f"{target.name}.run/.upgrade").mkdir(parents=True)
    for stop in range(8):
        events = upgrade(source, target, rows_per_commit=10)
        for _ in range(stop):
            next(events)
        events.close()  # type: ignore[attr-defined]
        assert tree(tmp_path) == before
    # A killed process cleans nothing up.
    (tmp_path / f"{target.name}.upgrading").write_bytes(b"half")
    (tmp_path / f"{target.name}.upgrading-wal").write_bytes(b"half a log")
    run(source, target)
    with Store.open(target) as store:
        assert by_state(store) == expected(ROWS)
    assert sorted(tree(tmp_path)) == (["s.db", "s.db.key", "s.db.v1"] if in_place else ["new.db", "new.db.key", "s.db"])


def test_killed_between_the_two_names_it_goes_on(tmp_path: Path) -> None:
    path = old_file(tmp_path / "s.db", ROWS)
    os.link(path, tmp_path / "s.db.v1")
    run(path, path)
    with Store.open(path) as store:
        assert by_state(store) == expected(ROWS)


def test_another_file_under_the_name_of_the_old_one_is_never_replaced(tmp_path: Path) -> None:
    path = old_file(tmp_path / "s.db", ROWS)
    (tmp_path / "s.db.v1").write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(Refused, match="move it away"):
        run(path, path)
    assert tree(tmp_path) == before


def test_a_file_that_its_program_was_killed_at_is_upgraded_to_another_name_only(tmp_path: Path) -> None:
    path = old_file(tmp_path / "s.db", ROWS)
    killed = sqlite3.connect(path)
    killed.execute("PRAGMA journal_mode = WAL")
    killed.execute("UPDATE files SET size = size + 1000")
    killed.commit()
    with pytest.raises(Refused, match="--state NEW"):
        run(path, path)
    run(path, tmp_path / "new.db")
    with Store.open(tmp_path / "new.db") as store:
        assert min(row.version.size for row in store.rows("bucket-0", "1")) == 1000
    killed.close()


def test_sums_that_differ_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is shown to fail: a writer that drops a row."""
    path = old_file(tmp_path / "s.db", ROWS)
    before = tree(tmp_path)
    add = Store.add_older
    monkeypatch.setattr(Store, "add_older", lambda self, rows: add(self, list(rows)[1:]))
    with pytest.raises(Failure, match="does not add up"):
        run(path, path)
    assert tree(tmp_path) == before


def test_names_that_no_bucket_has_are_refused(tmp_path: Path) -> None:
    path = old_file(tmp_path / "s.db", [{"bucket": "../etc", "key": "k", "size": 1, "state": "error"}])
    with pytest.raises(Refused, match="cannot be"):
        run(path, path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    old_file(tmp_path / "s3_migration_state.db", ROWS)
    assert cli.main(["status"]) == 5
    assert "upgrade-db" in capfd.readouterr().err
    assert cli.main(["upgrade-db"]) == 0
    err = capfd.readouterr().err
    assert "64 objects" in err and "s3_migration_state.db.v1" in err
    assert cli.main(["upgrade-db"]) == 0
    assert cli.main(["status", "--json"]) == 0
    assert '"downloaded": {"objects": 16' in capfd.readouterr().out
    assert cli.main(["upgrade-db", "s3_migration_state.db.v1"]) == 0
    assert cli.main(["upgrade-db", "missing"]) == 1
    (tmp_path / "text").write_text("x" * 5000)
    assert cli.main(["upgrade-db", "text"]) == 5


# What becomes of the rows


class Old:
    """A bucket that an older toolkit worked on: `row` is what it wrote down, `go` is this program's turn."""

    def __init__(self, job: Job, tmp_path: Path) -> None:
        self.job = job
        job.bucket = "bbb"
        job.server.bucket("bbb")
        self.folder = tmp_path
        self.rows: list[dict[str, object]] = []
        self.fetched = 0
        self.roots = [tmp_path]
        self.how = Adopt.REFLINK

    def put(self, key: str, body: bytes, **how: Any) -> None:
        self.job.server.put("bbb", key, body, **how)

    def delete(self, key: str) -> None:
        self.job.s3._client("us-east-1").delete_object(Bucket="bbb", Key=key)

    def row(self, key: str, body: bytes, state: str = "verified", local: str | None = None, **more: object) -> Path:
        """As V1 left it, with a file where it says."""
        path = Path(local) if local else self.job.disk.base / "bbb" / key
        if not key.endswith("/"):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(body)
        etag = hashlib.md5(body).hexdigest()
        row = {"bucket": "bbb", "key": key, "size": len(body), "state": state, "etag": etag, "local_path": str(path)}
        self.rows.append({**row, **more})
        return self.folder / path

    def go(self) -> list[Event]:
        job = self.job
        self.upgrade()
        events = job.scan()
        assert job.store.may_adopt("bbb")
        events += self.adopt()
        assert not job.store.may_adopt("bbb")
        events += job.place()
        before = job.server.count("GetObject")
        events += job.fetch()
        self.fetched = job.server.count("GetObject") - before
        return events + job.verify_again()

    def upgrade(self) -> None:
        self.job.store.close()
        run(old_file(self.folder / "old.db", self.rows), self.folder / "upgraded.db")
        self.job.store = Store.open(self.folder / "upgraded.db")

    def adopt(self) -> list[Event]:
        return list(adopt("bbb", self.job.store, self.job.disk, self.roots, how=self.how, rows_per_commit=2))


@pytest.fixture
def old(job: Job, tmp_path: Path) -> Old:
    return Old(job, tmp_path)


@pytest.mark.parametrize("versioning", [None, "Enabled"])
def test_copies_are_adopted_and_proved_and_not_fetched_again(old: Old, versioning: Any) -> None:
    old.job.server.bucket("bbb", versioning)
    files = []
    for key in ("a", "deep/er/b", "\u00fc/c"):
        old.put(key, key.encode() * 100)
        files.append((old.row(key, key.encode() * 100), key))
    old.put("folder/", b"")
    old.row("folder/", b"")
    (old.job.disk.base / "bbb/folder").mkdir()
    before = [path.stat().st_ino for path, _ in files]
    events = old.go()
    assert old.fetched == 0
    assert set(old.job.states().values()) == {FileState.VERIFIED}
    assert [path.stat().st_ino for path, _ in files] == before
    # The CLI would fetch again what does not have the time of the listing.
    for path, key in files:
        row = old.job.row(key)
        assert path.stat().st_mtime == row.version.last_modified.timestamp()
        assert (row.place, row.path) == (Place.PLAIN, f"bbb/{key}")
        assert row.version.version_id == ("null" if versioning is None else row.version.version_id) != UNKNOWN_VERSION
    assert any(isinstance(e, Noted) and "4 local copies of the older toolkit are adopted" in e.text for e in events)
    assert plan(old.job.store, old.job.site(), Rules()).objects == 4


def test_a_copy_that_is_not_what_s3_has_is_found_out(old: Old) -> None:
    old.put("good", b"12345")
    old.put("bad", b"12345")
    old.put("short", b"12345")
    old.put("none", b"12345")
    old.row("good", b"12345")
    old.row("bad", b"12345").write_bytes(b"12346")
    old.row("short", b"12345").write_bytes(b"1234")
    old.row("none", b"12345").unlink()
    events = old.go()
    assert found(events) == {"bad": (Verdict.DIFFERS, ANY)}
    assert old.fetched == 2
    assert old.job.states() == {
        "good": FileState.VERIFIED, "bad": FileState.DISCOVERED, "short": FileState.VERIFIED, "none": FileState.VERIFIED,
    }  # fmt: skip


def test_what_lies_elsewhere_gets_its_place_without_a_transfer(old: Old, tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere/x.bin")
    old.put("k", b"absolute")
    old.put("odd//key", b"no path holds this key")
    old.put("relative", b"relative!")
    kept = old.row("k", b"absolute", local=elsewhere)
    old.row("odd//key", b"no path holds this key", local=str(tmp_path / "elsewhere/odd/key"))
    old.row("relative", b"relative!", local="downloads/r")
    old.go()
    assert old.fetched == 0
    assert set(old.job.states().values()) == {FileState.VERIFIED}
    assert kept.read_bytes() == b"absolute" and kept.samefile(old.job.path("k"))
    assert old.job.row("odd//key").place is Place.SIDE
    assert old.job.path("odd//key").read_bytes() == b"no path holds this key"
    assert old.job.path("relative").read_bytes() == b"relative!"


def test_no_copy_is_taken_through_a_link(old: Old, tmp_path: Path) -> None:
    old.put("k", b"12345")
    target = tmp_path / "secret"
    target.write_bytes(b"12345")
    old.row("k", b"12345", local=str(tmp_path / "elsewhere/k")).unlink()
    (tmp_path / "elsewhere/k").symlink_to(target)
    old.go()
    assert old.fetched == 1


def test_the_rows_of_a_versioned_bucket_find_their_versions(old: Old) -> None:
    old.job.server.bucket("bbb", "Enabled")
    old.put("overwritten", b"first")
    old.put("overwritten", b"second")
    old.put("stale", b"quite another")
    old.put("marked", b"beneath a marker")
    old.delete("marked")
    old.row("overwritten", b"first")
    old.row("stale", b"what it was")
    old.row("marked", b"beneath a marker", state="deleted")
    old.row("vanished", b"gone from S3")
    old.go()
    rows = {(r.key, r.version.size): r for r in old.job.rows()}
    assert sorted(rows) == [
        ("marked", 16), ("overwritten", 5), ("overwritten", 6), ("stale", 11), ("stale", 13), ("vanished", 12),
    ]  # fmt: skip
    assert {key for key, row in rows.items() if row.state is FileState.VERIFIED} == {
        ("marked", 16), ("overwritten", 5), ("overwritten", 6), ("stale", 13),
    }  # fmt: skip
    # Of the others S3 has nothing, and here are the only copies.
    assert {key for key, row in rows.items() if row.gone is GoneKind.ONLY_COPY} == {("stale", 11), ("vanished", 12)}
    assert rows["stale", 11].path == "bbb/stale" and rows["stale", 13].place is Place.SIDE
    assert not rows["overwritten", 5].version.is_latest and rows["overwritten", 5].place is Place.SIDE
    assert not rows["marked", 16].version.is_latest and rows["marked", 16].place is Place.SIDE
    assert old.fetched == 2  # what V1 never had: "second" and "quite another"


def test_what_was_deleted_keeps_its_only_copy_and_is_looked_at(old: Old) -> None:
    only = old.row("gone", b"only copy", state="deleted")
    short = old.row("short", b"shorter than it was", state="deleted")
    damaged = old.row("rotten", b"only copy too", state="deleted")
    damaged.write_bytes(b"only copy two")
    kms = old.row("opaque", b"no witness", state="deleted", etag=None)
    old.row("lost", b"nowhere", state="deleted").unlink()
    old.put("gone", b"a new object")
    old.put("lost", b"put again")
    old.put("back", b"was never deleted")
    old.row("back", b"was never deleted", state="deleted")
    events = old.go()
    assert only.read_bytes() == b"only copy" and kms.read_bytes() == b"no witness"
    rows = {(r.key, r.version.version_id): r for r in old.job.rows()}
    assert rows["gone", UNKNOWN_VERSION].state is FileState.DELETED and rows["gone", UNKNOWN_VERSION].sha256
    assert rows["gone", "null"].state is FileState.VERIFIED and rows["gone", "null"].place is Place.SIDE
    assert rows["lost", "null"].state is FileState.VERIFIED
    assert rows["back", "null"].state is FileState.VERIFIED
    told = found(events)
    # An ETag that is no MD5 of it may be one of SSE-KMS: it says nothing against the copy.
    assert told["rotten"][0] is Verdict.UNPROVABLE and damaged.read_bytes() == b"only copy two"
    assert told["opaque"][0] is Verdict.UNPROVABLE
    assert rows["short", UNKNOWN_VERSION].state is FileState.DELETED and short.exists()
    assert "gone" not in told and "lost" not in told
    assert rows["opaque", UNKNOWN_VERSION].sha256
    # And now it has a hash to be held to.
    kms.write_bytes(b"no witnesS")
    assert found(old.job.verify_again())["opaque"][0] is Verdict.DIFFERS


def test_restores_that_were_asked_for_are_looked_after(old: Old) -> None:
    old.put("cold", b"archived", storage_class="GLACIER")
    old.put("asked", b"archived", storage_class="GLACIER")
    old.rows = [
        {
            "bucket": "bbb",
            "key": key,
            "size": 8,
            "state": state,
            "storage_class": "GLACIER",
            "etag": hashlib.md5(b"archived").hexdigest(),
        }
        for key, state in (("cold", "discovered"), ("asked", "glacier_restore_requested"))
    ]
    old.go()
    assert old.job.store.counts("bbb").restoring == 1
    list(restore_step.refresh("bbb", old.job.store, old.job.s3, rows_per_commit=9))
    counts = old.job.store.counts("bbb")
    assert (counts.to_request, counts.restoring, counts.fetch_errors) == (2, 0, 0)


def test_old_rows_without_etag_and_time_are_no_other_objects(old: Old) -> None:
    old.put("k", b"12345")
    old.put("t", b"123456")
    old.row("k", b"12345", etag=None)
    old.row("t", b"123456", last_modified="2001-01-01T00:00:00")
    old.go()
    assert old.fetched == 0
    assert set(old.job.states().values()) == {FileState.VERIFIED}


def test_an_interrupted_listing_merges_as_well(old: Old) -> None:
    old.job.server.bucket("bbb", "Enabled")
    for n in range(5):
        old.put(f"k{n}", b"x" * n)
        old.row(f"k{n}", b"x" * n)
    old.job.store.close()
    run(old_file(old.folder / "old.db", old.rows), old.folder / "upgraded.db")
    old.job.store = store = Store.open(old.folder / "upgraded.db")
    held = store.begin_scan(
        "bbb",
        account="111122223333",
        region="us-east-1",
        endpoint=old.job.s3.endpoint_of("bbb"),
        versioning="Enabled",
        uploads=0,
    )
    (page,) = old.job.s3.versions("bbb", None, versioned=True)
    store.add_listed("bbb", held.scan, page.versions[:2], [], ("k1", page.versions[1].version_id))
    assert [r.version.version_id == UNKNOWN_VERSION for r in old.job.rows()] == [False, False, True, True, True]
    old.job.scan()
    assert UNKNOWN_VERSION not in {r.version.version_id for r in old.job.rows()}
    assert len(old.job.rows()) == 5
    assert set(old.job.states().values()) == {FileState.DOWNLOADED}
