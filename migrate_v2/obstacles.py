"""What of a bucket's own settings will stand in the way, and what to do about it, is told from what S3 says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from migrate_v2.keys import count_of, show

# What the work asks S3 for; what a policy that denies one of them breaks.
NEEDED = ("s3:ListBucket", "s3:ListBucketVersions", "s3:GetObject", "s3:GetObjectVersion", "s3:RestoreObject")
FOR_DELETION = ("s3:DeleteObject", "s3:DeleteObjectVersion")
_NOT_READABLE = ("denied", "refused")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """`severity`: stops (objects will not come, or not go), costs (time, money, a race), unknown (it could not be read)."""

    bucket: str
    kind: str
    severity: str
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Key:
    """A KMS key as KMS tells of it: state "" where it does not, then `why` says so."""

    id: str
    state: str
    gone_by: datetime | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What HEAD says of one object of a handful."""

    key: str
    document: Mapping[str, Any] | None
    why: str = ""  # it was refused


@dataclass(frozen=True, slots=True)
class Known:
    """What is to be read of one bucket beside its listing. `settings` are the parts of bucket.json, each possibly
    {"denied": why} and the like; None where S3 was not asked at all, for the reason `unasked`."""

    bucket: str
    region: str
    home_region: str
    arn: str
    settings: Mapping[str, Any] | None
    unasked: str = ""
    mfa_delete: bool = False
    uploads: int | None = None
    aside: int = 0
    intelligent: int = 0
    keys: tuple[Key, ...] = ()
    lock_denied: tuple[str, ...] = ()  # permissions without which S3 does not say whether an object is locked
    samples: tuple[Sample, ...] = field(default_factory=tuple)


def obstacles(known: Known) -> list[Obstacle]:
    """All that can be told, the worst first."""
    found = [*_of_place(known), *_of_settings(known), *_of_samples(known), *_of_keys(known)]
    order = ("stops", "costs", "unknown")
    return sorted(found, key=lambda obstacle: order.index(obstacle.severity))


def partition(region: str) -> str:
    return "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"


def _of_place(known: Known) -> Iterator[Obstacle]:
    def told(kind: str, severity: str, text: str, advice: str) -> Obstacle:
        return Obstacle(known.bucket, kind, severity, text, advice)

    ours = known.arn.split(":")[1] if known.arn.count(":") > 1 else ""
    if ours and known.region and ours != partition(known.region):
        yield told("partition", "stops", f"the bucket is in {partition(known.region)}, the credentials are of {ours}",
                   "use credentials of that partition; neither passes for the other")  # fmt: skip
    elif known.home_region and known.region and known.region != known.home_region:
        yield told("region", "costs", f"the bucket is in {known.region}, and the configured region is {known.home_region}",
                   "nothing to do: each bucket is asked in its own region; its prices are those of that region")  # fmt: skip
    if known.aside:
        yield told("keys", "costs", f"{known.aside:,} versions have keys or ids that no plain path can hold",
                   "nothing to do: they come by requests of their own to the side layout, and map.jsonl leads back")  # fmt: skip
    if known.uploads:
        yield told("uploads", "costs", f"{count_of(known.uploads, 'upload')} never completed; their parts cannot be read",
                   "abort them (`aws s3api abort-multipart-upload`) when nobody is at work on them: they are billed")  # fmt: skip
    if known.mfa_delete:
        yield told("mfa-delete", "stops", "MFA delete is on: versions are deleted by the root user's MFA device only",
                   "the copies can be made; have root suspend MFA delete before confirm-delete")  # fmt: skip
    if known.lock_denied:
        yield told("lock-permissions", "stops",
                   f"object lock is on, and {' and '.join(known.lock_denied)} denied: S3 does not say what is locked",
                   "allow it to this identity, or confirm-delete keeps every object of the bucket")  # fmt: skip
    if known.settings is None:
        yield told("settings", "unknown", f"the bucket's settings were not read: {known.unasked}",
                   "run plan where the bucket can be reached; absent here does not mean that there are none")  # fmt: skip


