from __future__ import annotations

import os
from pathlib import Path

import pytest

from migrate_v2.edges.s3 import check_bucket_name
from migrate_v2.errors import BadUsage, Refused
from migrate_v2.ownfiles import (
    bucket_folder,
    could_be_bucket,
    in_destination,
    must_be_outside,
    must_be_own_state,
    must_not_be_state,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "home"
    (base / "photos" / "2019").mkdir(parents=True)
    return base


@pytest.mark.parametrize(
    "name",
    [
        "photos",
        "migrate-v2.toml",
        "policies",
        "OLD_Bucket",
        "s3_migration_state.db.run",
        "a..b",
        "ab",
        ".x",
        "_x",
        "x_",
    ],
)
def test_could_be_bucket_agrees_with_the_check_of_bucket_names(name: str) -> None:
    try:
        check_bucket_name(name)
    except BadUsage:
        assert not could_be_bucket(name)
    else:
        assert could_be_bucket(name)


def test_bucket_folder_is_found_by_marker_or_by_name(base: Path, tmp_path: Path) -> None:
    inside = [base / "photos" / "x", base / "photos" / "2019" / "x", base / "absent" / "x"]
    outside = [base / "x", base / ".migrate-v2" / "photos" / "x", base / ".hidden" / "x", tmp_path / "x", base]
    assert [bucket_folder(path, None) for path in inside] == [None] * 3
    assert [bucket_folder(path, base) for path in inside] == [base / "photos", base / "photos", base / "absent"]
    assert [bucket_folder(path, None, base) for path in inside] == [base / "photos", base / "photos", base / "absent"]
    assert [bucket_folder(path, base) for path in outside] == [None] * 5
    (base / ".migrate-v2").mkdir()
    assert [bucket_folder(path, None) for path in inside] == [base / "photos", base / "photos", base / "absent"]
    assert [bucket_folder(path, None) for path in outside] == [None] * 5
    arrivals = base / ".migrate-v2" / "photos" / "incoming"
    assert bucket_folder(arrivals / "migrate-v2.toml", None) == bucket_folder(arrivals / "a" / "x", None) == arrivals


def test_bucket_folder_is_found_through_links_and_dots(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(base / "photos")
    (tmp_path / "file").symlink_to(base / "photos" / "x")
    (tmp_path / "home2").symlink_to(base)
    (base / "photos" / "out").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "link" / "x", tmp_path / "file", tmp_path / "a" / ".." / "home" / "photos" / "x"):
        assert bucket_folder(path, base) == base / "photos"
        assert bucket_folder(path, tmp_path / "home2") == base / "photos"
    assert bucket_folder(base / "photos" / "out", base) == base / "photos"
    monkeypatch.chdir(base / "photos")
    assert bucket_folder(Path("x"), base) == base / "photos"
    assert bucket_folder(Path("../x"), base) is None


def test_must_be_outside_refuses_a_folder_that_a_bucket_may_have(base: Path) -> None:
    assert must_be_outside(base / "plan.html", "the page", base) == base / "plan.html"
    with pytest.raises(Refused):
        must_be_outside(base / "policies", "the folder", base, folder=True)
    assert must_be_outside(base.parent / "policies", "the folder", base, folder=True)


def test_must_be_own_state_in_the_destination_needs_a_name_that_no_bucket_has(base: Path) -> None:
    default = base / "s3_migration_state.db"
    assert must_be_own_state(default, base) == default and in_destination(default, base)
    for name in ("state.db", "photos/s3_migration_state.db"):
        with pytest.raises(Refused):
            must_be_own_state(base / name, base)
        os.makedirs(base / ".migrate-v2", exist_ok=True)
        with pytest.raises(Refused):
            must_be_own_state(base / name, None)
    elsewhere = base.parent / "state.db"
    assert must_be_own_state(elsewhere, base) == elsewhere and not in_destination(elsewhere, base)


def test_must_not_be_state_refuses_a_bucket_at_the_state_files_own_names(base: Path) -> None:
    state = base / "s3_migration_state.db"
    for name in ("s3_migration_state.db", "s3_migration_state.db.run", "s3_migration_state.log"):
        assert could_be_bucket(name)
        with pytest.raises(Refused):
            must_not_be_state(name, state, base)
        must_not_be_state(name, base.parent / state.name, base)
    must_not_be_state("photos", state, base)
