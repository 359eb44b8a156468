"""What was fetched is whole and of exactly the version listed; what could not be had says why or is asked for again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from migrate_v2.edges.s3 import Unreachable
from migrate_v2.events import Ended, Progress, Warned
from migrate_v2.model import CHANGED, VANISHED, FileState, Verdict
from migrate_v2.steps import fetch as fetch_step
from tests.steps.conftest import Job, found

BODY = os.urandom(300_000)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts, half a second apart."""
    monkeypatch.setattr(fetch_step, "ATTEMPTS", 2)


def ready(job: Job, **bodies: bytes) -> None:
    for key, body in bodies.items():
        job.server.put("b", key, body, last_modified=1_600_000_000)
    job.scan()
    job.place()


def leftovers(job: Job) -> list[Path]:
    return list(job.disk.base.rglob(".mv2-*"))


def test_whole_with_its_time_and_nothing_left_over(job: Job) -> None:
    ready(job, k=BODY, empty=b"")
    job.server.put("b", "folder/", b"")
    job.server.put("b", "x//y", b"side")
    job.scan()
    job.place()
    events = job.fetch()
    assert set(job.states().values()) == {FileState.DOWNLOADED}
    assert job.path("k").read_bytes() == BODY and job.path("k").stat().st_mtime == 1_600_000_000
    assert job.path("empty").read_bytes() == b"" and job.path("folder/").is_dir()
    assert job.path("x//y").read_bytes() == b"side"
    assert leftovers(job) == []
    (ended,) = [e for e in events if isinstance(e, Ended)]
    assert (ended.objects, ended.bytes) == (4, len(BODY) + 4)
    held = job.store.bucket("b")
    assert held and held.fetched_bytes == len(BODY) + 4 and held.session == "run-1"
    # The second run does nothing.
    requests = job.server.count("GetObject")
    assert job.fetch() == [] and job.server.count("GetObject") == requests


@pytest.mark.parametrize("action", ["503", "500", "reset-before", "truncate", "lost-reply"])
def test_one_bad_answer_is_asked_for_again(job: Job, action: Any) -> None:
    ready(job, a=BODY, b=BODY)
    fault = job.server.fault({"op": "GetObject", "key": "a"}, action, times=1)
    events = job.fetch()
    assert fault.hits == 1 and set(job.states().values()) == {FileState.DOWNLOADED}
    assert job.path("a").read_bytes() == BODY
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert last.bytes == 2 * len(BODY), "bytes that came in vain are not counted"


def test_a_slow_answer_is_waited_for(job: Job) -> None:
    ready(job, a=BODY)
    job.server.fault({"op": "GetObject"}, "slow", rate=600_000.0)
    job.fetch()
    job.verify()
    assert job.row("a").state is FileState.VERIFIED


@pytest.mark.parametrize("action", ["503", "reset-before", "truncate", "garbage-200"])
def test_what_gets_no_proper_answer_is_left_for_the_next_run(job: Job, action: Any) -> None:
    ready(job, a=BODY, b=BODY)
    job.server.fault({"op": "GetObject", "key": "a"}, action)
    events = job.fetch()
    assert [e.text for e in events if isinstance(e, Warned)] == [
        "S3 gave no proper answer for 1 objects; the next run asks again"
    ]
    assert job.states() == {"a": FileState.DOWNLOADING, "b": FileState.DOWNLOADED}
    assert not (job.disk.base / "b" / "a").exists() and leftovers(job) == []
    job.server.calm()
    job.fetch()
    job.verify()
    assert set(job.states().values()) == {FileState.VERIFIED}


def test_so_many_in_a_row_that_it_is_not_the_objects(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_step, "ATTEMPTS", 1)
    monkeypatch.setattr(fetch_step, "HOPELESS", 6)
    ready(job, **{f"k{n:02}": b"body" for n in range(30)})
    job.server.fault(lambda r: r.op == "GetObject" and r.key > "k05", "503")
    with pytest.raises(Unreachable):
        job.fetch()
    come = {key for key, state in job.states().items() if state is FileState.DOWNLOADED}
    assert come == {f"k{n:02}" for n in range(6)}, "what came before is not forgotten"
    assert FileState.ERROR not in job.states().values()
    assert job.server.count("GetObject", status=503) < 24 * 5, "not all were tried"
    assert threading.active_count() < 30
    job.server.calm()
    job.fetch()
    assert set(job.states().values()) == {FileState.DOWNLOADED}


def test_a_flipped_body_is_caught_by_the_checksum_on_the_way_where_there_is_one(job: Job) -> None:
    ready(job, k=BODY)
    fault = job.server.fault({"op": "GetObject"}, "flip", times=1)
    job.fetch()
    assert fault.hits == 1 and job.path("k").read_bytes() == BODY


