"""How often, and with which pauses, what failed on the way to a host is tried again."""

from __future__ import annotations

import os
from typing import Final

from expyre.errors import RequestError

__all__ = ["tries_and_pause"]

_DEFAULT: Final = (3, 5.0)


def tries_and_pause(retry: tuple[int, float] | None = None) -> tuple[int, float]:
    """Return how many tries there are, and the seconds between them.

    Parameters
    ----------
    retry
        Both; None takes them from the environment variable ``EXPYRE_RETRY`` (``"tries seconds"``), else 3 and 5.

    Raises
    ------
    RequestError
        They are no such numbers.
    """
    text = os.environ.get("EXPYRE_RETRY", "").split()
    try:
        tries, pause = retry if retry is not None else (int(text[0]), float(text[1])) if text else _DEFAULT
    except (ValueError, IndexError, TypeError) as error:
        given = f"retry={retry!r}" if retry is not None else f"EXPYRE_RETRY={' '.join(text)!r}"
        raise RequestError(f"{given} is not a number of tries and the seconds between them, such as 3 5") from error
    return max(1, tries), max(0.0, pause)
