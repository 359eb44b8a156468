"""The destination and the state file record how far the ledger of deletions goes; what each says is compared with the other.

`only-copies.json` names the last entry before each batch of deletes is sent, and the last line of the certificate. The state
file names its own last entry, the entry that was in `only-copies.json` when a batch was answered, and that last line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from migrate_v2.edges.disk import Changed, Disk, DiskError, Obstacle
from migrate_v2.edges.ledger import hash_of
from migrate_v2.edges.store import Store
from migrate_v2.errors import Refused
from migrate_v2.keys import CERTIFICATE, SIDE, only_copies_mark, show

# A line of a certificate has one key, of 1,024 bytes at most, each of them six letters long in JSON.
LONGEST_LINE = 64 << 10


class MismatchKind(StrEnum):
    """What is missing, and where."""

    LEDGER_CUT = "ledger_cut"  # the state file's own ledger has lost its last entries
    STATE_FILE_OLDER = "state_file_older"  # the destination knows of deletions that this state file does not know of
    DESTINATION_OLDER = "destination_older"  # only-copies.json is missing, or older than what the state file recorded
    CERTIFICATE_CUT = "certificate_cut"  # the certificate is missing, or has lost its last lines


# Those that leave no doubt about what was deleted: `verify` reads all copies and records the destination anew.
MENDABLE = (MismatchKind.DESTINATION_OLDER, MismatchKind.CERTIFICATE_CUT)


@dataclass(frozen=True, slots=True)
class Mismatch:
    kind: MismatchKind
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What `only-copies.json` says. Numbers are 0 where it names no entry."""

    state_id: str
    state_file: str
    entry: int
    hash: str
    certified: int = 0
    certified_hash: str = ""


