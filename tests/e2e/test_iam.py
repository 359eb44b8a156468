"""Each phase runs with the IAM policy that the guide gives for it, and not without it: moto enforces identity policies."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.conftest import ROOT, Run, bare_environment, end_with_parent, fill, free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

IAM = ROOT / "docs" / "iam"
BUCKET = "iam-photos"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log:
        server = subprocess.Popen(
            [ROOT / ".venv-servers" / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
            env=bare_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def client(service: str, url: str, **keys: str) -> Any:
    usual = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", **{**usual, **keys})  # type: ignore[call-overload]


def policy(name: str) -> dict[str, Any]:
    """As an operator would use it: the bucket's name in the place of BUCKET."""
    document: dict[str, Any] = json.loads((IAM / f"{name}.json").read_text().replace("BUCKET", BUCKET))
    return document


def enforce(url: str, after: int) -> None:
    """moto checks signatures and identity policies after so many more requests."""
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", str(after).encode(), {"Content-Type": "text/plain"})
    urllib.request.urlopen(request, timeout=5).close()


def keys_with(url: str, *names: str) -> dict[str, str | None]:
    """The environment of a user who holds exactly these policies."""
    enforce(url, 1_000_000)
    iam = client("iam", url)
    user = f"user-{next(_numbers)}"
    iam.create_user(UserName=user)
    # AWS has these under s3:ListBucket, and for everybody; and it asks for the deletion of keys, not of the bucket.
    own = [{"Effect": "Allow", "Action": ["s3:HeadBucket", "sts:GetCallerIdentity"], "Resource": "*"}]
    if "delete" in names:
        own.append({"Effect": "Allow", "Action": ["s3:DeleteObject"], "Resource": f"arn:aws:s3:::{BUCKET}"})
    if names:
        only = json.dumps({"Version": "2012-10-17", "Statement": own})
        iam.put_user_policy(UserName=user, PolicyName="moto", PolicyDocument=only)
    for name in names:
        iam.put_user_policy(UserName=user, PolicyName=name, PolicyDocument=json.dumps(policy(name)))
    key = iam.create_access_key(UserName=user)["AccessKey"]
    enforce(url, 0)
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_ENDPOINT_URL": url,
    }


def test_each_phase_needs_its_policy_and_no_more(run: Run, moto: str, tmp_path: Path) -> None:
    admin: S3Client = client("s3", moto)
    admin.create_bucket(Bucket=BUCKET)
    admin.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    fill(admin, BUCKET, {"a": b"12345", "b/c": b"1"})
    nobody, read = keys_with(moto), keys_with(moto, "read")
    delete = keys_with(moto, "read", "delete")
    assert run("scan", BUCKET, env=nobody).returncode == 1
    assert "access to" in run("scan", BUCKET, env=nobody).stderr
    ended = run("migrate", BUCKET, env=read)
    assert ended.returncode == 0 and "warning" not in ended.stderr, ended.stderr
    assert run("buckets", env=read).stdout.startswith(f"{BUCKET}\t")
    told = json.loads((tmp_path / "home/.migrate-v2" / BUCKET / "bucket.json").read_text())
    assert not [name for name, part in told.items() if isinstance(part, dict) and "AccessDenied" in json.dumps(part)], (
        told
    )
    token = json.loads(run("--json", "confirm-delete", "--dry-run", BUCKET, env=read).stdout)["token"]
    refused = run("confirm-delete", f"--confirm={token}", BUCKET, env=read)
    assert refused.returncode == 1, refused.stderr
    enforce(moto, 1_000_000)
    assert len(admin.list_object_versions(Bucket=BUCKET)["Versions"]) == 2
    enforce(moto, 0)
    token = json.loads(run("--json", "confirm-delete", "--dry-run", BUCKET, env=delete).stdout)["token"]
    ended = run("confirm-delete", f"--confirm={token}", "--remove-bucket", BUCKET, env=delete)
    assert ended.returncode == 0, ended.stderr
    enforce(moto, 1_000_000)
    assert BUCKET not in [b["Name"] for b in admin.list_buckets()["Buckets"]]


def test_restores_and_bucket_policies_have_their_own(moto: str) -> None:
    enforce(moto, 1_000_000)
    admin: S3Client = client("s3", moto)
    admin.create_bucket(Bucket=BUCKET)
    admin.put_object(Bucket=BUCKET, Key="cold", Body=b"1", StorageClass="GLACIER")

    def may(names: tuple[str, ...], ask: Any) -> bool:
        env = keys_with(moto, *names)
        s3 = client(
            "s3", moto, aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"]
        )
        try:
            ask(s3)
        except s3.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", error
            return False
        return True

    def restore(s3: S3Client) -> None:
        s3.restore_object(Bucket=BUCKET, Key="cold", RestoreRequest={"Days": 1})

    def put(s3: S3Client) -> None:
        s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": []}))

    assert not may(("read",), restore) and may(("restore",), restore)
    assert not may(("restore", "delete"), put) and may(("policy",), put)


def test_no_policy_gives_more_than_its_name_says() -> None:
    actions = {
        name: {action for statement in policy(name)["Statement"] for action in statement["Action"]}
        for name in ("read", "restore", "delete", "policy")
    }
    assert all(re_reads(action) for action in actions["read"])
    assert actions["restore"] == {"s3:RestoreObject"}
    assert not [
        a
        for name in ("read", "restore", "policy")
        for a in actions[name]
        if "Delete" in a and a != "s3:DeleteBucketPolicy"
    ]
    assert not any("*" in action for some in actions.values() for action in some)
    assert {f"{name}.json" for name in actions} == {p.name for p in IAM.iterdir()}


def re_reads(action: str) -> bool:
    return action.startswith(("s3:Get", "s3:List"))
