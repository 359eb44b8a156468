"""What was fetched is whole and of exactly the version listed; what could not be had says why or is asked for again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate_v2.edges import s3 as s3_edge
from migrate_v2.edges.s3 import Unreachable
from migrate_v2.events import Ended, Progress, Warned
from migrate_v2.model import CHANGED, FileState, GoneKind, Verdict
from migrate_v2.steps import fetch as fetch_step
from migrate_v2.steps.sync import look_for_gone
from tests.fakes.s3server import Request
from tests.steps.conftest import Job, found

BODY = os.urandom(300_000)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts, a moment apart."""
    monkeypatch.setattr(fetch_step, "ATTEMPTS", 2)
    monkeypatch.setattr(fetch_step, "PATIENCE", 0.05)
    monkeypatch.setattr(s3_edge, "SLOW_DOWN", 0.02)


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
        "S3 gave no proper answer for 1 object; the next run asks again"
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
    before = set(threading.enumerate())
    with pytest.raises(Unreachable):
        job.fetch()
    come = {key for key, state in job.states().items() if state is FileState.DOWNLOADED}
    assert come == {f"k{n:02}" for n in range(6)}, "what came before is not forgotten"
    assert FileState.ERROR not in job.states().values()
    assert job.server.count("GetObject", status=503) < 24 * 5, "not all were tried"
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("ThreadPoolExecutor")]
    job.server.calm()
    job.fetch()
    assert set(job.states().values()) == {FileState.DOWNLOADED}


def test_a_flipped_body_is_caught_by_the_checksum_on_the_way_where_there_is_one(job: Job) -> None:
    ready(job, k=BODY)
    fault = job.server.fault({"op": "GetObject"}, "flip", times=1)
    job.fetch()
    assert fault.hits == 1 and job.path("k").read_bytes() == BODY


def test_and_by_the_etag_where_that_is_an_md5(job: Job) -> None:
    job.server.put("b", "k", BODY, checksums=())
    job.scan()
    job.place()
    fault = job.server.fault({"op": "GetObject"}, "flip", times=1)
    job.fetch()
    assert fault.hits == 1 and job.path("k").read_bytes() == BODY


def test_bytes_that_differ_each_time_are_never_taken(job: Job) -> None:
    job.server.put("b", "k", BODY, checksums=())
    job.scan()
    job.place()
    flips = [job.server.fault({"op": "GetObject"}, "flip", times=1, after=n, at=7 + n) for n in (0, 1)]
    events = job.fetch()
    assert [fault.hits for fault in flips] == [1, 1]
    assert any(isinstance(e, Warned) for e in events) and job.states() == {"k": FileState.DOWNLOADING}
    assert not (job.disk.base / "b" / "k").exists() and leftovers(job) == []
    job.fetch()
    assert job.path("k").read_bytes() == BODY


def test_an_etag_that_looks_like_an_md5_and_is_none_costs_one_more_get(job: Job) -> None:
    version = job.server.put("b", "k", BODY, checksums=())
    version.etag = "0" * 32
    job.scan()
    job.place()
    job.fetch()
    assert job.server.count("GetObject") == 2 and job.states() == {"k": FileState.DOWNLOADED}
    assert job.path("k").read_bytes() == BODY


def test_and_one_that_says_so_costs_none(job: Job) -> None:
    version = job.server.put("b", "k", BODY, checksums=())
    version.etag, version.encryption = "0" * 32, "aws:kms"
    job.scan()
    job.place()
    job.fetch()
    assert job.server.count("GetObject") == 1 and job.path("k").read_bytes() == BODY


def test_and_by_verify_where_nothing_on_the_way_tells(job: Job) -> None:
    job.server.put("b", "k", BODY, checksums=(), parts=(200_000, 100_000))
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
    assert job.row("removed").gone is GoneKind.NEVER_FETCHED, "and that is no failure"
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


# Large objects

BIG = os.urandom(1_000_000)
LARGE = 100_000


class Ranges:
    """The Range header of each GET that the server was sent, "" where there was none."""

    def __init__(self, job: Job) -> None:
        self.seen: list[str] = []
        job.server.fault({"op": "GetObject"}, lambda request: self.seen.append(request.header("range")))


def bring(job: Job, **more: Any) -> list[Any]:
    return list(going(job, **more))


def going(job: Job, *, threads: int = 2, large: int = LARGE, block_size: int = 16384) -> Iterator[Any]:
    return fetch_step.fetch(
        "b",
        job.store,
        job.disk,
        job.s3,
        session="s",
        threads=threads,
        block_size=block_size,
        rows_per_commit=1000,
        large=large,
    )


