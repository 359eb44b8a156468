"""From what a bucket holds follows what `migrate` will ask S3 for, request by request, before it asks for anything.

The model of the requests is `asked_for_object` and `asked_for_bucket`, and nothing else: whoever changes what the steps
or the AWS CLI ask changes these two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Literal

from migrate_v2.conveyor import Bought
from migrate_v2.costs import DAYS_OF_A_MONTH, EGRESS, Charge, Stage, Total, bill, total
from migrate_v2.model import ARCHIVED_CLASSES, MINIMUM_DAYS, Place
from migrate_v2.prices import PriceBook

PAGE = 1000
KB = 1024
# AWS, "Amazon S3 pricing" and the user guide's "Understanding S3 Glacier storage classes": what a small object is billed
# as, and what each archived one has on top: 32 KB at its own rate, 8 KB at STANDARD's.
LEAST_BILLED = {"STANDARD_IA": 128 * KB, "ONEZONE_IA": 128 * KB, "GLACIER_IR": 128 * KB}
ARCHIVE_OVERHEAD, INDEX_OVERHEAD = 32 * KB, 8 * KB
RETRIEVED = ("STANDARD_IA", "ONEZONE_IA", "GLACIER_IR")  # a GET costs by the GB, without a restore
MONITORED_FROM = 128 * KB
# Hours at the slow end of what AWS says ("Understanding archive retrieval options"); None where there is no such tier.
RESTORE_HOURS: Mapping[tuple[str, str], float] = {
    ("GLACIER", "Expedited"): 5 / 60,
    ("GLACIER", "Standard"): 5,
    ("GLACIER", "Bulk"): 12,
    ("DEEP_ARCHIVE", "Standard"): 12,
    ("DEEP_ARCHIVE", "Bulk"): 48,
}
# What bucket.json is made of: one question each.
CONFIGURATION_QUESTIONS = 21

Deed = Literal["fetch", "restore", "wait", "verify", "describe"]


@dataclass(frozen=True, slots=True)
class Way:
    """How the work is going to be done. Sizes in bytes.

    `looks`: how often each restore under way is asked about. `every_tag`: the endpoint's HEAD does not count tags, so
    that they are asked for one by one. `opaque`: the bucket encrypts so that ETags say nothing (SSE-KMS).
    """

    threshold: int
    chunk: int
    metadata: Literal["none", "head", "full"] = "head"
    tier: str = "Standard"
    days: int = 7
    looks: int = 1
    every_tag: bool = False
    opaque: bool = False
    kms_each: bool = False  # no bucket key: each GET is a request to KMS
    locked: bool = False
    by_cli: bool = True
    native: bool = False  # the engine: large objects come in ranges by it too, and nothing is listed for the CLI


@dataclass(frozen=True, slots=True)
class Shape:
    """What of one object version decides how much is asked about it; `parts` of its ETag, 0 where it has none."""

    size: int
    place: Place
    parts: int = 0
    usual_parts: bool = True  # the part sizes can be guessed from the size


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests about one object: GETs of its bytes, HEADs, and GETs of what lies beside them."""

    gets: int = 0
    heads: int = 0
    others: int = 0


