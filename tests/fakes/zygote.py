"""The program without the second that Python takes to start: each run is a fork of this process, with its own fault.

`python -m tests.fakes.zygote FD` answers on the listening socket FD, each connection by a fork of its own: it takes a byte
with the three streams of a run, then a JSON object in a line (see tests/fakes/forks.py), and answers twice: {"pid": ...}
when the run has begun, {"code": ...} when it has ended, as Python gives it (-9 for SIGKILL). The run is
migrate_v2.cli.main in a process of its own, with its own environment, folder, streams and session, and it ends as Python
ends. What is not as in a process that was started: the files of botocore's that all runs read are read once, and so is
the version of the environment's own `aws`; where the job asks for haste, the waits between attempts are cut short, and
the life of proofs where LIFETIME_OF_PROOFS (seconds) says so. A run whose environment has VERSIONING_SETTLES takes the id
`null` for settled so many seconds after versioning was first seen to be Enabled.

A fault is planted in the n-th call of a kind, counted from 1; `fired` is made just before it takes effect.

    at        | the calls
    ----------|------------------------------------------------------------------
    write     | os.write, os.pwrite to a regular file
    fsync     | os.fsync, os.fdatasync, syncfs(2)
    rename    | os.rename, os.replace, os.link, os.unlink, os.mkdir, os.ftruncate
    open      | os.open
    commit    | COMMIT of SQLite
    statement | every other statement of SQLite

    do                       | then
    -------------------------|---------------------------------------------------------------------
    EIO, ENOSPC, EDQUOT, ... | that error, the call undone; of SQLite, the error that it makes of it
    kill, kill-after         | SIGKILL before or after the call
    short                    | a write that writes a part, as POSIX lets it
    drop, flip               | a disk that lies: nothing is written, or one bit is wrong; and all is well
"""

from __future__ import annotations

import atexit
import errno
import functools
import gc
import json
import os
import signal
import socket
import sqlite3
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import botocore.session
from botocore.retries.standard import ExponentialBackoff

from migrate_v2 import cli, model
from migrate_v2.edges import awscli, disk, s3
from tests.fakes import without
from tests.fakes.forks import Fault, end_with_parent