def _of_settings(known: Known) -> Iterator[Obstacle]:
    settings = known.settings or {}
    closed = sorted(
        name
        for name, part in settings.items()
        if isinstance(part, dict) and any(word in part for word in _NOT_READABLE)
    )
    if closed:
        yield Obstacle(known.bucket, "not-readable", "unknown", f"not readable: {', '.join(closed)}",
                       "these may hold obstacles that are not told here; allow their s3:Get... actions and plan again")  # fmt: skip

    def part(name: str) -> Mapping[str, Any]:
        value = settings.get(name)
        return value if isinstance(value, dict) and name not in closed and "not_implemented" not in value else {}

    if part("request_payment").get("Payer") == "Requester":
        yield Obstacle(known.bucket, "requester-pays", "costs",
                       "requester pays: whoever is not of the owner's account pays, and has to say so in each request",
                       "run as an identity of the owner's account, or have the owner turn it off for the time")  # fmt: skip
    yield from _lock(known.bucket, part("object_lock"))
    yield from _replication(known.bucket, part("replication"))
    yield from _lifecycle(known.bucket, part("lifecycle"))
    archives = [
        tier.get("AccessTier", "?")
        for configuration in part("intelligent_tiering").get("IntelligentTieringConfigurationList", ())
        if configuration.get("Status", "Enabled") == "Enabled"
        for tier in configuration.get("Tierings", ())
    ]
    if archives and known.intelligent:
        yield Obstacle(known.bucket, "archive-tier", "costs",
                       f"{known.intelligent:,} INTELLIGENT_TIERING objects may be archived ({', '.join(sorted(set(archives)))});"
                       " a listing does not say which",
                       "expect hours for their restore, which is free by Standard and Bulk; they are found as they are fetched")  # fmt: skip
    yield from _policy(known, part("policy"))


def _lock(bucket: str, part: Mapping[str, Any]) -> Iterator[Obstacle]:
    said = part.get("ObjectLockConfiguration", {})
    if said.get("ObjectLockEnabled") == "Enabled":
        rule = said.get("Rule", {}).get("DefaultRetention", {})
        long = f"{rule['Days']} days" if "Days" in rule else f"{rule['Years']} years" if "Years" in rule else ""
        default = f"; by default each version is held for {long} ({rule.get('Mode', '?')})" if long else ""
        yield Obstacle(bucket, "object-lock", "costs", f"object lock is on{default}",
                       "copying is not hindered; versions go when their retention is over, and not before")  # fmt: skip


def _replication(bucket: str, part: Mapping[str, Any]) -> Iterator[Obstacle]:
    rules = [r for r in part.get("ReplicationConfiguration", {}).get("Rules", ()) if r.get("Status") == "Enabled"]
    if rules:
        to = sorted({str(rule.get("Destination", {}).get("Bucket", "?")).rpartition(":")[2] for rule in rules})
        yield Obstacle(bucket, "replication", "costs",
                       f"{len(rules)} rules replicate to {', '.join(map(show, to))}; delete markers may be replicated too",
                       "decide what becomes of the replicas; turn the rules off before confirm-delete")  # fmt: skip


def _lifecycle(bucket: str, part: Mapping[str, Any]) -> Iterator[Obstacle]:
    for rule in part.get("Rules", ()):
        if rule.get("Status") != "Enabled":
            continue
        name = show(str(rule.get("ID") or "without a name"))
        ends = [word for word in ("Expiration", "NoncurrentVersionExpiration") if word in rule]
        marker_only = set(rule.get("Expiration", {})) == {"ExpiredObjectDeleteMarker"}
        if ends and not (marker_only and ends == ["Expiration"]):
            yield Obstacle(bucket, "lifecycle-expiry", "stops", f"lifecycle rule {name} deletes objects while they are moved",
                           "disable it before `migrate`: what it deletes in between is gone")  # fmt: skip
        classes = [
            str(t.get("StorageClass"))
            for word in ("Transitions", "NoncurrentVersionTransitions")
            for t in rule.get(word, ())
        ]
        if classes:
            frozen = any(name in ("GLACIER", "DEEP_ARCHIVE") for name in classes)
            yield Obstacle(bucket, "lifecycle-transition", "costs",
                           f"lifecycle rule {name} moves objects to {', '.join(classes)} while they are fetched",
                           "disable it before `migrate`" + (": what it archives has to be restored, and is billed for months" if frozen else ""))  # fmt: skip


def _policy(known: Known, policy: Mapping[str, Any]) -> Iterator[Obstacle]:
    """Deny statements that may be meant for us. Conditions are not judged: they are told as `may`."""
    statements = policy.get("Statement", ())
    for statement in statements if isinstance(statements, list) else [statements]:
        if not isinstance(statement, dict) or statement.get("Effect") != "Deny" or not _meant(statement, known.arn):
            continue
        for actions, severity, of in ((NEEDED, "stops", "reading"), (FOR_DELETION, "costs", "deletion")):
            hit = [action for action in actions if _covers(statement, action)]
            if hit:
                may = "may deny" if statement.get("Condition") else "denies"
                name = f" ({show(str(statement['Sid']))})" if statement.get("Sid") else ""
                yield Obstacle(known.bucket, "policy", severity if may == "denies" else "unknown",
                               f"a statement of the bucket policy{name} {may} {', '.join(hit)}",
                               f"{of} needs them: except this identity in the statement, or take it out for the time")  # fmt: skip


