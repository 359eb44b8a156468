"""The nouns of the work and its pure decisions: which phase a bucket is in, what a reading proves, what may be deleted."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from migrate_v2.answers import ETAGS_OF_NOTHING
from migrate_v2.errors import Cause as Cause

ARCHIVED_CLASSES = ("GLACIER", "DEEP_ARCHIVE")

# Texts for `reason`, which is for people; logic looks at `cause`.
VANISHED = "vanished from S3 since it was listed"
CHANGED = "changed in S3 since it was listed"
SUPERSEDED = "overwritten in S3 since it was fetched"

# Causes of a row in error whose object version S3 does not have any more. Such a row is gone, and has not failed.
GONE_CAUSES = (Cause.VANISHED, Cause.SUPERSEDED)

# Outcomes of deletes that S3 was asked after, because no answer had come.
STILL_THERE = "still there"
REPLY_LOST = "deleted; the reply was lost"

# The kind of Witness of an object of size 0 whose ETag is one of nothing: its value is the SHA-256 of nothing.
EMPTY = "empty"
SHA256_OF_NOTHING = hashlib.sha256().hexdigest()

# Days that S3 bills at least (https://aws.amazon.com/s3/pricing/, footnotes of "Storage & requests").
MINIMUM_DAYS = {"STANDARD_IA": 30, "ONEZONE_IA": 30, "GLACIER_IR": 90, "GLACIER": 90, "DEEP_ARCHIVE": 180}


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


class GoneKind(StrEnum):
    """What is left here of an object version that is gone from S3; the word in the JSON documents."""

    NEVER_FETCHED = "never_fetched"
    ONLY_COPY = "only_copy"  # the local copy was proved while S3 had the object, or by what S3 had listed of it
    UNPROVED_ONLY_COPY = "unproved_only_copy"


class Place(StrEnum):
    """Where the local copy of a version lives, and what it is."""

    PLAIN = "plain"  # <base>/<bucket>/<key>
    FOLDER = "folder"  # an empty object `dir/`: the folder itself is the copy
    SIDE = "side"  # <base>/.migrate-v2/<bucket>/objects/<escaped>


class Adopt(StrEnum):
    """How a local copy of an older toolkit that lies elsewhere comes to its place."""

    REFLINK = "reflink"  # a reflink; where the file system has none, a hard link, which is marked
    COPY = "copy"
    MOVE = "move"  # renamed; copied from another file system


# Seconds since 1970 that, in nanoseconds, fit in SQLite's 64 bits: from 1677 to 2262. File systems have others.
MTIMES = (-9_223_372_036, 9_223_372_036)


def bounded_mtime(nanoseconds: int) -> int:
    """The time of a file, or the nearest one within MTIMES."""
    return min(max(nanoseconds, MTIMES[0] * 10**9), MTIMES[1] * 10**9)


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

    @property
    def mtime(self) -> float:
        """`last_modified` in seconds since 1970, as far as a file can have it: see MTIMES."""
        return min(max(self.last_modified.timestamp(), MTIMES[0]), MTIMES[1])

    @property
    def seconds(self) -> int:
        """`mtime` in whole seconds: the time that the AWS CLI gives a file when all of it is written."""
        return int(self.mtime)


@dataclass(frozen=True, slots=True)
class DeleteMarker:
    bucket: str
    key: str
    version_id: str
    is_latest: bool
    last_modified: datetime


class EvidenceSource(StrEnum):
    """Which answer of S3 the evidence of a row came from."""

    LISTING = "listing"
    HEAD = "head"
    PART_HEADS = "part_heads"  # HEAD of the object and of its parts
    REFETCH = "refetch"  # the object, read a second time


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What fstat says of the very file that was read; a file that changed or was replaced since has another one."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int = field(default=1, compare=False)  # names of the inode; not part of the identity


@dataclass(frozen=True, slots=True)
class Asked:
    """The last restore that was asked for: what, when, and what S3 said to it.

    `answer` | S3 said
    ---------|--------------------------------------------------------------------
    ""       | nothing that we know of: to be asked about, never to be repeated
    started  | 202, or a later look at S3 shows that it has arrived: paid for
    under way| 409: one is on its way already
    back     | 200: a copy was there already, and stays longer now
    active   | that it needs no restore (any more)
    expired  | later, that neither a copy is there nor one on its way
    """

    at: datetime
    tier: str
    days: int | None
    answer: str = ""
    job: str = ""  # of S3 Batch Operations, while it has not reported


@dataclass(frozen=True, slots=True)
class Answer:
    """What S3 said to a request to restore, in a word of Asked; tier and days are those that it was sent with last."""

    word: str
    tier: str
    days: int | None


# So many times the same wrong result, wrong results of any kind, or losses of a verified copy: then a person has to look.
MOST_SAME_RESULTS = 3
MOST_WRONG_RESULTS = 6
MOST_LOSSES = 2


@dataclass(frozen=True, slots=True)
class Attempts:
    """What came of fetching one identity, over all runs. `last_result` is the SHA-256 of what came, or a word."""

    wrong_results: int = 0  # since a copy matched
    same_results: int = 0  # of them, how many of the last ones were the same
    last_result: str = ""
    losses: int = 0  # times that a copy was changed or removed after it was verified

    def failed(self, result: str) -> Attempts:
        same = self.same_results + 1 if result == self.last_result else 1
        return Attempts(self.wrong_results + 1, same, result, self.losses)

    def lost(self) -> Attempts:
        return replace(self, losses=self.losses + 1)

    @property
    def contested(self) -> bool:
        return (
            self.same_results >= MOST_SAME_RESULTS
            or self.wrong_results >= MOST_WRONG_RESULTS
            or self.losses >= MOST_LOSSES
        )


NO_ATTEMPTS = Attempts()


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
    archived: bool = False  # a GET would fail: Glacier has not brought it back
    read_run: str = ""  # the process that last read the copy from disk
    read_at: datetime | None = None
    sealed: bool = False  # what is said here of the content is what a reading wrote: its MAC holds
    hold: str = ""  # what keeps S3 from deleting it: a lock, a legal hold, a replication that is not done
    asked: Asked | None = None
    cause: Cause | None = None
    hold_cause: Cause | None = None
    linked: str = ""  # the file outside the bucket's folder that the copy shares its inode with, if any
    attempts: Attempts = NO_ATTEMPTS
    evidence_source: EvidenceSource | None = None
    evidence_run: str = ""  # the process that S3 gave that answer to

    @property
    def key(self) -> str:
        return self.version.key

    @property
    def gone(self) -> GoneKind | None:
        return gone_kind(self.state, self.verdict, self.cause)


def gone_kind(state: FileState, verdict: str | None, cause: str | None) -> GoneKind | None:
    """The kind of a row that is gone from S3; None for any other row.

    state      | cause                | verdict             | kind
    -----------|----------------------|---------------------|---------------------------------
    error      | vanished, superseded | none                | never_fetched
    error      | vanished, superseded | match               | only_copy
    error      | vanished, superseded | any other           | unproved_only_copy
    downloaded | vanished, superseded | none                | None: its copy is still to be verified
    any other  | any                  | any                 | None
    """
    if state is not FileState.ERROR or cause not in GONE_CAUSES:
        return None
    if not verdict:
        return GoneKind.NEVER_FETCHED
    return GoneKind.ONLY_COPY if verdict == Verdict.MATCH else GoneKind.UNPROVED_ONLY_COPY


@dataclass(frozen=True, slots=True)
class Witness:
    """What S3 itself reports of the content of exactly one version.

    `kind` is one of the kinds of checksums.py ("md5-etag", "multipart-etag", "crc64nvme", ...), `value` is in S3's own
    notation (hex for ETags, base64 for checksums), `parts` the part sizes in bytes where the value is built from parts.
    Not `certain`: the part sizes are a guess, or that the ETag is a digest at all; a match proves all the same, and a
    mismatch says nothing.
    """

    kind: str
    value: str
    bits: int
    parts: tuple[int, ...] = ()
    certain: bool = True


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
    """Rows of one bucket, by what is left to do with them. Errors are counted by the step they hold up; rows that are
    gone from S3 hold up none."""

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


@dataclass(frozen=True, slots=True)
class Site:
    """Which bucket is meant: the account and endpoint that it was listed at, and its versioning at this moment."""

    account: str
    endpoint: str
    bucket: str
    versioning: str  # "", "Enabled" or "Suspended"
    mfa_delete: bool = False


_KEY = secrets.token_bytes(32)
# Seconds for which a look at the local file stands for it. A batch takes a fraction of that; a machine that was
# suspended in between takes more.
LIFETIME = 300.0


def uptime() -> float:
    """Seconds since the machine was started, those in which it was suspended too: a clock that nobody can set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by two clocks: the Date header of S3's answer (None: it had none), and the uptime since a start of the machine."""

    date: datetime | None
    boot: str
    uptime: float


