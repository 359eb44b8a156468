"""When each part of the work is over, from what is known of speeds; what nobody knows stays unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from migrate_v2.errors import BadUsage
from migrate_v2.keys import show
from migrate_v2.settings import Bandwidth, bandwidth_at

# One `aws s3 sync` fetches about 300 small objects a second, bound by its CPU; the program's own requests, of as many
# threads as `max_concurrent_downloads`, some 30 a second and thread over a distance of 30 ms.
CLI_OBJECTS = 300.0
OWN_REQUESTS = 30.0
# Reading back: SHA-256 and MD5 together at 0.5 GB a second and thread; of small files 500 were seen on a busy machine.
# A slower disk is slower.
HASHED = 500e6
FILES = 500.0
# RestoreObject takes 1,000 a second and account (S3 user guide); the program's 16 threads ask about 500.
RESTORES = 500.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Bytes a second of the line, None where nobody has measured or said; `source` says who did."""

    line: float | None
    source: str
    threads: int = 8
    verifiers: int = 2
    limit: Bandwidth | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Something to bring: as S3 counts it. `own` of the requests are the program's own and not the CLI's."""

    objects: int
    bytes: int
    requests: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(self.objects + other.objects, self.bytes + other.bytes, self.requests + other.requests)


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of the time line; `kind` is restore, transfer or verify."""

    kind: str
    name: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Timeline:
    """`end` is None where the line's speed is unknown; then `spans` holds only what is known all the same."""

    start: datetime
    spans: tuple[Span, ...]
    end: datetime | None
    late: tuple[int, ...] = ()  # waves whose copies expire before they can be fetched


_SPEED = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([kKMGT]?)(i?)(bit|bits|b|B)(?:/s|ps)")


def line_speed(text: str) -> float:
    """Bytes a second of `500Mbit/s` (M is 1,000,000, as lines are sold) or `60MB/s` (MB is 1024 * 1024, as everywhere
    here); BadUsage for anything else."""
    found = _SPEED.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise BadUsage(f"{show(text)[:40]} is not the speed of a line, such as 500Mbit/s or 60MB/s")
    bits = found[4] != "B"
    base = 1000 if bits and not found[3] else 1024
    return float(found[1]) * float(base ** " KMGT".index(found[2].upper() or " ")) / (8 if bits else 1)


def arrive(start: datetime, load: Load, pace: Pace) -> datetime | None:
    """When this load is here that begins to come at `start`, by the line, its timetable and the number of objects."""
    by_number = load.objects / CLI_OBJECTS + load.requests / (OWN_REQUESTS * pace.threads)
    by_line = _through(start, load.bytes, pace)
    return None if by_line is None else max(by_line, start + timedelta(seconds=by_number))


