"""Waves are as large as link, disk and cap allow: nothing expires, no copy is paid for longer than it must be."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate_v2 import conveyor
from migrate_v2.conveyor import DAY, HOUR, MARGIN, Link, Lot, Wave

MB = 10**6
NOON = 20_000 * DAY + 12 * HOUR
FAST = Link(100 * MB, 1000, measured=True)


def wave(lots: list[Lot] | None = None, now: float = NOON, link: Link = FAST, **how: object) -> Wave:
    asked: dict[str, object] = {
        "storage_class": "GLACIER", "tier": "Standard", "days": 7, "exactly": False, "horizon": 2 * HOUR,
        "outstanding": 0, "cap": 10**9, "disk": None, **how,
    }  # fmt: skip
    return conveyor.wave(lots or [], now, link, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [0.0, 1.0, 12 * HOUR, DAY - 1])
@pytest.mark.parametrize("days", [1, 7])
def test_copies_go_at_a_midnight(asked: float, days: int) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects.html: days after the request, to the next 00:00."""
    until = conveyor.expires(20_000 * DAY + asked, days)
    assert until % DAY == 0
    assert days * DAY <= until - (20_000 * DAY + asked) < (days + 1) * DAY


@pytest.mark.parametrize(
    ("storage_class", "wanted", "tier"),
    [
        ("GLACIER", "Expedited", "Expedited"),
        ("DEEP_ARCHIVE", "Expedited", "Standard"),
        ("DEEP_ARCHIVE", "Bulk", "Bulk"),
        ("INTELLIGENT_TIERING", "Expedited", "Expedited"),
    ],
)
def test_the_tier_is_one_that_the_class_has(storage_class: str, wanted: str, tier: str) -> None:
    assert conveyor.tier_for(storage_class, wanted) == tier
    assert conveyor.expected(storage_class, tier)[0] < conveyor.expected(storage_class, tier)[1]


def test_a_wave_keeps_the_link_busy_for_the_horizon_and_for_one_day_only() -> None:
    assert wave() == Wave(1, 2 * 3600 * 1000, 2 * 3600 * 100 * MB, "time")


def test_what_is_on_its_way_is_counted_in() -> None:
    """Twelve minutes of the link are asked for already, and come back when this would."""
    before = Lot(NOON + 5 * HOUR, math.inf, 1, 720 * 100 * MB)
    assert wave([before]).bytes == (2 * 3600 - 720) * 100 * MB
    asked = wave([replace(before, bytes=8 * 3600 * 100 * MB)])
    assert (asked.objects, asked.bytes, asked.why) == (0, 0, "time")


def test_what_comes_back_later_leaves_the_link_to_what_is_faster() -> None:
    slower = Lot(NOON + 48 * HOUR, NOON + 10 * DAY, 1, 3600 * 100 * MB)
    assert wave([slower]) == wave()
    assert wave([replace(slower, expires=NOON + 50 * HOUR)]).bytes == 0, "it would come too late for its own expiry"
    assert wave([replace(slower, bytes=10**13)]).bytes == 0, "it may come back early, and all at once"


def test_ordinary_objects_use_the_time_until_the_archived_are_back() -> None:
    assert wave([Lot(NOON, math.inf, 1, 5 * 3600 * 100 * MB)]) == wave()
    assert wave([Lot(NOON, math.inf, 1, 6 * 3600 * 100 * MB)]).bytes == 3600 * 100 * MB


@pytest.mark.parametrize(("outstanding", "objects"), [(0, 10), (7, 3), (10, 0), (12, 0)])
def test_the_cap(outstanding: int, objects: int) -> None:
    asked = wave(outstanding=outstanding, cap=10)
    assert (asked.objects, asked.capped) == (objects, True)


