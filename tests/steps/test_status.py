"""What is told of a bucket adds up, and is what its rows say."""

from __future__ import annotations

from typing import Any

from migrate_v2.edges.s3 import Restorer
from migrate_v2.model import FileState, phase_of
from migrate_v2.steps import restore as restore_step
from migrate_v2.steps.status import Standing, standing, stands
from tests.steps.conftest import Job


def told(job: Job, session: str = "run-1") -> Standing:
    job.store.set_phase("b", phase_of(job.store.counts("b")))
    held = job.store.bucket("b")
    assert held
    return standing(held, job.store, session)


def assert_it_adds_up(job: Job) -> Standing:
    s = told(job)
    rows = job.rows()
    parts = (s.verified, s.unprovable, s.kept, s.failed, s.deleted, s.pending)
    assert s.objects == sum(part.objects for part in parts) == len(rows)
    assert s.bytes == sum(part.bytes for part in parts) == sum(row.version.size for row in rows)
    for state in FileState:
        of_state = [row.version.size for row in rows if row.state is state]
        assert s.states[state].pair == (len(of_state), sum(of_state))
    assert sum(a.objects for a in s.storage_classes.values()) == len(rows)
    assert s.errors == s.states[FileState.ERROR].objects
    held = job.store.bucket("b")
    assert held
    event = stands(held, job.store)
    assert event.listed == (s.objects, s.bytes) and event.phase == s.phase
    assert event.listed[0] == sum(
        pair[0] for pair in (event.verified, event.unprovable, event.kept, event.failed, event.deleted, event.pending)
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
    assert s.storage_classes["GLACIER"].pair == (1, 60000) and s.eta_seconds is None
    assert s.throughput.session is s.throughput.overall is None
    assert (s.account, s.region, s.versioning) == ("111122223333", "us-east-1", "Enabled")
    restorer = Restorer(job.s3)
    list(restore_step.request("b", job.store, restorer, days=1, tier="Standard", at_most=9, rows_per_commit=9))
    s = assert_it_adds_up(job)
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
    assert (s.deleted.objects, s.verified.objects, s.kept.objects, s.unprovable.objects) == (4, 0, 1, 1)


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
