"""P2: of an object that is overwritten while it is being deleted, the newer bytes are never lost."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import S3
from migrate_v2.edges.store import Store
from migrate_v2.errors import Failure
from tests.conftest import Figures
from tests.fakes.oracle import Oracle, as_recorded, in_state_file
from tests.fakes.s3server import Request, S3Server
from tests.steps.conftest import Job

MODES = ["", "Suspended", "Enabled"]


@contextlib.contextmanager
def fresh(server: S3Server, folder: Path, versioning: str) -> Iterator[Job]:
    """An empty bucket, disk and state file, with the oracle before the server."""
    folder.mkdir()
    state = folder / "state.db"
    with contextlib.ExitStack() as held:
        disk = held.enter_context(Disk.open(folder / "home"))
        store = held.enter_context(Store.open(state))
        oracle = held.enter_context(Oracle(server.url, as_recorded(disk.base, state), announced=in_state_file(state)))
        server.bucket("b", versioning=versioning)
        yield Job(server, S3(endpoint_url=oracle.url, region="us-east-1"), store, disk)
    with server.lock:
        del server.buckets["b"]
    server.calm()
    shutil.rmtree(folder)


def raced(server: S3Server, folder: Path, versioning: str, rounds: int, seed: int) -> Counter[str]:
    """So many deletes, each with a PUT to its key at about the same time; by what the delete came to.

    One surprise stops a bucket, so there are many buckets.
    """
    chance = random.Random(seed)
    came: Counter[str] = Counter()
    with ThreadPoolExecutor(8) as others:
        while came.total() < rounds:
            with fresh(server, folder / f"{came.total()}", versioning) as job:
                came += one_bucket(job, chance, others)
    return came


def one_bucket(job: Job, chance: random.Random, others: ThreadPoolExecutor) -> Counter[str]:
    server, by_id = job.server, job.site().versioning == "Enabled"
    # By VersionId a batch is one request, by If-Match each key has its own.
    old = {f"{number:03}": chance.randbytes(20) for number in range(200 if by_id else 48)}
    for key, body in old.items():
        server.put("b", key, body)
    job.bring()
    copies = {row.key: job.disk.base / row.path for row in job.rows()}
    puts: dict[str, Future[bytes]] = {}

    def put(key: str, pause: float) -> bytes:
        time.sleep(pause)
        body = b"newer " + key.encode() + random.randbytes(8)
        server.put("b", key, body)
        return body  # acknowledged

    def overwrite(request: Request) -> None:
        for key in [request.key] if request.key else re.findall(r"<Key>([^<]*)</Key>", request.body.decode()):
            if key in old and key not in puts:
                puts[key] = others.submit(put, key, chance.uniform(0, 0.001))
        # Some arrive in time to come first; the first that does stops the bucket.
        time.sleep(chance.uniform(0, 0.001) if by_id or chance.random() < 0.2 else 0)

    server.fault({"op": ("DeleteObject", "DeleteObjects")}, overwrite)
    with contextlib.suppress(Failure):
        job.delete()
    wait(puts.values())
    gone = {key for _, key, _ in server.deletes}
    server.deletes.clear()
    assert server.failures == []
    for key, future in puts.items():
        held = server.get("b", key)
        assert held is not None and held.body == future.result(), f"{key} is lost"
        assert copies[key].read_bytes() == old[key]
    return Counter("deleted" if key in gone else "kept" for key in puts)


@pytest.mark.parametrize("versioning", MODES)
def test_an_overwrite_at_the_moment_of_the_delete_survives(server: S3Server, tmp_path: Path, versioning: str) -> None:
    came = raced(server, tmp_path, versioning, 60 if versioning == "Enabled" else 15, random.randrange(1 << 30))
    assert came["deleted"]


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("versioning", MODES)
def test_many_overwrites_at_the_moment_of_the_delete(
    server: S3Server, tmp_path: Path, versioning: str, rounds: Callable[[int], int], figures: Figures
) -> None:
    seed = random.randrange(1 << 30)
    came = raced(server, tmp_path, versioning, rounds(5000), seed)
    figures(
        f"overwrite against delete, {versioning or 'If-Match'} (seed {seed}): {came.total()} rounds, {dict(came)}, none lost"
    )
