"""The pure decisions, row by row of their tables; and that a proof cannot be had otherwise."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate_v2.checksums import BITS
from migrate_v2.model import (
    SHA256_OF_NOTHING,
    Counts,
    DeleteMarker,
    Digest,
    FileIdentity,
    FileState,
    Moment,
    ObjectVersion,
    Phase,
    Place,
    Proof,
    Row,
    Rules,
    Site,
    Verdict,
    Witness,
    doomed,
    elapsed,
    phase_of,
    prove,
    strong,
    why_kept,
)

WHEN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
VERSION = ObjectVersion("bucket", "a/key", "v1", 5, "5d41402abc4b2a76b9719d911017c592", "STANDARD", WHEN, True)
MD5 = Witness("md5-etag", "5d41402abc4b2a76b9719d911017c592", 128)
CRC32 = Witness("crc32", "NhCmhg==", 32)
CRC32C = Witness("crc32c", "mnG7TA==", 32)
IDENTITY = FileIdentity(1, 2, 5, 3, 4)
ROW = Row(
    VERSION,
    FileState.VERIFIED,
    Verdict.MATCH,
    "",
    Place.PLAIN,
    "bucket/a/key",
    "2cf24d",
    (MD5,),
    IDENTITY,
    False,
    "run",
    sealed=True,
)
RULES = Rules(null_settled=True)
ENABLED = Site("1", "https://s3", "bucket", "Enabled")
SUSPENDED = replace(ENABLED, versioning="Suspended")
NEVER = replace(ENABLED, versioning="")
NULL = replace(ROW, version=replace(VERSION, version_id="null"))


@pytest.mark.parametrize(
    ("counts", "phase"),
    [
        (Counts(), Phase.SCANNING),
        (Counts(to_fetch=1), Phase.SCANNING),
        (Counts(True, to_request=1, restoring=1, to_fetch=1), Phase.GLACIER_RESTORE),
        (Counts(True, restoring=1, to_fetch=1, to_verify=1), Phase.GLACIER_WAIT),
        (Counts(True, to_fetch=1, to_verify=1, verified=1), Phase.SYNCING),
        (Counts(True, fetch_errors=1, verified=1), Phase.SYNCING),
        (Counts(True, to_verify=1, verified=1), Phase.VERIFYING),
        (Counts(True, verify_errors=1, verified=1), Phase.VERIFYING),
        (Counts(True, verified=1), Phase.DELETING),
        (Counts(True, markers=1), Phase.DELETING),
        (Counts(True), Phase.COMPLETE),
    ],
)
def test_the_phase_is_the_first_step_not_earned(counts: Counts, phase: Phase) -> None:
    assert phase_of(counts) is phase


@pytest.mark.parametrize(
    ("witnesses", "enough"),
    [((), False), ((CRC32,), False), ((CRC32, CRC32), False), ((CRC32, CRC32C), True), ((MD5,), True)],
)
def test_64_bits_or_two_kinds(witnesses: tuple[Witness, ...], enough: bool) -> None:
    assert strong(witnesses) is enough


@pytest.mark.parametrize("state", [s for s in FileState if s is not FileState.VERIFIED])
@pytest.mark.parametrize("verdict", [None, *Verdict])
def test_p1_only_a_verified_match_goes(state: FileState, verdict: Verdict | None) -> None:
    assert why_kept(replace(ROW, state=state, verdict=verdict), ENABLED, RULES)


@pytest.mark.parametrize(
    ("row", "site", "goes"),
    [
        (ROW, ENABLED, True),
        (ROW, SUSPENDED, True),
        (NULL, ENABLED, True),
        (NULL, NEVER, True),
        (NULL, SUSPENDED, True),
        (replace(NULL, version=replace(NULL.version, is_latest=False)), SUSPENDED, False),
        (replace(NULL, version=replace(NULL.version, is_latest=False)), ENABLED, True),
        (replace(NULL, version=replace(NULL.version, etag="")), NEVER, False),
        (replace(ROW, verdict=Verdict.UNPROVABLE), ENABLED, False),
        (replace(ROW, verdict=None), ENABLED, False),
        (replace(ROW, witnesses=()), ENABLED, False),
        (replace(ROW, witnesses=(CRC32,)), ENABLED, False),
        (replace(ROW, sha256=""), ENABLED, False),
        (ROW, replace(ENABLED, mfa_delete=True), False),
        (replace(ROW, linked="/elsewhere/a"), ENABLED, False),
    ],
)
def test_p2_what_goes_has_an_identity_that_cannot_move(row: Row, site: Site, goes: bool) -> None:
    assert (why_kept(row, site, RULES) is None) is goes


@pytest.mark.parametrize(
    ("row", "identity", "run", "proved"),
    [
        (ROW, IDENTITY, "run", True),
        (ROW, None, "run", False),
        (ROW, replace(IDENTITY, mtime_ns=9), "run", False),
        (ROW, replace(IDENTITY, inode=9), "run", False),
        (ROW, replace(IDENTITY, ctime_ns=9), "run", False),
        (ROW, IDENTITY, "another run", False),
        (replace(ROW, read_run=""), IDENTITY, "", False),
        (replace(ROW, identity=replace(IDENTITY, size=6)), replace(IDENTITY, size=6), "run", False),
        (replace(ROW, place=Place.FOLDER), None, "run", False),
        (replace(ROW, sealed=False), IDENTITY, "run", False),
        (replace(ROW, hold="a legal hold is on it"), IDENTITY, "run", False),
        (replace(ROW, version=replace(VERSION, bucket="other")), IDENTITY, "run", False),
    ],
)
def test_p1_a_proof_needs_this_run_s_reading_of_this_very_file(
    row: Row, identity: FileIdentity | None, run: str, proved: bool
) -> None:
    assert isinstance(prove(row, ENABLED, run, RULES, identity=identity), Proof) is proved


@pytest.mark.parametrize(
    ("etag", "kinds", "proved"),
    [
        ("d41d8cd98f00b204e9800998ecf8427e", ("empty", "md5-etag"), True),
        ("59adb24ef3cdbe0297f05b395827453f-1", ("empty",), True),
        ("d41d8cd98f00b204e9800998ecf8427e", (), False),
        ("0" * 32, ("empty",), False),  # only the listing says that it has no bytes
        ("0" * 32, ("empty-head",), True),
        ("0" * 32, ("empty", "empty-head"), True),
        ("0" * 32, ("refetch",), True),
        ("0" * 32, ("crc64nvme",), True),
    ],
)
@pytest.mark.parametrize("place", [Place.FOLDER, Place.PLAIN, Place.SIDE])
def test_object_without_bytes_needs_more_than_a_listed_size(
    etag: str, kinds: tuple[str, ...], proved: bool, place: Place
) -> None:
    identity = None if place is Place.FOLDER else replace(IDENTITY, size=0)
    witnesses = tuple(Witness(kind, "x", BITS[kind]) for kind in kinds)
    version = replace(VERSION, key="dir/", size=0, etag=etag)
    row = replace(ROW, version=version, place=place, identity=identity, sha256=SHA256_OF_NOTHING, witnesses=witnesses)
    assert isinstance(prove(row, ENABLED, "run", RULES, identity=identity), Proof) is proved
    assert (why_kept(row, ENABLED, RULES) is None) is proved


def test_folder_is_no_proof_of_other_content() -> None:
    version = replace(VERSION, key="dir/", size=0)
    row = replace(ROW, version=version, place=Place.FOLDER, identity=None)
    assert not isinstance(prove(row, ENABLED, "run", RULES), Proof)
    assert isinstance(prove(replace(row, sha256=SHA256_OF_NOTHING), ENABLED, "run", RULES), Proof)


@pytest.mark.parametrize(
    ("version_id", "site", "left", "proved"),
    [
        ("m1", ENABLED, 0, True),
        ("m1", ENABLED, 1, False),
        ("m1", SUSPENDED, 0, True),
        ("null", SUSPENDED, 0, False),
        ("null", ENABLED, 0, True),
        ("m1", replace(ENABLED, mfa_delete=True), 0, False),
    ],
)
def test_a_delete_marker_goes_when_nothing_is_left_beneath(
    version_id: str, site: Site, left: int, proved: bool
) -> None:
    marker = DeleteMarker("bucket", "k", version_id, True, WHEN)
    assert isinstance(prove(marker, site, "run", RULES, left_beneath=left), Proof) is proved


@pytest.mark.parametrize(
    ("row", "site", "conditional"),
    [(ROW, ENABLED, False), (NULL, NEVER, True), (NULL, SUSPENDED, True), (NULL, ENABLED, False)],
)
def test_p2_null_goes_by_if_match_unless_versioning_pins_it(row: Row, site: Site, conditional: bool) -> None:
    proof = prove(row, site, "run", RULES, identity=IDENTITY)
    assert isinstance(proof, Proof)
    assert proof.conditional is conditional


def test_nothing_but_prove_makes_a_proof() -> None:
    proof = prove(ROW, ENABLED, "run", RULES, identity=IDENTITY)
    assert isinstance(proof, Proof)
    fields = {f.name: getattr(proof, f.name) for f in dataclasses.fields(proof)}
    assert Proof(**fields) == proof
    with pytest.raises(TypeError, match="prove"):
        Proof(**fields | {"key": "another"})
    with pytest.raises(TypeError, match="prove"):
        replace(proof, version_id="v2")
    with pytest.raises(TypeError, match="prove"):
        Proof(**fields | {"seal": b""})
    with pytest.raises(dataclasses.FrozenInstanceError):
        proof.key = "another"  # type: ignore[misc]
    assert copy.copy(proof) == pickle.loads(pickle.dumps(proof)) == proof


def token(rows: list[Row], kept: list[tuple[str, str, str]], site: Site = ENABLED) -> str:
    digest = Digest(site, RULES)
    for row in rows:
        digest.deletes(doomed(row))
    for entry in kept:
        digest.keeps(*entry)
    return digest.token()


def test_p3_the_token_is_of_identities_and_hashes_and_not_of_times() -> None:
    same = token([ROW], [("k", "v", "why")])
    later = replace(
        ROW,
        read_run="later",
        identity=replace(IDENTITY, mtime_ns=99),
        version=replace(VERSION, last_modified=datetime.now(UTC)),
    )
    assert token([later], [("k", "v", "why")]) == same
    for other in (
        token([replace(ROW, sha256="00")], [("k", "v", "why")]),
        token([replace(ROW, version=replace(VERSION, etag="e"))], [("k", "v", "why")]),
        token([replace(ROW, version=replace(VERSION, version_id="v2"))], [("k", "v", "why")]),
        token([ROW, ROW], [("k", "v", "why")]),
        token([ROW], []),
        token([ROW], [("k", "v", "another reason")]),
        token([ROW], [("k", "v", "why")], NEVER),
        token([ROW], [("k", "v", "why")], replace(ENABLED, account="2")),
        token([ROW], [("k", "v", "why")], replace(ENABLED, endpoint="https://other")),
    ):
        assert other != same


@given(
    st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=4),
    st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=4),
)
def test_no_two_plans_run_together_into_one_token(a: list[tuple[str, str, str]], b: list[tuple[str, str, str]]) -> None:
    assert (token([], a) == token([], b)) is (a == b)


BOOT = Moment(WHEN, "boot", 1000.0)


@pytest.mark.parametrize(
    ("since", "now", "seconds"),
    [
        (BOOT, Moment(WHEN + timedelta(seconds=60), "boot", 1050.0), 50.0),
        (BOOT, Moment(WHEN + timedelta(seconds=40), "boot", 1050.0), 40.0),
        (BOOT, Moment(WHEN - timedelta(seconds=40), "boot", 1050.0), -40.0),
        (BOOT, Moment(WHEN + timedelta(days=9), "another boot", 1050.0), -1.0),
        (BOOT, Moment(None, "boot", 1050.0), 50.0),
        (replace(BOOT, date=None), Moment(WHEN, "boot", 1050.0), 50.0),
        (None, BOOT, -1.0),
    ],
)
def test_elapsed_is_by_the_clock_that_shows_fewer_seconds(since: Moment | None, now: Moment, seconds: float) -> None:
    assert elapsed(since, now) == seconds


@pytest.mark.parametrize("subject", [NULL, DeleteMarker("bucket", "k", "null", True, WHEN)])
def test_p2_null_is_not_proved_soon_after_versioning_was_turned_on(subject: Row | DeleteMarker) -> None:
    new = replace(RULES, null_settled=False)
    assert not isinstance(prove(subject, ENABLED, "run", new, identity=IDENTITY, left_beneath=0), Proof)
    assert isinstance(prove(subject, ENABLED, "run", RULES, identity=IDENTITY, left_beneath=0), Proof)


def test_seconds_are_those_of_last_modified() -> None:
    assert VERSION.seconds == WHEN.timestamp()
