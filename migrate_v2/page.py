"""The plan as one page: all of it is in the file, nothing is loaded, no script runs, and it reads on a phone and on paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any

import pygal
from pygal.style import Style

from migrate_v2 import sheet
from migrate_v2.costs import Line, Stage
from migrate_v2.keys import count_of
from migrate_v2.report import Bytes, clean, human
from migrate_v2.steps.plan import Forecast

# Told apart by people who see few colours, too (Okabe and Ito, "Color Universal Design").
_BLUE, _ORANGE, _GREEN, _RED, _GREY, _SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#777777", "#56b4e9"
_SPAN_COLOURS = {"restore": _SKY, "transfer": _BLUE, "verify": _GREEN}
_SEVERITY = {"stops": _RED, "costs": _ORANGE, "unknown": _GREY}
_MOST_SPANS = 24
# (from so many seconds on, seconds of the unit, unit) of the time line.
_UNITS = ((96 * 3600, 86400, "days"), (3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))
_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc; }
.key { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; }
.key > div { border: 1px solid #ccc; border-radius: .4rem; padding: .5rem .75rem; flex: 1 1 9rem; }
.key dt { font-size: .8rem; color: #555; } .key dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
figure { margin: 1rem 0; } figure svg { width: 100%; max-width: 40rem; height: auto; display: block; }
figcaption { font-size: .85rem; color: #555; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; width: 100%; }
th, td { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
.right { text-align: right; font-variant-numeric: tabular-nums; }
.warn { color: #a33b00; font-weight: 600; }
@media print { body { max-width: none; font-size: 11pt; } figure, tr { break-inside: avoid; } .table { overflow: visible; } }
"""


