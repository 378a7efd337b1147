"""Which processes belong to a job, what memory they use, and how to end all of them.

A job's processes are those of its session, their descendants, and those that left both (``setsid``, daemons) but still
carry the job's mark in their environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024
_YOUNG = 3.0  # seconds after its start within which a process may still be about to get its own environment


class Process(NamedTuple):
    """A process: numbers, start (in clock ticks since boot, or a date), resident memory in kB."""

    pid: int
    ppid: int
    session: int
    start: str
    rss: int


class Processes:
    """The processes of this machine; remembers whose environment was read already."""

    def __init__(self) -> None:
        self._marks: dict[tuple[int, str], str] = {}

    def of(self, mark: str, root: int, table: Mapping[int, Process]) -> list[Process]:
        """Return the live processes of a job.

        Parameters
        ----------
        mark
            The job's mark: ``NAME=value`` in the environment.
        root
            Process id of the job's session leader.
        table
            What `snapshot` has returned.
        """
        name = mark.partition("=")[0] + "="
        inside = {p.pid for p in table.values() if p.session == root or p.pid == root or self._mark(p, name) == mark}
        grown = True
        while grown:
            children = {p.pid for p in table.values() if p.ppid in inside and p.pid not in inside}
            inside |= children
            grown = bool(children)
        inside.discard(os.getpid())
        return [table[pid] for pid in inside]

    def forget(self, table: Mapping[int, Process]) -> None:
        """Drop what is known of processes that are no more."""
        live = {(p.pid, p.start) for p in table.values()}
        self._marks = {key: mark for key, mark in self._marks.items() if key in live}

    def _mark(self, process: Process, name: str) -> str:
        key = (process.pid, process.start)
        if key not in self._marks:
            mark = _mark_in_environment(process.pid, name)
            if not mark and _age(process) < _YOUNG:
                return mark  # between fork and exec it shows its parent's: look again
            self._marks[key] = mark
        return self._marks[key]


def _age(process: Process) -> float:
    try:
        import time

        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(process.start) / _TICKS
    except (AttributeError, ValueError, OSError):
        return 0.0


def _mark_in_environment(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return "" if os.path.isdir("/proc/self") else _mark_by_ps(pid, name)
    return next((word.decode("utf-8", "replace") for word in words if word.startswith(name.encode())), "")


def _mark_by_ps(pid: int, name: str) -> str:
    words = _ps("-E", "-ww", "-o", "command=", "-p", str(pid)).split()
    return next((word for word in words if word.startswith(name)), "")


def snapshot() -> dict[int, Process]:
    """Return all live processes (no zombies) by process id."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        pids = []
    if not pids:
        return _snapshot_by_ps()
    found = (look(pid) for pid in pids)
    return {process.pid: process for process in found if process is not None}


def look(pid: int) -> Process | None:
    """Return one process; None if there is none or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the second field is the command in parentheses and may contain anything
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None if os.path.isdir("/proc/self") else _snapshot_by_ps().get(pid)
    if not fields or fields[0] in (b"Z", b"X"):
        return None
    return Process(pid, int(fields[1]), int(fields[3]), fields[19].decode(), int(fields[21]) * _PAGE_KB)


def _snapshot_by_ps() -> dict[int, Process]:
    table = {}
    for line in _ps("-axo", "pid=,ppid=,sess=,rss=,state=,lstart=").splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and not fields[4].startswith("Z"):
            session = os.getsid(int(fields[0])) if _alive(int(fields[0])) else 0
            table[int(fields[0])] = Process(int(fields[0]), int(fields[1]), session, fields[5], int(fields[3]))
    return table


def _alive(pid: int) -> bool:
    try:
        os.getsid(pid)
    except OSError:
        return False
    return True


def _ps(*words: str) -> str:
    try:
        return subprocess.run(["ps", *words], capture_output=True, check=False).stdout.decode("utf-8", "replace")
    except OSError:
        return ""


def memory_kb(processes: Iterable[Process], limit: int) -> int:
    """Return the memory of processes in kB.

    The sum of resident memory counts what processes share once for each of them. Where it is above the limit, and
    only there because that takes long, shared pages are divided among those that share them.
    """
    processes = list(processes)
    total = sum(process.rss for process in processes)
    return total if total <= limit else sum(_proportional_kb(process) for process in processes)


def _proportional_kb(process: Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Pss:"))
    except FileNotFoundError:
        return 0 if os.path.isdir("/proc/self") and look(process.pid) is None else process.rss
    except (OSError, StopIteration, ValueError):
        return process.rss


def signal_all(processes: Iterable[Process], number: int) -> None:
    """Send a signal to processes; those that are gone, or whose number another process has now, are left alone."""
    for process in processes:
        now = look(process.pid)
        if now is not None and now.start == process.start:
            try:
                os.kill(process.pid, number)
            except (ProcessLookupError, PermissionError):
                continue


def stop_all(processes: Iterable[Process]) -> None:
    """Send SIGKILL, after SIGSTOP so that none of them starts another while the others are being killed."""
    processes = list(processes)
    signal_all(processes, signal.SIGSTOP)
    signal_all(processes, signal.SIGKILL)


def boot_id() -> str:
    """Return what names this run of the machine, or of the container that this is."""
    first = look(1)
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return f"{boot}:{first.start if first else ''}"


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since boot, as far as it tells."""
    count = 0
    for name in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        try:
            with open(name) as file:
                count += sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        except (OSError, ValueError, IndexError):
            continue
    return count
