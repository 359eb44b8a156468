"""The order of things: what a plan holds, what one bucket's failure does to the others, and how long waiting goes on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate_v2 import pipeline
from migrate_v2.edges.store import Evidence, Store, Upload
from migrate_v2.errors import Differs, Failure, NotFinished, Refused
from migrate_v2.events import Ended, Event, Failed, Noted, Waiting
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
    return {(s.key, pipeline._version_id(s)): reason for s, reason in pipeline.decide(store, site)}


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
    plan = pipeline.plan(store, ENABLED)
    assert (plan.objects, plan.bytes, plan.markers, plan.kept, plan.evidence) == (4, 20, 3, 2, {"md5-etag": 4})
    assert len(list(pipeline.kept(store, ENABLED))) == plan.kept
    assert pipeline.plan(store, ENABLED).token == plan.token
    store.fetched("bucket", [version("c", "null")])
    assert pipeline.plan(store, ENABLED).token != plan.token


@pytest.mark.parametrize(
    "endpoint", ["http://10.0.0.1:9000", "http://s3.amazonaws.com", "http://127.0.0.1.example.com"]
)
def test_p2_nothing_is_deleted_on_the_word_of_an_unencrypted_endpoint(endpoint: str) -> None:
    with pytest.raises(Refused):
        pipeline._safe_to_delete_at(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["https://s3.amazonaws.com", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost"]
)
def test_loopback_and_tls_are_good_enough(endpoint: str) -> None:
    pipeline._safe_to_delete_at(endpoint)


def test_p2_loopback_by_way_of_a_proxy_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://10.0.0.1:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(Refused, match=r"through a proxy, unencrypted.*NO_PROXY"):
        pipeline._safe_to_delete_at("http://127.0.0.1:9000")
    pipeline._safe_to_delete_at("https://s3.amazonaws.com")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    pipeline._safe_to_delete_at("http://127.0.0.1:9000")


def test_one_bucket_s_failure_does_not_stop_the_others() -> None:
    def work(bucket: str) -> pipeline.Events:
        yield Noted(bucket, "begun")
        failures: dict[str, Failure] = {"a": Failure("a"), "b": NotFinished("b"), "c": Differs("c")}
        if bucket in failures:
            raise failures[bucket]

    codes: list[int] = []
    events = list(pipeline.each("abcd", work, codes))
    assert [e.bucket for e in events if isinstance(e, Noted)] == list("abcd")
    assert [(e.bucket, e.code) for e in events if isinstance(e, Failed)] == [("a", 1), ("b", 3), ("c", 4)]
    assert codes == [1, 3, 4]


class Glacier:
    """A store of which all that is asked is how much is still archived."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def counts(self, bucket: str) -> Any:
        return SimpleNamespace(to_request=0, restoring=self.rounds)

    def tallies(self, bucket: str) -> list[Any]:
        return []


@pytest.mark.parametrize(("wait", "rounds_left", "codes"), [(True, 0, []), (False, 2, [3])])
def test_waiting_goes_on_until_glacier_is_back_and_only_if_asked_to(
    wait: bool, rounds_left: int, codes: list[int]
) -> None:
    glacier = Glacier(3)
    tools: Any = SimpleNamespace(store=glacier, settings=SimpleNamespace(restore_poll_seconds=0.01))

    def work(bucket: str) -> pipeline.Events:
        glacier.rounds -= 1
        yield Noted(bucket, "asked")
        if glacier.rounds:
            raise NotFinished("not back")

    ended: list[int] = []
    events = list(pipeline.until_back(["b"], work, tools, ended, wait=wait, sleep=lambda s: None))
    assert glacier.rounds == rounds_left
    assert ended == codes
    assert any(isinstance(e, Waiting) for e in events) is wait


def test_what_time_does_not_cure_is_not_waited_for() -> None:
    tools: Any = SimpleNamespace(store=Glacier(0), settings=SimpleNamespace(restore_poll_seconds=9999))

    def work(bucket: str) -> pipeline.Events:
        yield Noted(bucket, "asked")
        raise NotFinished("rows left to fetch")

    codes: list[int] = []
    list(pipeline.until_back(["b"], work, tools, codes, wait=True))
    assert codes == [3]


