"""Words that mean something to shells, queues and terminals, and jobs that carry them there and back."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from slurm_tools import outcomes_of

from expyre.func import Call, ExPyRe, create_jobs, start_jobs

CANARY = "xprcanary"
FRAGMENTS = (
    f"'; touch {CANARY}; '",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f'"; touch {CANARY}; "',
    f"; touch {CANARY} #",
    f"& touch {CANARY} &",
    f"| tee {CANARY}",
    f"\ntouch {CANARY}\n",
    f"\n#$ -o {CANARY}\n#PBS -o {CANARY}\n#SBATCH --output={CANARY}\n",
    f"> {CANARY} <",
    "${HOME}$USER$1",
    "-rf",
    "--help",
    "~",
    "!x",
    "\\",
    "%j%%\\%a",
    "*?[a-z]{a,b}",
    "a\tb\r",
    " ",
    "éß中😀\u2028\x0b",
    "\x1b[31m\x07\x7f",
    "\udcff\udc80",
    "'",
    '"',
    "end\\",
    "\\n",
    "EOF\n",
    ":,^@=+",
)
QUICK = settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
texts = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
    min_size=1,
    max_size=6,
).map("".join)


def without_surrogates(text: str) -> str:
    """Return a text that is valid Unicode."""
    return os.fsencode(text).decode("utf-8", "replace")


def file_name(text: str, longest: int = 200) -> str:
    """Return the name of a file that a text comes to, cut to a length in bytes."""
    name = os.fsdecode(os.fsencode(text.replace("/", "|").replace("\0", ""))[:longest])
    return name if name.strip(".") and name != CANARY else f"x{name}"


def job_name(text: str) -> str:
    """Return the name of a job that a text comes to."""
    return without_surrogates("".join("|" if char in "/[]{}*\\" else char for char in file_name(text, 90)))


def header_line(text: str) -> str:
    """Return a comment line for the head of a job script."""
    line = " ".join(without_surrogates(text).split("\n")).replace("{", "{{").replace("}", "}}")
    return f"# about {line}"


@dataclass
class Words:
    """Words for one job; one text is used for many purposes."""

    number: int
    text: str

    @property
    def name(self) -> str:
        return job_name(self.text)

    @property
    def input(self) -> str:
        return file_name(f"{self.text}{self.number}")

    @property
    def output(self) -> str:
        return file_name(f"{self.text[:60]}{self.number}.out")

    @property
    def content(self) -> bytes:
        return os.fsencode(self.text) * 50 + b"\0\xff\n"

    def call(self, variable: str) -> Call:
        """Return the call of a job that gets the words in every way there is; ``variable`` is in the environment."""
        quoted = shlex.quote(self.text)
        return Call(
            self.name,
            make_echo(),
            (self.text, self.input, self.output, [variable, "XPR_GIVEN"]),
            scope="echo",
            input_files=[self.input],
            output_files=[self.output],
            env_vars=[variable, f"XPR_GIVEN={quoted}"],
            pre_run_commands=[f"printf %s {quoted} >pre"],
            post_run_commands=[f"printf %s {quoted} >post"],
        )


def make_echo() -> Any:
    """Return the function of the jobs, which travels by value."""

    def echo(text: str, input: str, output: str, variables: Sequence[str]) -> Any:
        import os
        import sys

        with open(input, "rb") as file:
            content = file.read()
        with open(output, "wb") as file:
            file.write(content[::-1])
        with open("pre", "rb") as file:
            pre = file.read()
        sys.stdout.write(text)
        sys.stdout.flush()
        os.write(1, os.fsencode(text) + b"\xff\n")
        return text, content, pre, [os.environb[os.fsencode(name)] for name in variables]

    return echo


def launch(words: Sequence[Words], system: str, resources: dict[str, Any], header: str, **options: Any) -> list[ExPyRe]:
    """Write the input files into the current directory, and start a job for each."""
    calls = []
    for each in words:
        Path(each.input).write_bytes(each.content)
        variable = f"XPR_BARE_{each.number}"
        os.environb[variable.encode()] = os.fsencode(each.text)
        calls.append(each.call(variable))
    jobs = create_jobs(calls)
    start_jobs(jobs, resources, system, header_extra=[header_line(header)], **options)
    return jobs


def check(words: Sequence[Words], jobs: Sequence[ExPyRe]) -> None:
    """Everything has come back as it was sent."""
    outcomes = outcomes_of(jobs, check_interval=0.3)
    for each, job, outcome in zip(words, jobs, outcomes, strict=True):
        raw = os.fsencode(each.text)
        value, stdout, stderr = job.finish(outcome, quiet=True)
        assert value == (each.text, each.content, raw, [raw, raw])
        assert stdout == each.text.encode("utf-8", "backslashreplace").decode()
        assert stderr == ""
        assert Path(each.output).read_bytes() == each.content[::-1]
        assert (job.stage_dir / "post").read_bytes() == raw
        assert (job.stage_dir / f"job.{job.id}.stdout").read_bytes() == raw + b"\xff\n"


def canaries(*places: Path) -> Iterator[Path]:
    """Yield what was made by words that were executed."""
    for place in places:
        yield from (path for path in place.rglob(f"*{CANARY}") if path.name == CANARY)
    yield from (place / CANARY for place in (Path.home(), Path("/"), Path.cwd()) if (place / CANARY).exists())


def words_of(drawn: Sequence[str]) -> list[Words]:
    """Return the words of jobs: those drawn, and all fragments, a few for each job."""
    parts = ["".join(FRAGMENTS[i::5]) for i in range(5)]
    return [Words(i, text) for i, text in enumerate([*drawn, *parts])]
