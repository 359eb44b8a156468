"""Everything that is asked of AWS goes through here: reads, restores, and the one method that deletes."""

from __future__ import annotations

import base64
import getpass
import json
import os
import random
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from queue import Empty, Full, Queue, SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit
from xml.etree import ElementTree

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
)
from botocore.httpchecksum import StreamingChecksumBody
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError
from botocore.utils import get_environ_proxies, parse_timestamp

from migrate_v2.answers import bare_etag, content_range, names_version
from migrate_v2.conveyor import tier_for
from migrate_v2.errors import BadUsage, Cause, Failure, Refused
from migrate_v2.flow import Allowance
from migrate_v2.keys import show
from migrate_v2.model import CHANGED, Answer, DeleteMarker, Doomed, Head, Kept, ObjectVersion, Proof, uptime
from migrate_v2.ownfiles import BUCKET_NAME
from migrate_v2.shards import Credentials, Source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# What botocore raises where no proper answer came. The parser's error is none of its own family: it is what a server
# that does not know a service, or a proxy, leads to. ValueError and OverflowError: a header with a time that is none.
_BROKEN = (BotoCoreError, HTTPClientError, ResponseParserError, ValueError, OverflowError)
NOT_IMPLEMENTED = ("NotImplemented", "MethodNotAllowed", "501")
# DeleteObjects names keys in XML 1.0, which has no way to write these; one of them spoils the whole request.
_NOT_IN_XML = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_CHECKSUM_FIELD = re.compile(r"Checksum([A-Z0-9]+)")
# A list of 1,000 annotations is shorter.
_LIST_LIMIT = 2 << 20
_ANNOTATION_LIMIT = 1 << 20

# What S3 says of something beside its bytes, as JSON can write it: its own names, times in ISO 8601 and UTC. Nothing in
# the program looks into one; it is written down for whoever puts the object or the bucket up again.
Document = dict[str, object]

# The question, what has to be in an answer that is S3's ("" where all of it may be missing), by name in bucket.json.
_PARTS = {
    "acl": ("get_bucket_acl", "Grants"),
    "location": ("get_bucket_location", ""),
    "policy": ("get_bucket_policy", "Policy"),
    "cors": ("get_bucket_cors", ""),
    "lifecycle": ("get_bucket_lifecycle_configuration", ""),
    "versioning": ("get_bucket_versioning", ""),
    "encryption": ("get_bucket_encryption", ""),
    "replication": ("get_bucket_replication", ""),
    "notifications": ("get_bucket_notification_configuration", ""),
    "tagging": ("get_bucket_tagging", ""),
    "website": ("get_bucket_website", ""),
    "ownership_controls": ("get_bucket_ownership_controls", ""),
    "public_access_block": ("get_public_access_block", ""),
    "logging": ("get_bucket_logging", ""),
    "object_lock": ("get_object_lock_configuration", ""),
    "request_payment": ("get_bucket_request_payment", ""),
    "accelerate": ("get_bucket_accelerate_configuration", ""),
    "intelligent_tiering": ("list_bucket_intelligent_tiering_configurations", ""),
    "inventory": ("list_bucket_inventory_configurations", ""),
    "analytics": ("list_bucket_analytics_configurations", ""),
    "metrics": ("list_bucket_metrics_configurations", ""),
}
# Their ETags are no digest of the content (AWS, "Object" in the API reference).
OPAQUE = ("aws:kms", "aws:kms:dsse", "SSE-C")
PUBLIC_ACCESS_BLOCK = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
# Outcome of a DELETE with a wrong ETag: the only right one.
WRONG_ETAG_REFUSED = "a wrong ETag was refused"
# Seconds of silence after which a GET that its caller repeats is given up.
SILENCE = 30
# Seconds that all wait after the first SlowDown, doubled at each further one.
SLOW_DOWN = 1.0


# S3 takes 1,000 restores a second from an account (API reference, RestoreObject) and throttles what is more.
RESTORES_A_SECOND = 900.0
RESTORE_ATTEMPTS = 8
# Seconds without asking for Expedited where there was no capacity for it: each would be a request in vain.
NO_HASTE = 300.0


class OtherAnswer(ResponseParserError):
    """A success (2xx) whose document belongs to another operation. Some servers ignore a query string that they do not
    know, and answer GET /bucket?versions with the listing of GET /bucket."""

    def __init__(self, operation: str, root: str) -> None:
        super().__init__(f"the answer to {operation} is a document of type {root}")
        self.root = root


class Gone(Failure):
    """{} is not in S3 (any more)"""

    cause = Cause.VANISHED


class Denied(Failure):
    """{}"""

    cause = Cause.DENIED


class BadCredentials(Failure):
    """{}"""


class Archived(Failure):
    """{} is in an archive tier; a restore has to bring it back first"""

    cause = Cause.ARCHIVED


class Moved(Failure):
    """{} is not the object that was listed: S3 holds another one under this key by now"""

    cause = Cause.CHANGED


class Unreachable(Failure):
    """{}"""


class Throttled(Unreachable):
    """{}"""


class Corrupted(Unreachable):
    """{}"""


class WrongVersion(Unreachable):
    """{}"""

    @staticmethod
    def summary(count: int, first: WrongVersion) -> str:
        """Return the text of the warning about so many of them."""
        return f"answers about another object version, left to the next run: {count:,}; the first: {first}"


class Refusal(Failure):
    """{}"""

    cause = Cause.REFUSED


class SizeDiffers(Refusal):
    """{}"""


class Presence(Enum):
    """What a HEAD of one version's identity says of it."""

    THERE = "there"
    CHANGED = "changed"  # another object has this identity
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is asking, as STS says; all empty where no STS answers."""

    account: str
    arn: str
    kind: str  # how botocore came by the credentials


@dataclass(frozen=True, slots=True)
class BucketFacts:
    region: str
    versioning: str  # "", "Enabled", "Suspended"
    mfa_delete: bool
    uploads: int | None  # in-progress multipart uploads; None where the question was refused
    # S3's own time when it reported the versioning; None where it does not say.
    date: datetime | None = field(default=None, compare=False)


class Versioning(NamedTuple):
    status: str  # "", "Enabled" or "Suspended"
    mfa_delete: bool
    date: datetime | None  # S3's own time, from the Date header of the answer


@dataclass(frozen=True, slots=True)
class BucketName:
    name: str
    created: datetime | None
    region: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing; `next` is where the following one starts, None at the end."""

    versions: tuple[ObjectVersion, ...]
    markers: tuple[DeleteMarker, ...]
    next: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one delete: `gone` only when S3 said so of exactly this identity."""

    gone: bool
    text: str
    unknown: bool = False  # no answer, or one that does not tell: it has to be asked for
    wrong_version: bool = False  # S3 says that it did something to another version: nothing more may be sent


class Body:
    """The bytes of a GET, block by block. What the answer's head says of them is known from the first block on.

    `opaque`: the ETag is no MD5 of the content. `checked`: it is the whole object, held against a checksum that came with
    it, and ends in Corrupted where it differs.
    """

    def __init__(self) -> None:
        self.opaque = False
        self.checked = False
        self._blocks: Generator[bytes, None, None] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._blocks is None:
            raise StopIteration
        return next(self._blocks)

    def close(self) -> None:
        if self._blocks is not None:
            self._blocks.close()


class Pace:
    """When the next request may go, for all threads together: S3 asks the account to slow down and not one of them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._level = 0
        self._since = 0.0
        self._until = 0.0

    def wait(self, stop: Event) -> float:
        """Returns the moment at which the request begins, for slow_down()."""
        while True:
            with self._lock:
                now = time.monotonic()
                left, spread = self._until - now, SLOW_DOWN * 2**self._level / 4
            # Not all at the same moment: where the first is asked to slow down again, the others do not try.
            if left <= 0 or stop.wait(left + random.uniform(0, spread)):  # noqa: S311
                return now

    def slow_down(self, began: float) -> None:
        """Requests that were under way together are one reason and not many."""
        with self._lock:
            if began >= self._since:
                self._since = time.monotonic()
                self._until = self._since + SLOW_DOWN * 2**self._level
                self._level = min(self._level + 1, 5)

    def went_well(self) -> None:
        with self._lock:
            self._level = max(self._level - 1, 0)


def check_bucket_name(name: str) -> str:
    """Bucket names become folder names and URL parts: anything but S3's own alphabet is refused."""
    if name.endswith("--x-s3"):
        raise BadUsage(
            f"{show(name)} is a directory bucket (S3 Express); this program moves general purpose buckets only"
        )
    if not BUCKET_NAME.fullmatch(name) or ".." in name:
        bare = name.removeprefix("s3://").removesuffix("/")
        alone = f"; its name is {show(bare)}" if bare != name and BUCKET_NAME.fullmatch(bare) else ""
        raise BadUsage(f"{show(name)} is not the name of a bucket{alone}")
    return name


