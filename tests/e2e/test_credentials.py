"""P8: credentials reach the AWS CLI while it runs and are in no file; what is wrong with them is one message."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from botocore.configloader import load_config

from tests.e2e.test_consent import answered
from tests.e2e.world import World, world
from tests.fakes.forks import Job, Zygote, as_by_the_script
from tests.fakes.s3server import Request, Response

SECRET = "canary4SECRETsecretSECRETsecretSECRETsec"
TOKEN = "canary5TOKENtokenTOKENtokenTOKEN"
REAL = Path(sys.executable).parent / "aws"
# A stand-in for the CLI that notes what it was given, and what its credential_process prints, and then runs the real one.
SPY = f"""#!{sys.executable}
import json, os, shlex, subprocess, sys, time
from botocore.configloader import load_config
if sys.argv[1:] == ["--version"]:
    print("aws-cli/2.40.1 Python/3.13 Linux/6")
    sys.exit()
config = load_config(os.environ["AWS_CONFIG_FILE"])["profiles"]["default"]
process = shlex.split(config["credential_process"])
said = subprocess.run(process, capture_output=True, text=True, check=True).stdout
folder = os.path.dirname(os.path.abspath(__file__))
seen = {{"argv": sys.argv, "env": dict(os.environ), "config": config, "cwd": os.getcwd(), "said": json.loads(said)}}
with open(folder + "/seen.new", "w") as file:
    json.dump(seen, file)
os.rename(folder + "/seen.new", folder + "/seen")
while os.path.exists(folder + "/wait"):
    time.sleep(0.01)
os.execv({str(REAL)!r}, [{str(REAL)!r}, *sys.argv[1:]])
"""


@pytest.fixture
def spied(tmp_path: Path, zygote: Zygote) -> Iterator[World]:
    """A world with a profile `canary` in the user's files, and none in the environment."""
    place = tmp_path / "world"
    place.mkdir()
    (tmp_path / "spy").mkdir()
    with world(place, zygote) as w:
        spy = tmp_path / "spy" / "aws"
        spy.write_text(SPY)
        spy.chmod(0o755)
        user = w.folder / "user" / ".aws"
        user.mkdir()
        (user / "credentials").write_text(
            f"[canary]\naws_access_key_id = AKIACANARYCANARY1234\naws_secret_access_key = {SECRET}\n"
            f"aws_session_token = {TOKEN}\ns3 =\n  preferred_transfer_client = crt\n  max_concurrent_requests = 99\n"
            "  payload_signing_enabled = true\n"
        )
        (user / "config").write_text(f"[profile other]\naws_secret_access_key = {SECRET}\n[profile canary]\n")
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
            del w.env[f"AWS_{name}"]
        w.env |= {"AWS_PROFILE": "canary", "MIGRATE_V2_AWS_PATH": str(spy), "MIGRATE_V2_METADATA": "none"}
        yield w


def seen_by_the_cli(w: World) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads((w.folder.parent / "spy" / "seen").read_text())
    return seen


def in_files(w: World) -> set[str]:
    """Where a secret is in the world's files, but for the user's own."""
    found = set()
    for path in w.folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and w.folder / "user" not in path.parents:
            body = path.read_bytes()
            if SECRET.encode() in body or TOKEN.encode() in body:
                found.add(str(path.relative_to(w.folder)))
    return found


