"""The fake S3 does what S3 does, as its clients see it: boto3, the AWS CLI and plain HTTP."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, ReadTimeoutError

from tests.fakes import s3server
from tests.fakes.s3server import ACCOUNT, SSE_C_KEY, Delete, Request, Response, S3Server, digest, plain_crc

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SESSION = boto3.Session()
DAY = 86400
BOGUS = "0" * 32


def client(s3: S3Server, access_key: str = "AKIATEST", region: str = "us-east-1", **options: Any) -> S3Client:
    options = {"retries": {"total_max_attempts": 1}, "read_timeout": 5, **options}
    return SESSION.client(
        "s3",
        endpoint_url=s3.url,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key="not-a-secret",
        config=Config(s3={"addressing_style": "path"}, **options),
    )


@pytest.fixture
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        server.bucket("b")
        server.bucket("v", "Enabled")
        yield server


@pytest.fixture
def c(s3: S3Server) -> S3Client:
    return client(s3)


def refusal(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    """Status and code of the error that a call must end in."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response: Any = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def status(answer: Any) -> int:
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def crc64(data: bytes) -> str:
    return b64(digest("CRC64NVME", data))


def test_crcs_have_the_published_check_values() -> None:
    assert plain_crc(b"123456789", s3server.CRC32C_TABLE, 32) == 0xE3069283
    assert plain_crc(b"123456789", s3server.CRC64NVME_TABLE, 64) == 0xAE8B14860A799888


def test_crcs_are_the_same_with_and_without_awscrt(monkeypatch: pytest.MonkeyPatch) -> None:
    body = os.urandom(3000)
    fast = [digest(name, body) for name in s3server.ALGORITHMS]
    monkeypatch.setattr(s3server, "_crt", None)
    assert [digest(name, body) for name in s3server.ALGORITHMS] == fast


