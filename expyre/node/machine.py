"""What this machine has to give to jobs: cores, memory, GPUs, each with an environment variable to override it.

Standard library only and no import of the rest of the package, because this file also runs by itself on nodes.
"""

from __future__ import annotations

import glob
import os
import re

CORES_VARIABLE = "EXPYRE_LOCAL_CORES"
MEMORY_VARIABLE = "EXPYRE_LOCAL_MEM"
GPUS_VARIABLE = "EXPYRE_LOCAL_GPUS"

_MEMORY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt])b?", re.IGNORECASE)
_MEMORY_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_NO_GPU = ("-1", "none", "nodevfiles", "void")


def cores() -> int:
    """Return how many cores jobs may use: ``EXPYRE_LOCAL_CORES``, else the cores this process may run on.

    Raises
    ------
    ValueError
        The variable is not a positive integer.
    """
    text = os.environ.get(CORES_VARIABLE, "").strip()
    if not text:
        return _usable_cores()
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{CORES_VARIABLE}={text!r} is not a positive number of cores, such as 4")
    return int(text)


def memory_kb() -> int:
    """Return how much memory jobs may use, in kB: ``EXPYRE_LOCAL_MEM``, else what this machine or container has.

    Raises
    ------
    ValueError
        The variable is neither a number of kB nor a size such as ``8GB``.
    """
    text = os.environ.get(MEMORY_VARIABLE, "").strip()
    if not text:
        return _usable_memory_kb()
    size = int(text) if text.isdigit() else _kb_of_size(text)
    if size < 1:
        raise ValueError(f"{MEMORY_VARIABLE}={text!r} is not a size of memory: give kB (8388608) or a unit (8GB)")
    return size


def gpus() -> list[str]:
    """Return the ids of the GPUs that jobs may use, in the form ``CUDA_VISIBLE_DEVICES`` takes.

    ``EXPYRE_LOCAL_GPUS`` decides if set: a count (``2``) means the first so many of the visible ones, a list
    (``0,2``, ``GPU-…``) names them. Else what ``CUDA_VISIBLE_DEVICES`` leaves visible, else every NVIDIA device here.
    """
    text = os.environ.get(GPUS_VARIABLE)
    if text is None or not text.strip():
        return _visible_gpus()
    if not text.strip().isdigit():
        return _ids(text)
    count = int(text)
    visible = _visible_gpus()
    return visible[:count] if len(visible) >= count else [str(i) for i in range(count)]


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _usable_memory_kb() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_memory_limits()]) // 1024


def kills_for_memory() -> int:
    """Return how many processes the kernel has killed for memory since it started; 0 where it does not say."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def _memory_limits() -> list[int]:
    """Return the limits in bytes that a container sets; more than physical memory where it sets none."""
    limits = []
    for name in _MEMORY_LIMIT_FILES:
        try:
            with open(name) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) > 0:
            limits.append(int(text))
    return limits


def _kb_of_size(text: str) -> int:
    match = _MEMORY.fullmatch(text)
    return 0 if match is None else int(float(match[1]) * 1024 ** "kmgt".index(match[2].lower()))


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _ids(visible)
    devices = [re.sub(r"\D", "", name) for name in glob.glob("/dev/nvidia[0-9]*")]
    if devices:
        return sorted(devices, key=int)
    return [str(i) for i in range(len(glob.glob("/proc/driver/nvidia/gpus/*")))]


def _ids(text: str) -> list[str]:
    words = (word.strip() for word in text.split(","))
    return [word for word in words if word and word.lower() not in _NO_GPU]
