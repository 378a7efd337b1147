"""What a queue system offers: its partitions, the nodes in them, its limits and the user's accounts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from expyre.units import mem_to_kB, time_to_sec

__all__ = ["NodeGroup", "Partition", "Queue", "kilobytes", "seconds"]


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of a partition that are alike. Memory in kB; None where it is not known."""

    count: int
    num_cores: int
    mem_kb: int | None = None
    gpus: int = 0


@dataclass(frozen=True)
class Partition:
    """A partition or queue.

    Attributes
    ----------
    name
        Its name.
    max_time
        Longest time of a job in s, None for no limit.
    nodes
        Its nodes, those that are down left out.
    usable
        Whether it takes and starts jobs of this user, as far as the queue system tells.
    default
        Whether jobs go there that name none.
    header
        Header lines that jobs in it need.
    """

    name: str
    max_time: int | None = None
    nodes: tuple[NodeGroup, ...] = ()
    usable: bool = True
    default: bool = False
    header: tuple[str, ...] = ()

    @property
    def num_cores(self) -> int:
        """Cores of its largest node."""
        return max((group.num_cores for group in self.nodes), default=0)

    @property
    def mem_kb(self) -> int | None:
        """Memory in kB of its largest node; None if unknown."""
        return max((group.mem_kb for group in self.nodes if group.mem_kb is not None), default=None)

    @property
    def gpus(self) -> int:
        """GPUs of the node with most of them."""
        return max((group.gpus for group in self.nodes), default=0)


@dataclass(frozen=True)
class Queue:
    """A queue system as it was found.

    Attributes
    ----------
    name
        ``slurm``, ``pbs``, ``sge``.
    version
        What it calls itself.
    partitions
        By name, in its own order.
    limits
        ``MaxArraySize`` and the like.
    accounts
        Accounts that the user may charge.
    default_account
        The one that is charged if a job names none.
    trouble
        Why it did not answer; empty if it did.
    asked
        Whether its commands were there to be asked.
    dialect
        ``torque`` for PBS of that kind.
    """

    name: str
    version: str = ""
    partitions: dict[str, Partition] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    accounts: tuple[str, ...] = ()
    default_account: str = ""
    trouble: str = ""
    asked: bool = True
    dialect: str = ""


def seconds(text: str) -> int | None:
    """Return a time limit in s; None for none or one that cannot be read."""
    with contextlib.suppress(ValueError):
        return time_to_sec(text.strip())
    return None


def kilobytes(text: str) -> int | None:
    """Return a size in kB; None where it cannot be read."""
    text = text.strip().lower().removesuffix("ib").removesuffix("b")
    with contextlib.suppress(ValueError):
        return int(text) // 1024 if text.isdigit() else mem_to_kB(text)
    return None
