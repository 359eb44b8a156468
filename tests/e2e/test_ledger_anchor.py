"""State file, only-copies.json and certificate compare how far the record of deletions goes: what is missing is noticed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import tree
from tests.e2e.test_faults import world
from tests.e2e.world import World, Zygote
from tests.fakes.forks import Fault

WRITES = (("migrate",), ("sync",), ("confirm-delete", "--dry-run"))


@pytest.fixture
def emptied(zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """Two objects are deleted, in two deletions; there are backups of before the first and of between them."""
    with world(tmp_path, zygote) as made:
        made.put("a", b"the first only copy")
        made.done("migrate", made.bucket)
        backup(made, "before")
        made.done("confirm-delete", made.token(), made.bucket)
        backup(made, "between")
        made.put("b", b"the second only copy")
        made.done("scan", "--rescan", made.bucket)
        made.done("migrate", made.bucket)
        made.done("confirm-delete", made.token(), made.bucket)
        yield made


def own(made: World) -> Path:
    return made.home / ".migrate-v2" / made.bucket


def backup(made: World, name: str) -> None:
    shutil.copytree(made.home, made.folder / f"home-{name}")
    shutil.copy2(made.state, made.folder / f"state-{name}.db")


def restore_state(made: World, name: str) -> None:
    for path in made.folder.glob("state.db-*"):
        path.unlink()
    shutil.copy2(made.folder / f"state-{name}.db", made.state)


def restore_home(made: World, name: str) -> None:
    shutil.rmtree(made.home)
    shutil.copytree(made.folder / f"home-{name}", made.home)


def kind(made: World) -> str | None:
    ran = made.done("status", "--json", made.bucket)
    mismatch: str | None = json.loads(ran.out)["buckets"][0]["mismatch"]
    return mismatch


def refused(made: World, *commands: tuple[str, ...]) -> None:
    """By exit status, with nothing asked of S3 that could write over a copy, and no file changed."""
    made.put("a", b"a new object under an old key")
    before = {path: body for path, body in tree(made.home).items() if not path.endswith("lock")}
    fetched = made.server.count("GetObject")
    for command in commands:
        assert made.run(*command, made.bucket).code == 5, command
    assert made.server.count("GetObject") == fetched
    assert {path: body for path, body in tree(made.home).items() if not path.endswith("lock")} == before


def test_nothing_is_missing_after_ordinary_work(emptied: World) -> None:
    assert kind(emptied) is None
    emptied.done("verify", "--offline", emptied.bucket)
    emptied.done("verify", emptied.bucket)
    emptied.done("migrate", emptied.bucket)


def test_ledger_without_its_last_entry_is_refused(emptied: World) -> None:
    with sqlite3.connect(emptied.state) as connection:
        connection.execute("DROP TRIGGER ledger_delete")
        connection.execute("DELETE FROM ledger WHERE seq = (SELECT max(seq) FROM ledger)")
    connection.close()
    assert kind(emptied) == "ledger_cut"
    others = (("verify",), ("scan",), ("retry-errors",), ("restore",))
    refused(emptied, *WRITES, *others)
    emptied.done("verify", "--offline", emptied.bucket)


@pytest.mark.parametrize("cut", ["last line", "all"])
def test_certificate_cut_is_refused_until_verify_has_read_every_copy(emptied: World, cut: str) -> None:
    path = own(emptied) / "deletions.jsonl"
    whole = path.read_bytes()
    if cut == "all":
        path.unlink()
    else:
        path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert kind(emptied) == "certificate_cut"
    refused(emptied, *WRITES)
    assert emptied.run("verify", "--offline", emptied.bucket).code == 4
    assert emptied.run("verify", emptied.bucket).code in (0, 1)  # the new object is not fetched yet
    assert path.read_bytes() == whole
    emptied.done("migrate", emptied.bucket)
    emptied.done("verify", "--offline", emptied.bucket)


@pytest.mark.parametrize("stage", ["before", "between"])
def test_older_destination_is_refused_until_verify_has_read_every_copy(emptied: World, stage: str) -> None:
    restore_home(emptied, stage)
    assert kind(emptied) == "destination_older"
    refused(emptied, *WRITES)
    # Of what was deleted since the backup, "b" has no copy there between the two deletions, or before both.
    assert emptied.run("verify", emptied.bucket).code == 4
    assert kind(emptied) is None
    emptied.done("migrate", emptied.bucket)
    assert (emptied.home / emptied.bucket / "a").read_bytes() == b"the first only copy"
    assert not (emptied.home / emptied.bucket / "b").exists()


@pytest.mark.parametrize("stage", ["before", "between"])
@pytest.mark.parametrize("mark", [True, False], ids=["with its mark", "without its mark"])
def test_older_state_file_is_refused(emptied: World, stage: str, mark: bool) -> None:
    restore_state(emptied, stage)
    if not mark:
        (own(emptied) / "only-copies.json").unlink()
    assert kind(emptied) == "state_file_older"
    refused(emptied, *WRITES, ("verify",))


def test_mark_removed_is_refused(emptied: World) -> None:
    (own(emptied) / "only-copies.json").unlink()
    assert kind(emptied) == "destination_older"
    refused(emptied, *WRITES)
    assert emptied.run("verify", "--offline", emptied.bucket).code == 4


KILLS = [("commit", "kill"), ("rename", "kill"), ("rename", "kill-after")]


def killed_at(made: World, at: str, do: str, numbers: Iterable[int]) -> int:
    """Kills a deletion at each of these calls; how many of them it made."""
    made.put("a", b"1")
    made.put("b", b"2")
    made.done("migrate", made.bucket)
    token = made.token()
    again = made.saved()
    kills = 0
    for n in numbers:
        again()
        if not made.run("confirm-delete", token, made.bucket, fault=Fault(at, n, do)).fired:
            break
        kills += 1
        assert kind(made) is None, n
        made.nothing_is_lost()
        made.done("migrate", made.bucket)
        made.done("confirm-delete", made.token(), made.bucket)
        made.done("verify", "--offline", made.bucket)
        assert kind(made) is None, n
    return kills


@pytest.mark.parametrize(
    ("at", "do", "n"), [("commit", "kill", 12), ("rename", "kill", 6), ("rename", "kill-after", 8)]
)
def test_kill_during_a_deletion_is_no_mismatch(zygote: Zygote, tmp_path: Path, at: str, do: str, n: int) -> None:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        assert killed_at(made, at, do, [n]) == 1


@pytest.mark.soak
@pytest.mark.parametrize(("at", "do"), KILLS)
def test_kill_at_any_write_of_a_deletion_is_no_mismatch(zygote: Zygote, tmp_path: Path, at: str, do: str) -> None:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        assert killed_at(made, at, do, range(1, 100)) > 5


def test_object_put_during_a_deletion_leaves_the_token_good(zygote: Zygote, tmp_path: Path) -> None:
    with world(tmp_path, zygote, versioning="Enabled") as made:
        made.put("a", b"1")
        made.done("migrate", made.bucket)
        token = made.token()
        made.server.fault({"op": "DeleteObjects"}, lambda _: made.put("new", b"12345"), times=1)
        ran = made.done("--json", "confirm-delete", token, made.bucket)
        events = [json.loads(line) for line in ran.out.splitlines()]
        assert [v.key for v in made.server.versions(made.bucket)] == ["new"]
        (stands,) = [event for event in events if event["event"] == "stands"]
        assert stands["new_since_plan"] == {"objects": 1, "bytes": 5}
