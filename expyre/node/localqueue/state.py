"""What this machine has to give, as the last submitter saw it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from .. import machine


@dataclass(frozen=True)
class Budget:
    """Cores, memory in kB, and the ids of the GPUs that jobs may use together."""

    cores: int
    mem: int
    gpus: list[str]


def current_budget() -> Budget:
    """Return what this machine has, with what the environment of this process says about it."""
    return Budget(machine.cores(), machine.memory_kb(), machine.gpus())


def write_budget(connection: sqlite3.Connection, budget: Budget) -> None:
    """Store a budget for the supervisor."""
    value = json.dumps([budget.cores, budget.mem, budget.gpus])
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('budget', ?)", [value])


def read_budget(connection: sqlite3.Connection) -> Budget:
    """Return the stored budget, or the one of this process if none was stored."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'budget'").fetchone()
    return Budget(*json.loads(row[0])) if row else current_budget()
