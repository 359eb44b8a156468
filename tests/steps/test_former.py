"""Copies of versions that are not current any more: they are renamed, stay verified, and are never fetched again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from migrate_v2.edges.disk import Disk, Obstacle
from migrate_v2.model import FileState, Place
from tests.steps.conftest import Job
from tests.steps.test_scan import put_marker

QUARANTINE = ".migrate-v2/b/quarantine"


def versioned(job: Job, key: str = "k") -> str:
    """A verified copy at the path of its key, and then something above its version."""
    job.server.bucket("b", versioning="Enabled")
    version_id = job.server.put("b", key, b"first").version_id
    job.bring()
    return version_id


def add_marker(job: Job, key: str = "k") -> None:
    put_marker(job.server, "b", key)


def add_version(job: Job, key: str = "k") -> None:
    job.server.put("b", key, b"the second")


def quarantined(job: Job) -> list[bytes]:
    folder = job.disk.base / QUARANTINE
    return sorted(path.read_bytes() for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("above", [add_marker, add_version])
def test_former_version_keeps_its_copy_and_is_not_fetched_again(job: Job, above: Callable[[Job], None]) -> None:
    first = versioned(job)
    before = job.row("k", first)
    inode = (job.disk.base / before.path).stat().st_ino
    gets = job.server.count("GetObject")
    above(job)
    job.bring()
    after = job.row("k", first)
    assert (after.state, after.place, after.sealed) == (FileState.VERIFIED, Place.SIDE, True)
    assert after.path.startswith(".migrate-v2/b/objects/") and after.sha256 == before.sha256
    assert after.identity == job.disk.look(after.path) and after.identity and after.identity.inode == inode
    assert (job.disk.base / after.path).read_bytes() == b"first"
    assert job.server.count("GetObject") - gets == (above is add_version)
    assert quarantined(job) == []
    job.verify_again("run-2")
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}


def test_former_version_that_is_current_again_stays_at_its_side_path(job: Job) -> None:
    first = versioned(job)
    add_marker(job)
    job.bring()
    moved = job.row("k", first)
    (marker,) = [v for v in job.server.versions("b") if v.is_marker]
    job.server.remove("b", "k", marker.version_id)
    gets = job.server.count("GetObject")
    job.bring()
    again = job.row("k", first)
    assert again.version.is_latest and replace(again, version=moved.version) == moved
    assert job.server.count("GetObject") == gets


def test_former_version_in_glacier_is_not_restored_again(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    version = job.server.put("b", "k", b"first", storage_class="GLACIER")
    version.restore_ready, version.restore_expiry = 0.0, job.server.clock() + 86400
    job.bring()
    assert job.row("k").state is FileState.VERIFIED
    version.restore_ready = version.restore_expiry = None
    add_marker(job)
    job.bring()
    assert job.row("k").state is FileState.VERIFIED
    assert job.store.counts("b").to_request == 0


def test_former_version_on_its_way_from_glacier_keeps_its_restore(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    first = job.server.put("b", "k", b"first", storage_class="GLACIER").version_id
    job.server.restore_status_in_lists = False
    job.scan()
    job.place()
    job.store.restore_asked([job.row("k").version], "Bulk", 5)
    add_version(job)
    job.scan()
    row = job.row("k", first)
    assert row.state is FileState.RESTORE_REQUESTED and row.asked and row.place is None
    job.place()
    assert job.row("k", first).place is Place.SIDE


def test_former_version_that_was_not_verified_yet_is_renamed_and_verified(job: Job) -> None:
    job.server.bucket("b", versioning="Enabled")
    first = job.server.put("b", "k", b"first").version_id
    job.scan()
    job.place()
    job.fetch()
    add_version(job)
    gets = job.server.count("GetObject")
    job.bring()
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    assert job.path("k", first).read_bytes() == b"first"
    assert job.server.count("GetObject") - gets == 1


@pytest.mark.parametrize("edit", ["bytes", "other file", "ctime"])
def test_former_copy_that_was_edited_is_renamed_and_verified_again(job: Job, edit: str) -> None:
    first = versioned(job)
    path = job.path("k", first)
    facts = path.stat()
    if edit == "ctime":
        path.chmod(0o640)
    elif edit == "bytes":
        path.write_bytes(b"FIRST")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    else:
        shutil.copy2(path, path.with_name("copy"))
        path.with_name("copy").replace(path)
    add_version(job)
    job.scan()
    job.place()
    row = job.row("k", first)
    assert (row.state, row.verdict, row.place) == (FileState.DOWNLOADED, None, Place.SIDE)
    job.fetch()
    job.verify()
    assert job.row("k", first).state is (FileState.DISCOVERED if edit == "bytes" else FileState.VERIFIED)
    assert quarantined(job) == ([b"FIRST"] if edit == "bytes" else [])


def test_former_copy_that_is_missing_is_fetched_again(job: Job) -> None:
    first = versioned(job)
    job.path("k", first).unlink()
    add_version(job)
    job.bring()
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    assert job.path("k", first).read_bytes() == b"first"


def test_former_copy_is_never_renamed_over_another_file(job: Job) -> None:
    first = versioned(job)
    side = job.disk.base / ".migrate-v2/b/objects" / f"k=v{''.join(escaped(sign) for sign in first)}"
    side.parent.mkdir(parents=True, exist_ok=True)
    side.write_bytes(b"nobody knows")
    add_version(job)
    job.bring()
    assert job.path("k", first) == side and side.read_bytes() == b"first"
    assert quarantined(job) == [b"nobody knows"]


def escaped(sign: str) -> str:
    return sign if sign.isdigit() or sign.islower() or sign in "-_" else f"={ord(sign):02x}"


def test_former_copy_behind_an_obstacle_stays_and_the_newer_version_goes_aside(job: Job) -> None:
    first = versioned(job, "d/k")
    folder = job.disk.base / "b" / "d"
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")
    add_version(job, "d/k")
    job.scan()
    job.place()
    assert (job.row("d/k", first).state, job.row("d/k", first).path) == (FileState.VERIFIED, "b/d/k")
    (second,) = [row for row in job.rows() if row.version.version_id != first]
    assert second.place is Place.SIDE
    folder.unlink()
    folder.with_name("elsewhere").rename(folder)
    job.bring()
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}


class Killed(BaseException):
    pass


STEPS = ["begin_moves", "move", "flush_folders", "end_moves"]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_rename_is_finished_after_a_kill_at_each_step(
    job: Job, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    first = versioned(job)
    add_version(job)
    job.scan()
    gets = job.server.count("GetObject")
    owner: type = Disk if hasattr(Disk, step) else type(job.store)
    real = getattr(owner, step)

    def dies(*arguments: object) -> None:
        if after:
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dies)
        with pytest.raises(Killed):
            job.place()
    files = [path for path in job.disk.base.rglob("*") if path.is_file() and path.read_bytes() == b"first"]
    assert len(files) == 1
    for run in (job.place, job.fetch, job.verify):
        run()
    row = job.row("k", first)
    assert (row.state, row.place, row.sealed) == (FileState.VERIFIED, Place.SIDE, True)
    assert row.identity == job.disk.look(row.path) and job.path("k", first).read_bytes() == b"first"
    assert job.server.count("GetObject") - gets == 1 and quarantined(job) == []
    assert job.store.moving("b") == []


def test_file_put_at_the_old_path_after_a_kill_is_not_taken_for_the_copy(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = versioned(job)
    add_version(job)
    job.scan()
    with monkeypatch.context() as patch:
        patch.setattr(type(job.store), "end_moves", killed)
        with pytest.raises(Killed):
            job.place()
    (job.disk.base / "b/k").write_bytes(b"somebody's")
    for run in (job.place, job.fetch, job.verify):
        run()
    assert job.path("k", first).read_bytes() == b"first"
    assert {row.state for row in job.rows()} == {FileState.VERIFIED}
    assert quarantined(job) == [b"somebody's"]


def killed(*_: object) -> None:
    raise Killed


def test_move_refuses_what_is_no_regular_file(job: Job) -> None:
    folder = job.disk.base / "b"
    folder.mkdir()
    (folder / "link").symlink_to("nowhere")
    with pytest.raises(Obstacle):
        job.disk.move("b/link", "b/other")
    (folder / "file").write_bytes(b"x")
    (folder / "taken").write_bytes(b"y")
    with pytest.raises(FileExistsError):
        job.disk.move("b/file", "b/taken")
    assert job.disk.move("b/none", "b/other") is None
    moved = job.disk.move("b/file", "b/deep/er/file")
    assert moved == job.disk.look("b/deep/er/file") and (folder / "taken").read_bytes() == b"y"
