"""The order of the steps; the only place that moves a bucket's phase, and it does so by counting rows."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from threading import Event as Flag
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from migrate_v2 import __version__, conveyor, deletion, keys, model, policy, prices, tuning
from migrate_v2.anchor import MENDABLE, Mismatch, cut_ledger, look, mismatch, must_be_whole
from migrate_v2.durability import Durability, holds_state_file
from migrate_v2.durability import about as about_durability
from migrate_v2.edges import awscli
from migrate_v2.edges.credentials import CredentialServer
from migrate_v2.edges.crt import Engine
from migrate_v2.edges.disk import Disk, Lock, boot_id, clock_reading, destination_around, holders, machine
from migrate_v2.edges.mounts import mount_at
from migrate_v2.edges.s3 import S3, Deleter, PolicySetter, Restorer, Unreachable
from migrate_v2.edges.s3control import BatchRestorer
from migrate_v2.edges.store import BucketRow, Store, Upload
from migrate_v2.edges.store import now as timestamp
from migrate_v2.errors import BadUsage, Differs, Failure, NotFinished, Refused
from migrate_v2.events import Ended, Event, Failed, Found, Noted, PhaseEarned, Waiting, Warned
from migrate_v2.flow import batched
from migrate_v2.keys import are, count_of, show
from migrate_v2.model import (
    Adopt,
    FileState,
    GoneKind,
    Moment,
    Phase,
    Row,
    Rules,
    Site,
    Verdict,
    elapsed,
    phase_of,
    recently,
    uptime,
    why_kept,
)
from migrate_v2.ownfiles import must_be_outside, must_not_be_state
from migrate_v2.settings import Settings, bandwidth_at
from migrate_v2.shards import Sizes
from migrate_v2.steps import adopt as adopt_step
from migrate_v2.steps import audit as audit_step
from migrate_v2.steps import batch as batch_step
from migrate_v2.steps import delete as delete_step
from migrate_v2.steps import describe as describe_step
from migrate_v2.steps import errors as errors_step
from migrate_v2.steps import manifest as manifest_step
from migrate_v2.steps import policy as policy_step
from migrate_v2.steps import restore as restore_step
from migrate_v2.steps.fetch import LARGE, fetch
from migrate_v2.steps.hold import hold
from migrate_v2.steps.place import choose, finish_moves, place
from migrate_v2.steps.preflight import preflight
from migrate_v2.steps.pull import pull
from migrate_v2.steps.scan import must_be_as_listed, scan
from migrate_v2.steps.settle import settle
from migrate_v2.steps.status import stands
from migrate_v2.steps.sync import Cli, collect, look_for_gone, sync
from migrate_v2.steps.upgrade import upgrade
from migrate_v2.steps.verify import verify
from migrate_v2.workload import about, worth

# Seconds by which the clock may be put right (by NTP, say) between two readings without being thought to have been set.
CLOCK_TOLERANCE = 60.0
# Seconds between two looks at how many processes share the machine and the bandwidth.
SHARING = 30.0
# So many gone or overwritten objects never stop a bucket; of more, the setting max_change decides.
FEW_CHANGES = 100
# A file that came down wrong is fetched again this often before a person has to look.
ROUNDS = 3
# What the quarantine of a bucket may hold where no setting says it: a part of the bucket's bytes, and at least so many.
QUARANTINE_PERCENT, QUARANTINE_FLOOR = 10, 1 << 30

Events = Generator[Event, None, None]


class Tools:
    """What the steps work with, made when first needed and closed together; `session` names this process in the rows."""

    def __init__(self, settings: Settings, connect: Callable[[], S3], environ: Mapping[str, str]) -> None:
        self.settings = settings
        self._connect = connect
        self.environ = environ
        self.session = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self.said: set[str] = set()
        # Buckets, for each copy is read for it: while Glacier is waited for they are migrated again and again.
        self.asked_again: set[str] = set()
        self.waits = False  # this process stays until Glacier is back
        self.accepts_changes = False  # --accept-changes
        self._counted, self._among = -SHARING, 1
        self._found: Callable[[], awscli.Aws] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Tools:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def s3(self) -> S3:
        return self._connect()

    @cached_property
    def restorer(self) -> Restorer:
        return Restorer(self.s3)

    @cached_property
    def batch(self) -> BatchRestorer:
        account = self.settings.expected_bucket_owner or self.s3.identity().account
        if not account:
            raise Failure("the account is unknown, and a job needs it: set expected_bucket_owner to its 12 digits")
        return BatchRestorer(self.s3, account)

    @cached_property
    def store(self) -> Store:
        store = self._open.enter_context(Store.open(self.settings.state_db_path, named=self.settings.state_is_named))
        store.remember("version", __version__)
        return store

    @cached_property
    def disk(self) -> Disk:
        return self._open.enter_context(Disk.open(self.settings.base()))

    @cached_property
    def undo(self) -> Disk:
        """What is to be put back in S3: beside the state file, for it has nothing to do with where the buckets come to."""
        return self._open.enter_context(Disk.open(self.undo_folder))

    @property
    def undo_folder(self) -> Path:
        return self.settings.state_db_path.with_name(self.settings.state_db_path.name + ".undo")

    @cached_property
    def book(self) -> prices.PriceBook:
        """The rates by which this run tells what restores cost. A file that makes no sense stops no work: they are unknown."""
        try:
            return prices.load(prices.cache_file(self.environ), prices.own_file(None, self.settings.local_base_path))
        except BadUsage as error:
            return replace(prices.UNKNOWN, notes=(str(error),))

    def price(self, bucket: str) -> restore_step.Price:
        held = self.store.bucket(bucket)
        region = held.region if held else ""
        return lambda bought: about(worth(bucket, region, bought, self.book), self.book)

    @cached_property
    def caller(self) -> policy.Caller:
        return policy_step.identify(self.s3)

    def look_for_aws(self) -> None:
        """Begins to, beside other work: a CLI needs half a second to tell its version."""
        if self.settings.engine == "cli":
            stop = Flag()
            pool = self._open.enter_context(ThreadPoolExecutor(1))
            self._open.callback(stop.set)  # before the pool waits for its thread
            self._found = pool.submit(self._find_aws, stop).result

    @cached_property
    def aws(self) -> awscli.Aws:
        return self._found() if self._found else self._find_aws(Flag())

    def _find_aws(self, stop: Flag) -> awscli.Aws:
        explicit = self.settings.aws_path
        own = str(Path(sys.prefix) / "bin" / "aws")
        path = self.environ.get("PATH", "")
        return awscli.find(str(explicit) if explicit else None, path, own, stopped=stop.is_set)

    def cli(self, bucket: str, folder: Path, credential_process: str) -> Cli:
        held = self.store.bucket(bucket)
        assert held is not None
        profile, services = self.s3.cli_settings()
        return Cli(
            aws=self.aws,
            transfer=self.transfer(self._mean_size(bucket), self.bandwidth()),
            folder=folder,
            home=str(Path.home()),
            profile=profile,
            services=services,
            credential_process=credential_process,
            environ=self.environ,
            region=held.region,
            endpoint_url=self.s3.endpoint_flag,
            addressing_style=self.s3.addressing_style,
            processes=tuning.processes(self.cores(), machine().memory_available, self.bandwidth()),
            tune=self.transfer,
            bandwidth=self.bandwidth,
        )

    def bandwidth(self) -> int | None:
        """Bytes a second that all transfers of this process together may take now."""
        allowed = bandwidth_at(self.settings.max_bandwidth, datetime.now().time())
        return allowed and max(1, allowed // self._sharers())

    def cores(self) -> int:
        """That this process may use."""
        return max(1, machine().cores // self._sharers())

    def _sharers(self) -> int:
        """Processes that work with this state file, this one included: several buckets may be under way in as many."""
        if time.monotonic() - self._counted > SHARING:
            self._counted = time.monotonic()
            self._among = len(holders(self._run_folder) | {os.getpid()})
        return self._among

    @property
    def _run_folder(self) -> Path:
        return self.settings.state_db_path.with_name(self.settings.state_db_path.name + ".run")

    def transfer(self, mean_size: float, bandwidth: int | None = None) -> tuning.Transfer:
        s = self.settings
        return tuning.transfer(
            mean_size,
            self.cores(),
            threshold=s.multipart_threshold,
            chunk=s.multipart_chunksize,
            concurrency=s.max_concurrency,
            use_threads=s.use_threads,
            bandwidth=bandwidth,
        )

    def crew(self, mean_size: float) -> tuning.Crew:
        s = self.settings
        return tuning.crew(
            mean_size,
            self.cores(),
            machine().memory_available,
            threshold=s.multipart_threshold,
            part=s.multipart_chunksize,
            concurrency=s.max_concurrency,
            use_threads=s.use_threads,
        )

    def native(self, bucket: str) -> Engine:
        chosen = self.crew(self._mean_size(bucket))
        return Engine(chosen.workers, chosen.window, chosen.threshold, chosen.part, LARGE)

    def _mean_size(self, bucket: str) -> float:
        tallies = self.store.tallies(bucket)
        return sum(t.bytes for t in tallies) / max(1, sum(t.objects for t in tallies))

    @contextmanager
    def locked(self, bucket: str, *, destination: bool = True) -> Iterator[tuple[Path, list[int]]]:
        """The bucket is ours alone, in this state file and in this destination; gives the run's private folder, and the
        descriptors that every child has to inherit."""
        must_not_be_state(bucket, self.settings.state_db_path, self.settings.local_base_path)
        folder = self._run_folder / bucket
        with ExitStack() as held:
            locks = [Lock(folder / "lock", f"bucket {bucket}")]
            if destination:
                locks.append(Lock(self.disk.base / keys.SIDE / bucket / "lock", f"bucket {bucket} in {self.disk.base}"))
            for lock in locks:
                held.enter_context(lock)
            yield folder, [lock.fd for lock in locks]


# -- one bucket


def held_row(bucket: str, tools: Tools) -> BucketRow:
    held = tools.store.bucket(bucket)
    if held is None:
        raise Failure(f"{show(bucket)} is not in the state file")
    return held


def _advance(bucket: str, tools: Tools, *, anew: bool = False) -> Events:
    """Moves the phase to where the rows say that it is; `anew`: what is told beside the data has changed all the same."""
    before = held_row(bucket, tools).phase
    phase = phase_of(tools.store.counts(bucket))
    moved = phase is not before
    # Written before the phase moves, and again where a crash in between left it out.
    earned = phase in (Phase.DELETING, Phase.COMPLETE)
    lacking = manifest_step.lacks_manifest(bucket, tools.disk)
    stale = not lacking and tools.store.lists_are_stale(bucket)
    if anew or stale or (earned and (moved or lacking)):
        yield from _manifest(bucket, tools)
        tools.store.lists_are_current(bucket)
    if moved:
        tools.store.set_phase(bucket, phase)
        order = list(Phase)
        if order.index(phase) > order.index(before):
            yield PhaseEarned(bucket, before, phase)
    if phase is Phase.COMPLETE and (moved or manifest_step.lacks_snapshot(bucket, tools.disk)):
        yield from manifest_step.snapshot(bucket, tools.store, tools.disk)


def _manifest(bucket: str, tools: Tools) -> Events:
    yield from manifest_step.manifest(bucket, tools.store, tools.disk, stands(held_row(bucket, tools), tools.store))
    yield from describe_step.list_metadata(bucket, tools.store, tools.disk)


def _scan(bucket: str, tools: Tools) -> Events:
    yield from scan(bucket, tools.store, tools.s3, rows_per_commit=tools.settings.db_batch_commit_size)


def _same_bucket(bucket: str, tools: Tools) -> None:
    """Of a bucket that is deleted whole there is nothing to ask S3, nor need there be such a bucket any more."""
    if tools.store.left_in_s3(bucket):
        must_be_as_listed(held_row(bucket, tools), tools.s3.identity().account, tools.s3.endpoint_of(bucket))


def _restore(bucket: str, tools: Tools, *, beside: bool = True, by_jobs: bool = False) -> Events:
    """One look at Glacier: how far it is, what is about to expire, and what may be asked for now.

    `by_jobs`: jobs of S3 Batch Operations ask; what failed in one is asked for singly.
    """
    s, store = tools.settings, tools.store
    counts = store.counts(bucket)
    if counts.to_request or counts.restoring:
        _same_bucket(bucket, tools)
    since = _seconds_since_the_last_look(bucket, tools)
    means = _means(bucket, tools, since, beside)
    rows = s.db_batch_commit_size
    yield from restore_step.look_into_tiering(bucket, store, tools.s3, rows_per_commit=rows)
    yield from restore_step.refresh(bucket, store, tools.s3, rows_per_commit=rows)
    ahead = max(conveyor.GUARD, 0.0 if tools.waits else min(2 * since, 2 * conveyor.DAY))
    yield from restore_step.guard(bucket, store, tools.restorer, means, s3=tools.s3, ahead=ahead)
    if store.open_jobs(bucket):
        yield from batch_step.follow(bucket, store, tools.batch)
    yield from restore_step.request(bucket, store, tools.restorer, means, said=tools.said, failed_in_job=by_jobs)
    if by_jobs:
        role, report = _for_batch(bucket, tools)
        batch_step.choose(
            bucket,
            store,
            account=tools.batch.account,
            role=role,
            manifest_bucket=report,
            report_bucket=report,
            waves=partial(restore_step.rows_of_a_wave, bucket, store, means),
            tier=s.glacier_restore_tier,
        )
        yield from batch_step.follow(bucket, store, tools.batch, chosen_only=True)


def _for_batch(bucket: str, tools: Tools) -> tuple[str, str]:
    role, report = tools.settings.batch_role_arn, tools.settings.batch_report_bucket
    if not role or not report:
        missing = "batch_role_arn" if not role else "batch_report_bucket"
        raise BadUsage(f"--batch needs the setting {missing}; the README says what it is")
    if report == bucket:
        raise BadUsage(
            f"batch_report_bucket is {show(bucket)}: what is written there would be migrated; name another one"
        )
    return role, report


def _seconds_since_the_last_look(bucket: str, tools: Tools) -> float:
    seen = held_row(bucket, tools).restores_seen_at
    return time.time() - datetime.fromisoformat(seen).timestamp() if seen else conveyor.DAY / 2


def _means(bucket: str, tools: Tools, since: float, beside: bool) -> restore_step.Means:
    s = tools.settings
    days = s.glacier_restore_days
    # Who waits asks for more as it comes back; others when they are called again, which is when they were called before.
    horizon = 2 * conveyor.HOUR if tools.waits else min(max(2 * since, 2 * conveyor.HOUR), days * conveyor.DAY)
    known = beside or (s.local_base_path is not None and s.local_base_path.is_dir())
    return restore_step.Means(
        days=days,
        exactly=s.origin("glacier_restore_days") != "default",
        tier=s.glacier_restore_tier,
        at_most=s.max_glacier_restores,
        horizon=horizon if beside else days * conveyor.DAY,
        link=conveyor.link(*tools.store.fetched_so_far()),
        price=tools.price(bucket),
        disk=tools.disk.free().bytes if known else None,
        beside=beside,
    )


Value = TypeVar("Value")


def _beside(
    work: Generator[Event, None, Value], bucket: str, tools: Tools, *, at_once: bool = False
) -> Generator[Event, None, tuple[Value, bool]]:
    """Passes on what a long step tells, and in between looks after Glacier, so that neither waits for the other.

    Its value: that of the work, and whether anything came back meanwhile. What goes wrong with Glacier is raised when the
    work is done.
    """
    came_back = False
    broken: Failure | None = None
    due = time.monotonic() + (0.0 if at_once else _next_look([bucket], tools))
    aside: Events | None = None

    def look(*, to_the_end: bool = False) -> Events:
        nonlocal aside, broken, came_back, due
        if aside is None and not broken and time.monotonic() >= due:
            aside = _restore(bucket, tools)
        while aside is not None:
            try:
                event = next(aside)
            except StopIteration:
                aside = None
                seconds = _next_look([bucket], tools)
                due = time.monotonic() + seconds
                yield from _advance(bucket, tools)
                if tools.waits:
                    objects, size = _amount(bucket, tools, FileState.RESTORE_REQUESTED, FileState.RESTORING)
                    if objects:
                        yield Waiting(bucket, objects, size, seconds)
                return
            except Failure as failure:
                aside, broken = None, failure
                return
            came_back = came_back or (isinstance(event, Ended) and event.verb == "wait")
            yield event
            if not to_the_end:
                return

    while True:
        try:
            event = next(work)
        except StopIteration as end:
            value: Value = end.value
            break
        yield event
        yield from look()
    yield from look(to_the_end=True)
    if broken:
        raise broken
    return value, came_back


def _bring(bucket: str, tools: Tools, folder: Path, lock_fds: list[int]) -> Events:
    """Fetches what is at hand while what is archived is asked for, and what comes back meanwhile, until nothing does."""
    came_back = first = True
    while came_back:
        _, came_back = yield from _beside(_fetch(bucket, tools, folder, lock_fds), bucket, tools, at_once=first)
        first = False


def _next_look(buckets: Iterable[str], tools: Tools) -> float:
    """Seconds until Glacier is looked at again: when it may have brought something. Who waits may know better."""
    if tools.waits and tools.settings.restore_poll_seconds:
        return tools.settings.restore_poll_seconds
    asked = (
        (lot.at.timestamp(), lot.storage_class, lot.tier) for bucket in buckets for lot in tools.store.restoring(bucket)
    )
    return conveyor.next_look(asked, time.time())


def _sync(bucket: str, tools: Tools, folder: Path, lock_fds: list[int]) -> Events:
    tools.store.remember("aws_cli", f"{tools.aws.path} {tools.aws.text}")
    for passed_over in tools.aws.passed_over:
        if passed_over not in tools.said:
            tools.said.add(passed_over)
            yield Warned("", passed_over)
    if tools.aws.cost and "cost" not in tools.said:
        tools.said.add("cost")
        yield Noted("", f"using {tools.aws.path}: {tools.aws.cost}")
    with CredentialServer(folder, tools.s3.credential_document) as credentials:
        yield from sync(
            bucket,
            tools.store,
            tools.disk,
            tools.cli(bucket, folder, credentials.command),
            lock_fds,
            session=tools.session,
            rows_per_commit=tools.settings.db_batch_commit_size,
        )


def _fetch(bucket: str, tools: Tools, folder: Path, lock_fds: list[int]) -> Events:
    s = tools.settings
    rows = s.db_batch_commit_size
    yield from look_for_gone(bucket, tools.store, tools.disk, rows_per_commit=rows)
    yield from place(bucket, tools.store, tools.disk, rows_per_commit=rows)
    # Of a state file that knew nothing of the destination when the run began.
    yield from collect(bucket, tools.store, tools.disk, rows_per_commit=rows)
    counts = tools.store.counts(bucket)
    if not counts.to_fetch:
        return
    _same_bucket(bucket, tools)
    room = partial(_quarantine_has_room, bucket, tools)
    room()
    if s.engine == "cli":
        yield from _sync(bucket, tools, folder, lock_fds)
    yield from pull(
        bucket,
        tools.store,
        tools.disk,
        tools.s3,
        tools.native(bucket),
        lock_fds,
        session=tools.session,
        bandwidth=tools.bandwidth,
        room=room,
        sizes=Sizes(rows=s.batch_size),
    )
    yield from fetch(
        bucket,
        tools.store,
        tools.disk,
        tools.s3,
        session=tools.session,
        threads=s.max_concurrent_downloads,
        block_size=s.download_chunk_size,
        rows_per_commit=rows,
        bandwidth=tools.bandwidth,
        room=room,
    )


def _quarantine_has_room(bucket: str, tools: Tools) -> None:
    """Raises Failure where the quarantine of this bucket holds more than it may; nothing is ever removed from it."""
    total = sum(tally.bytes for tally in tools.store.tallies(bucket))
    limit = tools.settings.max_quarantine or max(QUARANTINE_FLOOR, total * QUARANTINE_PERCENT // 100)
    held = tools.disk.in_quarantine(bucket)
    if held > limit:
        raise Failure(
            f"{keys.SIDE}/{bucket}/quarantine holds {held:,} bytes of files that were not what S3 has, and max_quarantine is"
            f" {limit:,}; see what they are, remove those that you do not need or raise the setting, and run the same command"
            " again"
        )


def _verify(
    bucket: str,
    tools: Tools,
    rows: Iterable[Row],
    objects: int,
    size: int,
    verb: str = "verify",
    *,
    refetch: bool = False,
    untold: Verdict | None = None,
    all_of_it: bool = False,
    unanswered: list[int] | None = None,
) -> Generator[Event, None, Counter[Verdict | None]]:
    """Passes on what verify tells, but for findings that are `untold`, and counts its findings by verdict; None: a copy
    that nothing proves, of what is gone from S3.

    `all_of_it`: `rows` are all that have a local copy, so that no older reading counts any more. `unanswered` collects how
    many rows were left as they were, because S3 gave no usable answer.
    """
    found: Counter[Verdict | None] = Counter()
    _same_bucket(bucket, tools)
    events = verify(
        bucket,
        tools.store,
        tools.disk,
        tools.s3,
        rows,
        verb=verb,
        run=tools.session,
        threads=tools.settings.max_concurrent_verifications,
        rows_per_commit=tools.settings.db_batch_commit_size,
        total_objects=objects,
        total_bytes=size,
        refetch=tools.settings.download_chunk_size if refetch else 0,
        readers=min(tools.cores(), tools.settings.max_concurrent_verifications),
    )

    def all_events() -> Events:
        left = yield from events
        if unanswered is not None:
            unanswered.append(left)

    for event in all_events():
        if isinstance(event, Found) and event.verdict is not None:
            found[None if event.gone else event.verdict] += 1
            if event.verdict is untold and not event.gone:
                continue
        yield event
    before, now = tools.store.recall(f"clock {bucket}"), clock_reading()
    if all_of_it or _was_set(before, now):
        # Rows that were read by the other clock stay doubtful, however often it is read from now on.
        tools.store.remember(f"clock was set {bucket}", "" if all_of_it else "yes")
    tools.store.remember(f"clock {bucket}", " ".join(now))
    return found


def _left_to_describe(bucket: str, tools: Tools) -> Iterator[Row]:
    depth = tools.settings.metadata
    return iter(()) if depth == "none" else tools.store.left_to_describe(bucket, full=depth == "full")


def _describe(bucket: str, tools: Tools) -> Generator[Event, None, int]:
    """Records what lies beside the bytes, as far as S3 was not asked before; of how many versions."""
    if next(_left_to_describe(bucket, tools), None) is None:
        return 0
    _same_bucket(bucket, tools)
    return (
        yield from describe_step.describe(
            bucket,
            tools.store,
            tools.disk,
            tools.s3,
            metadata=tools.settings.metadata,
            threads=tools.settings.max_concurrent_downloads,
            rows_per_commit=tools.settings.db_batch_commit_size,
        )
    )


def _keep_configuration(bucket: str, tools: Tools) -> Events:
    _same_bucket(bucket, tools)
    yield from describe_step.keep_configuration(bucket, tools.disk, tools.s3)


def _amount(bucket: str, tools: Tools, *states: FileState, verdict: str | None = None) -> tuple[int, int]:
    picked = [t for t in tools.store.tallies(bucket) if t.state in states and (verdict is None or t.verdict == verdict)]
    return sum(t.objects for t in picked), sum(t.bytes for t in picked)


def _copies(bucket: str, tools: Tools) -> tuple[int, int]:
    """Local copies, of what is deleted or gone from S3 too."""
    gone = tools.store.gone(bucket)
    parts = (
        _amount(bucket, tools, FileState.DOWNLOADED, FileState.VERIFIED, FileState.DELETED),
        gone[GoneKind.ONLY_COPY],
        gone[GoneKind.UNPROVED_ONLY_COPY],
    )
    return sum(objects for objects, _ in parts), sum(size for _, size in parts)


def _gone(bucket: str, tools: Tools) -> int:
    return sum(objects for objects, _ in tools.store.gone(bucket).values())


def _unproved_only_copies(bucket: str, tools: Tools) -> int:
    return tools.store.gone(bucket)[GoneKind.UNPROVED_ONLY_COPY][0]


def _begin(bucket: str, tools: Tools, *, destination: bool = True, mends: bool = False) -> Events:
    """What is known, and what has to be known, before anything is done to a bucket.

    `mends`: what reads every copy again goes on with a destination that was restored from an older backup.
    """
    must_be_whole(bucket, tools.store)
    held = tools.store.bucket(bucket)
    if destination:
        if held is not None and held.base_id:
            tools.disk.claim(held.base_id)
        if found := mismatch(bucket, tools.store, tools.disk):
            if not mends or found.kind not in MENDABLE:
                raise Refused(found.text)
            yield Warned(bucket, found.text)
    if held is None:
        return
    if destination and held.base_id:
        tools.disk.remove_unfinished(bucket)
        yield from finish_moves(bucket, tools.store, tools.disk)
        # Before another listing: what has arrived may be all that is left of an object.
        rows = tools.settings.db_batch_commit_size
        yield from collect(bucket, tools.store, tools.disk, rows_per_commit=rows)
    if tools.store.rekeyed and "rekeyed" not in tools.said:
        tools.said.add("rekeyed")
        yield Warned(
            "",
            f"{show(str(tools.store.path))}.key is not the key that sealed the evidence: until `verify` has read the copies"
            " again, nothing is proved",
        )
    if tools.store.ledger.open(bucket):
        # Another endpoint's "not found" would pass for the end of these deletes.
        must_be_as_listed(held, tools.s3.identity().account, tools.s3.endpoint_of(bucket))
    yield from settle(bucket, tools.store, tools.s3)


def _changes_to_accept(bucket: str, tools: Tools) -> str:
    """What is to be said of a listing that shows more changes than the setting max_change allows; "" for any other.

    Changes are counted since the last listing that was accepted: an object that is gone stays gone in the next listing.
    The first listing of a bucket has none before it, also where an older toolkit knew the bucket.
    """
    row = held_row(bucket, tools)
    changes, allowed = row.gone_since + row.changed_since, tools.settings.max_change
    if not row.accepted_scan or changes <= FEW_CHANGES or 100 * changes <= allowed * row.known_rows:
        return ""
    return (
        f"of {row.known_rows:,} object versions of {bucket}, {row.gone_since:,} are gone and {row.changed_since:,} overwritten"
        f" since the last listing, more than {allowed} % (max_change). A lifecycle rule, ransomware, another bucket that was"
        " created under this name, or a policy that narrows the listing may be behind it: find out which"
    )


def _brake(bucket: str, tools: Tools, *, acts: bool) -> Events:
    """Refused: to act upon a listing with too many changes, unless the operator accepts them."""
    row = held_row(bucket, tools)
    if not row.scan_complete or row.accepted_scan == row.scan:
        return
    text = _changes_to_accept(bucket, tools)
    if text and not acts:
        yield Warned(bucket, f"{text}. `migrate` stops at this bucket without --accept-changes")
        return
    if text and not tools.accepts_changes:
        tools.store.set_phase(bucket, phase_of(tools.store.counts(bucket)))
        raise Refused(
            f"{text}. Nothing was fetched or restored; `migrate-v2 migrate --accept-changes {bucket}` goes on"
        )
    if text:
        yield Warned(bucket, f"{text}. The changes are accepted (--accept-changes)")
    tools.store.accept_listing(bucket, by_operator=text != "")


def _ensure_scanned(
    bucket: str,
    tools: Tools,
    *,
    rescan: bool = False,
    destination: bool = True,
    acts: bool = True,
    mends: bool = False,
) -> Events:
    """Lists the bucket where it has to be listed. `acts`: the caller acts upon the listing, and is stopped by max_change.

    `mends` as in _begin().
    """
    yield from _begin(bucket, tools, destination=destination, mends=mends)
    held = tools.store.bucket(bucket)
    if held is not None and held.scan_complete and not held.account and tools.store.left_in_s3(bucket):
        rescan = rescan or tools.s3.identity().account != ""
    if rescan or held is None or not held.scan_complete or held.unconfirmed:
        yield from _scan(bucket, tools)
    choose(bucket, tools.store, noncurrent=tools.settings.noncurrent)
    yield from _brake(bucket, tools, acts=acts)
    if destination:
        yield from _adopt(bucket, tools)
        yield from _advance(bucket, tools)
    else:  # the manifest waits for a command that knows where the data is
        tools.store.set_phase(bucket, phase_of(tools.store.counts(bucket)))


def _adopt(bucket: str, tools: Tools) -> Events:
    """Takes over what an older toolkit left."""
    if tools.store.may_adopt(bucket):
        _must_stand_alone(bucket, tools)
        yield from adopt_step.adopt(
            bucket,
            tools.store,
            tools.disk,
            _adopt_roots(tools),
            relative_to=_unless_all(Path.cwd()),
            how=Adopt(tools.settings.adopt),
            rows_per_commit=tools.settings.db_batch_commit_size,
        )


def _separate(bucket: str, tools: Tools) -> Events:
    """Gives hard links of earlier runs files of their own. They are to be verified then, so this is no part of a deletion."""
    yield from adopt_step.separate(
        bucket, tools.store, tools.disk, _adopt_roots(tools), how=Adopt(tools.settings.adopt), said=tools.said
    )


def _adopt_roots(tools: Tools) -> list[Path]:
    """Where files that an older toolkit recorded may be opened: beside its state file, and where the operator says."""
    before = tools.store.recall("upgraded_from")
    beside = _unless_all(Path(json.loads(before)["path"]).parent) if before else None
    return [*filter(None, [beside]), *tools.settings.adopt_roots]


def _unless_all(folder: Path) -> Path | None:
    """The root of all files has to be named by the operator: anything is below it."""
    return None if folder == Path(folder.anchor) else folder


def scan_bucket(bucket: str, tools: Tools, *, rescan: bool = False) -> Events:
    with tools.locked(bucket, destination=False):
        must_be_whole(bucket, tools.store)
        held = tools.store.bucket(bucket)
        if held is not None and held.scan_complete and not rescan and not held.unconfirmed:
            yield Noted(bucket, f"was listed at {held.scanned_at}; --rescan lists it again")
            return
        yield from _ensure_scanned(bucket, tools, rescan=True, destination=False, acts=False)
        yield stands(held_row(bucket, tools), tools.store)
        _must_be_confirmed(bucket, tools)


def manifests_only(bucket: str, tools: Tools, *, folder: Path) -> Events:
    """Manifests for jobs of S3 Batch Operations that somebody else makes; nothing is asked for."""
    with tools.locked(bucket, destination=False):
        yield from _ensure_scanned(bucket, tools, destination=False)
        rows = tools.settings.db_batch_commit_size
        yield from restore_step.look_into_tiering(bucket, tools.store, tools.s3, rows_per_commit=rows)
        yield from batch_step.write_manifests(bucket, tools.store, folder)


def restore_bucket(bucket: str, tools: Tools, *, batch: bool = False, upgrade: str = "") -> Events:
    """`batch`: by jobs of S3 Batch Operations. `upgrade`: to this tier, for what is on its way at a slower one."""
    if batch:
        _for_batch(bucket, tools)
    with tools.locked(bucket, destination=False):
        yield from _ensure_scanned(bucket, tools, destination=False)
        yield from _restore(bucket, tools, beside=False, by_jobs=batch)
        if upgrade:
            days = tools.settings.glacier_restore_days
            yield from restore_step.upgrade(
                bucket, tools.store, tools.restorer, tier=upgrade, days=days, price=tools.price(bucket)
            )
        tools.store.set_phase(bucket, phase_of(tools.store.counts(bucket)))
        yield stands(held_row(bucket, tools), tools.store)
        _conclude_restore(bucket, tools)


def _must_stand_alone(bucket: str, tools: Tools) -> None:
    """Refused where this destination and another one share a folder: each would take the other's files for its own."""
    disk = tools.disk
    base = show(str(disk.base))
    if (outer := disk.outer_destination()) is not None:
        raise Refused(
            f"{base} lies in a folder of another destination, {show(str(outer))}: move it out of there and name its new"
            " place by --dest; until then `status`, `verify` and `verify --offline` work"
        )
    held = tools.store.bucket(bucket)
    new_here = held is None or not held.base_id
    if inner := disk.inner_destination(bucket, deep=new_here):
        raise Refused(
            f"{base} cannot take {show(bucket)}: {show(str(disk.base / inner))} is a destination itself; move that out of"
            f" {base}, or name another --dest for this bucket"
        )


