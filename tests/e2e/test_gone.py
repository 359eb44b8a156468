"""Objects that are gone from S3 are no errors: their copies stay, the rest of the bucket is finished, and a listing that
shows a disaster is not acted upon."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.e2e.world import Ran, World, Zygote, world
from tests.fakes.oldfiles import old_file
from tests.fakes.s3server import Request, Response

KINDS = ("never_fetched", "only_copy", "unproved_only_copy")
PARTS = ("verified", "unprovable", "kept", "failed", "deleted", "pending")


@pytest.fixture(params=["", "Enabled"], ids=["never versioned", "versioned"])
def made(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote, versioning=request.param) as world_:
        yield world_


@pytest.fixture
def flat(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """A bucket that never was versioned."""
    with world(tmp_path, zygote) as world_:
        yield world_


def fill(made: World, *keys: str) -> None:
    for key in keys:
        made.put(key, f"body of {key}".encode())


def status(made: World) -> dict[str, Any]:
    """The bucket's document, whose sum is checked."""
    (document,) = json.loads(made.done("status", "--json", made.bucket).out)["buckets"]
    for unit in ("objects", "bytes"):
        gone = sum(document["gone"][kind][unit] for kind in KINDS)
        assert document[unit] == sum(document[part][unit] for part in PARTS) + gone
    assert document["gone"].keys() == set(KINDS)
    found: dict[str, Any] = document
    return found


def gone(made: World) -> tuple[int, ...]:
    document = status(made)
    return tuple(document["gone"][kind]["objects"] for kind in KINDS)


def phase(made: World) -> str:
    return str(status(made)["phase"])


def evidence(made: World) -> dict[str, dict[str, Any]]:
    path = made.home / ".migrate-v2" / made.bucket / "evidence.jsonl"
    return {entry["key"]: entry for entry in map(json.loads, path.read_text().splitlines())}


def sums(made: World) -> dict[str, str]:
    path = made.home / ".migrate-v2" / made.bucket / "manifest-sha256.txt"
    return {name: digest for digest, name in (line.split("  ", 1) for line in path.read_text().splitlines())}


def warnings(ran: Ran) -> int:
    return sum(line.startswith("warning:") for line in ran.err.splitlines())


def requests(made: World, *operations: str) -> int:
    return sum(made.server.count(operation) for operation in operations)


def sent(made: World) -> int:
    """Answers to GETs that had bytes of an object: a GET of a missing one only confirms what HEAD answered."""
    return sum(made.server.count("GetObject", status=status) for status in (200, 206))


def leave_out(made: World, prefix: str, *, times: int | None = None) -> None:
    """Listings without the keys that begin so."""
    entry = re.compile(rf"<(?P<tag>Version|Contents)><Key>{prefix}.*?</(?P=tag)>".encode(), re.DOTALL)

    def narrow(_: Request, response: Response) -> None:
        response.body = entry.sub(b"", response.body)

    made.server.fault({"op": ("ListObjectVersions", "ListObjectsV2")}, rewrite=narrow, times=times)


def test_never_fetched_gone_object_is_no_error(made: World) -> None:
    """(a)"""
    fill(made, "a//stays", "b//goes")
    made.done("scan", made.bucket)
    made.server.remove(made.bucket, "b//goes")
    made.done("scan", "--rescan", made.bucket)
    assert gone(made) == (1, 0, 0)
    made.done("migrate", made.bucket)
    assert (phase(made), gone(made), status(made)["failed"]["objects"]) == ("deleting", (1, 0, 0), 0)
    assert evidence(made)["b//goes"]["gone"] == "never_fetched"
    made.done("confirm-delete", made.token(), made.bucket)
    assert (phase(made), gone(made), status(made)["deleted"]["objects"]) == ("complete", (1, 0, 0), 1)


def test_object_gone_during_fetch_is_no_error(made: World) -> None:
    """(a), found by the GET."""
    fill(made, "a//stays", "b//goes")
    made.done("scan", made.bucket)
    made.server.remove(made.bucket, "b//goes")
    ran = made.done("migrate", made.bucket)
    assert (phase(made), gone(made), warnings(ran)) == ("deleting", (1, 0, 0), 1)


