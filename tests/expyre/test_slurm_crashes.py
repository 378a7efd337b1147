"""kill -9 at every step, on a real Slurm behind a real sshd: no job is lost, none is submitted or run twice."""

import signal
import threading
import time

import pytest
from slurm_tools import Script

# After submit.3 the queue has the jobs, and the next run takes them over without coming to submit.4.
IN_ORDER = ["create.1", "create.2", "create.3", "submit.1", "submit.2", "submit.3", "gather.1", "gather.2", "gather.3"]


@pytest.mark.parametrize("transport", ["paramiko", "openssh"])
def test_killed_at_every_step_after_the_other(slurm_over_ssh, transport, tmp_path):
    slurm_over_ssh(transport).close()
    script = Script(tmp_path, 4)
    for step in IN_ORDER:
        script.run_until_killed_at(step)
    script.finish()


@pytest.mark.parametrize("step", ["submit.1", "submit.2", "submit.3", "submit.4"])
def test_killed_at_the_same_step_again_and_again(slurm_over_ssh, step, tmp_path):
    slurm_over_ssh().close()
    script = Script(tmp_path, 3)
    script.run_until_killed_at(step)
    if step in ("submit.1", "submit.2"):  # at the others the queue has them, and this step does not come again
        script.run_until_killed_at(step)
    script.finish()


def test_killed_at_any_moment(slurm_over_ssh, tmp_path):
    """Not between two lines of ours, but while commands and transfers are under way."""
    slurm_over_ssh().close()
    script = Script(tmp_path, 12)
    for delay in (0.6, 0.8, 1.0, 1.2, 1.5, 2.0):
        process = script.start()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    script.finish()


def test_two_scripts_on_one_record(slurm_over_ssh, tmp_path):
    slurm_over_ssh().close()
    script = Script(tmp_path, 8)
    results = []
    threads = [threading.Thread(target=lambda: results.append(script.run())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert script.ran() == list(range(8)), results
    assert any(stdout == f"{[i * i for i in range(8)]}\n" for _, stdout, _ in results), results
