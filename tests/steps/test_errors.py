"""What failed is told by cause, goes back to be tried, and what protects an only copy is never forgotten on the way."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from migrate_v2 import cli
from migrate_v2.edges.disk import Changed, Obstacle, _disk_error
from migrate_v2.edges.s3 import Archived, Denied, Moved, Refusal
from migrate_v2.edges.store import Change
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Noted
from migrate_v2.model import Cause, Doomed, FileState, GoneKind, Verdict
from migrate_v2.steps import errors
from tests.steps.conftest import Job


def broken(job: Job) -> None:
    """One row for each of several causes, by what really goes wrong."""
    for key in ("denied", "vanishes", "changes", "blocked", "fine"):
        job.server.put("b", key, b"12345")
    job.scan()
    job.place()
    job.server.deny("s3:GetObject", "b", "denied")
    job.s3._client("us-east-1").delete_object(Bucket="b", Key="vanishes")
    job.server.put("b", "changes", b"other")
    (job.disk.base / "b/blocked").mkdir(parents=True)
    job.fetch()
    job.verify()


def causes(job: Job, only: str | None = None) -> dict[str, str]:
    return {row.key: word for row, word in errors.failed(["b"], job.store, only)}


def test_causes_of_what_really_goes_wrong(job: Job) -> None:
    broken(job)
    assert causes(job) == {"denied": "denied", "changes": "changed", "blocked": "in the way"}
    assert causes(job, "vanished") == {"vanishes": "vanished"}, "what is gone has not failed"
    assert errors.gone(["b"], job.store)[GoneKind.NEVER_FETCHED] == (1, 5)
    assert causes(job, "denied") == {"denied": "denied"}
    groups = errors.grouped(errors.failed(["b"], job.store))
    assert [(g.cause, g.objects, g.bytes) for g in groups] == [
        ("changed", 1, 5), ("denied", 1, 5), ("in the way", 1, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (Moved("k"), "changed"),
        (Denied("no"), "denied"),
        (Archived("k"), "archived"),
        (Obstacle("k", "FIFO"), "in the way"),
        (Changed("k"), "unreadable"),
        (_disk_error(OSError(5, "x"), "read", "/k"), "unreadable"),
        (_disk_error(OSError(28, "x"), "write", "/k"), "disk"),
        (Refusal("XYZ: no"), "refused"),
        (Failure("anything at all"), "other"),
    ],
)
def test_failure_recorded_in_row_has_cause(job: Job, failure: Failure, cause: str) -> None:
    job.server.put("b", "k", b"1")
    job.scan()
    job.store.change([Change(job.row("k").version, FileState.ERROR, None, str(failure), failure.cause)])
    assert causes(job) == {"k": cause}


def test_retry_puts_back_and_has_the_bucket_listed_where_that_is_what_it_takes(job: Job) -> None:
    broken(job)
    told = list(errors.retry("b", job.store, "denied", rows_per_commit=2))
    assert job.states()["denied"] is FileState.DISCOVERED and job.states()["vanishes"] is FileState.ERROR
    assert job.store.counts("b").scanned
    assert isinstance(told[0], Noted) and told[0].text.startswith("1 failed")
    list(errors.retry("b", job.store, None, rows_per_commit=2))
    assert {key for key, state in job.states().items() if state is FileState.ERROR} == {"vanishes"}
    assert not job.store.counts("b").scanned
    job.scan()
    assert job.row("vanishes").cause is Cause.VANISHED and job.row("changes").state is FileState.DISCOVERED
    (told_,) = errors.retry("b", job.store, "disk", rows_per_commit=2)
    assert isinstance(told_, Noted) and "`disk`" in told_.text


def test_retry_of_vanished_lists_the_bucket_again_and_changes_no_row(job: Job) -> None:
    stored = job.server.put("b", "k", b"12345")
    job.scan()
    job.server.remove("b", "k")
    job.scan()
    list(errors.retry("b", job.store, None, rows_per_commit=2))
    assert job.store.counts("b").scanned
    list(errors.retry("b", job.store, "vanished", rows_per_commit=2))
    assert not job.store.counts("b").scanned and job.row("k").gone is GoneKind.NEVER_FETCHED
    with job.server.lock:
        job.server.buckets["b"].objects["k"] = [stored]
        job.server.buckets["b"].keys.append("k")
    job.scan()
    assert job.row("k").state is FileState.DISCOVERED


def test_a_row_that_protects_an_only_copy_is_not_put_back(job: Job) -> None:
    job.server.put("b", "k", b"12345")
    job.bring()
    job.s3._client("us-east-1").delete_object(Bucket="b", Key="k")
    job.scan()
    assert job.row("k").gone is GoneKind.ONLY_COPY and job.row("k").sha256
    list(errors.retry("b", job.store, None, rows_per_commit=2))
    assert job.row("k").state is FileState.ERROR and job.store.holds_only_copies("b")


def test_an_unreadable_copy_is_looked_at_again_and_not_fetched(job: Job) -> None:
    job.server.put("b", "k", b"12345")
    job.bring()
    path = job.path("k")
    path.unlink()
    path.mkdir()
    job.verify_again()
    row = job.row("k")
    assert (row.state, row.verdict) == (FileState.ERROR, Verdict.UNREADABLE) and causes(job) == {"k": "unreadable"}
    list(errors.retry("b", job.store, None, rows_per_commit=2))
    assert job.row("k").state is FileState.DOWNLOADED


# The commands


@pytest.fixture
def command(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    job.bucket = "bbb"
    job.server.bucket("bbb")

    def run(*arguments: str, typed: str | None = None) -> tuple[int, str, str]:
        stdin = io.StringIO(typed or "")
        stdin.isatty = lambda: typed is not None  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr("migrate_v2.report._write_to_terminal", lambda text: typed is not None)
        capfd.readouterr()
        code = cli.main(["--state", str(tmp_path / "state.db"), "--dest", str(job.disk.base), *arguments])
        return code, *capfd.readouterr()

    monkeypatch.chdir(tmp_path)
    return run


def test_errors_as_data(job: Job, command: Any) -> None:
    assert json.loads(command("--json", "errors")[1]) == {
        "errors": [],
        "causes": [],
        "gone": {kind: {"objects": 0, "bytes": 0} for kind in GoneKind},
    }
    for number in range(3):
        job.server.put("bbb", f"k{number}\n", b"12")
    job.scan()
    job.store._conn.execute(
        "UPDATE files SET state = 'error', reason = 'access to x is denied', cause = 'denied' WHERE key < 'k2'"
    )
    code, out, err = command("errors")
    assert code == 0 and [line.split("\t")[:4] for line in out.splitlines()] == [
        ["bbb", "k0\\n", "null", "denied"], ["bbb", "k1\\n", "null", "denied"],
    ]  # fmt: skip
    assert "denied: 2 objects, 4 B" in err and "s3:GetObject" in err
    document = json.loads(command("--json", "errors", "bbb")[1])
    assert [e["key"] for e in document["errors"]] == ["k0\n", "k1\n"]
    assert document["errors"][0] == {
        "bucket": "bbb", "key": "k0\n", "version_id": "null", "size": 2, "cause": "denied", "reason": "access to x is denied",
    }  # fmt: skip
    assert document["causes"][0]["objects"] == 2
    assert command("errors", "--cause=frob")[0] == 2
    assert command("errors", "no-such-bucket")[0] == 1
    assert command("--json", "errors", "--cause=disk")[1].startswith('{"errors": []')
    assert command("retry-errors", "--cause=disk")[0] == 0 and job.states()["k0\n"] is FileState.ERROR
    assert command("retry-errors")[0] == 0 and set(job.states().values()) == {FileState.DISCOVERED}
    # As a person would with sqlite3, and without a reason.
    job.store._conn.execute("UPDATE files SET state = 'error', reason = NULL, cause = NULL")
    assert command("retry-errors", "bbb")[0] == 0 and set(job.states().values()) == {FileState.DISCOVERED}


def test_check_state_finds_counts_that_are_not_those_of_the_rows(job: Job, command: Any) -> None:
    job.server.put("bbb", "k", b"12345")
    job.scan()
    code, out, err = command("check-state")
    assert code == 0 and "discovered\t1\t5\n" in out and "are those of the rows" in err
    document = json.loads(command("--json", "check-state")[1])
    assert document["agrees"] and document["states"]["discovered"] == {"objects": 1, "bytes": 5}
    job.store._conn.execute("UPDATE tallies SET objects = 2, bytes = 9 WHERE state = 'discovered'")
    code, out, err = command("--json", "check-state")
    document = json.loads(out)
    assert code == 1 and not document["agrees"] and "check-state --recount" in err
    assert document["differences"][0]["counted"] == {"objects": 1, "bytes": 5}
    assert document["differences"][0]["kept"] == {"objects": 2, "bytes": 9}
    assert command("check-state", "--recount")[0] == 0
    assert command("check-state")[0] == 0
    assert cli.main(["--state=none.db", "check-state"]) == 1
    assert not Path("none.db").exists()


def test_reset_forgets_and_leaves_files(job: Job, command: Any) -> None:
    job.server.put("bbb", "k", b"12345")
    job.bring()
    assert command("reset", "bbb")[0] == 5
    assert command("reset")[0] == 2
    assert command("reset", "bbb", typed="bb\n")[0] == 5 and job.rows()
    assert command("reset", "bbb", typed="bbb\n")[0] == 0
    assert job.rows() == [] and job.store.buckets() == [] and (job.disk.base / "bbb/k").exists()
    assert command("--json", "status")[1].startswith('{"buckets": []')
    job.bring()
    assert job.row("k").state is FileState.VERIFIED


def test_reset_by_a_token_of_exactly_what_is_forgotten(job: Job, command: Any) -> None:
    for name in ("bbb", "ccc"):
        job.bucket = name
        job.server.bucket(name)
        job.server.put(name, "k", b"12345")
        job.scan()
    document = json.loads(command("--json", "reset", "--all", "--dry-run")[1])
    assert [b["bucket"] for b in document["buckets"]] == ["bbb", "ccc"]
    job.server.put("ccc", "new", b"1")
    job.scan()
    assert command("reset", "--all", f"--confirm={document['token']}")[0] == 5
    token = json.loads(command("--json", "reset", "--all", "--dry-run")[1])["token"]
    assert command("reset", "bbb", f"--confirm={token}")[0] == 5
    assert command("reset", "--all", typed="2 buckets\n")[0] == 0 and job.store.buckets() == []
    assert command("reset", "--all", typed="0 buckets\n")[0] == 0


def test_reset_keeps_what_protects_only_copies_and_says_so(job: Job, command: Any) -> None:
    job.server.put("bbb", "k", b"12345")
    job.server.put("bbb", "left", b"12345")
    job.bring()
    job.server.deny("s3:DeleteObject", "bbb", "left")
    with pytest.raises(Refused):
        job.delete()
    assert job.states()["k"] is FileState.DELETED
    document = json.loads(command("--json", "reset", "bbb", "--dry-run")[1])
    assert document["buckets"][0]["stays"] == 1
    code, _, err = command("reset", "bbb", f"--confirm={document['token']}")
    assert code == 0 and "1 row is kept" in err
    assert job.states() == {"k": FileState.DELETED}
    # The mark beside the data knows this state file still, and a new object does not take the old one's place.
    job.server.put("bbb", "k", b"another")
    job.run = "run-2"
    job.bring()
    assert (job.disk.base / "bbb/k").read_bytes() == b"12345"


def test_reset_waits_for_deletes_that_nobody_knows_the_end_of(job: Job, command: Any) -> None:
    job.server.put("bbb", "k", b"12345")
    job.bring()
    job.store.ledger.intend("bbb", [Doomed("k", "null", "version", "e", 5, "s")], "t")
    token = json.loads(command("--json", "reset", "bbb", "--dry-run")[1])["token"]
    code, _, err = command("reset", "bbb", f"--confirm={token}")
    assert code == 5 and "interrupted" in err and job.rows()
