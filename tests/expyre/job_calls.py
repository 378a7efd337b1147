"""Functions that tests of executors call; the file goes with the call where it is not there already."""

from __future__ import annotations

import os
import time


def where(_call: object) -> tuple[str | None, ...]:
    """Return partition, cores and GPUs of the job of Slurm that this runs in."""
    return tuple(map(os.environ.get, ("SLURM_JOB_PARTITION", "SLURM_CPUS_ON_NODE", "CUDA_VISIBLE_DEVICES")))


def note(ledger: object, word: object, seconds: float = 0.0) -> object:
    """Run as a call: write a word into a ledger, take some time, return the word."""
    handle = os.open(str(ledger), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{word}\n".encode())
    os.close(handle)
    time.sleep(seconds)
    return word


def wait_for(ledger: object, word: object, other: object) -> object:
    """Run as a call: note a word, and return it when a file is there."""
    note(ledger, word)
    while not os.path.exists(str(other)):
        time.sleep(0.02)
    return word
