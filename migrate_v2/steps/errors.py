"""Every row in error has a cause out of a short list, and for each cause there is something to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from migrate_v2.edges.store import Store
from migrate_v2.events import Event, Noted
from migrate_v2.flow import batched
from migrate_v2.keys import show
from migrate_v2.model import Cause, FileState, Row

# What to do about each cause, in the order in which `errors` shows them.
ADVICE = {
    "vanished": "S3 does not list it any more; `retry-errors` looks once more, and a local copy that was read stays",
    "changed": "it was overwritten while it was fetched; `migrate` lists the bucket again and fetches what is there now",
    "denied": "the identity lacks a permission (s3:GetObject, s3:GetObjectVersion, kms:Decrypt, s3:RestoreObject), or"
    " `expected_bucket_owner` is another account",
    "archived": "run `restore`, then `migrate`",
    "in the way": "something that is no plain file lies where the object's file belongs: move it away",
    "unreadable": "the local copy cannot be read, or reads differently each time: look at the disk and its permissions, then"
    " `migrate`",
    "disk": "the destination refused it: free space or correct what the reason says",
    "refused": "S3 will not hand it out as it is; the reason has S3's own words",
    "other": "see the reason; `migrate` tries it again",
}
WORDS = tuple(ADVICE)
# Words of the command line that are not those of the state file.
_WORD = {Cause.OBSTACLE: "in the way", Cause.CHECKSUM_DENIED: "denied"}


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
    """Every row in error with its cause, in the order of bucket and key; of one cause if `only` names it."""
    for bucket in buckets:
        for row in store.in_state(bucket, FileState.ERROR):
            cause = cause_of(row)
            if only in (None, cause):
                yield row, cause


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
    """Puts rows in error back to be tried. What has vanished or changed waits for a new listing, which is asked for too.

    The row of a version that vanished after its copy was read stays: it is what keeps that copy from being written over.
    """
    back = listing = staying = 0
    for batch in batched(failed([bucket], store, only), rows_per_commit):
        again = []
        for row, _ in batch:
            lost = row.cause in (Cause.VANISHED, Cause.CHANGED)
            if lost and row.sha256:
                staying += 1
                continue
            listing += lost
            again.append(row.version)
        back += len(again)
        store.put_back(again)
    if listing or staying:
        store.list_anew(bucket)
    if back:
        yield Noted(bucket, f"{back:,} failed objects are to be tried again; `migrate {show(bucket)}` does it")
    if staying:
        yield Noted(
            bucket,
            f"{staying:,} objects vanished from S3 after their copies were read: they stay as they are, and are looked for again",
        )
    if not back and not staying:
        yield Noted(bucket, "nothing is in error" if only is None else f"nothing is in error for the cause `{only}`")
