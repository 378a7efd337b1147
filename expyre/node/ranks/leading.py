"""The process of a queue job whose call runs on several MPI ranks: it starts them and gathers what they return.

The ranks read the staged call themselves; this process does not unpickle anything of the user's.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

from .. import runner
from ..serving import messages
from ..serving.messages import Message
from ..starters.base import CannotStart, Starter
from ..starters.choice import starter_of_job
from ..starters.slurm import Slurm
from .gathered import Pickled, by_rank
from .request import FILE, Ranks
from .team import NotStarted, Team

__all__ = ["call_on_ranks", "main", "make_team"]

_ENDED_BY_OTHERS = (signal.SIGTERM, signal.SIGKILL)
_NUM_NODES = ("EXPYRE_NUM_NODES", "SLURM_JOB_NUM_NODES", "NHOSTS")  # the last one is of Grid Engine
_GPUS = "CUDA_VISIBLE_DEVICES"


def make_team(ranks: Ranks, **place: Any) -> Team:
    """Return the ranks, not started, that a queue job is to have.

    Parameters
    ----------
    ranks
        What is asked for.
    place
        Further entries of their place; see `expyre.node.serving.placing`.
    """
    starter = starter_of_job()
    several = not starter.one_machine and any(os.environ.get(name, "1") != "1" for name in _NUM_NODES)
    place = {**place, "threads": ranks.threads_per_core, "gpus": None if several else _gpus(ranks, starter)}
    return Team(ranks, starter, place, socket.gethostname() if several else None)


def _gpus(ranks: Ranks, starter: Starter) -> list[str] | None:
    """Return the GPUs that are to be divided among the ranks; None where the queue does it."""
    if not ranks.gpus or isinstance(starter, Slurm) or not os.environ.get(_GPUS):
        return None
    return os.environ[_GPUS].split(",")


def call_on_ranks() -> list[Pickled]:
    """Make the call that is staged in the current directory on its ranks; return what each has returned.

    Raises
    ------
    Ended
        A rank has failed, or died.
    CannotStart, NotStarted
        There are no ranks.
    """
    sys.path.insert(0, os.getcwd())  # where modules are that came as files of the job
    with open(FILE, encoding="utf-8") as file:
        team = make_team(Ranks.read(file.read()))
    try:
        failed = team.start()
        if failed is not None:
            _fail(failed)
        team.send(_call())
        answer = team.answer()
        if answer.failure is not None:
            _fail(answer.failure)
        if answer.messages is None:
            ending = team.end()
            _die(ending.status, ending.text)
        team.stop()
        return by_rank(answer.messages)
    except NotStarted as error:
        if error.ending is not None and -error.ending.status in _ENDED_BY_OTHERS:
            _die(error.ending.status, str(error))
        raise
    finally:
        team.kill()


def _call() -> bytes:
    """Return messages that let a rank make the call."""
    function = messages.Payload([pickle.dumps(runner.call_staged, messages.PROTOCOL)], [])
    nothing = messages.Payload([pickle.dumps(((), {}), messages.PROTOCOL)], [])
    pieces = messages.pack(messages.FUNCTION, payload=function) + messages.pack(messages.CALL, payload=nothing)
    return b"".join(pieces)


def _fail(message: Message) -> NoReturn:
    """Leave the exception of a rank in the job's directory, as `expyre.node.runner.report` does."""
    data, text = message.load()
    (length,) = struct.unpack(">Q", data[-8:])
    told = pickle.loads(data[length:-8])  # plain data
    if ("builtins", "Exception") in told["classes"]:
        signed = runner.sign(data, runner.read_key())
        runner.replace_file(runner.EXCEPTION, lambda file: file.write(signed))
    headline = f"Exception: {told['classes'][0][1]}: {told['text']}"
    runner.write_text(runner.ERROR, f"{headline}\n{text}")
    runner.stop_watching_time()
    raise runner.Ended(1)


def _die(status: int, text: str) -> NoReturn:
    """Leave word of ranks that have died: for a reason that the queue knows, or one of their own."""
    if -status in _ENDED_BY_OTHERS:
        if not os.path.exists(runner.TERMINATED):  # or the time limit is near
            runner.write_text(runner.TERMINATED, f"{text}\n")
        raise runner.Ended(128 - status)
    runner.write_text(runner.ERROR, f"{text[:1].upper()}{text[1:]}\n")
    runner.stop_watching_time()
    raise runner.Ended(1)


def main() -> None:
    """Make the call in the current directory; does not return."""
    runner.end_process(runner.main(_call_on_ranks))


def _call_on_ranks() -> Any:
    try:
        return call_on_ranks()
    except CannotStart as error:
        raise RuntimeError(str(error)) from None  # of which everybody has the class
    except NotStarted as error:
        raise RuntimeError(str(error)) from None
