"""Bucket policies as documents, and what they let whom do by AWS's own rules; what cannot be said of one is said to be unknown."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from difflib import unified_diff
from enum import StrEnum
from ipaddress import ip_address, ip_network
from itertools import chain

from migrate_v2.errors import Failure, Refused
from migrate_v2.keys import show

# "Bucket policies are limited to 20 KB in size" (S3 user guide, "Bucket policies").
LIMIT = 20 * 1024
RESTRICT = "MigrateV2OnlyTheOperator"
FREEZE = "MigrateV2Freeze"
# Left open for everybody whose own IAM policies allow them: who has to undo what was done here is not always who did it.
WAY_BACK = ("s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy")
# While a bucket is being brought home nothing in it may come, go, change or become unreadable. Reads are no harm.
FROZEN = (
    "s3:PutObject*",  # uploads, and tags, ACLs, locks and annotations of what is there
    "s3:DeleteObject*",  # what is not here yet exists only there
    "s3:AbortMultipartUpload",
    "s3:BypassGovernanceRetention",
    "s3:Replicate*",  # arrives from another bucket, delete markers too
    "s3:ObjectOwnerOverrideToBucketOwner",
    "s3:RestoreObject",  # a second request sets another expiry, also an earlier one
    "s3:UpdateObjectEncryption",  # another key may be one that the operator cannot use
    "s3:PutBucketVersioning",  # decides what a DELETE means
    "s3:PutLifecycleConfiguration",  # expires and archives
    "s3:PutIntelligentTieringConfiguration",  # archives
    "s3:PutReplicationConfiguration",
    "s3:PutBucketObjectLockConfiguration",
    "s3:DeleteBucket",
)
PLACEHOLDERS = ("<BUCKET>", "<CALLER>", "<OWNER>", "<PARTITION>")


class Malformed(Failure):
    """this is not a bucket policy: {}"""


# -- documents


@dataclass(frozen=True, slots=True)
class Condition:
    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `principals` are (kind, id), everybody is ("AWS", "*"). `raw` is its JSON, `strange` what is not understood of it."""

    sid: str
    denies: bool
    principals: tuple[tuple[str, str], ...]
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...]
    not_principal: bool = False
    not_action: bool = False
    not_resource: bool = False
    strange: str = ""
    raw: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        return f"the statement {show(self.sid)}" if self.sid else "a statement without a Sid"


@dataclass(frozen=True, slots=True)
class Policy:
    version: str
    id: str | None
    statements: tuple[Statement, ...]


def parse(text: str) -> Policy:
    """Raises Malformed for what is no policy document, duplicate names included: of those no two readers say the same."""
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise Malformed(show(str(error))) from error
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    if not isinstance(document, dict) or not isinstance(document.get("Statement"), dict | list):
        raise Malformed("it has no Statement")
    if strange := document.keys() - {"Version", "Id", "Statement"}:
        raise Malformed(f"it has an element {show(min(strange))}")
    version, name = document.get("Version", "2008-10-17"), document.get("Id")
    if version not in ("2012-10-17", "2008-10-17"):
        raise Malformed(f"its Version is {show(str(version))}")
    if name is not None and not isinstance(name, str):
        raise Malformed("its Id is no text")
    statements = document["Statement"]
    listed = statements if isinstance(statements, list) else [statements]
    return Policy(version, name, tuple(_statement(one) for one in listed))


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


_ELEMENTS = {
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Effect",
    "Sid",
    "Condition",
}


def _statement(given: object) -> Statement:
    if not isinstance(given, dict):
        raise Malformed("a statement is no object")
    if given.get("Effect") not in ("Allow", "Deny"):
        raise Malformed("a statement has neither Allow nor Deny as its Effect")
    for name in ("Principal", "Action", "Resource"):
        if (name in given) == (f"Not{name}" in given):
            raise Malformed(f"a statement needs one of {name} and Not{name}")
    sid = given.get("Sid", "")
    if not isinstance(sid, str):
        raise Malformed("a Sid is no text")
    strange = given.keys() - _ELEMENTS
    return Statement(
        sid=sid,
        denies=given["Effect"] == "Deny",
        principals=_principals(given.get("Principal", given.get("NotPrincipal"))),
        actions=_texts(given.get("Action", given.get("NotAction")), "Action"),
        resources=_texts(given.get("Resource", given.get("NotResource")), "Resource"),
        conditions=_conditions(given.get("Condition", {})),
        not_principal="NotPrincipal" in given,
        not_action="NotAction" in given,
        not_resource="NotResource" in given,
        strange=f"its element {show(min(strange))} is not known" if strange else "",
        raw=json.dumps(given, ensure_ascii=False),
    )


