"""Whatever S3 says of an object's content, and in whatever form, is recomputed from the bytes of a copy in one pass."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from awscrt import checksums as crt  # type: ignore[import-untyped]

from migrate_v2.answers import ETAGS_OF_NOTHING
from migrate_v2.model import EMPTY, SHA256_OF_NOTHING, Head, ObjectVersion, Witness

MD5_ETAG: Final = "md5-etag"
MULTIPART_ETAG: Final = "multipart-etag"
# HEAD said that exactly this version, by its ETag, has no bytes. As with EMPTY, the value is the SHA-256 of nothing, so that
# it matches one content only.
EMPTY_HEAD: Final = "empty-head"
CRC32: Final = "crc32"
CRC32C: Final = "crc32c"
CRC64NVME: Final = "crc64nvme"
MD5: Final = "md5"
SHA1: Final = "sha1"
SHA256: Final = "sha256"
SHA512: Final = "sha512"
XXHASH64: Final = "xxhash64"
XXHASH3: Final = "xxhash3"
XXHASH128: Final = "xxhash128"
# What S3 sent when the object was read a second time: its value is the SHA-256 of those bytes, in hex.
REFETCH: Final = "refetch"
COMPOSITE: Final = "-composite"  # after an algorithm: the checksum of its parts' checksums

ENOUGH_BITS = 64
MOST_PARTS = 10_000  # S3's limits: AWS, "Amazon S3 multipart upload limits"
LARGEST_PART = 5 << 30
MOST_GUESSES = 4  # each guess costs an MD5 of its own, about 0.75 GB/s


class Running(Protocol):
    """A digest being computed; digest() may be asked in between and disturbs nothing."""

    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, step: Callable[[memoryview, int], int], width: int) -> None:
        self._step = step
        self._width = width
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width, "big")


class _XxHash:
    def __init__(self, running: crt.XXHash) -> None:
        self._running = running

    def update(self, data: memoryview, /) -> None:
        self._running.update(bytes(data))  # awscrt 0.38 refuses anything but bytes here

    def digest(self) -> bytes:
        digest: bytes = self._running.finalize()
        return digest


# zlib's CRC-32 runs at twice the speed of awscrt's (6 and 3 GB/s).
_BEGIN: Mapping[str, Callable[[], Running]] = {
    CRC32: lambda: _Crc(zlib.crc32, 4),
    CRC32C: lambda: _Crc(crt.crc32c, 4),
    CRC64NVME: lambda: _Crc(crt.crc64nvme, 8),
    MD5: lambda: hashlib.md5(usedforsecurity=False),
    SHA1: lambda: hashlib.sha1(usedforsecurity=False),
    SHA256: hashlib.sha256,
    SHA512: hashlib.sha512,
    XXHASH64: lambda: _XxHash(crt.XXHash.new_xxhash64()),
    XXHASH3: lambda: _XxHash(crt.XXHash.new_xxhash3_64()),
    XXHASH128: lambda: _XxHash(crt.XXHash.new_xxhash3_128()),
}
_ALGORITHM_BITS = {algorithm: len(begin().digest()) * 8 for algorithm, begin in _BEGIN.items()}

ALGORITHMS = frozenset(_BEGIN)  # S3's names in lower case

# The algorithm behind each kind, for those that read the object as one and those that read it in parts.
_WHOLE = {MD5_ETAG: MD5, EMPTY: SHA256, EMPTY_HEAD: SHA256, REFETCH: SHA256} | {
    algorithm: algorithm for algorithm in _BEGIN
}
_PARTED = {MULTIPART_ETAG: MD5} | {algorithm + COMPOSITE: algorithm for algorithm in _BEGIN}
_ALGORITHM = _WHOLE | _PARTED
_KINDS = {algorithm: [kind for kind, its in _WHOLE.items() if its == algorithm] for algorithm in _BEGIN}

BITS: Mapping[str, int] = {kind: _ALGORITHM_BITS[algorithm] for kind, algorithm in _ALGORITHM.items()}

_NOTHING = {kind: Witness(kind, SHA256_OF_NOTHING, BITS[kind]) for kind in (EMPTY, EMPTY_HEAD)}

_IN_HEX = (MD5_ETAG, MULTIPART_ETAG, EMPTY, EMPTY_HEAD, REFETCH)
_ETAG = re.compile(r'"?([0-9a-fA-F]{32})(?:-([1-9][0-9]{0,4}))?"?')
_READABLE_ETAGS = ("", "AES256")  # with SSE-KMS, DSSE-KMS and SSE-C the ETag is no digest of the content

_MIB = 1 << 20
_USUAL_PARTS = (
    8 * _MIB,  # aws-cli, boto3
    5 * _MIB,  # rclone, several SDKs
    16 * _MIB,  # aws-cli for more than 10,000 parts of 8 MiB (it doubles), MinIO's client
    17_179_870,  # the S3 console: 160 GiB, the largest it takes, in 10,000 parts
    15 * _MIB,  # s3cmd
    10 * _MIB,  # s3fs
    64 * _MIB,  # Hadoop's S3A
    50 * _MIB,  # s5cmd
    32 * _MIB,
    100 * _MIB,
    128 * _MIB,
    25 * _MIB,
    20 * _MIB,
    *(_MIB << doubling for doubling in range(8, 13)),  # 256 MiB to 4 GiB
    200 * _MIB,
    500 * _MIB,
    LARGEST_PART,
)
# Below 5 MiB only the last part may be, so there is no 5,000,000 here.
_DECIMAL_PARTS = tuple(million * 1_000_000 for million in (8, 10, 16, 20, 25, 50, 64, 100, 128, 200, 250, 500, 1000))


def digest(algorithm: str, content: bytes) -> bytes:
    """Of ALGORITHMS."""
    running = _BEGIN[algorithm]()
    running.update(memoryview(content))
    return running.digest()


def refetched(sha256: str) -> Witness:
    """The witness that a second reading of the whole object is, of these bytes (SHA-256 in hex)."""
    return Witness(REFETCH, sha256, BITS[REFETCH])


def listed(version: ObjectVersion) -> tuple[Witness, ...]:
    """What the listing's ETag may say of the content, without asking S3 again.

    All guesses (not `certain`), for a listing tells neither the encryption nor the part sizes: a match proves, a
    mismatch says nothing. An object of size 0 with an ETag of nothing is the exception. A size of 0 with another ETag says
    nothing: a damaged index lists that for objects with bytes (Ceph).
    """
    empty = (_NOTHING[EMPTY],) if version.size == 0 and version.etag in ETAGS_OF_NOTHING else ()
    return (*empty, *_of_etag(version.etag, version.size, (), readable=False))


def usual_parts(size: int, count: int) -> bool:
    """Do the part sizes of the usual programs make up so many parts: is the ETag likely to be recomputed unasked?"""
    return bool(_equal(size, count, _USUAL_PARTS))


def headed(head: Head, part_sizes: Sequence[int] = (), part_count: int = 0) -> tuple[Witness, ...]:
    """What HEAD with ChecksumMode=ENABLED says of the content.

    `part_sizes` in bytes, from the first part on; fewer than there are parts will do: all but the last determine it,
    and else the others are guessed equal to the first. `part_count` is needed only where neither ETag nor checksum ends
    in "-N". Sizes that do not add up to the object are not believed, and the usual ones tried instead.
    """
    etag = _ETAG.fullmatch(head.etag)
    etag_count = int(etag[2]) if etag and etag[2] else 0
    count = part_count or etag_count or len(part_sizes)
    found: list[Witness] = []
    if head.encryption in _READABLE_ETAGS:
        found += _of_etag(head.etag, head.size, part_sizes, readable=True)
    for name, value in head.checksums.items():
        algorithm = name.lower()
        text, dash, suffix = value.partition("-")
        digest = _decoded(text)
        if algorithm not in _BEGIN or len(digest) * 8 != _ALGORITHM_BITS[algorithm]:
            continue
        composite = bool(dash) or head.checksum_type == "COMPOSITE"
        # GetObjectAttributes leaves "-N" out, and some servers the type as well: then it may be either.
        either = not (composite or head.checksum_type or algorithm == CRC64NVME) and etag_count > 0
        if not composite:
            found.append(Witness(algorithm, _written(algorithm, digest), BITS[algorithm], certain=not either))
        if composite or either:
            parts_in_value = (int(suffix) if suffix.isdecimal() else 0) if dash else count
            layouts, known = _layouts(head.size, parts_in_value, part_sizes)
            kind = algorithm + COMPOSITE
            for parts in layouts:
                found.append(Witness(kind, _written(kind, digest, parts), BITS[kind], parts, known and not either))
    if head.size == 0 and not _says_bytes(found):
        found.insert(0, _NOTHING[EMPTY_HEAD])
    return tuple(found)


def _says_bytes(witnesses: Sequence[Witness]) -> bool:
    """Whether a checksum is not that of nothing. ETags do not count: some servers give an empty object any ETag."""
    stated = [witness for witness in witnesses if witness.kind not in (MD5_ETAG, MULTIPART_ETAG)]
    return contradicted(stated, Reading(stated).finish())


def _of_etag(etag: str, size: int, part_sizes: Sequence[int], *, readable: bool) -> Iterator[Witness]:
    form = _ETAG.fullmatch(etag)
    if not form:
        return
    digest = bytes.fromhex(form[1])
    if form[2] is None:
        yield Witness(MD5_ETAG, _written(MD5_ETAG, digest), BITS[MD5_ETAG], certain=readable)
        return
    layouts, known = _layouts(size, int(form[2]), part_sizes)
    for parts in layouts:
        value = _written(MULTIPART_ETAG, digest, parts)
        yield Witness(MULTIPART_ETAG, value, BITS[MULTIPART_ETAG], parts, known and readable)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _written(kind: str, digest: bytes, parts: tuple[int, ...] = ()) -> str:
    """S3's own notation: hex for ETags, base64 for checksums; "-N" after what is made of N parts, as HEAD gives it."""
    text = digest.hex() if kind in _IN_HEX else base64.b64encode(digest).decode("ascii")
    return f"{text}-{len(parts)}" if parts else text


