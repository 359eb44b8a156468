"""A destination is held to what was written beside it, by that alone; what was written there is trusted with nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate_v2.checksums import MOST_PARTS
from migrate_v2.edges.disk import Disk, DiskError
from migrate_v2.errors import Refused
from migrate_v2.events import Ended, Event, Found, Noted, Started, Warned
from migrate_v2.model import FileState, Verdict
from migrate_v2.steps.audit import LONGEST_LINE, MOST_WITNESSES, NothingToCheck, audit, recorded_buckets
from migrate_v2.steps.manifest import certificate, manifest
from migrate_v2.steps.status import stands
from tests.conftest import identities, tree
from tests.steps.conftest import Job, found

ODD = ("plain", "a", "a/b", "x//y", "new\nline", "back\\slash", "/rooted", "smile \U0001f600", "n" * 300)
EVIDENCE = ".migrate-v2/b/evidence.jsonl"
SUMS = ".migrate-v2/b/manifest-sha256.txt"
BODY = random.Random(3).randbytes(50_000)


@pytest.fixture
def base(job: Job, tmp_path: Path) -> Iterator[Path]:
    """A destination with every kind of witness in it, moved away from where it was made; S3 and state file are not asked."""
    job.server.bucket("b", versioning="Enabled")
    for key in ODD:
        job.server.put("b", key, key.encode())
    job.server.put("b", "plain", b"newer")
    job.server.put("b", "folder/", b"")
    job.server.put("b", "empty", b"")
    job.server.put("b", "parts", BODY, checksums=(), parts=(20_000, 20_000, 10_000))
    for number, algorithm in enumerate(("CRC64NVME", "SHA1", "SHA256", "CRC32")):
        job.server.put("b", f"kms-{number}", BODY, etag="kms", checksums=(algorithm,))
    job.bring()
    assert job.row("kms-3").verdict is Verdict.UNPROVABLE
    held = job.store.bucket("b")
    assert held
    list(manifest("b", job.store, job.disk, stands(held, job.store)))
    moved = tmp_path / "elsewhere"
    shutil.copytree(job.disk.base, moved)
    asked = len(job.server.requests)
    yield moved
    assert len(job.server.requests) == asked


def audited(base: Path, bucket: str = "b") -> list[Event]:
    before = identities(base), sorted(tree(base))
    with Disk.open(base, create=False, writes=False) as disk:
        events = list(audit(bucket, disk, threads=4))
    assert (identities(base), sorted(tree(base))) == before, "nothing is written"
    return events


def lines(base: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (base / EVIDENCE).read_text("ascii").splitlines()]


def rewrite(base: Path, key: str, **changes: Any) -> None:
    said = [{**line, **changes} if line["key"] == key else line for line in lines(base)]
    (base / EVIDENCE).write_text("".join(json.dumps(line) + "\n" for line in said))


def path_of(base: Path, key: str) -> Path:
    return base / next(line["path"] for line in lines(base) if line["key"] == key)


def flip(path: Path, at: int, bit: int = 0) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1 << bit
    path.write_bytes(body)


def test_a_destination_as_it_was_is_all_right(base: Path) -> None:
    events = audited(base)
    assert found(events) == {}
    count = len(lines(base))
    assert count == len(ODD) + 8
    started, ended = ([e for e in events if isinstance(e, kind)] for kind in (Started, Ended))
    size = sum(line["size"] for line in lines(base))
    assert [(e.total_objects, e.total_bytes) for e in started] == [(count, size)]
    assert [(e.objects, e.bytes) for e in ended] == [(count, size)]
    assert not [event for event in events if isinstance(event, (Warned, Noted))]


def test_every_flipped_bit_is_found(base: Path) -> None:
    chance = random.Random(7)
    files = {line["key"]: base / line["path"] for line in lines(base) if line["size"]}
    for key, path in files.items():
        at, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
        flip(path, at, bit)
        assert {k: v for k, (v, _) in found(audited(base)).items()} == {key: Verdict.DIFFERS}
        flip(path, at, bit)
    assert found(audited(base)) == {}


def absent(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    os.truncate(path, 10)


def linked(path: Path) -> None:
    path.rename(path.with_name("away"))
    path.symlink_to("away")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("harm", "verdict"),
    [
        (absent, Verdict.MISSING),
        (truncated, Verdict.DIFFERS),
        (linked, Verdict.UNREADABLE),
        (fifo, Verdict.UNREADABLE),
    ],
)
@pytest.mark.timeout(30)
def test_what_became_of_the_file(base: Path, harm: Callable[[Path], None], verdict: Verdict) -> None:
    harm(path_of(base, "parts"))
    with Disk.open(base, create=False, writes=False) as disk:
        assert {key: v for key, (v, _) in found(audit("b", disk, threads=4)).items()} == {"parts": verdict}


def test_a_folder_that_is_gone_is_missing(base: Path) -> None:
    path_of(base, "folder/").rmdir()
    assert found(audited(base))["folder/"][0] is Verdict.MISSING


@pytest.mark.parametrize("key", ["plain", "parts", "kms-0", "kms-1", "kms-2", "kms-3", "empty"])
def test_the_checksums_of_s3_are_computed_again_too(base: Path, key: str) -> None:
    line = next(line for line in lines(base) if line["key"] == key)
    assert line["witnesses"]
    rewrite(base, key, witnesses=[{**witness, "value": "AAAA"} for witness in line["witnesses"]])
    told = found(audited(base))
    assert told[key][0] is Verdict.DIFFERS and line["witnesses"][0]["kind"] in told[key][1]


def test_what_has_no_copy_is_said_and_is_no_difference(base: Path) -> None:
    rewrite(base, "parts", path="", place=None, sha256="", witnesses=[], state=FileState.DISCOVERED, verdict="kept")
    events = audited(base)
    assert found(events) == {}
    (noted,) = [event.text for event in events if isinstance(event, Noted)]
    assert f"1 of {len(lines(base))} objects" in noted


@pytest.mark.parametrize(
    "path", ["../outside", "b/../../outside", "/etc/passwd", "b//x", "b/./x", "nul\0", "\udc00\ud800", "b/link/outside"]
)
def test_no_path_leaves_the_destination(base: Path, path: str) -> None:
    (base.parent / "outside").write_bytes(b"newer")
    (base / "b/link").symlink_to(base.parent)
    rewrite(base, "a", path=path)
    told = found(audited(base))
    assert set(told) == {"a"} and told["a"][0] is Verdict.UNREADABLE


BAD_LINES: dict[str, bytes] = {
    "not JSON": b"{half",
    "not UTF-8": b"\xff\xfe",
    "no object": b"[1]",
    "deep": b"[" * 200_000,
    "empty": b"",
    "no size": b'{"key": "k", "version_id": "1", "path": "p", "sha256": "", "witnesses": []}',
    "size of text": b'{"key": "k", "version_id": "1", "path": "p", "size": "1", "sha256": "", "witnesses": []}',
    "path of numbers": b'{"key": "k", "version_id": "1", "path": 5, "size": 1, "sha256": "", "witnesses": []}',
    "no hash": b'{"key": "k", "version_id": "1", "path": "p", "size": 1, "sha256": "zz", "witnesses": []}',
    "no witnesses": b'{"key": "k", "version_id": "1", "path": "p", "size": 1, "sha256": ""}',
    "too many parts": json.dumps(
        {"key": "k", "version_id": "1", "path": "p", "size": 1, "sha256": "",
         "witnesses": [{"kind": "multipart-etag", "value": "v", "parts": [[1, MOST_PARTS + 1]]}]}
    ).encode(),
    "too many witnesses": json.dumps(
        {"key": "k", "version_id": "1", "path": "p", "size": 1, "sha256": "",
         "witnesses": [{"kind": "md5", "value": "v"}] * (MOST_WITNESSES + 1)}
    ).encode(),
    "too long": b" " * (LONGEST_LINE + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_damaged_line_is_named_by_file_and_number_and_the_others_are_checked(base: Path, name: str) -> None:
    flip(path_of(base, "parts"), 0)
    whole = (base / EVIDENCE).read_bytes().splitlines(keepends=True)
    whole[2] = BAD_LINES[name] + b"\n"
    (base / EVIDENCE).write_bytes(b"".join(whole))
    told = [event for event in audited(base) if isinstance(event, Found)]
    assert {event.key: event.verdict for event in told} == {
        "parts": Verdict.DIFFERS,
        EVIDENCE: Verdict.UNREADABLE,
    }
    (damage,) = [event for event in told if event.key == EVIDENCE]
    assert damage.reason.startswith("line 3 ") and "\n" not in damage.reason


def test_lines_that_are_gone_are_missed(base: Path) -> None:
    for keep in (3, 0):
        whole = (base / EVIDENCE).read_bytes().splitlines(keepends=True)
        (base / EVIDENCE).write_bytes(b"".join(whole[:keep]))
        assert found(audited(base))[EVIDENCE][0] is Verdict.DIFFERS


def test_the_manifest_stands_in_for_evidence_that_is_gone(base: Path) -> None:
    (base / EVIDENCE).unlink()
    events = audited(base)
    assert found(events) == {}
    (warned,) = [event.text for event in events if isinstance(event, Warned)]
    assert EVIDENCE in warned
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert ended.objects == len((base / SUMS).read_text().splitlines())
    for name in ("b/plain", "b/back\\slash", "b/new\nline"):
        flip(base / name, 0)
        assert set(found(audited(base))) == {name}
        flip(base / name, 0)
    with (base / SUMS).open("ab") as sums:
        sums.write(b"nonsense\n")
    assert found(audited(base))[SUMS] == (Verdict.UNREADABLE, f"line {ended.objects + 1} is not a SHA-256 and a path")


def test_nothing_to_check_is_never_all_right(base: Path) -> None:
    with pytest.raises(NothingToCheck, match="neither"):
        audited(base, "other")
    whole = (base / EVIDENCE).read_bytes()
    (base / EVIDENCE).write_bytes(b"")
    (base / ".migrate-v2/b/summary.json").unlink()
    with pytest.raises(NothingToCheck):
        audited(base)
    (base / EVIDENCE).write_bytes(whole)
    for line in lines(base):
        rewrite(base, line["key"], path="", sha256="", witnesses=[])
    with pytest.raises(NothingToCheck):
        audited(base)


def test_an_empty_bucket_was_empty(job: Job) -> None:
    job.scan()
    held = job.store.bucket("b")
    assert held
    list(manifest("b", job.store, job.disk, stands(held, job.store)))
    assert found(audited(job.disk.base)) == {}


@pytest.mark.parametrize(
    "summary", [b"", b"[]", b"{", b'{"listed": 5}', b'{"listed": {"objects": -1, "bytes": 0}}', b"[" * 99_999]
)
def test_a_damaged_summary_changes_nothing(base: Path, summary: bytes) -> None:
    (base / ".migrate-v2/b/summary.json").write_bytes(summary)
    assert found(audited(base)) == {}


def test_buckets_are_those_that_something_is_recorded_of(base: Path) -> None:
    (base / ".migrate-v2/c").mkdir()
    (base / ".migrate-v2/link").symlink_to("b")
    (base / ".migrate-v2/file").write_bytes(b"")
    with Disk.open(base, create=False, writes=False) as disk:
        assert recorded_buckets(disk) == ["b", "c"]
        for name in ("nowhere", "begun"):  # a name that S3 did not know, and a bucket that was being fetched
            (base / ".migrate-v2" / name).mkdir()
            (base / ".migrate-v2" / name / "lock").write_bytes(b"")
        (base / "begun").mkdir()
        assert recorded_buckets(disk) == ["b", "begun", "c"]
    with Disk.open(base / "b", create=False, writes=False) as disk:
        assert recorded_buckets(disk) == []


def test_anybodys_folder_may_be_read(base: Path) -> None:
    os.chmod(base, 0o777)
    os.chown(base, 65534, 65534)
    with pytest.raises(Refused):
        Disk.open(base, create=False)
    assert found(audited(base)) == {}
    with pytest.raises(DiskError):
        Disk.open(base / "none", writes=False)
    assert not (base / "none").exists()


@pytest.mark.system
def test_a_read_only_mount_will_do(base: Path) -> None:
    subprocess.run(["mount", "--bind", base, base], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", base], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (base / "x").write_bytes(b"")
        assert found(audited(base)) == {}
    finally:
        subprocess.run(["umount", base], check=True)


# The deletion certificate


@pytest.fixture
def certified(job: Job, tmp_path: Path) -> Path:
    for key in ("a", "b", "new\nline"):
        job.server.put("b", key, key.encode())
    job.bring()
    job.delete()
    held = job.store.bucket("b")
    assert held
    list(manifest("b", job.store, job.disk, stands(held, job.store)))
    list(certificate("b", job.store, job.disk))
    return job.disk.base


CERTIFICATE = ".migrate-v2/b/deletions.jsonl"


def test_a_certificate_as_it_was_written_is_in_order(certified: Path) -> None:
    assert len((certified / CERTIFICATE).read_text().splitlines()) == 6
    assert found(audited(certified)) == {}


def harmed(text: list[str], how: str) -> list[str]:
    match how:
        case "a word":
            return [line.replace('"deleted"', '"Deleted"') for line in text]
        case "first gone":
            return text[1:]
        case "middle gone":
            return text[:2] + text[3:]
        case "swapped":
            return [text[1], text[0], *text[2:]]
        case "twice":
            return [text[0], *text]
        case "a number":
            return [text[0].replace('"size": 1', '"size": 2'), *text[1:]]
        case "no JSON":
            return [*text[:3], "{", *text[3:]]
        case "a list":
            return ["[]", *text]
        case "no hash":
            return ["{}", *text]
        case _:
            return [text[0], "", *text[1:]]


@pytest.mark.parametrize(
    "how",
    [
        "a word",
        "first gone",
        "middle gone",
        "swapped",
        "twice",
        "a number",
        "no JSON",
        "a list",
        "no hash",
        "empty line",
    ],
)
def test_a_certificate_that_was_changed_is_told_once(certified: Path, how: str) -> None:
    path = certified / CERTIFICATE
    before = path.read_text().splitlines()
    after = harmed(before, how)
    assert after != before
    path.write_text("".join(line + "\n" for line in after))
    told = found(audited(certified))
    assert told.keys() == {CERTIFICATE} and told[CERTIFICATE][1].startswith("line ")


def test_a_flip_of_any_bit_of_a_certificate_is_seen(certified: Path) -> None:
    path = certified / CERTIFICATE
    body = path.read_bytes()
    chance = random.Random(5)
    for _ in range(200):
        at = chance.randrange(len(body))
        harmed_body = bytearray(body)
        harmed_body[at] ^= 1 << chance.randrange(8)
        path.write_bytes(harmed_body)
        # The MAC is for who has the key: its own bits are not in the chain.
        mac = body[: at + 1].rfind(b'"mac": "')
        if mac >= 0 and at < mac + 8 + 64 and body[mac:at].count(b"\n") == 0:
            continue
        assert found(audited(certified)).keys() == {CERTIFICATE}, (at, bytes(harmed_body[at - 20 : at + 20]))
