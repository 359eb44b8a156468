"""Copies of versions that are not current any more: they are renamed, stay verified, and are never fetched again."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from migrate_v2.edges.disk import Disk, Obstacle
from migrate_v2.edges.store import Evidence
from migrate_v2.model import NO_ATTEMPTS, Cause, FileState, GoneKind, Place, Row, Verdict
from migrate_v2.steps import errors
from migrate_v2.steps.sync import collect, look_for_gone
from tests.steps.conftest import Job, found
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


@pytest.mark.parametrize("above", [add_marker, add_version])
def test_former_copy_that_is_a_hard_link_keeps_its_mark(job: Job, above: Callable[[Job], None]) -> None:
    """confirm-delete keeps its object: a file of the operator's has the same inode."""
    first = versioned(job)
    row = job.row("k", first)
    other = job.disk.base.parent / "photo"
    job.store.mark_linked(row.version, row.path, other)
    os.link(job.disk.base / row.path, other)
    above(job)
    job.bring()
    moved = job.row("k", first)
    assert moved.place is Place.SIDE and moved.linked == str(other)
    job.delete()
    assert first in {v.version_id for v in job.server.versions("b")}


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


# -- objects that were overwritten, where no version of them stays in S3


def superseded(job: Job, key: str = "k") -> Row:
    (row,) = [row for row in job.rows() if row.key == key and row.cause is Cause.SUPERSEDED]
    return row


def overwritten(job: Job, key: str = "k", body: bytes = b"the second") -> None:
    job.server.put("b", key, body)


@pytest.mark.parametrize("key", ["k", "x//y", "a/b", "k" * 300])
def test_copy_of_an_overwritten_object_is_kept_below_superseded(job: Job, key: str) -> None:
    job.server.put("b", key, b"first")
    job.bring()
    before = job.row(key)
    overwritten(job, key)
    job.bring()
    former = superseded(job, key)
    assert (former.state, former.verdict, former.gone) == (FileState.ERROR, Verdict.MATCH, GoneKind.ONLY_COPY)
    assert (former.sha256, former.witnesses) == (before.sha256, before.witnesses)
    assert former.path.startswith(".migrate-v2/b/superseded/")
    assert (job.disk.base / former.path).read_bytes() == b"first"
    assert former.identity == job.disk.look(former.path)
    (current,) = [row for row in job.rows() if row.cause is None]
    assert (current.state, current.path) == (FileState.VERIFIED, before.path)
    assert (job.disk.base / current.path).read_bytes() == b"the second"
    assert quarantined(job) == []
    assert job.store.only_copies("b") == 1 and job.store.superseded("b") == (1, 5)
    job.verify_again("run-2")
    assert superseded(job, key).verdict is Verdict.MATCH


def test_object_overwritten_twice_leaves_two_copies(job: Job) -> None:
    for body in (b"first", b"second!", b"the third"):
        overwritten(job, body=body)
        job.bring()
    former = [row for row in job.rows() if row.cause is Cause.SUPERSEDED]
    assert {(job.disk.base / row.path).read_bytes() for row in former} == {b"first", b"second!"}
    assert {row.gone for row in former} == {GoneKind.ONLY_COPY}
    job.store.forget("b")
    assert {row.path for row in job.rows()} == {row.path for row in former}


def test_superseded_copy_that_is_damaged_stays_where_it_is_and_verify_tells(job: Job) -> None:
    job.server.put("b", "k", b"first")
    job.bring()
    overwritten(job)
    job.bring()
    path = job.disk.base / superseded(job).path
    path.write_bytes(b"FIRST")
    assert found(job.verify_again("run-2"))["k"][0] is Verdict.DIFFERS
    row = superseded(job)
    assert row.gone is GoneKind.UNPROVED_ONLY_COPY and path.read_bytes() == b"FIRST"
    assert row.sha256 == hashlib.sha256(b"first").hexdigest() and quarantined(job) == []


def test_copy_that_was_fetched_and_not_verified_keeps_its_path_when_its_object_is_overwritten(job: Job) -> None:
    job.server.put("b", "k", b"first")
    job.scan()
    job.place()
    job.fetch()
    overwritten(job)
    job.bring()
    former = superseded(job)
    assert (former.path, former.gone) == ("b/k", GoneKind.ONLY_COPY)
    assert (job.disk.base / "b/k").read_bytes() == b"first"
    (current,) = [row for row in job.rows() if row.cause is None]
    assert current.state is FileState.VERIFIED and current.place is Place.SIDE
    job.scan()
    job.place()
    assert (job.disk.base / superseded(job).path).read_bytes() == b"first"


def test_unproved_copy_of_an_overwritten_object_keeps_its_path(job: Job) -> None:
    """Its ETag proves nothing, and S3 cannot be asked any more."""
    put_opaque(job, b"first")
    job.scan()
    job.place()
    job.fetch()
    put_opaque(job, b"the second")
    job.bring()
    former = superseded(job)
    assert (former.path, former.gone) == ("b/k", GoneKind.UNPROVED_ONLY_COPY)
    assert (job.disk.base / "b/k").read_bytes() == b"first" and quarantined(job) == []


