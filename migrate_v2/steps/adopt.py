"""Local copies that an older toolkit made are taken over without a download; nothing is believed of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from migrate_v2 import keys
from migrate_v2.edges.disk import Changed, Disk, Obstacle, Root, Source
from migrate_v2.edges.store import Change, LinkedCopy, Store
from migrate_v2.errors import Cause
from migrate_v2.events import Event, Noted, Warned
from migrate_v2.flow import batched
from migrate_v2.keys import are, count_of, show
from migrate_v2.layout import Placed, claim, path_room, place_of, side_place
from migrate_v2.model import GONE_CAUSES, VANISHED, Adopt, FileIdentity, FileState, Place, Row, Verdict, bounded_mtime

NOT_ADOPTED = "not-adopted.jsonl"  # in a folder of keys.SIDE: copies that lie where nothing is opened


class _Outcome(Enum):
    ADOPTED = "adopted"
    MISSING = "missing"
    CLOSED = "closed"  # the recorded path is outside of all roots, or has `..` in it: not opened


def adopt(
    bucket: str,
    store: Store,
    disk: Disk,
    roots: Sequence[Path],
    *,
    relative_to: Path | None = None,
    how: Adopt = Adopt.REFLINK,
    rows_per_commit: int,
) -> Iterator[Event]:
    """Give the copies of an older toolkit their place; what is not found is fetched again, if S3 has it.

    A copy is looked for at its place, where the older toolkit recorded it, and at `<base>/<bucket>/<key>`. Recorded paths
    are opened below the destination and `roots` only, relative ones below `relative_to` too; others are listed in
    NOT_ADOPTED. A copy of an object that S3 does not have any more is taken whatever its size: it may be the only one.
    """
    claim(bucket, store, disk)
    with ExitStack() as open_roots, ExitStack() as listing:
        places = _Places(bucket, store, disk)
        search = _Search(bucket, store, disk, how, places, _opened([disk.base, *roots], open_roots), None)
        if relative_to is not None:
            search.working = next(iter(_opened([relative_to], open_roots)), None)
        lines = None
        adopted = size = missing = closed = unproved = 0
        for rows in batched(store.left_to_adopt(bucket), rows_per_commit):
            gone = []
            changes = []
            for row in rows:
                outcome = search.look_for(row)
                if outcome is _Outcome.ADOPTED:
                    adopted += 1
                    size += row.version.size
                    if row.state is FileState.ERROR:  # an earlier run was not allowed to open it
                        changes.append(Change(row.version, FileState.DOWNLOADED, None, VANISHED, Cause.VANISHED))
                    continue
                if outcome is _Outcome.CLOSED:
                    closed += 1
                    if lines is None:
                        lines = listing.enter_context(disk.replace_text(f"{keys.SIDE}/{bucket}/{NOT_ADOPTED}"))
                    lines.write(json.dumps(_entry(row), ensure_ascii=True) + "\n")
                    if not _in_s3(row):
                        unproved += 1
                        changes.append(_unopened(row))
                        continue
                gone.append(row.version)
                missing += _in_s3(row)
            places.commit()
            store.change(changes)
            store.give_up_copies(gone)
    store.adopted(bucket)
    if adopted:
        yield Noted(
            bucket,
            f"{count_of(adopted, 'local copy', 'local copies')} of the older toolkit {are(adopted)} adopted ({size:,} bytes); verify reads them",
        )
    if missing:
        yield Noted(
            bucket,
            f"{count_of(missing, 'local copy', 'local copies')} of the older toolkit {are(missing)} missing, not opened or not of the object's size:"
            " these objects are fetched again",
        )
    if closed:
        only = f"; {unproved:,} of them may be the only copies of objects that S3 does not have" if unproved else ""
        yield Warned(
            bucket,
            f"{closed:,} recorded paths of the older toolkit are outside of the destination and were not opened{only}; they"
            f" are listed in {keys.SIDE}/{bucket}/{NOT_ADOPTED}. To adopt these files, name their folder in the setting"
            " adopt_roots",
        )


def _opened(folders: Sequence[Path], stack: ExitStack) -> list[Root]:
    roots = []
    for folder in dict.fromkeys(folders):
        with suppress(OSError):
            roots.append(Root(folder))
            stack.callback(roots[-1].close)
    return roots


def _in_s3(row: Row) -> bool:
    return row.state is FileState.DOWNLOADED and row.cause not in GONE_CAUSES


def _entry(row: Row) -> dict[str, object]:
    version = row.version
    return {
        "key": version.key,
        "size": version.size,
        "etag": version.etag,
        "local_path": row.path,
        "in_s3": _in_s3(row),
    }


def _unopened(row: Row) -> Change:
    """The row keeps the recorded path, and waits for a run whose adopt_roots allow to open it."""
    reason = "its local copy is outside of the folders that may be opened; name its folder in the setting adopt_roots"
    if row.state is FileState.DELETED:
        return Change(row.version, FileState.DELETED, None, reason)
    return Change(row.version, FileState.ERROR, Verdict.UNPROVABLE, reason, Cause.VANISHED)


class _Places:
    """Places that are given out, written together; one by one on a file system where two keys may have one path."""

    def __init__(self, bucket: str, store: Store, disk: Disk) -> None:
        self._store = store
        self._disk = disk
        self._system = disk.filesystem()
        self._room = path_room(bucket, disk, self._system)
        self._folds = self._system.folds_case or self._system.normalises
        self._waiting: list[Placed] = []

    def candidates(self, row: Row) -> list[Placed]:
        """Where the copy may lie, the best place first: an old version stays at the path of its key while nothing wants it."""
        version = row.version
        plain = place_of(version, self._store, self._system, self._room, self._folds)
        if version.is_latest:
            return [plain, side_place(version, self._store)] if plain[1] is Place.PLAIN else [plain]
        where, _ = keys.place(version.key, version.size, self._system, self._room)
        if where is not Place.PLAIN:
            return [plain]
        fold = keys.fold(version.key, self._system) if self._folds else None
        return [(version, Place.PLAIN, keys.plain_path(version.bucket, version.key), fold), plain]

    def free(self, place: Placed) -> bool:
        """Does no other row claim this path?"""
        version, where, path, fold = place
        if fold is not None and where is Place.PLAIN and self._store.buried(version.bucket, True, [fold]):
            return False
        return not self._store.taken(version, path)

    def give(self, place: Placed) -> None:
        self._waiting.append(place)
        if self._folds:
            self.commit()

    def commit(self) -> None:
        if self._waiting:
            self._disk.flush(path for _, _, path, _ in self._waiting)
            self._disk.settle()
            self._store.give_places(self._waiting)
            self._waiting.clear()


@dataclass(slots=True)
class _Search:
    bucket: str
    store: Store
    disk: Disk
    how: Adopt
    places: _Places
    roots: list[Root]  # the destination is the first
    working: Root | None  # where relative paths may begin, too

    def look_for(self, row: Row) -> _Outcome:
        candidates = self.places.candidates(row)
        if candidates[0][1] is Place.FOLDER:
            place = candidates[0]
            if not self.disk.is_folder(place[2]):
                return _Outcome.MISSING
            self.places.give(place)
            return _Outcome.ADOPTED
        places = [place for place in candidates if self.places.free(place)]
        sources, closed = self._sources(row)
        refused: FileIdentity | None = None
        with suppress(Obstacle):
            if self._in_place(row, places, sources):
                return _Outcome.ADOPTED
            refused = self.disk.look(places[0][2]) if places else None  # not its copy, under whatever name
        # Not latest: the plain path was for a copy that lies there.
        places = places if row.version.is_latest else places[-1:]
        in_s3 = _in_s3(row)
        places = places[:1] if in_s3 else places
        for exact in (True,) if in_s3 else (True, False):
            for root, path in sources:
                with root.opened(path) as source:
                    if source is None or source.identity == refused:
                        continue
                    if source.identity.size == row.version.size or not exact:
                        for place in places:
                            with suppress(Obstacle):
                                if self._take(row, place, source):
                                    return _Outcome.ADOPTED
        return _Outcome.CLOSED if closed else _Outcome.MISSING

    def _sources(self, row: Row) -> tuple[list[tuple[Root, str]], bool]:
        """Where the copy may be opened, and whether it was recorded where nothing is opened."""
        found: list[tuple[Root, str]] = []
        path = PurePosixPath(row.path)
        beneath = [
            (root, relative)
            for root in (self.roots if path.is_absolute() else [*self.roots, *filter(None, [self.working])])
            if (relative := _below(path, root.path)) is not None
        ]
        found += beneath
        usual = _below(PurePosixPath(self.bucket, row.version.key.lstrip("/")), Path("/"))
        if usual is not None and self._may_be_its_own(row, usual):
            found.append((self.roots[0], usual))
        return list(dict.fromkeys(found)), not beneath

    def _may_be_its_own(self, row: Row, usual: str) -> bool:
        """Not where the path is that of another object, or of another version with a copy of its own."""
        if self.store.taken(row.version, usual):
            return False
        key = usual.removeprefix(f"{self.bucket}/")
        return _in_s3(row) or key == row.version.key or not self.store.names_object(self.bucket, key)

    def _in_place(self, row: Row, places: Sequence[Placed], sources: Sequence[tuple[Root, str]]) -> bool:
        for place in places:
            version, _, path, _ = place
            there = self.disk.look(path)
            if there is None or not self._is_its_copy(row, there):
                continue
            if there.links > 1:
                self._mark_if_linked(row, path, there, sources)
            if _in_s3(row):
                self.disk.make_ours(path, version.mtime)
            self.places.give(place)
            return True
        return False

    def _is_its_copy(self, row: Row, there: FileIdentity) -> bool:
        """A file at the place of this row's copy: is it to be taken for that copy?

        S3 has ...                | size of the file     | taken
        --------------------------|----------------------|------------------------------------------
        this object               | the object's         | yes
        this object               | another              | no
        nothing under the key     | any                  | yes
        another object            | this row's           | yes, unless its time is that of the other object
        another object            | the other object's   | no: the older toolkit fetched that one later
        another object            | neither's            | yes
        """
        size = row.version.size
        if _in_s3(row):
            return there.size == size
        other = self.store.current(self.bucket, row.key)
        if other is None:
            return True
        if there.size != size:
            return there.size != other.size
        return there.size != other.size or there.mtime_ns // 10**9 != other.seconds

    def _mark_if_linked(self, row: Row, path: str, there: FileIdentity, sources: Sequence[tuple[Root, str]]) -> None:
        """A run that was killed has linked it, or the operator has: is the other name the recorded one?"""
        for root, relative in sources:
            with root.opened(relative) as source:
                if source is not None and source.identity == there and source.path != self.disk.base / path:
                    self.store.mark_linked(row.version, path, source.path)
                    return

    def _take(self, row: Row, place: Placed, source: Source) -> bool:
        """Bring a file from elsewhere to its place. Nothing is moved within the destination: it may be another row's copy."""
        version, _, path, _ = place
        if self.disk.look(path) is not None:
            return False
        mtime = version.mtime
        if self.how is Adopt.MOVE and _elsewhere(self.disk, source) and self.disk.move_from(source, path, mtime):
            pass
        elif self.how is not Adopt.REFLINK:
            self.disk.copy_from(source, path, mtime)
        elif not self.disk.clone_from(source, path, mtime):
            self.store.mark_linked(version, path, source.path)
            if not self.disk.link_from(source, path):
                self.store.unmark_linked(self.bucket, [path])
                self.disk.copy_from(source, path, mtime)
        self.places.give(place)
        return True


