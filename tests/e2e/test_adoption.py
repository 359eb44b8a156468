"""What an older toolkit left behind is taken over: nothing outside is opened, no inode is shared unseen, no only copy lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import query
from tests.e2e.test_faults import world
from tests.e2e.world import World, Zygote
from tests.fakes.forks import Fault
from tests.fakes.oldfiles import old_file

BODY = b"0123456789" * 50


class Before:
    """What an older toolkit recorded, and where it put its copies."""

    def __init__(self, made: World) -> None:
        self.world = made
        self.rows: list[dict[str, object]] = []

    def row(self, key: str, body: bytes, path: Path, state: str = "verified") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        row = {"bucket": self.world.bucket, "key": key, "size": len(body), "state": state}
        self.rows.append({**row, "etag": hashlib.md5(body).hexdigest(), "local_path": str(path)})
        return path

    def upgrade(self) -> None:
        old_file(self.world.folder / "old/s3_migration_state.db", self.rows)
        self.world.done("upgrade-db", str(self.world.folder / "old/s3_migration_state.db"))

    def plan(self) -> dict[str, dict[str, int]]:
        ran = self.world.done("confirm-delete", "--dry-run", "--json", self.world.bucket)
        return json.loads(ran.out)  # type: ignore[no-any-return]


@pytest.fixture
def before(zygote: Zygote, tmp_path: Path) -> Iterator[Before]:
    with world(tmp_path, zygote) as made:
        (tmp_path / "old").mkdir()
        made.home.mkdir(mode=0o700)
        yield Before(made)


def test_adoption_opens_no_file_outside_of_the_destination(before: Before, tmp_path: Path) -> None:
    made = before.world
    secret = tmp_path / "x"
    for key, path in (("../../x", made.home / made.bucket / "../../x"), ("/x", secret), ("y", secret)):
        made.put(key, BODY)
        before.row(key, BODY, path)
    before.upgrade()
    made.done("migrate", made.bucket)
    assert secret.stat().st_nlink == 1
    assert query(made.state, "select state, count(*) from files group by 1") == [("verified", 3)]
    listed = (made.home / f".migrate-v2/{made.bucket}/not-adopted.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in listed) == ["../../x", "/x", "y"]


def test_copies_elsewhere_are_kept_in_s3_until_they_have_an_inode_of_their_own(before: Before, tmp_path: Path) -> None:
    made = before.world
    made.put("k", BODY)
    old = before.row("k", BODY, tmp_path / "old/downloads/k")
    old.chmod(0o644)
    os.utime(old, (1e9, 1e9))
    before.upgrade()
    made.done("migrate", made.bucket)
    assert (old.stat().st_mode & 0o777, old.stat().st_mtime) == (0o644, 1e9)
    plan = before.plan()
    assert (plan["delete"]["objects"], plan["kept"]["objects"]) == (0, 1)
    assert plan["linked"] == {"objects": 1, "bytes": len(BODY)}
    assert made.run("confirm-delete", made.token(), made.bucket).code == 5
    assert made.server.get(made.bucket, "k") is not None
    dry = made.done("confirm-delete", "--dry-run", "--json", made.bucket, env={"MIGRATE_V2_ADOPT": "copy"})
    assert json.loads(dry.out)["linked"]["objects"] == 1, "a deletion makes no copies"
    made.done("migrate", made.bucket, env={"MIGRATE_V2_ADOPT": "copy"})
    assert before.plan()["linked"] == {"objects": 0, "bytes": 0}
    made.done("confirm-delete", made.token(), made.bucket)
    old.write_bytes(b"edited in place")  # the same inode, if it is shared
    assert (made.home / made.bucket / "k").read_bytes() == BODY
    made.done("verify", "--offline", made.bucket)


@pytest.mark.parametrize("again", [False, True], ids=["key not used again", "key used again"])
def test_copies_of_objects_that_the_older_toolkit_had_just_deleted_survive(
    before: Before, tmp_path: Path, again: bool
) -> None:
    made = before.world
    for n, state in enumerate(("verified", "downloaded")):
        before.row(f"k{n}", BODY + bytes([n]), made.home / made.bucket / f"k{n}", state)
    before.row("elsewhere", b"not in the destination", tmp_path / "old/downloads/elsewhere")
    before.row("other", b"not what was recorded", made.home / made.bucket / "other")
    (made.home / made.bucket / "other").write_bytes(b"another content alltogether")
    made.put("still there", b"x")
    if again:
        for key in ("k0", "k1", "elsewhere", "other"):
            made.put(key, b"a new object under the old key")
    before.upgrade()
    for _ in range(2):
        made.run("migrate", made.bucket)
    rows = dict(
        query(made.state, "select key, state || ' ' || ifnull(verdict, '') from files where version_id = '+unknown'")
    )
    assert rows == {
        "k0": "error match",
        "k1": "error match",
        "elsewhere": "error match",
        "other": "error differs",
    }
    here = {path.read_bytes() for path in made.home.rglob("*") if path.is_file()}
    for body in (BODY + b"\0", BODY + b"\1", b"not in the destination", b"another content alltogether"):
        assert body in here
    assert (made.home / made.bucket / "k0").read_bytes() == BODY + b"\0"
    if again:
        new = query(made.state, "select key, state from files where version_id = 'null' order by key")
        assert new == [(key, "verified") for key in ("elsewhere", "k0", "k1", "other", "still there")]
    gone = json.loads(made.run("status", "--json", made.bucket).out)["buckets"][0]["gone"]
    assert gone["only_copy"]["objects"] == 3 and gone["unproved_only_copy"]["objects"] == 1


def killed_while_adopting(before: Before, tmp_path: Path, how: str, numbers: Iterable[int]) -> int:
    """Kills `migrate` at each of these commits, and finishes it; how many commits there were to be killed at."""
    made = before.world
    bodies = [BODY + bytes([n]) for n in range(3)]
    for n, body in enumerate(bodies):
        if n:
            made.put(f"k{n}", body)
        before.row(f"k{n}", body, tmp_path / f"old/downloads/k{n}")
    before.upgrade()
    again = made.saved()
    shutil.copytree(tmp_path / "old", tmp_path / "kept")
    kills = 0
    for n in numbers:
        again()
        shutil.rmtree(tmp_path / "old")
        shutil.copytree(tmp_path / "kept", tmp_path / "old")
        fetched = made.server.count("GetObject", status=200)
        fired = made.run("migrate", made.bucket, fault=Fault("commit", n, "kill"), env={"MIGRATE_V2_ADOPT": how}).fired
        kills += fired
        made.done("migrate", made.bucket, env={"MIGRATE_V2_ADOPT": how})
        assert made.server.count("GetObject", status=200) == fetched, n
        assert [(made.home / made.bucket / f"k{m}").read_bytes() for m in range(3)] == bodies, n
        assert query(made.state, "select state, verdict from files order by key") == [
            ("error", "match"), ("verified", "match"), ("verified", "match"),
        ], n  # fmt: skip
        linked = query(made.state, "select count(*) from linked_copies")[0][0]
        assert linked == sum((made.home / made.bucket / f"k{m}").stat().st_nlink > 1 for m in range(3)), n
        if not fired:
            break
    return kills


@pytest.mark.parametrize(("how", "n"), [("reflink", 14), ("move", 12)])
def test_kill_during_adoption_loses_neither_copy_nor_mark(before: Before, tmp_path: Path, how: str, n: int) -> None:
    assert killed_while_adopting(before, tmp_path, how, [n]) == 1


@pytest.mark.soak
@pytest.mark.parametrize("how", ["reflink", "copy", "move"])
def test_kill_at_any_commit_of_an_adoption_loses_nothing(before: Before, tmp_path: Path, how: str) -> None:
    assert killed_while_adopting(before, tmp_path, how, range(1, 200)) > 10


def test_recorded_copies_of_objects_overwritten_before_adoption_survive(before: Before, tmp_path: Path) -> None:
    made = before.world
    bodies = {key: BODY + key.encode() for key in ("in place", "elsewhere", "missing")}
    for key, body in bodies.items():
        folder = made.home / made.bucket if key == "in place" else tmp_path / "old/downloads"
        made.put(key, body)
        before.row(key, body, folder / key)
    (tmp_path / "old/downloads/missing").unlink()
    before.upgrade()
    made.done("scan", made.bucket)
    for key in bodies:
        made.server.put(made.bucket, key, b"a new object")
    made.done("scan", "--rescan", made.bucket)
    made.done("migrate", made.bucket)
    made.done("migrate", made.bucket)
    evidence = (made.home / f".migrate-v2/{made.bucket}/evidence.jsonl").read_text().splitlines()
    only = [entry for entry in map(json.loads, evidence) if entry["gone"]]
    assert {entry["key"]: (entry["gone"], entry["cause"]) for entry in only} == {
        "in place": ("only_copy", "superseded"),
        "elsewhere": ("only_copy", "superseded"),
    }
    for entry in only:
        assert (made.home / entry["path"]).read_bytes() == bodies[entry["key"]]
        assert entry["sha256"] == hashlib.sha256(bodies[entry["key"]]).hexdigest()
    assert query(made.state, "select state, count(*) from files where version_id = 'null' group by 1") == [
        ("verified", 3)
    ]
    assert not (made.home / f".migrate-v2/{made.bucket}/quarantine").exists()
    made.done("verify", "--offline", made.bucket)
