"""What lies beside the bytes comes home too, and the bucket's own settings, before anything is deleted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import Run, identities, in_s3, query
from tests.fakes.s3server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*", "Sid": "S"}
    ],
}


def entries(home: Path, bucket: str) -> dict[tuple[str, str], dict[str, Any]]:
    lines = (home / ".migrate-v2" / bucket / "metadata.jsonl").read_text("ascii").splitlines()
    return {(e["key"], e["version_id"]): e for e in map(json.loads, lines)}


def test_all_of_it_comes_home(run: Run, boto: S3Client, bucket: str, home: Path, state: Path) -> None:
    boto.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    boto.put_bucket_policy(Bucket=bucket, Policy=json.dumps(POLICY))
    boto.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "team", "Value": "x"}]})
    rich: dict[str, Any] = {
        "ContentType": "image/x-odd",
        "CacheControl": "no-store",
        "Metadata": {"camera": "one"},
        "StorageClass": "STANDARD_IA",
    }
    boto.put_object(Bucket=bucket, Key="photo.jpg", Body=b"first", Tagging="kind=old&of=it", **rich)
    boto.put_object(Bucket=bucket, Key="photo.jpg", Body=b"second")
    for key in ("folder/", "x//y", "日本"):
        boto.put_object(Bucket=bucket, Key=key, Body=b"" if key.endswith("/") else key.encode())
    boto.put_object_annotation(Bucket=bucket, Key="x//y", AnnotationName="note", AnnotationPayload="ünder".encode())

    assert run("migrate", bucket).returncode == 0
    found = entries(home, bucket)
    assert sorted(found) == in_s3(boto, bucket)
    (old,) = [e for e in found.values() if e["head"]["ContentLength"] == 5]
    assert {name: old["head"][name] for name in rich} == rich
    assert old["tags"] == {"kind": "old", "of": "it"}
    for e in found.values():
        assert (home / e["path"]).exists()
    kept = json.loads((home / ".migrate-v2" / bucket / "bucket.json").read_text("ascii"))
    assert (kept["policy"], kept["versioning"]) == (POLICY, {"Status": "Enabled"})
    assert kept["tagging"] == {"TagSet": [{"Key": "team", "Value": "x"}]} and kept["website"] is None
    before = identities(home)
    assert run("migrate", bucket).returncode == 0
    assert identities(home) == before, "the second run asks and writes nothing"

    full: dict[str, str | None] = {"MIGRATE_V2_METADATA": "full"}
    planned = run("confirm-delete", "--dry-run", "--json", bucket, env=full)
    assert identities(home) == before
    boto.delete_bucket_policy(Bucket=bucket)
    token = json.loads(planned.stdout)["token"]
    ended = run("confirm-delete", f"--confirm={token}", bucket, env=full)
    assert (ended.returncode, in_s3(boto, bucket)) == (0, []), ended.stderr
    found = entries(home, bucket)
    assert len(found) == 5 and all(e["acl"]["Grants"] for e in found.values())
    (note,) = next(e["annotations"] for e in found.values() if e["key"] == "x//y")
    body = (home / note["path"]).read_bytes()
    assert (body, note["AnnotationName"]) == ("ünder".encode(), "note")
    assert note["sha256"] == hashlib.sha256(body).hexdigest()
    kept = json.loads((home / ".migrate-v2" / bucket / "bucket.json").read_text("ascii"))
    assert kept["policy"] is None, "as it was just before the first delete"
    assert query(state, "select count(*) from metadata") == [(5,)]


def test_nothing_goes_whose_metadata_could_not_be_asked_for(run: Run, home: Path, state: Path) -> None:
    bucket = "photos"
    with S3Server() as server:
        server.bucket(bucket)
        for key in ("answered", "silent"):
            server.put(bucket, key, key.encode())
        there: dict[str, str | None] = {**server.env(), "AWS_ENDPOINT_URL": server.url}
        assert run("migrate", bucket, env={**there, "MIGRATE_V2_METADATA": "none"}).returncode == 0
        assert not (home / ".migrate-v2" / bucket / "metadata.jsonl").exists()
        token = json.loads(run("confirm-delete", "--dry-run", "--json", bucket, env=there).stdout)["token"]
        fault = server.fault({"op": "HeadObject", "key": "silent"}, "garbage-200")
        ended = run("confirm-delete", f"--confirm={token}", bucket, env=there)
        assert (ended.returncode, "silent" in ended.stderr) == (1, True), ended.stderr
        assert len(server.versions(bucket)) == 2 and query(state, "select count(*) from deletions") == [(0,)]
        server.calm(fault)
        server.deny("s3:GetBucketPolicy")
        ended = run("confirm-delete", f"--confirm={token}", bucket, env=there)
        assert (ended.returncode, server.versions(bucket)) == (0, []), ended.stderr
        assert set(entries(home, bucket)) == {("answered", "null"), ("silent", "null")}
        assert "denied" in json.loads((home / ".migrate-v2" / bucket / "bucket.json").read_text())["policy"]
