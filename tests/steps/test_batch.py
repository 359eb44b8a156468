"""Jobs of S3 Batch Operations ask for what is archived once, whatever dies in between, and what they failed at is asked for singly."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest

from migrate_v2.conveyor import Link
from migrate_v2.edges.s3 import Denied, Restorer
from migrate_v2.edges.s3control import BatchRestorer
from migrate_v2.errors import Failure
from migrate_v2.events import Event, Noted, Warned
from migrate_v2.model import FileState
from migrate_v2.steps import batch as batch_step
from migrate_v2.steps import restore as restore_step
from migrate_v2.steps.restore import Means
from tests.fakes.s3batch import Jobs
from tests.fakes.s3server import ACCOUNT
from tests.steps.conftest import Job

ROLE = "arn:aws:iam::111122223333:role/restores"
MEANS = Means(2, True, "Bulk", 10**6, 86400.0, Link(1e9, 1e6, measured=True), str)


@pytest.fixture
def cold(job: Job) -> Iterator[Job]:
    """Three classes of archived objects, keys that need encoding among them, and one that is at hand."""
    job.server.jobs = Jobs()
    job.server.bucket("reports")
    for number in range(3):
        job.server.put("b", f"g {number},\n", b"body", storage_class="GLACIER")
        job.server.put("b", f"d{number}", b"body", storage_class="DEEP_ARCHIVE")
    job.server.put("b", "t", b"body", storage_class="INTELLIGENT_TIERING", archive_status="ARCHIVE_ACCESS")
    job.server.put("b", "warm", b"body")
    job.scan()
    job.store.tier_seen([(job.row("t").version, "ARCHIVE_ACCESS")])
    return job


def choose(job: Job, means: Means = MEANS) -> None:
    batch_step.choose(
        "b",
        job.store,
        account=ACCOUNT,
        role=ROLE,
        manifest_bucket="reports",
        report_bucket="reports",
        waves=partial(restore_step.rows_of_a_wave, "b", job.store, means),
        tier=means.tier,
    )


def follow(job: Job) -> list[Event]:
    return list(batch_step.follow("b", job.store, BatchRestorer(job.s3, ACCOUNT)))


def to_the_end(job: Job) -> list[Event]:
    return [event for _ in range(4) for event in follow(job)]


def refresh(job: Job) -> list[Event]:
    return list(restore_step.refresh("b", job.store, job.s3, rows_per_commit=100))


def singly(job: Job) -> list[Event]:
    return list(restore_step.request("b", job.store, Restorer(job.s3), MEANS, failed_in_job=True))


def asked(job: Job) -> dict[str, FileState]:
    return {key: state for key, state in job.states().items() if key != "warm"}


@pytest.mark.parametrize("versioning", [None, "Enabled"])
def test_one_job_for_each_kind_of_class_and_everything_comes_back(cold: Job, versioning: str | None) -> None:
    if versioning:  # `null` versions, as before, and ids beside them
        cold.server.buckets["b"].versioning = versioning
        cold.server.put("b", "d0", b"newer", storage_class="DEEP_ARCHIVE")
        cold.scan()
    choose(cold)
    follow(cold)
    assert cold.server.jobs.created == 3
    refresh(cold)
    assert set(asked(cold).values()) == {FileState.RESTORE_REQUESTED}, "a job that has not begun is no lost restore"
    to_the_end(cold)
    assert cold.server.count("RestoreObject", status=202) == 7 + bool(versioning)
    refresh(cold)
    assert set(asked(cold).values()) == {FileState.RESTORING}
    choose(cold)
    follow(cold)
    assert cold.server.jobs.created == 3 and not cold.store.open_jobs("b")
    bought = {(b.storage_class, b.tier): (b.requests, b.byte_days) for b in cold.store.bought("b")}
    assert bought["GLACIER", "Bulk"] == (3, 24) and bought["INTELLIGENT_TIERING", "Bulk"] == (1, 0)
    cold.server.advance(49 * 3600)
    refresh(cold)
    cold.place()
    cold.fetch()
    cold.verify()
    assert set(cold.states().values()) == {FileState.VERIFIED}


def test_what_failed_in_a_job_is_asked_for_singly_and_the_rest_is_not(cold: Job) -> None:
    cold.server.jobs.break_keys["d1"] = "InternalError"
    choose(cold)
    told = to_the_end(cold)
    assert any(isinstance(e, Warned) and "1 object " in e.text and "one by one" in e.text for e in told)
    row = cold.row("d1")
    assert row.state is FileState.DISCOVERED and "InternalError" in row.reason
    cold.server.put("b", "later", b"1", storage_class="GLACIER")
    cold.scan()
    before = cold.server.count("RestoreObject", status=202)
    singly(cold)
    assert cold.server.count("RestoreObject", status=202) == before + 1
    assert cold.states()["d1"] is FileState.RESTORE_REQUESTED and cold.states()["later"] is FileState.DISCOVERED


def test_what_others_have_asked_for_or_needs_none_is_no_failure(cold: Job) -> None:
    under_way = cold.server.get("b", "d0")
    at_hand = cold.server.get("b", "d1")
    assert under_way and at_hand
    under_way.restore_ready, under_way.restore_tier = cold.server.clock() + 9999, "Standard"
    at_hand.storage_class = "STANDARD"
    choose(cold)
    assert not [e for e in to_the_end(cold) if isinstance(e, Warned)]
    refresh(cold)
    assert cold.states()["d0"] is FileState.RESTORING
    assert (cold.states()["d1"], cold.row("d1").archived) == (FileState.DISCOVERED, False)


@pytest.mark.parametrize("op", ["PutObject", "CreateJob"])
@pytest.mark.parametrize("action", ["lost-reply", "reset-before"])
def test_a_job_is_made_once_whatever_becomes_of_the_answer(cold: Job, op: str, action: str) -> None:
    choose(cold)
    cold.server.fault({"op": op}, action, times=5)  # type: ignore[arg-type]
    with pytest.raises(Failure):
        follow(cold)
    cold.server.calm()
    assert set(asked(cold).values()) == {FileState.RESTORE_REQUESTED}
    to_the_end(cold)
    assert cold.server.jobs.created == 3
    assert cold.server.count("RestoreObject", status=202) == 7


def test_a_process_that_dies_while_it_chooses_leaves_a_smaller_job(cold: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_step, "_MARKED", 2)
    real, calls = cold.store.give_to_job, []

    def die_later(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cold.store, "give_to_job", die_later)
    with pytest.raises(KeyboardInterrupt):
        choose(cold)
    monkeypatch.undo()
    to_the_end(cold)
    choose(cold)
    to_the_end(cold)
    assert cold.server.count("RestoreObject", status=202) == 7
    assert cold.server.count("RestoreObject", status=409) == 0


def test_a_job_that_s3_does_not_take_gives_its_rows_back(cold: Job) -> None:
    choose(cold)
    cold.server.deny("s3:PutObject", "reports")
    with pytest.raises(Denied):
        follow(cold)
    assert len(cold.store.open_jobs("b")) == 2
    assert sum(state is FileState.DISCOVERED for state in asked(cold).values()) == 3


def test_a_failed_job_is_told_and_its_rows_are_asked_about(cold: Job) -> None:
    choose(cold)
    follow(cold)
    for made in cold.server.jobs.by_token.values():
        made.status, made.failure = "Failed", ("AccessDenied", "the role may not")
    told = follow(cold)
    assert sum(isinstance(e, Warned) and "the role may not" in e.text for e in told) == 3
    refresh(cold)
    assert all(cold.row(key).archived and state is FileState.DISCOVERED for key, state in asked(cold).items())


def test_expedited_is_not_to_be_had_in_jobs(cold: Job) -> None:
    choose(cold, Means(2, True, "Expedited", 10**6, 86400.0, MEANS.link, str))
    assert {one.tier for one in cold.store.open_jobs("b")} == {"Standard"}


def test_the_cap_holds_for_jobs_too(cold: Job) -> None:
    choose(cold, Means(2, True, "Bulk", 4, 86400.0, MEANS.link, str))
    assert sum(one.objects for one in cold.store.open_jobs("b")) == cold.store.outstanding_restores() == 4


def test_manifests_only_ask_for_nothing(cold: Job, tmp_path: Path) -> None:
    told = list(batch_step.write_manifests("b", cold.store, tmp_path / "manifests"))
    files = {path.name: path for path in (tmp_path / "manifests").iterdir()}
    assert sorted(files) == ["b-DEEP_ARCHIVE.csv", "b-GLACIER.csv", "b-INTELLIGENT_TIERING.csv"]
    with files["b-GLACIER.csv"].open(newline="") as file:
        lines = list(csv.reader(file))
    assert [(bucket, unquote(key)) for bucket, key in lines] == [("b", f"g {n},\n") for n in range(3)]
    assert len(told) == 3 and all(isinstance(e, Noted) for e in told)
    assert set(asked(cold).values()) == {FileState.DISCOVERED}
    assert cold.server.count("RestoreObject") == cold.server.jobs.created == 0
