"""`qsub` of the stand-in: options on the command line and in the script, as both dialects know them."""

from __future__ import annotations

import getopt
import os
import re
import shlex
import shutil
import sys
import time
from typing import Any

from clusters.pbs_standin.running import cycle
from clusters.pbs_standin.state import Job, State, ended, is_parent

_COMMON = "a:A:c:C:e:fhIj:k:l:m:M:N:o:p:P:q:r:S:u:v:VW:Xz"
_FLAGS = {False: _COMMON + "J:R:", True: _COMMON + "d:t:"}
_RESOURCES = {
    "walltime", "cput", "ncpus", "ngpus", "mem", "vmem", "pmem", "pvmem", "nodes", "select", "place", "procs", "file",
    "nice", "software", "mpiprocs", "host", "naccelerators", "gpus",
}  # fmt: skip


class Refused(Exception):
    """The server's words and code."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code


def main(state: State, argv: list[str]) -> int:
    try:
        job = _request(state, argv)
        print(_accept(state, job))
    except Refused as exc:
        sys.stderr.write(f"qsub: {exc}\n")
        return exc.code
    except getopt.GetoptError as exc:
        sys.stderr.write(f"qsub: invalid option -- '{exc.opt}'\nusage: qsub [...] [script]\n")
        return 2
    cycle(state)
    return 0


def _request(state: State, argv: list[str]) -> Job:
    options, rest = getopt.gnu_getopt(argv, _FLAGS[state.torque])
    text = _script(rest)
    given: dict[str, Any] = {"l": {}, "v": {}}
    _take(given, _directives(text, _FLAGS[state.torque]))
    _take(given, options)
    name = given.get("N") or (os.path.basename(rest[0]) if rest else "STDIN")
    _check(state, given, name)
    workdir = os.getcwd()
    variables = {} if "V" not in given else dict(os.environ)
    variables.update(given["v"])
    variables.update(PBS_O_HOME=os.path.expanduser("~"), PBS_O_PATH=os.environ.get("PATH", ""), PBS_O_WORKDIR=workdir)
    queue = given.get("q", state.config["queues"][0])
    variables.update(PBS_O_QUEUE=queue, PBS_O_HOST="localhost", PBS_O_SYSTEM="Linux")
    size, cap = _array(state, given.get("t" if state.torque else "J"))
    if size and not state.torque and given.get("r", "y") == "n":
        raise Refused("cannot submit non-rerunable Array Job", 1)
    return {
        "array": size, "index": None, "name": name, "owner": os.environ.get("USER", "root"), "hold": "h" in given,
        "state": "H" if "h" in given else "Q", "substate": 10, "queue": queue,
        "resources": given["l"], "need": _need(given["l"]), "walltime": _seconds(given["l"].get("walltime")),
        "workdir": workdir, "out": given.get("o", ""), "err": given.get("e", ""), "join": given.get("j", "n") == "oe",
        "variables": variables, "arguments": shlex.join(argv), "text": text, "shell": given.get("S", "/bin/bash"),
        "rerun": given.get("r", "y") == "y", "max_running": cap, "torque": state.torque, "comment": "", "exit": None,
        "used": {}, "ctime": time.time(), "run_count": 0,
    }  # fmt: skip


def _script(rest: list[str]) -> str:
    if not rest:
        return sys.stdin.read()
    try:
        with open(rest[0], errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError as exc:
        raise Refused(f"script file::{exc.strerror}", 1) from exc


def _directives(text: str, flags: str) -> list[tuple[str, str]]:
    found = []
    for line in text.split("\n"):
        if line.startswith("#PBS"):
            try:
                found += getopt.gnu_getopt(shlex.split(line[4:], comments=True), flags)[0]
            except (getopt.GetoptError, ValueError) as exc:
                raise Refused(f"directive error: {line[4:].strip()}", 2) from exc
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _take(given: dict[str, Any], options: list[tuple[str, str]]) -> None:
    for flag, value in options:
        name = flag[1:]
        if name in "lv":
            pairs = (part.partition("=") for part in value.split(","))
            given[name].update({key: text or os.environ.get(key, "") for key, _, text in pairs})
        else:
            given[name] = value


def _check(state: State, given: dict[str, Any], name: str) -> None:
    length = 15 if state.torque else 230
    letters = r"[A-Za-z][\w+.-]*" if state.torque else r"[A-Za-z0-9_+.-]+"
    if not re.fullmatch(letters, name) or len(name) > length:
        raise Refused("illegal -N value", 2)
    if given.get("q", state.config["queues"][0]) not in state.config["queues"]:
        raise Refused("submit error (Unknown queue MSG=cannot locate queue)" if state.torque else "Unknown queue", 170)
    for resource in given["l"]:
        if resource not in _RESOURCES:
            raise Refused(f"Unknown resource Resource_List.{resource}", 187)
        if "select" in given["l"] and resource in ("ncpus", "mem", "ngpus", "nodes", "mpiprocs"):
            raise Refused(f'"-lresource=" cannot be used with "select" or "place", resource is: {resource}', 32)


def _array(state: State, words: str | None) -> tuple[int, int]:
    if words is None:
        return 0, 0
    found = re.fullmatch(r"1-(\d+)(?:%(\d+))?", words)
    if found is None or (int(found[1]) < 2 and not state.torque):
        raise Refused("illegal -J value", 2)
    size = int(found[1])
    if size > state.config["max_array_size"]:
        raise Refused("Array job exceeds server or queue size limit", 226)
    return size, int(found[2] or 0)


def _need(resources: dict[str, str]) -> dict[str, int]:
    chunk = resources.get("select") or resources.get("nodes") or "1"
    count = int(re.match(r"\d*", chunk)[0] or 1)  # type: ignore[index]
    parts = {key: value for key, _, value in (part.partition("=") for part in chunk.split(":"))}
    each = int(parts.get("ncpus") or parts.get("ppn") or resources.get("ncpus") or 1)
    gpus = int(parts.get("ngpus") or parts.get("gpus") or resources.get("ngpus") or 0)
    lines = int(parts.get("mpiprocs") or parts.get("ppn") or 1)
    return {"ncpus": count * each, "ngpus": count * gpus, "lines": count * lines}


def _seconds(text: str | None) -> int:
    total = 0
    for part in (text or "0").split(":"):
        total = total * 60 + int(part)
    return total


def _accept(state: State, job: Job) -> str:
    text = job.pop("text")
    with state.changed() as data:
        limit = state.config["max_queued"]
        waiting = sum(not ended(other) and not is_parent(other) for other in data["jobs"])
        if limit and waiting + max(1, job["array"]) > limit:
            raise Refused(_full(state, job), 198)
        job["seq"] = data["next"]
        data["next"] += 1
        job["script"] = state.path(f"script.{job['seq']}")
        with open(job["script"], "w", errors="surrogateescape", newline="") as file:
            file.write(text)
        data["jobs"] += [_placed(job, None)] + [_placed(job, index) for index in range(1, job["array"] + 1)]
    return state.id_of(job)


def _full(state: State, job: Job) -> str:
    if state.torque:
        words = "total number of current user's jobs exceeds the queue limit: user u@vm, queue batch"
        return f"submit error (Maximum number of jobs already in queue for user MSG={words})"
    return f"would exceed queue {job['queue']}'s per-user limit of jobs in 'Q' state"


def _placed(job: Job, index: int | None) -> Job:
    """Return the array or one member of it, with its own paths."""
    new = {**job, "index": index}
    if state_name := (f"{job['name']}-{index}" if job["torque"] and index is not None else ""):
        new["name"] = state_name
    for key, letter in (("out", "o"), ("err", "e")):
        path = job[key].rpartition(":")[2]
        path = os.path.join(job["workdir"], path)
        end = "" if index is None else (f"-{index}" if job["torque"] else f".{index}")
        if not job[key] or path.endswith("/") or os.path.isdir(path):
            path = os.path.join(path, f"{job['name']}.{letter}{job['seq']}{end}")
        elif index is not None:
            path = path.replace("^array_index^", str(index)) if "^array_index^" in path else path + end
        new[key] = path
    return new


def clean(state: State) -> None:
    """Forget everything."""
    shutil.rmtree(state.directory)
