"""What worker processes fetch is whole and of exactly the version listed; whatever they cannot is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from migrate_v2.edges import crt
from migrate_v2.edges.crt import Engine
from migrate_v2.edges.disk import DiskError
from migrate_v2.edges.s3 import S3
from migrate_v2.events import Ended, Event, Noted, Progress
from migrate_v2.model import FileState
from migrate_v2.shards import Sizes
from migrate_v2.steps import pull as pull_step
from tests.fakes.s3server import Request, Response
from tests.steps.conftest import Job

BODY = os.urandom(300_000)
TIME = 1_600_000_000
ENGINE = Engine(workers=2, window=8, threshold=1 << 20, part=256 << 10, large=2 << 20)

Pull = Callable[..., Iterator[Event]]


@pytest.fixture
def pull(job: Job) -> Pull:
    def pull(
        engine: Engine = ENGINE, s3: S3 | None = None, worth: tuple[int, int] = (1, 1), **more: Any
    ) -> Iterator[Event]:
        return pull_step.pull(
            "b",
            job.store,
            job.disk,
            s3 or job.s3,
            engine,
            (),
            session="run-1",
            worth=worth,
            sizes=Sizes(7, 1 << 20),
            **more,
        )

    return pull


def ready(job: Job, **bodies: bytes) -> None:
    for key, body in bodies.items():
        job.server.put("b", key, body, last_modified=TIME)
    job.scan()
    job.place()


def leftovers(job: Job) -> list[Path]:
    return list(job.disk.base.rglob(".mv2-*"))


_before: set[int] = set()


@pytest.fixture(autouse=True)
def not_ours() -> None:
    """Servers that other tests of this process have started are children of it too."""
    _before.clear()
    _before.update(children())


def children(of: int | None = None) -> set[int]:
    """Of this process, those that came in this test."""
    living = {child.pid for child in psutil.Process(of).children() if child.status() != psutil.STATUS_ZOMBIE}
    return living - _before


def test_every_kind_of_key_version_and_size_comes_whole_and_only_once(job: Job, pull: Pull) -> None:
    job.server.bucket("b", versioning="Enabled")
    long = os.urandom(5 << 20)
    bodies = {
        **{f"dir{n % 3}/k{n}": os.urandom(n * 100) for n in range(40)},
        **{
            key: key.encode()
            for key in ("a b", "é +%&=?#~", "new\nline", "a*b", "[x]", "\x01", "smile \U0001f600", "a", "a/b")
        },
        **{key: key.encode() for key in ("x//y", "/rooted", "../up", "full/", "p/./q", "-rf")},
        "ranges": os.urandom((1 << 20) + 12345),
        "long": long,
        "empty": b"",
    }
    for key, body in bodies.items():
        job.server.put("b", key, body, last_modified=TIME)
    job.server.put("b", "folder/", b"")
    job.server.put("b", "a b", b"newer")
    job.scan()
    job.place()
    events = list(pull())
    states = {(row.key, row.version.is_latest): row.state for row in job.rows()}
    assert states.pop(("folder/", True)) is FileState.DOWNLOADING, "needs no request: fetch() makes it"
    assert set(states.values()) == {FileState.DOWNLOADED} and len(states) == len(bodies) + 1
    for row in job.rows():
        stored = job.server.get("b", row.key, row.version.version_id)
        if row.key != "folder/":
            assert stored and (job.disk.base / row.path).read_bytes() == stored.body
            assert (job.disk.base / row.path).stat().st_mtime == int(row.version.last_modified.timestamp())
    assert leftovers(job) == [] and children() == set()
    (ended,) = [e for e in events if isinstance(e, Ended)]
    size = sum(map(len, bodies.values())) + len(b"newer")
    assert (ended.verb, ended.objects, ended.bytes) == ("fetch", len(bodies) + 1, size)
    assert max(e.bytes for e in events if isinstance(e, Progress)) <= size
    held = job.store.bucket("b")
    assert held and held.fetched_bytes == size
    gets = [r for r in job.server.requests if r.op == "GetObject"]
    assert all("versionId" in r.query for r in gets)
    # In parts: 1 MiB and more by 256 KiB each, which no other request is for.
    assert sum(r.key == "ranges" for r in gets) >= 4 and sum(r.key == "k1" for r in gets) <= 1
    # The second run does nothing but make the folder.
    requests = len(job.server.requests)
    list(pull(worth=(2, 1)))
    assert len(job.server.requests) == requests
    job.fetch()
    job.verify()
    assert set(job.states().values()) == {FileState.VERIFIED}


def test_few_small_objects_are_not_worth_a_process(job: Job, pull: Pull) -> None:
    ready(job, a=b"1")
    assert list(pull(worth=(2, 100))) == [] and job.server.count("GetObject") == 0


def test_unversioned_objects_are_held_to_their_etag(job: Job, pull: Pull) -> None:
    ready(job, a=b"one", b=b"two")
    job.server.put("b", "a", b"ONE", last_modified=TIME)
    list(pull())
    assert job.states() == {"a": FileState.DOWNLOADING, "b": FileState.DOWNLOADED}
    assert not (job.disk.base / "b/a").exists()


def test_an_endpoint_that_ignores_if_match_is_seen_through(job: Job, pull: Pull) -> None:
    ready(job, a=b"one", b=b"two")
    job.server.put("b", "a", b"ONE", last_modified=TIME)

    def ignore(request: Any) -> None:
        request.headers.pop("if-match", None)

    job.server.fault({"op": "GetObject"}, ignore)
    list(pull())
    assert job.states() == {"a": FileState.DOWNLOADING, "b": FileState.DOWNLOADED}


@pytest.mark.parametrize("named", [True, False])
def test_pull_behind_cache_ignoring_versions_brings_no_old_version(job: Job, pull: Pull, named: bool) -> None:
    """Over plain HTTP, by one request of the runtime, and by several at once."""
    job.server.bucket("b", versioning="Enabled")
    sizes = {"http": 1000, "one request": 300_000, "parallel": (1 << 20) + 1, "large": 3 << 20}
    for key, size in sizes.items():
        job.server.put("b", key, os.urandom(size), last_modified=TIME)
        job.server.put("b", key, os.urandom(size), last_modified=TIME + 1)
    job.scan()
    job.place()

    def strip(_: Request, response: Response) -> None:
        if not named:
            response.headers = [(name, value) for name, value in response.headers if name != "x-amz-version-id"]

    fault = job.server.fault({"op": "GetObject"}, "ignore-version", rewrite=strip)
    list(pull())
    for row in job.rows():
        expected = FileState.DOWNLOADED if row.version.is_latest else FileState.DOWNLOADING
        assert row.state is expected, (row.key, row.version.is_latest)
        assert (job.disk.base / row.path).exists() is row.version.is_latest
    job.server.calm(fault)
    list(pull())
    for row in job.rows():
        stored = job.server.get("b", row.key, row.version.version_id)
        assert stored and row.state is FileState.DOWNLOADED
        assert (job.disk.base / row.path).read_bytes() == stored.body


@pytest.mark.parametrize("stated", ["bytes 1-65536/300000", "bytes 0-65535/300001"])
def test_pull_of_a_piece_answered_with_another_range_leaves_it(job: Job, pull: Pull, stated: str) -> None:
    ready(job, k=BODY)

    def restate(_: Request, response: Response) -> None:
        response.headers = [(n, v) for n, v in response.headers if n != "Content-Range"] + [("Content-Range", stated)]

    job.server.fault({"op": "GetObject"}, rewrite=restate)
    list(pull(bandwidth=lambda: 100_000))
    assert job.states() == {"k": FileState.DOWNLOADING} and not job.path("k").exists()


@pytest.mark.parametrize(("times", "state"), [(1, FileState.DOWNLOADED), (None, FileState.DOWNLOADING)])
def test_pull_of_an_empty_object_takes_an_answer(job: Job, pull: Pull, times: int | None, state: FileState) -> None:
    """The first request goes by plain HTTP, the others by the runtime."""
    ready(job, empty=b"", k=b"1")
    job.server.fault({"op": "GetObject", "key": "empty"}, "500", times=times)
    list(pull())
    assert job.states() == {"empty": state, "k": FileState.DOWNLOADED}
    assert job.path("empty").exists() is (state is FileState.DOWNLOADED)


@pytest.mark.parametrize("action", ["503", "500", "reset-before", "truncate", "lost-reply", "garbage-200"])
def test_a_bad_answer_is_asked_for_again_or_left(job: Job, pull: Pull, action: Any) -> None:
    ready(job, a=BODY, b=BODY, c=os.urandom((1 << 20) + 7))
    fault = job.server.fault({"op": "GetObject", "key": ("a", "c")}, action, times=2)
    list(pull())
    assert fault.hits == 2
    job.server.calm()
    for row in job.rows():
        if row.state is FileState.DOWNLOADED:
            stored = job.server.get("b", row.key)
            assert stored and job.path(row.key).read_bytes() == stored.body
    assert job.states()["b"] is FileState.DOWNLOADED
    if action != "garbage-200":  # which is somebody else's answer, and for fetch() to judge
        assert set(job.states().values()) == {FileState.DOWNLOADED}
    assert leftovers(job) == []


def test_a_flipped_bit_is_caught_by_s3s_checksum_on_the_way(job: Job, pull: Pull) -> None:
    for key, body in {"a": BODY, "c": os.urandom((1 << 20) + 7)}.items():
        job.server.put("b", key, body, last_modified=TIME, checksums=("CRC64NVME",))
    job.scan()
    job.place()
    fault = job.server.fault({"op": "GetObject"}, "flip", times=2)
    list(pull())
    assert fault.hits == 2
    for row in job.rows():
        stored = job.server.get("b", row.key)
        assert stored and (row.state is not FileState.DOWNLOADED or job.path(row.key).read_bytes() == stored.body)


def test_so_many_in_a_row_without_an_answer_that_it_is_not_the_objects(job: Job, pull: Pull) -> None:
    ready(job, **{f"k{n:03}": b"x" for n in range(200)})
    job.server.fault({"op": "GetObject"}, "500")
    events = list(pull())
    assert set(job.states().values()) == {FileState.DOWNLOADING}
    assert job.server.count("GetObject") < 200 * 6, "not all were tried so often"
    assert len({r.key for r in job.server.requests if r.op == "GetObject"}) < 150
    (noted,) = [e for e in events if isinstance(e, Noted)]
    assert "left 200 objects to plain GETs" in noted.text


def test_a_folder_that_s3_denies_does_not_end_it(job: Job, pull: Pull) -> None:
    ready(job, **{f"{folder}/{n:02}": b"x" for folder in "abc" for n in range(40)})
    job.server.deny("s3:GetObject", "b", "b/*")
    list(pull())
    left = {key for key, state in job.states().items() if state is FileState.DOWNLOADING}
    assert left == {f"b/{n:02}" for n in range(40)}


def test_what_is_asked_to_slow_down_comes_slower_and_comes(
    job: Job, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(job, **{f"k{n:02}": b"x" * n for n in range(30)})
    job.server.fault({"op": "GetObject"}, "503", times=60)
    events = list(pull())
    assert set(job.states().values()) == {FileState.DOWNLOADED}
    assert any("to slow down" in e.text for e in events if isinstance(e, Noted))


def test_what_is_in_the_way_is_moved_away_or_left(job: Job, pull: Pull, tmp_path: Path) -> None:
    ready(job, a=b"one", **{"d/x": b"two", "e/x": b"three", "f": b"four"})
    home = job.disk.base / "b"
    home.mkdir(exist_ok=True)
    (home / "a").write_bytes(b"somebody's")
    (outside := tmp_path / "outside").mkdir()
    (home / "d").symlink_to(outside)
    (home / "e").write_bytes(b"a file where a folder should be")
    (home / "f").mkdir()
    list(pull())
    left = FileState.DOWNLOADING
    assert job.states() == {"a": FileState.DOWNLOADED, "d/x": left, "e/x": left, "f": left}
    assert job.path("a").read_bytes() == b"one" and list(outside.iterdir()) == []
    (quarantined,) = (job.disk.base / ".migrate-v2/b/quarantine").iterdir()
    assert quarantined.read_bytes() == b"somebody's"
    assert leftovers(job) == []


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(job: Job, pull: Pull, tmp_path: Path) -> None:
    ready(job, a=b"one")
    shelter = job.disk.base / ".migrate-v2/b"
    shelter.mkdir(parents=True, exist_ok=True)
    (outside := tmp_path / "outside").mkdir()
    (shelter / "partial").symlink_to(outside)
    with pytest.raises(Exception, match="symbolic link"):
        list(pull())
    assert list(outside.iterdir()) == [] and job.states() == {"a": FileState.DISCOVERED}


def test_a_large_object_goes_on_where_a_kill_left_it_also_by_plain_gets(job: Job, pull: Pull) -> None:
    body = os.urandom(9 << 20)
    ready(job, long=body)
    job.server.fault({"op": "GetObject"}, "slow", rate=6e6)
    events = pull()
    for event in events:
        if isinstance(event, Progress) and event.bytes > 4 << 20:
            break
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    job.server.calm()
    assert any("worker process ended" in e.text for e in events if isinstance(e, Noted))
    assert job.states() == {"long": FileState.DOWNLOADING} and children() == set()
    ranges: list[str] = []
    job.server.fault({"op": "GetObject"}, lambda request: ranges.append(request.header("range")))
    list(pull())
    assert job.states() == {"long": FileState.DOWNLOADED} and job.path("long").read_bytes() == body
    assert ranges and all(int(r.partition("=")[2].partition("-")[0]) >= 2 << 20 for r in ranges), ranges
    assert list(job.disk.partials("b")) == []


def test_interrupted_it_stops_soon_and_leaves_nothing(job: Job, pull: Pull) -> None:
    ready(job, **{f"k{n:02}": BODY for n in range(30)}, long=os.urandom(4 << 20))
    job.server.fault({"op": "GetObject"}, "stall")
    events = pull()
    for event in events:
        if isinstance(event, Progress):
            break
    time.sleep(0.3)
    before = time.monotonic()
    events.close()  # type: ignore[attr-defined]
    assert time.monotonic() - before < 15
    assert children() == set() and leftovers(job) == []
    job.server.calm()
    list(pull())
    assert set(job.states().values()) == {FileState.DOWNLOADED}


def test_a_silent_server_is_given_up(job: Job, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crt, "SILENCE", 1.0)
    ready(job, a=b"x")
    job.server.fault({"op": "GetObject"}, "stall")
    events = list(pull())
    assert any("no byte came for 1 s" in e.text for e in events if isinstance(e, Noted))
    assert job.states() == {"a": FileState.DOWNLOADING}


def test_the_limit_of_the_bandwidth_holds_for_all_workers_together(job: Job, pull: Pull) -> None:
    ready(job, **{f"k{n}": os.urandom(400_000) for n in range(4)}, long=os.urandom(2_400_000))
    began = time.monotonic()
    list(pull(bandwidth=lambda: 2_000_000))
    seconds = time.monotonic() - began
    assert set(job.states().values()) == {FileState.DOWNLOADED}
    assert seconds > 1.0, "4 MB at 2 MB/s"
    job.verify()
    assert set(job.states().values()) == {FileState.VERIFIED}


def test_a_worker_does_not_outlive_its_parent(job: Job, tmp_path: Path) -> None:
    ready(job, **{f"k{n:02}": BODY for n in range(20)})
    job.server.fault({"op": "GetObject"}, "stall")
    code = f"""
