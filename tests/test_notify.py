"""The operator's command gets the event and nothing else of the program, and cannot hold it up, break it or be steered."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from migrate_v2.errors import Busy, NotFinished, Refused
from migrate_v2.events import Ended, Event, Failed, Noted, PhaseEarned, Waiting, Warned
from migrate_v2.model import Phase
from migrate_v2.notify import notify, worth_telling
from tests.conftest import Run, fill

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

EARNED = PhaseEarned("photos", Phase.SYNCING, Phase.VERIFYING)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (EARNED, True),
        (Ended("b", "wait", 3, 30, 1.0), True),
        (Ended("b", "sync", 3, 30, 1.0), False),
        (Failed("b", Refused.code, "x"), True),
        (Failed("b", NotFinished.code, "x"), False),
        (Failed("b", Busy.code, "x"), False),
        (Waiting("b", 1, 1, 1.0), False),
        (Noted("b", "x"), False),
        (Warned("b", "x"), False),
    ],
)
def test_what_is_worth_telling(event: Event, told: bool) -> None:
    assert worth_telling(event) is told


def test_the_event_is_on_its_standard_input_and_its_output_goes_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program = script(
        tmp_path / "with space", f'cat > "{tmp_path}/got"; echo "$@" > "{tmp_path}/arguments"; echo data; echo talk >&2'
    )
    assert notify(f"'{program}' '$HOME' '; touch {tmp_path}/pwned' *", EARNED) == ""
    document = json.loads((tmp_path / "got").read_text())
    assert (document["event"], document["bucket"], document["phase"]) == ("phase_earned", "photos", "verifying")
    assert document["message"] == "photos: syncing done, next is verifying"
    assert (tmp_path / "arguments").read_text() == f"$HOME ; touch {tmp_path}/pwned *\n"
    assert capfd.readouterr() == ("", "") and not (tmp_path / "pwned").exists()


def test_no_secret_and_no_key_of_an_object_becomes_a_word_of_a_command(tmp_path: Path) -> None:
    program = script(tmp_path / "n", f'cat > "{tmp_path}/got"')
    event = Failed("b", 1, "aws_secret_access_key=abcdefghijklmnop $(touch /x) \x1b[2J")
    assert notify(program, event) == ""
    text = (tmp_path / "got").read_text()
    assert "abcdefghijklmnop" not in text and "\x1b" not in json.loads(text)["message"]


def test_one_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    program = script(tmp_path / "n", f'sleep 60 & echo $! > "{tmp_path}/child"; wait')
    began = time.monotonic()
    assert "did not end within 1 s" in notify(program, EARNED, seconds=1)
    assert time.monotonic() - began < 30
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 60
    while (
        time.monotonic() < until
        and Path(f"/proc/{child}").exists()
        and "Z" not in Path(f"/proc/{child}/stat").read_text()
    ):
        time.sleep(0.05)
    with pytest.raises((ProcessLookupError, AssertionError)):
        os.kill(child, 0)
        assert "Z" not in Path(f"/proc/{child}/stat").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [("false", "ended with 1: false"), ("/no/such/program x", "No such file"), ("/etc", "denied"), ("true", "")],
)
def test_its_failure_is_told(command: str, said: str) -> None:
    wrong = notify(command, EARNED)
    assert said in wrong and bool(said) == bool(wrong)


def test_it_runs_with_the_work_and_its_failure_is_a_warning(
    run: Run, boto: S3Client, bucket: str, tmp_path: Path
) -> None:
    fill(boto, bucket, {"a": b"12345"})
    program = script(tmp_path / "notify", f'cat >> "{tmp_path}/got"; exit 7')
    ended = run("migrate", bucket, env={"MIGRATE_V2_NOTIFY_COMMAND": program})
    assert ended.returncode == 0
    assert "warning: notify_command ended with 7" in ended.stderr
    events = [json.loads(line) for line in (tmp_path / "got").read_text().splitlines()]
    assert [e["phase"] for e in events] == ["syncing", "verifying", "deleting"]
    (tmp_path / "got").unlink()
    assert run("migrate", "no-such-bucket-here", env={"MIGRATE_V2_NOTIFY_COMMAND": program}).returncode == 1
    (event,) = [json.loads(line) for line in (tmp_path / "got").read_text().splitlines()]
    assert (event["event"], event["code"]) == ("failed", 1) and "no-such-bucket-here" in event["message"]
    (tmp_path / "got").unlink()
    assert run("status", "no-such-bucket-here", env={"MIGRATE_V2_NOTIFY_COMMAND": program}).returncode == 1
    assert not (tmp_path / "got").exists(), "a person is looking"
    ended = run("status", env={"MIGRATE_V2_NOTIFY_COMMAND": "mail 'me"})
    assert ended.returncode == 2 and "notify_command" in ended.stderr