@pytest.mark.parametrize("name", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_put_keeps_the_checksum_that_came(s3: S3Server, c: S3Client, name: Any) -> None:
    c.put_object(Bucket="b", Key="k", Body=b"hello", ChecksumAlgorithm=name)
    head: Any = c.head_object(Bucket="b", Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{name}"] == b64(digest(name, b"hello"))
    assert head["ChecksumType"] == "FULL_OBJECT"
    assert not [field for field in c.head_object(Bucket="b", Key="k") if field.startswith("Checksum")]
    listed = c.list_objects_v2(Bucket="b")["Contents"][0]
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == ([name], "FULL_OBJECT")


def test_put_without_checksum_gets_crc64nvme(s3: S3Server) -> None:
    plain = client(s3, request_checksum_calculation="when_required")
    plain.put_object(Bucket="b", Key="k", Body=b"hello")
    assert plain.head_object(Bucket="b", Key="k", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == crc64(b"hello")


def test_wrong_checksums_are_refused(s3: S3Server, c: S3Client) -> None:
    assert refusal(c.put_object, Bucket="b", Key="k", Body=b"x", ChecksumCRC32="AAAAAA==") == (400, "BadDigest")
    assert refusal(c.put_object, Bucket="b", Key="k", Body=b"x", ContentMD5=b64(b"0" * 16)) == (400, "BadDigest")
    assert s3.versions("b") == []


def test_aws_chunked_bodies_are_decoded_and_trailers_read(s3: S3Server) -> None:
    payload = b"hello " * 3
    crc = b64(zlib.crc32(payload).to_bytes(4, "big"))
    body = b"5;chunk-signature=00\r\nhello\r\nd\r\n" + payload[5:] + b"\r\n0\r\n"
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(payload)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    for trailer, expected in ((crc, 200), ("AAAAAA==", 400)):
        wire = http.client.HTTPConnection("127.0.0.1", s3.port)
        wire.request("PUT", "/b/chunked", body + f"x-amz-checksum-crc32:{trailer}\r\n\r\n".encode(), headers)
        assert wire.getresponse().status == expected
        wire.close()
    stored = s3.get("b", "chunked")
    assert stored and stored.body == payload
    assert stored.checksums == {"CRC32": crc}
    assert "content-encoding" not in stored.headers


def test_a_stream_of_unknown_length_is_read(s3: S3Server) -> None:
    wire = http.client.HTTPConnection("127.0.0.1", s3.port)
    wire.request(
        "PUT", "/b/stream", iter([b"one ", b"two"]), encode_chunked=True, headers={"transfer-encoding": "chunked"}
    )
    assert wire.getresponse().status == 200
    wire.close()
    assert s3.versions("b")[0].body == b"one two"


ODD = [
    *(
        "a//b",
        "/lead",
        "//two",
        "a/../b",
        "../x",
        "..",
        ".",
        "a/./c",
        "dir/",
        "new\nline",
        "cr\rx",
        "tab\t",
        "\x01\x1b[31m",
    ),
    *(
        "pl+us",
        "per%cent",
        "per%25",
        "sp ace",
        "q?a=b&c",
        "ha#sh",
        "é",
        "e\u0301",
        "\U0001f600",
        "\u2028",
        "\uffee",
        "'\"<>&",
    ),
    "k" * 1024,
]


def test_odd_keys_survive_exactly(s3: S3Server, c: S3Client) -> None:
    for key in ODD:
        c.put_object(Bucket="b", Key=key, Body=key.encode())
    assert sorted(version.key for version in s3.versions("b")) == sorted(ODD)
    expected = sorted(ODD, key=str.encode)
    assert [one["Key"] for one in c.list_objects_v2(Bucket="b")["Contents"]] == expected
    assert [one["Key"] for one in c.list_object_versions(Bucket="b")["Versions"]] == expected
    for key in ODD:
        assert c.get_object(Bucket="b", Key=key)["Body"].read() == key.encode()
        c.delete_object(Bucket="b", Key=key)
    assert s3.versions("b") == []
    assert refusal(c.put_object, Bucket="b", Key="k" * 1025) == (400, "KeyTooLongError")


def test_control_characters_need_encoding_type_url(s3: S3Server) -> None:
    s3.put("b", "bell\x07 +/~")

    def listing(extra: str) -> bytes:
        wire = http.client.HTTPConnection("127.0.0.1", s3.port)
        wire.request("GET", f"/b?list-type=2{extra}")
        body = wire.getresponse().read()
        wire.close()
        return body

    assert b"<Key>bell&#x7; +/~</Key>" in listing("")  # what no XML 1.0 parser takes
    assert b"<Key>bell%07+%2B/~</Key>" in listing("&encoding-type=url")


def test_keys_that_are_not_utf8_are_refused(s3: S3Server) -> None:
    wire = http.client.HTTPConnection("127.0.0.1", s3.port)
    wire.request("GET", "/b/%ff%fe")
    answer = wire.getresponse()
    assert (answer.status, b"InvalidURI" in answer.read()) == (400, True)
    wire.close()


def test_list_objects_v2_pages_and_folds(s3: S3Server, c: S3Client) -> None:
    for key in ["a", "b/1", "b/2", "b/3", "c", "d/1", "d/e/2", "z"]:
        s3.put("b", key)
    s3.put("b", "ä")
    pages = list(
        c.get_paginator("list_objects_v2").paginate(Bucket="b", Delimiter="/", PaginationConfig={"PageSize": 2})
    )
    assert [one["Key"] for page in pages for one in page.get("Contents", ())] == ["a", "c", "z", "ä"]
    assert [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", ())] == ["b/", "d/"]
    assert [page["KeyCount"] for page in pages] == [2, 2, 2]
    assert [page["IsTruncated"] for page in pages] == [True, True, False]
    assert [one["Key"] for one in c.list_objects_v2(Bucket="b", Prefix="b/", StartAfter="b/1")["Contents"]] == [
        "b/2",
        "b/3",
    ]
    assert c.list_objects_v2(Bucket="b", Prefix="nothing")["KeyCount"] == 0
    assert "Owner" in c.list_objects_v2(Bucket="b", FetchOwner=True)["Contents"][0]
    assert refusal(c.list_objects_v2, Bucket="b", ContinuationToken="forged") == (400, "InvalidArgument")
    first = c.list_objects(Bucket="b", MaxKeys=3)
    assert [one["Key"] for one in first["Contents"]] == ["a", "b/1", "b/2"]
    assert [one["Key"] for one in c.list_objects(Bucket="b", Marker="b/2", MaxKeys=2)["Contents"]] == ["b/3", "c"]


def test_every_page_size_lists_the_same_versions(s3: S3Server, c: S3Client) -> None:
    for key in ["a", "b/1", "b/2", "c"]:
        for n in range(3):
            s3.put("v", key, b"%d" % n)
    c.delete_object(Bucket="v", Key="a")
    expected = [(version.key, version.version_id, version.is_latest) for version in s3.versions("v")]
    assert len(expected) == 13
    for size in range(1, 15):
        seen = []
        arguments: dict[str, Any] = {"Bucket": "v", "MaxKeys": size}
        while True:
            page: Any = c.list_object_versions(**arguments)
            both = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            assert len(both) <= size
            seen += both
            if not page["IsTruncated"]:
                break
            arguments.update(KeyMarker=page["NextKeyMarker"], VersionIdMarker=page["NextVersionIdMarker"])
        assert sorted((one["Key"], one["VersionId"], one["IsLatest"]) for one in seen) == sorted(expected)
    folded = c.list_object_versions(Bucket="v", Delimiter="/")
    assert [one["Prefix"] for one in folded["CommonPrefixes"]] == ["b/"]
    assert len(folded["Versions"]) == 6


def test_a_listing_goes_on_behind_a_version_deleted_meanwhile(s3: S3Server, c: S3Client) -> None:
    for n in range(4):
        s3.put("v", "k", b"%d" % n)
    page = c.list_object_versions(Bucket="v", MaxKeys=2)
    marker = page["NextVersionIdMarker"]
    c.delete_object(Bucket="v", Key="k", VersionId=marker)
    rest = c.list_object_versions(Bucket="v", KeyMarker="k", VersionIdMarker=marker)
    assert [one["VersionId"] for one in rest["Versions"]] == [one.version_id for one in s3.versions("v")[1:]]
    refused = refusal(c.list_object_versions, Bucket="v", KeyMarker="k", VersionIdMarker="x" * 32)
    assert refused == (400, "InvalidArgument")
    assert refusal(c.list_object_versions, Bucket="v", VersionIdMarker=marker) == (400, "InvalidArgument")


def test_listings_tell_whole_seconds_class_and_owner(s3: S3Server, c: S3Client) -> None:
    when = datetime(2019, 5, 4, 3, 2, 1, tzinfo=UTC)
    s3.put("b", "k", b"12345", storage_class="STANDARD_IA", last_modified=when)
    one = c.list_object_versions(Bucket="b")["Versions"][0]
    assert one["VersionId"] == "null"
    assert one["LastModified"] == when
    assert one["ETag"] == f'"{hashlib.md5(b"12345").hexdigest()}"'
    assert (one["Size"], one["StorageClass"], one["IsLatest"]) == (5, "STANDARD_IA", True)
    assert one["Owner"]["ID"]
    head = c.head_object(Bucket="b", Key="k")
    assert (head["LastModified"], head["StorageClass"]) == (when, "STANDARD_IA")
    assert "VersionId" not in head  # the bucket was never versioned


def test_a_server_may_lack_listings_of_versions(s3: S3Server, c: S3Client) -> None:
    s3.versions_listing = False
    assert refusal(c.list_object_versions, Bucket="b") == (501, "NotImplemented")
    s3.unimplemented.add("GetObjectAttributes")
    s3.put("b", "k")
    assert refusal(c.get_object_attributes, Bucket="b", Key="k", ObjectAttributes=["ETag"]) == (501, "NotImplemented")


def test_ranges_and_conditions(s3: S3Server, c: S3Client) -> None:
    etag = s3.put("b", "k", b"0123456789").etag
    s3.put("b", "empty")

    def read(**more: Any) -> tuple[bytes, str]:
        answer = c.get_object(Bucket="b", Key="k", **more)
        return answer["Body"].read(), answer.get("ContentRange", "")

    assert read() == (b"0123456789", "")
    assert read(Range="bytes=2-4") == (b"234", "bytes 2-4/10")
    assert read(Range="bytes=7-") == (b"789", "bytes 7-9/10")
    assert read(Range="bytes=-2") == (b"89", "bytes 8-9/10")
    assert read(Range="bytes=5-500", IfMatch=etag) == (b"56789", "bytes 5-9/10")
    ranged: Any = c.get_object(Bucket="b", Key="k", Range="bytes=0-9", ChecksumMode="ENABLED")
    assert "ChecksumCRC64NVME" not in ranged
    assert c.get_object(Bucket="b", Key="k", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == crc64(b"0123456789")
    assert refusal(read, Range="bytes=10-") == (416, "InvalidRange")
    assert refusal(c.get_object, Bucket="b", Key="empty", Range="bytes=0-") == (416, "InvalidRange")
    assert refusal(read, IfMatch=BOGUS) == (412, "PreconditionFailed")
    assert refusal(read, IfNoneMatch=etag)[0] == 304
    assert refusal(c.head_object, Bucket="b", Key="k", IfMatch=BOGUS)[0] == 412
    assert refusal(read, IfModifiedSince=datetime.now(UTC))[0] == 304
    assert refusal(read, IfUnmodifiedSince=datetime(2001, 1, 1, tzinfo=UTC)) == (412, "PreconditionFailed")


def test_missing_keys_markers_and_versions(s3: S3Server, c: S3Client) -> None:
    old = s3.put("v", "k", b"old").version_id
    marker = c.delete_object(Bucket="v", Key="k")
    assert marker["DeleteMarker"]
    assert refusal(c.get_object, Bucket="v", Key="k") == (404, "NoSuchKey")
    assert refusal(c.head_object, Bucket="v", Key="k") == (404, "404")
    assert refusal(c.get_object, Bucket="v", Key="k", VersionId=marker["VersionId"]) == (405, "MethodNotAllowed")
    assert c.get_object(Bucket="v", Key="k", VersionId=old)["Body"].read() == b"old"
    assert refusal(c.get_object, Bucket="v", Key="k", VersionId="x" * 32) == (400, "InvalidArgument")
    c.delete_object(Bucket="v", Key="k", VersionId=old)
    assert refusal(c.get_object, Bucket="v", Key="k", VersionId=old) == (404, "NoSuchVersion")
    assert refusal(c.get_object, Bucket="nowhere", Key="k") == (404, "NoSuchBucket")
    s3.put("b", "k", b"null")
    assert c.get_object(Bucket="b", Key="k", VersionId="null")["Body"].read() == b"null"


def test_head_has_what_was_put(s3: S3Server, c: S3Client) -> None:
    s3.bucket("locked", object_lock=True)
    until = datetime(2099, 1, 1, tzinfo=UTC)
    s3.put(
        "locked",
        "k",
        metadata={"who": "me"},
        tags={"t": "1", "u": ""},
        retain_until=until,
        legal_hold=True,
        replication_status="PENDING",
        content_type="text/plain",
        annotations={"note": b"n"},
    )
    head: Any = c.head_object(Bucket="locked", Key="k")
    assert (head["Metadata"], head["ContentType"], head["TagCount"]) == ({"who": "me"}, "text/plain", 2)
    assert (head["ObjectLockMode"], head["ObjectLockRetainUntilDate"]) == ("GOVERNANCE", until)
    assert (head["ObjectLockLegalHoldStatus"], head["ReplicationStatus"]) == ("ON", "PENDING")
    assert (head["ServerSideEncryption"], head["VersionId"]) == ("AES256", s3.versions("locked")[0].version_id)
    assert c.get_object_tagging(Bucket="locked", Key="k")["TagSet"] == [
        {"Key": "t", "Value": "1"},
        {"Key": "u", "Value": ""},
    ]
    assert c.get_object_legal_hold(Bucket="locked", Key="k")["LegalHold"]["Status"] == "ON"
    assert c.get_object_retention(Bucket="locked", Key="k")["Retention"]["RetainUntilDate"] == until
    notes: Any = getattr(c, "list_object_annotations")(Bucket="locked", Key="k")  # noqa: B009 - newer than the stubs
    assert [one["AnnotationName"] for one in notes["Annotations"]] == ["note"]
    s3.deny("s3:GetObjectRetention")
    assert "ObjectLockMode" not in c.head_object(Bucket="locked", Key="k")


def test_kms_and_customer_keys_leave_no_md5(s3: S3Server, c: S3Client) -> None:
    s3.put("b", "kms", b"secret", etag="kms", checksums=())
    head: Any = c.head_object(Bucket="b", Key="kms", ChecksumMode="ENABLED")
    assert head["ServerSideEncryption"] == "aws:kms"
    assert head["SSEKMSKeyId"].startswith("arn:aws:kms:")
    assert head["ETag"] != f'"{hashlib.md5(b"secret").hexdigest()}"'
    assert not [field for field in head if field.startswith("Checksum")]
    s3.deny("kms:Decrypt")
    assert status(c.head_object(Bucket="b", Key="kms")) == 200
    assert refusal(c.get_object, Bucket="b", Key="kms") == (403, "AccessDenied")
    s3.put("b", "ssec", b"secret", etag="sse-c")
    assert refusal(c.get_object, Bucket="b", Key="ssec") == (400, "InvalidRequest")
    assert refusal(c.head_object, Bucket="b", Key="ssec") == (400, "400")
    key: Any = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": SSE_C_KEY}
    assert c.get_object(Bucket="b", Key="ssec", **key)["Body"].read() == b"secret"
    key["SSECustomerKey"] = b"1" * 32
    assert refusal(c.get_object, Bucket="b", Key="ssec", **key) == (403, "AccessDenied")
    c.put_object(Bucket="b", Key="kms2", Body=b"x", ServerSideEncryption="aws:kms")
    assert s3.versions("b", "kms2")[0].etag != hashlib.md5(b"x").hexdigest()


def upload(c: S3Client, bodies: list[bytes], **more: Any) -> Any:
    made = c.create_multipart_upload(Bucket="b", Key="m", **more)
    target: Any = {"Bucket": "b", "Key": "m", "UploadId": made["UploadId"]}
    algorithm = more.get("ChecksumAlgorithm", "CRC32")
    parts: list[Any] = []
    for n, body in enumerate(bodies, 1):
        part: Any = c.upload_part(**target, PartNumber=n, Body=body, ChecksumAlgorithm=algorithm)
        parts.append({"PartNumber": n, "ETag": part["ETag"], f"Checksum{algorithm}": part[f"Checksum{algorithm}"]})
    return c.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})


BODIES = [b"a" * 5, b"b" * 5, b"c" * 3]


def test_multipart_composite(s3: S3Server, c: S3Client) -> None:
    s3.min_part_size = 5
    done = upload(c, BODIES, ChecksumAlgorithm="SHA256")
    whole = b64(hashlib.sha256(b"".join(hashlib.sha256(body).digest() for body in BODIES)).digest())
    etag = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in BODIES)).hexdigest() + "-3"
    assert (done["ETag"], done["ChecksumSHA256"], done["ChecksumType"]) == (f'"{etag}"', f"{whole}-3", "COMPOSITE")
    head: Any = c.head_object(Bucket="b", Key="m", ChecksumMode="ENABLED")
    assert (head["ETag"], head["ChecksumSHA256"], head["ChecksumType"]) == (f'"{etag}"', f"{whole}-3", "COMPOSITE")
    second: Any = c.head_object(Bucket="b", Key="m", PartNumber=3, ChecksumMode="ENABLED")
    assert (status(second), second["PartsCount"], second["ContentLength"]) == (206, 3, 3)
    assert second["ChecksumSHA256"] == b64(hashlib.sha256(b"ccc").digest())
    assert c.get_object(Bucket="b", Key="m", PartNumber=2)["Body"].read() == b"bbbbb"
    assert refusal(c.get_object, Bucket="b", Key="m", PartNumber=4) == (416, "InvalidPartNumber")
    everything: Any = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    got: Any = c.get_object_attributes(Bucket="b", Key="m", ObjectAttributes=everything)
    assert (got["ETag"], got["ObjectSize"], got["StorageClass"]) == (etag, 13, "STANDARD")
    assert got["Checksum"] == {"ChecksumSHA256": whole, "ChecksumType": "COMPOSITE"}
    assert [part["Size"] for part in got["ObjectParts"]["Parts"]] == [5, 5, 3]
    page: Any = c.get_object_attributes(
        Bucket="b", Key="m", ObjectAttributes=["ObjectParts"], MaxParts=2, PartNumberMarker=1
    )["ObjectParts"]
    assert [part["PartNumber"] for part in page["Parts"]] == [2, 3]
    assert (page["IsTruncated"], page["TotalPartsCount"], page["NextPartNumberMarker"]) == (False, 3, 3)


@pytest.mark.parametrize(("name", "kind"), [("CRC64NVME", "FULL_OBJECT"), ("CRC32", "FULL_OBJECT")])
def test_multipart_full_object(s3: S3Server, c: S3Client, name: Any, kind: Any) -> None:
    s3.min_part_size = 5
    upload(c, BODIES, ChecksumAlgorithm=name, ChecksumType=kind)
    head: Any = c.head_object(Bucket="b", Key="m", ChecksumMode="ENABLED")
    assert head[f"Checksum{name}"] == b64(digest(name, b"".join(BODIES)))
    got: Any = c.get_object_attributes(Bucket="b", Key="m", ObjectAttributes=["ObjectParts", "Checksum"])
    assert got["ObjectParts"] == {"TotalPartsCount": 3}
    assert got["Checksum"]["ChecksumType"] == "FULL_OBJECT"
    assert c.head_object(Bucket="b", Key="m", PartNumber=1)["ContentLength"] == 5


def test_put_of_the_python_side_makes_the_same_multipart_objects(s3: S3Server, c: S3Client) -> None:
    s3.min_part_size = 5
    upload(c, BODIES, ChecksumAlgorithm="SHA1")
    over_http = s3.versions("b")[0]
    local = s3.put("b", "m2", b"".join(BODIES), checksums=("SHA1",), parts=[5, 5, 3])
    assert (local.etag, local.checksums, local.checksum_type) == (over_http.etag, over_http.checksums, "COMPOSITE")
    assert local.parts == over_http.parts
    plain = s3.put("b", "m3", b"".join(BODIES), checksums=(), parts=[13])
    assert plain.etag.endswith("-1")
    got = c.get_object_attributes(Bucket="b", Key="m3", ObjectAttributes=["ObjectParts", "Checksum"])
    assert (got["ObjectParts"], "Checksum" in got) == ({"TotalPartsCount": 1}, False)
    with pytest.raises(ValueError, match="do not add up"):
        s3.put("b", "m4", b"123", parts=[1, 1])


def test_multipart_rules(s3: S3Server, c: S3Client) -> None:
    sha: Any = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "FULL_OBJECT"}
    assert refusal(c.create_multipart_upload, Bucket="b", Key="m", **sha) == (400, "InvalidRequest")
    assert refusal(upload, c=c, bodies=[b"small", b"last"]) == (400, "EntityTooSmall")
    s3.min_part_size = 1
    made = c.create_multipart_upload(Bucket="b", Key="m", ChecksumAlgorithm="CRC32")
    target: Any = {"Bucket": "b", "Key": "m", "UploadId": made["UploadId"]}
    one = c.upload_part(**target, PartNumber=1, Body=b"1")
    two = c.upload_part(**target, PartNumber=2, Body=b"2")
    assert [part["Size"] for part in c.list_parts(**target)["Parts"]] == [1, 1]
    parts: Any = [{"PartNumber": 2, "ETag": two["ETag"]}, {"PartNumber": 1, "ETag": one["ETag"]}]
    complete = c.complete_multipart_upload
    assert refusal(complete, **target, MultipartUpload={"Parts": parts}) == (400, "InvalidPartOrder")
    # a COMPOSITE upload is completed with the checksums of its parts
    assert refusal(complete, **target, MultipartUpload={"Parts": parts[::-1]}) == (400, "InvalidRequest")
    parts = [{"PartNumber": 1, "ETag": BOGUS}]
    assert refusal(complete, **target, MultipartUpload={"Parts": parts}) == (400, "InvalidPart")
    assert [one["Key"] for one in c.list_multipart_uploads(Bucket="b")["Uploads"]] == ["m", "m"]
    assert "Contents" not in c.list_objects_v2(Bucket="b")  # in no listing of objects
    c.abort_multipart_upload(**target)
    assert refusal(c.list_parts, **target) == (404, "NoSuchUpload")
    page = c.list_multipart_uploads(Bucket="b", MaxUploads=1)
    assert not page["IsTruncated"]


