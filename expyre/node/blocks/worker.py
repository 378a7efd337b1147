"""A worker in a queue job: claims calls, has them run, leaves their results, and knows when to end.

It ends when it is told to, when it was idle for long, when nobody wants results any more, and when its time limit is
too near for another call. A call that is running then goes back in the line.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections import deque
from typing import Any, Deque, List, Mapping, Optional  # noqa: UP035  (Python 3.9)

from .. import runner
from ..family import kills_for_memory
from ..ranks.request import Ranks
from ..serving import messages
from . import spool as names
from .crew import Crew
from .ranks import RankCrew
from .spool import Label, Spool, Waiting

__all__ = ["Worker", "main"]

_FASTEST, _SLOWEST = 0.01, 1.0  # seconds between two looks for calls
_LOOK = 1.0  # seconds between two looks at the clock while a call runs
_NOTE_EVERY = 1.0  # seconds between two notes about calls that were served
_LISTED_FOR = 0.5  # seconds for which a list of calls is good: to list them takes longer than to claim one
_REMEMBERED = 20  # calls whose run times tell whether another one fits
_FAIR = 0.8  # of the time that a worker has: a call that has run for so long fits into no worker
_SCRIPT_GONE = "nothing was heard of the script"


class Worker:
    """Serves the calls of a spool.

    Parameters
    ----------
    spool
        Where they are.
    crew
        Runs them.
    idle, lease
        Seconds after which it ends if there are no calls, and if the script has given no sign of life.
    """

    def __init__(self, spool: Spool, crew: Crew | RankCrew, idle: float, lease: float) -> None:
        self.spool = spool
        self.crew = crew
        self.served = 0
        self._idle, self._lease = idle, lease
        self._known: set[int] = set()
        self._line: List[Waiting] = []  # noqa: UP006
        self._listed_at = 0.0
        self._times: Deque[float] = deque(maxlen=_REMEMBERED)  # noqa: UP006  (Python 3.9)
        self._usable: Optional[float] = None  # noqa: UP045  (Python 3.9)
        self._pulse, self._heard_at = "", time.monotonic()
        self._busy_at = time.monotonic()
        self._noted_at = 0.0
        self._pause = _FASTEST
        self._life = f"{os.getpid()}-{time.time()}"
        self._kills = kills_for_memory()

    def note(self, state: str, why: str = "") -> None:
        """Leave word of how far this worker is."""
        self._noted_at = time.monotonic()
        self.spool.note(state=state, why=why, served=self.served, life=self._life, host=os.uname().nodename)

    def serve(self) -> str:
        """Serve calls; return why no more."""
        self._settle_former_life()
        self.note("starting")
        if not self._set_up():
            return "it could not be set up"
        self._usable = runner.time_left()
        self.note("ready")
        self._busy_at = time.monotonic()
        while (why := self._why_end()) is None:
            if not self._line or time.monotonic() - self._listed_at > _LISTED_FOR:
                waiting, self._listed_at = self.spool.waiting(), time.monotonic()
                self._line = self._fitting(waiting)
                if waiting and not self._line:
                    return "no call that waits fits into the time that is left"
            label = self.spool.claim(self._line)
            if label is None:
                self._rest()
            elif not self._run(label):
                return "its time limit was near"
        return why

    def _settle_former_life(self) -> None:
        """Give back what an earlier run of this job has left: the queue may start a job again."""
        for label in self.spool.own(names.CLAIMED):
            self.spool.give_back(label)
        for label in self.spool.own(names.BEGUN):
            self._end(label, "NodeFailed", "the queue has started the worker's job again while it was running the call")

    def _why_end(self) -> Optional[str]:  # noqa: UP045
        left = runner.time_left()
        now = time.monotonic()
        if self.spool.is_stopped():
            return "it was told to"
        if left is not None and left <= 0:
            return "its time limit was near"
        if not self._hears_script():
            return f"{_SCRIPT_GONE} for {self._lease:g} s"
        if now - self._busy_at > self._idle:
            return f"there was nothing to do for {self._idle:g} s"
        return None

    def _hears_script(self) -> bool:
        pulse = self.spool.pulse()
        if pulse != self._pulse:
            self._pulse, self._heard_at = pulse, time.monotonic()
        return time.monotonic() - self._heard_at <= self._lease

    def _fitting(self, line: List[Waiting]) -> List[Waiting]:  # noqa: UP006
        """Return the calls for which there is time; a worker that has served none has as much as any can have."""
        left = runner.time_left()
        if left is None or not self._times:
            return line
        return [each for each in line if left > max(each.label.seconds, max(self._times))]

    def _rest(self) -> None:
        time.sleep(self._pause)
        self._pause = min(self._pause * 1.2, _SLOWEST)

    # -- the process that runs calls ---------------------------------------------------------------------------

    def _set_up(self) -> bool:
        """Start the process and have it call the script's init_function."""
        problem = self.crew.start()
        self._known.clear()
        if problem is not None:
            return self._could_not_set_up(problem)
        try:
            message = self.spool.setup()
        except runner.NotAuthentic as error:
            return self._could_not_set_up(names.note_of_end(0, "AuthenticationError", str(error)))
        if message is None:
            return True
        answer = self._answer() if self.crew.send(message) else None
        if answer is not None and answer[0] == messages.READY:
            return True
        return self._could_not_set_up(answer or self._death(0, "init_function", 0.0))

    def _could_not_set_up(self, data: bytes) -> bool:
        self.spool.leave(f"{names.SETUP}@{self.spool.worker}", data)
        return False

    def _answer(self) -> Optional[bytes]:  # noqa: UP045
        """Return what the process answers; None if it has ended."""
        while not self.crew.heard(_LOOK):
            self._hears_script()
        return self.crew.receive()

    def _run(self, label: Label) -> bool:
        """Run a claimed call; return whether there is time to go on."""
        self._pause = _FASTEST
        try:
            return not self.spool.begin(label) or self._run_begun(label)
        except SystemExit:  # the queue ends the job
            self.crew.kill()
            self.spool.give_back(label)
            raise
        finally:
            self._busy_at = time.monotonic()

    def _run_begun(self, label: Label) -> bool:
        if self.crew.runs and self.crew.heard(0):  # it has ended since the last call
            self.crew.reap()
        try:
            call = self.spool.call(label)
            function = self._function_of(call)
        except runner.NotAuthentic as error:
            self._end(label, "AuthenticationError", f"{error}; nothing was unpickled")
            return True
        if not self.crew.runs and not self._set_up():
            self.spool.give_back(label)
            return False
        began = time.monotonic()
        if not (self.crew.send(function) and self.crew.send(call)):
            return self._lost(label, began)
        while not self.crew.heard(_LOOK if (left := runner.time_left()) is None else max(0.0, min(left, _LOOK))):
            self._hears_script()
            left = runner.time_left()
            if left is not None and left <= 0:
                self._out_of_time(label, time.monotonic() - began)
                return False
        answer = self.crew.receive()
        if answer is None:
            return self._lost(label, began)
        self._done(label, answer, time.monotonic() - began)
        return True

    def _function_of(self, call: bytes) -> bytes:
        """Return the message that brings a call's function; nothing if the process has it, or the call brings it."""
        kind, _, _, token, *_ = messages.HEADER.unpack_from(call)
        if kind == messages.FUNCTION or (self.crew.runs and token in self._known):
            return b""
        message = self.spool.function(token)
        self._known.add(token)
        return message

    def _done(self, label: Label, answer: bytes, seconds: float) -> None:
        self.spool.finish(label, answer)
        self.served += 1
        self._times.append(seconds)
        if time.monotonic() - self._noted_at > _NOTE_EVERY:
            self.note("ready")

    def _lost(self, label: Label, began: float) -> bool:
        """Report a call whose process has ended under it; the next one gets a new process."""
        self._done(label, self._death(label.ticket, "the call", time.monotonic() - began), time.monotonic() - began)
        return True

    def _death(self, ticket: int, what: str, seconds: float) -> bytes:
        ending = self.crew.reap()
        self._known.clear()
        kills, before = kills_for_memory(), self._kills
        self._kills = kills
        if ending.status == -signal.SIGKILL and kills > before:
            text = "the system killed its worker because memory had run out"
            return names.note_of_end(ticket, "OutOfMemory", text, seconds)
        return names.note_of_end(ticket, "WorkerDied", f"{ending.text} while it was running {what}", seconds)

    def _out_of_time(self, label: Label, seconds: float) -> None:
        """Give a call back that will not be done in time, or end it if it would be so in any worker."""
        self.crew.kill()
        if self._usable is not None and seconds >= _FAIR * self._usable:
            text = f"was still running after {seconds:.0f} s, and a worker has no more than {self._usable:.0f} s for it"
            self._end(label, "TimedOut", text, seconds)
        else:
            self.spool.give_back(label, math.ceil(seconds))

    def _end(self, label: Label, reason: str, text: str, seconds: float = 0.0) -> None:
        self.spool.finish(label, names.note_of_end(label.ticket, reason, text, seconds))


def main(path: str, settings: Mapping[str, Any]) -> None:
    """Serve the calls of a spool, in a queue job.

    Parameters
    ----------
    path
        The spool directory.
    settings
        ``worker``: the worker's name; ``idle``, ``lease``: see `Worker`; ``place``: see `Crew`; ``ranks``: those of
        `Ranks`, if each call runs on MPI ranks. JSON.
    """
    ranks, place = settings.get("ranks"), settings["place"]
    crew = Crew(place) if ranks is None else RankCrew(Ranks(*ranks), place)
    worker = Worker(Spool(path, settings["worker"]), crew, float(settings["idle"]), float(settings["lease"]))
    why = "its job was ended"
    try:
        why = worker.serve()
        worker.crew.stop()
    finally:
        worker.crew.kill()
        if os.path.isdir(os.path.join(path, names.WORKERS)):
            worker.note("ended", why)
