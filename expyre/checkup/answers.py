"""What a host answered: the framed parts of the script's output, whatever noise is around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Answer", "pairs", "split"]

_TIMED_OUT = (124, 137)


@dataclass(frozen=True)
class Answer:
    """Output of one part.

    Attributes
    ----------
    text
        Standard output.
    error
        Standard error.
    returncode
        Exit code; None if the part never ended.
    """

    text: str = ""
    error: str = ""
    returncode: int | None = None

    @property
    def timed_out(self) -> bool:
        """Whether the time for this part was over."""
        return self.returncode is None or self.returncode in _TIMED_OUT

    @property
    def lines(self) -> list[str]:
        """The lines of the output that are not empty."""
        return [line for line in self.text.splitlines() if line.strip()]

    @property
    def last_words(self) -> str:
        """The last line of the error, or of the output if there is none."""
        lines = [line.strip() for line in (self.error.strip() or self.text).splitlines() if line.strip()]
        return lines[-1] if lines else ""


def split(text: str, mark: str) -> dict[str, Answer]:
    """Return the parts by name."""
    answers: dict[str, Answer] = {}
    name, where = "", ""
    kept: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split(" ")
        if words[0] == mark and len(words) >= 3 and words[1] in ("begin", "error", "end"):
            where, name = words[1], words[2]
            if where == "begin":
                kept = {"begin": [], "error": []}
            answers[name] = _answer(kept, words[3] if where == "end" and len(words) > 3 else "")
        elif where in kept:
            kept[where].append(line)
    return answers


def _answer(kept: Mapping[str, list[str]], code: str) -> Answer:
    text, error = ("\n".join(kept.get(key, ())) for key in ("begin", "error"))
    return Answer(text, error, int(code) if code.isdigit() else None)


def pairs(answer: Answer | None, start: str = "") -> dict[str, str]:
    """Return the ``key=value`` lines of an answer, of those lines that begin with ``start``."""
    lines = [] if answer is None else answer.text.splitlines()
    found = [line[len(start) :].partition("=") for line in lines if line.startswith(start)]
    return {key.strip(): value.strip() for key, equals, value in found if equals}