def test_no_more_than_the_disk_holds_what_is_on_its_way_included() -> None:
    assert wave(disk=1000 * MB) == Wave(1, 7200 * 1000, 950 * MB, "disk")
    assert wave([Lot(NOON, math.inf, 1, 900 * MB)], disk=1000 * MB).bytes == 50 * MB
    assert wave([Lot(NOON, math.inf, 1, 950 * MB)], disk=1000 * MB) == Wave(7, 0, 0, "disk")


def test_days_are_as_few_as_the_fetch_needs() -> None:
    assert wave(storage_class="DEEP_ARCHIVE").days == 1
    assert wave(storage_class="DEEP_ARCHIVE", tier="Bulk").days == 2  # at noon: two days and a half, less an hour
    assert wave(storage_class="DEEP_ARCHIVE", tier="Bulk", now=NOON + 12 * HOUR - 1).days == 3
    assert wave(horizon=30 * HOUR).days == 4


def test_an_operator_s_days_are_taken_as_they_are_and_those_of_an_unmeasured_link_too() -> None:
    assert wave(exactly=True).days == 7
    assert wave(link=Link(100 * MB, 1000, measured=False)).days == 7
    assert wave(exactly=True, days=1, storage_class="DEEP_ARCHIVE", tier="Bulk").bytes > 0


def test_more_is_not_asked_for_than_can_be_fetched_in_the_days_that_there_are() -> None:
    """At noon, one day: 36 h less 5 h for the way back and one to spare, over a slow link, in two passes."""
    assert wave(days=1, horizon=7 * DAY).bytes == 9 * 3600 * 100 * MB


def test_one_object_may_need_more_days_than_any_wave() -> None:
    days = conveyor.days_for(10 * DAY, NOON, "GLACIER", "Standard", 1)
    done = NOON + 5 * HOUR + 10 * DAY
    assert conveyor.expires(NOON, days - 1) - MARGIN < done <= conveyor.expires(NOON, days) - MARGIN


def test_the_link_is_assumed_until_a_transfer_is_worth_measuring() -> None:
    assert conveyor.link(15, 0.5) == Link(conveyor.ASSUMED, conveyor.OBJECTS_A_SECOND, measured=False)
    assert conveyor.link(10**12, 10_000) == Link(100 * MB, conveyor.OBJECTS_A_SECOND, measured=True)


def test_the_guard_tells_what_cannot_be_fetched_in_time() -> None:
    soon = NOON + 2 * HOUR
    little, much = Lot(NOON, soon, 1, 60 * 100 * MB), Lot(NOON, soon, 1, 2 * 3600 * 100 * MB)
    assert conveyor.at_risk([little], NOON, FAST) is None
    assert conveyor.at_risk([much], NOON, FAST) == soon
    assert conveyor.at_risk([little, Lot(NOON, math.inf, 1, 2 * 3600 * 100 * MB)], NOON, FAST) == soon
    assert conveyor.at_risk([replace(much, expires=NOON + DAY)], NOON, FAST) is None, "there is time to look again"
    assert conveyor.at_risk([replace(much, ready=NOON + 1)], NOON, FAST) is None
    days = conveyor.renewal([replace(much, bytes=much.bytes * 20)], NOON, FAST)
    assert (days, conveyor.renewal([little], NOON, FAST)) == (6, 1)


@pytest.mark.parametrize(
    ("since", "storage_class", "tier", "seconds"),
    [
        (0.0, "GLACIER", "Expedited", 60.0),
        (200.0, "GLACIER", "Expedited", 60.0),
        (0.0, "GLACIER", "Standard", HOUR),
        (2.5 * HOUR, "GLACIER", "Standard", HOUR / 2),
        (4 * HOUR, "GLACIER", "Standard", 600.0),
        (47 * HOUR, "DEEP_ARCHIVE", "Bulk", HOUR),
    ],
)
def test_the_next_look_is_when_there_may_be_something_to_see(
    since: float, storage_class: str, tier: str, seconds: float
) -> None:
    assert conveyor.next_look([(NOON - since, storage_class, tier)], NOON) == seconds
    assert conveyor.next_look([], NOON) == HOUR


