"""The process that starts workers, tells how they ended, and sees to it that none is left.

It is a small interpreter with one thread, so that a worker can be forked from it within milliseconds, whatever the
script has loaded; commands (``mpiexec``, ``srun``) it starts as well. When the script is gone, however it ended, all
processes that it has started are ended, with their descendants, also those that calls have put into the background: as
on a queue, nothing outlives the job.

A request, or a note to the script, is JSON with its length before it. A request to fork comes with the worker's end of
a socket. Standard library only, Python 3.9.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any, List, Optional, Sequence, Tuple  # noqa: UP035  (Python 3.9)

from ..family import end_group, end_tree
from . import messages, placing, ring, worker
from .packets import Packets
from .streams import Stream
from .words import Words

LENGTH = struct.Struct("<I")
_PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL, for commands
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def send(sock: socket.socket, note: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send a request or a note, with file descriptors if some are given."""
    data = json.dumps(note).encode()
    data = LENGTH.pack(len(data)) + data
    sent = socket.send_fds(sock, [data], list(fds)) if fds else 0
    sock.sendall(data[sent:])


def receive(sock: socket.socket) -> Optional[Tuple[dict[str, Any], List[int]]]:  # noqa: UP006, UP045  (Python 3.9)
    """Return a request or a note with the file descriptors that came with it; None if the other end is closed."""
    head, fds, _, _ = socket.recv_fds(sock, LENGTH.size, 2)
    if not head:
        return None
    data = head + b"".join(_exactly(sock, LENGTH.size - len(head)))
    note = json.loads(b"".join(_exactly(sock, LENGTH.unpack(data)[0])))
    return note, fds


def _exactly(sock: socket.socket, size: int) -> Any:
    while size:
        data = sock.recv(size)
        if not data:
            raise EOFError
        size -= len(data)
        yield data


def _prctl(option: int, value: int) -> None:
    """Ask something of Linux; elsewhere nothing happens."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(option, value)
    except (OSError, AttributeError):
        pass


def die_with_parent() -> None:
    """Have this process killed when its parent ends; where that is not possible, a killed keeper leaves workers."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent() -> None:
    """Have this process told to end when its parent does, so that it can clean up."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that they are found at the end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _handle_on(pid: int) -> Optional[int]:  # noqa: UP045  (Python 3.9)
    """Return a descriptor that becomes readable when a process ends; None where there are none.

    That the socket is closed does not tell it: processes that the script has forked have it as well.
    """
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _end_of(fds: Sequence[int], *, packets: bool) -> Any:
    """Return a worker's end of its connection."""
    for fd in fds:
        os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fds[0])
    if not packets:
        return Stream(sock)
    if len(fds) == 1:
        return Packets(sock)
    from_script, to_script = ring.share(fds[1])
    os.close(fds[1])
    return Packets(sock, to_script, from_script)


