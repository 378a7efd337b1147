"""The directory on a host under which the jobs of a project run, each in a directory of its own."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from expyre import stage
from expyre.errors import SchedulerError, StageError
from expyre.schedulers.units import QUEUE_ID_FILE
from expyre.transports import Transport, quoted_directory

__all__ = ["RunDir"]

# What stays on this side: the trusted key, and what says which commands run and which files are copied, are never
# brought back over the local ones. The rest is of no use here, and every file costs time for every job.
_TRUSTED = (
    stage.KEY_FILE,
    stage.names.PRE_RUN,
    stage.names.POST_RUN,
    stage.names.ENV_VARS,
    stage.names.OUTPUT_FILES,
    stage.names.RANKS,
)
_NEVER_FETCHED = (*_TRUSTED, stage.TASK_FILE, stage.names.RUNNER, QUEUE_ID_FILE)
_MARKERS = (stage.RESULT_FILE, stage.ERROR_FILE, stage.STARTED_FILE, stage.names.TERMINATED)


class RunDir:
    """A run directory.

    Parameters
    ----------
    transport
        The way to the host.
    path
        The directory, absolute or relative to the home directory there.
    """

    def __init__(self, transport: Transport, path: str) -> None:
        self.transport = transport
        self.path = path
        self._cd = f"cd {quoted_directory(path)} || exit"

    def make(self) -> None:
        """Make the directory, readable by its owner only."""
        self._shell(f"umask 077 && mkdir -p {quoted_directory(self.path)}", "cannot be made")

    def holds(self, name: str) -> bool:
        """Tell whether there is an entry of that name."""
        return self.transport.run(f"[ -e {quoted_directory(self.path)}/{shlex.quote(name)} ]").returncode == 0

    def send(self, directories: Sequence[Path]) -> None:
        """Copy local directories into it, in one stream."""
        self.transport.send([(directory, directory.name) for directory in directories], self.path)

    def fetch(self, names: Sequence[str], local_dir: Path, exclude: Sequence[str] = ()) -> None:
        """Copy directories back into ``local_dir``, in one stream; inputs, keys and ``exclude`` are left out."""
        if names:
            shared = {file for name in names for file in stage.shared_files(local_dir / name)}
            self.transport.fetch(self.path, names, local_dir, exclude=(*_NEVER_FETCHED, *exclude, *sorted(shared)))

    def fetch_files(self, name: str, files: Sequence[str], local_dir: Path) -> None:
        """Copy those of the files that a job's directory has into ``local_dir``."""
        self.transport.fetch(f"{self.path}/{name}", files, local_dir)

    def files(self, names: Sequence[str]) -> set[str]:
        """Return the paths, relative to this directory, of all files in jobs' directories."""
        script = f"{self._cd} 1\nfind {_words('./' + name for name in names)} ! -type d -print0"
        return {path.removeprefix("./") for path in self._shell(script, "cannot be listed").split("\0") if path}

    def markers(self, names: Sequence[str], timeout: float | None = None) -> list[stage.Markers]:
        """Return what the jobs of these directories have left, in order; one round trip of at most so many s."""
        return self.read_markers(self._shell(self.markers_script(names), "cannot be looked at", timeout))

    def markers_script(self, names: Sequence[str]) -> str:
        """Return the script whose output `read_markers` reads."""
        tests = " ".join(f'[ -e "$d"/{name} ] && s=${{s}}1 || s=${{s}}0;' for name in _MARKERS)
        # written a hundred at a time: writing ten thousand lines one by one takes longer than to look
        loop = f'all=; for d in %s; do s=; {tests} all="$all $s"; done; echo $all'
        loops = [loop % _words(names[i : i + 100]) for i in range(0, len(names), 100)]
        return "\n".join([f"{self._cd} 1", *loops])

    @staticmethod
    def read_markers(text: str) -> list[stage.Markers]:
        """Return what the output of the script of `markers_script` says."""
        return [stage.Markers(*(flag == "1" for flag in line)) for line in text.split()]

    def glob(self, globs: Iterable[str]) -> list[str]:
        """Return the names that match any of the patterns, in which only ``*``, ``?`` and brackets mean anything.

        Raises
        ------
        StageError
            The host has answered with what is no name in this directory.
        """
        patterns = " ".join(map(_pattern, globs))
        script = f"""{self._cd} 0\nfor d in {patterns}; do [ -e "$d" ] && printf '%s\\0' "$d"; done; true"""
        found = self._shell(script, "cannot be listed").split("\0")
        names = [name.removeprefix("./").rstrip("/") for name in found if name]
        if wrong := [name for name in names if name.startswith("/") or {"", ".", ".."} & set(name.split("/"))]:
            raise StageError(f"refusing to take for what is in {self.path}: {', '.join(map(repr, wrong))}")
        return names

    def clean(self, names: Sequence[str], filenames: Sequence[str]) -> None:
        """Overwrite files that jobs have with ``CLEANED``; remove those that they have in common."""
        # links are replaced: what they lead to is to stay as it is
        write = 'rm -f "$d/$f" && echo CLEANED > "$d/$f"'
        each = f'for f in {_words(filenames)}; do if [ -e "$d/$f" ] || [ -L "$d/$f" ]; then {write}; fi; done'
        each += f'; rm -f "$d"/{stage.names.SHARED}*'
        loop = f'for d in {_words(names)}; do [ -L "$d" ] || {{ {each}; }}; done; true'
        self._shell(f"{self._cd} 0\n{loop}", "cannot be cleaned")

    def remove(self, names: Sequence[str]) -> None:
        """Remove jobs' directories.

        Raises
        ------
        StageError
            A name is not that of a job's directory; nothing was removed.
        """
        if not names:
            return
        if any(not name.startswith(stage.names.PREFIX) or "/" in name for name in names):
            raise StageError(f"refusing to remove from {self.path} what is no job's directory: {', '.join(names)}")
        each = '[ -L "$d" ] || chmod -R u+rwX "$d" 2>/dev/null; rm -rf "$d"'
        self._shell(f"{self._cd} 0\nfor d in {_words(names)}; do {each}; done", "cannot be cleared of jobs")

    def _shell(self, script: str, trouble: str, timeout: float | None = None) -> str:
        done = self.transport.run(script, timeout=timeout)
        if done.returncode != 0:
            where = self.transport.host or "this machine"
            said = done.stderr.decode(errors="replace").strip()
            raise SchedulerError(f"the run directory {self.path} on {where} {trouble}: {said}")
        return done.stdout.decode(errors="surrogateescape")


def _words(names: Iterable[str]) -> str:
    return " ".join(shlex.quote(name) for name in names)


def _pattern(glob: str) -> str:
    """Return a pattern of file names as a word of a shell script; everything else in it stands for itself."""
    parts = re.split(r"([*?\[\]!^-]+)", f"./{glob}")
    return "".join(part if i % 2 else shlex.quote(part) if part else "" for i, part in enumerate(parts))
