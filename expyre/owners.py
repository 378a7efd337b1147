"""Who is at work: a word for a process that other processes, also on other machines, can look up."""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path
from typing import Final

REMOTE_LEASE: Final = 600.0
"""Seconds for which a process on another machine is believed alive after its last sign of life."""


def owner_token() -> str:
    """Return the word for this process: ``host:boot-id:pid:starttime``.

    The pid alone comes again; with the boot of the machine and the start of the process it is unique.
    """
    return _token(os.getpid())


@functools.lru_cache(maxsize=4)
def _token(pid: int) -> str:
    return f"{_host()}:{_boot()}:{pid}:{_start_time(pid)}"


def owner_alive(owner: str, last_sign: float | None = None, *, lease: float = REMOTE_LEASE) -> bool:
    """Return whether the process of an `owner_token` is alive.

    On this machine that is looked up. A process of another machine, or of another container on this one, is believed
    alive until ``last_sign`` (seconds since 1970; None: just now) is ``lease`` seconds old, by default ten minutes.
    """
    host, boot, pid, start = _split(owner)
    if not host:
        return False
    if host == _host() and boot == _boot():
        return pid.isdigit() and _start_time(int(pid)) == start
    if host == _host() and _same_kernel_rebooted(boot):
        return False
    return last_sign is None or time.time() - last_sign < lease


def _split(owner: str) -> tuple[str, str, str, str]:
    words = (owner.split(":") + [""] * 4)[:4]
    return words[0], words[1], words[2], words[3]


def _host() -> str:
    return socket.gethostname().replace(":", "_")


@functools.lru_cache(maxsize=1)
def _boot() -> str:
    """Return the id of this boot and of the name space of its process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return "-"
    return f"{boot}.{space}"


def _same_kernel_rebooted(boot: str) -> bool:
    """Return whether this word is of an earlier boot of this machine (not of a container that shares its name)."""
    old, now = boot.split("."), _boot().split(".")
    return len(old) == len(now) == 2 and old[0] != now[0] and old[1] == now[1]


def _start_time(pid: int) -> str:
    """Return when a process started (clock ticks since boot), ``""`` if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "" if os.path.isdir("/proc/self") else _alive_word(pid)
    state, *words = stat[stat.rindex(")") + 2 :].split()
    return "" if state in "ZX" else words[18]


def _alive_word(pid: int) -> str:
    """Return a word for a living process where there is no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "-"
