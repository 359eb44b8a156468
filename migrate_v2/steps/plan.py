"""What the work is going to cost, how long it takes, whether it fits and what stands in the way is told before it begins."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from migrate_v2 import checksums, keys, timeline, workload
from migrate_v2.conveyor import WHILE_DUE
from migrate_v2.costs import Line, Stage, Total, bill, total
from migrate_v2.edges import cloudwatch, kms
from migrate_v2.edges.s3 import S3, Denied, Gone, Moved, Refusal, Unreachable
from migrate_v2.edges.store import BucketRow, Item, Store
from migrate_v2.model import ARCHIVED_CLASSES, Cause, FileState, ObjectVersion, Place, Verdict
from migrate_v2.obstacles import Known, Obstacle, Sample
from migrate_v2.prices import TIERS, PriceBook
from migrate_v2.space import CLI_MEMORY, Need, Volume, in_blocks, lacking
from migrate_v2.timeline import Deadline, Load, Pace, Timeline
from migrate_v2.workload import Amount, Census, Deed, Shape, Visits, Way

SAMPLES = 12
LOOKS = 1 + WHILE_DUE  # at each restore, by a `migrate` that waits
# As steps/sync.py has it: more patterns than these, and whole folders are left to the program's own requests.
PATTERNS = 150
_MULTIPART_ETAG = 34  # 32 digits, a dash, and a number
_OPEN = (FileState.DISCOVERED, FileState.RESTORE_REQUESTED, FileState.RESTORING, FileState.DOWNLOADING)


@dataclass(frozen=True, slots=True)
class Asking:
    """What an operator wants to be told, and what is known of how it will be done."""

    way: Way
    pace: Pace
    noncurrent: str
    at_most_restores: int
    waits: bool
    poll_seconds: float | None  # None: by class and tier, see conveyor.next_look()
    waiver: bool
    deadline: date | None
    base: str
    room: Volume | None  # None: where the files go was not said
    state_room: Volume
    memory: int
    now: datetime


@dataclass(frozen=True, slots=True)
class Tierwise:
    """One restore tier: what it costs for all that is still to be asked for, by when it is back, and by one batch job."""

    tier: str
    cost: Total
    hours: float
    batch_fee: Total
    end: datetime | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class OfBucket:
    """One bucket's part."""

    census: Census
    visits: Visits
    way: Way
    lists: int
    others: int
    free_from: Mapping[str, date]  # by class, when deletion costs nothing any more


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether it fits: `lacks` says why not. `room` and with it `lacks` are unknown where no destination was named."""

    need: Need
    room: Volume | None
    lacks: tuple[str, ...]
    memory_lacks: str
    state_rows: int
    linked: tuple[int, int] = (0, 0)  # copies that are hard links, and the bytes that files of their own need


@dataclass(frozen=True, slots=True)
class Forecast:
    buckets: tuple[OfBucket, ...]
    lines: tuple[Line, ...]
    totals: Mapping[Stage, Total]
    tiers: tuple[Tierwise, ...]
    timeline: Timeline
    deadline: Deadline | None
    fit: Fit
    obstacles: tuple[Obstacle, ...]
    notes: tuple[str, ...]
    book: PriceBook
    asking: Asking


# -- counting


def count(held: BucketRow, store: Store, way: Way, asking: Asking) -> tuple[Census, list[Item]]:
    """Walks through the bucket's rows once, or twice where many keys are unfit; also a few of its rows, by chance."""
    # As steps/sync.py has it: objects that are here already are excluded by name, or the CLI is not used.
    by_cli = not way.native and store.count_fetched(held.bucket, False, PATTERNS + 1) <= PATTERNS
    way = replace(way, by_cli=by_cli)
    census, sample, unfit = _counted(held, store, way, asking, ())
    if way.by_cli and unfit > PATTERNS:
        covers = _covering_patterns(held.bucket, store, asking)
        census, sample, _ = _counted(held, store, way, asking, covers)
    census.superseded = Amount(*store.superseded(held.bucket))
    return census, sample


