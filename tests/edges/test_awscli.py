"""The AWS CLI: found, given what it needs and no more, watched, and never left behind."""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import psutil
import pytest
from awscli.customizations.s3.transferconfig import RuntimeConfig  # type: ignore[import-untyped]
from botocore.configloader import load_config
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate_v2.edges import awscli
from migrate_v2.edges.awscli import Aws, Line, Outcome, Pass, Tick, Transfer
from migrate_v2.errors import BadUsage, Failure

FAKES = Path(__file__).parent.parent / "fakes"
ROOT = FAKES.parent.parent
REAL = Path(sys.executable).parent / "aws"
TRANSFER = Transfer(7, 500, 16 << 20, 8 << 20)
NEVER = float("inf")


def fake(name: str) -> Aws:
    return Aws(str(FAKES / name), (2, 40, 1), "aws-cli/2.40.1")


def program(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def version(path: Path, number: str) -> str:
    return program(path, f"echo aws-cli/{number} Python/3.13")


def activity(pid: int) -> tuple[float, int]:
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, process.io_counters().write_chars
    except psutil.NoSuchProcess:
        return 0.0, 0


def start(
    aws: Aws,
    *,
    args: Sequence[str] = ("s3", "sync", "s3://b", "/d"),
    env: dict[str, str] | None = None,
    lock_fds: Sequence[int] = (),
    stall: float = NEVER,
    tick: float = 0.05,
    activity: Callable[[int], tuple[float, int]] = activity,
) -> Any:
    env = env or {"PATH": os.environ["PATH"]}
    return awscli.sync(aws, args, env, "/", lock_fds, activity, stall, tick)


def run(aws: Aws, **how: Any) -> tuple[list[Line], list[Tick], Pass]:
    steps = start(aws, **how)
    lines: list[Line] = []
    ticks: list[Tick] = []
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return lines, ticks, end.value
        (lines if isinstance(step, Line) else ticks).append(step)


def first_tick(steps: Any) -> Tick:
    return next(step for step in steps if isinstance(step, Tick))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> float:
    """It waits for minutes after each signal; what ends within these seconds has obeyed the first."""
    monkeypatch.setattr(awscli, "AT_ONCE", tuple((number, 60.0) for number, _ in awscli.AT_ONCE))
    return 30.0


def gone(pid: int, seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


# find


def test_the_first_version_2_wins_over_any_version_1(tmp_path: Path) -> None:
    v1 = version(tmp_path / "a" / "aws", "1.46.3")
    old = version(tmp_path / "b" / "aws", "2.34.56")
    v2 = version(tmp_path / "c" / "aws", "2.34.57")
    search = os.pathsep.join(str(Path(path).parent) for path in (v1, old, v2))
    found = awscli.find(None, search, str(REAL))
    assert (found.path, found.version, found.major, found.cost) == (v2, (2, 34, 57), 2, "")
    assert found.passed_over == ()
    assert found.text == "aws-cli/2.34.57 Python/3.13"


def test_without_a_version_2_the_first_version_1_is_taken_and_says_what_it_costs(tmp_path: Path) -> None:
    v1 = version(tmp_path / "a" / "aws", "1.45.18")
    found = awscli.find(None, f"{FAKES}:{tmp_path}/a:{tmp_path}/none", "", patience=0.3)
    assert (found.path, found.major) == (v1, 1)
    assert "2027" in found.cost


def test_the_environments_own_comes_last_and_is_real() -> None:
    found = awscli.find(None, "", str(REAL))
    assert (found.path, found.major) == (str(REAL), 1)


def test_aws_path_must_be_a_program(tmp_path: Path) -> None:
    (tmp_path / "aws").write_text("#!/bin/sh\n")
    for wrong in (tmp_path / "aws", tmp_path / "none", tmp_path):
        with pytest.raises(BadUsage, match="aws_path"):
            awscli.find(str(wrong), "", str(REAL))


@pytest.mark.parametrize(
    ("name", "why"), [("aws_old", "2.9.19, older than 2.34.57"), ("aws_mute_version", "does not tell its version")]
)
def test_aws_path_that_does_not_fit_is_passed_over_and_said(tmp_path: Path, name: str, why: str) -> None:
    v2 = version(tmp_path / "aws", "2.40.1")
    found = awscli.find(str(FAKES / name), str(tmp_path), str(REAL), patience=0.5)
    assert found.path == v2
    assert len(found.passed_over) == 1
    assert why in found.passed_over[0]


def test_a_version_1_of_aws_path_gives_way_to_a_version_2_and_that_is_said(tmp_path: Path) -> None:
    v1 = version(tmp_path / "one", "1.46.3")
    v2 = version(tmp_path / "aws", "2.40.1")
    found = awscli.find(v1, str(tmp_path), "")
    assert found.path == v2
    assert "version 1" in found.passed_over[0]
    assert awscli.find(v2, str(tmp_path), "").passed_over == ()


def test_the_environments_own_is_not_asked_where_another_version_1_fits(tmp_path: Path) -> None:
    v1 = version(tmp_path / "one", "1.46.3")
    own = program(tmp_path / "own", f"touch {tmp_path}/asked; echo aws-cli/1.46.3")
    assert awscli.find(v1, "", own).path == v1
    assert not (tmp_path / "asked").exists()
    assert awscli.find(None, "", own).path == own
    # What comes behind it on PATH, as in an activated environment, is asked all the same.
    (tmp_path / "later").mkdir()
    v2 = version(tmp_path / "later" / "aws", "2.40.1")
    (tmp_path / "env").mkdir()
    own = version(tmp_path / "env" / "aws", "1.46.3")
    assert awscli.find(v1, f"{tmp_path}/env:{tmp_path}/later", own).path == v2


def test_one_that_hangs_is_left_nothing_of_when_it_is_not_needed_any_more(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program(tmp_path / "aws", f"sleep 60 & echo $! > {pids}.new; mv {pids}.new {pids}; wait")
    began = time.monotonic()
    with pytest.raises(Failure, match="no AWS CLI fits"):
        awscli.find(None, str(tmp_path), "", patience=60, stopped=pids.exists)
    assert time.monotonic() - began < 30
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(pids.read_text())).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "answer",
    [
        "kill -SEGV $$",
        "echo aws-cli/2.40.1; exit 3",
        "echo aws-cli/2.40",
        "echo 2.40.1",
        "echo aws-cli/3.1.0",
        "head -c 300000 /dev/urandom",
        "while :; do printf xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
        "while :; do echo; done",
        "trap '' INT TERM; echo aws-cli/2.40.1; sleep 60",
    ],
)
def test_what_answers_anything_else_is_no_candidate(tmp_path: Path, answer: str) -> None:
    program(tmp_path / "aws", answer)
    began = time.monotonic()
    with pytest.raises(Failure, match=r"no AWS CLI fits: .*install AWS CLI 2") as failed:
        awscli.find(None, str(tmp_path), "", patience=0.3)
    assert time.monotonic() - began < 30
    assert (failed.value.code, "\n" in str(failed.value)) == (1, False)


def test_what_is_no_program_at_all_is_no_candidate(tmp_path: Path) -> None:
    (tmp_path / "aws").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "aws").chmod(0o755)
    with pytest.raises(Failure, match="does not tell its version"):
        awscli.find(None, str(tmp_path), "")