class S3:
    """A session with an account and an endpoint, for reading. Every call names the owner it expects, once it is known."""

    def __init__(
        self,
        *,
        profile: str | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        expected_owner: str | None = None,
        connections: int = 32,
    ) -> None:
        try:
            self._session = boto3.Session(profile_name=profile, region_name=region)
            _refuse_secrets_in_endpoints(endpoint_url, self._session._session)
        except ProfileNotFound as error:
            raise BadUsage(f"{error}; see `aws configure list-profiles`") from error
        except BotoCoreError as error:
            raise BadUsage(f"the AWS configuration cannot be read: {show(str(error))}") from error
        self._find_credentials()
        self.profile_in_use = self._session.profile_name
        self.region = region or self._session.region_name
        self._endpoint_url = endpoint_url
        self._expected_owner = expected_owner
        self._connections = connections
        self._identity: Identity | None = None
        self._clients: dict[str, S3Client] = {}
        self._others: dict[str, Any] = {}
        self._regions: dict[str, str] = {}
        self._style: str | None = None
        self._pace = Pace()
        self._making = Lock()
        self.endpoint = self._client(self.region or "us-east-1").meta.endpoint_url
        if not self.at_aws and not self._session._session.get_scoped_config().get("s3", {}).get("addressing_style"):
            # Names in front of a host need wildcard DNS, which few compatible servers have.
            self._style = "path"
            self._clients.clear()

    def _find_credentials(self) -> None:
        """Before any client is made, which would look for them with messages of its own."""
        session: Any = self._session._session
        with suppress(ValueError, AttributeError):  # no such provider: botocore asks in its own way
            session.get_component("credential_provider").get_provider("assume-role")._prompter = _mfa_code
        profile = self._session.profile_name
        try:
            found = session.get_credentials()
        except (BotoCoreError, ClientError, OSError, ValueError, KeyError, EOFError) as error:
            raise _unusable(error, session, profile) from error
        if found is not None:
            session._credentials = _Credentials(found, session, profile)

    # -- who and where

    @property
    def at_aws(self) -> bool:
        return _is_aws(self.endpoint)

    @property
    def endpoint_flag(self) -> str | None:
        """The endpoint that the CLI has to be told of: with only an environment variable its v2 CRT client fails on http."""
        return None if self.at_aws else self.endpoint

    @property
    def addressing_style(self) -> str | None:
        """What the CLI has to be told of addressing; None where the user's configuration or the default is right."""
        return self._style

    def endpoint_of(self, bucket: str) -> str:
        """At AWS the endpoint of the bucket's region, whatever region the caller happens to be configured for."""
        return str(self._for(bucket).meta.endpoint_url)

    def identity(self) -> Identity:
        """Asked once. Raises Failure where there are no usable credentials; an endpoint without STS gives empty fields."""
        if self._identity is None:
            credentials = self._session.get_credentials()
            if credentials is None:
                raise Failure(
                    "no AWS credentials found; set AWS_PROFILE, name --profile, or run `aws configure` or `aws sso login`"
                )
            kind = str(credentials.method)
            sts = self._session.client(
                "sts",
                endpoint_url=self._endpoint_url,
                region_name=self.region or "us-east-1",
                config=Config(**_limits(4, 3)),
            )
            try:
                answer = sts.get_caller_identity()
                self._identity = Identity(answer.get("Account", ""), answer.get("Arn", ""), kind)
            except ClientError as error:
                # AWS answers everybody, whatever the policies say; elsewhere there may be no STS.
                if self.at_aws or _code(error) in _EXPIRED:
                    raise _explained(error, "the caller's identity") from error
                self._identity = Identity("", "", kind)
            except _BROKEN as error:
                # An endpoint that is down is down for everything; one without STS still has buckets.
                down = isinstance(error, EndpointConnectionError) and sts.meta.endpoint_url == self.endpoint
                if self.at_aws or down:
                    raise _explained(error, "the caller's identity") from error
                self._identity = Identity("", "", kind)
        return self._identity

    def buckets(self) -> Iterator[BucketName]:
        token: dict[str, Any] = {"MaxBuckets": 1000}  # without it the answer names no regions
        while True:
            with _explaining("the list of buckets"):
                answer: Mapping[str, Any] = self._client(self.region or "us-east-1").list_buckets(**token)
            for entry in answer.get("Buckets", []):
                if region := entry.get("BucketRegion"):  # HeadBucket would need s3:ListBucket
                    self._regions.setdefault(entry["Name"], region)
                yield BucketName(entry["Name"], entry.get("CreationDate"), entry.get("BucketRegion", ""))
            if not answer.get("ContinuationToken"):
                return
            token["ContinuationToken"] = answer["ContinuationToken"]

    def region_of(self, bucket: str) -> str:
        """The bucket's own region, asked once; raises Failure where there is no such bucket or no access to it."""
        if bucket not in self._regions:
            try:
                answer = self._client(self.region or "us-east-1").head_bucket(Bucket=bucket, **self._owner())
                region = answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"].get(
                    "x-amz-bucket-region"
                )
            except ClientError as error:
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
                region = headers.get("x-amz-bucket-region")
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") not in (301, 400) or not region:
                    raise _explained(error, f"bucket {bucket}") from error
            except _BROKEN as error:
                raise _explained(error, f"bucket {bucket}") from error
            self._regions[bucket] = region or self.region or "us-east-1"
        return self._regions[bucket]

    def versioning(self, bucket: str) -> Versioning:
        """An endpoint without versions is one that never had any."""
        answer: Mapping[str, Any] = {}
        with _explaining(f"the versioning of bucket {bucket}", absent=NOT_IMPLEMENTED):
            answer = self._for(bucket).get_bucket_versioning(Bucket=bucket, **self._owner())
        return Versioning(answer.get("Status", ""), answer.get("MFADelete") == "Enabled", _date(answer))

    def facts(self, bucket: str) -> BucketFacts:
        client = self._for(bucket)
        region = self.region_of(bucket)
        versioning, mfa_delete, date = self.versioning(bucket)
        uploads: int | None = None
        with _asking_in_vain(f"the uploads of {bucket}"):
            try:
                uploads = sum(
                    len(page.get("Uploads", []))
                    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, **self._owner())
                )
            except (OtherAnswer, ValueError, OverflowError):
                if self.at_aws:
                    raise
        return BucketFacts(region, versioning, mfa_delete, uploads, date)

    # -- listing

    def versions(self, bucket: str, start: tuple[str, str] | None = None, *, versioned: bool = False) -> Iterator[Page]:
        """Every version and delete marker, page by page, from a marker that an earlier page gave.

        Falls back to the listing of current objects where the endpoint has no versions. Each page is checked against what
        S3 promises (its own name, UTF-8 order, no repeats, a token that moves on); anything else is a Failure, because a
        proxy's "200 OK" with an empty page would otherwise pass for an empty bucket. A listing without any entry has to
        agree with a second question, ListObjectsV2. Refused: an endpoint that lists current objects only, of a bucket
        that is or was `versioned`.
        """
        empty = start is None
        for page in self._pages(bucket, start, versioned):
            empty = empty and not page.versions and not page.markers
            yield page
        if empty:
            self._must_be_empty(bucket)

    def is_empty(self, bucket: str, *, versioned: bool) -> bool:
        """Whether both listings, of versions and of current objects, show nothing. Raises Failure where they disagree."""
        return not any(page.versions or page.markers for page in self.versions(bucket, versioned=versioned))

    def _must_be_empty(self, bucket: str) -> None:
        with _explaining(f"the listing of bucket {bucket}"):
            answer: Mapping[str, Any] = self._for(bucket).list_objects_v2(Bucket=bucket, MaxKeys=1, **self._owner())
        _sane_page(bucket, answer, [], [], None, None, set())
        if answer.get("Contents") or answer.get("KeyCount") or answer["IsTruncated"]:
            raise _insane(bucket, "one listing shows no object and another (ListObjectsV2) does")

    def _pages(self, bucket: str, start: tuple[str, str] | None, versioned: bool) -> Iterator[Page]:
        client = self._for(bucket)
        last = start
        passed: set[tuple[str, str]] = set()  # markers of the pages so far under the last key
        tail: set[tuple[str, str]] = set()  # identities under the last key, which may go on over the page's end
        while True:
            arguments: dict[str, Any] = {
                "Bucket": bucket,
                "OptionalObjectAttributes": ["RestoreStatus"],
                **self._owner(),
            }
            if last is not None:
                arguments["KeyMarker"] = last[0]
                if last[1]:
                    arguments["VersionIdMarker"] = last[1]
            try:
                answer: Mapping[str, Any] = client.list_object_versions(**arguments)
            except ClientError as error:
                if _code(error) in NOT_IMPLEMENTED and last is None and not versioned:
                    yield from self._objects(bucket)
                    return
                raise _explained(error, f"the listing of bucket {bucket}") from error
            except OtherAnswer as error:
                if error.root != _ROOTS["ListObjectsV2"]:
                    raise _explained(error, f"the listing of bucket {bucket}") from error
                if versioned:
                    raise Refused(
                        f"versioning is or was on in bucket {show(bucket)}, and {self.endpoint_of(bucket)} answers the"
                        " question for its versions (ListObjectVersions) with current objects only: older versions"
                        " cannot be seen there. Use an endpoint that lists versions"
                    ) from error
                if last is not None:
                    raise _insane(bucket, "a later page is of another type than the first") from error
                yield from self._objects(bucket)
                return
            except _BROKEN as error:
                raise _explained(error, f"the listing of bucket {bucket}") from error
            versions = [_version(bucket, entry) for entry in answer.get("Versions", [])]
            markers = [
                DeleteMarker(bucket, e["Key"], e.get("VersionId") or "null", bool(e.get("IsLatest")), e["LastModified"])
                for e in answer.get("DeleteMarkers", [])
            ]
            following = None
            if answer.get("IsTruncated"):
                following = (answer.get("NextKeyMarker", ""), answer.get("NextVersionIdMarker", ""))
            tail = _sane_page(bucket, answer, versions, markers, last, following, tail)
            if following is not None:
                passed = {marker for marker in passed if marker[0] == following[0]}
                if following in passed:
                    raise _insane(bucket, "a page says that more follows and does not move on")
                passed.add(following)
            yield Page(tuple(versions), tuple(markers), following)
            if following is None:
                return
            last = following

    def _objects(self, bucket: str) -> Iterator[Page]:
        client = self._for(bucket)
        token: str | None = None
        last_key: tuple[str, str] | None = None
        tail: set[tuple[str, str]] = set()
        while True:
            arguments: dict[str, Any] = {
                "Bucket": bucket,
                "OptionalObjectAttributes": ["RestoreStatus"],
                **self._owner(),
            }
            if token is not None:
                arguments["ContinuationToken"] = token
            with _explaining(f"the listing of bucket {bucket}"):
                answer: Mapping[str, Any] = client.list_objects_v2(**arguments)
            versions = [_version(bucket, entry) for entry in answer.get("Contents", [])]
            following = None
            if answer.get("IsTruncated"):
                following_token = answer.get("NextContinuationToken")
                if not following_token or following_token == token:
                    raise _insane(bucket, "a page says that more follows and does not say where")
                token = following_token
                following = (versions[-1].key, "") if versions else last_key
            tail = _sane_page(bucket, answer, versions, [], last_key, following, tail)
            # No marker: this listing cannot be taken up in the middle by key and version.
            yield Page(tuple(versions), (), None)
            if following is None:
                return
            last_key = following

    def listed_from(self, bucket: str, key: str) -> tuple[tuple[ObjectVersion, ...], bool]:
        """The versions from this key on that one request tells of, in order, with their restores; whether that was all."""
        marker = just_before(key)
        before: dict[str, Any] = {"KeyMarker": marker} if marker else {}
        after: dict[str, Any] = {"StartAfter": marker} if marker else {}
        more: dict[str, Any] = {"Bucket": bucket, "OptionalObjectAttributes": ["RestoreStatus"], **self._owner()}
        client = self._for(bucket)
        with _explaining(f"the listing of bucket {bucket}"):
            try:
                answer: Mapping[str, Any] = client.list_object_versions(**more, **before)
                entries = answer.get("Versions", [])
            except (ClientError, OtherAnswer) as error:
                if isinstance(error, ClientError) and _code(error) not in NOT_IMPLEMENTED:
                    raise
                answer = client.list_objects_v2(**more, **after)
                entries = answer.get("Contents", [])
        return tuple(_version(bucket, entry) for entry in entries), not answer.get("IsTruncated")

    def identities_of(self, bucket: str, key: str) -> set[tuple[str, bool]]:
        """Return (version id, whether it is a delete marker) of everything that S3 lists under exactly this key."""
        found: set[tuple[str, bool]] = set()
        more: dict[str, Any] = {}
        while True:
            with _explaining(f"the versions of {key}"):
                answer: Mapping[str, Any] = self._for(bucket).list_object_versions(
                    Bucket=bucket, Prefix=key, **self._owner(), **more
                )
            if answer.get("Name") != bucket or "IsTruncated" not in answer:
                raise _insane(bucket, f"it is no answer about the versions of {show(key)}")
            for name, is_marker in (("Versions", False), ("DeleteMarkers", True)):
                found.update((e.get("VersionId") or "null", is_marker) for e in answer.get(name, []) if e["Key"] == key)
            following = {"KeyMarker": answer.get("NextKeyMarker", "")}
            if version := answer.get("NextVersionIdMarker"):
                following["VersionIdMarker"] = version
            # The key itself is the first of those that begin with it.
            if not answer["IsTruncated"] or following["KeyMarker"] != key:
                return found
            if following == more:
                raise _insane(bucket, "a page says that more follows and does not move on")
            more = following

    def archives_by_tiering(self, bucket: str) -> bool:
        """Do objects of INTELLIGENT_TIERING go to an archive tier here? Only what is configured now can be seen, and a rule
        that is disabled may have done so before."""
        answer = self._of_bucket(bucket, "list_bucket_intelligent_tiering_configurations") or {}
        rules = answer.get("IntelligentTieringConfigurationList", [])
        return any(rule.get("Tierings") for rule in rules)

    # -- one object

    def head(self, version: ObjectVersion) -> tuple[Head, int]:
        """HEAD of exactly this version, with checksums. Returns the number of parts too (0: S3 did not say).

        Raises WrongVersion where the answer is about another version, SizeDiffers where the listing gave another size.
        """
        answer = self._asked_head(version, {})
        return _head(answer), int(answer.get("PartsCount") or 0)

    def _asked_head(self, version: ObjectVersion, more: Mapping[str, Any]) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {"ChecksumMode": "ENABLED", **_named(version), **self._owner(), **more}
        with _explaining(show(version.key), of=version):
            answer = self._head_object(arguments)
        if not answer.keys() >= {"ETag", "ContentLength", "LastModified"}:
            raise Unreachable(f"no proper answer for {show(version.key)}: S3's own headers are not in it")
        _check_identity(version, answer)
        if not more:
            if (status := answer["ResponseMetadata"]["HTTPStatusCode"]) != 200:
                raise Unreachable(f"unexpected response for {show(version.key)}: HTTP {status} to a HEAD of the whole")
            _check_size(version, answer["ContentLength"])
        return answer

    def _head_object(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """HEAD. A 404 without a body can be a proxy's, or a bucket's that is missing: where no delete marker explains it, the
        error that is raised is the one that a GET of the first byte gives, whose body names it."""
        client = self._for(arguments["Bucket"])
        try:
            answer: Mapping[str, Any] = client.head_object(**arguments)
            return answer
        except ClientError as error:
            if _status(error) != 404 or _marker_headers(error)[1]:
                raise
        named: Any = {name: arguments[name] for name in arguments.keys() - {"ChecksumMode", "PartNumber"}}
        answer = client.get_object(**named, Range="bytes=0-0")
        answer["Body"].close()
        raise Unreachable(f"unexpected response for {show(arguments['Key'])}: HTTP 404 to HEAD, and GET finds it")

    def part_sizes(self, version: ObjectVersion, count: int, *, every: bool = False) -> tuple[int, ...]:
        """Sizes of the parts in order, one HEAD each; () where the endpoint does not tell parts apart.

        Of the first two alone where they are equal, for then all but the last mostly are; with `every` of all.
        """
        sizes: list[int] = []
        for part in range(1, count + 1):
            answer = self._asked_head(version, {"PartNumber": part})
            size = answer["ContentLength"]
            stated = content_range(answer["ResponseMetadata"]["HTTPHeaders"].get("content-range"))
            expected = (sum(sizes), sum(sizes) + size - 1, version.size)
            if answer.get("PartsCount") != count or stated not in (None, expected):
                return ()
            sizes.append(size)
            if part == 2 and sizes[0] == sizes[1] and not every:
                return tuple(sizes)
        return tuple(sizes) if sum(sizes) == version.size else ()

    def get(self, version: ObjectVersion, block_size: int, start: int = 0, *, stop: Event | None = None) -> Body:
        """The bytes of exactly this version from `start` on, by VersionId, or by If-Match where it names none.

        Ends early only with an exception: a body shorter than its Content-Length is Unreachable. With `stop`, it is the
        caller who repeats: a request goes once, not before the endpoint bears it (Throttled), and whatever it is that
        hangs, it ends in Unreachable soon after `stop` is set.
        """
        body = Body()
        if stop is None:
            body._blocks = self._get(body, version, block_size, start, None)
        else:
            body._blocks = _in_background(self._get(body, version, block_size, start, stop), stop)
        return body

    def _get(
        self, body: Body, version: ObjectVersion, block_size: int, start: int, stop: Event | None
    ) -> Generator[bytes, None, None]:
        named = _named(version)
        if "VersionId" not in named:
            named["IfMatch"] = f'"{version.etag}"'
        if start:
            named["Range"] = f"bytes={start}-"
        began = self._pace.wait(stop) if stop else time.monotonic()
        region = self.region_of(version.bucket)
        # A server that sends the checksum of the whole with a range (rclone does) would pass for one that sends garbage.
        client = self._client(region, attempts=1 if stop else 5, silence=SILENCE if stop else 60, checks=not start)
        try:
            with _explaining(show(version.key), of=version):
                answer = client.get_object(**named, **self._owner())
                stream = answer["Body"]
                try:
                    skip = _bytes_before(answer, version, start)
                    self._pace.went_well()
                    body.opaque = bool(
                        answer.get("SSECustomerAlgorithm") or answer.get("ServerSideEncryption") in OPAQUE
                    )
                    body.checked = isinstance(stream, StreamingChecksumBody)
                    for block in stream.iter_chunks(block_size):
                        if skip < len(block):
                            yield block[skip:] if skip else block
                        skip = max(skip - len(block), 0)
                finally:
                    stream.close()
        except Throttled:
            self._pace.slow_down(began)
            raise

    def is_there(self, bucket: str, key: str, version_id: str, etag: str, *, by_id: bool) -> bool | None:
        """Is exactly this version (or delete marker, whose `etag` is empty) still in S3? None where the answer does not tell.

        `by_id`: the bucket is or was versioned, so that even `null` names one version and not just the current object.

        answer to HEAD                             | a data version         | a delete marker
        -------------------------------------------|------------------------|-----------------------
        no answer, another status                  | None                   | None
        names a version id that was not asked for  | None                   | None
        404, and a GET names the same error        | False                  | False
        404 or 405: a delete marker has this id    | `null`: False, or None | True
        404: a delete marker, no id named          | None                   | None
        405: no delete marker named                | None                   | True
        200 with the listed ETag                   | True                   |
        200 with another ETag                      | `null`: False, or None | `null`: False, or None
        """
        return self.is_there_with_tags(bucket, key, version_id, etag, by_id=by_id)[0]

    def is_there_with_tags(
        self, bucket: str, key: str, version_id: str, etag: str, *, by_id: bool
    ) -> tuple[bool | None, int]:
        """As is_there(), and how many tags the version has, as far as HEAD says."""
        arguments: dict[str, Any] = {"Bucket": bucket, "Key": key, **self._owner()}
        if by_id:
            arguments["VersionId"] = version_id
        try:
            answer = self._head_object(arguments)
        except ClientError as error:
            answered, of_marker = _marker_headers(error)
            if not names_version(version_id if by_id else "", answered):
                return None, 0
            if _is_missing(error) and not of_marker:
                return False, 0
            if _status(error) == 405 and not etag:
                return True, 0
            if of_marker and (_status(error) == 405 or answered):
                return ((False if version_id == "null" else None) if etag else True), 0
            return None, 0
        except (*_BROKEN, Unreachable):
            return None, 0
        found = bare_etag(answer.get("ETag", ""))
        if not found or not names_version(version_id if by_id else "", answer.get("VersionId")):
            return None, 0  # not S3's answer, or about another version
        if found == etag:
            return True, int(answer.get("TagCount") or 0)
        return (False if version_id == "null" else None), 0

    def presence(self, version: ObjectVersion, *, by_id: bool) -> Presence:
        """Whether S3 has exactly this version. Raises Denied, Refusal or Unreachable where it does not say.

        `by_id`: the bucket is or was versioned; see is_there().
        """
        named = version.version_id if by_id else ""
        arguments: dict[str, Any] = {"Bucket": version.bucket, "Key": version.key, **self._owner()}
        if named:
            arguments["VersionId"] = named
        try:
            answer = self._head_object(arguments)
        except ClientError as error:
            answered, of_marker = _marker_headers(error)
            # A delete marker can take over the id `null`, and no other one.
            if _is_missing(error) or (_status(error) in (404, 405) and of_marker):
                other = of_marker and (named not in ("", "null") or not answered)
                if names_version(named, answered) and not other:
                    return Presence.GONE
                raise Unreachable(
                    f"unexpected response for {show(version.key)}: it is about another version"
                ) from error
            raise _explained(error, show(version.key), version) from error
        except (*_BROKEN, OSError) as error:
            raise _explained(error, show(version.key)) from error
        etag = bare_etag(answer.get("ETag", ""))
        if not etag or not names_version(named, answer.get("VersionId")):
            raise Unreachable(f"unexpected response for {show(version.key)}: it does not name this version")
        if etag == version.etag:
            return Presence.THERE
        if named not in ("", "null"):
            raise Unreachable(f"unexpected response for {show(version.key)}: another ETag for the same version id")
        return Presence.CHANGED

    def uploads(self, bucket: str) -> Iterator[tuple[str, str, datetime]]:
        """(key, upload id, when it was begun) of every multipart upload that was not completed."""
        with _explaining(f"the uploads of {bucket}"):
            for page in (
                self._for(bucket).get_paginator("list_multipart_uploads").paginate(Bucket=bucket, **self._owner())
            ):
                for entry in page.get("Uploads", []):
                    yield entry["Key"], entry["UploadId"], entry["Initiated"]

    def upload_is_there(self, bucket: str, key: str, upload_id: str) -> bool | None:
        """None where the answer does not tell."""
        try:
            answer = self._for(bucket).list_parts(
                Bucket=bucket, Key=key, UploadId=upload_id, MaxParts=1, **self._owner()
            )
        except ClientError as error:
            return False if _code(error) == "NoSuchUpload" else None
        except _BROKEN:
            return None
        return True if answer.get("UploadId") == upload_id else None

    def may_hold(self, bucket: str) -> bool:
        """Can there be locks, legal holds or replications under way in this bucket? False only where S3 says not."""
        if self.has_object_lock(bucket):
            return True
        answer = self._of_bucket(bucket, "get_bucket_replication")
        return answer is not None and "not_implemented" not in answer

    def hold(self, version: ObjectVersion) -> Kept | None:
        """What keeps S3 from deleting this version, or an operator from wanting it; None where nothing does."""
        answer = self._asked_head(version, {})
        until = answer.get("ObjectLockRetainUntilDate")
        if until is not None and until > datetime.now(UTC):
            mode = show(str(answer.get("ObjectLockMode", "")).lower())
            end = until.astimezone(UTC).isoformat(timespec="seconds")
            return Kept(Cause.LOCKED, f"Object Lock ({mode}) keeps it until {end}")
        if answer.get("ObjectLockLegalHoldStatus") == "ON":
            return Kept(Cause.LOCKED, "a legal hold is on it")
        headers = answer["ResponseMetadata"]["HTTPHeaders"]  # botocore knows event holds from 1.44.5 on
        if answer.get("ObjectLockEventHold", headers.get("x-amz-object-lock-event-hold")) == "ON":
            return Kept(Cause.LOCKED, "an event hold is on it")
        if answer.get("ReplicationStatus") == "PENDING":
            return Kept(Cause.REPLICATING, "its replication is not done")
        return None

    # -- what lies beside the bytes

    def metadata(self, version: ObjectVersion) -> Document:
        """All that HEAD answers of this version, the ETag without its quotes."""
        answer = _plain({**self._asked_head(version, {}), "ResponseMetadata": None})
        return {**answer, "ETag": bare_etag(answer["ETag"])}

    def tags(self, version: ObjectVersion) -> object:
        return self._of_object(version, "get_object_tagging", "TagSet")

    def acl(self, version: ObjectVersion) -> object:
        return self._of_object(version, "get_object_acl", "Grants")

    def retention(self, version: ObjectVersion) -> object:
        return self._of_object(version, "get_object_retention", "Retention")

    def legal_hold(self, version: ObjectVersion) -> object:
        return self._of_object(version, "get_object_legal_hold", "LegalHold")

    def lock_denials(self, version: ObjectVersion) -> tuple[str, ...]:
        """Permissions that the caller lacks to see whether this version is locked.

        Without them HEAD answers as if there were no lock (AWS, "HeadObject", the headers x-amz-object-lock-...).
        """
        questions = {"s3:GetObjectRetention": self.retention, "s3:GetObjectLegalHold": self.legal_hold}
        answers = {permission: ask(version) for permission, ask in questions.items()}
        return tuple(name for name, answer in answers.items() if isinstance(answer, dict) and "denied" in answer)

    def _of_object(self, version: ObjectVersion, question: str, proper: str) -> object:
        """S3's answer; None where it says that there is none; or {"denied": why}, {"refused": why}, {"not_implemented": true}.

        Raises Gone, and Unreachable where there is no (proper) answer: that is for another time.
        """
        put = getattr(self._for(version.bucket), question)

        def ask() -> Mapping[str, Any]:
            answer: Mapping[str, Any] = put(**_named(version), **self._owner())
            _check_version_id(version, answer)
            return answer

        return _part(ask, show(version.key), proper, version, breaks=not self.at_aws)

    def annotations(self, version: ObjectVersion) -> list[Document] | Document:
        """The list of what is attached to this version; {"not_known_here": true} where the SDK or the endpoint does not know of
        annotations; {"denied": why} and {"refused": why} as everywhere."""
        client: Any = self._for(version.bucket)
        if not hasattr(client, "list_object_annotations"):
            return {"not_known_here": True}
        found: list[Document] = []
        more: dict[str, str] = {}

        def ask() -> Mapping[str, Any]:
            try:
                answer: Mapping[str, Any] = client.list_object_annotations(**_named(version), **self._owner(), **more)
            except ResponseParserError:
                if self.at_aws:
                    raise
                return {"not_implemented": True}
            _check_version_id(version, answer)
            whole = answer["ResponseMetadata"]["HTTPStatusCode"] == 200
            if whole and answer.keys() & {"Annotations", "AnnotationCount", "MaxAnnotationResults", "Bucket", "Key"}:
                return answer
            if self.at_aws:
                raise Unreachable(f"no proper answer for the annotations of {show(version.key)}; run the same again")
            # It overlooks what follows the "?", and this is the object (or 2 MiB of it).
            return {"not_implemented": True}

        while True:
            answer = _part(ask, show(version.key), "", version) or {"not_implemented": True}
            if "not_implemented" in answer:
                return {"not_known_here": True}
            if answer.keys() & {"denied", "refused"}:
                return answer
            found.extend(answer.get("Annotations", ()))
            following = answer.get("NextContinuationToken", "")
            if not following or following == more.get("ContinuationToken"):
                return found
            more["ContinuationToken"] = following

    def annotation(self, version: ObjectVersion, name: str) -> bytes | Document:
        """Its bytes, 1 MiB at most, or {"denied": why} and the like; Unreachable also where it went since it was listed."""
        client: Any = self._for(version.bucket)
        blocks: list[bytes] = []

        def ask() -> Mapping[str, Any]:
            answer: Mapping[str, Any] = client.get_object_annotation(
                **_named(version), AnnotationName=name, ChecksumMode="ENABLED", **self._owner()
            )
            _check_version_id(version, answer)
            size = 0
            stream = answer["AnnotationPayload"]
            try:
                for block in stream.iter_chunks():
                    blocks.append(block)
                    size += len(block)
                    if size > _ANNOTATION_LIMIT:
                        return {"refused": "longer than the 1 MiB that an annotation can have"}
            finally:
                stream.close()
            return {"size": size}

        answer = _part(ask, f"annotation {name} of {version.key}", "", version)
        if answer is None:
            raise Unreachable(
                f"annotation {show(name)} of {show(version.key)} went while it was read; run the same again"
            )
        return b"".join(blocks) if "size" in answer else answer

    def has_object_lock(self, bucket: str) -> bool:
        """False only where S3 says that it has none."""
        answer = self._of_bucket(bucket, "get_object_lock_configuration")
        return answer is not None and "not_implemented" not in answer

    def configuration(self, bucket: str) -> Document:
        """The bucket's own settings, by part: S3's answer, None where S3 says that there is none, {"denied": why},
        {"refused": why} or {"not_implemented": true}.

        Unreachable where any part got no proper answer: half a configuration could pass for the whole.
        """
        parts: Document = {}
        for name, (question, proper) in _PARTS.items():
            answer = self._of_bucket(bucket, question, proper)
            token = answer.get("NextContinuationToken") if answer else None
            while answer and token:
                more = self._of_bucket(bucket, question, proper, {"ContinuationToken": token}) or {}
                for key, listed in more.items():
                    answer[key] = answer.get(key, []) + listed if isinstance(listed, list) else listed
                token = more.get("NextContinuationToken") if more.get("NextContinuationToken") != token else None
            if question.startswith("list_") and answer:
                for of_paging in ("IsTruncated", "ContinuationToken", "NextContinuationToken"):
                    answer.pop(of_paging, None)
            if answer and isinstance(answer.get("Policy"), str):
                try:
                    answer = json.loads(answer["Policy"])
                except ValueError as error:
                    if self.at_aws or "<html" in answer["Policy"]:
                        raise Unreachable(f"no proper answer for the policy of {bucket}; run the same again") from error
                    answer = {"refused": "the endpoint answers another question"}
            parts[name] = answer or None
        return parts

    def _of_bucket(
        self, bucket: str, question: str, proper: str = "", more: Mapping[str, str] | None = None
    ) -> dict[str, Any] | None:
        ask = getattr(self._for(bucket), question)
        what = f"{question.partition('_')[2].replace('_', ' ')} of {bucket}"
        return _part(lambda: ask(Bucket=bucket, **self._owner(), **(more or {})), what, proper, breaks=not self.at_aws)

    # -- who may do what

    def find(self, bucket: str) -> None:
        """region_of for who may not list the bucket, and perhaps may see and put its policy: S3 names the region all the
        same, and elsewhere the configured one has to do."""
        try:
            self.region_of(bucket)
        except Denied as failure:
            told = failure.__cause__.response if isinstance(failure.__cause__, ClientError) else {}
            headers = told.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            self._regions[bucket] = headers.get("x-amz-bucket-region") or self.region or "us-east-1"

    def policy(self, bucket: str) -> str | None:
        """The bucket policy, letter by letter as S3 has it; None where there is none."""
        text: str | None = None
        with _explaining(f"the policy of bucket {bucket}", absent=("NoSuchBucketPolicy",)):
            text = self._for(bucket).get_bucket_policy(Bucket=bucket, **self._owner()).get("Policy", "")
        if text == "":
            raise Unreachable(f"no proper answer for the policy of bucket {show(bucket)}; run the same again")
        return text

    def public_access_block(self, bucket: str) -> tuple[str, ...] | None:
        """Which of the four are on, by name; None where the bucket has no such setting."""
        answer: Mapping[str, Any] = {}
        with _explaining(f"block public access of bucket {bucket}", absent=("NoSuchPublicAccessBlockConfiguration",)):
            answer = self._for(bucket).get_public_access_block(Bucket=bucket, **self._owner())
        found = answer.get("PublicAccessBlockConfiguration")
        return None if found is None else tuple(name for name in PUBLIC_ACCESS_BLOCK if found.get(name))

    def denials(self, bucket: str) -> dict[str, str]:
        """What this caller is denied of what reads a bucket, by question, tried one by one; changes nothing.

        What the endpoint does not know is not denied. Raises Unreachable where there is no answer.
        """
        client = self._for(bucket)
        owner = self._owner()
        keys: list[str] = []

        def proper(answer: Mapping[str, Any], name: str, value: object = None) -> Mapping[str, Any]:
            if name not in answer or value not in (None, answer[name]):  # a login page says 200 too
                raise Unreachable(f"no proper answer from bucket {show(bucket)}: it is not S3's; run the same again")
            return answer

        def objects() -> None:
            answer = proper(client.list_objects_v2(Bucket=bucket, MaxKeys=1, **owner), "Name", bucket)
            keys.extend(entry["Key"] for entry in answer.get("Contents", []))

        questions: Mapping[str, Callable[[], object]] = {
            "list": objects,
            "list versions": lambda: proper(
                client.list_object_versions(Bucket=bucket, MaxKeys=1, **owner), "Name", bucket
            ),
            "read the versioning": lambda: client.get_bucket_versioning(Bucket=bucket, **owner),
            "read the policy": lambda: client.get_bucket_policy(Bucket=bucket, **owner),
            "read objects": lambda: [proper(client.head_object(Bucket=bucket, Key=k, **owner), "ETag") for k in keys],
        }
        denied = {}
        for question, ask in questions.items():
            try:
                with _explaining(f"bucket {bucket}"):
                    ask()
            except Denied as failure:
                denied[question] = str(failure)
            except (Gone, Refusal):
                continue
        return denied

    def role_arn(self, name: str) -> str:
        """The ARN of a role with its path, "" where IAM does not tell."""
        iam = self._beside("iam")
        try:
            return str(iam.get_role(RoleName=name)["Role"]["Arn"]) if iam else ""
        except (ClientError, *_BROKEN, KeyError, TypeError):
            return ""

    def policy_findings(self, text: str) -> list[str] | str:
        """What IAM Access Analyzer finds wrong with a bucket policy, a line each; or why it was not asked."""
        analyzer = self._beside("accessanalyzer")
        if analyzer is None:
            return "there is no Access Analyzer at this endpoint"
        found: list[str] = []
        more: dict[str, str] = {}
        try:
            while True:
                answer: Mapping[str, Any] = analyzer.validate_policy(
                    policyDocument=text,
                    policyType="RESOURCE_POLICY",
                    validatePolicyResourceType="AWS::S3::Bucket",
                    **more,
                )
                found += [
                    f"{entry.get('findingType', '?')}: {entry.get('findingDetails', entry.get('issueCode', '?'))}"
                    for entry in answer["findings"]
                ]
                if not answer.get("nextToken") or answer["nextToken"] == more.get("nextToken"):
                    return found
                more["nextToken"] = answer["nextToken"]
        except ClientError as error:
            said = _said(error).strip(": ")
            return _code(error) if "<" in said else said  # a page is not for people
        except (*_BROKEN, KeyError, TypeError) as error:
            return f"no proper answer: {error}"

    def _beside(self, service: str) -> Any:
        """A client of another service at the same endpoint; None where that would be AWS's own and S3 is not."""
        client = self._session.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self._endpoint_url,
            region_name=self.region or "us-east-1",
            config=Config(**_limits(4, 1)),  # what it says is welcome, and nobody waits for it
        )
        return client if self.at_aws or not _is_aws(client.meta.endpoint_url) else None

    # -- beside S3

    def ask(self, service: str, question: str, region: str, **arguments: Any) -> Mapping[str, Any]:
        """One question to another service, with these credentials and, where one is named, at this endpoint. For reading.

        Raises what S3's questions raise; a service that the endpoint does not have is a Refusal or Unreachable.
        """
        if not question.startswith(("get_", "list_", "describe_")):
            raise ValueError(f"{question} does not only read")
        name = f"{service}/{region}"
        what = f"{service}, {question.replace('_', ' ')}"
        try:
            with self._making:
                if name not in self._others:
                    self._others[name] = self._session._session.create_client(
                        service, region_name=region, endpoint_url=self._endpoint_url, config=Config(**_limits(4, 3))
                    )
            other = self._others[name]
            if _is_aws(other.meta.endpoint_url) and not self.at_aws:
                raise Refusal(f"there is no {service} at {self.endpoint}, and AWS's own is not asked in its place")
            answer: Mapping[str, Any] = getattr(other, question)(**arguments)
        except ClientError as error:
            if _code(error) in _BAD_CREDENTIALS:
                raise _explained(error, what) from error
            if "AccessDenied" in _code(error):
                raise Denied(f"access to {what} is denied ({show(_said(error))})") from error
            raise Refusal(f"AWS refused {what}: {show(_said(error))}") from error
        except (*_BROKEN, OSError, ValueError) as error:
            raise _explained(error, what) from error
        return answer

    def upload_bytes(self, bucket: str, *, at_most: int = 100) -> int | None:
        """What the parts of unfinished uploads take; None where there are more of them than `at_most`, or it is not told."""
        size = asked = 0
        try:
            for key, upload, _ in self.uploads(bucket):
                asked += 1
                if asked > at_most:
                    return None
                named: Any = {"Bucket": bucket, "Key": key, "UploadId": upload, **self._owner()}
                with _explaining(f"the parts of {key}"):
                    for parts in self._for(bucket).get_paginator("list_parts").paginate(**named):
                        size += sum(part.get("Size", 0) for part in parts.get("Parts", []))
        except (Denied, Gone, Refusal, Unreachable):
            return None
        return size

    # -- for those who ask by other means

    def source(self, bucket: str) -> Source | None:
        """How the objects of this bucket are asked for; None where that takes more than a plain signed GET can do.

        Found out by having botocore make up a request and looking at it before it is signed: endpoint rules, addressing,
        dual stack, FIPS, acceleration and whatever else a configuration may say are then as for every other request.
        """
        session = self._session._session
        client = self._client(self.region_of(bucket), attempts=1)

        def look(request: Any, region_name: str, signature_version: str, **_: object) -> None:
            raise _Aimed(request.url, region_name, signature_version)

        client.meta.events.register("before-sign.s3.GetObject", look)
        try:
            with _explaining(f"bucket {bucket}"):
                client.get_object(Bucket=bucket, Key="-", **self._owner())
            return None  # anonymous: nothing was signed
        except _Aimed as aimed:
            url, region, signature = aimed.args
        finally:
            client.meta.events.unregister("before-sign.s3.GetObject", look)
        parts = urlsplit(url)
        parts = urlsplit(url)
        path = parts.path
        if signature != "s3v4" or not region or not parts.hostname or parts.query or not path.endswith("/-"):
            return None
        if getattr(client.meta.config, "proxies", None) or get_environ_proxies(url).keys() & {parts.scheme, "all"}:
            return None
        verify = session.get_config_variable("ca_bundle")
        secure = parts.scheme == "https"
        return Source(
            parts.scheme,
            parts.hostname,
            parts.port or (443 if secure else 80),
            path.removesuffix("-"),
            region,
            self._owner().get("ExpectedBucketOwner", ""),
            # What botocore trusts by default is a bundle of its own and not the system's.
            str(verify or get_cert_path(True)) if secure else "",
        )

    def credentials(self) -> Credentials:
        """As they are now: who keeps them asks again every minute, for they are renewed here."""
        found = self._session.get_credentials()
        if found is None:
            raise Failure("no AWS credentials found; set AWS_PROFILE, name --profile, or run `aws configure`")
        now = found.get_frozen_credentials()
        return Credentials(now.access_key or "", now.secret_key or "", now.token or "")

    def credential_document(self) -> str:
        """The credentials as a credential_process prints them.

        Of those that expire it says that they hold for 20 minutes at least: botocore asks again 15 minutes before the end,
        at each request, and what cannot be renewed here is not renewed by asking more often.
        """
        now = self.credentials()
        document = {"Version": 1, "AccessKeyId": now.access_key, "SecretAccessKey": now.secret_key}
        if now.token:
            document["SessionToken"] = now.token
        expiry = getattr(self._session.get_credentials(), "_expiry_time", None)
        if isinstance(expiry, datetime):
            document["Expiration"] = max(expiry, datetime.now(UTC) + timedelta(minutes=20)).isoformat()
        return json.dumps(document)

    def cli_settings(self) -> tuple[Mapping[str, object], Mapping[str, object]]:
        """What configuration and credentials file say of the profile in use, and of the services section that it names."""
        session: Any = self._session._session
        profile = session.get_scoped_config()
        return profile, session.full_config.get("services", {}).get(profile.get("services"), {})

    # -- clients

    def _owner(self) -> dict[str, Any]:
        owner = self._expected_owner or (self._identity.account if self._identity else "")
        return {"ExpectedBucketOwner": owner} if owner else {}

    def _client(self, region: str, *, attempts: int = 5, silence: int = 60, checks: bool = True) -> S3Client:
        """Waits `silence` seconds for an answer to go on; with `checks`, holds bodies against the checksums they come with."""
        name = f"{region}/{attempts}/{silence}/{checks}"
        with self._making:  # a session makes one client at a time (boto3 guide, "Multithreading with sessions")
            if name not in self._clients:
                more = _limits(self._connections, attempts) | {"read_timeout": silence}
                if self._style:
                    more["s3"] = {"addressing_style": self._style}
                if not checks:
                    more["response_checksum_validation"] = "when_required"
                try:
                    self._clients[name] = self._session.client(
                        "s3", region_name=region, endpoint_url=self._endpoint_url, config=Config(**more)
                    )
                    events = self._clients[name].meta.events
                    events.register("before-call.s3.ListObjectAnnotations", _no_more_than_a_list)
                    # With the star in this place they come before botocore's own, of `before-parse.s3.*`: that one would
                    # read the whole of a listing once more, for an error in it.
                    events.register("before-parse.*.*", _check_document)
                    events.register("before-parse.*.ListObjectVersions", _read_list)
                    events.register("before-parse.*.ListObjectsV2", _read_list)
                    events.register("before-parse.*.ListObjectAnnotations", _not_a_fault)
                except (BotoCoreError, ValueError) as error:
                    raise BadUsage(f"no S3 client can be made: {show(str(error))}") from error
            return self._clients[name]

    def _for(self, bucket: str) -> S3Client:
        return self._client(self.region_of(bucket))

    def client_for(self, bucket: str) -> S3Client:
        """For the edge that writes to a bucket which the operator named for that."""
        return self._for(bucket)

    def other_client(self, service: str, region: str) -> Any:
        """A client of another service of AWS, at the same endpoint where one is named."""
        config = Config(**_limits(4, 5))
        with self._making:
            try:
                client: Any = self._session.client(  # type: ignore[call-overload]
                    service, region_name=region, endpoint_url=self._endpoint_url or self.endpoint_flag, config=config
                )
            except (BotoCoreError, ValueError) as error:
                raise BadUsage(f"no {service} client can be made: {show(str(error))}") from error
        if not self.at_aws:
            client.meta.events.register("before-sign", _at_this_host)
        return client


