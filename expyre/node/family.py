"""The processes that a process has started: how to end them with it, and how one has ended.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import signal
from typing import Container  # noqa: UP035  (Python 3.9)

__all__ = ["ancestors", "descendants", "end_group", "end_tree", "how_it_ended", "kills_for_memory"]


def ancestors() -> list[int]:
    """Return the processes that have led to this one, its parent first; no more than that where /proc is not there."""
    found = [os.getppid()]
    while found[-1] > 1:
        try:
            with open(f"/proc/{found[-1]}/stat", "rb") as file:
                found.append(int(file.read().rpartition(b")")[2].split()[1]))
        except (OSError, IndexError, ValueError):
            break
    return found


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have; [] where /proc is not there."""
    children: dict[int, list[int]] = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    for each in pids:
        try:
            with open(f"/proc/{each}/stat", "rb") as file:
                # the second field is the command in parentheses and may contain anything
                children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(each)
        except (OSError, IndexError, ValueError):
            continue
    found: list[int] = []
    todo = [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found += new
        todo += new
    return found


def end_group(leader: int) -> None:
    """Kill what there is of the process group of a process, which itself may have ended."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def end_tree(pid: int, *, itself: bool = True, spare: Container[int] = ()) -> None:
    """Kill the processes that a process has started, but those to be spared, and the process itself."""
    for each in [*([pid] if itself else []), *descendants(pid)]:
        if each in spare:
            continue
        try:
            os.kill(each, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def how_it_ended(status: int) -> str:
    """Return in words how a process ended: by its exit status, or by a signal if the status is negative."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ", by somebody or by the system, which does so when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def kills_for_memory() -> int:
    """Return how many processes the kernel has killed for memory since it started; 0 where it does not say."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
