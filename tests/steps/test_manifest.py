"""sha256sum accepts the list, the map leads back to the keys, and the snapshot is a state file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from migrate_v2.edges.store import Store
from migrate_v2.events import Noted
from migrate_v2.keys import key_of
from migrate_v2.model import FileState, Place
from migrate_v2.steps.manifest import manifest, snapshot
from tests.steps.conftest import Job, assert_tallies

ODD = [
    *("plain", "with space", "new\nline", "back\\slash", "\\leading", "return\r", "tab\t", "\x01", "\x7f\x80"),
    *("*glob?", "[set]", "-rf", "# comment", "'quote\"", "smile \U0001f600", "e\u0301", "trailing ", " leading"),
    *("x//y", "/rooted", "dir/../up", "full/", "a/b/c", "a", "n" * 300, "\\\n\r\\n", "  two", "*binary"),
]


def migrated(job: Job) -> None:
    for key in ODD:
        job.server.put("b", key, key.encode())
    job.server.put("b", "empty/", b"")
    job.server.put("b", "nothing", b"")
    job.server.put("b", "unprovable", b"x", etag="kms", checksums=())
    job.server.bucket("b", versioning="Enabled")
    job.server.put("b", "plain", b"newer")
    job.bring()


def checked(job: Job) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", ".migrate-v2/b/manifest-sha256.txt"],
        cwd=job.disk.base,
        capture_output=True,
        text=True,
        check=False,
    )


def test_sha256sum_accepts_every_line_and_sees_every_flip(job: Job) -> None:
    migrated(job)
    (told,) = manifest("b", job.store, job.disk)
    proved = [r for r in job.rows() if r.state is FileState.VERIFIED and r.place is not Place.FOLDER]
    assert len(proved) == len(ODD) + 2
    assert isinstance(told, Noted) and told.text.endswith(f"lists {len(proved)} files")
    lines = (job.disk.base / ".migrate-v2/b/manifest-sha256.txt").read_text("utf-8").split("\n")
    assert len(lines) == len(proved) + 1
    ended = checked(job)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    # As sha256sum itself would have written it.
    paths = [row.path for row in proved]
    written = subprocess.run(
        ["sha256sum", "--", *paths], cwd=job.disk.base, capture_output=True, check=True
    ).stdout.decode()
    assert written == "\n".join(lines)
    for key in ("new\nline", "back\\slash", "x//y", "nothing"):
        path = job.path(key)
        body = path.read_bytes()
        path.write_bytes(body + b"!")
        assert checked(job).returncode == 1, key
        path.write_bytes(body)


def test_paths_are_relative_to_the_base_whatever_it_is_called_later(job: Job, tmp_path: Path) -> None:
    migrated(job)
    list(manifest("b", job.store, job.disk))
    shutil.copytree(job.disk.base, tmp_path / "moved")
    shutil.rmtree(job.disk.base / "b")
    assert checked(job).returncode == 1
    moved = subprocess.run(
        ["sha256sum", "--check", "--status", ".migrate-v2/b/manifest-sha256.txt"], cwd=tmp_path / "moved", check=False
    )
    assert moved.returncode == 0


def test_the_map_leads_back_from_every_odd_path(job: Job) -> None:
    migrated(job)
    list(manifest("b", job.store, job.disk))
    lines = (job.disk.base / ".migrate-v2/b/map.jsonl").read_text("ascii").splitlines()
    entries = [json.loads(line) for line in lines]
    assert {(e["path"], e["key"], e["version_id"]) for e in entries} == {
        (r.path, r.key, r.version.version_id) for r in job.rows() if r.place is Place.SIDE
    }
    assert {"x//y", "/rooted", "dir/../up", "full/", "a", "n" * 300, "plain"} <= {e["key"] for e in entries}
    for entry in entries:
        stored = job.server.get("b", entry["key"], entry["version_id"])
        assert stored and (job.disk.base / entry["path"]).read_bytes() == stored.body
        assert key_of(entry["path"]) == (entry["key"], entry["version_id"])


def test_what_is_not_proved_is_not_listed_and_what_is_deleted_stays(job: Job) -> None:
    migrated(job)
    list(manifest("b", job.store, job.disk))
    before = (job.disk.base / ".migrate-v2/b/manifest-sha256.txt").read_bytes()
    assert b"unprovable" not in before
    job.delete()
    assert {v.key for v in job.server.versions("b")} == {"unprovable"}
    list(manifest("b", job.store, job.disk))
    assert (job.disk.base / ".migrate-v2/b/manifest-sha256.txt").read_bytes() == before
    assert checked(job).returncode == 0


def test_an_object_put_anew_under_a_deleted_key_is_listed_beside_it(job: Job) -> None:
    for body in (b"first", b"second"):
        job.server.put("b", "x//y", body)
        job.bring()
        job.delete()
    list(manifest("b", job.store, job.disk))
    text = (job.disk.base / ".migrate-v2/b/manifest-sha256.txt").read_text()
    assert all(hashlib.sha256(body).hexdigest() in text for body in (b"first", b"second"))
    assert checked(job).returncode == 0
    entries = [json.loads(x) for x in (job.disk.base / ".migrate-v2/b/map.jsonl").read_text().splitlines()]
    assert len({e["path"] for e in entries}) == 2 and {e["key"] for e in entries} == {"x//y"}


def test_the_snapshot_is_a_state_file_of_this_bucket_alone(job: Job) -> None:
    job.server.bucket("c")
    job.server.put("c", "other", b"1")
    other = Job(job.server, job.s3, job.store, job.disk, bucket="c")
    other.bring()
    migrated(job)
    job.delete()
    for _ in range(2):  # the second replaces the first
        list(snapshot("b", job.store, job.disk))
        folder = job.disk.base / ".migrate-v2/b"
        assert sorted(p.name for p in folder.iterdir() if p.name.startswith("state")) == ["state.db"]
        assert (folder / "state.db").stat().st_mode & 0o777 == 0o600
    with Store.open(folder / "state.db") as kept:
        assert kept.buckets() == ["b"]
        assert list(kept.rows("b", "1")) == job.rows() and list(kept.rows("c", "1")) == []
        assert kept.bucket("b") == job.store.bucket("b")
        assert_tallies(kept)
        assert kept.tallies("b") == job.store.tallies("b")
        count = "SELECT count(*) FROM deletions"
        assert kept._conn.execute(count).fetchone()[0] == job.store._conn.execute(count).fetchone()[0] > 0
    # A leftover of a crash does not stand in the way.
    (folder / "state.db.new").write_bytes(b"half a snapshot")
    (folder / "state.db.new-wal").write_bytes(b"half")
    list(snapshot("b", job.store, job.disk))
    with Store.open(folder / "state.db") as kept:
        assert list(kept.rows("b", "1")) == job.rows()
