"""Every form is held against published values, another implementation of it, and bytes that are almost the same."""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import pickle
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from botocore import httpchecksum
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate_v2 import checksums
from migrate_v2.checksums import (
    BITS,
    COMPOSITE,
    Measured,
    Reading,
    contradicted,
    enough,
    headed,
    listed,
    matched,
    unread,
)
from migrate_v2.model import Head, ObjectVersion, Witness, strong

MIB = 1 << 20
WHEN = datetime(2020, 1, 1, tzinfo=UTC)
MD5_OF_NOTHING = "d41d8cd98f00b204e9800998ecf8427e"


def a_version(size: int, etag: str) -> ObjectVersion:
    return ObjectVersion("b", "k", "null", size, etag, "STANDARD", WHEN, True)


def a_head(size: int, etag: str = "opaque", kind: str = "", encryption: str = "", **values: str) -> Head:
    return Head(etag, size, WHEN, "null", "STANDARD", values, kind, encryption, None, None)


def wanting(kind: str, parts: tuple[int, ...] = (), value: str = "") -> Witness:
    return Witness(kind, value, BITS.get(kind, 256), parts)


def read(witnesses: Sequence[Witness], *blocks: bytes) -> Measured:
    reading = Reading(witnesses)
    for block in blocks:
        reading.update(block)
    return reading.finish()


def value_of(kind: str, content: bytes, parts: tuple[int, ...] = ()) -> str:
    return read([wanting(kind, parts)], content).values[kind, parts]


# A second implementation, from the definitions.


