"""How much a bucket holds, as CloudWatch counted it within the last days: an estimate that needs no listing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from migrate_v2.edges.s3 import S3
from migrate_v2.errors import Failure
from migrate_v2.keys import show

# S3 user guide, "Metrics and dimensions": the storage types of BucketSizeBytes, and the storage class they belong to.
_CLASSES = {
    "StandardStorage": "STANDARD",
    "ReducedRedundancyStorage": "REDUCED_REDUNDANCY",
    "StandardIAStorage": "STANDARD_IA",
    "OneZoneIAStorage": "ONEZONE_IA",
    "IntelligentTieringFAStorage": "INTELLIGENT_TIERING",
    "IntelligentTieringIAStorage": "INTELLIGENT_TIERING",
    "IntelligentTieringAIAStorage": "INTELLIGENT_TIERING",
    "IntelligentTieringAAStorage": "INTELLIGENT_TIERING",
    "IntelligentTieringDAAStorage": "INTELLIGENT_TIERING",
    "GlacierInstantRetrievalStorage": "GLACIER_IR",
    "GlacierStorage": "GLACIER",
    "DeepArchiveStorage": "DEEP_ARCHIVE",
}
# 32 KB of each archived object: their number, exactly.
_OVERHEAD = {"GlacierObjectOverhead": "GLACIER", "DeepArchiveObjectOverhead": "DEEP_ARCHIVE"}
_OVERHEAD_BYTES = 32 << 10
_DAYS = 5  # the metrics come once a day, and late


@dataclass(frozen=True, slots=True)
class Measured:
    """`objects` of all classes, old versions and markers too; `archived` of them by class."""

    objects: int
    bytes: dict[str, int]
    archived: dict[str, int]
    day: datetime


def measured(s3: S3, bucket: str, region: str) -> Measured:
    """Raises Failure where CloudWatch has nothing of this bucket: a new one, or one whose metrics nobody may read."""
    sizes: dict[str, int] = {}
    archived: dict[str, int] = {}
    days: list[datetime] = []
    objects = 0
    for metric, kind in _there(s3, bucket, region):
        now = datetime.now(UTC)
        answer = s3.ask(
            "cloudwatch",
            "get_metric_statistics",
            region,
            Namespace="AWS/S3",
            MetricName=metric,
            Dimensions=[{"Name": "BucketName", "Value": bucket}, {"Name": "StorageType", "Value": kind}],
            StartTime=now - timedelta(days=_DAYS),
            EndTime=now,
            Period=86400,
            Statistics=["Average"],
        )
        points = sorted(answer.get("Datapoints", ()), key=lambda point: point["Timestamp"])
        if not points:
            continue
        value = int(points[-1]["Average"])
        days.append(points[-1]["Timestamp"].astimezone(UTC))
        if metric == "NumberOfObjects" and kind == "AllStorageTypes":
            objects = value
        elif kind in _CLASSES:
            sizes[_CLASSES[kind]] = sizes.get(_CLASSES[kind], 0) + value
        elif kind in _OVERHEAD:
            archived[_OVERHEAD[kind]] = value // _OVERHEAD_BYTES
    if not days:
        raise Failure(
            f"CloudWatch has no storage metrics of {show(bucket)} from the last {_DAYS} days: run `scan` for it instead"
        )
    return Measured(objects, sizes, archived, min(days))


def _there(s3: S3, bucket: str, region: str) -> list[tuple[str, str]]:
    """(metric, storage type) of all that there are figures of."""
    found = []
    more: dict[str, str] = {}
    while True:
        answer = s3.ask(
            "cloudwatch",
            "list_metrics",
            region,
            Namespace="AWS/S3",
            Dimensions=[{"Name": "BucketName", "Value": bucket}],
            **more,
        )
        for metric in answer.get("Metrics", ()):
            kinds = [d["Value"] for d in metric.get("Dimensions", ()) if d["Name"] == "StorageType"]
            if metric["MetricName"] in ("BucketSizeBytes", "NumberOfObjects") and kinds:
                found.append((metric["MetricName"], kinds[0]))
        following = answer.get("NextToken", "")
        if not following or following == more.get("NextToken"):
            return list(dict.fromkeys(found))
        more = {"NextToken": following}
