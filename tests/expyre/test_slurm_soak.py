"""Two thousand jobs over SSH while everything around them fails now and then: all results are right."""

import random
import signal
import threading
import time
from collections import Counter

import pytest
from clusters.slurm_ssh import make_project, slurm_system
from slurm_tools import Faults, Script
from ssh_tools import line_to

JOBS = 2000
_SQUEUE = (
    "exit 0",
    "exit 1",
    "head -c 300 /dev/urandom; exit 0",
    '/usr/bin/squeue "$@" | head -c 400; exit 0',
    "sleep 1",
)


class Trouble:
    """Makes trouble of random kinds until told to stop; everything is whole again after each."""

    def __init__(self, draw, slurm, login, line, faults):
        self.draw, self.slurm, self.login, self.line, self.faults = draw, slurm, login, line, faults
        self.kinds = [self.cut, self.server_away, self.controller_away, self.listing, self.submitting, self.node_down]
        self.script = None
        self.made = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(self.draw.uniform(3, 10)):
            kind = self.draw.choice([*self.kinds, self.kill])
            kind()
            self.made[kind.__name__] += 1

    def kill(self):
        if self.script is not None:
            self.script.send_signal(signal.SIGKILL)

    def cut(self):
        # in place of those that have not come yet: a script that seldom connects would never get through else
        self.line.breaks = [4000 + int(self.draw.expovariate(1 / 200_000)) for _ in range(2)]
        self.line.cut()

    def server_away(self):
        self.login.server.stop()
        time.sleep(self.draw.uniform(0.2, 2))
        self.login.server.start()

    def controller_away(self):
        self.slurm.stop_controller()
        time.sleep(self.draw.uniform(0.2, 2))
        self.slurm.start_controller()

    def listing(self):
        self.faults.set("squeue", self.draw.choice(_SQUEUE))
        time.sleep(self.draw.uniform(0.5, 3))
        self.faults.heal("squeue")

    def submitting(self):
        """Take the next submission, and say that it failed."""
        lose = (
            '/usr/bin/sbatch "$@" >/dev/null; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'
        )
        self.faults.set("sbatch", f"rm -f {self.faults.directory}/sbatch.fault; {lose}")

    def node_down(self):
        """Only now and then: Slurm lets two minutes pass before it starts the jobs of a failed node again."""
        if self.made["node_down"] == 0:
            name = self.draw.choice(self.slurm.nodes)
            self.slurm.set_node_down(name)
            time.sleep(1)
            self.slurm.set_node_up(name)


@pytest.mark.slow  # two thousand interpreters take minutes to start
@pytest.mark.timeout(900)
def test_all_results_are_right_whatever_fails(slurm_over_ssh, slurm_env, slurm_login, tmp_path, monkeypatch):
    slurm_over_ssh().close()
    seed = random.randrange(1 << 30)
    monkeypatch.setenv("EXPYRE_RETRY", "30 0.5")
    faults = Faults(tmp_path, "squeue", "sbatch")
    with line_to(slurm_login.server, "soak") as line:
        system = slurm_system(
            slurm_env,
            tmp_path / "rundir",
            "soak",
            transport="paramiko",
            scheduler_options=faults.options,
            retry={"max_retries": 3, "on": ["NodeFailed", "Preempted", "Lost"]},
        )
        make_project(tmp_path, {"slurm": system}).close()
        script = Script(tmp_path, JOBS)
        with Trouble(random.Random(seed), slurm_env, slurm_login, line, faults) as trouble:
            status, runs = -signal.SIGKILL, 0
            while status == -signal.SIGKILL:
                trouble.script = script.start()
                stdout, stderr = trouble.script.communicate(timeout=800)
                status, runs = trouble.script.returncode, runs + 1
    assert status == 0, (seed, stderr[-3000:])
    assert stdout == f"{[i * i for i in range(JOBS)]}\n", (seed, stderr[-3000:])
    ran = Counter(script.ran())
    again = sum(ran.values()) - JOBS
    print(f"seed {seed}: {runs} runs of the script, {dict(trouble.made)}; {again} jobs started again by Slurm")
    assert set(ran) == set(range(JOBS))
    if not trouble.made["node_down"]:
        assert again == 0, seed
    else:
        assert again <= 2 * slurm_env.cpus, (seed, again)
