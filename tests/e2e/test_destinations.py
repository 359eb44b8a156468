"""P4 and P2: destinations inside each other, destinations that do not last, and the state file's place and copies."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate_v2 import pipeline, settings
from migrate_v2.durability import Durability
from migrate_v2.edges import store as store_module
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.mounts import UNKNOWN, Mount, mount_at
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.errors import Refused
from tests.conftest import query, states, tree
from tests.e2e.world import Ran, World, Zygote, world

NATIVE = {"MIGRATE_V2_ENGINE": "native"}


def events(ran: Ran) -> list[dict[str, object]]:
    return [json.loads(line) for line in ran.out.splitlines()]


@pytest.fixture
def made(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote) as made:
        yield made


# -- one destination inside another one


@pytest.fixture(params=["one state file", "two state files"])
def states_of(request: pytest.FixtureRequest, made: World) -> tuple[str, str]:
    """The state file of the outer and of the inner destination."""
    return str(made.state), str(made.state if request.param == "one state file" else made.folder / "other.db")


OUTER, INNER = b"of the outer bucket", b"of the inner bucket"


def two_buckets(made: World, key: str) -> None:
    """`data` has an object whose path is that of `1.jpg` of `photos`, where photos has its destination inside of data."""
    made.server.bucket("data")
    made.server.bucket("photos")
    made.server.put("data", key, OUTER)
    made.server.put("photos", "1.jpg", INNER)


def into(dest: Path, state: str) -> dict[str, str]:
    return {"MIGRATE_V2_LOCAL_BASE_PATH": str(dest), "MIGRATE_V2_STATE_DB_PATH": state, **NATIVE}


@pytest.mark.parametrize("under", ["", "deep/er"])
def test_inner_destination_is_refused_after_the_outer(made: World, states_of: tuple[str, str], under: str) -> None:
    two_buckets(made, f"{under}/photos/1.jpg".lstrip("/"))
    outer, inner = into(made.home, states_of[0]), into(made.home / "data" / under, states_of[1])
    made.done("migrate", "data", env=outer)
    before = tree(made.home)
    made.done("scan", "photos", env=inner)
    for argv in (("migrate",), ("sync",), ("confirm-delete", "--dry-run")):
        assert made.run(*argv, "photos", env=inner).code == 5, argv
    assert tree(made.home) == before
    made.done("status", "photos", env=inner)
    made.done("verify", "data", env=outer)


@pytest.mark.parametrize("under", ["", "deep/er"])
def test_outer_destination_is_refused_after_the_inner(made: World, states_of: tuple[str, str], under: str) -> None:
    two_buckets(made, f"{under}/photos/1.jpg".lstrip("/"))
    inner_folder = made.home / "data" / under
    outer, inner = into(made.home, states_of[0]), into(inner_folder, states_of[1])
    made.done("migrate", "photos", env=inner)
    assert made.run("migrate", "data", env=outer).code == 5
    assert (inner_folder / "photos/1.jpg").read_bytes() == INNER
    for argv in (("migrate", "photos"), ("verify", "photos"), ("verify", "--offline", "photos"), ("status", "photos")):
        made.done(*argv, env=inner)
    # The way out that the message names.
    inner_folder.rename(made.folder / "moved")
    made.done("migrate", "data", env=outer)
    assert (made.home / "data" / under / "photos/1.jpg").read_bytes() == OUTER
    moved = into(made.folder / "moved", states_of[1])
    made.done("verify", "photos", env=moved)
    assert (made.folder / "moved/photos/1.jpg").read_bytes() == INNER


def test_nested_destinations_of_before_are_told_and_lose_nothing(made: World) -> None:
    """Made when nothing refused them, or by moving a folder: the copies of both are verified, and neither is written to."""
    two_buckets(made, "photos/1.jpg")
    made.server.put("data", "other", OUTER)
    elsewhere = made.folder / "elsewhere"
    outer, inner = into(made.home, str(made.state)), into(elsewhere, str(made.state))
    made.done("migrate", "photos", env=inner)
    made.done("migrate", "data", env=outer)
    elsewhere.rename(made.home / "data" / "new")
    inner = into(made.home / "data" / "new", str(made.state))
    for name in ("1.jpg", "2.jpg"):
        made.server.put("data", f"new/photos/{name}", OUTER * 2)
    made.done("scan", "--rescan", "data", env=outer)
    assert made.run("migrate", "data", env=outer).code == 5  # it would write into the folder that was moved there
    assert {path.name: path.read_bytes() for path in (made.home / "data/new/photos").iterdir()} == {"1.jpg": INNER}
    assert made.run("migrate", "photos", env=inner).code == 5
    for argv in (("verify", "photos"), ("verify", "--offline", "photos"), ("status", "photos")):
        made.done(*argv, env=inner)


def test_verify_moves_nothing_where_destinations_share_a_folder(made: World) -> None:
    """The file at a copy's path may be the only copy of the other bucket's object."""
    two_buckets(made, "photos/1.jpg")
    elsewhere = made.folder / "elsewhere"
    made.done("migrate", "photos", env=into(elsewhere, str(made.state)))
    made.done("migrate", "data", env=into(made.home, str(made.state)))
    for name in ("photos", ".migrate-v2"):  # merged by hand, so that the path of both is one file: the outer's
        shutil.copytree(elsewhere / name, made.home / "data" / name, dirs_exist_ok=True)
    shutil.copyfile(elsewhere / "photos/1.jpg", made.folder / "aside")
    (made.home / "data/photos/1.jpg").write_bytes(OUTER)
    ran = made.run("verify", "photos", env=into(made.home / "data", str(made.state)))
    assert ran.code == 4, ran
    assert (made.home / "data/photos/1.jpg").read_bytes() == OUTER


def test_objects_that_look_like_a_destination_are_copies(made: World) -> None:
    """A bucket into which a destination was once uploaded: its markers are objects, and no destination."""
    for number, key in enumerate(
        (".migrate-v2/.base.json", "old/.migrate-v2/.base.json", "old/photos/1.jpg", ".migrate-v2x")
    ):
        made.put(key, b'{"id": "%032x"}' % number)
    made.done("migrate", made.bucket, env=NATIVE)
    made.done("migrate", made.bucket, env=NATIVE)
    assert states(made.state, made.bucket) == {"verified": 4}
    assert (made.home / made.bucket / ".migrate-v2x").is_file()
    assert not list((made.home / made.bucket).rglob(".base.json"))
    made.comes_home()


# -- destinations that do not last

SHM = Path("/dev/shm")
in_memory = pytest.mark.skipif(
    not os.access(SHM, os.W_OK) or mount_at(SHM).durability is not Durability.MEMORY,
    reason="/dev/shm is not tmpfs here",
)


@pytest.fixture
def volatile(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """A world whose destination is in memory, and whose runs are as they are typed."""
    with (
        tempfile.TemporaryDirectory(dir=SHM) as place,
        world(tmp_path, zygote, home=Path(place) / "home", consents=False) as made,
    ):
        made.put("a", b"1")
        yield made


@in_memory
def test_deleting_what_lies_in_memory_needs_consent(volatile: World) -> None:
    ran = volatile.done("migrate", "--json", volatile.bucket)
    told = [event for event in events(ran) if event["event"] == "warned" and str(volatile.home) in str(event)]
    assert len(told) == 1
    plan = json.loads(volatile.done("confirm-delete", "--dry-run", "--json", volatile.bucket).out)
    assert plan["destination"] == {"file_system": "tmpfs", "durability": "memory", "needs_allow_volatile": True}
    token = f"--confirm={plan['token']}"
    assert volatile.run("confirm-delete", token, volatile.bucket).code == 5
    assert len(volatile.server.versions(volatile.bucket)) == 1 and volatile.server.deletes == []
    volatile.done("confirm-delete", token, "--allow-volatile", volatile.bucket)
    assert volatile.server.versions(volatile.bucket) == []
    ((facts,),) = query(volatile.state, "select facts from ledger where entry = 'consent'")
    agreed = json.loads(facts)
    assert (agreed["allow_volatile"], agreed["durability"], agreed["file_system"]) == (True, "memory", "tmpfs")


@in_memory
def test_plan_warns_of_a_destination_in_memory(volatile: World) -> None:
    volatile.done("scan", volatile.bucket)
    assert str(volatile.home) in volatile.done("plan", volatile.bucket).err


@in_memory
def test_migrate_warns_of_a_state_file_in_memory(made: World) -> None:
    """Of a container often only the destination is mounted."""
    made.put("a", b"1")
    with tempfile.TemporaryDirectory(dir=SHM) as place:
        state = str(Path(place) / "state.db")
        ran = made.done("migrate", "--json", made.bucket, env={"MIGRATE_V2_STATE_DB_PATH": state})
        assert [event for event in events(ran) if event["event"] == "warned" and state in str(event)]


def test_a_lasting_destination_needs_no_consent(zygote: Zygote, tmp_path: Path) -> None:
    if not mount_at(tmp_path).durability.deletes_by_itself:
        pytest.skip("this machine has its tests' folders where they do not last")
    with world(tmp_path, zygote, consents=False) as made:
        made.put("a", b"1")
        made.done("migrate", made.bucket)
        plan = json.loads(made.done("confirm-delete", "--dry-run", "--json", made.bucket).out)
        assert plan["destination"]["needs_allow_volatile"] is False
        made.done("confirm-delete", f"--confirm={plan['token']}", made.bucket)


# -- a file system that does not show edits


def test_trust_recent_is_refused_where_edits_do_not_show(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made.put("a", b"1")
    made.done("migrate", made.bucket)
    for name, value in made.env.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(Disk, "notices_edits", lambda disk: False, raising=False)
    chosen = settings.load({}, None, made.env, made.folder)
    s3 = S3(endpoint_url=made.oracle.url, region="us-east-1")
    with pipeline.Tools(chosen, lambda: s3, made.env) as tools, pytest.raises(Refused):
        trust = settings.duration("--trust-recent", "1h")
        for _ in pipeline.confirm_delete(made.bucket, tools, lambda plan: "yes", trust=trust, allow_volatile=True):
            pass
    assert made.server.deletes == []


# -- where the state file is, and copies of it


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "virtiofs"])
def test_state_file_is_refused_where_wal_is_unsafe(made: World, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    made.put("a", b"1")
    made.done("migrate", made.bucket)
    monkeypatch.setattr(store_module, "mount_at", lambda path: Mount(kind, Durability.LASTING), raising=False)
    monkeypatch.setattr(pipeline, "mount_at", lambda path: Mount(kind, Durability.LASTING), raising=False)
    with pytest.raises(Refused):
        Store.open(made.state)
    # The way out that the message names works there.
    chosen = settings.load({}, None, made.env, made.folder)
    copy = made.folder / "local.db"
    assert list(pipeline.backup_state(copy, chosen))
    monkeypatch.setattr(store_module, "mount_at", lambda path: UNKNOWN)
    made.done("verify", made.bucket, env={"MIGRATE_V2_STATE_DB_PATH": str(copy)})


def test_backup_state_is_the_state_file_with_its_key(made: World) -> None:
    made.put("a", b"1")
    made.put("b", b"2")
    made.done("migrate", made.bucket)
    copy = made.folder / "saved" / "copy.db"
    copy.parent.mkdir()
    made.done("backup-state", str(copy))
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in copy.parent.iterdir()} == {
        "copy.db": 0o600,
        "copy.db.key": 0o600,
    }
    assert copy.with_name("copy.db.key").read_bytes() == made.state.with_name("state.db.key").read_bytes()
    everything = "select bucket, key, version_id, state, sha256, evidence, mac from files order by key"
    assert query(copy, everything) == query(made.state, everything)
    token = made.token()
    for path in made.folder.glob("state.db*"):  # lost, and the copy takes its place
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy.rename(made.state)
    copy.with_name("copy.db.key").rename(made.state.with_name("state.db.key"))
    made.done("confirm-delete", token, made.bucket)
    assert made.server.versions(made.bucket) == []


def test_backup_state_overwrites_nothing(made: World) -> None:
    made.put("a", b"1")
    made.done("migrate", made.bucket)
    copy = made.folder / "copy.db"
    for taken in (copy, made.folder / "copy.db.key", made.folder / "copy.db-wal"):
        taken.write_bytes(b"mine")
        assert made.run("backup-state", str(copy)).code == 5
        assert taken.read_bytes() == b"mine"
        taken.unlink()
    assert not list(made.folder.glob("*.new")) + list(made.folder.glob(".*.new"))
    assert made.run("backup-state", str(made.home / "copy.db")).code == 5
    assert made.run("backup-state", str(made.home / made.bucket / "copy.db")).code == 5
    assert made.run("backup-state", str(made.folder / "no" / "folder.db")).code == 1
    made.done("backup-state", str(copy))


def test_backup_state_during_writes_is_of_one_moment(made: World) -> None:
    """The counts that the engine keeps with each change agree with the rows of the copy."""
    for number in range(20):
        made.put(f"{number:02}", b"%d" % number)
    made.done("scan", made.bucket)
    copies = []

    def copy_now(_: object) -> None:
        copy = made.folder / f"copy{len(copies)}.db"
        copies.append(copy)
        with Store.open(made.state) as store:
            store.backup(copy)

    made.server.fault({"op": "GetObject"}, copy_now, times=3)
    made.done("migrate", made.bucket, env=NATIVE)
    assert len(copies) == 3
    for copy in copies:
        with Store.open(copy) as store:
            assert all(group.agrees for group in store.recount()) and not store.damage()