def test_each_program_is_asked_once_and_nothing_runs_from_an_empty_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "aws", f"echo asked >> {tmp_path}/log; echo nothing")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "aws").symlink_to(tmp_path / "aws")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure, match="none on PATH"):
        awscli.find(None, f":{tmp_path}/none", "")
    with pytest.raises(Failure):
        awscli.find(str(tmp_path / "aws"), f"{tmp_path}:{tmp_path}/bin:bin", str(tmp_path / "aws"))
    assert (tmp_path / "log").read_text() == "asked\n"


# private_config

# The profile in use as botocore reads it, with all that a profile may hold beside what a transfer needs.
PROFILE: dict[str, Any] = {
    "region": "eu-central-1",
    "ca_bundle": "ca.pem",
    "retry_mode": "adaptive",
    "services": "local",
    "s3": {
        "addressing_style": "virtual",
        "max_concurrent_requests": "3",
        "use_accelerate_endpoint": True,
        "max_bandwidth": "1KB/s",
        "preferred_transfer_client": "crt",
        "anything": "SECRET",
    },
    "credential_process": "/opt/%(who)s --token SECRET",
    "aws_access_key_id": "SECRET",
    "aws_secret_access_key": "SECRET",
    "aws_session_token": "SECRET",
    "role_arn": "SECRET",
    "source_profile": "SECRET",
    "sso_session": "SECRET",
    "sso_start_url": "SECRET",
    "mfa_serial": "SECRET",
    "web_identity_token_file": "SECRET",
    "cli_legacy_plugin_path": "SECRET",
    "sdk_ua_app_id": "two\nlines = SECRET",
}
SERVICES: dict[str, Any] = {
    "s3": {"endpoint_url": "http://localhost:1", "x": "SECRET"},
    "sts": {"endpoint_url": "SECRET"},
}


