"""P8: no secret gets out, nobody else gets in, and nothing that S3 or a key says steers anything."""

from __future__ import annotations

import json
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Run, fill, in_s3, one_by_one, tree
from tests.fakes.oracle import Oracle
from tests.fakes.s3server import Request, Response, S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OBJECTS = {"plain": b"by the CLI", "a//b": b"aside", "folder/": b"", "folder/in it": b"x"}


def deleted(run: Run, bucket: str, *more: str, env: dict[str, str | None] | None = None) -> None:
    plan = json.loads(run("confirm-delete", "--dry-run", "--json", *more, bucket, env=env).stdout)
    ended = run("confirm-delete", f"--confirm={plan['token']}", *more, bucket, env=env)
    assert ended.returncode == 0, ended.stderr


# -- who may read and write


def test_whatever_is_made_is_its_owners_alone(
    run: Run, boto: S3Client, bucket: str, home: Path, state: Path, tmp_path: Path
) -> None:
    """However open the umask: state, log, lock, destination, manifests, and what the CLI brings."""
    fill(boto, bucket, OBJECTS)
    before = set(tmp_path.rglob("*"))

    assert run("migrate", bucket, umask=0).returncode == 0
    plan = json.loads(run("confirm-delete", "--dry-run", "--json", bucket, umask=0).stdout)
    assert run("confirm-delete", f"--confirm={plan['token']}", bucket, umask=0).returncode == 0
    made = set(tmp_path.rglob("*")) - before
    assert {
        state,
        state.with_suffix(".log"),
        home / bucket / "plain",
        home / ".migrate-v2" / bucket / "state.db",
    } <= made
    for path in made:
        if not path.is_symlink():
            assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


def test_a_state_file_that_others_can_have_written_is_refused(
    run: Run, boto: S3Client, bucket: str, state: Path
) -> None:
    fill(boto, bucket, OBJECTS)
    assert run("scan", bucket).returncode == 0
    state.chmod(0o666)
    for ended in one_by_one(run, [("migrate", bucket), ("status",), ("confirm-delete", "--dry-run", bucket)]):
        assert ended.returncode == 5
        assert "may be written by others" in ended.stderr and ended.stderr.count("\n") == 1
    state.chmod(0o600)
    assert run("migrate", bucket).returncode == 0


# -- secrets


CANARIES = ("canary1SECRETsecretSECRETsecretSECRETse", "canary2TOKENtokenTOKENtoken+/=", "canary3SECRETinTheConfigFile")


