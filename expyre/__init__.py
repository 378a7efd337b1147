"""Remote execution of Python functions: cached, hash-keyed jobs on queues, here or across SSH."""

from __future__ import annotations
