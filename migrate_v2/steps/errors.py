"""Every row in error has a cause out of a short list, and for each cause there is something to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from migrate_v2.edges.store import Store
from migrate_v2.events import Event, Noted
from migrate_v2.flow import batched
from migrate_v2.keys import show
from migrate_v2.model import Cause, FileState, GoneKind, Row

# What to do about each cause, in the order in which `errors` shows them.
ADVICE = {
    "vanished": "it is gone from S3, and has not failed; `retry-errors --cause=vanished` lists the bucket again",
    "changed": "it was overwritten while it was fetched; `migrate` lists the bucket again and fetches what is there now",
    "denied": "the identity lacks a permission (s3:GetObject, s3:GetObjectVersion, kms:Decrypt, s3:RestoreObject), or"
    " `expected_bucket_owner` is another account",
    "archived": "run `restore`, then `migrate`",
    "in the way": "something that is no plain file lies where the object's file belongs: move it away",
    "unreadable": "the local copy cannot be read, or reads differently each time: look at the disk and its permissions, then"
    " `migrate`",
    "disk": "the destination refused it: free space or correct what the reason says",
    "refused": "S3 will not hand it out as it is; the reason has S3's own words",
    "contested": "what was fetched was wrong again and again, or the copy was changed or removed again after it was verified:"
    " look for a program that changes the files (antivirus, a sync client) or the answers (a proxy), then `retry-errors`",
    "other": "see the reason; `migrate` tries it again",
}
WORDS = tuple(ADVICE)
WORD_GONE = "vanished"
# Words of the command line that are not those of the state file.
_WORD = {Cause.OBSTACLE: "in the way", Cause.CHECKSUM_DENIED: "denied", Cause.SUPERSEDED: WORD_GONE}


@dataclass(frozen=True, slots=True)
class Group:
    """Rows in error of one cause, counted."""

    cause: str
    objects: int
    bytes: int
    advice: str


def cause_of(row: Row) -> str:
    """The cause of a row in error, as the command line names it."""
    word = _WORD.get(row.cause, row.cause.value) if row.cause else "other"
    return word if word in WORDS else "other"


def failed(buckets: Iterable[str], store: Store, only: str | None = None) -> Iterator[tuple[Row, str]]:
    """Every row in error with its cause, in the order of bucket and key; of one cause if `only` names it.

    Rows that are gone from S3 have not failed: they are left out unless `only` is "vanished".
    """
    for bucket in buckets:
        for row in store.in_state(bucket, FileState.ERROR):
            cause = cause_of(row)
            if only == cause if row.gone else only in (None, cause):
                yield row, cause


def gone(buckets: Iterable[str], store: Store) -> dict[GoneKind, tuple[int, int]]:
    """(objects, bytes) that are gone from S3, of several buckets."""
    found = dict.fromkeys(GoneKind, (0, 0))
    for bucket in buckets:
        for kind, (objects, size) in store.gone(bucket).items():
            found[kind] = (found[kind][0] + objects, found[kind][1] + size)
    return found


def grouped(rows: Iterable[tuple[Row, str]]) -> list[Group]:
    """In the order of WORDS; what does not occur is left out."""
    amounts: dict[str, list[int]] = {}
    for row, word in rows:
        amount = amounts.setdefault(word, [0, 0])
        amount[0] += 1
        amount[1] += row.version.size
    found = ((word, amounts[word]) for word in WORDS if word in amounts)
    return [Group(word, objects, size, ADVICE[word]) for word, (objects, size) in found]


def retry(bucket: str, store: Store, only: str | None, *, rows_per_commit: int) -> Iterator[Event]:
    """Puts rows in error back to be tried. What has changed waits for a new listing, which is asked for too.

    What is gone from S3 has not failed, and stays as it is; for the cause "vanished" the bucket is listed again, and what
    is there again is a row to do again.
    """
    back = 0
    listing = False
    if only == WORD_GONE:
        absent = sum(objects for objects, _ in store.gone(bucket).values())
        listing = absent > 0
        if listing:
            yield Noted(bucket, f"{absent:,} object versions are gone from S3; the next `migrate` looks for them again")
    for batch in batched(failed([bucket], store, only), rows_per_commit):
        again = [row for row, _ in batch if not row.gone]
        listing = listing or any(row.cause is Cause.CHANGED for row in again)
        back += len(again)
        store.put_back(row.version for row in again)
    if listing:
        store.list_anew(bucket)
    if back:
        yield Noted(bucket, f"{back:,} failed objects are to be tried again; `migrate {show(bucket)}` does it")
    elif not listing:
        yield Noted(bucket, "nothing is in error" if only is None else f"nothing is in error for the cause `{only}`")
