"""Requests to S3 Batch Operations are what the service model says; reports and statuses are read as S3 writes them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
import pytest

from migrate_v2.edges.s3 import S3, Denied, Gone, Refusal
from migrate_v2.edges.s3control import BatchRestorer, JobStatus, Task, manifest_key, manifest_line
from migrate_v2.edges.store import Job
from migrate_v2.errors import Failure
from tests.fakes.s3batch import Jobs
from tests.fakes.s3server import ACCOUNT, Request, Response, S3Server

_LOADER = cache(botocore.session.create_loader)
ROLE = "arn:aws:iam::111122223333:role/restores"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(botocore.session, "create_loader", _LOADER)
    with S3Server() as s3:
        for name, value in s3.env().items():
            monkeypatch.setenv(name, value)
        s3.jobs = Jobs()
        s3.bucket("b")
        s3.bucket("reports")
        yield s3


@pytest.fixture
def batch(server: S3Server) -> BatchRestorer:
    return BatchRestorer(S3(endpoint_url=server.url, region="us-east-1"), ACCOUNT)


def job(**how: Any) -> Job:
    given: dict[str, Any] = {
        "token": "t-1", "bucket": "b", "storage_class": "GLACIER", "tier": "Bulk", "days": 3, "versioned": False,
        "objects": 2, "bytes": 2, "account": ACCOUNT, "role": ROLE, "manifest_bucket": "reports",
        "report_bucket": "reports", **how,
    }  # fmt: skip
    return Job(**given)


def sent(batch: BatchRestorer, made: Job, *lines: str) -> tuple[Job, dict[str, Any]]:
    """The job as S3 has taken it, and what botocore was given for it."""
    params: dict[str, Any] = {}
    client = batch._client("b")
    client.meta.events.register("provide-client-params.s3-control.CreateJob", lambda params, **_: seen(params))

    def seen(given: dict[str, Any]) -> None:
        params.update(given)

    etag = batch.upload(made, io.BytesIO("".join(lines).encode()))
    job_id = batch.create(made, etag)
    return job(**{**_fields(made), "job_id": job_id}), params


def _fields(made: Job) -> dict[str, Any]:
    return {name: getattr(made, name) for name in Job.__slots__}


def faults(value: Any, shape: Any, path: str = "") -> Iterator[str]:
    """What of a request breaks the service model: botocore itself looks at types and required members alone."""
    if shape.type_name == "structure":
        yield from (f"{path} lacks {name}" for name in shape.required_members if name not in value)
        for name, inner in value.items():
            if name not in shape.members:
                yield f"{path}.{name} is unknown"
            else:
                yield from faults(inner, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        for inner in value:
            yield from faults(inner, shape.member, f"{path}[]")
    else:
        rules = shape.metadata
        if "enum" in rules and value not in rules["enum"]:
            yield f"{path} = {value} is none of {rules['enum']}"
        if "pattern" in rules and not re.search(rules["pattern"], str(value)):
            yield f"{path} = {value} does not match {rules['pattern']}"
        size = len(value) if isinstance(value, str) else value
        if not rules.get("min", size) <= size <= rules.get("max", size):
            yield f"{path} = {value} is out of bounds"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"versioned": True, "tier": "Standard", "storage_class": "DEEP_ARCHIVE"},
        {"storage_class": "INTELLIGENT_TIERING", "days": None},
    ],
)
def test_the_request_is_what_the_service_model_says(batch: BatchRestorer, how: dict[str, Any]) -> None:
    made = job(**how)
    _, params = sent(batch, made, manifest_line("b", "k", "v1" if made.versioned else None))
    shape = botocore.session.get_session().get_service_model("s3control").operation_model("CreateJob").input_shape
    assert list(faults(params, shape)) == []
    restore = params["Operation"]["S3InitiateRestoreObject"]
    assert restore == {"GlacierJobTier": made.tier.upper()} | ({"ExpirationInDays": made.days} if made.days else {})
    assert params["ClientRequestToken"] == "t-1" and params["ConfirmationRequired"] is False
    assert list(faults({**params, "Report": {"Enabled": True, "Format": "CSV"}, "Priority": -1}, shape)), "it can fail"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("a b,c", "b,a%20b%2Cc\n"),
        ('"\n', "b,%22%0A\n"),
        ("d/é+%41", "b,d/%C3%A9%2B%2541\n"),
    ],
)
def test_keys_in_manifests_are_url_encoded(key: str, line: str) -> None:
    assert manifest_line("b", key, None) == line
    assert manifest_line("b", "k", "null") == "b,k,null\n"


def test_a_job_from_its_creation_to_its_report(server: S3Server, batch: BatchRestorer) -> None:
    keys = ["a b", "odd,\n\x01", "fails"]
    for key in keys:
        server.put("b", key, b"1", storage_class="GLACIER")
    server.jobs.break_keys["fails"] = "AccessDenied"
    taken, _ = sent(batch, job(), *(manifest_line("b", key, None) for key in keys))
    statuses = [batch.look(taken).status for _ in range(4)]
    assert statuses == ["Preparing", "Ready", "Active", "Complete"]
    assert batch.look(taken) == JobStatus("Complete", 3, 2, 1, "") and batch.look(taken).ended
    report = sorted(batch.report(taken), key=lambda task: task.key)
    assert report == [Task("a b", "null", ""), Task("fails", "null", "AccessDenied"), Task("odd,\n\x01", "null", "")]
    restored = server.get("b", "a b")
    assert restored and (restored.restore_days, restored.restore_tier) == (3, "Bulk")


def test_the_same_token_is_the_same_job(server: S3Server, batch: BatchRestorer) -> None:
    first, _ = sent(batch, job(), manifest_line("b", "k", None))
    again, _ = sent(batch, job(), manifest_line("b", "k", None))
    assert first.job_id == again.job_id and server.jobs.created == 1
    with pytest.raises(Refusal, match="Idempotency"):
        sent(batch, job(days=9), manifest_line("b", "k", None))


def test_a_job_that_s3_cannot_do_says_why(server: S3Server, batch: BatchRestorer) -> None:
    taken, _ = sent(batch, job(), "Bucket,Key\n")
    status = batch.look(taken)
    assert status.ended and "InvalidManifest" in status.reason
    assert list(batch.report(taken)) == [], "no task was begun, so there is no report"


def test_what_goes_wrong_is_one_line(server: S3Server, batch: BatchRestorer) -> None:
    with pytest.raises(Gone):
        batch.upload(job(manifest_bucket="nowhere"), io.BytesIO(b"b,k\n"))
    server.deny("s3:PutObject", "reports")
    with pytest.raises(Denied):
        batch.upload(job(), io.BytesIO(b"b,k\n"))
    with pytest.raises(Failure) as failed:
        batch.look(job(job_id="no-such-job"))
    assert "\n" not in str(failed.value)


def test_a_report_that_is_not_s3_s_is_not_believed(server: S3Server, batch: BatchRestorer) -> None:
    taken, _ = sent(batch, job(), manifest_line("b", "k", None))
    server.put("reports", f"{manifest_key(taken).rpartition('/')[0]}/job-{taken.job_id}/manifest.json", b"<html>")
    with pytest.raises(Failure, match="not S3's"):
        list(batch.report(taken))


def test_the_account_is_not_put_before_the_name_of_an_endpoint_of_one_s_own(
    server: S3Server, batch: BatchRestorer
) -> None:
    hosts: list[str] = []

    def look(request: Request, response: Response) -> None:
        hosts.append(request.header("host"))

    server.fault({"op": "CreateJob"}, rewrite=look)
    sent(batch, job(), manifest_line("b", "k", None))
    assert hosts == [server.url.removeprefix("http://")]
