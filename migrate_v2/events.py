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


Event = Noted | Warned | Started | Progress | Ended | Found | PhaseEarned | Waiting | Failed | Stands
