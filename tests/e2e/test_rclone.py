"""P2: an endpoint that ignores If-Match (rclone serve s3) is good for everything but deletion."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run, bare_environment, end_with_parent, free_port, tree


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of an rclone that serves tmp_path/data, of which each folder is a bucket."""
    (tmp_path / "data" / "old-disk" / "sub").mkdir(parents=True)
    (tmp_path / "data/old-disk/a.txt").write_bytes(b"a")
    (tmp_path / "data/old-disk/sub/b.txt").write_bytes(b"b")
    program = next(
        path for path in (ROOT / ".venv-servers").rglob("rclone") if path.is_file() and path.stat().st_size > 1 << 20
    )
    port = free_port()
    server = subprocess.Popen(
        [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", tmp_path / "data"],
        env=bare_environment() | {"HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def test_all_of_it_works_but_deletion_is_refused(run: Run, served: str, tmp_path: Path, home: Path) -> None:
    migrated = run("migrate", "old-disk", "--endpoint-url", served)
    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stderr.count("the account is unknown") == 1
    assert (home / "old-disk/sub/b.txt").read_bytes() == b"b"
    assert run("buckets", "--endpoint-url", served).stdout.startswith("old-disk\t")
    before = tree(tmp_path / "data")
    plan = json.loads(run("confirm-delete", "old-disk", "--dry-run", "--json", "--endpoint-url", served).stdout)
    assert (plan["account"], plan["delete"]["objects"]) == ("", 2)
    refused = run("confirm-delete", "old-disk", f"--confirm={plan['token']}", "--endpoint-url", served)
    assert refused.returncode == 5
    assert refused.stderr.count("ignores If-Match on DELETE") == 1
    assert tree(tmp_path / "data") == before
