"""Every delete is in the state file twice, before it was sent and after, in a chain that shows a changed or a missing link."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from migrate_v2.errors import Failure, Refused
from migrate_v2.keys import show
from migrate_v2.model import Doomed

# What the hash of an entry is made of, in the words of the certificate; "facts" stands in it as its own members.
_FIELDS = (
    "seq",
    "bucket",
    "entry",
    "intent",
    "kind",
    "key",
    "version_id",
    "etag",
    "size",
    "sha256",
    "token",
    "gone",
    "outcome",
    "at",
    "previous",
    "key_id",
)


class Key:
    """The key of all MACs of one state file: 32 random bytes beside it, for its owner alone.

    It shows what has changed since it was written, a flipped bit or another hand. Whoever reads the key can forge a MAC.
    """

    def __init__(self, secret: bytes) -> None:
        self._mac = hmac.new(secret, digestmod=hashlib.sha256)  # copied for each: half of the time
        self.id = hashlib.sha256(b"migrate-v2 key id" + secret).hexdigest()[:16]

    @classmethod
    def beside(cls, state: Path) -> Key:
        """The key in `<state>.key`; made where there is none. Refused: a file that is not a key, or that others may read."""
        path = state.with_name(state.name + ".key")
        try:
            if not os.path.lexists(path):
                _make(path)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                facts = os.fstat(fd)
                text = os.read(fd, 100) if stat.S_ISREG(facts.st_mode) else b""
            finally:
                os.close(fd)
        except OSError as error:
            raise Failure(f"cannot read the key of the state file, {show(str(path))}: {error.strerror}") from error
        if facts.st_mode & 0o077 or facts.st_uid not in (os.geteuid(), 0):
            raise Refused(f"{show(str(path))} may be read or written by others; make it yours alone: chmod 600")
        try:
            secret = bytes.fromhex(text.decode("ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != 32:
            raise Refused(
                f"{show(str(path))} is not the key of a state file; put the right one there. If it is lost, remove this one:"
                " `verify` seals everything anew"
            )
        return cls(secret)

    def mac(self, *words: object) -> str:
        """Over the words and their lengths, so that no two lists of words have one MAC."""
        texts = ["" if word is None else str(word) for word in words]
        text = "".join([f"{len(text)}:{text}" for text in texts])
        if text.isascii():  # as good as always, and then a letter is a byte
            sealed = text.encode("ascii")
        else:
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            sealed = b"".join([b"%d:" % len(word) + word for word in encoded])
        mac = self._mac.copy()
        mac.update(sealed)
        return mac.hexdigest()


def _make(path: Path) -> None:
    """Whole or not at all, and only where there is none: of two processes that make it at once, one is late."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    secret = secrets.token_hex(32).encode() + b"\n"
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        rest = secret
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
        # All that is sealed from now on rests on these few bytes.
        if os.pread(fd, len(secret) + 1, 0) != secret:
            raise OSError(errno.EIO, "what was written reads otherwise")
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        os.close(fd)
        new.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(slots=True)
class _Tip:
    """Where the next entry goes: behind this number, in a chain that ends with this hash."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A delete that was announced, under the number of its entry."""

    seq: int
    doomed: Doomed


@dataclass(frozen=True, slots=True)
class Anchors:
    """What the state file recorded of a bucket's ledger beside the entries: its last entry, None before the first; the entry
    that the destination named when the last batch was answered; number and hash of the last line of the certificate."""

    last: tuple[int, str] | None = None
    marked: int = 0
    certified: int = 0
    certified_hash: str = ""


Settled = tuple[Intent, str, bool]  # what, the outcome in a word or a sentence, is it gone


