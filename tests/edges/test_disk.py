"""What the disk module promises, tried on a real file system, with real processes, on both ways to resolve a path."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from migrate_v2.edges import disk as edge
from migrate_v2.edges.disk import Changed, Disk, DiskError, Entry, Incoming, Lock, Obstacle
from migrate_v2.errors import Busy, Failure, Refused
from migrate_v2.keys import FileSystem
from tests.test_keys import GOLDEN

ROOT = Path(__file__).parents[2]
ODD = [
    *(key for key in GOLDEN if edge._text(key.encode()) and not re.search(r"(^|/)(\.{0,2})(/|\Z)|\0", key)),
    "n" * 255,
    "é" * 127,
    "line\nfeed",
    "\x1b[31mred",
    "latin-1 \udce9",
    "/".join(["deep"] * 200),
]
ODD = [key for key in ODD if all(len(part.encode("utf-8", "surrogateescape")) <= 255 for part in key.split("/"))]


@pytest.fixture(params=["openat2", "walk"])
def walks(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "walk")


@pytest.fixture
def disk(tmp_path: Path, walks: bool) -> Iterator[Disk]:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"not ours")
    with Disk.open(tmp_path / "base", walks=walks) as disk:
        yield disk


def put(disk: Disk, path: str, content: bytes = b"x") -> None:
    with disk.writing(path, None) as sink:
        sink.write(content)


def content(disk: Disk, path: str, size: int = edge.BLOCK) -> bytes:
    with disk.reading(path, drop_cache=True) as file:
        return b"".join(bytes(block) for block in file.blocks(size))


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def run(code: str, *args: str | Path, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys\n" + code, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=before, timeout=30)


def one_line(text: str) -> bool:
    return text.isprintable() and 20 < len(text) < 400


# The base folder


def test_a_missing_base_is_made_with_its_parents_for_the_owner_only(tmp_path: Path) -> None:
    with Disk.open(tmp_path / "a" / "b") as disk:
        assert disk.base == tmp_path / "a" / "b"
        assert disk.device == os.stat(tmp_path).st_dev
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]


def test_a_missing_base_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"there is no folder .*mounted") as caught:
        Disk.open(tmp_path / "a", create=False)
    assert caught.value.code == 1
    assert tree(tmp_path) == []


def test_a_relative_base_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Disk.open(Path("here")) as disk:
        assert disk.base == tmp_path / "here"


def linked(base: Path) -> None:
    base.parent.joinpath("real").mkdir()
    base.symlink_to(base.parent / "real")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (linked, "is a symbolic link; name the folder it points to: .*real"),
        (lambda base: base.symlink_to("nowhere"), "is a symbolic link"),
        (lambda base: base.write_bytes(b""), "is a file, not a folder"),
        (os.mkfifo, "is a FIFO, not a folder"),
        (lambda base: base.mkdir() or base.chmod(0o777), "written by everybody"),
        (lambda base: base.mkdir() or base.chmod(0o1777), "written by everybody"),
    ],
)
def test_a_base_that_is_not_safe_is_refused(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    base = tmp_path / "base\n"
    make(base)
    with pytest.raises(Refused, match=said) as caught:
        Disk.open(base)
    assert one_line(str(caught.value))
    assert "base\\n" in str(caught.value)


def test_a_base_that_its_group_may_write_is_taken(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(0o770)
    Disk.open(base).close()


def test_a_base_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(Refused, match=f"belongs to user {mine}, and this is user {mine + 1}"):
        Disk.open(tmp_path / "base")


def test_a_link_above_the_base_is_the_operators_own(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Disk.open(tmp_path / "link" / "base") as disk:
        put(disk, "b/k")
    assert (tmp_path / "real/base/b/k").read_bytes() == b"x"


def test_no_descriptor_is_left_open(disk: Disk, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    put(disk, "b/c/k")
    content(disk, "b/c/k")
    disk.filesystem()
    disk.claim(None)
    disk.quarantine("b/c/k", "b")
    os.symlink("/etc", disk.base / "b/link")
    for call in (disk.look, disk.make_folder, lambda path: put(disk, path), lambda path: content(disk, path)):
        with pytest.raises(Obstacle):
            call("b/link/k")
    assert sorted(found(disk)) == [("b/c", "folder"), ("b/link", "symbolic link")]
    for base in ("base/b/link", "no/thing\0"):
        with pytest.raises(Refused):
            Disk.open(tmp_path / base)
    assert len(os.listdir("/proc/self/fd")) == before


def test_after_closing_nothing_is_reached(tmp_path: Path, walks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("k").write_bytes(b"x")
    disk = Disk.open(tmp_path, walks=walks)
    assert disk.look("k") is not None
    disk.close()
    disk.close()
    with pytest.raises(DiskError):
        disk.look("k")


def test_a_replaced_base_is_noticed(disk: Disk) -> None:
    disk.same_place()
    disk.base.rename(disk.base.with_name("old"))
    with pytest.raises(Refused, match="is gone"):
        disk.same_place()
    disk.base.mkdir()
    with pytest.raises(Refused, match="not the folder any more"):
        disk.same_place()
    with pytest.raises(Refused):
        disk.claim(None)
    disk.base.rmdir()
    disk.base.symlink_to("old")
    with pytest.raises(Refused):
        disk.same_place()


def test_the_marker_is_made_once_and_known_again(disk: Disk, walks: bool) -> None:
    found = disk.claim(None)
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert json.loads((disk.base / ".migrate-v2/.base.json").read_text())["id"] == found
    with Disk.open(disk.base, walks=walks) as again:
        assert again.claim(None) == again.claim(found) == found


@pytest.mark.parametrize("marker", [None, '{"id": "another"}', "", "[]", '{"id": 5}'])
def test_an_empty_mount_point_is_not_taken_for_the_base(disk: Disk, marker: str | None) -> None:
    if marker is not None:
        disk.make_folder(".migrate-v2")
        (disk.base / ".migrate-v2/.base.json").write_text(marker)
    before = tree(disk.base)
    with pytest.raises(Refused, match=r"mounted|damaged") as caught:
        disk.claim("0123456789abcdef")
    assert one_line(str(caught.value))
    assert tree(disk.base) == before


def test_processes_that_begin_together_agree_on_the_marker(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from migrate_v2.edges.disk import Disk
with Disk.open(Path(sys.argv[1])) as disk:
    sys.stdin.read()
    print(disk.claim(None))
"""
    many = [
        subprocess.Popen(
            [sys.executable, "-c", "import sys" + code, tmp_path / "base"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    time.sleep(0.3)
    for one in many:
        assert one.stdin is not None
        one.stdin.close()
        one.stdin = None
    answers = {one.communicate(timeout=30)[0] for one in many}
    assert len(answers) == 1
    assert len(answers.pop()) == 33


def test_free_space(disk: Disk) -> None:
    free = disk.free()
    said = os.statvfs(disk.base)
    assert abs(free.bytes - said.f_bavail * said.f_frsize) < 1 << 30
    assert free.inodes is None or free.inodes > 0


def test_the_file_system_is_found_out_by_trying(disk: Disk) -> None:
    assert disk.filesystem() == FileSystem()
    assert tree(disk.base) == [".migrate-v2"]
    assert disk.filesystem() is disk.filesystem()


def test_the_probe_can_find_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that folds, refuses and shortens, played by the system calls that the probe makes of the real one."""
    real = os.open

    def folding(path: bytes | str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if isinstance(path, bytes) and re.match(rb"f.f", path, re.DOTALL):
            if path == b"f:f":
                raise OSError(errno.EINVAL, "")
            path = path.replace(b"?", b"_")
        if len(path) > 100:
            raise OSError(errno.ENAMETOOLONG, "")
        return real(path.lower() if path == b"CaSe" else path, flags, mode, dir_fd=dir_fd)

    real_stat = os.stat
    with Disk.open(tmp_path / "base") as disk:
        monkeypatch.setattr(os, "open", folding)
        monkeypatch.setattr(
            os, "stat", lambda path, **more: real_stat(path.lower() if path == b"cAsE" else path, **more)
        )  # fmt: skip
        found = disk.filesystem()
        monkeypatch.undo()
        assert found == FileSystem(True, False, 100, 4095, frozenset(":?"))
        assert tree(disk.base) == [".migrate-v2"]


def test_settled(disk: Disk) -> None:
    put(disk, "b/k")
    disk.settle()
    disk.settle()


def test_a_failed_settle_stays_failed(disk: Disk) -> None:
    put(disk, "b/k")
    good = os.dup(disk._fd)
    bad = os.open(disk.base, os.O_PATH)  # syncfs(2) refuses such a descriptor
    os.dup2(bad, disk._fd)
    with pytest.raises(DiskError):
        disk.settle()
    os.dup2(good, disk._fd)
    os.close(good)
    os.close(bad)
    with pytest.raises(DiskError):
        disk.settle()


# Paths


@pytest.mark.parametrize(
    "path", ["", "/", "/etc/passwd", "..", "../f", "b/../../f", "b/..", "b//f", "b/", "./b", "b/.", "b/\0", "b/\ud800"]
)
def test_no_path_leads_out(disk: Disk, path: str) -> None:
    disk.make_folder("b")
    for call in (
        disk.look,
        disk.is_folder,
        disk.make_folder,
        lambda path: put(disk, path),
        lambda path: content(disk, path),
        lambda path: disk.quarantine(path, "b"),
        lambda path: disk.quarantine("b/f", path) or put(disk, path),
        lambda path: list(disk.entries(path)),
    ):
        with pytest.raises(Refused) as caught:
            call(path)
        assert str(caught.value).isprintable()
    assert tree(disk.base) == ["b"]


def test_odd_names_come_back(disk: Disk) -> None:
    assert len(ODD) > 60
    for number, key in enumerate(ODD):
        path = f"b{number}/{key}"
        assert disk.look(path) is None
        with disk.writing(path, flush=False) as sink:
            sink.write(b"%d" % number)
        assert sink.identity == disk.look(path)
        assert content(disk, path) == b"%d" % number
        there = os.fsencode(disk.base) + b"/" + path.encode("utf-8", "surrogateescape")
        assert os.path.isfile(there), ascii(key)
        assert os.path.isfile(os.path.join(disk.base, disk.quarantine(path, "b"))), ascii(key)
        assert disk.look(path) is None


def test_names_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from migrate_v2.edges.disk import Disk
assert sys.getfilesystemencoding() != "utf-8"
with Disk.open(Path(sys.argv[1])) as disk:
    with disk.writing("b/\\u00e9\\u20ac") as sink:
        sink.write(b"x")
    (disk.base / "b" / "link").symlink_to("k")
    (disk.base / "b" / "\\u00e9\\u20ac").exists()
    import os
    os.mkfifo(os.fsencode(disk.base) + b"/b/\\xc3\\xa9")
    print(ascii(sorted(found.path for found in disk.entries("b") if found.kind != "file")), disk.look("b/\\u00e9\\u20ac").size)
"""
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    probe = subprocess.run(
        [sys.executable, "-c", "import sys" + code.replace(".exists()", ""), tmp_path / "base"],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert probe.stdout == "['b/link', 'b/\\xe9'] 1\n", probe.stderr
    assert os.listdir(os.fsencode(tmp_path / "base/b")).count("é€".encode()) == 1


def test_a_name_that_is_too_long_is_said(disk: Disk) -> None:
    with pytest.raises(DiskError, match="no name or path of this length"):
        put(disk, "b/" + "n" * 256)
    with pytest.raises(DiskError, match="no name or path of this length"):
        disk.look("b/" + "n" * 256)


# Looking


def test_look_tells_the_identity_of_a_file_and_of_nothing_else(disk: Disk) -> None:
    put(disk, "b/d/f", b"12345")
    facts = os.stat(disk.base / "b/d/f")
    seen = disk.look("b/d/f")
    assert seen is not None
    assert (seen.device, seen.inode, seen.size) == (facts.st_dev, facts.st_ino, 5)
    assert (seen.mtime_ns, seen.ctime_ns) == (facts.st_mtime_ns, facts.st_ctime_ns)
    assert disk.look("b/d/g") is None
    assert disk.look("b/e/g") is None
    assert disk.look("c") is None


def listening(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)  # a bind() takes a path of 107 bytes at most


IN_THE_WAY = {
    "folder": lambda path: path.mkdir(),
    "symbolic link": lambda path: path.symlink_to("../../outside/f"),
    "FIFO": os.mkfifo,
    "socket": listening,
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_file_is_an_obstacle(disk: Disk, kind: str) -> None:
    disk.make_folder("b")
    IN_THE_WAY[kind](disk.base / "b/k")
    before = tree(disk.base)
    for call in (
        disk.look,
        lambda path: put(disk, path),
        lambda path: content(disk, path),
        lambda path: disk.quarantine(path, "b"),
    ):
        with pytest.raises(Obstacle, match=f"base/b/k is a {kind}: ") as caught:
            call("b/k")
        assert (caught.value.path, caught.value.kind, caught.value.code) == ("b/k", kind, 1)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    if kind != "folder":
        with pytest.raises(Obstacle, match=kind):
            disk.make_folder("b/k")
        assert not disk.is_folder("b/k")
        assert found(disk) == [("b/k", kind)]
    assert tree(disk.base) == before


@pytest.mark.parametrize("kind", [*IN_THE_WAY, "file"])
def test_what_is_no_folder_on_the_way_is_an_obstacle(disk: Disk, kind: str) -> None:
    if kind == "folder":
        return
    disk.make_folder("b")
    make = {**IN_THE_WAY, "file": lambda path: path.write_bytes(b"")}[kind]
    make(disk.base / "b/k")
    before = tree(disk.base)
    for call in (
        disk.look,
        disk.make_folder,
        lambda path: put(disk, path),
        lambda path: content(disk, path),
        lambda path: disk.quarantine(path, "b"),
    ):
        with pytest.raises(Obstacle) as caught:
            call("b/k/l/m")
        assert (caught.value.path, caught.value.kind) == ("b/k", kind)
    assert not disk.is_folder("b/k/l/m")
    assert tree(disk.base) == before


def test_a_fifo_is_not_opened(disk: Disk) -> None:
    """A writer waits until somebody opens it for reading: that must not be us."""
    disk.make_folder("b")
    os.mkfifo(disk.base / "b/k")
    with subprocess.Popen(["sh", "-c", 'exec 3>"$0"', disk.base / "b/k"]) as writer:
        try:
            time.sleep(0.1)
            with pytest.raises(Obstacle, match="is a FIFO"):
                content(disk, "b/k")
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.1)
        finally:
            writer.kill()


@pytest.mark.timeout(20)
def test_a_file_swapped_for_a_fifo_after_the_look_does_not_hang(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    put(disk, "b/k")
    path = disk.base / "b/k"

    def swapping(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def swap(*args: object, **more: object) -> os.stat_result:
            facts = real(*args, **more)
            if stat.S_ISREG(facts.st_mode):
                path.unlink()
                os.mkfifo(path)
            return facts

        return swap

    for name in ("stat", "fstat"):
        monkeypatch.setattr(os, name, swapping(getattr(os, name)))
    with pytest.raises(Obstacle, match="is a FIFO"), disk.reading("b/k"):
        pass


@pytest.mark.system
def test_a_device_is_not_opened(disk: Disk) -> None:
    disk.make_folder("b")
    os.mknod(disk.base / "b/k", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with pytest.raises(Obstacle, match="is a device"):
        content(disk, "b/k")
    assert found(disk) == [("b/k", "device")]


def test_folders(disk: Disk) -> None:
    assert not disk.is_folder("b")
    disk.make_folder("b/c/d")
    disk.make_folder("b/c/d")
    assert disk.is_folder("b/c/d")
    assert disk.is_folder("b")
    assert (disk.base / "b/c").stat().st_mode & 0o777 == 0o700
    put(disk, "b/f")
    assert not disk.is_folder("b/f")
    assert not disk.is_folder("b/f/g")
    with pytest.raises(Obstacle, match="b/f is a file"):
        disk.make_folder("b/f")


# Links


def test_a_folder_swapped_for_a_link_between_calls(disk: Disk) -> None:
    put(disk, "b/d/f", b"ours")
    assert disk.look("b/d/f") is not None
    (disk.base / "b/d").rename(disk.base / "b/aside")
    (disk.base / "b/d").symlink_to("../../outside")
    for call in (
        disk.look,
        lambda path: put(disk, path),
        lambda path: content(disk, path),
        lambda path: disk.quarantine(path, "b"),
    ):
        with pytest.raises(Obstacle, match="base/b/d is a symbolic link"):
            call("b/d/f")
    assert not disk.is_folder("b/d")
    assert (disk.base.parent / "outside/f").read_bytes() == b"not ours"


def test_a_link_that_stays_below_the_base_is_not_followed_either(disk: Disk) -> None:
    put(disk, "b/real/f")
    (disk.base / "b/d").symlink_to("real")
    with pytest.raises(Obstacle, match="symbolic link"):
        disk.look("b/d/f")
    (disk.base / ".migrate-v2").symlink_to("b/real")
    for call in (lambda: disk.claim(None), disk.filesystem, lambda: disk.quarantine("b/real/f", "b")):
        with pytest.raises(Obstacle, match="migrate-v2 is a symbolic link"):
            call()
    assert tree(disk.base / "b/real") == ["f"]


def test_a_folder_swapped_for_a_link_while_folders_are_made_below_it(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.make_folder("b/d")
    mkdir = os.mkdir

    def swapping(name: bytes, *args: int, **more: int) -> None:
        if name == b"d":
            (disk.base / "b/d").rename(disk.base / "b/aside")
            (disk.base / "b/d").symlink_to("../../outside")
        mkdir(name, *args, **more)

    monkeypatch.setattr(os, "mkdir", swapping)
    with pytest.raises(Obstacle, match="b/d is a symbolic link"):
        disk.make_folder("b/d/new/folder")
    assert tree(disk.base.parent / "outside") == ["f"]


def test_a_folder_swapped_for_a_link_over_and_over(disk: Disk) -> None:
    """Whatever the moment, what is read is ours and what is written stays below the base."""
    folder, aside, outside = disk.base / "b/d", disk.base / "b/aside", disk.base.parent / "outside"
    put(disk, "b/d/f", b"ours")
    inside = {(disk.base / "b/d/f").stat().st_ino}
    stop = threading.Event()
    swaps = 0

    def insist(step: Callable[[], object]) -> None:
        while True:
            try:
                step()
                return
            except OSError:  # the writer made the folder anew in between
                shutil.rmtree(folder, ignore_errors=True)

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            folder.rename(aside)
            insist(lambda: folder.symlink_to(outside))
            time.sleep(0.0002)
            folder.unlink()
            insist(lambda: aside.rename(folder))
            time.sleep(0.0002)
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    done = {"look": 0, "read": 0, "written": 0, "obstacle": 0}
    try:
        end = time.monotonic() + 0.8
        number = 0
        while (now := time.monotonic()) < end or ((min(done.values()) == 0 or swaps <= 10) and now < end + 60):
            number += 1
            try:
                if seen := disk.look("b/d/f"):
                    assert seen.inode in inside
                    done["look"] += 1
                assert content(disk, "b/d/f") == b"ours"
                done["read"] += 1
                with disk.writing(f"b/d/n{number}/k", flush=False) as sink:
                    sink.write(b"ours")
                done["written"] += 1
            except (Obstacle, Changed, FileNotFoundError, DiskError):
                done["obstacle"] += 1
    finally:
        stop.set()
        thread.join()
    assert tree(outside) == ["f"]
    assert min(done.values()) > 0, done
    assert swaps > 10


# Reading


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000])
def test_a_file_is_read_whole_as_often_as_asked(tmp_path: Path, size: int) -> None:
    for block, disk in [(block, Disk.open(tmp_path / "base")) for block in (7, 1000, 4096, 1 << 20)]:
        data = os.urandom(size)
        put(disk, "b/k", data)
        with disk.reading("b/k", drop_cache=True) as file:
            assert file.identity == disk.look("b/k")
            for _ in range(2):
                blocks = [bytes(one) for one in file.blocks(block)]
                assert b"".join(blocks) == data
                assert all(0 < len(one) <= block for one in blocks)
        disk.close()


def test_a_missing_file_is_plainly_missing(disk: Disk) -> None:
    for path in ("k", "b/k"):
        with pytest.raises(FileNotFoundError), disk.reading(path):
            pass


def fetched() -> int:
    """Bytes that this process has had fetched from a disk so far."""
    return int(re.findall(r"^read_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)[0])


def test_dropping_the_cache_reads_from_the_disk(tmp_path: Path) -> None:
    with Disk.open(tmp_path / "base") as disk:
        put(disk, "b/k", bytes(1 << 20))
        disk.settle()
        from_disk = []
        for drop in (False, True):
            (disk.base / "b/k").read_bytes()
            before = fetched()
            with disk.reading("b/k", drop_cache=drop) as file:
                assert sum(map(len, file.blocks())) == 1 << 20
            from_disk.append(fetched() - before)
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout.strip()
    assert from_disk[0] < 1 << 16
    assert from_disk[1] >= 1 << 20 or kind == "tmpfs"  # which has nowhere to drop it to


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewritten(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"y")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    before = path.stat()
    path.with_name("new").write_bytes(path.read_bytes())
    os.utime(path.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_name("new").rename(path)


def moved(path: Path) -> None:
    before = path.stat()
    path.parent.rename(path.parent.with_name("aside"))
    path.parent.mkdir()
    path.write_bytes(bytes(100_000))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def relinked(path: Path) -> None:
    path.parent.rename(path.parent.with_name("aside"))
    path.parent.symlink_to("aside")


@pytest.mark.parametrize(
    "change",
    [appended, rewritten, replaced, moved, relinked, os.unlink, lambda path: os.truncate(path, 10), lambda path: path.rename(str(path) + "x")],
)  # fmt: skip
def test_a_change_while_reading_is_noticed(disk: Disk, change: Callable[[Path], None]) -> None:
    put(disk, "b/d/k", bytes(100_000))
    path = disk.base / "b/d/k"
    os.utime(path, ns=(10**18, 10**18))
    time.sleep(0.02)  # times have the resolution of the kernel's tick
    with disk.reading("b/d/k") as file:
        blocks = file.blocks(4096)
        next(blocks)
        change(path)
        with pytest.raises(Changed, match="b/d/k changed"):
            list(blocks)


def test_no_change_while_reading_is_noticed(disk: Disk) -> None:
    put(disk, "b/d/k", bytes(100_000))
    with disk.reading("b/d/k") as file:
        (disk.base / "b/d/other").write_bytes(b"")
        assert sum(map(len, file.blocks(4096))) == 100_000


# Writing


def test_what_is_written_is_there_when_it_is_whole(disk: Disk) -> None:
    with disk.writing("b/c/k", 1_234_567_890.5) as sink:
        sink.write(b"one ")
        sink.write(memoryview(b"two"))
        assert sink.written == 7
        assert sink.identity is None
        assert disk.look("b/c/k") is None
        assert [bool(edge.is_temporary(name)) for name in os.listdir(disk.base / "b/c")] == [True]
    assert content(disk, "b/c/k") == b"one two"
    assert sink.identity == disk.look("b/c/k")
    assert sink.identity.mtime_ns == 1_234_567_890_500_000_000
    assert (disk.base / "b/c/k").stat().st_mode & 0o777 == 0o600
    assert tree(disk.base / "b") == ["c", "c/k"]


def test_a_file_is_replaced_at_once_and_other_names_of_it_keep_the_old(disk: Disk) -> None:
    put(disk, "b/k", b"old")
    os.link(disk.base / "b/k", disk.base / "b/other")
    with disk.writing("b/k") as sink:
        sink.write(b"new")
        assert content(disk, "b/k") == b"old"
    assert (content(disk, "b/k"), content(disk, "b/other")) == (b"new", b"old")


@pytest.mark.parametrize("error", [RuntimeError, ConnectionResetError, FileNotFoundError, KeyboardInterrupt])
def test_a_broken_off_write_leaves_what_was_there(disk: Disk, error: type[BaseException]) -> None:
    put(disk, "b/k", b"old")
    with pytest.raises(error) as caught, disk.writing("b/k") as sink:
        sink.write(b"half")
        raise error("the caller's own")
    assert caught.value.args == ("the caller's own",)
    assert sink.identity is None
    assert content(disk, "b/k") == b"old"
    assert tree(disk.base / "b") == ["k"]


def test_a_folder_that_appears_under_the_name_is_an_obstacle(disk: Disk) -> None:
    with pytest.raises(Obstacle, match="b/k is a folder"), disk.writing("b/k") as sink:
        sink.write(b"x")
        (disk.base / "b/k").mkdir()
    assert tree(disk.base / "b") == ["k"]


def test_a_folder_that_is_moved_away_while_writing_is_noticed(disk: Disk) -> None:
    with pytest.raises((Changed, Obstacle)), disk.writing("b/d/k") as sink:
        sink.write(b"x")
        (disk.base / "b/d").rename(disk.base / "b/aside")
        (disk.base / "b/d").symlink_to("aside")
    with pytest.raises(Changed), disk.writing("c/d/k") as sink:
        sink.write(b"x")
        (disk.base / "c/d").rename(disk.base / "c/aside")


def test_someone_else_writing_to_the_temporary_is_noticed(disk: Disk) -> None:
    with pytest.raises(Changed), disk.writing("b/k") as sink:
        sink.write(b"x")
        appended(next((disk.base / "b").iterdir()))
    assert tree(disk.base / "b") == []


def test_an_error_that_the_caller_swallows_is_not_forgotten(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, block: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskError, match="the destination is full"), disk.writing("b/k") as sink:
        sink.write(b"first ")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(DiskError):
                sink.write(b"lost ")
        with pytest.raises(DiskError):
            sink.write(b"last")
    assert tree(disk.base / "b") == []


def test_the_bytes_are_on_the_disk_before_the_name_is_theirs(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename, utime = os.fsync, os.rename, os.utime
    monkeypatch.setattr(os, "utime", lambda *a, **k: calls.append("utime") or utime(*a, **k))
    monkeypatch.setattr(os, "rename", lambda *a, **k: calls.append("rename") or rename(*a, **k))
    monkeypatch.setattr(
        os, "fsync", lambda fd: calls.append("fsync " + os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2]) or fsync(fd)
    )  # fmt: skip
    with disk.writing("b/c/k", 5.0) as sink:
        sink.write(b"x")
        assert calls == ["fsync base", "fsync b"]  # the new folders' own names
    assert re.fullmatch(r"utime,fsync \.mv2-[0-9a-f]{16},rename,fsync c", ",".join(calls[2:]))
    calls.clear()
    with disk.writing("b/c/l", flush=False) as sink:
        sink.write(b"x")
    assert calls == ["rename"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_failed_fsync_is_a_failed_write(disk: Disk, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    put(disk, "b/k", b"old")
    calls = []

    def failing(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(DiskError) as caught, disk.writing("b/k") as sink:
        sink.write(b"new")
    assert caught.value.errno == number
    assert one_line(str(caught.value))
    assert f"cannot write {disk.base}/b/k: {os.strerror(number)}; " in str(caught.value)
    assert len(calls) == 1
    assert content(disk, "b/k") == b"old"
    assert tree(disk.base / "b") == ["k"]


def test_a_time_that_cannot_be_set_is_left(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **more: object) -> None:
        raise PermissionError(errno.EPERM, "")

    monkeypatch.setattr(os, "utime", refused)
    with disk.writing("b/k", 5.0) as sink:
        sink.write(b"x")
    assert content(disk, "b/k") == b"x"


CRASH = """
import os, signal
from pathlib import Path
from migrate_v2.edges.disk import Disk
with Disk.open(Path(sys.argv[1])) as disk, disk.writing("b/k") as sink:
    sink.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_while_writing_leaves_only_a_temporary(disk: Disk) -> None:
    put(disk, "b/k", b"old")
    assert run(CRASH, disk.base).returncode == -signal.SIGKILL
    assert content(disk, "b/k") == b"old"
    assert sorted(map(bool, map(edge.is_temporary, tree(disk.base / "b")))) == [False, True]


def test_writing_staged_leaves_its_temporary_file_where_remove_partials_finds_it(disk: Disk) -> None:
    put(disk, "b/k", b"old")
    crash = CRASH.replace('disk.writing("b/k")', 'disk.writing("b/k", staged_for="b")')
    assert crash != CRASH and run(crash, disk.base).returncode == -signal.SIGKILL
    assert content(disk, "b/k") == b"old" and tree(disk.base / "b") == ["k"]
    (left,) = tree(disk.base / PARTIALS)
    assert edge.is_temporary(left)
    disk.remove_partials("b", ())
    assert not (disk.base / PARTIALS).exists()
    with disk.writing("b/d/new", 1.5, staged_for="b") as sink:
        sink.write(b"new")
    assert content(disk, "b/d/new") == b"new" and sink.identity == disk.look("b/d/new")


def test_a_limit_on_the_size_of_files_is_said(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from migrate_v2.edges.disk import Disk, DiskError
with Disk.open(Path(sys.argv[1])) as disk:
    try:
        with disk.writing("b/k") as sink:
            for _ in range(100):
                sink.write(bytes(10_000))
    except DiskError as error:
        print(error.errno, error)
"""
    limit = (100_000, 100_000)
    answer = run(code, tmp_path / "base", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert answer.stdout.startswith(f"{errno.EFBIG} cannot write {tmp_path}/base/b/k: "), answer.stderr
    assert "ulimit -f" in answer.stdout
    assert tree(tmp_path / "base") == ["b"]


NAME = edge.partial_name("k", "null", "etag", 10)
PARTIALS = ".migrate-v2/b/partial"


def begin(disk: Disk, content: bytes, every: int = 4) -> None:
    """Written so far, and then it broke off."""
    with pytest.raises(ConnectionResetError), disk.continuing("b/k", "b", NAME, every=every) as sink:
        for number in content:
            sink.write(bytes((number,)))
        raise ConnectionResetError


def test_names_of_partials_tell_facts_apart() -> None:
    names: list[tuple[str | int, ...]] = [
        ("k", "v", 1),
        ("k", "v1", ""),
        ("kv", "1", ""),
        ("k", "v", "1"),
        ("k\udce9", "v", 1),
    ]
    found = {edge.partial_name(*facts) for facts in names}
    assert len(found) == len(names) and all(re.fullmatch("[0-9a-f]{64}", name) for name in found)


def test_what_broke_off_goes_on_from_where_it_was_flushed(disk: Disk) -> None:
    begin(disk, b"0123456")
    assert disk.partials("b") == {NAME} and disk.look("b/k") is None
    with disk.continuing("b/k", "b", NAME, 1_600_000_000, every=4) as sink:
        assert sink.written == 4
        sink.write(b"abcdef")
        assert b"".join(sink.read_back()) == b"0123abcdef" and b"".join(sink.read_back(7)) == b"def"
    assert content(disk, "b/k") == b"0123abcdef" and sink.identity == disk.look("b/k")
    assert (disk.base / "b/k").stat().st_mtime == 1_600_000_000
    assert disk.partials("b") == set() and tree(disk.base / PARTIALS) == []


def test_the_record_follows_the_bytes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fdatasync, replace_text = os.fdatasync, Disk.replace_text
    monkeypatch.setattr(os, "fdatasync", lambda fd: (done.append("bytes"), fdatasync(fd))[1])
    monkeypatch.setattr(Disk, "replace_text", lambda *args: (done.append("record"), replace_text(*args))[1])
    begin(disk, b"0123456789")
    assert done == ["bytes", "record"] * 2
    # And where bytes come slowly, the seconds count.
    monkeypatch.setattr(edge, "FLUSH_SECONDS", 0.0)
    done.clear()
    begin(disk, b"01")
    assert done == ["bytes", "record"] * 2


def test_a_flush_that_fails_records_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(DiskError), disk.continuing("b/k", "b", NAME, every=4) as sink, pytest.raises(DiskError):
        sink.write(b"01234")
    monkeypatch.undo()
    assert disk.look("b/k") is None, "not even if the caller goes on"
    with pytest.raises(KeyboardInterrupt), disk.continuing("b/k", "b", NAME, every=4) as sink:
        assert sink.written == 0
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", ["zeros", "shorter", "gone", "no record", "bad record", "other name", "hard link"])
def test_only_what_was_flushed_is_believed(disk: Disk, after: str) -> None:
    begin(disk, b"0123456")
    partial = disk.base / PARTIALS / NAME
    record = partial.with_suffix(".json")
    if after == "zeros":
        partial.write_bytes(b"0123" + bytes(9))
    elif after == "shorter":
        partial.write_bytes(b"012")
    elif after == "gone":
        partial.unlink()
    elif after == "no record":
        record.unlink()
    elif after == "bad record":
        record.write_text('{"length": -4}')
    elif after == "hard link":
        os.link(partial, disk.base / "elsewhere")
    name = edge.partial_name("other") if after == "other name" else NAME
    with disk.continuing("b/k", "b", name, every=4) as sink:
        assert sink.written == (4 if after == "zeros" else 0)
        assert not record.exists() or after in ("zeros", "other name"), "nothing speaks of bytes that are not there yet"
        sink.write(b"0123abc"[sink.written :])
    assert content(disk, "b/k") == b"0123abc"
    if after == "hard link":
        assert (disk.base / "elsewhere").read_bytes() == b"0123456"


def test_begun_again_nothing_of_it_is_believed(disk: Disk) -> None:
    begin(disk, b"01234")
    with pytest.raises(ConnectionResetError), disk.continuing("b/k", "b", NAME, every=4) as sink:
        sink.start_again()
        assert sink.written == 0 and not (disk.base / PARTIALS / f"{NAME}.json").exists()
        sink.write(b"ab")
        raise ConnectionResetError
    with disk.continuing("b/k", "b", NAME, every=4) as sink:
        assert sink.written == 0
        sink.write(b"abc")
    assert content(disk, "b/k") == b"abc"
    with disk.writing("b/k") as sink:
        sink.write(b"longer than that")
        sink.start_again()
        sink.write(b"new")
    assert content(disk, "b/k") == b"new"


def test_what_is_whole_is_on_the_disk_before_the_name_is_its_own(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename
    with disk.continuing("b/k", "b", NAME) as sink:
        sink.write(b"0123")
        monkeypatch.setattr(os, "fsync", lambda fd: (done.append(edge._kind(os.fstat(fd).st_mode)), fsync(fd))[1])
        monkeypatch.setattr(os, "rename", lambda *args, **more: (done.append("rename"), rename(*args, **more))[1])
    assert done[-4:] == ["file", "rename", "folder", "folder"]


def test_across_subvolumes_it_is_copied(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def across(old: bytes, new: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if src_dir_fd != dst_dir_fd:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", across)
    with disk.continuing("b/k", "b", NAME, 1_600_000_000) as sink:
        sink.write(b"0123")
    assert content(disk, "b/k") == b"0123" and sink.identity == disk.look("b/k")
    assert (disk.base / "b/k").stat().st_mtime == 1_600_000_000 and tree(disk.base / PARTIALS) == []


@pytest.mark.parametrize("kind", IN_THE_WAY)
@pytest.mark.parametrize("where", ["b/k", PARTIALS, f"{PARTIALS}/{NAME}", f"{PARTIALS}/{NAME}.json"])
def test_what_is_in_the_way_of_a_partial_is_an_obstacle(disk: Disk, kind: str, where: str) -> None:
    if where == PARTIALS and kind == "folder":
        return  # that is not in the way
    (disk.base / where).parent.mkdir(parents=True)
    IN_THE_WAY[kind](disk.base / where)
    with pytest.raises((Obstacle, DiskError)), disk.continuing("b/k", "b", NAME) as sink:
        sink.write(b"x")
    assert (disk.base.parent / "outside" / "f").read_bytes() == b"not ours"


def test_partials_are_removed_by_name_and_nothing_else_is(disk: Disk) -> None:
    assert disk.partials("b") == set()
    disk.remove_partials("b", {NAME})
    begin(disk, b"01234")
    other = edge.partial_name("other")
    folder = disk.base / PARTIALS
    for name in (other, "mine", f"{NAME}.txt", ".mv2-0123456789abcdef"):
        (folder / name).write_bytes(b"x")
    (folder / edge.partial_name("folder")).mkdir()
    disk.remove_partials("b", {NAME, edge.partial_name("folder"), "mine"})
    assert tree(folder) == sorted([other, "mine", f"{NAME}.txt", edge.partial_name("folder")])
    assert disk.partials("b") == {other, edge.partial_name("folder")}
    for path in folder.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    disk.remove_partials("b", set())
    assert not folder.exists()


def test_text_is_replaced_whole(disk: Disk) -> None:
    rows = [["key\r\nwith", "a \udce9"], ["\u20ac", "2"]]
    with disk.replace_text(".migrate-v2/b/list.csv") as file:
        csv.writer(file).writerows(rows)
        file.writelines(["a\n", "b\r\n"])
        assert disk.look(".migrate-v2/b/list.csv") is None
    expected = io.StringIO()
    csv.writer(expected).writerows(rows)
    wanted = (expected.getvalue() + "a\nb\r\n").encode("utf-8", "surrogateescape")
    assert content(disk, ".migrate-v2/b/list.csv") == wanted
    with pytest.raises(RuntimeError), disk.replace_text(".migrate-v2/b/list.csv") as file:
        file.write("x" * (3 << 20))
        raise RuntimeError
    assert content(disk, ".migrate-v2/b/list.csv") == wanted
    with disk.replace_text(".migrate-v2/b/list.csv") as file:
        for _ in range(300):
            assert file.write("x" * 10_000) == 10_000
    assert content(disk, ".migrate-v2/b/list.csv") == b"x" * 3_000_000


# Quarantine


def test_a_bad_file_is_moved_and_never_over_another(disk: Disk) -> None:
    moved = []
    for number in range(3):
        put(disk, "b/d/report.pdf", b"%d" % number)
        moved.append(disk.quarantine("b/d/report.pdf", "b"))
    assert all(
        re.fullmatch(r"\.migrate-v2/b/quarantine/\d{8}T\d{6}Z-\d+-[0-9a-f]{16}-report\.pdf", path) for path in moved
    )
    assert [content(disk, path) for path in moved] == [b"0", b"1", b"2"]
    assert disk.look("b/d/report.pdf") is None
    assert disk.quarantine("b/d/report.pdf", "b") == ""
    assert disk.quarantine("b/nothing/report.pdf", "b") == ""


def test_a_name_that_is_taken_in_quarantine_is_left(disk: Disk, walks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "NOW")
    put(disk, "b/k", b"first")
    first = disk.quarantine("b/k", "b")
    assert re.fullmatch(r"\.migrate-v2/b/quarantine/NOW-1-[0-9a-f]{16}-k", first)
    put(disk, "b/k", b"second")
    with Disk.open(disk.base, walks=walks) as another:  # counts from one again
        assert another.quarantine("b/k", "b") == first.replace("NOW-1-", "NOW-2-")
    assert content(disk, first) == b"first"


def test_a_file_that_cannot_be_moved_is_not_said_to_be_missing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    put(disk, "b/k")
    rename = os.rename

    def shelterless(*args: bytes, **more: int) -> None:
        shutil.rmtree(disk.base / ".migrate-v2")
        rename(*args, **more)

    monkeypatch.setattr(os, "rename", shelterless)
    with pytest.raises(DiskError, match="cannot move away"):
        disk.quarantine("b/k", "b")
    assert disk.look("b/k") is not None


def test_quarantine_drops_a_second_file_of_the_same_path_and_bytes(disk: Disk, walks: bool) -> None:
    paths = set()
    for body in (b"wrong", b"WRONG", b"wrong", b"other!", b"WRONG"):
        put(disk, "b/k", body)
        paths.add(disk.quarantine("b/k", "b"))
        assert disk.look("b/k") is None
    put(disk, "b/other", b"wrong")  # another path, so not known to be the same
    paths.add(disk.quarantine("b/other", "b"))
    assert sorted(content(disk, path) for path in paths) == [b"WRONG", b"other!", b"wrong", b"wrong"]
    with Disk.open(disk.base, walks=walks) as another:
        put(another, "b/k", b"wrong")
        assert another.quarantine("b/k", "b") in paths
        put(another, "b/k", b"wrong")
        paths.add(another.quarantine("b/k", "b", once=False))
        assert another.in_quarantine("b") == 5 + 5 + 5 + 5 + 6
        assert another.in_quarantine("empty") == 0
    folder = disk.base / ".migrate-v2/b/quarantine"
    assert {f".migrate-v2/b/quarantine/{path.name}" for path in folder.iterdir()} == paths


def test_quarantine_keeps_a_second_file_where_the_first_cannot_be_read(disk: Disk) -> None:
    put(disk, "b/k", b"wrong")
    first = disk.base / disk.quarantine("b/k", "b")
    first.unlink()
    first.symlink_to("nowhere.")
    put(disk, "b/k", b"wrong")
    assert content(disk, disk.quarantine("b/k", "b")) == b"wrong"


@pytest.mark.parametrize("name", ["a b", "é", "x" * 200, "..x\n", "k.deadbeef"])
def test_quarantined_names_are_harmless(disk: Disk, name: str) -> None:
    put(disk, f"b/{name}")
    moved = disk.quarantine(f"b/{name}", "b")
    assert re.fullmatch(r"\.migrate-v2/b/quarantine/[0-9TZ]+-1-[0-9a-f]{16}", moved)
    assert not edge.is_temporary(moved)


# Everything below a folder


def found(disk: Disk, path: str = "b") -> list[tuple[str, str]]:
    return [(entry.path, entry.kind) for entry in disk.entries(path)]


def test_entries_come_before_the_folder_that_they_are_in(disk: Disk) -> None:
    assert found(disk) == []
    for path in ("b/d/e/k", "b/d/k", "b/k", "c/k"):
        put(disk, path, b"12345")
    paths = [path for path, _ in found(disk)]
    assert sorted(paths) == ["b/d", "b/d/e", "b/d/e/k", "b/d/k", "b/k"]
    assert paths.index("b/d/e/k") < paths.index("b/d/e") < paths.index("b/d") > paths.index("b/d/k")
    (k,) = (entry for entry in disk.entries("b") if entry.path == "b/k")
    assert (k.size, k.links, k.stored) == (5, 1, (disk.base / "b/k").stat().st_blocks * 512)
    assert k.mtime_ns == (disk.base / "b/k").stat().st_mtime_ns


def test_entries_tell_links_and_special_files_and_follow_nothing(disk: Disk) -> None:
    disk.make_folder("b/d/e")
    for at, kind in enumerate(("symbolic link", "FIFO", "socket")):
        for folder in ("b", "b/d/e"):
            IN_THE_WAY[kind](disk.base / folder / f"{at}\n")
    (disk.base / "b/d/up").symlink_to("..")
    put(disk, "b/one")
    os.link(disk.base / "b/one", disk.base / "b/d/two")
    assert sorted(found(disk)) == sorted(
        [
            *((f"{folder}/0\n", "symbolic link") for folder in ("b", "b/d/e")),
            *((f"{folder}/1\n", "FIFO") for folder in ("b", "b/d/e")),
            *((f"{folder}/2\n", "socket") for folder in ("b", "b/d/e")),
            ("b/d/up", "symbolic link"),
            ("b/one", "file"),
            ("b/d/two", "file"),
            ("b/d", "folder"),
            ("b/d/e", "folder"),
        ]
    )
    assert {entry.links for entry in disk.entries("b") if entry.kind == "file"} == {2}


@pytest.mark.parametrize("kind", ["symbolic link", "FIFO", "file"])
def test_entries_of_no_folder_are_what_is_there(disk: Disk, kind: str) -> None:
    (disk.base / "real").mkdir()
    {**IN_THE_WAY, "symbolic link": lambda path: path.symlink_to("real"), "file": lambda path: path.write_bytes(b"")}[
        kind
    ](disk.base / "b")
    assert found(disk) == [("b", kind)]
    assert found(disk, "b/c") == [("b", kind)]


def test_entries_of_a_deep_tree_need_few_descriptors(disk: Disk) -> None:
    deep = "b/" + "/".join(["d"] * 500)
    disk.make_folder(deep, flush=False)
    (disk.base / "b/d/d/link").symlink_to("d")
    fd = os.open(disk.base, os.O_RDONLY)
    for part in deep.split("/"):
        inner = os.open(part, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.symlink("x", "link", dir_fd=fd)
    os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 200, hard))
    try:
        paths = {path for path, kind in found(disk) if kind != "folder"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert paths == {"b/d/d/link", f"{deep}/link"}


def test_entries_can_be_left_and_removed_meanwhile(disk: Disk) -> None:
    for number in range(20):
        put(disk, f"b/{number}/k")
    before = len(os.listdir("/proc/self/fd"))
    first = disk.entries("b")
    next(first)
    first.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before
    for entry in disk.entries("b"):
        path = disk.base / entry.path
        path.rmdir() if entry.kind == "folder" else path.unlink()
    assert tree(disk.base / "b") == []


# The staging folder of the AWS CLI

STAGING = ".migrate-v2/b/incoming"
TIME = 1_600_000_000


@pytest.fixture
def incoming(disk: Disk) -> Iterator[Incoming]:
    with Incoming(disk, "b") as made:
        yield made


def arrive(disk: Disk, key: str, body: bytes = b"12345", when: float = TIME + 0.9) -> Path:
    path = disk.base / STAGING / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    os.utime(path, (when, when))
    return path


def test_incoming_is_made_when_it_is_prepared(disk: Disk, incoming: Incoming) -> None:
    assert not incoming.exists() and not incoming.arrived("k", 5, TIME) and incoming.stored() == 0
    assert incoming.prepare("d/e/") == disk.base / STAGING / "d/e"
    assert incoming.exists() and incoming.prepare("") == disk.base / STAGING
    assert (disk.base / STAGING).stat().st_mode & 0o777 == 0o700


def test_take_moves_the_file_itself(disk: Disk, incoming: Incoming) -> None:
    for key in ("k", "d/e/k", "d/e/l", "d/k"):
        before = arrive(disk, key).stat()
        assert incoming.arrived(key, 5, TIME)
        assert incoming.take(key, f"b/{key}", 5, TIME)
        after = (disk.base / "b" / key).stat()
        assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
        assert not incoming.take(key, f"b/{key}", 5, TIME), "it is there no more"
    assert incoming.moved() == set()


def test_take_leaves_another_size_or_time(disk: Disk, incoming: Incoming) -> None:
    arrive(disk, "k")
    for size, seconds in ((4, TIME), (6, TIME), (5, TIME - 1), (5, TIME + 1)):
        assert not incoming.take("k", "b/k", size, seconds)
    assert not (disk.base / "b").exists()


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "FIFO", "folder", "linked folder"])
def test_take_follows_no_link_and_takes_plain_files_only(disk: Disk, incoming: Incoming, kind: str) -> None:
    other = disk.base.parent / "outside" / "k"
    other.write_bytes(b"12345")
    os.utime(other, (TIME, TIME))
    before = other.stat()
    path = disk.base / STAGING / "d" / "k"
    path.parent.parent.mkdir(parents=True)
    if kind == "linked folder":
        path.parent.symlink_to(other.parent)
    else:
        path.parent.mkdir()
        {
            "symbolic link": lambda: path.symlink_to(other),
            "hard link": lambda: os.link(other, path),
            "FIFO": lambda: os.mkfifo(path),
            "folder": lambda: path.mkdir(),
        }[kind]()
    assert not incoming.take("d/k", "b/d/k", 5, TIME)
    assert not (disk.base / "b").exists()
    # And before a process writes there, what leads out is removed.
    incoming.prepare("d/")
    assert sorted(tree(disk.base / STAGING)) == (["d", "d/k"] if kind == "folder" else ["d"])
    after = other.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)


def test_take_never_replaces_a_file(disk: Disk, incoming: Incoming) -> None:
    put(disk, "b/k", b"before")
    before = (disk.base / "b/k").stat()
    arrive(disk, "k")
    assert incoming.take("k", "b/k", 5, TIME)
    assert content(disk, "b/k") == b"12345"
    (kept,) = (path for path in (disk.base / ".migrate-v2/b").rglob("*") if path.is_file())
    after = kept.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert kept.read_bytes() == b"before"


@pytest.mark.parametrize("kind", ["folder", "symbolic link", "file above"])
def test_take_leaves_the_file_where_something_is_in_the_way(disk: Disk, incoming: Incoming, kind: str) -> None:
    arrive(disk, "d/k")
    if kind == "folder":
        disk.make_folder("b/d/k")
    elif kind == "file above":
        put(disk, "b/d")
    else:
        disk.make_folder("b/d")
        (disk.base / "b/d/k").symlink_to("/etc/passwd")
    with pytest.raises(Obstacle):
        incoming.take("d/k", "b/d/k", 5, TIME)
    assert incoming.arrived("d/k", 5, TIME)


def test_take_into_a_folder_that_is_moved_away_is_told(disk: Disk, incoming: Incoming) -> None:
    arrive(disk, "d/1")
    arrive(disk, "d/2")
    assert incoming.take("d/1", "b/d/1", 5, TIME)
    (disk.base / "b/d").rename(disk.base / "b/away")
    assert incoming.take("d/2", "b/d/2", 5, TIME)
    assert incoming.moved() == {"b/d"} and incoming.moved() == set()


def test_take_copies_where_a_rename_cannot(disk: Disk, incoming: Incoming, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subvolumes of btrfs and project quotas of XFS: one mount, and EXDEV."""

    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(edge, "_rename_over_nothing", refused)
    put(disk, "b/k", b"before")
    arrive(disk, "k")
    assert incoming.take("k", "b/k", 5, TIME)
    assert content(disk, "b/k") == b"12345" and (disk.base / "b/k").stat().st_mtime == TIME
    assert not incoming.arrived("k", 5, TIME)
    assert b"before" in [path.read_bytes() for path in (disk.base / ".migrate-v2/b").rglob("*") if path.is_file()]


def test_discard_removes_what_is_not_kept_and_nothing_outside(disk: Disk, incoming: Incoming) -> None:
    put(disk, "b/k", b"copy")
    arrive(disk, "d/kept")
    for key in ("d/e/f/unasked", "k.a1b2c3d4", "d/k"):
        arrive(disk, key)
    (disk.base / STAGING / "out").symlink_to(disk.base / "b")
    (disk.base / STAGING / "file").symlink_to(disk.base / "b/k")
    asked = []

    def keep(key: str, size: int, seconds: int) -> bool:
        asked.append((key, size, seconds))
        return key == "d/kept"

    assert incoming.stored() >= 4 * 5
    assert incoming.discard(keep) == 5
    assert sorted(asked) == [(key, 5, TIME) for key in ("d/e/f/unasked", "d/k", "d/kept", "k.a1b2c3d4")]
    assert tree(disk.base / STAGING) == ["d", "d/kept"] and content(disk, "b/k") == b"copy"
    assert incoming.discard(lambda *_: False) == 1
    assert not incoming.exists() and (disk.base / ".migrate-v2/b").exists()


def test_prepare_removes_what_stands_where_a_folder_is_needed(disk: Disk, incoming: Incoming) -> None:
    arrive(disk, "d/e")
    assert incoming.prepare("d/e/f/").is_dir()
    (disk.base / STAGING).rename(disk.base / "elsewhere")
    (disk.base / STAGING).symlink_to(disk.base / "elsewhere")
    with pytest.raises(Obstacle, match="incoming is a symbolic link"):
        incoming.prepare("d/")
    assert (disk.base / "elsewhere/d/e/f").is_dir()


def test_incoming_holds_few_descriptors(disk: Disk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Incoming(disk, "b") as incoming:
        for number in range(200):
            arrive(disk, f"{number}/k")
            assert incoming.take(f"{number}/k", f"b/{number}/k", 5, TIME)
        assert len(os.listdir("/proc/self/fd")) - before <= 70
        assert incoming.moved() == set()
    assert len(os.listdir("/proc/self/fd")) == before


# Locks

HOLD = """
from pathlib import Path
from migrate_v2.edges.disk import Lock
lock = Lock(Path(sys.argv[1]), "bucket b")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
HAND_ON = """
import subprocess
from pathlib import Path
from migrate_v2.edges.disk import Lock
lock = Lock(Path(sys.argv[1]), "bucket b")
lock.acquire()
child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fd], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
if sys.argv[2] == "released":
    lock.release()
print(child.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def another(code: str, *args: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", "import sys" + code, *map(str, args)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "b.lock"
    lock = Lock(path, "bucket b")
    with another(HOLD, path) as (process, said):
        assert said == "held"
        started = psutil.Process(process.pid).create_time()
        assert path.read_text() == f"{process.pid} {started:.0f}\n"
        with pytest.raises(Busy, match="another process is at work on bucket b") as caught:
            lock.acquire()
        assert caught.value.code == 6
        process.kill()
        process.wait()
        with lock:
            assert os.get_inheritable(lock.fd)
            assert path.read_text().startswith(f"{os.getpid()} ")
            assert path.stat().st_mode & 0o777 == 0o600
            with pytest.raises(Busy):
                lock.acquire()
            with pytest.raises(Busy):
                Lock(path, "bucket b").acquire()
    assert path.exists()
    with lock, pytest.raises(Busy), Lock(path, "bucket b"):
        pass
    with pytest.raises(ValueError, match="not held"):
        _ = lock.fd


@pytest.mark.parametrize("parent", ["killed", "released"])
def test_a_lock_outlives_its_parent_in_a_child(tmp_path: Path, parent: str) -> None:
    path = tmp_path / "b.lock"
    with another(HAND_ON, path, parent) as (process, said):
        child = int(said)
        try:
            if parent == "killed":
                process.kill()
                process.wait()
            assert edge.alive(child)
            with pytest.raises(Busy):
                Lock(path, "bucket b").acquire()
        finally:
            os.kill(child, signal.SIGKILL)
        end = time.monotonic() + 60
        while edge.alive(child) and time.monotonic() < end:
            time.sleep(0.01)
        Lock(path, "bucket b").acquire()


def test_a_lock_file_that_is_removed_is_not_locked_twice_at_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, another process removes the file and takes the name."""
    path = tmp_path / "b.lock"
    flock = edge.fcntl.flock
    rivals: list[Lock] = []

    def beaten(fd: int, how: int) -> None:
        if not rivals:
            rivals.append(Lock(path, "bucket b"))
            path.unlink()
            rivals[0].acquire()
        flock(fd, how)

    monkeypatch.setattr(edge.fcntl, "flock", beaten)
    with pytest.raises(Busy):
        Lock(path, "bucket b").acquire()
    rivals[0].release()
    Lock(path, "bucket b").acquire()


def test_a_lock_is_a_file_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to("victim")
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("link", "is a symbolic link"), ("fifo", "is a FIFO")):
        with pytest.raises(Refused, match=said):
            Lock(tmp_path / name, "bucket b").acquire()
    assert (tmp_path / "victim").read_text() == "precious"
    with pytest.raises(DiskError, match="cannot lock"):
        Lock(tmp_path / "victim" / "b.lock", "bucket b").acquire()


# The machine


def test_the_machine() -> None:
    found = edge.machine()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.memory_available <= found.memory_bytes


def test_activity_and_life_of_a_process(tmp_path: Path) -> None:
    work = "\nopen(sys.argv[1], 'wb').write(bytes(5_000_000))\nsum(range(5_000_000))\nprint('done', flush=True)\nsys.stdin.read()"
    with another(work, tmp_path / "f") as (process, said):
        assert said == "done"
        seconds, written = edge.activity(process.pid)
        assert 0.02 < seconds < 10
        assert 5_000_000 <= written < 5_100_000
        assert edge.alive(process.pid)
        process.kill()
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT) is None:
            pass
        assert not edge.alive(process.pid)  # a zombie
        process.wait()
        assert not edge.alive(process.pid)
        assert edge.activity(process.pid) == (0.0, 0)
    assert not edge.alive(-1)
    assert edge.activity(-1) == (0.0, 0)


# What needs mounts


@contextmanager
def mounted(where: Path, *how: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", *how, str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@pytest.mark.system
def test_the_kernels_own_resolution_is_used_where_it_exists(tmp_path: Path) -> None:
    with Disk.open(tmp_path / "base") as disk:
        assert not disk._walks


@pytest.mark.system
@pytest.mark.parametrize("room", ["size=1m", "nr_inodes=10"])
def test_a_full_disk_is_said_and_nothing_half_stays(tmp_path: Path, walks: bool, room: str) -> None:
    with (
        mounted(tmp_path / "base", "-t", "tmpfs", "-o", f"mode=700,{room}", "tmpfs") as base,
        Disk.open(base, walks=walks) as disk,
    ):
        put(disk, "b/k", b"old")
        said = "the destination is full: free space" if room == "size=1m" else "no inodes left"
        with pytest.raises(DiskError, match=f"{said}.*run the same command again") as caught:
            for number in range(20):
                put(disk, f"b/n{number}", bytes(100_000))
        assert caught.value.errno == errno.ENOSPC
        assert one_line(str(caught.value))
        assert [name for name in tree(base) if edge.is_temporary(name)] == []
        assert content(disk, "b/k") == b"old"
        if room == "size=1m":
            assert disk.free().bytes < 200_000
        else:
            assert disk.free().inodes == 0
            with pytest.raises(DiskError, match="no inodes left"):
                disk.filesystem()


@pytest.mark.system
@pytest.mark.parametrize("other", ["tmpfs", "bind"])
def test_another_file_system_below_the_base_is_an_obstacle(disk: Disk, walks: bool, other: str) -> None:
    if other == "bind" and walks:
        return  # the same device: only the kernel sees it
    disk.make_folder("b/d")
    how = ("-t", "tmpfs", "tmpfs") if other == "tmpfs" else ("--bind", str(disk.base.parent / "outside"))
    with mounted(disk.base / "b/d", *how):
        (disk.base / "b/d/k").write_bytes(b"")
        for call in (
            disk.look,
            lambda path: put(disk, path),
            lambda path: content(disk, path),
            disk.make_folder,
            lambda path: disk.quarantine(path, "b"),
        ):
            with pytest.raises(Obstacle, match="b/d is a mount point"):
                call("b/d/k")
        assert not disk.is_folder("b/d")
        assert next(iter(disk.entries("b"))) == Entry("b/d", "mount point")
        assert list(disk.entries("b/d")) == [Entry("b/d", "mount point")]


@pytest.mark.system
def test_an_unmounted_base_is_noticed(tmp_path: Path, walks: bool) -> None:
    base = tmp_path / "base"
    with mounted(base, "-t", "tmpfs", "-o", "mode=700", "tmpfs"):
        disk = Disk.open(base, walks=walks)
        mine = disk.claim(None)
        disk.same_place()
    with pytest.raises(Refused, match="unmounted"):
        disk.same_place()
    disk.close()
    with Disk.open(base, walks=walks) as disk, pytest.raises(Refused, match="not mounted"):
        disk.claim(mine)
    assert tree(base) == []


@pytest.mark.system
def test_a_read_only_base_is_said(tmp_path: Path) -> None:
    with mounted(tmp_path / "base", "-t", "tmpfs", "-o", "mode=700,ro", "tmpfs") as base:
        with pytest.raises(DiskError, match="read-only: remount it writable") as caught:
            Disk.open(base)
        assert caught.value.code == 1


@pytest.mark.system
def test_a_base_without_permission_is_said() -> None:
    code = """
import os
from pathlib import Path
from migrate_v2.edges.disk import Disk
from migrate_v2.errors import Failure
os.setgroups([]); os.setgid(12345); os.setuid(12345)
try:
    Disk.open(Path(sys.argv[1]))
except Failure as error:
    print(error.code, error)
"""
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: its parents are closed to other users
        os.chmod(folder, 0o500)
        os.chown(folder, 12345, 12345)
        answer = run(code, folder)
        os.chown(folder, 0, 0)
    assert answer.stdout.startswith(f"1 cannot write to {folder}: Permission denied; "), answer.stderr


def test_the_activity_of_a_wrapper_is_that_of_what_it_started() -> None:
    busy = "x = 0\nwhile True: x += 1"
    wrapper = subprocess.Popen(["sh", "-c", f"{sys.executable} -c '{busy}' & wait"], start_new_session=True)
    try:
        for _ in range(1200):
            if edge.activity(wrapper.pid)[0] > 0.3:
                break
            time.sleep(0.05)
        assert edge.activity(wrapper.pid)[0] > 0.3
    finally:
        os.killpg(wrapper.pid, signal.SIGKILL)
        wrapper.wait()


def test_a_volume_is_measured_where_it_is_going_to_be_and_nothing_is_made(tmp_path: Path) -> None:
    there = edge.volume(tmp_path / "not" / "yet")
    facts = os.statvfs(tmp_path)
    assert (there.folder, there.device, there.block) == (str(tmp_path), tmp_path.stat().st_dev, facts.f_frsize)
    assert abs(there.free - facts.f_bavail * facts.f_frsize) < 1 << 30
    assert there.name_max == facts.f_namemax
    assert list(tmp_path.iterdir()) == []


def test_who_holds_locks_is_told_by_their_files_as_long_as_he_lives(tmp_path: Path) -> None:
    assert edge.holders(tmp_path / "run") == set()
    (tmp_path / "run/odd").mkdir(parents=True)
    (tmp_path / "run/odd/lock").write_text("nobody")
    with ExitStack() as held:
        held.enter_context(edge.Lock(tmp_path / "run/mine/lock", "mine"))
        other = held.enter_context(subprocess.Popen(["sleep", "300"]))
        held.callback(other.kill)
        started = psutil.Process(other.pid).create_time()
        for bucket, when in {"theirs": started, "theirs too": started, "of one who had its number": 1e9}.items():
            (tmp_path / f"run/{bucket}").mkdir()
            (tmp_path / f"run/{bucket}/lock").write_text(f"{other.pid} {when:.0f}\n")
        assert edge.holders(tmp_path / "run") == {os.getpid(), other.pid}
        other.kill()
    assert edge.holders(tmp_path / "run") == {os.getpid()}, (
        "what a lock's file says stays, and who ended is not counted"
    )
