"""What the CLI brought is decided by looking at the disk; whatever it says or returns, no row moves by that."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from migrate_v2 import tuning
from migrate_v2.edges import awscli
from migrate_v2.edges.awscli import Aws, Transfer, find
from migrate_v2.edges.disk import Incoming, Lock
from migrate_v2.edges.store import Change
from migrate_v2.errors import Cause
from migrate_v2.events import Ended, Event, Noted, Progress, Started, Warned
from migrate_v2.keys import FileSystem
from migrate_v2.model import Doomed, FileState, GoneKind, ObjectVersion, Place, Verdict
from migrate_v2.steps import sync as sync_step
from migrate_v2.steps.sync import Cli
from tests.steps.conftest import Job, found

FAKES = Path(__file__).parent.parent / "fakes"
REAL = Path(sys.executable).parent / "aws"
TIME = 1_600_000_000
STAGING = ".migrate-v2/b/incoming"
Doing = Callable[[str], Aws]


def program(path: Path, text: str) -> Aws:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Aws(str(path), (2, 40, 1), "aws-cli/2.40.1")


def fake(name: str) -> Aws:
    return Aws(str(FAKES / name), (2, 40, 1), "aws-cli/2.40.1")


@pytest.fixture
def doing(tmp_path: Path) -> Doing:
    """tests/fakes/aws_sync.py in one of its modes."""
    return lambda mode: program(tmp_path / "aws", f'exec {sys.executable} -E -S {FAKES / "aws_sync.py"} {mode} "$@"')


Sync = Callable[..., list[Event]]


@pytest.fixture
def sync(job: Job, tmp_path: Path) -> Sync:
    def sync(aws: Aws, *, stall: float = 300.0, pauses: list[float] | None = None, **more: Any) -> list[Event]:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        cli = Cli(
            aws=aws,
            transfer=Transfer(10, 1000, 8 << 20, 8 << 20),
            folder=folder,
            home=str(tmp_path),
            profile={},
            services={},
            credential_process='/bin/echo \'{"Version": 1, "AccessKeyId": "key", "SecretAccessKey": "secret"}\'',
            environ=dict(os.environ),
            region="us-east-1",
            endpoint_url=job.server.url,
            addressing_style="path",
            stall_seconds=stall,
            **more,
        )
        with Lock(folder / "lock", "bucket b") as lock:
            return list(
                sync_step.sync(
                    "b",
                    job.store,
                    job.disk,
                    cli,
                    [lock.fd],
                    session="run-1",
                    rows_per_commit=7,
                    pause=(pauses if pauses is not None else []).append,
                )
            )

    return sync


def ready(job: Job, *keys: str) -> None:
    for key in keys or ("k1", "k2", "dir/k3"):
        job.server.put("b", key, key.encode(), last_modified=TIME)
    job.scan()
    job.place()


def bring_by_hand(job: Job, key: str, body: bytes | None = None, when: float = TIME) -> Path:
    path = job.disk.base / "b" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.encode() if body is None else body)
    os.utime(path, (when, when))
    return path


def facts(path: Path) -> tuple[object, ...]:
    there = path.lstat()
    return there.st_ino, there.st_nlink, there.st_mtime_ns, there.st_ctime_ns, path.read_bytes()


def unchanged(job: Job, *keys: str) -> dict[str, tuple[object, ...]]:
    """What must stay as it is of these copies."""
    return {key: facts(job.disk.base / "b" / key) for key in keys}


def all_states(job: Job) -> set[FileState]:
    return set(job.states().values())


@pytest.mark.skipif(not REAL.exists(), reason="no aws in this environment")
def test_the_real_cli_brings_what_a_path_can_hold_and_leaves_the_rest(job: Job, sync: Sync) -> None:
    day = job.server.clock() + 86400
    plain = ["a b", "dir/é +%", "new\nline", "a*b", "[x]", "-rf", "\x01", "smile \U0001f600", "a/b", "zz"]
    for key in plain:
        job.server.put("b", key, key.encode(), last_modified=TIME)
    for key in ("a", "x//y", "/rooted", "full/", "../up"):
        job.server.put("b", key, key.encode())
    job.server.put("b", "folder/", b"")
    job.server.put("b", "big", os.urandom(9 << 20), parts=(8 << 20, 1 << 20))
    job.server.put("b", "thawed", b"thawed", storage_class="GLACIER", restored_until=day)
    job.server.put("b", "cold", b"cold", storage_class="GLACIER")
    job.server.bucket("b", versioning="Enabled")
    job.server.put("b", "zz", b"newer", last_modified=TIME)
    job.scan()
    job.place()
    events = sync(find(None, "", str(REAL)))
    states = {(r.key, r.version.version_id): r.state for r in job.rows()}
    here = {r.key for r in job.rows() if r.state is FileState.DOWNLOADED}
    assert here == {*plain, "big", "thawed"}
    assert job.path("cold").exists() is False and len(states) == 20
    for row in job.rows():
        if row.state is FileState.DOWNLOADED:
            stored = job.server.get("b", row.key, row.version.version_id)
            assert stored and (job.disk.base / row.path).read_bytes() == stored.body
    assert {p.name for p in job.disk.base.iterdir()} == {".migrate-v2", "b"}
    (ended,) = [e for e in events if isinstance(e, Ended)]
    assert ended.objects == len(here) and any(isinstance(e, Progress) for e in events)
    held = job.store.bucket("b")
    assert held and held.fetched_bytes == ended.bytes > 9 << 20
    # The second run does not even start it, and what is left is for our own GET.
    before = len(job.server.requests)
    assert sync(program(Path(job.store.path).parent / "aws", "exit 9")) == []
    assert len(job.server.requests) == before
    job.fetch()
    job.verify()
    assert {r.key for r in job.rows() if r.state is not FileState.VERIFIED} == {"cold"}


@pytest.mark.skipif(not REAL.exists(), reason="no aws in this environment")
def test_bytes_that_the_real_cli_got_wrong_are_for_verify(job: Job, sync: Sync) -> None:
    job.server.put("b", "k", os.urandom(1000), checksums=(), last_modified=TIME)
    job.server.put("b", "denied", b"1", last_modified=TIME)
    job.scan()
    job.place()
    job.server.fault({"op": "GetObject", "key": "k"}, "flip", times=1)
    job.server.deny("s3:GetObject", "b", "denied")
    events = sync(find(None, "", str(REAL)))
    assert job.states() == {"k": FileState.DOWNLOADED, "denied": FileState.DOWNLOADING}
    assert any(isinstance(e, Noted) and "the CLI ended with" in e.text for e in events)
    assert found(job.verify()).keys() == {"k"} and job.states()["k"] is FileState.DISCOVERED


def test_what_a_liar_says_moves_no_row(job: Job, sync: Sync) -> None:
    keys = [f"liar/{n:02}" for n in range(1, 11)]
    ready(job, *keys)
    events = sync(fake("aws_liar"))
    assert all_states(job) == {FileState.DOWNLOADING}
    (ended,) = [e for e in events if isinstance(e, Ended)]
    assert (ended.objects, ended.bytes) == (0, 0)
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


def test_passes_that_bring_nothing_come_to_an_end(job: Job, sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_step, "NOT_WORTH_A_PASS", 0)
    ready(job)
    pauses: list[float] = []
    log = Path(job.store.path).parent / "passes"
    events = sync(program(log.with_name("aws"), f"echo pass >> {log}\nexit 1"), pauses=pauses)
    assert log.read_text().count("pass") == sync_step.FRUITLESS_PASSES and pauses == [2.0]
    assert sum(isinstance(e, Noted) and "the CLI ended with" in e.text for e in events) == 2
    assert all_states(job) == {FileState.DOWNLOADING}


def test_a_pass_that_brings_some_is_followed_by_another(job: Job, sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_step, "NOT_WORTH_A_PASS", 0)
    ready(job)
    text = f"""
        cd {job.disk.base / STAGING} && mkdir -p dir
        for key in k1 k2 dir/k3; do
            [ -e $key ] && continue
            printf %s $key > $key && touch -d @{TIME} $key && exit 1
        done"""
    sync(program(Path(job.store.path).with_name("aws"), text))
    assert all_states(job) == {FileState.DOWNLOADED}


@pytest.mark.parametrize("name", ["aws_crashes", "aws_garbage", "aws_hangs"])
def test_however_it_ends_the_disk_decides(job: Job, sync: Sync, name: str) -> None:
    ready(job)
    bring_by_hand(job, "k1")
    events = sync(fake(name), stall=0.5)
    assert job.states() == {
        "k1": FileState.DOWNLOADED,
        "k2": FileState.DOWNLOADING,
        "dir/k3": FileState.DOWNLOADING,
    }
    said = [e.text for e in events if isinstance(e, Warned | Noted)]
    if name == "aws_hangs":
        assert said == ["the CLI stood still for 0 s and was stopped"]
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


def test_what_is_there_already_is_not_fetched_again(job: Job, sync: Sync) -> None:
    ready(job)
    for key in ("k1", "k2", "dir/k3"):
        bring_by_hand(job, key)
    events = sync(program(Path(job.store.path).with_name("aws"), "exit 9"))
    assert all_states(job) == {FileState.DOWNLOADED} and not any(isinstance(e, Noted) for e in events)
    assert [type(e) for e in events] == [Started, Ended]
    held = job.store.bucket("b")
    assert held and held.fetched_bytes == 0, "nothing came down"


def test_another_size_or_time_is_not_arrived(job: Job, sync: Sync) -> None:
    ready(job)
    bring_by_hand(job, "k1", b"k1 and more")
    bring_by_hand(job, "k2", when=TIME + 1)
    bring_by_hand(job, "dir/k3", b"")
    sync(program(Path(job.store.path).with_name("aws"), "exit 0"))
    assert all_states(job) == {FileState.DOWNLOADING}


def test_files_that_look_temporary_stay_in_the_bucket_folder(job: Job, sync: Sync) -> None:
    """B7: only what lies in the staging folder is ever removed."""
    ready(job)
    home = job.disk.base / "b"
    names = ["k1.a1b2c3d4", "k2.1A2b3c4D", "notes.c0ffee00", ".mv2-0123456789abcdef"]
    for name in names:
        bring_by_hand(job, name, when=job.server.clock() + 5)
    text = f"echo half > {job.disk.base / STAGING}/k2.aaaaaaaa; echo new > {job.disk.base / STAGING}/unasked"
    sync(program(Path(job.store.path).with_name("aws"), text))
    assert sorted(p.name for p in home.iterdir()) == sorted(names)
    assert not (job.disk.base / STAGING).exists()


@pytest.mark.parametrize("kind", ["symbolic link", "FIFO"])
def test_what_stands_in_the_bucket_folder_stops_only_the_rows_below_it(
    job: Job, sync: Sync, doing: Doing, kind: str
) -> None:
    ready(job)
    (job.disk.base / "b").mkdir()
    elsewhere = job.disk.base.parent / "elsewhere"
    elsewhere.mkdir()
    where = job.disk.base / "b" / "dir"
    where.symlink_to(elsewhere) if kind == "symbolic link" else os.mkfifo(where)
    sync(doing("fetch"))
    assert job.states() == {"k1": FileState.DOWNLOADED, "k2": FileState.DOWNLOADED, "dir/k3": FileState.ERROR}
    assert job.row("dir/k3").cause is Cause.OBSTACLE
    assert list(elsewhere.iterdir()) == []


def test_something_in_the_way_is_an_error_of_that_row(job: Job, sync: Sync) -> None:
    ready(job)
    (job.disk.base / "b" / "k1").mkdir(parents=True)
    told = found(sync(program(Path(job.store.path).with_name("aws"), "exit 0")))
    assert told.keys() == {"k1"} and "is a folder" in told["k1"][1]
    assert job.states()["k1"] is FileState.ERROR


@pytest.mark.parametrize("how", ["deleted", "vanished", "deleting"])
def test_beside_only_copies_the_cli_fetches_and_touches_none_of_them(
    job: Job, sync: Sync, doing: Doing, how: str
) -> None:
    ready(job)
    job.fetch()
    job.verify()
    if how == "deleted":
        job.delete()
    elif how == "vanished":
        job.server.remove("b", "k1", "null")
        job.scan()
    before = unchanged(job, "k1", "k2", "dir/k3")
    job.server.put("b", "k1", b"another", last_modified=TIME)
    ready(job, "to fetch")
    if how == "deleting":
        job.store.ledger.intend("b", [Doomed("k2", "null", "version", job.row("k2").version.etag)], "t")
    sync(doing("harm"))
    assert job.states()["to fetch"] is FileState.DOWNLOADED
    kept = ["k2", "dir/k3"] if how == "deleting" else ["k1", "k2", "dir/k3"]
    after = unchanged(job, *kept)
    assert after == {path: facts for path, facts in before.items() if path in after}


def test_only_plain_paths_are_handed_to_it(job: Job, sync: Sync) -> None:
    ready(job, "a", "a/b", "x//y", "k")
    log = Path(job.store.path).with_name("arguments")
    sync(program(log.with_name("aws"), f'printf "%s\\n" "$@" > {log}'))
    arguments = log.read_text().splitlines()
    assert "--exclude=a" in arguments and not {"--exclude=k", "--exclude=a/b", "--exclude=a/*"} & set(arguments)
    assert "--exact-timestamps" in arguments and "--delete" not in arguments
    assert "--force-glacier-transfer" not in arguments
    assert job.states() == {
        "a": FileState.DISCOVERED,
        "x//y": FileState.DISCOVERED,
        "a/b": FileState.DOWNLOADING,
        "k": FileState.DOWNLOADING,
    }
    assert job.row("a").place is Place.SIDE


# The staging folder


def test_arrivals_are_moved_and_the_staging_folder_is_removed(job: Job, sync: Sync, doing: Doing) -> None:
    ready(job)
    events = sync(doing("fetch"))
    assert all_states(job) == {FileState.DOWNLOADED}
    assert [job.path(key).read_bytes() for key in ("k1", "k2", "dir/k3")] == [b"k1", b"k2", b"dir/k3"]
    assert {job.path(key).stat().st_mtime for key in ("k1", "k2", "dir/k3")} == {TIME}
    assert not (job.disk.base / STAGING).exists()
    (ended,) = (event for event in events if isinstance(event, Ended))
    assert (ended.objects, ended.bytes) == (3, 10)
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


@pytest.mark.parametrize("how", ["overwritten", "same size", "new"])
def test_objects_that_the_cli_fetches_unasked_are_never_placed(job: Job, sync: Sync, doing: Doing, how: str) -> None:
    """It lists later than we do."""
    ready(job)
    job.fetch()
    job.verify()
    before = unchanged(job, "k1", "k2", "dir/k3")
    job.server.put("b", "wanted", b"wanted", last_modified=TIME)
    job.scan()
    job.place()
    key, body = {"overwritten": ("k1", b"another body"), "same size": ("k1", b"K1"), "new": ("k9", b"new")}[how]
    job.server.put("b", key, body)
    sync(doing("harm"))
    assert unchanged(job, "k1", "k2", "dir/k3") == before
    assert job.path("wanted").read_bytes() == b"wanted" and not (job.disk.base / "b/k9").exists()
    assert not (job.disk.base / STAGING).exists()


def test_a_wanted_object_that_was_overwritten_since_is_not_placed(job: Job, sync: Sync, doing: Doing) -> None:
    ready(job)
    job.server.put("b", "k1", b"longer than before")
    job.server.put("b", "k2", b"K2", last_modified=TIME + 1)
    sync(doing("fetch"))
    assert job.states() == {"k1": FileState.DOWNLOADING, "k2": FileState.DOWNLOADING, "dir/k3": FileState.DOWNLOADED}
    assert not (job.disk.base / "b/k1").exists() and not (job.disk.base / "b/k2").exists()


def test_an_arrival_replaces_nothing(job: Job, sync: Sync, doing: Doing) -> None:
    ready(job)
    others = {key: facts(bring_by_hand(job, key, b"of somebody else " + key.encode())) for key in ("k1", "dir/k3")}
    sync(doing("harm"))
    assert all_states(job) == {FileState.DOWNLOADED}
    assert [job.path(key).read_bytes() for key in ("k1", "dir/k3")] == [b"k1", b"dir/k3"]
    moved = {
        path.stat().st_ino: path.read_bytes()
        for path in (job.disk.base / ".migrate-v2" / "b").rglob("*")
        if path.is_file()
    }
    assert {inode: moved.get(inode) for inode, *_ in others.values()} == {
        inode: body for inode, *_, body in others.values()
    }


def gets(job: Job) -> Counter[str]:
    return Counter(entry.key for entry in job.server.requests if entry.op == "GetObject")


@pytest.mark.parametrize("finished", [3, 10, 11])
@pytest.mark.parametrize("several", [False, True])
def test_what_is_here_already_is_not_fetched_again_by_the_cli(
    job: Job, sync: Sync, doing: Doing, monkeypatch: pytest.MonkeyPatch, finished: int, several: bool
) -> None:
    """Excluded by name, or left to the other engines where it is too much to name."""
    monkeypatch.setattr(sync_step, "PATTERNS", 10)
    if several:
        monkeypatch.setattr(sync_step, "WORTH_CUTTING", 1)
        monkeypatch.setattr(tuning, "WORTH_A_PROCESS", 0.5)
        monkeypatch.setattr(tuning, "WORTH_A_LISTING", 1e-9)
    ready(job, *(f"d/{n}" for n in range(finished)))
    job.fetch()
    job.verify()
    keys = [row.key for row in job.rows()]
    before = unchanged(job, *keys)
    ready(job, *(f"d/new {n}" for n in range(5)))
    lists = job.server.count("ListObjectsV2")
    sync(doing("harm"))
    assert (job.server.count("ListObjectsV2") > lists) is (finished <= 10)
    assert {job.states()[f"d/new {n}"] for n in range(5)} == {
        FileState.DOWNLOADED if finished <= 10 else FileState.DOWNLOADING
    }
    job.fetch()
    assert unchanged(job, *keys) == before
    assert set(gets(job).values()) == {1} and len(gets(job)) == finished + 5


def test_failed_objects_are_not_tried_by_the_cli(job: Job, sync: Sync, doing: Doing) -> None:
    ready(job)
    job.store.change([Change(job.row("k1").version, FileState.ERROR, None, "no", Cause.DENIED)])
    sync(doing("fetch"))
    assert gets(job) == {"k2": 1, "dir/k3": 1}


@pytest.mark.parametrize("at", ["take", "settle", "fetched"])
def test_arrivals_survive_whatever_ends_the_run(
    job: Job, sync: Sync, doing: Doing, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Before the first move, between two of them, between the moves and the commit."""
    ready(job, *(f"d/{n:02}" for n in range(20)))
    owner = {"take": Incoming, "settle": job.disk, "fetched": job.store}[at]
    real, calls = getattr(owner, at), []

    def killed(*arguments: Any, **more: Any) -> Any:
        calls.append(at)
        if len(calls) == {"take": 31, "settle": 2, "fetched": 4}[at]:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, at, killed)
        sync(doing("fetch"))
    assert FileState.DOWNLOADING in all_states(job)
    list(sync_step.collect("b", job.store, job.disk, rows_per_commit=7))
    assert all_states(job) == {FileState.DOWNLOADED} and not (job.disk.base / STAGING).exists()
    assert set(gets(job).values()) == {1} and len(gets(job)) == 20
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


