"""The lines of a job's script that run the staged call and settle how it ended."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from expyre.errors import StageError
from expyre.stage import names

_SETTLE = f"""\
if [ -f {names.TMP_SUCCEEDED} ]; then
    mv -f {names.TMP_SUCCEEDED} {names.SUCCEEDED}
elif [ -f {names.TMP_ERROR} ]; then
    if [ -f {names.TMP_EXCEPTION} ]; then mv -f {names.TMP_EXCEPTION} {names.EXCEPTION}; fi
    mv -f {names.TMP_ERROR} {names.ERROR}
else
    case "$_expyre_status" in
    137|143)
        echo "python ended by signal $((_expyre_status - 128))" >> {names.TERMINATED}
        ;;
    *)
        _expyre_how="with exit status $_expyre_status"
        if [ "$_expyre_status" -gt 128 ]; then _expyre_how="by signal $((_expyre_status - 128))"; fi
        echo "the job's python ended $_expyre_how and left neither a result nor an exception" > {names.TMP_ERROR}
        mv -f {names.TMP_ERROR} {names.ERROR}
        ;;
    esac
fi
( exit "$_expyre_status" )"""


def planned_commands(
    python_cmd: str = "python3",
    *,
    env_vars: Sequence[str] = (),
    pre_run_commands: Sequence[str] = (),
    post_run_commands: Sequence[str] = (),
    ranks: bool = False,
) -> list[str]:
    """Return the lines, for any POSIX shell, that run the call staged in the current directory.

    Everything given is shell text and is not quoted. A pre-run command that fails ends the job with an error; the
    post-run commands run whatever happened before, and the marker of success or failure appears after them. Python
    ended by SIGTERM or SIGKILL is no error of the job: why that happened is known to the queue.

    Parameters
    ----------
    python_cmd
        How to start Python; may have several words.
    env_vars
        ``NAME=value`` items, exported after the pre-run commands.
    pre_run_commands, post_run_commands
        Commands; one may have several lines, several may form one construct.
    ranks
        Whether the call runs on MPI ranks.
    """
    lines = [
        f": > {names.STARTED}",
        f"rm -f {names.TERMINATED} {names.TMP_SUCCEEDED} {names.TMP_ERROR} {names.TMP_EXCEPTION}",
        "(",
        "_expyre_status=0",
        "while : ; do",
    ]
    for number, command in enumerate(pre_run_commands, 1):
        lines += [command, *_check(number, command)]
    lines += [f"export {item}" for item in env_vars]
    lines += [f"{python_cmd} {names.NODE if ranks else names.RUNNER}", "_expyre_status=$?", "break", "done"]
    lines += post_run_commands
    return [*lines, 'exit "$_expyre_status"', ")", "_expyre_status=$?", *_SETTLE.split("\n")]


def _check(number: int, command: str) -> list[str]:
    message = shlex.quote(f"pre_run_commands[{number - 1}] failed, exit status").replace("\n", " ")
    return [
        "_expyre_status=$?",
        f'if [ "$_expyre_status" -ne 0 ]; then echo {message} "$_expyre_status": '
        f"{shlex.quote(command)} > {names.TMP_ERROR}; break; fi",
    ]


def job_commands(directory: str | Path, python_cmd: str = "python3") -> list[str]:
    """Return the lines of ``planned_commands`` for a staged job, from the files in its directory."""
    return planned_commands(
        python_cmd,
        env_vars=read_list(directory, names.ENV_VARS),
        pre_run_commands=read_list(directory, names.PRE_RUN),
        post_run_commands=read_list(directory, names.POST_RUN),
        ranks=os.path.exists(os.path.join(directory, names.RANKS)),
    )


def read_list(directory: str | Path, name: str) -> list[str]:
    """Return a list of strings from a file in a job's directory (JSON, or one per line); empty without the file.

    Raises
    ------
    StageError
        The file cannot be read.
    """
    path = os.path.join(directory, name)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as exc:
        raise StageError(f"cannot read {path}: {exc}") from exc
    if text.startswith("["):
        try:
            return [str(item) for item in json.loads(text)]
        except ValueError:
            pass  # one command per line, the first beginning with a bracket
    return text.splitlines()
