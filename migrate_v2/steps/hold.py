"""What S3 will not let go, or ought not to, is in the rows with its reason before a plan is made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event as Flag

from migrate_v2.edges.s3 import S3, Archived, Denied, Gone, Moved, Refusal
from migrate_v2.edges.store import Store
from migrate_v2.events import Ended, Event, Progress, Started
from migrate_v2.flow import batched, in_threads
from migrate_v2.model import Cause, Kept, Row


def hold(
    bucket: str, store: Store, s3: S3, *, threads: int, rows_per_commit: int, total_objects: int = 0
) -> Iterator[Event]:
    """Asks for the lock, the legal hold and the replication of every verified version, where the bucket may have any.

    HEAD says   | the row says
    ------------|--------------
    one of them | it, with the date if it has one
    none        | nothing
    denied      | that S3 does not say
    it is gone  | nothing: the plan was listed before, and the delete finds out
    """
    store.release_holds(bucket)
    if not s3.may_hold(bucket):
        return
    began = time.monotonic()
    yield Started(bucket, "hold", total_objects)
    objects = 0

    def ask(row: Row, _: Flag) -> Kept | None:
        try:
            return s3.hold(row.version)
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
