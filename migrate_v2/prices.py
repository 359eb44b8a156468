"""A rate has a name, a unit, a source and a date, whether it comes from the snapshot, the price list or the operator."""

from __future__ import annotations

import json
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from pathlib import Path
from typing import Any

from migrate_v2.costs import EGRESS, EVERYWHERE, FREE, GB, Rate, Tier
from migrate_v2.errors import BadUsage
from migrate_v2.keys import show
from migrate_v2.ownfiles import must_be_outside

TOML_NAME = "prices.toml"
TIERS = ("Standard", "Bulk", "Expedited")
_THOUSAND = (1000, "1,000 requests")
_GIGABYTE = (GB, "GB")
_MONTH = (GB, "GB and month")

# What each kind of item is counted by. Part of a name behind the kind: the storage class, and of restores the tier.
UNITS: Mapping[str, tuple[int, str]] = {
    "list": _THOUSAND,
    "get": _THOUSAND,
    "restore-request": _THOUSAND,
    "retrieval": _GIGABYTE,
    "storage": _MONTH,
    "monitoring": (1000, "1,000 objects and month"),
    "kms": (10_000, "10,000 requests"),
    "batch-job": (1, "job"),
    "batch-object": (1_000_000, "1,000,000 objects"),
    EGRESS: _GIGABYTE,
    FREE: _GIGABYTE,
}

