"""A bucket's policy is changed only over an undo record that is on the disk already, and by who has shown to stay in."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from migrate_v2 import policy
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import PUBLIC_ACCESS_BLOCK, S3, Denied, PolicySetter, Unreachable
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Event, Noted, Warned
from migrate_v2.keys import show
from migrate_v2.policy import FREEZE, Caller, Line, Malformed

APPLY, FREEZING, BLOCK = "apply", "freeze", "public-access-block"
_UNDONE_BY = {APPLY: "policy rollback", FREEZING: "policy unfreeze"}
# S3 says that bucket configurations are eventually consistent: how often, and after how many seconds, to look again.
LOOKS, BETWEEN = 5, 1.0
_KEPT = 5  # changes that are over and still told of in the record


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that was changed: what was there before all else (None: nothing), letter by letter, and each value that
    was put over it, written down before it was sent."""

    what: str
    before: str | None
    put: tuple[str, ...]
    at: str
    undone: bool = False


@dataclass(frozen=True, slots=True)
class Undo:
    """What is to be put back in a bucket, the latest last."""

    bucket: str
    account: str
    endpoint: str
    changes: tuple[Change, ...] = ()

    def latest(self, *what: str) -> Change | None:
        """The last change of these that is not undone."""
        return next((c for c in reversed(self.changes) if not c.undone and c.what in what), None)


@dataclass(frozen=True, slots=True)
class Draft:
    """A change that may be made: what is `now`, what is `then`, and who may do what because of it.

    `block` is what block public access is now, where it is to be turned on. `locked_out`: why it must not be made.
    """

    what: str
    bucket: str
    owner: str
    now: str | None
    then: str
    lines: tuple[Line, ...]
    difference: tuple[str, ...]
    locked_out: tuple[str, ...]
    rests_on_iam: tuple[str, ...]
    blocks: bool = False
    block: tuple[str, ...] | None = None

    @property
    def changes(self) -> bool:
        return not policy.same(self.now, self.then) or (self.blocks and self.block != PUBLIC_ACCESS_BLOCK)


# -- the record


def record(bucket: str) -> str:
    return f"{bucket}.json"


def remembered(bucket: str, s3: S3, undo: Disk | None) -> Undo:
    """What there is to undo. Refused where the record is of another bucket by this name, or cannot be read."""
    s3.find(bucket)
    account, endpoint = s3.identity().account, s3.endpoint_of(bucket)
    text = undo.read_text(record(bucket), limit=4 << 20) if undo else None
    if undo is None or text is None:
        return Undo(bucket, account, endpoint)
    where = show(str(undo.base / record(bucket)))
    try:
        told = json.loads(text)
        changes = tuple(Change(**{**change, "put": tuple(change["put"])}) for change in told.pop("changes"))
        found = Undo(**told, changes=changes)
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"the undo record {where} is damaged: repair it, or move it away; nothing was changed") from error
    if (found.bucket, found.account, found.endpoint) != (bucket, account, endpoint):
        raise Refused(
            f"the undo record {where} is of {show(found.bucket)} at {show(found.endpoint)}, account {show(found.account)}:"
            " this is another bucket; name another state file"
        )
    return found


def _remember(found: Undo, undo: Disk) -> Undo:
    left_out = max(0, sum(change.undone for change in found.changes) - _KEPT)
    over = itertools.count()
    kept = replace(found, changes=tuple(c for c in found.changes if not c.undone or next(over) >= left_out))
    with undo.replace_text(record(found.bucket)) as file:
        json.dump(asdict(kept), file, indent=1)
    return kept


def _announced(found: Undo, what: str, before: str | None, put: str, undo: Disk) -> Undo:
    """Written down before it is put: over an open change of the same kind, so that what was first there stays in it."""
    if latest := found.latest(what):
        again = replace(latest, put=(*(text for text in latest.put if text != put), put))
        return _remember(_replaced(found, latest, again), undo)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return _remember(replace(found, changes=(*found.changes, Change(what, before, (put,), at))), undo)


def _replaced(found: Undo, one: Change, other: Change) -> Undo:
    return replace(found, changes=tuple(other if change is one else change for change in found.changes))


def _closed(found: Undo, change: Change, undo: Disk) -> Undo:
    return _remember(_replaced(found, change, replace(change, undone=True)), undo)


# -- what would be


def identify(s3: S3) -> Caller:
    """The caller as policies have to name it; IAM is asked where STS leaves the role's path out."""
    arn = s3.identity().arn
    role = policy.role_to_ask_for(arn)
    return policy.caller(arn, s3.role_arn(role) if role else "")


