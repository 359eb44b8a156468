"""Which file system a folder is on, from /proc and /sys (Linux; elsewhere nothing is known)."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from migrate_v2.durability import Durability, durability_of

_PROC = Path("/proc/self")
_SYS = Path("/sys/dev/block")


@dataclass(frozen=True, slots=True)
class Mount:
    """`kind` is the file system type, such as ext4 or fuse.sshfs; "" where the kernel does not say."""

    kind: str
    durability: Durability


UNKNOWN = Mount("", Durability.LASTING)


def mount_of(fd: int) -> Mount:
    """The file system that this open file or folder is on."""
    try:
        found = re.search(r"^mnt_id:\s*(\d+)$", (_PROC / "fdinfo" / str(fd)).read_text("ascii"), re.MULTILINE)
        entry = _entry((_PROC / "mountinfo").read_text("utf-8", "surrogateescape"), found[1]) if found else None
    except OSError:  # not Linux, or without /proc
        return UNKNOWN
    if entry is None:
        return UNKNOWN
    kind, source, root, device = entry
    if source.startswith("/"):  # the device number of a btrfs mount is not that of its disk
        with suppress(OSError, ValueError):
            facts = Path(source).stat()
            if stat.S_ISBLK(facts.st_mode):
                device = f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
    return Mount(kind, durability_of(kind, root, models(device)))


def mount_at(path: Path) -> Mount:
    """The file system that this path is on, or is going to be on: that of the nearest folder there is."""
    path = Path(path).absolute()
    for folder in (path, *path.parents):
        try:
            fd = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            return mount_of(fd)
        finally:
            os.close(fd)
    return UNKNOWN


def _entry(mountinfo: str, mount_id: str) -> tuple[str, str, str, str] | None:
    """Type, source, root and device number of one mount: see proc_pid_mountinfo(5)."""
    for line in mountinfo.split("\n"):
        words = line.split(" ")
        if words[0] == mount_id and "-" in words:
            kind, source = words[words.index("-") + 1 :][:2]
            return kind, _unescaped(source), _unescaped(words[3]), words[2]
    return None


def _unescaped(text: str) -> str:
    """Spaces, tabs, newlines and backslashes are three octal digits there."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def models(device: str, sys: Path = _SYS) -> dict[str, str]:
    """The models of the disks beneath a block device (`major:minor`), by kernel name; "" where a disk has none.

    A partition lies in the folder of its disk; LVM, RAID and encryption list the devices beneath them in `slaves`.
    """
    found: dict[str, str] = {}
    folders = [sys / device]
    while folders:
        folder = folders.pop()
        with suppress(OSError):
            folder = folder.resolve(strict=True)
            if folder.name in found:
                continue
            found[folder.name] = ""
            if (folder / "partition").exists():
                folders.append(folder.parent)
                continue
            if (folder / "slaves").is_dir():
                folders += (folder / "slaves").iterdir()
            found[folder.name] = (folder / "device" / "model").read_text("ascii", "replace").strip()
    return found
