"""Automatic parallelisation of operations over many items."""

from __future__ import annotations

from .autoparainfo import AutoparaInfo
from .base import autoparallelize
from .decorator import autoparallelized
from .docstring import autoparallelize_docstring
from .remoteinfo import RemoteInfo

__all__ = ["AutoparaInfo", "RemoteInfo", "autoparallelize", "autoparallelize_docstring", "autoparallelized"]
