"""Years later, what lies in the destination is still what was proved: read again without S3, state file, lock or any write."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any

from migrate_v2 import checksums
from migrate_v2.anchor import read_mark
from migrate_v2.edges.disk import Changed, Disk, DiskError, Obstacle
from migrate_v2.edges.ledger import hash_of
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Ended, Event, Found, Noted, Progress, Started, Warned
from migrate_v2.flow import Meter, in_threads
from migrate_v2.keys import CERTIFICATE, SIDE, count_of, only_copies_mark, show
from migrate_v2.model import FileState, GoneKind, Place, Verdict, Witness

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PLAIN = {"\\": "\\", "n": "\n", "r": "\r"}
# A witness of 10,000 unequal parts takes some 200 KiB, and an object has a handful of them.
LONGEST_LINE = 16 << 20
MOST_WITNESSES = 64


# The states in which the folder of a `dir/` was made; None where an older line does not say.
_WITH_FOLDER = (None, FileState.DOWNLOADED, FileState.VERIFIED, FileState.DELETED)
# Gone from S3, and the copy is here.
_LEFT_HERE = (GoneKind.ONLY_COPY, GoneKind.UNPROVED_ONLY_COPY)


class NothingToCheck(Failure):
    """{}"""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one line says of one version. `size` is None, and the key the path, where only the manifest was left."""

    key: str
    version_id: str
    path: str
    folder: bool
    size: int | None
    sha256: str
    witnesses: tuple[Witness, ...] = ()

    @property
    def has_copy(self) -> bool:
        return self.path != "" and (self.folder or self.sha256 != "")


@dataclass(frozen=True, slots=True)
class Damaged:
    """A line that says nothing to be relied on: which one, and what is wrong with it."""

    line: int
    why: str


class _Stopped(Exception):
    pass


