"""A key's state is KMS's own word; where it has none for us, that is said."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.retries.standard import ExponentialBackoff

from migrate_v2.edges.kms import key
from migrate_v2.edges.s3 import S3
from tests.conftest import free_port
from tests.fakes.pricing import Pricing

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


def test_states_of_keys() -> None:
    keys = {
        ARN: {"KeyId": "1234", "KeyState": "PendingDeletion", "DeletionDate": 1_800_000_000},
        "alias/mine": {"KeyId": "5", "KeyState": "Enabled"},
    }
    with Pricing([], keys) as fake:
        s3 = S3(region="us-east-1", endpoint_url=fake.url)
        dying, well, closed = (key(s3, name, "us-east-1") for name in (ARN, "alias/mine", "alias/foreign"))
    assert (dying.state, dying.gone_by) == ("PendingDeletion", datetime.fromtimestamp(1_800_000_000, UTC))
    assert (well.state, well.gone_by, well.why) == ("Enabled", None, "")
    assert closed.state == ""
    assert "denied" in closed.why
    assert fake.failures == []


def test_no_answer_is_not_an_enabled_key() -> None:
    s3 = S3(region="us-east-1", endpoint_url=f"http://127.0.0.1:{free_port()}")
    asked = key(s3, ARN, "us-east-1")
    assert (asked.state, bool(asked.why)) == ("", True)


def test_another_s3_s_key_is_not_asked_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only S3 was given an endpoint: the others would be AWS's own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    asked = key(S3(region="us-east-1"), ARN, "us-east-1")
    assert (asked.state, "AWS's own is not asked" in asked.why) == ("", True)


def test_only_questions_are_asked() -> None:
    with pytest.raises(ValueError, match="does not only read"):
        S3(region="us-east-1").ask("kms", "schedule_key_deletion", "us-east-1", KeyId=ARN)
