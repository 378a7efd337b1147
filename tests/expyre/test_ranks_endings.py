"""What launchers of MPI say of ranks that have died: MPICH and Slurm as recorded, others as documented."""

from __future__ import annotations

import pytest

from expyre.node.ranks.endings import ending_of

MPICH = """\
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 5649 RUNNING AT vm
=   EXIT CODE: {code}
=   CLEANING UP REMAINING PROCESSES
"""
KILLED = "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n"
SRUN = """\
srun: error: node1: task 1: {how}
srun: launch/slurm: _step_signal: Terminating StepId=5.0
srun: error: node1: task 0: Terminated
"""
OPEN_MPI = "prterun noticed that process rank 1 with PID 5 on node vm exited on signal 11 (Segmentation fault)."
INTEL = "=   RANK 1 PID 5 RUNNING AT vm\n=   KILLED BY SIGNAL: 9 (Killed)\n"


@pytest.mark.parametrize(
    ("status", "output", "words", "expected"),
    [
        (9, MPICH.format(code=9) + KILLED, "", -9),
        (3, MPICH.format(code=3), "", 3),
        (9, INTEL, "", -9),
        (139, "", OPEN_MPI, -11),
        (143, "", SRUN.format(how="Killed"), -9),
        (143, "", SRUN.format(how="Segmentation fault (core dumped)"), -11),
        (143, "", SRUN.format(how="Exited with exit code 3"), 3),
        (143, "", SRUN.format(how="Out Of Memory"), -9),
        (137, "", "", -9),
        (-15, "", "", -15),
        (7, "", "no slots", 7),
        (None, "", "", 1),
    ],
)
def test_how_a_rank_has_ended(status: int | None, output: str, words: str, expected: int) -> None:
    ending = ending_of([1], 2, "launch", status, output, words)
    assert ending.status == expected
    assert ending.text.startswith("rank 1 of 2 ")
    assert expected < 0 or words in ending.text


def test_who_has_ended_where_nobody_had_come() -> None:
    text = ending_of([0, 1], 2, "launch", 7, "", "no slots").text
    assert text == "one of 2 ranks ended without an answer; launch ended with exit status 7; launch said:\nno slots"
