"""A state file of the older toolkit becomes one of this program: checked, in one rename, and the old one is kept."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from migrate_v2.edges import older
from migrate_v2.edges.ledger import Key
from migrate_v2.edges.older import Amount, Older
from migrate_v2.edges.s3 import check_bucket_name
from migrate_v2.edges.store import Store
from migrate_v2.errors import BadUsage, Failure, Refused
from migrate_v2.events import Ended, Event, Noted, Progress, Started, Warned
from migrate_v2.flow import batched
from migrate_v2.keys import count_of, show
from migrate_v2.model import FileState

_ITS_FILES = ("", "-wal", "-shm", "-journal", ".key")


def upgrade(source: Path, target: Path, *, roots: Sequence[Path] = (), rows_per_commit: int) -> Iterator[Event]:
    """Makes `target` of `source`; interrupted at any moment, `target` is what it was. The caller holds a lock.

    Warns of recorded copies that are outside of `roots`: `migrate` will not open them.

    target is ...                    | source is ...      | then
    ---------------------------------|--------------------|--------------------------------------------
    not there, or empty              | older              | made
    the source                       | older              | replaced; the old one is `<name>.v1`
    ours                             | itself             | brought up to date, if it is not
    ours, made of this source        | older              | left as it is
    ours, of another origin; or older| another file       | refused
    anything                         | ours, newer, other | refused
    """
    if not source.exists():
        raise Failure(f"there is no file {show(str(source))}")
    if source.is_symlink() or target.is_symlink():
        raise Refused(
            f"{show(str(source if source.is_symlink() else target))} is a symbolic link; name the file it points to"
        )
    itself = target.exists() and target.samefile(source)
    if not older.is_older(source):
        if not itself:
            raise Refused(f"{show(str(source))} is not a state file of the older toolkit: nothing is to be upgraded")
        with Store.open(source):
            pass
        yield Noted("", f"{show(str(source))} is a state file of this version already")
        return
    if not itself and target.exists() and target.stat().st_size:
        if older.is_older(target):
            raise Refused(
                f"{show(str(target))} is a state file of the older toolkit too; name another one with --state"
            )
        with Store.open(target) as store:
            made_of = json.loads(store.recall("upgraded_from") or "{}")
        found = older.origin(source)
        if (made_of.get("size"), made_of.get("mtime_ns")) != (found.size, found.mtime_ns):  # by another name, perhaps
            raise Refused(
                f"{show(str(target))} is there already, and was not made of this file; name another one with --state"
            )
        yield Noted("", f"{show(str(target))} was made of {show(str(source))} already")
        return
    kept = target.with_name(target.name + ".v1")
    if itself:
        if older.unfinished(source):
            raise Refused(
                f"the older toolkit is at work on {show(str(source))}, or was killed at it: stop it, and upgrade to a new"
                f" file: migrate-v2 --state NEW upgrade-db {show(str(source))}"
            )
        if kept.exists() and not kept.samefile(source):
            raise Refused(
                f"{show(str(kept))} is there already, and the old file would be kept under that name; move it away"
            )
    fresh = target.with_name(target.name + ".upgrading")
    _remove(fresh)
    scratch = target.with_name(target.name + ".run") / ".upgrade"
    try:
        with Older.open(source, scratch) as old:
            yield from _fill(old, fresh, target, roots, rows_per_commit)
            old.must_be_unchanged()
        _flush(fresh)
        _name_key(fresh, target)
        if itself:
            _keep(source, kept)
            fresh.replace(target)
        else:
            _install(fresh, target)
        _flush(target.parent)
    finally:
        _remove(fresh)
    where = f"; the old one is kept as {show(str(kept))}" if itself else ""
    yield Noted(
        "", f"{show(str(target))} is made{where}; `migrate-v2 migrate` lists every bucket and takes it from there"
    )


def _fill(old: Older, fresh: Path, target: Path, roots: Sequence[Path], rows_per_commit: int) -> Iterator[Event]:
    expected = old.amounts()
    buckets = old.buckets()
    try:
        for bucket in buckets:
            check_bucket_name(bucket)
    except BadUsage as error:
        raise Refused(f"{show(str(old.path))} names a bucket that cannot be: {error}") from None
    objects = sum(count for count, _ in expected.values())
    size = sum(count for _, count in expected.values())
    began = time.monotonic()
    yield Started("", "upgrade", objects, size)
    done = done_bytes = outside = 0
    above = ""
    with Store.open(fresh, Key.beside(target) if _key_of(target).exists() else None) as store:
        store.begin_older(buckets, old.metadata().items())
        for rows in batched(old.rows(), rows_per_commit):
            store.add_older(rows)
            for row in rows:
                if row.state in (FileState.DOWNLOADED, FileState.DELETED) and _is_outside(row.local_path, roots):
                    folder = str(PurePosixPath(row.local_path).parent)
                    above = os.path.commonpath([above, folder]) if outside else folder
                    outside += 1
            done += len(rows)
            done_bytes += sum(row.size for row in rows)
            yield Progress("", "upgrade", done, done_bytes, objects, size)
        _must_add_up(expected, store)
        store.remember("upgraded_from", json.dumps(asdict(old.origin)))
    yield Ended("", "upgrade", done, done_bytes, time.monotonic() - began)
    states: Counter[FileState] = Counter()
    for (_, state), (count, _) in expected.items():
        states[state] += count
    told = ", ".join(f"{count:,} {state.value}" for state, count in sorted(states.items()))
    if outside:
        yield Warned(
            "",
            f"{outside:,} local copies were recorded outside of the destination and of the old state file's folder, below"
            f" {show(above)}: `migrate` does not open them and fetches the objects again, unless the setting adopt_roots"
            " names their folder",
        )
    yield Noted(
        "", f"{count_of(len(buckets), 'bucket')}; what was verified counts as downloaded now: {told or 'no objects'}"
    )


def _is_outside(path: str, roots: Sequence[Path]) -> bool:
    pure = PurePosixPath(path)
    return pure.is_absolute() and (".." in pure.parts or not any(pure.is_relative_to(root) for root in roots))


def _must_add_up(expected: Mapping[tuple[str, FileState], Amount], store: Store) -> None:
    found: dict[tuple[str, FileState], Amount] = {}
    wrong = set()
    for group in store.recount():
        key = (group.bucket, group.counted.state)
        objects, size = found.get(key, (0, 0))
        found[key] = (objects + group.counted.objects, size + group.counted.bytes)
        if not group.agrees:
            wrong.add(key)
    wrong |= {key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)}
    if wrong:
        bucket, state = min(wrong)
        raise Failure(
            f"the new state file does not add up to the old one, as in {show(bucket)} by the objects that are {state};"
            " nothing was changed"
        )


def _keep(source: Path, kept: Path) -> None:
    """A second name for the old file; the first one is its own until the new file takes it, in one rename."""
    if kept.exists():
        return
    try:
        os.link(source, kept)
    except OSError:  # a file system without links
        copy = kept.with_name(kept.name + ".copying")
        shutil.copy2(source, copy)
        _flush(copy)
        copy.replace(kept)
    _flush(kept.parent)


def _key_of(state: Path) -> Path:
    return state.with_name(state.name + ".key")


def _name_key(fresh: Path, target: Path) -> None:
    """The key that sealed the new file goes where it will be looked for; a key that was there before has sealed it."""
    if _key_of(fresh).exists():
        _key_of(fresh).rename(_key_of(target))


def _install(fresh: Path, target: Path) -> None:
    try:
        os.link(fresh, target)
    except FileExistsError:
        if target.stat().st_size:
            raise Refused(f"{show(str(target))} has come into being meanwhile; nothing was changed") from None
        fresh.replace(target)
    except OSError:  # a file system without links
        fresh.replace(target)


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(fresh: Path) -> None:
    for suffix in _ITS_FILES:
        with suppress(FileNotFoundError):
            os.unlink(f"{fresh}{suffix}")  # noqa: PTH108 - a suffix, not a name
