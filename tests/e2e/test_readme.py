"""The session that the README shows is one that can be had."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from migrate_v2.durability import about
from migrate_v2.edges.mounts import mount_at
from tests.conftest import ROOT, Run, fill, in_s3
from tests.fakes.oldfiles import old_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@pytest.mark.timeout(900)  # some twenty starts of the program: 20 s alone, minutes on a machine at its limit
def test_the_guide_leads_to_a_finished_bucket(run: Run, boto: S3Client, endpoint: str, tmp_path: Path) -> None:
    """Every command of it in its order; what asks a person is refused here, for there is none."""
    boto.create_bucket(Bucket="photos")
    fill(boto, "photos", {"2019/a.jpg": b"a", "2019/b c.jpg": b"b"})
    old_file(
        tmp_path / "s3_migration_state.db", [{"bucket": "photos", "key": "2019/a.jpg", "size": 1, "state": "verified"}]
    )
    text = (ROOT / "docs/MIGRATION_GUIDE.md").read_text()
    lines = re.findall(r"^bin/migrate-v2 (.*)$", text, re.MULTILINE)
    asking = ("confirm-delete photos", "reset photos")
    token = ""
    for line in lines:
        if (
            "diagnose" in line or "--watch" in line
        ):  # they take their time; tests/steps/test_diagnose.py, tests/test_board.py
            continue
        words = shlex.split(line.replace("/srv/s3", str(tmp_path / "srv")).replace("TOKEN", token))
        # The oracle knows another state file and another destination than the guide's.
        as_shown = {
            "MIGRATE_V2_STATE_DB_PATH": None,
            "MIGRATE_V2_LOCAL_BASE_PATH": None,
            "AWS_ENDPOINT_URL": endpoint,
        }
        ended = run(*words, env=as_shown)
        assert ended.returncode == (5 if line.endswith(asking) else 0), (line, ended.stderr)
        if "--dry-run" in line and "confirm-delete" in line:
            token = re.search(r"^token\t(\S+)", ended.stdout, re.MULTILINE)[1]  # type: ignore[index]
    assert len(lines) >= 20 and token
    assert "photos\tcomplete" in run("status", env=as_shown).stdout
    assert (tmp_path / "srv/photos/2019/b c.jpg").read_bytes() == b"b"
    boto.delete_bucket(Bucket="photos")  # there is one of a name


def test_the_session_of_the_readme(run: Run, boto: S3Client, home: Path) -> None:
    """What it shows is printed, line by line, and nothing else but progress; other are times, sizes, ids and the token."""
    boto.create_bucket(Bucket="photos")
    boto.put_bucket_versioning(Bucket="photos", VersioningConfiguration={"Status": "Enabled"})
    fill(boto, "photos", {f"2019/IMG_{n:04}.jpg": os.urandom(20_000 + n) for n in range(60)})
    fill(
        boto, "photos", {"2019/IMG_0000.jpg": os.urandom(30_000), "2019//odd": b"odd", "film.mov": os.urandom(2 << 20)}
    )
    text = (ROOT / "README.md").read_text()
    session = text.partition("<!-- session:")[2].partition("```console\n")[2].partition("```\n")[0]
    _, *parts = re.split(r"^\$ bin/migrate-v2 (.*)\n", session, flags=re.MULTILINE)
    assert len(parts) == 10
    token = ""
    mount = mount_at(home)
    warning = about(mount.durability, mount.kind)
    for line, shown in zip(parts[::2], parts[1::2], strict=True):
        argv = shlex.split(re.sub("--confirm=[0-9a-f]{40}", f"--confirm={token}", line))
        ended = run(*(word.replace("/srv/s3", str(home)) for word in argv))
        assert ended.returncode == 0, (line, ended.stderr)
        said, expected = Counter(_timeless(ended.stdout + ended.stderr)), Counter(_timeless(shown))
        if warning:  # where this machine has its tests' folders in memory or in a container's layer
            said = Counter({line: count for line, count in said.items() if warning not in line})
        assert (line, expected - said) == (line, Counter())
        assert all(": N of N objects" in more for more in said - expected), (line, said - expected)
        token = "".join(re.findall(r"^token\t(\S+)$", ended.stdout, re.MULTILINE)) or token
    assert (home / "photos/2019/IMG_0001.jpg").stat().st_size == 20_001
    assert in_s3(boto, "photos") == []
    boto.delete_bucket(Bucket="photos")  # there is one of a name


def _timeless(text: str) -> list[str]:
    """Its lines without figures, the token and the endpoint, and but for which `aws` is in use."""
    for pattern, word in (
        (r"\b[0-9a-f]{40}\b", "TOKEN"),
        (r"http://\S+", "URL"),
        (r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", "TIME"),
        (r"\d[\d.,]*", "N"),
        (r"N (min|h) N (s|min)\b", "N s"),
        (r"\bN ([kMG]?B)", "N B"),
        (r" +", " "),
    ):
        text = re.sub(pattern, word, text)
    return [line for line in text.splitlines() if not line.startswith("using ")]
