"""What lies beside the bytes is asked for once, for each version, and kept; what S3 withholds is kept as withheld."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from migrate_v2.edges.s3 import Denied, Unreachable
from migrate_v2.edges.store import Store
from migrate_v2.events import Event, Noted, Warned
from migrate_v2.model import FileState, GoneKind
from migrate_v2.steps.describe import (
    HOPELESS,
    describe,
    keep_configuration,
    lacks_configuration,
    list_metadata,
)
from tests.fakes.s3server import Response
from tests.steps.conftest import Job

UNTIL = 2_000_000_000.0
ASKING = ("HeadObject", "GetObjectTagging", "GetObjectAcl", "ListObjectAnnotations", "GetObjectAnnotation")


def described(job: Job, metadata: Any = "head", rows_per_commit: int = 1000) -> list[Event]:
    return list(describing(job, metadata, rows_per_commit))


def describing(job: Job, metadata: Any = "head", rows_per_commit: int = 1000) -> Any:
    return describe("b", job.store, job.disk, job.s3, metadata=metadata, threads=4, rows_per_commit=rows_per_commit)


def documents(job: Job) -> dict[str, dict[str, Any]]:
    """By key, of what S3 lists now."""
    return {d.key: json.loads(d.document) for d in job.store.metadata("b") if "+" not in d.version_id}


def beside(job: Job, name: str) -> Path:
    return job.disk.base / ".migrate-v2" / "b" / name


def lines(job: Job) -> list[dict[str, Any]]:
    list(list_metadata("b", job.store, job.disk))
    return [json.loads(line) for line in beside(job, "metadata.jsonl").read_text("ascii").splitlines()]


def asked(job: Job) -> dict[str, int]:
    return {op: job.server.count(op) for op in ASKING if job.server.count(op)}


def lock(job: Job) -> None:
    job.s3._for("b").put_bucket_versioning(Bucket="b", VersioningConfiguration={"Status": "Enabled"})
    job.s3._for("b").put_object_lock_configuration(Bucket="b", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})


def test_of_every_version_what_head_answers(job: Job) -> None:
    lock(job)
    stored = job.server.put(
        "b",
        "a",
        b"old",
        content_type="text/x-odd",
        metadata={"who": "me"},
        tags={"kind": "test", "ü": "ß"},
        lock_mode="COMPLIANCE",
        retain_until=UNTIL,
        legal_hold=True,
        replication_status="COMPLETED",
        storage_class="STANDARD_IA",
    )
    stored.headers["cache-control"] = "no-store"
    job.server.put("b", "a", b"new")
    job.server.put("b", "big", b"x" * 3000, parts=(1000, 2000), checksums=("SHA256",))
    job.server.put("b", "folder/", b"")
    job.server.put("b", "x//y", b"aside", etag="kms")
    job.bring()
    heads = job.server.count("HeadObject")
    events = described(job)
    assert not any(isinstance(e, Warned) for e in events)
    assert job.server.count("HeadObject") - heads == 5
    assert not job.server.count("GetObjectAcl") and not job.server.count("ListObjectAnnotations")

    entries = lines(job)
    assert {(e["key"], e["version_id"], e["path"]) for e in entries} == {
        (r.key, r.version.version_id, r.path) for r in job.rows()
    }
    old = next(e for e in entries if e["version_id"] == stored.version_id)
    wanted = {
        "ContentLength": 3,
        "ContentType": "text/x-odd",
        "CacheControl": "no-store",
        "ETag": stored.etag,
        "Metadata": {"who": "me"},
        "ObjectLockLegalHoldStatus": "ON",
        "ObjectLockMode": "COMPLIANCE",
        "ObjectLockRetainUntilDate": "2033-05-18T03:33:20+00:00",
        "ReplicationStatus": "COMPLETED",
        "ServerSideEncryption": "AES256",
        "StorageClass": "STANDARD_IA",
        "TagCount": 2,
        "VersionId": stored.version_id,
        "ChecksumType": "FULL_OBJECT",
        "ChecksumCRC64NVME": stored.checksums["CRC64NVME"],
    }
    assert {name: old["head"].get(name) for name in wanted} == wanted
    assert old["head"]["LastModified"].endswith("+00:00")
    assert (old["tags"], old["asked_for"]) == ({"kind": "test", "ü": "ß"}, "head")
    big = documents(job)["big"]
    assert big["head"]["ChecksumType"] == "COMPOSITE" and big["head"]["ChecksumSHA256"].endswith("-2")
    assert documents(job)["x//y"]["head"]["ServerSideEncryption"] == "aws:kms"
    assert "ResponseMetadata" not in big["head"]


def test_tags_are_not_asked_for_where_head_counts_them(job: Job) -> None:
    job.server.put("b", "a tagged one", b"x", tags={"t": "1"})
    for n in range(20):
        job.server.put("b", f"k{n:02}", b"x")
    job.bring()
    described(job, rows_per_commit=5)
    assert job.server.count("GetObjectTagging") <= 5, "the first batch"
    assert documents(job)["a tagged one"]["tags"] == {"t": "1"} and "tags" not in documents(job)["k19"]


def test_tags_are_found_where_head_does_not_count_them(job: Job) -> None:
    for key, tags in (("tagged", {"t": "1"}), ("bare", {})):
        job.server.put("b", key, b"x", tags=tags)
    job.bring()

    def silent(_: object, response: Response) -> Response:
        response.headers = [(name, value) for name, value in response.headers if name != "x-amz-tagging-count"]
        return response

    job.server.fault({"op": "HeadObject"}, rewrite=silent)
    described(job)
    assert {key: d["tags"] for key, d in documents(job).items()} == {"tagged": {"t": "1"}, "bare": {}}


def test_what_was_asked_is_not_asked_again_but_for_more(job: Job) -> None:
    for key in "abc":
        job.server.put("b", key, key.encode())
    assert described(job, "none") == [] and described(job) == [], "without a copy there is nothing to tell of"
    job.bring()
    assert described(job, "none") == [] and documents(job) == {}
    described(job)
    first, answers = documents(job), asked(job)
    assert first.keys() == set("abc") and described(job) == [] and asked(job) == answers
    described(job, "full")
    assert asked(job)["GetObjectAcl"] == asked(job)["ListObjectAnnotations"] == 3
    assert {d["asked_for"] for d in documents(job).values()} == {"full"}
    answers = asked(job)
    assert described(job, "full") == [] and described(job, "head") == [] and asked(job) == answers


def test_nothing_left_is_found_without_a_walk_through_the_rows(job: Job) -> None:
    job.server.put("b", "a", b"1")
    job.bring()
    described(job, "full")
    seen: list[str] = []
    job.store._conn.set_trace_callback(seen.append)
    described(job, "full")
    job.store._conn.set_trace_callback(None)
    assert seen
    for sql in seen:
        plan = [r["detail"] for r in job.store._conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert all("files_described (bucket=? AND described=?" in line for line in plan), plan


def test_full_asks_for_all_there_is(job: Job) -> None:
    lock(job)
    bodies = {"summary": b"\x00\xff" * 500_000, "empty": b"", "same": b"1", "too": b"1"}
    version = job.server.put("b", "dir/Ä", b"x", annotations=bodies)
    job.server.put("b", "plain", b"y")
    job.bring()
    events = described(job, "full")
    assert any(isinstance(e, Noted) and "4 annotations" in e.text for e in events)
    found = documents(job)["dir/Ä"]
    assert found["acl"]["Grants"][0]["Permission"] == "FULL_CONTROL"
    assert (found["tags"], found["retention"], found["legal_hold"]) == ({}, None, None)
    assert [a["AnnotationName"] for a in found["annotations"]] == sorted(bodies)
    for a in found["annotations"]:
        body = (job.disk.base / a["path"]).read_bytes()
        assert body == bodies[a["AnnotationName"]]
        assert (a["size"], a["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert a["path"].startswith(".migrate-v2/b/annotations/dir=/") and version.version_id[:4].isascii()
    assert len({a["path"] for a in found["annotations"]}) == 4, "a file of its own for each"
    assert documents(job)["plain"]["annotations"] == []


def test_a_crash_before_the_commit_leaves_no_second_copies(job: Job) -> None:
    job.server.put("b", "k", b"x", annotations={"a": b"1", "b": b"2"})
    job.bring()
    described(job, "full")
    before = documents(job)["k"]["annotations"]
    job.store._conn.execute("UPDATE files SET described = ''")
    described(job, "full")
    assert documents(job)["k"]["annotations"] == before
    assert len([p for p in beside(job, "annotations").rglob("*") if p.is_file()]) == 2


def test_user_metadata_that_is_not_ascii_is_kept_as_sent_and_as_meant(job: Job) -> None:
    words, bare = "=?UTF-8?B?R3LDvMOfZQ==?=", "Grüße".encode().decode("latin-1")
    job.server.put("b", "k", b"x", metadata={"words": words, "bare": bare, "plain": "=?not a word", "latin": "\xe9"})
    job.server.put("b", "ascii", b"x", metadata={"plain": "as it is"})
    job.bring()
    described(job)
    entries = {e["key"]: e for e in lines(job)}
    sent = entries["k"]["head"]["Metadata"]
    assert (sent["words"], sent["plain"], sent["latin"]) == (words, "=?not a word", "\xe9")
    assert entries["k"]["metadata_decoded"] == {"words": "Grüße", "bare": "Grüße"}
    assert "metadata_decoded" not in entries["ascii"]


def test_what_is_denied_is_written_down_as_denied(job: Job) -> None:
    job.server.put("b", "closed", b"x", tags={"a": "b"}, annotations={"n": b"1"})
    job.server.put("b", "shut", b"x")
    job.server.put("b", "open", b"x")
    job.bring()
    for action in ("s3:GetObjectTagging", "s3:GetObjectAcl", "s3:GetObjectAnnotation"):
        job.server.deny(action, key="closed")
    job.server.deny("s3:ListObjectAnnotations", key="open")
    job.server.deny("s3:GetObject", key="shut")
    events = described(job, "full")
    assert any(isinstance(e, Warned) and "3 versions" in e.text for e in events)
    found = documents(job)
    closed = found["closed"]
    assert "AccessDenied" in closed["tags"]["denied"] and "AccessDenied" in closed["acl"]["denied"]
    assert closed["head"]["ContentLength"] == 1
    (annotation,) = closed["annotations"]
    assert annotation["AnnotationName"] == "n" and "denied" in annotation and "path" not in annotation
    assert found["shut"]["denied"] is True and "denied" in found["shut"]["reason"]
    assert "denied" in found["open"]["annotations"]
    assert described(job, "full") == []


def test_a_lock_that_may_not_be_read_is_told_from_one_that_is_not_there(job: Job) -> None:
    lock(job)
    job.server.put("b", "k", b"x", lock_mode="GOVERNANCE", retain_until=UNTIL, legal_hold=True)
    job.bring()
    job.server.deny("s3:GetObjectRetention")
    described(job, "full")
    found = documents(job)["k"]
    assert "ObjectLockMode" not in found["head"] and "denied" in found["retention"]
    assert found["head"]["ObjectLockLegalHoldStatus"] == "ON" and "legal_hold" not in found


def test_an_endpoint_that_does_not_know_annotations_is_not_asked_for_each(job: Job) -> None:
    for n in range(60):
        job.server.put("b", f"k{n:02}", b"x")
    job.bring()
    job.server.unimplemented.add("ListObjectAnnotations")
    events = described(job, "full")
    assert any(isinstance(e, Noted) and "annotations" in e.text for e in events)
    assert {json.dumps(d["annotations"]) for d in documents(job).values()} == {'{"not_known_here": true}'}
    assert job.server.count("ListObjectAnnotations") < 20


@pytest.mark.parametrize("body", [b"not XML at all", b"<a><b>1</b></a>", b"<a>broken", b""])
def test_nor_is_one_that_sends_the_object_in_its_place(job: Job, body: bytes) -> None:
    job.server.put("b", "k", body)
    job.bring()
    ranges: list[str] = []
    job.server.fault({"op": "ListObjectAnnotations"}, lambda request: ranges.append(request.header("range")))
    job.server.fault({"op": "ListObjectAnnotations"}, rewrite=lambda *_: Response(200, [], body))
    described(job, "full")
    assert documents(job)["k"]["annotations"] == {"not_known_here": True}
    assert ranges == ["bytes=0-2097151"], "no more of it than that is ever read into memory"


def test_what_is_not_answered_is_asked_by_the_next_run(job: Job) -> None:
    for key in "abc":
        job.server.put("b", key, key.encode(), tags={"t": "1"})
    job.bring()
    job.server.fault({"key": "a", "op": "HeadObject"}, "503")
    job.server.fault({"key": "b", "op": "GetObjectTagging"}, "garbage-200")
    events = described(job)
    assert any(isinstance(e, Warned) and "2 versions" in e.text for e in events)
    assert documents(job).keys() == {"c"}
    job.server.calm()
    heads = job.server.count("HeadObject")
    described(job)
    assert documents(job).keys() == set("abc") and job.server.count("HeadObject") - heads == 2


def test_a_storm_ends_the_step_and_keeps_what_came_before(job: Job) -> None:
    for n in range(HOPELESS + 30):
        job.server.put("b", f"k{n:02}", b"x")
    job.bring()
    job.server.fault({"op": "HeadObject"}, "reset-before", after=10)
    with pytest.raises(Unreachable):
        described(job)
    assert 5 <= len(documents(job)) < 15
    job.server.calm()
    described(job)
    assert len(documents(job)) == HOPELESS + 30


def test_an_interrupt_costs_one_batch(job: Job) -> None:
    for n in range(20):
        job.server.put("b", f"k{n:02}", b"x")
    job.bring()
    events = describing(job, rows_per_commit=5)
    list(islice(events, 8))  # Started, five of the first batch, two of the second
    events.close()
    assert sorted(documents(job)) == [f"k0{n}" for n in range(5)]
    heads = job.server.count("HeadObject")
    described(job)
    assert len(documents(job)) == 20 and job.server.count("HeadObject") - heads == 15


def test_expired_credentials_end_the_step(job: Job) -> None:
    job.server.put("b", "k", b"x", tags={"t": "1"})
    job.bring()
    job.server.fault({"op": "GetObjectTagging"}, "expired-token")
    with pytest.raises(Exception, match="renew"):
        described(job)
    assert documents(job) == {}


def test_another_object_under_the_same_key_is_asked_about_anew(job: Job) -> None:
    job.server.put("b", "same bytes", b"x", metadata={"take": "1"}, last_modified=1e9)
    job.server.put("b", "other bytes", b"x", metadata={"take": "1"})
    job.server.put("b", "untouched", b"x", metadata={"take": "1"})
    job.bring()
    described(job)
    kept = documents(job)["untouched"]
    job.server.put("b", "same bytes", b"x", metadata={"take": "2"}, last_modified=1.1e9)
    job.server.put("b", "other bytes", b"y", metadata={"take": "2"})
    job.scan()
    assert documents(job) == {"untouched": kept}, "a stale document is none"
    job.bring()
    described(job)
    assert {k: d["head"]["Metadata"]["take"] for k, d in documents(job).items()} == {
        "same bytes": "2",
        "other bytes": "2",
        "untouched": "1",
    }
    assert documents(job)["untouched"] == kept
    # What was known of the objects that were overwritten stays with their copies.
    former = [json.loads(d.document) for d in job.store.metadata("b") if "+superseded-" in d.version_id]
    assert [document["head"]["Metadata"]["take"] for document in former] == ["1", "1"]


@pytest.mark.parametrize("change", ["removed", "replaced", "removed between two questions"])
def test_what_changed_since_it_was_listed_is_left_to_the_next_listing(job: Job, change: str) -> None:
    job.server.put("b", "k", b"x")
    job.bring()
    if change == "removed":
        job.server.remove("b", "k")
    elif change == "removed between two questions":
        job.server.fault({"op": "GetObjectTagging"}, lambda _: job.server.remove("b", "k"))
    else:
        job.server.put("b", "k", b"y")
    described(job)
    assert documents(job) == {}
    if change == "replaced":
        assert job.row("k").state is FileState.VERIFIED
        return
    assert job.row("k").gone is GoneKind.ONLY_COPY and job.row("k").witnesses
    before = job.server.count("HeadObject")
    described(job)
    assert job.server.count("HeadObject") == before, "what is gone is not asked for again"


def test_a_part_that_is_not_found_of_an_object_that_is_there_holds_nothing_up(job: Job) -> None:
    job.server.put("b", "k", b"x")
    job.bring()
    gone = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
    job.server.fault({"op": "GetObjectTagging"}, rewrite=lambda *_: Response(404, [], gone))
    assert any(isinstance(e, Warned) for e in described(job))
    assert "HEAD finds it" in documents(job)["k"]["tags"]["refused"]


def test_the_metadata_of_a_deleted_object_outlives_the_next_one_of_its_name(job: Job) -> None:
    for take in (b"1", b"2"):
        job.server.put("b", "k", b"take " + take, metadata={"take": take.decode()}, annotations={"n": take})
        job.bring()
        described(job, "full")
        job.delete()
    found = lines(job)
    assert {e["version_id"] for e in found} == {r.version.version_id for r in job.rows()}
    assert {e["version_id"] == "null": e["head"]["Metadata"]["take"] for e in found} == {True: "2", False: "1"}
    assert {(job.disk.base / e["annotations"][0]["path"]).read_bytes() for e in found} == {b"1", b"2"}
    assert {e["path"] for e in found} == {r.path for r in job.rows()}


def test_it_goes_into_the_snapshot_and_away_with_its_row(job: Job, tmp_path: Path) -> None:
    job.server.put("b", "k", b"x")
    job.bring()
    described(job)
    job.store.snapshot("b", tmp_path / "snapshot.db")
    with Store.open(tmp_path / "snapshot.db") as snapshot:
        assert list(snapshot.metadata("b")) == list(job.store.metadata("b")) != []
        assert snapshot.count_to_describe("b", full=False) == 0
    job.store._conn.execute("DELETE FROM files")
    assert job.store._conn.execute("SELECT count(*) FROM metadata").fetchone()[0] == 0


def test_no_list_where_nothing_was_asked(job: Job) -> None:
    job.server.put("b", "k", b"x")
    job.bring()
    assert list(list_metadata("b", job.store, job.disk)) == []
    assert not beside(job, "metadata.jsonl").exists()


# -- the bucket


def test_the_bucket_s_own_settings_are_kept(job: Job) -> None:
    assert lacks_configuration("b", job.disk)
    policy = {"Version": "2012-10-17", "Statement": []}
    job.s3._for("b").put_bucket_policy(Bucket="b", Policy=json.dumps(policy))
    job.server.deny("s3:GetBucketCORS")
    (told,) = keep_configuration("b", job.disk, job.s3)
    assert isinstance(told, Warned) and told.text.endswith(": cors")
    first = beside(job, "bucket.json").read_bytes()
    found = json.loads(first)
    assert (found["bucket"], found["region"], found["policy"], found["lifecycle"]) == ("b", "us-east-1", policy, None)
    assert "AccessDenied" in found["cors"]["denied"]
    assert not lacks_configuration("b", job.disk)
    list(keep_configuration("b", job.disk, job.s3))
    assert beside(job, "bucket.json").read_bytes() == first


def test_half_a_configuration_is_none(job: Job) -> None:
    job.server.fault({"op": "GetBucketReplication"}, "503")
    with pytest.raises(Unreachable):
        list(keep_configuration("b", job.disk, job.s3))
    assert lacks_configuration("b", job.disk)
    assert not isinstance(Denied("x"), Unreachable)
