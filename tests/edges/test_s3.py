"""What S3 said is understood exactly, what it cannot have said is not believed, and only a Proof deletes."""

from __future__ import annotations

import json
import random
import re
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from threading import Event, Timer
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.retries.standard import ExponentialBackoff

from migrate_v2.edges.s3 import (
    _IDLE,
    S3,
    WRONG_ETAG_REFUSED,
    Archived,
    BucketFacts,
    Corrupted,
    Deleter,
    Denied,
    Gone,
    Identity,
    Moved,
    Outcome,
    Pace,
    Page,
    Presence,
    Refusal,
    Restorer,
    SizeDiffers,
    Throttled,
    Unreachable,
    WrongVersion,
    check_bucket_name,
    just_before,
)
from migrate_v2.errors import BadUsage, Failure, Refused
from migrate_v2.model import (
    CHANGED,
    Answer,
    DeleteMarker,
    Doomed,
    FileIdentity,
    FileState,
    ObjectVersion,
    Place,
    Proof,
    Row,
    Rules,
    Site,
    Verdict,
    Witness,
    prove,
)
from tests.fakes.s3server import ACCOUNT, Request, Response, S3Error, S3Server, Version, b64, digest, error_response

_LOADER = cache(botocore.session.create_loader)
BODY = random.Random(7).randbytes(100_000)
DAY = 86400


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.001)
    monkeypatch.setattr(botocore.session, "create_loader", _LOADER)
    with S3Server() as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        server.bucket("b")
        yield server


@pytest.fixture
def s3(server: S3Server) -> S3:
    return connect(server)


def connect(server: S3Server, **more: Any) -> S3:
    return S3(endpoint_url=server.url, region="us-east-1", **more)


def version_of(stored: Version, bucket: str = "b", *, is_latest: bool = True) -> ObjectVersion:
    return ObjectVersion(
        bucket,
        stored.key,
        stored.version_id,
        stored.size,
        stored.etag,
        stored.storage_class,
        datetime.fromtimestamp(stored.last_modified, UTC),
        is_latest,
    )


def headers_seen(server: S3Server) -> list[tuple[str, dict[str, str]]]:
    seen: list[tuple[str, dict[str, str]]] = []
    server.fault({}, lambda request: seen.append((request.op, dict(request.headers))))
    return seen


def assert_one_line(failure: Failure) -> None:
    said = str(failure)
    assert said and "\n" not in said and "\r" not in said and "\x1b" not in said
    assert not any(word in said for word in ("Traceback", "botocore", "Error(", "object at 0x", 'File "'))
    assert "not-a-secret" not in said


# Names, and who asks


@pytest.mark.parametrize("name", ["bucket", "a.b-c", "Old_Bucket", "x" * 255, "1-2-3", "abc"])
def test_names_of_buckets(name: str) -> None:
    assert check_bucket_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "ab", "..", "a..b", "../x", "a/b", "-ab", "ab-", ".migrate-v2", "a b", "a\nb", "é-bucket", "a\0b"),
        *("x" * 256, "s3://bucket", "b*cket", "b\x1b[2J", "bucket--usw2-az1--x-s3"),
    ],
)
def test_names_that_no_folder_and_no_url_shall_have(name: str) -> None:
    with pytest.raises(BadUsage) as refused:
        check_bucket_name(name)
    assert_one_line(refused.value)
    assert ("directory bucket" in str(refused.value)) == name.endswith("--x-s3")


