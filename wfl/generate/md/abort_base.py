"""Base of checks that end a molecular dynamics run early."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ase import Atoms

__all__ = ["AbortSimBase"]


class AbortSimBase(ABC):
    """Decides after each sampled step whether a run goes on. Every configuration starts with a fresh copy.

    Parameters
    ----------
    n_failed_steps
        How many sampled steps in a row have to be bad before the run ends.

    Attributes
    ----------
    ok_history : list(bool)
        For each sampled step so far, whether it was good.
    """

    def __init__(self, n_failed_steps: int = 1) -> None:
        if n_failed_steps < 1:
            raise ValueError(f"n_failed_steps must be at least 1, not {n_failed_steps}")
        self.n_failed_steps = n_failed_steps
        self.ok_history: list[bool] = []

    @abstractmethod
    def atoms_ok(self, at: Atoms) -> bool:
        """Whether a configuration is good; `at` has its calculator and current results."""

    def stop(self, at: Atoms) -> bool:
        """Note how a configuration is, and tell whether the run should end."""
        self.ok_history.append(bool(self.atoms_ok(at)))
        recent = self.ok_history[-self.n_failed_steps :]
        return len(recent) == self.n_failed_steps and not any(recent)

    def reset(self) -> None:
        """Forget everything about configurations seen before."""
        self.ok_history = []
