"""P1, P2, P4: in random histories, every version that was deleted or once verified stays on disk, under its own name."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Figures as Lines
from tests.e2e.histories import Disk, Figures, plain_world, play
from tests.e2e.world import World, Zygote, world
from tests.fakes.without import RULES

Rounds = Callable[[int], int]


def test_histories_of_a_few_seeds_lose_nothing(zygote: Zygote, tmp_path: Path) -> None:
    """Always the same here; `make soak` plays thousands of others."""
    with world(tmp_path, zygote) as made:
        plain_world(made)
        figures = Figures()
        for seed in (3, 5, 8):
            play(made, seed, figures)
    assert figures.deletes > 30


@pytest.mark.soak
@pytest.mark.timeout(14400)
def test_histories_thousands_lose_nothing(zygote: Zygote, tmp_path: Path, rounds: Rounds, figures: Lines) -> None:
    """Seeds follow each other from a random one on, which is printed: a slice of `--rounds` is one of many."""
    with world(tmp_path, zygote) as made:
        _play(made, rounds(2000), figures)


@pytest.mark.soak
@pytest.mark.system
@pytest.mark.timeout(14400)
def test_histories_with_power_cuts_lose_nothing(zygote: Zygote, tmp_path: Path, rounds: Rounds, figures: Lines) -> None:
    disk = Disk(tmp_path)
    try:
        with world(disk.at, zygote) as made:
            _play(made, rounds(300), figures, disk)
    finally:
        disk.unmount()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rule", RULES)
def test_histories_without_a_rule_find_what_it_prevents(
    rule: str, tmp_path: Path, rounds: Rounds, figures: Lines
) -> None:
    """Each rule that the histories can see broken is taken away once: they are able to fail."""
    folder = tmp_path / "world"
    folder.mkdir()
    forks = Zygote(tmp_path, {"WITHOUT": rule})
    seed, found = random.randrange(1 << 30), 0
    try:
        with world(folder, forks) as made:
            plain_world(made)
            for number in range(rounds(100)):
                try:
                    play(made, seed + number, Figures())
                except AssertionError as violation:
                    found = number + 1
                    figures(f"without {rule}: found in history {found}: {str(violation).splitlines()[0][:200]}")
                    break
    finally:
        forks.close()
    assert found


def _play(made: World, count: int, figures: Lines, disk: Disk | None = None) -> None:
    began, seed, amount = time.monotonic(), random.randrange(1 << 30), Figures()
    plain_world(made)
    try:
        for number in range(count):
            play(made, seed + number, amount, disk)
    finally:
        figures(f"histories from seed {seed}: {amount}; {time.monotonic() - began:.0f} s")
