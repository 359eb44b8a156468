"""Files of an older toolkit are opened below named folders only, and no copy silently shares its inode with one of them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from migrate_v2.deletion import kept, plan
from migrate_v2.edges import disk as disk_module
from migrate_v2.edges.store import UNKNOWN_VERSION
from migrate_v2.events import Warned
from migrate_v2.model import Adopt, Cause, FileState, GoneKind, Place, Row, Rules, Verdict
from migrate_v2.steps.adopt import NOT_ADOPTED, separate
from tests.steps.conftest import Job
from tests.steps.test_upgrade import Old

BODY = b"0123456789" * 50


@pytest.fixture
def old(job: Job, tmp_path: Path) -> Old:
    return Old(job, tmp_path)


def separated(old: Old, how: Adopt) -> list[object]:
    return list(separate("bbb", old.job.store, old.job.disk, old.roots, how=how, said=set()))


def listed_as_not_adopted(old: Old) -> list[dict[str, object]]:
    path = old.job.disk.base / ".migrate-v2/bbb" / NOT_ADOPTED
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def clones(destination: int, source: int) -> None:
    """FICLONE as a file system with reflinks carries it out: other inode, same bytes."""
    size = os.fstat(source).st_size
    os.sendfile(destination, source, 0, size)


def linked(old: Old) -> int:
    return old.job.store.linked_amount("bbb")[0]


# -- B2: what is opened


@pytest.mark.parametrize("walks", [False, True])
@pytest.mark.parametrize(
    "local",
    [
        "{home}/bbb/../../secret/x",
        "../secret/x",
        "{tmp}/home/../secret/x",
        "/{tmp}/secret/x",
        "{tmp}/secret/x",
        "secret-link/x",
        "{home}/bbb/up/x",
    ],
)
def test_adopt_opens_nothing_outside_of_its_roots(
    old: Old, tmp_path: Path, local: str, walks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret/x"
    secret.parent.mkdir()
    secret.write_bytes(BODY)
    base = old.job.disk.base
    (base / "bbb").mkdir()
    (base / "secret-link").symlink_to(secret.parent)
    (base / "bbb/up").symlink_to(secret.parent)
    old.put("k", BODY)
    old.rows.append(
        {
            "bucket": "bbb",
            "key": "k",
            "size": len(BODY),
            "state": "verified",
            "etag": hashlib.md5(BODY).hexdigest(),
            "local_path": local.format(home=base, tmp=tmp_path),
        }
    )
    old.roots = []
    opened = watch_opens(monkeypatch)
    if walks:
        monkeypatch.setattr(disk_module, "_has_openat2", lambda fd: False)
    old.go()
    assert old.fetched == 1
    assert old.job.row("k").state is FileState.VERIFIED
    assert secret.stat().st_nlink == 1
    assert secret.stat().st_ino not in opened


def watch_opens(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The inodes of all files that os.open() gave a descriptor of."""
    opened: set[int] = set()
    real = os.open

    def watched(*args: object, **more: object) -> int:
        fd = real(*args, **more)  # type: ignore[arg-type]
        opened.add(os.fstat(fd).st_ino)
        return fd

    monkeypatch.setattr(os, "open", watched)
    return opened


def test_adopt_key_with_dots_leaves_files_outside_alone(old: Old, tmp_path: Path) -> None:
    outside = tmp_path / "x"
    outside.write_bytes(BODY)
    old.put("../../x", BODY)
    old.row("../../x", BODY, local=str(old.job.disk.base / "bbb/../../x"))
    old.rows[-1]["local_path"] = None
    old.go()
    assert old.fetched == 1
    assert outside.stat().st_nlink == 1
    row = old.job.row("../../x")
    assert (row.state, row.place) == (FileState.VERIFIED, Place.SIDE)