def test_and_by_verify_where_there_is_none(job: Job) -> None:
    job.server.put("b", "k", BODY, checksums=())
    job.scan()
    job.place()
    job.server.fault({"op": "GetObject"}, "flip", times=1)
    job.fetch()
    assert job.row("k").state is FileState.DOWNLOADED and job.path("k").read_bytes() != BODY
    assert found(job.verify())["k"][0] is Verdict.DIFFERS
    job.fetch()
    job.verify()
    assert job.row("k").state is FileState.VERIFIED


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_what_is_fetched_is_what_was_listed_or_an_error_says_why(job: Job, versioning: str) -> None:
    job.server.buckets["b"].versioning = versioning
    ready(job, changed=b"listed", removed=b"listed", same=b"listed")
    ids = {row.key: row.version.version_id for row in job.rows()}
    job.server.put("b", "changed", b"newer!")
    job.server.remove("b", "removed", ids["removed"])
    told = found(job.fetch())
    assert job.path("same").read_bytes() == b"listed"
    assert told.pop("removed") == (None, VANISHED) and job.row("removed").state is FileState.ERROR
    if versioning:
        assert told == {} and job.path("changed").read_bytes() == b"listed"
    else:
        assert told == {"changed": (None, CHANGED)}
        assert not (job.disk.base / "b/changed").exists()
    job.scan()
    job.place()
    job.fetch()
    job.verify()
    assert (job.disk.base / "b/changed").read_bytes() == b"newer!"


def test_an_object_overwritten_while_it_is_fetched_is_never_a_mixture(job: Job) -> None:
    ready(job, k=BODY)
    job.server.fault({"op": "GetObject"}, "truncate", times=1)
    # The second attempt finds another object of the same size.
    job.server.fault({"op": "GetObject"}, lambda _: job.server.put("b", "k", bytes(len(BODY))), after=1, times=1)
    assert found(job.fetch()) == {"k": (None, CHANGED)}
    assert not (job.disk.base / "b/k").exists()


def test_denied_says_so_and_the_others_come(job: Job) -> None:
    ready(job, a=b"1", b=b"2")
    job.server.deny("s3:GetObject", "b", "a")
    told = found(job.fetch())
    assert told["a"][0] is None and "denied" in told["a"][1]
    assert job.states() == {"a": FileState.ERROR, "b": FileState.DOWNLOADED}


def test_archived_meanwhile_is_for_the_restore(job: Job) -> None:
    ready(job, a=b"1", b=b"2")
    version = job.server.get("b", "a")
    assert version
    version.storage_class = "GLACIER"
    assert found(job.fetch()) == {}
    row = job.row("a")
    assert (row.state, row.archived) == (FileState.DISCOVERED, True)
    assert job.store.counts("b").to_request == 1 and job.row("b").state is FileState.DOWNLOADED


def test_something_in_the_way_is_an_error_of_that_object_alone(job: Job) -> None:
    ready(job, a=b"1", b=b"2", c=b"3")
    base = job.disk.base / "b"
    base.mkdir()
    (base / "a").mkdir()
    (base / "elsewhere").write_bytes(b"mine")
    (base / "b").symlink_to("elsewhere")
    told = found(job.fetch())
    assert told.keys() == {"a", "b"} and "is a folder" in told["a"][1] and "is a symbolic link" in told["b"][1]
    assert (base / "elsewhere").read_bytes() == b"mine" and job.row("c").state is FileState.DOWNLOADED


def test_interrupted_it_stops_soon_and_goes_on_where_it_was(job: Job) -> None:
    ready(job, **{f"k{n}": BODY for n in range(6)})
    job.server.fault({"op": "GetObject"}, "slow", rate=400_000.0)
    events = fetch_step.fetch(
        "b", job.store, job.disk, job.s3, session="s", threads=2, block_size=16384, rows_per_commit=2
    )
    for event in events:
        if isinstance(event, Progress) and event.objects == 3:
            break
    events.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    assert leftovers(job) == []
    assert sum(state is FileState.DOWNLOADED for state in job.states().values()) == 2
    job.server.calm()
    job.fetch()
    job.verify()
    assert set(job.states().values()) == {FileState.VERIFIED}


FULL = """
import os, resource, sys
from pathlib import Path
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure
from migrate_v2.steps.fetch import fetch
from signal import SIG_IGN, SIGXFSZ, signal
state, base, url = sys.argv[1:]
with Store.open(Path(state)) as store, Disk.open(Path(base)) as disk:
    signal(SIGXFSZ, SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        list(fetch("b", store, disk, S3(endpoint_url=url, region="us-east-1"), session="s", threads=1,
                   block_size=65536, rows_per_commit=100))
    except Failure as failure:
        print(type(failure).__name__, failure)
"""


def test_a_disk_that_takes_no_more_ends_it_with_one_line_and_no_half_file(job: Job) -> None:
    ready(job, a=b"small", z=BODY)
    job.server.fault({"op": "GetObject", "key": "z"}, "delay", seconds=0.3)
    job.store.close()
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(job.store.path), str(job.disk.base), job.server.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    job.store = type(job.store).open(job.store.path)
    assert ended.stderr == "" and ended.stdout.startswith("DiskError cannot write ") and "ulimit -f" in ended.stdout
    assert ended.stdout.count("\n") == 1
    assert job.states()["z"] is FileState.DOWNLOADING
    assert not (job.disk.base / "b/z").exists() and leftovers(job) == []
    job.fetch()
    job.verify()
    assert set(job.states().values()) == {FileState.VERIFIED}