class _Credentials:
    """botocore's credentials, which fail with one message that says what to do."""

    def __init__(self, found: Any, session: Any, profile: str) -> None:
        self._found, self._session, self._profile = found, session, profile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)

    def get_frozen_credentials(self) -> Any:
        try:
            return self._found.get_frozen_credentials()
        except (BotoCoreError, ClientError, OSError, ValueError, KeyError, EOFError, RuntimeError) as error:
            raise _unusable(error, self._session, self._profile) from error


def _mfa_code(prompt: str) -> str:
    """Asks for a code of the MFA device, at a terminal only: standard input may be a list of buckets."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        if not sys.stdin.isatty():
            raise BadCredentials(
                "the AWS profile asks for a code of an MFA device (mfa_serial), and there is no terminal to type it at: run"
                " this on a terminal, or with credentials that need no code"
            ) from None
    return getpass.getpass(prompt)


def _unusable(error: Exception, session: Any, profile: str) -> Failure:
    """The Failure for credentials that cannot be had or renewed. What a credential_process printed is not repeated: it
    may be a secret."""
    name = show(profile)
    if isinstance(error, (SSOError, TokenRetrievalError)):
        login = _login_of(session, profile, "sso_session", "sso_start_url")
        return BadCredentials(f"the SSO session of profile {name} is not logged in: run `aws sso login{login}`")
    if isinstance(error, LoginError):
        login = _login_of(session, profile, "login_session")
        return BadCredentials(f"the session of profile {name} is not logged in: run `aws login{login}`")
    if isinstance(error, RefreshWithMFAUnsupportedError):
        return BadCredentials(
            f"the session that profile {name} opened with an MFA code has ended; run the same command again and type a new"
            " code"
        )
    if isinstance(error, EOFError):
        return BadCredentials(f"profile {name} asks for a code of an MFA device, and none was typed")
    if isinstance(error, RuntimeError):
        return BadCredentials(
            f"the credentials that profile {name} gives have expired already: renew them where they come from, and run the"
            " same command again"
        )
    by_program = isinstance(error, CredentialRetrievalError) and error.kwargs.get("provider") == "custom-process"
    if by_program or not isinstance(error, BotoCoreError | ClientError):  # it cannot be started, or prints no JSON
        return BadCredentials(
            f"the program that profile {name} names as its credential_process gave no credentials: run it by itself to see"
            " why"
        )
    if isinstance(error, HTTPClientError):
        return Unreachable(f"the AWS credentials of profile {name} cannot be renewed: {show(str(error))}")
    return BadCredentials(f"the AWS credentials of profile {name} cannot be loaded: {show(str(error))}")


def _login_of(session: Any, profile: str, *marks: str) -> str:
    """The option for the profile, or one that it takes its credentials from, that has one of these settings."""
    profiles = session.full_config.get("profiles", {})
    name: str | None = profile
    for _ in range(len(profiles)):
        section = profiles.get(name, {})
        if any(mark in section for mark in marks):
            break
        name = section.get("source_profile")
    name = name or profile
    return "" if name == "default" else f" --profile {show(shlex.quote(name))}"


def _refuse_secrets_in_endpoints(flag: str | None, session: Any) -> None:
    """BadUsage where an endpoint's address has more in it than an address, wherever it is set."""
    found = {"--endpoint-url": flag}
    found |= {name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")}
    profile = session.get_scoped_config()
    found["endpoint_url of the AWS profile"] = profile.get("endpoint_url")
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    for service, settings in services.items():
        if isinstance(settings, dict):
            found[f"endpoint_url of {show(service)} in the AWS configuration"] = settings.get("endpoint_url")
    for where, url in found.items():
        if url and "@" in url:
            raise BadUsage(
                f"{where} has a user name or a password in it, which would be written down with every record of this endpoint:"
                " give the address alone, and the credentials by AWS_PROFILE, AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or `aws configure`"
            )
        if url and ("?" in url or "#" in url):
            raise BadUsage(f"{where} has a query or a fragment (`?` or `#`) in it: give the address alone")


class _Aimed(Exception):
    """(url, region, signature): what a request that is not sent would have been."""


class Restorer:
    """May ask for temporary copies of what is archived; that costs money and changes nothing else.

    One for the whole process: S3 takes 1,000 such requests a second from an account.
    """

    def __init__(self, s3: S3, *, a_second: float = RESTORES_A_SECOND) -> None:
        self.s3 = s3
        self.allowance = Allowance(a_second)
        self._no_haste_until = 0.0

    def restore(
        self,
        version: ObjectVersion,
        *,
        days: int,
        tier: str,
        stop: Event | None = None,
        upgrade: bool = False,
    ) -> Answer:
        """Asks for a temporary copy, or for one at hand to stay longer. Each request is sent once; one that S3 was too busy
        to take is sent again, more slowly.

        Where the tier is not to be had, now or for this class, Standard is asked for; not with `upgrade`, which is for what
        is on its way already. Throttled: it was not taken. Unreachable: nobody knows whether it was.
        """
        stop = stop or Event()
        if tier == "Expedited" and not upgrade and time.monotonic() < self._no_haste_until:
            tier = "Standard"
        tier = tier_for(version.storage_class, tier)
        kept = days if version.storage_class != "INTELLIGENT_TIERING" else None
        for attempt in range(RESTORE_ATTEMPTS):
            began = self.allowance.take(stop)
            try:
                status = self._ask(version, kept, tier)
            except ClientError as error:
                code = _code(error)
                if code == "RestoreAlreadyInProgress":
                    return Answer("under way", tier, kept)
                if code in ("ObjectAlreadyInActiveTierError", "InvalidObjectState"):
                    return Answer("active", tier, kept)
                no_capacity = code == "GlacierExpeditedRetrievalNotAvailable"
                # An INTELLIGENT_TIERING object in the deeper tier has no Expedited, and the listing does not show it.
                if tier == "Expedited" and not upgrade and (no_capacity or (kept is None and _status(error) == 400)):
                    if no_capacity:
                        self._no_haste_until = time.monotonic() + NO_HASTE
                    tier = "Standard"
                    continue
                failure = _explained(error, f"the restore of {version.key}", version)
                if no_capacity or not isinstance(failure, Throttled) or attempt == RESTORE_ATTEMPTS - 1:
                    raise failure from error
                self.allowance.slow_down(began)
                if stop.is_set():
                    raise failure from error
            except _BROKEN as error:
                raise _explained(error, f"the restore of {version.key}") from error
            else:
                self.allowance.went_well()
                if status not in (200, 202):
                    raise Unreachable(f"no proper answer for the restore of {show(version.key)}; run the same again")
                return Answer("started" if status == 202 else "back", tier, kept)
        raise AssertionError

    def _ask(self, version: ObjectVersion, days: int | None, tier: str) -> int:
        request: Any = {"GlacierJobParameters": {"Tier": tier}}
        if days is not None:
            request["Days"] = days
        client = self.s3._client(self.s3.region_of(version.bucket), attempts=1)
        answer = client.restore_object(**_named(version), RestoreRequest=request, **self.s3._owner())
        _check_version_id(version, answer)
        return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def fits_delete_objects(key: str) -> bool:
    """Whether DeleteObjects can name this key; any other one is deleted by a DELETE of its own."""
    return not _NOT_IN_XML.search(key)


class Deleter:
    """The only hand that deletes, and it takes Proofs."""

    def __init__(self, s3: S3) -> None:
        self.s3 = s3
        self._honest: set[str] = set()
        self._refuses: set[str] = set()  # buckets in which a DELETE with a wrong ETag was refused
        # (bucket, whether by DeleteObjects): where exactly the version that was named was seen to go
        self._exact: set[tuple[str, bool]] = set()

    def honours_if_match(self, bucket: str) -> bool:
        """Does this endpoint look at If-Match on a DELETE? Asked with a key that cannot exist and an ETag that cannot match.

        S3 answers 404 (or 412); a server that ignores the header answers 204, and then an ETag protects nothing.
        Of one that says 404 of whatever is not there (Google Cloud Storage does) the answer tells nothing: that is asked
        first, by the id `null`, so that no delete marker comes of it where versioning is suspended.
        """
        client = self._deleting(bucket)
        named: Any = {"Bucket": bucket, "Key": f".migrate-v2-canary-{uuid.uuid4()}", **self.s3._owner()}
        try:
            said = client.delete_object(**named, VersionId="null")
            if said["ResponseMetadata"]["HTTPStatusCode"] != 204:
                raise Unreachable(f"no proper answer to a DELETE in {bucket}; run the same again")
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == 404:
                return False
            if status not in (
                400,
                405,
                501,
            ):  # one that knows no versions; what it makes of If-Match is another question
                raise _explained(error, f"bucket {bucket}") from error
        except _BROKEN as error:
            raise _explained(error, f"bucket {bucket}") from error
        try:
            client.delete_object(**named, IfMatch=f'"{"0" * 32}"')
        except ClientError as error:
            return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (404, 412)
        except _BROKEN as error:
            raise _explained(error, f"bucket {bucket}") from error
        return False

    def must_honour_if_match(self, bucket: str) -> None:
        """Refused unless the endpoint was shown to honour If-Match on DELETE; asked once."""
        if bucket in self._honest:
            return
        if not self.honours_if_match(bucket):
            raise Refused(
                f"{self.s3.endpoint_of(bucket)} ignores If-Match on DELETE: an object overwritten at the last moment would"
                f" be lost, so nothing in {bucket} is deleted; delete by other means, or turn versioning on and wait 15 minutes"
            )
        self._honest.add(bucket)

    def untried(self, bucket: str) -> list[bool]:
        """The operations (whether DeleteObjects) that were not yet seen to delete exactly one version by its id here."""
        return [by for by in (True, False) if not self.s3.at_aws and (bucket, by) not in self._exact]

    def deletes_exactly(self, bucket: str, *, by_delete_objects: bool) -> None:
        self._exact.add((bucket, by_delete_objects))

    def delete_with_wrong_etag(self, proof: Proof) -> Outcome:
        """Send a DELETE of an object under an ETag that is not its own; 412 is the only right answer.

        Some servers honour If-Match for missing keys only, and delete here. So the object has to be one that is proved, and
        the caller records before that it may be gone.
        """
        if not proof.conditional:
            raise ValueError("only what is deleted by If-Match is tried so")
        bucket = proof.site.bucket
        wrong = next(etag for etag in ("0" * 32, "1" * 32) if etag != proof.etag)
        named: Any = {"Bucket": bucket, "Key": proof.key, **self.s3._owner()}
        try:
            answer = self._deleting(bucket).delete_object(**named, IfMatch=f'"{wrong}"')
        except ClientError as error:
            status = _status(error)
            if status == 412:
                self._refuses.add(bucket)
                return Outcome(False, WRONG_ETAG_REFUSED)
            return Outcome(False, f"S3 answered {show(_said(error))}", unknown=status >= 500 or status == 404)
        except _BROKEN as error:
            return Outcome(False, f"no answer: {show(str(error))}", unknown=True)
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        return Outcome(False, f"S3 answered a wrong ETag with HTTP {status}", unknown=True)

    def delete(self, proofs: Sequence[Proof]) -> list[Outcome]:
        """Deletes what these proofs name, at most 1,000 of one bucket, and says what came of each, in their order.

        The only way to a DELETE of an object in this program. By VersionId (S3 never reuses one), or, where a version has
        the id `null`, by If-Match with the ETag that was verified, on an endpoint that was shown to honour it. Requests
        are never repeated here: what a lost reply means is for the caller to find out.
        """
        if not proofs:
            return []
        site = proofs[0].site
        if any(proof.site != site for proof in proofs) or len(proofs) > 1000:
            raise ValueError("the proofs of one call are of one bucket, at most 1,000")
        if any(proof.expires < uptime() for proof in proofs):
            raise Refused(
                f"proofs of {show(site.bucket)} have expired, so nothing is deleted by them; run the same again"
            )
        if site.endpoint != self.s3.endpoint_of(site.bucket) or site.account != self.s3.identity().account:
            raise Refused(f"{show(site.bucket)} was proved at another endpoint or account; nothing is deleted here")
        outcomes: dict[int, Outcome] = {}
        exact = []
        stopped = False
        for index, proof in enumerate(proofs):
            if not proof.conditional and fits_delete_objects(proof.key):
                exact.append(index)
            elif stopped:
                outcomes[index] = Outcome(False, "not sent", unknown=True)
            else:
                outcomes[index] = self._delete_one(proof)
                stopped = outcomes[index].wrong_version
        if stopped:
            outcomes.update((index, Outcome(False, "not sent", unknown=True)) for index in exact)
        elif exact:
            outcomes.update(zip(exact, self._delete_versions([proofs[index] for index in exact]), strict=True))
        return [outcomes[index] for index in range(len(proofs))]

    def _delete_one(self, proof: Proof) -> Outcome:
        bucket = proof.site.bucket
        pin: Any = {"VersionId": proof.version_id}
        if proof.conditional:
            self.must_honour_if_match(bucket)
            if not self.s3.at_aws and bucket not in self._refuses:
                raise Refused(
                    f"{self.s3.endpoint_of(bucket)} was not seen to refuse a wrong ETag, so nothing in {bucket} is deleted"
                )
            pin = {"IfMatch": f'"{proof.etag}"'}
        try:
            answer = self._deleting(bucket).delete_object(Bucket=bucket, Key=proof.key, **pin, **self.s3._owner())
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status == 412:
                return Outcome(False, CHANGED)
            if status == 404:
                return Outcome(False, "not there", unknown=True)
            return Outcome(False, f"S3 answered {show(_said(error))}", unknown=status >= 500 or status == 409)
        except _BROKEN as error:
            return Outcome(False, f"no answer: {show(str(error))}", unknown=True)
        if answer["ResponseMetadata"]["HTTPStatusCode"] != 204:  # a login page says 200
            return Outcome(False, "not S3's answer", unknown=True)
        if not _names_deleted(proof, answer):
            return _other_deleted()
        return Outcome(True, "deleted")

    def _delete_versions(self, proofs: Sequence[Proof]) -> list[Outcome]:
        bucket = proofs[0].site.bucket
        try:
            answer: Mapping[str, Any] = self._deleting(bucket).delete_objects(
                Bucket=bucket,
                Delete={"Objects": [{"Key": p.key, "VersionId": p.version_id} for p in proofs], "Quiet": False},
                **self.s3._owner(),
            )
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return [Outcome(False, f"S3 answered {show(_said(error))}", unknown=status >= 500)] * len(proofs)
        except _BROKEN as error:
            return [Outcome(False, f"no answer: {show(str(error))}", unknown=True)] * len(proofs)
        deleted = {(entry.get("Key"), entry.get("VersionId")): entry for entry in answer.get("Deleted", [])}
        # DeleteObjects answers 200 whatever happened; what each key came to stands in its body.
        errors = {(e.get("Key"), e.get("VersionId") or "null"): e for e in answer.get("Errors", [])}
        outcomes = []
        for proof in proofs:
            name = (proof.key, proof.version_id)
            if name in errors:
                entry = errors[name]
                gone = entry.get("Code") in ("NoSuchVersion", "NoSuchKey")
                text = "not there" if gone else "S3 answered " + show(f"{entry.get('Code')}: {entry.get('Message')}")
                outcomes.append(
                    Outcome(False, text, unknown=gone or entry.get("Code") in ("InternalError", "SlowDown"))
                )
            elif name in deleted:
                exact = _names_deleted(proof, deleted[name])
                outcomes.append(Outcome(True, "deleted") if exact else _other_deleted())
            else:
                outcomes.append(Outcome(False, "the answer does not confirm it", unknown=True))
        return outcomes

    def abort_upload(self, bucket: str, upload: Doomed) -> Outcome:
        """Throws away the parts of an upload that was never completed. It is no version of anything, and nothing reads it."""
        try:
            answer = self._deleting(bucket).abort_multipart_upload(
                Bucket=bucket, Key=upload.key, UploadId=upload.version_id, **self.s3._owner()
            )
        except ClientError as error:
            gone = _code(error) == "NoSuchUpload"
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            text = "not there" if gone else f"S3 answered {show(_said(error))}"
            return Outcome(False, text, unknown=gone or status >= 500)
        except _BROKEN as error:
            return Outcome(False, f"no answer: {show(str(error))}", unknown=True)
        if answer["ResponseMetadata"]["HTTPStatusCode"] != 204:
            return Outcome(False, "not S3's answer", unknown=True)
        return Outcome(True, "aborted")

    def remove_bucket(self, bucket: str) -> None:
        """S3 itself refuses unless nothing at all is left in the bucket."""
        with _explaining(f"the removal of bucket {bucket}"):
            self._deleting(bucket).delete_bucket(Bucket=bucket, **self.s3._owner())

    def _deleting(self, bucket: str) -> S3Client:
        """A client that sends each request once: every attempt at a delete is one that the ledger knows of."""
        return self.s3._client(self.s3.region_of(bucket), attempts=1)


class PolicySetter:
    """The only hand that changes a setting of a bucket: who may do what in it."""

    def __init__(self, s3: S3) -> None:
        self.s3 = s3

    def set_policy(self, bucket: str, text: str | None) -> None:
        """Exactly this policy, or none. S3's own guard against locking oneself out is never turned off."""
        with _explaining(f"the policy of bucket {bucket}"):
            client = self.s3._for(bucket)
            if text is None:
                client.delete_bucket_policy(Bucket=bucket, **self.s3._owner())
            else:
                client.put_bucket_policy(Bucket=bucket, Policy=text, **self.s3._owner())

    def set_public_access_block(self, bucket: str, names: tuple[str, ...] | None) -> None:
        """These of the four on and the others off, or no such setting."""
        with _explaining(f"block public access of bucket {bucket}"):
            client = self.s3._for(bucket)
            if names is None:
                client.delete_public_access_block(Bucket=bucket, **self.s3._owner())
            else:
                on: Any = {name: name in names for name in PUBLIC_ACCESS_BLOCK}
                client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=on, **self.s3._owner())


