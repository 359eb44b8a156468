"""What the CLI cannot bring, or did not, is on disk: each version by its own GET, pinned to exactly that version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event as Flag
from threading import Lock

from migrate_v2.edges.disk import Disk, Obstacle
from migrate_v2.edges.s3 import S3, Archived, Denied, Gone, Moved, Refusal, Unreachable
from migrate_v2.edges.store import Change, Store
from migrate_v2.errors import Failure
from migrate_v2.events import Ended, Event, Found, Progress, Started, Warned
from migrate_v2.flow import batched, in_threads
from migrate_v2.model import CHANGED, VANISHED, FileState, ObjectVersion, Place, Row

ATTEMPTS = 4
# So many objects in a row without an answer: it is not the objects.
HOPELESS = 20


class _Meter:
    def __init__(self) -> None:
        self._lock = Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


def fetch(
    bucket: str, store: Store, disk: Disk, s3: S3, *, session: str, threads: int, block_size: int, rows_per_commit: int
) -> Iterator[Event]:
    """Fetches all that is left to fetch; what cannot be had is in `error` with the reason."""
    total_objects, total_bytes = store.start_fetching(bucket, everything=True)
    if not total_objects:
        return
    disk.same_place()
    s3.region_of(bucket)
    began = time.monotonic()
    yield Started(bucket, "fetch", total_objects, total_bytes)
    meter = _Meter()
    objects = unanswered = in_a_row = 0

    def bring(row: Row, stop: Flag) -> Failure | None:
        try:
            _bring(row, disk, s3, block_size, meter, stop)
        except (Gone, Moved, Denied, Archived, Unreachable, Obstacle, Refusal) as failure:
            return failure
        return None

    for rows in batched(store.left_to_fetch(bucket), rows_per_commit):
        here: list[ObjectVersion] = []
        archived: list[ObjectVersion] = []
        broken: list[Change] = []
        for answer in in_threads(bring, rows, threads=threads):
            if answer is not None:
                row, failure = answer
                objects += 1
                in_a_row = in_a_row + 1 if isinstance(failure, Unreachable) else 0
                if failure is None:
                    here.append(row.version)
                elif isinstance(failure, Archived):
                    archived.append(row.version)
                elif in_a_row >= HOPELESS:
                    disk.settle()
                    store.fetched(bucket, here)
                    raise failure
                elif isinstance(failure, Unreachable):
                    unanswered += 1  # left to fetch: the next run asks again
                else:
                    broken.append(_failed(row, failure))
            yield Progress(bucket, "fetch", objects, meter.bytes, total_objects, total_bytes)
        disk.settle()  # one for a thousand files: a flush of each would be slower by far
        store.fetched(bucket, here)
        store.restore_gone(archived)
        store.change(broken)
        for change in broken:
            yield Found(bucket, change.version.key, change.version.version_id, change.verdict, change.reason)
    if unanswered:
        yield Warned(bucket, f"S3 gave no proper answer for {unanswered:,} objects; the next run asks again")
    seconds = time.monotonic() - began
    store.add_throughput(bucket, session, meter.bytes, seconds)
    yield Ended(bucket, "fetch", objects, meter.bytes, seconds)


def _bring(row: Row, disk: Disk, s3: S3, block_size: int, meter: _Meter, stop: Flag) -> None:
    version = row.version
    if row.place is Place.FOLDER:
        disk.make_folder(row.path, flush=False)
        return
    for attempt in range(1, ATTEMPTS + 1):
        received = 0
        try:
            # Whatever is at this path is not this version, and nobody knows here whether it is the only copy of another.
            disk.quarantine(row.path, version.bucket)
            with disk.writing(row.path, version.last_modified.timestamp(), flush=False) as sink:
                if version.size:
                    for block in s3.get(version, block_size):
                        sink.write(block)
                        received += len(block)
                        meter.add(len(block))
                        if stop.is_set():
                            raise Unreachable("interrupted")
                if received != version.size:
                    raise Unreachable(f"{received:,} of {version.size:,} bytes came")
            return
        except Unreachable:
            meter.add(-received)
            if attempt == ATTEMPTS or stop.wait(2.0**attempt / 4):
                raise


def _failed(row: Row, failure: Failure) -> Change:
    reason = {Gone: VANISHED, Moved: CHANGED}.get(type(failure), str(failure))
    return Change(row.version, FileState.ERROR, None, reason)
