"""The dashboard says what the counts say, in any width, and the same when a bucket is done."""

from __future__ import annotations

import json
import os
import pty
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from migrate_v2.board import bucket_lines, one_line, texts, total_lines
from migrate_v2.model import FileState, Phase
from migrate_v2.steps.status import Amount, Glacier, Gone, RestoreCost, Standing, Throughput, Total, total
from tests.conftest import Run, fill
from tests.fakes.forks import Job, Zygote, as_by_the_script

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

GB = 10**9


def standing(**how: Any) -> Standing:
    nothing = {name: Amount() for name in ("verified", "unprovable", "kept", "failed", "deleted", "pending", "to_come")}
    usual: dict[str, Any] = {
        **nothing,
        "bucket": "photos", "phase": Phase.SYNCING, "objects": 100, "bytes": 10 * GB,
        "states": {FileState.DISCOVERED: Amount(60, 6 * GB), FileState.VERIFIED: Amount(39, 4 * GB), FileState.ERROR: Amount(1, 0)},
        "storage_classes": {"GLACIER": Amount(20, 2 * GB), "STANDARD": Amount(80, 8 * GB)},
        "glacier": Glacier(Amount(12, GB), Amount(5, GB), Amount()),
        "errors": 1, "gone": Gone(), "elapsed_seconds": 3 * 86400.0, "throughput": Throughput(35e6, 30e6), "eta_seconds": 7200.0,
        "delete_markers": 0, "uploads": None, "account": "", "region": "", "endpoint": "", "versioning": "", "scanned_at": "",
        "fetched_bytes": 4 * GB, "fetch_seconds": 100.0, "backlog": {}, "on_its_way": [], "copies": [],
        "restore_cost": RestoreCost(0.0, 0, 0, "", 0.0, "USD", [], ""), "restores_seen_at": "",
    }  # fmt: skip
    usual["to_come"], usual["verified"] = Amount(60, 6 * GB), Amount(39, 4 * GB)
    return Standing(**{**usual, **how})


def test_one_bucket() -> None:
    lines = texts(bucket_lines(standing(), 100, fancy=False, evidence={"md5-etag": 30, "crc64nvme": 9}))
    assert lines == [
        "photos: syncing, 3 d since it was first listed",
        "  discovered  ##############..........  60 %           60   6.0 GB",
        "  verified    #########...............  40 %           39   4.0 GB",
        "  error       ........................   0 %            1      0 B",
        "  in Glacier  12 to request (1.0 GB); 5 restoring (1.0 GB)",
        "  classes     STANDARD 80 (8.0 GB); GLACIER 20 (2.0 GB)",
        "  proved      9 by crc64nvme; 30 by md5-etag",
        "  fetching    35 MB/s in the last run; 30 MB/s overall",
        "  to come     60 objects, 6.0 GB, 2 h at that rate",
        "  errors      1; `migrate-v2 errors photos` says why",
    ]


