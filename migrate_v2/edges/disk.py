"""The destination is touched only here: no link is followed, nothing leaves the base folder, no file is ever half written.

All paths are relative to the base folder, separated by "/", and reach the kernel as UTF-8 whatever the locale says.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import resource
import secrets
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import psutil

from migrate_v2.durability import fsync_needs_write, stores_ctime, syncfs_reaches_disk
from migrate_v2.edges.mounts import Mount, mount_of
from migrate_v2.errors import Busy, Cause, Failure, Refused
from migrate_v2.keys import FileSystem, looks_temporary, show
from migrate_v2.model import FileIdentity, bounded_mtime, uptime
from migrate_v2.space import Volume

OWN = ".migrate-v2"  # no bucket has this name: theirs begin with a letter or a digit
BLOCK = 1 << 20
# A file that can be continued is put on the disk each time so many bytes or seconds went into it: what a power cut costs.
FLUSH_BYTES = 64 << 20
FLUSH_SECONDS = 5.0
# Seconds after which an edit has to show in the ctime: the kernel's clock for it moves every 1 to 10 ms.
_CTIME_STEP = 0.05
# Folders that are known to be no destinations.
_FOLDERS_KNOWN = 10_000
# Fewer are what one batch of files gives back when it fails: then it is they that had run out.
_FEW_INODES = 100
_MARKER = f"{OWN}/.base.json"  # no bucket can have this name
_MARKER_LOCK = f"{OWN}/.base.lock"

_TRIAL = re.compile(r"\.trial-[0-9a-f]{16}")  # no bucket's name begins with a dot
_OURS = re.compile(r"\.mv2-[0-9a-f]{16}\Z")
_QUARANTINED = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]+-([0-9a-f]{16})(?:-|\Z)")
_PARTIAL = re.compile(r"([0-9a-f]{64})(\.json)?")

_DOUBTFUL = ':*?"<>|\\' + "".join(map(chr, range(1, 32))) + "\x7f"  # what FAT, NTFS or SMB refuse or replace

_ADVICE = {
    errno.ENOSPC: "the destination is full: free space and run the same command again",
    errno.EDQUOT: "the quota is used up: free space or raise it, and run the same command again",
    errno.EROFS: "the file system is mounted read-only: remount it writable and run the same command again",
    errno.EACCES: "run as the owner of the destination, or correct the permissions, and run the same command again",
    errno.EPERM: "run as the owner of the destination, or correct the permissions, and run the same command again",
    errno.EIO: "the disk itself reports it: look at the system log, and trust nothing there until it is explained",
    errno.EFBIG: "raise the limit (ulimit -f), or use a file system that holds files of this size",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run the same command again",
    errno.ENFILE: "too many files are open on this machine: close some and run the same command again",
    errno.ENAMETOOLONG: "this file system holds no name or path of this length",
    errno.ESTALE: "the network file system went away: mount it again and run the same command again",
    errno.ENOTCONN: "the file system went away: mount it again and run the same command again",
    errno.ENODEV: "the disk went away: mount it again and run the same command again",
    errno.ENXIO: "the disk went away: mount it again and run the same command again",
    errno.ENOLCK: "this file system cannot lock files: put this file on a local disk",
    errno.EOPNOTSUPP: "this file system cannot do it: use a local disk",
}
_IN_THE_WAY = (
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EXDEV,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EEXIST,
    errno.EBUSY,
    errno.ENXIO,
)
# What a disk in trouble answers, whatever name is asked of it.
_TROUBLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
)


class DiskError(Failure):
    """{0}"""

    cause = Cause.DISK

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text, number)
        self.errno = number


class Obstacle(Failure):
    """{} is a {}: move it away and run the same command again"""

    cause = Cause.OBSTACLE

    def __init__(self, path: str, kind: str, base: str = "") -> None:
        """`path` is where the obstacle is: the path that was asked for, or a folder above it."""
        super().__init__(path, kind, base)
        self.path = path
        self.kind = kind  # folder, file, symbolic link, FIFO, socket, device, mount point
        self.base = base

    def __str__(self) -> str:
        return (type(self).__doc__ or "{} {}").format(
            show(f"{self.base}/{self.path}" if self.base else self.path), self.kind
        )


class Changed(Failure):
    """{} changed while it was in use: let nothing else write to the destination, and run the same command again"""

    cause = Cause.UNREADABLE


@dataclass(frozen=True, slots=True)
class Free:
    """What an unprivileged user may still take. `inodes` is None where the file system has no fixed number of them."""

    bytes: int
    inodes: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies at a path. `kind` is one of Obstacle's; `links` counts its names, `stored` the bytes that it takes on the disk."""

    path: str
    kind: str
    size: int = 0
    mtime_ns: int = 0
    links: int = 1
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """`cores` that this process may run on; memory in bytes."""

    cores: int
    memory_bytes: int
    memory_available: int


# openat2(2): one number on every architecture of Linux but alpha (include/uapi/asm-generic/unistd.h).
_OPENAT2 = 437
# NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH. No other mount either: syncfs(2) reaches one file system only, and
# what it did not reach is not safe.
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08
_O_PATH: int = getattr(os, "O_PATH", 0)
_O_LARGEFILE: int = getattr(os, "O_LARGEFILE", 0)  # open(2) of the C library adds it, 32-bit systems need it
_CAREFULLY = os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
if sys.platform == "linux":
    _syscall.restype = ctypes.c_long
    _syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_How), ctypes.c_size_t]
_HOW_SIZE = ctypes.sizeof(_How)
_LOOK = _How(_O_PATH | _CAREFULLY, 0, _RESOLVE)
# A folder below one of the operator's: other mounts are no danger to what is only read.
_BENEATH = _How(_FOLDER | _CAREFULLY, 0, _RESOLVE & ~0x01)


@lru_cache(64)
def _how(flags: int, mode: int) -> _How:
    return _How(flags | _CAREFULLY | _O_LARGEFILE, mode, _RESOLVE)


def _openat2(folder: int, path: bytes, how: _How) -> int:
    for _ in range(1000):
        fd: int = _syscall(_OPENAT2, folder, path, how, _HOW_SIZE)
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: something was renamed meanwhile, openat2(2)
            break
    raise OSError(number, os.strerror(number))


def _has_openat2(folder: int) -> bool:
    """Any error means no: old kernels answer ENOSYS, old container sandboxes EPERM."""
    if sys.platform != "linux":
        return False
    try:
        os.close(_openat2(folder, b".", _LOOK))
    except OSError:
        return False
    return True


def _walk(base: int, device: int, path: bytes, flags: int, mode: int = 0) -> int:
    """openat2 for kernels without it: one component at a time, none of them a link or on another device."""
    with _walked(base, device, path) as (folder, name):
        fd = os.open(name, flags | _CAREFULLY, mode, dir_fd=folder)
    try:
        _same_device(os.fstat(fd), device)
    except OSError:
        os.close(fd)
        raise
    return fd