def test_conditional_delete(s3: S3Server, c: S3Client) -> None:
    """412 changed, 404 gone or under a marker, 501 with a version id; nothing is deleted by any of them."""
    etag = s3.put("b", "k", b"1").etag
    assert refusal(c.delete_object, Bucket="b", Key="k", IfMatch=BOGUS) == (412, "PreconditionFailed")
    assert refusal(c.delete_object, Bucket="b", Key="none", IfMatch=BOGUS) == (404, "NoSuchKey")
    assert refusal(c.delete_object, Bucket="b", Key="none", IfMatch="*") == (404, "NoSuchKey")
    assert refusal(c.delete_object, Bucket="b", Key="k", IfMatch=etag, VersionId="null") == (501, "NotImplemented")
    assert refusal(c.delete_object, Bucket="b", Key="k", IfMatchSize=1) == (501, "NotImplemented")
    assert [one.key for one in s3.versions("b")] == ["k"]
    assert status(c.delete_object(Bucket="b", Key="k", IfMatch=f'"{etag}"')) == 204
    assert status(c.delete_object(Bucket="b", Key="k")) == 204  # without condition a missing key is no error
    version = s3.put("v", "k", b"1")
    arguments: Any = {"Bucket": "v", "Key": "k"}
    refused = refusal(c.delete_object, **arguments, IfMatch=version.etag, VersionId=version.version_id)
    assert refused == (501, "NotImplemented")
    assert c.delete_object(**arguments, IfMatch="*")["DeleteMarker"]
    assert refusal(c.delete_object, **arguments, IfMatch=version.etag) == (404, "NoSuchKey")


