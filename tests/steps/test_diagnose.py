"""What is measured is measured on the real thing, ends in time, leaves nothing behind, and asks for little."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from migrate_v2 import cli
from migrate_v2.edges.disk import vitals
from migrate_v2.steps import diagnose
from migrate_v2.tuning import Left
from tests.steps.conftest import Job


def filled(job: Job) -> None:
    for number in range(20):
        job.server.put("b", f"small/{number}", b"x" * 100)
    job.server.put("b", "large", b"y" * 3_000_000)
    job.server.put("b", "cold", b"z" * 5000, storage_class="GLACIER")
    job.server.put("b", "empty", b"")


@pytest.mark.parametrize("scanned", [True, False])
def test_the_network_is_measured_by_real_objects(job: Job, scanned: bool) -> None:
    filled(job)
    if scanned:
        job.scan()
    versions = diagnose.samples("b", job.store if scanned else None, job.s3)
    assert {"large", "small/3"} <= {v.key for v in versions} and "cold" not in {v.key for v in versions}
    began = time.monotonic()
    n = diagnose.network(versions, job.s3, seconds=0.3)
    assert time.monotonic() - began < 60
    assert n.latency_seconds and n.single and n.single > 1e3 and n.throttled == 0 and n.note == ""
    assert set(n.parallel) == {8, 32} and all(n.objects.values())
    assert job.server.count("PutObject") == job.server.count("DeleteObject") == 0


def test_what_cannot_be_measured_is_said(job: Job) -> None:
    assert "no object" in diagnose.network([], job.s3).note
    filled(job)
    job.scan()
    versions = diagnose.samples("b", job.store, job.s3)
    job.server.deny("s3:GetObject", "b")
    assert "cannot be read" in diagnose.network(versions, job.s3, seconds=0.1).note


def test_being_asked_to_slow_down_is_counted_and_ends_the_trial(job: Job) -> None:
    filled(job)
    job.scan()
    versions = diagnose.samples("b", job.store, job.s3)
    job.server.fault({"op": "GetObject"}, "503")
    n = diagnose.network(versions, job.s3, seconds=0.5)
    assert n.throttled and set(n.parallel) == {8}


def test_the_destination_is_measured_and_nothing_stays(job: Job) -> None:
    before = sorted(p.name for p in job.disk.base.rglob("*"))
    old = job.disk.base / ".migrate-v2/.trial-0123456789abcdef"
    old.mkdir(parents=True)
    (old / "large").write_bytes(b"left by a kill")
    os.utime(old, (1, 1))
    d = diagnose.destination(job.disk, (1, 2), seconds=0.5, size=8 << 20)
    assert d.write > 1e5 and d.files > 1 and set(d.read_hash) == {1, 2} and min(d.read_hash.values()) > 1e5
    assert sorted(p.name for p in job.disk.base.rglob("*")) == sorted([*before, ".migrate-v2"])
    with pytest.raises(RuntimeError), job.disk.trial():
        raise RuntimeError
    assert not list((job.disk.base / ".migrate-v2").iterdir())


def test_what_is_left_is_counted_by_size(job: Job) -> None:
    filled(job)
    job.scan()
    assert (
        diagnose.left("b", job.store)
        == diagnose.left(None, job.store)
        == Left((22, 0, 1, 0, 0, 0), (7000, 0, 3_000_000, 0, 0, 0))
    )
    job.place()
    job.fetch()
    assert sum(diagnose.left("b", job.store).objects) == 1
    assert diagnose.left("b", None) == Left()


def test_the_machine_is_looked_at_without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    assert vitals().cores >= 1 and vitals().open_files >= 3 and vitals().open_files_limit > 3

    def denied(*_: object) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    assert vitals().sockets is None


def test_the_command(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose, "SECONDS", 0.2)
    for measure in (diagnose.network, diagnose.destination):
        monkeypatch.setitem(measure.__kwdefaults__, "seconds", 0.2)
    monkeypatch.chdir(tmp_path)
    job.bucket = "bbb"
    job.server.bucket("bbb")
    for number in range(10):
        job.server.put("bbb", str(number), b"x" * 1000)
    job.scan()
    (tmp_path / "migrate-v2.toml").write_text("max_concurrency = 3  # mine\n")

    def run(*arguments: str) -> tuple[int, Any, str]:
        capfd.readouterr()
        code = cli.main(["--state", str(tmp_path / "state.db"), *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    code, out, _ = run("--json", "--dest", str(job.disk.base), "diagnose", "bbb")
    document = json.loads(out)
    assert code == 0 and document["bucket"] == "bbb" and document["s3"]["latency_seconds"] > 0
    assert document["left"][0] == {"below_bytes": 131072, "objects": 10, "bytes": 10000}
    assert document["bottleneck"] and document["expected_seconds"] > 0 and document["destination"]["write"] > 0
    assert (tmp_path / "migrate-v2.toml").read_text() == "max_concurrency = 3  # mine\n"
    code, out, err = run("--dest", str(job.disk.base), "diagnose", "--write")
    assert code == 0 and "bottleneck\t" in out and "max_concurrency is set there already" in err
    text = (tmp_path / "migrate-v2.toml").read_text()
    assert text.startswith("max_concurrency = 3  # mine\n") and 'engine = "native"  # advised by diagnose' in text
    assert run("config")[0] == 0
    code, out, _ = run("diagnose")
    assert code == 0 and "not measured" in out


def test_without_state_file_bucket_or_destination(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--json", "diagnose"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["bottleneck"] == "unknown" and document["machine"]["cores"] >= 1
    assert list(tmp_path.iterdir()) == []


def test_diagnose_leaves_the_speed_of_the_line_to_plan(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(diagnose.network.__kwdefaults__, "seconds", 0.2)
    monkeypatch.chdir(tmp_path)
    for bucket, size in (("small", 1000), ("large", 3 << 20)):
        job.bucket = bucket
        job.server.bucket(bucket)
        job.server.put(bucket, "k", b"x" * size)
        job.scan()

    def plan() -> dict[str, Any]:
        capfd.readouterr()
        assert cli.main(["--state", str(tmp_path / "state.db"), "--json", "plan", "large"]) == 0
        told: dict[str, Any] = json.loads(capfd.readouterr().out)
        return told["time"]

    assert plan()["throughput_bytes_per_second"] is None
    for bucket, known in (("small", False), ("large", True)):
        assert cli.main(["--state", str(tmp_path / "state.db"), "--json", "diagnose", bucket]) == 0
        s3 = json.loads(capfd.readouterr().out.splitlines()[-1])["s3"]
        speed = plan()["throughput_bytes_per_second"]
        assert (speed is not None) is known
        if known:
            assert speed == pytest.approx(max(s3["single"], *s3["parallel"].values()), rel=0.001)
