"""A LastModified that no file or Python can have concerns its own object, and no other one."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import world
from tests.fakes.forks import Zygote
from tests.fakes.s3server import Request, Response

TIMES = {
    "2300": "2300-01-01T00:00:00.000Z",
    "9999": "9999-12-31T23:59:59.000Z",
    "1600": "1600-01-01T00:00:00.000Z",
    "1": "0001-01-01T00:00:00.000Z",
    "zero": "0001-01-01T00:00:00+10:00",
    "10000": "10000-01-01T00:00:00.000Z",
    "empty": "",
    "words": "yesterday",
}


@pytest.fixture(params=["disk", "tmpfs"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """tmpfs stores times of 64 bits, as XFS and Btrfs do; ext4 stores those up to 2446."""
    if request.param == "disk":
        yield tmp_path / "home"
        return
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no /dev/shm")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder / "home"
    shutil.rmtree(folder)


def listed_with(_: Request, response: Response) -> None:
    def time(match: re.Match[bytes]) -> bytes:
        return match[1] + TIMES[match[2].decode()].encode() + b"</LastModified>"

    odd = rb"(<Key>odd/([^<]*)</Key>.*?<LastModified>)[^<]*</LastModified>"
    response.body = re.sub(odd, time, bytes(response.body).replace(b"odd%2F", b"odd/"))


@pytest.mark.parametrize(("engine", "others"), [("cli", 1), ("native", 150)])
def test_object_listed_with_an_impossible_time_is_verified_like_the_others(
    zygote: Zygote, tmp_path: Path, home: Path, engine: str, others: int
) -> None:
    with world(tmp_path, zygote, versioning="Enabled", home=home) as made:
        for name in TIMES:
            made.put(f"odd/{name}", name.encode(), storage_class="STANDARD_IA")
        for number in range(others):
            made.put(f"k{number}", b"%d" % number)
        made.server.fault({"op": ("ListObjectVersions", "ListObjectsV2")}, rewrite=listed_with)
        made.done("--engine", engine, "migrate", made.bucket)
        made.done("scan", "--rescan", made.bucket)
        made.done("verify", made.bucket)
        made.done("status", made.bucket)
        with sqlite3.connect(made.state) as db:
            states = db.execute("SELECT state, count(*) FROM files GROUP BY state").fetchall()
        assert states == [("verified", len(TIMES) + others)]
        for name in TIMES:
            assert (home / made.bucket / "odd" / name).read_bytes() == name.encode()
        made.done("confirm-delete", "--dry-run", made.bucket)
        made.done("confirm-delete", made.token(), made.bucket)
        assert made.server.versions(made.bucket) == []


@pytest.mark.parametrize("time", ["", "yesterday", "Fri, 31 Dec 99999 23:59:59 GMT"])
def test_head_with_an_unreadable_time_reports_one_object(zygote: Zygote, tmp_path: Path, time: str) -> None:
    def without(request: Request, response: Response) -> None:
        response.headers = [(n, time if n == "Last-Modified" else value) for n, value in response.headers]

    with world(tmp_path, zygote) as made:
        for key in ("odd", "k1", "k2"):
            made.put(key, key.encode(), etag="kms")
        made.server.fault({"op": ("HeadObject", "GetObject"), "key": "odd"}, rewrite=without)
        assert made.run("migrate", made.bucket).code == 1
        with sqlite3.connect(made.state) as db:
            states = dict(db.execute("SELECT key, state FROM files").fetchall())
        assert states["k1"] == states["k2"] == "verified" and states["odd"] != "verified"
        made.server.calm()
        made.comes_home()
