"""Every setting stands once in `Settings`: type, default, limits, meaning; nothing wrong or unknown gets past `load`."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, PrivateAttr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from migrate_v2 import ownfiles
from migrate_v2.errors import BadUsage, Refused
from migrate_v2.keys import show

PREFIX = "MIGRATE_V2_"
CONFIG_VARIABLE = "MIGRATE_V2_CONFIG"
CONFIG_NAME = "migrate-v2.toml"

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

# The AWS CLI reads "8MB" and "8MiB" alike as 8 * 1024 * 1024 (awscli/customizations/s3/utils.py, SIZE_SUFFIX).
# The same text must not mean two sizes in ~/.aws/config and here.
UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
SIZE = re.compile(r"([0-9]{1,15})\s*(?:([KMGT])i?B)?", re.IGNORECASE)
# The CLI's v2 takes "80Mb/s" as bits and its v1 refuses it. It is refused here: whichever way it were read, it would be
# wrong by a factor of 8 for somebody.
RATE = re.compile(r"([0-9]{1,15})\s*(?:(?:([KMGTkmgt])[iI]?)?B/s)?")
STEP = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s+(\S.*)")


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """A limit in bytes a second, by time of day: each step holds until the next one, the last one past midnight.

    A limit for the whole day is one step at 00:00; None is no limit. `text` is what the operator wrote.
    """

    text: str
    steps: tuple[tuple[time, int | None], ...]


def bandwidth(value: object) -> Bandwidth | None:
    """Reads `20MB/s`, plain bytes a second, `off`, or `08:00 5MB/s, 19:00 off`; ValueError says what is wrong."""
    if value is None or isinstance(value, Bandwidth):
        return value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    text = " ".join(str(value).split())
    if ":" not in text:
        return Bandwidth(text, ((time(0), _rate(text)),))
    steps: dict[time, int | None] = {}
    for entry in text.split(","):
        found = STEP.fullmatch(entry.strip())
        if not found:
            raise ValueError(f"'{show(entry.strip()[:40])}' is not a time and a rate, such as 08:00 5MB/s")
        clock = time(int(found[1]), int(found[2]))
        if clock in steps:
            raise ValueError(f"{clock:%H:%M} is there twice")
        steps[clock] = _rate(found[3])
    return Bandwidth(text, tuple(sorted(steps.items(), key=lambda step: step[0])))


def bandwidth_at(limit: Bandwidth | None, clock: time) -> int | None:
    """Bytes a second allowed at this local time of day; None is no limit."""
    if limit is None:
        return None
    now = clock.replace(tzinfo=None)
    return next((rate for start, rate in reversed(limit.steps) if start <= now), limit.steps[-1][1])


def _rate(text: str) -> int | None:
    if text.casefold() == "off":
        return None
    found = RATE.fullmatch(text)
    if not found:
        raise ValueError(
            f"'{show(text[:40])}' is not a rate in bytes a second with a capital B, such as 20MB/s, nor off"
        )
    rate = int(found[1]) * UNITS[(found[2] or "").upper()]
    if rate < KIB:
        raise ValueError(f"'{show(text[:40])}' is less than 1KB/s; off is no limit")
    return rate


def _bytes(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError
    found = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(found[1]) * UNITS[(found[2] or "").upper()] if found else value


_DURATION = re.compile(r"([0-9]{1,6})\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(flag: str, text: str | None) -> timedelta | None:
    """What a flag such as --trust-recent=12h says; None where it was not given."""
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip().lower())
    if not found or not int(found[1]):
        raise BadUsage(f"{flag}={show(text)}: must be a whole number of seconds, minutes, hours or days, such as 90m")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def count(flag: str, text: str | None) -> int | None:
    """What a flag such as --max-delete=1000 says; None where it was not given."""
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,15}", text.strip()) or not int(text):
        raise BadUsage(f"{flag}={show(text)}: must be a whole number from 1")
    return int(text)


def _number(value: object) -> object:
    if isinstance(value, bool):  # `glacier_restore_days = true` would be one day
        raise ValueError
    return value


def _one_of(*words: str) -> Callable[[object], object]:
    known = {word.casefold(): word for word in words}
    return lambda value: known.get(value.strip().casefold(), value) if isinstance(value, str) else value


def _command(value: object) -> object:
    if isinstance(value, str) and value.strip():
        try:
            shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}") from None
    return value


def _names(value: object) -> object:
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    return tuple(dict.fromkeys(value)) if isinstance(value, list) and all(isinstance(n, str) for n in value) else value


def _digits(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 64)


@dataclass(frozen=True, slots=True)
class About:
    """What a setting says of itself; `default` where it is computed or None, `native` where the engines differ."""

    description: str
    allowed: str
    cli: str
    native: str = ""
    default: str = ""
    flag: str = ""
    size: bool = False  # in bytes
    starts_program: bool = False  # never taken from the working folder's file, which may be an object's content


Number = BeforeValidator(_number)
Chunk = Annotated[int, Field(ge=64 * KIB, le=GIB), BeforeValidator(_bytes)]
PartSize = Annotated[int, Field(ge=64 * KIB, le=5 * GIB), BeforeValidator(_bytes)]
Threshold = Annotated[int, Field(ge=1, le=50 * TIB), BeforeValidator(_bytes)]
Connections = Annotated[int, Field(ge=1, le=256), Number]
BucketName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,255}$")]
RoleArn = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/.{1,512}$")]
Command = Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]


class Settings(BaseSettings):
    """One consistent set of values; made by `load`, which knows where each came from."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_ignore_empty=True, enable_decoding=False
    )

    local_base_path: Annotated[
        Path | None,
        About(
            "the folder that the buckets come to",
            allowed="a folder",
            cli="a bucket comes to <local_base_path>/<bucket>",
            default="(none)",
            flag="--dest",
        ),
    ] = None
    state_db_path: Annotated[
        Path,
        About(
            "the state file, SQLite",
            allowed="a file",
            cli="what is known of every object version; keep it",
            flag="--state",
        ),
    ] = Path("s3_migration_state.db")
    engine: Annotated[
        Literal["cli", "native"],
        BeforeValidator(_one_of("cli", "native")),
        About(
            "what does the bulk transfer",
            allowed="cli or native",
            cli="aws s3 sync, as subprocesses; what it cannot bring comes by the native engine, a few objects by plain GETs",
            native="the AWS Common Runtime, in worker processes; no AWS CLI is needed",
            flag="--engine",
        ),
    ] = "cli"
    glacier_restore_days: Annotated[
        int,
        Field(ge=1, le=30000),
        Number,
        About(
            "days that a restored copy stays, billed as STANDARD on top",
            allowed="a whole number from 1 to 30000",
            cli="asked of GLACIER and DEEP_ARCHIVE; unless it is set, once the link is measured, as few of these days as the"
            " fetch needs",
        ),
    ] = 7
    glacier_restore_tier: Annotated[
        Literal["Standard", "Expedited", "Bulk"],
        BeforeValidator(_one_of("Standard", "Expedited", "Bulk")),
        About(
            "how fast, and how dear, restores are",
            allowed="Standard, Expedited or Bulk",
            cli="the tier asked for; Deep Archive gets Standard where this says Expedited",
        ),
    ] = "Standard"
    max_glacier_restores: Annotated[
        int,
        Field(ge=1, le=1_000_000_000),
        Number,
        About(
            "restores that may be outstanding at once",
            allowed="a whole number from 1 to 1000000000",
            cli="the rest is asked for as these come back, so that they are fetched before they expire",
        ),
    ] = 100_000
    restore_poll_seconds: Annotated[
        float | None,
        Field(gt=0, le=604800, allow_inf_nan=False),
        Number,
        About(
            "seconds between two looks at what Glacier gave back",
            allowed="a number of seconds above 0, up to 604800 (a week)",
            cli="used while the program is at work or waits, which it does with --wait or on a terminal only; by itself it"
            " looks when something may be back",
            default="(by class and tier)",
        ),
    ] = None
    batch_role_arn: Annotated[
        RoleArn | None,
        About(
            "the IAM role that jobs of S3 Batch Operations run as",
            allowed="the ARN of a role, such as arn:aws:iam::123456789012:role/restores",
            cli="restore --batch needs one that may restore the objects, read the manifest and write the report",
            default="(none)",
        ),
    ] = None
    batch_report_bucket: Annotated[
        BucketName | None,
        About(
            "the bucket that reports of S3 Batch Operations come to",
            allowed="a bucket that is not migrated itself, in the same region",
            cli="restore --batch writes its manifests there too, below migrate-v2/; naming it is the consent to that",
            default="(none)",
        ),
    ] = None
    max_change: Annotated[
        int,
        Field(ge=0, le=100),
        Number,
        About(
            "percent of a bucket's objects that may be gone or overwritten since its last listing",
            allowed="a whole number from 0 to 100",
            cli="if more have changed, and more than 100 objects, work on this bucket stops with exit status 5 until"
            " --accept-changes; 100 never stops it",
        ),
    ] = 5
    excluded_buckets: Annotated[
        tuple[BucketName, ...],
        BeforeValidator(_names),
        About(
            "buckets left out where no bucket is named",
            allowed="bucket names (a list in TOML, comma-separated in the environment)",
            cli="a bucket named on the command line is taken all the same",
            default="(none)",
        ),
    ] = ()
    max_concurrent_downloads: Annotated[
        Connections,
        About(
            "objects that the program fetches itself at once",
            allowed="a whole number from 1 to 256",
            cli="its plain GETs, for the few objects that aws s3 sync and the native engine leave; aws has max_concurrency",
            native="its plain GETs, for what the engine leaves; the engine has max_concurrency",
        ),
    ] = 8
    max_concurrent_verifications: Annotated[
        int,
        Field(ge=1, le=64),
        Number,
        About(
            "local files re-read at once",
            allowed="a whole number from 1 to 64",
            cli="threads that read and hash; on a single hard disk 1 or 2 may be faster",
            default="(one a core)",
        ),
    ] = Field(default_factory=_cores)
    download_chunk_size: Annotated[
        Chunk,
        About(
            "bytes that the program's own GETs read and write at a time",
            allowed="a size from 64KiB to 1GiB, such as 8MB (MB and MiB are 1024 * 1024, as to the AWS CLI)",
            cli="memory for each of max_concurrent_downloads",
            size=True,
        ),
    ] = MIB
    batch_size: Annotated[
        int,
        Field(ge=1, le=100_000),
        Number,
        About(
            "rows that a step takes from the state file at a time",
            allowed="a whole number from 1 to 100000",
            cli="how many small objects a worker of the native engine, which fetches what aws leaves, gets at a time",
            native="how many small objects a worker gets at a time; as many are still to be fetched after a kill",
        ),
    ] = 1000
    db_batch_commit_size: Annotated[
        int,
        Field(ge=1, le=100_000),
        Number,
        About(
            "rows written in one transaction",
            allowed="a whole number from 1 to 100000",
            cli="what a power cut may cost is looked at again by the next run",
        ),
    ] = 1000
    multipart_threshold: Annotated[
        Threshold | None,
        About(
            "size from which an object comes in several ranges",
            allowed="a size from 1 byte to 50TiB, such as 8MB (MB and MiB are 1024 * 1024, as to the AWS CLI)",
            cli="s3.multipart_threshold of each aws s3 sync",
            native="objects below it are one GET",
            default="(tuned)",
            size=True,
        ),
    ] = None
    multipart_chunksize: Annotated[
        PartSize | None,
        About(
            "size of one range",
            allowed="a size from 64KiB to 5GiB, such as 8MB (MB and MiB are 1024 * 1024, as to the AWS CLI)",
            cli="s3.multipart_chunksize of each aws s3 sync",
            native="bytes asked for by one ranged GET",
            default="(tuned)",
            size=True,
        ),
    ] = None
    max_concurrency: Annotated[
        Connections | None,
        About(
            "requests in flight",
            allowed="a whole number from 1 to 256",
            cli="s3.max_concurrent_requests of each aws s3 sync; several may run at once",
            native="requests in flight in all workers together",
            default="(tuned)",
        ),
    ] = None
    use_threads: Annotated[
        bool | None,
        About(
            "whether a transfer may use several connections",
            allowed="true or false",
            cli="false is one request at a time in each aws s3 sync, whatever max_concurrency says",
            native="false is one request at a time in each worker",
            default="(tuned)",
        ),
    ] = None
    aws_path: Annotated[
        Path | None,
        About(
            "an aws program to look at before those on PATH",
            allowed="a file",
            cli="taken if its version is not below the floor",
            native="not used",
            default="(found on PATH)",
            starts_program=True,
        ),
    ] = None
    noncurrent: Annotated[
        Literal["fetch", "keep"],
        BeforeValidator(_one_of("fetch", "keep")),
        About(
            "what becomes of old versions in versioned buckets",
            allowed="fetch or keep",
            cli="fetch: fetched by the program itself and proved like current ones; keep: left in S3, counted as kept",
        ),
    ] = "fetch"
    adopt: Annotated[
        Literal["reflink", "copy", "move"],
        BeforeValidator(_one_of("reflink", "copy", "move")),
        About(
            "how local copies of an older toolkit that lie elsewhere come to their place",
            allowed="reflink, copy or move",
            cli="reflink: sharing blocks where the file system can, else as hard links, whose objects confirm-delete keeps;"
            " copy: as files of their own, hard links of earlier runs too; move: by renaming the old files",
        ),
    ] = "reflink"
    adopt_roots: Annotated[
        tuple[Path, ...],
        About(
            "folders below which absolute paths recorded by an older toolkit may be opened",
            allowed="folders (a list in TOML, separated by : in the environment)",
            cli="beside the destination and the folder of the older state file, where they always may be",
            default="(none)",
        ),
    ] = ()
    metadata: Annotated[
        Literal["none", "head", "full"],
        BeforeValidator(_one_of("none", "head", "full")),
        About(
            "what of an object's metadata is recorded, as no file can hold it",
            allowed="none, head or full",
            cli="none: nothing; head: what HEAD answers, one request an object, and tags where there are some; full: tags, ACL,"
            " annotations and their bodies too, three requests more",
        ),
    ] = "head"
    max_bandwidth: Annotated[
        Bandwidth | None,
        PlainValidator(bandwidth),
        About(
            "bytes a second that all transfers together may take, by local time of day",
            allowed="a rate (20MB/s, MB is 1024 * 1024), off, or a timetable (08:00 5MB/s, 19:00 off)",
            cli="divided among the aws s3 sync at work; they are begun anew, and go on, when the timetable says otherwise",
            native="one limit over all workers, and over plain GETs",
            default="off",
        ),
    ] = None
    max_quarantine: Annotated[
        Threshold | None,
        About(
            "bytes that the quarantine of a bucket may hold",
            allowed="a size from 1 byte to 50TiB, such as 8MB (MB and MiB are 1024 * 1024, as to the AWS CLI)",
            cli="more, and nothing is fetched for this bucket (exit 1) until you have looked; nothing is removed by itself",
            default="(10 % of the bucket, at least 1GiB)",
            size=True,
        ),
    ] = None
    expected_bucket_owner: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")] | None,
        BeforeValidator(_digits),
        About(
            "the account that must own every bucket",
            allowed="12 digits",
            cli="sent with the program's own requests, which S3 refuses for another owner; aws s3 sync cannot send it",
            native="sent with every request",
            default="(not checked)",
        ),
    ] = None
    notify_command: Annotated[
        Command | None,
        BeforeValidator(_command),
        About(
            "a command to run when a phase is earned, a restore is back, or something needs a person",
            allowed="a command line, quoted as for a shell",
            cli="run without a shell, with the event as JSON on its standard input, for 30 s at most",
            default="(none)",
            starts_program=True,
        ),
    ] = None

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _state_is_named: bool = PrivateAttr(default=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is given: a value that came by another way than `load` would have no origin."""
        return (init_settings,)

    def origin(self, name: str) -> str:
        """`default`, `tuned`, the settings file as it was named, the environment variable or the flag."""
        return self._origins.get(name) or ("tuned" if SETTING[name].default == "(tuned)" else "default")

    @property
    def state_is_named(self) -> bool:
        """Whether the operator named the state file; otherwise it is the one that the working folder happens to hold."""
        return self._state_is_named

    def base(self) -> Path:
        """Where buckets come to; BadUsage where nobody has said."""
        if self.local_base_path is None:
            raise BadUsage(
                "where the files shall go is not said: give --dest DIR, or set MIGRATE_V2_LOCAL_BASE_PATH, "
                f"or local_base_path in {CONFIG_NAME}"
            )
        return self.local_base_path


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table of settings. `default` could be written in a file, unless it is in brackets."""

    name: str
    variable: str
    flag: str
    default: str
    allowed: str
    description: str
    cli: str
    native: str
    size: bool
    starts_program: bool


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting in force. `value` fits JSON, sizes in bytes; `text` is for people, without control characters."""

    name: str
    value: str | int | float | bool | tuple[str, ...] | None
    text: str
    origin: str
    meaning_cli: str
    meaning_native: str
    description: str


def rows(settings: Settings) -> Iterable[SettingRow]:
    """Every setting in the order of TABLE, with the value in force and where it came from."""
    for setting in TABLE:
        value = getattr(settings, setting.name)
        yield SettingRow(
            setting.name,
            _plain(value),
            _text(value.text if isinstance(value, Bandwidth) else value, setting.size) or setting.default,
            settings.origin(setting.name),
            setting.cli,
            setting.native,
            setting.description,
        )


def _plain(value: Any) -> str | int | float | bool | tuple[str, ...] | None:
    match value:
        case Bandwidth():
            return value.text
        case Path():
            return str(value)
        case tuple():
            return tuple(map(str, value))
    plain: str | int | float | bool | None = value
    return plain


def load(flags: Mapping[str, str | None], config: str | None, environ: Mapping[str, str], cwd: Path) -> Settings:
    """Defaults, settings file, environment and flags (by the setting's name) in one; later wins. BadUsage in one line.

    An empty environment variable is not set; a flag of None was not given, an empty one is wrong. Relative paths are
    relative to `cwd` wherever they are written, and come out absolute; `~` is HOME. Refused: a settings file among the
    objects of a bucket or of doubtful ownership, and settings of the working folder's file that start a program.
    """
    found = _read(flags.get("local_base_path"), config, environ, cwd)
    table, label = found.table, found.label
    if found.unnamed:
        _refuse_programs(table, environ)
    unknown = [*_unknown_keys(table, label), *_unknown_variables(environ), *_unknown_flags(flags)]
    if unknown:
        raise BadUsage("; ".join(unknown))

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value in table.items():
        values[name], origins[name] = value, label
    for name, value in _environment(environ).items():
        values[name], origins[name] = value, SETTING[name].variable
    for name, value in flags.items():
        if value is not None:
            values[name], origins[name] = value, SETTING[name].flag or "the command line"

    wrong: dict[str, str] = {}
    fit = dict(values)
    for name in PATHS:
        try:
            fit[name] = _placed(values.get(name, Settings.model_fields[name].default), environ, cwd)
        except ValueError as error:
            wrong[name] = _wrong(name, values[name], origins[name], str(error))
            del fit[name]
    for name in PATH_LISTS:
        try:
            fit[name] = _all_placed(values.get(name, ()), environ, cwd)
        except ValueError as error:
            wrong[name] = _wrong(name, values[name], origins[name], str(error))
            del fit[name]
    try:
        settings = Settings(**fit)
    except ValidationError as refused:
        for fault in refused.errors():
            name, inside = str(fault["loc"][0]), fault["loc"][1:]
            # Of a list, the one entry that is wrong; of anything else, what was written and not what was made of it.
            value = fault["input"] if inside and isinstance(values[name], list | str) else values[name]
            wrong.setdefault(name, _wrong(name, value, origins[name], str(fault.get("ctx", {}).get("error", ""))))
    if wrong:
        raise BadUsage("; ".join(wrong.values()))
    settings._origins = origins
    settings._state_is_named = "state_db_path" in origins and not (found.unnamed and origins["state_db_path"] == label)
    if found.path is not None:
        _must_be_outside(found.path, settings.local_base_path)
    if settings.aws_path is not None:
        ownfiles.must_be_outside(settings.aws_path, "aws_path", settings.local_base_path)
    return settings


@dataclass(frozen=True, slots=True)
class _SettingsFile:
    """What a settings file says. `label`: what to call it; `unnamed`: it is the working folder's, which nobody named."""

    table: dict[str, Any]
    label: str = ""
    path: Path | None = None
    unnamed: bool = False


def _read(dest: str | None, config: str | None, environ: Mapping[str, str], cwd: Path) -> _SettingsFile:
    """The settings file. One that somebody named has to be there; else there may be none."""
    source = CONFIG_VARIABLE if config is None else "--config"
    named = environ.get(CONFIG_VARIABLE) or None if config is None else config
    bases = _bases(dest, environ, cwd)
    if named is None:
        for path in _usual_files(environ, cwd):
            # Before a look at it: a folder of this name among the objects of a bucket is a reason to stop, too.
            if os.path.lexists(path):
                _must_be_outside(path, *bases)
            with suppress(FileNotFoundError, NotADirectoryError):
                unnamed = path.parent == cwd
                label = CONFIG_NAME if unnamed else show(str(path))
                return _SettingsFile(_parsed(path, label), label, path, unnamed)
        return _SettingsFile({})
    label = show(named)
    try:
        path = _absolute(named, environ, cwd)
        _must_be_outside(path, *bases)
        return _SettingsFile(_parsed(path, label), label, path)
    except (FileNotFoundError, NotADirectoryError):
        raise BadUsage(f"settings file {label} (from {source}) does not exist") from None
    except ValueError as error:
        raise BadUsage(f"settings file '{label}' (from {source}): {str(error) or 'must be a file'}") from None


def _must_be_outside(path: Path, base: Path | None = None, *more: Path) -> None:
    ownfiles.must_be_outside(path, "the settings file", base, *more, cure="name another settings file with --config")


def _bases(dest: str | None, environ: Mapping[str, str], cwd: Path) -> list[Path]:
    """The destinations that are known before the settings file is read: the flag's, the environment's, and that of the
    user's own settings file, which the working folder's takes the place of."""
    found = [dest, environ.get(PREFIX + "LOCAL_BASE_PATH")]
    for path in [path for path in _usual_files(environ, cwd) if path.parent != cwd]:
        with suppress(OSError, ValueError, RecursionError, Refused):
            found.append(tomllib.loads(ownfiles.read_trusted(path, "").decode("utf-8-sig")).get("local_base_path"))
    bases = []
    for text in found:
        if isinstance(text, str):
            with suppress(ValueError):
                bases.append(_absolute(text, environ, cwd))
    return bases


def _refuse_programs(table: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    programs = [name for name in table if name in SETTING and SETTING[name].starts_program]
    if not programs:
        return
    usual = [str(path) for path in _usual_files(environ, Path()) if path.is_absolute()]
    places = [f"put it into {show(usual[0])}"] if usual else []
    places += [f"set {SETTING[programs[0]].variable}", f"name the file with --config={CONFIG_NAME}"]
    raise Refused(
        f"{programs[0]} starts a program, so it is not taken from ./{CONFIG_NAME}, which the working folder may have from"
        f" anybody: {', '.join(places[:-1])}, or {places[-1]}"
    )


def _usual_files(environ: Mapping[str, str], cwd: Path) -> Iterable[Path]:
    yield cwd / CONFIG_NAME
    # The XDG base directory specification has relative paths ignored.
    folders = (Path(environ.get("XDG_CONFIG_HOME", "")), Path(environ.get("HOME", "")) / ".config")
    yield from [folder / "migrate-v2" / "config.toml" for folder in folders if folder.is_absolute()][:1]


def _parsed(file: Path, label: str) -> dict[str, Any]:
    raw = b""
    try:
        raw = ownfiles.read_trusted(file, "the settings file")
        return tomllib.loads(raw.decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise BadUsage(f"settings file {label} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadUsage(f"settings file {label} is not UTF-8 at line {line}") from None
    except (ValueError, RecursionError) as error:
        why = str(error).replace("at end of document", f"at line {len(raw.splitlines())}, the end of the file")
        raise BadUsage(f"settings file {label} is not TOML: {why}") from None


def file_in_use(config: str | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The settings file that `load` reads, or the one it would read first where there is none."""
    named = environ.get(CONFIG_VARIABLE) or None if config is None else config
    if named is not None:
        return _absolute(named, environ, cwd)
    return next((file for file in _usual_files(environ, cwd) if file.is_file()), cwd / CONFIG_NAME)


ADVISED = "# advised by diagnose"


def with_advice(text: str, advice: Mapping[str, str | int]) -> tuple[str, list[str]]:
    """The text of a settings file with these settings in it, and the names of those that stay as the operator has them.

    Lines that an earlier advice wrote are written anew; nothing else of the text changes. Refused: a text in which that
    cannot be done for certain.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(mark)
    newline = "\r\n" if "\r\n" in text else "\n"
    before = tomllib.loads(text)
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    ours = re.compile(rf"^([a-z_]+) = .*{re.escape(ADVISED)}$")
    wanted: dict[str, object] = dict(before)
    staying: list[str] = []
    new: dict[str, str] = {}
    advised = {found[1] for line in lines if (found := ours.match(line))}
    for name, value in advice.items():
        if name in before and name not in advised:
            staying.append(name)
            continue
        wanted[name] = value
        new[name] = f"{name} = {json.dumps(value)}  {ADVISED}"
    replaced = []
    for line in lines:
        found = ours.match(line)
        replaced.append(new.pop(found[1]) if found and found[1] in new else line)
    # In front of the first table: below it they would be settings of the table.
    at = next((n for n, line in enumerate(replaced) if line.lstrip().startswith("[")), len(replaced))
    replaced[at:at] = new.values()
    after = newline.join(replaced) + newline
    try:
        certain = tomllib.loads(after) == wanted
    except tomllib.TOMLDecodeError:
        certain = False
    if not certain:
        raise Refused("the settings file cannot be changed for certain; write these settings into it yourself")
    return mark + after, staying


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    # It has read the environment of this process by itself; what counts is the one that was passed.
    source.env_vars = {name.lower(): value for name, value in environ.items() if name.startswith(PREFIX) and value}
    return source()


def _unknown_keys(table: Mapping[str, Any], label: str, above: str = "") -> Iterable[str]:
    for key, value in table.items():
        # One dotted key of a thousand parts makes a thousand tables; nobody means more than a few.
        if isinstance(value, dict) and value and above.count(".") < 5 and (above or key not in SETTING):
            yield from _unknown_keys(value, label, f"{above}{key}.")
        elif above or key not in SETTING:
            meant = _meant(f"{above}{key}") or _meant(key)
            yield f"no setting {show(above + key)} (in {label}){_rather(meant)}"


def _unknown_variables(environ: Mapping[str, str]) -> Iterable[str]:
    known = {setting.variable for setting in TABLE} | {CONFIG_VARIABLE}
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            meant = _meant(name.removeprefix(PREFIX), "config")
            # The name only: what stands in a variable that nobody knows may be a secret.
            yield f"no setting {show(name)} (in the environment){_rather(meant and PREFIX + meant.upper())}"


def _unknown_flags(flags: Mapping[str, str | None]) -> Iterable[str]:
    return (
        f"no setting {show(name)} (on the command line){_rather(_meant(name))}" for name in flags if name not in SETTING
    )


def _meant(name: str, *others: str) -> str:
    """The setting that is nearest by its own name or its flag's, or one of the others; empty where nothing is near."""
    known = {setting.flag.strip("-"): setting.name for setting in TABLE if setting.flag}
    known |= {word: word for word in (*others, *SETTING)}
    word = re.sub(r"\W", "_", name.lower())
    holding = [one for one in known if word in one]
    near = holding if len(holding) == 1 else difflib.get_close_matches(word, known, 1)
    return known[near[0]] if near else ""


def _rather(meant: str) -> str:
    return f"; did you mean {meant}?" if meant else "; the README lists them all"


def _placed(value: object, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The path of a setting; None is the default of some. ValueError for anything that is not a path."""
    if isinstance(value, Path):
        return cwd / value
    if value is not None and not isinstance(value, str):
        raise ValueError
    return None if value is None else _absolute(value, environ, cwd)


def _all_placed(value: object, environ: Mapping[str, str], cwd: Path) -> tuple[Path, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(os.pathsep) if part]
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise ValueError
    return tuple(dict.fromkeys(_absolute(part, environ, cwd) for part in value))


def _absolute(text: str, environ: Mapping[str, str], cwd: Path) -> Path:
    if not text.strip() or "\0" in text:
        raise ValueError
    first, _, rest = text.partition("/")
    if not first.startswith("~"):
        return cwd / text
    # `~bob` unexpanded would be a folder of that name, filled with somebody's data.
    if first != "~" or not environ.get("HOME"):
        raise ValueError("only ~ and ~/ are read as a home, and only where HOME is set; write the folder out")
    return cwd / environ["HOME"] / rest.lstrip("/")


def _wrong(name: str, value: object, origin: str, why: str) -> str:
    if isinstance(value, str):
        text = f"'{show(value[:60])}{'...' * (len(value) > 60)}'"
    else:
        text = "a table" if isinstance(value, dict) else f"{value!r:.80}"
    return f"{name} = {text} (from {origin}): {why or 'must be ' + SETTING[name].allowed}"


def _text(value: object, size: bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(show(str(one)) for one in value)
    if isinstance(value, int) and size:
        unit, factor = next((u, f) for u, f in reversed(UNITS.items()) if value % f == 0)
        return f"{value // factor}{unit and unit + 'iB'}"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else show(str(value))


def _setting(name: str) -> Setting:
    field = Settings.model_fields[name]
    about = next(fact for fact in field.metadata if isinstance(fact, About))
    return Setting(
        name=name,
        variable=PREFIX + name.upper(),
        flag=about.flag,
        default=about.default or _text(field.default, about.size),
        allowed=about.allowed,
        description=about.description,
        cli=about.cli,
        native=about.native or about.cli,
        size=about.size,
        starts_program=about.starts_program,
    )


TABLE = tuple(_setting(name) for name in Settings.model_fields)
SETTING = {setting.name: setting for setting in TABLE}
PATHS = tuple(name for name, field in Settings.model_fields.items() if field.annotation in (Path, Path | None))
PATH_LISTS = tuple(name for name, field in Settings.model_fields.items() if field.annotation == tuple[Path, ...])
