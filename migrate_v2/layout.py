"""Where the local copy of a version goes."""

from __future__ import annotations

import os

from migrate_v2 import keys
from migrate_v2.anchor import same_history
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.store import Store
from migrate_v2.model import ObjectVersion, Place

# (version, place, path, fold): as Store.give_places() takes it.
Placed = tuple[ObjectVersion, Place, str, str | None]


def claim(bucket: str, store: Store, disk: Disk) -> None:
    held = store.bucket(bucket)
    assert held is not None
    store.set_base(bucket, disk.claim(held.base_id or None))
    same_history(bucket, store, disk)


def path_room(bucket: str, disk: Disk, system: keys.FileSystem) -> int:
    return system.path_max - len(os.fsencode(disk.base)) - len(bucket) - 2


def place_of(version: ObjectVersion, store: Store, system: keys.FileSystem, room: int, folds: bool) -> Placed:
    if not version.is_latest:
        return side_place(version, store)
    where, _ = keys.place(version.key, version.size, system, room)
    if where is Place.SIDE:
        return side_place(version, store)
    path = keys.plain_path(version.bucket, version.key)
    return version, where, path, keys.fold(version.key, system) if folds else None


def side_place(version: ObjectVersion, store: Store) -> Placed:
    return version, Place.SIDE, free_side_path(version, store, keys.OBJECTS), None


def free_side_path(version: ObjectVersion, store: Store, folder: str) -> str:
    """A path below `.migrate-v2/<bucket>/<folder>/` that no other row of this key has."""
    path = keys.side_path(version.bucket, version.key, version.version_id, folder=folder)
    again = 1
    while store.taken(version, path):  # by the only copy of a deleted object that had this key and id before
        again += 1
        path = keys.side_path(version.bucket, version.key, f"{version.version_id}+{again}", folder=folder)
    return path
