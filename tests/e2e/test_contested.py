"""What comes wrong again and again, or is lost again and again, costs a few downloads and not some every hour."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import query
from tests.e2e.world import World, Zygote, world

HOURS = 5


@pytest.fixture
def made(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote) as one:
        yield one


def gets(made: World) -> int:
    return made.server.count("GetObject", bucket=made.bucket)


def rows(made: World) -> list[tuple[object, ...]]:
    return query(made.state, "SELECT key, state, cause FROM files ORDER BY key")


def quarantined(made: World) -> list[Path]:
    return list((made.home / ".migrate-v2/bucket/quarantine").glob("*"))


# Without a checksum the program takes what came twice the same, and verification finds that it is wrong.
@pytest.mark.parametrize(("checksums", "most"), [((), 6), (("CRC64NVME",), 18)])
def test_wrong_downloads_end_although_migrate_runs_every_hour(made: World, checksums: Sequence[str], most: int) -> None:
    made.put("wrong", b"what S3 has", checksums=checksums)
    made.put("right", b"and this one comes right")
    made.server.fault({"op": "GetObject", "key": "wrong"}, "flip")
    codes = [made.run("migrate", made.bucket).code for _ in range(HOURS)]
    assert codes[-1] == 1 and set(codes) <= {1, 4}
    assert rows(made) == [("right", "verified", None), ("wrong", "error", "contested")]
    served = gets(made)
    assert served <= most + 1
    for _ in range(HOURS):
        assert made.run("migrate", made.bucket).code == 1
    assert gets(made) == served
    assert len(quarantined(made)) <= 1
    listed = json.loads(made.done("errors", "--cause=contested", "--json", made.bucket).out)
    assert [(group["cause"], group["objects"]) for group in listed["causes"]] == [("contested", 1)]
    made.server.calm()
    made.done("retry-errors", "--cause=contested", made.bucket)
    made.comes_home()


def test_verified_copy_that_is_removed_twice_waits_for_the_operator(made: World) -> None:
    """As a virus scanner does."""
    made.put("k", b"looks like a virus")
    for _ in range(HOURS):
        made.run("migrate", made.bucket)
        (made.home / "bucket/k").unlink(missing_ok=True)
        made.run("verify", made.bucket)
    assert gets(made) == 2 and rows(made) == [("k", "error", "contested")]
    assert made.run("migrate", made.bucket).code == 1 and gets(made) == 2
    made.done("retry-errors", made.bucket)
    made.done("migrate", made.bucket)
    assert rows(made) == [("k", "verified", None)]


def test_full_quarantine_stops_fetching_and_removes_nothing(made: World) -> None:
    bodies = {f"files/{n}": b"from S3 %d" % n * 100 for n in range(6)}
    for key, body in bodies.items():
        made.put(key, body)
        (made.home / "bucket" / key).parent.mkdir(parents=True, exist_ok=True)
        (made.home / "bucket" / key).write_bytes(b"somebody's own " * 100)
    made.home.chmod(0o700)
    tight = {"MIGRATE_V2_MAX_QUARANTINE": "5KB", "MIGRATE_V2_DB_BATCH_COMMIT_SIZE": "1"}
    ended = made.run("migrate", made.bucket, env=tight)
    assert ended.code == 1
    held = quarantined(made)
    assert sum(path.stat().st_size for path in held) > 5 << 10
    assert {path.read_bytes() for path in held} == {b"somebody's own " * 100} and len(held) == 4
    served = gets(made)
    again = made.run("migrate", made.bucket, env=tight)
    assert again.code == 1 and gets(made) == served and len(quarantined(made)) == 4
    for path in held:
        path.unlink()
    made.done("migrate", made.bucket, env=tight)
    assert {path.read_bytes() for path in quarantined(made)} == {b"somebody's own " * 100}
    for key, body in bodies.items():
        assert (made.home / "bucket" / key).read_bytes() == body
