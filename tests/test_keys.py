"""keys.py is right about the paths, lines and patterns of any key, by the word of the CLI's own code and of real files."""

from __future__ import annotations

import argparse
import codecs
import itertools
import os
import random
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from awscli.customizations.s3.filegenerator import FileStat  # type: ignore[import-untyped]
from awscli.customizations.s3.filters import create_filter  # type: ignore[import-untyped]
from awscli.customizations.s3.utils import AppendFilter  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from s3transfer.utils import OSUtils

from migrate_v2 import keys
from migrate_v2.keys import (
    STRUCTURAL,
    FileSystem,
    exclude_pattern,
    excludes,
    fold,
    key_of,
    looks_temporary,
    place,
    plain_path,
    show,
    side_path,
    unfit,
)
from migrate_v2.model import Place

EXT4 = FileSystem()
APFS = FileSystem(folds_case=True, normalises=True)
VFAT = FileSystem(folds_case=True, forbidden=frozenset('"*/:<>?\\|'.replace("/", "")))
ROOM = 3000

GOLDEN: list[str] = [
    # ordinary, and ordinary to nobody but S3
    "plain.txt",
    "dir/plain.txt",
    "a to b",
    "app.log.20240131",
    "con",
    "a:b",
    "back\\slash",
    "\\",
    "%",
    "%2e%2e/%2f",
    "100%",
    "sp ace/ in /the middle",
    "dir/ ",
    "trailing space ",
    " leading space",
    "trailing.dot.",
    "...",
    ".hidden",
    # for a shell, an option parser, SQL, CSV, the CLI's patterns and parameter files
    "$(touch x)",
    "`touch x`",
    "-rf",
    "--help",
    "--",
    "-",
    "~",
    "single'quote",
    'double"quote',
    "'; DROP TABLE files; --",
    "=cmd()",
    "file:///etc/passwd",
    "s3://other/key",
    "[a]",
    "[!a]",
    "]",
    "[",
    "*",
    "?",
    "glob*?/[a-z]",
    "{0}{name}%s",
    "[red]rich[/red]<level>",
    # for a terminal
    "nl/forged\ndownload: s3://b/x to y",
    "nl\n",
    "cr\rover",
    "tab\there",
    "esc\x1b[2J\x1b]0;title\x07",
    "c1\x9b31m",
    "nel\x85line",
    "line\u2028separator\u2029",
    "bidi\u202etxt.exe\u202c",
    "isolate\u2066x\u2069\u200e\u200f\u061c",
    "zero\u200bwidth\u200d\ufeff",
    "nul\x00byte",
    "nul\x00dir/x",
    "del\x7f",
    "bell\x07\x01\x1f",
    "private\ue000",
    "unassigned\U000e0fff\uffff\U0010ffff",
    "replaced\ufffd",
    # letters
    "emoji 😀.png",
    "family 👩‍👩‍👧",
    "日本語/ファイル.txt",
    "עברית",
    "nbsp\u00a0ideographic\u3000space",
    "\u0301mark first",
    "twin-\u00e9",
    "twin-e\u0301",
    "Case",
    "case",
    "stra\u00dfe",
    "STRASSE",
    # as paths
    "a",
    "a/b",
    "a//b",
    "a/",
    "/lead",
    "//two",
    "/",
    "//",
    "./c",
    "c/.",
    "c/./d",
    ".",
    "a/../b",
    "a/..",
    "..",
    "../x",
    "/../x",
    "tail/",
    "tail//",
    # as names
    "name.0fA1b2C3",
    "name.0fA1b2C3/inner",
    "a" * 255,
    "a" * 256,
    "a" * 300,
    "d" * 256 + "/x",
    "é" * 123,
    "é" * 123 + "a",
    "é" * 127 + "a",
    "d/" + "あ" * 83,
    "é" * 127 + "/x",
    "a" * 250 + "é",
    "k" * 1024,
    "k/" * 511 + "kk",
    "K" * 1024,
    "é" * 512,
    "あ" * 341 + "x",
    ("é" * 100 + "/") * 5 + "e" * 19,
]

# Pieces that mean something to someone, drawn by `random` because hypothesis' own draws cost 20 times as much; a
# failure is reproduced by its seed.
PIECES = sorted(
    {*GOLDEN[:60], *"/.-=%*?[]!^\\\n\0 aAvVbB019éß", "..", "//", "=v", "=-/", "=/", "=2f", "\u0301", "\udc80"}
)


