"""The nouns of the work and its pure decisions: which phase a bucket is in, what a reading proves, what may be deleted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

ARCHIVED_CLASSES = ("GLACIER", "DEEP_ARCHIVE")


class Phase(StrEnum):
    """The first step that a bucket has not earned yet; in this order."""

    SCANNING = "scanning"
    GLACIER_RESTORE = "glacier_restore"
    GLACIER_WAIT = "glacier_wait"
    SYNCING = "syncing"
    VERIFYING = "verifying"
    DELETING = "deleting"
    COMPLETE = "complete"


class FileState(StrEnum):
    """Where one object version stands."""

    DISCOVERED = "discovered"
    RESTORE_REQUESTED = "glacier_restore_requested"
    RESTORING = "glacier_restoring"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    VERIFIED = "verified"
    DELETED = "deleted"
    ERROR = "error"


class Verdict(StrEnum):
    """What a comparison of the local copy with S3's own word came to; "could not be checked" is never a match."""

    MATCH = "match"
    DIFFERS = "differs"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    UNPROVABLE = "unprovable"
    KEPT = "kept"


class Place(StrEnum):
    """Where the local copy of a version lives, and what it is."""

    PLAIN = "plain"  # <base>/<bucket>/<key>
    FOLDER = "folder"  # an empty object `dir/`: the folder itself is the copy
    SIDE = "side"  # <base>/.migrate-v2/<bucket>/objects/<escaped>


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One version of one object as S3 lists it. ETag without quotes; last_modified in UTC; size in bytes."""

    bucket: str
    key: str
    version_id: str  # "null" where the bucket was not versioned when the object was put
    size: int
    etag: str
    storage_class: str
    last_modified: datetime
    is_latest: bool
    checksum_algorithm: str = ""  # comma-separated, as listed
    checksum_type: str = ""  # FULL_OBJECT, COMPOSITE or ""
    restore_ongoing: bool | None = None  # None: the listing did not say
    restore_expiry: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeleteMarker:
    bucket: str
    key: str
    version_id: str
    is_latest: bool
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What fstat says of the very file that was read; a file that changed or was replaced since has another one."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `files`: a version, where its copy lives, and what is known of it."""

    version: ObjectVersion
    state: FileState
    verdict: Verdict | None = None
    reason: str = ""
    place: Place | None = None
    path: str = ""  # relative to the base path, always with "/"
    sha256: str = ""
    witnesses: tuple[Witness, ...] = ()
    identity: FileIdentity | None = None
    attempts: int = 0

    @property
    def key(self) -> str:
        return self.version.key


@dataclass(frozen=True, slots=True)
class Witness:
    """What S3 itself reports of the content of exactly one version.

    `kind` is one of the kinds of checksums.py ("md5-etag", "multipart-etag", "crc64nvme", ...), `value` is in S3's own
    notation (hex for ETags, base64 for checksums), `parts` the part sizes in bytes where the value is built from parts.
    """

    kind: str
    value: str
    bits: int
    parts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD adds to a listing. Checksums by S3's names without the prefix ("CRC64NVME": base64)."""

    etag: str
    size: int
    last_modified: datetime
    version_id: str
    storage_class: str
    checksums: Mapping[str, str]
    checksum_type: str
    encryption: str  # "", "AES256", "aws:kms", "aws:kms:dsse", "SSE-C"
    restore_ongoing: bool | None
    restore_expiry: datetime | None
    archive_status: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one bucket, by what is left to do with them. Errors are counted by the step they hold up."""

    scanned: bool = False
    to_request: int = 0  # archived, not asked for
    restoring: int = 0
    to_fetch: int = 0
    to_verify: int = 0
    fetch_errors: int = 0
    verify_errors: int = 0
    verified: int = 0
    markers: int = 0  # delete markers that may still go


def phase_of(counts: Counts) -> Phase:
    """The first step not yet earned.

    scanned | to_request | restoring | to_fetch, fetch_errors | to_verify, verify_errors | verified, markers | phase
    --------|------------|-----------|------------------------|--------------------------|-------------------|---------
    no      |            |           |                        |                          |                   | scanning
    yes     | some       |           |                        |                          |                   | glacier_restore
    yes     | 0          | some      |                        |                          |                   | glacier_wait
    yes     | 0          | 0         | some                   |                          |                   | syncing
    yes     | 0          | 0         | 0                      | some                     |                   | verifying
    yes     | 0          | 0         | 0                      | 0                        | some              | deleting
    yes     | 0          | 0         | 0                      | 0                        | 0                 | complete
    """
    if not counts.scanned:
        return Phase.SCANNING
    if counts.to_request:
        return Phase.GLACIER_RESTORE
    if counts.restoring:
        return Phase.GLACIER_WAIT
    if counts.to_fetch or counts.fetch_errors:
        return Phase.SYNCING
    if counts.to_verify or counts.verify_errors:
        return Phase.VERIFYING
    if counts.verified or counts.markers:
        return Phase.DELETING
    return Phase.COMPLETE
