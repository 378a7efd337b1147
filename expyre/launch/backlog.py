"""Jobs for which the queue had no room: submitted as room comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from secrets import token_hex
from typing import TYPE_CHECKING

from expyre.errors import ExPyReError
from expyre.jobsdb import Change, JobRow
from expyre.launch.launching import WAITING, Failures, ids_by_options, room, try_launch
from expyre.owners import owner_token
from expyre.states import CREATED, DIED, END_CANCELLED

if TYPE_CHECKING:
    from expyre.config import Project

__all__ = ["Backlog", "waits_for_room", "withdraw"]

log = logging.getLogger(__name__)

_PAUSE = 30.0


def waits_for_room(row: JobRow) -> bool:
    """Tell whether a job is to be submitted when its queue has room."""
    return row.status == CREATED and row.submit_state == WAITING


def withdraw(project: Project, rows: Iterable[JobRow], note: str) -> set[str]:
    """Cancel jobs that wait for room: they will not be submitted.

    Parameters
    ----------
    project
        Whose jobs they are.
    rows
        Jobs, of which those that do not wait are left alone.
    note
        What the record says about why.

    Returns
    -------
    set
        Ids of those that nobody has been submitting meanwhile.
    """
    ids = [row.id for row in rows if waits_for_room(row)]
    claims = project.record.claim_submission(ids, {i: token_hex(8) for i in ids}, owner_token())
    mine = {i for i, claim in claims.items() if claim == "claimed"}
    # of one that is stale the queue may have heard
    project.record.release_submission([i for i, claim in claims.items() if claim == "stale"], in_doubt=True)
    details = {"reason": END_CANCELLED, "end_detail": "it had not been submitted yet"}
    project.record.step([Change(i, status=DIED, expect=(CREATED,), details=details, note=note) for i in sorted(mine)])
    project.record.release_submission(mine)
    return mine


class Backlog:
    """Submits waiting jobs: when jobs have ended, when the system's own limit leaves room, and now and then."""

    def __init__(self) -> None:
        self._again = 0.0

    def push(self, project: Project, rows: Iterable[JobRow], *, progressed: bool) -> Failures:
        """Submit what there is room for.

        Parameters
        ----------
        project
            Whose jobs they are.
        rows
            Jobs, of which those that wait are submitted.
        progressed
            Whether jobs have ended since the last time.

        Returns
        -------
        dict
            Why the queue refused jobs, by job id; a queue that is still full is no such reason.
        """
        waiting = [row for row in rows if waits_for_room(row) and row.system in project.systems]
        now = time.monotonic()
        if not waiting or not (progressed or now >= self._again or self._room(project, waiting)):
            return {}
        self._again = now + _PAUSE
        failures: Failures = {}
        for options, ids in ids_by_options(waiting):
            try:
                failures.update(try_launch(project, ids, options))
            except ExPyReError as error:
                log.warning("waiting jobs could not be submitted: %s; trying again later", error)
        return failures

    @staticmethod
    def _room(project: Project, rows: Iterable[JobRow]) -> bool:
        """Tell whether a system that limits the number of its jobs has room for more."""
        return any(room(project, name) for name in {row.system for row in rows} if name)