def as_the_cli_reads(text: str, folder: Path) -> dict[str, Any]:
    path = folder / "config"
    path.write_text(text)
    loaded: dict[str, Any] = load_config(str(path))
    return loaded


def test_private_config_holds_what_a_transfer_needs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = "/a b/python -c 'x = 1; \"%s\"' /run/socket"
    text = awscli.private_config(PROFILE, SERVICES, TRANSFER, "path", process)
    assert "SECRET" not in text
    found = as_the_cli_reads(text, tmp_path)
    assert found == {
        "profiles": {
            "default": {
                "credential_process": process,
                "region": "eu-central-1",
                "ca_bundle": f"{tmp_path}/ca.pem",
                "retry_mode": "adaptive",
                "services": "services",
                "s3": {
                    "addressing_style": "virtual",
                    "use_accelerate_endpoint": "true",
                    "max_bandwidth": "1KB/s",
                    "preferred_transfer_client": "classic",
                    "max_concurrent_requests": "7",
                    "max_queue_size": "500",
                    "multipart_threshold": str(16 << 20),
                    "multipart_chunksize": str(8 << 20),
                },
            }
        },
        "sso_sessions": {},
        "services": {"services": {"s3": {"endpoint_url": "http://localhost:1"}}},
    }


def test_private_config_of_an_empty_profile_has_our_settings(tmp_path: Path) -> None:
    for style in (None, "path"):
        text = awscli.private_config({}, {}, TRANSFER, style, "p")
        default = as_the_cli_reads(text, tmp_path)["profiles"]["default"]
        assert set(default) == {"credential_process", "s3"}
        assert default["s3"].get("addressing_style") == style


@pytest.mark.parametrize(("rate", "written"), [(1, "1KB/s"), (1024, "1KB/s"), (10_000_000, "9765KB/s")])
def test_a_rate_is_written_so_that_both_majors_understand_it(rate: int, written: str) -> None:
    text = awscli.private_config({}, {}, Transfer(1, 1, 1, 1, rate), None, "p")
    assert f"max_bandwidth = {written}\n" in text
    assert RuntimeConfig().build_config(max_bandwidth=written)["max_bandwidth"] in (1024, 9765 * 1024)
    with pytest.raises(ValueError):
        RuntimeConfig().build_config(max_bandwidth="1000B/s")


VALUES = (
    st.text(st.sampled_from("ab%=#;:[]\"' \t$\n"), max_size=8) | st.none() | st.dictionaries(st.just("a"), st.just("b"))
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(awscli._PROFILE_SETTINGS), VALUES), st.dictionaries(st.just("s3"), VALUES))
def test_private_config_of_any_profile_parses_with_our_settings(profile: dict[str, Any], more: dict[str, Any]) -> None:
    parser = configparser.RawConfigParser(default_section="")
    parser.read_string(awscli.private_config({**profile, **more}, {}, TRANSFER, None, "p"))
    assert parser.sections() == ["default"]
    assert parser.get("default", "credential_process") == "p"
    assert "preferred_transfer_client = classic" in parser.get("default", "s3")


# environment and home


def test_only_what_the_cli_needs_reaches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    base = {
        "HOME": "/home/op",
        "PATH": "/bin",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_PROFILE": "work",
        "AWS_ROLE_ARN": "role",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/token",
        "AWS_SHARED_CREDENTIALS_FILE": "/home/op/.aws/credentials",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://localhost/c",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "token",
        "AWS_VAULT_FILE_PASSPHRASE": "secret",
        "AWS_ENDPOINT_URL_S3": "http://localhost/s",
        "AWS_CA_BUNDLE": "ca.pem",
        "https_proxy": "http://proxy",
        "AWS_CONFIG_FILE": "/home/op/.aws/config",
        "AWS_CLI_AUTO_PROMPT": "on",
        "AWS_CLI_FILE_ENCODING": "latin-1",
        "AWS_DATA_PATH": "/tmp/models",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "LD_PRELOAD": "/tmp/evil.so",
        "PYTHONPATH": "/tmp",
        "PYTHONHOME": "/tmp",
        "TZ": "Europe/Dublin",
        "LC_ALL": "C",
        "MIGRATE_V2_STATE": "x",
    }
    assert awscli.environment(base, "/private/config", "/private/home") == {
        "HOME": "/private/home",
        "PATH": "/bin",
        "AWS_ENDPOINT_URL_S3": "http://localhost/s",
        "AWS_CA_BUNDLE": f"{tmp_path}/ca.pem",
        "https_proxy": "http://proxy",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_CONFIG_FILE": "/private/config",
        "PYTHONSAFEPATH": "1",
        "AWS_PAGER": "",
        "AWS_CLI_AUTO_PROMPT": "off",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_supported",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
    }


