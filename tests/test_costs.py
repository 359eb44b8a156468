"""Bills worked out by hand from the structure that AWS publishes, and what holds for every bill.

Sources of the structure: aws.amazon.com/s3/pricing (requests by the thousand and by class, retrievals, restores, minimum
sizes and durations, data transfer out in tiers of 10, 40, 100 and more TB a month, 100 GB a month free); the S3 user
guide, "Understanding your AWS billing and usage reports"; re:Post, "s3-manage-data-retrieval" (15 million objects).
"""

from __future__ import annotations

from decimal import Decimal as D
from decimal import localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate_v2.costs import (
    EGRESS,
    EVERYWHERE,
    FREE,
    GB,
    Charge,
    Line,
    Rate,
    Rates,
    Stage,
    Tier,
    bill,
    price,
    shares,
    total,
)

TB = 1024 * GB


def per_gb(*tiers: tuple[int | None, str]) -> Rate:
    return Rate(tuple(Tier(None if top is None else D(top), D(cost)) for top, cost in tiers), GB, "GB", "test")


def per_thousand(cost: str) -> Rate:
    return Rate((Tier(None, D(cost)),), 1000, "1,000 requests", "test")


OUT = per_gb((10240, "0.09"), (51200, "0.085"), (153600, "0.07"), (None, "0.05"))
STORED = per_gb((51200, "0.023"), (512000, "0.022"), (None, "0.021"))
HUNDRED = Rate((Tier(None, D(100)),), GB, "GB", "test")


def out(size: int, bucket: str = "b", region: str = "r") -> Charge:
    return Charge(bucket, region, Stage.MIGRATE, EGRESS, size, "data transfer out")


def amount(lines: list[Line]) -> D:
    return total(lines).amount


@pytest.mark.parametrize(
    ("size", "dollars"),
    [
        (0, "0"),
        (GB, "0.09"),
        (10 * TB, "921.6"),  # 10,240 x 0.09
        (10 * TB + GB, "921.685"),  # and one at 0.085
        (50 * TB, "4403.2"),  # 921.60 + 40,960 x 0.085 = 921.60 + 3,481.60
        (150 * TB, "11571.2"),  # + 102,400 x 0.07 = 7,168.00
        (500 * TB, "29491.2"),  # + 358,400 x 0.05 = 17,920.00
    ],
)
def test_data_transfer_out_by_its_tiers(size: int, dollars: str) -> None:
    assert price(OUT, size) == D(dollars)


def test_a_hundred_gigabytes_a_month_cost_nothing_in_the_whole_account() -> None:
    rates: Rates = {"r": {EGRESS: OUT}, "s": {EGRESS: OUT}, EVERYWHERE: {FREE: HUNDRED}}
    lines = bill([out(60 * GB), out(60 * GB, "c", "s")], rates)
    assert [(line.charge.bucket, line.charge.quantity // GB, line.amount) for line in lines] == [
        ("b", 60, 0),
        ("c", 40, 0),
        ("c", 20, D("1.80")),
    ]
    # 240 GB over two months: 2 x (120 - 100) x 0.09
    assert amount(bill([out(240 * GB)], rates, months=(1, 1))) == D("3.60")
    assert amount(bill([out(240 * GB)], rates)) == D("12.60")
    assert amount(bill([out(240 * GB)], rates, waiver=True)) == 0


def test_fifteen_million_archived_objects() -> None:
    """re:Post: 15,000,000 objects of 100 TB in all: $1,774 by Standard; by Expedited $150,000 for the requests alone."""
    rates: Rates = {
        "r": {"requests": per_thousand("0.05"), "bytes": per_gb((None, "0.01")), "hurry": per_thousand("10")}
    }
    standard = [
        Charge("b", "r", Stage.MIGRATE, "requests", 15_000_000, ""),
        Charge("b", "r", Stage.MIGRATE, "bytes", 100 * TB, ""),
    ]
    assert [line.amount for line in bill(standard, rates)] == [D(750), D(1024)]
    assert amount(bill(standard, rates)) == D(1774)
    assert amount(bill([Charge("b", "r", Stage.MIGRATE, "hurry", 15_000_000, "")], rates)) == D(150_000)


def test_storage_of_half_a_month_and_in_tiers_over_the_buckets_of_a_region() -> None:
    rates: Rates = {"r": {"storage": STORED}}
    stored = [Charge(name, "r", Stage.MONTHLY, "storage", 40 * TB, "", D(1) / 2) for name in ("b", "c")]
    # b: 40,960 x 0.023 = 942.08; c: 10,240 x 0.023 + 30,720 x 0.022 = 235.52 + 675.84; half of each
    assert [line.amount for line in bill(stored, rates)] == [D("471.04"), D("455.68")]


def test_an_unknown_rate_is_said_and_never_taken_for_nothing() -> None:
    lines = bill([out(GB), Charge("b", "r", Stage.MIGRATE, "list", 1000, "")], {"r": {"list": per_thousand("0.005")}})
    assert lines[0].amount is None
    told = total(lines)
    assert (told.amount, told.complete, told.unknown) == (D("0.005"), False, ("egress in r",))
    assert total(bill([Charge("b", "r", Stage.MIGRATE, "list", 0, "")], {})).complete, "nothing of it costs nothing"
    assert total(bill([out(50 * GB)], {EVERYWHERE: {FREE: HUNDRED}})).complete, "all of it is free"


amounts = st.integers(0, 600 * TB)


@settings(max_examples=60, deadline=None)
@given(amounts, amounts, st.integers(1, 4))
def test_more_bytes_never_cost_less(size: int, more: int, months: int) -> None:
    rates: Rates = {"r": {EGRESS: OUT}, EVERYWHERE: {FREE: HUNDRED}}
    spread = (1,) * months
    assert amount(bill([out(size)], rates, months=spread)) <= amount(bill([out(size + more)], rates, months=spread))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([0, 10240, 51200, 153600]), st.integers(0, 10_000))
def test_tiers_are_continuous(edge: int, bytes_around: int) -> None:
    """A byte more never costs more than a byte at the dearest price, at the very edge of a tier either."""
    below, above = max(0, edge * GB - bytes_around), edge * GB + bytes_around
    assert price(OUT, above) - price(OUT, below) <= D(above - below) / GB * D("0.09")


@settings(max_examples=60, deadline=None)
@given(st.lists(amounts, max_size=6))
def test_in_parts_it_costs_what_it_costs_at_once(sizes: list[int]) -> None:
    rates: Rates = {"r": {EGRESS: OUT}, EVERYWHERE: {FREE: HUNDRED}}
    lines = bill([out(size, str(number)) for number, size in enumerate(sizes)], rates)
    assert abs(amount(lines) - amount(bill([out(sum(sizes))], rates))) < D("1e-30")
    assert sum(line.charge.quantity for line in lines) == sum(sizes)
    with localcontext() as context:
        context.prec = 100
        assert amount(lines) == sum((line.amount or D(0) for line in lines), D(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**18), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_shares_lose_nothing(quantity: int, proportions: list[int]) -> None:
    parts = shares(quantity, proportions)
    assert sum(parts) == quantity
    assert all(part >= 0 for part in parts)
