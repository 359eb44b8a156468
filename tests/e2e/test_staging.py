"""P4: no process of the AWS CLI can reach a file that the program did not make for it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.test_faults import world
from tests.e2e.world import World
from tests.fakes.forks import Fault, Zygote

FAKE = Path(__file__).parent.parent / "fakes" / "aws_sync.py"
REAL = Path(sys.executable).parent / "aws"
HARMLESS = ("a", "photos/photo.jpg", *(f"d/{n}" for n in range(8)))


@pytest.fixture
def made(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote) as made:
        yield made


def with_cli(made: World, mode: str) -> None:
    """The `aws` of this world is tests/fakes/aws_sync.py in this mode from now on."""
    path = made.folder / "aws"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -E -S {FAKE} {mode} "$@"\n')


def facts(folder: Path) -> dict[str, tuple[object, ...]]:
    """Of each file below it: everything by which a copy is recognised, and its bytes."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            there = path.lstat()
            identity = there.st_ino, there.st_nlink, there.st_mtime_ns, there.st_ctime_ns
            found[str(path.relative_to(folder))] = (*identity, path.read_bytes())
    return found


def gets(made: World) -> Counter[str]:
    return Counter(entry.key for entry in made.server.requests if entry.op == "GetObject")


def states(made: World) -> Counter[str]:
    with closing(sqlite3.connect(made.state)) as connection:
        return Counter(state for (state,) in connection.execute("SELECT state FROM files"))


def staging(made: World) -> Path:
    return made.home / ".migrate-v2" / made.bucket / "incoming"


@pytest.mark.parametrize("engine", ["cli", "native"])
def test_migrate_leaves_verified_copies_and_files_of_others_unchanged(made: World, engine: str) -> None:
    """Also where an object was overwritten between our listing and the CLI's own."""
    for key in HARMLESS:
        made.put(key, key.encode())
    made.done("migrate", made.bucket)
    live = made.home / made.bucket
    for name in ("photos/photo.jpg.a1b2c3d4", "a.0123aBcD", ".mv2-0123456789abcdef", "d/notes"):
        (live / name).write_bytes(b"of the operator")
    before = facts(live)
    assert before.keys() >= set(HARMLESS)

    for n in range(4):
        made.put(f"d/new {n}", b"new")
    made.done("scan", "--rescan", made.bucket)
    with_cli(made, "harm")

    def after_our_listing(_: object) -> None:
        made.put("d/3", b"other bytes")
        made.put("d/4", b"D/4")
        made.put("d/unasked", b"unasked")

    made.server.fault({"op": ("ListObjectsV2", "GetObject")}, after_our_listing, times=1)
    made.done("migrate", "--engine", engine, made.bucket)
    after = facts(live)
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {f"d/new {n}" for n in range(4)}
    assert states(made) == {"verified": len(HARMLESS) + 4}
    assert not staging(made).exists()
    made.nothing_is_lost()
    made.done("verify", "--offline", made.bucket)


def test_migrate_removes_no_file_that_looks_temporary(made: World) -> None:
    """B7: the operator's own `photo.jpg.a1b2c3d4` beside `photo.jpg`."""
    made.put("photo.jpg", b"photo")
    made.done("scan", made.bucket)
    live = made.home / made.bucket
    live.mkdir(parents=True)
    made.home.chmod(0o700)
    names = ("photo.jpg.a1b2c3d4", "photo.jpg.0123aBcD", ".mv2-0123456789abcdef")
    for name in names:
        (live / name).write_bytes(b"of the operator")
    before = facts(live)
    with_cli(made, "fetch")
    made.done("migrate", made.bucket)
    after = facts(live)
    assert {name: after[name] for name in names} == before and after["photo.jpg"][-1] == b"photo"


