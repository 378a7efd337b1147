"""Run the code blocks of a Markdown page in order, in the current directory: `python run_page.py PAGE`.

Python blocks share one namespace and bash blocks one directory, as a reader would type them. JSON blocks are checked:
what has "systems" as a configuration file, what has routes as WFL_EXPYRE_INFO, everything as JSON. Other languages are
output that is shown. A comment before a block says otherwise:

    <!-- file: NAME -->        written to that file instead
    <!-- not run: WHY -->      left out
    <!-- needs: WHAT -->       run only if WHAT is among the words of PAGE_HAS; counted otherwise

Blocks of `xpr` and `ssh` are run as they stand: what the host of a page is called is up to PATH and the configuration.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = re.compile(
    r"(?:<!--\s*(?P<what>file|not run|needs):\s*(?P<word>[^>]*?)\s*-->\s*\n+)?"
    r"^```(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^```",
    re.M | re.S,
)
LEFT_OUT = "blocks were left out, they need"


@dataclass(frozen=True)
class Block:
    """A block of code, and what the comment before it says."""

    what: str
    word: str
    language: str
    body: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a page."""
    for match in BLOCK.finditer(text):
        yield Block(match["what"] or "", match["word"] or "", match["language"], match["body"])


def needs(text: str) -> set[str]:
    """Return what blocks of a page need that is not everywhere."""
    return {block.word for block in blocks(text) if block.what == "needs"}


def run(page: str) -> int:
    """Run the blocks of a page; return how many were run."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    there = os.environ.get("PAGE_HAS", "").split()
    ran, missed = 0, 0
    for number, block in enumerate(blocks(Path(page).read_text(encoding="utf-8")), 1):
        if block.what == "not run":
            continue
        if block.what == "needs" and block.word not in there:
            missed += 1
            continue
        ran += carry_out(block, f"{page} (block {number})", namespace)
    if missed:
        print(f"{missed} {LEFT_OUT} {', '.join(sorted(needs(Path(page).read_text(encoding='utf-8')) - set(there)))}")
    return ran


def carry_out(block: Block, place: str, namespace: dict[str, Any]) -> bool:
    """Run, write or check a block; tell whether there was something to do."""
    if block.language == "json":
        check_json(block.body, place)
    if block.what == "file":
        Path(block.word).parent.mkdir(parents=True, exist_ok=True)
        Path(block.word).write_text(block.body, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.body, place, "exec"), namespace)
    elif block.language == "bash":
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.body], check=True)
    else:
        return block.language == "json"
    return True


def check_json(text: str, place: str) -> None:
    """Raise an error unless a block of JSON is what it looks like."""
    try:
        data = json.loads(text)
        if "systems" in data:
            check_configuration(data)
        elif any(isinstance(value, dict) and "sys_name" in value for value in data.values()):
            check_routes(data)
    except Exception as error:
        raise ValueError(f"{place}: {error}") from error


def check_configuration(data: dict[str, Any]) -> None:
    """Raise an error unless settings are those of a configuration file, and systems can be made of them."""
    from expyre.config import Project

    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(data), encoding="utf-8")
        assert Project.discover(directory).systems is not None


def check_routes(data: dict[str, Any]) -> None:
    """Raise an error unless every value has the keywords of RemoteInfo that make sense."""
    from expyre.retry import Retry
    from wfl.autoparallelize.remoteinfo import RemoteInfo

    for value in data.values():
        info = RemoteInfo(**value)
        info.get_resources()
        Retry.from_spec(info.retry)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as for a script of the reader's; the folder of tests has folders named as the packages
    print(f"{run(sys.argv[1])} blocks of {sys.argv[1]} ran")