def test_verified_copy_of_gone_object_stays_only_copy(made: World) -> None:
    """(b)"""
    fill(made, "a//stays", "b//goes", "c")
    made.done("migrate", made.bucket)
    body = f"body of {'b//goes'}".encode()
    made.server.remove(made.bucket, "b//goes")
    made.server.remove(made.bucket, "c")
    made.done("scan", "--rescan", made.bucket)
    made.done("migrate", made.bucket)
    assert (phase(made), gone(made)) == ("deleting", (0, 2, 0))
    entry = evidence(made)["b//goes"]
    assert (entry["gone"], entry["state"], entry["verdict"], entry["cause"]) == (
        "only_copy",
        "error",
        "match",
        "vanished",
    )
    assert entry["witnesses"] and (made.home / entry["path"]).read_bytes() == body
    assert sums(made)[entry["path"]] == hashlib.sha256(body).hexdigest()
    assert {sums(made).get(e["path"]) for e in evidence(made).values()} == set(sums(made).values())
    summary = json.loads((made.home / ".migrate-v2" / made.bucket / "summary.json").read_text())
    assert summary["gone"]["only_copy"]["objects"] == 2 and summary["listed"]["objects"] == 3
    made.done("verify", "--offline", made.bucket)
    made.done("verify", made.bucket)
    plan = json.loads(made.done("confirm-delete", "--dry-run", "--json", made.bucket).out)
    assert (plan["delete"]["objects"], plan["kept"]["objects"], plan["keep"]) == (1, 0, [])
    assert plan["gone"]["only_copy"]["objects"] == 2
    made.done("confirm-delete", f"--confirm={plan['token']}", "--remove-bucket", made.bucket)
    assert made.bucket not in made.server.buckets and phase(made) == "complete"
    assert (made.home / entry["path"]).read_bytes() == body and gone(made) == (0, 2, 0)


def test_last_column_of_status_counts_gone(flat: World) -> None:
    fill(flat, "a//stays", "b//goes")
    flat.done("migrate", flat.bucket)
    flat.server.remove(flat.bucket, "b//goes")
    flat.done("scan", "--rescan", flat.bucket)
    columns = flat.done("status", flat.bucket).out.rstrip("\n").split("\t")
    assert (columns[8], columns[-1]) == ("0", "1")  # errors, gone


def fetched(made: World, *keys: str) -> None:
    """On the disk, and not verified."""
    fill(made, *keys)
    made.done("sync", made.bucket)


def test_fetched_copy_of_gone_object_is_verified_by_its_listed_etag(made: World) -> None:
    """(c), and the listed ETag matches."""
    fetched(made, "a//stays", "b//goes")
    made.server.remove(made.bucket, "b//goes")
    made.done("scan", "--rescan", made.bucket)
    assert (phase(made), gone(made), status(made)["pending"]["objects"]) == ("verifying", (0, 0, 0), 2)
    heads = requests(made, "HeadObject")
    made.done("verify", made.bucket)
    assert requests(made, "HeadObject") == heads
    assert (phase(made), gone(made)) == ("deleting", (0, 1, 0))
    assert evidence(made)["b//goes"]["path"] in sums(made)


@pytest.mark.parametrize("command", ["migrate", "verify"])
@pytest.mark.parametrize("body", [b"body of b//gone", b"cut off"], ids=["other bytes", "other size"])
@pytest.mark.parametrize("listed", [True, False], ids=["found by a listing", "found by verify"])
def test_fetched_copy_that_does_not_match_stays_in_place(made: World, command: str, body: bytes, listed: bool) -> None:
    """(c), and nothing matches."""
    fetched(made, "a//stays", "b//goes", "c")
    made.server.remove(made.bucket, "b//goes")
    with closing(sqlite3.connect(made.state)) as db:
        (path,) = db.execute("SELECT local_path FROM files WHERE key = 'b//goes'").fetchone()
    (made.home / path).write_bytes(body)
    if listed:
        made.done("scan", "--rescan", made.bucket)
    assert made.run(command, made.bucket).code == 4
    assert (phase(made), gone(made)) == ("deleting", (0, 0, 1))
    assert (made.home / path).read_bytes() == body
    assert evidence(made)["b//goes"]["gone"] == "unproved_only_copy" and path not in sums(made)
    assert evidence(made)["b//goes"]["path"] == path
    # A new object under the key gets another path, and the copy keeps its own.
    made.put("b//goes", b"a new object")
    made.done("scan", "--rescan", made.bucket)
    made.done("migrate", made.bucket)
    assert (made.home / path).read_bytes() == body and gone(made) == (0, 0, 1)
    made.done("confirm-delete", made.token(), made.bucket)
    assert (made.home / path).read_bytes() == body and phase(made) == "complete"
    assert made.server.versions(made.bucket) == []


