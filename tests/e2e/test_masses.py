"""P1 in numbers: of very many deletes, each is held against its copy at the instant it passes."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Figures, client
from tests.e2e.world import World, Zygote, world
from tests.fakes.oracle import Oracle, beside, in_state_file

BATCH = 1500


def emptied(made: World, url: str, account: str, versioning: str, objects: int) -> int:
    """Fills a bucket of the server at `url`, with the copies in their places already, and lets the program prove and
    delete it; how many deletes the oracle compared."""
    boto = client(url, account)
    boto.create_bucket(Bucket=made.bucket)
    if versioning:
        boto.put_bucket_versioning(Bucket=made.bucket, VersioningConfiguration={"Status": "Enabled"})
    bodies = {f"{n % 7}/{n:05}": random.randbytes(random.randrange(1, 200)) for n in range(objects)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: boto.put_object(Bucket=made.bucket, Key=one[0], Body=one[1]), bodies.items()))
    for page in boto.get_paginator("list_objects_v2").paginate(Bucket=made.bucket):
        for entry in page["Contents"]:
            copy = made.home / made.bucket / entry["Key"]
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy.write_bytes(bodies[entry["Key"]])
            os.utime(copy, (entry["LastModified"].timestamp(),) * 2)
    made.home.chmod(0o700)
    with Oracle(url, beside(made.home), announced=in_state_file(made.state)) as oracle:
        env = {"AWS_ENDPOINT_URL": oracle.url, "AWS_ACCESS_KEY_ID": account, "MIGRATE_V2_METADATA": "none"}
        made.done("migrate", made.bucket, env=env)
        assert oracle.count("GetObject") == 0, "all copies are there already"
        plan = json.loads(made.done("confirm-delete", "--dry-run", "--json", made.bucket, env=env).out)
        made.done("confirm-delete", f"--confirm={plan['token']}", "--remove-bucket", made.bucket, env=env)
    assert oracle.checked == objects
    return oracle.checked


@pytest.mark.parametrize("versioning", ["", "Enabled"])
def test_some_hundred_deletes(zygote: Zygote, tmp_path: Path, versioning: str) -> None:
    with world(tmp_path, zygote) as made:
        made.server.buckets.clear()
        assert emptied(made, made.server.url, "AKIAFAKEFAKEFAKEFAKE", versioning, 150) == 150


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("versioning", ["", "Enabled"])
@pytest.mark.parametrize("which", ["the fake", "MiniStack"])
def test_fifty_thousand_deletes(
    request: pytest.FixtureRequest,
    zygote: Zygote,
    tmp_path: Path,
    account: str,
    which: str,
    versioning: str,
    rounds: Callable[[int], int],
    figures: Figures,
) -> None:
    done = number = 0
    while done < rounds(13_000):
        number += 1
        folder = tmp_path / f"{number}"
        folder.mkdir()
        with world(folder, zygote, bucket=f"bucket-{account}-{number}") as made:
            made.server.buckets.clear()
            url = made.server.url if which == "the fake" else request.getfixturevalue("endpoint")
            done += emptied(made, url, account, versioning, min(BATCH, rounds(13_000) - done))
        shutil.rmtree(folder)
    figures(f"oracle: {done:,} deletes at {which}, {'by VersionId' if versioning else 'by If-Match'}, no violation")
