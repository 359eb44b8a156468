"""The oracle lets good deletes pass in silence and sees every bad one."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from tests.fakes.oracle import Oracle, Passed, beside, in_state_file
from tests.fakes.s3server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BODY = b"the only bytes"


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.bucket("b")
        server.bucket("v", versioning="Enabled")
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for bucket in ("b", "v"):
        (tmp_path / bucket).mkdir()
    return tmp_path


@pytest.fixture
def oracle(server: S3Server, home: Path) -> Iterator[Oracle]:
    with Oracle(server.url, beside(home)) as oracle:
        yield oracle


def client(url: str) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="AKIAFAKEFAKEFAKEFAKE",
        aws_secret_access_key="-",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def boto(oracle: Oracle) -> S3Client:
    return client(oracle.url)


def saw(oracle: Oracle, *words: str) -> None:
    """Exactly so many violations, each with its word; they are taken off."""
    assert len(oracle.violations) == len(words), oracle.violations
    for word, violation in zip(words, oracle.violations, strict=True):
        assert word in violation
    with pytest.raises(AssertionError, match="the oracle saw"):
        oracle.verdict()
    oracle.violations.clear()


def test_everything_passes_as_it_is(server: S3Server, oracle: Oracle, boto: S3Client) -> None:
    body = os.urandom(3 << 20)
    for key in ("plain", "a//b", "../x", "new\nline", "\x01", "smile \U0001f600", "a b+c%20"):
        boto.put_object(Bucket="b", Key=key, Body=body)
        assert boto.get_object(Bucket="b", Key=key)["Body"].read() == body
        assert boto.head_object(Bucket="b", Key=key)["ContentLength"] == len(body)
        held = server.get("b", key)
        assert held and held.body == body
    assert boto.get_object(Bucket="b", Key="plain", Range="bytes=5-9")["Body"].read() == body[5:10]
    assert {entry["Key"] for entry in boto.list_objects_v2(Bucket="b")["Contents"]} >= {"plain", "a//b"}
    with pytest.raises(ClientError, match="404"):
        boto.head_object(Bucket="b", Key="no such")
    assert oracle.count("PutObject") == oracle.count("HeadObject") - 1 == 7
    last = oracle.passed[-1]
    assert isinstance(last, Passed) and (last.op, last.key, last.status) == ("HeadObject", "no such", 404)
    assert "Boto3" in last.agent


def test_a_good_delete_is_counted(server: S3Server, oracle: Oracle, boto: S3Client, home: Path) -> None:
    etag = server.put("b", "k", BODY).etag
    old = server.put("v", "k", b"older").version_id
    new = server.put("v", "k", b"newer").version_id
    (home / "b" / "k").write_bytes(BODY)
    (home / "v" / "k").write_bytes(b"newer")
    (home / ".migrate-v2/v").mkdir(parents=True)
    (home / ".migrate-v2/v/old").write_bytes(b"older")
    (home / ".migrate-v2/v/map.jsonl").write_text(
        f'{{"path": ".migrate-v2/v/old", "key": "k", "version_id": "{old}"}}\n'
    )
    server.put("b", "folder/", b"")
    (home / "b/folder").mkdir()
    boto.delete_object(Bucket="b", Key="k", IfMatch=f'"{etag}"')
    boto.delete_object(Bucket="b", Key="folder/", IfMatch='"d41d8cd98f00b204e9800998ecf8427e"')
    boto.delete_objects(
        Bucket="v", Delete={"Objects": [{"Key": "k", "VersionId": old}, {"Key": "k", "VersionId": new}]}
    )
    assert (oracle.checked, oracle.violations) == (4, [])
    assert server.versions("b") == server.versions("v") == []


def test_a_canary_and_what_is_gone_already_are_nothing(server: S3Server, oracle: Oracle, boto: S3Client) -> None:
    with pytest.raises(ClientError, match=r"404|NoSuchKey"):
        boto.delete_object(Bucket="b", Key=".canary", IfMatch='"0"')
    version = server.put("v", "gone", BODY).version_id
    server.remove("v", "gone")
    boto.delete_object(Bucket="v", Key="gone", VersionId=version)
    assert (oracle.checked, oracle.violations) == (0, [])


@pytest.mark.parametrize("harm", ["other", "shorter", "missing", "link", "folder", "unreadable place"])
def test_a_copy_that_is_none(server: S3Server, oracle: Oracle, boto: S3Client, home: Path, harm: str) -> None:
    etag = server.put("b", "k", BODY).etag
    copy = home / "b" / "k"
    if harm == "other":
        copy.write_bytes(BODY[:-1] + b"!")
    elif harm == "shorter":
        copy.write_bytes(BODY[:-1])
    elif harm == "link":
        (home / "real").write_bytes(BODY)
        copy.symlink_to(home / "real")
    elif harm == "folder":
        copy.mkdir()
    elif harm == "unreadable place":
        (home / "b").rmdir()
        (home / "b").write_bytes(BODY)
    boto.delete_object(Bucket="b", Key="k", IfMatch=f'"{etag}"')
    saw(oracle, "holds other" if harm in ("other", "shorter") else "its copy")
    assert oracle.checked == 0


def test_one_bad_key_in_a_batch(server: S3Server, oracle: Oracle, boto: S3Client, home: Path) -> None:
    versions = [server.put("v", f"{n}", b"%d" % n).version_id for n in range(20)]
    for n in range(20):
        (home / "v" / f"{n}").write_bytes(b"%d" % n if n != 13 else b"14")
    doomed = [{"Key": f"{n}", "VersionId": version} for n, version in enumerate(versions)]
    boto.delete_objects(Bucket="v", Delete={"Objects": doomed})  # type: ignore[typeddict-item]
    saw(oracle, "'13'")
    assert oracle.checked == 19


def test_a_delete_without_identity(server: S3Server, oracle: Oracle, boto: S3Client, home: Path) -> None:
    for bucket in ("b", "v"):
        server.put(bucket, "k", BODY)
        (home / bucket / "k").write_bytes(BODY)
    boto.delete_object(Bucket="b", Key="k")
    saw(oracle, "without identity")
    boto.delete_objects(Bucket="v", Delete={"Objects": [{"Key": "k"}]})
    saw(oracle, "without identity")


def test_a_server_that_ignores_if_match(server: S3Server, oracle: Oracle, boto: S3Client, home: Path) -> None:
    server.honours_if_match = False
    server.put("b", "k", BODY)
    (home / "b" / "k").write_bytes(BODY)
    boto.delete_object(Bucket="b", Key="k", IfMatch='"00000000000000000000000000000000"')
    saw(oracle, "did not match")


def test_an_if_match_that_is_answered_with_412_is_none_of_its_business(
    server: S3Server, oracle: Oracle, boto: S3Client
) -> None:
    server.put("b", "k", BODY)  # with no copy at all
    with pytest.raises(ClientError, match=r"412|PreconditionFailed"):
        boto.delete_object(Bucket="b", Key="k", IfMatch='"00000000000000000000000000000000"')
    assert oracle.violations == []


def test_a_delete_marker_goes_only_when_no_version_is_beneath_it(
    server: S3Server, oracle: Oracle, boto: S3Client, home: Path
) -> None:
    data = server.put("v", "k", BODY).version_id
    (home / "v" / "k").write_bytes(BODY)
    direct = client(server.url)
    first, second = (direct.delete_object(Bucket="v", Key="k")["VersionId"] for _ in range(2))
    boto.delete_object(Bucket="v", Key="k", VersionId=second)
    saw(oracle, "lies above 1 data")
    boto.delete_object(Bucket="v", Key="k", VersionId=data)
    boto.delete_objects(Bucket="v", Delete={"Objects": [{"Key": "k", "VersionId": first}]})
    assert (oracle.checked, oracle.markers, oracle.violations) == (1, 2, [])
    # A version that was put on top of a marker does not lie beneath it.
    third = client(server.url).delete_object(Bucket="v", Key="k")["VersionId"]
    server.put("v", "k", b"on top")
    boto.delete_object(Bucket="v", Key="k", VersionId=third)
    assert oracle.violations == []


def test_what_the_plan_or_the_ledger_does_not_know(server: S3Server, home: Path, tmp_path: Path) -> None:
    version = server.put("v", "k", BODY).version_id
    (home / "v" / "k").write_bytes(BODY)
    plan = {("v", "other", version)}
    oracle = Oracle(
        server.url,
        beside(home),
        may_go=lambda *name: name in plan,
        announced=lambda *name: False,
    )
    client(oracle.url).delete_object(Bucket="v", Key="k", VersionId=version)
    oracle.stop()
    saw(oracle, "not to be deleted at all", "before the state file says so")


def test_the_ledger_is_read_as_others_see_it(tmp_path: Path) -> None:
    state = tmp_path / "s.db"
    connection = sqlite3.connect(state, isolation_level=None)
    connection.execute("CREATE TABLE ledger (seq INTEGER PRIMARY KEY, bucket, entry, key, version_id, intent)")
    announced = in_state_file(state)
    connection.execute("BEGIN")
    connection.execute("INSERT INTO ledger VALUES (1, 'b', 'intent', 'k', 'null', NULL)")
    assert not announced("b", "k", "null"), "not committed"
    connection.execute("COMMIT")
    assert announced("b", "k", "null")
    connection.execute("INSERT INTO ledger VALUES (2, 'b', 'outcome', 'k', 'null', 1)")
    assert not announced("b", "k", "null"), "that one was carried out already"
    connection.close()


def test_what_deletes_in_other_words(server: S3Server, oracle: Oracle, boto: S3Client, home: Path) -> None:
    server.put("b", "k", BODY)
    boto.delete_object_tagging(Bucket="b", Key="k")
    saw(oracle, "something else")
    upload = boto.create_multipart_upload(Bucket="b", Key="u")["UploadId"]
    boto.abort_multipart_upload(Bucket="b", Key="u", UploadId=upload)
    saw(oracle, "upload")
    oracle.uploads_may_go = True
    upload = boto.create_multipart_upload(Bucket="b", Key="u")["UploadId"]
    boto.abort_multipart_upload(Bucket="b", Key="u", UploadId=upload)
    assert oracle.violations == []


def test_what_cannot_be_asked_is_no_leave(server: S3Server, oracle: Oracle, boto: S3Client, home: Path) -> None:
    version = server.put("v", "k", BODY).version_id
    (home / "v" / "k").write_bytes(BODY)
    server.fault({"op": "GetObject"}, "500")
    boto.delete_object(Bucket="v", Key="k", VersionId=version)
    saw(oracle, "not given")


def test_what_is_in_glacier_again_is_compared_by_its_etag(
    server: S3Server, oracle: Oracle, boto: S3Client, home: Path
) -> None:
    for key in ("same", "other"):
        server.put("v", key, BODY, storage_class="GLACIER")
        (home / "v" / key).write_bytes(BODY if key == "same" else b"no" + BODY[2:])
    for version in server.versions("v"):
        boto.delete_object(Bucket="v", Key=version.key, VersionId=version.version_id)
    saw(oracle, "'other'")
    assert oracle.checked == 1


def test_a_server_that_breaks_off_is_passed_on_as_such(server: S3Server, oracle: Oracle, boto: S3Client) -> None:
    server.put("b", "k", bytes(200_000))
    for fault in ("reset-before", "lost-reply", "truncate"):
        planted = server.fault({"op": "GetObject"}, fault, times=1)  # type: ignore[arg-type]
        with pytest.raises((HTTPClientError, Exception)):
            boto.get_object(Bucket="b", Key="k")["Body"].read()
        assert planted.hits == 1
    assert boto.get_object(Bucket="b", Key="k")["Body"].read() == bytes(200_000)
    with socket.create_connection(("127.0.0.1", int(oracle.url.rpartition(":")[2]))) as sock:
        sock.sendall(b"GET /b HTTP/1.1\r\nHost: x\r\n")  # a client that breaks off
    assert oracle.violations == []