def test_copy_that_was_overwritten_in_s3_before_it_was_verified_is_not_lost(job: Job) -> None:
    """Verification finds another object in S3 before a listing does."""
    put_opaque(job, b"first")
    job.scan()
    job.place()
    job.fetch()
    put_opaque(job, b"the second")
    job.verify()
    row = job.row("k")
    assert (row.state, row.cause, row.path) == (FileState.ERROR, Cause.CHANGED, "b/k") and row.sha256
    list(errors.retry("b", job.store, None, rows_per_commit=10))
    job.bring()
    former = superseded(job)
    assert (former.path, former.gone) == ("b/k", GoneKind.UNPROVED_ONLY_COPY)
    assert (job.disk.base / "b/k").read_bytes() == b"first" and quarantined(job) == []
    (current,) = [row for row in job.rows() if row.cause is not Cause.SUPERSEDED]
    assert job.disk.look(current.path)


def put_opaque(job: Job, body: bytes) -> None:
    job.server.put("b", "k", body, etag="kms", checksums=())


def test_copy_that_contradicted_a_wrong_answer_is_verified_again_where_the_listing_is_as_before(job: Job) -> None:
    job.server.put("b", "k", b"first")
    job.bring()
    row = job.row("k")
    changed = Evidence(
        row.version, FileState.ERROR, Verdict.UNPROVABLE, "", row.sha256, (), row.identity, Cause.CHANGED
    )
    job.store.record([changed], "run")
    gets = job.server.count("GetObject")
    job.bring()
    assert job.row("k").state is FileState.VERIFIED and job.server.count("GetObject") == gets


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_superseded_copy_survives_a_kill_at_each_step(
    job: Job, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    job.server.put("b", "k", b"first")
    job.bring()
    overwritten(job)
    job.scan()
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
    job.bring()
    former = superseded(job)
    assert former.path.startswith(".migrate-v2/b/superseded/") and former.gone is GoneKind.ONLY_COPY
    assert (job.disk.base / former.path).read_bytes() == b"first"
    assert (job.disk.base / "b/k").read_bytes() == b"the second" and quarantined(job) == []
    job.verify_again("run-2")
    assert superseded(job).verdict is Verdict.MATCH


def test_superseded_copy_that_is_missing_does_not_claim_the_new_copy(job: Job) -> None:
    job.server.put("b", "k", b"first")
    job.bring()
    (job.disk.base / "b/k").unlink()
    overwritten(job)
    job.bring()
    told = job.verify_again("run-2")
    assert found(told)["k"][0] is Verdict.MISSING
    (current,) = [row for row in job.rows() if row.cause is None]
    assert (current.state, current.path) == (FileState.VERIFIED, "b/k")


def test_folder_that_was_put_again_is_no_trouble(job: Job) -> None:
    job.server.put("b", "dir/", b"")
    job.bring()
    with job.server.lock:
        job.server.buckets["b"].objects["dir/"][0].last_modified -= 60
    job.bring()
    assert {(row.place, row.path) for row in job.rows()} == {(Place.FOLDER, "b/dir")}
    assert {row.state for row in job.rows()} == {FileState.ERROR, FileState.VERIFIED}
    job.verify_again("run-2")
    assert {row.verdict for row in job.rows()} == {Verdict.MATCH}


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


# -- attempts


def test_copy_that_is_missing_three_times_before_it_is_verified_is_contested(job: Job) -> None:
    job.server.put("b", "k", b"first")
    job.scan()
    for fetched in range(1, 4):
        job.place()
        job.fetch()
        (job.disk.base / "b/k").unlink()
        job.verify()
        assert job.row("k").attempts.same_results == fetched
    assert (job.row("k").state, job.row("k").cause) == (FileState.ERROR, Cause.CONTESTED)
    assert job.store.try_again("b") == 0 and job.store.counts("b").fetch_errors == 1
    list(errors.retry("b", job.store, "contested", rows_per_commit=10))
    assert job.row("k").attempts == NO_ATTEMPTS
    job.bring()
    assert job.row("k").state is FileState.VERIFIED


def test_attempts_are_those_of_one_identity(job: Job) -> None:
    job.server.put("b", "k", b"first")
    for body in (b"first", b"second"):
        job.server.put("b", "k", body)
        job.scan()
        for _ in range(2):
            job.place()
            job.fetch()
            (job.disk.base / "b/k").unlink()
            job.verify()
        assert (job.row("k").state, job.row("k").attempts.wrong_results) == (FileState.DISCOVERED, 2)
    job.bring()
    assert job.row("k").state is FileState.VERIFIED and job.row("k").attempts == NO_ATTEMPTS


@pytest.mark.parametrize(
    ("results", "contested"),
    [("AA", False), ("AAA", True), ("ABAB", False), ("ABBB", True), ("ABABA", False), ("ABABAB", True)],
)
def test_attempts_contested_after_three_equal_or_six_wrong_results(results: str, contested: bool) -> None:
    attempts = NO_ATTEMPTS
    for result in results:
        assert not attempts.contested
        attempts = attempts.failed(result)
    assert attempts.contested is contested


# -- copies that could not be read


def unreadable(job: Job, folder: str = "b") -> None:
    """Verify all copies while a symbolic link is in the place of a folder of theirs; then the folder is back."""
    path = job.disk.base / folder
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    job.verify_again("run-unreadable")
    path.unlink()
    path.with_name("elsewhere").rename(path)


def test_unreadable_copy_of_a_former_version_keeps_its_path(job: Job) -> None:
    first = versioned(job, "d/k")
    unreadable(job, "b/d")
    assert job.row("d/k", first).verdict is Verdict.UNREADABLE
    add_version(job, "d/k")
    job.scan()
    job.server.remove("b", "d/k", first)  # as a lifecycle rule for noncurrent versions does
    job.bring()
    job.verify_again("run-2")
    row = job.row("d/k", first)
    assert (row.gone, (job.disk.base / row.path).read_bytes()) == (GoneKind.ONLY_COPY, b"first")
    assert quarantined(job) == []


def test_unreadable_copy_keeps_the_evidence_by_which_it_can_be_proved_later(job: Job) -> None:
    job.server.put("b", "k", b"body", etag="kms", checksums=("CRC64NVME",))
    job.bring()
    before = job.row("k")
    unreadable(job)
    row = job.row("k")
    assert (row.state, row.sealed) == (FileState.ERROR, False)
    assert (row.sha256, row.witnesses) == (before.sha256, before.witnesses)
    job.server.remove("b", "k")
    job.scan()
    job.verify_again("run-2")
    assert job.row("k").gone is GoneKind.ONLY_COPY


def test_unsealed_evidence_proves_the_copy_of_an_object_that_is_found_gone(job: Job) -> None:
    job.server.put("b", "k", b"body", etag="kms", checksums=("CRC64NVME",))
    job.bring()
    unreadable(job)
    job.store.try_again("b")
    job.server.remove("b", "k")  # no listing shows it yet
    job.verify()
    assert job.row("k").gone is GoneKind.ONLY_COPY


def test_unproved_copy_of_an_overwritten_object_that_is_gone_then_keeps_its_path(job: Job) -> None:
    job.server.put("b", "k", b"first", etag="kms", checksums=())
    for step in (job.scan, job.place, job.fetch):
        step()
    job.server.put("b", "k", b"second")
    job.verify()
    assert (job.row("k").cause, job.row("k").verdict) == (Cause.CHANGED, Verdict.UNPROVABLE)
    job.server.remove("b", "k")
    job.scan()
    assert job.row("k").gone is GoneKind.UNPROVED_ONLY_COPY
    job.server.put("b", "k", b"third")
    job.bring()
    assert {(job.disk.base / row.path).read_bytes() for row in job.rows()} == {b"first", b"third"}
    assert quarantined(job) == []


# -- files that a killed run had not recorded when their object was overwritten


def killed_while_fetching(job: Job, folder: str = "b") -> None:
    """`k` has come, into this folder, and its row does not say so."""
    made = job.server.put("b", "k", b"first")
    job.scan()
    job.place()
    job.store.start_fetching("b", everything=True)
    path = job.disk.base / folder / "k"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    os.utime(path, (made.last_modified, made.last_modified))


def begin_again(job: Job) -> None:
    """As `migrate` does, without another listing."""
    list(collect("b", job.store, job.disk, rows_per_commit=1000))
    list(look_for_gone("b", job.store, job.disk, rows_per_commit=1000))
    for step in (job.place, job.fetch, job.verify):
        step()


@pytest.mark.parametrize("folder", ["b", ".migrate-v2/b/incoming"])
def test_unrecorded_file_of_an_overwritten_object_becomes_its_only_copy(job: Job, folder: str) -> None:
    killed_while_fetching(job, folder)
    job.server.put("b", "k", b"the second")
    job.scan()
    begin_again(job)
    only = next(row for row in job.rows() if row.gone)
    assert (only.gone, (job.disk.base / only.path).read_bytes()) == (GoneKind.ONLY_COPY, b"first")
    assert (job.disk.base / job.row("k", "null").path).read_bytes() == b"the second"
    assert quarantined(job) == []


def test_overwritten_object_of_which_no_file_had_come_leaves_no_row(job: Job) -> None:
    killed_while_fetching(job)
    (job.disk.base / "b/k").unlink()
    job.server.put("b", "k", b"the second")
    job.scan()
    begin_again(job)
    assert [(row.version.version_id, row.state, row.path) for row in job.rows()] == [
        ("null", FileState.VERIFIED, "b/k")
    ]
