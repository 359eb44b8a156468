"""What is worth starting processes for comes by the native engine; what that leaves is for the plain GETs of fetch()."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from migrate_v2.edges.crt import Engine, Workers
from migrate_v2.edges.disk import Disk, DiskError, partial_name
from migrate_v2.edges.s3 import S3, pins
from migrate_v2.edges.store import Store
from migrate_v2.events import Ended, Event, Noted, Progress, Started
from migrate_v2.keys import count_of
from migrate_v2.model import ObjectVersion
from migrate_v2.shards import Item, Result, Shard, Sizes, sharded

# Starting the workers costs as much as so many small objects by plain GETs; of large ones, so many bytes.
WORTH_OBJECTS = 150
WORTH_BYTES = 64 << 20
# Seconds at most between two commits, and rows; each begins with a flush of all that was written.
COMMIT = 4.0
COMMIT_ROWS = 8000
# Seconds between two looks at credentials that may have been renewed, and at the timetable of the bandwidth.
LOOK = 30.0


def pull(
    bucket: str,
    store: Store,
    disk: Disk,
    s3: S3,
    engine: Engine,
    lock_fds: Sequence[int],
    *,
    session: str,
    bandwidth: Callable[[], int | None] = lambda: None,
    room: Callable[[], None] = lambda: None,
    worth: tuple[int, int] = (WORTH_OBJECTS, WORTH_BYTES),
    sizes: Sizes = Sizes(),  # noqa: B008 - frozen
) -> Iterator[Event]:
    """Fetches what is left to fetch in worker processes; a row moves only for what has come whole and is on the disk.

    `bandwidth` gives the bytes a second that are allowed now. What did not come is left as it was. `room` raises Failure
    where no more may be fetched.
    """
    total_objects, total_bytes = store.left_counts(bucket)
    if total_objects < worth[0] and total_bytes < worth[1]:
        return
    disk.same_place()
    source = s3.source(bucket)
    if source is None:
        yield Noted(
            bucket, "the native engine cannot ask this endpoint (a proxy, or another signature): plain GETs do it"
        )
        return
    began = time.monotonic()
    yield Started(bucket, "fetch", total_objects, total_bytes)
    disk.remove_partials(bucket, ())  # what a kill left; not while workers have the folder open
    shards = _shards(bucket, store, engine, sizes)
    out: dict[int, Sequence[ObjectVersion]] = {}
    here: list[ObjectVersion] = []
    objects = received = 0
    reasons: list[str] = []
    failure: DiskError | None = None
    more, hopeless = True, False
    with Workers(disk, bucket, source, s3.credentials(), engine, lock_fds, bandwidth()) as workers:
        store.start_fetching(bucket, everything=True)  # while they start
        committed = looked = time.monotonic()
        while (more or out) and failure is None and not hopeless and workers.pids:
            while more and workers.hungry():
                shard = next(shards, None)
                if shard is None:
                    more = False
                else:
                    out[shard[0].number] = shard[1]
                    workers.give(shard[0])
            if not out:
                break
            for result in workers.heard(0.5):
                asked = out.pop(result.number)
                versions = [asked[index] for index in result.came]
                here += versions
                objects += len(versions)
                received += sum(version.size for version in versions)
                hopeless = hopeless or result.hopeless  # what it is, fetch() finds out
                reasons += [why for _, why in result.left[:1]]
                failure = failure or _disk_error(result)
            now = time.monotonic()
            if here and (len(here) >= COMMIT_ROWS or now - committed > COMMIT):
                _commit(bucket, store, disk, here)
                committed = time.monotonic()
                room()
            if now - looked > LOOK:
                workers.renew(s3.credentials())
                workers.limit(bandwidth())
                looked = now
            yield Progress(bucket, "fetch", objects, min(workers.bytes, total_bytes), total_objects, total_bytes)
        throttled = workers.throttled
    _commit(bucket, store, disk, here)
    if throttled:
        yield Noted(bucket, f"S3 asked {throttled:,} times to slow down")
    seconds = time.monotonic() - began
    store.add_throughput(bucket, session, received, seconds)
    if failure is not None:
        raise failure
    if objects < total_objects and reasons:
        yield Noted(
            bucket, f"the native engine left {count_of(total_objects - objects, 'object')} to plain GETs: {reasons[0]}"
        )
    yield Ended(bucket, "fetch", objects, received, seconds)


def _shards(bucket: str, store: Store, engine: Engine, sizes: Sizes) -> Iterator[tuple[Shard, Sequence[ObjectVersion]]]:
    """The large objects first, one a shard, so that none of them comes alone at the end; then the others in their order."""
    large = ((one,) for one in store.left_to_pull(bucket, engine.large, large=True))
    others = sharded(store.left_to_pull(bucket, engine.large, large=False), sizes, lambda one: one[0].size)
    for number, some in enumerate(chain(large, others)):
        items = tuple(_item(version, path, engine) for version, path in some)
        yield Shard(number, items), [version for version, _ in some]


def _item(version: ObjectVersion, path: str, engine: Engine) -> Item:
    version_id, etag = pins(version)
    partial = ""
    if version.size >= engine.large:
        partial = partial_name(version.key, version.version_id, version.etag, version.size)
    return Item(
        version.key,
        version_id,
        etag,
        version.size,
        path,
        round(version.mtime * 1e9),
        partial,
    )


def _commit(bucket: str, store: Store, disk: Disk, here: list[ObjectVersion]) -> None:
    if here:
        disk.settle()
        store.fetched(bucket, here)
        here.clear()


def _disk_error(result: Result) -> DiskError | None:
    return DiskError(result.fatal[1], result.fatal[0]) if result.fatal else None
