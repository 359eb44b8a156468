"""Exactly what was proved is gone from S3, each delete announced in the state file before it was sent."""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import chain
from threading import Event as Flag
from typing import TypeVar

from migrate_v2 import deletion
from migrate_v2.anchor import write_mark
from migrate_v2.edges.disk import Changed, Disk, Obstacle
from migrate_v2.edges.ledger import Settled
from migrate_v2.edges.s3 import S3, WRONG_ETAG_REFUSED, Deleter, Gone, Outcome, fits_delete_objects, tag_values
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure, NotFinished, Refused
from migrate_v2.events import Ended, Event, Progress, Started
from migrate_v2.flow import batched, in_threads
from migrate_v2.keys import show
from migrate_v2.model import (
    CANARY,
    CHANGED,
    REPLY_LOST,
    STILL_THERE,
    DeleteMarker,
    Doomed,
    FileIdentity,
    ObjectVersion,
    Place,
    Proof,
    Row,
    Rules,
    Site,
    by_if_match,
    doomed,
    prove,
    why_kept,
)

# DeleteObjects takes 1,000. Of the id `null` fewer at a time: less can change, and less is to be found out after a crash.
_BY_ID = 1000
_NULL = 64
_THREADS = 8
# So many of the smallest versions are looked at for one that can be deleted first.
_CANDIDATES = 100
# Of copies that are hashed again before their batch: the first one must not wait long for the last.
_HASHED_BYTES = 1 << 30

Item = TypeVar("Item")


def delete(
    store: Store,
    disk: Disk,
    deleter: Deleter,
    site: Site,
    rules: Rules,
    *,
    run: str,
    token: str,
    unchanged: Callable[[], Site],
    total_objects: int,
    total_bytes: int,
    at_most: int | None = None,
    trust: timedelta | None = None,
) -> Iterator[Event]:
    """Deletes the plan of `token`, batch by batch, and stops this bucket at the first answer that is a surprise.

    Elsewhere than at AWS the first delete by version id is of one version, and S3 has to show afterwards that exactly this
    one is gone: a server that ignores the id in DeleteObjects may remove the current object of each key instead.

    `run` names the process that has read every one of these copies again, but for those that were read within `trust`;
    `unchanged` asks S3 for the site anew; no more than `at_most` versions and delete markers go.
    """
    began = time.monotonic()
    bucket = site.bucket
    yield Started(bucket, "delete", total_objects, total_bytes)
    left = _Allowance(at_most)
    objects = size = 0
    identities = _identities if disk.notices_edits() else _identities_by_hash
    most_bytes = None if disk.notices_edits() else _HASHED_BYTES
    first = _first_by_id(store, site, rules, deleter.untried(bucket))
    for rows in left.of(chain(((row,) for row in first), _in_order(store, site, rules, most_bytes))):
        disk.same_place()
        found = identities(rows, disk)
        proofs = [_proof(row, identity, site, run, rules, trust) for row, identity in zip(rows, found, strict=True)]
        _same_site(site, unchanged())
        _as_recorded(store, deleter.s3, site, [row.version for row in rows], _as_proved(deleter, proofs))
        _send_proofs(store, disk, deleter, proofs, token)
        objects += len(proofs)
        size += sum(proof.size for proof in proofs)
        yield Progress(bucket, "delete", objects, size, total_objects, total_bytes)
    # Last, and one batch at a time: a marker goes only when every data version of its key is gone.
    for markers in left.of(batched(store.loose_markers(bucket), _BY_ID)):
        _same_site(site, unchanged())
        released = [_released(marker, site, run, rules) for marker in markers]
        proofs = [proof for proof in released if isinstance(proof, Proof)]
        _as_proved(deleter, proofs)
        _send_proofs(store, disk, deleter, proofs, token)
    yield Ended(bucket, "delete", objects, size, time.monotonic() - began)


