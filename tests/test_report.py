"""The report says it to the right stream, escaped and without secrets, and goes on when nobody listens."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import re
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from migrate_v2 import report as module
from migrate_v2.errors import Refused
from migrate_v2.events import (
    Ended,
    Event,
    Failed,
    Found,
    Noted,
    PhaseEarned,
    Progress,
    Stands,
    Started,
    Waiting,
    Warned,
)
from migrate_v2.keys import show
from migrate_v2.model import Phase, Verdict
from migrate_v2.report import Bytes, Report, event_json, human, redact, sentence, span

ROOT = Path(__file__).parents[1]

STANDS = Stands(
    "logs-2019",
    Phase.VERIFYING,
    listed=(1204, 4_000_000_000),
    verified=(1200, 3_900_000_000),
    unprovable=(1, 100_000_000),
    kept=(0, 0),
    failed=(3, 0),
    deleted=(0, 0),
    pending=(0, 0),
)

EVENTS: list[Event] = [
    Noted("", "aws 1.46.3 does the transfer"),
    Warned("logs-2019", "versioning is suspended"),
    Started("logs-2019", "sync", 9000, 4_000_000_000),
    Progress("logs-2019", "sync", 1204, 1_200_000_000),
    Ended("logs-2019", "sync", 9000, 4_000_000_000, 114.0),
    Found("logs-2019", "a/b.txt", "v1", Verdict.DIFFERS, "3 bytes short"),
    Found("logs-2019", "c", "null", None, "vanished from S3"),
    PhaseEarned("logs-2019", Phase.SYNCING, Phase.VERIFYING),
    Waiting("logs-2019", 12, 4_000_000_000, 300.0),
    Failed("logs-2019", 1, "Access Denied"),
    STANDS,
]

# What must never reach a stream as it is: ESC, line breaks of every kind, bidi and zero-width controls, a lone surrogate.
HOSTILE = "a\x1b]0;pwned\x07\x1b[2J\r\nmigrate-v2: all is well\t\x9b31m\u202egpj\u2066\u200b\u2028\x85\x7f\udc80 "


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Heard:
    """A report on two streams that are not terminals, and what they got."""

    def __init__(self, **wanted: Any) -> None:
        self.out, self.err, self.clock = io.StringIO(), io.StringIO(), Clock()
        settings: dict[str, Any] = {"json": False, "quiet": False, "verbose": False, "log_path": None} | wanted
        self.report = Report(stdout=self.out, stderr=self.err, clock=self.clock, **settings)

    def tell(self, *events: Event) -> Heard:
        with self.report:
            for event in events:
                self.report.tell(event)
        return self

    @property
    def lines(self) -> list[str]:
        return self.err.getvalue().splitlines()

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().split("\n")[:-1]]


class Terminal:
    """A real pseudo-terminal: a stream for the program, and all that it drew."""

    def __init__(self) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self._drawn = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # EIO: the other side is closed
                return
            if not chunk:
                return
            self._drawn += chunk

    def close(self) -> str:
        """All that was drawn."""
        if not self.stream.closed:
            self.stream.close()
            self._reader.join(10)
            os.close(self._ours)
        return self._drawn.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "25")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    drawn = Terminal()
    yield drawn
    drawn.close()


@contextmanager
def on_terminal(terminal: Terminal, **wanted: Any) -> Iterator[tuple[Report, Clock]]:
    clock = Clock()
    settings: dict[str, Any] = {
        "json": False,
        "quiet": False,
        "verbose": False,
        "log_path": None,
        "stdout": io.StringIO(),
        "stderr": terminal.stream,
    }
    with Report(clock=clock, **(settings | wanted)) as report:
        yield report, clock


def without_codes(drawn: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)


def steering(text: str) -> set[str]:
    """The characters of a plain stream that could steer or hide."""
    return {sign for sign in text if sign != "\n" and unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


# Words


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1204, "1.2 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (35_000_000, "35 MB"),
        (4_000_000_000, "4.0 GB"),
        (5 * 10**15, "5.0 PB"),
        (10**22, "10,000 EB"),
        (-1500, "-1.5 kB"),
    ],
)
def test_sizes_are_decimal_as_on_the_bill(count: int, text: str) -> None:
    assert human(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.44, "0.4 s"),
        (9.0, "9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (80, "1 min 20 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (86_399, "1 d"),
        (3 * 86_400 + 4 * 3600, "3 d 4 h"),
        (float("inf"), "an unknown time"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_every_event_has_its_sentence() -> None:
    assert [sentence(event) for event in EVENTS] == [
        "aws 1.46.3 does the transfer",
        "logs-2019: versioning is suspended",
        "sync logs-2019: starts, 9,000 objects, 4.0 GB",
        "sync logs-2019: 1,204 objects, 1.2 GB",
        "sync logs-2019: 9,000 objects, 4.0 GB in 1 min 54 s, 35 MB/s",
        "logs-2019: a/b.txt (version v1): differs, 3 bytes short",
        "logs-2019: c: vanished from S3",
        "logs-2019: syncing done, next is verifying",
        "logs-2019: 12 objects (4.0 GB) are not back from Glacier yet; next look in 5 min",
        "logs-2019: failed, exit status 1: Access Denied",
        "logs-2019: verifying ... listed 1,204 (4.0 GB) = verified 1,200 (3.9 GB) + unprovable 1 (100 MB)"
        " + kept 0 + failed 3 + deleted 0 + pending 0 + gone 0",
    ]
    assert {type(event) for event in EVENTS} == set(Event.__args__)  # a new event needs its line above


def test_waiting_is_no_failure() -> None:
    assert sentence(Failed("logs", 3, "2 objects are not back")) == "logs: not finished: 2 objects are not back"


def test_a_sum_that_is_not_one_is_not_written_with_an_equals_sign() -> None:
    text = sentence(replace(STANDS, failed=(2, 0)))
    assert "=" not in text
    assert "is not" in text
    assert "contradicts itself" in text


def test_what_comes_after_verifying_is_named_as_a_command() -> None:
    text = sentence(PhaseEarned("b;rm x", Phase.VERIFYING, Phase.DELETING))
    assert text.endswith("next is deleting, by `migrate-v2 confirm-delete 'b;rm x'`")
    assert sentence(PhaseEarned("b", Phase.DELETING, Phase.COMPLETE)) == "b: deleting done, the bucket is complete"


def test_a_message_may_hold_names_that_are_escaped_already(tmp_path: Path) -> None:
    heard = Heard()
    with heard.report as report:
        report.error(f"{show(HOSTILE)} is not in the state file")
        report.error(f"{HOSTILE} is not in the state file")
        report.say("a\\\n\\b")
        report.tell(Found("b", "a\\b", "", None, ""))
    first, second, third, fourth = heard.lines
    assert first.startswith("migrate-v2: a\\x1b]0;pwned\\x07")
    assert second.startswith("migrate-v2: a\\x1b]0;pwned\\x07")
    assert third == "a\\\\n\\b"
    assert fourth == "b: a\\\\b: not in order"  # a key by itself is exact
    assert not steering(heard.err.getvalue())


# Secrets

KEY_ID, SESSION_ID = "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"
SECRET, TOKEN, SIGNATURE = (
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "FwoGZXIvYXdzEBYaD+tok/en==",
    "fe5f80f77d5fa3beca03",
)
CANARIES = (KEY_ID, SESSION_ID, SECRET, TOKEN, SIGNATURE, KEY_ID[4:])
LEAKS = [
    f"the key {KEY_ID} is not known",
    f"https://h/b?X-Amz-Credential%3D{KEY_ID}%2F2026&X-Amz-Security-Token={TOKEN}&X-Amz-Signature={SIGNATURE}&x=1",
    f"https://h/b?AWSAccessKeyId={SESSION_ID}&Signature={SIGNATURE}&Expires=1",
    f"Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/20261122, SignedHeaders=host, Signature={SIGNATURE}",
    f"{{'Authorization': b'AWS {KEY_ID}:{SIGNATURE}', 'X-Amz-Security-Token': '{TOKEN}', 'Host': 'h'}}",
    f"aws_secret_access_key = {SECRET}",
    f"AWS_SECRET_ACCESS_KEY='{SECRET}' AWS_SESSION_TOKEN={TOKEN}",
    f'{{"SecretAccessKey": "{SECRET}", "SessionToken":"{TOKEN}"}}',
    json.dumps(json.dumps({"SecretAccessKey": SECRET, "SessionToken": TOKEN})),
    f"AWS Secret Access Key: {SECRET}",
    f"<SecretAccessKey>{SECRET}</SecretAccessKey><SignatureProvided>{SIGNATURE}</SignatureProvided>",
    f"Bearer {TOKEN}",
    f"the session of {SESSION_ID} is over",
    f"Authorization: {SIGNATURE}",
    f"Signature={SIGNATURE}",
    f"session_token={TOKEN}",
    f"https://me:{SECRET.replace('/', '')}@proxy.example:3128/",
    f"x-amz-server-side-encryption-customer-key: {SECRET}",
]


@pytest.mark.parametrize("text", LEAKS)
def test_secrets_are_masked_and_the_rest_stays(text: str) -> None:
    masked = redact(text)
    assert not [canary for canary in (*CANARIES, SECRET.replace("/", "")) if canary in masked]
    assert "****" in masked
    assert redact(masked) == masked
    assert masked.split("****")[0] in text


@pytest.mark.parametrize(
    "text",
    [
        "The request signature we calculated does not match the signature you provided.",
        "The security token included in the request is invalid",
        "An error occurred (AuthorizationHeaderMalformed) when calling ListBuckets",
        "logs/2019/authorization.log: differs",
        "https://h:9000/b/k@2x.png",
        "AKIA is where it begins",
        "d41d8cd98f00b204e9800998ecf8427e-17",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_no_secret_reaches_any_stream(tmp_path: Path, terminal: Terminal) -> None:
    heard = [Heard(json=flag, verbose=True, log_path=tmp_path / f"{flag}.log") for flag in (True, False)]
    with on_terminal(terminal) as (drawing, _):
        for report in (*(each.report for each in heard), drawing):
            with report:
                for leak in LEAKS:
                    report.tell(Noted("b", leak))
                    report.tell(Warned("b", leak))
                    report.tell(Failed("b", 1, leak))
                    report.tell(Found("b", "k", "", None, leak))
                    report.say(leak)
                    report.error(leak)
                    report.exception(ValueError(leak))
                    logging.getLogger("botocore").warning("%s", leak)
                    report.table(["name", "reason"], [["b", leak]])
                    report.document({"reason": leak, "aws_secret_access_key": SECRET, "list": [leak]})
    everything = [stream.getvalue() for each in heard for stream in (each.out, each.err)]
    everything += [(tmp_path / f"{flag}.log").read_text() for flag in (True, False)] + [terminal.close()]
    for text in everything:
        assert "****" in text  # the leaks did come by here
        assert not [canary for canary in CANARIES if canary in text]


# JSON


def test_json_is_one_exact_line_an_event() -> None:
    heard = Heard(json=True).tell(*EVENTS)
    assert [each["event"] for each in heard.told] == [
        "noted",
        "warned",
        "started",
        "progress",
        "ended",
        "found",
        "found",
        "phase_earned",
        "waiting",
        "failed",
        "stands",
    ]
    for each in heard.told:
        when = datetime.fromisoformat(each["time"])
        assert when.utcoffset() == UTC.utcoffset(None)
        assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    found, earned, stands = heard.told[5], heard.told[7], heard.told[10]
    assert (found["verdict"], heard.told[6]["verdict"]) == ("differs", None)
    assert (earned["earned"], earned["phase"]) == ("syncing", "verifying")
    assert stands["listed"] == {"objects": 1204, "bytes": 4_000_000_000}
    assert set(stands) == {"event", "time"} | set(Stands.__slots__)


def test_json_carries_hostile_keys_exactly_and_safely() -> None:
    heard = Heard(json=True).tell(Found(HOSTILE, HOSTILE, HOSTILE, None, HOSTILE), Found("b", KEY_ID, "", None, ""))
    assert heard.out.getvalue().isascii()
    assert not steering(heard.out.getvalue())
    first, second = heard.told
    assert [first[name] for name in ("bucket", "key", "version_id", "reason")] == [HOSTILE] * 4
    assert second["key"] == KEY_ID  # a name, or the object could not be found again


def test_a_number_that_json_lacks_is_null() -> None:
    assert json.loads(event_json(Waiting("b", 1, 1, float("inf")), datetime.now(UTC)))["seconds"] is None


def test_a_document_is_the_only_thing_on_stdout() -> None:
    heard = Heard(json=True, lines=False)
    told = {"phase": Phase.SYNCING, "path": Path("/x"), "when": datetime(2026, 1, 2, tzinfo=UTC), "bytes": Bytes(7)}
    with heard.report as report:
        report.tell(Warned("b", "careful"))
        report.document([told, {Phase.SYNCING: (1, 2.5, None, True)}, {"key": HOSTILE}])
    assert json.loads(heard.out.getvalue()) == [
        {"phase": "syncing", "path": "/x", "when": "2026-01-02T00:00:00+00:00", "bytes": 7},
        {"syncing": [1, 2.5, None, True]},
        {"key": HOSTILE},
    ]
    assert heard.lines == ["warning: b: careful"]


# Lines


def test_text_goes_to_stderr_and_nothing_to_stdout() -> None:
    heard = Heard().tell(*EVENTS)
    assert heard.out.getvalue() == ""
    assert heard.lines == [
        f"warning: {sentence(event)}" if isinstance(event, Warned) else sentence(event)
        for event in EVENTS
        if not isinstance(event, Progress)  # too soon after Started
    ]


def test_quiet_leaves_errors_and_warnings() -> None:
    heard = Heard(quiet=True)
    with heard.report as report:
        for event in EVENTS:
            report.tell(event)
        report.say("talk")
        report.error("it broke")
    assert heard.lines == [
        "warning: logs-2019: versioning is suspended",
        "logs-2019: failed, exit status 1: Access Denied",
        "migrate-v2: it broke",
    ]


@pytest.mark.parametrize("quiet", [False, True])
def test_ask_where_nothing_can_be_shown_is_refused(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    shown: list[str] = []
    out, err = io.StringIO(), io.StringIO()
    with Report(json=False, quiet=quiet, verbose=False, log_path=None, stdout=out, stderr=err) as report:
        monkeypatch.setattr("migrate_v2.report._write_to_terminal", lambda text: bool(shown.append(text)))
        with pytest.raises(Refused):
            report.ask(["the plan", "the question"])
        monkeypatch.setattr("migrate_v2.report._write_to_terminal", lambda text: True)
        report.ask(["the plan", "the question"])
    assert shown == ["the plan\nthe question\n"]
    assert err.getvalue().count("the question") == 2, "it is in the file of standard error as well"


def test_ask_on_a_terminal_shows_it_to_a_quiet_run(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate_v2.report._same_terminal", lambda outlet: True)
    with on_terminal(terminal, quiet=True) as (report, _):
        report.say("nobody sees this")
        report.ask(["the plan", "the question"])
    text = terminal.close()
    assert "the plan" in text and "the question" in text and "nobody sees this" not in text


def test_hostile_names_reach_no_stream_as_they_are(tmp_path: Path) -> None:
    heard = Heard(verbose=True, log_path=tmp_path / "log")
    hostile: list[Event] = [replace(event, bucket=HOSTILE) for event in EVENTS]
    hostile += [Found("b", HOSTILE, HOSTILE, Verdict.DIFFERS, HOSTILE), Failed("b", 1, HOSTILE), Noted("b", HOSTILE)]
    with heard.report as report:
        for event in hostile:
            heard.clock.now += 100
            report.tell(event)
        report.say(HOSTILE)
        report.error(HOSTILE)
        report.exception(ValueError(HOSTILE))
        logging.getLogger(HOSTILE).warning(HOSTILE)
        report.table([HOSTILE, "n"], [[HOSTILE, 1], [HOSTILE, Bytes(2)]])
    for text in (heard.err.getvalue(), heard.out.getvalue(), (tmp_path / "log").read_text()):
        assert "migrate-v2: all is well" in text  # it came by here
        assert not steering(text.replace("\t", "") if text is heard.out.getvalue() else text)
        assert not [line for line in text.splitlines() if line.startswith("migrate-v2: all")]
    assert len(heard.lines) == len(hostile) + 2
    # A record begins with its time, and nothing else in the log does.
    assert all(re.match(r"\d{4}-\d\d-\d\dT|  \| ", line) for line in (tmp_path / "log").read_text().splitlines())


def test_hostile_names_do_not_steer_a_terminal(terminal: Terminal) -> None:
    with on_terminal(terminal, stdout=terminal.stream) as (report, clock):
        for event in [replace(event, bucket=HOSTILE) for event in EVENTS]:
            clock.now += 1
            report.tell(event)
        report.tell(Found("b", HOSTILE, HOSTILE, Verdict.DIFFERS, HOSTILE))
        report.tell(Noted("b", "[bold]x[/bold] :smile:"))
        report.table([HOSTILE, "n"], [[HOSTILE, 1]])
    drawn = terminal.close()
    assert "[bold]x[/bold] :smile:" in drawn  # no markup
    assert "]0;pwned" in drawn
    for steers in ("\x1b]0;", "\x1b[2J", "\x07", "\x9b", "\u202e", "\u200b"):
        assert steers not in drawn
    assert not steering(without_codes(drawn).replace("\r", ""))


def test_found_is_capped_on_the_screen_only(tmp_path: Path) -> None:
    found: list[Event] = [Found("b", f"k{n}", "", Verdict.DIFFERS, "r") for n in range(25)]
    found += [Found("b", f"m{n}", "", Verdict.MISSING, "r") for n in range(20)]
    heard = Heard(log_path=tmp_path / "log").tell(*found, Ended("b", "verify", 45, 0, 1.0), found[0])
    assert len([line for line in heard.lines if line.startswith("b: k")]) == 21
    assert len([line for line in heard.lines if line.startswith("b: m")]) == 20
    assert heard.lines[40:42] == [
        "b: ... and 5 more (differs); see `migrate-v2 status` or the log",
        "verify b: 45 objects in 1 s, 45 objects/s",
    ]
    assert len(re.findall("b: [km]", (tmp_path / "log").read_text())) == 46
    assert len(Heard(verbose=True).tell(*found).lines) == 45
    as_json = Heard(json=True).tell(*found)
    assert len(as_json.told) == 45
    # A run that ends in the middle still says how many there are.
    assert Heard().tell(*found).lines[-1] == "b: ... and 5 more (differs); see `migrate-v2 status`"


def test_progress_is_a_line_every_ten_seconds_with_rate_and_time_left(tmp_path: Path) -> None:
    heard = Heard(log_path=tmp_path / "log")
    with heard.report as report:
        report.tell(Started("logs-2019", "sync", 9000, 4_000_000_000))
        for tenth in range(1, 251):
            heard.clock.now = 1000 + tenth / 10
            report.tell(Progress("logs-2019", "sync", tenth * 10, tenth * 4_000_000))
            report.tell(Progress("other", "scan", tenth, tenth))
        report.tell(Ended("logs-2019", "sync", 9000, 4_000_000_000, 100.0))
    lines = [line for line in heard.lines if "logs-2019" in line]
    assert lines == [
        "sync logs-2019: starts, 9,000 objects, 4.0 GB",
        "sync logs-2019: 1,000 of 9,000 objects, 400 MB of 4.0 GB, 40 MB/s, 1 min 30 s left",
        "sync logs-2019: 2,000 of 9,000 objects, 800 MB of 4.0 GB, 40 MB/s, 1 min 20 s left",
        "sync logs-2019: 9,000 objects, 4.0 GB in 1 min 40 s, 40 MB/s",
    ]
    # Without a Started it says where it is at once, and without totals it only counts up.
    assert [line for line in heard.lines if "other" in line] == [
        "scan other: 1 object, 1 B",
        "scan other: 101 objects, 101 B, 10 objects/s",
        "scan other: 201 objects, 201 B, 10 objects/s",
    ]
    assert (tmp_path / "log").read_text().count("scan other") == 3


def test_the_rate_is_that_of_the_last_half_minute_and_never_below_nothing() -> None:
    heard = Heard()
    with heard.report as report:
        report.tell(Started("b", "sync", 100, 100_000_000))
        for second in range(1, 101):
            heard.clock.now += 1
            moved = second * 1_000_000 if second <= 50 else 50_000_000
            report.tell(Progress("b", "sync", 50, moved))
        heard.clock.now += 10
        report.tell(Progress("b", "sync", 40, 10_000_000))  # the CLI began a file anew
    assert "1.0 MB/s, 50 s left" in heard.lines[5]
    assert heard.lines[10].endswith("50 of 100 objects, 50 MB of 100 MB")  # it stands: no rate, no promise
    assert heard.lines[11].endswith("40 of 100 objects, 10 MB of 100 MB")


def test_a_wait_is_announced_once_and_then_counted_down(tmp_path: Path) -> None:
    heard = Heard(log_path=tmp_path / "log", json=True)
    for seconds in (5, 4, 3, 2, 1, 0, 5, 4):
        heard.report.tell(Waiting("b", 12, 100, seconds))
    heard.report.tell(Noted("b", "x"))
    heard.report.tell(Waiting("b", 12, 100, 3))
    waits = [line for line in heard.lines if "Glacier" in line]
    assert waits == [f"b: 12 objects (100 B) are not back from Glacier yet; next look in {n} s" for n in (5, 5, 3)]
    assert [each["seconds"] for each in heard.told if each["event"] == "waiting"] == [5, 5, 3]
    assert sentence(Waiting("b", 1, 0, 0)) == "b: 1 object is not back from Glacier yet"


# Tables


def test_a_table_in_a_pipe_is_tabs_without_a_header() -> None:
    heard = Heard(quiet=True)
    rows = [["logs-2019", 9000, Bytes(4_000_000_000), None, True], ["a\tb\nc", -1, Bytes(0), Phase.SYNCING, 2.5]]
    with heard.report as report:
        report.table(["bucket", "objects", "bytes", "x", "y"], rows, right=(1, 2))
    assert heard.out.getvalue() == ("logs-2019\t9000\t4000000000\t\tTrue\na\\tb\\nc\t-1\t0\tsyncing\t2.5\n")


def test_a_table_in_a_pipe_goes_out_row_by_row() -> None:
    with (
        open(os.devnull, "w") as nowhere,
        Report(json=False, quiet=True, verbose=False, log_path=None, stdout=nowhere, stderr=None) as report,
    ):
        alive = 0

        class Row(list[object]):
            def __init__(self) -> None:
                nonlocal alive
                alive += 1
                assert alive < 10

            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        report.table([], (Row() for _ in range(1000)))


def test_a_table_with_json_is_a_document() -> None:
    heard = Heard(json=True)
    with heard.report as report:
        report.table(["bucket", "bytes"], [["b", Bytes(5)]])
    assert json.loads(heard.out.getvalue()) == [{"bucket": "b", "bytes": 5}]


def test_a_table_on_a_terminal_is_for_people(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    rows = [["logs-2019", 9000, Bytes(4_000_000_000)], ["short", 1, Bytes(2)], ["last", 1, Bytes(2)]]
    with on_terminal(terminal, stdout=terminal.stream) as (report, _):
        report.table(["bucket", "objects", "bytes"], rows, right=(1, 2))
    drawn = terminal.close()
    lines = [line.rstrip() for line in without_codes(drawn).split("\r\n")]
    assert lines[0].split() == ["bucket", "objects", "bytes"]
    assert re.fullmatch(r"logs-2019 +9,000 +4\.0 GB", lines[2])
    assert re.fullmatch(r"short +1 +2 B", lines[3])
    assert len(lines[2]) == len(lines[3])  # set to the right
    assert [line.split()[0] for line in lines if line and line[0].isalpha()].count("bucket") == 2  # two blocks
    assert "\x1b[1m" in drawn


def test_lines_are_drawn_with_their_styles_where_there_are_any(terminal: Terminal) -> None:
    with on_terminal(terminal, stdout=terminal.stream) as (report, _):
        canvas = report.canvas()
        report.draw([("bad news", "red"), ("b\x1b[2J", "")])
    drawn = terminal.close()
    assert canvas and canvas[0] >= 20
    assert "\x1b[31mbad news" in drawn and "\x1b[2J" not in drawn
    for settings in ({}, {"json": True}):
        heard = Heard(**settings)
        assert heard.report.canvas() is None


def test_a_frame_takes_the_place_of_the_one_before(terminal: Terminal) -> None:
    with on_terminal(terminal, stdout=terminal.stream) as (report, _):
        report.watch([("first", ""), ("\x1b[2Jfirst", "")] for _ in range(3))
    drawn = terminal.close()
    assert drawn.count("\x1b[1A") >= 2 and "\x1b[?25h" in drawn and "\x1b[2J" not in drawn
    heard = Heard()
    with heard.report as report:
        report.watch([[("one", "red")], [("two", "")]])
    assert heard.out.getvalue() == "one\ntwo\n"


# Terminals


def test_a_terminal_gets_a_bar_for_each_step_and_lines_above(terminal: Terminal) -> None:
    with on_terminal(terminal) as (report, clock):
        report.tell(Started("logs-2019", "sync", 9000, 4_000_000_000))
        report.tell(Started("logs-2020", "scan"))
        for second in range(1, 4):
            clock.now += 1
            report.tell(Progress("logs-2019", "sync", second * 100, second * 40_000_000))
            report.tell(Progress("logs-2020", "scan", second * 1000, 0))
        report.tell(Warned("logs-2019", "look here"))
        clock.now += 1
        report.tell(Progress("logs-2019", "sync", 400, 160_000_000))
        report.tell(Ended("logs-2019", "sync", 9000, 4_000_000_000, 100.0))
        report.tell(Ended("logs-2020", "scan", 3000, 0, 4.0))
        report.say("done")
    drawn = terminal.close()
    plain = without_codes(drawn)
    assert re.search(r"sync logs-2019 [━╸╺ ]+ 300/9,000  120 MB/4\.0 GB  40 MB/s  1 min 37 s", plain)
    assert re.search(r"scan logs-2020 [━╸╺ ]+ 2,000  1,000 objects/s", plain)
    assert "warning: logs-2019: look here\r\n" in plain
    assert "\x1b[33mwarning" in drawn
    # The bars are drawn again below the warning, and are gone before the last line.
    assert "400/9,000" in plain.split("look here")[1]
    assert plain.rstrip().endswith("done")
    assert "starts" not in plain
    assert "sync logs-2019: 9,000 objects, 4.0 GB in 1 min 40 s, 40 MB/s\r\n" in plain
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h")  # the cursor is given back
    last_bar = max(drawn.rfind("━"), drawn.rfind("╸"))
    assert "\x1b[2K" in drawn[last_bar:]


def test_bars_of_a_bucket_that_failed_and_of_a_run_that_broke_off_are_taken_away(terminal: Terminal) -> None:
    with pytest.raises(KeyboardInterrupt), on_terminal(terminal) as (report, clock):
        report.tell(Started("one", "sync", 10, 10))
        report.tell(Started("two", "sync", 10, 10))
        report.tell(Failed("one", 1, "no"))
        clock.now += 1
        report.tell(Progress("two", "sync", 1, 1))
        raise KeyboardInterrupt
    drawn = terminal.close()
    assert "sync one" not in drawn.split("exit status 1")[1].split("\n", 1)[1]
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1
    assert "\x1b[2K" in drawn[drawn.rfind("sync two") :]


def test_data_on_the_same_terminal_has_the_bars_out_of_its_way(terminal: Terminal) -> None:
    with on_terminal(terminal, stdout=terminal.stream) as (report, clock):
        report.tell(Started("b", "sync", 10, 10))
        report.document({"x": 1})
        clock.now += 1
        report.tell(Progress("b", "sync", 5, 5))
        report.say("y" * 300)
    before, after = terminal.close().split('{\r\n  "x": 1\r\n}')
    assert "\x1b[2K" in before[before.rfind("sync b") :]
    assert before.count("\x1b[?25h") == 1
    assert "sync b" in after
    assert "y" * 300 + "\r\n" in after  # a line is the terminal's to wrap, or copies of it would be broken


def test_many_events_are_few_drawings(terminal: Terminal) -> None:
    with on_terminal(terminal) as (report, clock):
        report.tell(Started("b", "sync", 10_000, 0))
        for number in range(1, 10_001):
            clock.now += 0.001
            report.tell(Progress("b", "sync", number, 0))
    assert 50 <= terminal.close().count("sync b") <= 150


def test_a_wait_counts_down_on_a_terminal_and_goes_when_it_is_over(terminal: Terminal) -> None:
    with on_terminal(terminal) as (report, clock):
        for seconds in (80.0, 79.0, 78.0):
            clock.now += 1
            report.tell(Waiting("logs-2019", 12, 4_000_000_000, seconds))
        report.tell(PhaseEarned("logs-2019", Phase.GLACIER_WAIT, Phase.SYNCING))
    plain = without_codes(terminal.close())
    for text in ("1 min 20 s", "1 min 19 s", "1 min 18 s"):
        assert f"12 objects  4.0 GB  look in {text}" in plain
    assert "look in" not in plain.split("glacier wait done")[1]
    assert "not back" not in plain


def test_a_long_name_leaves_room_for_the_figures(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with on_terminal(terminal) as (report, clock):
        report.tell(Started("n" * 63, "sync", 9000, 4_000_000_000))
        clock.now += 1
        report.tell(Progress("n" * 63, "sync", 100, 40_000_000))
    drawn = without_codes(terminal.close())
    assert re.search(r"sync n+… .*100/9,000  40 MB/4\.0 GB  40 MB/s  1 min 39 s", drawn)
    assert max(len(line) for line in re.split(r"[\r\n]+", drawn)) <= 80


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_and_movement_can_be_declined(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with on_terminal(terminal, stdout=terminal.stream) as (report, clock):
        report.tell(Started("b", "sync", 10, 10))
        clock.now += 1
        report.tell(Progress("b", "sync", 1, 1))
        report.tell(Warned("b", "careful"))
        report.table(["bucket", "bytes"], [["b", Bytes(5000)]])
    drawn = terminal.close()
    assert not re.search(r"\x1b\[[0-9;]*m", drawn)
    assert "warning: b: careful" in drawn
    assert "5.0 kB" in drawn
    if name == "TERM":
        assert "\x1b" not in drawn
        assert "sync b: starts" in drawn


def test_quiet_draws_no_bars(terminal: Terminal) -> None:
    with on_terminal(terminal, quiet=True) as (report, _):
        report.tell(Started("b", "sync", 10, 10))
        report.tell(Waiting("b", 1, 1, 60.0))
        report.tell(Warned("b", "careful"))
    assert without_codes(terminal.close()) == "warning: b: careful\r\n"


def test_json_lines_do_not_run_into_bars(terminal: Terminal) -> None:
    with on_terminal(terminal, json=True, stdout=terminal.stream) as (report, _):
        report.tell(Started("b", "sync", 10, 10))
        report.tell(Ended("b", "sync", 10, 10, 1.0))
    lines = terminal.close().split("\r\n")
    assert [json.loads(line)["event"] for line in lines if line.startswith("{")] == ["started", "ended"]
    assert not [line for line in lines if "\x1b" in line]


# The log


def test_the_log_is_private_and_has_every_event_but_no_screen_escapes(tmp_path: Path) -> None:
    path = tmp_path / "{odd}" / "migrate.log"
    old_mask = os.umask(0)
    try:
        heard = Heard(quiet=True, log_path=path)
        with heard.report as report:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for event in EVENTS:
                report.tell(event)
            report.say("talk")
    finally:
        os.umask(old_mask)
    lines = path.read_text().splitlines()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(lines) == len(EVENTS) - 1 + 1  # one Progress came too soon, one line of talk
    assert all(re.match(rf"\d{{4}}-\d\d-\d\dT[\d:.]+Z {os.getpid()} (INFO|WARNING|ERROR) ", line) for line in lines)
    assert lines[5].endswith(sentence(EVENTS[6]))


def test_a_log_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    path.chmod(0o644)
    Heard(log_path=path).tell(Noted("", "new"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("old\n")
    assert path.read_text().endswith("new\n")


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "device"])
def test_a_log_that_cannot_be_opened_is_a_warning(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / "log", tmp_path / "victim"
    match kind:
        case "link":
            victim.write_text("mine")
            path.symlink_to(victim)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/null")
    heard = Heard(log_path=path, json=True).tell(Noted("b", "the work goes on"))
    assert heard.lines[0].startswith(f"warning: this run keeps no log: {path}: ")
    assert heard.lines[1:] == ["b: the work goes on"]
    assert [each["event"] for each in heard.told] == ["warned", "noted"]
    if kind == "link":
        assert victim.read_text() == "mine"


def test_a_log_that_fails_on_the_way_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    heard = Heard(log_path=path)
    with heard.report as report:
        report.tell(Noted("b", "one"))
        path.unlink()
        path.mkdir()
        report.tell(Noted("b", "two"))
        report.tell(Noted("b", "three"))
    assert [line for line in heard.lines if not line.startswith("warning: the log ends here: ")] == [
        "b: one",
        "b: two",
        "b: three",
    ]
    assert len(heard.lines) == 4


def test_the_log_is_rotated_and_its_neighbours_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 2000)
    path = tmp_path / "migrate.log"
    neighbours = [tmp_path / name for name in ("migrate.log.bak", "migrate.2019.log", "migrate.log.1")]
    for neighbour in neighbours:
        neighbour.write_text("mine")
    Heard(quiet=True, log_path=path).tell(*(Noted("b", f"number {number} {'x' * 60}") for number in range(150)))
    assert all(neighbour.read_text() == "mine" for neighbour in neighbours)
    ours = [each for each in tmp_path.iterdir() if each not in neighbours]
    assert len(ours) == 1 + module.LOGS_KEPT
    assert {stat.S_IMODE(each.stat().st_mode) for each in ours} == {0o600}
    assert "number 149 " in path.read_text()
    assert "number 0 " not in "".join(each.read_text() for each in ours)


def test_what_libraries_warn_of_goes_to_the_log_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    heard = Heard(log_path=path)
    before = list(logging.getLogger().handlers)
    logging.getLogger("botocore").setLevel(logging.DEBUG)
    try:
        with heard.report:
            logging.getLogger("botocore.auth").debug("StringToSign: %s", SECRET)
            logging.getLogger("botocore").info("info")
            logging.getLogger("urllib3.connectionpool").warning("Connection pool is full: %s", "h\x1b[2J")
            # Not through the logger: pytest's own handler gives up on it.
            misfit = logging.LogRecord("sh", logging.ERROR, "", 0, "%d", ("not a number",), None)
            logging.getLogger().handlers[-1].handle(misfit)
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("Python 3.11 is old", DeprecationWarning, stacklevel=1)
    finally:
        logging.getLogger("botocore").setLevel(logging.NOTSET)
    text = path.read_text()
    assert "WARNING urllib3.connectionpool: Connection pool is full: h\\x1b[2J" in text
    assert "ERROR sh: %d" in text
    assert "py.warnings" in text
    assert SECRET not in text
    assert "INFO botocore" not in text
    assert heard.err.getvalue() == ""
    assert capfd.readouterr().err == ""
    assert logging.getLogger().handlers == before


def test_a_traceback_goes_to_the_log_without_values(tmp_path: Path) -> None:
    path = tmp_path / "log"
    heard = Heard(log_path=path)
    password = "hunter2hunter2"
    with heard.report as report:
        try:
            len(password, password)  # type: ignore[call-arg]
        except TypeError as error:
            report.exception(error)
    assert heard.err.getvalue() == heard.out.getvalue() == ""
    text = path.read_text()
    assert "  | Traceback (most recent call last):\n" in text
    assert "  | TypeError: " in text
    assert password not in text


def test_two_runs_after_one_another_do_not_mix(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Heard(log_path=tmp_path / "one").tell(Noted("", "first"))
    Heard(log_path=tmp_path / "two").tell(Noted("", "second"))
    logger.info("nobody listens")
    for name, text in (("one", "first"), ("two", "second")):
        assert [line.split(" INFO ")[1] for line in (tmp_path / name).read_text().splitlines()] == [text]
    assert capfd.readouterr().err == ""


# Streams that break

PROGRAM = """
import os, sys
from pathlib import Path
from migrate_v2.events import Noted
from migrate_v2.report import Report

