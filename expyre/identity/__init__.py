"""What makes two calls the same: keys made of values, code and files, equal in every process that sees equal ones.

Equal values give equal keys whatever objects they are made of, in whatever order sets and dicts were filled, and
whichever Python from 3.10 on computes them. Values that differ in type differ: ``1``, ``True``, ``1.0`` and ``"1"``
have four keys. The exception is numpy's scalars with an exact counterpart in Python: ``numpy.float64``, ``int64``,
``complex128``, ``bool_``, ``str_`` and ``bytes_`` are the same as ``float``, ``int``, ``complex``, ``bool``, ``str``
and ``bytes``, since it is chance which of the two a calculation hands over. Every ``nan`` is the same ``nan``; ``-0.0``
is not ``0.0``. Arrays are compared by kind and size of numbers, shape and elements, not by memory order or byte order.
"""

from __future__ import annotations

from expyre.identity import reduced, science, standard  # noqa: F401  (they register their encoders)
from expyre.identity.call import check_policy, digest, identify
from expyre.identity.memory import remembering
from expyre.identity.model import Identity, Part, differences
from expyre.identity.registry import register

__all__ = ["Identity", "Part", "check_policy", "differences", "digest", "identify", "register", "remembering"]