class _Keeper:
    def __init__(self, control: socket.socket, script: int) -> None:
        self._control = control
        self._script = _handle_on(script)
        self._unsent = bytearray()  # notes; to wait here for a script that waits for this process would be the end
        self._pids: dict[int, int] = {}  # process -> worker
        self._commands: dict[int, tuple[subprocess.Popen[bytes], Words]] = {}
        self._kill_at: dict[int, float] = {}
        self._litter: Optional[str] = None  # noqa: UP045  (Python 3.9)
        self._wake_r, self._wake_w = os.pipe()
        for fd in (self._wake_r, self._wake_w):
            os.set_blocking(fd, False)

    def run(self) -> None:
        """Do what is asked until the script is gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        while True:
            timeout = max(0.0, min(self._kill_at.values()) - time.monotonic()) if self._kill_at else None
            said = [words for _, words in self._commands.values() if words.reading is not None]
            sources: list[Any] = [self._control, self._wake_r, *(words.reading for words in said)]
            if self._script is not None:
                sources.append(self._script)
            ready, room, _ = select.select(sources, [self._control] if self._unsent else [], [], timeout)
            if self._wake_r in ready:
                self._drain()
            for words in said:
                if words.reading in ready:
                    words.hear()
            self._reap()
            self._kill_due()
            if room:
                self._flush()
            if self._script in ready or (self._control in ready and not self._serve()):
                return

    def _drain(self) -> None:
        try:
            while os.read(self._wake_r, 512):
                pass
        except BlockingIOError:
            return

    def _serve(self) -> bool:
        try:
            found = receive(self._control)
        except (OSError, EOFError):
            return False
        if found is None:
            return False
        request, fds = found
        if "command" in request:
            self._start(request)
        elif "kill" in request:
            self._kill(request["kill"], gently=request.get("gently", False))
        else:
            self._fork(request, fds)
        return True

    def _fork(self, request: dict[str, Any], fds: List[int]) -> None:  # noqa: UP006
        keeper = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes
            _close(fds)
            self._tell({"ended": request["worker"], "status": 127, "why": f"fork: {error.strerror}"})
            return
        if pid == 0:
            self._become_worker(request, fds, keeper)
        _close(fds)
        self._pids[pid] = request["worker"]
        self._tell({"started": request["worker"], "pid": pid})

    def _become_worker(self, request: dict[str, Any], fds: List[int], keeper: int) -> None:  # noqa: UP006
        """Serve calls, in a forked process; does not return."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.setsid()
            die_with_parent()
            if os.getppid() != keeper:
                os._exit(1)
            for each in (self._wake_r, self._wake_w, self._control.detach(), self._script):
                if each is not None:
                    os.close(each)
            os.environ.clear()
            os.environ.update(request["environ"])
            sys.path[:], sys.argv[:] = request["path"], request["argv"]
            end = _end_of(fds, packets=request["packets"])
            try:
                placing.settle(request["place"], 0, 1)
            except Exception as error:
                end.send(messages.pack(messages.NOT_READY, payload=worker.failure(error)))
                os._exit(1)
            gc.unfreeze()
            gc.enable()
            worker.serve(end)
            worker.end_process()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _start(self, request: dict[str, Any]) -> None:
        """Start a command in a session of its own."""
        words = Words()
        self._litter = request["litter"]
        try:
            process = subprocess.Popen(
                request["command"], env=request["environ"], cwd=request["cwd"], stdin=subprocess.DEVNULL,
                stderr=words.writing, start_new_session=True, preexec_fn=end_with_parent,
            )  # fmt: skip
        except OSError as error:
            words.close()
            self._tell({"ended": request["worker"], "status": 127, "why": f"{request['command'][0]}: {error.strerror}"})
            return
        finally:
            os.close(words.writing)
        self._commands[process.pid] = process, words
        self._pids[process.pid] = request["worker"]
        self._tell({"started": request["worker"], "pid": process.pid})

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._pids.pop(pid, None)
            self._kill_at.pop(pid, None)
            process, words = self._commands.pop(pid, (None, None))
            if process is not None:
                process.returncode = 0  # reaped here; no other wait is wanted
            if number is not None:
                end_group(pid)
                said = words.last() if words is not None else ""
                self._tell({"ended": number, "status": os.waitstatus_to_exitcode(status), "words": said})

    def _kill(self, number: int, *, gently: bool) -> None:
        for pid in [pid for pid, each in self._pids.items() if each == number]:
            if gently and pid in self._commands:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGTERM)
                self._kill_at[pid] = time.monotonic() + _PATIENCE
            else:
                end_tree(pid)

    def _kill_due(self) -> None:
        for pid in [pid for pid, due in self._kill_at.items() if due <= time.monotonic()]:
            del self._kill_at[pid]
            end_tree(pid)

    def _tell(self, note: dict[str, Any]) -> None:
        data = json.dumps(note).encode()
        self._unsent += LENGTH.pack(len(data)) + data
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._control.send(self._unsent, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()  # the script is gone; seen at the next read

    def close(self) -> None:
        """End all that is left: what is started by commands first gets a chance to clean up."""
        for pid in list(self._pids):
            self._kill(self._pids[pid], gently=True)
        deadline = time.monotonic() + _PATIENCE
        while self._commands and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        end_tree(os.getpid(), itself=False)
        if self._litter is not None:
            shutil.rmtree(self._litter, ignore_errors=True)


def main(fd: int, script: int) -> None:
    """Keep workers for the script at the other end of a socket, the process that has started this one."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the script, which decides what becomes of its workers
    try:
        import cloudpickle  # noqa: F401  most workers need it
    except ImportError:
        pass
    gc.collect()
    gc.disable()
    gc.freeze()
    adopt_orphans()
    keeper = _Keeper(socket.socket(fileno=fd), script)
    try:
        keeper.run()
    finally:
        keeper.close()
