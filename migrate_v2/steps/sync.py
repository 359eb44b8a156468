"""What `aws s3 sync` can bring is on disk, and which rows that is was decided by looking at the disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from threading import Event as Flag
from threading import Thread

from migrate_v2 import keys, tuning
from migrate_v2.edges import awscli
from migrate_v2.edges.disk import Disk, Obstacle, activity
from migrate_v2.edges.store import Change, Store
from migrate_v2.errors import Refused
from migrate_v2.events import Ended, Event, Found, Noted, Progress, Started, Warned
from migrate_v2.flow import batched
from migrate_v2.model import FileState, Place, Row
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
    """Passes of the CLI until nothing that it can fetch is left, or it brings nothing any more.

    Of a large bucket, one pass for each shard of it, several at once. What is left then is for pull() and fetch(). Where a copy on disk may be the only one the CLI is not run at all: it would write
    over it whatever has come under its key since.
    """
    if store.holds_only_copies(bucket):
        return
    total_objects, total_bytes = store.start_fetching(bucket)
    restored, archived = store.archived_counts(bucket)
    # Restored among too many that are not: the CLI could not be told of the others, so these are for fetch().
    beyond = restored if archived > PATTERNS // 2 else 0
    if total_objects <= beyond:
        return
    disk.same_place()
    disk.make_folder(bucket)
    yield from _clear(bucket, store, disk)
    began = time.monotonic()
    yield Started(bucket, "sync", total_objects, total_bytes)
    come = _Arrivals()
    yield from _look(bucket, store, disk, come, rows_per_commit)
    there_before = come.bytes
    fruitless = passes = 0
    weight = (total_objects - beyond - come.objects) + (total_bytes - come.bytes) / tuning.OBJECT
    shards: list[Directory] = []
    if weight >= WORTH_CUTTING:
        shards = _cut(bucket, store, cli, total_objects - come.objects, total_bytes - come.bytes)
    if shards:
        passes = len(shards)
        yield from _Shards(bucket, store, disk, cli, lock_fds, rows_per_commit).run(
            shards, come, total_objects, total_bytes
        )
        yield from _clear(bucket, store, disk)
        fruitless = FRUITLESS_PASSES
    elif weight >= TOO_MUCH_FOR_ONE:
        yield Noted(bucket, "no folder in it is worth a process: the AWS CLI is not needed")
        fruitless = FRUITLESS_PASSES
    while (left := total_objects - come.objects) > 0 and fruitless < FRUITLESS_PASSES:
        if passes and left <= NOT_WORTH_A_PASS and total_bytes - come.bytes <= NOT_WORTH_A_PASS_BYTES:
            break
        if fruitless:
            pause(2.0**fruitless)
        before = come.objects
        ended = yield from _run(bucket, store, disk, cli, lock_fds, come, total_objects, total_bytes)
        passes += 1
        yield from _clear(bucket, store, disk)
        yield from _look(bucket, store, disk, come, rows_per_commit)
        fruitless = 0 if come.objects > before else fruitless + 1
        yield Progress(bucket, "sync", come.objects, come.bytes, total_objects, total_bytes)
        if ended.stalled:
            yield Warned(bucket, f"the CLI stood still for {cli.stall_seconds:.0f} s and was stopped")
        elif ended.outcome is not awscli.Outcome.DONE and come.objects < total_objects:
            said = ended.tail[-1] if ended.tail else f"exit status {ended.code}"
            yield Noted(bucket, f"the CLI ended with {ended.outcome.value}: {said}")
    seconds = time.monotonic() - began
    if passes:
        store.add_throughput(bucket, session, come.bytes - there_before, seconds)
    yield Ended(bucket, "sync", come.objects, come.bytes, seconds)


@dataclass(slots=True)
class _Arrivals:
    objects: int = 0
    bytes: int = 0


def _look(
    bucket: str,
    store: Store,
    disk: Disk,
    come: _Arrivals,
    rows_per_commit: int,
    under: str = "",
    names: Sequence[str] = (),
) -> Iterator[Event]:
    """Marks as downloaded what lies at its path with the size and the time that the listing gave; nothing else counts.

    Of what is `under` a folder those of these names alone, if there are any: others may be being written at this moment.
    """
    disk.settle()
    left = store.left_to_fetch(bucket, Place.PLAIN, under=under)
    for rows in batched((row for row in left if not names or row.key.removeprefix(under) in names), rows_per_commit):
        here, paths, blocked = [], [], []
        for row in rows:
            try:
                if _arrived(row, disk):
                    here.append(row.version)
                    paths.append(row.path)
            except Obstacle as obstacle:
                blocked.append(Change(row.version, FileState.ERROR, None, str(obstacle), obstacle.cause))
        disk.flush(paths)
        store.fetched(bucket, here)
        store.change(blocked)
        come.objects += len(here) + len(blocked)
        come.bytes += sum(version.size for version in here)
        for change in blocked:
            yield Found(bucket, change.version.key, change.version.version_id, change.verdict, change.reason)


def _arrived(row: Row, disk: Disk) -> bool:
    # The CLI gives a file the LastModified of the listing, in whole seconds, as the last thing it does.
    identity = disk.look(row.path)
    return (
        identity is not None
        and identity.size == row.version.size
        and identity.mtime_ns // 10**9 == int(row.version.last_modified.timestamp())
    )


def _clear(bucket: str, store: Store, disk: Disk) -> Iterator[Event]:
    """Removes temporary files that a killed CLI left; Refused where it would follow, or hang on, something else."""
    swept = 0
    for stray in disk.survey(bucket):
        if stray.kind == "temporary":
            if _left_by_the_cli(bucket, stray.path, store, disk):
                disk.remove_temporary(stray.path)
                swept += 1
        elif stray.kind != "hard link":
            raise Refused(
                f"{keys.show(stray.path)} in the destination is a {stray.kind}: the CLI would write through it or hang on"
                " it; move it away and run the same command again"
            )
    if swept:
        yield Noted(bucket, f"removed {swept:,} temporary files of an interrupted transfer")


def _left_by_the_cli(bucket: str, path: str, store: Store, disk: Disk) -> bool:
    """Of an object's name and no older than our knowledge of the bucket; anything else so named belongs to somebody."""
    stem = keys.without_suffix(path.removeprefix(f"{bucket}/"))
    held, identity = store.bucket(bucket), disk.look(path)
    if held is None or identity is None:
        return False
    if stem is not None and not store.names_object(bucket, stem[0], prefix=stem[1]):
        return False
    return identity.mtime_ns >= datetime.fromisoformat(held.created_at).timestamp() * 1e9


