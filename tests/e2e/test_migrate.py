"""A bucket comes down through the real `aws` from a real S3: every byte in its place, proved, and nothing deleted."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from migrate_v2.model import FileState
from tests.conftest import Run, fill, identities, in_s3, phase, query, sha256, states, tree

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MiB = 1 << 20

ORDINARY = {
    "readme.txt": b"hello",
    "empty": b"",
    "a/b/c/deep.bin": os.urandom(200_000),
    "2019/07 Süd-Tirol/IMG 0001.jpg": os.urandom(4000),
    "日本/京都 🍁/紅葉.txt": "もみじ".encode(),
    "signs/+&%?#=@:;,'\"*[]!~$()`{}|<>^ \\n.txt": b"no sign steers a shell, a pattern or a URL",
    "%41%2f..%2fescape": b"a key is not decoded twice",
    "-rf": b"a hyphen",
    " spaces at both ends ": b"kept",
    "--delete/--quiet": b"options",
    "Case": b"one",
    "case": b"two",
    "é": b"composed",
    "e\u0301": b"decomposed",
    ".hidden/.too": b"dots",
    "log.20240131": b"eight digits are no temporary file",
    "n" * 240 + ".txt": b"a long name",
}


def multipart(boto: S3Client, bucket: str, key: str, sizes: tuple[int, ...]) -> bytes:
    upload = boto.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    bodies = [os.urandom(size) for size in sizes]
    parts = [
        {
            "PartNumber": number,
            "ETag": boto.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body)["ETag"],
        }
        for number, body in enumerate(bodies, 1)
    ]
    boto.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    return b"".join(bodies)


def checked_by_sha256sum(home: Path, bucket: str) -> int:
    """How many files the manifest lists, all of them found right by coreutils alone."""
    manifest = home / ".migrate-v2" / bucket / "manifest-sha256.txt"
    ended = subprocess.run(
        ["sha256sum", "--strict", "-c", manifest.relative_to(home)],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return len(ended.stdout.splitlines())


def test_a_bucket_comes_home(run: Run, boto: S3Client, bucket: str, endpoint: str, tmp_path: Path) -> None:
    """Named by flags alone; the second run does nothing; P7: the manifest is checked without AWS."""
    objects = dict(ORDINARY)
    fill(boto, bucket, objects)
    objects["video/summit.mov"] = multipart(boto, bucket, "video/summit.mov", (8 * MiB, 8 * MiB, MiB + 17))
    before = in_s3(boto, bucket)
    home, state = tmp_path / "D", tmp_path / "S"
    flags = (f"--endpoint-url={endpoint}", f"--dest={home}", f"--state={state}")
    env: dict[str, str | None] = {
        "AWS_ENDPOINT_URL": None,
        "MIGRATE_V2_LOCAL_BASE_PATH": None,
        "MIGRATE_V2_STATE_DB_PATH": None,
    }

    ended = run("migrate", *flags, "--json", env=env)
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {"started", "ended", "phase_earned", "stands"} <= {event["event"] for event in events}
    assert [e["earned"] for e in events if e["event"] == "phase_earned"] == ["scanning", "syncing", "verifying"]
    brought = [e for e in events if e["event"] == "ended" and e["verb"] == "sync"]
    assert brought[0]["objects"] == len(objects), "the CLI itself has to bring what is ordinary"
    assert not [e for e in events if e["event"] == "started" and e["verb"] == "fetch"]

    assert {path: body for path, body in tree(home / bucket).items() if body is not None} == objects
    assert in_s3(boto, bucket) == before
    assert states(state, bucket) == {"verified": len(objects)}
    assert query(state, "select distinct verdict from files") == [("match",)]
    assert dict(query(state, "select key, sha256 from files")) == {k: sha256(v) for k, v in objects.items()}
    assert checked_by_sha256sum(home, bucket) == len(objects)
    assert os.stat(state).st_mode & 0o777 == 0o600
    assert (home.stat().st_mode & 0o077) == 0

    ended = run("status", *flags, "--json", env=env)
    assert ended.returncode == 0, ended.stderr
    shown = json.loads(ended.stdout)
    all_of_it = {"objects": len(objects), "bytes": sum(map(len, objects.values()))}
    (one,) = shown["buckets"]
    wanted = {
        "bucket": bucket,
        "phase": "deleting",
        **all_of_it,
        "storage_classes": {"STANDARD": all_of_it},
        "glacier": {"to_request": 0, "restoring": 0, "restored": 0},
        "errors": 0,
        "eta_seconds": 0,
    }
    assert {name: one[name] for name in wanted} == wanted
    nothing = {"objects": 0, "bytes": 0}
    assert one["states"] == {state.value: nothing for state in FileState} | {"verified": all_of_it}
    assert one["elapsed_seconds"] > 0
    assert one["throughput"]["session"] > 0
    assert one["throughput"]["overall"] > 0
    assert shown["totals"] == {"buckets": 1, **all_of_it, "states": one["states"]}

    piped = run("status", *flags, env=env)
    fields = piped.stdout.removesuffix("\n").split("\t")
    assert fields[:3] == [bucket, "deleting", str(len(objects))]

    as_it_was = identities(home)
    again = run("migrate", *flags, "--json", env=env)
    assert again.returncode == 0, again.stderr
    assert {json.loads(line)["event"] for line in again.stdout.splitlines()} <= {"stands", "noted"}
    assert identities(home) == as_it_was
    secrets_kept = b"".join(path.read_bytes() for path in tmp_path.glob("S*") if path.is_file())
    assert b"never/shown" not in secrets_kept


# What no path, or no path beside the others, can hold. MiniStack cannot list control characters.
HOSTILE = {
    "a": b"a file",
    "a/b": b"in a folder of the same name",
    "x//y": b"two slashes",
    "x/y": b"one slash",
    "/k": b"a slash in front",
    "k": b"none",
    "./c": b"here",
    "c": b"c",
    "a/../b": b"up and down",
    "..": b"up",
    "../../../outside": b"far up",
    ".": b"here",
    "folder/": b"",
    "folder/in it": b"in it",
    "bare/": b"",
    "heavy/": b"a folder marker with bytes",
    "heavy/in it": b"too",
    "//": b"",
    "deep/" + "n" * 250: b"too long for the temporary name",
    "ü" * 130: b"more than 255 bytes in 130 letters",
    "name.0123abcd": b"like a temporary file of the CLI",
    "name.0123abcd/beneath": b"like a temporary folder",
    "*": b"a pattern",
    "[/]*": b"a pattern too",
    "\u202etxt.exe": b"right to left",
}


@pytest.fixture
def hostile(boto: S3Client, bucket: str) -> str:
    fill(boto, bucket, HOSTILE)
    assert {key for key, _ in in_s3(boto, bucket)} == set(HOSTILE), "the server has to take them all"
    return bucket


def copies(home: Path, bucket: str) -> dict[tuple[str, str], bytes]:
    """(key, version id) of everything that lies aside, with what lies there."""
    lines = (home / ".migrate-v2" / bucket / "map.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert len({entry["path"] for entry in entries}) == len(entries)
    return {(entry["key"], entry["version_id"]): (home / entry["path"]).read_bytes() for entry in entries}


def test_no_key_can_steer_a_path(run: Run, boto: S3Client, hostile: str, home: Path, state: Path) -> None:
    """P8: every object is at its own path or in the map, with its own bytes, and nothing is outside the destination."""
    surroundings = set(home.parent.iterdir())
    ended = run("migrate", hostile)
    assert ended.returncode == 0, ended.stderr
    assert "\u202e" not in ended.stderr
    aside = {key: body for (key, _), body in copies(home, hostile).items()}
    plain = {path: body for path, body in tree(home / hostile).items() if body is not None}
    assert not aside.keys() & plain.keys()
    folders = {key for key in HOSTILE if key.endswith("/") and key not in aside}
    assert folders >= {"folder/", "bare/"}
    assert all((home / hostile / folder).is_dir() for folder in folders)
    assert aside | plain == {key: body for key, body in HOSTILE.items() if key not in folders}
    assert plain.keys() >= {"a/b", "x/y", "k", "c", "folder/in it", "*"}
    assert states(state, hostile) == {"verified": len(HOSTILE)}
    assert checked_by_sha256sum(home, hostile) == len(HOSTILE) - len(folders)
    new = {path.name for path in set(home.parent.iterdir()) - surroundings}
    assert new <= {"home", "state.db", "state.db-wal", "state.db-shm", "state.db.key", "state.db.run", "state.log"}
    as_it_was = identities(home)
    assert run("migrate", hostile).returncode == 0
    assert identities(home) == as_it_was


def test_step_by_step(run: Run, boto: S3Client, bucket: str, home: Path, state: Path) -> None:
    """P1: scan, sync and verify earn one phase each; verify reads every byte again; migrate repairs what it finds; and
    what changed in S3 is found by `scan --rescan` alone."""
    fill(boto, bucket, {f"d/{number}": os.urandom(3000) for number in range(4)})
    fill(boto, bucket, {"x//y": b"aside", "same": b"1", "changed": b"old", "vanished": b"gone", "folder/": b""})
    before = in_s3(boto, bucket)
    assert run("scan", bucket, env={"MIGRATE_V2_LOCAL_BASE_PATH": None}).returncode == 0
    assert (phase(state, bucket), states(state, bucket)) == ("syncing", {"discovered": 9})
    assert not home.exists(), "a scan writes nothing but the state file"
    assert run("sync", bucket).returncode == 0
    assert (phase(state, bucket), states(state, bucket)) == ("verifying", {"downloaded": 9})
    assert run("verify", bucket).returncode == 0
    assert (phase(state, bucket), states(state, bucket)) == ("deleting", {"verified": 9})
    assert checked_by_sha256sum(home, bucket) == 8

    good = tree(home / bucket)
    flipped = home / bucket / "d/3"
    facts = flipped.stat()
    body = bytearray(flipped.read_bytes())
    body[1234] ^= 4
    flipped.write_bytes(body)
    os.utime(flipped, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # nothing but the bytes tells
    (home / bucket / "d/1").unlink()
    (aside,) = query(state, "select local_path from files where key = 'x//y'")[0]
    (home / aside).write_bytes(b"aside!")
    ended = run("verify", bucket)
    assert ended.returncode == 4, ended.stderr
    assert all(key in ended.stderr for key in ("d/1", "d/3", "x//y"))
    assert (phase(state, bucket), states(state, bucket)) == ("syncing", {"verified": 6, "discovered": 3})
    quarantined = [path.read_bytes() for path in (home / ".migrate-v2" / bucket).rglob("*") if path.is_file()]
    assert bytes(body) in quarantined, "what differs is put aside, not thrown away"
    ended = run("migrate", bucket)
    assert ended.returncode == 0, ended.stderr
    assert tree(home / bucket) == good
    assert (home / aside).read_bytes() == b"aside"
    assert (phase(state, bucket), states(state, bucket)) == ("deleting", {"verified": 9})
    assert in_s3(boto, bucket) == before

    fill(boto, bucket, {"changed": b"new", "new": b"2"})
    boto.delete_object(Bucket=bucket, Key="vanished")
    ended = run("scan", "--rescan", bucket)
    assert ended.returncode == 0, ended.stderr
    rows = {
        key: row for key, *row in query(state, "select key, state, reason from files where cause is not 'superseded'")
    }
    assert rows["same"] == ["verified", None]
    assert rows["changed"] == rows["new"] == ["discovered", None]
    assert rows["vanished"][0] == "error"
    assert phase(state, bucket) == "syncing"
    ended = run("migrate", bucket)
    assert ended.returncode == 0, "what is gone from S3 has not failed"
    assert (home / bucket / "changed").read_bytes() == b"new"
    assert (home / bucket / "new").read_bytes() == b"2"
    assert (home / bucket / "vanished").read_bytes() == b"gone", "what came home before it vanished stays"
    assert states(state, bucket) == {"verified": 9, "error": 2}
    assert query(state, "select key, verdict, cause from files where state = 'error' order by key") == [
        ("changed", "match", "superseded"), ("vanished", "match", "vanished"),
    ]  # fmt: skip
    assert phase(state, bucket) == "deleting"


def test_several_buckets_at_a_time_share_the_state_file(
    run: Run, boto: S3Client, account: str, home: Path, state: Path
) -> None:
    """A process each, begun together: none waits for another's lock in vain, and the counts are those of the rows."""
    buckets = [f"bucket-{account}-{n}" for n in range(3)]
    for bucket in buckets:
        boto.create_bucket(Bucket=bucket)
        fill(boto, bucket, {f"d/{n}": f"{bucket} {n}".encode() for n in range(20)} | {"a//b": bucket.encode()})
    with ThreadPoolExecutor(3) as pool:
        for ended in pool.map(lambda bucket: run("migrate", "--quiet", bucket, timeout=120), buckets):
            assert ended.returncode == 0, ended.stderr
    for bucket in buckets:
        assert states(state, bucket) == {"verified": 21}
        assert (home / bucket / "d/7").read_bytes() == f"{bucket} 7".encode()
    assert run("check-state").returncode == 0
