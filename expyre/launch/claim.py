"""The claim of this process on jobs that it is about to submit, kept alive while it is at work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection
from types import TracebackType

from expyre.errors import RecordError
from expyre.jobsdb import JobsDB
from expyre.owners import REMOTE_LEASE, owner_token

__all__ = ["Claim"]


class Claim:
    """A claim on jobs; while the block runs other processes see that its owner is at work.

    Parameters
    ----------
    record
        The record of jobs.
    job_ids
        Jobs that this process has claimed.
    """

    def __init__(self, record: JobsDB, job_ids: Collection[str]) -> None:
        self._record = record
        self._ids = list(job_ids)
        self._owner = owner_token()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="expyre-claim", daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if kind is not None:
            # the queue may have heard of some: whoever comes next asks it for their tokens first
            self._record.release_submission(self._ids, in_doubt=True)

    def still_mine(self, job_ids: Collection[str]) -> set[str]:
        """Return those of the jobs that nobody else has claimed since."""
        return self._record.renew_submission(list(job_ids), self._owner)

    def _keep(self) -> None:
        while not self._over.wait(REMOTE_LEASE / 5):
            with contextlib.suppress(RecordError):  # a busy record now is tried again in time
                self._record.renew_submission(self._ids, self._owner)
