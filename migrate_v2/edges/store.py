"""The one memory: rows in, rows out, in transactions; all that outlives a process is in this SQLite file."""

from __future__ import annotations

import errno
import json
import math
import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from sqlite_utils import Database

from migrate_v2.conveyor import Bought, Lot, expected, expires
from migrate_v2.durability import holds_state_file
from migrate_v2.edges import older, schema
from migrate_v2.edges.ledger import Key, Ledger, Settled
from migrate_v2.edges.mounts import mount_at
from migrate_v2.errors import Cause, Failure, Refused
from migrate_v2.flow import batched
from migrate_v2.keys import show
from migrate_v2.model import (
    ARCHIVED_CLASSES,
    CANARY,
    GONE_CAUSES,
    NO_ATTEMPTS,
    STILL_THERE,
    SUPERSEDED,
    VANISHED,
    Answer,
    Asked,
    Attempts,
    Counts,
    DeleteMarker,
    EvidenceSource,
    FileIdentity,
    FileState,
    GoneKind,
    Kept,
    Moment,
    ObjectVersion,
    Phase,
    Place,
    Row,
    Verdict,
    Witness,
    gone_kind,
)
from migrate_v2.tuning import SIZES

PAGE = 1000
# Rows of one statement: with one for each row the same changes take nearly twice as long, and between any two of them
# whoever is at work in another thread keeps Python's lock for 5 ms.
GROUP = 500


@dataclass(frozen=True, slots=True)
class BucketRow:
    """One row of `bucket_status`; times are ISO 8601 in UTC, empty where there is none yet."""

    bucket: str
    phase: Phase
    account: str
    region: str
    endpoint: str
    versioning: str  # "", "Enabled" or "Suspended"
    uploads: int | None
    scan: int
    scan_complete: bool
    scan_key_marker: str | None
    scan_version_marker: str | None
    scanned_at: str
    base_id: str
    fetched_bytes: int
    fetch_seconds: float
    session: str
    session_bytes: int
    session_seconds: float
    created_at: str
    completed_at: str
    restores_seen_at: str = ""  # when Glacier was last asked how far it is
    # Rows that the last complete listing left out, by what a HEAD of each said: S3 has them; S3 does not say.
    unlisted: int = 0
    unconfirmed: int = 0
    # What has changed between the accepted listing and the last complete one; see pipeline's max_change.
    accepted_scan: int = 0
    known_rows: int = 0
    gone_since: int = 0
    changed_since: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Rows of `files` that agree in all of this, counted; bytes are their listed sizes."""

    state: FileState
    verdict: str
    archived: bool
    storage_class: str
    cause: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Recount:
    """Rows of one bucket that agree in all that is tallied, as counted just now, and what is kept of them."""

    bucket: str
    counted: Tally
    kept: tuple[int, int]

    @property
    def agrees(self) -> bool:
        return self.kept == (self.counted.objects, self.counted.bytes)


@dataclass(frozen=True, slots=True)
class Restoring:
    """Objects of one bucket that were asked for in the same hour, `at` its last, and are not back."""

    bucket: str
    storage_class: str
    tier: str
    at: datetime
    expires: float  # the first of them, in seconds since the epoch; math.inf where nobody knows
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """Copies of one bucket that wait to be fetched and go at the same time."""

    bucket: str
    expiry: datetime
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job of S3 Batch Operations; `job_id` is empty until S3 has taken it. The token names it in the rows."""

    token: str
    bucket: str
    storage_class: str
    tier: str
    days: int | None
    versioned: bool
    objects: int
    bytes: int
    account: str
    role: str
    manifest_bucket: str
    report_bucket: str
    job_id: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What a step found out about one version; None leaves a column as it is."""

    version: ObjectVersion
    state: FileState
    verdict: Verdict | None = None
    reason: str = ""
    cause: Cause | None = None


class Copy(StrEnum):
    """What lies at the new path of a copy that was to be renamed."""

    SAME = "same"  # the file that the row recorded, or, where none is recorded yet, the file that was at the old path
    OTHER = "other"  # a file that is not known to be the recorded one
    MISSING = "missing"  # nothing, and nothing at the old path either
    STAYED = "stayed"  # it could not be renamed, and is still at the old path


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of renaming one copy."""

    version: ObjectVersion
    path: str
    copy: Copy
    ctime_ns: int | None = None  # of the recorded file at its new path


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one reading of a local copy came to."""

    version: ObjectVersion
    state: FileState
    verdict: Verdict | None
    reason: str
    sha256: str
    witnesses: tuple[Witness, ...]
    identity: FileIdentity | None
    cause: Cause | None = None
    attempts: Attempts | None = None  # None: as they are
    source: EvidenceSource | None = None  # the answer of S3 that `witnesses` are from
    source_run: str = ""  # the process that S3 gave it to, if that is another one


class Item(NamedTuple):
    """What of one row a count of all of them needs; read a million times, so no more than that. `day` is ISO 8601."""

    key: str
    version_id: str
    size: int
    etag: str
    storage_class: str
    day: str
    is_latest: bool
    state: str
    verdict: str
    cause: str
    archived: bool
    place: str
    path: str
    described: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not completed: parts that nobody can read."""

    key: str
    upload_id: str
    initiated: datetime


@dataclass(frozen=True, slots=True)
class Description:
    """What S3 said of one version beside its bytes: `document` is a JSON object, `path` where its copy lies."""

    key: str
    version_id: str
    path: str
    document: str


@dataclass(frozen=True, slots=True)
class LinkedCopy:
    """A copy that is a hard link: `path` below the destination, `source` the other name. `sha256` is "" where unverified."""

    path: str
    source: Path
    sha256: str
    last_modified: datetime | None  # None: its row was forgotten


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _signed(number: int) -> int:
    """As SQLite can hold it: some file systems make inode numbers of 64 bits by hashing."""
    return number - 2**64 if number >= 2**63 else number


