"""What the CLI cannot bring, or did not, is on disk: each version by its own GET, pinned to exactly that version."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from itertools import chain
from threading import Event as Flag
from threading import Lock

from migrate_v2.answers import ETAGS_OF_NOTHING
from migrate_v2.edges.disk import FLUSH_BYTES, Disk, Obstacle, Sink, partial_name
from migrate_v2.edges.s3 import (
    S3,
    Archived,
    Corrupted,
    Denied,
    Gone,
    Moved,
    Refusal,
    Throttled,
    Unreachable,
    WrongVersion,
)
from migrate_v2.edges.store import Change, Store
from migrate_v2.errors import Failure
from migrate_v2.events import Ended, Event, Found, Progress, Started, Warned
from migrate_v2.flow import Limit, batched, in_threads
from migrate_v2.keys import count_of, show
from migrate_v2.model import CHANGED, VANISHED, Attempts, Cause, FileState, ObjectVersion, Place, Row

# In a row, none of which brought anything new; or in all, where what came was not what S3 has.
ATTEMPTS = 6
# Seconds at most between two of them, and between two commits.
PATIENCE = 20.0
COMMIT = 10.0
# At least so many bytes, and an object is flushed, continued by the next run, and recorded by itself.
LARGE = FLUSH_BYTES
# So many objects in a row without an answer: it is not the objects.
HOPELESS = 20


_MD5 = re.compile("[0-9a-f]{32}")


class _Meter:
    """`bytes` of the objects that are here; `received` of them in this run; `limit` is where one has to wait."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._lock = Lock()
        self.bytes = 0
        self.received = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count
            self.received += count

    def found(self, count: int) -> None:
        with self._lock:
            self.bytes += count


def fetch(
    bucket: str,
    store: Store,
    disk: Disk,
    s3: S3,
    *,
    session: str,
    threads: int,
    block_size: int,
    rows_per_commit: int,
    large: int = LARGE,
    bandwidth: Callable[[], int | None] = lambda: None,
    room: Callable[[], None] = lambda: None,
) -> Iterator[Event]:
    """Fetches all that is left to fetch; what cannot be had is in `error` with the reason.

    An object of `large` bytes or more goes on, in the next run too, from where it broke off; the others begin anew.
    `bandwidth` gives the bytes a second that are allowed now. `room` raises Failure where no more may be fetched.
    """
    total_objects, total_bytes = store.start_fetching(bucket, everything=True)
    disk.same_place()
    _tidy(bucket, store, disk)
    if not total_objects:
        return
    s3.region_of(bucket)
    began = time.monotonic()
    yield Started(bucket, "fetch", total_objects, total_bytes)
    meter = _Meter(Limit(bandwidth))
    objects = unanswered = in_a_row = gone = 0
    wrong, first_wrong = 0, WrongVersion("")

    def bring(row: Row, stop: Flag) -> Failure | None:
        try:
            _bring(row, disk, s3, block_size, large, meter, stop)
        except (Gone, Moved, Denied, Archived, Unreachable, Obstacle, Refusal) as failure:
            return failure
        return None

    for rows in batched(store.left_to_fetch(bucket), rows_per_commit):
        here: list[ObjectVersion] = []
        archived: list[ObjectVersion] = []
        broken: list[Change] = []
        corrupted: list[tuple[ObjectVersion, Attempts]] = []
        committed = time.monotonic()
        for answer in in_threads(bring, rows, threads=threads):
            if answer is not None:
                row, failure = answer
                objects += 1
                silent = isinstance(failure, Unreachable) and not isinstance(failure, WrongVersion)
                in_a_row = in_a_row + 1 if silent else 0
                if failure is None:
                    if row.place is not Place.FOLDER and row.version.size >= large:
                        store.fetched(bucket, [row.version])  # on the disk by itself, and dear
                    else:
                        here.append(row.version)
                elif isinstance(failure, Archived):
                    archived.append(row.version)
                elif in_a_row >= HOPELESS:
                    disk.settle()
                    store.fetched(bucket, here)
                    store.count_attempts(corrupted)
                    store.change(broken)
                    raise failure
                elif isinstance(failure, WrongVersion):
                    wrong, first_wrong = wrong + 1, failure if wrong == 0 else first_wrong
                elif isinstance(failure, Corrupted):
                    attempts = row.attempts.failed("corrupted")
                    corrupted.append((row.version, attempts))
                    if attempts.contested:
                        broken.append(Change(row.version, FileState.ERROR, None, str(failure), Cause.CONTESTED))
                    else:
                        unanswered += 1
                elif isinstance(failure, Unreachable):
                    unanswered += 1  # left to fetch: the next run asks again
                else:
                    broken.append(_failed(row, failure))
            if here and time.monotonic() - committed > COMMIT:
                disk.settle()
                store.fetched(bucket, here)
                here.clear()
                committed = time.monotonic()
                room()
            yield Progress(bucket, "fetch", objects, meter.bytes, total_objects, total_bytes)
        disk.settle()  # one for a thousand files: a flush of each would be slower by far
        store.fetched(bucket, here)
        store.restore_gone(archived)
        store.count_attempts(corrupted)
        store.change(broken)
        room()
        for change in broken:
            if change.cause is Cause.VANISHED:
                gone += 1
            else:
                yield Found(bucket, change.version.key, change.version.version_id, change.verdict, change.reason)
    _tidy(bucket, store, disk)
    if wrong:
        yield Warned(bucket, WrongVersion.summary(wrong, first_wrong))
    if gone:
        yield Warned(bucket, f"{gone:,} object versions were gone from S3 before they were fetched")
    if unanswered:
        yield Warned(bucket, f"S3 gave no proper answer for {count_of(unanswered, 'object')}; the next run asks again")
    seconds = time.monotonic() - began
    store.add_throughput(bucket, session, meter.received, seconds)
    yield Ended(bucket, "fetch", objects, meter.bytes, seconds)


