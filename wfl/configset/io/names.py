"""What the name of a file says about its format and its compression."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

COMPRESSIONS = ("gz", "bz2", "xz", "zst")


def compression_of(path: Path) -> str | None:
    """Return ``gz``, ``bz2``, ``xz`` or ``zst`` for a compressed file, None for another."""
    ending = path.suffix.lower().lstrip(".")
    return ending if ending in COMPRESSIONS else None


def extension_of(path: Path) -> str:
    """Return the extension without its dot and without that of the compression, in lower case."""
    name = path.name
    if compression_of(path):
        name = name[: name.rindex(".")]
    return name.rsplit(".", 1)[1].lower() if "." in name else ""
