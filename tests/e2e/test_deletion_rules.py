"""What confirm-delete leaves in S3, and in which order it deletes the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.e2e.world import World, Zygote, world
from tests.fakes.s3server import Version

OBJECT_LOCK = b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
KEYS = ("locked", "unproved", "free", "marked")


@pytest.fixture
def versioned(tmp_path: Path, zygote: Zygote) -> Iterator[World]:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        yield made


def plan(made: World, *options: str, **more: Any) -> dict[str, Any]:
    ran = made.done("confirm-delete", "--dry-run", "--json", *options, made.bucket, **more)
    document: dict[str, Any] = json.loads(ran.out)
    return document


def causes(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(entry["key"], entry["version_id"]): entry["cause"] for entry in document["keep"]}


def current(made: World) -> dict[str, bytes | None]:
    """What a GET without a version id returns; None for 404."""
    found = {key: made.server.get(made.bucket, key) for key in KEYS}
    return {key: None if v is None or v.is_marker else v.body for key, v in found.items()}


def four_keys(made: World) -> dict[str, str]:
    """Each with an old version and a newer one; the id of the old one by key."""
    bucket = made.server.buckets[made.bucket]
    bucket.object_lock, bucket.settings["object-lock"] = True, OBJECT_LOCK
    old = {}
    for key in KEYS:
        kms = {"etag": "kms", "checksums": ()} if key == "unproved" else {}
        made.put(key, b"old of %s" % key.encode(), **kms)
        (version,) = made.server.versions(made.bucket, key)
        old[key] = version.version_id
        made.put(key, b"new of %s" % key.encode())
    stored(made, "locked", old["locked"]).legal_hold = "ON"
    client(made).delete_object(Bucket=made.bucket, Key="marked")
    return old


def stored(made: World, key: str, version_id: str | None = None) -> Version:
    version = made.server.get(made.bucket, key, version_id)
    assert version is not None
    return version


def client(made: World) -> Any:
    """A client of somebody else."""
    return boto3.client(
        "s3",
        endpoint_url=made.server.url,
        region_name="us-east-1",
        aws_access_key_id="AKIAFAKEFAKEFAKEFAKE",
        aws_secret_access_key="-",
    )


def test_confirm_delete_makes_no_older_version_current(versioned: World) -> None:
    made, old = versioned, four_keys(versioned)
    made.done("migrate", made.bucket)
    before = current(made)
    document = plan(made)
    found = causes(document)
    assert found[("locked", old["locked"])] == "locked"
    assert found[("unproved", old["unproved"])] == "no_checksum"
    assert sorted(found.values()) == ["locked", "no_checksum", "older_version_stays", "older_version_stays"]
    made.done("confirm-delete", f"--confirm={document['token']}", made.bucket)
    assert {v.key for v in made.server.versions(made.bucket)} == {"locked", "unproved"}
    assert current(made) == {key: body if key in ("locked", "unproved") else None for key, body in before.items()}


def test_allow_older_current_is_part_of_the_token_and_of_the_consent(versioned: World) -> None:
    made, old = versioned, four_keys(versioned)
    made.done("migrate", made.bucket)
    document, allowed = plan(made), plan(made, "--allow-older-current")
    assert allowed["token"] != document["token"]
    token = f"--confirm={allowed['token']}"
    assert made.run("confirm-delete", token, made.bucket).code == 5, "the option belongs to the token"
    made.done("confirm-delete", "--allow-older-current", token, made.bucket)
    left = {(v.key, v.version_id) for v in made.server.versions(made.bucket)}
    assert left == {("locked", old["locked"]), ("unproved", old["unproved"])}
    lines = (made.home / ".migrate-v2" / made.bucket / "deletions.jsonl").read_text().splitlines()
    (consent,) = [entry for entry in map(json.loads, lines) if entry["entry"] == "consent"]
    assert consent["allow_older_current"] is True


@pytest.mark.parametrize("portion", [1, 2, 3, 4, 5])
def test_max_delete_leaves_the_current_version_until_the_older_ones_are_gone(versioned: World, portion: int) -> None:
    made = versioned
    for key in ("a", "b"):
        for number in range(3):
            made.put(key, b"%s %d" % (key.encode(), number))
    made.done("migrate", made.bucket)
    ended = made.run("confirm-delete", f"--max-delete={portion}", made.token(), made.bucket)
    assert ended.code == 3
    left = made.server.versions(made.bucket)
    assert len(left) == 6 - portion
    for key in {v.key for v in left}:
        assert (found := made.server.get(made.bucket, key)) and found.body == b"%s 2" % key.encode()


def test_noncurrent_keep_set_after_verification_keeps_old_versions(versioned: World) -> None:
    made = versioned
    made.put("k", b"old")
    (old,) = made.server.versions(made.bucket)
    made.put("k", b"new")
    made.put("single", b"1")
    made.done("migrate", made.bucket)
    keep = {"MIGRATE_V2_NONCURRENT": "keep"}
    document = plan(made, env=keep)
    assert causes(document)[("k", old.version_id)] == "noncurrent"
    assert document["delete"]["objects"] == 1
    made.done("confirm-delete", f"--confirm={document['token']}", made.bucket, env=keep)
    assert {v.key for v in made.server.versions(made.bucket)} == {"k"}
    # The evidence of the old version stays: without the setting it goes at once.
    assert plan(made)["delete"]["objects"] == 2
