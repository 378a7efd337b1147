"""What is raised for malformed XYZ files."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@functools.cache
def xyz_format_error() -> type[Exception]:
    """Return the class of the error, which is ASE's and a ValueError; made when needed, for ASE's takes long to import."""
    from ase.io.extxyz import XYZError

    class XYZFormatError(XYZError, ValueError):  # type: ignore[misc]
        """Raised when an XYZ file is malformed; names the file and the line."""

    return XYZFormatError


def format_error(path: Path, line: int, message: str) -> Exception:
    """Return the error for something wrong at a line (from 1) of a file."""
    return xyz_format_error()(f"{path}, line {line}: {message}")
