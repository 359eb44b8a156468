"""P7: years later a destination is checked with nothing but itself: no AWS, no state file, no network, nothing written.
And what S3 gives no checksum of is proved by reading it twice.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import Run, fill, identities, states, tree
from tests.fakes.s3server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ALONE: dict[str, str | None] = {
    "AWS_ACCESS_KEY_ID": None,
    "AWS_SECRET_ACCESS_KEY": None,
    "AWS_DEFAULT_REGION": None,
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # whoever asks here has no answer
    "MIGRATE_V2_LOCAL_BASE_PATH": None,
    "MIGRATE_V2_STATE_DB_PATH": None,
}


def test_a_destination_is_checked_by_itself_alone(
    run: Run, boto: S3Client, bucket: str, home: Path, state: Path, tmp_path: Path
) -> None:
    bodies = {"a": b"one", "a/b": b"two", "x//y": b"three", "big": os.urandom(3 << 20), "folder/": b"", "empty": b""}
    fill(boto, bucket, bodies)
    ended = run("migrate", bucket)
    assert ended.returncode == 0, ended.stderr
    ended = run("verify", "--refetch", bucket)  # nothing is left for it, and the evidence is written anew
    assert ended.returncode == 0, ended.stderr
    summary = json.loads((home / ".migrate-v2" / bucket / "summary.json").read_text())
    size = sum(map(len, bodies.values()))
    assert summary["listed"] == summary["verified"] == {"objects": len(bodies), "bytes": size}

    kept = tmp_path / "years" / "later"
    kept.parent.mkdir()
    home.rename(kept)
    for path in tmp_path.glob("state*"):
        path.unlink() if path.is_file() else path.rename(tmp_path / "years" / path.name)
    before = identities(kept), sorted(tree(kept))

    def offline(*more: str) -> tuple[int, str]:
        # From within the destination: what is written to the working folder would be seen.
        ended = run("verify", "--offline", "--dest", kept, "--json", *more, env=ALONE, cwd=kept)
        assert (identities(kept), sorted(tree(kept))) == before
        assert list(tmp_path.glob("state*")) == []
        return ended.returncode, ended.stdout + ended.stderr

    for names in ((), (bucket,)):
        code, said = offline(*names)
        assert code == 0, said
        ends = [json.loads(line) for line in said.splitlines() if line.startswith('{"event": "ended"')]
        assert [(e["verb"], e["objects"], e["bytes"]) for e in ends] == [("audit", len(bodies), size)]
    assert offline("another-bucket")[0] == 1
    assert offline("../up")[0] == 2
    assert offline("--refetch")[0] == 2

    big = kept / bucket / "big"
    body = bytearray(big.read_bytes())
    body[2_000_000] ^= 0x10
    big.write_bytes(body)
    before = identities(kept), sorted(tree(kept))
    code, said = offline()
    assert code == 4 and "big" in said and "not what was recorded" in said
    big.unlink()
    before = identities(kept), sorted(tree(kept))
    assert offline()[0] == 4
    assert run("verify", "--offline", "--dest", tmp_path / "nowhere", env=ALONE).returncode == 1
    assert run("verify", "--offline", "--dest", tmp_path / "years", env=ALONE).returncode == 1
    assert not (tmp_path / "nowhere").exists()


def test_what_has_no_checksum_is_read_twice_and_then_may_go(run: Run, home: Path, state: Path) -> None:
    with S3Server() as server:
        server.bucket("secrets")
        env: dict[str, str | None] = dict(server.env())
        for key in ("one", "x//y"):
            server.put("secrets", key, key.encode() * 1000, etag="kms", checksums=())
        server.put("secrets", "plain", b"plain")
        assert run("migrate", "secrets", env=env).returncode == 0
        side = home / ".migrate-v2/secrets"
        assert states(state, "secrets") == {"downloaded": 2, "verified": 1}
        plan = json.loads(run("confirm-delete", "--dry-run", "--json", "secrets", env=env).stdout)
        assert (plan["delete"]["objects"], plan["kept"]["objects"], plan["listed"]["objects"]) == (1, 2, 3)

        ended = run("verify", "--refetch", "--json", "secrets", env=env)
        assert ended.returncode == 0, ended.stderr
        told = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [e["objects"] for e in told if e["event"] == "ended" and e["verb"] == "refetch"] == [2]
        assert not [e for e in told if e["event"] == "found"], "what is proved in the end is no finding"
        assert states(state, "secrets") == {"verified": 3}
        assert len((side / "manifest-sha256.txt").read_text().splitlines()) == 3
        assert json.loads((side / "summary.json").read_text())["evidence"]["refetch"]["objects"] == 2
        read = server.count("GetObject")
        ended = run("verify", "--refetch", "--json", "secrets", env=env)
        assert ended.returncode == 0 and server.count("GetObject") == read, "once is enough"

        plan = json.loads(run("confirm-delete", "--dry-run", "--json", "secrets", env=env).stdout)
        assert plan["evidence"]["refetch"] == 2 and plan["keep"] == []
        assert plan["listed"] == {unit: plan["delete"][unit] for unit in ("objects", "bytes")}
        ended = run("confirm-delete", f"--confirm={plan['token']}", "secrets", env=env)
        assert ended.returncode == 0, ended.stderr
        assert server.versions("secrets") == [] and server.count("GetObject") == read
        summary = json.loads((side / "summary.json").read_text())
        assert summary["deleted"] == summary["listed"] and summary["verified"]["objects"] == 0
        assert run("verify", "--offline", env=env).returncode == 0
