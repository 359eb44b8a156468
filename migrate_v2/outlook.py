"""What is to come, measured and counted before anything is touched: what `diagnose` and `plan` say."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

from migrate_v2 import keys, tuning
from migrate_v2.edges import pricelist
from migrate_v2.edges.disk import Vitals, machine, vitals, volume
from migrate_v2.edges.store import Item
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Event, Warned
from migrate_v2.keys import show
from migrate_v2.obstacles import Obstacle as InTheWay
from migrate_v2.obstacles import obstacles
from migrate_v2.pipeline import Tools, held_row, warn_of_volatile
from migrate_v2.prices import PriceBook
from migrate_v2.settings import SETTING
from migrate_v2.steps import diagnose as diagnose_step
from migrate_v2.steps import plan as plan_step
from migrate_v2.steps.plan import Asking, Forecast, OfBucket
from migrate_v2.timeline import Pace
from migrate_v2.workload import Way

# The key of the state file under which `diagnose` leaves the line's bytes a second to `plan`.
_LINE_SPEED = "diagnose_throughput"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    bucket: str
    network: diagnose_step.Network
    destination: diagnose_step.Destination | None
    vitals: Vitals
    left: tuning.Left
    advice: tuning.Advice


def diagnosis(bucket: str | None, tools: Tools, say: Callable[[str], None]) -> Diagnosis:
    """Measures what there is to measure by: no state file, no bucket and no destination are no reason to fail."""
    store = tools.store if tools.settings.state_db_path.exists() else None
    left = diagnose_step.left(bucket, store)
    name = bucket
    if name is None and store is not None:
        amounts = {known: sum(t.bytes for t in store.tallies(known)) for known in store.buckets()}
        name = max(amounts, key=lambda known: amounts[known], default=None)
    health = vitals()
    network = diagnose_step.Network(note="no bucket is named, and the state file knows none")
    if name is not None:
        say(f"measuring S3 by objects of {show(name)}")
        versions = diagnose_step.samples(name, store, tools.s3)
        network = diagnose_step.network(versions, tools.s3)
        if store is not None and (speed := diagnose_step.line_speed(versions, network)):
            store.remember(_LINE_SPEED, f"{speed:.0f}")
    there = None
    if tools.settings.local_base_path is not None:
        say(f"measuring {show(str(tools.settings.local_base_path))}")
        there = diagnose_step.destination(tools.disk, sorted({1, health.cores}))
    advice = tuning.advise(
        left,
        tuning.Measured(
            cores=health.cores,
            memory_available=health.memory_available,
            open_files=health.open_files_limit,
            single=network.single,
            parallel=network.parallel,
            objects=network.objects,
            throttled=network.throttled,
            write=there.write if there else None,
            files=there.files if there else None,
            read_hash=there.read_hash if there else None,
        ),
        native="native" in SETTING["engine"].allowed,
    )
    return Diagnosis(name or "", network, there, health, left, advice)


@dataclass(frozen=True, slots=True)
class Wish:
    """What `plan` was asked beside the buckets' names."""

    quick: bool = False
    waits: bool = False
    waiver: bool = False
    line: float | None = None  # bytes a second
    deadline: date | None = None


def planned(names: list[str] | None, tools: Tools, book: PriceBook, wish: Wish) -> Generator[Event, None, Forecast]:
    """Counts what the state file knows, asks S3 what is in the way, and puts both together; changes nothing anywhere.

    Refused without a finished scan of each bucket, unless it is to be `quick`.
    """
    asking = _asking(tools, wish)
    yield from warn_of_volatile(tools)
    parts: list[OfBucket] = []
    found: list[InTheWay] = []
    ends = asking.now.date()
    linked, linked_bytes = 0, 0
    for bucket in _to_plan(names, tools, quick=wish.quick):
        settings, unasked = None, ""
        try:
            tools.s3.region_of(bucket)
            settings = plan_step.settings_of(bucket, tools.s3)
        except Failure as failure:
            if wish.quick:
                raise
            unasked = str(failure)
            yield Warned(bucket, f"its settings were not read: {unasked}")
        way = plan_step.by_settings(_way(bucket, tools, wish), settings)
        sample: list[Item] = []
        configured = False
        if wish.quick:
            census = plan_step.estimate(bucket, tools.s3.region_of(bucket), tools.s3, way)
        else:
            census, sample = plan_step.count(held_row(bucket, tools), tools.store, way, asking)
            configured = bool(tools.settings.local_base_path) and _configured(bucket, tools)
            objects, size = tools.store.linked_amount(bucket)
            linked, linked_bytes = linked + objects, linked_bytes + size
        if settings is not None and census.uploads != 0:
            census.upload_bytes = tools.s3.upload_bytes(bucket)
        classes = [*census.to_restore, *census.restoring]
        if (looks := plan_step.looks(asking, classes)) != way.looks:
            way = replace(way, looks=looks)
            for table in (census.to_restore, census.restoring):
                for name, amount in table.items():
                    census.heads[name] += (looks - 1) * amount.objects
        parts.append(plan_step.of_bucket(census, way, asking, configured=configured, scanned=not wish.quick, ends=ends))
        found += obstacles(plan_step.known(census, sample, settings, unasked, tools.s3))
    return plan_step.forecast(parts, found, book, asking, linked=(linked, linked_bytes))