def _through(start: datetime, size: int, pace: Pace) -> datetime | None:
    if not size:
        return start
    rates = [rate for _, rate in pace.limit.steps] if pace.limit else [None]
    if pace.line is None and None in rates:
        return None

    def rate(clock: time) -> float:
        limit = bandwidth_at(pace.limit, clock)
        known = [r for r in (pace.line, limit) if r is not None]
        return min(known)

    if len(rates) == 1:
        return start + timedelta(seconds=size / rate(time(0)))
    edges = sorted({time(0), *(step for step, _ in (pace.limit.steps if pace.limit else ()))})
    day = sum(rate(clock) * seconds for clock, seconds in _lengths(edges))
    moment, left = start, float(size)
    whole = int(left // day) - 1
    if whole > 0:
        moment, left = moment + timedelta(days=whole), left - whole * day
    while True:
        following = _next(moment, edges)
        room = rate(moment.time()) * (following - moment).total_seconds()
        if room >= left:
            return moment + timedelta(seconds=left / rate(moment.time()))
        moment, left = following, left - room


def _lengths(edges: Sequence[time]) -> list[tuple[time, float]]:
    seconds = [clock.hour * 3600.0 + clock.minute * 60 for clock in edges] + [86400.0]
    return [(clock, seconds[at + 1] - seconds[at]) for at, clock in enumerate(edges)]


def _next(moment: datetime, edges: Sequence[time]) -> datetime:
    later = next((edge for edge in edges if edge > moment.time()), None)
    if later is not None:
        return moment.replace(hour=later.hour, minute=later.minute, second=0, microsecond=0)
    return (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)


def lay_out(
    start: datetime,
    at_hand: Load,
    waves: Sequence[Load],
    hours: float,
    days: int,
    to_verify: Load,
    pace: Pace,
) -> Timeline:
    """Transfers one after the other, the archived as their waves come back; each wave is asked for when the one before
    is back; what came is read back after each transfer."""
    spans: list[Span] = []
    late = []
    asked = start
    moment: datetime | None = start
    loads: list[tuple[str, Load, datetime]] = [("at hand", at_hand, start)] if at_hand.objects else []
    for number, wave in enumerate(waves, 1):
        back = asked + timedelta(seconds=wave.objects / RESTORES, hours=hours)
        spans.append(Span("restore", f"wave {number} of {len(waves)}", asked, back))
        loads.append((f"wave {number}", wave, back))
        asked = back
    for name, load, ready in loads:
        if moment is None:
            break
        begins = max(moment, ready)
        moment = arrive(begins, load, pace)
        if moment is not None:
            spans.append(Span("transfer", name, begins, moment))
            if name != "at hand" and moment > ready + timedelta(days=days):
                late.append(int(name.split()[1]))
    end = moment
    if end is not None:
        spent = max(to_verify.bytes / (HASHED * pace.verifiers), to_verify.objects / (FILES * pace.verifiers))
        spent += to_verify.requests / (OWN_REQUESTS * pace.threads)
        begins = end
        end += timedelta(seconds=spent)
        if to_verify.objects:
            spans.append(Span("verify", "read back", begins, end))
    return Timeline(start, tuple(spans), end, tuple(late))


def waves_of(archived: Load, at_most: int) -> list[Load]:
    """In equal parts of at most so many objects."""
    count = -(-archived.objects // at_most)
    parts = []
    for number in range(count):
        objects, size = (
            whole * (number + 1) // count - whole * number // count for whole in (archived.objects, archived.bytes)
        )
        parts.append(Load(objects, size))
    return parts


def months(start: datetime, end: datetime | None) -> tuple[int, ...]:
    """How a steady transfer spreads over calendar months, in seconds."""
    if end is None or end <= start:
        return (1,)
    parts = []
    moment = start
    while moment < end:
        following = (moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(
            day=1
        )
        parts.append(max(1, int((min(following, end) - moment).total_seconds())))
        moment = following
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Deadline:
    """`fits` is None where nobody can tell; `advice` is what would make it fit, or tell."""

    by: date
    fits: bool | None
    advice: tuple[str, ...]


# Faster than any line: what does not fit with it is not the line's fault.
_FASTEST = 125e9


def against(
    by: date, end_at: Callable[[float | None, str], datetime | None], pace: Pace, tier: str, tiers: Sequence[str]
) -> Deadline:
    """`end_at` lays the work out with this line and this restore tier; all of `by` may be used."""
    until = datetime.combine(by + timedelta(days=1), time(0)).astimezone()
    now = end_at(pace.line, tier)
    if now is not None and now <= until:
        return Deadline(by, True, ())
    advice = []
    for other in dict.fromkeys((tier, *tiers)):
        fastest = end_at(_FASTEST, other)
        if fastest is None or fastest > until:
            continue
        if other != tier and pace.line is not None and (end := end_at(pace.line, other)) is not None and end <= until:
            advice.append(f"with {other} restores it would fit")
            continue
        needed = _least(until, lambda line, other=other: end_at(line, other))  # type: ignore[misc]
        by_tier = "" if other == tier else f" and {other} restores"
        advice.append(f"a line of {needed * 8 / 1e6:,.0f} Mbit/s{by_tier} would do")
    if not advice:
        advice.append("no line is fast enough: begin with fewer buckets, or move the date")
    elif pace.line is None:
        advice.append("give --throughput, or run `diagnose`, to be told more")
    elif pace.limit is not None:
        advice.append("raise max_bandwidth, which holds it back at some hours")
    return Deadline(by, None if now is None else False, tuple(advice))


def _least(until: datetime, end_at: Callable[[float], datetime | None]) -> float:
    low, high = 1e3, _FASTEST
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        end = end_at(middle)
        low, high = (low, middle) if end is not None and end <= until else (middle, high)
    return high
