"""Where each bucket stands, from kept counts: as quick for ten million rows as for ten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from migrate_v2 import conveyor
from migrate_v2.edges.store import BucketRow, Restoring, Store, Tally
from migrate_v2.events import GoneQuantities, Quantity, Stands
from migrate_v2.keys import count_of
from migrate_v2.model import ARCHIVED_CLASSES, FileState, GoneKind, Phase, Verdict, gone_kind
from migrate_v2.prices import UNKNOWN, PriceBook
from migrate_v2.workload import about, worth


@dataclass(slots=True)
class Amount:
    objects: int = 0
    bytes: int = 0

    def add(self, tally: Tally) -> None:
        self.objects += tally.objects
        self.bytes += tally.bytes

    @property
    def pair(self) -> tuple[int, int]:
        return self.objects, self.bytes


@dataclass(slots=True)
class Gone:
    """What is gone from S3, by what is left of it here; see model.GoneKind."""

    never_fetched: Amount = field(default_factory=Amount)
    only_copy: Amount = field(default_factory=Amount)
    unproved_only_copy: Amount = field(default_factory=Amount)

    def of(self, kind: GoneKind) -> Amount:
        amount: Amount = getattr(self, kind.value)
        return amount

    @property
    def total(self) -> Amount:
        parts = [self.of(kind) for kind in GoneKind]
        return Amount(sum(part.objects for part in parts), sum(part.bytes for part in parts))

    @property
    def quantities(self) -> GoneQuantities:
        return GoneQuantities(**{kind.value: Quantity(*self.of(kind).pair) for kind in GoneKind})


@dataclass(slots=True)
class Glacier:
    to_request: Amount = field(default_factory=Amount)
    restoring: Amount = field(default_factory=Amount)
    restored: Amount = field(default_factory=Amount)  # back, and not fetched yet


@dataclass(slots=True)
class OnItsWay:
    """What Glacier was asked for and has not brought back, of one class and tier; when the first and the last may be back."""

    storage_class: str
    tier: str
    objects: int
    bytes: int
    ready_from: str  # ISO 8601, UTC, as AWS promises it; not before now
    ready_by: str


@dataclass(slots=True)
class Copies:
    """Restored copies that wait to be fetched and go at the same time."""

    expiry: str
    objects: int
    bytes: int


@dataclass(slots=True)
class RestoreCost:
    """What restores have cost so far, by the rates that are known; `amount` is None where one is not, and `usd` then too."""

    usd: float | None
    requests: int
    retrieved_bytes: int
    prices_of: str
    amount: float | None
    currency: str
    unknown: list[str]
    text: str


@dataclass(slots=True)
class Throughput:
    """Bytes a second of fetching; None before anything was fetched."""

    session: float | None
    overall: float | None


@dataclass(slots=True)
class Standing:
    """One bucket. `listed` = verified + unprovable + kept + failed + deleted + pending + gone, by objects and by bytes."""

    bucket: str
    phase: Phase
    objects: int
    bytes: int
    states: dict[FileState, Amount]
    storage_classes: dict[str, Amount]
    glacier: Glacier
    errors: int
    elapsed_seconds: float
    throughput: Throughput
    eta_seconds: float | None
    verified: Amount
    unprovable: Amount
    kept: Amount
    failed: Amount
    deleted: Amount
    pending: Amount
    gone: Gone
    delete_markers: int
    uploads: int | None
    account: str
    region: str
    endpoint: str
    versioning: str
    scanned_at: str
    fetched_bytes: int
    fetch_seconds: float
    to_come: Amount  # still to be fetched
    backlog: dict[str, Amount]  # archived and not asked for, by class
    on_its_way: list[OnItsWay]
    copies: list[Copies]
    restore_cost: RestoreCost
    restores_seen_at: str


def standing(held: BucketRow, store: Store, session: str, book: PriceBook = UNKNOWN) -> Standing:
    states = {state: Amount() for state in FileState}
    classes: dict[str, Amount] = {}
    backlog: dict[str, Amount] = {}
    glacier = Glacier()
    gone = Gone()
    total, verified, unprovable, kept, failed, deleted, pending, to_come = (Amount() for _ in range(8))
    for tally in store.tallies(held.bucket):
        total.add(tally)
        states[tally.state].add(tally)
        classes.setdefault(tally.storage_class, Amount()).add(tally)
        part, comes = _part(tally, verified, unprovable, kept, failed, deleted, pending, gone)
        part.add(tally)
        if comes:
            to_come.add(tally)
        if part is pending and (stage := _glacier(tally, glacier)) is not None:
            stage.add(tally)
            if stage is glacier.to_request:
                backlog.setdefault(tally.storage_class, Amount()).add(tally)
    overall = held.fetched_bytes / held.fetch_seconds if held.fetch_seconds else None
    ours = held.session == session and held.session_seconds > 0
    speed = Throughput(held.session_bytes / held.session_seconds if ours else None, overall)
    rate = speed.session or speed.overall
    end = datetime.fromisoformat(held.completed_at) if held.completed_at else datetime.now(UTC)
    return Standing(
        bucket=held.bucket,
        phase=held.phase,
        objects=total.objects,
        bytes=total.bytes,
        states=states,
        storage_classes=classes,
        glacier=glacier,
        errors=failed.objects,
        elapsed_seconds=(end - datetime.fromisoformat(held.created_at)).total_seconds(),
        throughput=speed,
        eta_seconds=0.0 if not to_come.objects else to_come.bytes / rate if rate else None,
        verified=verified,
        unprovable=unprovable,
        kept=kept,
        failed=failed,
        deleted=deleted,
        pending=pending,
        gone=gone,
        delete_markers=store.marker_count(held.bucket),
        uploads=held.uploads,
        account=held.account,
        region=held.region,
        endpoint=held.endpoint,
        versioning=held.versioning,
        scanned_at=held.scanned_at,
        fetched_bytes=held.fetched_bytes,
        fetch_seconds=held.fetch_seconds,
        to_come=to_come,
        backlog=backlog,
        on_its_way=_on_its_way(held.bucket, store),
        copies=[Copies(c.expiry.isoformat(), c.objects, c.bytes) for c in store.restored(held.bucket)],
        restore_cost=_restore_cost(held, store, book),
        restores_seen_at=held.restores_seen_at,
    )


@dataclass(slots=True)
class Total:
    """Several buckets. Rates are those of the buckets added up by bytes and seconds of fetching, the ETA is for them all."""

    buckets: int = 0
    objects: int = 0
    bytes: int = 0
    errors: int = 0
    gone: Gone = field(default_factory=Gone)
    phases: dict[Phase, int] = field(default_factory=dict)
    states: dict[FileState, Amount] = field(default_factory=dict)
    storage_classes: dict[str, Amount] = field(default_factory=dict)
    to_request: Amount = field(default_factory=Amount)
    restoring: Amount = field(default_factory=Amount)
    restored: Amount = field(default_factory=Amount)
    to_come: Amount = field(default_factory=Amount)
    elapsed_seconds: float = 0.0  # of the bucket that began first
    session: float | None = None
    overall: float | None = None
    eta_seconds: float | None = None


def total(standings: Iterable[Standing]) -> Total:
    t = Total()
    fetched = seconds = 0.0
    for s in standings:
        t.buckets += 1
        t.objects += s.objects
        t.bytes += s.bytes
        t.errors += s.errors
        for kind in GoneKind:
            _sum(t.gone.of(kind), s.gone.of(kind))
        t.phases[s.phase] = t.phases.get(s.phase, 0) + 1
        t.elapsed_seconds = max(t.elapsed_seconds, s.elapsed_seconds)
        for state, amount in s.states.items():
            _sum(t.states.setdefault(state, Amount()), amount)
        for name, amount in s.storage_classes.items():
            _sum(t.storage_classes.setdefault(name, Amount()), amount)
        _sum(t.to_request, s.glacier.to_request)
        _sum(t.restoring, s.glacier.restoring)
        _sum(t.restored, s.glacier.restored)
        _sum(t.to_come, s.to_come)
        fetched += s.fetched_bytes
        seconds += s.fetch_seconds
        # Buckets come one after another: the run that fetched last tells what the line gives now.
        t.session = s.throughput.session or t.session
    t.phases = {phase: t.phases[phase] for phase in Phase if phase in t.phases}
    t.overall = fetched / seconds if seconds else None
    rate = t.session or t.overall
    t.eta_seconds = 0.0 if not t.to_come.objects else t.to_come.bytes / rate if rate else None
    return t


def _sum(whole: Amount, part: Amount) -> None:
    whole.objects += part.objects
    whole.bytes += part.bytes


def _on_its_way(bucket: str, store: Store) -> list[OnItsWay]:
    groups: dict[tuple[str, str], list[Restoring]] = {}
    for one in store.restoring(bucket):
        groups.setdefault((one.storage_class, one.tier), []).append(one)
    now = datetime.now(UTC)
    found = []
    for (storage_class, tier), some in sorted(groups.items()):
        early, late = (timedelta(seconds=seconds) for seconds in conveyor.expected(storage_class, tier))
        first = max(now, min(one.at for one in some) + early)
        last = max(now, max(one.at for one in some) + late)
        objects, size = sum(one.objects for one in some), sum(one.bytes for one in some)
        found.append(OnItsWay(storage_class, tier, objects, size, _minute(first), _minute(last)))
    return found


def _minute(moment: datetime) -> str:
    return moment.isoformat(timespec="minutes")


def _restore_cost(held: BucketRow, store: Store, book: PriceBook) -> RestoreCost:
    bought = store.bought(held.bucket)
    cost = worth(held.bucket, held.region, bought, book)
    amount = round(float(cost.amount), 2) if cost.complete else None
    return RestoreCost(
        amount if book.currency == "USD" else None,
        sum(one.requests for one in bought),
        sum(one.bytes for one in bought),
        ", ".join((*book.sources, *book.notes)),
        amount,
        book.currency,
        list(cost.unknown),
        about(cost, book),
    )


def glacier_lines(s: Standing) -> list[str]:
    """For people: what is on its way, what waits to be fetched and until when, what it has cost."""
    lines = [
        f"{count_of(w.objects, 'object')} ({_gb(w.bytes)}) of {w.storage_class} asked for at {w.tier}, expected from"
        f" {_utc(w.ready_from)} to {_utc(w.ready_by)}"
        for w in s.on_its_way
    ]
    lines += [
        f"{c.objects:,} restored copies ({_gb(c.bytes)}) wait to be fetched until {_utc(c.expiry)}" for c in s.copies
    ]
    if s.glacier.to_request.objects:
        lines.append(
            f"{count_of(s.glacier.to_request.objects, 'object')} ({_gb(s.glacier.to_request.bytes)}) not asked for yet"
        )
    if s.restore_cost.requests:
        cost = s.restore_cost
        lines.append(f"restores so far: {cost.requests:,} requests, {_gb(cost.retrieved_bytes)}, {cost.text}")
    return lines


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size:,} bytes"


def _utc(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def stands(held: BucketRow, store: Store) -> Stands:
    return stands_of(standing(held, store, ""))


def stands_of(s: Standing) -> Stands:
    return Stands(
        s.bucket,
        s.phase,
        (s.objects, s.bytes),
        s.verified.pair,
        s.unprovable.pair,
        s.kept.pair,
        s.failed.pair,
        s.deleted.pair,
        s.pending.pair,
        s.gone.quantities,
    )


def _part(
    tally: Tally,
    verified: Amount,
    unprovable: Amount,
    kept: Amount,
    failed: Amount,
    deleted: Amount,
    pending: Amount,
    gone: Gone,
) -> tuple[Amount, bool]:
    """Where a group of rows counts, and whether its bytes are still to come."""
    if (kind := gone_kind(tally.state, tally.verdict, tally.cause)) is not None:
        return gone.of(kind), False
    if tally.verdict == Verdict.KEPT:
        return kept, False
    match tally.state:
        case FileState.VERIFIED:
            return verified, False
        case FileState.DELETED:
            return deleted, False
        case FileState.ERROR:
            return failed, False
        case FileState.DOWNLOADED:
            return (unprovable if tally.verdict == Verdict.UNPROVABLE else pending), False
        case _:
            return pending, True


def _glacier(tally: Tally, glacier: Glacier) -> Amount | None:
    if tally.state in (FileState.RESTORE_REQUESTED, FileState.RESTORING):
        return glacier.restoring
    if tally.archived:
        return glacier.to_request
    if tally.storage_class in ARCHIVED_CLASSES and tally.state is not FileState.DOWNLOADED:
        return glacier.restored
    return None