def bitwise_crc(polynomial: int, width: int, content: bytes) -> bytes:
    """The reflected CRC with all ones before and after, bit by bit."""
    ones = (1 << width) - 1
    register = ones
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (polynomial if register & 1 else 0)
    return (register ^ ones).to_bytes(width // 8, "big")


def by_hashlib(name: str, content: bytes) -> bytes:
    return hashlib.new(name, content).digest()


OTHERWISE: dict[str, Callable[[bytes], bytes]] = {
    "crc32": lambda content: struct.pack(">I", binascii.crc32(content)),
    "crc32c": partial(bitwise_crc, 0x82F63B78, 32),
    "crc64nvme": partial(bitwise_crc, 0x9A6C9329AC4BC9B5, 64),
    **{name: partial(by_hashlib, name) for name in ("md5", "sha1", "sha256", "sha512")},
}
BY_SDK = vars(httpchecksum)["_CHECKSUM_CLS"]


def cut(content: bytes, sizes: Sequence[int]) -> list[bytes]:
    ends = list(itertools.accumulate(sizes))
    return [content[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def etag_of(hex_of_parts: Sequence[str]) -> str:
    return f"{hashlib.md5(bytes.fromhex(''.join(hex_of_parts))).hexdigest()}-{len(hex_of_parts)}"


def multipart_etag(content: bytes, sizes: Sequence[int]) -> str:
    return etag_of([hashlib.md5(part).hexdigest() for part in cut(content, sizes)])


def composite(algorithm: str, content: bytes, sizes: Sequence[int]) -> str:
    digest = OTHERWISE[algorithm]
    whole = digest(b"".join(digest(part) for part in cut(content, sizes)))
    return f"{base64.b64encode(whole).decode()}-{len(sizes)}"


def test_second_implementation_of_multipart_etags_gives_a_published_one() -> None:
    # teppen.io, "All about AWS S3 ETags"
    parts = ["bce6bf66aeb76c7040fdd5f4eccb78e6", "8165449fc15bbf43d3b674595cbcc406"]
    assert etag_of(parts) == "f77dc0eecdebcd774a2a22cb393ad2ff-2"


# Published: the catalogue of CRCs (check values), RFC 1321, FIPS 180, the xxHash repository.
PUBLISHED = [
    ("crc32", b"123456789", "cbf43926"),
    ("crc32c", b"123456789", "e3069283"),
    ("crc64nvme", b"123456789", "ae8b14860a799888"),
    ("md5", b"abc", "900150983cd24fb0d6963f7d28e17f72"),
    ("sha1", b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
    ("sha256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        "sha512",
        b"abc",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ),
    ("xxhash64", b"", "ef46db3751d8e999"),
    ("xxhash64", b"abc", "44bc2cf5ad770999"),
    ("xxhash3", b"", "2d06800538d394c2"),
    ("xxhash3", b"abc", "78af5f94892f3950"),
    ("xxhash128", b"", "99aa06d3014798d86001c324468d497f"),
    ("xxhash128", b"abc", "06b05ab6733a618578af5f94892f3950"),
]
ALGORITHMS = tuple(dict.fromkeys(algorithm for algorithm, _, _ in PUBLISHED))


@pytest.mark.parametrize(("algorithm", "content", "digest"), PUBLISHED)
def test_algorithm_gives_published_value(algorithm: str, content: bytes, digest: str) -> None:
    assert value_of(algorithm, content) == base64.b64encode(bytes.fromhex(digest)).decode()
    assert BITS[algorithm] == BITS[algorithm + COMPOSITE] == len(digest) * 4


def test_every_algorithm_that_the_sdk_knows_is_here() -> None:
    assert set(BY_SDK) <= set(ALGORITHMS)
    of_s3 = {"md5-etag", "multipart-etag", *ALGORITHMS, *(name + COMPOSITE for name in ALGORITHMS)}
    assert set(BITS) == {*of_s3, "empty", "empty-head", "refetch"}


@pytest.mark.parametrize("algorithm", sorted(BY_SDK))
@given(content=st.binary(max_size=300))
@settings(max_examples=20, deadline=None)
def test_sdk_computes_the_same(algorithm: str, content: bytes) -> None:
    its = BY_SDK[algorithm]()
    its.update(content)
    assert value_of(algorithm, content) == its.b64digest()


@given(content=st.binary(max_size=200))
@settings(max_examples=40, deadline=None)
def test_definitions_give_the_same(content: bytes) -> None:
    values = read([wanting(algorithm) for algorithm in OTHERWISE], content).values
    for algorithm, digest in OTHERWISE.items():
        assert values[algorithm, ()] == base64.b64encode(digest(content)).decode()
    assert value_of("md5-etag", content) == hashlib.md5(content).hexdigest()


layouts = st.lists(st.integers(0, 90), min_size=1, max_size=6).map(tuple)


@given(st.lists(layouts, min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_parts_in_any_number_of_layouts_at_once(many: list[tuple[int, ...]], chance: random.Random) -> None:
    content = chance.randbytes(max(map(sum, many)))
    kinds = ["multipart-etag", *(algorithm + COMPOSITE for algorithm in OTHERWISE)]
    wanted = [wanting(kind, parts) for kind in kinds for parts in many] + [wanting("md5-etag"), wanting("crc32c")]
    measured = read(wanted, content)
    for parts in many:
        if sum(parts) != len(content):
            assert not [kind for kind, sizes in measured.values if sizes == parts]
            continue
        assert measured.values["multipart-etag", parts] == multipart_etag(content, parts)
        for algorithm in OTHERWISE:
            assert measured.values[algorithm + COMPOSITE, parts] == composite(algorithm, content, parts)
    assert measured.values["md5-etag", ()] == hashlib.md5(content).hexdigest()


@given(st.lists(st.integers(0, 70), min_size=0, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_blocks_may_end_anywhere(blocks: list[int], chance: random.Random) -> None:
    content = chance.randbytes(sum(blocks))
    half = len(content) // 2
    wanted = [
        wanting(kind, (half, len(content) - half) if kind.endswith(("-composite", "t-etag")) else ()) for kind in BITS
    ]
    assert read(wanted, *cut(content, blocks)) == read(wanted, content)


def test_xxhash_of_parts_is_the_xxhash_of_their_digests() -> None:
    parts = (3, 4)
    for algorithm in ("xxhash64", "xxhash3", "xxhash128"):
        digests = [base64.b64decode(value_of(algorithm, part)) for part in (b"abc", b"defg")]
        assert value_of(algorithm + COMPOSITE, b"abcdefg", parts) == value_of(algorithm, b"".join(digests)) + "-2"


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b)).cast("H")])
def test_any_buffer_will_do_and_is_free_again(wrap: type) -> None:
    wanted = [wanting(kind) for kind in BITS if "-" not in kind]
    block = wrap(b"0123456789")
    reading = Reading(wanted)
    reading.update(block)
    if isinstance(block, bytearray):
        block.clear()  # raises BufferError while anything holds it
    reading.update(wrap(b""))
    assert reading.finish() == read(wanted, b"0123456789")


def test_one_buffer_filled_again_and_again_from_a_file(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(300_000)
    path = tmp_path / "copy"
    path.write_bytes(content)
    parts = (100_000, 70_000, 130_000)
    reading = Reading([wanting("multipart-etag", parts), wanting("crc64nvme")])
    buffer = bytearray(65_536)
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(buffer):
            reading.update(memoryview(buffer)[:length])
    measured = reading.finish()
    assert (measured.size, measured.sha256) == (300_000, hashlib.sha256(content).hexdigest())
    assert measured.values["multipart-etag", parts] == multipart_etag(content, parts)
    assert pickle.loads(pickle.dumps(measured)) == measured  # it may come back from a worker process
    assert reading.finish() == measured


# From S3's words to a verdict.


@pytest.mark.parametrize(
    ("size", "etag", "guessed"),
    [
        (9 * MIB, "0" * 32 + "-2", 8 * MIB),  # aws-cli, boto3
        (17_325_568, "c44bfa98b2c188777ed18cb9190e304b-2", 16 * MIB),  # tiemensfamily.com, "Amazon S3 ETag"
        (100_000 * MIB, "0" * 32 + "-6250", 16 * MIB),  # aws-cli doubled 8 MiB to stay below 10,000 parts
        (30 * MIB, "0" * 32 + "-2", 15 * MIB),  # s3cmd
        (99 * MIB, "0" * 32 + "-20", 5 * MIB),  # rclone
        (99 * 17_179_870 + 5, "0" * 32 + "-100", 17_179_870),  # the console
        (60 * MIB + 1, "0" * 32 + "-2", 50 * MIB),  # s5cmd
        (115 * MIB, "0" * 32 + "-10", 12 * MIB),  # by whole MiB
        (470_000_000, "0" * 32 + "-19", 25_000_000),
        (10_000 * 6_000_001 - 3, "0" * 32 + "-10000", 6_000_001),  # an equal split
        (7, "0" * 32 + "-1", 7),
        (5 << 40, "0" * 32 + "-1024", 5 << 30),
    ],
)
def test_usual_part_sizes_are_guessed(size: int, etag: str, guessed: int) -> None:
    witnesses = listed(a_version(size, etag))
    assert guessed in [witness.parts[0] for witness in witnesses]
    assert len(witnesses) <= 4
    for witness in witnesses:
        count = int(etag[33:])
        assert (sum(witness.parts), len(witness.parts)) == (size, count)
        assert len(set(witness.parts[:-1])) <= 1 and 0 < witness.parts[-1] <= witness.parts[0]
        assert (witness.kind, witness.value, witness.bits, witness.certain) == ("multipart-etag", etag, 128, False)


def test_most_likely_size_comes_first() -> None:
    assert listed(a_version(9 * MIB, "0" * 32 + "-2"))[0].parts == (8 * MIB, MIB)


@pytest.mark.parametrize(
    ("size", "etag"),
    [
        (5, ""),
        (5, "opaque"),
        (5, "0" * 31),
        (5, "0" * 32 + "-"),
        (5, "0" * 32 + "-0"),
        (5, "0" * 32 + "-6"),  # six parts of five bytes
        (100_000 * MIB, "0" * 32 + "-2"),  # parts above 5 GiB
        (10_001 * 8 * MIB, "0" * 32 + "-10001"),  # more parts than there can be
        (5, "0" * 32 + "-1\n"),
        (5, "g" * 32),
    ],
)
def test_etag_that_says_nothing(size: int, etag: str) -> None:
    assert listed(a_version(size, etag)) == ()


def test_listing_is_a_guess_that_a_match_confirms() -> None:
    content = random.Random(1).randbytes(9 * MIB)
    for etag in (hashlib.md5(content).hexdigest(), multipart_etag(content, (8 * MIB, MIB))):
        witnesses = listed(a_version(len(content), etag.upper()))
        assert witnesses and not any(witness.certain for witness in witnesses)
        assert enough(matched(witnesses, read(witnesses, content)))
        changed = read(witnesses, content[:-1], b"!")
        assert not enough(matched(witnesses, changed)) and not contradicted(witnesses, changed)


@pytest.mark.parametrize(
    ("etag", "kinds"),
    [
        (MD5_OF_NOTHING, {"empty", "md5-etag"}),
        (etag_of([MD5_OF_NOTHING]), {"empty", "multipart-etag"}),
        ("opaque", set()),
        ("0" * 32, set()),
        ("0" * 32 + "-1", set()),
        ("0" * 32 + "-2", set()),
        ("", set()),
    ],
)
def test_listed_size_of_zero_proves_nothing_without_an_etag_of_nothing(etag: str, kinds: set[str]) -> None:
    witnesses = listed(a_version(0, etag))
    assert {witness.kind for witness in matched(witnesses, read(witnesses))} == kinds
    assert enough(matched(witnesses, read(witnesses))) is bool(kinds)
    assert matched(witnesses, read(witnesses, b"x")) == ()
    assert contradicted(witnesses, read(witnesses, b"x")) is bool(kinds)


@pytest.mark.parametrize("etag", [MD5_OF_NOTHING, "opaque", "0" * 32, "0" * 32 + "-2"])
@pytest.mark.parametrize("encryption", ["", "aws:kms"])
def test_size_of_zero_by_head_proves_no_bytes(etag: str, encryption: str) -> None:
    witnesses = headed(a_head(0, etag, encryption=encryption, CRC64NVME="AAAAAAAAAAA="))
    assert matched(witnesses, read(witnesses))[0].kind == "empty-head"
    assert enough(matched(witnesses[:1], read(witnesses)))
    assert matched(witnesses, read(witnesses, b"x")) == () and contradicted(witnesses, read(witnesses, b"x"))


def test_size_of_zero_by_head_beside_a_checksum_of_bytes_proves_nothing() -> None:
    witnesses = headed(a_head(0, "opaque", encryption="aws:kms", CRC64NVME=value_of("crc64nvme", b"bytes")))
    assert matched(witnesses, read(witnesses)) == () and contradicted(witnesses, read(witnesses))


CONTENT = random.Random(2).randbytes(1000)
PARTS = (400, 350, 250)


@pytest.mark.parametrize("encryption", ["", "AES256", "aws:kms", "aws:kms:dsse", "SSE-C", "something new"])
def test_etag_is_a_witness_only_where_it_is_a_digest(encryption: str) -> None:
    single = headed(a_head(1000, hashlib.md5(CONTENT).hexdigest(), encryption=encryption))
    parted = headed(a_head(1000, multipart_etag(CONTENT, PARTS), encryption=encryption), PARTS)
    if encryption in ("", "AES256"):
        assert [(w.kind, w.parts, w.certain) for w in (*single, *parted)] == [
            ("md5-etag", (), True),
            ("multipart-etag", PARTS, True),
        ]
        assert enough(matched(single, read(single, CONTENT))) and enough(matched(parted, read(parted, CONTENT)))
    else:
        assert single == parted == ()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", ["FULL_OBJECT", ""])
def test_checksum_of_the_whole_object(algorithm: str, kind: str) -> None:
    value = value_of(algorithm, CONTENT)
    witnesses = headed(a_head(1000, kind=kind, encryption="SSE-C", **{algorithm.upper(): value}), PARTS)
    assert witnesses == (Witness(algorithm, value, BITS[algorithm]),)
    assert matched(witnesses, read(witnesses, CONTENT)) == witnesses
    assert contradicted(witnesses, read(witnesses, CONTENT[::-1]))


@pytest.mark.parametrize("algorithm", OTHERWISE)
@pytest.mark.parametrize(("kind", "suffix"), [("COMPOSITE", "-3"), ("", "-3"), ("COMPOSITE", "")])
def test_checksum_of_parts_by_head_and_by_attributes(algorithm: str, kind: str, suffix: str) -> None:
    value = composite(algorithm, CONTENT, PARTS)
    head = a_head(1000, kind=kind, **{algorithm.upper(): value.removesuffix("-3") + suffix})
    for witnesses in (headed(head, PARTS), headed(head, PARTS[:2], 3), headed(head, PARTS, 3)):
        assert witnesses == (Witness(algorithm + COMPOSITE, value, BITS[algorithm], PARTS),)
        assert matched(witnesses, read(witnesses, CONTENT)) == witnesses
        assert contradicted(witnesses, read(witnesses, CONTENT[::-1]))
        assert contradicted(witnesses, read(witnesses, CONTENT[:-1]))


def test_composite_without_part_sizes_is_guessed() -> None:
    content = random.Random(3).randbytes(9 * MIB)
    value = base64.b64encode(
        hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in cut(content, (8 * MIB, MIB)))).digest()
    ).decode()
    for head, count in [
        (a_head(9 * MIB, kind="COMPOSITE", SHA256=f"{value}-2"), 0),
        (a_head(9 * MIB, kind="COMPOSITE", SHA256=value), 2),
        (a_head(9 * MIB, "0" * 32 + "-2", "COMPOSITE", "aws:kms", SHA256=value), 0),
    ]:
        witnesses = headed(head, (), count)
        assert 1 < len(witnesses) <= 4 and not any(witness.certain for witness in witnesses)
        agreed = matched(witnesses, read(witnesses, content))
        assert [(w.kind, w.value, w.parts) for w in agreed] == [("sha256-composite", f"{value}-2", (8 * MIB, MIB))]
        assert enough(agreed)
    assert headed(a_head(9 * MIB, kind="COMPOSITE", SHA256=value)) == ()


@pytest.mark.parametrize(
    ("part_sizes", "parts", "certain"),
    [
        ((7 * MIB, 6 * MIB, 7 * MIB), (7 * MIB, 6 * MIB, 7 * MIB), True),
        ((7 * MIB, 6 * MIB), (7 * MIB, 6 * MIB, 7 * MIB), True),  # the last is what remains
        ((9 * MIB,), (9 * MIB, 9 * MIB, 2 * MIB), False),  # the first alone: the others may be like it
        ((8 * MIB, 8 * MIB, 8 * MIB), (8 * MIB, 8 * MIB, 4 * MIB), False),  # not this object: guessed
        ((20 * MIB,), (8 * MIB, 8 * MIB, 4 * MIB), False),  # a server that ignores PartNumber
        ((20 * MIB, 20 * MIB), (8 * MIB, 8 * MIB, 4 * MIB), False),
        ((), (8 * MIB, 8 * MIB, 4 * MIB), False),
    ],
)
def test_part_sizes_are_believed_as_far_as_they_fit(
    part_sizes: tuple[int, ...], parts: tuple[int, ...], certain: bool
) -> None:
    etag = "0" * 32 + "-3"
    witnesses = headed(a_head(20 * MIB, etag), part_sizes)
    assert witnesses[0] == Witness("multipart-etag", etag, 128, parts, certain)
    assert all(witness.certain == certain for witness in witnesses)


def test_part_sizes_that_fit_by_chance_are_not_believed() -> None:
    # The whole size for part 1 of two leaves 0 bytes for the other; 7 and 6 MiB cannot be followed by parts like the first.
    for etag, part_sizes in [("0" * 32 + "-2", (20 * MIB,)), ("0" * 32 + "-4", (7 * MIB, 6 * MIB))]:
        witnesses = headed(a_head(20 * MIB if len(part_sizes) == 1 else 26 * MIB, etag), part_sizes)
        assert witnesses and not any(w.certain or w.parts[: len(part_sizes)] == part_sizes for w in witnesses)
        assert witnesses == listed(a_version(sum(witnesses[0].parts), etag))


def test_one_part_needs_no_guess() -> None:
    for part_sizes in ((), (1000,)):
        (witness,) = headed(a_head(1000, multipart_etag(CONTENT, (1000,))), part_sizes)
        assert (witness.parts, witness.certain) == ((1000,), True)


def test_checksum_without_type_under_a_multipart_etag_may_be_either() -> None:
    etag = multipart_etag(CONTENT, PARTS)
    for value in (value_of("sha1", CONTENT), composite("sha1", CONTENT, PARTS).removesuffix("-3")):
        witnesses = [w for w in headed(a_head(1000, etag, SHA1=value), PARTS) if w.kind.startswith("sha1")]
        assert [w.certain for w in witnesses] == [False, False]
        assert enough(matched(witnesses, read(witnesses, CONTENT)))
        assert not contradicted(witnesses, read(witnesses, CONTENT))
    for kind, name in [("", "CRC64NVME"), ("FULL_OBJECT", "CRC32C")]:  # CRC64NVME is never composite
        head = a_head(1000, etag, kind, "aws:kms", **{name: value_of(name.lower(), CONTENT)})
        assert [(w.kind, w.certain) for w in headed(head, PARTS)] == [(name.lower(), True)]


@pytest.mark.parametrize(
    "values",
    [
        {"SHA3": value_of("sha256", CONTENT)},
        {"SHA256": ""},
        {"SHA256": "not base64"},
        {"SHA256": "!" + value_of("sha256", CONTENT)},
        {"SHA256": "ünlesbar"},
        {"SHA256": value_of("sha1", CONTENT)},
        {"SHA256": value_of("sha256", CONTENT) + "-x"},
        {"SHA256": value_of("sha256", CONTENT) + "-0"},
        {"SHA256": value_of("sha256", CONTENT) + "-99999"},
    ],
)
def test_value_that_is_none_is_no_witness(values: dict[str, str]) -> None:
    assert headed(a_head(1000, **values), PARTS) == ()


def test_kinds_unknown_here_are_passed_over() -> None:
    strange = [
        wanting("sha3", value="x"),
        wanting("multipart-etag"),
        wanting("sha1-composite", (-1, 1001)),
        wanting("sha1", (1000,)),
        wanting("size", value="1000"),
    ]
    measured = read(strange, CONTENT)
    assert matched(strange, measured) == () and not contradicted(strange, measured)
    assert {kind for kind, _ in measured.values} == {"sha256", "empty", "empty-head", "refetch"}


def test_strongest_comes_first() -> None:
    witnesses = [
        wanting(kind, (), value_of(kind, CONTENT)) for kind in ("crc32", "crc64nvme", "md5-etag", "sha512", "sha1")
    ]
    agreed = matched(witnesses, read(witnesses, CONTENT))
    assert [witness.kind for witness in agreed] == ["sha512", "sha1", "md5-etag", "crc64nvme", "crc32"]
    doubtful = replace(agreed[0], certain=False)
    assert matched([doubtful, agreed[0]], read(witnesses, CONTENT)) == (agreed[0], doubtful)


def test_measured_value_counts_only_for_its_size_and_kind() -> None:
    stray = Measured(999, "", {("multipart-etag", PARTS): IN_PARTS.value, ("size", ()): "999"})
    assert matched([IN_PARTS, wanting("size", value="999")], stray) == ()
    assert set(read([IN_PARTS], CONTENT[:400]).values) == {  # ends where part 1 does
        ("sha256", ()),
        ("empty", ()),
        ("empty-head", ()),
        ("refetch", ()),
    }


@pytest.mark.parametrize(
    ("kinds", "answer"),
    [
        ([], False),
        (["empty"], True),
        *(([kind], True) for kind in BITS if "crc32" not in kind),
        (["crc32"], False),
        (["crc32c"], False),
        (["crc32-composite"], False),
        (["crc32c-composite"], False),
        (["crc32", "crc32"], False),
        (["crc32", "crc32-composite"], False),
        (["crc32-composite", "crc32-composite"], False),
        (["crc32", "crc32c"], True),
        (["crc32-composite", "crc32c"], True),
        (["size"], False),
        (["size", "crc32"], False),
    ],
)
def test_enough(kinds: list[str], answer: bool) -> None:
    assert enough([wanting(kind) for kind in kinds]) is answer


SAME = wanting("md5-etag", (), hashlib.md5(CONTENT).hexdigest())
IN_PARTS = wanting("multipart-etag", PARTS, multipart_etag(CONTENT, PARTS))


@pytest.mark.parametrize(
    ("witnesses", "content", "answer"),
    [
        ([SAME], CONTENT, False),
        ([SAME], CONTENT[::-1], True),
        ([SAME], b"", True),
        ([IN_PARTS], CONTENT, False),
        ([IN_PARTS], CONTENT[::-1], True),
        ([IN_PARTS], CONTENT[:-1], True),
        ([IN_PARTS], CONTENT + b"x", True),
        ([IN_PARTS, SAME], CONTENT, False),
        ([SAME, replace(SAME, value="0" * 32)], CONTENT, True),
        ([replace(SAME, certain=False)], CONTENT[::-1], False),
        ([replace(IN_PARTS, certain=False)], CONTENT[::-1], False),
        ([replace(IN_PARTS, certain=False)], CONTENT[:-1], False),
        ([wanting("size", value="1")], CONTENT, False),
        ([wanting("sha3", PARTS)], CONTENT[:-1], False),
        ([], CONTENT, False),
    ],
)
def test_contradicted(witnesses: list[Witness], content: bytes, answer: bool) -> None:
    assert contradicted(witnesses, read(witnesses, content)) is answer


def test_what_was_not_computed_contradicts_nothing() -> None:
    assert not contradicted([replace(SAME, value="0" * 32)], read([], CONTENT))


def test_second_reading_of_s3_is_held_against_the_sha256_of_the_copy() -> None:
    witness = checksums.refetched(hashlib.sha256(CONTENT).hexdigest())
    assert (witness.kind, witness.bits, witness.parts) == ("refetch", 256, ())
    same, other = read([], CONTENT), read([], CONTENT[:-1] + b"?")
    assert matched([witness], same) == (witness,) and enough([witness]) and strong([witness])
    assert matched([witness], other) == () and contradicted([witness], other)
    assert unread([witness], same) == (), "every reading computes it"
    assert headed(a_head(1000, REFETCH="x")) == (), "no header of S3 is one"


def test_second_reading_is_only_for_what_the_first_left_open() -> None:
    first = read(listed(a_version(1000, SAME.value)), b"x" * 1000)
    head = a_head(1000, SAME.value, "FULL_OBJECT", SHA256=value_of("sha256", CONTENT))
    assert unread(headed(head), first) == () and contradicted(headed(head), first)  # decided by HEAD, without reading
    more = headed(a_head(1000, SAME.value, "FULL_OBJECT", CRC64NVME=value_of("crc64nvme", CONTENT)))
    assert [witness.kind for witness in unread(more, first)] == ["crc64nvme"]
    assert unread([wanting("size"), replace(IN_PARTS, parts=(999,))], first) == ()


def test_no_single_bit_goes_unnoticed() -> None:
    chance = random.Random(4)
    wanted = [wanting(kind, PARTS if kind in checksums._PARTED else ()) for kind in BITS if "empty" not in kind]
    truth = read(wanted, CONTENT).values
    witnesses = [replace(witness, value=truth[witness.kind, witness.parts]) for witness in wanted]
    assert len(matched(witnesses, read(witnesses, CONTENT))) == len(witnesses) == 23
    for _ in range(1000):
        bit = chance.randrange(8000)
        flipped = bytearray(CONTENT)
        flipped[bit // 8] ^= 1 << bit % 8
        measured = read(witnesses, bytes(flipped))
        agreed = matched(witnesses, measured)
        assert agreed == () and not enough(agreed)
        assert all(contradicted([witness], measured) for witness in witnesses)


@pytest.mark.parametrize(
    "content",
    [
        CONTENT[:-1],
        CONTENT + b"\0",
        CONTENT[400:] + CONTENT[:400],
        CONTENT[:400] + CONTENT[750:] + CONTENT[400:750],
        bytes(1000),
        b"",
        CONTENT[:400],
        CONTENT * 2,
    ],
)
def test_other_content_never_passes(content: bytes) -> None:
    wanted = [wanting(kind, PARTS if kind in checksums._PARTED else ()) for kind in BITS if "empty" not in kind]
    truth = read(wanted, CONTENT).values
    witnesses = [replace(witness, value=truth[witness.kind, witness.parts]) for witness in wanted]
    assert matched(witnesses, read(witnesses, content)) == ()
