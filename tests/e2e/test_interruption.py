"""P4: whatever ends the program, at whatever moment, the next run goes on to the same result and nothing stays behind."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.conftest import Run, fill, in_s3, one_by_one, phase, query, states, tree
from tests.e2e.test_migrate import checked_by_sha256sum
from tests.e2e.world import world
from tests.fakes.forks import Begun, Job, Zygote, as_by_the_script

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def processes_about(path: Path) -> list[str]:
    """Command lines of all processes that name this path, but for zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(path) in line:
                found.append(f"{entry.name}: " + line.replace(b"\0", b" ").decode())
    return found


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    due = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < due, what
        time.sleep(0.02)


@contextmanager
def started(zygote: Zygote, *arguments: str, env: dict[str, str], cwd: Path) -> Iterator[tuple[Begun, IO[str]]]:
    """With what it says to stderr."""
    job = Job(list(arguments), as_by_the_script(env), str(cwd))
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        zygote.begin(job, (out, out, err)) as child,
    ):
        yield child, err


def verdicts(state: Path) -> list[tuple[object, ...]]:
    return query(
        state, "select key, version_id, state, verdict, reason, place, local_path, sha256 from files order by key"
    )


KILLS = 30
OF_ITS_TIME = ("lock", "summary.json")  # when it was, and by whom


def timeless(body: bytes | None) -> bytes | None:
    return body and re.sub(rb'"[a-z]+_at": "[^"]*"', b"", body)