def test_a_liar_ignores_if_match(s3: S3Server, c: S3Client) -> None:
    s3.honours_if_match = False
    s3.put("b", "k", b"1")
    assert status(c.delete_object(Bucket="b", Key="none", IfMatch=BOGUS)) == 204
    assert status(c.delete_object(Bucket="b", Key="k", IfMatch=BOGUS)) == 204
    assert s3.deletes == [("b", "k", "null")]


def test_versioned_deletes(s3: S3Server, c: S3Client) -> None:
    one, two = s3.put("v", "k", b"1").version_id, s3.put("v", "k", b"2").version_id
    marker = c.delete_object(Bucket="v", Key="k")["VersionId"]
    assert s3.deletes == []
    assert c.delete_object(Bucket="v", Key="k", VersionId=two)["VersionId"] == two
    assert [(v.version_id, v.is_marker, v.is_latest) for v in s3.versions("v")] == [
        (marker, True, True),
        (one, False, False),
    ]
    assert c.delete_object(Bucket="v", Key="k", VersionId=marker)["DeleteMarker"]
    assert c.get_object(Bucket="v", Key="k")["Body"].read() == b"1"
    assert refusal(c.delete_object, Bucket="v", Key="k", VersionId="x" * 32) == (400, "InvalidArgument")
    assert status(c.delete_object(Bucket="v", Key="k", VersionId=two)) == 204


def test_suspended_versioning_reuses_null(s3: S3Server, c: S3Client) -> None:
    s3.put("b", "k", b"first")
    c.put_bucket_versioning(Bucket="b", VersioningConfiguration={"Status": "Enabled"})
    kept = s3.put("b", "k", b"second").version_id
    assert [v.version_id for v in s3.versions("b")] == [kept, "null"]
    c.put_bucket_versioning(Bucket="b", VersioningConfiguration={"Status": "Suspended"})
    c.put_object(Bucket="b", Key="k", Body=b"third")
    assert [(v.version_id, v.body) for v in s3.versions("b")] == [("null", b"third"), (kept, b"second")]
    gone: list[bytes] = []
    s3.observe(lambda doomed: gone.append(doomed.body))
    assert c.delete_object(Bucket="b", Key="k")["VersionId"] == "null"
    assert [(v.version_id, v.is_marker) for v in s3.versions("b")] == [("null", True), (kept, False)]
    assert gone == [b"third"]
    c.delete_object(Bucket="b", Key="k", VersionId="null")
    assert [v.version_id for v in s3.versions("b")] == [kept]


def test_delete_objects(s3: S3Server, c: S3Client) -> None:
    etag = s3.put("b", "right", b"1").etag
    for key in ("wrong", "both", "plain"):
        s3.put("b", key, b"1")
    objects: Any = [
        {"Key": "right", "ETag": etag},
        {"Key": "wrong", "ETag": BOGUS},
        {"Key": "missing", "ETag": BOGUS},
        {"Key": "both", "ETag": etag, "VersionId": "null"},
        {"Key": "plain"},
        {"Key": "never"},
        {"Key": "plain", "VersionId": "x" * 32},
    ]
    answer = c.delete_objects(Bucket="b", Delete={"Objects": objects})
    assert status(answer) == 200
    assert [one["Key"] for one in answer["Deleted"]] == ["right", "plain", "never"]
    assert [(one["Key"], one["Code"]) for one in answer["Errors"]] == [
        ("wrong", "PreconditionFailed"),
        ("missing", "NoSuchKey"),
        ("both", "NotImplemented"),
        ("plain", "NoSuchVersion"),
    ]
    assert sorted(version.key for version in s3.versions("b")) == ["both", "wrong"]
    quiet = c.delete_objects(Bucket="b", Delete={"Objects": [{"Key": "both"}], "Quiet": True})
    assert not quiet.get("Deleted")
    many: Any = [{"Key": str(n)} for n in range(1001)]
    assert refusal(c.delete_objects, Bucket="b", Delete={"Objects": many}) == (400, "MalformedXML")
    # XML 1.0 cannot carry it, and S3 does not take it
    assert refusal(c.delete_objects, Bucket="b", Delete={"Objects": [{"Key": "\x01"}]}) == (400, "MalformedXML")


def test_delete_objects_by_version(s3: S3Server, c: S3Client) -> None:
    version = s3.put("v", "k", b"1").version_id
    made = c.delete_objects(Bucket="v", Delete={"Objects": [{"Key": "k"}, {"Key": "never"}]})["Deleted"]
    assert all(one["DeleteMarker"] and one["DeleteMarkerVersionId"] for one in made)
    marker = made[0]["DeleteMarkerVersionId"]
    objects: Any = [{"Key": "k", "VersionId": version}, {"Key": "k", "VersionId": marker}]
    gone = c.delete_objects(Bucket="v", Delete={"Objects": objects})["Deleted"]
    assert gone[0] == {"Key": "k", "VersionId": version}
    assert gone[1]["DeleteMarkerVersionId"] == marker
    again = c.delete_objects(Bucket="v", Delete={"Objects": objects[:1]})
    assert again["Errors"][0]["Code"] == "NoSuchVersion"
    s3.gone_versions = "deleted"
    assert "Errors" not in c.delete_objects(Bucket="v", Delete={"Objects": objects[:1]})


