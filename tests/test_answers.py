"""Which answers are about the object version that was asked for."""

from __future__ import annotations

import hashlib

import pytest

from migrate_v2.answers import ETAGS_OF_NOTHING, bare_etag, content_range, names_version


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("", None, True),
        ("", "", True),
        ("", "null", True),
        ("", "v1", False),
        ("null", None, True),
        ("null", "null", True),
        ("null", "v1", False),
        ("v1", None, True),
        ("v1", "v1", True),
        ("v1", "V1", False),
        ("v1", "v2", False),
        ("v1", "null", False),
    ],
)
def test_names_version_follows_its_table(asked: str, answered: str | None, same: bool) -> None:
    assert names_version(asked, answered) is same


def test_bare_etag_drops_quotes_and_nothing_else() -> None:
    assert bare_etag('"abc-2"') == bare_etag("abc-2") == "abc-2"
    assert bare_etag('W/"abc"') != "abc" and bare_etag('"ABC"') == "ABC"


def test_content_range_of_anything_else_is_none() -> None:
    assert content_range("bytes 5-9/10") == (5, 9, 10)
    for header in (None, "", "bytes 5-9/*", "bytes */10", "items 5-9/10", "bytes 5-9/10, bytes 0-1/10"):
        assert content_range(header) is None


def test_etags_of_nothing_are_those_of_s3() -> None:
    md5 = hashlib.md5(b"", usedforsecurity=False)
    parts = hashlib.md5(md5.digest(), usedforsecurity=False).hexdigest()
    assert (md5.hexdigest(), f"{parts}-1") == ETAGS_OF_NOTHING
