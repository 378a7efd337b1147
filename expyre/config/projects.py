"""A project: the settings that hold where a script runs, with its systems and its record of jobs."""

from __future__ import annotations

import copy
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expyre.config.check import check_settings
from expyre.config.files import DIRECTORY_NAMES, Settings, find_directories, home, read_settings
from expyre.config.merge import DELETE, merge
from expyre.errors import ConfigError, ExPyReError
from expyre.node import machine
from expyre.units import mem_to_kB, time_to_sec

if TYPE_CHECKING:
    from expyre.jobsdb import JobsDB
    from expyre.system import System

__all__ = ["Project"]

RECORD_FILE = "jobs.db"
_LOCAL = "local"


class Project:
    """Settings, systems and record of jobs of one project. Several in one process do not know of each other.

    Parameters
    ----------
    root
        Innermost configuration directory; None if there is none.
    config_dirs
        All configuration directories, outermost first.
    raw
        Settings as the configuration files have them together.
    stage_dir
        Directory under which jobs are staged and the record is; made when first needed. None for ``.expyre`` in the
        home directory.

    Attributes
    ----------
    stage_dir : Path
        The stage root, whether it is there or not.
    """

    def __init__(
        self,
        root: Path | None = None,
        config_dirs: tuple[Path, ...] = (),
        raw: dict[str, Any] | None = None,
        stage_dir: Path | None = None,
    ) -> None:
        self.root = root
        self.config_dirs = config_dirs
        self.raw = {} if raw is None else raw
        self.stage_dir = home() / DIRECTORY_NAMES[0] if stage_dir is None else stage_dir
        self._systems: dict[str, System] | None = None
        self._record: JobsDB | None = None
        self._lock = threading.RLock()

    @classmethod
    def discover(cls, root: str | os.PathLike[str] = "@", *, verbose: bool = False) -> Project:
        """Return the project of a configuration directory.

        Parameters
        ----------
        root
            ``@`` to search from the current directory upward, or the directory that holds ``config.json``.
        verbose
            Write the directories found to stdout and the names of the systems to stderr.

        Raises
        ------
        ConfigError
            There is no such directory, or the files are wrong; the message lists every mistake of every file.
        """
        directories = find_directories(root)
        settings = read_settings(directories)
        _add_local_system(settings)
        check_settings(settings)
        innermost = directories[-1] if directories else None
        named = settings.merged.get("local_stage_dir")
        stage_dir = innermost if named is None else Path(os.path.abspath(os.path.expanduser(named)))
        if verbose:
            sys.stdout.write(f"configuration directories: {' '.join(str(directory) for directory in directories)}\n")
            sys.stderr.write(f"systems: {' '.join(settings.merged['systems'])}\n")
        return cls(innermost, directories, settings.merged, stage_dir)

    def __repr__(self) -> str:
        return f"Project(root={str(self.root)!r}, stage_dir={str(self.stage_dir)!r})"

    @property
    def stage_root(self) -> Path:
        """The stage root; made, open to its owner only, if it is not there yet."""
        make_private_directory(self.stage_dir)
        return self.stage_dir

    @property
    def systems(self) -> dict[str, System]:
        """Name to system; made at the first use, the same objects ever after."""
        with self._lock:
            if self._systems is None:
                extra = self.rundir_extra
                specs = {name: spec for name, spec in self.raw.get("systems", {}).items() if isinstance(spec, dict)}
                self._systems = {name: _build_system(name, spec, extra) for name, spec in specs.items()}
            return self._systems

    @systems.setter
    def systems(self, systems: dict[str, System]) -> None:
        self._systems = systems

    @property
    def record(self) -> JobsDB:
        """The record of jobs; opened at the first use."""
        with self._lock:
            if self._record is None:
                from expyre.jobsdb import JobsDB

                self._record = JobsDB(self.stage_root / RECORD_FILE)
            return self._record

    @record.setter
    def record(self, record: JobsDB) -> None:
        self._record = record

    @property
    def rundir_extra(self) -> str:
        """The project's own part of run directories: the submitting host and the path of the project."""
        stage_dir = self.stage_dir
        place = stage_dir.parent if stage_dir.name in DIRECTORY_NAMES else stage_dir
        return f"{self._submit_host()}-{str(place).replace('/', '_')}"

    def close(self) -> None:
        """Close the record if it is open; it opens again when it is used again."""
        with self._lock:
            record, self._record = self._record, None
        if record is not None:
            record.close()

    def _submit_host(self) -> str:
        named = self.raw.get("remote_rundir_submit_hostname")
        return str(named or os.environ.get("HOSTNAME") or socket.gethostname())


def make_private_directory(path: Path) -> None:
    """Make a directory and those above it, as far as missing, open to their owner only."""
    if path.is_dir():
        return
    make_private_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def _build_system(name: str, spec: dict[str, Any], rundir_extra: str) -> System:
    from expyre.system import System

    kwargs = copy.deepcopy(spec)
    for key in ("partitions", "queues"):
        for node in (kwargs.get(key) or {}).values():
            node["max_time"] = time_to_sec(node["max_time"])
            node["max_mem"] = mem_to_kB(node["max_mem"])
    try:
        return System(**kwargs, rundir_extra=rundir_extra)
    except ExPyReError as error:
        raise ConfigError(f"system {name!r}: {error}") from error


def _add_local_system(settings: Settings) -> None:
    """Put in the system ``local``, unless a file has one of its own or removes it; some settings go over ours."""
    systems = settings.merged.setdefault("systems", {})
    if not isinstance(systems, dict):
        return
    own = systems.get(_LOCAL)
    if _LOCAL not in systems and not _removes_local(settings):
        systems[_LOCAL] = _local_system()
    elif isinstance(own, dict) and "scheduler" not in own and not own.get("host"):
        systems[_LOCAL] = _local_system()
        merge(systems[_LOCAL], own)


def _removes_local(settings: Settings) -> bool:
    said = [data["systems"].get(_LOCAL) for _, data in settings.files if isinstance(data.get("systems"), dict)]
    return any(word == DELETE for word in said)


def _local_system() -> dict[str, Any]:
    node: dict[str, Any] = {"max_time": None}
    try:
        node |= {"num_cores": machine.cores(), "max_mem": machine.memory_kb(), "num_gpus": len(machine.gpus())}
    except ValueError as error:
        raise ConfigError(f"the system {_LOCAL!r}: {error}") from error
    return {"host": None, "scheduler": "local", "rundir": None, "partitions": {_LOCAL: node}}
