"""Every version that is to be fetched has a path of its own that no other key, version or deleted object's copy claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from migrate_v2 import keys
from migrate_v2.edges.disk import Disk, Obstacle
from migrate_v2.edges.store import Copy, Moved, Store
from migrate_v2.errors import Refused
from migrate_v2.events import Event, Noted
from migrate_v2.flow import batched
from migrate_v2.keys import are, count_of
from migrate_v2.layout import claim, free_side_path, path_room, place_of, side_place
from migrate_v2.model import NONCURRENT, FileState, Place, Row


def choose(bucket: str, store: Store, *, noncurrent: str) -> None:
    """Old versions are fetched or stay in S3, by the setting as it is now; to be asked before any restore is paid for."""
    store.release_kept(bucket)
    if noncurrent == "keep":
        store.keep_noncurrent(bucket, NONCURRENT.text)


def place(bucket: str, store: Store, disk: Disk, *, rows_per_commit: int) -> Iterator[Event]:
    """Decides for each row without a place; Refused where the destination is not the one that the rows know."""
    claim(bucket, store, disk)
    yield from finish_moves(bucket, store, disk)
    yield from _move_former(bucket, store, disk, rows_per_commit)
    system = disk.filesystem()
    folds = system.folds_case or system.normalises
    if folds:
        _fold(bucket, store, system, rows_per_commit)
    room = path_room(bucket, disk, system)
    aside = 0
    for versions in batched(store.without_place(bucket), rows_per_commit):
        places = [place_of(version, store, system, room, folds) for version in versions]
        aside += sum(where is Place.SIDE for _, where, _, _ in places)
        store.give_places(places)
    settled = store.holds_only_copies(bucket) or any(
        t.state in (FileState.DOWNLOADED, FileState.VERIFIED) for t in store.tallies(bucket)
    )
    for rows in batched(_yielding(bucket, store, system, folds, settled), rows_per_commit):
        aside += len(rows)
        store.give_places([side_place(row.version, store) for row in rows])
    if aside:
        yield Noted(
            bucket,
            f"to {keys.SIDE}/{bucket}/: {count_of(aside, 'version')} that {are(aside)} old, or whose keys no path can hold",
        )


def finish_moves(bucket: str, store: Store, disk: Disk) -> Iterator[Event]:
    """Finish what an interrupted run was about to rename: the copy is at its old or at its new path."""
    if moves := store.moving(bucket):
        yield from _rename(bucket, store, disk, moves)


def _move_former(bucket: str, store: Store, disk: Disk, rows_per_commit: int) -> Iterator[Event]:
    """Rename copies of versions that are not current any more, and of objects that were overwritten.

    They lie at the path that the current object of their key wants.
    """
    folder = f"{keys.SIDE}/{bucket}/{keys.SUPERSEDED}/"
    for rows, into in ((store.to_move(bucket), keys.OBJECTS), (store.to_set_aside(bucket, folder), keys.SUPERSEDED)):
        for some in batched(rows, rows_per_commit):
            moves = []
            for row in some:
                path = free_side_path(row.version, store, into)
                # Where something is in the way the copy stays, and the current version gets a side path.
                with suppress(Obstacle):
                    disk.quarantine(path, bucket)  # no row claims it
                    moves.append((row, path))
            store.begin_moves((row.version, path) for row, path in moves)
            yield from _rename(bucket, store, disk, moves)


def _rename(bucket: str, store: Store, disk: Disk, moves: Sequence[tuple[Row, str]]) -> Iterator[Event]:
    """Rename copies whose new paths are in their rows already, and put the new paths in the place of the old ones."""
    done = [_renamed(row, path, disk) for row, path in moves]
    renamed = [both for both, move in zip(moves, done, strict=True) if move.copy is not Copy.STAYED]
    disk.flush_folders(path for row, new in renamed for path in (row.path, new))
    store.end_moves(bucket, done)
    count = sum(move.copy in (Copy.SAME, Copy.OTHER) for move in done)
    if count:
        yield Noted(bucket, f"renamed local copies of former versions below {keys.SIDE}/{bucket}/: {count:,}")


def _renamed(row: Row, path: str, disk: Disk) -> Moved:
    """Rename one copy, never over another file.

    at the old path   | at the new path | then
    ------------------|-----------------|----------------------------------------------------------------
    nothing           | nothing         | missing
    nothing           | a file          | it is the copy: a run was killed after it had renamed it
    the recorded file | a file          | that file goes to quarantine, and the copy is renamed
    another file      | a file          | as if nothing were at the old path
    a file            | nothing         | it is renamed
    no regular file   | any             | nothing is renamed
    any               | no regular file | nothing is renamed
    """
    version = row.version
    try:
        before, there = disk.look(row.path), disk.look(path)
        if there is not None and before is not None and before == row.identity:
            disk.quarantine(path, version.bucket)
        elif there is not None:
            # Whether it was changed in between cannot be seen: a rename moves ctime, too.
            return Moved(version, path, Copy.SAME if row.identity is None else Copy.OTHER)
        after = disk.move(row.path, path)
    except (Obstacle, FileExistsError):
        return Moved(version, path, Copy.STAYED)
    if before is None or after is None:
        return Moved(version, path, Copy.MISSING)
    if row.identity is None:
        return Moved(version, path, Copy.SAME)
    same = before == row.identity and replace(after, ctime_ns=before.ctime_ns) == before
    return Moved(version, path, Copy.SAME, after.ctime_ns) if same else Moved(version, path, Copy.OTHER)


def _fold(bucket: str, store: Store, system: keys.FileSystem, rows_per_commit: int) -> None:
    """On a file system that folds, every plain path is compared by its fold, also if it was given out on another one."""
    for rows in batched(store.without_fold(bucket), rows_per_commit):
        store.give_places([(r.version, r.place, r.path, keys.fold(r.key, system)) for r in rows if r.place is not None])
    twins = [name for name in store.buckets() if name != bucket and name.casefold() == bucket.casefold()]
    if twins:
        raise Refused(f"{bucket} and {twins[0]} would share a folder on this file system; give one another --dest")


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
