"""Times and memory sizes as people write them, to and from seconds and kB."""

from __future__ import annotations

import math
import operator
import re

__all__ = ["kB_to_mem", "mem_to_kB", "time_to_HMS", "time_to_sec"]

_DECIMAL = r"(?:(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]*))?|\.(?P<only>[0-9]+))"
_TIME_UNIT = re.compile(_DECIMAL + r"\s*(?P<unit>[smhd])", re.IGNORECASE)
_TIME_FIELDS = re.compile(r"(?:([0-9]+)-)?([0-9]+(?::[0-9]+){0,2})")
_MEMORY_UNIT = re.compile(_DECIMAL + r"\s*(?P<unit>[kmgt])b?", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_KILOBYTES = {"k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}
_NONE = "_none_"

_TIME_FORMS = (
    "give seconds (3600), a number with a unit (30s, 5.5 m, 2h, 1d), [days-][[hours:]minutes:]seconds "
    "(10:10 is 10 minutes 10 seconds, 1-12:00:00 is 36 hours), or None for no limit"
)
_MEMORY_FORMS = "give kB (2097152), a number with a unit (500 kB, 1.5g, 2GB, 1T; steps of 1024), or None for no limit"


def time_to_sec(t: str | float | None) -> int | None:
    """Return a time in seconds.

    Parameters
    ----------
    t
        Seconds (int is returned as it is, float is truncated), None or ``_NONE_`` for no limit, a decimal number with
        one of the units s, m, h, d, or ``[days-]S``, ``[days-]M:S``, ``[days-]H:M:S``.

    Raises
    ------
    ValueError
        None of these forms; the message names them.
    """
    if not isinstance(t, str):
        return _number(t, "time", _TIME_FORMS)
    text = t.strip().lower()
    if text == _NONE:
        return None
    if (match := _TIME_UNIT.fullmatch(text)) is not None:
        return _times(match, _SECONDS)
    if (match := _TIME_FIELDS.fullmatch(text)) is not None:
        return int(match[1] or 0) * 86400 + _sexagesimal(match[2])
    raise ValueError(f"cannot read {t!r} as a time: {_TIME_FORMS}")


def mem_to_kB(m: str | float | None) -> int | None:  # noqa: N802 (public name)
    """Return a memory size in kB (1024 bytes).

    Parameters
    ----------
    m
        kB (int is returned as it is, float is truncated), None or ``_NONE_`` for no limit, or a decimal number with one
        of the units k, m, g, t, with or without a ``b``, in any case.

    Raises
    ------
    ValueError
        None of these forms; the message names them.
    """
    if not isinstance(m, str):
        return _number(m, "memory size", _MEMORY_FORMS)
    text = m.strip().lower()
    if text == _NONE:
        return None
    match = _MEMORY_UNIT.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot read {m!r} as a memory size: {_MEMORY_FORMS}")
    return _times(match, _KILOBYTES)


def time_to_HMS(sec: int) -> str:  # noqa: N802 (public name)
    """Return seconds as ``H:MM:SS``, with as many hours as it takes.

    Raises
    ------
    ValueError
        ``sec`` is not an integer of at least 0.
    """
    seconds = _number(sec, "time", "give whole seconds of at least 0")
    if seconds is None or seconds != sec or seconds < 0:
        raise ValueError(f"cannot write {sec!r} as H:MM:SS: give whole seconds of at least 0")
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def kB_to_mem(kB: int) -> str:  # noqa: N802, N803 (public name, unit)
    """Return a memory size in kB in the largest unit in which it is a whole number, such as ``1536MB``."""
    unit = next(unit for unit in "tgmk" if kB % _KILOBYTES[unit] == 0 and (kB or unit == "k"))
    return f"{kB // _KILOBYTES[unit]}{unit if unit == 'k' else unit.upper()}B"


def _number(value: object, what: str, forms: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]  # also the integers of numpy
        except TypeError:
            pass
        if isinstance(value, float) and math.isfinite(value):
            return int(value)
    raise ValueError(f"cannot use {value!r} ({type(value).__name__}) as a {what}: {forms}")


def _times(match: re.Match[str], factors: dict[str, int]) -> int:
    """Return decimal times unit, truncated, in integers: as floats 1.15 h would come out one second short."""
    part = match["only"] or match["part"] or ""
    scale: int = 10 ** len(part)
    return int((match["whole"] or "0") + part) * factors[match["unit"]] // scale


def _sexagesimal(fields: str) -> int:
    total = 0
    for field in fields.split(":"):
        total = 60 * total + int(field)
    return total
