"""The AWS Price List, asked for one region at a time and kept in a file of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrate_v2.costs import EGRESS
from migrate_v2.edges.s3 import S3
from migrate_v2.errors import Failure
from migrate_v2.keys import show
from migrate_v2.prices import listed

# The service has few endpoints, and each of them knows all regions of its partition.
HOME = {"cn-": "cn-northwest-1"}


def refresh(s3: S3, regions: Iterable[str], cache: Path) -> list[str]:
    """Asks for these regions and puts them into the cache, in one go; a line about each. Raises where one is not told."""
    # Nothing of before is kept: one date is true of all that the file holds.
    document: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "currency": "USD", "regions": {}}
    told = []
    for region in regions:
        products = [*_products(s3, region, "AmazonS3"), *_products(s3, region, "AWSDataTransfer")]
        rates, currency = listed(products, region)
        if not rates:
            raise Failure(f"the price list tells nothing of {show(region)}; is it the name of a region?")
        if currency != "USD":
            raise Failure(f"the price list of {show(region)} is in {currency}: put its rates into prices.toml")
        document["regions"][region] = rates
        lacks = "" if EGRESS in rates else "; data transfer out is not among them"
        told.append(f"{region}: {len(rates)} rates from {len(products)} products{lacks}")
    _write(cache, document)
    return told


def _products(s3: S3, region: str, service: str) -> Iterator[str]:
    """Every product of the service that leaves or stays in this region, JSON each."""
    where = "fromRegionCode" if service == "AWSDataTransfer" else "regionCode"
    filters = [{"Type": "TERM_MATCH", "Field": where, "Value": region}]
    if service == "AWSDataTransfer":
        filters += [
            {"Type": "TERM_MATCH", "Field": "transferType", "Value": "AWS Outbound"},
            {"Type": "TERM_MATCH", "Field": "toLocation", "Value": "External"},
        ]
    home = next((there for start, there in HOME.items() if region.startswith(start)), "us-east-1")
    more: dict[str, str] = {}
    while True:
        answer = s3.ask(
            "pricing",
            "get_products",
            home,
            ServiceCode=service,
            Filters=filters,
            FormatVersion="aws_v1",
            MaxResults=100,
            **more,
        )
        yield from answer.get("PriceList", ())
        following = answer.get("NextToken", "")
        if not following or following == more.get("NextToken"):
            return
        more = {"NextToken": following}


def _write(cache: Path, document: object) -> None:
    fresh = cache.with_name(f"{cache.name}.{os.getpid()}.new")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        fresh.replace(cache)
    except OSError as error:
        raise Failure(f"cannot write {show(str(cache))}: {error.strerror}") from error
