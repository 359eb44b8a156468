"""Where buckets stand, drawn for people: the same lines on the dashboard, when a bucket is verified, and when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from migrate_v2.keys import count_of, show
from migrate_v2.model import FileState, Phase
from migrate_v2.report import human, span
from migrate_v2.steps.status import Amount, Standing, Total

NARROW = 72
_LABEL = 11
# In the order in which an object goes through them.
_STATES = (
    FileState.DISCOVERED,
    FileState.RESTORE_REQUESTED,
    FileState.RESTORING,
    FileState.DOWNLOADING,
    FileState.DOWNLOADED,
    FileState.VERIFIED,
    FileState.DELETED,
    FileState.ERROR,
)
_STYLES = {FileState.VERIFIED: "green", FileState.DELETED: "green", FileState.ERROR: "red"}
_SHORT = {FileState.RESTORE_REQUESTED: "requested", FileState.RESTORING: "restoring"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line, with the style of a terminal that has any."""

    text: str
    style: str = ""


def bucket_lines(
    s: Standing, width: int, *, fancy: bool = True, evidence: Mapping[str, int] | None = None
) -> Iterator[Line]:
    """One bucket. `fancy` has blocks for bars; `evidence` is how many objects each kind of witness proved, where known."""
    elapsed = f"{_words(s.phase)}, {span(s.elapsed_seconds)} since it was first listed"
    yield Line(_fit(f"{show(s.bucket)}: {elapsed}", width), "bold")
    yield from _amounts(s.states, s.gone.total, s.objects, s.bytes, width, fancy)
    more = [
        _part("unprovable", s.unprovable, "kept in S3"),
        _part("kept", s.kept, "by a setting"),
        count_of(s.delete_markers, "delete marker") if s.delete_markers else "",
        count_of(s.uploads, "unfinished upload") if s.uploads else "",
    ]
    yield from _told("left there", [part for part in more if part], width)
    kinds = [
        _part("never fetched", s.gone.never_fetched, "nothing is left of them"),
        _part("only copies", s.gone.only_copy, "verified"),
        _part("unproved only copies", s.gone.unproved_only_copy, "nothing proves them"),
    ]
    yield from _told("left here", [part for part in kinds if part], width)
    yield from _glacier(s.glacier.to_request, s.glacier.restoring, s.glacier.restored, width)
    yield from _told("classes", _classes(s.storage_classes), width)
    if evidence:
        yield from _told("proved", [f"{count:,} by {kind}" for kind, count in sorted(evidence.items())], width)
    yield from _pace(s.throughput.session, s.throughput.overall, s.to_come, s.eta_seconds, width)
    if s.errors:
        yield Line(_fit(_row("errors", f"{s.errors:,}; `migrate-v2 errors {show(s.bucket)}` says why"), width), "red")
    if s.phase is Phase.DELETING:
        yield from _told("next", [f"`migrate-v2 confirm-delete {show(s.bucket)}`, by a person"], width)


def one_line(s: Standing, width: int, *, fancy: bool = True) -> Line:
    """One bucket among many: how much of it needs nothing any more."""
    finished = (s.verified, s.deleted, s.unprovable, s.kept, s.gone.total)
    done, objects = sum(part.bytes for part in finished), sum(part.objects for part in finished)
    share = done / s.bytes if s.bytes else objects / s.objects if s.objects else 1.0
    errors = f"  {s.errors:,} errors" if s.errors else ""
    left = f"  {span(s.eta_seconds)} left" if s.eta_seconds else ""
    bar = _bar(share, 8 if width < NARROW else 16, fancy)
    text = f"{bar} {_percent(share):>5}  {human(s.bytes):>7}  {_words(s.phase):<15}{errors}{left}"
    name = _fit(show(s.bucket), max(width - len(text) - 1, 12))
    return Line(_fit(f"{name:<{max(width - len(text) - 1, 12)}} {text}", width), "red" if s.errors else "")