what, witness = sys.argv[1], Path(sys.argv[2])
with Report(
    json=what == "events", quiet=False, verbose=False, log_path=Path("log"), stdout=sys.stdout, stderr=sys.stderr
) as report:
    try:
        if what == "events":
            for number in range(3_000):
                report.tell(Noted("b", "x" * 100))
        elif what == "table":
            report.table(["bucket"], ([f"bucket-{number}"] for number in range(20_000)))
        else:
            report.document([f"bucket-{number}" for number in range(20_000)])
        witness.write_text(f"went on, {type(report.stdout_fault).__name__}")
    except OSError as error:
        witness.write_text(f"raised {type(error).__name__}")
        report.error("cannot write")
"""


def run(tmp_path: Path, shell: str, what: str, unbuffered: str = "") -> tuple[subprocess.CompletedProcess[str], str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" program.py {what} witness {shell}', sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ran, (tmp_path / "witness").read_text()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("what", ["events", "table", "document"])
def test_a_reader_that_leaves_stops_nothing(tmp_path: Path, what: str, unbuffered: str) -> None:
    ran, witness = run(tmp_path, "2>errors | head -c 20", what, unbuffered)
    assert witness == "went on, BrokenPipeError"
    assert ran.returncode == 0
    errors = (tmp_path / "errors").read_text()
    assert set(errors.splitlines()) == ({"b: " + "x" * 100} if what == "events" else set())
    assert len(ran.stdout) == 20


def test_talk_that_nobody_hears_stops_nothing(tmp_path: Path) -> None:
    ran, witness = run(tmp_path, "2>&1 >/dev/null | head -1", "events")
    assert (ran.returncode, ran.stdout, witness) == (0, "b: " + "x" * 100 + "\n", "went on, NoneType")


def test_a_short_write_to_an_unbuffered_stream_is_finished() -> None:
    class Short(io.RawIOBase):
        got = b""

        def writable(self) -> bool:
            return True

        def write(self, some: Any) -> int:
            self.got += bytes(some[:7])
            return min(len(some), 7)

    raw = Short()
    out = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)  # type: ignore[type-var]
    with Report(json=False, quiet=False, verbose=False, log_path=None, stdout=out, stderr=None) as report:
        report.document(["grün", "x" * 100])
    assert json.loads(raw.got) == ["grün", "x" * 100]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_data_that_is_lost_is_an_error_and_events_that_are_lost_are_said(tmp_path: Path) -> None:
    for what in ("table", "document"):
        ran, witness = run(tmp_path, ">/dev/full", what)
        assert (ran.stderr, witness) == ("migrate-v2: cannot write\n", "raised OSError")
    ran, witness = run(tmp_path, ">/dev/full", "events")
    assert ran.returncode == 0
    assert witness == "went on, OSError"
    said = "migrate-v2: standard output is lost, the work goes on: No space left on device"
    assert ran.stderr.splitlines().count(said) == 1


def test_a_closed_stdout_stops_nothing(tmp_path: Path) -> None:
    ran, witness = run(tmp_path, ">&-", "table")
    assert (ran.returncode, ran.stderr, witness) == (0, "", "went on, NoneType")


def test_a_stream_in_ascii_takes_any_letter() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    with Report(json=False, quiet=False, verbose=False, log_path=None, stdout=out, stderr=io.StringIO()) as report:
        report.table(["bucket"], [["grün"]])
    assert raw.getvalue() == b"gr\\xfcn\n"


def test_it_is_told_from_several_threads_at_once(tmp_path: Path) -> None:
    heard = Heard(json=True, log_path=tmp_path / "log")

    def talk(name: str) -> None:
        for number in range(200):
            heard.report.tell(Noted(name, str(number)))

    with heard.report:
        threads = [threading.Thread(target=talk, args=(f"b{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(heard.told) == len(heard.lines) == len((tmp_path / "log").read_text().splitlines()) == 800


def test_it_keeps_up(tmp_path: Path) -> None:
    heard = Heard(log_path=tmp_path / "log", quiet=True)
    begin = time.monotonic()
    heard.tell(*(Found("b", f"a/key/of/some/length/{n}", "v", Verdict.UNPROVABLE, "no witness") for n in range(5000)))
    assert time.monotonic() - begin < 60