# Seconds that S3 may need to apply a change of versioning everywhere (AWS, "Using versioning in S3 buckets").
VERSIONING_SETTLES = 900.0


def elapsed(since: Moment | None, now: Moment) -> float:
    """Seconds from one moment to the other, by the clock that shows fewer; -1 where the machine was started in between.

    Waits that decide a deletion are measured with it: either clock may be wrong.
    """
    if since is None or since.boot != now.boot:
        return -1.0
    by_uptime = now.uptime - since.uptime
    if since.date is None or now.date is None:
        return by_uptime
    return min(by_uptime, (now.date - since.date).total_seconds())


@dataclass(frozen=True, slots=True)
class Proof:
    """Leave to delete exactly one version or delete marker, until it expires. Nothing makes one but prove()."""

    site: Site
    key: str
    version_id: str
    kind: str  # "version" or "marker"
    etag: str
    size: int
    sha256: str
    witnesses: tuple[Witness, ...]
    path: str
    identity: FileIdentity | None
    run: str
    expires: float  # by uptime()
    seal: bytes = field(repr=False)

    def __post_init__(self) -> None:
        # Of this process and of these very fields: a changed copy of a proof is no proof either.
        if not secrets.compare_digest(self.seal, _seal(self)):
            raise TypeError("a Proof is made by prove() alone")

    @property
    def conditional(self) -> bool:
        """Goes by If-Match with the verified ETag, because the id `null` may be overwritten at any time."""
        return self.kind == "version" and _by_if_match(self.version_id, self.site)