def _counted(
    held: BucketRow, store: Store, way: Way, asking: Asking, covers: Sequence[str]
) -> tuple[Census, list[Item], int]:
    """`covers`: patterns of keys that the CLI is kept from. Also how many current keys no plain path can hold."""
    census = Census(
        held.bucket, held.region, by_cli=way.by_cli, uploads=held.uploads, markers=store.marker_count(held.bucket)
    )
    alone = replace(way, by_cli=False)
    chance = random.Random(0)  # noqa: S311 - which ones does not matter
    sample: list[Item] = []
    today = asking.now.astimezone(UTC).date()
    block = asking.room.block if asking.room else 4096
    above: list[str] = []
    unfit = 0
    for seen, (item, place) in enumerate(_placed(held.bucket, store, asking), 1):
        census.add_stored(item.storage_class, item.size, item.is_latest, date.fromisoformat(item.day), today)
        census.current += item.is_latest
        unfit += item.is_latest and place is Place.SIDE
        deeds = _deeds(item, way, asking.noncurrent)
        if deeds:
            covered = place is Place.PLAIN and any(fnmatchcase(item.key, pattern) for pattern in covers)
            census.add_work(item.storage_class, _shape(item, place), alone if covered else way, deeds)
        if "fetch" in deeds:
            census.blocks += 0 if place is Place.FOLDER else in_blocks(item.size, block)
            if place is Place.SIDE:
                census.aside.add(item.size)
            folders = item.key.split("/")[:-1]
            if folders != above:
                # In byte order all keys of one folder follow each other.
                census.folders += sum(1 for at in range(len(folders)) if above[: at + 1] != folders[: at + 1])
                above = folders
        if len(sample) < SAMPLES:
            sample.append(item)
        elif (at := chance.randrange(seen)) < SAMPLES:
            sample[at] = item
    census.blocks += census.folders * block
    return census, sample, unfit


def _placed(bucket: str, store: Store, asking: Asking) -> Iterator[tuple[Item, Place]]:
    """Each row with the place that it has, or is going to have."""
    names = keys.FileSystem(name_max=asking.room.name_max if asking.room else 255)
    room = names.path_max - len(asking.base.encode("utf-8", "surrogateescape")) - len(bucket) - 2
    folders = store.above_others(bucket)
    folder = next(folders, None)
    for item in store.items(bucket):
        while folder is not None and folder.encode("utf-8", "surrogatepass") < item.key.encode(
            "utf-8", "surrogatepass"
        ):
            folder = next(folders, None)
        if item.place:
            yield item, Place(item.place)
        elif not item.is_latest or item.key == folder:
            yield item, Place.SIDE
        else:
            yield item, keys.place(item.key, item.size, names, room)[0]


def _covering_patterns(bucket: str, store: Store, asking: Asking) -> tuple[str, ...]:
    """Patterns by which more than the unfit keys is kept from the CLI; none while each of them has its own."""
    unfit = (item.key for item, place in _placed(bucket, store, asking) if place is Place.SIDE and item.is_latest)
    patterns = keys.excludes(unfit, PATTERNS)
    return tuple(pattern for pattern in patterns if pattern == "*" or pattern.endswith("/*"))


def _shape(item: Item, place: Place) -> Shape:
    parts = 0
    if len(item.etag) >= _MULTIPART_ETAG and item.etag[32] == "-" and item.etag[33:].isdecimal():
        parts = int(item.etag[33:])
    return Shape(item.size, place, parts, not parts or checksums.usual_parts(item.size, parts))


