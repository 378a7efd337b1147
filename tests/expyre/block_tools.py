"""Calls for the tests of workers in queue jobs; imports nothing else, so that it can be imported where they run."""

from __future__ import annotations

import os
import time


class Ledger:
    """Tells which calls have begun and ended, as often as they have."""

    def __init__(self, path):
        self.path = str(path)

    def note(self, word, number):
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{word} {number}\n".encode())
        os.close(handle)

    def worker(self):
        """Return the process id of the worker whose call has begun last."""
        with open(f"{self.path}.pid") as file:
            return int(file.read())

    def count(self, word, number=None):
        if not os.path.exists(self.path):
            return 0
        with open(self.path) as file:
            notes = [line.split() for line in file]
        return sum(each == word and number in (None, int(which)) for each, which in notes)


def wait_for(ledger, number, path):
    """Note that the call begins, wait until there is a file, and return the number."""
    ledger.note("begin", number)
    while not os.path.exists(path):
        time.sleep(0.01)
    return number


def work(ledger, number, seconds=0.0):
    """Return the number, and the job that it ran in."""
    with open(f"{ledger.path}.pid", "w") as file:
        file.write(str(os.getppid()))
    ledger.note("begin", number)
    time.sleep(seconds)
    ledger.note("end", number)
    return number, os.environ.get("SLURM_JOB_ID")
