"""What runs on the host to take a stream of files in and to send one back."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from expyre.transports.base import MARKER_PREFIX
from expyre.transports.pack import Copies
from expyre.transports.present import Present
from expyre.transports.shell import quoted_directory

__all__ = ["GZIP_MISSING", "fetch_script", "send_script"]

T = TypeVar("T")
# Exit status that tells that there is no program to take a compressed stream apart.
GZIP_MISSING = 97
# Names in one command: far from the limits on its length and on open files.
_BATCH = 200
_KINDS = r"\( -type f -o -type d -o -type l \)"

# The files by which a job tells that it has ended are listed first: where one is there, what is listed afterwards is
# complete, and one that appears later is not taken. The status is that of tar; that of the list is no matter.
_FETCH = """\
[ -d {directory} ] || exit 0
cd {directory} || exit 3
pack=cat; command -v gzip >/dev/null 2>&1 && pack='gzip -1'
look() {{
find "$@" {kinds} -name '{markers}' {excluded} -print0
rest "$@"
}}
rest() {{ find "$@" {kinds} ! -name '{markers}' {excluded} -print0; }}
{present}
export LC_ALL=C
exec 4>&1
status=$({{ {{
{looks}
}} | {{ tar -c -f - --null --no-recursion -T -; echo $? >&3; }} | $pack >&4; }} 3>&1)
exit "${{status:-3}}"
"""
# Not every find can compare times.
_PRESENT = """\
if find . -prune -newermt @0 >/dev/null 2>&1; then
rest() {{ find "$@" {kinds} ! -name '{markers}' {excluded} {present} -print0; }}
fi"""


def send_script(remote_dir: str, copies: Sequence[Copies], compressed: bool) -> str:
    """Return the script that unpacks a stream of files and makes the copies of those that were sent for several.

    Parameters
    ----------
    remote_dir
        Made if it is not there, for its owner only.
    copies
        What to copy after unpacking.
    compressed
        Whether the stream is.
    """
    directory = quoted_directory(remote_dir)
    lines = ["umask 077", f"mkdir -p {directory} && cd {directory} || exit 3"]
    if compressed:
        lines.append(f"command -v gzip >/dev/null 2>&1 || exit {GZIP_MISSING}")
    lines.append(f"tar -x{'z' if compressed else ''}of - || exit 4")
    return "\n".join([*lines, *_copy_lines(copies)]) + "\n"


def _copy_lines(copies: Sequence[Copies]) -> Iterator[str]:
    """Yield commands with many targets each: a process per file would take longer than sending the file again."""
    for parents in _batches(sorted({parent for copy in copies for parent in copy.parents})):
        yield f"mkdir -p {_words(parents)} || exit 5"
    for copy in copies:
        source = _word(copy.source)
        for names in _batches(copy.names):
            yield f"set -- {_words(names)}"
            yield f'rm -f "$@" && tee "$@" < {source} >/dev/null || exit 5'
            yield f'chmod {copy.mode:o} "$@" && touch -r {source} "$@" || exit 5'


def fetch_script(
    remote_dir: str, names: Sequence[str], exclude: Iterable[str], present: Iterable[Present] = ()
) -> str:
    """Return the script that writes a stream of those of the named files and directories that are there.

    Parameters
    ----------
    remote_dir
        Where they are.
    names
        Their names.
    exclude
        Names of files to leave out at any depth.
    present
        Files to leave out as long as they are like this.
    """
    excluded = " ".join(f"! -name {shlex.quote(_literal(name))}" for name in exclude)
    markers = f"{MARKER_PREFIX}*"
    same = " ".join(map(_unlike, present))
    return _FETCH.format(
        directory=quoted_directory(remote_dir),
        kinds=_KINDS,
        markers=markers,
        excluded=excluded,
        present=_PRESENT.format(kinds=_KINDS, markers=markers, excluded=excluded, present=same) if same else "",
        looks="\n".join(f"look {_words(batch)}" for batch in _batches(names)),
    )


def _unlike(file: Present) -> str:
    """Return what find has to test; times are whole seconds where files were sent to."""
    path = _literal(file.path)
    if file.name is None:
        where = f"-path {shlex.quote('./*/' + path)} ! -path {shlex.quote('./*/*/' + path)}"
    else:
        where = f"-path {shlex.quote(f'./{_literal(file.name)}/{path}')}"
    when = f"! -newermt @{file.mtime} -newermt @{file.mtime - 1}"
    return rf"! \( {where} -size {file.size}c {when} \)"


def _literal(name: str) -> str:
    """Return a pattern that matches the name alone."""
    return re.sub(r"([\\*?\[])", r"\\\1", name)


def _batches(things: Sequence[T]) -> Iterator[Sequence[T]]:
    return (things[start : start + _BATCH] for start in range(0, len(things), _BATCH))


def _word(name: str) -> str:
    return shlex.quote(f"./{name}")


def _words(names: Iterable[str]) -> str:
    return " ".join(map(_word, names))
