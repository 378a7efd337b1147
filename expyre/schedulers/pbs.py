"""OpenPBS, PBS Professional and Torque."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

from expyre.errors import SchedulerError
from expyre.schedulers import pbs_read
from expyre.schedulers.asking import Reply, asking, replies
from expyre.schedulers.base import Listing, Submission, as_list
from expyre.schedulers.batch import BatchScheduler, head_and_body, opening_outputs
from expyre.schedulers.pbs_ends import STATES, end_of
from expyre.schedulers.pbs_read import Key, key_of
from expyre.schedulers.text import short_name
from expyre.schedulers.units import Limits, Unit
from expyre.states import HELD, OTHER, QUEUED, End

__all__ = ["PBS"]

_Answer = TypeVar("_Answer")

_IDS_PER_COMMAND: Final = 500
# Exit codes of `qstat`: all is well, the job has finished, the job is not known.
_GONE: Final = (0, 35, 153)
# What can stand in a path in a header line without meaning anything there.
_PLAIN: Final = re.compile(r"[\w.+=-]+", re.ASCII)
_PLAIN_PLACE: Final = re.compile(r"[\w.+=~/-]+", re.ASCII)
_NAME: Final = re.compile(r"(#PBS\s+-N\s*)(\S+)")
# A request for chunks that are all alike: their number, and what each has.
_SELECT: Final = re.compile(r"^#PBS\s+-l\s*select=(\d+)((?::[\w.=-]+)*)(?=$|\s|,\w+=)")
# Variables that do not tell of a job but of where the queue is.
_OF_THE_QUEUE: Final = ("PBS_SERVER", "PBS_DEFAULT", "PBS_CONF_FILE", "PBS_EXEC", "PBS_HOME")
_OUTPUTS: Final = re.compile(r"#PBS\s+-[oe]\b")
_OF_MEMBERS: Final = re.compile(r"#PBS\s+-[oer]\b")

# The dialects differ in `-x`: finished jobs too, or XML.
_HISTORY: Final = 'case "$(qsub --version 2>&1)" in *pbs_version*|*PBSPro*) history=-x;; *) history=;; esac'
_NO_HISTORY: Final = "history="
# Paths of scripts hold the tokens, and are among the attributes; these are folded, and parted by empty lines.
_LOOK_FOR: Final = r"""
look_for() {
  ids=$(qselect $history -u "$(id -un)") || return 1
  [ -z "$ids" ] || printf '%s\n' "$ids" | xargs -n 500 qstat $history -f | awk -v RS= -v tokens="$1" '
    { gsub(/\n\t/, ""); split($0, lines, "\n"); if ($0 ~ /^Job Id:/) id = lines[1] }
    match($0, tokens) { print id, substr($0, RSTART, RLENGTH) }'
}
"""
_FOUND: Final = re.compile(r"^Job Id:\s*(\S+)\s+([0-9a-f]{16})\s*$", re.MULTILINE)


class _AskAgain(SchedulerError):
    """Raised when the queue has to be asked in another way, which it will be the next time."""


class PBS(BatchScheduler):
    """OpenPBS, PBS Professional and Torque, through ``qsub``, ``qstat``, ``qselect``, ``qdel``, ``qhold``, ``qrls``.

    Options: ``array``, ``max_running``, ``env``, as for every queue system; ``dialect`` (``"openpbs"`` or
    ``"torque"``; found out by default) and ``name_length`` (most characters in the name of a job, default 15, which
    all versions take).
    """

    name: ClassVar[str] = "pbs"
    option_kinds: ClassVar[Mapping[str, str]] = {
        **BatchScheduler.option_kinds,
        "dialect": "openpbs|torque",
        "name_length": "count",
    }
    default_header: ClassVar[tuple[str, ...]] = (
        "#PBS -N N_{id}",
        "#PBS -l walltime={max_time}",
        "#PBS -o job.{id}.stdout",
        "#PBS -e job.{id}.stderr",
        "#PBS -S /bin/bash",
        "#PBS -r n",
    )
    hold_command: ClassVar[list[str]] = ["qhold"]
    release_command: ClassVar[list[str]] = ["qrls"]
    cancel_command: ClassVar[list[str]] = ["qdel"]
    env_prefix: ClassVar[str] = "PBS"
    probe: ClassVar[str] = "qsub"
    own_id: ClassVar[str] = "$PBS_JOBID"
    index_variable: ClassVar[str] = "PBS_ARRAY_INDEX:-$PBS_ARRAYID"
    first_index: ClassVar[int] = 1
    full_pattern: ClassVar[str] = r"would exceed .*limit|maximum number of jobs already in"
    refused_pattern: ClassVar[str] = r"(?m)^(\S*/)?qsub: "
    gone_pattern: ClassVar[str] = r"unknown job ?id|job has finished|request invalid for state of job"

    # -- scripts -------------------------------------------------------------------------------------------------

    def job_name(self, id: str) -> str:
        """Return the id with what would mean something in a header line replaced."""
        return re.sub(r"[^\w.+=-]", "_", id, flags=re.ASCII)

    def header(self, sub: Submission) -> list[str]:
        """Return the header lines, with names that all versions take, and a ``select`` that asks for everything."""
        lines = [_NAME.sub(lambda found: found[1] + self._short(found[2]), line) for line in super().header(sub)]
        if sub.no_default_header:
            return lines
        total = re.search(r"#PBS\s+-l\s[^#]*(?<!:)\b[pv]*mem=", "\n".join(lines)) is not None
        return [_SELECT.sub(lambda found: found[0] + _rest_of_chunk(found, sub.nodes, total), line) for line in lines]

    def _short(self, name: str) -> str:
        length = int(self.options.get("name_length", 15))
        plain = short_name(name, len(name))
        plain = plain if plain[:1].isalpha() else f"N{plain}"
        # the beginning is what people look for, the end tells one job from another
        return plain if len(plain) <= length else plain[:2] + plain[2 - length :]

    def script(self, sub: Submission) -> str:
        """Return the text of the job script; it opens its output files itself if PBS could not."""
        text = super().script(sub)
        if _PLAIN.fullmatch(sub.id) and _PLAIN_PLACE.fullmatch(sub.directory):
            return text
        head, body = head_and_body(text)
        head = [line for line in head if not _OUTPUTS.match(line)]
        if not _PLAIN_PLACE.fullmatch(sub.directory):
            head.append("#PBS -j oe -o /dev/null")
        return "\n".join([*head, opening_outputs(sub), *body])

    def array_script(self, unit: Unit, directory: str) -> str:
        """Return the script of an array; PBS leaves what it has to say itself in the unit's directory."""
        head, body = head_and_body(super().array_script(unit, directory))
        return "\n".join([*(line for line in head if not _OF_MEMBERS.match(line)), *body])

    def array_header(self, unit: Unit) -> list[str]:
        """Return no header lines: the dialects' options differ, see `submit_command`."""
        return []

    def array_prologue(self) -> list[str]:
        """Return the line that sends the outputs to links to the member's files; PBS would deliver them at the end."""
        return ['exec >"./$i.out" 2>"./$i.err"']

    def can_array(self, sub: Submission) -> bool:
        """Tell whether the header leaves the array to this class."""
        pattern = r"#PBS\s(.*\s)?-([JtId]|W\s*\S*(block|depend))"
        return not any(re.match(pattern, line) for line in sub.header)

    @staticmethod
    def unset_scheduler_env_vars(prefix: str) -> list[str]:
        """Return the shell lines that make the submitting shell forget the job it may be in, but not the queue."""
        lines = BatchScheduler.unset_scheduler_env_vars(prefix)
        return [line for line in lines if line.removeprefix("unset ") not in _OF_THE_QUEUE]

    @classmethod
    def node_dict_env_var_commands(cls, node_dict: Mapping[str, Any]) -> list[str]:
        """Return the shell lines that tell a job how many nodes and cores it has.

        A node file has a line for every MPI rank, ``NCPUS`` is the number of threads of each chunk: cores per node
        are the larger of both, unless Torque tells.
        """
        first, *others = super().node_dict_env_var_commands(node_dict)
        asked = first.partition("=")[2]
        ranks = "$(awk 'NR == 1 { n = $0 } $0 == n { c++ } END { print c + 0 }' \"${PBS_NODEFILE:-/dev/null}\")"
        return [
            f"EXPYRE_NUM_CORES_PER_NODE={ranks}",
            '[ "${NCPUS:-0}" -le "${EXPYRE_NUM_CORES_PER_NODE:-0}" ] || EXPYRE_NUM_CORES_PER_NODE=$NCPUS',
            '[ "${EXPYRE_NUM_CORES_PER_NODE:-0}" -gt 0 ] || EXPYRE_NUM_CORES_PER_NODE=' + asked,
            "export EXPYRE_NUM_CORES_PER_NODE=${PBS_NUM_PPN:-$EXPYRE_NUM_CORES_PER_NODE}",
            *others,
        ]

    def resource_header(self, sub: Submission, given: Sequence[str]) -> list[str]:
        """Return header lines for GPUs and memory.

        Beside a ``select`` there can be no other; to a line with ``nodes`` only memory can be added.
        """
        asked = ",".join(re.sub(r"^#PBS\s+-l\s*", "", line) for line in given if re.match(r"#PBS\s+-l", line))
        gpus, memory = sub.nodes.get("num_gpus"), sub.nodes.get("max_mem")
        if re.search(r"\bselect=", asked):
            return []
        has_memory = re.search(r"\b[pv]*mem=", asked) is not None
        amount = f"mem={memory}kb" if memory and not has_memory else ""
        if gpus and not re.search(r"\b(n?gpus|naccelerators|nodes|ncpus|procs)=", asked):
            return [self._gpu_line(sub.nodes, int(gpus), 0 if has_memory else int(memory or 0))]
        return [f"#PBS -l {amount}"] if amount else []

    def _gpu_line(self, nodes: Mapping[str, Any], gpus: int, memory: int) -> str:
        count, cores = int(nodes.get("num_nodes") or 1), int(nodes.get("num_cores") or 0)
        each = int(nodes.get("num_cores_per_node") or -(-cores // count) or 1)
        if self.dialect == "torque":
            return f"#PBS -l nodes={count}:ppn={each}:gpus={gpus}" + (f",mem={memory}kb" if memory else "")
        amount = f":mem={-(-memory // count)}kb" if memory else ""
        return f"#PBS -l select={count}:ncpus={each}:mpiprocs={each}:ngpus={gpus}{amount}"

    # -- submission ----------------------------------------------------------------------------------------------

    @property
    def dialect(self) -> str:
        """``openpbs`` or ``torque``, found out once."""
        if self._dialect is None:
            given = self.options.get("dialect")
            self._dialect = "torque" if given == "torque" else "openpbs"
            if given is None:
                self.limits()
        return self._dialect

    _dialect: str | None = None

    def submit_command(self, unit: Unit) -> str:
        """Return the command that submits a unit; the unit's token is in the path of its script.

        OpenPBS takes no arrays that may not run again.
        """
        if not unit.is_array:
            return f'qsub "$unit"/{unit.first_index}.dir/{self.script_name}'
        option = "-r n -t" if self.dialect == "torque" else "-r y -J"
        cap = f"%{unit.max_running}" if unit.max_running else ""
        outputs = "-j oe" if _PLAIN_PLACE.fullmatch(unit.subs[0].directory) else "-j oe -o /dev/null"
        return f'qsub {option} {unit.first_index}-{unit.last_index}{cap} {outputs} "$unit"/script'

    def hold(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """Keep waiting jobs from starting.

        Raises
        ------
        SchedulerError
            A job is not waiting, or is a member of an array, which OpenPBS holds as a whole only.
        """
        try:
            super().hold(remote_ids, verbose)
        except SchedulerError as exc:
            if not any("[" in id for id in as_list(remote_ids)):
                raise
            hint = 'members of arrays cannot be held alone everywhere; with "array": false every job can'
            raise SchedulerError(f"{exc} ({hint})") from None

    def parse_answer(self, text: str) -> str:
        """Return the job id from the answer of ``qsub``."""
        ids = pbs_read.read_answer(text)
        if len(ids) != 1:
            raise SchedulerError(f"qsub has answered with {len(ids) or 'no'} job ids: {text!r}")
        return ids[0]

    def member_id(self, unit_id: str, index: int) -> str:
        """Return the remote id of a member of an array."""
        return pbs_read.member_id(unit_id, index)

    def limits_script(self) -> str:
        """Return the script whose output `parse_limits` reads: version, server, queues."""
        return asking("ask qsub --version", "ask qstat -B -f", "ask qstat -Q -f")

    def parse_limits(self, text: str) -> Limits:
        """Return the smallest limits of the server and its queues; what is not understood is no limit."""
        version, *others = replies(text, 3)
        if "dialect" not in self.options:
            told = version.text + version.errors
            self._dialect = "torque" if re.search(r"^\s*version:", told, re.IGNORECASE | re.MULTILINE) else "openpbs"
        found = pbs_read.read_limits("\n".join(reply.text for reply in others))
        return Limits(found.get("array_size"), found.get("submitted"))

    # -- questions -----------------------------------------------------------------------------------------------

    def listing_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_listing` reads: a table of the jobs, finished ones too."""
        form = " -f" if self._ids_are_cut else ""
        return self._qstat(f"qstat $history -t{form}", pbs_read.unit_ids(remote_ids))

    _ids_are_cut = False
    _keeps_history = True

    def listing(self, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the queue says of jobs; those it does not know are left out."""
        return self._with_patience(super().listing, as_list(remote_ids))

    def explain(self, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that have and of which PBS remembers it."""
        return self._with_patience(super().explain, as_list(remote_ids))

    @staticmethod
    def _with_patience(ask: Callable[[Sequence[str]], _Answer], ids: Sequence[str]) -> _Answer:
        for _ in range(2):  # for each of the two ways in which it may have to be asked differently
            try:
                return ask(ids)
            except _AskAgain:
                pass
        return ask(ids)

    def parse_listing(self, text: str, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the output of the script of `listing_script` says of jobs."""
        if not remote_ids:
            return {}
        states: dict[Key, str] = {}
        for reply in self._checked(text):
            jobs = pbs_read.read_full(reply.text)
            states.update({key: job.get("job_state", "")[:1] for key, job in jobs.items()} or self._table(reply.text))
        known = {id: states.get(key) for id in remote_ids if (key := key_of(id)) is not None}
        return {id: Listing(STATES.get(state, OTHER), raw=state) for id, state in known.items() if state}

    def _table(self, text: str) -> dict[Key, str]:
        states = pbs_read.read_table(text)
        if pbs_read.is_cut(text):
            self._ids_are_cut = True
            raise _AskAgain("qstat cuts off the ids of members of arrays; they are asked for in full from now on")
        if not states and text.strip():
            raise SchedulerError(f"qstat has printed what is no list of jobs: {text.strip()[:500]!r}")
        return states

    def explain_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_explain` reads: the attributes of the jobs."""
        return self._qstat("qstat $history -f", list(remote_ids))

    def parse_explain(self, text: str, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that have and of which PBS remembers it."""
        ends = ((id, end_of(job)) for id, job in self._attributes(text, remote_ids).items())
        return {id: end for id, end in ends if end is not None}

    def why_pending(self, remote_ids: Sequence[str]) -> dict[str, str]:
        """Return the scheduler's comments on jobs that wait."""
        if not remote_ids:
            return {}
        text = self.transport.run(self.explain_script(remote_ids)).text
        jobs = self._attributes(text, remote_ids)
        waiting = {id: job for id, job in jobs.items() if STATES.get(job.get("job_state", "")) in (QUEUED, HELD)}
        return {id: told for id, job in waiting.items() if (told := _why(job))}

    def _attributes(self, text: str, remote_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        jobs: dict[Key, dict[str, str]] = {}
        for reply in self._checked(text) if remote_ids else []:
            jobs.update(pbs_read.read_full(reply.text))
        known = {id: jobs.get(key) for id in remote_ids if (key := key_of(id)) is not None}
        return {id: job for id, job in known.items() if job is not None}

    def _qstat(self, command: str, ids: Sequence[str]) -> str:
        known = [id for id in ids if key_of(id) is not None]
        parts = [known[i : i + _IDS_PER_COMMAND] for i in range(0, len(known), _IDS_PER_COMMAND)]
        return self.in_shell(asking(self._history, *(f"ask {command} {shlex.join(part)}" for part in parts)))

    @property
    def _history(self) -> str:
        return _HISTORY if self._keeps_history else _NO_HISTORY

    def _checked(self, text: str) -> list[Reply]:
        """Return the replies of commands that could ask the server; that it does not know a job is no error."""
        found = replies(text)
        for reply in found:
            wrong = pbs_read.complaints(reply.errors)
            if any("job history" in line for line in wrong) and self._keeps_history:
                self._keeps_history = False
                raise _AskAgain("PBS keeps no history of jobs; it is not asked for it any more")
            if (wrong and reply.code != 0) or (not reply.errors and reply.code not in _GONE):
                said = "; ".join(wrong) or reply.failure
                raise SchedulerError(f"PBS on {self.host or 'this machine'} cannot be asked: {said}")
        return found

    def names_script(self, units: Sequence[Unit]) -> str:
        """Return the script that looks for the units' tokens in the attributes of the user's jobs."""
        return asking(self._history, _LOOK_FOR, f"ask look_for '{'|'.join(unit.token for unit in units)}'")

    def parse_names(self, text: str, units: Sequence[Unit]) -> dict[str, str]:
        """Return the ids of units by token."""
        (reply,) = self._checked(text)
        if wrong := pbs_read.complaints(reply.errors):
            raise SchedulerError(f"PBS on {self.host or 'this machine'} cannot be asked: {'; '.join(wrong)}")
        found = {token: id for id, token in _FOUND.findall(reply.text)}
        arrays = {unit.token for unit in units if unit.is_array}
        ids = {token: pbs_read.unit_ids([id])[0] if token in arrays else id for token, id in found.items()}
        return {unit.token: ids[unit.token] for unit in units if unit.token in ids}


def _why(job: Mapping[str, str]) -> str:
    comment = job.get("comment", "").strip()
    if job.get("job_state") == "H":
        return f"held{': ' + comment if comment else ''}"
    return comment


def _rest_of_chunk(found: re.Match[str], nodes: Mapping[str, Any], has_memory: bool) -> str:
    """Return the GPUs and the memory that the chunks of a user's ``select`` do not ask for yet."""
    count, chunk = int(found[1]), found[2]
    gpus, memory = nodes.get("num_gpus"), nodes.get("max_mem")
    wants_gpus = gpus and not re.search(r":(n?gpus|naccelerators)=", chunk)
    wants_memory = memory and count and not has_memory and not re.search(r":[pv]*mem=", chunk)
    amount = f":mem={-(-int(memory or 0) // count)}kb" if wants_memory else ""
    return f":ngpus={gpus}{amount}" if wants_gpus else amount