def partials(job: Job) -> list[Path]:
    folder = job.disk.base / ".migrate-v2" / "b" / "partial"
    return sorted(folder.iterdir()) if folder.exists() else []


def recorded(job: Job) -> int:
    (record,) = (path for path in partials(job) if path.suffix == ".json")
    return int(json.loads(record.read_text())["length"])


def half_way(job: Job, key: str = "k") -> int:
    """A run that ends in the middle of the object; how much of it is there for good."""
    fault = job.server.fault({"op": "GetObject", "key": key}, "truncate", times=1, at=550_000)
    silent = job.server.fault({"op": "GetObject", "key": key}, "reset-before", after=1)
    bring(job)
    job.server.calm(fault)
    job.server.calm(silent)
    assert job.row(key).state is FileState.DOWNLOADING
    length = recorded(job)
    assert 400_000 <= length <= 550_000
    return length


def test_a_large_object_is_here_whole_with_its_time_and_no_partial(job: Job) -> None:
    ready(job, k=BIG, small=b"small")
    bring(job)
    assert job.path("k").read_bytes() == BIG and job.path("k").stat().st_mtime == 1_600_000_000
    assert set(job.states().values()) == {FileState.DOWNLOADED}
    assert partials(job) == [] and leftovers(job) == [] and job.server.count("GetObject") == 2


@pytest.mark.parametrize("checksums", [None, ()])
@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_what_breaks_off_goes_on_from_there(job: Job, versioning: str, checksums: Any) -> None:
    job.server.buckets["b"].versioning = versioning
    job.server.put("b", "k", BIG, **({} if checksums is None else {"checksums": checksums}))
    job.scan()
    job.place()
    ranges = Ranges(job)
    for n, at in enumerate((300_000, 250_000, 200_000)):
        job.server.fault({"op": "GetObject"}, "truncate", times=1, after=n, at=at)
    events = bring(job)
    first, *others = ranges.seen
    starts = [int(one.removeprefix("bytes=").removesuffix("-")) for one in others]
    assert first == "" and len(starts) == 3 and starts == sorted(starts)
    assert 280_000 <= starts[0] <= 300_000 and starts[2] > 690_000
    (ended,) = [e for e in events if isinstance(e, Ended)]
    assert ended.bytes == len(BIG), "nothing is counted twice"
    job.verify()
    assert job.row("k").state is FileState.VERIFIED and partials(job) == []


def test_the_next_run_goes_on_from_there(job: Job) -> None:
    ready(job, k=BIG)
    length = half_way(job)
    assert not (job.disk.base / "b" / "k").exists()
    ranges = Ranges(job)
    events = bring(job)
    assert ranges.seen == [f"bytes={length}-"]
    (ended,) = [e for e in events if isinstance(e, Ended)]
    held = job.store.bucket("b")
    assert ended.bytes == len(BIG) and held and held.session_bytes == 550_000 + len(BIG) - length, (
        "what came in both runs"
    )
    job.verify()
    assert job.row("k").state is FileState.VERIFIED and partials(job) == []


@pytest.mark.parametrize("tail", ["zeros", "shorter", "longer", "gone"])
def test_after_a_power_cut_only_what_was_flushed_is_believed(job: Job, tail: str) -> None:
    job.server.put("b", "k", BIG, checksums=(), parts=(600_000, 400_000))  # nothing on the way would tell
    job.scan()
    job.place()
    length = half_way(job)
    (partial,) = (path for path in partials(job) if not path.suffix)
    size = partial.stat().st_size
    with partial.open("r+b") as file:
        if tail == "shorter":
            file.truncate(length - 1)
        elif tail == "gone":
            partial.unlink()
        else:
            file.seek(length)
            file.write(bytes(size - length + (300_000 if tail == "longer" else 0)))
    ranges = Ranges(job)
    bring(job)
    assert ranges.seen == [f"bytes={length}-" if tail in ("zeros", "longer") else ""]
    assert job.path("k").read_bytes() == BIG


def test_a_record_that_is_damaged_or_speaks_of_other_bytes_is_none(job: Job) -> None:
    ready(job, k=BIG)
    half_way(job)
    (record,) = (path for path in partials(job) if path.suffix)
    record.write_text('{"length": "')
    ranges = Ranges(job)
    bring(job)
    assert ranges.seen == [""] and job.path("k").read_bytes() == BIG


def test_a_partial_that_rotted_is_found_out_and_begun_anew(job: Job) -> None:
    ready(job, k=BIG)
    length = half_way(job)
    (partial,) = (path for path in partials(job) if not path.suffix)
    with partial.open("r+b") as file:
        file.seek(1000)
        file.write(b"rotten")
    ranges = Ranges(job)
    bring(job)
    assert ranges.seen == [f"bytes={length}-", ""] and job.path("k").read_bytes() == BIG


