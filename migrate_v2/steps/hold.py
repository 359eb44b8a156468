"""Ask S3 what keeps it from deleting versions: locks, holds and replications that are not finished."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event as Flag

from migrate_v2.edges.s3 import S3, Archived, Denied, Gone, Moved, Refusal
from migrate_v2.edges.store import Store
from migrate_v2.events import Ended, Event, Progress, Started
from migrate_v2.flow import batched, in_threads
from migrate_v2.model import Cause, Kept, Row


def hold(
    bucket: str, store: Store, s3: S3, *, threads: int, rows_per_commit: int, total_objects: int = 0
) -> Iterator[Event]:
    """Record the lock, the holds and the replication of every verified version, where the bucket may have any.

    HEAD says                                 | the row says
    ------------------------------------------|--------------
    one of them                               | it, with the date if it has one
    none                                      | nothing
    none, and locks may not be read here      | that S3 does not say
    denied                                    | that S3 does not say
    it is gone                                | nothing: the plan was listed before, and the delete finds out
    """
    store.release_holds(bucket)
    if not s3.may_hold(bucket):
        return
    began = time.monotonic()
    yield Started(bucket, "hold", total_objects)
    objects = 0
    denied = _denied(bucket, store, s3)
    unknown = Kept(Cause.LOCK_UNKNOWN, f"S3 does not say whether it is locked: {' and '.join(denied)} denied")

    def ask(row: Row, _: Flag) -> Kept | None:
        try:
            return s3.hold(row.version) or (unknown if denied else None)
        except (Gone, Moved):
            return None
        except (Denied, Refusal, Archived) as failure:
            return Kept(Cause.LOCK_UNKNOWN, f"S3 does not say whether it is locked: {failure}")

    for rows in batched(store.verified(bucket), rows_per_commit):
        found = []
        for answer in in_threads(ask, rows, threads=threads):
            if answer is not None:
                objects += 1
                found.append((answer[0].version, answer[1]))
            yield Progress(bucket, "hold", objects, 0, total_objects)
        store.set_holds(bucket, found)
    yield Ended(bucket, "hold", objects, 0, time.monotonic() - began)


def _denied(bucket: str, store: Store, s3: S3) -> tuple[str, ...]:
    """Permissions without which HEAD says nothing of locks, asked of one object of a bucket that may have locks."""
    if not s3.has_object_lock(bucket):
        return ()
    for row in store.verified(bucket):
        with suppress(Gone, Moved):
            return s3.lock_denials(row.version)
    return ()
