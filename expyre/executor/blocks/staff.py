"""The workers: hired when there are calls for them, heard, missed, and seen off."""

from __future__ import annotations

import logging
import time
from typing import Any

from expyre.errors import WorkerDied
from expyre.executor.blocks.jobs import Ended, WorkerJobs
from expyre.executor.blocks.pace import Pace
from expyre.executor.blocks.remote import note_in
from expyre.executor.blocks.script import Report
from expyre.executor.blocks.settings import Settings

__all__ = ["Staff"]

log = logging.getLogger(__name__)

_MOST_STILLBORN = 3  # worker jobs, one after the other, that ended before they served anything
_LAST_WORDS = 60.0  # seconds that workers have to end by themselves


class Staff:
    """Knows which workers there are, and how they are.

    Parameters
    ----------
    jobs
        Their jobs.
    settings
        What they are to be.
    pace
        Says when the queue is asked.
    """

    def __init__(self, jobs: WorkerJobs, settings: Settings, pace: Pace) -> None:
        self._jobs = jobs
        self._settings = settings
        self._pace = pace
        self._lives: dict[str, str] = {}  # notes that have been heeded, by worker
        self._whys: dict[str, str] = {}
        self._served: set[str] = set()
        self._stillborn = 0
        self._gone: list[Ended] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def hire(self, calls: int) -> None:
        """Submit jobs of workers, together, if there are more calls than workers.

        Raises
        ------
        ExPyReError
            The queue refused, or could not be reached.
        """
        missing = min(calls, self._settings.max_workers) - self._jobs.available
        if missing > 0:
            self._jobs.hire(missing)
            self._pace.hurry()

    def heed(self, report: Report, *, answered: bool) -> None:
        """Take note of what workers have done and said; ``answered`` says that a call got its result."""
        for name in [*report.claimed, *report.begun]:
            worker = name.partition("@")[2]
            self._served.add(worker)
            self._jobs.begun(worker)
        if answered:
            self._stillborn = 0
        for worker, data in report.notes.items():
            self._heed_note(worker, note_in(data))

    def _heed_note(self, worker: str, note: dict[str, Any]) -> None:
        if note:
            self._jobs.begun(worker)
            if note.get("served"):
                self._served.add(worker)
        if note.get("state") == "ended" and self._lives.get(worker) != note.get("life"):
            self._lives[worker] = str(note.get("life"))
            self._whys[worker] = str(note.get("why"))
            log.info("worker %s on %s has ended: %s", worker, note.get("host"), note.get("why"))
            self._jobs.leaves(worker)
            self._pace.look_soon()

    def look(self, *, wanted: bool) -> None:
        """Ask the queue for the jobs of workers, if it is time for that.

        Parameters
        ----------
        wanted
            Whether there are calls.

        Raises
        ------
        ExPyReError
            The queue could not be asked.
        WorkerDied
            One worker's job after the other has ended before it served anything.
        """
        if not self._jobs or not self._pace.is_time_to_look():
            return
        began = time.monotonic()
        self._gone = self._jobs.look()
        self._pace.asked(time.monotonic() - began, bool(self._gone))
        self._jobs.tidy()
        if wanted:
            for ended in self._gone:
                self._count_stillborn(ended)

    def take_gone(self) -> list[Ended]:
        """Return, once, the workers that had ended at the last look."""
        gone, self._gone = self._gone, []
        return gone

    def _count_stillborn(self, ended: Ended) -> None:
        if not ended.for_good or ended.worker in self._served:
            return
        self._stillborn += 1
        if self._stillborn >= _MOST_STILLBORN:
            what = f"{self._stillborn} jobs of workers on {self._settings.system}, one after the other, have ended"
            why = ended.error or self._whys.get(ended.worker) or "it has not said why"
            raise WorkerDied(f"{what} before they served a call. The last one: {why}") from ended.error

    def cancel(self, *, everybody: bool) -> None:
        """Have the queue forget the jobs of workers that have not begun; those of all on demand."""
        self._jobs.cancel(self._jobs.workers if everybody else self._jobs.waiting())

    def see_off(self) -> None:
        """Let those workers end that are about to, then end the others, and remove what there is of them."""
        deadline = time.monotonic() + _LAST_WORDS
        while self._jobs and time.monotonic() < deadline:
            time.sleep(self._pace.last_looks)
            self._jobs.look()
        self.cancel(everybody=True)
        self._jobs.tidy(everything=True)
