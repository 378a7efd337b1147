"""Running an operation over many items: where, in what pieces, and back in order."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .autoparainfo import AutoparaInfo
from .docstring import autoparallelize_docstring
from .rng import spawn_for_call
from .routing import get_remote_info
from .task import Task, name_of

if TYPE_CHECKING:
    import numpy as np

    from wfl.configset import ConfigSet, OutputSpec

    from .remoteinfo import RemoteInfo

__all__ = ["OpCall", "autoparallelize", "autoparallelize_docstring", "run_call"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpCall:
    """A call of an autoparallelized function, taken apart."""

    op: Callable[..., Any]
    inputs: Iterable[Any]
    outputs: OutputSpec | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    info: AutoparaInfo
    rng: np.random.Generator | None = None
    wait_for_results: bool = True

    @property
    def task(self) -> Task:
        """The operation with its arguments."""
        return Task(self.op, self.args, self.kwargs, self.info.iterable_arg, tuple(self.info.initializer))


def autoparallelize(
    func: Callable[..., Any], /, *args: Any, default_autopara_info: Mapping[str, Any] | None = None, **kwargs: Any
) -> ConfigSet | None:
    """Run an operation over all inputs: in this process, a pool, over MPI, on an executor or as queued jobs.

    Used inside a function of its own, whose name and file select the call in ``WFL_EXPYRE_INFO``::

        def scale(*args, **kwargs):
            return autoparallelize(_scale_op, *args, default_autopara_info={...}, **kwargs)

    Parameters
    ----------
    func : callable
        The operation, ``func(items, ...)``; returns one element (Atoms, list of Atoms, None) per item, or None.
    *args
        Inputs, output (an OutputSpec or None) and the further positional arguments of the operation; inputs and
        output may be keywords ``inputs`` and ``outputs`` instead.
    default_autopara_info : dict, optional
        Defaults of the fields of AutoparaInfo for this operation.
    **kwargs
        Keywords of the operation, and: ``autopara_info`` (AutoparaInfo or dict of its keywords), ``rng``
        (numpy.random.Generator; each item gets a child of it), ``wait_for_results`` (False: only start the jobs).

    Returns
    -------
    ConfigSet or None
        The results; None without output, and where jobs were not waited for.

    Raises
    ------
    Exception
        Whatever the operation raises, with a note that names the items.
    """
    return run_call(take_apart(func, args, kwargs, default_autopara_info or {}))


def take_apart(
    op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], defaults: Mapping[str, Any]
) -> OpCall:
    """Tell the arguments of the machinery from those of the operation.

    Raises
    ------
    KeyError
        Inputs are given as keyword, but the output is not.
    RuntimeError
        The output is neither an OutputSpec nor None.
    TypeError
        Inputs or output are missing.
    """
    kwargs = dict(kwargs)
    info = AutoparaInfo.from_user(kwargs.pop("autopara_info", None), defaults)
    rng = kwargs.pop("rng", None)
    wait = kwargs.pop("wait_for_results", True)
    if "inputs" in kwargs:
        if "outputs" not in kwargs:
            raise KeyError(f"{name_of(op)}: inputs is given by keyword, so outputs has to be given by keyword, too")
        inputs, outputs = kwargs.pop("inputs"), kwargs.pop("outputs")
    else:
        inputs, outputs, args = _positional(op, args, kwargs)
    _check_output(op, outputs)
    return OpCall(op, inputs, outputs, args, kwargs, info, rng, wait)


def _positional(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, tuple[Any, ...]]:
    if not args:
        raise TypeError(f"{name_of(op)} needs inputs and outputs (an OutputSpec, or None)")
    if "outputs" in kwargs:
        return args[0], kwargs.pop("outputs"), args[1:]
    if len(args) < 2:
        raise TypeError(f"{name_of(op)} needs an output after its inputs: an OutputSpec, or None")
    return args[0], args[1], args[2:]


def _check_output(op: Any, outputs: Any) -> None:
    if outputs is None:
        return
    from wfl.configset import OutputSpec

    if not isinstance(outputs, OutputSpec):
        raise RuntimeError(f"{name_of(op)}: outputs must be an OutputSpec or None, not {outputs!r}")


def run_call(call: OpCall) -> ConfigSet | None:
    """Run a call where it belongs; reuse its output if that is complete."""
    remote_info = get_remote_info(call.info.remote_info, call.info.remote_label)
    rng = spawn_for_call(call.rng)  # also if nothing is run, so that later calls see the same stream
    if call.outputs is not None and not call.outputs.overwrite and call.outputs.all_written():
        return _reuse(call, call.outputs, rng)
    from .planning import is_dry_run, plan_call

    if is_dry_run():
        return plan_call(call, remote_info, rng)
    if remote_info is not None:
        return _run_remotely(call, remote_info, rng)
    return _run_here(call, rng)


def _reuse(call: OpCall, outputs: OutputSpec, rng: np.random.Generator | None) -> ConfigSet:
    from wfl.configset.record import sidecar_path

    from .identify import call_record

    sys.stderr.write(
        f"Reusing existing output instead of doing {name_of(call.op)} since overwrite=False and output is done\n"
    )
    if outputs.files and sidecar_path(outputs.files[0]).exists():
        record = call_record(call.task, call.inputs, rng)
        differences = [] if record is None else outputs.finished(record)
        if differences:
            _log.warning(
                "The output of %s that is reused came from another call (remove the file or use overwrite=True to do "
                "it again): %s", name_of(call.op), "; ".join(differences)
            )
    return outputs.to_ConfigSet()


def _run_here(call: OpCall, rng: np.random.Generator | None) -> ConfigSet | None:
    from .pool import do_in_pool

    info = call.info
    return do_in_pool(  # type: ignore[return-value]
        info.num_python_subprocesses, info.num_inputs_per_python_subprocess, call.inputs, call.outputs, call.op,
        info.iterable_arg, info.skip_failed, info.initializer, rng, call.args, call.kwargs, executor=info.executor,
    )


def _run_remotely(call: OpCall, remote_info: RemoteInfo, rng: np.random.Generator | None) -> ConfigSet | None:
    from .remote import do_remotely

    return do_remotely(remote_info, call, rng)
