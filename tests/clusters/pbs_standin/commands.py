"""The other commands of the stand-in, and the door to all of them."""

from __future__ import annotations

import getopt
import os
import sys
import time
from collections.abc import Callable

from clusters.pbs_standin import qstat, qsub
from clusters.pbs_standin.running import ask_to_end, cycle
from clusters.pbs_standin.state import Job, State, ended, is_parent, running

_VERSIONS = {"openpbs": "pbs_version = 23.06.06", "torque": "Version: 6.1.3\nCommit: 0b2c5a3"}


def main(program: str, directory: str) -> None:
    """Be one of the programs; never returns."""
    state = State(directory)
    argv = sys.argv[1:]
    with open(state.path("calls"), "a") as file:
        file.write(f"{program} {' '.join(argv)}\n")
    if argv == ["--version"]:
        print(_VERSIONS[state.config["dialect"]], file=sys.stderr if state.torque else sys.stdout)
        sys.exit(0)
    if state.config["down"]:
        server = state.config["server"]
        sys.stderr.write(f"Connection refused\n{program}: cannot connect to server {server} (errno=15010)\n")
        sys.exit(255)
    if state.config["garbled"] and program == "qstat":
        sys.stdout.write("Job id            Na\0\1\nsegmentation")
        sys.exit(0)
    code = _PROGRAMS[program](state, argv)
    sys.stdout.flush()
    os._exit(code)


def _each(program: str, change: Callable[[State, Job], str]) -> Callable[[State, list[str]], int]:
    """Return a program that changes jobs named by their ids."""

    def run(state: State, argv: list[str]) -> int:
        _, ids = getopt.gnu_getopt(argv, "h:W:t:p")
        code = 0
        with state.changed() as data:
            for id in ids:
                found = state.find(data["jobs"], id)
                told = [change(state, job) for job in found]
                words = "Unknown Job Id" if not found else next((words for words in told if words), "")
                if words and (not found or all(told)):
                    code = 153 if not found else 35 if "finished" in words else 170
                    full = id if "." in id else f"{id}.{state.config['server']}"
                    sys.stderr.write(f"{program}: {full} {words}\n" if code == 35 else f"{program}: {words} {full}\n")
        cycle(state)
        return code

    return run


def _delete(state: State, job: Job) -> str:
    by = f"{job['owner']}@localhost"
    if ended(job):
        return "Request invalid for state of job" if state.torque else "Job has finished"
    if running(job):
        ask_to_end(state, job, by)
    elif not (is_parent(job) and job["state"] in "BR"):
        job.update(state="C" if state.torque else "F", substate=91, etime=time.time())
        job["comment"] = f"{job['comment'] or 'Not Running'} and terminated by {by}"
        if state.torque:
            job["exit"] = 271
    return ""


def _hold(state: State, job: Job) -> str:
    if job["index"] is not None and not state.torque:
        return "Illegal for a subjob"  # the code and the words are not recorded ones
    if job["state"] not in "QHB" and not (state.torque and is_parent(job)):
        return "Request invalid for state of job"
    job["hold"] = True
    if job["state"] == "Q":
        job["state"] = "H"
    return ""


def _release(state: State, job: Job) -> str:
    if job["hold"]:
        job.update(hold=False, state="Q" if job["state"] == "H" else job["state"])
    return ""


_PROGRAMS: dict[str, Callable[[State, list[str]], int]] = {
    "qsub": qsub.main,
    "qstat": qstat.main,
    "qselect": qstat.select,
    "pbsnodes": qstat.nodes,
    "qdel": _each("qdel", _delete),
    "qhold": _each("qhold", _hold),
    "qrls": _each("qrls", _release),
}