def test_collect_keeps_what_waits_for_a_restore_again(job: Job) -> None:
    """It was restored, fetched and not recorded when the run was killed; meanwhile the restored copy expired."""
    job.server.put("b", "cold", b"cold", storage_class="GLACIER", last_modified=TIME)
    ready(job)
    for key, body in {"cold": b"cold", "k1": b"k1", "k1.a1b2c3d4": b"k"}.items():
        path = job.disk.base / STAGING / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (TIME, TIME))
    list(sync_step.collect("b", job.store, job.disk, rows_per_commit=7))
    assert [path.name for path in (job.disk.base / STAGING).iterdir()] == ["cold"]
    assert job.states()["k1"] is FileState.DOWNLOADED
    cold = job.server.get("b", "cold")
    assert cold is not None
    cold.restore_ready, cold.restore_expiry = job.server.clock(), job.server.clock() + 86400
    job.scan()
    list(sync_step.collect("b", job.store, job.disk, rows_per_commit=7))
    assert job.states()["cold"] is FileState.DOWNLOADED and job.path("cold").read_bytes() == b"cold"


def test_an_arrival_whose_path_is_blocked_waits_for_it(
    job: Job, sync: Sync, doing: Doing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(job)
    run = awscli.sync

    def blocking(*arguments: Any) -> Any:
        yield from run(*arguments)
        (job.disk.base / "b" / "k1").mkdir(parents=True)
        return awscli.Pass(awscli.Outcome.DONE, 0, (), 0, False)

    monkeypatch.setattr(awscli, "sync", blocking)
    sync(doing("fetch"))
    assert job.states()["k1"] is FileState.ERROR and job.row("k1").cause is Cause.OBSTACLE
    assert (job.disk.base / STAGING / "k1").read_bytes() == b"k1"
    (job.disk.base / "b" / "k1").rmdir()
    job.store.try_again("b")
    list(sync_step.collect("b", job.store, job.disk, rows_per_commit=7))
    assert all_states(job) == {FileState.DOWNLOADED} and set(gets(job).values()) == {1}
    assert not (job.disk.base / STAGING).exists()


@pytest.mark.parametrize("at", ["", "give_places", "settle", "fetched_gone"])
def test_arrivals_of_objects_that_are_gone_from_s3_are_kept(job: Job, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """They may be the only copies. A kill before or after any step of the move changes nothing."""
    job.server.bucket("b", versioning="Enabled")
    ready(job, "k1", "k2", "x//y")
    for key, body in {"k1": b"k1", "k2": b"wrong"}.items():
        path = job.disk.base / STAGING / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (TIME, TIME))
    for version in job.server.versions("b"):
        job.server.remove("b", version.key, version.version_id)
    job.server.put("b", "k1", b"K1", last_modified=TIME + 1)
    job.scan()
    job.place()
    job.fetch()
    job.verify()
    (newer,) = (job.disk.base / row.path for row in job.rows() if row.state is FileState.VERIFIED)
    before = facts(newer)
    if at:
        owner = job.disk if at == "settle" else job.store
        real = getattr(owner, at)

        def killed(*arguments: Any, **more: Any) -> Any:
            if at == "give_places":
                real(*arguments, **more)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, at, killed)
            list(sync_step.collect("b", job.store, job.disk, rows_per_commit=7))
    list(sync_step.collect("b", job.store, job.disk, rows_per_commit=7))
    assert not (job.disk.base / STAGING).exists() and facts(newer) == before
    job.verify()
    (kept,) = (row for row in job.rows() if row.key == "k1" and row.cause is Cause.VANISHED)
    assert (job.disk.base / kept.path).read_bytes() == b"k1" and kept.verdict is Verdict.MATCH
    assert job.store.gone("b")[GoneKind.ONLY_COPY] == (1, 2)
    assert job.store.gone("b")[GoneKind.NEVER_FETCHED][0] == 2


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "linked folder"])
def test_the_cli_reaches_no_copy_through_its_staging_folder(job: Job, sync: Sync, doing: Doing, kind: str) -> None:
    ready(job)
    job.fetch()
    job.verify()
    before = unchanged(job, "k1", "k2", "dir/k3")
    ready(job, "new", "dir/new")
    staging, copies = job.disk.base / STAGING, job.disk.base / "b"
    staging.mkdir(parents=True)
    if kind == "symbolic link":
        (staging / "k1").symlink_to(copies / "k1")
    elif kind == "hard link":
        os.link(copies / "k1", staging / "k1")
    else:
        (staging / "dir").symlink_to(copies / "dir")
        (staging / "all").symlink_to(copies)
    sync(doing("harm"))
    after = unchanged(job, "k1", "k2", "dir/k3")
    if kind == "hard link":  # to remove it moves ctime
        before, after = ({key: (*of[:3], of[4]) for key, of in these.items()} for these in (before, after))
    assert after == before
    assert {job.states()["new"], job.states()["dir/new"]} == {FileState.DOWNLOADED}


