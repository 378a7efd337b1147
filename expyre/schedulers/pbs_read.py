"""What the commands of PBS print, read: tables and full displays of `qstat`, answers of `qsub`, limits.

The full display is read as text. Its JSON form exists in one dialect only, and several versions print it damaged
(numbers with leading zeros, only the first of several jobs); the text has been the same in both for decades.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

Key = tuple[int, int | None]
"""Number of a job or array and, for a member of an array, its index."""

_ID = r"(\d+)(?:\[(\d*)\])?"
_ROW = re.compile(rf"^[ \t]*{_ID}(?:\.\S*)?[ \t]+\S.*[ \t]([A-Z])[ \t]+\S+[ \t]*$", re.MULTILINE)
_CUT_ROW = re.compile(r"^[ \t]*\d+\[\d*\*?[ \t]+\S.*[ \t][A-Z][ \t]+\S+[ \t]*$", re.MULTILINE)
_JOB = re.compile(r"^Job Id:[ \t]*", re.MULTILINE)
_NAME = r"[ \t]+([A-Za-z_][\w.]*) = "
_ATTRIBUTE = re.compile(rf"^{_NAME}(.*(?:\n(?!{_NAME}|[ \t]*$).*)*)", re.MULTILINE)
_ANSWER = re.compile(rf"{_ID}(\.[\w.-]+)?")
_UNKNOWN = re.compile(r"Unknown Job Id|[Jj]ob has finished|has been moved", re.IGNORECASE)


def key_of(remote_id: str) -> Key | None:
    """Return the key of a job's id, whatever the name of the server is and wherever it is cut off."""
    found = re.match(_ID, remote_id.strip())
    return None if found is None else _key(found[1], found[2])


def _key(number: str, index: str | None) -> Key:
    return int(number), int(index) if index else None


def read_table(text: str) -> dict[Key, str]:
    """Return the letter of the state by job from a table of `qstat`."""
    return {_key(number, index): state for number, index, state in _ROW.findall(text)}


def is_cut(text: str) -> bool:
    """Return whether a table of `qstat` has cut off ids of members of arrays before their index."""
    return _CUT_ROW.search(text) is not None


def read_full(text: str) -> dict[Key, dict[str, str]]:
    """Return the attributes by job from a full display of `qstat`."""
    jobs = {}
    for block in _JOB.split(text)[1:]:
        id, _, body = block.partition("\n")
        if (key := key_of(id)) is not None:
            jobs[key] = _attributes(body)
    return jobs


def _attributes(body: str) -> dict[str, str]:
    # long lines are folded with a line break and a tab; some print attributes after a tab and fold nothing
    unfolded = body if body.startswith("\t") else body.replace("\n\t", "")
    return {found[1]: found[2] for found in reversed(list(_ATTRIBUTE.finditer(unfolded)))}


def complaints(errors: str) -> list[str]:
    """Return what commands complained of, other than jobs that they do not know."""
    lines = [line.strip() for line in errors.splitlines()]
    return [line for line in lines if line and not _UNKNOWN.search(line)]


def read_answer(text: str) -> list[str]:
    """Return the ids that `qsub` printed, among whatever else a site makes it print."""
    return [line.strip() for line in text.splitlines() if _ANSWER.fullmatch(line.strip())]


def member_id(unit_id: str, index: int) -> str:
    """Return the id of a member of an array: ``12[3].server`` for ``12[].server`` or ``12.server``."""
    number, dot, server = unit_id.partition(".")
    return f"{number.partition('[')[0]}[{index}]{dot}{server}"


def unit_ids(remote_ids: Iterable[str]) -> list[str]:
    """Return the ids of jobs and arrays to ask for, each array once."""
    return list(dict.fromkeys(re.sub(r"\[\d+\]", "[]", id) for id in remote_ids))


_LIMITS: Final[dict[str, str]] = {
    "max_array_size": "array_size",
    "max_job_array_size": "array_size",
    "max_user_queuable": "submitted",
    "max_queuable": "submitted",
}
_LIMIT = re.compile(rf"[ \t]+({'|'.join(_LIMITS)}) = (\d+)[ \t]*")


def read_limits(text: str) -> dict[str, int]:
    """Return the smallest limits that servers and queues set: ``array_size``, ``submitted``."""
    limits: dict[str, int] = {}
    for line in text.splitlines():
        if found := _LIMIT.fullmatch(line):
            name, value = _LIMITS[found[1]], int(found[2])
            limits[name] = min(limits.get(name, value), value)
    return limits
