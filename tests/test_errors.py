"""Each way to end has its status and one line to say."""

from __future__ import annotations

import pytest

from migrate_v2 import cli, errors


def failures(kind: type[errors.Failure] = errors.Failure) -> list[type[errors.Failure]]:
    return [kind, *(f for child in kind.__subclasses__() for f in failures(child))]


def test_the_docstring_is_the_message() -> None:
    assert str(errors.Busy("bucket x")).startswith("another process is at work on bucket x;")
    assert str(errors.Refused("no {braces} are read")) == "no {braces} are read"


@pytest.mark.parametrize("kind", failures())
def test_every_failure_says_one_line(kind: type[errors.Failure]) -> None:
    assert kind.__doc__ and "\n" not in kind.__doc__.strip()


def test_the_interface_lists_every_status() -> None:
    listed = {
        int(line.split()[0]) for line in (cli.__doc__ or "").partition("Exit status:")[2].splitlines() if line.strip()
    }
    assert listed == {kind.code for kind in failures()} | {0, errors.INTERRUPTED}


@pytest.mark.parametrize(
    ("codes", "status"),
    [([], 0), ([1], 1), ([3, 1], 3), ([1, 4, 3], 4), ([5, 1], 5), ([6, 5], 6), ([2], 2), ([130, 4], 130)],
)
def test_the_worst_status_stands_for_all(codes: list[int], status: int) -> None:
    assert errors.worst(codes) == status
