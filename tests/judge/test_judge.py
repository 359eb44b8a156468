"""Somebody else's reading of AWS's rules (npm's @cloud-copilot/iam-simulate) says of these policies what this program says."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from migrate_v2 import policy
from migrate_v2.policy import Kind, Request, Verdict, Who
from tests.test_policy import (
    CALLERS,
    CONDITIONS,
    EVERYONE,
    LISTS,
    LOGS,
    NOBODY,
    OTHER,
    OTHER_ROLE,
    OWNER,
    OWNER_ROOT,
    READS,
    ROLE,
    SETTINGS,
    STRANGER,
    TABLE,
    USER,
    WRITES,
    B,
    K,
    document,
    statement,
)

pytestmark = pytest.mark.system
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Question:
    text: str | None
    asked: Request
    iam: bool = True

    def told(self) -> dict[str, Any]:
        who = self.asked.who
        return {
            "principal": who.service if who.kind is Kind.SERVICE else who.arn or None,
            "action": self.asked.action,
            "resource": self.asked.resource,
            "owner": self.asked.owner,
            "policy": None if self.text is None else json.loads(self.text),
            "iam": self.iam,
            "context": {key: v[0] if len(v) == 1 else list(v) for key, v in self.asked.context.items() if v},
        }

    def expected(self) -> str:
        """What the judge calls our verdict; "" where it is unknown."""
        found = policy.evaluate(None if self.text is None else policy.parse(self.text), self.asked).verdict
        guest = self.asked.who.account not in ("", OWNER)  # whose own account has to agree
        return {
            Verdict.ALLOWED: "ImplicitlyDenied" if guest and not self.iam else "Allowed",
            Verdict.OWN: "Allowed" if self.iam else "ImplicitlyDenied",
            Verdict.NOTHING: "ImplicitlyDenied",
            Verdict.DENIED: "ExplicitlyDenied",
            Verdict.UNKNOWN: "",
        }[found]


def question(
    text: str | None, who: Who, action: str, resource: str, *, iam: bool = True, context: dict[str, Any] | None = None
) -> Question:
    iam = iam or who.kind is Kind.ROOT  # which has no policies and may everything
    asked = policy.request(who, action, resource, OWNER)
    more = {k.replace("__", ":").lower(): (v,) if isinstance(v, str) else tuple(v) for k, v in (context or {}).items()}
    return Question(text, Request(who, action, resource, OWNER, {**asked.context, **more}, closed=True), iam)


def judge(questions: list[Question]) -> list[str]:
    told = [json.dumps(one.told()) for one in questions]
    once = list(dict.fromkeys(told))
    said = subprocess.run(
        ["node", HERE / "judge.mjs"],
        input=f"[{','.join(once)}]",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert said.returncode == 0, f"run `npm ci` in {HERE} first: {said.stderr}"
    answers = dict(zip(once, json.loads(said.stdout), strict=True))
    return [answers[one] for one in told]


def assert_agreed(questions: list[Question]) -> int:
    """Where this program says that it does not know, the judge may say anything. Returns how often it said something."""
    expected = [one.expected() for one in questions]
    for one, ours, theirs in zip(questions, expected, judge(questions), strict=True):
        assert not theirs.startswith("error"), (one.told(), theirs)
        assert ours in ("", theirs), one.told()
    return sum(ours != "" for ours in expected)


KEYS = {"For": "aws:TagKeys", "Ip": "aws:SourceIp", "Numeric": "aws:MultiFactorAuthAge", "Date": "aws:TokenIssueTime"}


def test_the_table_of_rules_and_of_conditions() -> None:
    questions = [
        question(document(*statements), who, action, resource, context=context, iam=iam)
        for _, statements, who, action, resource, context, verdict in TABLE
        for iam in (True, False)
        if verdict is not Verdict.UNKNOWN and "Extra" not in str(statements)  # of which the judge makes an error
    ]
    for operator, wanted, value, holds in CONDITIONS:
        # The judge takes operators as AWS spells them, and knows which keys there are and what is a list.
        if holds == "?" or operator == "stringlike":
            continue
        key = next((key for name, key in KEYS.items() if name in operator), "aws:RequestedRegion")
        for effect in ("Allow", "Deny"):
            text = document(statement(effect, Condition={operator: {key: wanted}}))
            context = {} if value is None else {key: value}
            questions.append(question(text, STRANGER, "s3:GetObject", K, context=context))
    assert assert_agreed(questions) == len(questions) > 150


DEEDS = {"reads": (READS, K), "writes": (WRITES, K), "settings": (SETTINGS, B), "lists": (LISTS, B)}
EXISTING = {
    "none": None,
    "public": document(statement(Sid="public", Action=["s3:GetObject", "s3:PutObject", "s3:ListBucket"])),
    "logs and a guest": document(
        statement(Sid="logs", Principal={"Service": LOGS.service}, Action="s3:PutObject"),
        statement(Sid="guest", Principal={"AWS": f"arn:aws:iam::{OTHER}:root"}),
        statement("Deny", Sid="tls", Condition={"Bool": {"aws:SecureTransport": "false"}}),
    ),
}


@pytest.mark.parametrize("existing", EXISTING.values(), ids=EXISTING)
@pytest.mark.parametrize("replaces", [False, True])
def test_the_programs_own_policies_do_what_they_are_for(existing: str | None, replaces: bool) -> None:
    """Judged by the judge alone: what it says is held against what is intended, not against our own evaluation."""
    questions: list[Question] = []
    intended: list[tuple[str, str]] = []
    for of in CALLERS:
        for build in (policy.restrict, policy.freeze):
            for hard in (False, True):
                ours = build("b", of, OWNER, hard=hard)
                text = policy.compact(ours) if replaces else policy.merged(existing, ours)
                services = build is policy.restrict or not hard
                for deed, (actions, resource) in DEEDS.items():
                    stopped = build is policy.restrict or deed in ("writes", "settings")
                    people = [(who, False) for who in (*of.whos, OWNER_ROOT)]
                    people += [(who, True) for who in (OTHER_ROLE, STRANGER, NOBODY)]
                    people += [(LOGS, not services)]
                    for who, outside in people:
                        for action in actions:
                            questions.append(question(text, who, action, resource))
                            denied = outside and stopped
                            intended.append((who.name, "denied" if denied else "not denied"))
                for who in (OTHER_ROLE, STRANGER, NOBODY):
                    for action in policy.WAY_BACK:
                        questions.append(question(text, who, action, B))
                        reads = build is policy.freeze and action == "s3:GetBucketPolicy"
                        intended.append((who.name, "denied" if hard and not reads else "not denied"))
                for who in (*of.whos, OWNER_ROOT):
                    for action in policy.WAY_BACK:
                        questions.append(question(text, who, action, B))
                        intended.append((who.name, "allowed"))
    for one, (_, wish), said in zip(questions, intended, judge(questions), strict=True):
        if wish == "allowed" or (wish == "not denied" and one.asked.who in (*CALLERS[0].whos, OWNER_ROOT)):
            assert said == "Allowed", (one.told(), said)
        elif wish == "denied":
            assert said == "ExplicitlyDenied", (one.told(), said)
        else:
            assert said in ("Allowed", "ImplicitlyDenied"), (one.told(), said)


def test_hundreds_of_policies_made_up_at_random() -> None:
    rng = random.Random(20240229)
    questions = []
    for _ in range(400):
        text = document(*(_statement(rng) for _ in range(rng.randint(1, 4))))
        for _ in range(6):
            who = rng.choice(EVERYONE)
            action, resource = rng.choice(
                [(a, K) for a in (*READS, *WRITES)] + [(a, B) for a in (*SETTINGS, *LISTS, *policy.WAY_BACK)]
            )
            context = {} if rng.random() < 0.5 else {"aws:RequestedRegion": rng.choice(("eu-west-1", "us-east-1"))}
            questions.append(question(text, who, action, resource, iam=rng.random() < 0.7, context=context))
    sure = assert_agreed(questions)
    assert sure > len(questions) * 0.8
    verdicts = {one.expected() for one in questions}
    assert verdicts >= {"Allowed", "ImplicitlyDenied", "ExplicitlyDenied"}


def _statement(rng: random.Random) -> dict[str, Any]:
    some = [USER.arn, ROLE.principal_arn, ROLE.arn, OTHER_ROLE.principal_arn, OWNER, f"arn:aws:iam::{OTHER}:root", "*"]
    principal: Any = rng.choice(
        ["*", {"AWS": rng.sample(some, rng.randint(1, 3))}, {"AWS": rng.choice(some)}, {"Service": LOGS.service}]
    )
    actions = ["s3:*", "s3:Get*", "s3:GetObject", "s3:PutObject*", "s3:Delete*", "s3:List*", "s3:*Bucket*", "s3:?et*"]
    resources = [B, f"{B}/*", f"{B}*", "*", f"{B}/k", f"{B}/x*", "arn:aws:s3:::other/*"]
    elements: dict[str, Any] = {
        rng.choice(("Action", "Action", "NotAction")): rng.sample(actions, rng.randint(1, 3)),
        rng.choice(("Resource", "Resource", "Resource", "NotResource")): rng.sample(resources, rng.randint(1, 2)),
        "Principal": principal,
    }
    effect = rng.choice(("Allow", "Deny"))
    if effect == "Deny" and rng.random() < 0.15:
        elements.pop("Principal")
        elements["NotPrincipal"] = {"AWS": [OWNER, USER.arn, f"arn:aws:iam::{OWNER}:root"]}
    if rng.random() < 0.7:
        elements["Condition"] = dict(_condition(rng) for _ in range(rng.randint(1, 2)))
    return statement(effect, **elements)


def _condition(rng: random.Random) -> tuple[str, dict[str, Any]]:
    arns = [
        USER.principal_arn,
        ROLE.principal_arn,
        f"arn:aws:iam::{OWNER}:role/*",
        "arn:aws:iam::*:user/*",
        "arn:aws:iam::1:x",
    ]
    suffix = rng.choice(("", "", "IfExists"))
    sets = rng.choice(("", "", "", "ForAnyValue:", "ForAllValues:"))
    return rng.choice(
        [
            (f"{sets}{rng.choice(('ArnLike', 'ArnNotLike', 'ArnEquals', 'ArnNotEquals'))}{suffix}", {"aws:PrincipalArn": rng.sample(arns, 2)}),
            (f"{sets}{rng.choice(('StringLike', 'StringNotLike', 'StringEquals', 'StringNotEquals'))}{suffix}", {"aws:PrincipalArn": rng.sample(arns, 2)}),
            (f"Bool{suffix}", {"aws:PrincipalIsAWSService": rng.choice(("true", "false"))}),
            (f"Bool{suffix}", {"aws:SecureTransport": rng.choice(("true", "false"))}),
            ("Null", {"aws:PrincipalArn": rng.choice(("true", "false"))}),
            (f"{rng.choice(('StringEquals', 'StringNotEquals'))}{suffix}", {"aws:PrincipalAccount": [OWNER]}),
            (f"{sets}StringEquals{suffix}", {"aws:RequestedRegion": "eu-west-1"}),
        ]
    )  # fmt: skip
