"""The process that starts jobs, watches them and ends them; one per spool, gone when there is nothing to do."""

from __future__ import annotations

import logging
import os
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator

from . import processes
from .budget import Demand, Free, choose
from .running import DIED, NODE_FAILED, OUT_OF_MEMORY, TIMED_OUT, Ended, Running, adopt, demand_of, launch
from .spool import DONE, KEEP_DAYS, QUEUED, RUNNING, Spool, transaction
from .state import read_budget

log = logging.getLogger("expyre.localqueue")

SAMPLE = 0.5  # seconds between looks at memory, and at jobs that are not children of this process
KILL_SAMPLE = 0.05  # seconds between looks at jobs that are being ended
IDLE = 10.0  # seconds without jobs after which the supervisor goes away
PATIENCE = 60.0  # seconds for which a job may be overtaken by smaller ones
SCAN = 1000  # waiting jobs looked at in one round


class Supervisor:
    """Runs the jobs of a spool. The caller holds the spool's lock."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.db = spool.open()
        self.boot = processes.boot_id()
        self.known = processes.Processes()
        self.jobs: dict[int, Running] = {}
        self.overtaken: dict[int, float] = {}
        self.idle = float(os.environ.get("EXPYRE_LOCAL_IDLE", IDLE))
        self.patience = float(os.environ.get("EXPYRE_LOCAL_PATIENCE", PATIENCE))
        self._next_sample = 0.0
        self._idle_since = time.monotonic()
        self._wake_read, self._wake_write = os.pipe()
        self._fifo = -1

    def run(self) -> None:
        """Work until the queue has been empty for a while."""
        self._listen()
        self._adopt_all()
        self._prune()
        while True:
            self._round()
            if self._is_over():
                return
            self._wait()

    def _round(self) -> None:
        self._obey()
        self._check_limits()
        self._reap()
        self._start_jobs()

    # -- waking up ---------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Open the ways by which this process is woken: the fifo of the spool, and the end of a child."""
        if not os.path.exists(self.spool.fifo):
            os.mkfifo(self.spool.fifo, 0o600)
        # read and write: with a writer of its own the fifo never reports an end of file
        self._fifo = os.open(self.spool.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (self._wake_read, self._wake_write):
            os.set_blocking(number, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def _wait(self) -> None:
        ready, _, _ = select.select([self._fifo, self._wake_read], [], [], self._pause())
        for number in ready:
            try:
                os.read(number, 65536)
            except BlockingIOError:
                continue

    def _pause(self) -> float | None:
        now = time.monotonic()
        times = [job.deadline for job in self.jobs.values() if job.deadline is not None and not job.kill]
        if any(job.kill for job in self.jobs.values()):
            times.append(now + KILL_SAMPLE)
        if any(job.demand.mem or job.process is None for job in self.jobs.values()):
            times.append(self._next_sample)
        times += [since + self.patience for since in self.overtaken.values() if since + self.patience > now]
        if not self.jobs:
            times.append(self._idle_since + self.idle)
        return max(0.0, min(times) - now) if times else None

    def _is_over(self) -> bool:
        """Return whether nothing is left to do; whoever submits after that starts another supervisor."""
        now = time.monotonic()
        if self.jobs or self._unfinished():
            self._idle_since = now
            return False
        if now - self._idle_since < self.idle:
            return False
        self.spool.leaving.touch()
        os.close(self._fifo)
        if not self._unfinished():
            return True
        self.spool.leaving.unlink(missing_ok=True)
        self._listen()  # a job came between the last look and the closing
        return False

    def _unfinished(self) -> bool:
        sql = "SELECT 1 FROM jobs WHERE state IN (?, ?) LIMIT 1"
        return self.db.execute(sql, [QUEUED, RUNNING]).fetchone() is not None

    # -- taking over and tidying ---------------------------------------------------------------------------------

    def _adopt_all(self) -> None:
        rows = self.db.execute("SELECT * FROM jobs WHERE state = ?", [RUNNING]).fetchall()
        if any(not row["pid"] and row["boot"] == self.boot for row in rows):
            time.sleep(0.2)  # a job that was being started when the last supervisor died shows up by now
        table = processes.snapshot()
        for row in rows:
            if row["boot"] != self.boot:
                self._record_end(row["id"], Ended(None, NODE_FAILED, "the machine was restarted while the job ran"))
                continue
            job = adopt(self.spool, row, table, self.known)
            if job is None:
                self.db.execute("UPDATE jobs SET state = ? WHERE id = ?", [QUEUED, row["id"]])
            else:
                self.jobs[job.id] = job
                log.info("job %d (%s) taken over", job.id, job.name)

    def _prune(self) -> None:
        old = time.time() - KEEP_DAYS * 86400
        with transaction(self.db):
            self.db.execute("DELETE FROM jobs WHERE state = ? AND t_end < ?", [DONE, old])
            self.db.execute("DELETE FROM environments WHERE digest NOT IN (SELECT environment FROM jobs)")

    # -- the jobs ------------------------------------------------------------------------------------------------

    def _obey(self) -> None:
        """Begin to end the jobs that somebody wants ended."""
        sql = "SELECT id, kill, kill_detail FROM jobs WHERE state = ? AND kill IS NOT NULL"
        wanted = {row["id"]: row for row in self.db.execute(sql, [RUNNING])} if self.jobs else {}
        due = [job for job in self.jobs.values() if job.id in wanted and not job.kill]
        self._begin_kill([(job, wanted[job.id]["kill"], wanted[job.id]["kill_detail"] or "") for job in due])

    def _check_limits(self) -> None:
        now = time.monotonic()
        late = [job for job in self.jobs.values() if job.deadline is not None and now >= job.deadline and not job.kill]
        detail = "the time limit of {:g} s was reached"
        self._begin_kill([(job, TIMED_OUT, detail.format(job.max_time)) for job in late])
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE
            self._check_memory()
        if any(job.kill for job in self.jobs.values()):
            self._press_on(now)

    def _check_memory(self) -> None:
        watched = [job for job in self.jobs.values() if job.demand.mem and not job.kill]
        if not watched:
            return
        table = processes.snapshot()
        self.known.forget(table)
        too_big = []
        for job in watched:
            used = processes.memory_kb(job.members(self.known, table), job.demand.mem)
            if used > job.demand.mem:
                too_big.append((job, OUT_OF_MEMORY, f"used {used} kB of memory, asked for {job.demand.mem} kB"))
        self._begin_kill(too_big)

    def _begin_kill(self, due: list[tuple[Running, str, str]]) -> None:
        if not due:
            return
        table = processes.snapshot()
        for job, reason, detail in due:
            log.info("job %d (%s) is ended: %s %s", job.id, job.name, reason, detail)
            # recorded first: whoever takes over after a crash knows why the job ended
            self.db.execute("UPDATE jobs SET kill = ?, kill_detail = ? WHERE id = ?", [reason, detail, job.id])
            job.begin_kill(reason, detail, job.members(self.known, table))

    def _press_on(self, now: float) -> None:
        """End by force what did not go when it was asked."""
        late = [job for job in self.jobs.values() if job.kill and now >= job.kill_at]
        table = processes.snapshot() if late else {}
        for job in late:
            processes.stop_all(job.members(self.known, table))

    def _reap(self) -> None:
        gone = [job for job in self.jobs.values() if not job.alive()]
        if not gone:
            return
        table = processes.snapshot()
        for job in gone:
            left = job.members(self.known, table)
            if left and job.kill and time.monotonic() < job.give_up_at:
                continue  # asked to end, or being killed: the job is over when the last process is
            processes.stop_all(left)
            self._finish(job, job.ended())

    def _finish(self, job: Running, ended: Ended) -> None:
        self._record_end(job.id, ended)
        del self.jobs[job.id]
        job.forget()
        log.info("job %d (%s) ended: %s %s", job.id, job.name, ended.reason or "well", ended.detail)

    def _record_end(self, id: int, ended: Ended) -> None:
        sql = "UPDATE jobs SET state = ?, t_end = ?, exit_code = ?, reason = ?, detail = ? WHERE id = ?"
        self.db.execute(sql, [DONE, time.time(), ended.exit_code, ended.reason, ended.detail, id])
        self._idle_since = time.monotonic()

    def _start_jobs(self) -> None:
        budget = read_budget(self.db)
        free = Free.after(budget.cores, budget.mem, len(budget.gpus), (job.demand for job in self.jobs.values()))
        if free.cores <= 0:
            return
        rows = self.db.execute("SELECT * FROM jobs WHERE state = ? ORDER BY id LIMIT ?", [QUEUED, SCAN])
        queued: dict[int, sqlite3.Row] = {}

        def demands() -> Iterator[Demand]:
            for row in rows:
                queued[row["id"]] = row
                yield demand_of(row)

        chosen = choose(demands(), free, self.overtaken, time.monotonic(), self.patience)
        rows.close()
        for demand in chosen:
            self.overtaken.pop(demand.id, None)
            self._start(queued[demand.id], budget.gpus)
        self.overtaken = {id: since for id, since in self.overtaken.items() if id in queued}

    def _start(self, row: sqlite3.Row, gpus: list[str]) -> None:
        taken = {gpu for job in self.jobs.values() for gpu in job.gpu_ids}
        gpu_ids = [gpu for gpu in gpus if gpu not in taken][: row["gpus"]]
        sql = "UPDATE jobs SET state = ?, boot = ?, pid = NULL, gpu_ids = ?, t_start = ? WHERE id = ? AND state = ?"
        changed = self.db.execute(sql, [RUNNING, self.boot, ",".join(gpu_ids), time.time(), row["id"], QUEUED])
        if changed.rowcount != 1:
            return  # held or cancelled in this very moment
        try:
            job = launch(self.spool, self.db, row, gpu_ids, bool(gpus))
        except (OSError, ValueError) as exc:
            self._record_end(row["id"], Ended(None, DIED, f"the job could not be started: {exc}"))
            return
        self.jobs[job.id] = job
        self.db.execute("UPDATE jobs SET pid = ?, pid_start = ? WHERE id = ?", [job.pid, job.start, job.id])


def _prepare_process(spool: Spool) -> None:
    """Make this process independent of whoever started it; jobs inherit ordinary signals and no lock."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o077)
    if spool.log.exists() and spool.log.stat().st_size > 1_000_000:
        os.truncate(spool.log, 0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr)


def main(directory: str, lock: int) -> None:
    """Supervise a spool.

    Parameters
    ----------
    directory
        Of the spool.
    lock
        Open file with the spool's lock, from whoever started this process.
    """
    spool = Spool(directory)
    os.set_inheritable(lock, False)
    _prepare_process(spool)
    try:
        Supervisor(spool).run()
    except Exception:
        log.exception("the supervisor of %s gives up; the next look at the queue starts another", directory)
        raise
    finally:
        os.close(lock)