def test_adopt_lists_what_it_may_not_open_and_adopts_it_when_named(old: Old, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = old.row("k", BODY, state="deleted", local=str(elsewhere / "k"))
    old.put("in-s3", BODY)
    old.row("in-s3", BODY, local=str(elsewhere / "in-s3"))
    old.roots = []
    job = old.job
    old.upgrade()
    job.scan()
    events = old.adopt()
    assert sum(isinstance(event, Warned) for event in events) == 1
    assert [(e["key"], e["local_path"], e["in_s3"]) for e in listed_as_not_adopted(old)] == [
        ("in-s3", str(elsewhere / "in-s3"), True),
        ("k", str(path), False),
    ]
    assert path.stat().st_nlink == 1
    assert job.store.may_adopt("bbb")  # the only copy still waits
    assert job.row("in-s3").state is FileState.DISCOVERED
    old.roots = [elsewhere]
    old.adopt()
    assert not job.store.may_adopt("bbb")
    assert job.path("k").read_bytes() == BODY
    assert job.row("in-s3").state is FileState.DISCOVERED


# -- B3: whose inode it is


def test_adopt_reflink_is_a_file_of_its_own(old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_clone", clones)
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    path.chmod(0o644)
    os.utime(path, (1e9, 1e9))
    old.go()
    copy = old.job.path("k")
    assert old.fetched == 0 and linked(old) == 0
    assert copy.stat().st_ino != path.stat().st_ino
    assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o644, 1e9)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.stat().st_mtime == old.job.row("k").version.last_modified.timestamp()
    assert plan(old.job.store, old.job.site(), Rules()).objects == 1


def test_adopt_hard_link_is_marked_and_its_object_kept(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    old.put("own", b"in place")
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    path.chmod(0o640)
    os.utime(path, (1e9, 1e9))
    old.row("own", b"in place")
    old.go()
    job = old.job
    assert path.samefile(job.path("k"))
    assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o640, 1e9)
    assert old.fetched == 0 and job.states() == {"k": FileState.VERIFIED, "own": FileState.VERIFIED}
    assert job.row("k").linked == str(path) and job.row("own").linked == ""
    assert job.store.linked_amount("bbb") == (1, len(BODY))
    site = job.site()
    assert plan(job.store, site, Rules()).objects == 1
    assert [(key, stays.cause) for key, _, stays in kept(job.store, site, Rules())] == [("k", Cause.LINKED)]
    job.prove()
    list(job.deleting(site))
    assert [v.key for v in job.server.versions("bbb")] == ["k"]


def test_adopt_copy_gives_a_hard_link_an_inode_of_its_own(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    os.utime(path, (1e9, 1e9))
    old.go()
    job = old.job
    separated(old, Adopt.COPY)
    assert linked(old) == 0
    assert not path.samefile(job.path("k")) and path.stat().st_nlink == 1 and path.stat().st_mtime == 1e9
    assert job.path("k").stat().st_mode & 0o777 == 0o600
    assert job.row("k").state is FileState.DOWNLOADED  # to be verified again
    job.verify()
    assert plan(job.store, job.site(), Rules()).objects == 1
    path.write_bytes(b"edited in place")
    assert job.path("k").read_bytes() == BODY


def test_adopt_copy_of_a_file_edited_meanwhile_is_not_taken(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    old.go()
    path.write_bytes(BODY[::-1])
    events = separated(old, Adopt.COPY)
    assert linked(old) == 1 and any(isinstance(event, Warned) for event in events)
    assert plan(old.job.store, old.job.site(), Rules()).objects == 0


@pytest.mark.parametrize("left_over", [False, True])
def test_adopt_move_takes_the_name_of_a_hard_link(old: Old, tmp_path: Path, left_over: bool) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    old.go()
    job = old.job
    if left_over:  # killed between the rename and the removal
        (copy,) = job.store.linked_copies("bbb")
        digest = hashlib.sha256(copy.path.encode()).hexdigest()[:32]
        (job.disk.base / ".migrate-v2/bbb").mkdir(exist_ok=True)
        path.rename(job.disk.base / f".migrate-v2/bbb/moved-{digest}")
    separated(old, Adopt.MOVE)
    assert not path.exists() and linked(old) == 0
    assert job.path("k").stat().st_nlink == 1 and job.path("k").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (job.disk.base / ".migrate-v2/bbb").iterdir() if p.name.startswith("moved-")] == []
    job.verify()
    assert plan(job.store, job.site(), Rules()).objects == 1


def test_adopt_move_leaves_a_name_outside_of_its_roots(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    old.go()
    old.roots = [tmp_path / "other"]
    separated(old, Adopt.MOVE)
    assert path.samefile(old.job.path("k")) and linked(old) == 1


def test_adopt_move_renames_at_once(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    inode = path.stat().st_ino
    old.how = Adopt.MOVE
    old.go()
    assert old.fetched == 0 and linked(old) == 0 and not path.exists()
    assert old.job.path("k").stat().st_ino == inode
    assert plan(old.job.store, old.job.site(), Rules()).objects == 1


@pytest.mark.parametrize("by_link", [False, True], ids=["named as it is", "named through a link"])
def test_adopt_move_never_moves_a_copy_within_the_destination(old: Old, tmp_path: Path, by_link: bool) -> None:
    base = old.job.disk.base
    (tmp_path / "link").symlink_to(base)
    other = base / "other/photo.jpg"
    other.parent.mkdir()
    other.write_bytes(BODY)
    old.put("k", BODY)
    named = tmp_path / "link/other/photo.jpg" if by_link else other
    old.rows.append(
        {
            "bucket": "bbb",
            "key": "k",
            "size": len(BODY),
            "state": "verified",
            "etag": hashlib.md5(BODY).hexdigest(),
            "local_path": str(named),
        }
    )
    old.roots, old.how = [tmp_path / "link"], Adopt.MOVE
    old.go()
    assert other.read_bytes() == BODY and other.stat().st_nlink == 1
    assert old.fetched == 0 and old.job.path("k").read_bytes() == BODY


def test_adopt_copy_copies_at_once(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    old.how = Adopt.COPY
    old.go()
    assert old.fetched == 0 and linked(old) == 0 and path.stat().st_nlink == 1
    assert old.job.path("k").read_bytes() == BODY


def test_hard_link_whose_other_name_is_gone_is_unmarked(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    old.go()
    path.unlink()
    separated(old, Adopt.REFLINK)
    assert linked(old) == 0 and old.job.row("k").state is FileState.DOWNLOADED
    old.job.verify()
    assert plan(old.job.store, old.job.site(), Rules()).objects == 1


def test_hard_link_killed_before_its_row_was_written_is_marked(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    (old.job.disk.base / "bbb").mkdir()
    os.link(path, old.job.disk.base / "bbb/k")
    old.go()
    assert old.job.row("k").linked == str(path)


def test_mark_survives_a_forgotten_row(old: Old, tmp_path: Path) -> None:
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    old.go()
    job = old.job
    os.utime(path, (job.row("k").version.last_modified.timestamp(),) * 2)
    job.store.forget("bbb")
    job.scan()
    job.place()
    assert job.row("k").linked == str(path)


def test_hard_links_of_others_are_warned_of_once(job: Job, tmp_path: Path) -> None:
    job.server.put("b", "a", BODY)
    job.server.put("b", "c", BODY)
    job.scan()
    job.place()
    job.fetch()
    for key in ("a", "c"):
        os.link(job.path(key), tmp_path / key)
    events = job.verify()
    assert sum(isinstance(event, Warned) for event in events) == 1
    assert plan(job.store, job.site(), Rules()).objects == 2


# -- B10(d): copies of objects that are gone


def old_row(old: Old, key: str) -> Row:
    return old.job.row(key, UNKNOWN_VERSION)


def test_gone_object_whose_copy_may_not_be_opened_is_an_unproved_only_copy(old: Old, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = old.row("k", BODY, local=str(elsewhere / "k"))
    old.roots = []
    old.upgrade()
    old.job.scan()
    old.adopt()
    row = old_row(old, "k")
    assert (row.gone, row.place, row.path) == (GoneKind.UNPROVED_ONLY_COPY, None, str(path))
    assert listed_as_not_adopted(old)[0]["local_path"] == str(path) and path.stat().st_nlink == 1
    old.job.verify_again()
    old.roots = [elsewhere]
    old.adopt()
    old.job.verify()
    row = old_row(old, "k")
    assert (row.gone, row.verdict) == (GoneKind.ONLY_COPY, Verdict.MATCH)
    assert old.job.path("k").read_bytes() == BODY


@pytest.mark.parametrize("again", [False, True])
def test_gone_object_without_a_copy_is_fetched_anew_or_was_never_fetched(old: Old, again: bool) -> None:
    old.row("k", BODY).unlink()
    if again:
        old.put("k", b"another object")
    old.go()
    rows = [row for row in old.job.rows() if row.version.version_id == UNKNOWN_VERSION]
    assert [row.gone for row in rows] == ([] if again else [GoneKind.NEVER_FETCHED])
    assert old.fetched == again


@pytest.mark.parametrize(
    ("here", "taken"),
    [
        (b"recorded", True),
        (b"of neither", True),
        (b"what S3 has now", False),  # the older toolkit fetched it without a new row
    ],
)
def test_file_under_a_key_that_was_overwritten(old: Old, here: bytes, taken: bool) -> None:
    old.put("k", b"what S3 has nOW")
    old.row("k", b"recorded").write_bytes(here)
    old.go()
    assert [row.version.size for row in old.job.rows() if row.gone] == ([8] if taken else [])
    assert any(path.read_bytes() == here for path in old.job.disk.base.rglob("*") if path.is_file())
    if taken:
        assert (old.job.disk.base / "bbb/k").read_bytes() == here
    (now,) = [row for row in old.job.rows() if row.version.version_id == "null"]
    assert now.state in (FileState.VERIFIED, FileState.DISCOVERED)


def test_row_that_s3_does_not_tell_of_waits_and_is_in_no_plan(old: Old) -> None:
    old.row("k", BODY)
    old.put("other", b"1")
    old.upgrade()
    old.job.server.fault(lambda request: request.method == "HEAD" and request.key == "k", "access-denied", times=None)
    old.job.scan()
    old.adopt()
    old.job.place()
    old.job.verify()
    row = old_row(old, "k")
    assert (row.state, row.place, row.gone) == (FileState.DOWNLOADED, None, None)
    assert old.job.store.may_adopt("bbb")
    assert plan(old.job.store, old.job.site(), Rules()).objects == 0
    old.job.server.calm()
    old.job.scan()
    old.adopt()
    old.job.verify()
    assert old_row(old, "k").gone is GoneKind.ONLY_COPY and not old.job.store.may_adopt("bbb")


def test_copy_of_a_former_version_takes_its_mark_along(old: Old, tmp_path: Path) -> None:
    old.job.server.bucket("bbb", "Enabled")
    old.put("k", BODY)
    path = old.row("k", BODY, local=str(tmp_path / "elsewhere/k"))
    old.go()
    old.put("k", b"a newer version")
    old.job.scan()
    old.job.place()
    (row,) = [row for row in old.job.rows() if not row.version.is_latest]
    assert row.place is Place.SIDE and row.linked == str(path)
    assert (old.job.disk.base / row.path).samefile(path)