def test_a_path_that_is_too_long_in_the_staging_folder_is_for_others(
    job: Job, sync: Sync, doing: Doing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(job, "short", "d/" + "long" * 20)
    room = len(os.fsencode(job.disk.base / STAGING)) + 60
    monkeypatch.setattr(job.disk, "filesystem", lambda: FileSystem(path_max=room))
    sync(doing("fetch"))
    assert gets(job) == {"short": 1}
    assert job.states() == {"short": FileState.DOWNLOADED, "d/" + "long" * 20: FileState.DOWNLOADING}


# Several at once


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder of two objects is worth a process."""
    monkeypatch.setattr(sync_step, "WORTH_CUTTING", 1)
    monkeypatch.setattr(sync_step, "TOO_MUCH_FOR_ONE", 1)
    monkeypatch.setattr(tuning, "WORTH_A_PROCESS", 0.5)
    monkeypatch.setattr(tuning, "WORTH_A_LISTING", 1e-9)


SHARDED = [
    *(f"plain/{n}" for n in range(6)),
    *(f"nested/in/{n}" for n in range(6)),
    *("-dash/1", "-dash/2", "g*b/1", "g*b/2", "g*b/3", "[x]/1", "sm/1", "smile \U0001f600/1", "a b/1", "new\nline/1"),
]


def spied(arguments: Callable[..., list[str]], asked: list[list[str]]) -> Callable[..., list[str]]:
    def spy(*words: Any, **options: Any) -> list[str]:
        asked.append(arguments(*words, **options))
        return asked[-1]

    return spy


def taken(arguments: Sequence[str], keys: Iterable[str]) -> set[str]:
    """The keys that the CLI takes, by its own rules (awscli/customizations/s3/filters.py)."""
    root = arguments[2].removeprefix("s3://")
    taken = set()
    for key in keys:
        if not f"b/{key}".startswith(root):
            continue
        take = True
        for argument in arguments[4:]:
            option, _, pattern = argument.partition("=")
            if option in ("--exclude", "--include") and fnmatch(f"b/{key}", os.path.join(root, pattern)):
                take = option == "--include"
        if take:
            taken.add(key)
    return taken


def test_shards_together_take_each_object_that_is_for_the_cli_once_and_no_other(
    job: Job, sync: Sync, cut: None
) -> None:
    day = job.server.clock() + 86400
    side = ["plain//x", "plain/a/../b", "nested/in//y", "sm//z", "plain/full/", "a b//1"]
    for key in (*SHARDED, *side, "loose"):
        job.server.put("b", key, key.encode(), last_modified=TIME)
    job.server.put("b", "plain/cold", b"cold", storage_class="GLACIER")
    job.server.put("b", "nested/in/thawed", b"thawed", storage_class="GLACIER", restored_until=day)
    job.scan()
    job.place()
    log = Path(job.store.path).with_name("arguments")
    sync(program(log.with_name("aws"), f'for a in "$@"; do printf "%s\\0" "$a"; done > {log}.$$'), processes=2)
    calls = [f.read_text().split("\0")[:-1] for f in log.parent.glob("arguments.*")]
    assert len(calls) >= 3
    every = [row.key for row in job.rows()]
    total: list[str] = []
    for call in calls:
        assert call[3] == str(job.disk.base / STAGING / call[2].removeprefix("s3://b").strip("/"))
        total += taken(call, every)
    wanted = {row.key for row in job.rows() if row.place is Place.PLAIN and not row.archived}
    # A cold object may be tried: without --force-glacier-transfer the CLI passes over it.
    assert sorted(set(total) - {"plain/cold"}) == sorted(wanted - {"loose"})
    assert len(total) == len(set(total))
    forced = [call for call in calls if "--force-glacier-transfer" in call]
    assert len(forced) == 1 and "nested" in forced[0][2] and "plain/cold" not in taken(forced[0], every)


@pytest.mark.skipif(not REAL.exists(), reason="no aws in this environment")
def test_the_real_cli_in_shards_brings_all_but_what_lies_in_no_folder(job: Job, sync: Sync, cut: None) -> None:
    ready(job, *SHARDED, "loose", "plain//x", "sm//y")
    events = sync(find(None, "", str(REAL)), processes=2)
    left = {row.key for row in job.rows() if row.state is not FileState.DOWNLOADED}
    assert left == {"loose", "plain//x", "sm//y"}, [e for e in events if isinstance(e, Noted)]
    for row in job.rows():
        if row.state is FileState.DOWNLOADED:
            assert job.path(row.key).read_bytes() == row.key.encode()
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


@pytest.mark.skipif(not REAL.exists(), reason="no aws in this environment")
def test_the_real_cli_brings_the_large_objects_of_a_folder_by_name(
    job: Job, sync: Sync, cut: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "OBJECT", 1)
    monkeypatch.setattr(tuning, "WORTH_A_NAME", 10)
    names = ["[x]", "a*b", "?", "-dash", "new\nline", "\U0001f600", "'", " ", "x", "xx", "x.tar", "X"]
    for name in names:
        job.server.put("b", f"big/of all/{name}", name.encode() * 20, last_modified=TIME)
    for name in ("x/deep", "small", "[y]", "ab"):  # of which the last two would match if signs were not escaped
        job.server.put("b", f"big/of all/{name}", b"small", last_modified=TIME)
    job.scan()
    job.place()
    asked: list[list[str]] = []
    monkeypatch.setattr(sync_step.awscli, "arguments", spied(sync_step.awscli.arguments, asked))
    sync(find(None, "", str(REAL)), processes=2)
    assert len(asked) >= 2 and all("--include" in " ".join(words) for words in asked)
    come = {row.key.removeprefix("big/of all/") for row in job.rows() if row.state is FileState.DOWNLOADED}
    # The folder in it is worth a process here, too, and takes the place of the object `x`, which goes aside.
    assert come == {*names, "x/deep"} - {"x"}
    job.fetch()
    job.verify()
    assert all_states(job) == {FileState.VERIFIED}


@pytest.fixture
def by_name(cut: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object of ten bytes is worth a name."""
    monkeypatch.setattr(tuning, "OBJECT", 1)
    monkeypatch.setattr(tuning, "WORTH_A_NAME", 10)


def test_objects_are_taken_by_name_whatever_else_lies_in_their_folder(
    job: Job, sync: Sync, by_name: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not for the CLI is more than can be named, so that patterns for it would cover the whole folder."""
    monkeypatch.setattr(sync_step, "PATTERNS", 4)
    day = job.server.clock() + 86400
    for n in range(8):
        job.server.put("b", f"big/{n}", b"x" * 100, last_modified=TIME)
        job.server.put("b", f"big/cold {n}", b"cold", storage_class="GLACIER")
        job.server.put("b", f"big/{n}\0", b"aside", last_modified=TIME)
    job.server.put("b", "big/thawed", b"x" * 100, storage_class="GLACIER", restored_until=day)
    job.scan()
    job.place()
    log = Path(job.store.path).with_name("arguments")
    sync(program(log.with_name("aws"), f'for a in "$@"; do printf "%s\\0" "$a"; done > {log}.$$'), processes=2)
    calls = [f.read_text().split("\0")[:-1] for f in log.parent.glob("arguments.*")]
    every = [row.key for row in job.rows()]
    assert sorted(key for call in calls for key in taken(call, every)) == sorted(
        ["big/thawed", *(f"big/{n}" for n in range(8))]
    )
    assert all("--force-glacier-transfer" in call for call in calls if "big/thawed" in taken(call, every))


def test_what_another_one_has_brought_by_name_counts_when_that_one_has_ended(
    job: Job, sync: Sync, by_name: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        job.server.put("b", f"big/{n}", b"x" * 100, last_modified=TIME)
    job.scan()
    job.place()
    ended: list[list[str]] = []
    commit = job.store.fetched

    def fetched(bucket: str, versions: Sequence[ObjectVersion]) -> None:
        if versions:
            ended.append([version.key for version in versions])
        commit(bucket, versions)

    # Each brings what it was told to; the second is at work still when the first has ended.
    folder = Path(job.store.path).parent
    text = f"""
        for a in "$@"; do case $a in
            --include=*) f={job.disk.base / STAGING}/big/${{a#--include=}}; printf %0100d 0 | tr 0 x > $f; touch -d @{TIME} $f
        esac; done
        mkdir {folder}/first 2>/dev/null && sleep 0.3 || sleep 1"""
    monkeypatch.setattr(job.store, "fetched", fetched)
    sync(program(folder / "aws", text), processes=2)
    assert sorted(ended) == [["big/0", "big/1"], ["big/2", "big/3"]]


def test_s3s_wish_for_less_is_granted_and_several_run_at_once(job: Job, sync: Sync, cut: None) -> None:
    ready(job, *(f"d{n}/{i}" for n in range(6) for i in range(3)))
    folder = Path(job.store.path).parent / "count"
    folder.mkdir()
    text = f"""
        touch {folder}/$$
        n=0
        while [ ! -e {folder}.go ] && [ $(ls {folder} | wc -l) -lt 3 ] && [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done
        ls {folder} | wc -l >> {folder}.most
        touch {folder}.go
        echo "download failed: s3://b/x to x An error occurred (SlowDown) when calling the GetObject operation"
        sleep 0.3; rm {folder}/$$; exit 1"""
    events = sync(program(folder.with_name("aws"), text), processes=3)
    at_once = [int(n) for n in Path(f"{folder}.most").read_text().split()]
    assert len(at_once) >= 5 and max(at_once) == 3 and at_once[-1] == 1, at_once
    said = [e.text for e in events if isinstance(e, Noted)]
    assert "S3 asks to slow down: 2 aws s3 sync at once from now on" in said
    assert all_states(job) == {FileState.DOWNLOADING}


def test_the_bandwidth_is_shared_and_another_limit_begins_anew(job: Job, sync: Sync, cut: None) -> None:
    ready(job, *(f"d{n}/{i}" for n in range(3) for i in range(3)))
    log = Path(job.store.path).with_name("limits")
    shares: list[int | None] = []

    def tune(_: float, share: int | None) -> Transfer:
        shares.append(share)
        return Transfer(10, 1000, 8 << 20, 8 << 20, share)

    # By the first limit it does not end by itself; another one begins when it has been seen.
    text = f'grep max_bandwidth "$AWS_CONFIG_FILE" >> {log}; if grep -q 4096KB "$AWS_CONFIG_FILE"; then sleep 300; fi'
    sync(
        program(log.with_name("aws"), text),
        processes=2,
        tune=tune,
        bandwidth=lambda: (4 << 20) if log.exists() and log.stat().st_size else (8 << 20),
    )
    assert shares[:2] == [4 << 20, 4 << 20] and set(shares[2:]) == {2 << 20} and len(shares) >= 4
    assert "4096KB/s" in log.read_text() and "2048KB/s" in log.read_text()


def test_a_shard_that_is_begun_anew_keeps_what_has_arrived(job: Job, sync: Sync, doing: Doing, cut: None) -> None:
    """Another bandwidth: what is in the staging folder is not downloaded again."""
    ready(job, *(f"d/{n}" for n in range(6)))
    hangs = job.disk.base / STAGING / "d.hangs"
    events = sync(doing("hang=4"), processes=2, bandwidth=lambda: (4 << 20) if hangs.exists() else (8 << 20))
    assert all_states(job) == {FileState.DOWNLOADED} and set(gets(job).values()) == {1}
    objects = [event.objects for event in events if isinstance(event, Progress)]
    assert objects == sorted(objects) and objects[-1] == 6


def test_interrupted_all_of_them_end(job: Job, sync: Sync, cut: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(job, *(f"d{n}/{i}" for n in range(4) for i in range(3)))

    def interrupt() -> int | None:
        if len(list(pids.iterdir())) == 2:
            raise KeyboardInterrupt
        return None

    pids = Path(job.store.path).parent / "pids"
    pids.mkdir()
    with pytest.raises(KeyboardInterrupt):
        sync(program(pids.with_name("aws"), f"touch {pids}/$$; sleep 60"), processes=2, bandwidth=interrupt)
    for pid in pids.iterdir():
        assert not Path(f"/proc/{pid.name}").exists()


def test_what_lies_in_no_folder_needs_no_cli(job: Job, sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_step, "WORTH_CUTTING", 1)
    monkeypatch.setattr(sync_step, "TOO_MUCH_FOR_ONE", 1)
    ready(job, "k1", "k2")
    ran = job.disk.base.parent / "ran"
    events = sync(program(Path(job.store.path).with_name("aws"), f"touch {ran}"))
    assert not ran.exists() and all_states(job) == {FileState.DOWNLOADING}
    assert any("not needed" in e.text for e in events if isinstance(e, Noted))