@contextmanager
def _walked(base: int, device: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    *folders, name = path.split(b"/")
    here = base
    try:
        for folder in folders:
            there = os.open(folder, _FOLDER | _O_PATH | _CAREFULLY, dir_fd=here)
            if here != base:
                os.close(here)
            here = there
            _same_device(os.fstat(here), device)
        yield here, name
    finally:
        if here != base:
            os.close(here)


def _same_device(facts: os.stat_result, device: int) -> None:
    # Folders only: overlayfs shows its files, not its folders, with the devices of the layers below (kernel, overlayfs.rst).
    if stat.S_ISDIR(facts.st_mode) and facts.st_dev != device:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _bytes(path: str) -> bytes:
    framed = f"/{path}/"
    if "//" in framed or "/./" in framed or "/../" in framed or "\0" in framed:
        raise Refused(f"{show(path)} is no path below the destination")
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Refused(f"{show(path)} cannot be written in UTF-8") from None


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _identity(facts: os.stat_result) -> FileIdentity:
    mtime_ns = bounded_mtime(facts.st_mtime_ns)
    return FileIdentity(facts.st_dev, facts.st_ino, facts.st_size, mtime_ns, facts.st_ctime_ns, facts.st_nlink)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFREG: "file",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")


def _flush(fd: int) -> None:
    """fsync that reaches the disk and not only the drive's memory (macOS: fcntl(2), F_FULLFSYNC)."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise
    os.fsync(fd)


def _flush_folder(fd: int) -> None:
    try:
        _flush(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network and FUSE file systems: nothing to flush
            raise


def _flush_bytes(fd: int) -> None:
    if sys.platform == "darwin":
        _flush(fd)
    else:
        os.fdatasync(fd)


def _write_all(fd: int, block: bytes | bytearray | memoryview) -> int:
    rest = memoryview(block).cast("B")
    size = len(rest)
    while rest:
        rest = rest[os.write(fd, rest) :]
    return size


class OpenFile:
    """A regular file, open for reading. `identity` is what it was when it was opened."""

    def __init__(self, disk: Disk, path: str, fd: int, identity: FileIdentity) -> None:
        self._disk = disk
        self._path = path
        self._fd = fd
        self.identity = identity

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """The whole file from its beginning; each block is valid until the next one.

        Only who takes them all knows what was read: after the last block it is checked that this very file, unchanged,
        is still what the path leads to, and Changed is raised if not.
        """
        room = memoryview(bytearray(min(size, max(self.identity.size, 1))))
        total = 0
        try:
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError as error:
            self._disk._explain(error, self._path, "read")
        while True:
            try:
                length = os.readv(self._fd, [room])
            except OSError as error:
                self._disk._explain(error, self._path, "read")
            if not length:
                break
            total += length
            yield room[:length]
        try:
            # By the path: the descriptor keeps this inode from being given to another file, so the same one is this one.
            now = self._disk.look(self._path)
        except Obstacle as error:
            raise Changed(self._disk._where(self._path)) from error
        if now != self.identity or total != self.identity.size:
            raise Changed(self._disk._where(self._path))


class Sink:
    """A file in the making. `identity` is that of the finished file, None until then."""

    def __init__(self, disk: Disk, path: str, fd: int, record: str = "", written: int = 0, every: int = 0) -> None:
        """With `record`, a path, that file tells after each `every` bytes how many of them are on the disk for good."""
        self._disk = disk
        self._path = path
        self._fd = fd
        self._record = record
        self._every = every
        self._error: OSError | None = None
        self._flushed = written
        self._flushed_at = time.monotonic()
        self.written = written
        self.identity: FileIdentity | None = None

    def write(self, block: bytes | bytearray | memoryview) -> int:
        """All of it, or an error; after an error the file is never finished, even if the caller goes on."""
        try:
            if self._error is not None:
                raise self._error
            size = _write_all(self._fd, block)
            self.written += size
            if self._record:
                unsaved, age = self.written - self._flushed, time.monotonic() - self._flushed_at
                if unsaved >= self._every or age >= FLUSH_SECONDS:
                    self._save()
        except OSError as error:
            self._error = error
            self._disk._explain(error, self._path, "write")
        return size

    def _save(self) -> None:
        _flush_bytes(self._fd)
        with self._disk.replace_text(self._record) as file:
            json.dump({"length": self.written}, file)
        self._flushed, self._flushed_at = self.written, time.monotonic()

    def read_back(self, start: int = 0) -> Iterator[bytes]:
        """What was written so far, from `start` on."""
        while start < self.written:
            try:
                block = os.pread(self._fd, min(BLOCK, self.written - start), start)
            except OSError as error:
                self._disk._explain(error, self._path, "read")
            if not block:
                raise Changed(self._disk._where(self._path))
            start += len(block)
            yield block

    def start_again(self) -> None:
        """Nothing is written."""
        try:
            if self._record:
                self._disk._forget(self._record)
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError as error:
            self._error = error
            self._disk._explain(error, self._path, "write")
        self.written = self._flushed = 0

    def _finish(
        self, folder: int, temporary: bytes, new_folder: int, name: bytes, mtime: float | None, flush: bool
    ) -> FileIdentity:
        try:
            identity = self._put(folder, temporary, new_folder, name, mtime, flush)
        except OSError as error:
            self._disk._explain(error, self._path, "write")
        if self._disk.look(self._path) != identity:  # its folder may have been moved away meanwhile
            raise Changed(self._disk._where(self._path))
        return identity

    def _put(
        self, folder: int, temporary: bytes, new_folder: int, name: bytes, mtime: float | None, flush: bool
    ) -> FileIdentity:
        if self._error is not None:
            raise self._error
        if os.fstat(self._fd).st_size != self.written:
            raise Changed(self._disk._where(self._path))
        if mtime is not None:
            with suppress(PermissionError, OverflowError, ValueError):
                os.utime(self._fd, ns=(round(mtime * 1e9), round(mtime * 1e9)))
        if flush:
            _flush(self._fd)
        try:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=new_folder)
        except OSError as error:
            if error.errno != errno.EXDEV or folder == new_folder:
                raise
            return self._copy(folder, temporary, mtime)  # subvolumes of btrfs, project quotas of XFS
        if flush:
            _flush_folder(new_folder)
        return _identity(os.fstat(self._fd))  # only now: the rename moves ctime

    def _copy(self, folder: int, temporary: bytes, mtime: float | None) -> FileIdentity:
        with self._disk.writing(self._path, mtime) as sink:
            for block in self.read_back():
                sink.write(block)
        os.unlink(temporary, dir_fd=folder)
        assert sink.identity is not None
        return sink.identity


class TextSink:
    """What csv.writer, json.dump and print(file=) need of a text file: UTF-8, newlines as they come."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, text: str) -> int:
        encoded = text.encode("utf-8", "surrogateescape")
        self._waiting.append(encoded)
        self._size += len(encoded)
        if self._size >= BLOCK:
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        block = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._sink.write(block)


class Disk:
    """The base folder, held open. Methods may be called from several threads at once.

    Errors: Obstacle where something else than a file or folder is in the way, DiskError for what the system refuses,
    Refused for a path that does not stay below the base.
    """

    def __init__(self, base: Path, fd: int, walks: bool, flushes_each: bool | None = None) -> None:
        """`flushes_each`: every file and folder is flushed by itself; None where syncfs(2) may not reach the disk."""
        facts = os.fstat(fd)
        self.base = base
        self.device = facts.st_dev
        self._inode = facts.st_ino
        self._fd = fd
        self._walks = walks or not _has_openat2(fd)
        if flushes_each is None:
            flushes_each = sys.platform == "linux" and not syncfs_reaches_disk(self.mount.kind)
        self._flushes_each = flushes_each
        self._numbers = itertools.count(1)
        self._file_system: FileSystem | None = None
        self._unsettled: OSError | None = None
        self._notices_edits: bool | None = None
        self._no_destinations: set[str] = set()
        self._tagging = threading.Lock()
        self._tagged: dict[str, dict[str, list[str]]] = {}  # files in quarantine, by the path that they came from

    @classmethod
    def open(cls, base: Path, create: bool = True, *, walks: bool = False, writes: bool = True) -> Self:
        """`walks` does without openat2(2) even where it exists; it is as safe, and slower.

        Without `writes` the folder may be anybody's, and mounted read-only: it is for reading, and nothing is made.
        """
        base = Path(base).absolute()
        where = show(str(base))
        try:
            if create and writes:
                _make_base(base)
            fd = os.open(base, _FOLDER | _CAREFULLY)
        except ValueError:
            raise Refused(f"{where} is not the name of a folder") from None
        except OSError as error:
            with suppress(OSError):
                mode = os.lstat(base).st_mode
                if stat.S_ISLNK(mode):
                    target = show(os.path.realpath(base))
                    raise Refused(f"{where} is a symbolic link; name the folder it points to: {target}") from None
                if not stat.S_ISDIR(mode):
                    raise Refused(f"{where} is a {_kind(mode)}, not a folder: name a folder") from None
            if error.errno == errno.ENOENT:
                raise DiskError(f"there is no folder {where}: is its disk mounted?", errno.ENOENT) from error
            raise _disk_error(error, "open", where) from error
        try:
            if not writes:
                return cls(base, fd, walks, flushes_each=False)
            facts = os.fstat(fd)
            if facts.st_uid != os.geteuid():
                raise Refused(
                    f"{where} belongs to user {facts.st_uid}, and this is user {os.geteuid()}: "
                    "run as its owner, or name a folder of your own"
                )
            if facts.st_mode & stat.S_IWOTH:
                raise Refused(f"{where} can be written by everybody: take that away (chmod o-w) or name another folder")
            try:
                if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                if not os.access(b".", os.R_OK | os.W_OK | os.X_OK, dir_fd=fd):
                    raise OSError(errno.EACCES, os.strerror(errno.EACCES))
                return cls(base, fd, walks)
            except OSError as error:
                raise _disk_error(error, "write to", where) from error
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def inherited(cls, base: Path, fd: int, walks: bool, flushes_each: bool) -> Self:
        """In another process, over the descriptor that the process which opened the folder passed on."""
        return cls(base, fd, walks, flushes_each)

    def passed_on(self) -> tuple[Path, int, bool, bool]:
        """What inherited() needs there; the descriptor must be among those that the new process keeps."""
        return self.base, self._fd, self._walks, self._flushes_each

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The base itself

    @cached_property
    def mount(self) -> Mount:
        """The file system that the base is on."""
        return mount_of(self._fd)

    def same_place(self) -> None:
        """Refused if the base path now leads elsewhere than when it was opened: unmounted, or replaced."""
        try:
            facts = os.lstat(self.base)
        except OSError as error:
            raise Refused(f"{show(str(self.base))} is gone ({error.strerror}): was its disk unmounted?") from error
        if (facts.st_dev, facts.st_ino) != (self.device, self._inode):
            raise Refused(
                f"{show(str(self.base))} is not the folder any more that it was at the start: "
                "was its disk unmounted, or the folder replaced? Put it back and run the same command again"
            )

    def claim(self, expected_id: str | None) -> str:
        """The id of this base folder, from its marker file, which is written if no id is expected and none is there.

        Refused if one is expected and the folder has none or another: an empty mount point looks just like that.
        """
        self.same_place()
        found = self._marker()
        if expected_id is None and found is None:
            found = self._mark()
        if found is None or expected_id not in (None, found):
            lacks = "has no marker" if found is None else "has the marker of another folder"
            raise Refused(
                f"{show(str(self.base))} {lacks} ({_MARKER}), so it is not where this work began: is its disk not mounted?"
            )
        return found

    def _marker(self) -> str | None:
        try:
            with self.reading(_MARKER) as file:
                text = b"".join(map(bytes, file.blocks()))
        except FileNotFoundError:
            return None
        try:
            found = json.loads(text)["id"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str) or not found:
            raise Refused(f"{self._where(_MARKER)} is damaged: it should hold the id of this folder")
        return found

    def _mark(self) -> str:
        """Under a lock, since two processes that begin at the same time must agree."""
        self.make_folder(OWN)
        try:
            lock = self._open(_bytes(_MARKER_LOCK), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o600)
        except OSError as error:
            self._explain(error, _MARKER_LOCK, "write")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._marker()
            if found is None:
                found = secrets.token_hex(16)
                about = "migrate-v2 knows this folder by this file: leave it here"
                with self.replace_text(_MARKER) as file:
                    json.dump({"id": found, "about": about}, file)
        except OSError as error:
            self._explain(error, _MARKER_LOCK, "lock")
        finally:
            os.close(lock)
        return found

    def outer_destination(self) -> Path | None:
        """A destination that this one lies in, as part of one of its bucket folders or of its own files; None if in none.

        A destination is known by its marker, its bucket folders by the working folder that each bucket has beside it.
        """
        base = Path(os.path.realpath(self.base))
        for folder, above in itertools.pairwise((base, *base.parents)):
            if not os.path.lexists(above / _MARKER):
                continue
            if folder.name == OWN or (above / OWN / folder.name).is_dir():
                return above
        return None

    def inner_destination(self, bucket: str, *, deep: bool) -> str:
        """The path of a destination inside this bucket's folder, "" if there is none; only the folder itself is looked
        at unless `deep`."""
        folders = [bucket]
        while folders:
            path = folders.pop()
            if self._is_destination(path):
                return path
            if deep:
                folders += [entry for entry in self._entries(path, streamed=False) if isinstance(entry, str)]
        return ""

    def _is_destination(self, path: str) -> bool:
        try:
            return self.look(f"{path}/{_MARKER}") is not None
        except Obstacle:
            return False

    def _refuse_inner(self, path: str) -> None:
        """Refused where a folder of this path is a destination of its own: its files are not this one's to write or move."""
        if path == OWN or path.startswith(f"{OWN}/"):
            return
        names = path.split("/")
        for depth in range(1, len(names) + 1):
            folder = "/".join(names[:depth])
            if folder in self._no_destinations:
                continue
            if self._is_destination(folder):
                raise Refused(
                    f"{self._where(folder)} is a destination itself ({_MARKER}), so nothing in it is written or moved: move it"
                    f" out of {show(str(self.base))}, or name another --dest"
                )
            if len(self._no_destinations) >= _FOLDERS_KNOWN:
                self._no_destinations.clear()
            self._no_destinations.add(folder)

    def free(self) -> Free:
        try:
            facts = os.fstatvfs(self._fd)
        except OSError as error:
            raise _disk_error(error, "measure", show(str(self.base))) from error
        # Of btrfs, FAT and others f_files is 0: they have no table of inodes.
        return Free(facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None)

    def settle(self) -> None:
        """All that was written below the base, by anybody, is on the disk; or DiskError, and then for good.

        Where syncfs(2) may not reach the disk, this holds only for what this class wrote, which flushes each file there,
        and for what flush() was called for.

        The kernel reports lost pages to each open file once and forgets (syncfs(2), since Linux 5.8): a second
        call would say that all is well.
        """
        try:
            if self._unsettled is not None:
                raise self._unsettled
            _settle(self._fd)
        except OSError as error:
            self._unsettled = error
            raise _disk_error(error, "save what was written to", show(str(self.base))) from error

    def flush(self, paths: Iterable[str], *, folders_only: bool = False) -> None:
        """The files at these paths, and the folders above them, are on the disk; DiskError where one cannot be flushed.

        Does nothing where settle() is enough. A path that leads to no file is left out: whoever reads it finds that out.
        """
        if not self._flushes_each:
            return
        folders: set[bytes] = set()
        for path in paths:
            raw = _bytes(path)
            try:
                if not folders_only:
                    self._flush_file(raw)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._explain(error, path, "flush")
            while raw:
                raw = raw.rpartition(b"/")[0]
                folders.add(raw)
        for folder in sorted(folders, key=len, reverse=True):
            try:
                fd = self._open(folder, _FOLDER) if folder else os.dup(self._fd)
                try:
                    _flush_folder(fd)
                finally:
                    os.close(fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._explain(error, _text(folder), "flush", "folder")

    def _flush_file(self, path: bytes) -> None:
        """May raise OSError. Does nothing where something else than a regular file is, or where files cannot be flushed."""
        if not stat.S_ISREG(self._stat(path).st_mode):
            return
        flags = os.O_NONBLOCK | os.O_NOCTTY
        fd = -1
        if fsync_needs_write(self.mount.kind):
            with suppress(OSError):  # read-only for us: the next one tells
                fd = self._open(path, flags | os.O_RDWR)
        if fd < 0:
            fd = self._open(path, flags | os.O_RDONLY)
        try:
            _flush(fd)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.ENOTSUP,
                errno.EBADF,
            ):  # no flush at all, or none of such a handle
                raise
        finally:
            os.close(fd)

    def notices_edits(self) -> bool:
        """Whether ctime shows an edit that leaves size and mtime as they were: found by trying, once.

        It does not where ctime follows mtime (sshfs, bindfs --ctime-from-mtime), is not stored (FAT, exFAT), or moves in
        steps that are as long as seconds.
        """
        if self._notices_edits is None:
            self._notices_edits = stores_ctime(self.mount.kind) and self._edit_shows()
        return self._notices_edits

    def _edit_shows(self) -> bool:
        mtime = 10**9
        with self.trial() as folder:
            path = f"{folder}/edited"
            with self.writing(path, mtime) as sink:
                sink.write(b"before")
            before = self.look(path)
            time.sleep(_CTIME_STEP)
            try:
                fd = self._open(_bytes(path), os.O_WRONLY)
                try:
                    os.write(fd, b"after.")
                    os.utime(fd, (mtime, mtime))
                finally:
                    os.close(fd)
            except OSError as error:
                self._explain(error, path, "write")
            return self.look(path) != before

    def filesystem(self) -> FileSystem:
        """What names this file system can hold and tell apart, found by trying, once."""
        if self._file_system is None:
            probe = f"{OWN}/.probe-{secrets.token_hex(8)}"  # no bucket's name begins with a dot
            self.make_folder(probe)
            try:
                try:
                    with self._parent(f"{probe}/x") as (folder, _):
                        try:
                            self._file_system = _probe(folder)
                        finally:
                            for name in os.listdir(folder):  # noqa: PTH208 - a descriptor
                                os.unlink(os.fsencode(name), dir_fd=folder)
                finally:
                    with self._parent(probe) as (folder, name_of_probe):
                        os.rmdir(name_of_probe, dir_fd=folder)
            except OSError as error:
                self._explain(error, probe, "try the file system at", "folder")
        return self._file_system

    # One path

    def look(self, path: str) -> FileIdentity | None:
        """The regular file at this path, None where nothing is; Obstacle where something else is, there or on the way."""
        try:
            facts = self._stat(_bytes(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._explain(error, path, "look at")
        if not stat.S_ISREG(facts.st_mode):
            raise Obstacle(path, _kind(facts.st_mode), str(self.base))
        return _identity(facts)

    def is_folder(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(self._stat(_bytes(path)).st_mode)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                return False
            self._explain(error, path, "look at")

    def make_folder(self, path: str, flush: bool = True) -> None:
        """With the folders above it, 0700 each; nothing happens if it is there. `flush` as in writing()."""
        raw = _bytes(path)
        try:
            os.close(self._folder(raw, make=True, flush=flush))
        except OSError as error:
            self._explain(error, path, "make the folder", "folder")

    @contextmanager
    def reading(self, path: str, drop_cache: bool = False) -> Iterator[OpenFile]:
        """FileNotFoundError where nothing is.

        `drop_cache`: what is read comes from the disk and not from memory, provided that settle() was called since it
        was written (the kernel drops clean pages only, posix_fadvise(2)).
        """
        raw = _bytes(path)
        try:
            # A look first: even to open a device can do something (tapes rewind, watchdogs start).
            mode = self._stat(raw).st_mode
            if not stat.S_ISREG(mode):
                raise Obstacle(path, _kind(mode), str(self.base))
            if drop_cache and self._flushes_each:
                self._flush_file(raw)
            fd = self._open(raw, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._explain(error, path, "read")
        try:
            try:
                facts = os.fstat(fd)
                if stat.S_ISREG(facts.st_mode):
                    _advise(fd, drop_cache)
            except OSError as error:
                self._explain(error, path, "read")
            if not stat.S_ISREG(facts.st_mode):
                raise Obstacle(path, _kind(facts.st_mode), str(self.base))
            yield OpenFile(self, path, fd, _identity(facts))
        finally:
            os.close(fd)

    @contextmanager
    def writing(
        self, path: str, mtime: float | None = None, flush: bool = True, *, staged_for: str = ""
    ) -> Iterator[Sink]:
        """The file appears under its name, whole and on the disk, when the block ends well, and not at all otherwise.

        A regular file that has the name is replaced. `mtime` in seconds since 1970, ignored where it cannot be set.
        Without `flush` it is whole, and on the disk only after settle(): one for many files is far cheaper.
        With `staged_for`, a bucket, the temporary file is in that bucket's private folder, where remove_partials() finds
        it after a kill; without, it is beside `path`.
        """
        flush = flush or self._flushes_each
        self.look(path)
        temporary = b".mv2-" + secrets.token_hex(8).encode()
        with ExitStack() as opened:
            try:
                target, name = self._above(path, make=True, flush=flush)
                opened.callback(os.close, target)
                folder = target
                if staged_for:
                    folder, _ = self._above(f"{_partials(staged_for)}/x", make=True, flush=False)
                    opened.callback(os.close, folder)
            except OSError as error:
                self._explain(error, path, "write")
            try:
                fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600, dir_fd=folder)
            except OSError as error:
                self._explain(error, path, "write")
            try:
                sink = Sink(self, path, fd)
                yield sink
                sink.identity = sink._finish(folder, temporary, target, name, mtime, flush)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            finally:
                with suppress(OSError):  # fsync has reported it, or settle() and the next reading will
                    os.close(fd)

    @contextmanager
    def continuing(
        self, path: str, bucket: str, name: str, mtime: float | None = None, *, every: int = FLUSH_BYTES
    ) -> Iterator[Sink]:
        """As writing() with `flush`, of a file that outlives what breaks off: the next one of that name goes on with it.

        `name` is partial_name() of all that makes the content what it is. `written` of the Sink tells how much is there
        already: only what was on the disk for good, since after a power cut a file may end in zeros. One at a time.
        """
        self.look(path)
        partial = f"{_partials(bucket)}/{name}"
        record = f"{partial}.json"
        self.look(partial)
        length = self._recorded(record)
        try:
            folder, raw = self._above(partial, make=True)
        except OSError as error:
            self._explain(error, partial, "write")
        try:
            try:
                fd = _open_partial(folder, raw)
            except OSError as error:
                self._explain(error, partial, "write")
            try:
                try:
                    if os.fstat(fd).st_size < length:
                        length = 0
                    if not length:  # first, and for good: it would speak of bytes that are still to come
                        self._forget(record)
                    os.ftruncate(fd, length)
                    os.lseek(fd, length, os.SEEK_SET)
                except OSError as error:
                    self._explain(error, partial, "write")
                sink = Sink(self, path, fd, record, length, every)
                yield sink
                self._place(sink, folder, raw, mtime)
                with suppress(OSError):  # of no use any more, and harmless
                    os.unlink(f"{name}.json".encode(), dir_fd=folder)
            finally:
                with suppress(OSError):
                    os.close(fd)
        finally:
            os.close(folder)

    def _place(self, sink: Sink, folder: int, raw: bytes, mtime: float | None) -> None:
        try:
            new_folder, name = self._above(sink._path, make=True)
        except OSError as error:
            self._explain(error, sink._path, "write")
        try:
            sink.identity = sink._finish(folder, raw, new_folder, name, mtime, True)
            with suppress(OSError):
                _flush_folder(folder)
        finally:
            os.close(new_folder)

    def _recorded(self, record: str) -> int:
        try:
            length = json.loads(self.read_text(record) or "{}")["length"]
        except (ValueError, KeyError, TypeError):
            return 0
        return length if isinstance(length, int) and length > 0 else 0

    def _forget(self, record: str) -> None:
        """May raise OSError."""
        with self._parent(record) as (folder, name):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            _flush_folder(folder)

    def partials(self, bucket: str) -> set[str]:
        """The names of what continuing() would go on with."""
        with self._listed_partials(bucket) as (_, names):
            return {found[1] for name in names if (found := _PARTIAL.fullmatch(name))}

    def held_by_partials(self, bucket: str) -> int:
        """Bytes that the beginnings of large objects take on the disk."""
        held = 0
        with self._listed_partials(bucket) as (folder, names):
            for name in names:
                with suppress(FileNotFoundError):
                    held += os.stat(name, dir_fd=folder, follow_symlinks=False).st_blocks * 512
        return held

    def remove_partials(self, bucket: str, names: Collection[str]) -> None:
        """With what a kill left of their records. Not while anything is being continued."""
        with self._listed_partials(bucket) as (folder, there):
            doomed = [n for n in there if _OURS.match(n) or ((found := _PARTIAL.fullmatch(n)) and found[1] in names)]
            try:
                for name in doomed:
                    if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                        os.unlink(name, dir_fd=folder)
            except OSError as error:
                self._explain(error, _partials(bucket), "remove files of")
        with suppress(OSError), self._parent(_partials(bucket)) as (above, raw):
            os.rmdir(raw, dir_fd=above)

    def remove_unfinished(self, bucket: str) -> None:
        """Remove the temporary files of lists that a killed run left in the bucket's folder of our own files.

        Not while any of them is being written.
        """
        own = f"{OWN}/{bucket}"
        try:
            folder = self._open(_bytes(own), _FOLDER)
        except FileNotFoundError:
            return
        except OSError as error:
            self._explain(error, own, "list", "folder")
        try:
            for name in filter(_OURS.match, os.listdir(folder)):  # noqa: PTH208 - a descriptor
                if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=folder)
        except OSError as error:
            self._explain(error, own, "remove files of")
        finally:
            os.close(folder)

    @contextmanager
    def _listed_partials(self, bucket: str) -> Iterator[tuple[int, list[str]]]:
        try:
            folder = self._open(_bytes(_partials(bucket)), _FOLDER)
        except FileNotFoundError:
            yield -1, []
            return
        except OSError as error:
            self._explain(error, _partials(bucket), "list", "folder")
        try:
            yield folder, os.listdir(folder)  # noqa: PTH208 - a descriptor
        finally:
            os.close(folder)

    @contextmanager
    def replace_text(self, path: str) -> Iterator[TextSink]:
        """As writing(), of text."""
        with self.writing(path) as sink:
            text = TextSink(sink)
            yield text
            text.flush()

    def read_text(self, path: str, limit: int = 1 << 20) -> str | None:
        """A small file of ours, None where there is none; DiskError over `limit` bytes."""
        try:
            with self.reading(path) as file:
                if file.identity.size > limit:
                    raise DiskError(f"{self._where(path)} is larger than it can be")
                return b"".join(bytes(block) for block in file.blocks()).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None

    def tail(self, path: str, size: int) -> bytes | None:
        """The last bytes of a file, at most `size`; None where there is none."""
        try:
            with self.reading(path) as file:
                return os.pread(file._fd, size, max(0, file.identity.size - size))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._explain(error, path, "read")

    def quarantine(self, path: str, bucket: str, *, once: bool = True) -> str:
        """The file is moved out of the way, never over another one; its new path, or "" if nothing was there.

        With `once`, a file that came from the same path and has the same bytes as one in quarantine is removed instead, after
        both were read: a job that fetches the same wrong bytes every hour does not fill the disk.
        Refused where it may be a file of another destination, inside of this one or around it.
        """
        there = self.look(path)
        if there is None:
            return ""
        self._refuse_inner(path.rpartition("/")[0])
        if (outer := self.outer_destination()) is not None:
            raise Refused(f"it stays there, for it may be a file of the destination {show(str(outer))} around this one")
        self.flush([path])
        last = path.rpartition("/")[2]
        plain = re.fullmatch(r"[A-Za-z0-9._-]{1,80}", last) and not is_temporary(last)
        tag = hashlib.sha256(_bytes(path)).hexdigest()[:16]
        safe = f"{tag}-{last}" if plain else tag
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        shelter = _quarantine(bucket)
        self.make_folder(shelter)
        try:
            with (
                self._parent(path) as (old_folder, old_name),
                self._parent(f"{shelter}/x") as (new_folder, _),
            ):
                while True:
                    label = f"{now}-{next(self._numbers)}-{safe}"
                    name = label.encode()
                    try:
                        # Takes the name first: rename(2) alone would replace what has it.
                        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY
                        os.close(os.open(name, flags, 0o600, dir_fd=new_folder))
                    except FileExistsError:
                        continue
                    try:
                        os.rename(old_name, name, src_dir_fd=old_folder, dst_dir_fd=new_folder)
                    except OSError:  # no other: after an interrupt the name may be the file's already
                        with suppress(OSError):
                            os.unlink(name, dir_fd=new_folder)
                        raise
                    _flush_folder(new_folder)
                    _flush_folder(old_folder)
                    break
                same = self._same_in_quarantine(bucket, new_folder, label, tag, there.size) if once else ""
                if same:
                    os.unlink(name, dir_fd=new_folder)
                return f"{shelter}/{same or label}"
        except OSError as error:
            if error.errno == errno.ENOENT and self.look(path) is None:
                return ""
            self._explain(error, path, "move away")

    def _same_in_quarantine(self, bucket: str, folder: int, label: str, tag: str, size: int) -> str:
        """The name of a file in quarantine that came from the same path and has the same bytes; "" where there is none."""
        with self._tagging:
            if bucket not in self._tagged:
                self._tagged[bucket] = {}
                for name in os.listdir(folder):
                    if found := _QUARANTINED.match(name):
                        self._tagged[bucket].setdefault(found[1], []).append(name)
            names = self._tagged[bucket].setdefault(tag, [])
            others = [name for name in names if name != label]
            names[:] = [*others, label]
        for other in others:
            with suppress(OSError, Obstacle, Changed, DiskError):
                if os.stat(other, dir_fd=folder, follow_symlinks=False).st_size == size:
                    first, second = (self._digest(f"{_quarantine(bucket)}/{name}") for name in (other, label))
                    if first == second:
                        return other
        return ""

    def _digest(self, path: str) -> bytes:
        digest = hashlib.sha256()
        with self.reading(path, drop_cache=True) as file:
            for block in file.blocks():
                digest.update(block)
        return digest.digest()

    def in_quarantine(self, bucket: str) -> int:
        """Bytes of the files in this bucket's quarantine."""
        try:
            with self._parent(f"{_quarantine(bucket)}/x") as (folder, _), os.scandir(folder) as entries:
                return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
        except FileNotFoundError:
            return 0
        except OSError as error:
            self._explain(error, _quarantine(bucket), "list", "folder")

    def move(self, path: str, to: str) -> FileIdentity | None:
        """Rename the regular file at `path` to `to`; return its identity there, None where nothing is at `path`.

        FileExistsError where something is at `to`; Obstacle where one of the paths cannot be reached by a rename. The
        rename is on the disk after flush_folders() of both paths.
        """
        if self.look(path) is None:
            return None
        self._refuse_inner(path.rpartition("/")[0])
        self.look(to)
        self._refuse_inner(path.rpartition("/")[0])
        try:
            new_folder, name = self._above(to, make=True)
            try:
                with self._parent(path) as (old_folder, old_name):
                    _rename_over_nothing(old_folder, old_name, new_folder, name)
            finally:
                os.close(new_folder)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno == errno.ENOENT and self.look(path) is None:
                return None
            if error.errno == errno.EXDEV:  # subvolumes of btrfs, project quotas of XFS
                raise Obstacle(to, "mount point", str(self.base)) from error
            self._explain(error, path, "move")
        return self.look(to)

    def flush_folders(self, paths: Iterable[str]) -> None:
        """Write the entries of these paths to the disk: the names in the folder of each."""
        for above in sorted({path.rpartition("/")[0] for path in paths}):
            try:
                with self._parent(f"{above}/x") as (folder, _):
                    _flush_folder(folder)
            except FileNotFoundError:
                continue  # nothing was moved from or to it
            except OSError as error:
                self._explain(error, above, "save the folder", "folder")

    # Files of the operator's

    def clone_from(self, source: Source, path: str, mtime: float) -> bool:
        """Write a reflink of `source` to `path`: a file of its own that shares the blocks until one of them is written.

        False where the file systems cannot do that, or something has the path.
        """
        with suppress(_NotCloned), self.writing(path, mtime, flush=False, staged_for=_bucket_of(path)) as sink:
            try:
                _clone(sink._fd, source.fd)
            except OSError as error:
                if error.errno in _NO_CLONES:
                    raise _NotCloned from error
                self._explain(error, path, "write")
            sink.written = source.identity.size
        return self.look(path) is not None

    def copy_from(self, source: Source, path: str, mtime: float) -> None:
        """Write a copy of `source` to `path`, on the disk only after settle(); Changed where it changed meanwhile."""
        with self.writing(path, mtime, flush=False, staged_for=_bucket_of(path)) as sink:
            try:
                os.lseek(source.fd, 0, os.SEEK_SET)
                while block := os.read(source.fd, BLOCK):
                    sink.write(block)
                if _identity(os.fstat(source.fd)) != source.identity:
                    raise Changed(show(str(source.path)))
            except OSError as error:
                self._explain(error, path, "write")

    def link_from(self, source: Source, path: str) -> bool:
        """Give `source` this path as a second name; its mode and times stay as they are.

        False where that cannot be: another file system, one without hard links, or a file of somebody else's
        (fs.protected_hardlinks).
        """
        folder, name = self._made_above(path)
        try:
            os.link(source.name, name, src_dir_fd=source.folder, dst_dir_fd=folder, follow_symlinks=False)
            if _inode(os.stat(name, dir_fd=folder, follow_symlinks=False)) == _inode(os.fstat(source.fd)):
                return True
            os.unlink(name, dir_fd=folder)  # another file was put in the place of `source` just now
        except OSError as error:
            if error.errno not in _NO_LINKS:
                self._explain(error, path, "link")
        finally:
            os.close(folder)
        return False

    def move_from(self, source: Source, path: str, mtime: float) -> bool:
        """Rename `source` to `path`, over nothing, and give it the mode and the time of a copy; False on another file system."""
        folder, name = self._made_above(path)
        try:
            _rename_over_nothing(source.folder, source.name, folder, name)
            if _inode(os.stat(name, dir_fd=folder, follow_symlinks=False)) != _inode(os.fstat(source.fd)):
                # Another file was put in the place of `source` just now.
                _rename_over_nothing(folder, name, source.folder, source.name)
                return False
            _flush_folder(folder)
            _flush_folder(source.folder)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return False
            self._explain(error, path, "move")
        finally:
            os.close(folder)
        self.make_ours(path, mtime)
        return True

    def separate(self, path: str, mtime: float, sha256: str = "") -> None:
        """Replace a file that has other names by a copy of it that has none; the others stay as they are.

        Changed where its content is not that of `sha256`, if given, or changes meanwhile: then nothing is replaced.
        """
        content = hashlib.sha256()
        with self.reading(path) as file, self.writing(path, mtime, staged_for=_bucket_of(path)) as sink:
            for block in file.blocks():
                content.update(block)
                sink.write(block)
            if sha256 and content.hexdigest() != sha256:
                raise Changed(self._where(path))

    def take_name(self, source: Source, path: str, spare: str, mtime: float) -> bool:
        """Remove the name `source` of the file at `path`; False where it is not the same file.

        First it is renamed to `spare`: whatever is put under its name at this moment is renamed back, and not removed.
        """
        if not self.move_from(source, spare, mtime):
            return False
        self.remove_spare(path, spare)
        self.make_ours(path, mtime)
        return True

    def remove_spare(self, path: str, spare: str) -> None:
        """Remove what take_name() left at `spare`, if it is the same file as at `path`."""
        there, here = self.look(spare), self.look(path)
        if there is None or here is None or there != here:
            return
        try:
            with self._parent(spare) as (folder, name):
                os.unlink(name, dir_fd=folder)
        except OSError as error:
            self._explain(error, spare, "remove")

    def make_ours(self, path: str, mtime: float) -> None:
        """Give the file the mode and the time of a copy, where the system lets us and it has no other name."""
        with suppress(OSError, Obstacle, OverflowError, ValueError), self._parent(path) as (folder, name):
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_nlink == 1:
                os.utime(name, (mtime, mtime), dir_fd=folder, follow_symlinks=False)
                fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _CAREFULLY, dir_fd=folder)
                try:
                    os.fchmod(fd, COPY_MODE)
                finally:
                    os.close(fd)

    def _made_above(self, path: str) -> tuple[int, bytes]:
        try:
            return self._above(path, make=True)
        except OSError as error:
            self._explain(error, path, "write")

    @contextmanager
    def trial(self) -> Iterator[str]:
        """A folder for files that nobody keeps; what a killed process left of one is removed the next time."""
        self.make_folder(OWN)
        with self._parent(f"{OWN}/x") as (own, _):
            for name in os.listdir(own):  # noqa: PTH208 - a descriptor
                with suppress(OSError):
                    if _TRIAL.fullmatch(name) and time.time() - os.stat(name, dir_fd=own).st_mtime > 3600:
                        self._remove_trial(f"{OWN}/{name}")
        folder = f"{OWN}/.trial-{secrets.token_hex(8)}"
        self.make_folder(folder, flush=False)
        try:
            yield folder
        finally:
            self._remove_trial(folder)

    def _remove_trial(self, path: str) -> None:
        try:
            with self._parent(f"{path}/x") as (folder, _):
                for name in os.listdir(folder):  # noqa: PTH208 - a descriptor
                    os.unlink(name, dir_fd=folder)
            with self._parent(path) as (above, last):
                os.rmdir(last, dir_fd=above)
        except OSError as error:
            self._explain(error, path, "remove", "folder")

    # All that a folder holds

    def entries(self, path: str) -> Iterator[Entry]:
        """Everything below this folder, each folder after what is in it; no link is followed and no mount point entered.

        Nothing where there is no such folder. If something else is there, or on the way to it, that is the only entry.
        """
        try:
            mode = self._stat(_bytes(path)).st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            yield self._in_the_way(error, path)
            return
        if not stat.S_ISDIR(mode):
            yield Entry(path, _kind(mode))
            return
        levels = [(path, self._entries(path, streamed=True))]
        try:
            while levels:
                folder, level = levels[-1]
                found = next(level, None)
                if found is None:
                    levels.pop()
                    if levels:
                        yield Entry(folder, "folder")
                elif isinstance(found, Entry):
                    yield found
                else:
                    # A level that is streamed holds two descriptors, and a key can be 512 folders deep: below the
                    # 64th, a folder's list of folders is held in memory instead.
                    levels.append((found, self._entries(found, streamed=len(levels) < 64)))
        finally:
            for _, level in reversed(levels):
                level.close()

    def _entries(self, path: str, streamed: bool) -> Generator[Entry | str, None, None]:
        """What is in one folder: the paths of the folders in it, and Entry for everything else."""
        try:
            fd = self._open(_bytes(path), _FOLDER)
        except FileNotFoundError:
            return
        except OSError as error:
            yield self._in_the_way(error, path)
            return
        folders: list[str] = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    try:
                        facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    kind, below = _kind(facts.st_mode), f"{path}/{_text(name)}"
                    if kind != "folder":
                        mtime_ns = bounded_mtime(facts.st_mtime_ns)
                        yield Entry(below, kind, facts.st_size, mtime_ns, facts.st_nlink, facts.st_blocks * 512)
                    elif streamed:
                        yield below
                    else:
                        folders.append(below)
        except OSError as error:
            self._explain(error, path, "list")
        finally:
            os.close(fd)
        yield from folders

    def _in_the_way(self, error: OSError, path: str) -> Entry:
        obstacle = self._obstacle(path, "folder")
        if obstacle is None:
            self._explain(error, path, "list")
        return Entry(obstacle.path, obstacle.kind)

    # How paths become descriptors

    def _open(self, path: bytes, flags: int, mode: int = 0) -> int:
        if self._walks:
            return _walk(self._fd, self.device, path, flags, mode)
        return _openat2(self._fd, path, _how(flags, mode))

    def _stat(self, path: bytes) -> os.stat_result:
        """lstat, of a path that no link is on."""
        if self._walks:
            with _walked(self._fd, self.device, path) as (folder, name):
                facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
                _same_device(facts, self.device)
                return facts
        fd = _openat2(self._fd, path, _LOOK)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _above(self, path: str, make: bool = False, flush: bool = True) -> tuple[int, bytes]:
        """The folder of this path, to be closed by the caller, and the name in it."""
        above, _, name = _bytes(path).rpartition(b"/")
        return self._folder(above, make, flush) if above else os.dup(self._fd), name

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, bytes]]:
        fd, name = self._above(path)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _folder(self, path: bytes, make: bool, flush: bool) -> int:
        """Made or not, it is opened from the base in one go: what is not below it any more is not found."""
        flush = flush or self._flushes_each
        if make:
            self._refuse_inner(_text(path))
        for _ in range(100):
            try:
                return self._open(path, _FOLDER)
            except FileNotFoundError:
                if not make:
                    raise
            here = os.dup(self._fd)
            try:
                for name in path.split(b"/"):
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=here)
                        if flush:  # a file is as durable as the entries of the folders above it
                            _flush_folder(here)
                    there = os.open(name, _FOLDER | _CAREFULLY, dir_fd=here)
                    os.close(here)
                    here = there
            except FileNotFoundError:
                continue  # someone removes folders as they are made
            finally:
                os.close(here)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    # What is told of errors

    def refuse(self, number: int, path: str) -> NoReturn:
        """Raises what an errno from writing to `path` means: Obstacle or DiskError."""
        self._explain(OSError(number, os.strerror(number)), path, "write")

    def _where(self, path: str) -> str:
        return show(f"{self.base}/{path}")

    def _obstacle(self, path: str, wanted: str = "file") -> Obstacle | None:
        """The first thing on the way that is not a folder, or what is at the end and not what is wanted."""
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            here = "/".join(parts[:count])
            try:
                kind = _kind(self._stat(_bytes(here)).st_mode)
            except OSError as error:
                return Obstacle(here, "mount point", str(self.base)) if error.errno == errno.EXDEV else None
            if kind != ("folder" if count < len(parts) else wanted):
                return Obstacle(here, kind, str(self.base))
        return None

    def _explain(self, error: OSError, path: str, verb: str, wanted: str = "file") -> NoReturn:
        if error.errno in _IN_THE_WAY:
            obstacle = self._obstacle(path, wanted)
            if obstacle is not None:
                raise obstacle from error
        if error.errno == errno.ENOSPC:
            with suppress(OSError):
                facts = os.fstatvfs(self._fd)
                # What could not be finished is removed by now, and its inodes are free again.
                few = facts.f_favail < _FEW_INODES and facts.f_bavail * facts.f_frsize >= BLOCK
                if facts.f_files and (few or not facts.f_favail):
                    text = f"cannot {verb} {self._where(path)}: no inodes left; the destination can hold no more files"
                    raise DiskError(f"{text}: remove some and run the same command again", errno.ENOSPC) from error
        raise _disk_error(error, verb, self._where(path)) from error


