"""Lists a bucket into the state file, and confirms what is gone from S3 before a row says so."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event as Flag

from migrate_v2.edges.disk import boot_id
from migrate_v2.edges.s3 import S3, Denied, Presence, Refusal, Unreachable
from migrate_v2.edges.store import UNKNOWN_VERSION, BucketRow, Store
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Ended, Event, Noted, Progress, Started, Warned
from migrate_v2.flow import ahead, batched, in_threads
from migrate_v2.keys import count_of
from migrate_v2.model import DeleteMarker, Moment, ObjectVersion, uptime

# A HEAD confirms each missing row as long as there are no more of them than this, or than this part of all rows (1 %):
# 100,000 keys are 100 listing requests, and take as long as a few thousand HEADs.
FEW, FEW_PERCENT = 1000, 1
# Of more, a second listing confirms them, and a HEAD of so many, chosen at random, that the second listing can be believed.
SAMPLE = 64
_THREADS = 8


def scan(bucket: str, store: Store, s3: S3, *, rows_per_commit: int) -> Iterator[Event]:
    """Lists the bucket into the store, from where an interrupted listing stopped.

    Refused: a bucket that the state file knows from another account or endpoint.
    """
    account = s3.identity().account
    facts = s3.facts(bucket)
    endpoint = s3.endpoint_of(bucket)
    held = store.bucket(bucket)
    if held is not None and held.scan:
        must_be_as_listed(held, account, endpoint, anew=True)
    held = store.begin_scan(
        bucket,
        account=account,
        region=facts.region,
        endpoint=endpoint,
        versioning=facts.versioning,
        uploads=facts.uploads,
        moment=Moment(facts.date, boot_id(), uptime()),
    )
    began = time.monotonic()
    yield Started(bucket, "scan")
    if held.scan_key_marker:
        yield Noted(bucket, "the listing goes on where it stopped")
    start = (held.scan_key_marker, held.scan_version_marker or "") if held.scan_key_marker else None
    versioned = facts.versioning != ""
    objects, size = yield from _list(bucket, store, s3, held.scan, start, versioned, rows_per_commit)
    store.settle_older(bucket, held.scan)
    absent = _Absent()
    missing = store.count_missing(bucket, held.scan)
    if missing and not _few(bucket, store, missing):
        yield Noted(
            bucket, f"{missing:,} object versions are not listed any more; listing the bucket again to confirm it"
        )
        objects, size = yield from _list(bucket, store, s3, held.scan, None, versioned, rows_per_commit)
        missing = store.count_missing(bucket, held.scan)
        if missing and not _few(bucket, store, missing):
            absent = _confirm_by_listing(bucket, store, s3, held.scan, missing, versioned)
            missing = 0
    if missing:
        absent = _confirm_by_head(bucket, store, s3, held.scan, versioned)
    store.end_scan(bucket, held.scan, unlisted=absent.there, unconfirmed=absent.unknown)
    yield Ended(bucket, "scan", objects, size, time.monotonic() - began)
    yield from _warn(bucket, absent)
    if facts.uploads:
        yield Warned(
            bucket,
            f"{count_of(facts.uploads, 'multipart upload')} never completed; their parts cannot be read and stay in S3",
        )


def _list(
    bucket: str,
    store: Store,
    s3: S3,
    scan: int,
    start: tuple[str, str] | None,
    versioned: bool,
    rows_per_commit: int,
) -> Generator[Event, None, tuple[int, int]]:
    """Lists from `start` on; returns how many objects and bytes that were."""
    objects = size = 0
    versions: list[ObjectVersion] = []
    markers: list[DeleteMarker] = []
    # The next page is asked for and read while this one is written.
    for page in ahead(s3.versions(bucket, start, versioned=versioned)):
        versions.extend(page.versions)
        markers.extend(page.markers)
        objects += len(page.versions)
        size += sum(version.size for version in page.versions)
        if len(versions) + len(markers) >= rows_per_commit:
            store.add_listed(bucket, scan, versions, markers, page.next)
            versions, markers = [], []
            yield Progress(bucket, "scan", objects, size)
    store.add_listed(bucket, scan, versions, markers, None)
    return objects, size


@dataclass(slots=True)
class _Absent:
    """What became of the rows that a listing did not show."""

    gone: int = 0
    there: int = 0  # in S3 all the same: the listing was not complete
    changed: int = 0  # another object has this identity by now: for the next listing
    unknown: int = 0  # S3 does not say
    why: str = ""  # one of its answers


def _few(bucket: str, store: Store, missing: int) -> bool:
    rows = sum(tally.objects for tally in store.tallies(bucket))
    return missing <= max(FEW, rows * FEW_PERCENT // 100)


def _confirm_by_head(bucket: str, store: Store, s3: S3, scan: int, versioned: bool) -> _Absent:
    """Asks S3 for each missing row. Only a 404 of its identity, in a bucket that is there, makes a row gone."""
    absent = _Absent()
    for versions in batched(store.missing(bucket, scan), FEW):
        gone: list[ObjectVersion] = []
        for version, answer in _presences(s3, versions, versioned):
            if isinstance(answer, Failure):
                absent.unknown += 1
                absent.why = absent.why or str(answer)
            elif answer is Presence.GONE:
                gone.append(version)
            else:
                absent.there += answer is Presence.THERE
                absent.changed += answer is Presence.CHANGED
        if gone:
            s3.versioning(bucket)  # raises Failure where the bucket itself is what is missing
            store.mark_gone(bucket, gone)
            absent.gone += len(gone)
    return absent


def _confirm_by_listing(bucket: str, store: Store, s3: S3, scan: int, missing: int, versioned: bool) -> _Absent:
    """Two listings did not show these. If S3 has one of a few of them all the same, neither listing is believed."""
    sample = store.some_missing(bucket, scan, SAMPLE)
    if any(answer is Presence.THERE for _, answer in _presences(s3, sample, versioned)):
        return _Absent(unknown=missing, why="two listings left out objects that S3 has")
    s3.versioning(bucket)
    store.mark_missing_gone(bucket, scan)
    return _Absent(gone=missing)


def _presences(
    s3: S3, versions: Sequence[ObjectVersion], versioned: bool
) -> Iterator[tuple[ObjectVersion, Presence | Failure]]:
    def ask(version: ObjectVersion, _: Flag) -> Presence | Failure:
        try:
            return s3.presence(version, by_id=versioned and version.version_id != UNKNOWN_VERSION)
        except (Denied, Refusal, Unreachable) as failure:
            return failure

    return (answer for answer in in_threads(ask, versions, threads=_THREADS) if answer is not None)


def _warn(bucket: str, absent: _Absent) -> Iterator[Event]:
    if absent.gone:
        yield Warned(
            bucket,
            f"gone from S3 since they were listed: {_versions(absent.gone)} (a lifecycle rule, or somebody deleted them);"
            " copies that were fetched stay where they are",
        )
    if absent.there:
        yield Warned(
            bucket,
            f"the listing was not complete: it left out {_versions(absent.there)} that S3 has; they are kept as they were."
            " Is there a cache in front of the endpoint, or a policy that narrows the listing?",
        )
    if absent.unknown:
        yield Warned(
            bucket,
            f"not listed any more: {_versions(absent.unknown)}; S3 does not say whether they are gone ({absent.why});"
            " they are kept as they were",
        )


def _versions(count: int) -> str:
    return "1 object version" if count == 1 else f"{count:,} object versions"


def must_be_as_listed(held: BucketRow, account: str, endpoint: str, *, anew: bool = False) -> None:
    """Refused: a bucket of this name that is not the one that was listed. Its objects would be written over the copies.

    Where it is about to be listed `anew`, an account that was unknown may be known by now: STS did not answer then.
    """
    known = held.account or (account if anew else "")
    if (known, held.endpoint) != (account, endpoint):
        raise Refused(
            f"the state file knows {held.bucket} from account {held.account or 'unknown'} at {held.endpoint}, this is"
            f" account {account or 'unknown'} at {endpoint}; use another state file (--state) for it"
        )
