"""The program is one among others: in pipes, under make, from any folder; and what cannot be is one line and a status."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import (
    FAKES,
    PROGRAM,
    ROOT,
    Ended,
    Run,
    fill,
    free_port,
    in_s3,
    one_by_one,
    phase,
    query,
    states,
    tree,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def test_in_pipes_under_make_and_from_any_folder(
    run: Run, boto: S3Client, account: str, environment: dict[str, str], home: Path, state: Path, tmp_path: Path
) -> None:
    logs, photos = f"app-logs-{account}", f"photos-{account}"
    for bucket in (logs, photos):
        boto.create_bucket(Bucket=bucket)
        fill(boto, bucket, {"k": b"1"})
    ended = run("migrate", "-", input="")
    assert (ended.returncode, ended.stdout) == (0, ""), "nothing on stdin names nothing"
    assert not home.exists()

    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "mv2").symlink_to(os.path.relpath(PROGRAM, elsewhere))
    ended = subprocess.run(
        ["/bin/sh", "-c", "./mv2 buckets | grep logs | ./mv2 --json migrate -"],
        env=environment,
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert {json.loads(line)["bucket"] for line in ended.stdout.splitlines()} - {""} == {logs}
    assert tree(home / logs) == {"k": b"1"}
    assert not (home / photos).exists()
    assert list(elsewhere.iterdir()) == [elsewhere / "mv2"]

    def make(*arguments: str) -> Ended:
        # As in a shell of its own: what this run was started by may have been a make too.
        env = {name: value for name, value in environment.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        return subprocess.run(
            ["make", "--no-print-directory", "-C", ROOT, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    targets = ("migrate", "scan", "restore", "sync", "verify", "status")
    ended = make("--keep-going", *targets)
    assert ended.returncode == 2
    for target in targets:
        assert f"make {target} BUCKET=" in ended.stderr
    ended = make("migrate", f"BUCKET={photos}", "ARGS=--json --wait")
    assert ended.returncode == 0, ended.stderr
    assert all("event" in json.loads(line) for line in ended.stdout.splitlines())
    assert tree(home / photos) == {"k": b"1"}

    buckets, as_json, whoami, config, status, helped, version = one_by_one(
        run,
        [
            ("buckets",),
            ("buckets", "--json"),
            ("whoami", "--json"),
            ("config", "--json"),
            ("status", photos, "--json", f"--state={os.path.relpath(state, elsewhere)}"),
            ("--help",),
            ("--version",),
        ],
    )
    rows = [line.split("\t") for line in buckets.stdout.splitlines()]
    assert [row[0] for row in rows] == [logs, photos]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert [one["bucket"] for one in json.loads(as_json.stdout)["buckets"]] == [logs, photos]
    assert json.loads(whoami.stdout)["account"] == account
    assert json.loads(config.stdout)["local_base_path"]["value"] == str(home)
    assert status.returncode == 1, "a relative path is relative to the working folder"
    assert (helped.returncode, version.returncode) == (0, 0)
    assert "Exit status:" in helped.stdout


@dataclass(frozen=True)
class Bad:
    """A call that must fail, the status, and words that its one line has."""

    code: int
    words: tuple[str, ...]
    arguments: tuple[str, ...]
    env: dict[str, str | None] = field(default_factory=dict)


NO_KEYS: dict[str, str | None] = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}


def test_bad_input_is_one_line_and_the_documented_status(
    run: Run, boto: S3Client, bucket: str, endpoint: str, home: Path, state: Path, tmp_path: Path
) -> None:
    """P3, P4: no traceback, nothing lost, nothing deleted; and after all of it the bucket still comes home.

    What is wrong with a command line by itself is for tests/test_cli.py and tests/test_settings.py, all but a few.
    """
    fill(boto, bucket, {"k": b"1"})
    before = in_s3(boto, bucket)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").write_bytes(b"somebody's")
    assert run("scan", bucket).returncode == 0
    newer, foreign, garbage, linked = (tmp_path / f"{name}.db" for name in ("newer", "foreign", "garbage", "linked"))
    shutil.copy(state, newer)
    for path, sql in ((newer, "PRAGMA user_version = 99"), (foreign, "CREATE TABLE somebodys (thing)")):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(sql)
    garbage.write_bytes(os.urandom(5000))
    linked.symlink_to(state.name)
    as_they_were = {path: path.read_bytes() for path in (newer, foreign, garbage, tmp_path / "file")}
    nobody = f"http://127.0.0.1:{free_port()}"

    bad = [
        Bad(1, ("no AWS credentials",), ("migrate", bucket), NO_KEYS),
        Bad(2, ("nobody",), ("--profile=nobody", "migrate", bucket)),
        Bad(1, ("no-such-bucket-here",), ("migrate", "no-such-bucket-here")),
        Bad(1, (nobody,), (f"--endpoint-url={nobody}", f"--state={tmp_path / 'new.db'}", "scan", bucket)),
        Bad(5, ("symbolic link",), (f"--dest={tmp_path / 'link'}", "migrate", bucket)),
        Bad(5, ("everybody",), (f"--dest={tmp_path / 'open'}", "migrate", bucket)),
        Bad(1, ("Not a directory",), (f"--dest={tmp_path / 'file' / 'sub'}", "migrate", bucket)),
        Bad(2, ("--dest",), ("migrate", bucket), {"MIGRATE_V2_LOCAL_BASE_PATH": None}),
        Bad(5, ("newer",), (f"--state={newer}", "migrate", bucket)),
        Bad(5, ("not a state file",), (f"--state={foreign}", "migrate", bucket)),
        Bad(5, ("not a state file",), (f"--state={garbage}", "status")),
        Bad(5, ("symbolic link",), (f"--state={linked}", "migrate", bucket)),
        Bad(2, ("glacier_restore_days", "30000"), ("status",), {"MIGRATE_V2_GLACIER_RESTORE_DAYS": "0"}),
        Bad(2, ("frobnicate",), ("frobnicate",)),
        Bad(2, ("--confir",), ("confirm-delete", "--confir=0", bucket)),
        Bad(2, ("must be cli or native",), ("--engine", "rust", "migrate", bucket)),
        Bad(1, ("unheard-of",), ("status", "unheard-of")),
        Bad(2, ("aws_path",), ("migrate", bucket), {"MIGRATE_V2_AWS_PATH": str(tmp_path / "no" / "aws")}),
        # The same name at another endpoint is another bucket; its objects must not come over what is here.
        Bad(
            5,
            ("another state file",),
            (f"--endpoint-url={endpoint.replace('127.0.0.1', 'localhost')}", "migrate", bucket),
        ),
    ]
    ends = one_by_one(run, [call.arguments for call in bad], [call.env for call in bad])
    for call, ended in zip(bad, ends, strict=True):
        said = ended.stderr.splitlines()
        assert ended.returncode == call.code, (call, said)
        assert ended.stdout == "", call
        last = said[-1]
        assert last.startswith(("migrate-v2: ", f"{bucket}: ", "no-such-bucket-here: ")), (call, said)
        assert all(word in last for word in call.words), (call, said)
        # Beside it only the note that nobody knows the account there.
        assert [line for line in said[:-1] if "no STS" not in line] == [], (call, said)
    assert {path: path.read_bytes() for path in as_they_were} == as_they_were
    assert list((tmp_path / "real").iterdir()) == []
    assert list((tmp_path / "open").iterdir()) == []
    assert in_s3(boto, bucket) == before

    ended = run("migrate", bucket)
    assert ended.returncode == 0, ended.stderr
    assert tree(home / bucket) == {"k": b"1"}


FAKE_CLIS = {
    "aws_old": "passed over",
    "aws_liar": "",
    "aws_crashes": "the CLI ended with",
    "aws_garbage": "",
}


def test_no_cli_can_spoil_it(run: Run, boto: S3Client, account: str, home: Path, state: Path) -> None:
    """One that lies, dies, babbles or is too old: everything comes all the same, and is proved."""
    objects = {"a": b"1", "d/e": os.urandom(3000), "empty": b""}
    buckets = {fake: f"{fake.replace('_', '-')}-{account}" for fake in FAKE_CLIS}
    for bucket in buckets.values():
        boto.create_bucket(Bucket=bucket)
        fill(boto, bucket, objects)
    ends = one_by_one(
        run,
        [("migrate", bucket) for bucket in buckets.values()],
        [{"MIGRATE_V2_AWS_PATH": str(FAKES / fake)} for fake in buckets],
    )
    for (fake, words), ended in zip(FAKE_CLIS.items(), ends, strict=True):
        assert ended.returncode == 0, (fake, ended.stderr)
        assert words in ended.stderr
        files = {path: body for path, body in tree(home / buckets[fake]).items() if body is not None}
        assert files == objects, fake
        assert states(state, buckets[fake]) == {"verified": 3}
        assert phase(state, buckets[fake]) == "deleting"


@pytest.mark.system
def test_a_full_disk_loses_nothing(
    run: Run, boto: S3Client, bucket: str, home: Path, state: Path, tmp_path: Path
) -> None:
    """P4: one line that says so; with more room the next run goes on."""
    home.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", home], capture_output=True, text=True, check=False
    )
    assert mounted.returncode == 0, f"this test needs to mount: {mounted.stderr.strip()}"
    try:
        objects = {f"k{number}": os.urandom(300_000) for number in range(6)} | {"x//y": os.urandom(300_000)}
        fill(boto, bucket, objects)
        refused = run("migrate", bucket)
        assert refused.returncode == 5 and "does not fit" in refused.stderr
        ended = run("migrate", "--force-space", bucket)
        assert ended.returncode == 1, ended.stderr
        assert "full" in ended.stderr.splitlines()[-1]
        assert states(state, bucket).get("error", 0) == 0
        subprocess.run(["mount", "-o", "remount,size=8m", home], check=True)
        ended = run("migrate", bucket)
        assert ended.returncode == 0, ended.stderr
        paths = query(state, "select key, local_path from files")
        assert {key: (home / path).read_bytes() for key, path in paths} == objects
        assert states(state, bucket) == {"verified": len(objects)}
    finally:
        subprocess.run(["umount", home], check=True)
    ended = run("verify", bucket)
    assert ended.returncode == 5, "an empty mount point is not the destination"
    assert states(state, bucket) == {"verified": len(objects)}