def _by_if_match(version_id: str, site: Site) -> bool:
    return version_id == "null" and site.versioning != "Enabled"


def by_if_match(row: Row, site: Site) -> bool:
    """Whether this version is deleted by If-Match with its ETag, not by its version id."""
    return _by_if_match(row.version.version_id, site)


def strong(witnesses: Iterable[Witness]) -> bool:
    """64 bits in one witness, or in two of different kinds; CRC32 alone misses one random corruption in 2^32."""
    kinds = {witness.kind: witness.bits for witness in witnesses}
    return any(bits >= 64 for bits in kinds.values()) or (len(kinds) >= 2 and sum(kinds.values()) >= 64)


@dataclass(frozen=True, slots=True)
class Kept:
    """Why a version, a delete marker or an upload stays in S3. `text` is for people and part of a plan's digest."""

    cause: Cause
    text: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides, beside the rows and the bucket's own state, what a deletion may include."""

    keep_noncurrent: bool = False  # the setting `noncurrent` is `keep` now
    allow_older_current: bool = False  # a deletion may make an older version current
    null_settled: bool = False  # versioning has been Enabled long enough to rely on: no PUT takes the id `null` over
    uploads_before: datetime | None = None  # uploads that began earlier are aborted; None: no uploads are


NONCURRENT = Kept(Cause.NONCURRENT, "an old version, and the setting noncurrent is keep")
OLDER_VERSION_STAYS = Kept(
    Cause.OLDER_VERSION_STAYS, "an older version of this key stays, and deleting this one could make that one current"
)
VERSIONS_STAY = Kept(Cause.VERSIONS_STAY, "a delete marker above versions that stay")
LINKED = Kept(
    Cause.LINKED,
    "its local copy is a hard link to another file; the setting adopt (copy or move) gives it a file of its own",
)
MFA_DELETE = Kept(Cause.MFA_DELETE, "MFA delete is on for this bucket")
NULL_MARKER = Kept(
    Cause.NULL_ID, "a null delete marker while versioning is not enabled: its id may be reused at any time"
)
UPLOAD_RECENT = Kept(Cause.UPLOAD_RECENT, "the upload began a short time ago and may be under way")
NEW_VERSIONING = Kept(
    Cause.VERSIONING_NEW,
    "its version id is null, and versioning was turned on a short time ago: until S3 applies that everywhere, another object"
    " may take the id over; run the same command again later",
)