@contextmanager
def command_lines() -> Iterator[set[bytes]]:
    """Of every process that runs meanwhile, as often as a thread can look."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with suppress(OSError):
                        seen.add((entry / "cmdline").read_bytes())
            over.wait(0.005)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def test_planted_secrets_are_in_no_artefact(
    run: Run, boto: S3Client, bucket: str, account: str, home: Path, tmp_path: Path
) -> None:
    """Secrets of the environment, of a profile and of the configuration; through success, failure and --verbose."""
    fill(boto, bucket, OBJECTS)
    secret, token, in_config = CANARIES
    user = tmp_path / "user" / ".aws"
    user.mkdir()
    (user / "credentials").write_text(
        f"[canary]\naws_access_key_id = {account}\naws_secret_access_key = {secret}\naws_session_token = {token}\n"
    )
    (user / "config").write_text(
        f"[profile canary]\nregion = us-east-1\n[profile other]\naws_access_key_id = {account}\n"
        f"aws_secret_access_key = {in_config}\n"
    )
    planted = {path: path.read_bytes() for path in (user / "credentials", user / "config")}
    by_variable: dict[str, str | None] = {"AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}
    by_profile: dict[str, str | None] = {
        "AWS_ACCESS_KEY_ID": None,
        "AWS_SECRET_ACCESS_KEY": None,
        "AWS_CONFIG_FILE": None,
        "AWS_SHARED_CREDENTIALS_FILE": None,
    }
    said = []
    with command_lines() as seen:
        said.append(run("-v", "--profile=canary", "migrate", bucket, env=by_profile))
        assert said[-1].returncode == 0, said[-1].stderr
        assert (home / bucket / "plain").read_bytes() == OBJECTS["plain"], "the CLI has had its credentials"
        nobody = {"AWS_ENDPOINT_URL": f"http://{account}:{secret}@127.0.0.1:1"}
        said += one_by_one(
            run,
            [
                ("-v", "whoami"),
                ("-v", "--json", "config"),
                ("-v", "--profile=other", "whoami"),
                ("-v", "--profile=canary", "migrate", "no-such-bucket"),
                ("-v", "scan", "--rescan", bucket),
            ],
            [by_variable, by_variable, by_profile, by_profile, {**by_variable, **nobody}],
        )
        deleted(run, bucket, "--profile=canary", env=by_profile)
    assert any(b"\0s3\0sync\0" in line for line in seen), "the watcher sees the command line of the CLI"
    for canary in CANARIES:
        for ended in said:
            assert canary not in ended.stdout + ended.stderr, ended.args
        assert not [line for line in seen if canary.encode() in line]
        for path in tmp_path.rglob("*"):
            if path.is_file() and not path.is_symlink() and path not in planted:
                assert canary.encode() not in path.read_bytes(), path
    assert {path: path.read_bytes() for path in planted} == planted


def test_the_watcher_of_command_lines_can_see(tmp_path: Path) -> None:
    with command_lines() as seen:
        subprocess.run(["sleep", "0.123456"], check=True)
    assert b"sleep\x000.123456\0" in seen


# -- what is not obeyed


def test_nothing_of_the_users_home_or_environment_takes_the_place_of_the_transfer(
    run: Run, boto: S3Client, bucket: str, home: Path, tmp_path: Path
) -> None:
    """An alias, a plugin, a Python path, a preloaded library, switches of the CLI: each would leave a trace."""
    fill(boto, bucket, OBJECTS)
    user, trace, evil = tmp_path / "user", tmp_path / "trace", tmp_path / "evil"
    (user / ".aws" / "cli").mkdir(parents=True)
    evil.mkdir()
    (user / ".aws" / "cli" / "alias").write_text(f"[toplevel]\ns3 = !touch {trace}\n")
    (user / ".aws" / "config").write_text(f"[plugins]\ncli_legacy_plugin_path = {evil}\nevil = evil\n[default]\n")
    (evil / "evil.py").write_text(f"open({str(trace)!r}, 'w')\ndef awscli_initialize(cli): pass\n")
    env: dict[str, str | None] = {
        "AWS_CONFIG_FILE": None,
        "AWS_CLI_FILE_ENCODING": "utf-16",
        "AWS_DATA_PATH": str(evil),
    }
    ended = run("migrate", bucket, env=env)
    assert ended.returncode == 0, ended.stderr
    assert {path: body for path, body in tree(home / bucket).items() if body is not None} == {
        "plain": b"by the CLI",
        "folder/in it": b"x",
    }
    assert not trace.exists()

    # What a program in the place of the CLI gets to see.
    spy = tmp_path / "spy"
    spy.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "aws-cli/2.40.1" && exit\n/usr/bin/env > {tmp_path}/seen\n'
    )
    spy.chmod(0o700)
    fill(boto, bucket, {"more": b"to fetch"})
    hidden = {
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
        "AWS_CLI_FILE_ENCODING",
        "AWS_DATA_PATH",
        "MIGRATE_V2_X",
        "SOMEBODYS_SECRET",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }
    given: dict[str, str | None] = dict.fromkeys(
        (name for name in hidden if not name.startswith(("MIGRATE_V2_X", "AWS_ACCESS", "AWS_SECRET"))), str(evil)
    )
    assert run("scan", "--rescan", bucket, env=env).returncode == 0
    run("migrate", bucket, env={**env, **given, "MIGRATE_V2_AWS_PATH": str(spy)})
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert "AWS_DEFAULT_REGION" in seen and not hidden & seen
    assert not [name for name in seen if name.startswith(("MIGRATE_V2_", "AWS_CLI_"))] or seen & {"AWS_CLI_AUTO_PROMPT"}


NASTY = "\x1b]0;owned\x07\x1b[2J\u202e\r\nDELETED\x9b31m"


def test_what_a_server_says_does_not_steer_a_terminal(run: Run, tmp_path: Path) -> None:
    """In error codes, messages, headers and XML that is none."""

    def nasty(request: Request, response: Response) -> Response:
        if request.op == "GetCallerIdentity":
            return response
        code = "".join(f"&#{ord(sign)};" for sign in NASTY if sign not in "\x1b\x07") + "\x1b[31m"
        body = f"<Error><Code>Nasty{code}</Code><Message>{code}</Message></Error>".encode()
        return Response(403, [("Content-Type", "application/xml"), ("x-amz-bucket-region", "us-east-1")], body)

    def clean_xml(request: Request, response: Response) -> Response:
        if request.op == "GetCallerIdentity":
            return response
        signs = "".join(f"&#{ord(sign)};" for sign in NASTY if sign not in "\x1b\x07")
        return Response(400, [], f"<Error><Code>C{signs}</Code><Message>M{signs}</Message></Error>".encode())

    for rewrite in (nasty, clean_xml):
        with S3Server() as server:
            server.bucket("bucket")
            server.put("bucket", "k", b"1")
            server.fault(lambda request: request.op != "HeadBucket", rewrite=rewrite)
            ended = run(
                "-v", "migrate", "bucket", f"--endpoint-url={server.url}", f"--state={tmp_path / rewrite.__name__}"
            )
            assert ended.returncode == 1, ended.stderr
            said = ended.stderr + ended.stdout + (tmp_path / rewrite.__name__).with_suffix(".log").read_text()
            assert not [sign for sign in "\x1b\x07\u202e\r\x9b" if sign in said], repr(said)
            assert not [line for line in said.splitlines() if line.startswith("DELETED")]


# -- whose word is taken


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For 127.0.0.1, signed by itself; its key is in the same file."""
    path = tmp_path / "tls.pem"
    name = ["-subj", "/CN=tests", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]
    subprocess.run(
        ["openssl", "req", "-x509", *key, "-out", tmp_path / "cert", "-days", "2", *name],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + (tmp_path / "cert").read_bytes())
    return path


