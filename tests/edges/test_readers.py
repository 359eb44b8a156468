"""Readers read what is there, from the disk; what is not plainly there they leave to who asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from migrate_v2.checksums import CRC32, MD5_ETAG
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.readers import File, Readers


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk.open(tmp_path / "home") as disk:
        yield disk


def file(path: str, size: int, *kinds: str) -> File:
    return File(path, size, tuple((kind, ()) for kind in kinds))


def test_what_is_there_is_read_and_computed(disk: Disk) -> None:
    content = os.urandom(5000)
    (disk.base / "a").write_bytes(content)
    os.utime(disk.base / "a", ns=(10**18, 10**18 + 1))  # no two of its figures are the same
    (disk.base / "empty").touch()
    with Readers(disk, 1) as readers:
        found, empty = readers.read([file("a", 5000, MD5_ETAG, CRC32), file("empty", 0)])
    assert found is not None and empty is not None
    measured, identity = found
    assert measured.sha256 == hashlib.sha256(content).hexdigest() and measured.size == 5000
    assert measured.values[MD5_ETAG, ()] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert (CRC32, ()) in measured.values
    assert identity == disk.look("a") and empty[0].size == 0


def test_what_is_not_plainly_there_is_nothing(disk: Disk, tmp_path: Path) -> None:
    (disk.base / "short").write_bytes(b"abc")
    (disk.base / "folder").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"abcd")
    (disk.base / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(disk.base / "fifo")
    with Readers(disk, 1) as readers:
        names = ("short", "folder", "link", "fifo", "missing", "../elsewhere")
        assert readers.read([file(name, 4) for name in names]) == [None] * len(names)


def test_several_are_asked_by_several_threads_at_once(disk: Disk) -> None:
    for number in range(300):
        (disk.base / str(number)).write_bytes(str(number).encode())

    def digest(number: int) -> str:
        [found] = readers.read([file(str(number), len(str(number)))])
        assert found is not None
        return found[0].sha256

    with Readers(disk, 2) as readers, ThreadPoolExecutor(8) as pool:
        for number, sha256 in enumerate(pool.map(digest, range(300))):
            assert sha256 == hashlib.sha256(str(number).encode()).hexdigest()
        assert len(readers._all) == 2
    assert all(process.poll() is not None for process, _ in readers._all)


def test_a_reader_that_is_killed_leaves_the_rest_to_who_asked(disk: Disk) -> None:
    (disk.base / "a").write_bytes(b"abc")
    with Readers(disk, 1) as readers:
        assert readers.read([file("a", 3)]) != [None]
        readers._all[0][0].kill()
        readers._all[0][0].wait()
        assert readers.read([file("a", 3)]) == [None]
        assert readers.read([file("a", 3)] * 2) == [None, None]


def test_nothing_is_started_for_nothing(disk: Disk) -> None:
    with Readers(disk, 2) as readers:
        assert readers._all == []
