from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from wfl.generate.md import md
from wfl.generate.md.abort import AbortOnCollision, AbortOnLowEnergy
from wfl.generate.md.abort_base import AbortSimBase


class Scripted(AbortSimBase):
    def __init__(self, answers, n_failed_steps=1):
        super().__init__(n_failed_steps)
        self.answers = answers

    def atoms_ok(self, at):
        return self.answers[len(self.ok_history)]


def dimer(distance, energy=0.0):
    at = Atoms("Cu2", positions=[[0, 0, 0], [distance, 0, 0]])
    at.calc = SinglePointCalculator(at, energy=energy)
    return at


def per_item(n):
    return [{"item_i": i, "rng": rng} for i, rng in enumerate(np.random.default_rng(1).spawn(n))]


@pytest.mark.parametrize(
    ("answers", "n", "stops"),
    [
        ([False], 1, [True]),
        ([False, False, False], 3, [False, False, True]),
        ([False, False, True, False, False, False], 3, [False] * 5 + [True]),
        ([True, False, False], 2, [False, False, True]),
    ],
)
def test_row_of_bad_steps(answers, n, stops):
    check = Scripted(answers, n)
    assert [check.stop(dimer(1.0)) for _ in answers] == stops
    assert check.ok_history == answers


def test_number_of_steps_makes_sense():
    with pytest.raises(ValueError, match="at least 1"):
        AbortOnCollision(1.0, n_failed_steps=0)


def test_collision():
    check = AbortOnCollision(2.0, n_failed_steps=2)
    assert check.atoms_ok(dimer(2.1))
    assert not check.atoms_ok(dimer(1.9))
    assert AbortOnCollision({("Cu", "Al"): 2.0}).atoms_ok(dimer(1.9))


@pytest.mark.parametrize("delta", [0.5, -0.5])
def test_low_energy(delta):
    check = AbortOnLowEnergy(delta)
    assert [check.stop(dimer(2.0, energy)) for energy in (10.0, 12.0, 9.1, 8.9)] == [False, False, False, True]
    check.reset()
    assert not check.stop(dimer(2.0, 8.0))


def test_run_ends_with_the_bad_frame_and_each_configuration_starts_afresh():
    check = AbortOnCollision(10.0, n_failed_steps=3)
    ats = [bulk("Cu", cubic=True)] * 2
    trajectories = md.op(
        ats, (EMT, None, None), 20, 1.0, temperature=300.0, abort_check=check, _autopara_per_item_info=per_item(2)
    )
    for frames in trajectories:
        assert [frame.info["MD_step"] for frame in frames] == [0, 1, 2]
        assert frames[-1].info["last_op__md_failure"].startswith("MDAborted: AbortOnCollision ended the run at step 2")
    assert check.ok_history == []


def test_abort_is_raised_on_request():
    with pytest.raises(RuntimeError, match="ended the run at step 0"):
        md.op(
            [bulk("Cu")], (EMT, None, None), 3, 1.0, temperature=300.0, abort_check=Scripted([False]),
            skip_failures=False, _autopara_per_item_info=per_item(1),
        )  # fmt: skip


def test_asked_at_sampled_steps_only():
    check = Scripted([True, True, False])
    (frames,) = md.op(
        [bulk("Cu", cubic=True)], (EMT, None, None), 9, 1.0, temperature=300.0, abort_check=check,
        traj_step_interval=2, _autopara_per_item_info=per_item(1),
    )  # fmt: skip
    assert [frame.info["MD_step"] for frame in frames] == [0, 2, 4]
