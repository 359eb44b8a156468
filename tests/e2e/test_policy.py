"""policy, as a person and as a script: nothing changes unasked, and what was there comes back after a kill -9 too."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from migrate_v2 import policy
from tests.conftest import PROGRAM, ROOT, Ended, Run, bare_environment, end_with_parent, free_port, one_by_one
from tests.e2e.test_confirm_delete import at_a_terminal
from tests.fakes.forks import Begun, Job, Zygote, as_by_the_script
from tests.fakes.s3server import ACCOUNT, Request, S3Server

ORIGINAL = '{ "Version":"2012-10-17", "Statement":[{"Sid":"s","Effect":"Allow","Principal":{"Service":"cloudtrail.amazonaws.com"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::photos/*"}]}'


# Against moto, which holds identities to their own policies; whom a bucket policy denies it cannot tell.


@dataclass
class Moto:
    url: str
    operator: dict[str, str | None]
    guest: dict[str, str | None]

    def s3(self) -> Any:
        return self.client("s3", self.operator)

    def client(self, service: str, keys: dict[str, str | None]) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
        )


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[Moto]:
    """IAM enforced: an operator who has assumed a role with a path, and a guest who may read buckets only."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "moto.log").open("wb") as log:
        server = subprocess.Popen(
            [ROOT / ".venv-servers" / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
            env=bare_environment() | {"AWS_EC2_METADATA_DISABLED": "true"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=2).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"moto did not start:\n{(tmp_path / 'moto.log').read_text()[-2000:]}")
                time.sleep(0.05)
        nobody: dict[str, str | None] = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        found = Moto(url, nobody, nobody)
        iam, sts, s3 = (found.client(service, nobody) for service in ("iam", "sts", "s3"))

        def allowing(*actions: str) -> str:
            return json.dumps(
                {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
            )

        iam.create_role(RoleName="Ops", Path="/team/", AssumeRolePolicyDocument="{}")
        iam.put_role_policy(RoleName="Ops", PolicyName="p", PolicyDocument=allowing("s3:*", "iam:GetRole", "sts:*"))
        session = sts.assume_role(RoleArn="arn:aws:iam::123456789012:role/team/Ops", RoleSessionName="me")
        iam.create_user(UserName="guest")
        iam.put_user_policy(
            UserName="guest", PolicyName="p", PolicyDocument=allowing("s3:Get*", "s3:List*", "s3:HeadBucket", "sts:*")
        )
        key = iam.create_access_key(UserName="guest")["AccessKey"]
        for bucket in ("photos", "films"):
            s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key="k", Body=b"1")
        s3.put_bucket_policy(Bucket="photos", Policy=ORIGINAL)
        # From here on it asks who is there; a body by another content type it does not read.
        asked = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
        urllib.request.urlopen(asked, timeout=10).close()
        names = (("AccessKeyId", "ACCESS_KEY_ID"), ("SecretAccessKey", "SECRET_ACCESS_KEY"))
        found.operator = {f"AWS_{name}": session["Credentials"][told] for told, name in names}
        found.operator["AWS_SESSION_TOKEN"] = session["Credentials"]["SessionToken"]
        found.guest = {f"AWS_{name}": key[told] for told, name in names}
        yield found
    finally:
        server.kill()
        server.wait()


def there(s3: Any, bucket: str) -> str | None:
    try:
        return str(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchBucketPolicy", error
        return None


def test_from_generate_to_rollback_with_iam_enforced(moto: Moto, run: Run, tmp_path: Path, state: Path) -> None:
    s3 = moto.s3()

    def as_operator(*arguments: str, **more: Any) -> Ended:
        return run(*arguments, env={**moto.operator, "AWS_ENDPOINT_URL": moto.url}, **more)

    ended = as_operator("policy", "generate", "--all")
    assert ended.returncode == 0, ended.stderr
    files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "policies").iterdir()}
    assert files.keys() == {"photos_policy.json", "films_policy.json"}
    names = files["photos_policy.json"]["Statement"][0]["Condition"]["ArnNotLike"]["aws:PrincipalArn"]
    assert names == ["arn:aws:iam::123456789012:role/team/Ops", "arn:aws:iam::123456789012:root"]

    ended = as_operator("policy", "apply", "--all", "--dry-run", "--public-access-block")
    assert ended.returncode == 0, ended.stderr
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert {row[0] for row in rows} == {"photos", "films"}
    assert {len(row) for row in rows} == {5}
    assert ["photos", "another account", "list, read, restore, write, delete, settings", "no", "denied"] in rows
    assert '| +      "NotAction": [' in ended.stderr
    assert ended.stderr.count("Access Analyzer was not asked") == 1
    assert (there(s3, "photos"), there(s3, "films")) == (ORIGINAL, None)
    assert not state.with_name(state.name + ".undo").exists()

    ended = as_operator("policy", "apply", "photos", "films", "--public-access-block")
    assert ended.returncode == 0, ended.stderr
    assert "another role: list, read" in ended.stderr
    for bucket in ("photos", "films"):
        text = there(s3, bucket)
        assert policy.has(text, policy.RESTRICT)
        assert policy.has(text, "s") is (bucket == "photos")
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    both = there(s3, "photos")
    ended = as_operator("policy", "apply", "--all", "--public-access-block", "--yes")
    assert ended.returncode == 0, "what is there already is not put again"
    assert ended.stderr.count("as it should be already") == 2
    assert there(s3, "photos") == both

    ended = as_operator("policy", "freeze", "photos", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert policy.has(there(s3, "photos"), policy.FREEZE)
    ended = as_operator("policy", "rollback", "photos")
    assert ended.returncode == 5
    assert "policy unfreeze" in ended.stderr
    assert as_operator("policy", "unfreeze", "photos").returncode == 0
    assert there(s3, "photos") == both
    ended = as_operator("policy", "rollback", "--all")
    assert ended.returncode == 0, ended.stderr
    assert (there(s3, "photos"), there(s3, "films")) == (ORIGINAL, None)
    for bucket in ("photos", "films"):
        with pytest.raises(ClientError, match="NoSuchPublicAccessBlock"):
            s3.get_public_access_block(Bucket=bucket)
    ended = as_operator("policy", "rollback", "photos", "--state", "another.db")
    assert ended.returncode == 1
    assert "another --state" in ended.stderr
    # The file names the operator, and the guest would be out; a freeze of its own it may not put.
    calls = [("policy", "apply", "photos", "--yes"), ("policy", "freeze", "films", "--yes")]
    ends = one_by_one(run, calls, [{**moto.guest, "AWS_ENDPOINT_URL": moto.url}] * 2)
    assert [ended.returncode for ended in ends] == [5, 1], [ended.stderr for ended in ends]
    assert (there(s3, "photos"), there(s3, "films")) == (ORIGINAL, None)


# Against a server that can be stopped at any request


@pytest.fixture
def fake(environment: dict[str, str]) -> Iterator[S3Server]:
    with S3Server() as server:
        environment.update({**server.env(), "AWS_SECRET_ACCESS_KEY": environment["AWS_SECRET_ACCESS_KEY"]})
        server.bucket("photos")
        server.put("photos", "k", b"1")
        server.buckets["photos"].settings["policy"] = ORIGINAL.encode()
        yield server


@pytest.mark.parametrize("op", ["PutBucketPolicy", "GetBucketPolicy"])
def test_a_kill_between_the_put_and_the_look_leaves_a_way_back(
    op: str, fake: S3Server, run: Run, zygote: Zygote, environment: dict[str, str], tmp_path: Path, state: Path
) -> None:
    settings = fake.buckets["photos"].settings
    deaf = os.open(os.devnull, os.O_RDWR)
    job = Job(["policy", "freeze", "photos", "--yes"], as_by_the_script(environment), str(tmp_path))
    begun: Queue[Begun] = Queue()

    def kill(_: Request) -> None:
        if op == "PutBucketPolicy" or settings["policy"] != ORIGINAL.encode():
            child = begun.get()
            begun.put(child)
            child.kill()

    fault = fake.fault({"op": op}, kill)
    with zygote.begin(job, (deaf, deaf, deaf)) as child:
        begun.put(child)
        assert child.wait(60) == -signal.SIGKILL
    os.close(deaf)
    fake.calm(fault)
    until = time.monotonic() + 60
    while settings["policy"] == ORIGINAL.encode():
        assert time.monotonic() < until, "the server goes on with the request of the dead"
        time.sleep(0.01)
    record = state.with_name(state.name + ".undo") / "photos.json"
    assert json.loads(record.read_text())["changes"][0]["before"] == ORIGINAL
    assert record.stat().st_mode & 0o777 == 0o600
    ended = run("policy", "unfreeze", "photos")
    assert ended.returncode == 0, ended.stderr
    assert settings["policy"] == ORIGINAL.encode()


def test_what_would_lock_out_is_refused_with_5(fake: S3Server, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    everybody = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::photos/*"}
    (folder / "photos_policy.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": [everybody]}))
    ended = run("--json", "policy", "apply", "photos", "--dry-run")
    assert ended.returncode == 5, ended.stderr
    told = json.loads(ended.stdout)["buckets"][0]
    assert told["locked_out"] == ["you could not s3:DeleteObject any more"]
    assert told["policy"]["now"] == ORIGINAL
    assert {"who", "deeds", "before", "after"} == told["access"][0].keys()
    (folder / "broken_policy.json").write_text("{")
    fake.bucket("broken")
    fake.bucket("films")
    locks, broken, lacks = one_by_one(
        run,
        [
            ("policy", "apply", "photos", "--yes", "--replace"),
            ("policy", "apply", "broken", "--yes"),
            ("policy", "apply", "films", "--yes"),
        ],
    )
    assert (locks.returncode, broken.returncode, lacks.returncode) == (5, 1, 1)
    assert "could not s3:DeleteObject" in locks.stderr
    assert "not a bucket policy" in broken.stderr
    assert "policy generate films" in lacks.stderr
    assert fake.count("PutBucketPolicy") == 0


def test_a_choice_at_the_terminal(fake: S3Server, environment: dict[str, str], tmp_path: Path) -> None:
    fake.bucket("films")
    near, far = pty.openpty()
    child = subprocess.Popen(
        [PROGRAM, "policy", "generate"],
        env=environment | {"TERM": "dumb"},
        cwd=tmp_path,
        stdin=far,
        stdout=subprocess.PIPE,
        stderr=far,
    )
    os.close(far)
    with closing(os.fdopen(near, "r+b", buffering=0)) as terminal:
        seen = b""
        while b"nothing for none" not in seen:
            seen += terminal.read(4096)
        assert b"1: films" in seen
        assert b"2: photos" in seen
        terminal.write(b"2\n")
        assert child.wait(30) == 0
    assert [path.name for path in (tmp_path / "policies").iterdir()] == ["photos_policy.json"]
    told = json.loads((tmp_path / "policies" / "photos_policy.json").read_text())
    assert f"arn:aws:iam::{ACCOUNT}:user/operator" in json.dumps(told)


def test_on_a_terminal_the_name_is_asked_for(
    fake: S3Server, zygote: Zygote, environment: dict[str, str], tmp_path: Path
) -> None:
    """P6: a wrong name changes nothing."""
    for typed, expected in (("photo\n", 5), ("photos\n", 0)):
        code, said = at_a_terminal(
            zygote, "policy", "freeze", "photos", env=environment, cwd=tmp_path, asked="to go on", answer=typed
        )
        assert code == expected, said
        assert policy.has(fake.buckets["photos"].settings["policy"].decode(), policy.FREEZE) is (expected == 0)
