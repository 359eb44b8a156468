"""What confirm-delete would do to a bucket: every version and delete marker decided, and the token of exactly that."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby, islice

from migrate_v2.durability import about
from migrate_v2.edges.mounts import UNKNOWN, Mount
from migrate_v2.edges.store import Store, Tally, Upload
from migrate_v2.model import (
    GONE_CAUSES,
    MINIMUM_DAYS,
    OLDER_VERSION_STAYS,
    UPLOAD_RECENT,
    VERSIONS_STAY,
    DeleteMarker,
    Digest,
    Doomed,
    FileState,
    GoneKind,
    Kept,
    ObjectVersion,
    Row,
    Rules,
    Site,
    by_if_match,
    doomed,
    gone_kind,
    why_kept,
    why_marker_kept,
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

    By objects and by bytes, listed = what is to be deleted + `stays` + `deleted` + `gone`. `kept` counts delete markers too.
    `resumes` is the token that was asked for, if this plan is what is left of the one that had it. `mount` is what the
    copies lie on.
    `linked` are copies that are hard links, with the bytes that files of their own need.
    """

    site: Site
    rules: Rules
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
    gone: Mapping[GoneKind, tuple[int, int]]
    linked: tuple[int, int]
    early: Mapping[str, Early]
    conditional: int  # objects that are deleted by If-Match; elsewhere than at AWS one of them is a canary first
    tags_asked: int  # objects whose tags S3 is asked for again before they go
    tags_not_asked: int  # the others: tags put on them since their metadata was recorded go unrecorded
    uploads: int
    uploads_recent: int  # of those that stay because they began a short time ago
    uploads_named: tuple[Upload, ...]  # the first of those that are aborted
    trust: timedelta | None
    resumes: str
    mount: Mount = UNKNOWN

    @property
    def rests_on(self) -> str:
        """What the durability of the copies rests on, "" where they last by themselves."""
        return about(self.mount.durability, self.mount.kind)

    @property
    def needs_allow_volatile(self) -> bool:
        """Whether the copies of what is to be deleted lie where they may not last."""
        return bool(self.objects) and not self.mount.durability.deletes_by_itself

    def agrees(self, token: str) -> bool:
        return token in (self.token, self.resumes) and token != ""


# So many reasons are counted apart; there may be one of its own for each object.
REASONS = 1000
OTHER_REASONS = "other reasons"
# Uploads that a plan names in its text; its JSON has all of them.
UPLOADS_NAMED = 3


# Versions of one key that are held in memory; a key with more of them is read twice instead.
KEY_BUFFER = 1000
# When a version was put, as far as S3 reports it: the current version is the newest, whatever the times say.
_Age = tuple[bool, datetime]


def decide(store: Store, site: Site, rules: Rules) -> Iterator[tuple[Row | DeleteMarker, Kept | None]]:
    """Every version and delete marker that S3 has, in key order, with the reason why it stays; None where it goes.

    Deleting a version must not make an older one current. Of one key, therefore:

    subject       | an older version (or one of the same second) stays | then
    --------------|----------------------------------------------------|---------------------------------------
    version       | yes                                                | stays, unless `allow_older_current`
    version       | no                                                 | as why_kept() says
    delete marker | any version of the key stays                       | stays
    delete marker | no version of the key stays                        | goes, if its id cannot be used again

    LastModified has whole seconds, so versions of the same second count as older. A version that is gone from S3 is not
    among them, and keeps nothing.
    """
    streams: list[Iterator[Row | DeleteMarker]] = [store.in_s3(site.bucket), store.listed_markers(site.bucket)]
    # The rows of a key come before its markers: heapq.merge keeps the order of the streams.
    merged = heapq.merge(*streams, key=lambda subject: subject.key.encode("utf-8", "surrogatepass"))
    for key, group in groupby(merged, key=lambda subject: subject.key):
        subjects = iter(group)
        some = list(islice(subjects, KEY_BUFFER))
        oldest = _oldest_staying(some, site, rules)
        again: Iterable[Row | DeleteMarker] = some
        if len(some) == KEY_BUFFER:
            oldest = _oldest_staying(subjects, site, rules, oldest)
            again = chain(store.versions_of(site.bucket, key), store.markers_of(site.bucket, key))
        for subject in again:
            yield subject, _decided(subject, site, rules, oldest)


def _oldest_staying(
    subjects: Iterable[Row | DeleteMarker], site: Site, rules: Rules, oldest: _Age | None = None
) -> _Age | None:
    """When the oldest version was put that stays; None where all versions go."""
    for subject in subjects:
        if isinstance(subject, Row) and why_kept(subject, site, rules):
            oldest = min(oldest or _age(subject), _age(subject))
    return oldest


def _age(row: Row) -> _Age:
    return row.version.is_latest, row.version.last_modified


def _decided(subject: Row | DeleteMarker, site: Site, rules: Rules, oldest: _Age | None) -> Kept | None:
    if isinstance(subject, Row):
        kept = why_kept(subject, site, rules)
        newer = oldest is not None and _age(subject) >= oldest
        return OLDER_VERSION_STAYS if kept is None and newer and not rules.allow_older_current else kept
    if oldest is not None:
        return VERSIONS_STAY
    return why_marker_kept(subject, site, rules)


def to_delete(store: Store, site: Site, rules: Rules, *, current: bool | None = None) -> Iterator[Row]:
    """The versions that the plan deletes; only the current ones, or only the others, where `current` says so."""
    for subject, kept in decide(store, site, rules):
        if kept is None and isinstance(subject, Row) and current in (None, subject.version.is_latest):
            yield subject


