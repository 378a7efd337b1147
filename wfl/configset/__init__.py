"""Where configurations come from (`ConfigSet`) and where they go to (`OutputSpec`)."""

from __future__ import annotations

from wfl.configset.inputs import ConfigSet
from wfl.configset.items import Item, iter_items
from wfl.configset.outputs import OutputSpec
from wfl.configset.record import CallRecord

__all__ = ["CallRecord", "ConfigSet", "Item", "OutputSpec", "iter_items"]
