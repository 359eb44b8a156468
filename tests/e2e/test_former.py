"""What becomes of a local copy when its object is not the current one any more, through the whole program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import query
from tests.e2e.world import World, Zygote, world
from tests.fakes.forks import Fault
from tests.steps.test_scan import put_marker


@pytest.fixture
def versioned(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """Two verified objects; above one of them a newer version was put since, above the other a delete marker."""
    with world(tmp_path, zygote, versioning="Enabled") as made:
        made.put("a/newer", b"the first")
        made.put("a/marked", b"the marked")
        made.done("migrate", made.bucket)
        made.put("a/newer", b"the second")
        put_marker(made.server, made.bucket, "a/marked")
        made.server.requests.clear()
        yield made


def gets(made: World) -> int:
    return made.server.count("GetObject", bucket=made.bucket)


def copies(made: World) -> dict[str, tuple[str, str]]:
    """By content: state and path, of every row with a local copy."""
    rows = query(made.state, "SELECT local_path, state FROM files WHERE local_path IS NOT NULL")
    return {(made.home / path).read_text(): (state, path) for path, state in rows}


def test_former_versions_stay_verified_without_a_download(versioned: World) -> None:
    versioned.done("scan", "--rescan", versioned.bucket)
    versioned.done("migrate", versioned.bucket)
    assert gets(versioned) == 1
    assert {body: state for body, (state, _) in copies(versioned).items()} == {
        "the first": "verified",
        "the marked": "verified",
        "the second": "verified",
    }
    assert copies(versioned)["the second"][1] == "bucket/a/newer"
    assert not (versioned.home / "bucket/a/marked").exists()
    versioned.done("verify", "--offline", versioned.bucket)
    assert not (versioned.home / ".migrate-v2/bucket/quarantine").exists()
    versioned.comes_home()


def test_lists_beside_the_data_follow_a_copy_although_nothing_is_fetched(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        made.put("k", b"body")
        made.done("migrate", made.bucket)
        put_marker(made.server, made.bucket, "k")
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", made.bucket)
        assert gets(made) == 1
        lines = (made.home / ".migrate-v2/bucket/evidence.jsonl").read_text().splitlines()
        (path,) = [json.loads(line)["path"] for line in lines]
        assert path.startswith(".migrate-v2/bucket/objects/") and (made.home / path).read_bytes() == b"body"
        made.done("verify", "--offline", made.bucket)


# Each step of one rename is killed in tests/steps/test_former.py; these come down at other places of the same run.
@pytest.mark.parametrize(
    ("at", "do", "numbers"), [("commit", "kill-after", range(4, 20, 4)), ("fsync", "kill", range(2, 11, 4))]
)
def test_renames_survive_a_kill(versioned: World, at: str, do: str, numbers: range) -> None:
    versioned.done("scan", "--rescan", versioned.bucket)
    restore = versioned.saved()
    for n in numbers:
        restore()
        assert versioned.run("migrate", versioned.bucket, fault=Fault(at, n, do)).fired
        versioned.nothing_is_lost()
        versioned.done("migrate", versioned.bucket)
        assert {body: state for body, (state, _) in copies(versioned).items()} == {
            "the first": "verified",
            "the marked": "verified",
            "the second": "verified",
        }, n
        assert not (versioned.home / ".migrate-v2/bucket/quarantine").exists()
    versioned.done("verify", "--offline", versioned.bucket)
    current = versioned.server.get(versioned.bucket, "a/newer")
    asked = {entry.query.get("versionId") for entry in versioned.server.requests if entry.op == "GetObject"}
    assert current and asked == {current.version_id}
