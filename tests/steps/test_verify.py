"""What S3 itself says of a version decides; a copy that differs in one bit is never verified."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate_v2.edges.s3 import Unreachable
from migrate_v2.events import Ended, Event, Warned
from migrate_v2.model import Cause, FileState, GoneKind, Place, Verdict, Witness
from migrate_v2.steps import verify as verify_step
from migrate_v2.steps.verify import verify
from tests.conftest import sha256
from tests.fakes.s3server import Request, Response
from tests.steps.conftest import Job, found

SIZE = 190_000
BODY = random.Random(1).randbytes(SIZE)

# How the object was put; what must match; is S3 asked beyond its listing.
PROVABLE: dict[str, tuple[dict[str, Any], str, bool]] = {
    "MD5 ETag": ({"checksums": ()}, "md5-etag", False),
    "MD5 ETag beside CRC32": ({"checksums": ("CRC32",)}, "md5-etag", False),
    "multipart ETag, even parts": ({"checksums": (), "parts": (95_000, 95_000)}, "multipart-etag", False),
    "multipart ETag, odd parts": ({"checksums": (), "parts": (70_000, 70_000, 50_000)}, "multipart-etag", True),
    "multipart ETag, hand-made parts": (
        {"checksums": (), "parts": (70_000, 30_000, 80_000, 10_000)},
        "multipart-etag",
        True,
    ),
    "multipart ETag, parts equal at first": (
        {"checksums": (), "parts": (50_000, 50_000, 60_000, 30_000)},
        "multipart-etag",
        True,
    ),
    "multipart ETag of one part": ({"checksums": (), "parts": (SIZE,)}, "multipart-etag", False),
    "KMS, CRC64NVME": ({"etag": "kms"}, "crc64nvme", True),
    "KMS, CRC64NVME, multipart": ({"etag": "kms", "parts": (70_000, 70_000, 50_000)}, "crc64nvme", True),
    "KMS, SHA256": ({"etag": "kms", "checksums": ("SHA256",)}, "sha256", True),
    "KMS, SHA256 COMPOSITE": (
        {"etag": "kms", "checksums": ("SHA256",), "parts": (70_000, 70_000, 50_000)},
        "sha256-composite",
        True,
    ),
    "KMS, SHA1 COMPOSITE, hand-made": (
        {"etag": "kms", "checksums": ("SHA1",), "parts": (70_000, 30_000, 80_000, 10_000)},
        "sha1-composite",
        True,
    ),
    "KMS, CRC32 and CRC32C": ({"etag": "kms", "checksums": ("CRC32", "CRC32C")}, "crc32", True),
}
UNPROVABLE: dict[str, tuple[dict[str, Any], str]] = {
    "KMS without checksum": ({"etag": "kms", "checksums": ()}, r"encryption \(aws:kms\).*no checksum of 64 bits"),
    "KMS multipart without checksum": ({"etag": "kms", "checksums": (), "parts": (95_000, 95_000)}, "no checksum"),
    "KMS, CRC32": ({"etag": "kms", "checksums": ("CRC32",)}, r"encryption \(aws:kms\).*no checksum of 64 bits"),
    "KMS, CRC32C COMPOSITE": ({"etag": "kms", "checksums": ("CRC32C",), "parts": (95_000, 95_000)}, "no checksum"),
}


def flip(path: Path, at: int, bit: int = 0) -> None:
    body = bytearray(path.read_bytes())
    body[at] ^= 1 << bit
    facts = path.stat()
    path.write_bytes(body)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def quarantined(job: Job) -> list[bytes]:
    return [path.read_bytes() for path in (job.disk.base / f".migrate-v2/{job.bucket}/quarantine").glob("*")]


@pytest.mark.parametrize("name", PROVABLE)
def test_every_witness_proves_the_copy_and_gives_away_each_single_bit(job: Job, name: str) -> None:
    how, kind, asks = PROVABLE[name]
    job.server.put("b", "k", BODY, **how)
    job.bring()
    row = job.row("k")
    assert (row.state, row.verdict, row.reason) == (FileState.VERIFIED, Verdict.MATCH, "")
    assert kind in [witness.kind for witness in row.witnesses]
    assert row.identity == job.disk.look(row.path) and row.read_run == "run-1"
    assert (job.server.count("HeadObject") > 0) == asks
    picked = random.Random(name)
    for at, bit in (
        (0, 0),
        (SIZE - 1, 7),
        (69_999, picked.randrange(8)),
        (70_000, picked.randrange(8)),
        (picked.randrange(SIZE), picked.randrange(8)),
    ):
        lost_before = job.row("k").attempts.losses
        flip(job.path("k"), at, bit)
        wrong = job.path("k").read_bytes()
        told = found(job.verify_again())
        assert told["k"][0] is Verdict.DIFFERS
        assert "quarantine" in told["k"][1]
        row = job.row("k")
        assert (row.verdict, row.sha256, row.witnesses) == (None, "", ())
        assert (row.state, row.cause) == (
            (FileState.ERROR, Cause.CONTESTED) if lost_before else (FileState.DISCOVERED, None)
        )
        assert not job.path("k").exists() and wrong in quarantined(job)
        job.store.put_back([row.version])
        job.place()
        job.fetch()
        job.verify()
        assert job.row("k").state is FileState.VERIFIED and job.path("k").read_bytes() == BODY


@pytest.mark.parametrize("name", UNPROVABLE)
def test_what_has_no_witness_strong_enough_is_unprovable_and_said_so(job: Job, name: str) -> None:
    how, why = UNPROVABLE[name]
    job.server.put("b", "k", BODY, **how)
    job.bring()
    row = job.row("k")
    assert (row.state, row.verdict) == (FileState.DOWNLOADED, Verdict.UNPROVABLE)
    assert re.search(why, row.reason), row.reason
    assert job.store.ask_again("b") == 0, "S3 has told all that it has"
    # Looking again does not make it better, and a later flip cannot turn it into a match.
    flip(job.path("k"), 5)
    job.verify_again("run-2")
    assert job.row("k").verdict in (Verdict.UNPROVABLE, None) and job.row("k").state is not FileState.VERIFIED


def test_a_customers_key_is_unprovable(job: Job) -> None:
    """S3 answers 400 to whoever does not bring the key, so the copy can only have come by other hands."""
    job.server.put("b", "k", BODY, etag="sse-c")
    job.scan()
    job.place()
    path = job.disk.base / "b" / "k"
    path.parent.mkdir()
    path.write_bytes(BODY)
    job.store.fetched("b", [job.row("k").version])
    told = found(job.verify())
    assert told["k"][0] is Verdict.UNPROVABLE and "S3 does not give its checksums" in told["k"][1]
    assert job.row("k").state is FileState.DOWNLOADED and path.read_bytes() == BODY


def test_who_may_not_decrypt_cannot_prove(job: Job) -> None:
    job.server.put("b", "k", BODY, etag="kms")
    for step in (job.scan, job.place, job.fetch):
        step()
    job.server.deny("kms:Decrypt")
    told = found(job.verify())
    assert told["k"][0] is Verdict.UNPROVABLE and "denied" in told["k"][1]
    job.server.allow()
    assert job.store.ask_again("b") == 1, "so begins the next migrate"
    job.verify()
    assert job.row("k").state is FileState.VERIFIED


def test_crc32_alone_still_gives_a_difference_away(job: Job) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=("CRC32",))
    for step in (job.scan, job.place, job.fetch):
        step()
    flip(job.path("k"), 100)
    assert found(job.verify())["k"][0] is Verdict.DIFFERS


@pytest.mark.parametrize("how", [{}, {"etag": "kms"}, {"etag": "kms", "checksums": ()}, {"parts": (0,)}])
def test_nothing_has_only_one_content(job: Job, how: dict[str, Any]) -> None:
    job.server.put("b", "empty", b"", **how)
    job.server.put("b", "folder/", b"", **how)
    job.bring()
    assert set(job.states().values()) == {FileState.VERIFIED}
    assert job.row("folder/").place is Place.FOLDER
    assert {row.witnesses[0].kind for row in job.rows()} == {"empty-head" if "etag" in how else "empty"}
    (job.disk.base / "b" / "empty").write_bytes(b"x")
    (job.disk.base / "b" / "folder").rmdir()
    told = found(job.verify_again())
    assert told["empty"][0] is Verdict.DIFFERS and told["folder/"][0] is Verdict.MISSING
    assert set(job.states().values()) == {FileState.DISCOVERED}


def lists_no_bytes(job: Job) -> None:
    """A damaged index: all sizes are 0, and the ETags are right."""

    def rewrite(_: Request, response: Response) -> None:
        response.body = re.sub(rb"<Size>\d+</Size>", b"<Size>0</Size>", bytes(response.body))

    job.server.fault({"op": ("ListObjectVersions", "ListObjectsV2")}, rewrite=rewrite)


DAMAGED: dict[str, dict[str, Any]] = {
    "md5": {},
    "kms": {"etag": "kms"},
    "kms without checksum": {"etag": "kms", "checksums": ()},
    "parts": {"parts": (4000,)},
}


@pytest.mark.parametrize("how", DAMAGED)
@pytest.mark.parametrize("key", ["file", "folder/", "a//side"])
def test_verify_of_object_listed_without_bytes_asks_head(job: Job, key: str, how: str) -> None:
    """The copy is there already, as the CLI or an older toolkit may have left it."""
    job.server.put("b", key, bytes(4000), **DAMAGED[how])
    lists_no_bytes(job)
    for step in (job.scan, job.place):
        step()
    path = job.path(key)
    path.mkdir(parents=True) if key == "folder/" else path.parent.mkdir(parents=True, exist_ok=True)
    if key != "folder/":
        path.write_bytes(b"")
    job.store.fetched("b", [job.row(key).version])
    job.verify()
    row = job.row(key)
    assert (row.state, row.cause, row.witnesses) == (FileState.ERROR, Cause.REFUSED, ())
    job.delete()
    assert job.server.get("b", key) is not None and job.outcomes() == []


def test_verify_of_right_copy_whose_size_is_listed_wrong_leaves_it(job: Job) -> None:
    job.server.put("b", "file", bytes(4000))
    lists_no_bytes(job)
    for step in (job.scan, job.place):
        step()
    job.path("file").parent.mkdir(parents=True, exist_ok=True)
    job.path("file").write_bytes(bytes(4000))
    job.store.fetched("b", [job.row("file").version])
    job.verify()
    assert (job.row("file").state, job.row("file").cause) == (FileState.ERROR, Cause.REFUSED)
    assert job.path("file").read_bytes() == bytes(4000) and quarantined(job) == []


@pytest.mark.parametrize("how", DAMAGED)
@pytest.mark.parametrize("key", ["file", "folder/", "a//side"])
def test_fetch_of_object_listed_without_bytes_makes_no_copy(job: Job, key: str, how: str) -> None:
    job.server.put("b", key, bytes(4000), **DAMAGED[how])
    lists_no_bytes(job)
    job.bring()
    assert (job.row(key).state, job.row(key).cause) == (FileState.ERROR, Cause.REFUSED)
    assert not job.path(key).exists()
    job.server.calm()
    job.bring()
    row = job.row(key)
    assert row.version.size == 4000
    assert row.state is (FileState.DOWNLOADED if how == "kms without checksum" else FileState.VERIFIED)
    assert job.path(key).read_bytes() == bytes(4000)


@pytest.mark.parametrize("key", ["file", "folder/"])
def test_verify_of_empty_object_without_head_is_unprovable_until_read_again(job: Job, key: str) -> None:
    job.server.put("b", key, b"", etag="kms", checksums=())
    for step in (job.scan, job.place, job.fetch):
        step()
    denied = job.server.fault({"op": "HeadObject"}, "access-denied")
    job.verify()
    assert (job.row(key).state, job.row(key).cause) == (FileState.DOWNLOADED, Cause.CHECKSUM_DENIED)
    unproved = [job.row(key)]
    list(verify("b", job.store, job.disk, job.s3, unproved, run="run-1", threads=1, rows_per_commit=1, refetch=65536))
    assert [witness.kind for witness in job.row(key).witnesses] == ["refetch"]
    job.server.calm(denied)
    assert job.row(key).state is FileState.VERIFIED


@pytest.mark.parametrize("key", ["file", "folder/"])
def test_refetch_of_object_listed_without_bytes_proves_nothing(job: Job, key: str) -> None:
    job.server.put("b", key, bytes(4000), etag="kms", checksums=())
    lists_no_bytes(job)
    for step in (job.scan, job.place):
        step()
    path = job.path(key)
    path.mkdir(parents=True) if key == "folder/" else path.parent.mkdir(parents=True, exist_ok=True)
    if key != "folder/":
        path.write_bytes(b"")
    job.store.fetched("b", [job.row(key).version])
    list(verify("b", job.store, job.disk, job.s3, job.rows(), run="run-1", threads=1, rows_per_commit=1, refetch=65536))
    assert (job.row(key).state, job.row(key).cause) == (FileState.ERROR, Cause.REFUSED)


def test_a_file_is_no_folder(job: Job) -> None:
    job.server.put("b", "folder/", b"")
    job.bring()
    path = job.path("folder/")
    path.rmdir()
    path.write_bytes(b"")
    assert found(job.verify_again())["folder/"][0] is Verdict.MISSING


def absent(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    os.truncate(path, SIZE - 1)


def grown(path: Path) -> None:
    os.truncate(path, SIZE + 1)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(SIZE))


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def linked_above(path: Path) -> None:
    path.parent.rename(path.parent.with_name("dir2"))
    path.parent.symlink_to("dir2")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "verdict", "state", "why"),
    [
        (absent, Verdict.MISSING, FileState.DISCOVERED, "not there"),
        (truncated, Verdict.DIFFERS, FileState.DISCOVERED, "189,999 bytes, the object 190,000"),
        (grown, Verdict.DIFFERS, FileState.DISCOVERED, "190,001 bytes, the object 190,000"),
        (zeroed, Verdict.DIFFERS, FileState.DISCOVERED, "not those that S3 has checksums of"),
        (linked, Verdict.UNREADABLE, FileState.ERROR, "symbolic link"),
        (linked_above, Verdict.UNREADABLE, FileState.ERROR, "symbolic link"),
        (fifo, Verdict.UNREADABLE, FileState.ERROR, "FIFO"),
        (folder, Verdict.UNREADABLE, FileState.ERROR, "folder"),
    ],
)
@pytest.mark.timeout(20)
def test_the_copy_itself(job: Job, harm: Callable[[Path], None], verdict: Verdict, state: FileState, why: str) -> None:
    job.server.put("b", "dir/k", BODY)
    job.server.put("b", "other", b"is not touched")
    job.bring()
    harm(job.path("dir/k"))
    told = found(job.verify_again())
    assert told.keys() == {"dir/k"}
    assert told["dir/k"][0] is verdict and why in told["dir/k"][1]
    row = job.row("dir/k")
    assert (row.state, row.reason) == (state, told["dir/k"][1])
    unread = state is FileState.ERROR  # may still be the copy that was proved; without a seal that proves nothing to S3
    assert (row.verdict, row.sealed) == (verdict if unread else None, False)
    assert row.sha256 == (sha256(BODY) if unread else "")
    assert job.row("other").state is FileState.VERIFIED


def test_swapped_and_merged_files_are_told_apart(job: Job) -> None:
    bodies = {"a": b"1" * 1000, "b": b"2" * 1000, "c": b"3" * 500, "d": b"4" * 500}
    for key, body in bodies.items():
        job.server.put("b", key, body)
    job.bring()
    a, b, c, d = (job.path(key) for key in bodies)
    a.rename(a.with_name("x"))
    b.rename(a)
    a.with_name("x").rename(b)
    c.write_bytes(bodies["c"] + bodies["d"])
    os.link(c, d.with_name("y"))
    d.write_bytes(bodies["c"])
    told = found(job.verify_again())
    assert {key: verdict for key, (verdict, _) in told.items()} == dict.fromkeys("abcd", Verdict.DIFFERS)
    job.fetch()
    job.verify()
    assert {key: job.path(key).read_bytes() for key in bodies} == bodies


@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize(
    ("event", "verdict", "cause"),
    [("overwritten", Verdict.UNPROVABLE, Cause.CHANGED), ("removed", Verdict.UNPROVABLE, Cause.VANISHED)],
)
def test_what_s3_holds_by_now_may_be_another_object(
    job: Job, versioning: str, event: str, verdict: Verdict, cause: Cause
) -> None:
    job.server.buckets["b"].versioning = versioning
    version_id = job.server.put("b", "k", BODY, etag="kms").version_id
    for step in (job.scan, job.place, job.fetch):
        step()
    if event == "overwritten":
        job.server.put("b", "k", bytes(SIZE), etag="kms")
    else:
        job.server.remove("b", "k", version_id)
    told = found(job.verify())
    row = job.row("k")
    if versioning and event == "overwritten":  # by its id the old one is there, and proved
        assert told == {} and row.state is FileState.VERIFIED
        return
    assert (row.state, row.verdict, row.cause) == (FileState.ERROR, verdict, cause)
    assert job.path("k").read_bytes() == BODY, "it stays"


def test_a_match_with_the_listing_needs_no_answer_from_s3(job: Job) -> None:
    job.server.put("b", "k", BODY)
    for step in (job.scan, job.place, job.fetch):
        step()
    job.server.fault({"op": "HeadObject"}, "503")
    job.server.fault({"op": "GetObject"}, "503")
    job.verify()
    assert job.row("k").state is FileState.VERIFIED


def test_a_wrong_file_is_neither_verified_nor_called_different_before_s3_has_said_so(job: Job) -> None:
    job.server.put("b", "good", BODY)
    job.server.put("b", "k", BODY)
    job.bring()
    flip(job.path("k"), 3)
    fault = job.server.fault({"op": "HeadObject"}, "503")
    events = job.verify_again()
    assert found(events) == {} and fault.hits == 5
    assert [event.text for event in events if isinstance(event, Warned)] == [
        "S3 gave no proper answer for 1 object; the next run asks again"
    ]
    assert job.states() == {"good": FileState.VERIFIED, "k": FileState.DOWNLOADED} and job.path("k").exists()
    job.server.calm()
    assert found(job.verify())["k"][0] is Verdict.DIFFERS


def test_twenty_in_a_row_without_an_answer_end_it(job: Job) -> None:
    for number in range(25):
        job.server.put("b", f"{number:02}", b"body", etag="kms")
    for step in (job.scan, job.place, job.fetch):
        step()
    job.server.fault({"op": "HeadObject"}, "reset-before")
    with pytest.raises(Unreachable):
        job.verify()
    assert set(job.states().values()) == {FileState.DOWNLOADED}
    job.server.calm()
    job.verify()
    assert set(job.states().values()) == {FileState.VERIFIED}


def test_each_batch_is_recorded_as_it_ends(job: Job) -> None:
    for number in range(40):
        job.server.put("b", f"{number:02}", b"body")
    for step in (job.scan, job.place, job.fetch):
        step()
    with pytest.raises(ZeroDivisionError):
        job.verify((row for row in job.rows() if row.key != "39" or 1 / 0), rows_per_commit=2)
    # All but what was under way when the last one was asked for, and less than a batch before it.
    assert list(job.states().values()).count(FileState.VERIFIED) >= 20


def deleted(job: Job) -> None:
    job.server.put("b", "k", BODY)
    job.server.put("b", "side//way", BODY)
    job.server.put("b", "folder/", b"")
    job.bring()
    job.delete()
    assert job.server.versions("b") == []
    assert set(job.states().values()) == {FileState.DELETED}


@pytest.mark.parametrize("key", ["k", "side//way"])
def test_the_copy_of_what_is_deleted_is_held_to_its_sha256_and_stays_where_it_is(job: Job, key: str) -> None:
    deleted(job)
    asked = len(job.server.requests)
    before = job.row(key)
    flip(job.path(key), 77)
    wrong = job.path(key).read_bytes()
    told = found(job.verify_again("run-2"))
    assert told == {key: (Verdict.DIFFERS, "deleted in S3, and its local copy is not what was verified")}
    row = job.row(key)
    assert (row.state, row.verdict, row.sha256) == (FileState.DELETED, Verdict.DIFFERS, before.sha256)
    assert row.witnesses == before.witnesses and row.path == before.path
    assert job.path(key).read_bytes() == wrong and quarantined(job) == []
    flip(job.path(key), 77)
    assert found(job.verify_again("run-3")) == {}
    row = job.row(key)
    assert (row.state, row.verdict, row.reason) == (FileState.DELETED, Verdict.MATCH, "")
    assert not {"HeadObject", "GetObject"} & {entry.op for entry in job.server.requests[asked:]}


@pytest.mark.parametrize("harm", [absent, truncated, grown, fifo, folder, linked])
def test_whatever_becomes_of_the_copy_of_what_is_deleted_its_row_stays_deleted(
    job: Job, harm: Callable[[Path], None]
) -> None:
    deleted(job)
    sha256 = job.row("k").sha256
    harm(job.path("k"))
    there = os.path.lexists(job.path("k"))
    told = found(job.verify_again("run-2"))
    expected: dict[Callable[[Path], None], Verdict] = {
        absent: Verdict.MISSING,
        truncated: Verdict.DIFFERS,
        grown: Verdict.DIFFERS,
    }
    assert told["k"][0] is expected.get(harm, Verdict.UNREADABLE)
    row = job.row("k")
    assert (row.state, row.sha256) == (FileState.DELETED, sha256)
    assert os.path.lexists(job.path("k")) == there
    job.place()
    job.fetch()
    assert job.row("k").state is FileState.DELETED, "there is nothing to fetch it from"


def test_a_deleted_folder_that_is_gone_is_told(job: Job) -> None:
    deleted(job)
    job.path("folder/").rmdir()
    assert found(job.verify_again("run-2"))["folder/"][0] is Verdict.MISSING
    assert job.row("folder/").state is FileState.DELETED


# --refetch


def reread(job: Job, block_size: int = 65536) -> list[Event]:
    rows = (row for row in job.store.in_state("b", FileState.DOWNLOADED) if row.verdict is Verdict.UNPROVABLE)
    return list(
        verify(
            "b",
            job.store,
            job.disk,
            job.s3,
            rows,
            verb="refetch",
            run=job.run,
            threads=4,
            rows_per_commit=1000,
            refetch=block_size,
        )
    )


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
@pytest.mark.parametrize("name", UNPROVABLE)
def test_a_second_reading_proves_what_nothing_else_does(job: Job, name: str, versioning: str) -> None:
    job.server.buckets["b"].versioning = versioning
    job.server.put("b", "k", BODY, **UNPROVABLE[name][0])
    job.bring()
    assert job.row("k").verdict is Verdict.UNPROVABLE
    named: list[tuple[str, str]] = []
    job.server.fault(
        {"op": "GetObject"}, lambda request: named.append((request.version_id, request.header("if-match")))
    )
    assert found(reread(job, 4097)) == {}
    version = job.row("k").version
    if versioning == "Enabled":
        assert named == [(version.version_id, "")]
    else:
        assert [etag for _, etag in named] == [f'"{version.etag}"']
    row = job.row("k")
    assert (row.state, row.verdict, row.reason) == (FileState.VERIFIED, Verdict.MATCH, "")
    assert row.witnesses[0] == Witness("refetch", sha256(BODY), 256) and row.sha256 == sha256(BODY)
    assert row.identity == job.disk.look(row.path)

    # The reading before the deletion rests on what is stored: S3 is asked nothing about the content.
    asked = len(job.server.requests)
    job.run = "run-2"
    assert found(job.prove()) == {}
    assert not {"GetObject", "HeadObject"} & {entry.op for entry in job.server.requests[asked:]}
    list(job.deleting())
    assert job.row("k").state is FileState.DELETED and job.server.get("b", "k") is None


@pytest.mark.parametrize("at", [0, 65_535, 65_536, 100_000, SIZE - 1])
def test_one_bit_of_the_copy_is_given_away_by_a_second_reading(job: Job, at: int) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=())
    job.bring()
    flip(job.path("k"), at)
    wrong = job.path("k").read_bytes()
    before = job.server.count("GetObject")
    told = found(reread(job))
    assert told["k"][0] is Verdict.DIFFERS and "twice" in told["k"][1] and "quarantine" in told["k"][1]
    assert job.server.count("GetObject") == before + 2, "once more, then it is said"
    assert job.row("k").state is FileState.DISCOVERED and quarantined(job) == [wrong]
    job.place()
    job.fetch()
    job.verify()
    assert job.row("k").verdict is Verdict.UNPROVABLE, "what was proved was another reading of another file"
    assert found(reread(job)) == {} and job.row("k").state is FileState.VERIFIED


def test_one_wrong_body_is_read_once_more(job: Job) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=())
    job.bring()
    fault = job.server.fault({"op": "GetObject"}, "flip", times=1)
    assert found(reread(job)) == {} and fault.hits == 1
    assert job.row("k").state is FileState.VERIFIED


@pytest.mark.parametrize("fault", ["truncate", "reset-before", "503"])
def test_a_second_reading_that_breaks_off_is_begun_anew(job: Job, fault: Any) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=())
    job.bring()
    job.server.fault({"op": "GetObject"}, fault, times=2)
    events = reread(job)
    assert found(events) == {} and job.row("k").state is FileState.VERIFIED
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert (ended.verb, ended.objects, ended.bytes) == ("refetch", 1, SIZE), "what came in vain is not counted"


@pytest.mark.parametrize(
    ("harm", "verdict", "state"),
    [
        (absent, Verdict.MISSING, FileState.DISCOVERED),
        (truncated, Verdict.DIFFERS, FileState.DISCOVERED),
        (grown, Verdict.DIFFERS, FileState.DISCOVERED),
        (fifo, Verdict.UNREADABLE, FileState.ERROR),
        (linked, Verdict.UNREADABLE, FileState.ERROR),
    ],
)
def test_no_second_reading_for_a_copy_that_is_none(
    job: Job, harm: Callable[[Path], None], verdict: Verdict, state: FileState
) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=())
    job.bring()
    harm(job.path("k"))
    before = job.server.count("GetObject")
    assert found(reread(job))["k"][0] is verdict
    assert job.row("k").state is state and job.server.count("GetObject") == before


def test_what_s3_does_not_let_be_read_stays_unprovable_with_both_reasons(job: Job) -> None:
    for key in ("denied", "cold"):
        job.server.put("b", key, BODY, etag="kms", checksums=())
    job.server.put("b", "customer", BODY, etag="sse-c", checksums=())
    for step in (job.scan, job.place, job.fetch):
        step()
    (job.disk.base / "b/customer").write_bytes(BODY)
    job.store.fetched("b", [job.row("customer").version])
    job.verify()
    job.server.deny("s3:GetObject", "b", "denied")
    stored = job.server.get("b", "cold")
    assert stored
    stored.storage_class = "GLACIER"
    told = found(reread(job))
    assert {key: verdict for key, (verdict, _) in told.items()} == dict.fromkeys(
        ("denied", "cold", "customer"), Verdict.UNPROVABLE
    )
    for key, why in {"denied": "is denied", "cold": "archive tier", "customer": "refused"}.items():
        row = job.row(key)
        assert (row.state, row.verdict, row.sha256) == (FileState.DOWNLOADED, Verdict.UNPROVABLE, sha256(BODY))
        assert "does not let it be read a second time" in row.reason and why in row.reason


@pytest.mark.parametrize(
    ("event", "verdict", "cause"),
    [("overwritten", Verdict.UNPROVABLE, Cause.CHANGED), ("removed", Verdict.UNPROVABLE, Cause.VANISHED)],
)
def test_a_second_reading_of_another_object_proves_nothing(
    job: Job, event: str, verdict: Verdict, cause: Cause
) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=())
    job.bring()
    job.server.remove("b", "k")
    if event == "overwritten":
        job.server.put("b", "k", BODY, etag="kms", checksums=())
    reread(job)
    row = job.row("k")
    assert (row.state, row.verdict, row.cause, row.witnesses) == (FileState.ERROR, verdict, cause, ())
    assert job.path("k").read_bytes() == BODY, "it stays"


@pytest.mark.parametrize("denied", [False, True])
def test_a_bit_that_flips_after_the_second_reading_is_told(job: Job, denied: bool) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=())
    job.bring()
    reread(job)
    flip(job.path("k"), 5)
    if denied:
        job.server.deny("s3:GetObject", "b", "k")
    told = found(job.verify_again("run-2"))
    assert told["k"][0] is Verdict.DIFFERS and "proved before" in told["k"][1]
    assert job.row("k").witnesses == ()


def test_a_second_reading_is_not_forgotten_where_s3_gives_no_answer(job: Job) -> None:
    job.server.put("b", "k", BODY, etag="kms", checksums=())
    job.bring()
    reread(job)
    flip(job.path("k"), 5)
    job.server.fault({"op": "HeadObject"}, "reset-before")
    assert found(job.verify_again("run-2")) == {} and job.row("k").state is FileState.DOWNLOADED
    job.server.calm()
    assert found(job.verify())["k"][0] is Verdict.DIFFERS


def test_p4_what_others_deleted_stays_the_only_copy_whatever_verify_finds(job: Job) -> None:
    job.server.put("b", "k", b"the only copy")
    job.bring()
    job.server.remove("b", "k")
    job.scan()
    job.verify_again("run-2")
    row = job.row("k")
    assert (row.gone, bool(row.sha256)) == (GoneKind.ONLY_COPY, True)
    assert job.store.holds_only_copies("b")
    body, path = job.path("k").read_bytes(), job.path("k")
    for damaged in (body[:-1] + b"!", b"shorter"):
        path.write_bytes(damaged)
        assert found(job.verify_again("run-3"))["k"][0] is Verdict.DIFFERS
        assert job.row("k").gone is GoneKind.UNPROVED_ONLY_COPY and path.read_bytes() == damaged
    path.unlink()
    assert found(job.verify_again("run-4"))["k"][0] is Verdict.MISSING
    path.write_bytes(body)  # from a backup
    assert found(job.verify_again("run-5")) == {} and job.row("k").gone is GoneKind.ONLY_COPY


def test_what_matched_once_contradicts_later_although_s3_says_nothing(job: Job) -> None:
    job.server.put("b", "k", BODY)
    job.bring()
    flip(job.path("k"), 5)
    job.server.deny("s3:GetObject", "b", "k")
    assert found(job.verify_again("run-2"))["k"][0] is Verdict.DIFFERS


@pytest.mark.parametrize("readers", [0, 2])
def test_readers_come_to_what_threads_come_to(job: Job, monkeypatch: pytest.MonkeyPatch, readers: int) -> None:
    monkeypatch.setattr(verify_step, "WORTH_READERS", 1)
    for number in range(30):
        job.server.put("b", f"{number:02}", b"body %d" % number)
    job.server.put("b", "folder/", b"")
    for step in (job.scan, job.place, job.fetch):
        step()
    home = job.disk.base / "b"
    (home / "01").write_bytes(b"body x")  # of the same size
    (home / "02").write_bytes(b"shorter")
    (home / "03").unlink()
    (home / "04").unlink()
    (home / "04").symlink_to(home / "05")
    rows = job.store.left_to_verify("b")
    told = verify(
        "b",
        job.store,
        job.disk,
        job.s3,
        rows,
        run="run",
        threads=4,
        rows_per_commit=7,
        readers=readers,
        total_objects=31,
    )
    assert sum(isinstance(event, Ended) for event in told) == 1
    states = job.states()
    odd = {key: state for key, state in states.items() if state is not FileState.VERIFIED}
    assert len(states) == 31 and odd == {
        "01": FileState.DISCOVERED, "02": FileState.DISCOVERED, "03": FileState.DISCOVERED, "04": FileState.ERROR,
    }  # fmt: skip
    assert all(
        row.sha256 and row.identity for row in job.rows() if row.state is FileState.VERIFIED and row.version.size
    )