@pytest.mark.skipif(not REAL.exists(), reason="no aws in this environment")
def test_migrate_with_the_real_cli_leaves_verified_copies_unchanged(made: World) -> None:
    for key in HARMLESS:
        made.put(key, key.encode())
    env = {"MIGRATE_V2_AWS_PATH": str(REAL)}
    made.done("migrate", made.bucket, env=env)
    assert made.server.count("ListObjectsV2") >= 1
    before = facts(made.home / made.bucket)
    made.put("d/new", b"new")
    made.done("scan", "--rescan", made.bucket)
    made.server.fault({"op": "ListObjectsV2"}, lambda _: made.put("d/3", b"other bytes"), times=1)
    made.done("migrate", made.bucket, env=env)
    after = facts(made.home / made.bucket)
    assert {path: after[path] for path in before} == before and after.keys() - before.keys() == {"d/new"}
    assert not staging(made).exists()
    made.nothing_is_lost()


@pytest.mark.parametrize("engine", ["cli", "native"])
def test_migrate_replaces_nothing_where_its_own_folder_is_gone(made: World, engine: str) -> None:
    """`.migrate-v2` and the state file are removed, and some objects were overwritten since."""
    for key in HARMLESS:
        made.put(key, key.encode())
    made.done("migrate", made.bucket)
    live = made.home / made.bucket
    before = facts(live)
    shutil.rmtree(made.home / ".migrate-v2")
    for path in made.folder.glob(f"{made.state.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    made.put("d/1", b"larger than before")
    made.put("d/2", b"D/2")
    with_cli(made, "harm")
    made.done("migrate", "--engine", engine, made.bucket)
    after = facts(live)
    assert (after["d/1"][-1], after["d/2"][-1]) == (b"larger than before", b"D/2")
    # The bytes that were there before are in a file still, and it is the same file.
    everywhere = {(inode, body) for inode, *_, body in facts(made.home).values()}
    assert {(inode, body) for path, (inode, *_, body) in before.items() if path in ("d/1", "d/2")} <= everywhere
    if engine == "cli":  # what has the size and the time of the listing is judged by verify
        same = before.keys() - {"d/1", "d/2"}
        assert {path: after[path] for path in same} == {path: before[path] for path in same}
        assert all(gets(made)[path] == 1 for path in same)


@pytest.mark.parametrize("engine", ["cli", "native"])
@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("before", ["migrate", "sync"])
def test_migrate_keeps_the_bytes_of_copies_whose_keys_are_used_again(
    zygote: Zygote, tmp_path: Path, engine: str, versioning: str, before: str
) -> None:
    """Every object overwritten in S3, after it was verified or only fetched: as ransomware does."""
    with world(tmp_path, zygote, versioning=versioning) as made:
        with_cli(made, "harm")
        for key in HARMLESS:
            made.put(key, key.encode())
        made.done(before, "--engine", engine, made.bucket)
        for key in HARMLESS:
            if not versioning:
                made.server.remove(made.bucket, key)
            made.put(key, key.encode()[::-1] + b" encrypted")
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", "--engine", engine, made.bucket)
        bodies = {path.read_bytes() for path in made.home.rglob("*") if path.is_file()}
        assert {key.encode() for key in HARMLESS} <= bodies
        assert {key.encode()[::-1] + b" encrypted" for key in HARMLESS} <= bodies
        made.nothing_is_lost()


@pytest.mark.parametrize("finished", [150, 151])
def test_more_copies_than_can_be_named_are_not_fetched_again(made: World, finished: int) -> None:
    for n in range(finished):
        made.put(f"d/{n}", b"%d" % n)
    made.done("migrate", "--engine", "native", made.bucket)
    before = facts(made.home / made.bucket)
    for n in range(5):
        made.put(f"d/new {n}", b"new")
    made.done("scan", "--rescan", made.bucket)
    with_cli(made, "harm")
    made.done("migrate", made.bucket)
    assert (made.server.count("ListObjectsV2") > 0) is (finished <= 150)
    after = facts(made.home / made.bucket)
    assert {path: after[path] for path in before} == before
    assert set(gets(made).values()) == {1}
    assert states(made) == {"verified": finished + 5}


def killed_at_work(made: World) -> None:
    """Run `migrate` and kill it when its `aws` hangs."""
    hangs = staging(made).with_name("incoming.hangs")

    def at_work() -> bool:
        due = time.monotonic() + 30
        while not hangs.exists() and time.monotonic() < due:
            time.sleep(0.01)
        return hangs.exists()

    killer = threading.Thread(target=lambda: at_work() and os.kill(made.pid, signal.SIGKILL))
    killer.start()
    assert made.run("migrate", made.bucket).code == -signal.SIGKILL
    killer.join()


@pytest.mark.parametrize("mode", ["hang=0", "hang=3", "half=3", "half=9"])
def test_what_had_arrived_at_a_kill_is_not_paid_for_again(made: World, mode: str) -> None:
    for key in HARMLESS:
        made.put(key, key.encode() * 100)
    with_cli(made, mode)
    killed_at_work(made)
    arrived = {path for path in facts(staging(made)) if not path.endswith(".a1B2c3D4")}
    assert len(arrived) == int(mode[-1]) and not (made.home / made.bucket).exists()
    made.done("migrate", made.bucket)
    assert set(gets(made).values()) == {1} and gets(made).keys() == set(HARMLESS)
    assert states(made) == {"verified": len(HARMLESS)}
    assert not staging(made).exists() and set(facts(made.home / made.bucket)) == set(HARMLESS)
    made.comes_home()


@pytest.mark.parametrize("engine", ["cli", "native"])
def test_what_had_arrived_at_a_kill_is_not_paid_for_again_by_another_state_file(made: World, engine: str) -> None:
    for key in HARMLESS:
        made.put(key, key.encode() * 100)
    with_cli(made, "hang=3")
    killed_at_work(made)
    made.done("migrate", "--engine", engine, "--state", str(made.folder / "another.db"), made.bucket)
    assert set(gets(made).values()) == {1} and not staging(made).exists()


@pytest.mark.parametrize("rescan", [False, True])
def test_what_had_arrived_at_a_kill_is_kept_if_its_objects_are_deleted_in_s3(made: World, rescan: bool) -> None:
    """Nothing else has their bytes."""
    for key in HARMLESS:
        made.put(key, key.encode() * 100)
    with_cli(made, "hang=9")
    killed_at_work(made)
    for key in HARMLESS:
        made.server.remove(made.bucket, key)
    made.put("other", b"other")
    if rescan:
        made.done("scan", "--rescan", made.bucket)
    made.run("migrate", made.bucket)
    bodies = {path.read_bytes() for path in made.home.rglob("*") if path.is_file() and "incoming" not in path.parts}
    arrived = {key.encode() * 100 for key in sorted(HARMLESS)[:9]}
    assert arrived <= bodies
    assert not staging(made).exists()


@pytest.mark.parametrize("at", ["commit", "fsync"])
def test_a_kill_around_the_moves_costs_no_download(made: World, at: str) -> None:
    for key in HARMLESS:
        made.put(key, key.encode() * 100)
    made.done("scan", made.bucket)
    with_cli(made, "fetch")
    restore = made.saved()
    between = False
    for n in range(1, 60):
        restore()
        made.server.requests.clear()
        assert made.run("migrate", made.bucket, fault=Fault(at, n, "kill")).fired
        waiting = states(made)["downloading"]
        if not gets(made):
            continue
        between = between or (waiting == len(HARMLESS) and facts(made.home / made.bucket).keys() == set(HARMLESS))
        made.done("migrate", made.bucket)
        assert set(gets(made).values()) == {1} and gets(made).keys() == set(HARMLESS), n
        assert states(made) == {"verified": len(HARMLESS)} and not staging(made).exists()
        if not waiting:
            break
    assert between, "no kill came between the moves and their commit"
