"""Every local byte was read back from the disk and compared with what S3 itself says of exactly that version."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from threading import Event as Flag

from migrate_v2 import checksums
from migrate_v2.edges.disk import Changed, Disk, DiskError, Obstacle
from migrate_v2.edges.readers import File, Readers
from migrate_v2.edges.readers import Found as Read
from migrate_v2.edges.s3 import S3, Archived, Denied, Gone, Moved, Refusal, SizeDiffers, Unreachable, WrongVersion
from migrate_v2.edges.store import Evidence, Store
from migrate_v2.errors import Refused
from migrate_v2.events import Ended, Event, Found, Progress, Started, Warned
from migrate_v2.flow import Meter, in_threads
from migrate_v2.keys import count_of, show
from migrate_v2.model import (
    CHANGED,
    GONE_CAUSES,
    SHA256_OF_NOTHING,
    SUPERSEDED,
    VANISHED,
    Attempts,
    Cause,
    EvidenceSource,
    FileIdentity,
    FileState,
    Place,
    Row,
    Verdict,
    Witness,
    evidence_of,
)
from migrate_v2.shards import Sizes, sharded

_MULTIPART = re.compile(r"[0-9a-f]{32}-([0-9]{1,5})")
# So many objects in a row without an answer: it is not the objects.
HOPELESS = 20
HANDFUL, HANDFUL_BYTES = 16, 1 << 20
# Readers take more at once: every handful is two messages. They are not worth their start for fewer objects than these.
ARMFUL, ARMFUL_BYTES = 100, 8 << 20
WORTH_READERS = 2000
# Seconds at most between two commits.
COMMIT = 10.0
# A second reading that S3 does not answer to the end is begun anew this often.
ATTEMPTS = 4
_OPAQUE = ("aws:kms", "aws:kms:dsse", "SSE-C")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one copy came to, before it is told or written."""

    verdict: Verdict
    reason: str = ""
    sha256: str = ""
    witnesses: tuple[Witness, ...] = ()
    identity: FileIdentity | None = None
    in_s3: bool = True  # False: S3 does not hold this version any more
    cause: Cause | None = None
    source: EvidenceSource | None = None  # the answer of S3 that `witnesses` are from
    source_run: str = ""  # the process that S3 gave it to, if that is another one


class _Stopped(Exception):
    pass


