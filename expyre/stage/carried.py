"""What travels with the jobs that need it: cloudpickle in the version that made their pickles, programs of ours."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from expyre import node
from expyre.node.runner import CLOUDPICKLE
from expyre.stage import links, names
from expyre.stage.sharing import Dumped

__all__ = ["archive", "node_sources", "place_cloudpickle", "place_node"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODULES = ("runner", "family", "machine")
_MAIN = b"from expyre_node.ranks.leading import main\nmain()\n"


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
    files = {f"{package.name}/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))}
    return str(cloudpickle.__version__), _zipped(files)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """Return an archive that depends on nothing but what is in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def node_sources(*packages: str) -> dict[str, bytes]:
    """Return the files of the package ``expyre_node``, with some of the packages of `expyre.node`."""
    root = Path(node.__file__).parent
    paths = [path for package in packages for path in sorted((root / package).glob("*.py"))]
    paths += [root / f"{module}.py" for module in _MODULES]
    files = {f"expyre_node/{path.relative_to(root)}": path.read_bytes() for path in paths}
    return {**files, "expyre_node/__init__.py": b""}


def place_node(root: Path, directory: Path) -> None:
    """Put the programs that start MPI ranks, and are started as such, into a job's directory."""
    name, content = _node_archive()
    links.link(os.path.join(root, name), directory / names.NODE, content)


@lru_cache(maxsize=1)
def _node_archive() -> tuple[str, bytes]:
    """Return a name for an archive that Python runs, and its content."""
    content = _zipped({**node_sources("ranks", "serving", "starters"), "__main__.py": _MAIN})
    return f"{names.SHARED}node_{hashlib.sha256(content).hexdigest()[:12]}.zip", content
