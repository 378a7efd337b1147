"""What the commands of Grid Engine print, read: `qstat -xml`, answers of `qsub`, configuration, accounting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from expyre.errors import SchedulerError

Key = tuple[int, int | None]
"""Number of a job or array and, for a member of an array, its index."""

_ID = re.compile(r"(\d+)(?:\.(\d+))?")
_TERSE = re.compile(r"(\d+)(?:\.\d+-\d+:\d+)?")
_TOLD = re.compile(r"Your job(?:-array)? (\d+)[. ].*has been submitted")


@dataclass(frozen=True)
class Row:
    """What `qstat` says of a job or of members of an array.

    Attributes
    ----------
    state
        Letters, ``hqw``.
    name
        Of the job.
    """

    state: str
    name: str


def key_of(remote_id: str) -> Key | None:
    """Return the key of a job's id, ``4`` or ``4.1``."""
    found = _ID.fullmatch(remote_id.strip())
    return None if found is None else (int(found[1]), int(found[2]) if found[2] else None)


def read_rows(text: str) -> dict[Key, Row]:
    """Return what is in the output of ``qstat -xml``, each member of an array by itself.

    Raises
    ------
    SchedulerError
        It is damaged.
    """
    start = text.find("<?xml")
    if start < 0:
        raise SchedulerError(f"qstat printed no XML: {text.strip()[:500]!r}")
    try:
        root = ElementTree.fromstring(text[start:].strip())
    except ElementTree.ParseError as exc:
        raise SchedulerError(f"qstat printed damaged XML ({exc}): {text.strip()[-500:]!r}") from exc
    rows: dict[Key, Row] = {}
    for job in root.iter("job_list"):
        number = job.findtext("JB_job_number", "").strip()
        row = Row(job.findtext("state", "").strip(), job.findtext("JB_name", "").strip())
        if number.isdigit():
            rows.update(((int(number), index), row) for index in indices(job.findtext("tasks", "")))
    return rows


def indices(text: str) -> Iterator[int | None]:
    """Yield the indices in a range of tasks, ``3,4`` or ``1-7:2``; None if there is none."""
    if not text.strip():
        yield None
    for part in filter(None, text.strip().split(",")):
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if found is None:
            raise SchedulerError(f"qstat printed a range of tasks that cannot be read: {text!r}")
        first = int(found[1])
        yield from range(first, int(found[2] or first) + 1, max(1, int(found[3] or 1)))


def read_answer(text: str) -> list[str]:
    """Return the ids that `qsub` printed, with or without ``-terse``, among whatever else a site makes it print."""
    ids = []
    for line in text.splitlines():
        found = _TERSE.fullmatch(line.strip()) or _TOLD.search(line)
        if found is not None:
            ids.append(found[1])
    return ids


def member_id(unit_id: str, index: int) -> str:
    """Return the id of a member of an array."""
    return f"{unit_id.partition('.')[0]}.{index}"


def numbers(remote_ids: Iterable[str]) -> list[int]:
    """Return the numbers of jobs and arrays, each once."""
    keys = (key_of(id) for id in remote_ids)
    return list(dict.fromkeys(key[0] for key in keys if key is not None))


def read_accounting(text: str) -> dict[Key, dict[str, str]]:
    """Return the last record of each job or member in the output of ``qacct -j``, by the names of its fields."""
    records: dict[Key, dict[str, str]] = {}
    for block in _RULE.split(text):
        record = {}
        for line in block.splitlines():
            name, _, value = line.partition(" ")
            record[name] = value.strip()
        if record.get("jobnumber", "").isdigit():
            task = record.get("taskid", "")
            records[int(record["jobnumber"]), int(task) if task.isdigit() else None] = record
    return records


def read_errors(text: str) -> dict[Key, str]:
    """Return why jobs or members of arrays are in an error state, from the output of ``qstat -j``."""
    errors: dict[Key, str] = {}
    for number, lines in _blocks(text):
        for found in filter(None, (_ERROR.match(line) for line in lines)):
            errors[number, int(found[1])] = found[2]
            if found[1] == "1":
                errors[number, None] = found[2]  # the job itself, if it is no array
    return errors


def read_reasons(text: str) -> dict[int, str]:
    """Return what the scheduler says of jobs that wait, from the output of ``qstat -j``."""
    reasons = {}
    for number, lines in _blocks(text):
        start = next((i for i, line in enumerate(lines) if line.startswith("scheduling info:")), len(lines))
        words = [line.partition(":")[2].strip() if i == 0 else line.strip() for i, line in enumerate(lines[start:])]
        if said := "; ".join(filter(None, words)):
            reasons[number] = said
    return reasons


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    for block in _RULE.split(text):
        if found := _NUMBER.search(block):
            yield int(found[1]), block.splitlines()


_RULE = re.compile(r"^=+\s*$", re.MULTILINE)
_NUMBER = re.compile(r"^job_number:\s+(\d+)", re.MULTILINE)
_ERROR = re.compile(r"error reason\s+(\d+):\s+(.*)")
_LIMITS: Final[dict[str, str]] = {"max_aj_tasks": "array_size", "max_u_jobs": "jobs"}


def read_limits(text: str) -> dict[str, int]:
    """Return the limits in the output of ``qconf -sconf``: ``array_size``, ``jobs`` (arrays count once)."""
    found = re.findall(rf"^({'|'.join(_LIMITS)})\s+(\d+)\s*$", text, re.MULTILINE)
    return {_LIMITS[name]: int(value) for name, value in found if int(value) > 0}
