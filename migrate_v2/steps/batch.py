"""What is archived has been asked for by a few jobs of S3 Batch Operations, and their reports are in the rows."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from migrate_v2 import conveyor
from migrate_v2.edges.s3 import Denied, Refusal
from migrate_v2.edges.s3control import BatchRestorer, JobStatus, manifest_key, manifest_line
from migrate_v2.edges.store import Job, Store
from migrate_v2.errors import Failure
from migrate_v2.events import Event, Noted, Warned
from migrate_v2.flow import batched
from migrate_v2.keys import are, count_of, show
from migrate_v2.model import Row

_MARKED = 10_000


def write_manifests(bucket: str, store: Store, folder: Path) -> Iterator[Event]:
    """One file for each kind of class, of all that is archived and not asked for, to be used elsewhere; asks for nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    versioned = _versioned(bucket, store)
    for storage_class in _classes(bucket, store):
        path = folder / f"{bucket}-{storage_class}.csv"
        with path.open("wb") as file:
            objects = _write(bucket, store.left_to_request(bucket, storage_class), file, versioned)
        columns = "Bucket,Key,VersionId" if versioned else "Bucket,Key"
        yield Noted(bucket, f"{show(str(path))} lists {count_of(objects, 'object')} ({columns})")


def choose(
    bucket: str,
    store: Store,
    *,
    account: str,
    role: str,
    manifest_bucket: str,
    report_bucket: str,
    waves: Callable[[str, str], tuple[Iterable[Row], Callable[[], int]]],
    tier: str,
) -> None:
    """Chooses what the next jobs restore, one for each kind of class, and records that; follow() has them done.

    `waves` gives the rows for a class and a tier, and, once the first is drawn, for how many days.
    """
    # Of a job's tasks S3 offers Standard and Bulk (API reference, S3InitiateRestoreObjectOperation).
    tier = "Bulk" if tier == "Bulk" else "Standard"
    for storage_class in _classes(bucket, store):
        rows, days = waves(storage_class, tier)
        iterator = iter(rows)
        first = next(iterator, None)
        if first is None:
            continue
        kept = days() if storage_class != "INTELLIGENT_TIERING" else None
        token = str(uuid.uuid4())
        job = Job(
            token=token,
            bucket=bucket,
            storage_class=storage_class,
            tier=tier,
            days=kept,
            versioned=_versioned(bucket, store),
            objects=0,
            bytes=0,
            account=account,
            role=role,
            manifest_bucket=manifest_bucket,
            report_bucket=report_bucket,
        )
        # The job is in the state file before its first row, and the rows before S3 hears of it.
        store.add_job(job)
        for some in batched(chain([first], iterator), _MARKED):
            store.give_to_job(job, [row.version for row in some])
        store.job_chosen(token)


def _submit(job: Job, store: Store, jobs: BatchRestorer) -> Iterator[Event]:
    """Writes the manifest anew from the rows, and asks for the job; with the same token S3 makes one only."""
    with tempfile.TemporaryFile() as file:
        _write(job.bucket, store.of_job(job.token, job.bucket), file, job.versioned)
        file.seek(0)
        try:
            job_id = jobs.create(job, jobs.upload(job, file))
        except (Denied, Refusal) as failure:
            store.release_job(job.token, "refused", str(failure))
            raise
    store.job_taken(job.token, job_id)
    yield Noted(
        job.bucket,
        f"restore job {job_id}: {count_of(job.objects, 'object')} of {job.storage_class} at {job.tier}; its manifest is"
        f" s3://{job.manifest_bucket}/{manifest_key(job)}",
    )


def follow(bucket: str, store: Store, jobs: BatchRestorer, *, chosen_only: bool = False) -> Iterator[Event]:
    """Has the jobs done that were chosen, looks how far all are, and reads the reports of those that have ended.

    What a report does not name is asked about by HEAD, and what it calls failed can be asked for singly again.
    """
    for open_job in store.open_jobs(bucket):
        job = open_job
        if job.job_id and chosen_only:
            continue
        if not job.job_id:
            if not job.status:  # a process died while it chose
                store.job_chosen(job.token)
                job = store.job(job.token)
            if not job.objects:
                store.release_job(job.token, "empty", "")
                continue
            yield from _submit(job, store, jobs)
            job = store.job(job.token)
        status = jobs.look(job)
        store.job_seen(job.token, status.status)
        if not status.ended:
            yield Noted(bucket, f"restore job {job.job_id} is {_so_far(status)}")
            continue
        failed = 0
        for tasks in batched(jobs.report(job), _MARKED):
            failed += store.job_reported(job, [(task.key, task.version_id, task.code) for task in tasks])
        store.release_job(job.token, status.status, status.reason)
        yield Noted(bucket, f"restore job {job.job_id} is {_so_far(status)}")
        if status.status != "Complete":
            why = f": {status.reason}" if status.reason else ""
            yield Warned(bucket, f"restore job {job.job_id} ended as {status.status}{why}")
        if failed:
            yield Warned(
                bucket,
                f"{count_of(failed, 'object')} of restore job {job.job_id} failed there and {are(failed)} asked for one by one",
            )


def _so_far(status: JobStatus) -> str:
    figures = f"{status.succeeded:,} of {count_of(status.total, 'object')} asked for, {status.failed:,} failed"
    return f"{status.status}: {figures}"


def _classes(bucket: str, store: Store) -> list[str]:
    return sorted(
        {
            t.storage_class
            for t in store.tallies(bucket)
            if t.archived and t.state.value == "discovered" and not t.verdict
        },
        key=lambda one: conveyor.expected(one, "Standard"),
        reverse=True,
    )


def _versioned(bucket: str, store: Store) -> bool:
    """In a bucket with versions every line has an id, `null` included; in others none has (version ids: all or none)."""
    held = store.bucket(bucket)
    if held is None:
        raise Failure(f"{show(bucket)} is not in the state file")
    return held.versioning != ""


def _write(bucket: str, rows: Iterable[Row], file: IO[bytes], versioned: bool) -> int:
    objects = 0
    for row in rows:
        version = row.version.version_id if versioned else None
        file.write(manifest_line(bucket, row.key, version).encode("ascii"))
        objects += 1
    return objects
