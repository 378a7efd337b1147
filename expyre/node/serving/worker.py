"""The worker's side: receive functions and calls, send back values and exceptions, until told to stop.

Standard library only, Python 3.9; cloudpickle is imported where a pickle needs it.
"""

from __future__ import annotations

import atexit
import inspect
import os
import pickle
import sys
import threading
import time
from typing import Any, Callable, Mapping  # noqa: UP035  (Python 3.9)

from .. import runner
from . import messages
from .messages import Message, Payload, pack

__all__ = ["end_process", "failure", "missing_arguments", "serve"]


def failure(error: BaseException, who: str = "") -> Payload:
    """Return an exception, and its traceback as text, as plain data that can be read anywhere.

    Parameters
    ----------
    error
        The exception.
    who
        Who of several has raised it; becomes a note of it.
    """
    if who:
        _note(error, f"on {who}")
    text = runner.error_text(error).partition("\n")[2]
    data = (runner.exception_bytes(error), text if who in text else f"On {who}:\n{text}")  # no notes before 3.11
    return Payload([pickle.dumps(data, messages.PROTOCOL)], [])


def _note(error: BaseException, text: str) -> None:
    try:
        error.__notes__ = [*getattr(error, "__notes__", ()), text]  # type: ignore[attr-defined]
    except Exception:  # of a class without attributes
        return


def missing_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values in ``given`` for parameters of the function that the call leaves out."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of functions written in C
        return {}
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = {each.name for each in [p for p in parameters if p.kind in by_position][: len(args)]}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in parameters if p.kind in by_name and p.name not in taken and p.name not in kwargs]
    return {name: given[name] for name in names if name in given}


_NOT_HERE: Any = object()


class _Unreadable:
    """Takes the place of a function whose pickle cannot be read."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        kind, text = type(self._error).__name__, runner.text_of(self._error)
        raise RuntimeError(
            f"the function cannot be unpickled in the worker: {kind}: {text}. sys.path is {sys.path}"
        ) from self._error


class _Server:
    def __init__(self, end: Any, who: str) -> None:
        self._end = end
        self._who = who
        self._functions: dict[int, Any] = {}  # what cannot be called says so when it is
        self._preset: dict[str, Any] = {}
        self._message: Message | None = None
        self._handle: dict[int, Callable[[], None]] = {
            messages.SETUP: self._set_up,
            messages.FUNCTION: self._take_function,
            messages.FORGET: self._forget,
            messages.CALL: self._call,
        }

    def loop(self) -> None:
        """Handle messages until told to stop, or until there is nobody any more."""
        while True:
            message = self._end.receive()
            if message is None or message.kind == messages.STOP:
                return
            handle, self._message, message = self._handle[message.kind], message, None
            handle()

    def _taken(self) -> Message:
        """Return the message, of which nothing is kept: arguments may be large."""
        message, self._message = self._message, None
        assert message is not None
        return message

    def _set_up(self) -> None:
        try:
            function = self._taken().load()
            preset = function()
            if not isinstance(preset, dict):
                raise TypeError(f"init_function has to return a dict of arguments, not a {type(preset).__qualname__}")
            self._preset = preset
        except BaseException as error:
            self._end.send(pack(messages.NOT_READY, payload=failure(error, self._who)))
        else:
            self._end.send(pack(messages.READY))

    def _take_function(self) -> None:
        message = self._taken()
        try:
            self._functions[message.token] = message.load()
        except BaseException as error:
            self._functions[message.token] = _Unreadable(error)

    def _forget(self) -> None:
        self._functions.clear()

    def _call(self) -> None:
        begin = time.perf_counter()
        message = self._taken()
        token, number = message.token, message.number
        function = self._functions.get(token, _NOT_HERE)
        if token == messages.ONCE or isinstance(function, _Unreadable):
            self._functions.pop(token, None)  # next time it comes again, and may be read if there is memory, or a file
        if function is _NOT_HERE:  # it was also taken back while this call was being read
            self._end.send(pack(messages.UNKNOWN, number=number))
            return
        try:
            args, kwargs = message.load()
            del message
            if self._preset:
                kwargs = {**kwargs, **missing_arguments(function, args, kwargs, self._preset)}
            value = function(*args, **kwargs)
            kind, payload = messages.RESULT, _dump(value)
        except BaseException as error:
            kind, payload = messages.FAILURE, failure(error, self._who)
        value = args = kwargs = None  # not kept until the next call
        _flush()
        seconds = time.perf_counter() - begin
        self._end.send(pack(kind, token=payload.by_value, number=number, seconds=seconds, payload=payload))


def _dump(value: Any) -> Payload:
    try:
        return messages.dump(value)
    except Exception as error:
        where, culprit = runner.unpicklable_part(value, "result", 0)
        kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
        raise runner.Unpicklable(f"the result cannot be pickled: {where} is a {kind} ({error})") from error


def serve(end: Any, who: str = "") -> None:
    """Serve calls on one end of a connection (`packets.Packets` or `streams.Stream`) until it is closed.

    Failures name ``who`` has failed, where there are several.
    """
    try:
        _Server(end, who).loop()
    except (BrokenPipeError, ConnectionResetError):
        return


def end_process() -> None:
    """End this process as Python does: its threads, what was registered to be done at its end, MPI's own end."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        mpi = sys.modules.get("mpi4py.MPI")
        if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
            mpi.Finalize()  # otherwise the launcher kills the other ranks
    except BaseException:
        sys.excepthook(*sys.exc_info())
    _flush()
    os._exit(0)


def _flush() -> None:
    """Write out what was printed, so that it stands before what the script prints of the result."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
