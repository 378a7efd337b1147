"""One look at many jobs: what the queue says, what their files say, and how those ended that left no files.

The order matters: a job that ends in between has its files seen. Where the queue can be asked through a script, queue
and files cost one round trip together, however many jobs there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex

from expyre import stage
from expyre.errors import ExPyReError, SchedulerError, TransportError
from expyre.schedulers.base import UNLISTED, Listing, Scheduler
from expyre.states import ALIVE, End
from expyre.steps import step
from expyre.system.model import Look
from expyre.system.rundir import RunDir

__all__ = ["look"]

log = logging.getLogger(__name__)

Listings = dict[str, Listing]

# Seconds after which a host is given up on which a look does not come to its end: a file system may hang.
_PATIENCE = 600.0


def look(scheduler: Scheduler, rundir: RunDir | None, jobs: Mapping[str, tuple[str | None, Path]]) -> dict[str, Look]:
    """Look at jobs once.

    Parameters
    ----------
    scheduler
        The queue.
    rundir
        Where the jobs run; None if they run where they are staged.
    jobs
        Job id to (remote id, stage directory).

    Raises
    ------
    TransportError
        The host was not reached. A queue that cannot be asked is no error: it says nothing about any job.
    """
    remote_ids = [remote_id for remote_id, _ in jobs.values() if remote_id]
    stage_dirs = [stage_dir for _, stage_dir in jobs.values()]
    listings, markers = _listings_and_markers(scheduler, rundir, remote_ids, stage_dirs)
    told = listings is not None
    known = listings or {}
    gone = [
        remote_id
        for (remote_id, _), mark in zip(jobs.values(), markers, strict=True)
        if remote_id and told and not mark.ended and known.get(remote_id, UNLISTED).state not in ALIVE
    ]
    ends = _ends(scheduler, gone)
    return {
        job_id: Look(listing.state, mark, ends.get(remote_id or ""), listing.reason, told)
        for (job_id, (remote_id, _)), mark in zip(jobs.items(), markers, strict=True)
        for listing in [known.get(remote_id or "", UNLISTED)]
    }


def _listings_and_markers(
    scheduler: Scheduler, rundir: RunDir | None, remote_ids: Sequence[str], stage_dirs: Sequence[Path]
) -> tuple[Listings | None, list[stage.Markers]]:
    """Return what the queue says, None if it could not be asked, and then what the files say."""
    script = scheduler.listing_script(remote_ids) if remote_ids else None
    names = [stage_dir.name for stage_dir in stage_dirs]
    if script is not None and rundir is not None:
        answer, markers = _ask_together(scheduler, script, rundir, names)
        step("gather.1")
        return _listings(scheduler, lambda: scheduler.parse_listing(answer, remote_ids)), markers
    listings = _listings(scheduler, lambda: scheduler.listing(remote_ids)) if remote_ids else None
    step("gather.1")
    if rundir is None:
        return listings, [stage.markers(stage_dir) for stage_dir in stage_dirs]
    return listings, rundir.markers(names, timeout=_PATIENCE)


def _ask_together(
    scheduler: Scheduler, script: str, rundir: RunDir, names: Sequence[str]
) -> tuple[str, list[stage.Markers]]:
    mark = f"=== {token_hex(8)}"
    both = f"(\n{script}\n) </dev/null\nprintf '\\n%s\\n' '{mark}'\n{rundir.markers_script(names)}"
    done = scheduler.transport.run(both, timeout=_PATIENCE)
    answer, found, rest = done.text.rpartition(f"\n{mark}\n")
    if not found:
        raise TransportError(f"{scheduler.host or 'this machine'} did not carry out a look at jobs: {done.error_text}")
    if done.returncode != 0:
        raise SchedulerError(f"the run directory {rundir.path} cannot be looked at: {done.error_text}")
    return answer, rundir.read_markers(rest)


def _listings(scheduler: Scheduler, ask: Callable[[], Listings]) -> Listings | None:
    try:
        return ask()
    except SchedulerError as error:
        log.warning("the queue of %s could not be asked: %s", scheduler.host or "this machine", error)
        return None


def _ends(scheduler: Scheduler, remote_ids: Sequence[str]) -> dict[str, End]:
    if not remote_ids:
        return {}
    try:
        return scheduler.explain(remote_ids)
    except ExPyReError as error:
        log.warning("the queue of %s does not say how jobs ended: %s", scheduler.host or "this machine", error)
        return {}
