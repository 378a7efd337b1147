"""``xpr stats``: where the time and the core-hours of a project went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from expyre.cli.filters import Selection, selects
from expyre.cli.output import Screen, echo_json, json_option
from expyre.cli.session import Session, pass_session
from expyre.cli.table import Column, fit, render
from expyre.cli.text import crop
from expyre.cli.times import duration
from expyre.states import DIED, FAILED, STATUSES

if TYPE_CHECKING:
    from expyre.jobsdb import JobRow

__all__ = ["Report", "quantiles", "stats"]

QUANTILES = (0.1, 0.5, 0.9, 1.0)
_HEADS = ("10%", "median", "90%", "max")
_PHASES = {
    "queue": ("t_submitted", "t_started"),
    "run": ("t_started", "t_ended"),
    "transfer": ("t_ended", "t_fetched"),
}


@dataclass
class Report:
    """Sums over the jobs of one system.

    Attributes
    ----------
    jobs
        Number of jobs by status.
    times
        Seconds that jobs were in the queue, ran, and took to be fetched.
    core_hours, wasted
        Used by all that ran, and by those that ended without a result.
    ends
        Number of jobs that died, by reason.
    tries
        Submissions beyond the first.
    """

    jobs: Counter[str] = field(default_factory=Counter)
    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in _PHASES})
    core_hours: float = 0.0
    wasted: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    tries: int = 0

    def add(self, row: JobRow) -> None:
        """Count a job."""
        self.jobs[row.status] += 1
        self.tries += row.tries
        for name, (start, end) in _PHASES.items():
            begun, over = getattr(row, start), getattr(row, end)
            if begun is not None and over is not None and over >= begun:
                self.times[name].append(over - begun)
        hours = _core_hours(row)
        self.core_hours += hours
        if row.status in (FAILED, DIED):
            self.wasted += hours
            self.ends[row.reason or ("error" if row.status == FAILED else "unknown")] += 1


@click.command()
@json_option
@selects()
@pass_session
def stats(session: Session, selection: Selection, as_json: bool) -> None:
    """Report how many jobs there are, how long they waited, ran and were fetched, and the core-hours they took."""
    reports = _reports(selection.rows(session))
    if as_json:
        echo_json({name: _as_json(report) for name, report in reports.items()})
    elif not reports:
        click.echo(f"No matching jobs in JobsDB at {session.record.db_filename}")
    else:
        click.echo("\n".join(_lines(reports, Screen.current())))


def _reports(rows: Iterable[JobRow]) -> dict[str, Report]:
    """Return a report per system, and of all together if there are several."""
    reports: dict[str, Report] = {}
    total = Report()
    for row in rows:
        reports.setdefault(row.system or "(not submitted)", Report()).add(row)
        total.add(row)
    return reports if len(reports) < 2 else {**reports, "all": total}


def _core_hours(row: JobRow) -> float:
    if row.t_started is None or row.t_ended is None or row.num_cores is None:
        return 0.0
    return max(row.t_ended - row.t_started, 0.0) * row.num_cores / 3600


def quantiles(values: Sequence[float]) -> list[float]:
    """Return 10%, 50%, 90% and 100% quantiles: for each the least value that so many are not above."""
    ordered = sorted(values)
    return [ordered[max(-int(-q * len(ordered) // 1), 1) - 1] for q in QUANTILES] if ordered else []


def _as_json(report: Report) -> dict[str, object]:
    times = {name: dict(zip(_HEADS, quantiles(v), strict=False)) | {"jobs": len(v)} for name, v in report.times.items()}
    return {**vars(report), "times": times}


def _lines(reports: dict[str, Report], screen: Screen) -> list[str]:
    lines = [screen.bold("Jobs:"), *_table(_counts(reports), screen)]
    timed = [(name, phase, report.times[phase]) for name, report in reports.items() for phase in _PHASES]
    timed = [each for each in timed if each[2]]
    if timed:
        lines += [screen.bold("Times:"), *_table(_quantile_columns(timed), screen)]
    return [*lines, screen.bold("Core-hours:"), *_table(_costs(reports), screen)]


def _table(columns: list[Column], screen: Screen) -> list[str]:
    if screen.width is None:
        return render(columns)
    columns[0].least = 8
    fit(columns, screen.width)
    return [crop(line, screen.width) for line in render(columns)]


def _counts(reports: dict[str, Report]) -> list[Column]:
    there = [status for status in STATUSES if any(report.jobs[status] for report in reports.values())]
    columns = [Column(status, [str(report.jobs[status]) for report in reports.values()]) for status in there]
    return [Column("system", list(reports), right=False), *columns]


def _quantile_columns(timed: list[tuple[str, str, list[float]]]) -> list[Column]:
    rows = [quantiles(values) for _, _, values in timed]
    return [
        Column("system", [name for name, _, _ in timed], right=False),
        Column("time", [phase for _, phase, _ in timed], right=False),
        Column("jobs", [str(len(values)) for _, _, values in timed]),
        *(Column(head, [duration(row[i]) for row in rows]) for i, head in enumerate(_HEADS)),
    ]


def _costs(reports: dict[str, Report]) -> list[Column]:
    values = list(reports.values())
    return [
        Column("system", list(reports), right=False),
        Column("used", [f"{report.core_hours:.1f}" for report in values]),
        Column("wasted", [f"{report.wasted:.1f}" for report in values]),
        Column("resubmitted", [str(report.tries) for report in values]),
        Column("ended badly", [_ends(report) for report in values], right=False),
    ]


def _ends(report: Report) -> str:
    return ", ".join(f"{number} {why}" for why, number in report.ends.most_common()) or "-"
