"""The files of a job: staged here, run there, read back."""

from __future__ import annotations

from expyre.stage import names
from expyre.stage.commands import job_commands, planned_commands, read_list
from expyre.stage.copying import copy_glob, copy_tree
from expyre.stage.keeping import clean, copy_outputs, reset, shared_files
from expyre.stage.names import ERROR as ERROR_FILE
from expyre.stage.names import KEY as KEY_FILE
from expyre.stage.names import LARGE_FILES
from expyre.stage.names import STARTED as STARTED_FILE
from expyre.stage.names import SUCCEEDED as RESULT_FILE
from expyre.stage.names import TASK as TASK_FILE
from expyre.stage.reading import (
    Markers,
    Streams,
    error_text,
    markers,
    read_exception,
    read_result,
    read_task,
    streams,
    times,
)
from expyre.stage.sharing import Sharing, Triple
from expyre.stage.task import Staged, StageRequest, stage, write_task

__all__ = [
    "ERROR_FILE",
    "KEY_FILE",
    "LARGE_FILES",
    "RESULT_FILE",
    "STARTED_FILE",
    "TASK_FILE",
    "Markers",
    "Sharing",
    "StageRequest",
    "Staged",
    "Streams",
    "Triple",
    "clean",
    "copy_glob",
    "copy_outputs",
    "copy_tree",
    "error_text",
    "job_commands",
    "markers",
    "names",
    "planned_commands",
    "read_exception",
    "read_list",
    "read_result",
    "read_task",
    "reset",
    "shared_files",
    "stage",
    "streams",
    "times",
    "write_task",
]