def warn_of_volatile(tools: Tools) -> Events:
    """Of a destination and a state file that may not last; once in a run."""
    chosen = tools.settings
    for path in filter(None, (chosen.local_base_path, chosen.state_db_path)):
        mount = mount_at(path)
        warning = f"{show(str(path))} is on {about_durability(mount.durability, mount.kind)}"
        if mount.durability is not Durability.LASTING and warning not in tools.said:
            tools.said.add(warning)
            yield Warned("", warning)


def sync_bucket(bucket: str, tools: Tools) -> Events:
    _must_stand_alone(bucket, tools)
    with tools.locked(bucket) as (folder, lock_fds):
        yield from _ensure_scanned(bucket, tools)
        yield from _separate(bucket, tools)
        yield from _fetch(bucket, tools, folder, lock_fds)
        yield from _advance(bucket, tools)
        yield stands(held_row(bucket, tools), tools.store)
        _conclude(bucket, tools, verified=False)


def verify_bucket(bucket: str, tools: Tools, *, refetch: bool = False) -> Events:
    """Reads all local copies again, verified and deleted ones too; with `refetch` also, from S3, what nothing else proves.

    A destination that was restored from an older backup is recorded as it is, once every copy was read.
    """
    with tools.locked(bucket):
        yield from _ensure_scanned(bucket, tools, mends=True)
        objects, size = _copies(bucket, tools)
        copies = tools.store.with_local_copy(bucket)
        untold = Verdict.UNPROVABLE if refetch else None
        unanswered: list[int] = []
        found = yield from _verify(bucket, tools, copies, objects, size, untold=untold, all_of_it=True)
        objects, size = _amount(bucket, tools, FileState.DOWNLOADED, verdict=Verdict.UNPROVABLE)
        if refetch and objects:
            unproved = (
                row for row in tools.store.in_state(bucket, FileState.DOWNLOADED) if row.verdict is Verdict.UNPROVABLE
            )
            found += yield from _verify(
                bucket, tools, unproved, objects, size, "refetch", refetch=True, unanswered=unanswered
            )
        tools.store.accept_key()
        if mismatch(bucket, tools.store, tools.disk):
            yield from manifest_step.certificate(bucket, tools.store, tools.disk)
        earned = phase_of(tools.store.counts(bucket)) in (Phase.DELETING, Phase.COMPLETE)
        yield from _advance(bucket, tools, anew=earned)
        yield stands(held_row(bucket, tools), tools.store)
        if differing := found[Verdict.DIFFERS] + found[Verdict.MISSING]:
            raise Differs(
                f"{count_of(differing, 'local copy', 'local copies')} in {bucket} {are(differing)} not what S3 has; `migrate` fetches them again where S3 has them"
            )
        if wrong := found[None]:
            raise Differs(_unproved_text(bucket, wrong))
        _conclude(bucket, tools)
        if unread := found[Verdict.UNREADABLE]:
            raise Failure(f"{count_of(unread, 'local copy', 'local copies')} in {bucket} cannot be read")
        if sum(unanswered):
            raise Failure(
                f"not compared with S3 in {bucket}: {count_of(sum(unanswered), 'local copy', 'local copies')}; run `verify --refetch` again"
            )