def verify(
    bucket: str,
    store: Store,
    disk: Disk,
    s3: S3,
    rows: Iterable[Row],
    *,
    verb: str = "verify",
    run: str,
    threads: int,
    rows_per_commit: int,
    total_objects: int = 0,
    total_bytes: int = 0,
    refetch: int = 0,
    readers: int = 0,
) -> Generator[Event, None, int]:
    """Reads and judges the copies of `rows`. What differs goes into quarantine and back to `discovered`.

    A copy of what S3 does not have any more is compared with what is recorded of it, and stays where it is, whatever is
    found. With
    `refetch`, the bytes of a block, each object is read again from S3 beside its copy: for `rows` that nothing else proves.
    Small files in great number are read by so many `readers`, processes. Returns how many rows stay as they are, because
    S3 gave no usable answer about them.
    """
    disk.same_place()
    disk.settle()
    if store.left_in_s3(bucket):
        s3.region_of(bucket)
    began = time.monotonic()
    yield Started(bucket, verb, total_objects, total_bytes)
    meter = Meter()
    objects = unanswered = in_a_row = shared = 0
    wrong, first_wrong = 0, WrongVersion("")

    aside = Readers(disk, readers) if readers and not refetch and total_objects >= WORTH_READERS else None

    def examine(row: Row, stop: Flag, read: Read = None) -> Finding | Unreachable:
        try:
            if row.state is FileState.DELETED:
                return _deleted(row, disk, meter, stop)
            if _is_gone(row):
                return _only_copy(row, disk, meter, stop)
            if refetch:
                return _reread(row, disk, s3, refetch, meter, stop)
            return _judge(row, disk, s3, meter, stop, read)
        except Unreachable as failure:
            return failure

    def examine_all(some: Sequence[Row], stop: Flag) -> list[tuple[Row, Finding | Unreachable]]:
        if aside is None or len(some) == 1:
            return [(row, examine(row, stop)) for row in some]
        plain = [row for row in some if row.place is not Place.FOLDER and _in_s3(row)]
        read = dict(zip((row.path for row in plain), aside.read([_file(row) for row in plain]), strict=True))
        return [(row, examine(row, stop, read.get(row.path))) for row in some]

    evidence: list[Evidence] = []
    paths: list[str] = []
    told: list[Found] = []

    def commit() -> None:
        """The files were flushed before they were read; a copy is as durable as the entries of the folders above it."""
        disk.flush(paths, folders_only=True)
        store.record(evidence, run)
        evidence.clear()
        paths.clear()

    committed = time.monotonic()
    most, most_bytes = (ARMFUL, ARMFUL_BYTES) if aside else (HANDFUL, HANDFUL_BYTES)
    sizes = Sizes(min(most, rows_per_commit), most_bytes)
    with aside or nullcontext():
        for answer in in_threads(examine_all, sharded(rows, sizes, lambda row: row.version.size), threads=threads):
            for row, found in answer[1] if answer is not None else ():
                objects += 1
                silent = isinstance(found, Unreachable) and not isinstance(found, WrongVersion)
                in_a_row = in_a_row + 1 if silent else 0
                if isinstance(found, Unreachable):  # left to verify: the next run asks again
                    if isinstance(found, WrongVersion):
                        wrong, first_wrong = wrong + 1, found if wrong == 0 else first_wrong
                    unanswered += silent
                    if row.state is FileState.VERIFIED:  # once, but these bytes are not what matched then
                        # A second reading that was sealed is still S3's answer, and the only one of its kind.
                        held = _second_reading(row) if row.sealed else ()
                        source = EvidenceSource.REFETCH if held else None
                        evidence.append(
                            Evidence(
                                row.version,
                                FileState.DOWNLOADED,
                                None,
                                "",
                                "",
                                held,
                                None,
                                source=source,
                                source_run=row.evidence_run,
                            )
                        )
                    if in_a_row >= HOPELESS:
                        commit()
                        raise found
                    continue
                shared += found.identity is not None and found.identity.links > 1 and not row.linked
                entry = _conclusion(row, found, disk)
                evidence.append(entry)
                if found.verdict in (Verdict.MATCH, Verdict.UNPROVABLE):
                    paths.append(row.path)
                if found.verdict is not Verdict.MATCH:
                    told.append(
                        Found(
                            bucket,
                            row.key,
                            row.version.version_id,
                            found.verdict,
                            entry.reason,
                            gone=entry.cause in GONE_CAUSES,
                        )
                    )
            yield Progress(bucket, verb, objects, meter.bytes, total_objects, total_bytes)
            if len(evidence) >= rows_per_commit or time.monotonic() - committed > COMMIT:
                commit()
                yield from told
                told = []
                committed = time.monotonic()
    commit()
    yield from told
    if wrong:
        yield Warned(bucket, WrongVersion.summary(wrong, first_wrong))
    if unanswered:
        yield Warned(bucket, f"S3 gave no proper answer for {count_of(unanswered, 'object')}; the next run asks again")
    if shared:
        yield Warned(
            bucket,
            f"{count_of(shared, 'local copy', 'local copies')} with other names too (hard links that this program did not make, such as those of"
            " cp -al): who edits such a file in place changes the copy",
        )
    yield Ended(bucket, verb, objects, meter.bytes, time.monotonic() - began)
    return unanswered + wrong


def _is_gone(row: Row) -> bool:
    """Gone from S3, by others; its copy may be still to be verified."""
    return row.cause in GONE_CAUSES


def _in_s3(row: Row) -> bool:
    return row.state is not FileState.DELETED and not _is_gone(row)


def _file(row: Row) -> File:
    return File(
        row.path,
        row.version.size,
        tuple((witness.kind, witness.parts) for witness in (*_expected(row), *row.witnesses)),
    )


