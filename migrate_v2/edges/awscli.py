"""The AWS CLI is found, started, watched and stopped here and nowhere else; what it prints or returns is progress, never proof."""

from __future__ import annotations

import configparser
import ctypes
import io
import os
import re
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Literal

import sh

from migrate_v2.errors import BadUsage, Failure
from migrate_v2.keys import show
from migrate_v2.tuning import Transfer

# Older ones wrote the key `/../x` outside the destination.
FLOORS = {1: (1, 45, 18), 2: (2, 34, 57)}

LONGEST_LINE = 16 * 1024  # bytes; a key has 1,024 at most, a path 4,096, and a line holds both
LINUX = sys.platform.startswith("linux")

# (signal, seconds to wait for its effect); SIGKILL always comes last. SIGINT makes the CLI remove its temporary files
# (0.2 s), but with a stalled server it waits for socket timeouts: minutes.
AT_LEISURE = ((signal.SIGINT, 3.0), (signal.SIGTERM, 2.0))
AT_ONCE = ((signal.SIGINT, 2.0), (signal.SIGTERM, 1.0))


@dataclass(frozen=True, slots=True)
class Aws:
    """An AWS CLI that may be used. `text` is what it said of itself; `passed_over` says why aws_path was not taken."""

    path: str
    version: tuple[int, int, int]
    text: str
    passed_over: tuple[str, ...] = ()

    @property
    def major(self) -> int:
        return self.version[0]

    @property
    def cost(self) -> str:
        if self.major > 1:
            return ""
        return "AWS CLI 1 is in maintenance mode and reaches its end in July 2027; install AWS CLI 2."


def find(
    explicit: str | None,
    search_path: str,
    own: str,
    *,
    patience: float = 10.0,
    stopped: Callable[[], bool] = lambda: False,
) -> Aws:
    """The first version 2 that meets its floor, else the first version 1 that does.

    Asked in this order: `explicit` (the setting aws_path), every `aws` on `search_path`, `own`, which is of version 1 and
    not asked where another one is. Whoever does not answer `--version` within `patience` seconds, or before `stopped`,
    is no candidate.
    """
    if explicit:
        with suppress(RuntimeError):  # "~nobody/aws"
            explicit = str(Path(explicit).expanduser())
        explicit = str(Path(explicit).absolute())
        if not _executable(explicit):
            raise BadUsage(f"aws_path: there is no program at {show(explicit)}")
    second_best: Aws | None = None
    best: Aws | None = None
    misfits: dict[str, str] = {}
    for path in _candidates(explicit, search_path, own):
        if second_best is not None and path == str(Path(own).absolute()):
            continue  # PyPI has no version 2, and to ask takes half a second
        aws = _asked(path, patience, stopped)
        misfit = _misfit(path, aws)
        if aws is None or misfit:
            misfits[path] = misfit
        elif aws.major == 2:
            best = aws
            break
        else:
            second_best = second_best or aws
    taken = best or second_best
    if taken is None:
        found = "; ".join(misfits.values()) or "there is none on PATH"
        raise Failure(
            f"no AWS CLI fits: {found}; install AWS CLI 2 (at least {_dotted(FLOORS[2])}), or run `make setup`"
        )
    if explicit and explicit != taken.path:
        why = misfits.get(explicit, f"{show(explicit)} is of version 1")
        return replace(taken, passed_over=(f"aws_path is passed over: {why}; {show(taken.path)} is taken",))
    return taken


def _candidates(explicit: str | None, search_path: str, own: str) -> Iterator[str]:
    # An empty or relative entry of PATH means the working folder, which may hold the contents of objects.
    on_path = (str(Path(entry, "aws")) for entry in search_path.split(os.pathsep) if entry.startswith("/"))
    seen = set()
    for path in (explicit or "", *on_path, own):
        real = os.path.realpath(path)
        if path and real not in seen and _executable(path):
            seen.add(real)
            yield str(Path(path).absolute())