def _unproved_text(bucket: str, count: int) -> str:
    return (
        f"nothing proves {count_of(count, 'local copy', 'local copies')} of what is gone from {bucket}; nothing moves, and"
        f" {keys.SIDE}/{bucket}/evidence.jsonl lists them (unproved_only_copy): compare them with a backup"
    )


def migrate_bucket(bucket: str, tools: Tools, *, force_space: bool = False) -> Events:
    """Everything up to proof, from wherever the bucket stands; asks Glacier and does not wait for it."""
    _must_stand_alone(bucket, tools)
    yield from warn_of_volatile(tools)
    with tools.locked(bucket) as (folder, lock_fds):
        unproved = _unproved_only_copies(bucket, tools)
        yield from _ensure_scanned(bucket, tools)
        yield from _separate(bucket, tools)
        if (superseded := tools.store.superseded(bucket))[0]:
            yield Warned(
                bucket,
                f"objects that were overwritten in S3 after they were fetched: {superseded[0]:,} ({superseded[1]:,} bytes);"
                f" their former contents are kept, and {keys.SIDE}/{bucket}/evidence.jsonl lists them (superseded)",
            )
        if again := tools.store.try_again(bucket):
            yield Noted(bucket, f"trying {again:,} failed objects again")
        if bucket not in tools.asked_again:
            tools.asked_again.add(bucket)
            if unsaid := tools.store.ask_again(bucket):
                yield Noted(
                    bucket, f"asking S3 again for the checksums of {count_of(unsaid, 'object')} that it refused to tell"
                )
        # Before anything is restored: that is paid for, and would expire beside a full disk.
        yield from preflight(bucket, tools.store, tools.disk, force=force_space)
        rescanned = False
        for round_ in range(1, ROUNDS + 1):
            found: Counter[Verdict | None] = Counter()
            came_back = True
            while came_back:
                yield from _bring(bucket, tools, folder, lock_fds)
                yield from _advance(bucket, tools)
                came_back = False
                objects, size = _amount(bucket, tools, FileState.DOWNLOADED, verdict="")
                if objects:
                    verifying = _verify(bucket, tools, tools.store.left_to_verify(bucket), objects, size)
                    seen, came_back = yield from _beside(verifying, bucket, tools)
                    found += seen
                    yield from _advance(bucket, tools)
            if describe_step.lacks_configuration(bucket, tools.disk):
                try:
                    yield from _keep_configuration(bucket, tools)
                except Unreachable as failure:  # confirm-delete asks again, and stops where there is no answer
                    yield Warned(bucket, str(failure))
            gone = _gone(bucket, tools)
            described = yield from _describe(bucket, tools)
            if _gone(bucket, tools) != gone:
                yield from _advance(bucket, tools)
            if described and held_row(bucket, tools).phase in (Phase.DELETING, Phase.COMPLETE):
                yield from describe_step.list_metadata(bucket, tools.store, tools.disk)
            if not rescanned and (tools.store.any_changed(bucket) or tools.store.any_doubtful(bucket)):
                rescanned = True
                yield Noted(bucket, "some objects have changed in S3 since they were listed; listing it again")
                yield from _ensure_scanned(bucket, tools, rescan=True)
                continue
            differing = found[Verdict.DIFFERS] + found[Verdict.MISSING]
            if not differing:
                break
            if round_ == ROUNDS:
                yield stands(held_row(bucket, tools), tools.store)
                raise Differs(f"{count_of(differing, 'object')} of {bucket} came down wrong {ROUNDS} times")
            yield Noted(
                bucket,
                f"{count_of(differing, 'local copy', 'local copies')} {are(differing)} not what S3 has; fetching again",
            )
        yield stands(held_row(bucket, tools), tools.store)
        if (more := _unproved_only_copies(bucket, tools) - unproved) > 0:
            raise Differs(_unproved_text(bucket, more))
        _conclude(bucket, tools)


