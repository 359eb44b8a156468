"""What becomes of a local copy when its object is not the current one any more, through the whole program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import query
from tests.e2e.world import World, Zygote, world
from tests.fakes.forks import Fault
from tests.steps.test_scan import put_marker


@pytest.fixture
def versioned(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """Two verified objects; above one of them a newer version was put since, above the other a delete marker."""
    with world(tmp_path, zygote, versioning="Enabled") as made:
        made.put("a/newer", b"the first")
        made.put("a/marked", b"the marked")
        made.done("migrate", made.bucket)
        made.put("a/newer", b"the second")
        put_marker(made.server, made.bucket, "a/marked")
        made.server.requests.clear()
        yield made


def gets(made: World) -> int:
    return made.server.count("GetObject", bucket=made.bucket)


def copies(made: World) -> dict[str, tuple[str, str]]:
    """By content: state and path, of every row with a local copy."""
    rows = query(made.state, "SELECT local_path, state FROM files WHERE local_path IS NOT NULL")
    return {(made.home / path).read_text(): (state, path) for path, state in rows}


def test_former_versions_stay_verified_without_a_download(versioned: World) -> None:
    versioned.done("scan", "--rescan", versioned.bucket)
    versioned.done("migrate", versioned.bucket)
    assert gets(versioned) == 1
    assert {body: state for body, (state, _) in copies(versioned).items()} == {
        "the first": "verified",
        "the marked": "verified",
        "the second": "verified",
    }
    assert copies(versioned)["the second"][1] == "bucket/a/newer"
    assert not (versioned.home / "bucket/a/marked").exists()
    versioned.done("verify", "--offline", versioned.bucket)
    assert not (versioned.home / ".migrate-v2/bucket/quarantine").exists()
    versioned.comes_home()


def test_lists_beside_the_data_follow_a_copy_although_nothing_is_fetched(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        made.put("k", b"body")
        made.done("migrate", made.bucket)
        put_marker(made.server, made.bucket, "k")
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", made.bucket)
        assert gets(made) == 1
        lines = (made.home / ".migrate-v2/bucket/evidence.jsonl").read_text().splitlines()
        (path,) = [json.loads(line)["path"] for line in lines]
        assert path.startswith(".migrate-v2/bucket/objects/") and (made.home / path).read_bytes() == b"body"
        made.done("verify", "--offline", made.bucket)


# Each step of one rename is killed in tests/steps/test_former.py; these come down at other places of the same run.
@pytest.mark.parametrize(
    ("at", "do", "numbers"), [("commit", "kill-after", range(4, 20, 4)), ("fsync", "kill", range(2, 11, 4))]
)
def test_renames_survive_a_kill(versioned: World, at: str, do: str, numbers: range) -> None:
    versioned.done("scan", "--rescan", versioned.bucket)
    restore = versioned.saved()
    for n in numbers:
        restore()
        assert versioned.run("migrate", versioned.bucket, fault=Fault(at, n, do)).fired
        versioned.nothing_is_lost()
        versioned.done("migrate", versioned.bucket)
        assert {body: state for body, (state, _) in copies(versioned).items()} == {
            "the first": "verified",
            "the marked": "verified",
            "the second": "verified",
        }, n
        assert not (versioned.home / ".migrate-v2/bucket/quarantine").exists()
    versioned.done("verify", "--offline", versioned.bucket)
    current = versioned.server.get(versioned.bucket, "a/newer")
    asked = {entry.query.get("versionId") for entry in versioned.server.requests if entry.op == "GetObject"}
    assert current and asked == {current.version_id}


# -- every object is overwritten after it was verified


BODIES = {f"files/{n}": f"the original {n}".encode() for n in range(5)} | {"x//y": b"an odd key", "a": b"", "a/b": b"z"}


@pytest.fixture
def encrypted(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """A never versioned bucket, and what somebody who wants ransom leaves of it."""
    with world(tmp_path, zygote) as made:
        for key, body in BODIES.items():
            made.put(key, body)
        made.done("migrate", made.bucket)
        for key in BODIES:
            made.server.put(made.bucket, key, b"encrypted " + key.encode())
        yield made


def superseded_evidence(made: World) -> list[dict[str, object]]:
    text = (made.home / ".migrate-v2/bucket/evidence.jsonl").read_text()
    return [entry for entry in map(json.loads, text.splitlines()) if entry["cause"] == "superseded"]


def assert_originals_are_kept(made: World) -> None:
    """By identity: evidence, manifest and `verify --offline` name a file with the SHA-256 of each original."""
    entries = superseded_evidence(made)
    assert {entry["key"]: entry["sha256"] for entry in entries} == {
        key: hashlib.sha256(body).hexdigest() for key, body in BODIES.items()
    }
    sums = (made.home / ".migrate-v2/bucket/manifest-sha256.txt").read_text().splitlines()
    for entry in entries:
        path = str(entry["path"])
        assert path.startswith(".migrate-v2/bucket/superseded/")
        assert (made.home / path).read_bytes() == BODIES[str(entry["key"])]
        assert f"{entry['sha256']}  {path}" in sums
    ended = made.done("verify", "--offline", "--json", made.bucket)
    (audited,) = [
        event
        for event in map(json.loads, ended.out.splitlines())
        if event.get("verb") == "audit" and event["event"] == "ended"
    ]
    assert audited["objects"] == 2 * len(BODIES)


def test_originals_of_overwritten_objects_are_kept_and_named(encrypted: World) -> None:
    encrypted.done("scan", "--rescan", encrypted.bucket)
    ended = encrypted.done("migrate", "--json", encrypted.bucket)
    warned = [event for event in map(json.loads, ended.out.splitlines()) if event["event"] == "warned"]
    assert len(warned) == 1
    assert_originals_are_kept(encrypted)
    assert not (encrypted.home / ".migrate-v2/bucket/quarantine").exists()
    status = json.loads(encrypted.done("status", "--json", encrypted.bucket).out)
    (bucket,) = status["buckets"]
    assert bucket["gone"]["only_copy"]["objects"] == len(BODIES)
    plan = json.loads(encrypted.done("plan", "--json", encrypted.bucket).out)
    size = sum(map(len, BODIES.values()))
    assert plan["buckets"][0]["superseded"] == {"objects": len(BODIES), "bytes": size}
    encrypted.done("confirm-delete", encrypted.token(), encrypted.bucket)
    assert encrypted.server.versions(encrypted.bucket) == []
    assert_originals_are_kept(encrypted)
    encrypted.done("verify", encrypted.bucket)
    encrypted.done("reset", f"--confirm={reset_token(encrypted)}", encrypted.bucket)
    rows = query(encrypted.state, "SELECT count(*) FROM files WHERE cause = 'superseded'")
    assert rows == [(len(BODIES),)]


def test_migrate_stops_before_it_acts_on_many_overwritten_objects(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote) as made:
        made.env["MIGRATE_V2_METADATA"] = "none"
        bodies = {f"files/{n:03}": b"the original %d" % n for n in range(120)}
        for key, body in bodies.items():
            made.put(key, body)
        made.done("migrate", made.bucket)
        for key in bodies:
            made.server.put(made.bucket, key, b"encrypted")
        made.done("scan", "--rescan", made.bucket)
        before = gets(made)
        assert made.run("migrate", made.bucket).code == 5 and gets(made) == before
        for key, body in bodies.items():
            assert (made.home / "bucket" / key).read_bytes() == body
        made.done("migrate", "--accept-changes", made.bucket)
        entries = superseded_evidence(made)
        assert {(made.home / str(entry["path"])).read_bytes() for entry in entries} == set(bodies.values())
        made.done("verify", "--offline", made.bucket)


def reset_token(made: World) -> str:
    return str(json.loads(made.done("reset", "--dry-run", "--json", made.bucket).out)["token"])


@pytest.mark.parametrize("n", [4, 8, 12, 16])
def test_originals_survive_a_kill(encrypted: World, n: int) -> None:
    encrypted.done("scan", "--rescan", encrypted.bucket)
    assert encrypted.run("migrate", encrypted.bucket, fault=Fault("commit", n, "kill-after")).fired
    encrypted.nothing_is_lost()
    encrypted.done("migrate", encrypted.bucket)
    assert_originals_are_kept(encrypted)


def test_folder_of_an_object_that_is_gone_is_checked_as_a_folder(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote) as made:
        for key in ("overwritten/", "removed/"):
            made.put(key, b"")
        made.done("migrate", made.bucket)
        made.server.put(made.bucket, "overwritten/", b"not empty any more")
        made.server.remove(made.bucket, "removed/")
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", made.bucket)
        made.done("verify", "--offline", made.bucket)
        (made.home / "bucket/removed").rmdir()
        assert made.run("verify", "--offline", made.bucket).code == 4
