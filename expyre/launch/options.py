"""How jobs are submitted, as the record keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expyre.jobsdb import JobRow

if TYPE_CHECKING:
    from expyre.resources import Resources

__all__ = ["LaunchOptions", "launched_alike"]


def launched_alike(rows: Iterable[JobRow]) -> list[list[JobRow]]:
    """Return jobs divided by how they were submitted last, or are to be."""
    groups: dict[tuple[str | None, str | None, str | None], list[JobRow]] = {}
    for row in rows:
        groups.setdefault((row.system, row.resources, row.options), []).append(row)
    return list(groups.values())


@dataclass(frozen=True)
class LaunchOptions:
    """How jobs are to be submitted, the same for all jobs of one launch."""

    system_name: str
    resources: Resources
    header_extra: tuple[str, ...] = ()
    exact_fit: bool = True
    partial_node: bool = False
    python_cmd: str = "python3"

    def to_details(self) -> dict[str, str]:
        """Return the options as the record keeps them with a job."""
        return {"resources": json.dumps(self.resources.to_dict()), "options": json.dumps(self._shape())}

    def _shape(self) -> dict[str, Any]:
        names = ("header_extra", "exact_fit", "partial_node", "python_cmd")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, row: JobRow) -> LaunchOptions | None:
        """Return the options with which a job was submitted last; None if it never was."""
        from expyre.resources import Resources

        if not row.resources or not row.system:
            return None
        shape = json.loads(row.options) if row.options else {}
        shape["header_extra"] = tuple(shape.get("header_extra", ()))
        return cls(row.system, Resources(**row.resources_dict), **shape)
