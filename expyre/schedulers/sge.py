"""Grid Engine: Son of, Univa, Altair, Open Cluster Scheduler."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from expyre.errors import SchedulerError
from expyre.schedulers import sge_read
from expyre.schedulers.asking import Reply, asking, replies
from expyre.schedulers.base import Listing, Submission
from expyre.schedulers.batch import BatchScheduler, head_and_body, opening_outputs
from expyre.schedulers.sge_ends import end_of, state_of
from expyre.schedulers.sge_read import key_of
from expyre.schedulers.text import short_name
from expyre.schedulers.units import Limits, Unit
from expyre.states import END_DIED, HELD, QUEUED, End

__all__ = ["SGE"]

# What can stand in a path in a header line without meaning anything there.
_PLAIN: Final = re.compile(r"[\w.+=~-]+", re.ASCII)
# Grid Engine puts in values for variables in names of directories, even in that of `-cwd`.
_ODD_PLACE: Final = re.compile(r"[$\x00-\x1f]")
_OUTPUTS: Final = re.compile(r"#\$\s+-(cwd|[oe]\s.*)\s*$")
# `qsub` looks for directives in all of a script, even in the middle of a quoted text.
_DIRECTIVE: Final = re.compile(r"^#\$", re.MULTILINE)
_NAME: Final = re.compile(r"(#\$\s+-N\s*)(\S+)")
_NAME_LENGTH: Final = 200
_FEW: Final = 5
_MEMORY: Final = re.compile(r"\b([hs]_(vmem|rss|data|as)|virtual_(free|total)|v[ft]|m[ft]|\w*mem\w*|ram\w*)=")

# The accounting is one long file: what is not wanted is left out on the host.
_ACCOUNTING: Final = r"""
accounting() {
  wanted=$1; shift
  qacct "$@" | awk -v wanted=" $wanted " '
    $1 == "jobnumber" { shown = index(wanted, " " $2 " "); if (shown) print "====" }
    shown && /^(jobnumber|taskid|slots|failed|exit_status|ru_wallclock|maxvmem|category) / { print }'
}
details() { $limit qstat -j "$1" | grep -E '^(=|job_number|error reason|scheduling info| {10})'; }
"""
# That a job has ended meanwhile is no trouble; that its details were not told is: it may be the one that is looked for.
_LOOK_FOR: Final = r"""
told() {
  told=$($limit qstat -j "$1" 2>&1) && { printf '%s\n' "$told"; return; }
  case $told in *"do not exist"*) printf '%s\n' "$told";; *) echo "=== untold"; echo "qstat -j: $told" >&2;; esac
}
look_for() {
  ids=$($limit qstat -u "$(id -un)") || return
  printf '%s\n' "$ids" | awk 'NR > 2 && !seen[$1]++ { print $1 }' | xargs -n 200 | tr ' ' ',' |
    while read -r some; do [ -z "$some" ] || told "$some"; done | awk -v tokens="$1" '
    /^=== untold/ { exit 1 }
    /^job_number:/ { id = $2 }
    match($0, tokens) { print id, substr($0, RSTART, RLENGTH) }'
}
"""
_FOUND: Final = re.compile(r"^(\d+) ([0-9a-f]{16})$", re.MULTILINE)
# Variables that do not tell of a job but of where the queue is.
_OF_THE_QUEUE: Final = ("SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT")


class SGE(BatchScheduler):
    """Grid Engine, through ``qsub``, ``qstat``, ``qdel``, ``qhold``, ``qrls``, ``qconf``, and ``qacct`` where it works.

    Options: ``array``, ``max_running``, ``env`` (``SGE_ROOT`` may be needed), as for every queue system;
    ``memory_resource`` (resource by which memory per slot is asked for, default ``"mem_free"``, which limits nothing;
    ``"h_vmem"`` is the usual one that does; None for none) and ``gpu_resource`` (default ``"gpu"``; None for none).
    """

    name: ClassVar[str] = "sge"
    option_kinds: ClassVar[Mapping[str, str]] = {
        **BatchScheduler.option_kinds,
        "memory_resource": "text or null",
        "gpu_resource": "text or null",
    }
    default_header: ClassVar[tuple[str, ...]] = (
        "#$ -N N_{id}",
        "#$ -l h_rt={max_time}",
        "#$ -o job.{id}.stdout",
        "#$ -e job.{id}.stderr",
        "#$ -S /bin/bash",
        "#$ -r n",
        "#$ -cwd",
    )
    hold_command: ClassVar[list[str]] = ["qhold"]
    release_command: ClassVar[list[str]] = ["qrls"]
    cancel_command: ClassVar[list[str]] = ["qdel"]
    env_prefix: ClassVar[str] = "SGE"
    probe: ClassVar[str] = "qsub"
    own_id: ClassVar[str] = "$JOB_ID$(case $SGE_TASK_ID in [0-9]*) echo .$SGE_TASK_ID;; esac)"
    index_variable: ClassVar[str] = "SGE_TASK_ID"
    first_index: ClassVar[int] = 1
    full_pattern: ClassVar[str] = r"only [0-9]+ jobs are allowed per"
    gone_pattern: ClassVar[str] = r"does not exist|already in deletion|registered .* for deletion|has deleted"

    # -- scripts -------------------------------------------------------------------------------------------------

    def job_name(self, id: str) -> str:
        """Return the id with what would mean something in a header line replaced."""
        return re.sub(r"[^\w.+=~-]", "_", id, flags=re.ASCII)

    def header(self, sub: Submission) -> list[str]:
        """Return the header lines; names begin with a letter, as they must."""
        return [_NAME.sub(lambda found: found[1] + _legal(found[2]), line) for line in super().header(sub)]

    def needs_array(self, sub: Submission) -> bool:
        """Tell whether Grid Engine would change names of output files, or take other lines for its directives.

        It does not read the scripts of members of arrays.
        """
        return not _PLAIN.fullmatch(sub.id) or any(map(_DIRECTIVE.search, (sub.directory, *sub.commands)))

    def can_array(self, sub: Submission) -> bool:
        """Tell whether the header leaves the array and its output files to this class."""
        pattern = r"#\$\s(.*\s)?-(t|tc|wd|sync|I)\b"
        if sub.no_default_header:
            pattern += r"|#\$\s(.*\s)?-[oe]\b"
        return not any(re.match(pattern, line) for line in sub.header)

    def script(self, sub: Submission) -> str:
        """Return the text of the job script; it opens its output files itself if Grid Engine could not."""
        text = super().script(sub)
        if not _ODD_PLACE.search(sub.directory):
            return text
        head, body = head_and_body(text)
        head = [line for line in head if not _OUTPUTS.match(line)]
        return "\n".join([*head, "#$ -j y -o /dev/null", opening_outputs(sub), *body])

    def array_script(self, unit: Unit, directory: str) -> str:
        """Return the script of an array; where to run it is told by the command."""
        head, body = head_and_body(super().array_script(unit, directory))
        # inside of quotes, where alone a line of the body can begin so, two more quotes mean nothing
        body = [_DIRECTIVE.sub("''#$", line) for line in body]
        return "\n".join([*(line for line in head if not _OUTPUTS.match(line)), *body])

    def array_header(self, unit: Unit) -> list[str]:
        """Return no header lines: all options are in the command, where they outrank those of the members."""
        return []

    @staticmethod
    def unset_scheduler_env_vars(prefix: str) -> list[str]:
        """Return the shell lines that make the submitting shell forget the job it may be in, but not the queue."""
        lines = BatchScheduler.unset_scheduler_env_vars(prefix)
        return [line for line in lines if line.removeprefix("unset ") not in _OF_THE_QUEUE]

    @classmethod
    def node_dict_env_var_commands(cls, node_dict: Mapping[str, Any]) -> list[str]:
        """Return the shell lines that tell a job how many nodes and cores it has."""
        first, *others = super().node_dict_env_var_commands(node_dict)
        asked = first.partition("=")[2]
        return [f"export EXPYRE_NUM_CORES_PER_NODE=$(( ${{NSLOTS:-{asked}}} / ${{NHOSTS:-1}} ))", *others]

    def resource_header(self, sub: Submission, given: Sequence[str]) -> list[str]:
        """Return header lines for GPUs, and for memory per slot."""
        asked = ",".join(line for line in given if re.match(r"#\$\s(.*\s)?-l\s", line))
        gpus, memory = sub.nodes.get("num_gpus"), sub.nodes.get("max_mem")
        gpu, mem = self.options.get("gpu_resource", "gpu"), self.options.get("memory_resource", "mem_free")
        lines = []
        if gpus and gpu and not re.search(rf"\b(\w*gpu\w*|{re.escape(str(gpu))})=", asked):
            lines.append(f"#$ -l {gpu}={gpus}")
        if memory and mem and not _MEMORY.search(asked) and f"{mem}=" not in asked:
            lines.append(f"#$ -l {mem}={-(-int(memory) // _slots(sub.nodes))}K")
        return lines

    # -- submission ----------------------------------------------------------------------------------------------

    def submit_command(self, unit: Unit) -> str:
        """Return the command that submits a unit; the unit's token is in the path of its script.

        The output files of an array are links to those of its members.
        """
        if not unit.is_array:
            return f'qsub -terse "$unit"/{unit.first_index}.dir/{self.script_name}'
        cap = f" -tc {unit.max_running}" if unit.max_running else ""
        outputs = "-cwd -o '$TASK_ID.out' -e '$TASK_ID.err'"
        if _ODD_PLACE.search(unit.subs[0].directory):
            outputs = "-j y -o /dev/null"
        return f'qsub -terse -t {unit.first_index}-{unit.last_index}{cap} {outputs} "$unit"/script'

    def parse_answer(self, text: str) -> str:
        """Return the job id from the answer of ``qsub``."""
        ids = sge_read.read_answer(text)
        if len(ids) != 1:
            raise SchedulerError(f"qsub has answered with {len(ids) or 'no'} job ids: {text!r}")
        return ids[0]

    def member_id(self, unit_id: str, index: int) -> str:
        """Return the remote id of a member of an array."""
        return sge_read.member_id(unit_id, index)

    def limits_script(self) -> str:
        """Return the script whose output `parse_limits` reads."""
        return asking("ask qconf -sconf global")

    def parse_limits(self, text: str) -> Limits:
        """Return the largest array; the limit on jobs of a user counts arrays once and is not known beforehand."""
        return Limits(sge_read.read_limits(text).get("array_size"))

    # -- questions -----------------------------------------------------------------------------------------------

    def listing_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_listing` reads: the user's jobs, waiting members of arrays together."""
        return self.in_shell(asking('ask qstat -xml -u "$(id -un)"'))

    def parse_listing(self, text: str, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the output of the script of `listing_script` says of jobs."""
        if not remote_ids:
            return {}
        rows = sge_read.read_rows(self._checked(text).text)
        known = {id: rows.get(key) for id in remote_ids if (key := key_of(id)) is not None}
        return {id: Listing(state_of(row.state), raw=row.state) for id, row in known.items() if row is not None}

    def explain_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_explain` reads: the accounting, and errors of jobs that wait."""
        numbers = [str(number) for number in sge_read.numbers(remote_ids)]
        if len(numbers) <= _FEW:
            lines = [f"ask accounting {number} -j {number}" for number in numbers]
        else:
            lines = [f"""ask accounting '{" ".join(numbers)}' -o "$(id -un)" -j"""]
        return self.in_shell(asking(_ACCOUNTING, *lines, *_details(numbers)))

    def parse_explain(self, text: str, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that have and of which the accounting knows it."""
        if not remote_ids:
            return {}
        told = "\n".join(reply.text for reply in replies(text))
        records, errors = sge_read.read_accounting(told), sge_read.read_errors(told)
        ends: dict[str, End] = {}
        for id in remote_ids:
            key = key_of(id)
            if key in errors:
                ends[id] = End(END_DIED, f"the queue could not start it: {errors[key]}")
            elif key in records and (end := end_of(records[key])) is not None:
                ends[id] = end
        return ends

    def why_pending(self, remote_ids: Sequence[str]) -> dict[str, str]:
        """Return what the scheduler says of jobs that wait."""
        if not remote_ids:
            return {}
        numbers = [str(number) for number in sge_read.numbers(remote_ids)]
        states = self.listing_script(remote_ids)
        details = self.in_shell(asking(_ACCOUNTING, *_details(numbers)))
        text = self.transport.run(f"{states}\necho '{_THEN}'\n{details}").text
        first, _, second = text.partition(f"{_THEN}\n")
        reasons = sge_read.read_reasons("\n".join(reply.text for reply in replies(second)))
        waiting = {id for id, row in self.parse_listing(first, remote_ids).items() if row.state in (QUEUED, HELD)}
        keys = {id: key for id in remote_ids if id in waiting and (key := key_of(id)) is not None}
        return {id: reasons[key[0]] for id, key in keys.items() if key[0] in reasons}

    def _checked(self, text: str) -> Reply:
        """Return the reply of a command that could ask the queue master."""
        reply = replies(text)[0]
        if reply.code != 0:
            said = reply.errors.strip() or reply.failure
            hint = ' (it can be set in "scheduler_options": {"env": {…}})' if "SGE_ROOT" in said else ""
            raise SchedulerError(f"Grid Engine on {self.host or 'this machine'} cannot be asked: {said}{hint}")
        return reply

    def names_script(self, units: Sequence[Unit]) -> str:
        """Return the script that looks for the units' tokens in the paths of the scripts of the user's jobs."""
        return asking(_LOOK_FOR, f"ask look_for '{'|'.join(unit.token for unit in units)}'")

    def parse_names(self, text: str, units: Sequence[Unit]) -> dict[str, str]:
        """Return the ids of units by token."""
        return {token: number for number, token in _FOUND.findall(self._checked(text).text)}


_THEN: Final = "=== then"
_DETAILS_PER_COMMAND: Final = 200


def _details(numbers: Sequence[str]) -> list[str]:
    parts = [numbers[i : i + _DETAILS_PER_COMMAND] for i in range(0, len(numbers), _DETAILS_PER_COMMAND)]
    return [f"ask details {','.join(part)}" for part in parts]


def _legal(name: str) -> str:
    plain = short_name(name, _NAME_LENGTH)
    return f"N{plain}" if plain[:1].isdigit() else plain


def _slots(nodes: Mapping[str, Any]) -> int:
    cores = int(nodes.get("num_cores") or 0)
    return max(1, cores or int(nodes.get("num_nodes") or 1) * int(nodes.get("num_cores_per_node") or 1))
