"""Old state files are read as they were written, never written, and nothing else passes for one."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from migrate_v2.edges import older
from migrate_v2.edges.older import Older
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure, Refused
from migrate_v2.model import FileState
from tests.fakes.oldfiles import KINDS, THEN, old_file

ROWS = [
    {"bucket": "bbb", "key": "k", "size": 5, "state": "verified", "etag": "e", "last_modified": "2020-01-02T03:04:05"},
    {
        "bucket": "bbb",
        "key": "a/ü",
        "size": 7,
        "state": "downloaded",
        "local_path": "down/a",
        "storage_class": "GLACIER",
    },
    {"bucket": "aaa", "key": "x", "size": 0, "state": "error", "error_message": "no"},
    {"bucket": "aaa", "key": "y", "size": 1, "state": "error"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_in_order(tmp_path: Path, kind: str) -> None:
    path = old_file(tmp_path / "s.db", ROWS, kind, empty=["empty-one"])
    before = path.read_bytes()
    with Older.open(path, tmp_path) as old:
        rows = list(old.rows())
        assert old.buckets() == ["aaa", "bbb", *(["empty-one"] if kind != "oldest" else [])]
        assert old.amounts() == {
            ("aaa", FileState.ERROR): (2, 1),
            ("bbb", FileState.DOWNLOADED): (2, 12),
        }
        assert old.metadata() == {"current_phase": "verifying"}
        old.must_be_unchanged()
    assert [(r.bucket, r.key, r.size, r.state) for r in rows] == [
        ("aaa", "x", 0, FileState.ERROR),
        ("aaa", "y", 1, FileState.ERROR),
        ("bbb", "a/ü", 7, FileState.DOWNLOADED),
        ("bbb", "k", 5, FileState.DOWNLOADED),
    ]
    assert [r.reason for r in rows[:2]] == ["no", "the older toolkit gave no reason"]
    assert (rows[2].storage_class, rows[2].local_path, rows[2].last_modified) == ("GLACIER", "down/a", None)
    assert (rows[3].storage_class, rows[3].etag) == ("STANDARD", "e")
    assert rows[3].last_modified == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert rows[3].created_at == THEN
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.db"]


def test_what_the_old_program_had_not_checkpointed_is_read_from_a_copy(tmp_path: Path) -> None:
    path = old_file(tmp_path / "s.db", ROWS[:1])
    killed = sqlite3.connect(path)
    killed.execute("PRAGMA journal_mode = WAL")
    killed.execute(
        "INSERT INTO files SELECT bucket, 'late', size, etag, storage_class, last_modified, local_path, state,"
        " error_message, checksum, glacier_restore_requested_at, created_at, updated_at FROM files"
    )
    killed.commit()
    assert older.unfinished(path)
    before = [(p.name, p.read_bytes()) for p in sorted(tmp_path.iterdir()) if not p.name.endswith("-shm")]
    (tmp_path / "scratch").mkdir()
    with Older.open(path, tmp_path / "scratch") as old:
        assert [row.key for row in old.rows()] == ["k", "late"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [(n, (tmp_path / n).read_bytes()) for n, _ in before] == before
    killed.close()


def test_a_file_that_is_written_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = old_file(tmp_path / "s.db", ROWS)
    with Older.open(path, tmp_path) as old:
        path.touch()
        with pytest.raises(Failure, match="stop the older toolkit"):
            old.must_be_unchanged()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"bucket": "b", "key": b"\xff", "size": 1, "state": "error"}, "no object can be"),
        ({"bucket": "b", "key": "k", "size": -1, "state": "error"}, "no object can be"),
        ({"bucket": "b", "key": "k", "size": "many", "state": "error"}, "no object can be"),
        ({"bucket": "b", "key": "k", "size": 1, "state": "finished"}, "state 'finished'"),
    ],
)
def test_rows_that_no_object_can_be_are_refused(tmp_path: Path, row: dict[str, object], said: str) -> None:
    with Older.open(old_file(tmp_path / "s.db", [row]), tmp_path) as old, pytest.raises(Refused, match=said):
        list(old.rows())


def test_whose_file_it_is(tmp_path: Path) -> None:
    assert older.is_older(old_file(tmp_path / "v1.db", []))
    with Store.open(tmp_path / "ours.db"):
        pass
    assert not older.is_older(tmp_path / "ours.db")
    (tmp_path / "empty.db").touch()
    assert not older.is_older(tmp_path / "empty.db")
    with sqlite3.connect(tmp_path / "other.db") as conn:
        conn.execute("CREATE TABLE files (name TEXT)")
    (tmp_path / "text.db").write_text("not a database at all, but long enough to be read as one" * 20)
    with sqlite3.connect(tmp_path / "newer.db") as conn:
        conn.execute("PRAGMA application_id = 0x4D475632")
        conn.execute("PRAGMA user_version = 999")
    for name, said in (("other", "not a state file"), ("text", "not a state file"), ("newer", "newer version")):
        with pytest.raises(Refused, match=said):
            older.is_older(tmp_path / f"{name}.db")
    with pytest.raises(Failure, match="cannot open"):
        older.is_older(tmp_path / "none.db")


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    path = old_file(
        tmp_path / "s.db", [{"bucket": "b", "key": f"k{n:06}", "size": n, "state": "error"} for n in range(3000)]
    )
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40_000] = b"\x55" * 40_000
    path.write_bytes(raw)
    with pytest.raises(Refused, match="cannot be read"), Older.open(path, tmp_path) as old:
        list(old.rows())
        old.amounts()