def _expected(row: Row) -> tuple[Witness, ...]:
    """What the copy has to match: the recorded evidence where its seal holds, else what the listing says.

    Evidence whose seal does not hold is not known to be from S3: it may contradict a copy, never prove it.
    """
    return (evidence_of(row) if row.sealed else ()) or checksums.listed(row.version)


def _judge(row: Row, disk: Disk, s3: S3, meter: Meter, stop: Flag, read: Read = None) -> Finding:
    """Compares the copy with S3's word; `read` is what a reader has found already. A folder for a `dir/` reads as no bytes.

    copy is ...               | listing's ETag | HEAD's word                      | verdict
    --------------------------|----------------|----------------------------------|-----------
    not there                 | any            | not asked                        | missing
    not a plain file          | any            | not asked                        | unreadable
    of another size           | any            | it is there, or no answer        | differs
    read                      | matches        | not asked                        | match
    read, or of another size  | does not       | it is gone                       | gone: an unproved only copy
    read                      | does not       | something strong enough matches  | match
    read                      | does not       | something contradicts            | differs
    read                      | does not       | a second reading contradicts     | differs
    read                      | does not       | nothing decides                  | unprovable
    read                      | does not       | S3 has another object there      | error: changed
    read                      | does not       | the same ETag, another size      | error: refused
    """
    version = row.version
    witnesses = _expected(row)
    recorded = row.sealed and evidence_of(row) != ()
    identity: FileIdentity | None
    if read is not None:
        measured, identity = read
        meter.add(measured.size)
    else:
        try:
            measured, identity = _read(row, disk, (*witnesses, *row.witnesses), meter, stop)
        except FileNotFoundError:
            what = "folder" if row.place is Place.FOLDER else "file"
            return Finding(Verdict.MISSING, f"the {what} is not there")
        except (Obstacle, Changed, DiskError) as failure:
            return Finding(Verdict.UNREADABLE, str(failure), cause=Cause.UNREADABLE)
    if measured.size != version.size:
        reason = f"the file has {measured.size:,} bytes, the object {version.size:,}"
        # The copy of an object that is gone is not moved away: it may be all that is left of it.
        try:
            s3.head(version)
        except Gone:
            return _found_gone(row, witnesses, measured, identity, Cause.VANISHED)
        except Moved:
            return _found_gone(row, witnesses, measured, identity, Cause.CHANGED)
        except SizeDiffers as failure:
            return _size_differs(failure)
        except (Denied, Refusal, Archived, Unreachable):
            pass
        return Finding(Verdict.DIFFERS, reason, measured.sha256)
    matched = checksums.matched(witnesses, measured)
    if checksums.enough(matched):
        source, run = (row.evidence_source, row.evidence_run) if recorded else (EvidenceSource.LISTING, "")
        return Finding(Verdict.MATCH, "", measured.sha256, matched, identity, source=source, source_run=run)
    # What this version matched once is no guess any more: it may contradict.
    held = row.witnesses if row.state is FileState.VERIFIED else _second_reading(row)
    count = _part_count(version.etag)
    sizes: tuple[int, ...] = ()
    for every in (False, True):
        try:
            head, parts = s3.head(version)
            if count:
                sizes = s3.part_sizes(version, count, every=every)
            more = checksums.headed(head, sizes, parts)
        except Gone:
            return _found_gone(row, witnesses, measured, identity, Cause.VANISHED)
        except Moved:
            return _found_gone(row, witnesses, measured, identity, Cause.CHANGED)
        except (Denied, Refusal, Archived) as failure:
            if checksums.contradicted(held, measured):
                return _otherwise_than_sent(measured)
            if isinstance(failure, SizeDiffers):
                return _size_differs(failure)
            reason = f"S3 does not give its checksums: {failure}"
            return Finding(Verdict.UNPROVABLE, reason, measured.sha256, identity=identity, cause=Cause.CHECKSUM_DENIED)
        unread = checksums.unread(more, measured)
        if unread and not checksums.enough(checksums.matched(more, measured)):
            first = measured.sha256
            try:
                measured, identity = _read(row, disk, unread, meter, stop, measured)
            except FileNotFoundError:
                return Finding(Verdict.MISSING, "the file is not there")
            except (Obstacle, Changed, DiskError) as failure:
                return Finding(Verdict.UNREADABLE, str(failure), cause=Cause.UNREADABLE)
            if measured.sha256 != first:
                return Finding(
                    Verdict.UNREADABLE, "two readings of the file gave different bytes", cause=Cause.UNREADABLE
                )
        matched = checksums.matched((*witnesses, *more), measured)
        source = EvidenceSource.PART_HEADS if sizes else EvidenceSource.HEAD
        if checksums.enough(matched):
            return Finding(Verdict.MATCH, "", measured.sha256, matched, identity, source=source)
        if checksums.contradicted(more, measured):
            return Finding(Verdict.DIFFERS, "the bytes are not those that S3 has checksums of", measured.sha256)
        if checksums.contradicted(held, measured):
            return _otherwise_than_sent(measured)
        if not 0 < len(sizes) < count:
            break
    why = f"its encryption ({head.encryption}) makes the ETag opaque, " if head.encryption in _OPAQUE else ""
    return Finding(
        Verdict.UNPROVABLE,
        f"{why}and S3 has no checksum of 64 bits or more for it".removeprefix("and "),
        measured.sha256,
        matched,
        identity,
        cause=Cause.NO_CHECKSUM,
        source=source,
    )


