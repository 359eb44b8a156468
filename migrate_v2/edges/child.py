"""A process of our own that works for this one ends with it, knows no secret of the environment, and talks in plain values."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from migrate_v2.errors import Failure
from migrate_v2.flow import few_collections


def start(module: str, fds: Sequence[int]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Runs serve() of this module in a process that holds `fds` open; with the line to it, whose other end is mine()."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    f"from {module} import serve; serve()",
                    str(theirs.fileno()),
                    str(os.getpid()),
                ],
                pass_fds=(theirs.fileno(), *fds),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(os.environ),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise Failure(f"no worker process can be started: {error.strerror}") from error
    return process, Connection(ours.detach())


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """Without what is secret, and without what a library would read by itself: what counts comes over the line."""
    kept = {
        name: value
        for name, value in base.items()
        if not name.upper().startswith(("AWS_", "MIGRATE_V2_", "PYTHON")) and not name.upper().endswith("_PROXY")
    }
    home = str(Path(__file__).resolve().parents[2])  # an empty entry of sys.path meant the working folder
    return kept | {"PYTHONPATH": os.pathsep.join((home, *filter(None, sys.path))), "PYTHONUTF8": "1"}


def mine() -> Connection:
    """In that process, before anything else: the line to who started it."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL))  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    os.umask(0o077)
    few_collections()
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return Connection(descriptor)