def test_private_home_shares_all_but_the_aws_folder(tmp_path: Path) -> None:
    real, double = tmp_path / "real", tmp_path / "double"
    for name in ("x/y", ".aws/config", ".aws/credentials", ".aws/sso/cache/t.json", ".aws/cli/alias", ".pyenv/version"):
        (real / name).parent.mkdir(parents=True, exist_ok=True)
        (real / name).write_text(name)
    for _ in "twice":
        awscli.private_home(str(real), str(double))
    assert {str(p.relative_to(double)) for p in double.iterdir()} == {"x", ".pyenv"}
    assert (double / "x" / "y").read_text() == "x/y"
    assert double.stat().st_mode & 0o777 == 0o700
    awscli.private_home(str(tmp_path / "none"), str(tmp_path / "other"))
    assert list((tmp_path / "other").iterdir()) == []


# arguments


def test_the_command_line_survives() -> None:
    plain = awscli.arguments("b", "/d")
    assert plain == ("s3", "sync", "s3://b", "/d", "--no-progress", "--exact-timestamps")
    full = awscli.arguments(
        "b",
        "/d/p/",
        prefix="p/",
        region="r",
        endpoint_url="http://e",
        ca_bundle="/ca",
        force_glacier=True,
        excludes=["-x", "--delete"],
        includes=["y"],
    )
    assert full == (
        *("s3", "sync", "s3://b/p/", "/d/p/", "--no-progress", "--exact-timestamps", "--force-glacier-transfer"),
        *("--region=r", "--endpoint-url=http://e", "--ca-bundle=/ca"),
        *("--exclude=-x", "--exclude=--delete", "--include=y"),
    )
    with pytest.raises(ValueError, match="siblings"):
        awscli.arguments("b", "/d", prefix="p")


# outcome and parse


@pytest.mark.parametrize(
    ("code", "tail", "expected"),
    [
        (0, [], Outcome.DONE),
        (0, ["fatal error: forged by a key"], Outcome.DONE),
        (1, ["download failed: s3://b/k to k x"], Outcome.FAILED),
        (1, ["fatal error: no bucket"], Outcome.FATAL),
        (1, ["Traceback (most recent call last):", "DuplicateSectionError"], Outcome.FATAL),
        (1, ["cancelled: ctrl-c received"], Outcome.KILLED),
        (2, ["warning: Skipping file s3://b/k."], Outcome.SKIPPED),
        (2, ["usage: aws [options] <command>", "aws: error: too few arguments"], Outcome.FATAL),
        (3, [], Outcome.FATAL),
        (127, [], Outcome.FATAL),
        (130, [], Outcome.KILLED),
        (143, [], Outcome.KILLED),
        (252, [], Outcome.FATAL),
        (253, [], Outcome.FATAL),
        (255, ["Invalid rate"], Outcome.FATAL),
        (-2, [], Outcome.KILLED),
        (-9, [], Outcome.KILLED),
        (-11, [], Outcome.KILLED),
    ],
)
def test_exit_statuses_are_read_here(code: int, tail: list[str], expected: Outcome) -> None:
    assert awscli.outcome(code, tail) is expected


