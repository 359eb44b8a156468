"""Only what was proved goes, by an identity that cannot move, announced before and accounted for after."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from migrate_v2 import deletion, model
from migrate_v2.edges.s3 import S3, WRONG_ETAG_REFUSED, Deleter
from migrate_v2.edges.store import Evidence, Store, Upload
from migrate_v2.errors import Failure, NotFinished, Refused
from migrate_v2.events import Event
from migrate_v2.model import CHANGED, STILL_THERE, EvidenceSource, FileState, Place, Proof, prove, why_kept
from migrate_v2.steps import delete as delete_step
from migrate_v2.steps.settle import settle
from migrate_v2.steps.verify import verify
from tests.fakes import s3server
from tests.fakes.oracle import Oracle, as_recorded, in_state_file
from tests.fakes.s3server import (
    Bucket,
    Delete,
    Request,
    Response,
    S3Error,
    S3Server,
    Version,
    error_response,
    parsed,
    xml,
)
from tests.steps.conftest import RULES, TOKEN, Job


@pytest.fixture
def job(job: Job) -> Iterator[Job]:
    """The same, with the oracle between it and S3."""
    copies = as_recorded(job.disk.base, job.store.path)
    with Oracle(job.server.url, copies, announced=in_state_file(job.store.path), uploads_may_go=True) as oracle:
        job.s3 = S3(endpoint_url=oracle.url, region="us-east-1")
        yield job


LOST = "deleted; the reply was lost"
DATA = {"DeleteObject", "DeleteObjects"}


def fill(job: Job, count: int = 5) -> dict[str, bytes]:
    bodies = {f"dir/{number}": f"body {number}".encode() * number for number in range(1, count + 1)}
    for key, body in bodies.items():
        job.server.put(job.bucket, key, body)
    return bodies


def put_marker(job: Job, key: str) -> None:
    boto3.client("s3", endpoint_url=job.server.url).delete_object(Bucket=job.bucket, Key=key)


def in_s3(job: Job) -> set[tuple[str, str]]:
    return {(v.key, v.version_id) for v in job.server.versions(job.bucket)}


def watch(job: Job) -> list[tuple[str, str]]:
    """From now on every delete is held against the local file and the ledger, at the instant before it happens."""
    gone: list[tuple[str, str]] = []
    state = job.store.path
    paths = {(row.key, row.version.version_id): job.disk.base / row.path for row in job.rows()}

    def look(doomed: Delete) -> None:
        name = (doomed.key, doomed.version_id)
        gone.append(name)
        copy = paths[name]
        assert (b"" if copy.is_dir() else copy.read_bytes()) == doomed.body, name
        with sqlite3.connect(f"{state.as_uri()}?mode=ro", uri=True) as ledger:
            sql = "SELECT token, outcome, etag FROM deletions WHERE key = ? AND version_id = ? ORDER BY id DESC"
            assert ledger.execute(sql, name).fetchone() == (TOKEN, None, doomed.etag)
        ledger.close()

    job.server.observe(look)
    return gone


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
def test_at_the_instant_of_each_delete_the_doomed_bytes_are_in_the_local_file(job: Job, versioning: str) -> None:
    fill(job)
    job.server.put("b", "x//y", b"no path can hold this key")
    job.server.put("b", "folder/", b"")
    job.server.put("b", "big", os.urandom(300_000), parts=(100_000, 100_000, 100_000))
    job.server.buckets["b"].versioning = versioning
    if versioning == "Enabled":
        job.server.put("b", "dir/1", b"newer")
    job.bring()
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    before = in_s3(job)
    gone = watch(job)
    job.delete()
    assert set(gone) == before and len(gone) == len(before)
    assert {row.state for row in job.rows()} == {FileState.DELETED}
    assert {outcome for _, _, outcome in job.outcomes()} == {"deleted"}
    # Of a suspended bucket the null markers stay that the deletes themselves have made.
    assert {v.is_marker for v in job.server.versions("b")} <= {versioning == "Suspended"}
    # The second run does nothing.
    requests = job.server.count("DeleteObject") + job.server.count("DeleteObjects")
    job.delete()
    assert job.server.count("DeleteObject") + job.server.count("DeleteObjects") == requests


def test_a_row_that_was_not_read_by_this_run_stops_everything(job: Job) -> None:
    fill(job)
    job.bring()
    job.run = "run-2"
    with pytest.raises(Refused, match="not been read again in this run"):
        list(job.deleting())
    assert not DATA & job.server.served.keys() and job.outcomes() == []


def test_what_is_not_proved_is_not_even_asked_for(job: Job) -> None:
    job.server.put("b", "good", b"1")
    job.server.put("b", "unprovable", b"2", etag="kms", checksums=())
    job.server.put("b", "weak", b"3", etag="kms", checksums=("CRC32",))
    job.server.put("b", "archived", b"4", storage_class="GLACIER")
    job.bring()
    job.delete()
    assert job.server.deletes == [("b", "good", "null")]
    assert {v.key for v in job.server.versions("b")} == {"unprovable", "weak", "archived"}
    assert [key for key, _, _ in job.outcomes()] == ["good"]


def test_mfa_delete_is_never_tried(job: Job) -> None:
    job.server.buckets["b"].versioning = "Enabled"
    job.server.buckets["b"].mfa_delete = True
    job.server.buckets["b"].settings["versioning-mfa"] = b""
    fill(job)
    job.bring()
    site = job.site()
    if not site.mfa_delete:
        site = type(site)(site.account, site.endpoint, site.bucket, site.versioning, True)
    assert list(deletion.to_delete(job.store, site, job.rules)) == []


@pytest.mark.parametrize("same_size", [True, False])
def test_an_object_overwritten_at_its_very_delete_survives_and_deletion_stops(job: Job, same_size: bool) -> None:
    bodies = fill(job)
    job.bring()
    newer = bytes(len(bodies["dir/3"])) if same_size else b"newer and longer than before"
    watch(job)
    job.server.fault(
        {"op": "DeleteObject", "key": "dir/3"}, lambda request: job.server.put("b", request.key, newer), times=1
    )
    with pytest.raises(Refused, match=r"dir/3 was not deleted: changed in S3.*deletion in b stops here"):
        job.delete()
    current = job.server.get("b", "dir/3")
    assert current is not None and current.body == newer
    row = job.row("dir/3")
    assert (row.state, row.reason) == (FileState.VERIFIED, CHANGED)
    assert (job.disk.base / row.path).read_bytes() == bodies["dir/3"]
    assert all(outcome for _, _, outcome in job.outcomes())
    for key in bodies:
        assert (job.states()[key] is FileState.DELETED) == (job.server.get("b", key) is None)
    # Nothing is in doubt, so the next round brings the new bytes and leaves what is deleted alone.
    job.bring()
    assert job.row("dir/3", "null").state is FileState.VERIFIED
    assert job.path("dir/3", "null").read_bytes() == newer
    former = [row for row in job.rows() if row.key == "dir/3" and row.version.version_id != "null"]
    assert [(job.disk.base / row.path).read_bytes() for row in former] == [bodies["dir/3"]]
    job.delete()
    assert in_s3(job) == set()


def test_a_version_put_on_top_at_the_very_delete_survives(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    bodies = fill(job)
    job.bring()
    watch(job)
    job.server.fault({"op": "DeleteObjects"}, lambda _: job.server.put("b", "dir/2", b"on top"), times=1)
    job.delete()
    (left,) = job.server.versions("b")
    assert (left.key, left.body) == ("dir/2", b"on top")
    assert job.path("dir/2").read_bytes() == bodies["dir/2"]
    job.bring()
    new, old = sorted((r for r in job.rows() if r.key == "dir/2"), key=lambda r: r.state is FileState.DELETED)
    assert (job.disk.base / new.path).read_bytes() == b"on top"
    assert (job.disk.base / old.path).read_bytes() == bodies["dir/2"]


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
def test_a_lost_reply_is_asked_after_and_the_row_is_deleted(job: Job, versioning: str) -> None:
    job.server.buckets["b"].versioning = versioning
    # By If-Match one request carries one key, and no more are sent after a lost reply.
    count = 5 if versioning == "Enabled" else 1
    fill(job, count)
    job.bring()
    lost = job.server.fault(lambda r: r.op in DATA and "canary" not in r.key, "lost-reply")
    job.delete()
    assert lost.hits == 1, "a delete is sent once"
    assert set(job.states().values()) == {FileState.DELETED}
    assert {outcome for _, _, outcome in job.outcomes()} == {LOST}
    assert len(job.server.deletes) == count
    job.scan()
    assert set(job.states().values()) == {FileState.DELETED}


def test_a_lost_reply_among_many_leaves_each_row_as_s3_has_it(job: Job) -> None:
    bodies = fill(job, 20)
    job.bring()
    job.server.fault({"op": "DeleteObject", "key": "dir/3"}, "lost-reply")
    with contextlib.suppress(Failure):  # those not sent any more are told of
        job.delete()
    for key, state in job.states().items():
        assert state is (FileState.VERIFIED if job.server.get("b", key) else FileState.DELETED)
    assert job.states()["dir/3"] is FileState.DELETED and ("dir/3", "version", LOST) in job.outcomes()
    job.server.calm()
    job.delete()
    assert set(job.states().values()) == {FileState.DELETED} and len(job.server.deletes) == len(bodies)


def test_delete_stops_at_server_that_ignores_the_version_id(job: Job) -> None:
    """It puts a delete marker on top: what was to go is still there, and the next batch is not sent."""
    job.server.buckets["b"].versioning = "Enabled"
    for key in ("k\n", "l\n"):  # these go by themselves, and not by DeleteObjects
        job.server.put("b", key, b"old")
        job.server.put("b", key, b"new")
    job.bring()
    job.server.fault({"op": "DeleteObject"}, "ignore-version")
    with pytest.raises(Refused):
        job.delete()
    versions = [v for v in job.server.versions("b") if not v.is_marker]
    assert len(versions) == 4 and set(job.states().values()) == {FileState.VERIFIED}
    assert job.server.count("DeleteObject") == 1
    assert all(outcome for _, _, outcome in job.outcomes())


def untried(job: Job) -> Deleter:
    """A Deleter that has not yet deleted anything by a version id."""
    deleter = Deleter(job.s3)
    deleter._refuses.add(job.bucket)
    return deleter


def versions_and_current(job: Job, keys: Sequence[str]) -> None:
    job.server.buckets["b"].versioning = "Enabled"
    for size, key in enumerate(keys, 2):
        job.server.put("b", key, b"o" * size * 10)
        job.server.put("b", key, b"n" * size)
    job.bring()
    job.prove()


def ignores_version_id(s3: S3Server, bucket: Bucket, key: str, harm: str) -> None:
    newest = bucket.objects[key][0]
    if harm == "marker on top":
        s3._insert(bucket, Version(key, is_marker=True))
    elif harm == "current removed":
        s3.remove(bucket.name, key, newest.version_id)


HARMS = ["marker on top", "current removed", "nothing done"]


@pytest.mark.parametrize("harm", HARMS)
def test_delete_objects_ignoring_version_ids_is_noticed_at_the_first_version(
    job: Job, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer names the versions that the request named."""
    keys = [f"k{number}" for number in range(20)]
    versions_and_current(job, keys)
    asked: list[tuple[str, str]] = []

    def operation(s3: S3Server, bucket: Bucket, request: Request) -> Response:
        rows = ""
        for one in parsed(request.body).findall("Object"):
            key, version_id = one.findtext("Key") or "", one.findtext("VersionId") or ""
            asked.append((key, version_id))
            ignores_version_id(s3, bucket, key, harm)
            rows += f"<Deleted><Key>{key}</Key><VersionId>{version_id}</VersionId></Deleted>"
        return xml(f"<DeleteResult>{rows}</DeleteResult>")

    monkeypatch.setitem(s3server.OPERATIONS, "DeleteObjects", operation)
    before = {(v.key, v.version_id) for v in job.server.versions("b")}
    oldest = job.server.versions("b", "k0")[-1].version_id
    with pytest.raises(Refused):
        list(job.deleting(deleter=untried(job)))
    assert asked == [("k0", oldest)], "the smallest version that is not the current one"
    lost = before - {(v.key, v.version_id) for v in job.server.versions("b")}
    assert len(lost) == (harm == "current removed")
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    assert [outcome for _, _, outcome in job.outcomes()] == [STILL_THERE]


