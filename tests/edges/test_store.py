"""Rows in, rows out: what a listing, a fetch, a reading and a delete make of them, and whose file it refuses to be."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from migrate_v2.edges import store as store_module
from migrate_v2.edges.store import Change, Copy, Evidence, Moved, Store, evidence_of, evidence_text
from migrate_v2.errors import Failure, Refused
from migrate_v2.model import (
    CHANGED,
    VANISHED,
    Cause,
    Counts,
    DeleteMarker,
    Doomed,
    FileIdentity,
    FileState,
    ObjectVersion,
    Phase,
    Place,
    Row,
    Verdict,
    Witness,
)
from tests.conftest import ROOT

WHEN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
MD5 = Witness("md5-etag", "5d41402abc4b2a76b9719d911017c592", 128)


def version(key: str, version_id: str = "null", **fields: object) -> ObjectVersion:
    made = ObjectVersion("bucket", key, version_id, 5, "etag", "STANDARD", WHEN, True)
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state.db") as opened:
        yield opened


def scan(store: Store, versions: list[ObjectVersion], markers: list[DeleteMarker] | None = None) -> int:
    held = store.begin_scan("bucket", account="1", region="r", endpoint="e", versioning="", uploads=0)
    store.add_listed("bucket", held.scan, versions, markers or [], None)
    missing = store.count_missing("bucket", held.scan)
    store.mark_missing_gone("bucket", held.scan)
    store.end_scan("bucket", held.scan)
    return missing


def rows(store: Store) -> dict[tuple[str, str], Row]:
    return {(r.key, r.version.version_id): r for r in store.rows("bucket", "1")}


def row(store: Store, key: str, version_id: str = "null") -> Row:
    return rows(store)[key, version_id]


def verify(store: Store, key: str, version_id: str = "null", run: str = "run") -> None:
    r = row(store, key, version_id)
    store.give_places([(r.version, Place.PLAIN, f"bucket/{key}", None)])
    identity = FileIdentity(1, 2, r.version.size, 3, 4)
    store.record([Evidence(r.version, FileState.VERIFIED, Verdict.MATCH, "", "sha", (MD5,), identity)], run)


def assert_tallies(store: Store) -> None:
    counted = store._conn.execute(
        "SELECT state, ifnull(verdict, ''), archived, storage_class, ifnull(cause, ''), count(*), sum(size) FROM files"
        " WHERE bucket = 'bucket' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
    ).fetchall()
    kept = sorted(
        (t.state, t.verdict, int(t.archived), t.storage_class, t.cause, t.objects, t.bytes)
        for t in store.tallies("bucket")
    )
    assert kept == [tuple(r) for r in counted]


# -- the file


def test_p8_the_file_and_its_companions_are_the_owner_s_alone(store: Store) -> None:
    scan(store, [version("a")])
    for path in store.path.parent.glob("state.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_every_commit_is_on_the_disk_before_it_returns(store: Store) -> None:
    assert store._conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._conn.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_python_with_an_old_sqlite_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RHEL 9 has 3.34. The file would be called a foreign one otherwise."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(Failure, match=r"SQLite is 3\.34\.1, and state files need 3\.37\.0"):
        Store.open(tmp_path / "state.db")
    assert not list(tmp_path.iterdir())


def test_of_two_that_make_it_at_once_both_have_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from migrate_v2.edges.store import Store; Store.open(Path(sys.argv[1]))"
    )
    for number in range(3):
        path = str(tmp_path / f"{number}.db")
        both = [subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT) for _ in range(4)]
        assert [one.wait(60) for one in both] == [0] * 4


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look like something" * 20, b"SQLite format 3\0" + os.urandom(900)]
)
def test_garbage_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(content)
    with pytest.raises(Refused, match="not a state file"):
        Store.open(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("CREATE TABLE songs (title TEXT)", "not a state file"),
        ("PRAGMA application_id = 252006674", "not a state file"),
        (
            "CREATE TABLE files (bucket TEXT, key TEXT, size INT, state TEXT); CREATE TABLE migration_metadata (key TEXT)",
            "older toolkit; `migrate-v2 upgrade-db`",
        ),
        ("CREATE TABLE files (bucket TEXT, key TEXT); CREATE TABLE migration_metadata (key TEXT)", "not a state file"),
    ],
)
def test_another_program_s_database_is_refused(tmp_path: Path, sql: str, said: str) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as conn:
        conn.executescript(sql + "; CREATE TABLE x (y);")
    before = path.read_bytes()
    with pytest.raises(Refused, match=said):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_newer_version_s_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    Store.open(path).close()
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA user_version = 99")
    with pytest.raises(Refused, match="newer version"):
        Store.open(path)


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_p8_a_file_that_others_can_have_written_is_refused(tmp_path: Path, suffix: str, mode: int) -> None:
    """Of its journals too: SQLite plays back whatever lies beside it under their names."""
    path = tmp_path / "s.db"
    Store.open(path).close()
    part = path.with_name(path.name + suffix)
    part.touch()
    part.chmod(mode)
    with pytest.raises(Refused, match=rf"{part.name} may be written by others"):
        Store.open(path)
    part.chmod(0o600)
    Store.open(path).close()


def test_p8_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(Refused, match="everybody may write to"):
        Store.open(folder / "s.db")
    assert list(folder.iterdir()) == []
    folder.chmod(0o1777)  # as /tmp: nobody else can put another file in its place
    Store.open(folder / "s.db").close()


@pytest.mark.system
@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_p8_a_file_of_another_user_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "s.db"
    Store.open(path).close()
    part = path.with_name(path.name + suffix)
    part.touch(0o600)
    os.chown(part, 65534, 65534)
    with pytest.raises(Refused, match="belongs to another user"):
        Store.open(path)


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_a_journal_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s.db"
    Store.open(path).close()
    wal = tmp_path / "s.db-wal"
    wal.symlink_to(tmp_path / "elsewhere") if kind == "symlink" else os.mkfifo(wal, 0o600)
    with pytest.raises(Refused, match="no plain file"):
        Store.open(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_symbolic_link_and_a_missing_folder_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "else.db")
    with pytest.raises(Refused, match="symbolic link"):
        Store.open(tmp_path / "link.db")
    with pytest.raises(Failure, match="No such file"):
        Store.open(tmp_path / "nowhere" / "s.db")
    assert not (tmp_path / "else.db").exists()


def test_the_birth_of_a_file_may_be_interrupted_anywhere(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch()
    Store.open(tmp_path / "s.db").close()
    with sqlite3.connect(tmp_path / "t.db") as conn:
        conn.execute(
            "CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT)"
        )
    with Store.open(tmp_path / "t.db") as opened:
        assert opened.buckets() == []


# -- listings


def test_a_listing_becomes_rows_exactly(store: Store) -> None:
    listed = [
        version(
            "a\n\x1b[31m'; DROP TABLE files --",
            etag="x-2",
            size=7,
            checksum_algorithm="CRC64NVME",
            checksum_type="FULL_OBJECT",
        ),
        version("b", "v1", is_latest=False),
        version("b", "v2"),
        version("ü" * 100, storage_class="GLACIER"),
    ]
    scan(store, listed)
    assert [r.version for r in store.rows("bucket", "1")] == listed
    assert row(store, "ü" * 100).archived
    assert {r.state for r in rows(store).values()} == {FileState.DISCOVERED}
    assert_tallies(store)


def test_listing_the_same_again_changes_nothing(store: Store) -> None:
    scan(store, [version("a"), version("b")])
    verify(store, "a")
    before = rows(store)
    assert scan(store, [version("a"), version("b")]) == 0
    assert rows(store) == before


@pytest.mark.parametrize(
    "change", [{"etag": "other"}, {"size": 6}, {"last_modified": datetime(2021, 1, 1, tzinfo=UTC)}]
)
def test_p1_another_object_under_the_same_name_forgets_all_evidence(store: Store, change: dict[str, object]) -> None:
    scan(store, [version("a")])
    verify(store, "a")
    scan(store, [version("a", **change)])
    r = row(store, "a")
    assert (r.state, r.verdict, r.place, r.sha256, r.witnesses, r.identity, r.read_run) == (
        FileState.DISCOVERED, None, None, "", (), None, "",
    )  # fmt: skip
    assert_tallies(store)


def test_what_a_listing_does_not_show_has_vanished_and_may_come_back(store: Store) -> None:
    scan(store, [version("a"), version("b")])
    verify(store, "a")
    assert scan(store, [version("b")]) == 1
    assert (row(store, "a").state, row(store, "a").cause) == (FileState.ERROR, Cause.VANISHED)
    assert scan(store, [version("b")]) == 0
    scan(store, [version("a"), version("b")])
    r = row(store, "a")
    assert (r.state, r.verdict, r.sha256) == (FileState.DOWNLOADED, None, "sha")  # its copy is there, to be read again
    assert_tallies(store)


def test_scan_keeps_a_verified_former_version_until_its_copy_is_renamed(store: Store) -> None:
    scan(store, [version("a", "v1"), version("b", "v1")])
    verify(store, "a", "v1")
    store.give_places([(version("b", "v1"), Place.PLAIN, "bucket/b", None)])
    newer = [version(key, "v2") for key in "ab"]
    scan(store, [*newer, version("a", "v1", is_latest=False), version("b", "v1", is_latest=False)])
    former = row(store, "a", "v1")
    assert (former.state, former.place, former.sealed) == (FileState.VERIFIED, Place.PLAIN, True)
    assert (row(store, "b", "v1").state, row(store, "b", "v1").place) == (FileState.DISCOVERED, None)
    assert [r.key for r in store.to_move("bucket")] == ["a"]
    store.begin_moves([(former.version, "side")])
    assert store.moving("bucket") == [(former, "side")] and store.taken(version("a", "v3"), "side")
    store.end_moves("bucket", [Moved(former.version, "side", Copy.SAME, 5)])
    renamed = row(store, "a", "v1")
    assert (renamed.path, renamed.place, renamed.sealed) == ("side", Place.SIDE, True)
    assert renamed.identity == FileIdentity(1, 2, former.version.size, 3, 5)
    assert store.moving("bucket") == [] and store.lists_are_stale("bucket")
    assert_tallies(store)


def test_end_moves_never_seals_what_was_not_sealed(store: Store) -> None:
    scan(store, [version("a", "v1")])
    verify(store, "a", "v1")
    store._conn.execute("UPDATE files SET sha256 = 'another'")
    former = row(store, "a", "v1")
    store.begin_moves([(former.version, "side")])
    store.end_moves("bucket", [Moved(former.version, "side", Copy.SAME, 5)])
    assert not former.sealed and not row(store, "a", "v1").sealed


def test_an_old_version_in_the_side_layout_is_not_disturbed(store: Store) -> None:
    scan(store, [version("a", "v1", is_latest=False)])
    r = row(store, "a", "v1")
    store.give_places([(r.version, Place.SIDE, "side", None)])
    store.record([Evidence(r.version, FileState.VERIFIED, Verdict.MATCH, "", "s", (MD5,), None)], "run")
    scan(store, [version("a", "v1", is_latest=True)])
    assert row(store, "a", "v1").state is FileState.VERIFIED


def test_a_move_to_glacier_is_noticed_for_what_is_not_fetched_yet(store: Store) -> None:
    scan(store, [version("a"), version("b")])
    verify(store, "b")
    scan(store, [version("a", storage_class="GLACIER"), version("b", storage_class="GLACIER")])
    assert row(store, "a").archived
    assert row(store, "b").state is FileState.VERIFIED
    assert_tallies(store)


def test_what_is_known_of_a_restore_survives_a_listing_that_is_silent_about_it(store: Store) -> None:
    cold = version("a", storage_class="GLACIER")
    scan(store, [cold])
    store.restore_asked([cold], "Standard")
    scan(store, [cold])
    assert row(store, "a").state is FileState.RESTORE_REQUESTED
    until = datetime(2030, 1, 1, tzinfo=UTC)
    store.restore_seen([(cold, True, until)])
    scan(store, [cold])
    r = row(store, "a")
    assert (r.state, r.archived, r.version.restore_expiry) == (FileState.DISCOVERED, False, until)


def test_what_a_listing_says_of_a_restore_is_taken(store: Store) -> None:
    scan(store, [version("a", storage_class="GLACIER", restore_ongoing=True)])
    assert row(store, "a").state is FileState.RESTORING
    back = version("a", storage_class="GLACIER", restore_ongoing=False, restore_expiry=datetime(2030, 1, 1, tzinfo=UTC))
    scan(store, [back])
    assert (row(store, "a").state, row(store, "a").archived) == (FileState.DISCOVERED, False)


def test_an_interrupted_listing_goes_on_where_it_stopped(store: Store) -> None:
    facts = {"account": "1", "region": "r", "endpoint": "e", "versioning": "", "uploads": 0}
    held = store.begin_scan("bucket", **facts)  # type: ignore[arg-type]
    store.add_listed("bucket", held.scan, [version("a")], [], ("a", "null"))
    again = store.begin_scan("bucket", **facts)  # type: ignore[arg-type]
    assert (again.scan, again.scan_key_marker, again.scan_version_marker) == (held.scan, "a", "null")
    assert store.counts("bucket") == Counts()


# -- p1, p4: what is deleted is kept apart


def deleted(store: Store, key: str, version_id: str = "null", kind: str = "version") -> None:
    (intent,) = store.ledger.intend("bucket", [Doomed(key, version_id, kind, "etag", 5, "sha")], "token")
    store.concluded("bucket", [(intent, "deleted", True)])


def test_p4_an_object_put_anew_does_not_touch_the_only_copy_of_the_deleted_one(store: Store) -> None:
    scan(store, [version("a")])
    verify(store, "a")
    deleted(store, "a")
    scan(store, [version("a", etag="new")])
    held = rows(store)
    old = next(r for (_, v), r in held.items() if v.startswith("null+deleted-"))
    assert (old.state, old.place, old.path, old.sha256) == (FileState.DELETED, Place.PLAIN, "bucket/a", "sha")
    new = held["a", "null"]
    assert (new.state, new.place) == (FileState.DISCOVERED, None)
    store.give_places([(new.version, Place.PLAIN, "bucket/a", None)])
    assert [r.version.etag for r in store.contested("bucket", folds=False)] == ["new"]
    assert_tallies(store)


def test_a_delete_that_did_not_take_is_noticed(store: Store) -> None:
    scan(store, [version("a")])
    verify(store, "a")
    deleted(store, "a")
    scan(store, [version("a")])
    assert row(store, "a").state is FileState.DOWNLOADED
    assert_tallies(store)


def test_intents_are_open_until_they_are_concluded(store: Store) -> None:
    scan(store, [version("a"), version("b")])
    verify(store, "a")
    doomed = [Doomed("a", "null", "version", "etag", 5, "sha"), Doomed("b", "null", "version", "etag", 5, "sha")]
    intents = store.ledger.intend("bucket", doomed, "token")
    assert store.ledger.open("bucket") == intents and [intent.doomed for intent in intents] == doomed
    store.concluded("bucket", [(intents[0], "deleted", True), (intents[1], "changed", False)])
    assert store.ledger.open("bucket") == []
    assert (row(store, "a").state, row(store, "b").state, row(store, "b").reason) == (
        FileState.DELETED, FileState.DISCOVERED, "changed",
    )  # fmt: skip
    assert_tallies(store)


def test_a_marker_is_loose_when_nothing_is_left_beneath_it(store: Store) -> None:
    markers = [DeleteMarker("bucket", key, "m", True, WHEN) for key in ("a", "b", "c")]
    scan(store, [version("a", "v1", is_latest=False), version("b", "v1", is_latest=False)], markers)
    assert [m.key for m in store.loose_markers("bucket")] == ["c"]
    deleted(store, "a", "v1")
    assert [m.key for m in store.loose_markers("bucket")] == ["a", "c"]
    deleted(store, "c", "m", "marker")
    assert [m.key for m in store.loose_markers("bucket")] == ["a"]
    assert store.marker_count("bucket") == 2


# -- counting


def test_what_is_left_is_counted_by_step(store: Store) -> None:
    keys = ["fetch", "cold", "asked", "here", "good", "odd", "kept", "gone", "bad"]
    scan(store, [version(k, storage_class="GLACIER" if k in ("cold", "asked") else "STANDARD") for k in sorted(keys)])
    held = {key: row(store, key).version for key in keys}
    store.restore_asked([held["asked"]], "Bulk")
    store.fetched("bucket", [held["here"]])
    verify(store, "good")
    store.change(
        [
            Change(held["odd"], FileState.DOWNLOADED, Verdict.UNPROVABLE, "no witness"),
            Change(held["kept"], FileState.DISCOVERED, Verdict.KEPT, "old"),
            Change(held["gone"], FileState.ERROR, None, "denied"),
            Change(held["bad"], FileState.ERROR, Verdict.UNREADABLE, "EIO"),
        ]
    )
    counts = store.counts("bucket")
    assert counts == Counts(True, 1, 1, 1, 1, 1, 1, 1, 0)
    assert_tallies(store)


def test_the_phase_furthest_behind_is_remembered(store: Store) -> None:
    scan(store, [])
    store.set_phase("bucket", Phase.DELETING)
    store.begin_scan("other", account="", region="", endpoint="", versioning="", uploads=None)
    store.set_phase("other", Phase.VERIFYING)
    assert store.recall("current_phase") == "verifying"
    store.set_phase("bucket", Phase.COMPLETE)
    held = store.bucket("bucket")
    assert held is not None and held.completed_at


def test_rows_are_paged_while_they_change(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAGE", 7)
    keys = [f"k{n:03}" for n in range(50)]
    scan(store, [version(k) for k in keys])
    seen = []
    for r in store.in_state("bucket", FileState.DISCOVERED):
        seen.append(r.key)
        store.fetched("bucket", [r.version])
    assert seen == keys


def test_throughput_is_kept_by_session_and_overall(store: Store) -> None:
    scan(store, [])
    store.add_throughput("bucket", "one", 100, 2)
    store.add_throughput("bucket", "one", 100, 2)
    store.add_throughput("bucket", "two", 50, 1)
    held = store.bucket("bucket")
    assert held is not None
    assert (held.fetched_bytes, held.fetch_seconds, held.session, held.session_bytes) == (250, 5, "two", 50)


# -- places


@pytest.mark.parametrize(
    ("keys", "yielding"),
    [
        (["a", "b"], []),
        (["a", "a/b"], ["a"]),
        (["a", "a/"], ["a"]),
        (["a/", "a/b"], []),
        (["a", "a-", "a.b", "a0"], []),
        (["a", "a/b", "a/b/c"], ["a", "a/b"]),
    ],
)
def test_of_a_file_and_a_folder_of_one_name_the_file_yields(store: Store, keys: list[str], yielding: list[str]) -> None:
    scan(store, [version(k) for k in sorted(keys)])
    for folds in (False, True):
        store.give_places(
            [
                (version(k), Place.FOLDER if k.endswith("/") else Place.PLAIN, f"bucket/{k}".rstrip("/"), k.rstrip("/"))
                for k in keys
            ]
        )
        assert [r.key for r in store.contested("bucket", folds)] == yielding


def test_of_two_that_fold_to_one_path_both_yield_unless_one_is_there(store: Store) -> None:
    scan(store, [version("A"), version("a"), version("b")])
    store.give_places([(version(k), Place.PLAIN, f"bucket/{k}", k.lower()) for k in ("A", "a", "b")])
    assert [r.key for r in store.contested("bucket", True)] == ["A", "a"]
    store.fetched("bucket", [version("A")])
    assert [r.key for r in store.contested("bucket", True)] == ["a"]


def test_a_file_that_is_there_buries_what_wants_to_lie_beneath_it(store: Store) -> None:
    scan(store, [version("a")])
    verify(store, "a")
    assert store.buried("bucket", False, ["x", "a"])
    assert not store.buried("bucket", False, ["x", "a/b"])


def test_keeping_old_versions_is_a_setting_and_not_a_fate(store: Store) -> None:
    scan(store, [version("a", "v2"), version("a", "v1", is_latest=False)])
    store.keep_noncurrent("bucket", "kept")
    assert [r.version.version_id for r in store.left_to_fetch("bucket")] == ["v2"]
    store.release_kept("bucket")
    assert [r.version.version_id for r in store.left_to_fetch("bucket")] == ["v1", "v2"]


# -- evidence and snapshots


def test_evidence_comes_back_as_it_was_written() -> None:
    parts = (8 << 20,) * 9999 + (17,)
    witnesses = (Witness("multipart-etag", "x-10000", 128, parts), MD5)
    text = evidence_text(witnesses)
    assert len(text) < 300
    assert evidence_of(text) == witnesses


def test_a_snapshot_is_a_state_file_of_one_bucket(store: Store, tmp_path: Path) -> None:
    scan(store, [version("a")], [DeleteMarker("bucket", "m", "m", True, WHEN)])
    verify(store, "a")
    store.begin_scan("other", account="", region="", endpoint="", versioning="", uploads=None)
    store.snapshot("bucket", tmp_path / "copy.db")
    with Store.open(tmp_path / "copy.db", store._key) as copied:
        assert copied.buckets() == ["bucket"]
        assert rows(copied) == rows(store)
        assert copied.tallies("bucket") == store.tallies("bucket")
        assert copied.marker_count("bucket") == 1


def test_tallies_hold_through_a_thousand_random_changes(store: Store) -> None:
    chance = random.Random(7)
    keys = [f"k{n}" for n in range(12)]
    for _ in range(150):
        listed = [
            version(
                k,
                etag=chance.choice("xy"),
                size=chance.choice((5, 6)),
                storage_class=chance.choice(("STANDARD", "GLACIER")),
            )
            for k in sorted(chance.sample(keys, chance.randrange(len(keys))))
        ]
        scan(store, listed)
        held = list(rows(store).values())
        for r in chance.sample(held, min(5, len(held))):
            chance.choice(
                (
                    lambda v: store.fetched("bucket", [v]),
                    lambda v: store.restore_asked([v], "Bulk"),
                    lambda v: store.restore_gone([v]),
                    lambda v: store.restore_seen([(v, True, None)]),
                    lambda v: store.change([Change(v, FileState.ERROR, None, CHANGED, Cause.CHANGED)]),
                    lambda v: deleted(store, v.key, v.version_id),
                )
            )(r.version)
        assert_tallies(store)


def test_many_rows_at_a_time_each_get_their_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as several statements take and some more; the keys have all that SQL and its texts might stumble over."""
    monkeypatch.setattr(store_module, "GROUP", 7)
    odd = ["a\0b", "a\0c", "'", '"', "{rows}", "?", "\U0001f600", "\n", "%", "1", "1.0"]
    keys = sorted((odd + [f"k{n:02}" for n in range(41)]), key=str.encode)
    some = [version(k, size=n, etag=f"e{n}", restore_ongoing=(None, False)[n % 2]) for n, k in enumerate(keys)]
    scan(store, some)
    assert [r.version.key for r in store.rows("bucket", "1")] == keys
    assert {(r.key, r.version.size, r.version.etag) for r in store.rows("bucket", "1")} == {
        (v.key, v.size, v.etag) for v in some
    }
    seen: list[str] = []
    store._conn.set_trace_callback(seen.append)
    store.give_places([(v, Place.SIDE, f"path of {v.size}", None) for v in some])
    store.fetched("bucket", some)
    found = [
        Evidence(
            v, FileState.VERIFIED, Verdict.MATCH, "", f"sha{v.size}", (MD5,), FileIdentity(v.size, 2, v.size, 3, 4)
        )
        for v in some[1:]
    ]
    store.record(found, "run")
    store._conn.set_trace_callback(None)
    for r in store.rows("bucket", "1"):
        assert r.path == f"path of {r.version.size}", r
        assert r.version.size == 0 or (r.sha256, r.sealed, r.identity and r.identity.device) == (
            f"sha{r.version.size}", True, r.version.size
        ), r  # fmt: skip
    assert [r.key for r in store.in_state("bucket", FileState.DOWNLOADED)] == keys[:1]
    assert_tallies(store)
    changes = {sql for sql in seen if " UPDATE files SET " in sql}  # what triggers do is told under the same text
    assert len(changes) == 9 + 9 + 8  # of 7 rows, of 2 and of 1, never of 3
    for sql in changes:
        plan = [r["detail"] for r in store._conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert "SEARCH files USING PRIMARY KEY (bucket=? AND key=? AND version_id=?)" in plan, plan


def test_failed_rows_are_tried_again_where_they_failed(store: Store) -> None:
    scan(store, [version(k) for k in ("changed", "denied", "rotten", "vanished")])
    verify(store, "rotten")
    held = {key: row(store, key).version for key in ("changed", "denied", "rotten", "vanished")}
    store.change(
        [
            Change(held["changed"], FileState.ERROR, None, CHANGED, Cause.CHANGED),
            Change(held["denied"], FileState.ERROR, None, "access denied"),
            Change(held["rotten"], FileState.ERROR, Verdict.UNREADABLE, "EIO"),
            Change(held["vanished"], FileState.ERROR, None, VANISHED, Cause.VANISHED),
        ]
    )
    assert store.try_again("bucket") == 2
    assert {key: row(store, key).state for key in held} == {
        "changed": FileState.ERROR,
        "denied": FileState.DISCOVERED,
        "rotten": FileState.DOWNLOADED,
        "vanished": FileState.ERROR,
    }
    assert_tallies(store)


def test_what_a_plan_counts(store: Store) -> None:
    """Rows of S3 page by page, keys that are folders to others, and what is to come in whole blocks."""
    held = store.begin_scan("plan", account="1", region="r", endpoint="e", versioning="", uploads=0)
    keys = ["a", "a-b", "a/b", "a0", "dir/", "dir/x", *(f"k{n:04}" for n in range(1500))]
    when = datetime(2020, 1, 2, tzinfo=UTC)
    rows = [ObjectVersion("plan", key, "null", 5, "e", "STANDARD", when, True) for key in keys]
    store.add_listed("plan", held.scan, rows, [], None)
    store.end_scan("plan", held.scan)
    assert [item.key for item in store.items("plan")] == sorted(keys)
    assert {item.day for item in store.items("plan")} == {"2020-01-02"}
    assert list(store.above_others("plan")) == ["a"], "a folder's own marker is no file"
    assert store.to_come("plan", 4096) == (1506, 7530, 1506 * 4096, 5)
    store.change([Change(rows[0], FileState.VERIFIED, Verdict.MATCH)])
    assert store.to_come("plan", 1) == (1505, 7525, 7525, 5)
    assert store.to_come("nobody", 1) == (0, 0, 0, 0)
