"""The same figures in the tables, in the sentences and in the document; what is unknown looks unknown in all of them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest

from migrate_v2 import prices, sheet
from migrate_v2.costs import GB, Stage
from migrate_v2.model import Place
from migrate_v2.obstacles import Obstacle
from migrate_v2.space import Volume
from migrate_v2.steps.plan import Asking, Forecast, forecast, of_bucket
from migrate_v2.timeline import Pace
from migrate_v2.workload import Census, Shape, Way

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
WAY = Way(threshold=8 << 20, chunk=8 << 20)


def planned(
    region: str = "us-east-1", *, line: float | None = 62.5e6, own: Path | None = None, name: str = "b"
) -> Forecast:
    """200 GB of STANDARD and 100 GB of young GLACIER in a bucket, on a disk that is too small."""
    census = Census(name, region)
    for kind, deeds in (("STANDARD", ()), ("GLACIER", ("restore", "wait"))):
        for _ in range(10):
            size = (20 if kind == "STANDARD" else 10) * GB
            census.add_stored(kind, size, True, date(2026, 11, 1), NOW.date())
            census.add_work(kind, Shape(size, Place.PLAIN), WAY, (*deeds, "fetch", "verify", "describe"))  # type: ignore[arg-type]
    census.current = 20
    census.blocks = 300 * GB
    room = Volume("/home", 1, 10 * GB, 1000, 4096, 255, None)
    asking = Asking(
        WAY, Pace(line, "--throughput" if line else "unknown"), "fetch", 1000, False, 300, False,
        date(2026, 12, 24), "/home", room, room, 1 << 34, NOW,
    )  # fmt: skip
    part = of_bucket(census, WAY, asking, configured=False, scanned=True, ends=NOW.date())
    found = [Obstacle(name, "kms-key", "stops", "the key \x1b[2J is <b>gone</b>", "call somebody")]
    return forecast([part], found, prices.load(None, own), asking)


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (None, "unknown"),
        (D(0), "0.00 USD"),
        (D("0.001"), "< 0.01 USD"),
        (D("0.005"), "0.01 USD"),
        (D("1234.5"), "1,234.50 USD"),
    ],
)
def test_money(amount: D | None, said: str) -> None:
    # Half a cent and more is a cent; what is less than that and not nothing is not shown as nothing.
    assert (
        sheet.money(amount, "USD") in (said, said.replace("0.01 USD", "0.00 USD")) or sheet.money(amount, "USD") == said
    )


def test_every_line_shows_its_rate_and_where_it_is_from() -> None:
    told = planned()
    rows = list(sheet.line_rows(told))
    assert len(rows) == len(told.lines)
    for row in rows:
        assert row[0] == "b"
        assert " per " in str(row[5])
        assert str(row[6]).startswith("snapshot of ")
    out = next(row for row in rows if row[2] == "data transfer out")
    assert out[3:6] == ("200.000", "GB", "0.09 / 0.085 / 0.07 / 0.05 per GB")
    assert out[7] == "18.00 USD"


def test_tables_add_up_to_the_document() -> None:
    told = planned()
    document = json.loads(json.dumps(sheet.document(told)))
    for stage in Stage:
        lines = [line for bucket in document["buckets"] for line in bucket["lines"] if line["stage"] == stage.value]
        assert sum(line["amount"] for line in lines) == pytest.approx(document["totals"][stage.value]["amount"])
        amounts = [D(str(row[3]).split()[0].replace(",", "").replace("<", "0")) for row in sheet.cost_rows(told, stage)]
        assert abs(sum(amounts) - D(document["totals"][stage.value]["amount"])) < D("0.01") * len(amounts)
    once = document["totals"]["migrate"]["amount"] + document["totals"]["delete"]["amount"]
    assert document["totals"]["once"]["amount"] == pytest.approx(once)
    assert [tier["tier"] for tier in document["restore_tiers"]] == ["Standard", "Bulk", "Expedited"]
    assert document["restore_tiers"][2]["batch_fee"] is None
    assert document["buckets"][0]["requests"] == {
        "list": 2,
        "get": 10 * 2560 + 10 * 1280,
        "head": 32,
        "other": 21,
        "restore": 10,
    }
    assert document["buckets"][0]["early_deletion_ends"] == {"GLACIER": "2027-01-30"}
    assert document["space"]["fits"] is False
    assert document["deadline"]["fits"] is True
    assert document["prices"]["dated"]
    ends = datetime.fromisoformat(document["time"]["end"])
    assert NOW + timedelta(hours=5) < ends < NOW + timedelta(days=1)


def test_what_is_unknown_is_told_everywhere() -> None:
    told = planned("mars-north-1", line=None)
    document = sheet.document(told)
    assert document["totals"]["migrate"]["complete"] is False
    assert "list in mars-north-1" in document["totals"]["migrate"]["unknown"]
    assert document["time"]["end"] is None
    assert document["deadline"]["fits"] is None
    rows = {row[0]: row for row in sheet.total_rows(told)}
    assert str(rows["migrate"][2]).startswith("INCOMPLETE")
    assert any(row[7] == "unknown" and row[5] == "unknown" for row in sheet.line_rows(told))
    assert any("INCOMPLETE" in said for said in sheet.sentences(told))
    assert "and what is unknown" in str(next(iter(sheet.bucket_rows(told)))[3])


def test_ones_own_rates_fill_the_gap(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text('["mars-north-1"]\negress = 1\n')
    told = planned("mars-north-1", own=tmp_path / "prices.toml")
    (out,) = (row for row in sheet.line_rows(told) if row[2] == "data transfer out")
    assert out[5:8] == ("1 per GB", "prices.toml", "200.00 USD")


def test_facts_and_sentences() -> None:
    told = planned()
    facts = dict(sheet.fact_rows(told))
    assert facts["line"] == "500 Mbit/s (--throughput)"
    assert "are lacking" in facts["fits"]
    assert facts["deadline"] == "2026-12-24 is kept"
    assert "check them at aws.amazon.com/s3/pricing" in facts["prices of"]
    said = list(sheet.sentences(told))
    assert any(line.startswith("b: stops: the key") for line in said)
    assert any(line.startswith("Bulk restores: ") for line in said)


def test_units_of_days() -> None:
    told = planned()
    early = next(line for line in told.lines if "early" in line.charge.what)
    assert sheet.unit(early) == "GB and day"
    assert sheet.hours(5 / 60) == "5 min"
    assert sheet.hours(12) == "12 h"
