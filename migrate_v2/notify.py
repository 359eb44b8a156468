"""The operator's own command hears of what they wait for: a phase earned, a restore that is back, something for a person."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from contextlib import suppress
from datetime import UTC, datetime

from migrate_v2.errors import Busy, NotFinished
from migrate_v2.events import Ended, Event, Failed, PhaseEarned
from migrate_v2.keys import show
from migrate_v2.report import event_json, sentence

SECONDS = 30.0


def worth_telling(event: Event) -> bool:
    match event:
        case PhaseEarned():
            return True
        case Ended():
            return event.verb == "wait"  # what Glacier was asked for has come back
        case Failed():
            # Time, or the other process, cures these.
            return event.code not in (NotFinished.code, Busy.code)
        case _:
            return False


def notify(command: str, event: Event, *, seconds: float = SECONDS) -> str:
    """Runs the command with the event as JSON on its standard input; what went wrong with it, "" if nothing.

    By argument list and never through a shell, and stopped after `seconds` with all that it started.
    Its output goes nowhere: standard output is data.
    """
    told = {**json.loads(event_json(event, datetime.now(UTC))), "message": sentence(event)}
    document = (json.dumps(told) + "\n").encode()
    arguments = shlex.split(command)
    name = show(arguments[0])
    try:
        program = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"notify_command cannot be run: {name}: {getattr(error, 'strerror', None) or error}"
    try:
        with suppress(BrokenPipeError):  # one that does not read is none the worse
            program.communicate(document, timeout=seconds)
        code = program.wait(seconds)
    except subprocess.TimeoutExpired:
        _stop(program)
        return f"notify_command did not end within {seconds:.0f} s and was stopped: {name}"
    except BaseException:
        _stop(program)
        raise
    return f"notify_command ended with {code}: {name}" if code else ""


def _stop(program: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()
