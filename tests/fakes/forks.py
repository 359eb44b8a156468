"""Runs of the program, each a fork of one Python that has everything loaded: see tests/fakes/zygote.py for the other side."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

from migrate_v2.edges.mounts import mount_at

ROOT = Path(__file__).resolve().parents[2]

_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Between fork and exec: the child does not outlive a killed test run (Linux)."""
    if _prctl is not None:
        _prctl(1, signal.SIGKILL)


def bare_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MIGRATE_V2_"))}


def as_by_the_script(env: Mapping[str, str]) -> dict[str, str]:
    """What bin/migrate-v2 adds to `env`."""
    beside = f":{env['PYTHONPATH']}" if env.get("PYTHONPATH") else ""
    return {**env, "PYTHONUTF8": "1", "PYTHONPATH": f"{ROOT}{beside}", "PYTHONSAFEPATH": "1"}


def consenting(argv: Sequence[str], env: Mapping[str, str], cwd: str) -> list[str]:
    """With --allow-volatile for `confirm-delete` if this machine has its tests' folders in memory or in a container's layer.

    What is deleted there is a test's. A test of the refusal itself says so in its Job.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--dest=") else [word])]
    named = words[words.index("--dest") + 1] if "--dest" in words else ""
    base = Path(cwd, named or env.get("MIGRATE_V2_LOCAL_BASE_PATH", ""))
    if "confirm-delete" not in argv or mount_at(base).durability.deletes_by_itself:
        return list(argv)
    at = list(argv).index("confirm-delete") + 1
    return [*argv[:at], "--allow-volatile", *argv[at:]]


@dataclass(frozen=True, slots=True)
class Fault:
    at: str
    n: int
    do: str


@dataclass(frozen=True, slots=True)
class Job:
    argv: list[str]
    env: dict[str, str]
    cwd: str
    fault: Fault | None = None
    fired: str = ""
    umask: int = 0o022
    hasty: bool = False  # the waits between attempts are cut short
    consents: bool = True  # see consenting()

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Begun:
    """A run that has begun, as subprocess.Popen has it."""

    def __init__(self, job: Job, connection: socket.socket) -> None:
        self.args, self._connection = job.argv, connection
        self._answers = connection.makefile("rb")
        self.returncode: int | None = None
        self.pid = self._answer()["pid"]

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self._connection.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            finally:
                self._connection.settimeout(None)
            self.returncode = self._answer()["code"]
            self._answers.close()
            self._connection.close()  # only now it is reaped: until here its number is nobody else's
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Begun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.wait()

    def _answer(self) -> dict[str, int]:
        line = self._answers.readline()
        assert line, "the zygote has died"
        answer: dict[str, int] = json.loads(line)
        return answer


class Zygote:
    """The Python that is forked; any number of runs at a time."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._path = str(folder / "zygote")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._path)
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.zygote", str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                cwd=ROOT,
                env=as_by_the_script(bare_environment() | dict(env or {})),
                preexec_fn=end_with_parent,
            )

    def begin(self, job: Job, streams: Sequence[IO[bytes] | IO[str] | int]) -> Begun:
        """`streams` become its stdin, stdout and stderr."""
        if job.consents:
            job = replace(job, argv=consenting(job.argv, job.env, job.cwd))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        numbers = [stream if isinstance(stream, int) else stream.fileno() for stream in streams]
        socket.send_fds(connection, [b"."], numbers)
        connection.sendall(job.line())
        return Begun(job, connection)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
