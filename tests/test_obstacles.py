"""What each setting of a bucket stands in the way of, what may be done, and that a closed door is no empty room."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from migrate_v2.obstacles import Key, Known, Obstacle, Sample, obstacles, partition

ME = "arn:aws:iam::111122223333:user/me"
KNOWN = Known("b", "us-east-1", "us-east-1", ME, {})


def told(settings: dict[str, Any] | None = None, **more: Any) -> list[Obstacle]:
    return obstacles(replace(KNOWN, settings={} if settings is None else settings, **more))


def kinds(found: list[Obstacle]) -> list[tuple[str, str]]:
    return [(o.kind, o.severity) for o in found]


def test_a_plain_bucket_has_none() -> None:
    assert told({"policy": None, "lifecycle": None, "object_lock": None, "encryption": {"x": 1}}) == []


def test_what_could_not_be_read_is_not_absent() -> None:
    (closed,) = told(
        {"lifecycle": {"denied": "AccessDenied"}, "policy": {"refused": "?"}, "cors": {"not_implemented": True}}
    )
    assert (closed.kind, closed.severity) == ("not-readable", "unknown")
    assert "lifecycle, policy" in closed.text
    (unasked,) = obstacles(replace(KNOWN, settings=None, unasked="no network"))
    assert unasked.severity == "unknown"
    assert "no network" in unasked.text


LIFECYCLE = [
    ({"Status": "Enabled", "ID": "x", "Expiration": {"Days": 30}}, [("lifecycle-expiry", "stops")]),
    ({"Status": "Disabled", "Expiration": {"Days": 30}}, []),
    ({"Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}, [("lifecycle-expiry", "stops")]),
    ({"Status": "Enabled", "Expiration": {"ExpiredObjectDeleteMarker": True}}, []),
    (
        {"Status": "Enabled", "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]},
        [("lifecycle-transition", "costs")],
    ),
    ({"Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}}, []),
]


@pytest.mark.parametrize(("rule", "found"), LIFECYCLE)
def test_lifecycle_rules_that_race(rule: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert kinds(told({"lifecycle": {"Rules": [rule]}})) == found


def deny(action: str | list[str] = "s3:*", principal: Any = "*", **more: Any) -> dict[str, Any]:
    return {"policy": {"Statement": [{"Effect": "Deny", "Action": action, "Principal": principal, **more}]}}


@pytest.mark.parametrize(
    ("settings", "severities"),
    [
        (deny(), ["stops", "costs"]),
        (deny("s3:GetObject"), ["stops"]),
        (deny("s3:getobject*"), ["stops"]),
        (deny("s3:DeleteObject"), ["costs"]),
        (deny("s3:PutObject"), []),
        (deny(Condition={"Bool": {"aws:SecureTransport": "false"}}), ["unknown", "unknown"]),
        (deny("s3:GetObject", {"AWS": ME}), ["stops"]),
        (deny("s3:GetObject", {"AWS": ["111122223333"]}), ["stops"]),
        (deny("s3:GetObject", {"AWS": "arn:aws:iam::111122223333:root"}), ["stops"]),
        (deny("s3:GetObject", {"AWS": "arn:aws:iam::111122223333:user/you"}), []),
        (deny("s3:GetObject", {"Service": "logging.s3.amazonaws.com"}), []),
        ({"policy": {"Statement": [{"Effect": "Deny", "Action": "s3:GetObject", "NotPrincipal": {"AWS": ME}}]}}, []),
        (
            {"policy": {"Statement": [{"Effect": "Deny", "NotAction": "s3:GetObject", "Principal": "*"}]}},
            ["stops", "costs"],
        ),
        ({"policy": {"Statement": {"Effect": "Allow", "Action": "s3:*", "Principal": "*"}}}, []),
        ({"policy": {"Statement": ["nonsense"]}}, []),
    ],
)
def test_statements_that_deny_us(settings: dict[str, Any], severities: list[str]) -> None:
    assert [o.severity for o in told(settings)] == severities


def test_a_role_is_known_by_its_session() -> None:
    session = "arn:aws:sts::111122223333:assumed-role/admin/alice"
    found = told(deny("s3:GetObject", {"AWS": "arn:aws:iam::111122223333:role/admin"}), arn=session)
    assert kinds(found) == [("policy", "stops")]


def test_locks_holds_replication_and_archive_tiers() -> None:
    lock = {
        "ObjectLockConfiguration": {
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Years": 7}},
        }
    }
    (locked,) = told({"object_lock": lock})
    assert "7 years (COMPLIANCE)" in locked.text
    rules = {
        "ReplicationConfiguration": {"Rules": [{"Status": "Enabled", "Destination": {"Bucket": "arn:aws:s3:::copy"}}]}
    }
    (replicated,) = told({"replication": rules})
    assert "copy" in replicated.text
    tiers = {
        "IntelligentTieringConfigurationList": [
            {"Status": "Enabled", "Tierings": [{"AccessTier": "ARCHIVE_ACCESS", "Days": 90}]}
        ]
    }
    assert told({"intelligent_tiering": tiers}) == [], "no such object is there"
    (tiered,) = told({"intelligent_tiering": tiers}, intelligent=5)
    assert "5 INTELLIGENT_TIERING objects may be archived (ARCHIVE_ACCESS)" in tiered.text
    assert kinds(told({"request_payment": {"Payer": "Requester"}})) == [("requester-pays", "costs")]
    assert kinds(told(mfa_delete=True, uploads=3, aside=2)) == [
        ("mfa-delete", "stops"),
        ("keys", "costs"),
        ("uploads", "costs"),
    ]


def test_what_a_handful_of_objects_tells() -> None:
    samples = (
        Sample("a", {"ObjectLockRetainUntilDate": "2030-01-01T00:00:00+00:00", "ObjectLockLegalHoldStatus": "ON"}),
        Sample("b", {"ReplicationStatus": "PENDING", "ServerSideEncryption": "aws:kms"}),
        Sample("c", {"ServerSideEncryption": "aws:kms", "ChecksumCRC64NVME": "x"}),
        Sample("d\x1b[2J", None, "S3 refused d: 400"),
        Sample("e", {}),
    )
    found = {o.kind: o for o in told(samples=samples)}
    assert set(found) == {"sample", "retention", "legal-hold", "replication-pending", "no-witness"}
    assert "until 2030-01-01" in found["retention"].text
    assert "of 5 objects looked at 1 " in found["no-witness"].text
    assert "\x1b" not in found["sample"].text, "a key steers no terminal"
    assert found["sample"].severity == "stops"


def test_keys_that_cannot_decrypt() -> None:
    found = told(keys=(Key("k1", "Disabled"), Key("k2", "PendingDeletion", datetime(2026, 12, 1, tzinfo=UTC)), Key("k3", "Enabled"), Key("k4", "", why="denied")))  # fmt: skip
    assert [o.severity for o in found] == ["stops", "stops", "unknown"]
    assert "gone for good on 2026-12-01" in found[1].text
    assert "cancel-key-deletion" in found[1].advice


def test_other_regions_and_partitions() -> None:
    assert kinds(told(region="eu-west-1")) == [("region", "costs")]
    assert kinds(told(region="cn-north-1")) == [("partition", "stops")]
    assert [partition(r) for r in ("cn-north-1", "us-gov-west-1", "eu-west-1")] == ["aws-cn", "aws-us-gov", "aws"]


def test_each_says_what_to_do() -> None:
    everything = told(
        {"lifecycle": {"Rules": [rule for rule, _ in LIFECYCLE]}, "cors": {"denied": "x"}, **deny()},
        keys=(Key("k", "Disabled"),),
        mfa_delete=True,
        region="eu-west-1",
    )
    assert all(o.advice and o.bucket == "b" for o in everything)
    order = [o.severity for o in everything]
    assert order == sorted(order, key=("stops", "costs", "unknown").index), "the worst first"
