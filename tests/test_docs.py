"""Every code block of the README and the documentation runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page, tmp_path):
    work = tmp_path / "project"
    work.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EXPYRE_", "WFL_", "PYTEST_"))}
    env.update(
        HOME=str(work),
        EXPYRE_LOCAL_DIR=str(tmp_path / "queue"),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]]),
        OMP_NUM_THREADS="1",
    )
    command = [sys.executable, str(ROOT / "tests" / "run_page.py"), str(page)]
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, f"{page}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
