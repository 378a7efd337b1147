"""Run one staged call on the compute node and leave its result, or evidence of its failure, in the job's directory.

A copy of this file lies in the directory of every job as ``_expyre_script_core.py`` and is started there by the job's
script. It needs nothing but the standard library of any Python from 3.9; cloudpickle is imported only where a pickle
needs it. The side that reads the result imports the very same functions for signing and verifying.

A signed file is an ordinary pickle followed by a trailer: a mark, the length of what precedes it (8 bytes), its sha256
(32 bytes) and the HMAC-SHA256 of mark, length and sha256 under the key of the job (32 bytes). ``pickle.load`` stops
before the trailer, so the files stay readable by hand.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import pickle
import signal
import struct
import sys
import time
from typing import Any, BinaryIO, Callable  # noqa: UP035  (Python 3.9)

TASK = "_expyre_task_in.pckl"
KEY = "_expyre_job_key"
STDOUT = "_expyre_stdout"
STDERR = "_expyre_stderr"
TERMINATED = "_expyre_job_terminated"
# Begins the names of files that many jobs have in common; the first digits of its sha256 and an ending follow.
SHARED = "_expyre_shared_"
CLOUDPICKLE = SHARED + "cloudpickle.zip"
# The job's script gives these their final names after the post-run commands.
RESULT = "_tmp_expyre_job_succeeded"
ERROR = "_tmp_expyre_job_error"
EXCEPTION = "_tmp_expyre_job_exception"

# Of the environment of a job: its time limit and what of it is kept for delivering results, in s; when it started.
MAX_TIME = "EXPYRE_MAX_TIME"
JOB_STARTED = "EXPYRE_JOB_STARTED"
TIME_MARGIN = "EXPYRE_TIME_MARGIN"
# How the text in TERMINATED begins if the time limit was near: the name of the error that it explains.
TIMED_OUT = "TimedOut"

PROTOCOL = 5
MARK = b"\nEXPYRE1\n"
TRAILER = struct.Struct(">9sQ32s32s")
STAND_IN = "_expyre_exception"


class NotAuthentic(Exception):
    """Raised when a file is truncated or does not carry the signature of its job."""


class Ended(Exception):
    """Raised when a call has ended without a result and it was said why; its argument is the exit status."""


class Unpicklable(TypeError):
    """Raised when a result cannot be sent back; says which part of it and of which type."""


def trailer(length: int, digest: bytes, key: bytes) -> bytes:
    """Return the bytes that sign content of this length and sha256."""
    head = struct.pack(">9sQ32s", MARK, length, digest)
    return head + hmac.new(key, head, hashlib.sha256).digest()


def sign(payload: bytes, key: bytes) -> bytes:
    """Return the payload with its trailer."""
    return payload + trailer(len(payload), hashlib.sha256(payload).digest(), key)


def verify(data: bytes, key: bytes, name: str) -> memoryview:
    """Return the signed part of the content of a file.

    Raises
    ------
    NotAuthentic
        The content is truncated, was altered, or was signed with another key.
    """
    if len(data) < TRAILER.size:
        raise NotAuthentic(f"{name} is truncated: {len(data)} bytes, no signature")
    mark, length, digest, signature = TRAILER.unpack_from(data, len(data) - TRAILER.size)
    if mark != MARK or length != len(data) - TRAILER.size:
        raise NotAuthentic(f"{name} is truncated or not signed ({len(data)} bytes)")
    payload = memoryview(data)[:length]
    if not hmac.compare_digest(signature, trailer(length, digest, key)[-32:]):
        raise NotAuthentic(f"{name} does not carry the signature of its job")
    if hashlib.sha256(payload).digest() != digest:
        raise NotAuthentic(f"{name} was altered or damaged: its content does not match its checksum")
    return payload


class SignedWriter:
    """File that is signed while it is written, so that large values are neither copied nor read twice."""

    def __init__(self, file: BinaryIO, key: bytes) -> None:
        self._file, self._key = file, key
        self._hash, self._length = hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        """Write bytes or a buffer."""
        self._hash.update(data)
        self._length += memoryview(data).nbytes
        return self._file.write(data)

    def finish(self) -> None:
        """Write the trailer and wait until all is on disk."""
        self._file.write(trailer(self._length, self._hash.digest(), self._key))
        self._file.flush()
        os.fsync(self._file.fileno())


def replace_file(name: str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name and rename it; leave nothing behind when that fails."""
    temporary = f"{name}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, name)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def write_text(name: str, text: str) -> None:
    """Write a text file at one stroke."""

    def write(file: BinaryIO) -> None:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())

    replace_file(name, write)


