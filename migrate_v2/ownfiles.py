"""Where files of the program's own may be: never among the contents of objects, which anybody may have written."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from migrate_v2.errors import Refused
from migrate_v2.keys import show

OWN_FOLDER = ".migrate-v2"
# Every name that some bucket has: buckets made in us-east-1 before March 2018 may have upper case letters and underscores
# and 255 characters (AWS, "General purpose bucket naming rules"). None begins with a dot or an underscore.
BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_NEW_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# What lies beside a state file of this name, and in its folder.
_BESIDE_STATE = ("", ".key", ".run", ".undo", "-wal", "-shm", "-journal")


def could_be_bucket(name: str) -> bool:
    """Whether a bucket may have this name, so that `<destination>/<name>` may hold its objects."""
    return bool(BUCKET_NAME.fullmatch(name)) and ".." not in name


def bucket_folder(path: Path, base: Path | None, *more: Path) -> Path | None:
    """The bucket's folder of a destination in which this file is or would be; None where it is in none.

    A destination is a folder with a `.migrate-v2` in it, or one of the named ones: `base` (the setting local_base_path)
    and `more`. A bucket's folder is one directly below it whose name a bucket can have, or one below
    `.migrate-v2/<bucket>/`, where contents of objects are as well (incoming, quarantine, superseded). Links are followed
    and are not: both the path as it is written and what it leads to must be outside.
    """
    named = [os.path.realpath(one) for one in (base, *more) if one is not None]
    known = {_identity(one) for one in named} - {None}
    for whole in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):  # noqa: PTH100 - `..` is to go, too
        for root in Path(whole).parents:
            first, *rest = Path(whole).relative_to(root).parts
            if first == OWN_FOLDER and len(rest) > 2:
                return root / first / rest[0] / rest[1]
            if not rest or not could_be_bucket(first):
                continue
            if str(root) in named or (root / OWN_FOLDER).is_dir() or _identity(str(root)) in known:
                return root / first
    return None


def _identity(folder: str) -> tuple[int, int] | None:
    with suppress(OSError, ValueError):
        facts = os.stat(folder)  # noqa: PTH116 - a string
        return facts.st_dev, facts.st_ino
    return None


def must_be_outside(
    path: Path, what: str, base: Path | None, *more: Path, cure: str = "", folder: bool = False
) -> Path:
    """The path. Refused where it is in a bucket's folder, or where it is one and files are to be in it (`folder`).

    `what` is the file's part in the program, `cure` how to name another one.
    """
    found = bucket_folder(path / "file" if folder else path, base, *more)
    if found is None:
        return path
    where = "is" if found == path else f"is in {show(str(found))},"
    raise Refused(
        f"{what} {show(str(path))} {where} a folder for the objects of a bucket: what is there may be the content of an"
        " object, so it is neither read nor written as a file of this program; run the command from another folder"
        f"{cure and ', or ' + cure}"
    )


def must_be_own_state(path: Path, base: Path | None) -> Path:
    """The path of the state file. Refused where it, or a folder that is made beside it, may hold the objects of a bucket."""
    must_be_outside(path, "the state file", base, cure="name another one with --state")
    if in_destination(path, base) and _NEW_BUCKET_NAME.fullmatch(path.name):
        raise Refused(
            f"the state file {show(str(path))} is in the destination itself, where a bucket may have its name: move it and"
            f" all that is named {show(path.name)}* to another folder, and name it there with --state"
        )
    return path


def in_destination(path: Path, base: Path | None) -> bool:
    """Whether this file is directly in a destination."""
    root = os.path.realpath(path.parent)
    if (Path(root) / OWN_FOLDER).is_dir():
        return True
    return base is not None and (root == os.path.realpath(base) or _identity(root) == (_identity(str(base)) or ()))


def must_not_be_state(bucket: str, state: Path, base: Path | None) -> None:
    """Refused where the folder of this bucket would be one of the state file's own names."""
    names = {f"{state.name}{more}" for more in _BESIDE_STATE} | {state.with_suffix(".log").name}
    if bucket in names and in_destination(state, base):
        raise Refused(
            f"the folder of bucket {show(bucket)} would be at the path of the state file {show(str(state))} or of what belongs"
            " to it: move the state file and all that is named like it out of the destination, and name it with --state"
        )


def read_trusted(path: Path, what: str) -> bytes:
    """The content of a file that decides what the program does. May raise OSError.

    Refused: a file that somebody else owns or may have written. What is no plain file (`/dev/null`, a pipe) is the
    caller's own choice.
    """
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        if stat.S_ISREG(facts.st_mode):
            for fault in _faults(path, facts):
                raise Refused(f"{what} {show(str(path))} {fault}")
        return file.read()


def _faults(path: Path, facts: os.stat_result) -> Iterator[str]:
    name = show(str(path))
    if facts.st_uid not in (os.geteuid(), 0):
        yield (
            f"belongs to another user (uid {facts.st_uid}), who decides what is in it: make sure that it is as you want it"
            f" and run `chown {os.geteuid()} {name}`"
        )
    if facts.st_mode & stat.S_IWOTH:
        yield f"may be written by everybody: make sure that it is as you left it and run `chmod go-w {name}`"
    if facts.st_mode & stat.S_IWGRP and facts.st_gid not in _primary_groups(facts.st_uid):
        yield (
            f"may be written by the group {facts.st_gid}, which is not its owner's own: make sure that it is as you left it"
            f" and run `chmod g-w {name}`"
        )


def _primary_groups(user: int) -> Iterable[int]:
    with suppress(KeyError):  # a container's user without a name
        return (pwd.getpwuid(user).pw_gid,)
    return (os.getegid(),) if user == os.geteuid() else ()