def _partial(version: ObjectVersion) -> str:
    return partial_name(version.key, version.version_id, version.etag, version.size)


def _tidy(bucket: str, store: Store, disk: Disk) -> None:
    """Removes what was begun of objects that nobody is going to fetch: they came otherwise, changed, or are gone."""
    loose = disk.partials(bucket)
    wanted = chain(
        store.left_to_fetch(bucket),
        store.left_to_request(bucket),
        store.asked_for(bucket),
        (row for row in store.in_state(bucket, FileState.ERROR) if not row.gone and row.cause is not Cause.CHANGED),
    )
    if loose:
        for row in wanted:
            loose.discard(_partial(row.version))
    disk.remove_partials(bucket, loose)


def _bring(row: Row, disk: Disk, s3: S3, block_size: int, large: int, meter: _Meter, stop: Flag) -> None:
    version = row.version
    if version.size == 0 and version.etag not in ETAGS_OF_NOTHING:
        s3.head(version)  # SizeDiffers: only the listing says that it has no bytes
    if row.place is Place.FOLDER:
        disk.make_folder(row.path, flush=False)
        return
    mtime = version.mtime
    if version.size >= large:
        making = disk.continuing(row.path, version.bucket, _partial(version), mtime, every=large)
    else:
        making = disk.writing(row.path, mtime, flush=False, staged_for=version.bucket)
    with making as sink:
        try:
            _fill(sink, version, s3, block_size, meter, stop)
        except BaseException:
            if version.size < large:
                meter.add(-sink.written)
            raise
        # Whatever is at this path is not this version, and nobody knows here whether it is the only copy of another.
        disk.quarantine(row.path, version.bucket)


def _fill(sink: Sink, version: ObjectVersion, s3: S3, block_size: int, meter: _Meter, stop: Flag) -> None:
    """Ends when all bytes are in the sink and as right as can be told on the way; raises Unreachable otherwise.

    S3's checksum of the whole | ETag                 | what came                  | then
    ---------------------------|----------------------|----------------------------|--------------------
    came along, one answer     | any                  | agrees                     | taken
    came along, one answer     | any                  | differs                    | all of it again
    none, or several answers   | an MD5, as it seems  | agrees                     | taken
    none, or several answers   | an MD5, as it seems  | differs                    | all of it again
    none, or several answers   | an MD5, as it seems  | differs, as another time   | taken: verify judges
    none, or several answers   | of parts, or opaque  | any                        | taken: verify judges
    """
    wrong: set[str] = set()
    fruitless = spoiled = 0
    found = sink.written
    meter.found(found)
    while version.size:
        begun = sink.written
        try:
            digest = _receive(sink, version, s3, block_size, meter, stop)
            if digest in ("", version.etag) or digest in wrong:
                return
            wrong.add(digest)
            raise Corrupted(f"{show(version.key)} did not come as its ETag says; run the same again")
        except WrongVersion:  # asking again gives the same answer
            raise
        except Corrupted:
            meter.add(found - sink.written)
            meter.found(-found)
            found = 0
            sink.start_again()
            spoiled += 1
            if spoiled >= ATTEMPTS:
                raise
        except Unreachable as failure:
            if stop.is_set():
                raise
            fruitless = 0 if sink.written > begun else fruitless + 1
            if fruitless >= ATTEMPTS:
                raise
            if not isinstance(failure, Throttled):  # that wait is for all threads, and longer
                if sink.written == begun:  # a silence in the middle of a block loses it all
                    block_size = max(block_size // 4, 16384)
                stop.wait(min(2.0**fruitless / 4, PATIENCE) * random.uniform(0.5, 1.0))  # noqa: S311


def _receive(sink: Sink, version: ObjectVersion, s3: S3, block_size: int, meter: _Meter, stop: Flag) -> str:
    """The rest of the object, in one answer; the MD5 of all of it where the ETag may be one and nothing else has decided."""
    begun = sink.written
    opaque = checked = False
    hashed = 0
    digest = hashlib.md5(usedforsecurity=False)
    if begun < version.size:
        body = s3.get(version, block_size, begun, stop=stop)
        try:
            for block in body:
                if sink.written + len(block) > version.size:
                    raise Corrupted(f"more than {version.size:,} bytes of {show(version.key)} came")
                if hashed == sink.written and not (body.checked or body.opaque) and _MD5.fullmatch(version.etag):
                    digest.update(block)
                    hashed += len(block)
                sink.write(block)
                meter.add(len(block))
                meter.limit.take(len(block), stop)
        finally:
            body.close()
        opaque, checked = body.opaque, body.checked
    if sink.written != version.size:
        raise Unreachable(f"{sink.written:,} of {version.size:,} bytes of {show(version.key)} came")
    if opaque or checked or not _MD5.fullmatch(version.etag):
        return ""
    for block in sink.read_back(hashed):  # what came in another answer
        digest.update(block)
        if stop.is_set():
            raise Unreachable("interrupted")
    return digest.hexdigest()


def _failed(row: Row, failure: Failure) -> Change:
    reason = {Gone: VANISHED, Moved: CHANGED}.get(type(failure), str(failure))
    return Change(row.version, FileState.ERROR, None, reason, failure.cause)
