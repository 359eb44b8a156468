"""Beside the data lies all that was proved of it: a list that `sha256sum -c` checks, the evidence, a summary, and a map
from every odd path back to its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from migrate_v2 import __version__
from migrate_v2.anchor import record
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.store import Store, evidence_document, now
from migrate_v2.events import Event, Noted, Stands
from migrate_v2.keys import CERTIFICATE, SIDE, count_of
from migrate_v2.model import FileState, GoneKind, Place, Row

_PROVED = (FileState.VERIFIED, FileState.DELETED)
_COPIED = (FileState.DOWNLOADED, FileState.VERIFIED, FileState.DELETED)
_CLASSES = ("listed", "verified", "unprovable", "kept", "failed", "deleted", "pending")


def lacks_manifest(bucket: str, disk: Disk) -> bool:
    names = ("manifest-sha256.txt", "evidence.jsonl", "summary.json")
    return any(disk.look(f"{SIDE}/{bucket}/{name}") is None for name in names)


def lacks_snapshot(bucket: str, disk: Disk) -> bool:
    return disk.look(f"{SIDE}/{bucket}/state.db") is None


def manifest(bucket: str, store: Store, disk: Disk, stands: Stands) -> Iterator[Event]:
    """Writes all of them anew, each in one go; paths are relative to the base folder, whatever it is called later.

    `stands` is how the bucket stands by the counts of the state file; the summary repeats it.
    """
    listed, mapped = 0, hashlib.sha256()
    kinds: dict[str, dict[str, int]] = {}  # the proved ones by their strongest witness
    with (
        disk.replace_text(f"{SIDE}/{bucket}/manifest-sha256.txt") as sums,
        disk.replace_text(f"{SIDE}/{bucket}/map.jsonl") as places,
        disk.replace_text(f"{SIDE}/{bucket}/evidence.jsonl") as lines,
    ):
        for row in store.every(bucket):
            lines.write(json.dumps(_evidence_of(row), ensure_ascii=True) + "\n")
            if _proved(row) and row.witnesses:
                kind = kinds.setdefault(row.witnesses[0].kind, {"objects": 0, "bytes": 0})
                kind["objects"] += 1
                kind["bytes"] += row.version.size
            if not _has_copy(row):
                continue
            if row.place is Place.SIDE:
                entry = {"path": row.path, "key": row.key, "version_id": row.version.version_id}
                line = json.dumps(entry, ensure_ascii=True) + "\n"
                places.write(line)
                mapped.update(line.encode())
            if row.place is not Place.FOLDER and row.sha256 and _proved(row):
                sums.write(_checksum_line(row.sha256, row.path))
                listed += 1
        if not listed:  # `sha256sum -c` fails for a list of nothing, which is all that there is of an empty bucket
            sums.write(_checksum_line(mapped.hexdigest(), f"{SIDE}/{bucket}/map.jsonl"))
    _summary(bucket, store, disk, stands, kinds)
    yield Noted(bucket, f"{SIDE}/{bucket}/manifest-sha256.txt lists {count_of(listed, 'file')}")


def _has_copy(row: Row) -> bool:
    """As the store's with_local_copy()."""
    left = row.gone not in (None, GoneKind.NEVER_FETCHED)
    return row.place is not None and (row.state in _COPIED or left)


def _proved(row: Row) -> bool:
    return row.state in _PROVED or row.gone is GoneKind.ONLY_COPY


def _evidence_of(row: Row) -> dict[str, object]:
    version = row.version
    return {
        "key": version.key,
        "version_id": version.version_id,
        "path": row.path,
        "place": row.place,
        "size": version.size,
        "etag": version.etag,
        "last_modified": version.last_modified.astimezone(UTC).isoformat(),
        "sha256": row.sha256,
        "state": row.state,
        "verdict": row.verdict,
        "reason": row.reason,
        "cause": row.cause or "",
        "gone": row.gone or "",  # "only_copy": S3 does not have it any more
        "witnesses": evidence_document(row.witnesses),
        "verified_at": _begun(row.read_run) if row.sha256 else "",
    }


@lru_cache(64)  # strptime takes as long as all the rest of a line
def _begun(run: str) -> str:
    """When the run that last read the copy began, from the run's name; "" where the name does not tell."""
    try:
        return datetime.strptime(run.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).isoformat()
    except ValueError:
        return ""


def _summary(bucket: str, store: Store, disk: Disk, stands: Stands, kinds: dict[str, dict[str, int]]) -> None:
    """listed = verified + unprovable + kept + failed + deleted + pending + gone, by objects and by bytes."""
    held = store.bucket(bucket)
    assert held is not None
    amounts = {name: getattr(stands, name) for name in _CLASSES}
    document = {
        "bucket": bucket,
        "account": held.account,
        "endpoint": held.endpoint,
        "region": held.region,
        "versioning": held.versioning,
        "scanned_at": held.scanned_at,
        "written_at": now(),
        "migrate_v2": __version__,
        **{name: {"objects": objects, "bytes": size} for name, (objects, size) in amounts.items()},
        "gone": asdict(stands.gone),
        "evidence": kinds,
        "delete_markers": store.marker_count(bucket),
        "uploads": held.uploads,
    }
    with disk.replace_text(f"{SIDE}/{bucket}/summary.json") as text:
        text.write(json.dumps(document, ensure_ascii=True, indent=2) + "\n")


def proved_by(bucket: str, disk: Disk) -> dict[str, int]:
    """Objects by the strongest witness that proved them, as the summary beside the data has it; empty where there is none."""
    try:
        document = json.loads(disk.read_text(f"{SIDE}/{bucket}/summary.json") or "{}")
        return {str(kind): int(amount["objects"]) for kind, amount in document["evidence"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _checksum_line(sha256: str, path: str) -> str:
    r"""As coreutils write it: a name with a backslash, newline or carriage return is escaped, and its line begins with \."""
    if any(sign in path for sign in "\\\n\r"):
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return f"\\{sha256}  {escaped}\n"
    return f"{sha256}  {path}\n"


def certificate(bucket: str, store: Store, disk: Disk) -> Iterator[Event]:
    """What was agreed to and what was deleted, entry by entry in a chain of hashes (see edges/ledger.py)."""
    entries = 0
    last = store.ledger.last(bucket)
    with disk.replace_text(f"{SIDE}/{bucket}/{CERTIFICATE}") as lines:
        for line in store.ledger.certificate(bucket):
            lines.write(line + "\n")
            entries += 1
    record(bucket, store, disk, last)
    yield Noted(bucket, f"{SIDE}/{bucket}/{CERTIFICATE} certifies what was deleted: {entries:,} entries")


def snapshot(bucket: str, store: Store, disk: Disk) -> Iterator[Event]:
    """A state file of this bucket alone, kept beside its data."""
    folder: Path = disk.base / SIDE / bucket
    fresh = folder / "state.db.new"
    for leftover in (fresh, folder / "state.db.new-wal", folder / "state.db.new-shm"):
        leftover.unlink(missing_ok=True)
    store.snapshot(bucket, fresh)
    fresh.replace(folder / "state.db")
    disk.settle()
    disk.flush([f"{SIDE}/{bucket}/state.db"])
    yield Noted(bucket, f"its part of the state file is kept as {SIDE}/{bucket}/state.db")
