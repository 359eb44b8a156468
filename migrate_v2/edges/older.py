"""A state file of the older toolkit is read here, as it is at one moment, and never written."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from migrate_v2.edges import schema
from migrate_v2.errors import Failure, Refused
from migrate_v2.keys import show
from migrate_v2.model import FileState

_NEEDED = {"bucket", "key", "size", "state"}
_KNOWN = (
    "bucket", "key", "size", "state", "etag", "storage_class", "last_modified", "local_path", "error_message",
    "glacier_restore_requested_at", "created_at", "updated_at",
)  # fmt: skip
_BESIDE = ("-wal", "-journal")

# What the older programs believed to be verified was a size, or nothing: their word is worth a copy that may be there.
_WORTH = {state.value: state for state in FileState} | {FileState.VERIFIED.value: FileState.DOWNLOADED}

Amount = tuple[int, int]  # objects, bytes


@dataclass(frozen=True, slots=True)
class OldRow:
    """One row of its `files`, with the state that it is worth here; None or "" where the old program did not say."""

    bucket: str
    key: str
    size: int
    etag: str
    storage_class: str
    last_modified: datetime | None
    state: FileState
    reason: str
    local_path: str
    restore_requested_at: str
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Which file it was: by this an upgrade that was done before is known again."""

    path: str
    size: int
    mtime_ns: int


def origin(path: Path) -> Origin:
    facts = path.stat()
    return Origin(str(path.absolute()), facts.st_size, facts.st_mtime_ns)


def is_older(path: Path) -> bool:
    """Whether this is a file of the older toolkit. Refused: one that is neither that nor ours, or newer than this program."""
    try:
        with path.open("rb") as file:
            if not file.read(16):
                return False
        conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except (OSError, sqlite3.Error) as error:
        raise Failure(f"cannot open {show(str(path))}: {getattr(error, 'strerror', None) or error}") from error
    try:
        return kind(conn, path) == "older"
    except sqlite3.DatabaseError as error:
        raise Refused(f"{show(str(path))} is not a state file: {error}") from error
    finally:
        conn.close()


