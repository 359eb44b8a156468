"""S3 Batch Operations, as far as restores go: CreateJob and DescribeJob of s3control, beside the fake S3 that has the objects.

A job goes one state further each time it is described, restores what its manifest lists when it becomes active, and writes
its report as S3 does. It is as strict about manifests as the User Guide says that S3 is.
"""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tests.fakes import s3server
from tests.fakes.s3server import Request, Response, S3Error, md5_hex, tag, xml

if TYPE_CHECKING:
    from tests.fakes.s3server import S3Server

NAMESPACE = "http://awss3control.amazonaws.com/doc/2018-08-20/"
COURSE = ("New", "Preparing", "Ready", "Active", "Complete")


@dataclass
class Job:
    job_id: str
    body: bytes
    request: ET.Element
    status: str = "New"
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    failure: tuple[str, str] = ("", "")
    tasks: list[tuple[str, str, str, str, str]] = field(default_factory=list)  # bucket, key, version, code, status

    def text(self, path: str) -> str:
        return self.request.findtext("/".join(f"{{{NAMESPACE}}}{name}" for name in path.split("/"))) or ""


class Jobs:
    """The jobs of one fake S3; `break_keys` fail with the error code that stands for them."""

    def __init__(self) -> None:
        self.by_token: dict[str, Job] = {}
        self.created = 0  # CreateJob requests that made a job
        self.break_keys: dict[str, str] = {}
        self.course = COURSE  # a test may shorten it

    def operate(self, s3: S3Server, request: Request) -> Response:
        parts = request.target.partition("?")[0].strip("/").split("/")
        if request.header("x-amz-account-id") != s3server.ACCOUNT:
            raise S3Error(403, "AccessDenied")
        if request.method == "POST" and parts == ["v20180820", "jobs"]:
            return self._create(s3, request)
        if request.method == "GET" and len(parts) == 3:
            return self._describe(s3, parts[2])
        raise S3Error(404, "NoSuchJob")

    def _create(self, s3: S3Server, request: Request) -> Response:
        root = ET.fromstring(request.body)
        if root.tag != f"{{{NAMESPACE}}}CreateJobRequest":
            raise _bad("the document is no CreateJobRequest")
        job = Job(str(uuid.uuid4()), request.body, root)
        token = job.text("ClientRequestToken")
        if not 1 <= len(token) <= 64:
            raise _bad("ClientRequestToken")
        if token in self.by_token:
            if self.by_token[token].body != job.body:
                raise S3Error(400, "IdempotencyException", "The token was used with other parameters")
            return self._created(self.by_token[token])
        if not re.fullmatch(r"arn:aws:iam::\d{12}:role/.+", job.text("RoleArn")):
            raise _bad("RoleArn")
        if not job.text("Priority").isdecimal():
            raise _bad("Priority")
        report = job.text("Report/Bucket")
        if job.text("Report/Format") != "Report_CSV_20180820" or job.text("Report/Enabled") != "true":
            raise _bad("Report")
        if job.text("Report/ReportScope") not in ("AllTasks", "FailedTasksOnly"):
            raise _bad("ReportScope")
        if report.removeprefix("arn:aws:s3:::") not in s3.buckets:
            raise _bad("Report.Bucket does not exist")
        if job.text("Operation/S3InitiateRestoreObject/GlacierJobTier") not in ("BULK", "STANDARD"):
            raise _bad("GlacierJobTier")
        self.created += 1
        self.by_token[token] = job
        return self._created(job)

    def _created(self, job: Job) -> Response:
        return xml(f'<CreateJobResult xmlns="{NAMESPACE}">{tag("JobId", job.job_id)}</CreateJobResult>')

    def _describe(self, s3: S3Server, job_id: str) -> Response:
        job = next((one for one in self.by_token.values() if one.job_id == job_id), None)
        if job is None:
            raise S3Error(404, "NoSuchJob")
        if job.status in self.course[:-1]:
            before, job.status = job.status, self.course[self.course.index(job.status) + 1]
            if before == "New" and (why := self._prepare(s3, job)):
                job.status, job.failure = "Failed", ("InvalidManifest", why)
            if job.status == "Active" or (job.status == "Complete" and before != "Active"):
                self._run(s3, job)
            if job.status == "Complete":
                self._write(s3, job)
        inner = tag("JobId", job.job_id) + tag("Status", job.status)
        inner += (
            f"<ProgressSummary>{tag('TotalNumberOfTasks', job.total)}{tag('NumberOfTasksSucceeded', job.succeeded)}"
            f"{tag('NumberOfTasksFailed', job.failed)}</ProgressSummary>"
        )
        if job.failure[0]:
            reason = tag("FailureCode", job.failure[0]) + tag("FailureReason", job.failure[1])
            inner += f"<FailureReasons><JobFailure>{reason}</JobFailure></FailureReasons>"
        return xml(f'<DescribeJobResult xmlns="{NAMESPACE}"><Job>{inner}</Job></DescribeJobResult>')

    def _prepare(self, s3: S3Server, job: Job) -> str:
        """Reads the manifest; what is wrong with it fails the job."""
        bucket, _, key = job.text("Manifest/Location/ObjectArn").removeprefix("arn:aws:s3:::").partition("/")
        stored = s3.get(bucket, key) if bucket in s3.buckets else None
        if stored is None or stored.etag != job.text("Manifest/Location/ETag"):
            return "the manifest is not the object with this ETag"
        if stored.encryption not in ("", "AES256"):
            return "the manifest is encrypted with a key of KMS"
        fields = [
            f.text or "" for f in job.request.iter(f"{{{NAMESPACE}}}member") if f.text in ("Bucket", "Key", "VersionId")
        ]
        for line in csv.reader(io.StringIO(stored.body.decode("ascii"), newline="")):
            if len(line) != len(fields) or not all(line):
                return f"a line of {len(line)} fields, or with an empty one"
            if line[0] not in s3.buckets or re.search(r"[^A-Za-z0-9/._~%*'()!+-]", line[1]):
                return f"{line[0]}/{line[1]} is no bucket with a URL-encoded key"
            version = line[2] if "VersionId" in fields else ""
            job.tasks.append((line[0], unquote(line[1]), version, "", line[1]))
        job.total = len(job.tasks)
        return "" if job.tasks else "the manifest is empty"

    def _run(self, s3: S3Server, job: Job) -> None:
        days = job.text("Operation/S3InitiateRestoreObject/ExpirationInDays")
        tier = job.text("Operation/S3InitiateRestoreObject/GlacierJobTier").capitalize()
        done = []
        for bucket, key, version_id, _, encoded in job.tasks:
            body = f"<RestoreRequest>{tag('Days', days) if days else ''}<GlacierJobParameters>{tag('Tier', tier)}"
            body += "</GlacierJobParameters></RestoreRequest>"
            query = {"restore": ""} | ({"versionId": version_id} if version_id else {})
            ask = Request("POST", "", bucket, key, query, {}, body.encode(), "batch", "", "RestoreObject")
            code = self.break_keys.get(key, "")
            if not code:
                answer = s3._operate(ask)
                if answer.status not in (200, 202):
                    code = ET.fromstring(bytes(answer.body)).findtext("Code") or "?"
                s3._log(ask, answer.status)
            done.append((bucket, key, version_id, code, encoded))
        job.tasks = done
        job.failed = sum(code != "" for _, _, _, code, _ in done)
        job.succeeded = job.total - job.failed

    def _write(self, s3: S3Server, job: Job) -> None:
        bucket = job.text("Report/Bucket").removeprefix("arn:aws:s3:::")
        folder = f"{job.text('Report/Prefix')}/job-{job.job_id}"
        results = []
        for outcome in ("succeeded", "failed"):
            lines = io.StringIO(newline="")
            writer = csv.writer(lines, lineterminator="\n")
            tasks = [task for task in job.tasks if (task[3] != "") is (outcome == "failed")]
            for name, _, version_id, code, encoded in tasks:
                status = "409" if code else "200"
                writer.writerow([name, encoded, version_id, outcome, code, status, code or "Successful"])
            if tasks:
                body = lines.getvalue().encode()
                key = f"{folder}/results/{md5_hex(body)}.csv"
                s3.put(bucket, key, body)
                results.append(
                    {"TaskExecutionStatus": outcome, "Bucket": bucket, "MD5Checksum": md5_hex(body), "Key": key}
                )
        document = {
            "Format": "Report_CSV_20180820",
            "ReportCreationDate": "2026-01-01T00:00:00Z",
            "Results": results,
            "ReportSchema": "Bucket, Key, VersionId, TaskStatus, ErrorCode, HTTPStatusCode, ResultMessage",
        }
        s3.put(bucket, f"{folder}/manifest.json", json.dumps(document).encode())


def _bad(what: str) -> S3Error:
    return S3Error(400, "BadRequestException", f"Request invalid: {what}")
