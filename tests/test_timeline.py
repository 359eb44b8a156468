"""Times follow from the line, the timetable, the number of objects and what Glacier takes; worked out by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate_v2.errors import BadUsage
from migrate_v2.settings import bandwidth
from migrate_v2.timeline import Load, Pace, Timeline, against, arrive, lay_out, line_speed, months, waves_of

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
MB = 1 << 20
FAST = Pace(100 * MB, "--throughput")


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("500Mbit/s", 62.5e6), ("1 Gbit/s", 125e6), ("8bit/s", 1), ("100Mbps", 12.5e6), ("1.5Mb/s", 187500),
        ("60MB/s", 60 * MB), ("60MiB/s", 60 * MB), ("2Mibit/s", 2 * MB / 8), ("5kB/s", 5120),
    ],
)  # fmt: skip
def test_bits_are_bits_and_bytes_are_bytes(text: str, speed: float) -> None:
    assert line_speed(text) == speed


@pytest.mark.parametrize("text", ["", "fast", "500", "500M", "500Mbit", "0Mbit/s", "-1MB/s", "5XB/s", "1e9bit/s"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(BadUsage, match="is not the speed of a line"):
        line_speed(text)


def test_by_the_line_or_by_the_number_of_objects_whichever_is_slower() -> None:
    assert arrive(NOON, Load(1, 6000 * MB), FAST) == NOON + timedelta(minutes=1)
    assert arrive(NOON, Load(300 * 60, 1), FAST) == NOON + timedelta(minutes=1)
    assert arrive(NOON, Load(1, 1, requests=30 * 8 * 60), FAST) == NOON + timedelta(minutes=1, seconds=1 / 300)
    assert arrive(NOON, Load(1, 1), Pace(None, "unknown")) is None
    assert arrive(NOON, Load(5, 0), Pace(None, "unknown")) is not None, "nothing goes over the line"


def test_a_timetable_is_walked_through() -> None:
    limit = bandwidth("08:00 10MB/s, 18:00 off")
    pace = Pace(100 * MB, "--throughput", limit=limit)
    # From 12:00 to 18:00 10 MB/s: 216,000 MB; then 100 MB/s.
    assert arrive(NOON, Load(1, 216_000 * MB), pace) == NOON + timedelta(hours=6)
    assert arrive(NOON, Load(1, 216_000 * MB + 360_000 * MB), pace) == NOON + timedelta(hours=7)
    # A day has 10 h at 10 and 14 h at 100: 5,400,000 MB. Twenty of them later it is noon again.
    assert arrive(NOON, Load(1, 20 * 5_400_000 * MB), pace) == NOON + timedelta(days=20)
    always = Pace(None, "unknown", limit=bandwidth("00:00 10MB/s, 12:00 20MB/s"))
    assert arrive(NOON, Load(1, 20 * 3600 * MB), always) == NOON + timedelta(hours=1), "a limit is at least a limit"
    assert arrive(NOON, Load(1, 1), Pace(None, "unknown", limit=limit)) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**15), st.integers(0, 10**13), st.integers(0, 86399))
def test_more_bytes_never_arrive_earlier(size: int, more: int, second: int) -> None:
    pace = Pace(50 * MB, "", limit=bandwidth("06:30 1MB/s, 07:00 off, 22:00 20MB/s"))
    start = NOON + timedelta(seconds=second)
    first, second_ = arrive(start, Load(1, size), pace), arrive(start, Load(1, size + more), pace)
    assert first is not None and second_ is not None
    assert first <= second_ + timedelta(microseconds=2)


def test_waves_come_back_one_after_the_other_and_are_fetched_meanwhile() -> None:
    waves = waves_of(Load(250, 25_000 * MB), 100)
    assert [(w.objects, w.bytes // MB) for w in waves] == [(83, 8333), (83, 8333), (84, 8333)]
    assert sum(w.bytes for w in waves) == 25_000 * MB
    line = lay_out(NOON, Load(10, 360_000 * MB), waves, 5, 7, Load(260, 0), FAST)
    restores = [span for span in line.spans if span.kind == "restore"]
    transfers = [span for span in line.spans if span.kind == "transfer"]
    assert [span.start.hour for span in restores] == [12, 17, 22]
    assert restores[0].end >= NOON + timedelta(hours=5)
    assert transfers[0].end == NOON + timedelta(hours=1), "what is at hand does not wait"
    assert [t.start for t in transfers[1:]] == [r.end for r in restores]
    assert line.end is not None and line.end >= transfers[-1].end
    assert line.late == ()


def test_copies_that_expire_before_they_are_fetched_are_told() -> None:
    slow = Pace(MB, "--throughput")
    line = lay_out(NOON, Load(0, 0), waves_of(Load(2, 2 * 86_400 * MB), 1), 5, 1, Load(0, 0), slow)
    assert line.late == (2,)


def test_an_unknown_line_is_no_end() -> None:
    line = lay_out(NOON, Load(1, MB), waves_of(Load(1, MB), 10), 5, 7, Load(2, 2 * MB), Pace(None, "unknown"))
    assert line.end is None
    assert [span.kind for span in line.spans] == ["restore"]


def test_months_of_a_transfer() -> None:
    assert months(NOON, None) == months(NOON, NOON) == (1,)
    assert months(NOON, NOON + timedelta(days=1)) == (86400,)
    parts = months(NOON, datetime(2027, 1, 2, 0, 0, tzinfo=UTC))
    assert [round(part / 86400, 1) for part in parts] == [5.5, 31.0, 1.0]


def ends(at: dict[str, float], size: int) -> object:
    """A job that takes so many hours of restores by each tier, and then goes over the line."""

    def end_at(line: float | None, tier: str) -> datetime | None:
        start = datetime.now().astimezone()
        return None if line is None else start + timedelta(hours=at[tier], seconds=size / line)

    return end_at


def deadline(days: int, at: dict[str, float], size: int, pace: Pace) -> object:
    by = (datetime.now().astimezone() + timedelta(days=days)).date()
    return against(by, ends(at, size), pace, "Bulk", tuple(at))  # type: ignore[arg-type]


def test_a_deadline_says_what_would_help() -> None:
    hours = {"Bulk": 48.0, "Standard": 12.0}
    kept = deadline(10, hours, 1, FAST)
    assert (kept.fits, kept.advice) == (True, ())  # type: ignore[attr-defined]
    faster = deadline(1, hours, 1, FAST)
    assert faster.fits is False  # type: ignore[attr-defined]
    assert "with Standard restores it would fit" in faster.advice  # type: ignore[attr-defined]
    line = deadline(3, {"Bulk": 1.0}, 100 * 86_400 * MB, Pace(MB, ""))
    assert any("Mbit/s would do" in said for said in line.advice)  # type: ignore[attr-defined]
    never = deadline(0, {"Bulk": 2000.0}, 1, FAST)
    assert "no line is fast enough" in never.advice[0]  # type: ignore[attr-defined]
    unknown = deadline(3, hours, 86_400 * MB, Pace(None, "unknown"))
    assert unknown.fits is None  # type: ignore[attr-defined]
    assert any("--throughput" in said for said in unknown.advice)  # type: ignore[attr-defined]


def test_the_line_that_is_advised_is_enough() -> None:
    needed = []

    def end_at(line: float | None, tier: str) -> datetime | None:
        assert line is not None
        needed.append(line)
        return datetime.now().astimezone() + timedelta(seconds=10 * 86_400 * MB / line)

    told = against(date.today() + timedelta(days=1), end_at, Pace(MB, ""), "Standard", ())
    said = float(told.advice[0].split()[3].replace(",", ""))
    assert timedelta(seconds=10 * 86_400 * MB / (said * 1e6 / 8)) < timedelta(days=2)
    assert isinstance(told.by, date)
    assert Timeline(NOON, (), None).late == ()