def drawn(seed: int, count: int, pieces: list[str] = PIECES) -> list[str]:
    draw = random.Random(seed)
    return [
        "".join(
            draw.choice(pieces) if draw.random() < 0.8 else chr(draw.randrange(0x110000))
            for _ in range(draw.choice((1, 1, 2, 3, 4, 6, 40)))
        )[:1024]
        for _ in range(count)
    ]


def mutated(key: str, draw: random.Random) -> str:
    at = draw.randrange(len(key) + 1)
    new = draw.choice([*"/*?[]!-aA\n\0.", "", "\u0301"])
    return draw.choice((key[:at] + new + key[at:], key[:at] + new + key[at + 1 :], key[:at] + key[at:].swapcase()))


seeds = st.integers(min_value=0, max_value=2**32)
cheaply = settings(max_examples=60, deadline=None, database=None)


def test_golden_list_is_what_s3_takes() -> None:
    assert len(set(GOLDEN)) == len(GOLDEN) >= 40
    assert all(1 <= len(key.encode()) <= 1024 for key in GOLDEN)
    assert {len(key.encode()) for key in GOLDEN if not key.isascii()} >= {246, 247, 255, 1024}


# show


def unshown(text: str) -> str:
    return codecs.decode(text.encode("latin-1", "backslashreplace"), "unicode_escape")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain text.txt", "plain text.txt"),
        ("日本語 é 😀", "日本語 é 😀"),
        ("e\u0301", "e\u0301"),
        ("a\\nb", "a\\\\nb"),
        ("a\nb\r\t", "a\\nb\\r\\t"),
        (" a  b ", "\\x20a  b\\x20"),
        (" ", "\\x20"),
        ("\x1b[2J\0\x7f", "\\x1b[2J\\x00\\x7f"),
        ("\x85\u2028\u202e", "\\u0085\\u2028\\u202e"),
        ("\udc80", "\\udc80"),
        ("\U0010ffff\ue000", "\\U0010ffff\\ue000"),
        ("\u0301x\u200d\ufe0f\u3164", "\\u0301x\\u200d\\ufe0f\\u3164"),
    ],
)
def test_show(text: str, shown: str) -> None:
    assert show(text) == shown


def flaws(shown: str) -> str:
    """What may not reach a terminal, by the tables of Unicode and not by keys.py's."""
    if shown != shown.strip() or len(shown.splitlines()) > 1:
        return "space or line"
    return "".join(c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def test_show_is_clean_for_every_sort_of_code_point_and_leaves_letters_alone() -> None:
    assert flaws("a\u202eb") and flaws("a\nb") and flaws("a ") and flaws("a\x9b")  # the check can fail
    every = "".join(map(chr, [*range(0x14000), *range(0x1D000, 0x20000), *range(0xE0000, 0xE0FFF), 0xF0000, 0x10FFFF]))
    shown = show(every)
    assert not flaws(shown)
    assert unshown(shown) == every
    assert set(filter(str.isalpha, every)) - set(shown) == set("\u115f\u1160\u3164\uffa0")  # letters without ink


@cheaply
@given(seeds)
def test_show_is_one_clean_line_and_reversible(seed: int) -> None:
    for key in drawn(seed, 100):
        assert not flaws(show(key))
        assert unshown(show(key)) == key


def test_printf_turns_back_what_show_wrote() -> None:
    keys = [key for key in GOLDEN if "\0" not in key]
    run = subprocess.run(
        ["bash", "-c", 'printf "%b\\0" "$@"', "-", *map(show, keys)],
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}, capture_output=True, check=True,
    )  # fmt: skip
    assert run.stdout.decode().split("\0")[:-1] == keys


