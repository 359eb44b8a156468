"""P1 and P4 on real file systems: disks that are full, over quota, read-only, gone or lying, under the whole program."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT, query, sha256, states
from tests.e2e.world import World, Zygote, world
from tests.fakes.s3server import Request

pytestmark = pytest.mark.system

OBJECTS = 12
REAL_CLI = {"MIGRATE_V2_AWS_PATH": str(ROOT / ".venv" / "bin" / "aws")}
NATIVE = {"MIGRATE_V2_ENGINE": "native"}


def shell(*words: str | Path) -> None:
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"this test needs root, mounts and the packages of .ci/run: {ended.stderr.strip()}"


class Image:
    """A file system in a file, which can be broken from beneath."""

    def __init__(self, folder: Path, make: tuple[str, ...], size: int, options: str = "loop") -> None:
        self.file, self.at, self.options = folder / "image", folder / "disk", f"loop,{options}"
        with self.file.open("wb") as file:
            file.truncate(size)
        shell(*make, self.file)
        self.at.mkdir()

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        shell("mount", "-o", self.options, self.file, self.at)
        self.at.chmod(0o700)
        try:
            yield self.at
        finally:
            shell("umount", self.at)

    def device(self) -> str:
        found = subprocess.run(["losetup", "-nO", "NAME", "-j", self.file], capture_output=True, text=True, check=True)
        return Path(found.stdout.split()[0]).name

    def turn_read_only(self) -> None:
        """As the kernel does at an error of the disk, open files or not (mounted with errors=remount-ro)."""
        Path(f"/sys/fs/ext4/{self.device()}/trigger_fs_error").write_text("a test\n")

    def shut_down(self) -> None:
        """Every read and write from now on is EIO, as of a disk whose cable was pulled (EXT4_IOC_SHUTDOWN)."""
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, 0x8004587D, b"\x02\0\0\0")  # _IOR('X', 125, __u32), without flushing the journal
        finally:
            os.close(fd)

    def spoil(self, body: bytes, harm: Callable[[bytes], bytes]) -> None:
        """Other bytes in the place of these, beneath the file system, which does not notice."""
        with self.file.open("r+b") as file, mmap.mmap(file.fileno(), 0) as whole:
            place = whole.find(body)
            assert place > 0, "it was never flushed"
            whole[place : place + len(body)] = harm(body)


def ext4(folder: Path, options: str = "errors=remount-ro,barrier=0", inodes: int = 2000) -> Image:
    return Image(folder, ("mkfs.ext4", "-q", "-F", "-N", str(inodes)), 32 << 20, options)


def fill(made: World) -> None:
    chance = random.Random(1)
    for number in range(OBJECTS):
        made.put(f"d{number % 3}/{number:02}", chance.randbytes(100_000))
    made.put("a//b", b"aside " * 100)


@contextmanager
def destination(folder: Path, zygote: Zygote, at: Path, versioning: str = "") -> Iterator[World]:
    """A world whose destination, and nothing else, is on that file system."""
    (folder / "world").mkdir()
    with world(folder / "world", zygote, versioning=versioning, home=at / "home") as made:
        fill(made)
        yield made


# -- no room


def test_p4_a_disk_without_inodes_is_said_and_with_room_it_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    disk = ext4(tmp_path, inodes=128)
    with disk.mounted() as at, destination(tmp_path, zygote, at) as made:
        for number in range(os.statvfs(at).f_ffree - 16):
            (at / f"taken {number}").touch()
        full = made.run("migrate", "--force-space", made.bucket, env=NATIVE)
        assert full.code == 1 and "no inodes left" in full.err.splitlines()[-1], full.err
        assert list((made.home / ".migrate-v2").glob("probe-*")) == []
        assert states(made.state, made.bucket).get("error", 0) == 0
        made.nothing_is_lost()
        for path in at.glob("taken *"):
            path.unlink()
        made.done("migrate", made.bucket, env=NATIVE)
        made.comes_home()


def test_p4_a_quota_that_is_used_up_is_said_and_with_more_it_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    """A quota group of btrfs: a write that exceeds it ends with EDQUOT, while statvfs tells of free space."""
    disk = Image(tmp_path, ("mkfs.btrfs", "-q", "-f"), 128 << 20)
    with disk.mounted() as at, destination(tmp_path, zygote, at) as made:
        shell("btrfs", "quota", "enable", at)
        shell("btrfs", "subvolume", "create", made.home)
        made.home.chmod(0o700)
        shell("btrfs", "qgroup", "limit", "600K", made.home)
        full = made.run("migrate", made.bucket, env=REAL_CLI)
        assert full.code == 1 and "quota" in full.err.splitlines()[-1], full.err
        assert states(made.state, made.bucket).get("error", 0) == 0
        made.nothing_is_lost()
        shell("btrfs", "qgroup", "limit", "none", made.home)
        made.done("migrate", made.bucket, env=REAL_CLI)
        made.comes_home()


# -- a disk that goes away in the middle

ENDS = {
    "read-only": (Image.turn_read_only, "read-only"),
    "pulled": (Image.shut_down, "rror"),
    "unmounted": (lambda disk: shell("umount", "-l", disk.at), "mount"),
}


def of_the_program(request: Request) -> bool:
    return "migrate-v2" in request.header("user-agent")


@pytest.mark.parametrize(
    ("end", "phase", "versioning"),
    [
        ("read-only", "migrate", ""),
        ("pulled", "migrate", ""),
        ("unmounted", "migrate", ""),
        ("unmounted", "prove", ""),
        ("read-only", "delete", ""),
        ("pulled", "delete", "Enabled"),
    ],
)
def test_p4_a_disk_that_goes_away_midway_loses_nothing(
    zygote: Zygote, tmp_path: Path, end: str, phase: str, versioning: str
) -> None:
    away, words = ENDS[end]
    disk = ext4(tmp_path)
    with disk.mounted() as at, destination(tmp_path, zygote, at, versioning) as made:
        argv = ("migrate", made.bucket)
        if phase != "migrate":
            made.done(*argv)
            argv = ("confirm-delete", made.token(), made.bucket)
        subprocess.run(["sync", "-f", at], check=True)
        due = {
            "migrate": lambda request: request.op == "GetObject" and request.key.endswith("6"),
            "prove": lambda request: request.op == "GetBucketVersioning",
            "delete": lambda request: request.op in ("DeleteObject", "DeleteObjects") and "canary" not in request.key,
        }[phase]
        made.server.fault(lambda request: of_the_program(request) and due(request), lambda _: away(disk), times=1)
        ended = made.run(*argv, env=NATIVE)
        made.server.calm()
        if end != "unmounted":
            shell("umount", at)
        shell("mount", "-o", disk.options, disk.file, disk.at)
        made.nothing_is_lost()
        assert ended.code in (1, 5) and words in ended.err, ended
        made.comes_home()


# -- a disk that lies


def flipped(body: bytes) -> bytes:
    return body[:777] + bytes([body[777] ^ 1]) + body[778:]


def dropped(body: bytes) -> bytes:
    return bytes(len(body))


@pytest.mark.parametrize("harm", [flipped, dropped])
def test_p1_other_bytes_on_the_disk_than_were_written_are_never_the_proof(
    zygote: Zygote, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    """Beneath the file system, so that no time, no size and no page in memory tells: after the fetch, and after verify."""
    disk = ext4(tmp_path)
    with disk.mounted() as at, destination(tmp_path, zygote, at) as made:
        body = next(body for (key, _, _), body in made.ever.items() if key == "d0/00")
        made.done("sync", made.bucket, env=NATIVE)
        disk.spoil(body, harm)
        found = made.run("verify", made.bucket)
        assert found.code == 4 and "d0/00" in found.err, found
        made.nothing_is_lost()
        made.done("migrate", made.bucket, env=NATIVE)
        token = made.token()
        disk.spoil(body, harm)
        found = made.run("confirm-delete", token, made.bucket)
        assert found.code == 4 and "nothing was deleted" in found.err, found
        assert len(made.server.versions(made.bucket)) == OBJECTS + 1
        made.comes_home()


# -- FUSE: syncfs does not reach its daemon

needs_fuse = pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE")


@contextmanager
def bound(folder: Path, at: Path, *options: str) -> Iterator[Path]:
    """The folder `at` once more, by way of bindfs."""
    mirror = folder / "mirror"
    mirror.mkdir(exist_ok=True)
    shell("bindfs", *options, at, mirror)
    try:
        yield mirror
    finally:
        shell("umount", mirror)


@needs_fuse
@pytest.mark.parametrize("engine", [NATIVE, REAL_CLI], ids=["native", "cli"])
def test_power_cut_on_fuse_leaves_every_verified_copy(zygote: Zygote, tmp_path: Path, engine: dict[str, str]) -> None:
    disk = ext4(tmp_path)
    with disk.mounted() as at:
        with bound(tmp_path, at) as mirror, destination(tmp_path, zygote, mirror) as made:
            made.consents = False
            made.done("migrate", made.bucket, env=engine)
            assert states(made.state, made.bucket) == {"verified": OBJECTS + 1}
            verified = query(made.state, "select local_path, sha256 from files")
            plan = json.loads(made.done("confirm-delete", "--dry-run", "--json", made.bucket).out)
            assert plan["destination"]["durability"] == "daemon"
            assert made.run("confirm-delete", f"--confirm={plan['token']}", made.bucket).code == 5
            assert len(made.server.versions(made.bucket)) == OBJECTS + 1
            disk.shut_down()
        shell("umount", at)
        shell("mount", "-o", disk.options, disk.file, disk.at)
        assert {path: sha256((at / "home" / path).read_bytes()) for path, _ in verified} == dict(verified)


@needs_fuse
def test_edits_that_fuse_does_not_show_stop_deletion(zygote: Zygote, tmp_path: Path) -> None:
    """bindfs --ctime-from-mtime: a copy that was edited, its size and time put back, looks as it did when it was read."""
    (tmp_path / "files").mkdir(mode=0o700)
    with (
        bound(tmp_path, tmp_path / "files", "--ctime-from-mtime") as mirror,
        destination(tmp_path, zygote, mirror) as made,
    ):
        made.done("migrate", made.bucket, env=NATIVE)
        token = made.token()
        copy = made.home / made.bucket / "d0/00"
        facts = copy.stat()
        with copy.open("r+b") as file:
            file.write(b"edited")
        os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert made.run("confirm-delete", token, "--trust-recent=1h", made.bucket).code == 5
        assert made.run("confirm-delete", token, made.bucket).code == 4
        assert made.server.deletes == []
        made.comes_home()


@needs_fuse
def test_state_file_on_fuse_is_refused_and_can_be_copied_away(zygote: Zygote, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir(mode=0o700)
    (tmp_path / "world").mkdir()
    with bound(tmp_path, tmp_path / "files") as mirror, world(tmp_path / "world", zygote) as made:
        made.put("a", b"1")
        on_fuse = {"MIGRATE_V2_STATE_DB_PATH": str(mirror / "state.db")}
        assert made.run("migrate", made.bucket, env=on_fuse).code == 5
        assert list((tmp_path / "files").glob("state.db*")) == []
        below = {"MIGRATE_V2_STATE_DB_PATH": str(tmp_path / "files" / "state.db")}
        made.done("migrate", made.bucket, env=below)
        assert made.run("status", env=on_fuse).code == 5
        made.done("backup-state", str(made.state), env=on_fuse)
        made.done("verify", made.bucket)
