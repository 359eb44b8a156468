"""Documents, evaluation and proof: what is said of who may do what is what AWS's rules say, and never "allowed" for want of knowing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate_v2 import policy
from migrate_v2.errors import Failure, Refused
from migrate_v2.policy import Caller, Kind, Malformed, Request, Verdict, Who

ROOT = Path(__file__).parent.parent
OWNER = "111122223333"
OTHER = "444455556666"
IAM, STS = f"arn:aws:iam::{OWNER}:", f"arn:aws:sts::{OWNER}:"
B, K = "arn:aws:s3:::b", "arn:aws:s3:::b/k"

USER = Who("user", Kind.USER, f"{IAM}user/ops/me", OWNER, f"{IAM}user/ops/me")
ROLE = Who("role", Kind.ROLE, f"{STS}assumed-role/Ops/s", OWNER, f"{IAM}role/team/Ops")
OTHER_ROLE = Who("other role", Kind.ROLE, f"{STS}assumed-role/Dev/s", OWNER, f"{IAM}role/Dev")
OWNER_ROOT = Who("root", Kind.ROOT, f"{IAM}root", OWNER, f"{IAM}root")
STRANGER = Who("stranger", Kind.USER, f"arn:aws:iam::{OTHER}:user/u", OTHER, f"arn:aws:iam::{OTHER}:user/u")
NOBODY = Who("anonymous", Kind.ANONYMOUS)
LOGS = Who("logs", Kind.SERVICE, service="logging.s3.amazonaws.com")
EVERYONE = (USER, ROLE, OTHER_ROLE, OWNER_ROOT, STRANGER, NOBODY, LOGS)


def document(*statements: dict[str, Any], version: str = "2012-10-17") -> str:
    return json.dumps({"Version": version, "Statement": list(statements)})


def statement(effect: str = "Allow", **elements: Any) -> dict[str, Any]:
    base = {"Effect": effect, "Principal": "*", "Action": "s3:*", "Resource": [B, f"{B}/*"]}
    for name in ("Principal", "Action", "Resource"):
        if f"Not{name}" in elements:
            del base[name]
    return base | elements


def verdict(
    text: str | None, who: Who, action: str = "s3:GetObject", resource: str = K, **context: str | list[str]
) -> Verdict:
    """With exactly this context beside what follows from who asks: a key that is not in it is absent."""
    asked = policy.request(who, action, resource, OWNER)
    more = {k.replace("__", ":").lower(): (v,) if isinstance(v, str) else tuple(v) for k, v in context.items()}
    known = {**asked.context, **more}
    asked = Request(who, action, resource, OWNER, known, closed=True)
    return policy.evaluate(None if text is None else policy.parse(text), asked).verdict


# -- documents


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"Version": "2013-01-01", "Statement": []}',
        '{"Version": "2012-10-17", "Statement": [1]}',
        '{"Version": "2012-10-17", "Statement": [], "Further": 1}',
        '{"Version": "2012-10-17", "Version": "2012-10-17", "Statement": []}',
        document({**statement(), "Effect": "Perhaps"}),
        document({k: v for k, v in statement().items() if k != "Principal"}),
        document({k: v for k, v in statement().items() if k != "Action"}),
        document({**statement(), "NotAction": "s3:*"}),
        document({**statement(), "NotResource": "*"}),
        document(statement(Principal="somebody")),
        document(statement(Principal={"AWS": 5})),
        document(statement(Action=[["s3:*"]])),
        document(statement(Condition=[])),
        document(statement(Condition={"Bool": "true"})),
        document(statement(Sid=7)),
    ],
)
def test_what_is_no_policy_is_said_to_be_none(text: str) -> None:
    with pytest.raises(Malformed, match="this is not a bucket policy"):
        policy.parse(text)


def test_what_s3_writes_differently_says_the_same() -> None:
    one = document(statement(Sid="a", Action=["s3:GetObject"], Principal={"AWS": [OWNER, OTHER]}), statement(Sid="b"))
    two = document(statement(Sid="b"), statement(Sid="a", Action="S3:GetObject", Principal={"AWS": [OTHER, OWNER]}))
    assert policy.same(one, two)
    assert not policy.same(one, document(statement(Sid="a")))
    assert not policy.same(one, None)
    assert policy.same(None, None)
    for change in ({"Effect": "Deny"}, {"Resource": B}, {"Condition": {"Bool": {"aws:SecureTransport": True}}}):
        assert not policy.same(document(statement()), document({**statement(), **change}))
    assert not policy.same(document(statement()), document(statement(), version="2008-10-17"))


def test_merging_keeps_what_is_there_and_comes_to_rest() -> None:
    there = document(statement(Sid="logs", Principal={"Service": LOGS.service}), statement("Deny", Action="s3:X"))
    ours = policy.restrict("b", policy.caller(USER.arn), OWNER)
    once = policy.merged(there, ours)
    assert [s.sid for s in policy.parse(once).statements] == ["logs", "", policy.RESTRICT]
    assert policy.merged(once, ours) == once
    assert policy.same(policy.merged(None, ours), ours)
    assert policy.has(once, policy.RESTRICT)
    assert not policy.has(there, policy.RESTRICT)
    assert not policy.has(None, policy.RESTRICT)


def test_a_merge_that_would_turn_text_into_variables_is_refused() -> None:
    ours = policy.restrict("b", policy.caller(USER.arn), OWNER)
    old = document(statement(Resource=f"{B}/${{aws:username}}/*"), version="2008-10-17")
    with pytest.raises(Refused, match="--replace"):
        policy.merged(old, ours)
    assert policy.parse(policy.merged(document(statement(), version="2008-10-17"), ours)).version == "2012-10-17"


def test_the_size_that_s3_takes() -> None:
    head = len(policy.compact(document(statement(Sid=""))))
    policy.check_size(policy.compact(document(statement(Sid="x" * (policy.LIMIT - head)))))
    with pytest.raises(Refused, match="20,480"):
        policy.check_size(policy.compact(document(statement(Sid="x" * (policy.LIMIT - head + 1)))))


def test_a_difference_is_told_line_by_line_and_none_by_nothing() -> None:
    text = policy.restrict("b", policy.caller(USER.arn), OWNER)
    assert policy.difference(text, policy.compact(text)) == []
    lines = policy.difference(None, text)
    assert lines[:2] == ["--- now", "+++ then"]
    assert all(line.startswith("+") for line in lines[3:])


# -- who asks

SSO = "AWSReservedSSO_Admin_0123456789abcdef"


@pytest.mark.parametrize(
    ("arn", "told", "patterns", "matched", "missed"),
    [
        (f"{IAM}user/ops/me", "", 1, [f"{IAM}user/ops/me"], [f"{IAM}user/me", f"{IAM}user/ops/me2"]),
        (f"{IAM}root", "", 1, [f"{IAM}root"], [f"arn:aws:iam::{OTHER}:root"]),
        (
            f"{STS}assumed-role/Ops/session",
            f"{IAM}role/team/Ops",
            1,
            [f"{IAM}role/team/Ops"],
            [f"{IAM}role/Ops", f"{IAM}role/team/NotOps"],
        ),
        (
            f"{STS}assumed-role/Ops/session",
            "",
            2,
            [f"{IAM}role/Ops", f"{IAM}role/team/Ops", f"{IAM}role/a/b/Ops"],
            [f"{IAM}role/DevOps", f"{IAM}role/Ops/Dev", f"{IAM}role/team/DevOps", f"arn:aws:iam::{OTHER}:role/Ops"],
        ),
        (
            f"{STS}assumed-role/{SSO}/me@example.org",
            "",
            2,
            [
                f"{IAM}role/aws-reserved/sso.amazonaws.com/{SSO}",
                f"{IAM}role/aws-reserved/sso.amazonaws.com/eu-west-1/{SSO}",
            ],
            [f"{IAM}role/{SSO}", f"{IAM}role/mine/{SSO}"],
        ),
        (f"{STS}federated-user/bob", "", 1, [f"{STS}federated-user/bob"], [f"{STS}federated-user/eve"]),
        (
            f"arn:aws-us-gov:sts::{OWNER}:assumed-role/Ops/s",
            "",
            2,
            [f"arn:aws-us-gov:iam::{OWNER}:role/Ops"],
            [f"{IAM}role/Ops"],
        ),
        # A path may hold wildcards; they are no wildcards there.
        (f"{IAM}user/a*?$/me", "", 1, [f"{IAM}user/a*?$/me"], [f"{IAM}user/abcd/me", f"{IAM}user/a12$/me"]),
    ],
)
def test_a_caller_is_named_by_what_matches_no_other(
    arn: str, told: str, patterns: int, matched: list[str], missed: list[str]
) -> None:
    found = policy.caller(arn, told)
    assert len(found.patterns) == patterns
    text = document(statement("Deny", Condition={"ArnNotLike": {"aws:PrincipalArn": list(found.patterns)}}))
    kind = Kind.ROOT if arn.endswith("root") else Kind.ROLE
    for own in matched:
        assert verdict(text, Who("x", kind, own, OWNER, own)) is Verdict.OWN, own
    for others in missed:
        assert verdict(text, Who("x", kind, others, OWNER, others)) is Verdict.DENIED, others
    assert {who.principal_arn for who in found.whos} & set(matched)


def test_the_role_to_ask_iam_for() -> None:
    assert policy.role_to_ask_for(f"{STS}assumed-role/Ops/session") == "Ops"
    for arn in (f"{IAM}user/assumed-role/me", f"{IAM}root", f"{STS}federated-user/x", "", "nonsense"):
        assert policy.role_to_ask_for(arn) == ""


@pytest.mark.parametrize("arn", ["", "arn:aws:iam::1:user/x", f"{IAM}group/g", f"{STS}self"])
def test_who_cannot_be_named_gets_no_policy(arn: str) -> None:
    with pytest.raises(Refused):
        policy.caller(arn)


def test_a_role_that_cannot_be_the_callers_is_refused() -> None:
    for told in (f"{IAM}role/team/Dev", f"arn:aws:iam::{OTHER}:role/Ops", f"{IAM}user/Ops"):
        with pytest.raises(Refused, match="cannot be"):
            policy.caller(f"{STS}assumed-role/Ops/s", told)


# -- evaluation

TABLE: list[tuple[str, list[dict[str, Any]], Who, str, str, dict[str, Any], Verdict]] = [
    # what it shows, statements, who, action, resource, further context, verdict
    ("nothing said, own account", [], USER, "s3:GetObject", K, {}, Verdict.OWN),
    ("nothing said, stranger", [], STRANGER, "s3:GetObject", K, {}, Verdict.NOTHING),
    ("nothing said, unsigned", [], NOBODY, "s3:GetObject", K, {}, Verdict.NOTHING),
    ("nothing said, a service", [], LOGS, "s3:PutObject", K, {}, Verdict.NOTHING),
    # The counter-example: a lone Allow restricts nobody.
    ("lone Allow", [statement(Principal={"AWS": USER.arn})], USER, "s3:GetObject", K, {}, Verdict.ALLOWED),
    ("lone Allow, others", [statement(Principal={"AWS": USER.arn})], OTHER_ROLE, "s3:GetObject", K, {}, Verdict.OWN),
    ("Deny wins", [statement(), statement("Deny")], USER, "s3:GetObject", K, {}, Verdict.DENIED),
    ("public", [statement()], NOBODY, "s3:GetObject", K, {}, Verdict.ALLOWED),
    ("public by AWS *", [statement(Principal={"AWS": "*"})], NOBODY, "s3:GetObject", K, {}, Verdict.ALLOWED),
    ("* is services too", [statement("Deny")], LOGS, "s3:PutObject", K, {}, Verdict.DENIED),
    ("role by ARN", [statement(Principal={"AWS": ROLE.principal_arn})], ROLE, "s3:GetObject", K, {}, Verdict.ALLOWED),
    ("role by session", [statement(Principal={"AWS": ROLE.arn})], ROLE, "s3:GetObject", K, {}, Verdict.ALLOWED),
    ("other session", [statement(Principal={"AWS": ROLE.arn + "2"})], ROLE, "s3:GetObject", K, {}, Verdict.OWN),
    ("account hands on", [statement(Principal={"AWS": OTHER})], STRANGER, "s3:GetObject", K, {}, Verdict.OWN),
    (
        "its root's ARN is the account",
        [statement(Principal={"AWS": f"arn:aws:iam::{OTHER}:root"})],
        STRANGER,
        "s3:GetObject",
        K,
        {},
        Verdict.OWN,
    ),
    ("Deny of an account", [statement("Deny", Principal={"AWS": OWNER})], ROLE, "s3:GetObject", K, {}, Verdict.DENIED),
    ("stale id", [statement("Deny", Principal={"AWS": "AIDAEXAMPLE"})], USER, "s3:GetObject", K, {}, Verdict.OWN),
    ("service", [statement(Principal={"Service": LOGS.service})], LOGS, "s3:PutObject", K, {}, Verdict.ALLOWED),
    ("another service", [statement(Principal={"Service": "x"})], LOGS, "s3:PutObject", K, {}, Verdict.NOTHING),
    ("unknown kind", [statement("Deny", Principal={"Martian": "x"})], USER, "s3:GetObject", K, {}, Verdict.UNKNOWN),
    # Actions and resources.
    ("case", [statement("Deny", Action="S3:getOBJECT")], USER, "s3:GetObject", K, {}, Verdict.DENIED),
    ("action ?", [statement("Deny", Action="s3:G?tObject")], USER, "s3:GetObject", K, {}, Verdict.DENIED),
    ("not that one", [statement("Deny", Action="s3:GetObject")], USER, "s3:GetObjectAcl", K, {}, Verdict.OWN),
    ("NotAction", [statement("Deny", NotAction="s3:Get*")], USER, "s3:PutObject", K, {}, Verdict.DENIED),
    ("NotAction leaves", [statement("Deny", NotAction="s3:Get*")], USER, "s3:GetObject", K, {}, Verdict.OWN),
    ("resource case", [statement("Deny", Resource=f"{B}/K")], USER, "s3:GetObject", K, {}, Verdict.OWN),
    ("bucket is no object", [statement("Deny", Resource=B)], USER, "s3:GetObject", K, {}, Verdict.OWN),
    ("NotResource", [statement("Deny", NotResource=f"{B}/x*")], USER, "s3:GetObject", K, {}, Verdict.DENIED),
    ("NotResource leaves", [statement("Deny", NotResource=f"{B}/k*")], USER, "s3:GetObject", K, {}, Verdict.OWN),
    (
        "variable",
        [statement("Deny", Resource=f"{B}/${{aws:username}}/*")],
        USER,
        "s3:GetObject",
        f"{B}/me/x",
        {},
        Verdict.DENIED,
    ),
    ("variable escape", [statement("Deny", Resource=f"{B}/${{*}}")], USER, "s3:GetObject", K, {}, Verdict.OWN),
    ("variable absent", [statement("Deny", Resource="${aws:x}*")], USER, "s3:GetObject", K, {}, Verdict.UNKNOWN),
    (
        "variable default",
        [statement("Deny", Resource=f"{B}/${{aws:username, 'k'}}")],
        ROLE,
        "s3:GetObject",
        K,
        {},
        Verdict.DENIED,
    ),
    # NotPrincipal: only in full.
    (
        "NotPrincipal in full",
        [statement("Deny", NotPrincipal={"AWS": [OWNER, USER.arn]})],
        USER,
        "s3:GetObject",
        K,
        {},
        Verdict.OWN,
    ),
    (
        "NotPrincipal by half",
        [statement("Deny", NotPrincipal={"AWS": USER.arn})],
        USER,
        "s3:GetObject",
        K,
        {},
        Verdict.UNKNOWN,
    ),
    (
        "NotPrincipal, others",
        [statement("Deny", NotPrincipal={"AWS": USER.arn})],
        STRANGER,
        "s3:GetObject",
        K,
        {},
        Verdict.DENIED,
    ),
    (
        "NotPrincipal, role without its session",
        [statement("Deny", NotPrincipal={"AWS": [OWNER, ROLE.principal_arn]})],
        ROLE,
        "s3:GetObject",
        K,
        {},
        Verdict.UNKNOWN,
    ),
    ("not understood", [statement("Deny", Extra=1)], USER, "s3:GetObject", K, {}, Verdict.UNKNOWN),
    ("not understood, and not meant", [statement("Deny", Extra=1, Action="s3:X")], USER, "s3:GetObject", K, {}, Verdict.OWN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("statements", "who", "action", "resource", "context", "expected"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_the_rules(
    statements: list[dict[str, Any]],
    who: Who,
    action: str,
    resource: str,
    context: dict[str, Any],
    expected: Verdict,
) -> None:
    assert verdict(document(*statements), who, action, resource, **context) is expected


# operator, values in the policy, what the request has (None: absent), does it hold ("?": unknown)
CONDITIONS: list[tuple[str, Any, Any, bool | str]] = [
    ("StringEquals", "a", "a", True),
    ("StringEquals", "a", "A", False),
    ("StringEquals", ["b", "a"], "a", True),
    ("StringEquals", "a*", "ab", False),
    ("StringEquals", "a*", "a*", True),
    ("StringEquals", "a", None, False),
    ("StringEqualsIfExists", "a", None, True),
    ("StringEqualsIfExists", "a", "b", False),
    ("StringNotEquals", "a", None, True),
    ("StringNotEquals", ["a", "b"], "b", False),
    ("StringNotEquals", ["a", "b"], "c", True),
    ("StringEqualsIgnoreCase", "a", "A", True),
    ("StringNotEqualsIgnoreCase", "a", "A", False),
    ("StringLike", "a*c?", "abbcd", True),
    ("StringLike", "a*", "ba", False),
    ("StringNotLike", "a*", "ab", False),
    ("StringNotLike", "a*", None, True),
    ("stringlike", "a*", "ab", True),
    ("ArnLike", "arn:aws:iam::1:role/*", "arn:aws:iam::1:role/x/y", True),
    ("ArnLike", "arn:aws:iam::*:role/x", "arn:aws:iam::1:role/x", True),
    ("ArnLike", "arn:aws:*:role/x", "arn:aws:iam::1:role/x", False),
    ("StringLike", "arn:aws:*:role/x", "arn:aws:iam::1:role/x", True),
    ("ArnEquals", "arn:aws:iam::1:role/*", "arn:aws:iam::1:role/x", True),
    ("ArnNotLike", "arn:aws:iam::1:role/*", "arn:aws:iam::1:role/x", False),
    ("ArnNotEquals", "arn:aws:iam::1:role/*", "arn:aws:iam::1:user/x", True),
    ("ArnNotLike", "arn:aws:iam::1:role/*", None, True),
    ("ArnNotLikeIfExists", "arn:aws:iam::1:role/*", None, True),
    ("ArnLike", "arn:aws:iam::1:role/*", "nonsense", False),
    ("Bool", "false", "false", True),
    ("Bool", False, "false", True),
    ("Bool", "False", "false", True),
    ("Bool", "false", "true", False),
    ("Bool", "false", None, False),
    ("BoolIfExists", "false", None, True),
    ("Null", "true", None, True),
    ("Null", True, "x", False),
    ("Null", "false", "x", True),
    ("Null", "false", None, False),
    ("Null", "maybe", None, "?"),
    ("NullIfExists", "true", None, "?"),
    ("NumericLessThan", "10", "9.5", True),
    ("NumericLessThan", 10, "10", False),
    ("NumericLessThanEquals", "10", "10", True),
    ("NumericGreaterThan", "10", "11", True),
    ("NumericGreaterThanEquals", "10", "9", False),
    ("NumericEquals", "10", "10.0", True),
    ("NumericNotEquals", "10", "10", False),
    ("NumericNotEquals", "10", None, True),
    ("NumericEquals", "ten", "10", "?"),
    ("NumericEquals", "NaN", "10", "?"),
    ("DateLessThan", "2030-01-01T00:00:00Z", "2029-12-31T23:59:59Z", True),
    ("DateGreaterThan", "2030-01-01T00:00:00Z", "1893456000", False),
    ("DateEquals", "2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z", True),
    ("DateLessThanEquals", "2030-01-01T00:00:00Z", "1893456000", True),
    ("DateNotEquals", "soon", "1893456000", "?"),
    ("IpAddress", "10.0.0.0/8", "10.1.2.3", True),
    ("IpAddress", "10.0.0.1", "10.0.0.1", True),
    ("IpAddress", ["10.0.0.0/8", "2001:db8::/32"], "2001:db8::1", True),
    ("NotIpAddress", "10.0.0.0/8", "192.0.2.1", True),
    ("NotIpAddress", "10.0.0.0/8", "10.1.2.3", False),
    ("NotIpAddress", "10.0.0.0/8", None, True),
    ("NotIpAddress", "home", "10.1.2.3", "?"),
    ("BinaryEquals", "QQ==", "QQ==", True),
    ("BinaryEquals", "QQ==", "QUE=", False),
    ("BinaryEquals", "!", "QQ==", "?"),
    ("ForAnyValue:StringEquals", ["a", "b"], ["x", "b"], True),
    ("ForAnyValue:StringEquals", ["a", "b"], ["x", "y"], False),
    ("ForAnyValue:StringEquals", "a", None, False),
    ("ForAnyValue:StringEqualsIfExists", "a", None, False),
    ("ForAllValues:StringEquals", ["a", "b"], ["a", "b"], True),
    ("ForAllValues:StringEquals", ["a", "b"], ["a", "x"], False),
    ("ForAllValues:StringEquals", "a", None, True),
    ("ForAllValues:StringNotLike", "a*", ["b", "c"], True),
    ("ForAllValues:StringNotLike", "a*", ["b", "ab"], False),
    ("ForAnyValue:StringNotEquals", "a", ["a", "b"], True),
    ("StringEquals", "a", ["a", "b"], "?"),
    ("StringEquals", [], "a", "?"),
    ("StringMatches", "a", "a", "?"),
    ("StringMatches", "a", None, "?"),
    ("ForSomeValues:StringEquals", "a", "a", "?"),
    ("", "a", "a", "?"),
]


@pytest.mark.parametrize(("operator", "wanted", "value", "holds"), CONDITIONS)
def test_conditions(operator: str, wanted: Any, value: Any, holds: bool | str) -> None:
    context = {} if value is None else {"aws__RequestedThing": value}
    for effect, met, unmet in (("Deny", Verdict.DENIED, Verdict.NOTHING), ("Allow", Verdict.ALLOWED, Verdict.NOTHING)):
        text = document(statement(effect, Condition={operator: {"aws:requestedTHING": wanted}}))
        expected = Verdict.UNKNOWN if holds == "?" else met if holds else unmet
        assert verdict(text, STRANGER, **context) is expected


def test_all_conditions_have_to_hold_and_a_false_one_decides() -> None:
    both = {"StringEquals": {"aws:a": "1", "aws:b": "2"}}
    assert verdict(document(statement("Deny", Condition=both)), USER, aws__a="1", aws__b="2") is Verdict.DENIED
    assert verdict(document(statement("Deny", Condition=both)), USER, aws__a="1", aws__b="x") is Verdict.OWN
    odd = {"StringEquals": {"aws:a": "1"}, "Peculiar": {"aws:b": "2"}}
    assert verdict(document(statement("Deny", Condition=odd)), USER, aws__a="x") is Verdict.OWN
    assert verdict(document(statement("Deny", Condition=odd)), USER, aws__a="1") is Verdict.UNKNOWN


def test_a_deny_that_is_certain_outranks_one_that_is_not_known() -> None:
    odd = statement("Deny", Condition={"Peculiar": {"aws:b": "2"}})
    assert verdict(document(odd, statement("Deny")), USER) is Verdict.DENIED
    assert verdict(document(odd, statement()), USER) is Verdict.UNKNOWN


def test_what_a_request_brings_along_is_not_known_before_it_is_made() -> None:
    for key in (
        "aws:SourceIp",
        "aws:SourceVpce",
        "aws:CurrentTime",
        "s3:prefix",
        "aws:PrincipalTag/team",
        "aws:userid",
    ):
        text = policy.parse(document(statement("Deny", Condition={"StringNotEquals": {key: "x"}})))
        answer = policy.evaluate(text, policy.request(USER, "s3:GetObject", K, OWNER))
        assert answer.verdict is Verdict.UNKNOWN
        [(_, unknown)] = answer.unknown
        assert key in unknown.why
        assert not unknown.strange
    secure = policy.parse(document(statement("Deny", Condition={"Bool": {"aws:SecureTransport": "false"}})))
    assert policy.evaluate(secure, policy.request(USER, "s3:GetObject", K, OWNER)).verdict is Verdict.OWN
    plain = policy.request(USER, "s3:GetObject", K, OWNER, secure=False)
    assert policy.evaluate(secure, plain).verdict is Verdict.DENIED


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=12))
def test_a_pattern_matches_as_a_regular_expression_does(pattern: str, text: str) -> None:
    expected = re.fullmatch(pattern.replace("*", ".*").replace("?", "."), text) is not None
    assert policy._glob(policy._plain_tokens(pattern), text) is expected


@given(st.text("*?${}a\u00e9\n", max_size=20))
def test_what_is_literal_matches_itself_alone(text: str) -> None:
    asked = Request(USER, "s3:GetObject", K, OWNER, {}, closed=True)
    assert policy._like(policy.literal(text), text, asked, True) is True
    assert policy._like(policy.literal(text), text + "x", asked, True) is False


def test_many_stars_take_no_time() -> None:
    assert not policy._glob(policy._plain_tokens("*a" * 60 + "b"), "a" * 3000)


# -- the program's own policies

CALLERS = [
    policy.caller(USER.arn),
    policy.caller(ROLE.arn, ROLE.principal_arn),
    policy.caller(ROLE.arn),
    policy.caller(OWNER_ROOT.arn),
    policy.caller(f"{STS}assumed-role/{SSO}/me"),
]
WRITES = ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectTagging", "s3:RestoreObject")
READS = ("s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectTagging")
SETTINGS = ("s3:PutLifecycleConfiguration", "s3:PutBucketVersioning", "s3:DeleteBucket")
LISTS = ("s3:ListBucket", "s3:ListBucketVersions")


def may(text: str, who: Who, actions: tuple[str, ...]) -> set[Verdict]:
    of_objects = "Object" in actions[0]
    return {verdict(text, who, action, K if of_objects else B) for action in actions}


@pytest.mark.parametrize("of", CALLERS, ids=lambda of: of.whos[0].principal_arn)
@pytest.mark.parametrize("hard", [False, True])
def test_restrict_lets_nobody_in_but_the_caller_root_and_services(of: Caller, hard: bool) -> None:
    text = policy.restrict("b", of, OWNER, hard=hard)
    open_ = statement(Principal="*")
    for merged in (policy.compact(text), policy.merged(document(open_), text)):
        allowed = Verdict.ALLOWED if len(policy.parse(merged).statements) > 1 else Verdict.OWN
        for who in (*of.whos, OWNER_ROOT):
            assert may(merged, who, (*READS, *WRITES)) == may(merged, who, SETTINGS) == {allowed}
            assert may(merged, who, policy.WAY_BACK) == may(merged, who, LISTS) == {allowed}
        for who in (OTHER_ROLE, STRANGER, NOBODY):
            assert may(merged, who, (*READS, *WRITES)) == may(merged, who, (*SETTINGS, *LISTS)) == {Verdict.DENIED}
            way_back = may(merged, who, policy.WAY_BACK)
            assert way_back == {Verdict.DENIED} if hard else Verdict.DENIED not in way_back
        assert Verdict.DENIED not in may(merged, LOGS, WRITES)


def test_acting_through_a_service_is_no_way_around_it() -> None:
    text = policy.restrict("b", CALLERS[0], OWNER)
    assert verdict(text, OTHER_ROLE, aws__ViaAWSService="true") is Verdict.DENIED
    assert verdict(text, USER, aws__ViaAWSService="true") is Verdict.OWN


@pytest.mark.parametrize("of", CALLERS, ids=lambda of: of.whos[0].principal_arn)
@pytest.mark.parametrize("hard", [False, True])
def test_freeze_stops_writes_and_nothing_else(of: Caller, hard: bool) -> None:
    text = policy.freeze("b", of, OWNER, hard=hard)
    for who in (*of.whos, OWNER_ROOT):
        assert may(text, who, (*READS, *WRITES)) == may(text, who, (*SETTINGS, *policy.WAY_BACK)) == {Verdict.OWN}
    assert may(text, OTHER_ROLE, READS) == may(text, OTHER_ROLE, LISTS) == {Verdict.OWN}
    for who in (OTHER_ROLE, STRANGER, NOBODY):
        assert may(text, who, WRITES) == may(text, who, SETTINGS) == {Verdict.DENIED}
        assert (Verdict.DENIED in may(text, who, policy.WAY_BACK)) is hard
        assert Verdict.DENIED not in may(text, who, READS)
    assert (Verdict.DENIED in may(text, LOGS, WRITES)) is hard


def test_both_fit_into_a_policy_and_a_confirm_delete_passes_both() -> None:
    both = policy.merged(policy.restrict("b", CALLERS[1], OWNER), policy.freeze("b", CALLERS[1], OWNER))
    policy.check_size(both)
    assert may(both, ROLE, ("s3:DeleteObject", "s3:DeleteObjectVersion")) == {Verdict.OWN}
    assert may(both, ROLE, ("s3:DeleteBucket",)) == {Verdict.OWN}


def test_a_bucket_of_another_account_keeps_its_own_root() -> None:
    text = policy.restrict("b", policy.caller(STRANGER.arn), OWNER)
    assert f"{IAM}root" in text
    assert verdict(text, OWNER_ROOT) is Verdict.OWN


def test_the_template_is_the_policy_with_names_left_open() -> None:
    template = (ROOT / "policies" / "template.json").read_text()
    assert all(name in template for name in policy.PLACEHOLDERS)
    for of in CALLERS:
        assert policy.same(policy.filled(template, "b", of, OWNER), policy.restrict("b", of, OWNER))


@pytest.mark.parametrize(
    "template", ["", "{}", '{"a": 1, "a": 2}', document(statement(Principal={"AWS": "x<CALLER>"}))]
)
def test_a_template_that_is_none(template: str) -> None:
    with pytest.raises(Malformed):
        policy.filled(template, "b", CALLERS[0], OWNER)


def test_a_template_may_have_the_caller_by_itself() -> None:
    text = document(statement("Deny", Condition={"ArnNotLike": {"aws:PrincipalArn": "<CALLER>"}}))
    for of in (CALLERS[0], CALLERS[2]):
        assert verdict(policy.filled(text, "b", of, OWNER), OTHER_ROLE) is Verdict.DENIED


# -- before and after


def out(before: str | None, after: str | None, of: Caller = CALLERS[0]) -> list[str]:
    return policy.locked_out(before, after, "b", of, OWNER, secure=True)


def test_no_policy_of_ours_locks_its_caller_out() -> None:
    for of in CALLERS:
        for build in (policy.restrict, policy.freeze):
            for hard in (False, True):
                assert out(None, build("b", of, OWNER, hard=hard), of) == []


ODD = statement("Deny", Sid="odd", Condition={"Peculiar": {"aws:x": "y"}})
HOME = statement("Deny", Sid="home", Condition={"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}})
AWAY = statement("Deny", Sid="home", Condition={"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}})


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (None, document(statement("Deny")), "s3:ListBucket any more"),
        (None, document(statement("Deny", Action="s3:DeleteObjectVersion")), "s3:DeleteObjectVersion any more"),
        (None, document(statement("Deny", Action="s3:DeleteBucketPolicy")), "s3:DeleteBucketPolicy any more"),
        (None, document(statement("Deny", Resource=f"{B}/secret/*")), "s3:GetObject any more"),
        (None, document(statement("Deny", Action="s3:PutObject")), ""),  # what the program never needs
        (None, policy.restrict("b", CALLERS[1], OWNER), "any more"),  # made by somebody else
        (None, document(ODD), "Peculiar is not understood"),
        (document(ODD), document(ODD), "Peculiar is not understood"),
        (None, document(HOME), "aws:SourceIp is not known here"),
        (document(HOME), document(HOME, statement("Deny", Principal={"AWS": OTHER})), ""),  # as unknown as before
        (document(HOME, AWAY), document(HOME), ""),  # and less
        (document(HOME), document(HOME, AWAY), "aws:SourceIp is not known here"),  # and more, by another of the kind
        (document(HOME), document(AWAY), "aws:SourceIp is not known here"),
        (document(HOME, statement()), document(HOME), "rests on the policy"),
        (document(HOME), document(HOME, statement("Deny", Action="s3:GetObject")), "s3:GetObject any more"),
        (document(statement("Deny", Action="s3:GetObject")), document(statement("Deny", Action="s3:GetObject")), ""),
        (document(statement("Deny", Action=policy.WAY_BACK[1])),) * 2 + ("s3:PutBucketPolicy any more",),
        (document(statement()), None, "rests on the policy"),
        (document(statement(Action="s3:GetObject")), document(), ""),
    ],
)
def test_a_lock_out_is_seen_before_it_is_one(before: str | None, after: str | None, words: str) -> None:
    reasons = out(before, after)
    assert bool(reasons) is bool(words)
    assert words in " ".join(reasons)


def test_a_guest_who_is_let_in_by_the_policy_alone_keeps_it() -> None:
    guest = policy.caller(STRANGER.arn)
    granting = document(statement(Principal={"AWS": STRANGER.arn}))
    ours = policy.restrict("b", guest, OWNER)
    assert out(granting, policy.merged(granting, ours), guest) == []
    assert "any more" in " ".join(out(granting, policy.compact(ours), guest))
    # Let in from somewhere only: not known here, and then not known any more.
    somewhere = statement(Principal={"AWS": STRANGER.arn}, Condition={"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}})
    elsewhere = {**somewhere, "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}
    assert out(document(somewhere), policy.merged(document(somewhere), ours), guest) == []
    assert "may let you in would go" in " ".join(out(document(somewhere, elsewhere), document(somewhere), guest))
    assert "any more" in " ".join(out(document(HOME, statement()), document(HOME), guest))


def test_what_will_rest_on_iam_is_told() -> None:
    granting = document(statement(Action="s3:GetObject*"))
    ours = policy.compact(policy.restrict("b", CALLERS[0], OWNER))
    assert policy.rests_on(granting, ours, "b", CALLERS[0], OWNER, secure=True) == ["read"]
    assert policy.rests_on(granting, granting, "b", CALLERS[0], OWNER, secure=True) == []


def test_the_table_tells_of_everybody_and_of_whom_the_policies_name() -> None:
    before = document(
        statement(Principal={"AWS": [f"arn:aws:iam::{OTHER}:root", f"{IAM}role/another-role"]}, Action="s3:GetObject"),
        statement(Principal={"Service": "cloudtrail.amazonaws.com"}, Action="s3:PutObject", Resource=f"{B}/logs/*"),
    )
    after = policy.merged(before, policy.restrict("b", CALLERS[1], OWNER))
    lines = policy.table(before, after, "b", CALLERS[1], OWNER, secure=True)
    told = {(line.who, deed): (line.before, line.after) for line in lines for deed in line.deeds}
    assert told["you", "read"] == ("as IAM says", "as IAM says")
    assert told["root of the owner", "read"] == ("as IAM says", "as IAM says")
    assert told["another role", "read"] == ("as IAM says", "denied")
    assert told["another account", "read"] == ("no", "denied")
    assert told["anybody, unsigned", "list"] == ("no", "denied")
    assert told["cloudtrail.amazonaws.com", "write"] == ("partly", "partly")
    assert told[f"arn:aws:iam::{OTHER}:root", "read"] == ("partly", "denied")  # GetObject, and not of versions
    assert told[f"{IAM}role/another-role", "read"] == ("partly", "denied")
    assert all(len(line.deeds) == len(set(line.deeds)) for line in lines)


def test_every_failure_here_has_its_status() -> None:
    assert Malformed("x").code == Failure.code == 1
    assert Refused.code == 5