def test_object_lock_is_not_bypassed_by_accident(s3: S3Server, c: S3Client) -> None:
    s3.bucket("locked", object_lock=True)
    until = s3.clock() + DAY
    governed = s3.put("locked", "g", lock_mode="GOVERNANCE", retain_until=until).version_id
    compliant = s3.put("locked", "c", lock_mode="COMPLIANCE", retain_until=until).version_id
    held = s3.put("locked", "h", legal_hold=True).version_id
    for key, version in (("g", governed), ("c", compliant), ("h", held)):
        assert refusal(c.delete_object, Bucket="locked", Key=key, VersionId=version) == (403, "AccessDenied")
    objects: Any = [{"Key": "g", "VersionId": governed}]
    error = c.delete_objects(Bucket="locked", Delete={"Objects": objects})["Errors"][0]
    assert (error["Code"], error["VersionId"]) == ("AccessDenied", governed)
    assert "object protected by object lock" in error["Message"]
    arguments: Any = {"Bucket": "locked", "BypassGovernanceRetention": True}
    assert refusal(c.delete_object, Key="c", VersionId=compliant, **arguments) == (403, "AccessDenied")
    assert refusal(c.delete_object, Key="h", VersionId=held, **arguments) == (403, "AccessDenied")
    denial = s3.deny("s3:BypassGovernanceRetention")
    assert refusal(c.delete_object, Key="g", VersionId=governed, **arguments) == (403, "AccessDenied")
    s3.allow(denial)
    c.delete_object(Key="g", VersionId=governed, **arguments)
    shorter: Any = {"Mode": "COMPLIANCE", "RetainUntilDate": datetime(2020, 1, 1, tzinfo=UTC)}
    assert refusal(c.put_object_retention, Bucket="locked", Key="c", Retention=shorter) == (403, "AccessDenied")
    c.put_object_legal_hold(Bucket="locked", Key="h", LegalHold={"Status": "OFF"})
    s3.advance(2 * DAY)
    c.delete_object(Bucket="locked", Key="c", VersionId=compliant)
    c.delete_object(Bucket="locked", Key="h", VersionId=held)
    assert s3.versions("locked") == []
    suspend: Any = {"Status": "Suspended"}
    refused = refusal(c.put_bucket_versioning, Bucket="locked", VersioningConfiguration=suspend)
    assert refused == (409, "InvalidBucketState")
    assert refusal(c.get_object_retention, Bucket="b", Key="k") == (400, "InvalidRequest")


def test_default_retention_applies_to_new_objects(s3: S3Server, c: S3Client) -> None:
    s3.bucket("locked", object_lock=True)
    rule: Any = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 2}}}
    c.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=rule)
    assert c.get_object_lock_configuration(Bucket="locked")["ObjectLockConfiguration"] == rule
    version = c.put_object(Bucket="locked", Key="k")["VersionId"]
    assert c.head_object(Bucket="locked", Key="k")["ObjectLockMode"] == "COMPLIANCE"
    assert refusal(c.delete_object, Bucket="locked", Key="k", VersionId=version) == (403, "AccessDenied")


def test_mfa_delete(s3: S3Server, c: S3Client) -> None:
    s3.bucket("mfa", "Enabled", mfa_delete=True)
    assert c.get_bucket_versioning(Bucket="mfa")["MFADelete"] == "Enabled"
    version = s3.put("mfa", "k").version_id
    assert refusal(c.delete_object, Bucket="mfa", Key="k", VersionId=version) == (403, "AccessDenied")
    objects: Any = [{"Key": "k", "VersionId": version}]
    assert refusal(c.delete_objects, Bucket="mfa", Delete={"Objects": objects}) == (403, "AccessDenied")
    assert c.delete_object(Bucket="mfa", Key="k")["DeleteMarker"]
    c.delete_object(Bucket="mfa", Key="k", VersionId=version, MFA="arn 123456")
    assert s3.deletes == [("mfa", "k", version)]


def test_observers_see_data_just_before_it_goes(s3: S3Server, c: S3Client) -> None:
    seen: list[tuple[Delete, bool]] = []
    s3.observe(lambda doomed: seen.append((doomed, s3.get(doomed.bucket, doomed.key, doomed.version_id) is not None)))
    version = s3.put("v", "k", b"precious")
    c.delete_object(Bucket="v", Key="k")  # a marker: nothing is lost
    assert seen == []
    c.delete_objects(Bucket="v", Delete={"Objects": [{"Key": "k", "VersionId": version.version_id}]})
    expected = Delete("v", "k", version.version_id, version.etag, b"precious", "AKIATEST", "DeleteObjects")
    assert seen == [(expected, True)]
    assert s3.get("v", "k", version.version_id) is None


def test_what_an_observer_or_a_hook_objects_to_is_not_lost() -> None:
    def object_to(_: object) -> None:
        raise AssertionError("unproved")

    with pytest.raises(AssertionError, match="unproved"), S3Server() as s3:
        s3.bucket("b")
        s3.put("b", "k")
        s3.observe(object_to)
        client(s3).delete_object(Bucket="b", Key="k")
        assert len(s3.failures) == 1
    with pytest.raises(AssertionError, match="unproved"), S3Server() as s3:
        s3.fault(None, object_to)
        client(s3).list_buckets()


def test_restore_from_request_to_expiry(s3: S3Server, c: S3Client) -> None:
    day = datetime(2024, 2, 27, tzinfo=UTC)
    s3.time = lambda: day.timestamp() + 3600
    s3.put("b", "k", b"cold", storage_class="GLACIER")
    target: Any = {"Bucket": "b", "Key": "k"}

    def status_listed() -> Any:
        return c.list_objects_v2(Bucket="b", OptionalObjectAttributes=["RestoreStatus"])["Contents"][0].get(
            "RestoreStatus"
        )

    assert refusal(c.get_object, **target) == (403, "InvalidObjectState")
    assert "Restore" not in c.head_object(**target)
    assert status_listed() is None
    assert refusal(c.restore_object, **target, RestoreRequest={}) == (400, "MalformedXML")
    standard: Any = {"Days": 2, "GlacierJobParameters": {"Tier": "Standard"}}
    assert status(c.restore_object(**target, RestoreRequest=standard)) == 202
    assert refusal(c.restore_object, **target, RestoreRequest=standard) == (409, "RestoreAlreadyInProgress")
    assert c.head_object(**target)["Restore"] == 'ongoing-request="true"'
    assert refusal(c.get_object, **target) == (403, "InvalidObjectState")
    assert status_listed() == {"IsRestoreInProgress": True}
    s3.advance(5 * 3600)
    assert c.get_object(**target)["Body"].read() == b"cold"
    expiry = datetime(2024, 3, 1, tzinfo=UTC)  # 01:00 and two days, rounded up
    assert (
        c.head_object(**target)["Restore"]
        == f'ongoing-request="false", expiry-date="{expiry:%a, %d %b %Y} 00:00:00 GMT"'
    )
    assert status_listed() == {"IsRestoreInProgress": False, "RestoreExpiryDate": expiry}
    versions: Any = c.list_object_versions(Bucket="b", OptionalObjectAttributes=["RestoreStatus"])["Versions"]
    assert versions[0]["RestoreStatus"] == status_listed()
    assert versions[0]["StorageClass"] == "GLACIER"
    assert "RestoreStatus" not in c.list_objects_v2(Bucket="b")["Contents"][0]
    assert status(c.restore_object(**target, RestoreRequest={"Days": 3})) == 200
    s3.advance(2 * DAY + 18 * 3600 - 1)
    assert status(c.get_object(**target)) == 200  # extended
    s3.advance(DAY + 1)
    assert refusal(c.get_object, **target) == (403, "InvalidObjectState")
    assert status_listed() is None
    assert status(c.restore_object(**target, RestoreRequest={"Days": 1})) == 202
    s3.restore_status_in_lists = False
    assert status_listed() is None


