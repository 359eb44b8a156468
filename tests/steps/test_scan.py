"""Rows are what S3 lists, however often the listing was interrupted, and a listing that cannot be believed changes none."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Noted, Progress, Warned
from migrate_v2.model import NONCURRENT, VANISHED, FileState, GoneKind, Place, Row, Verdict
from migrate_v2.steps.scan import must_be_as_listed, scan
from tests.fakes.s3server import Request, S3Server, Version
from tests.steps.conftest import Job, assert_tallies, found

DAY = 86400


def pages_of(job: Job, size: int) -> None:
    def shorten(request: Request) -> None:
        request.query["max-keys"] = str(size)

    job.server.fault({"op": ("ListObjectVersions", "ListObjectsV2")}, shorten)


def put_marker(server: S3Server, bucket: str, key: str) -> Version:
    with server.lock:
        return server._insert(server.buckets[bucket], Version(key, is_marker=True))


def mixed(job: Job) -> None:
    """Versions, markers, keys that go on over the end of a page, and keys of every kind."""
    server = job.server
    server.put("b", "old", b"from before versioning")
    server.bucket("b", versioning="Enabled")
    for number in range(7):
        server.put("b", "many", b"v" * number)
    put_marker(server, "b", "many")
    for key in ("a", "new\nline", "\x01", "a//b", "é+ %", "é", "\U0001f600", "dir/", "x" * 900):
        server.put("b", key, key.encode())
    put_marker(server, "b", "gone")
    server.put("b", "cold", b"1", storage_class="GLACIER")
    server.put("b", "thawed", b"12", storage_class="DEEP_ARCHIVE", restored_until=server.clock() + DAY)
    server.put("b", "old", b"newer")
    put_marker(server, "b", "zz")
    server.put("b", "kms", b"123", etag="kms")
    server.put("b", "parts", b"x" * 300, parts=(100, 100, 100), checksums=("SHA256",))


def markers(job: Job) -> list[tuple[Any, ...]]:
    sql = "SELECT key, version_id, is_latest, state, scan FROM delete_markers WHERE bucket = ? ORDER BY key, version_id"
    return [tuple(r) for r in job.store._conn.execute(sql, (job.bucket,))]


def everything(job: Job) -> tuple[list[Row], list[tuple[Any, ...]]]:
    return job.rows(), markers(job)


@pytest.mark.parametrize("page", [1000, 1, 3])
def test_every_version_and_marker_is_a_row(job: Job, page: int) -> None:
    mixed(job)
    pages_of(job, page)
    job.scan(rows_per_commit=5)
    there = job.server.versions("b")
    rows = {(r.key, r.version.version_id): r for r in job.rows()}
    assert rows.keys() == {(v.key, v.version_id) for v in there if not v.is_marker}
    assert {m[:3] for m in markers(job)} == {(v.key, v.version_id, v.is_latest) for v in there if v.is_marker}
    for v in there:
        if v.is_marker:
            continue
        row = rows[v.key, v.version_id]
        version = row.version
        assert (version.size, version.etag, version.storage_class) == (v.size, v.etag, v.storage_class)
        assert version.is_latest == v.is_latest and version.last_modified.timestamp() == v.last_modified
        assert (version.checksum_algorithm, version.checksum_type) == (",".join(v.checksums), v.checksum_type)
        assert (row.state, row.archived) == (FileState.DISCOVERED, v.key == "cold")
    (thawed,) = [r for r in job.rows() if r.key == "thawed"]
    assert thawed.version.restore_expiry is not None
    held = job.store.bucket("b")
    assert held and held.scan_complete and held.scan == 1 and not held.scan_key_marker
    assert (held.account, held.endpoint, held.versioning) == ("111122223333", job.server.url, "Enabled")


@pytest.mark.parametrize("rows_per_commit", [1, 4, 9])
def test_a_listing_taken_up_where_it_stopped_gives_the_same_rows(
    job: Job, tmp_path: Path, rows_per_commit: int
) -> None:
    mixed(job)
    pages_of(job, 3)
    job.scan()
    whole = everything(job)
    commits = len([e for e in job.scan(rows_per_commit=rows_per_commit) if isinstance(e, Progress)])
    for stop in range(1, commits + 1, 2):
        with Store.open(tmp_path / f"{stop}.db") as store:
            events = scan("b", store, job.s3, rows_per_commit=rows_per_commit)
            for _ in range(1 + stop):  # Started, and so many commits
                next(events)
            events.close()  # type: ignore[attr-defined]
            assert_tallies(store)
            held = store.bucket("b")
            assert held and not held.scan_complete and held.scan_key_marker
            before = len(job.server.requests)
            taken_up = list(scan("b", store, job.s3, rows_per_commit=rows_per_commit))
            assert any(isinstance(e, Noted) and "goes on where it stopped" in e.text for e in taken_up)
            listings = [e for e in job.server.requests[before:] if e.op == "ListObjectVersions"]
            assert all(e.query.get("key-marker") for e in listings), "nothing is listed twice"
            assert_tallies(store)
            again = Job(job.server, job.s3, store, job.disk)
            assert everything(again) == whole


def test_the_network_may_break_the_listing_anywhere(job: Job) -> None:
    mixed(job)
    pages_of(job, 3)
    broken = job.server.fault({"op": "ListObjectVersions"}, "truncate", after=2)
    with pytest.raises(Failure):
        job.scan(rows_per_commit=1)
    some = len(job.rows()) + len(markers(job))
    assert some == 6
    job.server.calm(broken)
    job.scan(rows_per_commit=1)
    assert len(job.rows()) + len(markers(job)) == len(job.server.versions("b"))


def test_an_interrupted_rescan_still_finds_what_vanished(job: Job) -> None:
    for number in range(9):
        job.server.put("b", f"k{number}", b"body")
    job.bring()
    pages_of(job, 2)
    for gone in ("k0", "k5", "k8"):
        job.server.remove("b", gone, "null")
    events = scan("b", job.store, job.s3, rows_per_commit=1)
    for _ in range(3):
        next(events)
    events.close()  # type: ignore[attr-defined]
    assert set(job.states().values()) == {FileState.VERIFIED}, "nothing follows from half a listing"
    told = job.scan(rows_per_commit=1)
    assert sum(isinstance(e, Warned) for e in told) == 1
    assert {k for k, s in job.states().items() if s is FileState.ERROR} == {"k0", "k5", "k8"}
    assert job.row("k5").gone is GoneKind.ONLY_COPY and job.row("k5").witnesses


# Again


def forgotten(row: Row) -> bool:
    return (row.state, row.verdict, row.reason, row.place, row.path, row.sha256, row.witnesses, row.identity) == (
        FileState.DISCOVERED,
        None,
        "",
        None,
        "",
        "",
        (),
        None,
    ) and row.read_run == ""


def test_a_second_listing_of_the_same_changes_nothing(job: Job) -> None:
    mixed(job)
    job.bring()
    rows, listed = everything(job)
    job.scan()
    again, listed_again = everything(job)
    assert again == rows
    assert [m[:4] for m in listed_again] == [m[:4] for m in listed]


@pytest.mark.parametrize("change", ["bytes", "size", "time"])
def test_scan_discovers_what_was_overwritten_and_keeps_its_former_row(job: Job, change: str) -> None:
    job.server.put("b", "k", b"1234", last_modified=1e9)
    job.server.put("b", "same", b"1234", last_modified=1e9)
    job.bring()
    same = job.row("same")
    body = {"bytes": b"4321", "size": b"12345", "time": b"1234"}[change]
    job.server.put("b", "k", body, last_modified=1e9 + (change == "time"))
    job.server.put("b", "new", b"!")
    job.scan()
    former, current = sorted(
        (row for row in job.rows() if row.key == "k"), key=lambda row: row.state is FileState.DISCOVERED
    )
    assert forgotten(current) and current.version.size == len(body)
    assert former.gone is GoneKind.ONLY_COPY and former.sha256 == hashlib.sha256(b"1234").hexdigest()
    assert forgotten(job.row("new"))
    assert job.row("same") == same


@pytest.mark.parametrize("known", ["verified", "discovered"])
def test_what_vanished_and_came_back_is_looked_at_again(job: Job, known: str) -> None:
    stored = job.server.put("b", "k", b"body")
    job.server.put("b", "stays", b"body")
    job.bring() if known == "verified" else job.scan()
    before = job.row("k")
    job.server.remove("b", "k", "null")
    for _ in range(2):
        told = job.scan()
        assert (job.row("k").state, job.row("k").reason) == (FileState.ERROR, VANISHED)
    assert not any(isinstance(e, Warned) for e in told), "told once"
    with job.server.lock:
        job.server.buckets["b"].objects["k"] = [stored]
        job.server.buckets["b"].keys.insert(0, "k")
    job.scan()
    if known == "verified":  # its copy is read again, not fetched again
        assert (job.row("k").state, job.row("k").verdict, job.row("k").path) == (
            FileState.DOWNLOADED,
            None,
            before.path,
        )
    else:
        assert forgotten(job.row("k"))
    job.place()
    job.fetch()
    job.verify()
    assert set(job.states().values()) == {FileState.VERIFIED}
    assert job.server.count("GetObject", status=200) == 2


@pytest.mark.parametrize("key", ["k", "side//way"])
def test_the_copy_of_what_vanished_is_the_only_one_and_is_not_written_over(job: Job, key: str) -> None:
    """Others have deleted it in S3; who puts another object there does not reach the copy."""
    job.server.put("b", key, b"the only copy")
    job.bring()
    job.server.remove("b", key, "null")
    job.scan()
    job.server.put("b", key, b"another")
    job.bring()
    old, new = sorted(job.rows(), key=lambda row: row.version.size, reverse=True)
    assert (old.state, old.reason, new.state) == (FileState.ERROR, VANISHED, FileState.VERIFIED)
    assert (job.disk.base / old.path).read_bytes() == b"the only copy"
    assert (job.disk.base / new.path).read_bytes() == b"another"


def test_an_unfetched_row_may_vanish_too_and_fetching_leaves_it_alone(job: Job) -> None:
    job.server.put("b", "k", b"body")
    job.scan()
    job.server.remove("b", "k", "null")
    job.scan()
    job.place()
    job.fetch()
    assert (job.row("k").state, job.row("k").reason) == (FileState.ERROR, VANISHED)


def test_a_delete_marker_that_is_gone_is_forgotten(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    job.server.put("b", "k", b"1")
    marker = put_marker(job.server, "b", "k")
    job.scan()
    assert len(markers(job)) == 1 and not job.row("k").version.is_latest
    job.server.remove("b", "k", marker.version_id)
    job.scan()
    assert markers(job) == [] and job.row("k").version.is_latest


def test_a_newer_version_takes_the_path_and_the_older_one_is_brought_to_the_side(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    first = job.server.put("b", "k", b"first").version_id
    job.bring()
    assert job.row("k").place is Place.PLAIN
    second = job.server.put("b", "k", b"second").version_id
    job.scan()
    assert job.row("k", first).state is FileState.VERIFIED and not job.row("k", first).version.is_latest
    job.bring()
    assert [job.row("k", v).place for v in (first, second)] == [Place.SIDE, Place.PLAIN]
    assert job.path("k", first).read_bytes() == b"first" and job.path("k", second).read_bytes() == b"second"
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    # And back: the older one is the current one again.
    job.server.remove("b", "k", second)
    job.bring()
    assert job.row("k", first).version.is_latest and job.row("k", first).state is FileState.VERIFIED
    assert job.path("k", first).read_bytes() == b"first"
    assert job.row("k", second).reason == VANISHED


def test_a_transition_to_glacier_is_noticed_before_the_fetch_and_does_not_matter_after_it(job: Job) -> None:
    for key in ("fetched", "left"):
        job.server.put("b", key, b"body")
    job.scan()
    job.place()
    job.server.deny("s3:GetObject", "b", "left")
    job.fetch()
    job.verify()
    job.store.change([])
    job.server.allow()
    for version in job.server.buckets["b"].objects.values():
        version[0].storage_class = "GLACIER"
    job.scan()
    assert (job.row("fetched").state, job.row("fetched").archived) == (FileState.VERIFIED, True)
    assert job.row("fetched").version.storage_class == "GLACIER"
    assert job.row("left").archived


def test_a_transition_of_a_discovered_row_and_a_restore_as_the_listing_tells_it(job: Job) -> None:
    version = job.server.put("b", "k", b"body")
    job.scan()
    assert not job.row("k").archived
    version.storage_class = "GLACIER"
    job.scan()
    assert (job.row("k").state, job.row("k").archived) == (FileState.DISCOVERED, True)
    version.restore_ready = job.server.clock() + 100
    job.scan()
    assert (job.row("k").state, job.row("k").archived) == (FileState.RESTORING, True)
    version.restore_ready, version.restore_expiry = 0.0, job.server.clock() + DAY
    job.scan()
    row = job.row("k")
    assert (row.state, row.archived) == (FileState.DISCOVERED, False)
    assert row.version.restore_expiry == datetime.fromtimestamp(version.restore_expiry, UTC).replace(microsecond=0)


@pytest.mark.parametrize("known", [FileState.RESTORE_REQUESTED, FileState.RESTORING, FileState.DISCOVERED])
def test_a_listing_that_is_silent_about_restores_takes_nothing_back(job: Job, known: FileState) -> None:
    job.server.restore_status_in_lists = False
    job.server.put("b", "k", b"body", storage_class="GLACIER")
    job.scan()
    row = job.row("k")
    job.store.restore_asked([row.version], "Bulk")
    if known is not FileState.RESTORE_REQUESTED:
        expiry = datetime.now(UTC) if known is FileState.DISCOVERED else None
        job.store.restore_seen([(row.version, known is FileState.DISCOVERED, expiry)])
    before = job.row("k")
    assert before.state is known and before.archived == (known is not FileState.DISCOVERED)
    job.scan()
    assert job.row("k") == before


def test_a_kept_version_that_vanished_and_came_back_is_asked_of_the_setting_again(job: Job) -> None:
    job.noncurrent = "keep"
    job.server.bucket("b", versioning="Enabled")
    first = job.server.put("b", "k", b"first")
    second = job.server.put("b", "k", b"second")
    job.bring()
    assert (job.row("k", first.version_id).verdict, job.row("k", first.version_id).reason) == (
        Verdict.KEPT,
        NONCURRENT.text,
    )
    history = job.server.buckets["b"].objects["k"]
    history.remove(first)
    job.scan()
    assert job.row("k", first.version_id).reason == VANISHED
    history.append(first)
    history.remove(second)
    job.bring()
    row = job.row("k", first.version_id)
    assert row.state is FileState.VERIFIED and (job.disk.base / row.path).read_bytes() == b"first"


# Which bucket is meant


def test_another_account_or_endpoint_is_refused_and_changes_nothing(job: Job) -> None:
    job.server.put("b", "k", b"body")
    job.bring()
    held = job.store.bucket("b")
    with S3Server() as other:
        other.bucket("b")
        elsewhere = Job(other, job.connect(), job.store, job.disk)
        elsewhere.s3 = elsewhere.connect()
        with pytest.raises(Refused, match=r"knows b from account 111122223333 at .*use another state file"):
            elsewhere.scan()
    job.server.identities["AKIAFAKEFAKEFAKEFAKE"] = ("999999999999", "arn:aws:iam::999999999999:user/x")
    job.server.buckets["b"].owner = "999999999999"
    job.s3 = job.connect()
    with pytest.raises(Refused, match="this is account 999999999999"):
        job.scan()
    assert job.store.bucket("b") == held and job.states() == {"k": FileState.VERIFIED}


def test_an_account_that_was_unknown_is_learned_when_the_bucket_is_listed_anew(job: Job) -> None:
    job.server.put("b", "k", b"body")
    job.server.sts = False
    job.bring()
    held = job.store.bucket("b")
    assert held is not None and held.account == ""
    job.server.sts = True
    job.s3 = job.connect()
    account = job.s3.identity().account
    with pytest.raises(Refused, match="from account unknown"):
        must_be_as_listed(held, account, held.endpoint)
    with pytest.raises(Refused, match="use another state file"):
        must_be_as_listed(held, account, "https://elsewhere.example", anew=True)
    job.scan()
    held = job.store.bucket("b")
    assert held is not None and held.account == account != "" and job.states() == {"k": FileState.VERIFIED}


def test_a_bucket_of_another_owner_is_denied_before_anything_is_listed(job: Job) -> None:
    job.server.buckets["b"].owner = "999999999999"
    with pytest.raises(Failure, match="expected_bucket_owner"):
        job.scan()
    assert job.server.count("ListObjectVersions") == 0 and job.store.bucket("b") is None


# Listings that are none


@pytest.mark.parametrize("after", [0, 2])
def test_a_portals_page_is_no_listing(job: Job, after: int) -> None:
    for number in range(9):
        job.server.put("b", f"k{number}", b"body")
    pages_of(job, 2)
    job.bring()
    fault = job.server.fault({"op": "ListObjectVersions"}, "garbage-200", after=after)
    with pytest.raises(Failure):
        job.scan(rows_per_commit=1)
    assert Counter(job.states().values()) == {FileState.VERIFIED: 9}
    job.server.calm(fault)
    job.scan()
    assert Counter(job.states().values()) == {FileState.VERIFIED: 9}


def test_empty_listing_of_objects_that_are_there_changes_no_row(job: Job) -> None:
    """A HEAD of each shows that they are there, so the listing is not believed."""
    for number in range(3):
        job.server.put("b", f"k{number}", b"body")
    job.server.bucket("b", versioning="Enabled")
    put_marker(job.server, "b", "k2")
    job.bring()
    before, there = job.rows(), markers(job)
    job.server.fault({}, "empty-list")
    told = job.scan()
    assert job.rows() == before and sum(isinstance(e, Warned) for e in told) == 1
    assert markers(job) == there and len(there) == 1
    held = job.store.bucket("b")
    assert held and (held.unlisted, held.unconfirmed, held.gone_since) == (3, 0, 0)
    job.server.calm()
    job.scan()
    held = job.store.bucket("b")
    assert held and held.unlisted == 0 and job.rows() == before


def test_an_endpoint_without_versions_is_listed_by_its_objects(job: Job) -> None:
    job.server.versions_listing = False
    for number in range(5):
        job.server.put("b", f"k\n{number}", b"body")
    pages_of(job, 2)
    events = scan("b", job.store, job.s3, rows_per_commit=2)
    next(events)
    next(events)
    events.close()  # type: ignore[attr-defined]
    held = job.store.bucket("b")
    assert held and held.scan_key_marker is None, "such a listing begins at the beginning"
    job.scan(rows_per_commit=2)
    assert [(r.key, r.version.version_id) for r in job.rows()] == [(f"k\n{n}", "null") for n in range(5)]


def test_unfinished_uploads_are_told(job: Job) -> None:
    client = boto3.client("s3", endpoint_url=job.server.url)
    client.create_multipart_upload(Bucket="b", Key="unfinished")
    told = job.scan()
    assert [e.text for e in told if isinstance(e, Warned)] == [
        "1 multipart upload never completed; their parts cannot be read and stay in S3"
    ]
    held = job.store.bucket("b")
    assert held and held.uploads == 1


# After deletions


def gone(job: Job) -> None:
    job.bring()
    job.delete()
    assert job.server.versions("b") == []


def test_a_deleted_row_survives_every_listing(job: Job) -> None:
    job.server.put("b", "k", b"body")
    gone(job)
    row = job.row("k")
    for _ in range(2):
        job.scan()
        assert job.row("k") == row


@pytest.mark.parametrize("key", ["k", "side//way", "full/"])
def test_a_deleted_key_put_anew_gets_a_row_of_its_own_and_never_the_path_of_the_deleted_one(job: Job, key: str) -> None:
    """The local copy of what is deleted is the only one there is."""
    bodies = [f"body {number}".encode() for number in range(4)]
    for body in bodies[:3]:
        job.server.put("b", key, body)
        gone(job)
    job.server.put("b", key, bodies[3])
    job.bring()
    rows = job.rows()
    assert len(rows) == 4 and len({row.path for row in rows}) == 4
    assert sorted((job.disk.base / row.path).read_bytes() for row in rows) == bodies
    deleted = [row for row in rows if row.state is FileState.DELETED]
    assert len(deleted) == 3 and all("+deleted-" in row.version.version_id for row in deleted)
    assert job.row(key, "null").state is FileState.VERIFIED
    assert found(job.verify_again("run-2")) == {} and {row.verdict for row in job.rows()} == {Verdict.MATCH}


def test_a_noncurrent_null_version_put_anew_does_not_reuse_the_copys_path_either(job: Job) -> None:
    server = job.server
    server.put("b", "k", b"null, first")
    server.bucket("b", versioning="Enabled")
    server.put("b", "k", b"real, first")
    gone(job)
    server.bucket("b", versioning="Suspended")
    server.put("b", "k", b"null, second")
    server.bucket("b", versioning="Enabled")
    server.put("b", "k", b"real, second")
    job.bring()
    bodies = sorted((job.disk.base / row.path).read_bytes() for row in job.rows())
    assert bodies == [b"null, first", b"null, second", b"real, first", b"real, second"]


def test_what_is_deleted_and_still_listed_is_not_deleted(job: Job) -> None:
    stored = job.server.put("b", "k", b"body")
    gone(job)
    with job.server.lock:
        job.server.buckets["b"].objects["k"] = [stored]
        job.server.buckets["b"].keys.append("k")
    job.scan()
    row = job.row("k")
    assert (row.state, row.reason) == (FileState.DOWNLOADED, "listed again")
    job.verify()
    assert job.row("k").state is FileState.VERIFIED
    job.delete()
    assert job.server.versions("b") == []