def test_cli_gets_its_credentials_from_the_parent_and_no_file_has_them(spied: World) -> None:
    w = spied
    w.put("a", b"by the CLI")
    w.done("migrate", w.bucket)
    assert (w.home / w.bucket / "a").read_bytes() == b"by the CLI"
    seen = seen_by_the_cli(w)
    assert seen["said"] == {
        "Version": 1, "AccessKeyId": "AKIACANARYCANARY1234", "SecretAccessKey": SECRET, "SessionToken": TOKEN,
    }  # fmt: skip
    given = json.dumps({name: seen[name] for name in ("argv", "env", "config", "cwd")})
    assert SECRET not in given and TOKEN not in given
    assert not {name for name in seen["env"] if name.startswith(("AWS_ACCESS", "AWS_SECRET", "AWS_SESSION"))}
    assert "AWS_PROFILE" not in seen["env"] and seen["env"]["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull
    assert in_files(w) == set()


def test_cli_settings_win_over_those_of_the_users_credentials_file(spied: World) -> None:
    """Issue 13, item 4: `s3 =` there overrides the configuration of the CLI."""
    w = spied
    w.put("a", b"1")
    w.done("migrate", w.bucket)
    s3 = seen_by_the_cli(w)["config"]["s3"]
    assert s3["preferred_transfer_client"] == "classic"
    assert s3["max_concurrent_requests"] != "99"
    assert s3["payload_signing_enabled"] == "true", "what the user sets of the requests stays"
    assert load_config(str(w.folder / "user" / ".aws" / "config"))["profiles"]["canary"] == {}


def test_kill_9_of_the_program_leaves_no_secret(spied: World) -> None:
    w = spied
    w.put("a", b"1")
    spy = w.folder.parent / "spy"
    (spy / "wait").touch()
    nothing = os.open(os.devnull, os.O_RDWR)
    job = Job(["migrate", w.bucket], as_by_the_script(w.env), str(w.folder), hasty=True)
    with w.zygote.begin(job, (nothing, nothing, nothing)) as run:
        until = time.monotonic() + 30
        while not (spy / "seen").exists() and time.monotonic() < until:
            time.sleep(0.01)
        assert (spy / "seen").exists(), "the CLI was started"
        run.send_signal(signal.SIGKILL)
        run.wait()
    os.close(nothing)
    left = w.folder / "state.db.run" / w.bucket
    assert (left / "config").is_file(), "what it left is looked at"  # its socket is elsewhere if this path is too long
    assert in_files(w) == set()
    (spy / "wait").unlink()
    w.done("migrate", w.bucket)


def credential_process(w: World, **document: str) -> Path:
    """Makes the profile take its credentials from a program that prints this; each call is a line of the file."""
    calls = w.folder.parent / "calls"
    printed = json.dumps({"Version": 1, "AccessKeyId": "AKIACANARYCANARY1234", "SecretAccessKey": SECRET, **document})
    script = w.folder.parent / "helper"
    script.write_text(f"#!/bin/sh\necho >> {calls}\necho {shlex.quote(printed)}\n")
    script.chmod(0o755)
    (w.folder / "user" / ".aws" / "credentials").write_text("")
    (w.folder / "user" / ".aws" / "config").write_text(f"[profile canary]\ncredential_process = {script}\n")
    return calls


def test_cli_asks_the_parent_again_and_not_the_users_program(spied: World) -> None:
    """Credentials that expire: the CLI asks again before they do, and what it asks is the parent."""
    w = spied
    expiry = datetime.now(UTC) + timedelta(hours=1)
    calls = credential_process(w, Expiration=expiry.isoformat())
    w.put("a", b"1")
    w.done("migrate", w.bucket)
    seen = seen_by_the_cli(w)
    assert datetime.fromisoformat(seen["said"]["Expiration"]) == expiry
    assert calls.read_text() == "\n"
    assert str(w.folder.parent / "helper") not in json.dumps(seen["config"])


def lines(w: World, code: int, *argv: str, **env: str) -> list[str]:
    ended = w.run(*argv, env=env)
    assert ended.code == code, ended.err
    return ended.err.splitlines()


def test_credentials_that_have_expired_already_are_one_message(spied: World) -> None:
    w = spied
    credential_process(w, Expiration="2020-01-01T00:00:00Z")
    for argv in (("migrate", w.bucket), ("whoami",), ("buckets",)):
        assert len(lines(w, 1, *argv)) == 1
    assert "traceback" not in (w.folder / "state.log").read_text()


@pytest.mark.parametrize("body", ["exit 3", "echo no JSON", "echo '{}'", ""])
def test_credential_process_that_fails_is_one_message_without_its_output(spied: World, body: str) -> None:
    w = spied
    credential_process(w)
    helper = w.folder.parent / "helper"
    if body:
        helper.write_text(f"#!/bin/sh\necho {SECRET} >&2\n{body}\n")
    else:
        helper.unlink()
    (line,) = lines(w, 1, "migrate", w.bucket)
    assert SECRET not in line and in_files(w) == set()


@pytest.mark.parametrize("name", ["canary", "default", "role"])
def test_sso_that_is_not_logged_in_names_the_login_of_its_profile(spied: World, name: str) -> None:
    w = spied
    (w.folder / "user" / ".aws" / "credentials").write_text("")
    section = "default" if name == "default" else "profile canary"
    (w.folder / "user" / ".aws" / "config").write_text(
        f"[{section}]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = r\n"
        "[sso-session corp]\nsso_start_url = https://corp.example/start\nsso_region = us-east-1\n"
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = canary\n"
    )
    (line,) = lines(w, 1, "migrate", w.bucket, AWS_PROFILE=name)
    login = "aws sso login" if name == "default" else "aws sso login --profile canary"
    assert f"`{login}`" in line


def test_mfa_without_a_terminal_is_one_message_and_reads_no_input(spied: World) -> None:
    w = spied
    (w.folder / "user" / ".aws" / "config").write_text(
        "[profile mfa]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = canary\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/me\n"
    )
    assert len(lines(w, 1, "migrate", w.bucket, AWS_PROFILE="mfa")) == 1


def test_mfa_code_is_asked_for_once_in_the_parent_and_never_in_the_cli(spied: World) -> None:
    w = spied
    (w.folder / "user" / ".aws" / "config").write_text(
        "[profile mfa]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = canary\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/me\n"
    )
    codes: list[str] = []
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=60)

    def role(request: Request, response: Response) -> Response | None:
        asked = dict(parse_qsl(request.body.decode()))
        if asked.get("Action") != "AssumeRole":
            return None
        codes.append(asked["TokenCode"])
        fields = {"AccessKeyId": "ASIAROLEROLEROLE1234", "SecretAccessKey": SECRET, "SessionToken": TOKEN}
        keys = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
        keys += f"<Expiration>{expiry:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
        user = "<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn></AssumedRoleUser>"
        body = f"<Credentials>{keys}</Credentials>{user}"
        space = 'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"'
        text = f"<AssumeRoleResponse {space}><AssumeRoleResult>{body}</AssumeRoleResult></AssumeRoleResponse>"
        return Response(200, [("Content-Type", "text/xml")], text.encode())

    w.server.fault({"op": "GetCallerIdentity"}, rewrite=role)
    for number in range(40):
        w.put(f"k{number}", b"x")
    env = {**w.env, "AWS_PROFILE": "mfa"}
    code, shown = answered(
        w.zygote, "migrate", w.bucket, env=env, cwd=w.folder, question="MFA code", answer="123456\n", stderr=None
    )
    assert code == 0, shown
    assert codes == ["123456"]
    said = seen_by_the_cli(w)["said"]
    assert said["AccessKeyId"] == "ASIAROLEROLEROLE1234"
    assert datetime.fromisoformat(said["Expiration"]) == expiry
    assert in_files(w) == set()


URL = f"http://somebody:{SECRET}@127.0.0.1:1"


@pytest.mark.parametrize(
    "how", ["flag", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS", "profile", "services"]
)
@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:1/?x=" + SECRET, "http://127.0.0.1:1/#" + SECRET])
def test_endpoint_with_more_than_an_address_is_refused(spied: World, how: str, url: str) -> None:
    w = spied
    config = w.folder / "user" / ".aws" / "config"
    argv: tuple[str, ...] = ("migrate", w.bucket)
    env = {"AWS_ENDPOINT_URL": ""}
    if how == "flag":
        argv = (f"--endpoint-url={url}", *argv)
    elif how == "profile":
        config.write_text(f"[profile canary]\nendpoint_url = {url}\n")
    elif how == "services":
        config.write_text(f"[profile canary]\nservices = s\n[services s]\ns3 =\n  endpoint_url = {url}\n")
    else:
        env[how] = url
    (line,) = lines(w, 2, *argv, **env)
    assert SECRET not in line
    assert in_files(w) == set()
