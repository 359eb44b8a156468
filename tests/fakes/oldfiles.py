"""State files as the older toolkits wrote them: V1, the oldest V1, the first V2, and a V1 that the first V2 had upgraded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

KINDS = ("v1", "oldest", "v2", "v1-upgraded")

_V1 = """
    bucket TEXT NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT, storage_class TEXT, last_modified TEXT,
    local_path TEXT, state TEXT NOT NULL, error_message TEXT, checksum TEXT, glacier_restore_requested_at TEXT,
    created_at TEXT NOT NULL, updated_at TEXT NOT NULL"""
_LAST = ", PRIMARY KEY (bucket, key)"
_FILES = {
    "v1": _V1,
    "oldest": _V1,
    "v2": _V1.replace("checksum TEXT", "local_checksum TEXT, glacier_restored_at TEXT"),
    "v1-upgraded": _V1 + ", local_checksum TEXT, glacier_restored_at TEXT",
}
_MORE = {
    "v1": """
        CREATE INDEX idx_state ON files (state); CREATE INDEX idx_storage_class ON files (storage_class);
        CREATE TABLE scanned_buckets (bucket TEXT PRIMARY KEY, file_count INTEGER NOT NULL, total_size INTEGER NOT NULL,
            scanned_at TEXT NOT NULL);""",
    "oldest": "CREATE INDEX idx_state ON files (state);",
    "v2": """
        CREATE INDEX idx_files_state ON files (state); CREATE INDEX idx_files_storage_class ON files (storage_class);
        CREATE INDEX idx_files_bucket ON files (bucket);
        CREATE TABLE bucket_status (bucket TEXT PRIMARY KEY, file_count INTEGER NOT NULL, total_size INTEGER NOT NULL,
            storage_class_counts TEXT, scan_complete BOOLEAN DEFAULT 0, sync_complete BOOLEAN DEFAULT 0,
            verify_complete BOOLEAN DEFAULT 0, delete_complete BOOLEAN DEFAULT 0, local_file_count INTEGER,
            local_total_size INTEGER, created_at TEXT NOT NULL, updated_at TEXT NOT NULL);""",
}
_MORE["v1-upgraded"] = _MORE["v2"]
THEN = "2023-05-06T07:08:09.123456+00:00"


def old_file(path: Path, rows: Iterable[Mapping[str, object]], kind: str = "v1", empty: Iterable[str] = ()) -> Path:
    """Rows need bucket, key, size and state; `empty` are buckets that were scanned and had nothing in them."""
    conn = sqlite3.connect(path)
    conn.executescript(
        f"CREATE TABLE files ({_FILES[kind]}{_LAST}); {_MORE[kind]}"
        "CREATE TABLE migration_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL, updated_at TEXT NOT NULL);"
    )
    conn.execute("INSERT INTO migration_metadata VALUES ('current_phase', 'verifying', ?)", (THEN,))
    for row in rows:
        full = {"created_at": THEN, "updated_at": THEN, **row}
        names = ", ".join(full)
        conn.execute(f"INSERT INTO files ({names}) VALUES ({', '.join('?' * len(full))})", tuple(full.values()))
    for bucket in empty:
        if kind == "v1":
            conn.execute("INSERT INTO scanned_buckets VALUES (?, 0, 0, ?)", (bucket, THEN))
        elif kind != "oldest":
            conn.execute(
                "INSERT INTO bucket_status (bucket, file_count, total_size, created_at, updated_at) VALUES (?, 0, 0, ?, ?)",
                (bucket, THEN, THEN),
            )
    conn.commit()
    conn.close()
    return path
