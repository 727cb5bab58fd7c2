# Everything starts from here; all that is needed is Python 3.11 (or later) and make.

.DEFAULT_GOAL := help
.PHONY: help demo test verify model faults bench check format coverage wheel clean

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# Tests start Python by the hundred; without bytecode files each would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

# make test SERVER=redis: start redis-server from PATH in place of the embedded Valkey.
SERVER ?=
# make test ARGS="-k cron -x": more arguments for pytest. ARGS=-n0: in one process, not one per core.
ARGS ?=
# make verify EXAMPLES=5000 SEED=7; the seeded simulations alone: make verify ARGS="-k simulation"
EXAMPLES ?= 500
SEED ?=
# make faults SEED=7 MINUTES=10, or SEED=1 JOBS=20000 FAULTS=100; AWAY=0: without the long outage
MINUTES ?=
JOBS ?=
FAULTS ?=
AWAY ?=

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.installed ## the first example, on the embedded server
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.installed ## all tests, property tests included; SERVER=redis: not on the embedded Valkey
	$(if $(SERVER),TRIO_TASKS_TEST_SERVER=$(SERVER)) \
		$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

verify: $(VENV)/.installed ## the property tests alone; EXAMPLES=count SEED=number
	@seed='$(SEED)'; \
	seed=$${seed:-$$($(BIN)/python -c 'import random; print(random.randrange(10**9))')}; \
	echo "seed $$seed, $(EXAMPLES) examples each; again: make verify SEED=$$seed EXAMPLES=$(EXAMPLES)"; \
	EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n auto --dist worksteal property_tests \
		--hypothesis-seed=$$seed $(ARGS)

model: $(VENV)/.installed ## explore all worlds of the protocol model, the large ones too (minutes)
	$(BIN)/python -m tests.model

faults: $(VENV)/.installed ## kill workers and servers for minutes, then count; SEED= MINUTES= JOBS= FAULTS=
	$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(FAULTS),--faults $(FAULTS)) $(if $(AWAY),--away $(AWAY))

bench: $(VENV)/.installed ## this engine beside its peers (an hour); ARGS=--quick: a first look
	$(BIN)/python -m examples.benchmarks --output build/benchmarks $(ARGS)

check: $(VENV)/.installed ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/flake8 .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(VENV)/.installed ## what the tests reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine
	$(BIN)/coverage report

wheel: $(VENV)/.installed ## build dist/*.whl
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean: ## remove the environment and what tools leave behind
	rm -rf .venv .venv-ci build dist .coverage* .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache

# A stamp, so that the environment follows pyproject.toml and is not made anew each time.
$(VENV)/.installed: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or later is needed: make PYTHON=/path/to/python' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