@pytest.mark.parametrize(
    ("raw", "kind", "text"),
    [
        ("download: s3://b/k to ./k", "downloaded", "s3://b/k to ./k"),
        ("download: s3://b/a to b to ./a to b", "downloaded", "s3://b/a to b to ./a to b"),
        ("download: s3://other/k to ./k", "other", "download: s3://other/k to ./k"),
        ("download failed: s3://b/k to ./k An error", "failed", "s3://b/k to ./k An error"),
        ("warning: Skipping file s3://b/k.", "warning", "Skipping file s3://b/k."),
        ("fatal error: no", "fatal", "no"),
        ("aws: [ERROR]: no", "fatal", "no"),
        ("\x1b[2Jdownload: s3://b/", "other", "\\x1b[2Jdownload: s3://b/"),
        ("download: s3://b/\x1b]0;x\x07\udcff to k", "downloaded", "s3://b/\\x1b]0;x\\x07\\udcff to k"),
        ("", "other", ""),
    ],
)
def test_lines_are_sorted_and_made_harmless(raw: str, kind: str, text: str) -> None:
    line = awscli.parse(raw, "b")
    assert (line.kind, line.text) == (kind, text)
    assert line.text.isprintable()


# sync, with programs that misbehave


def test_a_liar_is_counted_and_believed_nothing() -> None:
    lines, _, end = run(fake("aws_liar"))
    assert [line.kind for line in lines] == ["downloaded"] * 10
    assert lines[0].text == "s3://b/liar/01 to /d/liar/01"
    assert end == Pass(Outcome.DONE, 0, (), 0, False)


def test_a_crash_is_an_outcome() -> None:
    lines, _, end = run(fake("aws_crashes"))
    assert len(lines) == 1
    assert (end.outcome, end.code) == (Outcome.KILLED, -signal.SIGSEGV)


def test_a_flood_without_newlines_eats_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines, _, end = run(fake("aws_garbage"))
    assert (end.outcome, end.code) == (Outcome.DONE, 0)
    assert all(line.text.isprintable() for line in lines)
    assert all(len(line.text) <= 4 * awscli.LONGEST_LINE for line in lines)
    assert lines[-1].text == "\\x00" * awscli.LONGEST_LINE
    assert len(end.tail) <= 40
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_both_streams_come_in_order_and_keys_split_no_lines(tmp_path: Path) -> None:
    text = (
        r"""printf 'download: s3://b/a\r\f\302\205\342\200\250z to a\n\n'; printf 'fatal error: x\nlast' >&2; exit 1"""
    )
    aws = Aws(program(tmp_path / "aws", text), (2, 40, 1), "")
    lines, _, end = run(aws)
    assert [(line.kind, line.text) for line in lines] == [
        ("downloaded", "s3://b/a\\r\\x0c\\u0085\\u2028z to a"),
        ("fatal", "x"),
        ("other", "last"),
    ]
    assert end == Pass(Outcome.FATAL, 1, ("fatal error: x", "last"), 0, False)


def test_requests_to_slow_down_are_counted(tmp_path: Path) -> None:
    text = """
    echo 'download: s3://b/(SlowDown) to (SlowDown)'
    echo 'download failed: s3://b/k to k An error occurred (SlowDown) when calling the GetObject operation (reached max'
    echo 'fatal error: An error occurred (503) when calling the ListObjectsV2 operation'
    exit 1"""
    _, _, end = run(Aws(program(tmp_path / "aws", text), (2, 40, 1), ""))
    assert (end.throttled, end.outcome) == (2, Outcome.FATAL)


def test_standing_still_is_noticed_and_ended() -> None:
    began = time.monotonic()
    lines, ticks, end = run(fake("aws_hangs"), stall=0.5)
    took = time.monotonic() - began
    assert 0.5 < took < 30
    assert (lines, end.stalled, end.outcome) == ([], True, Outcome.KILLED)
    assert 2 <= len(ticks) <= took / 0.05 + 1, "one about every 0.05 s, though nothing is printed"
    assert gone(ticks[0].pid)


def test_words_cpu_and_bytes_are_signs_of_life(tmp_path: Path) -> None:
    writes = "import os, time; f = os.open(os.devnull, os.O_WRONLY)\nwhile True: os.write(f, b'x'); time.sleep(0.1)"
    works = [
        "while :; do echo working; sleep 0.1; done",
        f"exec {sys.executable} -c 'while True: pass'",
        f'exec {sys.executable} -c "{writes}"',
    ]

    def lives(n: int) -> bool:
        aws = Aws(program(tmp_path / str(n), works[n]), (2, 40, 1), "")
        steps = start(aws, stall=1.5, activity=activity if n else lambda _: (0.0, 0))
        until = time.monotonic() + 2.5
        with contextlib.closing(steps):
            return any(time.monotonic() > until for _ in steps)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lives, range(3))) == [True] * 3


