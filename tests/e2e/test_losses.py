"""Ways in which the only copy of an object could have been lost, each found by somebody who looked for one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from migrate_v2.edges.store import Store
from migrate_v2.keys import only_copies_mark
from migrate_v2.model import Cause, Kept
from tests.conftest import tree
from tests.e2e.test_faults import world
from tests.e2e.world import World, Zygote

FRESH = "fresh.db"


@pytest.fixture(params=["", "Enabled"], ids=["never versioned", "versioned"])
def emptied(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> Iterator[World]:
    """A bucket whose only object is deleted; the state file that knows of it is put aside."""
    with world(tmp_path, zygote, versioning=request.param) as made:
        made.put("a", b"the only copy")
        made.done("migrate", made.bucket)
        made.done("confirm-delete", made.token(), made.bucket)
        assert made.server.get(made.bucket, "a") is None
        yield made


def boto(made: World) -> Any:
    return boto3.client(
        "s3", endpoint_url=made.server.url, aws_access_key_id="AKIAFAKEFAKEFAKEFAKE", aws_secret_access_key="-"
    )


def test_another_state_file_neither_takes_over_the_only_copies_nor_their_manifest(emptied: World) -> None:
    before = tree(emptied.home)
    if emptied.versioning:
        boto(emptied).delete_object(Bucket=emptied.bucket, Key="never was")
    else:
        boto(emptied).create_multipart_upload(Bucket=emptied.bucket, Key="begun")
    fresh = ("--state", str(emptied.folder / FRESH))
    emptied.done("scan", *fresh, emptied.bucket)
    for argv in (
        ("migrate",),
        ("verify",),
        ("sync",),
        ("confirm-delete", "--dry-run"),
        ("confirm-delete", "--dry-run", "--abort-uploads"),
    ):
        refused = emptied.run(*argv, *fresh, emptied.bucket)
        assert refused.code == 5 and "only copies" in refused.err, (argv, refused)
    emptied.put("a", b"something new")
    emptied.done("scan", "--rescan", *fresh, emptied.bucket)
    assert emptied.run("migrate", *fresh, emptied.bucket).code == 5
    after = tree(emptied.home)
    assert {path: body for path, body in after.items() if path in before and not path.endswith("lock")} == {
        path: body for path, body in before.items() if not path.endswith("lock")
    }
    emptied.nothing_is_lost()
    # The one that deleted goes on.
    emptied.done("scan", "--rescan", emptied.bucket)
    emptied.comes_home()


@pytest.mark.parametrize("mark", ["", "{", "[]", '{"state_id": 1}', "null", '{"state_id": "x", "entry": "y"}'])
def test_a_mark_that_cannot_be_read_is_nobodys(emptied: World, mark: str) -> None:
    path = emptied.home / only_copies_mark(emptied.bucket)
    path.write_text(mark)
    refused = emptied.run("migrate", emptied.bucket)
    assert refused.code == 5 and "only copies" in refused.err
    emptied.nothing_is_lost()


def test_a_copy_of_the_state_file_that_went_another_way_is_refused(emptied: World) -> None:
    """Two copies of one state file, each with deletions of its own."""
    for path in emptied.folder.glob("state.db*"):
        if path.is_file():
            shutil.copy2(path, path.with_name(path.name.replace("state.db", "copy.db")))
    emptied.put("b", b"another one")
    emptied.done("scan", "--rescan", emptied.bucket)
    emptied.done("migrate", emptied.bucket)
    emptied.done("confirm-delete", emptied.token(), emptied.bucket)
    other = ("--state", str(emptied.folder / "copy.db"))
    assert emptied.run("migrate", *other, emptied.bucket).code == 5
    assert emptied.run("confirm-delete", "--dry-run", *other, emptied.bucket).code == 5
    emptied.nothing_is_lost()


def test_versioning_that_is_turned_on_between_the_listing_and_the_plan_stops_it(zygote: Zygote, tmp_path: Path) -> None:
    """Then the id `null` may be another object's than the one that was listed under it."""
    with world(tmp_path, zygote) as made:
        made.put("a", b"the old one")
        made.done("migrate", made.bucket)
        token = made.token()
        lists = made.server.count("ListObjectVersions")

        def after_the_listing(_: object) -> None:
            bucket = made.server.buckets[made.bucket]
            if made.server.count("ListObjectVersions") > lists and bucket.versioning != "Enabled":
                made.put("a", b"THE NEW ONE")
                bucket.versioning = "Enabled"

        made.server.fault({"op": "GetBucketVersioning"}, after_the_listing)
        refused = made.run("confirm-delete", token, made.bucket)
        assert refused.code == 5 and "versioning" in refused.err, refused
        kept = made.server.get(made.bucket, "a")
        assert kept is not None and kept.body == b"THE NEW ONE"
        made.nothing_is_lost()


def test_p3_a_plan_that_changes_after_the_consent_is_not_carried_out(zygote: Zygote, tmp_path: Path) -> None:
    """What was agreed to is what goes, to the last object: while the rest is made ready, one more is to be kept."""
    with world(tmp_path, zygote) as made:
        made.put("a", b"one")
        made.put("b", b"two")
        made.done("migrate", made.bucket, env={"MIGRATE_V2_METADATA": "none"})
        token = made.token()

        def kept(_: object) -> None:
            with Store.open(made.state) as store:
                version = next(row.version for row in store.verified(made.bucket) if row.key == "a")
                store.set_holds(made.bucket, [(version, Kept(Cause.LOCKED, "a legal hold is on it"))])

        # The metadata is asked for once the plan was agreed to.
        made.server.fault({"op": "HeadObject"}, kept, times=1)  # type: ignore[arg-type]
        ended = made.run("confirm-delete", token, made.bucket)
        made.server.calm()
        assert ended.code == 5 and "changed while the copies were read; nothing was deleted" in ended.err, ended
        assert len(made.server.versions(made.bucket)) == 2
