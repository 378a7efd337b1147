"""What Slurm is asked, and what its answers mean. Pure: scripts and texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar

from expyre.errors import SchedulerError
from expyre.schedulers.base import Listing
from expyre.schedulers.slurm_states import end_of, listing_of
from expyre.schedulers.units import Limits
from expyre.states import END_CANCELLED, END_DIED, END_OUT_OF_MEMORY, End
from expyre.units import mem_to_kB

T = TypeVar("T")
_MARK: Final = "=== expyre"
# Variables that would narrow what is listed; a command that hangs is given up.
_AROUND: Final = """
unset SQUEUE_ACCOUNT SQUEUE_ARRAY SQUEUE_FEDERATION SQUEUE_LICENSES SQUEUE_LOCAL SQUEUE_NAMES SQUEUE_PARTITION
unset SQUEUE_PRIORITY SQUEUE_QOS SQUEUE_SIBLING SQUEUE_STATES SQUEUE_USERS SACCT_FORMAT
user=$(id -un) || user=$USER
limit=
! command -v timeout >/dev/null 2>&1 || limit="timeout -k 5 {seconds}"
ask() {{
  printf '\\n%s\\n' "{mark} $1"; shift
  $limit "$@" 2>&1; code=$?
  printf '\\n%s\\n' "{mark} ended $code"
}}
"""
_SECONDS: Final = 60


def _script(*lines: str) -> str:
    return "\n".join([_AROUND.format(seconds=_SECONDS, mark=_MARK), *lines])


def _sections(text: str) -> dict[str, tuple[int, list[str]]]:
    """Return exit code and lines by name of question."""
    pattern = re.compile(rf"^{_MARK} (\w+)\n(.*?)^{_MARK} ended (\d+)$", re.MULTILINE | re.DOTALL)
    found = pattern.findall(text)
    return {name: (int(code), [line for line in body.splitlines() if line.strip()]) for name, body, code in found}


def _asked(text: str, name: str) -> list[str]:
    """Return the lines of an answer.

    Raises
    ------
    SchedulerError
        There is none, or the command has failed.
    """
    sections = _sections(text)
    if name not in sections:
        raise SchedulerError(f"the answer of {name} is not complete: {text.strip()[-500:]!r}")
    code, lines = sections[name]
    if code:
        why = f"gave no answer in {_SECONDS} s" if code in (124, 137) else f"failed ({code})"
        raise SchedulerError(f"{name} {why}: {' '.join(lines)[-500:]}")
    return lines


# -- listing -----------------------------------------------------------------------------------------------------

# A job, a member of an array, several that still wait together; parts of a heterogeneous job.
_JOB_LINE: Final = re.compile(r"\s*(\d+(?:_(?:\d+|\[[^|]*\]))?)(\+\d+)?\|([A-Z_]+)\|(.*)")
_BESIDE: Final = re.compile(r"CLUSTER:|(squeue|slurm\w*|sacct|scontrol|srun):|slurm_\w+|\s*$", re.IGNORECASE)


def listing_script() -> str:
    """Return the script that lists the user's jobs, also those that have ended not long ago."""
    return _script('ask squeue squeue --noheader --array --states=all --user="$user" --format="%i|%T|%r"')


def read_listing(text: str, remote_ids: Sequence[str]) -> dict[str, Listing]:
    """Return what the output of `listing_script` says of jobs.

    Raises
    ------
    SchedulerError
        The command has failed, or its answer is damaged.
    """
    known: dict[str, Listing] = {}
    for line in _asked(text, "squeue"):
        match = _JOB_LINE.fullmatch(line)
        if match:
            for id in _expanded(match[1]):
                # a job of a federation is listed by every cluster, as revoked by all but one
                if id not in known or known[id].raw.startswith("REVOKED"):
                    known[id] = listing_of(match[3], match[4].strip())
        elif not _BESIDE.match(line):
            raise SchedulerError(f"the answer of squeue is damaged at {line!r}")
    return _of_members(known, known, remote_ids)


