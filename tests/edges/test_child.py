"""A process of ours knows nothing that is not for it, and ends with the one it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from migrate_v2.edges.child import environment, start


def test_nothing_secret_and_no_proxy_in_the_environment() -> None:
    kept = environment(
        {"AWS_SECRET_ACCESS_KEY": "x", "aws_profile": "x", "https_proxy": "x", "HOME": "/h", "MIGRATE_V2_DEST": "x"}
    )
    assert "x" not in kept.values() and kept["HOME"] == "/h"


def test_it_ends_when_its_line_does() -> None:
    process, line = start("migrate_v2.edges.readers", ())
    line.close()
    assert process.wait(20) == 0


PARENT = """
import os, sys, time
from migrate_v2.edges.child import start
process, line = start("migrate_v2.edges.readers", ())
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_it_ends_with_who_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        raise AssertionError("it lives on")