@pytest.mark.parametrize("harm", HARMS)
def test_delete_ignoring_the_version_id_without_saying_so_is_noticed_at_once(
    job: Job, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions_and_current(job, ["k\n", "l\n"])  # XML cannot name these

    def operation(s3: S3Server, bucket: Bucket, request: Request) -> Response:
        ignores_version_id(s3, bucket, request.key, harm)
        return Response(204)

    monkeypatch.setitem(s3server.OPERATIONS, "DeleteObject", operation)
    with pytest.raises(Refused):
        list(job.deleting(deleter=untried(job)))
    assert job.server.count("DeleteObject") == 1
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}


@pytest.mark.parametrize("reply", ["arrives", "lost"])
def test_first_delete_by_version_id_is_of_one_version_off_aws(job: Job, reply: str) -> None:
    versions_and_current(job, [*(f"k{number}" for number in range(5)), "k\n"])
    put_marker(job, "k3")
    job.server.put("b", "k0", b"")  # its older versions, the smallest, would go before it is proved
    if reply == "lost":
        job.server.fault({"op": "DeleteObjects"}, "lost-reply", times=1)
    batches: list[list[str | None]] = []
    job.server.fault(
        {"op": "DeleteObjects"}, lambda r: batches.append([one.text for one in parsed(r.body).findall("Object/Key")])
    )
    deleter = untried(job)
    job.scan()
    job.prove()
    list(job.deleting(deleter=deleter))
    assert batches[0] == ["k3"], "the smallest of which nothing is lost if another version of its key goes"
    assert sum(map(len, batches)) == 11 and len(batches) == 4
    assert [v.body for v in job.server.versions("b")] == [b""]
    assert len(job.outcomes()) == 13
    requests = job.server.count("ListObjectVersions")
    list(job.deleting(deleter=deleter))
    assert job.server.count("ListObjectVersions") == requests, "tried once in a run"


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
@pytest.mark.parametrize("action", ["reset-before", "500", "503"])
def test_what_never_reached_s3_is_still_there_and_goes_the_next_time(job: Job, versioning: str, action: Any) -> None:
    job.server.buckets["b"].versioning = versioning
    bodies = fill(job)
    job.bring()
    job.server.fault(lambda r: r.op in DATA and "canary" not in r.key, action, times=1)
    with pytest.raises(Failure, match="not answered and not done") as failed:
        job.delete()
    assert failed.value.code == 1  # time cures it; nothing is refused
    states = job.states()
    for key in bodies:
        assert (states[key] is FileState.DELETED) == (job.server.get("b", key) is None), key
    assert FileState.VERIFIED in states.values()
    assert all(outcome for _, _, outcome in job.outcomes())
    job.delete()
    assert set(job.states().values()) == {FileState.DELETED}


