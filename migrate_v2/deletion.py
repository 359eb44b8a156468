"""What confirm-delete would do to a bucket: every version and delete marker decided, and the token of exactly that."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from migrate_v2.edges.store import Store
from migrate_v2.model import (
    MINIMUM_DAYS,
    Cause,
    DeleteMarker,
    Digest,
    Doomed,
    FileState,
    ObjectVersion,
    Row,
    Site,
    doomed,
    why_kept,
)


@dataclass(frozen=True, slots=True)
class Early:
    """Objects of one class that S3 bills to the end of its minimum duration: how many, their bytes, the last of those ends."""

    objects: int
    bytes: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """What confirm-delete would do to one bucket, in figures; `token` stands for exactly this plan.

    By objects and by bytes, listed = what is to be deleted + `stays` + `deleted`. `kept` counts delete markers too.
    `resumes` is the token that was asked for, if this plan is what is left of the one that had it.
    """

    site: Site
    token: str
    objects: int
    bytes: int
    markers: int
    kept: int
    evidence: Mapping[str, int]
    reasons: Mapping[str, int]
    listed: tuple[int, int]
    stays: tuple[int, int]
    deleted: tuple[int, int]
    early: Mapping[str, Early]
    uploads: int
    trust: timedelta | None
    resumes: str

    def agrees(self, token: str) -> bool:
        return token in (self.token, self.resumes) and token != ""


# So many reasons are counted apart; there may be one of its own for each object.
REASONS = 1000
OTHER_REASONS = "other reasons"


def decide(store: Store, site: Site) -> Iterator[tuple[Row | DeleteMarker, str]]:
    """Every version and delete marker that S3 listed, in key order, with the reason why it stays, "" where it goes.

    A delete marker goes with the last of its key's data versions, and stays while one of them does.
    """
    streams: list[Iterator[tuple[str, int, Row | DeleteMarker]]] = [
        ((row.key, 0, row) for row in store.not_deleted(site.bucket)),
        ((marker.key, 1, marker) for marker in store.listed_markers(site.bucket)),
    ]
    held_by: str | None = None
    for key, _, subject in heapq.merge(
        *streams, key=lambda entry: (entry[0].encode("utf-8", "surrogatepass"), entry[1])
    ):
        if isinstance(subject, Row):
            reason = why_kept(subject, site)
            # What others have deleted holds no marker: the same rule as that of the markers that are sent.
            gone = subject.state is FileState.ERROR and subject.cause is Cause.VANISHED
            held_by = key if reason and not gone else held_by
        elif site.mfa_delete:
            reason = "MFA delete is on for this bucket"
        elif held_by == key:
            reason = "a delete marker above versions that stay"
        elif subject.version_id == "null" and site.versioning != "Enabled":
            reason = "a null delete marker while versioning is not enabled: its id may be reused at any time"
        else:
            reason = ""
        yield subject, reason


def plan(store: Store, site: Site, *, uploads: bool = False, trust: timedelta | None = None, resumes: str = "") -> Plan:
    """The plan as the rows are now, with the abortion of all listed `uploads` if that is asked for.

    What was deleted under the token `resumes`, and what would be now: if that together is the plan of this token, then it
    is still good, for the rest.
    """
    now = datetime.now(UTC)
    digest, whole = Digest(site), Digest(site)
    objects = size = markers = kept = staying = staying_size = aborted = 0
    evidence: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    early: dict[str, Early] = {}
    gone, aborts = (
        _Ahead(store.ledger.gone_under(site.bucket, resumes, uploads=of_uploads)) for of_uploads in (False, True)
    )
    for subject, reason in decide(store, site):
        for before in gone.before(_order(doomed(subject))):
            whole.deletes(before)
        if reason:
            kept += 1
            reasons[reason if reason in reasons or len(reasons) < REASONS else OTHER_REASONS] += 1
            if isinstance(subject, Row):
                staying += 1
                staying_size += subject.version.size
            digest.keeps(subject.key, _version_id(subject), reason)
            if not _made_by_us(subject, store, site, resumes):
                whole.keeps(subject.key, _version_id(subject), reason)
            continue
        if isinstance(subject, Row):
            objects += 1
            size += subject.version.size
            evidence[subject.witnesses[0].kind] += 1
            _add_early(early, subject.version, now)
        else:
            markers += 1
        for each_ in (digest, whole):
            each_.deletes(doomed(subject))
    for before in gone.before(None):
        whole.deletes(before)
    for upload in store.uploads(site.bucket) if uploads else ():
        aborted += 1
        named = Doomed(upload.key, upload.upload_id, "upload")
        for before in aborts.before(_order(named)):
            whole.deletes(before)
        for each_ in (digest, whole):
            each_.deletes(named)
    for before in aborts.before(None) if uploads else ():
        whole.deletes(before)
    # The kept counts, and not the rows once more: what does not add up is to be seen.
    tallies = store.tallies(site.bucket)
    past = [tally for tally in tallies if tally.state is FileState.DELETED]
    listed, deleted = ((sum(t.objects for t in some), sum(t.bytes for t in some)) for some in (tallies, past))
    return Plan(
        site=site,
        token=digest.token(),
        objects=objects,
        bytes=size,
        markers=markers,
        kept=kept,
        evidence=evidence,
        reasons=reasons,
        listed=listed,
        stays=(staying, staying_size),
        deleted=deleted,
        early=early,
        uploads=aborted,
        trust=trust,
        resumes=resumes if resumes and whole.token() == resumes else "",
    )


def _order(d: Doomed) -> tuple[bytes, int, bytes]:
    """Where it stands in a plan: markers behind the versions of their key."""
    return d.key.encode("utf-8", "surrogatepass"), int(d.kind == "marker"), d.version_id.encode()


def _made_by_us(subject: Row | DeleteMarker, store: Store, site: Site, token: str) -> bool:
    """A delete of the current null version leaves a null marker where versioning is suspended: of a plan that goes on, it is
    no news."""
    null = isinstance(subject, DeleteMarker) and subject.version_id == "null" and site.versioning == "Suspended"
    return null and store.ledger.went(site.bucket, token, subject.key, "null")


class _Ahead:
    """What is gone, taken up in the order of a plan as far as the plan has come."""

    def __init__(self, gone: Iterator[Doomed]) -> None:
        self._gone = gone
        self._next = next(self._gone, None)

    def before(self, place: tuple[bytes, int, bytes] | None) -> Iterator[Doomed]:
        while self._next is not None and (place is None or _order(self._next) < place):
            yield self._next
            self._next = next(self._gone, None)


def _add_early(early: dict[str, Early], version: ObjectVersion, now: datetime) -> None:
    days = MINIMUM_DAYS.get(version.storage_class, 0)
    if days and (until := version.last_modified + timedelta(days)) > now:
        before = early.get(version.storage_class, Early(0, 0, until))
        early[version.storage_class] = Early(before.objects + 1, before.bytes + version.size, max(before.until, until))


def kept(store: Store, site: Site) -> Iterator[tuple[str, str, str]]:
    """(key, version id, reason) of all that stays."""
    return ((s.key, _version_id(s), reason) for s, reason in decide(store, site) if reason)


def _version_id(subject: Row | DeleteMarker) -> str:
    return subject.version.version_id if isinstance(subject, Row) else subject.version_id