@pytest.mark.parametrize("width", [40, 60, 72, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    s = standing(bucket="b" * 63, storage_classes={f"CLASS_{n}": Amount(n, n * GB) for n in range(1, 9)})
    lines = [*bucket_lines(s, width), one_line(s, width), *total_lines(total([s, s]), width, free=5, base="/srv" * 20)]
    assert max(map(len, texts(lines))) <= max(width, 56)
    told = " ".join(texts(lines))
    assert all(f"CLASS_{n} " in told for n in range(1, 9)) or width == 40


@pytest.mark.parametrize(
    ("share", "figures"),
    [
        ((0, 10), "........   0 %"),
        ((1, 10**6), "#.......   1 %"),
        ((999_999, 10**6), "#######.  99 %"),
        ((5, 5), "######## 100 %"),
    ],
)
def test_nearly_all_is_not_all(share: tuple[int, int], figures: str) -> None:
    s = standing(states={FileState.VERIFIED: Amount(1, share[0])}, bytes=share[1])
    assert figures in texts(bucket_lines(s, 60, fancy=False))[1]


def test_an_empty_bucket_and_one_of_empty_objects() -> None:
    assert texts(bucket_lines(standing(states={}, objects=0, bytes=0), 80))[0].startswith("photos")
    (line,) = [
        t
        for t in texts(bucket_lines(standing(states={FileState.VERIFIED: Amount(3, 0)}, objects=3, bytes=0), 80))
        if "verified" in t
    ]
    assert "100 %" in line


def test_what_is_left_there_is_told_when_it_is_done() -> None:
    done = standing(
        phase=Phase.DELETING, unprovable=Amount(3, 30), kept=Amount(2, 20), delete_markers=7, uploads=1, errors=0,
        to_come=Amount(), eta_seconds=0.0,
    )  # fmt: skip
    text = "\n".join(texts(bucket_lines(done, 100)))
    assert "3 unprovable (30 B), kept in S3; 2 kept (20 B)" in text
    assert "7 delete markers" in text and "1 unfinished upload" in text
    assert "confirm-delete photos" in text and "to come" not in text


def test_totals_add_up_and_say_what_the_disk_lacks() -> None:
    t = total([standing(), standing(bucket="b", phase=Phase.COMPLETE, fetched_bytes=0, fetch_seconds=0.0)])
    assert (t.buckets, t.objects, t.bytes, t.errors) == (2, 200, 20 * GB, 2)
    assert t.states[FileState.VERIFIED] == Amount(78, 8 * GB) and t.to_come == Amount(120, 12 * GB)
    assert (t.overall, t.session) == (4 * GB / 100, 35e6) and t.eta_seconds == 12 * GB / 35e6
    assert list(t.phases.items()) == [(Phase.SYNCING, 1), (Phase.COMPLETE, 1)]
    text = "\n".join(texts(total_lines(t, 80, free=10 * GB, base="/srv")))
    assert "total: 2 buckets: 1 syncing, 1 complete" in text
    assert "10 GB free at /srv, 12 GB to come" in text and "2.0 GB too little" in text
    assert "too little" not in "\n".join(texts(total_lines(t, 80, free=12 * GB, base="/srv")))
    assert total([]).eta_seconds == 0.0 and texts(total_lines(Total(), 80)) == ["total: 0 buckets"]


def test_names_do_not_steer_the_dashboard() -> None:
    lines = texts([*bucket_lines(standing(bucket="b\x1b[2J"), 80), one_line(standing(bucket="b\x1b[2J"), 80)])
    assert all(line.isprintable() for line in lines)


# The commands


def on_a_terminal(zygote: Zygote, arguments: list[str], environment: dict[str, str], columns: int = 90) -> str:
    """What the program draws on a real pseudo-terminal, to its end."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = as_by_the_script(environment | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"})
    nothing = os.open(os.devnull, os.O_RDWR)
    program = zygote.begin(Job(arguments, env, "/"), (nothing, theirs, nothing))
    os.close(nothing)
    os.close(theirs)
    drawn = b""
    try:
        while block := os.read(ours, 65536):
            drawn += block
    except OSError:  # the other end is closed
        pass
    assert program.wait() == 0
    os.close(ours)
    return drawn.decode()


def test_the_reports_of_a_whole_migration(
    run: Run, zygote: Zygote, boto: S3Client, bucket: str, environment: dict[str, str], home: Path
) -> None:
    fill(boto, bucket, {"a": b"12345", "b/c": b"1"})
    err = run("migrate", bucket).stderr
    report = err[err.index(f"{bucket}: deleting, ") :]
    assert re.search(r"verified +#+ 100 % +2 +6 B", report), err
    assert re.search(r"proved +2 by md5-etag", report) and "in the last run" in report
    assert f"{bucket}: deleting, " not in run("migrate", bucket).stderr, "reported once"
    drawn = on_a_terminal(zygote, ["status"], environment)
    assert "\x1b[1m" in drawn and "█" in drawn and "total: 1 bucket" in drawn and " free at /" in drawn
    piped = run("status").stdout
    assert "\x1b" not in piped and piped.startswith(f"{bucket}\tdeleting\t2\t6\t2\t")
    document = json.loads(run("--json", "status").stdout)
    assert document["overall"]["destination"]["free_bytes"] > 0 and document["overall"]["phases"] == {"deleting": 1}
    assert document["buckets"][0]["to_come"] == {"objects": 0, "bytes": 0}
    token = json.loads(run("--json", "confirm-delete", "--dry-run", bucket).stdout)["token"]
    err = run("confirm-delete", f"--confirm={token}", bucket).stderr
    report = err[err.index(f"{bucket}: complete, ") :]
    assert re.search(r"deleted +#+ 100 % +2 +6 B", report)
    # All is complete, so that watching ends by itself.
    watched = on_a_terminal(zygote, ["status", "--watch"], environment, columns=60)
    assert f"{bucket}: complete" in watched and "\x1b[?25h" in watched
