"""What can be asked of the queue: plain data in, plain data out, so that it can be asked from another host."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .budget import Free
from .running import CANCELLED, demand_of
from .spool import DONE, HELD, QUEUED, RUNNING, Spool, save_environment, transaction
from .state import Budget, current_budget, read_budget, write_budget

_SCHEDULER_PREFIXES = ("SLURM_", "PBS_", "SGE_")
_GROUP = 500  # ids in one statement


def submit(spool: Spool, jobs: Sequence[dict[str, Any]], env: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Add jobs to the queue; a job whose token the queue knows is not added again.

    Parameters
    ----------
    spool
        Which queue.
    jobs
        For each ``name``, ``token``, ``directory`` (if not absolute, relative to the home), ``script`` (text),
        ``script_name``, ``shell``, ``cores``, ``mem`` (kB, 0 for none asked), ``gpus``, ``max_time`` (s or None),
        ``partition``, ``cap`` (cores or None), ``grace`` (s).
    env
        Environment of the jobs; None for that of this process.

    Returns
    -------
    For each job ``{"id": number}`` or ``{"error": text}``.
    """
    budget = current_budget()
    with spool.connect(durable=True) as db:
        known = _known(db, [job["token"] for job in jobs if job["token"]])
        errors = [None if job["token"] in known else _prepare(job, budget) for job in jobs]
        with transaction(db):
            write_budget(db, budget)
            digest = save_environment(db, _job_environment(env), _umask(), _stack_limit())
            pairs = zip(jobs, errors)  # noqa: B905 (Python 3.9)
            answers = [_insert(db, job, digest) if error is None else {"error": error} for job, error in pairs]
    spool.ensure_supervisor()
    return answers


def _prepare(job: dict[str, Any], budget: Budget) -> str | None:
    """Write the script of a job; return why it cannot run here, if so."""
    wanting = [
        (job["cores"], budget.cores, "cores", "EXPYRE_LOCAL_CORES"),
        (job["mem"], budget.mem, "kB of memory", "EXPYRE_LOCAL_MEM"),
        (job["gpus"], len(budget.gpus), "GPUs", "EXPYRE_LOCAL_GPUS"),
    ]
    if job["cap"] is not None:
        wanting.append((job["cores"], job["cap"], f"cores in partition {job['partition']}", "its num_cores"))
    reasons = [f"asks for {n} {what}, there are {there} (see {knob})" for n, there, what, knob in wanting if n > there]
    if reasons:
        return f"job {job['name']} can never run on this machine: it " + "; it ".join(reasons)
    directory = _absolute(job["directory"])
    path = os.path.join(directory, job["script_name"])
    try:
        # under a new name first: a shell that reads the old script goes on reading that
        temporary = f"{path}.{os.getpid()}-{threading.get_ident()}"
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(job["script"])
        os.replace(temporary, path)
    except OSError as exc:
        return f"cannot write the script of job {job['name']} to {path}: {exc.strerror}"
    return None


def _absolute(directory: str) -> str:
    """Return a directory as a path; relative ones, and those that begin with ``~`` or ``$HOME``, are below the home."""
    first, _, rest = directory.partition("/")
    inner = rest if first in ("~", "$HOME", "${HOME}") else directory
    return os.path.join(os.path.expanduser("~"), inner)


def _insert(db: sqlite3.Connection, job: dict[str, Any], digest: str) -> dict[str, Any]:
    values = {
        "token": job["token"] or None,
        "name": job["name"],
        "directory": _absolute(job["directory"]),
        "command": f"{job['shell']} {job['script_name']}",
        "environment": digest,
        "cores": job["cores"],
        "mem": job["mem"],
        "gpus": job["gpus"],
        "max_time": job["max_time"],
        "partition": job["partition"],
        "cap": job["cap"],
        "grace": job["grace"],
        "state": QUEUED,
        "t_submit": time.time(),
    }
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    sql = f"INSERT INTO jobs ({columns}) VALUES ({marks}) ON CONFLICT (token) DO NOTHING"
    added = db.execute(sql, list(values.values()))
    if added.rowcount == 1:
        return {"id": added.lastrowid}
    return {"id": db.execute("SELECT id FROM jobs WHERE token = ?", [job["token"]]).fetchone()[0]}


def _job_environment(env: dict[str, str] | None) -> dict[str, str]:
    env = dict(os.environ if env is None else env)
    ignored = _SCHEDULER_PREFIXES if "WFL_SCHEDULER_IGNORE_ENV" in env else ("EXPYRE_LOCAL_JOB",)
    return {name: value for name, value in env.items() if not name.startswith(ignored)}


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _stack_limit() -> str:
    """Return the soft limit of the stack in kB: Fortran programs need it, and it belongs to the submitter's shell."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    except (ImportError, OSError):
        return ""
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft // 1024)


def _known(db: sqlite3.Connection, tokens: Sequence[str]) -> dict[str, int]:
    return {row["token"]: row["id"] for row in _rows(db, "token", tokens)}


def _rows(db: sqlite3.Connection, column: str, values: Sequence[Any]) -> Iterator[sqlite3.Row]:
    for start in range(0, len(values), _GROUP):
        group = list(values[start : start + _GROUP])
        yield from db.execute(f"SELECT * FROM jobs WHERE {column} IN ({', '.join('?' * len(group))})", group).fetchall()


def _look(spool: Spool, ids: Iterable[str]) -> dict[str, sqlite3.Row]:
    """Return the rows of jobs, and see to it that somebody looks after those that are not done."""
    numbers = [int(id) for id in ids if id.isdigit()]
    with spool.connect() as db:
        rows = {str(row["id"]): row for row in _rows(db, "id", numbers)}
    if any(row["state"] in (QUEUED, RUNNING) for row in rows.values()):
        spool.ensure_supervisor(wake=False)
    return rows


def find(spool: Spool, tokens: Sequence[str]) -> dict[str, str]:
    """Return the ids of the jobs submitted with these tokens, as far as there are such jobs."""
    with spool.connect() as db:
        return {token: str(id) for token, id in _known(db, tokens).items()}


def listing(spool: Spool, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return ``state`` and ``reason`` of the jobs that the queue knows."""
    return {id: {"state": row["state"], "reason": row["reason"] or ""} for id, row in _look(spool, ids).items()}


