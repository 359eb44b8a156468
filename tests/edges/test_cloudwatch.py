"""What CloudWatch counted is taken by storage class, and archived objects by their overhead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from migrate_v2.edges.cloudwatch import measured
from migrate_v2.edges.s3 import S3
from migrate_v2.errors import Failure

KB = 1024


def put_metrics(
    endpoint: str, account: str, bucket: str, figures: dict[tuple[str, str], float], days_ago: float = 1
) -> None:
    """As S3 reports them: one value a day for each metric and storage type."""
    client: Any = boto3.client(
        "cloudwatch",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=account,
        aws_secret_access_key="-",
    )
    client.put_metric_data(
        Namespace="AWS/S3",
        MetricData=[
            {
                "MetricName": name,
                "Dimensions": [{"Name": "BucketName", "Value": bucket}, {"Name": "StorageType", "Value": kind}],
                "Timestamp": datetime.now(UTC) - timedelta(days=days_ago),
                "Value": value,
            }
            for (name, kind), value in figures.items()
        ],
    )


@pytest.fixture
def s3(endpoint: str, account: str, monkeypatch: pytest.MonkeyPatch) -> S3:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", account)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "-")
    return S3(region="us-east-1", endpoint_url=endpoint)


def test_the_newest_day_counts(s3: S3, endpoint: str, account: str) -> None:
    bucket = f"counted-{account}"
    put_metrics(endpoint, account, bucket, {("BucketSizeBytes", "StandardStorage"): 1.0}, days_ago=3)
    put_metrics(
        endpoint,
        account,
        bucket,
        {
            ("BucketSizeBytes", "StandardStorage"): 5000.0,
            ("BucketSizeBytes", "IntelligentTieringFAStorage"): 700.0,
            ("BucketSizeBytes", "IntelligentTieringAAStorage"): 300.0,
            ("BucketSizeBytes", "GlacierStorage"): 9e9,
            ("BucketSizeBytes", "GlacierObjectOverhead"): 12 * 32.0 * KB,
            ("BucketSizeBytes", "GlacierS3ObjectOverhead"): 12 * 8.0 * KB,
            ("NumberOfObjects", "AllStorageTypes"): 40.0,
        },
    )
    found = measured(s3, bucket, "us-east-1")
    assert found.objects == 40
    assert found.bytes == {"STANDARD": 5000, "INTELLIGENT_TIERING": 1000, "GLACIER": 9 * 10**9}
    assert found.archived == {"GLACIER": 12}
    assert found.day > datetime.now(UTC) - timedelta(days=2)


def test_no_figures_are_no_empty_bucket(s3: S3, endpoint: str, account: str) -> None:
    with pytest.raises(Failure, match="CloudWatch has no storage metrics"):
        measured(s3, f"never-{account}", "us-east-1")
    put_metrics(endpoint, account, f"old-{account}", {("NumberOfObjects", "AllStorageTypes"): 4.0}, days_ago=12)
    with pytest.raises(Failure, match="from the last 5 days"):
        measured(s3, f"old-{account}", "us-east-1")
