"""P4 and P1 from the other side: what was deleted from S3 is on this disk only, and nothing ever writes over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from migrate_v2.edges.store import Store
from migrate_v2.model import doomed
from tests.conftest import Run, fill, in_s3, phase, query, sha256, states, tree

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def confirm(run: Run, bucket: str, *more: str) -> None:
    token = json.loads(run("confirm-delete", bucket, "--dry-run", "--json").stdout)["token"]
    ended = run("confirm-delete", bucket, f"--confirm={token}", *more)
    assert ended.returncode == 0, ended.stderr


def holds(home: Path, *bodies: bytes) -> None:
    """Each of these is in one file at least, and the manifest that sha256sum checks lists it."""
    contents = tree(home)
    for body in bodies:
        assert body in contents.values(), f"{body!r} is lost"
    listed = "".join(path.read_text() for path in (home / ".migrate-v2").glob("*/manifest-sha256.txt"))
    for body in bodies:
        assert sha256(body) in listed


def test_keys_that_are_used_again_and_again(run: Run, boto: S3Client, bucket: str, home: Path) -> None:
    bodies: list[bytes] = []
    for number in range(3):
        put = {key: f"{key} {number}".encode() for key in ("plain.txt", "x//y")}
        fill(boto, bucket, put)
        bodies += put.values()
        if number:
            assert run("scan", "--rescan", bucket).returncode == 0
        assert run("migrate", bucket).returncode == 0
        confirm(run, bucket)
        assert in_s3(boto, bucket) == []
        holds(home, *bodies)
    assert run("verify", bucket).returncode == 0


def test_another_state_file_is_refused_and_the_old_one_goes_on(
    run: Run, boto: S3Client, bucket: str, home: Path, tmp_path: Path
) -> None:
    fill(boto, bucket, {"a": b"the old one", "stays": b"x"})
    assert run("migrate", bucket).returncode == 0
    backup = (tmp_path / "state.db").read_bytes()
    confirm(run, bucket)
    fill(boto, bucket, {"a": b"the new one"})
    fresh = run("migrate", bucket, "--state", tmp_path / "fresh.db")
    assert fresh.returncode == 5
    assert "only copies" in fresh.stderr
    (tmp_path / "older.db").write_bytes(backup)
    assert run("migrate", bucket, "--state", tmp_path / "older.db").returncode == 5
    holds(home, b"the old one")
    assert run("scan", "--rescan", bucket).returncode == 0
    assert run("migrate", bucket).returncode == 0
    holds(home, b"the old one", b"the new one")


def test_an_interrupted_delete_is_settled_before_anything_is_fetched(
    run: Run, boto: S3Client, bucket: str, home: Path, state: Path
) -> None:
    """The process died after S3 had deleted and before it could write so; somebody puts the key again."""
    fill(boto, bucket, {"a.txt": b"the only copy"})
    assert run("migrate", bucket).returncode == 0
    with Store.open(state) as store:
        store.ledger.intend(bucket, [doomed(row) for row in store.verified(bucket)], "t")
    boto.delete_object(Bucket=bucket, Key="a.txt")
    fill(boto, bucket, {"a.txt": b"something new", "b.txt": b"b"})
    for command in (("migrate", bucket), ("scan", "--rescan", bucket), ("migrate", bucket)):
        assert run(*command).returncode == 0
        assert b"the only copy" in tree(home).values()
    holds(home, b"the only copy", b"something new", b"b")
    assert states(state, bucket) == {"deleted": 1, "verified": 2}


def test_what_others_delete_in_s3_is_kept_here(run: Run, boto: S3Client, bucket: str, home: Path) -> None:
    fill(boto, bucket, {"a": b"gone from S3", "b": b"b"})
    assert run("migrate", bucket).returncode == 0
    boto.delete_object(Bucket=bucket, Key="a")
    assert run("scan", "--rescan", bucket).returncode == 0
    assert run("migrate", bucket).returncode == 0
    fill(boto, bucket, {"a": b"put by others"})
    assert run("scan", "--rescan", bucket).returncode == 0
    assert run("migrate", bucket).returncode == 0
    assert {b"gone from S3", b"put by others", b"b"} <= set(tree(home).values())


def test_the_bucket_itself_goes_only_with_consent(run: Run, boto: S3Client, bucket: str, home: Path) -> None:
    fill(boto, bucket, {"a": b"a"})
    assert run("migrate", bucket).returncode == 0
    assert run("confirm-delete", bucket, "--confirm=nonsense", "--remove-bucket").returncode == 5
    assert run("confirm-delete", bucket, "--remove-bucket").returncode == 5
    assert [b["Name"] for b in boto.list_buckets()["Buckets"]] == [bucket]
    confirm(run, bucket, "--remove-bucket")
    assert boto.list_buckets()["Buckets"] == []
    assert run("verify", bucket).returncode == 0  # the copies outlive the bucket
    (home / bucket / "a").write_bytes(b"b")
    assert run("verify", bucket).returncode == 4


def test_p7_there_is_a_manifest_before_anything_goes(
    run: Run, boto: S3Client, bucket: str, home: Path, state: Path
) -> None:
    """Also of a bucket of which not all could be fetched."""
    fill(boto, bucket, {"good": b"good", "bad": b"bad"})
    assert run("scan", bucket).returncode == 0
    (home / bucket / "bad").mkdir(parents=True)
    home.chmod(0o700)
    assert run("migrate", bucket).returncode == 1
    assert phase(state, bucket) == "syncing"
    confirm(run, bucket)
    holds(home, b"good")
    assert [key for key, _ in in_s3(boto, bucket)] == ["bad"]


def test_a_suspended_bucket_completes_with_its_null_marker_kept(
    run: Run, boto: S3Client, bucket: str, state: Path
) -> None:
    fill(boto, bucket, {"a": b"null version"})
    for status in ("Enabled", "Suspended"):
        boto.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
    assert run("migrate", bucket).returncode == 0
    confirm(run, bucket)
    assert phase(state, bucket) == "complete"
    assert query(state, "select count(*) from delete_markers where state = 'listed'") == [(len(in_s3(boto, bucket)),)]


def test_files_that_are_not_ours_stay(run: Run, boto: S3Client, bucket: str, home: Path) -> None:
    (home / bucket).mkdir(parents=True)
    home.chmod(0o700)
    mine = home / bucket / "backup.0a1b2c3d"  # named like a temporary file of the CLI
    mine.write_bytes(b"mine")
    fill(boto, bucket, {"a": b"a"})
    assert run("migrate", bucket).returncode == 0
    assert mine.read_bytes() == b"mine"