def cloudpickle_module() -> Any:
    """Return the cloudpickle module, or None where it is not installed."""
    try:
        import cloudpickle
    except ImportError:
        return None
    return cloudpickle


def write_result(value: Any, key: bytes) -> None:
    """Pickle a value into the result file, signed.

    Raises
    ------
    Unpicklable
        Neither plain pickle nor cloudpickle takes it.
    OSError
        The file cannot be written; names it.
    """
    try:
        replace_file(RESULT, lambda file: dump(value, file, key))
    except OSError as exc:
        raise OSError(exc.errno, f"the result could not be written: {exc.strerror}", os.path.abspath(RESULT)) from exc


def dump(value: Any, file: BinaryIO, key: bytes) -> None:
    """Pickle into an open file and sign it: the plain way, or with cloudpickle where that fails."""
    reasons = []
    for module in (pickle, cloudpickle_module()):
        writer = SignedWriter(file, key)
        try:
            if module is not None:
                module.Pickler(writer, PROTOCOL).dump(value)
                writer.finish()
                return
        except OSError:
            raise  # of the file, most likely: a full disk
        except Exception as exc:
            reasons.append(exc)
            file.seek(0)
            file.truncate()
    where, culprit = unpicklable_part(value, "result", 0)
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
    words = f"{type(reasons[0]).__name__}: {text_of(reasons[0])}"
    raise Unpicklable(f"the result cannot be pickled: {where} is a {kind} ({words})") from reasons[-1]


def unpicklable_part(value: Any, path: str, depth: int) -> tuple[str, Any]:
    """Return path and value of the first part that does not pickle."""
    pickler = cloudpickle_module() or pickle
    for name, part in parts_of(value) if depth < 5 else ():
        try:
            pickler.dumps(part, PROTOCOL)
        except Exception:
            return unpicklable_part(part, path + name, depth + 1)
    return path, value


def parts_of(value: Any) -> list[tuple[str, Any]]:
    """Return the parts of a container or object with what to append to its path."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", part) for i, part in enumerate(value)]
    return [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]


def exception_bytes(exc: BaseException) -> bytes:
    """Return the content of the exception file: the exception, a stand-in made of plain data, length of the first.

    The stand-in is for readers that cannot import the exception's class. An exception that does not survive pickling
    is replaced by its stand-in at once.
    """
    stand_in = pickle.dumps(describe(exc), PROTOCOL)
    first = stand_in
    for module in (pickle, cloudpickle_module()):
        try:
            data = module.dumps(exc, protocol=PROTOCOL)
            if type(pickle.loads(data)).__qualname__ == type(exc).__qualname__:
                first = data
                break
        except Exception:
            continue
    return first + stand_in + struct.pack(">Q", len(first))


def describe(exc: BaseException) -> dict[str, Any]:
    """Return an exception as plain data from which one of the same name and nearest known base can be made."""
    # an OSError keeps the names of its files elsewhere
    args = OSError.__reduce__(exc)[1] if isinstance(exc, OSError) else exc.args
    return {
        STAND_IN: 1,
        "classes": [(cls.__module__, cls.__qualname__) for cls in type(exc).__mro__],
        "args": [plain(arg) for arg in args],
        "attributes": {name: plain(value) for name, value in vars(exc).items() if name != "__notes__"},
        "text": text_of(exc),
        "notes": [str(note) for note in getattr(exc, "__notes__", ())],
    }


def plain(value: Any) -> Any:
    """Return a value that pickles anywhere: itself or its repr."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__qualname__}>"


def text_of(exc: BaseException) -> str:
    """Return str(exc), whatever the class makes of it."""
    try:
        return str(exc)
    except Exception as other:
        return f"<{type(exc).__qualname__} without text: {type(other).__name__} in its __str__>"


def error_text(exc: BaseException) -> str:
    """Return the text of the error file: a headline and the traceback with all causes."""
    headline = f"Exception: {type(exc).__qualname__}: {text_of(exc)}\n"
    try:
        import traceback

        lines = traceback.format_exception(type(exc), exc, exc.__traceback__)
    except Exception as other:
        return f"{headline}(no traceback: {type(other).__name__}: {text_of(other)})\n"
    return headline + "".join(lines)