def test_new_object_never_takes_the_path_of_an_unverified_only_copy(flat: World) -> None:
    """(c), with the key used again before the copy was verified; with and without a listing in between."""
    fetched(flat, "seen", "unseen")
    flat.server.remove(flat.bucket, "seen")
    flat.done("scan", "--rescan", flat.bucket)
    flat.put("seen", b"another")
    flat.done("scan", "--rescan", flat.bucket)
    flat.done("migrate", flat.bucket)
    assert (flat.home / flat.bucket / "seen").read_bytes() == b"body of seen"
    assert (gone(flat), status(flat)["verified"]["objects"]) == ((0, 1, 0), 2)


@pytest.mark.parametrize("where", ["at its path", "in the staging folder"])
def test_file_that_an_interrupted_run_did_not_record_is_kept(flat: World, where: str) -> None:
    """The run was killed before it recorded that the file had come, and the object is gone by now."""
    fill(flat, "plain", "other")
    flat.server.deny("s3:GetObject", flat.bucket, "plain")
    assert flat.run("sync", flat.bucket).code == 1
    stored = flat.server.get(flat.bucket, "plain")
    assert stored is not None
    folder = flat.home / flat.bucket
    if where != "at its path":
        folder = flat.home / ".migrate-v2" / flat.bucket / "incoming"
        folder.mkdir(exist_ok=True)
    (folder / "plain").write_bytes(stored.body)
    os.utime(folder / "plain", (stored.last_modified, stored.last_modified))
    flat.server.allow()
    flat.server.remove(flat.bucket, "plain")
    flat.done("scan", "--rescan", flat.bucket)
    assert gone(flat) == (1, 0, 0)
    flat.done("migrate", flat.bucket)
    assert gone(flat) == (0, 1, 0)
    assert (flat.home / evidence(flat)["plain"]["path"]).read_bytes() == stored.body
    flat.done("verify", "--offline", flat.bucket)


def test_path_of_a_version_that_was_never_fetched_is_free(zygote: Zygote, tmp_path: Path) -> None:
    """The version that replaced it has the plain path."""
    with world(tmp_path, zygote, versioning="Enabled") as made:
        made.put("k", b"first")
        first = made.server.versions(made.bucket)[0].version_id
        made.server.deny("s3:GetObjectVersion", made.bucket, "k")
        assert made.run("sync", made.bucket).code == 1
        made.server.allow()
        made.put("k", b"second")
        made.server.remove(made.bucket, "k", first)
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", made.bucket)
        assert gone(made) == (1, 0, 0) and (made.home / made.bucket / "k").read_bytes() == b"second"


def test_object_back_in_a_later_listing_is_to_do_again(flat: World) -> None:
    fill(flat, "a//never", "b//verified", "c//stays")
    flat.done("scan", flat.bucket)
    stored = {key: flat.server.get(flat.bucket, key) for key in ("a//never", "b//verified")}
    flat.server.remove(flat.bucket, "a//never")
    flat.done("migrate", flat.bucket)
    flat.server.remove(flat.bucket, "b//verified")
    flat.done("scan", "--rescan", flat.bucket)
    assert gone(flat) == (1, 1, 0)
    with flat.server.lock:
        for key, version in stored.items():
            assert version is not None
            flat.server.buckets[flat.bucket].objects[key] = [version]
            flat.server.buckets[flat.bucket].keys.insert(0, key)
        flat.server.buckets[flat.bucket].keys.sort()
    gets = requests(flat, "GetObject")
    flat.done("retry-errors", "--cause=vanished", flat.bucket)
    flat.done("migrate", flat.bucket)
    assert requests(flat, "GetObject") == gets + 1, "only what was never fetched"
    assert (gone(flat), status(flat)["verified"]["objects"]) == ((0, 0, 0), 3)
    flat.comes_home()


@pytest.mark.parametrize("times", [1, None], ids=["one listing", "every listing"])
def test_incomplete_listing_changes_no_row(flat: World, times: int | None) -> None:
    fill(flat, *(f"k//{n}" for n in range(6)))
    flat.done("migrate", flat.bucket)
    leave_out(flat, "k//[0-3]", times=times)
    ran = flat.done("scan", "--rescan", flat.bucket)
    assert (gone(flat), status(flat)["verified"]["objects"], warnings(ran)) == ((0, 0, 0), 6, 1)
    flat.done("migrate", flat.bucket)
    if times is None:
        assert flat.run("confirm-delete", "--dry-run", flat.bucket).code == 5, "nothing is deleted by such a listing"
    flat.server.calm()
    flat.comes_home()