@dataclass(frozen=True, slots=True)
class Source:
    """A regular file of the operator's, open for reading; `folder` is the descriptor of its folder, `name` its name there."""

    path: Path
    fd: int
    folder: int
    name: bytes
    identity: FileIdentity


class Root:
    """A folder of the operator's, open for reading files below it: no link is followed, and nothing above it is reached.

    Unlike Disk it may be anybody's, and other file systems may be mounted below it.
    """

    def __init__(self, path: Path) -> None:
        """May raise OSError."""
        self.path = path
        self._fd = os.open(path, _FOLDER | os.O_CLOEXEC)
        self._walks = not _has_openat2(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    @contextmanager
    def opened(self, path: str) -> Iterator[Source | None]:
        """The regular file at this path below the folder; None where there is none, or a link is on the way."""
        *above, last = _bytes(path).split(b"/")
        folder = fd = -1
        try:
            with suppress(OSError):
                folder = self._folder(above)
                # A look first: even to open a device can do something.
                if stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
                    fd = os.open(last, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _CAREFULLY, dir_fd=folder)
            facts = os.fstat(fd) if fd >= 0 else None
            regular = facts is not None and stat.S_ISREG(facts.st_mode)
            yield Source(self.path / path, fd, folder, last, _identity(facts)) if facts and regular else None
        finally:
            for one in (fd, folder):
                if one >= 0:
                    os.close(one)

    def _folder(self, names: list[bytes]) -> int:
        if not names:
            return os.dup(self._fd)
        if not self._walks:
            return _openat2(self._fd, b"/".join(names), _BENEATH)
        here = os.dup(self._fd)
        for name in names:
            above = here
            try:
                here = os.open(name, _FOLDER | _CAREFULLY, dir_fd=above)
            finally:
                os.close(above)
        return here


class _NotCloned(Exception):
    pass


# ioctl(2) FICLONE (include/uapi/linux/fs.h): _IOW(0x94, 9, int); one number where _IOC_WRITE is 1, others do not reflink.
_FICLONE = 0x40049409
_NO_CLONES = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EBADF)
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOENT)
COPY_MODE = 0o600


