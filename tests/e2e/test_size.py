"""What an object costs, and what memory is needed, is the same for a hundred thousand objects and for a million."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.server import _Lister, _Listing
from migrate_v2.edges.store import Store
from migrate_v2.model import ObjectVersion
from tests.conftest import PROGRAM, Figures, bare_environment, query

MiB = 1 << 20
WHEN = datetime(2020, 1, 2, tzinfo=UTC)


@pytest.fixture
def lister() -> Iterator[str]:
    """A server that lists the buckets `n<count>` of so many objects, and has none of them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Lister)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    _Lister.buckets = {}


@dataclass
class Cost:
    cpu: float
    rss: int


def cost(url: str, state: Path, *arguments: str) -> Cost:
    env = bare_environment() | {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url,
        "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1", "MIGRATE_V2_STATE_DB_PATH": str(state),
    }  # fmt: skip
    with (state.parent / "said").open("wb") as said:
        child = subprocess.Popen([PROGRAM, "-q", *arguments], env=env, cwd=state.parent, stdout=said, stderr=said)
        peak = 0
        # Not ru_maxrss: what is forked begins with the figure of its parent.
        while (found := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))])
            time.sleep(0.05)
        _, status, usage = found
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, (state.parent / "said").read_text()
    return Cost(usage.ru_utime + usage.ru_stime, peak)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_million_objects_cost_what_ten_times_a_hundred_thousand_do(
    lister: str, tmp_path: Path, figures: Figures
) -> None:
    start = cost(lister, tmp_path / "none.db", "config")
    costs, looks = {}, {}
    for count in (100_000, 1_000_000):
        keys = {f"dir{n // 1000:04}/object-{n:07}": (4096, f"{n:032x}") for n in range(count)}
        _Lister.buckets = {f"n{count}": _Listing(keys)}
        del keys
        state = tmp_path / f"{count}.db"
        costs[count] = cost(lister, state, "scan", f"n{count}")
        assert query(state, "select count(*) from files") == [(count,)]
        looks[count] = cost(lister, state, "status")
        figures(
            f"{count:,} objects: scan {(costs[count].cpu - start.cpu) * 1e6 / count:.1f} us of CPU each, peak"
            f" {costs[count].rss / MiB:.0f} MiB; status {looks[count].cpu:.2f} s, {looks[count].rss / MiB:.0f} MiB;"
            f" {state.stat().st_size / count:.0f} bytes a row"
        )
    few, many = costs[100_000], costs[1_000_000]
    assert many.rss < 250 * MiB and many.rss <= 1.2 * few.rss
    each = [(one.cpu - start.cpu) / count for count, one in costs.items()]
    assert each[1] <= 1.10 * each[0], each
    # The counts are kept, not counted.
    assert looks[1_000_000].cpu <= 1.5 * looks[100_000].cpu


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_status_of_ten_million_rows_takes_what_that_of_a_hundred_thousand_does(
    tmp_path: Path, rounds: Callable[[int], int], figures: Figures
) -> None:
    """What is written here is what a scan writes; the listing is left out."""
    looks = {}
    for count in (100_000, rounds(10_000_000)):
        state = tmp_path / f"{count}.db"
        began = time.monotonic()
        with Store.open(state) as store:
            held = store.begin_scan("b", account="1", region="r", endpoint="e", versioning="", uploads=0)
            for first in range(0, count, 1000):
                some = [
                    ObjectVersion(
                        "b", f"d{n // 1000:05}/o{n:08}", "null", n % 9999, f"{n:032x}", "STANDARD", WHEN, True
                    )
                    for n in range(first, first + 1000)
                ]
                store.add_listed("b", held.scan, some, (), (some[-1].key, ""))
            store.end_scan("b", held.scan)
        took = time.monotonic() - began
        looks[count] = min((cost("http://127.0.0.1:9", state, "status") for _ in range(3)), key=lambda one: one.cpu)
        figures(
            f"{count:,} rows: written in {took:.0f} s, {state.stat().st_size / count:.0f} bytes each; status"
            f" {looks[count].cpu:.2f} s of CPU, {looks[count].rss / MiB:.0f} MiB"
        )
    few, many = looks.values()
    assert many.cpu <= 1.5 * few.cpu and many.rss <= 1.2 * few.rss