def draft(
    what: str,
    bucket: str,
    text: str,
    s3: S3,
    undo: Disk | None,
    of: Caller,
    owner: str,
    *,
    replaces: bool = False,
    blocks: bool = False,
) -> Draft:
    """What putting this document would do, merged with what is there or in its place. Asks, and changes nothing."""
    found = remembered(bucket, s3, undo)
    now = s3.policy(bucket)
    base = _base(what, found, now)
    then = policy.check_size(policy.compact(text) if replaces else policy.merged(base, text))
    if replaces and policy.has(base, FREEZE) and not policy.has(then, FREEZE):
        raise Refused(f"{show(bucket)} is frozen, and this would end it: `policy unfreeze` first, or use --merge")
    secure = s3.endpoint_of(bucket).startswith("https:")
    out = policy.locked_out(now, then, bucket, of, owner, secure=secure)
    return Draft(
        what=what,
        bucket=bucket,
        owner=owner,
        now=now,
        then=then,
        lines=tuple(policy.table(now, then, bucket, of, owner, secure=secure)),
        difference=tuple(policy.difference(now, then)),
        locked_out=tuple(out),
        rests_on_iam=tuple(policy.rests_on(now, then, bucket, of, owner, secure=secure)),
        blocks=blocks,
        block=s3.public_access_block(bucket) if blocks else None,
    )


def _base(what: str, found: Undo, now: str | None) -> str | None:
    """The policy to build on.

    | latest change    | what is there now     |                                      |
    | none, or another | anything              | what is there: this one comes on top |
    | the same         | what was put, or what was before it | what was before it     |
    | the same         | anything else         | refused: somebody has changed it     |
    | another, over an earlier one of the same |  | refused: the other has to go first |
    """
    latest = found.latest(APPLY, FREEZING)
    mine = found.latest(what)
    if mine is None:
        return now
    if latest is not mine:
        other = latest.what if latest else ""
        raise Refused(f"a {other} lies over the last {what} of {show(found.bucket)}: `{_UNDONE_BY[other]}` first")
    if not _ours(mine, now):
        raise Refused(
            f"somebody has changed the policy of {show(found.bucket)} since the last {what}: `{_UNDONE_BY[what]}` first"
        )
    return mine.before


def _ours(change: Change, now: str | None) -> bool:
    return any(policy.same(now, text) for text in (change.before, *change.put))


# -- making it so


def put(plan: Draft, setter: PolicySetter, undo: Disk) -> Iterator[Event]:
    """Makes the change of `plan`, or leaves everything as it was.

    The undo record comes first. Then the policy is put and read back, and what reads a bucket is tried; where any of it
    fails, what was there is put back at once. Killed in between, `policy rollback` (or `unfreeze`) does it.
    """
    bucket, s3 = plan.bucket, setter.s3
    if plan.locked_out:
        raise Refused(f"{'; '.join(plan.locked_out)}: nothing was changed")
    found = remembered(bucket, s3, undo)
    _base(plan.what, found, plan.now)
    before = s3.denials(bucket)
    if s3.policy(bucket) != plan.now:
        raise Refused(f"the policy of {show(bucket)} was changed meanwhile; nothing was done: run the same again")
    was_open = {what for what in (plan.what, BLOCK) if found.latest(what)}
    if plan.blocks:
        earlier = None if plan.block is None else json.dumps(plan.block)
        found = _announced(found, BLOCK, earlier, json.dumps(PUBLIC_ACCESS_BLOCK), undo)
    found = _announced(found, plan.what, plan.now, plan.then, undo)
    try:
        _set(setter, bucket, plan.then)
        if plan.blocks:
            setter.set_public_access_block(bucket, PUBLIC_ACCESS_BLOCK)
        _read_back(s3, plan)
        doubt = _still_in(s3, bucket, before)
    except BaseException as error:
        try:
            _put_back(setter, plan)
        except (Exception, KeyboardInterrupt) as worse:  # noqa: BLE001 - whatever it is, the way out has to be said
            where = show(str(undo.base / record(bucket)))
            raise Failure(
                f"{error or 'interrupted'}; and what was there before could not be put back ({worse or 'interrupted'}):"
                f" run `{_UNDONE_BY[plan.what]}`, or put it back by hand from {where}, as the account's root if need be"
            ) from error
        for what in {plan.what, *([BLOCK] if plan.blocks else [])} - was_open:
            if change := found.latest(what):
                found = _closed(found, change, undo)
        if isinstance(error, Failure):
            raise Failure(f"{error}; what was there before is there again") from error
        raise
    yield from (Warned(bucket, text) for text in doubt)
    yield Noted(bucket, f"done; `{_UNDONE_BY[plan.what]}` puts back what was there, from {undo.base / record(bucket)}")


def _set(setter: PolicySetter, bucket: str, text: str) -> None:
    try:
        setter.set_policy(bucket, text)
    except Denied as failure:
        raise Failure(f"{failure} (S3 says the same of a public policy where public policies are blocked)") from failure


def _read_back(s3: S3, plan: Draft) -> None:
    for look in range(LOOKS):
        if look:
            time.sleep(BETWEEN)
        now = s3.policy(plan.bucket)
        if policy.same(now, plan.then) and not (
            plan.blocks and s3.public_access_block(plan.bucket) != PUBLIC_ACCESS_BLOCK
        ):
            return
    raise Failure(f"{show(plan.bucket)} does not have what was put, {LOOKS} looks later")