def _is_aws(endpoint: str) -> bool:
    host = endpoint.split("//", 1)[-1].split("/", 1)[0].split(":", 1)[0]
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))


def _limits(connections: int, attempts: int) -> dict[str, Any]:
    return {
        "max_pool_connections": connections,
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "total_max_attempts": attempts},
        "user_agent_extra": "migrate-v2",
    }


def _named(version: ObjectVersion) -> dict[str, Any]:
    """How a request names a version. The id `null` is left out: where versioning is off or suspended some servers refuse
    it, and it would pin nothing."""
    named = {"Bucket": version.bucket, "Key": version.key}
    if version.version_id != "null" or not version.is_latest:
        named["VersionId"] = version.version_id
    return named


def pins(version: ObjectVersion) -> tuple[str, str]:
    """(version id, ETag): what a GET names this version by, "" where it asks for the current object by If-Match as get()
    does; and the ETag that every answer has to carry."""
    return _named(version).get("VersionId", ""), version.etag


def _check_identity(version: ObjectVersion, answer: Mapping[str, Any]) -> None:
    """Raise unless an answer to GET or HEAD is about exactly this version. Servers and caches exist that ignore `versionId`
    (nginx with `proxy_cache_key $uri`).

    the request named | the answer has                              | raises
    ------------------|---------------------------------------------|---------------------------------------------------
    any               | the listed ETag, the id asked for or none   |
    any               | another version id                          | WrongVersion; Moved where the request named no id
    a real id         | another ETag                                | WrongVersion: a version never changes
    `null`, or no id  | another ETag                                | Moved: a PUT may have taken the id over
    a real id         | no id, and the listing had no ETag          | WrongVersion: nothing says that it is this version
    """
    found, answered = bare_etag(answer["ETag"]), answer.get("VersionId")
    _check_version_id(version, answer)
    if version.version_id == "null":
        if found != version.etag:
            raise Moved(show(version.key))
    elif found != version.etag if version.etag else not answered:
        raise _wrong_version(version, answered, found)


