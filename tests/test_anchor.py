"""A state file and a destination that do not know of the same deletions are told apart."""

from __future__ import annotations

import pytest

from migrate_v2.anchor import same_history
from migrate_v2.edges.store import Store
from migrate_v2.errors import Refused
from tests.steps.conftest import Job
from tests.steps.conftest import job as job
from tests.steps.conftest import server as server


def test_another_state_file_is_refused(job: Job) -> None:
    job.server.put("b", "a", b"1")
    job.bring()
    same_history("b", job.store, job.disk)
    job.delete()
    same_history("b", job.store, job.disk)
    with Store.open(job.store.path.with_name("other.db")) as other, pytest.raises(Refused):
        same_history("b", other, job.disk)
