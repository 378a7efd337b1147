"""Relax structures and run short molecular dynamics on them.

Nothing in this script says where the work runs: `python do_workflow.py` runs it here and now,
WFL_NUM_PYTHON_SUBPROCESSES=4 in a pool, and WFL_EXPYRE_INFO=remoteinfo.json as cached jobs.
"""

import numpy as np
from ase.calculators.emt import EMT

from wfl.configset import ConfigSet, OutputSpec
from wfl.generate.md import md
from wfl.generate.optimize import optimize

calculator = (EMT, [], {})

solids = optimize(
    ConfigSet("solids.xyz"),
    OutputSpec("relaxed.solids.xyz"),
    calculator,
    pressure=0.0,
    fmax=1e-3,
    traj_subselect="last",
)
molecules = optimize(
    ConfigSet("molecules.xyz"), OutputSpec("relaxed.molecules.xyz"), calculator, fmax=1e-3, traj_subselect="last"
)

md(
    solids + molecules,
    OutputSpec("md.xyz"),
    calculator,
    steps=200,
    dt=1.0,
    temperature=300.0,
    temperature_tau=50.0,
    integrator="Langevin",
    traj_step_interval=10,
    rng=np.random.default_rng(1),
)