def report(exc: BaseException, key: bytes) -> None:
    """Leave the exception in the job's directory.

    Only an ``Exception`` is handed back as an object: what means "end the process" (SystemExit, KeyboardInterrupt)
    ended the job's process, and must not end the one that waits for the job.
    """
    text = error_text(exc)
    if key and isinstance(exc, Exception):
        try:
            data = sign(exception_bytes(exc), key)
            replace_file(EXCEPTION, lambda file: file.write(data))
        except Exception as other:
            text += f"\n(the exception itself could not be saved: {type(other).__name__}: {text_of(other)})\n"
    write_text(ERROR, text)


def shared_name(reference: str) -> str:
    """Return the name of the file that has what a reference in a task stands for."""
    return f"{SHARED}{reference[:12]}.pckl"


class TaskReader(pickle.Unpickler):
    """Reads a task, and what it has in common with others from files of their own.

    A reference is the sha256 of such a file, a colon and a number that tells objects of equal content apart. As the
    task is signed, these files are authentic if they match.

    Parameters
    ----------
    data
        The pickle.
    directory
        Where the files are.
    found
        What references have led to.
    """

    def __init__(self, data: Any, directory: str = ".", found: dict[str, Any] | None = None) -> None:
        super().__init__(io.BytesIO(data))
        self._directory = directory
        self._found: dict[str, Any] = {} if found is None else found

    def persistent_load(self, reference: Any) -> Any:
        """Return what a reference stands for; the same object each time."""
        if reference not in self._found:
            path = os.path.join(self._directory, shared_name(reference))
            with open(path, "rb") as file:
                data = file.read()
            if hashlib.sha256(data).hexdigest() != reference.partition(":")[0]:
                raise NotAuthentic(f"{path} was altered or damaged: its content does not match its checksum")
            self._found[reference] = type(self)(data, self._directory, self._found).load()
        return self._found[reference]


def load_task(key: bytes) -> tuple[Callable[..., Any], Any, Any]:
    """Return function, args and kwargs of the job in the current directory.

    Raises
    ------
    NotAuthentic
        The task file, or one that it has in common with others, is damaged.
    ImportError, AttributeError, RuntimeError
        The task cannot be unpickled here; the message says what is missing and where it was looked for.
    """
    with open(TASK, "rb") as file:
        payload = verify(file.read(), key, TASK)
    if os.path.exists(CLOUDPICKLE):  # of the version that made the pickle, whatever is installed here
        sys.path.insert(0, os.path.abspath(CLOUDPICKLE))
    try:
        function, args, kwargs = TaskReader(payload).load()
    except NotAuthentic:
        raise
    except ImportError as exc:
        raise ModuleNotFoundError(cannot_unpickle(exc), name=exc.name) from exc
    except AttributeError as exc:
        raise AttributeError(cannot_unpickle(exc)) from exc
    except Exception as exc:
        raise RuntimeError(cannot_unpickle(exc)) from exc
    return function, args, kwargs


def cannot_unpickle(exc: Exception) -> str:
    """Return the message for a task that this interpreter cannot read."""
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"the function or its arguments cannot be unpickled where the job runs: {type(exc).__name__}: {text_of(exc)}. "
        f"Python is {sys.executable} {version} on {os.uname().nodename}, sys.path is {sys.path}. "
        "Install what is missing there, set PYTHONPATH in env_vars, choose python_cmd, or send the module "
        "as one of the input_files."
    )


def read_key() -> bytes:
    """Return the key of the job in the current directory."""
    with open(KEY, "rb") as file:
        return bytes.fromhex(file.read().strip().decode("ascii"))


def capture_streams() -> None:
    """Send Python's stdout and stderr to files that are flushed at each line, and crash dumps with them."""
    for name, attribute in ((STDOUT, "stdout"), (STDERR, "stderr")):
        number = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        file = io.BufferedWriter(io.FileIO(number, "wb"))
        stream = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, attribute, stream)


def seconds_from(name: str) -> float | None:
    """Return the number of seconds in an environment variable; None without one, or if it holds something else."""
    try:
        value = float(os.environ.get(name, ""))
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def time_margin(limit: float) -> float:
    """Return how much of a time limit in s is kept for delivering results."""
    margin = seconds_from(TIME_MARGIN)
    return min(max(10.0, min(0.03 * limit, 60.0)), limit / 5) if margin is None else margin


