"""A small `aws s3 sync` for tests: it lists, filters and compares as the AWS CLI does, and can misbehave.

`aws_sync.py MODE s3 sync s3://B[/DIR/] DEST OPTIONS...`; MODE is words joined by "+":

    fetch           download as the CLI does: a temporary file, a rename, then the time of the listing
    harm            before that, truncate, rewrite, rename and touch every file that can be reached from DEST, through links
                    too; download in place
    hang=N          after N downloads create the file `<DEST>.hangs` and sleep until killed; once
    half=N          as hang=N, with half of the next object in a temporary file
"""

from __future__ import annotations

import os
import sys
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote

NS = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def harm(folder: Path) -> None:
    for above, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(above, name)
            if path.is_file():
                path.open("wb").close()
                path.write_bytes(b"harmed")
                os.utime(path, (0, 0))
                path.rename(path.with_name(f"{name}.moved"))
                path.with_name(f"{name}.moved").replace(path)


def listed(url: str, bucket: str, prefix: str) -> Iterator[tuple[str, int, int, str]]:
    """(key, size, seconds since 1970, storage class)."""
    more = ""
    while True:
        query = f"list-type=2&encoding-type=url&prefix={quote(prefix, safe='')}{more}"
        with urllib.request.urlopen(f"{url}/{bucket}?{query}") as answer:
            page = ET.fromstring(answer.read())
        for entry in page.iter(f"{NS}Contents"):
            told = {child.tag.removeprefix(NS): child.text or "" for child in entry}
            modified = datetime.fromisoformat(told["LastModified"])
            yield (
                urllib.request.unquote(told["Key"].replace("+", " ")),
                int(told["Size"]),
                int(modified.timestamp()),
                told["StorageClass"],
            )
        token = page.findtext(f"{NS}NextContinuationToken")
        if not token:
            return
        more = f"&continuation-token={quote(token, safe='')}"


def taken(key: str, bucket: str, prefix: str, options: list[str]) -> bool:
    """By the CLI's own rules (awscli/customizations/s3/filters.py)."""
    take = True
    for option in options:
        name, _, pattern = option.partition("=")
        if name in ("--exclude", "--include") and fnmatch(f"{bucket}/{key}", os.path.join(bucket, prefix, pattern)):
            take = name == "--include"
    return take


def main() -> None:
    mode = dict.fromkeys(sys.argv[1].split("+"))
    if sys.argv[2] == "--version":
        print("aws-cli/2.40.1 Python/3.13 Linux/6 exe/x86_64")
        return
    source, destination, options = sys.argv[4], Path(sys.argv[5]), sys.argv[6:]
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    url = next(option.partition("=")[2] for option in options if option.startswith("--endpoint-url="))
    in_place = "harm" in mode
    if in_place:
        harm(destination)
    stop, half = -1, False
    for word in mode:
        if word.startswith(("hang=", "half=")):
            stop, half = int(word.partition("=")[2]), word.startswith("half=")
    done = 0
    for key, size, seconds, storage_class in listed(url, bucket, prefix):
        path = destination / key.removeprefix(prefix)
        archived = storage_class in ("GLACIER", "DEEP_ARCHIVE") and "--force-glacier-transfer" not in options
        if archived or not taken(key, bucket, prefix, options):
            continue
        if path.is_file() and (path.stat().st_size, int(path.stat().st_mtime)) == (size, seconds):
            continue
        hangs = destination.with_name(f"{destination.name}.hangs")
        if done == stop and not hangs.exists():
            if half:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f"{path.name}.a1B2c3D4").write_bytes(bytes(size // 2))
            hangs.touch()
            time.sleep(600)
        with urllib.request.urlopen(f"{url}/{bucket}/{quote(key)}") as answer:
            body = answer.read()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path if in_place else path.with_name(f"{path.name}.0123aBcD")
        temporary.write_bytes(body)
        temporary.rename(path)
        os.utime(path, (seconds, seconds))
        print(f"download: {source}/{key} to {path}", flush=True)
        done += 1


main()