def read_mark(bucket: str, disk: Disk) -> Mark | None:
    """None where there is none; one of nobody where it cannot be read."""
    text = disk.read_text(only_copies_mark(bucket))
    if text is None:
        return None
    try:
        found = json.loads(text)
        return Mark(
            str(found["state_id"]),
            str(found["state_file"]),
            int(found["entry"]),
            str(found["hash"]),
            int(found.get("certified_entry", 0)),
            str(found.get("certified_hash", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return Mark("", "unknown", 0, "")


def write_mark(bucket: str, store: Store, disk: Disk, certified: tuple[int, str] | None = None) -> int:
    """Says beside the data that it may be all there is, and which state file knows of it; returns the entry it names."""
    entry, hash_ = store.ledger.last(bucket)
    anchors = store.ledger.anchors(bucket)
    number, line = certified or (anchors.certified, anchors.certified_hash)
    document = {
        "state_id": store.identity(),
        "state_file": str(store.path),
        "entry": entry,
        "hash": hash_,
        "certified_entry": number,
        "certified_hash": line,
    }
    with disk.replace_text(only_copies_mark(bucket)) as mark:
        mark.write(json.dumps(document) + "\n")
    return entry


def record(bucket: str, store: Store, disk: Disk, certified: tuple[int, str]) -> None:
    """The certificate was written up to this entry: first the destination says so, then the state file."""
    marked = write_mark(bucket, store, disk, certified)
    store.ledger.record_destination(bucket, marked=marked, certified=certified)


def last_line(bucket: str, disk: Disk) -> tuple[int, str] | None:
    """Number and hash of the last entry of the certificate; None where there is none, (0, "") where it is damaged."""
    tail = disk.tail(f"{SIDE}/{bucket}/{CERTIFICATE}", LONGEST_LINE)
    if tail is None:
        return None
    line = tail.removesuffix(b"\n").rpartition(b"\n")[2] if tail.endswith(b"\n") else b""
    try:
        found = json.loads(line)
        hash_, _ = found.pop("hash"), found.pop("mac")
        return (int(found["seq"]), str(hash_)) if hash_of(found) == hash_ else (0, "")
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        return 0, ""


def cut_ledger(bucket: str, store: Store) -> Mismatch | None:
    """Has the state file lost the last entries of its own ledger?"""
    found, recorded = store.ledger.last(bucket), store.ledger.anchors(bucket).last
    if recorded is None or found == recorded:
        return None
    return Mismatch(
        MismatchKind.LEDGER_CUT,
        f"the record of what was deleted from {show(bucket)} is cut off in {show(str(store.path))}: its last entry is"
        f" {found[0]} and should be {recorded[0]}; put a backup of the state file in its place",
    )


def must_be_whole(bucket: str, store: Store) -> None:
    """Refused where the ledger of the state file has lost its last entries."""
    if cut := cut_ledger(bucket, store):
        raise Refused(cut.text)


def mismatch(bucket: str, store: Store, disk: Disk) -> Mismatch | None:
    """Compares what state file, only-copies.json and certificate record of the bucket's deletions.

    L is the last entry of the ledger, R the last entry that the state file recorded, M the entry that the mark names, A the
    entry of the mark when the last batch was answered, C the last line of the certificate, S the one that was recorded.
    A kill between two writes leaves A <= M <= L and S <= C <= L.

    found                                                  | mismatch
    -------------------------------------------------------|-------------------
    L is not R                                             | ledger_cut
    a mark of another state file, or M not in the ledger   | state_file_older
    C not in the ledger                                    | state_file_older
    no mark or M < A, and there were deletes               | destination_older
    no certificate or C < S, and one was written           | certificate_cut
    the last line of the certificate is damaged            | certificate_cut
    """
    if cut := cut_ledger(bucket, store):
        return cut
    base = show(str(disk.base))
    mark, line = read_mark(bucket, disk), last_line(bucket, disk)
    anchors = store.ledger.anchors(bucket)
    ours = mark is None or (mark.state_id == store.identity() and store.ledger.holds(bucket, mark.entry, mark.hash))
    if mark is not None and not ours:
        return Mismatch(
            MismatchKind.STATE_FILE_OLDER,
            f"{base} holds the only copies of objects that were deleted from {bucket}, and this state"
            f" file does not know of all of them; use the one that deleted them ({show(mark.state_file)}), or"
            " another --dest",
        )
    if line is not None and line[0] and not store.ledger.holds(bucket, *line):
        return Mismatch(
            MismatchKind.STATE_FILE_OLDER,
            f"{base}/{SIDE}/{bucket}/{CERTIFICATE} certifies deletions that this state file does not know of (its last entry"
            f" is {line[0]}); use the state file that deleted them, or another --dest",
        )
    way_out = (
        f"was it restored from an older backup? Put the newer files back, or run `verify` for {show(bucket)}, which reads"
        " every copy, reports what is missing and records the destination as it is"
    )
    named = mark.entry if mark is not None else 0
    if named < anchors.marked:
        return Mismatch(
            MismatchKind.DESTINATION_OLDER,
            f"{base}/{only_copies_mark(bucket)} {f'names entry {named}' if mark else 'is missing'}, and entry"
            f" {anchors.marked} of the record of deletions was written there; {way_out}",
        )
    certified = max(anchors.certified, mark.certified if mark is not None else 0)
    if (line is None and certified) or (line is not None and (not line[0] or line[0] < certified)):
        return Mismatch(
            MismatchKind.CERTIFICATE_CUT,
            f"{base}/{SIDE}/{bucket}/{CERTIFICATE} {'is missing' if line is None else 'lacks its last lines'}, up to entry"
            f" {certified}; {way_out}",
        )
    return None


def same_history(bucket: str, store: Store, disk: Disk) -> None:
    """Refused where the destination and the state file do not know of the same deletions."""
    if found := mismatch(bucket, store, disk):
        raise Refused(found.text)


def look(bucket: str, store: Store, disk: Disk) -> Mismatch | None:
    """As mismatch(), for a look: what cannot be read is no mismatch."""
    try:
        return mismatch(bucket, store, disk)
    except (Obstacle, Changed, DiskError):
        return None