def test_places_of_the_plan_do_not_matter_to_the_token(store: Store) -> None:
    token = pipeline.plan(store, ENABLED).token
    store.give_places([(version("c", "null"), Place.SIDE, "elsewhere", None)])
    assert pipeline.plan(store, ENABLED).token == token


def test_p3_the_markers_that_are_sent_are_those_of_the_plan(store: Store) -> None:
    """Also where others have deleted what lay beneath one."""
    held = store.begin_scan("bucket", account="1", region="", endpoint="", versioning="Enabled", uploads=0)
    listed = [version("a", "v1", False), version("c", "null")]
    markers = [DeleteMarker("bucket", key, "m", True, WHEN) for key in ("a", "b", "d")]
    store.add_listed("bucket", held.scan, listed, markers, None)
    store.end_scan("bucket", held.scan)
    planned = {s.key for s, reason in pipeline.decide(store, ENABLED) if isinstance(s, DeleteMarker) and not reason}
    for row in list(store.verified("bucket")):
        (intent,) = store.ledger.intend("bucket", [Doomed(row.key, row.version.version_id, "version")], "token")
        store.concluded("bucket", [(intent, "deleted", True)])
    assert {marker.key for marker in store.loose_markers("bucket")} == planned


# Resuming, and what a plan tells beside what goes


def gone(store: Store, token: str, *names: tuple[str, str]) -> None:
    for subject, reason in list(pipeline.decide(store, ENABLED)):
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
    token = pipeline.plan(store, ENABLED).token
    gone(store, token, *order)
    left = pipeline.plan(store, ENABLED, resumes=token)
    assert left.token != token and left.resumes == token
    assert left.agrees(token) and left.agrees(left.token)
    assert left.objects + left.markers == len(EVERYTHING) - len(order)
    # Some more under it, and more still.
    rest = [name for name in EVERYTHING if name not in order][:1]
    gone(store, token, *rest)
    assert pipeline.plan(store, ENABLED, resumes=token).agrees(token)


def test_p3_a_token_of_another_plan_is_not_gone_on_with(store: Store) -> None:
    token = pipeline.plan(store, ENABLED).token
    assert not pipeline.plan(store, ENABLED, resumes="0" * 40).agrees("0" * 40)
    assert not pipeline.plan(store, ENABLED).agrees("")
    gone(store, token, ("a", "v1"))
    assert not pipeline.plan(store, ENABLED).agrees(token), "without being asked for"
    gone(store, "another's", ("a", "v2"))
    assert not pipeline.plan(store, ENABLED, resumes=token).agrees(token), "another plan has deleted from it"


@pytest.mark.parametrize("change", ["bytes", "kept", "site"])
def test_p3_a_plan_that_changed_is_not_gone_on_with(store: Store, change: str) -> None:
    token = pipeline.plan(store, ENABLED).token
    gone(store, token, ("a", "v1"))
    site = ENABLED
    if change == "bytes":
        store.record([replace(proved(version("c", "null")), sha256="another")], "run")
    elif change == "kept":
        store.set_holds("bucket", [(version("c", "null"), "a legal hold is on it")])
    else:
        site = replace(ENABLED, endpoint="https://elsewhere")
    assert not pipeline.plan(store, site, resumes=token).agrees(token)


def test_uploads_are_of_the_plan_only_if_that_is_asked_for(store: Store) -> None:
    without = pipeline.plan(store, ENABLED)
    store.list_uploads("bucket", [Upload("k", "id", WHEN), Upload("k", "id2", WHEN)])
    assert pipeline.plan(store, ENABLED) == without
    planned = pipeline.plan(store, ENABLED, uploads=True)
    assert planned.uploads == 2 and planned.token != without.token
    store.list_uploads("bucket", [Upload("k", "id", WHEN)])
    assert pipeline.plan(store, ENABLED, uploads=True).token != planned.token


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
    planned = pipeline.plan(store, ENABLED)
    assert planned.early.keys() == {"DEEP_ARCHIVE"}
    early = planned.early["DEEP_ARCHIVE"]
    assert (early.objects, early.bytes, early.until) == (2, 200, now + timedelta(days=170))
    assert sum(planned.reasons.values()) == planned.kept > 0


