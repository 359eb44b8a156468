"""Nothing is done to a bucket before it is known what became of the deletes that were under way."""

from __future__ import annotations

from typing import Any

import pytest

from migrate_v2.errors import Failure
from migrate_v2.events import Noted
from migrate_v2.model import Doomed, FileState
from migrate_v2.steps.settle import settle
from tests.steps.conftest import TOKEN, Job


def intend(job: Job, *keys: str) -> None:
    rows = [row for row in job.rows() if row.key in keys]
    doomed = [Doomed(r.key, r.version.version_id, "version", r.version.etag, r.version.size, r.sha256) for r in rows]
    job.store.ledger.intend("b", doomed, TOKEN)


def test_without_intents_nothing_is_asked(job: Job) -> None:
    job.server.put("b", "k", b"1")
    job.bring()
    requests = len(job.server.requests)
    assert list(settle("b", job.store, job.s3)) == [] and len(job.server.requests) == requests


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
def test_each_is_what_s3_says_it_is(job: Job, versioning: str) -> None:
    job.server.buckets["b"].versioning = versioning
    for key in ("gone", "there", "overwritten", "not meant"):
        job.server.put("b", key, key.encode())
    job.bring()
    intend(job, "gone", "there", "overwritten")
    job.server.remove("b", "gone", job.row("gone").version.version_id)
    job.server.put("b", "overwritten", b"by another")
    (told,) = settle("b", job.store, job.s3)
    # Where versions have ids, the one that was meant is still beneath the other.
    is_gone = {"gone"} if versioning == "Enabled" else {"gone", "overwritten"}
    assert {key for key, state in job.states().items() if state is FileState.DELETED} == is_gone
    assert {job.states()[key] for key in job.states().keys() - is_gone} == {FileState.VERIFIED}
    assert job.row("there").reason == "still there" and job.row("not meant").reason == ""
    assert isinstance(told, Noted) and told.text == f"of 3 deletes that were interrupted {len(is_gone)} went through"
    assert job.store.ledger.open("b") == [] and list(settle("b", job.store, job.s3)) == []
    # What was put in the place of a deleted one does not get its path.
    job.bring()
    for row in job.rows():
        if row.key == "overwritten":
            body = b"by another" if row.version.etag == job.server.versions("b", row.key)[0].etag else b"overwritten"
            assert (job.disk.base / row.path).read_bytes() == body


@pytest.mark.parametrize("action", ["access-denied", "reset-before", "503", "garbage-200"])
def test_no_answer_is_a_failure_and_all_stay_open(job: Job, action: Any) -> None:
    for key in ("a", "b"):
        job.server.put("b", key, b"1")
    job.bring()
    intend(job, "a", "b")
    job.server.remove("b", "a", "null")
    job.server.fault({"op": "HeadObject", "key": "b"}, action)
    with pytest.raises(Failure, match="does not say what became"):
        list(settle("b", job.store, job.s3))
    assert len(job.store.ledger.open("b")) == 2 and set(job.states().values()) == {FileState.VERIFIED}
