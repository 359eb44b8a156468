"""The session that the README shows is one that can be had."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, Run, fill
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


def test_the_session_of_the_readme(run: Run, boto: S3Client, tmp_path: Path) -> None:
    boto.create_bucket(Bucket="photos")
    fill(boto, "photos", {"2019/a.jpg": b"a", "2019/b c.jpg": b"b"})
    text = (ROOT / "README.md").read_text()
    session = text.partition("<!-- session:")[2].partition("<!-- /session -->")[0]
    lines = re.findall(r"^\$ bin/migrate-v2 (.*)$", session, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        ended = run(*shlex.split(line.replace("/srv/s3", str(tmp_path / "srv"))))
        assert ended.returncode == 0, (line, ended.stderr)
    assert (tmp_path / "srv/photos/2019/b c.jpg").read_bytes() == b"b"