def plan(
    store: Store,
    site: Site,
    rules: Rules,
    *,
    trust: timedelta | None = None,
    resumes: str = "",
    mount: Mount = UNKNOWN,
) -> Plan:
    """The plan as the rows are now, with the abortion of listed uploads where the rules ask for that.

    What was deleted under the token `resumes`, and what would be now: if that together is the plan of this token, then it
    is still good, for the rest.
    """
    now = datetime.now(UTC)
    digest, whole = Digest(site, rules), Digest(site, rules)
    objects = size = markers = kept = staying = staying_size = aborted = 0
    evidence: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    early: dict[str, Early] = {}
    tagged, tags_asked, conditional = _Tagged(store.tagged(site.bucket)), 0, 0
    gone, aborts = (
        _Ahead(store.ledger.gone_under(site.bucket, resumes, uploads=of_uploads)) for of_uploads in (False, True)
    )
    for subject, stays in decide(store, site, rules):
        for before in gone.before(_order(doomed(subject))):
            whole.deletes(before)
        if stays:
            kept += 1
            reason = stays.text
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
            conditional += by_if_match(subject, site)
            tags_asked += (subject.version.version_id == "null" and site.versioning == "Enabled") or tagged.has(subject)
        else:
            markers += 1
        for each_ in (digest, whole):
            each_.deletes(doomed(subject))
    for before in gone.before(None):
        whole.deletes(before)
    recent = 0
    named: list[Upload] = []
    for upload, stays in decide_uploads(store, site, rules):
        if stays:  # not part of the digest: an upload that begins after the plan was shown changes nothing of it
            recent += 1
            continue
        aborted += 1
        named += [upload] if aborted <= UPLOADS_NAMED else []
        target = Doomed(upload.key, upload.upload_id, "upload")
        for before in aborts.before(_order(target)):
            whole.deletes(before)
        for each_ in (digest, whole):
            each_.deletes(target)
    for before in aborts.before(None) if rules.uploads_before else ():
        whole.deletes(before)
    # The kept counts, and not the rows once more: what does not add up is to be seen.
    tallies = store.tallies(site.bucket)
    past = [tally for tally in tallies if tally.state is FileState.DELETED]
    absent = {kind: _amount(t for t in tallies if _gone(t) is kind) for kind in GoneKind}
    return Plan(
        site=site,
        rules=rules,
        token=digest.token(),
        objects=objects,
        bytes=size,
        markers=markers,
        kept=kept,
        evidence=evidence,
        reasons=reasons,
        listed=_amount(tallies),
        stays=(staying, staying_size),
        deleted=_amount(past),
        gone=absent,
        linked=store.linked_amount(site.bucket),
        early=early,
        conditional=conditional,
        tags_asked=tags_asked,
        tags_not_asked=objects - tags_asked,
        uploads=aborted,
        uploads_recent=recent,
        uploads_named=tuple(named),
        trust=trust,
        resumes=resumes if resumes and whole.token() == resumes else "",
        mount=mount,
    )


def _gone(tally: Tally) -> GoneKind | None:
    """A copy that is still to be verified is not proved."""
    unread = tally.state is FileState.DOWNLOADED and tally.cause in GONE_CAUSES
    return GoneKind.UNPROVED_ONLY_COPY if unread else gone_kind(tally.state, tally.verdict, tally.cause)


def _amount(tallies: Iterable[Tally]) -> tuple[int, int]:
    objects = size = 0
    for tally in tallies:
        objects += tally.objects
        size += tally.bytes
    return objects, size


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


class _Tagged:
    """The versions with recorded tags, followed as the plan goes on: both are in key order."""

    def __init__(self, names: Iterator[tuple[str, str]]) -> None:
        self._names = names
        self._next = next(names, None)

    def has(self, row: Row) -> bool:
        here = _place(row.key, row.version.version_id)
        while self._next is not None and _place(*self._next) < here:
            self._next = next(self._names, None)
        return self._next == (row.key, row.version.version_id)


def _place(key: str, version_id: str) -> tuple[bytes, bytes]:
    return key.encode("utf-8", "surrogatepass"), version_id.encode()


def _add_early(early: dict[str, Early], version: ObjectVersion, now: datetime) -> None:
    days = MINIMUM_DAYS.get(version.storage_class, 0)
    if days and version.last_modified > now - timedelta(days):
        until = min(version.last_modified, now) + timedelta(days)
        before = early.get(version.storage_class, Early(0, 0, until))
        early[version.storage_class] = Early(before.objects + 1, before.bytes + version.size, max(before.until, until))


def decide_uploads(store: Store, site: Site, rules: Rules) -> Iterator[tuple[Upload, Kept | None]]:
    """The listed multipart uploads, with the reason why one stays; none where the rules do not ask to abort any."""
    before = rules.uploads_before
    if before is not None:
        for upload in store.uploads(site.bucket):
            yield upload, None if upload.initiated < before else UPLOAD_RECENT


def kept(store: Store, site: Site, rules: Rules) -> Iterator[tuple[str, str, Kept]]:
    """(key, version id, why) of all that stays."""
    return ((s.key, _version_id(s), stays) for s, stays in decide(store, site, rules) if stays)


def _version_id(subject: Row | DeleteMarker) -> str:
    return subject.version.version_id if isinstance(subject, Row) else subject.version_id
