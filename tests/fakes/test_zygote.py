"""A run that is a fork is the run that the script starts."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROGRAM, Run
from tests.fakes.forks import Job, Zygote, as_by_the_script


@pytest.mark.parametrize(
    ("arguments", "given", "env"),
    [
        (("config", "--json"), "", {"MIGRATE_V2_STATE_DB_PATH": "rel\udcff/ative.db", "MIGRATE_V2_BATCH_SIZE": "7"}),
        (("--quiet", "scan", "-"), "not a\udcffbucket\tx\n", {"TZ": "Asia/Tokyo", "PYTHONPATH": "/nowhere"}),
    ],
)
def test_it_says_what_the_script_says(
    run: Run, arguments: tuple[str, ...], given: str, env: dict[str, str | None]
) -> None:
    fork, process = [vars(run(*arguments, input=given, env=env, program=program)) for program in (None, PROGRAM)]
    assert fork == process and fork["stdout"] + fork["stderr"]


def test_two_run_at_once_and_one_can_be_ended(zygote: Zygote, environment: dict[str, str], tmp_path: Path) -> None:
    env = as_by_the_script(environment)
    with (tmp_path / "said").open("wb") as said, subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as sleep:
        assert sleep.stdout is not None
        # It waits for its standard input, which nobody closes.
        with zygote.begin(Job(["scan", "-"], env, str(tmp_path)), (sleep.stdout, said, said)) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.05)
            with (tmp_path / "config").open("wb") as config:
                job = Job(["config", "--json"], env, str(tmp_path))
                assert zygote.begin(job, (sleep.stdout, config, said)).wait(60) == 0
            assert json.loads((tmp_path / "config").read_bytes())["local_base_path"]
            assert waiting.returncode is None
            waiting.send_signal(signal.SIGTERM)
            assert waiting.wait(60) == 130
        sleep.kill()
