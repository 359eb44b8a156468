"""What S3, the destination and this machine can do is measured, in bounded time and bytes, before it is needed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, count, islice
from threading import Event as Flag

from migrate_v2.checksums import Reading
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import S3, Archived, Denied, Gone, Moved, Refusal, Throttled, Unreachable
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure
from migrate_v2.flow import Meter, in_threads
from migrate_v2.model import ObjectVersion, Witness
from migrate_v2.tuning import Left

MiB = 1 << 20
SECONDS = 4.0  # for each of the measurements
BYTES = 256 * MiB  # for each of them, too
CONNECTIONS = (8, 32)  # of the parallel ones
_LOOKS = 9  # for a latency
_SMALL = 1000  # files
_WITNESS = Witness("md5-etag", "0" * 32, 128)  # what most objects are held to, beside SHA-256


@dataclass(frozen=True, slots=True)
class Network:
    """Bytes and objects a second; None where there was nothing to measure by."""

    latency_seconds: float | None = None
    single: float | None = None
    parallel: dict[int, float] = field(default_factory=dict)  # by connections
    objects: dict[int, float] = field(default_factory=dict)
    throttled: int = 0
    received: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Destination:
    """Bytes a second of writing with a flush, and of reading back with the hashes that verify computes; files a second."""

    write: float
    files: float
    read_hash: dict[int, float]  # by threads
    free: int


def samples(bucket: str, store: Store | None, s3: S3) -> list[ObjectVersion]:
    """Objects to measure by, small and large ones: of the state file, or of the first page of a listing."""
    known = store.to_measure(bucket) if store is not None else []
    if known:
        return known
    versioned = s3.versioning(bucket)[0] != ""
    page = next(iter(s3.versions(bucket, None, versioned=versioned)), None)
    listed = (
        [v for v in page.versions if v.is_latest and v.storage_class not in ("GLACIER", "DEEP_ARCHIVE")] if page else []
    )
    return sorted(listed, key=lambda v: -v.size)[:32] + sorted(listed, key=lambda v: v.size)[:64]


def network(versions: Sequence[ObjectVersion], s3: S3, *, seconds: float = SECONDS) -> Network:
    """By GETs of real objects, from their beginning and no further than the time allows."""
    readable = [v for v in versions if v.size]
    if not readable:
        return Network(note="there is no object to measure by")
    s3.region_of(readable[0].bucket)
    looks = []
    for version in islice(chain(readable, readable * _LOOKS), _LOOKS):
        began = time.monotonic()
        try:
            s3.head(version)
        except (Gone, Moved, Archived):
            pass
        except (Denied, Refusal) as failure:
            return Network(note=f"objects cannot be read: {failure}")
        looks.append(time.monotonic() - began)
    # The first one opens the connection.
    latency = statistics.median(looks[1:] or looks)
    large = sorted(readable, key=lambda v: -v.size)[:32]
    small = sorted(readable, key=lambda v: v.size)[:64]
    single, slow, received = _stream(large[:1], s3, 1, seconds)
    parallel, rates = {}, {}
    for connections in CONNECTIONS:
        rate, again, came = _stream(large, s3, connections, seconds)
        parallel[connections] = rate.bytes
        rate_small, more, came_small = _stream(small, s3, connections, seconds / 2)
        rates[connections] = rate_small.objects
        slow += again + more
        received += came + came_small
        if slow:  # more would only be more of it
            break
    return Network(latency, single.bytes, parallel, rates, slow, received)


def line_speed(versions: Sequence[ObjectVersion], measured: Network) -> float | None:
    """Bytes a second of the line to S3; None where only small objects were there to measure by, which tell of requests."""
    if measured.single is None or max((v.size for v in versions), default=0) < MiB:
        return None
    return max(measured.single, *measured.parallel.values())


@dataclass(frozen=True, slots=True)
class _Rate:
    bytes: float
    objects: float


def _stream(versions: Sequence[ObjectVersion], s3: S3, threads: int, seconds: float) -> tuple[_Rate, int, int]:
    """Bytes and objects a second over so many connections, how often S3 asked to slow down, and all the bytes that came."""
    began = time.monotonic()
    until = began + seconds
    meter = Meter()
    slow = objects = 0

    def get(version: ObjectVersion, stop: Flag) -> Failure | None:
        body = s3.get(version, MiB, stop=stop)
        try:
            for block in body:
                meter.add(len(block))
                if time.monotonic() > until or meter.bytes > BYTES:
                    break
        except (Gone, Moved, Denied, Archived, Refusal, Unreachable) as failure:
            return failure
        finally:
            body.close()
        return None

    def work() -> Iterator[ObjectVersion]:
        for number in count():
            if time.monotonic() > until or meter.bytes > BYTES:
                return
            yield versions[number % len(versions)]

    with closing(in_threads(get, work(), threads=threads)) as answers:  # type: ignore[type-var]
        for answer in answers:
            if answer is not None:
                slow += isinstance(answer[1], Throttled)
                objects += answer[1] is None
                if isinstance(answer[1], Unreachable) and not isinstance(answer[1], Throttled):
                    raise answer[1]
            # Closing tells those under way to stop: after a SlowDown they would wait, twice as long each time.
            if slow or time.monotonic() > until + 1:
                break
    spent = max(time.monotonic() - began, 1e-3)
    return _Rate(meter.bytes / spent, objects / spent), slow, meter.bytes


def destination(disk: Disk, threads: Iterable[int], *, seconds: float = SECONDS, size: int = BYTES) -> Destination:
    """By files of our own in a folder of their own, which is gone afterwards."""
    block = os.urandom(MiB)  # what a file system that compresses cannot make less of
    with disk.trial() as folder:
        began = time.monotonic()
        with disk.writing(f"{folder}/large") as sink:
            while sink.written < size and time.monotonic() - began < seconds:
                sink.write(block)
            written = sink.written
        write = written / max(time.monotonic() - began, 1e-3)
        began = time.monotonic()
        files = 0
        while files < _SMALL and time.monotonic() - began < seconds / 2:
            with disk.writing(f"{folder}/{files}", flush=False) as sink:
                sink.write(block[:4096])
            files += 1
        disk.settle()
        made = files / max(time.monotonic() - began, 1e-3)
        disk.settle()
        read = {}
        for number in threads:
            read[number] = _read_back(f"{folder}/large", disk, number, seconds / 2)
        return Destination(write, made, read, disk.free().bytes)


def _read_back(path: str, disk: Disk, threads: int, seconds: float) -> float:
    began = time.monotonic()
    until = began + seconds
    meter = Meter()

    def read(_: int, stop: Flag) -> None:
        reading = Reading([_WITNESS])
        with disk.reading(path, drop_cache=True) as file:
            for block in file.blocks():
                reading.update(block)
                meter.add(len(block))
                if time.monotonic() > until or stop.is_set():
                    return

    for _ in in_threads(read, range(threads), threads=threads):
        pass
    return meter.bytes / max(time.monotonic() - began, 1e-3)


def left(bucket: str | None, store: Store | None) -> Left:
    """What is still to come, of one bucket or of all, by size."""
    names = [] if store is None else [bucket] if bucket is not None else store.buckets()
    whole = Left()
    for name in names:
        assert store is not None
        whole = whole.plus(Left(*store.left_by_size(name)))
    return whole
