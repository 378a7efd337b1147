"""What goes to a queue, what comes back from it, and what a look at a job finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre import stage
from expyre.states import End, Evidence

if TYPE_CHECKING:
    from expyre.resources import Resources

__all__ = ["Launch", "Look", "Submitted"]


@dataclass(frozen=True)
class Launch:
    """A staged job on its way to the queue."""

    id: str
    stage_dir: Path
    resources: Resources
    commands: tuple[str, ...]
    token: str = ""
    header_extra: tuple[str, ...] = ()
    exact_fit: bool = True
    partial_node: bool = False


@dataclass(frozen=True)
class Submitted:
    """The queue's answer to a launch."""

    remote_id: str
    partition: str
    nodes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What one look found of one job.

    Attributes
    ----------
    queue
        The queue's word.
    markers
        Which files the job has left.
    end
        How the job ended, if the queue says so.
    reason
        The queue's reason for its word.
    told
        Whether the queue could be asked at all.
    """

    queue: str
    markers: stage.Markers
    end: End | None = None
    reason: str = ""
    told: bool = True

    def evidence(self, unknown_for: float) -> Evidence:
        """Return the look as evidence about a job that the queue has not known for ``unknown_for`` seconds."""
        m = self.markers
        return Evidence(m.succeeded, m.failed, m.started, self.queue, self.end, unknown_for, m.terminated)
