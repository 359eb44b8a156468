"""A rate is what its source says, in its own unit; nobody's silence is taken for a price."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import pytest

from migrate_v2 import prices
from migrate_v2.costs import EGRESS, EVERYWHERE, FREE, GB, price
from migrate_v2.errors import BadUsage
from tests.fakes.pricing import product

OUT = [("0", "10240", "0.09"), ("10240", "51200", "0.085"), ("51200", "153600", "0.07"), ("153600", "Inf", "0.05")]


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return path


def test_the_snapshot_is_dated_and_knows_what_it_does_not_know() -> None:
    book = prices.load(None, None)
    assert book.currency == "USD"
    assert book.dated and book.dated <= date.today()
    assert f"snapshot of {book.dated}" in book.sources
    assert set(book.rates["us-east-1"]) >= set(prices.USAGE) - {"storage/REDUCED_REDUNDANCY"}
    assert "mars-north-1" not in book.rates
    assert "retrieval/GLACIER/Standard" not in book.rates["eu-west-1"], "not known is not free"
    assert book.rates[EVERYWHERE][FREE].tiers[0].price == 100


def test_worked_figures_of_the_published_prices() -> None:
    """aws.amazon.com/s3/pricing, US East (N. Virginia), as far as peers' records and AWS's own answers show it."""
    rates = prices.load(None, None).rates["us-east-1"]
    assert price(rates["get/STANDARD"], 1_000_000) == D("0.4")
    assert price(rates["list"], 1_000_000) == 5
    assert price(rates["restore-request/GLACIER/Standard"], 15_000_000) == 750
    assert price(rates["restore-request/GLACIER/Expedited"], 15_000_000) == 150_000
    assert price(rates["retrieval/GLACIER/Standard"], 100 * 1024 * GB) == 1024
    assert price(rates["retrieval/DEEP_ARCHIVE/Bulk"], 1024 * GB) == D("2.56")
    assert price(rates["storage/DEEP_ARCHIVE"], 1024 * GB) == D("1.01376")
    assert price(rates[EGRESS], 10 * 1024 * GB) == D("921.6")
    assert price(rates["batch-job"], 2) + price(rates["batch-object"], 3_000_000) == D("3.5")
    assert price(rates["kms"], 10_000) == D("0.03")


def test_own_rates_win_and_say_so(tmp_path: Path) -> None:
    book = prices.load(
        None, toml(tmp_path, '[us-east-1]\nlist = 0.004\negress = [[100, 0.05], ["", 0.01]]\n["*"]\nkms = 0.02\n')
    )
    rate = book.rates["us-east-1"]["list"]
    assert (rate.tiers[0].price, rate.source) == (D("0.004"), "prices.toml")
    assert price(book.rates["us-east-1"][EGRESS], 150 * GB) == D("5.5")
    assert book.rates["us-east-1"]["get/STANDARD"].source.startswith("snapshot")
    assert book.rates["us-east-2"]["list"].source.startswith("snapshot")
    assert book.rates[EVERYWHERE]["kms"].tiers[0].price == D("0.02")


def test_another_currency_needs_an_exchange_rate(tmp_path: Path) -> None:
    alone = prices.load(None, toml(tmp_path, 'currency = "EUR"\n[us-east-1]\nlist = 0.004\n'))
    assert (alone.currency, set(alone.rates), set(alone.rates["us-east-1"])) == ("EUR", {"us-east-1"}, {"list"})
    assert any("is in USD and not used" in note for note in alone.notes)
    both = prices.load(None, toml(tmp_path, 'currency = "EUR"\nexchange = 0.9\n[us-east-1]\nlist = 0.004\n'))
    assert both.rates["us-east-1"]["get/STANDARD"].tiers[0].price == D("0.00036")
    assert both.rates["us-east-1"]["get/STANDARD"].source.endswith("x 0.9")
    assert both.rates["us-east-1"]["list"].tiers[0].price == D("0.004"), "one's own is in one's own currency already"
    assert both.rates[EVERYWHERE][FREE].tiers[0].price == 100, "gigabytes are not exchanged"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[us-east-1]\nlits = 1", "lits is no item"),
        ("[us-east-1]\nlist = -1", "is not a price"),
        ("[us-east-1]\nlist = true", "is not a price"),
        ("[us-east-1]\nlist = nan", "is not a price"),
        ('[us-east-1]\nlist = "cheap"', "is not a price"),
        ("[us-east-1]\negress = [[10, 1], [5, 2]]", "tiers rise"),
        ("[us-east-1]\negress = [[10, 1, 2]]", "a tier is"),
        ("[us-east-1]\negress = []", "tiers rise"),
        ("list = 1", "list is no name"),
        ("[us-east-1", "cannot be read as TOML"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadUsage, match=said) as refused:
        prices.load(None, toml(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_cache_that_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    cache = tmp_path / "prices.json"
    for text in ("{", '{"date": "2026-01-01"}', '{"date": "2026-01-01", "regions": {"r": {"x": 1}}}'):
        cache.write_text(text)
        book = prices.load(cache, None)
        assert len(book.sources) == 1
        assert any("cannot be used" in note for note in book.notes)
    cache.write_text('{"date": "2026-01-02", "currency": "USD", "regions": {"us-east-1": {"list": "0.006"}}}')
    book = prices.load(cache, None)
    assert book.rates["us-east-1"]["list"].source == "price list of 2026-01-02"
    assert book.dated == date(2026, 1, 2), "the oldest in use"


def listed(*products: dict[str, Any], region: str = "eu-central-1") -> dict[str, object]:
    return prices.listed([json.dumps(one) for one in products], region)[0]


def here(usage: str, operation: str = "", *amounts: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    return product(f"EUC1-{usage}", operation, amounts or [("0", "Inf", "0.5")], regionCode="eu-central-1", **more)


def test_the_price_list_is_read_by_usage_and_operation() -> None:
    rates = listed(
        here("Requests-Tier2", "", ("0", "Inf", "0.00000043"), unit="Requests"),
        here("Standard-Retrieval-Bytes", "RestoreObject", ("0", "Inf", "0.012")),
        here("Standard-Retrieval-Bytes", "DeepArchiveRestoreObject", ("0", "Inf", "0.024")),
        here("Standard-Retrieval-Bytes", "IntAARestoreObject", ("0", "Inf", "9")),
        here("Requests-Tier3", "RestoreObject", ("0", "Inf", "0.00006")),
        here("Requests-Tier3", "S3-GlacierTransition", ("0", "Inf", "0.00003")),
        here("TimedStorage-ByteHrs", "", ("0", "51200", "0.0245"), ("51200", "512000", "0.0235"), ("512000", "Inf", "0.0225")),
        here("BatchOperations-Objects", "", ("0", "Inf", "0.000001")),
        product("Requests-Tier1", "", [("0", "Inf", "1")], regionCode="us-east-1"),
        product("EUC1-DataTransfer-Out-Bytes", "", OUT, service="AWSDataTransfer", transferType="AWS Outbound",
                toLocation="External", fromRegionCode="eu-central-1"),
        product("EUC1-DataTransfer-Out-Bytes", "", [("0", "Inf", "0")], service="AWSDataTransfer",
                transferType="AWS Outbound", toLocation="External", fromRegionCode="eu-central-1"),
    )  # fmt: skip
    assert rates == {
        "get/STANDARD": "0.00043",
        "retrieval/GLACIER/Standard": "0.012",
        "retrieval/DEEP_ARCHIVE/Standard": "0.024",
        "restore-request/GLACIER/Standard": "0.06",
        "storage/STANDARD": [["51200", "0.0245"], ["512000", "0.0235"], ["", "0.0225"]],
        "batch-object": "1",
        "egress": [["10240", "0.09"], ["51200", "0.085"], ["153600", "0.07"], ["", "0.05"]],
    }


def test_two_prices_for_one_thing_are_none() -> None:
    assert listed(here("Requests-Tier1", "", ("0", "Inf", "1")), here("Requests-Tier1", "", ("0", "Inf", "2"))) == {}
    assert listed(here("Requests-Tier1", "", ("0", "10", "1"))) == {}, "tiers without an end"


def test_the_currency_is_the_one_of_the_list() -> None:
    one = product("CNN1-Requests-Tier1", "", [("0", "Inf", "0.00004")], currency="CNY", regionCode="cn-north-1")
    assert prices.listed([json.dumps(one)], "cn-north-1") == ({"list": "0.04"}, "CNY")
