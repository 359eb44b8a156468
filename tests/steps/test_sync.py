"""What the CLI brought is decided by looking at the disk; whatever it says or returns, no row moves by that."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate_v2.edges.awscli import Aws, Transfer, find
from migrate_v2.edges.disk import Lock
from migrate_v2.errors import Refused
from migrate_v2.events import Ended, Event, Noted, Progress, Started, Warned
from migrate_v2.model import Doomed, FileState, Place
from migrate_v2.steps import sync as sync_step
from migrate_v2.steps.sync import Cli
from tests.steps.conftest import Job, found

FAKES = Path(__file__).parent.parent / "fakes"
REAL = Path(sys.executable).parent / "aws"
TIME = 1_600_000_000


def program(path: Path, text: str) -> Aws:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Aws(str(path), (2, 40, 1), "aws-cli/2.40.1")


def fake(name: str) -> Aws:
    return Aws(str(FAKES / name), (2, 40, 1), "aws-cli/2.40.1")


Sync = Callable[..., list[Event]]


@pytest.fixture
def sync(job: Job, tmp_path: Path) -> Sync:
    def sync(aws: Aws, *, stall: float = 300.0, pauses: list[float] | None = None) -> list[Event]:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        cli = Cli(
            aws=aws,
            transfer=Transfer(10, 1000, 8 << 20, 8 << 20),
            folder=folder,
            home=str(tmp_path),
            user_config="",
            environ=dict(os.environ),
            cwd=str(tmp_path),
            region="us-east-1",
            profile=None,
            profile_in_use="default",
            endpoint_url=job.server.url,
            addressing_style="path",
            stall_seconds=stall,
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
    home = job.disk.base / "b"
    text = f"""
        cd {home} && mkdir -p dir
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


def test_leftovers_are_swept_before_and_after_and_nobody_elses_files(job: Job, sync: Sync) -> None:
    ready(job)
    home = job.disk.base / "b"
    ours = bring_by_hand(job, "k1.1A2b3c4D", when=job.server.clock() + 5)
    notes = bring_by_hand(job, "notes.1A2b3c4D", when=job.server.clock() + 5)
    old = bring_by_hand(job, "k2.1A2b3c4D", when=TIME)
    text = f"[ -e {ours} ] && exit 9; echo half > {home}/k2.aaaaaaaa; touch -d @{job.server.clock() + 5} {home}/k2.aaaaaaaa"
    events = sync(program(Path(job.store.path).with_name("aws"), text))
    assert sum(isinstance(e, Noted) and "removed 1 temporary files" in e.text for e in events) == 2
    assert sorted(p.name for p in home.iterdir()) == sorted([notes.name, old.name])


@pytest.mark.parametrize("kind", ["symbolic link", "FIFO"])
def test_what_the_cli_would_follow_or_hang_on_is_refused_before_it_runs(job: Job, sync: Sync, kind: str) -> None:
    ready(job)
    (job.disk.base / "b").mkdir()
    elsewhere = job.disk.base.parent / "elsewhere"
    elsewhere.mkdir()
    where = job.disk.base / "b" / "dir"
    where.symlink_to(elsewhere) if kind == "symbolic link" else os.mkfifo(where)
    ran = job.disk.base.parent / "ran"
    with pytest.raises(Refused, match=f"b/dir in the destination is a {kind}"):
        sync(program(Path(job.store.path).with_name("aws"), f"touch {ran}"))
    assert not ran.exists() and list(elsewhere.iterdir()) == []


def test_something_in_the_way_is_an_error_of_that_row(job: Job, sync: Sync) -> None:
    ready(job)
    (job.disk.base / "b" / "k1").mkdir(parents=True)
    told = found(sync(program(Path(job.store.path).with_name("aws"), "exit 0")))
    assert told.keys() == {"k1"} and "is a folder" in told["k1"][1]
    assert job.states()["k1"] is FileState.ERROR


@pytest.mark.parametrize("how", ["deleted", "vanished", "deleting"])
def test_where_a_copy_may_be_the_only_one_the_cli_is_not_run(job: Job, sync: Sync, how: str) -> None:
    """It would fetch all that it finds in S3, and by key."""
    ready(job)
    job.fetch()
    job.verify()
    if how == "deleted":
        job.delete()
    elif how == "vanished":
        job.server.remove("b", "k1", "null")
        job.scan()
    job.server.put("b", "k1", b"another", last_modified=TIME)
    ready(job, "to fetch")
    if how == "deleting":
        job.store.ledger.intend("b", [Doomed("k2", "null", "version", job.row("k2").version.etag)], "t")
    ran = job.disk.base.parent / "ran"
    assert sync(program(Path(job.store.path).with_name("aws"), f"touch {ran}")) == []
    assert not ran.exists() and job.states()["to fetch"] is FileState.DISCOVERED


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