def evidence_of(row: Row) -> tuple[Witness, ...]:
    """Return what the row holds as evidence of its content. A size of 0 in a listing is none where the ETag is not one of
    nothing: a damaged index lists that for objects with bytes (Ceph)."""
    return tuple(w for w in row.witnesses if w.kind != EMPTY or row.version.etag in ETAGS_OF_NOTHING)


def why_kept(row: Row, site: Site, rules: Rules) -> Kept | None:
    """Why this version stays in S3, judged by its row alone; None if it may be deleted once its copy is read again.

    That a newer version stays because an older one does is decided for all versions of a key together, in deletion.py.

    state    | verdict | evidence | identity                                             | stays because
    ---------|---------|----------|------------------------------------------------------|--------------
    any other| any     | any      | any                                                  | it is not verified
    verified | match   | weak     | any                                                  | the evidence is too weak
    verified | match   | size 0   | any, the ETag is not one of nothing                  | the evidence is too weak
    verified | match   | unsealed | any                                                  | the record of it is damaged
    verified | match   | strong   | any, the copy is marked as a hard link               | the hard link
    verified | match   | strong   | any, MFA delete on                                   | MFA delete
    verified | match   | strong   | not current, the setting noncurrent is keep          | the setting
    verified | match   | strong   | any, S3 holds it                                     | the lock, the hold, the replication
    verified | match   | strong   | null, current or not, versioning Suspended, not last | a PUT may reuse the id
    verified | match   | strong   | null without ETag, not versioned                     | nothing to pin it by
    verified | match   | strong   | null, versioning Enabled a short time ago            | a PUT may take the id over
    verified | match   | strong   | otherwise                                            | None
    """
    if row.state is not FileState.VERIFIED or row.verdict is not Verdict.MATCH:
        state = row.reason or (f"the verdict is {row.verdict.value}" if row.verdict else f"it is {row.state.value}")
        return Kept(row.cause or Cause.NOT_PROVED, f"not proved: {state}")
    if not row.sha256 or not strong(evidence_of(row)):
        return Kept(Cause.NO_CHECKSUM, "not proved: the evidence is weaker than 64 bits")
    if not row.sealed:
        return Kept(
            Cause.DAMAGED_RECORD,
            "not proved: its record in the state file is damaged, or was sealed with another key",
        )
    if row.linked:
        return LINKED
    if site.mfa_delete:
        return MFA_DELETE
    if rules.keep_noncurrent and not row.version.is_latest:
        return NONCURRENT
    if row.hold:
        return Kept(row.hold_cause or Cause.LOCKED, row.hold)
    if row.version.version_id == "null" and site.versioning != "Enabled":
        if site.versioning == "Suspended" and not row.version.is_latest:
            return Kept(
                Cause.NULL_ID,
                "a noncurrent null version while versioning is suspended: its id may be reused at any time",
            )
        if not row.version.etag:
            return Kept(Cause.NO_ETAG, "S3 reports no ETag to pin the deletion to")
    if row.version.version_id == "null" and site.versioning == "Enabled" and not rules.null_settled:
        return NEW_VERSIONING
    return None


def why_marker_kept(marker: DeleteMarker, site: Site, rules: Rules) -> Kept | None:
    """Why this delete marker stays although no version of its key does; None if it may be deleted."""
    if site.mfa_delete:
        return MFA_DELETE
    if marker.version_id == "null" and site.versioning != "Enabled":
        return NULL_MARKER
    if marker.version_id == "null" and not rules.null_settled:
        return NEW_VERSIONING
    return None


def recently(read_at: datetime | None, trust: timedelta | None) -> bool:
    """Was it read within `trust` of now? A reading in the future was not: one of the two clocks is wrong."""
    return trust is not None and read_at is not None and timedelta(0) <= datetime.now(UTC) - read_at <= trust