def test_reasons_are_counted_apart_up_to_a_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "REASONS", 1)
    for v, why in (
        (version("a", "v1", False), "one"),
        (version("a", "v2", False), "two"),
        (version("b", "v2"), "three"),
    ):
        store.set_holds("bucket", [(v, why)])
    planned = pipeline.plan(store, ENABLED)
    assert planned.reasons[pipeline.OTHER_REASONS] >= 2 and sum(planned.reasons.values()) == planned.kept


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        ("", ("b", "1000", "10"), False),
        ("b 1000 10", ("b", "1500", "510"), False),
        ("b 1000 10", ("b", "1550", "510"), False),
        ("b 1000 10", ("b", "1600", "510"), True),  # set forward
        ("b 1000 10", ("b", "1100", "510"), True),  # set back
        ("b 1000 10", ("b", "999", "10"), True),
        ("b 1000 10", ("c", "9999", "1"), False),  # started anew
        ("b 1000 10", ("c", "999", "1"), True),
    ],
)
def test_p1_nothing_is_recent_by_a_clock_that_was_set(
    store: Store, before: str, now: tuple[str, str, str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.remember("clock bucket", before)
    monkeypatch.setattr(pipeline, "clock_reading", lambda: now)
    tools: Any = SimpleNamespace(store=store)
    with pytest.raises(Refused, match="clock was set") if refused else nullcontext():
        pipeline._same_clock("bucket", tools)


class Look:
    """Glacier, as _beside() looks at it: how often, and what then happens."""

    def __init__(self, *events: Event | Failure) -> None:
        self.events = events
        self.looks = 0

    def __call__(self, bucket: str, tools: Any, **_: object) -> pipeline.Events:
        self.looks += 1
        for event in self.events:
            if isinstance(event, Failure):
                raise event
            yield event


def beside(monkeypatch: pytest.MonkeyPatch, look: Look, seconds: float = 9999.0) -> tuple[list[str], bool]:
    monkeypatch.setattr(pipeline, "_restore", look)
    monkeypatch.setattr(pipeline, "_advance", lambda *_: iter(()))
    monkeypatch.setattr(pipeline, "_next_look", lambda *_: seconds)

    def work() -> Generator[Event, None, int]:
        for n in range(3):
            yield Noted("b", f"work {n}")
        return 7

    told: list[str] = []
    running = pipeline._beside(work(), "b", SimpleNamespace(waits=False), at_once=True)  # type: ignore[arg-type]
    while True:
        try:
            event = next(running)
        except StopIteration as end:
            assert end.value[0] == 7
            return told, end.value[1]
        told.append(event.text if isinstance(event, Noted) else type(event).__name__)


def test_glacier_is_looked_after_between_the_events_of_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Look(*(Noted("b", f"look {n}") for n in range(5)))
    told, came_back = beside(monkeypatch, look)
    assert told == ["work 0", "look 0", "work 1", "look 1", "work 2", "look 2", "look 3", "look 4"]
    assert look.looks == 1 and not came_back


def test_what_comes_back_meanwhile_is_known_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert beside(monkeypatch, Look(Ended("b", "wait", 1, 1, 0.1)))[1]
    look = Look()
    beside(monkeypatch, look, seconds=0.0)
    assert look.looks == 4, "as often as it is due, and once more at the end"


def test_what_goes_wrong_with_glacier_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Look(Noted("b", "look"), Failure("S3 is down"))
    with pytest.raises(Failure, match="S3 is down"):
        beside(monkeypatch, look)
    assert look.looks == 1
