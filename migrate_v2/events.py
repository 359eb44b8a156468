"""What happened, as plain facts: a step yields one only after the rows that it tells of are committed."""

from __future__ import annotations

from dataclasses import dataclass

from migrate_v2.model import Phase, Verdict


@dataclass(frozen=True, slots=True)
class Noted:
    """Something worth a line; `bucket` is empty where it concerns them all."""

    bucket: str
    text: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something an operator should look at; the work goes on."""

    bucket: str
    text: str


@dataclass(frozen=True, slots=True)
class Started:
    """A step begins on a bucket. Totals are 0 where they are not known beforehand (scan)."""

    bucket: str
    verb: str  # scan, restore, sync, verify, prove, delete
    total_objects: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the step is, cumulative since its Started. Bytes of a transfer may go down: the CLI restarts files."""

    bucket: str
    verb: str
    objects: int
    bytes: int
    total_objects: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The step is over for now; what is left is in the rows."""

    bucket: str
    verb: str
    objects: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """One object version that is not simply in order, with the reason that its row carries."""

    bucket: str
    key: str
    version_id: str
    verdict: Verdict | None
    reason: str
    gone: bool = False  # S3 does not have it any more


@dataclass(frozen=True, slots=True)
class PhaseEarned:
    """No row is left that `earned` has to do with; `phase` is what comes next."""

    bucket: str
    earned: Phase
    phase: Phase


@dataclass(frozen=True, slots=True)
class Waiting:
    """Glacier is not back; the next look is in `seconds`."""

    bucket: str
    objects: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The work on this bucket ended with this exit status; other buckets go on."""

    bucket: str
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Quantity:
    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class GoneQuantities:
    """Object versions that are gone from S3, by what is left of them here."""

    never_fetched: Quantity = Quantity()
    only_copy: Quantity = Quantity()
    unproved_only_copy: Quantity = Quantity()

    @property
    def total(self) -> tuple[int, int]:
        parts = (self.never_fetched, self.only_copy, self.unproved_only_copy)
        return sum(part.objects for part in parts), sum(part.bytes for part in parts)


@dataclass(frozen=True, slots=True)
class Stands:
    """Where a bucket stands after a command, by count and bytes: listed = the sum of all the others."""

    bucket: str
    phase: Phase
    listed: tuple[int, int]
    verified: tuple[int, int]
    unprovable: tuple[int, int]
    kept: tuple[int, int]
    failed: tuple[int, int]
    deleted: tuple[int, int]
    pending: tuple[int, int]
    gone: GoneQuantities = GoneQuantities()
    new_since_plan: tuple[int, int] = (0, 0)  # of `pending`: put or overwritten after the plan of a deletion was made


Event = Noted | Warned | Started | Progress | Ended | Found | PhaseEarned | Waiting | Failed | Stands
