"""The directory on a host under which the jobs of a project run, each in a directory of its own."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from expyre import stage
from expyre.errors import SchedulerError, StageError
from expyre.schedulers.units import QUEUE_ID_FILE
from expyre.transports import Transport

__all__ = ["RunDir"]

# What stays on this side: the trusted key and the inputs are never brought back over the local ones. The rest is of no
# use here, and every file costs time for every job.
_NEVER_FETCHED = (stage.KEY_FILE, stage.TASK_FILE, stage.names.RUNNER, QUEUE_ID_FILE)
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

    def markers(self, names: Sequence[str]) -> list[stage.Markers]:
        """Return what the jobs of these directories have left, in order; one round trip."""
        return self.read_markers(self._shell(self.markers_script(names), "cannot be looked at"))

    def markers_script(self, names: Sequence[str]) -> str:
        """Return the script whose output `read_markers` reads."""
        tests = " ".join(f'[ -e "$d"/{name} ] && s=${{s}}1 || s=${{s}}0;' for name in _MARKERS)
        # written a hundred at a time: writing ten thousand lines one by one takes longer than to look
        loop = f"all=; for d in %s; do s=; {tests} all=\"$all $s\"; done; echo $all"
        loops = [loop % _words(names[i : i + 100]) for i in range(0, len(names), 100)]
        return "\n".join([f"{self._cd} 1", *loops])

    @staticmethod
    def read_markers(text: str) -> list[stage.Markers]:
        """Return what the output of the script of `markers_script` says."""
        return [stage.Markers(*(flag == "1" for flag in line)) for line in text.split()]

    def glob(self, globs: Iterable[str]) -> list[str]:
        """Return the names that match any of the patterns."""
        script = f"""{self._cd} 0\nfor d in {" ".join(globs)}; do [ -e "$d" ] && printf '%s\\0' "$d"; done; true"""
        return [name for name in self._shell(script, "cannot be listed").split("\0") if name]

    def clean(self, names: Sequence[str], filenames: Sequence[str]) -> None:
        """Overwrite files that jobs have with ``CLEANED``; remove those that they have in common."""
        each = f'for f in {_words(filenames)}; do [ -e "$d/$f" ] && echo CLEANED > "$d/$f"; done'
        each += f'; rm -f "$d"/{stage.names.SHARED}*'
        self._shell(f"{self._cd} 0\nfor d in {_words(names)}; do {each}; done; true", "cannot be cleaned")

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
        each = 'chmod -R u+rwX "$d" 2>/dev/null; rm -rf "$d"'
        self._shell(f"{self._cd} 0\nfor d in {_words(names)}; do {each}; done", "cannot be cleared of jobs")

    def _shell(self, script: str, trouble: str) -> str:
        done = self.transport.run(script)
        if done.returncode != 0:
            where = self.transport.host or "this machine"
            said = done.stderr.decode(errors="replace").strip()
            raise SchedulerError(f"the run directory {self.path} on {where} {trouble}: {said}")
        return done.stdout.decode(errors="surrogateescape")


def _words(names: Iterable[str]) -> str:
    return " ".join(shlex.quote(name) for name in names)


def quoted_directory(directory: str) -> str:
    """Return a directory quoted for a shell that stands in the home directory; ``~`` and ``$HOME`` in front work."""
    for prefix in ("~/", "$HOME/", "${HOME}/"):
        if directory.startswith(prefix):
            return '"$HOME"/' + shlex.quote(directory[len(prefix) :])
    return shlex.quote(directory)
