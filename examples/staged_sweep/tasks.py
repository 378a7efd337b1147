"""What is done around each task, wherever it runs: its output comes back, also from a host that shares no files."""

import contextlib
import functools
import io
import socket
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

from expyre.identity import register


@dataclass(frozen=True)
class Outcome:
    """What a task has returned and printed, and when it ran."""

    value: Any
    log: str = field(repr=False)
    err: str = field(repr=False)
    began: float
    seconds: float
    host: str


# a run depends on what its target is, not on when that was built
register(Outcome, lambda outcome: outcome.value)


class TaskFailed(Exception):
    """Carries what a failed task has printed."""

    def __init__(self, message, log, err):
        super().__init__(message, log, err)
        self.message, self.log, self.err = message, log, err

    def __str__(self):
        return self.message


def task(function):
    """Let a function take outcomes of other tasks for its inputs, and return its own."""

    @functools.wraps(function)
    def run(*inputs, **options):
        log, err = io.StringIO(), io.StringIO()
        began, clock = time.time(), time.monotonic()
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(err):
                value = function(*(each.value if isinstance(each, Outcome) else each for each in inputs), **options)
        except Exception as error:
            text = err.getvalue() + traceback.format_exc()
            raise TaskFailed(f"{type(error).__name__}: {error}", log.getvalue(), text) from None
        return Outcome(value, log.getvalue(), err.getvalue(), began, time.monotonic() - clock, socket.gethostname())

    return run
