"""What an identity is made of, and how two of them differ."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from expyre.errors import RequestError

VERSION: Final = "k1"
MAX_PARTS: Final = 200


@dataclass(frozen=True)
class Part:
    """One thing that entered a key.

    Attributes
    ----------
    path
        Where it was found: ``args[0]``, ``kwargs['calculator'].parameters['rc']``, ``code:mymod.f``,
        ``const:mymod.CUTOFF``, ``package:ase``, ``file:POSCAR``, ``function``.
    digest
        First 16 hex characters of its digest.
    summary
        At most 120 readable characters.
    """

    path: str
    digest: str
    summary: str


@dataclass(frozen=True)
class Identity:
    """The key of a call and what entered it.

    Attributes
    ----------
    key
        ``k1:`` and 44 characters of url-safe base64 (they end in ``=``).
    parts
        What entered the key, at most about 200; deeper values are folded into their parent's digest.
    """

    key: str
    parts: tuple[Part, ...]

    @property
    def hash44(self) -> str:
        """The 44 characters after the version of the key."""
        return self.key.partition(":")[2]

    def to_json(self) -> str:
        """Return this identity as JSON text that :meth:`from_json` reads."""
        parts = [[part.path, part.digest, part.summary] for part in self.parts]
        return json.dumps({"key": self.key, "parts": parts}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Identity:
        """Return the identity that :meth:`to_json` wrote.

        Raises
        ------
        RequestError
            The text is not such JSON.
        """
        try:
            data = json.loads(text)
            parts = tuple(Part(str(path), str(digest), str(summary)) for path, digest, summary in data["parts"])
            return cls(str(data["key"]), parts)
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"this is not the JSON of an identity: {str(text)[:80]!r} ({error})") from error


def differences(old: Identity, new: Identity) -> list[str]:
    """Return one readable line per part that differs, is missing, or was added; nothing if the keys are equal."""
    if old.key == new.key:
        return []
    before = {part.path: part for part in old.parts}
    after = {part.path: part for part in new.parts}
    paths = [path for path in dict.fromkeys((*before, *after)) if _digest(before, path) != _digest(after, path)]
    lines = [_line(path, before.get(path), after.get(path)) for path in _deepest(paths)]
    return lines or ["something deeper than the recorded parts differs"]


def _digest(parts: dict[str, Part], path: str) -> str | None:
    return parts[path].digest if path in parts else None


def _deepest(paths: list[str]) -> list[str]:
    """Return the paths without those that only differ because something listed below them differs."""
    parents = {path[: match.start()] for path in paths for match in re.finditer(r"[.\[]", path) if _nests(path)}
    return [path for path in paths if path not in parents]


def _nests(path: str) -> bool:
    return path.startswith(("args[", "kwargs["))


def _line(path: str, old: Part | None, new: Part | None) -> str:
    kind, _, name = path.partition(":") if not _nests(path) else ("", "", path)
    if kind == "package" and old and new:
        return f"{kind} {name} {old.summary} -> {new.summary}"
    title = {"code": f"code of {name}", "const": f"constant {name}", "file": f"file {name}"}.get(kind, path)
    if kind == "package":
        title = f"package {name}"
    if old is None or new is None:
        present = new or old
        word = "added" if new else "removed"
        return f"{title} {word}" + (f": {present.summary}" if present and kind not in {"code", "file"} else "")
    if kind in {"code", "file"} or old.summary == new.summary:
        return f"{title} changed" + ("" if kind in {"code", "file"} else f" ({new.summary})")
    return f"{title} changed: {old.summary} -> {new.summary}"