def kind(conn: sqlite3.Connection, path: Path) -> str:
    """Whose file this is: "ours", "empty" (a crash right after its birth) or "older". Refused: anything else."""
    name = show(str(path))
    application = conn.execute("PRAGMA application_id").fetchone()[0]
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    if application == schema.APPLICATION_ID:
        if version > schema.USER_VERSION:
            raise Refused(f"{name} was written by a newer version of this program; use that version")
        return "ours"
    tables = {r[0] for r in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables <= {"_sqlite_migrations"}:
        return "empty"
    if application == 0 and {"files", "migration_metadata"} <= tables and _columns(conn) >= _NEEDED:
        return "older"
    raise Refused(f"{name} is not a state file of this program; name another one with --state")


def _columns(conn: sqlite3.Connection) -> set[str]:
    return {r[1] for r in conn.execute("PRAGMA table_info(files)")}


class Older:
    """An old state file, open. What was committed to it when it was opened is what is read."""

    def __init__(self, path: Path, conn: sqlite3.Connection, scratch: Path | None) -> None:
        self.path = path
        self.origin = origin(path)
        self._conn = conn
        self._scratch = scratch
        self._tables = {r[0] for r in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}

    @classmethod
    def open(cls, path: Path, scratch: Path) -> Self:
        """Where its program was killed, SQLite has to repair the file before it can be read: a copy in `scratch` then."""
        path = path.absolute()
        copied: Path | None = None
        try:
            before = origin(path)
            if unfinished(path):
                copied = scratch / "copy.db"
                for suffix in ("", *_BESIDE):
                    with suppress(FileNotFoundError):
                        shutil.copyfile(f"{path}{suffix}", f"{copied}{suffix}")
                if origin(path) != before:
                    raise Failure(f"{show(str(path))} is being written: stop the older toolkit first")
            where = copied or path
            conn = sqlite3.connect(f"{where.as_uri()}?mode={'rw' if copied else 'ro'}", uri=True, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise Failure(f"cannot read {show(str(path))}: {getattr(error, 'strerror', None) or error}") from error
        try:
            conn.execute("BEGIN")
            kind(conn, path)
            return cls(path, conn, copied)
        except sqlite3.DatabaseError as error:
            conn.close()
            raise _damaged(path, error) from error
        except BaseException:
            conn.close()
            raise

    def close(self) -> None:
        self._conn.close()
        if self._scratch is not None:
            for suffix in ("", "-shm", *_BESIDE):
                Path(f"{self._scratch}{suffix}").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def must_be_unchanged(self) -> None:
        if origin(self.path) != self.origin:
            raise Failure(
                f"{show(str(self.path))} was written while it was read: stop the older toolkit, and run the same again"
            )

    def buckets(self) -> list[str]:
        """Those it has rows of, and those it had scanned and found empty."""
        names = set(self._of("SELECT DISTINCT bucket FROM files"))
        for table in ("scanned_buckets", "bucket_status"):
            if table in self._tables:
                names.update(self._of(f"SELECT bucket FROM {table}"))
        return sorted(names)

    def _of(self, sql: str) -> list[str]:
        try:
            return [str(r[0]) for r in self._conn.execute(sql)]
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error

    def amounts(self) -> Mapping[tuple[str, FileState], Amount]:
        """Objects and bytes of each bucket by what their state is worth here, counted by SQLite."""
        found: dict[tuple[str, FileState], Amount] = {}
        try:
            for bucket, state, objects, size in self._conn.execute(
                "SELECT bucket, state, count(*), ifnull(sum(size), 0) FROM files GROUP BY bucket, state"
            ):
                worth = _state(state, self.path)
                before = found.get((bucket, worth), (0, 0))
                found[bucket, worth] = (before[0] + objects, before[1] + size)
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error
        return found

    def rows(self) -> Iterator[OldRow]:
        """All of them in the order of bucket and key."""
        there = _columns(self._conn)
        columns = ", ".join(name if name in there else f"NULL AS {name}" for name in _KNOWN)
        try:
            for r in self._conn.execute(f"SELECT {columns} FROM files ORDER BY bucket, key"):
                yield self._row(*r)
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error

    def _row(
        self,
        bucket: object,
        key: object,
        size: object,
        state: object,
        etag: object,
        storage_class: object,
        last_modified: object,
        local_path: object,
        error: object,
        requested: object,
        created: object,
        updated: object,
    ) -> OldRow:
        if not isinstance(bucket, str) or not isinstance(key, str) or not isinstance(size, int) or size < 0:
            raise Refused(
                f"{show(str(self.path))} has a row that no object can be: bucket {show(str(bucket))}, key {show(str(key))}"
            )
        worth = _state(state, self.path)
        reason = str(error or "the older toolkit gave no reason") if worth is FileState.ERROR else ""
        return OldRow(
            bucket=bucket,
            key=key,
            size=size,
            etag=str(etag or "").strip('"'),
            storage_class=str(storage_class or "STANDARD"),
            last_modified=_moment(last_modified),
            state=worth,
            reason=reason,
            local_path=str(local_path or ""),
            restore_requested_at=str(requested or ""),
            created_at=str(created or ""),
            updated_at=str(updated or ""),
        )

    def metadata(self) -> Mapping[str, str]:
        try:
            return {str(k): str(v) for k, v in self._conn.execute("SELECT key, value FROM migration_metadata")}
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error


def unfinished(path: Path) -> bool:
    """Whether its program was killed in the middle of writing, or is at work: SQLite's own files lie beside it."""
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            if os.stat(f"{path}{suffix}").st_size:  # noqa: PTH116 - a suffix, not a name
                return True
    return False


def _state(state: object, path: Path) -> FileState:
    found = _WORTH.get(state) if isinstance(state, str) else None
    if found is None:
        raise Refused(f"{show(str(path))} has rows in the state '{show(str(state))}', which no older toolkit wrote")
    return found


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _damaged(path: Path, error: Exception) -> Refused:
    return Refused(f"{show(str(path))} cannot be read as a state file: {error}")