def _check_version_id(version: ObjectVersion, answer: Mapping[str, Any]) -> None:
    """Raise as _check_identity does where an answer names another version id. For answers without the object's ETag."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    named = _named(version).get("VersionId", "")
    for header in ("x-amz-version-id", "x-amz-object-version-id"):
        if not names_version(named, headers.get(header)):
            raise _wrong_version(version, headers[header], "") if named else Moved(show(version.key))


def _wrong_version(version: ObjectVersion, answered: str | None, etag: str) -> WrongVersion:
    expected, instead = f"version {version.version_id}", f"version {answered}"
    if not answered or answered == version.version_id:
        expected, instead = f"ETag {version.etag}", f"ETag {etag}" if etag else "another object"
    return WrongVersion(
        f"unexpected response for {show(version.key)}: {show(instead)} instead of {show(expected)}; the server, or a"
        " proxy or cache in front of it, ignores the version id. Use an endpoint that does not, and run the same"
        " command again"
    )


def _check_size(version: ObjectVersion, size: int) -> None:
    """Raise where S3 says of exactly this version that it has another size than the listing says (damaged index, Ceph)."""
    if size != version.size:
        raise SizeDiffers(
            f"S3 lists {show(version.key)} with {version.size:,} bytes and answers for the same ETag with {size:,}: the"
            " server's index is damaged. Repair it, then run `scan --rescan` and `migrate` for this bucket"
        )


def _marker_headers(error: ClientError) -> tuple[str, bool]:
    """(x-amz-version-id, whether x-amz-delete-marker is true) of an answer that is an error."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers.get("x-amz-version-id", ""), headers.get("x-amz-delete-marker", "") == "true"


