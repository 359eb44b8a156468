"""Small objects come by plain HTTP/1.1, many connections in one thread: that takes a third of the CPU of the Common Runtime.

It knows the plain case only: 200, with the length, the ETag and the checksum that belong to the object. Whatever else comes
is no answer here, and left to a client that knows what it means.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import selectors
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from migrate_v2 import checksums
from migrate_v2.answers import bare_etag, names_version
from migrate_v2.shards import Credentials, Source

# Beyond this an object is worth a client that writes it down as it comes.
SMALL = 256 << 10
# Seconds for a connection to be made, or without a byte.
PATIENCE = 10.0
# Seconds for which an answer of the name server is good.
RESOLVED = 20.0
_ROOM = 64 << 10
_LONGEST_HEAD = 64 << 10
_NO_BODY = hashlib.sha256().hexdigest()

Headers = Sequence[tuple[str, str]]


@lru_cache(4)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for word in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key


def authorization(credentials: Credentials, region: str, path: str, query: str, headers: Headers) -> str:
    """The header that signs a GET (AWS, "Signature Version 4 signing process").

    Path and query as they are sent; names of `headers` in lower case and in order, x-amz-date among them.
    """
    moment = next(value for name, value in headers if name == "x-amz-date")
    names = ";".join([name for name, _ in headers])
    lines = "".join([f"{name}:{value}\n" for name, value in headers])
    asked = hashlib.sha256(f"GET\n{path}\n{query}\n{lines}\n{names}\n{_NO_BODY}".encode()).hexdigest()
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    key = _signing_key(credentials.secret_key, moment[:8], region)
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{asked}".encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"


class _Connection:
    __slots__ = ("etag", "greeted", "heard", "received", "request", "size", "socket", "start", "task", "version")

    def __init__(self, connecting: socket.socket) -> None:
        self.socket = connecting
        self.greeted = False  # connected, and with TLS agreed on it
        self.task: Any = None  # None: idle
        self.request = b""
        self.received = b""
        self.start = -1  # of the body in what was received; -1 while the head is not complete
        self.size = 0
        self.etag = ""  # "": any
        self.version = ""  # the version id that the request names, "" where it names none
        self.heard = time.monotonic()


class Wire:
    """Connections to one bucket. One thread calls; `bell` is a descriptor of its own that is watched beside them."""

    def __init__(self, source: Source, host: str, credentials: Credentials, bell: int) -> None:
        """`host` as the header has it."""
        self._source = source
        self._host = host
        self._credentials = credentials
        self._tls = _context(source) if source.scheme == "https" else None
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell, selectors.EVENT_READ, None)
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._answers: list[tuple[Any, bytes | None]] = []
        self._addresses: list[tuple[int, Any]] = []
        self._resolved = 0.0
        self._turns = 0
        self._looked = time.monotonic()
        self._second = 0
        self._date = ""

    @property
    def under_way(self) -> int:
        return len(self._busy)

    def renew(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def ask(self, task: object, target: str, headers: Headers, size: int, etag: str, version: str = "") -> None:
        """Asks for an object of `size` bytes; turn() gives the answer beside `task`. An empty `etag` is any.

        `version` is the version id that `target` names, "" where it names none: an answer that names another one is None.
        """
        connection = self._idle.pop() if self._idle else self._connect()
        if connection is None:
            self._answers.append((task, None))
            return
        connection.task = task
        connection.request = self._request(target, headers)
        connection.received, connection.start = b"", -1
        connection.size, connection.etag, connection.version = size, etag, version
        connection.heard = time.monotonic()
        self._busy.add(connection)
        if connection.greeted:
            self._send(connection)

    def turn(self, seconds: float) -> tuple[bool, list[tuple[Any, bytes | None]]]:
        """Whether the bell rang, and what came within `seconds`: the bytes, or None for whatever is not the plain case."""
        rang = False
        for ready, _ in self._selector.select(0 if self._answers else seconds):
            if ready.data is None:
                rang = True
            else:
                self._go_on(ready.data)
        now = time.monotonic()
        if now - self._looked > 1:
            self._looked = now
            for connection in [one for one in self._busy if now - one.heard > PATIENCE]:
                self._drop(connection)
        answers, self._answers = self._answers, []
        return rang, answers

    def close(self) -> None:
        for connection in (*self._busy, *self._idle):
            connection.socket.close()
        self._busy.clear()
        self._idle.clear()
        self._selector.close()

    # One connection

    def _connect(self) -> _Connection | None:
        try:
            family, address = self._address()
            made = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            return None
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if made.connect_ex(address) not in (0, errno.EINPROGRESS):
            made.close()
            self._resolved = 0.0
            return None
        connection = _Connection(made)
        self._selector.register(made, selectors.EVENT_WRITE, connection)
        return connection

    def _address(self) -> tuple[int, Any]:
        """Each in turn: S3 has many, and none of them is to bear all."""
        now = time.monotonic()
        if not self._addresses or now - self._resolved > RESOLVED:
            found = socket.getaddrinfo(self._source.host, self._source.port, type=socket.SOCK_STREAM)
            self._addresses = [(family, address) for family, _, _, _, address in found]
            self._resolved = now
        self._turns += 1
        return self._addresses[self._turns % len(self._addresses)]

    def _go_on(self, connection: _Connection) -> None:
        try:
            if connection.greeted:
                self._receive(connection)
            elif self._greet(connection):
                self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
                self._send(connection)
        except OSError:  # of TLS too
            self._drop(connection)

    def _greet(self, connection: _Connection) -> bool:
        """Connected, and with TLS agreed on it? If not, the selector knows what for it waits."""
        wrapped = connection.socket
        if self._tls is not None and not isinstance(wrapped, ssl.SSLSocket):
            self._raise_error(wrapped)
            self._selector.unregister(wrapped)
            wrapped = self._tls.wrap_socket(
                wrapped, server_hostname=self._source.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
            )
            connection.socket = wrapped
            self._selector.register(wrapped, selectors.EVENT_WRITE, connection)
        if isinstance(wrapped, ssl.SSLSocket):
            try:
                wrapped.do_handshake()
            except ssl.SSLWantReadError:
                self._selector.modify(wrapped, selectors.EVENT_READ, connection)
                return False
            except ssl.SSLWantWriteError:
                self._selector.modify(wrapped, selectors.EVENT_WRITE, connection)
                return False
        else:
            self._raise_error(wrapped)
        connection.greeted = True
        return True

    @staticmethod
    def _raise_error(connected: socket.socket) -> None:
        number = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, "connect")

    def _send(self, connection: _Connection) -> None:
        try:
            if connection.socket.send(connection.request) == len(connection.request):
                return
        except OSError:
            pass
        self._drop(connection)  # a request of one packet that does not fit into an empty pipe: something is wrong

    def _receive(self, connection: _Connection) -> None:
        while True:
            try:
                block = connection.socket.recv(_ROOM)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not block or connection.task is None:
                self._drop(connection)
                return
            connection.received = connection.received + block if connection.received else block
            if connection.start < 0 and not self._read_head(connection):
                return
            if connection.start >= 0 and len(connection.received) >= connection.start + connection.size:
                self._deliver(connection)
                return
            connection.heard = time.monotonic()
            if self._tls is None and len(block) < _ROOM:  # all that is there; a record of TLS may wait in the library
                return

    def _read_head(self, connection: _Connection) -> bool:
        """False: not complete yet, or nothing for us, and the connection is dropped then."""
        end = connection.received.find(b"\r\n\r\n")
        if end < 0:
            if len(connection.received) > _LONGEST_HEAD:
                self._drop(connection)
            return self._tls is not None and connection.task is not None
        head = connection.received[:end]
        length = _header(head, b"content-length")
        etag = (_header(head, b"etag") or b"").decode("latin-1")
        version = (_header(head, b"x-amz-version-id") or b"").decode("latin-1")
        plain = (
            head.startswith(b"HTTP/1.1 200")
            and length == b"%d" % connection.size
            and etag
            and (not connection.etag or bare_etag(etag) == connection.etag)
            and names_version(connection.version, version)
            and _header(head, b"transfer-encoding") is None
        )
        if not plain:
            self._drop(connection)
            return False
        connection.start = end + 4
        return True

    def _deliver(self, connection: _Connection) -> None:
        """The bytes, if they are those that S3 has a checksum of; the connection waits for the next request."""
        end = connection.start + connection.size
        body = connection.received[connection.start : end]
        head = connection.received[: connection.start]
        if len(connection.received) > end or not _agrees(head, body):
            self._drop(connection)
            return
        self._answers.append((connection.task, body))
        self._busy.discard(connection)
        connection.task, connection.received = None, b""
        if (_header(head, b"connection") or b"").lower() == b"close":
            self._drop(connection)
        else:
            self._idle.append(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection.task is not None:
            self._answers.append((connection.task, None))
            connection.task = None
        self._busy.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)
        connection.socket.close()

    def _request(self, target: str, headers: Headers) -> bytes:
        if (second := int(time.time())) != self._second:
            self._second = second
            self._date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        path, _, query = target.partition("?")
        signed = [
            ("host", self._host),
            *headers,
            ("x-amz-content-sha256", _NO_BODY),
            ("x-amz-date", self._date),
        ]
        if self._credentials.token:
            signed.append(("x-amz-security-token", self._credentials.token))
        signed.sort()
        lines = "".join([f"{name}: {value}\r\n" for name, value in signed])
        proof = authorization(self._credentials, self._source.region, path, query, signed)
        return f"GET {target} HTTP/1.1\r\n{lines}user-agent: migrate-v2\r\nauthorization: {proof}\r\n\r\n".encode()


def _context(source: Source) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=source.ca_bundle or None)
    if not source.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _header(head: bytes, name: bytes) -> bytes | None:
    """The value of the header of this name, in lower case here and in any there."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _agrees(head: bytes, body: bytes) -> bool:
    """Is there no checksum of the whole in the answer, or is it that of these bytes?"""
    low = head.lower()
    at = low.find(b"\r\nx-amz-checksum-")
    while at >= 0:
        colon = low.find(b":", at)
        algorithm = low[at + 17 : colon].decode("latin-1")
        end = low.find(b"\r\n", colon)
        value = head[colon + 1 : end if end >= 0 else len(head)].strip()
        whole = b"-" not in value and algorithm in checksums.ALGORITHMS
        if whole and base64.b64encode(checksums.digest(algorithm, body)) != value:
            return False
        at = low.find(b"\r\nx-amz-checksum-", colon)
    return True
