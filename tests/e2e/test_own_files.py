"""Files of the program's own and the contents of objects are never the same files."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import tree
from tests.e2e.world import World, world
from tests.fakes.forks import Zygote

NATIVE = {"MIGRATE_V2_ENGINE": "native"}


@pytest.fixture
def home_world(tmp_path: Path, zygote: Zygote) -> Iterator[World]:
    with world(tmp_path, zygote) as made:
        made.env |= NATIVE
        yield made


def migrated(w: World, objects: dict[str, bytes]) -> Path:
    """Brings these objects home and returns the bucket's folder."""
    for key, body in objects.items():
        w.put(key, body)
    w.done("migrate", w.bucket)
    return w.home / w.bucket


def recognisable_in(w: World, how: str) -> tuple[Path, dict[str, str]]:
    """The bucket's folder as the working folder, with the environment to run there, recognisable by one mark only."""
    folder = w.home / w.bucket
    if how == "by its marker":
        return folder, {"MIGRATE_V2_LOCAL_BASE_PATH": ""}
    if how == "by the setting":
        shutil.rmtree(w.home / ".migrate-v2")
        return folder, {}
    shutil.copytree(folder, w.folder / "elsewhere" / "copy")
    return w.folder / "elsewhere" / "copy", {}


def hostile_settings(trace: Path) -> bytes:
    return f'notify_command = "touch {trace}"\naws_path = "{trace}"\n'.encode()


@pytest.mark.parametrize("how", ["by its marker", "by the setting", "copied elsewhere"])
def test_settings_file_that_is_an_object_starts_no_program(home_world: World, how: str) -> None:
    w, trace = home_world, home_world.folder / "trace"
    migrated(w, {"migrate-v2.toml": hostile_settings(trace), "a": b"1"})
    cwd, env = recognisable_in(w, how)
    for argv in (("migrate", w.bucket), ("status",), ("config",), ("scan", "--rescan", w.bucket)):
        assert w.run(*argv, cwd=cwd, env=env).code == 5
    assert not trace.exists()


@pytest.mark.parametrize("how", ["by its marker", "by the setting"])
def test_settings_file_that_is_an_object_is_refused_also_where_it_is_named(home_world: World, how: str) -> None:
    w = home_world
    folder = migrated(w, {"migrate-v2.toml": b"batch_size = 5\n"})
    _, env = recognisable_in(w, how)
    named = str(folder / "migrate-v2.toml")
    assert w.run("config", f"--config={named}", env=env).code == 5
    assert w.run("config", env=env | {"MIGRATE_V2_CONFIG": named}).code == 5


def forged(w: World) -> dict[str, bytes]:
    """A state file of this bucket and the key that seals it, as whoever may write to the bucket could make them."""
    state = w.folder / "other" / "s3_migration_state.db"
    state.parent.mkdir()
    w.done("migrate", w.bucket, env={"MIGRATE_V2_STATE_DB_PATH": str(state)})
    with sqlite3.connect(state) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return {state.name: state.read_bytes(), f"{state.name}.key": Path(f"{state}.key").read_bytes()}


@pytest.mark.parametrize("how", ["by its marker", "by the setting", "copied elsewhere"])
def test_state_file_that_is_an_object_is_not_opened(home_world: World, how: str) -> None:
    w = home_world
    w.put("a", b"1")
    objects = forged(w)
    folder = migrated(w, objects)
    assert {name: (folder / name).read_bytes() for name in objects} == objects
    cwd, env = recognisable_in(w, how)
    before = tree(cwd)
    for argv in (("status", w.bucket), ("confirm-delete", "--dry-run", w.bucket), ("check-state",)):
        assert w.run(*argv, cwd=cwd, env={**env, "MIGRATE_V2_STATE_DB_PATH": ""}).code == 5
    assert tree(cwd) == before, "nothing is written beside the objects"
    assert len(w.server.versions(w.bucket)) == 3


def test_state_file_of_the_working_folder_goes_on_where_it_was_made(home_world: World) -> None:
    w = home_world
    w.put("a", b"1")
    work = w.folder / "work"
    work.mkdir()
    default = {"MIGRATE_V2_STATE_DB_PATH": ""}
    w.done("migrate", w.bucket, cwd=work, env=default)
    w.done("status", w.bucket, cwd=work, env=default)
    moved = w.folder / "moved"
    work.rename(moved)
    w.done("status", w.bucket, cwd=moved, env=default)
    copied = w.folder / "copied"
    shutil.copytree(moved, copied)
    assert w.run("status", w.bucket, cwd=copied, env=default).code == 5
    w.done("status", "--state=s3_migration_state.db", w.bucket, cwd=copied, env=default)
    w.done("status", w.bucket, cwd=copied, env=default)


@pytest.mark.parametrize("how", ["by its marker", "by the setting"])
def test_output_folders_of_the_working_folder_are_no_buckets(tmp_path: Path, zygote: Zygote, how: str) -> None:
    """Buckets named `policies` and `manifests`, and the destination as the working folder."""
    for bucket, argv, key in (
        ("policies", ("policy", "generate", "policies"), "policies_policy.json"),
        ("manifests", ("restore", "--batch", "--manifest-only", "manifests"), "manifests-GLACIER.csv"),
    ):
        folder = tmp_path / bucket
        folder.mkdir()
        with world(folder, zygote, bucket=bucket) as w:
            w.env |= NATIVE
            copies = migrated(w, {key: b"the only copy", f"{bucket}/{key}": b"another"})
            w.put("frozen", b"x", storage_class="GLACIER")
            w.done("scan", "--rescan", bucket)
            _, env = recognisable_in(w, how)
            for cwd in (w.home, copies):
                before = tree(copies)
                assert w.run(*argv, cwd=cwd, env=env).code == 5
                assert tree(copies) == before
            if bucket == "policies":
                assert w.run("policy", "apply", "--dry-run", bucket, cwd=w.home, env=env).code == 5
            w.done("scan", "--rescan", bucket)  # the state file and its folder are where they were


