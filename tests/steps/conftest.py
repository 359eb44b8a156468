"""What every step works with: a truthful S3 on loopback, a state file, a destination; and the steps in a row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.retries.standard import ExponentialBackoff

from migrate_v2 import deletion
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import S3, Deleter
from migrate_v2.edges.store import Store
from migrate_v2.events import Event, Found
from migrate_v2.model import FileState, Row, Rules, Site, Verdict
from migrate_v2.steps import delete as delete_step
from migrate_v2.steps import fetch as fetch_step
from migrate_v2.steps.place import choose, place
from migrate_v2.steps.scan import scan
from migrate_v2.steps.settle import settle
from migrate_v2.steps.verify import verify
from tests.fakes.s3server import S3Server

TOKEN = "t" * 40
RULES = Rules(null_settled=True)


@dataclass
class Job:
    """One bucket, and the steps as the pipeline calls them; each returns its events."""

    server: S3Server
    s3: S3
    store: Store
    disk: Disk
    bucket: str = "b"
    run: str = "run-1"
    noncurrent: str = "fetch"
    rules: Rules = RULES

    def scan(self, rows_per_commit: int = 1000) -> list[Event]:
        events = list(settle(self.bucket, self.store, self.s3))
        events += scan(self.bucket, self.store, self.s3, rows_per_commit=rows_per_commit)
        self.choose()
        return events

    def choose(self) -> None:
        choose(self.bucket, self.store, noncurrent=self.noncurrent)

    def place(self, disk: Disk | None = None) -> list[Event]:
        return list(place(self.bucket, self.store, disk or self.disk, rows_per_commit=1000))

    def fetch(self, rows_per_commit: int = 1000) -> list[Event]:
        return list(
            fetch_step.fetch(
                self.bucket,
                self.store,
                self.disk,
                self.s3,
                session=self.run,
                threads=4,
                block_size=65536,
                rows_per_commit=rows_per_commit,
            )
        )

    def verify(self, rows: Iterable[Row] | None = None, rows_per_commit: int = 1000) -> list[Event]:
        return list(
            verify(
                self.bucket,
                self.store,
                self.disk,
                self.s3,
                self.store.left_to_verify(self.bucket) if rows is None else rows,
                run=self.run,
                threads=4,
                rows_per_commit=rows_per_commit,
            )
        )

    def verify_again(self, run: str | None = None) -> list[Event]:
        self.run = run or self.run
        return self.verify(self.store.with_local_copy(self.bucket))

    def bring(self) -> None:
        """Everything up to proof."""
        for step in (self.scan, self.place, self.fetch, self.verify):
            step()

    def site(self) -> Site:
        facts = self.s3.facts(self.bucket)
        return Site(
            self.s3.identity().account,
            self.s3.endpoint_of(self.bucket),
            self.bucket,
            facts.versioning,
            facts.mfa_delete,
        )

    def prove(self) -> list[Event]:
        """Reads again all that is about to go."""
        return self.verify(deletion.to_delete(self.store, self.site(), self.rules))

    def deleter(self) -> Deleter:
        """One that has seen the endpoint refuse a wrong ETag."""
        deleter = Deleter(self.s3)
        deleter._refuses.add(self.bucket)
        deleter._exact |= {(self.bucket, True), (self.bucket, False)}
        return deleter

    def deleting(
        self, site: Site | None = None, deleter: Deleter | None = None, rules: Rules | None = None, **more: Any
    ) -> Iterator[Event]:
        named: dict[str, Any] = {"run": self.run, "token": TOKEN, "unchanged": self.site}
        named |= {"total_objects": 0, "total_bytes": 0, **more}
        return delete_step.delete(
            self.store, self.disk, deleter or self.deleter(), site or self.site(), rules or self.rules, **named
        )

    def delete(self) -> list[Event]:
        self.prove()
        return list(self.deleting())

    def rows(self) -> list[Row]:
        return list(self.store.rows(self.bucket, "1"))

    def row(self, key: str, version_id: str | None = None) -> Row:
        found = [r for r in self.rows() if r.key == key and version_id in (None, r.version.version_id)]
        assert len(found) == 1, (key, version_id, found)
        return found[0]

    def states(self) -> dict[str, FileState]:
        return {row.key: row.state for row in self.rows()}

    def path(self, key: str, version_id: str | None = None) -> Path:
        return self.disk.base / self.row(key, version_id).path

    def outcomes(self) -> list[tuple[str, str, str | None]]:
        """Of the ledger: key, kind, outcome."""
        sql = "SELECT key, kind, outcome FROM deletions WHERE bucket = ? ORDER BY id"
        return [tuple(r) for r in self.store._conn.execute(sql, (self.bucket,))]

    def connect(self, **more: str) -> S3:
        return S3(endpoint_url=self.server.url, region="us-east-1", **more)  # type: ignore[arg-type]


def found(events: Iterable[Event]) -> dict[str, tuple[Verdict | None, str]]:
    return {event.key: (event.verdict, event.reason) for event in events if isinstance(event, Found)}


def assert_tallies(store: Store) -> None:
    """The kept counts are what counting gives."""
    counted = store._conn.execute(
        "SELECT bucket, state, ifnull(verdict, ''), archived, storage_class, ifnull(cause, ''), count(*), sum(size) FROM files"
        " GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6"
    ).fetchall()
    kept = store._conn.execute(
        "SELECT * FROM tallies WHERE objects <> 0 OR bytes <> 0 ORDER BY 1, 2, 3, 4, 5, 6"
    ).fetchall()
    assert list(map(tuple, kept)) == list(map(tuple, counted))


# Reading the models of AWS's services anew for every client takes longer than most tests.
_LOADER = cache(botocore.session.create_loader)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # The waits between the attempts of botocore are its own business, and minutes in all.
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.001)
    monkeypatch.setattr(botocore.session, "create_loader", _LOADER)
    with S3Server() as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def job(server: S3Server, tmp_path: Path) -> Iterator[Job]:
    """A bucket "b" that never was versioned; the counts are held against the rows at the end of every test."""
    server.bucket("b")
    with Disk.open(tmp_path / "home") as disk:
        job = Job(server, S3(endpoint_url=server.url, region="us-east-1"), Store.open(tmp_path / "state.db"), disk)
        try:
            yield job
            assert_tallies(job.store)
        finally:
            job.store.close()