def explain(spool: Spool, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return ``reason``, ``detail``, ``exit_code`` of the jobs that have ended badly."""
    return {
        id: {"reason": row["reason"], "detail": row["detail"] or "", "exit_code": row["exit_code"]}
        for id, row in _look(spool, ids).items()
        if row["state"] == DONE and row["reason"]
    }


def hold(spool: Spool, ids: Sequence[str]) -> dict[str, str]:
    """Keep waiting jobs from starting; returns what is wrong, by id."""
    return _move(spool, ids, QUEUED, HELD)


def release(spool: Spool, ids: Sequence[str]) -> dict[str, str]:
    """Let held jobs start again; returns what is wrong, by id."""
    problems = _move(spool, ids, HELD, QUEUED)
    spool.ensure_supervisor()
    return problems


def _move(spool: Spool, ids: Sequence[str], old: str, new: str) -> dict[str, str]:
    problems = {}
    with spool.connect() as db, transaction(db):
        for id in ids:
            changed = db.execute("UPDATE jobs SET state = ? WHERE id = ? AND state = ?", [new, id, old])
            row = db.execute("SELECT state FROM jobs WHERE id = ?", [id]).fetchone()
            if not changed.rowcount and (row is None or row["state"] != new):
                problems[id] = f"job {id} is {row['state'] if row else 'not known'}; only a {old} job can become {new}"
    return problems


def cancel(spool: Spool, ids: Sequence[str], wait: float = 10.0) -> dict[str, str]:
    """End jobs: those that wait at once, those that run with all their processes.

    Parameters
    ----------
    spool
        Which queue.
    ids
        The jobs; what has ended already, or is not known, stays as it is.
    wait
        How long to wait in s until they have ended; they will, also if that takes longer.
    """
    done = "UPDATE jobs SET state = ?, reason = ?, detail = ?, t_end = ? WHERE id = ? AND state IN (?, ?)"
    kill = "UPDATE jobs SET kill = ?, kill_detail = ? WHERE id = ? AND state = ? AND kill IS NULL"
    with spool.connect() as db:
        with transaction(db):
            for id in ids:
                db.execute(done, [DONE, CANCELLED, "cancelled while it waited", time.time(), id, QUEUED, HELD])
                db.execute(kill, [CANCELLED, "cancelled while it ran", id, RUNNING])
        deadline, pause, wake = time.monotonic() + wait, 0.01, True
        while any(row["state"] == RUNNING for row in _rows(db, "id", ids)) and time.monotonic() < deadline:
            spool.ensure_supervisor(wake=wake)
            time.sleep(pause)
            pause, wake = min(pause * 1.5, 0.2), False
    return {}


def why_pending(spool: Spool, ids: Sequence[str]) -> dict[str, str]:
    """Return why jobs that wait do not run yet, in words."""
    texts = {}
    with spool.connect() as db:
        budget = read_budget(db)
        running = [demand_of(row) for row in db.execute("SELECT * FROM jobs WHERE state = ?", [RUNNING])]
        free = Free.after(budget.cores, budget.mem, len(budget.gpus), running)
        for row in _rows(db, "id", [id for id in ids if id.isdigit()]):
            if row["state"] == HELD:
                texts[str(row["id"])] = "held; release it to let it start"
            elif row["state"] == QUEUED:
                texts[str(row["id"])] = _why(db, row, free, budget)
    return texts


def _why(db: sqlite3.Connection, row: sqlite3.Row, free: Free, budget: Budget) -> str:
    sql = "SELECT count(*) FROM jobs WHERE state = ? AND id < ?"
    ahead = db.execute(sql, [QUEUED, row["id"]]).fetchone()[0]
    lacking = free.lacks(demand_of(row)) or ["its turn"]
    return f"waiting for {' and '.join(lacking)} (of {budget.cores} cores); {ahead} jobs ahead"


_COMMANDS: dict[str, Callable[..., Any]] = {
    "submit": submit,
    "find": find,
    "listing": listing,
    "explain": explain,
    "hold": hold,
    "release": release,
    "cancel": cancel,
    "why_pending": why_pending,
}


def call(command: str, arguments: dict[str, Any], directory: str | None = None) -> Any:
    """Carry out a command named as above, on a spool directory or that of this user on this machine."""
    return _COMMANDS[command](Spool(directory), **arguments)


def main() -> None:
    """Read a request as JSON from standard input and write the answer to standard output."""
    request = json.load(sys.stdin)
    json.dump(call(request["command"], request["arguments"], request.get("directory")), sys.stdout)
