"""What is told of a bucket adds up, and is what its rows say."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from migrate_v2 import cli, prices
from migrate_v2.conveyor import Link
from migrate_v2.deletion import plan
from migrate_v2.edges.s3 import Restorer
from migrate_v2.model import FileState, GoneKind, phase_of
from migrate_v2.report import sentence
from migrate_v2.steps import restore as restore_step
from migrate_v2.steps.manifest import manifest
from migrate_v2.steps.restore import Means
from migrate_v2.steps.status import Standing, glacier_lines, standing, stands, stands_of
from migrate_v2.steps.verify import verify
from tests.steps.conftest import Job


def told(job: Job, session: str = "run-1") -> Standing:
    job.store.set_phase("b", phase_of(job.store.counts("b")))
    held = job.store.bucket("b")
    assert held
    return standing(held, job.store, session)


def assert_it_adds_up(job: Job) -> Standing:
    s = told(job)
    rows = job.rows()
    parts = (s.verified, s.unprovable, s.kept, s.failed, s.deleted, s.pending, s.gone.total)
    assert s.objects == sum(part.objects for part in parts) == len(rows)
    assert s.bytes == sum(part.bytes for part in parts) == sum(row.version.size for row in rows)
    for state in FileState:
        of_state = [row.version.size for row in rows if row.state is state]
        assert s.states[state].pair == (len(of_state), sum(of_state))
    assert sum(a.objects for a in s.storage_classes.values()) == len(rows)
    assert s.errors == s.states[FileState.ERROR].objects - s.gone.total.objects
    held = job.store.bucket("b")
    assert held
    event = stands(held, job.store)
    assert event.listed == (s.objects, s.bytes) and event.phase == s.phase
    assert event.listed[0] == sum(
        pair[0]
        for pair in (
            event.verified,
            event.unprovable,
            event.kept,
            event.failed,
            event.deleted,
            event.pending,
            event.gone.total,
        )
    )
    return s


def put(job: Job, key: str, size: int = 10, **how: Any) -> None:
    job.server.put("b", key, b"x" * size, **how)


def test_through_a_whole_migration(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    job.noncurrent = "keep"
    put(job, "old", 1)
    put(job, "old", 2)
    put(job, "good", 30)
    put(job, "kms", 400, etag="kms", checksums=())
    put(job, "denied", 5000)
    put(job, "cold", 60000, storage_class="GLACIER")
    put(job, "deep", 7, storage_class="DEEP_ARCHIVE")
    job.scan()
    s = assert_it_adds_up(job)
    assert (s.phase, s.pending.objects, s.glacier.to_request.pair) == ("glacier_restore", 6, (2, 60007))
    assert {kind: amount.pair for kind, amount in s.backlog.items()} == {"GLACIER": (1, 60000), "DEEP_ARCHIVE": (1, 7)}
    assert "2 objects (60,007 bytes) not asked for yet" in glacier_lines(s)
    assert s.storage_classes["GLACIER"].pair == (1, 60000) and s.eta_seconds is None
    assert s.throughput.session is s.throughput.overall is None
    assert (s.account, s.region, s.versioning) == ("111122223333", "us-east-1", "Enabled")
    restorer = Restorer(job.s3)
    means = Means(1, True, "Standard", 9, 86400.0, Link(1e9, 1e6, measured=True), str)
    list(restore_step.request("b", job.store, restorer, means))
    s = assert_it_adds_up(job)
    assert [(w.storage_class, w.tier, w.objects, w.bytes) for w in s.on_its_way] == [
        ("DEEP_ARCHIVE", "Standard", 1, 7),
        ("GLACIER", "Standard", 1, 60000),
    ]
    for way, hours in zip(s.on_its_way, (12, 5), strict=True):
        assert abs(datetime.fromisoformat(way.ready_by).timestamp() - time.time() - hours * 3600) < 120
        assert way.ready_from < way.ready_by
    assert (s.restore_cost.requests, s.restore_cost.retrieved_bytes, s.copies, s.backlog) == (2, 60007, [], {})
    assert (s.restore_cost.amount, s.restore_cost.usd) == (None, None), "no rates, no amount"
    assert s.restore_cost.text.startswith(
        "what nobody has told the price of: restore-request/DEEP_ARCHIVE/Standard in us"
    )
    assert any("what nobody has told the price of" in line for line in glacier_lines(s))
    held = job.store.bucket("b")
    assert held
    priced = standing(held, job.store, "", prices.load(None, None)).restore_cost
    assert priced.usd == priced.amount == 0.0 and priced.text.startswith("about 0.00 USD (snapshot of ")
    assert (s.phase, s.glacier.restoring.objects, s.glacier.to_request.objects) == ("glacier_wait", 2, 0)
    job.server.deny("s3:GetObjectVersion", "b", "denied")
    job.place()
    job.fetch()
    job.verify()
    s = assert_it_adds_up(job)
    assert (s.verified.pair, s.unprovable.pair, s.kept.pair) == ((2, 32), (1, 400), (1, 1))
    assert (s.failed.pair, s.errors, s.pending.pair) == ((1, 5000), 1, (2, 60007))
    assert s.throughput.session and s.throughput.overall and s.eta_seconds
    assert s.eta_seconds == 60007 / s.throughput.session
    other = told(job, "another session")
    assert other.throughput.session is None and other.throughput.overall
    job.server.advance(13 * 3600)
    list(restore_step.refresh("b", job.store, job.s3, rows_per_commit=9))
    s = assert_it_adds_up(job)
    assert (s.phase, s.glacier.restored.pair, s.glacier.restoring.objects) == ("syncing", (2, 60007), 0)
    assert sum(c.objects for c in s.copies) == 2 and sum(c.bytes for c in s.copies) == 60007
    assert s.restores_seen_at and any("wait to be fetched until" in line for line in glacier_lines(s))
    job.server.allow()
    job.store.change([])
    job.scan()
    job.place()
    job.fetch()
    job.verify()
    s = assert_it_adds_up(job)
    assert s.phase == "syncing" and s.failed.objects == 1, "an error is for a person, or for retry-errors"
    assert s.glacier.restored.objects == 0 and s.eta_seconds == 0.0
    job.delete()
    s = assert_it_adds_up(job)
    # The version above the one that is kept stays, too.
    assert (s.deleted.objects, s.verified.objects, s.kept.objects, s.unprovable.objects) == (3, 1, 1, 1)


def test_a_finished_bucket_stops_its_clock(job: Job) -> None:
    put(job, "k")
    job.bring()
    assert told(job).phase == "deleting"
    job.delete()
    s = assert_it_adds_up(job)
    assert s.phase == "complete" and s.eta_seconds == 0.0
    assert told(job).elapsed_seconds == s.elapsed_seconds


def test_markers_and_uploads_are_beside_the_objects(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    put(job, "k")
    client = job.s3._for("b")
    client.delete_object(Bucket="b", Key="k")
    client.create_multipart_upload(Bucket="b", Key="u")
    job.scan()
    s = assert_it_adds_up(job)
    assert (s.objects, s.delete_markers, s.uploads) == (1, 1, 1)


def test_an_empty_bucket_is_complete(job: Job) -> None:
    job.scan()
    s = assert_it_adds_up(job)
    assert (s.phase, s.objects, s.bytes, s.eta_seconds) == ("complete", 0, 0, 0.0)


def test_every_kind_at_once_adds_up_wherever_it_is_told(job: Job) -> None:
    """Sizes are powers of two: a row counted in the wrong place, twice or not at all shows in the bytes."""
    job.server.bucket("b", versioning="Enabled")
    put(job, "deleted", 1)
    job.bring()
    job.delete()
    job.noncurrent = "keep"
    put(job, "noncurrent", 2)
    put(job, "noncurrent", 4)
    put(job, "verified", 8)
    put(job, "kms", 16, etag="kms", checksums=())
    put(job, "refetched", 32, etag="kms", checksums=())
    put(job, "denied", 64)
    put(job, "cold", 128, storage_class="GLACIER")
    put(job, "asked", 256, storage_class="DEEP_ARCHIVE")
    put(job, "rotten", 512)
    put(job, "lost", 1024)
    put(job, "vanished", 2048)
    put(job, "marked", 4096)
    job.s3._for("b").delete_object(Bucket="b", Key="marked")
    job.s3._for("b").create_multipart_upload(Bucket="b", Key="upload")
    job.scan()
    job.store.restore_asked([job.row("asked").version], "Bulk")
    job.server.deny("s3:GetObjectVersion", "b", "denied")
    for step in (job.place, job.fetch, job.verify):
        step()
    job.path("rotten").unlink()
    job.path("rotten").mkdir()
    job.path("lost").unlink()
    job.verify_again()
    job.server.remove("b", "vanished")
    job.scan()
    reread = (row for row in job.rows() if row.key == "refetched")
    list(verify("b", job.store, job.disk, job.s3, reread, run=job.run, threads=1, rows_per_commit=9, refetch=65536))
    put(job, "new", 8192)
    job.scan()
    s = assert_it_adds_up(job)
    shown = cli._standing_json(s)
    held = job.store.bucket("b")
    assert held
    event = stands(held, job.store)
    list(manifest("b", job.store, job.disk, event))
    summary = json.loads((job.disk.base / ".migrate-v2/b/summary.json").read_text())
    wanted = {
        "verified": (3, 4 + 8 + 32),
        "unprovable": (1, 16),
        "kept": (2, 2 + 4096),
        "failed": (2, 64 + 512),
        "deleted": (1, 1),
        "pending": (4, 128 + 256 + 1024 + 8192),
    }
    for name, (objects, size) in wanted.items():
        assert shown[name] == summary[name] == {"objects": objects, "bytes": size}, name
        assert getattr(event, name) == (objects, size)
    gone = {kind.value: {"objects": 0, "bytes": 0} for kind in GoneKind}
    gone["only_copy"] = {"objects": 1, "bytes": 2048}
    assert shown["gone"] == summary["gone"] == gone
    assert event.gone.total == (1, 2048)
    whole = {
        unit: sum(amount[at] for amount in (*wanted.values(), event.gone.total))
        for at, unit in enumerate(("objects", "bytes"))
    }
    assert (
        whole
        == summary["listed"]
        == {"objects": shown["objects"], "bytes": shown["bytes"]}
        == {
            "objects": 14,
            "bytes": 16383,
        }
    )
    assert (summary["delete_markers"], summary["uploads"]) == (1, 1)
    lines = (job.disk.base / ".migrate-v2/b/evidence.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["size"] for line in lines) == 16383 and len(lines) == 14
    assert " = " in sentence(event) and "contradicts" not in sentence(event)
    planned = plan(job.store, job.site(), job.rules)
    assert planned.listed == (14, 16383) and planned.deleted == (1, 1)
    newer = 4  # bytes of the version above the one that is kept: it stays too
    assert (planned.objects, planned.bytes) == (wanted["verified"][0] - 1, wanted["verified"][1] - newer)
    assert planned.gone[GoneKind.ONLY_COPY] == (1, 2048)
    assert planned.stays == (14 - 2 - 1 - 1, 16383 - 40 - 1 - 2048)
    assert planned.evidence["refetch"] == 1


@pytest.mark.parametrize("name", ["verified", "pending"])
def test_a_sum_that_is_none_is_told(job: Job, name: str) -> None:
    put(job, "k")
    job.bring()
    assert "contradicts itself" in sentence(replace(stands_of(told(job)), **{name: (7, 7)}))  # type: ignore[arg-type]