def _other_deleted() -> Outcome:
    text = (
        "the answer names another version: the server ignored the version id, and may have put a delete marker on top"
    )
    return Outcome(False, text, unknown=True, wrong_version=True)


def _names_deleted(proof: Proof, answer: Mapping[str, Any]) -> bool:
    """Whether an answer to a DELETE is about what the proof names: a server that ignores the version id puts a delete
    marker on top in its place, and says so.

    the delete named  | version id, id of the marker | a delete marker
    ------------------|------------------------------|------------------------------------
    a version by id   | that id, or none             | no
    a marker by id    | that id, or none             | yes or no
    an ETag           | `null`, or none              | yes (`null`, suspended) or no
    """
    named = "" if proof.conditional else proof.version_id
    if any(not names_version(named, answer.get(field)) for field in ("VersionId", "DeleteMarkerVersionId")):
        return False
    return proof.conditional or proof.kind == "marker" or not answer.get("DeleteMarker")


def _bytes_before(answer: Mapping[str, Any], version: ObjectVersion, start: int) -> int:
    """How many bytes of this answer to a GET come before those asked for; raises unless the others are exactly those.

    A server or proxy may ignore Range and answer 200 with the whole (RFC 9110, 14.2).
    """
    if "ETag" not in answer:
        raise Unreachable(f"no proper answer for {show(version.key)}: S3's own headers are not in it")
    _check_identity(version, answer)
    length = answer.get("ContentLength")
    if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
        if length is not None:
            _check_size(version, length)
        return start
    found = content_range(answer.get("ContentRange"))
    if not start or found != (start, version.size - 1, version.size):
        said = show(answer.get("ContentRange", ""))
        raise Unreachable(
            f"no proper answer for {show(version.key)}: asked for the bytes from {start:,} on, S3 sends {said}"
        )
    if length is not None and length != version.size - start:
        raise Unreachable(
            f"no proper answer for {show(version.key)}: {length:,} bytes announced, not {version.size - start:,}"
        )
    return 0