def _second_reading(row: Row) -> tuple[Witness, ...]:
    return tuple(witness for witness in row.witnesses if witness.kind == checksums.REFETCH)


def _size_differs(failure: SizeDiffers) -> Finding:
    """The listing is wrong about this object, so that its copy cannot be right; the next `migrate` looks again."""
    return Finding(Verdict.UNREADABLE, str(failure), cause=failure.cause)


def _otherwise_than_sent(measured: checksums.Measured) -> Finding:
    return Finding(Verdict.DIFFERS, "the bytes are not those that were proved before", measured.sha256)


def _reread(row: Row, disk: Disk, s3: S3, block_size: int, meter: Meter, stop: Flag) -> Finding:
    """Compares the copy byte for byte with what S3 sends of exactly this version.

    copy is ...          | S3 sends                     | verdict
    ---------------------|------------------------------|-----------
    not there            | not asked                    | missing
    not a plain file     | not asked                    | unreadable
    of another size      | not asked                    | differs
    read                 | the same, to the last byte   | match
    read                 | other bytes, once            | as the next reading says
    read                 | other bytes, twice           | differs
    read                 | nothing (denied, archived)   | unprovable
    read                 | nothing: it has another one  | error: changed
    read                 | another size than was listed | error: refused
    read                 | nothing: it is gone          | gone: an unproved only copy
    """
    version = row.version
    for last in (False, True):
        try:
            sha256, identity = _beside(row, disk, s3, block_size, meter, stop)
        except FileNotFoundError:
            return Finding(Verdict.MISSING, "the file is not there")
        except (Obstacle, Changed, DiskError) as failure:
            return Finding(Verdict.UNREADABLE, str(failure), cause=Cause.UNREADABLE)
        except (Gone, Moved) as failure:
            return Finding(
                Verdict.UNPROVABLE,
                "nothing that S3 reported of it proves the local copy",
                row.sha256,
                row.witnesses,
                row.identity,
                in_s3=False,
                cause=failure.cause,
            )
        except SizeDiffers as failure:
            return _size_differs(failure)
        except (Denied, Refusal, Archived) as failure:
            reason = f"{row.reason}; S3 does not let it be read a second time: {failure}"
            return Finding(
                Verdict.UNPROVABLE,
                reason,
                row.sha256,
                row.witnesses,
                row.identity,
                cause=row.cause,
                source=row.evidence_source if row.sealed else None,
                source_run=row.evidence_run,
            )
        if identity is not None and identity.size != version.size:
            return Finding(Verdict.DIFFERS, f"the file has {identity.size:,} bytes, the object {version.size:,}")
        if sha256:
            weaker = row.witnesses if row.sealed and row.sha256 == sha256 else ()
            both = (checksums.refetched(sha256), *weaker)
            return Finding(Verdict.MATCH, "", sha256, both, identity, source=EvidenceSource.REFETCH)
        if last:
            break
    return Finding(Verdict.DIFFERS, "the bytes are not those that S3 sends, twice")