def _clone(fd: int, source: int) -> None:
    if sys.platform != "linux":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    fcntl.ioctl(fd, _FICLONE, source)


def _inode(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


class _Targets:
    """The folders of one bucket that files are moved into, made and opened once, and held open.

    Before what was moved is believed, moved() has to be asked whether they still are where they were. Methods may be called
    from several threads.
    """

    def __init__(self, disk: Disk, bucket: str, most: int) -> None:
        self._disk = disk
        self._bucket = bucket
        self._most = most
        self._lock = threading.Lock()
        self._open: OrderedDict[str, int] = OrderedDict()
        self._moved: set[str] = set()

    def put(self, source: int, name: bytes, path: str) -> None:
        """Renames the file `name` in the folder `source` to `path`; whatever has that path goes to quarantine.

        OSError, or Obstacle.
        """
        above, _, last = path.rpartition("/")
        with self._lock:  # a folder in use is not closed
            folder = self._folder(above)
            for _ in range(100):
                try:
                    _rename_over_nothing(source, name, folder, _bytes(last))
                    if self._disk._flushes_each:
                        _flush_folder(folder)
                    return
                except FileExistsError:
                    self._disk.quarantine(path, self._bucket)
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def moved(self) -> set[str]:
        """The folders that files were put into and that are not where they were: what came into them has not come."""
        with self._lock:
            for path in self._open:
                self._look_after(path)
            moved, self._moved = self._moved, set()
            for path in moved:
                if path in self._open:
                    os.close(self._open.pop(path))
        return moved

    def close(self) -> None:
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def _folder(self, path: str) -> int:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        fd = self._disk._folder(_bytes(path), make=True, flush=False)
        self._open[path] = fd
        if len(self._open) > self._most:
            oldest = next(iter(self._open))
            self._look_after(oldest)
            os.close(self._open.pop(oldest))
        return fd

    def _look_after(self, path: str) -> None:
        held = os.fstat(self._open[path])
        try:
            now = self._disk._stat(_bytes(path))
            if (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino):
                return
        except OSError:
            pass
        self._moved.add(path)


class Landing:
    """Where many files of one bucket come in: whole under their names or not there at all, and over nothing that is there.

    Temporary files are in the bucket's private folder. Folders are made and opened once, and held open; before what came
    is believed, moved() has to be asked whether they still are where they were. Methods may be called from several threads.
    """

    def __init__(self, disk: Disk, bucket: str, folders: int = 64) -> None:
        self._disk = disk
        self._targets = _Targets(disk, bucket, folders)
        self._numbers = itertools.count(secrets.randbits(63))
        disk.make_folder(_partials(bucket))
        try:
            self._partials = disk._open(_bytes(_partials(bucket)), _FOLDER)
        except OSError as error:
            disk._explain(error, _partials(bucket), "write", "folder")

    @property
    def folder(self) -> int:
        """The descriptor of the folder that the temporary files are in."""
        return self._partials

    def begin(self) -> tuple[str, int]:
        """The name and the descriptor of a new empty file, for finish() or abandon(); may raise OSError."""
        temporary = f".mv2-{next(self._numbers) & (1 << 64) - 1:016x}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFULLY
        return temporary, os.open(temporary, flags, 0o600, dir_fd=self._partials)

    def finish(self, path: str, temporary: str, fd: int, size: int, mtime_ns: int) -> None:
        """The file gets its time and its name, and is on the disk after settle(). Whatever has the name goes to quarantine.

        OSError, Obstacle, or Changed where it has not `size` bytes; the caller abandons it then.
        """
        if os.fstat(fd).st_size != size:
            raise Changed(self._disk._where(path))
        with suppress(PermissionError, OverflowError):
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        if self._disk._flushes_each:
            _flush(fd)
        self._targets.put(self._partials, temporary.encode(), path)
        with suppress(OSError):  # settle() and the next reading report it
            os.close(fd)

    def abandon(self, temporary: str, fd: int) -> None:
        with suppress(OSError):
            os.close(fd)
        with suppress(OSError):
            os.unlink(temporary, dir_fd=self._partials)

    def moved(self) -> set[str]:
        """The folders that files were put into and that are not where they were: what came into them has not come."""
        return self._targets.moved()

    def close(self) -> None:
        self._targets.close()
        os.close(self._partials)


class Incoming:
    """The staging folder of one bucket, `.migrate-v2/<bucket>/incoming/`: the AWS CLI writes there and nowhere else.

    What has arrived is moved to its path by take(), which replaces nothing. No file outside this folder is ever removed.
    Keys are those of objects at plain paths; `seconds` is a modification time in whole seconds since 1970. Not for several
    threads.
    """

    def __init__(self, disk: Disk, bucket: str) -> None:
        self._disk = disk
        self._bucket = bucket
        self.path = incoming_folder(bucket)  # relative to the base
        self._targets = _Targets(disk, bucket, 64)
        self._source: tuple[str, int] | None = None  # the folder that was looked into last: keys come in their order

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._targets.close()
        self._forget_source()

    def exists(self) -> bool:
        return self._disk.is_folder(self.path)

    def prepare(self, prefix: str) -> Path:
        """Makes the folder for keys that begin with `prefix` ("", or with a slash at its end); its absolute path.

        A process that opens files there reaches no other file afterwards: links of either kind, FIFOs, sockets and devices
        are removed. Refused where something is mounted.
        """
        self._disk.same_place()
        folder = f"{self.path}/{prefix}".rstrip("/")
        while True:
            try:
                self._disk.make_folder(folder, flush=False)
                break
            except Obstacle as obstacle:
                if not obstacle.path.startswith(f"{self.path}/") or obstacle.kind == "mount point":
                    raise
                self._remove(obstacle.path)
        for entry in self._disk.entries(folder):
            if entry.kind == "mount point":
                raise Obstacle(entry.path, entry.kind, str(self._disk.base))
            if entry.kind not in ("file", "folder") or entry.links > 1:
                self._remove(entry.path)
        return self._disk.base / folder

    def arrived(self, key: str, size: int, seconds: int) -> bool:
        """Is there a plain file of one name for this key, of this size and time?"""
        above, _, name = f"{self.path}/{key}".rpartition("/")
        try:
            facts = os.stat(_bytes(name), dir_fd=self._source_folder(above), follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, *_IN_THE_WAY):
                return False
            self._disk._explain(error, f"{self.path}/{key}", "look at")
        return (
            stat.S_ISREG(facts.st_mode)
            and facts.st_nlink <= 1
            and facts.st_size == size
            and bounded_mtime(facts.st_mtime_ns) // 10**9 == seconds
        )

    def take(self, key: str, path: str, size: int, seconds: int) -> bool:
        """Moves the file for this key to `path` if it has arrived(); it is there for good after settle().

        Whatever has that path goes to quarantine. Obstacle where that is no file, or no folder on the way to it. What was
        taken counts only if its folder is not among moved().
        """
        if not self.arrived(key, size, seconds):
            return False
        above, _, name = f"{self.path}/{key}".rpartition("/")
        try:
            self._targets.put(self._source_folder(above), _bytes(name), path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                self._disk._explain(error, path, "write")
            self._copy(key, path, seconds)  # subvolumes of btrfs, project quotas of XFS
        return True

    def moved(self) -> set[str]:
        """The folders that files were moved to and that are not where they were."""
        return self._targets.moved()

    def stored(self) -> int:
        """Bytes that the files in it take on the disk."""
        return sum(entry.stored for entry in self._disk.entries(self.path))

    def discard(self, keep: Callable[[str, int, int], bool]) -> int:
        """Removes all but the files for which `keep(key, size, seconds)` is true, and the folders if empty; how many files."""
        self._forget_source()
        removed = 0
        for entry in self._disk.entries(self.path):
            if entry.kind == "folder":
                self._remove_folder(entry.path)
            elif entry.kind != "mount point":
                key = entry.path.removeprefix(f"{self.path}/")
                if entry.kind != "file" or entry.links > 1 or not keep(key, entry.size, entry.mtime_ns // 10**9):
                    self._remove(entry.path)
                    removed += 1
        self._remove_folder(self.path)
        return removed

    def _copy(self, key: str, path: str, seconds: int) -> None:
        self._disk.quarantine(path, self._bucket)
        source = f"{self.path}/{key}"
        with self._disk.reading(source) as file, self._disk.writing(path, seconds, flush=False) as sink:
            for block in file.blocks():
                sink.write(block)
        self._remove(source)

    def _source_folder(self, path: str) -> int:
        if self._source is None or self._source[0] != path:
            self._forget_source()
            self._source = path, self._disk._open(_bytes(path), _FOLDER)
        return self._source[1]

    def _forget_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            os.close(source[1])

    def _remove(self, path: str) -> None:
        if not path.startswith(f"{self.path}/"):
            raise Refused(f"{self._disk._where(path)} is not in the staging folder: it stays")
        try:
            with self._disk._parent(path) as (folder, name):
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            self._disk._explain(error, path, "remove")

    def _remove_folder(self, path: str) -> None:
        with suppress(OSError), self._disk._parent(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)


# renameat2(2), RENAME_NOREPLACE: one step, so that nothing can come between a look and the rename.
_NOREPLACE = 1
_renameat2 = getattr(_libc, "renameat2", None)  # glibc 2.28, musl 1.2.5


def _rename_over_nothing(old_folder: int, old: bytes, new_folder: int, new: bytes) -> None:
    """FileExistsError where the name is taken."""
    if _renameat2 is not None:
        if _renameat2(old_folder, old, new_folder, new, _NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS):  # NFS and others know no flags
            raise OSError(number, os.strerror(number))
    try:
        os.stat(new, dir_fd=new_folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


class Lock:
    """One process at a time, and its children: who inherits `fd` keeps the lock when the one who took it is gone.

    The file stays: a lock file that is removed can be held twice.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = Path(path)
        self.what = what
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """Inheritable; pass it to every child that writes. Only while the lock is held."""
        if self._fd is None:
            raise ValueError("the lock is not held")
        return self._fd

    def acquire(self) -> None:
        """Busy if anybody has it, this object included."""
        if self._fd is not None:
            raise Busy(self.what)
        where = show(str(self.path))
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = _locked(self.path)
        except BlockingIOError:
            raise Busy(self.what) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Refused(f"{where} is a symbolic link: remove it") from error
            raise _disk_error(error, "lock", where) from error
        with suppress(OSError):  # for people, and for holders()
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()} {_started(os.getpid()):.0f}\n".encode(), 0)

    def release(self) -> None:
        """No LOCK_UN: it would take the lock from a child that is still writing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def destination_around(path: Path) -> Path | None:
    """The destination that this path lies in, however deep; None if in none."""
    there = Path(os.path.realpath(path))
    return next((folder for folder in (there, *there.parents) if os.path.lexists(folder / _MARKER)), None)


def volume(path: Path) -> Volume:
    """What the file system will hold on which this folder is, or is going to be; nothing is made or written."""
    there = Path(path).absolute()
    while not there.is_dir() and there != there.parent:
        there = there.parent
    try:
        facts = os.statvfs(there)
        device = there.stat().st_dev
        names = facts.f_namemax
    except OSError as error:
        raise _disk_error(error, "measure", show(str(there))) from error
    # pathconf(3): of FAT it says 32, of ext4 and the like 64; some file systems have no word for it.
    bits = 0
    with suppress(OSError, ValueError, KeyError):
        bits = os.pathconf(there, "PC_FILESIZEBITS")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limits = [(1 << bits) - 1] if 0 < bits <= 33 else []
    limits += [limit] if limit != resource.RLIM_INFINITY else []
    return Volume(
        str(there),
        device,
        facts.f_bavail * facts.f_frsize,
        facts.f_favail if facts.f_files else None,
        facts.f_frsize or facts.f_bsize,
        names,
        min(limits, default=None),
    )


def replace_file(path: Path, text: str) -> None:
    """A file of the operator's, whole and in one rename; it keeps its mode. May raise OSError."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600)
    try:
        _write_all(fd, text.encode())
        os.fchmod(fd, mode)
        os.fsync(fd)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def free_at(base: Path) -> int | None:
    """Bytes that an unprivileged user may still take where this folder is, or will be; None where nobody can say."""
    for folder in (base, *base.parents):
        with suppress(OSError):
            facts = os.statvfs(folder)
            return facts.f_bavail * facts.f_frsize
    return None


@dataclass(frozen=True, slots=True)
class Vitals:
    """How this machine is doing. `sockets` is None where this user may not count other people's."""

    cores: int
    busy: float  # share of all cores, 0 to 1
    memory_bytes: int
    memory_available: int
    sockets: int | None
    open_files: int  # descriptors of this process
    open_files_limit: int
    open_files_hard_limit: int


def vitals() -> Vitals:
    m = machine()
    try:
        sockets: int | None = len(psutil.net_connections("tcp"))
    except (psutil.Error, OSError):
        sockets = None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20  # what "unlimited" comes to on Linux (fs.nr_open)
    return Vitals(
        cores=m.cores,
        busy=psutil.cpu_percent(interval=0.3) / 100,
        memory_bytes=m.memory_bytes,
        memory_available=m.memory_available,
        sockets=sockets,
        open_files=psutil.Process().num_fds(),
        open_files_limit=most if soft == resource.RLIM_INFINITY else soft,
        open_files_hard_limit=most if hard == resource.RLIM_INFINITY else hard,
    )


def machine() -> Machine:
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else psutil.cpu_count() or 1
    return Machine(cores, memory.total, memory.available)


def clock_reading() -> tuple[str, str, str]:
    """This start of the machine, seconds since 1970 by its clock, and seconds since it was started: as text."""
    return boot_id(), f"{time.time():.3f}", f"{uptime():.3f}"


def boot_id() -> str:
    """Which start of the machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux
        return f"{psutil.boot_time():.0f}"


def activity(pid: int) -> tuple[float, int]:
    """Seconds of CPU, and bytes handed to write(2) (0 where the system does not count them), of a process and its children.

    Nothing once it is gone. Children by /proc/PID/task/TID/children (Linux): psutil reads all of /proc to find them.
    """
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        written = process.io_counters().write_chars if sys.platform == "linux" else 0
    except (psutil.Error, ValueError):
        return 0.0, 0
    seconds = times.user + times.system
    for child in _children(pid):
        more_seconds, more_written = activity(child)
        seconds, written = seconds + more_seconds, written + more_written
    return seconds, written


def _children(pid: int) -> list[int]:
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def alive(pid: int) -> bool:
    """A zombie is not: it does nothing any more."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.NoSuchProcess, ValueError):
        return False
    except psutil.AccessDenied:
        return True


def holders(folder: Path) -> set[int]:
    """Processes that are alive and the last ones to hold a lock `folder`/*/lock: as its file tells.

    The file stays when they are gone, and others get their numbers: it tells when they were started, too.
    """
    found = set()
    for path in folder.glob("*/lock"):
        with suppress(OSError, ValueError):
            pid, started = (int(word) for word in path.read_text("ascii").split())
            if abs(_started(pid) - started) <= 2:
                found.add(pid)
    return found


def _started(pid: int) -> float:
    """Seconds since 1970; 0 where there is no such process, or it does nothing any more."""
    try:
        return psutil.Process(pid).create_time() if alive(pid) else 0.0
    except psutil.Error:
        return 0.0


def partial_name(*facts: str | int) -> str:
    """One name for the same facts, another for any others."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _quarantine(bucket: str) -> str:
    return f"{OWN}/{bucket}/quarantine"


def _partials(bucket: str) -> str:
    return f"{OWN}/{bucket}/partial"


def _bucket_of(path: str) -> str:
    """The bucket that a copy at this path is of."""
    above, _, below = path.partition("/")
    return below.partition("/")[0] if above == OWN else above


def incoming_folder(bucket: str) -> str:
    """Where the AWS CLI writes, relative to the base."""
    return f"{OWN}/{bucket}/incoming"


def _open_partial(folder: int, name: bytes) -> int:
    """Of a file that has this name alone: what is written into it is in no other."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | _CAREFULLY
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    facts = os.fstat(fd)
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
        return fd
    os.close(fd)
    os.unlink(name, dir_fd=folder)
    return os.open(name, flags | os.O_EXCL, 0o600, dir_fd=folder)


def is_temporary(path: str) -> bool:
    """Named as our own unfinished files are (`.mv2-<16 hex>`), or as those of the CLI."""
    name = path.rpartition("/")[2]
    return _OURS.match(name) is not None or looks_temporary(name)


def _disk_error(error: OSError, verb: str, where: str) -> DiskError:
    number = error.errno or 0
    advice = _ADVICE.get(number, "correct this and run the same command again")
    failure = DiskError(f"cannot {verb} {where}: {os.strerror(number) if number else error}; {advice}", number)
    if verb in ("read", "look at"):
        failure.cause = Cause.UNREADABLE
    return failure


def _make_base(base: Path) -> None:
    missing = list(itertools.takewhile(lambda folder: not os.path.lexists(folder), (base, *base.parents)))
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)


def _locked(path: Path) -> int:
    for _ in range(100):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | _CAREFULLY, 0o600)
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise Refused(f"{show(str(path))} is a {_kind(facts.st_mode)}, not a lock file: remove it")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                now = os.lstat(path)
                if (now.st_dev, now.st_ino) == (facts.st_dev, facts.st_ino):
                    os.set_inheritable(fd, True)
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # it was removed or replaced before the lock was ours, and nobody else would meet us there
    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


def _settle(fd: int) -> None:
    if sys.platform == "darwin":
        # sync(2) there returns before all is written; F_FULLFSYNC waits for the drive (fcntl(2)).
        os.sync()
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        return
    try:
        syncfs = _libc.syncfs
    except AttributeError:
        os.sync()
        return
    if syncfs(ctypes.c_int(fd)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _advise(fd: int, drop_cache: bool) -> None:
    if sys.platform == "darwin":
        if drop_cache:
            fcntl.fcntl(fd, fcntl.F_NOCACHE, 1)
        return
    if drop_cache:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def _probe(folder: int) -> FileSystem:
    """In an empty folder that the caller empties again."""
    return FileSystem(
        folds_case=_same(folder, "CaSe", "cAsE") or _same(folder, "k\u00c9", "k\u00e9"),
        normalises=_same(folder, "n\u00e9", "ne\u0301"),
        name_max=_longest_name(folder),
        path_max=max(os.pathconf(folder, "PC_PATH_MAX"), 1024) - 1,  # it counts the closing NUL
        forbidden=frozenset(sign for sign in _DOUBTFUL if not _made(folder, f"f{sign}f")),
        # FAT and SMB make `a.` into `a`: two keys, one file.
        trimmed=frozenset(sign for sign in ". " if not _made(folder, f"t{ord(sign)}{sign}")),
    )


def _made(folder: int, name: str) -> bool:
    """Whether a file of this very name can be made: some file systems refuse, some change it and say nothing."""
    try:
        os.close(os.open(name.encode(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600, dir_fd=folder))
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _TROUBLE:
            raise
        return False
    return name.encode() in map(os.fsencode, os.listdir(folder))


def _same(folder: int, name: str, other: str) -> bool:
    _made(folder, name)
    try:
        os.stat(other.encode(), dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno in _TROUBLE:
            raise
        return False
    return True


def _longest_name(folder: int) -> int:
    """In bytes. Tried, since FAT says 1530 and means 255 letters, and encrypting file systems say more than they hold."""
    said = os.pathconf(folder, "PC_NAME_MAX")
    said = said if said > 0 else 255  # -1: no limit of its own
    if _made(folder, "n" * said):
        return said
    fits, too_long = 0, said
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if _made(folder, "n" * middle):
            fits = middle
        else:
            too_long = middle
    return fits
