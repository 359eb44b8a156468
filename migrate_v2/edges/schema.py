"""The tables of the state file, change by change; a change and the record of it commit together."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from migrate_v2.answers import ETAGS_OF_NOTHING
from migrate_v2.errors import Cause

APPLICATION_ID = 0x4D475632  # "MGV2"
# Raised with every migration: an older program refuses a file whose number it does not know.
USER_VERSION = 4

migrations = Migrations("migrate-v2")

_STATES = [
    "discovered",
    "glacier_restore_requested",
    "glacier_restoring",
    "downloading",
    "downloaded",
    "verified",
    "deleted",
    "error",
]
_PHASES = ["scanning", "glacier_restore", "glacier_wait", "syncing", "verifying", "deleting", "complete"]


def _one_of(words: list[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


@migrations()
def m001_tables(db: Database) -> None:
    # Both numbers are part of the transaction: there is no moment at which a file of ours looks foreign.
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    # WITHOUT ROWID keeps rows in listing order, so that a scan appends and a join with a listing streams.
    db.execute(f"""
        CREATE TABLE files (
            bucket TEXT NOT NULL,
            key TEXT NOT NULL,
            version_id TEXT NOT NULL,
            is_latest INTEGER NOT NULL,
            size INTEGER NOT NULL,
            etag TEXT NOT NULL,
            storage_class TEXT NOT NULL,
            last_modified TEXT NOT NULL,
            checksum_algorithm TEXT NOT NULL DEFAULT '',
            checksum_type TEXT NOT NULL DEFAULT '',
            state TEXT NOT NULL DEFAULT 'discovered' CHECK (state IN ({_one_of(_STATES)})),
            verdict TEXT,
            reason TEXT,
            archived INTEGER NOT NULL DEFAULT 0,
            restore_requested_at TEXT,
            restore_tier TEXT,
            restore_expiry TEXT,
            place TEXT,
            local_path TEXT,
            fold TEXT,
            sha256 TEXT,
            evidence TEXT,
            device INTEGER,
            inode INTEGER,
            mtime_ns INTEGER,
            ctime_ns INTEGER,
            read_run TEXT,
            verified_at TEXT,
            mac TEXT,
            hold TEXT,
            described TEXT NOT NULL DEFAULT '' CHECK (described IN ('', 'head', 'full')),
            scan INTEGER NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            PRIMARY KEY (bucket, key, version_id)
        ) STRICT, WITHOUT ROWID
    """)
    db.execute("CREATE INDEX files_state ON files (bucket, state, key, version_id)")
    # Only rows at a plain path of a file system that folds case or normalises carry a fold.
    db.execute("CREATE INDEX files_fold ON files (bucket, fold) WHERE fold IS NOT NULL")
    # Two versions at one path would be one copy: this makes it an error instead of a loss.
    db.execute("CREATE UNIQUE INDEX files_side ON files (bucket, local_path) WHERE place = 'side'")
    # `described` says how much was asked; this finds what is left of a finished bucket without a walk through its rows.
    db.execute("""
        CREATE INDEX files_described ON files (bucket, described, key, version_id)
        WHERE state IN ('downloaded', 'verified')
    """)
    db.execute("""
        CREATE TABLE metadata (
            bucket TEXT NOT NULL,
            key TEXT NOT NULL,
            version_id TEXT NOT NULL,
            etag TEXT NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (bucket, key, version_id)
        ) STRICT, WITHOUT ROWID
    """)
    # A document is of the very object that the row tells of: it follows the row to another id, and goes when S3 lists
    # another object under the same one.
    this = "bucket = OLD.bucket AND key = OLD.key AND version_id = OLD.version_id"
    db.execute(f"""
        CREATE TRIGGER metadata_renamed AFTER UPDATE OF version_id ON files BEGIN
            UPDATE metadata SET version_id = NEW.version_id WHERE {this};
        END
    """)
    db.execute(f"""
        CREATE TRIGGER metadata_stale AFTER UPDATE OF etag, size, last_modified ON files
        WHEN OLD.etag IS NOT NEW.etag OR OLD.size IS NOT NEW.size OR OLD.last_modified IS NOT NEW.last_modified
        BEGIN
            DELETE FROM metadata WHERE {this};
            UPDATE files SET described = '' WHERE {this};
        END
    """)
    db.execute(f"CREATE TRIGGER metadata_forgotten AFTER DELETE ON files BEGIN DELETE FROM metadata WHERE {this}; END")
    db.execute("""
        CREATE TABLE delete_markers (
            bucket TEXT NOT NULL,
            key TEXT NOT NULL,
            version_id TEXT NOT NULL,
            is_latest INTEGER NOT NULL,
            last_modified TEXT NOT NULL,
            state TEXT NOT NULL DEFAULT 'listed' CHECK (state IN ('listed', 'deleted')),
            reason TEXT,
            scan INTEGER NOT NULL,
            PRIMARY KEY (bucket, key, version_id)
        ) STRICT, WITHOUT ROWID
    """)
    db.execute(f"""
        CREATE TABLE bucket_status (
            bucket TEXT PRIMARY KEY,
            phase TEXT NOT NULL DEFAULT 'scanning' CHECK (phase IN ({_one_of(_PHASES)})),
            account TEXT NOT NULL DEFAULT '',
            region TEXT NOT NULL DEFAULT '',
            endpoint TEXT NOT NULL DEFAULT '',
            versioning TEXT NOT NULL DEFAULT '',
            uploads INTEGER,
            scan INTEGER NOT NULL DEFAULT 0,
            scan_complete INTEGER NOT NULL DEFAULT 0,
            scan_key_marker TEXT,
            scan_version_marker TEXT,
            scanned_at TEXT,
            base_id TEXT,
            fetched_bytes INTEGER NOT NULL DEFAULT 0,
            fetch_seconds REAL NOT NULL DEFAULT 0,
            session TEXT,
            session_bytes INTEGER NOT NULL DEFAULT 0,
            session_seconds REAL NOT NULL DEFAULT 0,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            completed_at TEXT
        ) STRICT
    """)
    db.execute("""
        CREATE TABLE migration_metadata (
            key TEXT PRIMARY KEY,
            value TEXT NOT NULL,
            updated_at TEXT NOT NULL
        ) STRICT
    """)
    # What was agreed to, what was about to be deleted (committed before the request), and what came of it (after). Rows are
    # added and never changed; each carries the hash of the one before it in its bucket, and a MAC (see edges/ledger.py).
    db.execute("""
        CREATE TABLE ledger (
            seq INTEGER PRIMARY KEY,
            bucket TEXT NOT NULL,
            entry TEXT NOT NULL CHECK (entry IN ('consent', 'intent', 'outcome')),
            intent INTEGER REFERENCES ledger (seq),
            kind TEXT,
            key TEXT,
            version_id TEXT,
            etag TEXT,
            size INTEGER,
            sha256 TEXT,
            token TEXT NOT NULL,
            gone INTEGER,
            outcome TEXT,
            facts TEXT,
            at TEXT NOT NULL,
            previous TEXT NOT NULL,
            hash TEXT NOT NULL,
            key_id TEXT NOT NULL,
            mac TEXT NOT NULL
        ) STRICT
    """)
    db.execute("CREATE INDEX ledger_bucket ON ledger (bucket, seq)")
    db.execute("CREATE UNIQUE INDEX ledger_outcome ON ledger (intent) WHERE intent IS NOT NULL")
    db.execute("""
        CREATE INDEX ledger_plan ON ledger (bucket, token, key, kind DESC, version_id) WHERE entry = 'intent'
    """)
    # Not answered, and not done when S3 was asked: it may have been carried out since.
    db.execute("""
        CREATE INDEX ledger_late ON ledger (bucket, key, version_id) WHERE outcome = 'still there'
    """)
    for event in ("UPDATE", "DELETE"):
        db.execute(f"""
            CREATE TRIGGER ledger_{event.lower()} BEFORE {event} ON ledger
            BEGIN SELECT RAISE(ABORT, 'the ledger is only ever added to'); END
        """)
    # Intents without an outcome: found without a walk through all that was ever deleted.
    db.execute("CREATE TABLE in_doubt (seq INTEGER PRIMARY KEY, bucket TEXT NOT NULL) STRICT")
    db.execute("""
        CREATE TRIGGER ledger_intent AFTER INSERT ON ledger WHEN NEW.entry = 'intent'
        BEGIN INSERT INTO in_doubt VALUES (NEW.seq, NEW.bucket); END
    """)
    db.execute("""
        CREATE TRIGGER ledger_outcome AFTER INSERT ON ledger WHEN NEW.entry = 'outcome'
        BEGIN DELETE FROM in_doubt WHERE seq = NEW.intent; END
    """)
    db.execute("""
        CREATE VIEW deletions AS
        SELECT i.seq AS id, i.bucket, i.key, i.version_id, i.kind, i.etag, i.size, i.sha256, i.token, i.at AS intent_at,
            o.outcome, o.at AS outcome_at
        FROM ledger i LEFT JOIN ledger o ON o.intent = i.seq WHERE i.entry = 'intent'
    """)
    db.execute("""
        CREATE TABLE uploads (
            bucket TEXT NOT NULL,
            key TEXT NOT NULL,
            upload_id TEXT NOT NULL,
            initiated TEXT NOT NULL,
            PRIMARY KEY (bucket, key, upload_id)
        ) STRICT, WITHOUT ROWID
    """)
    # Counted by the engine in the transaction that changes a row, so that `status` reads a few
    # lines however many rows there are, and no caller can forget to count.
    db.execute("""
        CREATE TABLE tallies (
            bucket TEXT NOT NULL,
            state TEXT NOT NULL,
            verdict TEXT NOT NULL,
            archived INTEGER NOT NULL,
            storage_class TEXT NOT NULL,
            objects INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            PRIMARY KEY (bucket, state, verdict, archived, storage_class)
        ) STRICT, WITHOUT ROWID
    """)
    for name, event, signs in (
        ("insert", "INSERT", (("NEW", "+"),)),
        ("delete", "DELETE", (("OLD", "-"),)),
        ("update", "UPDATE OF state, verdict, archived, storage_class, size", (("OLD", "-"), ("NEW", "+"))),
    ):
        changes = "".join(
            f"""
            INSERT INTO tallies VALUES ({row}.bucket, {row}.state, ifnull({row}.verdict, ''), {row}.archived,
                {row}.storage_class, {sign}1, {sign}{row}.size)
            ON CONFLICT DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
            """
            for row, sign in signs
        )
        same = (
            ""
            if name != "update"
            else """
            WHEN OLD.state IS NOT NEW.state OR OLD.verdict IS NOT NEW.verdict OR OLD.archived IS NOT NEW.archived
            OR OLD.storage_class IS NOT NEW.storage_class OR OLD.size IS NOT NEW.size"""
        )
        db.execute(f"CREATE TRIGGER files_{name} AFTER {event} ON files {same} BEGIN {changes} END")


@migrations()
def m002_restores(db: Database) -> None:
    db.execute("PRAGMA user_version = 2")
    # What S3 said to the request, NULL until it said something: `restore_requested_at` stands before the request is sent.
    db.execute("""
        ALTER TABLE files ADD COLUMN restore_answer TEXT
        CHECK (restore_answer IN ('started', 'under way', 'back', 'active', 'expired'))
    """)
    db.execute("ALTER TABLE files ADD COLUMN restore_days INTEGER")
    db.execute("ALTER TABLE files ADD COLUMN restore_job TEXT")
    # Of INTELLIGENT_TIERING, which only HEAD tells of: NULL is not asked yet, '' at hand.
    db.execute("ALTER TABLE files ADD COLUMN archive_tier TEXT")
    db.execute("ALTER TABLE bucket_status ADD COLUMN restores_seen_at TEXT")
    # All that the conveyor and `status` want to know of rows that are on their way, without the rows.
    db.execute("""
        CREATE INDEX files_restoring ON files (bucket, storage_class, restore_tier, restore_requested_at, restore_days, size)
        WHERE state IN ('glacier_restore_requested', 'glacier_restoring')
    """)
    db.execute("""
        CREATE INDEX files_restored ON files (bucket, restore_expiry, size)
        WHERE state IN ('discovered', 'downloading') AND restore_expiry IS NOT NULL AND archived = 0
    """)
    db.execute("""
        CREATE INDEX files_archived ON files (bucket, storage_class, key, version_id)
        WHERE state = 'discovered' AND archived = 1
    """)
    db.execute("CREATE INDEX files_job ON files (restore_job, bucket, key, version_id) WHERE restore_job IS NOT NULL")
    # What has been bought. A row of `files` knows of its last restore only.
    db.execute("""
        CREATE TABLE restores (
            bucket TEXT NOT NULL,
            storage_class TEXT NOT NULL,
            tier TEXT NOT NULL,
            requests INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            byte_days INTEGER NOT NULL,
            PRIMARY KEY (bucket, storage_class, tier)
        ) STRICT, WITHOUT ROWID
    """)
    # Jobs of S3 Batch Operations; `token` makes a second CreateJob, after a crash, the first one again.
    db.execute("""
        CREATE TABLE batch_jobs (
            token TEXT PRIMARY KEY,
            bucket TEXT NOT NULL,
            storage_class TEXT NOT NULL,
            tier TEXT NOT NULL,
            days INTEGER,
            versioned INTEGER NOT NULL,
            objects INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            account TEXT NOT NULL,
            role TEXT NOT NULL,
            manifest_bucket TEXT NOT NULL,
            report_bucket TEXT NOT NULL,
            job_id TEXT,
            status TEXT NOT NULL DEFAULT '',
            reason TEXT,
            created_at TEXT NOT NULL,
            ended_at TEXT
        ) STRICT
    """)


@migrations()
def m003_renewals(db: Database) -> None:
    db.execute("PRAGMA user_version = 3")
    # Days for which a copy was about to be asked to stay longer, until S3's answer is recorded.
    db.execute("ALTER TABLE files ADD COLUMN restore_renewal INTEGER")
    db.execute("CREATE INDEX files_renewal ON files (bucket, key, version_id) WHERE restore_renewal IS NOT NULL")


# The texts that programs before this change wrote as reasons, each the first that fits, and the cause that each stands for.
_CAUSE_OF_REASON = """CASE
    WHEN reason = 'vanished from S3 since it was listed' THEN 'vanished'
    WHEN reason = 'changed in S3 since it was listed' THEN 'changed'
    WHEN verdict = 'kept' THEN 'noncurrent'
    WHEN verdict = 'unreadable' THEN 'unreadable'
    WHEN verdict = 'unprovable' AND substr(reason, 1, 30) = 'S3 does not give its checksums' THEN 'checksum_denied'
    WHEN verdict = 'unprovable' THEN 'no_checksum'
    WHEN substr(reason, 1, 21) = 'failed in restore job' THEN 'failed_in_job'
    WHEN state <> 'error' THEN NULL
    WHEN substr(reason, 1, 10) = 'access to ' AND instr(reason, ' is denied') THEN 'denied'
    WHEN instr(reason, 'is in an archive tier') THEN 'archived'
    WHEN instr(reason, ': move it away') THEN 'obstacle'
    WHEN substr(reason, 1, 7) = 'cannot ' THEN 'disk'
    WHEN substr(reason, 1, 10) = 'S3 refused' THEN 'refused'
    ELSE 'other'
