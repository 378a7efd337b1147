# make demo    set up and run the main job on the embedded local system
# make test    set up and run the tests; PYTEST_ARGS adds options (--runslow, --runremote, -k …)
# make test-remote  the tests for users' own systems, on a Slurm over SSH that is brought up here
# make test-mpi  the tests that run under mpiexec
# make lint    style and types
# make docs    the documentation, warnings are errors
# make bench   the benchmarks, ratios against the alternatives in the same run

PYTHON_IN_VENV = .venv/bin/python
PYTEST_ARGS ?=
# whatever hangs: pytest is interrupted, so that it says what has failed
LIMIT = timeout --foreground --signal=INT --kill-after=120 4200
# what tests use if it is there: a probe, or a probe and its Debian package
TEST_PACKAGES = rsync ssh=openssh-client sshd=openssh-server /usr/lib/openssh/sftp-server=openssh-sftp-server \
	munged=munge slurmctld slurmd sbatch=slurm-client \
	/usr/lib/*/slurm-wlm/select_cons_tres.so=slurm-wlm-basic-plugins \
	slurmdbd mariadbd=mariadb-server /usr/lib/*/slurm-wlm/accounting_storage_mysql.so=slurm-wlm-mysql-plugin \
	sge_qmaster=gridengine-master sge_execd=gridengine-exec qconf=gridengine-client tcsh fish zsh

.PHONY: help demo test test-remote test-mpi lint docs bench clean

help:
	@sed -n 's/^# //p' Makefile

demo:
	@tools/bootstrap.sh plot
	@$(PYTHON_IN_VENV) examples/main_job/demo.py

test:
	@tools/bootstrap.sh test
	@tools/packages.sh $(TEST_PACKAGES)
	$(LIMIT) $(PYTHON_IN_VENV) -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

test-remote:
	@tools/bootstrap.sh test
	@tools/packages.sh $(TEST_PACKAGES)
	$(PYTHON_IN_VENV) tests/clusters/remote_home.py \
		$(PYTHON_IN_VENV) -m pytest -q -n 2 --dist worksteal --runremote --clean --basetemp @HOME@/pytest -m remote $(PYTEST_ARGS)

test-mpi:
	@tools/bootstrap.sh test
	WFL_MPIPOOL=2 .venv/bin/mpiexec -n 2 $(PYTHON_IN_VENV) -m pytest -q --with-mpi -m mpi tests/wfl/test_mpi.py

lint:
	@tools/bootstrap.sh test,lint
	.venv/bin/ruff check .
	.venv/bin/mypy

docs:
	@tools/bootstrap.sh docs
	.venv/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench:
	@tools/bootstrap.sh test
	@for b in benchmarks/bench_*.py; do echo "== $$b"; $(PYTHON_IN_VENV) $$b || exit 1; done

clean:
	rm -rf .venv docs/_build docs/api _demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
