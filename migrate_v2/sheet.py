"""A plan as one JSON document and as tables: the same figures in both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from migrate_v2.costs import GB, Line, Stage, Total, total
from migrate_v2.keys import count_of
from migrate_v2.report import Bytes
from migrate_v2.steps.plan import Forecast, OfBucket
from migrate_v2.workload import Census

LINE_HEADERS = ("bucket", "due", "what", "quantity", "unit", "rate", "rate from", "amount")
BUCKET_HEADERS = ("bucket", "objects", "size", "migrate", "confirm-delete", "each month")
TIER_HEADERS = ("restore tier", "cost", "back after", "as one batch job", "all done", "")
TOTAL_HEADERS = ("total", "amount", "")
OBSTACLE_HEADERS = ("bucket", "obstacle", "what it is", "what to do")
DUE = {Stage.MIGRATE: "migrate", Stage.DELETE: "confirm-delete", Stage.MONTHLY: "each month"}


def money(amount: Decimal | None, currency: str) -> str:
    """To the cent; what is less than half a cent and more than nothing says so."""
    if amount is None:
        return "unknown"
    if 0 < amount < Decimal("0.005"):
        return f"< 0.01 {currency}"
    return f"{amount.quantize(Decimal('0.01'), ROUND_HALF_UP):,} {currency}"


def quantity(line: Line) -> str:
    """In the unit that the rate is by; of an early deletion in GB and days."""
    per = line.rate.per if line.rate else (GB if _in_bytes(line) else 1)
    amount = Decimal(line.charge.quantity) / per
    return f"{amount:,.0f}" if per == 1 else f"{amount:,.3f}"


def unit(line: Line) -> str:
    if line.rate:
        days = " and day" if line.charge.stage is Stage.DELETE and _in_bytes(line) else ""
        return line.rate.unit.replace(" and month", days or " and month") if _in_bytes(line) else line.rate.unit
    return "GB" if _in_bytes(line) else "requests"


def _in_bytes(line: Line) -> bool:
    return line.charge.item.partition("/")[0] in ("storage", "retrieval", "egress")


def hours(count: float) -> str:
    return f"{count * 60:.0f} min" if count < 1 else f"{count:g} h"


def _when(moment: datetime | None) -> str:
    return "unknown" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def line_rows(told: Forecast) -> Iterator[tuple[object, ...]]:
    for line in told.lines:
        yield (
            line.charge.bucket,
            DUE[line.charge.stage],
            line.charge.what,
            quantity(line),
            unit(line),
            line.rate.text if line.rate else "unknown",
            line.rate.source if line.rate else "",
            money(line.amount, told.book.currency),
        )


def bucket_rows(told: Forecast) -> Iterator[tuple[object, ...]]:
    for b in told.buckets:
        lines = [line for line in told.lines if line.charge.bucket == b.census.bucket]
        costs = (
            _whole(total(one for one in lines if one.charge.stage is stage), told.book.currency) for stage in Stage
        )
        yield b.census.bucket, b.census.objects, Bytes(b.census.bytes), *costs


def cost_rows(told: Forecast, stage: Stage) -> Iterator[tuple[object, ...]]:
    """What all buckets together need of one thing at one rate, a row each; the cost of small change is still its own."""
    for (what, rate), lines in sums(told, stage).items():
        amounts = [line.amount for line in lines]
        amount = None if None in amounts else total(lines).amount
        count = sum(line.charge.quantity for line in lines)
        whole = replace(lines[0], charge=replace(lines[0].charge, quantity=count))
        yield what, f"{quantity(whole)} {unit(whole)}", rate, money(amount, told.book.currency)


def sums(told: Forecast, stage: Stage) -> dict[tuple[str, str], list[Line]]:
    """Lines of the same thing at the same rate, by name and price."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in told.lines:
        if line.charge.stage is stage:
            found.setdefault((line.charge.what, line.rate.prices if line.rate else "unknown"), []).append(line)
    return found


def total_rows(told: Forecast) -> Iterator[tuple[object, ...]]:
    named = [(DUE[stage], told.totals[stage]) for stage in Stage]
    for name, amount in [("once, in all", once(told)), *named]:
        lacks = "" if amount.complete else f"INCOMPLETE, no rate for: {'; '.join(amount.unknown)}"
        yield name, money(amount.amount, told.book.currency), lacks


def once(told: Forecast) -> Total:
    return total(line for line in told.lines if line.charge.stage is not Stage.MONTHLY)


