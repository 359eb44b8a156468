"""A key becomes a path, a line of text or a pattern of the CLI only here, and never one that means another key.

S3 takes any 1 to 1,024 bytes of UTF-8 as a key; a file system, a terminal and `aws s3 sync` each take less.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from migrate_v2.model import Place

SIDE = ".migrate-v2"
CERTIFICATE = "deletions.jsonl"  # what was deleted, in a folder of SIDE

# Default_Ignorable_Code_Point (DerivedCoreProperties.txt): drawn as nothing, skipped by the case folding of ext4, HFS+.
_IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_INVISIBLE = re.compile(f"[{_IGNORABLE}]")
_UNSHOWN = re.compile(rf"[\\\u2800{_IGNORABLE}]")
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def count_of(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 object`, `2,000 objects`. `many` where the plural is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def are(number: int) -> str:
    """The verb to what count_of() counts."""
    return "is" if number == 1 else "are"


def show(text: str) -> str:
    r"""The text on one line that moves no cursor, another one for each text: the only way a key reaches people.

    Backslash, `\n`, `\r`, `\t`, `\xNN` below U+0080, `\uNNNN`, `\UNNNNNNNN`: what bash's `printf %b` turns back.
    Escaped is what str.isprintable refuses (controls, format, surrogates, private, unassigned, line separators, odd
    spaces), what has no ink, a space at either end, and a mark that would sit on the text before.
    """
    if text.isascii() and text.isprintable() and "\\" not in text and text == text.strip(" "):
        return text
    last = len(text) - 1
    return "".join(
        _escaped(sign)
        if not sign.isprintable()
        or _UNSHOWN.match(sign)
        or (sign == " " and at in (0, last))
        or (at == 0 and unicodedata.category(sign).startswith("M"))
        else sign
        for at, sign in enumerate(text)
    )


def _escaped(sign: str) -> str:
    code = ord(sign)
    return _SHORT.get(sign) or (
        f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What edges/disk.py found out by trying: how the destination treats names. Lengths in bytes."""

    folds_case: bool = False
    normalises: bool = False
    name_max: int = 255
    path_max: int = 4095  # of a whole path, without the closing NUL
    forbidden: frozenset[str] = frozenset()
    trimmed: frozenset[str] = frozenset()  # what it drops at the end of a name without a word


# The CLI writes NAME.XXXXXXXX beside NAME and renames it: 8 of string.hexdigits after NAME cut to 255 characters in all
# (s3transfer/utils.py, get_temp_filename). A kill leaves the file behind.
SUFFIX = 9  # bytes
_CUT = 255 - SUFFIX
# edges/disk.py calls its own unfinished files .mv2- and 16 digits.
_TEMPORARY = re.compile(r"\.(?=[0-9]*[A-Fa-f])[0-9A-Fa-f]{8}\Z|\A\.mv2-[0-9a-f]{16}\Z")


def looks_temporary(name: str) -> bool:
    """Whether unfinished files of the CLI or of this program are named so: no key that fits is a file of such a name.

    Eight digits without a letter do not count, because `app.log.20240131` is what people call their files.
    """
    return _TEMPORARY.search(name) is not None


def unfit(key: str, fs: FileSystem, room: int) -> str:
    """Why the AWS CLI cannot bring this key to `<base>/<bucket>/<key>` exactly; "" if it can.

    `room` is what the path has left for the key, in bytes. Other keys are not looked at: twins (`fold`) and `a` beside
    `a/b` are for the caller. The cases are those measured of `aws s3 sync`, v1 and v2, each with a wrong or no file.
    """
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        return "the key is not valid Unicode"
    names = key.split("/")
    last = names[-1]
    if names[0] == "":
        return "the key begins with a slash" if key else "the key is empty"
    if "" in names[1:-1]:
        return "the key has an empty name between two slashes"
    if "." in names or ".." in names:
        return 'the key has "." or ".." between slashes'
    if last == "":
        return "the key ends in a slash"
    if fs.trimmed and any(name[-1:] in fs.trimmed for name in names):
        return "the file system drops the end of a name in the key"
    if "\0" in key:
        return "the key contains NUL, which no path can"
    if any((name[:1] == "." or not name.isascii()) and fold(name, fs) == SIDE for name in names):
        return "a name in the key is that of the program's own folder"
    if fs.forbidden and not fs.forbidden.isdisjoint(key):
        return f"the file system refuses {show(min(fs.forbidden.intersection(key)))} in names"
    if length > fs.name_max and any(len(name.encode()) > fs.name_max for name in names):
        return f"a name in the key is longer than {fs.name_max} bytes"
    name_bytes = len(last.encode())
    temporary = len(last[:_CUT].encode()) + SUFFIX
    # The cut counts characters: a name with any character of two bytes or more is held to what fits without a cut.
    if temporary > fs.name_max or (not last.isascii() and name_bytes + SUFFIX > fs.name_max):
        return f"the name is longer than the {fs.name_max - SUFFIX} bytes that the CLI's temporary suffix leaves"
    if length + max(0, temporary - name_bytes) > room:
        return "the whole path is too long"
    if looks_temporary(last):
        return "the name is like those of temporary files"
    return ""