def _executable(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.X_OK)


def _misfit(path: str, aws: Aws | None) -> str:
    if aws is None:
        return f"{show(path)} does not tell its version"
    if aws.major not in FLOORS:
        return f"{show(path)} is {_dotted(aws.version)}, a major version unknown here"
    if aws.version < FLOORS[aws.major]:
        return f"{show(path)} is {_dotted(aws.version)}, older than {_dotted(FLOORS[aws.major])}"
    return ""


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _asked(path: str, patience: float, stopped: Callable[[], bool]) -> Aws | None:
    until = time.monotonic() + patience
    said: list[str] = []
    try:
        child = _Child(path, ("--version",), environment(os.environ, os.devnull, _home(os.environ)), "/", ())
    except Failure:
        return None
    try:
        while not stopped() and time.monotonic() < until and len(said) < 100 and child.running():
            said += child.lines(0.1)
        ended = not child.running()
    finally:
        child.stop(())
    said += child.last_words
    versions = [found for line in said if (found := re.match(r"aws-cli/(\d+)\.(\d+)\.(\d+)", line))]
    if not ended or child.code != 0 or not versions:
        return None
    major, minor, patch = map(int, versions[0].groups())
    return Aws(path, (major, minor, patch), show(versions[0].string))


# What of the user's profile a transfer depends on; nothing else is handed to the CLI. No value of these is a secret.
_PROFILE_SETTINGS = tuple(
    """
    region ca_bundle max_attempts retry_mode defaults_mode endpoint_url ignore_configured_endpoint_urls
    use_dualstack_endpoint use_fips_endpoint sigv4a_signing_region_set tcp_keepalive sdk_ua_app_id
    request_checksum_calculation s3_use_arn_region s3_disable_multiregion_access_points
    """.split()  # noqa: SIM905 - a paragraph is read at a glance, sixty lines are not
)
_S3_SETTINGS = tuple(
    """
    addressing_style use_accelerate_endpoint use_dualstack_endpoint payload_signing_enabled signature_version
    us_east_1_regional_endpoint use_arn_region max_bandwidth io_chunksize
    """.split()  # noqa: SIM905
)


def private_config(
    profile: Mapping[str, object],
    services: Mapping[str, object],
    transfer: Transfer,
    addressing_style: str | None,
    credential_process: str,
) -> str:
    """The whole configuration that the CLI gets: transfer settings, for which it has no flags, and how to get credentials.

    Pure. `profile` is the profile in use as botocore reads it from the configuration and the credentials file, and
    `services` the section that it names. Of both only what a transfer depends on is carried over: no credentials, no
    other profiles, no plugins.
    """
    config = configparser.RawConfigParser(default_section="")
    config["default"] = {"credential_process": credential_process}
    for name in _PROFILE_SETTINGS:
        if (value := _text(profile.get(name))) is not None:
            config["default"][name] = str(Path(value).absolute()) if name == "ca_bundle" else value
    s3 = _nested(profile.get("s3"), _S3_SETTINGS) | {
        "preferred_transfer_client": "classic",  # CRT up to 2.36.7 loses files with exit status 0
        "max_concurrent_requests": str(transfer.max_concurrent_requests),
        "max_queue_size": str(transfer.max_queue_size),
        "multipart_threshold": str(transfer.multipart_threshold),
        "multipart_chunksize": str(transfer.multipart_chunksize),
    }
    if transfer.max_bandwidth is not None:
        # Version 1 takes neither "1000" nor "1000B/s": whole KiB are the finest that both understand.
        s3["max_bandwidth"] = f"{max(1, transfer.max_bandwidth // 1024)}KB/s"
    if addressing_style:
        s3.setdefault("addressing_style", addressing_style)
    config["default"]["s3"] = _block(s3)
    if endpoint := _nested(services.get("s3"), ("endpoint_url",)):
        config["default"]["services"] = "services"
        config["services services"] = {"s3": _block(endpoint)}
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def _text(value: object) -> str | None:
    if isinstance(value, bool | int):  # botocore reads some of `s3 =` where they stand
        return str(value).lower()
    return value if isinstance(value, str) and value.isprintable() else None


