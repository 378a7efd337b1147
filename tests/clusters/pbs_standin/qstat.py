"""`qstat` and `qselect` of the stand-in: tables, full displays, folded lines, history, and its codes."""

from __future__ import annotations

import getopt
import json
import re
import sys
import time

from clusters.pbs_standin.state import Job, State, ended, is_parent

_UNKNOWN, _FINISHED, _NO_HISTORY = 153, 35, 34


def main(state: State, argv: list[str]) -> int:
    try:
        pairs, ids = getopt.gnu_getopt(argv, "fF:txwJEu:aBQsn1" if not state.torque else "ftxu:aeiBQn1")
    except getopt.GetoptError as exc:
        sys.stderr.write(f"qstat: invalid option -- '{exc.opt}'\nusage: qstat [-f] [-t] [-x] [id...]\n")
        return 2
    options = {flag[1:]: value for flag, value in pairs}
    if "Q" in options or "B" in options:
        return _limits(state, "B" in options)
    if "x" in options and not state.torque and not state.config["history"]:
        sys.stderr.write("qstat: PBS is not configured to maintain job history\n")
        return _NO_HISTORY
    all_jobs = [job for job in state.jobs() if not _forgotten(state, job)]
    jobs, code = _select(state, all_jobs, ids, options)
    if "f" in options or (state.torque and "x" in options):
        _print_full(state, jobs, options)
    elif jobs:
        _print_table(state, jobs)
    return code


def _select(state: State, jobs: list[Job], ids: list[str], options: dict[str, str]) -> tuple[list[Job], int]:
    history = "x" in options or state.torque
    if not ids:
        shown = [job for job in jobs if history or not ended(job)]
        return [job for job in shown if "t" in options or job["index"] is None], 0
    chosen, code = [], 0
    for id in ids:
        found = state.find(jobs, id)
        if not found:
            words = "Unknown Job Id Error" if state.torque else "Unknown Job Id"
            sys.stderr.write(f"qstat: {words} {_full_id(state, id)}\n")
            code = _UNKNOWN
        elif not history and all(ended(job) for job in found):
            sys.stderr.write(
                f"qstat: {_full_id(state, id)} Job has finished, use -x or -H to obtain historical job information\n"
            )
            code = _FINISHED
        else:
            chosen += [job for job in found if not (state.torque and is_parent(job))] if "t" in options else found[:1]
    return chosen, code


def _full_id(state: State, id: str) -> str:
    return id if "." in id else f"{id}.{state.config['server']}"


def _forgotten(state: State, job: Job) -> bool:
    return ended(job) and state.torque and time.time() - job.get("etime", time.time()) > state.config["keep_completed"]


def _print_table(state: State, jobs: list[Job]) -> None:
    if state.torque:
        print("Job ID                    Name             User            Time Use S Queue")
        print("------------------------- ---------------- --------------- -------- - -----")
        shape, longest = "%-25s %-16s %-15s %8s %s %-15s", 25
    else:
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
        shape, longest = "%-17s %-16s %-16s  %8s %s %-16s", 17
    for job in jobs:
        id, name = state.id_of(job), job["name"]
        id = id if len(id) <= longest else id[: longest - 1] + "*"
        name = name if len(name) <= 16 else name[:15] + "*"
        used = job["used"].get("cput", "0")
        print(shape % (id, name, job["owner"][:15], used, job["state"], job["queue"]))


def _print_full(state: State, jobs: list[Job], options: dict[str, str]) -> None:
    if options.get("F") == "json":
        _print_json(state, jobs)
        return
    for job in jobs:
        print(f"Job Id: {state.id_of(job)}")
        for name, value in _attributes(state, job):
            line = f"    {name} = {value}"
            print(line if "w" in options else _fold(line))
        print()


