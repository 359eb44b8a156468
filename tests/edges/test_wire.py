"""The wire gives the bytes of an object or nothing: whatever is not plainly the object is for somebody else."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from migrate_v2.edges import wire
from migrate_v2.edges.wire import Wire, authorization
from migrate_v2.shards import Credentials, Source

BODY = b"the body"
ETAG = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
PLAIN = {"Content-Length": str(len(BODY)), "ETag": f'"{ETAG}"'}


def answer(status: str = "200 OK", body: bytes = BODY, **changed: str | None) -> bytes:
    """`changed` with _ for -; None leaves a header out."""
    headers = PLAIN | {name.replace("_", "-"): value for name, value in changed.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def crc(content: bytes) -> str:
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


@contextmanager
def server(*answers: bytes, then_closes: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """Gives these answers in turn, whatever is asked, on as many connections as come; what was asked is in the list."""
    asked: list[bytes] = []
    left = iter(answers)

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := connection.recv(1 << 16):
                asked.append(request)
                reply = next(left, b"")
                for start in range(0, len(reply), 40):  # in pieces, as a network may
                    connection.sendall(reply[start : start + 40])
                    time.sleep(0.001)
                if then_closes or not reply:
                    return

    def listen() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=listen, daemon=True).start()
        yield listening.getsockname()[1], asked
        listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def on(port: int) -> Iterator[Wire]:
    ours, theirs = os.pipe()
    made = Wire(Source("http", "127.0.0.1", port, "/b/", "us-east-1"), "b.host", Credentials("id", "secret", "t"), ours)
    try:
        yield made
    finally:
        made.close()
        os.close(ours)
        os.close(theirs)


def asked(made: Wire, size: int = len(BODY), etag: str = ETAG, version: str = "") -> bytes | None:
    made.ask("it", "/b/k", [("if-match", f'"{etag}"')], size, etag, version)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for task, body in made.turn(0.5)[1]:
            assert task == "it" and made.under_way == 0
            return body
    raise AssertionError("no answer at all")


@pytest.mark.parametrize(
    ("reply", "is_it"),
    [
        (answer(), True),
        (answer(Connection="close"), True),
        (answer(x_amz_checksum_crc32=crc(BODY)), True),
        (answer(x_amz_checksum_crc32=crc(b"other")), False),
        (answer(x_amz_checksum_crc32="AAAAAA==-2"), True),  # of parts: says nothing of the whole
        (answer(x_amz_checksum_novel="AAAA"), True),
        (answer("206 Partial Content"), False),
        (answer("503 Slow Down"), False),
        (answer(ETag=None), False),  # not S3's answer
        (answer(ETag='"another"'), False),
        (answer(Content_Length=None), False),
        (answer(body=BODY + b"!", Content_Length=str(len(BODY) + 1)), False),
        (answer(body=BODY + b"!"), False),
        (answer(Transfer_Encoding="chunked"), False),
        (b"garbage\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, False),
        (b"", False),
    ],
)
def test_only_what_is_plainly_the_object_is_an_answer(reply: bytes, is_it: bool) -> None:
    with server(reply) as (port, _), on(port) as made:
        assert asked(made) == (BODY if is_it else None)


@pytest.mark.parametrize(
    ("version", "answered", "is_it"),
    [
        ("v1", "v1", True),
        ("v1", None, True),
        ("v1", "v2", False),
        ("null", "v2", False),
        ("", "v2", False),
        ("", "null", True),
    ],
)
def test_answer_that_names_another_version_is_no_answer(version: str, answered: str | None, is_it: bool) -> None:
    with server(answer(x_amz_version_id=answered)) as (port, _), on(port) as made:
        assert asked(made, version=version) == (BODY if is_it else None)


@pytest.mark.parametrize("etag", [f'W/"{ETAG}"', f'"{ETAG}-1"', f'"{ETAG.upper()}"'])
def test_answer_with_another_form_of_the_etag_is_no_answer(etag: str) -> None:
    with server(answer(ETag=etag)) as (port, _), on(port) as made:
        assert asked(made, version="v1") is None


def test_a_body_that_ends_early_is_no_answer() -> None:
    with server(answer(body=BODY[:-1]), then_closes=True) as (port, _), on(port) as made:
        assert asked(made) is None


def test_a_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.2)
    with server(answer(body=BODY[:-1])) as (port, _), on(port) as made:
        assert asked(made) is None


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with on(port) as made:
        assert asked(made) is None


def test_a_connection_is_used_again_and_one_that_was_closed_meanwhile_is_not() -> None:
    with server(answer(), answer(), answer(Connection="close"), answer()) as (port, requests), on(port) as made:
        assert [asked(made) for _ in range(4)] == [BODY] * 4
        assert len(requests) == 4
    with server(answer(), answer(), then_closes=True) as (port, _), on(port) as made:
        assert asked(made) == BODY
        made.turn(0.2)  # hears that it is closed
        assert asked(made) == BODY


def test_an_object_of_no_bytes() -> None:
    with server(answer(body=b"", Content_Length="0")) as (port, _), on(port) as made:
        assert asked(made, size=0) == b""


def test_the_bell_is_heard() -> None:
    ours, theirs = os.pipe()
    made = Wire(Source("http", "127.0.0.1", 1, "/b/", "us-east-1"), "host", Credentials("id", "secret"), ours)
    assert made.turn(0) == (False, [])
    os.write(theirs, b"!")
    assert made.turn(5) == (True, [])
    made.close()


@pytest.mark.parametrize("token", ["", "a token/of+the=session"])
@pytest.mark.parametrize("target", ["/b/k", "/b/a%20b/%C3%A4/~.._-", "/b//x/../y", "/k?versionId=3%2FL4kq"])
def test_requests_are_signed_as_botocore_signs_them(target: str, token: str) -> None:
    headers = {"host": "b.host", "if-match": '"abc"', "x-amz-checksum-mode": "ENABLED"}
    if token:
        headers["x-amz-security-token"] = token
    request = AWSRequest("GET", f"http://b.host{target}", headers=dict(headers))
    S3SigV4Auth(BotoCredentials("id", "secret", token or None), "s3", "eu-west-1").add_auth(request)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    path, _, query = target.partition("?")
    ours = sorted((name, value) for name, value in theirs.items() if name != "authorization")
    assert authorization(Credentials("id", "secret", token), "eu-west-1", path, query, ours) == theirs["authorization"]


def test_what_goes_out_is_signed_whole() -> None:
    with server(answer()) as (port, requests), on(port) as made:
        asked(made)
    first, *lines = requests[0].decode().split("\r\n")
    sent = dict(line.split(": ", 1) for line in lines if line)
    assert first == "GET /b/k HTTP/1.1" and sent["host"] == "b.host"
    said = sent.pop("authorization")
    sent.pop("user-agent")
    assert said == authorization(Credentials("id", "secret", "t"), "us-east-1", "/b/k", "", sorted(sent.items()))
    assert sent["x-amz-security-token"] == "t"