def test_many_missing_rows_are_confirmed_by_a_second_listing(flat: World) -> None:
    """More than HEADs are worth: 1,100 rows, by listings alone; and the brake is the next that holds."""
    for n in range(1150):
        flat.server.put(flat.bucket, f"k{n:04}", b"x")
    flat.done("scan", flat.bucket)
    leave_out(flat, "k0", times=2)  # two pages of the first listing
    ran = flat.done("scan", "--rescan", flat.bucket)
    assert (gone(flat), status(flat)["pending"]["objects"]) == ((0, 0, 0), 1150), ran.err
    for n in range(1150):
        if n % 20:
            flat.server.remove(flat.bucket, f"k{n:04}")
    before = requests(flat, "HeadObject")
    flat.done("scan", "--rescan", flat.bucket)
    assert gone(flat)[0] == 1092 and requests(flat, "HeadObject") - before <= 100
    assert flat.run("migrate", flat.bucket).code == 5


def test_two_incomplete_listings_are_not_believed_either(flat: World) -> None:
    for n in range(1150):
        flat.server.put(flat.bucket, f"k{n:04}", b"x")
    flat.done("scan", flat.bucket)
    leave_out(flat, "k")
    assert flat.run("scan", "--rescan", flat.bucket).code == 1
    assert (gone(flat), status(flat)["pending"]["objects"]) == ((0, 0, 0), 1150)
    flat.server.calm()
    flat.done("scan", "--rescan", flat.bucket)


def test_head_without_an_answer_keeps_the_row(flat: World) -> None:
    """403 is no 404: the row stays as it was, and the exit status says so until S3 answers."""
    fill(flat, "a//stays", "b//goes")
    flat.done("migrate", flat.bucket)
    flat.server.remove(flat.bucket, "b//goes")
    flat.server.deny("s3:GetObject", flat.bucket, "b//goes")
    assert flat.run("scan", "--rescan", flat.bucket).code == 1
    for _ in range(2):
        assert (gone(flat), status(flat)["verified"]["objects"]) == ((0, 0, 0), 2)
        assert flat.run("migrate", flat.bucket).code == 1
    assert flat.run("confirm-delete", "--dry-run", flat.bucket).code == 1
    flat.server.allow()
    flat.server.fault({"op": "HeadObject"}, "503")
    assert flat.run("migrate", flat.bucket).code == 1
    flat.server.calm()
    flat.done("migrate", flat.bucket)
    assert gone(flat) == (0, 1, 0)


def test_missing_bucket_makes_no_row_gone(flat: World) -> None:
    """A HEAD cannot tell a bucket that is gone from an object that is gone."""
    fill(flat, "a//b")
    flat.done("scan", flat.bucket)

    def leave(_: Request) -> None:
        flat.server.buckets.pop(flat.bucket, None)

    leave_out(flat, "a")
    flat.server.fault({"op": "HeadObject"}, leave)
    assert flat.run("scan", "--rescan", flat.bucket).code == 1
    assert gone(flat) == (0, 0, 0)


def test_repeated_runs_cost_nothing_for_what_is_gone(flat: World) -> None:
    fill(flat, "a//stays", "b//never")
    flat.done("scan", flat.bucket)
    flat.server.remove(flat.bucket, "b//never")
    fill(flat, "c//verified")
    flat.done("migrate", flat.bucket)
    flat.done("scan", "--rescan", flat.bucket)
    flat.done("migrate", flat.bucket)
    flat.server.remove(flat.bucket, "c//verified")
    flat.done("scan", "--rescan", flat.bucket)
    assert gone(flat) == (1, 1, 0)
    for _ in range(3):
        before = requests(flat, "GetObject", "HeadObject")
        flat.done("migrate", flat.bucket)
        flat.done("scan", "--rescan", flat.bucket)
        assert requests(flat, "GetObject", "HeadObject") == before
        assert gone(flat) == (1, 1, 0)