@pytest.mark.parametrize("how", ["by its marker", "by the setting"])
def test_named_files_among_the_objects_are_neither_read_nor_written(home_world: World, how: str) -> None:
    w = home_world
    folder = migrated(w, {"prices.toml": b"[rates]\n", "plan.html": b"<p>", "t.json": b"{}", "old.db": b"", "a": b"1"})
    _, env = recognisable_in(w, how)
    before = tree(folder)
    named = {
        ("plan", f"--html={folder / 'plan.html'}", w.bucket): w.folder,
        ("plan", f"--html={folder / 'new.html'}", w.bucket): w.folder,
        ("plan", f"--prices={folder / 'prices.toml'}", w.bucket): w.folder,
        ("plan", w.bucket): folder,
        ("policy", "generate", f"--template={folder / 't.json'}", w.bucket): w.folder,
        ("diagnose", "--write", w.bucket): folder,
        ("upgrade-db", str(folder / "old.db")): w.folder,
        ("status", f"--state={folder / 'old.db'}"): w.folder,
        ("scan", f"--state={folder / 'new.db'}", w.bucket): w.folder,
    }
    for argv, cwd in named.items():
        assert w.run(*argv, cwd=cwd, env=env).code == 5, argv
    assert tree(folder) == before


def test_state_file_in_the_destination_itself_goes_on_with_a_warning(home_world: World) -> None:
    w = home_world
    w.put("a", b"1")
    w.home.mkdir()
    env = {"MIGRATE_V2_STATE_DB_PATH": ""}
    ended = w.done("migrate", "--json", w.bucket, cwd=w.home, env=env)
    assert "warned" in {json.loads(line)["event"] for line in ended.out.splitlines()}
    w.done("status", w.bucket, cwd=w.home, env=env)
    assert w.run("migrate", w.bucket, cwd=w.home, env={"MIGRATE_V2_STATE_DB_PATH": "state.db"}).code == 5
    assert w.run("migrate", "s3_migration_state.db.run", cwd=w.home, env=env).code == 5


def test_offline_and_status_go_on_with_the_buckets_folder_as_the_working_folder(home_world: World) -> None:
    w = home_world
    folder = migrated(w, {"a": b"1"})
    w.done("status", w.bucket, cwd=folder)
    w.done("verify", "--offline", w.bucket, cwd=folder, env={"MIGRATE_V2_STATE_DB_PATH": ""})
    w.done("config", cwd=folder, env={"MIGRATE_V2_STATE_DB_PATH": ""})
    w.done("confirm-delete", w.token(), w.bucket, cwd=folder)


def test_program_of_the_working_folder_is_not_the_aws_cli(home_world: World) -> None:
    """An object named `aws`, on a file system where every file may be run, and PATH with relative folders in it."""
    w, trace = home_world, home_world.folder / "trace"
    program = f"#!/bin/sh\ntouch {trace}\necho aws-cli/2.40.1\n".encode()
    folder = migrated(w, {"aws": program, "bin/aws": program, "a": b"1"})
    for name in ("aws", "bin/aws"):
        os.chmod(folder / name, 0o700)
    w.put("b", b"2")
    w.done("scan", "--rescan", w.bucket)
    env = {"MIGRATE_V2_ENGINE": "cli", "MIGRATE_V2_AWS_PATH": "", "PATH": f".:bin:{os.defpath}"}
    w.run("migrate", w.bucket, cwd=folder, env=env)
    assert not trace.exists()
    assert w.run("whoami", env={"MIGRATE_V2_AWS_PATH": str(folder / "aws")}).code == 5
    assert not trace.exists()


def test_modules_of_the_working_folder_are_not_imported_by_the_aws_cli(home_world: World) -> None:
    """The environment's own `aws` is `python -m awscli`, which would import from the working folder first."""
    w, trace = home_world, home_world.folder / "trace"
    module = f"open({str(trace)!r}, 'w')\n".encode()
    folder = migrated(w, {"awscli.py": module, "awscli/__init__.py": module, "colorama.py": module})
    w.put("b", b"2")
    w.done("scan", "--rescan", w.bucket)
    aws = str(Path(sys.executable).parent / "aws")
    w.done("migrate", w.bucket, cwd=folder, env={"MIGRATE_V2_ENGINE": "cli", "MIGRATE_V2_AWS_PATH": aws})
    assert (folder / "b").read_bytes() == b"2"
    assert not trace.exists()


def test_diagnose_keeps_the_evidence_of_a_bucket_named_like_a_scratch_folder(tmp_path: Path, zygote: Zygote) -> None:
    with world(tmp_path, zygote, bucket="trial-0123456789abcdef") as w:
        w.env |= NATIVE
        migrated(w, {"a": b"1"})
        evidence = w.home / ".migrate-v2" / w.bucket
        before = tree(evidence)
        assert "evidence.jsonl" in before
        os.utime(evidence, (1, 1))
        w.done("diagnose", w.bucket)
        assert tree(evidence) == before
        w.done("verify", "--offline")