def test_restore_tiers(s3: S3Server, c: S3Client) -> None:
    s3.put("b", "deep", storage_class="DEEP_ARCHIVE")
    s3.put("b", "cold", storage_class="GLACIER")
    s3.put("b", "warm", storage_class="GLACIER_IR")

    def ask(key: str, tier: Any, days: int = 1) -> Any:
        request: Any = {"Days": days, "GlacierJobParameters": {"Tier": tier}}
        return c.restore_object(Bucket="b", Key=key, RestoreRequest=request)

    assert refusal(ask, key="deep", tier="Expedited") == (400, "InvalidArgument")
    assert refusal(ask, key="warm", tier="Standard") == (403, "InvalidObjectState")
    s3.expedited_capacity = False
    assert refusal(ask, key="cold", tier="Expedited") == (503, "GlacierExpeditedRetrievalNotAvailable")
    s3.expedited_capacity = True
    assert status(ask("cold", "Bulk")) == 202
    assert refusal(ask, key="cold", tier="Bulk") == (409, "RestoreAlreadyInProgress")
    assert status(ask("cold", "Expedited")) == 202  # a faster tier for the same days speeds it up
    assert status(ask("deep", "Bulk")) == 202
    s3.advance(301)
    assert status(c.get_object(Bucket="b", Key="cold")) == 200
    s3.advance(12 * 3600)
    assert refusal(c.get_object, Bucket="b", Key="deep") == (403, "InvalidObjectState")
    s3.advance(36 * 3600)
    assert status(c.get_object(Bucket="b", Key="deep")) == 200
    s3.restore_seconds = 0
    s3.put("b", "deep2", storage_class="DEEP_ARCHIVE")
    ask("deep2", "Standard")
    assert status(c.get_object(Bucket="b", Key="deep2")) == 200
    s3.put("b", "done", b"r", storage_class="GLACIER", restored_until=s3.clock() + 60)
    assert c.get_object(Bucket="b", Key="done")["Body"].read() == b"r"
    s3.advance(61)
    assert refusal(c.get_object, Bucket="b", Key="done") == (403, "InvalidObjectState")


def test_restore_of_one_version(s3: S3Server, c: S3Client) -> None:
    old = s3.put("v", "k", b"old", storage_class="GLACIER").version_id
    s3.put("v", "k", b"new")
    assert refusal(c.restore_object, Bucket="v", Key="k", RestoreRequest={"Days": 1}) == (403, "InvalidObjectState")
    c.restore_object(Bucket="v", Key="k", VersionId=old, RestoreRequest={"Days": 1})
    s3.advance(6 * 3600)
    assert c.get_object(Bucket="v", Key="k", VersionId=old)["Body"].read() == b"old"


def test_intelligent_tiering_tells_its_archive_only_to_head(s3: S3Server, c: S3Client) -> None:
    s3.put("b", "k", b"it", storage_class="INTELLIGENT_TIERING", archive_status="ARCHIVE_ACCESS")
    s3.put("b", "active", b"it", storage_class="INTELLIGENT_TIERING")
    target: Any = {"Bucket": "b", "Key": "k"}
    assert {one["StorageClass"] for one in c.list_objects_v2(Bucket="b")["Contents"]} == {"INTELLIGENT_TIERING"}
    assert c.head_object(**target)["ArchiveStatus"] == "ARCHIVE_ACCESS"
    assert refusal(c.get_object, **target) == (403, "InvalidObjectState")
    assert refusal(c.restore_object, **target, RestoreRequest={"Days": 1}) == (400, "InvalidArgument")
    restore: Any = {"GlacierJobParameters": {"Tier": "Standard"}}
    refused = refusal(c.restore_object, Bucket="b", Key="active", RestoreRequest=restore)
    assert refused == (403, "ObjectAlreadyInActiveTierError")
    assert status(c.restore_object(**target, RestoreRequest=restore)) == 202
    assert c.head_object(**target)["Restore"] == 'ongoing-request="true"'
    s3.advance(6 * 3600)
    assert c.get_object(**target)["Body"].read() == b"it"
    assert "ArchiveStatus" not in c.head_object(**target)


def test_buckets(s3: S3Server, c: S3Client) -> None:
    s3.bucket("foreign", owner="999988887777")
    s3.bucket("far", region="eu-west-1")
    assert [one["Name"] for one in c.list_buckets()["Buckets"]] == ["b", "far", "v"]
    assert "BucketRegion" not in c.list_buckets()["Buckets"][0]  # only a request with a parameter is told
    assert [one["BucketRegion"] for one in c.list_buckets(MaxBuckets=10)["Buckets"]] == [
        "us-east-1",
        "eu-west-1",
        "us-east-1",
    ]
    names = [
        one["Name"]
        for page in c.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 1})
        for one in page["Buckets"]
    ]
    assert names == ["b", "far", "v"]
    c.create_bucket(Bucket="new-bucket")
    assert status(c.create_bucket(Bucket="new-bucket")) == 200
    assert refusal(c.create_bucket, Bucket="foreign") == (409, "BucketAlreadyExists")
    assert refusal(c.create_bucket, Bucket="Bad_Name") == (400, "InvalidBucketName")
    c.put_object(Bucket="new-bucket", Key="k")
    assert refusal(c.delete_bucket, Bucket="new-bucket") == (409, "BucketNotEmpty")
    c.delete_object(Bucket="new-bucket", Key="k")
    c.delete_bucket(Bucket="new-bucket")
    assert refusal(c.head_bucket, Bucket="new-bucket") == (404, "404")
    assert c.head_bucket(Bucket="b")["BucketRegion"] == "us-east-1"
    assert c.get_bucket_location(Bucket="b")["LocationConstraint"] is None
    assert c.get_bucket_location(Bucket="far")["LocationConstraint"] == "eu-west-1"


def test_a_bucket_answers_only_to_its_region(s3: S3Server, c: S3Client) -> None:
    s3.bucket("far", region="eu-west-1")
    s3.put("far", "k", b"far away")
    assert client(s3, region="eu-west-1").get_object(Bucket="far", Key="k")["Body"].read() == b"far away"
    assert c.get_object(Bucket="far", Key="k")["Body"].read() == b"far away"  # botocore follows the 301
    assert s3.count(status=301) >= 1
    s3.enforces_regions = False
    client(s3).get_object(Bucket="far", Key="k")
    assert s3.requests[-1].status == 200


def test_expected_bucket_owner_is_looked_at_in_every_call(s3: S3Server, c: S3Client) -> None:
    s3.put("b", "k")
    calls: list[tuple[Any, dict[str, Any]]] = [
        (c.get_object, {"Key": "k"}),
        (c.put_object, {"Key": "k"}),
        (c.delete_object, {"Key": "k"}),
        (c.delete_objects, {"Delete": {"Objects": [{"Key": "k"}]}}),
        (c.list_objects_v2, {}),
        (c.list_object_versions, {}),
        (c.get_bucket_versioning, {}),
        (c.restore_object, {"Key": "k", "RestoreRequest": {"Days": 1}}),
        (c.get_bucket_policy, {}),
    ]
    for call, arguments in calls:
        assert refusal(call, Bucket="b", ExpectedBucketOwner="000000000000", **arguments) == (403, "AccessDenied")
        refused = refusal(call, Bucket="b", ExpectedBucketOwner="me", **arguments)
        assert refused == (400, "InvalidBucketOwnerAWSAccountID")
    assert status(c.get_object(Bucket="b", Key="k", ExpectedBucketOwner=ACCOUNT)) == 200


