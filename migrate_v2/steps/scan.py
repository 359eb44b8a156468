"""Every version of every object that S3 lists is a row, and every row that S3 lists no more says so."""

from __future__ import annotations

import time
from collections.abc import Iterator

from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Ended, Event, Noted, Progress, Started, Warned
from migrate_v2.model import DeleteMarker, ObjectVersion


def scan(bucket: str, store: Store, s3: S3, *, rows_per_commit: int) -> Iterator[Event]:
    """Lists the bucket into the store, from where an interrupted listing stopped.

    Refused: a bucket that the state file knows from another account or endpoint.
    """
    account = s3.identity().account
    facts = s3.facts(bucket)
    endpoint = s3.endpoint_of(bucket)
    held = store.bucket(bucket)
    if held is not None and held.scan and (held.account, held.endpoint) != (account, endpoint):
        raise Refused(
            f"the state file knows {bucket} from account {held.account or 'unknown'} at {held.endpoint}, this is account"
            f" {account or 'unknown'} at {endpoint}; use another state file (--state) for it"
        )
    _settle_deletes(bucket, store, s3, by_id=facts.versioning != "")
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
    for page in s3.versions(bucket, start):
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


def _settle_deletes(bucket: str, store: Store, s3: S3, *, by_id: bool) -> None:
    """Finds out what became of deletes that were about to be sent when a process died.

    This comes before the listing: an object put anew under the same key must not be taken for the one whose delete went
    through, or the next fetch would write over the only copy of that one.
    """
    settled = []
    for doomed in store.open_intents(bucket):
        there = s3.is_there(bucket, doomed.key, doomed.version_id, doomed.etag, by_id=by_id)
        if there is None:
            raise Failure(
                f"S3 does not say what became of deletes in {bucket} whose replies were lost; run the same again"
            )
        settled.append((doomed, "still there" if there else "deleted; the reply was lost", not there))
    if settled:
        store.concluded(bucket, settled)