def test_errors_counts_gone_and_lists_it_for_its_cause_only(flat: World) -> None:
    fill(flat, "a//stays", "b//goes")
    flat.done("migrate", flat.bucket)
    flat.server.remove(flat.bucket, "b//goes")
    flat.done("scan", "--rescan", flat.bucket)
    document = json.loads(flat.done("errors", "--json", flat.bucket).out)
    assert (document["errors"], document["causes"], document["gone"]["only_copy"]["objects"]) == ([], [], 1)
    document = json.loads(flat.done("errors", "--json", "--cause=vanished", flat.bucket).out)
    assert [entry["key"] for entry in document["errors"]] == ["b//goes"]


def test_lifecycle_that_expires_noncurrent_versions_is_no_error(zygote: Zygote, tmp_path: Path) -> None:
    """Some are fetched, some are not; and a delete marker above versions that are gone goes."""
    with world(tmp_path, zygote, versioning="Enabled") as made:
        for n in range(3):
            made.put("a", b"version %d" % n)
        made.put("marked", b"beneath a marker")
        made.put("b", b"stays")
        made.done("sync", made.bucket)
        delete(made, "marked")
        old = [v for v in made.server.versions(made.bucket) if not v.is_latest and not v.is_marker]
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", made.bucket)
        assert status(made)["verified"]["objects"] == 5
        for version in old:
            made.server.remove(made.bucket, version.key, version.version_id)
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", made.bucket)
        assert (phase(made), gone(made), status(made)["verified"]["objects"]) == ("deleting", (0, 3, 0), 2)
        made.comes_home()
        assert made.server.versions(made.bucket) == [] and phase(made) == "complete"


def delete(made: World, key: str) -> None:
    """As an application deletes: a delete marker."""
    boto3.client(
        "s3", endpoint_url=made.server.url, aws_access_key_id="AKIAFAKEFAKEFAKEFAKE", aws_secret_access_key="-"
    ).delete_object(Bucket=made.bucket, Key=key)


def test_null_version_beneath_a_new_marker_is_not_gone(zygote: Zygote, tmp_path: Path) -> None:
    """Its key answers 404, and it is there."""
    with world(tmp_path, zygote) as made:
        fill(made, "a//null", "b")
        made.server.bucket(made.bucket, versioning="Enabled")
        made.done("scan", made.bucket)
        delete(made, "a//null")
        made.done("migrate", made.bucket)
        assert (gone(made), status(made)["verified"]["objects"]) == ((0, 0, 0), 2)


# The brake


@pytest.fixture
def thousand(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote) as made:
        for n in range(1000):
            made.server.put(made.bucket, f"k{n:03}", b"body %d" % n)
        told = made.folder / "told"
        command = made.folder / "notify"
        command.write_text(f'#!/bin/sh\ncat >> "{told}"\n')
        command.chmod(0o755)
        made.env["MIGRATE_V2_NOTIFY_COMMAND"] = str(command)
        yield made


def notified(made: World) -> list[dict[str, Any]]:
    path = made.folder / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("how", ["gone", "overwritten", "both"])
def test_brake_stops_before_anything_is_fetched(thousand: World, how: str) -> None:
    made = thousand
    made.done("scan", made.bucket)
    for n in range(150):
        if how == "gone" or (how == "both" and n % 2):
            made.server.remove(made.bucket, f"k{n:03}")
        else:
            made.server.put(made.bucket, f"k{n:03}", b"encrypted")
    made.done("scan", "--rescan", made.bucket)
    for command in ("migrate", "sync", "restore", "verify", "migrate"):
        assert made.run(command, made.bucket).code == 5, command
    made.done("scan", "--rescan", made.bucket)
    assert made.run("migrate", made.bucket).code == 5, "a listing accepts nothing"
    assert made.run("confirm-delete", "--dry-run", made.bucket).code == 5
    assert sent(made) == 0
    assert [(entry["event"], entry["code"]) for entry in notified(made)] == [("failed", 5)] * 7
    if how == "gone":
        made.done("sync", "--accept-changes", made.bucket)
        made.done("verify", made.bucket)  # accepted once and for all
        with closing(sqlite3.connect(made.state)) as db:
            (text,) = db.execute("SELECT value FROM migration_metadata WHERE key LIKE 'accepted changes %'").fetchone()
        accepted = json.loads(text)
        assert (accepted["gone"], accepted["changed"], accepted["of"]) == (150, 0, 1000) and accepted["at"]
        assert gone(made) == (150, 0, 0) and status(made)["verified"]["objects"] == 850
        made.done("scan", "--rescan", made.bucket)
        made.done("sync", made.bucket)