def recorded_buckets(disk: Disk) -> list[str]:
    """Every bucket that this destination says or holds anything of; the lock of a name that S3 did not know is nothing."""
    try:
        with os.scandir(disk.base / SIDE) as entries:
            folders = (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            # A killed process may leave scratch folders, whose names begin with a dot.
            names = sorted(name for name in folders if not name.startswith("."))
        return [name for name in names if (disk.base / name).is_dir() or not _only_locked(disk.base / SIDE / name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Failure(f"cannot list {show(str(disk.base / SIDE))}: {error.strerror}") from error


def _only_locked(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["lock"]


def audit(bucket: str, disk: Disk, *, threads: int) -> Iterator[Event]:
    """Reads every file that the evidence of this bucket lists, and tells of each that is not what was recorded.

    Of a bucket without evidence the manifest is taken. Raises NothingToCheck where neither is there, or lists no file.
    A line that cannot be read is a difference too, told in the name of the list: what it stood for was not checked.
    """
    evidence, sums = (f"{SIDE}/{bucket}/{name}" for name in ("evidence.jsonl", "manifest-sha256.txt"))
    source = next((path for path in (evidence, sums) if disk.look(path) is not None), "")
    if not source:
        raise NothingToCheck(f"nothing to check of {show(bucket)}: there is neither {evidence} nor {sums}")
    if source == sums:
        yield Warned(bucket, f"{evidence} is missing; checking by {sums} alone")
    disk.settle()
    began = time.monotonic()
    summary = _summary(bucket, disk)
    total_objects, total_bytes = _expected(summary)
    yield Started(bucket, "audit", total_objects, total_bytes)
    meter = Meter()
    lines = checked = wrong = 0

    def to_check() -> Iterator[Recorded | Damaged]:
        nonlocal lines
        for entry in _entries(source, disk, _of_json if source == evidence else _of_sums):
            lines += 1
            if isinstance(entry, Damaged) or entry.has_copy:
                yield entry

    def examine(entry: Recorded | Damaged, stop: Flag) -> Found | None:
        if isinstance(entry, Damaged):
            return Found(bucket, source, "", Verdict.UNREADABLE, f"line {entry.line:,} {entry.why}")
        verdict, reason = _examine(entry, disk, meter, stop)
        return Found(bucket, entry.key, entry.version_id, verdict, reason) if verdict is not Verdict.MATCH else None

    for answer in in_threads(examine, to_check(), threads=threads):
        if answer is not None:
            entry, found = answer
            checked += isinstance(entry, Recorded)
            if found is not None:
                wrong += 1
                yield found
        yield Progress(bucket, "audit", checked, meter.bytes, total_objects, total_bytes)
    for found in _broken_links(bucket, disk):
        wrong += 1
        yield found
    listed = _amount(summary, "listed")[0]
    if source == evidence and listed is not None and listed != lines:
        yield Found(
            bucket, source, "", Verdict.DIFFERS, f"it has {lines:,} lines, and the summary beside it says {listed:,}"
        )
    elif not checked and not wrong and (lines or listed is None):
        raise NothingToCheck(f"nothing to check of {show(bucket)}: {source} lists no file that is here")
    yield Ended(bucket, "audit", checked, meter.bytes, time.monotonic() - began)
    if source == evidence and lines > checked:
        yield Noted(bucket, f"no checked copy here of {lines - checked:,} of {count_of(lines, 'object')} listed")


def _broken_links(bucket: str, disk: Disk) -> Iterator[Found]:
    """Of the deletion certificate, where there is or was one: each line that is not what was written, or does not follow the
    one before, and its end, which only-copies.json names."""
    path, mark_path = f"{SIDE}/{bucket}/{CERTIFICATE}", only_copies_mark(bucket)
    mark = read_mark(bucket, disk)
    certified = (mark.certified, mark.certified_hash) if mark is not None else (0, "")
    if disk.look(path) is None:
        if certified[0]:
            yield Found(bucket, path, "", Verdict.MISSING, "the certificate is not there")
        return
    if mark is None or not mark.state_id:
        verdict, why = (Verdict.MISSING, "is not there") if mark is None else (Verdict.UNREADABLE, "cannot be read")
        yield Found(bucket, mark_path, "", verdict, f"it {why}, and it names the last line of the certificate")
    previous = ""
    hashes: set[tuple[int, str]] = set()
    for number, line in enumerate(_lines(path, disk), 1):
        try:
            said = json.loads(line or b"")
            hash_, _ = said.pop("hash"), said.pop("mac")
            sound = said["previous"] == previous and hash_of(said) == hash_
            if said["seq"] == certified[0]:
                hashes.add((said["seq"], hash_))
        except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
            yield Found(bucket, path, "", Verdict.UNREADABLE, f"line {number:,} is no entry of a certificate")
            return
        if not sound:
            why = f"line {number:,} is not as it was written, or lines before it are missing"
            yield Found(bucket, path, "", Verdict.DIFFERS, why)
            return
        previous = hash_
    if certified[0] and certified not in hashes:
        yield Found(
            bucket, path, "", Verdict.DIFFERS, f"its last lines are missing: entry {certified[0]} should be one of them"
        )


def _examine(entry: Recorded, disk: Disk, meter: Meter, stop: Flag) -> tuple[Verdict, str]:
    """Holds one file to its line.

    file is ...              | verdict
    -------------------------|-----------
    not there                | missing
    not a plain file         | unreadable
    not below the base       | unreadable
    of another size          | differs
    of another SHA-256       | differs
    of that SHA-256, and ... |
      no other witness       | match
      all of them match      | match
      one of them does not   | differs: the evidence contradicts itself
    """
    try:
        if entry.folder:
            there = disk.is_folder(entry.path)
            return (Verdict.MATCH, "") if there else (Verdict.MISSING, "the folder is not there")
        reading = checksums.Reading(entry.witnesses)
        with disk.reading(entry.path, drop_cache=True) as file:
            size = file.identity.size
            if entry.size is not None and size != entry.size:
                return Verdict.DIFFERS, f"the file has {size:,} bytes, and {entry.size:,} were recorded"
            for block in file.blocks():
                reading.update(block)
                meter.add(len(block))
                if stop.is_set():
                    raise _Stopped
    except FileNotFoundError:
        return Verdict.MISSING, "the file is not there"
    except (Obstacle, Changed, DiskError, Refused) as failure:
        return Verdict.UNREADABLE, str(failure)
    measured = reading.finish()
    if measured.sha256 != entry.sha256:
        return Verdict.DIFFERS, "the file is not what was recorded"
    agreeing = checksums.matched(entry.witnesses, measured)
    for witness in entry.witnesses:
        if witness.kind in checksums.BITS and witness not in agreeing:
            return Verdict.DIFFERS, f"the file has the SHA-256 that was recorded, and not the {witness.kind}"
    return Verdict.MATCH, ""


# -- what was written beside the data; anybody may have changed it since


def _entries(path: str, disk: Disk, parse: Callable[[bytes], Recorded]) -> Iterator[Recorded | Damaged]:
    for number, line in enumerate(_lines(path, disk), 1):
        if line is None:
            yield Damaged(number, f"is longer than the {LONGEST_LINE >> 20} MiB that a line may have")
            continue
        try:
            yield parse(line)
        except _Malformed as malformed:
            yield Damaged(number, str(malformed))


class _Malformed(Exception):
    pass


def _lines(path: str, disk: Disk) -> Iterator[bytes | None]:
    """Lines without their ends, None in place of one that is too long; what follows the last newline is a line too."""
    with disk.reading(path) as file:
        rest, over = b"", False
        for block in file.blocks():
            *whole, rest = (rest + bytes(block)).split(b"\n")
            for line in whole:
                yield None if over or len(line) > LONGEST_LINE else line
                over = False
            if len(rest) > LONGEST_LINE:
                rest, over = b"", True
        if over or rest:
            yield None if over else rest


def _of_json(line: bytes) -> Recorded:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise _Malformed("is not a JSON object")
    size = said.get("size")
    if type(size) is not int or size < 0:
        raise _Malformed("has no size")
    sha256 = _text(said, "sha256")
    if sha256 and not _SHA256.fullmatch(sha256):
        raise _Malformed("has a sha256 that is none")
    witnesses = _list(said.get("witnesses"))
    if len(witnesses) > MOST_WITNESSES:
        raise _Malformed(f"has more than {MOST_WITNESSES} witnesses")
    return Recorded(
        _text(said, "key"),
        _text(said, "version_id"),
        _text(said, "path"),
        said.get("place") == Place.FOLDER and (said.get("state") in _WITH_FOLDER or said.get("gone") in _LEFT_HERE),
        size,
        sha256,
        tuple(map(_witness, witnesses)),
    )


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str):
        raise _Malformed(f"has no {name}")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise _Malformed("has a list that is none")
    return value


def _witness(said: object) -> Witness:
    if not isinstance(said, dict):
        raise _Malformed("has a witness that is none")
    sizes: list[int] = []
    for run in _list(said.get("parts", [])):
        if not isinstance(run, list) or len(run) != 2 or any(type(n) is not int or n < 0 for n in run):
            raise _Malformed("has a witness with parts that are none")
        size, count = run
        if len(sizes) + count > checksums.MOST_PARTS:
            raise _Malformed(f"has a witness of more than {checksums.MOST_PARTS:,} parts")
        sizes += [size] * count
    kind = _text(said, "kind")
    return Witness(kind, _text(said, "value"), checksums.BITS.get(kind, 0), tuple(sizes))


def _of_sums(line: bytes) -> Recorded:
    r"""`<sha256>  <path>`, and with a backslash in front where the path has `\\`, `\n` or `\r` in it."""
    text = line.decode("utf-8", "surrogateescape")
    escaped = text.startswith("\\")
    sha256, gap, path = text.removeprefix("\\").partition("  ")
    if not gap or not path or not _SHA256.fullmatch(sha256):
        raise _Malformed("is not a SHA-256 and a path")
    if escaped:
        path = _ESCAPED.sub(lambda found: _PLAIN.get(found[1], found[0]), path)
    return Recorded(path, "", path, False, None, sha256)


def _summary(bucket: str, disk: Disk) -> dict[str, Any]:
    """{} where there is none that can be read: it only says what to expect."""
    try:
        said = json.loads(disk.read_text(f"{SIDE}/{bucket}/summary.json") or "{}")
    except (ValueError, RecursionError, Obstacle, Changed, DiskError):
        return {}
    return said if isinstance(said, dict) else {}


def _amount(summary: dict[str, Any], name: str) -> tuple[int | None, int]:
    """(objects, None where it does not say; bytes)."""
    amount = summary.get(name)
    if not isinstance(amount, dict) or any(
        type(amount.get(unit)) is not int or amount[unit] < 0 for unit in ("objects", "bytes")
    ):
        return None, 0
    return amount["objects"], amount["bytes"]


def _expected(summary: dict[str, Any]) -> tuple[int, int]:
    gone = summary.get("gone")
    amounts = [_amount(summary, name) for name in ("verified", "unprovable", "deleted")]
    amounts += [_amount(gone, name) for name in ("only_copy", "unproved_only_copy") if isinstance(gone, dict)]
    return sum(objects or 0 for objects, _ in amounts), sum(size for _, size in amounts)