def html(told: Forecast) -> str:
    """A whole document in UTF-8."""
    parts = [
        _top(told),
        _section("What it costs", _costs(told), _tables_of_costs(told)),
        _section("Restores", _restores(told), _table(sheet.TIER_HEADERS, sheet.tier_rows(told), (1, 2, 3)) if told.tiers else ""),
        _section("Time line", _time(told), ""),
        _section("Sizes", _sizes(told), ""),
        _section("Obstacles", _obstacles(told), _table(sheet.OBSTACLE_HEADERS, sheet.obstacle_rows(told), ()) if told.obstacles else "<p>None were found.</p>"),
        _section("Everything else", "", _table(("", ""), sheet.fact_rows(told), ())),
        _section("What these figures rest on", "", "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in told.notes) + "</ul>"),
    ]  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whatever a name in here may try to be, the browser loads and runs nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Migration plan</title><style>{_CSS}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _text(text: object) -> str:
    return escape(clean(str(text)))


def _top(told: Forecast) -> str:
    once = sheet.once(told)
    currency = told.book.currency
    facts = [
        ("once, in all", sheet.money(once.amount, currency) + ("" if once.complete else " + unknown")),
        ("each month until deleted", sheet.money(told.totals[Stage.MONTHLY].amount, currency)),
        ("to fetch", f"{human(told.fit.need.bytes)}, {count_of(told.fit.need.objects, 'object')}"),
        ("all done", "unknown" if told.timeline.end is None else f"{told.timeline.end:%Y-%m-%d %H:%M}"),
        ("fits on the disk", "not asked" if told.fit.room is None else "no" if told.fit.lacks else "yes"),
        ("obstacles", f"{sum(o.severity == 'stops' for o in told.obstacles)} that stop, {len(told.obstacles)} in all"),
    ]
    if told.deadline:
        answer = {True: "kept", False: "missed", None: "unknown"}[told.deadline.fits]
        facts.append((f"deadline {told.deadline.by}", answer))
    boxes = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
    names = (
        ", ".join(b.census.bucket for b in told.buckets[:8]) + (" and more" if len(told.buckets) > 8 else "")
        or "no bucket"
    )
    warning = "" if once.complete else f'<p class="warn">Incomplete, no rate for: {_text("; ".join(once.unknown))}</p>'
    estimated = (
        '<p class="warn">An estimate from CloudWatch, without a listing.</p>'
        if any(b.census.estimated for b in told.buckets)
        else ""
    )
    return (
        f"<h1>Migration plan</h1><p>Of {_text(names)}. Made {told.asking.now:%Y-%m-%d %H:%M}; prices:"
        f' {_text(", ".join(told.book.sources))}.</p>{warning}{estimated}<dl class="key">{boxes}</dl>'
    )


def _section(name: str, chart: str, rest: str) -> str:
    return f"<section><h2>{_text(name)}</h2>{chart}{rest}</section>"


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int]) -> str:
    def cells(row: Sequence[object], word: str) -> str:
        return "".join(
            f'<{word} class="right">{_cell(cell)}</{word}>' if at in right else f"<{word}>{_cell(cell)}</{word}>"
            for at, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{cells(headers, 'th')}</tr></thead>" if any(headers) else ""
    return f'<div class="table"><table>{head}<tbody>{body}</tbody></table></div>'


def _cell(cell: object) -> str:
    if isinstance(cell, Bytes):
        return _text(human(cell.count))
    return _text(f"{cell:,}" if isinstance(cell, int) else cell)


# -- charts


def _figure(chart: Any, caption: str) -> str:
    chart.add_xml_filter(_without_scripts)
    svg = chart.render(is_unicode=True)
    return f'<figure role="img" aria-label="{escape(clean(caption), quote=True)}">{svg}<figcaption>{_text(caption)}</figcaption></figure>'


def _without_scripts(root: Any) -> Any:
    """pygal puts its settings into a script for tooltips; the page has none."""
    for parent in list(root.iter()):
        for child in list(parent):
            if str(child.tag).rpartition("}")[2] == "script":
                parent.remove(child)
    return root


# Each bar's name says its value, which small bars have no room for: no axis. (pygal swaps the axes of lying bars.)
_BARE: dict[str, Any] = {"show_x_labels": False, "show_x_guides": False}


def _chart(
    kind: Callable[..., Any], rows: int, colours: Sequence[str], formatter: Callable[[Any], str], **more: Any
) -> Any:
    return kind(
        js=[],
        style=Style(
            background="transparent",
            plot_background="transparent",
            foreground="#1a1a1a",
            foreground_strong="#1a1a1a",
            foreground_subtle="#555555",
            font_family="system-ui, sans-serif",
            label_font_size=15,
            major_label_font_size=15,
            value_font_size=14,
            legend_font_size=15,
            opacity="1",
            colors=tuple(colours),
            value_colors=("#1a1a1a",) * len(colours),
        ),
        width=480,
        height=70 + 36 * rows,
        disable_xml_declaration=True,
        value_formatter=formatter,
        truncate_label=-1,
        spacing=14,
        margin=12,
        **more,
    )


# Items of a bill, as people look for them.
_GROUPS = (
    ("list", "requests"),
    ("get", "requests"),
    ("kms", "KMS"),
    ("retrieval/GLACIER/", "restores"),
    ("retrieval/DEEP_ARCHIVE/", "restores"),
    ("restore-request", "restores"),
    ("retrieval", "retrieval"),
    ("egress", "data transfer out"),
    ("monitoring", "monitoring"),
)


def _group(line: Line) -> str:
    if line.charge.item.startswith("storage"):
        return {Stage.MIGRATE: "temporary copies", Stage.DELETE: "early deletion", Stage.MONTHLY: "storage"}[
            line.charge.stage
        ]
    return next((name for start, name in _GROUPS if line.charge.item.startswith(start)), line.charge.item)


def _costs(told: Forecast) -> str:
    sums: dict[str, Decimal] = {}
    for line in told.lines:
        if line.charge.stage is not Stage.MONTHLY:
            sums[_group(line)] = sums.get(_group(line), Decimal(0)) + (line.amount or 0)
    ordered = sorted(sums.items(), key=lambda entry: entry[1])
    if not ordered:
        return "<p>There is nothing to pay for.</p>"
    chart = _chart(
        pygal.HorizontalBar, len(ordered), [_BLUE], lambda value: f"{value:,.2f}", show_legend=False, **_BARE
    )
    chart.x_labels = [f"{name}: {sheet.money(amount, told.book.currency)}" for name, amount in ordered]
    chart.add("cost", [float(amount) for _, amount in ordered])
    return _figure(chart, "What is paid once, by kind")


def _tables_of_costs(told: Forecast) -> str:
    tables = [_table(sheet.BUCKET_HEADERS, sheet.bucket_rows(told), range(1, 6))]
    for stage in Stage:
        if costs := list(sheet.cost_rows(told, stage)):
            tables.append(_table((sheet.DUE[stage], "quantity", "rate", "amount"), costs, (1, 2, 3)))
    tables.append(_table(sheet.TOTAL_HEADERS, sheet.total_rows(told), (1,)))
    return "".join(f"<p></p>{table}" for table in tables)


def _restores(told: Forecast) -> str:
    if not told.tiers:
        return "<p>Nothing is archived.</p>"
    chart = _chart(
        pygal.HorizontalBar, len(told.tiers), [_SKY], lambda value: f"{value:,.2f}", show_legend=False, **_BARE
    )
    chart.x_labels = [
        f"{tier.tier}, {sheet.hours(tier.hours)}: {tier.cost.amount:,.2f}" for tier in reversed(told.tiers)
    ]
    chart.add("cost", [float(tier.cost.amount) for tier in reversed(told.tiers)])
    return _figure(
        chart, f"What each restore tier costs, in {told.book.currency}, and how long it takes at the slow end"
    )


def _time(told: Forecast) -> str:
    spans = told.timeline.spans[:_MOST_SPANS]
    if not spans:
        return "<p>Nothing to draw: the speed of the line is unknown, or nothing is to be done.</p>"

    def from_start(moment: datetime) -> float:
        return (moment - told.timeline.start).total_seconds()

    whole = max(from_start(span.end) for span in spans)
    size, unit = next((size, unit) for least, size, unit in _UNITS if whole >= least)
    chart = _chart(
        pygal.HorizontalStackedBar,
        len(spans),
        ["transparent", *_SPAN_COLOURS.values()],
        lambda value: f"{value:,.1f}".removesuffix(".0"),
        show_legend=False,
    )
    ordered = list(reversed(spans))
    chart.x_labels = [
        f"{span.kind}, {span.name}: {(from_start(span.end) - from_start(span.start)) / size:,.1f}" for span in ordered
    ]
    chart.add(None, [from_start(span.start) / size for span in ordered])
    for kind in _SPAN_COLOURS:
        lengths = [(from_start(s.end) - from_start(s.start)) / size if s.kind == kind else None for s in ordered]
        chart.add(kind, lengths)
    left_out = len(told.timeline.spans) - len(spans)
    caption = f"{unit} from {told.timeline.start:%Y-%m-%d %H:%M} on" + (
        f"; {left_out} more are not drawn" if left_out else ""
    )
    ends = "" if told.timeline.end else '<p class="warn">The speed of the line is unknown: transfers are not drawn.</p>'
    return ends + _figure(chart, caption)


def _sizes(told: Forecast) -> str:
    """Objects by size, in steps of four powers of two, and what they weigh."""
    steps: dict[int, list[int]] = {}
    for b in told.buckets:
        for power, amount in b.census.sizes.items():
            step = steps.setdefault(-(-power // 4) * 4, [0, 0])
            step[0] += amount.objects
            step[1] += amount.bytes
    if not steps:
        return "<p>There are no objects.</p>"
    ordered = sorted(steps.items(), reverse=True)
    figures = []
    kinds: tuple[tuple[str, str, Callable[[int], str]], ...] = (
        ("objects", _BLUE, lambda count: f"{count:,}"),
        ("bytes", _ORANGE, human),
    )
    for at, (name, colour, form) in enumerate(kinds):
        chart = _chart(pygal.HorizontalBar, len(ordered), [colour], form, show_legend=False, **_BARE)
        chart.x_labels = [
            f"{'empty' if power == 0 else f'below {_power(power)}'}: {form(amounts[at])}" for power, amounts in ordered
        ]
        chart.add(name, [amounts[at] for _, amounts in ordered])
        figures.append(_figure(chart, f"{name} by size of the object"))
    return "".join(figures)


def _power(power: int) -> str:
    """2**power bytes, in words: 64 KiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    at = min(power // 10, len(units) - 1)
    return f"{1 << (power - 10 * at):,} {units[at]}"


def _obstacles(told: Forecast) -> str:
    if not told.obstacles:
        return ""
    names = list(dict.fromkeys(o.kind for o in told.obstacles))[:_MOST_SPANS]
    chart = _chart(
        pygal.HorizontalStackedBar, len(names), list(_SEVERITY.values()), lambda value: f"{value:,.0f}",
        legend_at_bottom=True, legend_at_bottom_columns=3, **_BARE,
    )  # fmt: skip
    kinds = Counter(o.kind for o in told.obstacles)
    chart.x_labels = [f"{name}: {kinds[name]:,}" for name in reversed(names)]
    for severity in _SEVERITY:
        counts = Counter(o.kind for o in told.obstacles if o.severity == severity)
        chart.add(severity, [counts[name] or None for name in reversed(names)])
    return _figure(
        chart, "Obstacles by kind: those that stop objects, those that cost money or time, and what could not be read"
    )
