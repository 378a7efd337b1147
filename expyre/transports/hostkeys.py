"""Whether a host is the one it was: its key against the user's files of known hosts."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from expyre.errors import TransportError
from expyre.transports.sshconfig import Target, config_words

__all__ = ["KnownKeys", "fingerprint"]


@dataclass(frozen=True)
class _Line:
    marker: str
    kind: str
    blob: bytes
    place: str


class KnownKeys:
    """The keys that a host is known by.

    Parameters
    ----------
    host
        The host, with the files of known hosts that its configuration names.
    """

    def __init__(self, host: Target) -> None:
        self._host = host
        self._lines = [line for path in host.known_hosts for line in _lines(path, host.known_as)]

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of keys it is known by, which it should be asked for first."""
        return list(dict.fromkeys(line.kind for line in self._lines if not line.marker))

    def check(self, kind: str, blob: bytes) -> None:
        """Raise an error unless the host is known by this key.

        Raises
        ------
        TransportError
            The key is unknown, revoked, or another one than the one known; never worth another try.
        """
        shown = f"{kind} {fingerprint(blob)}"
        lines = [line for line in self._lines if line.marker != "@cert-authority"]
        if any(line.marker == "@revoked" and line.blob == blob for line in lines):
            raise TransportError(f"the key of {self._name}, {shown}, is marked as revoked", transient=False)
        if any(line.blob == blob for line in lines):
            return
        other = next((line for line in lines if line.kind == kind and not line.marker), None)
        raise TransportError(self._unknown(shown) if other is None else self._changed(shown, other), transient=False)

    @property
    def _name(self) -> str:
        return f"{self._host} ({self._host.known_as})"

    def _unknown(self, shown: str) -> str:
        words = " ".join(["ssh", *config_words(), self._host.name])
        scan = f"ssh-keyscan -p {self._host.port} {self._host.hostname} >> {self._file}"
        return (
            f"the host key of {self._name} is not known, so nothing was sent there; it shows {shown}. "
            f"If that is what the site publishes, accept it with `{words}` (or `{scan}`) and start again"
        )

    def _changed(self, shown: str, other: _Line) -> str:
        return (
            f"the host key of {self._name} has changed, so nothing was sent there: it shows {shown}, but {other.place} "
            f"has {fingerprint(other.blob)}. Somebody may be listening in. If the site says that its key is new, "
            f"remove the old one with `ssh-keygen -f {self._file} -R '{self._host.known_as}'` and start again"
        )

    @property
    def _file(self) -> Path:
        return next(iter(self._host.known_hosts), Path("~/.ssh/known_hosts"))


def fingerprint(blob: bytes) -> str:
    """Return the fingerprint of a key as ssh writes it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _lines(path: Path, name: str) -> Iterator[_Line]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) >= 3 and not words[0].startswith("#") and _matches(words[0], name):
            try:
                yield _Line(marker, words[1], base64.b64decode(words[2], validate=True), f"{path}:{number}")
            except binascii.Error:
                continue


def _matches(field: str, name: str) -> bool:
    if field.startswith("|1|"):
        return _hashed(field, name)
    return _listed(field.split(","), name.lower())


def _hashed(field: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in field.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


def _listed(patterns: Iterable[str], name: str) -> bool:
    found = False
    for pattern in patterns:
        wanted = pattern.lower().removeprefix("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name, wanted):
            if pattern.startswith("!"):
                return False
            found = True
    return found