def _meant(statement: Mapping[str, Any], arn: str) -> bool:
    if "NotPrincipal" in statement:
        return arn not in str(statement["NotPrincipal"])
    principal = statement.get("Principal")
    if principal == "*":
        return True
    named = principal.get("AWS", ()) if isinstance(principal, dict) else ()
    names = [named] if isinstance(named, str) else list(named)
    parts = arn.split(":")
    account = parts[4] if len(parts) > 4 else "?"
    role = (
        arn.replace(":sts:", ":iam:").replace(":assumed-role/", ":role/").rpartition("/")[0]
        if "assumed-role" in arn
        else arn
    )
    return any(
        name in ("*", arn, role, account, f"arn:{parts[1] if len(parts) > 1 else 'aws'}:iam::{account}:root")
        for name in names
    )


def _covers(statement: Mapping[str, Any], action: str) -> bool:
    word = "Action" if "Action" in statement else "NotAction"
    said = statement.get(word, ())
    patterns = [said] if isinstance(said, str) else list(said)
    matched = any(fnmatchcase(action.lower(), str(pattern).lower()) for pattern in patterns)
    return matched if word == "Action" else not matched


def _of_samples(known: Known) -> Iterator[Obstacle]:
    if not known.samples:
        return
    many = len(known.samples)
    refused = [sample for sample in known.samples if sample.document is None]
    if refused:
        yield Obstacle(known.bucket, "sample", "stops",
                       f"of {many} objects looked at S3 refused {len(refused)}, such as {show(refused[0].key)}: {refused[0].why}",
                       "a 400 here is SSE-C: only who has the customer's key can read it, and this program has none; a"
                       " 403 is a missing permission or KMS key")  # fmt: skip
    heads = [sample.document for sample in known.samples if sample.document is not None]
    until = sorted(str(head["ObjectLockRetainUntilDate"]) for head in heads if head.get("ObjectLockRetainUntilDate"))
    if until:
        yield Obstacle(known.bucket, "retention", "stops", f"of {many} objects looked at {len(until)} are locked, the last until {until[-1]}",
                       "they can be copied now, and go after that date; run confirm-delete then")  # fmt: skip
    if held := sum(head.get("ObjectLockLegalHoldStatus") == "ON" for head in heads):
        yield Obstacle(known.bucket, "legal-hold", "stops", f"of {many} objects looked at {held} are under legal hold",
                       "they can be copied, and stay in S3 until whoever set the hold takes it off")  # fmt: skip
    pending = sum(head.get("ReplicationStatus") in ("PENDING", "FAILED") for head in heads)
    if pending:
        yield Obstacle(known.bucket, "replication-pending", "costs", f"of {many} objects looked at {pending} wait for their replication",
                       "wait for it, or look for why it fails, before confirm-delete")  # fmt: skip
    opaque = sum(
        str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
        and not any(name.startswith("Checksum") and name != "ChecksumType" for name in head)
        for head in heads
    )
    if opaque:
        yield Obstacle(known.bucket, "no-witness", "costs",
                       f"of {many} objects looked at {opaque} are encrypted by KMS and have no checksum: nothing proves their copies",
                       "`verify --refetch` reads each of these a second time from S3, and that transfer is billed again")  # fmt: skip


def _of_keys(known: Known) -> Iterator[Obstacle]:
    for key in known.keys:
        if key.state in ("Disabled", "PendingDeletion", "PendingReplicaDeletion", "Unavailable", "PendingImport"):
            when = f", gone for good on {key.gone_by:%Y-%m-%d}" if key.gone_by else ""
            yield Obstacle(known.bucket, "kms-key", "stops", f"the KMS key {show(key.id)} is {key.state}{when}",
                           "have it enabled, or its deletion cancelled (`aws kms cancel-key-deletion`), before anything else:"
                           " without it these objects can be read by nobody")  # fmt: skip
        elif not key.state:
            yield Obstacle(known.bucket, "kms-key", "unknown", f"not readable: the state of the KMS key {show(key.id)} ({key.why})",
                           "allow kms:DescribeKey, or have its owner say that it is enabled")  # fmt: skip