def _principals(given: object) -> tuple[tuple[str, str], ...]:
    if given == "*":
        return (("AWS", "*"),)
    if not isinstance(given, dict):
        raise Malformed('a Principal is neither "*" nor an object')
    return tuple((str(kind), name) for kind, names in given.items() for name in _texts(names, "Principal"))


def _conditions(given: object) -> tuple[Condition, ...]:
    if not isinstance(given, dict) or not all(isinstance(keys, dict) for keys in given.values()):
        raise Malformed("a Condition is no object of objects")
    return tuple(
        Condition(operator, key, _texts(values, "Condition", scalars=True))
        for operator, keys in given.items()
        for key, values in keys.items()
    )


def _texts(given: object, where: str, *, scalars: bool = False) -> tuple[str, ...]:
    texts = []
    for one in given if isinstance(given, list) else [given]:
        if scalars and isinstance(one, bool | int | float):
            one = json.dumps(one)
        if not isinstance(one, str):
            raise Malformed(f"something in {where} is no text")
        texts.append(one)
    return tuple(texts)


def _written(version: str, name: str | None, raws: Iterable[str]) -> str:
    """As it is sent: short, since its size is limited."""
    document: dict[str, object] = {"Version": version}
    if name is not None:
        document["Id"] = name
    document["Statement"] = [json.loads(raw) for raw in raws]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def pretty(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, indent=2) + "\n"


def same(one: str | None, other: str | None) -> bool:
    """Do they say the same? S3 may write a list of one as a text, and what is a set comes in any order."""
    if one is None or other is None or one == other:
        return one == other
    return _meaning(parse(one)) == _meaning(parse(other))


def _meaning(policy: Policy) -> tuple[object, ...]:
    statements = [
        (
            s.sid,
            s.denies,
            (s.not_principal, s.not_action, s.not_resource),
            tuple(sorted(set(s.principals))),
            tuple(sorted({action.lower() for action in s.actions})),
            tuple(sorted(set(s.resources))),
            tuple(sorted((c.operator.lower(), c.key.lower(), tuple(sorted(set(c.values)))) for c in s.conditions)),
            s.raw if s.strange else "",
        )
        for s in policy.statements
    ]
    return policy.version, policy.id, sorted(statements)


def merged(now: str | None, ours: str) -> str:
    """`now` with the statements of `ours`, which take the place of those of the same Sid."""
    added = parse(ours)
    if now is None:
        return _written(added.version, added.id, (s.raw for s in added.statements))
    kept = parse(now)
    if kept.version != added.version and any("${" in s.raw for s in (*kept.statements, *added.statements)):
        raise Refused(
            f"the policy that is there is of Version {kept.version}, in which ${{...}} means something else:"
            " merging would change it; give it the Version 2012-10-17 yourself, or use --replace"
        )
    sids = {s.sid for s in added.statements if s.sid}
    left = [s.raw for s in kept.statements if s.sid not in sids]
    version = max(kept.version, added.version)
    return _written(version, kept.id, (*left, *(s.raw for s in added.statements)))


def compact(text: str) -> str:
    policy = parse(text)
    return _written(policy.version, policy.id, (s.raw for s in policy.statements))


def has(text: str | None, sid: str) -> bool:
    return text is not None and any(s.sid == sid for s in parse(text).statements)


def check_size(text: str) -> str:
    if (size := len(text.encode())) > LIMIT:
        raise Refused(f"this policy has {size:,} bytes, and S3 takes {LIMIT:,}: take something out of it")
    return text


def difference(before: str | None, after: str | None) -> list[str]:
    """Line by line as diff -u says it; [] where they are the same text but for white space."""
    now, then = (pretty(text).splitlines() if text is not None else [] for text in (before, after))
    return list(unified_diff(now, then, "now", "then", lineterm="", n=2))


# -- who asks


