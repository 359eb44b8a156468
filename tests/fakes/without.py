"""Rules of the program taken away one at a time, so that random histories can be seen to find what each of them prevents.

`WITHOUT=NAME` in the environment of tests/fakes/zygote.py takes one away from every run that it forks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from migrate_v2 import deletion, model, pipeline
from migrate_v2.edges.disk import Incoming
from migrate_v2.edges.store import Store
from migrate_v2.model import OLDER_VERSION_STAYS, VERSIONS_STAY
from migrate_v2.steps import delete


def staging() -> None:
    """A2: the AWS CLI writes into the live tree."""
    real = Incoming.__init__

    def init(self: Any, disk: Any, bucket: str, *more: Any, **named: Any) -> None:
        real(self, disk, bucket, *more, **named)
        self.path = bucket

    Incoming.__init__ = init  # type: ignore[method-assign]


def superseded() -> None:
    """A2: a copy whose object was overwritten is forgotten."""
    Store._keep_overwritten = lambda *_: None  # type: ignore[method-assign]


def settled_null() -> None:
    """A6: null versions go right after versioning was turned on."""
    model.VERSIONING_SETTLES = 0.0


def older_current() -> None:
    """A11: newer versions go although an older one stays."""
    real = deletion._decided

    def decided(*arguments: Any) -> Any:
        kept = real(*arguments)
        return None if kept in (OLDER_VERSION_STAYS, VERSIONS_STAY) else kept

    deletion._decided = decided
    delete._current = lambda store, site, rules: deletion.to_delete(store, site, rules, current=True)


def noncurrent() -> None:
    """B4: the setting `noncurrent` does not keep what was verified before it was set."""
    real = model.why_kept

    def why_kept(row: Any, site: Any, rules: Any) -> Any:
        return real(row, site, replace(rules, keep_noncurrent=False))

    model.why_kept = deletion.why_kept = pipeline.why_kept = why_kept


def upload_age() -> None:
    """B5: an upload is aborted whenever it began."""
    real = deletion.decide_uploads

    def decide_uploads(*arguments: Any) -> Iterator[Any]:
        return ((upload, None) for upload, _ in real(*arguments))

    deletion.decide_uploads = decide_uploads


def tags() -> None:
    """B6: tags are not asked for again."""
    delete.changed_tags = lambda *_, **__: []


def only_copies() -> None:
    """B10: a copy whose object is gone is forgotten with it."""
    real = Store.end_scan

    def end_scan(self: Any, *arguments: Any, **named: Any) -> Any:
        ended = real(self, *arguments, **named)
        self._conn.execute("DELETE FROM files WHERE state = 'error' AND cause = 'vanished'")
        return ended

    Store.end_scan = end_scan  # type: ignore[method-assign]


RULES: dict[str, Callable[[], None]] = {
    rule.__name__: rule
    for rule in (
        staging, superseded, settled_null, older_current, noncurrent, upload_age, tags, only_copies,
    )
}  # fmt: skip


def take_away() -> None:
    if name := os.environ.get("WITHOUT"):
        RULES[name]()
