"""Times for people: stamps, ages, durations, and the ages that options take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

__all__ = ["AGE", "age", "duration", "stamp", "stamper"]

if TYPE_CHECKING:
    _Type = click.ParamType[float]
else:
    _Type = click.ParamType

_STEPS = ((60.0, "s"), (60.0, "m"), (24.0, "h"), (float("inf"), "d"))


class Age(_Type):
    """An option's age: anything that a time limit may look like (``90 s``, ``2d``, ``1-12:00:00``)."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        from expyre.units import time_to_sec

        try:
            seconds = time_to_sec(value)
        except (ValueError, AttributeError):
            seconds = None
        if seconds is None:
            self.fail(f"{value!r} is not a time; write it like 90s, 15m, 12h, 2d or 1-12:00:00", param, ctx)
        return float(seconds)


AGE = Age()


def stamper() -> Callable[[float | None], str]:
    """Return a function that writes epoch seconds as local time, fast for many (minutes are remembered)."""
    minutes: dict[int, str] = {}

    def write(seconds: float | None) -> str:
        if seconds is None:
            return "None"
        minute, second = divmod(int(seconds), 60)
        text = minutes.get(minute)
        if text is None:
            text = minutes[minute] = time.strftime("%Y-%m-%d %H:%M:", time.localtime(minute * 60))
        return f"{text}{second:02d}"

    return write


def stamp(seconds: float | None) -> str:
    """Return epoch seconds as local time, ``YYYY-mm-dd HH:MM:SS``; "None" for none."""
    return stamper()(seconds)


def duration(seconds: float | None) -> str:
    """Return a duration in two or three digits and its unit: ``12s``, ``3.4h``; "-" for none."""
    if seconds is None:
        return "-"
    value = abs(float(seconds))
    sign = "-" if seconds < 0 else ""
    for factor, unit in _STEPS:
        if value < factor:
            return f"{sign}{value:.0f}{unit}" if unit == "s" and value >= 10 else f"{sign}{value:.3g}{unit}"
        value /= factor
    raise AssertionError("unreachable")


def age(seconds: float | None, now: float) -> str:
    """Return how long ago epoch seconds were; "None" for none."""
    return "None" if seconds is None else duration(max(now - seconds, 0.0))
