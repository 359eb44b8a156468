"""What AWS asks for an amount of work, to the cent: arithmetic on decimals and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum

# What AWS calls a GB in a bill (Amazon S3 FAQs, "How is my storage charge calculated": 1 GB is 2^30 bytes). A re:Post
# answer that counts 100 TB as $1,024 at $0.01 a GB does the same.
GB = 1 << 30
# Byte-hours are billed by the hours of the month; 30 days is within 4 % of any of them.
DAYS_OF_A_MONTH = 30
# Enough for any count of bytes in units of 2^30, whose decimals are 30: nothing is rounded on the way.
_DIGITS = 80

EGRESS = "egress"
FREE = "egress-free"  # the quantity is what the rate says, for it has no price: GB a month of the whole account
EVERYWHERE = "*"  # the region of what is the same in all of them


class Stage(StrEnum):
    """When a line falls due."""

    MIGRATE = "migrate"  # once, by `migrate`
    DELETE = "delete"  # once, by `confirm-delete`
    MONTHLY = "monthly"  # each month until it is deleted


@dataclass(frozen=True, slots=True)
class Tier:
    """A price for units up to `up_to` in a month, None for the rest; the first tier begins at 0."""

    up_to: Decimal | None
    price: Decimal


@dataclass(frozen=True, slots=True)
class Rate:
    """What `per` (bytes, requests, ...) cost; `unit` is what people call them, `source` who says so and of when."""

    tiers: tuple[Tier, ...]
    per: int
    unit: str
    source: str

    @property
    def prices(self) -> str:
        return " / ".join(f"{tier.price.normalize():f}" for tier in self.tiers)

    @property
    def text(self) -> str:
        return f"{self.prices} per {self.unit}"


@dataclass(frozen=True, slots=True)
class Charge:
    """Work that AWS counts: `quantity` in bytes, requests, objects or jobs. `item` names the rate; `what` is for people."""

    bucket: str
    region: str
    stage: Stage
    item: str
    quantity: int
    what: str
    scale: Decimal = Decimal(1)  # of the price of a whole month, for storage that ends earlier


@dataclass(frozen=True, slots=True)
class Line:
    """A charge with its rate; `amount` is None where nobody knows the rate."""

    charge: Charge
    rate: Rate | None
    amount: Decimal | None


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of the lines whose amount is known; `unknown` names the rates that are not."""

    amount: Decimal
    unknown: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.unknown


Rates = Mapping[str, Mapping[str, Rate]]  # by region and item


def price(rate: Rate, quantity: int, before: int = 0) -> Decimal:
    """The price of `quantity` more after `before` were used this month: each unit at the price of its own tier."""
    with localcontext() as context:
        context.prec = _DIGITS
        start, end = Decimal(before) / rate.per, Decimal(before + quantity) / rate.per
        total = Decimal(0)
        floor = Decimal(0)
        for tier in rate.tiers:
            ceiling = end if tier.up_to is None else min(end, tier.up_to)
            if ceiling > max(start, floor):
                total += (ceiling - max(start, floor)) * tier.price
            if tier.up_to is None:
                break
            floor = tier.up_to
        return total


def bill(charges: Iterable[Charge], rates: Rates, *, months: Sequence[int] = (1,), waiver: bool = False) -> list[Line]:
    """Every charge with its price, in their order; tiers go on from one bucket of a region to the next.

    `months` is how the transfer spreads over calendar months, in any proportion: the tiers and what is free begin anew
    in each. With the `waiver` data goes out for nothing.
    """
    used: dict[tuple[str, str, int], int] = {}
    free = rates.get(EVERYWHERE, {}).get(FREE)
    allowance = int(free.tiers[0].price * free.per) if free else 0
    left = [allowance] * len(months)
    lines: list[Line] = []
    for charge in charges:
        rate = rates.get(charge.region, {}).get(charge.item) or rates.get(EVERYWHERE, {}).get(charge.item)
        if charge.item != EGRESS:
            key = (charge.region, f"{charge.stage}/{charge.item}", 0)
            lines.append(Line(charge, rate, _amount(rate, charge, used, key)))
            continue
        if waiver:
            lines.append(Line(charge, Rate((Tier(None, Decimal(0)),), GB, "GB", "the waiver"), Decimal(0)))
            continue
        lines += _out(charge, rate, free, months, left, used)
    return lines


def _amount(
    rate: Rate | None, charge: Charge, used: dict[tuple[str, str, int], int], key: tuple[str, str, int]
) -> Decimal | None:
    if rate is None:
        return None if charge.quantity else Decimal(0)
    before = used.get(key, 0)
    used[key] = before + charge.quantity
    with localcontext() as context:
        context.prec = _DIGITS
        return price(rate, charge.quantity, before) * charge.scale


def _out(
    charge: Charge,
    rate: Rate | None,
    free: Rate | None,
    months: Sequence[int],
    left: list[int],
    used: dict[tuple[str, str, int], int],
) -> list[Line]:
    gratis = paid = 0
    amount = Decimal(0)
    for month, size in enumerate(shares(charge.quantity, months)):
        without = min(size, left[month])
        left[month] -= without
        gratis += without
        paid += size - without
        if rate is not None:
            key = (charge.region, EGRESS, month)
            with localcontext() as context:
                context.prec = _DIGITS
                amount += price(rate, size - without, used.get(key, 0))
            used[key] = used.get(key, 0) + size - without
    lines = []
    if free is not None and gratis:
        nothing = Rate((Tier(None, Decimal(0)),), free.per, free.unit, free.source)
        lines.append(Line(_of(charge, gratis, f"{charge.what}, free of charge each month"), nothing, Decimal(0)))
    if paid or not gratis:
        known = rate is not None or not paid
        lines.append(Line(_of(charge, paid, charge.what), rate, amount if known else None))
    return lines


def _of(charge: Charge, quantity: int, what: str) -> Charge:
    return Charge(charge.bucket, charge.region, charge.stage, charge.item, quantity, what, charge.scale)


def shares(quantity: int, proportions: Sequence[int]) -> list[int]:
    """`quantity` in whole parts of these proportions, with nothing lost: the last takes what is left over."""
    whole = sum(proportions)
    parts = [quantity * part // whole for part in proportions[:-1]]
    return [*parts, quantity - sum(parts)]


def total(lines: Iterable[Line]) -> Total:
    amount = Decimal(0)
    unknown: dict[str, None] = {}
    with localcontext() as context:
        context.prec = _DIGITS
        for line in lines:
            if line.amount is None:
                unknown[f"{line.charge.item} in {line.charge.region or 'an unknown region'}"] = None
            else:
                amount += line.amount
    return Total(amount, tuple(unknown))