def _text(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _runs(parts: Sequence[int]) -> list[list[int]]:
    """Part sizes as [size, how many] runs: 10,000 equal parts are one pair."""
    runs: list[list[int]] = []
    for size in parts:
        if runs and runs[-1][0] == size:
            runs[-1][1] += 1
        else:
            runs.append([size, 1])
    return runs


def evidence_document(witnesses: Sequence[Witness]) -> list[dict[str, object]]:
    return [
        {"kind": w.kind, "value": w.value, "bits": w.bits, **({"parts": _runs(w.parts)} if w.parts else {})}
        for w in witnesses
    ]


def evidence_text(witnesses: Sequence[Witness]) -> str:
    return json.dumps(evidence_document(witnesses))


def evidence_of(text: str | None) -> tuple[Witness, ...]:
    return tuple(
        Witness(
            w["kind"], w["value"], w["bits"], tuple(size for size, count in w.get("parts", ()) for _ in range(count))
        )
        for w in json.loads(text or "[]")
    )


def _one_of(words: Iterable[str]) -> str:
    """For SQL's IN."""
    return ", ".join(f"'{word}'" for word in words)


# In the order of ObjectVersion.
_LISTED = (
    "bucket, key, version_id, size, etag, storage_class, last_modified, is_latest, checksum_algorithm, checksum_type,"
    " restore_expiry"
)
_COLUMNS = (
    f"{_LISTED}, state, verdict, reason, place, local_path, sha256, evidence, device, inode, mtime_ns, ctime_ns,"
    " archived, read_run, verified_at, mac, hold,"
    " restore_requested_at, restore_tier, restore_days, restore_answer, restore_job, cause, hold_cause,"
    " (SELECT source FROM linked_copies l WHERE l.bucket = files.bucket AND l.path = files.local_path) AS linked,"
    " evidence_source, evidence_run, wrong_results, same_results, last_result, losses"
)


_STATES: dict[str, FileState] = {state.value: state for state in FileState}
_PLACED: dict[str | None, Place] = {place.value: place for place in Place}
_VERDICTS: dict[str | None, Verdict] = {verdict.value: verdict for verdict in Verdict}


def _version(r: Sequence[Any]) -> ObjectVersion:
    bucket, key, version_id, size, etag, storage_class, last_modified, is_latest, algorithm, kind, restore_expiry = r
    return ObjectVersion(
        bucket,
        key,
        version_id,
        size,
        etag,
        storage_class,
        datetime.fromisoformat(last_modified),
        bool(is_latest),
        algorithm,
        kind,
        None,
        _moment(restore_expiry),
    )


def _row(r: sqlite3.Row, of: Key) -> Row:
    # By position: sqlite3.Row looks names up one by one, and rows are what all steps are made of.
    version = _version(r[:11])
    state, verdict, reason, place, path, sha256, evidence, device, inode, mtime_ns, ctime_ns, *more = r[11:]
    (
        archived,
        read_run,
        verified_at,
        mac,
        hold,
        asked_at,
        tier,
        days,
        answer,
        job,
        cause,
        hold_cause,
        linked,
        source,
        source_run,
        *attempts,
    ) = more
    sealed = False
    if state == "verified" or (state == "downloaded" and mac is not None):
        # What a reading found, and of which object; the path is not in it, the file itself is. In the order of _recorded().
        found = (*_identity(version), version.size, version.etag, state, verdict, sha256, evidence)
        sealed = mac == of.mac(
            *found, *_origin(source, source_run), device, inode, mtime_ns, ctime_ns, read_run, verified_at
        )
    return Row(
        version,
        _STATES[state],
        _VERDICTS.get(verdict),
        reason or "",
        _PLACED.get(place),
        path or "",
        sha256 or "",
        evidence_of(evidence) if evidence else (),
        FileIdentity(device % 2**64, inode % 2**64, version.size, mtime_ns, ctime_ns) if inode is not None else None,
        bool(archived),
        read_run or "",
        _moment(verified_at),
        sealed,
        hold or "",
        Asked(datetime.fromisoformat(asked_at), tier or "", days, answer or "", job or "") if asked_at else None,
        Cause(cause) if cause else None,
        Cause(hold_cause) if hold_cause else None,
        linked or "",
        Attempts(*attempts) if any(attempts) else NO_ATTEMPTS,
        EvidenceSource(source) if source else None,
        source_run or "",
    )


def _origin(source: str | None, run: str | None) -> tuple[str | None, ...]:
    """Where evidence is from, as a part of what is sealed; seals made before that was recorded have nothing in its place."""
    return (source, run) if source else ()


# A version that S3 lists differently from the row is another object under the same name: what was known of the old one
# is forgotten.
_NEWS = """(
    files.etag IS NOT excluded.etag OR files.size IS NOT excluded.size OR files.last_modified IS NOT excluded.last_modified
    OR ((files.state = 'error' OR files.verdict = 'kept') AND files.cause IN ('vanished', 'changed'))
)"""
# A version without a copy that is no longer the current one does not keep the path of the current one. A copy that is
# there already keeps its row as it is; steps/place.py renames it.
_YIELDS_PLACE = """(
    files.is_latest AND NOT excluded.is_latest AND files.place <> 'side'
    AND files.state NOT IN ('downloaded', 'verified', 'deleted')
    AND NOT (files.state = 'error' AND files.verdict IS NOT NULL)
)"""
_NO_ATTEMPTS = (("wrong_results", "0"), ("same_results", "0"), ("last_result", "''"), ("losses", "0"))
_CLAIM = ("place", "local_path", "fold")
# What a reading found, in the order of _recorded().
_READ = [
    "sha256",
    "evidence",
    "evidence_source",
    "evidence_run",
    "device",
    "inode",
    "mtime_ns",
    "ctime_ns",
    "read_run",
    "verified_at",
    "mac",
]
_FOUND = ["state", "verdict", "reason", "cause", *_READ, "updated_at"]
# In the order of Attempts.
_ATTEMPTS = ("wrong_results", "same_results", "last_result", "losses")
_FORGOTTEN = [
    *("verdict", "reason", "cause", "moving_to", *_READ, "hold", "hold_cause"),
    *("restore_requested_at", "restore_tier", "restore_days", "restore_answer", "restore_job", "restore_renewal"),
    "archive_tier",
]

_NAME = "bucket, key, version_id"
_NAMED = "files.bucket = n.bucket AND files.key = n.key AND files.version_id = n.version_id"
# {rows} are those of _listed(). A listing that says nothing of an object's restore is {silent}: what is known stays.
_UPSERT = f"""
INSERT INTO files (bucket, key, version_id, is_latest, size, etag, storage_class, last_modified, checksum_algorithm,
    checksum_type, state, archived, restore_expiry, scan, created_at, updated_at)
VALUES {{rows}}
ON CONFLICT DO UPDATE SET
    {"".join(f"{column} = CASE WHEN {_NEWS} THEN NULL ELSE {column} END, " for column in _FORGOTTEN)}
    {"".join(f"{column} = CASE WHEN {_NEWS} THEN {zero} ELSE {column} END, " for column, zero in _NO_ATTEMPTS)}
    {"".join(f"{column} = CASE WHEN {_NEWS} OR {_YIELDS_PLACE} THEN NULL ELSE {column} END, " for column in _CLAIM)}
    state = CASE WHEN {_NEWS} THEN excluded.state
        WHEN files.state IN ('discovered', 'glacier_restore_requested', 'glacier_restoring', 'downloading')
            AND (NOT {{silent}} OR (excluded.archived AND files.storage_class <> excluded.storage_class)) THEN excluded.state
        ELSE files.state END,
    archived = CASE WHEN {_NEWS} OR NOT {{silent}} OR files.storage_class <> excluded.storage_class THEN excluded.archived
        ELSE files.archived END,
    restore_expiry = CASE WHEN {_NEWS} OR NOT {{silent}} THEN excluded.restore_expiry ELSE files.restore_expiry END,
    is_latest = excluded.is_latest, size = excluded.size, etag = excluded.etag,
    storage_class = excluded.storage_class, last_modified = excluded.last_modified,
    checksum_algorithm = excluded.checksum_algorithm, checksum_type = excluded.checksum_type, scan = excluded.scan,
    updated_at = CASE WHEN {_NEWS} THEN excluded.updated_at ELSE files.updated_at END
"""


_STRICT = (3, 37, 0)  # the first that knows STRICT tables


class Store:
    """An open state file. One process writes a bucket's rows at a time; its lock is the caller's business."""

    def __init__(self, path: Path, database: Database, key: Key) -> None:
        self.path = path
        self._db = database
        self._conn = database.conn
        self._key = key
        self.ledger = Ledger(self._conn, key, self._writing)

    @classmethod
    def open(cls, path: Path, key: Key | None = None, *, named: bool = True, shared: bool = True) -> Store:
        """Opens the file, or makes it and its key (0600). Refused: a file that is not ours, an older program's, a newer one's.

        A file that nobody `named`, but that the working folder happens to hold, has to be the one that was made there.
        Not `shared`: for this process alone, and then on any file system. SQLite's WAL needs memory that all users of the
        file share (https://sqlite.org/wal.html), which network and FUSE file systems do not have.
        """
        if sqlite3.sqlite_version_info < _STRICT:
            raise Failure(
                f"Python's SQLite is {sqlite3.sqlite_version}, and state files need {'.'.join(map(str, _STRICT))}: use a"
                " Python that brings a newer one, such as those of python.org or uv"
            )
        path = path.absolute()
        kind = mount_at(path.parent).kind
        if shared and not holds_state_file(kind):
            raise Refused(
                f"the state file {show(str(path))} is on a network or FUSE file system ({kind}), which SQLite cannot use safely:"
                " name a file on a local disk by --state; `migrate-v2 backup-state FILE` copies one that is there already"
            )
        fresh = False
        try:
            if path.is_symlink():
                raise Refused(f"the state file {show(str(path))} is a symbolic link; name the file it points to")
            _must_be_ours(path)
            if not path.exists() or (path.stat().st_size == 0 and not path.with_name(path.name + "-wal").exists()):
                # A zero-length file is what a crash right after creation leaves.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
                fresh = True
            conn = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=30, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise Failure(f"cannot open the state file {show(str(path))}: {_cause(error)}") from error
        conn.row_factory = sqlite3.Row
        try:
            if not shared:  # before anything is read: then WAL does without shared memory
                conn.execute("PRAGMA locking_mode = EXCLUSIVE")
            if not fresh:
                _refuse_foreign(conn, path)
                if not named:
                    _refuse_copy(conn, path)
            conn.execute("PRAGMA journal_mode = WAL")
            # WAL with NORMAL lost 300 of 300 commits at a power cut, FULL none.
            conn.execute("PRAGMA synchronous = FULL")
            conn.execute("PRAGMA temp_store = MEMORY")
            conn.execute("PRAGMA foreign_keys = ON")
            database = Database(conn)
            _migrate(database)
            key = key or Key.beside(path)
        except sqlite3.DatabaseError as error:
            conn.close()
            raise Refused(f"{show(str(path))} is not a state file of this program: {_cause(error)}") from error
        except BaseException:
            conn.close()
            raise
        store = cls(path, database, key)
        if not store.recall("keys"):
            store.accept_key()
        if store.recall(_PLACE) != (place := _place(path)):
            store.remember(_PLACE, place)
        return store

    def close(self) -> None:
        self._conn.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # IMMEDIATE waits for other processes' turns; a transaction that begins by reading and then writes would fail at
        # once if another had written in between.
        self._conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._conn.rollback()
            raise
        self._conn.execute("COMMIT")

    def _together(self, sql: str, rows: Iterable[tuple[object, ...]], *after: object) -> None:
        """Executes it for many rows at a time, which are its {rows}; what follows them in it has the values `after`."""
        for group in batched(rows, GROUP):
            row = f"({', '.join('?' * len(group[0]))})"
            left = group
            while left:
                # A rest goes by powers of two: Python keeps the last 128 statements, and those of so many rows hold 85 MB.
                count = GROUP if len(left) == GROUP else 1 << (len(left).bit_length() - 1)
                values = chain.from_iterable(left[:count])
                self._conn.execute(sql.format(rows=", ".join([row] * count)), (*values, *after))
                left = left[count:]

    # -- buckets and metadata

    def buckets(self) -> list[str]:
        return [r[0] for r in self._conn.execute("SELECT bucket FROM bucket_status ORDER BY bucket")]

    def bucket(self, bucket: str) -> BucketRow | None:
        r = self._conn.execute("SELECT * FROM bucket_status WHERE bucket = ?", (bucket,)).fetchone()
        if r is None:
            return None
        return BucketRow(
            bucket=r["bucket"],
            phase=Phase(r["phase"]),
            account=r["account"],
            region=r["region"],
            endpoint=r["endpoint"],
            versioning=r["versioning"],
            uploads=r["uploads"],
            scan=r["scan"],
            scan_complete=bool(r["scan_complete"]),
            scan_key_marker=r["scan_key_marker"],
            scan_version_marker=r["scan_version_marker"],
            scanned_at=r["scanned_at"] or "",
            base_id=r["base_id"] or "",
            fetched_bytes=r["fetched_bytes"],
            fetch_seconds=r["fetch_seconds"],
            session=r["session"] or "",
            session_bytes=r["session_bytes"],
            session_seconds=r["session_seconds"],
            created_at=r["created_at"],
            completed_at=r["completed_at"] or "",
            restores_seen_at=r["restores_seen_at"] or "",
            unlisted=r["unlisted"],
            unconfirmed=r["unconfirmed"],
            accepted_scan=r["accepted_scan"],
            known_rows=r["known_rows"],
            gone_since=r["gone_since"],
            changed_since=r["changed_since"],
        )

    def set_phase(self, bucket: str, phase: Phase) -> None:
        with self._writing():
            self._conn.execute(
                "UPDATE bucket_status SET phase = :phase, updated_at = :now, completed_at = CASE WHEN :phase = 'complete'"
                " THEN ifnull(completed_at, :now) END WHERE bucket = :bucket",
                {"bucket": bucket, "phase": phase, "now": now()},
            )
            furthest_behind = self._conn.execute("SELECT DISTINCT phase FROM bucket_status").fetchall()
            order = list(Phase)
            self._remember("current_phase", min((r[0] for r in furthest_behind), key=order.index))

    def set_base(self, bucket: str, base_id: str) -> None:
        self._conn.execute("UPDATE bucket_status SET base_id = ? WHERE bucket = ?", (base_id, bucket))

    def remember(self, key: str, value: str, *, once: bool = False) -> None:
        with self._writing():
            self._remember(key, value, once=once)

    def _remember(self, key: str, value: str, *, once: bool = False) -> None:
        conflict = "NOTHING" if once else "UPDATE SET value = excluded.value, updated_at = excluded.updated_at"
        self._conn.execute(
            f"INSERT INTO migration_metadata VALUES (?, ?, ?) ON CONFLICT DO {conflict}",
            (key, value, now()),
        )

    def identity(self) -> str:
        """This state file's own id, made once; a copy of the file has the same."""
        self.remember("state_id", uuid.uuid4().hex, once=True)
        return self.recall("state_id")

    @property
    def rekeyed(self) -> bool:
        """Is the key another one than that which sealed what is in here?"""
        *ids, mac = self.recall("keys").split() or [""]
        return mac != self._key.mac("keys", *ids)

    def accept_key(self) -> None:
        """From now on this key seals; those before it are lost, and what they sealed in the ledger stands by its hashes."""
        if self.rekeyed:
            ids = [*dict.fromkeys([*self.recall("keys").split()[:-1], self._key.id])]
            self.remember("keys", " ".join([*ids, self._key.mac("keys", *ids)]))

    def check_ledger(self, bucket: str) -> int:
        """See Ledger.check(). Refused too where the key is not the one that sealed it."""
        if self.rekeyed:
            raise Refused(
                f"{show(str(self.path))}.key is not the key that sealed what the state file holds; put that one back, or run"
                " `verify`, which reads every copy again and seals what it finds with this one"
            )
        return self.ledger.check(bucket, self.recall("keys").split()[:-1])

    def recall(self, key: str) -> str:
        r = self._conn.execute("SELECT value FROM migration_metadata WHERE key = ?", (key,)).fetchone()
        return r[0] if r else ""

    def tallies(self, bucket: str) -> list[Tally]:
        return [
            Tally(
                FileState(r["state"]),
                r["verdict"],
                bool(r["archived"]),
                r["storage_class"],
                r["cause"],
                r["objects"],
                r["bytes"],
            )
            for r in self._conn.execute("SELECT * FROM tallies WHERE bucket = ? AND objects > 0", (bucket,))
        ]

    def gone(self, bucket: str) -> dict[GoneKind, tuple[int, int]]:
        """(objects, bytes) that are gone from S3, by what is left of them here."""
        found = dict.fromkeys(GoneKind, (0, 0))
        for tally in self.tallies(bucket):
            if kind := gone_kind(tally.state, tally.verdict, tally.cause):
                objects, size = found[kind]
                found[kind] = (objects + tally.objects, size + tally.bytes)
        return found

    def recount(self) -> list[Recount]:
        """Every row counted, beside the counts that are kept; of one moment."""
        counted: dict[tuple[str, str, str, int, str, str], list[int]] = {}
        self._conn.execute("BEGIN")
        try:
            # Counted here: SQLite would sort all rows for a GROUP BY, in memory.
            for *group, size in self._conn.execute(
                "SELECT bucket, state, ifnull(verdict, ''), archived, storage_class, ifnull(cause, ''), size FROM files"
            ):
                amount = counted.setdefault((group[0], group[1], group[2], group[3], group[4], group[5]), [0, 0])
                amount[0] += 1
                amount[1] += size
            kept = {tuple(r)[:6]: (r[6], r[7]) for r in self._conn.execute("SELECT * FROM tallies")}
        finally:
            self._conn.execute("COMMIT")
        return [
            Recount(
                bucket,
                Tally(FileState(state), verdict, bool(archived), storage_class, cause, *counted.get(group, (0, 0))),
                kept.get(group, (0, 0)),
            )
            for group in sorted(counted.keys() | kept.keys())
            for bucket, state, verdict, archived, storage_class, cause in [group]
        ]

    def keep_counted(self) -> None:
        """Puts what counting gives in the place of the counts that are kept."""
        with self._writing():
            self._conn.execute("DELETE FROM tallies")
            self._conn.execute(
                "INSERT INTO tallies SELECT bucket, state, ifnull(verdict, ''), archived, storage_class, ifnull(cause, ''), 1,"
                " size FROM files WHERE true ON CONFLICT DO UPDATE SET objects = objects + 1, bytes = bytes + excluded.bytes"
            )

    def damage(self, *, of_indexes: bool = False) -> str:
        """What SQLite finds wrong with the file itself; "" where it finds nothing. With `of_indexes` they are held to the
        rows: one wrong bit there, and a walk in key order leaves rows out."""
        check = "integrity_check" if of_indexes else "quick_check"
        found = [str(r[0]) for r in self._conn.execute(f"PRAGMA {check}(3)")]
        return "" if found == ["ok"] else "; ".join(found)

    def left_in_s3(self, bucket: str) -> bool:
        """Whether S3 has any of the listed versions, as far as is known."""
        return any(t.state is not FileState.DELETED and t.cause not in GONE_CAUSES for t in self.tallies(bucket))

    def counts(self, bucket: str) -> Counts:
        """What is left to do, by counting; markers are looked for only when everything else is done."""
        held = self.bucket(bucket)
        if held is None or not held.scan_complete:
            return Counts()
        n = dict.fromkeys(
            ("to_request", "restoring", "to_fetch", "to_verify", "fetch_errors", "verify_errors", "verified"), 0
        )
        for tally in self.tallies(bucket):
            if (name := _left_to_do(tally)) is not None:
                n[name] += tally.objects
        if held.versioning == "Suspended" and n["verified"]:
            # Proved, and still not to be deleted: a PUT may reuse the id at any time. They do not hold the bucket back.
            sql = "SELECT count(*) FROM files WHERE bucket = ? AND state = 'verified' AND version_id = 'null' AND NOT is_latest"
            n["verified"] -= self._conn.execute(sql, (bucket,)).fetchone()[0]
        return Counts(scanned=True, markers=int(self._marker_may_go(bucket)), **n)

    def _marker_may_go(self, bucket: str) -> bool:
        return bool(self._conn.execute(f"SELECT EXISTS ({_LOOSE_MARKERS} LIMIT 1)", {"bucket": bucket}).fetchone()[0])

    def marker_count(self, bucket: str) -> int:
        sql = "SELECT count(*) FROM delete_markers WHERE bucket = ? AND state = 'listed'"
        return int(self._conn.execute(sql, (bucket,)).fetchone()[0])

    # -- scan

    def begin_scan(
        self,
        bucket: str,
        *,
        account: str,
        region: str,
        endpoint: str,
        versioning: str,
        uploads: int | None,
        moment: Moment | None = None,
    ) -> BucketRow:
        """Start a new listing of the bucket, or take up an unfinished one where it stopped.

        `moment` is when S3 reported `versioning`. The first one with "Enabled" is kept while it stays so and the machine is
        not restarted.
        """
        with self._writing():
            self._conn.execute(
                "INSERT INTO bucket_status (bucket, created_at, updated_at) VALUES (:bucket, :now, :now)"
                " ON CONFLICT DO NOTHING",
                {"bucket": bucket, "now": now()},
            )
            held = self.bucket(bucket)
            assert held is not None
            if held.scan == 0 or held.scan_complete:
                self._conn.execute(
                    "UPDATE bucket_status SET scan = scan + 1, scan_complete = 0, scan_key_marker = NULL,"
                    " scan_version_marker = NULL WHERE bucket = ?",
                    (bucket,),
                )
            self._conn.execute(
                "UPDATE bucket_status SET account = ?, region = ?, endpoint = ?, versioning = ?, uploads = ?,"
                " updated_at = ? WHERE bucket = ?",
                (account, region, endpoint, versioning, uploads, now(), bucket),
            )
            seen = self.enabled_since(bucket)
            if versioning != "Enabled":
                self._set_enabled_since(bucket, None)
            elif moment is not None and (seen is None or seen.boot != moment.boot):
                self._set_enabled_since(bucket, moment)
            self._remember("started_at", now(), once=True)
            held = self.bucket(bucket)
            assert held is not None
        return held

    def enabled_since(self, bucket: str) -> Moment | None:
        """When versioning was first seen to be Enabled; None where it is not, or nobody looked."""
        sql = "SELECT enabled_date, enabled_boot, enabled_uptime FROM bucket_status WHERE bucket = ?"
        r = self._conn.execute(sql, (bucket,)).fetchone()
        return Moment(_moment(r[0]), r[1], r[2]) if r and r[1] is not None else None

    def null_taken_since_enabled(self, bucket: str) -> bool:
        """Whether the listing shows that a PUT or DELETE took the id `null` after versioning was first seen to be Enabled.

        Then it was not, everywhere and all the time: it was suspended in between, or S3 was still applying the change. That
        first sight is forgotten; the next scan makes a new one.
        """
        seen = self.enabled_since(bucket)
        if seen is None or seen.date is None:
            return False
        # The Date header has whole seconds.
        null = "bucket = :bucket AND version_id = 'null' AND last_modified >= :after"
        sql = (
            f"SELECT EXISTS (SELECT 1 FROM files o WHERE {null} AND {_IN_S3})"
            f" OR EXISTS (SELECT 1 FROM delete_markers WHERE {null} AND state = 'listed')"
        )
        if not self._conn.execute(sql, {"bucket": bucket, "after": _text(seen.date + timedelta(seconds=1))}).fetchone()[
            0
        ]:
            return False
        with self._writing():
            self._set_enabled_since(bucket, None)
        return True

    def _set_enabled_since(self, bucket: str, moment: Moment | None) -> None:
        values = (_text(moment.date), moment.boot, moment.uptime) if moment else (None, None, None)
        self._conn.execute(
            "UPDATE bucket_status SET enabled_date = ?, enabled_boot = ?, enabled_uptime = ? WHERE bucket = ?",
            (*values, bucket),
        )

    def add_listed(
        self,
        bucket: str,
        scan: int,
        versions: Sequence[ObjectVersion],
        markers: Sequence[DeleteMarker],
        next_marker: tuple[str, str] | None,
    ) -> None:
        """One page or several of a listing, and how far it has come, in one transaction."""
        moment = now()
        with self._writing():
            if self.recall(_unmerged(bucket)):
                self._merge_older(bucket, versions)
            if self.holds_only_copies(bucket):
                self._keep_apart(bucket, versions, moment)
            self._keep_overwritten(bucket, versions, moment)
            for silent in (True, False):
                rows = (_listed(version, scan, moment) for version in versions if _silent(version) is silent)
                self._together(_UPSERT.replace("{silent}", str(int(silent))), rows)
            self._conn.executemany(
                "INSERT INTO delete_markers (bucket, key, version_id, is_latest, last_modified, scan)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET is_latest = excluded.is_latest,"
                " last_modified = excluded.last_modified, scan = excluded.scan, state = 'listed', reason = NULL",
                ((bucket, m.key, m.version_id, int(m.is_latest), _text(m.last_modified), scan) for m in markers),
            )
            if next_marker is not None:
                self._conn.execute(
                    "UPDATE bucket_status SET scan_key_marker = ?, scan_version_marker = ?, updated_at = ? WHERE bucket = ?",
                    (*next_marker, moment, bucket),
                )

    def holds_only_copies(self, bucket: str) -> bool:
        """Are there local copies of what S3 does not hold any more: deleted by us, being deleted, or by others?"""
        gone = f"SELECT 1 FROM files o INDEXED BY files_gone WHERE bucket = :bucket AND {_GONE}"
        sql = (
            # By the index on the state: SQLite would walk through the whole bucket, and a scan asks with every page.
            "SELECT EXISTS (SELECT 1 FROM files o INDEXED BY files_state WHERE bucket = :bucket AND state = 'deleted')"
            f" OR EXISTS ({gone} AND state = 'downloaded') OR EXISTS ({gone} AND state = 'error' AND verdict IS NOT NULL)"
            " OR EXISTS (SELECT 1 FROM in_doubt WHERE bucket = :bucket)"
            f" OR EXISTS (SELECT 1 FROM ledger l JOIN files o USING (bucket, key, version_id) WHERE {_LATE}"
            f" AND l.bucket = :bucket AND {_PROVED})"
        )
        return bool(self._conn.execute(sql, {"bucket": bucket}).fetchone()[0])

    def _keep_apart(self, bucket: str, versions: Sequence[ObjectVersion], moment: str) -> None:
        """An object put anew under the identity of one that is gone ("null") gets a row of its own: the local copy of the
        one that is gone is the only copy there is, and its row keeps the claim on its path."""
        for version in versions:
            arguments = {
                "now": moment,
                "bucket": bucket,
                "key": version.key,
                "version": version.version_id,
                "etag": version.etag,
                "size": version.size,
                "modified": _text(version.last_modified),
            }
            named = f"bucket = :bucket AND key = :key AND version_id = :version AND {_ONLY_COPY}"
            same = "etag = :etag AND size = :size AND last_modified = :modified"
            self._conn.execute(
                f"UPDATE files AS o SET version_id = version_id || '+' || state || '-' || :now WHERE {named} AND NOT ({same})",
                arguments,
            )
            # A delete of ours was not answered, and not done when S3 was asked; it may have been carried out since.
            late = f"EXISTS (SELECT 1 FROM ledger l WHERE {_LATE} AND l.bucket = :bucket AND l.key = :key AND l.version_id = :version)"
            self._conn.execute(
                "UPDATE files AS o SET state = 'deleted', version_id = version_id || '+deleted-' || :now"
                f" WHERE bucket = :bucket AND key = :key AND version_id = :version AND {_PROVED} AND {late} AND NOT ({same})",
                arguments,
            )
            # Listed as it was: a delete did not take, or it had vanished and is back.
            self._conn.execute(
                f"UPDATE files AS o SET state = 'downloaded', verdict = NULL, reason = 'listed again', cause = NULL WHERE {named}",
                arguments,
            )

    def _keep_overwritten(self, bucket: str, versions: Sequence[ObjectVersion], moment: str) -> None:
        """A copy whose object was overwritten may be the only copy of what S3 had: its row gets an id of its own, and keeps
        evidence and path. The object that S3 lists gets a row of its own.

        row        | verdict               | becomes
        -----------|-----------------------|-----------------------------------------------------------------
        verified   | match                 | error, superseded, match: an only copy
        downloaded | none                  | downloaded, superseded: its copy is still to be verified
        downloaded | unprovable            | error, superseded, unprovable: an unproved only copy
        error      | unreadable, differs,  | error, superseded, with its verdict: an unproved only copy
                   | unprovable            |
        downloading| none                  | error, vanished: a run that was killed may have fetched the former object and
                   |                       | not recorded it; look_for_gone() finds out, or drops the row
        any other  | any                   | what it was: there is no copy, or the object is deleted already

        A row whose copy contradicted what S3 had then, and that S3 lists as before, is to be verified again.
        """
        kept = (FileState.DOWNLOADING, FileState.DOWNLOADED, FileState.VERIFIED, FileState.ERROR)
        if not any(t.state in kept for t in self.tallies(bucket)):
            return
        listed = [
            (*_identity(version), version.etag, version.size, _text(version.last_modified)) for version in versions
        ]
        n = "WITH n (bucket, key, version_id, etag, size, last_modified) AS (VALUES {rows})"
        differs = "(o.etag IS NOT n.etag OR o.size IS NOT n.size OR o.last_modified IS NOT n.last_modified)"
        # A copy of an older toolkit has a recorded path, and no place until it is adopted.
        named = (
            "o.bucket = n.bucket AND o.key = n.key AND o.version_id = n.version_id"
            " AND (o.place IS NOT NULL OR o.local_path IS NOT NULL)"
        )
        self._together(
            f"{n} UPDATE files AS o SET version_id = o.version_id || '{_FORMER}' || ?, is_latest = 0, cause = 'superseded',"
            " state = CASE WHEN o.state = 'downloaded' AND o.verdict IS NULL THEN 'downloaded' ELSE 'error' END,"
            f" reason = ?, hold = NULL, updated_at = ? FROM n WHERE {named} AND {differs} AND (o.state IN"
            " ('downloaded', 'verified') OR (o.state = 'error' AND o.verdict IN ('unreadable', 'differs', 'unprovable')))"
            f" AND NOT ifnull({_GONE}, 0)",
            listed,
            moment,
            SUPERSEDED,
            moment,
        )
        changes = self._conn.total_changes
        self._together(
            f"{n} UPDATE files AS o SET version_id = o.version_id || '{_FORMER}' || ?, is_latest = 0, state = 'error',"
            f" cause = 'vanished', reason = ?, updated_at = ? FROM n WHERE {named} AND {differs} AND verdict IS NULL"
            " AND o.place IN ('plain', 'side') AND o.state = 'downloading'",
            listed,
            moment,
            VANISHED,
            moment,
        )
        if self._conn.total_changes > changes:
            self._remember(_unchecked_paths(bucket), moment)
        self._together(
            f"{n} UPDATE files AS o SET state = 'downloaded', verdict = NULL, reason = NULL, cause = NULL, updated_at = ?"
            f" FROM n WHERE {named} AND NOT {differs} AND o.state = 'error' AND o.cause = 'changed' AND o.verdict IS NOT NULL",
            listed,
            moment,
        )

    def superseded(self, bucket: str) -> tuple[int, int]:
        """(objects, bytes) of copies whose object was overwritten in S3."""
        found = [tally for tally in self.tallies(bucket) if tally.cause == Cause.SUPERSEDED]
        return sum(tally.objects for tally in found), sum(tally.bytes for tally in found)

    def settle_older(self, bucket: str, scan: int) -> None:
        """Ends the merging of rows of an older toolkit: all that S3 lists has been listed.

        A row that is not listed, of a key that has another object or version now: that object is gone. Its copy may be the
        only one, see steps/adopt.py; without a copy the row is of no use.
        """
        old = f"bucket = ? AND version_id = '{UNKNOWN_VERSION}' AND state <> 'deleted'"
        other = "EXISTS (SELECT 1 FROM files f WHERE f.bucket = files.bucket AND f.key = files.key AND f.scan = ?)"
        with self._writing():
            if self.recall(_unmerged(bucket)):
                self._conn.execute(f"DELETE FROM files WHERE {old} AND local_path IS NULL AND {other}", (bucket, scan))
                self._conn.execute(
                    f"UPDATE files SET cause = 'vanished', reason = ?, updated_at = ? WHERE {old}"
                    f" AND state = 'downloaded' AND {other}",
                    (VANISHED, now(), bucket, scan),
                )
                self._conn.execute("DELETE FROM migration_metadata WHERE key = ?", (_unmerged(bucket),))
                self._remember(_unadopted(bucket), "local copies of the older toolkit wait for a look")

    def count_missing(self, bucket: str, scan: int) -> int:
        """Rows that this listing did not show, of those that S3 is not known to have lost."""
        return int(self._conn.execute(f"SELECT count(*) FROM files o WHERE {_MISSING}", (bucket, scan)).fetchone()[0])

    def missing(self, bucket: str, scan: int) -> Iterator[ObjectVersion]:
        """The rows of count_missing(), in key order."""
        for version, _ in self._versions(bucket, f"scan < ? AND {_IN_S3.replace('o.', 'files.')}", scan):
            yield version

    def some_missing(self, bucket: str, scan: int, count: int) -> list[ObjectVersion]:
        """Some rows of count_missing(), chosen at random."""
        sql = f"SELECT {_LISTED} FROM files o WHERE {_MISSING} ORDER BY random() LIMIT ?"
        return [_version(tuple(r)) for r in self._conn.execute(sql, (bucket, scan, count))]

    def mark_gone(self, bucket: str, versions: Sequence[ObjectVersion]) -> None:
        """S3 does not have these any more. Evidence and copies stay; a copy that was fetched is still to be verified."""
        if not versions:
            return
        moment = now()
        with self._writing():
            self._conn.executemany(
                f"UPDATE files AS o SET {_MARK_GONE}, updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ? AND {_IN_S3}",
                ((VANISHED, moment, *_identity(version)) for version in versions),
            )
            self._remember(_stale_lists(bucket), moment)
            self._remember(_unchecked_paths(bucket), moment)

    def mark_missing_gone(self, bucket: str, scan: int) -> None:
        """As mark_gone(), of all that this listing did not show."""
        moment = now()
        with self._writing():
            self._conn.execute(
                f"UPDATE files AS o SET {_MARK_GONE}, updated_at = ? WHERE {_MISSING}", (VANISHED, moment, bucket, scan)
            )
            self._remember(_stale_lists(bucket), moment)
            self._remember(_unchecked_paths(bucket), moment)

    def may_have_come(self, bucket: str) -> bool:
        """Can there be copies of objects that are gone from S3, of which a killed run did not record that they had come?"""
        return self.recall(_unchecked_paths(bucket)) != ""

    def take_places(self, versions: Iterable[ObjectVersion]) -> None:
        """Nothing has come of these gone_unfetched() versions: their rows claim no path any more.

        A row of the former object of an identity that S3 lists is of no use then, and is dropped.
        """
        nothing = ", ".join(f"{column} = NULL" for column in _CLAIM)
        unfetched = "WHERE bucket = ? AND key = ? AND version_id = ? AND state = 'error' AND cause = 'vanished' AND verdict IS NULL"
        named = [_identity(version) for version in versions]
        with self._writing():
            self._conn.executemany(f"DELETE FROM files {unfetched} AND instr(version_id, '{_FORMER}') > 0", named)
            self._conn.executemany(f"UPDATE files SET {nothing} {unfetched}", named)

    def all_looked_for(self, bucket: str) -> None:
        with self._writing():
            self._conn.execute("DELETE FROM migration_metadata WHERE key = ?", (_unchecked_paths(bucket),))

    def end_scan(self, bucket: str, scan: int, *, unlisted: int = 0, unconfirmed: int = 0) -> None:
        """Closes the listing. So many rows that it did not show are in S3 all the same, or S3 does not say whether they are."""
        moment = now()
        with self._writing():
            if not unlisted and not unconfirmed:  # an incomplete listing says nothing of delete markers either
                self._conn.execute(
                    "DELETE FROM delete_markers WHERE bucket = ? AND scan < ? AND state = 'listed'", (bucket, scan)
                )
            self._conn.execute(
                "UPDATE bucket_status SET scan_complete = 1, scan_key_marker = NULL, scan_version_marker = NULL,"
                " unlisted = :unlisted, unconfirmed = :unconfirmed, gone_since = (SELECT count(*) FROM files o"
                f" INDEXED BY files_gone WHERE o.bucket = :bucket AND {_GONE} AND o.cause = 'vanished'"
                " AND o.scan >= bucket_status.accepted_scan),"
                " scanned_at = :now, updated_at = :now WHERE bucket = :bucket",
                {"bucket": bucket, "unlisted": unlisted, "unconfirmed": unconfirmed, "now": moment},
            )

    def accept_listing(self, bucket: str, *, by_operator: bool = False) -> None:
        """What changed up to the last complete listing is as it should be; from now on changes are counted anew."""
        held = self.bucket(bucket)
        assert held is not None
        with self._writing():
            self._conn.execute(
                "UPDATE bucket_status SET accepted_scan = scan, gone_since = 0, changed_since = 0,"
                f" known_rows = (SELECT ifnull(sum(objects), 0) FROM tallies o WHERE o.bucket = :bucket AND {_IN_S3})"
                " WHERE bucket = :bucket",
                {"bucket": bucket},
            )
            if by_operator:
                figures = {"at": now(), "gone": held.gone_since, "changed": held.changed_since, "of": held.known_rows}
                self._remember(f"accepted changes {bucket}", json.dumps(figures))

    # -- what an older toolkit knew

    def begin_older(self, buckets: Sequence[str], metadata: Iterable[tuple[str, str]]) -> None:
        """Buckets that have to be listed before anything is believed of them, and what else the old file held.

        The file is nobody's yet: until it is closed, nothing of it is safe from a power cut.
        """
        self._conn.execute("PRAGMA synchronous = OFF")
        self._conn.execute("PRAGMA cache_size = -32768")
        with self._writing():
            for bucket in buckets:
                self._conn.execute(
                    "INSERT INTO bucket_status (bucket, created_at, updated_at) VALUES (:bucket, :now, :now)",
                    {"bucket": bucket, "now": now()},
                )
                self._remember(_unmerged(bucket), "rows without a version id wait for a listing")
            for key, value in metadata:
                self._remember(f"older {key}", value)
            if buckets:
                self._remember("current_phase", Phase.SCANNING)

    def add_older(self, rows: Iterable[older.OldRow]) -> None:
        """Rows of which nobody knows the version id.

        `local_path` is set where the older toolkit had a copy: as it wrote it, until the row has a place.
        """
        moment = now()
        with self._writing():
            self._conn.executemany(
                "INSERT INTO files (bucket, key, version_id, is_latest, size, etag, storage_class, last_modified, state,"
                " reason, cause, archived, restore_requested_at, local_path, scan, created_at, updated_at)"
                f" VALUES (?, ?, '{UNKNOWN_VERSION}', 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
                (
                    (
                        r.bucket,
                        r.key,
                        r.size,
                        r.etag,
                        r.storage_class,
                        _text(r.last_modified) or _NO_TIME,
                        r.state,
                        r.reason or None,
                        Cause.OTHER if r.state is FileState.ERROR else None,
                        int(r.storage_class in ARCHIVED_CLASSES and r.state in _NOT_FETCHED),
                        r.restore_requested_at or None,
                        _old_path(r),
                        r.created_at or moment,
                        r.updated_at or moment,
                    )
                    for r in rows
                ),
            )

    def _merge_older(self, bucket: str, versions: Sequence[ObjectVersion]) -> None:
        """Gives rows of an older toolkit the version ids of what S3 lists with their size and ETag.

        old row     | S3 lists                       | the row becomes
        ------------|--------------------------------|----------------------------------------------------
        not deleted | the same size and ETag         | that version, as far as it had come
        not deleted | the same size, old ETag unknown| the current version, as far as it had come
        had a copy  | something else under its key   | gone (settle_older): its copy may be the only one
        had none    | something else under its key   | nothing: settle_older drops it, the listing has what is there
        not deleted | nothing under its key          | gone, once S3 confirms it (mark_gone)
        deleted     | the same size and ETag         | that version, downloaded: the delete left it, or a marker above it
        deleted     | anything else                  | what it was: its local copy may be the only one
        """
        self._conn.executemany(
            f"""UPDATE files SET version_id = :version, etag = :etag, last_modified = :modified, is_latest = :latest,
                reason = CASE WHEN state = 'deleted' THEN 'listed again' ELSE reason END,
                state = CASE WHEN state = 'deleted' THEN 'downloaded' ELSE state END
            WHERE bucket = :bucket AND key = :key AND version_id = '{UNKNOWN_VERSION}' AND size = :size
                AND (etag = :etag OR (etag = '' AND :latest AND state <> 'deleted'))""",
            (
                {
                    "bucket": bucket,
                    "key": v.key,
                    "version": v.version_id,
                    "size": v.size,
                    "etag": v.etag,
                    "modified": _text(v.last_modified),
                    "latest": int(v.is_latest),
                }
                for v in versions
            ),
        )

    def left_to_adopt(self, bucket: str) -> Iterator[Row]:
        """Rows that an older toolkit had a copy of, which has no place yet. Not those of which S3 does not say whether it has
        them: that is asked again by the next listing."""
        return self.rows(
            bucket, f"{_UNADOPTED} AND (+state = 'deleted' OR version_id <> '{UNKNOWN_VERSION}' OR cause = 'vanished')"
        )

    def may_adopt(self, bucket: str) -> bool:
        return bool(self.recall(_unadopted(bucket)))

    def adopted(self, bucket: str) -> None:
        """The copies were looked for; no run looks again, unless one is left that could not be opened or decided about."""
        with self._writing():
            if not self._conn.execute(
                f"SELECT EXISTS (SELECT 1 FROM files WHERE bucket = ? AND {_UNADOPTED})", (bucket,)
            ).fetchone()[0]:
                self._conn.execute("DELETE FROM migration_metadata WHERE key = ?", (_unadopted(bucket),))

    def give_up_copies(self, versions: Iterable[ObjectVersion]) -> None:
        """There is no copy where the older toolkit recorded one.

        S3 has the object: it is fetched. S3 has another one under the key: the row is dropped. S3 has none: the row stays,
        without a copy.
        """
        moment = now()
        gone = f"state <> 'deleted' AND cause IN ({_one_of(GONE_CAUSES)})"
        replaced = f"{gone} AND (version_id = '{UNKNOWN_VERSION}' OR cause = 'superseded')"
        archived = f"storage_class IN ({', '.join(map(repr, ARCHIVED_CLASSES))}) AND ifnull(restore_expiry, '') < ?"
        with self._writing():
            for version in versions:
                named = (moment, *_identity(version))
                self._conn.execute(
                    f"DELETE FROM files WHERE bucket = ? AND key = ? AND version_id = ? AND {replaced} AND EXISTS (SELECT 1"
                    " FROM files f WHERE f.bucket = files.bucket AND f.key = files.key AND f.version_id <> files.version_id)",
                    _identity(version),
                )
                self._conn.execute(
                    "UPDATE files SET state = 'error', verdict = NULL, local_path = NULL, updated_at = ?"
                    f" WHERE bucket = ? AND key = ? AND version_id = ? AND {gone}",
                    named,
                )
                self._conn.execute(
                    "UPDATE files SET local_path = NULL, reason = 'deleted by the older toolkit; no local copy was found',"
                    " updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ? AND state = 'deleted'",
                    named,
                )
                self._conn.execute(
                    f"UPDATE files SET state = 'discovered', local_path = NULL, reason = NULL, archived = {archived},"
                    " updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ? AND state = 'downloaded'",
                    (moment, *named),
                )

    def current(self, bucket: str, key: str) -> ObjectVersion | None:
        """The version of this key that S3 listed as the current one."""
        r = self._conn.execute(
            f"SELECT {_LISTED} FROM files WHERE bucket = ? AND key = ? AND is_latest AND state <> 'deleted'"
            f" AND version_id <> '{UNKNOWN_VERSION}' LIMIT 1",
            (bucket, key),
        ).fetchone()
        return _version(r) if r else None

    # -- copies that are hard links to files of the operator's

    def mark_linked(self, version: ObjectVersion, path: str, source: Path) -> None:
        """To be called before the link is made: a copy that shares its inode is never without the mark."""
        with self._writing():
            self._conn.execute(
                "INSERT OR REPLACE INTO linked_copies VALUES (?, ?, ?, ?)",
                (version.bucket, path, version.key, os.fsencode(source).decode("utf-8", "replace")),
            )

    def linked_copies(self, bucket: str) -> Iterator[LinkedCopy]:
        """A page at a time, so that the caller may remove marks while it reads."""
        path = ""
        sql = (
            "SELECT l.path, l.source, ifnull(f.sha256, '') AS sha256, f.last_modified"
            f" FROM {_LINKED} WHERE l.bucket = ? AND l.path > ? ORDER BY l.path LIMIT {PAGE}"
        )
        while True:
            page = self._conn.execute(sql, (bucket, path)).fetchall()
            for r in page:
                yield LinkedCopy(r["path"], Path(r["source"]), r["sha256"], _moment(r["last_modified"]))
            if len(page) < PAGE:
                return
            path = page[-1]["path"]

    def linked_amount(self, bucket: str) -> tuple[int, int]:
        """How many copies are marked, and the bytes that files of their own would take."""
        sql = f"SELECT count(*), ifnull(sum(f.size), 0) FROM {_LINKED} WHERE l.bucket = ?"
        r = self._conn.execute(sql, (bucket,)).fetchone()
        return int(r[0]), int(r[1])

    def unmark_linked(self, bucket: str, paths: Iterable[str]) -> None:
        """These copies have an inode of their own now: those of objects that S3 has are to be verified again."""
        unread = ", ".join(f"{column} = NULL" for column in ("verdict", "reason", "cause", *_READ))
        with self._writing():
            for path in paths:
                self._conn.execute(
                    f"UPDATE files SET state = 'downloaded', {unread} WHERE bucket = :bucket AND local_path = :path"
                    " AND key = (SELECT key FROM linked_copies WHERE bucket = :bucket AND path = :path)"
                    f" AND state IN ('downloaded', 'verified') AND {_IN_S3.replace('o.', 'files.')}",
                    {"bucket": bucket, "path": path},
                )
                self._conn.execute("DELETE FROM linked_copies WHERE bucket = ? AND path = ?", (bucket, path))

    # -- rows

    def rows(self, bucket: str, where: str, *arguments: object, under: str = "") -> Iterator[Row]:
        """Rows in key order, read a page at a time so that the caller may change rows while it reads.

        `where` is SQL of this module's own making. A "+state" keeps SQLite from sorting: it walks in key order instead.
        `under` is the folder that the keys are in, "" or with a slash at its end; no other rows are touched."""
        yield from (_row(r, self._key) for r in self._walk(_COLUMNS, bucket, where, arguments, under))

    def _versions(self, bucket: str, where: str, *arguments: object) -> Iterator[tuple[ObjectVersion, str]]:
        """As rows(), for steps that need no more than (version, path): in half of the time."""
        for r in self._walk(f"{_LISTED}, local_path", bucket, where, arguments):
            yield _version(r[:11]), r[11] or ""

    def _walk(
        self, columns: str, bucket: str, where: str, arguments: Sequence[object], under: str = ""
    ) -> Iterator[sqlite3.Row]:
        key, version = under, ""
        if under:
            where, arguments = f"{where} AND key < ?", (*arguments, _behind(under))
        sql = (
            f"SELECT {columns} FROM files WHERE bucket = ? AND (key, version_id) > (?, ?) AND {where}"
            f" ORDER BY key, version_id LIMIT {PAGE}"
        )
        while True:
            page = self._conn.execute(sql, (bucket, key, version, *arguments)).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            key, version = page[-1]["key"], page[-1]["version_id"]

    def in_state(self, bucket: str, state: FileState, also: str = "1") -> Iterator[Row]:
        return self.rows(bucket, f"state = '{state.value}' AND {also}")

    def left_to_request(
        self, bucket: str, storage_class: str | None = None, *, failed_in_job: bool = False
    ) -> Iterator[Row]:
        where = "state = 'discovered' AND archived = 1 AND verdict IS NULL"
        if failed_in_job:
            where += " AND cause = 'failed_in_job'"
        if storage_class is None:
            return self.rows(bucket, where)
        return self.rows(bucket, f"{where} AND storage_class = ?", storage_class)

    def asked_for(self, bucket: str) -> Iterator[Row]:
        """Everything that Glacier was asked for and has not brought back."""
        return self.rows(bucket, f"+state IN {_ON_THE_WAY}")

    def outstanding_restores(self) -> int:
        """Over all buckets: the limits of Glacier are an account's."""
        sql = f"SELECT ifnull(sum(objects), 0) FROM tallies WHERE state IN {_ON_THE_WAY}"
        return int(self._conn.execute(sql).fetchone()[0])

    def left_to_fetch(self, bucket: str, place: Place | None = None, *, under: str = "") -> Iterator[Row]:
        placed = f" AND place = '{place.value}'" if place else ""
        return self.rows(
            bucket, f"+state IN ('discovered', 'downloading') AND NOT archived AND verdict IS NULL{placed}", under=under
        )

    def left_to_cut(self, bucket: str) -> Iterator[tuple[str, int]]:
        """(key, size) of all that the CLI can bring, in key order."""
        yield from self._conn.execute(
            "SELECT key, size FROM files WHERE bucket = ? AND +state IN ('discovered', 'downloading') AND NOT archived"
            " AND verdict IS NULL AND place = 'plain' ORDER BY key",
            (bucket,),
        )

    def left_to_pull(self, bucket: str, size: int, *, large: bool) -> Iterator[tuple[ObjectVersion, str]]:
        """(version, path) of what is left to fetch with bytes or a file of its own: of at least `size` bytes, or the rest."""
        return self._versions(
            bucket,
            "+state IN ('discovered', 'downloading') AND NOT archived AND verdict IS NULL AND place IN ('plain', 'side')"
            f" AND size {'>=' if large else '<'} ?",
            size,
        )

    def any_changed(self, bucket: str) -> bool:
        """Are there rows whose object turned out to be another one, or gone, while it was being fetched or checked?"""
        sql = "SELECT EXISTS (SELECT 1 FROM files WHERE bucket = ? AND state = 'error' AND cause = 'changed')"
        return bool(self._conn.execute(sql, (bucket,)).fetchone()[0])

    def any_doubtful(self, bucket: str) -> bool:
        """Are there rows that were found to be gone from S3 by their key alone, where the key may name another version now?

        In a bucket with versions a current `null` version is asked for by its key. A newer version or a delete marker
        above it since the listing answers in its place.
        """
        sql = (
            "SELECT EXISTS (SELECT 1 FROM files o INDEXED BY files_gone JOIN bucket_status b ON b.bucket = o.bucket"
            f" WHERE o.bucket = ? AND {_GONE} AND o.version_id = 'null' AND o.is_latest AND o.scan = b.scan"
            " AND b.versioning <> '')"
        )
        return bool(self._conn.execute(sql, (bucket,)).fetchone()[0])

    def try_again(self, bucket: str) -> int:
        """Puts failed rows back to where they failed; how many.

        What has vanished or changed waits for a new listing, and what is contested for `retry-errors`.
        """
        with self._writing():
            return self._conn.execute(
                "UPDATE files SET state = CASE WHEN place IS NOT NULL AND verdict = 'unreadable' THEN 'downloaded'"
                " ELSE 'discovered' END, verdict = NULL, reason = NULL, cause = NULL, updated_at = ?"
                f" WHERE bucket = ? AND state = 'error' AND ifnull(cause, '') NOT IN ({_one_of((*GONE_CAUSES, Cause.CHANGED, Cause.CONTESTED))})",
                (now(), bucket),
            ).rowcount

    def ask_again(self, bucket: str) -> int:
        """Puts back copies that nothing proved because S3 refused to say what it has; how many. By now it may say it."""
        with self._writing():
            return self._conn.execute(
                "UPDATE files SET verdict = NULL, reason = NULL, cause = NULL, updated_at = ? WHERE bucket = ? AND state = 'downloaded'"
                " AND verdict = 'unprovable' AND cause = 'checksum_denied'",
                (now(), bucket),
            ).rowcount

    def put_back(self, versions: Iterable[ObjectVersion]) -> None:
        """As try_again, of these; their attempts are counted anew."""
        moment = now()
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET state = CASE WHEN place IS NOT NULL AND verdict = 'unreadable' THEN 'downloaded'"
                " ELSE 'discovered' END, verdict = NULL, reason = NULL, cause = NULL, updated_at = ?,"
                f" {', '.join(f'{column} = {zero}' for column, zero in _NO_ATTEMPTS)}"
                " WHERE bucket = ? AND key = ? AND version_id = ? AND state = 'error'"
                # A copy of what was overwritten waits for the listing that tells so.
                " AND NOT (ifnull(cause, '') = 'changed' AND verdict IS NOT NULL)",
                ((moment, *_identity(version)) for version in versions),
            )

    def list_anew(self, bucket: str) -> None:
        """The bucket counts as not listed yet: a new listing from the start comes before anything else."""
        with self._writing():
            self._conn.execute(
                "UPDATE bucket_status SET scan = scan + 1, scan_complete = 0, scan_key_marker = NULL,"
                " scan_version_marker = NULL, updated_at = ? WHERE bucket = ?",
                (now(), bucket),
            )

    # -- diagnose

    def to_measure(self, bucket: str) -> list[ObjectVersion]:
        """A few current objects that a GET can have now: large ones and small ones, of what is left to fetch if there is any."""
        found: dict[tuple[str, str], ObjectVersion] = {}
        for left in ("state IN ('discovered', 'downloading')", "state IN ('downloaded', 'verified')"):
            for order in ("DESC", "ASC"):
                # Of the first so many only: a walk through all of them by size would take minutes.
                sql = (
                    f"SELECT * FROM (SELECT {_COLUMNS} FROM files WHERE bucket = ? AND {left} AND is_latest AND NOT archived"
                    f" AND version_id <> '{UNKNOWN_VERSION}' AND size > 0 LIMIT 20000) ORDER BY size {order} LIMIT 64"
                )
                for r in self._conn.execute(sql, (bucket,)):
                    version = _row(r, self._key).version
                    found[version.key, version.version_id] = version
            if found:
                break
        return list(found.values())

    def left_by_size(self, bucket: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Objects, and bytes, that are still to come, in each class of SIZES."""
        bounds = [0, *SIZES, 1 << 62]
        columns = ", ".join(
            f"ifnull(sum(size >= {low} AND size < {high}), 0), ifnull(sum((size >= {low} AND size < {high}) * size), 0)"
            for low, high in pairwise(bounds)
        )
        states = "('discovered', 'glacier_restore_requested', 'glacier_restoring', 'downloading')"
        sql = f"SELECT {columns} FROM files WHERE bucket = ? AND state IN {states} AND verdict IS NULL"
        figures = tuple(self._conn.execute(sql, (bucket,)).fetchone())
        return figures[::2], figures[1::2]

    # -- reset

    def only_copies(self, bucket: str) -> int:
        """Rows that keep the local copies of what S3 does not hold any more from being written over."""
        sql = f"SELECT count(*) FROM files o WHERE bucket = ? AND {_ONLY_COPY}"
        return int(self._conn.execute(sql, (bucket,)).fetchone()[0])

    def forget(self, bucket: str) -> int:
        """Forgets all but what protects only copies, and the ledger; how many rows stay."""
        with self._writing():
            self._conn.execute(
                f"DELETE FROM files AS o WHERE bucket = ? AND NOT ifnull({_ONLY_COPY}, 0)",
                (bucket,),
            )
            self._conn.execute("DELETE FROM delete_markers WHERE bucket = ? AND state = 'listed'", (bucket,))
            self._conn.execute("DELETE FROM uploads WHERE bucket = ?", (bucket,))
            staying = self.only_copies(bucket)
            if staying or self.ledger.last(bucket)[0]:
                self._conn.execute(
                    "UPDATE bucket_status SET phase = 'scanning', scan = scan + 1, scan_complete = 0,"
                    " scan_key_marker = NULL, scan_version_marker = NULL, scanned_at = NULL, fetched_bytes = 0,"
                    " fetch_seconds = 0, session = NULL, completed_at = NULL, accepted_scan = 0, known_rows = 0, unlisted = 0,"
                    " unconfirmed = 0, updated_at = ? WHERE bucket = ?",
                    (now(), bucket),
                )
            else:
                self._conn.execute("DELETE FROM bucket_status WHERE bucket = ?", (bucket,))
                for key in (_unmerged(bucket), _unadopted(bucket), _stale_lists(bucket), _unchecked_paths(bucket)):
                    self._conn.execute("DELETE FROM migration_metadata WHERE key = ?", (key,))
            self._conn.execute("DELETE FROM tallies WHERE bucket = ? AND objects = 0", (bucket,))
        return staying

    def left_to_verify(self, bucket: str) -> Iterator[Row]:
        return self.in_state(bucket, FileState.DOWNLOADED, "verdict IS NULL AND place IS NOT NULL")

    def with_local_copy(self, bucket: str) -> Iterator[Row]:
        """Every row that claims to have a copy on disk, deleted ones too: there the copy is all there is."""
        return self.rows(
            bucket, f"{_SETTLED.replace('o.state', '+files.state').replace('o.', 'files.')} AND place IS NOT NULL"
        )

    def verified(self, bucket: str) -> Iterator[Row]:
        return self.in_state(bucket, FileState.VERIFIED)

    def every(self, bucket: str) -> Iterator[Row]:
        return self.rows(bucket, "1")

    def in_s3(self, bucket: str) -> Iterator[Row]:
        """Rows of versions that S3 has, as far as is known."""
        return self.rows(bucket, _IN_S3.replace("o.", "files."))

    def versions_of(self, bucket: str, key: str) -> Iterator[Row]:
        """Rows of the versions of one key that S3 has, as far as is known."""
        return self.rows(bucket, f"key = ? AND {_IN_S3.replace('o.', 'files.')}", key)

    def has_other_versions(self, version: ObjectVersion) -> bool:
        """Does S3 have other versions of this key, as far as is known?"""
        sql = (
            f"SELECT EXISTS (SELECT 1 FROM files o WHERE o.bucket = ? AND o.key = ? AND o.version_id <> ? AND {_IN_S3})"
        )
        return bool(self._conn.execute(sql, _identity(version)).fetchone()[0])

    def change(self, changes: Iterable[Change]) -> None:
        moment = now()
        changes = list(changes)
        with self._writing():
            for bucket in {c.version.bucket for c in changes if c.cause is Cause.VANISHED}:
                self._remember(_unchecked_paths(bucket), moment)
            self._conn.executemany(
                "UPDATE files SET state = ?, verdict = ?, reason = ?, cause = ?, updated_at = ?"
                " WHERE bucket = ? AND key = ? AND version_id = ?",
                ((c.state, c.verdict, c.reason or None, c.cause, moment, *_identity(c.version)) for c in changes),
            )

    # -- plan

    def items(self, bucket: str) -> Iterator[Item]:
        """Every row that S3 still holds as far as is known, in key order, a page at a time."""
        key, version = "", ""
        sql = (
            "SELECT key, version_id, size, etag, storage_class, substr(last_modified, 1, 10), is_latest, state,"
            " ifnull(verdict, ''), ifnull(cause, ''), archived, ifnull(place, ''), ifnull(local_path, ''), described"
            f" FROM files o WHERE bucket = ? AND (key, version_id) > (?, ?) AND {_IN_S3.replace('o.state', '+o.state')}"
            f" ORDER BY key, version_id LIMIT {PAGE}"
        )
        while True:
            page = self._conn.execute(sql, (bucket, key, version)).fetchall()
            yield from (Item(*r) for r in page)
            if len(page) < PAGE:
                return
            key, version = page[-1]["key"], page[-1]["version_id"]

    def above_others(self, bucket: str) -> Iterator[str]:
        """Keys of current objects that are a folder to the key of another one, in order: no path can be both."""
        key = ""
        sql = (
            "SELECT DISTINCT key FROM files f WHERE bucket = ? AND key > ? AND is_latest AND +state <> 'deleted'"
            " AND substr(key, -1) <> '/' AND EXISTS (SELECT 1 FROM files o WHERE o.bucket = f.bucket"
            f" AND o.key >= f.key || '/' AND o.key < f.key || '0' AND o.is_latest) ORDER BY key LIMIT {PAGE}"
        )
        while True:
            page = self._conn.execute(sql, (bucket, key)).fetchall()
            yield from (r["key"] for r in page)
            if len(page) < PAGE:
                return
            key = page[-1]["key"]

    def to_come(self, bucket: str, block: int) -> tuple[int, int, int, int]:
        """Of all that is not on the disk as far as is known: objects, bytes, bytes in whole blocks, the largest."""
        sql = (
            "SELECT count(*), ifnull(sum(size), 0), ifnull(sum((size + :block - 1) / :block * :block), 0),"
            " ifnull(max(size), 0) FROM files WHERE bucket = :bucket AND verdict IS NULL AND"
            " state IN ('discovered', 'glacier_restore_requested', 'glacier_restoring', 'downloading')"
        )
        r = self._conn.execute(sql, {"bucket": bucket, "block": block}).fetchone()
        return int(r[0]), int(r[1]), int(r[2]), int(r[3])

    # -- restore

    def restore_asked(
        self, versions: Iterable[ObjectVersion], tier: str, days: int | None = None, *, at_most: int = 1 << 60
    ) -> list[ObjectVersion]:
        """About to be asked for: what of them is marked so that no more than `at_most` are outstanding over all buckets,
        whoever else is asking."""
        moment = now()
        with self._writing():
            marked = list(islice(versions, max(0, at_most - self.outstanding_restores())))
            self._conn.executemany(
                "UPDATE files SET state = 'glacier_restore_requested', restore_requested_at = ?, restore_tier = ?,"
                " restore_days = ?, restore_answer = NULL, restore_job = NULL, restore_expiry = NULL, reason = NULL, cause = NULL,"
                " restore_renewal = NULL, updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                ((moment, tier, days, moment, *_identity(version)) for version in marked),
            )
        return marked

    def asking_again(self, versions: Iterable[ObjectVersion]) -> None:
        """About to be asked for at a faster tier: until S3 has answered nobody knows which it is."""
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET restore_answer = NULL, updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                ((now(), *_identity(version)) for version in versions),
            )

    def restore_answered(self, answers: Iterable[tuple[ObjectVersion, Answer]]) -> None:
        """What came of requests, and what was bought with them."""
        moment = now()
        with self._writing():
            for version, a in answers:
                self._conn.execute(
                    "UPDATE files SET restore_answer = ?, restore_tier = ?, restore_days = ?, restore_job = NULL,"
                    " updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                    (a.word, a.tier, a.days, moment, *_identity(version)),
                )
                if a.word in ("started", "back"):
                    self._bought(version, a.tier, a.days, retrieved=a.word == "started")

    def renewing(self, versions: Iterable[ObjectVersion], days: int | None) -> None:
        """About to be asked to stay so many days longer: until S3 has answered nobody knows whether they do. None: it has,
        and they stay as before."""
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET restore_renewal = ?, updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                ((days, now(), *_identity(version)) for version in versions),
            )

    def in_doubt(self, bucket: str) -> Iterator[Row]:
        """Copies that a process was about to renew, and nobody knows whether it did."""
        return self.rows(
            bucket, "restore_renewal IS NOT NULL AND state IN ('discovered', 'downloading') AND archived = 0"
        )

    def restore_renewed(self, renewed: Iterable[tuple[ObjectVersion, Answer, datetime]]) -> None:
        """Copies that stay until then, now that they were asked for again."""
        moment = now()
        with self._writing():
            for version, a, expiry in renewed:
                self._conn.execute(
                    "UPDATE files SET restore_answer = ?, restore_days = ?, restore_expiry = ?, restore_renewal = NULL,"
                    " updated_at = ?"
                    " WHERE bucket = ? AND key = ? AND version_id = ?",
                    (a.word, a.days, _text(expiry), moment, *_identity(version)),
                )
                self._bought(version, a.tier, a.days, retrieved=False)

    def _bought(self, version: ObjectVersion, tier: str, days: int | None, *, retrieved: bool) -> None:
        size = version.size
        self._conn.execute(
            "INSERT INTO restores VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + 1,"
            " bytes = bytes + excluded.bytes, byte_days = byte_days + excluded.byte_days",
            (version.bucket, version.storage_class, tier, size if retrieved else 0, size * (days or 0)),
        )

    def restore_seen(self, seen: Iterable[tuple[ObjectVersion, bool, datetime | None]]) -> None:
        """(version, is it back, until when): a copy that is back is `discovered` again, now fit to be fetched.

        A request that nobody saw the answer of is known to have arrived now, and counts as paid for.
        """
        moment = now()
        with self._writing():
            for version, back, expiry in seen:
                self._seen_to_stay(version, back, expiry)
                self._conn.execute(
                    "UPDATE files SET state = CASE WHEN :back THEN 'discovered' ELSE 'glacier_restoring' END,"
                    " archived = NOT :back, restore_expiry = :expiry, restore_job = NULL, updated_at = :now"
                    " WHERE bucket = :bucket AND key = :key AND version_id = :version",
                    {"back": int(back), "expiry": _text(expiry), "now": moment, **_named(version)},
                )
                arrived = self._conn.execute(
                    "UPDATE files SET restore_answer = 'started' WHERE bucket = :bucket AND key = :key"
                    " AND version_id = :version AND restore_requested_at IS NOT NULL AND restore_answer IS NULL"
                    " RETURNING restore_tier, restore_days",
                    _named(version),
                ).fetchone()
                if arrived:
                    self._bought(version, arrived[0], arrived[1], retrieved=True)

    def _seen_to_stay(self, version: ObjectVersion, back: bool, expiry: datetime | None) -> None:
        """Did the renewal arrive that nobody saw the answer of? The copy stays longer then, or is on its way once more."""
        held = self._conn.execute(
            "SELECT ifnull(restore_tier, 'Standard'), restore_renewal, restore_expiry FROM files WHERE bucket = ? AND key = ?"
            " AND version_id = ? AND restore_renewal IS NOT NULL",
            _identity(version),
        ).fetchone()
        if held is None:
            return
        longer = expiry is not None and held[2] is not None and expiry > datetime.fromisoformat(held[2])
        self._conn.execute(
            "UPDATE files SET restore_answer = CASE WHEN ? THEN 'started' WHEN ? THEN 'back' ELSE restore_answer END,"
            " restore_renewal = NULL WHERE bucket = ? AND key = ? AND version_id = ?",
            (not back, longer, *_identity(version)),
        )
        if longer or not back:
            self._bought(version, held[0], held[1], retrieved=not back)

    def restore_gone(self, versions: Iterable[ObjectVersion]) -> None:
        """Archived, and no restore under way or at hand: to be asked for (again). What S3 had accepted has expired."""
        moment = now()
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET state = 'discovered', archived = 1, restore_expiry = NULL, restore_job = NULL,"
                " restore_answer = CASE WHEN restore_answer IN ('started', 'back', 'under way', 'expired') THEN 'expired' END,"
                " restore_renewal = NULL,"
                " restore_requested_at = CASE WHEN restore_answer IS NOT NULL THEN restore_requested_at END, updated_at = ?"
                " WHERE bucket = ? AND key = ? AND version_id = ?",
                ((moment, *_identity(version)) for version in versions),
            )

    def unanswered(self, bucket: str) -> Iterator[Row]:
        """Requests that a process was about to send, and nobody knows whether it did; jobs answer for theirs."""
        return self.in_state(
            bucket, FileState.RESTORE_REQUESTED, "restore_answer IS NULL AND restore_job IS NULL AND verdict IS NULL"
        )

    def on_their_way(self, bucket: str) -> Iterator[Row]:
        """What S3 has accepted and not brought back."""
        return self.rows(
            bucket, f"+state IN {_ON_THE_WAY} AND (restore_answer IS NOT NULL OR state = 'glacier_restoring')"
        )

    def slower(self, bucket: str, tiers: Sequence[str]) -> Iterator[Row]:
        """What is still on its way at one of these tiers."""
        marks = ", ".join("?" * len(tiers))
        return self.rows(bucket, f"state = 'glacier_restoring' AND restore_tier IN ({marks})", *tiers)

    def expiring(self, bucket: str, by: float) -> Iterator[Row]:
        """Copies that wait to be fetched and go at this moment or before."""
        where = (
            "state IN ('discovered', 'downloading') AND restore_expiry IS NOT NULL AND archived = 0 AND verdict IS NULL"
        )
        return self.rows(bucket, f"{where} AND restore_expiry <= ?", _text(datetime.fromtimestamp(by, UTC)))

    def restoring(self, bucket: str | None = None) -> list[Restoring]:
        """By class, tier and hour, over all buckets if none is named: some lines, however many rows there are."""
        sql = (
            "SELECT bucket, storage_class, restore_tier, max(restore_requested_at), min(restore_requested_at),"
            f" min(restore_days), count(*), sum(size) FROM files WHERE state IN {_ON_THE_WAY} AND (? IS NULL OR bucket = ?)"
            " GROUP BY 1, 2, 3, substr(restore_requested_at, 1, 13)"
        )
        found = []
        for r in self._conn.execute(sql, (bucket, bucket)):
            at = datetime.fromisoformat(r[3]) if r[3] else datetime.now(UTC)
            until = expires(datetime.fromisoformat(r[4]).timestamp(), r[5]) if r[4] and r[5] else math.inf
            found.append(Restoring(r[0], r[1], r[2] or "Standard", at, until, r[6], r[7]))
        return found

    def restored(self, bucket: str | None = None) -> list[Restored]:
        sql = (
            "SELECT bucket, restore_expiry, count(*), sum(size) FROM files WHERE state IN ('discovered', 'downloading')"
            " AND restore_expiry IS NOT NULL AND archived = 0 AND (? IS NULL OR bucket = ?) GROUP BY 1, 2"
        )
        return [
            Restored(r[0], datetime.fromisoformat(r[1]), r[2], r[3]) for r in self._conn.execute(sql, (bucket, bucket))
        ]

    def lots(self, moment: float) -> list[Lot]:
        """What is on its way or back, over all buckets: one link serves them all."""
        on_their_way = [
            Lot(r.at.timestamp() + expected(r.storage_class, r.tier)[1], r.expires, r.objects, r.bytes)
            for r in self.restoring()
        ]
        return on_their_way + [Lot(moment, r.expiry.timestamp(), r.objects, r.bytes) for r in self.restored()]

    def bought(self, bucket: str) -> list[Bought]:
        sql = "SELECT storage_class, tier, requests, bytes, byte_days FROM restores WHERE bucket = ?"
        return [Bought(*r) for r in self._conn.execute(sql, (bucket,))]

    def fetched_so_far(self) -> tuple[int, float]:
        """(bytes, seconds) of fetching, over all buckets."""
        r = self._conn.execute("SELECT ifnull(sum(fetched_bytes), 0), ifnull(sum(fetch_seconds), 0) FROM bucket_status")
        size, seconds = r.fetchone()
        return int(size), float(seconds)

    def looked_at_restores(self, bucket: str) -> None:
        self._conn.execute("UPDATE bucket_status SET restores_seen_at = ? WHERE bucket = ?", (now(), bucket))

    def in_unknown_tier(self, bucket: str) -> Iterator[Row]:
        """INTELLIGENT_TIERING of which nobody has asked whether it is archived."""
        return self.in_state(
            bucket,
            FileState.DISCOVERED,
            "archived = 0 AND archive_tier IS NULL AND verdict IS NULL AND storage_class = 'INTELLIGENT_TIERING'",
        )

    def tier_seen(self, seen: Iterable[tuple[ObjectVersion, str]]) -> None:
        """(version, archive tier, "" where it is at hand)."""
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET archive_tier = ?, archived = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                ((tier, int(tier != ""), *_identity(version)) for version, tier in seen),
            )

    # -- jobs of S3 Batch Operations

    def add_job(self, job: Job) -> None:
        with self._writing():
            self._conn.execute(
                "INSERT INTO batch_jobs (token, bucket, storage_class, tier, days, versioned, objects, bytes, account, role,"
                " manifest_bucket, report_bucket, created_at) VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?)",
                (
                    *(job.token, job.bucket, job.storage_class, job.tier, job.days, int(job.versioned)),
                    *(job.account, job.role, job.manifest_bucket, job.report_bucket, now()),
                ),
            )

    def give_to_job(self, job: Job, versions: Sequence[ObjectVersion]) -> None:
        moment = now()
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET state = 'glacier_restore_requested', restore_requested_at = ?, restore_tier = ?,"
                " restore_days = ?, restore_answer = NULL, restore_job = ?, restore_expiry = NULL, reason = NULL, cause = NULL,"
                " updated_at = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                ((moment, job.tier, job.days, job.token, moment, *_identity(version)) for version in versions),
            )

    def job_chosen(self, token: str) -> None:
        with self._writing():
            self._conn.execute(
                "UPDATE batch_jobs SET status = 'chosen', (objects, bytes) ="
                " (SELECT count(*), ifnull(sum(size), 0) FROM files WHERE restore_job = :token) WHERE token = :token",
                {"token": token},
            )

    def job_taken(self, token: str, job_id: str) -> None:
        with self._writing():
            self._conn.execute("UPDATE batch_jobs SET job_id = ?, status = 'New' WHERE token = ?", (job_id, token))

    def job_seen(self, token: str, status: str) -> None:
        with self._writing():
            self._conn.execute("UPDATE batch_jobs SET status = ? WHERE token = ?", (status, token))

    def job_reported(self, job: Job, tasks: Iterable[tuple[str, str, str]]) -> int:
        """(key, version id, S3's error code or "") of tasks; how many are to be asked for singly now."""
        failed = 0
        named = "bucket = :bucket AND key = :key AND version_id = :version AND restore_job = :token"
        with self._writing():
            for key, version_id, code in tasks:
                found = self._conn.execute(
                    f"SELECT {_COLUMNS} FROM files WHERE {named}",
                    arguments := {"bucket": job.bucket, "key": key, "version": version_id, "token": job.token},
                ).fetchone()
                if found is None:
                    continue
                word = _REPORTED.get(code)
                if word is None:
                    failed += 1
                    self._conn.execute(
                        "UPDATE files SET state = 'discovered', restore_requested_at = NULL, restore_job = NULL,"
                        f" reason = :reason, cause = 'failed_in_job', updated_at = :now WHERE {named}",
                        {"reason": f"failed in restore job {job.job_id}: {show(code)}", "now": now(), **arguments},
                    )
                    continue
                self._conn.execute(
                    f"UPDATE files SET restore_answer = :word, restore_job = NULL, updated_at = :now WHERE {named}",
                    {"word": word, "now": now(), **arguments},
                )
                if word == "started":
                    self._bought(_row(found, self._key).version, job.tier, job.days, retrieved=True)
        return failed

    def release_job(self, token: str, status: str, reason: str) -> None:
        """The job is over. What it leaves unanswered is asked about, unless S3 never had the job."""
        moment = now()
        with self._writing():
            taken = self._conn.execute("SELECT job_id FROM batch_jobs WHERE token = ?", (token,)).fetchone()[0]
            back = "" if taken else "state = 'discovered', restore_requested_at = NULL, "
            self._conn.execute(
                f"UPDATE files SET {back}restore_job = NULL, updated_at = ? WHERE restore_job = ?", (moment, token)
            )
            self._conn.execute(
                "UPDATE batch_jobs SET status = ?, reason = ?, ended_at = ? WHERE token = ?",
                (status, reason or None, moment, token),
            )

    def of_job(self, token: str, bucket: str) -> Iterator[Row]:
        return self.rows(bucket, "restore_job = ?", token)

    def open_jobs(self, bucket: str) -> list[Job]:
        sql = "SELECT * FROM batch_jobs WHERE bucket = ? AND ended_at IS NULL ORDER BY created_at, token"
        return [_job(r) for r in self._conn.execute(sql, (bucket,))]

    def job(self, token: str) -> Job:
        return _job(self._conn.execute("SELECT * FROM batch_jobs WHERE token = ?", (token,)).fetchone())

    # -- places

    def release_kept(self, bucket: str) -> None:
        """Forgets which versions a setting had kept in S3; the setting is asked again."""
        with self._writing():
            self._conn.execute(
                "UPDATE files SET verdict = NULL, reason = NULL, cause = NULL WHERE bucket = ? AND verdict = 'kept'"
                " AND cause IS NOT 'vanished'",
                (bucket,),
            )

    def keep_noncurrent(self, bucket: str, reason: str) -> None:
        with self._writing():
            self._conn.execute(
                "UPDATE files SET verdict = 'kept', reason = ?, cause = 'noncurrent' WHERE bucket = ? AND NOT is_latest AND verdict IS NULL"
                " AND state IN ('discovered', 'glacier_restore_requested', 'glacier_restoring', 'downloading')",
                (reason, bucket),
            )

    def without_place(self, bucket: str) -> Iterator[ObjectVersion]:
        for version, _ in self._versions(bucket, f"place IS NULL AND +state IN {_TO_COME} AND verdict IS NULL"):
            yield version

    def without_fold(self, bucket: str) -> Iterator[Row]:
        """Rows at a plain path that were placed on a file system that does not fold."""
        return self.rows(bucket, "place IN ('plain', 'folder') AND fold IS NULL")

    def names_object(self, bucket: str, key: str) -> bool:
        """Is this the key of an object?"""
        sql = "SELECT EXISTS (SELECT 1 FROM files WHERE bucket = ? AND key = ?)"
        return bool(self._conn.execute(sql, (bucket, key)).fetchone()[0])

    def give_places(self, places: Iterable[tuple[ObjectVersion, Place, str, str | None]]) -> None:
        """(version, place, path, fold): fold is None where nothing on this file system can contest the path."""
        with self._writing():
            self._together(
                f"WITH n ({_NAME}, place, path, fold) AS (VALUES {{rows}})"
                f" UPDATE files SET place = n.place, local_path = n.path, fold = n.fold FROM n WHERE {_NAMED}",
                ((*_identity(version), *where) for version, *where in places),
            )

    def taken(self, version: ObjectVersion, path: str) -> bool:
        """Does another row of this key hold this path? One that is deleted in S3, whose id was used again, may."""
        sql = (
            "SELECT EXISTS (SELECT 1 FROM files WHERE bucket = ? AND key = ? AND version_id <> ?"
            " AND (local_path = ? OR moving_to = ?))"
        )
        return bool(self._conn.execute(sql, (*_identity(version), path, path)).fetchone()[0])

    # -- copies that get another path

    def to_move(self, bucket: str) -> Iterator[Row]:
        """Rows whose copy lies at the path of the current object, and whose object is not the current one."""
        return self.rows(
            bucket,
            "place = 'plain' AND is_latest = 0 AND +state IN ('downloaded', 'verified')"
            f" AND NOT ifnull({_GONE.replace('o.', 'files.')}, 0)",
        )

    def to_set_aside(self, bucket: str, folder: str) -> Iterator[Row]:
        """Rows with a proved copy outside this folder, whose object was overwritten. `folder` ends in a slash."""
        return self.rows(
            bucket,
            "+state = 'error' AND cause = 'superseded' AND +verdict = 'match' AND place IN ('plain', 'side')"
            " AND substr(local_path, 1, ?) <> ?",
            len(folder),
            folder,
        )

    def moving(self, bucket: str) -> list[tuple[Row, str]]:
        """Rows whose copy was about to be renamed, and the new path: it lies at one of the two paths."""
        sql = f"SELECT {_COLUMNS}, moving_to FROM files WHERE bucket = ? AND moving_to IS NOT NULL"
        return [(_row(r[:-1], self._key), r[-1]) for r in self._conn.execute(sql, (bucket,))]

    def begin_moves(self, moves: Iterable[tuple[ObjectVersion, str]]) -> None:
        """(version, new path), before the copies are renamed."""
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET moving_to = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                ((path, *_identity(version)) for version, path in moves),
            )

    def end_moves(self, bucket: str, moves: Iterable[Moved]) -> None:
        """Record where the copies are now, once their names are on the disk."""
        moment = now()
        with self._writing():
            for move in moves:
                named = _identity(move.version)
                where = "WHERE bucket = ? AND key = ? AND version_id = ?"
                r = self._conn.execute(f"SELECT {_COLUMNS} FROM files {where}", named).fetchone()
                columns = self._moved(r, move)
                self._conn.execute(
                    f"UPDATE files SET {''.join(f'{name} = ?, ' for name in columns)} moving_to = NULL, updated_at = ? {where}",
                    (*columns.values(), moment, *named),
                )
            self._remember(_stale_lists(bucket), moment)

    def _moved(self, r: sqlite3.Row, move: Moved) -> dict[str, object]:
        """The columns that change.

        copy    | the row becomes
        --------|----------------------------------------------------------
        stayed  | as it was
        same    | the same with the new path and ctime, and sealed again
        other   | downloaded: what lies at the new path is to be verified
        missing | discovered: the object is to be fetched

        A row whose object is gone from S3 keeps its evidence, whatever lies at the new path: `verify` tells.
        """
        if move.copy is Copy.STAYED:
            return {}
        found: dict[str, object] = {"place": Place.SIDE, "local_path": move.path, "fold": None}
        if r["state"] == FileState.ERROR:
            return {**found, "ctime_ns": move.ctime_ns} if move.copy is Copy.SAME else found
        if move.copy is Copy.MISSING:
            forgotten = ("verdict", "reason", "cause", *_READ, *_CLAIM)
            return {"state": FileState.DISCOVERED, **dict.fromkeys(forgotten)}
        if move.copy is Copy.OTHER:
            return {**found, "state": FileState.DOWNLOADED, **dict.fromkeys(("verdict", "reason", "cause", "mac"))}
        found["ctime_ns"] = move.ctime_ns
        if _row(r, self._key).sealed:
            # In the order of _row().
            sealed = ("bucket", "key", "version_id", "size", "etag", "state", "verdict", "sha256", "evidence")
            origin = _origin(r["evidence_source"], r["evidence_run"])
            file = (r["device"], r["inode"], r["mtime_ns"], move.ctime_ns)
            found["mac"] = self._key.mac(*(r[name] for name in sealed), *origin, *file, r["read_run"], r["verified_at"])
        return found

    def lists_are_stale(self, bucket: str) -> bool:
        """Have copies got other paths, or objects gone from S3, since the lists beside the data were written?"""
        return self.recall(_stale_lists(bucket)) != ""

    def lists_are_current(self, bucket: str) -> None:
        """The lists beside the data were written by the rows as they are."""
        if self.lists_are_stale(bucket):
            with self._writing():
                self._conn.execute("DELETE FROM migration_metadata WHERE key = ?", (_stale_lists(bucket),))

    def contested(self, bucket: str, folds: bool) -> Iterator[Row]:
        """Unfetched versions whose plain path another row contests; found by index probes over the whole bucket.

        this row | another row at a plain path                 | yields
        ---------|---------------------------------------------|-------------------------------
        file     | lies beneath this path, or is its folder     | this one
        file     | has the same path                           | both; a copy already there stays
        folder   | is a file already there at this path        | this one
        any      | is a file already there above this path     | this one (see `buried`)
        """
        name = "fold" if folds else "key"
        path = "files.fold" if folds else "rtrim(files.key, '/')"
        other = (
            "EXISTS (SELECT 1 FROM files o WHERE o.bucket = files.bucket AND o.place IN ('plain', 'folder')"
            " AND NOT (o.key = files.key AND o.version_id = files.version_id)"
        )
        return self.rows(
            bucket,
            f"""+state IN {_TO_COME} AND (
                (place = 'plain' AND {other} AND o.{name} = {path}))
                OR (place = 'plain' AND {other} AND o.{name} >= {path} || '/' AND o.{name} < {path} || '0'))
                OR (place = 'folder' AND {other} AND o.{name} = {path} AND o.place = 'plain' AND {_SETTLED})))""",
        )

    def buried(self, bucket: str, folds: bool, paths: Sequence[str]) -> bool:
        """Is there a file already at one of these paths (folds of paths, where the file system folds)?"""
        marks = ", ".join("?" * len(paths))
        sql = (
            f"SELECT EXISTS (SELECT 1 FROM files o WHERE bucket = ? AND {'fold' if folds else 'key'} IN ({marks})"
            f" AND place = 'plain' AND {_SETTLED})"
        )
        return bool(self._conn.execute(sql, (bucket, *paths)).fetchone()[0])

    # -- fetch

    def start_fetching(self, bucket: str, *, everything: bool = False) -> tuple[int, int]:
        """Hands out what the CLI can bring, or everything that is left; how many objects and bytes that is."""
        where = "bucket = ? AND state IN ('discovered', 'downloading') AND NOT archived AND verdict IS NULL"
        where += "" if everything else " AND place = 'plain'"
        with self._writing():
            self._conn.execute(
                f"UPDATE files SET state = 'downloading' WHERE {where} AND state = 'discovered'", (bucket,)
            )
            r = self._conn.execute(
                f"SELECT count(*), ifnull(sum(size), 0) FROM files WHERE {where}", (bucket,)
            ).fetchone()
        return int(r[0]), int(r[1])

    def left_counts(self, bucket: str) -> tuple[int, int]:
        """(objects, bytes) that are left to fetch and can be."""
        waiting = (FileState.DISCOVERED, FileState.DOWNLOADING)
        left = [t for t in self.tallies(bucket) if t.state in waiting and not t.archived and not t.verdict]
        return sum(tally.objects for tally in left), sum(tally.bytes for tally in left)

    def not_for_the_cli(self, bucket: str, archived_too: bool, longest: int, *, under: str = "") -> Iterator[Row]:
        """Current objects that the CLI must not fetch: fetched before, to be stored elsewhere, kept, or not to be had yet.

        Those too whose key is longer than `longest` bytes.
        """
        archived = " OR archived" if archived_too else ""
        where = (
            f"place = 'side' OR verdict = 'kept'{archived} OR {_fetched(archived_too)} OR length(CAST(key AS BLOB)) > ?"
        )
        return self.rows(bucket, f"is_latest AND ({where})", longest, under=under)

    def count_fetched(self, bucket: str, archived_too: bool, most: int, *, under: str = "") -> int:
        """How many of not_for_the_cli() were fetched before, or failed; counted up to `most`."""
        within = " AND key >= ? AND key < ?" if under else ""
        r = self._conn.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM files WHERE bucket = ? AND is_latest AND {_fetched(archived_too)}{within}"
            " LIMIT ?)",
            (bucket, *((under, _behind(under)) if under else ()), most),
        ).fetchone()
        return int(r[0])

    def awaits(self, bucket: str, key: str, size: int, seconds: int) -> bool:
        """Is an object of this key, size and time (whole seconds since 1970) still to be fetched to a plain path?

        Also where that failed, as long as the next run tries it again.
        """
        failed = f"(state = 'error' AND ifnull(cause, '') NOT IN ({_one_of((*GONE_CAUSES, Cause.CHANGED))}))"
        where = f"key = ? AND size = ? AND place = 'plain' AND (state IN {_TO_COME} OR {failed}) AND verdict IS NULL"
        return any(version.seconds == seconds for version, _ in self._versions(bucket, where, key, size))

    def archived_under(self, bucket: str, folder: str) -> tuple[int, int]:
        """As archived_counts, of one folder."""
        r = self._conn.execute(
            "SELECT ifnull(sum(state = 'downloading' AND NOT archived), 0), ifnull(sum(archived), 0) FROM files"
            f" WHERE bucket = ? AND key >= ? AND key < ? AND storage_class IN {ARCHIVED_CLASSES}",
            (bucket, folder, _behind(folder)),
        ).fetchone()
        return int(r[0]), int(r[1])

    def archived_counts(self, bucket: str) -> tuple[int, int]:
        """(restored and waiting to be fetched, not restored), objects."""
        restored = archived = 0
        for tally in self.tallies(bucket):
            if tally.archived:
                archived += tally.objects
            elif tally.storage_class in ARCHIVED_CLASSES and tally.state is FileState.DOWNLOADING:
                restored += tally.objects
        return restored, archived

    def fetched(self, bucket: str, versions: Sequence[ObjectVersion]) -> None:
        moment = now()
        with self._writing():
            self._together(
                f"WITH n ({_NAME}) AS (VALUES {{rows}}) UPDATE files SET state = 'downloaded', verdict = NULL,"
                f" reason = NULL, cause = NULL, updated_at = ? FROM n WHERE {_NAMED}",
                map(_identity, versions),
                moment,
            )

    def count_attempts(self, failed: Iterable[tuple[ObjectVersion, Attempts]]) -> None:
        """What was fetched of these was wrong; they are still to be fetched."""
        with self._writing():
            self._conn.executemany(
                f"UPDATE files SET {', '.join(f'{name} = ?' for name in _ATTEMPTS)}"
                " WHERE bucket = ? AND key = ? AND version_id = ?",
                (
                    (a.wrong_results, a.same_results, a.last_result, a.losses, *_identity(version))
                    for version, a in failed
                ),
            )

    def gone_unfetched(self, bucket: str) -> Iterator[Row]:
        """Versions with a path that went from S3 before any copy of them was recorded."""
        return self.rows(
            bucket, "cause = 'vanished' AND +state = 'error' AND verdict IS NULL AND local_path IS NOT NULL"
        )

    def fetched_gone(self, bucket: str, versions: Sequence[ObjectVersion]) -> None:
        """Copies of gone_unfetched() versions turned up: they are still to be verified."""
        moment = now()
        with self._writing():
            self._together(
                f"WITH n ({_NAME}) AS (VALUES {{rows}}) UPDATE files SET state = 'downloaded', updated_at = ? FROM n"
                f" WHERE {_NAMED} AND state = 'error' AND cause = 'vanished' AND verdict IS NULL",
                map(_identity, versions),
                moment,
            )
            self._remember(_stale_lists(bucket), moment)

    def add_throughput(self, bucket: str, session: str, received: int, seconds: float) -> None:
        """Bytes that came down in so many seconds of fetching; `session` is this process."""
        with self._writing():
            self._conn.execute(
                "UPDATE bucket_status SET fetched_bytes = fetched_bytes + :bytes, fetch_seconds = fetch_seconds + :seconds,"
                " session_bytes = :bytes + CASE WHEN session = :session THEN session_bytes ELSE 0 END,"
                " session_seconds = :seconds + CASE WHEN session = :session THEN session_seconds ELSE 0 END,"
                " session = :session WHERE bucket = :bucket",
                {"bucket": bucket, "session": session, "bytes": received, "seconds": seconds},
            )

    # -- verify

    def record(self, evidence: Iterable[Evidence], run: str) -> None:
        """The outcome of readings; `run` names the process that read, for a proof is worth no more than its reading."""
        moment = now()
        with self._writing():
            self._together(
                f"WITH n ({_NAME}, {', '.join((*_FOUND, *_ATTEMPTS))}) AS (VALUES {{rows}})"
                f" UPDATE files SET {', '.join(f'{name} = n.{name}' for name in _FOUND)},"
                f" {', '.join(f'{name} = ifnull(n.{name}, files.{name})' for name in _ATTEMPTS)} FROM n WHERE {_NAMED}",
                (self._recorded(e, run, moment) for e in evidence),
            )

    def _recorded(self, e: Evidence, run: str, moment: str) -> tuple[object, ...]:
        i = e.identity
        content = (e.sha256 or None, evidence_text(e.witnesses) if e.witnesses else None)
        origin = (e.source, e.source_run or run) if e.source else (None, None)
        reading = (
            *((_signed(i.device), _signed(i.inode), i.mtime_ns, i.ctime_ns) if i else (None,) * 4),
            run,
            moment,
        )
        # In the order of _row().
        subject = (*_identity(e.version), e.version.size, e.version.etag, e.state, e.verdict)
        mac = self._key.mac(*subject, *content, *_origin(*origin), *reading)
        # Evidence of a copy that is not verified is sealed too, where S3 gave it: it may prove the copy later.
        sealed = e.state is FileState.VERIFIED or (e.state is FileState.DOWNLOADED and e.source is not None)
        outcome = (e.state, e.verdict, e.reason or None, e.cause)
        a = e.attempts
        attempts = (a.wrong_results, a.same_results, a.last_result, a.losses) if a is not None else (None,) * 4
        found = (*content, *origin, *reading, mac if sealed else None)
        return *_identity(e.version), *outcome, *found, moment, *attempts

    # -- hold

    def set_holds(self, bucket: str, holds: Iterable[tuple[ObjectVersion, Kept | None]]) -> None:
        """(version, what keeps S3 from deleting it; None for nothing)."""
        with self._writing():
            self._conn.executemany(
                "UPDATE files SET hold = ?, hold_cause = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                (
                    (kept.text if kept else None, kept.cause if kept else None, *_identity(version))
                    for version, kept in holds
                ),
            )

    def release_holds(self, bucket: str) -> None:
        with self._writing():
            self._conn.execute(
                "UPDATE files SET hold = NULL, hold_cause = NULL WHERE bucket = ? AND hold IS NOT NULL", (bucket,)
            )

    # -- uploads

    def list_uploads(self, bucket: str, uploads: Iterable[Upload]) -> None:
        """In place of those that were listed before."""
        with self._writing():
            self._conn.execute("DELETE FROM uploads WHERE bucket = ?", (bucket,))
            self._conn.executemany(
                "INSERT INTO uploads VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                ((bucket, u.key, u.upload_id, _text(u.initiated)) for u in uploads),
            )

    def uploads(self, bucket: str) -> Iterator[Upload]:
        key, upload = "", ""
        sql = (
            f"SELECT * FROM uploads WHERE bucket = ? AND (key, upload_id) > (?, ?) ORDER BY key, upload_id LIMIT {PAGE}"
        )
        while True:
            page = self._conn.execute(sql, (bucket, key, upload)).fetchall()
            for r in page:
                yield Upload(r["key"], r["upload_id"], datetime.fromisoformat(r["initiated"]))
            if len(page) < PAGE:
                return
            key, upload = page[-1]["key"], page[-1]["upload_id"]

    # -- describe

    def count_to_describe(self, bucket: str, *, full: bool) -> int:
        sql = f"SELECT count(*) FROM files INDEXED BY files_described WHERE bucket = ? AND {_UNDESCRIBED}"
        return sum(int(self._conn.execute(sql, (bucket, depth)).fetchone()[0]) for depth in _shallower(full))

    def left_to_describe(self, bucket: str, *, full: bool) -> Iterator[Row]:
        """Versions with a local copy of which S3 was not asked (so much) yet; costs nothing where none is left."""
        for depth in _shallower(full):
            yield from self.rows(bucket, _UNDESCRIBED, depth)

    def add_metadata(self, described: Iterable[tuple[ObjectVersion, str]], *, full: bool) -> None:
        """(version, JSON document), in place of what was known of them."""
        depth = "full" if full else "head"
        with self._writing():
            for version, document in described:
                self._conn.execute(
                    "INSERT INTO metadata VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET etag = excluded.etag, document = excluded.document",
                    (*_identity(version), version.etag, document),
                )
                self._conn.execute(
                    "UPDATE files SET described = ? WHERE bucket = ? AND key = ? AND version_id = ?",
                    (depth, *_identity(version)),
                )

    def metadata(self, bucket: str) -> Iterator[Description]:
        """In key order, of deleted versions too, read a page at a time."""
        key, version = "", ""
        sql = (
            "SELECT key, version_id, ifnull(local_path, '') AS path, document"
            " FROM metadata JOIN files USING (bucket, key, version_id)"
            f" WHERE bucket = ? AND (key, version_id) > (?, ?) ORDER BY key, version_id LIMIT {PAGE}"
        )
        while True:
            page = self._conn.execute(sql, (bucket, key, version)).fetchall()
            for r in page:
                yield Description(r["key"], r["version_id"], r["path"], r["document"])
            if len(page) < PAGE:
                return
            key, version = page[-1]["key"], page[-1]["version_id"]

    def tagged(self, bucket: str) -> Iterator[tuple[str, str]]:
        """(key, version id) of the versions that have tags by their recorded metadata, in key order."""
        key, version = "", ""
        sql = (
            f"SELECT key, version_id, document FROM metadata WHERE bucket = ? AND (key, version_id) > (?, ?) AND {_TAGGED}"
            f" ORDER BY key, version_id LIMIT {PAGE}"
        )
        while True:
            page = self._conn.execute(sql, (bucket, key, version)).fetchall()
            yield from ((r["key"], r["version_id"]) for r in page if json.loads(r["document"]).get("tags"))
            if len(page) < PAGE:
                return
            key, version = page[-1]["key"], page[-1]["version_id"]

    def recorded_tags(self, versions: Iterable[ObjectVersion]) -> dict[ObjectVersion, object]:
        """The tags in the recorded metadata, by name, or why S3 did not give them; {} where there are none.

        Versions whose metadata was not recorded are left out.
        """
        found: dict[ObjectVersion, object] = {}
        sql = f"SELECT {_TAGGED}, document FROM metadata WHERE bucket = ? AND key = ? AND version_id = ?"
        for version in versions:
            r = self._conn.execute(sql, _identity(version)).fetchone()
            if r is not None:
                found[version] = (r[0] and json.loads(r[1]).get("tags")) or {}
        return found

    def record_tags(self, changed: Iterable[tuple[ObjectVersion, object]]) -> None:
        """(version, tags by name) in place of those that were recorded; the rest of the record stays."""
        named = "bucket = ? AND key = ? AND version_id = ?"
        with self._writing():
            for version, tags in changed:
                r = self._conn.execute(f"SELECT document FROM metadata WHERE {named}", _identity(version)).fetchone()
                if r is not None:
                    document = json.loads(r["document"]) | {"tags": tags, "tags_asked_at": now()}
                    text = json.dumps(document, ensure_ascii=True, sort_keys=True)
                    self._conn.execute(f"UPDATE metadata SET document = ? WHERE {named}", (text, *_identity(version)))

    # -- delete

    def loose_markers(self, bucket: str) -> Iterator[DeleteMarker]:
        """Delete markers with nothing left beneath them: every data version of their key is gone."""
        key, version = "", ""
        while True:
            page = self._conn.execute(
                f"{_LOOSE_MARKERS} AND (m.key, m.version_id) > (:key, :version) ORDER BY m.key, m.version_id LIMIT {PAGE}",
                {"bucket": bucket, "key": key, "version": version},
            ).fetchall()
            for r in page:
                yield _marker(r)
            if len(page) < PAGE:
                return
            key, version = page[-1]["key"], page[-1]["version_id"]

    def listed_markers(self, bucket: str) -> Iterator[DeleteMarker]:
        return self._markers(bucket, "1")

    def markers_of(self, bucket: str, key: str) -> Iterator[DeleteMarker]:
        return self._markers(bucket, "key = ?", key)

    def _markers(self, bucket: str, where: str, *arguments: object) -> Iterator[DeleteMarker]:
        key, version = "", ""
        while True:
            page = self._conn.execute(
                f"SELECT * FROM delete_markers WHERE bucket = ? AND state = 'listed' AND (key, version_id) > (?, ?)"
                f" AND {where} ORDER BY key, version_id LIMIT {PAGE}",
                (bucket, key, version, *arguments),
            ).fetchall()
            for r in page:
                yield _marker(r)
            if len(page) < PAGE:
                return
            key, version = page[-1]["key"], page[-1]["version_id"]

    def concluded(self, bucket: str, settled: Sequence[Settled], *, marked: int = 0) -> None:
        """Closes the intents, and moves the rows that are gone, in one transaction. `marked` as in Ledger.conclude()."""
        tables = {"version": "files", CANARY: "files", "marker": "delete_markers"}
        with self._writing():
            self.ledger.conclude(bucket, settled, marked=marked)
            for intent, outcome, gone in settled:
                d = intent.doomed
                if d.kind == "upload":
                    if gone:
                        sql = "DELETE FROM uploads WHERE bucket = ? AND key = ? AND upload_id = ?"
                        self._conn.execute(sql, (bucket, d.key, d.version_id))
                    continue
                if d.kind == CANARY and not gone:
                    continue
                change = "state = 'deleted'" if gone else "reason = :outcome"
                self._conn.execute(
                    f"UPDATE {tables[d.kind]} SET {change}"
                    " WHERE bucket = :bucket AND key = :key AND version_id = :version",
                    {"bucket": bucket, "key": d.key, "version": d.version_id, "outcome": outcome},
                )

    def new_since(self, bucket: str, moment: str) -> tuple[int, int]:
        """Objects and bytes that a listing showed for the first time, or as other objects than before, since this moment."""
        r = self._conn.execute(
            f"SELECT count(*), ifnull(sum(size), 0) FROM files o WHERE bucket = ? AND updated_at >= ? AND {_IN_S3}"
            f" AND +state IN {_TO_COME}",
            (bucket, moment),
        ).fetchone()
        return int(r[0]), int(r[1])

    def snapshot(self, bucket: str, target: Path) -> None:
        """Writes this bucket's rows to a state file of their own; `target` must not exist."""
        with Store.open(target, self._key, shared=False):  # beside the copies, which may be on a network file system
            pass
        self._conn.execute("ATTACH DATABASE ? AS snapshot", (str(target),))
        try:
            self._conn.execute("PRAGMA snapshot.locking_mode = EXCLUSIVE")
            with self._writing():
                for table in (
                    *("linked_copies", "ledger_anchors"),
                    *("bucket_status", "files", "metadata", "delete_markers", "uploads", "ledger"),
                    *("restores", "batch_jobs"),
                ):
                    order = " ORDER BY seq" if table == "ledger" else ""
                    self._conn.execute(
                        f"INSERT INTO snapshot.{table} SELECT * FROM main.{table} WHERE bucket = ?{order}",
                        (bucket,),
                    )
                self._conn.execute(
                    "INSERT OR REPLACE INTO snapshot.migration_metadata SELECT * FROM main.migration_metadata"
                )
        finally:
            self._conn.execute("DETACH DATABASE snapshot")

    def backup(self, target: Path) -> None:
        """Writes all of it as it is at one moment to `target`, and its key to `target`.key: new files, 0600, on the disk.

        May run while others write to the state file. Refused where one of the files is there already.
        """
        key = target.with_name(target.name + ".key")
        for path in (target, key, *(target.with_name(target.name + end) for end in ("-wal", "-shm", "-journal"))):
            if os.path.lexists(path):
                raise Refused(f"{show(str(path))} is there already and is not overwritten: name another file")
        own_key = self.path.with_name(self.path.name + ".key")
        written: list[tuple[Path, Path]] = []  # fresh file, final name
        try:
            secret = own_key.read_bytes()
            if Key(bytes.fromhex(secret.decode("ascii"))).id != self._key.id:
                raise Failure(f"{show(str(own_key))} was replaced meanwhile: run the same command again")
            for path in (key, target):  # the copy without its key would be a state file whose seals do not hold
                fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
                fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                written.append((fresh, path))
                try:
                    if path is key:
                        os.write(fd, secret)
                    else:
                        self._copy_into(fresh)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            for fresh, path in written:
                _give_name(fresh, path)
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with suppress(OSError):  # network file systems: nothing to flush
                    os.fsync(folder)
            finally:
                os.close(folder)
        except FileExistsError as error:
            raise Refused(
                f"{show(str(target))} was made meanwhile and is not overwritten: name another file"
            ) from error
        except (OSError, ValueError, sqlite3.Error) as error:
            raise Failure(f"cannot write the copy {show(str(target))}: {_cause(error)}") from error
        finally:
            for fresh, _ in written:
                fresh.unlink(missing_ok=True)

    def _copy_into(self, fresh: Path) -> None:
        """All pages, as one read transaction sees them; checked afterwards."""
        # Nobody else has the file, and network file systems may know no locks.
        copy = sqlite3.connect(f"{fresh.as_uri()}?mode=rw&nolock=1", uri=True)
        try:
            copy.execute("PRAGMA journal_mode = OFF")
            self._conn.backup(copy)
        finally:
            copy.close()
        copy = sqlite3.connect(f"{fresh.as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            if (found := copy.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise Failure(f"the copy of {show(str(self.path))} is damaged ({found}): run `check-state`")
        finally:
            copy.close()


# By S3's error code in the report of a job; any other has failed.
_REPORTED = {
    "": "started",
    "RestoreAlreadyInProgress": "under way",
    "ObjectAlreadyInActiveTierError": "active",
    "InvalidObjectState": "active",
}
# Rows that an older toolkit had a copy of: `local_path` is as it recorded it.
_UNADOPTED = (
    "place IS NULL AND sha256 IS NULL AND local_path IS NOT NULL AND (+state IN ('downloaded', 'deleted')"
    " OR (+state = 'error' AND cause = 'vanished'))"
)
# The rows of marked copies; a mark whose row was forgotten has none.
_LINKED = (
    "linked_copies l LEFT JOIN files f ON f.bucket = l.bucket AND f.key = l.key AND f.local_path = l.path"
    " AND f.place IS NOT NULL"
)
_ON_THE_WAY = "('glacier_restore_requested', 'glacier_restoring')"
_TO_COME = "('discovered', 'glacier_restore_requested', 'glacier_restoring', 'downloading')"
# Gone from S3; as the index files_gone has it. A copy that was fetched and not verified keeps its row `downloaded` until
# it has been read.
_GONE = f"o.cause IN ({_one_of(GONE_CAUSES)})"
_IN_S3 = f"o.state <> 'deleted' AND NOT ifnull({_GONE}, 0)"
_MISSING = f"o.bucket = ? AND o.scan < ? AND {_IN_S3}"
# A local copy of a version that S3 does not hold any more; renamed rows ("null+deleted-...") are of these.
_ONLY_COPY = (
    f"(o.state = 'deleted' OR ({_GONE} AND (o.state = 'downloaded' OR (o.state = 'error' AND o.verdict IS NOT NULL))))"
)
# state      | verdict        | place   | becomes
# -----------|----------------|---------|-----------------------------------------------
# verified   | match          | any     | error, match: an only copy
# downloaded | none           | any     | downloaded, none: its copy is still to be verified
# downloaded | unprovable     | any     | error, unprovable: an unproved only copy
# error      | unreadable,    | a place | error, with its verdict: an unproved only copy
#            | differs,       |         |
#            | unprovable     |         |
# any other  | any            | any     | error, none: never fetched
_MARK_GONE = """verdict = CASE WHEN state = 'verified' THEN 'match' WHEN state = 'downloaded' THEN verdict
        WHEN state = 'error' AND place IS NOT NULL AND verdict IN ('unreadable', 'differs', 'unprovable') THEN verdict END,
    state = CASE WHEN state = 'downloaded' AND verdict IS NULL THEN state ELSE 'error' END,
    cause = 'vanished', reason = ?"""
# Outcomes after which a delete may still have been carried out, as the index ledger_late has it; and rows with a proved copy.
_LATE = f"l.outcome = '{STILL_THERE}'"
_PROVED = "o.state IN ('downloaded', 'verified') AND o.sha256 IS NOT NULL"
_SETTLED = f"(o.state IN ('downloaded', 'verified') OR {_ONLY_COPY})"
# Markers with nothing beneath them. The id `null` goes only while versioning pins it.
_LOOSE_MARKERS = f"""SELECT m.* FROM delete_markers m JOIN bucket_status b ON b.bucket = m.bucket
    WHERE m.bucket = :bucket AND m.state = 'listed' AND (m.version_id <> 'null' OR b.versioning = 'Enabled')
    AND NOT EXISTS (SELECT 1 FROM files o WHERE o.bucket = m.bucket AND o.key = m.key AND {_IN_S3})"""


# Whether the document may have tags; the document itself decides.
_TAGGED = 'instr(document, \'"tags": {"\') > 0'


# Between the id of an object that was overwritten under it and the time when that was listed.
_FORMER = "+superseded-"
# What stands for the id of a version until S3 has listed it; no id of S3's has a "+".
UNKNOWN_VERSION = "+unknown"
_NO_TIME = "1970-01-01T00:00:00+00:00"
_NOT_FETCHED = (FileState.DISCOVERED, FileState.RESTORE_REQUESTED, FileState.RESTORING)


def _unmerged(bucket: str) -> str:
    return f"unmerged {bucket}"


def _stale_lists(bucket: str) -> str:
    return f"stale lists {bucket}"


def _unchecked_paths(bucket: str) -> str:
    return f"unchecked paths {bucket}"


def _unadopted(bucket: str) -> str:
    return f"unadopted {bucket}"


# As the index files_described has it, word for word: SQLite uses a partial index for its own condition only.
_UNDESCRIBED = "described = ? AND state IN ('downloaded', 'verified')"


def _shallower(full: bool) -> tuple[str, ...]:
    return ("", "head") if full else ("",)


def _old_path(row: older.OldRow) -> str | None:
    """Where the older toolkit had its copy; where it recorded no path, the usual one; None where it had no copy."""
    if row.state not in (FileState.DOWNLOADED, FileState.DELETED):
        return None
    return row.local_path or f"{row.bucket}/{row.key.lstrip('/')}"


def _fetched(archived_too: bool) -> str:
    """Current objects at plain paths that the CLI would fetch again. Without --force-glacier-transfer it skips two classes."""
    skipped = "" if archived_too else " AND storage_class NOT IN ('GLACIER', 'DEEP_ARCHIVE')"
    return (
        f"(place = 'plain' AND state IN ('downloaded', 'verified', 'error') AND NOT ifnull({_GONE.replace('o.', '')}, 0)"
        f"{skipped})"
    )


def _behind(folder: str) -> str:
    """The first text that comes after all keys in this folder: "0" follows "/"."""
    return folder[:-1] + "0"


def _identity(version: ObjectVersion) -> tuple[str, str, str]:
    return version.bucket, version.key, version.version_id


def _job(r: sqlite3.Row) -> Job:
    return Job(
        token=r["token"],
        bucket=r["bucket"],
        storage_class=r["storage_class"],
        tier=r["tier"],
        days=r["days"],
        versioned=bool(r["versioned"]),
        objects=r["objects"],
        bytes=r["bytes"],
        account=r["account"],
        role=r["role"],
        manifest_bucket=r["manifest_bucket"],
        report_bucket=r["report_bucket"],
        job_id=r["job_id"] or "",
        status=r["status"],
    )


def _named(version: ObjectVersion) -> dict[str, str]:
    return {"bucket": version.bucket, "key": version.key, "version": version.version_id}


def _marker(r: sqlite3.Row) -> DeleteMarker:
    return DeleteMarker(
        r["bucket"], r["key"], r["version_id"], bool(r["is_latest"]), datetime.fromisoformat(r["last_modified"])
    )


def _left_to_do(tally: Tally) -> str | None:
    """Which of the counts a group of rows belongs to, if any."""
    match tally.state, tally.verdict:
        case FileState.DISCOVERED, "":
            return "to_request" if tally.archived else "to_fetch"
        case FileState.DOWNLOADING, "":
            return "to_fetch"
        case ((FileState.RESTORE_REQUESTED | FileState.RESTORING), ""):
            return "restoring"
        case FileState.DOWNLOADED, "":
            return "to_verify"
        case FileState.VERIFIED, _:
            return "verified"
        case FileState.ERROR, _ if gone_kind(tally.state, tally.verdict, tally.cause):
            return None
        case FileState.ERROR, (Verdict.UNREADABLE | Verdict.DIFFERS):
            return "verify_errors"
        case FileState.ERROR, _:
            return "fetch_errors"
        case _:
            return None


def _silent(version: ObjectVersion) -> bool:
    """Does the listing say nothing of its restore?"""
    return version.restore_ongoing is None and version.restore_expiry is None


def _listed(version: ObjectVersion, scan: int, moment: str) -> tuple[object, ...]:
    """A row of _UPSERT."""
    archived = version.storage_class in ARCHIVED_CLASSES and version.restore_expiry is None
    state = FileState.RESTORING if archived and version.restore_ongoing else FileState.DISCOVERED
    return (
        *_identity(version),
        int(version.is_latest),
        version.size,
        version.etag,
        version.storage_class,
        _text(version.last_modified),
        version.checksum_algorithm,
        version.checksum_type,
        state,
        int(archived),
        _text(version.restore_expiry),
        scan,
        moment,
        moment,
    )


def _migrate(database: Database) -> None:
    """Two processes may find the same new file at once: who comes second finds the tables made."""
    for patience in (0.05, 0.5, 2.0, None):
        if not schema.migrations.pending(database):
            return
        try:
            schema.migrations.apply(database)
        except sqlite3.OperationalError:
            if patience is None:
                raise
            time.sleep(patience)


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


# The key in migration_metadata of the inode number of the state file.
_PLACE = "inode"


def _give_name(fresh: Path, path: Path) -> None:
    """FileExistsError where the name is taken."""
    try:
        os.link(fresh, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):  # FAT and FUSE know no links
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        fresh.rename(path)


def _must_be_ours(path: Path) -> None:
    """Refused: a state file, or a journal that SQLite would play back into it, that others can have written."""
    folder = path.parent
    if (mode := folder.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Refused(
            f"everybody may write to {show(str(folder))}, and so put another state file in the place of"
            f" {show(path.name)}; keep it in a folder of your own"
        )
    for suffix in ("", "-wal", "-shm", "-journal"):
        part = path.with_name(path.name + suffix)
        try:
            facts = part.lstat()
        except FileNotFoundError:
            continue
        name = show(str(part))
        if not stat.S_ISREG(facts.st_mode):
            raise Refused(f"{name} is no plain file; move it away and run the same command again")
        if facts.st_uid not in (os.geteuid(), 0):
            raise Refused(f"{name} belongs to another user (uid {facts.st_uid}); a state file has to be your own")
        if stat.S_IMODE(facts.st_mode) & 0o022:
            raise Refused(f"{name} may be written by others; make sure that it is as you left it, and chmod 600 it")


def _place(path: Path) -> str:
    return str(path.stat().st_ino)


def _refuse_copy(conn: sqlite3.Connection, path: Path) -> None:
    """Refused: a state file that knows buckets and was not made here. Whoever puts an object of this name into a bucket
    does not know the number that its copy will get from the file system."""
    try:
        found = conn.execute("SELECT value FROM migration_metadata WHERE key = ?", (_PLACE,)).fetchone()
        if (found and found[0] == _place(path)) or not conn.execute("SELECT 1 FROM bucket_status LIMIT 1").fetchone():
            return
    except sqlite3.OperationalError:
        return  # without these tables it is none, or one that was begun; what comes next says so
    raise Refused(
        f"the state file {show(str(path))} was not made here: it is a copy, or the content of an object. If it is yours, name"
        f" it once: --state={show(path.name)}"
    )


def _refuse_foreign(conn: sqlite3.Connection, path: Path) -> None:
    conn.execute("BEGIN")  # another process may be making the tables of a new file at this moment
    try:
        kind = older.kind(conn, path)
    finally:
        conn.execute("COMMIT")
    if kind == "older":
        raise Refused(
            f"{show(str(path))} is a state file of the older toolkit; `migrate-v2 upgrade-db` makes one of this program out"
            " of it and keeps the old one"
        )