def _must_be_confirmed(bucket: str, tools: Tools) -> None:
    if unconfirmed := held_row(bucket, tools).unconfirmed:
        raise Failure(
            f"{unconfirmed:,} object versions of {bucket} are not listed any more, and S3 does not say whether they are gone:"
            " grant s3:GetObject and s3:GetObjectVersion on this bucket, or wait until S3 answers, and run the same command"
            " again"
        )


def _conclude_restore(bucket: str, tools: Tools) -> None:
    counts = tools.store.counts(bucket)
    if waiting := counts.to_request + counts.restoring:
        raise NotFinished(
            f"{count_of(waiting, 'object')} of {bucket} {are(waiting)} not back from Glacier; run the same command again"
        )
    if counts.fetch_errors:
        raise Failure(
            f"{count_of(counts.fetch_errors, 'object')} of {bucket} {are(counts.fetch_errors)} in error; `migrate-v2 errors {bucket}` says why, and what to do"
        )
    _must_be_confirmed(bucket, tools)


def _conclude(bucket: str, tools: Tools, *, verified: bool = True) -> None:
    """Raises what the rows say of how the bucket stands; Glacier's absence is told first, for time alone cures it."""
    counts = tools.store.counts(bucket)
    if waiting := counts.to_request + counts.restoring:
        raise NotFinished(
            f"{count_of(waiting, 'object')} of {bucket} {are(waiting)} not back from Glacier; run the same command again"
        )
    if errors := counts.fetch_errors + counts.verify_errors:
        raise Failure(
            f"{count_of(errors, 'object')} of {bucket} {are(errors)} in error; `migrate-v2 errors {bucket}` says why, and what to do"
        )
    if counts.to_fetch:
        raise Failure(
            f"{count_of(counts.to_fetch, 'object')} of {bucket} {are(counts.to_fetch)} not fetched yet; run `migrate` for it"
        )
    if verified and counts.to_verify:
        raise Failure(
            f"{count_of(counts.to_verify, 'object')} of {bucket} {are(counts.to_verify)} not verified yet; run `migrate` for it"
        )
    _must_be_confirmed(bucket, tools)