END"""


@migrations()
def m004_causes(db: Database) -> None:
    db.execute("PRAGMA user_version = 4")
    db.execute(f"ALTER TABLE files ADD COLUMN cause TEXT CHECK (cause IN ({_one_of([*Cause])}))")
    db.execute("ALTER TABLE files ADD COLUMN hold_cause TEXT")  # why S3 does not delete it; `hold` is the text
    db.execute(f"UPDATE files SET cause = {_CAUSE_OF_REASON} WHERE reason IS NOT NULL OR state = 'error'")
    # A listed size of 0 was evidence by itself; where the ETag is not one of nothing, HEAD has to say so.
    db.execute(f"""
        UPDATE files SET state = 'downloaded', verdict = NULL
        WHERE state = 'verified' AND size = 0 AND etag NOT IN ({_one_of([*ETAGS_OF_NOTHING])})
    """)
    # The answer of S3 that `evidence` is from, and the process that S3 gave it to.
    db.execute("""
        ALTER TABLE files ADD COLUMN evidence_source TEXT
        CHECK (evidence_source IN ('listing', 'head', 'part_heads', 'refetch'))
    """)
    db.execute("ALTER TABLE files ADD COLUMN evidence_run TEXT")
    # When versioning was first seen to be Enabled, by S3's Date header and by this machine's uptime since the start that
    # the boot id names; NULL while it is not Enabled.
    db.execute("ALTER TABLE bucket_status ADD COLUMN enabled_date TEXT")
    db.execute("ALTER TABLE bucket_status ADD COLUMN enabled_boot TEXT")
    db.execute("ALTER TABLE bucket_status ADD COLUMN enabled_uptime REAL")
    # A DELETE with a wrong ETag is a deletion only where the server carried it out.
    db.execute("DROP VIEW deletions")
    db.execute("""
        CREATE VIEW deletions AS
        SELECT i.seq AS id, i.bucket, i.key, i.version_id, i.kind, i.etag, i.size, i.sha256, i.token, i.at AS intent_at,
            o.outcome, o.at AS outcome_at
        FROM ledger i LEFT JOIN ledger o ON o.intent = i.seq
        WHERE i.entry = 'intent' AND (i.kind <> 'canary' OR o.gone IS NOT 0)
    """)
    # The path that the local copy is about to be renamed to, until the row has the new path.
    db.execute("ALTER TABLE files ADD COLUMN moving_to TEXT")
    db.execute("CREATE INDEX files_moving ON files (bucket, key, version_id) WHERE moving_to IS NOT NULL")
    # Wrong results of fetching this identity since a copy matched, how many of the last ones were the same and which, and
    # how often a copy was lost after it had matched.
    for column in ("wrong_results", "same_results", "losses"):
        db.execute(f"ALTER TABLE files ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE files ADD COLUMN last_result TEXT NOT NULL DEFAULT ''")
    # Copies at the path of the current object whose own object is not the current one.
    db.execute("""
        CREATE INDEX files_former ON files (bucket, key, version_id) WHERE place = 'plain' AND is_latest = 0
    """)
    # How far the ledger of a bucket goes, written in the transaction of its entries: a table that lost its last rows shows.
    # `marked` and `certified` are what was written to the destination, see anchor.py.
    db.execute("""
        CREATE TABLE ledger_anchors (
            bucket TEXT PRIMARY KEY,
            seq INTEGER NOT NULL,
            hash TEXT NOT NULL,
            marked INTEGER NOT NULL DEFAULT 0,
            certified INTEGER NOT NULL DEFAULT 0,
            certified_hash TEXT NOT NULL DEFAULT ''
        ) STRICT
    """)
    db.execute("""
        INSERT INTO ledger_anchors (bucket, seq, hash)
        SELECT bucket, seq, hash FROM ledger l WHERE seq = (SELECT max(seq) FROM ledger m WHERE m.bucket = l.bucket)
    """)
    # Copies that are a second name of a file outside the bucket's folder (`source`): who edits that file edits the copy.
    # By path and not by row: a copy keeps its mark when its row is forgotten, and takes it along when it is renamed.
    db.execute("""
        CREATE TABLE linked_copies (
            bucket TEXT NOT NULL,
            path TEXT NOT NULL,
            key TEXT NOT NULL,
            source TEXT NOT NULL,
            PRIMARY KEY (bucket, path)
        ) STRICT, WITHOUT ROWID
    """)
    db.execute("""
        CREATE TRIGGER linked_copy_renamed AFTER UPDATE OF local_path ON files
        WHEN OLD.place IS NOT NULL AND NEW.local_path IS NOT NULL AND OLD.local_path IS NOT NEW.local_path
            AND OLD.state IN ('downloaded', 'verified', 'deleted', 'error')
        BEGIN
            UPDATE OR REPLACE linked_copies SET path = NEW.local_path
            WHERE bucket = OLD.bucket AND path = OLD.local_path;
        END
    """)
    _gone_rows(db)
    # Stored counters are kept by cause, too.
    for event in ("insert", "delete", "update"):
        db.execute(f"DROP TRIGGER files_{event}")
    db.execute("DROP TABLE tallies")
    db.execute("""
        CREATE TABLE tallies (
            bucket TEXT NOT NULL,
            state TEXT NOT NULL,
            verdict TEXT NOT NULL,
            archived INTEGER NOT NULL,
            storage_class TEXT NOT NULL,
            cause TEXT NOT NULL,
            objects INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            PRIMARY KEY (bucket, state, verdict, archived, storage_class, cause)
        ) STRICT, WITHOUT ROWID
    """)
    db.execute("""
        INSERT INTO tallies
        SELECT bucket, state, ifnull(verdict, ''), archived, storage_class, ifnull(cause, ''), 1, size FROM files WHERE true
        ON CONFLICT DO UPDATE SET objects = objects + 1, bytes = bytes + excluded.bytes
    """)
    counted = ("state", "verdict", "archived", "storage_class", "size", "cause")
    for event, when, signs in (
        ("insert", "INSERT", (("NEW", "+"),)),
        ("delete", "DELETE", (("OLD", "-"),)),
        ("update", f"UPDATE OF {', '.join(counted)}", (("OLD", "-"), ("NEW", "+"))),
    ):
        changes = "".join(
            f"""
            INSERT INTO tallies VALUES ({row}.bucket, {row}.state, ifnull({row}.verdict, ''), {row}.archived,
                {row}.storage_class, ifnull({row}.cause, ''), {sign}1, {sign}{row}.size)
            ON CONFLICT DO UPDATE SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
            """
            for row, sign in signs
        )
        differs = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in counted)
        condition = f"WHEN {differs}" if event == "update" else ""
        db.execute(f"CREATE TRIGGER files_{event} AFTER {when} ON files {condition} BEGIN {changes} END")
    _changes_between_listings(db)


def _gone_rows(db: Database) -> None:
    """Rows that are gone from S3: what is left of them is told by the verdict (model.gone_kind)."""
    bits = "(SELECT sum(json_extract(value, '$.bits')) FROM json_each(files.evidence))"
    db.execute(f"""
        UPDATE files SET state = 'error',
            verdict = CASE WHEN sha256 IS NULL THEN NULL WHEN ifnull({bits}, 0) >= 64 THEN 'match' ELSE 'unprovable' END
        WHERE cause = 'vanished'
    """)
    db.execute("""
        CREATE INDEX files_gone ON files (bucket, state, verdict) WHERE cause IN ('vanished', 'superseded')
    """)


def _changes_between_listings(db: Database) -> None:
    """How much has changed since a listing that was accepted, so that a listing of a disaster is not acted upon."""
    for column in ("unlisted", "unconfirmed", "accepted_scan", "known_rows", "gone_since", "changed_since"):
        db.execute(f"ALTER TABLE bucket_status ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    db.execute("""
        UPDATE bucket_status SET accepted_scan = CASE WHEN scan_complete THEN scan ELSE max(scan - 1, 0) END, known_rows = (
            SELECT ifnull(sum(objects), 0) FROM tallies t WHERE t.bucket = bucket_status.bucket AND t.state <> 'deleted'
            AND t.cause NOT IN ('vanished', 'superseded'))
        WHERE scan > 0
    """)
    # Another object under the same identity: the row is changed, or where there is a copy of the old object, becomes
    # `superseded`, and the new object gets a row of its own. Rows of an older toolkit get their identity from the first
    # listing, and rows that were gone already are counted as that.
    for name, columns, condition in (
        (
            "changed",
            "etag, size, last_modified",
            "(OLD.etag IS NOT NEW.etag OR OLD.size IS NOT NEW.size OR OLD.last_modified IS NOT NEW.last_modified)"
            " AND OLD.version_id <> '+unknown' AND ifnull(OLD.cause, '') NOT IN ('vanished', 'superseded')",
        ),
        ("superseded", "cause", "NEW.cause = 'superseded' AND OLD.cause IS NOT 'superseded'"),
    ):
        db.execute(f"""
            CREATE TRIGGER files_{name} AFTER UPDATE OF {columns} ON files WHEN {condition}
            BEGIN
                UPDATE bucket_status SET changed_since = changed_since + 1 WHERE bucket = NEW.bucket;
            END
        """)
