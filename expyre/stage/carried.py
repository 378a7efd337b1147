"""cloudpickle travels with the jobs that need it, in the version that made their pickles."""

from __future__ import annotations

import io
import os
import zipfile
from functools import lru_cache
from pathlib import Path

from expyre.node.runner import CLOUDPICKLE
from expyre.stage import links, names
from expyre.stage.sharing import Dumped

__all__ = ["archive", "place_cloudpickle"]

_EPOCH = (1980, 1, 1, 0, 0, 0)


def place_cloudpickle(root: Path, directory: Path, dumped: Dumped) -> None:
    """Put cloudpickle into a job's directory if reading the call needs it; a host has to bring nothing but Python."""
    pickles = (dumped.payload, *dumped.files.values())
    if any(b"cloudpickle" in data for data in pickles):
        version, content = archive()
        links.link(os.path.join(root, f"{names.SHARED}cloudpickle_{version}.zip"), directory / CLOUDPICKLE, content)


@lru_cache(maxsize=1)
def archive() -> tuple[str, bytes]:
    """Return the version of cloudpickle, and its sources as a file that Python imports from."""
    import cloudpickle

    package = Path(cloudpickle.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.glob("*.py")):
            entry = zipfile.ZipInfo(f"{package.name}/{path.name}", _EPOCH)
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return str(cloudpickle.__version__), buffer.getvalue()
