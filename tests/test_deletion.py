"""What a plan holds, when its token is good for what is left of it, and what it tells beside what goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from migrate_v2 import deletion
from migrate_v2.edges.store import Evidence, Store, Upload
from migrate_v2.model import (
    DeleteMarker,
    Doomed,
    FileIdentity,
    FileState,
    ObjectVersion,
    Place,
    Site,
    Verdict,
    Witness,
    doomed,
)

WHEN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
MD5 = Witness("md5-etag", "5d41402abc4b2a76b9719d911017c592", 128)
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
    return {(s.key, deletion._version_id(s)): reason for s, reason in deletion.decide(store, site)}


def test_p3_the_plan_names_all_that_goes_and_all_that_stays(store: Store) -> None:
    reasons = decided(store, ENABLED)
    assert {name for name, reason in reasons.items() if not reason} == {
        ("a", "v1"), ("a", "v2"), ("a", "m"), ("b", "v2"), ("c", "null"), ("d", "m"), ("e", "null"),
    }  # fmt: skip
    assert reasons["b", "v1"].startswith("not proved")
    assert "stay" in reasons["b", "m"]


def test_p2_null_ids_stay_where_they_could_be_handed_out_again(store: Store) -> None:
    reasons = decided(store, replace(ENABLED, versioning="Suspended"))
    assert "null" in reasons["e", "null"]
    assert reasons["c", "null"] == ""  # current, so If-Match pins it


def test_p6_mfa_delete_keeps_everything(store: Store) -> None:
    assert all(decided(store, replace(ENABLED, mfa_delete=True)).values())


def test_the_plan_counts_what_it_decides(store: Store) -> None:
    plan = deletion.plan(store, ENABLED)
    assert (plan.objects, plan.bytes, plan.markers, plan.kept, plan.evidence) == (4, 20, 3, 2, {"md5-etag": 4})
    assert len(list(deletion.kept(store, ENABLED))) == plan.kept
    assert deletion.plan(store, ENABLED).token == plan.token
    store.fetched("bucket", [version("c", "null")])
    assert deletion.plan(store, ENABLED).token != plan.token


def test_places_of_the_plan_do_not_matter_to_the_token(store: Store) -> None:
    token = deletion.plan(store, ENABLED).token
    store.give_places([(version("c", "null"), Place.SIDE, "elsewhere", None)])
    assert deletion.plan(store, ENABLED).token == token


def test_p3_the_markers_that_are_sent_are_those_of_the_plan(store: Store) -> None:
    """Also where others have deleted what lay beneath one."""
    held = store.begin_scan("bucket", account="1", region="", endpoint="", versioning="Enabled", uploads=0)
    listed = [version("a", "v1", False), version("c", "null")]
    markers = [DeleteMarker("bucket", key, "m", True, WHEN) for key in ("a", "b", "d")]
    store.add_listed("bucket", held.scan, listed, markers, None)
    store.end_scan("bucket", held.scan)
    planned = {s.key for s, reason in deletion.decide(store, ENABLED) if isinstance(s, DeleteMarker) and not reason}
    for row in list(store.verified("bucket")):
        (intent,) = store.ledger.intend("bucket", [Doomed(row.key, row.version.version_id, "version")], "token")
        store.concluded("bucket", [(intent, "deleted", True)])
    assert {marker.key for marker in store.loose_markers("bucket")} == planned


# Resuming, and what a plan tells beside what goes


def gone(store: Store, token: str, *names: tuple[str, str]) -> None:
    for subject, reason in list(deletion.decide(store, ENABLED)):
        one = doomed(subject)
        if (one.key, one.version_id) in names:
            assert not reason
            (intent,) = store.ledger.intend("bucket", [one], token)
            store.concluded("bucket", [(intent, "deleted", True)])


EVERYTHING = [("a", "v1"), ("a", "v2"), ("a", "m"), ("b", "v2"), ("c", "null"), ("d", "m"), ("e", "null")]


@pytest.mark.parametrize(
    "order", [EVERYTHING[:1], EVERYTHING[:3], EVERYTHING[3:5], EVERYTHING[5:], EVERYTHING[::2], EVERYTHING[:-1]]
)
def test_p3_what_is_left_of_a_plan_goes_on_under_its_token(store: Store, order: list[tuple[str, str]]) -> None:
    token = deletion.plan(store, ENABLED).token
    gone(store, token, *order)
    left = deletion.plan(store, ENABLED, resumes=token)
    assert left.token != token and left.resumes == token
    assert left.agrees(token) and left.agrees(left.token)
    assert left.objects + left.markers == len(EVERYTHING) - len(order)
    # Some more under it, and more still.
    rest = [name for name in EVERYTHING if name not in order][:1]
    gone(store, token, *rest)
    assert deletion.plan(store, ENABLED, resumes=token).agrees(token)


def test_p3_a_token_of_another_plan_is_not_gone_on_with(store: Store) -> None:
    token = deletion.plan(store, ENABLED).token
    assert not deletion.plan(store, ENABLED, resumes="0" * 40).agrees("0" * 40)
    assert not deletion.plan(store, ENABLED).agrees("")
    gone(store, token, ("a", "v1"))
    assert not deletion.plan(store, ENABLED).agrees(token), "without being asked for"
    gone(store, "another's", ("a", "v2"))
    assert not deletion.plan(store, ENABLED, resumes=token).agrees(token), "another plan has deleted from it"


@pytest.mark.parametrize("change", ["bytes", "kept", "site"])
def test_p3_a_plan_that_changed_is_not_gone_on_with(store: Store, change: str) -> None:
    token = deletion.plan(store, ENABLED).token
    gone(store, token, ("a", "v1"))
    site = ENABLED
    if change == "bytes":
        store.record([replace(proved(version("c", "null")), sha256="another")], "run")
    elif change == "kept":
        store.set_holds("bucket", [(version("c", "null"), "a legal hold is on it")])
    else:
        site = replace(ENABLED, endpoint="https://elsewhere")
    assert not deletion.plan(store, site, resumes=token).agrees(token)


def test_uploads_are_of_the_plan_only_if_that_is_asked_for(store: Store) -> None:
    without = deletion.plan(store, ENABLED)
    store.list_uploads("bucket", [Upload("k", "id", WHEN), Upload("k", "id2", WHEN)])
    assert deletion.plan(store, ENABLED) == without
    planned = deletion.plan(store, ENABLED, uploads=True)
    assert planned.uploads == 2 and planned.token != without.token
    store.list_uploads("bucket", [Upload("k", "id", WHEN)])
    assert deletion.plan(store, ENABLED, uploads=True).token != planned.token


@pytest.mark.parametrize("first", ["id1", "id2"])
def test_p3_a_plan_of_which_some_uploads_are_aborted_goes_on_under_its_token(store: Store, first: str) -> None:
    both = [Upload("k", "id1", WHEN), Upload("k", "id2", WHEN)]
    store.list_uploads("bucket", both)
    token = deletion.plan(store, ENABLED, uploads=True).token
    (intent,) = store.ledger.intend("bucket", [Doomed("k", first, "upload")], token)
    store.concluded("bucket", [(intent, "aborted", True)])
    store.list_uploads("bucket", [upload for upload in both if upload.upload_id != first])
    left = deletion.plan(store, ENABLED, uploads=True, resumes=token)
    assert left.uploads == 1 and left.token != token and left.agrees(token)
    assert not deletion.plan(store, ENABLED, uploads=True).agrees(token), "without being asked for"


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
    planned = deletion.plan(store, ENABLED)
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
        store.set_holds("bucket", [(v, why)])
    planned = deletion.plan(store, ENABLED)
    assert planned.reasons[deletion.OTHER_REASONS] >= 2 and sum(planned.reasons.values()) == planned.kept
