"""What S3 says of each version and of the bucket itself beside the bytes is written down where the bytes are."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from threading import Event as Flag
from typing import Literal

from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import (
    S3,
    Archived,
    Denied,
    Document,
    Gone,
    Moved,
    Refusal,
    Unreachable,
    WrongVersion,
    tag_values,
)
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure
from migrate_v2.events import Ended, Event, Noted, Progress, Started, Warned
from migrate_v2.flow import batched, in_threads
from migrate_v2.keys import SIDE, count_of, side_path
from migrate_v2.model import ObjectVersion, Row

# So many objects in a row without an answer: it is not the objects.
HOPELESS = 20
_WHY_NOT = ("denied", "refused")


def describe(
    bucket: str,
    store: Store,
    disk: Disk,
    s3: S3,
    *,
    metadata: Literal["none", "head", "full"],
    threads: int,
    rows_per_commit: int,
) -> Generator[Event, None, int]:
    """Asks S3 about every version with a local copy that it was not asked (so much) about; returns how many it now knows.

    What S3 denies is written down as denied and not asked again. What it does not answer is left; so is what is not there
    any more or has changed, which the next listing tells.
    """
    full = metadata == "full"
    total = 0 if metadata == "none" else store.count_to_describe(bucket, full=full)
    if not total:
        return 0
    disk.same_place()
    bucket_row = store.bucket(bucket)
    never_versioned = bucket_row is not None and bucket_row.versioning == ""
    locked = full and s3.has_object_lock(bucket)
    began = time.monotonic()
    yield Started(bucket, "describe", total)
    objects = known = partly = attached = unanswered = in_a_row = 0
    wrong, first_wrong = 0, WrongVersion("")
    knows_annotations = True
    counts_tags = s3.at_aws  # others may count them on GET alone, as MiniStack does

    def ask(row: Row, stop: Flag) -> Document | Failure:
        try:
            return _asked(
                row.version, disk, s3, full=full, locked=locked, tags=not counts_tags, annotations=knows_annotations
            )
        except (Gone, Moved, Unreachable) as failure:
            return failure

    for rows in batched(store.left_to_describe(bucket, full=full), rows_per_commit):
        documents: list[tuple[ObjectVersion, str]] = []
        gone: list[ObjectVersion] = []
        hopeless: Failure | None = None
        saved = False
        for answer in in_threads(ask, rows, threads=threads):
            if answer is not None:
                row, said = answer
                objects += 1
                silent = isinstance(said, Unreachable) and not isinstance(said, WrongVersion)
                in_a_row = in_a_row + 1 if silent else 0
                if isinstance(said, WrongVersion):
                    wrong, first_wrong = wrong + 1, said if wrong == 0 else first_wrong
                elif isinstance(said, Gone):
                    gone.append(row.version)
                elif isinstance(said, Unreachable):
                    unanswered += 1
                    if in_a_row >= HOPELESS:
                        hopeless = said
                        break
                elif not isinstance(said, Failure):
                    documents.append((row.version, json.dumps(said, ensure_ascii=True, sort_keys=True)))
                    partly += _lacks(said)
                    head, held = said.get("head"), said.get("annotations")
                    counts_tags = counts_tags or (isinstance(head, dict) and "TagCount" in head)
                    saved = saved or bool(isinstance(held, list) and held)
                    attached += len(held) if isinstance(held, list) else 0
                    # An answer of the endpoint's, not of the object's: asking it a million times more is no use.
                    knows_annotations = knows_annotations and held != {"not_known_here": True}
            yield Progress(bucket, "describe", objects, 0, total)
        if saved:
            disk.settle()
        store.add_metadata(documents, full=full)
        # In a bucket with versions the key of a `null` version may be another one's by now: that is for the next listing.
        gone = [version for version in gone if never_versioned or version.version_id != "null"]
        store.mark_gone(bucket, gone)
        if gone:
            yield Warned(
                bucket, f"{len(gone):,} object versions are gone from S3; their local copies stay where they are"
            )
        known += len(documents)
        if hopeless is not None:
            raise hopeless
    if attached:
        yield Noted(bucket, f"{attached:,} annotations are in {SIDE}/{bucket}/annotations/")
    if full and not knows_annotations:
        yield Noted(bucket, "this endpoint, or the AWS SDK here, does not know of annotations; none were asked for")
    if partly:
        yield Warned(
            bucket,
            f"S3 does not give all the metadata of {count_of(partly, 'version')}; metadata.jsonl says what and why",
        )
    if wrong:
        yield Warned(bucket, WrongVersion.summary(wrong, first_wrong))
    if unanswered:
        yield Warned(bucket, f"S3 gave no metadata for {count_of(unanswered, 'version')}; the next run asks again")
    yield Ended(bucket, "describe", objects, 0, time.monotonic() - began)
    return known


def _asked(
    version: ObjectVersion, disk: Disk, s3: S3, *, full: bool, locked: bool, tags: bool, annotations: bool
) -> Document:
    """What S3 says of one version:

    field            | is there when                                  | holds
    -----------------|------------------------------------------------|-----------------------------------------
    head             | HEAD was answered                              | the answer by S3's names
    metadata_decoded | user metadata is not plain ASCII               | it as it was meant, where that can be told
    tags             | full, or HEAD counts some, or cannot count     | name -> value
    acl              | full                                           | owner and grants
    retention        | full, object lock is on, HEAD does not say     | S3's answer, null where there is none
    legal_hold       | full, object lock is on, HEAD does not say     | S3's answer, null where there is none
    annotations      | full                                           | a list, each with path and SHA-256 of its body
    denied, refused  | HEAD was                                       | true; `reason` says why

    Each part may be {"denied": why}, {"refused": why} or {"not_implemented": true} in place of what it holds.
    """
    document: Document = {
        "asked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "asked_for": "full" if full else "head",
    }
    try:
        head = s3.metadata(version)
    except (Denied, Refusal, Archived) as failure:
        return {**document, "denied" if isinstance(failure, Denied) else "refused": True, "reason": str(failure)}
    document["head"] = head
    if decoded := _decoded(head.get("Metadata")):
        document["metadata_decoded"] = decoded

    def part(ask: Callable[[ObjectVersion], object]) -> object:
        try:
            return ask(version)
        except Gone:
            # Raises it again where it is true; MiniStack says it of all that has a marker above it.
            s3.metadata(version)
            return {"refused": "not found, and HEAD finds it"}

    if full or tags or head.get("TagCount"):
        document["tags"] = tag_values(part(s3.tags))
    if full:
        document["acl"] = part(s3.acl)
        # HEAD leaves these out, without a word, for who may not read them.
        if locked and "ObjectLockMode" not in head:
            document["retention"] = part(s3.retention)
        if locked and "ObjectLockLegalHoldStatus" not in head:
            document["legal_hold"] = part(s3.legal_hold)
        document["annotations"] = (
            part(lambda version: _annotations(version, disk, s3)) if annotations else {"not_known_here": True}
        )
    return document


def _annotations(version: ObjectVersion, disk: Disk, s3: S3) -> object:
    listed = s3.annotations(version)
    if isinstance(listed, dict):
        return listed
    # The same name for each key and version as the side layout's; "objects" is the only part that differs.
    aside = f"{SIDE}/{version.bucket}/objects/"
    folder = side_path(version.bucket, version.key, version.version_id).replace(
        aside, f"{SIDE}/{version.bucket}/annotations/", 1
    )
    number = 0
    found: list[Document] = []
    for entry in listed:
        body = s3.annotation(version, str(entry.get("AnnotationName", "")))
        if isinstance(body, dict):
            found.append({**entry, **body})
            continue
        number = _save(disk, folder, number + 1, body)
        facts = {"path": f"{folder}/{number}", "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        found.append({**entry, **facts})
    return found


def _save(disk: Disk, folder: str, number: int, body: bytes) -> int:
    """Writes it as the first file from `number` on that is free, or holds it already; never over another one: that may be
    of an object that had this key and id before and is deleted."""
    while True:
        path = f"{folder}/{number}"
        try:
            with disk.reading(path) as file:
                if file.identity.size == len(body) and b"".join(bytes(block) for block in file.blocks()) == body:
                    return number
        except FileNotFoundError:
            with disk.writing(path, flush=False) as sink:
                sink.write(body)
            return number
        number += 1


def _decoded(metadata: object) -> dict[str, str]:
    """User metadata as it was meant: S3 sends what is not US-ASCII as RFC 2047 words, other servers as bare UTF-8, which
    HTTP libraries read as Latin-1. Only those that differ from what was sent."""
    found: dict[str, str] = {}
    for name, value in metadata.items() if isinstance(metadata, dict) else ():
        meant = str(value)
        try:
            meant = str(make_header(decode_header(meant))) if "=?" in meant else meant.encode("latin-1").decode("utf-8")
        except (HeaderParseError, UnicodeError, LookupError, ValueError):
            continue
        if meant != value:
            found[str(name)] = meant
    return found


def _lacks(document: Document) -> bool:
    """Was anything of it denied or refused?"""
    parts = [document, *document.values()]
    annotations = document.get("annotations")
    parts += annotations if isinstance(annotations, list) else []
    return any(isinstance(part, dict) and any(word in part for word in _WHY_NOT) for part in parts)


# -- beside the data


def list_metadata(bucket: str, store: Store, disk: Disk) -> Iterator[Event]:
    """Writes metadata.jsonl anew: key, version id and path of each version that was asked about, and what S3 said. Nothing is
    written where nothing was asked."""
    if next(store.metadata(bucket), None) is None and disk.look(f"{SIDE}/{bucket}/metadata.jsonl") is None:
        return
    listed = 0
    with disk.replace_text(f"{SIDE}/{bucket}/metadata.jsonl") as lines:
        for d in store.metadata(bucket):
            named = {"key": d.key, "version_id": d.version_id, "path": d.path}
            lines.write(json.dumps(named | json.loads(d.document), ensure_ascii=True) + "\n")
            listed += 1
    yield Noted(bucket, f"{SIDE}/{bucket}/metadata.jsonl tells of {count_of(listed, 'version')}")


def lacks_configuration(bucket: str, disk: Disk) -> bool:
    return disk.look(f"{SIDE}/{bucket}/bucket.json") is None


def keep_configuration(bucket: str, disk: Disk, s3: S3) -> Iterator[Event]:
    """Writes bucket.json anew: the bucket's own settings as S3 tells them now. Raises where S3 does not answer for one."""
    document = {
        "bucket": bucket,
        "endpoint": s3.endpoint_of(bucket),
        "region": s3.region_of(bucket),
        **s3.configuration(bucket),
    }
    with disk.replace_text(f"{SIDE}/{bucket}/bucket.json") as text:
        text.write(json.dumps(document, ensure_ascii=True, indent=2, sort_keys=True) + "\n")
    closed = sorted(name for name, part in document.items() if isinstance(part, dict) and "denied" in part)
    if closed:
        yield Warned(
            bucket, f"not allowed to read these settings of the bucket, and bucket.json says so: {', '.join(closed)}"
        )
