"""Exactly what was proved is gone from S3, each delete announced in the state file before it was sent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from threading import Event as Flag

from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import Deleter, Outcome
from migrate_v2.edges.store import Doomed, Store
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Ended, Event, Progress, Started
from migrate_v2.flow import batched, in_threads
from migrate_v2.keys import only_copies_mark, show
from migrate_v2.model import DeleteMarker, FileIdentity, Place, Proof, Row, Site, prove, why_kept

# DeleteObjects takes 1,000. Of the id `null` fewer at a time: less can change, and less is to be found out after a crash.
_BY_ID = 1000
_NULL = 64
_THREADS = 8
_THERE = "still there"


def doomed_rows(store: Store, site: Site) -> Iterator[Row]:
    """Rows that the plan names: verified, and of an identity that cannot move."""
    return (row for row in store.verified(site.bucket) if not why_kept(row, site))


def delete(
    store: Store,
    disk: Disk,
    deleter: Deleter,
    site: Site,
    *,
    run: str,
    token: str,
    unchanged: Callable[[], Site],
    total_objects: int,
    total_bytes: int,
) -> Iterator[Event]:
    """Deletes the plan of `token`, batch by batch, and stops this bucket at the first answer that is a surprise.

    `run` names the process that has read every one of these copies again; `unchanged` asks S3 for the site anew.
    """
    began = time.monotonic()
    bucket = site.bucket
    yield Started(bucket, "delete", total_objects, total_bytes)
    objects = size = 0
    for rows in _batches(doomed_rows(store, site), site):
        disk.same_place()
        proofs = [_proof(row, disk, site, run) for row in rows]
        _same_site(site, unchanged())
        yield from _send(store, disk, deleter, proofs, token)
        objects += len(proofs)
        size += sum(proof.size for proof in proofs)
        yield Progress(bucket, "delete", objects, size, total_objects, total_bytes)
    # Last, and one batch at a time: a marker goes only when every data version of its key is gone.
    for markers in batched(store.loose_markers(bucket), _BY_ID):
        _same_site(site, unchanged())
        released = [_released(marker, site, run) for marker in markers]
        yield from _send(store, disk, deleter, [proof for proof in released if isinstance(proof, Proof)], token)
    yield Ended(bucket, "delete", objects, size, time.monotonic() - began)


def _proof(row: Row, disk: Disk, site: Site, run: str) -> Proof:
    identity: FileIdentity | None = None
    if row.place is Place.FOLDER:
        if not disk.is_folder(row.path):
            raise Refused(f"the folder {show(row.path)} is gone since it was checked; nothing more is deleted")
    else:
        identity = disk.look(row.path)
    proof = prove(row, site, run, identity=identity)
    if isinstance(proof, str):
        raise Refused(f"{show(row.key)}: {proof}; nothing more is deleted, run `migrate` again")
    return proof


def _released(marker: DeleteMarker, site: Site, run: str) -> Proof | str:
    return prove(marker, site, run, left_beneath=0)


def _same_site(site: Site, now: Site) -> None:
    if now != site:
        raise Refused(f"the versioning of {show(site.bucket)} has changed meanwhile; nothing more is deleted")


def _batches(rows: Iterator[Row], site: Site) -> Iterator[Sequence[Row]]:
    """By VersionId 1,000 at a time. The id `null` is in small batches: versioning may be suspended in the middle of one,
    and then a PUT takes that id over."""
    exact: list[Row] = []
    null: list[Row] = []
    for row in rows:
        pile, size = (null, _NULL) if row.version.version_id == "null" else (exact, _BY_ID)
        pile.append(row)
        if len(pile) == size:
            yield tuple(pile)
            pile.clear()
    yield from filter(None, (tuple(exact), tuple(null)))


def _announce(store: Store, disk: Disk, bucket: str) -> None:
    """Says beside the data that it may be all there is, and which state file knows of it."""
    said = {"state_id": store.identity(), "state_file": str(store.path), "last_intent": store.last_intent(bucket)}
    with disk.replace_text(only_copies_mark(bucket)) as mark:
        mark.write(json.dumps(said) + "\n")


def _send(store: Store, disk: Disk, deleter: Deleter, proofs: Sequence[Proof], token: str) -> Iterator[Event]:
    """One batch: the intent, the requests, the outcome. Raises at a surprise, after everything known is written."""
    if not proofs:
        return
    bucket = proofs[0].site.bucket
    doomed = [Doomed(p.key, p.version_id, p.kind, p.etag, p.size, p.sha256) for p in proofs]
    if any(proof.conditional for proof in proofs):
        deleter.must_honour_if_match(bucket)
    store.intend(bucket, doomed, token)
    _announce(store, disk, bucket)
    outcomes: dict[int, Outcome] = {}
    surprise: Failure | None = None

    def send(indexes: Sequence[int], _: Flag) -> list[Outcome] | Failure:
        try:
            return deleter.delete([proofs[index] for index in indexes])
        except Failure as failure:
            return failure

    single = [(index,) for index, proof in enumerate(proofs) if proof.conditional]
    together = tuple(index for index, proof in enumerate(proofs) if not proof.conditional)
    for answer in in_threads(send, chain(single, [together] if together else []), threads=_THREADS):
        if answer is None:
            continue
        indexes, said = answer
        if isinstance(said, Failure):
            surprise = said
            break
        outcomes.update(zip(indexes, said, strict=True))
        if not all(outcome.gone for outcome in said):
            break
    settled: list[tuple[Doomed, str, bool]] = []
    unknown = 0
    for index, entry in enumerate(doomed):
        outcome = outcomes.get(index)
        if outcome is not None and not outcome.unknown:
            settled.append((entry, outcome.text, outcome.gone))
            continue
        # Not answered, or not told apart: perhaps sent, perhaps not.
        there = deleter.s3.is_there(
            bucket, entry.key, entry.version_id, entry.etag, by_id=proofs[index].site.versioning != ""
        )
        if there is None:
            unknown += 1
        else:
            settled.append((entry, _THERE if there else "deleted; the reply was lost", not there))
    store.concluded(bucket, settled)
    if surprise is not None:
        raise surprise
    if unknown:
        raise Failure(f"S3 does not say what became of {unknown} deletes in {show(bucket)}; run the same again")
    left = [(entry, text) for entry, text, gone in settled if not gone]
    if left and all(text == _THERE for _, text in left):
        raise Failure(f"{len(left):,} deletes in {show(bucket)} were not answered and not done; run the same again")
    if left:
        entry, text = min(left, key=lambda one: one[1] == _THERE)  # S3's own reason before those that were not sent
        raise Refused(f"{show(entry.key)} was not deleted: {text}; deletion in {show(bucket)} stops here")
    yield from ()