# Usage type without the region's prefix, and operation ("" for none), as the price list has them. The usage types are
# those of the S3 user guide ("Understanding your AWS billing and usage reports"); the operations tell apart restores of
# the three archives, which share usage types.
USAGE: Mapping[str, tuple[str, str]] = {
    "list": ("Requests-Tier1", ""),
    "get/STANDARD": ("Requests-Tier2", ""),
    "get/INTELLIGENT_TIERING": ("Requests-INT-Tier2", ""),
    "get/STANDARD_IA": ("Requests-SIA-Tier2", ""),
    "get/ONEZONE_IA": ("Requests-ZIA-Tier2", ""),
    "get/GLACIER_IR": ("Requests-GIR-Tier2", ""),
    "get/GLACIER": ("Requests-GLACIER-Tier2", ""),
    "get/DEEP_ARCHIVE": ("Requests-GDA-Tier2", ""),
    "restore-request/GLACIER/Expedited": ("Requests-Tier6", ""),
    "restore-request/GLACIER/Standard": ("Requests-Tier3", "RestoreObject"),
    "restore-request/GLACIER/Bulk": ("Requests-Tier5", ""),
    "restore-request/DEEP_ARCHIVE/Standard": ("Requests-GDA-Tier3", ""),
    "restore-request/DEEP_ARCHIVE/Bulk": ("Requests-GDA-Tier5", ""),
    "retrieval/GLACIER/Expedited": ("Expedited-Retrieval-Bytes", ""),
    "retrieval/GLACIER/Standard": ("Standard-Retrieval-Bytes", "RestoreObject"),
    "retrieval/GLACIER/Bulk": ("Bulk-Retrieval-Bytes", "RestoreObject"),
    "retrieval/DEEP_ARCHIVE/Standard": ("Standard-Retrieval-Bytes", "DeepArchiveRestoreObject"),
    "retrieval/DEEP_ARCHIVE/Bulk": ("Bulk-Retrieval-Bytes", "DeepArchiveRestoreObject"),
    "retrieval/STANDARD_IA": ("Retrieval-SIA", ""),
    "retrieval/ONEZONE_IA": ("Retrieval-ZIA", ""),
    "retrieval/GLACIER_IR": ("Retrieval-GIR", ""),
    "storage/STANDARD": ("TimedStorage-ByteHrs", ""),
    "storage/INTELLIGENT_TIERING": ("TimedStorage-INT-FA-ByteHrs", ""),
    "storage/STANDARD_IA": ("TimedStorage-SIA-ByteHrs", ""),
    "storage/ONEZONE_IA": ("TimedStorage-ZIA-ByteHrs", ""),
    "storage/GLACIER_IR": ("TimedStorage-GIR-ByteHrs", ""),
    "storage/GLACIER": ("TimedStorage-GlacierByteHrs", ""),
    "storage/DEEP_ARCHIVE": ("TimedStorage-GDA-ByteHrs", ""),
    "storage/REDUCED_REDUNDANCY": ("TimedStorage-RRS-ByteHrs", ""),
    "monitoring/INTELLIGENT_TIERING": ("Monitoring-Automation-INT", ""),
    "batch-job": ("BatchOperations-Jobs", ""),
    "batch-object": ("BatchOperations-Objects", ""),
}


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Every rate that is known, in one currency. `sources`: what it was put together from, weakest first."""

    currency: str
    rates: Mapping[str, Mapping[str, Rate]]
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    dated: date | None  # the oldest source in use


UNKNOWN = PriceBook("USD", {}, (), (), None)


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    document: Mapping[str, Any]
    own: bool = False  # the operator's


def cache_file(environ: Mapping[str, str]) -> Path:
    """Where what the price list said is kept."""
    folder = Path(environ.get("XDG_CACHE_HOME", ""))  # a relative one is to be ignored, says XDG
    folder = folder if folder.is_absolute() else Path(environ.get("HOME") or "/") / ".cache"
    return folder / "migrate-v2" / "prices.json"


def own_file(named: str | None, base: Path | None) -> Path | None:
    """The operator's own rates: the named file, else ./prices.toml if there is one.

    Refused: one among the objects of a bucket; `base` is the setting local_base_path.
    """
    if named is not None and not Path(named).is_file():
        raise BadUsage(f"--prices: there is no file {show(named)}")
    path = Path(TOML_NAME if named is None else named)
    if named is None and not path.is_file():
        return None
    return must_be_outside(path, "the file of prices", base, cure="name another one with --prices")


def load(cache: Path | None, private: Path | None) -> PriceBook:
    """The snapshot, over it the price list's cache, over both the operator's rates; the last one that knows an item wins.

    BadUsage for a file of the operator's that makes no sense; a cache that does not is left out, and that is noted.
    """
    snapshot = json.loads(files("migrate_v2").joinpath("data/prices.json").read_text("utf-8"), parse_float=Decimal)
    layers = [_Layer(f"snapshot of {snapshot['date']}", snapshot)]
    notes: list[str] = []
    if cache is not None and cache.exists():
        try:
            listed = json.loads(cache.read_text("utf-8"), parse_float=Decimal)
            _rates(listed, "", "")
            layers.append(_Layer(f"price list of {listed['date']}", listed))
        except (OSError, ValueError, KeyError, TypeError, BadUsage) as error:
            notes.append(f"{show(str(cache))} cannot be used ({show(str(error))}): get it again with --refresh-prices")
    if private is not None:
        layers.append(_Layer(private.name, _toml(private), own=True))
    return _together(layers, notes)


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        said = tomllib.loads(path.read_text("utf-8-sig"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadUsage(f"{show(str(path))} cannot be read as TOML: {show(str(error))}") from error
    plain = {name: value for name, value in said.items() if not isinstance(value, dict)}
    if unknown := set(plain) - {"currency", "exchange"}:
        raise BadUsage(
            f"{show(str(path))}: {show(min(unknown))} is no name of this file's; rates stand under a region, such as"
            f' [us-east-1], and those of all regions under ["{EVERYWHERE}"]'
        )
    regions = {name: value for name, value in said.items() if isinstance(value, dict)}
    return {**plain, "regions": regions, "date": ""}


def _together(layers: Iterable[_Layer], notes: list[str]) -> PriceBook:
    layers = list(layers)
    own = next((layer for layer in layers if layer.own), None)
    currency = str(own.document.get("currency", "USD")) if own else "USD"
    exchange = _number(own.document["exchange"], own.name) if own and "exchange" in own.document else None
    rates: dict[str, dict[str, Rate]] = defaultdict(dict)
    used = []
    dates = []
    for layer in layers:
        theirs = str(layer.document.get("currency", currency if layer.own else "USD"))
        factor = Decimal(1)
        if theirs != currency:
            if exchange is None or theirs != "USD":
                notes.append(f"the {layer.name} is in {theirs} and not used: give `exchange`, {currency} for a USD")
                continue
            factor = exchange
        source = layer.name if factor == 1 else f"{layer.name} x {factor}"
        for region, items in _rates(layer.document, source, layer.name).items():
            for item, rate in items.items():
                scaled = (
                    tuple(Tier(tier.up_to, tier.price * factor) for tier in rate.tiers) if item != FREE else rate.tiers
                )
                rates[region][item] = Rate(scaled, rate.per, rate.unit, rate.source)
        used.append(source)
        if layer.document.get("date"):
            dates.append(date.fromisoformat(str(layer.document["date"])[:10]))
    return PriceBook(currency, rates, tuple(used), tuple(notes), min(dates, default=None))


def _rates(document: Mapping[str, Any], source: str, name: str) -> dict[str, dict[str, Rate]]:
    found: dict[str, dict[str, Rate]] = {}
    for region, items in document["regions"].items():
        found[region] = {}
        for item, said in items.items():
            kind = str(item).partition("/")[0]
            if kind not in UNITS:
                raise BadUsage(f"{show(name)}: {show(str(item))} is no item with a price; there are {', '.join(UNITS)}")
            per, unit = UNITS[kind]
            found[region][item] = Rate(_tiers(said, f"{name}, {item}"), per, unit, source)
    return found


def _tiers(said: object, where: str) -> tuple[Tier, ...]:
    """A price, or a list of [up to so many units, price] whose last has "" for the first."""
    if not isinstance(said, list):
        return (Tier(None, _number(said, where)),)
    tiers = []
    for entry in said:
        if not isinstance(entry, list) or len(entry) != 2:
            raise BadUsage(f'{show(where)}: a tier is [up to, price], and ["", price] the last one')
        tiers.append(Tier(None if entry[0] == "" else _number(entry[0], where), _number(entry[1], where)))
    tops = [tier.up_to for tier in tiers]
    if (
        not tops
        or tops[-1] is not None
        or None in tops[:-1]
        or tops[:-1] != sorted({top for top in tops if top is not None})
    ):
        raise BadUsage(f'{show(where)}: tiers rise, and the last one has no end: ["", price]')
    return tuple(tiers)


def _number(said: object, where: str) -> Decimal:
    try:
        if isinstance(said, bool) or not isinstance(said, (str, int, Decimal)):
            raise InvalidOperation
        number = Decimal(said)
        if not number.is_finite() or number < 0:
            raise InvalidOperation
    except InvalidOperation:
        raise BadUsage(f"{show(where)}: {show(str(said))[:40]} is not a price") from None
    return number


# -- the price list of AWS


def listed(products: Iterable[str], region: str) -> tuple[dict[str, object], str]:
    """Of products as GetProducts gives them (JSON each), the rates of one region as a document has them; and the currency.

    An item for which two products tell different prices is left out: unknown is better than one of the two.
    """
    wanted = {usage: item for item, usage in USAGE.items()}
    found: dict[str, set[tuple[Tier, ...]]] = defaultdict(set)
    currencies = set()
    for text in products:
        product = json.loads(text)
        attributes = product["product"]["attributes"]
        item = _item(attributes, region, wanted)
        if item is None:
            continue
        per = UNITS[item.partition("/")[0]][0]
        for term in product.get("terms", {}).get("OnDemand", {}).values():
            dimensions = list(term["priceDimensions"].values())
            currency = next(iter(dimensions[0]["pricePerUnit"]), "USD")
            tiers = _dimensions(dimensions, currency, 1 if per == GB else per)
            if tiers:
                currencies.add(currency)
                found[item].add(tiers)
    # Several regions have their data transfer out a second time, at 0 throughout.
    charged = {tiers for tiers in found[EGRESS] if any(tier.price for tier in tiers)}
    found[EGRESS] = charged or found[EGRESS]
    rates: dict[str, object] = {
        item: _written(next(iter(tiers))) for item, tiers in sorted(found.items()) if len(tiers) == 1
    }
    return rates, currencies.pop() if len(currencies) == 1 else "USD"


def _item(attributes: Mapping[str, str], region: str, wanted: Mapping[tuple[str, str], str]) -> str | None:
    usage = attributes.get("usagetype", "")
    head, dash, rest = usage.partition("-")
    # A region's usage types begin with its short name in capitals and digits (EUC1-, USW2-), of us-east-1 mostly not.
    if dash and head.isupper() and head.isalnum():
        usage = rest
    if attributes.get("transferType") == "AWS Outbound" and attributes.get("toLocation") == "External":
        ours = attributes.get("fromRegionCode", region) == region
        return EGRESS if ours and usage == "DataTransfer-Out-Bytes" else None
    if attributes.get("regionCode", region) != region:
        return None
    return wanted.get((usage, attributes.get("operation", "")))


def _dimensions(dimensions: Iterable[Mapping[str, Any]], currency: str, per: int) -> tuple[Tier, ...]:
    """The tiers of one term, in order; () where one has no price or none is the last. The list prices single requests."""
    ordered = sorted(dimensions, key=lambda d: Decimal(d.get("beginRange") or "0"))
    tiers = []
    for dimension in ordered:
        top = dimension.get("endRange") or "Inf"
        amount = dimension["pricePerUnit"].get(currency)
        if amount is None:
            return ()
        tiers.append(Tier(None if top == "Inf" else Decimal(top), Decimal(amount) * per))
    return tuple(tiers) if tiers and tiers[-1].up_to is None else ()


def _written(tiers: tuple[Tier, ...]) -> object:
    if len(tiers) == 1:
        return f"{tiers[0].price.normalize():f}"
    return [["" if tier.up_to is None else f"{tier.up_to:f}", f"{tier.price.normalize():f}"] for tier in tiers]
