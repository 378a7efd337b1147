"""Slurm."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from expyre.errors import SchedulerError
from expyre.schedulers.base import Listing, Submission, as_list
from expyre.schedulers.batch import BatchScheduler
from expyre.schedulers.slurm_read import (
    ends_script,
    limits_script,
    listing_script,
    names_script,
    read_ends,
    read_limits,
    read_listing,
    read_names,
)
from expyre.schedulers.slurm_states import why_waiting
from expyre.schedulers.units import Limits, Unit
from expyre.states import End

__all__ = ["Slurm"]

# What can stand in a header line and in a name of an output file without meaning anything there.
_PLAIN = re.compile(r"[\w.+=@:,~^-]+")
_DIRECTIVE = "#SBATCH"
# Of the job that submits, what its jobs would take for their own; of the user, what would outrank the header.
_UNSET = """\
unset SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_CPUS_PER_TASK SLURM_TASKS_PER_NODE
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
unset SBATCH_ARRAY_INX SBATCH_ERROR SBATCH_JOB_NAME SBATCH_OUTPUT SBATCH_TIMELIMIT SBATCH_WAIT"""


class Slurm(BatchScheduler):
    """Slurm, through ``sbatch``, ``squeue``, ``scancel``, ``scontrol``, and ``sacct`` where it works.

    Options: ``array``, ``max_running``, ``env``, as for every queue system, and ``clusters`` (names of the clusters to
    ask, as for ``squeue --clusters``).
    """

    name: ClassVar[str] = "slurm"
    option_kinds: ClassVar[Mapping[str, str]] = {**BatchScheduler.option_kinds, "clusters": "text"}
    default_header: ClassVar[tuple[str, ...]] = (
        "#SBATCH --job-name={id}",
        "#SBATCH --time={max_time}",
        "#SBATCH --output=job.{id}.stdout",
        "#SBATCH --error=job.{id}.stderr",
    )
    hold_command: ClassVar[list[str]] = ["scontrol", "hold"]
    release_command: ClassVar[list[str]] = ["scontrol", "release"]
    cancel_command: ClassVar[list[str]] = ["scancel"]
    env_prefix: ClassVar[str] = "SLURM"
    probe: ClassVar[str] = "sbatch"
    own_id: ClassVar[str] = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    index_variable: ClassVar[str] = "SLURM_ARRAY_TASK_ID"
    full_pattern: ClassVar[str] = r"Submit[a-z]*Limit|temporarily unable to accept job"
    gone_pattern: ClassVar[str] = r"invalid job id|already complet|job/step already|terminat"

    # -- scripts -------------------------------------------------------------------------------------------------

    def job_name(self, id: str) -> str:
        """Return the id with what would mean something in a header line replaced."""
        return re.sub(r"[^\w.+=@:,~^-]", "_", id)

    def needs_array(self, sub: Submission) -> bool:
        """Tell whether Slurm would change the names of the output files if they stood in the header."""
        return not _PLAIN.fullmatch(sub.id) or bool(re.search(r"[%\\]", sub.directory))

    def can_array(self, sub: Submission) -> bool:
        """Tell whether the header leaves the array and its output files to this class."""
        pattern = r"\s(--array|-a\b|--chdir|-D\b|--wait\b)"
        if sub.no_default_header:
            pattern += r"|\s(--output|-o\b|--error|-e\b)"
        return not any(re.search(pattern, line) for line in sub.header if line.startswith(_DIRECTIVE))

    @classmethod
    def node_dict_env_var_commands(cls, node_dict: Mapping[str, Any]) -> list[str]:
        """Return the shell lines that tell a job how many nodes and cores it has."""
        asked = node_dict.get("num_cores_per_node") or 1
        lines = super().node_dict_env_var_commands(node_dict)
        tasks = 'EXPYRE_NUM_CORES_PER_NODE="${SLURM_TASKS_PER_NODE%%[(,]*}"'
        count = f"$(( ${{EXPYRE_NUM_CORES_PER_NODE:-{asked}}} * ${{SLURM_CPUS_PER_TASK:-1}} ))"
        return [tasks, f"export EXPYRE_NUM_CORES_PER_NODE={count}", *lines[1:]]

    def resource_header(self, sub: Submission, given: Sequence[str]) -> list[str]:
        """Return header lines for GPUs and memory per node."""
        directives = " ".join(line[len(_DIRECTIVE) :] for line in given if line.startswith(_DIRECTIVE)) + " "
        lines = []
        gpus, memory = sub.nodes.get("num_gpus"), sub.nodes.get("max_mem")
        if gpus and not re.search(r"\s(--gpus[a-z-]*|--tres-per-[a-z]+|-G)[=\s\d]|--gres[=\s]\S*gpu", directives):
            other = re.search(r"\s--gres[=\s]", directives)
            lines.append(f"#SBATCH --gpus-per-node={gpus}" if other else f"#SBATCH --gres=gpu:{gpus}")
        if memory and not re.search(r"\s--mem(-per-[a-z]+)?[=\s]", directives):
            lines.append(f"#SBATCH --mem={-(-int(memory) // int(sub.nodes.get('num_nodes') or 1))}K")
        return lines

    def array_script(self, unit: Unit, directory: str) -> str:
        """Return the script of an array, without the default lines that those of the array replace."""
        replaced = [line.format(id=self.job_name(unit.name)) for line in self.default_header[2:]]
        lines = super().array_script(unit, directory).split("\n")
        return "\n".join(line for line in lines if line not in replaced)

    def array_header(self, unit: Unit) -> list[str]:
        """Return the header lines of an array; its output files are links to those of the members."""
        cap = f"%{unit.max_running}" if unit.max_running else ""
        name = [f"#SBATCH --job-name={self.job_name(unit.name)}"] if unit.subs[0].no_default_header else []
        array = f"#SBATCH --array={unit.first_index}-{unit.last_index}{cap}"
        return [*name, array, "#SBATCH --output=%a.out", "#SBATCH --error=%a.err"]

    def array_prologue(self) -> list[str]:
        """Return the line that makes the outputs right where Slurm would change the names of their files."""
        return ['case $PWD in *[%\\\\]*) exec >"$i.out" 2>"$i.err";; esac']

    # -- submission ----------------------------------------------------------------------------------------------

    def submit_command(self, unit: Unit) -> str:
        """Return the command that submits a unit; the unit's token is in its comment and in the path of its script."""
        comment = [] if self._has_comment(unit) else [f"--comment={unit.token}"]
        if not unit.is_array:
            return " ".join(["sbatch", *comment, f'"$unit"/{unit.first_index}.dir/{self.script_name}'])
        out = '$(case $PWD in *[%\\\\]*) echo "--output=/dev/null --error=/dev/null";; esac)'
        return " ".join(["sbatch", *comment, out, '"$unit"/script'])

    def _has_comment(self, unit: Unit) -> bool:
        return any(line.startswith(_DIRECTIVE) and "--comment" in line for line in self.header(unit.subs[0]))

    def parse_answer(self, text: str) -> str:
        """Return the job id from the answer of ``sbatch``."""
        ids = re.findall(r"^\s*Submitted batch job (\S+)(?: on cluster \S+)?\s*$", text, re.MULTILINE)
        ids = ids or re.findall(r"^(\d+)(?:;\S+)?\s*$", text, re.MULTILINE)
        if len(ids) != 1:
            raise SchedulerError(f"sbatch has answered with {len(ids) or 'no'} job ids: {text!r}")
        return str(ids[0])

    def member_id(self, unit_id: str, index: int) -> str:
        """Return the remote id of a member of an array."""
        return f"{unit_id}_{index}"

    def in_shell(self, script: str) -> str:
        """Return a script of Slurm's commands with what they need around them."""
        clusters = self.options.get("clusters")
        where = [f"export SLURM_CLUSTERS={shlex.quote(clusters)}"] if clusters else []
        return super().in_shell("\n".join([_UNSET, *where, script]))

    # -- questions -----------------------------------------------------------------------------------------------

    def listing_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_listing` reads."""
        return self.in_shell(listing_script())

    def parse_listing(self, text: str, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the output of the script of `listing_script` says of jobs."""
        return read_listing(text, remote_ids)

    def why_pending(self, remote_ids: Sequence[str]) -> dict[str, str]:
        """Return why waiting jobs do not run yet, in words."""
        reasons = {id: why_waiting(listing) for id, listing in self.listing(as_list(remote_ids)).items()}
        return {id: reason for id, reason in reasons.items() if reason}

    def explain_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_explain` reads."""
        return self.in_shell(ends_script(remote_ids))

    def parse_explain(self, text: str, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that have and of which Slurm remembers it."""
        return read_ends(text, remote_ids)

    def names_script(self, units: Sequence[Unit]) -> str:
        """Return the script that asks for units by their tokens."""
        return names_script()

    def parse_names(self, text: str, units: Sequence[Unit]) -> dict[str, str]:
        """Return the ids of units by token."""
        return read_names(text, [unit.token for unit in units])

    def limits_script(self) -> str:
        """Return the script whose output `parse_limits` reads."""
        return limits_script()

    def parse_limits(self, text: str) -> Limits:
        """Return the largest array and the most jobs of the user's associations."""
        return read_limits(text)
