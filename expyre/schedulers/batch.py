"""Queue systems that are asked through commands of a shell: what Slurm, PBS and Grid Engine have in common."""

from __future__ import annotations

import re
import shlex
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from secrets import token_hex
from typing import Any, ClassVar

from expyre.errors import ExPyReError, SchedulerError
from expyre.schedulers.base import Listing, Scheduler, Submission, as_list
from expyre.schedulers.submitting import Submitter
from expyre.schedulers.text import format_header, header_extra_from_environment
from expyre.schedulers.units import QUEUE_ID_FILE, Batch, Limits, Unit, make_batch
from expyre.states import End
from expyre.transports import quoted_directory

__all__ = ["BatchScheduler", "Limits", "Unit", "head_and_body", "opening_outputs"]

_IDS_PER_COMMAND = 500
# Seconds after which a host that does not answer is given up.
_PATIENCE = 300.0


class BatchScheduler(Scheduler):
    """A queue system whose commands a shell runs.

    Jobs of equal requests are submitted as one array, each running the job script in its own directory. What a
    subclass says of its queue is text in, text out. Options: ``array`` (bool, default True), ``max_running`` (most
    members of an array to run at the same time), ``env`` (variables for the queue's commands).
    """

    option_kinds: ClassVar[Mapping[str, str]] = {"array": "boolean", "max_running": "count", "env": "mapping"}
    script_in_directory: ClassVar[bool] = True
    env_prefix: ClassVar[str] = ""
    """How the variables begin that the queue gives to a job."""
    probe: ClassVar[str] = ""
    """Command of the queue that must be found; if it is not, the login scripts are read first."""
    own_id: ClassVar[str] = ""
    """Shell words that are the remote id in a running job."""
    index_variable: ClassVar[str] = ""
    """Variable that holds the index in a running member of an array."""
    first_index: ClassVar[int] = 0
    """Index of the first member of an array."""
    full_pattern: ClassVar[str] = r"a^"
    """Extended regular expression: what a submit command says when the user has too many jobs in the queue."""
    doubt_pattern: ClassVar[str] = r"tim(ed? ?out|eout)|connect|communicat|contact|unexpected message|try again"
    """What a submit command says when it does not know whether the queue has taken the job."""
    refused_pattern: ClassVar[str] = r"a^"
    """What a submit command says when it was refused, although its exit code is like that of one that was killed."""
    gone_pattern: ClassVar[str] = r"a^"
    """What a command says of a job that has ended."""
    settle_time: ClassVar[float] = 4.0
    """Seconds in which the queue has heard of a submission although the submit command was killed."""

    # -- what a queue system is to say ---------------------------------------------------------------------------

    @abstractmethod
    def submit_command(self, unit: Unit) -> str:
        """Return the command that submits a unit; one simple command.

        It is run in the directory of the unit for an array, whose script is there as ``script``, else in the
        directory of the job. ``"$unit"`` is the unit's directory, through which the job script of the first member
        is ``"$unit"/<index>.dir/<script name>`` as well.
        """

    @abstractmethod
    def parse_answer(self, text: str) -> str:
        """Return the id of a unit from what the submit command has written to standard output.

        Raises
        ------
        SchedulerError
            There is none, or more than one.
        """

    @abstractmethod
    def member_id(self, unit_id: str, index: int) -> str:
        """Return the remote id of a member of an array."""

    @abstractmethod
    def array_header(self, unit: Unit) -> list[str]:
        """Return the header lines of an array, which come after those of its members."""

    @abstractmethod
    def names_script(self, units: Sequence[Unit]) -> str:
        """Return the script that asks the queue for units by their tokens; `Unit.subs` of them may be empty."""

    @abstractmethod
    def parse_names(self, text: str, units: Sequence[Unit]) -> dict[str, str]:
        """Return the ids of units by token from the output of `names_script`, of those that the queue has.

        Raises
        ------
        SchedulerError
            The queue could not be asked.
        """

    @abstractmethod
    def listing_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_listing` reads."""

    @abstractmethod
    def parse_listing(self, text: str, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the output of the script of `listing_script` says of jobs."""

    @abstractmethod
    def explain_script(self, remote_ids: Sequence[str]) -> str:
        """Return the script whose output `parse_explain` reads."""

    @abstractmethod
    def parse_explain(self, text: str, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that have and of which the queue remembers it."""

    def limits_script(self) -> str:
        """Return the script whose output `parse_limits` reads; empty if the queue cannot be asked for limits."""
        return ""

    def parse_limits(self, text: str) -> Limits:
        """Return the queue's limits; what is not understood is no limit."""
        return Limits()

    def resource_header(self, sub: Submission, given: Sequence[str]) -> list[str]:
        """Return header lines for GPUs and memory, as far as the lines that are given do not ask for them."""
        return []

    def needs_array(self, sub: Submission) -> bool:
        """Tell whether a job can only be a member of an array, because of characters in its names."""
        return False

    def can_array(self, sub: Submission) -> bool:
        """Tell whether a job may be a member of an array, as far as its header lines are concerned."""
        return True

    # -- scripts -------------------------------------------------------------------------------------------------

    def script(self, sub: Submission) -> str:
        """Return the text of the job script."""
        lines = super().script(sub).split("\n")
        entry = f"cd {quoted_directory(sub.directory)} || exit 1".split("\n")
        if self.own_id:
            after = next(i for i in range(len(lines)) if lines[i : i + len(entry)] == entry) + len(entry)
            lines.insert(after, f'echo "{self.own_id}" >{QUEUE_ID_FILE}')
        return "\n".join(lines)

    def header(self, sub: Submission) -> list[str]:
        """Return the header lines; those for GPUs and memory come last, unless defaults are left out."""
        lines = super().header(sub)
        return lines if sub.no_default_header else [*lines, *self.resource_header(sub, lines)]

    def array_script(self, unit: Unit, directory: str) -> str:
        """Return the script of an array: each member runs the job script in its own directory."""
        first = unit.subs[0]
        lines = ["#!/bin/sh", *self.header(replace(first, id=unit.name)), *self.array_header(unit)]
        lines += [
            f"cd {quoted_directory(directory)} || exit 1",
            f"i=${{{self.index_variable}}}",
            *self.array_prologue(),
        ]
        lines.append(f'exec {first.script_exec} "./$i.dir/{self.script_name}"')
        return "\n".join(lines) + "\n"

    def array_prologue(self) -> list[str]:
        """Return the shell lines that a member of an array runs first; ``i`` is its index."""
        return []

    def request_key(self, sub: Submission) -> Hashable:
        """Return what jobs of one array have in common; None for a job that cannot be in one with others."""
        if not self.options.get("array", True) or not self.can_array(sub):
            return None
        lines = format_header([*sub.header, *header_extra_from_environment()], self.header_values(sub))
        nodes = tuple(sorted((name, str(value)) for name, value in sub.nodes.items()))
        return sub.partition, sub.max_time, nodes, tuple(lines), sub.script_exec, sub.no_default_header

    def in_shell(self, script: str) -> str:
        """Return a script of queue commands with what they need around them."""
        unset = self.unset_scheduler_env_vars(self.env_prefix) if self.env_prefix else []
        env = [f"export {name}={shlex.quote(str(value))}" for name, value in self.options.get("env", {}).items()]
        return "\n".join([*unset, *([_LOGIN.format(probe=self.probe)] if self.probe else []), *env, script])

    # -- the queue -----------------------------------------------------------------------------------------------

    @cached_property
    def _submitter(self) -> Submitter:
        return Submitter(self)

    def submit_many(
        self, subs: Sequence[Submission], pre_submit_cmds: Sequence[str] = ()
    ) -> dict[str, str | ExPyReError]:
        """Submit jobs in one go; see `expyre.schedulers.base.Scheduler.submit_many`."""
        return self._submitter.submit(subs, pre_submit_cmds)

    def submit_with_script(self, sub: Submission, pre_submit_cmds: Sequence[str]) -> str | ExPyReError:
        """Submit a job whose script is not in its directory yet; return the queue's answer."""
        return self._submitter.submit([replace(sub, token=token_hex(8))], pre_submit_cmds, scripts=True)[sub.id]

    def find(self, tokens: Sequence[str], place: str = "") -> dict[str, str]:
        """Return the remote ids of the jobs submitted with these tokens."""
        return self._submitter.find(tokens, place)

    def limits(self) -> Limits:
        """Return the queue's limits, asked for once."""
        return self._limits

    @cached_property
    def _limits(self) -> Limits:
        script = self.limits_script()
        return self.parse_limits(self._asked(self.in_shell(script))) if script else Limits()

    def _asked(self, script: str) -> str:
        return self.transport.run(script, timeout=_PATIENCE).text

    def listing(self, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the queue says of jobs; those it does not know are left out."""
        return self.parse_listing(self._asked(self.listing_script(remote_ids)), as_list(remote_ids))

    def explain(self, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that have ended and of which the queue remembers it."""
        ids = as_list(remote_ids)
        return self.parse_explain(self._asked(self.explain_script(ids)), ids) if ids else {}

    def hold(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """Keep waiting jobs from starting.

        Raises
        ------
        SchedulerError
            A job is not waiting.
        """
        self._order(self.hold_command, remote_ids)

    def release(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """Let held jobs start again.

        Raises
        ------
        SchedulerError
            The queue has refused it.
        """
        self._order(self.release_command, remote_ids)

    def cancel(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """End jobs, waiting or running; those that are gone already are no error."""
        self._order(self.cancel_command, remote_ids, tolerated=self.gone_pattern)

    def _order(self, command: Sequence[str], remote_ids: str | Sequence[str], tolerated: str = r"a^") -> None:
        ids = as_list(remote_ids)
        if not ids:
            return
        words = shlex.join(command)
        parts = [ids[i : i + _IDS_PER_COMMAND] for i in range(0, len(ids), _IDS_PER_COMMAND)]
        lines = [f"{words} {shlex.join(self.ids_for_command(part))} 2>&1 || echo '{_REFUSED}'" for part in parts]
        text = self._asked(self.in_shell("\n".join(["echo", *lines, f"echo '{_DONE}'"])))
        said = [line for line in text.splitlines() if line and line not in (_DONE, _REFUSED)]
        if _DONE not in text.splitlines():
            raise SchedulerError(f"`{words}` was stopped before its end: {' '.join(said)}")
        wrong = [line for line in said if not re.search(tolerated, line, re.IGNORECASE)]
        if _REFUSED in text.splitlines() and wrong:
            raise SchedulerError(f"`{words}` on {self.host or 'this machine'}: {'; '.join(wrong)}")

    def ids_for_command(self, remote_ids: Sequence[str]) -> list[str]:
        """Return the words by which the commands of the queue know jobs."""
        return list(remote_ids)

    def header_values(self, sub: Submission) -> dict[str, Any]:
        """Return the keys that header lines may use."""
        return {**super().header_values(sub), "stdout": f"job.{sub.id}.stdout", "stderr": f"job.{sub.id}.stderr"}

    def make_batch(self, place: str, subs: Sequence[Submission], size: int | None) -> Batch:
        """Return jobs divided into units of at most ``size`` jobs, with all scripts.

        Raises
        ------
        RequestError
            A header line has an unknown key.
        """
        batch = make_batch(
            place,
            [(self.request_key(sub), sub) for sub in subs],
            array_size=size,
            first_index=self.first_index,
            max_running=self.options.get("max_running"),
            as_array=self.needs_array,
        )
        arrays = [unit for unit in batch.units if unit.is_array]
        return replace(batch, scripts={u.token: self.array_script(u, batch.unit_directory(u)) for u in arrays})


def opening_outputs(sub: Submission) -> str:
    """Return the shell line by which a job opens its output files itself, where the queue could not."""
    stem = f"{quoted_directory(sub.directory)}/{shlex.quote(f'job.{sub.id}.')}"
    return f"exec >{stem}stdout 2>{stem}stderr"


def head_and_body(script: str) -> tuple[list[str], list[str]]:
    """Return the lines of a script in which the queue may look for directives, and those that follow them."""
    lines = script.split("\n")
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:first], lines[first:]


_REFUSED = "=== refused"
_DONE = "=== done"

# A shell that was not a login shell may not know where the queue's commands are.
_LOGIN = """command -v {probe} >/dev/null 2>&1 || {{
  for profile in /etc/profile ~/.bash_profile ~/.profile; do [ -r "$profile" ] && . "$profile"; done
}} </dev/null >/dev/null 2>&1"""