def _of_members(known: Mapping[str, T], of_queue: Mapping[str, T], remote_ids: Sequence[str]) -> dict[str, T]:
    """Return what is known of jobs; in the queue's words members cancelled while they waited share the array's line."""
    answers = {id: known.get(id, of_queue.get(id.partition("_")[0])) for id in remote_ids}
    return {id: answer for id, answer in answers.items() if answer is not None}


def _expanded(id: str) -> Iterator[str]:
    """Yield the ids of members that are listed together: ``7_[1,3-5%2]``."""
    array, bracket, rest = id.partition("_[")
    if not bracket:
        yield id
        return
    for part in rest.rstrip("]").split("%")[0].split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match:
            last = int(match[2] or match[1])
            yield from (f"{array}_{index}" for index in range(int(match[1]), last + 1, int(match[3] or 1)))


# -- ends --------------------------------------------------------------------------------------------------------

_ENDED: Final = "JobID,State,ExitCode"
_ACCOUNTED: Final = f"{_ENDED},AllocTRES,MaxRSS"


def ends_script(remote_ids: Sequence[str]) -> str:
    """Return the script that asks how jobs ended: accounting, then the controller, which forgets soon."""
    jobs = ",".join(dict.fromkeys(id.partition("_")[0] for id in remote_ids if re.fullmatch(r"\d+(_\d+)?", id)))
    return _script(
        'ask squeue squeue --noheader --array --states=all --user="$user" '
        "-O 'JobArrayID:64,State:32,exit_code:16,Reason:64'",
        f"sacct=$(ask sacct sacct --noheader --parsable2 --jobs={jobs} --format={_ACCOUNTED})",
        'echo "$sacct"',
        f'case $sacct in *"{_MARK} ended 0"*) ;;',
        f"*) ask sacctc sacct --completion --noheader --parsable2 --jobs={jobs} --format={_ENDED};; esac",
    )


def read_ends(text: str, remote_ids: Sequence[str]) -> dict[str, End]:
    """Return how jobs ended, as far as the output of `ends_script` says it.

    Raises
    ------
    SchedulerError
        Nothing could be asked.
    """
    sections = _sections(text)
    if not any(code == 0 for code, _ in sections.values()):
        said = " ".join(line for _, lines in sections.values() for line in lines)
        raise SchedulerError(f"neither squeue nor sacct answers: {(said or text.strip())[-500:]}")
    lines = {name: lines if code == 0 else [] for name, (code, lines) in sections.items()}
    of_queue = dict(_controlled(lines.get("squeue", [])))
    ends = _accounted(lines.get("sacctc", [])) | of_queue | _accounted(lines.get("sacct", []))
    return _of_members(ends, of_queue, remote_ids)


def _controlled(lines: Sequence[str]) -> Iterator[tuple[str, End]]:
    for line in lines:
        words = line.split(maxsplit=3)
        if len(words) < 3 or not re.fullmatch(r"\d+(_\d+)?", words[0]):
            continue
        end = end_of(words[1], *_exit_code(words[2]), words[3].strip() if len(words) > 3 else "")
        if end is not None:
            yield words[0], end


def _exit_code(text: str) -> tuple[int | None, int]:
    """Return exit code and signal, written as ``code:signal`` or as one number as `wait` gives it."""
    code, colon, signal = text.partition(":")
    if not code.isdigit() or (colon and not signal.isdigit()):
        return None, 0
    return (int(code), int(signal)) if colon else (int(code) >> 8 & 0xFF, int(code) & 0x7F)