def _beside(row: Row, disk: Disk, s3: S3, block_size: int, meter: Meter, stop: Flag) -> tuple[str, FileIdentity | None]:
    """One reading of both, a block of each in memory: the SHA-256 of what S3 sent, "" where the file holds other bytes."""
    if row.place is Place.FOLDER:
        return _beside_folder(row, disk, s3, block_size), None
    for attempt in range(1, ATTEMPTS + 1):
        received = 0
        try:
            with disk.reading(row.path, drop_cache=True) as file:
                if file.identity.size != row.version.size:
                    return "", file.identity
                sent = hashlib.sha256()
                blocks = file.blocks()
                ours = memoryview(b"")
                for theirs in s3.get(row.version, block_size):
                    received += len(theirs)
                    if received > row.version.size:
                        raise Unreachable(f"more than {row.version.size:,} bytes came")
                    sent.update(theirs)
                    meter.add(len(theirs))
                    done = 0
                    while done < len(theirs):
                        ours = ours or next(blocks, ours)
                        both = min(len(ours), len(theirs) - done)
                        # As bytes: CPython compares memoryviews item by item.
                        if not both or bytes(ours[:both]) != theirs[done : done + both]:
                            meter.add(-received)
                            return "", file.identity
                        ours, done = ours[both:], done + both
                    if stop.is_set():
                        raise _Stopped
                if received != row.version.size:
                    raise Unreachable(f"{received:,} of {row.version.size:,} bytes came")
                for _ in blocks:  # it ends here; and only at its end is it known to have been one file all along
                    raise Changed(row.path)
                return sent.hexdigest(), file.identity
        except WrongVersion:  # asking again gives the same answer
            meter.add(-received)
            raise
        except Unreachable:
            meter.add(-received)
            if attempt == ATTEMPTS or stop.wait(2.0**attempt / 4):
                raise
    raise AssertionError("the last attempt returns or raises")


def _beside_folder(row: Row, disk: Disk, s3: S3, block_size: int) -> str:
    if not disk.is_folder(row.path):
        raise FileNotFoundError(row.path)
    for _ in s3.get(row.version, block_size):
        raise Unreachable(f"S3 sends bytes for {show(row.key)}, which it lists as empty")
    return SHA256_OF_NOTHING


def _deleted(row: Row, disk: Disk, meter: Meter, stop: Flag) -> Finding:
    if row.place is Place.FOLDER:
        there = disk.is_folder(row.path)
        return _kept_as_was(
            row, Verdict.MATCH if there else Verdict.MISSING, "" if there else "the folder is not there"
        )
    try:
        measured, identity = _read(row, disk, () if row.sha256 else checksums.listed(row.version), meter, stop)
    except FileNotFoundError:
        return _kept_as_was(row, Verdict.MISSING, "deleted in S3, and its local copy is not there")
    except (Obstacle, Changed, DiskError) as failure:
        return _kept_as_was(row, Verdict.UNREADABLE, f"deleted in S3, and its local copy cannot be read: {failure}")
    if not row.sha256:
        return _first_look(row, measured, identity)
    if measured.sha256 != row.sha256:
        return _kept_as_was(row, Verdict.DIFFERS, "deleted in S3, and its local copy is not what was verified")
    return replace(_kept_as_was(row, Verdict.MATCH, ""), identity=identity)


