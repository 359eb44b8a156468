"""P4 and P1 on file systems where syncfs reaches nothing, and on such that do not show an edit."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from migrate_v2 import deletion
from migrate_v2.durability import Durability
from migrate_v2.edges import disk as disk_module
from migrate_v2.edges.disk import Disk, Landing, Root
from migrate_v2.edges.mounts import Mount
from migrate_v2.edges.store import Evidence, Store
from migrate_v2.errors import Refused
from migrate_v2.model import FileState, ObjectVersion, Rules
from migrate_v2.steps import delete as delete_step
from tests.steps.conftest import Job

FUSE = Mount("fuse.bindfs", Durability.DAEMON)


class PowerCut:
    """Knows what a power cut would leave if fsync alone reached the disk: by inode, what was flushed last."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files: dict[int, tuple[int, int]] = {}
        self.folders: dict[int, set[str]] = {}

    def flush(self, fd: int) -> None:
        facts = os.fstat(fd)
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            self.folders[facts.st_ino] = set(os.listdir(fd))
        else:
            self.files[facts.st_ino] = (facts.st_size, facts.st_mtime_ns)

    def leaves(self, path: Path) -> bool:
        facts = path.stat()
        whole = path.is_dir() or self.files.get(facts.st_ino) == (facts.st_size, facts.st_mtime_ns)
        while whole and path != self.base:
            whole = path.name in self.folders.get(path.parent.stat().st_ino, ())
            path = path.parent
        return whole


@pytest.fixture
def cut(job: Job, monkeypatch: pytest.MonkeyPatch) -> Iterator[PowerCut]:
    """The job's destination is on FUSE: syncfs does nothing there, and fsync flushes one file or folder."""
    cut = PowerCut(job.disk.base)
    monkeypatch.setattr(disk_module, "mount_of", lambda fd: FUSE, raising=False)
    monkeypatch.setattr(disk_module, "_settle", lambda fd: None)
    monkeypatch.setattr(disk_module, "_flush", cut.flush)
    with Disk.open(job.disk.base) as job.disk:
        yield cut


@pytest.fixture
def lost(job: Job, cut: PowerCut, monkeypatch: pytest.MonkeyPatch) -> dict[FileState, list[str]]:
    """Rows, by the state that they were given, whose copies a power cut in that moment would have destroyed."""
    lost: dict[FileState, list[str]] = {FileState.DOWNLOADED: [], FileState.VERIFIED: []}
    fetched, record = Store.fetched, Store.record

    def look(versions: list[ObjectVersion], state: FileState) -> None:
        paths = {(row.key, row.version.version_id): job.disk.base / row.path for row in job.rows()}
        lost[state] += [v.key for v in versions if not cut.leaves(paths[v.key, v.version_id])]

    def watch_fetched(store: Store, bucket: str, versions: Any) -> None:
        look(versions, FileState.DOWNLOADED)
        fetched(store, bucket, versions)

    def watch_record(store: Store, evidence: list[Evidence], *more: Any) -> None:
        look([e.version for e in evidence if e.state is FileState.VERIFIED], FileState.VERIFIED)
        record(store, evidence, *more)

    monkeypatch.setattr(Store, "fetched", watch_fetched)
    monkeypatch.setattr(Store, "record", watch_record)
    return lost


def fill(job: Job) -> int:
    job.server.buckets["b"].versioning = "Enabled"
    job.server.put("b", "deep/er/and/deeper", b"old version")
    for key in ("a", "deep/b", "deep/er/and/deeper", "x//y", "folder/", "folder/with/one/"):
        job.server.put("b", key, b"" if key.endswith("/") else key.encode())
    return 7


def test_power_cut_on_fuse_leaves_what_fetch_and_verify_recorded(job: Job, lost: dict[FileState, list[str]]) -> None:
    count = fill(job)
    job.bring()
    assert [row.state for row in job.rows()] == [FileState.VERIFIED] * count
    assert lost == {FileState.DOWNLOADED: [], FileState.VERIFIED: []}


def test_power_cut_on_fuse_leaves_copies_that_others_wrote(
    job: Job, cut: PowerCut, lost: dict[FileState, list[str]]
) -> None:
    """The AWS CLI and V1 flush nothing: what verify believes, it has flushed itself."""
    fill(job)
    job.bring()
    for row in job.rows():
        cut.files.pop(row.identity.inode if row.identity else 0, None)
    cut.folders.clear()
    lost[FileState.VERIFIED].clear()
    job.verify_again("run-2")
    assert lost[FileState.VERIFIED] == []


