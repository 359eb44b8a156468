"""The destination and the state file know of the same deletions: what each records of the ledger is compared."""

from __future__ import annotations

import json

from migrate_v2 import keys
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.store import Store
from migrate_v2.errors import Refused


def same_history(bucket: str, store: Store, disk: Disk) -> None:
    """Refused: a folder with the only copies of deleted objects, and a state file that does not know of them all."""
    mark = disk.read_text(keys.only_copies_mark(bucket))
    if mark is None:
        return
    try:
        told = json.loads(mark)
        ours = told["state_id"] == store.identity() and store.ledger.holds(bucket, told["entry"], told["hash"])
        theirs = str(told["state_file"])
    except (ValueError, TypeError, KeyError):
        ours, theirs = False, "unknown"
    if not ours:
        raise Refused(
            f"{keys.show(str(disk.base))} holds the only copies of objects that were deleted from {bucket}, and this state"
            f" file does not know of all of them; use the one that deleted them ({keys.show(theirs)}), or"
            " another --dest"
        )
