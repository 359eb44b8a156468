"""Jobs of S3 Batch Operations: one request asks for millions of restores, and a report tells what came of each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote, unquote

from migrate_v2.edges.s3 import S3, explaining
from migrate_v2.edges.store import Job
from migrate_v2.errors import Failure
from migrate_v2.keys import show

ENDED = ("Complete", "Failed", "Cancelled")


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a job stands; counts of objects. `reason`: why it failed, in S3's words."""

    status: str
    total: int
    succeeded: int
    failed: int
    reason: str

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Task:
    """One line of a report; `code` is S3's error code, "" where the restore was accepted."""

    key: str
    version_id: str
    code: str


def manifest_line(bucket: str, key: str, version_id: str | None) -> str:
    """No header, keys URL-encoded, a version id in each line or in none (User Guide, "Specifying a manifest")."""
    encoded = quote(key.encode("utf-8", "surrogatepass"), safe="/")
    return ",".join((bucket, encoded) if version_id is None else (bucket, encoded, version_id)) + "\n"


class BatchRestorer:
    """May write manifests into the bucket that an operator named for it, and have jobs restore what they list."""

    def __init__(self, s3: S3, account: str) -> None:
        self.s3 = s3
        self.account = account
        self._clients: dict[str, Any] = {}

    def upload(self, job: Job, manifest: IO[bytes]) -> str:
        """Returns the ETag by which the job will know it."""
        # A manifest under SSE-KMS is not read (User Guide, "Specifying a manifest").
        with explaining(f"the manifest in bucket {job.manifest_bucket}"):
            client = self.s3.client_for(job.manifest_bucket)
            answer = client.put_object(
                Bucket=job.manifest_bucket, Key=manifest_key(job), Body=manifest, ServerSideEncryption="AES256"
            )
        return str(answer["ETag"]).strip('"')

    def create(self, job: Job, etag: str) -> str:
        """Has the job done; returns its id. With the same token it is the same job, however often it is asked for."""
        partition = job.role.split(":")[1]
        restore: dict[str, Any] = {"GlacierJobTier": job.tier.upper()}
        if job.days is not None:
            restore["ExpirationInDays"] = job.days
        request: dict[str, Any] = {
            "AccountId": self.account,
            "ConfirmationRequired": False,
            "Operation": {"S3InitiateRestoreObject": restore},
            "Manifest": {
                "Spec": {
                    "Format": "S3BatchOperations_CSV_20180820",
                    "Fields": ["Bucket", "Key", *(["VersionId"] if job.versioned else [])],
                },
                "Location": {
                    "ObjectArn": f"arn:{partition}:s3:::{job.manifest_bucket}/{manifest_key(job)}",
                    "ETag": etag,
                },
            },
            "Report": {
                "Bucket": f"arn:{partition}:s3:::{job.report_bucket}",
                "Format": "Report_CSV_20180820",
                "Enabled": True,
                "Prefix": _prefix(job),
                "ReportScope": "AllTasks",
            },
            "Priority": 10,
            "RoleArn": job.role,
            "ClientRequestToken": job.token,
            "Description": f"migrate-v2: restore {job.objects} objects of {job.bucket}"[:256],
        }
        with explaining(f"a restore job for {job.bucket}"):
            answer: Mapping[str, Any] = self._client(job.bucket).create_job(**request)
        return str(answer["JobId"])

    def look(self, job: Job) -> JobStatus:
        with explaining(f"the restore job {job.job_id} for {job.bucket}"):
            answer = self._client(job.bucket).describe_job(AccountId=self.account, JobId=job.job_id)["Job"]
        counts = answer.get("ProgressSummary") or {}
        reasons = [
            f"{r.get('FailureCode', '?')}: {r.get('FailureReason', '')}" for r in answer.get("FailureReasons") or ()
        ]
        return JobStatus(
            str(answer.get("Status", "")),
            int(counts.get("TotalNumberOfTasks") or 0),
            int(counts.get("NumberOfTasksSucceeded") or 0),
            int(counts.get("NumberOfTasksFailed") or 0),
            show("; ".join(reasons)),
        )

    def report(self, job: Job) -> Iterator[Task]:
        """What became of each object, streamed; nothing where S3 has written no report."""
        client = self.s3.client_for(job.report_bucket)
        top = f"{_prefix(job)}/job-{job.job_id}/manifest.json"
        what = f"the report of the restore job {job.job_id}"
        raw = b""
        with explaining(what, absent=("NoSuchKey",)):
            raw = client.get_object(Bucket=job.report_bucket, Key=top)["Body"].read()
        if not raw:
            return
        try:
            document = json.loads(raw)
        except ValueError as error:
            raise Failure(f"{what} in {job.report_bucket} is not S3's") from error
        for part in document.get("Results", []):
            with explaining(what):
                lines = client.get_object(Bucket=job.report_bucket, Key=part["Key"])["Body"].iter_lines()
                for line in csv.reader(raw.decode("utf-8") for raw in lines):
                    if len(line) >= 5:
                        done = line[3] == "succeeded"
                        yield Task(unquote(line[1]), line[2] or "null", "" if done else line[4] or line[5:6][0] or "?")

    def _client(self, bucket: str) -> Any:
        region = self.s3.region_of(bucket)
        if region not in self._clients:
            self._clients[region] = self.s3.other_client("s3control", region)
        return self._clients[region]


def manifest_key(job: Job) -> str:
    return f"{_prefix(job)}/manifest.csv"


def _prefix(job: Job) -> str:
    return f"migrate-v2/{job.bucket}/{job.token}"