def _still_in(s3: S3, bucket: str, before: dict[str, str]) -> list[str]:
    """Raises Failure where the caller is denied what it was not before; what is only doubtful it returns.

    At AWS several times, since a policy takes effect everywhere only after a while. Elsewhere a denial of objects alone,
    under the same Deny that listing passes, tells of a server that does not evaluate conditions: it is said.
    """
    doubt: list[str] = []
    for look in range(LOOKS if s3.at_aws else 1):
        if look:
            time.sleep(BETWEEN)
        for question, why in s3.denials(bucket).items():
            if question in before:
                continue
            if question == "read objects" and not s3.at_aws:
                doubt.append(
                    f"this endpoint now denies you to {question} ({why}); AWS would not: does it evaluate conditions?"
                    " `policy rollback` or `policy unfreeze` puts back what was there"
                )
                continue
            raise Failure(f"you could not {question} any more: {why}")
    return doubt


def _put_back(setter: PolicySetter, plan: Draft) -> None:
    """As it was before this call, which is not always as it was before the first one."""
    if plan.blocks:
        _restore_block(setter, plan.bucket, plan.block)
    _restore(setter, plan.bucket, plan.now)


def _restore_block(setter: PolicySetter, bucket: str, names: tuple[str, ...] | None) -> None:
    """Before the policy: a public one is not taken while public policies are blocked."""
    if setter.s3.public_access_block(bucket) != names:
        setter.set_public_access_block(bucket, names)
    if setter.s3.public_access_block(bucket) != names:
        raise Failure(f"block public access of {show(bucket)} is not what was put back")


def _restore(setter: PolicySetter, bucket: str, text: str | None) -> None:
    """Looked for first: who may not put has not put either."""
    for look in range(LOOKS):
        if look:
            time.sleep(BETWEEN)
        try:
            if _has_policy(setter.s3, bucket, text):
                return
            setter.set_policy(bucket, text)
            if _has_policy(setter.s3, bucket, text):
                return
        except Unreachable:
            if look == LOOKS - 1:
                raise
    raise Failure(f"{show(bucket)} does not have what was put back")


def _has_policy(s3: S3, bucket: str, text: str | None) -> bool:
    """An identity that may not read the policy may still be one that may put it."""
    try:
        now = s3.policy(bucket)
    except Denied:
        return False
    return now == text or (now is not None and policy.same(now, text))


def take_back(
    what: str, bucket: str, setter: PolicySetter, undo: Disk, consent: Callable[[str], None]
) -> Iterator[Event]:
    """Puts back what was there before the first change of this kind, letter by letter.

    `consent` is asked, and raises Refused, where somebody else has changed the policy since: that would be lost.
    """
    s3 = setter.s3
    found = remembered(bucket, s3, undo)
    latest, mine = found.latest(APPLY, FREEZING), found.latest(what)
    if mine is None:
        yield Noted(bucket, f"there is no {what} to undo")
        return
    if latest is not None and latest is not mine:
        raise Refused(f"a {latest.what} lies over the {what} of {show(bucket)}: `{_UNDONE_BY[latest.what]}` first")
    block = found.latest(BLOCK) if what == APPLY else None
    if not _ours(mine, s3.policy(bucket)):
        consent(f"somebody has changed the policy of {show(bucket)} since: putting back what was there undoes that too")
    if block is not None:
        _restore_block(setter, bucket, None if block.before is None else tuple(json.loads(block.before)))
        found = _closed(found, block, undo)
        yield Noted(bucket, "block public access is as it was")
    _restore(setter, bucket, mine.before)
    _closed(found, mine, undo)
    yield Noted(bucket, "the policy is as it was" if mine.before is not None else "there is no policy, as before")


# -- documents on the disk


def generate(bucket: str, of: Caller, owner: str, folder: Disk, *, hard: bool, template: str | None) -> Iterator[Event]:
    """Writes `<bucket>_policy.json`, for a person to look at and to change before it is applied."""
    if template is None:
        text = policy.restrict(bucket, of, owner, hard=hard)
    else:
        text = policy.filled(template, bucket, of, owner)
    policy.check_size(policy.compact(text))
    if reasons := policy.locked_out(None, text, bucket, of, owner, secure=True):
        raise Refused(f"{'; '.join(reasons)}: nothing was written")
    name = file_of(bucket)
    with folder.replace_text(name) as file:
        file.write(text)
    yield Noted(bucket, f"written to {folder.base / name}; next: `policy apply --dry-run {bucket}`")


def file_of(bucket: str) -> str:
    return f"{bucket}_policy.json"


def generated(bucket: str, folder: Disk) -> str:
    where = show(str(folder.base / file_of(bucket)))
    text = folder.read_text(file_of(bucket))
    if text is None:
        raise Failure(f"there is no {where}: `policy generate {show(bucket)}` writes it")
    try:
        policy.parse(text)
    except Malformed as failure:
        raise Malformed(f"{where}: {failure.args[0]}") from failure
    return text
