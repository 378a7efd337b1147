"""Reading and writing series of configurations in files: extended XYZ fast, everything else through ASE."""

from __future__ import annotations

from wfl.configset.io.formats import open_reader, open_writer

__all__ = ["open_reader", "open_writer"]
