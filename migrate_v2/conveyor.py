"""How much of what is archived is asked for, when, and for how long: fetched before it expires, for the fewest paid days.

Times are seconds since the epoch, in UTC. Everything here is arithmetic on figures that others have counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HOUR = 3600.0
DAY = 86400.0

# Seconds from the request to the first and to the last of the objects (Amazon S3 User Guide, "Archive retrieval options").
# The listing does not tell in which archive tier an INTELLIGENT_TIERING object lies: the deeper one is assumed.
_EXPECTED = {
    ("GLACIER", "Expedited"): (60.0, 300.0),
    ("GLACIER", "Standard"): (3 * HOUR, 5 * HOUR),
    ("GLACIER", "Bulk"): (5 * HOUR, 12 * HOUR),
    ("DEEP_ARCHIVE", "Standard"): (6 * HOUR, 12 * HOUR),
    ("DEEP_ARCHIVE", "Bulk"): (24 * HOUR, 48 * HOUR),
    ("INTELLIGENT_TIERING", "Expedited"): (60.0, 12 * HOUR),
    ("INTELLIGENT_TIERING", "Standard"): (3 * HOUR, 12 * HOUR),
    ("INTELLIGENT_TIERING", "Bulk"): (5 * HOUR, 48 * HOUR),
}
TIERS = ("Bulk", "Standard", "Expedited")  # the faster, the dearer

# A link of 100 Mbit/s, until a transfer that is worth being called a measure has shown what it is.
ASSUMED = 12.5e6
WORTH_MEASURING = 64 << 20
# Verification takes turns with the transfer, and the next night may be slower than the last one: so much slower a link is
# still fast enough for all that was asked for.
SLOWEST = 0.6
# One `aws s3 sync` brings about 300 small objects a second, whatever the link.
OBJECTS_A_SECOND = 200.0
# Kept free between the planned end of a fetch and the expiry of what it fetches.
MARGIN = HOUR
# What comes back while everything before it is being fetched waits for all of that, and then comes last.
PASSES = 2
# How long before its expiry a copy is looked at by the guard.
GUARD = 3 * HOUR
# Between two looks at Glacier.
SOONEST, LATEST = 60.0, HOUR
# Of the free disk nothing more is planned with than this.
FILL = 0.95


@dataclass(frozen=True, slots=True)
class Lot:
    """What takes its turn on the link together: when all of it is there, until when, and how much it is."""

    ready: float
    expires: float  # math.inf: it does not
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Link:
    """What comes down in a second."""

    bytes_a_second: float
    objects_a_second: float
    measured: bool

    def seconds(self, objects: int, size: int) -> float:
        return max(size / self.bytes_a_second, objects / self.objects_a_second)

    def at_its_slowest(self) -> Link:
        return Link(SLOWEST * self.bytes_a_second, SLOWEST * self.objects_a_second, self.measured)


@dataclass(frozen=True, slots=True)
class Wave:
    """What may be asked for now. `why`: what keeps the bytes from being more, time or disk; `capped`: that the objects are
    as many as may be outstanding."""

    days: int
    objects: int
    bytes: int
    why: str
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Bought:
    """Restores of one kind that S3 has accepted. `byte_days`: how much is kept at STANDARD besides, for how long."""

    storage_class: str
    tier: str
    requests: int
    bytes: int
    byte_days: int


def expected(storage_class: str, tier: str) -> tuple[float, float]:
    """Seconds until the first and the last object of a request is back."""
    return _EXPECTED[storage_class if storage_class in ("GLACIER", "DEEP_ARCHIVE") else "INTELLIGENT_TIERING", tier]


def tier_for(storage_class: str, wanted: str) -> str:
    """The nearest tier that this class has."""
    return wanted if (storage_class, wanted) != ("DEEP_ARCHIVE", "Expedited") else "Standard"


def faster(tier: str, than: str) -> bool:
    return TIERS.index(tier) > TIERS.index(than)


def expires(asked: float, days: int) -> float:
    """The midnight at which a copy asked for at this moment goes (Amazon S3 User Guide, "Restoring an archived object").

    Days count from the request, says AWS; where they count from the copy's arrival it goes later.
    """
    return math.ceil((asked + days * DAY) / DAY) * DAY


def link(size: int, seconds: float) -> Link:
    """The link by what has come down so far and how long that took."""
    if size >= WORTH_MEASURING and seconds > 0:
        return Link(size / seconds, OBJECTS_A_SECOND, True)
    return Link(ASSUMED, OBJECTS_A_SECOND, False)


def clear_at(lots: Iterable[Lot], now: float, link: Link) -> float:
    """When the last of these is on disk, if they come back as late as they may."""
    moment = now
    for lot in sorted(lots, key=lambda lot: lot.ready):
        moment = max(moment, lot.ready) + link.seconds(lot.objects, lot.bytes)
    return moment


def wave(
    lots: Sequence[Lot],
    now: float,
    link: Link,
    *,
    storage_class: str,
    tier: str,
    days: int,
    exactly: bool,
    horizon: float,
    outstanding: int,
    cap: int,
    disk: int | None,
) -> Wave:
    """What of this class may be asked for now, behind `lots`: all that is on its way or waits for the link.

    So much that the link stays busy from when this comes back until `horizon` seconds later, when more of it will have
    been asked for, and no more: a copy that waits is paid for every day. Kept for the fewest days in which all of it can
    be fetched, at most `days`; `exactly` so many if an operator has said so, or the link was never measured.

    outstanding | the disk holds | the link is busy until     | then
    ------------|----------------|----------------------------|-------------------------------------
    the cap     | any            | any                        | nothing, `capped`
    less        | nothing more   | any                        | nothing, "disk"
    less        | more           | past arrival + horizon     | nothing, "time"
    less        | more           | before                     | the least of what the three leave
    """
    if outstanding >= cap:
        return Wave(days, 0, 0, "time", capped=True)
    room = math.inf if disk is None else disk * FILL - sum(lot.bytes for lot in lots)
    if room <= 0:
        return Wave(days, 0, 0, "disk")
    arrival = now + expected(storage_class, tier)[1]
    # What comes back later, of a slower class, leaves the link to this until then; if it does not come early.
    before = [lot for lot in lots if lot.ready <= arrival + horizon]
    start = max(arrival, clear_at(before, now, link))
    seconds = arrival + horizon - start
    slow = link.at_its_slowest()
    free = not exactly and link.measured  # to choose the days
    if len(before) < len(lots):
        seconds = min(seconds, _between(lots, now, slow, arrival))
        start = max(start, arrival + slow.seconds(sum(lot.objects for lot in lots), sum(lot.bytes for lot in lots)))
        if free:  # for the fewest days or not at all: it can wait as well
            days = next((d for d in range(1, days) if expires(now, d) - MARGIN > arrival), days)
            free = False
    if storage_class in ("GLACIER", "DEEP_ARCHIVE"):
        late = max(start, clear_at(before, now, slow))
        if free:
            fewest = (d for d in range(1, days) if expires(now, d) - MARGIN >= late + PASSES * seconds / SLOWEST)
            days = next(fewest, days)
        seconds = min(seconds, (_until(now, days, arrival) - MARGIN - late) / PASSES * SLOWEST)
    if seconds <= 0:
        return Wave(days, 0, 0, "time")
    objects = int(min(cap - outstanding, seconds * link.objects_a_second))
    size = int(min(room, seconds * link.bytes_a_second))
    why = "disk" if size == room // 1 else "time"
    return Wave(days, max(1, objects), size, why, capped=objects == cap - outstanding)


def _between(lots: Iterable[Lot], now: float, slow: Link, arrival: float) -> float:
    """Seconds of the link that something may take at `arrival` without making what comes after it late."""
    moment, slack = now, math.inf
    for lot in sorted(lots, key=lambda lot: lot.ready):
        moment = max(moment, lot.ready) + slow.seconds(lot.objects, lot.bytes)
        if lot.ready > arrival:
            slack = min(slack, lot.expires - MARGIN - moment)
    return slack / PASSES * SLOWEST


def _until(now: float, days: int, arrival: float) -> float:
    """When copies asked for now go. Fewer days than the way back takes can only mean that they count from the arrival."""
    until = expires(now, days)
    return until if until > arrival + MARGIN else arrival + days * DAY


def days_for(seconds: float, now: float, storage_class: str, tier: str, days: int) -> int:
    """The fewest days, from `days` on, in which so many seconds of the link fit: for an object larger than a wave."""
    arrival = now + expected(storage_class, tier)[1]
    return next((d for d in range(days, 365) if _until(now, d, arrival) - MARGIN >= arrival + seconds), 365)


def at_risk(lots: Iterable[Lot], now: float, link: Link, ahead: float = GUARD) -> float | None:
    """The last expiry, within `ahead` seconds, before which not everything that is ready can be fetched; None if there is none.

    `lots` are those that are ready, ordinary objects included: nobody knows in which order they come.
    """
    ready = [lot for lot in lots if lot.ready <= now]
    done = now + link.at_its_slowest().seconds(sum(lot.objects for lot in ready), sum(lot.bytes for lot in ready))
    late = [lot.expires for lot in ready if lot.expires <= now + ahead and done > lot.expires - MARGIN]
    return max(late, default=None)


def renewal(lots: Iterable[Lot], now: float, link: Link) -> int:
    """Days for which copies that are about to expire are asked for again: the fewest in which all can be fetched."""
    done = clear_at((lot for lot in lots if lot.ready <= now), now, link.at_its_slowest())
    return next((days for days in range(1, 365) if expires(now, days) - MARGIN >= now + PASSES * (done - now)), 365)


# Looks while something is due: one when the first may be back, and so many until the last is.
WHILE_DUE = 12


def next_look(asked: Iterable[tuple[float, str, str]], now: float) -> float:
    """Seconds until there may be something to see of what was asked for, each (when, storage class, tier)."""
    soonest = LATEST
    for when, storage_class, tier in asked:
        early, late = expected(storage_class, tier)
        left = when + early - now
        soonest = min(soonest, left if left > 0 else (late - early) / WHILE_DUE)
    return max(SOONEST, soonest)