def _nested(block: object, names: Sequence[str]) -> dict[str, str]:
    if not isinstance(block, Mapping):
        return {}
    return {name: value for name in names if (value := _text(block.get(name))) is not None}


def _block(settings: Mapping[str, str]) -> str:
    return "".join(f"\n{name} = {value}" for name, value in settings.items())


# Nothing that gives credentials, and nothing that switches the CLI's manners or loads models of services: AWS_CLI_* and
# AWS_DATA_PATH. PYENV_* and ASDF_* are for an `aws` that is a shim of theirs.
_ALLOWED = frozenset(
    """
    AWS_REGION AWS_DEFAULT_REGION AWS_IGNORE_CONFIGURED_ENDPOINT_URLS AWS_RETRY_MODE AWS_MAX_ATTEMPTS AWS_DEFAULTS_MODE
    AWS_CA_BUNDLE AWS_SIGV4A_SIGNING_REGION_SET AWS_SDK_UA_APP_ID
    HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NIX_SSL_CERT_FILE
    PATH USER LOGNAME SHELL TMPDIR PYENV_ROOT PYENV_VERSION ASDF_DATA_DIR
    """.split()  # noqa: SIM905 - a paragraph is read at a glance, sixty lines are not
)
_ALLOWED_FAMILIES = ("AWS_EC2_METADATA_", "AWS_METADATA_SERVICE_", "AWS_ENDPOINT_URL", "AWS_USE_", "AWS_S3_")
_PATHS = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


def environment(base: Mapping[str, str], config_path: str, home: str) -> dict[str, str]:
    """What of `base` the CLI may see, and what it must: its own HOME and configuration, and no credentials file."""
    real_home = _home(base)
    kept = {name: v for name, v in base.items() if name in _ALLOWED or name.startswith(_ALLOWED_FAMILIES)}
    for name in _PATHS:  # the CLI runs with another HOME, and in another folder
        if kept.get(name):
            path = kept[name]
            kept[name] = str(Path(real_home + path[1:] if path.startswith("~/") else path).absolute())
    return kept | {
        "HOME": home,
        "AWS_CONFIG_FILE": config_path,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,  # its settings win over those of the configuration
        "PYTHONSAFEPATH": "1",  # `python -m awscli` would import from the working folder
        "AWS_PAGER": "",
        "AWS_CLI_AUTO_PROMPT": "off",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_supported",  # a user's when_required lets corrupt bodies pass
        "TZ": "UTC",  # where a zone's base offset changed, mtimes are off and everything is fetched again
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
    }


def _home(base: Mapping[str, str]) -> str:
    try:
        return base.get("HOME") or str(Path.home())
    except RuntimeError:  # a container's user without a name
        return "/"


def private_home(real_home: str, folder: str) -> None:
    """Make `folder` (0700) a double of the home folder by links, without `.aws`. An `aws` that is a shim needs the rest.

    `~/.aws/cli/alias` can put anything in the place of `s3`, and `~/.aws/models` another S3; no variable turns either
    off.
    """
    double = Path(folder)
    double.mkdir(mode=0o700, exist_ok=True)
    double.chmod(0o700)
    with suppress(OSError):  # no such folder: nothing to share
        for entry in Path(real_home).absolute().iterdir():
            if entry.name != ".aws":
                with suppress(FileExistsError):
                    (double / entry.name).symlink_to(entry)


