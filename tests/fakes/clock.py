"""A clock for another process that can be set while it runs: libfaketime, of the Debian package faketime."""

from __future__ import annotations

import os
import sys
from pathlib import Path

LIBRARY = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "faketime" / "libfaketimeMT.so.1"


class Clock:
    """The wall clock of the program, as an administrator would set it; the machine's uptime goes on as it does."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.set(0)
        self.env = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, seconds: float) -> None:
        """So far from the real time."""
        new = self.file.with_name("clock.new")
        new.write_text(f"{seconds:+.0f}s\n")
        new.replace(self.file)


def program(folder: Path, root: Path) -> Path:
    """migrate-v2 for such a clock: libfaketime 0.9.10 answers EINVAL to the absolute times that Python sleeps until."""
    made = folder / "migrate-v2"
    made.write_text(f"""#!{sys.executable}
import sys, threading, time
time.sleep = lambda seconds: threading.Event().wait(seconds) and None
sys.path.insert(0, {str(root)!r})
from migrate_v2 import cli
sys.exit(cli.main(sys.argv[1:]))
""")
    made.chmod(0o755)
    return made
