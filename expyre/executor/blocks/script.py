"""The shell script of one round: what it places in a spool directory, and what it tells of it.

However often a round is tried again because its connection broke, and even if an earlier try still goes on meanwhile,
its calls appear once: as one directory that gets its name at one stroke, and in which something always remains.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from expyre.node.blocks import spool as names
from expyre.node.blocks.spool import Label
from expyre.transports import quoted_directory

__all__ = ["Order", "Report", "opening_script", "pack", "read_report", "round_script"]

_MOST_BYTES = 128 * 1024**2  # of results in one round, or one result
_MOST_RESULTS = 5000
_DAYS = 7  # after which what a killed script has left is removed by the next one
_BATCH = 500  # names in one command


@dataclass
class Order:
    """What a round is to do.

    Attributes
    ----------
    number
        Of the round, and of the batch of its calls.
    calls, functions
        Signed messages by ticket and by token.
    seen
        Tickets whose results have been read.
    withdrawn
        Batches and tickets of calls that nobody is to begin any more.
    returned, forgotten
        Names of claims (``LABEL@WORKER``) of workers that are no more: not begun, so to be put back in the line; and
        begun.
    spent
        Batches that are empty and will stay so.
    """

    number: int
    calls: dict[int, bytes] = field(default_factory=dict)
    functions: dict[int, bytes] = field(default_factory=dict)
    seen: list[int | str] = field(default_factory=list)
    withdrawn: list[tuple[int, int]] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        lists = (self.calls, self.functions, self.seen, self.withdrawn, self.returned, self.forgotten, self.spent)
        return not any(lists)


@dataclass
class Report:
    """What a round has found.

    Attributes
    ----------
    claimed, begun
        Names of claims.
    results
        Signed files by name.
    notes
        Workers' notes by worker.
    """

    claimed: list[str]
    begun: list[str]
    results: dict[str, bytes]
    notes: dict[str, bytes]


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return a tar stream of files, readable by their owner only."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def opening_script(path: str) -> str:
    """Return the script that makes a spool directory and unpacks into it what it reads.

    What killed scripts have left beside it long ago is removed.
    """
    spool = quoted_directory(path)
    old = f'[ -n "$(find "$d/{names.ALIVE}" -mtime +{_DAYS} 2>/dev/null)" ] && rm -rf "$d"'
    return f"""\
umask 077
mkdir -p {spool} && cd {spool} || exit 3
mkdir -p in {" ".join(names.DIRECTORIES)} {names.CALLS}/{names.BACK} && tar -xf - || exit 4
for d in ../*/; do {old}; done
pwd
"""


def round_script(path: str, order: Order, serial: int) -> tuple[str, bytes]:
    """Return the script of a round, and what it reads.

    Parameters
    ----------
    path
        The spool directory.
    order
        What is to be done.
    serial
        Another number at each try.
    """
    lines = ["umask 077", f"cd {quoted_directory(path)} || exit 3", f"echo {serial} > {names.ALIVE}"]
    stdin = b""
    if order.calls or order.functions:
        lines += _placing(order.number, serial)
        stdin = pack(_files(order))
    lines += [*_tidying(order), *_REPORT.splitlines()]
    return "\n".join(lines) + "\n", stdin


def _files(order: Order) -> dict[str, bytes]:
    files = {f"{names.FUNCTIONS}/{token}": data for token, data in order.functions.items()}
    if order.calls:
        files[f"{names.CALLS}/{names.BATCH}"] = b""
        files.update({f"{names.CALLS}/{Label(ticket)}": data for ticket, data in order.calls.items()})
    return files


def _placing(number: int, serial: int) -> list[str]:
    place, batch = f"in/{number}.{serial}", f"{names.CALLS}/{number}"
    return [
        f"mkdir -p {place} && tar -xf - -C {place} || exit 4",
        f"[ ! -d {place}/functions ] || mv -f {place}/functions/* functions/ || exit 5",
        f"[ ! -d {place}/calls ] || mv -T {place}/calls {batch} 2>/dev/null || [ -e {batch}/{names.BATCH} ] || exit 5",
        f"rm -rf {place}",
    ]


def _tidying(order: Order) -> list[str]:
    results = [f"{names.RESULTS}/{each if isinstance(each, str) else names.result_name(each)}" for each in order.seen]
    gone = [f"{names.CALLS}/{batch}/{Label(ticket)}" for batch, ticket in order.withdrawn]
    gone += [f"{names.CALLS}/{names.BACK}/{Label(ticket)}" for _, ticket in order.withdrawn]
    forgotten = [f"{names.BEGUN}/{name}" for name in order.forgotten]
    lines = [f"rm -f {words}" for words in _words([*results, *gone, *forgotten])]
    for _, ticket in order.withdrawn:  # given back after a while, it has a longer name
        lines.append(f"rm -f {names.CALLS}/{names.BACK}/{Label(ticket)}-*")
    for name in order.returned:
        back = f"{names.CALLS}/{names.BACK}/{name.partition('@')[0]}"
        lines.append(f"mv {names.CLAIMED}/{shlex.quote(name)} {back} 2>/dev/null")
    spent = [f"{names.CALLS}/{batch}" for batch in order.spent]
    return [*lines, *(f"rm -f {batch}/{names.BATCH}; rmdir {batch}" for batch in spent)]


def _words(paths: Sequence[str]) -> Iterable[str]:
    return (" ".join(map(shlex.quote, paths[i : i + _BATCH])) for i in range(0, len(paths), _BATCH))


# Claims are listed before results: one that moves on meanwhile is seen twice rather than not at all.
_REPORT = f"""\
echo {names.CLAIMED}/; ls {names.CLAIMED}; echo {names.BEGUN}/; ls {names.BEGUN}
most='$5 ~ /^[0-9]+$/ {{ s += $5; n += 1 }}
NF > 8 && (n == 1 || (s < {_MOST_BYTES} && n < {_MOST_RESULTS})) {{ print "{names.RESULTS}/" $9 }}'
set -- $(cd {names.RESULTS} && ls -ln | awk "$most")
printf '\\0'
tar -cf - "$@" {names.WORKERS}; [ $? -le 1 ]"""


def read_report(data: bytes) -> Report:
    """Return what the output of a round says.

    Raises
    ------
    ValueError
        It is damaged.
    """
    text, zero, archive = data.partition(b"\0")
    if not zero:
        raise ValueError("the list of claims has no end")
    claims: dict[str, list[str]] = {names.CLAIMED: [], names.BEGUN: []}
    state = names.CLAIMED
    for line in text.decode("utf-8", "replace").splitlines():
        if line.endswith("/"):
            state = line[:-1]
        elif Label.read(line) is not None and "@" in line:
            claims.setdefault(state, []).append(line)
    results, notes = _unpack(archive)
    return Report(claims[names.CLAIMED], claims[names.BEGUN], results, notes)


def _unpack(data: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {names.RESULTS: {}, names.WORKERS: {}}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as archive:
            for entry in archive:
                directory, _, name = entry.name.partition("/")
                if entry.isfile() and directory in found and name and not name.startswith("."):
                    file = archive.extractfile(entry)
                    assert file is not None
                    found[directory][name] = file.read()
    except tarfile.TarError as error:
        raise ValueError(f"the stream of results is damaged: {error}") from error
    return found[names.RESULTS], found[names.WORKERS]
