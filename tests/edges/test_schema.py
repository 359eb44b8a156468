"""The tables of a state file: words that people query, counts that the engine keeps, numbers that other programs see."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database

from migrate_v2.edges import schema
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
        "SELECT bucket, state, verdict, archived, storage_class, objects, bytes FROM tallies WHERE objects <> 0 OR bytes <> 0"
        " ORDER BY 1, 2, 3, 4, 5"
    ).fetchall()


def counted(db: Database) -> list[tuple[object, ...]]:
    return db.conn.execute(
        "SELECT bucket, state, ifnull(verdict, ''), archived, storage_class, count(*), sum(size) FROM files"
        " GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
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


def test_a_state_file_of_before_restores_were_counted_is_taken_over() -> None:
    """What was asked for before is asked about, and not again."""
    database = Database(memory=True)
    schema.migrations.apply(database, stop_before="m002_restores")
    insert(database, "k", "glacier_restore_requested")
    before = tallies(database)
    schema.migrations.apply(database)
    assert tallies(database) == before
    row = database.conn.execute("SELECT restore_answer, restore_days, restore_job, archive_tier FROM files").fetchone()
    assert tuple(row) == (None, None, None, None)
    with pytest.raises(sqlite3.IntegrityError):
        database.conn.execute("UPDATE files SET restore_answer = 'maybe'")
