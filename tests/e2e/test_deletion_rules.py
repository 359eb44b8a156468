"""What confirm-delete leaves in S3, and in which order it deletes the rest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from migrate_v2.model import uptime
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


# The id `null` soon after versioning was turned on


@pytest.fixture
def unversioned(tmp_path: Path, zygote: Zygote) -> Iterator[World]:
    with world(tmp_path, zygote) as made:
        yield made


SETTLED = {"VERSIONING_SETTLES": "0"}


def test_null_versions_stay_until_versioning_has_settled(unversioned: World) -> None:
    made = unversioned
    made.put("before", b"1")
    made.put("both", b"2")
    made.done("migrate", made.bucket)
    made.server.bucket(made.bucket, versioning="Enabled")
    made.put("both", b"3")
    made.done("scan", "--rescan", made.bucket)
    made.done("migrate", made.bucket)
    # By S3's clock long ago, by this machine's a few seconds.
    made.server.advance(7200)
    document = plan(made)
    found = {key: cause for (key, version_id), cause in causes(document).items()}
    assert sorted(causes(document).values()) == ["older_version_stays", "versioning_new", "versioning_new"]
    assert found["before"] == "versioning_new" and document["delete"]["objects"] == 0
    assert made.run("confirm-delete", f"--confirm={document['token']}", made.bucket).code == 5
    assert made.server.deletes == []
    document = plan(made, env=SETTLED)
    assert (document["keep"], document["delete"]["objects"]) == ([], 3)
    made.done("confirm-delete", f"--confirm={document['token']}", made.bucket, env=SETTLED)
    assert made.server.versions(made.bucket) == []


@pytest.mark.parametrize("change", ["restart", "server clock", "suspended meanwhile"])
def test_versioning_is_not_settled_by_one_clock_alone(unversioned: World, change: str) -> None:
    made = unversioned
    made.put("k", b"1")
    made.server.bucket(made.bucket, versioning="Enabled")
    made.done("migrate", made.bucket)
    hour = {"VERSIONING_SETTLES": "3600"}

    def first_seen(**columns: Any) -> None:
        sets = ", ".join(f"{name} = ?" for name in columns)
        with closing(sqlite3.connect(made.state)) as state, state:
            state.execute(f"UPDATE bucket_status SET {sets}", tuple(columns.values()))

    before = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    first_seen(enabled_date=before, enabled_uptime=uptime() - 7200)
    if change == "restart":
        first_seen(enabled_boot="another start of the machine")
    elif change == "server clock":
        made.server.advance(-5400)
    else:
        made.server.bucket(made.bucket, versioning="Suspended")
        made.done("scan", "--rescan", made.bucket)
        made.server.bucket(made.bucket, versioning="Enabled")
    assert causes(plan(made, env=hour)) == {("k", "null"): "versioning_new"}


def test_versioning_has_settled_once_both_clocks_say_so(unversioned: World) -> None:
    made = unversioned
    made.put("k", b"1")
    made.server.bucket(made.bucket, versioning="Enabled")
    made.done("migrate", made.bucket)
    two_hours_later(made)
    document = plan(made)
    assert document["keep"] == [] and document["delete"]["objects"] == 1


def two_hours_later(made: World) -> None:
    made.server.advance(7200)
    with closing(sqlite3.connect(made.state)) as state, state:
        state.execute("UPDATE bucket_status SET enabled_uptime = enabled_uptime - 7200")


def test_versioning_that_settles_during_the_listing_has_not_settled(unversioned: World) -> None:
    """A PUT may take the id `null` over after the page with its key was listed."""
    made = unversioned
    made.put("k", b"1")
    made.server.bucket(made.bucket, versioning="Enabled")
    made.done("migrate", made.bucket)
    made.server.fault({"op": "ListObjectVersions"}, lambda _: two_hours_later(made), times=1)
    assert causes(plan(made)) == {("k", "null"): "versioning_new"}
    assert causes(plan(made)) == {}


@pytest.mark.parametrize("by", ["put", "delete"])
def test_an_id_null_taken_after_versioning_was_seen_starts_the_wait_again(unversioned: World, by: str) -> None:
    """Versioning was suspended and enabled again between two listings."""
    made = unversioned
    made.put("k", b"1")
    made.put("other", b"2")
    made.server.bucket(made.bucket, versioning="Enabled")
    made.done("migrate", made.bucket)
    two_hours_later(made)
    made.server.bucket(made.bucket, versioning="Suspended")
    if by == "put":
        made.put("new", b"3")
    else:
        client(made).delete_object(Bucket=made.bucket, Key="new")
    made.server.bucket(made.bucket, versioning="Enabled")
    made.done("scan", "--rescan", made.bucket)
    made.done("migrate", made.bucket)
    found = causes(plan(made))
    assert found[("k", "null")] == found[("other", "null")] == found[("new", "null")] == "versioning_new"
    assert set(causes(plan(made)).values()) == {"versioning_new"}
    two_hours_later(made)
    assert causes(plan(made)) == {}


# Uploads


def test_abort_uploads_leaves_recent_uploads_alone(unversioned: World) -> None:
    made = unversioned
    made.oracle.uploads_may_go = True
    s3 = client(made)
    made.put("k", b"1")
    made.done("migrate", made.bucket)
    old = s3.create_multipart_upload(Bucket=made.bucket, Key="old")["UploadId"]
    made.server.advance(86400 + 60)
    assert plan(made, "--abort-uploads")["abort_uploads"] == 0, "old by S3's clock alone"
    made.server.advance(-86400 - 60)
    made.server.buckets[made.bucket].uploads[old].initiated -= 86400 + 60
    young = s3.create_multipart_upload(Bucket=made.bucket, Key="young")["UploadId"]
    document = plan(made, "--abort-uploads")
    assert document["abort_uploads"] == 1
    found = {upload["upload_id"]: (upload["abort"], upload["cause"]) for upload in document["uploads"]}
    assert found == {old: (True, None), young: (False, "upload_recent")}
    made.done("confirm-delete", "--abort-uploads", f"--confirm={document['token']}", made.bucket)
    assert set(made.server.buckets[made.bucket].uploads) == {young}
    made.server.buckets[made.bucket].uploads[young].initiated -= 60
    document = plan(made, "--abort-uploads", "--upload-age=30s")
    made.done("confirm-delete", "--abort-uploads", "--upload-age=30s", f"--confirm={document['token']}", made.bucket)
    assert made.server.buckets[made.bucket].uploads == {}


def test_abort_uploads_is_refused_where_s3_tells_no_time(unversioned: World) -> None:
    made = unversioned
    made.put("k", b"1")
    made.done("migrate", made.bucket)
    client(made).create_multipart_upload(Bucket=made.bucket, Key="upload")
    made.server.sends_date = False
    ran = made.run("confirm-delete", "--dry-run", "--abort-uploads", "--upload-age=1s", made.bucket)
    assert ran.code == 5 and len(made.server.buckets[made.bucket].uploads) == 1


# Locks


def test_plan_names_the_permission_without_which_locks_are_not_seen(versioned: World) -> None:
    made = versioned
    four_keys(made)
    made.done("migrate", made.bucket)
    denied = [made.server.deny("s3:GetObjectRetention"), made.server.deny("s3:GetObjectLegalHold")]
    shown = json.loads(made.done("plan", "--json", made.bucket).out)
    (found,) = [obstacle for obstacle in shown["obstacles"] if obstacle["kind"] == "lock-permissions"]
    assert found["severity"] == "stops"
    assert "s3:GetObjectRetention" in found["text"] and "s3:GetObjectLegalHold" in found["text"]
    document = plan(made)
    assert document["delete"]["objects"] == 0
    assert set(causes(document).values()) == {"lock_unknown", "no_checksum", "versions_stay"}
    for one in denied:
        made.server.allow(one)
    shown = json.loads(made.done("plan", "--json", made.bucket).out)
    assert "lock-permissions" not in {obstacle["kind"] for obstacle in shown["obstacles"]}


# Tags


def recorded_tags(made: World) -> dict[str, Any]:
    lines = (made.home / ".migrate-v2" / made.bucket / "metadata.jsonl").read_text().splitlines()
    return {entry["key"]: entry.get("tags") for entry in map(json.loads, lines)}


def tag(made: World, key: str, **tags: str) -> None:
    entries = [{"Key": name, "Value": value} for name, value in tags.items()]
    client(made).put_object_tagging(Bucket=made.bucket, Key=key, Tagging={"TagSet": entries})


def test_tags_that_changed_after_migrate_are_recorded_before_the_delete(unversioned: World) -> None:
    made = unversioned
    for key in ("changed", "removed", "same", "untagged"):
        made.put(key, key.encode())
        if key != "untagged":
            tag(made, key, owner="first")
    made.done("migrate", made.bucket)
    document = plan(made)
    assert document["tags"] == {"asked_again": 3, "not_asked_again": 1}
    tag(made, "changed", owner="second", project="x")
    client(made).delete_object_tagging(Bucket=made.bucket, Key="removed")
    made.done("confirm-delete", f"--confirm={document['token']}", made.bucket)
    assert made.server.versions(made.bucket) == []
    found = recorded_tags(made)
    assert found["changed"] == {"owner": "second", "project": "x"}
    assert found["same"] == {"owner": "first"} and not found["removed"]


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_tags_that_change_during_the_deletion_stop_it_until_they_are_recorded(
    unversioned: World, versioning: Any
) -> None:
    made = unversioned
    made.put("k", b"1")
    if not versioning:
        tag(made, "k", owner="first")
    made.done("migrate", made.bucket)
    made.server.bucket(made.bucket, versioning=versioning or None)
    made.done("scan", "--rescan", made.bucket)
    document = plan(made, env=SETTLED)
    # In the HEAD of the batch where nothing was recorded, else in the second question, of the batch.
    one = {"op": "HeadObject"} if versioning else {"op": "GetObjectTagging"}
    seen: list[str] = []

    def change(request: Any) -> None:
        seen.append(request.op)
        if versioning or len(seen) == 2:
            stored(made, "k").tags = {"owner": "last"}

    made.server.fault({**one, "key": "k"}, change)
    confirm = ("confirm-delete", f"--confirm={document['token']}", made.bucket)
    assert made.run(*confirm, env=SETTLED).code == 3
    assert len(made.server.versions(made.bucket)) == 1
    made.done(*confirm, env=SETTLED)
    assert made.server.versions(made.bucket) == []
    assert recorded_tags(made) == {"k": {"owner": "last"}}


def test_an_object_whose_tags_s3_does_not_give_any_more_stays(unversioned: World) -> None:
    made = unversioned
    made.put("k", b"1")
    tag(made, "k", owner="first")
    made.done("migrate", made.bucket)
    document = plan(made)
    denied = made.server.deny("s3:GetObjectTagging")
    assert made.run("confirm-delete", f"--confirm={document['token']}", made.bucket).code == 1
    assert len(made.server.versions(made.bucket)) == 1
    made.server.allow(denied)
    made.done("confirm-delete", f"--confirm={document['token']}", made.bucket)
    assert recorded_tags(made) == {"k": {"owner": "first"}}


# If-Match


def test_an_endpoint_that_honours_if_match_for_missing_keys_only_is_refused(unversioned: World) -> None:
    made = unversioned
    past_the_oracle = {"AWS_ENDPOINT_URL": made.server.url}
    bodies = {f"k{number}": bytes(number) for number in range(1, 6)}
    for key, body in bodies.items():
        made.put(key, body)
    made.server.honours_if_match = "missing keys"
    made.done("migrate", made.bucket, env=past_the_oracle)
    document = plan(made, env=past_the_oracle)
    assert document["canary"] is True
    for _ in range(2):
        ended = made.run("confirm-delete", f"--confirm={document['token']}", made.bucket, env=past_the_oracle)
        assert ended.code == 5
        # At most the smallest object is gone, which was proved before; its copy is here and recorded as the only one.
        assert made.server.deletes == [(made.bucket, "k1", "null")]
        assert (made.home / made.bucket / "k1").read_bytes() == bodies["k1"]
        with closing(sqlite3.connect(made.state)) as state:
            assert state.execute("SELECT key FROM files WHERE state = 'deleted'").fetchall() == [("k1",)]
            assert state.execute("SELECT key, kind FROM deletions").fetchall() == [("k1", "canary")]


def test_a_canary_leaves_no_trace_at_an_honest_endpoint(unversioned: World) -> None:
    made = unversioned
    for number in range(1, 4):
        made.put(f"k{number}", bytes(number))
    made.done("migrate", made.bucket)
    made.done("confirm-delete", made.token(), made.bucket)
    assert made.server.versions(made.bucket) == []
    with closing(sqlite3.connect(made.state)) as state:
        kinds = state.execute("SELECT kind, count(*) FROM deletions GROUP BY kind").fetchall()
    assert kinds == [("version", 3)]


# A plan that changes


def test_p3_a_plan_that_changes_while_the_copies_are_read_deletes_nothing(unversioned: World) -> None:
    """A copy is not what was proved, and S3 gives no answer about its object."""
    made = unversioned
    made.put("edited", b"1")
    made.put("k", b"2")
    made.done("migrate", made.bucket)
    document = plan(made)
    (made.home / made.bucket / "edited").write_bytes(b"?")
    made.server.fault({"op": "HeadObject", "key": "edited"}, "500")
    assert made.run("confirm-delete", f"--confirm={document['token']}", made.bucket).code == 5
    assert made.server.deletes == []


def test_p3_versioning_that_changes_during_the_listing_makes_no_plan(unversioned: World) -> None:
    """The listing was read by the state that was there before: `null` means another thing now."""
    made = unversioned
    made.put("k", b"1")
    made.done("migrate", made.bucket)
    lists = ("ListObjects", "ListObjectsV2", "ListObjectVersions")
    made.server.fault({"op": lists}, lambda _: made.server.bucket(made.bucket, versioning="Suspended"))
    ran = made.run("confirm-delete", "--dry-run", "--json", made.bucket)
    assert ran.code == 5 and not ran.out


def test_a_restart_of_the_machine_starts_the_wait_again_once(unversioned: World) -> None:
    made = unversioned
    made.put("k", b"1")
    made.server.bucket(made.bucket, versioning="Enabled")
    made.done("migrate", made.bucket)
    two_hours_later(made)
    with closing(sqlite3.connect(made.state)) as state, state:
        state.execute("UPDATE bucket_status SET enabled_boot = 'another start of the machine'")
    assert causes(plan(made)) == {("k", "null"): "versioning_new"}
    two_hours_later(made)
    assert causes(plan(made)) == {}
