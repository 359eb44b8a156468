"""Every test runs without this machine's AWS and its settings; who wants an S3 gets a real server on 127.0.0.1."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from tests.fakes.forks import ROOT, Job, Zygote, as_by_the_script, bare_environment, consenting, end_with_parent
from tests.fakes.oracle import Oracle, beside, in_state_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROGRAM = ROOT / "bin" / "migrate-v2"
FAKES = ROOT / "tests" / "fakes"

Ended = subprocess.CompletedProcess[str]
Run = Callable[..., Ended]

_accounts = itertools.count(100_000_000_001)


@pytest.fixture(autouse=True)
def nobodys_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in set(os.environ) - set(bare_environment()):
        monkeypatch.delenv(name)
    nowhere = tmp_path_factory.getbasetemp() / "nowhere"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


# What needs more than a Python


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--system", action="store_true", help="run what needs root, mounts and npm too; CI does")
    parser.addoption("--soak", action="store_true", help="run only what takes minutes")
    parser.addoption(
        "--rounds", type=int, help="so many rounds of each test that takes minutes, in place of its own number"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    soak = config.getoption("--soak")
    left_out = [
        item
        for item in items
        if bool(item.get_closest_marker("soak")) is not soak
        or (item.get_closest_marker("system") and not config.getoption("--system"))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
        config.stash[_LEFT_OUT] = [item for item in left_out if item.get_closest_marker("system")]


_LEFT_OUT = pytest.StashKey[list[pytest.Item]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(
            f"left out, because they need root, mounts or npm: {len(left_out)} tests; run them with ARGS=--system"
        )
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, line in report.user_properties:
                    terminalreporter.write_line(f"{name}: {line}")


# A real S3


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ministack(place: Path, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """The URL of a MiniStack that runs with `more` in its environment."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(
            [ROOT / ".venv-servers" / "bin" / "ministack"],
            env=bare_environment()
            | {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "HOME": str(place)}
            | dict(more or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=place,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/_ministack/health", timeout=2).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"MiniStack did not start:\n{(place / 'log').read_text()[-2000:]}")
                time.sleep(0.05)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a MiniStack for the whole test run; each access key of 12 digits is an account of its own there."""
    with ministack(tmp_path_factory.mktemp("ministack")) as url:
        yield url


@pytest.fixture
def account() -> str:
    """An account that no other test has; it is its own access key."""
    return str(next(_accounts))


@pytest.fixture
def secret(account: str) -> str:
    return f"never/shown+{account}/secret"


def client(endpoint: str, account: str, secret: str = "-") -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=account,
        aws_secret_access_key=secret,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}),
    )


@pytest.fixture
def boto(endpoint: str, account: str, secret: str) -> S3Client:
    return client(endpoint, account, secret)


@pytest.fixture
def bucket(boto: S3Client, account: str) -> str:
    """A new bucket of the test's own account, never versioned."""
    name = f"bucket-{account}"
    boto.create_bucket(Bucket=name)
    return name


def fill(boto: S3Client, bucket: str, objects: dict[str, bytes], **more: Any) -> None:
    for key, body in objects.items():
        boto.put_object(Bucket=bucket, Key=key, Body=body, **more)


def in_s3(boto: S3Client, bucket: str) -> list[tuple[str, str]]:
    """(key, version id) of every version and delete marker that the server lists."""
    found = []
    for page in boto.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            found.append((entry["Key"], entry["VersionId"]))
    return sorted(found)


# The program


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the buckets come to; not there yet."""
    return tmp_path / "home"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def oracle(endpoint: str, home: Path, state: Path) -> Iterator[Oracle]:
    """Stands between the program and MiniStack: whatever it deletes has to be on this disk, and announced, at that instant."""
    with Oracle(endpoint, beside(home), announced=in_state_file(state)) as oracle:
        yield oracle


@pytest.fixture
def environment(oracle: Oracle, account: str, secret: str, home: Path, state: Path, tmp_path: Path) -> dict[str, str]:
    """What the program runs with: the test's own account, destination, state file and HOME."""
    (tmp_path / "user").mkdir()
    return bare_environment() | {
        "HOME": str(tmp_path / "user"),
        "PATH": os.defpath,  # without whatever `aws` this machine may have
        "XDG_CONFIG_HOME": str(tmp_path / "user" / ".config"),
        "AWS_ACCESS_KEY_ID": account,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": oracle.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "MIGRATE_V2_LOCAL_BASE_PATH": str(home),
        "MIGRATE_V2_STATE_DB_PATH": str(state),
        "MIGRATE_V2_RESTORE_POLL_SECONDS": "1",
    }


def changed(environment: dict[str, str], changes: dict[str, str | None] | None) -> dict[str, str]:
    """With `changes`; a variable that is None there is taken away."""
    both: dict[str, str | None] = {**environment, **(changes or {})}
    return {name: value for name, value in both.items() if value is not None}


@pytest.fixture
def run(environment: dict[str, str], secret: str, tmp_path: Path, zygote: Zygote) -> Run:
    """Runs the program to its end, without a terminal. P8: whatever it says has no secret in it, and no traceback.

    A fork of a Python that has begun already, as by bin/migrate-v2; that script itself is run where `program` names it.
    """

    def run(
        *arguments: str | Path,
        input: str | None = None,
        env: dict[str, str | None] | None = None,
        timeout: float = 120,
        program: Path | None = None,
        cwd: Path = tmp_path,
        umask: int = 0o022,
    ) -> Ended:
        words = [str(argument) for argument in arguments]
        variables = changed(environment, env)
        with (
            tempfile.TemporaryFile("w+", errors="surrogateescape") as given,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            given.write(input or "")
            given.seek(0)
            streams = (given, out, err)
            with (
                zygote.begin(Job(words, as_by_the_script(variables), str(cwd), umask=umask), streams)
                if program is None
                else subprocess.Popen(
                    [program, *consenting(words, variables, str(cwd))],
                    env=variables,
                    cwd=cwd,
                    umask=umask,
                    stdin=given,
                    stdout=out,
                    stderr=err,
                )
            ) as child:
                try:
                    code = child.wait(timeout)
                finally:
                    child.kill()
            for said in (out, err):
                said.seek(0)
            ended = Ended(words, code, out.read(), err.read())
        for text in (ended.stdout, ended.stderr):
            assert "Traceback" not in text, text
            assert secret not in text
        return ended

    return run


def one_by_one(
    run: Run, calls: Sequence[Sequence[str | Path]], envs: Sequence[dict[str, str | None]] | None = None
) -> list[Ended]:
    return [run(*call, env=env) for call, env in zip(calls, envs or [{}] * len(calls), strict=True)]


# What it left behind


def tree(folder: Path) -> dict[str, bytes | None]:
    """Contents by path relative to `folder`; None for a folder."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def identities(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What changes when a file is written or replaced; but for the lock, which every run writes into."""
    return {
        str(path.relative_to(folder)): ((facts := path.lstat()).st_ino, facts.st_mtime_ns, facts.st_size)
        for path in folder.rglob("*")
        if not path.is_dir() and path.name != "lock"
    }


def query(state: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """As a person would with sqlite3, while nothing runs."""
    with sqlite3.connect(f"{state.as_uri()}?mode=ro", uri=True) as connection:
        rows = connection.execute(sql, values).fetchall()
    connection.close()
    return rows


def states(state: Path, bucket: str) -> dict[str, int]:
    return dict(query(state, "select state, count(*) from files where bucket = ? group by state", bucket))


def phase(state: Path, bucket: str) -> str:
    return str(query(state, "select phase from bucket_status where bucket = ?", bucket)[0][0])


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


# What takes minutes says what it came to


Figures = Callable[[str], None]


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Lines for the end of the test run, of several processes too."""
    return lambda line: record_property("measured", line)


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many rounds: --rounds, or the test's own number."""
    return lambda own: int(request.config.getoption("--rounds") or own)
