"""Moving from the older toolkit, as the guide has it: nothing that it brought is fetched again, and all of it is proved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import Run, fill, identities, query, states
from tests.fakes.oldfiles import old_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_from_an_old_state_file_to_proof(run: Run, boto: S3Client, bucket: str, home: Path, state: Path) -> None:
    objects = {"a": b"12345", "deep/er/b": b"x" * 10_000, "new": b"not there yet"}
    fill(boto, bucket, objects)
    rows = []
    for key, body in objects.items():
        path = home / bucket / key
        if key != "new":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        rows.append(
            {
                "bucket": bucket, "key": key, "size": len(body), "etag": hashlib.md5(body).hexdigest(),
                "state": "discovered" if key == "new" else "verified", "local_path": str(path),
            }
        )  # fmt: skip
    old = old_file(state, rows).read_bytes()
    home.chmod(0o700)
    before = {name: facts[0] for name, facts in identities(home).items()}
    refused = run("migrate", bucket)
    assert refused.returncode == 5 and "upgrade-db" in refused.stderr and state.read_bytes() == old
    upgraded = run("upgrade-db")
    assert upgraded.returncode == 0 and "3 objects" in upgraded.stderr
    assert state.with_name(state.name + ".v1").read_bytes() == old
    assert states(state, bucket) == {"downloaded": 2, "discovered": 1}
    assert json.loads(run("--json", "check-state").stdout)["agrees"]
    ended = run("migrate", bucket)
    assert ended.returncode == 0, ended.stderr
    assert "2 local copies of the older toolkit are adopted" in ended.stderr
    assert states(state, bucket) == {"verified": 3}
    after = {name: facts[0] for name, facts in identities(home).items()}
    assert {name: after[name] for name in before} == before, "fetched again, or replaced"
    assert (home / bucket / "new").read_bytes() == b"not there yet"
    assert query(state, "select count(*) from files where version_id like '%unknown%'") == [(0,)]
    again = run("migrate", bucket)
    assert again.returncode == 0 and "adopted" not in again.stderr
    assert json.loads(run("--json", "confirm-delete", "--dry-run", bucket).stdout)["delete"]["objects"] == 3
