"""The native engine brings a bucket down without any AWS CLI, and what it brings is proved like everything else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import Run, fill, identities, phase, states, tree

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OBJECTS = {
    **{f"many/d{n % 5}/{n:03}": os.urandom(n) for n in range(1, 150)},
    "日本/京都 🍁.txt": "もみじ".encode(),
    "signs/+&%?#=@:;,'\"*[]!~$()`{}|<>^ \\n.txt": b"no sign steers a shell, a pattern or a URL",
    "%41%2f..%2fescape": b"a key is not decoded twice",
    "x//y": b"aside",
    "a": b"a file",
    "a/b": b"and a folder",
    "empty": b"",
    "folder/": b"",
    "ranges": os.urandom(9 << 20),
}


def test_it_needs_no_aws_and_the_second_run_does_nothing(
    run: Run, boto: S3Client, bucket: str, home: Path, state: Path, tmp_path: Path
) -> None:
    fill(boto, bucket, OBJECTS)
    env: dict[str, str | None] = {"MIGRATE_V2_AWS_PATH": str(tmp_path / "no" / "aws"), "MIGRATE_V2_METADATA": "none"}
    ended = run("--engine", "native", "migrate", bucket, env=env)
    assert ended.returncode == 0, ended.stderr
    assert states(state, bucket) == {"verified": len(OBJECTS)} and phase(state, bucket) == "deleting"
    here = tree(home / bucket)
    for key, body in OBJECTS.items():
        if key not in ("x//y", "a", "folder/"):
            assert here[key] == body, key
    assert here["folder"] is None
    assert not list(home.rglob(".mv2-*")) and not (home / ".migrate-v2" / bucket / "partial").exists()
    before = identities(home)
    again = run("--engine", "native", "migrate", bucket, env=env)
    assert again.returncode == 0 and identities(home) == before
    assert "fetch" not in again.stderr
