"""What is archived is asked for once, and what Glacier says of it is in the rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

import boto3
import pytest

from migrate_v2 import prices, workload
from migrate_v2.conveyor import Bought, Link
from migrate_v2.edges import s3 as s3_edge
from migrate_v2.edges.s3 import Denied, Restorer, Throttled
from migrate_v2.errors import Failure
from migrate_v2.events import Ended, Event, Noted, Warned
from migrate_v2.model import CHANGED, Answer, FileState, GoneKind
from migrate_v2.steps import restore as restore_step
from migrate_v2.steps.restore import Means
from tests.fakes.s3server import Request
from tests.steps.conftest import Job, found

HOUR = 3600


def refresh(job: Job) -> list[Event]:
    return list(restore_step.refresh("b", job.store, job.s3, rows_per_commit=1000))


LINK = Link(1e9, 1e6, measured=True)


def price(bought: Sequence[Bought]) -> str:
    book = prices.load(None, None)
    return workload.about(workload.worth("b", "us-east-1", bought, book), book)


def means(*, tier: str = "Standard", at_most: int = 1000, days: int = 2, **more: Any) -> Means:
    given: dict[str, Any] = {"exactly": True, "horizon": 24 * HOUR, "link": LINK, **more}
    return Means(days=days, tier=tier, at_most=at_most, price=price, **given)


def request(job: Job, said: set[str] | None = None, **how: Any) -> list[Event]:
    return list(
        restore_step.request(job.bucket, job.store, Restorer(job.s3), means(**how), said=said, clock=job.server.clock)
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
    request(other, tier="Bulk", at_most=9)
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
    assert found(request(job)) == {} and job.row("k0").gone is GoneKind.NEVER_FETCHED
    job.server.put("b", "k1", b"other", storage_class="GLACIER")
    job.server.remove("b", "k2", "null")
    assert found(refresh(job)) == {"k1": (None, CHANGED)} and job.row("k2").gone is GoneKind.NEVER_FETCHED
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


# What is recorded, and when


def answers(job: Job) -> dict[str, str | None]:
    return dict(map(tuple, job.store._conn.execute("SELECT key, restore_answer FROM files").fetchall()))


def bought(job: Job) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {(b.storage_class, b.tier): (b.requests, b.bytes, b.byte_days) for b in job.store.bought("b")}


def test_the_answer_is_recorded_after_the_request(job: Job) -> None:
    archive(job, 2)
    job.server.put("b", "back", b"1", storage_class="GLACIER", restored_until=job.server.clock() + 9999)
    other = job.server.put("b", "under way", b"1", storage_class="GLACIER")
    other.restore_ready, other.restore_tier = job.server.clock() + HOUR, "Standard"
    job.server.restore_status_in_lists = False
    job.scan()
    request(job, days=3)
    assert answers(job) == {"k0": "started", "k1": "started", "back": "back", "under way": "under way"}
    assert bought(job) == {("GLACIER", "Standard"): (3, 8, 3 * 9)}, "a second retrieval is not paid for"


def test_a_request_of_which_only_s3_knows_the_answer_is_counted_when_it_is_seen(job: Job) -> None:
    archive(job, 1)
    job.server.fault({"op": "RestoreObject"}, "lost-reply")
    with pytest.raises(Failure):
        request(job)
    job.server.calm()
    assert bought(job) == {}
    for _ in range(2):
        refresh(job)
    assert bought(job) == {("GLACIER", "Standard"): (1, 4, 8)} and answers(job) == {"k0": "started"}


def test_one_answer_of_many_that_is_lost_stops_nothing(job: Job) -> None:
    archive(job, 5)
    job.server.fault({"op": "RestoreObject", "key": "k3"}, "lost-reply")
    told = request(job)
    assert any(isinstance(e, Warned) and "1 requests" in e.text for e in told)
    assert answers(job) == {"k0": "started", "k1": "started", "k2": "started", "k3": None, "k4": "started"}
    job.server.calm()
    job.server.requests.clear()
    refresh(job)
    request(job)
    assert all_states(job) == {FileState.RESTORING} and job.server.count("RestoreObject") == 0
    assert sorted(r.key for r in job.server.requests if r.op == "HeadObject") == ["k0", "k1", "k2", "k3", "k4"]


def test_what_s3_is_too_busy_for_is_sent_again_more_slowly(job: Job) -> None:
    archive(job, 30)
    job.server.fault({"op": "RestoreObject"}, "503", times=3)
    restorer = Restorer(job.s3, a_second=400)
    list(restore_step.request("b", job.store, restorer, means()))
    assert job.server.count("RestoreObject", status=202) == 30
    assert restorer.allowance.rate < 400
    assert set(answers(job).values()) == {"started"}


def test_what_was_not_taken_at_all_is_not_taken_for_asked(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_edge, "RESTORE_ATTEMPTS", 2)
    archive(job, 2)
    job.server.fault({"op": "RestoreObject"}, "503")
    with pytest.raises(Throttled):
        list(restore_step.request("b", job.store, Restorer(job.s3), means()))
    assert all_states(job) == {FileState.DISCOVERED} and job.store.outstanding_restores() == 0


def test_a_copy_that_expired_is_asked_for_again_and_that_is_told(job: Job) -> None:
    archive(job, 2)
    request(job, days=1)
    job.server.advance(6 * HOUR)
    refresh(job)
    job.server.advance(10 * 24 * HOUR)
    guard(job)
    assert answers(job) == {"k0": "expired", "k1": "expired"} and job.row("k0").archived
    (told,) = [e for e in request(job, days=1) if isinstance(e, Warned)]
    assert "2 restored copies (8 bytes) expired before they were fetched" in told.text and "USD" in told.text
    assert not [e for e in request(job, days=1) if isinstance(e, Warned)]
    assert bought(job)["GLACIER", "Standard"][:2] == (4, 16)


# Waves


def test_a_wave_leaves_the_rest_for_later_and_says_why_once(job: Job) -> None:
    archive(job, 6)
    said: set[str] = set()
    slow = Link(12 / HOUR, 1e6, measured=True)  # three of these objects an hour
    first = request(job, said, link=slow, horizon=HOUR, exactly=False)
    assert job.store.outstanding_restores() == 3
    assert [e.text for e in first if isinstance(e, Noted)] == [
        "the rest of GLACIER is asked for later: what is on its way keeps the link busy (at 0 bytes/s), and a copy that"
        " waits is paid for"
    ]
    assert not [e for e in request(job, said, link=slow, horizon=HOUR, exactly=False) if isinstance(e, Noted)]
    assert job.store.outstanding_restores() == 3
    assert {row.asked.days for row in job.rows() if row.asked} == {1}


def test_an_object_larger_than_a_wave_is_one_by_itself_with_days_enough(job: Job) -> None:
    archive(job, 3)
    slow = Link(4 / (3 * 24 * HOUR), 1e6, measured=True)  # one in three days
    request(job, link=slow, horizon=HOUR, exactly=False, days=7)
    assert job.store.outstanding_restores() == 1
    asked = job.row("k0").asked
    assert asked and 3 <= asked.days <= 5  # type: ignore[operator]
    request(job, link=slow, horizon=HOUR, exactly=False, days=7)
    assert job.store.outstanding_restores() == 1


def test_nothing_is_asked_for_that_the_disk_cannot_hold(job: Job) -> None:
    job.server.put("b", "a", b"larger than all that is free", storage_class="GLACIER")
    archive(job, 4)
    told = request(job, disk=9)
    assert {key for key, state in job.states().items() if state is FileState.RESTORE_REQUESTED} == {"k0", "k1"}
    assert any(isinstance(e, Noted) and "no room" in e.text for e in told)


def test_days_are_those_of_the_operator_or_as_few_as_do(job: Job) -> None:
    archive(job, 1)
    request(job, days=5, exactly=False, horizon=2 * HOUR)
    stored = job.server.get("b", "k0")
    assert stored and stored.restore_days == 1
    job.server.put("b", "k1", b"1", storage_class="GLACIER")
    job.scan()
    request(job, days=5, exactly=False, link=Link(1e6, 1e6, measured=False))
    stored = job.server.get("b", "k1")
    assert stored and stored.restore_days == 5


# Status by listing


def spread(job: Job, archived: int, between: int) -> None:
    """So many archived objects, with so many others between each two."""
    for number in range(archived):
        job.server.put("b", f"{number:05}", b"1", storage_class="GLACIER")
        for other in range(between):
            job.server.put("b", f"{number:05}-{other:03}", b"1")
    job.scan()
    rows = list(job.store.left_to_request("b"))
    job.store.restore_asked([row.version for row in rows], "Standard", 2)
    job.store.restore_answered([(row.version, Answer("started", "Standard", 2)) for row in rows])
    for row in rows:
        stored = job.server.get("b", row.key)
        assert stored
        stored.restore_ready, stored.restore_tier = job.server.clock() + 5 * HOUR, "Standard"
        stored.restore_expiry = job.server.clock() + 48 * HOUR
    job.server.requests.clear()


def test_a_thousand_restores_are_looked_at_in_one_request(job: Job) -> None:
    spread(job, 1200, 0)
    refresh(job)
    assert all_states(job) == {FileState.RESTORING}
    assert (job.server.count("ListObjectVersions"), job.server.count("HeadObject")) == (2, 0)
    job.server.advance(6 * HOUR)
    job.server.requests.clear()
    refresh(job)
    assert all_states(job) == {FileState.DISCOVERED} and job.row("00000").version.restore_expiry
    assert (job.server.count("ListObjectVersions"), job.server.count("HeadObject")) == (2, 0)


def test_an_endpoint_that_lists_no_restores_is_asked_one_by_one(job: Job) -> None:
    spread(job, 60, 0)
    job.server.restore_status_in_lists = False
    refresh(job)
    assert all_states(job) == {FileState.RESTORING}
    assert (job.server.count("ListObjectVersions"), job.server.count("HeadObject")) == (1, 60)


def test_where_they_lie_far_apart_a_listing_is_not_worth_it(job: Job) -> None:
    spread(job, 14, 100)
    refresh(job)
    asked = {key for key, state in job.states().items() if state is FileState.RESTORING}
    assert len(asked) == 14
    assert job.server.count("ListObjectVersions") == 1 and job.server.count("HeadObject") == 4


def test_a_listing_is_not_believed_in_its_silence(job: Job) -> None:
    """Replaced, gone, never asked for, expired: whatever a listing does not confirm is asked for by itself."""
    spread(job, 40, 0)
    job.server.put("b", "00003", b"another", storage_class="GLACIER")
    job.server.remove("b", "00005", "null")
    lost = job.server.get("b", "00007")
    assert lost
    lost.restore_ready = lost.restore_expiry = None
    told = found(refresh(job))
    assert told == {"00003": (None, CHANGED)} and job.row("00005").gone is GoneKind.NEVER_FETCHED
    row = job.row("00007")
    assert (row.state, row.archived) == (FileState.DISCOVERED, True)
    assert job.server.count("HeadObject") == 3


def test_old_versions_are_restored_and_looked_at_by_their_ids(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    for number in range(15):
        job.server.put("b", "k", b"%d" % number, storage_class="GLACIER")
        job.server.put("b", f"l{number}", b"1", storage_class="GLACIER")
    job.scan()
    request(job)
    assert job.server.count("RestoreObject", status=202) == 30
    job.server.requests.clear()
    job.server.advance(6 * HOUR)
    refresh(job)
    assert all_states(job) == {FileState.DISCOVERED}
    assert (job.server.count("ListObjectVersions"), job.server.count("HeadObject")) == (1, 0)


# INTELLIGENT_TIERING


def test_archive_tiers_are_looked_for_only_where_the_bucket_has_them(job: Job) -> None:
    for number in range(3):
        job.server.put("b", f"k{number}", b"1", storage_class="INTELLIGENT_TIERING")
    job.server.put("b", "cold", b"1", storage_class="INTELLIGENT_TIERING", archive_status="DEEP_ARCHIVE_ACCESS")
    job.scan()
    look = partial(restore_step.look_into_tiering, "b", job.store, job.s3, rows_per_commit=10)
    assert list(look()) == [] and job.server.count("HeadObject") == 0
    boto3.client(
        "s3", endpoint_url=job.server.url, region_name="us-east-1"
    ).put_bucket_intelligent_tiering_configuration(
        Bucket="b",
        Id="x",
        IntelligentTieringConfiguration={
            "Id": "x",
            "Status": "Enabled",
            "Tierings": [{"Days": 90, "AccessTier": "ARCHIVE_ACCESS"}],
        },
    )
    assert [e.text for e in look() if isinstance(e, Noted)] == ["1 object of INTELLIGENT_TIERING is in an archive tier"]
    assert job.server.count("HeadObject") == 4
    assert list(look()) == [] and job.server.count("HeadObject") == 4, "asked once"
    assert {row.key for row in job.store.left_to_request("b")} == {"cold"}
    request(job, tier="Expedited")
    stored = job.server.get("b", "cold")
    assert stored and (stored.restore_tier, stored.restore_days) == ("Standard", 0)


# The guard


def guard(job: Job, **how: Any) -> list[Event]:
    return list(restore_step.guard("b", job.store, Restorer(job.s3), means(**how), s3=job.s3, clock=job.server.clock))


def test_a_copy_about_to_expire_stays_longer_and_the_price_is_told(job: Job) -> None:
    archive(job, 3)
    request(job, days=1)
    job.server.advance(6 * HOUR)
    refresh(job)
    expiry = job.row("k0").version.restore_expiry
    assert expiry
    job.server.advance(expiry.timestamp() - job.server.clock() - 2 * HOUR)
    slow = Link(1 / HOUR, 1e6, measured=True)
    assert guard(job) == [], "there is time enough to fetch them"
    assert job.server.count("RestoreObject") == 3
    (told,) = [e for e in guard(job, link=slow, exactly=False) if isinstance(e, Warned)]
    assert "3 restored copies (12 bytes) would expire" in told.text and "USD" in told.text
    assert job.server.count("RestoreObject", status=200) == 3
    stored = job.server.get("b", "k0")
    later = job.row("k0").version.restore_expiry
    assert stored and later and later.timestamp() == stored.restore_expiry and later > expiry
    assert (job.row("k0").state, job.row("k0").archived) == (FileState.DISCOVERED, False)
    assert guard(job, link=slow, exactly=False) == []
    assert bought(job)["GLACIER", "Standard"][:2] == (6, 12)


# Upgrades


def upgrade(job: Job, tier: str) -> list[str]:
    events = restore_step.upgrade("b", job.store, Restorer(job.s3), tier=tier, days=2, price=price)
    return [e.text for e in events if isinstance(e, (Noted, Warned))]


def test_stragglers_are_upgraded_once_and_deep_archive_only_to_standard(job: Job) -> None:
    archive(job, 2)
    job.server.put("b", "deep", b"1", storage_class="DEEP_ARCHIVE")
    job.scan()
    request(job, tier="Bulk", days=3)
    refresh(job)
    assert "2 objects (8 bytes) asked for again at Expedited" in upgrade(job, "Expedited")[0]
    stored = job.server.get("b", "k0")
    assert stored and (stored.restore_tier, stored.restore_days) == ("Expedited", 3)
    assert tiers(job) == {"k0": "Expedited", "k1": "Expedited", "deep": "Bulk"}
    assert "1 object " in upgrade(job, "Standard")[0]
    sent = job.server.count("RestoreObject")
    for tier in ("Standard", "Expedited"):
        assert "nothing more" in upgrade(job, tier)[0]
    assert job.server.count("RestoreObject") == sent
    assert bought(job)["GLACIER", "Expedited"] == (2, 8, 24)


def test_an_upgrade_that_is_not_to_be_had_leaves_the_restore_as_it_is(job: Job) -> None:
    archive(job, 1)
    request(job, tier="Bulk")
    refresh(job)
    job.server.expedited_capacity = False
    assert "Expedited" in upgrade(job, "Expedited")[0]
    assert all_states(job) == {FileState.RESTORING} and tiers(job) == {"k0": "Bulk"}
    job.server.expedited_capacity = True
    upgrade(job, "Expedited")
    assert tiers(job) == {"k0": "Expedited"}


def test_an_upgrade_without_an_answer_is_asked_about_and_s3_takes_it_once(job: Job) -> None:
    archive(job, 1)
    request(job, tier="Bulk")
    refresh(job)
    job.server.fault({"op": "RestoreObject"}, "lost-reply", times=1)
    upgrade(job, "Expedited")
    refresh(job)
    upgrade(job, "Expedited")
    assert job.server.count("RestoreObject", status=409) == 1, "S3 says that it has it"
    assert tiers(job) == {"k0": "Expedited"}
