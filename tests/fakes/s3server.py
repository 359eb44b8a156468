"""An S3 that keeps its word: one process, memory only, loopback only, true where the public emulators are not.

    with S3Server() as s3:
        s3.bucket("b", versioning="Enabled")
        s3.put("b", "dir/key", b"bytes", storage_class="GLACIER")
        client = boto3.client("s3", endpoint_url=s3.url, ...)

or `python -m tests.fakes.s3server --port 9000 --bucket b`, which prints its URL. Path-style addresses; signatures are
read (access key, region) but not verified. Everything is guarded by one lock; observers run inside it, hooks outside.
Only the standard library is needed; awscrt, if there, computes the long CRCs (plain Python does 10 MB/s).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib
import json
import math
import random
import re
import secrets
import select
import signal
import socket
import struct
import threading
import time
import xml.etree.ElementTree as ET
import zlib
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from fnmatch import fnmatchcase
from http import HTTPStatus
from io import BufferedReader
from itertools import accumulate
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, quote_plus, unquote_to_bytes

_crt: Any
try:
    _crt = importlib.import_module("awscrt.checksums")
except ImportError:  # the fake runs without it
    _crt = None

ACCOUNT = "111122223333"
SSE_C_KEY = bytes(range(32))  # what `put(etag="sse-c")` encrypts with unless told otherwise
ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")
CLASSES = (
    *("STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING"),
    *("GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "OUTPOSTS", "SNOW", "EXPRESS_ONEZONE"),
)
ALGORITHMS = ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "SHA512", "MD5")
# The slow end of what AWS promises, by storage class (or archive tier of INTELLIGENT_TIERING) and retrieval tier.
RESTORE_SECONDS = {
    ("GLACIER", "Expedited"): 300,
    ("GLACIER", "Standard"): 5 * 3600,
    ("GLACIER", "Bulk"): 12 * 3600,
    ("DEEP_ARCHIVE", "Standard"): 12 * 3600,
    ("DEEP_ARCHIVE", "Bulk"): 48 * 3600,
}
SPEEDS = ("Bulk", "Standard", "Expedited")
KEPT_HEADERS = ("content-type", "cache-control", "content-disposition", "content-language", "expires")
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
REASONS = {status.value: status.phrase for status in HTTPStatus}


# Reflected polynomials; the check values of "123456789" are E3069283 and AE8B14860A799888 (tested).
def _table(polynomial: int) -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (polynomial if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


CRC32C_TABLE = _table(0x82F63B78)
CRC64NVME_TABLE = _table(0x9A6C9329AC4BC9B5)


def plain_crc(data: bytes, table: Sequence[int], bits: int) -> int:
    ones = (1 << bits) - 1
    crc = ones
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ ones


def digest(algorithm: str, data: bytes) -> bytes:
    """The raw digest by S3's name of the algorithm; CRCs big-endian."""
    if algorithm == "CRC32":
        return zlib.crc32(data).to_bytes(4, "big")
    if algorithm == "CRC32C":
        return (_crt.crc32c(data) if _crt else plain_crc(data, CRC32C_TABLE, 32)).to_bytes(4, "big")
    if algorithm == "CRC64NVME":
        return (_crt.crc64nvme(data) if _crt else plain_crc(data, CRC64NVME_TABLE, 64)).to_bytes(8, "big")
    return hashlib.new(algorithm.lower(), data, usedforsecurity=False).digest()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def md5_hex(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class S3Error(Exception):
    """An answer other than success: status, code, message, further elements and headers."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str = "",
        *,
        headers: Iterable[tuple[str, str]] = (),
        **more: Any,
    ) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code
        self.headers, self.more = list(headers), more


class _Hangup(Exception):
    """The connection ends here; with a reset (RST) rather than FIN if `reset`."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


@dataclass(frozen=True, slots=True)
class Part:
    size: int
    checksums: Mapping[str, str]  # by algorithm, base64


@dataclass(slots=True)
class Version:
    """One version of one object, or a delete marker. Times are seconds since the epoch; ETag without quotes."""

    key: str
    version_id: str = ""
    sequence: int = 0  # order of creation in the server
    last_modified: float = 0.0
    body: bytes = b""
    etag: str = ""
    is_marker: bool = False
    is_latest: bool = True  # true of the copies that S3Server.versions() hands out
    storage_class: str = "STANDARD"
    checksums: dict[str, str] = field(default_factory=dict)  # base64; a COMPOSITE one without its "-N"
    checksum_type: str = ""
    parts: tuple[Part, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, bytes] = field(default_factory=dict)
    encryption: str = "AES256"  # "", "AES256", "aws:kms", "aws:kms:dsse", "SSE-C"
    kms_key_id: str = ""
    customer_key_md5: str = ""
    archive_status: str = ""  # ARCHIVE_ACCESS or DEEP_ARCHIVE_ACCESS, for INTELLIGENT_TIERING
    restore_ready: float | None = None
    restore_expiry: float | None = None
    restore_days: int = 0
    restore_tier: str = ""
    lock_mode: str = ""  # GOVERNANCE or COMPLIANCE
    retain_until: float | None = None
    legal_hold: str = ""  # "", ON, OFF
    event_hold: str = ""  # "", ON, OFF
    replication_status: str = ""

    @property
    def size(self) -> int:
        return len(self.body)


@dataclass(slots=True)
class UploadedPart:
    body: bytes
    etag: str
    checksums: dict[str, str]
    last_modified: float


@dataclass(slots=True)
class Upload:
    """A multipart upload in progress; `model` carries what its object will have besides bytes."""

    upload_id: str
    key: str
    initiated: float
    model: Version
    algorithm: str
    checksum_type: str
    declared: bool  # the client named the algorithm, so COMPOSITE parts must come with their checksums
    parts: dict[int, UploadedPart] = field(default_factory=dict)


@dataclass(slots=True)
class Bucket:
    name: str
    versioning: str = ""  # "", Enabled, Suspended
    owner: str = ACCOUNT
    region: str = "us-east-1"
    object_lock: bool = False
    mfa_delete: bool = False
    created: float = 0.0
    objects: dict[str, list[Version]] = field(default_factory=dict)  # newest first
    keys: list[str] = field(default_factory=list)  # sorted: code point order is UTF-8 order
    issued: dict[tuple[str, str], int] = field(default_factory=dict)  # every (key, version id) ever, its sequence
    uploads: dict[str, Upload] = field(default_factory=dict)
    completed: dict[str, bytes] = field(default_factory=dict)  # answers, since completing twice is no error
    settings: dict[str, bytes] = field(default_factory=dict)  # sub-resource -> document as put


@dataclass(slots=True)
class Request:
    method: str
    target: str  # raw, as received
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes
    principal: str  # access key id, "" if unsigned
    region: str  # of the signature, "" if unsigned
    op: str

    @property
    def version_id(self) -> str:
        return self.query.get("versionId", "")

    def header(self, name: str) -> str:
        return self.headers.get(name, "")


@dataclass(slots=True)
class Response:
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | memoryview = b""
    length: int | None = None  # Content-Length where it is not that of the body (HEAD)


@dataclass(frozen=True, slots=True)
class Delete:
    """Data that is about to go, at the instant before it does."""

    bucket: str
    key: str
    version_id: str
    etag: str
    body: bytes
    principal: str
    op: str


class Logged(NamedTuple):
    """One request as answered; status 0 if no answer was sent."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    status: int
    principal: str

    @property
    def op(self) -> str:
        return op_of(self.method, self.bucket, self.key, self.query)


@dataclass(frozen=True, slots=True)
class Denial:
    action: str
    bucket: str
    key: str
    principal: str


Match = Callable[[Request], bool] | Mapping[str, str | Collection[str]]
Hook = Callable[[Request], object]
Rewrite = Callable[[Request, Response], Response | None]
Action = Literal[
    "503", "500", "reset-before", "lost-reply", "truncate", "flip", "stall", "slow", "delay",
    "garbage-200", "empty-list", "expired-token", "access-denied", "ignore-version", "ignore-query",
]  # fmt: skip
ACTIONS: tuple[str, ...] = Action.__args__  # type: ignore[attr-defined]
LISTINGS = ("ListObjects", "ListObjectsV2", "ListObjectVersions", "ListMultipartUploads")


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests that match; `hits` counts how often it did."""

    match: Match
    action: Action | Hook | None
    rewrite: Rewrite | None
    times: int | None
    after: int
    probability: float
    seconds: float
    rate: float
    at: int | None
    chance: random.Random
    seen: int = 0
    hits: int = 0

    def takes(self, request: Request) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if callable(self.match):
            if not self.match(request):
                return False
        elif not all(_agrees(getattr(request, name), wanted) for name, wanted in self.match.items()):
            return False
        if self.action == "empty-list" and request.op not in LISTINGS:
            return False
        self.seen += 1
        if self.seen <= self.after or self.chance.random() >= self.probability:
            return False
        self.hits += 1
        return True


def _agrees(value: str, wanted: str | Collection[str]) -> bool:
    return value == wanted if isinstance(wanted, str) else value in wanted


@dataclass(frozen=True, slots=True)
class Setting:
    """A sub-resource of a bucket that is a document: its operations, and what one never put answers."""

    name: str
    get_action: str
    put_action: str
    missing: tuple[str, str] | None = None  # error code and message, 404
    default: str = ""


# Buckets are taken to be years old: no ownership controls, no public access block. Default encryption is answered
# for every bucket since January 2023.
SETTINGS = {
    "policy": Setting(
        "BucketPolicy",
        "s3:GetBucketPolicy",
        "s3:PutBucketPolicy",
        ("NoSuchBucketPolicy", "The bucket policy does not exist"),
    ),
    "lifecycle": Setting(
        "BucketLifecycleConfiguration",
        "s3:GetLifecycleConfiguration",
        "s3:PutLifecycleConfiguration",
        ("NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist"),
    ),
    "encryption": Setting(
        "BucketEncryption",
        "s3:GetEncryptionConfiguration",
        "s3:PutEncryptionConfiguration",
        default=f"<ServerSideEncryptionConfiguration {NAMESPACE}><Rule><ApplyServerSideEncryptionByDefault>"
        "<SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault>"
        "<BucketKeyEnabled>false</BucketKeyEnabled></Rule></ServerSideEncryptionConfiguration>",
    ),
    "replication": Setting(
        "BucketReplication",
        "s3:GetReplicationConfiguration",
        "s3:PutReplicationConfiguration",
        ("ReplicationConfigurationNotFoundError", "The replication configuration was not found"),
    ),
    "website": Setting(
        "BucketWebsite",
        "s3:GetBucketWebsite",
        "s3:PutBucketWebsite",
        ("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration"),
    ),
    "tagging": Setting(
        "BucketTagging", "s3:GetBucketTagging", "s3:PutBucketTagging", ("NoSuchTagSet", "The TagSet does not exist")
    ),
    "cors": Setting(
        "BucketCors",
        "s3:GetBucketCORS",
        "s3:PutBucketCORS",
        ("NoSuchCORSConfiguration", "The CORS configuration does not exist"),
    ),
    "ownershipControls": Setting(
        "BucketOwnershipControls",
        "s3:GetBucketOwnershipControls",
        "s3:PutBucketOwnershipControls",
        ("OwnershipControlsNotFoundError", "The bucket ownership controls were not found"),
    ),
    "publicAccessBlock": Setting(
        "PublicAccessBlock",
        "s3:GetBucketPublicAccessBlock",
        "s3:PutBucketPublicAccessBlock",
        ("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found"),
    ),
    "logging": Setting(
        "BucketLogging",
        "s3:GetBucketLogging",
        "s3:PutBucketLogging",
        default=f"<BucketLoggingStatus {NAMESPACE}/>",
    ),
    "notification": Setting(
        "BucketNotificationConfiguration",
        "s3:GetBucketNotification",
        "s3:PutBucketNotification",
        default=f"<NotificationConfiguration {NAMESPACE}/>",
    ),
    "accelerate": Setting(
        "BucketAccelerateConfiguration",
        "s3:GetAccelerateConfiguration",
        "s3:PutAccelerateConfiguration",
        default=f"<AccelerateConfiguration {NAMESPACE}/>",
    ),
    "requestPayment": Setting(
        "BucketRequestPayment",
        "s3:GetBucketRequestPayment",
        "s3:PutBucketRequestPayment",
        default=f"<RequestPaymentConfiguration {NAMESPACE}><Payer>BucketOwner</Payer></RequestPaymentConfiguration>",
    ),
    "object-lock": Setting(
        "ObjectLockConfiguration",
        "s3:GetBucketObjectLockConfiguration",
        "s3:PutBucketObjectLockConfiguration",
        ("ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket"),
    ),
}
# Documents of which a bucket has several, each with an id.
NAMED_SETTINGS = {
    "intelligent-tiering": ("IntelligentTiering", "s3:{}IntelligentTieringConfiguration"),
    "inventory": ("Inventory", "s3:{}InventoryConfiguration"),
    "analytics": ("Analytics", "s3:{}AnalyticsConfiguration"),
    "metrics": ("Metrics", "s3:{}MetricsConfiguration"),
}


def op_of(method: str, bucket: str, key: str, query: Mapping[str, str]) -> str:
    """The S3 operation by its name in the API, "" if this is none."""
    if bucket == "v20180820":  # s3control, which is at the same endpoint
        return "CreateJob" if method == "POST" else "DescribeJob"
    if not bucket:
        return {"GET": "ListBuckets", "POST": "GetCallerIdentity"}.get(method, "")
    if key:
        return _object_op(method, query)
    verb = {"GET": "Get", "PUT": "Put", "DELETE": "Delete"}.get(method, "")
    for name, (title, _) in NAMED_SETTINGS.items():
        if name in query:
            if method == "GET" and "id" not in query:
                return f"ListBucket{title}Configurations"
            return f"{verb}Bucket{title}Configuration"
    for name, setting in SETTINGS.items():
        if name in query:
            return verb + (setting.name.removesuffix("Configuration") if verb == "Delete" else setting.name)
    if method == "GET":
        for name, op in (
            ("location", "GetBucketLocation"),
            ("versioning", "GetBucketVersioning"),
            ("versions", "ListObjectVersions"),
            ("uploads", "ListMultipartUploads"),
            ("acl", "GetBucketAcl"),
            ("policyStatus", "GetBucketPolicyStatus"),
        ):
            if name in query:
                return op
        return "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
    if method == "PUT":
        return "PutBucketVersioning" if "versioning" in query else "PutBucketAcl" if "acl" in query else "CreateBucket"
    if method == "POST":
        return "DeleteObjects" if "delete" in query else ""
    return {"HEAD": "HeadBucket", "DELETE": "DeleteBucket"}.get(method, "")


def _object_op(method: str, query: Mapping[str, str]) -> str:
    verb = {"GET": "Get", "PUT": "Put", "DELETE": "Delete"}.get(method, "")
    for name, title in (
        ("tagging", "Tagging"),
        ("retention", "Retention"),
        ("legal-hold", "LegalHold"),
        ("acl", "Acl"),
        ("attributes", "Attributes"),
    ):
        if name in query:
            return f"{verb}Object{title}"
    if "annotation" in query:
        return "GetObjectAnnotation" if "annotationName" in query else "ListObjectAnnotations"
    if "uploadId" in query:
        return {
            "GET": "ListParts",
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
        }.get(method, "")
    if method == "POST":
        return "CreateMultipartUpload" if "uploads" in query else "RestoreObject" if "restore" in query else ""
    return {"HEAD": "HeadObject", "GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}.get(method, "")


def actions_of(request: Request) -> tuple[str, ...]:
    """The IAM actions that the caller must be allowed for this request."""
    op, of_version = request.op, "Version" if request.version_id else ""
    if request.bucket and not request.key:
        for name, (_, action) in NAMED_SETTINGS.items():
            if name in request.query:
                return (action.format("Get" if request.method == "GET" else "Put"),)
        for name, setting in SETTINGS.items():
            if name in request.query:
                if name == "policy" and request.method == "DELETE":
                    return ("s3:DeleteBucketPolicy",)
                return (setting.get_action if request.method == "GET" else setting.put_action,)
    if op == "DeleteObject":  # a conditional delete reads too
        delete = f"s3:DeleteObject{of_version}"
        return (delete, "s3:GetObject") if "if-match" in request.headers else (delete,)
    if op.endswith("ObjectTagging"):
        return (op.replace("Object", f"Object{of_version}").join(("s3:", "")),)
    named: dict[str, tuple[str, ...]] = {
        "ListBuckets": ("s3:ListAllMyBuckets",),
        "HeadBucket": ("s3:ListBucket",),
        "ListObjects": ("s3:ListBucket",),
        "ListObjectsV2": ("s3:ListBucket",),
        "ListObjectVersions": ("s3:ListBucketVersions",),
        "ListMultipartUploads": ("s3:ListBucketMultipartUploads",),
        "ListParts": ("s3:ListMultipartUploadParts",),
        "HeadObject": (f"s3:GetObject{of_version}",),
        "GetObject": (f"s3:GetObject{of_version}",),
        "GetObjectAttributes": (f"s3:GetObject{of_version}", f"s3:GetObject{of_version}Attributes"),
        "ListObjectAnnotations": (f"s3:ListObject{of_version}Annotations",),
        "GetObjectAnnotation": (f"s3:GetObject{of_version}Annotation",),
        "CreateMultipartUpload": ("s3:PutObject",),
        "UploadPart": ("s3:PutObject",),
        "CompleteMultipartUpload": ("s3:PutObject",),
        "DeleteObjects": (),  # key by key
        "GetCallerIdentity": (),
    }
    return named.get(op, (f"s3:{op}",) if op else ())


UNFIT = re.compile('[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]')
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


def text(value: object) -> str:
    """Character data. What XML 1.0 cannot carry becomes a reference, which its parsers refuse: as S3 does it."""
    return UNFIT.sub(lambda found: ENTITIES.get(found[0]) or f"&#x{ord(found[0]):x};", str(value))


def tag(name: str, value: object) -> str:
    return f"<{name}>{text(value)}</{name}>"


def xml(document: str, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
    body = ('<?xml version="1.0" encoding="UTF-8"?>\n' + document).encode("utf-8", "surrogatepass")
    return Response(status, [("Content-Type", "application/xml"), *headers], body)


def parsed(body: bytes) -> ET.Element:
    """The document without its namespaces."""
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        raise malformed() from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def malformed() -> S3Error:
    return S3Error(
        400,
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )


def invalid(message: str, **more: Any) -> S3Error:
    return S3Error(400, "InvalidArgument", message, **more)


def access_denied(message: str = "Access Denied") -> S3Error:
    return S3Error(403, "AccessDenied", message)


_ERRORS = {
    "503": S3Error(503, "SlowDown", "Please reduce your request rate."),
    "500": S3Error(500, "InternalError", "We encountered an internal error. Please try again."),
    "expired-token": S3Error(400, "ExpiredToken", "The provided token has expired."),
    "access-denied": access_denied(),
}


def not_implemented(**more: Any) -> S3Error:
    return S3Error(501, "NotImplemented", "A header you provided implies functionality that is not implemented", **more)


def precondition(condition: str) -> S3Error:
    message = "At least one of the pre-conditions you specified did not hold"
    return S3Error(412, "PreconditionFailed", message, Condition=condition)


def no_such_key(key: str, headers: Iterable[tuple[str, str]] = ()) -> S3Error:
    return S3Error(404, "NoSuchKey", "The specified key does not exist.", headers=headers, Key=key)


def iso(moment: float) -> str:
    """As listings write times: whole seconds, with three zeros after the point."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(math.floor(moment)))


def http_date(moment: float) -> str:
    return formatdate(math.floor(moment), usegmt=True)


def from_iso(moment: str) -> float:
    try:
        parsed_moment = datetime.fromisoformat(moment)
    except ValueError:
        raise malformed() from None
    return (parsed_moment if parsed_moment.tzinfo else parsed_moment.replace(tzinfo=UTC)).timestamp()


def canonical_id(account: str) -> str:
    return hashlib.sha256(account.encode()).hexdigest()


def owner_xml(account: str) -> str:
    return f"<Owner>{tag('ID', canonical_id(account))}</Owner>"


def number(request: Request, name: str, default: int, most: int | None = 1000) -> int:
    value = request.query.get(name, "")
    if not value:
        return default
    if not value.isdecimal() or int(value) > 2**31 - 1:
        raise invalid(f"Provided {name} not an integer or within integer range", ArgumentName=name, ArgumentValue=value)
    return int(value) if most is None else min(int(value), most)


def settle(version: Version, now: float) -> None:
    """Let time do to a restore what it does: a copy expires, an archived INTELLIGENT_TIERING object moves up."""
    if version.restore_ready is None or now < version.restore_ready:
        return
    if version.storage_class not in ARCHIVED:
        version.archive_status, version.restore_ready = "", None
    elif version.restore_expiry is not None and now >= version.restore_expiry:
        version.restore_ready = version.restore_expiry = None


def is_archived(version: Version, now: float) -> bool:
    """No bytes can be read now."""
    settle(version, now)
    if version.storage_class in ARCHIVED:
        return version.restore_ready is None or now < version.restore_ready
    return bool(version.archive_status)


def is_locked(version: Version, now: float, bypass: bool) -> bool:
    if "ON" in (version.legal_hold, version.event_hold):
        return True
    if version.retain_until is None or version.retain_until <= now:
        return False
    return version.lock_mode == "COMPLIANCE" or not bypass


def same_etag(header: str, etag: str) -> bool:
    return any(candidate.strip().removeprefix("W/").strip('"') in ("*", etag) for candidate in header.split(","))


class S3Server:
    """The server and its state. Attributes without underscore may be changed by a test while it runs.

    An exception in an observer or a hook is kept in `failures` and raised by `stop()`, so that none is lost in a thread.
    """

    def __init__(self, port: int = 0) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.requests: list[Logged] = []
        self.served: Counter[str] = Counter()  # by operation
        self.sent: Counter[str] = Counter()  # bytes of bodies, by operation
        self.deletes: list[tuple[str, str, str]] = []  # data gone: bucket, key, version id
        self.failures: list[BaseException] = []
        self.time: Callable[[], float] = time.time  # a test may stop it; advance() is on top
        self.sts = True
        self.sends_date = True  # a Date header with each answer
        self.identities: dict[str, tuple[str, str]] = {}  # access key -> account, ARN
        self.denied_keys: set[str] = set()  # AccessDenied in S3
        self.unknown_keys: set[str] = set()  # InvalidAccessKeyId
        self.expired_tokens: set[str] = set()  # session tokens, or access keys whose token has expired
        # False: If-Match of deletes is silently ignored; "missing keys": it is looked at only where there is no object
        self.honours_if_match: bool | Literal["missing keys"] = True
        self.versions_listing = True
        self.restore_status_in_lists = True
        self.enforces_regions = True
        self.unimplemented: set[str] = set()  # operations that answer 501
        self.restore_seconds: float | None = None  # in place of RESTORE_SECONDS
        self.expedited_capacity = True
        self.min_part_size = 5 * 2**20
        self.jobs: Any = None  # tests.fakes.s3batch.Jobs, for an endpoint that has s3control
        # Deleting again, by DeleteObjects, a version that is gone: not established for S3 itself.
        self.gone_versions: Literal["NoSuchVersion", "deleted"] = "NoSuchVersion"
        self.lock = threading.RLock()
        self._ahead = 0.0
        self._sequence = 0
        self._faults: list[Fault] = []
        self._denials: list[Denial] = []
        self._observers: list[Callable[[Delete], object]] = []
        self._stopping = threading.Event()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, name=f"s3server-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except BaseException:
            if error is None:
                raise

    def start(self) -> Self:
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Close every connection, wait for the threads, raise the first of `failures`."""
        self._stopping.set()
        # shutdown wakes a blocked accept(); close alone does not on Linux
        _quietly(lambda: self._listener.shutdown(socket.SHUT_RDWR))
        self._listener.close()
        if self._acceptor.is_alive():
            self._acceptor.join(5)
        with self.lock:
            connections = list(self._connections.items())
        for sock, _ in connections:
            _quietly(lambda sock=sock: sock.shutdown(socket.SHUT_RDWR))  # type: ignore[misc]
        for _, thread in connections:
            thread.join(5)
        if self.failures:
            raise self.failures[0]

    def bucket(
        self,
        name: str,
        versioning: Literal["Enabled", "Suspended"] | None = None,
        owner: str = ACCOUNT,
        region: str = "us-east-1",
        object_lock: bool = False,
        mfa_delete: bool = False,
    ) -> Bucket:
        """Make a bucket; of one that is there only the versioning is changed, if named."""
        with self.lock:
            if name in self.buckets:
                self.buckets[name].versioning = versioning or self.buckets[name].versioning
                return self.buckets[name]
            made = Bucket(
                name, versioning or "", owner, region, object_lock, mfa_delete=mfa_delete, created=self.clock()
            )
            if object_lock:
                made.versioning = "Enabled"
                made.settings["object-lock"] = (
                    b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
                )
            self.buckets[name] = made
            return made

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes = b"",
        *,
        storage_class: str = "STANDARD",
        etag: Literal["md5", "kms", "sse-c"] = "md5",
        checksums: Sequence[str] = ("CRC64NVME",),
        checksum_type: Literal["FULL_OBJECT", "COMPOSITE"] | None = None,
        parts: Sequence[int] | None = None,
        metadata: Mapping[str, str] | None = None,
        last_modified: float | datetime | None = None,
        tags: Mapping[str, str] | None = None,
        annotations: Mapping[str, bytes] | None = None,
        archive_status: str = "",
        restored_until: float | datetime | None = None,
        lock_mode: str = "",
        retain_until: float | datetime | None = None,
        legal_hold: bool = False,
        replication_status: str = "",
        customer_key: bytes = SSE_C_KEY,
        content_type: str = "",
    ) -> Version:
        """Store an object as if uploaded; the answer is the stored version itself, not a copy.

        `parts` are the sizes of a multipart upload, which must add up. Its checksums are COMPOSITE unless said
        otherwise, CRC64NVME always FULL_OBJECT. `checksums=()` and `etag="kms"` leave no witness of the content.
        """
        when, until = _seconds(last_modified), _seconds(retain_until)
        version = Version(
            key,
            body=bytes(body),
            storage_class=storage_class,
            metadata=dict(metadata or {}),
            tags=dict(tags or {}),
            annotations=dict(annotations or {}),
            archive_status=archive_status,
            restore_ready=None if restored_until is None else 0.0,
            restore_expiry=_seconds(restored_until),
            lock_mode=lock_mode or ("GOVERNANCE" if until else ""),
            retain_until=until,
            legal_hold="ON" if legal_hold else "",
            replication_status=replication_status,
            headers={"content-type": content_type} if content_type else {},
        )
        if etag == "kms":
            version.encryption = "aws:kms"
        elif etag == "sse-c":
            version.encryption = "SSE-C"
            version.customer_key_md5 = b64(digest("MD5", customer_key))
        sizes = tuple(parts) if parts is not None else ()
        if parts is not None and (not sizes or sum(sizes) != len(body)):
            raise ValueError(f"parts {sizes} do not add up to {len(body)} bytes")
        kind = checksum_type or ("COMPOSITE" if sizes and tuple(checksums) != ("CRC64NVME",) else "FULL_OBJECT")
        ends = list(accumulate(sizes))
        bodies = [version.body[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        seal(version, bodies, checksums, kind)
        with self.lock:
            stored = self._insert(self.buckets[bucket], version)
            if when is not None:
                stored.last_modified = when
            return stored

    def versions(self, bucket: str, key: str | None = None) -> list[Version]:
        """Copies of every version and delete marker in listing order, `is_latest` set."""
        with self.lock:
            held = self.buckets[bucket]
            return [
                replace(version, is_latest=place == 0)
                for name in held.keys
                if key is None or name == key
                for place, version in enumerate(held.objects[name])
            ]

    def get(self, bucket: str, key: str, version_id: str | None = None) -> Version | None:
        """The stored version itself; without id the current one, None where that is a delete marker."""
        with self.lock:
            for version in self.buckets[bucket].objects.get(key, ()):
                if version_id is None:
                    return None if version.is_marker else version
                if version.version_id == version_id:
                    return version
        return None

    def remove(self, bucket: str, key: str, version_id: str | None = None) -> None:
        """Make a version vanish (all of the key without id) unseen by observers, as lifecycle expiry would."""
        with self.lock:
            held = self.buckets[bucket]
            for version in list(held.objects.get(key, ())):
                if version_id in (None, version.version_id):
                    _drop(held, version)

    def clock(self) -> float:
        """The server's own time, seconds since the epoch."""
        return self.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass: restores arrive, copies expire, locks end."""
        self._ahead += seconds

    def deny(self, action: str, bucket: str = "*", key: str = "*", principal: str = "*") -> Denial:
        """Refuse an IAM action with 403, all four as globs; `key` only matters to actions on objects."""
        denial = Denial(action, bucket, key, principal)
        with self.lock:
            self._denials.append(denial)
        return denial

    def allow(self, denial: Denial | None = None) -> None:
        """Take one denial back, or all."""
        with self.lock:
            self._denials = [other for other in self._denials if denial is not None and other is not denial]

    def fault(
        self,
        match: Match | None = None,
        action: Action | Hook | None = None,
        *,
        times: int | None = None,
        after: int = 0,
        probability: float = 1.0,
        seed: int = 0,
        seconds: float = 60.0,
        rate: float = 65536.0,
        at: int | None = None,
        rewrite: Rewrite | None = None,
    ) -> Fault:
        """Break requests that match: from the one after the first `after`, `times` of them (None: all).

        `action` is one of

            503, 500, access-denied, expired-token   that error, without acting
            reset-before, lost-reply                 a RST in place of the answer, without acting or after it
            truncate, flip                           the body cut short of its declared length; one bit of it wrong
            stall, slow, delay                       head, then nothing; at `rate`; all of it after `seconds`
            garbage-200, empty-list                  a captive portal's page; a listing of nothing
            ignore-version                           the answer for the current version, whatever versionId names
            ignore-query                             the answer to GET of the path alone: a ListBucketResult

        or a callable, a hook: it runs just before the operation, which then goes on; it may send requests.
        `match` is a predicate, or a mapping of Request's attributes to a value or a collection of values.
        `at` is the offset of the cut or of the flipped bit, half way if not said; `rate` is in bytes/s.
        `rewrite` may change a finished answer or return another one.
        All matching hooks run; of the other actions the first that takes the request has it.
        """
        if action is not None and not callable(action) and action not in ACTIONS:
            raise ValueError(f"no such fault: {action}")
        made = Fault(match or {}, action, rewrite, times, after, probability, seconds, rate, at, random.Random(seed))
        with self.lock:
            self._faults.append(made)
        return made

    def calm(self, fault: Fault | None = None) -> None:
        """End one fault, or all."""
        with self.lock:
            self._faults = [other for other in self._faults if fault is not None and other is not fault]

    def settled(self, seconds: float = 60) -> None:
        """Wait until every connection is at its end: whoever was killed has no request under way any more."""
        until = time.monotonic() + seconds
        while True:
            with self.lock:
                if not self._connections:
                    return
            assert time.monotonic() < until, "somebody is still connected"
            time.sleep(0.02)

    def observe(self, observer: Callable[[Delete], object]) -> None:
        """Call this at the instant before data is deleted, with the lock held: do not send requests from it."""
        with self.lock:
            self._observers.append(observer)

    def count(self, op: str | None = None, *, status: int | None = None, bucket: str | None = None) -> int:
        with self.lock:
            return sum(
                (op is None or entry.op == op)
                and (status is None or entry.status == status)
                and (bucket is None or entry.bucket == bucket)
                for entry in self.requests
            )

    def env(self, access_key: str = "AKIAFAKEFAKEFAKEFAKE") -> dict[str, str]:
        """Variables with which a program talks to this server and nothing else."""
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def _insert(self, bucket: Bucket, version: Version) -> Version:
        self._sequence += 1
        version.sequence = self._sequence
        version.last_modified = float(math.floor(self.clock()))
        version.version_id = _new_version_id() if bucket.versioning == "Enabled" else "null"
        history = bucket.objects.get(version.key)
        if history is None:
            history = bucket.objects[version.key] = []
            insort(bucket.keys, version.key)
        if version.version_id == "null":
            history[:] = [other for other in history if other.version_id != "null"]
        history.insert(0, version)
        bucket.issued[version.key, version.version_id] = version.sequence
        return version

    def _delete_data(self, bucket: Bucket, version: Version, request: Request) -> None:
        """Remove a version for good; observers see data go, not markers."""
        if not version.is_marker:
            doomed = Delete(
                bucket.name,
                version.key,
                version.version_id,
                version.etag,
                version.body,
                request.principal,
                request.op,
            )
            self._tell(self._observers, doomed)
            self.deletes.append((bucket.name, version.key, version.version_id))
        if version.key in bucket.objects:  # an observer may have overwritten it
            _drop(bucket, version)

    def _tell(self, listeners: Iterable[Callable[[Any], object]], fact: object) -> None:
        for listener in list(listeners):
            try:
                listener(fact)
            except BaseException as error:
                self.failures.append(error)

    def _refuse(self, request: Request, action: str, key: str | None = None) -> bool:
        """Does a denial cover this action on this bucket and key?"""
        key = request.key if key is None else key
        return any(
            fnmatchcase(action, denial.action)
            and fnmatchcase(request.bucket, denial.bucket)
            and (fnmatchcase(key, denial.key) if key else denial.key == "*")
            and fnmatchcase(request.principal, denial.principal)
            for denial in self._denials
        )

    def _identity(self, principal: str) -> tuple[str, str]:
        return self.identities.get(principal, (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/operator"))

    def _denied(self, request: Request, action: str, key: str | None = None) -> S3Error:
        key = request.key if key is None else key
        resource = f"arn:aws:s3:::{request.bucket}" + (f"/{key}" if key else "")
        return access_denied(
            f"User: {self._identity(request.principal)[1]} is not authorized to perform: {action} "
            f'on resource: "{resource}" with an explicit deny in a resource-based policy'
        )

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            with self.lock:
                self._connections[sock] = thread
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        reader = BufferedReader(socket.SocketIO(sock, "r"), 65536)
        try:
            while not self._stopping.is_set():
                request = read_request(sock, reader)
                if request is None or not self._answer(sock, request):
                    break
        except _Hangup as hangup:
            if hangup.reset:  # close with nothing lingering is a RST
                _quietly(lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))
        except (OSError, ValueError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            with self.lock:
                self._connections.pop(sock, None)
            _quietly(reader.close)
            _quietly(sock.close)

    def _answer(self, sock: socket.socket, request: Request | S3Error) -> bool:
        """Act on one request and send the answer; whether the connection stays."""
        if isinstance(request, S3Error):
            _send(sock, "GET", error_response(request, ""), False)
            return False
        with self.lock:
            taken = [fault for fault in self._faults if self._takes(fault, request)]
        hooks = [fault.action for fault in taken if callable(fault.action)]
        self._tell(hooks, request)
        fault = next((one for one in taken if one.action is not None and not callable(one.action)), None)
        action = fault.action if fault else None
        if action == "reset-before":
            self._log(request, 0)
            raise _Hangup(True)
        if fault and action == "delay":
            self._stopping.wait(fault.seconds)
        understood = request
        if action == "ignore-version":  # as a cache whose key is the path alone (nginx: proxy_cache_key $uri)
            understood = replace(request, query={n: v for n, v in request.query.items() if n != "versionId"})
        if action == "ignore-query":  # as local-s3-server and fauxqs do with sub-resources that they do not know
            understood = make_request(request.method, request.target.partition("?")[0], request.headers, b"")
        response = self._faked(request, action) or self._operate(understood)
        for other in taken:
            if other.rewrite:
                response = other.rewrite(request, response) or response
        if action == "lost-reply":
            self._log(request, 0)
            raise _Hangup(True)
        self._log(request, response.status)
        if request.method != "HEAD" and response.status < 300:
            with self.lock:
                self.sent[request.op] += len(response.body)
        if fault and action in ("truncate", "flip", "stall", "slow"):
            self._send_badly(sock, request, response, fault)
            return request.header("connection").lower() != "close"
        keep = request.header("connection").lower() != "close"
        _send(sock, request.method, response, keep, self.clock() if self.sends_date else None)
        return keep

    def _takes(self, fault: Fault, request: Request) -> bool:
        try:
            return fault.takes(request)
        except Exception as error:
            self.failures.append(error)
            return False

    def _log(self, request: Request, status: int) -> None:
        with self.lock:
            self.served[request.op] += 1
            self.requests.append(
                Logged(request.method, request.bucket, request.key, request.query, status, request.principal)
            )

    def _faked(self, request: Request, action: object) -> Response | None:
        if error := _ERRORS.get(str(action)):
            return error_response(error, request.target, sts=request.op == "GetCallerIdentity")
        if action == "garbage-200":
            return Response(
                200, [("Content-Type", "text/html")], b"<html><body>Please log in to the Wi-Fi</body></html>"
            )
        if action == "empty-list":
            return self._operate(request, blank=True)
        return None

    def _send_badly(self, sock: socket.socket, request: Request, response: Response, fault: Fault) -> None:
        body = b"" if request.method == "HEAD" else bytes(response.body)
        head = _head(response, True)
        place = len(body) // 2 if fault.at is None else fault.at
        if fault.action == "truncate":
            sock.sendall(head + body[:place] if body else head[: len(head) // 2])
            raise _Hangup(False)
        if fault.action == "flip":
            flipped = bytearray(body)
            if place < len(flipped):
                flipped[place] ^= 1
            sock.sendall(head + flipped)
            return
        if fault.action == "stall":
            sock.sendall(head if body else b"")  # without a body the head alone would be the whole answer
            until = time.monotonic() + fault.seconds
            while time.monotonic() < until and not self._stopping.is_set():
                if select.select([sock], [], [], 0.1)[0]:  # closed, or it speaks out of turn
                    break
            raise _Hangup(False)
        sock.sendall(head)
        step = max(1, int(fault.rate / 20))
        for start in range(0, len(body), step):
            sock.sendall(body[start : start + step])
            if self._stopping.wait(step / fault.rate):
                raise _Hangup(True)

    def _operate(self, request: Request, blank: bool = False) -> Response:
        try:
            with self.lock:
                response = self._dispatch(request, blank)
        except S3Error as error:
            response = error_response(error, request.target, sts=request.op == "GetCallerIdentity")
        except Exception as error:
            self.failures.append(error)
            response = error_response(S3Error(500, "InternalError", repr(error)), request.target)
        return response

    def _dispatch(self, request: Request, blank: bool) -> Response:
        operation = OPERATIONS.get(request.op)
        if request.op == "GetCallerIdentity":
            return get_caller_identity(self, request)
        self._authenticate(request)
        if self.jobs is not None and request.op in ("CreateJob", "DescribeJob"):
            answer: Response = self.jobs.operate(self, request)
            return answer
        if operation is None or request.op in self.unimplemented:
            raise not_implemented()
        if len(request.key.encode()) > 1024:
            raise S3Error(
                400, "KeyTooLongError", "Your key is too long", Size=len(request.key.encode()), MaxSizeAllowed=1024
            )
        bucket = self.buckets.get(request.bucket)
        if request.bucket and request.op != "CreateBucket":
            if bucket is None:
                message = "The specified bucket does not exist"
                raise S3Error(404, "NoSuchBucket", message, BucketName=request.bucket)
            self._check_bucket(bucket, request)
        for action in actions_of(request):
            if self._refuse(request, action):
                raise self._denied(request, action)
        bucket = bucket or Bucket(request.bucket)
        return operation(self, replace(bucket, objects={}, keys=[], uploads={}) if blank else bucket, request)

    def _authenticate(self, request: Request) -> None:
        token = request.header("x-amz-security-token") or request.query.get("X-Amz-Security-Token", "")
        if request.principal in self.unknown_keys:
            message = "The AWS Access Key Id you provided does not exist in our records."
            raise S3Error(403, "InvalidAccessKeyId", message, AWSAccessKeyId=request.principal)
        if token in self.expired_tokens or request.principal in self.expired_tokens:
            raise S3Error(400, "ExpiredToken", "The provided token has expired.")
        if request.principal in self.denied_keys:
            raise access_denied()

    def _check_bucket(self, bucket: Bucket, request: Request) -> None:
        wrong_region = request.region not in ("", "*", bucket.region)
        if self.enforces_regions and wrong_region and request.op != "GetBucketLocation":
            raise S3Error(
                301,
                "PermanentRedirect",
                "The bucket you are attempting to access must be addressed using the specified endpoint. "
                "Please send all future requests to this endpoint.",
                headers=[("x-amz-bucket-region", bucket.region)],
                Endpoint=f"s3.{bucket.region}.amazonaws.com",
                Bucket=bucket.name,
            )
        expected = request.headers.get("x-amz-expected-bucket-owner")
        if expected is not None and not re.fullmatch("[0-9]{12}", expected):
            message = "The value of the expected bucket owner parameter must be an AWS account ID"
            raise S3Error(400, "InvalidBucketOwnerAWSAccountID", message)
        if expected is not None and expected != bucket.owner:
            raise access_denied()


def _seconds(moment: float | datetime | None) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime) else moment


def _quietly(act: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        act()


def _new_version_id() -> str:
    return secrets.token_urlsafe(24).replace("-", ".")


def _drop(bucket: Bucket, version: Version) -> None:
    history = bucket.objects[version.key]
    history[:] = [other for other in history if other is not version]
    if not history:
        del bucket.objects[version.key]
        del bucket.keys[bisect_left(bucket.keys, version.key)]


def read_request(sock: socket.socket, reader: BufferedReader[socket.SocketIO]) -> Request | S3Error | None:
    """The next request of a connection; None at its end."""
    line = reader.readline(65537)
    if not line.strip():
        return None
    method, _, rest = line.decode("latin-1").rstrip("\r\n").partition(" ")
    target, _, protocol = rest.rpartition(" ")
    headers = {"connection": "close"} if protocol == "HTTP/1.0" else {}
    while (line := reader.readline(65537)) not in (b"\r\n", b"\n"):
        if not line:
            return None
        name, _, value = line.decode("latin-1").partition(":")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    if headers.get("expect", "").lower() == "100-continue":
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _chunks(reader, headers)
    else:
        wanted = int(headers.get("content-length", 0))
        body = reader.read(wanted) if wanted else b""
        if len(body) < wanted:
            return None
    try:
        if headers.get("x-amz-content-sha256", "").startswith("STREAMING-"):
            body = _aws_chunks(body, headers)
        return make_request(method, target, headers, body)
    except S3Error as error:
        return error


def make_request(method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
    """Take the raw target apart. No path is normalised: `//`, `/../` and control characters are part of the key."""
    if not target.startswith("/"):  # absolute form, as sent to a proxy
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query_string = target.partition("?")
    try:
        bucket, _, key = unquote_to_bytes(path[1:]).decode().partition("/")
        query = {}
        for pair in query_string.split("&") if query_string else ():
            name, _, value = pair.partition("=")
            query[_plus(name)] = _plus(value)
    except UnicodeDecodeError:
        raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.") from None
    scope = query.get("X-Amz-Credential", "")
    if found := re.search(r"Credential=([^,\s]+)", headers.get("authorization", "")):
        scope = found[1]
    fields = [*scope.split("/"), "", "", ""]
    return Request(
        method, target, bucket, key, query, headers, body, fields[0], fields[2], op_of(method, bucket, key, query)
    )


def _plus(encoded: str) -> str:
    return unquote_to_bytes(encoded.replace("+", " ")).decode()


def _chunks(reader: BufferedReader[socket.SocketIO], headers: dict[str, str]) -> bytes:
    body = []
    while size := int(reader.readline().split(b";")[0], 16):
        body.append(reader.read(size))
        reader.readline()
    while (line := reader.readline().strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return b"".join(body)


def _aws_chunks(body: bytes, headers: dict[str, str]) -> bytes:
    """Undo aws-chunked: chunk headers with or without signatures, then trailing checksums."""
    pieces, place = [], 0
    while True:
        end = body.index(b"\r\n", place)
        size = int(body[place:end].split(b";")[0], 16)
        place = end + 2
        if not size:
            break
        pieces.append(body[place : place + size])
        place += size + 2
    for line in body[place:].split(b"\r\n"):
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    encodings = [one.strip() for one in headers.get("content-encoding", "").split(",")]
    headers["content-encoding"] = ",".join(one for one in encodings if one not in ("", "aws-chunked"))
    plain = b"".join(pieces)
    if (declared := headers.get("x-amz-decoded-content-length")) and int(declared) != len(plain):
        raise S3Error(400, "IncompleteBody", "The request body terminated unexpectedly")
    return plain


def _head(response: Response, keep: bool, now: float | None = None) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}"]
    lines += [f"x-amz-request-id: {secrets.token_hex(8).upper()}", "Server: AmazonS3"]
    lines += [] if now is None else [f"Date: {formatdate(now, usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    if response.status not in (204, 304):
        length = len(response.body) if response.length is None else response.length
        lines.append(f"Content-Length: {length}")
    if not keep:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def _send(sock: socket.socket, method: str, response: Response, keep: bool, now: float | None = None) -> None:
    head = _head(response, keep, now)
    if method == "HEAD" or not response.body:
        sock.sendall(head)
    elif len(response.body) < 2**20:
        sock.sendall(head + response.body)
    else:
        sock.sendall(head)
        sock.sendall(response.body)


def error_response(error: S3Error, resource: str, sts: bool = False) -> Response:
    request_id = secrets.token_hex(8).upper()
    inner = tag("Code", error.code) + tag("Message", error.message)
    if sts:
        document = (
            f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error>{tag('RequestId', request_id)}</ErrorResponse>"
        )
    else:
        inner += "".join(tag(name, value) for name, value in error.more.items())
        document = f"<Error>{inner}{tag('Resource', resource)}{tag('RequestId', request_id)}</Error>"
    response = xml(document, error.status, error.headers)
    if error.status == 304:
        response.body = b""
    return response


def seal(version: Version, bodies: Sequence[bytes], algorithms: Sequence[str], kind: str) -> None:
    """Give a version its ETag and checksums as S3 does, from its body and its parts (none: a single PUT)."""
    if version.encryption in ("aws:kms", "aws:kms:dsse", "SSE-C"):
        version.etag = secrets.token_hex(16)
    elif bodies:
        version.etag = md5_hex(b"".join(digest("MD5", body) for body in bodies))
    else:
        version.etag = md5_hex(version.body)
    if bodies:
        version.etag += f"-{len(bodies)}"
    if version.encryption.startswith("aws:kms") and not version.kms_key_id:
        version.kms_key_id = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
    version.checksum_type = kind if algorithms else ""
    composite = bodies and kind == "COMPOSITE"
    if composite:
        version.parts = tuple(
            Part(len(body), {name: b64(digest(name, body)) for name in algorithms}) for body in bodies
        )
    else:
        version.parts = tuple(Part(len(body), {}) for body in bodies)
    for name in algorithms:
        raw = digest(name, b"".join(digest(name, body) for body in bodies)) if composite else digest(name, version.body)
        version.checksums[name] = b64(raw)


# Operations. Each is called with the lock held, after authentication, owner and denials were looked at.


def get_caller_identity(s3: S3Server, request: Request) -> Response:
    asked = dict(parse_qsl(request.body.decode("utf-8", "replace")))
    if not s3.sts:
        raise not_implemented()
    if asked.get("Action") != "GetCallerIdentity":
        raise S3Error(400, "InvalidAction", f"Could not find operation {asked.get('Action')}")
    if request.principal in s3.unknown_keys:
        raise S3Error(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
    if {request.principal, request.header("x-amz-security-token")} & s3.expired_tokens:
        raise S3Error(403, "ExpiredToken", "The security token included in the request is expired")
    account, arn = s3._identity(request.principal)
    response = xml(
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
        f"{tag('Arn', arn)}{tag('UserId', 'AIDAFAKEFAKEFAKEFAKE')}{tag('Account', account)}</GetCallerIdentityResult>"
        "<ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
    response.headers[0] = ("Content-Type", "text/xml")
    return response


def list_buckets(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """BucketRegion is given only if the request has at least one parameter, as the API page says."""
    account = s3._identity(request.principal)[0]
    asked = {"max-buckets", "continuation-token", "prefix", "bucket-region"} & request.query.keys()
    most = number(request, "max-buckets", 10_000, 10_000)
    start = _untoken(request.query.get("continuation-token", ""))
    names = [
        one.name
        for one in sorted(s3.buckets.values(), key=lambda one: one.name)
        if one.owner == account
        and one.name > start
        and one.name.startswith(request.query.get("prefix", ""))
        and one.region == request.query.get("bucket-region", one.region)
    ]
    rows = []
    for name in names[:most]:
        one = s3.buckets[name]
        region = tag("BucketRegion", one.region) if asked else ""
        rows.append(f"<Bucket>{tag('Name', name)}{tag('CreationDate', iso(one.created))}{region}</Bucket>")
    more = tag("ContinuationToken", _token(names[most - 1])) if len(names) > most else ""
    return xml(
        f"<ListAllMyBucketsResult {NAMESPACE}>{owner_xml(account)}<Buckets>{''.join(rows)}</Buckets>{more}"
        "</ListAllMyBucketsResult>"
    )


def create_bucket(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    account = s3._identity(request.principal)[0]
    region = "us-east-1"
    if request.body:
        region = parsed(request.body).findtext("LocationConstraint") or region
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", request.bucket):
        raise S3Error(400, "InvalidBucketName", "The specified bucket is not valid.", BucketName=request.bucket)
    there = s3.buckets.get(request.bucket)
    if there and there.owner != account:
        raise S3Error(409, "BucketAlreadyExists", "The requested bucket name is not available.")
    if there and there.region != "us-east-1":
        message = "Your previous request to create the named bucket succeeded and you already own it."
        raise S3Error(409, "BucketAlreadyOwnedByYou", message, BucketName=request.bucket)
    if not there:
        locked = request.header("x-amz-bucket-object-lock-enabled").lower() == "true"
        s3.bucket(request.bucket, None, account, region, locked)
    return Response(200, [("Location", f"/{request.bucket}")])


def head_bucket(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    return Response(200, [("x-amz-bucket-region", bucket.region), ("x-amz-access-point-alias", "false")])


def delete_bucket(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    if bucket.objects or bucket.uploads:
        raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty", BucketName=bucket.name)
    del s3.buckets[bucket.name]
    return Response(204)


def get_bucket_location(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    where = "" if bucket.region == "us-east-1" else bucket.region
    return xml(f"<LocationConstraint {NAMESPACE}>{where}</LocationConstraint>")


def get_bucket_versioning(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    inner = tag("Status", bucket.versioning) if bucket.versioning else ""
    if bucket.mfa_delete:
        inner += tag("MfaDelete", "Enabled")
    return xml(f"<VersioningConfiguration {NAMESPACE}>{inner}</VersioningConfiguration>")


def put_bucket_versioning(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    asked = parsed(request.body)
    status, mfa = asked.findtext("Status"), asked.findtext("MfaDelete")
    if status not in ("Enabled", "Suspended"):
        raise (
            malformed()
            if status
            else S3Error(400, "IllegalVersioningConfigurationException", "The Versioning element must be specified")
        )
    if (mfa == "Enabled" or bucket.mfa_delete) and not request.header("x-amz-mfa"):
        raise access_denied("Mfa Authentication must be used for this request")
    if status == "Suspended" and bucket.object_lock:
        raise S3Error(
            409,
            "InvalidBucketState",
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
        )
    bucket.versioning = status
    if mfa:
        bucket.mfa_delete = mfa == "Enabled"
    return Response(200)


def get_acl(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    if request.key:
        find(s3, bucket, request)
    return xml(
        f"<AccessControlPolicy {NAMESPACE}>{owner_xml(bucket.owner)}<AccessControlList><Grant>"
        '<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser">'
        f"{tag('ID', canonical_id(bucket.owner))}</Grantee><Permission>FULL_CONTROL</Permission></Grant>"
        "</AccessControlList></AccessControlPolicy>"
    )


def policy_status(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    if "policy" not in bucket.settings:
        raise S3Error(404, "NoSuchBucketPolicy", "The bucket policy does not exist", BucketName=bucket.name)
    return xml(f"<PolicyStatus {NAMESPACE}><IsPublic>FALSE</IsPublic></PolicyStatus>")


def setting_operation(name: str) -> Callable[[S3Server, Bucket, Request], Response]:
    setting = SETTINGS[name]

    def operation(s3: S3Server, bucket: Bucket, request: Request) -> Response:
        if request.method == "GET":
            document = bucket.settings.get(name)
            if document is None and setting.missing:
                code, message = setting.missing
                raise S3Error(404, code, message, BucketName=bucket.name)
            kind = "application/json" if name == "policy" else "application/xml"
            return Response(200, [("Content-Type", kind)], document or setting.default.encode())
        if request.method == "DELETE":
            bucket.settings.pop(name, None)
            return Response(204)
        if name == "policy":
            try:
                json.loads(request.body)["Statement"]
            except (ValueError, KeyError, TypeError):
                raise S3Error(400, "MalformedPolicy", "This policy contains invalid Json") from None
        else:
            parsed(request.body)
        if name == "object-lock":
            if bucket.versioning != "Enabled":
                message = "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration"
                raise S3Error(409, "InvalidBucketState", message)
            bucket.object_lock = True
        bucket.settings[name] = request.body
        return Response(204 if name == "policy" else 200)

    return operation


def named_setting_operation(name: str) -> Callable[[S3Server, Bucket, Request], Response]:
    title = NAMED_SETTINGS[name][0]

    def operation(s3: S3Server, bucket: Bucket, request: Request) -> Response:
        place = f"{name}#{request.query.get('id', '')}"
        if request.method == "GET" and "id" not in request.query:
            documents = [body for held, body in sorted(bucket.settings.items()) if held.startswith(f"{name}#")]
            inner = "".join(re.sub(r"^<\?xml[^>]*>\s*", "", body.decode()) for body in documents)
            root = f"List{'Bucket' if name == 'intelligent-tiering' else ''}{title}ConfigurationsResult"
            return xml(f"<{root} {NAMESPACE}>{inner}<IsTruncated>false</IsTruncated></{root}>")
        if request.method == "PUT":
            parsed(request.body)
            bucket.settings[place] = request.body
            return Response(200)
        if place not in bucket.settings:
            raise S3Error(404, "NoSuchConfiguration", "The specified configuration does not exist.")
        if request.method == "DELETE":
            del bucket.settings[place]
            return Response(204)
        return Response(200, [("Content-Type", "application/xml")], bucket.settings[place])

    return operation


def _token(after: str) -> str:
    return base64.urlsafe_b64encode(b"1" + after.encode()).decode()


def _untoken(token: str) -> str:
    if not token:
        return ""
    try:
        raw = base64.urlsafe_b64decode(token)
        if raw[:1] != b"1":
            raise ValueError(token)
        return raw[1:].decode()
    except ValueError:
        raise invalid("The continuation token provided is incorrect") from None


def entries(
    keys: list[str], prefix: str, delimiter: str, after: str, visible: Callable[[str], bool]
) -> Iterator[tuple[str, bool]]:
    """Keys under a prefix behind a marker, in order; (common prefix, True) once in place of all that it covers."""

    def rolled(key: str) -> str:
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        return key[: end + len(delimiter)] if end >= 0 else ""

    place = bisect_left(keys, prefix) if after < prefix else bisect_right(keys, after)
    behind = after if after.startswith(prefix) and rolled(after) == after else ""  # the last answer ended in a prefix
    while place < len(keys) and keys[place].startswith(prefix):
        key = keys[place]
        common = rolled(key)
        if common and common == behind:
            place = bisect_left(keys, common + "\U0010ffff", place + 1)
        elif not visible(key):
            place += 1
        elif common:
            yield common, True
            place = max(place + 1, bisect_left(keys, common + "\U0010ffff"))
        else:
            yield key, False
            place += 1


def encoder(request: Request) -> Callable[[str], str]:
    kind = request.query.get("encoding-type")
    if kind not in (None, "url"):
        raise invalid("Invalid Encoding Method specified in Request", ArgumentName="encoding-type", ArgumentValue=kind)
    return (lambda value: quote_plus(value, safe="/*-._")) if kind else str


def listed(s3: S3Server, bucket: Bucket, request: Request, version: Version, owner: bool) -> str:
    """What the listings say of an object besides its key and id."""
    rows = [tag("LastModified", iso(version.last_modified)), tag("ETag", f'"{version.etag}"')]
    rows += [tag("ChecksumAlgorithm", name) for name in version.checksums]
    if version.checksum_type:
        rows.append(tag("ChecksumType", version.checksum_type))
    rows.append(f"<Size>{version.size}</Size>")
    if owner:
        rows.append(owner_xml(bucket.owner))
    rows.append(tag("StorageClass", version.storage_class))
    wanted = s3.restore_status_in_lists and "RestoreStatus" in request.header("x-amz-optional-object-attributes")
    if wanted and version.restore_ready is not None:
        now = s3.clock()
        settle(version, now)
        if version.restore_ready is not None:
            ongoing = now < version.restore_ready
            status = tag("IsRestoreInProgress", str(ongoing).lower())
            if not ongoing and version.restore_expiry is not None:
                status += tag("RestoreExpiryDate", iso(version.restore_expiry))
            rows.append(f"<RestoreStatus>{status}</RestoreStatus>")
    return "".join(rows)


def list_objects(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """ListObjects and ListObjectsV2."""
    query, second = request.query, request.op == "ListObjectsV2"
    show = encoder(request)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most = number(request, "max-keys", 1000)
    token = query.get("continuation-token")
    if token == "":
        raise invalid("The continuation token provided is incorrect", ArgumentName="continuation-token")
    after = (_untoken(token or "") or query.get("start-after", "")) if second else query.get("marker", "")
    objects = bucket.objects
    page: list[tuple[str, bool]] = []
    truncated = False
    for entry in entries(bucket.keys, prefix, delimiter, after, lambda key: not objects[key][0].is_marker):
        if len(page) >= most:
            truncated = most > 0
            break
        page.append(entry)
    owner = not second or query.get("fetch-owner") == "true"
    rows = [
        f"<Contents>{tag('Key', show(key))}{listed(s3, bucket, request, objects[key][0], owner)}</Contents>"
        for key, common in page
        if not common
    ]
    rows += [f"<CommonPrefixes>{tag('Prefix', show(key))}</CommonPrefixes>" for key, common in page if common]
    head = tag("Name", bucket.name) + tag("Prefix", show(prefix)) + tag("MaxKeys", most)
    if second:
        head += tag("KeyCount", len(page))
        head += tag("ContinuationToken", token) if token else ""
        head += tag("StartAfter", show(query["start-after"])) if query.get("start-after") and not token else ""
        head += tag("NextContinuationToken", _token(page[-1][0])) if truncated else ""
    else:
        head += tag("Marker", show(after))
        head += tag("NextMarker", show(page[-1][0])) if truncated and delimiter else ""
    head += tag("Delimiter", show(delimiter)) if delimiter else ""
    head += tag("EncodingType", "url") if "encoding-type" in query else ""
    head += tag("IsTruncated", str(truncated).lower())
    return xml(f"<ListBucketResult {NAMESPACE}>{head}{''.join(rows)}</ListBucketResult>")


def list_object_versions(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """An unknown version-id marker is refused ("Invalid version id specified"); one since deleted still has its place."""
    if not s3.versions_listing:
        raise not_implemented()
    query = request.query
    show = encoder(request)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most = number(request, "max-keys", 1000)
    after, after_id = query.get("key-marker", ""), query.get("version-id-marker")
    if after_id == "":
        raise invalid("A version-id marker cannot be empty.", ArgumentName="version-id-marker")
    if after_id is not None and not after:
        raise invalid("A version-id marker cannot be specified without a key marker.")
    if after_id is not None and (after, after_id) not in bucket.issued:
        raise invalid("Invalid version id specified", ArgumentName="version-id-marker", ArgumentValue=after_id)

    def walk() -> Iterator[tuple[str, Version | None, bool]]:
        if after_id is not None and after.startswith(prefix):
            mark = bucket.issued[after, after_id]
            for place, version in enumerate(bucket.objects.get(after, ())):
                if version.sequence < mark:
                    yield after, version, place == 0
        for key, common in entries(bucket.keys, prefix, delimiter, after, lambda _: True):
            if common:
                yield key, None, False
            else:
                for place, version in enumerate(bucket.objects[key]):
                    yield key, version, place == 0

    rows: list[str] = []
    prefixes: list[str] = []
    truncated = False
    last: tuple[str, str] | None = None
    for key, version, latest in walk():
        if len(rows) + len(prefixes) >= most:
            truncated = most > 0
            break
        if version is None:
            prefixes.append(f"<CommonPrefixes>{tag('Prefix', show(key))}</CommonPrefixes>")
            last = (key, "")
            continue
        last = (key, version.version_id)
        inner = tag("Key", show(key)) + tag("VersionId", version.version_id) + tag("IsLatest", str(latest).lower())
        if version.is_marker:
            inner += tag("LastModified", iso(version.last_modified)) + owner_xml(bucket.owner)
            rows.append(f"<DeleteMarker>{inner}</DeleteMarker>")
        else:
            rows.append(f"<Version>{inner}{listed(s3, bucket, request, version, True)}</Version>")
    head = tag("Name", bucket.name) + tag("Prefix", show(prefix)) + tag("KeyMarker", show(after))
    head += tag("VersionIdMarker", after_id or "")
    if truncated and last:
        head += tag("NextKeyMarker", show(last[0])) + (tag("NextVersionIdMarker", last[1]) if last[1] else "")
    head += tag("MaxKeys", most) + (tag("Delimiter", show(delimiter)) if delimiter else "")
    head += tag("EncodingType", "url") if "encoding-type" in query else ""
    head += tag("IsTruncated", str(truncated).lower())
    return xml(f"<ListVersionsResult {NAMESPACE}>{head}{''.join(rows)}{''.join(prefixes)}</ListVersionsResult>")


def find(s3: S3Server, bucket: Bucket, request: Request) -> Version:
    """The version that the request names; S3's own error where there is none or it is a delete marker."""
    history = bucket.objects.get(request.key, [])
    asked = request.version_id
    if "versionId" in request.query and not asked:
        raise invalid("Version id cannot be the empty string", ArgumentName="versionId", ArgumentValue="")
    hidden = s3._refuse(request, "s3:ListBucket", "")
    if not asked:
        if history and not history[0].is_marker:
            return history[0]
        if hidden:  # who may not list must not learn what is missing
            raise access_denied()
        marker = [("x-amz-delete-marker", "true"), ("x-amz-version-id", history[0].version_id)] if history else []
        raise no_such_key(request.key, marker)
    version = next((one for one in history if one.version_id == asked), None)
    if version is None:
        if asked != "null" and (request.key, asked) not in bucket.issued:
            raise invalid("Invalid version id specified", ArgumentName="versionId", ArgumentValue=asked)
        message = "The specified version does not exist."
        raise S3Error(404, "NoSuchVersion", message, Key=request.key, VersionId=asked)
    if version.is_marker:
        marker = [("x-amz-delete-marker", "true"), ("x-amz-version-id", asked), ("Allow", "DELETE")]
        message = "The specified method is not allowed against this resource."
        raise S3Error(405, "MethodNotAllowed", message, headers=marker, Method=request.method)
    return version


def version_header(bucket: Bucket, version: Version) -> list[tuple[str, str]]:
    return [("x-amz-version-id", version.version_id)] if bucket.versioning else []


def encryption_headers(version: Version) -> list[tuple[str, str]]:
    if version.encryption == "SSE-C":
        prefix = "x-amz-server-side-encryption-customer"
        return [(f"{prefix}-algorithm", "AES256"), (f"{prefix}-key-MD5", version.customer_key_md5)]
    rows = [("x-amz-server-side-encryption", version.encryption)] if version.encryption else []
    if version.kms_key_id:
        rows.append(("x-amz-server-side-encryption-aws-kms-key-id", version.kms_key_id))
    return rows


def need_customer_key(version: Version, request: Request) -> None:
    sent = request.header("x-amz-server-side-encryption-customer-key-md5")
    if version.encryption == "SSE-C":
        if not sent:
            raise S3Error(
                400,
                "InvalidRequest",
                "The object was stored using a form of Server Side Encryption. "
                "The correct parameters must be provided to retrieve the object.",
            )
        if sent != version.customer_key_md5:
            raise access_denied()
    elif sent:
        message = "The encryption parameters are not applicable to this object."
        raise S3Error(400, "InvalidRequest", message)


def conditions(version: Version, request: Request) -> None:
    """RFC 9110, 13.2.2, as far as reads go."""
    stamp = math.floor(version.last_modified)
    if "if-match" in request.headers:
        if not same_etag(request.header("if-match"), version.etag):
            raise precondition("If-Match")
    elif (since := _date(request.header("if-unmodified-since"))) is not None and stamp > since:
        raise precondition("If-Unmodified-Since")
    if "if-none-match" in request.headers:
        if same_etag(request.header("if-none-match"), version.etag):
            raise S3Error(304, "NotModified", headers=[("ETag", f'"{version.etag}"')])
    elif (since := _date(request.header("if-modified-since"))) is not None and stamp <= since:
        raise S3Error(304, "NotModified", headers=[("ETag", f'"{version.etag}"')])


def _date(header: str) -> float | None:
    try:
        return parsedate_to_datetime(header).timestamp()
    except (TypeError, ValueError):
        return None


def read_object(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """GetObject and HeadObject."""
    version = find(s3, bucket, request)
    now = s3.clock()
    get = request.method == "GET"
    need_customer_key(version, request)
    checksum_mode = request.header("x-amz-checksum-mode").upper() == "ENABLED"
    if version.kms_key_id and (get or checksum_mode) and s3._refuse(request, "kms:Decrypt"):
        raise s3._denied(request, "kms:Decrypt")
    conditions(version, request)
    if get and is_archived(version, now):
        more: dict[str, Any] = {"AccessTier": version.archive_status} if version.archive_status else {}
        message = "The operation is not valid for the object's storage class"
        raise S3Error(403, "InvalidObjectState", message, StorageClass=version.storage_class, **more)
    headers = [("Last-Modified", http_date(version.last_modified)), ("ETag", f'"{version.etag}"')]
    headers += [("Accept-Ranges", "bytes"), *version_header(bucket, version), *encryption_headers(version)]
    headers += [(name, value) for name, value in version.headers.items() if name != "content-type"]
    headers.append(("Content-Type", version.headers.get("content-type") or "binary/octet-stream"))
    headers += [(f"x-amz-meta-{name}", value) for name, value in version.metadata.items()]
    headers += state_headers(s3, version, request, now)
    size = version.size
    start, end, status, part = 0, size, 200, 0
    if "partNumber" in request.query:
        part = number(request, "partNumber", 0, None)
        count = max(1, len(version.parts))
        if not 1 <= part <= 10_000:
            message = "Part number must be an integer between 1 and 10000, inclusive"
            raise invalid(message, ArgumentName="partNumber", ArgumentValue=part)
        if part > count:
            message = "The requested partnumber is not satisfiable"
            raise S3Error(416, "InvalidPartNumber", message, PartNumberRequested=part, ActualPartCount=count)
        if version.parts:
            start = sum(one.size for one in version.parts[: part - 1])
            end = start + version.parts[part - 1].size
            headers.append(("x-amz-mp-parts-count", str(count)))
        status = 206 if size else 200
    elif found := re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", request.header("range")):
        first, last = found.groups()
        if first or last:
            start = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
            if start >= size or end <= start:
                message = "The requested range is not satisfiable"
                more = {"RangeRequested": request.header("range"), "ActualObjectSize": str(size)}
                raise S3Error(416, "InvalidRange", message, headers=[("Content-Range", f"bytes */{size}")], **more)
            status = 206
    if status == 206:
        headers.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
    if checksum_mode:
        headers += checksum_headers(version, part, ranged=status == 206 and not part)
    body = memoryview(version.body)[start:end] if end - start < size else version.body
    return Response(status, headers, body if get else b"", end - start)


def checksum_headers(version: Version, part: int, ranged: bool) -> list[tuple[str, str]]:
    """A range has none, a part of a multipart upload its own where the checksums are COMPOSITE."""
    if ranged:
        return []
    if part and version.parts:
        values = dict(version.parts[part - 1].checksums)
    elif version.parts and version.checksum_type == "COMPOSITE":
        values = {name: f"{value}-{len(version.parts)}" for name, value in version.checksums.items()}
    else:
        values = version.checksums
    rows = [(f"x-amz-checksum-{name.lower()}", value) for name, value in values.items()]
    return [*rows, ("x-amz-checksum-type", version.checksum_type)] if rows else []


def state_headers(s3: S3Server, version: Version, request: Request, now: float) -> list[tuple[str, str]]:
    rows = []
    settle(version, now)
    if version.storage_class != "STANDARD":
        rows.append(("x-amz-storage-class", version.storage_class))
    if version.archive_status:
        rows.append(("x-amz-archive-status", version.archive_status))
    if version.restore_ready is not None:
        if now < version.restore_ready:
            rows.append(("x-amz-restore", 'ongoing-request="true"'))
        elif version.restore_expiry is not None:
            expiry = http_date(version.restore_expiry)
            rows.append(("x-amz-restore", f'ongoing-request="false", expiry-date="{expiry}"'))
    # Lock headers are left out, without a word, for who may not read them.
    if version.retain_until is not None and not s3._refuse(request, "s3:GetObjectRetention"):
        rows.append(("x-amz-object-lock-mode", version.lock_mode))
        rows.append(("x-amz-object-lock-retain-until-date", iso(version.retain_until)))
    if version.event_hold and not s3._refuse(request, "s3:GetObjectRetention"):
        rows.append(("x-amz-object-lock-event-hold", version.event_hold))
    if version.legal_hold and not s3._refuse(request, "s3:GetObjectLegalHold"):
        rows.append(("x-amz-object-lock-legal-hold", version.legal_hold))
    if version.replication_status:
        rows.append(("x-amz-replication-status", version.replication_status))
    if version.tags:
        rows.append(("x-amz-tagging-count", str(len(version.tags))))
    return rows


def get_object_attributes(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """ETag without quotes, COMPOSITE checksums without -N, parts listed only where they have checksums."""
    version = find(s3, bucket, request)
    need_customer_key(version, request)
    if version.kms_key_id and s3._refuse(request, "kms:Decrypt"):
        raise s3._denied(request, "kms:Decrypt")
    wanted = {name.strip() for name in request.header("x-amz-object-attributes").split(",")} - {""}
    if not wanted or wanted - {"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}:
        raise invalid("Invalid attribute name specified.")
    inner = tag("ETag", version.etag) if "ETag" in wanted else ""
    if "Checksum" in wanted and version.checksums:
        rows = "".join(tag(f"Checksum{name}", value) for name, value in version.checksums.items())
        inner += f"<Checksum>{rows}{tag('ChecksumType', version.checksum_type)}</Checksum>"
    if "ObjectParts" in wanted and version.parts:
        parts = tag("PartsCount", len(version.parts))
        if version.parts[0].checksums:
            most = min(1000, int(request.header("x-amz-max-parts") or 1000))
            marker = int(request.header("x-amz-part-number-marker") or 0)
            page = list(enumerate(version.parts, 1))[marker : marker + most]
            parts += tag("PartNumberMarker", marker) + tag("NextPartNumberMarker", page[-1][0] if page else 0)
            parts += tag("MaxParts", most) + tag("IsTruncated", str(marker + most < len(version.parts)).lower())
            for place, part in page:
                sums = "".join(tag(f"Checksum{name}", value) for name, value in part.checksums.items())
                parts += f"<Part>{tag('PartNumber', place)}{tag('Size', part.size)}{sums}</Part>"
        inner += f"<ObjectParts>{parts}</ObjectParts>"
    inner += tag("StorageClass", version.storage_class) if "StorageClass" in wanted else ""
    inner += tag("ObjectSize", version.size) if "ObjectSize" in wanted else ""
    headers = [("Last-Modified", http_date(version.last_modified)), *version_header(bucket, version)]
    return xml(f"<GetObjectAttributesResponse {NAMESPACE}>{inner}</GetObjectAttributesResponse>", headers=headers)


def sent_checksums(request: Request, body: bytes) -> dict[str, str]:
    """Checksums that came with a body, each compared with the body."""
    declared = request.header("content-md5")
    if declared and declared != b64(digest("MD5", body)):
        raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
    whole = request.header("x-amz-content-sha256")
    if re.fullmatch("[0-9a-f]{64}", whole) and whole != hashlib.sha256(body).hexdigest():
        message = "The provided 'x-amz-content-sha256' header does not match what was computed."
        raise S3Error(400, "XAmzContentSHA256Mismatch", message)
    sums = {}
    for name in ALGORITHMS:
        if value := request.header(f"x-amz-checksum-{name.lower()}"):
            if value != b64(digest(name, body)):
                raise S3Error(400, "BadDigest", f"The {name} you specified did not match the calculated checksum.")
            sums[name] = value
    return sums


def described(s3: S3Server, bucket: Bucket, request: Request) -> Version:
    """A version with all that PutObject or CreateMultipartUpload says of it besides its bytes."""
    storage_class = request.header("x-amz-storage-class") or "STANDARD"
    if storage_class not in CLASSES:
        raise S3Error(400, "InvalidStorageClass", "The storage class you specified is not valid")
    version = Version(request.key, storage_class=storage_class)
    version.headers = {name: request.headers[name] for name in KEPT_HEADERS if name in request.headers}
    if request.header("content-encoding"):
        version.headers["content-encoding"] = request.header("content-encoding")
    version.metadata = {
        name.removeprefix("x-amz-meta-"): value
        for name, value in request.headers.items()
        if name.startswith("x-amz-meta-")
    }
    version.tags = dict(parse_qsl(request.header("x-amz-tagging"), keep_blank_values=True))
    default = "aws:kms" if b"aws:kms" in bucket.settings.get("encryption", b"") else "AES256"
    version.encryption = request.header("x-amz-server-side-encryption") or default
    version.kms_key_id = request.header("x-amz-server-side-encryption-aws-kms-key-id")
    if key_md5 := request.header("x-amz-server-side-encryption-customer-key-md5"):
        version.encryption, version.customer_key_md5 = "SSE-C", key_md5
    mode, until = request.header("x-amz-object-lock-mode"), request.header("x-amz-object-lock-retain-until-date")
    hold = request.header("x-amz-object-lock-legal-hold")
    if (mode or until or hold) and not bucket.object_lock:
        raise S3Error(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
    version.lock_mode, version.legal_hold = mode, hold
    version.retain_until = from_iso(until) if until else None
    rule = parsed(bucket.settings["object-lock"]).find("Rule/DefaultRetention") if bucket.object_lock else None
    if rule is not None and not mode:
        days = int(rule.findtext("Days") or 0) + 365 * int(rule.findtext("Years") or 0)
        version.lock_mode = rule.findtext("Mode") or "GOVERNANCE"
        version.retain_until = s3.clock() + 86400 * days
    return version


def write_conditions(bucket: Bucket, request: Request) -> None:
    history = bucket.objects.get(request.key, [])
    current = history[0] if history and not history[0].is_marker else None
    if request.header("if-none-match") == "*" and current:
        raise precondition("If-None-Match")
    if "if-match" in request.headers:
        if current is None:
            raise no_such_key(request.key)
        if not same_etag(request.header("if-match"), current.etag):
            raise precondition("If-Match")


def put_object(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    if "x-amz-copy-source" in request.headers:
        raise not_implemented()
    sums = sent_checksums(request, request.body)
    write_conditions(bucket, request)
    version = described(s3, bucket, request)
    version.body = request.body
    seal(version, (), tuple(sums) or ("CRC64NVME",), "FULL_OBJECT")
    s3._insert(bucket, version)
    headers = [("ETag", f'"{version.etag}"'), *version_header(bucket, version), *encryption_headers(version)]
    return Response(200, [*headers, *checksum_headers(version, 0, ranged=False)])


def delete_version(s3: S3Server, bucket: Bucket, request: Request, version: Version) -> None:
    if bucket.mfa_delete and not request.header("x-amz-mfa"):
        raise access_denied("Mfa Authentication must be used for this request")
    bypass = request.header("x-amz-bypass-governance-retention").lower() == "true"
    if bypass and s3._refuse(request, "s3:BypassGovernanceRetention", version.key):
        bypass = False
    if is_locked(version, s3.clock(), bypass):
        raise access_denied("Access Denied because object protected by object lock.")
    s3._delete_data(bucket, version, request)


def delete_current(s3: S3Server, bucket: Bucket, request: Request, key: str, etag: str | None) -> Version | None:
    """A delete that names no version. `etag` is its condition, looked at on the current version only.

    versioning | what happens
    -----------|---------------------------------------------------------------
    never      | the object is gone
    Enabled    | a delete marker on top
    Suspended  | the null version, if any, is gone; a null delete marker on top
    """
    history = bucket.objects.get(key, [])
    current = history[0] if history and not history[0].is_marker else None
    if etag is not None and s3.honours_if_match:
        if current is None:
            raise no_such_key(key)
        if s3.honours_if_match is True and not same_etag(etag, current.etag):
            raise precondition("If-Match")
    if not bucket.versioning:
        if current:
            delete_version(s3, bucket, request, current)
        return None
    null = next((one for one in history if one.version_id == "null" and not one.is_marker), None)
    if bucket.versioning == "Suspended" and null:
        s3._delete_data(bucket, null, request)
    return s3._insert(bucket, Version(key, is_marker=True))


def delete_object(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    for name in ("x-amz-if-match-size", "x-amz-if-match-last-modified-time"):  # directory buckets only
        if name in request.headers:
            raise not_implemented(Header=name)
    asked = request.version_id
    if not asked:
        marker = delete_current(s3, bucket, request, request.key, request.headers.get("if-match"))
        if marker is None:
            return Response(204)
        return Response(204, [("x-amz-delete-marker", "true"), ("x-amz-version-id", marker.version_id)])
    if "if-match" in request.headers and s3.honours_if_match:
        raise not_implemented(Header="If-Match")
    version = next((one for one in bucket.objects.get(request.key, ()) if one.version_id == asked), None)
    if version is None:
        if asked != "null" and (request.key, asked) not in bucket.issued:
            raise invalid("Invalid version id specified", ArgumentName="versionId", ArgumentValue=asked)
        return Response(204, [("x-amz-version-id", asked)])
    delete_version(s3, bucket, request, version)
    headers = [("x-amz-delete-marker", "true")] if version.is_marker else []
    return Response(204, [*headers, ("x-amz-version-id", asked)] if bucket.versioning else headers)


def delete_objects(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """HTTP 200 whatever becomes of the single keys. VersionId with ETag is refused: what S3 does is not established."""
    sums = sent_checksums(request, request.body)
    if not sums and not request.header("content-md5"):
        raise S3Error(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
    root = parsed(request.body)
    doomed = root.findall("Object")
    if not 1 <= len(doomed) <= 1000 or any(not one.findtext("Key") for one in doomed):
        raise malformed()
    if bucket.mfa_delete and any(one.findtext("VersionId") for one in doomed) and not request.header("x-amz-mfa"):
        raise access_denied("Mfa Authentication must be used for this request")
    quiet = root.findtext("Quiet") == "true"
    rows = []
    for one in doomed:
        key, asked = one.findtext("Key") or "", one.findtext("VersionId") or ""
        named = tag("Key", key) + (tag("VersionId", asked) if asked else "")
        try:
            result = _delete_one(s3, bucket, request, one, key, asked)
        except S3Error as error:
            rows.append(f"<Error>{named}{tag('Code', error.code)}{tag('Message', error.message)}</Error>")
            continue
        if not quiet:
            rows.append(f"<Deleted>{named}{result}</Deleted>")
    return xml(f"<DeleteResult {NAMESPACE}>{''.join(rows)}</DeleteResult>")


def _delete_one(s3: S3Server, bucket: Bucket, request: Request, one: ET.Element, key: str, asked: str) -> str:
    action = "s3:DeleteObjectVersion" if asked else "s3:DeleteObject"
    if s3._refuse(request, action, key):
        raise s3._denied(request, action, key)
    etag = one.findtext("ETag")
    if one.find("LastModifiedTime") is not None or one.find("Size") is not None:
        raise not_implemented()
    if not asked:
        marker = delete_current(s3, bucket, request, key, etag)
        if marker is None:
            return ""
        return tag("DeleteMarker", "true") + tag("DeleteMarkerVersionId", marker.version_id)
    if etag is not None and s3.honours_if_match:
        raise not_implemented()
    version = next((held for held in bucket.objects.get(key, ()) if held.version_id == asked), None)
    if version is None:
        if s3.gone_versions == "deleted" and (key, asked) in bucket.issued:
            return ""
        raise S3Error(404, "NoSuchVersion", "The specified version does not exist.")
    delete_version(s3, bucket, request, version)
    if version.is_marker:
        return tag("DeleteMarker", "true") + tag("DeleteMarkerVersionId", asked)
    return ""


def restore_object(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """202 begun, 200 already there (the expiry moves), 409 under way.

    The copy expires Days after the request, rounded up to midnight UTC; where that would be before the copy is
    there at all, the days count from its arrival.
    """
    version = find(s3, bucket, request)
    now = s3.clock()
    settle(version, now)
    asked = parsed(request.body)
    days_text = asked.findtext("Days")
    tier = asked.findtext("GlacierJobParameters/Tier") or asked.findtext("Tier") or ""
    if tier and tier not in SPEEDS:
        raise malformed()
    if days_text is not None and (not days_text.isdecimal() or int(days_text) < 1):
        raise invalid("Restoration days should be at least 1")
    days = int(days_text or 0)
    if version.storage_class == "INTELLIGENT_TIERING":
        if days:
            raise invalid("Days cannot be specified when restoring from the INTELLIGENT_TIERING storage class")
        if not version.archive_status:
            message = "This action is not allowed against this storage tier."
            raise S3Error(403, "ObjectAlreadyInActiveTierError", message)
        speed_class = "DEEP_ARCHIVE" if version.archive_status.startswith("DEEP") else "GLACIER"
    elif version.storage_class in ARCHIVED:
        if not days:
            raise malformed()
        speed_class = version.storage_class
    else:
        message = "Restore is not allowed for the object's current storage class"
        raise S3Error(403, "InvalidObjectState", message, StorageClass=version.storage_class)
    if tier == "Expedited" and speed_class == "DEEP_ARCHIVE":
        raise invalid("Retrieval option is not supported by this storage class")
    speed = tier or "Standard"
    if version.restore_ready is not None and now >= version.restore_ready:  # an active copy
        version.restore_expiry = midnight_after(now + 86400 * days)
        return Response(200)
    faster = bool(tier) and SPEEDS.index(speed) > SPEEDS.index(version.restore_tier or "Standard")
    if version.restore_ready is not None and not (faster and days == version.restore_days):
        raise S3Error(409, "RestoreAlreadyInProgress", "Object restore is already in progress")
    if speed == "Expedited" and not s3.expedited_capacity:
        message = "Glacier expedited retrievals are currently not available, please try again later"
        raise S3Error(503, "GlacierExpeditedRetrievalNotAvailable", message)
    seconds = RESTORE_SECONDS[speed_class, speed] if s3.restore_seconds is None else s3.restore_seconds
    ready = now + seconds
    version.restore_ready = ready if version.restore_ready is None else min(ready, version.restore_ready)
    version.restore_days, version.restore_tier = days, speed
    if days:
        expiry = midnight_after(now + 86400 * days)
        version.restore_expiry = expiry if expiry > ready else midnight_after(ready + 86400 * days)
    return Response(202)


def midnight_after(moment: float) -> float:
    return math.ceil(moment / 86400) * 86400.0


def create_multipart_upload(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    asked = request.header("x-amz-checksum-algorithm").upper()
    kind = request.header("x-amz-checksum-type").upper()
    algorithm = asked or "CRC64NVME"
    if algorithm not in ALGORITHMS:
        message = "Checksum algorithm provided is unsupported. Please try again with any of the valid types"
        raise S3Error(400, "InvalidRequest", message)
    if kind and not asked:
        raise S3Error(400, "InvalidRequest", "The x-amz-checksum-type header can only be used with an algorithm.")
    fits = {
        "CRC64NVME": ("FULL_OBJECT",),
        "CRC32": ("COMPOSITE", "FULL_OBJECT"),
        "CRC32C": ("COMPOSITE", "FULL_OBJECT"),
    }
    kinds = fits.get(algorithm, ("COMPOSITE",))
    if kind and kind not in kinds:
        message = f"The {kind} checksum type cannot be used with the {algorithm.lower()} checksum algorithm."
        raise S3Error(400, "InvalidRequest", message)
    upload = Upload(
        secrets.token_urlsafe(48),
        request.key,
        s3.clock(),
        described(s3, bucket, request),
        algorithm,
        kind or kinds[0],
        bool(asked),
    )
    bucket.uploads[upload.upload_id] = upload
    headers = list(encryption_headers(upload.model))
    if asked:
        headers += [("x-amz-checksum-algorithm", algorithm), ("x-amz-checksum-type", upload.checksum_type)]
    inner = tag("Bucket", bucket.name) + tag("Key", request.key) + tag("UploadId", upload.upload_id)
    return xml(f"<InitiateMultipartUploadResult {NAMESPACE}>{inner}</InitiateMultipartUploadResult>", headers=headers)


def find_upload(bucket: Bucket, request: Request) -> Upload:
    upload = bucket.uploads.get(request.query.get("uploadId", ""))
    if upload is None or upload.key != request.key:
        message = (
            "The specified upload does not exist. The upload ID may be invalid, "
            "or the upload may have been aborted or completed."
        )
        raise S3Error(404, "NoSuchUpload", message, UploadId=request.query.get("uploadId", ""))
    return upload


def upload_part(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    if "x-amz-copy-source" in request.headers:
        raise not_implemented()
    upload = find_upload(bucket, request)
    place = number(request, "partNumber", 0, None)
    if not 1 <= place <= 10_000:
        message = "Part number must be an integer between 1 and 10000, inclusive"
        raise invalid(message, ArgumentName="partNumber", ArgumentValue=place)
    sums = sent_checksums(request, request.body)
    if upload.declared and sums and upload.algorithm not in sums:
        sent = next(iter(sums)).lower()
        message = (
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.algorithm.lower()}, "
            f"actual checksum Type: {sent}"
        )
        raise S3Error(400, "InvalidRequest", message)
    part = UploadedPart(request.body, md5_hex(request.body), sums, s3.clock())
    if upload.model.encryption in ("aws:kms", "aws:kms:dsse", "SSE-C"):
        part.etag = secrets.token_hex(16)
    upload.parts[place] = part
    rows = [(f"x-amz-checksum-{name.lower()}", value) for name, value in sums.items()]
    return Response(200, [("ETag", f'"{part.etag}"'), *encryption_headers(upload.model), *rows])


def complete_multipart_upload(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    upload_id = request.query.get("uploadId", "")
    if upload_id in bucket.completed:
        return Response(200, [("Content-Type", "application/xml")], bucket.completed[upload_id])
    upload = find_upload(bucket, request)
    listed_parts = parsed(request.body).findall("Part")
    if not listed_parts:
        raise malformed()
    places = [int(one.findtext("PartNumber") or 0) for one in listed_parts]
    if places != sorted(set(places)):
        message = "The list of parts was not in ascending order. Parts must be ordered by part number."
        raise S3Error(400, "InvalidPartOrder", message)
    bodies = []
    for place, one in zip(places, listed_parts, strict=True):
        held = upload.parts.get(place)
        told = one.findtext(f"Checksum{upload.algorithm}")
        wrong_sum = told and told != b64(digest(upload.algorithm, held.body)) if held else False
        if held is None or (one.findtext("ETag") or "").strip('"') != held.etag or wrong_sum:
            message = (
                "One or more of the specified parts could not be found. The part may not have been uploaded, "
                "or the specified entity tag may not match the part's entity tag."
            )
            raise S3Error(400, "InvalidPart", message, PartNumber=place, UploadId=upload_id)
        if upload.declared and upload.checksum_type == "COMPOSITE" and not told:
            name = upload.algorithm.lower()
            message = (
                f"The upload was created using a {name} checksum. The complete request must include the checksum "
                f"for each part. It was missing for part {place} in the request."
            )
            raise S3Error(400, "InvalidRequest", message)
        if place != places[-1] and len(held.body) < s3.min_part_size:
            message = "Your proposed upload is smaller than the minimum allowed size"
            more: dict[str, Any] = {
                "ProposedSize": len(held.body),
                "MinSizeAllowed": s3.min_part_size,
                "PartNumber": place,
            }
            raise S3Error(400, "EntityTooSmall", message, **more)
        bodies.append(held.body)
    write_conditions(bucket, request)
    version = upload.model
    version.body = b"".join(bodies)
    declared_size = request.header("x-amz-mp-object-size")
    if declared_size and int(declared_size) != version.size:
        raise S3Error(
            400, "InvalidRequest", "The provided 'x-amz-mp-object-size' header does not match what was computed."
        )
    seal(version, bodies, (upload.algorithm,), upload.checksum_type)
    told = request.header(f"x-amz-checksum-{upload.algorithm.lower()}")
    value = version.checksums[upload.algorithm]
    shown = f"{value}-{len(bodies)}" if upload.checksum_type == "COMPOSITE" else value
    if told and told not in (value, shown):
        message = f"The {upload.algorithm} you specified did not match the calculated checksum."
        raise S3Error(400, "BadDigest", message)
    s3._insert(bucket, version)
    del bucket.uploads[upload_id]
    inner = tag("Location", f"{s3.url}/{bucket.name}/{quote_plus(version.key)}") + tag("Bucket", bucket.name)
    inner += tag("Key", version.key) + tag("ETag", f'"{version.etag}"')
    inner += tag(f"Checksum{upload.algorithm}", shown) + tag("ChecksumType", upload.checksum_type)
    response = xml(
        f"<CompleteMultipartUploadResult {NAMESPACE}>{inner}</CompleteMultipartUploadResult>",
        headers=[*version_header(bucket, version), *encryption_headers(version)],
    )
    bucket.completed[upload_id] = bytes(response.body)
    return response


def abort_multipart_upload(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    del bucket.uploads[find_upload(bucket, request).upload_id]
    return Response(204)


def list_multipart_uploads(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    show = encoder(request)
    query = request.query
    prefix = query.get("prefix", "")
    most = number(request, "max-uploads", 1000)
    after = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
    order = sorted(bucket.uploads.values(), key=lambda one: (one.key, one.initiated, one.upload_id))
    if after[1]:
        places = [place for place, one in enumerate(order) if (one.key, one.upload_id) == after]
        order = order[places[0] + 1 :] if places else [one for one in order if one.key > after[0]]
    elif after[0]:
        order = [one for one in order if one.key > after[0]]
    order = [one for one in order if one.key.startswith(prefix)]
    page, truncated = order[:most], len(order) > most > 0
    rows = []
    for one in page:
        inner = tag("Key", show(one.key)) + tag("UploadId", one.upload_id) + owner_xml(bucket.owner)
        inner += tag("StorageClass", one.model.storage_class) + tag("Initiated", iso(one.initiated))
        rows.append(f"<Upload>{inner}</Upload>")
    head = tag("Bucket", bucket.name) + tag("KeyMarker", show(after[0])) + tag("UploadIdMarker", after[1])
    head += tag("Prefix", show(prefix)) + tag("MaxUploads", most) + tag("IsTruncated", str(truncated).lower())
    if truncated:
        head += tag("NextKeyMarker", show(page[-1].key)) + tag("NextUploadIdMarker", page[-1].upload_id)
    head += tag("EncodingType", "url") if "encoding-type" in query else ""
    return xml(f"<ListMultipartUploadsResult {NAMESPACE}>{head}{''.join(rows)}</ListMultipartUploadsResult>")


def list_parts(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    upload = find_upload(bucket, request)
    most, marker = number(request, "max-parts", 1000), number(request, "part-number-marker", 0, None)
    places = [place for place in sorted(upload.parts) if place > marker]
    page, truncated = places[:most], len(places) > most > 0
    rows = []
    for place in page:
        part = upload.parts[place]
        inner = tag("PartNumber", place) + tag("LastModified", iso(part.last_modified))
        inner += tag("ETag", f'"{part.etag}"') + tag("Size", len(part.body))
        inner += "".join(tag(f"Checksum{name}", value) for name, value in part.checksums.items())
        rows.append(f"<Part>{inner}</Part>")
    head = tag("Bucket", bucket.name) + tag("Key", upload.key) + tag("UploadId", upload.upload_id)
    head += owner_xml(bucket.owner) + tag("StorageClass", upload.model.storage_class)
    head += tag("PartNumberMarker", marker) + tag("NextPartNumberMarker", page[-1] if page else 0)
    head += tag("MaxParts", most) + tag("IsTruncated", str(truncated).lower())
    return xml(f"<ListPartsResult {NAMESPACE}>{head}{''.join(rows)}</ListPartsResult>")


def object_tagging(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    version = find(s3, bucket, request)
    headers = version_header(bucket, version)
    if request.method == "GET":
        rows = "".join(f"<Tag>{tag('Key', k)}{tag('Value', v)}</Tag>" for k, v in version.tags.items())
        return xml(f"<Tagging {NAMESPACE}><TagSet>{rows}</TagSet></Tagging>", headers=headers)
    if request.method == "DELETE":
        version.tags = {}
        return Response(204, headers)
    asked = parsed(request.body).findall("TagSet/Tag")
    version.tags = {one.findtext("Key") or "": one.findtext("Value") or "" for one in asked}
    return Response(200, headers)


def object_lock_operation(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    """Get and Put of retention and legal hold."""
    if not bucket.object_lock:
        raise S3Error(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
    version = find(s3, bucket, request)
    hold = request.op.endswith("LegalHold")
    if request.method == "GET":
        if not (version.legal_hold if hold else version.retain_until):
            message = "The specified object does not have a ObjectLock configuration"
            raise S3Error(404, "NoSuchObjectLockConfiguration", message, Key=request.key)
        if hold:
            return xml(f"<LegalHold {NAMESPACE}>{tag('Status', version.legal_hold)}</LegalHold>")
        inner = tag("Mode", version.lock_mode) + tag("RetainUntilDate", iso(version.retain_until or 0))
        return xml(f"<Retention {NAMESPACE}>{inner}</Retention>")
    asked = parsed(request.body)
    if hold:
        version.legal_hold = asked.findtext("Status") or ""
        return Response(200)
    until, mode = asked.findtext("RetainUntilDate"), asked.findtext("Mode") or ""
    moment = from_iso(until) if until else None
    bypass = request.header("x-amz-bypass-governance-retention").lower() == "true"
    held = version.retain_until is not None and version.retain_until > s3.clock()
    weaker = moment is None or moment < (version.retain_until or 0) or mode != version.lock_mode
    if held and weaker and (version.lock_mode == "COMPLIANCE" or not bypass):
        raise access_denied("Access Denied because object protected by object lock.")
    version.lock_mode, version.retain_until = mode, moment
    return Response(200)


def object_annotations(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    version = find(s3, bucket, request)
    headers = [("x-amz-object-version-id", version.version_id)] if bucket.versioning else []
    if request.op == "GetObjectAnnotation":
        name = request.query["annotationName"]
        if name not in version.annotations:
            raise S3Error(404, "NoSuchAnnotation", "The specified annotation does not exist.")
        body = version.annotations[name]
        headers += [("ETag", f'"{md5_hex(body)}"'), ("Last-Modified", http_date(version.last_modified))]
        return Response(200, headers, body)
    rows = []
    for name, body in sorted(version.annotations.items()):
        inner = tag("AnnotationName", name) + tag("LastModified", iso(version.last_modified))
        rows.append(f"<Annotation>{inner}{tag('ETag', md5_hex(body))}{tag('Size', len(body))}</Annotation>")
    head = tag("Bucket", bucket.name) + tag("Key", request.key) + tag("AnnotationCount", len(rows))
    document = f"<ListObjectAnnotationsOutput {NAMESPACE}>{head}<Annotations>{''.join(rows)}</Annotations>"
    return xml(f"{document}</ListObjectAnnotationsOutput>", headers=headers)


def accepted(s3: S3Server, bucket: Bucket, request: Request) -> Response:
    return Response(200)


Operation = Callable[[S3Server, Bucket, Request], Response]
OPERATIONS: dict[str, Operation] = {
    "ListBuckets": list_buckets,
    "CreateBucket": create_bucket,
    "HeadBucket": head_bucket,
    "DeleteBucket": delete_bucket,
    "GetBucketLocation": get_bucket_location,
    "GetBucketVersioning": get_bucket_versioning,
    "PutBucketVersioning": put_bucket_versioning,
    "GetBucketAcl": get_acl,
    "PutBucketAcl": accepted,
    "GetBucketPolicyStatus": policy_status,
    "ListObjects": list_objects,
    "ListObjectsV2": list_objects,
    "ListObjectVersions": list_object_versions,
    "HeadObject": read_object,
    "GetObject": read_object,
    "PutObject": put_object,
    "GetObjectAcl": get_acl,
    "PutObjectAcl": accepted,
    "GetObjectAttributes": get_object_attributes,
    "DeleteObject": delete_object,
    "DeleteObjects": delete_objects,
    "RestoreObject": restore_object,
    "CreateMultipartUpload": create_multipart_upload,
    "UploadPart": upload_part,
    "CompleteMultipartUpload": complete_multipart_upload,
    "AbortMultipartUpload": abort_multipart_upload,
    "ListMultipartUploads": list_multipart_uploads,
    "ListParts": list_parts,
    "GetObjectTagging": object_tagging,
    "PutObjectTagging": object_tagging,
    "DeleteObjectTagging": object_tagging,
    "GetObjectRetention": object_lock_operation,
    "PutObjectRetention": object_lock_operation,
    "GetObjectLegalHold": object_lock_operation,
    "PutObjectLegalHold": object_lock_operation,
    "ListObjectAnnotations": object_annotations,
    "GetObjectAnnotation": object_annotations,
}
for _method in ("GET", "PUT", "DELETE"):
    for _name in SETTINGS:
        OPERATIONS[op_of(_method, "b", "", {_name: ""})] = setting_operation(_name)
    for _name in NAMED_SETTINGS:
        OPERATIONS[op_of(_method, "b", "", {_name: "", "id": "x"})] = named_setting_operation(_name)
        OPERATIONS[op_of(_method, "b", "", {_name: ""})] = named_setting_operation(_name)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.s3server", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append", default=[], metavar="NAME[:Enabled|:Suspended]")
    parser.add_argument("--restore-seconds", type=float)
    parser.add_argument("--ignore-if-match", action="store_true")
    parser.add_argument("--no-sts", action="store_true")
    given = parser.parse_args(arguments)
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # before the threads start, so that sigwait has them
    with S3Server(given.port) as s3:
        s3.restore_seconds, s3.sts, s3.honours_if_match = (
            given.restore_seconds, not given.no_sts, not given.ignore_if_match,
        )  # fmt: skip
        for spec in given.bucket:
            name, _, versioning = spec.partition(":")
            s3.bucket(name, versioning or None)
        print(s3.url, flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