class _Drawer:
    """A thread that lends itself, over and over: to begin one costs as much as half a request."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        Thread(target=self._run, daemon=True, name="drawer").start()

    def _run(self) -> None:
        while True:
            self._work.get()()
            _IDLE.append(self)

    def do(self, work: Callable[[], None]) -> None:
        self._work.put(work)


_IDLE: list[_Drawer] = []


def _in_background(blocks: Generator[bytes, None, None], stop: Event) -> Generator[bytes, None, None]:
    """The same, drawn by a thread that nobody has to wait for: no timeout of a socket is as short as a person's patience.

    A block is handed over together with how it went on: what is small goes from thread to thread once.
    """
    ready: Queue[tuple[bytes, BaseException | None, bool]] = Queue(2)
    left = Event()

    def put(block: bytes, error: BaseException | None, over: bool) -> None:
        while not left.is_set():
            try:
                ready.put((block, error, over), timeout=0.2)
                return
            except Full:
                continue

    def draw() -> None:
        last = b""
        try:
            for block in blocks:
                if last:
                    put(last, None, False)
                last = block
                if left.is_set():
                    break
            put(last, None, True)
        except BaseException as error:  # noqa: BLE001 - raised where the blocks are waited for
            put(last, error, True)
        finally:
            blocks.close()

    try:
        drawer = _IDLE.pop()
    except IndexError:
        drawer = _Drawer()
    drawer.do(draw)
    try:
        over = False
        while not over:
            try:
                block, error, over = ready.get(timeout=0.2)
            except Empty:
                block, error = b"", None
            if stop.is_set():
                raise Unreachable("interrupted")
            if block:
                yield block
            if error is not None:
                raise error
    finally:
        left.set()


def _version(bucket: str, entry: Mapping[str, Any]) -> ObjectVersion:
    restore = entry.get("RestoreStatus") or {}
    return ObjectVersion(
        bucket=bucket,
        key=entry["Key"],
        version_id=entry.get("VersionId") or "null",
        size=entry["Size"],
        etag=entry.get("ETag", "").strip('"'),
        storage_class=entry.get("StorageClass") or "STANDARD",
        last_modified=_utc(entry["LastModified"]),
        is_latest=bool(entry.get("IsLatest", True)),
        checksum_algorithm=",".join(entry.get("ChecksumAlgorithm", ())),
        checksum_type=entry.get("ChecksumType", ""),
        restore_ongoing=restore.get("IsRestoreInProgress"),
        restore_expiry=restore.get("RestoreExpiryDate"),
    )


def _date(answer: Mapping[str, Any]) -> datetime | None:
    """The Date header of an answer; None where it has none that can be read."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def tag_values(answer: object) -> object:
    """Tags by name, of an answer of S3.tags(); what is not the tags (denied, refused) stays as it is."""
    if isinstance(answer, dict) and isinstance(entries := answer.get("TagSet"), list):
        return {entry["Key"]: entry["Value"] for entry in entries}
    return answer


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _head(answer: Mapping[str, Any]) -> Head:
    ongoing, expiry = _restore_header(answer.get("Restore", ""))
    encryption = answer.get("ServerSideEncryption", "")
    if answer.get("SSECustomerAlgorithm"):
        encryption = "SSE-C"
    return Head(
        etag=bare_etag(answer.get("ETag", "")),
        size=answer["ContentLength"],
        last_modified=answer["LastModified"].astimezone(UTC),
        version_id=answer.get("VersionId") or "null",
        storage_class=answer.get("StorageClass") or "STANDARD",
        checksums={
            match[1]: value
            for name, value in answer.items()
            if (match := _CHECKSUM_FIELD.fullmatch(name)) and isinstance(value, str)
        },
        checksum_type=answer.get("ChecksumType", ""),
        encryption=encryption,
        restore_ongoing=ongoing,
        restore_expiry=expiry,
        archive_status=answer.get("ArchiveStatus", ""),
    )


def _restore_header(text: str) -> tuple[bool | None, datetime | None]:
    """`ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`."""
    if not text:
        return None, None
    expiry = None
    if match := re.search(r'expiry-date="([^"]+)"', text):
        try:
            expiry = parsedate_to_datetime(match[1]).astimezone(UTC)
        except ValueError:
            expiry = None
    return 'ongoing-request="true"' in text, expiry


def just_before(key: str) -> str:
    """A key marker after which a listing begins with this key, or with little before it; "" is the very beginning."""
    head, last = key[:-1], ord(key[-1]) - 1
    if last < 0:
        return head
    marker = head + chr(0xD7FF if 0xD800 <= last <= 0xDFFF else last)
    longer = marker + "\U0010ffff"
    return longer if len(longer.encode("utf-8", "surrogatepass")) <= 1024 else marker


def _no_more_than_a_list(params: Any, **_: object) -> None:
    """botocore reads the answer to a list into memory, and a server that does not know this list sends the object."""
    params["headers"]["Range"] = f"bytes=0-{_LIST_LIMIT - 1}"


_PAGE = re.compile(rb"(?:<\?xml[^>]*>)?\s*(?:<!doctype html|<html)", re.IGNORECASE)


# The root element of each answer that is XML (API reference of S3), "" where the answer is no XML. botocore ignores it.
_ROOTS = {
    "DeleteObjects": "DeleteResult",
    "GetBucketAccelerateConfiguration": "AccelerateConfiguration",
    "GetBucketAcl": "AccessControlPolicy",
    "GetBucketCors": "CORSConfiguration",
    "GetBucketEncryption": "ServerSideEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "GetBucketLocation": "LocationConstraint",
    "GetBucketLogging": "BucketLoggingStatus",
    "GetBucketNotificationConfiguration": "NotificationConfiguration",
    "GetBucketOwnershipControls": "OwnershipControls",
    "GetBucketPolicy": "",
    "GetBucketReplication": "ReplicationConfiguration",
    "GetBucketRequestPayment": "RequestPaymentConfiguration",
    "GetBucketTagging": "Tagging",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetBucketWebsite": "WebsiteConfiguration",
    "GetObjectAcl": "AccessControlPolicy",
    "GetObjectLegalHold": "LegalHold",
    "GetObjectLockConfiguration": "ObjectLockConfiguration",
    "GetObjectRetention": "Retention",
    "GetObjectTagging": "Tagging",
    "GetPublicAccessBlock": "PublicAccessBlockConfiguration",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
}
_ALL_ROOTS = frozenset(_ROOTS.values())
_ROOT = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>)?(?:\s|<!--.*?-->)*<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)", re.DOTALL
)


def _check_document(operation_model: Any, response_dict: Any, **_: object) -> None:
    """Raise unless a success is a document of the operation that was sent. botocore ignores the root element, and reads
    another document as an answer in which nothing is: a bucket without objects, versioning, Object Lock.

    An HTML page is a proxy's or a captive portal's. botocore itself handles what is no XML, and an `Error` with status 200.
    """
    body = response_dict["body"]
    if response_dict["status_code"] >= 300 or not isinstance(body, bytes):
        return
    if _PAGE.match(body):
        raise ResponseParserError("an HTML page, which is not S3's answer")
    if match := _ROOT.match(body):
        root, operation = match[1].decode("latin-1"), operation_model.name
        if root != "Error" and not _is_root_of(root, operation):
            raise OtherAnswer(operation, root)


def _is_root_of(root: str, operation: str) -> bool:
    """Whether an answer to this operation may have this root element. moto names some of them after the operation."""
    named_after = root.removesuffix("Response").removesuffix("Result").removesuffix("Output")
    if named_after in (operation, operation.removesuffix("Configuration")):
        return True
    return root == _ROOTS[operation] if operation in _ROOTS else root not in _ALL_ROOTS


# Of the elements of a listing, those that have a plain text; how the others are read stands in _entry().
_TEXTS = frozenset(("Key", "VersionId", "ETag", "StorageClass", "ChecksumType"))


