"""The page holds everything itself: charts, figures, no script, nothing to load; and a real browser agrees."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from migrate_v2 import page, sheet
from migrate_v2.steps.plan import Forecast
from migrate_v2.timeline import Span
from tests.test_sheet import planned

CHARTS = 6  # costs, restores, time line, two of sizes, obstacles
_FROM_OUTSIDE = re.compile(
    r"(?:src|href|data|action|poster)\s*=|url\(|@import|<script|<iframe|<object|<embed|<img|\bon\w+\s*=", re.IGNORECASE
)


@pytest.fixture(scope="module")
def told() -> Forecast:
    return planned(name="a-bucket")


@pytest.fixture(scope="module")
def text(told: Forecast) -> str:
    return page.html(told)


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_chart_is_well_formed_and_named(text: str) -> None:
    figures = re.findall(r"<figure role=\"img\" aria-label=\"[^\"]+\">(<svg.*?</svg>)<figcaption>", text, re.DOTALL)
    assert len(figures) == CHARTS
    for svg in figures:
        root = ET.fromstring(svg)
        assert root.get("viewBox"), "it grows and shrinks with the page"
        assert root.findall(".//{*}rect[@class='rect reactive tooltip-trigger']"), "it has bars"


def test_nothing_is_loaded_and_nothing_runs(text: str) -> None:
    assert _FROM_OUTSIDE.findall(re.sub(r"xmlns[:\w]*=\"[^\"]*\"", "", text)) == []
    assert "default-src 'none'" in text
    assert len(text) < 400_000, "no library in it"


def test_the_check_can_fail() -> None:
    for bad in ('<img src="x">', "<script>", "a { background: url(x) }", '<a href="http://x">', '<b onclick="x">'):
        assert _FROM_OUTSIDE.search(bad)


def test_it_says_what_the_sheet_says(told: Forecast, text: str) -> None:
    parser = _Words()
    parser.feed(text)
    words = " ".join(parser.words)
    for row in [*sheet.total_rows(told), *sheet.tier_rows(told), *sheet.fact_rows(told)]:
        for cell in row:
            assert str(cell).strip() in words
    assert "2,018.00" not in words
    assert 'content="width=device-width' in text
    assert "@media print" in text


def test_names_are_text_and_no_markup(text: str) -> None:
    assert "<b>gone</b>" not in text
    assert "&lt;b&gt;gone&lt;/b&gt;" in text
    assert "\x1b" not in text


def test_an_empty_plan_is_a_page_too(told: Forecast) -> None:
    nothing = page.html(replace(told, buckets=(), lines=(), tiers=(), obstacles=()))
    assert "Nothing is archived." in nothing
    assert "There are no objects." in nothing
    assert "There is nothing to pay for." in nothing


def test_what_is_unknown_is_told_on_top() -> None:
    text = page.html(planned("mars-north-1", line=None))
    assert "Incomplete, no rate for:" in text
    assert "The speed of the line is unknown" in text


@pytest.mark.parametrize(
    ("lasts", "shown"),
    [
        (timedelta(seconds=90), "transfer, at hand: 45.0 seconds"),
        (timedelta(minutes=30), "transfer, at hand: 15.0 minutes"),
        (timedelta(hours=30), "transfer, at hand: 15.0 hours"),
        (timedelta(days=30), "transfer, at hand: 15.0 days"),
    ],
)
def test_the_time_line_is_in_a_unit_that_fits(told: Forecast, lasts: timedelta, shown: str) -> None:
    start = told.timeline.start
    spans = (
        Span("transfer", "at hand", start, start + lasts / 2),
        Span("verify", "read back", start + lasts / 2, start + lasts),
    )
    text = page.html(replace(told, timeline=replace(told.timeline, spans=spans)))
    label, unit = shown.rsplit(" ", 1)
    assert label in text
    assert f"{unit} from {start:%Y-%m-%d %H:%M} on" in text


# What is drawn how large only the browser knows; it says so in the page's title, by a script of the test's own.
_PROBE = """<script>addEventListener('load', () => {
  const boxes = [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect());
  document.title = JSON.stringify({charts: boxes.filter(box => box.width > 200 && box.height > 50).length,
    widest: Math.max(...boxes.map(box => box.right)), page: document.documentElement.scrollWidth, window: innerWidth});
});</script>"""


def browse(page_: Path, width: int) -> tuple[str, str, list[str]]:
    """What the browser then has as its document, what it said, and what the page asked for over the network."""
    chromium = shutil.which("chromium")
    assert chromium, "apt-get install chromium"
    log = page_.with_suffix(".json")
    ended = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page_.with_suffix('.profile')}",
            f"--window-size={width},2000", "--enable-logging=stderr", f"--log-net-log={log}",
            "--virtual-time-budget=2000", "--dump-dom", page_.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    asked = []
    for line in log.read_text().splitlines():
        with contextlib.suppress(ValueError):
            params = json.loads(line.rstrip(",")).get("params", {})
            # The browser's own errands have no origin; a page's have that of a file, which is "null".
            if "url" in params and params.get("initiator", "not an origin") != "not an origin":
                asked.append(params["url"])
    return ended.stdout, ended.stderr, asked


@pytest.mark.system
@pytest.mark.parametrize("width", [500, 1200])  # no window of Chromium's is narrower
def test_a_real_browser_shows_it_all(text: str, tmp_path: Path, width: int) -> None:
    (tmp_path / "plan.html").write_text(text)
    _, said, asked = browse(tmp_path / "plan.html", width)
    assert "CONSOLE" not in said, said
    assert asked == []
    allowed = text.replace("style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    (tmp_path / "probed.html").write_text(allowed.replace("</body>", _PROBE + "</body>"))
    document, _, _ = browse(tmp_path / "probed.html", width)
    found = re.search(r"<title>(\{.*?\})</title>", document)
    assert found
    drawn = json.loads(found[1])
    assert drawn["charts"] == CHARTS
    assert drawn["page"] <= drawn["window"], "nothing has to be scrolled sideways"
    assert drawn["widest"] <= drawn["window"]


@pytest.mark.system
def test_the_browser_would_tell(text: str, tmp_path: Path) -> None:
    leaking = tmp_path / "leaking.html"
    open_ = text.replace("default-src 'none'", "default-src *")
    leaking.write_text(open_.replace("</body>", '<img src="http://leak.example/x.png"><script>f()</script></body>'))
    _, said, asked = browse(leaking, 500)
    assert "http://leak.example/x.png" in asked
    assert "CONSOLE" in said
