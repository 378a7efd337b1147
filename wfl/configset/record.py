"""The record of the call that produced an output, kept in a small file beside it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expyre.identity import Identity

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
    summaries
        Some readable characters on each of the parts, for messages; they do not tell calls apart.
    """

    name: str
    parts: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as it comes back from JSON."""
        result: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return result

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CallRecord:
        """Return the record of such a dict."""
        parts, inputs, summaries = (dict(data.get(name, {})) for name in ("parts", "inputs", "summaries"))
        return cls(str(data.get("name", "")), parts, inputs, summaries)

    def as_identity(self) -> Identity:
        """Return what the call was made of, in the form in which calls are compared and their differences named."""
        from expyre.identity import Identity, Part

        name = Part("operation", self.name, self.name)
        parts = [Part(path, digest, self.summaries.get(path, digest)) for path, digest in self.parts.items()]
        inputs = [Part(path, json.dumps(known, sort_keys=True), "") for path, known in self.to_dict()["inputs"].items()]
        all_parts = (name, *parts, *inputs)
        return Identity(json.dumps([(part.path, part.digest) for part in all_parts]), all_parts)


def differences(old: CallRecord, new: CallRecord) -> list[str]:
    """Return one line per thing in which two calls differ, an empty list if they are the same.

    Inputs of which nothing is known, on either side, are no difference.
    """
    from expyre.identity import differences as differing_parts

    if not old.inputs or not new.inputs:
        old, new = replace(old, inputs={}), replace(new, inputs={})
    return differing_parts(old.as_identity(), new.as_identity())


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