def _layouts(size: int, count: int, known: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """The ways in which `count` parts may make up `size` bytes, most likely first; True if there is no guess in it."""
    if not 1 <= count <= MOST_PARTS:
        return (), False
    first = tuple(known)
    rest = size - sum(first)
    if len(first) == count and rest == 0:
        return (first,), True
    # A last part of 0 bytes is not inferred: a server that ignores PartNumber gives the whole size for part 1.
    if len(first) == count - 1 and (rest > 0 or count == 1):
        return ((*first, rest),), True
    if first:
        alike = [parts for parts in _equal(size, count, first[:1]) if parts[: len(first)] == first]
        if alike:
            return tuple(alike), False
    even = -(-size // count)
    rounded = -(-even // _MIB) * _MIB  # rclone and others raise the part size by whole MiB when there are too many
    guesses = _equal(size, count, dict.fromkeys((*_USUAL_PARTS, rounded, *_DECIMAL_PARTS, even)))
    return tuple(guesses[:MOST_GUESSES]), False


def _equal(size: int, count: int, part_sizes: Iterable[int]) -> list[tuple[int, ...]]:
    return [
        (part,) * (count - 1) + (size - part * (count - 1),)
        for part in part_sizes
        if 0 < part <= LARGEST_PART and -(-size // part) == count
    ]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pass over the bytes gave: `sha256` in hex, `values` by kind and part sizes in S3's notation."""

    size: int
    sha256: str
    values: Mapping[tuple[str, tuple[int, ...]], str]


class _Parts:
    """One division of the object into parts, as far as the reading has come."""

    def __init__(self, algorithm: str, sizes: tuple[int, ...]) -> None:
        self.algorithm = algorithm
        self.sizes = sizes
        self.start = 0
        self.digests: list[bytes] = []

    @property
    def over(self) -> bool:
        return len(self.digests) == len(self.sizes)

    @property
    def end(self) -> int:
        return self.start + self.sizes[len(self.digests)]

    def close(self, digest: bytes) -> None:
        self.start = self.end
        self.digests.append(digest)


class Reading:
    """One pass over the bytes of an object, computing SHA-256 and all that `witnesses` need.

    A digest is begun once for every algorithm and first byte, and shared by all whose part begins there: the whole
    object with the first part of every layout, 16 MiB parts with every second of 8 MiB. Witnesses of a kind that is
    unknown here, or of a kind made of parts without their sizes, are ignored.
    """

    def __init__(self, witnesses: Iterable[Witness]) -> None:
        self._size = 0
        self._whole = {SHA256: _BEGIN[SHA256]()}
        self._parts: dict[tuple[str, tuple[int, ...]], _Parts] = {}
        for witness in witnesses:
            if witness.kind in _WHOLE and not witness.parts:
                algorithm = _WHOLE[witness.kind]
                self._whole.setdefault(algorithm, _BEGIN[algorithm]())
            elif witness.kind in _PARTED and witness.parts and min(witness.parts) >= 0:
                algorithm = _PARTED[witness.kind]
                self._parts.setdefault((algorithm, witness.parts), _Parts(algorithm, witness.parts))
        self._running = {(algorithm, 0): digest for algorithm, digest in self._whole.items()}
        self._turn()

    def update(self, block: bytes | bytearray | memoryview) -> None:
        """The next bytes, of any length. The block is free again on return."""
        view = memoryview(block).cast("B")
        done = 0
        while done < len(view):
            until = len(view) if self._cut is None else min(len(view), done + self._cut - self._size)
            for digest in self._running.values():
                digest.update(view[done:until])
            self._size += until - done
            done = until
            if self._size == self._cut:
                self._turn()

    def _turn(self) -> None:
        """Close the parts that end here, begin those that start here, and find the next place where one ends."""
        needed = {(algorithm, 0): digest for algorithm, digest in self._whole.items()}
        cuts = []
        for parts in self._parts.values():
            while not parts.over:
                place = parts.algorithm, parts.start
                if place not in self._running:
                    self._running[place] = _BEGIN[parts.algorithm]()
                if parts.end > self._size:
                    needed[place] = self._running[place]
                    cuts.append(parts.end)
                    break
                parts.close(self._running[place].digest())
        self._running = needed
        self._cut = min(cuts, default=None)

    def finish(self) -> Measured:
        values: dict[tuple[str, tuple[int, ...]], str] = {}
        digests = {algorithm: running.digest() for algorithm, running in self._whole.items()}
        for algorithm, digest in digests.items():
            for kind in _KINDS[algorithm]:
                values[kind, ()] = _written(kind, digest)
        for parts in self._parts.values():
            if not parts.over or parts.start != self._size:
                continue
            running = _BEGIN[parts.algorithm]()
            running.update(memoryview(b"".join(parts.digests)))
            for kind, algorithm in _PARTED.items():
                if algorithm == parts.algorithm:
                    values[kind, parts.sizes] = _written(kind, running.digest(), parts.sizes)
        return Measured(self._size, digests[SHA256].hex(), values)


def matched(witnesses: Iterable[Witness], measured: Measured) -> tuple[Witness, ...]:
    """The witnesses that say what was measured, strongest first."""
    agreeing = [
        witness
        for witness in witnesses
        if witness.kind in BITS
        and (not witness.parts or sum(witness.parts) == measured.size)
        and measured.values.get((witness.kind, witness.parts)) == witness.value
    ]
    return tuple(sorted(agreeing, key=lambda witness: (-BITS[witness.kind], not witness.certain)))


# matched                             | enough | because
# ------------------------------------|--------|------------------------------------------------
# nothing                             | no     | an absence proves nothing
# empty, empty-head                   | yes    | there is only one content of no bytes
# one of 64 bits or more              | yes    |
# crc32                               | no     | one random corruption in 2^32 keeps it
# crc32, crc32-composite              | no     | one algorithm, so not independent
# crc32-composite of two layouts      | no     | the same
# crc32, crc32c                       | yes    | two algorithms, 64 bits together
# a kind that is not known here       | no     | whatever bits it claims (a size would be one such)
def enough(matched: Sequence[Witness]) -> bool:
    """Whether what matched may stand as proof of the content: 64 bits, of one algorithm or of independent ones."""
    algorithms = {_ALGORITHM[witness.kind] for witness in matched if witness.kind in _ALGORITHM}
    return sum(_ALGORITHM_BITS[algorithm] for algorithm in algorithms) >= ENOUGH_BITS


# witness                                         | measured          | contradicted
# ------------------------------------------------|-------------------|-------------
# certain                                         | the same          | no
# certain                                         | another value     | yes
# certain, in parts                               | another size      | yes
# certain                                         | not computed      | no
# guessed (the ETag of a listing, usual parts)    | anything          | no
# none, or a kind that is not known here          | anything          | no
def contradicted(witnesses: Iterable[Witness], measured: Measured) -> bool:
    """Whether S3's own word says that these are not the bytes of the object. Ask `enough` first: it outranks this."""
    for witness in witnesses:
        if not witness.certain or witness.kind not in BITS:
            continue
        if witness.parts and sum(witness.parts) != measured.size:
            return True
        if measured.values.get((witness.kind, witness.parts), witness.value) != witness.value:
            return True
    return False


def unread(witnesses: Iterable[Witness], measured: Measured) -> tuple[Witness, ...]:
    """The witnesses that this reading has not decided, so that another one is needed for them."""
    return tuple(
        witness
        for witness in witnesses
        if (witness.kind, witness.parts) not in measured.values
        and (not witness.parts or sum(witness.parts) == measured.size)
        and witness.kind in BITS
    )