def test_ticks_come_between_lines_that_do_not_end(tmp_path: Path) -> None:
    steps = start(Aws(program(tmp_path / "aws", "yes"), (2, 40, 1), ""))
    began, ticks = time.monotonic(), 0
    with contextlib.closing(steps):
        for step in steps:
            ticks += isinstance(step, Tick)
            if ticks == 3:
                break
    assert time.monotonic() - began < 30


def test_closing_the_generator_ends_the_program_at_once(patient: float) -> None:
    steps = start(fake("aws_hangs"))
    pid = first_tick(steps).pid
    assert os.getpgid(pid) == os.getsid(pid) == pid
    began = time.monotonic()
    steps.close()
    assert time.monotonic() - began < patient
    assert not psutil.pid_exists(pid)


def test_an_interrupt_in_the_callers_loop_ends_it_too() -> None:
    steps = start(fake("aws_hangs"))
    pid = first_tick(steps).pid
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())
    assert not psutil.pid_exists(pid)


def test_a_program_that_ignores_signals_is_killed_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awscli, "AT_ONCE", tuple((number, seconds / 5) for number, seconds in awscli.AT_ONCE))
    steps = start(fake("aws_stubborn"))
    assert next(step for step in steps if isinstance(step, Line)).text == "stubborn"
    pid = first_tick(steps).pid
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert len(family) == 2
    began = time.monotonic()
    steps.close()
    assert 0.6 <= time.monotonic() - began < 30
    assert all(gone(member) for member in family)