def tier_rows(told: Forecast) -> Iterator[tuple[object, ...]]:
    for tier in told.tiers:
        yield (
            tier.tier,
            _whole(tier.cost, told.book.currency),
            hours(tier.hours),
            "not to be had" if tier.tier == "Expedited" else f"+ {_whole(tier.batch_fee, told.book.currency)}",
            _when(tier.end),
            tier.note,
        )


def _whole(amount: Total, currency: str) -> str:
    return money(amount.amount, currency) + ("" if amount.complete else " and what is unknown")


def fact_rows(told: Forecast) -> Iterator[tuple[str, str]]:
    """What there is, when it ends, and whether it fits, in a line each."""
    need, room = told.fit.need, told.fit.room
    yield "to fetch", f"{count_of(need.objects, 'object')}, {need.bytes:,} bytes, the largest {need.biggest:,}"
    for name, day in sorted({n: d for b in told.buckets for n, d in b.free_from.items()}.items()):
        yield "early deletion", f"of {name} costs nothing from {day} on"
    line = told.asking.pace.line
    speed = "unknown" if line is None else f"{line * 8 / 1e6:,.0f} Mbit/s ({told.asking.pace.source})"
    limit = told.asking.pace.limit
    yield "line", speed + (f", at most {limit.text}" if limit else "")
    yield "all done", _when(told.timeline.end)
    if told.deadline:
        fits = {True: "is kept", False: "is not kept", None: "may or may not be kept"}[told.deadline.fits]
        yield "deadline", "; ".join([f"{told.deadline.by} {fits}", *told.deadline.advice])
    if room is None:
        yield "space", f"{need.whole:,} bytes and {need.inodes:,} inodes are needed; name --dest to have it compared"
    else:
        inodes = "" if room.inodes is None else f" and {count_of(room.inodes, 'inode')}"
        yield (
            "space",
            (
                f"{need.whole:,} bytes in blocks of {room.block:,} and {need.inodes:,} inodes are needed;"
                f" {room.free:,} bytes{inodes} are free on {room.folder}"
            ),
        )
        yield "fits", "; ".join(told.fit.lacks) or "yes"
    if told.fit.linked[0]:
        objects, size = told.fit.linked
        yield (
            "hard links",
            f"{count_of(objects, 'local copy', 'local copies')}, which confirm-delete keeps in S3; files of their own (adopt = copy) need {size:,} bytes",
        )
    if told.fit.memory_lacks:
        yield "memory", told.fit.memory_lacks
    yield "prices", ", ".join(told.book.sources)
    if told.book.dated:
        yield "prices of", f"{told.book.dated}: check them at aws.amazon.com/s3/pricing before you rely on them"


def sentences(told: Forecast) -> Iterator[str]:
    """What is beside the costs, a line each, for where there is no terminal to draw tables on."""
    for name, amount, lacks in total_rows(told):
        yield f"{name}: {amount} {lacks}".rstrip()
    for tier in told.tiers:
        yield f"{tier.tier} restores: {_whole(tier.cost, told.book.currency)}, back after {hours(tier.hours)}"
    for name, text in fact_rows(told):
        yield f"{name}: {text}"
    for o in told.obstacles:
        yield f"{o.bucket or 'all'}: {o.severity}: {o.text}; {o.advice}"
    yield from told.notes