def _only_copy(row: Row, disk: Disk, meter: Meter, stop: Flag) -> Finding:
    """Compares the copy of an object that is gone from S3 with what is recorded of the object.

    copy is ...    | recorded                             | verdict
    ---------------|--------------------------------------|-----------
    not there      | anything                             | missing
    cannot be read | anything                             | unreadable
    read           | evidence, and its SHA-256 is equal   | match
    read           | evidence, and its SHA-256 is not     | differs
    read           | no evidence, the listed ETag matches | match
    read           | no evidence, the size is another one | differs
    read           | nothing that matches                 | unprovable
    """
    recorded = evidence_of(row)
    proved = row.sha256 != "" and checksums.enough(recorded)
    witnesses = () if proved else (*recorded, *checksums.listed(row.version))
    try:
        measured, identity = _read(row, disk, witnesses, meter, stop)
    except FileNotFoundError:
        return _kept_as_was(row, Verdict.MISSING, "the local copy is not there")
    except (Obstacle, Changed, DiskError) as failure:
        return _kept_as_was(row, Verdict.UNREADABLE, str(failure))
    if proved:
        if measured.sha256 != row.sha256:
            return _kept_as_was(row, Verdict.DIFFERS, "the local copy is not what was verified")
        return replace(_kept_as_was(row, Verdict.MATCH, ""), identity=identity)
    matched = checksums.matched(witnesses, measured) if measured.size == row.version.size else ()
    if checksums.enough(matched):
        return Finding(Verdict.MATCH, "", measured.sha256, matched, identity)
    verdict, reason = _mismatch(row, witnesses, measured)
    return Finding(verdict, reason, measured.sha256, matched, identity)


def _mismatch(row: Row, witnesses: Iterable[Witness], measured: checksums.Measured) -> tuple[Verdict, str]:
    """What is to be said of a copy that nothing matches, where S3 cannot be asked any more."""
    if measured.size != row.version.size:
        return Verdict.DIFFERS, f"the file has {measured.size:,} bytes, the object had {row.version.size:,}"
    if checksums.contradicted(witnesses, measured):
        return Verdict.DIFFERS, "the local copy is not what S3 had"
    return Verdict.UNPROVABLE, "nothing that S3 reported of it proves the local copy"


def _found_gone(
    row: Row, witnesses: Iterable[Witness], measured: checksums.Measured, identity: FileIdentity | None, cause: Cause
) -> Finding:
    """A copy that neither the listing nor sealed evidence matches, of an object that turned out to be gone from S3 or
    overwritten: the copy may be all that is left of it."""
    if row.sha256 and checksums.enough(evidence_of(row)):  # what it was once proved by stays on record
        if measured.sha256 == row.sha256:
            finding = replace(_kept_as_was(row, Verdict.MATCH, ""), identity=identity)
        else:
            finding = _kept_as_was(row, Verdict.DIFFERS, "the local copy is not what was verified")
    else:
        verdict, reason = _mismatch(row, witnesses, measured)
        finding = Finding(verdict, reason, measured.sha256, checksums.matched(witnesses, measured), identity)
    return replace(finding, in_s3=False, cause=cause)


def _first_look(row: Row, measured: checksums.Measured, identity: FileIdentity | None) -> Finding:
    """An older toolkit deleted it, and left nothing but size and ETag to hold its copy to; from now on there is a hash."""
    witnesses = checksums.listed(row.version)
    if measured.size != row.version.size or checksums.contradicted(witnesses, measured):
        return _kept_as_was(
            row, Verdict.DIFFERS, "deleted in S3 by the older toolkit, and its local copy is not what was listed"
        )
    matched = checksums.matched(witnesses, measured)
    if checksums.enough(matched):
        return Finding(Verdict.MATCH, "", measured.sha256, matched, identity)
    reason = "deleted in S3 by the older toolkit, and the ETag that was listed does not prove its local copy"
    return Finding(Verdict.UNPROVABLE, reason, measured.sha256, matched, identity, cause=Cause.NO_CHECKSUM)


def _kept_as_was(row: Row, verdict: Verdict, reason: str) -> Finding:
    return Finding(
        verdict,
        reason,
        row.sha256,
        row.witnesses,
        row.identity,
        source=row.evidence_source,
        source_run=row.evidence_run,
    )