def test_who_asks_is_known_once(server: S3Server, s3: S3) -> None:
    for _ in range(2):
        assert s3.identity() == Identity(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/operator", "env")
    assert server.count("GetCallerIdentity") == 1


def test_an_endpoint_without_sts_leaves_the_account_unknown_and_expects_no_owner(server: S3Server, s3: S3) -> None:
    server.sts = False
    assert s3.identity() == Identity("", "", "env")
    seen = headers_seen(server)
    list(s3.versions("b"))
    assert seen and all("x-amz-expected-bucket-owner" not in headers for _, headers in seen)


def test_an_expired_token_is_not_an_endpoint_without_sts(server: S3Server, s3: S3) -> None:
    server.fault({"op": "GetCallerIdentity"}, "expired-token")
    with pytest.raises(Failure, match=r"ExpiredToken.*renew") as failed:
        s3.identity()
    assert_one_line(failed.value)
    server.calm()
    assert s3.identity().account == ACCOUNT


@pytest.mark.parametrize("action", ["access-denied", "503", "expired-token"])
def test_aws_tells_everybody_who_he_is(server: S3Server, s3: S3, monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Where it does not, the account is not "unknown": nothing could be held to its owner."""
    monkeypatch.setattr(S3, "at_aws", property(lambda _: True))
    server.fault({"op": "GetCallerIdentity"}, action)
    with pytest.raises(Failure) as failed:
        s3.identity()
    assert_one_line(failed.value)


def test_no_credentials_is_one_line(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for ask in (lambda s3: s3.identity(), lambda s3: list(s3.versions("b"))):
        with pytest.raises(Failure, match="no AWS credentials found") as failed:
            ask(connect(server))
        assert_one_line(failed.value)


def test_no_such_profile(server: S3Server) -> None:
    with pytest.raises(BadUsage, match="nobody") as failed:
        connect(server, profile="nobody")
    assert_one_line(failed.value)


def test_the_region_of_a_bucket_is_found_and_asked_once(server: S3Server, s3: S3) -> None:
    server.bucket("far", region="eu-central-1")
    server.put("far", "k", b"1")
    assert s3.region_of("far") == "eu-central-1"
    (page,) = s3.versions("far")
    assert [v.key for v in page.versions] == ["k"]
    assert s3.facts("far").region == "eu-central-1"
    asked = server.count("HeadBucket")
    s3.region_of("far")
    list(s3.versions("far"))
    assert server.count("HeadBucket") == asked and server.count(status=301) == 1


def test_what_is_known_of_a_bucket(server: S3Server, s3: S3) -> None:
    assert s3.facts("b") == BucketFacts("us-east-1", "", False, 0)
    server.bucket("locked", object_lock=True)
    assert s3.facts("locked") == BucketFacts("us-east-1", "Enabled", False, 0)
    server.bucket("b", versioning="Suspended")
    s3._for("b").create_multipart_upload(Bucket="b", Key="u")
    assert server.count("GetObjectLockConfiguration") == 0, "nobody reads it"
    assert s3.facts("b") == BucketFacts("us-east-1", "Suspended", False, 1)
    assert s3.versioning("b")[:2] == ("Suspended", False)
    server.deny("s3:ListBucketMultipartUploads")
    assert s3.facts("b").uploads is None
    server.unimplemented.add("GetBucketVersioning")
    assert s3.facts("b").versioning == ""


def test_a_refused_question_about_versioning_is_no_answer(server: S3Server, s3: S3) -> None:
    server.deny("s3:GetBucketVersioning")
    with pytest.raises(Denied):
        s3.facts("b")


def test_mfa_delete(server: S3Server, s3: S3) -> None:
    server.bucket("mfa", versioning="Enabled", mfa_delete=True)
    assert s3.versioning("mfa")[:2] == ("Enabled", True)


def test_the_buckets(server: S3Server, s3: S3) -> None:
    server.bucket("far", region="eu-central-1")
    assert [(found.name, found.region) for found in s3.buckets()] == [("b", "us-east-1"), ("far", "eu-central-1")]


def test_every_request_names_the_owner_it_expects(server: S3Server, s3: S3) -> None:
    s3.identity()
    stored = server.put("b", "k", BODY, parts=(60_000, 40_000))
    archived = server.put("b", "cold", b"1", storage_class="GLACIER")
    seen = headers_seen(server)
    proof = proved(server, s3, "k")
    s3.facts("b")
    list(s3.versions("b"))
    server.versions_listing = False
    list(s3.versions("b"))
    s3.head(version_of(stored))
    s3.part_sizes(version_of(stored), 2)
    list(s3.get(version_of(stored), 65536))
    s3.is_there("b", "k", "null", stored.etag, by_id=False)
    Restorer(s3).restore(version_of(archived), days=1, tier="Bulk")
    deleter_at(s3).delete([proof])
    server.bucket("v", versioning="Enabled")
    server.put("v", "k", b"1")
    server.put("v", "\x01", b"1")
    deleter_at(s3).delete([proved(server, s3, "k", "v"), proved(server, s3, "\x01", "v")])
    Deleter(s3).remove_bucket("v")
    ops = {op for op, _ in seen}
    assert {"DeleteObject", "DeleteObjects", "DeleteBucket", "RestoreObject", "HeadObject", "GetObject"} <= ops
    assert {"ListObjectVersions", "ListObjectsV2", "HeadBucket", "ListMultipartUploads"} <= ops
    for op, headers in seen:
        assert headers.get("x-amz-expected-bucket-owner") == ACCOUNT, op


def test_another_owner_than_the_expected_one_is_denied(server: S3Server) -> None:
    with pytest.raises(Denied, match="expected_bucket_owner"):
        list(connect(server, expected_owner="999999999999").versions("b"))
    assert server.count("ListObjectVersions") == 0


# Listings


def shorten(server: S3Server, size: int) -> None:
    def change(request: Request) -> None:
        request.query["max-keys"] = str(size)

    server.fault({"op": ("ListObjectVersions", "ListObjectsV2")}, change)


ODD_KEYS = [
    "a b",
    "a+b",
    "a%2Bb",
    "new\nline",
    "\x01",
    "\x7f",
    "é",
    "e\u0301",
    "\U0001f600",
    "a&<>\"'",
    "//",
    "/",
    "\\",
]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("versions_listing", [True, False])
def test_pages_come_whole_in_order_and_exact(server: S3Server, s3: S3, size: int, versions_listing: bool) -> None:
    server.versions_listing = versions_listing
    if versions_listing:
        server.bucket("b", versioning="Enabled")
        for number in range(5):
            server.put("b", "many", str(number).encode())
        with server.lock:
            server._insert(server.buckets["b"], Version("gone", is_marker=True))
    for key in ODD_KEYS:
        server.put("b", key, key.encode())
    shorten(server, size)
    pages = list(s3.versions("b"))
    listed = [(v.key, v.version_id) for page in pages for v in page.versions]
    there = server.versions("b")
    assert listed == [(v.key, v.version_id) for v in there if not v.is_marker]
    assert [(m.key, m.version_id) for page in pages for m in page.markers] == [
        (v.key, v.version_id) for v in there if v.is_marker
    ]
    for v in (v for page in pages for v in page.versions):
        stored = server.get("b", v.key, v.version_id)
        assert stored and (v.size, v.etag) == (stored.size, stored.etag)
        assert v.last_modified.tzinfo is UTC and v.checksum_algorithm == "CRC64NVME"
    if versions_listing and size < 1000:
        assert all(page.next for page in pages[:-1]) and pages[-1].next is None
        # From any marker on, the same rest.
        for index, page in enumerate(pages[:-1]):
            rest = list(connect(server).versions("b", page.next))
            assert [p.versions for p in rest] == [p.versions for p in pages[index + 1 :]]
    if not versions_listing:
        assert {page.next for page in pages} == {None}


def test_a_versioned_bucket_is_never_listed_by_its_current_objects(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"1")
    server.versions_listing = False
    with pytest.raises(Failure):
        list(s3.versions("b", versioned=True))
    assert server.count("ListObjectsV2") == 0


def test_restores_are_read_from_the_listing(server: S3Server, s3: S3) -> None:
    until = float(int(server.clock()) + DAY)
    server.put("b", "back", b"1", storage_class="GLACIER", restored_until=until)
    server.put("b", "cold", b"1", storage_class="DEEP_ARCHIVE")
    server.put("b", "under way", b"1", storage_class="GLACIER").restore_ready = server.clock() + DAY
    for versions_listing in (True, False):
        server.versions_listing = versions_listing
        (page,) = s3.versions("b")
        told = {v.key: (v.storage_class, v.restore_ongoing, v.restore_expiry) for v in page.versions}
        assert told == {
            "back": ("GLACIER", False, datetime.fromtimestamp(until, UTC)),
            "cold": ("DEEP_ARCHIVE", None, None),
            "under way": ("GLACIER", True, None),
        }


def rewritten(change: Callable[[ET.Element], object]) -> Callable[[Request, Response], Response]:
    def rewrite(_: Request, response: Response) -> Response:
        root = ET.fromstring(bytes(response.body))
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        change(root)
        response.body = ET.tostring(root)
        return response

    return rewrite


def drop(name: str) -> Callable[[ET.Element], object]:
    def change(root: ET.Element) -> None:
        for element in root.findall(name):
            root.remove(element)

    return change


def put(name: str, text: str) -> Callable[[ET.Element], object]:
    def change(root: ET.Element) -> None:
        for element in root.findall(name):
            element.text = text

    return change


def entries(root: ET.Element) -> list[ET.Element]:
    return [e for e in root if e.tag in ("Version", "Contents")]


def reverse(root: ET.Element) -> None:
    found = entries(root)
    for element in found:
        root.remove(element)
    root.extend(reversed(found))


def repeat(root: ET.Element) -> None:
    root.append(entries(root)[-1])


def back_to_the_start(root: ET.Element) -> None:
    for name in ("NextKeyMarker", "NextVersionIdMarker"):
        put(name, (root.findtext(name.removeprefix("Next")) or ""))(root)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (drop("Name"), "it calls itself None"),
        (put("Name", "other"), "it calls itself other"),
        (drop("IsTruncated"), "whether more follows"),
        (reverse, "out of order"),
        (repeat, "comes twice"),
        (drop("NextKeyMarker"), "does not say where"),
        (put("NextKeyMarker", "a"), "does not say where|move on"),
        (back_to_the_start, "does not move on|does not say where"),
    ],
)
@pytest.mark.parametrize("after", [0, 1])
def test_a_page_that_s3_cannot_have_sent_is_not_believed(
    server: S3Server, s3: S3, change: Callable[[ET.Element], object], why: str, after: int
) -> None:
    for number in range(9):
        server.put("b", f"k{number}", b"1")
    shorten(server, 3)
    server.fault({"op": "ListObjectVersions"}, rewrite=rewritten(change), after=after)
    pages: list[Page] = []
    with pytest.raises(Failure, match=why) as failed:
        for page in s3.versions("b"):
            pages.append(page)
            assert len(pages) < 9, "without end"
    assert len(pages) <= after
    assert "cannot be believed" in str(failed.value)
    assert_one_line(failed.value)


def test_pages_of_one_key_have_to_move_on_too(server: S3Server, s3: S3) -> None:
    server.bucket("b", versioning="Enabled")
    for _ in range(9):
        server.put("b", "k", b"1")
    shorten(server, 3)
    server.fault({"op": "ListObjectVersions"}, rewrite=rewritten(back_to_the_start), after=1)
    with pytest.raises(Failure, match="does not move on"):
        for count, _ in enumerate(s3.versions("b")):
            assert count < 9, "without end"


@pytest.mark.parametrize(
    "change", [drop("NextContinuationToken"), drop("IsTruncated"), put("Name", "x"), repeat, reverse]
)
def test_nor_one_of_the_older_listing(server: S3Server, s3: S3, change: Callable[[ET.Element], object]) -> None:
    server.versions_listing = False
    for number in range(9):
        server.put("b", f"k{number}", b"1")
    shorten(server, 3)
    server.fault({"op": "ListObjectsV2"}, rewrite=rewritten(change), after=1)
    with pytest.raises(Failure, match="cannot be believed"):
        list(s3.versions("b"))


def test_a_token_that_leads_back_is_noticed(server: S3Server, s3: S3) -> None:
    server.versions_listing = False
    for number in range(9):
        server.put("b", f"k{number}", b"1")
    shorten(server, 3)
    tokens: list[str] = []

    def same_token(root: ET.Element) -> None:
        tokens.append(root.findtext("NextContinuationToken") or "")
        put("NextContinuationToken", tokens[0])(root)

    server.fault({"op": "ListObjectsV2"}, rewrite=rewritten(same_token))
    with pytest.raises(Failure, match="cannot be believed"):
        list(s3.versions("b"))
    assert len(tokens) < 5


def test_an_entry_repeated_at_the_seam_of_two_pages_is_the_same_one(server: S3Server, s3: S3) -> None:
    """MiniStack begins a page with the very entry that the marker names."""
    server.bucket("b", versioning="Enabled")
    for number in range(4):
        for _ in range(3):
            server.put("b", f"k{number}", b"1")
    shorten(server, 4)
    last: list[ET.Element] = []

    def again(root: ET.Element) -> None:
        found = entries(root)
        if last:
            root.insert(list(root).index(found[0]), last.pop())
        last.append(found[-1])

    server.fault({"op": "ListObjectVersions"}, rewrite=rewritten(again))
    listed = [(v.key, v.version_id) for page in s3.versions("b") for v in page.versions]
    assert listed == [(v.key, v.version_id) for v in server.versions("b")]


@pytest.mark.parametrize("op", ["ListObjectVersions", "ListObjectsV2"])
def test_a_portals_page_is_no_listing(server: S3Server, s3: S3, op: str) -> None:
    server.versions_listing = op == "ListObjectVersions"
    server.put("b", "k", b"1")
    s3.region_of("b")
    server.fault({"op": op}, "garbage-200")
    with pytest.raises(Failure) as failed:
        list(s3.versions("b"))
    assert_one_line(failed.value)


def test_an_empty_bucket_is_empty(s3: S3) -> None:
    assert list(s3.versions("b")) == [Page((), (), None)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_entries_stay_in_order_over_pages(server: S3Server, s3: S3, size: int) -> None:
    for number in range(12):
        server.put("b", f"{number:02}", b"1")
    shorten(server, size)
    keys = [v.key for page in s3.versions("b") for v in page.versions]
    assert len(keys) == 12 and all(a < b for a, b in pairwise(keys))


# One object


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
def test_a_head_says_all(server: S3Server, s3: S3, versioning: Any) -> None:
    server.buckets["b"].versioning = versioning
    stored = server.put("b", "k", BODY, checksums=("SHA256",), storage_class="GLACIER", restored_until=2e9)
    head, parts = s3.head(version_of(stored))
    assert (head.etag, head.size, head.storage_class, parts) == (stored.etag, len(BODY), "GLACIER", 0)
    assert (dict(head.checksums), head.checksum_type) == (stored.checksums, "FULL_OBJECT")
    assert (head.restore_ongoing, head.restore_expiry) == (False, datetime.fromtimestamp(2e9, UTC))
    assert (head.version_id, head.encryption) == (stored.version_id, "AES256")
    kms = server.put("b", "kms", BODY, etag="kms", checksums=())
    head, _ = s3.head(version_of(kms))
    assert (head.encryption, dict(head.checksums), head.restore_ongoing) == ("aws:kms", {}, None)
    tiered = server.put("b", "it", b"1", storage_class="INTELLIGENT_TIERING", archive_status="ARCHIVE_ACCESS")
    assert s3.head(version_of(tiered))[0].archive_status == "ARCHIVE_ACCESS"


@pytest.mark.parametrize(
    ("parts", "told", "every"),
    [
        ((60_000, 40_000), (60_000, 40_000), (60_000, 40_000)),
        ((30_000, 30_000, 30_000, 10_000), (30_000, 30_000), (30_000, 30_000, 30_000, 10_000)),
        ((30_000, 30_000, 35_000, 5_000), (30_000, 30_000), (30_000, 30_000, 35_000, 5_000)),
        ((30_000, 20_000, 50_000), (30_000, 20_000, 50_000), (30_000, 20_000, 50_000)),
        ((100_000,), (100_000,), (100_000,)),
    ],
)
def test_the_sizes_of_the_parts(
    server: S3Server, s3: S3, parts: tuple[int, ...], told: tuple[int, ...], every: tuple[int, ...]
) -> None:
    version = version_of(server.put("b", "k", BODY, parts=parts))
    assert s3.part_sizes(version, len(parts)) == told
    assert server.count("HeadObject") == len(told)
    assert s3.part_sizes(version, len(parts), every=True) == every


def test_a_server_that_does_not_tell_parts_apart_is_not_believed(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY, parts=(60_000, 40_000)))
    server.fault({"op": "HeadObject"}, lambda request: request.query.pop("partNumber", None))
    assert s3.part_sizes(version, 2) == ()


def test_a_get_brings_exactly_the_version(server: S3Server, s3: S3) -> None:
    server.bucket("b", versioning="Enabled")
    old, new = server.put("b", "k", BODY), server.put("b", "k", b"newer")
    assert b"".join(s3.get(version_of(old, is_latest=False), 4096)) == BODY
    assert b"".join(s3.get(version_of(new), 4096)) == b"newer"
    assert {entry.query.get("versionId") for entry in server.requests if entry.op == "GetObject"} == {
        old.version_id,
        new.version_id,
    }


@pytest.mark.parametrize("versioning", ["", "Suspended"])
def test_a_null_version_is_pinned_by_its_etag(server: S3Server, s3: S3, versioning: Any) -> None:
    server.buckets["b"].versioning = versioning
    seen = headers_seen(server)
    version = version_of(server.put("b", "k", b"listed"))
    assert b"".join(s3.get(version, 4096)) == b"listed"
    assert [headers["if-match"] for op, headers in seen if op == "GetObject"] == [f'"{version.etag}"']
    server.put("b", "k", b"newer!")
    for ask in (lambda: s3.head(version), lambda: list(s3.get(version, 4096))):
        with pytest.raises(Moved) as failed:
            ask()
        assert_one_line(failed.value)


def asked(s3: S3, version: ObjectVersion) -> Iterator[Callable[[], object]]:
    yield lambda: s3.head(version)
    yield lambda: list(s3.get(version, 4096))


def questions(s3: S3, version: ObjectVersion) -> dict[str, Callable[[], object]]:
    """What is asked about one version, by the operation."""
    return {
        "HeadObject": lambda: s3.head(version),
        "HeadObject of parts": lambda: s3.part_sizes(version, 2),
        "HeadObject for metadata": lambda: s3.metadata(version),
        "HeadObject for locks": lambda: s3.hold(version),
        "GetObject": lambda: list(s3.get(version, 4096)),
        "GetObject of a range": lambda: list(s3.get(version, 4096, 3)),
        "GetObjectTagging": lambda: s3.tags(version),
        "RestoreObject": lambda: Restorer(s3).restore(version, days=1, tier="Bulk"),
    }


@pytest.mark.parametrize("above", ["version", "marker"])
@pytest.mark.parametrize("question", list(questions(S3.__new__(S3), ObjectVersion.__new__(ObjectVersion))))
def test_answer_about_another_version_is_no_answer(server: S3Server, s3: S3, question: str, above: str) -> None:
    server.bucket("b", versioning="Enabled")
    how: dict[str, Any] = {"storage_class": "GLACIER"} if question == "RestoreObject" else {}
    if "parts" in question:
        how["parts"] = (3, 3)
    version = version_of(server.put("b", "k", b"before", **how), is_latest=False)
    if above == "version":
        server.put("b", "k", b"after!", **how)
    else:
        under_a_marker(server)
    ask = questions(s3, version)[question]
    ask()
    server.fault({"op": question.partition(" ")[0]}, "ignore-version")
    if question == "RestoreObject" and above == "version":
        ask()  # its answer names no version; the next look at S3 tells
        return
    with pytest.raises(WrongVersion) as failed:
        ask()
    assert_one_line(failed.value)


@pytest.mark.parametrize("question", ["HeadObject", "GetObject"])
def test_answer_without_version_id_is_known_by_its_etag(server: S3Server, s3: S3, question: str) -> None:
    server.bucket("b", versioning="Enabled")
    version = version_of(server.put("b", "k", b"before"), is_latest=False)
    server.put("b", "k", b"after!")
    server.fault({"op": question}, rewrite=headed("x-amz-version-id", None))
    questions(s3, version)[question]()
    with pytest.raises(WrongVersion):  # listed without an ETag, answered without an id: nothing tells which one it is
        questions(s3, replace(version, etag=""))[question]()
    server.fault({"op": question}, "ignore-version")
    with pytest.raises(WrongVersion):
        questions(s3, version)[question]()


@pytest.mark.parametrize(
    ("etag", "same"), [("{}", True), ('"{}"', True), ('W/"{}"', False), ('"{}-1"', False), ('"A{}"', False)]
)
def test_etag_of_answer_is_compared_without_quotes(server: S3Server, s3: S3, etag: str, same: bool) -> None:
    server.bucket("b", versioning="Enabled")
    version = version_of(server.put("b", "k", BODY))
    server.fault({"op": ("GetObject", "HeadObject")}, rewrite=headed("ETag", etag.format(version.etag)))
    for ask in asked(s3, version):
        if same:
            ask()
        else:
            with pytest.raises(WrongVersion):
                ask()


def test_precondition_failed_is_not_a_change_of_a_version(server: S3Server, s3: S3) -> None:
    """A cache may answer 412 by a condition of its own; a version cannot change."""
    server.bucket("b", versioning="Enabled")
    version = version_of(server.put("b", "k", BODY))
    seen = headers_seen(server)
    list(s3.get(version, 4096))
    assert not [headers for _, headers in seen if "if-match" in headers]
    server.fault({"op": ("GetObject", "HeadObject")}, rewrite=lambda *_: Response(412))
    for ask in asked(s3, version):
        with pytest.raises(WrongVersion):
            ask()


def test_null_version_under_a_marker_is_moved_not_gone(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    beneath = replace(version, is_latest=False)
    server.bucket("b", versioning="Enabled")
    under_a_marker(server)
    for ask in asked(s3, version):
        with pytest.raises(Moved):
            ask()
    assert b"".join(s3.get(beneath, 4096)) == BODY
    server.buckets["b"].versioning = "Suspended"
    under_a_marker(server)  # takes the id `null` over
    for ask in (*asked(s3, version), *asked(s3, beneath)):
        with pytest.raises(Gone):
            ask()


@pytest.mark.parametrize("stated", ["bytes 0-59999/100001", "bytes 1-60000/100000"])
def test_part_of_another_range_tells_no_sizes(server: S3Server, s3: S3, stated: str) -> None:
    version = version_of(server.put("b", "k", BODY, parts=(60_000, 40_000)))
    assert s3.part_sizes(version, 2) == (60_000, 40_000)
    server.fault({"op": "HeadObject"}, rewrite=headed("Content-Range", stated))
    assert s3.part_sizes(version, 2) == ()


def test_head_answered_for_a_part_is_no_answer_for_the_whole(server: S3Server, s3: S3) -> None:
    """From a cache whose key leaves the query out."""
    version = version_of(server.put("b", "k", BODY, parts=(60_000, 40_000)))
    server.fault({"op": "HeadObject"}, lambda request: request.query.update(partNumber="1"))
    with pytest.raises(Unreachable):
        s3.head(version)


@pytest.mark.parametrize("size", [0, len(BODY) - 1, len(BODY) + 1])
def test_another_size_than_listed_is_a_contradiction(server: S3Server, s3: S3, size: int) -> None:
    version = replace(version_of(server.put("b", "k", BODY)), size=size)
    for ask in asked(s3, version):
        with pytest.raises(SizeDiffers) as failed:
            ask()
        assert_one_line(failed.value)


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_gone(server: S3Server, s3: S3, versioning: Any) -> None:
    server.buckets["b"].versioning = versioning
    version = version_of(server.put("b", "k\n", BODY))
    server.remove("b", "k\n", version.version_id)
    for ask in asked(s3, version):
        with pytest.raises(Gone, match=r"k\\n is not in S3") as failed:
            ask()
        assert_one_line(failed.value)


PAGE_404 = [
    Response(404, [("Content-Type", "text/html")], b"<html><body>Not Found<br></body></html>"),
    Response(404, [("Content-Type", "text/html")], b"<html><body>Not Found</body></html>"),  # this one is XML, too
    Response(404),
]


@pytest.mark.parametrize("page", PAGE_404)
@pytest.mark.parametrize("ops", [("HeadObject",), ("HeadObject", "GetObject")])
def test_not_found_page_of_a_proxy_is_no_answer(server: S3Server, s3: S3, ops: tuple[str, ...], page: Response) -> None:
    version = version_of(server.put("b", "k", BODY))
    s3.region_of("b")
    server.fault({"op": ops}, rewrite=lambda *_: page)
    questions = [lambda: s3.head(version), lambda: s3.hold(version), lambda: s3.presence(version, by_id=False)]
    if "GetObject" in ops:
        questions.append(lambda: list(s3.get(version, 4096)))
    for ask in questions:
        with pytest.raises(Unreachable) as failed:
            ask()
        assert_one_line(failed.value)
    assert s3.is_there("b", "k", "null", version.etag, by_id=False) is None


@pytest.mark.parametrize(
    "page", [b"<html><body>Log in</body></html>", b'<?xml version="1.0"?>\n<!DOCTYPE html><html></html>']
)
def test_page_of_a_portal_is_no_answer_about_a_bucket(server: S3Server, s3: S3, page: bytes) -> None:
    """As XML it has no Status, no rule and no lock in it: it must not pass for a bucket that has none."""
    server.bucket("b", versioning="Enabled")
    s3.region_of("b")
    server.fault(
        {"bucket": "b", "key": ""}, rewrite=lambda *_: Response(200, [("Content-Type", "application/xml")], page)
    )
    questions: list[Callable[[], object]] = [
        lambda: s3.versioning("b"),
        lambda: s3.facts("b"),
        lambda: s3.may_hold("b"),
        lambda: s3.has_object_lock("b"),
        lambda: s3.archives_by_tiering("b"),
        lambda: s3.configuration("b"),
        lambda: list(s3.uploads("b")),
        lambda: next(s3.versions("b")),
    ]
    for ask in questions:
        with pytest.raises(Failure) as failed:
            ask()
        assert not isinstance(failed.value, (Gone, Denied, Refusal))
        assert_one_line(failed.value)


def test_archived(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY, storage_class="DEEP_ARCHIVE"))
    s3.head(version)
    with pytest.raises(Archived) as failed:
        list(s3.get(version, 4096))
    assert_one_line(failed.value)


def test_denied(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    s3.region_of("b")
    server.deny("s3:GetObject")
    for ask in asked(s3, version):
        with pytest.raises(Denied) as failed:
            ask()
        assert_one_line(failed.value)


@pytest.mark.parametrize("action", ["truncate", "reset-before", "lost-reply", "503", "500"])
def test_no_proper_answer(server: S3Server, s3: S3, action: Any) -> None:
    version = version_of(server.put("b", "k", BODY))
    s3.region_of("b")
    server.fault({"op": ("GetObject", "HeadObject")}, action)
    for ask in asked(s3, version):
        with pytest.raises(Unreachable) as failed:
            ask()
        assert_one_line(failed.value)


@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("start", [0, 1, 4096, len(BODY) - 1])
@pytest.mark.parametrize("in_background", [False, True])
def test_a_get_from_the_middle_on(server: S3Server, s3: S3, versioning: Any, start: int, in_background: bool) -> None:
    server.buckets["b"].versioning = versioning
    version = version_of(server.put("b", "k", BODY))
    seen = headers_seen(server)
    body = s3.get(version, 4096, start, stop=Event() if in_background else None)
    assert b"".join(body) == BODY[start:] and body.checked == (not start) and not body.opaque
    ((_, headers),) = [one for one in seen if one[0] == "GetObject"]
    assert headers.get("range", "") == (f"bytes={start}-" if start else "")
    assert headers.get("if-match", "") == ("" if versioning else f'"{version.etag}"')


def test_the_checksum_of_the_whole_is_not_held_against_a_part(server: S3Server, s3: S3) -> None:
    stored = server.put("b", "k", BODY)
    name, value = next(iter(stored.checksums.items()))

    def add(request: Request, response: Response) -> None:
        response.headers.append((f"x-amz-checksum-{name.lower()}", value))

    server.fault({"op": "GetObject"}, rewrite=add)
    assert b"".join(s3.get(version_of(stored), 4096, 50_000)) == BODY[50_000:]


@pytest.mark.parametrize("start", [1, 4096, 50_001])
def test_a_server_that_ignores_ranges_is_understood(server: S3Server, s3: S3, start: int) -> None:
    version = version_of(server.put("b", "k", BODY))
    server.fault({"op": "GetObject"}, lambda request: request.headers.pop("range", None))
    assert b"".join(s3.get(version, 4096, start)) == BODY[start:]


def headed(name: str, value: str | None) -> Callable[[Request, Response], None]:
    """A rewriting of one header of the answer; away with it where there is no value."""

    def rewrite(request: Request, response: Response) -> None:
        response.headers = [one for one in response.headers if one[0].lower() != name.lower()]
        if value is not None:
            response.headers.append((name, value))

    return rewrite


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "bytes 0-49999/100000",
        "bytes 49999-99999/100000",
        "bytes 50000-99998/100000",
        "bytes 50000-99999/100001",
        "bytes 50000-99999/*",
        "items 50000-99999/100000",
    ],
)
def test_another_range_than_asked_for_is_no_answer(server: S3Server, s3: S3, said: str | None) -> None:
    version = version_of(server.put("b", "k", BODY))
    server.fault({"op": "GetObject"}, rewrite=headed("Content-Range", said))
    with pytest.raises(Unreachable, match="asked for the bytes from 50,000 on") as failed:
        list(s3.get(version, 4096, 50_000))
    assert_one_line(failed.value)


@pytest.mark.parametrize("start", [0, 50_000])
def test_an_answer_about_another_object_gives_no_byte(server: S3Server, s3: S3, start: int) -> None:
    version = version_of(server.put("b", "k", BODY))
    ignores = server.fault({"op": "GetObject"}, lambda request: request.headers.pop("if-match", None))
    server.put("b", "k", bytes(len(BODY)))
    with pytest.raises(Moved):
        next(s3.get(version, 4096, start))
    server.calm(ignores)
    version = version_of(server.put("b", "k", BODY))
    answers: dict[type[Failure], Any] = {
        Unreachable: headed("ETag", None),
        SizeDiffers: lambda *_: Response(200, [("ETag", f'"{version.etag}"')], b"log in"),
    }
    for failure, rewrite in answers.items():
        server.calm()
        server.fault({"op": "GetObject"}, rewrite=rewrite)
        with pytest.raises(failure) as failed:
            next(s3.get(version, 4096, start))
        assert_one_line(failed.value)


def test_what_the_head_of_an_answer_says_of_the_etag(server: S3Server, s3: S3) -> None:
    stored = server.put("b", "k", BODY, checksums=())
    for encryption, opaque in (("", False), ("AES256", False), ("aws:kms", True), ("aws:kms:dsse", True)):
        stored.encryption = encryption
        body = s3.get(version_of(stored), 4096)
        next(body)
        assert (body.opaque, body.checked) == (opaque, False)
        body.close()


def test_a_flip_is_corruption_where_s3_sent_a_checksum(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    server.fault({"op": "GetObject"}, "flip")
    for stop in (None, Event()):
        with pytest.raises(Corrupted) as failed:
            list(s3.get(version, 4096, stop=stop))
        assert_one_line(failed.value)


def test_who_repeats_himself_has_each_request_sent_once(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    fault = server.fault({"op": "GetObject"}, "503")
    with pytest.raises(Throttled):
        list(s3.get(version, 4096, stop=Event()))
    assert fault.hits == 1


class Impatient(Event):
    """Remembers for how long it was to be waited for, and is set then."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout or 0)
        return True


def test_all_wait_together_and_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate_v2.edges.s3.SLOW_DOWN", 60.0)
    pace, stop = Pace(), Impatient()
    first, second = pace.wait(stop), pace.wait(stop)
    assert stop.asked == []
    for began in (first, second):
        pace.slow_down(began)  # the second was under way already: one reason, not two
    pace.slow_down(pace.wait(stop))
    pace.wait(stop)
    once, twice = stop.asked
    assert 30 < once <= 90 and 90 < twice <= 180, "60 and 120, and up to half as much again"
    for _ in range(9):
        pace.went_well()
    pace.slow_down(pace.wait(stop))
    pace.wait(stop)
    assert 30 < stop.asked[-1] <= 90
    ending = Event()
    ending.set()
    before = time.monotonic()
    pace.wait(ending)
    assert time.monotonic() - before < 20, "not when it is to end"


@pytest.mark.parametrize("action", ["stall", "delay", "slow"])
def test_a_get_ends_soon_after_the_flag_whatever_hangs(server: S3Server, s3: S3, action: Any) -> None:
    version = version_of(server.put("b", "k", BODY))
    server.fault({"op": "GetObject"}, action, seconds=20.0, rate=1000.0)
    stop = Event()
    Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Unreachable, match="interrupted"):
        list(s3.get(version, 65536, stop=stop))
    assert 0.15 < time.monotonic() - began < 15


def test_a_get_that_is_left_early_gives_its_connection_and_its_thread_back(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    list(s3.get(version, 4096, stop=Event()))
    threads = {thread for thread in threading.enumerate() if thread.name == "drawer"}
    for _ in range(5):
        body = s3.get(version, 4096, stop=Event())
        next(body)
        body.close()
        until = time.monotonic() + 60
        while not _IDLE and time.monotonic() < until:
            time.sleep(0.01)
    assert {thread for thread in threading.enumerate() if thread.name == "drawer"} == threads


def test_a_connection_that_breaks_in_the_body_gives_no_end(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    server.fault({"op": "GetObject"}, "truncate", at=50_000)
    got = bytearray()
    with pytest.raises(Unreachable):
        for block in s3.get(version, 4096):
            got += block
    assert len(got) <= 50_000


def test_a_portals_page_in_place_of_an_object(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    s3.region_of("b")
    server.fault({"op": ("GetObject", "HeadObject")}, "garbage-200")
    with pytest.raises(Failure) as failed:
        s3.head(version)
    assert_one_line(failed.value)


def test_an_expired_token_is_told_as_such_everywhere(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", BODY))
    s3.region_of("b")
    server.fault({}, "expired-token")
    asks: list[Callable[[], object]] = [
        *asked(s3, version),
        lambda: list(s3.versions("b")),
        lambda: s3.facts("b"),
        lambda: list(s3.buckets()),
        lambda: Restorer(s3).restore(version, days=1, tier="Bulk"),
    ]
    for ask in asks:
        with pytest.raises(Failure) as failed:
            ask()
        assert_one_line(failed.value)


def test_nobody_listens(server: S3Server, s3: S3) -> None:
    server.stop()
    with pytest.raises(Unreachable, match=r"cannot reach http://127.0.0.1") as failed:
        list(s3.versions("b"))
    assert_one_line(failed.value)


def test_no_such_bucket(s3: S3) -> None:
    with pytest.raises(Gone, match="bucket nowhere") as failed:
        list(s3.versions("nowhere"))
    assert_one_line(failed.value)


# Restores


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_a_restore_is_asked_for_by_id_and_only_once(server: S3Server, s3: S3, versioning: Any) -> None:
    server.buckets["b"].versioning = versioning
    stored = server.put("b", "k", b"1", storage_class="GLACIER")
    for status, word in ((202, "started"), (409, "under way")):
        assert Restorer(s3).restore(version_of(stored), days=3, tier="Bulk") == Answer(word, "Bulk", 3)
        assert server.requests[-1].status == status
    server.advance(13 * 3600)
    assert Restorer(s3).restore(version_of(stored), days=3, tier="Bulk") == Answer("back", "Bulk", 3)
    assert server.requests[-1].status == 200
    assert server.requests[-1].query.get("versionId", "null") == stored.version_id
    assert (stored.restore_days, stored.restore_tier) == (3, "Bulk")


def test_expedited_falls_back_to_standard(server: S3Server, s3: S3) -> None:
    stored = server.put("b", "k", b"1", storage_class="GLACIER")
    server.expedited_capacity = False
    assert Restorer(s3).restore(version_of(stored), days=1, tier="Expedited").tier == "Standard"
    assert stored.restore_tier == "Standard"
    deep = server.put("b", "deep", b"1", storage_class="DEEP_ARCHIVE")
    assert Restorer(s3).restore(version_of(deep), days=1, tier="Expedited") == Answer("started", "Standard", 1)


def test_intelligent_tiering_is_restored_without_days(server: S3Server, s3: S3) -> None:
    stored = server.put("b", "k", b"1", storage_class="INTELLIGENT_TIERING", archive_status="DEEP_ARCHIVE_ACCESS")
    Restorer(s3).restore(version_of(stored), days=3, tier="Standard")
    assert server.requests[-1].status == 202
    server.advance(13 * 3600)
    assert s3.head(version_of(stored))[0].archive_status == ""
    assert Restorer(s3).restore(version_of(stored), days=3, tier="Standard") == Answer("active", "Standard", None)


def test_restores_that_cannot_be(server: S3Server, s3: S3) -> None:
    stored = server.put("b", "k", b"1", storage_class="GLACIER")
    s3.region_of("b")
    server.deny("s3:RestoreObject")
    with pytest.raises(Denied) as failed:
        Restorer(s3).restore(version_of(stored), days=1, tier="Bulk")
    assert_one_line(failed.value)
    server.allow()
    server.remove("b", "k", "null")
    with pytest.raises(Gone):
        Restorer(s3).restore(version_of(stored), days=1, tier="Bulk")


def listed_from(s3: S3, key: str) -> list[str]:
    return [version.key for version in s3.listed_from("b", key)[0]]


@pytest.mark.parametrize("versions_listing", [True, False])
@pytest.mark.parametrize("key", ["a", "a b", "a/b", "a\x00", "b\ue000", "\U0001f600", "a" * 1023 + "b", "é"])
def test_a_listing_can_begin_with_any_key(server: S3Server, s3: S3, key: str, versions_listing: bool) -> None:
    keys = sorted(["a", "a b", "a/b", "a\x00", "b\ue000", "\U0001f600", "a" * 1023 + "b", "é"], key=str.encode)
    for one in keys:
        server.put("b", one, b"1", storage_class="GLACIER", restored_until=server.clock() + DAY)
    server.versions_listing = versions_listing
    assert listed_from(s3, key) == keys[keys.index(key) :]
    versions, whole = s3.listed_from("b", key)
    assert whole and all(v.restore_ongoing is False and v.restore_expiry for v in versions)


def test_a_marker_just_before_a_key_has_little_between_them() -> None:
    assert just_before("\x00") == "" and just_before("k\x00") == "k"
    assert just_before("kb") == "ka\U0010ffff"
    assert just_before("\ue000") == "\ud7ff\U0010ffff", "half a surrogate is no character"
    assert len(just_before("k" * 1024).encode()) <= 1024


def test_a_rule_of_tiering_is_seen_whatever_its_status(server: S3Server, s3: S3) -> None:
    assert not s3.archives_by_tiering("b")
    s3.client_for("b").put_bucket_intelligent_tiering_configuration(
        Bucket="b",
        Id="old",
        IntelligentTieringConfiguration={
            "Id": "old",
            "Status": "Disabled",
            "Tierings": [{"Days": 180, "AccessTier": "DEEP_ARCHIVE_ACCESS"}],
        },
    )
    assert s3.archives_by_tiering("b")
    server.deny("s3:GetIntelligentTieringConfiguration", "b")
    assert not s3.archives_by_tiering("b"), "the fetch finds it out"


# Deletes

IDENTITY = FileIdentity(1, 2, 3, 4, 5)


def proved(server: S3Server, s3: S3, key: str, bucket: str = "b", version_id: str | None = None) -> Proof:
    stored = server.get(bucket, key, version_id)
    assert stored
    newest = server.get(bucket, key)
    versioning, mfa_delete, _ = s3.versioning(bucket)
    site = Site(s3.identity().account, s3.endpoint_of(bucket), bucket, versioning, mfa_delete)
    identity = replace(IDENTITY, size=stored.size)
    row = Row(
        version_of(stored, bucket, is_latest=newest is stored),
        FileState.VERIFIED,
        Verdict.MATCH,
        place=Place.PLAIN,
        path=f"{bucket}/x",
        sha256="0" * 64,
        witnesses=(Witness("md5-etag", stored.etag, 128),),
        identity=identity,
        read_run="run",
        sealed=True,
    )
    proof = prove(row, site, "run", Rules(null_settled=True), identity=identity)
    assert isinstance(proof, Proof), proof
    return proof


def deleter_at(s3: S3, *buckets: str) -> Deleter:
    """One that has seen its endpoint refuse a wrong ETag."""
    deleter = Deleter(s3)
    deleter._refuses |= {*buckets, "b", "v"}
    return deleter


def marker_proof(s3: S3, bucket: str, marker: Version) -> Proof:
    versioning, mfa_delete, _ = s3.versioning(bucket)
    site = Site(s3.identity().account, s3.endpoint_of(bucket), bucket, versioning, mfa_delete)
    subject = DeleteMarker(bucket, marker.key, marker.version_id, True, datetime.now(UTC))
    proof = prove(subject, site, "run", Rules(null_settled=True), left_beneath=0)
    assert isinstance(proof, Proof), proof
    return proof


def test_a_null_version_goes_by_the_etag_that_was_proved(server: S3Server, s3: S3) -> None:
    stored = server.put("b", "k", BODY)
    proof = proved(server, s3, "k")
    seen = headers_seen(server)
    (outcome,) = deleter_at(s3).delete([proof])
    assert outcome.gone and server.get("b", "k") is None
    sent = [headers for op, headers in seen if op == "DeleteObject"]
    assert [headers.get("if-match") for headers in sent] == [None, f'"{"0" * 32}"', f'"{stored.etag}"']


def test_a_version_goes_by_its_id_and_no_other(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"null")
    server.bucket("b", versioning="Enabled")
    old, new = server.put("b", "k", b"old"), server.put("b", "k", b"new")
    with server.lock:
        marker = server._insert(server.buckets["b"], Version("k", is_marker=True))
    seen = headers_seen(server)
    proofs = [proved(server, s3, "k", version_id="null"), proved(server, s3, "k", version_id=old.version_id)]
    outcomes = deleter_at(s3).delete([*proofs, marker_proof(s3, "b", marker)])
    assert [outcome.gone for outcome in outcomes] == [True] * 3
    assert server.versions("b") == [replace(new, is_latest=True)]
    assert all("if-match" not in headers for op, headers in seen)
    assert server.count("DeleteObjects") == 1 and server.count("DeleteObject") == 0


@pytest.mark.parametrize("key", ["\x01", "a\x1fb", "\ufffe", "\r\n"])
def test_keys_that_xml_cannot_name_go_one_by_one_and_by_id(server: S3Server, s3: S3, key: str) -> None:
    server.bucket("b", versioning="Enabled")
    server.put("b", key, b"1")
    server.put("b", "plain", b"1")
    outcomes = deleter_at(s3).delete([proved(server, s3, "plain"), proved(server, s3, key)])
    assert [outcome.gone for outcome in outcomes] == [True, True] and server.versions("b") == []


def test_an_object_overwritten_meanwhile_stays(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"proved")
    proof = proved(server, s3, "k")
    server.fault({"op": "DeleteObject", "key": "k"}, lambda _: server.put("b", "k", b"newer!"), times=1)
    (outcome,) = deleter_at(s3).delete([proof])
    assert (outcome.gone, outcome.unknown, outcome.text) == (False, False, CHANGED)
    current = server.get("b", "k")
    assert current and current.body == b"newer!" and server.deletes == []


def test_an_endpoint_that_ignores_if_match_is_refused_before_anything_goes(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"1")
    proof = proved(server, s3, "k")
    server.honours_if_match = False
    assert not Deleter(s3).honours_if_match("b")
    with pytest.raises(Refused, match="ignores If-Match") as refused:
        deleter_at(s3).delete([proof])
    assert_one_line(refused.value)
    assert server.deletes == [] and server.get("b", "k")


@pytest.mark.parametrize("action", ["503", "access-denied", "garbage-200"])
def test_a_canary_without_its_answer_is_no_leave(server: S3Server, s3: S3, action: Any) -> None:
    server.put("b", "k", b"1")
    proof = proved(server, s3, "k")
    server.fault({"op": "DeleteObject"}, action, times=1)
    with pytest.raises(Failure):
        deleter_at(s3).delete([proof])
    assert server.deletes == []


def test_the_canary_is_asked_once_and_names_nothing_that_can_be(server: S3Server, s3: S3) -> None:
    server.put("b", "k1", b"1")
    server.put("b", "k2", b"1")
    proofs = [proved(server, s3, "k1"), proved(server, s3, "k2")]
    deleter = deleter_at(s3)
    for proof in proofs:
        deleter.delete([proof])
    keys = [entry.key for entry in server.requests if entry.op == "DeleteObject"]
    # Without the header, and with it.
    assert len(keys) == 4 and keys[0] == keys[1]
    assert keys[0].startswith(".migrate-v2-canary-") and len(keys[0]) > 50
    by_id = [entry.query.get("versionId") for entry in server.requests if entry.op == "DeleteObject"]
    assert by_id == ["null", None, None, None]


def test_an_endpoint_that_knows_no_versions_is_asked_by_if_match_alone(server: S3Server, s3: S3) -> None:
    def refuses(request: Request, response: Response) -> Response:
        return error_response(S3Error(501, "NotImplemented"), request.key) if "versionId" in request.query else response

    server.fault({"op": "DeleteObject"}, rewrite=refuses)
    assert Deleter(s3).honours_if_match("b")
    server.honours_if_match = False
    assert not Deleter(s3).honours_if_match("b")


def test_each_key_of_a_batch_has_its_own_outcome(server: S3Server, s3: S3) -> None:
    server.bucket("locked", object_lock=True)
    for key in ("fine", "held", "retained", "gone", "also"):
        server.put("locked", key, b"1", legal_hold=key == "held")
    retained = server.get("locked", "retained")
    assert retained
    retained.lock_mode, retained.retain_until = "COMPLIANCE", server.clock() + DAY
    proofs = [proved(server, s3, key, "locked") for key in ("fine", "held", "retained", "gone", "also")]
    server.remove("locked", "gone", proofs[3].version_id)
    outcomes = deleter_at(s3).delete(proofs)
    assert [(o.gone, o.unknown) for o in outcomes] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
        (True, False),
    ]
    assert "AccessDenied" in outcomes[1].text and "object lock" in outcomes[1].text
    assert {v.key for v in server.versions("locked")} == {"held", "retained"}
    # A key that the answer does not mention is unknown, not gone.
    server.put("locked", "silent", b"1")
    proof = proved(server, s3, "silent", "locked")
    server.fault({"op": "DeleteObjects"}, rewrite=rewritten(drop("Deleted")))
    (outcome,) = deleter_at(s3).delete([proof])
    assert (outcome.gone, outcome.unknown) == (False, True)


@pytest.mark.parametrize(
    ("versioning", "action"),
    [*((v, a) for v in ("", "Enabled") for a in ("lost-reply", "reset-before", "503", "500")), ("Enabled", "truncate")],
)
def test_a_lost_answer_is_unknown_and_nothing_is_sent_twice(
    server: S3Server, s3: S3, versioning: Any, action: Any
) -> None:
    server.buckets["b"].versioning = versioning
    stored = server.put("b", "k", b"1")
    proof = proved(server, s3, "k")
    deleter = deleter_at(s3)
    if not versioning:
        deleter.must_honour_if_match("b")
    fault = server.fault({"op": ("DeleteObject", "DeleteObjects")}, action)
    (outcome,) = deleter.delete([proof])
    assert (outcome.gone, outcome.unknown, fault.hits) == (False, True, 1)
    there = s3.is_there("b", "k", stored.version_id, stored.etag, by_id=bool(versioning))
    assert there is (action not in ("lost-reply", "truncate"))


@pytest.mark.parametrize("kind", ["version", "marker", "null"])
@pytest.mark.parametrize("single", [True, False])
def test_delete_that_ignores_the_version_id_is_unknown(server: S3Server, s3: S3, kind: str, single: bool) -> None:
    """Such a server puts a delete marker on top; what was to go is still there."""
    key = "k\n" if single else "k"  # a key that XML cannot name goes by itself
    server.put("b", key, b"null")
    server.bucket("b", versioning="Enabled")
    if kind == "version":
        server.put("b", key, b"version")
    proof = proved(server, s3, key)
    if kind == "marker":
        made = DeleteMarker("b", key, under_a_marker(server, key).version_id, True, datetime.now(UTC))
        released = prove(made, proof.site, "run", Rules(null_settled=True), left_beneath=0)
        assert isinstance(released, Proof)
        proof = released

    def forget(request: Request) -> None:
        request.query.pop("versionId", None)
        request.body = re.sub(b"<VersionId>[^<]*</VersionId>", b"", request.body)
        for name in [name for name in request.headers if name.startswith(("x-amz-checksum", "x-amz-content-sha256"))]:
            del request.headers[name]
        request.headers["content-md5"] = b64(digest("MD5", request.body))

    def echo(_: Request, response: Response) -> None:
        named = f"</Key><VersionId>{proof.version_id}</VersionId>".encode()
        response.body = bytes(response.body).replace(b"</Key>", named)

    before = {v.version_id for v in server.versions("b")}
    server.fault({"op": ("DeleteObject", "DeleteObjects")}, forget, rewrite=None if single else echo)
    (outcome,) = deleter_at(s3).delete([proof])
    assert before < {v.version_id for v in server.versions("b")}, "the fault is as meant"
    assert (outcome.gone, outcome.unknown, outcome.wrong_version) == (False, True, True)


def test_a_portals_page_is_not_a_delete(server: S3Server, s3: S3) -> None:
    for versioning in ("", "Enabled"):
        server.buckets["b"].versioning = versioning
        server.put("b", "k", b"1")
        proof = proved(server, s3, "k")
        deleter = deleter_at(s3)
        deleter._honest.add("b")
        fault = server.fault({"op": ("DeleteObject", "DeleteObjects")}, "garbage-200")
        (outcome,) = deleter.delete([proof])
        assert (outcome.gone, outcome.unknown) == (False, True), versioning
        server.calm(fault)


def test_a_proof_of_another_account_endpoint_or_bucket_deletes_nothing(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"1")
    proof = proved(server, s3, "k")
    server.bucket("c")
    server.put("c", "k", b"1")
    with pytest.raises(ValueError, match="one bucket"):
        deleter_at(s3).delete([proof, proved(server, s3, "k", "c")])
    with S3Server() as other:
        other.bucket("b")
        other.put("b", "k", b"1")
        with pytest.raises(Refused, match="another endpoint or account"):
            deleter_at(connect(other)).delete([proof])
        assert other.deletes == []
    server.identities["AKIAFAKEFAKEFAKEFAKE"] = ("999999999999", "arn:aws:iam::999999999999:user/x")
    with pytest.raises(Refused, match="another endpoint or account"):
        deleter_at(connect(server)).delete([proof])
    assert server.deletes == [] and deleter_at(s3).delete([]) == []


def test_no_more_than_a_thousand(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"1")
    proof = proved(server, s3, "k")
    with pytest.raises(ValueError, match="at most 1,000"):
        deleter_at(s3).delete([proof] * 1001)
    assert server.deletes == []


def test_a_bucket_goes_only_when_it_is_empty(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"1")
    with pytest.raises(Refusal) as refused:
        Deleter(s3).remove_bucket("b")
    assert_one_line(refused.value)
    server.remove("b", "k", "null")
    Deleter(s3).remove_bucket("b")
    assert "b" not in server.buckets


# Is it still there


def test_is_exactly_this_one_there_where_versions_have_ids(server: S3Server, s3: S3) -> None:
    server.bucket("b", versioning="Enabled")
    old = server.put("b", "k", b"old")
    server.put("b", "k", b"new")
    with server.lock:
        marker = server._insert(server.buckets["b"], Version("k", is_marker=True))

    def there(version: Version, etag: str) -> bool | None:
        return s3.is_there("b", "k", version.version_id, etag, by_id=True)

    assert there(old, old.etag) is True and there(marker, "") is True
    server.remove("b", "k", old.version_id)
    server.remove("b", "k", marker.version_id)
    assert there(old, old.etag) is False and there(marker, "") is False
    assert s3.is_there("b", "k", "never-issued", "", by_id=True) is None


def test_is_exactly_this_one_there_where_they_have_none(server: S3Server, s3: S3) -> None:
    stored = server.put("b", "k", b"proved")
    assert s3.is_there("b", "k", "null", stored.etag, by_id=False) is True
    server.put("b", "k", b"newer")
    assert s3.is_there("b", "k", "null", stored.etag, by_id=False) is False
    server.remove("b", "k", "null")
    assert s3.is_there("b", "k", "null", stored.etag, by_id=False) is False


def test_is_exactly_this_null_version_there_where_versioning_is_suspended(server: S3Server, s3: S3) -> None:
    """A delete of it leaves a marker with the same id, which is not the version that was asked for."""
    server.bucket("b", versioning="Suspended")
    stored = server.put("b", "k", b"proved")
    assert s3.is_there("b", "k", "null", stored.etag, by_id=True) is True
    deleter_at(s3).delete([proved(server, s3, "k")])
    assert [v.is_marker for v in server.versions("b")] == [True]
    assert s3.is_there("b", "k", "null", stored.etag, by_id=True) is False
    assert s3.is_there("b", "k", "null", "", by_id=True) is True, "the marker"


def under_a_marker(server: S3Server, key: str = "k") -> Version:
    with server.lock:
        return server._insert(server.buckets["b"], Version(key, is_marker=True))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("above", ["version", "marker"])
def test_is_there_with_server_ignoring_version_ids_is_unknown(
    server: S3Server, s3: S3, above: str, named: bool
) -> None:
    null = server.put("b", "k", b"null")
    server.bucket("b", versioning="Enabled")
    old = server.put("b", "k", b"old")
    marker = under_a_marker(server)
    current = server.put("b", "k", b"new") if above == "version" else under_a_marker(server)
    rewrite = None if named else headed("x-amz-version-id", None)
    server.fault({"op": "HeadObject"}, "ignore-version", rewrite=rewrite)

    def there(version: Version) -> bool | None:
        return s3.is_there("b", "k", version.version_id, version.etag, by_id=True)

    assert there(old) is None and there(marker) is None
    # An answer about the id `null` need not name it.
    assert there(null) is (False if above == "version" and not named else None)
    assert there(current) is (True if above == "version" or named else None)


def test_is_there_without_version_id_under_another_version_is_unknown(server: S3Server, s3: S3) -> None:
    """Versioning was turned on meanwhile: the null version is beneath."""
    stored = server.put("b", "k", b"proved")
    server.bucket("b", versioning="Enabled")
    under_a_marker(server)
    assert s3.is_there("b", "k", "null", stored.etag, by_id=False) is None
    assert s3.is_there("b", "k", "null", stored.etag, by_id=True) is True
    server.put("b", "k", b"proved")
    assert s3.is_there("b", "k", "null", stored.etag, by_id=False) is None, "a version of the same bytes"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("above", ["version", "marker"])
def test_presence_with_server_ignoring_version_ids_is_unknown(
    server: S3Server, s3: S3, above: str, named: bool
) -> None:
    null = version_of(server.put("b", "k", b"null"), is_latest=False)
    server.bucket("b", versioning="Enabled")
    old = version_of(server.put("b", "k", b"old"), is_latest=False)
    if above == "version":
        server.put("b", "k", b"new")
    else:
        under_a_marker(server)
    rewrite = None if named else headed("x-amz-version-id", None)
    server.fault({"op": "HeadObject"}, "ignore-version", rewrite=rewrite)
    with pytest.raises(Unreachable):
        s3.presence(old, by_id=True)
    if above == "version" and not named:  # an answer about the id `null` need not name it
        assert s3.presence(null, by_id=True) is Presence.CHANGED
    else:
        with pytest.raises(Unreachable):
            s3.presence(null, by_id=True)


@pytest.mark.parametrize("action", ["access-denied", "503", "reset-before", "garbage-200", "expired-token"])
@pytest.mark.parametrize("by_id", [True, False])
def test_an_answer_that_does_not_tell_is_none(server: S3Server, s3: S3, action: Any, by_id: bool) -> None:
    server.bucket("b", versioning="Enabled" if by_id else None)
    stored = server.put("b", "k", b"1")
    s3.region_of("b")
    server.fault({"op": "HeadObject"}, action)
    assert s3.is_there("b", "k", stored.version_id, stored.etag, by_id=by_id) is None


# -- what lies beside the bytes

NONE = ("policy", "cors", "lifecycle", "versioning", "replication", "notifications", "tagging", "website", "logging")


def test_a_bucket_without_settings_of_its_own(server: S3Server, s3: S3) -> None:
    found: dict[str, Any] = s3.configuration("b")
    assert {name for name, part in found.items() if part is not None} == {"acl", "encryption", "request_payment"}
    assert set(NONE) < found.keys() and len(found) == 21
    assert found["acl"]["Grants"][0]["Permission"] == "FULL_CONTROL"
    json.dumps(found)


def test_every_setting_of_a_bucket_as_s3_has_it(server: S3Server) -> None:
    server.bucket("far", region="eu-central-1", object_lock=True)
    s3 = connect(server)
    client = s3._for("far")
    policy = {"Version": "2012-10-17", "Statement": [{"Sid": "ü"}]}
    client.put_bucket_policy(Bucket="far", Policy=json.dumps(policy))
    rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": ""}}
    when: Any = {**rule, "Expiration": {"Date": datetime(2030, 1, 1, tzinfo=UTC)}}
    client.put_bucket_lifecycle_configuration(Bucket="far", LifecycleConfiguration={"Rules": [when]})
    client.put_bucket_tagging(Bucket="far", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    found: dict[str, Any] = s3.configuration("far")
    assert found["policy"] == policy
    assert found["lifecycle"]["Rules"][0]["Expiration"]["Date"] == "2030-01-01T00:00:00+00:00"
    assert found["tagging"] == {"TagSet": [{"Key": "k", "Value": "v"}]}
    assert found["location"] == {"LocationConstraint": "eu-central-1"}
    assert found["versioning"] == {"Status": "Enabled"}
    assert found["object_lock"]["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    assert s3.has_object_lock("far")


def test_lists_of_settings_come_whole(server: S3Server, s3: S3) -> None:
    pages = iter([("one", "more"), ("two", "yet more"), ("three", "")])

    def page(request: Request, _: Response) -> Response:
        name, token = next(pages)
        assert request.query.get("continuation-token", "") in ("", "more", "yet more")
        rest = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        body = f"<R><MetricsConfiguration><Id>{name}</Id></MetricsConfiguration>{rest}</R>"
        return Response(200, [], body.encode())

    server.fault({"op": "ListBucketMetricsConfigurations"}, rewrite=page)
    assert s3.configuration("b")["metrics"] == {
        "MetricsConfigurationList": [{"Id": "one"}, {"Id": "two"}, {"Id": "three"}]
    }


def test_settings_that_may_not_be_read_or_are_not_known_say_so(server: S3Server, s3: S3) -> None:
    server.deny("s3:GetBucketPolicy")
    server.deny("s3:GetBucketAcl")
    server.deny("s3:GetBucketObjectLockConfiguration")
    server.unimplemented |= {"GetBucketReplication", "ListBucketInventoryConfigurations"}
    found: dict[str, Any] = s3.configuration("b")
    assert all("AccessDenied" in found[name]["denied"] for name in ("policy", "acl", "object_lock"))
    assert found["replication"] == found["inventory"] == {"not_implemented": True}
    assert s3.has_object_lock("b"), "only S3's own no is a no"


@pytest.mark.parametrize(
    ("op", "action"),
    [
        ("GetBucketAcl", "garbage-200"),
        ("GetBucketPolicy", "garbage-200"),
        ("GetBucketPolicy", "503"),
        ("ListBucketAnalyticsConfigurations", "reset-before"),
    ],
)
def test_a_setting_that_is_not_answered_for_is_not_none(server: S3Server, s3: S3, op: str, action: Any) -> None:
    s3.region_of("b")
    server.fault({"op": op}, action)
    with pytest.raises(Unreachable) as failed:
        s3.configuration("b")
    assert_one_line(failed.value)


def test_listing_in_place_of_a_setting_is_no_setting_and_no_absence(server: S3Server, s3: S3) -> None:
    """Some servers ignore a sub-resource that they do not know and list the bucket."""
    server.put("b", "k", b"1")
    s3.region_of("b")
    kept = s3.configuration("b").keys()
    server.fault(lambda r: r.method == "GET" and bool(r.query.keys() - {"list-type"}) and not r.key, "ignore-query")
    found: dict[str, Any] = s3.configuration("b")
    assert found.keys() == kept and all("refused" in answer for answer in found.values())
    assert s3.has_object_lock("b") and s3.may_hold("b"), "only S3's own no is a no"
    asks: list[Callable[[str], object]] = [
        s3.versioning, s3.policy, s3.public_access_block, lambda bucket: list(s3.uploads(bucket)),
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises(Unreachable) as failed:
            ask("b")
        assert_one_line(failed.value)


def test_uploads_answered_by_a_listing_are_unknown(server: S3Server, s3: S3) -> None:
    server.put("b", "k", b"1")
    server.fault({"op": "ListMultipartUploads"}, "ignore-query")
    assert s3.facts("b").uploads is None


@pytest.mark.parametrize(
    "root", ["GetBucketVersioningResponse", "GetBucketVersioningOutput", "VersioningConfiguration"]
)
@pytest.mark.parametrize("head", ["", "\ufeff", '<?xml version="1.0"?>\n', "<!-- a comment -->"])
def test_root_element_named_after_its_operation_is_accepted(server: S3Server, s3: S3, root: str, head: str) -> None:
    """moto does so."""
    s3.region_of("b")
    body = f'{head}<n:{root} xmlns:n="urn:n"/>'.encode()
    server.fault({"op": "GetBucketVersioning"}, rewrite=lambda *_: Response(200, [], body))
    assert s3.versioning("b").status == ""


def test_an_expired_token_is_no_setting_that_is_denied(server: S3Server, s3: S3) -> None:
    s3.region_of("b")
    server.fault({"op": "GetBucketPolicy"}, "expired-token")
    with pytest.raises(Failure, match="renew"):
        s3.configuration("b")


def test_parts_of_an_object_that_is_gone_are_gone(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", b"1", annotations={"n": b"1"}))
    assert s3.metadata(version)["ContentLength"] == 1
    assert isinstance(listed := s3.annotations(version), list) and len(listed) == 1
    assert s3.annotation(version, "n") == b"1"
    with pytest.raises(Unreachable, match="went"):
        s3.annotation(version, "other")
    server.remove("b", "k")
    asks: list[Callable[[ObjectVersion], object]] = [s3.metadata, s3.tags, s3.acl, s3.annotations]
    for ask in asks:
        with pytest.raises(Gone):
            ask(version)


def test_annotations_come_page_by_page_and_whole(server: S3Server, s3: S3) -> None:
    version = version_of(server.put("b", "k", b"1", annotations={"n": b"x" * 5000, "long": b"x" * (1 << 20) + b"x"}))
    assert isinstance(refused := s3.annotation(version, "long"), dict) and "1 MiB" in str(refused["refused"])
    fault = server.fault({"op": "GetObjectAnnotation"}, "truncate")
    with pytest.raises(Unreachable):
        s3.annotation(version, "n")
    server.calm(fault)
    pages = iter([("a", "more"), ("b", "")])

    def page(request: Request, _: Response) -> Response:
        name, token = next(pages)
        rest = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        rows = f"<Annotations><Annotation><AnnotationName>{name}</AnnotationName></Annotation></Annotations>"
        return Response(200, [], f"<R>{rows}{rest}</R>".encode())

    server.fault({"op": "ListObjectAnnotations"}, rewrite=page)
    assert s3.annotations(version) == [{"AnnotationName": "a"}, {"AnnotationName": "b"}]


# Uploads, and what holds a version


def begun(server: S3Server, key: str) -> Doomed:
    boto = boto3.client("s3", endpoint_url=server.url)
    return Doomed(key, boto.create_multipart_upload(Bucket="b", Key=key)["UploadId"], "upload")


def test_uploads_are_listed_looked_for_and_aborted(server: S3Server, s3: S3) -> None:
    one, two = begun(server, "k"), begun(server, "k")
    assert {(key, upload) for key, upload, _ in s3.uploads("b")} == {("k", one.version_id), ("k", two.version_id)}
    assert s3.upload_is_there("b", "k", one.version_id) is True
    assert Deleter(s3).abort_upload("b", one) == Outcome(True, "aborted")
    assert s3.upload_is_there("b", "k", one.version_id) is False
    assert Deleter(s3).abort_upload("b", one) == Outcome(False, "not there", unknown=True)
    assert list(server.buckets["b"].uploads) == [two.version_id]


@pytest.mark.parametrize(
    ("action", "unknown"),
    [("500", True), ("503", True), ("reset-before", True), ("lost-reply", True), ("garbage-200", True), ("access-denied", False)],
)  # fmt: skip
def test_what_is_no_answer_about_an_upload_tells_nothing(server: S3Server, s3: S3, action: Any, unknown: bool) -> None:
    upload = begun(server, "k")
    server.fault({"op": "AbortMultipartUpload"}, action, times=1)
    outcome = Deleter(s3).abort_upload("b", upload)
    assert (outcome.gone, outcome.unknown) == (False, unknown)
    server.fault({"op": "ListParts"}, action)
    assert s3.upload_is_there("b", "k", upload.version_id) is None


def test_a_bucket_without_locks_and_replication_holds_nothing(server: S3Server, s3: S3) -> None:
    assert not s3.may_hold("b")
    server.bucket("locked", object_lock=True)
    assert s3.may_hold("locked")
    server.unimplemented |= {"GetObjectLockConfiguration", "GetBucketReplication"}
    assert not s3.may_hold("b"), "an endpoint that knows neither"


def test_parts_of_unfinished_uploads_are_weighed(s3: S3, server: S3Server) -> None:
    client: Any = s3._client("us-east-1")
    assert s3.upload_bytes("b") == 0
    for key in ("one", "two"):
        upload = client.create_multipart_upload(Bucket="b", Key=key)["UploadId"]
        client.upload_part(Bucket="b", Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 700)
    assert s3.upload_bytes("b") == 1400
    assert s3.upload_bytes("b", at_most=1) is None, "too many to be asked one by one"
    server.deny("s3:ListBucketMultipartUploads")
    assert s3.upload_bytes("b") is None


def test_a_wrong_etag_that_is_refused_lets_conditional_deletes_go(server: S3Server, s3: S3) -> None:
    server.put("b", "k", BODY)
    proof = proved(server, s3, "k")
    deleter = Deleter(s3)
    with pytest.raises(Refused):
        deleter.delete([proof])
    assert deleter.delete_with_wrong_etag(proof) == Outcome(False, WRONG_ETAG_REFUSED)
    assert server.get("b", "k") is not None
    assert deleter.delete([proof]) == [Outcome(True, "deleted")]


def test_a_wrong_etag_differs_from_the_etag_of_the_object(server: S3Server, s3: S3) -> None:
    server.put("b", "k", BODY, etag="0" * 32)
    assert Deleter(s3).delete_with_wrong_etag(proved(server, s3, "k")).text == WRONG_ETAG_REFUSED
    assert server.get("b", "k") is not None


@pytest.mark.parametrize(
    ("action", "unknown"),
    [("lost-reply", True), ("500", True), ("garbage-200", True), ("404", True), ("access-denied", False)],
)
def test_any_answer_but_412_to_a_wrong_etag_lets_nothing_go(
    server: S3Server, s3: S3, action: Any, unknown: bool
) -> None:
    server.put("b", "k", BODY)
    proof = proved(server, s3, "k")
    deleter = Deleter(s3)
    if action == "404":
        server.fault({"op": "DeleteObject", "key": "k"}, lambda _: server.remove("b", "k"))
    else:
        server.fault({"op": "DeleteObject", "key": "k"}, action)
    outcome = deleter.delete_with_wrong_etag(proof)
    assert (outcome.gone, outcome.unknown, "b" in deleter._refuses) == (False, unknown, False)
    server.calm()
    with pytest.raises(Refused):
        deleter.delete([proof])


def test_a_version_named_by_its_id_is_no_canary(server: S3Server, s3: S3) -> None:
    server.bucket("v", versioning="Enabled")
    server.put("v", "k", BODY)
    with pytest.raises(ValueError, match="If-Match"):
        Deleter(s3).delete_with_wrong_etag(proved(server, s3, "k", "v"))
