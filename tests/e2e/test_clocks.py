"""P1: what is recent, and how long a proof is good for, is told by no clock that somebody can set; nor by one that stood."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.world import World, Zygote, world
from tests.fakes.clock import LIBRARY, Clock
from tests.fakes.s3server import Request

DAY = 86_400


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    assert LIBRARY.exists(), "this test needs the Debian package faketime"
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def timed(clock: Clock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("zygote"), clock.env)
    yield made
    made.close()


@pytest.fixture
def made(timed: Zygote, clock: Clock, tmp_path: Path) -> Iterator[World]:
    clock.set(0)
    with world(tmp_path, timed) as made:
        made.env.update(clock.env)
        made.put("a//b", b"aside " * 100)
        made.put("c//d", b"another")
        yield made


def left(made: World) -> int:
    return len(made.server.versions(made.bucket))


@pytest.mark.system
@pytest.mark.parametrize("years", [-20, 12])
def test_the_clock_jumps_between_verify_and_confirm_delete(made: World, clock: Clock, years: int) -> None:
    """The token holds, for no time is in it; nothing is recent any more; and what is read anew may go."""
    made.done("migrate", made.bucket)
    token = made.token()
    clock.set(years * 365 * DAY)
    assert made.token() == token
    trusting = made.run("confirm-delete", token, "--trust-recent=1h", made.bucket)
    assert trusting.code == 5 and "the clock was set" in trusting.err, trusting
    assert left(made) == 2
    made.done("confirm-delete", token, made.bucket)
    assert left(made) == 0


@pytest.mark.system
def test_without_a_jump_what_was_read_a_moment_ago_is_recent(made: World, clock: Clock) -> None:
    """What the tests around this one rest on."""
    made.done("migrate", made.bucket)
    made.done("confirm-delete", made.token(), "--trust-recent=1h", made.bucket)
    assert left(made) == 0


@pytest.mark.system
@pytest.mark.parametrize(
    ("seconds", "trust"), [(-1800, ("--trust-recent=1h",)), (1800, ("--trust-recent=1h",)), (-3650 * DAY, ())]
)
def test_the_clock_jumps_in_the_middle_of_confirm_delete(
    made: World, clock: Clock, seconds: int, trust: tuple[str, ...]
) -> None:
    made.done("migrate", made.bucket)
    token = made.token()
    made.server.fault({"op": "ListObjectVersions"}, lambda _: clock.set(seconds), times=1)
    ended = made.run("confirm-delete", token, *trust, made.bucket)
    made.server.calm()
    if trust:
        assert ended.code == 5 and "the clock was set" in ended.err, ended
        assert left(made) == 2
    else:
        assert (ended.code, left(made)) == (0, 0), ended
    made.nothing_is_lost()


@pytest.mark.system
def test_a_clock_set_back_is_not_forgotten_by_reading_another_object(made: World, clock: Clock) -> None:
    """Read a day ago, the clock set back by that day, and then a look at something else by the new clock."""
    clock.set(DAY)
    made.done("migrate", made.bucket)
    clock.set(0)
    made.put("e//f", b"put since")
    made.done("scan", "--rescan", made.bucket)
    made.done("migrate", made.bucket)
    clock.set(DAY + 600)  # by now those first two are of ten minutes ago again
    trusting = made.run("confirm-delete", made.token(), "--trust-recent=1h", made.bucket)
    assert trusting.code == 5 and "the clock was set" in trusting.err, trusting
    assert left(made) == 3
    made.done("verify", made.bucket)  # all are read by this clock
    made.done("confirm-delete", made.token(), "--trust-recent=1h", made.bucket)
    assert left(made) == 0


# -- a machine, or a program, that stands still


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("zygote"), {"LIFETIME_OF_PROOFS": "1.0"})
    yield made
    made.close()


def stopped(made: World, seconds: float) -> Callable[[Request], None]:
    """Stops the program for so long, once it has agreed and made its proofs; the canary and this question are the last
    that S3 is asked before a DELETE."""

    def stop(_: Request) -> None:
        with sqlite3.connect(f"{made.state.as_uri()}?mode=ro", uri=True) as connection:
            agreed = connection.execute("select count(*) from ledger where entry = 'consent'").fetchone()[0]
        connection.close()
        if agreed > before:
            os.kill(made.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(made.pid, signal.SIGCONT)

    with sqlite3.connect(made.state) as connection:
        before = connection.execute("select count(*) from ledger where entry = 'consent'").fetchone()[0]
    connection.close()
    return stop


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_a_proof_that_grew_old_while_the_program_was_stopped_deletes_nothing(
    short_lived: Zygote, tmp_path: Path, versioning: str
) -> None:
    with world(tmp_path, short_lived, versioning=versioning) as made:
        made.put("a//b", b"aside " * 100)
        made.done("migrate", made.bucket)
        token = made.token()
        made.server.fault({"op": "GetBucketVersioning"}, stopped(made, 1.3))
        ended = made.run("confirm-delete", token, made.bucket)
        made.server.calm()
        assert ended.code == 5 and "have expired" in ended.err, ended
        assert left(made) == 1
        assert "DeleteObjects" not in {request.op for request in made.server.requests}


def test_a_program_that_was_stopped_for_less_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        made.put("a//b", b"aside " * 100)
        made.done("migrate", made.bucket)
        token = made.token()
        made.server.fault({"op": "GetBucketVersioning"}, stopped(made, 1.3))
        made.done("confirm-delete", token, made.bucket)
        assert left(made) == 0


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(one) for path in tasks.glob("*/children") for one in path.read_text().split()]


def test_a_transfer_that_was_stopped_and_goes_on_is_whole(zygote: Zygote, tmp_path: Path) -> None:
    """SIGSTOP of `aws s3 sync` itself while it transfers, and SIGCONT a second later."""
    with world(tmp_path, zygote) as made:
        made.env["MIGRATE_V2_AWS_PATH"] = str(ROOT / ".venv" / "bin" / "aws")
        for number in range(8):
            made.put(f"d/{number}", os.urandom(200_000))
        stops: list[int] = []
        lock = threading.Lock()

        def stop(_: Request) -> None:
            with lock:
                if not stops:
                    stops.extend(children(made.pid))
                    for pid in stops:
                        os.kill(pid, signal.SIGSTOP)
                    time.sleep(1)
                    for pid in stops:
                        os.kill(pid, signal.SIGCONT)

        made.server.fault(lambda request: request.op == "GetObject" and "migrate-v2" not in str(request.headers), stop)
        made.done("migrate", made.bucket)
        made.server.calm()
        assert stops, "the transfer is a process of its own"
        made.comes_home()