def _below(path: PurePosixPath, root: Path) -> str | None:
    """The path from `root` on, where it leads below it and nowhere else."""
    if path.is_absolute():
        if not path.is_relative_to(root):
            return None
        path = path.relative_to(root)
    if not path.parts or ".." in path.parts or "\0" in str(path):
        return None
    return str(path)


# -- copies that are hard links


def separate(
    bucket: str, store: Store, disk: Disk, roots: Sequence[Path], *, how: Adopt, said: set[str]
) -> Iterator[Event]:
    """Give copies that are marked as hard links an inode of their own, as far as `how` says so, and look at the others.

    copy is ...                          | reflink | copy                       | move
    -------------------------------------|---------|----------------------------|----------------------------------
    not there                            | the mark is removed, in all three cases
    there, with no other name any more   | the mark is removed, and it is verified again, in all three cases
    there, its other name below a root   | stays   | copied, and verified again | the other name is removed
    there, its other name anywhere else  | stays   | copied, and verified again | stays
    """
    objects, size = store.linked_amount(bucket)
    if not objects:
        return
    free = disk.free().bytes
    if how is Adopt.COPY and size > free:
        yield Warned(
            bucket,
            f"{count_of(objects, 'local copy', 'local copies')} {are(objects)} hard-linked, and copies of their own need {size:,} bytes; {free:,} are free: they"
            " stay hard links, and their objects stay in S3",
        )
        how = Adopt.REFLINK
    left = left_bytes = 0
    with ExitStack() as stack:
        opened = _opened(roots, stack) if how is Adopt.MOVE else []
        for copies in batched(store.linked_copies(bucket), 100):
            done = []
            for copy in copies:
                try:
                    if _separated(bucket, copy, disk, opened, how):
                        done.append(copy.path)
                        continue
                except (Obstacle, Changed, FileNotFoundError) as failure:
                    yield Warned(bucket, f"{show(copy.path)} stays a hard link: {failure}")
                left += 1
            store.unmark_linked(bucket, done)
    left, left_bytes = store.linked_amount(bucket)
    if left and f"linked {bucket}" not in said:
        said.add(f"linked {bucket}")
        yield Warned(
            bucket,
            f"{count_of(left, 'local copy', 'local copies')} {are(left)} hard-linked to other files, which can be edited in place; confirm-delete keeps"
            f" their objects. With adopt = copy they need {left_bytes:,} bytes more; with adopt = move the other names go",
        )


