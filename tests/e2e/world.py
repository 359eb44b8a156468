"""A small world for faults: a truthful S3 with the oracle before it, a destination, a state file, and runs without a start."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.forks import Fault, Job, Zygote, as_by_the_script, bare_environment
from tests.fakes.oracle import Oracle, beside, in_state_file
from tests.fakes.s3server import Bucket, S3Server

CODES = (0, 1, 2, 3, 4, 5, 6, 130)
_NOTHING = os.open(os.devnull, os.O_RDONLY)


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str
    fired: bool


class World:
    def __init__(
        self,
        folder: Path,
        zygote: Zygote,
        *,
        versioning: str = "",
        bucket: str = "bucket",
        home: Path | None = None,
        consents: bool = True,
    ) -> None:
        self.folder, self.zygote, self.bucket, self.versioning = folder, zygote, bucket, versioning
        self.consents = consents  # see forks.consenting()
        self.home, self.state = home or folder / "home", folder / "state.db"
        (folder / "user").mkdir()
        self.server = S3Server()
        self.server.start()
        self.oracle = Oracle(self.server.url, beside(self.home), announced=in_state_file(self.state))
        self.server.bucket(bucket, versioning=versioning)
        self.ever: dict[tuple[str, str, str], bytes] = {}  # every version ever put, by SHA-256 too
        self.runs = 0
        self._begun = threading.Event()
        aws = folder / "aws"
        aws.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "aws-cli/2.40.1 Python/3.13 Linux/6"\nexit 0\n')
        aws.chmod(0o755)
        self.env = bare_environment() | {
            "HOME": str(folder / "user"),
            "PATH": os.defpath,
            "AWS_ACCESS_KEY_ID": "AKIAFAKEFAKEFAKEFAKE",
            "AWS_SECRET_ACCESS_KEY": "-",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.oracle.url,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "MIGRATE_V2_LOCAL_BASE_PATH": str(self.home),
            "MIGRATE_V2_STATE_DB_PATH": str(self.state),
            "MIGRATE_V2_AWS_PATH": str(aws),
        }

    def close(self) -> None:
        self.oracle.stop()
        self.server.stop()

    def put(self, key: str, body: bytes, **more: Any) -> None:
        before = self._in_s3()
        made = self.server.put(self.bucket, key, body, **more)
        # What is overwritten before it has come home is lost by whoever writes it over.
        for gone in before - self._in_s3():
            if gone[2] not in self._at_home():
                self.ever.pop(gone, None)
        self.ever[key, made.version_id, hashlib.sha256(body).hexdigest()] = body

    @property
    def pid(self) -> int:
        """Of the run under way."""
        assert self._begun.wait(60)
        return self._run.pid

    def run(
        self,
        *argv: str,
        fault: Fault | None = None,
        env: Mapping[str, str] | None = None,
        kill_after: float | None = None,
        by: signal.Signals = signal.SIGKILL,
        cwd: Path | None = None,
    ) -> Ran:
        """Runs it to its end, or sends it a signal so many seconds after it began."""
        self.runs += 1
        fired = self.folder / "fired"
        fired.unlink(missing_ok=True)
        variables = as_by_the_script({**self.env, **(env or {})})
        job = Job(
            list(argv),
            variables,
            str(cwd or self.folder),
            fault=fault,
            fired=str(fired),
            hasty=True,
            consents=self.consents,
        )
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            with self.zygote.begin(job, (_NOTHING, out, err)) as self._run:
                self._begun.set()
                if kill_after is not None:
                    try:
                        self._run.wait(kill_after)
                    except subprocess.TimeoutExpired:
                        self._run.send_signal(by)
                code = self._run.wait()
                self._begun.clear()
            out.seek(0)
            err.seek(0)
            ran = Ran(code, out.read(), err.read(), fired.exists())
        assert code == -signal.SIGKILL or code in CODES, (code, ran.err)
        assert "Traceback" not in ran.err and "Traceback" not in ran.out, ran.err
        return ran

    def done(self, *argv: str, **more: Any) -> Ran:
        ran = self.run(*argv, **more)
        for _ in range(50):
            if ran.code != 6:
                break
            time.sleep(0.1)  # what was started by a run that was killed holds the locks until it has ended, too
            ran = self.run(*argv, **more)
        assert ran.code == 0, (argv, ran.code, ran.err)
        return ran

    def token(self) -> str:
        plan = json.loads(self.done("confirm-delete", "--dry-run", "--json", self.bucket).out)
        return f"--confirm={plan['token']}"

    # -- what has to hold at any moment

    def nothing_is_lost(self) -> None:
        """P4: every version ever put is in S3, or its bytes are in a file of this disk; and the oracle saw nothing."""
        self.oracle.verdict()
        missing = self.ever.keys() - self._in_s3()
        if missing:
            here = self._at_home()
            for key, version, digest in missing:
                if self.ever[key, version, digest]:
                    assert digest in here, f"{key} {version} is lost"
        assert [str(error) for error in self.server.failures] == []

    def _in_s3(self) -> set[tuple[str, str, str]]:
        return {(v.key, v.version_id, hashlib.sha256(v.body).hexdigest()) for v in self.server.versions(self.bucket)}

    def _at_home(self) -> set[str]:
        """But for what is in a staging folder: the program may remove that."""
        found = set()
        for path in self.home.rglob("*"):
            top, *below = path.relative_to(self.home).parts
            if top == ".migrate-v2" and below[1:2] in (["incoming"], ["partial"]):
                continue
            with suppress(FileNotFoundError):  # a run under way gives it its name
                if path.is_file() and not path.is_symlink():
                    found.add(hashlib.sha256(path.read_bytes()).hexdigest())
        return found

    def comes_home(self) -> None:
        """Without any fault it finishes, deletes all that it proved, and the manifest is right."""
        self.done("migrate", self.bucket)
        self.nothing_is_lost()
        if any(not v.is_marker for v in self.server.versions(self.bucket)):
            self.done("confirm-delete", self.token(), self.bucket)
        self.nothing_is_lost()
        assert [v.key for v in self.server.versions(self.bucket) if not v.is_marker] == []
        checked = subprocess.run(
            ["sha256sum", "-c", "--quiet", f".migrate-v2/{self.bucket}/manifest-sha256.txt"],
            cwd=self.home,
            capture_output=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stderr

    # -- over and over again

    def begin_anew(self) -> None:
        """An empty disk, the same bucket as at the beginning of the world."""
        self._clear()
        self.ever.clear()
        self.server.failures.clear()
        with self.server.lock:
            self.server.buckets.pop(self.bucket, None)
        self.server.bucket(self.bucket, versioning=self.versioning)

    def saved(self) -> Callable[[], None]:
        """The world as it is now, to come back to."""
        kept = self.folder / f"kept-{time.monotonic_ns()}"
        kept.mkdir()
        for path in self._own():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept / path.name)
        with self.server.lock:
            bucket: Bucket = copy.deepcopy(self.server.buckets[self.bucket])
        ever = dict(self.ever)

        def restore() -> None:
            self._clear()
            for path in kept.iterdir():
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, self.folder / path.name)
            with self.server.lock:
                self.server.buckets[self.bucket] = copy.deepcopy(bucket)
            self.ever = dict(ever)
            self.server.failures.clear()

        return restore

    def _own(self) -> Iterator[Path]:
        yield from (path for path in self.folder.glob(f"{self.state.stem}*"))
        if self.home.exists():
            yield self.home

    def _clear(self) -> None:
        for path in list(self._own()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def world(folder: Path, zygote: Zygote, **more: Any) -> Iterator[World]:
    made = World(folder, zygote, **more)
    try:
        yield made
        made.oracle.verdict()
    finally:
        made.close()