def test_power_cut_on_fuse_leaves_what_was_moved_to_quarantine(job: Job, cut: PowerCut) -> None:
    path = job.disk.base / "b" / "a"
    path.parent.mkdir()
    path.write_bytes(b"somebody's")
    assert cut.leaves(job.disk.base / job.disk.quarantine("b/a", "b"))


def test_power_cut_on_fuse_leaves_files_that_were_linked(job: Job, cut: PowerCut, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"1")
    root = Root(tmp_path)
    with root.opened("old") as source:
        assert source is not None and job.disk.link_from(source, "b/dir/a")
    root.close()
    job.disk.flush(["b/dir/a"])
    assert cut.leaves(job.disk.base / "b/dir/a")


def test_power_cut_on_fuse_leaves_what_the_native_engine_landed(job: Job, cut: PowerCut) -> None:
    landing = Landing(job.disk, "b")
    for path in ("b/a", "b/deep/er/c"):
        temporary, fd = landing.begin()
        os.write(fd, b"body")
        landing.finish(path, temporary, fd, 4, 10**18)
        assert cut.leaves(job.disk.base / path)
    landing.close()


@pytest.mark.parametrize(("kind", "writable"), [("cifs", True), ("fuse.bindfs", False)])
def test_files_are_flushed_by_a_handle_that_may_write_where_smb_needs_it(
    job: Job, monkeypatch: pytest.MonkeyPatch, kind: str, writable: bool
) -> None:
    modes: list[int] = []
    monkeypatch.setattr(disk_module, "mount_of", lambda fd: Mount(kind, Durability.LASTING))
    with Disk.open(job.disk.base) as disk:
        with disk.writing("b/a") as sink:
            sink.write(b"1")
        before = (disk.base / "b/a").stat()
        monkeypatch.setattr(
            disk_module, "_flush", lambda fd: modes.append(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE)
        )
        disk.flush(["b/a", "b/not there"])
    assert modes[0] == (os.O_RDWR if writable else os.O_RDONLY)
    after = (job.disk.base / "b/a").stat()
    assert (before.st_ctime_ns, before.st_mtime_ns) == (after.st_ctime_ns, after.st_mtime_ns)


def test_verify_goes_on_past_a_symbolic_link_on_fuse(job: Job, cut: PowerCut, tmp_path: Path) -> None:
    """A folder that cannot be flushed belongs to copies that were not read either."""
    fill(job)
    job.bring()
    folder = job.disk.base / "b" / "deep"
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    job.verify_again("run-2")
    assert job.row("a").state is FileState.VERIFIED and job.row("a").read_run == "run-2"
    assert job.row("deep/b").state is FileState.ERROR


