"""Run `aws s3 sync` into the staging folder, and move what arrived there to its path."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event as Flag
from threading import Thread

from migrate_v2 import keys, tuning
from migrate_v2.edges import awscli
from migrate_v2.edges.disk import Disk, Incoming, Obstacle, activity
from migrate_v2.edges.store import Change, Store
from migrate_v2.events import Ended, Event, Found, Noted, Progress, Started, Warned
from migrate_v2.flow import batched
from migrate_v2.keys import count_of
from migrate_v2.model import FileState, ObjectVersion, Place, Row
from migrate_v2.tuning import Directory, Transfer

# Every key that the CLI lists is matched against every pattern, and Python keeps 256 compiled ones.
PATTERNS = 150
# A process costs 0.3-0.6 s of CPU to start, the worth of some 200 small objects.
NOT_WORTH_A_PASS = 200
NOT_WORTH_A_PASS_BYTES = 64 << 20
FRUITLESS_PASSES = 2
# From so much on (tuning.Directory.weight) several processes end sooner than one.
WORTH_CUTTING = 5 * tuning.WORTH_A_PROCESS
# Where nothing can be cut, one process brings less than this; more is for others.
TOO_MUCH_FOR_ONE = 8 * tuning.WORTH_A_PROCESS


@dataclass(frozen=True, slots=True)
class Cli:
    """How the CLI is run for one bucket. `folder` is private to the run and holds its configuration and its HOME."""

    aws: awscli.Aws
    transfer: Transfer
    folder: Path
    home: str
    profile: Mapping[str, object]  # the settings of the profile in use
    services: Mapping[str, object]  # and of the services section that it names
    credential_process: str  # how the CLI gets its credentials
    environ: Mapping[str, str]
    region: str
    endpoint_url: str | None
    addressing_style: str | None
    stall_seconds: float = 300.0
    processes: int = 1  # at most so many at once
    tune: Callable[[float, int | None], Transfer] | None = (
        None  # settings for a mean size and a limit in bytes a second
    )
    bandwidth: Callable[[], int | None] = lambda: None  # bytes a second that all together may take now


def sync(
    bucket: str,
    store: Store,
    disk: Disk,
    cli: Cli,
    lock_fds: Sequence[int],
    *,
    session: str,
    rows_per_commit: int,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Event]:
    """Run the CLI until nothing is left that it can fetch, or until it fetches nothing more.

    It writes into the staging folder only. In a large bucket it runs once for each shard, several at the same time.
    It lists by itself and compares with the staging folder, so it would fetch again what is at its path already: such objects
    are excluded by name, and where they are too many to name the rest is left to pull() and fetch().
    """
    total_objects, total_bytes = store.start_fetching(bucket)
    restored, archived = store.archived_counts(bucket)
    # Restored among too many that are not: the others are too many to exclude by name, so these are left to fetch().
    beyond = restored if archived > PATTERNS // 2 else 0
    if total_objects <= beyond:
        return
    disk.same_place()
    began = time.monotonic()
    yield Started(bucket, "sync", total_objects, total_bytes)
    done = _Arrivals()
    with Incoming(disk, bucket) as incoming:
        yield from _take(bucket, store, disk, incoming, done, rows_per_commit)
        there_before = done.bytes
        work = _Work(bucket, store, disk, incoming, cli, lock_fds, rows_per_commit, done, total_objects, total_bytes)
        weight = (total_objects - beyond - done.objects) + (total_bytes - done.bytes) / tuning.OBJECT
        shards: list[Directory] = []
        if weight >= WORTH_CUTTING:
            shards = _cut(bucket, store, cli, total_objects - done.objects, total_bytes - done.bytes)
        ran = False
        if shards:
            ran = yield from _Shards(work).run(shards)
        elif weight >= TOO_MUCH_FOR_ONE:
            yield Noted(bucket, "no folder in it is worth a process: the AWS CLI is not needed")
        else:
            ran = yield from _passes(work, pause)
        yield from _discard(bucket, store, incoming)
    seconds = time.monotonic() - began
    if ran:
        store.add_throughput(bucket, session, done.bytes - there_before, seconds)
    yield Ended(bucket, "sync", done.objects, done.bytes, seconds)


def collect(bucket: str, store: Store, disk: Disk, *, rows_per_commit: int) -> Iterator[Event]:
    """Take what an interrupted run left in the staging folder, and remove the rest of it."""
    with Incoming(disk, bucket) as incoming:
        if incoming.exists():
            disk.same_place()
            yield from _take(bucket, store, disk, incoming, _Arrivals(), rows_per_commit)
            _take_gone(bucket, store, disk, incoming, rows_per_commit)
            yield from _discard(bucket, store, incoming)


def look_for_gone(bucket: str, store: Store, disk: Disk, *, rows_per_commit: int) -> Iterator[Event]:
    """Look at the paths of objects that are gone from S3: a run that was killed may not have recorded that a file had come.

    Such a file is to be verified. Without one the row claims no path any more.
    """
    if not store.may_have_come(bucket):
        return
    disk.same_place()
    found = 0
    for rows in batched(store.gone_unfetched(bucket), rows_per_commit):
        come: list[ObjectVersion] = []
        absent: list[ObjectVersion] = []
        for row in rows:
            (come if _has_come(row, store, disk) else absent).append(row.version)
        store.fetched_gone(bucket, come)
        store.take_places(absent)
        found += len(come)
    store.all_looked_for(bucket)
    if found:
        yield Noted(
            bucket,
            f"found {count_of(found, 'file')} of objects that are gone from S3, fetched by a run that was killed",
        )


def _has_come(row: Row, store: Store, disk: Disk) -> bool:
    if row.place is Place.FOLDER or store.taken(row.version, row.path):
        return False
    with suppress(Obstacle):
        return _lies_at(row.path, row.version, disk)
    return False


@dataclass(frozen=True, slots=True)
class _Work:
    """One call of sync(). `done` counts what need not be fetched any more; the totals are those of its beginning."""

    bucket: str
    store: Store
    disk: Disk
    incoming: Incoming
    cli: Cli
    lock_fds: Sequence[int]
    rows_per_commit: int
    done: _Arrivals
    total_objects: int
    total_bytes: int

    def take(self, *, under: str = "", names: Sequence[str] = ()) -> Iterator[Event]:
        return _take(
            self.bucket,
            self.store,
            self.disk,
            self.incoming,
            self.done,
            self.rows_per_commit,
            under=under,
            names=names,
        )

    def progress(self, objects: int, size: int) -> Progress:
        """With so much in the staging folder, as far as is known."""
        return Progress(
            self.bucket,
            "sync",
            min(self.done.objects + objects, self.total_objects),
            min(self.done.bytes + size, self.total_bytes),
            self.total_objects,
            self.total_bytes,
        )


_TOO_MANY = f"more than {PATTERNS} objects are here already, so the rest is fetched without the AWS CLI"


def _excludes(work: _Work, force: bool, prefix: str = "", folders: Sequence[str] = ("",)) -> tuple[str, ...] | None:
    """Patterns of all that the CLI must not fetch from these folders; None where too much of it is at its path already.

    Over PATTERNS in all, whole folders are excluded, and what that covers too much is left to pull() and fetch().
    """
    bucket, store = work.bucket, work.store
    if sum(store.count_fetched(bucket, force, PATTERNS + 1, under=folder) for folder in folders) > PATTERNS:
        return None
    # Of a path in the staging folder nothing may be cut off, nor of the CLI's temporary name.
    longest = work.disk.filesystem().path_max - len(os.fsencode(work.disk.base / work.incoming.path)) - 1 - keys.SUFFIX
    unwanted = (row.key for folder in folders for row in store.not_for_the_cli(bucket, force, longest, under=folder))
    return (*keys.STRUCTURAL, *keys.excludes(unwanted, PATTERNS, prefix))


# -- what has arrived


@dataclass(slots=True)
class _Arrivals:
    """Objects that need not be fetched any more, and their bytes."""

    objects: int = 0
    bytes: int = 0


def _take(
    bucket: str,
    store: Store,
    disk: Disk,
    incoming: Incoming,
    arrivals: _Arrivals,
    rows_per_commit: int,
    *,
    under: str = "",
    names: Sequence[str] = (),
) -> Iterator[Event]:
    """Mark as downloaded each object whose file has the size and the time of the listing; count them in `arrivals`.

    Only for keys in the folder `under`, and of those only for `names` if there are any: a process may still be writing the
    others. Verification reads every file later, so that size and time decide only what is not fetched again.

    at its path                     | in the staging folder | then
    --------------------------------|-----------------------|------------------------------------------
    a file of this size and time    | any                   | downloaded
    nothing                         | such a file           | moved to its path, downloaded
    another file                    | such a file           | quarantine for the other one; the same
    nothing, or another file        | no such file          | left to fetch
    a folder or a special file      | any                   | error
    a file where a folder is needed | any                   | error
    """
    left = store.left_to_fetch(bucket, Place.PLAIN, under=under)
    for rows in batched((row for row in left if not names or row.key.removeprefix(under) in names), rows_per_commit):
        fetched: list[Row] = []
        blocked: list[Change] = []
        for row in rows:
            try:
                if _lies_at(row.path, row.version, disk) or incoming.take(
                    row.key, row.path, row.version.size, row.version.seconds
                ):
                    fetched.append(row)
            except Obstacle as obstacle:
                blocked.append(Change(row.version, FileState.ERROR, None, str(obstacle), obstacle.cause))
        if fetched:
            disk.settle()
            disk.flush(row.path for row in fetched)
            lost = incoming.moved()
            fetched = [row for row in fetched if row.path.rpartition("/")[0] not in lost]
        store.fetched(bucket, [row.version for row in fetched])
        store.change(blocked)
        arrivals.objects += len(fetched) + len(blocked)
        arrivals.bytes += sum(row.version.size for row in fetched)
        for change in blocked:
            yield Found(bucket, change.version.key, change.version.version_id, change.verdict, change.reason)


def _take_gone(bucket: str, store: Store, disk: Disk, incoming: Incoming, rows_per_commit: int) -> None:
    """Move what arrived of objects that are gone from S3 since to their side paths; verification judges it.

    Another object may have the key and its path by now. The side path is recorded before the file is moved.
    """
    for rows in batched(store.gone_unfetched(bucket), rows_per_commit):
        paths = {row.version: keys.side_path(bucket, row.key, row.version.version_id) for row in rows}
        moves = [
            row.version
            for row in rows
            if row.place is Place.PLAIN
            and incoming.arrived(row.key, row.version.size, row.version.seconds)
            and not store.taken(row.version, paths[row.version])
        ]
        store.give_places((version, Place.SIDE, paths[version], None) for version in moves)
        # Also those that a killed run was about to move, or had moved.
        moved = [row.version for row in rows if row.place is Place.SIDE and row.path == paths[row.version]]
        fetched = []
        for version in (*moves, *moved):
            with suppress(Obstacle, ValueError):  # of a key that is no path nothing has arrived
                keys.plain_path(bucket, version.key)
                path = paths[version]
                if _lies_at(path, version, disk) or incoming.take(version.key, path, version.size, version.seconds):
                    fetched.append(version)
        if fetched:
            disk.settle()
            disk.flush(paths[version] for version in fetched)
            store.fetched_gone(bucket, fetched)


def _waiting(bucket: str, store: Store, incoming: Incoming) -> _Arrivals:
    """Count what _take() would move."""
    arrivals = _Arrivals()
    for row in store.left_to_fetch(bucket, Place.PLAIN):
        if incoming.arrived(row.key, row.version.size, row.version.seconds):
            arrivals.objects += 1
            arrivals.bytes += row.version.size
    return arrivals


def _discard(bucket: str, store: Store, incoming: Incoming) -> Iterator[Event]:
    """Remove from the staging folder what _take() left: unfinished files, and objects that nobody asked the CLI for.

    A file stays if its object is to be fetched later, after a Glacier restore or when nothing is in its way any more: its
    bytes are paid for.
    """
    if removed := incoming.discard(partial(store.awaits, bucket)):
        files = count_of(removed, "file")
        yield Noted(bucket, f"removed {files} from the staging folder: unfinished, or not wanted")


def _lies_at(path: str, version: ObjectVersion, disk: Disk) -> bool:
    identity = disk.look(path)
    return identity is not None and (identity.size, identity.mtime_ns // 10**9) == (version.size, version.seconds)


# -- several at once


def _cut(bucket: str, store: Store, cli: Cli, objects: int, size: int) -> list[Directory]:
    return tuning.directories(store.left_to_cut(bucket), *tuning.pieces(objects, size, cli.processes))


class _Running:
    """One `aws s3 sync` in a thread of its own: what it started must not outlive that thread, so neither may end first."""

    def __init__(
        self,
        shard: Directory,
        lines: Generator[awscli.Line | awscli.Tick, None, awscli.Pass],
        config: Path,
        objects: int,
        written: int,
    ) -> None:
        """`objects` and `written` are what an earlier process brought of this shard."""
        self.shard = shard
        self._config = config
        self.objects = objects
        self.written = self._before = written
        self._brought = False
        self.ended: awscli.Pass | None = None
        self.failure: BaseException | None = None
        self.stop = Flag()
        self._lines = lines
        self.thread = Thread(target=self._watch, name=f"aws s3 sync {keys.show(shard.prefix)}")
        self.thread.start()

    def _watch(self) -> None:
        try:
            with closing(self._lines):
                while not self.stop.is_set():
                    event = next(self._lines)
                    if isinstance(event, awscli.Line):
                        self._brought = self._brought or event.kind == "downloaded"
                        self.objects += event.kind == "downloaded"
                    elif self._brought or event.bytes_written > 1 << 16:
                        self.written = self._before + event.bytes_written
        except StopIteration as end:
            self.ended = end.value
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self.failure = error
        finally:
            self._config.unlink(missing_ok=True)


class _Shards:
    """Runs the CLI for each shard, the heaviest first, as many at once as may be; the rows move as each ends."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._bucket = work.bucket
        self._store = work.store
        self._cli = work.cli
        self._slots = work.cli.processes
        self._numbers = count(1)
        self._restored = work.store.archived_counts(work.bucket)[0] > 0
        self._left_out = 0  # shards of which too much is at its path already

    def run(self, shards: Sequence[Directory]) -> Generator[Event, None, bool]:
        """Whether the CLI ran at all."""
        waiting = deque(shards)
        running: list[_Running] = []
        before: dict[Directory, tuple[int, int]] = {}  # (objects, bytes) of a shard whose process was stopped
        allowed = self._cli.bandwidth()
        try:
            while waiting or running:
                while waiting and len(running) < self._slots:
                    shard = waiting.popleft()
                    if started := self._start(shard, allowed, *before.pop(shard, (0, 0))):
                        running.append(started)
                for one in running:
                    one.thread.join(0.2 / len(running))
                for one in [one for one in running if not one.thread.is_alive()]:
                    running.remove(one)
                    if one.failure is not None:
                        raise one.failure
                    if one.ended is None:  # the limit is another one now; it goes on with what is in the staging folder
                        before[one.shard] = one.objects, one.written
                        waiting.appendleft(one.shard)
                        continue
                    yield from self._ended(one.shard, one.ended)
                    for folder in one.shard.folders():
                        yield from self._work.take(under=folder, names=one.shard.names)
                if (now := self._cli.bandwidth()) != allowed:
                    allowed = now
                    for one in running:  # a running process takes no new limit: it is started again
                        one.stop.set()
                far = [*((one.objects, one.written) for one in running), *before.values()]
                yield self._work.progress(sum(objects for objects, _ in far), sum(size for _, size in far))
        finally:
            for one in running:
                one.stop.set()
            for one in running:
                one.thread.join()
        if self._left_out:
            yield Noted(self._bucket, f"{count_of(self._left_out, 'folder')}: {_TOO_MANY}")
        return self._left_out < len(shards)

    def _ended(self, shard: Directory, ended: awscli.Pass) -> Iterator[Event]:
        """S3's wish for fewer requests makes one process less; a shard without it one more, up to what there may be."""
        where = keys.show(shard.prefix) or "/"
        if ended.throttled:
            self._slots = max(1, self._slots - 1)
            yield Noted(self._bucket, f"S3 asks to slow down: {self._slots} aws s3 sync at once from now on")
        else:
            self._slots = min(self._slots + 1, self._cli.processes)
        if ended.stalled:
            yield Warned(
                self._bucket, f"the CLI stood still at {where} for {self._cli.stall_seconds:.0f} s and was stopped"
            )
        elif ended.outcome not in (awscli.Outcome.DONE, awscli.Outcome.SKIPPED):
            message = ended.tail[-1] if ended.tail else f"exit status {ended.code}"
            yield Noted(self._bucket, f"the CLI ended with {ended.outcome.value} at {where}: {message}")

    def _start(self, shard: Directory, allowed: int | None, objects: int, written: int) -> _Running | None:
        cli, bucket = self._cli, self._bucket
        share = None if allowed is None else max(1, allowed // self._slots)
        transfer = cli.tune(shard.bytes / max(1, shard.objects), share) if cli.tune else cli.transfer
        force = False
        if self._restored:
            counts = [self._store.archived_under(bucket, folder) for folder in shard.folders()]
            restored, archived = (sum(column) for column in zip(*counts, strict=True))
            force = restored > 0 and (bool(shard.names) or archived <= PATTERNS // 2)
        # Objects taken by name are all wanted, and too many patterns would be widened to the whole folder.
        excludes = () if shard.names else _excludes(self._work, force, shard.prefix, shard.folders())
        if excludes is None:
            self._left_out += 1
            return None
        includes = (
            *(keys.exclude_pattern(folder, shard.prefix) + "*" for folder in shard.folders() if shard.children),
            *(keys.exclude_pattern(shard.prefix + name, shard.prefix) for name in shard.names),
        )
        arguments = awscli.arguments(
            bucket,
            str(self._work.incoming.prepare(shard.prefix)),
            prefix=shard.prefix,
            region=cli.region,
            endpoint_url=cli.endpoint_url,
            force_glacier=force,
            excludes=("*",) if includes else excludes,
            includes=includes,
            but=excludes if includes else (),
        )
        name = f"config-{next(self._numbers)}"
        environment = _environment(cli, transfer, name)
        lines = awscli.sync(
            cli.aws, arguments, environment, str(cli.folder), self._work.lock_fds, activity, cli.stall_seconds
        )
        return _Running(shard, lines, cli.folder / name, objects, written)


def _environment(cli: Cli, transfer: Transfer, name: str) -> dict[str, str]:
    """With a private configuration of this name, and a private HOME."""
    config, home = cli.folder / name, cli.folder / "home"
    config.touch(0o600)
    config.write_text(
        awscli.private_config(cli.profile, cli.services, transfer, cli.addressing_style, cli.credential_process),
        "utf-8",
    )
    awscli.private_home(cli.home, str(home))
    return awscli.environment(cli.environ, str(config), str(home))


# -- all of it at once


def _passes(work: _Work, pause: Callable[[float], None]) -> Generator[Event, None, bool]:
    """Run the CLI for the whole bucket, again and again while that helps; whether it ran at all.

    What arrived stays in the staging folder until the last pass is over: the next one must find it.
    """
    bucket, done, cli = work.bucket, work.done, work.cli
    fruitless = passes = 0
    arrived = _Arrivals()
    while (left := work.total_objects - done.objects - arrived.objects) > 0 and fruitless < FRUITLESS_PASSES:
        left_bytes = work.total_bytes - done.bytes - arrived.bytes
        if passes and left <= NOT_WORTH_A_PASS and left_bytes <= NOT_WORTH_A_PASS_BYTES:
            break
        if fruitless:
            pause(2.0**fruitless)
        ended = yield from _run(work, arrived)
        if ended is None:
            yield Noted(bucket, _TOO_MANY)
            break
        passes += 1
        before, arrived = arrived, _waiting(bucket, work.store, work.incoming)
        fruitless = 0 if arrived.objects > before.objects else fruitless + 1
        yield work.progress(arrived.objects, arrived.bytes)
        if ended.stalled:
            yield Warned(bucket, f"the CLI stood still for {cli.stall_seconds:.0f} s and was stopped")
        elif ended.outcome is not awscli.Outcome.DONE and done.objects + arrived.objects < work.total_objects:
            message = ended.tail[-1] if ended.tail else f"exit status {ended.code}"
            yield Noted(bucket, f"the CLI ended with {ended.outcome.value}: {message}")
    if passes:
        yield from work.take()
        yield work.progress(0, 0)
    return passes > 0


def _run(work: _Work, arrived: _Arrivals) -> Generator[Event, None, awscli.Pass | None]:
    """One pass; None where too much of the bucket is at its path already."""
    # Restored objects are listed as archived still, so the CLI passes over them unless it is forced; forced, it also
    # tries those that are not back. Those are excluded by name, and where they are too many to name it is not forced.
    cli = work.cli
    restored, archived = work.store.archived_counts(work.bucket)
    force = restored > 0 and archived <= PATTERNS // 2
    excludes = _excludes(work, force)
    if excludes is None:
        return None
    arguments = awscli.arguments(
        work.bucket,
        str(work.incoming.prepare("")),
        region=cli.region,
        endpoint_url=cli.endpoint_url,
        force_glacier=force,
        excludes=excludes,
    )
    environment = _environment(cli, cli.transfer, "config")
    lines = awscli.sync(cli.aws, arguments, environment, str(cli.folder), work.lock_fds, activity, cli.stall_seconds)
    objects = 0
    with ExitStack() as opened:
        # It holds settings of the user's configuration: it is removed as soon as the process has ended.
        opened.callback((cli.folder / "config").unlink, missing_ok=True)
        opened.enter_context(closing(lines))
        while True:
            try:
                event = next(lines)
            except StopIteration as end:
                ended: awscli.Pass = end.value
                return ended
            if isinstance(event, awscli.Line):
                objects += event.kind == "downloaded"
                continue
            # Lines into our pipe count as written too; until files arrive they are all there is.
            written = event.bytes_written if objects or event.bytes_written > 1 << 16 else 0
            yield work.progress(arrived.objects + objects, arrived.bytes + written)
