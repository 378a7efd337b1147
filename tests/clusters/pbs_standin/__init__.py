"""Programs that stand in for those of PBS: they keep state in a directory, run jobs as processes of this machine, and
print what OpenPBS 23.06 or Torque 6 prints.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

PROGRAMS = ("qsub", "qstat", "qselect", "qdel", "qhold", "qrls", "pbsnodes")


class StandIn:
    """A pretended PBS.

    Parameters
    ----------
    directory
        Where it lives; its programs are in ``bin`` there.
    config
        Settings other than usual, see `clusters.pbs_standin.state.DEFAULTS`.
    """

    def __init__(self, directory: Path, **config: Any) -> None:
        self.directory = directory / "state"
        self.bin = directory / "bin"
        self.directory.mkdir(parents=True)
        self.bin.mkdir()
        self.settings = config
        self.configure()
        for name in PROGRAMS:
            path = self.bin / name
            path.write_text(
                f"#!{sys.executable} -SIE\nimport sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
                f"from clusters.pbs_standin.commands import main\nmain({name!r}, {str(self.directory)!r})\n"
            )
            path.chmod(0o755)

    def configure(self, **config: Any) -> None:
        """Change settings."""
        self.settings.update(config)
        new = self.directory / "config.new"
        new.write_text(json.dumps(self.settings))
        new.rename(self.directory / "config.json")

    def calls(self) -> list[str]:
        """Return the command lines so far, and forget them."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def stop(self) -> None:
        """End all jobs and remove it."""
        from clusters.pbs_standin.commands import _delete
        from clusters.pbs_standin.state import State, ended, running

        state = State(str(self.directory))
        with state.changed() as data:
            for job in data["jobs"]:
                if not ended(job):
                    _delete(state, job)
        deadline = time.monotonic() + 30
        while any(running(job) for job in state.jobs()) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self.bin.parent, ignore_errors=True)

    @property
    def path(self) -> str:
        """A PATH that begins with its programs."""
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"
