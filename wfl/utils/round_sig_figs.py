"""Numbers with a given count of significant figures."""

from __future__ import annotations

__all__ = ["round_sig_figs"]


def round_sig_figs(value: float, n: int) -> str:
    """Text of `value` rounded to `n` significant figures, without exponent for numbers of usual size.

    >>> round_sig_figs(19.95, 2), round_sig_figs(12345.6, 2)
    ('20', '12000')
    """
    return f"{float(f'{value:.{n}g}'):g}"