class Ledger:
    """The entries of all buckets. Those who write are in a transaction of the store's."""

    def __init__(self, conn: sqlite3.Connection, key: Key, writing: Callable[[], AbstractContextManager[None]]) -> None:
        self._conn = conn
        self._key = key
        self._writing = writing

    def consent(self, bucket: str, token: str, facts: Mapping[str, object]) -> None:
        """Who agreed to what; `facts` are JSON values under names that no entry has itself."""
        with self._writing():
            tip = self._tip(bucket)
            self._append(tip, bucket, "consent", token, facts=json.dumps(facts, sort_keys=True))
            self._anchor(bucket)

    def intend(self, bucket: str, doomed: Iterable[Doomed], token: str) -> list[Intent]:
        """All of them, or none, before the first request."""
        with self._writing():
            tip = self._tip(bucket)
            intents = [Intent(self._append(tip, bucket, "intent", token, **asdict(d)), d) for d in doomed]
            self._anchor(bucket)
        return intents

    def conclude(self, bucket: str, settled: Iterable[Settled], *, marked: int = 0) -> None:
        """Within a transaction: what becomes of the rows belongs into the same one.

        `marked` is the entry that the destination names since before the deletes were sent; 0 where nothing is known of it.
        """
        tip = self._tip(bucket)
        for intent, outcome, gone in settled:
            d = intent.doomed
            said = self._conn.execute("SELECT token FROM ledger WHERE seq = ?", (intent.seq,)).fetchone()
            named = {"kind": d.kind, "key": d.key, "version_id": d.version_id}
            self._append(
                tip, bucket, "outcome", said["token"], intent=intent.seq, **named, gone=int(gone), outcome=outcome
            )
        self._anchor(bucket, marked)

    def _anchor(self, bucket: str, marked: int = 0) -> None:
        """Within the transaction of new entries."""
        seq, hash_ = self.last(bucket)
        if seq:
            self._conn.execute(
                "INSERT INTO ledger_anchors (bucket, seq, hash, marked) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " seq = excluded.seq, hash = excluded.hash, marked = max(marked, excluded.marked)",
                (bucket, seq, hash_, marked),
            )

    def anchors(self, bucket: str) -> Anchors:
        r = self._conn.execute("SELECT * FROM ledger_anchors WHERE bucket = ?", (bucket,)).fetchone()
        if r is None:
            return Anchors()
        return Anchors((r["seq"], r["hash"]), r["marked"], r["certified"], r["certified_hash"])

    def record_destination(self, bucket: str, *, marked: int, certified: tuple[int, str]) -> None:
        """What stands in the destination now, written anew: the entry of the mark, and the last line of the certificate."""
        with self._writing():
            self._conn.execute(
                "UPDATE ledger_anchors SET marked = ?, certified = ?, certified_hash = ? WHERE bucket = ?",
                (marked, *certified, bucket),
            )

    def _tip(self, bucket: str) -> _Tip:
        newest = self._conn.execute("SELECT ifnull(max(seq), 0) FROM ledger").fetchone()[0]
        return _Tip(newest, self.last(bucket)[1])

    def _append(self, tip: _Tip, bucket: str, entry: str, token: str, **more: object) -> int:
        values: dict[str, object] = {
            "seq": tip.seq + 1,
            "bucket": bucket,
            "entry": entry,
            "token": token,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "previous": tip.hash,
            "key_id": self._key.id,
            **more,
        }
        tip.seq, tip.hash = tip.seq + 1, _hash(values)
        values |= {"hash": tip.hash, "mac": self._key.mac(tip.hash)}
        self._conn.execute(
            f"INSERT INTO ledger ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", tuple(values.values())
        )
        return tip.seq

    def last(self, bucket: str) -> tuple[int, str]:
        """The number and the hash of the bucket's newest entry; (0, "") before the first."""
        sql = "SELECT seq, hash FROM ledger WHERE bucket = ? ORDER BY seq DESC LIMIT 1"
        r = self._conn.execute(sql, (bucket,)).fetchone()
        return (r["seq"], r["hash"]) if r else (0, "")

    def holds(self, bucket: str, seq: int, hash: str) -> bool:
        """Is this entry in the ledger, as it was? Not so in an older copy of the state file, nor in one that went another way."""
        r = self._conn.execute("SELECT hash FROM ledger WHERE bucket = ? AND seq = ?", (bucket, seq)).fetchone()
        return r is not None and r["hash"] == hash

    def open(self, bucket: str) -> list[Intent]:
        """Deletes that were about to be sent when a process died; there are never more than were in flight."""
        sql = "SELECT * FROM ledger JOIN in_doubt USING (seq, bucket) WHERE bucket = ? ORDER BY seq"
        return [Intent(r["seq"], _doomed(r)) for r in self._conn.execute(sql, (bucket,))]

    def gone_under(self, bucket: str, token: str, *, uploads: bool = False) -> Iterator[Doomed]:
        """What was deleted under this token, or which uploads were aborted, in the order of a plan."""
        sql = (
            "SELECT i.* FROM ledger i JOIN ledger o ON o.intent = i.seq WHERE i.bucket = ? AND i.token = ?"
            " AND i.entry = 'intent' AND o.gone AND (i.kind = 'upload') = ? ORDER BY i.key, i.kind DESC, i.version_id"
        )
        return map(_doomed, self._conn.execute(sql, (bucket, token, int(uploads))))

    def went(self, bucket: str, token: str, key: str, version_id: str) -> bool:
        """Was this data version deleted under this token?"""
        sql = (
            "SELECT EXISTS (SELECT 1 FROM ledger i JOIN ledger o ON o.intent = i.seq WHERE i.bucket = ? AND i.token = ?"
            " AND i.key = ? AND i.kind = 'version' AND i.version_id = ? AND i.entry = 'intent' AND o.gone)"
        )
        return bool(self._conn.execute(sql, (bucket, token, key, version_id)).fetchone()[0])

    def check(self, bucket: str, lost: Collection[str] = ()) -> int:
        """Walks the chain; how many entries it has. Refused at the first that is not as it was written.

        Of MACs made with keys that are `lost` (their ids) only the hashes are checked, which stand on each other; such
        entries are the oldest, and none comes behind one of the present key.
        """
        count, last, present = 0, "", False
        for r in self._conn.execute("SELECT * FROM ledger WHERE bucket = ? ORDER BY seq", (bucket,)):
            sound = r["previous"] == last and r["hash"] == _hash(dict(r))
            if r["key_id"] == self._key.id:
                present = True
                sound = sound and hmac.compare_digest(r["mac"], self._key.mac(r["hash"]))
            else:
                sound = sound and not present and r["key_id"] in lost
            if not sound:
                raise Refused(
                    f"the record of what was deleted from {show(bucket)} is damaged at entry {r['seq']} of the table ledger;"
                    " nothing is deleted by this state file: restore it from a backup, or start a new one elsewhere"
                )
            count, last = count + 1, r["hash"]
        recorded = self.anchors(bucket).last
        if recorded is not None and last != recorded[1]:
            raise Refused(
                f"the record of what was deleted from {show(bucket)} has lost its last entries: it should end with entry"
                f" {recorded[0]} of the table ledger; nothing is deleted by this state file: restore it from a backup"
            )
        return count

    def certificate(self, bucket: str) -> Iterator[str]:
        """The bucket's entries as JSON lines. Each has "previous", the hash of the line before; its own "hash" is the SHA-256
        of the line without "hash" and "mac", keys sorted, no spaces, ASCII: `jq -caS 'del(.hash, .mac)'`."""
        for r in self._conn.execute("SELECT * FROM ledger WHERE bucket = ? ORDER BY seq", (bucket,)):
            yield json.dumps(_document(dict(r)) | {"hash": r["hash"], "mac": r["mac"]}, sort_keys=True)


def _document(values: Mapping[str, object]) -> dict[str, object]:
    facts = values.get("facts")
    more = json.loads(str(facts)) if facts is not None else {}
    return more | {name: values[name] for name in _FIELDS if values.get(name) is not None}


def hash_of(document: Mapping[str, object]) -> str:
    """Of one line of a certificate, "hash" and "mac" left out."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _hash(values: Mapping[str, object]) -> str:
    try:
        return hash_of(_document(values))
    except (ValueError, TypeError):  # facts that are no JSON object: not as they were written
        return ""


def _doomed(r: sqlite3.Row) -> Doomed:
    return Doomed(r["key"], r["version_id"], r["kind"], r["etag"], r["size"], r["sha256"])
