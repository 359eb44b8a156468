"""A piece of work for another process is a plain value, and so is what came of it: no row, no session, nothing held open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Source:
    """How the objects of one bucket are asked for, worked out once: `prefix` of the path ends in "/"."""

    scheme: str
    host: str
    port: int
    prefix: str
    region: str
    owner: str = ""  # the account that the bucket must belong to
    ca_bundle: str = ""  # a file; empty for what the system trusts
    verifies: bool = True


@dataclass(frozen=True, slots=True)
class Credentials:
    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)


class Item(NamedTuple):  # a tuple: what is sent in thousands takes a sixth of the time of a dataclass
    """One version to fetch.

    The request names `version_id`; where that is empty, it asks for the current object with If-Match. Every answer has to
    carry `etag`, as it was listed.
    """

    key: str
    version_id: str
    etag: str
    size: int
    path: str
    mtime_ns: int
    partial: str  # the name that an interrupted transfer of just this content has, where it can be continued


@dataclass(frozen=True, slots=True)
class Shard:
    number: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a shard, by the positions of its items; `left` with the reasons, for whoever asks more patiently."""

    number: int
    came: tuple[int, ...]
    left: tuple[tuple[int, str], ...]
    fatal: tuple[int, str] | None = None  # errno and text: the disk does not take any more
    hopeless: bool = False  # so many in a row without an answer that it is not the objects


@dataclass(frozen=True, slots=True)
class Sign:
    """How far a worker is: bytes since it began, down again where something came in vain."""

    bytes: int
    throttled: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """At most so many rows, or bytes, make one shard."""

    rows: int = 500
    bytes: int = 128 << 20


def sharded(rows: Iterable[Row], sizes: Sizes, size: Callable[[Row], int]) -> Iterator[tuple[Row, ...]]:
    """The rows in their order, cut where one more row would be too many or bring too much."""
    batch: list[Row] = []
    weight = 0
    for row in rows:
        more = size(row)
        if batch and (len(batch) >= sizes.rows or weight + more > sizes.bytes):
            yield tuple(batch)
            batch, weight = [], 0
        batch.append(row)
        weight += more
    if batch:
        yield tuple(batch)