def test_where_s3_does_not_say_the_intent_stays_open_until_it_does(job: Job) -> None:
    fill(job, 1)
    job.bring()
    job.server.fault({"op": "DeleteObject", "key": "dir/1"}, "lost-reply")
    # Without s3:ListBucket, S3 answers 403 for what is not there: that tells nothing.
    job.server.fault({"op": "HeadObject", "key": "dir/1"}, "access-denied")
    with pytest.raises(Failure, match="does not say what became of 1 deletes in b") as failed:
        job.delete()
    assert failed.value.code == 1  # time cures it; nothing is refused
    assert type(failed.value) is Failure
    for _ in range(2):
        assert job.row("dir/1").state is FileState.VERIFIED, "no listing is believed before that"
        assert [intent.doomed.key for intent in job.store.ledger.open("b")] == ["dir/1"]
        with pytest.raises(Failure, match="does not say what became of deletes in b"):
            job.scan()
    job.server.calm()
    job.scan()
    assert job.row("dir/1").state is FileState.DELETED
    assert job.outcomes() == [("dir/1", "version", LOST)]


def test_a_portals_page_in_place_of_an_answer_tells_nothing(job: Job) -> None:
    fill(job, 1)
    job.bring()
    job.server.fault({"op": "DeleteObject", "key": "dir/1"}, "reset-before")
    job.server.fault({"op": "HeadObject", "key": "dir/1"}, "garbage-200")
    with pytest.raises(Failure, match="does not say"):
        job.delete()
    assert job.row("dir/1").state is FileState.VERIFIED and len(job.store.ledger.open("b")) == 1


def test_a_lock_stops_the_bucket_and_is_told(job: Job) -> None:
    job.bucket = "locked"
    job.server.bucket("locked", object_lock=True)
    bodies = fill(job)
    held = job.server.get("locked", "dir/2")
    assert held
    held.legal_hold = "ON"
    retained = job.server.get("locked", "dir/4")
    assert retained
    retained.lock_mode, retained.retain_until = "GOVERNANCE", job.server.clock() + 1000
    job.bring()
    watch(job)
    with pytest.raises(Refused, match=r"dir/2 was not deleted: .*AccessDenied.*object lock.*stops here"):
        job.delete()
    assert {v.key for v in job.server.versions("locked")} == {"dir/2", "dir/4"}
    for key in ("dir/2", "dir/4"):
        row = job.row(key)
        assert row.state is FileState.VERIFIED and "AccessDenied" in row.reason
        assert job.path(key).read_bytes() == bodies[key]
    assert {key for key, _, outcome in job.outcomes() if outcome == "deleted"} == {"dir/1", "dir/3", "dir/5"}


def test_a_denied_conditional_delete_stops_too(job: Job) -> None:
    fill(job, 3)
    job.bring()
    job.server.deny("s3:DeleteObject", "b", "dir/*")
    with pytest.raises(Refused, match="AccessDenied"):
        job.delete()
    assert len(job.server.versions("b")) == 3 and set(job.states().values()) == {FileState.VERIFIED}
    assert job.store.ledger.open("b") == []


def test_after_a_surprise_no_more_is_sent(job: Job) -> None:
    for number in range(60):
        job.server.put("b", f"{number:02}", b"body")
    job.bring()
    job.server.deny("s3:DeleteObject", "b", "02")
    with pytest.raises(Refused, match=r"02 was not deleted: .*AccessDenied"):
        job.delete()
    # No more than those that were under way.
    assert job.server.count("DeleteObject") < 1 + 3 + 2 * 16 and "50" not in {key for _, key, _ in job.server.deletes}
    assert job.store.ledger.open("b") == []


@pytest.mark.parametrize(("before", "after"), [("", "Enabled"), ("Enabled", "Suspended")])
def test_versioning_changed_between_batches_is_a_surprise(
    job: Job, before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.server.buckets["b"].versioning = before
    fill(job)
    job.bring()
    monkeypatch.setattr(delete_step, "_NULL", 2)
    monkeypatch.setattr(delete_step, "_BY_ID", 2)
    job.prove()
    events = job.deleting()
    next(events)
    next(events)  # the first batch is told
    assert len(job.server.deletes) == 2
    job.server.buckets["b"].versioning = after
    with pytest.raises(Refused, match="versioning of b has changed"):
        list(events)
    assert len(job.server.deletes) == 2 and job.store.ledger.open("b") == []
    assert sorted(job.states().values()) == [FileState.DELETED] * 2 + [FileState.VERIFIED] * 3
    assert not any(v.is_marker for v in job.server.versions("b"))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


def in_place(path: Path) -> None:
    facts = path.stat()
    body = bytearray(path.read_bytes())
    body[0] ^= 1
    path.write_bytes(body)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    other.replace(path)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [append, in_place, replaced, Path.unlink, linked, become_folder])
