"""Results of calls are kept, and found again by equal calls, also of later scripts; any backend can be wrapped."""

from __future__ import annotations

from expyre.executor.cache.backend import make_cache

__all__ = ["make_cache"]