@contextmanager
def over_tls(url: str, certificate: Path) -> Iterator[str]:
    """The same server, spoken to in TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))
    port = int(url.rpartition(":")[2])

    def pipe(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                target.sendall(block)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(raw: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(raw, server_side=True) as sock,
            socket.create_connection(("127.0.0.1", port)) as behind,
        ):
            back = threading.Thread(target=pipe, args=(behind, sock), daemon=True)
            back.start()
            pipe(sock, behind)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


@pytest.mark.system  # openssl
def test_tls_that_nobody_vouches_for_is_no_s3(
    run: Run, boto: S3Client, bucket: str, oracle: Oracle, home: Path, certificate: Path
) -> None:
    """An unknown certificate gets neither bytes nor deletes; one that AWS_CA_BUNDLE names gets both, the CLI's too."""
    fill(boto, bucket, OBJECTS)
    before = in_s3(boto, bucket)
    with over_tls(oracle.url, certificate) as url:
        bundles: list[dict[str, str | None]] = [{}, {"AWS_CA_BUNDLE": ""}, {"AWS_CA_BUNDLE": "/no/such/file"}]
        envs = [{"AWS_ENDPOINT_URL": url, **variables} for variables in bundles]
        for ended in one_by_one(run, [("migrate", bucket)] * len(envs), envs):
            assert ended.returncode in (1, 2), ended.stderr
            assert len(ended.stderr.splitlines()) <= 2, ended.stderr
        assert oracle.passed == []
        known: dict[str, str | None] = {"AWS_ENDPOINT_URL": url, "AWS_CA_BUNDLE": str(certificate)}
        ended = run("migrate", bucket, env=known)
        assert ended.returncode == 0, ended.stderr
        assert (home / bucket / "plain").read_bytes() == OBJECTS["plain"]
        assert in_s3(boto, bucket) == before
        plan = json.loads(run("confirm-delete", "--dry-run", "--json", bucket, env=known).stdout)
        unknown = run("confirm-delete", f"--confirm={plan['token']}", bucket, env={"AWS_ENDPOINT_URL": url})
        assert unknown.returncode in (1, 2) and in_s3(boto, bucket) == before
        assert run("confirm-delete", f"--confirm={plan['token']}", bucket, env=known).returncode == 0
    assert in_s3(boto, bucket) == []


def test_plain_http_is_believed_on_loopback_alone(
    run: Run, boto: S3Client, bucket: str, oracle: Oracle, home: Path, tmp_path: Path
) -> None:
    """Everything but deletion works at another address, and deletion is refused before a single DELETE."""
    fill(boto, bucket, OBJECTS)
    before = in_s3(boto, bucket)
    # By the name of some other host, which only the proxy of this test knows.
    env: dict[str, str | None] = {
        "AWS_ENDPOINT_URL": "http://s3.example.net",
        "http_proxy": oracle.url,
        "HTTP_PROXY": oracle.url,
    }
    ended = run("migrate", bucket, env=env)
    assert ended.returncode == 0, ended.stderr
    plan = json.loads(run("confirm-delete", "--dry-run", "--json", bucket, env=env).stdout)
    assert plan["delete"]["objects"] == len(OBJECTS)
    refused = run("confirm-delete", f"--confirm={plan['token']}", bucket, env=env)
    assert refused.returncode == 5 and "not encrypted" in refused.stderr
    # Loopback by way of a proxy is somebody else's word too.
    by_proxy: dict[str, str | None] = {
        "http_proxy": oracle.url,
        "HTTP_PROXY": oracle.url,
        "NO_PROXY": None,
        "no_proxy": None,
    }
    other = (f"--state={tmp_path / 'other.db'}", f"--dest={tmp_path / 'other'}")
    assert run("migrate", *other, bucket, env=by_proxy).returncode == 0
    plan = json.loads(run("confirm-delete", "--dry-run", "--json", *other, bucket, env=by_proxy).stdout)
    refused = run("confirm-delete", f"--confirm={plan['token']}", *other, bucket, env=by_proxy)
    assert refused.returncode == 5 and "through a proxy" in refused.stderr
    assert oracle.count("DeleteObject") == oracle.count("DeleteObjects") == 0
    assert in_s3(boto, bucket) == before
