"""Every way the program can end without success has one class here: its docstring is the message, its code the exit status."""

from __future__ import annotations


class Failure(Exception):
    """{}"""

    code = 1

    def __str__(self) -> str:
        return (type(self).__doc__ or "{}").format(*self.args)


class BadUsage(Failure):
    """{}"""

    code = 2


class NotFinished(Failure):
    """{}"""

    code = 3


class Differs(Failure):
    """{}"""

    code = 4


class Refused(Failure):
    """{}"""

    code = 5


class Busy(Failure):
    """another process is at work on {}; wait for it, or stop it, and run the same command again"""

    code = 6


INTERRUPTED = 130


def worst(codes: list[int]) -> int:
    """The exit status of several buckets' worth of work.

    A difference outranks all. Waiting for Glacier comes before failures: what `until migrate` loops for is not over, and
    when it is, the failures are still there to be told.
    """
    order = (INTERRUPTED, 4, 3, 6, 5, 2, 1)
    return next((code for code in order if code in codes), 0)
