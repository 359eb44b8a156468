"""What S3 will not let go is known, with its reason and date, before a plan is made."""

from __future__ import annotations

import pytest

from migrate_v2.edges.s3 import Unreachable
from migrate_v2.events import Event
from migrate_v2.model import Cause, FileState
from migrate_v2.steps.hold import hold
from tests.steps.conftest import Job

REPLICATION = b"<ReplicationConfiguration><Role>r</Role></ReplicationConfiguration>"


def ask(job: Job) -> list[Event]:
    return list(hold(job.bucket, job.store, job.s3, threads=4, rows_per_commit=2))


def held(job: Job) -> dict[str, str]:
    return {row.key: row.hold for row in job.rows() if row.hold}


@pytest.fixture
def locked(job: Job) -> Job:
    job.bucket = "locked"
    job.server.bucket("locked", object_lock=True)
    for key in ("free", "governed", "complied", "past", "legal", "replicating"):
        job.server.put("locked", key, key.encode())
    for key, mode, until in (
        ("governed", "GOVERNANCE", 1e6),
        ("complied", "COMPLIANCE", 2e6),
        ("past", "GOVERNANCE", -9),
    ):
        one = job.server.get("locked", key)
        assert one
        one.lock_mode, one.retain_until = mode, job.server.clock() + until
    legal, replicating = job.server.get("locked", "legal"), job.server.get("locked", "replicating")
    assert legal and replicating
    legal.legal_hold, replicating.replication_status = "ON", "PENDING"
    job.bring()
    return job


def test_locks_holds_and_replications_are_in_the_rows_with_their_dates(locked: Job) -> None:
    ask(locked)
    found = held(locked)
    assert found.keys() == {"governed", "complied", "legal", "replicating"}
    assert "Object Lock (governance) keeps it until 20" in found["governed"]
    assert "Object Lock (compliance) keeps it until 20" in found["complied"]
    assert found["legal"] == "a legal hold is on it" and found["replicating"] == "its replication is not done"


def test_p6_what_is_held_is_never_sent_and_the_rest_goes(locked: Job) -> None:
    ask(locked)
    locked.delete()
    assert {key for _, key, _ in locked.server.deletes} == {"free", "past"}
    assert {row.key for row in locked.rows() if row.state is FileState.VERIFIED} == held(locked).keys()


def test_what_has_ended_is_not_held_any_more(locked: Job) -> None:
    ask(locked)
    locked.server.advance(3e6)
    for version in (
        locked.server.buckets["locked"].objects["legal"] + locked.server.buckets["locked"].objects["replicating"]
    ):
        version.legal_hold, version.replication_status = "OFF", "COMPLETED"
    ask(locked)
    # The program goes by this machine's clock, and the retention is of the server's: these two are still to come here.
    assert held(locked).keys() == {"governed", "complied"}


def test_where_nothing_can_be_held_no_object_is_asked_for(job: Job) -> None:
    job.server.put("b", "k", b"1")
    job.bring()
    heads = job.server.count("HeadObject")
    assert ask(job) == [] and job.server.count("HeadObject") == heads


def test_a_replicating_bucket_is_asked(job: Job) -> None:
    job.server.buckets["b"].versioning = "Enabled"
    job.server.buckets["b"].settings["replication"] = REPLICATION
    job.server.put("b", "done", b"1", replication_status="COMPLETED")
    job.server.put("b", "pending", b"2", replication_status="PENDING")
    job.bring()
    ask(job)
    assert held(job) == {"pending": "its replication is not done"}


def test_what_s3_does_not_say_is_kept(locked: Job) -> None:
    locked.server.fault({"op": "HeadObject", "key": "free"}, "access-denied")
    ask(locked)
    assert "does not say whether it is locked" in held(locked)["free"]


def test_a_question_that_is_denied_is_no_no(job: Job) -> None:
    """Without s3:GetBucketObjectLockConfiguration nobody knows: every object is asked for."""
    job.server.put("b", "k", b"1")
    job.bring()
    job.server.deny("s3:GetBucketObjectLockConfiguration", "b")
    heads = job.server.count("HeadObject")
    ask(job)
    assert job.server.count("HeadObject") == heads + 1 and held(job) == {}


def causes(job: Job) -> dict[str, Cause | None]:
    return {row.key: row.hold_cause for row in job.rows() if row.hold}


def test_hold_records_event_holds(locked: Job) -> None:
    one = locked.server.get("locked", "free")
    assert one
    one.event_hold = "ON"
    ask(locked)
    assert causes(locked) == {
        **dict.fromkeys(("free", "governed", "complied", "legal"), Cause.LOCKED),
        "replicating": Cause.REPLICATING,
    }


@pytest.mark.parametrize("permission", ["s3:GetObjectRetention", "s3:GetObjectLegalHold"])
def test_p6_no_lock_header_is_not_known_without_the_permission(locked: Job, permission: str) -> None:
    locked.server.deny(permission)
    ask(locked)
    found = causes(locked)
    # What HEAD still says stands; of all others nobody knows.
    seen = {"legal"} if permission == "s3:GetObjectRetention" else {"governed", "complied"}
    assert found.keys() == {row.key for row in locked.rows()}
    assert {key for key, cause in found.items() if cause is Cause.LOCKED} == seen
    assert all(found[key] is Cause.LOCK_UNKNOWN for key in found.keys() - seen - {"replicating"})
    locked.delete()
    assert locked.server.deletes == []


def test_an_object_that_is_gone_says_nothing_of_permissions(locked: Job) -> None:
    locked.server.deny("s3:GetObjectRetention")
    locked.server.remove("locked", "complied")  # the first of them
    ask(locked)
    assert causes(locked)["free"] is Cause.LOCK_UNKNOWN
    for key in ("free", "governed", "past", "legal", "replicating"):
        locked.server.remove("locked", key)
    ask(locked)
    assert causes(locked) == {}


def test_no_answer_is_an_error_and_no_no(locked: Job) -> None:
    locked.server.fault({"op": "HeadObject"}, "500")
    with pytest.raises(Unreachable):
        ask(locked)


def test_what_is_gone_meanwhile_is_not_held(locked: Job) -> None:
    gone = locked.row("legal").version.version_id
    locked.server.remove("locked", "legal", gone)
    ask(locked)
    assert "legal" not in held(locked)


def test_a_slow_answer_is_waited_for(locked: Job) -> None:
    locked.server.fault({"op": "HeadObject", "key": "legal"}, "delay", times=1, seconds=0.7)
    ask(locked)
    assert held(locked)["legal"] == "a legal hold is on it"