def time_left() -> float | None:
    """Return for how many seconds this job may go on working, so that its results can still be delivered.

    The end is the time limit of the job (``EXPYRE_MAX_TIME`` seconds after ``EXPYRE_JOB_STARTED``, both set by the
    job's script) less a margin: 3 % of the limit, at least 10 s and at most 60 s, but no more than a fifth of the
    limit; or ``EXPYRE_TIME_MARGIN`` seconds.

    Returns
    -------
    Seconds, negative once the margin is being used up; None outside of jobs and in jobs without a limit.
    """
    limit, started = seconds_from(MAX_TIME), seconds_from(JOB_STARTED)
    if limit is None or started is None:
        return None
    return started + limit - time_margin(limit) - time.time()


def limit_text(what: str) -> str:
    """Return the text that says that the time limit was near, and what happened then."""
    limit = seconds_from(MAX_TIME) or 0.0
    used = time.time() - (seconds_from(JOB_STARTED) or 0.0)
    return f"{TIMED_OUT}: {what} after {used:.0f} s of its time limit of {limit:g} s\n"


def watch_time() -> None:
    """Leave evidence once the time limit is near, since what ends the job then may leave no time for any.

    If the function gets done all the same, the evidence is removed.
    """

    def near(_number: int, _frame: Any) -> None:
        write_text(TERMINATED, limit_text("the function was still running"))

    left = time_left()
    near.of_the_time_limit = True  # type: ignore[attr-defined]  # others may put theirs in front of it
    try:
        if left is not None and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            signal.signal(signal.SIGALRM, near)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))
    except (ValueError, OSError, AttributeError):
        pass  # no such facility here


def stop_watching_time() -> None:
    """Remove the evidence of a function that was done in time."""
    if time_left() is None:
        return
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.unlink(TERMINATED)
    except (OSError, AttributeError):
        pass  # there is none


def watch_signals() -> list[int]:
    """Make SIGTERM leave evidence and unwind the stack; return the list that will hold the signal.

    Queues send SIGTERM shortly before they kill. The traceback is written from C at once, also when the interpreter
    is inside a long call; the rest happens when Python runs again.
    """
    received: list[int] = []

    def terminate(number: int, _frame: Any) -> None:
        received.append(number)
        left, what = time_left(), f"terminated by {signal.Signals(number).name} while the function was running"
        write_text(TERMINATED, f"{what}\n" if left is None or left > 0 else limit_text(what))
        raise SystemExit(128 + number)

    try:
        import faulthandler

        faulthandler.enable(sys.stderr)
        signal.signal(signal.SIGTERM, terminate)
        faulthandler.register(signal.SIGTERM, sys.stderr, all_threads=True, chain=True)
    except (ImportError, ValueError, OSError, AttributeError):
        pass  # no such facility here: the job's script reports the signal
    return received


def flush_streams() -> None:
    """Write out what is buffered; a full disk here must not spoil a result that is already written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue


def call_staged() -> Any:
    """Make the call that is staged in the current directory."""
    function, args, kwargs = load_task(read_key())
    return function(*args, **kwargs)


def main(call: Callable[[], Any] = call_staged) -> int:
    """Run the call in the current directory and return the exit status: 0 if its result was written."""
    key, received = b"", []
    try:
        key = read_key()
        capture_streams()
        received = watch_signals()
        watch_time()
        write_result(call(), key)
        stop_watching_time()
    except BaseException as exc:
        if received:  # being killed: the queue knows why, an error of the function would hide it
            return 128 + received[0]
        if isinstance(exc, Ended):
            return int(exc.args[0])
        report(exc, key)
        stop_watching_time()
        return 1
    finally:
        flush_streams()
    return 0


def end_process(status: int) -> None:
    """End this process with an exit status; does not return."""
    if status > 128:
        if status - 128 != signal.SIGKILL:
            signal.signal(status - 128, signal.SIG_DFL)
        os.kill(os.getpid(), status - 128)
    if (time_left() or 1.0) <= 0:
        os._exit(status)  # no time is left for threads and workers that still run
    sys.exit(status)


if __name__ == "__main__":
    end_process(main())