# -- without AWS


def upgrade_file(given: str | None, settings: Settings) -> Events:
    """The state file of these settings, made from an older one: from the named file, or from itself."""
    target = settings.state_db_path
    source = Path(given).absolute() if given is not None else target
    with Lock(target.with_name(target.name + ".run") / ".upgrade" / "lock", f"state file {target}"):
        roots = [*filter(None, [_unless_all(source.parent), settings.local_base_path]), *settings.adopt_roots]
        yield from upgrade(source, target, roots=roots, rows_per_commit=10 * settings.db_batch_commit_size)


def audit(names: list[str] | None, settings: Settings, codes: list[int]) -> Events:
    """Holds a destination to what was written beside it, all of its buckets if None is named: no S3, no state file, no
    lock, and nothing is written."""
    with Disk.open(settings.base(), create=False, writes=False) as disk:
        if names is None:
            names = audit_step.recorded_buckets(disk)
            if not names:
                raise Failure(f"nothing to check: {show(str(disk.base))} holds no {keys.SIDE} with a bucket in it")
        yield from each(names, lambda bucket: _audit(bucket, disk, settings.max_concurrent_verifications), codes)


def _audit(bucket: str, disk: Disk, threads: int) -> Events:
    wrong = 0
    for event in audit_step.audit(bucket, disk, threads=threads):
        wrong += isinstance(event, Found)
        yield event
    if wrong:
        raise Differs(f"{count_of(wrong, 'thing')} in {show(bucket)} {are(wrong)} not what was recorded")