def place(key: str, size: int, fs: FileSystem, room: int) -> tuple[Place, str]:
    """Where the current version of this key goes, and for SIDE why: the same reasons as `unfit`."""
    folder = size == 0 and key.endswith("/")
    reason = unfit(key[:-1] if folder else key, fs, room)
    if reason:
        return Place.SIDE, reason
    return (Place.FOLDER if folder else Place.PLAIN), ""


def plain_path(bucket: str, key: str) -> str:
    """`<bucket>/<key>`, relative to the base, a folder's without its slash.

    ValueError where that would be the path of another key or of nothing inside the bucket's folder: such keys are
    `unfit`, whatever the file system.
    """
    path = key.removesuffix("/")
    if "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(f"no plain path: {show(key)}")
    return f"{bucket}/{path}"


def only_copies_mark(bucket: str) -> str:
    """The file that says: objects of this bucket were deleted, and what lies here is all that is left of them."""
    return f"{SIDE}/{bucket}/only-copies.json"


# 120: eCryptfs has room for 143 bytes a name, and 9 are for a temporary suffix.
_PIECE = 120
_BREAK = "=-/"
_RAW = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
_BYTES = [chr(byte) if byte in _RAW else f"={byte:02x}" for byte in range(256)]
_KEY_BYTES = [{ord("."): ".", ord("/"): "=/"}.get(byte, text) for byte, text in enumerate(_BYTES)]


OBJECTS = "objects"
SUPERSEDED = "superseded"  # copies whose object was overwritten in S3


def side_path(bucket: str, key: str, version_id: str, longest: int = 2800, *, folder: str = OBJECTS) -> str:
    """`.migrate-v2/<bucket>/<folder>/<escaped>`, relative to the base: another one for each key and version.

    Bytes of UTF-8 outside a-z 0-9 - _ . are `=hh`, capitals too, so no file system can merge two. A slash is `=/`, the
    version follows `=v`, and names over 120 bytes are broken by `=-/`: folders end in `=` or `=-`, files never do, so
    a folder of one key is no file of another, and `..` is `..=`. Old versions thus lie in folders as their keys do;
    ext4 takes some 4 million long names in one folder, not more.

    Where `<escaped>` would be longer than `longest` bytes it is `=sha256-` and the SHA-256 of `<escaped>`: then only
    the row and the manifest know the key.
    """
    escaped = _escape(key, version_id)
    if len(escaped) > longest:
        escaped = "=sha256-" + hashlib.sha256(escaped.encode()).hexdigest()
    return f"{SIDE}/{bucket}/{folder}/{escaped}"


def _escape(key: str, version_id: str) -> str:
    text = "".join([_KEY_BYTES[byte] for byte in key.encode("utf-8", "surrogatepass")])
    text += "=v" + "".join([_BYTES[byte] for byte in version_id.encode("utf-8", "surrogatepass")])
    width = _PIECE - 2
    return "/".join(
        name
        if len(name) <= _PIECE
        else _BREAK.join(name[start : start + width] for start in range(0, len(name), width))
        for name in text.split("/")
    )


def key_of(path: str) -> tuple[str, str] | None:
    """Key and version id of a path that `side_path` made; None for the hashed form and for what it never made."""
    top, _, rest = path.partition("/")
    _, _, rest = rest.partition("/")
    folder, _, escaped = rest.partition("/")
    key, mark, version_id = escaped.replace(_BREAK, "").partition("=v")
    if top != SIDE or folder not in (OBJECTS, SUPERSEDED) or mark != "=v":
        return None
    try:
        found = _unescape(key), _unescape(version_id)
    except UnicodeError:
        return None
    return found if _escape(*found) == escaped else None