def arguments(
    bucket: str,
    destination: str,
    *,
    prefix: str = "",
    region: str | None = None,
    endpoint_url: str | None = None,
    ca_bundle: str | None = None,
    force_glacier: bool = False,
    excludes: Sequence[str] = (),
    includes: Sequence[str] = (),
    but: Sequence[str] = (),
) -> tuple[str, ...]:
    """The command line of one transfer. Pure.

    `prefix` ends in "/". `excludes` and `includes` are the CLI's glob patterns (`[`, `*`, `?` of a key need brackets
    around them), relative to bucket and prefix; includes come later and win, and `but` are excludes that come last. `force_glacier` only where every archived
    object is restored: the others are tried, and fail.
    """
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"the CLI would take {prefix!r} for a folder and miss its siblings")
    options = {"region": region, "endpoint-url": endpoint_url, "ca-bundle": ca_bundle}
    return (
        *("s3", "sync", f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}", destination),
        *("--no-progress", "--exact-timestamps"),
        *(["--force-glacier-transfer"] if force_glacier else []),
        # With "=": a value that begins with "-" is a value still.
        *(f"--{name}={value}" for name, value in options.items() if value),
        *(f"--exclude={pattern}" for pattern in excludes),
        *(f"--include={pattern}" for pattern in includes),
        *(f"--exclude={pattern}" for pattern in but),
    )


class Outcome(Enum):
    """What an exit status lets one guess; what has arrived is a question to the disk."""

    DONE = "done"
    SKIPPED = "skipped"  # something was skipped, or the destination holds clutter
    FAILED = "failed"  # single objects did not come
    FATAL = "fatal"  # the whole run did not: no bucket, no permission to list, expired token, a bad setting
    KILLED = "killed"  # by a signal, ours included


def outcome(code: int, tail: Sequence[str]) -> Outcome:
    """`code` as Python gives it (-9 for SIGKILL), `tail` the last lines that are not about arrivals.

    A key with a newline in it can put a false `fatal error:` among the lines: only FAILED turns into FATAL by it.
    """
    if code == 0:
        return Outcome.DONE
    if code < 0 or 128 < code < 192:  # a shell around the CLI reports signal N as 128 + N
        return Outcome.KILLED
    if code == 1:
        if any(line.startswith("cancelled: ") for line in tail):
            return Outcome.KILLED
        whole_run = ("fatal error:", "aws: [ERROR]:", "Traceback (most recent call last)")
        return Outcome.FATAL if any(line.startswith(whole_run) for line in tail) else Outcome.FAILED
    if code == 2 and not any(line.startswith("usage: ") for line in tail):  # argparse ends with 2 as well
        return Outcome.SKIPPED
    return Outcome.FATAL  # 252 to 255 are the CLI's own; whatever else ended it, it did not do its work