def _print_json(state: State, jobs: list[Job]) -> None:
    shown = {}
    for job in jobs:
        attributes: dict[str, object] = {}
        for name, value in _attributes(state, job):
            first, dot, rest = name.partition(".")
            if dot:
                attributes.setdefault(first, {})[rest] = value  # type: ignore[index]
            else:
                attributes[name] = int(value) if re.fullmatch(r"-?\d+", value) else value
        shown[state.id_of(job)] = attributes
    head = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": state.config["server"]}
    print(json.dumps({**head, "Jobs": shown}, indent="\t"))


def _fold(line: str) -> str:
    parts, rest = [], line
    while len(rest) > 79:
        comma = rest.rfind(",", 20, 79) if " = " in line and line.lstrip().startswith("Variable_List") else -1
        cut = comma + 1 if comma > 0 else 79
        parts.append(rest[:cut])
        rest = rest[cut:]
    return "\n\t".join([*parts, rest])


def _attributes(state: State, job: Job) -> list[tuple[str, str]]:
    owner = f"{job['owner']}@localhost"
    rows = [("Job_Name", job["name"]), ("Job_Owner", owner)]
    rows += [(f"resources_used.{name}", value) for name, value in job["used"].items()]
    rows += [("job_state", job["state"]), ("queue", job["queue"]), ("server", state.config["server"])]
    rows += [("Checkpoint", "u"), ("ctime", _date(job["ctime"])), ("Error_Path", f"localhost:{job['err']}")]
    if "stime" in job:
        rows += [("exec_host", f"{state.config['server']}/0*{job['need']['ncpus']}")]
    rows += [("Hold_Types", "u" if job["hold"] else "n"), ("Join_Path", "oe" if job["join"] else "n")]
    rows += [("Keep_Files", "n"), ("Mail_Points", "a"), ("Output_Path", f"localhost:{job['out']}"), ("Priority", "0")]
    rows += [("Rerunable", str(job["rerun"])), ("Resource_List.nodect", "1")]
    rows += [(f"Resource_List.{name}", value) for name, value in sorted(job["resources"].items())]
    if "stime" in job:
        rows += [("stime", _date(job["stime"]))]
    rows += [("substate", str(job["substate"]))]
    rows += [("Variable_List", ",".join(f"{name}={value}" for name, value in job["variables"].items()))]
    if job["comment"]:
        rows += [("comment", job["comment"])]
    if job["exit"] is not None:
        rows += [("exit_status" if state.torque else "Exit_status", str(job["exit"]))]
    if is_parent(job) and not state.torque:
        rows += [("array", "True"), ("array_indices_submitted", f"1-{job['array']}")]
    rows += [("submit_args" if state.torque else "Submit_arguments", job["arguments"])]
    return rows if state.torque else [*rows, ("project", "_pbs_project_default"), ("Submit_Host", "localhost")]


def _date(seconds: float) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(seconds))


def _limits(state: State, server: bool) -> int:
    names = ["max_job_array_size" if state.torque else "max_array_size"] if server else []
    names += ["max_user_queuable"] if state.torque and not server and state.config["max_queued"] else []
    for head in [state.config["server"]] if server else state.config["queues"]:
        print(f"{'Server' if server else 'Queue'}: {head}")
        for name in names:
            value = state.config["max_queued"] if name == "max_user_queuable" else state.config["max_array_size"]
            print(f"    {name} = {value}")
        print()
    return 0


def select(state: State, argv: list[str]) -> int:
    """Print the ids of jobs."""
    pairs, _ = getopt.gnu_getopt(argv, "u:N:s:xtJT" if not state.torque else "u:N:s:")
    options = {flag[1:]: value for flag, value in pairs}
    for job in state.jobs():
        shown = state.torque or "x" in options or not ended(job)
        owned = options.get("u", job["owner"]) == job["owner"]
        if shown and owned and options.get("N", job["name"]) == job["name"] and job["index"] is None:
            print(state.id_of(job))
    return 0


def nodes(state: State, argv: list[str]) -> int:
    """Print the one node."""
    print(f"{state.config['server']}\n     state = free\n     np = {state.config['ncpus']}")
    return 0
