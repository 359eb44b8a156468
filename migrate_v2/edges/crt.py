"""The AWS Common Runtime, and for small objects the wire, fetch shards in a few processes of their own: one Python process
is bound by its lock.

A worker gets its credentials through a private socket, writes through edges/disk.py below the destination and nowhere
else, and answers with plain values; rows are moved by who started it. It ends with its parent, whatever ends that.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from awscrt import auth, http, io, s3  # type: ignore[import-untyped]

from migrate_v2.answers import bare_etag, content_range, names_version
from migrate_v2.edges import child
from migrate_v2.edges.disk import Changed, Disk, DiskError, Landing, Obstacle, Sink
from migrate_v2.edges.wire import SMALL, Wire
from migrate_v2.errors import Failure
from migrate_v2.keys import show
from migrate_v2.shards import Credentials, Item, Result, Shard, Sign, Source

# Attempts at one object beyond those that the runtime itself makes; then it is left to the plain GETs.
ATTEMPTS = 3
# So many in a row without an answer: it is not the objects.
HOPELESS = 20
# Seconds without a byte, while there is work, after which a worker is given up.
SILENCE = 60.0
# Seconds that a worker has to take its unfinished files away.
LEAVE = 0.5
# Shards that a worker has at a time: one to work on, one so that it need not wait.
AHEAD = 2
MEMORY = 1 << 30  # of one worker for parts in flight; the runtime takes no less
_PIECE = (64 << 10, 8 << 20)

_BY_PATH = Path("/proc/self/fd").is_dir()  # elsewhere every byte goes through Python
_BUSY = (b"SlowDown", b"RequestLimitExceeded", b"Throttl", b"TooManyRequests", b"ServiceUnavailable")
_FINAL = (301, 400, 401, 403, 404, 405, 409, 410, 412, 416)


@dataclass(frozen=True, slots=True)
class Engine:
    """How much the workers do at once. Sizes in bytes."""

    workers: int
    window: int  # requests in flight, in each
    threshold: int  # from here on an object comes in parallel ranges
    part: int
    large: int  # from here on an interrupted object is continued


@dataclass(frozen=True, slots=True)
class _Setup:
    disk: tuple[Path, int, bool, bool]
    bucket: str
    source: Source
    credentials: Credentials
    engine: Engine
    rate: int | None


@dataclass(frozen=True, slots=True)
class _Rate:
    bytes: int | None  # a second, None for no limit


@dataclass(frozen=True, slots=True)
class _Leave:
    pass


# -- this side: start, feed, hear, stop


class _Worker:
    def __init__(self, process: subprocess.Popen[bytes], line: Connection) -> None:
        self.process = process
        self.line = line
        self.shards: dict[int, int] = {}  # number: how many items
        self.bytes = self.throttled = 0
        self.rate: int | None = None
        self.heard = time.monotonic()


class Workers:
    """Processes that fetch shards of one bucket; with the block they end, and what they had begun is taken away.

    They hold `lock_fds` open for as long as they live, as everything that writes to the destination does.
    """

    def __init__(
        self,
        disk: Disk,
        bucket: str,
        source: Source,
        credentials: Credentials,
        engine: Engine,
        lock_fds: Sequence[int],
        rate: int | None = None,
    ) -> None:
        self._setup = _Setup(disk.passed_on(), bucket, source, credentials, engine, None)
        self._fds = (disk.passed_on()[1], *lock_fds)
        self._workers: list[_Worker] = []
        self._gone_bytes = self._gone_throttled = 0
        self._rate = rate
        self._credentials = credentials

    def __enter__(self) -> Self:
        try:
            for _ in range(self._setup.engine.workers):
                self._workers.append(_start(self._setup, self._fds))
            self.limit(self._rate)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def bytes(self) -> int:
        """Received by all of them so far."""
        return self._gone_bytes + sum(worker.bytes for worker in self._workers)

    @property
    def throttled(self) -> int:
        return self._gone_throttled + sum(worker.throttled for worker in self._workers)

    @property
    def busy(self) -> bool:
        return any(worker.shards for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def hungry(self) -> bool:
        """Can a shard be given?"""
        return any(len(worker.shards) < AHEAD for worker in self._workers)

    def give(self, shard: Shard) -> None:
        worker = min(self._workers, key=lambda worker: len(worker.shards))
        if not worker.shards:
            worker.heard = time.monotonic()
        worker.shards[shard.number] = len(shard.items)
        with suppress(OSError):  # it is gone, and what it had is told by heard()
            worker.line.send(shard)
        self.limit(self._rate)

    def renew(self, credentials: Credentials) -> None:
        if credentials != self._credentials:
            self._credentials = credentials
            self._send(credentials)

    def limit(self, rate: int | None) -> None:
        """Bytes a second of all together, shared by those that have work."""
        self._rate = rate
        at_work = sum(bool(worker.shards) for worker in self._workers) or len(self._workers)
        for worker in self._workers:
            share = None if rate is None else max(1, rate // max(1, at_work))
            if share != worker.rate:
                worker.rate = share
                with suppress(OSError):
                    worker.line.send(_Rate(share))

    def heard(self, seconds: float) -> list[Result]:
        """What has come of shards, at the latest after `seconds`; of a worker that is gone or stands still, all is left."""
        results: list[Result] = []
        for ready in wait([worker.line for worker in self._workers], seconds):
            worker = next(worker for worker in self._workers if worker.line is ready)
            try:
                told = worker.line.recv()
            except (EOFError, OSError):
                results += self._lost(worker, "its worker process ended")
                continue
            worker.heard = time.monotonic()
            if isinstance(told, Sign):
                worker.bytes, worker.throttled = told.bytes, told.throttled
            elif isinstance(told, Result):
                worker.shards.pop(told.number, None)
                results.append(told)
                self.limit(self._rate)
        for worker in [w for w in self._workers if w.shards and time.monotonic() - w.heard > SILENCE]:
            results += self._lost(worker, f"no byte came for {SILENCE:.0f} s")
        return results

    def _send(self, message: object) -> None:
        for worker in self._workers:
            with suppress(OSError):
                worker.line.send(message)

    def _lost(self, worker: _Worker, why: str) -> list[Result]:
        self._workers.remove(worker)
        self._gone_bytes += worker.bytes
        self._gone_throttled += worker.throttled
        _end(worker)
        return [
            Result(number, (), tuple((index, why) for index in range(count))) for number, count in worker.shards.items()
        ]

    def _stop(self) -> None:
        self._send(_Leave())
        until = time.monotonic() + LEAVE
        try:
            for worker in self._workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, until - time.monotonic()))
        finally:
            for worker in self._workers:
                _end(worker)
            self._workers.clear()


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.wait()
    worker.line.close()


def _start(setup: _Setup, fds: Sequence[int]) -> _Worker:
    process, line = child.start(__name__, fds)
    with suppress(OSError):  # gone already: heard() tells
        line.send(setup)
    return _Worker(process, line)


# -- the other side


def serve() -> None:
    """The whole life of a worker."""
    line = child.mine()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # EFBIG is an error, not an end
    code = 1
    with suppress(EOFError, OSError):
        _Bench(line, line.recv()).work()
        code = 0
    os._exit(code)  # the runtime's threads may hang on a server that is silent


class _Transfer:
    __slots__ = ("attempts", "fd", "index", "item", "making", "refusal", "shard", "sink", "temporary", "written")

    def __init__(self, shard: int, index: int, item: Item) -> None:
        self.shard = shard
        self.index = index
        self.item = item
        self.attempts = 0
        self.temporary = ""
        self.fd = -1
        self.making: AbstractContextManager[Sink] | None = None
        self.sink: Sink | None = None
        self.written = 0  # by us, and not by the runtime itself
        self.refusal = ""  # why the answer under way is not about this item


class _NotThisItem(Exception):
    pass


class _Bench:
    """One worker at work. The runtime's own threads carry it on from answer to answer; this one hears and tells."""

    def __init__(self, line: Connection, setup: _Setup) -> None:
        self._line = line
        self._engine = setup.engine
        self._source = setup.source
        self._bucket = setup.bucket
        self._disk = Disk.inherited(*setup.disk)
        self._landing = Landing(self._disk, setup.bucket)
        host = setup.source.host
        host = f"[{host}]" if ":" in host else host
        usual = 443 if setup.source.scheme == "https" else 80
        self._host = host if setup.source.port == usual else f"{host}:{setup.source.port}"
        self._lock = threading.RLock()
        self._todo: deque[_Transfer] = deque()
        self._small: deque[_Transfer] = deque()  # for the wire, and of this thread alone
        self._wire = Wire(setup.source, self._host, setup.credentials, line.fileno())
        self._later: list[tuple[float, _Transfer]] = []
        self._open: dict[int, _Transfer] = {}  # by id(): under way, and its request
        self._requests: dict[int, Any] = {}
        self._shards: dict[int, list[Any]] = {}  # number: [left to do, came, left, shard]
        self._finished: deque[int] = deque()
        self._allowed = setup.engine.window
        self._in_a_row = 0
        self._rate = setup.rate
        self._due = 0.0
        self._bytes = self._throttled = 0
        self._fatal: tuple[int, str] | None = None
        self._leaving = False
        self._finishers = ThreadPoolExecutor(4)
        self._bootstrap = io.ClientBootstrap(group := io.EventLoopGroup(1), io.DefaultHostResolver(group))
        self._credentials = setup.credentials
        self._client: s3.S3Client | None = None

    @property
    def _runtime(self) -> s3.S3Client:
        """Made when the first object needs it; small ones mostly do not."""
        with self._lock:
            if self._client is None:
                self._client = self._connect(self._credentials)
            return self._client

    def _connect(self, credentials: Credentials) -> s3.S3Client:
        source = self._source
        provider = auth.AwsCredentialsProvider.new_static(
            credentials.access_key, credentials.secret_key, credentials.token or None
        )
        connection = None
        if source.scheme == "https":
            options = io.TlsContextOptions()
            options.verify_peer = source.verifies
            if source.ca_bundle:
                options.override_default_trust_store_from_path(None, source.ca_bundle)
            connection = io.ClientTlsContext(options).new_connection_options()
            connection.set_server_name(source.host)
        return s3.S3Client(
            bootstrap=self._bootstrap,
            region=source.region,
            tls_mode=s3.S3RequestTlsMode.ENABLED if connection else s3.S3RequestTlsMode.DISABLED,
            tls_connection_options=connection,
            signing_config=s3.create_default_s3_signing_config(region=source.region, credential_provider=provider),
            part_size=self._engine.part,
            memory_limit=MEMORY,
            max_active_connections_override=self._engine.window,
            # Once by itself; after that it is for the window of all to shrink, which the runtime does not do.
            retry_config=s3.S3RetryConfig(max_retries=1, backoff_scale_factor_ms=200, max_backoff_secs=2),
            connect_timeout_ms=10_000,
        )

    # Hear and tell

    def work(self) -> None:
        said = self._bytes
        while not self._leaving:
            rang, answers = self._wire.turn(0.02 if self._shards else 1.0)
            if rang and self._line.poll():
                self._told(self._line.recv())
            for transfer, body in answers:
                self._answered(transfer, body)
            self._ask()
            if self._later or self._rate is not None:
                self._pump()
            while self._finished:
                self._conclude(self._finished.popleft())
            if said != self._bytes:
                said = self._bytes
                self._line.send(Sign(said, self._throttled))
        self._leave()

    def _told(self, message: object) -> None:
        match message:
            case Shard():
                transfers = [_Transfer(message.number, index, item) for index, item in enumerate(message.items)]
                with self._lock:
                    self._shards[message.number] = [len(message.items), [], [], message]
                    self._todo.extend(transfer for transfer in transfers if transfer.item.size > SMALL)
                    if not message.items:
                        self._finished.append(message.number)
                self._small.extend(transfer for transfer in transfers if transfer.item.size <= SMALL)
                self._pump()
            case _Rate():
                self._rate = message.bytes
                self._pump()
            case Credentials():
                with self._lock:
                    self._credentials = message
                    self._client = None
                self._wire.renew(message)
            case _Leave():
                self._leaving = True

    def _conclude(self, number: int) -> None:
        _, came, left, shard = self._shards.pop(number)
        moved = self._landing.moved()
        if moved:
            left += [(i, "its folder was moved away") for i in came if shard.items[i].path.rpartition("/")[0] in moved]
            came = [index for index in came if shard.items[index].path.rpartition("/")[0] not in moved]
        self._line.send(Sign(self._bytes, self._throttled))
        self._line.send(Result(number, tuple(came), tuple(left), self._fatal, self._in_a_row >= HOPELESS))

    def _leave(self) -> None:
        self._wire.close()
        with self._lock:
            self._todo.clear()
            for request in self._requests.values():
                request.cancel()
            for transfer in self._open.values():
                if transfer.temporary:  # an answer that still comes is written into a file without a name
                    with suppress(OSError):
                        os.unlink(transfer.temporary, dir_fd=self._landing.folder)

    # Over the wire

    def _ask(self) -> None:
        """Begins as many small ones as may be under way; those that need more than plain GETs wait for the runtime."""
        if self._small and (self._rate is not None or self._fatal or self._in_a_row >= HOPELESS):
            self._patiently(*self._small)
            self._small.clear()
        while self._small and len(self._open) + self._wire.under_way < self._allowed:
            transfer = self._small.popleft()
            item = transfer.item
            self._wire.ask(transfer, self._target(item), self._conditions(item), item.size, item.etag, item.version_id)

    def _answered(self, transfer: _Transfer, body: bytes | None) -> None:
        if body is None:
            self._patiently(transfer)
            return
        try:
            transfer.temporary, transfer.fd = self._landing.begin()
            rest = memoryview(body)
            while rest:
                rest = rest[os.write(transfer.fd, rest) :]
            self._arrived(transfer)
        except BaseException as failure:  # noqa: BLE001 - told as the reason why it was left
            self._failed(transfer, failure)

    def _patiently(self, *transfers: _Transfer) -> None:
        """By the runtime: it asks again, and says what is wrong."""
        with self._lock:
            self._todo.extend(transfers)
        self._pump()

    def _target(self, item: Item) -> str:
        target = self._source.prefix + quote(item.key, safe="/~")
        return f"{target}?versionId={quote(item.version_id, safe='')}" if item.version_id else target

    def _conditions(self, item: Item) -> list[tuple[str, str]]:
        """What belongs to every request for it, in lower case."""
        headers = [("x-amz-checksum-mode", "ENABLED")]
        if item.etag and not item.version_id:
            headers.append(("if-match", f'"{item.etag}"'))
        if self._source.owner:
            headers.append(("x-amz-expected-bucket-owner", self._source.owner))
        return headers

    # From object to object

    def _pump(self) -> None:
        """Begins as many as may be under way; called whenever one ends."""
        while True:
            with self._lock:
                now = time.monotonic()
                if self._later:
                    due = [entry for entry in self._later if entry[0] <= now]
                    self._later = [entry for entry in self._later if entry[0] > now]
                    self._todo.extendleft(transfer for _, transfer in due)
                if self._leaving or not self._todo or len(self._open) + self._wire.under_way >= self._allowed:
                    return
                if self._rate is not None and now < self._due:
                    return
                transfer = self._todo.popleft()
                self._open[id(transfer)] = transfer
                if self._rate is not None:
                    share = min(transfer.item.size - transfer.written, self._piece())
                    self._due = max(now, self._due) + share / self._rate
            if self._fatal or self._in_a_row >= HOPELESS:
                self._give_up(transfer, "there was no answer for those before it")
                continue
            try:
                self._begin(transfer)
            except BaseException as error:  # noqa: BLE001 - told as the reason why it was left
                self._failed(transfer, error)

    def _piece(self) -> int:
        """With a limit nothing is asked for that takes much more than a second."""
        return min(max(self._rate or 0, _PIECE[0]), _PIECE[1])

    def _begin(self, transfer: _Transfer) -> None:
        item = transfer.item
        if item.size >= self._engine.large:
            if transfer.sink is None:
                when = item.mtime_ns / 1e9
                transfer.making = self._disk.continuing(
                    item.path, self._bucket, item.partial, when, every=self._engine.large
                )
                transfer.sink = transfer.making.__enter__()
                self._bytes += transfer.sink.written
            transfer.written = transfer.sink.written
        elif transfer.fd < 0:
            transfer.temporary, transfer.fd = self._landing.begin()
        if transfer.written == item.size > 0:  # that an object has no bytes is for S3 to say
            self._arrived(transfer)
            return
        headers = [("host", self._host), ("user-agent", "migrate-v2"), *self._conditions(item)]
        left = item.size - transfer.written
        pieces = self._rate is not None and left > self._piece()
        if pieces:
            headers.append(("Range", f"bytes={transfer.written}-{transfer.written + self._piece() - 1}"))
        elif transfer.written:
            headers.append(("Range", f"bytes={transfer.written}-"))
        parallel = not pieces and left >= self._engine.threshold and left > self._engine.part
        by_us = transfer.sink is not None or pieces or transfer.written > 0 or not _BY_PATH
        request = self._runtime.make_request(
            type=s3.S3RequestType.GET_OBJECT if parallel else s3.S3RequestType.DEFAULT,
            operation_name=None if parallel else "GetObject",
            request=http.HttpRequest("GET", self._target(item), http.HttpHeaders(headers)),
            # The file is open and of no other name: what the runtime opens by this path is that very file.
            recv_filepath=None if by_us else f"/proc/self/fd/{transfer.fd}",
            # Of a range there is no checksum of S3's.
            checksum_config=s3.S3ChecksumConfig(validate_response=True) if not (pieces or transfer.written) else None,
            on_headers=partial(self._headed, transfer),
            on_body=partial(self._received, transfer) if by_us else None,
            on_done=partial(self._done, transfer),
        )
        with self._lock:
            if id(transfer) in self._open:
                self._requests[id(transfer)] = request

    def _headed(self, transfer: _Transfer, status_code: int, headers: Sequence[tuple[str, str]], **_: object) -> None:
        if status_code not in (200, 206):
            return
        transfer.refusal = _refusal(transfer, status_code, {name.lower(): value for name, value in headers})
        if transfer.refusal:
            raise _NotThisItem(transfer.refusal)

    def _received(self, transfer: _Transfer, chunk: bytes, **_: object) -> None:
        if transfer.written + len(chunk) > transfer.item.size:
            raise _NotThisItem("more bytes arrived than the object has")
        if transfer.sink is not None:
            transfer.sink.write(chunk)
        else:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(transfer.fd, rest) :]
        transfer.written += len(chunk)
        self._bytes += len(chunk)

    def _done(
        self, transfer: _Transfer, error: BaseException | None, error_body: bytes | None = None, **_: object
    ) -> None:
        try:
            with self._lock:
                self._requests.pop(id(transfer), None)
            if error is not None:
                self._failed(transfer, error, error_body or b"")
            elif transfer.written and transfer.written < transfer.item.size:  # the next piece
                with self._lock:
                    self._open.pop(id(transfer), None)
                    self._todo.appendleft(transfer)
            else:
                self._arrived(transfer)
        except BaseException as failure:  # noqa: BLE001 - an exception here would be lost in the runtime
            self._failed(transfer, failure)
        self._pump()

    def _arrived(self, transfer: _Transfer) -> None:
        item = transfer.item
        if transfer.sink is not None:
            self._finishers.submit(self._finish_long, transfer)
            return
        if self._leaving:
            return
        self._landing.finish(item.path, transfer.temporary, transfer.fd, item.size, item.mtime_ns)
        transfer.fd, transfer.temporary = -1, ""
        self._bytes += item.size - transfer.written
        self._in_a_row = 0
        if self._allowed < self._engine.window:
            self._allowed += random.random() < 0.1  # noqa: S311 - slowly up again
        self._settle(transfer, None)

    def _finish_long(self, transfer: _Transfer) -> None:
        try:
            assert transfer.making is not None
            # Whatever is at this path is not this version, and nobody knows here whether it is the only copy of another.
            self._disk.quarantine(transfer.item.path, self._bucket)
            transfer.making.__exit__(None, None, None)
            transfer.making = transfer.sink = None
            self._in_a_row = 0
            self._settle(transfer, None)
        except BaseException as failure:  # noqa: BLE001 - as in _done
            transfer.attempts = ATTEMPTS
            self._failed(transfer, failure)
        self._pump()

    def _failed(self, transfer: _Transfer, error: BaseException, body: bytes = b"") -> None:
        """Again, later, or left; what the disk refuses ends it all.

        what went wrong                          | then
        -----------------------------------------|------------------------------------------
        the disk is full, read-only, broken      | nothing is begun any more, and it is told
        something is in the way at the path      | left
        S3 says: slow down                       | again later, and fewer at once from now on
        S3 says no (denied, gone, another ETag)  | left
        the answer is not about this item        | left
        anything else                            | again a little later, ATTEMPTS times
        """
        if transfer.fd >= 0 and not transfer.sink:
            self._landing.abandon(transfer.temporary, transfer.fd)
            transfer.fd, transfer.temporary = -1, ""
            self._bytes -= transfer.written
            transfer.written = 0
        if fatal := _fatal(error, self._disk, transfer.item.path):
            self._fatal = self._fatal or fatal
            self._give_up(transfer, fatal[1])
            return
        status, name = getattr(error, "status_code", None), getattr(error, "name", "")
        # After its own attempts the runtime has a name for this, and no status.
        busy = status in (429, 503) or name == "AWS_ERROR_S3_SLOW_DOWN" or any(word in body for word in _BUSY)
        refused, transfer.refusal = transfer.refusal, ""
        final = bool(refused) or isinstance(error, (Obstacle, Changed, Failure)) or (status in _FINAL and not busy)
        transfer.attempts += 1
        if final or self._leaving or transfer.attempts >= ATTEMPTS + 3 * busy:
            self._in_a_row += not final  # S3 may say no to a whole folder, and has answered then
            self._give_up(transfer, show(refused or f"{status or ''} {error}".strip())[:200])
            return
        pause = 2.0**transfer.attempts / 4
        with self._lock:
            if busy:
                self._throttled += 1
                self._allowed = max(1, self._allowed // 2)
                pause *= 4
            self._open.pop(id(transfer), None)
            self._later.append((time.monotonic() + pause * random.uniform(0.5, 1.0), transfer))  # noqa: S311

    def _give_up(self, transfer: _Transfer, why: str) -> None:
        if transfer.making is not None:
            making, transfer.making, transfer.sink = transfer.making, None, None
            # What is there stays for whoever goes on with it.
            with suppress(BaseException):
                making.__exit__(Failure, Failure(why), None)
        self._settle(transfer, why)

    def _settle(self, transfer: _Transfer, why: str | None) -> None:
        with self._lock:
            self._open.pop(id(transfer), None)
            entry = self._shards.get(transfer.shard)
            if entry is None:
                return
            if why is None:
                entry[1].append(transfer.index)
            else:
                entry[2].append((transfer.index, why))
            entry[0] -= 1
            if entry[0] == 0:
                self._finished.append(transfer.shard)


def _refusal(transfer: _Transfer, status: int, headers: Mapping[str, str]) -> str:
    """Why this answer with a body is not about the item, or not the range that was asked for; "" where it is."""
    item, begin = transfer.item, transfer.written
    etag, version = headers.get("etag"), headers.get("x-amz-version-id")
    if etag is None:
        return "unexpected response without an ETag"
    if item.etag and bare_etag(etag) != item.etag:
        return f"unexpected response: ETag {etag} instead of {item.etag}"
    if not names_version(item.version_id, version):
        return f"unexpected response: version {version} instead of {item.version_id or 'null'}"
    if status == 206:
        found = content_range(headers.get("content-range"))
        # The runtime puts parallel ranges together, and may give the answer to the whole without this header.
        wrong = found[::2] != (begin, item.size) if found else "content-range" in headers
        return f"unexpected response: range {headers['content-range']}" if wrong else ""
    if begin:
        return "the endpoint knows no ranges"
    if headers.get("content-length", str(item.size)) != str(item.size):
        return f"unexpected response: {headers['content-length']} bytes instead of {item.size}"
    return ""


# The runtime's own words for what a disk refuses, but for the first without the errno behind them.
_DISK_ERRORS = {
    "AWS_ERROR_NO_SPACE": errno.ENOSPC,
    "AWS_ERROR_FILE_WRITE_FAILURE": errno.EIO,
    "AWS_ERROR_FILE_OPEN_FAILURE": errno.EIO,
    "AWS_ERROR_MAX_FDS_EXCEEDED": errno.EMFILE,
    "AWS_ERROR_NO_PERMISSION": errno.EACCES,
}


def _fatal(error: BaseException, disk: Disk, path: str) -> tuple[int, str] | None:
    if isinstance(error, DiskError):
        return error.errno, str(error)
    number = _DISK_ERRORS.get(getattr(error, "name", ""), 0)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError):
        number = error.errno or errno.EIO
    if not number:
        return None
    try:
        disk.refuse(number, path)
    except DiskError as told:
        return number, str(told)
    except Failure:  # an obstacle at this path: of this object alone
        return None