def test_nothing_more_is_flushed_where_syncfs_is_enough(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of small files a flush of each would be slower by far."""
    cut = PowerCut(job.disk.base)
    monkeypatch.setattr(disk_module, "mount_of", lambda fd: Mount("ext4", Durability.LASTING), raising=False)
    monkeypatch.setattr(disk_module, "_flush", cut.flush)
    fill(job)
    with Disk.open(job.disk.base) as job.disk:
        job.bring()
        copies = {row.identity.inode for row in job.rows() if row.identity}
    assert len(copies) == 5 and not copies & cut.files.keys()


def test_workers_of_the_native_engine_flush_each_file(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told, and need not find out; PowerCut cannot see into them."""
    monkeypatch.setattr(disk_module, "mount_of", lambda fd: FUSE, raising=False)
    with Disk.open(job.disk.base) as disk:
        assert disk.passed_on()[3:] == (True,)
        assert Disk.inherited(*disk.passed_on())._flushes_each


# -- an edit that does not show


@pytest.fixture
def blind(job: Job, monkeypatch: pytest.MonkeyPatch) -> Job:
    """ctime follows mtime there, as on sshfs."""
    identity = disk_module._identity
    monkeypatch.setattr(
        disk_module, "_identity", lambda facts: replace(identity(facts), ctime_ns=identity(facts).mtime_ns)
    )
    return job


def edit(path: Path) -> None:
    """Other bytes in the same file, of the same size and time."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.write(b"!")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_edits_are_noticed_by_their_ctime(job: Job) -> None:
    assert job.disk.notices_edits()
    assert list((job.disk.base / ".migrate-v2").iterdir()) == []


def test_edits_are_not_noticed_where_ctime_follows_mtime(blind: Job) -> None:
    assert not blind.disk.notices_edits()


@pytest.mark.parametrize("kind", ["exfat", "vfat"])
def test_edits_are_not_noticed_where_no_ctime_is_stored(job: Job, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Until the inode leaves memory it looks otherwise."""
    monkeypatch.setattr(disk_module, "mount_of", lambda fd: Mount(kind, Durability.LASTING), raising=False)
    with Disk.open(job.disk.base) as disk:
        assert not disk.notices_edits()


@pytest.mark.parametrize("trust", [None, timedelta(days=1)])
def test_edit_that_does_not_show_stops_deletion(blind: Job, trust: timedelta | None) -> None:
    for number in range(5):
        blind.server.put("b", f"dir/{number}", b"body %d" % number)
    blind.bring()
    if trust is None:
        blind.prove()
    edit(blind.path("dir/2"))
    with pytest.raises(Refused):
        list(blind.deleting(trust=trust))
    assert blind.server.deletes == []


def test_deletion_goes_on_where_edits_do_not_show(blind: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE may number an inode anew, exFAT forgets ctimes: the bytes count, which are read again right before the delete."""
    blind.server.buckets["b"].versioning = "Enabled"
    for number in range(5):
        blind.server.put("b", f"dir/{number}", b"body %d" % number)
    blind.server.put("b", "folder/", b"")
    blind.bring()
    blind.prove()
    identity = disk_module._identity
    monkeypatch.setattr(
        disk_module, "_identity", lambda facts: replace(identity(facts), inode=identity(facts).inode + 1)
    )
    list(blind.deleting())
    assert len(blind.server.deletes) == 6


def test_missing_or_truncated_copy_stops_deletion_where_edits_do_not_show(blind: Job) -> None:
    for number in range(3):
        blind.server.put("b", f"dir/{number}", b"body %d" % number)
    blind.bring()
    blind.prove()
    blind.path("dir/1").unlink()
    with pytest.raises(Refused):
        list(blind.deleting())
    assert blind.server.deletes == []


def test_interrupted_hash_is_not_the_copys(blind: Job) -> None:
    blind.server.put("b", "a", b"1")
    blind.bring()
    stop = Event()
    assert delete_step._digest(blind.disk, blind.row("a"), stop) == blind.row("a").sha256
    stop.set()
    assert delete_step._digest(blind.disk, blind.row("a"), stop) == ""


# -- what the plan says of it


@pytest.mark.parametrize(("mount", "needs"), [(FUSE, True), (Mount("ext4", Durability.LASTING), False)])
def test_plan_names_what_the_copies_rest_on(job: Job, mount: Mount, needs: bool) -> None:
    empty = deletion.plan(job.store, job.site(), Rules(), mount=mount)
    assert not empty.needs_allow_volatile
    job.server.put("b", "a", b"1")
    job.bring()
    plan = deletion.plan(job.store, job.site(), Rules(), mount=mount)
    assert plan.needs_allow_volatile is needs and bool(plan.rests_on) is needs
    # The token is of what goes, not of where the copies lie.
    assert plan.token == deletion.plan(job.store, job.site(), Rules()).token


# -- one destination inside another one


def test_nothing_is_written_to_or_moved_out_of_an_inner_destination(job: Job) -> None:
    with Disk.open(job.disk.base / "b" / "inner") as inner, inner.writing("c/k") as sink:
        inner.claim(None)
        sink.write(b"1")
    assert job.disk.inner_destination("b", deep=True) == "b/inner"
    assert job.disk.inner_destination("b", deep=False) == ""
    with pytest.raises(Refused):
        job.disk.quarantine("b/inner/c/k", "b")
    with pytest.raises(Refused), job.disk.writing("b/inner/c/new"):
        pass
    with job.disk.writing("b/beside") as sink:
        sink.write(b"2")
    assert sorted(path.name for path in (job.disk.base / "b/inner/c").iterdir()) == ["k"]


def test_outer_destination_is_found_through_a_symbolic_link(job: Job, tmp_path: Path) -> None:
    job.disk.claim(None)
    job.disk.make_folder(".migrate-v2/b")
    job.disk.make_folder("b/deep")
    (tmp_path / "link").symlink_to(job.disk.base / "b" / "deep")
    for path in (job.disk.base / "b", job.disk.base / "b/deep/new", tmp_path / "link" / "new"):
        with Disk.open(path) as inner:
            assert inner.outer_destination() == Path(os.path.realpath(job.disk.base))
    for path in (job.disk.base, job.disk.base / "other" / "new", tmp_path / "elsewhere"):
        with Disk.open(path) as apart:
            assert apart.outer_destination() is None
