"""The session that the README shows is one that can be had."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import ROOT, Run, fill

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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
