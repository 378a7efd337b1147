"""The engine that works in worker processes of its own on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import wait

from ..batching import Chunks
from ..task import Chunk, Task
from . import wire
from .base import Done, WorkerDied, number_from_env, number_of_cores
from .costs import Costs
from .here import Here
from .order import Batches, InOrder
from .worker import HEADER
from .workers import Pool, WorkerProcess, borrow_pool, return_pool

__all__ = ["ProcessEngine"]

# A message this small always fits into an idle socket's buffer, so sending it to a busy worker cannot block.
_SMALL_MESSAGE = 32 * 1024
_LARGE_TASK = 16 * 1024**2  # bytes of a pickled task that is not copied just to avoid shipping items


class ProcessEngine:
    """Runs chunks in ``n`` worker processes of this machine.

    The operation and its arguments go to each worker once, tiny chunks travel together, results wait as pickles and
    only up to a bound. A worker that is killed costs the chunk it had in hand, nothing else.

    Where sending items to and fro takes longer than working on them, so that no number of workers would help, the
    next ones are worked on in this process, as copies, until they get more expensive. Order, errors, random numbers
    and what is kept for a next run are the same. This is decided after 64 items at least, never if there is an
    initializer or if workers have GPUs; ``WFL_POOL_ADAPTIVE=0`` forbids it.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.announcement = f"num_python_subprocesses={n}"

    def run(self, task: Task, chunks: Chunks) -> Iterator[Done]:
        """Yield the chunks in order; see ``Engine``."""
        run = _Run(task, chunks, self.n)
        if not run.batches.put_back:
            yield from run.order.ready()
            return
        pool = borrow_pool(self.n, task)
        good = False
        try:
            yield from run.results(pool)
            good = not run.given_up
        finally:
            return_pool(pool, good=good)


class _Run:
    """One task on its way through a pool."""

    pool: Pool

    def __init__(self, task: Task, chunks: Chunks, workers: int) -> None:
        self.name = task.name
        self.task = task
        self.own = {"own_values": chunks.own_values, "own_infos": chunks.own_infos}
        self.ended = self.given_up = False
        self._here: Here | None = None
        self.costs = Costs(workers, number_of_cores(), allowed=_may_work_here(task))
        self.guard = chunks.guard
        self.order = InOrder(chunks.position, chunks.keeper, self.costs)
        self.batches = Batches(task.name, chunks, self.order)
        first = self.batches.take(True)
        self.batches.put_back = [] if first is None else [first]

    def results(self, pool: Pool) -> Iterator[Done]:
        self.pool = pool
        while True:
            yield from self.there()
            if not self.costs.here or self.ended or self.given_up:
                break
            yield from self.here()
        if self.guard is not None:
            yield from self.order.rest()

    def there(self) -> Iterator[Done]:
        """Let the workers work until there is no more input, or until this process had better do it itself."""
        while True:
            self.feed()
            busy = {worker.conn: worker for worker in self.pool.workers if worker.outstanding}
            if not busy:
                yield from self.order.ready()
                return
            answers = wait(list(busy), None if self.guard is None else self.guard.patience())
            for conn in answers:
                self.receive(busy[conn])  # type: ignore[index]
            if not answers and self.guard is not None and self.guard.is_over():
                self.given_up = True
                return
            self.feed()
            yield from self.order.ready()

    def here(self) -> Iterator[Done]:
        """Work in this process until there is no more input, or until the workers had better do it."""
        here = self.stand_in()
        while here is not None and self.costs.here:
            chunk = self.batches.take_chunk()
            if chunk is None:
                self.ended = True
                return
            found = (Done(chunk, chunk.results), None) if chunk.results is not None else self.work(here, chunk)
            if found is None:
                self.given_up = True
                return
            done, rest = found
            self.order.add_done(done)
            yield from self.order.ready()
            if rest is not None:
                self.batches.put_back.append(self.batches.pack(rest))
                self.costs.go_back()

    def work(self, here: Here, chunk: Chunk) -> tuple[Done, Chunk | None] | None:
        """Return what the chunk came to and what is left of it; None if it was given up."""
        found = here.work(chunk) if self.guard is None else self.guard.run(partial(here.work, chunk))
        if found is None:
            return None
        done, rest = found
        n = len(done.results)
        self.batches.learn(n, here.copying + here.seconds)
        self.costs.learn_here(n, here.copying, here.seconds)
        return done, rest

    def stand_in(self) -> Here | None:
        """Return what works here in place of a worker, None if the operation cannot, or can hardly, be copied."""
        if self._here is None:
            try:
                blob = wire.dump_task(self.task)
            except TypeError:  # forked workers need no pickle of it
                blob = None
            if blob is None or len(blob) > _LARGE_TASK:
                self.costs.forbid()
                return None
            self._here = Here(blob, **self.own)
        return self._here

    def feed(self) -> None:
        """Give every idle worker a batch, and every busy one a small one in advance unless time is short."""
        for backlog in (0, 1) if self.guard is None else (0,):
            for worker in self.pool.workers:
                if len(worker.outstanding) == backlog and not self.give(worker):
                    return

    def give(self, worker: WorkerProcess) -> bool:
        batch = self.batches.take(not self.order.full and not self.costs.here)
        if batch is None:
            return False
        if worker.outstanding and len(batch.data) > _SMALL_MESSAGE:
            self.batches.put_back.insert(0, batch)
            return False
        worker.outstanding.append(batch)
        worker.send(("chunks", batch.data))
        return True

    def receive(self, worker: WorkerProcess) -> None:
        """Take one answer of a worker, or its death."""
        try:
            message = worker.conn.recv_bytes()
        except (EOFError, ConnectionResetError):
            self.bury(worker)
            return
        batch = worker.outstanding.popleft()
        ok, seconds, batch.op, batch.pickles = HEADER.unpack_from(message)
        if not ok:
            raise wire.load_failure(message[HEADER.size :])
        self.batches.learn(len(batch.chunk.paths), seconds)
        self.order.add(batch, message[HEADER.size :], seconds)

    def bury(self, worker: WorkerProcess) -> None:
        """Put another worker in the place of a dead one; fail the chunk that it had in hand, repeat the others."""
        number, reason = worker.autopsy()
        calls = [each for b in worker.outstanding for each in b.split(self.batches.items_per_call, self.name)]
        guilty = next((each for each in calls if each.chunk.first == number), None)
        if guilty is None:
            raise WorkerDied(
                f"a worker process of {self.name} {reason} before it could begin with {calls[0].chunk.items} of the "
                "input (while it imported modules or ran the initializer)"
            )
        calls.remove(guilty)
        self.batches.put_back.extend(calls)
        error = WorkerDied(f"the worker process that ran {self.name} for {guilty.chunk.items} of its input {reason}")
        self.order.add_done(Done(guilty.chunk, [], error))
        self.pool.replace(worker)


def _may_work_here(task: Task) -> bool:
    wanted = number_from_env("WFL_POOL_ADAPTIVE") != 0
    return wanted and task.initializer[0] is None and not number_from_env("WFL_TORCH_N_GPUS")