def test_a_local_file_touched_after_it_was_read_stops_its_batch_before_any_request(
    job: Job, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(job)
    job.bring()
    monkeypatch.setattr(delete_step, "_NULL", 2)
    job.prove()
    events = job.deleting()
    next(events)
    next(events)
    harm(job.path("dir/4"))
    with pytest.raises(Failure, match="dir/4"):
        list(events)
    # Its whole batch is left alone: nothing of it was announced or sent.
    assert sorted(key for _, key, _ in job.server.deletes) == ["dir/1", "dir/2"]
    assert len(job.outcomes()) == 2 and job.store.ledger.open("b") == []
    assert {v.key for v in job.server.versions("b")} == {"dir/3", "dir/4", "dir/5"}


def test_a_folder_that_is_gone_stops_too(job: Job) -> None:
    job.server.put("b", "empty/", b"")
    job.bring()
    job.prove()
    job.path("empty/").rmdir()
    with pytest.raises(Refused, match="folder b/empty is gone"):
        list(job.deleting())
    assert job.server.deletes == []


def test_a_destination_that_was_unmounted_stops_everything(job: Job) -> None:
    fill(job)
    job.bring()
    job.prove()
    job.disk.base.rename(job.disk.base.with_name("gone"))
    job.disk.base.mkdir()
    with pytest.raises(Refused, match="not the folder any more"):
        list(job.deleting())
    assert job.server.deletes == []


def test_delete_markers_go_last_and_only_above_nothing(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    for key in ("a", "z"):
        job.server.put("b", key, b"1")
        job.server.put("b", key, b"22")
        put_marker(job, key)
    job.server.put("b", "held", b"3", etag="kms", checksums=())
    put_marker(job, "held")
    put_marker(job, "nothing beneath")
    order: list[tuple[str, bool]] = []

    def note(request: Request) -> None:
        for version in job.server.versions("b"):
            if f"<VersionId>{version.version_id}<".encode() in request.body:
                order.append((version.key, version.is_marker))

    job.server.fault({"op": "DeleteObjects"}, note)
    job.bring()
    gone = watch(job)
    job.delete()
    assert [is_marker for _, is_marker in order] == [False] * 4 + [True] * 3
    assert {key for key, is_marker in order if is_marker} == {"a", "z", "nothing beneath"}
    assert [(v.key, v.is_marker) for v in job.server.versions("b")] == [("held", True), ("held", False)]
    assert len(gone) == 4
    assert [key for key, kind, _ in job.outcomes() if kind == "marker"] == ["a", "nothing beneath", "z"]


def test_a_lost_reply_about_a_marker_is_asked_after(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    put_marker(job, "m")
    job.bring()
    lost = job.server.fault({"op": "DeleteObjects"}, "lost-reply", times=1)
    job.delete()
    assert lost.hits == 1 and job.server.versions("b") == []
    assert job.outcomes() == [("m", "marker", LOST)]
    assert job.store.marker_count("b") == 0
    put_marker(job, "n")
    job.scan()
    job.server.fault({"op": "DeleteObjects"}, "reset-before", times=1)
    with pytest.raises(Failure, match="not answered and not done"):
        job.delete()
    assert job.store.marker_count("b") == 1


def test_a_suspended_bucket_goes_by_the_table(job: Job) -> None:
    """FACTS: real ids by VersionId; null by If-Match while it is current; noncurrent nulls and null markers stay."""
    server = job.server
    server.bucket("b", versioning="Enabled")
    real = server.put("b", "both", b"real")
    buried = server.buckets["b"]
    buried.versioning = "Suspended"
    server.put("b", "both", b"null, current")
    server.put("b", "noncurrent", b"null, noncurrent")
    server.put("b", "null marker", b"")
    put_marker(job, "null marker")
    server.bucket("b", versioning="Enabled")
    current = server.put("b", "noncurrent", b"real, current")
    server.put("b", "real marker", b"x")
    put_marker(job, "real marker")
    server.bucket("b", versioning="Suspended")
    job.bring()
    gone = watch(job)
    job.delete()
    assert ("both", real.version_id) in gone and ("both", "null") in gone
    left = [(v.key, v.version_id, v.is_marker) for v in server.versions("b")]
    assert left == [
        ("both", "null", True),  # S3 puts it there when the null version goes
        ("noncurrent", current.version_id, False),  # else the null version, which stays, would become current
        ("noncurrent", "null", False),
        ("null marker", "null", True),
    ]
    deletes = [entry for entry in server.requests if entry.op == "DeleteObject" and "canary" not in entry.key]
    assert {entry.query.get("versionId") for entry in deletes} == {None}, "If-Match does not go with a VersionId (501)"


def test_an_endpoint_that_ignores_if_match_is_refused_and_nothing_goes(job: Job) -> None:
    fill(job)
    job.bring()
    job.server.honours_if_match = False
    with pytest.raises(Refused, match="ignores If-Match"):
        job.delete()
    assert job.server.deletes == [] and len(job.server.versions("b")) == 5
    job.scan()
    assert set(job.states().values()) == {FileState.VERIFIED} and job.store.ledger.open("b") == []


def test_a_versioned_bucket_needs_no_canary(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    fill(job)
    job.bring()
    job.server.honours_if_match = False
    job.delete()
    assert job.server.versions("b") == [] and job.server.count("DeleteObject") == 0


class PowerCut(BaseException):
    pass


def cut(*_: object, **__: object) -> None:
    raise PowerCut


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
@pytest.mark.parametrize("sent", [True, False])
def test_a_crash_between_intent_and_outcome_is_settled_by_the_next_scan(
    job: Job, versioning: str, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.server.buckets["b"].versioning = versioning
    bodies = fill(job)
    job.bring()
    job.prove()
    with monkeypatch.context() as broken, pytest.raises(PowerCut):
        if sent:
            broken.setattr(job.store, "concluded", cut)
            list(job.deleting())
        else:
            deleter = job.deleter()
            broken.setattr(deleter, "delete", cut)
            list(job.deleting(deleter=deleter))
    assert len(job.server.deletes) == (5 if sent else 0)
    job.store.close()
    job.store = Store.open(job.store.path)
    assert len(job.store.ledger.open("b")) == 5
    job.scan()
    assert job.store.ledger.open("b") == []
    assert set(job.states().values()) == {FileState.DELETED if sent else FileState.VERIFIED}
    assert {outcome for _, _, outcome in job.outcomes()} == {LOST if sent else "still there"}
    for key, body in bodies.items():
        assert job.path(key).read_bytes() == body
    if not sent:
        job.delete()
    assert set(job.states().values()) == {FileState.DELETED} and len(job.server.deletes) == 5


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_what_is_put_under_the_key_of_a_crashed_delete_never_touches_the_only_copy(
    job: Job, versioning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.server.buckets["b"].versioning = versioning
    bodies = fill(job)
    job.bring()
    job.prove()
    with monkeypatch.context() as broken, pytest.raises(PowerCut):
        broken.setattr(job.store, "concluded", cut)
        list(job.deleting())
    for key in bodies:
        job.server.put("b", key, b"new bytes under the old key")
    job.bring()
    rows = job.rows()
    assert sorted(row.state for row in rows) == [FileState.DELETED] * 5 + [FileState.VERIFIED] * 5
    for row in rows:
        body = bodies[row.key] if row.state is FileState.DELETED else b"new bytes under the old key"
        assert (job.disk.base / row.path).read_bytes() == body


def test_a_crash_in_the_middle_of_the_batches_leaves_the_others_as_they_were(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(job)
    job.bring()
    monkeypatch.setattr(delete_step, "_NULL", 2)
    job.prove()
    events = job.deleting()
    next(events)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert sorted(job.states().values()) == [FileState.DELETED] * 2 + [FileState.VERIFIED] * 3
    job.scan()
    job.delete()
    assert in_s3(job) == set()


ODD = ["a&b<c>", "new\nline", "return\r", "\x01control", "\ufffe", "smile \U0001f600", 'quote"', "tab\t", "]]>", "\x7f"]


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_keys_that_no_xml_can_hold_go_too(job: Job, versioning: str) -> None:
    job.server.buckets["b"].versioning = versioning
    for key in ODD:
        job.server.put("b", key, key.encode())
    if versioning:
        put_marker(job, "\x02marker")
    job.bring()
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    watch(job)
    job.delete()
    assert in_s3(job) == set()
    assert set(job.states().values()) == {FileState.DELETED}


def test_a_folder_is_a_copy_of_nothing_else(job: Job) -> None:
    """`dir/` with bytes lies at the side as a file; only an empty one has the folder for its copy."""
    job.server.put("b", "full/", b"bytes")
    job.server.put("b", "empty/", b"")
    job.bring()
    assert job.row("empty/").place is Place.FOLDER and job.row("full/").place is Place.SIDE
    watch_full = job.path("full/").read_bytes()
    assert watch_full == b"bytes"
    job.delete()
    assert in_s3(job) == set() and job.path("empty/").is_dir()


def test_a_copied_proof_is_none(job: Job) -> None:
    fill(job, 2)
    job.bring()
    row = job.row("dir/1")
    proof = prove(row, job.site(), job.run, job.rules, identity=job.disk.look(row.path))
    assert isinstance(proof, Proof)
    with pytest.raises(TypeError, match="made by prove"):
        replace(proof, key="dir/2")


# How many, how recent, how long


@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("at_most", [1, 3, 4, 5, 99])
def test_no_more_go_than_are_allowed(job: Job, versioning: str, at_most: int) -> None:
    job.server.buckets["b"].versioning = versioning
    fill(job, 4)
    if versioning:
        put_marker(job, "dir/2")
    there = len(in_s3(job))
    job.bring()
    job.prove()
    list(job.deleting(at_most=at_most))
    assert there - len(in_s3(job)) == len(job.outcomes()) == min(at_most, there)
    list(job.deleting())
    assert in_s3(job) == set()


def test_a_copy_read_by_an_earlier_run_goes_if_that_was_recent(job: Job) -> None:
    fill(job)
    job.bring()
    job.run = "run-2"
    with pytest.raises(Refused, match="not been read again"):
        list(job.deleting(trust=timedelta(0)))
    assert job.server.deletes == []
    list(job.deleting(trust=timedelta(minutes=5)))
    assert len(job.server.deletes) == 5


@pytest.mark.parametrize("harm", [append, in_place, replaced, Path.unlink, linked])
def test_p1_trust_does_not_reach_to_another_file(job: Job, harm: Callable[[Path], None]) -> None:
    fill(job)
    job.bring()
    job.run = "run-2"
    harm(job.path("dir/2"))
    with pytest.raises(Failure, match="dir/2"):
        list(job.deleting(trust=timedelta(days=1)))
    assert job.server.deletes == []


def test_p1_a_reading_of_the_future_is_not_recent(job: Job) -> None:
    fill(job, 1)
    job.bring()
    (row,) = job.rows()
    assert row.identity and row.read_at
    later = replace(row, read_at=row.read_at + timedelta(minutes=1))
    assert prove(later, job.site(), "other", job.rules, identity=row.identity, trust=timedelta(days=1)) == (
        "its local copy has not been read again in this run"
    )


def test_p1_a_proof_that_has_expired_deletes_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was suspended between the look at the file and the request."""
    fill(job)
    job.bring()
    job.prove()
    monkeypatch.setattr(model, "LIFETIME", -1.0)
    with pytest.raises(Refused, match="expired"):
        list(job.deleting())
    assert job.server.deletes == [] and job.store.ledger.open("b") == []
    monkeypatch.undo()
    list(job.deleting())
    assert len(job.server.deletes) == 5


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sha256", "0" * 64),
        ("evidence", "[]"),
        ("evidence", '[{"kind": "refetch", "value": "00", "bits": 256}]'),
        ("inode", 1),
        ("mtime_ns", 1),
        ("read_run", "run-2"),
        ("verified_at", "2999-01-01T00:00:00+00:00"),
        ("mac", "00"),
        ("mac", None),
    ],
)
def test_p1_a_record_that_is_not_as_it_was_written_proves_nothing(job: Job, column: str, value: object) -> None:
    fill(job)
    job.bring()
    job.store._conn.execute(f"UPDATE files SET {column} = ? WHERE key = 'dir/3'", (value,))
    row = job.row("dir/3")
    assert not row.sealed and why_kept(row, job.site(), job.rules)
    job.delete()
    assert {v.key for v in job.server.versions("b")} == {"dir/3"}
    job.verify_again("run-3")
    assert job.row("dir/3").sealed
    job.delete()
    assert in_s3(job) == set()


def test_p1_a_stolen_verdict_proves_nothing(job: Job) -> None:
    """The evidence of one version in the row of another."""
    fill(job)
    job.server.put("b", "other", b"x", etag="kms", checksums=())
    job.bring()
    taken = "state, verdict, sha256, evidence, device, inode, mtime_ns, ctime_ns, read_run, verified_at, mac"
    job.store._conn.execute(
        f"UPDATE files SET ({taken}) = (SELECT {taken} FROM files WHERE key = 'dir/1') WHERE key = 'other'"
    )
    job.delete()
    assert {v.key for v in job.server.versions("b")} == {"other"}


# Uploads

ABORTING = replace(RULES, uploads_before=datetime.max.replace(tzinfo=UTC))


def begun(job: Job, *keys: str) -> dict[str, str]:
    boto = boto3.client("s3", endpoint_url=job.server.url)
    return {key: boto.create_multipart_upload(Bucket="b", Key=key)["UploadId"] for key in keys}


def listed(job: Job) -> None:
    job.store.list_uploads("b", (Upload(*upload) for upload in job.s3.uploads("b")))


def aborting(job: Job) -> list[Event]:
    return list(delete_step.abort_uploads(job.store, job.disk, Deleter(job.s3), job.site(), ABORTING, token=TOKEN))


def test_exactly_the_listed_uploads_are_aborted_and_in_the_ledger(job: Job) -> None:
    job.scan()
    ids = begun(job, "a", "b/c", "odd\n")
    listed(job)
    later = begun(job, "a")
    aborting(job)
    assert set(job.server.buckets["b"].uploads) == set(later.values())
    assert sorted(job.outcomes()) == [(key, "upload", "aborted") for key in sorted(ids)]
    assert list(job.store.uploads("b")) == [] and job.store.ledger.open("b") == []


def test_an_upload_that_was_completed_meanwhile_is_a_surprise_of_nothing(job: Job) -> None:
    job.scan()
    ids = begun(job, "a", "b")
    listed(job)
    job.server.buckets["b"].uploads.pop(ids["a"])
    aborting(job)
    assert job.server.buckets["b"].uploads == {}
    assert {key for key, _, _ in job.outcomes()} == {"a", "b"}
    assert all(outcome in (LOST, "aborted") for _, _, outcome in job.outcomes())


def test_a_lost_reply_about_an_upload_is_settled(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.scan()
    begun(job, "a", "b")
    listed(job)
    with monkeypatch.context() as broken, pytest.raises(PowerCut):
        broken.setattr(job.store, "concluded", cut)
        aborting(job)
    assert len(job.store.ledger.open("b")) == 2 and job.server.buckets["b"].uploads == {}
    list(settle("b", job.store, job.s3))
    assert {outcome for _, _, outcome in job.outcomes()} == {LOST}
    begun(job, "c")
    listed(job)
    job.server.fault({"op": "AbortMultipartUpload"}, "reset-before", times=1)
    with pytest.raises(Failure, match="not answered and not done"):
        aborting(job)
    job.server.fault({"op": "AbortMultipartUpload"}, "access-denied", times=1)
    with pytest.raises(Refused, match="c was not deleted: S3 answered AccessDenied"):
        aborting(job)
    aborting(job)
    assert job.server.buckets["b"].uploads == {}
    aborting(job)


# Whose folder it is


def test_an_older_copy_of_the_state_file_is_refused_beside_the_only_copies(job: Job, tmp_path: Path) -> None:
    fill(job)
    job.bring()
    older = tmp_path / "older.db"
    job.store._conn.execute("VACUUM INTO ?", (str(older),))
    shutil.copy(f"{job.store.path}.key", f"{older}.key")
    job.delete()
    assert job.place() == []
    ours = job.store
    job.store = Store.open(older)
    with pytest.raises(Refused, match="does not know of all of them"):
        job.place()
    # Nor one that has gone on by itself.
    for _ in range(20):
        job.store.ledger.consent("b", "t", {})
    with pytest.raises(Refused, match="does not know of all of them"):
        job.place()
    job.store.close()
    job.store = ours


def test_a_slow_answer_is_waited_for(job: Job) -> None:
    fill(job, 2)
    job.bring()
    job.server.fault({"op": "DeleteObject", "key": "dir/1"}, "delay", times=1, seconds=0.7)
    job.delete()
    assert {outcome for _, _, outcome in job.outcomes()} == {"deleted"} and in_s3(job) == set()


def test_p6_of_a_bucket_with_mfa_delete_no_marker_is_sent_either(job: Job) -> None:
    job.server.buckets["b"].versioning = "Enabled"
    put_marker(job, "gone")
    job.bring()
    site = replace(job.site(), mfa_delete=True)
    list(job.deleting(site, unchanged=lambda: site))
    assert job.outcomes() == [] and len(in_s3(job)) == 1


# Ways in which an object could be lost, or a plan outgrown, that a reviewer found


def test_p4_a_delete_that_is_carried_out_after_s3_was_asked_leaves_the_only_copy_alone(job: Job) -> None:
    """The reply is lost, HEAD says that it is there still, and then the request arrives; the key is put again."""
    job.server.put("b", "a", b"the only copy")
    job.bring()
    job.prove()
    job.server.fault({"op": "DeleteObject", "key": "a"}, "reset-before", times=1)
    with pytest.raises(Failure, match="not answered and not done"):
        list(job.deleting())
    job.verify_again("run-2")  # what is known of it now does not say any more that its delete was under way
    job.server.remove("b", "a")
    job.server.put("b", "a", b"something new")
    job.scan()
    job.place()
    assert job.store.holds_only_copies("b"), "the CLI would write over it"
    assert job.row("a", "null").path != "b/a", "its path is given to another object"
    job.fetch()
    assert (job.disk.base / "b/a").read_bytes() == b"the only copy"


@pytest.mark.parametrize("when", ["after the listing", "after the reading"])
def test_p2_an_object_that_took_the_id_null_before_versioning_was_turned_on_is_not_deleted_by_it(
    job: Job, when: str
) -> None:
    job.server.buckets["b"].versioning = "Suspended"
    job.server.put("b", "a", b"the old one")
    if when == "after the reading":
        job.server.buckets["b"].versioning = "Enabled"
    job.bring()
    job.scan()
    site = replace(job.site(), versioning="Enabled")
    job.prove()
    job.server.buckets["b"].versioning = "Suspended"
    job.server.put("b", "a", b"THE NEW ONE")
    job.server.buckets["b"].versioning = "Enabled"
    with pytest.raises(Refused, match="changed in S3"):
        list(job.deleting(site))
    kept = job.server.get("b", "a")
    assert kept is not None and kept.body == b"THE NEW ONE"


def test_p2_an_object_that_took_the_id_of_a_null_marker_is_not_deleted_by_it(job: Job) -> None:
    """Versioning was suspended and enabled again while the copies were read, which can take days."""
    job.server.buckets["b"].versioning = "Suspended"
    put_marker(job, "k")
    put_marker(job, "still")
    job.server.buckets["b"].versioning = "Enabled"
    job.bring()
    job.server.buckets["b"].versioning = "Suspended"
    job.server.put("b", "k", b"new")
    job.server.buckets["b"].versioning = "Enabled"
    with pytest.raises(Refused):
        job.delete()
    assert [(v.key, v.body) for v in job.server.versions("b") if not v.is_marker] == [("k", b"new")]
    job.bring()
    job.delete()
    assert in_s3(job) == set()


def test_p2_an_endpoint_that_says_404_of_whatever_is_not_there_has_shown_nothing(job: Job) -> None:
    job.server.honours_if_match = False
    job.server.put("b", "a", b"old")
    job.bring()

    def not_found(request: Request, response: Response) -> Response:
        absent = request.key.startswith(".migrate-v2-canary")
        return error_response(S3Error(404, "NoSuchKey"), request.key) if absent else response

    job.server.fault({"op": "DeleteObject"}, rewrite=not_found)
    job.server.fault({"op": "DeleteObject", "key": "a"}, lambda _: job.server.put("b", "a", b"THE NEW ONE"), times=1)
    with pytest.raises(Refused, match="ignores If-Match"):
        job.delete()
    assert job.server.get("b", "a") is not None


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
def test_p3_a_plan_in_portions_goes_on_under_its_token_to_the_end(job: Job, versioning: str) -> None:
    """Also where the deletes themselves leave null markers, and where uploads are aborted."""
    for key in "abc":
        job.server.put("b", key, key.encode())
    job.server.buckets["b"].versioning = versioning
    job.bring()
    begun(job, "u", "v", "w")
    listed(job)

    def planned(resumes: str = "") -> deletion.Plan:
        return deletion.plan(job.store, job.site(), ABORTING, resumes=resumes)

    token = planned().token
    for _ in range(3):
        job.prove()
        list(job.deleting(token=token, at_most=1))
        job.scan()
        assert planned(token).agrees(token)
    some = job.server.fault({"op": "AbortMultipartUpload", "key": "w"}, "reset-before", times=1)
    with pytest.raises(Failure, match="not answered"):
        list(delete_step.abort_uploads(job.store, job.disk, Deleter(job.s3), job.site(), ABORTING, token=token))
    job.server.calm(some)
    listed(job)
    left = planned(token)
    assert (left.objects, left.uploads) == (0, len(job.server.buckets["b"].uploads)) and left.agrees(token)


def test_inode_numbers_of_64_bits_are_kept(job: Job) -> None:
    """mergerfs and some network file systems make them by hashing."""
    fill(job, 1)
    job.bring()
    (row,) = job.rows()
    assert row.identity
    for inode in (2**64 - 1, 2**63, 2**63 - 1, 0):
        identity = replace(row.identity, inode=inode, device=inode)
        job.store.record(
            [Evidence(row.version, row.state, row.verdict, "", row.sha256, row.witnesses, identity)], "run-1"
        )
        assert job.row("dir/1").identity == identity and job.row("dir/1").sealed


# Evidence that is not known to be from S3


def forged(job: Job, key: str, kind: str) -> bytes:
    """Other bytes in the local copy of `key`, and evidence of exactly these in its row: by whoever writes the state file."""
    row = job.row(key)
    body = bytes(row.version.size)
    (job.disk.base / row.path).write_bytes(body)
    value = hashlib.sha256(body).hexdigest() if kind == "refetch" else hashlib.md5(body).hexdigest()
    evidence = json.dumps([{"kind": kind, "value": value, "bits": 256 if kind == "refetch" else 128}])
    job.store._conn.execute(
        "UPDATE files SET evidence = ?, sha256 = ? WHERE key = ?", (evidence, hashlib.sha256(body).hexdigest(), key)
    )
    return body


@pytest.mark.parametrize("kind", ["refetch", "md5-etag"])
@pytest.mark.parametrize("state", [FileState.VERIFIED, FileState.DOWNLOADED])
@pytest.mark.parametrize("etag", ["opaque", "md5"])
def test_p1_verify_does_not_seal_evidence_that_is_not_from_s3(job: Job, kind: str, state: FileState, etag: str) -> None:
    body = b"the only copy of these bytes"
    job.server.put("b", "k", body, **({"etag": "kms", "checksums": ()} if etag == "opaque" else {}))
    job.bring()
    if etag == "opaque":
        list(
            verify("b", job.store, job.disk, job.s3, job.rows(), run="run-1", threads=1, rows_per_commit=1, refetch=99)
        )
    assert job.row("k").sealed and job.row("k").state is FileState.VERIFIED
    wrong = forged(job, "k", kind)
    if state is FileState.DOWNLOADED:
        job.store._conn.execute("UPDATE files SET state = 'downloaded', verdict = NULL WHERE key = 'k'")
    job.verify_again("run-2")
    row = job.row("k")
    assert row.state is not FileState.VERIFIED or not row.sealed
    job.delete()
    assert [v.body for v in job.server.versions("b")] == [body]
    # By S3's own answers the right bytes come back.
    assert wrong not in [v.body for v in job.server.versions("b")]


@pytest.mark.parametrize("column", ["evidence_source", "evidence_run"])
def test_p1_the_origin_of_evidence_is_sealed(job: Job, column: str) -> None:
    fill(job)
    job.bring()
    row = job.row("dir/3")
    assert (row.evidence_source, row.evidence_run) == (EvidenceSource.LISTING, "run-1")
    job.store._conn.execute(f"UPDATE files SET {column} = ? WHERE key = 'dir/3'", ("head",))
    assert not job.row("dir/3").sealed
    job.delete()
    assert {v.key for v in job.server.versions("b")} == {"dir/3"}


def test_evidence_whose_seal_is_broken_gets_the_origin_of_the_next_answer(job: Job) -> None:
    fill(job)
    job.bring()
    job.store._conn.execute("UPDATE files SET evidence_source = 'refetch', evidence_run = 'x' WHERE key = 'dir/3'")
    job.verify_again("run-2")
    row = job.row("dir/3")
    assert (row.sealed, row.evidence_source, row.evidence_run) == (True, EvidenceSource.LISTING, "run-2")


def test_p1_a_second_reading_seals_no_other_evidence_that_is_not_from_s3(job: Job) -> None:
    job.server.put("b", "k", b"1234", etag="kms", checksums=())
    job.bring()
    other = b"abcd"
    evidence = json.dumps([{"kind": "md5-etag", "value": hashlib.md5(other).hexdigest(), "bits": 128}])
    job.store._conn.execute("UPDATE files SET evidence = ?", (evidence,))
    list(verify("b", job.store, job.disk, job.s3, job.rows(), run="run-1", threads=1, rows_per_commit=1, refetch=99))
    assert job.row("k").sealed and [witness.kind for witness in job.row("k").witnesses] == ["refetch"]
    job.path("k").write_bytes(other)
    job.verify_again("run-2")
    assert job.row("k").state is not FileState.VERIFIED


def test_p1_a_second_reading_that_is_not_sealed_is_forgotten_where_s3_does_not_answer(job: Job) -> None:
    body = b"the only copy of these bytes"
    job.server.put("b", "k", body, etag="kms", checksums=())
    job.bring()
    list(verify("b", job.store, job.disk, job.s3, job.rows(), run="run-1", threads=1, rows_per_commit=1, refetch=99))
    forged(job, "k", "refetch")
    job.server.fault({"op": "HeadObject"}, "500")
    job.verify_again("run-2")
    job.server.calm()
    assert job.row("k").witnesses == ()
    job.verify_again("run-3")
    job.delete()
    assert [v.body for v in job.server.versions("b")] == [body]


def test_p1_a_denied_second_reading_seals_no_evidence_that_is_not_from_s3(job: Job) -> None:
    body = b"the only copy of these bytes"
    job.server.put("b", "k", body, etag="kms", checksums=())
    job.bring()
    assert job.row("k").evidence_source is EvidenceSource.HEAD
    forged(job, "k", "refetch")
    job.server.fault({"op": "GetObject"}, "access-denied")
    list(verify("b", job.store, job.disk, job.s3, job.rows(), run="run-2", threads=1, rows_per_commit=1, refetch=99))
    job.server.calm()
    assert not job.row("k").sealed
    job.verify_again("run-3")
    job.delete()
    assert [v.body for v in job.server.versions("b")] == [body]


def test_sealed_evidence_keeps_its_origin_and_proves_the_copy_again(job: Job) -> None:
    """Also where S3 does not answer in between: a second reading is not paid for twice."""
    job.server.put("b", "opaque", b"1234", etag="kms", checksums=())
    job.server.put("b", "crc", b"1234", etag="kms", checksums=("CRC64NVME",))
    job.bring()
    assert job.row("crc").evidence_source is EvidenceSource.HEAD
    unproved = [row for row in job.rows() if row.key == "opaque"]
    list(verify("b", job.store, job.disk, job.s3, unproved, run="run-1", threads=1, rows_per_commit=1, refetch=99))
    gets = job.server.count("GetObject")
    job.path("opaque").write_bytes(b"123?")
    job.server.fault({"op": "HeadObject", "key": "opaque"}, "500")
    job.verify_again("run-2")
    job.server.calm()
    assert job.row("opaque").state is FileState.DOWNLOADED
    job.path("opaque").write_bytes(b"1234")
    job.verify_again("run-3")
    row = job.row("opaque")
    assert (row.state, row.sealed, row.evidence_source) == (FileState.VERIFIED, True, EvidenceSource.REFETCH)
    assert row.evidence_run == "run-1" and job.server.count("GetObject") == gets


# The endpoint is shown to refuse a wrong ETag


def trying(job: Job, deleter: Deleter) -> None:
    site = job.site()
    delete_step.try_wrong_etag(
        job.store, job.disk, deleter, site, job.rules, run=job.run, token=TOKEN, trust=timedelta(hours=1)
    )


def canaries(job: Job) -> list[tuple[str, str | None, int | None]]:
    sql = (
        "SELECT i.key, o.outcome, o.gone FROM ledger i LEFT JOIN ledger o ON o.intent = i.seq"
        " WHERE i.entry = 'intent' AND i.kind = 'canary' ORDER BY i.seq"
    )
    return [tuple(r) for r in job.store._conn.execute(sql)]


@pytest.mark.parametrize("versioning", ["", "Suspended"])
def test_a_canary_is_the_smallest_object_and_stays_where_its_wrong_etag_is_refused(job: Job, versioning: str) -> None:
    fill(job)
    job.server.buckets["b"].versioning = versioning
    job.bring()
    job.prove()
    deleter = Deleter(job.s3)
    trying(job, deleter)
    assert canaries(job) == [("dir/1", WRONG_ETAG_REFUSED, 0)]
    assert job.server.deletes == [] and job.row("dir/1").reason == "" and job.outcomes() == []
    list(job.deleting(deleter=deleter))
    assert set(job.states().values()) == {FileState.DELETED}


def test_p2_a_server_that_honours_if_match_for_missing_keys_only_is_refused(job: Job) -> None:
    """What it has deleted is recorded as deleted, and its copy is here."""
    bodies = fill(job)
    job.s3 = job.connect()  # the oracle would object
    job.server.honours_if_match = "missing keys"
    job.bring()
    job.prove()
    deleter = Deleter(job.s3)
    with pytest.raises(Refused):
        trying(job, deleter)
    assert job.server.deletes == [("b", "dir/1", "null")] and len(in_s3(job)) == len(bodies) - 1
    assert job.row("dir/1").state is FileState.DELETED and canaries(job) == [("dir/1", LOST, 1)]
    assert job.outcomes() == [("dir/1", "canary", LOST)]
    assert job.path("dir/1").read_bytes() == bodies["dir/1"]
    with pytest.raises(Refused):
        list(job.deleting(deleter=deleter))
    assert len(in_s3(job)) == len(bodies) - 1
    job.scan()
    assert job.row("dir/1").state is FileState.DELETED


@pytest.mark.parametrize("honours", [True, "missing keys"])
def test_a_canary_cut_short_is_settled(job: Job, monkeypatch: pytest.MonkeyPatch, honours: Any) -> None:
    fill(job)
    job.s3 = job.connect()  # the oracle would object
    job.server.honours_if_match = honours
    job.bring()
    with monkeypatch.context() as broken, pytest.raises(PowerCut):
        broken.setattr(job.store, "concluded", cut)
        trying(job, Deleter(job.s3))
    assert len(job.store.ledger.open("b")) == 1
    list(settle("b", job.store, job.s3))
    gone = honours is not True
    assert canaries(job) == [("dir/1", LOST if gone else STILL_THERE, int(gone))]
    assert job.row("dir/1").state is (FileState.DELETED if gone else FileState.VERIFIED)


@pytest.mark.parametrize(("action", "code"), [("500", 5), ("access-denied", 5)])
def test_a_canary_that_is_not_answered_with_412_ends_the_deletion(job: Job, action: Any, code: int) -> None:
    fill(job)
    job.bring()
    job.server.fault({"op": "DeleteObject", "key": "dir/1"}, action)
    with pytest.raises(Refused) as refused:
        trying(job, Deleter(job.s3))
    assert refused.value.code == code
    assert job.row("dir/1").state is FileState.VERIFIED and job.server.deletes == []
    assert [gone for _, _, gone in canaries(job)] == [0]


def test_a_canary_that_nobody_knows_about_stays_open(job: Job) -> None:
    fill(job)
    job.bring()
    job.server.fault({"op": "DeleteObject", "key": "dir/1"}, "lost-reply")
    job.server.fault({"op": "HeadObject", "key": "dir/1"}, "access-denied", after=1)
    with pytest.raises(Failure) as failed:
        trying(job, Deleter(job.s3))
    assert type(failed.value) is Failure and len(job.store.ledger.open("b")) == 1


@pytest.mark.parametrize("what", ["copy", "object"])
def test_a_canary_is_not_sent_for_what_is_not_as_it_was_proved(job: Job, what: str) -> None:
    fill(job)
    job.bring()
    if what == "copy":
        job.path("dir/1").write_bytes(b"other.")
    else:
        job.server.put("b", "dir/1", b"other.")
    with pytest.raises(Refused):
        trying(job, Deleter(job.s3))
    assert canaries(job) == [] and job.server.deletes == []


def test_p2_a_canary_is_not_sent_where_if_match_is_ignored_for_missing_keys_too(job: Job) -> None:
    fill(job)
    job.s3 = job.connect()  # the oracle would object
    job.server.honours_if_match = False
    job.bring()
    with pytest.raises(Refused):
        trying(job, Deleter(job.s3))
    assert canaries(job) == [] and job.server.deletes == []


def test_the_copy_of_a_canary_is_read_once_more(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(job)
    job.bring()
    job.path("dir/1").write_bytes(b"other.")
    monkeypatch.setattr(job.disk, "look", lambda path: job.row(path.removeprefix("b/")).identity)
    with pytest.raises(Refused):
        trying(job, Deleter(job.s3))
    assert canaries(job) == [] and job.server.deletes == []


def test_no_canary_where_nothing_goes_by_if_match(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    fill(job)
    job.bring()
    trying(job, Deleter(job.s3))
    assert canaries(job) == [] and "DeleteObject" not in job.server.served


def test_an_empty_folder_object_may_be_the_canary(job: Job) -> None:
    fill(job)
    job.server.put("b", "folder/", b"")
    job.bring()
    trying(job, Deleter(job.s3))
    assert canaries(job) == [("folder/", WRONG_ETAG_REFUSED, 0)]


# Tags


def describe(job: Job, **tags: dict[str, str]) -> None:
    """Records the metadata of every row, with these tags by key, and tags the objects so."""
    documents = []
    for row in job.rows():
        stored = job.server.get("b", row.key, row.version.version_id)
        assert stored
        stored.tags = tags.get(row.key, {})
        documents.append((row.version, json.dumps({"head": {"k": 1}, "tags": stored.tags}, sort_keys=True)))
    job.store.add_metadata(documents, full=False)


def tags_on_record(job: Job) -> dict[str, Any]:
    return {d.key: json.loads(d.document).get("tags") for d in job.store.metadata("b")}


def four(job: Job, versioning: str) -> None:
    for key in ("a", "b", "c", "plain"):
        job.server.put("b", key, key.encode())
    job.server.buckets["b"].versioning = versioning
    job.bring()
    describe(job, a={"x": "1"}, b={"x": "2"}, c={"x": "3"})
    job.prove()


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_an_object_does_not_go_with_an_old_record_of_its_tags(job: Job, versioning: str) -> None:
    four(job, versioning)
    changed = job.server.get("b", "b")
    assert changed
    changed.tags = {"x": "new"}
    with pytest.raises(NotFinished):
        list(job.deleting())
    assert job.server.deletes == [] and job.outcomes() == []
    assert tags_on_record(job) == {"a": {"x": "1"}, "b": {"x": "new"}, "c": {"x": "3"}, "plain": {}}
    list(job.deleting())
    assert in_s3(job) == set()


def test_tags_of_an_untagged_object_are_seen_by_the_head_of_its_batch(job: Job) -> None:
    """The id `null` with versioning on: a HEAD comes before the batch."""
    four(job, "Enabled")
    plain = job.server.get("b", "plain")
    assert plain
    plain.tags = {"late": "1"}
    # A newer version on top has tags of its own, which are not those of the version that goes.
    job.server.put("b", "plain", b"on top", tags={"other": "1"})
    with pytest.raises(NotFinished):
        list(job.deleting())
    assert tags_on_record(job)["plain"] == {"late": "1"}
    list(job.deleting())
    assert [v.body for v in job.server.versions("b")] == [b"on top"]


def test_tags_are_not_asked_of_what_has_no_metadata_on_record(job: Job) -> None:
    job.server.put("b", "k", b"1", tags={"x": "1"})
    job.server.buckets["b"].versioning = "Enabled"
    job.bring()
    job.delete()
    assert in_s3(job) == set() and job.server.count("GetObjectTagging") == 0


def test_an_object_that_is_gone_has_no_tags_to_record(job: Job) -> None:
    four(job, "")
    job.server.remove("b", "a")
    with contextlib.suppress(Failure):
        list(job.deleting())
    assert tags_on_record(job)["a"] == {"x": "1"}


def test_tags_that_s3_does_not_give_stop_the_deletion(job: Job) -> None:
    four(job, "")
    job.server.deny("s3:GetObjectTagging", "b", "b")
    with pytest.raises(Failure):
        list(job.deleting())
    assert job.server.deletes == []


def test_a_server_that_answers_404_where_there_are_no_tags(job: Job) -> None:
    four(job, "")
    job.server.fault({"op": "GetObjectTagging", "key": "b"}, rewrite=lambda *_: no_tag_set())
    with pytest.raises(NotFinished):
        list(job.deleting())
    assert tags_on_record(job)["b"] == {}


def no_tag_set() -> Response:
    return error_response(S3Error(404, "NoSuchTagSet", "The TagSet does not exist"), "/")


@pytest.mark.parametrize("at_aws", [True, False])
@pytest.mark.parametrize("body", [b"", b"<html>404 Not Found</html>"])
def test_a_404_that_is_not_s3s_leaves_the_tags_on_record(
    job: Job, monkeypatch: pytest.MonkeyPatch, body: bytes, at_aws: bool
) -> None:
    four(job, "")
    monkeypatch.setattr(S3, "at_aws", at_aws)
    job.server.fault({"op": "GetObjectTagging", "key": "b"}, rewrite=lambda *_: Response(404, [], body))
    with pytest.raises(Failure) as failed:
        list(job.deleting())
    assert not isinstance(failed.value, NotFinished)
    assert job.server.deletes == [] and tags_on_record(job)["b"] == {"x": "2"}


@pytest.mark.parametrize(
    ("recorded", "goes"),
    [
        ({"denied": "AccessDenied: the session botocore-session-1 may not"}, True),
        ({"denied": "AllAccessDisabled: nobody may"}, False),
        ({"denied": "a tag of this name"}, False),
        ({"x": "1"}, False),
    ],
)
def test_tags_that_s3_never_gave_do_not_stop_the_deletion(job: Job, recorded: dict[str, str], goes: bool) -> None:
    """The message names the session of an assumed role, which is another one in each process."""
    job.server.put("b", "k", b"1", tags={"x": "1"})
    job.bring()
    job.store.add_metadata([(job.row("k").version, json.dumps({"head": {}, "tags": recorded}))], full=True)
    denied = S3Error(403, "AccessDenied", "the session botocore-session-2 may not")
    job.server.fault({"op": "GetObjectTagging"}, rewrite=lambda *_: error_response(denied, "/"))
    with contextlib.nullcontext() if goes else pytest.raises(Failure):
        list(job.deleting())
    assert in_s3(job) == (set() if goes else {("k", "null")})
    assert tags_on_record(job)["k"] == recorded


@pytest.mark.parametrize("change", ["none", "edited", "missing"])
def test_copies_are_read_again_before_their_batch_where_edits_do_not_show(
    job: Job, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The identity of a file says nothing there: it may differ without an edit, and be the same after one."""
    fill(job)
    job.server.put("b", "folder/", b"")
    job.bring()
    job.prove()
    monkeypatch.setattr(job.disk, "notices_edits", lambda: False)
    path = job.path("dir/3")
    facts = path.stat()
    if change == "edited":
        path.write_bytes(bytes(facts.st_size))
    elif change == "missing":
        path.unlink()
    else:
        os.utime(path, ns=(1, 2))
    trying(job, Deleter(job.s3))
    if change == "none":
        list(job.deleting())
        assert in_s3(job) == set()
        return
    with pytest.raises(Refused):
        list(job.deleting())
    assert job.server.deletes == []


def test_the_plan_counts_whose_tags_are_asked_again(job: Job) -> None:
    four(job, "")
    planned = deletion.plan(job.store, job.site(), job.rules)
    assert (planned.tags_asked, planned.tags_not_asked) == (3, 1)
    job.server.bucket("b", versioning="Enabled")
    planned = deletion.plan(job.store, job.site(), job.rules)
    assert (planned.tags_asked, planned.tags_not_asked) == (4, 0)


def test_a_reading_that_is_stopped_has_no_digest(job: Job) -> None:
    fill(job, 1)
    job.bring()
    stop = threading.Event()
    row = job.row("dir/1")
    assert delete_step._digest(job.disk, row, stop) == row.sha256
    stop.set()
    assert delete_step._digest(job.disk, row, stop) == ""
