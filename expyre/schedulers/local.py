"""The queue of this package: no queue system needed, jobs run on the host itself within a budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from expyre.errors import ExPyReError, RequestError, SchedulerError, SubmitFailed
from expyre.node.localqueue import api, remote
from expyre.node.localqueue.spool import Spool
from expyre.schedulers.base import Listing, Scheduler, Submission, as_list
from expyre.schedulers.text import pre_submit_script
from expyre.states import DONE, END_TIMED_OUT, QUEUE_FAILED, TIMEOUT, End

_STATE_OF_REASON = {"": DONE, "Cancelled": DONE, END_TIMED_OUT: TIMEOUT}
_GRACE = 2.0


class Local(Scheduler):
    """Runs jobs as processes of the user on the host, as many as cores, memory and GPUs allow.

    They are started by a supervisor process that comes and goes by itself and outlive script and terminal. Header
    lines mean nothing to it and are kept as comments. Options: ``grace`` (s between SIGTERM and SIGKILL, default 2),
    ``dir`` (spool directory on the host), ``python`` (interpreter on another host, default ``python3``).
    """

    name: ClassVar[str] = "local"
    option_kinds: ClassVar[Mapping[str, str]] = {"grace": "seconds", "dir": "text", "python": "text"}
    shares_nodes: ClassVar[bool] = True
    poll_range: ClassVar[tuple[float, float]] = (0.02, 1.0)

    def header(self, sub: Submission) -> list[str]:
        """Return the header lines as comments."""
        lines = [part for line in super().header(sub) for part in line.splitlines()]
        return [line if line.startswith("#") and not line.startswith("#!") else f"# {line}" for line in lines]

    def submit_many(
        self, subs: Sequence[Submission], pre_submit_cmds: Sequence[str] = ()
    ) -> dict[str, str | ExPyReError]:
        """Submit jobs in one go; see `expyre.schedulers.base.Scheduler.submit_many`."""
        answers: dict[str, str | ExPyReError] = {}
        requests: dict[str, dict[str, Any]] = {}
        for sub in subs:
            try:
                requests[sub.id] = self._request(sub)
            except RequestError as exc:
                answers[sub.id] = exc
        if requests:
            arguments = {"jobs": list(requests.values()), "env": self._environment(pre_submit_cmds)}
            replies = self._call("submit", **arguments)
            answers.update({id: _answer(reply) for id, reply in zip(requests, replies, strict=True)})
        return answers

    def _request(self, sub: Submission) -> dict[str, Any]:
        if "/" in sub.id or "\0" in sub.id or not sub.id:
            raise RequestError(f"the job id {sub.id!r} cannot be part of a file name")
        num_nodes = int(sub.nodes.get("num_nodes") or 1)
        cores = sub.nodes.get("num_cores") or num_nodes * int(sub.nodes.get("num_cores_per_node") or 1)
        return {
            "name": sub.id,
            "token": sub.token,
            "directory": sub.directory,
            "script": self.script(sub),
            "script_name": self.script_name,
            "shell": sub.script_exec,
            "cores": max(1, int(cores)),
            "mem": int(sub.nodes.get("max_mem") or 0),
            "gpus": int(sub.nodes.get("num_gpus") or 0) * num_nodes,
            "max_time": sub.max_time,
            "partition": sub.partition or "",
            "cap": (sub.partition_limit or {}).get("num_cores"),
            "grace": float(self.options.get("grace", os.environ.get("EXPYRE_LOCAL_GRACE", _GRACE))),
        }

    def _environment(self, pre_submit_cmds: Sequence[str]) -> dict[str, str] | None:
        """Return the environment that the commands before submission leave; None if there are none."""
        if not pre_submit_cmds:
            return None
        script = f"{pre_submit_script(pre_submit_cmds)} && printf '\\0\\0' && env -0"
        done = self.transport.run(script)
        if done.returncode != 0:
            raise SubmitFailed(f"pre_submit_cmds {list(pre_submit_cmds)} failed: {done.error_text}")
        items = done.text.rpartition("\0\0")[2].split("\0")
        return {name: value for name, equals, value in (item.partition("=") for item in items) if equals}

    def find(self, tokens: Sequence[str], place: str = "") -> dict[str, str]:
        """Return the remote ids of the jobs submitted with these tokens."""
        found: dict[str, str] = self._call("find", tokens=list(tokens))
        return found

    def listing(self, remote_ids: Sequence[str]) -> dict[str, Listing]:
        """Return what the queue says of jobs; those it does not know are left out."""
        rows = self._call("listing", ids=as_list(remote_ids))
        return {id: Listing(_state(row), row["reason"], row["state"]) for id, row in rows.items()}

    def explain(self, remote_ids: Sequence[str]) -> dict[str, End]:
        """Return how jobs ended, of those that ended badly."""
        rows = self._call("explain", ids=as_list(remote_ids))
        return {id: End(row["reason"], row["detail"], row["exit_code"]) for id, row in rows.items()}

    def why_pending(self, remote_ids: Sequence[str]) -> dict[str, str]:
        """Return why waiting jobs do not run yet: what they wait for, and how many come first."""
        texts: dict[str, str] = self._call("why_pending", ids=as_list(remote_ids))
        return texts

    def hold(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """Keep waiting jobs from starting.

        Raises
        ------
        SchedulerError
            A job is not waiting.
        """
        _complain(self._call("hold", ids=as_list(remote_ids)))

    def release(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """Let held jobs start again.

        Raises
        ------
        SchedulerError
            A job is not held.
        """
        _complain(self._call("release", ids=as_list(remote_ids)))

    def cancel(self, remote_ids: str | Sequence[str], verbose: bool = False) -> None:
        """End jobs, the running ones with all their processes; returns when they are gone."""
        self._call("cancel", ids=as_list(remote_ids))

    def _call(self, command: str, **arguments: Any) -> Any:
        directory = self.options.get("dir")
        try:
            if self.host is None:
                return api.call(command, arguments, directory)
            python = str(self.options.get("python", "python3"))
            return remote.call(self.transport.run, python, command, arguments, directory)
        except ExPyReError:
            raise
        except Exception as exc:
            where = self.host or "this machine"
            place = directory or ("EXPYRE_LOCAL_DIR there" if self.host else Spool().path)
            message = f"the local queue on {where} ({place}) cannot {command}: {type(exc).__name__}: {exc}"
            raise SchedulerError(message) from exc


def _state(row: dict[str, str]) -> str:
    return row["state"] if row["state"] != "done" else _STATE_OF_REASON.get(row["reason"], QUEUE_FAILED)


def _answer(reply: dict[str, Any]) -> str | ExPyReError:
    return SubmitFailed(reply["error"]) if "error" in reply else str(reply["id"])


def _complain(problems: dict[str, str]) -> None:
    if problems:
        raise SchedulerError("; ".join(problems.values()))
