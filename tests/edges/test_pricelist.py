"""The price list is asked page by page at the endpoint that was named, and what it says is kept in one piece or not at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff

from migrate_v2 import prices
from migrate_v2.edges.pricelist import refresh
from migrate_v2.edges.s3 import S3, Unreachable
from migrate_v2.errors import Failure
from tests.conftest import free_port
from tests.fakes.pricing import PAGE, Pricing, product

REGION = "eu-central-1"
PRODUCTS = [
    *(
        product(f"EUC1-{usage}", operation, [("0", "Inf", "0.25")], regionCode=REGION)
        for usage, operation in prices.USAGE.values()
    ),
    product("Requests-Tier1", "", [("0", "Inf", "7")], regionCode="us-east-1"),
    product("EUC1-DataTransfer-Out-Bytes", "", [("0", "10240", "0.09"), ("10240", "Inf", "0.05")], service="AWSDataTransfer",
            transferType="AWS Outbound", toLocation="External", fromRegionCode=REGION),
    product("EUC1-DataTransfer-Out-Bytes", "", [("0", "Inf", "0.02")], service="AWSDataTransfer",
            transferType="InterRegion Outbound", toLocation="US East", fromRegionCode=REGION),
]  # fmt: skip


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


def asking(url: str) -> S3:
    return S3(region="us-east-1", endpoint_url=url)


def test_every_item_is_asked_for_and_kept_with_its_date(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "prices.json"
    with Pricing(PRODUCTS) as pricing:
        told = refresh(asking(pricing.url), [REGION], cache)
        assert pricing.failures == []
    asked = [given["ServiceCode"] for _, given in pricing.asked]
    assert asked.count("AmazonS3") == -(-len(prices.USAGE) // PAGE), "page by page"
    assert asked.count("AWSDataTransfer") == 1
    assert told[0].startswith(f"{REGION}: {len(prices.USAGE) + 1} rates")
    book = prices.load(cache, None)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert set(book.rates[REGION]) == {*prices.USAGE, "egress"}
    assert {rate.source for rate in book.rates[REGION].values()} == {f"price list of {today}"}
    assert [str(tier.price) for tier in book.rates[REGION]["egress"].tiers] == ["0.09", "0.05"]
    assert [path.name for path in cache.parent.iterdir()] == ["prices.json"], "nothing half written is left"


def test_the_cache_stays_as_it_was_where_the_list_does_not_answer(tmp_path: Path) -> None:
    cache = tmp_path / "prices.json"
    cache.write_text(before := json.dumps({"date": "2026-01-01", "regions": {}}))
    with Pricing(PRODUCTS) as pricing, pytest.raises(Failure, match="tells nothing of mars-north-1"):
        refresh(asking(pricing.url), [REGION, "mars-north-1"], cache)
    with pytest.raises(Unreachable):
        refresh(asking(f"http://127.0.0.1:{free_port()}"), [REGION], cache)
    assert cache.read_text() == before


def test_another_currency_is_for_ones_own_file(tmp_path: Path) -> None:
    chinese = product("CNN1-Requests-Tier1", "", [("0", "Inf", "0.00004")], currency="CNY", regionCode="cn-north-1")
    with Pricing([chinese]) as pricing, pytest.raises(Failure, match=r"is in CNY: put its rates into prices\.toml"):
        refresh(asking(pricing.url), ["cn-north-1"], tmp_path / "prices.json")


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Pricing(PRODUCTS) as pricing, pytest.raises(Failure, match="cannot write"):
        refresh(asking(pricing.url), [REGION], tmp_path / "file" / "prices.json")
