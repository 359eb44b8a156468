"""Random histories of buckets that others change while they are migrated, and what has to hold at each moment of one.

A history is made from a seed: a bucket is filled, then others change it (puts, overwrites, deletes, lifecycle, versioning,
tags, locks, uploads) between runs of the program and in the middle of them; runs are killed at random moments. Identity
counts, not bytes alone: many objects have equal bytes, or equal size and other bytes.

For every version that the program deleted, or once verified, there is at any moment a row of the state file, and at the end
a line of evidence.jsonl and of the manifest, that name a file below the destination with its SHA-256. Files in quarantine
and in staging do not count.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.world import Ran, World
from tests.fakes.forks import ROOT, Fault
from tests.fakes.s3server import Bucket, Delete, Request, Response, Upload, Version

# Sizes that many share; of one size several contents.
BODIES = [b"", b"1", b"same-size-a", b"same-size-b", b"same-size-c", b"x" * 4096, b"y" * 4096, b"z" * 300_000]
KEYS = [
    *(f"k{n}" for n in range(12)),
    *(f"photos/{n}.jpg" for n in range(10)),
    *(
        "a",
        "a/b",
        "x//y",
        "dir/",
        "photos",
        "photos/1.jpg/deep",
        "k1.a1b2c3d4",
        "état/é",
        "con\ntrol",
        "../up",
        "./here",
    ),
    *(f"many/{n % 3}/{n}" for n in range(14)),
]
BUCKETS = ("bucket", "photos")
NOT_COPIES = ("quarantine", "incoming", "partial", "staging")
DAY = 86400.0
# A null version may go so many seconds after versioning was first seen enabled, and an upload be aborted after a day.
VERSIONING_SETTLES = 900.0

Identity = tuple[str, str, str, str]  # bucket, key, version id, SHA-256


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass(slots=True)
class Figures:
    """What the histories of a slice amounted to."""

    histories: int = 0
    deletes: int = 0
    kills: int = 0
    cuts: int = 0  # of power
    others: int = 0
    emptied: int = 0
    proved: int = 0  # histories whose manifest and evidence were checked at their end
    runs: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        runs = ", ".join(f"{name} {count}" for name, count in sorted(self.runs.items()))
        return (
            f"{self.histories} histories, {self.deletes} deletes, {self.kills} kills, {self.cuts} power cuts, {self.others} changes by others,"
            f" {self.emptied} ended with an empty bucket, {self.proved} checked against manifest and evidence; {runs}"
        )


def fast_aws(folder: Path) -> Path:
    """An `aws` whose `s3 sync` does what the real one does, without the half second that it needs to start.

    It also harms every file that it can reach.
    """
    path = folder / "aws-sync"
    path.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "aws-cli/2.40.1 Python/3.13 Linux/6" && exit\n'
        f'exec {sys.executable} -E -S {ROOT}/tests/fakes/aws_sync.py fetch+harm "$@"\n'
    )
    path.chmod(0o755)
    return path


class Disk:
    """A mounted ext4 image whose power can be cut: an image copied while it is mounted has only what was flushed by then."""

    def __init__(self, folder: Path) -> None:
        self.image, self.cut, self.at = folder / "image", folder / "cut", folder / "disk"
        with self.image.open("wb") as file:
            file.truncate(96 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
        self.at.mkdir()
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.at], check=True)

    def unmount(self) -> None:
        for _ in range(100):  # what a killed run had started has not ended yet
            if subprocess.run(["umount", self.at], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("the disk stays busy")

    def copy(self) -> None:
        subprocess.run(["cp", "--sparse=always", self.image, self.cut], check=True)

    def lose_power(self) -> None:
        self.unmount()
        self.cut.replace(self.image)
        self.mount()


class History:
    """One history in a world that is empty; `seed` decides everything but the moments at which processes meet."""

    def __init__(self, made: World, seed: int, figures: Figures, disk: Disk | None = None) -> None:
        self.made, self.seed, self.figures, self.disk = made, seed, figures, disk
        self.chance = random.Random(seed)
        self.server = made.server
        # Histories in which all of the bucket can be proved and deleted in the end, unless others intervene.
        self.clean = self.chance.random() < 0.6
        self.versioning = self.chance.choice(["", "", "Enabled", "Enabled", *([] if self.clean else ["Suspended"])])
        self.kept: dict[Identity, str] = {}  # what has to stay on disk, and why
        self.enabled_at: dict[str, float] = {}
        self.violations: list[str] = []
        self.log: list[str] = []
        self.hashed: dict[Path, tuple[tuple[int, ...], str]] = {}
        self.tags_at_delete: dict[tuple[str, str, str], dict[str, str]] = {}
        self.noncurrent = ""
        self.disturbed = False
        self.settled = False  # long ago that versioning was turned on, by the server's clock

    # -- the history

    def play(self) -> None:
        for bucket in BUCKETS:
            self._begin(bucket)
        for _ in range(self.chance.randrange(30, 60)):
            self._put("bucket")
        for _ in range(4):
            self._put("photos")
        for _ in range(self.chance.randrange(2, 6)):
            for _ in range(self.chance.choice([0, 0, 1, 2, 4])):
                self._others()
            self._step()
            self._check()
        self._end()
        self._verdict()

    def _begin(self, bucket: str) -> None:
        with self.server.lock:
            self.server.buckets.pop(bucket, None)
        locking = self.versioning == "Enabled" and not self.clean and self.chance.random() < 0.3
        self.server.bucket(bucket, versioning=self.versioning, object_lock=locking)  # type: ignore[arg-type]
        if self.versioning == "Enabled":
            self.enabled_at[bucket] = self.server.clock() - DAY

    def _step(self) -> None:
        bucket = self.chance.choices(BUCKETS, [6, 1])[0]
        self.noncurrent = self.chance.choices(["", "fetch", "keep"], [4, 1, 3])[0]
        what = self.chance.choices(
            ["migrate", "confirm-delete", "scan", "verify", "sync", "nested"], [10, 8, 1, 1, 1, 1]
        )[0]
        if what == "confirm-delete":
            self._delete(bucket)
        elif what == "nested":
            # Another destination inside this one's bucket folder, with a state file of its own.
            inner = self.made.home / bucket
            if inner.is_dir():
                self._run(
                    "migrate", "--dest", str(inner), "--state", str(self.made.folder / "state-other.db"), "photos"
                )
        else:
            more = ["--rescan"] if what == "scan" else self._accepting(what)
            self._run(what, *more, bucket, disturbed=True)

    def _accepting(self, command: str) -> list[str]:
        return ["--accept-changes"] if command in ("migrate", "sync", "verify") and self.chance.random() < 0.8 else []

    def _delete(self, bucket: str) -> None:
        more = ["--allow-volatile"]
        if self.chance.random() < 0.2:
            more.append("--abort-uploads")
        planned = self._run("confirm-delete", "--dry-run", "--json", *more, bucket, killed=False)
        if planned.code != 0 or not planned.out.strip():
            return
        token = json.loads(planned.out)["token"]
        if self.chance.random() < 0.25:
            more += ["--max-delete", str(self.chance.randrange(1, 12))]
        before = self._current(bucket)
        changes = self.figures.others
        self._run("confirm-delete", f"--confirm={token}", *more, bucket, disturbed=self.chance.random() < 0.3)
        if self.figures.others == changes:
            self._same_current(bucket, before)

    def _end(self) -> None:
        """Nothing more is disturbed; what can be proved is, and in most histories it is deleted."""
        self.noncurrent = ""
        settled = False
        for _ in range(4):
            ran = self._run("migrate", "--accept-changes", "bucket", killed=False)
            settled = ran.code in (0, 4)
            if settled:
                break
        if self.clean or self.chance.random() < 0.5:
            self.server.advance(2 * VERSIONING_SETTLES)
            self.settled = True
            more = ["--allow-volatile"]
            planned = self._run("confirm-delete", "--dry-run", "--json", *more, "bucket", killed=False)
            if planned.code == 0 and planned.out.strip():
                token = json.loads(planned.out)["token"]
                before = self._current("bucket")
                ran = self._run("confirm-delete", f"--confirm={token}", *more, "bucket", killed=False)
                self._same_current("bucket", before)
                settled = settled and ran.code in (0, 5)
        self._check()
        self.figures.emptied += not self.server.versions("bucket")
        if settled and self._phase("bucket") in ("deleting", "complete"):
            self.figures.proved += 1
            self._written("bucket")

    # -- what others do

    def _others(self, bucket: str | None = None) -> None:
        self.figures.others += 1
        bucket = bucket or self.chance.choices(BUCKETS, [8, 1])[0]
        harder = [] if self.clean else [self._toggle, self._lock]
        deed = self.chance.choice(
            [self._put, self._put, self._overwrite, self._overwrite, self._remove, self._expire, self._expire_key,
             self._tag, self._wait, self._upload, *harder]
        )  # fmt: skip
        deed(bucket)
        self.log.append(f"others: {deed.__name__} {bucket}")

    def _put(self, bucket: str, key: str | None = None) -> None:
        key = key or self.chance.choice(KEYS)
        body = b"" if key.endswith("/") else self.chance.choice(BODIES)
        options = self.chance.choices(
            [
                {},
                {"checksums": ()},
                {"etag": "kms", "checksums": ()},
                {"etag": "kms"},
                {"tags": {"by": str(self.seed)}},
            ],
            [8, 2, *([0, 0] if self.clean else [1, 1]), 2],
        )[0]
        self.server.put(bucket, key, body, **options)  # type: ignore[arg-type]

    def _any(self, bucket: str) -> Version | None:
        there = [version for version in self.server.versions(bucket) if not version.is_marker]
        return self.chance.choice(there) if there else None

    def _overwrite(self, bucket: str) -> None:
        if version := self._any(bucket):
            alike = [body for body in BODIES if len(body) == version.size and body != version.body]
            body = self.chance.choice(alike) if alike and self.chance.random() < 0.7 else self.chance.choice(BODIES)
            self.server.put(bucket, version.key, b"" if version.key.endswith("/") else body)

    def _remove(self, bucket: str) -> None:
        """As a DELETE without a version id."""
        if (version := self._any(bucket)) is None:
            return
        held = self.server.buckets[bucket]
        with self.server.lock:
            if held.versioning:
                self.server._insert(held, Version(version.key, is_marker=True))
                return
        self.server.remove(bucket, version.key)

    def _expire(self, bucket: str) -> None:
        """As a lifecycle rule for one version."""
        if version := self._any(bucket):
            self.server.remove(bucket, version.key, version.version_id)

    def _expire_key(self, bucket: str) -> None:
        if version := self._any(bucket):
            self.server.remove(bucket, version.key)

    def _tag(self, bucket: str) -> None:
        tagged = [version for version in self.server.versions(bucket) if version.tags]
        if version := self.chance.choice(tagged) if tagged else self._any(bucket):
            stored = self.server.get(bucket, version.key, version.version_id)
            if stored is not None:
                stored.tags = {"changed": str(self.chance.random())}

    def _toggle(self, bucket: str) -> None:
        held = self.server.buckets[bucket]
        if held.object_lock:
            return
        held.versioning = "Suspended" if held.versioning == "Enabled" else "Enabled"
        if held.versioning == "Enabled":
            self.enabled_at[bucket] = self.server.clock()

    def _wait(self, bucket: str) -> None:
        self.server.advance(self.chance.choice([60.0, VERSIONING_SETTLES + 60, 2 * DAY]))

    def _upload(self, bucket: str) -> None:
        number = str(self.chance.randrange(1 << 40))
        with self.server.lock:
            self.server.buckets[bucket].uploads[number] = Upload(
                number, "k1", self.server.clock(), Version("k1"), "", "", False
            )

    def _lock(self, bucket: str) -> None:
        if (version := self._any(bucket)) and self.server.buckets[bucket].object_lock:
            stored = self.server.get(bucket, version.key, version.version_id)
            if stored is not None:
                stored.legal_hold = self.chance.choice(["ON", "OFF"])

    # -- a run of the program

    def _run(self, command: str, *argv: str, disturbed: bool = False, killed: bool = True) -> Ran:
        env = {"MIGRATE_V2_ENGINE": self.chance.choice(["cli", "native"])}
        if self.settled:
            env["VERSIONING_SETTLES"] = "0"
        if self.noncurrent:
            env["MIGRATE_V2_NONCURRENT"] = self.noncurrent
        more: dict[str, object] = {}
        if killed and self.chance.random() < 0.35:
            if self.chance.random() < 0.5:
                more["kill_after"] = self.chance.uniform(0.02, 0.5)
            else:
                at = self.chance.choice(["write", "fsync", "rename", "open", "commit", "statement"])
                do = "kill" if at == "open" else self.chance.choice(["kill", "kill-after"])
                if do == "kill-after" and at not in ("write", "rename", "commit", "statement"):
                    do = "kill"
                more["fault"] = Fault(at, self.chance.randrange(1, 60), do)
        planted = None
        self.disturbed = disturbed
        if disturbed and self.chance.random() < 0.5:
            planted = self.server.fault(
                _of_the_program, lambda _: self._others(), after=self.chance.randrange(1, 60), times=1
            )
        if killed and not more and planted is None and self.disk is not None and self.chance.random() < 0.3:
            return self._cut(command, *argv, env=env)
        uploads = {bucket: dict(self.server.buckets[bucket].uploads) for bucket in BUCKETS}
        ran = self.made.run(command, *argv, env=env, **more)  # type: ignore[arg-type]
        if planted is not None:
            self.server.calm(planted)
        for _ in range(100):
            if ran.code != 6:
                break
            ran = self.made.run(command, *argv, env=env)  # what a killed run had started has not ended yet
        self.log.append(f"{command} {' '.join(argv)} ({env['MIGRATE_V2_ENGINE']}): {ran.code} {more or ''}")
        self.figures.runs[command] += 1
        self.figures.kills += ran.code < 0
        if ran.code == 2 or "unexpected" in ran.err:
            self.violations.append(f"unexpected: {ran.err[-600:]}")
        for bucket in BUCKETS:
            for number, upload in uploads[bucket].items():
                if number not in self.server.buckets[bucket].uploads and self.server.clock() - upload.initiated < DAY:
                    self.violations.append(f"an upload of {upload.initiated} was aborted within a day")
        self._learn()
        return ran

    def _cut(self, command: str, *argv: str, env: dict[str, str]) -> Ran:
        """The power fails just before a request of the program is answered; S3 is as it was after that request."""
        assert self.disk is not None
        disk, then = self.disk, list[tuple[dict[str, Bucket], dict[Identity, str]]]()

        def afterwards(_: Request, response: Response) -> Response:
            with self.server.lock:
                then.append((copy.deepcopy(self.server.buckets), dict(self.kept)))
            return response

        planted = self.server.fault(
            _of_the_program,
            lambda _: disk.copy(),
            after=self.chance.randrange(1, 40),
            times=1,
            rewrite=afterwards,
        )
        ran = self.made.run(command, *argv, env=env)
        self.server.calm(planted)
        if then:
            self.server.settled()
            disk.lose_power()
            self.server.buckets, self.kept = then[0]
            self.hashed.clear()
            self.figures.cuts += 1
        self.log.append(f"{command} {' '.join(argv)}: {'power cut' if then else ran.code}")
        self._learn()
        return ran

    def deleted(self, delete: Delete) -> None:
        """Called by the server at the instant before data is deleted, with its lock held."""
        self.figures.deletes += 1
        name = (delete.bucket, delete.key, delete.version_id)
        identity = (*name, sha256(delete.body))
        self.kept[identity] = "deleted"
        held = self.server.buckets[delete.bucket]
        stored = next(v for v in held.objects[delete.key] if v.version_id == delete.version_id)
        self.tags_at_delete[name] = dict(stored.tags)
        if why := self._lacking(identity):
            self.violations.append(f"deleted without a copy: {identity}: {why}")
        if self.noncurrent == "keep" and held.objects[delete.key][0] is not stored and not self.disturbed:
            self.violations.append(f"noncurrent version {name} deleted although they are to be kept")
        if (
            delete.version_id == "null"
            and held.versioning == "Enabled"
            and self.server.clock() - self.enabled_at[delete.bucket] < VERSIONING_SETTLES
        ):
            self.violations.append(f"null version {name} deleted right after versioning was enabled")

    # -- what has to hold

    def _states(self) -> Iterator[Path]:
        yield from (path for path in (self.made.state, self.made.folder / "state-other.db") if path.exists())

    def _rows(self, sql: str, *values: str) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for path in self._states():
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
                try:
                    found += connection.execute(sql, values)
                except sqlite3.OperationalError as error:
                    if "no such table" not in str(error):
                        raise
        return found

    def _phase(self, bucket: str) -> str:
        found = self._rows("SELECT phase FROM bucket_status WHERE bucket = ?", bucket)
        return found[0][0] if found else ""

    def _learn(self) -> None:
        """What a run has verified has to be found from then on."""
        sql = "SELECT bucket, key, version_id, sha256 FROM files WHERE state = 'verified' AND sha256 IS NOT NULL"
        for bucket, key, version_id, digest in self._rows(sql):
            if digest != sha256(b""):  # nothing is lost with an empty object that others overwrite
                self.kept.setdefault((bucket, key, version_id, digest), "verified")

    def _hash(self, path: Path) -> str:
        facts = path.lstat()
        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        if path not in self.hashed or self.hashed[path][0] != stamp:
            self.hashed[path] = stamp, sha256(path.read_bytes())
        return self.hashed[path][1]

    def _is_copy(self, relative: str, digest: str) -> bool:
        parts = relative.split("/")
        if parts[0] == ".migrate-v2" and len(parts) > 2 and parts[2] in NOT_COPIES:
            return False
        for base in (self.made.home, *(self.made.home / bucket for bucket in BUCKETS)):
            path = base / relative
            if digest == sha256(b"") and path.is_dir():
                return True
            if path.is_file() and not path.is_symlink() and self._hash(path) == digest:
                return True
        return False

    def _lacking(self, identity: Identity) -> str:
        """Why no row names a file with these bytes; "" where one does. Former versions have an id with a suffix."""
        bucket, key, version_id, digest = identity
        rows = self._rows(
            "SELECT version_id, sha256, local_path, state, cause, moving_to FROM files WHERE bucket = ? AND key = ?"
            if self._moves()
            else "SELECT version_id, sha256, local_path, state, cause, NULL FROM files WHERE bucket = ? AND key = ?",
            bucket,
            key,
        )
        for version, sha, path, _, _, moving_to in rows:
            named = version.split("+")[0] == version_id and sha == digest
            if named and any(place and self._is_copy(place, digest) for place in (path, moving_to)):
                return ""
        return f"rows {rows}"

    def _moves(self) -> bool:
        return any(row[1] == "moving_to" for row in self._rows("SELECT * FROM pragma_table_info('files')"))

    def _check(self) -> None:
        """Each of them by identity: equal bytes under another key do not count."""
        for identity, why in self.kept.items():
            if lacking := self._lacking(identity):
                self.violations.append(f"{why} and not found: {identity}: {lacking}")
        self._verdict()

    def _written(self, bucket: str) -> None:
        """Evidence, manifest and `verify --offline` name them too."""
        folder = self.made.home / ".migrate-v2" / bucket
        lines = [json.loads(line) for line in (folder / "evidence.jsonl").read_text().splitlines()]
        sums = (folder / "manifest-sha256.txt").read_text()
        for of, key, version_id, digest in self.kept:
            if of != bucket:
                continue
            fitting = [
                line for line in lines
                if line["key"] == key and line["version_id"].split("+")[0] == version_id and line["sha256"] == digest
                and self._is_copy(line["path"], digest)
            ]  # fmt: skip
            if not fitting:
                self.violations.append(f"not in evidence: {key!r} {version_id} {digest}")
            elif digest != sha256(b"") and not any(digest in line for line in sums.splitlines()):
                self.violations.append(f"not in the manifest: {key!r} {version_id} {digest}")
        offline = self._run("verify", "--offline", bucket, killed=False)
        if offline.code not in (0, 4):
            self.violations.append(f"verify --offline: {offline.code} {offline.err}")
        if offline.code == 4 and not self._rows(
            "SELECT 1 FROM files WHERE bucket = ? AND state = 'error' AND ifnull(verdict, '') NOT IN ('', 'match')",
            bucket,
        ):
            self.violations.append(f"verify --offline finds differences: {offline.err}")
        for (of, key, version_id), tags in self.tags_at_delete.items():
            if of == bucket and tags:
                documents = self._rows(
                    "SELECT document FROM metadata WHERE bucket = ? AND key = ? AND (version_id = ? OR version_id LIKE ?)",
                    bucket, key, version_id, f"{version_id}+%",
                )  # fmt: skip
                # Of an object that had no tags when it was described, S3 is not asked again where no HEAD is due.
                recorded = [json.loads(document).get("tags") for (document,) in documents]
                if any(recorded) and tags not in recorded:
                    self.violations.append(f"tags of {key!r} {version_id} went unrecorded: {tags} {documents}")

    def _current(self, bucket: str) -> dict[str, str]:
        """SHA-256 of what a GET without a version id gives, by key; "" for a 404 above other versions."""
        return {
            version.key: "" if version.is_marker else sha256(version.body)
            for version in self.server.versions(bucket)
            if version.is_latest
        }

    def _same_current(self, bucket: str, before: dict[str, str]) -> None:
        left = {version.key for version in self.server.versions(bucket) if not version.is_marker}
        for key, now in self._current(bucket).items():
            if key in left and now != before.get(key, ""):
                versions = [
                    (v.version_id, v.is_marker, v.last_modified, sha256(v.body)[:8])
                    for v in self.server.versions(bucket, key)
                ]
                rows = self._rows(
                    "SELECT version_id, is_latest, state, verdict, cause, last_modified, hold_cause FROM files WHERE key = ?",
                    key,
                )
                self.violations.append(
                    f"a deletion made another version of {key!r} current: {versions}, was {before.get(key, '')[:8]}, {rows}"
                )

    def _verdict(self) -> None:
        failures = [str(error) for error in self.server.failures]
        assert not self.violations and not failures, (
            f"seed {self.seed}: {self.violations[:4] or failures[:3]}\n" + "\n".join(self.log)
        )


def _of_the_program(request: Request) -> bool:
    agent = request.header("user-agent")
    return "migrate-v2" in agent or not agent


def play(made: World, seed: int, figures: Figures, disk: Disk | None = None) -> None:
    """One history from an empty disk on."""
    made.begin_anew()
    for path in made.folder.glob("state-other*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    history = History(made, seed, figures, disk)
    made.server._observers[:] = [history.deleted]
    figures.histories += 1
    history.play()


def plain_world(made: World) -> World:
    """Without the proxy of the oracle: the server itself tells of deletes."""
    made.env |= {"AWS_ENDPOINT_URL": made.server.url, "MIGRATE_V2_AWS_PATH": str(fast_aws(made.folder))}
    return made
