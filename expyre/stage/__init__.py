"""The files of a job: staged here, run there, read back."""

from __future__ import annotations

from expyre.stage import names
from expyre.stage.commands import job_commands, read_list, staged_commands
from expyre.stage.copying import copy_glob
from expyre.stage.reading import Markers, error_text, markers, read_exception, read_result, reset, streams
from expyre.stage.task import Staged, StageRequest, stage, write_task

__all__ = [
    "Markers",
    "StageRequest",
    "Staged",
    "copy_glob",
    "error_text",
    "job_commands",
    "markers",
    "names",
    "read_exception",
    "read_list",
    "read_result",
    "reset",
    "stage",
    "staged_commands",
    "streams",
    "write_task",
]
