"""Findings on Python as a job finds it, and on its packages compared with those here."""

from __future__ import annotations

import re
from collections.abc import Iterator

from expyre.checkup.finding import FAILURE, OK, WARNING, Case, Finding
from expyre.checkup.script import PACKAGES

__all__ = ["commands", "packages", "python"]

_OLDEST = (3, 9)
_TROUBLE = re.compile(r"not found|no such file|error|cannot|could not|unable|unknown|not exist|denied", re.IGNORECASE)


def commands(case: Case) -> Iterator[Finding]:
    """Look at the lines that come before Python in every job, and at the shell that runs them."""
    found = case.facts.python
    if not found.began and not found.timed_out:
        evidence = f"{case.system.script_exec} does not start{_says(found.said)}"
        yield Finding(FAILURE, "script_exec", evidence, f"{case.key('script_exec')}: name a shell of {case.where}")
    if not found.began or not case.system.commands:
        return
    words = [line.strip() for line in found.said.splitlines() if _TROUBLE.search(line)]
    setting = case.key("commands")
    if not found.ready and not found.timed_out:
        evidence = f"they end the shell before Python can start{_says(found.said)}"
        yield Finding(FAILURE, "commands", evidence, f"{setting}: mend them; they may use no `exit`")
    elif words and (found.executable or "module" in words[0]):
        remedy = f"{setting}: mend or remove that line"
        if "module: command not found" in words[0] or "module: not found" in words[0]:
            remedy = (
                f"{setting}: put the line that defines it first (often `source /etc/profile`), "
                f'or {case.key("script_exec")}: "/bin/bash -l"'
            )
        yield Finding(WARNING, "commands", words[0], remedy)
    elif found.ready:
        yield Finding(OK, "commands", "run without complaint")


def python(case: Case) -> Iterator[Finding]:
    """Look for Python and at its version."""
    found = case.facts.python
    remedy = f"{case.key('commands')}: load a Python of at least {_dotted(_OLDEST)} (module load …, source …/activate)"
    if found.timed_out:
        yield Finding(FAILURE, "python", f"{found.command} gave no answer in 60 s", f"is it on a slow disk? {remedy}")
    elif not found.ready:
        return  # said of the commands
    elif not found.executable:
        what = "is not found after the system's commands" if found.missing else "does not start"
        yield Finding(FAILURE, "python", f"{found.command} {what}{_says(found.said)}", remedy, certain=found.missing)
    elif found.version < _OLDEST:
        evidence = f"{found.executable} is Python {_dotted(found.version)}, jobs need {_dotted(_OLDEST)}"
        yield Finding(FAILURE, "python", evidence, remedy, certain=True)
    elif found.version[:2] != case.here.version[:2]:
        evidence = f"{found.executable} is Python {_dotted(found.version)}, here it is {_dotted(case.here.version)}"
        also = f"functions of the script itself travel as byte code: {case.key('commands')}: load the same Python, "
        yield Finding(WARNING, "python", evidence, also + "or put functions into a module that is installed on both")
    else:
        yield Finding(OK, "python", f"{found.executable}, version {_dotted(found.version)}")


def packages(case: Case) -> Iterator[Finding]:
    """Compare packages on both sides."""
    if not case.facts.python.executable:
        return
    there, here = case.facts.python.packages, case.here.packages
    yield Finding(OK, "cloudpickle", f"{here.get('cloudpickle', '')}, travels with the jobs that need it")
    missing = [name for name in ("numpy", "ase", "wfl") if name not in there and name in here]
    if missing:
        evidence = f"{', '.join(missing)}: not there: calls of wfl cannot run as jobs, calls of other functions can"
        yield Finding(WARNING, "packages", evidence, f"if you use wfl: {_install(case, *missing)}")
    for name in PACKAGES[:-1]:
        if name in there and name != "cloudpickle":
            yield _compared(case, name, there[name], here.get(name, ""))


def _install(case: Case, *packages: str) -> str:
    """Return how packages get there: with pip, and into an environment of the user if Python is the system's own."""
    python = case.facts.python.executable
    if not python.startswith(("/usr/bin/", "/bin/")):
        return f"on {case.where}: `{python} -m pip install {' '.join(packages)}`"
    return (
        f"on {case.where}: `{python} -m venv ~/jobs && ~/jobs/bin/pip install {' '.join(packages)}`, "
        f'then {case.key("commands")}: ["source ~/jobs/bin/activate"]'
    )


def _compared(case: Case, name: str, there: str, here: str) -> Finding:
    if "?" in (there, here) or not here or _series(there) == _series(here):
        return Finding(OK, name, "there" if there == "?" else there)
    what = "; objects pickled by one may not be read by the other" if name == "numpy" else ""
    return Finding(WARNING, name, f"{there}, here {here}{what}", _install(case, f"{name}=={here}"))


def _series(version: str) -> tuple[str, ...]:
    """Return the part of a version that must agree: the major one, 0.x as a whole."""
    words = version.split(".")
    return tuple(words[: 2 if words[0] == "0" else 1])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _says(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1]}" if lines else ""
