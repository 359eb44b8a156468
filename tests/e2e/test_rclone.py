"""P2: an endpoint that ignores If-Match (rclone serve s3) is good for everything but deletion."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run, bare_environment, client, end_with_parent, fill, free_port, one_by_one, tree
from tests.e2e.test_migrate import checked_by_sha256sum
from tests.fakes.oracle import Oracle, beside


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


def test_every_command_has_its_use_there(run: Run, served: str, tmp_path: Path, home: Path, state: Path) -> None:
    """Step by step, with what is large, empty, odd or changed meanwhile; and not one DELETE of an object goes out."""
    data = tmp_path / "data" / "old-disk"
    files = {
        "large.bin": random.Random(1).randbytes(9 << 20),
        "empty": b"",
        "deep/er/and deeper/ünï": b"letters",
        "plus+and%25 & <b>": b"signs",
        "-rf": b"dash",
    }
    for name, body in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(body)
    with Oracle(served, beside(home), may_go=lambda *name: False) as oracle:
        there = f"--endpoint-url={oracle.url}"
        for command in (("scan",), ("restore",), ("sync",), ("verify", "--refetch"), ("migrate",)):
            ended = run(*command, "old-disk", there)
            assert ended.returncode == 0, (command, ended.stderr)
        fill(client(served, "anybody"), "old-disk", {"sub/b.txt": b"another", "new": b"new"})
        for command in (("scan", "--rescan"), ("migrate",), ("verify", "--offline")):
            ended = run(*command, "old-disk", there)
            assert ended.returncode == 0, (command, ended.stderr)
        brought = {path: body for path, body in tree(home / "old-disk").items() if body is not None}
        assert brought == {path: body for path, body in tree(data).items() if body is not None}
        superseded = [path for path in (home / ".migrate-v2" / "old-disk" / "superseded").rglob("*") if path.is_file()]
        assert checked_by_sha256sum(home, "old-disk") == len(brought) + len(superseded) == len(brought) + 1
        before = tree(data)
        plan = json.loads(run("confirm-delete", "old-disk", "--dry-run", "--json", there).stdout)
        assert (plan["delete"]["objects"], plan["keep"]) == (len(brought), [])
        for more in ((), ("--remove-bucket", "--max-delete=1")):
            refused = run("confirm-delete", "-q", f"--confirm={plan['token']}", *more, "old-disk", there)
            assert refused.returncode == 5, refused.stderr
            line = refused.stderr.splitlines()[-1]
            assert line.startswith("old-disk: ") and "ignores If-Match on DELETE" in line
        # A canary for each of them, of a key that is not there: without the header, and with it.
        deletes = [entry for entry in oracle.passed if entry.op.startswith("Delete")]
        assert len(deletes) == 4 and all("canary" in entry.key for entry in deletes)
        assert tree(data) == before
        states, errors = one_by_one(run, [("status", "--json"), ("whoami", "--json", there)])
        assert json.loads(states.stdout)["totals"]["states"]["verified"]["objects"] == len(brought)
        assert json.loads(errors.stdout)["account"] == ""
