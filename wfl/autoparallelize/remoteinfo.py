"""Where and how the jobs of a call are queued."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expyre.resources import Resources

__all__ = ["RemoteInfo"]


class RemoteInfo:
    """Everything needed to run the chunks of a call as queued jobs. No call changes the object.

    Parameters
    ----------
    sys_name : str
        Name of a system of the configuration.
    job_name : str
        Prefix of the names of the jobs, ``<job_name>_chunk_<i>``.
    resources : Resources or dict
        What each job needs, or the keywords of ``expyre.resources.Resources``.
    num_inputs_per_queued_job : int, default -100
        Items per job; ``-n`` stands for n times ``num_inputs_per_python_subprocess``.
    pre_cmds, post_cmds : list(str), optional
        Shell commands to run in the job before and after the function.
    env_vars : list(str), optional
        Variables of the job, ``NAME=value`` or ``NAME`` to copy the present value.
    input_files, output_files : list(str), optional
        Files to bring to the job, and back from it.
    header_extra : list(str), optional
        Further lines for the header of the job script.
    exact_fit : bool, default True
        Only accept partitions whose nodes the request fills.
    partial_node : bool, default False
        Accept jobs that leave part of a node unused.
    timeout : int or str, default 3600
        Time to wait for the results (seconds, or like ``"1-00:00:00"``), negative: without limit.
        Time that jobs spend in the queue does not count; jobs that are not waited for go on.
    check_interval : int, default 30
        Seconds between two looks at the queue.
    ignore_failed_jobs : bool, default False
        Copy the inputs of failed jobs to the output with ``info["EXPYRE_REMOTE_JOB_FAILED"] = True`` and go on.
    resubmit_killed_jobs : bool, default False
        Start again, with the present resources, the jobs of an earlier run that ended without result or exception.
    hash_ignore : list(str), optional
        Arguments that do not make a job another job: names of keywords of the operation, or of the function that runs
        in the job (``op``, ``args``, ``kwargs``, ``initializer``, ...).
    retry : dict or int, optional
        When to repeat jobs that died, with how much more time or memory; keywords of ``expyre.retry.Retry``.

    Raises
    ------
    TypeError
        Unknown or missing keyword.
    """

    def __init__(
        self,
        sys_name: str,
        job_name: str,
        resources: Resources | Mapping[str, Any],
        num_inputs_per_queued_job: int = -100,
        pre_cmds: Iterable[str] = (),
        post_cmds: Iterable[str] = (),
        env_vars: Iterable[str] = (),
        input_files: Iterable[str] = (),
        output_files: Iterable[str] = (),
        header_extra: Iterable[str] = (),
        exact_fit: bool = True,
        partial_node: bool = False,
        timeout: int | str = 3600,
        check_interval: float = 30,
        ignore_failed_jobs: bool = False,
        resubmit_killed_jobs: bool = False,
        hash_ignore: Iterable[str | int] = (),
        retry: Any = None,
    ) -> None:
        self.sys_name = sys_name
        self.job_name = job_name
        self.resources = copy.deepcopy(resources)
        self.num_inputs_per_queued_job = num_inputs_per_queued_job
        self.pre_cmds = list(pre_cmds)
        self.post_cmds = list(post_cmds)
        self.env_vars = list(env_vars)
        self.input_files = list(input_files)
        self.output_files = list(output_files)
        self.header_extra = list(header_extra)
        self.exact_fit = exact_fit
        self.partial_node = partial_node
        self.timeout = timeout
        self.check_interval = check_interval
        self.ignore_failed_jobs = ignore_failed_jobs
        self.resubmit_killed_jobs = resubmit_killed_jobs
        self.hash_ignore = list(hash_ignore)
        self.retry = retry
        self.matched_key: str | None = None

    @classmethod
    def fields(cls) -> dict[str, bool]:
        """Return the names of the keywords, each with whether it must be given."""
        parameters = list(inspect.signature(cls).parameters.values())
        return {p.name: p.default is p.empty for p in parameters}

    def get_resources(self) -> Resources:
        """Return ``resources`` as an object of that class."""
        from expyre.resources import Resources

        return Resources(**self.resources) if isinstance(self.resources, Mapping) else self.resources

    def items_per_job(self, num_inputs_per_python_subprocess: int) -> int:
        """Return the number of items of one job, given the number of items of one call of the operation."""
        if self.num_inputs_per_queued_job < 0:
            return -self.num_inputs_per_queued_job * num_inputs_per_python_subprocess
        return max(1, self.num_inputs_per_queued_job)

    def __str__(self) -> str:
        return (
            f"{self.sys_name} {self.job_name} {self.resources} {self.num_inputs_per_queued_job} {self.exact_fit} "
            f"{self.partial_node} {self.timeout} {self.check_interval}"
        )