# unfit, place, plain_path


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "empty"),
        ("/lead", "begins"),
        ("//two", "begins"),
        ("/", "begins"),
        ("a//b", "between two slashes"),
        ("a//", "between two slashes"),
        ("tail/", "ends in a slash"),
        (".", '"."'),
        ("./c", '"."'),
        ("a/../b", '"."'),
        ("a/..", '"."'),
        ("...", ""),
        ("a/.b/..c/d..", ""),
        ("nul\0", "NUL"),
        ("lone\ud800", "Unicode"),
        ("control\n\r\x1b\x7f", ""),
        ("\ufffd", ""),
        ("a" * 255, ""),
        ("a" * 256, "255"),
        ("d" * 255 + "/x", ""),
        ("d" * 256 + "/x", "255"),
        ("é" * 123, ""),
        ("é" * 123 + "a", "246"),
        ("é" * 127 + "/x", ""),
        ("a" * 250 + "é", "246"),
        ("name.0fA1b2C3", "temporary"),
        ("name.0fA1b2C3/x", ""),
        ("name.20240131", ""),
        ("name.0fA1b2C", ""),
        ("name.0fA1b2C3d", ""),
        ("name.0fA1b2C3\n", ""),
        ("name-0fA1b2C3", ""),
        (".0fA1b2C3", "temporary"),
        ("d/.mv2-0123456789abcdef", "temporary"),
        ("d/.mv2-0123456789abcdef.", ""),
    ],
)
def test_unfit(key: str, reason: str) -> None:
    found = unfit(key, EXT4, ROOM)
    assert reason in found and bool(found) == bool(reason)
    assert place(key, 1, EXT4, ROOM) == (Place.SIDE if reason else Place.PLAIN, found)


def test_room_counts_bytes_and_the_temporary_name() -> None:
    assert unfit("é" * 10, EXT4, 29) == ""
    assert "path" in unfit("é" * 10, EXT4, 28)
    assert unfit("a" * 255, EXT4, 255) == ""
    assert "path" in unfit("a" * 255, EXT4, 254)
    assert unfit("a" * 240, EXT4, 249) == ""
    assert "path" in unfit("a" * 240, EXT4, 248)


def test_short_names_and_forbidden_letters() -> None:
    ecryptfs = FileSystem(name_max=143)
    assert unfit("a" * 134, ecryptfs, ROOM) == ""
    assert "134" in unfit("a" * 135, ecryptfs, ROOM)
    assert "143" in unfit("d" * 144 + "/x", ecryptfs, ROOM)
    assert ":" in unfit("a:b", VFAT, ROOM)
    assert "\\n" in unfit("a\nb", FileSystem(forbidden=frozenset("\n")), ROOM)
    assert unfit("a", VFAT, ROOM) == ""


def test_place_of_folders() -> None:
    assert place("dir/", 0, EXT4, ROOM) == (Place.FOLDER, "")
    assert place("dir/", 1, EXT4, ROOM)[0] == Place.SIDE
    assert place("dir", 0, EXT4, ROOM) == (Place.PLAIN, "")
    for key in ("/", "//", "a//", "../", "a/./", "n\0/", "é" * 128 + "/"):
        assert place(key, 0, EXT4, ROOM)[0] == Place.SIDE
        assert place(key, 0, EXT4, ROOM)[1]


def test_plain_path_refuses_what_it_cannot_hold() -> None:
    assert plain_path("b", "a/b ") == "b/a/b "
    assert plain_path("b", "dir/") == "b/dir"
    for key in ("", "/", "/x", "a//b", "..", "../x", "a/../b", "./c", "a//", "../", "n\0"):
        with pytest.raises(ValueError, match="no plain path"):
            plain_path("b", key)


def escapes(path: str) -> bool:
    return os.path.normpath("/base/" + path) != "/base/" + path or not path.startswith("bkt/") or "\0" in path


@cheaply
@given(seeds)
def test_plain_paths_never_escape(seed: int) -> None:
    assert escapes("bkt/../x") and escapes("bkt/a//b") and escapes("/etc/passwd")  # the check can fail
    keys = [*drawn(seed, 100), *drawn(seed, 100, ["a", "b", "/", "/", ".", ".."])]
    for key in keys:
        where, reason = place(key, len(key) % 2, EXT4, ROOM)
        assert bool(reason) == (where == Place.SIDE)
        if where != Place.SIDE:
            assert not escapes(plain_path("bkt", key))
            path = plain_path("bkt", key).encode()
            assert len(path) <= ROOM + 4 and max(map(len, path.split(b"/"))) <= 255


def as_the_cli_does(folder: Path, key: str) -> bool:
    """Whether the CLI's temporary name can be made and renamed on this file system to exactly this key."""
    final = f"{folder}/{key}"
    try:
        os.makedirs(os.path.dirname(final), exist_ok=True)
        temporary = OSUtils().get_temp_filename(final)
        Path(temporary).write_bytes(b"x")
        os.rename(temporary, final)
    except (OSError, ValueError):
        return False
    name = os.fsencode(final.rpartition("/")[2])
    return os.path.isfile(final) and name in os.listdir(os.path.dirname(os.fsencode(final)))


