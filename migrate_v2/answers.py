"""Rules that decide whether an answer of S3 is about the object version that was asked for. Pure functions, no I/O."""

from __future__ import annotations

import re

# S3's ETags of an object without bytes: MD5 of nothing, and of a multipart upload whose only part is empty.
ETAGS_OF_NOTHING = ("d41d8cd98f00b204e9800998ecf8427e", "59adb24ef3cdbe0297f05b395827453f-1")

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def bare_etag(etag: str) -> str:
    """Return the ETag without its quotes.

    A weak one keeps its W/ and so equals no listed ETag: a proxy that weakens ETags changes bodies (nginx with gzip).
    """
    return etag.strip('"')


def names_version(asked: str, answered: str | None) -> bool:
    """Return whether `answered`, the header x-amz-version-id, allows the answer to be about the version id `asked`.

    asked  | the request named       | an answer about it says
    -------|-------------------------|-------------------------
    ""     | no id; `null` was listed| null, or nothing
    "null" | the id null             | null, or nothing
    other  | that id                 | that id, or nothing
    """
    return not answered or answered == (asked or "null")


def content_range(header: str | None) -> tuple[int, int, int] | None:
    """Return (first byte, last byte, size of the whole) as the header Content-Range says, None where it does not."""
    found = _CONTENT_RANGE.fullmatch(header or "")
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
