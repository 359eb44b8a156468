"""Workers speak to what boto3 would speak to, in its way, and to nothing else."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate_v2.edges import crt
from migrate_v2.edges.crt import Engine, Workers
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.wire import SMALL, Wire
from migrate_v2.shards import Item, Result, Shard, Source
from tests.fakes.s3server import S3Server

ENGINE = Engine(workers=1, window=4, threshold=1 << 20, part=256 << 10, large=8 << 20)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.bucket("b")
        yield server


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk.open(tmp_path / "home") as disk:
        yield disk


def connect(server: S3Server, monkeypatch: pytest.MonkeyPatch, url: str | None = None, **more: Any) -> S3:
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    if url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    return S3(region="us-east-1", **more)


def brought(disk: Disk, source: Source, s3: S3, *items: Item) -> Result:
    with Workers(disk, "b", source, s3.credentials(), ENGINE, ()) as workers:
        workers.give(Shard(0, items))
        while True:
            for result in workers.heard(5):
                return result


def item(server: S3Server, key: str, **more: Any) -> Item:
    stored = server.get("b", key)
    assert stored
    facts: dict[str, Any] = {
        "key": key, "version_id": "", "etag": stored.etag.strip('"'), "size": len(stored.body), "path": f"b/{key}",
        "mtime_ns": 10**18, "partial": "0" * 64,
    }  # fmt: skip
    return Item(**(facts | more))


def test_the_source_is_what_botocore_would_ask(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    source = connect(server, monkeypatch).source("b")
    assert source == Source("http", "127.0.0.1", server.port, "/b/", "us-east-1", "", "", True)
    assert server.count("GetObject") == 0
    owned = connect(server, monkeypatch, expected_owner="111122223333").source("b")
    assert owned and owned.owner == "111122223333"


@pytest.mark.parametrize(
    ("configured", "host", "prefix"),
    [
        ("", "bucket.s3.eu-central-1.amazonaws.com", "/"),
        ("s3 =\n  addressing_style = path", "s3.eu-central-1.amazonaws.com", "/bucket/"),
        ("s3 =\n  use_dualstack_endpoint = true", "bucket.s3.dualstack.eu-central-1.amazonaws.com", "/"),
        ("s3 =\n  use_accelerate_endpoint = true", "bucket.s3-accelerate.amazonaws.com", "/"),
    ],
)
def test_at_aws_too(
    configured: str, host: str, prefix: str, server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (config := tmp_path / "config").write_text(f"[default]\n{configured}\n")
    s3 = connect(server, monkeypatch)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    s3 = S3(region="eu-central-1")
    s3._regions["bucket"] = "eu-central-1"
    source = s3.source("bucket")
    assert source and (source.scheme, source.host, source.port) == ("https", host, 443)
    assert source.prefix == prefix and source.region == "eu-central-1" and Path(source.ca_bundle).is_file()


def test_signed_for_the_region_with_owner_and_token(
    server: S3Server, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken")
    s3 = connect(server, monkeypatch, expected_owner="111122223333")
    server.put("b", "k ü", b"body")
    asked: list[Any] = []
    server.fault({"op": "GetObject"}, asked.append)
    source = s3.source("b")
    assert source
    assert brought(disk, source, s3, item(server, "k ü")).came == (0,)
    headers = asked[0].headers
    assert headers["x-amz-security-token"] == "t0ken" and headers["x-amz-expected-bucket-owner"] == "111122223333"
    assert asked[0].principal == "AKIAFAKEFAKEFAKEFAKE" and asked[0].region == "us-east-1"
    assert headers["if-match"].strip('"') == headers["if-match"][1:-1] != ""
    assert asked[0].target == "/b/k%20%C3%BC"


@pytest.fixture
def tls(server: S3Server, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The fake behind TLS with a certificate of its own: the URL, and what has to be trusted for it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(one: socket.socket, other: socket.socket) -> None:
        with one, other:
            try:
                while block := one.recv(65536):
                    other.sendall(block)
                other.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                secured = context.wrap_socket(plain, server_side=True)
            except (OSError, ssl.SSLError):
                continue
            inner = socket.create_connection(("127.0.0.1", server.port))
            for pair in ((secured, inner), (inner, secured)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"https://localhost:{listener.getsockname()[1]}", certificate
    listener.close()


@pytest.mark.system  # openssl
def test_tls_by_a_bundle_of_the_operators_own_and_by_no_other(
    server: S3Server, disk: Disk, tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = tls
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    s3 = connect(server, monkeypatch, url)
    server.put("b", "k", os.urandom(100_000))
    source = s3.source("b")
    assert source and source.scheme == "https" and source.ca_bundle == str(certificate)
    assert brought(disk, source, s3, item(server, "k")).came == (0,)
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setattr(crt, "SILENCE", 2.0)
    untrusting = Source(**{name: getattr(source, name) for name in Source.__slots__} | {"ca_bundle": ""})
    left = brought(disk, untrusting, s3, item(server, "k", path="b/other"))
    assert left.came == () and len(left.left) == 1 and not (disk.base / "b/other").exists()


@pytest.mark.system  # openssl
def test_the_wire_speaks_tls_too(
    server: S3Server, tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, certificate = tls
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    s3 = connect(server, monkeypatch, url)
    body = os.urandom(150_000)  # several records
    server.put("b", "k", body)
    source = s3.source("b")
    assert source
    bell, ringer = os.pipe()
    for trusted, expected in ((source, body), (replace(source, ca_bundle=""), None)):
        wire = Wire(trusted, f"{source.host}:{source.port}", s3.credentials(), bell)
        for _ in range(2):  # the second time on the same connection
            wire.ask("it", "/b/k", [("x-amz-checksum-mode", "ENABLED")], len(body), "")
            while not (answers := wire.turn(5)[1]):
                pass
            assert answers == [("it", expected)]
        wire.close()
    os.close(bell)
    os.close(ringer)


def test_small_objects_come_over_the_wire_and_what_it_does_not_bring_by_the_runtime(
    server: S3Server, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = connect(server, monkeypatch)
    sizes = {"small": 1000, "most": SMALL, "larger": SMALL + 1}
    for key, size in sizes.items():
        server.put("b", key, os.urandom(size))
    asked: list[Any] = []
    server.fault({"op": "GetObject"}, asked.append)
    server.fault({"op": "GetObject", "key": "most"}, "503", times=1)
    source = s3.source("b")
    assert source
    assert sorted(brought(disk, source, s3, *(item(server, key) for key in sizes)).came) == [0, 1, 2]
    for key in sizes:
        stored = server.get("b", key)
        assert stored and (disk.base / "b" / key).read_bytes() == stored.body
    over_the_wire = hashlib.sha256(b"").hexdigest()
    ways: dict[str, list[bool]] = {}
    for request in asked:
        ways.setdefault(request.target.rpartition("/")[2], []).append(
            request.headers["x-amz-content-sha256"] == over_the_wire
        )
    assert ways == {"small": [True], "most": [True, False], "larger": [False]}


def test_a_folder_that_is_moved_away_meanwhile_takes_nothing_along(
    server: S3Server, disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3 = connect(server, monkeypatch)
    server.put("b", "d/one", b"1")
    server.put("b", "d/two", b"2")

    def move(request: Any) -> None:
        if request.key == "d/two":
            os.rename(disk.base / "b/d", tmp_path / "elsewhere")
            (disk.base / "b/d").mkdir()

    server.fault({"op": "GetObject"}, move)
    source = s3.source("b")
    assert source
    with Workers(disk, "b", source, s3.credentials(), Engine(1, 1, 1 << 20, 1 << 20, 8 << 20), ()) as workers:
        workers.give(Shard(0, (item(server, "d/one"), item(server, "d/two"))))
        results: list[Result] = []
        while not results:
            results = workers.heard(5)
    assert results[0].came == () and {index for index, _ in results[0].left} == {0, 1}