def test_long_names_on_a_real_file_system(tmp_path: Path) -> None:
    room = 4095 - len(os.fsencode(tmp_path)) - 12
    for at, (sign, count) in enumerate(itertools.product(["a", "é", "あ", "😀"], range(58, 258))):
        key = sign * count
        if len(key.encode()) < 235:
            continue
        for turn, form in enumerate((key, key[:-1] + "aa", f"{key}/x")):
            fits = unfit(form, EXT4, room) == ""
            arrives = as_the_cli_does(tmp_path / f"{at}-{turn}", form)
            assert arrives == fits, (sign, len(form.encode()), form[-2:])


# fold


def test_fold_on_a_plain_file_system_is_the_path() -> None:
    for key in [*GOLDEN, *drawn(1, 500)]:
        assert fold(key, EXT4) == key.removesuffix("/")


def test_fold_twins() -> None:
    case, form = FileSystem(folds_case=True), FileSystem(normalises=True)
    for one, other, systems in [
        ("Case", "case", (case, APFS)),
        ("A/", "a", (case, APFS)),
        ("twin-\u00e9", "twin-e\u0301", (form, APFS)),
        ("STRASSE", "stra\u00dfe", (case, APFS)),
        ("\u00c9", "e\u0301", (APFS,)),
        ("\u1fb3", "\u0391\u0345", (case, APFS)),
        ("\u03c3", "\u03c2", (case, APFS)),
        ("\u03b1\u0345\u0301", "\u03b1\u0301\u0345", (form, APFS)),  # folded unsorted, these part
        ("\u212a", "k", (case, APFS)),
        ("\u212a", "K", (case, form, APFS)),
        ("I", "\u0131", (case, APFS)),
        ("a\u200db", "ab", (case, APFS)),
        ("tail/", "tail", (EXT4, case, form, APFS)),
        ("tail//", "tail", ()),
    ]:
        assert tuple(fs for fs in (EXT4, case, form, APFS) if fold(one, fs) == fold(other, fs)) == systems, one


# How file systems compare names: NTFS and exFAT by an upper-case table letter by letter, APFS and ext4 by full folding
# of NFD (ext4 skips ignorable letters too), HFS+ and ZFS by normalisation alone.
REAL: list[tuple[FileSystem, Callable[[str], str]]] = [
    (FileSystem(folds_case=True), lambda name: "".join(c.upper() if len(c.upper()) == 1 else c for c in name)),
    (FileSystem(folds_case=True), lambda name: "".join(c.lower() if len(c.lower()) == 1 else c for c in name)),
    (FileSystem(normalises=True), lambda name: unicodedata.normalize("NFD", name)),
    (FileSystem(normalises=True), lambda name: unicodedata.normalize("NFKC", name)),
    (
        APFS,
        lambda name: unicodedata.normalize(
            "NFD", unicodedata.normalize("NFD", name).casefold().replace("\u200d", "").replace("\ufe0f", "")
        ),
    ),
]


def merges_too_little(keys: list[str], folded: Callable[[str, FileSystem], str]) -> list[str]:
    """Keys that a real file system puts where another key is, although their folds differ."""
    lost = []
    for fs, name_on_disk in REAL:
        first: dict[str, str] = {}
        for key in keys:
            if folded(first.setdefault(name_on_disk(key), key), fs) != folded(key, fs):
                lost.append(key)
    return lost


def test_fold_merges_what_real_file_systems_merge() -> None:
    letters = [c for c in map(chr, range(0x20000)) if c.upper() != c or c.lower() != c or unicodedata.decomposition(c)]
    every = [name for c in letters for name in (c, unicodedata.normalize("NFD", c), c.upper(), c.lower())]
    assert merges_too_little(every, fold) == []
    assert "\u1e9b" in merges_too_little(every, lambda key, fs: key.casefold() if fs.folds_case else key)  # it can fail


@cheaply
@given(seeds)
def test_fold_is_stable_and_merges_twins(seed: int) -> None:
    keys = drawn(seed, 40)
    twins = [twin for key in keys for twin in (key, key.swapcase(), unicodedata.normalize("NFD", key), key.upper())]
    assert merges_too_little(twins, fold) == []
    for key, (fs, _) in itertools.product(keys, REAL):
        once = fold(key, fs)
        assert fold(once + "/", fs) == once