def prove(
    subject: Row | DeleteMarker,
    site: Site,
    run: str,
    rules: Rules,
    *,
    identity: FileIdentity | None = None,
    left_beneath: int = 1,
    trust: timedelta | None = None,
) -> Proof | str:
    """The proof that this may be deleted, or the reason why not; it is good for LIFETIME seconds.

    A version: `identity` is what fstat says of its copy at this moment; it has to be the very file that this run read
    and found equal to S3's witness, or, with `trust`, another run within that time. A delete marker: no data version may
    be left beneath it, and its id must be one that S3 cannot hand out again.
    """
    expires = uptime() + LIFETIME
    if isinstance(subject, DeleteMarker):
        if left_beneath:
            return "a delete marker above versions that are still there"
        if kept := why_marker_kept(subject, site, rules):
            return kept.text
        return _sealed(site, subject.key, subject.version_id, "marker", "", 0, "", (), "", None, run, expires)
    if subject.version.bucket != site.bucket:
        return "another bucket's version"
    if kept := why_kept(subject, site, rules):
        return kept.text
    if not run or (subject.read_run != run and not recently(subject.read_at, trust)):
        return "its local copy has not been read again in this run"
    if subject.place is Place.FOLDER:
        if subject.version.size != 0 or subject.sha256 != SHA256_OF_NOTHING:
            return "a folder cannot be the copy of bytes"
    elif identity is None or subject.identity != identity or identity.size != subject.version.size:
        return "its local copy changed after it was read"
    v = subject.version
    return _sealed(
        site,
        v.key,
        v.version_id,
        "version",
        v.etag,
        v.size,
        subject.sha256,
        subject.witnesses,
        subject.path,
        identity,
        run,
        expires,
    )


def _seal(proof: Proof) -> bytes:
    return hashlib.blake2b(repr(proof).encode("utf-8", "surrogatepass"), key=_KEY).digest()


def _sealed(*fields: object) -> Proof:
    proof = object.__new__(Proof)
    for name, value in zip(Proof.__dataclass_fields__, fields, strict=False):
        object.__setattr__(proof, name, value)
    return Proof(*fields, _seal(proof))  # type: ignore[arg-type, call-arg]


# The kind of a DELETE with a wrong ETag, which an endpoint has to refuse; where it does not, the version is gone.
CANARY = "canary"


@dataclass(frozen=True, slots=True)
class Doomed:
    """What a delete names: a data version with what was proved of it, a delete marker, or an unfinished upload by its id."""

    key: str
    version_id: str
    kind: str  # "version", "marker", "upload" or CANARY
    etag: str = ""
    size: int = 0
    sha256: str = ""


def doomed(subject: Row | DeleteMarker | Proof) -> Doomed:
    if isinstance(subject, DeleteMarker):
        return Doomed(subject.key, subject.version_id, "marker")
    if isinstance(subject, Proof):
        return Doomed(subject.key, subject.version_id, subject.kind, subject.etag, subject.size, subject.sha256)
    v = subject.version
    return Doomed(v.key, v.version_id, "version", v.etag, v.size, subject.sha256)


class Digest:
    """The digest of a plan: identities and hashes of all that goes and all that stays, not times, in a fixed order."""

    def __init__(self, site: Site, rules: Rules) -> None:
        self._sum = hashlib.sha256()
        self._add("plan", site.account, site.endpoint, site.bucket, site.versioning)
        if rules.allow_older_current:
            self._add("allow older current")

    def _add(self, *words: str) -> None:
        # Lengths in front: no two plans run together into the same bytes.
        for word in words:
            encoded = word.encode("utf-8", "surrogatepass")
            self._sum.update(b"%d:" % len(encoded) + encoded)
        self._sum.update(b";")

    def deletes(self, doomed: Doomed) -> None:
        d = doomed
        self._add("delete", d.kind, d.key, d.version_id, d.etag, str(d.size), d.sha256)

    def keeps(self, key: str, version_id: str, reason: str) -> None:
        self._add("keep", key, version_id, reason)

    def token(self) -> str:
        return self._sum.hexdigest()[:40]