def test_a_second_interrupt_does_not_wait_for_manners() -> None:
    program = f"""
import signal, sys, threading, os
sys.path.insert(0, {str(ROOT)!r})
from migrate_v2.edges import awscli
awscli.AT_ONCE = tuple((number, 60.0) for number, _ in awscli.AT_ONCE)
def heard(*_):
    os.write(1, b"heard\\n")
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, heard)
steps = awscli.sync(awscli.Aws({str(FAKES / "aws_stubborn")!r}, (2, 40, 1), ""), ("s3", "sync", "s3://b", "/d"),
                    dict(os.environ), "/", (), lambda pid: (0.0, 0), float("inf"), 0.05)
try:
    for step in steps:
        if isinstance(step, awscli.Tick):
            print(step.pid, flush=True)
finally:
    steps.close()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGINT)
    while parent.stdout.readline() != b"heard\n":
        pass
    time.sleep(1)  # by now it has its manners, for two minutes
    assert parent.poll() is None
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30)
    parent.communicate()
    assert gone(pid)


def test_a_generator_that_nobody_closed_does_not_hold_up_the_exit() -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from migrate_v2.edges import awscli
aws = awscli.Aws({str(FAKES / "aws_hangs")!r}, (2, 40, 1), "")
kept = awscli.sync(aws, ("s3", "sync", "s3://b", "/d"), dict(PATH="/bin"), "/", (), lambda pid: (0.0, 0), 9.0)
print(next(kept).pid)
1 / 0
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "ZeroDivisionError" in ended.stderr
    assert gone(int(ended.stdout))


def test_a_stopped_program_is_woken_to_clean_up(tmp_path: Path, patient: float) -> None:
    text = f"trap 'echo clean > {tmp_path}/log; exit 1' INT; echo ready; while :; do sleep 0.02; done"
    steps = start(Aws(program(tmp_path / "aws", text), (2, 40, 1), ""))
    assert next(step for step in steps if isinstance(step, Line)).text == "ready"
    pid = first_tick(steps).pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    steps.close()
    assert time.monotonic() - began < patient
    assert not psutil.pid_exists(pid)
    assert (tmp_path / "log").read_text() == "clean\n"


def test_an_interrupt_reaches_it_even_where_this_process_ignores_interrupts(patient: float) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        steps = start(fake("aws_hangs"))
        first_tick(steps)
        began = time.monotonic()
        steps.close()
        assert time.monotonic() - began < patient
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_left_in_its_group_goes_with_it(tmp_path: Path) -> None:
    aws = Aws(program(tmp_path / "aws", "sleep 3600 & echo $!"), (2, 40, 1), "")
    began = time.monotonic()
    lines, _, end = run(aws)
    assert time.monotonic() - began < 60
    assert end.outcome is Outcome.DONE
    assert gone(int(lines[0].text))


def test_it_holds_the_lock_and_nothing_else(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(other, True)
    steps = start(fake("aws_hangs"), lock_fds=[lock])
    tick = first_tick(steps)
    assert not os.get_inheritable(lock)
    os.close(lock)
    files = {os.readlink(f"/proc/{tick.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{tick.pid}/fd")}
    assert {name for name in files if not name.startswith("pipe:")} == {"/dev/null", str(tmp_path / "lock")}
    assert os.readlink(f"/proc/{tick.pid}/fd/0") == "/dev/null"
    with open(tmp_path / "lock") as again:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        steps.close()
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_several_at_once_in_threads_leave_no_descriptor_and_no_thread() -> None:
    def one(_: int) -> tuple[int, bool]:
        return len(run(fake("aws_liar"))[0]), run(fake("aws_hangs"), stall=0.2)[2].stalled

    run(fake("aws_liar"))
    before, threads = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(12))) == [(10, True)] * 12
    assert set(os.listdir("/proc/self/fd")) == before
    left = set(threading.enumerate()) - threads
    for thread in left:
        thread.join(60)  # sh cancels a timer of its own, and does not wait until that has ended
    assert not [thread for thread in left if thread.is_alive()]


def test_a_program_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "aws").write_text("#!/no/such/interpreter\n")
    (tmp_path / "aws").chmod(0o755)
    before = set(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "none", tmp_path / "aws"):
        assert set(os.listdir("/proc/self/fd")) == before
        with pytest.raises(Failure, match="cannot be started") as failed:
            run(Aws(str(path), (2, 40, 1), ""))
        assert "\n" not in str(failed.value)
    with pytest.raises(Failure, match="too long"):
        run(fake("aws_liar"), args=("s3", "sync", "s3://b", "/d", *["--exclude=" + "x" * 1000] * 4000))


# sync, with the real AWS CLI

SIZE = 100_000


class S3(ThreadingHTTPServer):
    """Bucket `b` with 20 objects, listed as S3 lists; a body is `slow` seconds late. Everything else: NoSuchBucket."""

    daemon_threads = True
    slow = 0.0
    busy = most_busy = 0
    counting = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).strip("/").partition("/")
        if bucket != "b":
            return self.answer(404, b"<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>")
        if not key:
            assert parse_qs(url.query)["list-type"] == ["2"]
            rows = "".join(
                f"<Contents><Key>folder/k{n:02}</Key><LastModified>2024-01-02T03:04:05.000Z</LastModified>"
                f"<ETag>&quot;e&quot;</ETag><Size>{SIZE}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                for n in range(20)
            )
            head = "<Name>b</Name><KeyCount>20</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
            return self.answer(200, f"<ListBucketResult>{head}{rows}</ListBucketResult>".encode())
        with self.server.counting:
            self.server.busy += 1
            self.server.most_busy = max(self.server.busy, self.server.most_busy)
        time.sleep(self.server.slow)
        with self.server.counting:
            self.server.busy -= 1
        return self.answer(200, key.encode().ljust(SIZE))

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "ETag": '"e"',
            "Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)


@pytest.fixture
def s3() -> Iterator[S3]:
    server = S3(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def real(tmp_path: Path) -> Aws:
    """The environment's CLI, and in tmp_path a home whose alias puts another program in the place of `s3`."""
    (tmp_path / "home" / ".aws" / "cli").mkdir(parents=True)
    (tmp_path / "home" / ".aws" / "cli" / "alias").write_text("[toplevel]\ns3 = !echo replaced\n")
    (tmp_path / "home" / ".aws" / "credentials").write_text(
        "[p]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = example\n"
    )
    return Aws(str(REAL), (1, 46, 3), "")