def try_wrong_etag(
    store: Store,
    disk: Disk,
    deleter: Deleter,
    site: Site,
    rules: Rules,
    *,
    run: str,
    token: str,
    trust: timedelta | None = None,
) -> None:
    """Show, before any other delete, that the endpoint refuses a DELETE whose If-Match is not the object's ETag.

    AWS does. Other servers are asked by the smallest object that the plan deletes by If-Match: its copy is read once more,
    HEAD shows that it is the object that was proved, and the ledger says `canary` before the request. Refused for whatever
    is not 412. A server that deletes the object all the same has deleted what was proved, and its row says so.
    """
    bucket = site.bucket
    conditional = (row for row in deletion.to_delete(store, site, rules) if by_if_match(row, site))
    row = None if deleter.s3.at_aws else min(conditional, key=lambda row: row.version.size, default=None)
    if row is None:
        return
    deleter.must_honour_if_match(bucket)
    disk.same_place()
    if row.place is not Place.FOLDER and _digest(disk, row, Flag()) != row.sha256:
        raise Refused(
            f"{show(row.key)}: its local copy changed after it was read; nothing is deleted, run `migrate` again"
        )
    identities = _identities if disk.notices_edits() else _identities_by_hash
    proof = _proof(row, identities([row], disk)[0], site, run, rules, trust)

    def there() -> bool | None:
        v = row.version
        return deleter.s3.is_there(bucket, v.key, v.version_id, v.etag, by_id=site.versioning != "")

    if there() is not True:
        raise Refused(f"{show(row.key)}: {CHANGED}, or S3 does not say; nothing is deleted, run `migrate` again")
    (intent,) = store.ledger.intend(bucket, [replace(doomed(proof), kind=CANARY)], token)
    marked = write_mark(bucket, store, disk)
    outcome = deleter.delete_with_wrong_etag(proof)
    held = there() if outcome.unknown else True
    if held is None:
        raise Failure(
            f"S3 does not say what became of {show(row.key)}, tried with a wrong ETag; run the same command again"
        )
    text = (STILL_THERE if held else REPLY_LOST) if outcome.unknown else outcome.text
    store.concluded(bucket, [(intent, text, not held)], marked=marked)
    if outcome.text != WRONG_ETAG_REFUSED:
        lost = "" if held else f"; {show(row.key)} is gone by that, and its verified copy is here"
        raise Refused(
            f"{site.endpoint} did not refuse a DELETE with a wrong ETag ({outcome.text}), so If-Match protects nothing there"
            f" and nothing in {show(bucket)} is deleted{lost}; delete by other means, or turn versioning on"
        )


def abort_uploads(
    store: Store, disk: Disk, deleter: Deleter, site: Site, rules: Rules, *, token: str
) -> Iterator[Event]:
    """Abort the unfinished uploads that the plan of `token` names, and no other one."""
    bucket = site.bucket
    began = time.monotonic()
    yield Started(bucket, "abort")
    uploads = 0
    decided = deletion.decide_uploads(store, site, rules)
    for batch in batched((upload for upload, stays in decided if stays is None), _BY_ID):
        parts = [Doomed(upload.key, upload.upload_id, "upload") for upload in batch]
        _send_aborts(store, disk, deleter, bucket, parts, token)
        uploads += len(parts)
        yield Progress(bucket, "abort", uploads, 0)
    yield Ended(bucket, "abort", uploads, 0, time.monotonic() - began)


class _Allowance:
    """How many more may go; no limit where it is None."""

    def __init__(self, count: int | None) -> None:
        self._left = count

    def of(self, batches: Iterator[Sequence[Item]]) -> Iterator[Sequence[Item]]:
        for batch in batches:
            if self._left is not None:
                batch = batch[: self._left]
                self._left -= len(batch)
            if not batch:
                return
            yield batch


def _identities(rows: Sequence[Row], disk: Disk) -> list[FileIdentity | None]:
    """What the copies of `rows` are at this moment; None for a folder, and where no file is. Refused if a folder is gone."""
    for row in rows:
        if row.place is Place.FOLDER and not disk.is_folder(row.path):
            raise Refused(f"the folder {show(row.path)} is gone since it was checked; nothing more is deleted")
    return [None if row.place is Place.FOLDER else disk.look(row.path) for row in rows]


def _identities_by_hash(rows: Sequence[Row], disk: Disk) -> list[FileIdentity | None]:
    """The same where an edit may leave a file's identity as it was: each copy is read again, right before its delete.

    A copy with the bytes that were verified has the identity that was recorded: inode and ctime may differ without an
    edit on such file systems (FUSE numbers its inodes anew, exFAT forgets ctimes).
    """
    files = [row for row in rows if row.place is not Place.FOLDER]
    answers = in_threads(partial(_digest, disk), files, threads=_THREADS)
    digests = {row.path: digest for row, digest in filter(None, answers)}
    found = _identities(rows, disk)
    for index, (row, identity) in enumerate(zip(rows, found, strict=True)):
        if identity is not None and digests[row.path] == row.sha256:
            found[index] = row.identity
        elif row.place is not Place.FOLDER:
            found[index] = None
    return found


