"""Shards are cut so that nothing is in two of them, nothing is missing, and none is too much for one worker."""

from __future__ import annotations

import itertools
import pickle
from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st

from migrate_v2.shards import Credentials, Sizes, sharded


@given(st.lists(st.integers(0, 50)), st.integers(1, 7), st.integers(1, 100))
def test_all_rows_in_their_order_and_within_bounds(sizes: list[int], most_rows: int, most_bytes: int) -> None:
    rows = list(enumerate(sizes))
    shards = list(sharded(rows, Sizes(most_rows, most_bytes), itemgetter(1)))
    assert [r for shard in shards for r in shard] == rows
    for shard in shards:
        assert 1 <= len(shard) <= most_rows
        assert len(shard) == 1 or sum(size for _, size in shard) <= most_bytes
    # Whole: no shard that the next row would have fitted into.
    for shard, following in itertools.pairwise(shards):
        weight = sum(size for _, size in shard) + following[0][1]
        assert len(shard) == most_rows or weight > most_bytes


def test_credentials_are_not_shown() -> None:
    secret = Credentials("AKIA", "s3cret", "t0ken")
    assert "s3cret" not in repr(secret) and "t0ken" not in repr(secret)
    assert pickle.loads(pickle.dumps(secret)) == secret
