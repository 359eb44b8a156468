"""The record of deletes: added to and never changed, and a change of it by whatever hand is seen."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate_v2.edges.ledger import Anchors, Key, hash_of
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure, Refused
from migrate_v2.model import Doomed

ONE = Doomed("a", "v1", "version", "etag", 5, "sha")
TWO = Doomed("b\n\x00é\U0001f600", "null", "version", "etag", 7, "sha2")
MARKER = Doomed("a", "m", "marker")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state.db") as opened:
        yield opened


def fill(store: Store, bucket: str = "bucket") -> None:
    store.ledger.consent(bucket, "t1", {"agreed": "by its token", "objects": 3})
    one, two = store.ledger.intend(bucket, [ONE, TWO], "t1")
    store.concluded(bucket, [(one, "deleted", True), (two, "still there", False)])
    (marker,) = store.ledger.intend(bucket, [MARKER], "t1")
    store.concluded(bucket, [(marker, "deleted", True)])


# -- the key


def test_the_key_is_made_once_and_is_the_owner_s_alone(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    key = Key.beside(state)
    path = tmp_path / "state.db.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Key.beside(state).id == key.id and Key.beside(state).mac("a") == key.mac("a")
    assert list(tmp_path.iterdir()) == [path]
    assert Key.beside(tmp_path / "other.db").mac("a") != key.mac("a")


def test_of_many_that_make_it_at_once_all_have_the_same(tmp_path: Path) -> None:
    ids: list[str] = []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        ids.append(Key.beside(tmp_path / "state.db").id)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8 and len(set(ids)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.db.key"]


@pytest.mark.parametrize("text", [b"", b"short\n", b"00" * 31, b"zz" * 32, bytes(range(90)), "é".encode() * 32])
def test_what_is_no_key_is_refused_and_left_alone(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "state.db.key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(Refused, match="is not the key of a state file"):
        Key.beside(tmp_path / "state.db")
    assert path.read_bytes() == text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    Key.beside(tmp_path / "state.db")
    (tmp_path / "state.db.key").chmod(mode)
    with pytest.raises(Refused, match="chmod 600"):
        Key.beside(tmp_path / "state.db")


def test_a_link_or_a_folder_in_its_place_is_an_error_of_one_line(tmp_path: Path) -> None:
    Key.beside(tmp_path / "real.db")
    (tmp_path / "state.db.key").symlink_to("real.db.key")
    with pytest.raises(Failure, match="cannot read the key"):
        Key.beside(tmp_path / "state.db")
    (tmp_path / "folder.db.key").mkdir(0o700)
    with pytest.raises(Refused, match="not the key"):
        Key.beside(tmp_path / "folder.db")
    with pytest.raises(Failure, match="cannot read the key"):
        Key.beside(tmp_path / "nowhere" / "state.db")


def test_no_two_lists_of_words_have_one_mac(tmp_path: Path) -> None:
    key = Key.beside(tmp_path / "state.db")
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("", "abc"), ("abc", ""), ("1:a",), (1, "a"), (None,), ("",), ()]
    macs = [key.mac(*words) for words in lists]
    # None and "" are one thing to SQLite's columns here, and to the MAC.
    assert len(set(macs)) == len(lists) - 1


# -- the entries


def test_intents_are_open_until_they_have_an_outcome(store: Store) -> None:
    intents = store.ledger.intend("bucket", [ONE, TWO], "t")
    other = store.ledger.intend("other", [ONE], "t")
    assert store.ledger.open("bucket") == intents and [i.doomed for i in intents] == [ONE, TWO]
    store.concluded("bucket", [(intents[1], "deleted", True)])
    assert store.ledger.open("bucket") == intents[:1] and store.ledger.open("other") == other
    with pytest.raises(sqlite3.IntegrityError):  # one outcome each
        store.concluded("bucket", [(intents[1], "deleted", True)])
    assert store.ledger.open("bucket") == intents[:1]


def test_what_is_written_cannot_be_changed_or_removed(store: Store) -> None:
    fill(store)
    for sql in ("UPDATE ledger SET outcome = 'x'", "DELETE FROM ledger", "UPDATE ledger SET seq = seq + 100"):
        with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
            store._conn.execute(sql)
    assert store.ledger.check("bucket") == 7


def test_chains_of_two_buckets_do_not_touch(store: Store) -> None:
    fill(store, "one")
    before = store.ledger.last("one")
    fill(store, "two")
    assert store.ledger.last("one") == before
    assert store.ledger.check("one") == store.ledger.check("two") == 7
    assert store.ledger.check("three") == 0 and store.ledger.last("three") == (0, "")


def test_what_was_deleted_under_a_token_comes_in_the_order_of_a_plan(store: Store) -> None:
    named = [
        Doomed("b", "v1", "version"), Doomed("a", "m", "marker"), Doomed("a", "v2", "version"),
        Doomed("a", "v1", "version"), Doomed("é", "v", "version"), Doomed("z", "v", "version"),
    ]  # fmt: skip
    intents = store.ledger.intend("bucket", named, "t")
    store.concluded("bucket", [(intent, "deleted", intent.doomed.key != "z") for intent in intents])
    (again,) = store.ledger.intend("bucket", named[:1], "another")
    store.concluded("bucket", [(again, "deleted", True)])
    assert [(d.key, d.version_id) for d in store.ledger.gone_under("bucket", "t")] == [
        ("a", "v1"), ("a", "v2"), ("a", "m"), ("b", "v1"), ("é", "v"),
    ]  # fmt: skip
    assert list(store.ledger.gone_under("bucket", "nobody's")) == []


def columns(store: Store) -> list[str]:
    return [r[1] for r in store._conn.execute("PRAGMA table_info(ledger)")]


def unguarded(store: Store) -> None:
    for name in ("ledger_update", "ledger_delete"):
        store._conn.execute(f"DROP TRIGGER {name}")


def test_a_change_of_any_field_of_any_entry_is_seen(store: Store) -> None:
    fill(store)
    unguarded(store)
    tried = 0
    for seq in range(1, 8):
        for column in columns(store):
            (value,) = store._conn.execute(f"SELECT {column} FROM ledger WHERE seq = ?", (seq,)).fetchone()
            if column in ("seq", "bucket", "entry", "intent") or value is None:
                continue
            other = value + 1 if isinstance(value, int) else chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
            store._conn.execute("BEGIN")
            store._conn.execute(f"UPDATE ledger SET {column} = ? WHERE seq = ?", (other, seq))
            with pytest.raises(Refused, match="damaged at entry"):
                store.ledger.check("bucket")
            store._conn.rollback()
            tried += 1
    assert tried > 60 and store.ledger.check("bucket") == 7


@pytest.mark.parametrize("seq", [1, 2, 3, 4, 5, 6])
def test_a_missing_entry_is_seen(store: Store, seq: int) -> None:
    fill(store)
    unguarded(store)
    store._conn.execute("PRAGMA foreign_keys = OFF")
    store._conn.execute("DELETE FROM ledger WHERE seq = ?", (seq,))
    with pytest.raises(Refused, match="damaged at entry"):
        store.ledger.check("bucket")


def test_a_missing_end_is_seen_by_who_remembers_the_last(store: Store) -> None:
    fill(store)
    seq, hash_ = store.ledger.last("bucket")
    assert store.ledger.holds("bucket", seq, hash_)
    unguarded(store)
    store._conn.execute("DELETE FROM ledger WHERE seq = ?", (seq,))
    with pytest.raises(Refused):  # a chain may end anywhere: what was recorded beside it tells
        store.ledger.check("bucket")
    assert not store.ledger.holds("bucket", seq, hash_)
    store.ledger.consent("bucket", "t2", {})
    assert not store.ledger.holds("bucket", seq, hash_), "the same number, and another entry"


def test_an_entry_of_another_hand_is_seen_though_its_hash_is_right(store: Store) -> None:
    """Who has not the key can make a chain of right hashes, and no MAC."""
    fill(store)
    unguarded(store)
    r = dict(store._conn.execute("SELECT * FROM ledger ORDER BY seq DESC LIMIT 1").fetchone())
    line = json.loads(list(store.ledger.certificate("bucket"))[-1])
    forged = {k: v for k, v in line.items() if k not in ("hash", "mac")} | {"outcome": "never happened"}
    store._conn.execute(
        "UPDATE ledger SET outcome = 'never happened', hash = ? WHERE seq = ?", (hash_of(forged), r["seq"])
    )
    with pytest.raises(Refused, match=f"damaged at entry {r['seq']}"):
        store.ledger.check("bucket")


def test_with_a_lost_key_the_hashes_still_stand_on_each_other(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state.db") as store:
        fill(store)
    (tmp_path / "state.db.key").unlink()
    with Store.open(tmp_path / "state.db") as store:
        assert store.rekeyed
        with pytest.raises(Refused, match="is not the key that sealed"):
            store.check_ledger("bucket")
        store.accept_key()
        assert not store.rekeyed
        assert store.check_ledger("bucket") == 7
        fill(store)
        assert store.check_ledger("bucket") == 14
        unguarded(store)
        for sql in ("UPDATE ledger SET key = 'x' WHERE seq = 2", "UPDATE ledger SET key_id = 'x' WHERE seq = 9"):
            store._conn.execute("BEGIN")
            store._conn.execute(sql)
            with pytest.raises(Refused, match=r"damaged at entry [29]"):
                store.check_ledger("bucket")
            store._conn.rollback()
        assert store.check_ledger("bucket") == 14


def test_who_has_not_the_key_cannot_name_another_one(store: Store) -> None:
    """All hashes right, and each entry made under a key that nobody has."""
    fill(store)
    fill(store, "other")
    unguarded(store)
    last = ""
    for r in store._conn.execute("SELECT * FROM ledger WHERE bucket = 'bucket' ORDER BY seq").fetchall():
        line = json.loads(next(x for x in store.ledger.certificate("bucket") if json.loads(x)["seq"] == r["seq"]))
        forged = {k: v for k, v in line.items() if k not in ("hash", "mac")} | {"previous": last, "key_id": "lost"}
        last = hash_of(forged)
        store._conn.execute(
            "UPDATE ledger SET previous = ?, key_id = 'lost', hash = ? WHERE seq = ?",
            (forged["previous"], last, r["seq"]),
        )
    with pytest.raises(Refused):
        store.ledger.check("bucket", ["lost"])
    store._conn.execute("UPDATE ledger_anchors SET hash = ? WHERE bucket = 'bucket'", (last,))
    assert store.ledger.check("bucket", ["lost"]) == 7, "the chain itself is sound"
    with pytest.raises(Refused, match="damaged at entry 1"):
        store.check_ledger("bucket")
    # Nor say that it was lost once.
    store.remember("keys", f"lost {store._key.id} 00")
    assert store.rekeyed
    with pytest.raises(Refused, match="is not the key that sealed"):
        store.check_ledger("other")


def test_the_certificate_is_a_chain_that_its_reader_can_follow(store: Store) -> None:
    fill(store)
    lines = [json.loads(line) for line in store.ledger.certificate("bucket")]
    assert [line["entry"] for line in lines] == [
        "consent",
        "intent",
        "intent",
        "outcome",
        "outcome",
        "intent",
        "outcome",
    ]
    assert lines[0]["agreed"] == "by its token" and lines[2]["key"] == TWO.key
    previous = ""
    for line in lines:
        body = {name: value for name, value in line.items() if name not in ("hash", "mac")}
        assert line["previous"] == previous and line["hash"] == hash_of(body)
        previous = line["hash"]


def test_random_flips_of_bits_in_the_ledger_never_pass(tmp_path: Path) -> None:
    """In the columns as SQLite stores them; 600 here, the soak flips the bytes of the whole file."""
    chance = random.Random(7)
    with Store.open(tmp_path / "state.db") as store:
        fill(store)
        unguarded(store)
        texts = [c for c in columns(store) if c not in ("seq", "intent", "size", "gone", "bucket", "entry")]
        caught = 0
        while caught < 600:
            column, seq = chance.choice(texts), chance.randint(1, 7)
            (value,) = store._conn.execute(f"SELECT {column} FROM ledger WHERE seq = ?", (seq,)).fetchone()
            if not value:
                continue
            raw = bytearray(value.encode())
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(7)
            try:
                other = raw.decode()
            except UnicodeDecodeError:
                continue
            if column == "facts" and json_equal(value, other):
                continue
            store._conn.execute("BEGIN")
            store._conn.execute(f"UPDATE ledger SET {column} = ? WHERE seq = ?", (other, seq))
            with pytest.raises(Refused):
                store.ledger.check("bucket")
            store._conn.rollback()
            caught += 1
        assert store.ledger.check("bucket") == 7


def json_equal(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("wrong", ["half", "nothing", "another"])
def test_a_key_that_does_not_read_as_it_was_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Half of it at a time is all of it in the end; what a disk has dropped or changed is noticed before anything is sealed."""
    write = os.write

    def lying(fd: int, data: bytes) -> int:
        if wrong == "half":
            return write(fd, data[: len(data) // 2 + 1])
        if wrong == "another":
            write(fd, b"0" + data[1:] if data[:1] != b"0" else b"1" + data[1:])
        return len(data)

    monkeypatch.setattr(os, "write", lying)
    if wrong == "half":
        assert Key.beside(tmp_path / "s.db").id == Key.beside(tmp_path / "s.db").id
    else:
        with pytest.raises(Failure, match="what was written reads otherwise"):
            Key.beside(tmp_path / "s.db")
        assert not list(tmp_path.iterdir())


def test_the_anchor_follows_the_entries_and_the_destination(store: Store) -> None:
    store.concluded("empty", [])
    assert store.ledger.anchors("empty") == Anchors()
    fill(store)
    last = store.ledger.last("bucket")
    store.ledger.record_destination("bucket", marked=3, certified=(2, "hash"))
    assert store.ledger.anchors("bucket") == Anchors(last, 3, 2, "hash")
