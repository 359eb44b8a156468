"""What a plan holds, when its token is good for what is left of it, and what it tells beside what goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate_v2 import deletion
from migrate_v2.durability import Durability
from migrate_v2.edges.mounts import Mount
from migrate_v2.edges.store import Evidence, Store, Upload
from migrate_v2.model import (
    Cause,
    DeleteMarker,
    Doomed,
    FileIdentity,
    FileState,
    Kept,
    Moment,
    ObjectVersion,
    Place,
    Row,
    Rules,
    Site,
    Verdict,
    Witness,
    doomed,
)
from migrate_v2.steps import delete as delete_step

WHEN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
MD5 = Witness("md5-etag", "5d41402abc4b2a76b9719d911017c592", 128)
RULES = Rules(null_settled=True)
ABORTING = replace(RULES, uploads_before=datetime.max.replace(tzinfo=UTC))
ENABLED = Site("1", "https://s3.amazonaws.com", "bucket", "Enabled")


def version(key: str, version_id: str, latest: bool = True) -> ObjectVersion:
    return ObjectVersion("bucket", key, version_id, 5, "etag", "STANDARD", WHEN, latest)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s.db") as opened:
        held = opened.begin_scan("bucket", account="1", region="", endpoint="", versioning="Enabled", uploads=0)
        versions = [
            version("a", "v1", False),
            version("a", "v2", False),
            version("b", "v1", False),
            version("b", "v2"),
            version("c", "null"),
        ]
        markers = [DeleteMarker("bucket", key, "m", True, WHEN) for key in ("a", "b", "d")]
        opened.add_listed(
            "bucket", held.scan, versions, [*markers, DeleteMarker("bucket", "e", "null", True, WHEN)], None
        )
        opened.end_scan("bucket", held.scan)
        opened.record([proved(v) for v in versions if (v.key, v.version_id) != ("b", "v1")], "run")
        yield opened


def proved(v: ObjectVersion) -> Evidence:
    return Evidence(v, FileState.VERIFIED, Verdict.MATCH, "", "sha", (MD5,), FileIdentity(1, 2, 5, 3, 4))


def decided(store: Store, site: Site) -> dict[tuple[str, str], str]:
    return {
        (s.key, deletion._version_id(s)): kept.text if kept else "" for s, kept in deletion.decide(store, site, RULES)
    }


def causes(store: Store, site: Site, rules: Rules = RULES) -> dict[tuple[str, str], Kept | None]:
    return {(s.key, deletion._version_id(s)): kept for s, kept in deletion.decide(store, site, rules)}


def test_p3_the_plan_names_all_that_goes_and_all_that_stays(store: Store) -> None:
    reasons = decided(store, ENABLED)
    assert {name for name, reason in reasons.items() if not reason} == {
        ("a", "v1"), ("a", "v2"), ("a", "m"), ("c", "null"), ("d", "m"), ("e", "null"),
    }  # fmt: skip
    assert {name: kept.cause for name, kept in causes(store, ENABLED).items() if kept} == {
        ("b", "v1"): Cause.NOT_PROVED,
        ("b", "v2"): Cause.OLDER_VERSION_STAYS,
        ("b", "m"): Cause.VERSIONS_STAY,
    }


def test_p2_null_ids_stay_where_they_could_be_handed_out_again(store: Store) -> None:
    reasons = decided(store, replace(ENABLED, versioning="Suspended"))
    assert "null" in reasons["e", "null"]
    assert reasons["c", "null"] == ""  # current, so If-Match pins it


def test_p6_mfa_delete_keeps_everything(store: Store) -> None:
    assert all(decided(store, replace(ENABLED, mfa_delete=True)).values())


def test_the_plan_counts_what_it_decides(store: Store) -> None:
    plan = deletion.plan(store, ENABLED, RULES)
    assert (plan.objects, plan.bytes, plan.markers, plan.kept, plan.evidence) == (3, 15, 3, 3, {"md5-etag": 3})
    assert len(list(deletion.kept(store, ENABLED, RULES))) == plan.kept
    assert deletion.plan(store, ENABLED, RULES).token == plan.token
    store.fetched("bucket", [version("c", "null")])
    assert deletion.plan(store, ENABLED, RULES).token != plan.token


def test_the_plan_says_whether_the_copies_last(store: Store) -> None:
    kept = replace(ENABLED, mfa_delete=True)
    for kind, volatile in (("ext4", False), ("tmpfs", True)):
        mount = Mount(kind, Durability.MEMORY if volatile else Durability.LASTING)
        planned = deletion.plan(store, ENABLED, RULES, mount=mount)
        assert (planned.needs_allow_volatile, planned.rests_on != "") == (volatile, volatile)
        assert not deletion.plan(store, kept, RULES, mount=mount).needs_allow_volatile


def test_places_of_the_plan_do_not_matter_to_the_token(store: Store) -> None:
    token = deletion.plan(store, ENABLED, RULES).token
    store.give_places([(version("c", "null"), Place.SIDE, "elsewhere", None)])
    assert deletion.plan(store, ENABLED, RULES).token == token


def test_p3_the_markers_that_are_sent_are_those_of_the_plan(store: Store) -> None:
    """Also where others have deleted what lay beneath one."""
    held = store.begin_scan("bucket", account="1", region="", endpoint="", versioning="Enabled", uploads=0)
    listed = [version("a", "v1", False), version("c", "null")]
    markers = [DeleteMarker("bucket", key, "m", True, WHEN) for key in ("a", "b", "d")]
    store.add_listed("bucket", held.scan, listed, markers, None)
    store.end_scan("bucket", held.scan)
    planned = {
        s.key for s, reason in deletion.decide(store, ENABLED, RULES) if isinstance(s, DeleteMarker) and not reason
    }
    for row in list(store.verified("bucket")):
        (intent,) = store.ledger.intend("bucket", [Doomed(row.key, row.version.version_id, "version")], "token")
        store.concluded("bucket", [(intent, "deleted", True)])
    assert {marker.key for marker in store.loose_markers("bucket")} == planned


# Resuming, and what a plan tells beside what goes


def gone(store: Store, token: str, *names: tuple[str, str]) -> None:
    for subject, reason in list(deletion.decide(store, ENABLED, RULES)):
        one = doomed(subject)
        if (one.key, one.version_id) in names:
            assert not reason
            (intent,) = store.ledger.intend("bucket", [one], token)
            store.concluded("bucket", [(intent, "deleted", True)])


EVERYTHING = [("a", "v1"), ("a", "v2"), ("a", "m"), ("c", "null"), ("d", "m"), ("e", "null")]


@pytest.mark.parametrize(
    "order", [EVERYTHING[:1], EVERYTHING[:3], EVERYTHING[3:5], EVERYTHING[5:], EVERYTHING[::2], EVERYTHING[:-1]]
)
def test_p3_what_is_left_of_a_plan_goes_on_under_its_token(store: Store, order: list[tuple[str, str]]) -> None:
    token = deletion.plan(store, ENABLED, RULES).token
    gone(store, token, *order)
    left = deletion.plan(store, ENABLED, RULES, resumes=token)
    assert left.token != token and left.resumes == token
    assert left.agrees(token) and left.agrees(left.token)
    assert left.objects + left.markers == len(EVERYTHING) - len(order)
    # Some more under it, and more still.
    rest = [name for name in EVERYTHING if name not in order][:1]
    gone(store, token, *rest)
    assert deletion.plan(store, ENABLED, RULES, resumes=token).agrees(token)


def test_p3_a_token_of_another_plan_is_not_gone_on_with(store: Store) -> None:
    token = deletion.plan(store, ENABLED, RULES).token
    assert not deletion.plan(store, ENABLED, RULES, resumes="0" * 40).agrees("0" * 40)
    assert not deletion.plan(store, ENABLED, RULES).agrees("")
    gone(store, token, ("a", "v1"))
    assert not deletion.plan(store, ENABLED, RULES).agrees(token), "without being asked for"
    gone(store, "another's", ("a", "v2"))
    assert not deletion.plan(store, ENABLED, RULES, resumes=token).agrees(token), "another plan has deleted from it"


@pytest.mark.parametrize("change", ["bytes", "kept", "site"])
def test_p3_a_plan_that_changed_is_not_gone_on_with(store: Store, change: str) -> None:
    token = deletion.plan(store, ENABLED, RULES).token
    gone(store, token, ("a", "v1"))
    site = ENABLED
    if change == "bytes":
        store.record([replace(proved(version("c", "null")), sha256="another")], "run")
    elif change == "kept":
        store.set_holds("bucket", [(version("c", "null"), Kept(Cause.LOCKED, "a legal hold is on it"))])
    else:
        site = replace(ENABLED, endpoint="https://elsewhere")
    assert not deletion.plan(store, site, RULES, resumes=token).agrees(token)


def test_uploads_are_of_the_plan_only_if_that_is_asked_for(store: Store) -> None:
    without = deletion.plan(store, ENABLED, RULES)
    store.list_uploads("bucket", [Upload("k", "id", WHEN), Upload("k", "id2", WHEN)])
    assert deletion.plan(store, ENABLED, RULES) == without
    planned = deletion.plan(store, ENABLED, ABORTING)
    assert planned.uploads == 2 and planned.token != without.token
    store.list_uploads("bucket", [Upload("k", "id", WHEN)])
    assert deletion.plan(store, ENABLED, ABORTING).token != planned.token


@pytest.mark.parametrize("first", ["id1", "id2"])
def test_p3_a_plan_of_which_some_uploads_are_aborted_goes_on_under_its_token(store: Store, first: str) -> None:
    both = [Upload("k", "id1", WHEN), Upload("k", "id2", WHEN)]
    store.list_uploads("bucket", both)
    token = deletion.plan(store, ENABLED, ABORTING).token
    (intent,) = store.ledger.intend("bucket", [Doomed("k", first, "upload")], token)
    store.concluded("bucket", [(intent, "aborted", True)])
    store.list_uploads("bucket", [upload for upload in both if upload.upload_id != first])
    left = deletion.plan(store, ENABLED, ABORTING, resumes=token)
    assert left.uploads == 1 and left.token != token and left.agrees(token)
    assert not deletion.plan(store, ENABLED, ABORTING).agrees(token), "without being asked for"


def test_only_uploads_older_than_the_minimum_age_are_aborted(store: Store) -> None:
    store.list_uploads("bucket", [Upload("k", "old", at(0)), Upload("k", "same", at(10)), Upload("k", "new", at(11))])
    rules = replace(RULES, uploads_before=at(10))
    planned = deletion.plan(store, ENABLED, rules)
    assert (planned.uploads, planned.uploads_recent) == (1, 2)
    assert [upload.upload_id for upload in planned.uploads_named] == ["old"]
    kept = {upload.upload_id: stays and stays.cause for upload, stays in deletion.decide_uploads(store, ENABLED, rules)}
    assert kept == {"old": None, "same": Cause.UPLOAD_RECENT, "new": Cause.UPLOAD_RECENT}
    # An upload that begins after the plan was shown changes nothing of it.
    store.list_uploads("bucket", [Upload("k", "old", at(0))])
    assert deletion.plan(store, ENABLED, rules).token == planned.token
    assert list(deletion.decide_uploads(store, ENABLED, RULES)) == []


def test_the_first_sight_of_enabled_is_kept_until_a_restart(store: Store) -> None:
    def scanned(versioning: str, moment: Moment | None) -> Moment | None:
        store.begin_scan("new", account="1", region="", endpoint="", versioning=versioning, uploads=0, moment=moment)
        return store.enabled_since("new")

    first, later = Moment(at(0), "boot", 10.0), Moment(at(60), "boot", 70.0)
    restarted = Moment(at(90), "another boot", 5.0)
    assert scanned("", first) is None
    assert scanned("Enabled", None) is None
    assert scanned("Enabled", first) == first
    assert scanned("Enabled", later) == first
    assert scanned("Enabled", restarted) == restarted
    assert scanned("Suspended", restarted) is None
    assert scanned("Enabled", later) == later


def test_null_ids_stay_until_versioning_has_settled(store: Store) -> None:
    new = replace(RULES, null_settled=False)
    found = {name: kept.cause for name, kept in causes(store, ENABLED, new).items() if kept and name[1] == "null"}
    assert found == {("c", "null"): Cause.VERSIONING_NEW, ("e", "null"): Cause.VERSIONING_NEW}
    assert not any(name[1] == "null" and kept for name, kept in causes(store, ENABLED).items())


def test_a_plan_says_why_what_stays_and_what_is_billed_on(store: Store) -> None:
    now = datetime.now(UTC)
    held = store.begin_scan("bucket", account="1", region="", endpoint="", versioning="Enabled", uploads=0)
    young = [
        replace(version(key, "v", False), storage_class=class_, last_modified=now - timedelta(days=days), size=100)
        for key, class_, days in (("x", "DEEP_ARCHIVE", 170), ("y", "DEEP_ARCHIVE", 10), ("z", "GLACIER", 91))
    ]
    store.add_listed("bucket", held.scan, young, [], None)
    store.end_scan("bucket", held.scan)
    store.record([proved(v) for v in young], "run")
    planned = deletion.plan(store, ENABLED, RULES)
    assert planned.early.keys() == {"DEEP_ARCHIVE"}
    early = planned.early["DEEP_ARCHIVE"]
    assert (early.objects, early.bytes, early.until) == (2, 200, now + timedelta(days=170))
    assert sum(planned.reasons.values()) == planned.kept > 0


def test_reasons_are_counted_apart_up_to_a_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "REASONS", 1)
    for v, why in (
        (version("a", "v1", False), "one"),
        (version("a", "v2", False), "two"),
        (version("b", "v2"), "three"),
    ):
        store.set_holds("bucket", [(v, Kept(Cause.LOCKED, why))])
    planned = deletion.plan(store, ENABLED, RULES)
    assert planned.reasons[deletion.OTHER_REASONS] >= 2 and sum(planned.reasons.values()) == planned.kept


# No older version becomes current


def listed(store: Store, bucket: str, versions: list[ObjectVersion], markers: list[DeleteMarker]) -> None:
    row = store.begin_scan(bucket, account="1", region="", endpoint="", versioning="Enabled", uploads=0)
    store.add_listed(bucket, row.scan, versions, markers, None)
    store.mark_missing_gone(bucket, row.scan)
    store.end_scan(bucket, row.scan)


def at(seconds: int) -> datetime:
    return WHEN + timedelta(seconds=seconds)


@pytest.mark.parametrize("stays", ["unproved", "locked", "noncurrent"])
@pytest.mark.parametrize("buffer", [1, 2, 4, 1000])
def test_decide_keeps_what_is_newer_than_a_version_that_stays(
    store: Store, stays: str, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "KEY_BUFFER", buffer)
    # Version ids in another order than times; v2 and v1 are of the same second.
    history = [("v9", 0), ("v2", 10), ("v1", 10), ("v5", 20)]
    versions = [
        replace(version("k", v, latest=v == "v5"), last_modified=at(seconds)) for v, seconds in reversed(history)
    ]
    listed(store, "bucket", versions, [DeleteMarker("bucket", "k", "m0", False, at(-1))])
    store.record([proved(v) for v in versions if stays != "unproved" or v.version_id != "v2"], "run")
    if stays == "locked":
        store.set_holds("bucket", [(versions[2], Kept(Cause.LOCKED, "a legal hold is on it"))])
    rules = replace(RULES, keep_noncurrent=stays == "noncurrent")
    cause = {"unproved": Cause.NOT_PROVED, "locked": Cause.LOCKED, "noncurrent": Cause.NONCURRENT}[stays]
    found = {v: kept and kept.cause for (key, v), kept in causes(store, ENABLED, rules).items() if key == "k"}
    older = Cause.OLDER_VERSION_STAYS
    expected = {"v9": None, "v2": cause, "v1": older, "v5": older, "m0": Cause.VERSIONS_STAY}
    if stays == "noncurrent":
        expected |= {"v9": cause, "v1": cause}
    assert found == expected
    allowed = replace(rules, allow_older_current=True)
    found = {v: kept and kept.cause for (key, v), kept in causes(store, ENABLED, allowed).items() if key == "k"}
    assert found == {v: None if why is older else why for v, why in expected.items()}
    assert deletion.plan(store, ENABLED, allowed).token != deletion.plan(store, ENABLED, rules).token


def test_the_current_version_counts_as_the_newest_whatever_its_time(store: Store) -> None:
    """LastModified of a multipart upload is when it began."""
    versions = [
        replace(version("k", "current", latest=True), last_modified=at(0)),
        replace(version("k", "older", latest=False), last_modified=at(10)),
    ]
    listed(store, "bucket", versions, [])
    store.record([proved(versions[0])], "run")
    assert {version_id: kept.cause for _, version_id, kept in deletion.kept(store, ENABLED, RULES)} == {
        "current": Cause.OLDER_VERSION_STAYS,
        "older": Cause.NOT_PROVED,
    }


def test_a_version_that_is_gone_from_s3_keeps_no_newer_one(store: Store) -> None:
    versions = [replace(version("k", "v2"), last_modified=at(1)), version("k", "v1", False)]
    listed(store, "bucket", versions, [])
    listed(store, "bucket", versions[:1], [])
    store.record([proved(versions[0])], "run")
    assert causes(store, ENABLED)["k", "v2"] is None
    assert [row.version.version_id for row in deletion.to_delete(store, ENABLED, RULES)] == ["v2"]


def test_the_token_says_whether_older_versions_may_become_current(store: Store) -> None:
    """Also where that changes nothing of what goes."""
    listed(store, "bucket", [version("only", "v1")], [])
    rules = replace(RULES, allow_older_current=True)
    assert deletion.plan(store, ENABLED, rules).token != deletion.plan(store, ENABLED, RULES).token


class Simulated:
    """The versions and delete markers of each key as S3 has them, newest first; (id, is a marker)."""

    def __init__(self, stacks: dict[str, list[tuple[str, bool]]]) -> None:
        self.stacks = {key: list(stack) for key, stack in stacks.items()}

    def get(self, key: str) -> str:
        """The id of the version that a GET without a version id returns; "" for 404."""
        return next((name for name, marker in self.stacks[key][:1] if not marker), "")

    def emptied(self, key: str) -> bool:
        return all(marker for _, marker in self.stacks[key])

    def delete(self, key: str, name: str) -> None:
        self.stacks[key] = [entry for entry in self.stacks[key] if entry[0] != name]


NUMBER = count()
ENTRY = st.tuples(
    st.booleans(), st.booleans(), st.integers(0, 2)
)  # a marker? does it stay? seconds since the one before
HISTORIES = st.lists(st.lists(ENTRY, min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_deletion_keeps_the_answer_of_get_at_every_instant(
    store: Store, histories: list[list[tuple[bool, bool, int]]], null_at: int, random: Random
) -> None:
    """Wherever the deletion is cut off, and in whatever order S3 carries out the entries of one DeleteObjects."""
    bucket = f"bucket-{next(NUMBER)}"
    site = replace(ENABLED, bucket=bucket)
    versions, markers, evidence = [], [], []
    stacks: dict[str, list[tuple[str, bool]]] = {}
    for number, history in enumerate(histories):
        key, seconds = f"k{number}", 0
        stack: list[tuple[str, bool]] = []
        for place, (marker, stays, later) in enumerate(history):
            seconds += later
            name = "null" if place == null_at else f"{random.randrange(1 << 32):08x}{place}"
            latest = place == len(history) - 1
            if marker:
                markers.append(DeleteMarker(bucket, key, name, latest, at(seconds)))
            else:
                v = ObjectVersion(bucket, key, name, 5, "etag", "STANDARD", at(seconds), latest)
                versions.append(v)
                evidence += [] if stays else [proved(v)]
            stack.insert(0, (name, marker))
        stacks[key] = stack
    listed(store, bucket, versions, markers)
    store.record(evidence, "run")
    s3 = Simulated(stacks)
    before = {key: s3.get(key) for key in stacks}
    planned = deletion.plan(store, site, RULES)
    went = 0

    def carry_out(batch: Sequence[Row | DeleteMarker]) -> None:
        nonlocal went
        for subject in random.sample(batch, len(batch)):
            one = doomed(subject)
            s3.delete(one.key, one.version_id)
            (intent,) = store.ledger.intend(bucket, [one], "token")
            store.concluded(bucket, [(intent, "deleted", True)])
            went += 1
            for key, answer in before.items():
                assert s3.get(key) == ("" if s3.emptied(key) else answer), (key, stacks[key])

    for batch in delete_step._in_order(store, site, RULES):
        carry_out(batch)
    carry_out(list(store.loose_markers(bucket)))
    assert went == planned.objects + planned.markers