def _read(
    row: Row,
    disk: Disk,
    witnesses: Iterable[Witness],
    meter: Meter,
    stop: Flag,
    before: checksums.Measured | None = None,
) -> tuple[checksums.Measured, FileIdentity | None]:
    """One pass over the file, from the disk and not from memory; what an earlier pass computed is kept.

    A folder has no bytes, and no identity. FileNotFoundError where it is not there.
    """
    reading = checksums.Reading(witnesses)
    identity: FileIdentity | None = None
    if row.place is Place.FOLDER:
        if not disk.is_folder(row.path):
            raise FileNotFoundError(row.path)
        measured = reading.finish()
    else:
        with disk.reading(row.path, drop_cache=True) as file:
            identity = file.identity
            if identity.size == row.version.size:
                for block in file.blocks():
                    reading.update(block)
                    meter.add(len(block) if before is None else 0)
                    if stop.is_set():
                        raise _Stopped
                measured = reading.finish()
            else:
                measured = replace(reading.finish(), size=identity.size)
    if before is not None:
        measured = replace(measured, values={**before.values, **measured.values})
    return measured, identity


def _part_count(etag: str) -> int:
    found = _MULTIPART.fullmatch(etag)
    return int(found[1]) if found else 0


def _conclusion(row: Row, found: Finding, disk: Disk) -> Evidence:
    """The row that a finding makes; a copy that differs is moved out of the way first."""
    state, verdict, reason = FileState.VERIFIED, found.verdict, found.reason
    match found.verdict:
        case _ if row.state is FileState.DELETED:
            state = FileState.DELETED
        case _ if _is_gone(row) or not found.in_s3:
            # Whatever its copy is found to be, it stays where it is: the row is what protects that copy.
            cause = row.cause if _is_gone(row) else found.cause
            what = {Cause.SUPERSEDED: SUPERSEDED, Cause.CHANGED: CHANGED}.get(cause or Cause.VANISHED, VANISHED)
            return Evidence(
                row.version,
                FileState.ERROR,
                verdict,
                f"{what}; {reason}" if reason else what,
                found.sha256,
                found.witnesses,
                found.identity,
                cause,
            )
        case Verdict.UNPROVABLE:
            state = FileState.DOWNLOADED
        case Verdict.UNREADABLE:
            state = FileState.ERROR
            # Not sealed any more, so it proves nothing to S3; but if the object goes, it is what the copy is known by.
            as_was = _kept_as_was(row, verdict, reason)
            found = found if found.sha256 else replace(as_was, cause=found.cause)
        case Verdict.DIFFERS:
            try:
                where = disk.quarantine(row.path, row.version.bucket, once=row.state is not FileState.VERIFIED)
            except Refused as failure:  # the file may be a copy of another destination's
                return Evidence(
                    row.version, FileState.ERROR, verdict, f"{reason}; {failure}", "", (), None, Cause.OBSTACLE
                )
            return _again(row, found.sha256 or "other bytes", f"{reason}; the file is now {where}" if where else reason)
        case Verdict.MISSING:
            return _again(row, "missing", reason)
    entry = Evidence(
        row.version,
        state,
        verdict,
        reason,
        found.sha256,
        found.witnesses,
        found.identity,
        found.cause,
        source=found.source,
        source_run=found.source_run,
    )
    if verdict is Verdict.MATCH and row.attempts.wrong_results:
        return replace(entry, attempts=Attempts(losses=row.attempts.losses))
    return entry


def _again(row: Row, result: str, reason: str) -> Evidence:
    """To be fetched again, unless this identity came to the same again and again: then `retry-errors` has to say so."""
    attempts = row.attempts.lost() if row.state is FileState.VERIFIED else row.attempts.failed(result)
    if not attempts.contested:
        return Evidence(row.version, FileState.DISCOVERED, None, reason, "", (), None, attempts=attempts)
    return Evidence(row.version, FileState.ERROR, None, reason, "", (), None, Cause.CONTESTED, attempts)
