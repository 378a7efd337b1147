"""What the stand-in for a PBS server remembers: one JSON file, changed under a lock."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Job = dict[str, Any]
DEFAULTS: dict[str, Any] = {
    "dialect": "openpbs",
    "server": "vm",
    "queues": ["workq", "batch"],
    "ncpus": 16,
    "ngpus": 2,
    "end_delay": 0.05,  # s in state E, a second on the real one
    "kill_delay": 0.3,  # s between SIGTERM and SIGKILL
    "history": True,
    "keep_completed": 300,  # s for which the dialect of Torque shows what has ended
    "max_queued": 0,
    "max_array_size": 10000,
    "down": False,
    "garbled": False,
}


class State:
    """Directory of a stand-in server."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.config = {**DEFAULTS, **_read(os.path.join(directory, "config.json"), {})}
        self.torque = self.config["dialect"] == "torque"

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def jobs(self) -> list[Job]:
        """Return all jobs as they are now."""
        jobs: list[Job] = _read(self.path("jobs.json"), {"jobs": []})["jobs"]
        return jobs

    @contextmanager
    def changed(self) -> Iterator[dict[str, Any]]:
        """Give everything there is for a change."""
        with open(self.path("lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            data = _read(self.path("jobs.json"), {"next": 0, "jobs": []})
            yield data
            with open(self.path("jobs.new"), "w") as file:
                file.write(json.dumps(data))
            os.replace(self.path("jobs.new"), self.path("jobs.json"))

    def id_of(self, job: Job) -> str:
        """Return the id as the server prints it."""
        index = "" if job["index"] is None else job["index"]
        brackets = f"[{index}]" if job["array"] else ""
        return f"{job['seq']}{brackets}.{self.config['server']}"

    def find(self, jobs: list[Job], id: str) -> list[Job]:
        """Return the job of an id; for an array as a whole first itself, then its members."""
        head = id.partition(".")[0]
        number, bracket, index = head.rstrip("]").partition("[")
        found = [job for job in jobs if str(job["seq"]) == number and bool(job["array"]) == bool(bracket)]
        return [job for job in found if str(job["index"]) == index] if index else found


def find_free(state: State, jobs: list[Job]) -> list[Job]:
    """Mark the jobs that can start now as running and return them."""
    taken = {name: sum(job["need"][name] for job in jobs if running(job)) for name in ("ncpus", "ngpus")}
    free = {name: state.config[name] - count for name, count in taken.items()}
    started = []
    for job in jobs:
        if job["state"] != "Q" or job["hold"] or is_parent(job):
            continue
        lack = next((name for name in free if job["need"][name] > free[name]), None)
        cap = job["max_running"]
        if lack is not None:
            need, total = job["need"][lack], state.config[lack]
            amounts = f"(R: {need} A: {free[lack]} T: {total})"
            job["comment"] = f"Not Running: Insufficient amount of resource: {lack} {amounts}"
        elif not cap or sum(running(other) for other in jobs if other["seq"] == job["seq"]) < cap:
            for name in free:
                free[name] -= job["need"][name]
            started.append(_start(state, job))
    _states_of_arrays(jobs)
    return started


def _start(state: State, job: Job) -> Job:
    now = time.localtime()
    where = f"({state.config['server']}:ncpus={job['need']['ncpus']})"
    job.update(state="R", substate=41, stime=time.time(), run_count=1)
    job["comment"] = time.strftime(f"Job run at %a %b %d at %H:%M on {where}", now)
    return job


def _states_of_arrays(jobs: list[Job]) -> None:
    for parent in filter(is_parent, jobs):
        members = [job for job in jobs if job["seq"] == parent["seq"] and not is_parent(job)]
        if all(job["state"] in "FCX" for job in members):
            parent["state"] = "C" if parent["torque"] else "F"
            for job in members:
                job["state"] = parent["state"]
        elif parent["state"] == "Q" and any(job["state"] not in "QH" for job in members):
            parent["state"] = "R" if parent["torque"] else "B"


def is_parent(job: Job) -> bool:
    """Return whether this is an array as a whole."""
    return bool(job["array"]) and job["index"] is None


def running(job: Job) -> bool:
    """Return whether a job takes resources."""
    return job["state"] in "RE" and not is_parent(job)


def ended(job: Job) -> bool:
    """Return whether a job is history."""
    return job["state"] in "FCX"


def _read(path: str, default: Any) -> Any:
    try:
        with open(path) as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return default