def test_brake_stops_before_verified_copies_are_moved(zygote: Zygote, tmp_path: Path) -> None:
    """Ransomware: every object is overwritten after it was verified. The copies stay where they are until the changes are
    accepted, and beside the new ones afterwards."""
    with world(tmp_path, zygote) as made:
        keys = [f"k{n:03}" for n in range(120)]
        fill(made, *keys)
        made.done("migrate", made.bucket)
        folder = made.home / made.bucket
        before = {key: ((folder / key).read_bytes(), (folder / key).stat()) for key in keys}
        for key in keys:
            made.put(key, b"encrypted " + key.encode())
        made.done("scan", "--rescan", made.bucket)
        reads = sent(made)
        for command in ("migrate", "verify", "sync"):
            assert made.run(command, made.bucket).code == 5, command
        assert sent(made) == reads
        for key, (body, facts) in before.items():
            now = (folder / key).stat()
            assert (folder / key).read_bytes() == body
            assert (now.st_ino, now.st_ctime_ns, now.st_nlink) == (facts.st_ino, facts.st_ctime_ns, facts.st_nlink)
        with closing(sqlite3.connect(made.state)) as db:
            figures = db.execute("SELECT known_rows, gone_since, changed_since FROM bucket_status").fetchone()
        assert figures == (120, 0, 120)
        made.done("migrate", "--accept-changes", made.bucket)
        assert (gone(made), status(made)["verified"]["objects"]) == ((0, 120, 0), 120)
        made.nothing_is_lost()


def test_brake_stops_at_a_bucket_that_was_created_anew(thousand: World) -> None:
    made = thousand
    made.done("scan", made.bucket)
    made.server.buckets.pop(made.bucket)
    made.server.bucket(made.bucket)
    for n in range(5):
        made.server.put(made.bucket, f"other{n}", b"of somebody else")
    made.done("scan", "--rescan", made.bucket)
    assert made.run("migrate", made.bucket).code == 5
    assert sent(made) == 0 and gone(made) == (1000, 0, 0)


def test_brake_setting_decides_and_few_changes_pass(thousand: World) -> None:
    made = thousand
    made.done("scan", made.bucket)
    for n in range(100):
        made.server.remove(made.bucket, f"k{n:03}")
    made.done("scan", "--rescan", made.bucket)
    made.done("restore", made.bucket)  # 10 %, and no more than 100 objects
    for n in range(100, 220):
        made.server.remove(made.bucket, f"k{n:03}")
    made.done("scan", "--rescan", made.bucket)
    assert made.run("restore", made.bucket).code == 5
    made.done("restore", made.bucket, env={"MIGRATE_V2_MAX_CHANGE": "14"})  # 120 of 900
    assert notified(made)[0]["bucket"] == made.bucket


def test_brake_counts_again_after_a_listing_that_was_wrong(thousand: World) -> None:
    """150 objects are back: nothing has to be accepted."""
    made = thousand
    made.done("scan", made.bucket)
    stored = {f"k{n:03}": made.server.get(made.bucket, f"k{n:03}") for n in range(150)}
    for key in stored:
        made.server.remove(made.bucket, key)
    made.done("scan", "--rescan", made.bucket)
    assert made.run("restore", made.bucket).code == 5
    with made.server.lock:
        held = made.server.buckets[made.bucket]
        for key, version in stored.items():
            assert version is not None
            held.objects[key] = [version]
        held.keys[:] = sorted(held.objects)
    made.done("scan", "--rescan", made.bucket)
    made.done("restore", made.bucket)


def test_brake_does_not_count_before_the_first_listing(flat: World) -> None:
    """An older toolkit knew 150 objects that are gone, and the state file of this program has no listing of them."""
    rows: list[dict[str, object]] = [
        {"bucket": flat.bucket, "key": f"k{n:03}", "size": 5, "state": "discovered", "etag": "0" * 32}
        for n in range(150)
    ]
    (flat.folder / "old").mkdir()
    old_file(flat.folder / "old/s3_migration_state.db", rows)
    flat.done("upgrade-db", str(flat.folder / "old/s3_migration_state.db"))
    fill(flat, "there")
    flat.done("migrate", flat.bucket)
    assert (gone(flat), status(flat)["verified"]["objects"]) == ((150, 0, 0), 1)
