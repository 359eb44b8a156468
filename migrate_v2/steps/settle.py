"""What became of every delete that was announced is known before anything else is done to its bucket."""

from __future__ import annotations

from collections.abc import Iterator

from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure
from migrate_v2.events import Event, Noted
from migrate_v2.model import REPLY_LOST, STILL_THERE, Doomed


def still_there(bucket: str, doomed: Doomed, s3: S3, *, by_id: bool) -> bool | None:
    """Asks S3 for exactly what a delete named; None where the answer does not tell."""
    if doomed.kind == "upload":
        return s3.upload_is_there(bucket, doomed.key, doomed.version_id)
    return s3.is_there(bucket, doomed.key, doomed.version_id, doomed.etag, by_id=by_id)


def settle(bucket: str, store: Store, s3: S3) -> Iterator[Event]:
    """Asks S3 about deletes that were about to be sent when a process died.

    Until then nobody knows whether a local copy is the only one, and an object put anew under the same key could be taken
    for the one whose delete went through: the next fetch would write over the only copy of that one.
    """
    intents = store.ledger.open(bucket)
    if not intents:
        return
    by_id = s3.versioning(bucket)[0] != ""
    settled = []
    for intent in intents:
        there = still_there(bucket, intent.doomed, s3, by_id=by_id)
        if there is None:
            raise Failure(
                f"S3 does not say what became of deletes in {bucket} whose replies were lost; run the same again"
            )
        settled.append((intent, STILL_THERE if there else REPLY_LOST, not there))
    store.concluded(bucket, settled)
    gone = sum(is_gone for _, _, is_gone in settled)
    yield Noted(bucket, f"of {len(settled):,} deletes that were interrupted {gone:,} went through")
