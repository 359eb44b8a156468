"""The order of things: what one bucket's failure does to the others, and how long waiting goes on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from migrate_v2 import pipeline, settings
from migrate_v2.edges.disk import Machine
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.errors import Differs, Failure, NotFinished, Refused
from migrate_v2.events import Ended, Event, Failed, Found, Noted, Waiting
from migrate_v2.model import FileState
from tests.fakes.s3server import S3Server


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


def test_processes_that_share_a_state_file_share_the_cores_and_the_bandwidth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "SHARING", 0.0)
    monkeypatch.setattr(pipeline, "machine", lambda: Machine(8, 64 << 30, 64 << 30))
    variables = {"MIGRATE_V2_STATE_DB_PATH": str(tmp_path / "state.db"), "MIGRATE_V2_MAX_BANDWIDTH": "12MB/s"}
    tools = pipeline.Tools(settings.load({}, None, variables, tmp_path), lambda: S3(), {})
    assert (tools.cores(), tools.bandwidth()) == (8, 12 << 20)
    with ExitStack() as held:
        one, two = (held.enter_context(subprocess.Popen(["sleep", "300"])) for _ in range(2))
        held.callback(one.kill)
        held.callback(two.kill)
        for bucket, pid in {"a": one.pid, "b": two.pid, "c": two.pid, "ours": os.getpid()}.items():
            (tmp_path / "state.db.run" / bucket).mkdir(parents=True)
            started = psutil.Process(pid).create_time()
            (tmp_path / "state.db.run" / bucket / "lock").write_text(f"{pid} {started:.0f}\n")
        assert (tools.cores(), tools.bandwidth()) == (2, 4 << 20)
        assert tools.crew(4096.0).workers == 2
        one.kill()
        one.wait()
        assert (tools.cores(), tools.bandwidth()) == (4, 6 << 20)
        two.kill()
    assert (tools.cores(), tools.bandwidth()) == (8, 12 << 20)


def test_an_aws_that_hangs_at_its_version_ends_with_the_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked for it: there was nothing to fetch."""
    monkeypatch.setitem(pipeline.awscli.find.__kwdefaults__, "patience", 120.0)
    pids = tmp_path / "pids"
    (tmp_path / "aws").write_text(f"#!/bin/sh\nsleep 300 & echo $! > {pids}.new; mv {pids}.new {pids}; wait\n")
    (tmp_path / "aws").chmod(0o755)
    variables = {"MIGRATE_V2_AWS_PATH": str(tmp_path / "aws")}
    began = time.monotonic()
    with pipeline.Tools(settings.load({}, None, variables, tmp_path), lambda: S3(), {}) as tools:
        tools.look_for_aws()
        while not pids.exists():
            time.sleep(0.01)
    assert time.monotonic() - began < 60
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(pids.read_text())).status() == psutil.STATUS_ZOMBIE


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
    assert [e.code for e in events if isinstance(e, Failed)] == codes, "who waits has not failed"


def test_what_time_does_not_cure_is_not_waited_for() -> None:
    tools: Any = SimpleNamespace(store=Glacier(0), settings=SimpleNamespace(restore_poll_seconds=9999))

    def work(bucket: str) -> pipeline.Events:
        yield Noted(bucket, "asked")
        raise NotFinished("rows left to fetch")

    codes: list[int] = []
    list(pipeline.until_back(["b"], work, tools, codes, wait=True))
    assert codes == [3]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s.db") as opened:
        yield opened


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        ("", ("b", "1000", "10"), False),
        ("b 1000 10", ("b", "1500", "510"), False),
        ("b 1000 10", ("b", "1550", "510"), False),
        ("b 1000 10", ("b", "1600", "510"), True),  # set forward
        ("b 1000 10", ("b", "1100", "510"), True),  # set back
        ("b 1000 10", ("b", "999", "10"), True),
        ("b 1000 10", ("c", "9999", "1"), True),  # started anew, after nobody knows how long
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


def test_copies_that_s3_says_nothing_of_are_asked_for_again_once_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Glacier is waited for a bucket is migrated again and again, and each time they would all be read."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "fake")
    server = S3Server()
    server.start()
    try:
        server.bucket("bucket")
        server.put("bucket", "k", b"hello", etag="kms")
        server.fault({"op": "HeadObject"}, "access-denied")
        flags = {
            "engine": "native",
            "local_base_path": str(tmp_path / "home"),
            "state_db_path": str(tmp_path / "state.db"),
        }
        chosen = settings.load(flags, None, {}, tmp_path)

        def read() -> list[int]:
            with pipeline.Tools(chosen, lambda: S3(endpoint_url=server.url, region="us-east-1"), {}) as tools:
                rounds = [list(pipeline.migrate_bucket("bucket", tools)) for _ in range(2)]
            return [sum(isinstance(e, Found) for e in events) for events in rounds]

        assert (read(), read()) == ([1, 0], [1, 0])
        server.calm()
        read()
        with Store.open(tmp_path / "state.db") as store:
            assert [r.state for r in store.rows("bucket", "1")] == [FileState.VERIFIED]
    finally:
        server.stop()
