"""A host has to bring nothing but Python: cloudpickle comes with the jobs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from expyre import stage
from expyre.node.runner import CLOUDPICKLE


def staged(tmp_path, function, *args):
    root = tmp_path / "stage"
    root.mkdir(exist_ok=True)
    return stage.stage(root, stage.StageRequest(f"j{len(list(root.iterdir()))}", function, args))


def run_bare(job):
    """Run a job with a Python that has only its standard library."""
    bare = {**os.environ, "PYTHONNOUSERSITE": "1", "PYTHONPATH": ""}
    script = "\n".join(stage.job_commands(job.directory, f"{sys.executable} -S"))
    subprocess.run(["sh"], input=script, text=True, cwd=job.directory, env=bare, check=True)
    return stage.read_result(job.directory, job.key)


def test_a_function_by_value_runs_where_cloudpickle_is_not_installed(tmp_path):
    missing = subprocess.run([sys.executable, "-S", "-c", "import cloudpickle"], capture_output=True, text=True)
    if missing.returncode == 0:
        pytest.skip("cloudpickle is in this interpreter's standard library directory")
    assert run_bare(staged(tmp_path, lambda x: x + 1, 41)) == 42
    makers = run_bare(staged(tmp_path, lambda: [lambda x: x * 2]))  # the result needs it too
    assert makers[0](3) == 6


def test_it_is_one_file_for_all_jobs_and_only_for_those_that_need_it(tmp_path):
    one, two = (staged(tmp_path, lambda x, n=n: x + n, 1) for n in range(2))
    assert os.path.samefile(one.directory / CLOUDPICKLE, two.directory / CLOUDPICKLE)
    assert not (staged(tmp_path, abs, -1).directory / CLOUDPICKLE).exists()
    assert Path(CLOUDPICKLE).name in stage.shared_files(one.directory)
