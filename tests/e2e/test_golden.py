"""P5, P7: nothing is left behind unseen, whatever its key, version, upload or checksum; against a server that tells the truth."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate_v2.keys import show
from tests.conftest import Run, query, sha256
from tests.fakes.s3server import S3Server
from tests.test_keys import GOLDEN

MiB = 1 << 20
KEYS = sorted({key for key in GOLDEN if key and len(key.encode("utf-8", "ignore")) <= 1024 and show(key).isprintable()})


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as s3:
        yield s3


def seed(s3: S3Server) -> dict[tuple[str, str, str], bytes]:
    """Two buckets of every kind of key, upload and checksum; the bytes by (bucket, key, version id)."""
    for bucket, versioning in (("plain-bucket", None), ("versioned-bucket", "Enabled")):
        s3.bucket(bucket, versioning=versioning)
        for number, key in enumerate(KEYS):
            body = b"" if key.endswith("/") and number % 2 else f"{number}: {show(key)}".encode()
            s3.put(bucket, key, body, metadata={"n": str(number)})
            if versioning and number % 3 == 0:
                s3.put(bucket, key, body + b", again")
        s3.put(bucket, "kinds/multipart", bytes(range(256)) * 4096 * 17, parts=[8 * MiB, 8 * MiB, MiB])
        s3.put(bucket, "kinds/odd parts", b"ab" * (9 * MiB), parts=[5 * MiB + 1, 7 * MiB, 6 * MiB - 1])
        for name in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
            s3.put(bucket, f"kinds/{name}", name.encode() * 999, checksums=(name,))
            composite = None if name == "CRC64NVME" else "COMPOSITE"
            body = (name.encode() * (2 * MiB))[: 5 * MiB + 999]
            s3.put(
                bucket,
                f"kinds/{name} in parts",
                body,
                checksums=(name,),
                checksum_type=composite,
                parts=[5 * MiB, len(body) - 5 * MiB],
            )
            s3.put(bucket, f"kinds/{name} under KMS", name.encode() * 99, checksums=(name,), etag="kms")
        s3.put(bucket, "kinds/nothing to hold it against", b"?" * 99, checksums=(), etag="kms")
    client_bytes = {}
    for bucket in ("plain-bucket", "versioned-bucket"):
        for version in s3.versions(bucket):
            client_bytes[bucket, version.key, version.version_id] = version.body
    return client_bytes


def holds(home: Path, state: Path, expected: dict[tuple[str, str, str], bytes]) -> None:
    """Every version is at the path of its row, and what is not at its plain path is in the map."""
    rows = query(state, "select bucket, key, version_id, local_path, place from files")
    assert {row[:3] for row in rows} == set(expected)
    mapped = {
        (path.parent.name, entry["key"], entry["version_id"]): entry["path"]
        for path in (home / ".migrate-v2").glob("*/map.jsonl")
        for entry in map(json.loads, path.read_text().splitlines())
    }
    for bucket, key, version_id, path, place in rows:
        copy, body = home / path, expected[bucket, key, version_id]
        if place == "folder":
            assert copy.is_dir() and body == b""
            continue
        assert copy.read_bytes() == body, (bucket, key)
        if place == "side":
            assert mapped[bucket, key, version_id] == path
        else:
            assert path == f"{bucket}/{key}"


def test_the_golden_list_comes_home_and_is_proved(run: Run, server: S3Server, home: Path, state: Path) -> None:
    expected = seed(server)
    assert len(KEYS) >= 40
    env: dict[str, str | None] = {**server.env(), "AWS_ENDPOINT_URL": server.url}
    first = run("migrate", env=env, timeout=200)
    assert first.returncode == 0, first.stderr
    holds(home, state, expected)
    assert not (home.parent / "evil").exists()
    status = json.loads(run("status", "--json", env=env).stdout)
    for told in status["buckets"]:
        parts = [told[part] for part in ("verified", "unprovable", "kept", "failed", "deleted", "pending")]
        assert (sum(p["objects"] for p in parts), sum(p["bytes"] for p in parts)) == (told["objects"], told["bytes"])
        # CRC32 and CRC32C alone are 32 bits, and an ETag under KMS is no digest.
        assert (told["phase"], told["unprovable"]["objects"], told["failed"]["objects"]) == ("deleting", 3, 0)
    for bucket in ("plain-bucket", "versioned-bucket"):
        manifest = f".migrate-v2/{bucket}/manifest-sha256.txt"
        checked = subprocess.run(["sha256sum", "--quiet", "-c", manifest], cwd=home, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    # What S3 has no word for is read a second time.
    refetched = run("verify", "--refetch", env=env, timeout=200)
    assert refetched.returncode == 0, refetched.stderr
    assert query(state, "select count(*) from files where verdict is not 'match'") == [(0,)]
    gets = server.count("GetObject")
    second = run("migrate", env=env, timeout=100)
    assert (second.returncode, server.count("GetObject")) == (0, gets), second.stderr
    # A bit flipped, a file gone: told, and mended by the next run.
    rotten, gone = home / "plain-bucket/kinds/multipart", home / "versioned-bucket/kinds/SHA256"
    bytes_ = bytearray(rotten.read_bytes())
    bytes_[12_345_678] ^= 4
    rotten.write_bytes(bytes_)
    gone.unlink()
    assert run("verify", env=env, timeout=100).returncode == 4
    assert run("migrate", env=env, timeout=100).returncode == 0
    holds(home, state, expected)
    assert sha256(rotten.read_bytes()) == sha256(expected["plain-bucket", "kinds/multipart", "null"])