def killed_again_and_again(
    zygote: Zygote, bucket: str, home: Path, state: Path, environment: dict[str, str], whole: float
) -> set[str]:
    """Kills half of KILLS runs, each at a random moment of the `whole` seconds that one takes; the phases it found then."""
    env = environment | {"MIGRATE_V2_LOCAL_BASE_PATH": str(home), "MIGRATE_V2_STATE_DB_PATH": str(state)}
    seen: set[str] = set()
    kills = 0
    while kills < KILLS // 2:
        with started(zygote, "migrate", bucket, env=env, cwd=state.parent) as (child, err):
            try:
                # Most kills come early: what earlier runs brought makes an early moment a late one.
                child.wait(0.01 + whole * random.random() ** 2)
            except subprocess.TimeoutExpired:
                kills += 1
                child.kill()
                child.wait()
            else:
                err.seek(0)
                assert child.returncode == 0, err.read()
        until(lambda: not processes_about(home), 60, "something is left behind")
        if state.exists() and query(state, "select 1 from sqlite_master where name = 'bucket_status'"):
            seen |= {phase for (phase,) in query(state, "select phase from bucket_status")}
        if child.returncode == 0:  # it was done before the kill: once more from the start
            shutil.rmtree(home)
            for path in state.parent.glob(f"{state.name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return seen


def test_killed_thirty_times(
    run: Run, zygote: Zygote, boto: S3Client, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """P4: SIGKILL of the program alone at random moments; then it finishes, with the same files and verdicts."""
    fill(boto, bucket, {f"folder {n % 20}/{n:04}.bin": random.Random(n).randbytes(100 + n) for n in range(230)})
    fill(boto, bucket, {f"aside//{n:02}": b"%d" % n for n in range(20)})
    before = in_s3(boto, bucket)
    reference, its_state = tmp_path / "reference", tmp_path / "reference.db"
    began = time.monotonic()
    assert run("migrate", f"--dest={reference}", f"--state={its_state}", bucket).returncode == 0
    whole = min(time.monotonic() - began, 4.0)

    # Two destinations with a state file each, at the same time.
    pairs = [(tmp_path / f"home{one}", tmp_path / f"state{one}.db") for one in "ab"]
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(lambda pair: killed_again_and_again(zygote, bucket, *pair, environment, whole), pairs))
    assert {"syncing", "verifying"} & seen[0].union(seen[1]), "no kill came while there was work"

    for ended in one_by_one(run, [("migrate", f"--dest={home}", f"--state={state}", bucket) for home, state in pairs]):
        assert ended.returncode == 0, ended.stderr
    for home, state in pairs:
        assert tree(home / bucket) == tree(reference / bucket)
        assert verdicts(state) == verdicts(its_state)
        assert states(state, bucket) == {"verified": 250}
        assert phase(state, bucket) == "deleting"
        assert checked_by_sha256sum(home, bucket) == 250
        ours, theirs = (tree(place / ".migrate-v2" / bucket) for place in (home, reference))
        assert ours.keys() == theirs.keys(), "nothing unfinished stays"
        assert [
            path for path in ours if timeless(ours[path]) != timeless(theirs[path]) and path not in OF_ITS_TIME
        ] == []
    assert in_s3(boto, bucket) == before


def test_killed_while_it_deletes(
    run: Run,
    zygote: Zygote,
    boto: S3Client,
    bucket: str,
    environment: dict[str, str],
    home: Path,
    state: Path,
    tmp_path: Path,
) -> None:
    """P3, P4: what became of deletes under way is asked of S3; no object goes without its copy and its intent."""
    objects = {f"{n:03}": random.Random(n).randbytes(50) for n in range(150)}
    fill(boto, bucket, objects)
    assert run("migrate", bucket).returncode == 0

    def token() -> str:
        ended = run("confirm-delete", "--dry-run", "--json", bucket)
        assert ended.returncode == 0, ended.stderr
        return f"--confirm={json.loads(ended.stdout)['token']}"

    first = token()
    with started(zygote, "confirm-delete", first, bucket, env=environment, cwd=tmp_path) as (child, _):
        until(lambda: len(in_s3(boto, bucket)) < len(objects), 30, "it deletes nothing")
        child.kill()
    second = token()  # by then S3 has also answered the deletes that were under way
    left = {key for key, _ in in_s3(boto, bucket)}
    assert left
    assert objects.keys() - left <= {key for (key,) in query(state, "select key from deletions")}
    assert second != first
    assert states(state, bucket) == {"verified": len(left), "deleted": len(objects) - len(left)}
    assert run("confirm-delete", second, bucket).returncode == 0
    assert in_s3(boto, bucket) == []
    assert (phase(state, bucket), states(state, bucket)) == ("complete", {"deleted": len(objects)})
    assert query(state, "select count(distinct key) from deletions where outcome like 'deleted%'") == [(len(objects),)]
    assert tree(home / bucket) == objects
    assert checked_by_sha256sum(home, bucket) == len(objects)


def test_one_at_a_time_until_ctrl_c(
    run: Run,
    zygote: Zygote,
    boto: S3Client,
    bucket: str,
    environment: dict[str, str],
    home: Path,
    state: Path,
    tmp_path: Path,
) -> None:
    """A second process on the bucket exits 6, by the state file's lock or the destination's; Ctrl-C exits 130 soon."""
    objects = {"small": b"1", "large": os.urandom(12 << 20)}
    fill(boto, bucket, objects)
    slow = environment | {"MIGRATE_V2_MAX_BANDWIDTH": "64KB/s"}
    with started(zygote, "migrate", bucket, env=slow, cwd=tmp_path) as (child, err):
        until(lambda: any(home.glob(f".migrate-v2/{bucket}/incoming/*")), 30, "nothing came down")
        assert processes_about(home), "the transfer is a process of its own"
        *others, status = one_by_one(
            run,
            [
                ("migrate", bucket),
                ("scan", "--rescan", bucket),
                ("confirm-delete", "--dry-run", bucket),
                ("migrate", f"--state={tmp_path / 'other.db'}", bucket),
                ("status", bucket),
            ],
        )
        for ended in others:
            assert ended.returncode == 6, (ended.args, ended.stderr)
            assert bucket in ended.stderr
        assert status.returncode == 0, "a look is always allowed"
        assert states(state, bucket) == {"downloading": 2}
        child.send_signal(signal.SIGINT)
        assert child.wait(40) == 130, "the transfer would take three minutes"
        err.seek(0)
        said = err.read()
        assert "Traceback" not in said
        assert "run the same command again" in said
    assert not processes_about(home)
    ended = run("migrate", bucket)
    assert ended.returncode == 0, ended.stderr
    assert tree(home / bucket) == objects


def test_list_cut_off_by_a_kill_leaves_no_temporary_file(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote) as made:
        made.put("a", b"bytes")
        made.done("migrate", made.bucket)
        own = made.home / ".migrate-v2" / made.bucket
        (own / "summary.json").unlink()
        left = own / ".mv2-0123456789abcdef"
        left.write_text("half a list")
        made.done("migrate", made.bucket)
        assert not left.exists()
        made.comes_home()