def _deeds(item: Item, way: Way, noncurrent: str) -> tuple[Deed, ...]:
    """What `migrate` has still to do with this version.

    state                            | verdict           | archived | deeds
    ---------------------------------|-------------------|----------|---------------------------------------
    old version, and they are kept   | any before a copy | any      | none
    discovered, downloading          | none, kept        | no       | fetch verify describe
    discovered                       | none, kept        | yes      | restore wait fetch verify describe
    asked for, or on its way         | none, kept        | yes      | wait fetch verify describe
    downloaded                       | none              |          | verify, describe if it was not
    downloaded, verified             | any               |          | describe if it was not
    error, changed                   | any               |          | none: a new listing tells
    error, contested                 | none              |          | none: it waits for `retry-errors`
    error, unreadable                | unreadable        |          | verify, describe if it was not
    error                            | any other         | as above | as discovered
    """
    described = item.described == "full" or (item.described == "head" and way.metadata != "full")
    beside: tuple[Deed, ...] = () if described or way.metadata == "none" else ("describe",)
    state = FileState(item.state)
    if state is FileState.ERROR:
        if item.cause in (Cause.CHANGED, Cause.CONTESTED):
            return ()
        if item.verdict == Verdict.UNREADABLE and item.place:
            return ("verify", *beside)
        state = FileState.DISCOVERED
    if state in _OPEN:
        if not item.is_latest and noncurrent == "keep":
            return ()
        come: tuple[Deed, ...] = ("fetch", "verify", *beside)
        if state in (FileState.RESTORE_REQUESTED, FileState.RESTORING):
            return ("wait", *come)
        return ("restore", "wait", *come) if item.archived else come
    if state is FileState.DOWNLOADED and not item.verdict:
        return ("verify", *beside)
    return beside


def estimate(bucket: str, region: str, s3: S3, way: Way) -> Census:
    """From CloudWatch: the bytes by class are measured, the sizes of single objects are not, and taken for alike."""
    found = cloudwatch.measured(s3, bucket, region)
    census = Census(bucket, region, estimated=True)
    rest = {name: size for name, size in found.bytes.items() if size and name not in ARCHIVED_CLASSES}
    others = max(0, found.objects - sum(found.archived.values()))
    spread = dict(zip(rest, _spread(others, list(rest.values())), strict=True))
    today = datetime.now(UTC).date()
    for name, size in found.bytes.items():
        objects = found.archived.get(name, spread.get(name, 0)) or (1 if size else 0)
        archived = name in ARCHIVED_CLASSES
        deeds: tuple[Deed, ...] = ("fetch", "verify") if way.metadata == "none" else ("fetch", "verify", "describe")
        deeds = ("restore", "wait", *deeds) if archived else deeds
        for alike, many in _alike(size, objects):
            # One stands for all that are like it.
            one = Census(bucket, region)
            one.add_stored(name, alike, True, today - timedelta(days=10_000), today)
            one.add_work(name, Shape(alike, Place.PLAIN), way, deeds)
            _add(census, one, many)
        census.current += objects
    census.folders = 0
    return census


