"""Every way the program can end without success has one class here: its docstring is the message, its code the exit status."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Why an object version is in error, unproved or kept in S3. Logic looks at this; the text beside it is for people."""

    VANISHED = "vanished"  # S3 does not have this version any more
    SUPERSEDED = "superseded"  # overwritten in S3 after the local copy was fetched
    CHANGED = "changed"  # S3 has another object under this identity than the one that was listed
    DENIED = "denied"
    ARCHIVED = "archived"
    OBSTACLE = "obstacle"  # something that is no plain file lies where the local copy belongs
    UNREADABLE = "unreadable"  # the local copy cannot be read
    DISK = "disk"  # the destination refused the write
    REFUSED = "refused"  # S3 refused the request for another reason than permissions
    NO_CHECKSUM = "no_checksum"  # S3 reports no checksum of 64 bits or more
    CHECKSUM_DENIED = "checksum_denied"  # S3 refused to report the checksums
    FAILED_IN_JOB = "failed_in_job"  # its restore failed in a job of S3 Batch Operations
    NONCURRENT = "noncurrent"  # an old version, kept in S3 by the setting `noncurrent`
    NOT_PROVED = "not_proved"  # no local copy was compared with S3 and found equal
    DAMAGED_RECORD = "damaged_record"  # the seal of its evidence in the state file does not hold
    MFA_DELETE = "mfa_delete"
    LOCKED = "locked"  # by Object Lock, a legal hold or an event hold
    LOCK_UNKNOWN = "lock_unknown"  # S3 does not say whether it is locked
    REPLICATING = "replicating"  # its replication is not finished
    NULL_ID = "null_id"  # the version id `null`, which a PUT may take over
    VERSIONING_NEW = "versioning_new"  # the version id `null`, soon after versioning was turned on
    NO_ETAG = "no_etag"  # S3 reports no ETag to make the deletion conditional on
    OLDER_VERSION_STAYS = "older_version_stays"  # deleting it could make the older version current
    VERSIONS_STAY = "versions_stay"  # a delete marker of a key that has a version which stays
    TAGS_CHANGED = "tags_changed"  # its tags changed while its deletion was prepared
    UPLOAD_RECENT = "upload_recent"  # a multipart upload that began a short time ago
    LINKED = "linked"  # its local copy shares the inode of a file of the operator's
    CONTESTED = "contested"  # it came wrong too often, or its verified copy was changed or removed too often
    OTHER = "other"


class Failure(Exception):
    """{}"""

    code = 1
    cause = Cause.OTHER  # of the row that it happened to

    def __str__(self) -> str:
        return (type(self).__doc__ or "{}").format(*self.args)


class BadUsage(Failure):
    """{}"""

    code = 2


class NotFinished(Failure):
    """{}"""

    code = 3


class Differs(Failure):
    """{}"""

    code = 4


class Refused(Failure):
    """{}"""

    code = 5


class Busy(Failure):
    """another process is at work on {}; wait for it, or stop it, and run the same command again"""

    code = 6


INTERRUPTED = 130


def worst(codes: list[int]) -> int:
    """The exit status of several buckets' worth of work.

    A difference outranks all. Waiting for Glacier comes before failures: what `until migrate` loops for is not over, and
    when it is, the failures are still there to be told.
    """
    order = (INTERRUPTED, 4, 3, 6, 5, 2, 1)
    return next((code for code in order if code in codes), 0)
