"""Every version that is to be fetched has a path of its own that no other key, version or deleted object's copy claims."""

from __future__ import annotations

import os
from collections.abc import Iterator

from migrate_v2 import keys
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.store import Store
from migrate_v2.events import Event, Noted
from migrate_v2.flow import batched
from migrate_v2.model import FileState, ObjectVersion, Place, Row

NONCURRENT = "an old version, and the setting noncurrent is keep"


def place(bucket: str, store: Store, disk: Disk, *, noncurrent: str, rows_per_commit: int) -> Iterator[Event]:
    """Decides for each row without a place; Refused where the destination is not the one that the rows know."""
    held = store.bucket(bucket)
    assert held is not None
    store.set_base(bucket, disk.claim(held.base_id or None))
    store.release_kept(bucket)
    if noncurrent == "keep":
        store.keep_noncurrent(bucket, NONCURRENT)
    system = disk.filesystem()
    folds = system.folds_case or system.normalises
    room = system.path_max - len(os.fsencode(disk.base)) - len(bucket) - 2
    aside = 0
    for rows in batched(store.without_place(bucket), rows_per_commit):
        places = [_place(row.version, system, room, folds) for row in rows]
        aside += sum(where is Place.SIDE for _, where, _, _ in places)
        store.give_places(places)
    settled = any(
        t.state in (FileState.DOWNLOADED, FileState.VERIFIED, FileState.DELETED) for t in store.tallies(bucket)
    )
    for rows in batched(_yielding(bucket, store, system, folds, settled), rows_per_commit):
        aside += len(rows)
        store.give_places([_aside(row.version) for row in rows])
    if aside:
        yield Noted(bucket, f"{aside:,} versions go to {keys.SIDE}/{bucket}/: old ones, and keys that no path can hold")


def _place(
    version: ObjectVersion, system: keys.FileSystem, room: int, folds: bool
) -> tuple[ObjectVersion, Place, str, str | None]:
    if not version.is_latest:
        return _aside(version)
    where, _ = keys.place(version.key, version.size, system, room)
    if where is Place.SIDE:
        return _aside(version)
    path = keys.plain_path(version.bucket, version.key)
    return version, where, path, keys.fold(version.key, system) if folds else None


def _aside(version: ObjectVersion) -> tuple[ObjectVersion, Place, str, str | None]:
    return version, Place.SIDE, keys.side_path(version.bucket, version.key, version.version_id), None


def _yielding(bucket: str, store: Store, system: keys.FileSystem, folds: bool, settled: bool) -> Iterator[Row]:
    """Rows that give up their plain path. Those of `contested` yield at once, so that their partners may stay."""
    yield from store.contested(bucket, folds)
    if not settled:
        return
    # Later arrivals only: a file fetched before may stand where a new key wants a folder.
    for row in store.left_to_fetch(bucket):
        if row.place is Place.SIDE:
            continue
        key = keys.fold(row.key, system) if folds else row.key
        names = key.rstrip("/").split("/")
        above = ["/".join(names[:depth]) for depth in range(1, len(names))]
        if above and store.buried(bucket, folds, above):
            yield row