def test_a_flip_in_a_large_body_is_fetched_again_from_its_beginning(job: Job) -> None:
    ready(job, k=BIG)
    job.server.put("b", "etag", BIG, checksums=(), last_modified=1_600_000_000)
    job.scan()
    job.place()
    flips = [job.server.fault({"op": "GetObject", "key": key}, "flip", times=1, at=900_000) for key in ("k", "etag")]
    ranges = Ranges(job)
    bring(job)
    assert [fault.hits for fault in flips] == [1, 1] and ranges.seen == ["", "", "", ""]
    assert job.path("k").read_bytes() == BIG and job.path("etag").read_bytes() == BIG


def test_a_proxy_that_ignores_ranges_sends_it_all_and_the_known_part_is_passed_over(job: Job) -> None:
    ready(job, k=BIG)
    length = half_way(job)
    ranges = Ranges(job)
    job.server.fault({"op": "GetObject"}, lambda request: request.headers.pop("range", None))
    bring(job)
    assert ranges.seen == [f"bytes={length}-"] and job.path("k").read_bytes() == BIG


@pytest.mark.parametrize("honest", [True, False])
def test_overwritten_between_two_ranges_it_is_no_mixture_and_the_partial_goes(job: Job, honest: bool) -> None:
    ready(job, k=BIG)
    half_way(job)
    job.server.put("b", "k", bytes(len(BIG)))
    if not honest:
        job.server.fault({"op": "GetObject"}, lambda request: request.headers.pop("if-match", None))
    assert found(bring(job)) == {"k": (None, CHANGED)}
    assert not (job.disk.base / "b/k").exists() and partials(job) == []
    job.server.calm()
    job.scan()
    job.place()
    ranges = Ranges(job)
    bring(job)
    assert ranges.seen == [""] and job.path("k").read_bytes() == bytes(len(BIG))


def test_a_changed_object_does_not_go_on_with_the_partial_of_the_former(job: Job) -> None:
    ready(job, k=BIG)
    half_way(job)
    job.server.put("b", "k", bytes(len(BIG)))
    job.scan()
    list(look_for_gone("b", job.store, job.disk, rows_per_commit=1000))
    job.place()
    ranges = Ranges(job)
    bring(job)
    assert ranges.seen == [""] and job.path("k").read_bytes() == bytes(len(BIG)) and partials(job) == []


def test_a_partial_of_what_came_otherwise_goes_and_nothing_else_does(job: Job) -> None:
    ready(job, k=BIG, other=BIG)
    job.server.fault({"op": "GetObject", "key": "other"}, "503")
    half_way(job)
    mine = job.disk.base / ".migrate-v2/b/partial/mine"
    mine.write_text("mine")
    (mine.parent / ".mv2-0123456789abcdef").write_text("what a kill left")
    with job.disk.writing("b/k") as sink:
        sink.write(BIG)
    job.store.fetched("b", [job.row("k").version])
    bring(job)
    job.server.calm()
    assert [path for path in partials(job) if path.name[0] in "m."] == [mine], "and `other` is still wanted"
    bring(job)
    assert partials(job) == [mine] and set(job.states().values()) == {FileState.DOWNLOADED}


def test_archived_meanwhile_it_goes_on_when_it_is_back(job: Job) -> None:
    ready(job, k=BIG)
    length = half_way(job)
    version = job.server.get("b", "k")
    assert version
    version.storage_class = "GLACIER"
    bring(job)
    assert job.row("k").archived and recorded(job) == length


def test_what_stands_at_the_path_goes_into_quarantine_when_the_other_is_whole(job: Job) -> None:
    ready(job, k=BIG)
    path = job.disk.base / "b" / "k"
    path.parent.mkdir()
    path.write_bytes(b"the only copy of something")
    half_way(job)
    assert path.read_bytes() == b"the only copy of something"
    bring(job)
    (kept,) = (job.disk.base / ".migrate-v2/b/quarantine").iterdir()
    assert kept.read_bytes() == b"the only copy of something" and path.read_bytes() == BIG


def test_a_portals_page_spoils_no_partial(job: Job) -> None:
    ready(job, k=BIG)
    length = half_way(job)
    job.server.fault({"op": "GetObject"}, "garbage-200")
    bring(job)
    assert recorded(job) == length and job.states() == {"k": FileState.DOWNLOADING}
    job.server.calm()
    bring(job)
    assert job.path("k").read_bytes() == BIG


