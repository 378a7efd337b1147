"""What a way to a host can do: run a script there, send files, fetch files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# Names of the files by which a job tells that it has ended begin so: if one is there, the others are complete.
MARKER_PREFIX = "_expyre_job_"


@dataclass(frozen=True)
class Completed:
    """How a script ended and what it wrote."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are no UTF-8 survive a round trip."""
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def error_text(self) -> str:
        """Standard error as text for messages."""
        return self.stderr.decode("utf-8", "replace").strip()


class Transport(Protocol):
    """A way to a host, kept open between calls and usable from several threads.

    Every method raises `expyre.errors.TransportError` when the host was not reached or a transfer broke off,
    ``transient`` unless trying again cannot help. Directories that are not absolute are relative to the user's home
    on the host.

    Attributes
    ----------
    host
        ``[user@]host``, None for this machine.
    round_trips
        How many calls have crossed the wire.
    """

    host: str | None
    round_trips: int

    def run(self, script: str, stdin: bytes = b"", timeout: float | None = None) -> Completed:
        """Run a shell script in the user's home. That it fails is no error of the transport.

        Parameters
        ----------
        script
            Text for bash (for sh where there is no bash), of any length.
        stdin
            What the script reads.
        timeout
            Seconds after which the script is killed and TransportError raised.
        """

    def send(self, sources: Sequence[tuple[Path, str]], remote_dir: str) -> None:
        """Copy files and directories to the host, all in one stream.

        Parameters
        ----------
        sources
            Pairs of a local path and its name in ``remote_dir``. Directories are merged into existing ones.
        remote_dir
            Made if it is not there.
        """

    def fetch(self, remote_dir: str, names: Sequence[str], local_dir: Path, exclude: Sequence[str] = ()) -> None:
        """Copy files and directories from the host, all in one stream.

        The files by which a job tells that it has ended are read first, so that what lies beside them is complete.
        Large files that have the same size and time of modification here need not be copied.

        Parameters
        ----------
        remote_dir
            Where they are.
        names
            Their names there; what does not exist is left out.
        local_dir
            Where they go under the same names.
        exclude
            Names of files to leave out at any depth.
        """

    def close(self) -> None:
        """Give up the connection; the next call opens it again."""
