"""What is still to be done with each row is what the plan counts, whatever was done before; and an estimate is only that."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from typing import Any

import pytest

from migrate_v2 import prices
from migrate_v2.costs import Stage, total
from migrate_v2.edges.disk import volume
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Item
from migrate_v2.obstacles import obstacles
from migrate_v2.steps import plan as plan_step
from migrate_v2.steps.plan import Asking, Forecast
from migrate_v2.timeline import Pace
from migrate_v2.workload import Census, Visits, Way
from tests.edges.test_cloudwatch import put_metrics
from tests.steps.conftest import Job

MiB = 1 << 20
WAY = Way(threshold=8 * MiB, chunk=8 * MiB)


def asking(job: Job, **more: Any) -> Asking:
    base = Asking(
        way=WAY,
        pace=Pace(1e6, "--throughput"),
        noncurrent="fetch",
        at_most_restores=100_000,
        waits=False,
        poll_seconds=300,
        waiver=False,
        deadline=None,
        base=str(job.disk.base),
        room=volume(job.disk.base),
        state_room=volume(job.store.path.parent),
        memory=1 << 34,
        now=datetime.now().astimezone(),
    )
    return replace(base, **more)


def census(job: Job, **more: Any) -> Census:
    held = job.store.bucket("b")
    assert held is not None
    return plan_step.count(held, job.store, WAY, asking(job, **more))[0]


def forecast(job: Job, **more: Any) -> Forecast:
    a = asking(job, **more)
    counted = census(job, **more)
    part = plan_step.of_bucket(counted, WAY, a, configured=False, scanned=True, ends=date.today())
    return plan_step.forecast([part], [], prices.load(None, None), a)


def item(state: str, **more: Any) -> Item:
    plain = Item("k", "v", 5, "e" * 32, "STANDARD", "2020-01-01", True, state, "", "", False, "plain", "b/k", "")
    return plain._replace(**more)


@pytest.mark.parametrize(
    ("row", "noncurrent", "deeds"),
    [
        (item("discovered"), "fetch", "fetch verify describe"),
        (item("downloading"), "fetch", "fetch verify describe"),
        (item("discovered", archived=True), "fetch", "restore wait fetch verify describe"),
        (item("glacier_restore_requested", archived=True), "fetch", "wait fetch verify describe"),
        (item("glacier_restoring", archived=True), "fetch", "wait fetch verify describe"),
        (item("downloaded"), "fetch", "verify describe"),
        (item("downloaded", described="head"), "fetch", "verify"),
        (item("downloaded", verdict="unprovable"), "fetch", "describe"),
        (item("verified", verdict="match"), "fetch", "describe"),
        (item("verified", verdict="match", described="head"), "fetch", ""),
        (item("discovered", is_latest=False), "fetch", "fetch verify describe"),
        (item("discovered", is_latest=False), "keep", ""),
        (item("discovered", is_latest=False, verdict="kept", cause="noncurrent"), "fetch", "fetch verify describe"),
        (item("downloaded", is_latest=False), "keep", "verify describe"),
        (item("error", cause="changed"), "fetch", ""),
        (item("error", cause="denied"), "fetch", "fetch verify describe"),
        (item("error", cause="denied", archived=True), "fetch", "restore wait fetch verify describe"),
        (item("error", verdict="unreadable", cause="unreadable"), "fetch", "verify describe"),
        (item("error", verdict="unreadable", cause="unreadable", place=""), "fetch", "fetch verify describe"),
    ],
)  # fmt: skip
def test_what_is_left_to_do(row: Item, noncurrent: str, deeds: str) -> None:
    assert " ".join(plan_step._deeds(row, WAY, noncurrent)) == deeds


def test_metadata_decides_what_is_described() -> None:
    verified = item("verified", verdict="match", described="head")
    assert plan_step._deeds(verified, replace(WAY, metadata="full"), "fetch") == ("describe",)
    assert plan_step._deeds(item("verified"), replace(WAY, metadata="none"), "fetch") == ()


def test_nothing_is_left_when_all_is_done(job: Job) -> None:
    for number in range(5):
        job.server.put("b", f"k{number}", b"x" * number)
    job.bring()
    counted = census(job)
    assert (counted.fetch.objects, counted.verify.objects, sum(counted.gets.values())) == (0, 0, 0)
    assert counted.describe == 5, "metadata was not asked for yet"
    assert (counted.objects, counted.bytes) == (5, 10), "it is still in S3, and billed"


def test_keys_that_no_path_holds_are_counted_before_anything_is_placed(job: Job) -> None:
    for key in ("a", "a/b", "a-c", "x//y", "dir/", "/lead", "plain"):
        job.server.put("b", key, b"" if key == "dir/" else b"1")
    job.scan()
    before = census(job)
    assert before.aside.objects == 3, "a (above a/b), x//y and /lead"
    job.place()
    assert census(job).aside.objects == 3, "as place() then does it"
    assert before.folders == 5, "of a/b and dir/, and in the side layout of /lead and x//y"
    assert before.gets["STANDARD"] == 6


def test_folders_are_counted_once_each(job: Job) -> None:
    for key in ("a/b/1", "a/b/2", "a/c/1", "a-x/1", "d"):
        job.server.put("b", key, b"1")
    job.scan()
    assert census(job).folders == 4, "a, a/b, a/c and a-x"


def test_folders_left_to_the_program_have_no_ranges(job: Job) -> None:
    """Over 150 odd keys whole folders are kept from the CLI, and what is in them comes by single GETs."""
    job.server.put("b", "odd/large", b"x" * (9 * MiB))
    for number in range(160):
        job.server.put("b", f"odd/{number}.Ab12Cd34", b"1")  # looks like a temporary of the CLI's
    job.scan()
    assert census(job).gets["STANDARD"] == 161


def test_a_vanished_version_costs_nothing(job: Job) -> None:
    job.server.put("b", "gone", b"1")
    job.server.put("b", "here", b"1")
    job.scan()
    job.server.remove("b", "gone")
    job.scan()
    assert (census(job).objects, census(job).fetch.objects) == (1, 1)


@pytest.mark.parametrize("copies", [2, 3])
def test_census_counts_without_the_cli_beside_more_copies_than_it_excludes_by_name(
    job: Job, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    monkeypatch.setattr(plan_step, "PATTERNS", 2)
    for n in range(copies):
        job.server.put("b", f"{n}", b"1")
    job.bring()
    job.server.put("b", "large", b"x" * (20 * MiB))
    job.scan()
    counted = census(job)
    assert counted.gets["STANDARD"] == (3 if copies == 2 else 1), "ranges, or one GET"
    part = plan_step.of_bucket(counted, WAY, asking(job), configured=True, scanned=True, ends=date.today())
    assert part.lists == (1 if copies == 2 else 0)


def test_what_the_cli_cannot_bring_is_not_listed_for_it(job: Job) -> None:
    job.server.bucket("v", versioning="Enabled")
    job.bucket = "v"
    job.server.put("v", "x//y", b"1")
    job.server.put("v", "x//y", b"22")
    job.scan()
    held = job.store.bucket("v")
    assert held is not None
    counted = plan_step.count(held, job.store, WAY, asking(job))[0]
    part = plan_step.of_bucket(counted, WAY, asking(job), configured=True, scanned=True, ends=date.today())
    assert (part.lists, counted.gets["STANDARD"]) == (0, 2)


def test_waves_and_looks(job: Job) -> None:
    for number in range(10):
        job.server.put("b", f"g{number}", b"1", storage_class="GLACIER")
    job.scan()
    counted = census(job)
    assert (counted.to_restore["GLACIER"].objects, counted.heads["GLACIER"]) == (10, 20)

    def visits(**more: Any) -> Visits:
        return plan_step.of_bucket(
            counted, WAY, asking(job, **more), configured=True, scanned=True, ends=date.today()
        ).visits

    assert (visits(at_most_restores=4).listings, visits(at_most_restores=4).runs) == (3, 4)
    assert (visits(waits=True).listings, visits(waits=True).runs) == (1, 1)
    assert plan_step.looks(asking(job, waits=True, poll_seconds=300), ["GLACIER"]) == 60
    assert plan_step.looks(asking(job), ["GLACIER"]) == 1
    assert plan_step.looks(asking(job, waits=True), []) == 1


def test_totals_are_the_sums_of_their_lines_and_tiers_stand_side_by_side(job: Job) -> None:
    for number, name in enumerate(("STANDARD", "GLACIER", "DEEP_ARCHIVE", "STANDARD_IA")):
        job.server.put("b", f"k{number}", b"x" * 1000, storage_class=name)
    job.scan()
    told = forecast(job, deadline=date(2020, 1, 1))
    for stage in Stage:
        assert told.totals[stage] == total(line for line in told.lines if line.charge.stage is stage)
    assert [(tier.tier, tier.hours) for tier in told.tiers] == [("Standard", 12), ("Bulk", 48), ("Expedited", 12)]
    assert told.tiers[0].end and told.tiers[1].end and told.tiers[0].end < told.tiers[1].end
    assert told.timeline.end is not None
    assert told.deadline is not None and told.deadline.fits is False
    assert told.fit.lacks == ()
    unknown = forecast(job, pace=Pace(None, "unknown"))
    assert unknown.timeline.end is None
    assert any("the speed of the line is unknown" in note for note in unknown.notes)


def test_what_does_not_fit_is_said_and_not_refused(job: Job) -> None:
    job.server.put("b", "k", b"1")
    job.scan()
    job.store._conn.execute("UPDATE files SET size = 100000000000000000")
    told = forecast(job, memory=1 << 20)
    assert "are lacking" in told.fit.lacks[0]
    assert "memory" in told.fit.memory_lacks
    nowhere = forecast(job, room=None)
    assert nowhere.fit.room is None


def test_restored_copies_that_would_expire_are_an_obstacle(job: Job) -> None:
    for number in range(4):
        job.server.put("b", f"g{number}", b"1", storage_class="GLACIER")
    job.scan()
    job.store._conn.execute("UPDATE files SET size = 1000000000000")
    told = forecast(job, at_most_restores=2)
    assert [o.kind for o in told.obstacles] == ["restored-copies"]


def test_settings_of_the_bucket_change_how_it_is_asked() -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "k"}}
    settings = {"encryption": {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}}
    way = plan_step.by_settings(WAY, settings)
    assert (way.opaque, way.kms_each) == (True, True)
    with_key = {"encryption": {"ServerSideEncryptionConfiguration": {"Rules": [{**rule, "BucketKeyEnabled": True}]}}}
    assert plan_step.by_settings(WAY, with_key).kms_each is False
    assert plan_step.by_settings(WAY, {"encryption": {"denied": "x"}}) == WAY
    assert plan_step.by_settings(WAY, None) == WAY


def test_what_is_known_of_a_bucket_is_asked_of_s3(job: Job) -> None:
    job.server.put("b", "locked", b"1", lock_mode="COMPLIANCE", retain_until=2_000_000_000)
    job.server.put("b", "secret", b"1", etag="sse-c")
    job.scan()
    held = job.store.bucket("b")
    assert held is not None
    counted, sample = plan_step.count(held, job.store, WAY, asking(job))
    assert {one.key for one in sample} == {"locked", "secret"}
    job.server.deny("s3:GetLifecycleConfiguration")
    settings = plan_step.settings_of("b", job.s3)
    found = {o.kind: o for o in obstacles(plan_step.known(counted, sample, settings, "", job.s3))}
    assert found["not-readable"].text == "not readable: lifecycle"
    assert "2033" in found["retention"].text
    assert "secret" in found["sample"].text


def test_an_estimate_counts_what_cloudwatch_counted(
    endpoint: str, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "-")
    bucket = f"estimated-{account}"
    figures = {
        ("BucketSizeBytes", "StandardStorage"): 1003.0,
        ("BucketSizeBytes", "GlacierStorage"): 50.0 * MiB,
        ("BucketSizeBytes", "GlacierObjectOverhead"): 5 * 32.0 * 1024,
        ("NumberOfObjects", "AllStorageTypes"): 15.0,
    }
    put_metrics(endpoint, account, bucket, figures)
    s3 = S3(region="us-east-1", endpoint_url=endpoint)
    counted = plan_step.estimate(bucket, "us-east-1", s3, WAY)
    assert counted.estimated
    assert (counted.objects, counted.bytes) == (15, 1003 + 50 * MiB), "nothing is lost in means"
    assert counted.to_restore["GLACIER"].objects == 5
    assert (counted.fetch.objects, counted.fetch.bytes) == (15, 1003 + 50 * MiB)
    assert counted.gets == {"STANDARD": 10, "GLACIER": 5 * 2}
    assert counted.rounded["GLACIER"] == 5 * 32 * 1024
