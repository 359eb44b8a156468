"""What is archived is asked for once, fetched when it is back, and nothing sleeps for it unless it was told to."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, Run, client, fill, in_s3, ministack, phase, query, states, tree
from tests.fakes.clock import Clock, program
from tests.fakes.s3server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FROZEN = {"GLACIER": {"g/1": b"one", "g/2": b"two"}, "DEEP_ARCHIVE": {"deep/3": b"three", "deep//4": b"four"}}
AT_HAND = {"readme": b"not frozen", "g/readme": b"nor this"}
BACK = 2.2  # seconds that MiniStack takes for a restore
NAMES = {"g/1", "g/2", "deep/3", "readme", "g/readme"}  # deep//4 lies aside


def freeze(boto: S3Client, bucket: str) -> None:
    for kind, objects in FROZEN.items():
        fill(boto, bucket, objects, StorageClass=kind)
    fill(boto, bucket, AT_HAND)


def files(home: Path, bucket: str) -> set[str]:
    return {path for path, body in tree(home / bucket).items() if body is not None}


def test_without_a_terminal_nothing_waits(run: Run, home: Path, state: Path) -> None:
    """migrate goes on with what is at hand and exits 3 until all is back; an excluded bucket is left alone unless named."""
    with S3Server() as server:  # its restores take hours, and the hours are the test's
        nothing_waits(run, server, home, state)


def nothing_waits(run: Run, server: S3Server, home: Path, state: Path) -> None:
    boto, cold = client(server.url, "AKIAFAKEFAKEFAKEFAKE"), "cold-bucket"
    boto.create_bucket(Bucket=cold)
    freeze(boto, cold)
    before = in_s3(boto, cold)
    left_out = f"left-out-{cold}"
    boto.create_bucket(Bucket=left_out)
    fill(boto, left_out, {"frozen": b"yes"}, StorageClass="GLACIER")
    env: dict[str, str | None] = {
        **server.env(),
        "AWS_ENDPOINT_URL": server.url,
        "MIGRATE_V2_EXCLUDED_BUCKETS": f"{left_out},other",
    }
    ended = run("migrate", env=env)
    assert ended.returncode == 3, ended.stderr
    assert files(home, cold) == set(AT_HAND)
    assert phase(state, cold) == "glacier_wait"
    assert states(state, cold)["verified"] == 2
    assert sum(states(state, cold).get(f"glacier_{word}", 0) for word in ("restore_requested", "restoring")) == 4
    shown = json.loads(run("status", "--json").stdout)["buckets"]
    assert [one["bucket"] for one in shown] == [cold]
    assert shown[0]["glacier"] == {"to_request": 0, "restoring": 4, "restored": 0}
    assert shown[0]["storage_classes"] == {
        "GLACIER": {"objects": 2, "bytes": 6},
        "DEEP_ARCHIVE": {"objects": 2, "bytes": 9},
        "STANDARD": {"objects": 2, "bytes": 18},
    }

    ended = run("restore", left_out, env=env)
    assert ended.returncode == 3, "named, so it is taken; asked for a moment ago, so it is not back"
    assert 'ongoing-request="true"' in boto.head_object(Bucket=left_out, Key="frozen")["Restore"]
    server.advance(49 * 3600)
    assert run("glacier", left_out, env=env).returncode == 0
    assert phase(state, left_out) == "syncing"

    ended = run("migrate", env=env)
    assert ended.returncode == 0, ended.stderr
    assert files(home, cold) == NAMES
    assert states(state, cold) == {"verified": 6}
    wanted = {key: body for objects in (*FROZEN.values(), AT_HAND) for key, body in objects.items()}
    paths = query(state, "select key, local_path from files where bucket = ?", cold)
    assert {key: (home / path).read_bytes() for key, path in paths} == wanted
    assert not (home / left_out).exists()
    assert in_s3(boto, cold) == before


def test_wait_stays_until_all_is_back(run: Run, boto: S3Client, bucket: str, home: Path, state: Path) -> None:
    """No more restores at once than allowed; Deep Archive is never asked for in haste."""
    freeze(boto, bucket)
    ended = run(
        "migrate",
        "--wait",
        "--json",
        bucket,
        env={"MIGRATE_V2_MAX_GLACIER_RESTORES": "3", "MIGRATE_V2_GLACIER_RESTORE_TIER": "Expedited"},
    )
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    asked = [event["objects"] for event in events if event["event"] == "ended" and event["verb"] == "restore"]
    assert sum(asked) == 4
    assert max(asked) <= 3
    assert max(event["objects"] for event in events if event["event"] == "waiting") <= 3
    assert files(home, bucket) == NAMES
    assert states(state, bucket) == {"verified": 6}
    tiers = dict(query(state, "select key, restore_tier from files where restore_tier is not null"))
    assert tiers == {"g/1": "Expedited", "g/2": "Expedited", "deep/3": "Standard", "deep//4": "Standard"}


@pytest.mark.system
def test_a_copy_that_expires_at_the_real_server_is_asked_for_again_and_that_is_told(
    run: Run, account: str, secret: str, home: Path, state: Path, tmp_path: Path
) -> None:
    """MiniStack takes a restored copy back at its midnight; server and program live by one clock, which is set forward."""
    clock = Clock(tmp_path)
    (tmp_path / "server").mkdir()
    with ministack(tmp_path / "server", clock.env) as url:
        boto = client(url, account, secret)
        bucket = f"bucket-{account}"
        boto.create_bucket(Bucket=bucket)
        fill(boto, bucket, {"cold": b"once"}, StorageClass="GLACIER")
        fill(boto, bucket, {"warm": b"body"})
        env: dict[str, str | None] = {**clock.env, "AWS_ENDPOINT_URL": url}
        timed = partial(run, env=env, program=program(tmp_path, ROOT))
        assert timed("restore", bucket).returncode == 3
        time.sleep(BACK)
        assert timed("restore", bucket).returncode == 0
        assert states(state, bucket) == {"discovered": 2}
        clock.set(30 * 86_400)
        assert "Restore" not in boto.head_object(Bucket=bucket, Key="cold"), "it has expired there"
        first = timed("migrate", bucket)
        assert first.returncode == 3, first.stderr
        assert "1 restored copies (4 bytes) expired before they were fetched" in first.stderr
        assert files(home, bucket) == {"warm"}
        time.sleep(BACK)
        last = timed("migrate", bucket)
        assert last.returncode == 0, last.stderr
        assert (home / bucket / "cold").read_bytes() == b"once"
        assert query(state, "select requests, bytes from restores") == [(2, 8)]
