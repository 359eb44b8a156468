"""Everything that a person, a script or the log learns goes through here: escaped, redacted, and each to its stream."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import logging
import math
import os
import re
import shlex
import stat
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime
from json import dumps
from pathlib import Path
from types import TracebackType
from typing import TextIO, assert_never, cast

from loguru import logger
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from migrate_v2.errors import NotFinished, Refused
from migrate_v2.events import (
    Ended,
    Event,
    Failed,
    Found,
    Noted,
    PhaseEarned,
    Progress,
    Stands,
    Started,
    Waiting,
    Warned,
)
from migrate_v2.keys import are, count_of, show
from migrate_v2.model import Phase, Verdict

FOUND_LINES = 20  # of one bucket and verdict on the screen; the log and --json have them all
PLAIN_SECONDS = 10.0  # between two lines of progress of one step, in a log or a pipe
RATE_SECONDS = 30.0  # that a rate looks back
BLOCK = 1000  # rows of a table on a terminal: its columns are measured before it is drawn, and memory stays flat
LOG_BYTES = 10_000_000
LOGS_KEPT = 3

Step = tuple[str, str]  # bucket, verb

# Their byte figure is what the objects weigh, not what has been moved: a rate in bytes would be a boast.
COUNTING_VERBS = ("scan", "restore", "delete", "upgrade")

# What names a thing in JSON stays as it is, or a script could not find the object again.
NAMING = ("bucket", "key", "version_id")


# Words


@dataclass(frozen=True, slots=True)
class Bytes:
    """A cell of a table that is a size: plain digits in a pipe, `1.2 GB` on a terminal."""

    count: int


def human(count: float) -> str:
    """A size in decimal units, as AWS bills it: `999 B`, `1.2 kB`, `35 MB`."""
    value, sign = abs(count), "-" if count < 0 else ""
    if value < 999.5:
        return f"{sign}{value:.0f} B"
    for unit in ("kB", "MB", "GB", "TB", "PB", "EB"):
        value /= 1000
        if value < 9.95:
            return f"{sign}{value:.1f} {unit}"
        if value < 999.5:
            return f"{sign}{value:.0f} {unit}"
    return f"{sign}{value:,.0f} EB"


def span(seconds: float) -> str:
    """A duration in its two largest units: `0.4 s`, `1 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole, 60, "min", "s")
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return _two(minutes, 60, "h", "min")
    return _two(round(seconds / 3600), 24, "d", "h")


def _two(amount: int, size: int, large: str, small: str) -> str:
    whole, rest = divmod(amount, size)
    return f"{whole:,} {large} {rest} {small}" if rest else f"{whole:,} {large}"


def _weighed(figures: tuple[int, int]) -> str:
    objects, size = figures
    return f"{objects:,} ({human(size)})" if size else f"{objects:,}"


_MASK = "****"
_ASSIGNED = r"""\\?["']?\s*(?:=|:|>|%3[dD])\s*(?:b?\\?["'])?"""
_SECRETS = (
    # AWS access key ids are these four letters and 16 or more; the letters tell long-lived from temporary.
    (re.compile(r"(AKIA|ASIA)[A-Z0-9]{12,}"), rf"\1{_MASK}"),
    (re.compile(rf"""(?i)(authorization{_ASSIGNED})(?:(?<=["'])[^"'\n]*|(?<!["'])[^\n]*)"""), rf"\1{_MASK}"),
    (
        re.compile(
            r"(?i)((?:signature(?:provided)?|secret[-_ ]?access[-_ ]?key|aws_secret_key"
            rf"|(?:session|security)[-_ ]?token|encryption-customer-key){_ASSIGNED})[^\s\"'&,;<>]+"
        ),
        rf"\1{_MASK}",
    ),
    (re.compile(r"(?i)(\bbearer\s+)[^\s\"',;]+"), rf"\1{_MASK}"),
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+(?=@)"), rf"\1{_MASK}"),  # https://user:password@proxy
)

# Every pattern above needs one of these; looking for them first makes a listing 15 times faster (23 to 1.5 us a key).
_HINTS = ("akia", "asia", "authorization", "signature", "secret", "token", "customer-key", "bearer", "://")


def redact(text: str) -> str:
    """The text without what would let its reader act as somebody else; twice is as good as once.

    Masks access key ids after their first four letters, signatures, tokens, Authorization headers to their end,
    assignments to a secret access key, and passwords in URLs. A bare secret with no name beside it looks like any
    checksum and is not seen.
    """
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def clean(text: str) -> str:
    """What may go to a terminal or into the log: one line, nothing that steers, nothing secret.

    For each part of a line by itself: `show` marks a space at either end, which in the middle would not be seen.
    """
    return show(redact(text))


def prose(text: str) -> str:
    """`clean` for a message, in which names may have been escaped where it was made: backslashes are not doubled."""
    return clean(text).replace("\\\\", "\\")


def sentence(event: Event) -> str:
    """The event in plain English: one line, clean."""
    where = f"{clean(event.bucket)}: " if event.bucket else ""
    match event:
        case Noted() | Warned():
            return where + prose(event.text)
        case Started():
            known = [count_of(event.total_objects, "object")] if event.total_objects else []
            known += [human(event.total_bytes)] if event.total_bytes else []
            return ", ".join([f"{event.verb} {where}starts", *known])
        case Progress():
            return Course(event.bucket, event.verb, event.total_objects, event.total_bytes).at(0.0, event).line()
        case Ended():
            size = f", {human(event.bytes)}" if event.bytes else ""
            rate = _rate(event.verb, event.objects, event.bytes, event.seconds)
            done = f"{count_of(event.objects, 'object')}{size} in {span(event.seconds)}"
            return f"{event.verb} {where}{done}" + (f", {rate}" if rate else "")
        case Found():
            version = "" if event.version_id in ("", "null") else f" (version {clean(event.version_id)})"
            parts = [prose(part) for part in (event.verdict, event.reason) if part]
            return f"{where}{clean(event.key)}{version}: {', '.join(parts) or 'not in order'}"
        case PhaseEarned():
            return f"{where}{_words(event.earned)} done, {_next(event)}"
        case Waiting():
            look = f"; next look in {span(event.seconds)}" if event.seconds > 0 else ""
            size = f" ({human(event.bytes)})" if event.bytes else ""
            return (
                f"{where}{count_of(event.objects, 'object')}{size} {are(event.objects)} not back from Glacier yet{look}"
            )
        case Failed():
            how = "not finished" if event.code == NotFinished.code else f"failed, exit status {event.code}"
            return f"{where}{how}: {prose(event.text)}"
        case Stands():
            return f"{where}{_words(event.phase)} ... {_sum(event)}"
        case _:
            assert_never(event)


def _words(phase: Phase) -> str:
    return phase.value.replace("_", " ")


def _next(event: PhaseEarned) -> str:
    match event.phase:
        case Phase.COMPLETE:
            return "the bucket is complete"
        case Phase.DELETING:
            return f"next is deleting, by `migrate-v2 confirm-delete {clean(shlex.quote(event.bucket))}`"
        case _:
            return f"next is {_words(event.phase)}"


def _sum(event: Stands) -> str:
    """Its own arithmetic is checked: an equals sign that is not true would be the worst line of the program."""
    names = ("verified", "unprovable", "kept", "failed", "deleted", "pending")
    parts: dict[str, tuple[int, int]] = {name: getattr(event, name) for name in names}
    parts["gone"] = event.gone.total
    total = (sum(objects for objects, _ in parts.values()), sum(size for _, size in parts.values()))
    added = " + ".join(f"{name} {_weighed(figures)}" for name, figures in parts.items())
    if total == event.listed:
        return f"listed {_weighed(event.listed)} = {added}"
    return f"listed {_weighed(event.listed)}, which is not {added}: the state file contradicts itself"


def _rate(verb: str, objects: float, size: float, seconds: float) -> str:
    if seconds <= 0 or objects <= 0 >= size:
        return ""
    if size <= 0 or verb in COUNTING_VERBS:
        a_second = objects / seconds
        return f"{a_second:,.0f} objects/s" if a_second >= 9.95 else f"{a_second:.1f} objects/s"
    return f"{human(size / seconds)}/s"


@dataclass(slots=True)
class Course:
    """How a step has been going: its rate is that of the last half minute, its ETA the later of objects' and bytes'."""

    bucket: str
    verb: str
    total_objects: int = 0
    total_bytes: int = 0
    objects: int = 0
    bytes: int = 0
    told: float = 0.0  # when a plain line last told of it
    seen: deque[tuple[float, int, int]] = field(default_factory=deque)  # when, objects, bytes

    def at(self, now: float, event: Progress) -> Course:
        self.objects, self.bytes = event.objects, event.bytes
        self.total_objects = event.total_objects or self.total_objects
        self.total_bytes = event.total_bytes or self.total_bytes
        # At most two samples a second are kept, or a fast step would fill the window with thousands.
        if len(self.seen) >= 2 and now - self.seen[-2][0] < 0.5:
            self.seen.pop()
        self.seen.append((now, event.objects, event.bytes))
        while len(self.seen) > 2 and now - self.seen[1][0] >= RATE_SECONDS:
            self.seen.popleft()
        return self

    def _moved(self) -> tuple[float, int, int]:
        """Seconds, objects, bytes; never less than nothing, though the CLI restarts files."""
        if len(self.seen) < 2:
            return 0.0, 0, 0
        (then, objects, size), (now, objects_now, size_now) = self.seen[0], self.seen[-1]
        return now - then, max(objects_now - objects, 0), max(size_now - size, 0)

    def rate(self) -> str:
        seconds, objects, size = self._moved()
        return _rate(self.verb, objects, size, seconds)

    def left(self) -> float | None:
        """Seconds, or None where totals or rates are not known."""
        seconds, objects, size = self._moved()
        estimates = []
        if objects and self.total_objects > self.objects:
            estimates.append((self.total_objects - self.objects) * seconds / objects)
        if size and self.total_bytes > self.bytes and self.verb not in COUNTING_VERBS:
            estimates.append((self.total_bytes - self.bytes) * seconds / size)
        return max(estimates, default=None)

    def line(self) -> str:
        """`sync logs-2019: 1,204 of 9,000 objects, 1.2 GB of 4.0 GB, 35 MB/s, 1 min 20 s left`"""
        total = self.total_objects
        parts = [f"{self.objects:,} of {count_of(total, 'object')}" if total else count_of(self.objects, "object")]
        if self.total_bytes:
            parts.append(f"{human(self.bytes)} of {human(self.total_bytes)}")
        elif self.bytes:
            parts.append(human(self.bytes))
        left = self.left()
        parts += [self.rate()] if self.rate() else []
        parts += [f"{span(left)} left"] if left is not None else []
        where = f" {clean(self.bucket)}" if self.bucket else ""
        return f"{self.verb}{where}: " + ", ".join(parts)

    def amount(self) -> str:
        """The same for the end of a bar, where 80 columns must do."""
        parts = [f"{self.objects:,}/{self.total_objects:,}" if self.total_objects else f"{self.objects:,}"]
        if self.total_bytes:
            parts.append(f"{human(self.bytes)}/{human(self.total_bytes)}")
        elif self.bytes:
            parts.append(human(self.bytes))
        left = self.left()
        parts += [self.rate()] if self.rate() else []
        parts += [span(left)] if left is not None else []
        return "  ".join(parts)

    def share(self) -> tuple[float, float | None]:
        """Done, and the whole if that is known; in bytes where bytes are what takes the time."""
        if self.total_bytes and self.verb not in COUNTING_VERBS:
            return min(self.bytes, self.total_bytes), self.total_bytes
        return (min(self.objects, self.total_objects), self.total_objects) if self.total_objects else (0, None)


# JSON


def event_json(event: Event, when: datetime) -> str:
    """One line of ASCII, with keys exact: a lone surrogate is `\\udc80` and comes back as it was."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    told: dict[str, object] = {"event": name, "time": when.astimezone(UTC).isoformat(timespec="milliseconds")}
    for each in fields(event):
        value = getattr(event, each.name)
        if isinstance(value, tuple):
            value = {"objects": value[0], "bytes": value[1]}
        told[each.name] = _plain(value, each.name)
    return dumps(told, ensure_ascii=True, allow_nan=False)


def _plain(value: object, name: str = "") -> object:
    if isinstance(value, str):
        # The name goes along, because {"aws_secret_access_key": "..."} is an assignment too.
        return str(value) if name in NAMING else redact(f"{name}={value}").removeprefix(f"{name}=")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Bytes):
        return value.count
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, str(key)) for key, item in value.items()}
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name), each.name) for each in fields(value)}
    if isinstance(value, Collection):
        return [_plain(item, name) for item in value]
    return redact(str(value))


# Streams


class Outlet:
    """A stream that the program outlives: when its reader is gone, what follows goes nowhere, and `fault` says why."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None: Python gives that for a descriptor that was closed when it started
        self.encoding = (stream.encoding if stream else None) or "utf-8"
        self.fault: OSError | None = None
        self.terminal = self.isatty()
        # A terminal that does not move its cursor, or of which nothing is known, gets lines like a pipe.
        self.moves = self.terminal and os.environ.get("TERM", "") not in ("", "dumb", "unknown")

    @property
    def gone(self) -> bool:
        return self._stream is None

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                # A stream in ASCII or Latin-1 must not end a migration over a letter.
                self._write(self._stream, text.encode(self.encoding, "backslashreplace"))
            except OSError as error:
                self._lose(error)
            except ValueError:  # closed
                self._stream = None
        return len(text)

    def _write(self, stream: TextIO, encoded: bytes) -> None:
        raw = getattr(stream, "buffer", None)
        if not isinstance(raw, io.RawIOBase):
            stream.write(encoded.decode(self.encoding))
            return
        # PYTHONUNBUFFERED, as containers set it: the text layer then drops what a short write left over. 3 MB to a disk
        # with room for one came out as 1 MB, without an error (CPython 3.11).
        rest = memoryview(encoded)
        while rest:
            written = raw.write(rest)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            rest = rest[written:]

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)
            except ValueError:
                self._stream = None

    def _lose(self, error: OSError) -> None:
        # What is left in the buffer is flushed when the interpreter ends, which would then complain and exit with 120:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        with contextlib.suppress(OSError, ValueError):
            descriptor = self.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        self.fault, self._stream = error, None


def _same_terminal(outlet: Outlet) -> bool:
    """Whether what is written there is seen at the terminal of standard input."""
    try:
        return os.fstat(outlet.fileno()).st_rdev == os.fstat(0).st_rdev
    except OSError:
        return False


def _write_to_terminal(text: str) -> bool:
    """Whether the whole text was written to the terminal of standard input, or else to that of the session."""
    for path in (_terminal_path(), "/dev/tty"):
        if path is None:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
            with open(descriptor, "wb", buffering=0) as terminal:  # noqa: PTH123 - a descriptor
                rest = memoryview(text.encode("utf-8", "backslashreplace"))
                while rest:
                    rest = rest[terminal.write(rest) :]
                return True
    return False


def _terminal_path() -> str | None:
    try:
        return os.ttyname(0)
    except OSError:  # not a terminal, or one of another mount namespace
        return None


def _console(outlet: Outlet, clock: Callable[[], float]) -> Console:
    return Console(
        file=cast(TextIO, outlet),
        force_terminal=outlet.terminal,
        force_interactive=outlet.moves,
        force_jupyter=False,
        # rich's own answer to NO_COLOR still sets bold type.
        color_system="auto" if outlet.moves and not os.environ.get("NO_COLOR") else None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
        get_time=clock,
    )


class Bars:
    """What is under way, at the foot of a terminal.

    It draws only when it is told something: no thread of its own, because the program forks.
    """

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._progress: RichProgress | None = None
        self._drawn = -math.inf
        self._rows: dict[Step, tuple[str, float, float | None]] = {}  # amount, done, total
        self._tasks: dict[Step, TaskID] = {}

    def put(self, step: Step, amount: str, done: float, total: float | None) -> None:
        new = step not in self._rows
        self._rows[step] = (amount, done, total)
        now = self._clock()
        if new or now - self._drawn >= 0.1:
            self._drawn = now
            self._draw()

    def drop(self, step: Step) -> None:
        if self._rows.pop(step, None) is None:
            return
        task = self._tasks.pop(step, None)
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)
            self._progress.refresh()
        if not self._rows:
            self.pause()

    def pause(self) -> None:
        """Take the bars away; the next `put` draws them again."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks = None, {}
        self._drawn = -math.inf

    def _draw(self) -> None:
        if self._progress is None:
            self._progress = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[amount]}", markup=False),
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                get_time=self._clock,
            )
            self._progress.start()
        for step, (amount, done, total) in self._rows.items():
            bucket, verb = step
            label = Text(clean(f"{verb} {bucket}"))
            label.truncate(max(self._console.width - 16 - 2 - len(amount), 12), overflow="ellipsis")
            task = self._tasks.get(step)
            if task is None:
                task = self._tasks[step] = self._progress.add_task(label.plain, total=total, amount=amount)
            self._progress.update(task, description=label.plain, completed=done, total=total, amount=amount)
        self._progress.refresh()


# The log


def _private(path: str, flags: int) -> int:
    """An opener that never follows a link that somebody put there, never waits, and never leaves the file to others."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            os.fchmod(descriptor, 0o600)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _pruning(path: Path) -> Callable[[list[str]], None]:
    """loguru's own retention counts whatever is named like the log; a neighbour's `name.log.bak` must stay."""
    moment = r"\.\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{6}(\.\d+)?"
    rotated = re.compile(re.escape(path.stem) + moment + re.escape(path.suffix))

    def prune(neighbours: list[str]) -> None:
        ours = sorted(name for name in neighbours if rotated.fullmatch(Path(name).name))
        for old in ours[:-LOGS_KEPT]:
            Path(old).unlink(missing_ok=True)

    return prune


def _log_format(record: object) -> str:
    # A function, because loguru adds the exception with its own traceback to a format that is a string.
    return "{time:YYYY-MM-DDTHH:mm:ss.SSS!UTC}Z {process} {level} {message}\n"


# The report


class Report:
    """The one voice of a run: `tell` it events, `say` and `error` talk, `document` and `table` are the data.

    stdout carries data only. With `json` that is one line an event; `lines=False` is for the commands that print one
    document, whose events then go to stderr only. A reader of stdout that goes away does not stop the work.
    `clock` counts seconds, from any start.
    """

    def __init__(
        self,
        *,
        json: bool,
        quiet: bool,
        verbose: bool,
        log_path: Path | None,
        stdout: TextIO | None,
        stderr: TextIO | None,
        lines: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._json = json
        self._lines = json and lines
        self._quiet = quiet
        self._verbose = verbose
        self._log_path = log_path
        self._clock = clock
        self._lock = threading.RLock()
        self._out = Outlet(stdout)
        self._err = Outlet(stderr)
        self._talk = _console(self._err, clock) if self._err.moves else None
        # JSON lines on the same terminal would run into the bars.
        shared = self._lines and self._out.terminal
        self._bars = Bars(self._talk, clock) if self._talk and not quiet and not shared else None
        self._courses: dict[Step, Course] = {}
        self._found: dict[tuple[str, Verdict | None], int] = {}
        self._waits: dict[str, tuple[float, float]] = {}  # bucket: seconds at first, seconds now
        self._sink: int | None = None
        self._fault_told = False
        self._library = logging.Handler(logging.WARNING)
        self._library.addFilter(self._overhear)

    def __enter__(self) -> Report:
        logger.remove()
        # Not only for the log: without a handler, logging prints warnings to stderr as they come.
        logging.getLogger().addHandler(self._library)
        logging.captureWarnings(True)
        if self._log_path is not None:
            try:
                self._sink = logger.add(
                    str(self._log_path).replace("{", "{{").replace("}", "}}"),
                    format=_log_format,
                    level="INFO",
                    rotation=LOG_BYTES,
                    retention=_pruning(self._log_path),
                    watch=True,  # another process may have rotated it
                    opener=_private,
                    encoding="utf-8",
                    errors="backslashreplace",
                    colorize=False,
                    backtrace=False,
                    diagnose=False,
                    catch=False,
                )
            except OSError as error:
                self.tell(Warned("", f"this run keeps no log: {self._log_path}: {error.strerror or error}"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for bucket in dict.fromkeys(bucket for bucket, _ in self._found):
                self._tell_uncounted(bucket)
            if self._bars:
                self._bars.pause()
            self._out.flush()
            self._err.flush()
            self._close_log()
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(self._library)

    @property
    def stdout_fault(self) -> OSError | None:
        """Why stdout was given up: a BrokenPipeError where the reader left, anything else lost data."""
        return self._out.fault

    # Events

    def tell(self, event: Event) -> None:
        with self._lock:
            ticking = self._ticking(event)
            if self._lines and not ticking:
                self._out.write(event_json(event, datetime.now(UTC)) + "\n")
                self._out.flush()
            match event:
                case Started():
                    now = self._clock()
                    course = Course(event.bucket, event.verb, event.total_objects, event.total_bytes, told=now)
                    course.seen.append((now, 0, 0))
                    self._courses[event.bucket, event.verb] = course
                    self._line(sentence(event), screen=self._bars is None)
                    self._show(course)
                case Progress():
                    self._go(event)
                case Ended():
                    self._over((event.bucket, event.verb))
                    self._tell_uncounted(event.bucket)
                    self._line(sentence(event))
                case Found():
                    kind = (event.bucket, event.verdict)
                    self._found[kind] = self._found.get(kind, 0) + 1
                    few = self._verbose or self._found[kind] <= FOUND_LINES
                    self._line(sentence(event), style="red" if event.verdict is Verdict.DIFFERS else "", screen=few)
                case Waiting():
                    self._wait(event, ticking)
                case Warned():
                    self._line(f"warning: {sentence(event)}", "WARNING", "yellow", always=True)
                case Failed():
                    for step in [step for step in self._courses if step[0] == event.bucket]:
                        self._over(step)
                    self._tell_uncounted(event.bucket)
                    self._line(sentence(event), "ERROR", "red", always=True)
                case Noted():
                    self._line(sentence(event))
                case PhaseEarned() | Stands():
                    self._tell_uncounted(event.bucket)
                    self._line(sentence(event))
                case _:
                    assert_never(event)
            self._tell_fault()

    def _ticking(self, event: Event) -> bool:
        """Whether this is a Waiting that only counts down the one before it; any other event ends its bucket's wait."""
        if not isinstance(event, Waiting):
            if self._waits.pop(event.bucket, None) and self._bars:
                self._bars.drop((event.bucket, "wait"))
            return False
        first, before = self._waits.get(event.bucket, (event.seconds, -math.inf))
        ticking = event.seconds < before
        self._waits[event.bucket] = (first if ticking else event.seconds, event.seconds)
        return ticking

    def _wait(self, event: Waiting, ticking: bool) -> None:
        if not ticking:
            self._line(sentence(event), screen=self._bars is None)
        if self._bars:
            first, now = self._waits[event.bucket]
            size = f"  {human(event.bytes)}" if event.bytes else ""
            amount = f"{count_of(event.objects, 'object')}{size}  look in {span(math.ceil(max(now, 0)))}"
            self._bars.put((event.bucket, "wait"), amount, first - now, first or None)

    def _go(self, event: Progress) -> None:
        now = self._clock()
        step = (event.bucket, event.verb)
        course = self._courses.setdefault(step, Course(event.bucket, event.verb, told=-math.inf)).at(now, event)
        if now - course.told >= PLAIN_SECONDS:
            course.told = now
            self._line(course.line(), screen=self._bars is None)
        self._show(course)

    def _show(self, course: Course) -> None:
        if self._bars:
            self._bars.put((course.bucket, course.verb), course.amount(), *course.share())

    def _over(self, step: Step) -> None:
        self._courses.pop(step, None)
        if self._bars:
            self._bars.drop(step)

    def _tell_uncounted(self, bucket: str) -> None:
        """End the count of this bucket's Found lines, and say how many there was no room for."""
        for kind in [kind for kind in self._found if kind[0] == bucket]:
            more = self._found.pop(kind) - FOUND_LINES
            if more > 0 and not self._verbose:
                verdict = f" ({kind[1]})" if kind[1] else ""
                where = f"{clean(bucket)}: " if bucket else ""
                log = " or the log" if self._sink is not None else ""
                self._line(f"{where}... and {more:,} more{verdict}; see `migrate-v2 status`{log}", logged=False)

    # Talk

    def say(self, text: str) -> None:
        """One line of talk. Names in it may be as they are, or escaped by `show`."""
        with self._lock:
            self._line(prose(text))

    def ask(self, lines: Sequence[str]) -> None:
        """Show what a person is asked to agree to, at the terminal where the answer is typed (standard input).

        A quiet run shows it too, and so does one whose standard error goes elsewhere. Raises Refused where it cannot be
        shown.
        """
        with self._lock:
            texts = [prose(line) for line in lines]
            if self._bars:
                self._bars.pause()
            for text in texts:
                self._line(text, always=True)
            if self._err.terminal and not self._err.gone and _same_terminal(self._err):
                return
            if not _write_to_terminal("".join(f"{text}\n" for text in texts)):
                raise Refused(
                    "the question cannot be shown on this terminal, so nothing was done: run it without a redirection of"
                    " standard error"
                )

    def error(self, text: str) -> None:
        """One line that also a quiet run prints."""
        with self._lock:
            self._line(f"migrate-v2: {prose(text)}", "ERROR", "red", always=True)

    def exception(self, error: BaseException) -> None:
        """The traceback, to the log only, and without the values of variables: one of them may be a secret."""
        with self._lock:
            lines = redact("".join(traceback.format_exception(error))).splitlines()
            # The rule before each line keeps a message with line breaks from posing as a record of its own.
            inset = [" " * (len(line) - len(line.lstrip(" "))) + show(line.lstrip(" ")) for line in lines]
            self._log("ERROR", "\n".join(["traceback", *(f"  | {line}" for line in inset)]))

    def _line(
        self,
        text: str,
        level: str = "INFO",
        style: str = "",
        *,
        screen: bool = True,
        logged: bool = True,
        always: bool = False,
    ) -> None:
        """Takes text that is clean."""
        if logged:
            self._log(level, text)
        if not screen or (self._quiet and not always):
            return
        if self._talk:
            self._talk.print(Text(text, style=style), soft_wrap=True)
        else:
            self._err.write(text + "\n")
            self._err.flush()

    def _tell_fault(self) -> None:
        fault = self._out.fault
        if fault is None or self._fault_told:
            return
        self._fault_told = True
        if not isinstance(fault, BrokenPipeError):  # `| head` is a way to stop reading, not an accident
            self.error(f"standard output is lost, the work goes on: {fault.strerror or fault}")

    # Data

    def document(self, told: object) -> None:
        """One JSON document. Raises OSError where stdout cannot take it; a reader that is gone is none."""
        with self._lock, self._data():
            told = _plain(told)
            indent = 2 if self._out.terminal else None
            self._out.write(dumps(told, ensure_ascii=True, allow_nan=False, indent=indent) + "\n")

    def long_document(self, name: str, items: Iterable[object], rest: Callable[[], Mapping[str, object]]) -> None:
        """One JSON object, on one line, with a list of any length, written as it comes, and what is known at its end."""
        with self._lock, self._data():
            self._out.write(f"{{{dumps(name)}: [")
            for number, item in enumerate(items):
                self._out.write((", " if number else "") + dumps(_plain(item), ensure_ascii=True, allow_nan=False))
            self._out.write("]")
            for key, value in rest().items():
                self._out.write(f", {dumps(key)}: {dumps(_plain(value, key), ensure_ascii=True, allow_nan=False)}")
            self._out.write("}\n")

    def canvas(self) -> tuple[int, bool] | None:
        """Columns of the terminal that is stdout, and whether it can show blocks; None where it is no terminal."""
        if not self._out.terminal or self._json:
            return None
        return _console(self._out, self._clock).width, "utf" in self._out.encoding.lower()

    def draw(self, lines: Iterable[tuple[str, str]]) -> None:
        """Lines with their styles, on stdout."""
        with self._lock, self._data():
            console = _console(self._out, self._clock)
            for text, style in lines:
                console.print(Text(_safe(text), style=style), soft_wrap=True)

    def watch(self, frames: Iterable[Iterable[tuple[str, str]]]) -> None:
        """Each frame in the place of the one before it; where the cursor does not move, one after the other."""
        if not self._out.moves:
            for lines in frames:
                self.draw(lines)
            return
        with Live(
            console=_console(self._out, self._clock),
            auto_refresh=False,  # a thread of its own would be in the way of a fork
            vertical_overflow="crop",
            redirect_stdout=False,
            redirect_stderr=False,
        ) as live:
            for lines in frames:
                live.update(
                    Group(*(Text(_safe(text), style=style, no_wrap=True) for text, style in lines)), refresh=True
                )

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[object]], *, right: Collection[int] = ()) -> None:
        """A table on a terminal, tab-separated lines without a header in a pipe (row by row), a list with --json.

        Cells are str, int, Bytes, None or anything with a str(); those of the columns `right` are set to the right.
        Raises OSError as `document` does.
        """
        if self._json:
            self.document([dict(zip(headers, row, strict=True)) for row in rows])
            return
        with self._lock, self._data():
            if self._out.terminal:
                self._draw_table(headers, rows, right)
                return
            for row in rows:
                self._out.write("\t".join(_cell(cell) for cell in row) + "\n")
                if self._out.gone:
                    return

    def _draw_table(self, headers: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[int]) -> None:
        console = _console(self._out, self._clock)
        remaining = iter(rows)
        block = list(itertools.islice(remaining, BLOCK))
        while True:
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
            for index, header in enumerate(headers):
                table.add_column(Text(clean(header)), justify="right" if index in right else "left", overflow="fold")
            for row in block:
                table.add_row(*(Text(_drawn(cell)) for cell in row))
            console.print(table)
            block = list(itertools.islice(remaining, BLOCK))
            if not block or self._out.gone:
                return

    @contextlib.contextmanager
    def _data(self) -> Iterator[None]:
        if self._bars and self._out.terminal:
            self._bars.pause()
        yield
        self._out.flush()
        fault = self._out.fault
        if fault is not None and not isinstance(fault, BrokenPipeError):
            self._fault_told = True
            raise fault

    # The log

    def _log(self, level: str, text: str) -> None:
        """Takes text that is clean. A log that can no longer be written is said once, and the work goes on."""
        if self._sink is None:
            return
        try:
            logger.log(level, text)
        except (OSError, ValueError) as error:
            self._close_log()
            self._line(f"warning: the log ends here: {clean(str(error))}", style="yellow", always=True)

    def _close_log(self) -> None:
        if self._sink is not None:
            sink, self._sink = self._sink, None
            with contextlib.suppress(OSError, ValueError):
                logger.remove(sink)

    def _overhear(self, record: logging.LogRecord) -> bool:
        """What a library warns of, to the log only. A filter that lets nothing pass, so no Handler to inherit from."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit its format
            text = str(record.msg)
        if record.exc_info and record.exc_info[1]:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        with self._lock:
            level = "ERROR" if record.levelno >= logging.ERROR else "WARNING"
            self._log(level, f"{clean(record.name)}: {clean(text)}")
        return False


def _safe(line: str) -> str:
    """A drawn line, whose names were escaped when it was made: what is not to be printed all the same is escaped here."""
    return line if line.isprintable() else show(line)


def _cell(cell: object) -> str:
    if cell is None:
        return ""
    return str(cell.count) if isinstance(cell, Bytes) else clean(str(cell))


def _drawn(cell: object) -> str:
    if isinstance(cell, Bytes):
        return human(cell.count)
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else _cell(cell)
