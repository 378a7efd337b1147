"""How often the wire is crossed, which must not depend on the number of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from expyre.calls import Call
from expyre.config import Project
from expyre.errors import ExPyReJobDiedError
from expyre.func import ExPyRe, create_jobs, start_jobs
from expyre.gather import sync
from expyre.jobsdb import JobRow
from expyre.stage import ERROR_FILE, STARTED_FILE

REQUEST = {"max_time": "5m", "num_cores": 1}
HELD: dict[str, Any] = {"header_extra": ["#SBATCH --hold"], "exact_fit": False, "partial_node": True}
MANY = 300


class Counter:
    """Counts the calls that cross the wire, by name, and what was fetched."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transport = project.systems["slurm"].transport
        self.fetched: list[list[str]] = []
        fetch = type(self.transport).fetch

        def noted(transport: Any, remote_dir: str, names: Sequence[str], *args: Any, **kwargs: Any) -> None:
            self.fetched.append(list(names))
            fetch(transport, remote_dir, names, *args, **kwargs)

        monkeypatch.setattr(type(self.transport), "fetch", noted)

    def of(self, action: Callable[[], object]) -> int:
        """Return how often an action crosses the wire."""
        before = self.transport.round_trips
        action()
        return self.transport.round_trips - before


def look(project: Project, jobs: Sequence[ExPyRe]) -> dict[str, JobRow]:
    return sync(project, project.record.rows([job.id for job in jobs]).values())


def end(project: Project, jobs: Sequence[ExPyRe]) -> None:
    """Leave what jobs leave that have failed."""
    for job in jobs:
        directory = Path(str(project.systems["slurm"].remote_rundir)) / job.stage_dir.name
        (directory / STARTED_FILE).touch()
        (directory / ERROR_FILE).write_text("Exception: as if\n")


@pytest.mark.parametrize("transport", ["openssh", "paramiko"])
def test_the_wire_is_crossed_as_often_for_many_jobs_as_for_few(
    slurm_over_ssh: Callable[..., Project], transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = slurm_over_ssh(transport)
    counter = Counter(project, monkeypatch)
    crossed: dict[int, tuple[int, ...]] = {}
    jobs: list[ExPyRe] = []
    for count in (5, MANY):
        jobs = create_jobs([Call(f"job{count}", abs, (-i,)) for i in range(count)])
        submitting = counter.of(lambda jobs=jobs: start_jobs(jobs, REQUEST, "slurm", **HELD))  # type: ignore[misc]
        first = counter.of(lambda jobs=jobs: look(project, jobs))  # type: ignore[misc]
        end(project, jobs[: count // 2])
        fetching = counter.of(lambda jobs=jobs: look(project, jobs))  # type: ignore[misc]
        crossed[count] = (submitting, first, fetching)
    assert all(project.record.row(job.id).remote_id for job in jobs)
    assert crossed[5][0] <= 10  # among them the look at the host before the first submission to it
    assert crossed[MANY][0] <= 4
    assert crossed[MANY][1:] == crossed[5][1:]
    assert crossed[MANY][1] <= 3
    assert crossed[MANY][2] <= 3
    ended = {job.stage_dir.name for job in jobs[: MANY // 2]}
    assert [set(names) for names in counter.fetched if len(names) > 5] == [ended]
    assert {row.status for row in look(project, jobs).values()} == {"submitted", "failed"}


def twenty_jobs(project: Project, monkeypatch: pytest.MonkeyPatch) -> tuple[Counter, list[ExPyRe]]:
    """Submit twenty jobs that wait; return them, and what counts round trips."""
    counter = Counter(project, monkeypatch)
    jobs = create_jobs([Call("job", abs, (-i,)) for i in range(20)])
    start_jobs(jobs, REQUEST, "slurm", **HELD)
    return counter, jobs


def test_jobs_that_left_nothing_cost_one_question_for_their_ends(
    slurm_over_ssh: Callable[..., Project], slurm_env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = slurm_over_ssh("paramiko")
    counter, jobs = twenty_jobs(project, monkeypatch)
    slurm_env.scancel_all()
    assert counter.of(lambda: look(project, jobs)) <= 3
    rows = project.record.rows([job.id for job in jobs]).values()
    assert {(row.status, row.reason) for row in rows} == {("died", "Cancelled")}


def test_results_one_after_the_other_cost_no_more_than_all_together(
    slurm_over_ssh: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = slurm_over_ssh("paramiko")
    counter, jobs = twenty_jobs(project, monkeypatch)
    end(project, jobs)

    def ask_for_each() -> None:
        for job in jobs:
            with pytest.raises(ExPyReJobDiedError, match="as if"):
                job.get_results(quiet=True)

    assert counter.of(ask_for_each) <= 3