def _digest(disk: Disk, row: Row, stop: Flag) -> str:
    """The SHA-256 of the copy as it is on the disk now, "" where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with disk.reading(row.path, drop_cache=True) as file:
            for block in file.blocks():
                digest.update(block)
                if stop.is_set():
                    return ""
    except (FileNotFoundError, Obstacle, Changed):
        return ""
    return digest.hexdigest()


def _proof(
    row: Row, identity: FileIdentity | None, site: Site, run: str, rules: Rules, trust: timedelta | None
) -> Proof:
    proof = prove(row, site, run, rules, identity=identity, trust=trust)
    if isinstance(proof, str):
        raise Refused(f"{show(row.key)}: {proof}; nothing more is deleted, run `migrate` again")
    return proof


def _released(marker: DeleteMarker, site: Site, run: str, rules: Rules) -> Proof | str:
    return prove(marker, site, run, rules, left_beneath=0)


def _same_site(site: Site, now: Site) -> None:
    if now != site:
        raise Refused(f"the versioning of {show(site.bucket)} has changed meanwhile; nothing more is deleted")


def _as_proved(deleter: Deleter, proofs: Sequence[Proof]) -> set[str]:
    """Refuse where what is deleted by the id `null` is not the object or delete marker that was proved. The keys of those
    with tags.

    Versioning pins that id while it is enabled, and nothing did before; it may have been suspended since the listing.
    """

    def there(proof: Proof, _: Flag) -> tuple[bool | None, int]:
        return deleter.s3.is_there_with_tags(proof.site.bucket, proof.key, "null", proof.etag, by_id=True)

    pinned = [proof for proof in proofs if proof.version_id == "null" and not proof.conditional]
    with_tags = set()
    for proof, (is_there, tags) in filter(None, in_threads(there, pinned, threads=_THREADS)):
        if is_there is not True:
            raise Refused(
                f"{show(proof.key)}: {CHANGED}, or S3 does not say; nothing more is deleted, run `migrate` again"
            )
        if tags:
            with_tags.add(proof.key)
    return with_tags


def _as_recorded(store: Store, s3: S3, site: Site, versions: Sequence[ObjectVersion], with_tags: set[str]) -> None:
    """Record the tags of a batch anew where they changed, and stop then: they are written beside the data first."""
    changed = changed_tags(store, s3, site, versions, with_tags)
    if changed:
        store.record_tags(changed)
        raise NotFinished(
            f"tags in {show(site.bucket)}, such as those of {show(changed[0][0].key)}, changed while it was deleted. They are"
            " recorded now; run the same command again"
        )


def changed_tags(
    store: Store, s3: S3, site: Site, versions: Sequence[ObjectVersion], with_tags: Collection[str] = ()
) -> list[tuple[ObjectVersion, object]]:
    """The versions whose tags are not those that are recorded, with those that S3 reports now.

    Asked are those with recorded tags, and of those without the ones that are named `null` and have a key in `with_tags`;
    none without recorded metadata. Raises Failure where S3 does not give the tags of one that had some.
    """
    recorded = store.recorded_tags(versions)
    asked = [v for v, tags in recorded.items() if tags or (v.version_id == "null" and v.key in with_tags)]

    def ask(version: ObjectVersion, _: Flag) -> tuple[object, bool]:
        """The tags, or why S3 does not give them; and whether it does."""
        # By the id `null` where it pins the version, not as the current object.
        named = replace(version, is_latest=False) if site.versioning == "Enabled" else version
        try:
            answer = s3.tags(named)
        except Gone:  # the delete finds that out, and there is nothing to record
            return recorded[version], True
        # None: some servers answer 404 where there are no tags.
        return tag_values(answer) or {}, answer is None or (isinstance(answer, dict) and "TagSet" in answer)

    changed = []
    for version, (tags, given) in filter(None, in_threads(ask, asked, threads=_THREADS)):
        if tags == recorded[version] or (not given and _as_refused_before(recorded[version], tags)):
            continue
        if not given:
            raise Failure(
                f"S3 does not give the tags of {show(version.key)}, which has some by its record; nothing more is deleted."
                " Allow s3:GetObjectTagging and s3:GetObjectVersionTagging and run the same command again"
            )
        changed.append((version, tags))
    return changed


def _as_refused_before(recorded: object, answer: object) -> bool:
    """Whether S3 did not give the tags when they were to be recorded either, for the same error code.

    The messages differ: S3 names the caller in them, and the session of an assumed role has another name in each process.
    """
    if not isinstance(recorded, dict) or not isinstance(answer, dict) or recorded.keys() != answer.keys():
        return False
    return all(str(recorded[word]).partition(":")[0] == str(answer[word]).partition(":")[0] for word in answer)


def _in_order(store: Store, site: Site, rules: Rules, most_bytes: int | None = None) -> Iterator[Sequence[Row]]:
    """The versions that go, batch by batch: current ones after all others, so that no older version becomes current.

    That holds wherever the deletion stops, and within one DeleteObjects too, which promises no order. A current version
    whose key has others left is not among them.
    """
    if site.versioning == "":
        yield from _batches(deletion.to_delete(store, site, rules), most_bytes)
        return
    yield from _batches(deletion.to_delete(store, site, rules, current=False), most_bytes)
    yield from _batches(_current(store, site, rules), most_bytes)


def _current(store: Store, site: Site, rules: Rules) -> Iterator[Row]:
    for row in deletion.to_delete(store, site, rules, current=True):
        if rules.allow_older_current or not store.has_other_versions(row.version):
            yield row


def _first_by_id(store: Store, site: Site, rules: Rules, untried: Sequence[bool]) -> list[Row]:
    """The versions that are deleted first by their ids: one by each operation (whether DeleteObjects) that is untried.

    Each is a small one, and not the current version if any other is planned. Of those it is one whose key's current version
    is planned too, where there is one: a server that ignores the id then removes what was verified.
    """
    if not untried or site.versioning == "":
        return []
    smallest: dict[bool, list[Row]] = {by_delete_objects: [] for by_delete_objects in untried}

    def collect(planned: Iterator[Row], operations: Collection[bool]) -> None:
        for rows in batched(planned, _BY_ID):
            for operation in operations:
                usable = (r for r in rows if not by_if_match(r, site) and fits_delete_objects(r.key) is operation)
                candidates = chain(smallest[operation], usable)
                smallest[operation] = heapq.nsmallest(_CANDIDATES, candidates, key=lambda row: row.version.size)

    collect(deletion.to_delete(store, site, rules, current=False), untried)
    if without := [operation for operation, rows in smallest.items() if not rows]:
        collect(_current(store, site, rules), without)

    def is_harmless(row: Row) -> bool:
        versions = store.versions_of(site.bucket, row.key)
        return all(why_kept(one, site, rules) is None for one in versions if one.version.is_latest)

    return [next(filter(is_harmless, best), best[0]) for best in smallest.values() if best]


def _batches(rows: Iterator[Row], most_bytes: int | None = None) -> Iterator[Sequence[Row]]:
    """By VersionId 1,000 at a time, or once there are `most_bytes` of them. The id `null` is in small batches: versioning
    may be suspended in the middle of one, and then a PUT takes that id over."""
    exact: list[Row] = []
    null: list[Row] = []
    for row in rows:
        pile, size = (null, _NULL) if row.version.version_id == "null" else (exact, _BY_ID)
        pile.append(row)
        if len(pile) == size or (most_bytes is not None and sum(one.version.size for one in pile) >= most_bytes):
            yield tuple(pile)
            pile.clear()
    yield from filter(None, (tuple(exact), tuple(null)))


def _send_proofs(store: Store, disk: Disk, deleter: Deleter, proofs: Sequence[Proof], token: str) -> None:
    """Send the deletes of one batch. The first one by version id goes alone, for each operation that was not tried."""
    if not proofs:
        return
    site = proofs[0].site
    for operation in deleter.untried(site.bucket):
        by_id = (p for p in proofs if not p.conditional and fits_delete_objects(p.key) is operation)
        if first := next(by_id, None):
            _send_first(store, disk, deleter, first, token)
            deleter.deletes_exactly(site.bucket, by_delete_objects=operation)
            proofs = [proof for proof in proofs if proof is not first]
    if not proofs:
        return
    if any(proof.conditional for proof in proofs):
        deleter.must_honour_if_match(site.bucket)
    together = tuple(index for index, proof in enumerate(proofs) if not proof.conditional)
    _send(
        store,
        disk,
        site.bucket,
        [doomed(proof) for proof in proofs],
        token,
        [*((index,) for index, proof in enumerate(proofs) if proof.conditional), *([together] if together else [])],
        lambda indexes: deleter.delete([proofs[index] for index in indexes]),
        lambda index: _is_there(deleter.s3, proofs[index]),
    )


def _is_there(s3: S3, proof: Proof) -> bool | None:
    by_id = proof.site.versioning != ""
    return s3.is_there(proof.site.bucket, proof.key, proof.version_id, proof.etag, by_id=by_id)


def _send_first(store: Store, disk: Disk, deleter: Deleter, proof: Proof, token: str) -> None:
    """Delete one version by its id. Refused unless S3 lists its key afterwards as before, without this version."""
    bucket, this = proof.site.bucket, (proof.version_id, proof.kind == "marker")

    def ask(_: Sequence[int]) -> list[Outcome]:
        before = deleter.s3.identities_of(bucket, proof.key)
        (outcome,) = deleter.delete([proof])
        if outcome.wrong_version or not (outcome.gone or outcome.unknown):
            return [outcome]
        after = deleter.s3.identities_of(bucket, proof.key)
        nothing_done = not outcome.gone and before <= after
        if (before - after == {this} or nothing_done) and not any(is_marker for _, is_marker in after - before):
            return [outcome]
        text = (
            f"S3 listed {len(before)} versions and delete markers of its key before the DELETE and {len(after)} after it, and"
            " they are not the same ones without this one: the server ignored the version id"
        )
        return [Outcome(False, text, unknown=True, wrong_version=True)]

    _send(
        store,
        disk,
        bucket,
        [doomed(proof)],
        token,
        [(0,)],
        ask,
        lambda _: _is_there(deleter.s3, proof),
    )


def _send_aborts(
    store: Store, disk: Disk, deleter: Deleter, bucket: str, uploads: Sequence[Doomed], token: str
) -> None:
    _send(
        store,
        disk,
        bucket,
        uploads,
        token,
        [(index,) for index in range(len(uploads))],
        lambda indexes: [deleter.abort_upload(bucket, uploads[index]) for index in indexes],
        lambda index: deleter.s3.upload_is_there(bucket, uploads[index].key, uploads[index].version_id),
    )


def _send(
    store: Store,
    disk: Disk,
    bucket: str,
    batch: Sequence[Doomed],
    token: str,
    requests: Sequence[Sequence[int]],
    ask: Callable[[Sequence[int]], list[Outcome]],
    there: Callable[[int], bool | None],
) -> None:
    """One batch: the intent, the requests (by index, each once), the outcome.

    Raises at a surprise, after everything known is written. What no answer came for, `there` asks after.
    """
    intents = store.ledger.intend(bucket, batch, token)
    marked = write_mark(bucket, store, disk)
    outcomes: dict[int, Outcome] = {}
    surprise: Failure | None = None

    def send(indexes: Sequence[int], _: Flag) -> list[Outcome] | Failure:
        try:
            return ask(indexes)
        except Failure as failure:
            return failure

    for answer in in_threads(send, requests, threads=_THREADS):
        if answer is None:
            continue
        indexes, said = answer
        if isinstance(said, Failure):
            surprise = said
            break
        outcomes.update(zip(indexes, said, strict=True))
        if not all(outcome.gone for outcome in said):
            break
    settled: list[Settled] = []
    unknown = 0
    for index, intent in enumerate(intents):
        outcome = outcomes.get(index)
        if outcome is not None and not outcome.unknown:
            settled.append((intent, outcome.text, outcome.gone))
            continue
        # Not answered, or not told apart: perhaps sent, perhaps not.
        held = there(index)
        if held is None:
            unknown += 1
        else:
            settled.append((intent, STILL_THERE if held else REPLY_LOST, not held))
    store.concluded(bucket, settled, marked=marked)
    if surprise is not None:
        raise surprise
    wrong = next((index for index, outcome in outcomes.items() if outcome.wrong_version), None)
    if wrong is not None:
        raise Refused(
            f"{show(batch[wrong].key)} was not deleted: {outcomes[wrong].text}; deletion in {show(bucket)} stops here."
            " Use an endpoint that honours the version id"
        )
    if unknown:
        raise Failure(f"S3 does not say what became of {unknown} deletes in {show(bucket)}; run the same again")
    left = [(intent.doomed, text) for intent, text, gone in settled if not gone]
    if left and all(text == STILL_THERE for _, text in left):
        raise Failure(f"{len(left):,} deletes in {show(bucket)} were not answered and not done; run the same again")
    if left:
        entry, text = min(
            left, key=lambda one: one[1] == STILL_THERE
        )  # S3's own reason before those that were not sent
        raise Refused(f"{show(entry.key)} was not deleted: {text}; deletion in {show(bucket)} stops here")