class Kind(StrEnum):
    USER = "User"
    ROLE = "AssumedRole"
    FEDERATED = "FederatedUser"
    ROOT = "Account"
    SERVICE = "Service"
    ANONYMOUS = "Anonymous"


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who may ask. `arn` is what a Principal names (of a role: the session's), `principal_arn` is the value of
    aws:PrincipalArn: of a role its own ARN, never the session's; "" where there is none. `service` is a service's name."""

    name: str
    kind: Kind
    arn: str = ""
    account: str = ""
    principal_arn: str = ""
    service: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom the policies here leave in: `patterns` match its aws:PrincipalArn and no other's; it is one of `whos`."""

    account: str
    partition: str
    patterns: tuple[str, ...]
    whos: tuple[Who, ...]


_ARN = re.compile(r"arn:(aws[a-z-]*):(iam|sts)::(\d{12}):(.+)", re.DOTALL)


def role_to_ask_for(arn: str) -> str:
    """The name of the role whose session this is, "" for all others: the session's ARN says nothing of the role's path."""
    found = _ARN.fullmatch(arn)
    parts = found[4].split("/") if found else []
    return parts[1] if len(parts) == 3 and parts[0] == "assumed-role" else ""


def caller(arn: str, role_arn: str = "") -> Caller:
    """From what STS calls the caller, and what IAM calls its role if it told. Refused for what cannot own a bucket's data."""
    found = _ARN.fullmatch(arn)
    if not found:
        raise Refused(
            "the account and identity of these credentials are unknown, so a policy cannot name them;"
            " `migrate-v2 whoami` says what is known"
        )
    partition, _, account, rest = found.groups()
    iam = f"arn:{partition}:iam::{account}:"
    if rest == "root":
        return Caller(account, partition, (arn,), (Who("you (root)", Kind.ROOT, arn, account, arn),))
    if role := role_to_ask_for(arn):
        if role_arn and (not role_arn.startswith(f"{iam}role/") or role_arn.rpartition("/")[2] != role):
            raise Refused(f"IAM says that the role of {show(arn)} is {show(role_arn)}, which it cannot be")
        patterns: tuple[str, ...] = (literal(role_arn),)
        possible: tuple[str, ...] = (role_arn,)
        if not role_arn:
            # A role's name is unique in its account, whatever its path; only SSO makes roles under aws-reserved/.
            path = "aws-reserved/sso.amazonaws.com/" if role.startswith("AWSReservedSSO_") else ""
            patterns = tuple(f"{iam}role/{path}{between}{literal(role)}" for between in ("", "*/"))
            possible = tuple(f"{iam}role/{path}{between}{role}" for between in ("", "some/path/"))
        return Caller(account, partition, patterns, tuple(Who("you", Kind.ROLE, arn, account, own) for own in possible))
    kind = {"user": Kind.USER, "federated-user": Kind.FEDERATED}.get(rest.partition("/")[0])
    if kind is None:
        raise Refused(f"{show(arn)} is neither a user nor a role nor root: no policy is made for it")
    return Caller(account, partition, (literal(arn),), (Who("you", kind, arn, account, arn),))


def literal(text: str) -> str:
    """A pattern that matches this text alone: paths of users and roles may hold wildcards."""
    return re.sub(r"[*?$]", lambda sign: f"${{{sign[0]}}}", text)


# -- the policies of this program


def restrict(bucket: str, of: Caller, owner: str, *, hard: bool = False) -> str:
    """Nobody but the caller does anything in the bucket. The root of the owner, which is the last way back, and AWS
    services, which deliver logs and inventories, are left alone.

    A Deny, because an Allow takes nothing from whom IAM allows it; by aws:PrincipalArn, because names in a Principal turn
    into ids and die with the user. Not by aws:ViaAWSService: through Athena anybody would be in again.
    """
    actions: dict[str, object] = {"Action": "s3:*"} if hard else {"NotAction": list(WAY_BACK)}
    return _document(_deny(RESTRICT, actions, bucket, of, owner, services=True))


def freeze(bucket: str, of: Caller, owner: str, *, hard: bool = False) -> str:
    """Nobody but the caller and the owner's root changes anything in the bucket, nor what becomes of it (FROZEN).

    AWS services go on writing unless `hard`: a log that cannot be delivered is lost, and one that is delivered is found by
    the next listing. With `hard` nobody else may touch the policy either.
    """
    actions = {"Action": [*FROZEN, *(WAY_BACK[1:] if hard else ())]}
    return _document(_deny(FREEZE, actions, bucket, of, owner, services=not hard))


def _deny(
    sid: str, actions: Mapping[str, object], bucket: str, of: Caller, owner: str, *, services: bool
) -> dict[str, object]:
    left_in = dict.fromkeys((*of.patterns, f"arn:{of.partition}:iam::{owner}:root"))
    condition: dict[str, object] = {"ArnNotLike": {"aws:PrincipalArn": list(left_in)}}
    if services:
        # IfExists: nobody who asks unsigned has this key, and with plain Bool they would be let through.
        condition["BoolIfExists"] = {"aws:PrincipalIsAWSService": "false"}
    arn = f"arn:{of.partition}:s3:::{bucket}"
    return {
        "Sid": sid,
        "Effect": "Deny",
        "Principal": "*",
        **actions,
        "Resource": [arn, f"{arn}/*"],
        "Condition": condition,
    }


def _document(statement: Mapping[str, object]) -> str:
    return pretty(json.dumps({"Version": "2012-10-17", "Statement": [statement]}))


def filled(template: str, bucket: str, of: Caller, owner: str) -> str:
    """The template with its placeholders filled in; the text "<CALLER>" stands for one entry or more of its list."""
    plain = {"<BUCKET>": bucket, "<OWNER>": owner, "<PARTITION>": of.partition}

    def fill(value: object) -> object:
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        if isinstance(value, list):
            made = list(chain.from_iterable(of.patterns if one == "<CALLER>" else (fill(one),) for one in value))
            return [one for at, one in enumerate(made) if one not in made[:at]]
        if value == "<CALLER>":
            return of.patterns[0] if len(of.patterns) == 1 else list(of.patterns)
        if isinstance(value, str):
            for name, text in plain.items():
                value = value.replace(name, text)
            if "<CALLER>" in value:
                raise Malformed("<CALLER> stands alone in a text of its own")
        return value

    try:
        document = json.loads(template, object_pairs_hook=_without_duplicates)
    except ValueError as error:
        raise Malformed(show(str(error))) from error
    text = pretty(json.dumps(fill(document), ensure_ascii=False))
    parse(text)
    return text


# -- what a policy says to a request


class Verdict(StrEnum):
    ALLOWED = "allowed"  # by the bucket policy itself
    OWN = "as IAM says"  # the bucket policy leaves it to the policies of the account that asks
    NOTHING = "no"  # nothing allows it
    DENIED = "denied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why it cannot be told. `strange`: because this program does not understand it, not because it lacks a fact."""

    why: str
    strange: bool = False


Maybe = bool | Unknown


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a bucket of `owner`. `context` has keys in lower case; a key in it with () is known to be absent, and so
    is every key that is not in it if `closed`."""

    who: Who
    action: str
    resource: str
    owner: str
    context: Mapping[str, tuple[str, ...]]
    closed: bool = False

    def values(self, key: str) -> tuple[str, ...] | Unknown:
        found = self.context.get(key.lower())
        if found is None and not self.closed:
            return Unknown(f"{show(key)} is not known here")
        return found or ()


def request(who: Who, action: str, resource: str, owner: str, *, secure: bool = True) -> Request:
    """With the keys whose values follow from who asks; what else a request may bring along is not known."""
    service = who.kind is Kind.SERVICE
    signed = who.kind is not Kind.ANONYMOUS
    context: dict[str, tuple[str, ...]] = {
        "aws:principalisawsservice": (str(service).lower(),) if signed else (),
        "aws:viaawsservice": ("false",),
        "aws:securetransport": (str(secure).lower(),),
        "aws:resourceaccount": (owner,),
        "s3:resourceaccount": (owner,),
        "aws:calledvia": (),
        "aws:calledviafirst": (),
        "aws:calledvialast": (),
        "aws:principalservicename": (who.service,) if service else (),
        "aws:username": (who.arn.rpartition("/")[2],) if who.kind is Kind.USER else (),
    }
    if not service:
        context |= {
            "aws:principalarn": (who.principal_arn,) if who.principal_arn else (),
            "aws:principalaccount": (who.account,) if who.account else (),
            "aws:principaltype": (who.kind.value,),
            "aws:principalservicenameslist": (),
            "aws:sourcearn": (),
            "aws:sourceaccount": (),
        }
    else:  # what a service calls itself beside its name is not documented
        context["aws:principalarn"] = ()
    if not signed:
        context |= dict.fromkeys(("aws:userid", "aws:principalorgid", "aws:principalorgpaths"), ())
    return Request(who, action, resource, owner, context)


@dataclass(frozen=True, slots=True)
class Answer:
    """`unknown` has the statements of which it cannot be told whether they apply, where that makes it unknown; `beneath` is
    the answer if of the Denies among them none does."""

    verdict: Verdict
    beneath: Verdict
    unknown: tuple[tuple[Statement, Unknown], ...] = ()


def evaluate(policy: Policy | None, asked: Request) -> Answer:
    """By AWS's rules (IAM guide, "Policy evaluation logic"): an explicit Deny, else an Allow, else what IAM allows within
    the owner's account, else nothing. IAM policies, boundaries and Organizations are outside of it, and so are ACLs."""
    same_account = asked.who.account == asked.owner and asked.who.account != ""
    variables = policy is not None and policy.version == "2012-10-17"
    found = [(s, _applies(s, asked, variables)) for s in (policy.statements if policy else ())]
    denying = [(s, part) for s, part in found if s.denies]
    allowing = [(s, part) for s, part in found if not s.denies]
    direct = [part for s, part in allowing if not _names_the_account_only(s, asked.who)]
    beneath = Verdict.OWN if same_account else Verdict.NOTHING
    for parts, verdict in ((direct, Verdict.ALLOWED), ([part for _, part in allowing], Verdict.OWN)):
        if True in parts:
            beneath = verdict
            break
        if not same_account and _unknown(allowing):
            beneath = Verdict.UNKNOWN
            break
    if any(part is True for _, part in denying):
        return Answer(Verdict.DENIED, beneath)
    if unknown := _unknown(denying):
        return Answer(Verdict.UNKNOWN, beneath, unknown + (_unknown(allowing) if beneath is Verdict.UNKNOWN else ()))
    return Answer(beneath, beneath, _unknown(allowing) if beneath is Verdict.UNKNOWN else ())


def _unknown(found: Iterable[tuple[Statement, Maybe]]) -> tuple[tuple[Statement, Unknown], ...]:
    return tuple((statement, part) for statement, part in found if isinstance(part, Unknown))


def _all(parts: Iterable[Maybe]) -> Maybe:
    return _first(parts, False)


def _any(parts: Iterable[Maybe]) -> Maybe:
    return _first(parts, True)


def _first(parts: Iterable[Maybe], decisive: bool) -> Maybe:
    """`decisive` if any is, else unknown if any is: a strange one before one that only lacks a fact."""
    unknown: Unknown | None = None
    for part in parts:
        if isinstance(part, Unknown):
            unknown = part if unknown is None or part.strange else unknown
        elif part is decisive:
            return decisive
    return unknown or not decisive


def _not(part: Maybe) -> Maybe:
    return part if isinstance(part, Unknown) else not part


def _applies(statement: Statement, asked: Request, variables: bool) -> Maybe:
    return _all(_parts(statement, asked, variables))


def _parts(statement: Statement, asked: Request, variables: bool) -> Iterator[Maybe]:
    if statement.strange:
        yield Unknown(statement.strange, strange=True)
    action = any(_glob(_plain_tokens(pattern.lower()), asked.action.lower()) for pattern in statement.actions)
    yield action is not statement.not_action
    resource = _any(_like(pattern, asked.resource, asked, variables) for pattern in statement.resources)
    yield _not(resource) if statement.not_resource else resource
    yield _not_principal(statement, asked.who) if statement.not_principal else _principal(statement, asked.who)
    yield from (_holds(condition, asked, variables) for condition in statement.conditions)


# Principals


def _principal(statement: Statement, who: Who) -> Maybe:
    return _any(_names(kind, name, who) for kind, name in statement.principals)


def _names(kind: str, name: str, who: Who) -> Maybe:
    if kind == "AWS":
        return name == "*" or (
            bool(who.account) and (_account(name) == who.account or name in (who.arn, who.principal_arn))
        )
    if kind == "Service":
        return who.kind is Kind.SERVICE and name == who.service
    if kind == "Federated":  # who comes by a provider has assumed a role before S3 sees him
        return False
    if kind == "CanonicalUser":
        return Unknown("whose canonical id it names is not known") if who.account else False
    return Unknown(f"a principal of the kind {show(kind)} is not known", strange=True)


def _account(name: str) -> str:
    """The account that this stands for: its number, or its root's ARN, which in a Principal means everybody in it."""
    found = re.fullmatch(r"(?:arn:aws[a-z-]*:iam::)?(\d{12})(?::root)?", name)
    return found[1] if found else ""


def _names_the_account_only(statement: Statement, who: Who) -> bool:
    """An Allow for an account hands on to its own IAM policies; for its root there are none."""
    if statement.not_principal or who.kind is Kind.ROOT:
        return False
    return not any(_names(kind, name, who) is not False and not _account(name) for kind, name in statement.principals)


def _not_principal(statement: Statement, who: Who) -> Maybe:
    """True where the statement is about `who`. Who is to be left out of it has to be named in full: the account, and the
    user; or the account, the role and its session (IAM guide, NotPrincipal). What half a name does is not established."""
    named = [_names(kind, name, who) for kind, name in statement.principals]
    found = _any(named)
    if found is not True or ("AWS", "*") in statement.principals:
        return _not(found)
    if who.kind in (Kind.ROOT, Kind.SERVICE):
        return False
    ids = {name for _, name in statement.principals}
    whole = any(_account(name) == who.account for name in ids) and {who.arn, who.principal_arn} <= ids
    return False if whole else Unknown("its NotPrincipal names only a part of what it takes", strange=True)


# Conditions

_SET_OPERATORS = ("forallvalues:", "foranyvalue:")
Test = Callable[[str, str, Request, bool], Maybe]


def _holds(condition: Condition, asked: Request, variables: bool) -> Maybe:
    operator = condition.operator.lower()
    of_set = next((prefix for prefix in _SET_OPERATORS if operator.startswith(prefix)), "")
    operator = operator.removeprefix(of_set)
    if_exists = operator.endswith("ifexists")
    operator = operator.removesuffix("ifexists")
    values = asked.values(condition.key)
    if operator == "null":
        if of_set or if_exists or not all(value.lower() in ("true", "false") for value in condition.values):
            return Unknown(f"{show(condition.operator)} is not understood", strange=True)
        if isinstance(values, Unknown):
            return values
        return any((value.lower() == "true") is (not values) for value in condition.values)
    test, negated = _TESTS.get(operator), operator in _NEGATED
    if test is None or not condition.values:
        return Unknown(f"{show(condition.operator)} is not understood", strange=True)
    if isinstance(values, Unknown):
        return values
    if not values:
        if of_set:
            return of_set == "forallvalues:"
        return negated or if_exists
    if len(values) > 1 and not of_set:
        return Unknown(f"{show(condition.key)} has several values", strange=True)

    def meets(value: str) -> Maybe:
        found = _any(test(wanted, value, asked, variables) for wanted in condition.values)
        return _not(found) if negated else found

    return (_any if of_set == "foranyvalue:" else _all)(meets(value) for value in values)


def _equals(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
    tokens = _tokens(wanted, asked, variables)
    # Without wildcards, * and ? stand for themselves.
    return tokens if isinstance(tokens, Unknown) else "".join(str(token) for token in tokens) == value


def _equals_in_any_case(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
    tokens = _tokens(wanted, asked, variables)
    return tokens if isinstance(tokens, Unknown) else "".join(map(str, tokens)).lower() == value.lower()


def _like(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
    tokens = _tokens(wanted, asked, variables)
    return tokens if isinstance(tokens, Unknown) else _glob(tokens, value)


def _arn_like(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
    """Each of the six parts for itself: a star does not reach over a colon, but in the last."""
    patterns, parts = _arn_parts(wanted), value.split(":", 5)
    if len(patterns) != 6 or len(parts) != 6:
        return False
    return _all(_like(pattern, part, asked, variables) for pattern, part in zip(patterns, parts, strict=True))


def _arn_parts(pattern: str) -> list[str]:
    """As split(":", 5), with the colons in ${...} left alone."""
    parts = [""]
    for piece in re.findall(r"\$\{[^}]*\}|:|[^:$]+|\$", pattern):
        if piece == ":" and len(parts) < 6:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def _bool(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
    texts = _equals(wanted.lower(), value.lower(), asked, variables)
    return texts if value.lower() in ("true", "false") else False


def _ip(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
    try:
        return ip_address(value) in ip_network(wanted, strict=False)
    except ValueError:
        return Unknown(f"{show(wanted)} or {show(value)} is no address", strange=True)


def _binary(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
    try:
        return base64.b64decode(wanted, validate=True) == base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return Unknown(f"{show(wanted)} is not base64", strange=True)


def _number(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():
        raise ValueError(text)
    return number


def _moment(text: str) -> Decimal:
    """Seconds since 1970, or an ISO 8601 date."""
    if re.fullmatch(r"\d+", text):
        return Decimal(text)
    moment = datetime.fromisoformat(text)
    return Decimal(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())


def _measured(measure: Callable[[str], Decimal], compare: Callable[[Decimal, Decimal], bool]) -> Test:
    def test(wanted: str, value: str, asked: Request, variables: bool) -> Maybe:
        try:
            return compare(measure(value), measure(wanted))
        except (ValueError, InvalidOperation, OverflowError):
            return Unknown(f"{show(wanted)} or {show(value)} is no number or date", strange=True)

    return test


_COMPARISONS: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    "equals": lambda value, wanted: value == wanted,
    "notequals": lambda value, wanted: value == wanted,
    "lessthan": lambda value, wanted: value < wanted,
    "lessthanequals": lambda value, wanted: value <= wanted,
    "greaterthan": lambda value, wanted: value > wanted,
    "greaterthanequals": lambda value, wanted: value >= wanted,
}
# Those of _NEGATED are given as what they negate.
_TESTS: Mapping[str, Test] = {
    "stringequals": _equals,
    "stringnotequals": _equals,
    "stringequalsignorecase": _equals_in_any_case,
    "stringnotequalsignorecase": _equals_in_any_case,
    "stringlike": _like,
    "stringnotlike": _like,
    "arnequals": _arn_like,  # the two are one (IAM guide, "Condition operators")
    "arnnotequals": _arn_like,
    "arnlike": _arn_like,
    "arnnotlike": _arn_like,
    "bool": _bool,
    "binaryequals": _binary,
    "ipaddress": _ip,
    "notipaddress": _ip,
    **{f"numeric{name}": _measured(_number, compare) for name, compare in _COMPARISONS.items()},
    **{f"date{name}": _measured(_moment, compare) for name, compare in _COMPARISONS.items()},
}
_NEGATED = frozenset(name for name in _TESTS if "not" in name)

# Patterns


class _Wild(StrEnum):
    ANY = "*"
    ONE = "?"


def _plain_tokens(pattern: str) -> tuple[str, ...]:
    return tuple(_Wild(sign) if sign in "*?" else sign for sign in pattern)


def _tokens(pattern: str, asked: Request, variables: bool) -> tuple[str, ...] | Unknown:
    """The pattern by sign, wildcards as _Wild, variables filled in."""
    if not variables or "${" not in pattern:
        return _plain_tokens(pattern)
    tokens: list[str] = []
    for piece in re.findall(r"\$\{[^}]*\}|.", pattern, re.DOTALL):
        if len(piece) == 1:
            tokens.append(_Wild(piece) if piece in "*?" else piece)
            continue
        name = piece[2:-1]
        if name in ("*", "?", "$"):
            tokens.append(name)
            continue
        key, _, default = (part.strip() for part in name.partition(","))
        values = asked.values(key)
        if isinstance(values, Unknown):
            return values
        if len(values) == 1:
            tokens += values[0]
        elif not values and re.fullmatch("'.*'", default):
            tokens += default[1:-1]
        else:
            return Unknown(f"the variable {show(piece)} has no value", strange=True)
    return tuple(tokens)


def _glob(pattern: tuple[str, ...], text: str) -> bool:
    """In time that grows with the product of the lengths at worst, whatever the pattern."""
    at = place = 0
    star, resume = -1, 0
    while place < len(text):
        token = pattern[at] if at < len(pattern) else None
        if token is _Wild.ANY:
            star, resume = at, place
            at += 1
        elif token is _Wild.ONE or (token is not None and not isinstance(token, _Wild) and token == text[place]):
            at += 1
            place += 1
        elif star >= 0:
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return all(token is _Wild.ANY for token in pattern[at:])


# -- who can do what, before and after

# By what a person would call it: the actions, and whether they are asked of the objects.
DEEDS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "list": (("s3:ListBucket", "s3:ListBucketVersions"), False),
    "read": (("s3:GetObject", "s3:GetObjectVersion"), True),
    "restore": (("s3:RestoreObject",), True),
    "write": (("s3:PutObject",), True),
    "delete": (("s3:DeleteObject", "s3:DeleteObjectVersion"), True),
    "settings": (("s3:PutLifecycleConfiguration", "s3:PutBucketVersioning", "s3:DeleteBucket"), False),
    "policy": (WAY_BACK, False),
}
# What the program itself has to be able to do in the end.
_NEEDED = ("list", "read", "restore", "delete", "settings", "policy")
_STRANGERS = ("999999999999", "888888888888", "777777777777")


@dataclass(frozen=True, slots=True)
class Line:
    """What one party may do, before and after."""

    who: str
    deeds: tuple[str, ...]
    before: str
    after: str

    @property
    def changes(self) -> bool:
        return self.before != self.after


def parties(of: Caller, owner: str, texts: Iterable[str | None]) -> list[Who]:
    """You, root, another role, another account, nobody in particular, AWS services, and whom these policies name."""
    named = dict.fromkeys(
        principal
        for text in texts
        if text is not None
        for statement in parse(text).statements
        for principal in statement.principals
    )
    text = " ".join(filter(None, texts := list(texts)))
    stranger = next((account for account in _STRANGERS if account not in text and account != owner), _STRANGERS[0])
    role = next(name for name in ("another-role", "yet-another-role", "a-third-role") if f"role/{name}" not in text)
    iam, sts = (f"arn:{of.partition}:{service}::{{}}:".format for service in ("iam", "sts"))
    found = [
        *of.whos,
        Who("root of the owner", Kind.ROOT, iam(owner) + "root", owner, iam(owner) + "root"),
        Who("another role", Kind.ROLE, f"{sts(owner)}assumed-role/{role}/s", owner, f"{iam(owner)}role/{role}"),
        Who("another account", Kind.USER, f"{iam(stranger)}user/u", stranger, f"{iam(stranger)}user/u"),
        Who("anybody, unsigned", Kind.ANONYMOUS),
    ]
    services = [name for kind, name in named if kind == "Service"]
    found += [Who(name, Kind.SERVICE, service=name) for name in dict.fromkeys((*services, "logging.s3.amazonaws.com"))]
    for kind, name in named:
        who = _named(name) if kind == "AWS" else None
        if who and who.principal_arn not in {known.principal_arn for known in found}:
            found.append(who)
    return found


def _named(name: str) -> Who | None:
    if account := _account(name):
        return Who(name, Kind.ROOT, name, account, f"arn:aws:iam::{account}:root")
    match = _ARN.fullmatch(name)
    if not match:
        return None
    partition, service, account, rest = match.groups()
    kind, _, path = rest.partition("/")
    if kind == "user" and service == "iam":
        return Who(name, Kind.USER, name, account, name)
    if kind == "role" and service == "iam":
        session = f"arn:{partition}:sts::{account}:assumed-role/{path.rpartition('/')[2]}/s"
        return Who(name, Kind.ROLE, session, account, name)
    return None


def table(before: str | None, after: str | None, bucket: str, of: Caller, owner: str, *, secure: bool) -> list[Line]:
    """The deeds of each party by what becomes of them; of what differs from object to object it says "partly"."""
    old, new = (None if text is None else parse(text) for text in (before, after))
    lines = []
    for who in parties(of, owner, (before, after)):
        deeds: dict[tuple[str, str], list[str]] = {}
        for deed in DEEDS:
            asked = [ask for _, ask in _requests(deed, who, bucket, of.partition, owner, (old, new), secure)]
            said = [
                next(iter(verdicts)).value if len(verdicts) == 1 else "partly"
                for verdicts in ({evaluate(policy, ask).verdict for ask in asked} for policy in (old, new))
            ]
            deeds.setdefault((said[0], said[1]), []).append(deed)
        lines += [Line(who.name, tuple(names), was, then) for (was, then), names in deeds.items()]
    return list(dict.fromkeys(lines))


def _requests(
    deed: str, who: Who, bucket: str, partition: str, owner: str, policies: Iterable[Policy | None], secure: bool
) -> Iterator[tuple[str, Request]]:
    """The actions of a deed, asked of the bucket, or of an object and of one for each pattern that a policy has of objects."""
    arn = f"arn:{partition}:s3:::{bucket}"
    actions, of_objects = DEEDS[deed]
    resources = [arn]
    if of_objects:
        patterns = dict.fromkeys(
            pattern
            for policy in policies
            if policy
            for statement in policy.statements
            for pattern in statement.resources
        )
        samples = (re.sub(r"\$\{[^}]*\}", "x", pattern).replace("*", "x").replace("?", "x") for pattern in patterns)
        resources = [f"{arn}/an/object", *(sample for sample in samples if sample.startswith(f"{arn}/"))]
    for resource in dict.fromkeys(resources):
        for action in actions:
            yield action, request(who, action, resource, owner, secure=secure)


def locked_out(
    before: str | None, after: str | None, bucket: str, of: Caller, owner: str, *, secure: bool
) -> list[str]:
    """What the caller could not do any more, or what cannot be told to be still possible; [] is the proof that it is.

    What stays as unknown as it was is no reason, where it only lacks a fact: the same statement says the same as before. What
    this program does not understand is always one.
    """
    old, new = (None if text is None else parse(text) for text in (before, after))
    reasons: dict[str, None] = {}
    for who in of.whos:
        for deed in _NEEDED:
            for action, asked in _requests(deed, who, bucket, of.partition, owner, (old, new), secure):
                was, then = evaluate(old, asked), evaluate(new, asked)
                if reason := _worse(was, then, action):
                    reasons[reason] = None
    return list(reasons)


def _worse(was: Answer, then: Answer, action: str) -> str:
    """Why `then` is no answer to go on with, "" if it is one.

    | was     | then                 |                                                   |
    | any     | unknown              | refused, unless no more unknown than before       |
    | denied  | denied               | not our doing; but not of the way back            |
    | no      | no                   | likewise                                          |
    | any     | denied, no           | refused                                           |
    | allowed | as IAM says          | refused of the way back: it rests on what would go |
    | any     | allowed, as IAM says | fine                                              |
    """
    back = action in WAY_BACK
    for one in then.unknown:
        statement, unknown = one
        if unknown.strange or one not in was.unknown:
            return f"whether you could still {action} is unknown: {statement.name}: {unknown.why}"
    if then.verdict is Verdict.UNKNOWN and {s for s, _ in was.unknown if not s.denies} != {
        s for s, _ in then.unknown if not s.denies
    }:
        return f"whether you could still {action} is unknown: what may let you in would go"
    verdict = then.beneath if then.verdict is Verdict.UNKNOWN else then.verdict
    before = was.beneath if was.verdict is Verdict.UNKNOWN else was.verdict
    if verdict in (Verdict.DENIED, Verdict.NOTHING) and (back or before is not verdict):
        return f"you could not {action} any more"
    if back and before is Verdict.ALLOWED and verdict is Verdict.OWN:
        return f"your right to {action} rests on the policy that would be replaced: use --merge"
    return ""


def rests_on(before: str | None, after: str | None, bucket: str, of: Caller, owner: str, *, secure: bool) -> list[str]:
    """The deeds that the policy now allows the caller and then leaves to IAM: whether IAM allows them is not known here."""
    lines = table(before, after, bucket, of, owner, secure=secure)
    names = {who.name for who in of.whos}
    allowed, own = Verdict.ALLOWED.value, Verdict.OWN.value
    found = (line.deeds for line in lines if line.who in names and (line.before, line.after) == (allowed, own))
    return list(dict.fromkeys(chain.from_iterable(found)))
