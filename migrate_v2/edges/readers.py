"""Small files are read back in a few processes: in threads of one they wait for Python's lock at each of ten system calls.

A reader computes and decides nothing. What it cannot read it says nothing of, and whoever asked reads it himself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import NamedTuple, Self

from migrate_v2.checksums import Measured, Reading
from migrate_v2.edges import child
from migrate_v2.edges.disk import Disk
from migrate_v2.model import FileIdentity, Witness

# kinds and part sizes of the witnesses to compute
Wanted = tuple[tuple[str, tuple[int, ...]], ...]
Found = tuple[Measured, FileIdentity] | None


class File(NamedTuple):
    path: str
    size: int
    wanted: Wanted


class Readers:
    """So many processes, started when the first files are to be read, and ended with the block. Called from threads."""

    def __init__(self, disk: Disk, count: int) -> None:
        self._disk = disk
        self._count = count
        self._lock = Lock()
        self._all: list[tuple[subprocess.Popen[bytes], Connection]] = []
        self._idle: SimpleQueue[Connection | None] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, line in self._all:
            line.close()
            process.kill()  # it only reads
            process.wait()

    def read(self, files: Sequence[File]) -> list[Found]:
        """Of each file what was read, in one pass from the disk, or None: not a plain file of this size, unchanged."""
        with self._lock:
            if not self._all:
                for _ in range(self._count):
                    self._all.append(child.start(__name__, (self._disk.passed_on()[1],)))
                    self._idle.put(self._all[-1][1])
                    with suppress(OSError):
                        self._all[-1][1].send(self._disk.passed_on())
        line = self._idle.get()
        try:
            if line is None:
                return [None] * len(files)
            line.send(files)
            return [answer and (Measured(*answer[0]), FileIdentity(*answer[1])) for answer in line.recv()]
        except (EOFError, OSError):
            line = None  # it is gone
            return [None] * len(files)
        finally:
            self._idle.put(line)


def serve() -> None:
    """The whole life of a reader."""
    line = child.mine()
    with suppress(EOFError, OSError):
        disk = Disk.inherited(*line.recv())
        while True:
            line.send([_read(disk, file) for file in line.recv()])
    os._exit(0)


def _read(disk: Disk, file: File) -> tuple[tuple[object, ...], tuple[int, ...]] | None:
    # Tuples, for dataclasses take six times as long from process to process.
    try:
        with disk.reading(file.path, drop_cache=True) as opened:
            if opened.identity.size != file.size:
                return None
            reading = Reading(Witness(kind, "", 0, parts) for kind, parts in file.wanted)
            for block in opened.blocks():
                reading.update(block)
            read, of = reading.finish(), opened.identity
            return (read.size, read.sha256, read.values), (
                of.device,
                of.inode,
                of.size,
                of.mtime_ns,
                of.ctime_ns,
                of.links,
            )
    except Exception:  # noqa: BLE001 - the one who asked meets it too, and knows what it means
        return None