def refresh_prices(names: list[str] | None, tools: Tools, cache: Path, *, quick: bool) -> list[str]:
    """Of the regions that these buckets are in; what was learned, a line each."""
    regions = {
        tools.s3.region_of(name) if quick else held_row(name, tools).region
        for name in _to_plan(names, tools, quick=quick)
    }
    return pricelist.refresh(tools.s3, sorted(regions), cache)


def _to_plan(names: list[str] | None, tools: Tools, *, quick: bool) -> list[str]:
    if quick:
        if names is not None:
            return names
        excluded = set(tools.settings.excluded_buckets)
        return [bucket.name for bucket in tools.s3.buckets() if bucket.name not in excluded]
    there = tools.settings.state_db_path.exists()
    if names is None:
        names = [n for n in tools.store.buckets() if n not in tools.settings.excluded_buckets] if there else []
        if not names:
            raise Refused("nothing was scanned yet: run `scan`, or `plan --quick` for an estimate from CloudWatch")
    for name in names:
        held = tools.store.bucket(name) if there else None
        if held is None or not held.scan_complete:
            raise Refused(
                f"{show(name)} was not scanned to the end: run `scan` for it, or `plan --quick` for an estimate from CloudWatch"
            )
    return names


def _configured(bucket: str, tools: Tools) -> bool:
    """Is bucket.json there? Asked without making the destination."""
    return (tools.settings.base() / keys.SIDE / bucket / "bucket.json").exists()


def _way(bucket: str, tools: Tools, wish: Wish) -> Way:
    s = tools.settings
    held = None if wish.quick else tools.store.bucket(bucket)
    amounts = [(t.objects, t.bytes) for t in tools.store.tallies(bucket)] if held else []
    mean_size = sum(a[1] for a in amounts) / max(1, sum(a[0] for a in amounts))
    transfer = tools.transfer(mean_size)
    threshold, chunk = transfer.multipart_threshold, transfer.multipart_chunksize
    if s.engine == "native":
        crew = tools.crew(mean_size)
        threshold, chunk = crew.threshold, crew.part
    return Way(
        threshold=threshold,
        chunk=chunk,
        metadata=s.metadata,
        tier=s.glacier_restore_tier,
        days=s.glacier_restore_days,
        every_tag=_asks_every_tag(tools),
        by_cli=s.engine == "cli",
        native=s.engine == "native",
    )


def _asks_every_tag(tools: Tools) -> bool:
    try:
        return not tools.s3.at_aws
    except Failure:
        return False


def _asking(tools: Tools, wish: Wish) -> Asking:
    s = tools.settings
    there = s.state_db_path.exists()
    measured = tools.store.recall(_LINE_SPEED) if there else ""
    line, source = wish.line, "--throughput"
    if line is None:
        try:
            line, source = float(measured), "the last `diagnose`"
        except ValueError:
            line, source = None, "unknown"
    pace = Pace(
        line if line is None or line > 0 else None,
        source,
        s.max_concurrent_downloads,
        s.max_concurrent_verifications,
        s.max_bandwidth,
    )
    base = s.local_base_path
    return Asking(
        way=Way(0, 1, tier=s.glacier_restore_tier, days=s.glacier_restore_days),
        pace=pace,
        noncurrent=s.noncurrent,
        at_most_restores=s.max_glacier_restores,
        waits=wish.waits,
        poll_seconds=s.restore_poll_seconds,
        waiver=wish.waiver,
        deadline=wish.deadline,
        base=str(base or ""),
        room=volume(base) if base else None,
        state_room=volume(s.state_db_path.parent),
        memory=machine().memory_available,
        now=datetime.now().astimezone(),
    )