def _spread(objects: int, sizes: list[int]) -> list[int]:
    whole = sum(sizes)
    parts = [objects * size // whole for size in sizes] if whole else []
    if parts:
        parts[-1] += objects - sum(parts)
    return parts


def _alike(size: int, objects: int) -> list[tuple[int, int]]:
    if not objects:
        return []
    each, over = divmod(size, objects)
    return [(each, objects - over), (each + 1, over)] if over else [(each, objects)]


def _add(to: Census, one: Census, many: int) -> None:
    for name in ("gets", "heads", "others", "out", "rounded"):
        for key, value in getattr(one, name).items():
            getattr(to, name)[key] += value * many
    for name in ("to_restore", "stored", "sizes"):
        for key, amount in getattr(one, name).items():
            getattr(to, name).setdefault(key, workload.Amount()).add(amount.bytes * many, amount.objects * many)
    for name in ("fetch", "verify"):
        amount = getattr(one, name)
        getattr(to, name).add(amount.bytes * many, amount.objects * many)
    for name in ("monitored", "at_hand", "frozen", "describe"):
        setattr(to, name, getattr(to, name) + getattr(one, name) * many)
    to.biggest = max(to.biggest, one.biggest)
    to.blocks += in_blocks(one.fetch.bytes, 4096) * many


# -- asking S3 about what is in the way


def settings_of(bucket: str, s3: S3) -> Mapping[str, Any]:
    """The parts of bucket.json. Raises Failure where S3 does not answer at all."""
    return s3.configuration(bucket)


def known(census: Census, sample: Sequence[Item], settings: Mapping[str, Any] | None, unasked: str, s3: S3) -> Known:
    bucket = census.bucket
    intelligent = sum(a.objects for (name, _), a in census.stored.items() if name == "INTELLIGENT_TIERING")
    plain = Known(
        bucket, census.region, s3.region or "", "", settings, unasked,
        uploads=census.uploads, aside=census.aside.objects, intelligent=intelligent,
    )  # fmt: skip
    if settings is None:
        return plain
    samples = tuple(_looked_at(bucket, item, s3) for item in sample)
    lock = settings.get("object_lock")
    locks = isinstance(lock, dict) and "ObjectLockConfiguration" in lock
    named = _default_keys(settings)
    named += [str(s.document["SSEKMSKeyId"]) for s in samples if s.document and s.document.get("SSEKMSKeyId")]
    versioning = settings.get("versioning")
    mfa = isinstance(versioning, dict) and versioning.get("MFADelete") == "Enabled"
    return replace(
        plain,
        arn=s3.identity().arn,
        mfa_delete=mfa,
        keys=tuple(kms.key(s3, name, census.region) for name in dict.fromkeys(named)),
        samples=samples,
        lock_denied=_lock_denied(bucket, sample, s3) if locks else (),
    )


def _lock_denied(bucket: str, sample: Sequence[Item], s3: S3) -> tuple[str, ...]:
    for item in sample:
        with suppress(Gone, Moved, Unreachable):
            return s3.lock_denials(_version(bucket, item))
    return ()


def _version(bucket: str, item: Item) -> ObjectVersion:
    day = datetime.fromisoformat(item.day).replace(tzinfo=UTC)
    return ObjectVersion(
        bucket, item.key, item.version_id, item.size, item.etag, item.storage_class, day, item.is_latest
    )


def _looked_at(bucket: str, item: Item, s3: S3) -> Sample:
    try:
        return Sample(item.key, s3.metadata(_version(bucket, item)))
    except (Gone, Moved):
        return Sample(item.key, {})
    except (Denied, Refusal, Unreachable) as failure:
        return Sample(item.key, None, str(failure))


def _rules(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    part = settings.get("encryption")
    said = part.get("ServerSideEncryptionConfiguration", {}) if isinstance(part, dict) else {}
    return list(said.get("Rules", ())) if isinstance(said, dict) else []


def _default_keys(settings: Mapping[str, Any]) -> list[str]:
    defaults = [rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in _rules(settings)]
    return [str(default["KMSMasterKeyID"]) for default in defaults if default.get("KMSMasterKeyID")]


def by_settings(way: Way, settings: Mapping[str, Any] | None) -> Way:
    """What the bucket's own settings say of how its objects will answer."""
    rules = _rules(settings or {})
    opaque = any(
        str(rule.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "")).startswith("aws:kms")
        for rule in rules
    )
    lock = (settings or {}).get("object_lock")
    locked = isinstance(lock, dict) and "ObjectLockConfiguration" in lock
    return replace(
        way, opaque=opaque, kms_each=opaque and not any(r.get("BucketKeyEnabled") for r in rules), locked=locked
    )


# -- putting it together


def looks(asking: Asking, classes: Sequence[str]) -> int:
    """How often each restore is asked about: by a `migrate` that waits every so often, by one that is called again once."""
    if not asking.waits or not classes:
        return 1
    if asking.poll_seconds is None:
        return LOOKS
    return math.ceil(workload.restore_hours(classes, asking.way.tier) * 3600 / asking.poll_seconds)


def of_bucket(census: Census, way: Way, asking: Asking, *, configured: bool, scanned: bool, ends: date) -> OfBucket:
    archived = census.archived()
    waves = -(-archived.objects // asking.at_most_restores)
    runs = int(bool(census.fetch.objects or census.verify.objects or census.describe)) or int(not configured)
    visits = Visits(
        current=census.current,
        listings=(bool(census.at_hand) + waves * bool(census.frozen)) if census.by_cli else 0,
        runs=runs + (0 if asking.waits else waves),
        configuration=not configured,
        to_list=0 if scanned else census.objects or 1,
    )
    lists, others = workload.asked_for_bucket(visits, way)
    return OfBucket(census, visits, way, lists, others, workload.free_of_early_fees(census))


def load_of(buckets: Sequence[OfBucket]) -> tuple[Load, Load, Load]:
    """(at hand, archived, to verify)."""
    archived = Load(sum(b.census.archived().objects for b in buckets), sum(b.census.archived().bytes for b in buckets))
    fetch = Load(sum(b.census.fetch.objects for b in buckets), sum(b.census.fetch.bytes for b in buckets))
    aside = sum(b.census.aside.objects for b in buckets)
    at_hand = Load(fetch.objects - archived.objects, fetch.bytes - archived.bytes, min(aside, fetch.objects))
    verify = Load(
        sum(b.census.verify.objects for b in buckets),
        sum(b.census.verify.bytes for b in buckets),
        sum(sum(b.census.heads.values()) + sum(b.census.others.values()) for b in buckets),
    )
    return at_hand, archived, verify


def forecast(
    buckets: Sequence[OfBucket],
    found: Sequence[Obstacle],
    book: PriceBook,
    asking: Asking,
    notes: Sequence[str] = (),
    linked: tuple[int, int] = (0, 0),
) -> Forecast:
    classes = sorted({name for b in buckets for name in (*b.census.to_restore, *b.census.restoring)})
    at_hand, archived, verify = load_of(buckets)

    def laid_out(line: float | None, tier: str) -> Timeline:
        return timeline.lay_out(
            asking.now,
            at_hand,
            timeline.waves_of(archived, asking.at_most_restores),
            workload.restore_hours(classes, tier),
            asking.way.days,
            verify,
            replace(asking.pace, line=line),
        )

    line = laid_out(asking.pace.line, asking.way.tier)
    ends = (line.end or asking.now).astimezone(UTC).date()
    months = timeline.months(asking.now, line.end)
    charges = [c for b in buckets for c in workload.charges(b.census, b.visits, b.way, ends=ends)]
    lines = bill(charges, book.rates, months=months, waiver=asking.waiver)
    totals = {stage: total(one for one in lines if one.charge.stage is stage) for stage in Stage}
    tiers = [_tierwise(tier, buckets, classes, book, laid_out(asking.pace.line, tier).end) for tier in TIERS if classes]
    deadline = None
    if asking.deadline is not None:
        deadline = timeline.against(
            asking.deadline,
            lambda pace, tier: laid_out(pace, tier).end,
            asking.pace,
            asking.way.tier,
            TIERS if classes else (),
        )
    return Forecast(
        tuple(buckets),
        tuple(lines),
        totals,
        tuple(tiers),
        line,
        deadline,
        replace(fit(buckets, asking), linked=linked),
        (*found, *_expiring(line, asking)),
        (*notes, *book.notes, *_assumptions(asking, buckets, months)),
        book,
        asking,
    )


def _tierwise(
    tier: str, buckets: Sequence[OfBucket], classes: Sequence[str], book: PriceBook, end: datetime | None
) -> Tierwise:
    cost = total(bill([c for b in buckets for c in workload.charges_of_restore(b.census, b.way, tier)], book.rates))
    fee = total(bill([c for b in buckets for c in workload.charges_of_batch(b.census)], book.rates))
    note = ""
    if tier == "Expedited" and "DEEP_ARCHIVE" in classes:
        note = "Deep Archive has no Expedited and goes by Standard"
    if tier == "Expedited" and "GLACIER" in classes:
        note = "; ".join(filter(None, [note, "not to be had for every object at any time"]))
    return Tierwise(tier, cost, workload.restore_hours(classes, tier), fee, end, note)


def fit(buckets: Sequence[OfBucket], asking: Asking) -> Fit:
    objects = sum(b.census.fetch.objects for b in buckets)
    need = Need(
        objects,
        sum(b.census.fetch.bytes for b in buckets),
        sum(b.census.blocks for b in buckets),
        objects + sum(b.census.folders for b in buckets),
        max((b.census.biggest for b in buckets), default=0),
    )
    lacks = list(lacking(need, asking.room)) if asking.room else []
    if need.rows > asking.state_room.free:
        lacks.append(
            f"the state file may grow by {need.rows:,} bytes and {asking.state_room.free:,} are free beside it"
        )
    memory = ""
    if objects and asking.memory < CLI_MEMORY:
        memory = f"aws s3 sync takes up to {CLI_MEMORY:,} bytes of memory and {asking.memory:,} are free"
    return Fit(need, asking.room, tuple(lacks), memory, need.rows)


def _expiring(line: Timeline, asking: Asking) -> list[Obstacle]:
    if not line.late:
        return []
    return [
        Obstacle(
            "",
            "restored-copies",
            "costs",
            f"{len(line.late)} waves of restored copies expire after {asking.way.days} days, before they can be fetched",
            "lower max_glacier_restores or raise glacier_restore_days: what expires is asked and paid for again",
        )
    ]


def _assumptions(asking: Asking, buckets: Sequence[OfBucket], months: Sequence[int]) -> list[str]:
    told = ["money is on-demand list price, without tax, credits and agreements; a GB is 2^30 bytes, a month 30 days"]
    if len(months) > 1:
        told.append(f"the transfer is spread evenly over {len(months)} calendar months, each with its own tiers")
    if not asking.waiver:
        told.append("data transfer out is priced as if nothing else of the account went out in these months")
    if any(b.census.archived().objects for b in buckets):
        how = (
            (
                "a waiting `migrate` looks "
                + (f"every {asking.poll_seconds:g} s" if asking.poll_seconds else f"{LOOKS} times")
            )
            + ", each counted as a HEAD an object; where a listing tells of a thousand, it is fewer"
            if asking.waits
            else "`migrate` is called again once they are back"
        )
        told.append(f"restores: {how}; hours are the slow end of what AWS names, and large batches take longer")
    told.extend(
        f"{keys.show(b.census.bucket)}: the former contents of overwritten objects are kept here, and S3 does not have them any more:"
        f" {b.census.superseded.objects:,} local copies, {b.census.superseded.bytes:,} bytes"
        for b in buckets
        if b.census.superseded.objects
    )
    if any(b.census.young for b in buckets):
        told.append("early-deletion fees count from LastModified: what a lifecycle rule moved later is billed longer")
    if not any(b.way.every_tag or b.way.metadata != "head" for b in buckets) and buckets:
        told.append("one more GET for each object that has tags; a listing does not say which")
    if any(b.way.kms_each for b in buckets):
        told.append(
            "KMS requests: one for each GET and HEAD, as the bucket has no bucket key, less the account's free ones"
        )
    if any(b.census.uploads and b.census.upload_bytes is None for b in buckets):
        told.append("what unfinished uploads take was not readable, and is not in the monthly cost")
    if any(b.census.estimated for b in buckets):
        told.append(
            "estimated from CloudWatch's daily figures: old versions and markers count as objects, sizes are means"
        )
    if asking.pace.line is None:
        told.append("the speed of the line is unknown: give --throughput, or run `diagnose`")
    return told
