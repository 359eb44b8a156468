"""What cannot fit is refused before anything is asked for; what lies there already counts, so that a resume goes on."""

from __future__ import annotations

import os

import pytest

from migrate_v2.edges.disk import partial_name, volume
from migrate_v2.errors import Refused
from migrate_v2.events import Warned
from migrate_v2.model import FileState
from migrate_v2.steps.preflight import less_what_is_there, needed, preflight
from tests.steps.conftest import Job


def bodies(job: Job, objects: dict[str, bytes]) -> None:
    for key, body in objects.items():
        job.server.put("b", key, body)
    job.scan()
    job.place()


def enlarge(job: Job, key: str, size: int) -> None:
    """As if S3 had listed it so large: no disk of a test holds what is to be refused."""
    job.store._conn.execute("UPDATE files SET size = ? WHERE key = ?", (size, key))


def test_what_fits_says_nothing(job: Job) -> None:
    bodies(job, {"a": b"x" * 5000, "b/c": b"y"})
    room = volume(job.disk.base)
    need = needed("b", job.store, room)
    assert (need.objects, need.bytes, need.biggest) == (2, 5001, 5000)
    assert need.blocks == -(-5000 // room.block) * room.block + room.block
    assert list(preflight("b", job.store, job.disk, force=False)) == []


def test_what_does_not_fit_is_refused_and_forced(job: Job) -> None:
    bodies(job, {"a": b"x", "b": b"y"})
    enlarge(job, "a", 10**17)
    with pytest.raises(Refused, match=r"does not fit on .* are lacking.*--force-space") as refused:
        list(preflight("b", job.store, job.disk, force=False))
    assert refused.value.code == 5
    (warned,) = preflight("b", job.store, job.disk, force=True)
    assert isinstance(warned, Warned)


def test_what_was_fetched_before_the_kill_is_not_asked_room_for_again(job: Job) -> None:
    """Nearly complete: all but a byte lies there, and no row tells of it yet."""
    bodies(job, {"dir/large": b"x" * 9_000_000, "small": b"y"})
    job.store.start_fetching("b", everything=True)
    row = job.row("dir/large")
    assert row.state is FileState.DOWNLOADING
    path = job.disk.base / row.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 9_000_000)
    room = volume(job.disk.base)
    need = needed("b", job.store, room)
    left = less_what_is_there("b", job.store, job.disk, need, room)
    assert (left.objects, left.bytes, left.blocks) == (1, 1, room.block)
    path.write_bytes(b"x" * 8)  # another size: it comes again
    assert less_what_is_there("b", job.store, job.disk, need, room).objects == 2


def test_beginnings_and_temporaries_count(job: Job) -> None:
    bodies(job, {"large": b"x" * 9_000_000})
    v = job.row("large").version
    with job.disk.continuing("b/large", "b", partial_name(v.key, v.version_id, v.etag, v.size), 0.0, every=1) as sink:
        sink.write(b"x" * 4_000_000)
        room = volume(job.disk.base)
        need = needed("b", job.store, room)
        begun = need.blocks - less_what_is_there("b", job.store, job.disk, need, room).blocks
        assert 4_000_000 <= begun <= 4_500_000
        # Nobody removes what looks temporary in the bucket's own folder.
        for folder, counts in (("b", False), (".migrate-v2/b/incoming", True)):
            path = job.disk.base / folder / "large.Ab12Cd34"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 1_000_000)
            more = need.blocks - less_what_is_there("b", job.store, job.disk, need, room).blocks
            assert more == begun + counts * path.stat().st_blocks * 512


def test_arrivals_in_the_staging_folder_count(job: Job) -> None:
    bodies(job, {"dir/large": b"x" * 9_000_000, "small": b"y"})
    path = job.disk.base / ".migrate-v2/b/incoming/dir/large"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 9_000_000)
    seconds = job.row("dir/large").version.seconds
    os.utime(path, (seconds, seconds))
    room = volume(job.disk.base)
    need = needed("b", job.store, room)
    left = less_what_is_there("b", job.store, job.disk, need, room)
    assert (left.objects, left.bytes) == (1, 1) and left.blocks <= room.block


def test_a_finished_bucket_needs_no_room(job: Job) -> None:
    job.server.put("b", "a", b"x")
    job.bring()
    assert needed("b", job.store, volume(job.disk.base)).whole == 0
    assert list(preflight("b", job.store, job.disk, force=False)) == []


def test_a_limit_of_file_sizes_is_seen(job: Job) -> None:
    bodies(job, {"a": b"x"})
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    enlarge(job, "a", 5 << 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, before[1]))
    try:
        assert volume(job.disk.base).largest == 4 << 30
        with pytest.raises(Refused, match="a file here at most 4,294,967,296"):
            list(preflight("b", job.store, job.disk, force=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.path.exists(job.disk.base)
