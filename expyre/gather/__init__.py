"""One watcher for all jobs that are waited for: one look per system and round, results as they come.

Rounds follow each other fast at first and slower while nothing happens, so that short jobs are not waited for and
long ones do not keep the queue busy.
"""

from __future__ import annotations

from expyre.gather.sync import cancelled, sync
from expyre.gather.watch import Waitable, Watch, as_completed

__all__ = ["Waitable", "Watch", "as_completed", "cancelled", "sync"]