def _read_list(operation_model: Any, response_dict: Any, customized_response_dict: Any, **_: object) -> None:
    """Takes the entries out of a listing before botocore reads the rest: it needs 55 us for each, and this 8.

    The result is what botocore would have made of them. What is no listing is left as it is.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])  # noqa: S314 - expat of 2.4.1 or later bounds entities
    except ElementTree.ParseError:
        return
    space, brace, name = root.tag.rpartition("}")
    if name not in ("ListVersionsResult", "ListBucketResult"):
        return
    space += brace
    fields = {"Version": "Versions", "DeleteMarker": "DeleteMarkers", "Contents": "Contents"}
    of_versions = name == "ListVersionsResult"
    if any(root.find(space + tag) is not None for tag in fields if (tag == "Contents") is of_versions):
        raise OtherAnswer(operation_model.name, f"{name} with the entries of another one")
    lists = {space + tag: customized_response_dict.setdefault(field, []) for tag, field in fields.items()}
    rest = []
    names: dict[str, str] = {}
    try:
        for element in root:
            found = lists.get(element.tag)
            if found is None:
                rest.append(element)
            else:
                found.append(_entry(element, names))
    except (ValueError, TypeError, KeyError):  # nothing that S3 writes: botocore says what
        customized_response_dict.clear()
        return
    for name in fields.values():
        if not customized_response_dict[name]:
            del customized_response_dict[name]
    root[:] = rest
    response_dict["body"] = ElementTree.tostring(root)


def _entry(element: ElementTree.Element, names: dict[str, str]) -> dict[str, Any]:
    """One entry of a listing; `names` remembers the tags without their namespace."""
    entry: dict[str, Any] = {}
    for child in element:
        tag = child.tag
        name = names.get(tag) or names.setdefault(tag, tag.rpartition("}")[2])
        if name in _TEXTS:
            entry[name] = child.text or ""
        elif name == "LastModified":
            entry[name] = _moment(child.text or "") or _NO_TIME
        elif name == "Size":
            entry[name] = int(child.text or "")
        elif name == "IsLatest":
            entry[name] = child.text == "true"
        elif name == "ChecksumAlgorithm":
            entry.setdefault(name, []).append(child.text or "")
        elif name == "RestoreStatus":
            status = {part.tag.rpartition("}")[2]: part.text or "" for part in child}
            entry[name] = {}
            if "IsRestoreInProgress" in status:
                entry[name]["IsRestoreInProgress"] = status["IsRestoreInProgress"] == "true"
            if "RestoreExpiryDate" in status:
                entry[name]["RestoreExpiryDate"] = _moment(status["RestoreExpiryDate"])
    return entry


# In place of a LastModified that cannot be read: a server that does not know it, or a year that Python has not.
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(text: str) -> datetime | None:
    """The time, in UTC; None where it is none. botocore asks dateutil, which needs 40 us (Python 3.11 reads ISO 8601 in
    0.1)."""
    with suppress(ValueError, OverflowError):
        if len(text) > 19 and text[10] == "T" and text[-1] == "Z":
            return datetime.fromisoformat(text)
        moment: datetime = parse_timestamp(text)
        return moment.astimezone(UTC)
    return None


def _not_a_fault(response_dict: Any, **_: object) -> None:
    """botocore takes a 200 that is not XML for a 500 and asks again; here it may be that object, whole."""
    if response_dict["status_code"] == 200 and b"Annotation" not in response_dict["body"]:
        response_dict["status_code"] = 206


def _at_this_host(request: Any, **_: object) -> None:
    """s3control puts the account before the host, whatever it is told of prefixes, and only AWS has names for that."""
    request.url = re.sub(r"^(\w+://)[0-9]{12}\.", r"\1", request.url)


# -- answers as documents


def _plain(value: Any) -> Any:
    """As JSON can write it; what is None, and botocore's own account of the request, left out."""
    match value:
        case dict():
            return {key: _plain(v) for key, v in value.items() if v is not None and key != "ResponseMetadata"}
        case list():
            return [_plain(entry) for entry in value]
        case datetime():
            return value.astimezone(UTC).isoformat()
        case bytes():
            return {"base64": base64.b64encode(value).decode("ascii")}
    return value


def _part(
    ask: Callable[[], Mapping[str, Any]],
    what: str,
    proper: str,
    of: ObjectVersion | None = None,
    *,
    breaks: bool = False,
) -> dict[str, Any] | None:
    """The answer; None where S3 says that there is none, by a 404 of its own or by an answer with nothing in it; else why not.

    `proper` is a field that every answer of S3's has: without it a 200 is somebody else's. `breaks`: to a question that
    it does not know this endpoint may answer 500, or something else, every time, as rclone does.
    """
    try:
        said = ask()
        answer: dict[str, Any] = _plain(dict(said))
    except ClientError as error:
        code = _code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in NOT_IMPLEMENTED or status == 501:
            return {"not_implemented": True}
        if of is not None and proper and status == 404 and code in ("", "404"):
            # A proxy's, which says nothing of the object.
            if breaks:
                return {"refused": "HTTP 404 that is not S3's"}
            raise Unreachable(f"unexpected response for {show(what)}: HTTP 404 that is not S3's") from error
        if status == 404 and code not in ("NoSuchBucket", "NoSuchKey", "NoSuchVersion"):
            return None
        failure = _explained(error, what, of)
        if isinstance(failure, Denied):
            return {"denied": _said(error)}
        if isinstance(failure, (Refusal, Archived)) or (breaks and status == 500):
            return {"refused": _said(error)}
        raise failure from error
    except OtherAnswer as error:
        if breaks:
            return {"refused": "the endpoint answers another question"}
        raise _explained(error, what, of) from error
    except (*_BROKEN, OSError) as error:
        raise _explained(error, what, of) from error
    if proper and proper not in answer:
        page = "html" in said.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-type", "")
        if breaks and not page:
            return {"refused": "the endpoint answers another question"}
        raise Unreachable(f"no proper answer for {show(what)}: it is not S3's; run the same again")
    return answer or None


# -- a listing that can be believed


def _insane(bucket: str, what: str) -> Failure:
    return Failure(
        f"the listing of bucket {show(bucket)} cannot be believed: {what}; nothing was concluded from it."
        " Look for a proxy or a login page between here and S3"
    )


def _sane_page(
    bucket: str,
    answer: Mapping[str, Any],
    versions: list[ObjectVersion],
    markers: list[DeleteMarker],
    start: tuple[str, str] | None,
    following: tuple[str, str] | None,
    tail: set[tuple[str, str]],
) -> set[tuple[str, str]]:
    """Raises unless the page is one that S3 can have sent. Returns the identities under the page's last key.

    `tail` holds those of the page before. MiniStack and others begin a page with the very entry that the marker names;
    such repeats at the seam are dropped from the lists, any other repeat is refused.
    """
    if answer.get("Name") != bucket:
        raise _insane(bucket, f"it calls itself {show(str(answer.get('Name')))!s}")
    if "IsTruncated" not in answer:
        raise _insane(bucket, "it does not say whether more follows")
    # Without a prefix or delimiter in the request, an answer with one leaves keys out.
    if answer.get("Prefix") or answer.get("Delimiter") or answer.get("CommonPrefixes"):
        raise _insane(bucket, "it shows a part of the bucket only (by a prefix or a delimiter)")
    versions[:] = [v for v in versions if (v.key, v.version_id) not in tail]
    markers[:] = [m for m in markers if (m.key, m.version_id) not in tail]
    seen: set[tuple[str, str]] = set()
    floor = start[0].encode("utf-8", "surrogatepass") if start else b""
    last_key = start[0] if start else ""
    lists: tuple[Sequence[ObjectVersion | DeleteMarker], ...] = (versions, markers)
    for entries in lists:
        before = floor
        for entry in entries:
            key = entry.key.encode("utf-8", "surrogatepass")
            if key < before:
                raise _insane(bucket, f"key {show(entry.key)} comes out of order")
            if (entry.key, entry.version_id) in seen:
                raise _insane(bucket, f"version {show(entry.version_id)} of {show(entry.key)} comes twice")
            seen.add((entry.key, entry.version_id))
            before = key
        if entries and before >= last_key.encode("utf-8", "surrogatepass"):
            last_key = entries[-1].key
    if following is not None:
        if following == start:
            raise _insane(bucket, "a page says that more follows and does not move on")
        if not following[0] or following[0].encode("utf-8", "surrogatepass") < last_key.encode(
            "utf-8", "surrogatepass"
        ):
            raise _insane(bucket, "a page says that more follows and does not say where")
        last_key = following[0]
    return {name for name in seen if name[0] == last_key}


@contextmanager
def _asking_in_vain(what: str) -> Iterator[None]:
    """For what compatible servers answer in many ways, and a missing permission is no reason to stop."""
    with suppress(Denied, Gone, Refusal), _explaining(what):
        yield


# -- errors, in one line each

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired")
_BAD_CREDENTIALS = (
    *_EXPIRED,
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "AuthFailure",
    "UnrecognizedClientException",
)
_THROTTLED = ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "ServiceUnavailable", "503")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    code = str(error.response.get("Error", {}).get("Code", ""))
    # An answer to STS in the form that S3 has for errors is what an endpoint for both gives.
    return str(error.response.get("Code", code)) if code == "Unknown" else code


def _said(error: ClientError) -> str:
    said = error.response.get("Error", {})
    return f"{said.get('Code', '?')}: {said.get('Message', '')}"


def _explained(error: Exception, what: str, of: ObjectVersion | None = None) -> Failure:
    """The Failure that says what went wrong with `what`, and what to do about it."""
    if isinstance(error, ClientError):
        code = _code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _BAD_CREDENTIALS:
            return Failure(
                f"S3 refuses these credentials ({code}): renew them, e.g. `aws sso login`, and run the same again"
            )
        if of is not None:
            if code == "NoSuchBucket":  # no word on the object
                return Unreachable(
                    f"bucket {show(of.bucket)} is not there (NoSuchBucket); is the endpoint the right one?"
                )
            if failure := _absent(error, of):
                return failure
            if code == "InvalidObjectState":
                return Archived(show(of.key))
        if code in ("NoSuchBucket", "404") or status == 404:
            return Gone(f"{show(what)}")
        if status == 403:
            return Denied(
                f"access to {show(what)} is denied ({show(_said(error))}): the identity lacks a permission,"
                " or the bucket belongs to an account other than `expected_bucket_owner`"
            )
        if code in _THROTTLED or status == 503:
            return Throttled(f"S3 asks to slow down at {show(what)}; run the same again later")
        if status >= 500 and status != 501:
            return Unreachable(f"S3 failed at {show(what)} ({show(_said(error))}); run the same again later")
        return Refusal(f"S3 refused {show(what)}: {show(_said(error))}")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return Failure(
            "no AWS credentials found; set AWS_PROFILE, name --profile, or run `aws configure` or `aws sso login`"
        )
    if isinstance(error, EndpointConnectionError):
        return Unreachable(
            f"cannot reach {show(str(error.kwargs.get('endpoint_url', 'S3')))}: is the network up, is --endpoint-url right?"
        )
    if isinstance(error, OtherAnswer):
        return Unreachable(
            f"unexpected response for {show(what)}: {show(str(error))}; look for a proxy or cache between here and S3, or use"
            " an endpoint that knows this operation"
        )
    if isinstance(error, FlexibleChecksumError):
        return Corrupted(f"{show(what)} did not come as S3 has it ({show(str(error))}); run the same again")
    return Unreachable(f"no proper answer for {show(what)}: {show(str(error))}; run the same again")


def _is_missing(error: ClientError) -> bool:
    """Whether S3 itself says that there is no such object or version. Where the body is not S3's, botocore gives the status
    or nothing as the code."""
    return _status(error) == 404 and _code(error) not in ("", "404", "NoSuchBucket")


def _absent(error: ClientError, of: ObjectVersion) -> Failure | None:
    """What an error says about the absence of exactly this version; None where it says nothing about that.

    the request named | the error                                  | it means
    ------------------|--------------------------------------------|---------------------------------------------------
    an id             | names another version id; 412              | WrongVersion: no condition was sent
    a real id         | 404 or 405 of a delete marker              | WrongVersion: this id is a data version's
    no id             | 404 of a delete marker with an id, 412     | Moved: the listed version may be beneath
    any               | 404; `null`: 404 or 405 of a marker `null` | Gone
    any               | 404 without S3's error document            | Unreachable
    """
    code, status = _code(error), _status(error)
    answered, of_marker = _marker_headers(error)
    named = _named(of).get("VersionId", "")
    real = named not in ("", "null")
    if status == 412:
        return _wrong_version(of, answered, "") if named else Moved(show(of.key))
    if not _is_missing(error) and not (status in (404, 405) and of_marker):
        if status == 404 and code != "NoSuchBucket":
            return Unreachable(f"unexpected response for {show(of.key)}: HTTP 404 that is not S3's")
        return None
    if named and (not names_version(named, answered) or (real and of_marker)):
        return _wrong_version(of, answered, "")
    if of_marker and not names_version(named, answered):
        return Moved(show(of.key))
    return Gone(show(of.key))


@contextmanager
def _explaining(what: str, absent: Sequence[str] = (), of: ObjectVersion | None = None) -> Iterator[None]:
    """Turns what botocore raises into one line; error codes in `absent` are no errors."""
    try:
        yield
    except ClientError as error:
        if _code(error) not in absent:
            raise _explained(error, what, of) from error
    except (*_BROKEN, OSError) as error:
        raise _explained(error, what, of) from error


explaining = _explaining  # for the edges of other services of AWS