Kind = Literal["downloaded", "failed", "warning", "fatal", "other"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line, fit for a terminal: to be shown and counted. Keys print raw, so any line can be forged."""

    kind: Kind
    text: str  # without the words that gave the kind


def parse(raw: str, bucket: str) -> Line:
    kinds: tuple[tuple[str, str, Kind], ...] = (
        ("download: ", f"s3://{bucket}/", "downloaded"),
        ("download failed: ", f"s3://{bucket}/", "failed"),
        ("warning: ", "", "warning"),
        ("fatal error: ", "", "fatal"),
        ("aws: [ERROR]: ", "", "fatal"),
    )
    for words, start, kind in kinds:
        if raw.startswith(words + start):
            return Line(kind, show(raw[len(words) :]))
    return Line("other", show(raw))


_THROTTLED = re.compile(r"\((SlowDown|503|Throttl\w*|RequestLimitExceeded|TooManyRequests\w*|RequestThrottled\w*)\)")


@dataclass(frozen=True, slots=True)
class Tick:
    """A sign of life of the process: its CPU seconds and the bytes that it has written so far."""

    pid: int
    cpu_seconds: float
    bytes_written: int


@dataclass(frozen=True, slots=True)
class Pass:
    """How one run ended. `tail`: its last lines that are not about arrivals, fit for a terminal."""

    outcome: Outcome
    code: int
    tail: tuple[str, ...]
    throttled: int  # lines in which S3 asks for fewer requests
    stalled: bool  # it stood still and was stopped


def sync(
    aws: Aws,
    args: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    lock_fds: Sequence[int],
    activity: Callable[[int], tuple[float, int]],
    stall_seconds: float,
    tick: float = 0.5,
) -> Generator[Line | Tick, None, Pass]:
    """Run the CLI; its lines, and a Tick about every `tick` seconds, as they come; the Pass is the return value.

    `activity(pid)` gives the CPU seconds and bytes written of the process and of what it started, and does not raise
    when it is gone. The process is stopped when for `stall_seconds` nothing was printed or written and less than 1 %
    of a core was used, and whenever the generator is closed (use contextlib.closing: an exception that is kept keeps
    the generator too). It does not outlive this process (Linux: nor the *thread* that took the first step), and holds
    `lock_fds` open for as long as it lives.
    """
    bucket = args[2].removeprefix("s3://").partition("/")[0]
    tail: deque[str] = deque(maxlen=40)
    throttled = 0

    def heard(raw: str) -> Line:
        nonlocal throttled
        line = parse(raw, bucket)
        if line.kind != "downloaded":
            tail.append(show(raw))
            throttled += bool(_THROTTLED.search(raw))
        return line

    child = _Child(aws.path, args, env, cwd, lock_fds)
    patience: tuple[tuple[signal.Signals, float], ...] = AT_ONCE
    stalled = False
    try:
        due = since = time.monotonic()
        cpu_then, written_then, silent = 0.0, -1, True
        while not stalled:
            running = child.running()
            lines = child.lines(max(0.0, due - time.monotonic()) if running else 0.0)
            for raw in lines:
                silent = False
                yield heard(raw)
            now = time.monotonic()
            if not running and child.quiet:
                break
            if not running or now < due:
                continue
            due = now + tick
            cpu, written = activity(child.pid)
            yield Tick(child.pid, cpu, written)
            waited = now - since
            if not silent or written != written_then:
                since, cpu_then, written_then, silent = now, cpu, written, True
            elif waited >= stall_seconds:
                stalled = abs(cpu - cpu_then) < 0.01 * waited
                since, cpu_then = now, cpu
        patience = AT_LEISURE
    finally:
        child.stop(patience)
    for raw in child.last_words:
        yield heard(raw)
    how = Outcome.KILLED if stalled else outcome(child.code, tail)
    return Pass(how, child.code, tuple(tail), throttled, stalled)


_ANY_CODE = list(range(-64, 256))  # for sh every exit is in order: outcome() is where they are read


class _Child:
    """A started program at the head of a session of its own, both its streams in one pipe.

    The pipe is ours, not sh's: sh reads as fast as the program writes, into a queue without an end, and keeps a line
    without an end in memory. A pipe that is read line by line makes the program wait instead.
    """

    def __init__(
        self, path: str, args: Sequence[str], env: Mapping[str, str], cwd: str, lock_fds: Sequence[int]
    ) -> None:
        self.code = 0
        self.quiet = False  # the last look found nothing to read
        self.last_words: list[str] = []  # said while it was being stopped
        self._partial = b""
        self._at_end = False
        self._pipe, write = os.pipe()
        try:
            with Path(os.devnull).open("rb") as nothing, os.fdopen(write, "wb") as out:
                self._run = sh.Command(path)(
                    *args,
                    _in=nothing,
                    _out=out,
                    _err_to_out=True,
                    _tty_out=False,
                    _env=dict(env),
                    _cwd=cwd,
                    _encoding="utf-8",
                    _bg=True,
                    _bg_exc=False,
                    _new_session=True,
                    _preexec_fn=_before_exec(os.getpid(), tuple(lock_fds)),
                    _pass_fds=set(lock_fds),
                    _ok_code=_ANY_CODE,
                    _return_cmd=True,
                )
        except (sh.CommandNotFound, sh.ForkException) as e:
            os.close(self._pipe)
            # A ForkException carries the traceback of the child; its last line is the reason.
            reason = str(e).strip().rpartition("\n")[2].strip()
            raise Failure(f"{show(path)} cannot be started: {show(reason)}") from None
        self.pid = int(self._run.pid)
        self._guard = None if LINUX else _guard(self.pid)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)

    def running(self) -> bool:
        return bool(self._run.is_alive())

    def lines(self, seconds: float) -> list[str]:
        """Whole lines that arrive within `seconds`, at the first arrival; split at "\\n" only, as keys hold the rest."""
        if self._at_end:
            time.sleep(min(seconds, 0.02))
            return []
        self.quiet = not self._poll.poll(seconds * 1000)
        if self.quiet:
            return []
        chunk = os.read(self._pipe, 1 << 16)
        if not chunk:
            self._at_end = self.quiet = True
        *whole, rest = (self._partial + (chunk or b"\n")).split(b"\n")
        self._partial = rest[:LONGEST_LINE]
        return [line[:LONGEST_LINE].decode("utf-8", "surrogateescape") for line in whole if line.strip()]

    def stop(self, patience: Sequence[tuple[signal.Signals, float]]) -> None:
        """End the program and its process group, and take its exit status; a second Ctrl-C goes straight to SIGKILL."""
        try:
            for number, seconds in patience:
                if self._ended(0):
                    break
                self._signal(number)
                self._signal(signal.SIGCONT)  # a stopped process hears nothing but SIGKILL
                self._ended(seconds)
        finally:
            self._signal(signal.SIGKILL)  # the program, or whatever it leaves behind in its group
            if self._ended(10):  # a process in an uninterruptible read (NFS) does not end; its lock stays held
                _join(self._run)
                self.code = int(self._run.process.exit_code or 0)
            else:
                self.code = -signal.SIGKILL
            self._ended(0)
            if self._guard is not None:
                self._guard()
            os.close(self._pipe)

    def _ended(self, seconds: float) -> bool:
        # The pipe is drained meanwhile: a program that waits for room in it does not end.
        until = time.monotonic() + seconds
        while True:
            running = self.running()
            said = self.lines(0.02 if running and seconds else 0)
            self.last_words = (self.last_words + said)[-100:]
            if not running and (self.quiet or time.monotonic() > until):
                return True
            if running and time.monotonic() >= until:
                return False

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
            os.killpg(self.pid, number)


def _join(run: sh.RunningCommand) -> None:
    """Reap it, and end sh's threads; when the interpreter is going down they are frozen, and a join is for ever."""
    if not sys.is_finalizing():
        run.wait()


_PR_SET_PDEATHSIG = 1
# Looked up here because between fork and exec nothing may be loaded.
_prctl = ctypes.CDLL(None).prctl if LINUX else None


def _before_exec(parent: int, lock_fds: tuple[int, ...]) -> Callable[[], None]:
    def prepare() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
            if os.getppid() != parent:  # it died before the line above
                os.kill(os.getpid(), signal.SIGKILL)
        # A parent that was started by nohup or with "&" ignores SIGINT, and so would the CLI: it could not be stopped.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for fd in lock_fds:
            os.set_inheritable(fd, True)

    return prepare


def _guard(group: int) -> Callable[[], None]:
    """Where the kernel has no PR_SET_PDEATHSIG: a shell that kills the group when this process, and its pipe, are gone."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as leash:
        shell = sh.Command("/bin/sh")(
            *("-c", 'read -r nothing; kill -KILL "-$1"', "guard", str(group)),
            _in=leash,
            _bg=True,
            _bg_exc=False,
            _new_session=True,
            _ok_code=_ANY_CODE,
            _return_cmd=True,
        )

    def dismiss() -> None:
        with suppress(ProcessLookupError):
            shell.kill()
        _join(shell)
        os.close(write)

    return dismiss
