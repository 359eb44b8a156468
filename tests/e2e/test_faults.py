"""P1 and P4: whatever fails, at whichever call, nothing is lost, nothing unproved goes, and the next run finishes."""

from __future__ import annotations

import copy
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from migrate_v2 import pipeline, settings
from migrate_v2.edges.s3 import S3
from migrate_v2.errors import Failure
from tests.conftest import Figures
from tests.e2e.world import World, Zygote, world
from tests.fakes.forks import Fault
from tests.fakes.s3server import Bucket, Request, Response

Rounds = Callable[[int], int]


@pytest.fixture
def small(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """A never versioned bucket of few objects, each of another kind."""
    with world(tmp_path, zygote) as made:
        fill(made)
        yield made


@pytest.fixture
def versioned(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        fill(made)
        yield made


def fill(made: World, more: int = 0) -> None:
    made.put("a//b", b"aside " * 100)
    made.put("parts//", bytes(range(256)) * 1000, parts=(100_000, 100_000, 56_000))
    made.put("dir/", b"")
    for n in range(more):
        made.put(f"many//{n}", random.randbytes(n))
    if made.versioning:
        made.put("a//b", b"a newer version")


# -- the n-th call of a kind fails


def ready(made: World, phase: str) -> tuple[Callable[[], None], tuple[str, ...]]:
    """How to come to the beginning of a phase, again and again, and its command line."""
    if phase == "migrate":
        return made.saved(), ("migrate", made.bucket)
    made.done("migrate", made.bucket)
    token = made.token()
    return made.saved(), ("confirm-delete", token, made.bucket)


Begin = tuple[Callable[[], None], tuple[str, ...]]


def each_call(
    made: World, begin: Begin, at: str, do: str, numbers: Iterable[int], due: float = 1e12
) -> tuple[int, bool]:
    """A run for each n, with its n-th call failing, and then one that finishes; (faults, did a run get by without)."""
    restore, argv = begin
    faults = 0
    for n in numbers:
        restore()
        ran = made.run(*argv, fault=Fault(at, n, do))
        if not ran.fired:
            return faults, True
        faults += 1
        made.nothing_is_lost()
        made.comes_home()
        if time.monotonic() > due:
            break
    return faults, False


CALLS = [
    *(("migrate", at, do) for at in ("write", "fsync", "rename", "open") for do in ("EIO", "ENOSPC", "kill")),
    *(("migrate", "write", do) for do in ("EDQUOT", "short", "drop", "flip", "kill-after")),
    ("migrate", "rename", "kill-after"),
    ("migrate", "open", "EMFILE"),
    ("migrate", "rename", "EROFS"),
    *(("migrate", at, do) for at in ("commit", "statement") for do in ("EIO", "ENOSPC", "EBUSY", "kill", "kill-after")),
    *(("delete", at, do) for at in ("write", "fsync", "rename", "open") for do in ("EIO", "ENOSPC", "kill")),
    ("delete", "rename", "kill-after"),
    *(("delete", at, do) for at in ("commit", "statement") for do in ("EIO", "ENOSPC", "EBUSY", "kill", "kill-after")),
]


@pytest.mark.parametrize("phase", ["migrate", "delete"])
def test_a_call_that_fails_or_is_the_last_loses_nothing(small: World, phase: str) -> None:
    """A few here, always the same; `make soak` goes through them all."""
    begin, chance = ready(small, phase), random.Random(phase)
    for at, do in chance.sample([(at, do) for of, at, do in CALLS if of == phase], 4):
        faults, _ = each_call(small, begin, at, do, [chance.randrange(1, 4)])
        assert faults == 1, (at, do)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("phase", "at", "do"), CALLS)
def test_every_call_in_turn(small: World, phase: str, at: str, do: str, rounds: Rounds, figures: Figures) -> None:
    faults, complete = each_call(
        small, ready(small, phase), at, do, range(1, rounds(100_000) + 1), time.monotonic() + 1800
    )
    figures(f"n-th call: {phase}, {at} {do}: {faults} faults, {'to completion' if complete else 'not completed'}")
    assert faults


# -- what S3 and the way to it do


def of_the_program(request: Request) -> bool:
    return "migrate-v2" in request.header("user-agent")  # what the oracle asks is not broken


ANSWERS = ("503", "500", "reset-before", "lost-reply", "garbage-200", "expired-token", "access-denied")


def each_request(
    made: World, begin: Begin, action: object, numbers: Iterable[int], *, times: int | None, due: float = 1e12
) -> tuple[int, bool]:
    """As each_call(): from the n-th request on, `times` of them (None: all) are answered so."""
    restore, argv = begin
    faults = 0
    for n in numbers:
        restore()
        planted = made.server.fault(of_the_program, action, after=n - 1, times=times)  # type: ignore[arg-type]
        made.run(*argv)
        made.server.calm()
        if not planted.hits:
            return faults, True
        faults += 1
        made.nothing_is_lost()
        made.comes_home()
        if time.monotonic() > due:
            break
    return faults, False


@pytest.mark.parametrize("phase", ["migrate", "delete"])
def test_an_answer_that_does_not_come_loses_nothing(small: World, phase: str) -> None:
    begin, chance = ready(small, phase), random.Random(phase)
    count = requests(small, begin)
    for action in chance.sample(ANSWERS, 3):
        times = chance.choice([1, None])
        assert each_request(small, begin, action, [chance.randrange(2, count)], times=times)[0] == 1, action


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("action", ANSWERS)
@pytest.mark.parametrize("phase", ["migrate", "delete"])
@pytest.mark.parametrize("which", ["small", "versioned"])
def test_every_answer_in_turn(
    request: pytest.FixtureRequest,
    which: str,
    phase: str,
    action: str,
    times: int | None,
    rounds: Rounds,
    figures: Figures,
) -> None:
    made: World = request.getfixturevalue(which)
    due = time.monotonic() + 1800
    faults, complete = each_request(
        made, ready(made, phase), action, range(1, rounds(100_000) + 1), times=times, due=due
    )
    said = "once" if times else "from then on"
    figures(
        f"n-th request: {which}, {phase}, {action} {said}: {faults} faults,"
        f" {'to completion' if complete else 'not completed'}"
    )
    assert faults


# -- what others do to the bucket meanwhile


def overwritten(made: World) -> None:
    made.put("a//b", b"put by others %d" % made.runs)


def added(made: World) -> None:
    made.put(f"new//{made.runs}", b"put by others")


def tagged(made: World) -> None:
    held = made.server.get(made.bucket, "a//b")
    if held is not None:
        held.tags = {"by": "others"}


def taken_away(made: World) -> None:
    for version in made.server.versions(made.bucket, "a//b"):
        made.server.remove(made.bucket, "a//b", version.version_id)
    made.ever = {name: body for name, body in made.ever.items() if name[0] != "a//b"}


def toggled(made: World) -> None:
    held = made.server.buckets[made.bucket]
    held.versioning = "Suspended" if held.versioning == "Enabled" else "Enabled"


DONE = [overwritten, added, tagged, taken_away, toggled]


def requests(made: World, begin: Begin) -> int:
    """How many the program sends where nothing fails."""
    restore, argv = begin
    restore()
    before = len(made.oracle.passed)
    made.done(*argv)
    return len(made.oracle.passed) - before


def each_moment(made: World, begin: Begin, deed: Callable[[World], None], numbers: Iterable[int]) -> int:
    """Others do it just before the n-th request of the program is answered."""
    restore, argv = begin
    faults = 0
    for n in numbers:
        restore()
        planted = made.server.fault(of_the_program, lambda _: deed(made), after=n - 1, times=1)
        made.run(*argv)
        made.server.calm()
        if not planted.hits:
            return faults
        faults += 1
        made.nothing_is_lost()
        made.run("scan", "--rescan", made.bucket)
        made.run("migrate", made.bucket)
        made.nothing_is_lost()
        made.run("confirm-delete", made.token(), made.bucket)
        made.nothing_is_lost()
    return faults


def test_what_others_do_meanwhile_is_never_lost(small: World) -> None:
    begin, chance = ready(small, "delete"), random.Random(5)
    count = requests(small, begin)
    for deed in DONE:
        assert each_moment(small, begin, deed, [chance.randrange(2, count)]) == 1


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deed", DONE)
@pytest.mark.parametrize("phase", ["migrate", "delete"])
@pytest.mark.parametrize("which", ["small", "versioned"])
def test_what_others_do_at_every_moment(
    request: pytest.FixtureRequest,
    which: str,
    phase: str,
    deed: Callable[[World], None],
    rounds: Rounds,
    figures: Figures,
) -> None:
    made: World = request.getfixturevalue(which)
    faults = each_moment(made, ready(made, phase), deed, range(1, rounds(100_000) + 1))
    figures(f"others meanwhile: {which}, {phase}, {deed.__name__}: at {faults} moments")


# -- SIGKILL at random


def killed(made: World, cycles: int, seed: int) -> Counter[str]:
    """Runs that are killed at random moments, over and over, from an empty disk to an empty bucket; kills by command."""
    chance = random.Random(seed)
    began = time.monotonic()
    restore = made.saved()
    made.done("migrate", made.bucket)
    whole = time.monotonic() - began
    kills: Counter[str] = Counter()
    while kills.total() < cycles:
        restore()
        command, token = "migrate", ""
        while kills.total() < cycles:
            argv = ("confirm-delete", token, made.bucket) if token else ("migrate", made.bucket)
            ran = made.run(*argv, kill_after=chance.uniform(0.02, 1.2 * whole))
            kills[command] += ran.code < 0
            made.nothing_is_lost()
            if ran.code == 6:  # what the run before had started has not ended yet
                continue
            if ran.code >= 0 and command == "migrate":
                assert ran.code == 0, ran.err
                command = "confirm-delete"
            elif ran.code >= 0 and token:
                assert ran.code in (0, 5), ran.err  # 5: the plan is another one by now
                if ran.code == 0:
                    break
            if command == "confirm-delete":
                token = made.token()
    made.comes_home()
    return kills


def test_killed_a_few_times_at_random(small: World) -> None:
    kills = killed(small, 3, random.randrange(1 << 30))
    assert kills.total() == 3


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(small: World, by: signal.Signals) -> None:
    """At a request of its own choosing, in the middle of a deletion: 130, every intent has its outcome, and it goes on."""
    _, argv = ready(small, "delete")
    sent = threading.Event()

    def stop(_: Request) -> None:
        if not sent.is_set():
            sent.set()
            os.kill(small.pid, by)

    small.server.fault(lambda request: request.op == "DeleteObject" and "canary" not in request.key, stop)
    ran = small.run(*argv)
    small.server.calm()
    assert (ran.code, ran.err.count("interrupted")) == (130, 1), ran.err
    small.nothing_is_lost()
    small.comes_home()


def test_a_deletion_that_was_killed_while_it_listed_is_asked_for_again(small: World) -> None:
    _, argv = ready(small, "delete")
    small.server.fault(
        lambda request: of_the_program(request) and request.op == "ListObjectVersions",
        lambda _: os.kill(small.pid, signal.SIGKILL),
        times=1,
    )
    assert small.run(*argv).code == -9
    assert argv[1] == small.token(), "the plan is the same"
    small.done(*argv)
    assert small.server.versions(small.bucket) == []


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("which", ["small", "versioned"])
def test_killed_over_and_over(request: pytest.FixtureRequest, which: str, rounds: Rounds, figures: Figures) -> None:
    made: World = request.getfixturevalue(which)
    fill(made, more=30)
    seed = random.randrange(1 << 30)
    kills = killed(made, rounds(600), seed)
    figures(f"random kill -9, {which} (seed {seed}): {kills.total()} cycles, {dict(kills)}, nothing lost")


# -- power cuts


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    made = subprocess.run(["mount", "-o", "loop", image, at], capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"this test needs to mount: {made.stderr.strip()}"
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.mark.system
@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("phase", ["migrate", "delete"])
def test_after_a_power_cut_it_goes_on(zygote: Zygote, tmp_path: Path, phase: str, versioning: str) -> None:
    """The image of a mounted file system, copied before a request is answered, has only what was flushed by then; S3 is
    as it was after that request. In a deletion the request is a DELETE."""
    image, cut, at = tmp_path / "image", tmp_path / "cut", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    at.mkdir()
    with ExitStack() as held:
        with mounted(image, at):
            made = World(at, zygote, versioning=versioning)
            held.callback(made.close)
            fill(made)
            begin = ready(made, phase)
            chosen = random.randrange(1, 3 if not versioning else 2)
            if phase == "migrate":
                chosen = random.randrange(5, requests(made, begin))
                begin[0]()
            argv = begin[1]
            subprocess.run(["sync", "-f", at], check=True)
            s3: list[Bucket] = []

            def now(_: Request) -> None:
                subprocess.run(["cp", "--sparse=always", image, cut], check=True)

            def afterwards(_: Request, response: Response) -> Response:
                with made.server.lock:
                    s3.append(copy.deepcopy(made.server.buckets[made.bucket]))
                return response

            def due(request: Request) -> bool:
                return of_the_program(request) and (
                    phase == "migrate"
                    or (request.op in ("DeleteObject", "DeleteObjects") and "canary" not in request.key)
                )

            made.server.fault(due, now, after=chosen - 1, times=1, rewrite=afterwards)
            made.done(*argv)
            made.server.calm()
        made.server.buckets[made.bucket] = s3[0]
        with mounted(cut, at):
            made.nothing_is_lost()
            made.comes_home()


# -- the state file


def deleting(made: World, s3: S3) -> str:
    """confirm-delete of whatever plan the state file makes, agreed to; in this process, for it is done thousands of times."""
    chosen = settings.load({}, None, made.env, made.folder)
    try:
        with pipeline.Tools(chosen, lambda: s3, made.env) as tools:
            for _ in pipeline.confirm_delete(made.bucket, tools, lambda plan: "by a test", allow_volatile=True):
                pass
    except Failure as failure:
        return type(failure).__name__
    except (sqlite3.Error, ValueError, TypeError, LookupError, OverflowError, AssertionError) as error:
        return f"unforeseen {type(error).__name__}"  # cli.main() makes one line and exit status 1 of it
    return "deleted"


def connected(made: World, monkeypatch: pytest.MonkeyPatch) -> S3:
    for name, value in made.env.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    return S3(endpoint_url=made.oracle.url, region="us-east-1")


def flipped(made: World, count: int, seed: int, s3: S3) -> Counter[str]:
    """One bit of the state file is wrong, each time another one; what confirm-delete comes to."""
    made.oracle.announced = None  # of a damaged file others cannot see it; the bytes are compared all the same
    made.done("migrate", made.bucket)
    restore, chance = made.saved(), random.Random(seed)
    whole = made.state.read_bytes()
    assert not made.state.with_name(made.state.name + "-wal").exists()
    came: Counter[str] = Counter()
    for number in range(count):
        restore()
        body = bytearray(whole)
        # Half of them where text of rows is: much of a small file is empty space.
        while True:
            place = chance.randrange(len(body))
            if number % 2 or body[place]:
                break
        body[place] ^= 1 << chance.randrange(8)
        made.state.write_bytes(body)
        came[deleting(made, s3)] += 1
        made.nothing_is_lost()
    return came


def test_a_flipped_bit_in_the_state_file_deletes_nothing_unproved(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = flipped(small, 15, random.randrange(1 << 30), connected(small, monkeypatch))
    assert came.total() == 15


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("which", ["small", "versioned"])
def test_flipped_bits_in_the_state_file(
    request: pytest.FixtureRequest, which: str, rounds: Rounds, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: World = request.getfixturevalue(which)
    fill(made, more=20)
    seed = random.randrange(1 << 30)
    came = flipped(made, rounds(1600), seed, connected(made, monkeypatch))
    figures(f"bit flips in the state file, {which} (seed {seed}): {came.total()}, {dict(came)}, none unproved deleted")


def test_p7_an_index_that_leaves_rows_out_stops_the_deletion(small: World) -> None:
    """SQLite reads by it without a word and quick_check finds nothing; what is written beside the data would lack those
    rows. Here it is one of another bucket, which nothing that the deletion does comes upon."""
    small.server.bucket("other")
    small.server.put("other", "other//one", b"1")
    small.done("migrate", "other")
    small.done("migrate", small.bucket)
    token, restore = small.token(), small.saved()
    with sqlite3.connect(small.state) as connection:
        named = "select rootpage from sqlite_master where name = 'files_state'"
        (root,) = connection.execute(named).fetchone()
    connection.close()
    body = bytearray(small.state.read_bytes())
    place = body.index(b"other//one", (root - 1) * 4096, root * 4096)
    body[place + 1] ^= 1
    small.state.write_bytes(body)
    with sqlite3.connect(small.state) as connection:
        assert connection.execute("pragma quick_check").fetchone() == ("ok",)
    connection.close()
    ended = small.run("confirm-delete", token, small.bucket)
    assert ended.code == 1 and "is damaged" in ended.err and "nothing was deleted" in ended.err, ended
    assert len(small.server.versions(small.bucket)) == 3
    small.nothing_is_lost()
    restore()
    small.comes_home()


def test_a_cut_or_missing_state_file_deletes_nothing(small: World) -> None:
    small.done("migrate", small.bucket)
    token = small.token()
    restore, whole = small.saved(), small.state.read_bytes()
    there = len(small.server.versions(small.bucket))
    for length in (None, 0, 1, 100, 512, 4096, len(whole) // 2 // 4096 * 4096, len(whole) - 1):
        restore()
        if length is None:
            small.state.unlink()
        else:
            small.state.write_bytes(whole[:length])
        ran = small.run("confirm-delete", token, small.bucket)
        # The end of the file may be a page that nothing is in.
        assert ran.code in (1, 5) or (ran.code == 0 and length == len(whole) - 1), (length, ran.err)
        assert ran.code == 0 or len(small.server.versions(small.bucket)) == there
        small.nothing_is_lost()
    restore()
    small.comes_home()


def test_every_page_of_the_state_file_may_be_lost(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torn write leaves zeros, or an older page, in the place of one."""
    small.oracle.announced = None
    small.done("scan", small.bucket)
    older = small.state.read_bytes()
    small.done("migrate", small.bucket)
    restore, whole, s3 = small.saved(), small.state.read_bytes(), connected(small, monkeypatch)
    pages = [place for place in range(0, len(whole), 4096) if any(whole[place : place + 4096])]
    for place in random.sample(pages, min(6, len(pages))):
        for other in (bytes(4096), older[place : place + 4096]):
            restore()
            small.state.write_bytes(whole[:place] + other + whole[place + len(other) :])
            deleting(small, s3)
            small.nothing_is_lost()


def test_a_state_file_from_before_the_deletion_deletes_nothing_wrong(small: World) -> None:
    """Restored from a backup of yesterday, beside copies that are the only ones by now."""
    small.done("migrate", small.bucket)
    backup = small.state.read_bytes()
    small.done("confirm-delete", small.token(), small.bucket)
    small.state.write_bytes(backup)
    for path in small.folder.glob("state.db-*"):
        path.unlink()
    small.put("a//b", b"put under the old key")
    assert small.run("migrate", small.bucket).code == 5
    small.nothing_is_lost()
    small.run("confirm-delete", "--dry-run", small.bucket)
    small.nothing_is_lost()


def test_all_kinds_of_calls_are_reached(small: World, tmp_path: Path) -> None:
    """The gate can count: each kind of call that the loops fail is made by a migrate, and by a deletion."""
    for phase in ("migrate", "delete"):
        restore, argv = ready(small, phase)
        for at in sorted({at for _, at, _ in CALLS}):
            restore()
            assert small.run(*argv, fault=Fault(at, 1, "kill")).code == -9, (phase, at)
        restore()


def test_the_observer_can_fail(small: World) -> None:
    """What every test above rests on: a version that is nowhere is noticed, and so is a copy that is not the same."""
    small.done("migrate", small.bucket)
    small.nothing_is_lost()
    small.server.remove(small.bucket, "a//b")
    small.nothing_is_lost()
    copy = next(path for path in small.home.rglob("*") if path.is_file() and path.read_bytes() == b"aside " * 100)
    copy.write_bytes(b"aside?" * 100)
    with pytest.raises(AssertionError, match="is lost"):
        small.nothing_is_lost()
    small.ever.clear()
