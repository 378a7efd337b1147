"""Which version of the package is running."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["get_wfl_version"]


def get_wfl_version() -> str:
    """Version for logs: `git <description of the commit>` in a checkout, else the version of the package."""
    import wfl

    root = Path(wfl.__file__).resolve().parent.parent
    described = _describe(root) if (root / ".git").exists() else ""
    return f"git {described}" if described else str(wfl.__version__)


def _describe(root: Path) -> str:
    command = ["git", "-C", str(root), "describe", "--always", "--tags", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
