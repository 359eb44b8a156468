"""Places that are given out: one path for each version, whatever the key."""

from __future__ import annotations

from migrate_v2 import layout
from migrate_v2.model import Place
from tests.steps.conftest import Job
from tests.steps.conftest import job as job
from tests.steps.conftest import server as server


def placed(job: Job, key: str) -> layout.Placed:
    system = job.disk.filesystem()
    room = layout.path_room("b", job.disk, system)
    return layout.place_of(job.row(key).version, job.store, system, room, folds=False)


def test_place_of_key_that_fits_is_the_path_of_the_key(job: Job) -> None:
    job.server.put("b", "a/b", b"1")
    job.server.put("b", "a//b", b"2")
    job.scan()
    assert placed(job, "a/b")[1:] == (Place.PLAIN, "b/a/b", None)
    assert placed(job, "a//b")[1] is Place.SIDE


def test_side_place_taken_by_another_row_gets_a_number(job: Job) -> None:
    job.server.put("b", "a//b", b"2")
    job.scan()
    job.bring()
    job.delete()
    first = job.row("a//b").path
    job.server.put("b", "a//b", b"another object")
    job.scan()
    (new,) = [row for row in job.rows() if row.version.version_id == "null"]
    assert layout.side_place(new.version, job.store)[2] != first
