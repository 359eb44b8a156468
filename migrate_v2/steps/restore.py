"""What is archived has been asked for, once, and what Glacier says of it is in the rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event as Flag

from migrate_v2 import conveyor
from migrate_v2.conveyor import Bought, Link, Lot, Wave
from migrate_v2.edges.s3 import S3, Denied, Gone, Moved, Refusal, Restorer, Throttled, Unreachable
from migrate_v2.edges.store import Change, Store
from migrate_v2.errors import Failure
from migrate_v2.events import Ended, Event, Found, Noted, Progress, Started, Warned
from migrate_v2.flow import batched, in_threads
from migrate_v2.keys import are, count_of
from migrate_v2.model import ARCHIVED_CLASSES, CHANGED, VANISHED, Answer, Cause, FileState, Head, ObjectVersion, Row

_THREADS = 32
# Requests between two commits: what a kill leaves to be asked about.
_BATCH = 200
# A LIST costs as much as 12 HEADs, and takes as long as some of them.
WORTH_A_LIST = 12
LISTED = 1000

Where = tuple[Row, bool, datetime | None]  # is it back, until when
Price = Callable[[Sequence[Bought]], str]  # what these cost, in words


@dataclass(frozen=True, slots=True)
class Means:
    """What a wave is measured by. `disk`: bytes that the destination holds yet, None where nobody said which it is."""

    days: int
    exactly: bool  # an operator said so many days
    tier: str
    at_most: int
    horizon: float  # seconds until the next time that more is asked for, or twice that
    link: Link
    price: Price
    disk: int | None = None
    beside: bool = True  # the ordinary objects are fetched before and beside the archived ones


# -- how far it is


def refresh(bucket: str, store: Store, s3: S3, *, rows_per_commit: int) -> Iterator[Event]:
    """Asks S3 how far each restore is: 1,000 in one listing where they lie close together, one by one where they do not.

    A listing is believed where it says that a restore is under way or back. What it is silent about is asked for by HEAD:
    it may be lost, or have expired, or the endpoint lists no restores at all.
    """
    began = time.monotonic()
    back = _Sum()
    store.looked_at_restores(bucket)
    if not store.restoring(bucket):
        return
    listing = True
    for rows in batched(store.on_their_way(bucket), LISTED):
        seen: list[Where] = []
        silent: list[Row] = []
        if listing:
            seen, silent, listing = _by_listing(bucket, rows, s3)
        else:
            silent = list(rows)
        yield from _told(bucket, store, seen, silent, s3, back)
    for rows in batched(store.unanswered(bucket), rows_per_commit):
        yield from _told(bucket, store, (), rows, s3, back)
    if back.objects:
        yield Ended(bucket, "wait", back.objects, back.bytes, time.monotonic() - began)


@dataclass(slots=True)
class _Sum:
    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


def _by_listing(bucket: str, rows: Sequence[Row], s3: S3) -> tuple[list[Where], list[Row], bool]:
    """(what the listing tells, the rows to HEAD, is the next thousand worth a listing): in key order, each page from the
    first row that no page has covered."""
    seen: list[Where] = []
    silent = [row for row in rows if row.version.storage_class not in ARCHIVED_CLASSES]
    left = [row for row in rows if row.version.storage_class in ARCHIVED_CLASSES]
    while len(left) >= WORTH_A_LIST:
        listed, whole = s3.listed_from(bucket, left[0].key)
        found = {(v.key, v.version_id): v for v in listed}
        last = listed[-1].key.encode("utf-8", "surrogatepass") if listed else b""
        covered = next(
            (n for n, r in enumerate(left) if not whole and r.key.encode("utf-8", "surrogatepass") > last), len(left)
        )
        told = 0
        for row in left[: max(1, covered)]:
            v = found.get((row.key, row.version.version_id))
            if v is None or v.restore_ongoing is None or (v.etag, v.size) != (row.version.etag, row.version.size):
                silent.append(row)
            else:
                told += 1
                seen.append((row, not v.restore_ongoing, v.restore_expiry))
        left = left[max(1, covered) :]
        if told < WORTH_A_LIST:
            return seen, silent + left, told > 0
    return seen, silent + left, True


def _told(
    bucket: str, store: Store, seen: Iterable[Where], asked: Sequence[Row], s3: S3, back: _Sum
) -> Iterator[Event]:
    known = [(row.version, is_back, until) for row, is_back, until in seen]
    lost: list[ObjectVersion] = []
    broken: list[Change] = []

    def ask(row: Row, _: Flag) -> Head | Failure:
        try:
            return s3.head(row.version)[0]
        except (Gone, Moved, Denied, Refusal) as failure:
            return failure

    for answer in in_threads(ask, asked, threads=_THREADS):
        if answer is None:
            continue
        row, head = answer
        if isinstance(head, Failure):
            broken.append(_failed(row, head))
        elif head.restore_ongoing is None and (head.storage_class in ARCHIVED_CLASSES or head.archive_status):
            # Neither under way nor back: the request was never sent, or the copy has expired since.
            lost.append(row.version)
        else:
            # INTELLIGENT_TIERING moves up for good and then says nothing of a restore, as what left Glacier since.
            known.append((row.version, not head.restore_ongoing, head.restore_expiry))
    store.restore_seen(known)
    store.restore_gone(lost)
    store.change(broken)
    for version, is_back, _ in known:
        if is_back:
            back.add(version.size)
    yield from _not_restored(bucket, broken)


def look_into_tiering(bucket: str, store: Store, s3: S3, *, rows_per_commit: int) -> Iterator[Event]:
    """Finds out which objects of INTELLIGENT_TIERING are archived, where the bucket has a rule that archives them."""
    tiering = sum(t.objects for t in store.tallies(bucket) if t.storage_class == "INTELLIGENT_TIERING")
    if not tiering or next(store.in_unknown_tier(bucket), None) is None or not s3.archives_by_tiering(bucket):
        return

    def ask(row: Row, _: Flag) -> str | Failure:
        try:
            return s3.head(row.version)[0].archive_status
        except (Gone, Moved, Denied, Refusal) as failure:
            return failure

    archived = 0
    for rows in batched(store.in_unknown_tier(bucket), rows_per_commit):
        answers = [answer for answer in in_threads(ask, rows, threads=_THREADS) if answer is not None]
        broken = [_failed(row, said) for row, said in answers if isinstance(said, Failure)]
        tiers = [(row.version, said) for row, said in answers if isinstance(said, str)]
        store.tier_seen(tiers)
        store.change(broken)
        archived += sum(tier != "" for _, tier in tiers)
        yield from _not_restored(bucket, broken)
    if archived:
        yield Noted(bucket, f"{count_of(archived, 'object')} of INTELLIGENT_TIERING {are(archived)} in an archive tier")


# -- asking


def request(
    bucket: str,
    store: Store,
    restorer: Restorer,
    means: Means,
    *,
    said: set[str] | None = None,
    failed_in_job: bool = False,
    clock: Callable[[], float] = time.time,
) -> Iterator[Event]:
    """Asks for what is archived, class by class, the slowest first: as much as a wave holds, and says what keeps it from
    being more. `said`: what need not be said again. `failed_in_job`: only for what jobs have left."""
    classes = {t.storage_class for t in store.tallies(bucket) if _to_request(t.state, t.archived, t.verdict)}
    tiers = {one: conveyor.tier_for(one, means.tier) for one in classes}
    sent = _Sum()
    began = time.monotonic()
    for storage_class in sorted(classes, key=lambda one: conveyor.expected(one, tiers[one]), reverse=True):
        tier = tiers[storage_class]
        chosen = _choose(bucket, store, means, storage_class, tier, clock(), failed_in_job=failed_in_job)
        yield from _send(bucket, store, restorer, means, chosen, storage_class, tier, sent)
        if chosen.stopped and (said is None or f"{bucket} {chosen.why}" not in said):
            if said is not None:
                said.add(f"{bucket} {chosen.why}")
            yield Noted(bucket, f"the rest of {storage_class} is asked for later: {chosen.why}")
    if sent.objects:
        yield Ended(bucket, "restore", sent.objects, sent.bytes, time.monotonic() - began)


def _to_request(state: FileState, archived: bool, verdict: str) -> bool:
    return state is FileState.DISCOVERED and archived and not verdict


def rows_of_a_wave(
    bucket: str, store: Store, means: Means, storage_class: str, tier: str
) -> tuple[Iterable[Row], Callable[[], int]]:
    """The rows, and the days for which, once the first of them is drawn."""
    chosen = _choose(bucket, store, means, storage_class, tier, time.time())
    return chosen, lambda: chosen.days


def _choose(
    bucket: str,
    store: Store,
    means: Means,
    storage_class: str,
    tier: str,
    moment: float,
    *,
    failed_in_job: bool = False,
) -> _Chosen:
    lots = [lot for lot in (*store.lots(moment), *_ordinary(bucket, store, means, moment)) if lot.objects]
    wave = conveyor.wave(
        lots,
        moment,
        means.link,
        storage_class=storage_class,
        tier=tier,
        days=means.days,
        exactly=means.exactly,
        horizon=means.horizon,
        outstanding=store.outstanding_restores(),
        cap=means.at_most,
        disk=means.disk,
    )
    rows = store.left_to_request(bucket, storage_class, failed_in_job=failed_in_job)
    return _Chosen(rows, wave, means, moment, tier, alone=not lots)


def _send(
    bucket: str,
    store: Store,
    restorer: Restorer,
    means: Means,
    chosen: _Chosen,
    storage_class: str,
    tier: str,
    sent: _Sum,
) -> Iterator[Event]:
    again = _Sum()
    for rows in batched(chosen, _BATCH):
        if not sent.objects:
            yield Started(bucket, "restore")
        # Recorded before it is asked for: a crash in between costs a question (refresh), never a second restore.
        marked = store.restore_asked([row.version for row in rows], tier, chosen.days, at_most=means.at_most)
        mine = rows[: len(marked)]
        for row in mine:
            if row.asked and row.asked.answer == "expired":
                again.add(row.version.size)
        yield from _ask(bucket, store, restorer, mine, chosen.days, tier, sent)
        yield Progress(bucket, "restore", sent.objects, sent.bytes)
        if len(mine) < len(rows):  # another process has asked meanwhile
            break
    if again.objects:
        price = means.price([_bought(storage_class, tier, again, chosen.days)])
        yield Warned(
            bucket,
            f"{again.objects:,} restored copies ({_weight(again.bytes)}) expired before they were fetched and are asked for"
            f" again for {chosen.days} days, for {price}",
        )


class _Chosen:
    """The rows of a wave, as far as it goes; `days` holds once the first is out, `stopped` and `why` after the last."""

    def __init__(self, rows: Iterator[Row], wave: Wave, means: Means, moment: float, tier: str, *, alone: bool) -> None:
        self._rows = rows
        self._wave = wave
        self._means = means
        self._moment = moment
        self._tier = tier
        self._alone = alone
        self.days = wave.days
        self.stopped = ""  # by what

    @property
    def why(self) -> str:
        if self.stopped == "cap":
            return f"{self._means.at_most:,} are outstanding, and no more may be (max_glacier_restores)"
        if self.stopped == "disk":
            return "the destination has no room for it; make room, and run the same again"
        rate = f"{_weight(self._means.link.bytes_a_second)}/s"
        if self._means.link.measured:
            return f"what is on its way keeps the link busy (at {rate}), and a copy that waits is paid for"
        return f"a link of {rate}, which is assumed until there is something to measure, has enough with what is on its way"

    def __iter__(self) -> Iterator[Row]:
        wave, link = self._wave, self._means.link
        room = self._means.disk * conveyor.FILL if self._means.disk is not None else float("inf")
        taken = _Sum()
        for row in self._rows:
            size = row.version.size
            if size > room:  # those behind it may fit
                self.stopped = "disk"
                continue
            if taken.objects >= wave.objects or taken.bytes + size > wave.bytes:
                # An object that is larger than a wave is a wave by itself.
                full = wave.capped and taken.objects >= wave.objects
                if taken.objects or not self._alone or full:
                    self.stopped = "cap" if full else wave.why
                    return
                if not self._means.exactly:
                    kind = row.version.storage_class
                    self.days = conveyor.days_for(link.seconds(1, size), self._moment, kind, self._tier, wave.days)
            taken.add(size)
            yield row


def _ordinary(bucket: str, store: Store, means: Means, moment: float) -> Iterator[Lot]:
    """What the link has to bring besides. While nobody knows how fast that is, the archived does not wait for it."""
    if not (means.beside and means.link.measured):
        return
    for t in store.tallies(bucket):
        waits = t.state in (FileState.DISCOVERED, FileState.DOWNLOADING) and not (t.archived or t.verdict)
        if waits and t.storage_class not in ARCHIVED_CLASSES:
            yield Lot(moment, float("inf"), t.objects, t.bytes)


def _ask(
    bucket: str, store: Store, restorer: Restorer, rows: Sequence[Row], days: int, tier: str, sent: _Sum
) -> Iterator[Event]:
    """Sends what is marked, and records what came of it."""

    def ask(row: Row, stop: Flag) -> Answer | Failure:
        try:
            return restorer.restore(row.version, days=days, tier=tier, stop=stop)
        except (Gone, Moved, Denied, Refusal, Unreachable) as failure:
            return failure

    answers: list[tuple[ObjectVersion, Answer]] = []
    broken: list[Change] = []
    refused: list[ObjectVersion] = []
    silent: list[Failure] = []
    try:
        for answer in in_threads(ask, rows, threads=_THREADS):
            if answer is None:
                continue
            row, said = answer
            if isinstance(said, Answer):
                answers.append((row.version, said))
                sent.add(row.version.size)
            elif isinstance(said, Throttled):
                silent.append(said)
                refused.append(row.version)
            elif isinstance(said, Unreachable):
                silent.append(said)
            else:
                broken.append(_failed(row, said))
    finally:
        store.restore_answered(answers)
        store.restore_gone(refused)
        store.change(broken)
    yield from _not_restored(bucket, broken)
    if silent and not answers:
        raise silent[-1]
    if silent:
        yield Warned(
            bucket,
            f"S3 gave no proper answer to {len(silent):,} requests to restore; the next look asks what became of them",
        )


def upgrade(bucket: str, store: Store, restorer: Restorer, *, tier: str, days: int, price: Price) -> Iterator[Event]:
    """Asks once more, at a faster tier, for what is still on its way at a slower one; S3 takes it for the same days only."""
    slower = [one for one in conveyor.TIERS if conveyor.faster(tier, one)]
    done = _Sum()
    dear: list[Bought] = []
    refused: set[str] = set()

    def ask(row: Row, stop: Flag) -> Answer | Failure:
        kept = row.asked.days if row.asked and row.asked.days else days
        try:
            return restorer.restore(row.version, days=kept, tier=tier, stop=stop, upgrade=True)
        except (Gone, Moved, Denied, Refusal, Unreachable) as failure:
            return failure

    fit = (r for r in store.slower(bucket, slower) if conveyor.tier_for(r.version.storage_class, tier) not in slower)
    for rows in batched(fit, _BATCH):
        store.asking_again([row.version for row in rows])
        answers: list[tuple[ObjectVersion, Answer]] = []
        for answer in in_threads(ask, rows, threads=_THREADS):
            if answer is None:
                continue
            row, said = answer
            if isinstance(said, Failure):
                refused.add(str(said) if len(refused) < 3 else "")
                if not isinstance(said, Unreachable) or isinstance(said, Throttled):
                    before = row.asked.tier if row.asked else tier
                    answers.append((row.version, Answer("under way", before, row.asked.days if row.asked else days)))
            else:
                answers.append((row.version, said))
                if said.word == "started":
                    done.add(row.version.size)
                    _add(dear, Bought(row.version.storage_class, said.tier, 1, row.version.size, 0))
        store.restore_answered(answers)
    for why in sorted(refused - {""}):
        yield Warned(bucket, f"not asked for at {tier}: {why}")
    if not done.objects:
        yield Noted(bucket, f"nothing more is on its way at a slower tier than {tier}")
        return
    yield Noted(
        bucket,
        f"{count_of(done.objects, 'object')} ({_weight(done.bytes)}) asked for again at {tier}, for {price(dear)}",
    )


# -- copies that are about to go


def guard(
    bucket: str,
    store: Store,
    restorer: Restorer,
    means: Means,
    *,
    s3: S3,
    ahead: float = conveyor.GUARD,
    clock: Callable[[], float] = time.time,
) -> Iterator[Event]:
    """Copies that would expire before they can be fetched are asked for again while they are there: that costs a request
    and some days more, and no second retrieval. What has expired already is found out, to be asked for anew."""
    moment = clock()
    back = _Sum()
    for rows in batched(store.in_doubt(bucket), _BATCH):  # asked about, and never paid for twice
        yield from _told(bucket, store, (), rows, s3, back)
    if any(copies.expiry.timestamp() <= moment for copies in store.restored(bucket)):
        for rows in batched(store.expiring(bucket, moment), _BATCH):
            yield from _told(bucket, store, (), rows, s3, back)
    lots = [*(lot for lot in store.lots(moment) if lot.expires > moment), *_ordinary(bucket, store, means, moment)]
    by = conveyor.at_risk(lots, moment, means.link, ahead)
    if by is None:
        return
    days = max(conveyor.renewal(lots, moment, means.link), means.days if means.exactly else 1)
    renewed = _Sum()
    dear: list[Bought] = []

    def ask(row: Row, stop: Flag) -> Answer | Failure:
        try:
            tier = row.asked.tier if row.asked else "Standard"
            return restorer.restore(row.version, days=days, tier=tier, stop=stop)
        except (Gone, Moved, Denied, Refusal, Unreachable) as failure:
            return failure

    until = datetime.fromtimestamp(conveyor.expires(moment, days), UTC)
    for rows in batched(store.expiring(bucket, by), _BATCH):
        store.renewing([row.version for row in rows], days)
        longer: list[tuple[ObjectVersion, Answer, datetime]] = []
        as_before: list[ObjectVersion] = []
        try:
            for answer in in_threads(ask, rows, threads=_THREADS):
                if answer is None:
                    continue
                row, said = answer
                if isinstance(said, Failure):
                    # Without an answer it stays in doubt; else the fetch comes upon it, and says what it is.
                    if isinstance(said, Throttled) or not isinstance(said, Unreachable):
                        as_before.append(row.version)
                elif said.word == "back":
                    longer.append((row.version, said, until))
                    renewed.add(row.version.size)
                    _add(dear, Bought(row.version.storage_class, said.tier, 1, 0, row.version.size * days))
                elif said.word == "started":  # it went in this very moment
                    store.restore_asked([row.version], said.tier, said.days)
                    store.restore_answered([(row.version, said)])
                else:
                    as_before.append(row.version)
        finally:
            store.restore_renewed(longer)
            store.renewing(as_before, None)
    if renewed.objects:
        yield Warned(
            bucket,
            f"{renewed.objects:,} restored copies ({_weight(renewed.bytes)}) would expire before they can be fetched and stay"
            f" until {until:%Y-%m-%d %H:%M} UTC now, for {means.price(dear)}",
        )


def _add(some: list[Bought], one: Bought) -> None:
    """To the sum of its kind: there are few kinds, however many objects."""
    kind = (one.storage_class, one.tier)
    at = next((n for n, b in enumerate(some) if (b.storage_class, b.tier) == kind), None)
    if at is None:
        some.append(one)
        return
    b = some[at]
    some[at] = Bought(*kind, b.requests + one.requests, b.bytes + one.bytes, b.byte_days + one.byte_days)


def _bought(storage_class: str, tier: str, amount: _Sum, days: int) -> Bought:
    keeps = days if storage_class in ARCHIVED_CLASSES else 0
    return Bought(storage_class, tier, amount.objects, amount.bytes, amount.bytes * keeps)


def _weight(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,.0f} bytes"


def _failed(row: Row, failure: Failure) -> Change:
    reason = {Gone: VANISHED, Moved: CHANGED}.get(type(failure), str(failure))
    return Change(row.version, FileState.ERROR, None, reason, failure.cause)


def _not_restored(bucket: str, broken: Sequence[Change]) -> Iterator[Event]:
    gone = sum(change.cause is Cause.VANISHED for change in broken)
    if gone:
        yield Warned(bucket, f"{gone:,} object versions were gone from S3 before they were restored")
    for change in broken:
        if change.cause is not Cause.VANISHED:
            yield Found(bucket, change.version.key, change.version.version_id, change.verdict, change.reason)