KINDS: dict[str, tuple[str, ...]] = {
    "write": ("write", "pwrite"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("rename", "replace", "link", "unlink", "mkdir", "ftruncate"),
    "open": ("open",),
}
SQL = ("commit", "statement")
_SAID = {"EIO": "disk I/O error", "ENOSPC": "database or disk is full", "EBUSY": "database is locked"}


class Gate:
    """Counts the calls of one kind, and does what was asked at the n-th."""

    def __init__(self, fault: Fault, fired: str) -> None:
        self.fault, self.fired, self.count = fault, fired, 0
        self._open, self._write, self._close, self._kill = os.open, os.write, os.close, os.kill

    def due(self) -> bool:
        self.count += 1
        if self.count != self.fault.n:
            return False
        self._close(self._open(self.fired, os.O_CREAT | os.O_WRONLY, 0o600))
        if self.fault.do == "kill":
            self.die()
        return True

    def die(self) -> None:
        self._kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    def around(self, real: Callable[..., Any], *, data: bool) -> Callable[..., Any]:
        fault = self.fault

        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            if (data and not stat.S_ISREG(os.fstat(args[0]).st_mode)) or not self.due():
                return real(*args, **kwargs)
            if fault.do == "kill-after":
                real(*args, **kwargs)
                self.die()
            if fault.do == "short":
                return real(args[0], bytes(args[1])[: max(1, len(args[1]) // 2)], *args[2:])
            if fault.do == "drop":
                if real is self._write:
                    os.lseek(args[0], len(args[1]), os.SEEK_CUR)
                return len(args[1])
            if fault.do == "flip":
                block = bytearray(args[1])
                if block:
                    block[len(block) // 2] ^= 1
                return real(args[0], block, *args[2:])
            number = getattr(errno, fault.do)
            raise OSError(number, os.strerror(number))

        return call


def plant(fault: Fault, fired: str) -> None:
    gate = Gate(fault, fired)
    if fault.at in SQL:
        _plant_in_sqlite(gate)
        return
    for name in KINDS[fault.at]:
        setattr(os, name, gate.around(getattr(os, name), data=fault.at == "write"))
    if fault.at == "fsync":
        disk._settle = gate.around(disk._settle, data=False)


def _plant_in_sqlite(gate: Gate) -> None:
    real = sqlite3.connect

    def due(sql: str, statement: Callable[[], Any]) -> Any:
        is_commit = sql.lstrip().upper().startswith("COMMIT")
        if is_commit is not (gate.fault.at == "commit") or not gate.due():
            return statement()
        if gate.fault.do == "kill-after":
            statement()
            gate.die()
        raise sqlite3.OperationalError(_SAID[gate.fault.do])

    class Gated(sqlite3.Connection):
        def execute(self, sql: str, *more: Any) -> sqlite3.Cursor:  # type: ignore[override]
            return due(sql, lambda: super(Gated, self).execute(sql, *more))  # type: ignore[no-any-return]

        def executemany(self, sql: str, *more: Any) -> sqlite3.Cursor:
            return due(sql, lambda: super(Gated, self).executemany(sql, *more))  # type: ignore[no-any-return]

        def commit(self) -> None:
            due("COMMIT", super().commit)

    sqlite3.connect = functools.partial(real, factory=Gated)  # type: ignore[assignment]


def begin(job: Mapping[str, Any], streams: list[int]) -> int:
    """Forks; the pid of the run."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        end_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.umask(job["umask"])
        os.chdir(job["cwd"])
        os.environ.clear()
        os.environ.update(job["env"])
        time.tzset()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 64)  # the zygote's own; and nothing else is open yet
        sys.argv = ["migrate-v2", *job["argv"]]
        # As in Python's UTF-8 mode.
        sys.stdin = open(0, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        if job["hasty"]:
            hasten()
        if seconds := os.environ.get("VERSIONING_SETTLES"):
            model.VERSIONING_SETTLES = float(seconds)
        if job["fault"]:
            plant(Fault(**job["fault"]), job["fired"])
        code = cli.main(job["argv"])
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def hasten() -> None:
    ExponentialBackoff.delay_amount = lambda *_: 0.001  # type: ignore[assignment,method-assign]
    s3.SLOW_DOWN = 0.01


def warm() -> None:
    """Everything that a run would load, loaded once; nothing is connected yet."""
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    if "faketime" in os.environ.get("LD_PRELOAD", ""):
        # libfaketime 0.9.10 answers EINVAL to the absolute times that Python sleeps until, unless it moves all clocks.
        time.sleep = lambda seconds: threading.Event().wait(seconds) and None  # type: ignore[assignment]
    if seconds := os.environ.get("LIFETIME_OF_PROOFS"):
        model.LIFETIME = float(seconds)
    without.take_away()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_CONFIG_FILE": os.devnull}
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    made = s3.S3(endpoint_url="http://127.0.0.1:9", region="us-east-1")
    made._session.client("sts", endpoint_url="http://127.0.0.1:9", region_name="us-east-1")
    ask, own = awscli._asked, str(Path(sys.prefix, "bin", "aws"))
    told = ask(own, 60, lambda: False)
    awscli._asked = lambda path, *more: told if path == own else ask(path, *more)
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(60)  # sh's, about to end; a fork has only the thread that forks
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()


def answer(connection: socket.socket) -> None:
    """One run, from its begin to its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rwb") as lines:
        job = json.loads(lines.readline())

        def tell(**told: int) -> None:
            lines.write(json.dumps(told).encode() + b"\n")
            lines.flush()

        pid = begin(job, streams)
        for stream in streams:
            os.close(stream)
        tell(pid=pid)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        tell(code=ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
        lines.read()  # until whoever asked has done with it
        os.waitpid(pid, 0)


def serve(listener: socket.socket) -> None:
    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    signal.signal(signal.SIGCHLD, reap)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            end_with_parent()
            try:
                answer(connection)
            finally:
                os._exit(0)
        connection.close()


if __name__ == "__main__":
    end_with_parent()
    warm()
    serve(socket.socket(fileno=int(sys.argv[1])))
