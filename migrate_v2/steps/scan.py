"""Every version of every object that S3 lists is a row, and every row that S3 lists no more says so."""

from __future__ import annotations

import time
from collections.abc import Iterator

from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import BucketRow, Store
from migrate_v2.errors import Refused
from migrate_v2.events import Ended, Event, Noted, Progress, Started, Warned
from migrate_v2.flow import ahead
from migrate_v2.model import DeleteMarker, ObjectVersion


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
    )
    began = time.monotonic()
    yield Started(bucket, "scan")
    if held.scan_key_marker:
        yield Noted(bucket, "the listing goes on where it stopped")
    start = (held.scan_key_marker, held.scan_version_marker or "") if held.scan_key_marker else None
    objects = size = 0
    versions: list[ObjectVersion] = []
    markers: list[DeleteMarker] = []
    # The next page is asked for and read while this one is written.
    for page in ahead(s3.versions(bucket, start, versioned=facts.versioning != "")):
        versions.extend(page.versions)
        markers.extend(page.markers)
        objects += len(page.versions)
        size += sum(version.size for version in page.versions)
        if len(versions) + len(markers) >= rows_per_commit:
            store.add_listed(bucket, held.scan, versions, markers, page.next)
            versions, markers = [], []
            yield Progress(bucket, "scan", objects, size)
    store.add_listed(bucket, held.scan, versions, markers, None)
    vanished = store.end_scan(bucket, held.scan)
    yield Ended(bucket, "scan", objects, size, time.monotonic() - began)
    if vanished:
        yield Warned(bucket, f"{vanished:,} versions that were listed before are not in S3 any more")
    if facts.uploads:
        yield Warned(
            bucket,
            f"{facts.uploads:,} multipart uploads were never completed; their parts cannot be read and stay in S3",
        )


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