# -- two million objects, and a clock that is not waited for


@dataclass
class Chunk:
    """Objects that come back at the same moment."""

    storage_class: str
    asked: float
    back: float
    expires: float
    objects: int
    bytes: int


@dataclass
class World:
    """S3, a link and the program's looks at both. Nothing in it grows with the number of objects but the clock."""

    chance: random.Random
    left: dict[str, int]  # objects not asked for, by class
    size: int  # of an object
    tier: str
    cap: int
    disk: int
    link: float  # bytes a second in truth
    now: float
    on_their_way: deque[Chunk] = field(default_factory=deque)
    ready: list[Chunk] = field(default_factory=list)
    at_work: list[Chunk] = field(default_factory=list)  # the pass under way, in no order that anybody promised
    fetched: int = 0
    measured: tuple[float, float] = (0.0, 0.0)
    expired: int = 0
    renewed: int = 0
    paid_days: float = 0.0  # bytes times days that were asked for
    most: int = 0
    widest: int = 0
    idle: float = 0.0

    def lots(self) -> list[Lot]:
        """As the state file gives them: by class and hour, and by midnight."""
        way: dict[tuple[str, int], list[float]] = {}
        for c in self.on_their_way:
            late = c.asked + conveyor.expected(c.storage_class, self.tier)[1]
            sums = way.setdefault((c.storage_class, int(c.asked // HOUR)), [0.0, 0, 0, math.inf])
            sums[:] = max(sums[0], late), sums[1] + c.objects, sums[2] + c.bytes, min(sums[3], c.expires)
        here: dict[float, list[float]] = {}
        for c in (*self.ready, *self.at_work):
            sums = here.setdefault(c.expires, [self.now, 0, 0])
            sums[1:] = sums[1] + c.objects, sums[2] + c.bytes
        lots = [Lot(sums[0], sums[3], int(sums[1]), int(sums[2])) for sums in way.values()]
        return lots + [Lot(self.now, expires, int(sums[1]), int(sums[2])) for expires, sums in here.items()]

    def ask(self) -> None:
        link = conveyor.link(int(self.measured[0]), self.measured[1])
        if conveyor.at_risk(self.lots(), self.now, link) is not None:
            self.renewed += 1
        lots = self.lots()
        for storage_class in sorted(self.left, key=lambda c: conveyor.expected(c, self.tier), reverse=True):
            outstanding = sum(c.objects for c in self.on_their_way)
            asked = conveyor.wave(
                lots, self.now, link, storage_class=storage_class, tier=self.tier, days=7, exactly=False,
                horizon=2 * HOUR, outstanding=outstanding, cap=self.cap, disk=self.disk,
            )  # fmt: skip
            objects = min(self.left[storage_class], asked.objects, asked.bytes // self.size)
            if not objects and self.left[storage_class] and not lots:
                objects = 1
            if not objects:
                continue
            self.left[storage_class] -= objects
            early, late = conveyor.expected(storage_class, self.tier)
            for part in _parts(objects, 3):
                kept = math.inf
                if storage_class != "INTELLIGENT_TIERING":
                    kept = conveyor.expires(self.now, asked.days)
                    self.paid_days += part * self.size * asked.days
                back = self.now + self.chance.uniform(early, late)
                self.on_their_way.append(Chunk(storage_class, self.now, back, kept, part, part * self.size))
            self.most = max(self.most, outstanding + objects)
            lots = self.lots()
            in_all = sum(lot.bytes for lot in lots)
            assert in_all <= max(self.disk, self.size), "more than the disk holds"

    def pass_time(self, seconds: float) -> None:
        """The link brings what is ready, a pass at a time, at its own pace."""
        until = self.now + seconds
        rate = self.link * self.chance.uniform(0.75, 1.1)
        while self.now < until:
            back = [c for c in self.on_their_way if c.back <= self.now]
            self.on_their_way = deque(c for c in self.on_their_way if c.back > self.now)
            self.ready += back
            if not self.at_work:
                self.at_work, self.ready = self.ready, []
                self.chance.shuffle(self.at_work)
            if not self.at_work:
                following = min((c.back for c in self.on_their_way), default=until)
                self.idle += min(following, until) - self.now
                self.now = min(following, until)
                continue
            chunk = self.at_work[-1]
            needs = max(chunk.bytes / rate, chunk.objects / 300)
            spent = min(needs, until - self.now)
            part = spent / needs
            done = chunk.objects if part == 1 else int(chunk.objects * part)
            self.now += spent
            self.measured = (self.measured[0] + chunk.bytes * part, self.measured[1] + spent)
            self.fetched += done
            chunk.objects, chunk.bytes = chunk.objects - done, chunk.bytes - int(chunk.bytes * part)
            if self.now > chunk.expires:
                self.expired += chunk.objects + done
            if part == 1:
                self.at_work.pop()
        self.widest = max(self.widest, len(self.on_their_way) + len(self.ready) + len(self.at_work))


def _parts(whole: int, count: int) -> list[int]:
    sizes = [whole // count + (n < whole % count) for n in range(count)]
    return [size for size in sizes if size]


def run(world: World, objects: int) -> float:
    began = world.now
    while world.fetched < objects:
        world.ask()
        world.pass_time(HOUR)
        assert world.now - began < 400 * DAY, "it does not come to an end"
    return world.now - began


def world(seed: int, size: int, tier: str, cap: int, hour: float, objects: int, disk: int = 10**15) -> World:
    chance = random.Random(seed)
    left = {"GLACIER": objects // 2, "DEEP_ARCHIVE": objects - objects // 2 - objects // 10}
    left["INTELLIGENT_TIERING"] = objects // 10
    return World(chance, left, size, tier, cap, disk, link=125e6 * 0.8, now=20_000 * DAY + hour * HOUR)


@pytest.mark.parametrize("tier", ["Standard", "Bulk"])
def test_two_million_objects_over_a_gigabit_link(tier: str) -> None:
    """100 TB: nothing expires, the link is hardly ever idle once it has begun, and copies are bought for a day or two."""
    objects = 2_000_000
    cap = 100_000 if tier == "Standard" else 1_000_000
    w = world(7, 50 * MB, tier, cap, 9.5, objects)
    seconds = run(w, objects)
    assert (w.expired, w.renewed) == (0, 0)
    assert w.most <= cap
    assert w.widest < 600, "flat: some lots, whatever the objects"
    ideal = objects * 50 * MB / (w.link * 0.925)
    slowest = conveyor.expected("DEEP_ARCHIVE", tier)[1]
    print(tier, seconds / ideal, w.idle / seconds, w.paid_days / (0.9 * objects * 50 * MB), w.widest)
    assert seconds < 1.2 * ideal + 2 * slowest
    assert w.paid_days / (0.9 * objects * 50 * MB) < (3.2 if tier == "Bulk" else 1.7)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([4_000, MB, 20 * MB, 150 * MB, 2000 * MB]),
    tier=st.sampled_from(["Standard", "Bulk", "Standard"]),
    cap=st.sampled_from([20_000, 100_000, 1_000_000]),
    hour=st.floats(0, 23.99),
    disk=st.sampled_from([3 * 10**12, 10**15]),
)
def test_nothing_expires_whatever_the_sizes_the_hour_the_cap_and_the_disk(
    seed: int, size: int, tier: str, cap: int, hour: float, disk: int
) -> None:
    objects = min(200_000, 10**14 // size)
    w = world(seed, size, tier, cap, hour, objects, disk)
    # The disk is emptied by nobody: it is as large as what comes, and what is on its way has to fit besides.
    run(w, objects)
    assert (w.expired, w.renewed) == (0, 0)
    assert w.most <= cap
    assert w.widest < 3000