def test_names_with_other_folds_are_other_files(tmp_path: Path) -> None:
    names = sorted({key.replace("/", "").replace("\0", "")[:60] for key in drawn(7, 400) if "\udc80" not in key})
    names = [name for name in names if name not in ("", ".", "..") and name.isprintable()]
    for name in names:
        (tmp_path / name).write_text(fold(name, EXT4))
    assert len(list(tmp_path.iterdir())) == len({fold(name, EXT4) for name in names}) == len(names) > 50


# side_path


def unsafe(path: str) -> bool:
    names = path.split("/")
    return (
        re.fullmatch(r"\.migrate-v2/bkt/objects/[a-z0-9._=/-]+", path) is None
        or not {"", ".", ".."}.isdisjoint(names)
        or max(map(len, names)) > 200
        or len(path) > 2900
    )


def clash(paths: list[str]) -> set[str]:
    """Files that are folders of other files, and files of two keys."""
    folders = {path.rpartition("/")[0] for path in paths}
    while more := {folder.rpartition("/")[0] for folder in folders} - folders:
        folders |= more
    return folders.intersection(paths) | {path for path in paths if paths.count(path) > 1}


def test_checks_of_side_paths_can_fail() -> None:
    top = ".migrate-v2/bkt/objects/"
    assert all(map(unsafe, (f"{top}A", f"{top}..", f"{top}a//b", f"{top}{'a' * 201}", "bkt/a", f"{top}a\n")))
    assert clash(["a/b/c", "a"]) == {"a"} and clash(["a", "a"]) == {"a"} and not clash(["a/b", "a/c"])


def test_side_paths_of_the_golden_list() -> None:
    pairs = [
        (key, version) for key in GOLDEN for version in ("null", "3HL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY.MTRCxf3vjVBH40", "")
    ]
    paths = [side_path("bkt", key, version) for key, version in pairs]
    assert not any(map(unsafe, paths)) and not clash(paths)
    assert len({path.casefold() for path in paths}) == len(paths)
    for pair, path in zip(pairs, paths, strict=True):
        assert key_of(path) == (None if "=sha256-" in path else pair)
    hashed = {key for (key, _), path in zip(pairs, paths, strict=True) if "=sha256-" in path}
    assert hashed and all(len(key.encode()) > 900 for key in hashed)


def test_side_path_reads_well() -> None:
    assert side_path("b", "Dir/File 1.txt", "null") == ".migrate-v2/b/objects/=44ir=/=46ile=201.txt=vnull"
    assert side_path("b", "..", "a.B") == ".migrate-v2/b/objects/..=va=2e=42"
    assert side_path("b", "k" * 50, "null", longest=40).startswith(".migrate-v2/b/objects/=sha256-")


@pytest.mark.parametrize(
    "path",
    [
        "", "b/a=vnull", ".migrate-v2/b/objects/", ".migrate-v2/b/objects/a", ".migrate-v2/b/other/a=vnull",
        ".migrate-v2/b/objects/A=vnull", ".migrate-v2/b/objects/a=4A=vnull", ".migrate-v2/b/objects/a/b=vnull",
        ".migrate-v2/b/objects/=61=vnull", ".migrate-v2/b/objects/=ff=vnull", ".migrate-v2/b/objects/a=-/b=vnull",
        ".migrate-v2/b/objects/a%2f=vnull", ".migrate-v2/b/objects/a=v=vnull", ".migrate-v2/b/objects/é=vnull",
        ".migrate-v2/b/objects/../a=vnull", ".migrate-v2/b/objects/a=v.", ".migrate-v2/b/objects/a=vn/",
    ],
)  # fmt: skip
def test_key_of_refuses_what_side_path_never_made(path: str) -> None:
    assert key_of(path) is None