def backup_state(target: Path, settings: Settings) -> Events:
    """A copy of the state file and its key. The state file may be where no other command takes it from."""
    if (base := destination_around(target.parent)) is not None:
        raise Refused(
            f"{show(str(target))} would lie among the copies of buckets, in {show(str(base))}: name a file elsewhere, on"
            " another disk if you can"
        )
    must_be_outside(target, "the copy of the state file", settings.local_base_path, cure="name another file")
    path = settings.state_db_path
    if not path.exists():
        raise Failure(f"there is no state file {show(str(path))} yet; `migrate` or `scan` makes it")
    shared = holds_state_file(mount_at(path.parent).kind)
    with Store.open(path, named=settings.state_is_named, shared=shared) as store:
        store.backup(target)
    yield Noted("", f"{show(str(target))} is a copy of {show(str(path))}, and {show(target.name)}.key of its key")


def known_buckets(names: list[str] | None, tools: Tools) -> list[str]:
    """The named buckets, or all of the state file that are not excluded. Failure: one that the state file does not know."""
    known = tools.store.buckets()
    if names is None:
        return [name for name in known if name not in tools.settings.excluded_buckets]
    for name in names:
        if name not in known:
            raise Failure(f"{show(name)} is not in the state file; run `scan` for it")
    return names


def mismatches(names: Iterable[str], tools: Tools) -> dict[str, Mismatch]:
    """Where destination and state file do not know of the same deletions; nothing is made, and nothing refused."""
    found: dict[str, Mismatch | None] = {name: cut_ledger(name, tools.store) for name in names}
    base = tools.settings.local_base_path
    if base is not None and base.is_dir():
        with suppress(Failure), Disk.open(base, create=False, writes=False) as disk:
            found = {name: cut or look(name, tools.store, disk) for name, cut in found.items()}
    return {name: one for name, one in found.items() if one is not None}


def retry_errors(bucket: str, tools: Tools, *, cause: str | None) -> Events:
    with tools.locked(bucket, destination=False):
        must_be_whole(bucket, tools.store)
        rows = tools.settings.db_batch_commit_size
        yield from errors_step.retry(bucket, tools.store, cause, rows_per_commit=rows)
        tools.store.set_phase(bucket, phase_of(tools.store.counts(bucket)))


@dataclass(frozen=True, slots=True)
class Oblivion:
    """What `reset` would forget of one bucket, and how many rows it would keep because they protect only copies."""

    bucket: str
    phase: Phase
    objects: int
    bytes: int
    stays: int


def oblivion(names: Iterable[str], tools: Tools) -> tuple[list[Oblivion], str]:
    """With the token that stands for exactly this."""
    told = []
    digest = hashlib.sha256()
    for name in names:
        tallies = tools.store.tallies(name)
        objects, size = sum(t.objects for t in tallies), sum(t.bytes for t in tallies)
        stays = tools.store.only_copies(name)
        told.append(Oblivion(name, held_row(name, tools).phase, objects, size, stays))
        digest.update(json.dumps([tools.store.identity(), name, stays, sorted(map(repr, tallies))]).encode())
    return told, digest.hexdigest()[:40]


def reset_bucket(bucket: str, tools: Tools) -> Events:
    """Local files stay, and so do the rows without which the copies of deleted objects could be written over."""
    with tools.locked(bucket, destination=False):
        must_be_whole(bucket, tools.store)
        if tools.store.ledger.open(bucket):
            raise Refused(
                f"deletes in {bucket} were interrupted, and nobody knows yet what became of them: run `scan` for it first"
            )
        stays = tools.store.forget(bucket)
        yield Noted(bucket, "forgotten; its local files stay")
        if stays:
            yield Noted(
                bucket,
                f"{count_of(stays, 'row')} {are(stays)} kept: the local copies may be all that is left of objects that S3 does not hold any more",
            )


# -- many buckets


def each(
    names: Iterable[str],
    work: Callable[[str], Events],
    codes: list[int],
    goes_on: Callable[[str], bool] = lambda bucket: False,
) -> Events:
    """The same for every bucket; what one fails at is told and does not stop the others. `codes` collects how they ended.

    A bucket that is not finished has not ended where the program `goes_on` with it.
    """
    for bucket in names:
        try:
            yield from work(bucket)
        except NotFinished as unfinished:
            if not goes_on(bucket):
                codes.append(unfinished.code)
                yield Failed(bucket, unfinished.code, str(unfinished))
        except Failure as failure:
            codes.append(failure.code)
            yield Failed(bucket, failure.code, str(failure))


