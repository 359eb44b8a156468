"""Whatever happens while a policy is changed: it is the new one, and the way back is on the disk, or it is the old one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from migrate_v2 import policy
from migrate_v2.edges.disk import Disk
from migrate_v2.edges.s3 import PUBLIC_ACCESS_BLOCK, S3, PolicySetter
from migrate_v2.errors import Failure, Refused
from migrate_v2.events import Event, Noted, Warned
from migrate_v2.steps import policy as step
from migrate_v2.steps.policy import APPLY, FREEZING, Draft
from tests.fakes.s3server import ACCOUNT, Request, S3Server

ROOT = f"arn:aws:iam::{ACCOUNT}:root"
# As somebody wrote it: what goes back has to be this, to the last blank.
ORIGINAL = '{ "Statement" : [{"Sid":"g\\u00fcn","Effect":"Allow","Principal":{"AWS":["' + ROOT + (
    '"]},"Action":["s3:GetObject"],\n "Resource":"arn:aws:s3:::b/*"}],"Version":"2012-10-17"}'
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "BETWEEN", 0.0)


@dataclass
class Desk:
    server: S3Server
    s3: S3
    undo: Disk

    @property
    def there(self) -> str | None:
        found = self.server.buckets["b"].settings.get("policy")
        return None if found is None else found.decode()

    @there.setter
    def there(self, text: str | None) -> None:
        settings = self.server.buckets["b"].settings
        settings.pop("policy", None)
        if text is not None:
            settings["policy"] = text.encode()

    @property
    def open(self) -> list[str]:
        return [c.what for c in step.remembered("b", self.s3, self.undo).changes if not c.undone]

    def document(self, what: str = APPLY) -> str:
        build = policy.restrict if what == APPLY else policy.freeze
        return build("b", step.identify(self.s3), ACCOUNT)

    def draft(self, what: str = APPLY, text: str | None = None, **more: Any) -> Draft:
        return step.draft(
            what, "b", text or self.document(what), self.s3, self.undo, step.identify(self.s3), ACCOUNT, **more
        )

    def put(self, what: str = APPLY, text: str | None = None, **more: Any) -> list[Event]:
        return list(step.put(self.draft(what, text, **more), PolicySetter(self.s3), self.undo))

    def back(self, what: str = APPLY, agreed: bool = False) -> list[Event]:
        def consent(why: str) -> None:
            if not agreed:
                raise Refused(why)

        return list(step.take_back(what, "b", PolicySetter(self.s3), self.undo, consent))


@pytest.fixture
def desk(server: S3Server, tmp_path: Path) -> Iterator[Desk]:
    server.bucket("b")
    server.put("b", "k", b"1")
    with Disk.open(tmp_path / "state.db.undo") as undo:
        yield Desk(server, S3(endpoint_url=server.url, region="us-east-1"), undo)


@pytest.mark.parametrize("original", [ORIGINAL, None], ids=["some", "none"])
@pytest.mark.parametrize("what", [APPLY, FREEZING])
def test_what_is_put_comes_off_again_to_the_letter(desk: Desk, original: str | None, what: str) -> None:
    desk.there = original
    desk.put(what)
    assert desk.there is not None
    assert desk.there != original
    assert policy.same(desk.there, policy.merged(original, desk.document(what)))
    assert desk.open == [what]
    desk.back(what)
    assert desk.there == original
    assert desk.open == []
    requests = len(desk.server.requests)
    assert desk.back(what) == [Noted("b", f"there is no {what} to undo")]
    assert desk.server.count("PutBucketPolicy") + desk.server.count("DeleteBucketPolicy") == 2
    assert len(desk.server.requests) - requests <= 1


def test_the_record_is_on_the_disk_before_anything_is_sent_and_nobody_else_reads_it(desk: Desk) -> None:
    desk.there = ORIGINAL
    seen: list[tuple[str, int]] = []

    def look(_: Request) -> None:
        path = desk.undo.base / "b.json"
        seen.append((json.loads(path.read_text())["changes"][0]["before"], path.stat().st_mode & 0o777))

    desk.server.fault({"op": "PutBucketPolicy"}, look)
    desk.put()
    assert seen == [(ORIGINAL, 0o600)]
    assert desk.undo.base.stat().st_mode & 0o777 == 0o700


def test_a_second_apply_leaves_the_first_original_to_be_put_back(desk: Desk) -> None:
    desk.there = ORIGINAL
    desk.put(text=desk.document().replace(policy.RESTRICT, "mine"))
    assert policy.has(desk.there, "mine")
    desk.put(text=policy.restrict("b", step.identify(desk.s3), ACCOUNT, hard=True))
    assert not policy.has(desk.there, "mine")
    assert policy.has(desk.there, "gün"), "it is merged with the original, not with the first one of ours"
    desk.put(replaces=True)
    assert not policy.has(desk.there, "gün")
    desk.back()
    assert desk.there == ORIGINAL


def test_what_is_there_already_is_no_change(desk: Desk) -> None:
    desk.put()
    assert not desk.draft().changes
    assert desk.draft(blocks=True).changes
    assert desk.draft(FREEZING).changes


def test_a_lock_out_is_refused_and_nothing_is_sent(desk: Desk) -> None:
    other = policy.caller(f"arn:aws:iam::{ACCOUNT}:user/other")
    plan = desk.draft(text=policy.restrict("b", other, ACCOUNT))
    assert plan.locked_out
    with pytest.raises(Refused, match="any more"):
        list(step.put(plan, PolicySetter(desk.s3), desk.undo))
    assert desk.there is None
    assert desk.server.count("PutBucketPolicy") == 0
    assert list(desk.undo.base.iterdir()) == []


# Through a lock-out that no evaluation sees

DENIALS = ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning", "s3:GetBucketPolicy"]


@pytest.mark.parametrize("action", DENIALS)
@pytest.mark.parametrize("original", [ORIGINAL, None], ids=["some", "none"])
def test_who_is_locked_out_all_the_same_is_back_at_once(desk: Desk, action: str, original: str | None) -> None:
    desk.there = original
    desk.server.fault({"op": "PutBucketPolicy"}, lambda _: desk.server.deny(action), times=1)
    if action == "s3:GetBucketPolicy":
        # It cannot be seen that it is back; the record stays open, and says so.
        with pytest.raises(Failure, match="could not be put back"):
            desk.put()
        assert desk.open == [APPLY]
    else:
        with pytest.raises(Failure, match="what was there before is there again"):
            desk.put()
        assert desk.open == []
    assert desk.there == original


def test_what_was_denied_before_is_no_reason(desk: Desk) -> None:
    for action in DENIALS[:3]:
        desk.server.deny(action)
    desk.put()
    assert desk.open == [APPLY]


def test_who_may_not_even_list_can_still_take_it_back(desk: Desk) -> None:
    desk.there = ORIGINAL
    desk.put()
    for action in DENIALS[:3]:
        desk.server.deny(action)
    desk.s3 = S3(endpoint_url=desk.server.url, region="us-east-1")
    desk.back()
    assert desk.there == ORIGINAL


def test_objects_alone_denied_are_told_of_elsewhere_and_undone_at_aws(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = desk.server.fault({"op": "PutBucketPolicy"}, lambda _: desk.server.deny("s3:GetObject"), times=1)
    events = desk.put()
    assert any(isinstance(event, Warned) and "denies you to read objects" in event.text for event in events)
    desk.back()
    desk.server.allow()
    desk.server.calm(fault)
    monkeypatch.setattr(S3, "at_aws", property(lambda _: True))
    monkeypatch.setattr(S3, "role_arn", lambda *_: "")
    desk.server.fault({"op": "PutBucketPolicy"}, lambda _: desk.server.deny("s3:GetObject"), times=1)
    with pytest.raises(Failure, match="could not read objects any more"):
        desk.put()
    assert desk.there is None


def test_what_was_not_put_as_it_was_sent_is_undone(desk: Desk) -> None:
    desk.there = ORIGINAL
    other = policy.freeze("b", step.identify(desk.s3), ACCOUNT)

    def swap(_: Request) -> None:
        if desk.there != ORIGINAL:
            desk.there = other

    desk.server.fault({"op": "GetBucketPolicy"}, swap, times=10)
    with pytest.raises(Failure, match="does not have what was put"):
        desk.put()
    assert desk.there == ORIGINAL


def test_a_put_that_is_denied_changes_nothing_and_leaves_nothing_to_undo(desk: Desk) -> None:
    desk.server.deny("s3:PutBucketPolicy")
    with pytest.raises(Failure, match="public policies are blocked"):
        desk.put()
    assert desk.there is None
    assert desk.open == []


def test_interrupted_in_the_middle_it_is_put_back_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.there = ORIGINAL
    ask = S3.denials

    def interrupted(self: S3, bucket: str) -> dict[str, str]:
        if desk.there != ORIGINAL:
            raise KeyboardInterrupt
        return ask(self, bucket)

    monkeypatch.setattr(S3, "denials", interrupted)
    with pytest.raises(KeyboardInterrupt):
        desk.put()
    assert desk.there == ORIGINAL
    assert desk.open == []


@pytest.mark.parametrize(
    ("kind", "original"),
    [
        ("503", None),
        ("access-denied", ORIGINAL),
        ("lost-reply", None),
        ("lost-reply", ORIGINAL),
        ("garbage-200", ORIGINAL),
    ],
)
def test_the_nth_request_fails_for_good_for_every_n(desk: Desk, kind: str, original: str | None) -> None:
    """The old one after a failure that says so, else one that rollback takes back; and rollback always ends with the old one."""
    n = 0
    while True:
        desk.there = original
        desk.s3.identity()
        desk.s3.region_of("b")
        plan = desk.draft(blocks=True)
        desk.server.calm()
        fault = desk.server.fault({}, kind, after=n, times=5)
        try:
            list(step.put(plan, PolicySetter(desk.s3), desk.undo))
            failed = False
        except Failure as failure:
            failed = True
            if "is there again" in str(failure):
                assert desk.there == original, n
                assert desk.open == [], n
        hits = fault.hits
        desk.server.calm()
        if desk.there != original:
            assert desk.open[-1] == APPLY, n
        desk.back()
        assert desk.there == original, n
        assert desk.s3.public_access_block("b") is None, n
        assert desk.open == []
        if not hits:
            assert not failed
            break
        n += 1
    assert n >= 12


# One over the other


@pytest.mark.parametrize(
    ("first", "second", "words"), [(APPLY, FREEZING, "policy unfreeze"), (FREEZING, APPLY, "policy rollback")]
)
def test_what_lies_on_top_comes_off_first(desk: Desk, first: str, second: str, words: str) -> None:
    desk.there = ORIGINAL
    desk.put(first)
    between = desk.there
    desk.put(second)
    both = desk.there
    assert policy.has(both, policy.RESTRICT)
    assert policy.has(both, policy.FREEZE)
    assert desk.open == [first, second]
    with pytest.raises(Refused, match=words):
        desk.back(first)
    with pytest.raises(Refused, match=words):
        desk.draft(first)
    assert desk.there == both
    desk.back(second)
    assert desk.there == between
    desk.back(first)
    assert desk.there == ORIGINAL


def test_replacing_does_not_thaw(desk: Desk) -> None:
    desk.put(FREEZING)
    with pytest.raises(Refused, match="frozen"):
        desk.draft(replaces=True)


def test_what_others_changed_meanwhile_is_not_lost_unasked(desk: Desk) -> None:
    desk.there = ORIGINAL
    desk.put()
    theirs = policy.merged(desk.there, '{"Version":"2012-10-17","Statement":[]}').replace("gün", "other")
    desk.there = theirs
    with pytest.raises(Refused, match="somebody has changed"):
        desk.draft()
    with pytest.raises(Refused, match="somebody has changed"):
        desk.back()
    assert desk.there == theirs
    desk.back(agreed=True)
    assert desk.there == ORIGINAL


def test_a_change_between_draft_and_put_is_seen(desk: Desk) -> None:
    plan = desk.draft()
    desk.there = ORIGINAL
    with pytest.raises(Refused, match="changed meanwhile"):
        list(step.put(plan, PolicySetter(desk.s3), desk.undo))
    assert desk.there == ORIGINAL
    assert desk.open == []


# Block public access


@pytest.mark.parametrize("before", [None, (), ("BlockPublicAcls", "RestrictPublicBuckets")])
def test_block_public_access_comes_off_as_it_was(desk: Desk, before: tuple[str, ...] | None) -> None:
    setter = PolicySetter(desk.s3)
    if before is not None:
        setter.set_public_access_block("b", before)
    desk.put(blocks=True)
    assert desk.s3.public_access_block("b") == PUBLIC_ACCESS_BLOCK
    desk.put(blocks=True)
    desk.back()
    assert desk.s3.public_access_block("b") == before
    assert desk.there is None


@pytest.mark.parametrize("fails", [False, True])
def test_a_public_policy_comes_back_under_a_block_of_public_policies(desk: Desk, fails: bool) -> None:
    """S3 takes none while BlockPublicPolicy is on: here, the right to put is gone as long."""
    desk.there = ORIGINAL
    desk.server.fault({"op": "PutPublicAccessBlock"}, lambda _: desk.server.deny("s3:PutBucketPolicy"))
    desk.server.fault({"op": "DeletePublicAccessBlock"}, lambda _: desk.server.allow())
    if fails:
        fault = desk.server.fault({"op": "ListObjectVersions"}, "access-denied", after=1)
        with pytest.raises(Failure, match="is there again"):
            desk.put(blocks=True)
        assert fault.hits
    else:
        desk.put(blocks=True)
        desk.back()
    assert desk.there == ORIGINAL
    assert desk.s3.public_access_block("b") is None
    assert desk.open == []


def test_without_the_right_to_block_nothing_is_changed(desk: Desk) -> None:
    desk.server.deny("s3:PutBucketPublicAccessBlock")
    with pytest.raises(Failure, match="is there again"):
        desk.put(blocks=True)
    assert desk.there is None


# The record


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"bucket": "b"}', '{"bucket": "b", "changes": [{"what": 1}]}'])
def test_a_damaged_record_is_never_written_over(desk: Desk, text: str) -> None:
    (desk.undo.base / "b.json").write_text(text)
    for act in (desk.put, desk.back):
        with pytest.raises(Refused, match="damaged"):
            act()
    assert (desk.undo.base / "b.json").read_text() == text
    assert desk.there is None


def test_a_record_of_another_endpoint_is_not_for_this_bucket(desk: Desk) -> None:
    desk.put()
    path = desk.undo.base / "b.json"
    path.write_text(path.read_text().replace(desk.server.url, "http://127.0.0.1:1"))
    there = desk.there
    for act in (desk.put, desk.back):
        with pytest.raises(Refused, match="another bucket"):
            act()
    assert desk.there == there


def test_the_record_does_not_grow_for_ever(desk: Desk) -> None:
    for _ in range(8):
        desk.put()
        desk.back()
    desk.put()
    assert [change.undone for change in step.remembered("b", desk.s3, desk.undo).changes] == [True] * 5 + [False]


# Who, and documents


def test_a_role_is_named_without_its_path_where_iam_is_not_there(desk: Desk) -> None:
    desk.server.identities["AKIAFAKEFAKEFAKEFAKE"] = (ACCOUNT, f"arn:aws:sts::{ACCOUNT}:assumed-role/Ops/me")
    assert step.identify(desk.s3).patterns == (
        f"arn:aws:iam::{ACCOUNT}:role/Ops",
        f"arn:aws:iam::{ACCOUNT}:role/*/Ops",
    )


def test_an_unknown_account_gets_no_policy(desk: Desk) -> None:
    desk.server.sts = False
    with pytest.raises(Refused, match="whoami"):
        step.identify(desk.s3)


def test_what_is_generated_is_read_again(desk: Desk, tmp_path: Path) -> None:
    of = step.identify(desk.s3)
    template = (Path(__file__).parents[2] / "policies" / "template.json").read_text()
    with Disk.open(tmp_path / "policies") as folder:
        with pytest.raises(Failure, match="policy generate"):
            step.generated("b", folder)
        for given in (None, template):
            list(step.generate("b", of, ACCOUNT, folder, hard=False, template=given))
            assert policy.same(step.generated("b", folder), desk.document())
        (tmp_path / "policies" / "b_policy.json").write_text("{}")
        with pytest.raises(Failure, match=r"b_policy\.json: it has no Statement"):
            step.generated("b", folder)
        everybody = re.sub('"<CALLER>",', "", template)
        with pytest.raises(Refused, match="any more"):
            list(step.generate("b", of, ACCOUNT, folder, hard=False, template=everybody))


def test_a_draft_knows_whether_it_changes_anything(desk: Desk) -> None:
    plan = desk.draft()
    assert plan.changes
    assert not replace(plan, now=plan.then).changes
