"""Answers of S3 that are not about what was asked for, or contradict each other, prove nothing and end nothing."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import World, world
from tests.fakes.forks import Zygote
from tests.fakes.s3server import Request, Response, Version

ENGINES = {"cli": 1, "native": 75}  # keys of two versions each: from 150 objects on the native engine starts workers
# How old and new version of a key were uploaded; sizes are equal, bytes are not.
UPLOADS: dict[str, dict[str, Any]] = {
    "md5": {},
    "kms": {"etag": "kms"},
    "kms without checksum": {"etag": "kms", "checksums": ()},
    "parts": {"checksums": (), "parts": (7000, 7000, 5000)},
}
SIZE = 19_000


@pytest.fixture
def versioned(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        yield made


def two_versions(made: World, key: str, **how: Any) -> None:
    made.put(key, os.urandom(SIZE), **how)
    made.put(key, os.urandom(SIZE), **how)


def mark_deleted(made: World, key: str) -> None:
    with made.server.lock:
        made.server._insert(made.server.buckets[made.bucket], Version(key, is_marker=True))


def without_version_id(_: Request, response: Response) -> None:
    response.headers = [(name, value) for name, value in response.headers if name != "x-amz-version-id"]


def of_a_part(request: Request) -> bool:
    return request.op == "HeadObject" and "partNumber" in request.query


def rows(made: World) -> dict[tuple[str, str], tuple[str, str]]:
    """State and path by key and version id."""
    with sqlite3.connect(made.state) as db:
        found = db.execute("SELECT key, version_id, state, ifnull(local_path, '') FROM files").fetchall()
    return {(key, version_id): (state, path) for key, version_id, state, path in found}


def nothing_is_concluded(made: World) -> None:
    """What is verified has the right bytes, by identity; no version that is in S3 is in error or deleted."""
    made.nothing_is_lost()
    known = rows(made)
    for version in made.server.versions(made.bucket):
        if not version.is_marker:
            state, path = known[version.key, version.version_id]
            assert state in ("discovered", "downloading", "downloaded", "verified"), (version.key, state)
            if state == "verified":
                assert (made.home / path).read_bytes() == version.body, version.key


@pytest.mark.parametrize(("engine", "rewrite"), [("cli", None), ("native", None), ("cli", without_version_id)])
def test_migrate_behind_cache_ignoring_versions_proves_no_old_version(
    versioned: World, engine: str, rewrite: Any
) -> None:
    made = versioned
    for number in range(ENGINES[engine]):
        two_versions(made, f"k{number}")
    old = {(v.key, v.version_id) for v in made.server.versions(made.bucket) if not v.is_latest}
    made.server.fault({"op": ("GetObject", "HeadObject")}, "ignore-version", rewrite=rewrite)
    assert made.run("--engine", engine, "migrate", made.bucket).code == 1
    nothing_is_concluded(made)
    assert not [name for name in old if rows(made)[name][0] == "verified"]
    made.run("confirm-delete", made.token(), made.bucket)
    nothing_is_concluded(made)
    assert old <= {(v.key, v.version_id) for v in made.server.versions(made.bucket)}
    made.server.calm()
    made.comes_home()


@pytest.mark.parametrize(
    ("upload", "match", "rewrite"),
    [
        ("md5", {"op": "GetObject"}, None),
        ("kms", {"op": "GetObject"}, without_version_id),
        ("kms without checksum", {"op": "GetObject"}, without_version_id),
        ("md5", {"op": "HeadObject"}, without_version_id),
        ("kms", {"op": "HeadObject"}, None),
        ("kms without checksum", {"op": "HeadObject"}, None),
        ("parts", of_a_part, None),
        ("parts", of_a_part, without_version_id),
    ],
)
def test_migrate_with_one_operation_ignoring_versions_concludes_nothing(
    versioned: World, upload: str, match: Any, rewrite: Any
) -> None:
    made = versioned
    two_versions(made, "k", **UPLOADS[upload])
    made.server.fault(match, "ignore-version", rewrite=rewrite)
    ran = made.run("migrate", made.bucket)
    nothing_is_concluded(made)
    proved = [state for state, _ in rows(made).values()] == ["verified", "verified"]
    assert proved is (upload == "md5" and match == {"op": "HeadObject"}), "an MD5 ETag of the listing needs no HEAD"
    assert ran.code == (0 if proved else 1)
    made.run("confirm-delete", made.token(), made.bucket)
    nothing_is_concluded(made)
    made.server.calm()
    made.done("migrate", made.bucket)
    if upload == "kms without checksum":
        made.done("verify", "--refetch", made.bucket)
    made.comes_home()


def test_refetch_behind_cache_ignoring_versions_proves_nothing(versioned: World) -> None:
    """The copy holds the bytes of the current version, as if it had been fetched through the same cache."""
    made = versioned
    two_versions(made, "k", **UPLOADS["kms without checksum"])
    made.done("migrate", made.bucket)
    old, new = sorted(made.server.versions(made.bucket), key=lambda version: version.sequence)
    (made.home / rows(made)["k", old.version_id][1]).write_bytes(new.body)
    made.server.fault({"op": "GetObject"}, "ignore-version")
    assert made.run("verify", "--refetch", made.bucket).code == 1
    assert rows(made)["k", old.version_id][0] == "downloaded"
    made.run("confirm-delete", made.token(), made.bucket)
    assert made.server.get(made.bucket, "k", old.version_id) is not None


def test_null_version_behind_cache_ignoring_versions_is_not_taken_for_changed(zygote: Zygote, tmp_path: Path) -> None:
    """The object was put before versioning was turned on, and is no longer the current one."""
    with world(tmp_path, zygote) as made:
        made.put("k", os.urandom(SIZE))
        made.server.bucket(made.bucket, versioning="Enabled")
        made.put("k", os.urandom(SIZE))
        made.server.fault({"op": ("GetObject", "HeadObject")}, "ignore-version")
        assert made.run("migrate", made.bucket).code == 1
        assert rows(made)["k", "null"][0] in ("discovered", "downloading")
        nothing_is_concluded(made)
        made.server.calm()
        made.done("migrate", made.bucket)
        assert rows(made)["k", "null"][0] == "verified"


def test_version_under_delete_marker_behind_cache_is_not_taken_for_vanished(versioned: World) -> None:
    """The answer is 404 then, with x-amz-delete-marker."""
    made = versioned
    made.put("k", b"old")
    mark_deleted(made, "k")
    made.server.fault({"op": ("GetObject", "HeadObject")}, "ignore-version")
    assert made.run("migrate", made.bucket).code == 1
    assert {state for state, _ in rows(made).values()} <= {"discovered", "downloading"}
    made.server.calm()
    made.comes_home()


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_not_found_page_of_a_proxy_makes_nothing_gone(zygote: Zygote, tmp_path: Path, versioning: str) -> None:
    def page(*_: object) -> Response:
        return Response(404, [("Content-Type", "text/html")], b"<html><body>Not Found</body></html>")

    with world(tmp_path, zygote, versioning=versioning) as made:
        made.put("k", b"plain")
        made.put("kms", b"without checksum", etag="kms", checksums=())
        made.server.fault({"op": ("GetObject", "HeadObject")}, rewrite=page)
        assert made.run("migrate", made.bucket).code == 1
        nothing_is_concluded(made)
        made.server.calm()
        made.done("migrate", made.bucket)
        nothing_is_concluded(made)
        made.server.fault({"op": ("GetObject", "HeadObject")}, rewrite=page)
        made.run("verify", "--refetch", made.bucket)
        nothing_is_concluded(made)
        made.server.calm()
        deletes = made.server.fault({"op": ("DeleteObject", "DeleteObjects")}, "reset-before", times=1, after=3)
        made.server.fault(lambda r: r.op in ("GetObject", "HeadObject") and deletes.hits > 0, rewrite=page)
        made.run("confirm-delete", made.token(), made.bucket)
        nothing_is_concluded(made)
        made.server.calm()
        made.done("verify", "--refetch", made.bucket)
        made.comes_home()


@pytest.mark.parametrize("above", ["another version", "a delete marker"])
@pytest.mark.parametrize("lost", ["reset-before", "lost-reply"])
def test_lost_delete_reply_behind_cache_is_settled_by_right_answers_only(
    versioned: World, above: str, lost: Any
) -> None:
    made = versioned
    made.put("k", b"old")
    if above == "another version":
        made.put("k", b"new")
    else:
        mark_deleted(made, "k")
    made.done("migrate", made.bucket)
    (old,) = (v for v in made.server.versions(made.bucket, "k") if v.body == b"old")
    token = made.token()
    deletes = made.server.fault({"op": "DeleteObjects"}, lost, times=1)
    made.server.fault(lambda request: request.op == "HeadObject" and deletes.hits > 0, "ignore-version")
    ran = made.run("confirm-delete", token, made.bucket)
    there = made.server.get(made.bucket, "k", old.version_id) is not None
    assert deletes.hits == 1 and there is (lost == "reset-before")
    if not made.server.versions(made.bucket, "k"):  # the other one is gone too, so that 404 is the right answer
        assert ran.code == 0 and rows(made)["k", old.version_id][0] == "deleted"
        return
    assert ran.code == 1 and rows(made)["k", old.version_id][0] == "verified"
    for argv in (("migrate",), ("confirm-delete", "--dry-run")):
        assert made.run(*argv, made.bucket).code == 1  # S3 still does not say what became of the delete
        assert rows(made)["k", old.version_id][0] == "verified"
    made.nothing_is_lost()
    made.server.calm()
    made.comes_home()
    assert rows(made)["k", old.version_id][0] == "deleted"


@pytest.mark.parametrize(("engine", "others"), [("cli", 1), ("native", 150)])
def test_object_listed_without_bytes_is_not_proved_by_that(
    zygote: Zygote, tmp_path: Path, engine: str, others: int
) -> None:
    """A damaged index lists size 0 beside the right ETag (Ceph)."""

    def no_bytes(_: Request, response: Response) -> None:
        response.body = re.sub(rb"<Size>19000</Size>", b"<Size>0</Size>", bytes(response.body))

    with world(tmp_path, zygote) as made:
        damaged = {"file": {}, "folder/": {}, "a//side": {}, "kms": {"etag": "kms"}, "parts": {"parts": (SIZE,)}}
        for key, how in damaged.items():
            made.put(key, os.urandom(SIZE), **how)
        empty = {"empty": {}, "empty folder/": {}, "empty kms/": {"etag": "kms"}, "empty parts": {"parts": (0,)}}
        for key, how in empty.items():
            made.put(key, b"", **how)
        for number in range(others):
            made.put(f"k{number}", b"%d" % number)
        made.server.fault({"op": ("ListObjectVersions", "ListObjectsV2")}, rewrite=no_bytes)
        assert made.run("--engine", engine, "migrate", made.bucket).code == 1
        known = rows(made)
        assert {known[key, "null"][0] for key in damaged} == {"error"}
        assert {known[key, "null"][0] for key in empty} == {"verified"}
        made.run("confirm-delete", made.token(), made.bucket)
        made.nothing_is_lost()
        assert {version.key for version in made.server.versions(made.bucket)} == damaged.keys()
        made.done("verify", "--offline", made.bucket)
        made.server.calm()
        made.done("scan", "--rescan", made.bucket)
        made.comes_home()
        assert (made.home / rows(made)["folder/", "null"][1]).stat().st_size == SIZE


def is_listed(made: World) -> bool:
    with sqlite3.connect(made.state) as db:
        return bool(db.execute("SELECT scan_complete FROM bucket_status").fetchone()[0])


def test_server_ignoring_the_versions_query_has_its_current_objects_moved(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote) as made:
        for number in range(3):
            made.put(f"k{number}", b"%d" % number)
        made.server.fault({"op": "ListObjectVersions"}, "ignore-query")
        made.comes_home()
        assert {state for state, _ in rows(made).values()} == {"deleted"} and len(rows(made)) == 3


@pytest.mark.parametrize("versioning", ["Enabled", "Suspended"])
def test_server_ignoring_the_versions_query_is_refused_where_versions_exist(
    zygote: Zygote, tmp_path: Path, versioning: str
) -> None:
    with world(tmp_path, zygote, versioning=versioning) as made:
        two_versions(made, "k")
        made.server.fault({"op": "ListObjectVersions"}, "ignore-query")
        assert made.run("migrate", made.bucket).code == 5
        assert rows(made) == {} and not is_listed(made)
        made.server.calm()
        made.comes_home()


@pytest.mark.parametrize(
    ("op", "action"),
    [
        ("GetBucketVersioning", "ignore-query"),
        ("ListObjectVersions", "empty-list"),
        ("ListObjectVersions", "another's"),
        ("ListObjectVersions", "one folder"),
        ("ListObjectVersions", "Contents"),
    ],
)
def test_answer_of_another_type_or_part_of_a_listing_completes_no_bucket(
    zygote: Zygote, tmp_path: Path, op: str, action: Any
) -> None:
    def other(_: Request, response: Response) -> None:
        body = bytes(response.body)
        if action == "another's":
            body = body.replace(b"ListVersionsResult", b"ListMultipartUploadsResult")
        elif action == "one folder":
            body = re.sub(rb"<Version>.*</Version>", b"<CommonPrefixes><Prefix>k</Prefix></CommonPrefixes>", body)
        else:
            body = body.replace(b"Version>", b"Contents>")
        response.body = body

    with world(tmp_path, zygote) as made:
        made.put("k/1", b"1")
        known = ("ignore-query", "empty-list")
        made.server.fault({"op": op}, action if action in known else None, rewrite=None if action in known else other)
        assert made.run("migrate", made.bucket).code == 1
        assert made.run("confirm-delete", "--confirm=1", "--remove-bucket", made.bucket).code in (1, 5)
        assert made.server.count("DeleteBucket") == 0 and rows(made) == {}
        made.nothing_is_lost()
        made.server.calm()
        made.comes_home()


@pytest.mark.parametrize("op", ["ListObjectVersions", "ListObjectsV2"])
def test_remove_bucket_lists_by_both_operations_right_before(zygote: Zygote, tmp_path: Path, op: str) -> None:
    """The server would remove the bucket with what is in it, and one of its listings shows nothing."""
    with world(tmp_path, zygote) as made:
        made.put("k", b"1")
        made.done("migrate", made.bucket)
        put = made.server.fault(
            lambda request: request.op == "ListMultipartUploads" and not made.server.versions(made.bucket, "k"),
            lambda _: made.put("new", b"new"),
            times=1,
        )
        made.server.fault(lambda request: request.op == op and put.hits > 0, "empty-list")
        made.server.fault({"op": "DeleteBucket"}, lambda _: made.server.remove(made.bucket, "new"))
        made.run("confirm-delete", made.token(), "--remove-bucket", made.bucket)
        assert put.hits == 1 and made.server.count("DeleteBucket") == 0
        made.nothing_is_lost()
        made.server.calm()
        made.comes_home()