def until_back(
    names: Iterable[str],
    work: Callable[[str], Events],
    tools: Tools,
    codes: list[int],
    *,
    wait: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Events:
    """`each`, and with `wait` again for the buckets that Glacier keeps waiting, until it does not."""
    names = list(names)
    tools.waits = wait
    pending: list[str] = []

    def goes_on(bucket: str) -> bool:
        if not wait or not _in_glacier(bucket, tools):
            return False
        pending.append(bucket)
        return True

    while True:
        pending.clear()
        yield from each(names, work, codes, goes_on)
        if not pending:
            return
        names = list(pending)
        due = time.monotonic() + _next_look(pending, tools)
        while (left := due - time.monotonic()) > 0:
            for bucket in pending:
                objects, size = _amount(bucket, tools, FileState.RESTORE_REQUESTED, FileState.RESTORING)
                yield Waiting(bucket, objects, size, left)
            sleep(min(1.0, left))


def _in_glacier(bucket: str, tools: Tools) -> bool:
    counts = tools.store.counts(bucket)
    return counts.to_request + counts.restoring > 0


# -- deletion


def site_of(bucket: str, tools: Tools) -> Site:
    versioning, mfa_delete, _ = tools.s3.versioning(bucket)
    return Site(tools.s3.identity().account, tools.s3.endpoint_of(bucket), bucket, versioning, mfa_delete)


def _safe_to_delete_at(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return
    if parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise Refused(f"{endpoint} is not encrypted: what it says could be anybody's word, so nothing is deleted by it")
    # botocore asks for loopback, too, by way of HTTP_PROXY.
    if getproxies().get("http") and not proxy_bypass(parts.netloc):
        raise Refused(
            f"{endpoint} is asked through a proxy, unencrypted: what it says could be anybody's word, so nothing is deleted"
            " by it; set NO_PROXY=127.0.0.1,localhost"
        )


def _versioning_settled(bucket: str, tools: Tools) -> bool:
    """Whether versioning has been Enabled so long that S3 applies it everywhere."""
    now = Moment(tools.s3.versioning(bucket).date, boot_id(), uptime())
    return elapsed(tools.store.enabled_since(bucket), now) >= model.VERSIONING_SETTLES


# Multipart uploads are aborted if they began longer ago than this; a younger one may be under way.
UPLOAD_AGE = timedelta(hours=24)

_NOT_RECORDED = {
    "none": "content headers, user metadata, tags, ACLs and annotations are",
    "head": "ACLs and annotations are",
}


def confirm_delete(
    bucket: str,
    tools: Tools,
    consent: Callable[[deletion.Plan], str],
    *,
    token: str = "",
    remove_bucket: bool = False,
    abort_uploads: bool = False,
    upload_age: timedelta = UPLOAD_AGE,
    at_most: int | None = None,
    trust: timedelta | None = None,
    allow_older_current: bool = False,
    allow_volatile: bool = False,
    dry_run: bool = False,
) -> Events:
    """Lists the bucket again, makes the plan, asks `consent` for it, reads every copy again, and deletes the plan.

    `consent` shows the plan; it returns the words in which it was agreed to, "" for a dry run, and raises Refused where it
    was not. `token` is that of the plan that the operator has seen, if any: what is left of an interrupted one goes on
    under it. Uploads are aborted that are older than `upload_age`. `at_most` so many versions and markers go; copies read
    within `trust` are not read again. With `allow_older_current` a version may go although an older one stays and becomes
    current by that; with `allow_volatile` the copies may lie where they may not last. A `dry_run` shows the plan where the
    deletion itself would be refused.
    """
    held = tools.store.bucket(bucket)  # before the lock, which makes a folder of that name
    if held is None or not held.scanned_at:
        raise Refused(f"nothing of {show(bucket)} is proved; run `migrate` for it first")
    _must_stand_alone(bucket, tools)
    with tools.locked(bucket):
        held = held_row(bucket, tools)
        if trust is not None:
            _same_clock(bucket, tools)
            if not tools.disk.notices_edits():
                raise Refused(
                    f"the file system of {show(str(tools.disk.base))} does not show that a file was edited if its size and"
                    " mtime are as before, so all copies have to be read again: do without --trust-recent"
                )
        tools.store.check_ledger(bucket)
        if not held.scan_complete:  # an interrupted deletion was listing; what it saw is not of today
            yield from _ensure_scanned(bucket, tools)
        settled = _versioning_settled(bucket, tools)  # before the listing: what it shows keeps its id `null` then
        yield from _ensure_scanned(bucket, tools, rescan=True)
        _must_be_confirmed(bucket, tools)
        if unlisted := held_row(bucket, tools).unlisted:
            raise Refused(
                f"the listing of {bucket} left out {unlisted:,} object versions that S3 has, so nothing is deleted by it; see"
                " whether a cache or a policy narrows it, and run the same command again"
            )
        site = site_of(bucket, tools)
        if (
            site.versioning != held_row(bucket, tools).versioning
        ):  # by which the listing was read: `null` means another thing now
            raise Refused(f"the versioning of {show(bucket)} has changed while it was listed; run the same again")
        yield from hold(
            bucket,
            tools.store,
            tools.s3,
            threads=tools.settings.max_concurrent_downloads,
            rows_per_commit=tools.settings.db_batch_commit_size,
            total_objects=_amount(bucket, tools, FileState.VERIFIED)[0],
        )
        now = Moment(tools.s3.versioning(bucket).date, boot_id(), uptime())
        if abort_uploads:
            if now.date is None:
                raise Refused(
                    f"{site.endpoint} sends no Date, so nobody knows how old the uploads in {show(bucket)} are; do without"
                    " --abort-uploads"
                )
            tools.store.list_uploads(bucket, (Upload(*upload) for upload in tools.s3.uploads(bucket)))

        rules = Rules(
            keep_noncurrent=tools.settings.noncurrent == "keep",
            allow_older_current=allow_older_current,
            null_settled=settled and not tools.store.null_taken_since_enabled(bucket),
            # By S3's clock and by this machine's: a proxy may put a Date of its own into each answer.
            uploads_before=min(now.date, datetime.now(UTC)) - upload_age if abort_uploads and now.date else None,
        )

        def planned_now() -> deletion.Plan:
            return deletion.plan(tools.store, site, rules, trust=trust, resumes=token, mount=tools.disk.mount)

        planned = planned_now()
        if planned.objects and (lost := _NOT_RECORDED.get(tools.settings.metadata)):
            yield Warned(
                bucket, f"{lost} not recorded (the setting metadata is {tools.settings.metadata}): they go too"
            )
        if planned.needs_allow_volatile and not allow_volatile and not dry_run:
            raise Refused(
                f"{show(str(tools.disk.base))} is on {planned.rests_on}. Nothing was deleted: move the destination to a disk"
                " that lasts and name it by --dest, or give --allow-volatile"
            )
        agreed = consent(planned)
        if not agreed or dry_run:
            return
        left_over = 0
        new = (0, 0)
        if not planned.objects and not planned.markers and not planned.uploads:
            if planned.kept:
                raise Refused(f"nothing in {show(bucket)} is proved and may go; --dry-run says why each object stays")
            yield Noted(bucket, "nothing is left to delete")
            if tools.store.ledger.last(bucket)[0] > tools.store.ledger.anchors(bucket).certified:  # a kill came between
                yield from manifest_step.certificate(bucket, tools.store, tools.disk)
            if remove_bucket:
                yield from _keep_configuration(bucket, tools)
        else:
            _safe_to_delete_at(site.endpoint)
            if damage := tools.store.damage(of_indexes=True):
                raise Failure(
                    f"{show(str(tools.store.path))} is damaged ({show(damage)}), so nothing was deleted by it: keep it, put a"
                    " backup in its place, or begin with a new one"
                )
            yield from _describe(bucket, tools)
            for row in _left_to_describe(bucket, tools):
                if row.state is FileState.VERIFIED and not why_kept(row, site, rules):
                    raise Failure(
                        f"S3 gives no metadata of {show(row.key)} now, or has changed it; nothing was deleted: run the same again"
                    )
            for rows in batched(deletion.to_delete(tools.store, site, rules), 1000):
                versions = [row.version for row in rows]
                tools.store.record_tags(delete_step.changed_tags(tools.store, tools.s3, site, versions))
            going = deletion.to_delete(tools.store, site, rules)
            unread = (row for row in going if _must_be_read(row, tools, trust))
            amount = (planned.objects, planned.bytes) if trust is None else (0, 0)
            found = yield from _verify(bucket, tools, unread, *amount, "prove")
            if sum(found.values()):
                yield from _advance(bucket, tools)
                raise Differs(
                    f"{count_of(sum(found.values()), 'local copy', 'local copies')} in {bucket} {are(sum(found.values()))} not what was verified; nothing was deleted."
                    " Run `migrate` and then `confirm-delete` again"
                )
            if trust is not None:  # by which clock was it told what is recent?
                _same_clock(bucket, tools)
            if planned_now().token != planned.token:
                raise Refused(f"the plan for {show(bucket)} changed while the copies were read; nothing was deleted")
            yield from _keep_configuration(bucket, tools)
            # Also of a bucket of which not all could be proved: what goes is listed beside its copies before it goes.
            yield from _manifest(bucket, tools)
            under = planned.resumes or planned.token
            tools.store.ledger.consent(bucket, under, _facts(planned, tools, agreed, allow_volatile))
            deleter = Deleter(tools.s3)
            delete_step.try_wrong_etag(
                tools.store, tools.disk, deleter, site, rules, run=tools.session, token=under, trust=trust
            )
            yield from delete_step.delete(
                tools.store,
                tools.disk,
                deleter,
                site,
                rules,
                run=tools.session,
                token=under,
                unchanged=lambda: site_of(bucket, tools),
                total_objects=planned.objects,
                total_bytes=planned.bytes,
                at_most=at_most,
                trust=trust,
            )
            left_over = max(0, planned.objects + planned.markers - at_most) if at_most is not None else 0
            if abort_uploads and not left_over:
                yield from delete_step.abort_uploads(
                    tools.store, tools.disk, Deleter(tools.s3), site, rules, token=under
                )
            # What S3 lists afterwards is the last word: it shows what was put meanwhile, and a delete that did not take.
            listed_again = timestamp()
            yield from _scan(bucket, tools)
            yield from _advance(bucket, tools, anew=True)
            yield from manifest_step.certificate(bucket, tools.store, tools.disk)
            new = tools.store.new_since(bucket, listed_again)
            if new[0]:
                yield Noted(
                    bucket,
                    f"new since the plan, and staying in S3: objects {new[0]:,}, bytes {new[1]:,}; run `migrate`",
                )
        if remove_bucket and not left_over:
            yield from _remove(bucket, tools)
        yield replace(stands(held_row(bucket, tools), tools.store), new_since_plan=new)
        if left_over:
            raise NotFinished(
                f"{at_most:,} of {planned.objects + planned.markers:,} were deleted from {bucket}, as --max-delete says;"
                " run the same command again for the next"
            )


def _facts(planned: deletion.Plan, tools: Tools, agreed: str, allow_volatile: bool) -> dict[str, object]:
    """What the ledger keeps of a consent: under names that its entries have not themselves."""
    return {
        "account": planned.site.account,
        "endpoint": planned.site.endpoint,
        "versioning": planned.site.versioning,
        "identity": tools.s3.identity().arn,
        "agreed": agreed,
        "objects": planned.objects,
        "bytes": planned.bytes,
        "delete_markers": planned.markers,
        "uploads": planned.uploads,
        "allow_older_current": planned.rules.allow_older_current,
        "trust_recent_seconds": None if planned.trust is None else int(planned.trust.total_seconds()),
        "file_system": planned.mount.kind,
        "durability": planned.mount.durability,
        "allow_volatile": allow_volatile,
        "migrate_v2": __version__,
    }


def _must_be_read(row: Row, tools: Tools, trust: timedelta | None) -> bool:
    """Not where a trusted reading was of this very file; that it is still this file is looked at once more before its batch."""
    return not (recently(row.read_at, trust) and row.identity is not None and tools.disk.look(row.path) == row.identity)


def _same_clock(bucket: str, tools: Tools) -> None:
    """How old a reading is, is told by the clock: nobody must have set it since the first of them."""
    if tools.store.recall(f"clock was set {bucket}") or _was_set(
        tools.store.recall(f"clock {bucket}"), clock_reading()
    ):
        raise Refused(
            "the clock was set, or this machine started anew, since the copies were read, so none is recent; do without"
            " --trust-recent"
        )


def _was_set(before: str, now: tuple[str, str, str]) -> bool:
    """Between two readings; by what it was set while the machine was off, nobody knows."""
    if not before:
        return False
    boot, wall, uptime_ = before.split()
    passed, really = float(now[1]) - float(wall), float(now[2]) - float(uptime_)
    return boot != now[0] or passed < 0 or abs(passed - really) > CLOCK_TOLERANCE


def _remove(bucket: str, tools: Tools) -> Events:
    _safe_to_delete_at(tools.s3.endpoint_of(bucket))
    left = next(tools.store.in_s3(bucket), None)
    if left is not None or tools.store.marker_count(bucket):
        raise Refused(
            f"not all that was listed of {show(bucket)} is deleted, so the bucket is not removed; `confirm-delete --dry-run`"
            " says what is kept"
        )
    facts = tools.s3.facts(bucket)
    if facts.uploads != 0:
        raise Refused(f"bucket {show(bucket)} holds unfinished uploads, or will not say; it is not removed")
    # S3 refuses to remove a bucket that has objects. Not every server does.
    if not tools.s3.is_empty(bucket, versioned=facts.versioning != ""):
        raise Refused(f"bucket {show(bucket)} has objects by now; it is not removed. Run `migrate` for it again")
    Deleter(tools.s3).remove_bucket(bucket)
    yield Warned(bucket, "the bucket itself is removed; its name may be taken by anybody now")


# -- policies

Draft = policy_step.Draft


def _owner_of_buckets(tools: Tools) -> str:
    return tools.settings.expected_bucket_owner or tools.s3.identity().account


def generate_policy(bucket: str, tools: Tools, folder: Disk, *, hard: bool, template: str | None) -> Events:
    tools.s3.find(bucket)  # a policy for a bucket that is not there helps nobody
    owner = _owner_of_buckets(tools)
    yield from policy_step.generate(bucket, tools.caller, owner, folder, hard=hard, template=template)


def change_policy(
    bucket: str,
    tools: Tools,
    what: str,
    document: Callable[[str], str],
    consent: Callable[[Draft], bool],
    *,
    dry_run: bool = False,
    replaces: bool = False,
    blocks: bool = False,
) -> Events:
    """Applies or freezes. `consent` shows the draft and raises Refused where it is not agreed to; of a dry run, whose
    draft it only shows, it returns False."""
    with ExitStack() as held:
        if dry_run:
            undo = tools.undo if tools.undo_folder.exists() else None
        else:
            undo = tools.undo
            held.enter_context(Lock(undo.base / f"{bucket}.lock", f"the policy of bucket {bucket}"))
        owner = _owner_of_buckets(tools)
        draft = policy_step.draft(
            what, bucket, document(bucket), tools.s3, undo, tools.caller, owner, replaces=replaces, blocks=blocks
        )
        if draft.rests_on_iam:
            deeds = ", ".join(draft.rests_on_iam)
            yield Warned(bucket, f"it is the policy of now that lets you {deeds}: then your IAM policies have to")
        yield from _findings(draft, tools)
        if not consent(draft) or undo is None:
            return
        if draft.changes:
            yield from policy_step.put(draft, PolicySetter(tools.s3), undo)
        else:
            yield Noted(bucket, "the policy is as it should be already")


def _findings(draft: Draft, tools: Tools) -> Events:
    """What Access Analyzer says; that it cannot be asked is said once, and the work goes on."""
    said = tools.s3.policy_findings(draft.then)
    if isinstance(said, str):
        if "analyzer" not in tools.said:
            tools.said.add("analyzer")
            yield Noted("", f"IAM Access Analyzer was not asked about it: {said}")
        return
    for finding in said:
        yield Warned(draft.bucket, f"IAM Access Analyzer: {finding}")


def take_back_policy(bucket: str, tools: Tools, what: str, consent: Callable[[str], None]) -> Events:
    if not with_undo([bucket], tools):
        where = show(str(tools.undo_folder))
        raise Failure(f"there is no undo record of {show(bucket)} in {where}: was it made with another --state?")
    with Lock(tools.undo.base / f"{bucket}.lock", f"the policy of bucket {bucket}"):
        yield from policy_step.take_back(what, bucket, PolicySetter(tools.s3), tools.undo, consent)


def with_undo(names: Iterable[str], tools: Tools) -> list[str]:
    """Those of which there is a record, done with or not."""
    return [name for name in names if (tools.undo_folder / policy_step.record(name)).exists()]


def freeze_document(tools: Tools, *, hard: bool) -> Callable[[str], str]:
    return lambda bucket: policy.freeze(bucket, tools.caller, _owner_of_buckets(tools), hard=hard)


def generated_document(folder: Path) -> Callable[[str], str]:
    def read(bucket: str) -> str:
        if not folder.is_dir():
            raise Failure(f"there is no folder {show(str(folder))}: `policy generate {show(bucket)}` makes it")
        with Disk.open(folder, create=False) as disk:
            return policy_step.generated(bucket, disk)

    return read
