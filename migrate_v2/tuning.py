"""Transfer settings follow from the inventory and the machine; what an operator said beats what is worked out here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from migrate_v2.keys import count_of

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """Settings of one `aws s3 sync`. Sizes in bytes, bandwidth in bytes per second, None for no limit."""

    max_concurrent_requests: int
    max_queue_size: int
    multipart_threshold: int
    multipart_chunksize: int
    max_bandwidth: int | None = None


def transfer(
    mean_size: float,
    cores: int,
    *,
    threshold: int | None = None,
    chunk: int | None = None,
    concurrency: int | None = None,
    use_threads: bool | None = None,
    bandwidth: int | None = None,
) -> Transfer:
    """The settings for objects of this mean size in bytes; the named arguments are an operator's and win.

    One process is bound by its CPU at about 300 small objects a second, so more requests at once than 16 gain nothing
    there; large objects gain from larger ranges, and from more of them where there are cores for their threads.
    """
    large = mean_size >= 16 * MiB
    requests = concurrency or (max(10, min(32, 4 * cores)) if large else 16)
    return Transfer(
        max_concurrent_requests=1 if use_threads is False else requests,
        max_queue_size=1000,
        multipart_threshold=threshold or 8 * MiB,
        multipart_chunksize=chunk or (16 * MiB if large else 8 * MiB),
        max_bandwidth=bandwidth,
    )


# Upper limits of the classes of sizes that `Left` counts, in bytes; the last class has none.
SIZES = (128 << 10, MiB, 8 * MiB, 64 * MiB, 1 << 30)


@dataclass(frozen=True, slots=True)
class Left:
    """Objects and bytes still to come, altogether and in each class of SIZES."""

    objects: tuple[int, ...] = (0,) * (len(SIZES) + 1)
    bytes: tuple[int, ...] = (0,) * (len(SIZES) + 1)

    def plus(self, other: Left) -> Left:
        return Left(
            tuple(a + b for a, b in zip(self.objects, other.objects, strict=True)),
            tuple(a + b for a, b in zip(self.bytes, other.bytes, strict=True)),
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What diagnose measured; rates a second, None for what could not be measured. Mappings go from a number of
    connections, or of threads, to what so many brought."""

    cores: int
    memory_available: int
    open_files: int  # that this process may have
    single: float | None = None
    parallel: Mapping[int, float] | None = None
    objects: Mapping[int, float] | None = None
    throttled: int = 0
    write: float | None = None
    files: float | None = None
    read_hash: Mapping[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """The verdict. `seconds` is None where nothing is left or nothing was measured; `times` says what each part takes."""

    bottleneck: str
    why: str
    settings: Mapping[str, str | int]
    seconds: float | None
    times: Mapping[str, float]


# Of one `aws s3 sync`, bound by its CPU whatever the network could do.
CLI_OBJECTS = 300.0
# More of something has to bring at least this much more, or less of it is the better advice.
WORTH_IT = 1.15


def advise(left: Left, m: Measured, *, native: bool = False) -> Advice:
    """Fetching goes as slow as its slowest part, and reading back comes after it.

    slowest                        | bottleneck
    -------------------------------|---------------------------------------------
    S3 asked to slow down          | S3
    nothing could be measured      | unknown
    bytes over the line            | the network
    bytes to the disk              | the destination
    objects over the line          | S3's answers to small objects
    objects through one CLI        | the AWS CLI
    files to the disk              | the destination's small files
    reading back, longer than that | reading back
    """
    objects, size = sum(left.objects), sum(left.bytes)
    small = bool(objects) and size / objects < MiB
    engine = "native" if native and small else "cli"
    parallel, rates, hashes = m.parallel or {}, m.objects or {}, m.read_hash or {}
    connections, line = _enough(parallel)
    small_connections, asked = _enough(rates)
    threads, read = _enough(hashes)
    parts = {
        "the network": _time(size, max(line, m.single or 0.0)),
        "the destination": _time(size, m.write),
        "S3's answers to small objects": _time(objects, asked),
        "the AWS CLI": objects / CLI_OBJECTS if engine == "cli" and objects else None,
        "the destination's small files": _time(objects, m.files),
    }
    times = {name: seconds for name, seconds in parts.items() if seconds is not None}
    measured = bool(parallel or m.write)
    fetching = max(times.values(), default=0.0)
    reading = _time(size, read) or 0.0
    if reading:
        times["reading back"] = reading
    settings: dict[str, str | int] = {"engine": engine}
    if parallel:
        # A descriptor for the connection and one for the file, and some to spare.
        wanted = max(connections, small_connections) if small else connections
        allowed = max(1, min(wanted, (m.open_files - 64) // 4, m.memory_available // (4 * 16 * MiB)))
        settings["max_concurrency"] = allowed
        settings["max_concurrent_downloads"] = allowed
    if hashes:
        settings["max_concurrent_verifications"] = threads
    if objects and size / objects >= 64 * MiB:
        settings["multipart_chunksize"] = "16MiB"
    if m.throttled:
        settings["max_concurrency"] = settings["max_concurrent_downloads"] = 4
        return Advice("S3", f"it asked {m.throttled:,} times to slow down", settings, fetching + reading or None, times)
    if not measured:
        return Advice("unknown", "nothing could be measured", settings, None, times)
    if not objects:
        named = "the network" if line < (m.write or float("inf")) else "the destination"
        return Advice(
            named, "by what it moves a second; nothing is listed that is still to come", settings, None, times
        )
    slowest = max(times, key=lambda name: times[name])
    share = times[slowest] / max(fetching + reading, 1e-9)
    why = f"it alone takes {share:.0%} of the time for {count_of(objects, 'object')}"
    return Advice(slowest, why, settings, fetching + reading, times)


def _enough(rates: Mapping[int, float]) -> tuple[int, float]:
    """The smallest number that does nearly as well as the best one, and what it does."""
    best = max(rates.values(), default=0.0)
    return next(((number, rate) for number, rate in sorted(rates.items()) if rate * WORTH_IT >= best), (0, 0.0))


def _time(amount: float, rate: float | None) -> float | None:
    return amount / rate if rate and amount else None


@dataclass(frozen=True, slots=True)
class Crew:
    """Settings of the native engine: so many processes with so many requests in flight each; sizes in bytes."""

    workers: int
    window: int
    threshold: int
    part: int


# Measured on loopback: 64 requests in flight keep one process busy, and more gain nothing; S3 itself answers after
# 20-50 ms, so that there 256 are needed for 5,000 small objects a second.
IN_FLIGHT = 256
WORKER_MEMORY = 400 * MiB  # of one with large objects under way


def crew(
    mean_size: float,
    cores: int,
    memory_available: int,
    *,
    threshold: int | None = None,
    part: int | None = None,
    concurrency: int | None = None,
    use_threads: bool | None = None,
) -> Crew:
    """The native engine for objects of this mean size in bytes; the named arguments are an operator's and win.

    A process for each core: one is bound by Python's lock. Large objects need memory for their parts, and few of them
    fill any line.
    """
    workers = max(1, min(cores, 16, memory_available // WORKER_MEMORY))
    large = mean_size >= 16 * MiB
    flight = concurrency or (32 if large else IN_FLIGHT)
    workers = min(workers, flight)
    window = 1 if use_threads is False else max(1, flight // workers)
    return Crew(workers, min(window, 128), threshold or 8 * MiB, part or 8 * MiB)


# -- directories for several `aws s3 sync` at once

# What one process moves of bytes in the time that it needs for one small object.
OBJECT = 768 << 10
# Below this a process is not worth its start (0.3-0.6 s of CPU, some 200 small objects); others fetch those objects.
WORTH_A_PROCESS = 400.0
# Every key that the CLI lists is matched against every pattern.
MOST_PATTERNS = 40
# A process lists all that is beneath its folder, 0.3 ms of CPU a key, a twelfth of what it takes to fetch it: a group that
# is less than this part of its folder is left alone.
WORTH_A_LISTING = 0.1
# Objects of this size may be given to a process by name: the worth of 85 small ones.
WORTH_A_NAME = 64 * MiB
MOST_NAMES = 10_000  # held of one folder
# They come instead of the folder where they are at least this part of it; the rest is for others then.
MOSTLY = 0.8
_CHILDREN = 1000
_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Directory:
    """What one `aws s3 sync` of `s3://B/<prefix>` is for: everything beneath, or the named folders or objects in it alone.

    `prefix` is empty or ends in "/", names of `children` do not; objects and bytes are what is left to fetch there.
    """

    prefix: str
    children: tuple[str, ...]
    objects: int
    bytes: int
    names: tuple[str, ...] = ()

    @property
    def weight(self) -> float:
        return _weight(self.objects, self.bytes)

    def folders(self) -> tuple[str, ...]:
        """Where all that it covers lies, as key prefixes."""
        return tuple(f"{self.prefix}{name}/" for name in self.children) or (self.prefix,)


def _weight(objects: int, size: int) -> float:
    return objects + size / OBJECT


class _Folder:
    """A folder that the walk is in: what lies in it, as far as no shard has it yet."""

    __slots__ = ("bytes", "children", "cut", "groups", "keys", "large", "objects", "prefix", "total", "waiting")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.objects = self.bytes = 0  # of its own
        self.children: list[tuple[str, int, int]] = []  # whole folders in it, of which no part is in a shard
        self.waiting = 0.0  # their weight
        self.cut = False  # part of what is beneath it is in a shard: it cannot be one as a whole
        self.groups: list[Directory] | None = []
        self.total = 0.0  # the weight of all that is beneath it
        self.keys = 0  # and how many objects that is
        self.large: list[tuple[str, int]] | None = []  # its own that are worth a name; None: more than can be held

    def add(self, key: str, size: int) -> None:
        self.objects += 1
        self.bytes += size
        self.total += _weight(1, size)
        self.keys += 1
        if size >= WORTH_A_NAME and self.large is not None:
            self.large.append((key[len(self.prefix) :], size))
            if len(self.large) > MOST_NAMES:
                self.large = None

    def gather(self) -> None:
        """Its children so far become groups; it is cut from then on."""
        self.cut = True
        batch: list[tuple[str, int, int]] = []
        for child in (*self.children, None):
            if batch and (child is None or len(batch) == MOST_PATTERNS):
                self._group(batch)
                batch = []
            if child is not None:
                batch.append(child)
        self.children = []
        self.waiting = 0.0

    def _group(self, batch: list[tuple[str, int, int]]) -> None:
        group = Directory(
            self.prefix, tuple(name for name, _, _ in batch), sum(n for _, n, _ in batch), sum(b for _, _, b in batch)
        )
        if self.groups is not None and group.weight >= WORTH_A_PROCESS:
            self.groups.append(group)
            if len(self.groups) > 1 / WORTH_A_LISTING:
                self.groups = None  # so many that each is too small a part

    def _named(self, together: float) -> list[Directory]:
        """Its large objects by name, for several processes; none where one process does as well."""
        large = self.large or []
        weight = _weight(len(large), sum(size for _, size in large))
        # No more than one share: such folders are many, and so would their names be, held until all are done.
        if weight <= together or not _GLOB.isdisjoint(self.prefix):
            return []
        count = max(math.ceil(weight / together), math.ceil(len(large) / MOST_PATTERNS))
        pieces: list[list[tuple[str, int]]] = []
        before = last = 0.0
        for name, size in large:
            number = (before + _weight(1, size) / 2) * count // weight  # the piece that its middle lies in
            if not pieces or number != last or len(pieces[-1]) == MOST_PATTERNS:
                pieces.append([])
            pieces[-1].append((name, size))
            before, last = before + _weight(1, size), number
        found = [
            Directory(self.prefix, (), len(piece), sum(size for _, size in piece), tuple(name for name, _ in piece))
            for piece in pieces
        ]
        return [one for one in found if one.weight >= max(WORTH_A_PROCESS, self.keys)]

    def close(self, alone: float, together: float) -> tuple[list[Directory], tuple[int, int] | None]:
        """The shards in it, and where there is none (objects, bytes) for the folder above to decide."""
        own = Directory(
            self.prefix,
            (),
            self.objects + sum(n for _, n, _ in self.children),
            self.bytes + sum(b for _, _, b in self.children),
        )
        named = self._named(together)
        if not self.cut and (not named or sum(one.weight for one in named) < MOSTLY * own.weight):
            if own.weight < alone or not _GLOB.isdisjoint(self.prefix) or not self.prefix:
                return [], (own.objects, own.bytes)
            return [own], None
        self.gather()
        # Where the prefix has a sign of the CLI's patterns none can be given: all beneath it, or nothing.
        if not _GLOB.isdisjoint(self.prefix):
            return [], None
        return [*named, *(group for group in self.groups or () if group.weight >= WORTH_A_LISTING * self.total)], None


def directories(objects: Iterable[tuple[str, int]], alone: float, together: float) -> list[Directory]:
    """Cuts (key, size) in key order into shards, the heaviest first: a folder of the weight `alone` is one by itself, the
    deepest that has it; those that have less are grouped until they have the weight `together`. One that is more than that
    and is mostly large objects is cut by their names.

    No object is in two of them. Those that are in none lie in no folder, or in one that is not worth a process: they
    are for others to fetch. Holds the folders that it is in, at most 1,000 names of folders and 10,000 of large objects in
    each, and the shards.
    """
    shards: list[Directory] = []
    stack = [_Folder("")]

    def leave() -> None:
        folder = stack.pop()
        found, whole = folder.close(alone, together)
        shards.extend(found)
        above = stack[-1]
        above.total += folder.total
        above.keys += folder.keys
        if whole is None:
            above.cut = True
            return
        name = folder.prefix[len(above.prefix) : -1]
        above.children.append((name, *whole))
        above.waiting += folder.total
        if above.waiting >= together or len(above.children) >= _CHILDREN:
            above.gather()

    for key, size in objects:
        while not key.startswith(stack[-1].prefix):
            leave()
        here = stack[-1]
        at = key.find("/", len(here.prefix))
        while at >= 0:
            here = _Folder(key[: at + 1])
            stack.append(here)
            at = key.find("/", at + 1)
        here.add(key, size)
    while len(stack) > 1:
        leave()
    root = stack[0]
    root.gather()
    shards += [group for group in root.groups or () if group.weight >= WORTH_A_LISTING * root.total]
    return sorted(shards, key=lambda shard: -shard.weight)


def pieces(objects: int, size: int, processes: int) -> tuple[float, float]:
    """The weights `alone` and `together` for a bucket of so much.

    A start is 1 % of a process for 20,000 objects, and 12 % for the least. One group for each process, as far as it is
    still worth a listing: each lists what all of them bring (two for each of 2 processes took 17 % more CPU).
    """
    weight, least = _weight(objects, size), 4 * WORTH_A_PROCESS
    groups = min(processes, int(0.8 / WORTH_A_LISTING))
    return max(least, min(weight / 64, 20_000.0)), max(least, weight / groups)


PROCESS_MEMORY = 400 * MiB  # 105 with small objects, 380 with large ones


def processes(cores: int, memory_available: int, bandwidth: int | None) -> int:
    """How many `aws s3 sync` at once: each is bound by one core; below 1 MB/s for each, more would only wait."""
    by_bandwidth = cores if bandwidth is None else bandwidth // MiB
    return max(1, min(cores, 16, memory_available // PROCESS_MEMORY, by_bandwidth))
