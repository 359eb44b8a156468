"""What plan says that migrate will ask for is what the server then counts, and the money follows from it by hand."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal as D
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Run, fill, one_by_one
from tests.edges.test_cloudwatch import put_metrics
from tests.fakes.pricing import Pricing, product
from tests.fakes.s3server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
CLASSES = ("STANDARD", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE")
OLD = datetime(2020, 1, 1, tzinfo=UTC)
# us-east-1, aws.amazon.com/s3/pricing: dollars per 1,000 GETs, and per GB retrieved.
GET = {"STANDARD": "0.0004", "INTELLIGENT_TIERING": "0.0004", "GLACIER": "0.0004", "DEEP_ARCHIVE": "0.0004",
       "STANDARD_IA": "0.001", "ONEZONE_IA": "0.001", "GLACIER_IR": "0.01"}  # fmt: skip
RETRIEVAL = {"STANDARD_IA": "0.01", "ONEZONE_IA": "0.01", "GLACIER_IR": "0.03"}
RESTORE = {"GLACIER": ("0.05", "0.01"), "DEEP_ARCHIVE": ("0.10", "0.02")}


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


def seed(s3: S3Server) -> None:
    """Five buckets: every class, old versions and markers, odd keys, small objects, large ones in ranges."""
    for name in ("all-classes", "many-small", "few-large", "odd-keys"):
        s3.bucket(name)
    s3.bucket("with-versions", versioning="Enabled")
    for at, name in enumerate(CLASSES):
        for number in range(4):
            body = bytes([at]) * (200 * KiB * number + 1)
            s3.put("all-classes", f"{name}/{number}", body, storage_class=name, last_modified=OLD)
    for number in range(220):
        key = f"{number % 7}/{number:05}" + "/" * (number > 120)
        s3.put("many-small", key, b"x" * (number % 300) * (number <= 120), last_modified=OLD)
    s3.put("few-large", "ranged", b"r" * (3 * MiB + 1), last_modified=OLD)
    s3.put("few-large", "uploaded in parts", b"p" * (12 * MiB), parts=[8 * MiB, 4 * MiB], last_modified=OLD)
    s3.put("few-large", "uneven", b"u" * (4 * MiB), parts=[MiB + 1, MiB + 1, 2 * MiB - 2], last_modified=OLD)
    s3.put("few-large", "just below", b"b" * (MiB - 1), last_modified=OLD)
    for number in range(30):
        s3.put("with-versions", f"k{number:02}", f"one {number}".encode(), last_modified=OLD)
        s3.put("with-versions", f"k{number:02}", f"two {number}".encode() * 9, last_modified=OLD)
    for number in range(5):
        s3.put("with-versions", f"frozen {number}", b"old" * number, storage_class="GLACIER", last_modified=OLD)
    s3.remove("with-versions", "k07")
    for key, body in {"dir/": b"", "a": b"1", "a/b": b"2", "x//y": b"3", "/lead": b"4", "full/": b"5", "empty": b"",
                      "../up": b"6", "n" * 250: b"7", "plain": b"8", "e/empty//": b""}.items():  # fmt: skip
        s3.put("odd-keys", key, body, last_modified=OLD)


def kinds(served: Counter[str]) -> dict[str, int]:
    """As plan has them. STS is free; DELETE was not asked for."""
    told = Counter[str]()
    for op, count in served.items():
        if op.startswith("List") and not op.startswith("ListBucket") and op != "ListObjectAnnotations":
            told["list"] += count
        elif op == "GetObject":
            told["get"] += count
        elif op.startswith("Head"):
            told["head"] += count
        elif op == "RestoreObject":
            told["restore"] += count
        elif op not in ("GetCallerIdentity", "ListBuckets"):
            told["other"] += count
    return dict(told)


def within(planned: int, counted: int) -> bool:
    return abs(planned - counted) <= 0.02 * counted


def test_the_plan_is_what_the_server_counts_and_the_bill_follows(run: Run, server: S3Server, home: Path) -> None:
    seed(server)
    env: dict[str, str | None] = {**server.env(), "AWS_ENDPOINT_URL": server.url}
    env |= {"MIGRATE_V2_MULTIPART_THRESHOLD": "1MB", "MIGRATE_V2_MULTIPART_CHUNKSIZE": "1MB"}
    assert run("scan", env=env).returncode == 0
    before = set(home.parent.rglob("*"))
    told = run("plan", "--json", "--throughput", "100Mbit/s", env=env)
    assert told.returncode == 0, told.stderr
    assert (
        not home.exists()
        and {p for p in set(home.parent.rglob("*")) - before if "-wal" not in p.name and "-shm" not in p.name} == set()
    ), "plan made something"
    plan = json.loads(told.stdout)

    for log in (server.served, server.sent, server.requests):
        log.clear()
    names = sorted(bucket["bucket"] for bucket in plan["buckets"])  # unnamed, the list of buckets tells their regions
    assert run("migrate", *names, env=env, timeout=200).returncode == 3
    server.advance(49 * 3600)
    ended = run("migrate", *names, env=env, timeout=200)
    assert ended.returncode == 0, ended.stderr
    counted = kinds(server.served)
    planned = Counter[str]()
    for bucket in plan["buckets"]:
        planned.update(bucket["requests"])
    assert set(planned) == set(counted)
    for kind, count in counted.items():
        assert within(planned[kind], count), (kind, dict(planned), counted, dict(server.served))
    out = sum(bucket["bytes_out"] for bucket in plan["buckets"])
    assert within(out, server.sent["GetObject"])
    assert plan["space"]["bytes"] == out

    # By hand, from what the server counted, to the cent (each figure to the hundred-millionth, in fact).
    hand = D(counted["list"]) * D("0.005") / 1000
    classes = {(bucket, key): kind for bucket, key, _, kind in stored(server)}
    for request in server.requests:
        kind = classes.get((request.bucket, request.key), "STANDARD")
        if request.op == "RestoreObject":
            hand += D(RESTORE[kind][0]) / 1000
        elif request.op not in (
            "GetCallerIdentity",
            "ListBuckets",
            "ListObjectsV2",
            "ListObjectVersions",
            "ListMultipartUploads",
        ):
            hand += D(GET[kind]) / 1000
    for _, _, size, kind in stored(server):
        hand += D(size) / GiB * D(RETRIEVAL.get(kind, 0))
        if kind in RESTORE:
            hand += D(size) / GiB * (D(RESTORE[kind][1]) + D("0.023") * 8 / 30)
    told_by_plan = D(str(plan["totals"]["migrate"]["amount"]))
    assert plan["totals"]["migrate"]["complete"]
    assert abs(told_by_plan - hand) < D("0.00002"), (told_by_plan, hand)
    # The data that goes out stays within the 100 GB that cost nothing; without them it is by the GB.
    lines = [line for bucket in plan["buckets"] for line in bucket["lines"] if line["item"] == "egress"]
    assert sum(line["quantity"] for line in lines) == out
    assert sum(line["amount"] for line in lines) == 0

    after = json.loads(run("plan", "--json", env=env).stdout)
    assert sum(sum(bucket["requests"].values()) for bucket in after["buckets"]) == 0
    assert after["totals"]["migrate"]["amount"] == 0


def stored(server: S3Server) -> list[tuple[str, str, int, str]]:
    """(bucket, key, size, storage class) of every version."""
    return [
        (bucket, v.key, v.size, v.storage_class)
        for bucket in server.buckets
        for v in server.versions(bucket)
        if not v.is_marker
    ]


def test_without_a_scan_it_refuses_or_estimates(
    run: Run, boto: S3Client, bucket: str, endpoint: str, account: str, tmp_path: Path
) -> None:
    fill(boto, bucket, {"a": b"1", "b": b"2"})
    figures = {
        ("BucketSizeBytes", "StandardStorage"): 500.0 * GiB,
        ("BucketSizeBytes", "DeepArchiveStorage"): 100.0 * GiB,
        ("BucketSizeBytes", "DeepArchiveObjectOverhead"): 7 * 32.0 * KiB,
        ("NumberOfObjects", "AllStorageTypes"): 1007.0,
    }
    put_metrics(endpoint, account, bucket, figures)
    unscanned, unnamed, quick, nothing = one_by_one(
        run,
        [
            ("plan", bucket),
            ("plan",),
            ("plan", "--quick", "--json", "--egress-waiver", "--throughput=1Gbit/s", bucket),
            ("plan", "--quick", f"other-{bucket}"),
        ],
    )
    assert [ended.returncode for ended in (unscanned, unnamed, nothing)] == [5, 5, 1]
    assert "run `scan` for it, or `plan --quick`" in unscanned.stderr
    assert quick.returncode == 0, quick.stderr
    plan = json.loads(quick.stdout)
    assert plan["estimated"]
    assert any("CloudWatch" in note for note in plan["notes"])
    assert plan["buckets"][0]["bytes"] == 600 * GiB
    assert plan["buckets"][0]["requests"]["restore"] == 7
    # 100 GB x 0.02 and 7 requests; nothing for 600 GB that go out.
    restore = next(tier for tier in plan["restore_tiers"] if tier["tier"] == "Standard")
    copies = 100 * 0.023 * 8 / 30
    assert abs(restore["cost"]["amount"] - (100 * 0.02 + 7 * 0.10 / 1000 + copies)) < 1e-9
    assert sum(line["amount"] for line in plan["buckets"][0]["lines"] if line["item"] == "egress") == 0


def test_what_cannot_fit_is_not_begun(run: Run, boto: S3Client, bucket: str, home: Path, state: Path) -> None:
    """Before a restore is paid for; with --force-space it begins, and nearly everything that is there already fits."""
    fill(boto, bucket, {"frozen": b"1"}, StorageClass="GLACIER")
    fill(boto, bucket, {"ordinary": b"2"})
    assert run("scan", bucket).returncode == 0
    with sqlite3.connect(state) as rows:  # as if it had been listed so
        rows.execute("UPDATE files SET size = 100000000000000000 WHERE key = 'frozen'")
    plan, refused = one_by_one(run, [("plan", "--json", "--deadline=2099-01-01", bucket), ("migrate", bucket)])
    assert refused.returncode == 5
    assert "does not fit" in refused.stderr and "--force-space" in refused.stderr
    assert "Restore" not in boto.head_object(Bucket=bucket, Key="frozen")
    assert plan.returncode == 0, "a plan tells, and does not judge"
    said = json.loads(plan.stdout)
    assert (said["space"]["fits"], said["deadline"]["fits"]) == (False, None)
    assert "--throughput" in " ".join(said["deadline"]["advice"])
    forced = run("migrate", "--force-space", bucket)
    assert forced.returncode == 3, forced.stderr
    assert (home / bucket / "ordinary").read_bytes() == b"2"
    assert "Restore" not in boto.head_object(Bucket=bucket, Key="frozen"), "no room for its copy, so it is not paid for"


def test_prices_are_asked_for_at_the_endpoint_that_is_named(
    run: Run, boto: S3Client, bucket: str, tmp_path: Path, state: Path
) -> None:
    fill(boto, bucket, {"a": b"1" * 1000})
    assert run("scan", bucket).returncode == 0
    listed = [
        product("Requests-Tier1", "", [("0", "Inf", "0.000007")], regionCode="us-east-1"),
        product("DataTransfer-Out-Bytes", "", [("0", "Inf", "0.5")], service="AWSDataTransfer", regionCode="us-east-1",
                transferType="AWS Outbound", toLocation="External", fromRegionCode="us-east-1"),
    ]  # fmt: skip
    (tmp_path / "prices.toml").write_text('["*"]\n"egress-free" = 0\n')
    page = tmp_path / "plan.html"
    with Pricing(listed) as pricing:
        asked = ("plan", "--refresh-prices", "--json", f"--html={page}", f"--endpoint-url={pricing.url}", bucket)
        told = run(*asked, env={"AWS_ENDPOINT_URL": None})
        assert told.returncode == 0, told.stderr
        assert pricing.failures == []
    plan = json.loads(told.stdout)
    rates = {line["item"]: line["rate"] for line in plan["buckets"][0]["lines"]}
    assert rates["list"]["source"].startswith("price list of ")
    assert rates["list"]["tiers"][0]["price"] == 0.007
    assert rates["get/STANDARD"]["source"].startswith("snapshot of ")
    out = next(line for line in plan["buckets"][0]["lines"] if line["item"] == "egress")
    assert abs(out["amount"] - 1000 / GiB * 0.5) < 1e-12
    # The settings could not be read at an endpoint that has no S3: unknown, and not absent.
    assert [obstacle["severity"] for obstacle in plan["obstacles"]] == ["unknown"]
    assert page.read_text().startswith("<!DOCTYPE html>")
    # What was asked for is kept for the next plan.
    again = json.loads(run("plan", "--json", bucket).stdout)
    assert again["prices"]["sources"][1].startswith("price list of ")
