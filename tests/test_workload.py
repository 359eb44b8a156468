"""The table of what is asked about an object, the requests about a bucket, and what AWS bills for keeping it."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate_v2 import prices, workload
from migrate_v2.conveyor import Bought
from migrate_v2.costs import GB, Rate, Stage, Tier, bill, total
from migrate_v2.model import Place
from migrate_v2.workload import (
    Asked,
    Census,
    Deed,
    Shape,
    Visits,
    Way,
    asked_for_bucket,
    asked_for_object,
    by_the_month,
    charges,
    charges_of_batch,
    charges_of_restore,
    free_of_early_fees,
    restore_hours,
    tier_for,
)

KB, MB = 1 << 10, 1 << 20
TODAY = date(2026, 11, 25)
WAY = Way(threshold=8 * MB, chunk=8 * MB)
NATIVE = Way(8 * MB, 8 * MB, by_cli=False, native=True)
PLAIN, SIDE, FOLDER = Place.PLAIN, Place.SIDE, Place.FOLDER


@pytest.mark.parametrize(
    ("shape", "way", "deeds", "asked"),
    [
        (Shape(0, FOLDER), WAY, ("fetch", "verify"), Asked()),
        (Shape(0, FOLDER), WAY, ("describe",), Asked(heads=1)),
        (Shape(0, PLAIN), WAY, ("fetch", "verify"), Asked(gets=1)),
        (Shape(0, SIDE), WAY, ("fetch", "verify"), Asked()),
        (Shape(1, PLAIN), WAY, ("fetch", "verify", "describe"), Asked(1, 1)),
        (Shape(8 * MB - 1, PLAIN), WAY, ("fetch",), Asked(gets=1)),
        (Shape(8 * MB, PLAIN), WAY, ("fetch",), Asked(gets=1)),
        (Shape(8 * MB + 1, PLAIN), WAY, ("fetch",), Asked(gets=2)),
        (Shape(80 * MB, PLAIN), WAY, ("fetch",), Asked(gets=10)),
        (Shape(20 * MB - 1, PLAIN), Way(20 * MB, 8 * MB), ("fetch",), Asked(gets=1)),
        (Shape(20 * MB, PLAIN), Way(20 * MB, 8 * MB), ("fetch",), Asked(gets=3)),
        (Shape(80 * MB, SIDE), WAY, ("fetch",), Asked(gets=1)),
        (Shape(80 * MB, PLAIN), Way(8 * MB, 8 * MB, by_cli=False), ("fetch",), Asked(gets=1)),
        (Shape(80 * MB, PLAIN), NATIVE, ("fetch",), Asked(gets=10)),
        (Shape(80 * MB, SIDE), NATIVE, ("fetch",), Asked(gets=10)),
        (Shape(8 * MB - 1, PLAIN), NATIVE, ("fetch",), Asked(gets=1)),
        (Shape(0, PLAIN), NATIVE, ("fetch", "verify"), Asked()),
        (Shape(20 * MB, PLAIN, 3), WAY, ("verify",), Asked()),
        (Shape(20 * MB, PLAIN, 3, usual_parts=False), WAY, ("verify",), Asked(heads=3)),
        (Shape(20 * MB, PLAIN, 1, usual_parts=False), WAY, ("verify",), Asked(heads=2)),
        (Shape(1, PLAIN), Way(8 * MB, 8 * MB, opaque=True), ("verify",), Asked(heads=1)),
        (Shape(0, PLAIN), Way(8 * MB, 8 * MB, opaque=True), ("verify",), Asked()),
        (Shape(1, PLAIN), Way(8 * MB, 8 * MB, looks=12), ("restore", "wait"), Asked(heads=12)),
        (Shape(1, PLAIN), Way(8 * MB, 8 * MB, "none"), ("describe",), Asked()),
        (Shape(1, PLAIN), Way(8 * MB, 8 * MB, every_tag=True), ("describe",), Asked(heads=1, others=1)),
        (Shape(1, PLAIN), Way(8 * MB, 8 * MB, "full"), ("describe",), Asked(heads=1, others=3)),
        (Shape(1, PLAIN), Way(8 * MB, 8 * MB, "full", locked=True), ("describe",), Asked(heads=1, others=5)),
    ],
)
def test_what_is_asked_about_an_object(shape: Shape, way: Way, deeds: tuple[Deed, ...], asked: Asked) -> None:
    assert asked_for_object(shape, way, deeds) == asked


@pytest.mark.parametrize(
    ("visits", "lists", "others"),
    [
        (Visits(0, 0, 0, False), 0, 0),
        (Visits(1, 1, 1, True), 1, 22),
        (Visits(1000, 1, 1, False), 1, 1),
        (Visits(1001, 1, 1, False), 2, 1),
        (Visits(1001, 3, 4, False), 6, 4),
        (Visits(0, 1, 1, False), 1, 1),
        (Visits(2000, 1, 1, False, to_list=5001), 2 + 6 + 1, 3),
    ],
)
def test_what_is_asked_about_a_bucket(visits: Visits, lists: int, others: int) -> None:
    assert asked_for_bucket(visits, WAY) == (lists, others)


def stored(name: str, size: int, days_old: int = 1000, current: bool = True) -> Census:
    census = Census("b", "r")
    census.add_stored(name, size, current, TODAY - timedelta(days=days_old), TODAY)
    return census


@pytest.mark.parametrize(
    ("name", "size", "billed"),
    [
        ("STANDARD", 1, {}),
        ("STANDARD_IA", 1, {"STANDARD_IA": 128 * KB - 1}),
        ("STANDARD_IA", 128 * KB, {}),
        ("ONEZONE_IA", 0, {"ONEZONE_IA": 128 * KB}),
        ("GLACIER_IR", 28 * KB, {"GLACIER_IR": 100 * KB}),
        ("GLACIER", 5, {"GLACIER": 32 * KB, "STANDARD": 8 * KB}),
        ("DEEP_ARCHIVE", 5 * MB, {"DEEP_ARCHIVE": 32 * KB, "STANDARD": 8 * KB}),
    ],
)
def test_what_is_billed_beyond_the_bytes(name: str, size: int, billed: dict[str, int]) -> None:
    """40 KB on each archived object, and no less than 128 KB of others (aws.amazon.com/s3/pricing)."""
    assert dict(stored(name, size).rounded) == billed


def test_a_month_of_a_million_small_archived_objects() -> None:
    """1,000,000 objects of 1 KB in GLACIER: 0.954 GB of bytes and 38.147 GB of overheads; by hand $0.00343 for the bytes,
    30.518 GB x 0.0036 = $0.10986 and 7.629 GB x 0.023 = $0.17548 for the rest."""
    census = Census("b", "r")
    for _ in range(1000):
        census.add_stored("GLACIER", 1000 * KB, True, date(2020, 1, 1), TODAY)
    census.rounded = type(census.rounded)({name: size * 1000 for name, size in census.rounded.items()})
    rates = {"r": {"storage/GLACIER": flat("0.0036"), "storage/STANDARD": flat("0.023")}}
    lines = {line.charge.what: line.amount for line in bill(by_the_month(census), rates)}
    assert round(lines["storage, GLACIER"] or D(0), 5) == D("0.00343")
    assert round(lines["storage, GLACIER, least sizes and overheads"] or D(0), 5) == D("0.10986")
    assert round(lines["storage, STANDARD, least sizes and overheads"] or D(0), 5) == D("0.17548")


def flat(price: str, per: int = GB) -> Rate:
    return Rate((Tier(None, D(price)),), per, "unit", "test")


def test_early_deletion_is_billed_by_the_days_that_are_left() -> None:
    """10 GB in GLACIER for 30 of 90 days: 60 days are left, 10 x 60 / 30 x 0.0036 = $0.072."""
    census = stored("GLACIER", 10 * GB - 32 * KB, days_old=30)
    rates = {"r": {"storage/GLACIER": flat("0.0036")}}

    def fee(ends: date) -> D:
        asked = charges(census, Visits(1, 0, 0, False), WAY, ends=ends)
        early = [line for line in bill(asked, rates) if "early" in line.charge.what]
        return round(total(early).amount, 12)

    assert fee(TODAY) == D("0.072")
    assert fee(TODAY + timedelta(days=30)) == D("0.036")
    assert fee(TODAY + timedelta(days=60)) == 0
    assert free_of_early_fees(census) == {"GLACIER": TODAY + timedelta(days=60)}
    assert free_of_early_fees(stored("GLACIER", 1, days_old=90)) == {}
    assert free_of_early_fees(stored("STANDARD", 1, days_old=1)) == {}


def archived() -> Census:
    census = Census("b", "r")
    for name, size in (("GLACIER", 3 * GB), ("DEEP_ARCHIVE", 2 * GB)):
        census.add_work(name, Shape(size, PLAIN), WAY, ("restore", "wait", "fetch", "verify"))
    return census


def test_a_restore_is_requests_bytes_and_the_copy() -> None:
    """3 GB x 0.01 + 2 GB x 0.02, 2 requests, and 5 GB x 0.023 x 8 / 30 of the copies that stay to the midnight after day 7."""
    rates = {
        "r": {
            "restore-request/GLACIER/Standard": flat("0.05", 1000),
            "restore-request/DEEP_ARCHIVE/Standard": flat("0.10", 1000),
            "retrieval/GLACIER/Standard": flat("0.01"),
            "retrieval/DEEP_ARCHIVE/Standard": flat("0.02"),
            "storage/STANDARD": flat("0.023"),
        }
    }
    lines = bill(charges_of_restore(archived(), WAY, "Standard"), rates)
    expected = D("0.03") + D("0.04") + D("0.00005") + D("0.0001") + D(5) * D("0.023") * 8 / 30
    assert abs(total(lines).amount - expected) < D("1e-20")
    assert total(bill(charges_of_restore(archived(), WAY, "Bulk"), rates)).unknown != ()


def test_deep_archive_is_never_expedited() -> None:
    assert tier_for("DEEP_ARCHIVE", "Expedited") == "Standard"
    assert restore_hours(["GLACIER"], "Expedited") < 1
    assert restore_hours(["GLACIER", "DEEP_ARCHIVE"], "Expedited") == 12
    assert restore_hours(["GLACIER", "DEEP_ARCHIVE"], "Bulk") == 48
    assert restore_hours([], "Bulk") == 0
    items = {charge.item for charge in charges_of_restore(archived(), WAY, "Expedited")}
    assert "retrieval/DEEP_ARCHIVE/Standard" in items
    assert "retrieval/GLACIER/Expedited" in items


def test_batch_is_a_job_and_by_the_object() -> None:
    assert [(c.item, c.quantity) for c in charges_of_batch(archived())] == [("batch-job", 1), ("batch-object", 2)]
    assert charges_of_batch(stored("STANDARD", 1)) == []


def test_old_versions_and_unfinished_uploads_are_seen() -> None:
    census = stored("STANDARD", 5)
    census.add_stored("STANDARD", 7, False, date(2020, 1, 1), TODAY)
    census.upload_bytes = 11
    assert [(charge.what, charge.quantity) for charge in by_the_month(census)] == [
        ("storage, STANDARD, old versions", 7),
        ("storage, STANDARD", 5),
        ("storage, uploads never completed", 11),
    ]


def test_kms_is_asked_for_each_get_where_there_is_no_bucket_key() -> None:
    way = Way(8 * MB, 8 * MB, opaque=True, kms_each=True)
    census = Census("b", "r")
    census.add_work("STANDARD", Shape(20 * MB, PLAIN), way, ("fetch", "verify", "describe"))
    asked = {c.item: c.quantity for c in charges(census, Visits(1, 1, 1, False), way, ends=TODAY)}
    assert asked["kms"] == 3 + 2


sizes = st.lists(
    st.tuples(st.sampled_from(["STANDARD", "STANDARD_IA", "GLACIER", "DEEP_ARCHIVE"]), st.integers(0, 10**12)),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 7), st.integers(0, 10**12))
def test_more_bytes_never_ask_or_cost_less(objects: list[tuple[str, int]], which: int, more: int) -> None:
    def cost(rows: list[tuple[str, int]]) -> tuple[D, int]:
        census = Census("b", "r")
        for name, size in rows:
            census.add_stored(name, size, True, TODAY, TODAY)
            frozen: tuple[Deed, ...] = ("restore", "wait") if name in ("GLACIER", "DEEP_ARCHIVE") else ()
            census.add_work(name, Shape(size, PLAIN), WAY, (*frozen, "fetch", "verify", "describe"))
        asked = charges(census, Visits(len(rows), 1, 1, True), WAY, ends=TODAY)
        rates = {"r": {charge.item: flat("0.01", 1000) for charge in asked}}
        return total(bill(asked, rates)).amount, sum(census.gets.values())

    larger = [(name, size + more * (at == which)) for at, (name, size) in enumerate(objects)]
    assert all(before <= after for before, after in zip(cost(objects), cost(larger), strict=True))


def test_every_stage_has_its_charges() -> None:
    census = archived()
    census.add_stored("GLACIER", GB, True, TODAY, TODAY)
    stages = {charge.stage for charge in charges(census, Visits(1, 1, 1, True), WAY, ends=TODAY)}
    assert stages == set(Stage)


# -- what has been bought


def test_restores_cost_requests_retrieval_and_the_days_of_the_copies() -> None:
    """1,000 objects of 1 GiB each, Deep Archive, Standard, 30 days."""
    book = prices.load(None, None)
    bought = [Bought("DEEP_ARCHIVE", "Standard", 1000, 1000 << 30, 30 * 1000 << 30)]
    cost = workload.worth("b", "us-east-1", bought, book)
    assert (float(cost.amount), cost.unknown) == (pytest.approx(0.10 + 20.0 + 23.0), ())
    said = workload.about(cost, book)
    assert said.startswith("about 43.10 USD (snapshot of ")
    free = workload.worth("b", "us-east-1", [Bought("INTELLIGENT_TIERING", "Bulk", 1000, 1 << 40, 0)], book)
    assert (free.amount, free.complete) == (0, True)


def test_a_rate_that_nobody_knows_is_not_nothing() -> None:
    book = prices.load(None, None)
    cost = workload.worth("b", "mars-north-1", [Bought("GLACIER", "Standard", 5, 5, 0)], book)
    assert cost.unknown == (
        "restore-request/GLACIER/Standard in mars-north-1",
        "retrieval/GLACIER/Standard in mars-north-1",
    )
    said = workload.about(cost, book)
    assert said.startswith("what nobody has told the price of: restore-request/GLACIER/Standard in mars-north-1")
    assert "0.00" not in said
