"""What is archived is asked for once, and what Glacier says of it is in the rows."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from migrate_v2.edges.s3 import Denied, Restorer
from migrate_v2.errors import Failure
from migrate_v2.events import Ended, Event
from migrate_v2.model import CHANGED, VANISHED, FileState
from migrate_v2.steps import restore as restore_step
from tests.fakes.s3server import Request
from tests.steps.conftest import Job, found

HOUR = 3600


def refresh(job: Job) -> list[Event]:
    return list(restore_step.refresh("b", job.store, job.s3, rows_per_commit=1000))


def request(job: Job, *, tier: str = "Standard", at_most: int = 1000, days: int = 2) -> list[Event]:
    return list(
        restore_step.request(
            "b", job.store, Restorer(job.s3), days=days, tier=tier, at_most=at_most, rows_per_commit=1000
        )
    )


def archive(job: Job, count: int = 3, **how: Any) -> None:
    for number in range(count):
        job.server.put("b", f"k{number}", b"body", **{"storage_class": "GLACIER", **how})
    job.scan()


def tiers(job: Job) -> dict[str, str]:
    return dict(map(tuple, job.store._conn.execute("SELECT key, restore_tier FROM files").fetchall()))


def all_states(job: Job) -> set[FileState]:
    return set(job.states().values())


@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_asked_for_once_back_when_back_and_fetched(job: Job, versioning: str, storage_class: str) -> None:
    job.server.buckets["b"].versioning = versioning
    archive(job, storage_class=storage_class)
    job.server.put("b", "warm", b"needs none", storage_class="GLACIER_IR")
    job.scan()
    request(job)
    assert {job.states()[f"k{n}"] for n in range(3)} == {FileState.RESTORE_REQUESTED}
    assert job.server.count("RestoreObject", status=202) == 3
    request(job)
    refresh(job)
    request(job)
    assert job.server.count("RestoreObject") == 3, "nothing is asked for twice"
    assert {job.states()[f"k{n}"] for n in range(3)} == {FileState.RESTORING}
    job.place()
    job.fetch()
    assert job.states()["warm"] is FileState.DOWNLOADED and job.states()["k0"] is FileState.RESTORING
    job.server.advance(13 * HOUR)
    (ended,) = [e for e in refresh(job) if isinstance(e, Ended)]
    assert (ended.verb, ended.objects, ended.bytes) == ("wait", 3, 12)
    row = job.row("k0")
    assert (row.state, row.archived) == (FileState.DISCOVERED, False) and row.version.restore_expiry
    job.place()
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}
    job.scan()
    assert all_states(job) == {FileState.VERIFIED}


def test_the_request_is_recorded_before_it_is_sent(job: Job) -> None:
    archive(job, 1)
    seen: list[FileState] = []
    path = job.store.path

    def look(_: Request) -> None:
        with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as state:
            seen.append(FileState(state.execute("SELECT state FROM files").fetchone()[0]))
        state.close()

    job.server.fault({"op": "RestoreObject"}, look)
    request(job)
    assert seen == [FileState.RESTORE_REQUESTED]


@pytest.mark.parametrize("action", ["lost-reply", "reset-before"])
def test_a_request_without_an_answer_is_asked_about_and_not_repeated_blindly(job: Job, action: Any) -> None:
    archive(job, 1)
    job.server.fault({"op": "RestoreObject"}, action)
    with pytest.raises(Failure):
        request(job)
    assert all_states(job) == {FileState.RESTORE_REQUESTED}
    job.server.calm()
    refresh(job)
    arrived = action == "lost-reply"
    assert all_states(job) == {FileState.RESTORING if arrived else FileState.DISCOVERED}
    sent = job.server.count("RestoreObject", status=202)
    request(job)
    assert job.server.count("RestoreObject", status=202) == sent + (not arrived)


def test_no_more_are_outstanding_than_allowed(job: Job) -> None:
    archive(job, 7)
    request(job, at_most=3)
    assert job.server.count("RestoreObject") == 3
    refresh(job)
    request(job, at_most=3)
    assert job.server.count("RestoreObject") == 3
    request(job, at_most=5)
    assert job.server.count("RestoreObject") == 5
    job.server.advance(6 * HOUR)
    refresh(job)
    request(job, at_most=5)
    assert job.server.count("RestoreObject") == 7 and job.store.outstanding_restores() == 2


def test_the_limit_counts_other_buckets_too(job: Job) -> None:
    job.server.bucket("c")
    job.server.put("c", "k", b"1", storage_class="GLACIER")
    other = Job(job.server, job.s3, job.store, job.disk, bucket="c")
    other.scan()
    list(restore_step.request("c", job.store, Restorer(job.s3), days=1, tier="Bulk", at_most=9, rows_per_commit=9))
    archive(job, 3)
    request(job, at_most=2)
    assert job.store.outstanding_restores() == 2


def test_a_copy_that_expired_before_it_was_fetched_is_asked_for_again(job: Job) -> None:
    archive(job, 1)
    request(job, days=1)
    job.server.advance(10 * 24 * HOUR)
    refresh(job)
    row = job.row("k0")
    assert (row.state, row.archived, row.version.restore_expiry) == (FileState.DISCOVERED, True, None)
    request(job)
    assert job.server.count("RestoreObject", status=202) == 2


def test_one_that_expires_between_the_look_and_the_fetch_is_asked_for_again(job: Job) -> None:
    archive(job, 1)
    request(job, days=1)
    job.server.advance(6 * HOUR)
    refresh(job)
    job.server.advance(10 * 24 * HOUR)
    job.place()
    job.fetch()
    row = job.row("k0")
    assert (row.state, row.archived, row.reason) == (FileState.DISCOVERED, True, "")
    request(job)
    job.server.advance(6 * HOUR)
    refresh(job)
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


def test_tiers_go_as_far_as_glacier_has_them(job: Job) -> None:
    archive(job, 1)
    job.server.put("b", "deep", b"1", storage_class="DEEP_ARCHIVE")
    job.scan()
    request(job, tier="Expedited")
    assert tiers(job) == {"k0": "Expedited", "deep": "Standard"}
    job.server.expedited_capacity = False
    job.server.put("b", "later", b"1", storage_class="GLACIER")
    job.scan()
    request(job, tier="Expedited")
    assert tiers(job)["later"] == "Standard"
    later = job.server.get("b", "later")
    assert later and later.restore_tier == "Standard"


def test_what_was_asked_for_by_others_counts(job: Job) -> None:
    """200 already restored, 409 under way: success, both."""
    job.server.restore_status_in_lists = False
    job.server.put("b", "back", b"1", storage_class="GLACIER", restored_until=job.server.clock() + 9999)
    under_way = job.server.put("b", "under way", b"1", storage_class="GLACIER")
    under_way.restore_ready, under_way.restore_tier = job.server.clock() + HOUR, "Standard"
    job.scan()
    request(job)
    assert job.server.count("RestoreObject", status=200) == 1
    assert job.server.count("RestoreObject", status=409) == 1
    refresh(job)
    assert job.states() == {"back": FileState.DISCOVERED, "under way": FileState.RESTORING}
    assert not job.row("back").archived


def test_denied_is_an_error_with_its_reason_and_the_others_go_on(job: Job) -> None:
    archive(job, 3)
    job.server.deny("s3:RestoreObject", "b", "k1")
    told = found(request(job))
    assert told.keys() == {"k1"} and "denied" in told["k1"][1]
    assert job.states() == {
        "k0": FileState.RESTORE_REQUESTED,
        "k1": FileState.ERROR,
        "k2": FileState.RESTORE_REQUESTED,
    }
    job.server.deny("s3:GetObject", "b", "k2")
    assert "denied" in found(refresh(job))["k2"][1]
    assert job.states()["k2"] is FileState.ERROR and job.states()["k0"] is FileState.RESTORING


def test_what_is_gone_or_another_object_by_now_is_an_error_that_a_new_listing_cures(job: Job) -> None:
    archive(job, 4)
    job.server.remove("b", "k0", "null")
    told = found(request(job))
    assert told == {"k0": (None, VANISHED)}
    job.server.put("b", "k1", b"other", storage_class="GLACIER")
    job.server.remove("b", "k2", "null")
    assert found(refresh(job)) == {"k1": (None, CHANGED), "k2": (None, VANISHED)}
    job.scan()
    assert job.states()["k1"] is FileState.DISCOVERED and job.row("k1").archived


def test_an_object_that_left_glacier_since_it_was_listed_is_fetched(job: Job) -> None:
    """A copy onto itself changes the storage class and neither bytes nor ETag; there is nothing to restore any more."""
    archive(job, 2)
    for key in ("k0", "k1"):
        version = job.server.get("b", key)
        assert version
        version.storage_class = "STANDARD"
    for _ in range(2):
        refresh(job)
        request(job)
    job.scan()
    job.place()
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


@pytest.mark.parametrize("tier", ["ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"])
def test_intelligent_tiering_is_found_out_by_the_fetch_restored_and_fetched(job: Job, tier: str) -> None:
    job.server.put("b", "k0", b"body", storage_class="INTELLIGENT_TIERING", archive_status=tier)
    job.scan()
    job.place()
    job.fetch()
    assert (job.row("k0").state, job.row("k0").archived) == (FileState.DISCOVERED, True)
    request(job)
    assert job.server.count("RestoreObject", status=202) == 1
    refresh(job)
    assert all_states(job) == {FileState.RESTORING}
    job.server.advance(13 * HOUR)
    refresh(job)
    assert (job.row("k0").state, job.row("k0").archived) == (FileState.DISCOVERED, False)
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


def test_refused_credentials_end_it(job: Job) -> None:
    archive(job, 1)
    job.server.expired_tokens.add("AKIAFAKEFAKEFAKEFAKE")
    with pytest.raises(Failure, match="refuses these credentials") as failed:
        request(job)
    assert not isinstance(failed.value, Denied)
