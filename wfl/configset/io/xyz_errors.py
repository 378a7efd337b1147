"""What is raised for malformed XYZ files."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@functools.cache
def xyz_format_error() -> type[Exception]:
    """Return the class of the error: ASE's, whose import takes long, and ValueError."""
    from ase.io.extxyz import XYZError

    class XYZFormatError(XYZError, ValueError):
        """Raised when an XYZ file is malformed; names the file and the line."""

    return XYZFormatError


def format_error(path: Path, line: int, message: str) -> Exception:
    """Return the error for something wrong at a line (from 1) of a file."""
    return xyz_format_error()(f"{path}, line {line}: {message}")