def total_lines(t: Total, width: int, *, fancy: bool = True, free: int | None = None, base: str = "") -> Iterator[Line]:
    """All buckets together, and whether what is to come has room at `base`."""
    phases = ", ".join(f"{count:,} {_words(phase)}" for phase, count in t.phases.items())
    many = count_of(t.buckets, "bucket")
    yield Line(_fit(f"total: {many}{': ' if phases else ''}{phases}", width), "bold")
    yield from _amounts(t.states, t.gone.total, t.objects, t.bytes, width, fancy)
    yield from _glacier(t.to_request, t.restoring, t.restored, width)
    yield from _told("classes", _classes(t.storage_classes), width)
    yield from _pace(t.session, t.overall, t.to_come, t.eta_seconds, width)
    if t.errors:
        yield Line(_row("errors", f"{t.errors:,}"), "red")
    if free is not None:
        lacks = t.to_come.bytes - free
        room = f"{human(free)} free at {show(base)}, {human(t.to_come.bytes)} to come"
        yield Line(_fit(_row("disk", room), width), "red" if lacks > 0 else "")
        if lacks > 0:
            yield Line(_row("", f"{human(lacks)} too little"), "red")


def _amounts(
    states: Mapping[FileState, Amount], gone: Amount, objects: int, size: int, width: int, fancy: bool
) -> Iterator[Line]:
    """One line a state that has rows: a bar of its share of the bytes, of the objects where there are no bytes.

    Rows that are `gone` from S3 are in the state `error`, and have a line of their own.
    """
    bar = 8 if width < NARROW else 24 if width >= 100 else 16
    parts = [(_SHORT.get(state, state.value), states.get(state, Amount()), _STYLES.get(state, "")) for state in _STATES]
    label, errors, style = parts[-1]
    parts[-1] = (label, Amount(errors.objects - gone.objects, errors.bytes - gone.bytes), style)
    for label, amount, style in (*parts, ("gone", gone, "")):
        if not amount.objects:
            continue
        share = amount.bytes / size if size else amount.objects / objects
        figures = f"{_percent(share):>5}  {amount.objects:>11,}  {human(amount.bytes):>7}"
        yield Line(_row(label, f"{_bar(share, bar, fancy)} {figures}"), style)


def _percent(share: float) -> str:
    """100 % and 0 % are all and nothing, not nearly so."""
    whole = round(share * 100)
    if share < 1:
        whole = min(whole, 99)
    return f"{max(whole, 1) if share > 0 else 0} %"


def _bar(share: float, width: int, fancy: bool) -> str:
    full = min(width, max(int(share * width), 1 if share > 0 else 0))
    if share < 1:
        full = min(full, width - 1)
    return ("█" if fancy else "#") * full + ("░" if fancy else ".") * (width - full)


def _part(word: str, amount: Amount, why: str) -> str:
    return f"{amount.objects:,} {word} ({human(amount.bytes)}), {why}" if amount.objects else ""


def _glacier(to_request: Amount, restoring: Amount, restored: Amount, width: int) -> Iterator[Line]:
    stages = (("to request", to_request), ("restoring", restoring), ("back, to be fetched", restored))
    told = [f"{amount.objects:,} {word} ({human(amount.bytes)})" for word, amount in stages if amount.objects]
    yield from _told("in Glacier", told, width)


def _classes(classes: Mapping[str, Amount]) -> list[str]:
    found = sorted(classes.items(), key=lambda entry: -entry[1].bytes)
    return [f"{show(name)} {amount.objects:,} ({human(amount.bytes)})" for name, amount in found if amount.objects]


def _pace(
    session: float | None, overall: float | None, to_come: Amount, eta: float | None, width: int
) -> Iterator[Line]:
    rates = [f"{human(session)}/s in the last run"] if session else []
    rates += [f"{human(overall)}/s overall"] if overall else []
    yield from _told("fetching", rates, width)
    if to_come.objects:
        left = f", {span(eta)} at that rate" if eta else ""
        yield from _told("to come", [f"{count_of(to_come.objects, 'object')}, {human(to_come.bytes)}{left}"], width)


def _told(label: str, parts: Sequence[str], width: int) -> Iterator[Line]:
    """The parts after one another, on as many lines as it takes."""
    line = ""
    for number, part in enumerate(parts):
        text = part + (";" if number < len(parts) - 1 else "")
        if line and len(_row(label, f"{line} {text}")) > width:
            yield Line(_row(label, line))
            label, line = "", ""
        line = f"{line} {text}".strip()
    if line:
        yield Line(_fit(_row(label, line), width))


def _row(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}} {text}"


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 1)] + "..."


def _words(phase: Phase) -> str:
    return phase.value.replace("_", " ")


def texts(lines: Iterable[Line]) -> list[str]:
    return [line.text for line in lines]