def _accounted(lines: Sequence[str]) -> dict[str, End]:
    """Return the ends of jobs; a step that ran out of memory tells more than the job that failed for it."""
    ends: dict[str, End] = {}
    granted: dict[str, int] = {}
    for line in lines:
        id, state, code, granted_text, used_text = [*line.split("|"), "", "", "", ""][:5]
        match = re.fullmatch(r"(\d+(?:_\d+|_\[[^]]*\])?)(\.\S+)?", id)
        end = end_of(state, *_exit_code(code))
        if not match or end is None:
            continue
        job = match[1]
        used = _memory(used_text)
        if not match[2]:
            ends.update(dict.fromkeys(_expanded(job), end))
            granted[job] = _granted_memory(granted_text)
        elif state == "OUT_OF_MEMORY" and job in ends:
            ends[job] = end
        elif granted.get(job) and used > granted[job] and ends[job].reason in (END_DIED, END_CANCELLED):
            # a job that Slurm has killed for its memory is told as failed or cancelled where nobody but Slurm watches
            detail = f"{ends[job].detail}, {used} kB were used of {granted[job]} kB"
            ends[job] = End(END_OUT_OF_MEMORY, detail, ends[job].exit_code)
    return ends


def _granted_memory(resources: str) -> int:
    """Return the memory per node in kB out of ``cpu=2,mem=4G,node=2``; 0 if it is not known."""
    values = dict(part.partition("=")[::2] for part in resources.split(","))
    nodes = values.get("node", "")
    return _memory(values.get("mem", "")) // max(1, int(nodes) if nodes.isdigit() else 1)


def _memory(text: str) -> int:
    """Return memory in kB; 0 if it is not known."""
    try:
        return mem_to_kB(text) or 0
    except ValueError:
        return 0


# -- units by token ----------------------------------------------------------------------------------------------


def names_script() -> str:
    """Return the script that tells comments, scripts and directories of the user's jobs."""
    return _script(
        'ask squeue squeue --noheader --states=all --user="$user" --format="%F|%k|%o|%Z"',
        'ask sacct sacct --noheader --parsable2 --allocations --user="$user" --starttime=now-14days '
        "--format=JobID,Comment,WorkDir,SubmitLine",
        'ask sacctold sacct --noheader --parsable2 --allocations --user="$user" --starttime=now-14days '
        "--format=JobID,Comment,WorkDir",
    )


def read_names(text: str, tokens: Sequence[str]) -> dict[str, str]:
    """Return ids by token from the output of `names_script`.

    Raises
    ------
    SchedulerError
        The queue could not be asked; accounting need not be there.
    """
    lines = _asked(text, "squeue")
    for name in ("sacct", "sacctold"):
        code, more = _sections(text).get(name, (1, []))
        lines += more if code == 0 else []
    found: dict[str, str] = {}
    for line in lines:
        match = re.match(r"\s*(\d+)", line)
        for token in re.findall(r"[0-9a-f]{16}", line):
            if match and token in tokens:
                found.setdefault(token, match[1])
    return found


# -- limits ------------------------------------------------------------------------------------------------------

_ARRAY_SIZE: Final = 1000
"""Members of an array where the queue does not tell; Slurm's own default is 1001."""


def limits_script() -> str:
    """Return the script that asks for limits."""
    return _script(
        "ask config scontrol show config",
        'ask assoc sacctmgr --noheader --parsable2 show associations where user="$user" format=MaxSubmitJobs',
    )


def read_limits(text: str) -> Limits:
    """Return the limits that the output of `limits_script` tells; the smallest of all the user's accounts."""
    sections = _sections(text)
    config = dict(re.findall(r"^(\w+)\s*=\s*(\d+)", "\n".join(sections.get("config", (0, []))[1]), re.MULTILINE))
    code, lines = sections.get("assoc", (1, []))
    submitted = [int(line) for line in lines if code == 0 and line.strip().isdigit()]
    if "MaxJobCount" in config:
        submitted.append(max(1, int(config["MaxJobCount"]) - 1))
    size = max(1, int(config.get("MaxArraySize", _ARRAY_SIZE)))
    return Limits(size, min(submitted) if submitted else None)
