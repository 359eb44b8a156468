"""Consent that is typed is given to what was shown at that terminal, however quiet the run is."""

from __future__ import annotations

import os
import pty
import select
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from migrate_v2 import policy
from tests.e2e.world import World, world
from tests.fakes.forks import Job, Zygote, as_by_the_script
from tests.fakes.s3server import S3Server


def answered(
    zygote: Zygote,
    *argv: str,
    env: Mapping[str, str],
    cwd: Path,
    answer: str,
    stderr: Path | None,
    question: str = "ype",
    limit: float = 30,
) -> tuple[int, str]:
    """Runs the program with a terminal as its standard input and types `answer` once the terminal shows a question.

    Standard error is that terminal too, or a file. Returns the exit status and what the terminal showed; where it shows
    no question within `limit` seconds the answer is typed all the same.
    """
    ours, theirs = pty.openpty()
    errors = theirs if stderr is None else os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_WRONLY)
    shown = b""
    typed = False
    until = time.monotonic() + limit
    try:
        job = Job(list(argv), as_by_the_script({**env, "TERM": "xterm", "COLUMNS": "200"}), str(cwd))
        with zygote.begin(job, (theirs, nothing, errors)) as child:
            os.close(theirs)
            while time.monotonic() < until:
                if not typed and (question.encode() in shown or time.monotonic() > until - limit + 5):
                    os.write(ours, answer.encode())
                    typed = True
                    shown += b"\n-- answered --\n"
                if select.select([ours], [], [], 0.1)[0]:
                    try:
                        shown += os.read(ours, 65536)
                    except OSError:  # the other side has closed
                        break
            return child.wait(limit), shown.decode()
    finally:
        os.close(ours)
        os.close(nothing)
        if stderr is not None:
            os.close(errors)


@pytest.fixture
def home_world(tmp_path: Path, zygote: Zygote) -> Iterator[World]:
    with world(tmp_path, zygote) as made:
        made.env["MIGRATE_V2_ENGINE"] = "native"
        made.put("a", b"1")
        made.done("migrate", made.bucket)
        yield made


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("redirected", [False, True])
def test_confirm_delete_shows_plan_and_question_at_the_terminal(
    home_world: World, zygote: Zygote, quiet: bool, redirected: bool
) -> None:
    w = home_world
    argv = (*(["-q"] if quiet else []), "confirm-delete", w.bucket)
    token = w.token().partition("=")[2]
    where = {"env": w.env, "cwd": w.folder, "stderr": w.folder / "err" if redirected else None}
    code, shown = answered(zygote, *argv, answer="other\n", **where)
    assert code == 5 and len(w.server.versions(w.bucket)) == 1
    for text in (token, w.bucket):
        assert text in shown.partition("-- answered --")[0], "the plan is shown before anything is typed"
    code, shown = answered(zygote, *argv, answer=f"{w.bucket}\n", **where)
    assert code == 0 and token in shown.partition("-- answered --")[0]
    assert w.server.versions(w.bucket) == []


@pytest.mark.parametrize("redirected", [False, True])
def test_reset_shows_what_is_forgotten_at_the_terminal(home_world: World, zygote: Zygote, redirected: bool) -> None:
    w = home_world
    where = {"env": w.env, "cwd": w.folder, "stderr": w.folder / "err" if redirected else None}
    code, shown = answered(zygote, "-q", "reset", w.bucket, answer="no\n", **where)
    assert code == 5 and w.bucket in shown.partition("-- answered --")[0]
    code, shown = answered(zygote, "-q", "reset", w.bucket, answer=f"{w.bucket}\n", **where)
    assert code == 0 and w.bucket in shown.partition("-- answered --")[0]


@pytest.mark.parametrize("redirected", [False, True])
def test_policy_freeze_shows_who_loses_what_at_the_terminal(zygote: Zygote, tmp_path: Path, redirected: bool) -> None:
    with world(tmp_path, zygote) as w:
        where = {"env": w.env, "cwd": w.folder, "stderr": w.folder / "err" if redirected else None}
        code, shown = answered(zygote, "-q", "policy", "freeze", w.bucket, answer="no\n", **where)
        assert code == 5 and "s3:PutObject" in shown.partition("-- answered --")[0]
        assert not policy.has(_policy(w.server, w.bucket), policy.FREEZE)
        code, shown = answered(zygote, "-q", "policy", "freeze", w.bucket, answer=f"{w.bucket}\n", **where)
        assert code == 0 and "s3:PutObject" in shown.partition("-- answered --")[0]
        assert policy.has(_policy(w.server, w.bucket), policy.FREEZE)


def _policy(server: S3Server, bucket: str) -> str | None:
    text = server.buckets[bucket].settings.get("policy")
    return text and text.decode()
