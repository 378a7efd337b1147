"""Where configuration files are, and what they say together."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expyre.config.merge import DELETE, merge
from expyre.errors import ConfigError

__all__ = ["CONFIG_FILE", "DIRECTORY_NAMES", "Settings", "find_directories", "home", "read_settings"]

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
DIRECTORY_NAMES = (".expyre", "_expyre")


@dataclass(frozen=True)
class Settings:
    """What the configuration files say together.

    Attributes
    ----------
    merged
        Settings of all files, the deeper ones over the others.
    files
        Each file with its own settings, outermost first.
    mistakes
        What cannot be read or merged, one line each.
    """

    merged: dict[str, Any]
    files: tuple[tuple[Path, dict[str, Any]], ...]
    mistakes: tuple[str, ...]

    def source(self, path: tuple[str, ...]) -> str:
        """Return the file that has the last word on a key path, or on the nearest thing around it."""
        for length in range(len(path), 0, -1):
            for file, data in reversed(self.files):
                if _has(data, path[:length]):
                    return str(file)
        return str(self.files[-1][0]) if self.files else CONFIG_FILE


def find_directories(root: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the configuration directories, outermost first.

    Parameters
    ----------
    root
        ``@``: every ``.expyre`` or ``_expyre`` in the current directory and those above it, up to the home directory or
        the root of the file system; if there is none, the one of the home directory. Anything else is the directory.

    Raises
    ------
    ConfigError
        ``root`` is no directory, or one directory has both names.
    """
    if os.fspath(root) == "@":
        return _search() or _one_of(home())
    directory = Path(os.path.abspath(root))  # not resolved: the names of run directories are made of this path
    if not directory.is_dir():
        raise ConfigError(
            f"the configuration directory {os.fspath(root)!r} is not a directory: init() and EXPYRE_ROOT take the "
            f"directory that holds {CONFIG_FILE}, or '@' to search for {' or '.join(DIRECTORY_NAMES)} from here upward"
        )
    return (directory,)


def read_settings(directories: tuple[Path, ...]) -> Settings:
    """Read and merge the configuration files of directories, collecting what is wrong with them."""
    merged: dict[str, Any] = {}
    files: list[tuple[Path, dict[str, Any]]] = []
    mistakes: list[str] = []
    for file in (directory / CONFIG_FILE for directory in directories):
        try:
            data = _read(file)
        except ConfigError as error:
            mistakes.append(str(error))
            continue
        if data is not None:
            files.append((file, data))
            mistakes += [_conflict(file, path) for path in merge(merged, data)]
    return Settings(merged, tuple(files), tuple(mistakes))


def home() -> Path:
    """Return the home directory."""
    return Path(os.path.expanduser("~"))


def _search() -> tuple[Path, ...]:
    found: list[Path] = []
    last = home().resolve()
    here = Path.cwd()
    for directory in (here, *here.parents):
        found += (path for path in _one_of(directory) if _may_be_trusted(path))
        if directory.resolve() == last:
            break
    return tuple(reversed(found))


def _may_be_trusted(path: Path) -> bool:
    """Return True, unless somebody else has put a directory where everybody can: its settings are run as commands.

    Raises
    ------
    ConfigError
        That is so.
    """
    if path.parent.stat().st_mode & 0o002 and path.stat().st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path} belongs to somebody else, in a directory where everybody can put files: its settings are not "
            f"used; work in another directory, or set EXPYRE_ROOT={path} if you trust its owner"
        )
    return True


def _one_of(directory: Path) -> tuple[Path, ...]:
    found = tuple(directory / name for name in DIRECTORY_NAMES if (directory / name).is_dir())
    if len(found) > 1:
        raise ConfigError(f"{directory} has both {' and '.join(DIRECTORY_NAMES)}: keep one of the two")
    return found


def _read(file: Path) -> dict[str, Any] | None:
    """Return the settings of one file, None if there is no such file."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if (file.stat().st_mode | file.parent.stat().st_mode) & 0o002:
            log.warning(
                "everybody can change %s, which says what commands you run: chmod o-w it and its directory", file
            )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: must hold one {{…}} with the key 'systems', not {type(data).__name__}")
    return _with_deleted_systems(data)


def _with_deleted_systems(data: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which ``null`` for a system removes the system; elsewhere null is a value."""
    systems = data.get("systems")
    if not isinstance(systems, dict):
        return data
    return data | {"systems": {name: DELETE if spec is None else spec for name, spec in systems.items()}}


def _conflict(file: Path, path: tuple[str, ...]) -> str:
    return f"{file}: {'.'.join(path)}: has keys of its own, but is a plain value in a file further out"


def _has(data: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True