def document(told: Forecast) -> dict[str, Any]:
    currency = told.book.currency
    return {
        "planned_at": told.asking.now.isoformat(timespec="seconds"),
        "currency": currency,
        "estimated": any(b.census.estimated for b in told.buckets),
        "buckets": [_bucket(b, told) for b in told.buckets],
        "totals": {
            "once": _total(once(told)),
            **{stage.value: _total(told.totals[stage]) for stage in Stage},
        },
        "restore_tiers": [
            {
                "tier": tier.tier,
                "cost": _total(tier.cost),
                "hours": round(tier.hours, 3),
                "batch_fee": None if tier.tier == "Expedited" else _total(tier.batch_fee),
                "end": tier.end and tier.end.isoformat(timespec="seconds"),
                "note": tier.note,
            }
            for tier in told.tiers
        ],
        "time": {
            "throughput_bytes_per_second": told.asking.pace.line,
            "throughput_from": told.asking.pace.source,
            "end": told.timeline.end and told.timeline.end.isoformat(timespec="seconds"),
            "spans": [
                {
                    "kind": s.kind,
                    "name": s.name,
                    "start": s.start.isoformat(timespec="seconds"),
                    "end": s.end.isoformat(timespec="seconds"),
                }
                for s in told.timeline.spans
            ],
        },
        "deadline": told.deadline
        and {"by": told.deadline.by.isoformat(), "fits": told.deadline.fits, "advice": list(told.deadline.advice)},
        "space": {
            "objects": told.fit.need.objects,
            "bytes": told.fit.need.bytes,
            "bytes_on_disk": told.fit.need.whole,
            "inodes": told.fit.need.inodes,
            "largest": told.fit.need.biggest,
            "state_file_bytes": told.fit.state_rows,
            "linked": {"objects": told.fit.linked[0], "bytes": told.fit.linked[1]},
            "destination": None
            if told.fit.room is None
            else {
                "folder": told.fit.room.folder,
                "free_bytes": told.fit.room.free,
                "free_inodes": told.fit.room.inodes,
                "block": told.fit.room.block,
                "largest_file": told.fit.room.largest,
            },
            "fits": None if told.fit.room is None else not told.fit.lacks,
            "lacks": [*told.fit.lacks, *([told.fit.memory_lacks] if told.fit.memory_lacks else [])],
        },
        "obstacles": [asdict(obstacle) for obstacle in told.obstacles],
        "prices": {
            "dated": told.book.dated and told.book.dated.isoformat(),
            "sources": list(told.book.sources),
            "check": "list prices change: check them before you rely on them",
        },
        "notes": list(told.notes),
    }


def _total(amount: Total) -> dict[str, Any]:
    return {"amount": float(amount.amount), "complete": amount.complete, "unknown": list(amount.unknown)}


def _bucket(b: OfBucket, told: Forecast) -> dict[str, Any]:
    census = b.census
    lines = [line for line in told.lines if line.charge.bucket == census.bucket]
    return {
        "bucket": census.bucket,
        "region": census.region,
        "estimated": census.estimated,
        "objects": census.objects,
        "bytes": census.bytes,
        "noncurrent": _amount(census, current=False),
        "delete_markers": census.markers,
        "uploads": {"count": census.uploads, "bytes": census.upload_bytes},
        "requests": requests(b),
        "bytes_out": sum(census.out.values()),
        "aside": {"objects": census.aside.objects, "bytes": census.aside.bytes},
        "superseded": {"objects": census.superseded.objects, "bytes": census.superseded.bytes},
        "storage_classes": {name: _amount(census, name) for name in sorted({name for name, _ in census.stored})},
        "overhead_bytes": dict(sorted(census.rounded.items())),
        "early_deletion_ends": {name: day.isoformat() for name, day in b.free_from.items()},
        "totals": {stage.value: _total(total(line for line in lines if line.charge.stage is stage)) for stage in Stage},
        "lines": [_line(line) for line in lines],
    }


def requests(b: OfBucket) -> dict[str, int]:
    """What `migrate` is going to ask S3 for, by kind."""
    return {
        "list": b.lists,
        "get": sum(b.census.gets.values()),
        "head": sum(b.census.heads.values()) + b.visits.runs,
        "other": sum(b.census.others.values()) + b.others - b.visits.runs,
        "restore": sum(amount.objects for amount in b.census.to_restore.values()),
    }


def _amount(census: Census, name: str | None = None, *, current: bool | None = None) -> dict[str, int]:
    picked = [
        amount for (kind, latest), amount in census.stored.items() if name in (None, kind) and current in (None, latest)
    ]
    return {"objects": sum(a.objects for a in picked), "bytes": sum(a.bytes for a in picked)}


def _line(line: Line) -> dict[str, Any]:
    rate = line.rate
    return {
        "stage": line.charge.stage.value,
        "item": line.charge.item,
        "what": line.charge.what,
        "quantity": line.charge.quantity,
        "share_of_month": float(line.charge.scale),
        "rate": rate
        and {
            "tiers": [{"up_to": t.up_to and float(t.up_to), "price": float(t.price)} for t in rate.tiers],
            "per": rate.per,
            "unit": rate.unit,
            "source": rate.source,
        },
        "amount": None if line.amount is None else float(line.amount),
    }


def obstacle_rows(told: Forecast) -> Iterable[tuple[object, ...]]:
    return ((o.bucket or "all", f"{o.severity}: {o.kind}", o.text, o.advice) for o in told.obstacles)
