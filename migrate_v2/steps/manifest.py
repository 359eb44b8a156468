"""Beside the data lies a list of it that `sha256sum -c` checks, and a map from every odd path back to its key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from migrate_v2.edges.disk import Disk
from migrate_v2.edges.store import Store
from migrate_v2.events import Event, Noted
from migrate_v2.keys import SIDE
from migrate_v2.model import VANISHED, FileState, Place

_PROVED = (FileState.VERIFIED, FileState.DELETED)


def lacks_manifest(bucket: str, disk: Disk) -> bool:
    return disk.look(f"{SIDE}/{bucket}/manifest-sha256.txt") is None


def lacks_snapshot(bucket: str, disk: Disk) -> bool:
    return disk.look(f"{SIDE}/{bucket}/state.db") is None


def manifest(bucket: str, store: Store, disk: Disk) -> Iterator[Event]:
    """Writes both anew, each in one go; paths are relative to the base folder, whatever it is called later."""
    listed = 0
    with (
        disk.replace_text(f"{SIDE}/{bucket}/manifest-sha256.txt") as sums,
        disk.replace_text(f"{SIDE}/{bucket}/map.jsonl") as places,
    ):
        for row in store.with_local_copy(bucket):
            if row.place is Place.SIDE:
                entry = {"path": row.path, "key": row.key, "version_id": row.version.version_id}
                places.write(json.dumps(entry, ensure_ascii=True) + "\n")
            if row.place is not Place.FOLDER and row.sha256 and (row.state in _PROVED or row.reason == VANISHED):
                sums.write(_checksum_line(row.sha256, row.path))
                listed += 1
    yield Noted(bucket, f"{SIDE}/{bucket}/manifest-sha256.txt lists {listed:,} files")


def _checksum_line(sha256: str, path: str) -> str:
    r"""As coreutils write it: a name with a backslash, newline or carriage return is escaped, and its line begins with \."""
    if any(sign in path for sign in "\\\n\r"):
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        return f"\\{sha256}  {escaped}\n"
    return f"{sha256}  {path}\n"


def snapshot(bucket: str, store: Store, disk: Disk) -> Iterator[Event]:
    """A state file of this bucket alone, kept beside its data."""
    folder: Path = disk.base / SIDE / bucket
    fresh = folder / "state.db.new"
    for leftover in (fresh, folder / "state.db.new-wal", folder / "state.db.new-shm"):
        leftover.unlink(missing_ok=True)
    store.snapshot(bucket, fresh)
    fresh.replace(folder / "state.db")
    disk.settle()
    yield Noted(bucket, f"its part of the state file is kept as {SIDE}/{bucket}/state.db")