@cheaply
@given(seeds)
def test_side_path_is_reversible_injective_and_safe(seed: int) -> None:
    draw = random.Random(seed)
    keys = drawn(seed, 40)
    keys += [mutated(key, draw) for key in keys] + [key[: len(key) // 2] for key in keys]
    pairs = {(key, draw.choice(("null", "", "v.A_-/", key[:9]))) for key in keys}
    paths = {pair: side_path("bkt", *pair) for pair in pairs}
    assert not any(map(unsafe, paths.values())) and not clash(list(paths.values()))
    for pair, path in paths.items():
        assert key_of(path) == pair or "=sha256-" in path


# exclude_pattern, STRUCTURAL, excludes


def left_out(patterns: tuple[str, ...], keys: list[str], under: str = "") -> list[str]:
    """The keys that the CLI's own option and filter leave out of a sync of s3://bkt/<under>."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--exclude", action=AppendFilter, nargs=1, dest="filters")
    argv = [arg for pattern in patterns for arg in ("--exclude", pattern)]
    for arg in argv:
        assert "\0" not in arg and arg.encode() is not None
    filters = parser.parse_args(argv).filters
    parameters = {"filters": filters, "src": f"s3://bkt/{under}", "dest": "/dest", "dir_op": True}
    kept = create_filter(parameters).call(FileStat(src=f"bkt/{key}", src_type="s3") for key in keys)
    return sorted(set(keys) - {stat.src.removeprefix("bkt/") for stat in kept})


def test_the_bare_key_would_not_do() -> None:
    """Why the quoting is there: what a naive pattern does in the CLI."""
    assert left_out(("/lead",), ["/lead", "lead"]) == []
    assert left_out(("[a]",), ["[a]", "a"]) == ["a"]
    with pytest.raises(SystemExit):
        left_out(("-rf",), ["-rf"])


def test_exclude_pattern_of_the_golden_list() -> None:
    for key in GOLDEN:
        assert left_out((exclude_pattern(key),), GOLDEN) == [key]
    assert len(left_out(tuple(map(exclude_pattern, GOLDEN)), GOLDEN)) == len(GOLDEN)


@cheaply
@given(seeds)
def test_exclude_pattern_matches_its_key_and_no_mutated_one(seed: int) -> None:
    draw = random.Random(seed)
    for key in drawn(seed, 15):
        key = key.replace("\udc80", "")
        if re.search("[\ud800-\udfff]", key) or not key:
            continue
        others = {mutated(key, draw) for _ in range(4)} - {key, ""}
        assert left_out((exclude_pattern(key),), [key, *others]) == [key]


def test_exclude_pattern_under_a_folder() -> None:
    keys = ["d/-x", "d//x", "d/[a]", "d/a", "d/", "d/e/f"]
    for key in keys:
        assert left_out((exclude_pattern(key, "d/"),), keys, "d/") == [key]
    for under in ("d", "[d]/", "d*/"):
        with pytest.raises(ValueError, match="no exact pattern"):
            exclude_pattern("d/a", under)
        with pytest.raises(ValueError, match="no exact pattern"):
            excludes([], 3, under)
    with pytest.raises(ValueError, match="not under"):
        exclude_pattern("a", "d/")
    assert left_out((exclude_pattern("a\ud800"),), ["ab", "abb"]) == ["ab"]  # no argument holds a lone surrogate


def structural(key: str) -> bool:
    return not {"", ".", ".."}.isdisjoint(key.split("/"))


def test_structural_patterns_cover_their_keys_and_no_other() -> None:
    alphabet = ["a", ".", "/", "\n"]
    keys = ["".join(signs) for length in range(1, 6) for signs in itertools.product(alphabet, repeat=length)]
    keys += [key for key in GOLDEN if key not in set(keys)]
    assert left_out(STRUCTURAL, keys) == sorted(filter(structural, keys))
    assert left_out(STRUCTURAL[:-1], keys) != sorted(filter(structural, keys))
    for pattern in STRUCTURAL:
        assert left_out((pattern,), keys)
    keys = ["d/" + key for key in keys]
    assert left_out(STRUCTURAL, keys, "d/") == sorted(key for key in keys if structural(key[2:]))
    assert not {key for key in GOLDEN if structural(key)} - {key for key in GOLDEN if unfit(key, EXT4, ROOM)}


def test_excludes_becomes_coarser() -> None:
    keys = ["a/b/c", "a/b/d", "a/e", "f", "-g", "x//y", "../z", "tail/"]
    assert excludes(keys, 5) == ("[-]g", "a/b/c", "a/b/d", "a/e", "f")
    assert excludes(keys, 4) == ("[-]g", "a/b/*", "a/e", "f")
    assert excludes(keys, 3) == ("[-]g", "a/*", "f")
    assert excludes(keys, 2) == ("*",)
    assert excludes([], 1) == excludes(["x//y", "/", "."], 1) == ()
    assert excludes(["d/a", "d/b", "d//x", "other", "d/"], 3, "d/") == ("", "a", "b")
    assert excludes(["d/a", "d/b", "d/"], 2, "d/") == ("*",)
    assert excludes(["*/x", "*/y", "z"], 2) == ("[*]/*", "z")
    with pytest.raises(ValueError, match="limit"):
        excludes(["a"], 0)


def test_excludes_of_a_million_keys_holds_few() -> None:
    total = 100_000
    folders = (f"top/{number % 40}/{number}/é" for number in range(total))
    assert excludes(folders, 50) == tuple(sorted(f"top/{number}/*" for number in range(40)))
    stuck = iter(f"key{number}" for number in itertools.count())
    assert excludes(itertools.islice(stuck, total), 10) == ("*",)


@cheaply
@given(seeds, st.integers(min_value=1, max_value=12))
def test_excludes_covers_all(seed: int, limit: int) -> None:
    keys = [key for key in drawn(seed, 12, ["a", "b", "/", "/", "-", "*", "[", ".", "\0", "é"]) if key]
    patterns = excludes(iter(keys), limit)
    assert len(patterns) <= limit
    assert left_out(STRUCTURAL + patterns, keys) == sorted(set(keys))
    if len(keys) <= limit:
        assert "other" not in left_out(STRUCTURAL + patterns, [*keys, "other"])


def test_sweep_takes_every_temporary_with_a_letter_and_no_key_that_fits() -> None:
    for key in GOLDEN:
        name = os.path.basename(OSUtils().get_temp_filename(key))
        assert looks_temporary(name) or name[-8:].isdigit()
        assert not looks_temporary(key.rpartition("/")[2]) or unfit(key, EXT4, ROOM)


# and all of it at once, with the real CLI


class Bucket(BaseHTTPRequestHandler):
    """One bucket, `bkt`, that lists GOLDEN and gives each key's own bytes; just enough for `aws s3 sync`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if "list-type" in parse_qs(url.query):
            body = b"".join(
                b"<Contents><Key>%s</Key><Size>%d</Size><ETag>x</ETag>"
                b"<LastModified>2024-01-31T00:00:00Z</LastModified></Contents>"
                % (quote(key).encode(), len(key.encode()))
                for key in sorted(GOLDEN, key=str.encode)
            )
            head = b"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            body = head + body + b"</ListBucketResult>"
        else:
            body = unquote(url.path.removeprefix("/bkt/")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 31 Jan 2024 00:00:00 GMT")
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_cli_brings_exactly_the_keys_that_fit(endpoint: str, tmp_path: Path) -> None:
    room = 4095 - len(os.fsencode(tmp_path)) - len("/dest/bkt/")
    fit = [key for key in GOLDEN if not unfit(key, EXT4, room)]
    parents = {key[:at] for key in fit for at, sign in enumerate(key) if sign == "/"}
    fit = [key for key in fit if key not in parents]  # `a` beside `a/b`: the caller's to find
    patterns = STRUCTURAL + excludes((key for key in GOLDEN if key not in fit), 100)
    run = subprocess.run(
        [sys.executable, "-m", "awscli", "s3", "sync", "s3://bkt", str(tmp_path / "dest/bkt"), "--endpoint-url", endpoint,
         "--region", "us-east-1", "--no-progress", *(arg for pattern in patterns for arg in ("--exclude", pattern))],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
             "AWS_CONFIG_FILE": str(tmp_path / "none"), "LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONUTF8": "1",
             "NO_PROXY": "127.0.0.1"},
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    base = os.fsencode(tmp_path / "dest")
    found = {
        os.path.relpath(os.path.join(folder, name), base): Path(os.fsdecode(os.path.join(folder, name))).read_bytes()
        for folder, _, names in os.walk(base)
        for name in names
    }
    assert (run.returncode, run.stderr) == (0, b"")
    assert found == {plain_path("bkt", key).encode(): key.encode() for key in fit}
    assert len(fit) > 60


@pytest.mark.parametrize(
    ("number", "objects", "copies"),
    [(0, "0 objects are", "0 copies"), (1, "1 object is", "1 copy"), (2000, "2,000 objects are", "2,000 copies")],
)
def test_count_of_has_the_right_number(number: int, objects: str, copies: str) -> None:
    assert f"{keys.count_of(number, 'object')} {keys.are(number)}" == objects
    assert keys.count_of(number, "copy", "copies") == copies