def asked_for_object(shape: Shape, way: Way, deeds: Iterable[Deed]) -> Asked:
    """
    deed     | object                             | asks for
    ---------|------------------------------------|------------------------------------------------------
    fetch    | a folder                           | nothing
    fetch    | at its plain path, by the CLI      | 1 GET, from the threshold on one for each range
    fetch    | by the native engine               | the same; none where it is empty
    fetch    | elsewhere, or not by the CLI       | 1 GET; none where it is empty
    restore  | archived                           | 1 POST, counted apart
    wait     | archived                           | a HEAD at each look
    verify   | its ETag is one of usual parts     | nothing
    verify   | its ETag is one of unusual parts   | 1 HEAD, and one for each of two parts
    verify   | its ETag is opaque                 | 1 HEAD
    describe | any                                | 1 HEAD, its tags by 1 GET; with `full` ACL and annotations
    """
    gets = heads = others = 0
    empty_folder = shape.place is Place.FOLDER
    for deed in deeds:
        if deed == "fetch" and not empty_folder:
            if (shape.size and way.native) or (way.by_cli and shape.place is Place.PLAIN):
                gets += 1 if shape.size < way.threshold else -(-shape.size // way.chunk)
            else:
                gets += shape.size > 0
        elif deed == "wait":
            heads += way.looks
        elif deed == "verify" and not empty_folder and shape.size:
            if shape.parts and not shape.usual_parts:
                heads += 1 + min(2, shape.parts)
            elif way.opaque and not shape.parts:
                heads += 1
        elif deed == "describe" and way.metadata != "none":
            full = way.metadata == "full"
            heads += 1
            others += full or way.every_tag
            others += (2 + 2 * way.locked) if full else 0
    return Asked(gets, heads, others)


@dataclass(frozen=True, slots=True)
class Visits:
    """What of one bucket decides how much is asked about the bucket itself."""

    current: int  # objects that a listing of the current ones shows
    listings: int  # times that it is listed for the CLI
    runs: int  # calls of `migrate` that ask S3 at all
    configuration: bool  # bucket.json is still to be made
    to_list: int = 0  # versions and markers, where it has to be scanned first


def asked_for_bucket(visits: Visits, way: Way) -> tuple[int, int]:
    """(LISTs, other requests): each CLI pass lists the current objects, each run looks where the bucket is."""
    lists = visits.listings * max(1, -(-visits.current // PAGE))
    others = visits.runs + CONFIGURATION_QUESTIONS * visits.configuration + (way.metadata == "full")
    if visits.to_list:
        lists += -(-visits.to_list // PAGE) + 1  # and one for unfinished uploads
        others += 2  # versioning, lock
    return lists, others


@dataclass(slots=True)
class Amount:
    objects: int = 0
    bytes: int = 0

    def add(self, size: int, objects: int = 1) -> None:
        self.objects += objects
        self.bytes += size


@dataclass(slots=True)
class Census:
    """One bucket counted: as many lines as it has storage classes and days, however many objects."""

    bucket: str
    region: str
    by_cli: bool = True
    # By storage class.
    gets: Counter[str] = field(default_factory=Counter)
    heads: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    out: Counter[str] = field(default_factory=Counter)  # bytes to fetch
    to_restore: dict[str, Amount] = field(default_factory=dict)
    restoring: dict[str, Amount] = field(default_factory=dict)
    stored: dict[tuple[str, bool], Amount] = field(default_factory=dict)  # by class, and is it current
    rounded: Counter[str] = field(default_factory=Counter)  # bytes that are billed and not there
    monitored: int = 0
    young: dict[tuple[str, date], Amount] = field(default_factory=dict)  # by class and day; billed bytes
    sizes: dict[int, Amount] = field(default_factory=dict)  # by the power of two that they stay below
    fetch: Amount = field(default_factory=Amount)
    at_hand: int = 0  # objects that a pass of the CLI can bring at once
    frozen: int = 0  # and such as have to be restored before
    verify: Amount = field(default_factory=Amount)
    describe: int = 0
    aside: Amount = field(default_factory=Amount)
    biggest: int = 0
    blocks: int = 0  # bytes that files to fetch take in whole blocks
    folders: int = 0
    current: int = 0
    markers: int = 0
    uploads: int | None = None
    upload_bytes: int | None = None
    estimated: bool = False
    superseded: Amount = field(default_factory=Amount)  # local copies whose object was overwritten in S3

    @property
    def objects(self) -> int:
        return sum(amount.objects for amount in self.stored.values())

    @property
    def bytes(self) -> int:
        return sum(amount.bytes for amount in self.stored.values())

    def archived(self) -> Amount:
        both = [*self.to_restore.values(), *self.restoring.values()]
        return Amount(sum(a.objects for a in both), sum(a.bytes for a in both))

    def add_stored(self, storage_class: str, size: int, current: bool, day: date, today: date) -> None:
        self.stored.setdefault((storage_class, current), Amount()).add(size)
        billed = size
        if storage_class in ARCHIVED_CLASSES:
            billed += ARCHIVE_OVERHEAD
            self.rounded[storage_class] += ARCHIVE_OVERHEAD
            self.rounded["STANDARD"] += INDEX_OVERHEAD
        elif size < LEAST_BILLED.get(storage_class, 0):
            billed = LEAST_BILLED[storage_class]
            self.rounded[storage_class] += billed - size
        elif storage_class == "INTELLIGENT_TIERING" and size >= MONITORED_FROM:
            self.monitored += 1
        least = MINIMUM_DAYS.get(storage_class)
        if least is not None and (today - day).days < least:
            self.young.setdefault((storage_class, day), Amount()).add(billed)
        self.sizes.setdefault(size.bit_length(), Amount()).add(size)

    def add_work(self, storage_class: str, shape: Shape, way: Way, deeds: Iterable[Deed]) -> None:
        deeds = tuple(deeds)
        asked = asked_for_object(shape, way, deeds)
        self.gets[storage_class] += asked.gets
        self.heads[storage_class] += asked.heads
        self.others[storage_class] += asked.others
        if "fetch" in deeds:
            self.out[storage_class] += shape.size
            self.fetch.add(shape.size)
            self.biggest = max(self.biggest, shape.size)
            if shape.place is Place.PLAIN:
                self.at_hand += "wait" not in deeds
                self.frozen += "wait" in deeds
        if "restore" in deeds:
            self.to_restore.setdefault(storage_class, Amount()).add(shape.size)
        elif "wait" in deeds:
            self.restoring.setdefault(storage_class, Amount()).add(shape.size)
        if "verify" in deeds:
            self.verify.add(shape.size)
        self.describe += "describe" in deeds


def tier_for(storage_class: str, tier: str) -> str:
    """As the program asks: Deep Archive has no Expedited."""
    return "Standard" if (storage_class, tier) == ("DEEP_ARCHIVE", "Expedited") else tier


def restore_hours(classes: Iterable[str], tier: str) -> float:
    return max((RESTORE_HOURS[name, tier_for(name, tier)] for name in classes), default=0)


def charges_of_restore(census: Census, way: Way, tier: str) -> list[Charge]:
    """What bringing back the archived costs by this tier, the temporary copies too: billed as STANDARD, by whole days to
    the midnight after the last one."""
    found = []
    for name, amount in sorted(census.to_restore.items()):
        speed = tier_for(name, tier)
        found += [
            _once(census, f"restore-request/{name}/{speed}", amount.objects, f"{speed} restore requests, {name}"),
            _once(census, f"retrieval/{name}/{speed}", amount.bytes, f"{speed} retrieval, {name}"),
        ]
    if copies := sum(amount.bytes for amount in census.to_restore.values()):
        share = Decimal(way.days + 1) / DAYS_OF_A_MONTH
        what = f"temporary copies, {way.days + 1} days"
        found.append(Charge(census.bucket, census.region, Stage.MIGRATE, "storage/STANDARD", copies, what, share))
    return found


def charges_of_batch(census: Census) -> list[Charge]:
    """What S3 Batch Operations take for asking in our place: a job, and by the object."""
    objects = sum(amount.objects for amount in census.to_restore.values())
    if not objects:
        return []
    return [
        _once(census, "batch-job", 1, "S3 Batch Operations jobs"),
        _once(census, "batch-object", objects, "S3 Batch Operations, by the object"),
    ]


def charges(census: Census, visits: Visits, way: Way, *, ends: date) -> list[Charge]:
    """All that this bucket is going to cost: by `migrate`, by `confirm-delete` on the day `ends`, and by the month."""
    lists, others = asked_for_bucket(visits, way)
    found = [_once(census, "list", lists, "LIST requests")]
    for name in sorted({*census.gets, *census.heads, *census.others, "STANDARD"}):
        standing = others if name == "STANDARD" else 0
        found += [
            _once(census, f"get/{name}", census.gets[name], f"GET requests, {name}"),
            _once(census, f"get/{name}", census.heads[name], f"HEAD requests, {name}"),
            _once(census, f"get/{name}", census.others[name] + standing, f"other requests, {name}"),
        ]
    found += [_once(census, f"retrieval/{name}", census.out[name], f"retrieval, {name}") for name in RETRIEVED]
    found += charges_of_restore(census, way, way.tier)
    if way.kms_each:
        asked = sum(census.gets.values()) + sum(census.heads.values())
        found.append(_once(census, "kms", asked, "KMS requests, at most"))
    found.append(_once(census, EGRESS, sum(census.out.values()), "data transfer out"))
    listed = -(-(census.objects + census.markers) // PAGE) or 1
    what = "LIST requests, before and after"
    found.append(Charge(census.bucket, census.region, Stage.DELETE, "list", 2 * listed + 2, what))
    found += _early(census, ends)
    return [charge for charge in found if charge.quantity] + by_the_month(census)


def _early(census: Census, ends: date) -> list[Charge]:
    """Of what goes before its time the rest of that time is billed: bytes times days, of which a month has 30."""
    left: Counter[str] = Counter()
    for (name, day), amount in census.young.items():
        left[name] += amount.bytes * max(0, MINIMUM_DAYS[name] - (ends - day).days)
    share = Decimal(1) / DAYS_OF_A_MONTH
    return [
        Charge(
            census.bucket,
            census.region,
            Stage.DELETE,
            f"storage/{name}",
            size,
            f"early deletion, {name}, by the day",
            share,
        )
        for name, size in sorted(left.items())
    ]


def free_of_early_fees(census: Census) -> dict[str, date]:
    """By storage class, from which day on its deletion costs nothing."""
    last: dict[str, date] = {}
    for name, day in census.young:
        last[name] = max(last.get(name, day), day)
    return {name: day + timedelta(MINIMUM_DAYS[name]) for name, day in sorted(last.items())}


def by_the_month(census: Census) -> list[Charge]:
    found = []
    for (name, current), amount in sorted(census.stored.items()):
        what = f"storage, {name}" + ("" if current else ", old versions")
        found.append(_monthly(census, f"storage/{name}", amount.bytes, what))
    found += [
        _monthly(census, f"storage/{name}", size, f"storage, {name}, least sizes and overheads")
        for name, size in sorted(census.rounded.items())
    ]
    found.append(
        _monthly(census, "monitoring/INTELLIGENT_TIERING", census.monitored, "monitoring, INTELLIGENT_TIERING")
    )
    found.append(_monthly(census, "storage/STANDARD", census.upload_bytes or 0, "storage, uploads never completed"))
    return [charge for charge in found if charge.quantity]


def _once(census: Census, item: str, quantity: int, what: str) -> Charge:
    return Charge(census.bucket, census.region, Stage.MIGRATE, item, quantity, what)


def _monthly(census: Census, item: str, quantity: int, what: str) -> Charge:
    return Charge(census.bucket, census.region, Stage.MONTHLY, item, quantity, what)


def charges_of_bought(bucket: str, region: str, bought: Iterable[Bought]) -> list[Charge]:
    """Restores that S3 has accepted, and their temporary copies."""
    found = []
    for one in bought:
        name = f"{one.storage_class}/{one.tier}"
        items = ((f"restore-request/{name}", one.requests), (f"retrieval/{name}", one.bytes))
        found += [Charge(bucket, region, Stage.MIGRATE, item, quantity, item) for item, quantity in items if quantity]
        if one.byte_days:
            months = -(-one.byte_days // DAYS_OF_A_MONTH)
            found.append(Charge(bucket, region, Stage.MIGRATE, "storage/STANDARD", months, "temporary copies"))
    return found


def worth(bucket: str, region: str, bought: Iterable[Bought], book: PriceBook) -> Total:
    return total(bill(charges_of_bought(bucket, region, bought), book.rates))


def about(sum_: Total, book: PriceBook) -> str:
    """For people. A rate that is not known is said to be so; it is nothing that costs nothing."""
    known = f"about {sum_.amount:,.2f} {book.currency} ({', '.join((*book.sources, *book.notes))})"
    if sum_.complete:
        return known
    lacking = f"what nobody has told the price of: {', '.join(sum_.unknown)}"
    return f"{known} and {lacking}" if sum_.amount else lacking
