"""Scripts that were written for the executor of pympipool run with other imports and another backend.

They are its published examples. Changed are import lines, what is opened as the executor of Flux, the name of the
backend, the directory, and, where there is no TensorFlow, what asks it for GPUs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from executor_tools import run

HEAD = """
import contextlib
from expyre import Executor
"""
FLUX = "with contextlib.nullcontext() as flux_exe:"

SUM = f"""
{FLUX}
    with Executor(max_cores=1, executor=flux_exe) as exe:
        future = exe.submit(sum, [1,1])
        print(future.result())
"""
SERIAL = f"""
def calc(*args):
    return sum(*args)

{FLUX}
    with Executor(max_cores=2, executor=flux_exe) as exe:
        fs_1 = exe.submit(calc, [2, 1])
        fs_2 = exe.submit(calc, [2, 2])
        fs_3 = exe.submit(calc, [2, 3])
        fs_4 = exe.submit(calc, [2, 4])
        print([
            fs_1.result(),
            fs_2.result(),
            fs_3.result(),
            fs_4.result(),
        ])
"""
MAP = f"""
def calc(*args):
    return sum(*args)

{FLUX}
    with Executor(max_cores=2, executor=flux_exe) as exe:
        print(list(exe.map(calc, [[2, 1], [2, 2], [2, 3], [2, 4]])))
"""
RESOURCES = f"""
def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b


{FLUX}
    with Executor(
        # Resource definition on the executor level
        max_cores=2,  # total number of cores available to the Executor
        # Optional resource definition
        cores_per_worker=1,
        threads_per_core=1,
        gpus_per_worker=0,
        oversubscribe=False,  # not available with flux
        cwd="notebooks",
        executor=flux_exe,
        hostname_localhost=False,  # only required on MacOS
        backend="local",  # optional in case the backend is not recognized
        block_allocation=False,
        init_function=None,  # only available with block_allocation=True
        command_line_argument_lst=[],  # additional command line arguments for SLURM
        disable_dependencies=False,  # option to disable input dependency resolution
        refresh_rate=0.01,  # refresh frequency in seconds for the dependency resolution
    ) as exe:
        future_obj = exe.submit(
            calc_function,
            1,   # parameter_a
            parameter_b=2,
            # Resource definition on the submission level
            resource_dict={{
                "cores": 1,
                "threads_per_core": 1,
                "gpus_per_core": 0,  # here it is gpus_per_core rather than gpus_per_worker
                "oversubscribe": False,  # not available with flux
                "cwd": "notebooks",
                "executor": flux_exe,
                "hostname_localhost": False,  # only required on MacOS
                # "command_line_argument_lst": [],  # additional command line arguments for SLURM
            }},
        )
        print(future_obj.result())
"""
BLOCK = f"""
def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b


{FLUX}
    with Executor(
        # Resource definition on the executor level
        max_cores=2,  # total number of cores available to the Executor
        block_allocation=True,  # reuse python processes
        executor=flux_exe,
    ) as exe:
        future_obj = exe.submit(
            calc_function,
            1,   # parameter_a
            parameter_b=2,
        )
        print(future_obj.result())
"""
DATA = f"""
def calc(i, j, k):
    return i + j + k

def init_function():
    return {{"j": 4, "k": 3, "l": 2}}

{FLUX}
    with Executor(max_cores=1, init_function=init_function, executor=flux_exe, block_allocation=True) as exe:
        fs = exe.submit(calc, 2, j=5)
        print(fs.result())
"""
THREADS = """
def calc(i):
    import os
    os.environ["OMP_NUM_THREADS"] = "2"
    os.environ["OPENBLAS_NUM_THREADS"] = "2"
    os.environ["MKL_NUM_THREADS"] = "2"
    os.environ["VECLIB_MAXIMUM_THREADS"] = "2"
    os.environ["NUMEXPR_NUM_THREADS"] = "2"
    import numpy as np
    return i

with Executor(max_cores=1) as exe:
    print(exe.submit(calc, 1).result())
"""
MPI = f"""
def calc(i):
    from mpi4py import MPI
    size = MPI.COMM_WORLD.Get_size()
    rank = MPI.COMM_WORLD.Get_rank()
    return i, size, rank

{FLUX}
    with Executor(max_cores=2, cores_per_worker=2, executor=flux_exe) as exe:
        fs = exe.submit(calc, 3)
        print(fs.result())
"""
GPU = f"""
import os

def get_available_gpus():
    return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]

{FLUX}
    with Executor(
        max_workers=2,
        gpus_per_worker=1,
        executor=flux_exe,
    ) as exe:
        fs_1 = exe.submit(get_available_gpus)
        fs_2 = exe.submit(get_available_gpus)
        print(fs_1.result(), fs_2.result())
"""
COUPLED = f"""
def calc_function(parameter_a, parameter_b):
    return parameter_a + parameter_b

{FLUX}
    with Executor(max_cores=2, executor=flux_exe) as exe:
        future_1 = exe.submit(
            calc_function,
            parameter_a=1,
            parameter_b=2,
        )
        future_2 = exe.submit(
            calc_function,
            parameter_a=1,
            parameter_b=future_1,
        )
        print(future_2.result())
"""
WORKSTATION = """
with Executor(max_cores=1, backend="mpi") as exe:
    future = exe.submit(sum, [1,1])
    print(future.result())
"""
THREAD_POOL = """
from concurrent.futures import ThreadPoolExecutor

with ThreadPoolExecutor(max_workers=1) as exe:
    future = exe.submit(sum, [1, 1])
    print(future.result())
"""

SAMPLES = {
    "thread": (THREAD_POOL, "2"),
    "thread_with_ours": (THREAD_POOL.replace("from concurrent.futures import", "from expyre import Executor as"), "2"),
    "sum": (SUM, "2"),
    "serial": (SERIAL, "[3, 4, 5, 6]"),
    "map": (MAP, "[3, 4, 5, 6]"),
    "resources": (RESOURCES, "3"),
    "block": (BLOCK, "3"),
    "data": (DATA, "10"),
    "threads": (THREADS, "1"),
    "ranks": (MPI, "[(3, 2, 0), (3, 2, 1)]"),
    "coupled": (COUPLED, "4"),
    "workstation": (WORKSTATION, "2"),
    "workstation_localhost": (WORKSTATION.replace("backend=", "hostname_localhost=True, backend="), "2"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(tmp_path: Path, name: str) -> None:
    text, printed = SAMPLES[name]
    assert run(HEAD + text, tmp_path, 120) == printed + "\n"


def test_sample_with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPYRE_LOCAL_GPUS", "0,1")
    printed = run(HEAD + GPU, tmp_path).strip()
    assert printed in ("['0'] ['1']", "['1'] ['0']", "['0'] ['0']")  # the second may begin after the first has ended
