from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from cli_support import make_id
from click.testing import CliRunner, Result

from expyre import config
from expyre.cli.main import cli
from expyre.config import Project
from expyre.jobsdb import JobsDB, NewJob


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project of its own, the current directory of the test, with jobs on this machine."""
    directory = tmp_path / ".expyre"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"systems": {}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPYRE_ROOT", str(directory))
    monkeypatch.setenv("EXPYRE_LOCAL_DIR", str(tmp_path / "spool"))
    monkeypatch.setattr(config, "_current", None)
    config.init(directory)
    found = config.project()
    yield found
    found.close()


@pytest.fixture
def add(project: Project) -> Callable[..., str]:
    """Put a job into the record; what is given goes over a plain created job."""
    numbers = iter(range(10_000))

    def add(name: str = "relax", *, files: dict[str, str] | None = None, **fields: Any) -> str:
        number = next(numbers)
        job_id = fields.pop("id", make_id(name, number))
        directory = Path(fields.pop("from_dir", project.stage_root / f"run_{job_id}"))
        known = {key: fields.pop(key) for key in list(fields) if key in NewJob.__dataclass_fields__}
        plain = {"id": job_id, "name": name, "from_dir": str(directory), "scope": name, "key": f"k{number}"}
        job = NewJob(**{**plain, **known})
        project.record.insert_jobs([job])
        if files is not None:
            directory.mkdir()
            for file, text in files.items():
                (directory / file).write_text(text)
        _set(project.record, job_id, fields)
        return job_id

    return add


def _set(record: JobsDB, job_id: str, fields: dict[str, Any]) -> None:
    """Write fields as they are, past all rules, as another program could."""
    columns = set(record.columns)
    for name, value in fields.items():
        table = "jobs" if name in columns else "details"
        record.db.execute(f'UPDATE {table} SET "{name}" = ? WHERE id = ?', (value, job_id))


def runner() -> CliRunner:
    """Return a runner that keeps the two streams apart, which click before 8.2 has to be told."""
    apart: Any = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    return CliRunner(**apart)


@pytest.fixture
def xpr(project: Project) -> Callable[..., Result]:
    """Call the command line in this process; the exit code must be the one expected."""

    def xpr(*words: str, code: int = 0, answers: str | None = None) -> Result:
        result = runner().invoke(cli, list(words), input=answers, prog_name="xpr")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return xpr
