"""Names of the files in a job's directory."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "run_"
TASK: Final = "_expyre_task_in.pckl"
RUNNER: Final = "_expyre_script_core.py"
KEY: Final = "_expyre_job_key"
PRE_RUN: Final = "_expyre_pre_run_commands"
POST_RUN: Final = "_expyre_post_run_commands"
ENV_VARS: Final = "_expyre_env_vars"
OUTPUT_FILES: Final = "_expyre_output_files"
RANKS: Final = "_expyre_ranks"
SHARED: Final = "_expyre_shared_"
"""How the names of files begin that several jobs have in common: hard links, so never to be written into."""

NODE: Final = SHARED + "node.zip"
"""The programs that start MPI ranks and are started as such."""

STARTED: Final = "_expyre_job_started"
SUCCEEDED: Final = "_expyre_job_succeeded"
ERROR: Final = "_expyre_job_error"
EXCEPTION: Final = "_expyre_job_exception"
TERMINATED: Final = "_expyre_job_terminated"
CLEANED: Final = "_expyre_job_cleaned"
STDOUT: Final = "_expyre_stdout"
STDERR: Final = "_expyre_stderr"

TMP_SUCCEEDED: Final = "_tmp_expyre_job_succeeded"
TMP_ERROR: Final = "_tmp_expyre_job_error"
TMP_EXCEPTION: Final = "_tmp_expyre_job_exception"

OWN_PREFIXES: Final = ("_expyre", "_tmp_expyre")
"""How the names of this package's own files in a job's directory begin."""

LARGE_FILES: Final = (TASK, SUCCEEDED)
"""What is emptied when a job is cleaned."""

# All that a run leaves behind: to be removed before the same directory is run again.
OF_A_RUN: Final = (
    SUCCEEDED,
    ERROR,
    EXCEPTION,
    TERMINATED,
    STARTED,
    STDOUT,
    STDERR,
    CLEANED,
    TMP_SUCCEEDED,
    TMP_ERROR,
    TMP_EXCEPTION,
)


def job_stdout(id: str) -> str:
    """Return the name of the file that gets the standard output of a job's script."""
    return f"job.{id}.stdout"


def job_stderr(id: str) -> str:
    """Return the name of the file that gets the standard error of a job's script."""
    return f"job.{id}.stderr"
