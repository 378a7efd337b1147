"""Calls that run in workers of somebody else's executor; set up once in each process where that is asked for.

Standard library only, Python 3.9; cloudpickle is imported where a pickle needs it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Optional, Tuple  # noqa: UP035  (Python 3.9)

from . import messages, worker

_MOST_PRESETS = 4
_presets: OrderedDict[str, Any] = OrderedDict()  # values, or the failure to get any, by token
_lock = threading.Lock()

Setup = Tuple[str, Optional[bytes]]  # noqa: UP006, UP045  token and pickled function, which may be left out
Answer = Optional[Tuple[bool, bytes]]  # noqa: UP006, UP045  did it work; value or failure, pickled


def run(path: List[str], setup: Optional[Setup], cwd: Optional[str], data: bytes) -> Answer:  # noqa: UP006, UP045
    """Run a pickled call; None if this process has to be set up first and it was not said how.

    Parameters
    ----------
    path
        Where modules are that are not installed.
    setup
        What to call first, once in each process.
    cwd
        Directory to work in.
    data
        The call.
    """
    try:
        sys.path.extend(place for place in path if place not in sys.path)
        preset: Dict[str, Any] = {}  # noqa: UP006
        if setup is not None:
            found = _preset(*setup)
            if found is None:
                return None
            preset = found
        function, args, kwargs = unpack(data)
        if preset:
            kwargs = {**kwargs, **worker.missing_arguments(function, args, kwargs, preset)}
        return True, pack(in_directory(cwd, lambda: function(*args, **kwargs)))
    except BaseException as error:
        return False, packed(worker.failure(error), messages.FAILURE)


def call(setup: Optional[Tuple[str, bytes]], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:  # noqa: UP006, UP045
    """Call a function in a thread of the script itself."""
    if setup is not None:
        kwargs = {**kwargs, **worker.missing_arguments(function, args, kwargs, _preset(*setup) or {})}
    return function(*args, **kwargs)


def forget(token: str) -> None:
    """Forget what a process was set up with."""
    with _lock:
        _presets.pop(token, None)


def _preset(token: str, data: Optional[bytes]) -> Optional[Dict[str, Any]]:  # noqa: UP006, UP045
    """Return what the function of a token has returned in this process; None if it was not called and is not there."""
    with _lock:
        if token not in _presets:
            if data is None:
                return None
            _presets[token] = _set_up(data)
            while len(_presets) > _MOST_PRESETS:
                _presets.popitem(last=False)
        found = _presets[token]
    if isinstance(found, BaseException):
        raise found
    return dict(found)


def _set_up(data: bytes) -> Any:
    try:
        preset = unpack(data)()
        if not isinstance(preset, dict):
            raise TypeError(f"init_function has to return a dict of arguments, not a {type(preset).__qualname__}")
        return preset
    except Exception as error:
        return error


def in_directory(cwd: Optional[str], work: Callable[[], Any]) -> Any:  # noqa: UP045
    """Do something in a directory, which is made if it is not there."""
    if cwd is None:
        return work()
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(f"cwd={cwd!r}: this executor runs calls in threads, which have one directory in common")
    before = os.getcwd()
    os.makedirs(cwd, exist_ok=True)
    os.chdir(cwd)
    try:
        return work()
    finally:
        os.chdir(before)


def pack(value: Any) -> bytes:
    """Return a value as bytes; functions and classes of the script itself go by value.

    Raises
    ------
    Exception
        What cloudpickle raises for something that has no pickle.
    """
    return packed(messages.dump(value))


def packed(payload: messages.Payload, kind: int = messages.RESULT) -> bytes:
    """Return what was pickled as bytes."""
    return b"".join(messages.pack(kind, token=payload.by_value, payload=payload))


def unpack(data: bytes) -> Any:
    """Return the value in some bytes; arrays in it can be written to."""
    return message_in(data).load()


def message_in(data: bytes) -> messages.Message:
    """Return the message in some bytes; its token says whether code may be part of it."""
    view = memoryview(bytearray(data))
    size = messages.HEADER.size
    return messages.unpack(messages.HEADER.unpack(view[:size]), view[size:])