import sys
from pathlib import Path
from migrate_v2.edges.crt import Engine
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.steps.pull import pull
with Store.open(Path({str(job.store.path)!r})) as store, Disk.open(Path({str(job.disk.base)!r})) as disk:
    s3 = S3(endpoint_url={job.server.url!r}, region="us-east-1")
    for event in pull("b", store, disk, s3, Engine(2, 8, 1 << 20, 256 << 10, 2 << 20), (), session="r", worth=(1, 1)):
        print(event, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    while b"Progress" not in child.stdout.readline():
        pass
    workers = children(child.pid)
    assert len(workers) == 2
    for worker in workers:  # P8
        for of in ("cmdline", "environ"):
            assert b"not-a-secret" not in Path(f"/proc/{worker}/{of}").read_bytes()
    child.kill()
    child.wait()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_renewed_credentials_reach_the_workers(job: Job, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_step, "LOOK", 0.0)
    ready(job, **{f"k{n:03}": b"x" for n in range(300)})
    keys = iter(f"AKIA{n:016}" for n in range(10_000))
    frozen = job.s3.credentials()

    class Renewed(S3):
        def credentials(self) -> Any:
            return type(frozen)(next(keys), frozen.secret_key, "token")

    job.server.fault({"op": "GetObject"}, "delay", seconds=0.05)
    list(pull(s3=Renewed(endpoint_url=job.server.url, region="us-east-1")))
    assert set(job.states().values()) == {FileState.DOWNLOADED}
    used = {r.principal for r in job.server.requests if r.op == "GetObject"}
    assert len(used) > 1


def test_a_proxy_is_left_to_plain_gets(job: Job, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(job, a=b"x")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "elsewhere")
    (noted,) = list(pull())
    assert isinstance(noted, Noted) and "proxy" in noted.text


def test_a_full_disk_is_an_error_and_no_row_moves_by_it(job: Job, pull: Pull) -> None:
    """As far as it goes without mounts: a limit on the size of files, for the runtime's own writing and for ours."""
    import resource

    ready(job, small=b"x", ranges=os.urandom((1 << 20) + 7), long=os.urandom(3 << 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    try:
        with pytest.raises(DiskError):
            list(pull())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    states = job.states()
    assert states["ranges"] is states["long"] is FileState.DOWNLOADING
    assert leftovers(job) == []
    list(pull())
    assert set(job.states().values()) == {FileState.DOWNLOADED}


@pytest.mark.system
def test_a_full_file_system_is_an_error(job: Job, tmp_path: Path) -> None:
    from migrate_v2.edges.disk import Disk

    (room := tmp_path / "room").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700,size=4m", "tmpfs", str(room)], check=True)
    try:
        for n in range(400):
            job.server.put("b", f"k{n:03}", os.urandom(20_000), last_modified=TIME)
        job.scan()
        with Disk.open(room) as disk:
            list(job.place(disk))
            with pytest.raises(DiskError, match="is full"):
                list(pull_step.pull("b", job.store, disk, job.s3, ENGINE, (), session="r", worth=(1, 1)))
            for row in job.rows():
                if row.state is FileState.DOWNLOADED:
                    assert (room / row.path).stat().st_size == 20_000
            assert FileState.DOWNLOADING in job.states().values()
    finally:
        subprocess.run(["umount", "--lazy", str(room)], check=True)


def test_threads_of_ours_do_not_pile_up(job: Job, pull: Pull) -> None:
    ready(job, a=b"x")
    before = set(threading.enumerate())
    list(pull())
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(0 if thread.daemon else 60)
    assert len([thread for thread in left if thread.is_alive()]) <= 1