def _unescape(text: str) -> str:
    return unquote_to_bytes(text.replace("=/", "=2f").replace("=", "%")).decode("utf-8", "surrogatepass")


def fold(key: str, fs: FileSystem) -> str:
    """Equal for any two keys that this file system keeps under one path; a folder's slash does not count.

    File systems differ in their tables (NTFS upper-cases, ext4 folds in full, ZFS may normalise to NFKC), so this
    merges what any of them merges: a twin too many is stored at the side, a twin too few is overwritten.
    """
    path = key.removesuffix("/")
    if path.isascii():
        return path.lower() if fs.folds_case else path
    before = ""
    while path != before:
        before = path
        if fs.normalises:
            path = unicodedata.normalize("NFKD", path)
        if fs.folds_case:
            path = _INVISIBLE.sub("", path).upper().casefold()
        if fs.normalises:
            path = unicodedata.normalize("NFKC", path)
    return path


# What follows is for `--exclude`. The CLI joins `<bucket>/<prefix of the source>` and the pattern with os.path.join and
# gives the result to fnmatch with the raw `<bucket>/<key>`, nothing normalised (awscli/customizations/s3/filters.py): a
# pattern that begins with a slash would lose the bucket, and one that begins with a hyphen is an option to argparse.
# Brackets quote both.

# All keys with a slash at either end, "//", or "." or ".." between slashes, and no others. Where the source is a folder
# they read its keys without the folder's own name.
STRUCTURAL: tuple[str, ...] = (
    "[/]*", "*//*", "*/", ".", "..", "./*", "../*", "*/.", "*/..", "*/./*", "*/../*",
)  # fmt: skip
_STRUCTURAL = re.compile(r"\A/|//|/\Z|(?:\A|/)\.\.?(?:/|\Z)")
_SPECIAL = re.compile(r"[*?[\0\ud800-\udfff]|\A[-/]")
# No argument of a process may hold NUL, but a set may leave out all other characters.
_NUL = "[!\x01-\U0010ffff]"


def exclude_pattern(key: str, under: str = "") -> str:
    """The pattern that matches this key and no other, for a sync of `s3://<bucket>/<under>`; `under` ends in a slash.

    ValueError where `under` has * ? or [: the CLI takes it for a part of the pattern, so nothing can be excluded from a
    sync of such a folder, not by STRUCTURAL either. A lone surrogate, which no key has, is matched as any character.
    """
    _check_source(under)
    if not key.startswith(under):
        raise ValueError(f"{show(key)} is not under {show(under)}")
    return _SPECIAL.sub(_quoted, key[len(under) :])


def _check_source(under: str) -> None:
    if under and (not under.endswith("/") or re.search(r"[*?[]", under)):
        raise ValueError(f"no exact pattern for a sync of {show(under)}")


def _quoted(found: re.Match[str]) -> str:
    sign = found.group()
    return _NUL if sign == "\0" else "?" if sign >= "\ud800" else f"[{sign}]"


def excludes(keys: Iterable[str], limit: int, under: str = "") -> tuple[str, ...]:
    """At most `limit` patterns that, beside STRUCTURAL, cover all these keys: one each, or else whole folders.

    Over the limit the deepest folders go first ("a/b/*", then "a/*", at last "*"); what that covers too much our own
    GET brings. Never holds more than `limit` + 1 patterns, and a pattern may have 9 KiB. Keys outside `under` need
    none. ValueError as `exclude_pattern`, and for a limit below 1.
    """
    _check_source(under)
    if limit < 1:
        raise ValueError("a limit of at least one pattern is needed")
    patterns: set[str] = set()
    depth: int | None = None
    for key in keys:
        if not key.startswith(under) or _STRUCTURAL.search(key[len(under) :]) or "*" in patterns:
            continue
        patterns.add(_covering(exclude_pattern(key, under), depth))
        while len(patterns) > limit:
            depth = max(pattern.count("/") for pattern in patterns) if depth is None else depth - 1
            patterns = {_covering(pattern, depth) for pattern in patterns}
    return tuple(sorted(patterns))


def _covering(pattern: str, depth: int | None) -> str:
    """The pattern itself, or that of its folder `depth` names deep. A literal * is quoted: "a/*" is always a folder."""
    names = pattern.split("/")
    if depth is None or len(names) <= depth:
        return pattern
    return "".join(name + "/" for name in names[:depth]) + "*"
