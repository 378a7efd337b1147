"""The queued jobs of one call: started, waited for, followed by others for what they had no time for."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expyre.steps import step

from .deadline import PartialResults
from .engines import Done
from .rng import PER_ITEM_INFO
from .task import Chunk, add_note, describe_places

if TYPE_CHECKING:
    from expyre.func import ExPyRe
    from expyre.resources import Resources
    from expyre.retry import Retry

    from .remoteinfo import RemoteInfo

__all__ = ["FAILED_KEY", "LOCATION_KEY", "Jobs"]

_log = logging.getLogger(__name__)

FAILED_KEY = "EXPYRE_REMOTE_JOB_FAILED"
LOCATION_KEY = "_ConfigSet_loc"


@dataclass
class _Piece:
    """What one job does of a chunk.

    Attributes
    ----------
    number
        Number of the chunk.
    places
        Of the items of the job, in the chunk.
    job
        The job.
    resources
        What it asks for.
    tries
        How many jobs before it have run out of time.
    """

    number: int
    places: list[int]
    job: ExPyRe
    resources: Resources
    tries: int = 0


class Jobs:
    """The jobs of one call and the chunks that they work on.

    A job that had no time for all of its items brings back those that it has finished; the others become a job of
    their own, as often as it takes.

    Parameters
    ----------
    remote_info
        How the jobs are queued.
    name
        Of the operation.
    chunks
        The chunks.
    jobs
        The job of each of them.
    more
        Finds or creates further jobs, for parts of chunks by the chunk's number.
    """

    def __init__(
        self,
        remote_info: RemoteInfo,
        name: str,
        chunks: list[Chunk],
        jobs: list[ExPyRe],
        more: Callable[[dict[int, Chunk]], list[ExPyRe]],
    ) -> None:
        from expyre.retry import Retry

        self.remote_info = remote_info
        self.name = name
        self.chunks = chunks
        self.jobs = jobs
        self.failures: list[tuple[int, str, BaseException]] = []
        self._more = more
        self._retry = None if remote_info.retry is None else Retry.from_spec(remote_info.retry)
        resources = remote_info.get_resources()
        self._waiting: dict[str, list[_Piece]] = {}
        for i, (chunk, job) in enumerate(zip(chunks, jobs, strict=True)):
            self._wait_for(_Piece(i, list(range(len(chunk.paths))), job, resources))
        self._short: list[tuple[_Piece, PartialResults]] = []
        self._found: dict[int, dict[int, Any]] = {i: {} for i in range(len(chunks))}
        self._done: dict[int, Done] = {}
        self._next = 0

    def _wait_for(self, piece: _Piece) -> None:
        self._waiting.setdefault(piece.job.id, []).append(piece)

    # ------------------------------------------------------------------------------------------------ starting

    def start(self) -> None:
        """Submit what was not submitted before, and with ``resubmit_killed_jobs`` what has died since."""
        _log.info("Starting %d jobs for %s on %s", len({j.id for j in self.jobs}), self.name, self.remote_info.sys_name)
        self._start(self.jobs, self.remote_info.get_resources())

    def _start(self, jobs: list[ExPyRe], resources: Resources) -> None:
        from expyre.func import start_jobs

        info = self.remote_info
        options: dict[str, Any] = {
            "header_extra": info.header_extra, "exact_fit": info.exact_fit, "partial_node": info.partial_node
        }
        unique = list({job.id: job for job in jobs}.values())
        start_jobs(unique, resources, info.sys_name, **options)
        if info.resubmit_killed_jobs:
            killed = self._killed([job for job in unique if job.recreated])
            start_jobs(killed, resources, info.sys_name, **options, force_rerun=True)

    def _killed(self, jobs: list[ExPyRe]) -> list[ExPyRe]:
        """Return those of the jobs of an earlier run that are known to have ended without result or exception."""
        from expyre.errors import ExPyReJobDiedError
        from expyre.gather import as_completed

        by_id = {job.id: job for job in jobs}
        outcomes = as_completed(jobs, timeout=0, quiet=True) if jobs else ()
        dead = [o for o in outcomes if isinstance(o.error, ExPyReJobDiedError)]
        return [by_id[_id(outcome.job)] for outcome in dead]

    # ------------------------------------------------------------------------------------------------- waiting

    def finished(self) -> Iterator[Done]:
        """Yield the chunks in order, as soon as they and those before them are done; failures are collected."""
        while self._waiting:
            with contextlib.closing(self._outcomes(_seconds(self.remote_info.timeout))) as outcomes:  # type: ignore[type-var]
                for outcome in outcomes:
                    self._take(outcome)
                    yield from self._ready()
                    if self._short:
                        break
            if self._short:
                self._take_ended()
                self._go_on()
                yield from self._ready()

    def _outcomes(self, timeout: float | None, *, quiet: bool = False) -> Iterator[Any]:
        from expyre.gather import as_completed

        jobs = [piece.job for pieces in self._waiting.values() for piece in pieces]
        return as_completed(
            jobs, timeout=timeout, check_interval=self.remote_info.check_interval, queued_counts=False, quiet=quiet,
            label=self.name, retry=self._retry,
        )

    def _take_ended(self) -> None:
        """Take what else is there already, so that the jobs that follow are submitted together."""
        from expyre.errors import ExPyReTimeoutError

        for outcome in self._outcomes(0, quiet=True):
            if not isinstance(outcome.error, ExPyReTimeoutError):
                self._take(outcome)

    def _ready(self) -> Iterator[Done]:
        while self._next in self._done:
            yield self._done.pop(self._next)
            self._next += 1

    def _take(self, outcome: Any) -> None:
        """Take the outcome of a job for all the pieces that it stands for."""
        for piece in self._waiting.pop(_id(outcome.job), ()):
            try:
                value, stdout, stderr = piece.job.finish(outcome)
                sys.stdout.write(stdout)
                sys.stderr.write(stderr)
                self._take_value(piece, value)
            except Exception as error:
                self._fail(piece, error)

    def _take_value(self, piece: _Piece, value: Any) -> None:
        partial = value if isinstance(value, PartialResults) else None
        n = partial.total if partial else len(value) if isinstance(value, list) else -1
        if n != len(piece.places):
            raise RuntimeError(
                f"job {piece.job.id} returned {type(value).__name__} instead of {len(piece.places)} results"
            )
        results = partial.results if partial else dict(enumerate(value))
        found = self._found[piece.number]
        found.update({piece.places[i]: result for i, result in results.items()})
        if partial:
            self._short.append((piece, partial))
        else:
            self._finish(piece.number)

    def _finish(self, number: int) -> None:
        found, chunk = self._found.pop(number), self.chunks[number]
        self._done[number] = Done(chunk, [found[i] for i in range(len(chunk.paths))])

    def _fail(self, piece: _Piece, error: BaseException) -> None:
        """Note a failure; if failures are to be ignored the items themselves take the place of their results."""
        from expyre.errors import ExPyReTimeoutError

        chunk = self.chunks[piece.number]
        if not self.remote_info.ignore_failed_jobs or isinstance(error, ExPyReTimeoutError):
            self.failures.append((chunk.first, f"job {piece.job.id} for {self._items(piece)}", error))
            self._done[piece.number] = Done(chunk, [], error)
            return
        _log.warning("job %s for %s of %s failed, its items go to the output unchanged: %s",
                     piece.job.id, self._items(piece), self.name, error)
        self._found[piece.number].update({i: _marked(chunk.values[i]) for i in piece.places})
        self._finish(piece.number)

    # ------------------------------------------------------------------------------------ jobs that follow others

    def _go_on(self) -> None:
        """Make and submit jobs for the items that were not finished in time."""
        rest: dict[int, tuple[_Piece, Chunk]] = {}
        for piece, partial in self._short:
            try:
                rest[piece.number] = piece, self._rest(piece, partial.unfinished)
            except Exception as error:  # its inputs cannot be read any more
                self._fail(piece, error)
        self._short = []
        step("rest.found")
        jobs = self._more({number: chunk for number, (_, chunk) in rest.items()}) if rest else []
        following = [self._following(piece, job) for (piece, _), job in zip(rest.values(), jobs, strict=True)]
        for piece in following:
            _log.warning("%s: the time limit of a job was near and left unfinished: %s; job %s goes on with that",
                         self.name, self._items(piece), piece.job.id)
        step("rest.created")
        groups: dict[str, list[_Piece]] = {}
        for piece in following:
            groups.setdefault(str(piece.resources.to_dict()), []).append(piece)
        for group in groups.values():
            self._start([piece.job for piece in group], group[0].resources)
        step("rest.submitted")
        self.jobs += [piece.job for piece in following]
        for piece in following:
            self._wait_for(piece)

    def _items(self, piece: _Piece) -> str:
        first = self.chunks[piece.number].first
        return describe_places([first + i for i in piece.places])

    def _rest(self, piece: _Piece, unfinished: list[int]) -> Chunk:
        """Return the items of a job that it has not finished, as it has got them."""
        from expyre import stage

        _, _, kwargs = stage.read_task(piece.job.stage_dir, piece.job.row.hmac_key)
        infos = kwargs["kwargs"].get(PER_ITEM_INFO)
        piece.places = [piece.places[i] for i in unfinished]
        chunk = self.chunks[piece.number]
        return Chunk(
            chunk.first, [chunk.paths[i] for i in piece.places], [kwargs["iterable"][i] for i in unfinished],
            infos and [infos[i] for i in unfinished],
        )

    def _following(self, piece: _Piece, job: ExPyRe) -> _Piece:
        """Return the piece that comes after one that ran out of time, with what the retry policy adds."""
        from expyre.errors import RequestError, TimedOut

        system = piece.job.project.systems[self.remote_info.sys_name]
        policy = self._policy(system.retry)
        resources, tries = piece.resources, piece.tries
        for _ in range(1 + piece.job.row.tries):
            if policy.wants(TimedOut(), tries):
                resources = policy.escalate(resources, TimedOut())
            tries += 1
        try:
            system.check(resources, self.remote_info.exact_fit, self.remote_info.partial_node)
        except RequestError as error:
            _log.warning("%s: no more than before for job %s: %s", self.name, job.id, error)
            resources = piece.resources
        return _Piece(piece.number, piece.places, job, resources, tries)

    def _policy(self, of_system: Any) -> Retry:
        from expyre.retry import Retry

        return self._retry or Retry.from_spec(of_system)

    # ------------------------------------------------------------------------------------------------ the end

    def raise_failures(self) -> None:
        """Raise the first failure in the order of the input, with notes on the others."""
        if not self.failures:
            return
        self.failures.sort(key=lambda failure: failure[0])
        lines = [f"{self.name}: {what}: {type(error).__name__}: {_first_line(error)}"
                 for _, what, error in self.failures]
        good = len(self.chunks) - len(self.failures)
        for line in lines:
            _log.error(line)
        first = self.failures[0][2]
        add_note(first, f"{len(lines)} of {len(self.chunks)} jobs of {self.name} failed; the results of the other "
                        f"{good} are kept for the next run:\n  " + "\n  ".join(lines))
        raise first

    def mark_processed(self) -> None:
        """Record that the results are in the output, unless ``WFL_EXPYRE_NO_MARK_PROCESSED`` is set."""
        if os.environ.get("WFL_EXPYRE_NO_MARK_PROCESSED", ""):
            return
        from expyre.jobsdb import Change
        from expyre.states import PROCESSED

        ids = dict.fromkeys(job.id for job in self.jobs)
        if ids:
            self.jobs[0].project.record.step([Change(i, status=PROCESSED) for i in ids], force=True)


def _id(job: Any) -> str:
    return job if isinstance(job, str) else str(job.id)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _seconds(timeout: int | float | str | None) -> float | None:
    if isinstance(timeout, str):
        from expyre.units import time_to_sec

        return time_to_sec(timeout)
    return timeout


def _marked(value: Any) -> Any:
    """Return an item of a failed job as its own result: a configuration that says so, nothing for other things."""
    if not hasattr(value, "get_positions"):
        return None
    from wfl.configset.locations import shallow_copy

    new = shallow_copy(value)
    new.info.pop(LOCATION_KEY, None)
    new.info[FAILED_KEY] = True
    return new
