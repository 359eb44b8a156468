"""What is archived has been asked for, once, and what Glacier says of it is in the rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from threading import Event as Flag

from migrate_v2.edges.s3 import S3, Denied, Gone, Moved, Refusal, Restorer
from migrate_v2.edges.store import Change, Store
from migrate_v2.errors import Failure
from migrate_v2.events import Ended, Event, Found, Progress, Started
from migrate_v2.flow import batched, in_threads
from migrate_v2.model import ARCHIVED_CLASSES, CHANGED, VANISHED, FileState, Head, ObjectVersion, Row

_THREADS = 16


def refresh(bucket: str, store: Store, s3: S3, *, rows_per_commit: int) -> Iterator[Event]:
    """Asks S3 how far each restore is."""

    def ask(row: Row, _: Flag) -> Head | Failure:
        try:
            return s3.head(row.version)[0]
        except (Gone, Moved, Denied, Refusal) as failure:
            return failure

    began = time.monotonic()
    objects = size = 0
    for rows in batched(store.asked_for(bucket), rows_per_commit):
        seen, lost, broken = [], [], []
        for answer in in_threads(ask, rows, threads=_THREADS):
            if answer is None:
                continue
            row, head = answer
            if isinstance(head, Failure):
                broken.append(_failed(row, head))
            elif head.restore_ongoing is None and (head.storage_class in ARCHIVED_CLASSES or head.archive_status):
                # Neither under way nor back: the request was never sent, or the copy has expired since.
                lost.append(row.version)
            else:
                # INTELLIGENT_TIERING moves up for good and then says nothing of a restore, as what left Glacier since.
                seen.append((row.version, not head.restore_ongoing, head.restore_expiry))
                if not head.restore_ongoing:
                    objects += 1
                    size += row.version.size
        store.restore_seen(seen)
        store.restore_gone(lost)
        store.change(broken)
        for change in broken:
            yield Found(bucket, change.version.key, change.version.version_id, change.verdict, change.reason)
    if objects:
        yield Ended(bucket, "wait", objects, size, time.monotonic() - began)


def request(
    bucket: str, store: Store, restorer: Restorer, *, days: int, tier: str, at_most: int, rows_per_commit: int
) -> Iterator[Event]:
    """Asks for what is archived, until `at_most` restores are outstanding over all buckets."""
    room = at_most - store.outstanding_restores()
    if room <= 0:
        return

    def ask(row: Row, _: Flag) -> str | Failure:
        try:
            return restorer.restore(row.version, days=days, tier=tier)
        except (Gone, Moved, Denied, Refusal) as failure:
            return failure

    began = time.monotonic()
    objects = size = 0
    for rows in batched(islice(store.left_to_request(bucket), room), min(rows_per_commit, 200)):
        if not objects:
            yield Started(bucket, "restore")
        # Recorded before it is asked for: a crash in between costs a question (refresh), never a second restore.
        store.restore_asked([row.version for row in rows], tier)
        broken = []
        slower: dict[str, list[ObjectVersion]] = {}  # not every tier is to be had for every object at any time
        for answer in in_threads(ask, rows, threads=_THREADS):
            if answer is None:
                continue
            row, said = answer
            if isinstance(said, Failure):
                broken.append(_failed(row, said))
                continue
            objects += 1
            size += row.version.size
            if said != tier:
                slower.setdefault(said, []).append(row.version)
        for said_tier, versions in slower.items():
            store.restore_asked(versions, said_tier)
        store.change(broken)
        for change in broken:
            yield Found(bucket, change.version.key, change.version.version_id, change.verdict, change.reason)
        yield Progress(bucket, "restore", objects, size)
    if objects:
        yield Ended(bucket, "restore", objects, size, time.monotonic() - began)


def _failed(row: Row, failure: Failure) -> Change:
    reason = {Gone: VANISHED, Moved: CHANGED}.get(type(failure), str(failure))
    return Change(row.version, FileState.ERROR, None, reason)
