# make demo    set up and run the main job on the embedded local system
# make test    set up and run the tests; PYTEST_ARGS adds options (--runslow, --runremote, -k …)
# make test-mpi  the tests that run under mpiexec
# make lint    style and types
# make docs    the documentation, warnings are errors
# make bench   the benchmarks, ratios against the alternatives in the same run

PYTHON_IN_VENV = .venv/bin/python
PYTEST_ARGS ?=

.PHONY: help demo test test-mpi lint docs bench clean

help:
	@sed -n 's/^# //p' Makefile

demo:
	@tools/bootstrap.sh plot
	@$(PYTHON_IN_VENV) examples/main_job/demo.py

test:
	@tools/bootstrap.sh test
	@tools/packages.sh rsync
	$(PYTHON_IN_VENV) -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

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
