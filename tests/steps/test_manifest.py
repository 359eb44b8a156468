"""sha256sum accepts the list, the map leads back to the keys, and the snapshot is a state file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from migrate_v2 import __version__
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.store import Store
from migrate_v2.events import Event, Found, Noted
from migrate_v2.keys import key_of
from migrate_v2.model import FileState, Place
from migrate_v2.steps.audit import audit
from migrate_v2.steps.manifest import lacks_manifest, manifest, snapshot
from migrate_v2.steps.status import stands
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


def written(job: Job) -> list[Event]:
    held = job.store.bucket("b")
    assert held
    return list(manifest("b", job.store, job.disk, stands(held, job.store)))


def checked(job: Job) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", ".migrate-v2/b/manifest-sha256.txt"],
        cwd=job.disk.base,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("keys", [(), ("folder/",), ("unprovable//key",)])
def test_sha256sum_accepts_what_lists_no_object(job: Job, keys: tuple[str, ...]) -> None:
    for key in keys:
        body, etag = (b"", "md5") if key.endswith("/") else (b"x", "kms")
        job.server.put("b", key, body, etag=etag, checksums=())  # type: ignore[arg-type]
    job.bring()
    (told,) = written(job)
    assert isinstance(told, Noted) and told.text.endswith("lists 0 files")
    ended = checked(job)
    assert (ended.returncode, ended.stderr) == (0, "")
    (job.disk.base / ".migrate-v2/b/evidence.jsonl").unlink()
    with Disk.open(job.disk.base, create=False, writes=False) as disk:
        assert [event for event in audit("b", disk, threads=1) if isinstance(event, Found)] == []


def test_sha256sum_accepts_every_line_and_sees_every_flip(job: Job) -> None:
    migrated(job)
    (told,) = written(job)
    proved = [r for r in job.rows() if r.state is FileState.VERIFIED and r.place is not Place.FOLDER]
    assert len(proved) == len(ODD) + 2
    assert isinstance(told, Noted) and told.text.endswith(f"lists {len(proved)} files")
    lines = (job.disk.base / ".migrate-v2/b/manifest-sha256.txt").read_text("utf-8").split("\n")
    assert len(lines) == len(proved) + 1
    ended = checked(job)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    # As sha256sum itself would have written it.
    paths = [row.path for row in proved]
    as_coreutils = subprocess.run(
        ["sha256sum", "--", *paths], cwd=job.disk.base, capture_output=True, check=True
    ).stdout.decode()
    assert as_coreutils == "\n".join(lines)
    for key in ("new\nline", "back\\slash", "x//y", "nothing"):
        path = job.path(key)
        body = path.read_bytes()
        path.write_bytes(body + b"!")
        assert checked(job).returncode == 1, key
        path.write_bytes(body)


def test_paths_are_relative_to_the_base_whatever_it_is_called_later(job: Job, tmp_path: Path) -> None:
    migrated(job)
    written(job)
    shutil.copytree(job.disk.base, tmp_path / "moved")
    shutil.rmtree(job.disk.base / "b")
    assert checked(job).returncode == 1
    moved = subprocess.run(
        ["sha256sum", "--check", "--status", ".migrate-v2/b/manifest-sha256.txt"], cwd=tmp_path / "moved", check=False
    )
    assert moved.returncode == 0


def test_the_map_leads_back_from_every_odd_path(job: Job) -> None:
    migrated(job)
    written(job)
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


def test_what_did_not_come_is_not_in_the_map(job: Job) -> None:
    """Nor in the manifest: both list the rows that the state file says have a copy, and no other one."""
    job.server.deny("s3:GetObject*", "b", "x//denied")
    job.server.put("b", "x//denied", b"12345")
    migrated(job)
    assert {row.state for row in job.rows() if row.key == "x//denied"} == {FileState.ERROR}
    written(job)
    mapped = [json.loads(line)["key"] for line in (job.disk.base / ".migrate-v2/b/map.jsonl").read_text().splitlines()]
    assert mapped == [row.key for row in job.store.with_local_copy("b") if row.place is Place.SIDE]
    assert "x//denied" not in mapped and "x//y" in mapped


def test_what_is_not_proved_is_not_listed_and_what_is_deleted_stays(job: Job) -> None:
    migrated(job)
    written(job)
    before = (job.disk.base / ".migrate-v2/b/manifest-sha256.txt").read_bytes()
    assert b"unprovable" not in before
    job.delete()
    assert {v.key for v in job.server.versions("b")} == {"unprovable"}
    written(job)
    assert (job.disk.base / ".migrate-v2/b/manifest-sha256.txt").read_bytes() == before
    assert checked(job).returncode == 0


def test_an_object_put_anew_under_a_deleted_key_is_listed_beside_it(job: Job) -> None:
    for body in (b"first", b"second"):
        job.server.put("b", "x//y", body)
        job.bring()
        job.delete()
    written(job)
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
    with Store.open(folder / "state.db", job.store._key) as kept:
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
    with Store.open(folder / "state.db", job.store._key) as kept:
        assert list(kept.rows("b", "1")) == job.rows()


def evidence(job: Job) -> list[dict[str, Any]]:
    text = (job.disk.base / ".migrate-v2/b/evidence.jsonl").read_text("ascii")
    return [json.loads(line) for line in text.splitlines()]


def test_the_evidence_has_a_line_for_every_row_whatever_became_of_it(job: Job) -> None:
    migrated(job)
    job.server.deny("s3:GetObjectVersion", "b", "denied")
    job.server.put("b", "denied", b"12345")
    job.run = "20201112T131415Z-00000000"
    job.bring()
    assert lacks_manifest("b", job.disk)
    written(job)
    assert not lacks_manifest("b", job.disk)
    said = evidence(job)
    assert [(e["key"], e["version_id"]) for e in said] == [(r.key, r.version.version_id) for r in job.rows()]
    for entry, row in zip(said, job.rows(), strict=True):
        v = row.version
        assert (entry["path"], entry["place"], entry["size"], entry["etag"]) == (row.path, row.place, v.size, v.etag)
        assert datetime.fromisoformat(entry["last_modified"]) == v.last_modified
        assert (entry["state"], entry["verdict"], entry["reason"]) == (row.state, row.verdict, row.reason)
        assert entry["sha256"] == row.sha256
        assert [(w["kind"], w["value"], w["bits"]) for w in entry["witnesses"]] == [
            (w.kind, w.value, w.bits) for w in row.witnesses
        ]
    by_key = {entry["key"]: entry for entry in said}
    assert by_key["unprovable"]["verdict"] == "unprovable" and by_key["unprovable"]["sha256"]
    assert (by_key["denied"]["state"], by_key["denied"]["sha256"], by_key["denied"]["verified_at"]) == ("error", "", "")
    assert "denied" in by_key["denied"]["reason"]
    assert by_key["nothing"]["verified_at"] == "", "a run of another name tells no time"
    job.verify_again("20201112T131415Z-00000000")
    written(job)
    assert {e["verified_at"] for e in evidence(job) if e["sha256"]} == {"2020-11-12T13:14:15+00:00"}
    job.delete()
    written(job)
    assert len(evidence(job)) == len(said) and {e["state"] for e in evidence(job)} >= {"deleted", "error", "downloaded"}
    assert [e["key"] for e in evidence(job)] == [e["key"] for e in said]


def test_ten_thousand_parts_are_one_pair(job: Job) -> None:
    job.server.put("b", "parts", bytes(10_000), checksums=(), parts=(1,) * 10_000)
    job.bring()
    written(job)
    (entry,) = evidence(job)
    assert entry["witnesses"][0]["parts"] == [[1, 10_000]]


@pytest.mark.parametrize("name", ["manifest-sha256.txt", "evidence.jsonl", "summary.json"])
def test_any_of_the_lists_may_be_lacking(job: Job, name: str) -> None:
    job.scan()
    written(job)
    assert not lacks_manifest("b", job.disk)
    (job.disk.base / ".migrate-v2/b" / name).unlink()
    assert lacks_manifest("b", job.disk)


def test_the_summary_says_whose_bucket_it_was_and_what_proved_it(job: Job) -> None:
    migrated(job)
    written(job)
    said = json.loads((job.disk.base / ".migrate-v2/b/summary.json").read_text("ascii"))
    held = job.store.bucket("b")
    assert held
    assert {name: said[name] for name in ("bucket", "account", "endpoint", "region", "versioning", "scanned_at")} == {
        "bucket": "b",
        "account": "111122223333",
        "endpoint": job.server.url,
        "region": "us-east-1",
        "versioning": "Enabled",
        "scanned_at": held.scanned_at,
    }
    assert said["migrate_v2"] == __version__
    proved = [row for row in job.rows() if row.state is FileState.VERIFIED]
    assert sum(kind["objects"] for kind in said["evidence"].values()) == len(proved)
    assert sum(kind["bytes"] for kind in said["evidence"].values()) == sum(row.version.size for row in proved)
    assert said["evidence"]["empty"] == {"objects": 2, "bytes": 0}
    assert said["unprovable"] == {"objects": 1, "bytes": 1}
