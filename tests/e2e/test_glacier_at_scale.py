"""Restored once, fetched in time, never paid twice: the whole program against an S3 whose log tells each request."""

from __future__ import annotations

import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from tests.conftest import Run, changed, query, states, tree
from tests.e2e.world import world
from tests.fakes.forks import Begun, Job, Zygote, as_by_the_script
from tests.fakes.s3batch import Jobs
from tests.fakes.s3server import ARCHIVED, Request, S3Server

HOUR = 3600
ROLE = "arn:aws:iam::111122223333:role/restores"


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as s3:
        s3.bucket("bkt")
        yield s3


@pytest.fixture
def env(server: S3Server) -> dict[str, str | None]:
    return {**server.env(), "AWS_ENDPOINT_URL": server.url, "MIGRATE_V2_METADATA": "none"}


def fill(server: S3Server, objects: int) -> dict[str, bytes]:
    """A third of them archived, in three classes by turns."""
    bodies = {}
    for number in range(objects):
        key = f"d{number % 7}/{number:05}"
        bodies[key] = b"%d" % number * (number % 50 + 1)
        how: dict[str, str] = {}
        if number % 3 == 0:
            how = (
                {"storage_class": "GLACIER"},
                {"storage_class": "DEEP_ARCHIVE"},
                {"storage_class": "INTELLIGENT_TIERING", "archive_status": "ARCHIVE_ACCESS"},
            )[number // 3 % 3]
        server.put("bkt", key, bodies[key], **how)  # type: ignore[arg-type]
    return bodies


class Outstanding:
    """How many restores are under way in S3 at the moment of each request, at most."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.most = 0
        versions = (one for some in server.buckets["bkt"].objects.values() for one in some)
        self.archived = [one for one in versions if one.archive_status or one.storage_class in ARCHIVED]
        server.fault({"op": "RestoreObject"}, self.look)

    def look(self, _: Request) -> None:
        now = self.server.clock()
        ready = [one.restore_ready for one in self.archived]
        self.most = max(self.most, 1 + sum(moment is not None and moment > now for moment in ready))


def accepted(server: S3Server) -> Counter[str]:
    return Counter(r.key for r in server.requests if r.op == "RestoreObject" and r.status == 202)


def comes_down_whole(
    run: Run,
    server: S3Server,
    env: dict[str, str | None],
    home: Path,
    state: Path,
    objects: int,
    cap: int,
    timeout: float,
) -> None:
    bodies = fill(server, objects)
    server.restore_seconds = 0.5
    outstanding = Outstanding(server)
    ended = run(
        "migrate",
        "--wait",
        "bkt",
        env={**env, "MIGRATE_V2_MAX_GLACIER_RESTORES": str(cap), "MIGRATE_V2_RESTORE_POLL_SECONDS": "0.5"},
        timeout=timeout,
    )
    assert ended.returncode == 0, ended.stderr
    assert {path: body for path, body in tree(home / "bkt").items() if body is not None} == bodies
    assert states(state, "bkt") == {"verified": objects}
    archived = {key for number, key in enumerate(bodies) if number % 3 == 0}
    assert accepted(server) == dict.fromkeys(archived, 1)
    assert cap // 2 < outstanding.most <= cap
    assert run("migrate", "bkt", env=env).returncode == 0
    assert sum(accepted(server).values()) == len(archived)


def test_a_bucket_a_third_of_which_is_archived_comes_down_whole(
    run: Run, server: S3Server, env: dict[str, str | None], home: Path, state: Path
) -> None:
    comes_down_whole(run, server, env, home, state, objects=240, cap=30, timeout=120)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_five_thousand_objects_with_two_hundred_restores_at_once(
    run: Run, server: S3Server, env: dict[str, str | None], home: Path, state: Path
) -> None:
    comes_down_whole(run, server, env, home, state, objects=5000, cap=200, timeout=1800)


@pytest.mark.parametrize("after", [1, 40])
def test_kill_9_in_the_middle_of_requesting_leads_to_no_second_request(
    run: Run,
    server: S3Server,
    env: dict[str, str | None],
    zygote: Zygote,
    environment: dict[str, str],
    state: Path,
    tmp_path: Path,
    after: int,
) -> None:
    for number in range(90):
        server.put("bkt", f"k{number:03}", b"1", storage_class="GLACIER")
    run("scan", "bkt", env=env)
    begun: Queue[Begun] = Queue()

    def kill(_: Request) -> None:
        child = begun.get()
        begun.put(child)
        child.kill()

    server.fault({"op": "RestoreObject"}, kill, times=1, after=after)
    job = Job(["restore", "bkt"], as_by_the_script(changed(environment, env)), str(tmp_path))
    with tempfile.TemporaryFile() as said, zygote.begin(job, (said, said, said)) as child:
        begun.put(child)
        assert child.wait(60) == -signal.SIGKILL
    server.settled()
    server.calm()
    before = server.count("RestoreObject")
    assert after < before < 90
    assert run("restore", "bkt", env=env).returncode == 3
    sent = Counter(r.key for r in server.requests if r.op == "RestoreObject" and r.status)
    assert set(sent.values()) == {1} and len(sent) == 90
    assert states(state, "bkt") == {"glacier_restore_requested": 90 - before, "glacier_restoring": before}


@pytest.mark.parametrize("answered", [False, True], ids=["before S3 acts", "after it acted"])
def test_kill_9_while_copies_are_renewed_renews_none_of_them_twice(
    run: Run,
    server: S3Server,
    env: dict[str, str | None],
    zygote: Zygote,
    environment: dict[str, str],
    state: Path,
    tmp_path: Path,
    answered: bool,
) -> None:
    """What was about to stay longer is asked about first; what did not arrive is asked for then, once."""
    soon = server.clock() + HOUR / 2
    for number in range(60):
        server.put("bkt", f"k{number:02}", b"1", storage_class="GLACIER", restored_until=soon)
    assert run("scan", "bkt", env=env).returncode == 0
    begun: Queue[Begun] = Queue()

    def kill(*_: object) -> None:
        child = begun.get()
        begun.put(child)
        child.kill()

    if answered:
        server.fault({"op": "RestoreObject"}, rewrite=kill, times=1, after=20)  # type: ignore[arg-type]
    else:
        server.fault({"op": "RestoreObject"}, kill, times=1, after=20)
    job = Job(["restore", "bkt"], as_by_the_script(changed(environment, env)), str(tmp_path))
    with tempfile.TemporaryFile() as said, zygote.begin(job, (said, said, said)) as child:
        begun.put(child)
        assert child.wait(60) == -signal.SIGKILL
    server.settled()
    server.calm()
    arrived = server.count("RestoreObject", status=200)
    assert 20 <= arrived < 60
    assert run("restore", "bkt", env=env).returncode == 0
    renewed = Counter(r.key for r in server.requests if r.op == "RestoreObject" and r.status == 200)
    assert renewed == {f"k{number:02}": 1 for number in range(60)}
    assert query(state, "select sum(requests), sum(bytes) from restores") == [(60, 0)], "each is in the costs, once"
    assert query(state, "select count(*) from files where restore_renewal is not null") == [(0,)]


def test_a_copy_that_expires_before_its_fetch_is_asked_for_again_and_that_is_told(
    run: Run, server: S3Server, env: dict[str, str | None], home: Path, state: Path
) -> None:
    server.put("bkt", "cold", b"once", storage_class="GLACIER")
    server.put("bkt", "warm", b"body")
    assert run("restore", "bkt", env=env).returncode == 3
    server.advance(6 * HOUR)
    assert run("restore", "bkt", env=env).returncode == 0
    server.advance(30 * 24 * HOUR)
    first = run("migrate", "bkt", env=env)
    second = run("migrate", "bkt", env=env)
    assert (first.returncode, second.returncode) == (3, 3)
    assert "1 restored copies (4 bytes) expired before they were fetched" in first.stderr + second.stderr
    assert accepted(server) == {"cold": 2}
    server.advance(6 * HOUR)
    assert run("migrate", "bkt", env=env).returncode == 0
    assert (home / "bkt" / "cold").read_bytes() == b"once"
    ((requests, size),) = query(state, "select requests, bytes from restores")
    assert (requests, size) == (2, 8)


def test_archived_objects_do_not_fail_the_transfer_of_restored_ones(
    run: Run, server: S3Server, env: dict[str, str | None], home: Path
) -> None:
    """The CLI lists by itself, and is never led to ask for what is not back: no GET is refused, and it has nothing to say."""
    day = server.clock() + 24 * HOUR
    for number in range(250):
        server.put("bkt", f"back/{number:03}", b"1", storage_class="GLACIER", restored_until=day)
    server.put("bkt", "cold", b"1", storage_class="GLACIER")
    server.put("bkt", "deep", b"1", storage_class="DEEP_ARCHIVE")
    ended = run("migrate", "bkt", env=env)
    assert ended.returncode == 3, ended.stderr
    assert len(list((home / "bkt" / "back").iterdir())) == 250
    assert server.count("GetObject", status=403) == 0
    assert "the CLI ended with" not in ended.stderr and "sync bkt: 250 objects" in ended.stderr
    assert accepted(server) == {"cold": 1, "deep": 1}


def test_jobs_of_batch_operations_from_the_command_line(
    run: Run, server: S3Server, env: dict[str, str | None], home: Path, tmp_path: Path
) -> None:
    server.jobs = Jobs()
    server.jobs.course = ("New", "Complete")
    server.jobs.break_keys["a 1"] = "InternalError"
    server.bucket("reports")
    bodies = {f"{place} {number}": b"body" for place in "abc" for number in range(9)}
    for key, body in bodies.items():
        kind = {"a": "GLACIER", "b": "DEEP_ARCHIVE", "c": "STANDARD"}[key[0]]
        server.put("bkt", key, body, storage_class=kind)
    env["MIGRATE_V2_BATCH_REPORT_BUCKET"] = "reports"
    missing = run("restore", "--batch", "bkt", env=env)
    assert missing.returncode == 2 and "batch_role_arn" in missing.stderr
    env["MIGRATE_V2_BATCH_ROLE_ARN"] = ROLE
    assert run("restore", "--batch", "--manifest-only", "bkt", env=env).returncode == 0
    written = {path.name for path in (tmp_path / "manifests").iterdir()}
    assert written == {"bkt-DEEP_ARCHIVE.csv", "bkt-GLACIER.csv"}
    for _ in range(2):
        ended = run("restore", "--batch", "bkt", env=env)
        assert ended.returncode == 3, ended.stderr
    assert server.jobs.created == 2, "one for each class"
    asked = [r for r in server.requests if r.op == "RestoreObject"]
    assert [r.key for r in asked if r.principal != "batch"] == ["a 1"], "singly, after it had failed there"
    assert accepted(server) == dict.fromkeys([key for key in bodies if key[0] != "c"], 1)
    server.advance(13 * HOUR)
    ended = run("migrate", "bkt", env=env)
    assert ended.returncode == 0, ended.stderr
    assert {path: body for path, body in tree(home / "bkt").items() if body is not None} == bodies


def test_stragglers_are_hurried_by_one_command_once(zygote: Zygote, tmp_path: Path) -> None:
    """`restore --upgrade`: asked again at the faster tier, paid once, and back by its time; Deep Archive has no Expedited."""
    with world(tmp_path, zygote) as made:
        for number in range(3):
            made.put(f"g//{number}", b"%d" % number, storage_class="GLACIER")
        made.put("deep//1", b"deep", storage_class="DEEP_ARCHIVE")
        slow = {"MIGRATE_V2_GLACIER_RESTORE_TIER": "Bulk"}
        assert made.run("migrate", made.bucket, env=slow).code == 3
        made.server.advance(60)
        hurried = made.run("restore", "--upgrade=Expedited", made.bucket, env=slow)
        assert hurried.code == 3 and "3 objects (3 bytes) asked for again at Expedited" in hurried.err, hurried
        assert "USD" in hurried.err
        again = made.run("restore", "--upgrade=Expedited", made.bucket, env=slow)
        assert again.code == 3 and "nothing more is on its way at a slower tier" in again.err, again
        asked = Counter((r.key, r.status) for r in made.server.requests if r.op == "RestoreObject")
        assert asked == {**{(f"g//{n}", 202): 2 for n in range(3)}, ("deep//1", 202): 1}
        made.server.advance(10 * 60)
        assert made.run("migrate", made.bucket, env=slow).code == 3, "Deep Archive takes its time"
        assert states(made.state, made.bucket)["verified"] == 3
        made.server.advance(48 * HOUR)
        made.comes_home()