def test_settings_of_a_bucket(s3: S3Server, c: S3Client) -> None:
    absent = {
        "policy": "NoSuchBucketPolicy",
        "policy_status": "NoSuchBucketPolicy",
        "lifecycle_configuration": "NoSuchLifecycleConfiguration",
        "replication": "ReplicationConfigurationNotFoundError",
        "website": "NoSuchWebsiteConfiguration",
        "tagging": "NoSuchTagSet",
        "cors": "NoSuchCORSConfiguration",
        "ownership_controls": "OwnershipControlsNotFoundError",
    }
    for name, code in absent.items():
        assert refusal(getattr(c, f"get_bucket_{name}"), Bucket="b") == (404, code)
    refused = refusal(c.get_public_access_block, Bucket="b")
    assert refused == (404, "NoSuchPublicAccessBlockConfiguration")
    refused = refusal(c.get_object_lock_configuration, Bucket="b")
    assert refused == (404, "ObjectLockConfigurationNotFoundError")
    default = c.get_bucket_encryption(Bucket="b")["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert default["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert "LoggingEnabled" not in c.get_bucket_logging(Bucket="b")
    assert status(c.get_bucket_notification_configuration(Bucket="b")) == 200
    assert c.get_bucket_acl(Bucket="b")["Grants"][0]["Permission"] == "FULL_CONTROL"
    assert "IntelligentTieringConfigurationList" not in c.list_bucket_intelligent_tiering_configurations(Bucket="b")
    tiers: Any = {"Id": "x", "Status": "Enabled", "Tierings": [{"Days": 90, "AccessTier": "ARCHIVE_ACCESS"}]}
    c.put_bucket_intelligent_tiering_configuration(Bucket="b", Id="x", IntelligentTieringConfiguration=tiers)
    listed = c.list_bucket_intelligent_tiering_configurations(Bucket="b")["IntelligentTieringConfigurationList"]
    assert listed == [tiers]
    policy = '{"Version": "2012-10-17", "Statement": []}'
    c.put_bucket_policy(Bucket="b", Policy=policy)
    assert c.get_bucket_policy(Bucket="b")["Policy"] == policy
    assert refusal(c.put_bucket_policy, Bucket="b", Policy="no json") == (400, "MalformedPolicy")
    c.delete_bucket_policy(Bucket="b")
    assert refusal(c.get_bucket_policy, Bucket="b") == (404, "NoSuchBucketPolicy")
    rules: Any = {"Rules": [{"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}
    c.put_bucket_lifecycle_configuration(Bucket="b", LifecycleConfiguration=rules)
    assert c.get_bucket_lifecycle_configuration(Bucket="b")["Rules"] == rules["Rules"]


def test_denials(s3: S3Server, c: S3Client) -> None:
    for key in ("open/k", "shut/k"):
        s3.put("b", key, b"1")
    denial = s3.deny(action="s3:GetObject", bucket="b", key="shut/*")
    assert status(c.get_object(Bucket="b", Key="open/k")) == 200
    assert refusal(c.get_object, Bucket="b", Key="shut/k") == (403, "AccessDenied")
    assert refusal(c.head_object, Bucket="b", Key="shut/k") == (403, "403")
    # a conditional delete needs s3:GetObject too
    assert refusal(c.delete_object, Bucket="b", Key="shut/k", IfMatch=BOGUS) == (403, "AccessDenied")
    s3.allow(denial)
    s3.deny("s3:Delete*", principal="AKIAREADER")
    reader = client(s3, "AKIAREADER")
    assert refusal(reader.delete_object, Bucket="b", Key="open/k") == (403, "AccessDenied")
    errors = reader.delete_objects(Bucket="b", Delete={"Objects": [{"Key": "open/k"}]})["Errors"]
    assert errors[0]["Code"] == "AccessDenied"
    assert "s3:DeleteObject" in errors[0]["Message"]
    assert status(c.delete_object(Bucket="b", Key="open/k")) == 204
    s3.deny("s3:ListBucket")
    assert refusal(c.list_objects_v2, Bucket="b") == (403, "AccessDenied")
    assert refusal(c.get_object, Bucket="b", Key="missing") == (403, "AccessDenied")
    assert status(c.list_object_versions(Bucket="b")) == 200


def test_keys_and_tokens_are_refused(s3: S3Server, c: S3Client) -> None:
    s3.denied_keys.add("AKIATEST")
    assert refusal(c.list_buckets) == (403, "AccessDenied")
    s3.unknown_keys.add("AKIAGONE")
    assert refusal(client(s3, "AKIAGONE").list_buckets) == (403, "InvalidAccessKeyId")
    s3.expired_tokens.add("AKIAOLD")
    assert refusal(client(s3, "AKIAOLD").list_buckets) == (400, "ExpiredToken")
    assert [entry.principal for entry in s3.requests] == ["AKIATEST", "AKIAGONE", "AKIAOLD"]


def test_sts(s3: S3Server) -> None:
    sts = SESSION.client(
        "sts",
        endpoint_url=s3.url,
        region_name="us-east-1",
        aws_access_key_id="AKIATEST",
        aws_secret_access_key="x",
    )
    me = sts.get_caller_identity()
    assert (me["Account"], me["Arn"]) == (ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/operator")
    s3.identities["AKIATEST"] = ("999988887777", "arn:aws:iam::999988887777:user/other")
    assert sts.get_caller_identity()["Account"] == "999988887777"
    s3.sts = False
    assert refusal(sts.get_caller_identity) == (501, "NotImplemented")


def test_faults_that_answer(s3: S3Server, c: S3Client) -> None:
    s3.put("b", "k", b"1")
    expected: dict[Any, tuple[int, str]] = {
        "503": (503, "SlowDown"),
        "500": (500, "InternalError"),
        "access-denied": (403, "AccessDenied"),
        "expired-token": (400, "ExpiredToken"),
    }
    for action, refused in expected.items():
        fault = s3.fault({"op": "DeleteObject", "key": "k"}, action, times=1)
        assert refusal(c.delete_object, Bucket="b", Key="k") == refused
        assert (fault.hits, len(s3.versions("b"))) == (1, 1)
    c.delete_object(Bucket="b", Key="k")
    assert s3.versions("b") == []
    with pytest.raises(ValueError, match="no such fault"):
        s3.fault(None, "explode")  # type: ignore[arg-type]


def test_matching_by_predicate_place_and_chance(s3: S3Server, c: S3Client) -> None:
    third = s3.fault(lambda request: request.method == "HEAD", "500", after=2, times=1)
    outcomes = []
    for _ in range(4):
        try:
            c.head_bucket(Bucket="b")
            outcomes.append(200)
        except ClientError:
            outcomes.append(500)
    assert outcomes == [200, 200, 500, 200]
    s3.calm(third)
    s3.fault({"method": ("HEAD", "GET"), "bucket": "b"}, "503", probability=0.5, seed=1)
    for _ in range(60):
        try:
            c.head_bucket(Bucket="b")
        except ClientError:
            continue
    assert 15 < s3.count("HeadBucket", status=503) < 45
    s3.calm()
    c.head_bucket(Bucket="b")


def test_resets_before_and_after_the_act(s3: S3Server, c: S3Client) -> None:
    etag = s3.put("b", "k", b"1").etag
    s3.fault({"op": "DeleteObject"}, "reset-before", times=1)
    with pytest.raises((ConnectionError, HTTPClientError)):
        c.delete_object(Bucket="b", Key="k", IfMatch=etag)
    assert len(s3.versions("b")) == 1
    s3.fault({"op": "DeleteObject"}, "lost-reply", times=1)
    with pytest.raises((ConnectionError, HTTPClientError)):
        c.delete_object(Bucket="b", Key="k", IfMatch=etag)
    assert s3.versions("b") == []
    assert refusal(c.delete_object, Bucket="b", Key="k", IfMatch=etag) == (404, "NoSuchKey")
    assert [entry.status for entry in s3.requests] == [0, 0, 404]


def test_a_reset_is_a_reset(s3: S3Server) -> None:
    s3.fault(None, "reset-before")
    with socket.create_connection(("127.0.0.1", s3.port)) as wire:
        wire.sendall(b"GET /b HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            wire.recv(1)


def test_faults_of_bodies(s3: S3Server, c: S3Client) -> None:
    body = bytes(range(256)) * 40
    s3.put("b", "k", body, checksums=())
    s3.fault({"op": "GetObject"}, "truncate", times=1)
    with pytest.raises((HTTPClientError, ConnectionError)):
        c.get_object(Bucket="b", Key="k")["Body"].read()
    s3.fault({"op": "GetObject"}, "flip", times=1, at=7)
    got = c.get_object(Bucket="b", Key="k")["Body"].read()
    assert [place for place, (one, other) in enumerate(zip(got, body, strict=True)) if one != other] == [7]
    s3.fault({"op": "GetObject"}, "slow", times=1, rate=100_000)
    before = time.monotonic()
    assert c.get_object(Bucket="b", Key="k")["Body"].read() == body
    assert time.monotonic() - before > 0.09
    impatient = client(s3, read_timeout=0.2)
    for op in ("GetObject", "HeadObject"):
        s3.fault({"op": op}, "stall", times=1)
    with pytest.raises(ReadTimeoutError):
        impatient.get_object(Bucket="b", Key="k")["Body"].read()
    with pytest.raises(ReadTimeoutError):
        impatient.head_object(Bucket="b", Key="k")
    s3.fault({"op": "GetObject"}, "delay", times=1, seconds=0.1)
    before = time.monotonic()
    c.get_object(Bucket="b", Key="k")
    assert time.monotonic() - before >= 0.1


def test_faults_of_listings(s3: S3Server, c: S3Client) -> None:
    s3.put("b", "k")
    s3.fault({"bucket": "b"}, "empty-list", times=2)
    assert c.list_objects_v2(Bucket="b", Prefix="k")["KeyCount"] == 0
    assert "Versions" not in c.list_object_versions(Bucket="b")
    assert c.list_objects_v2(Bucket="b")["KeyCount"] == 1
    s3.fault({"op": "ListObjectsV2"}, "garbage-200", times=1)
    assert "Contents" not in c.list_objects_v2(Bucket="b")  # botocore takes the portal's page for an empty listing

    def without_keys(request: Request, response: Response) -> None:
        response.body = bytes(response.body).replace(b"<Key>k</Key>", b"<Key>other</Key>")

    s3.fault({"op": "ListObjectsV2"}, rewrite=without_keys, times=1)
    assert c.list_objects_v2(Bucket="b")["Contents"][0]["Key"] == "other"


def test_a_hook_runs_just_before_the_operation(s3: S3Server, c: S3Client) -> None:
    etag = s3.put("b", "k", b"verified").etag
    other = client(s3, "AKIAOTHER")
    overwrite = s3.fault(
        {"op": "DeleteObject"}, lambda _: other.put_object(Bucket="b", Key="k", Body=b"newer"), times=1
    )
    assert refusal(c.delete_object, Bucket="b", Key="k", IfMatch=etag) == (412, "PreconditionFailed")
    assert overwrite.hits == 1
    assert s3.versions("b")[0].body == b"newer"


def test_stop_ends_what_stalls() -> None:
    with S3Server() as s3:
        s3.fault(None, "delay")
        wire = socket.create_connection(("127.0.0.1", s3.port))
        wire.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while not s3._faults[0].hits:
            time.sleep(0.01)
        before = time.monotonic()
    assert time.monotonic() - before < 2
    wire.close()
    assert not [thread for thread in threading.enumerate() if thread.name == f"s3server-{s3.port}"]


def test_log_and_counters(s3: S3Server, c: S3Client) -> None:
    c.list_objects_v2(Bucket="b", Prefix="x")
    method, bucket, key, query, answered, principal = s3.requests[0]
    assert (method, bucket, key, query["prefix"], answered, principal) == ("GET", "b", "", "x", 200, "AKIATEST")
    assert s3.requests[0].op == "ListObjectsV2"
    assert s3.count("ListObjectsV2", status=200, bucket="b") == s3.served["ListObjectsV2"] == 1


def test_writes_with_conditions(s3: S3Server, c: S3Client) -> None:
    etag = c.put_object(Bucket="b", Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    assert refusal(c.put_object, Bucket="b", Key="k", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert refusal(c.put_object, Bucket="b", Key="k", IfMatch=BOGUS) == (412, "PreconditionFailed")
    assert refusal(c.put_object, Bucket="b", Key="none", IfMatch=etag) == (404, "NoSuchKey")
    c.put_object(Bucket="b", Key="k", Body=b"2", IfMatch=etag)
    copy: Any = {"Bucket": "b", "Key": "k", "CopySource": "b/k"}
    assert refusal(c.copy_object, **copy) == (501, "NotImplemented")


def test_a_deletion_race_loses_no_acknowledged_write(s3: S3Server, c: S3Client) -> None:
    writer, lost = client(s3, "AKIAWRITER"), []
    for n in range(60):
        etag = s3.put("b", "k", b"old").etag
        body = b"new %d" % n
        thread = threading.Thread(target=writer.put_object, kwargs={"Bucket": "b", "Key": "k", "Body": body})
        thread.start()
        try:
            c.delete_object(Bucket="b", Key="k", IfMatch=etag)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"
        thread.join()
        held = s3.get("b", "k")
        if held is None or held.body != body:
            lost.append(n)
    assert lost == []


def test_it_is_fast_enough(s3: S3Server) -> None:
    s3.put("b", "k", b"x" * 4096)
    wire = http.client.HTTPConnection("127.0.0.1", s3.port)
    wire.connect()
    wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.request("GET", "/b/k")
    wire.getresponse().read()
    before = time.process_time()
    for _ in range(500):
        wire.request("GET", "/b/k")
        assert len(wire.getresponse().read()) == 4096
    wire.close()
    assert 500 / (time.process_time() - before) > 1000  # CPU of client and server together


def test_the_aws_cli_syncs_what_is_there(s3: S3Server, tmp_path: Path) -> None:
    bodies = {"a": b"1", "dir/b": b"22", "dir/é +%": b"333", "big": os.urandom(9 * 2**20)}
    for key, body in bodies.items():
        s3.put("b", key, body, last_modified=datetime(2020, 1, 1, tzinfo=UTC))
    s3.put("b", "cold", b"thawed", storage_class="GLACIER", restored_until=s3.clock() + DAY)
    aws = Path(sys.executable).with_name("aws")
    command: list[str | Path] = [
        aws,
        "s3",
        "sync",
        "s3://b",
        tmp_path / "d",
        "--no-progress",
        "--exact-timestamps",
        "--force-glacier-transfer",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "TZ": "UTC", **s3.env()}
    for lines in (5, 0):  # the second run finds nothing to do
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert (run.returncode, run.stdout.count("download: "), run.stderr) == (0, lines, "")
    bodies["cold"] = b"thawed"
    found = {
        path.relative_to(tmp_path / "d").as_posix(): path for path in (tmp_path / "d").rglob("*") if path.is_file()
    }
    assert {key: path.read_bytes() for key, path in found.items()} == bodies
    assert s3.count("GetObject") == 4 + 2  # big in two ranges


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "tests.fakes.s3server", "--bucket", "p", "--bucket", "q:Enabled"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as program:
        assert program.stdout
        url = program.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        wire = http.client.HTTPConnection(url.removeprefix("http://"))
        wire.request("GET", "/q?versioning")
        assert b"<Status>Enabled</Status>" in wire.getresponse().read()
        wire.close()
        program.send_signal(signal.SIGTERM)
        assert program.wait(5) == 0