def given_to_the_real(tmp_path: Path, s3: S3, bucket: str, transfer: Transfer) -> dict[str, Any]:
    home = tmp_path / "home"
    (tmp_path / "private").mkdir()
    awscli.private_home(str(home), str(tmp_path / "private"))
    config = tmp_path / "config"
    keys = {"Version": 1, "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "example"}
    process = f"/bin/echo {shlex.quote(json.dumps(keys))}"
    config.write_text(awscli.private_config({"region": "nowhere"}, {}, transfer, None, process))
    env = awscli.environment({"HOME": str(home), "PATH": os.environ["PATH"]}, str(config), str(tmp_path / "private"))
    args = awscli.arguments(
        bucket, str(tmp_path / "out"), region="us-east-1", endpoint_url=s3.url, excludes=["*/k19", "-x"]
    )
    return {"args": args, "env": env}


def test_the_real_one_fetches_with_our_settings_and_without_the_users_alias(real: Aws, tmp_path: Path, s3: S3) -> None:
    s3.slow = 0.05
    lines, ticks, end = run(real, **given_to_the_real(tmp_path, s3, "b", Transfer(3, 1000, 8 << 20, 8 << 20)))
    assert end == Pass(Outcome.DONE, 0, (), 0, False), end
    assert [line.kind for line in lines] == ["downloaded"] * 19  # one is excluded
    files = sorted((tmp_path / "out" / "folder").iterdir())
    assert [path.name for path in files] == [f"k{n:02}" for n in range(19)]
    assert files[7].read_bytes() == b"folder/k07".ljust(SIZE)
    assert s3.most_busy == 3
    assert max(tick.bytes_written for tick in ticks) > SIZE


def test_with_the_real_home_the_alias_would_be_obeyed(real: Aws, tmp_path: Path, s3: S3) -> None:
    how = given_to_the_real(tmp_path, s3, "b", TRANSFER)
    how["env"]["HOME"] = str(tmp_path / "home")
    lines, _, end = run(real, **how)
    assert end.outcome is Outcome.DONE
    assert lines[0].text.startswith("replaced")
    assert not (tmp_path / "out").exists()


def test_the_real_one_says_that_there_is_no_bucket(real: Aws, tmp_path: Path, s3: S3) -> None:
    lines, _, end = run(real, **given_to_the_real(tmp_path, s3, "none", TRANSFER))
    assert (end.outcome, end.code) == (Outcome.FATAL, 1)
    assert [line.kind for line in lines] == ["fatal"]
    assert "NoSuchBucket" in end.tail[0]


PARENT = f"""
import sys, os, json, time, threading
sys.path.insert(0, {str(ROOT)!r})
from migrate_v2.edges import awscli
awscli.LINUX = sys.argv[2] != "guarded"  # so that the way of other systems is tried here
if sys.argv[2] != "linux":
    awscli._prctl = None
path, args, env = json.loads(sys.argv[1])
def work():
    for step in awscli.sync(awscli.Aws(path, (1, 46, 3), ""), args, env, "/", (), lambda pid: (0.0, 0), 1e9, 0.1):
        if isinstance(step, awscli.Tick):
            print(step.pid, flush=True)
if sys.argv[3] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def killed_with_its_parent(
    platform: str, thread: str, path: str, how: dict[str, Any], under_way: Callable[[], bool] = lambda: True
) -> bool:
    told = json.dumps([path, list(how["args"]), how["env"]])
    parent = subprocess.Popen([sys.executable, "-c", PARENT, told, platform, thread], stdout=subprocess.PIPE)
    assert parent.stdout
    pid = 0
    try:
        pid = int(parent.stdout.readline())
        until = time.monotonic() + 10
        while not under_way() and time.monotonic() < until:
            parent.stdout.readline()
        assert under_way()
        assert not gone(pid, 0.1)
        family = [p.pid for p in psutil.Process(parent.pid).children(recursive=True)]
        assert pid in family
        parent.kill()
        return all(gone(member) for member in family)
    finally:
        parent.kill()
        parent.communicate()
        if pid:  # group 0 would be our own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def test_the_real_one_does_not_outlive_a_parent_that_is_killed(real: Aws, tmp_path: Path, s3: S3) -> None:
    s3.slow = 30
    how = given_to_the_real(tmp_path, s3, "b", TRANSFER)
    assert killed_with_its_parent("linux", "thread", real.path, how, lambda: s3.most_busy == 7)


@pytest.mark.parametrize(("platform", "name"), [("linux", "aws_hangs"), ("guarded", "aws_stubborn")])
def test_a_fake_does_not_outlive_it_either(platform: str, name: str) -> None:
    how = {"args": ("s3", "sync", "s3://b", "/d"), "env": {"PATH": os.environ["PATH"]}}
    assert killed_with_its_parent(platform, "main", str(FAKES / name), how)


def test_without_either_it_would_outlive_it() -> None:
    how = {"args": ("s3", "sync", "s3://b", "/d"), "env": {"PATH": os.environ["PATH"]}}
    assert not killed_with_its_parent("neither", "main", str(FAKES / "aws_hangs"), how)