def _separated(bucket: str, copy: LinkedCopy, disk: Disk, roots: Sequence[Root], how: Adopt) -> bool:
    there = disk.look(copy.path)
    spare = f"{keys.SIDE}/{bucket}/moved-{hashlib.sha256(os.fsencode(copy.path)).hexdigest()[:32]}"
    mtime = bounded_mtime(int(copy.last_modified.timestamp()) * 10**9) / 1e9 if copy.last_modified else 0.0
    if there is not None and there.links > 1:
        disk.remove_spare(copy.path, spare)  # what a run that was killed has left of a move
        there = disk.look(copy.path)
    if there is None or there.links == 1:
        if there is not None:
            disk.make_ours(copy.path, mtime or there.mtime_ns / 1e9)
        return True
    if how is Adopt.COPY:
        disk.separate(copy.path, mtime or there.mtime_ns / 1e9, copy.sha256)
        return True
    if how is Adopt.MOVE:
        for root in roots:
            relative = _below(PurePosixPath(copy.source), root.path)
            if relative is None:
                continue
            with root.opened(relative) as source:
                if source is not None and source.identity == there and _elsewhere(disk, source):
                    disk.take_name(source, copy.path, spare, mtime or there.mtime_ns / 1e9)
                    disk.flush([copy.path])
                    after = disk.look(copy.path)
                    return after is not None and after.links == 1
    return False


def _elsewhere(disk: Disk, source: Source) -> bool:
    """Not in the destination, where the file may be another object's copy."""
    return not Path(os.path.realpath(source.path)).is_relative_to(os.path.realpath(disk.base))
