"""Runs the jobs of the stand-in for a PBS server as processes, keeps their time limits, and tells how they ended."""

from __future__ import annotations

import os
import shutil
import signal
import time

from clusters.pbs_standin.state import Job, State, find_free

_DELETED = "deleted.{seq}.{index}"


def cycle(state: State) -> None:
    """Start what can start now, each job under a process of its own."""
    with state.changed() as data:
        started = find_free(state, data["jobs"])
    for job in started:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                _detach()
                _attend(state, job)
            os._exit(0)
        os.wait()


def ask_to_end(state: State, job: Job, by: str) -> None:
    """Make the process that attends to a running job end it."""
    with open(state.path(_DELETED.format(**job)), "w") as file:
        file.write(by)


def _detach() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 256)


def _attend(state: State, job: Job) -> None:
    status = 0
    why = ""
    try:
        status, why = _run(state, job)
    finally:
        _finish(state, job, status, why)
        cycle(state)
        os._exit(0)


def _run(state: State, job: Job) -> tuple[int, str]:
    spool = state.path(f"spool.{job['seq']}.{job['index']}")
    pid = os.fork()
    if pid == 0:
        _become(state, job, spool)
    deadline = time.time() + job["walltime"] if job["walltime"] else None
    deleted, killed, why = state.path(_DELETED.format(**job)), None, ""
    while True:
        done, raw = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if not why and os.path.exists(deleted):
            with open(deleted) as file:
                why = f"and terminated by {file.read()}"
        elif not why and deadline is not None and time.time() > deadline:
            why = "and exceeded resource walltime"
            with open(spool + ".e", "a") as file:
                limit = job["walltime"]
                file.write(f"=>> PBS: job killed: walltime {limit + 1} exceeded limit {limit}\n")
        if why and killed is None:
            killed = time.time()
            _kill(pid, signal.SIGTERM)
        elif killed is not None and time.time() > killed + state.config["kill_delay"]:
            _kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    _kill(pid, signal.SIGKILL)
    _deliver(job, spool)
    status = 256 + os.WTERMSIG(raw) if os.WIFSIGNALED(raw) else os.WEXITSTATUS(raw)
    if why.endswith("walltime"):
        status = -11 if state.torque else -29
    elif why:
        status = 256 + signal.SIGTERM
    return status, why


def _kill(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _become(state: State, job: Job, spool: str) -> None:
    """Turn this process into the job's shell, with the environment a job has."""
    os.setsid()
    home = os.path.expanduser("~")
    nodes = state.path(f"nodes.{job['seq']}.{job['index']}")
    with open(nodes, "w") as file:
        file.write("localhost\n" * job["need"]["lines"])
    env = {name: os.environ[name] for name in ("HOME", "LOGNAME", "PATH", "USER", "LANG") if name in os.environ}
    env.update(job["variables"], PBS_JOBID=state.id_of(job), PBS_JOBNAME=job["name"], PBS_NODEFILE=nodes)
    env.update(PBS_ENVIRONMENT="PBS_BATCH", HOME=home)
    if state.torque:
        env.update(PBS_NUM_PPN=str(job["need"]["lines"]), PBS_NUM_NODES="1")
    else:
        env.update(NCPUS=str(job["need"]["ncpus"]), OMP_NUM_THREADS=str(job["need"]["ncpus"]))
    if job["index"] is not None:
        env["PBS_ARRAYID" if state.torque else "PBS_ARRAY_INDEX"] = str(job["index"])
    os.chdir(home)
    for number, end in ((1, ".o"), (2, ".o" if job["join"] else ".e")):
        os.dup2(os.open(spool + end, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.execve(job["shell"], [job["shell"], job["script"]], env)


def _deliver(job: Job, spool: str) -> None:
    for end, name in ((".o", "out"), (".e", "err")):
        if os.path.exists(spool + end):
            target = job[name]
            try:
                if not os.path.exists(target) or os.path.isfile(target):
                    shutil.copyfile(spool + end, target)
            except OSError:
                pass  # the real one writes a mail
            os.unlink(spool + end)


def _finish(state: State, job: Job, status: int, why: str) -> None:
    _update(state, job, state="E", substate=50)
    time.sleep(state.config["end_delay"])
    words = why or ("and finished" if status == 0 else "and failed")
    used = {"cpupercent": "0", "cput": "00:00:00", "mem": "7324kb", "vmem": "10380kb"}
    seconds = int(time.time() - job["stime"])
    if why.endswith("walltime"):
        seconds = max(seconds, int(job["walltime"]) + 1)
    used["walltime"] = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    last = "C" if state.torque else ("X" if job["array"] else "F")
    comment = f"{job['comment']} {words}"
    substate = 91 if "terminated" in why else 92 if status == 0 else 93
    _update(state, job, state=last, substate=substate, exit=status, used=used, comment=comment, etime=time.time())


def _update(server: State, job: Job, **changes: object) -> None:
    with server.changed() as data:
        for stored in server.find(data["jobs"], server.id_of(job)):
            if stored["index"] == job["index"]:
                stored.update(changes)
