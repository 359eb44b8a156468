"""An AWS Price List that answers GetProducts as botocore's model of the service has it: JSON 1.1, pages, filters.

    with Pricing(products) as pricing:
        boto3.client("pricing", endpoint_url=pricing.url, ...)

Requests are checked against the model (operation, required and known members); what does not fit it is answered 400. The
same server answers DescribeKey, for KMS speaks the same protocol, and any question to S3 with NotImplemented.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import botocore.session

PAGE = 3


def product(
    usage: str,
    operation: str = "",
    prices: Sequence[tuple[str, str, str]] = (("0", "Inf", "0"),),
    *,
    unit: str = "GB",
    currency: str = "USD",
    service: str = "AmazonS3",
    **attributes: str,
) -> dict[str, Any]:
    """One product as GetProducts gives it, with price dimensions (begin, end, price), in no order that means anything."""
    sku = f"SKU{abs(hash((usage, operation, tuple(prices)))):X}"[:16]
    return {
        "product": {
            "productFamily": "Storage",
            "sku": sku,
            "attributes": {"servicecode": service, "usagetype": usage, "operation": operation, **attributes},
        },
        "serviceCode": service,
        "terms": {
            "OnDemand": {
                f"{sku}.JRTCKXETXF": {
                    "priceDimensions": {
                        f"{sku}.JRTCKXETXF.{begin}": {
                            "unit": unit,
                            "beginRange": begin,
                            "endRange": end,
                            "pricePerUnit": {currency: price},
                        }
                        for begin, end, price in reversed(prices)
                    },
                    "sku": sku,
                }
            }
        },
        "version": "20261101000000",
        "publicationDate": "2026-11-01T00:00:00Z",
    }


class Pricing:
    def __init__(
        self, products: Sequence[Mapping[str, Any]], keys: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.products = list(products)
        self.keys = dict(keys or {})
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[str] = []
        session = botocore.session.Session()
        self._models = {
            "AWSPriceListService": session.get_service_model("pricing"),
            "TrentService": session.get_service_model("kms"),
        }
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = fake._answer(self.headers.get("X-Amz-Target", ""), body)
                payload = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, target: str, body: bytes) -> tuple[int, Any]:
        service, _, operation = target.partition(".")
        model = self._models.get(service)
        if model is None or operation not in model.operation_names:
            self.failures.append(target)
            return 400, {"__type": "UnknownOperationException", "message": target}
        given = json.loads(body or b"{}")
        shape = model.operation_model(operation).input_shape
        wrong = set(given) - set(shape.members) | set(shape.required_members) - set(given)
        if wrong:
            self.failures.append(f"{target}: {wrong}")
            return 400, {"__type": "InvalidParameterException", "Message": str(sorted(wrong))}
        self.asked.append((operation, given))
        if operation == "GetProducts":
            return self._products(given)
        if operation == "DescribeKey":
            key = self.keys.get(given["KeyId"])
            return (
                (200, {"KeyMetadata": key})
                if key
                else (400, {"__type": "AccessDeniedException", "Message": "no kms:DescribeKey"})
            )
        self.failures.append(target)
        return 400, {"__type": "UnknownOperationException", "message": target}

    def _products(self, given: Mapping[str, Any]) -> tuple[int, Any]:
        if not 1 <= given.get("MaxResults", 100) <= 100:
            return 400, {"__type": "InvalidParameterException", "Message": "MaxResults is 1 to 100"}
        found = [
            one
            for one in self.products
            if one["serviceCode"] == given["ServiceCode"]
            and all(
                one["product"]["attributes"].get(f["Field"]) == f["Value"]
                for f in given.get("Filters", ())
                if f["Type"] == "TERM_MATCH"
            )
        ]
        start = int(given.get("NextToken", "0"))
        answer: dict[str, Any] = {
            "FormatVersion": "aws_v1",
            "PriceList": [json.dumps(one) for one in found[start : start + PAGE]],
        }
        if start + PAGE < len(found):
            answer["NextToken"] = str(start + PAGE)
        return 200, answer