def _excludes(bucket: str, store: Store, force: bool) -> tuple[str, ...]:
    def unwanted() -> Iterator[str]:
        for row in store.not_for_the_cli(bucket, force):
            yield row.key

    return (*keys.STRUCTURAL, *keys.excludes(unwanted(), PATTERNS))


# -- several at once


def _cut(bucket: str, store: Store, cli: Cli, objects: int, size: int) -> list[Directory]:
    return tuning.directories(store.left_to_cut(bucket), *tuning.pieces(objects, size, cli.processes))


class _Running:
    """One `aws s3 sync` in a thread of its own: what it started must not outlive that thread, so neither may end first."""

    def __init__(
        self, shard: Directory, lines: Generator[awscli.Line | awscli.Tick, None, awscli.Pass], config: Path
    ) -> None:
        self.shard = shard
        self._config = config
        self.objects = self.written = 0
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
                    told = next(self._lines)
                    if isinstance(told, awscli.Line):
                        self.objects += told.kind == "downloaded"
                    elif self.objects or told.bytes_written > 1 << 16:
                        self.written = told.bytes_written
        except StopIteration as end:
            self.ended = end.value
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self.failure = error
        finally:  # a double of the user's, in which there may be secrets
            self._config.unlink(missing_ok=True)


class _Shards:
    """Runs the CLI for each shard, the heaviest first, as many at once as may be; the rows move as each ends."""

    def __init__(
        self, bucket: str, store: Store, disk: Disk, cli: Cli, lock_fds: Sequence[int], rows_per_commit: int
    ) -> None:
        self._bucket = bucket
        self._store = store
        self._disk = disk
        self._cli = cli
        self._lock_fds = lock_fds
        self._rows_per_commit = rows_per_commit
        self._slots = cli.processes
        self._numbers = count(1)
        self._restored = store.archived_counts(bucket)[0] > 0

    def run(
        self, shards: Sequence[Directory], come: _Arrivals, total_objects: int, total_bytes: int
    ) -> Generator[Event, None, None]:
        waiting = deque(shards)
        running: list[_Running] = []
        allowed = self._cli.bandwidth()
        try:
            while waiting or running:
                while waiting and len(running) < self._slots:
                    running.append(self._start(waiting.popleft(), allowed))
                for one in running:
                    one.thread.join(0.2 / len(running))
                for one in [one for one in running if not one.thread.is_alive()]:
                    running.remove(one)
                    if one.failure is not None:
                        raise one.failure
                    if one.ended is None:  # the limit is another one now
                        waiting.appendleft(one.shard)
                    else:
                        yield from self._ended(one.shard, one.ended)
                    for folder in one.shard.folders():
                        yield from _look(
                            self._bucket,
                            self._store,
                            self._disk,
                            come,
                            self._rows_per_commit,
                            under=folder,
                            names=one.shard.names,
                        )
                if (now := self._cli.bandwidth()) != allowed:
                    allowed = now
                    for one in running:  # a process cannot be told: it is begun anew, and goes on with what is missing
                        one.stop.set()
                yield Progress(
                    self._bucket,
                    "sync",
                    min(come.objects + sum(one.objects for one in running), total_objects),
                    min(come.bytes + sum(one.written for one in running), total_bytes),
                    total_objects,
                    total_bytes,
                )
        finally:
            for one in running:
                one.stop.set()
            for one in running:
                one.thread.join()

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
            said = ended.tail[-1] if ended.tail else f"exit status {ended.code}"
            yield Noted(self._bucket, f"the CLI ended with {ended.outcome.value} at {where}: {said}")

    def _start(self, shard: Directory, allowed: int | None) -> _Running:
        cli, bucket = self._cli, self._bucket
        share = None if allowed is None else max(1, allowed // self._slots)
        transfer = cli.tune(shard.bytes / max(1, shard.objects), share) if cli.tune else cli.transfer
        force = False
        if self._restored:
            counts = [self._store.archived_under(bucket, folder) for folder in shard.folders()]
            restored, archived = (sum(column) for column in zip(*counts, strict=True))
            force = restored > 0 and (bool(shard.names) or archived <= PATTERNS // 2)
        excludes: tuple[str, ...] = ()
        if not shard.names:  # none of those is unwanted, and too many patterns would become one of the whole folder
            unwanted = (
                row.key
                for folder in shard.folders()
                for row in self._store.not_for_the_cli(bucket, force, under=folder)
            )
            excludes = (*keys.STRUCTURAL, *keys.excludes(unwanted, PATTERNS, shard.prefix))
        includes = (
            *(keys.exclude_pattern(folder, shard.prefix) + "*" for folder in shard.folders() if shard.children),
            *(keys.exclude_pattern(shard.prefix + name, shard.prefix) for name in shard.names),
        )
        folder = f"{bucket}/{shard.prefix}".rstrip("/")
        self._disk.make_folder(folder, flush=False)
        arguments = awscli.arguments(
            bucket,
            str(self._disk.base / folder),
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
            cli.aws, arguments, environment, str(cli.folder), self._lock_fds, activity, cli.stall_seconds
        )
        return _Running(shard, lines, cli.folder / name)


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


def _run(
    bucket: str,
    store: Store,
    disk: Disk,
    cli: Cli,
    lock_fds: Sequence[int],
    come: _Arrivals,
    total_objects: int,
    total_bytes: int,
) -> Generator[Event, None, awscli.Pass]:
    """One pass; its value is the awscli.Pass."""
    # Restored objects are listed as archived still, so the CLI passes over them unless it is forced; forced, it also
    # tries those that are not back. Those are excluded by name, and where they are too many to name it is not forced.
    restored, archived = store.archived_counts(bucket)
    force = restored > 0 and archived <= PATTERNS // 2
    arguments = awscli.arguments(
        bucket,
        str(disk.base / bucket),
        region=cli.region,
        endpoint_url=cli.endpoint_url,
        force_glacier=force,
        excludes=_excludes(bucket, store, force),
    )
    environment = _environment(cli, cli.transfer, "config")
    lines = awscli.sync(cli.aws, arguments, environment, str(cli.folder), lock_fds, activity, cli.stall_seconds)
    objects = written = 0
    with ExitStack() as held:
        # A double of the user's configuration, in which there may be secrets: not kept longer than it is needed.
        held.callback((cli.folder / "config").unlink, missing_ok=True)
        held.enter_context(closing(lines))
        while True:
            try:
                told = next(lines)
            except StopIteration as end:
                ended: awscli.Pass = end.value
                return ended
            if isinstance(told, awscli.Line):
                objects += told.kind == "downloaded"
                continue
            # Lines into our pipe count as written too; until files come they are all there is.
            written = told.bytes_written if objects or told.bytes_written > 1 << 16 else 0
            yield Progress(
                bucket,
                "sync",
                min(come.objects + objects, total_objects),
                min(come.bytes + written, total_bytes),
                total_objects,
                total_bytes,
            )
