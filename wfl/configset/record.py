"""The record of the call that produced an output, kept in a small file beside it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CallRecord", "differences", "read_sidecar", "sidecar_path", "write_sidecar"]


@dataclass
class CallRecord:
    """What a call was: enough to tell whether an output, whole or interrupted, comes from the same one.

    Attributes
    ----------
    name
        Name of the operation, for messages.
    parts
        Digest of each argument, of the operation and its code, by a readable path like ``kwargs['calculator']``.
    inputs
        What is known about the inputs: size, time and digest of files, or a digest of what is in memory. Anything
        that JSON can hold.
    """

    name: str
    parts: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as it comes back from JSON."""
        result: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CallRecord:
        """Return the record of such a dict."""
        return cls(str(data.get("name", "")), dict(data.get("parts", {})), dict(data.get("inputs", {})))


def differences(old: CallRecord, new: CallRecord) -> list[str]:
    """Return one line per thing in which two calls differ, an empty list if they are the same."""
    before, after = old.to_dict(), new.to_dict()
    lines = [] if before["name"] == after["name"] else [f"operation: was {before['name']}, is {after['name']}"]
    for what in ("parts", "inputs"):
        for key in dict.fromkeys((*before[what], *after[what])):
            lines.extend(_difference(f"{what}: {key}", before[what], after[what], key))
    return lines


def _difference(label: str, before: dict[str, Any], after: dict[str, Any], key: str) -> list[str]:
    if key not in before:
        return [f"{label} is new"]
    if key not in after:
        return [f"{label} is gone"]
    if before[key] != after[key]:
        return [f"{label} was {_short(before[key])}, is {_short(after[key])}"]
    return []


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def sidecar_path(path: Path) -> Path:
    """Return where the record of the call that produced a file is kept."""
    return path.with_name(f".{path.name}.wfl.json")


def write_sidecar(path: Path, call: CallRecord) -> None:
    """Write the record of the call that produced a finished file; replaces an older one atomically."""
    status = path.stat()
    data = {"version": 1, "call": call.to_dict(), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    target = sidecar_path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data))
    os.replace(temporary, target)


def read_sidecar(path: Path) -> CallRecord | None:
    """Return the call that produced a file, None if unknown: no record, or the file was changed after it."""
    try:
        data = json.loads(sidecar_path(path).read_text())
        status = path.stat()
        if (data["size"], data["mtime_ns"]) != (status.st_size, status.st_mtime_ns):
            return None
        return CallRecord.from_dict(data["call"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
