"""The tables of a state file: words that people query, counts that the engine keeps, numbers that other programs see."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database

from migrate_v2.answers import ETAGS_OF_NOTHING
from migrate_v2.edges import schema
from migrate_v2.edges.store import Store
from migrate_v2.model import FileState, Phase


@pytest.fixture
def db() -> Database:
    database = Database(memory=True)
    schema.migrations.apply(database)
    return database


def insert(db: Database, key: str, state: str = "discovered", size: int = 5) -> None:
    db.conn.execute(
        "INSERT INTO files (bucket, key, version_id, is_latest, size, etag, storage_class, last_modified, state, scan,"
        " created_at, updated_at) VALUES ('b', ?, 'null', 1, ?, 'e', 'STANDARD', 't', ?, 1, 't', 't')",
        (key, size, state),
    )


def tallies(db: Database) -> list[tuple[object, ...]]:
    return db.conn.execute(
        "SELECT bucket, state, verdict, archived, storage_class, cause, objects, bytes FROM tallies"
        " WHERE objects <> 0 OR bytes <> 0 ORDER BY 1, 2, 3, 4, 5, 6"
    ).fetchall()


def counted(db: Database) -> list[tuple[object, ...]]:
    return db.conn.execute(
        "SELECT bucket, state, ifnull(verdict, ''), archived, storage_class, ifnull(cause, ''), count(*), sum(size) FROM files"
        " GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6"
    ).fetchall()


def test_the_words_of_the_state_file_are_those_of_the_model(db: Database) -> None:
    for number, state in enumerate(FileState):
        insert(db, f"k{number}", state)
    for phase in Phase:
        db.conn.execute(
            "INSERT INTO bucket_status (bucket, phase, created_at, updated_at) VALUES (?, ?, 't', 't')", (phase, phase)
        )


@pytest.mark.parametrize("word", ["done", "VERIFIED", ""])
def test_other_words_are_refused(db: Database, word: str) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        insert(db, "k", word)


def test_tallies_follow_every_change_of_rows(db: Database) -> None:
    for number in range(20):
        insert(db, f"k{number}", size=number)
    assert tallies(db) == counted(db)
    for change in (
        "UPDATE files SET state = 'verified', verdict = 'match' WHERE size % 2",
        "UPDATE files SET size = size + 1000 WHERE key = 'k3'",
        "UPDATE files SET archived = 1, storage_class = 'GLACIER' WHERE size % 3 = 0",
        "UPDATE files SET reason = 'x', updated_at = 'y'",
        "UPDATE files SET cause = 'denied' WHERE size % 4 = 0",
        "UPDATE files SET verdict = NULL",
        "DELETE FROM files WHERE key LIKE 'k1%'",
        "UPDATE files SET state = 'error'",
    ):
        db.conn.execute(change)
        assert tallies(db) == counted(db), change


def test_a_rolled_back_change_is_not_counted(db: Database) -> None:
    insert(db, "a")
    with pytest.raises(RuntimeError), db.atomic():
        db.conn.execute("UPDATE files SET state = 'verified'")
        raise RuntimeError
    assert tallies(db) == counted(db)


def test_a_file_says_whose_it_is(tmp_path: Path) -> None:
    database = Database(tmp_path / "s.db")
    schema.migrations.apply(database)
    assert database.conn.execute("PRAGMA application_id").fetchone()[0] == schema.APPLICATION_ID
    assert (
        database.conn.execute("PRAGMA user_version").fetchone()[0]
        == schema.USER_VERSION
        == len(schema.migrations._migrations)
    )


def test_a_crash_between_migrations_leaves_no_half_of_one(tmp_path: Path) -> None:
    database = Database(tmp_path / "s.db")
    with pytest.raises(sqlite3.OperationalError):
        database.execute("CREATE TABLE tallies (x)")
        schema.migrations.apply(database)
    assert database.table_names() == ["tallies", "_sqlite_migrations"]
    assert database.conn.execute("PRAGMA application_id").fetchone()[0] == 0
    database.execute("DROP TABLE tallies")
    schema.migrations.apply(database)
    schema.migrations.apply(database)
    assert "files" in database.table_names()


def test_rows_proved_by_a_listed_size_of_zero_are_verified_again() -> None:
    database = Database(memory=True)
    schema.migrations.apply(database, stop_before="m004_causes")
    for key, size, etag in (("a", 0, "0" * 32), ("b", 0, ETAGS_OF_NOTHING[0]), ("c", 5, "0" * 32)):
        insert(database, key, "verified", size)
        database.conn.execute("UPDATE files SET etag = ?, verdict = 'match' WHERE key = ?", (etag, key))
    database.conn.commit()
    schema.migrations.apply(database)
    states = dict(database.conn.execute("SELECT key, state FROM files").fetchall())
    assert states == {"a": "downloaded", "b": "verified", "c": "verified"}
    assert tallies(database) == counted(database)


@pytest.mark.parametrize("released", [migration.name for migration in schema.migrations._migrations])
def test_every_released_schema_is_brought_up_to_date_with_its_rows(tmp_path: Path, released: str) -> None:
    database = Database(tmp_path / "s.db")
    following = [migration.name for migration in schema.migrations._migrations]
    after = following[following.index(released) + 1 :]
    schema.migrations.apply(database, stop_before=after[0] if after else None)
    assert [m.name for m in schema.migrations.pending(database)] == after
    insert(database, "k1", "verified", 7)
    insert(database, "k2", "deleted", 8)
    database.conn.execute("INSERT INTO bucket_status (bucket, scan, created_at, updated_at) VALUES ('b', 1, 't', 't')")
    database.conn.execute("INSERT INTO delete_markers VALUES ('b', 'm', 'v', 1, 't', 'listed', NULL, 1)")
    database.conn.execute("INSERT INTO migration_metadata VALUES ('state_id', 'x', 't'), ('keys', 'y z', 't')")
    inode = (tmp_path / "s.db").stat().st_ino
    database.conn.execute("INSERT INTO migration_metadata VALUES ('inode', ?, 't')", (str(inode),))
    database.conn.commit()
    before = {
        table: sorted(tuple(r) for r in database.conn.execute(f"SELECT * FROM {table}"))
        for table in ("files", "bucket_status", "delete_markers", "migration_metadata")
    }
    database.close()
    with Store.open(tmp_path / "s.db") as store:
        assert store._conn.execute("PRAGMA user_version").fetchone()[0] == schema.USER_VERSION
        for table, rows in before.items():
            now = sorted(tuple(r)[: len(rows[0])] for r in store._conn.execute(f"SELECT * FROM {table}"))
            assert now == rows, table
        assert all(group.agrees for group in store.recount())
        assert store.identity() == "x"


def test_a_state_file_of_before_restores_were_counted_is_taken_over() -> None:
    """What was asked for before is asked about, and not again."""
    database = Database(memory=True)
    schema.migrations.apply(database, stop_before="m002_restores")
    insert(database, "k", "glacier_restore_requested")
    schema.migrations.apply(database)
    assert tallies(database) == counted(database)
    row = database.conn.execute("SELECT restore_answer, restore_days, restore_job, archive_tier FROM files").fetchone()
    assert tuple(row) == (None, None, None, None)
    with pytest.raises(sqlite3.IntegrityError):
        database.conn.execute("UPDATE files SET restore_answer = 'maybe'")


def test_gone_rows_of_earlier_programs_get_the_verdict_that_tells_their_kind() -> None:
    database = Database(memory=True)
    schema.migrations.apply(database, stop_before="m004_causes")
    strong, weak = '[{"kind": "md5-etag", "bits": 128}]', '[{"kind": "crc32", "bits": 32}]'
    for key, state, sha256, evidence in (
        ("never", "error", None, None),
        ("proved", "error", "s", strong),
        ("weak", "error", "s", weak),
        ("unread", "error", "s", None),
        ("kept", "discovered", None, None),
    ):
        insert(database, key, state)
        database.conn.execute(
            "UPDATE files SET reason = 'vanished from S3 since it was listed', sha256 = ?, evidence = ?, verdict = ?"
            " WHERE key = ?",
            (sha256, evidence, "kept" if key == "kept" else None, key),
        )
    database.conn.execute(
        "INSERT INTO bucket_status (bucket, scan, scan_complete, created_at, updated_at) VALUES ('b', 3, 1, '', '')"
    )
    insert(database, "fine", "verified")
    schema.migrations.apply(database)
    rows = database.conn.execute("SELECT key, state, verdict FROM files WHERE cause = 'vanished'").fetchall()
    assert {key: (state, verdict) for key, state, verdict in rows} == {
        "never": ("error", None),
        "proved": ("error", "match"),
        "weak": ("error", "unprovable"),
        "unread": ("error", "unprovable"),
        "kept": ("error", None),
    }
    assert tallies(database) == counted(database)
    figures = database.conn.execute("SELECT accepted_scan, known_rows FROM bucket_status WHERE bucket = 'b'").fetchone()
    assert tuple(figures) == (3, 1)


REASONS = {
    "vanished": ("error", None, "vanished from S3 since it was listed"),
    "changed": ("error", None, "changed in S3 since it was listed"),
    "noncurrent": ("discovered", "kept", "an old version, and the setting noncurrent is keep"),
    "checksum_denied": ("downloaded", "unprovable", "S3 does not give its checksums: access to k is denied"),
    "no_checksum": ("downloaded", "unprovable", "S3 has no checksum of 64 bits or more for it"),
    "failed_in_job": ("discovered", None, "failed in restore job j: AccessDenied"),
    "unreadable": ("error", "unreadable", "cannot read k: Input/output error"),
    "denied": ("error", None, "access to k is denied"),
    "archived": ("error", None, "k is in an archive tier; a restore has to bring it back first"),
    "obstacle": ("error", None, "b/k is a folder: move it away and run the same command again"),
    "disk": ("error", None, "cannot write b/k: No space left on device"),
    "refused": ("error", None, "S3 refused k: XYZ: no"),
    "other": ("error", None, "anything else"),
}


def test_causes_migration_reads_texts_of_earlier_programs_once() -> None:
    database = Database(memory=True)
    schema.migrations.apply(database, stop_before="m004_causes")
    for key, (state, verdict, reason) in REASONS.items():
        insert(database, key, state)
        database.conn.execute("UPDATE files SET verdict = ?, reason = ? WHERE key = ?", (verdict, reason, key))
    insert(database, "fine", "verified")
    schema.migrations.apply(database)
    causes = dict(database.conn.execute("SELECT key, cause FROM files").fetchall())
    assert causes.pop("fine") is None
    assert causes == {key: key for key in REASONS}
    assert tallies(database) == counted(database)
