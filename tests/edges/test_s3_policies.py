"""Questions about who may do what, beside S3 itself: IAM and Access Analyzer are asked at the same endpoint, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from migrate_v2.edges.s3 import PUBLIC_ACCESS_BLOCK, S3, Denied, PolicySetter, Unreachable
from tests.fakes.s3server import S3Server

TEXT = '{"Version":"2012-10-17","Statement":[]}'


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAFAKEFAKEFAKEFAKE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "-")


class Analyzer(HTTPServer):
    """Answers as ValidatePolicy does, in pages; `answers` are taken in turn."""

    answers: list[tuple[int, object]]
    asked: list[dict[str, object]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Analyzer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(json.loads(body))
        status, answer = self.server.answers.pop(0)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def analyzer() -> Iterator[Analyzer]:
    with Analyzer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.asked = [], []
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_what_access_analyzer_finds(analyzer: Analyzer) -> None:
    finding = {"findingType": "SECURITY_WARNING", "findingDetails": "Principal is *", "issueCode": "X"}
    analyzer.answers = [
        (200, {"findings": [finding], "nextToken": "t"}),
        (200, {"findings": [{"findingType": "ERROR", "issueCode": "INVALID_ACTION"}]}),
    ]
    found = S3(endpoint_url=analyzer.url, region="us-east-1").policy_findings(TEXT)
    assert found == ["SECURITY_WARNING: Principal is *", "ERROR: INVALID_ACTION"]
    assert analyzer.asked[0] == {
        "policyDocument": TEXT,
        "policyType": "RESOURCE_POLICY",
        "validatePolicyResourceType": "AWS::S3::Bucket",
    }


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (403, {"__type": "AccessDeniedException", "message": "not yours"}, "not yours"),
        (404, "<html>", ""),
        (200, "<html>", ""),
        (200, {}, "no proper answer"),
        (200, {"findings": None}, "no proper answer"),
    ],
)
def test_an_analyzer_that_does_not_answer_is_no_failure(
    analyzer: Analyzer, status: int, answer: object, words: str
) -> None:
    analyzer.answers = [(status, answer)]
    why = S3(endpoint_url=analyzer.url, region="us-east-1").policy_findings(TEXT)
    assert isinstance(why, str)
    assert words in why
    assert "<html" not in why


def test_nothing_beside_a_foreign_s3_is_asked_of_aws(monkeypatch: pytest.MonkeyPatch, server_url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server_url)
    s3 = S3(region="us-east-1")
    assert "at this endpoint" in s3.policy_findings(TEXT)
    assert s3.role_arn("Ops") == ""


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.bucket("b")
        yield server


@pytest.fixture
def server_url(server: S3Server) -> str:
    return server.url


def test_a_policy_is_read_and_set_to_the_letter(server: S3Server) -> None:
    s3 = S3(endpoint_url=server.url, region="us-east-1")
    setter = PolicySetter(s3)
    assert s3.policy("b") is None
    text = ' {"Statement": [], "Id": "g\\u00fc\u00fc", "Version": "2012-10-17"}\n'
    setter.set_policy("b", text)
    assert s3.policy("b") == text
    setter.set_policy("b", None)
    assert s3.policy("b") is None
    assert s3.public_access_block("b") is None
    for names in ((), ("BlockPublicPolicy",), PUBLIC_ACCESS_BLOCK):
        setter.set_public_access_block("b", names)
        assert s3.public_access_block("b") == names
    setter.set_public_access_block("b", None)
    assert s3.public_access_block("b") is None


def test_what_is_denied_is_told_by_question(server: S3Server) -> None:
    s3 = S3(endpoint_url=server.url, region="us-east-1")
    server.put("b", "k", b"1")
    assert s3.denials("b") == {}
    server.deny("s3:ListBucketVersions")
    server.deny("s3:GetObject")
    assert set(s3.denials("b")) == {"list versions", "read objects"}
    server.unimplemented.add("ListObjectVersions")
    assert set(s3.denials("b")) == {"read objects"}
    for op in ("ListObjectsV2", "HeadObject"):
        server.allow()
        server.calm()
        server.fault({"op": op}, "garbage-200")
        with pytest.raises(Unreachable):
            s3.denials("b")


def test_a_bucket_that_may_not_be_listed_is_found_all_the_same(server: S3Server) -> None:
    server.buckets["b"].settings["policy"] = TEXT.encode()
    server.deny("s3:ListBucket")
    s3 = S3(endpoint_url=server.url, region="us-east-1")
    with pytest.raises(Denied):
        s3.policy("b")
    s3.find("b")
    assert s3.policy("b") == TEXT
    assert s3.region_of("b") == "us-east-1"
