"""What plan goes by: the line that was given or measured, the buckets that were scanned, the engine's own part sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from migrate_v2 import outlook, settings
from migrate_v2.errors import Refused
from migrate_v2.model import ObjectVersion
from migrate_v2.outlook import Wish
from migrate_v2.pipeline import Tools

MiB = 1 << 20
Make = Callable[..., Tools]


def no_network() -> None:
    raise AssertionError("S3 is not asked here")


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Make]:
    """Tools over a state file in which `photos` was scanned and `half` was begun."""
    made: list[Tools] = []

    def make(**given: str) -> Tools:
        flags = {"state_db_path": str(tmp_path / "s.db"), **given}
        made.append(Tools(settings.load(flags, None, {}, tmp_path), no_network, {}))  # type: ignore[arg-type]
        return made[-1]

    with make() as first:
        for bucket in ("photos", "half"):
            held = first.store.begin_scan(bucket, account="1", region="", endpoint="", versioning="", uploads=0)
            v = ObjectVersion(bucket, "k", "null", 100 * MiB, "e", "STANDARD", datetime(2020, 1, 2, tzinfo=UTC), True)
            first.store.add_listed(bucket, held.scan, [v], [], None)
            if bucket == "photos":
                first.store.end_scan(bucket, held.scan)
    yield make
    for one in made[1:]:
        one.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("given", "measured", "line", "source"),
    [
        (5e6, "7e6", 5e6, "--throughput"),
        (None, "7e6", 7e6, "the last `diagnose`"),
        (None, "", None, "unknown"),
        (None, "0", None, "the last `diagnose`"),
    ],
)
def test_the_line_is_the_one_given_else_the_one_measured(
    tools: Make, given: float | None, measured: str, line: float | None, source: str
) -> None:
    made = tools()
    made.store.remember("diagnose_throughput", measured)
    pace = outlook._asking(made, Wish(line=given)).pace
    assert (pace.line, pace.source) == (line, source)


def test_what_was_not_scanned_to_the_end_is_not_planned(tools: Make) -> None:
    assert outlook._to_plan(["photos"], tools(), quick=False) == ["photos"]
    for names in (["half"], ["photos", "never"], None):
        with pytest.raises(Refused, match=r"half was not|never was not"):
            outlook._to_plan(names, tools(), quick=False)
    with pytest.raises(Refused, match="nothing was scanned yet"):
        outlook._to_plan(None, tools(state_db_path="none.db"), quick=False)
    assert not Path("none.db").exists()


def test_the_excluded_are_planned_where_they_are_named(tools: Make, tmp_path: Path) -> None:
    (tmp_path / "migrate-v2.toml").write_text('excluded_buckets = ["half"]\n')
    assert outlook._to_plan(None, tools(), quick=False) == ["photos"]


@pytest.mark.parametrize("engine", ["cli", "native"])
def test_ranges_are_those_of_the_engine(tools: Make, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "_asks_every_tag", lambda _: False)
    way = outlook._way("photos", tools(engine=engine, multipart_chunksize="32MiB"), Wish())
    assert (way.by_cli, way.native) == (engine == "cli", engine == "native")
    assert way.chunk == 32 * MiB


def test_looking_for_bucket_json_makes_no_folder(tools: Make, tmp_path: Path) -> None:
    made = tools(local_base_path=str(tmp_path / "home"))
    assert not outlook._configured("photos", made)
    assert not (tmp_path / "home").exists()
    (folder := tmp_path / "home/.migrate-v2/photos").mkdir(parents=True)
    (folder / "bucket.json").touch()
    assert outlook._configured("photos", made)
