"""Calls of operations that come to the same whatever carries them; `outcomes` runs all of them on an executor.

As a script, ``engine_calls.py FILE``, it runs them on the ranks of MPI and writes what comes of it to the file.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from wfl.autoparallelize import autoparallelize, autoparallelized
from wfl.calculators import generic
from wfl.configset import OutputSpec
from wfl.generate.optimize import optimize

EMT_RECIPE = (EMT, None, None)
STATE: dict[str, Any] = {}


def inputs(n: int = 12) -> list[Atoms]:
    """Return crystals that are a little out of order."""
    found = []
    for i in range(n):
        found.append(bulk(("Cu", "Ag", "Au")[i % 3], cubic=True))
        found[-1].rattle(0.05, seed=i)
        found[-1].info["number"] = i
    return found


def content(configurations: Any) -> list[Any]:
    """Return all there is of configurations, every bit of it, as something that can be compared."""
    return [
        (
            atoms.cell.tobytes(), atoms.pbc.tobytes(), sorted((k, repr(v)) for k, v in atoms.info.items()),
            sorted((k, v.dtype.str, v.tobytes()) for k, v in atoms.arrays.items()),
        )
        for atoms in configurations
    ]  # fmt: skip


def on(executor: Executor | None, size: int = 2, **more: Any) -> dict[str, Any]:
    """Return the settings of a call on an executor; None: in this process."""
    where = {"executor": executor} if executor is not None else {"num_python_subprocesses": 0}
    return {"num_inputs_per_python_subprocess": size, **where, **more}


# -- operations ----------------------------------------------------------------------------------------------------


def learn(scale: float, note: str) -> None:
    """Be the initializer of `displace`: leave a scale, and a file that says how often this process was told."""
    STATE["scale"] = scale
    with open(os.path.join(note, str(os.getpid())), "a", encoding="utf-8") as f:
        f.write("x")


@autoparallelized(input_iterable_type="Atoms")
def displace(
    atoms: list[Atoms], table: Any, rng: Any = None, _autopara_per_item_info: Any = None
) -> list[Any]:
    """Displace atoms at random, by the scale of this process and a table that is the same for all.

    Parameters
    ----------
    atoms: list(Atoms)
        input configurations
    table: array
        factors
    rng: numpy.random.Generator
        source of random numbers
    """
    for at, item in zip(atoms, _autopara_per_item_info, strict=True):
        factor = STATE["scale"] * table[item["item_i"]]
        at.positions += factor * item["rng"].normal(size=at.positions.shape)
        at.info["item"] = item["item_i"]
    return [at if at.info["item"] % 4 else None for at in atoms]


def slow_at_first(items: list[int]) -> list[Atoms]:
    time.sleep(0.3 if 0 in items else 0.0)
    return [Atoms("H", info={"i": i}) for i in items]


def refuse_five(items: list[int]) -> list[int]:
    if 5 in items:
        raise LookupError("five is not there", 5)
    return items


def kill_at_seven(items: list[int], directory: str) -> None:
    time.sleep(0.3 if 7 in items else 0.02)  # until another chunk waits for this worker, and goes down with it
    for i in items:
        if i == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        Path(directory, str(i)).touch()


def call_another(items: list[int]) -> list[Atoms]:
    """Call an operation within an operation, which has to run in the same process."""
    os.environ["WFL_NUM_PYTHON_SUBPROCESSES"] = "2"
    inner = autoparallelize(tell_process, items, OutputSpec())
    return [Atoms("H", info={"alone": atoms.info["process"] == os.getpid()}) for atoms in inner]


def tell_process(items: list[int]) -> list[Atoms]:
    job = os.environ.get("SLURM_JOB_ID", "")
    return [Atoms("H", info={"process": os.getpid(), "job": job}) for _ in items]


# -- calls ---------------------------------------------------------------------------------------------------------


def evaluated(executor: Executor | None, directory: str) -> Any:
    return content(generic.calculate(inputs(), OutputSpec(), EMT_RECIPE, autopara_info=on(executor)))


def optimized(executor: Executor | None, directory: str) -> Any:
    return content(optimize(inputs(4), OutputSpec(), EMT_RECIPE, steps=4, autopara_info=on(executor, 1)))


def displaced(executor: Executor | None, directory: str) -> Any:
    table = np.linspace(1.0, 2.0, 20_000)  # too large to travel with every chunk
    rng = np.random.default_rng(11)
    info = on(executor, 1, initializer=(learn, [0.1, directory]))
    found = content(displace(inputs(40), OutputSpec(), table, rng=rng, autopara_info=info))
    times = {path.read_text(encoding="utf-8") for path in Path(directory).iterdir()}
    return found, times, rng.random()


def ordered(executor: Executor | None, directory: str) -> Any:
    return content(autoparallelize(slow_at_first, range(300), OutputSpec(), autopara_info=on(executor)))


def refused(executor: Executor | None, directory: str) -> Any:
    try:
        autoparallelize(refuse_five, range(12), None, autopara_info=on(executor, 1))
    except LookupError as error:
        return error.args, getattr(error, "__notes__", None)
    return "nothing was raised"


def nested(executor: Executor | None, directory: str) -> Any:
    before = os.environ.get("WFL_NUM_PYTHON_SUBPROCESSES")
    try:
        found = autoparallelize(call_another, range(4), OutputSpec(), autopara_info=on(executor))
        return executor is None or [atoms.info["alone"] for atoms in found] == [True] * 4
    finally:
        os.environ.pop("WFL_NUM_PYTHON_SUBPROCESSES", None)
        if before is not None:
            os.environ["WFL_NUM_PYTHON_SUBPROCESSES"] = before


CALLS: dict[str, Callable[[Executor | None, str], Any]] = {
    call.__name__: call for call in (evaluated, optimized, displaced, ordered, refused, nested)
}


def main() -> None:
    """Run all calls on the ranks of MPI, under ``mpiexec -n 3 python -m mpi4py.futures``."""
    import engine_calls  # the ranks find its operations by this name
    from mpi4py.futures import MPIPoolExecutor

    target = Path(sys.argv[1])
    with MPIPoolExecutor() as executor:
        outcomes = {}
        for name, call in engine_calls.CALLS.items():
            (target.parent / name).mkdir()
            outcomes[name] = call(executor, str(target.parent / name))
        outcomes["flight"] = engine_calls.most_in_flight(executor)
    target.write_bytes(pickle.dumps(outcomes))


def most_in_flight(executor: Any) -> int:
    """Return how many chunks of a call were given to an executor and not back yet, at most."""
    submit, under_way, most = executor.submit, set(), [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        future = submit(*args, **kwargs)
        under_way.add(future)
        most[0] = max(most[0], sum(not each.done() for each in under_way))
        return future

    executor.submit = counting
    try:
        autoparallelize(sleep_a_little, range(24), None, autopara_info=on(executor, 1))
    finally:
        del executor.submit
    return most[0]


def sleep_a_little(items: list[int]) -> None:
    time.sleep(0.03)


if __name__ == "__main__":
    main()
