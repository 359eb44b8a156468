"""P1 and P4: whatever fails, at whichever call, nothing is lost, nothing unproved is deleted, and the next run finishes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Figures
from tests.e2e.world import World, Zygote, world
from tests.fakes.s3server import Request
from tests.fakes.zygote import Fault

SAMPLE = 5  # so many of the n of a loop run in `make test`; `make soak` runs them all


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def small(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """A never versioned bucket of few objects, each of another kind."""
    with world(tmp_path, zygote) as made:
        fill(made)
        yield made


@pytest.fixture
def versioned(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        fill(made)
        yield made


def fill(made: World) -> None:
    made.put("plain", b"by the CLI, or not")
    made.put("a//b", b"aside " * 100)
    made.put("parts//", bytes(range(256)) * 1000, parts=(100_000, 100_000, 56_000))
    made.put("dir/", b"")
    if made.versioning:
        made.put("plain", b"a newer version")
        made.server.put(made.bucket, "gone", b"")
        made.server.remove(made.bucket, "gone")


Prepared = Callable[[], None]


def ready(made: World, phase: str) -> tuple[Prepared, tuple[str, ...]]:
    """How to come to the beginning of a phase, and its command line."""
    if phase == "migrate":
        return made.saved(), ("migrate", made.bucket)
    made.done("migrate", made.bucket)
    return made.saved(), ("confirm-delete", made.token(), made.bucket)


def every_call(
    made: World, phase: str, at: str, do: str, *, sample: int = 0, seconds: float = 3600.0
) -> tuple[int, bool]:
    """Fails the n-th call for n = 1, 2, 3, ... until a run gets by without; (runs with a fault, was it all of them).

    With `sample`, that many of them, spread over what a run without a fault counts.
    """
    restore, argv = ready(made, phase)
    due = time.monotonic() + seconds
    fired = 0
    for n in _spread(made, restore, argv, at, sample) if sample else iter(lambda c=iter(range(1, 100_000)): next(c), -1):
        restore()
        ran = made.run(*argv, fault=Fault(at, n, do))
        if not ran.fired:
            return fired, True
        fired += 1
        made.nothing_is_lost()
        made.comes_home()
        if time.monotonic() > due:
            return fired, False
    return fired, bool(sample)


def _spread(made: World, restore: Prepared, argv: tuple[str, ...], at: str, sample: int) -> list[int]:
    """`sample` numbers below the count of the calls, found by doubling; others at each run of the tests."""
    low, high = 1, 2
    while True:
        restore()
        # What fails beyond the last call never fires; harmless, because a kill leaves nothing half said.
        if not made.run(*argv, fault=Fault(at, high, "kill")).fired:
            break
        low, high = high, high * 2
    return sorted(random.sample(range(1, high), min(sample, low)))