def test_a_connection_that_breaks_all_the_time_brings_it_in_the_end(job: Job) -> None:
    ready(job, k=BIG)
    fault = job.server.fault({"op": "GetObject"}, "truncate", at=150_000, times=6)
    bring(job)
    assert fault.hits == 6, "more often than there are attempts without progress"
    assert job.path("k").read_bytes() == BIG


def test_an_answer_that_stalls_is_given_up_and_continued(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_edge, "SILENCE", 1)
    ready(job, k=BIG)
    length = half_way(job)
    job.server.fault({"op": "GetObject"}, "stall", times=1)
    ranges = Ranges(job)
    bring(job)
    assert ranges.seen == [f"bytes={length}-"] * 2 and job.path("k").read_bytes() == BIG


@pytest.mark.parametrize("action", ["stall", "delay", "slow", "503"])
def test_whatever_hangs_an_interrupt_is_obeyed_at_once(job: Job, action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_edge, "SLOW_DOWN", 30.0)
    ready(job, k=BIG, small=b"small")
    job.server.fault({"op": "GetObject"}, action, seconds=30.0, rate=10_000.0)
    events = going(job)
    next(events)
    next(events)  # Progress: nothing came for half a second
    began = time.monotonic()
    events.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 15
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]
    assert leftovers(job) == [] and set(job.states().values()) == {FileState.DOWNLOADING}


def test_closed_in_the_middle_it_goes_on_there(job: Job) -> None:
    ready(job, k=BIG)
    fault = job.server.fault({"op": "GetObject"}, "slow", rate=1_000_000.0)
    events = going(job, threads=1)
    for event in events:
        if isinstance(event, Progress) and event.bytes > 300_000:
            break
    events.close()  # type: ignore[attr-defined]
    length = recorded(job)
    assert 200_000 <= length < len(BIG)
    job.server.calm(fault)
    ranges = Ranges(job)
    bring(job)
    assert ranges.seen == [f"bytes={length}-"] and job.path("k").read_bytes() == BIG


KILLED = """
import sys
from pathlib import Path
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.steps.fetch import fetch
state, base, url = sys.argv[1:]
with Store.open(Path(state)) as store, Disk.open(Path(base)) as disk:
    list(fetch("b", store, disk, S3(endpoint_url=url, region="us-east-1"), session="s", threads=2,
               block_size=16384, rows_per_commit=100, large=100_000))
"""


def test_killed_in_the_middle_it_goes_on_there(job: Job) -> None:
    ready(job, k=BIG)
    slow = job.server.fault({"op": "GetObject"}, "slow", rate=300_000.0)
    job.store.close()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(job.store.path), str(job.disk.base), job.server.url],
        cwd=Path(__file__).parents[2],
    )
    try:
        until = time.monotonic() + 60
        while not any(path.suffix == ".json" for path in partials(job)):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    job.store = type(job.store).open(job.store.path)
    length = recorded(job)
    (partial,) = (path for path in partials(job) if len(path.name) == 64)
    with partial.open("r+b") as file:  # and the power goes, before the rest was on the disk
        file.seek(length)
        file.write(bytes(max(partial.stat().st_size - length, 5000)))
    job.server.calm(slow)
    ranges = Ranges(job)
    bring(job)
    assert 0 < length < len(BIG) and ranges.seen == [f"bytes={length}-"]
    job.verify()
    assert job.row("k").state is FileState.VERIFIED and partials(job) == [] and leftovers(job) == []


def test_in_a_storm_the_threads_wait_together(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_step, "ATTEMPTS", 6)
    monkeypatch.setattr(s3_edge, "SLOW_DOWN", 0.1)
    ready(job, **{f"k{n}": b"body" for n in range(24)})
    began: list[float] = []

    def storms(request: Request) -> bool:
        if request.op != "GetObject":
            return False
        began.append(time.monotonic())
        return began[-1] < began[0] + 0.8

    storm = job.server.fault(storms, "503")
    bring(job, threads=8)
    assert set(job.states().values()) == {FileState.DOWNLOADED}
    # 0.1, 0.2, 0.4, 0.8 s apart, mostly by one thread of the eight; each for itself would make over thirty.
    assert 2 <= storm.hits <= 24


def test_large_ones_are_recorded_as_they_come(job: Job) -> None:
    ready(job, a=BIG, z=BIG)
    job.server.fault({"op": "GetObject", "key": "z"}, "stall")
    events = going(job, threads=1)
    for event in events:
        if isinstance(event, Progress) and event.objects == 1:
            break
    events.close()  # type: ignore[attr-defined]
    assert job.states() == {"a": FileState.DOWNLOADED, "z": FileState.DOWNLOADING}
