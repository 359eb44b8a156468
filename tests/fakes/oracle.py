"""A proxy before any S3 server: it passes everything on, and at the instant a DELETE passes it holds the doomed bytes
against the copy on disk.

    with Oracle(server_url, beside(home)) as oracle:
        ... AWS_ENDPOINT_URL=oracle.url ...

It knows nothing of the program: the doomed version is read from the server behind, the copy from the disk. What is wrong
goes into `violations` and makes the end of the `with` block fail; the request is passed on all the same, for this is a
witness and no guard. `passed` has every request with its answer's status.

    a DELETE of ...                                                  | is a violation unless
    -----------------------------------------------------------------|----------------------------------------------
    anything, with neither VersionId nor If-Match                    | never allowed
    a data version                                                   | a regular file holds the same bytes (a folder, if empty)
    a data version, by an If-Match that is not its ETag              | the server answers that it did not delete
    a delete marker                                                  | no data version lies beneath it
    either                                                           | `may_go` and `announced` agree, where they are given
    nothing                                                          | allowed: a canary, or gone already
    an upload, a tag, an annotation, a setting                       | `uploads_may_go`, for uploads alone; a policy, always
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import select
import socket
import sqlite3
import struct
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote, urlsplit

from tests.fakes.s3server import S3Error, make_request

CopyOf = Callable[[str, str, str], Path]
Named = Callable[[str, str, str], bool]
# A request that stands alone may change what another has just been judged by.
_WRITES = ("PUT", "DELETE", "POST")


def beside(home: Path) -> CopyOf:
    """Where the copies lie by what the destination itself says: the map of each bucket, else the plain path."""

    read: dict[str, tuple[tuple[int, int], dict[tuple[str, str], str]]] = {}

    def copy_of(bucket: str, key: str, version_id: str) -> Path:
        listed = home / ".migrate-v2" / bucket / "map.jsonl"
        try:
            facts = listed.stat()
        except FileNotFoundError:
            return home / bucket / key
        if bucket not in read or read[bucket][0] != (facts.st_ino, facts.st_mtime_ns):
            entries = map(json.loads, listed.read_text().splitlines())
            places = {(entry["key"], entry["version_id"]): entry["path"] for entry in entries}
            read[bucket] = (facts.st_ino, facts.st_mtime_ns), places
        path = read[bucket][1].get((key, version_id))
        return home / path if path else home / bucket / key

    return copy_of


def as_recorded(home: Path, state: Path) -> CopyOf:
    """Where the copies lie by the rows of the state file: for what writes no map."""

    def copy_of(bucket: str, key: str, version_id: str) -> Path:
        connection = sqlite3.connect(f"{state.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            sql = "SELECT local_path FROM files WHERE bucket = ? AND key = ? AND version_id = ?"
            row = connection.execute(sql, (bucket, key, version_id)).fetchone()
        finally:
            connection.close()
        return home / (row[0] if row and row[0] else "nowhere")

    return copy_of


class Passed(NamedTuple):
    """One request that went through; status 0 where no answer came back."""

    op: str
    bucket: str
    key: str
    version_id: str
    status: int
    agent: str


@dataclass(frozen=True, slots=True)
class _Named:
    """What one DELETE names, of which a batch has many."""

    bucket: str
    key: str
    version_id: str
    if_match: str


@dataclass(frozen=True, slots=True)
class _There:
    """What the server behind holds under that name."""

    kind: str  # "data", "marker" or "nothing"
    version_id: str
    etag: str
    body: bytes
    archived: bool = False


class Oracle:
    def __init__(
        self,
        behind: str,
        copy_of: CopyOf,
        *,
        may_go: Named | None = None,
        announced: Named | None = None,
        uploads_may_go: bool = False,
    ) -> None:
        self.behind = urlsplit(behind)
        self.copy_of = copy_of
        self.may_go = may_go
        self.announced = announced
        self.uploads_may_go = uploads_may_go
        self.violations: list[str] = []
        self.passed: list[Passed] = []
        self.checked = 0  # data versions whose bytes were compared and were right
        self.markers = 0
        self._lock = threading.Lock()
        self._writing = [threading.Lock() for _ in range(64)]
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._local = threading.local()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()
        if error is None:
            self.verdict()

    def stop(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for sock in left:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def verdict(self) -> None:
        assert not self.violations, "the oracle saw:\n" + "\n".join(self.violations[:20])

    def count(self, op: str) -> int:
        with self._lock:
            return sum(entry.op == op for entry in self.passed)

    # -- passing on

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        reader = BufferedReader(socket.SocketIO(sock, "r"), 65536)
        upstream = http.client.HTTPConnection(self.behind.hostname or "", self.behind.port, timeout=300)
        try:
            while not self._stopping.is_set() and self._one(sock, reader, upstream):
                pass
        except (OSError, ValueError, http.client.HTTPException):
            with contextlib.suppress(OSError):  # what became of it behind is not known here either: a RST
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except BaseException as error:
            self._violation(f"the oracle itself failed: {error!r}")
        finally:
            upstream.close()
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _one(self, sock: socket.socket, reader: BufferedReader, upstream: http.client.HTTPConnection) -> bool:
        """One request, as raw as it came; whether the connection stays."""
        line = reader.readline(65537)
        if not line.strip():
            return False
        method, _, rest = line.decode("latin-1").rstrip("\r\n").partition(" ")
        target = rest.rpartition(" ")[0]
        headers: list[tuple[str, str]] = []
        while (line := reader.readline(65537)) not in (b"\r\n", b"\n"):
            if not line:
                return False
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.strip(), value.strip()))
        names = {name.lower(): value for name, value in headers}
        if names.get("expect", "").lower() == "100-continue":
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in names.get("transfer-encoding", "").lower():
            body, headers = _unchunked(reader), [h for h in headers if h[0].lower() != "transfer-encoding"]
            headers.append(("Content-Length", str(len(body))))
        else:
            body = reader.read(wanted) if (wanted := int(names.get("content-length", 0))) else b""
        headers = [h for h in headers if h[0].lower() not in ("expect", "connection")]
        # Nothing that writes comes between the judgement of a delete and the delete itself; what goes past the oracle does.
        with contextlib.ExitStack() as alone:
            for lock in self._of(method, target):
                alone.enter_context(lock)
            doomed = list(self._doomed(method, target, names, body))
            judged = [(one, self._judge(one, names)) for one in doomed]
            answer = self._answer(upstream, method, target, headers, body, names)
            for one, there in judged:
                self._after(one, there, answer.status)
            _relay(sock, method, answer)
        return not self._stopping.is_set() and names.get("connection", "").lower() != "close"

    def _of(self, method: str, target: str) -> list[threading.Lock]:
        """Of the key that a request writes; of all keys, in one order, where it may write many."""
        if method not in _WRITES:
            return []
        path, _, query = target.partition("?")
        return self._writing if query.startswith("delete") else [self._writing[hash(path) % len(self._writing)]]

    def _answer(
        self,
        upstream: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        names: dict[str, str],
    ) -> http.client.HTTPResponse:
        status = 0
        try:
            answer = _asked(upstream, method, target, headers, body)
            status = answer.status
            return answer
        finally:
            self._note(method, target, names, body, status)

    def _note(self, method: str, target: str, names: dict[str, str], body: bytes, status: int) -> None:
        with contextlib.suppress(S3Error, ValueError):
            request = make_request(method, target, dict(names), body)
            entry = Passed(
                request.op, request.bucket, request.key, request.version_id, status, names.get("user-agent", "")
            )
            with self._lock:
                self.passed.append(entry)

    # -- judging

    def _doomed(self, method: str, target: str, names: dict[str, str], body: bytes) -> Iterator[_Named]:
        try:
            request = make_request(method, target, dict(names), body)
        except S3Error:
            if method == "DELETE":
                self._violation(f"a DELETE that cannot be read: {target!r}")
            return
        op, bucket = request.op, request.bucket
        if op == "DeleteObject":
            if_match = names.get("if-match", "").strip('"')
            yield _Named(bucket, request.key, request.version_id, if_match)
        elif op == "DeleteObjects":
            try:
                document = ET.fromstring(body)
            except ET.ParseError:
                self._violation(f"a DeleteObjects that cannot be read: {body[:200]!r}")
                return
            for entry in document.iter():
                if _local(entry) == "Object":
                    said = {_local(child): child.text or "" for child in entry}
                    yield _Named(
                        bucket, said.get("Key", ""), said.get("VersionId", ""), said.get("ETag", "").strip('"')
                    )
        elif op == "AbortMultipartUpload":
            if not self.uploads_may_go:
                self._violation(f"an upload of {request.key!r} is aborted")
        elif method == "DELETE" and op not in ("DeleteBucket", "DeleteBucketPolicy"):
            self._violation(f"a DELETE of something else: {target!r}")

    def _judge(self, one: _Named, names: dict[str, str]) -> _There | None:
        if not one.version_id and not one.if_match:
            self._violation(f"a delete of {one.key!r} in {one.bucket} without identity")
        try:
            there = self._look(one, names)
        except (OSError, ValueError, http.client.HTTPException, ET.ParseError) as error:
            self._violation(f"what {one.key!r} {one.version_id} is could not be asked: {error!r}")
            return None
        name = (one.bucket, one.key, there.version_id)
        if there.kind == "nothing" or not (one.version_id or one.if_match == there.etag):
            return there  # an honest server deletes nothing now; _after() sees whether this one is
        if self.may_go is not None and not self.may_go(*name):
            self._violation(f"{name} was not to be deleted at all")
        if self.announced is not None and not self.announced(*name):
            self._violation(f"{name} is deleted before the state file says so")
        if there.kind == "data":
            self._compare(name, there)
        return there

    def _compare(self, name: tuple[str, str, str], there: _There) -> None:
        path, body = self.copy_of(*name), there.body
        try:
            if path.is_symlink():
                raise OSError("it is a symbolic link")
            if path.is_dir():
                if not name[1].endswith("/") or body or there.archived:
                    raise OSError("it is a folder")
                copy = b""
            else:
                copy = path.read_bytes()
        except (OSError, ValueError) as error:
            self._violation(f"{name} is deleted and its copy {path} is none: {error}")
            return
        # What is in Glacier again cannot be read, and its ETag is the MD5 of the whole for all that these tests put there.
        same = hashlib.md5(copy, usedforsecurity=False).hexdigest() == there.etag if there.archived else copy == body
        if not same:
            self._violation(f"{name} is deleted with {len(body)} bytes, and {path} holds other {len(copy)}")
            return
        with self._lock:
            self.checked += 1

    def _after(self, one: _Named, there: _There | None, status: int) -> None:
        if there is None or there.kind == "nothing" or one.version_id or not one.if_match or status != 204:
            return
        if one.if_match != there.etag:
            self._violation(f"{one.key!r} was deleted by an If-Match that did not match: {one.if_match}, {there.etag}")

    def _look(self, one: _Named, names: dict[str, str]) -> _There:
        path = f"/{quote(one.bucket)}/{quote(one.key, safe='~')}"
        answer = self._ask(path + (f"?versionId={quote(one.version_id)}" if one.version_id else ""), names)
        status, headers, body = answer
        if status == 200:
            return _There(
                "data", headers.get("x-amz-version-id") or one.version_id or "null", headers["etag"].strip('"'), body
            )
        if status == 404 and not one.version_id and headers.get("x-amz-delete-marker") != "true":
            return _There("nothing", "", "", b"")
        return self._looked_up(one, names, status, archived=b"InvalidObjectState" in body)

    def _looked_up(self, one: _Named, names: dict[str, str], status: int, archived: bool) -> _There:
        """By the listing of all versions: what is under this id, and is it a marker with nothing beneath it?"""
        found: _There | None = None
        markers = key_marker = version_marker = ""
        beneath = 0
        while True:
            query = f"/{quote(one.bucket)}?versions&prefix={quote(one.key, safe='~')}{markers}"
            code, _, body = self._ask(query, names)
            if code == 501 and status == 404:  # it knows no versions
                return _There("nothing", "", "", b"")
            if code != 200:
                raise ValueError(f"{status}, and the list of versions is answered with {code}")
            document = ET.fromstring(_without_controls(body))
            for entry in document:
                kind = {"Version": "data", "DeleteMarker": "marker"}.get(_local(entry))
                said = {_local(child): child.text or "" for child in entry}
                if kind is None or _as_sent(said.get("Key", "")) != _as_sent(_without_controls_text(one.key)):
                    continue
                if kind == "data" and found is not None:
                    beneath += 1
                wanted = said["VersionId"] == one.version_id if one.version_id else said["IsLatest"] == "true"
                if wanted and found is None:
                    found = _There(kind, said["VersionId"], said.get("ETag", "").strip('"'), b"")
            said = {_local(child): child.text or "" for child in document}
            if said.get("IsTruncated") != "true":
                break
            key_marker, version_marker = said.get("NextKeyMarker", ""), said.get("NextVersionIdMarker", "")
            markers = f"&key-marker={quote(key_marker)}&version-id-marker={quote(version_marker)}"
        if found is None:
            return _There("nothing", "", "", b"")
        if found.kind == "data" and archived:
            return replace(found, archived=True)
        if found.kind == "data":
            raise ValueError(f"its bytes are not given: {status}")
        if one.version_id and beneath:
            self._violation(f"the delete marker {one.version_id} of {one.key!r} lies above {beneath} data versions")
        with self._lock:
            self.markers += 1
        return found

    def _ask(self, target: str, names: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """As the sender of the DELETE: the servers behind take the access key and check no signature."""
        sender = [("Host", self.behind.netloc)]
        sender += [(name, names[name]) for name in ("authorization", "x-amz-date") if name in names]
        for last in (False, True):
            held: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
            if held is None:
                held = http.client.HTTPConnection(self.behind.hostname or "", self.behind.port, timeout=60)
                self._local.connection = held
            try:
                answer = _asked(held, "GET", target, sender, b"")
                return answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read()
            except (OSError, http.client.HTTPException):
                held.close()
                self._local.connection = None
                if last:
                    raise
                time.sleep(0.01)
        raise AssertionError

    def _violation(self, text: str) -> None:
        with self._lock:
            self.violations.append(text)


def _asked(
    connection: http.client.HTTPConnection, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
) -> http.client.HTTPResponse:
    if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
        connection.close()  # the server has closed it while it was idle
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value.encode("latin-1"))
    connection.endheaders(body or None)
    return connection.getresponse()


def _relay(sock: socket.socket, method: str, answer: http.client.HTTPResponse) -> None:
    """Sends it on as it comes, and breaks off where it breaks off."""
    own = ("transfer-encoding", "connection", "content-length")
    lines = [f"HTTP/1.1 {answer.status} {answer.reason or 'Unknown'}"]
    lines += [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in own]
    bodiless = method == "HEAD" or answer.status in (204, 304)
    length = answer.getheader("Content-Length")
    whole = answer.read() if length is None and not bodiless else b""
    if answer.status not in (204, 304) and not (bodiless and length is None):
        lines.append(f"Content-Length: {len(whole) if length is None else length}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + whole)
    sent = len(whole)
    while block := answer.read1(65536):
        sock.sendall(block)
        sent += len(block)
    answer.close()
    if not bodiless and length is not None and sent < int(length):
        raise http.client.IncompleteRead(b"")


def _unchunked(reader: BufferedReader) -> bytes:
    body = []
    while size := int(reader.readline().split(b";")[0], 16):
        body.append(reader.read(size))
        reader.readline()
    while reader.readline().strip():
        pass
    return b"".join(body)


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def _without_controls(document: bytes) -> str:
    """Some servers write what XML cannot hold, raw or as references; to compare keys, all of it is one sign."""
    text = re.sub(r"&#(x[0-9a-fA-F]+|[0-9]+);", _reference, document.decode("utf-8", "replace"))
    return _CONTROLS.sub("?", text)


def _reference(found: re.Match[str]) -> str:
    number = int(found[1][1:], 16) if found[1].startswith("x") else int(found[1])
    return "?" if _CONTROLS.match(chr(number)) else found[0]


def _without_controls_text(text: str) -> str:
    return _CONTROLS.sub("?", text)


def _as_sent(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def in_state_file(state: Path) -> Named:
    """Is there an intent without an outcome in the ledger for exactly this, as another process sees it?"""
    seen: tuple[object, ...] = ()
    open_: set[tuple[str, str, str]] = set()
    lock = threading.Lock()

    def announced(bucket: str, key: str, version_id: str) -> bool:
        nonlocal seen, open_
        with lock:
            # No connection is kept: its presence would change what the program finds there.
            now = (_facts(state), _facts(state.with_name(state.name + "-wal")))
            if now != seen:
                connection = sqlite3.connect(f"{state.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
                try:
                    open_ = set(connection.execute(_OPEN))
                finally:
                    connection.close()
                seen = now
            return (bucket, key, version_id) in open_

    return announced


_OPEN = """SELECT bucket, key, version_id FROM ledger i WHERE entry = 'intent'
    AND NOT EXISTS (SELECT 1 FROM ledger o WHERE o.intent = i.seq)"""


def _facts(path: Path) -> tuple[int, ...]:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return ()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
