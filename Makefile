# `make run` starts the daemon on SQLite, `make test` runs all tests against real servers. `make help` lists all targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
STATE ?= .state
# Tests mostly wait for servers and processes: one worker more than there are cores, at most 4.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n + 1 : 4)))
UV := $(BIN)/python -m uv
# uv has a list of certificate authorities of its own; that of the system also has those of a company's proxy.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= true
endif
# Without compiled bytecode the first start of each command takes twice as long.
# On a terminal uv shows its progress.
SYNC = UV_PROJECT_ENVIRONMENT='$(abspath $(VENV))' $(UV) sync --frozen --inexact --compile-bytecode $$([ -t 2 ] || echo --quiet)
# Descriptions of the shipped jobs: without them the daemon imports every job module at its first start.
DESCRIPTIONS := $(VENV)/share/maintd/job_descriptions.json
SOURCES := $(wildcard jobs/*.py maintd/*.py) $(shell find maintd -mindepth 2 -name '*.py') schedules.yaml

.PHONY: help run test test-fast lint check servers docs data bench bench-parts endurance fuzz clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# Before anything else: an environment that was moved, or whose Python is gone, must not look up to date.
ifneq ($(filter-out help clean servers,$(MAKECMDGOALS)),)
ifneq ($(shell .ci/make-venv $(VENV) && echo made),made)
$(error no Python environment in $(VENV); see above)
endif
endif

$(VENV)/runtime: uv.lock pyproject.toml
	@echo 'Installing the packages that maintd needs in $(VENV), from uv.lock (half a minute to three)'
	@$(SYNC) --no-dev
	@touch $@

$(VENV)/dev: uv.lock pyproject.toml
	@echo 'Installing the packages that maintd and its tests need in $(VENV), from uv.lock (half a minute to three)'
	@$(SYNC)
	@touch $@ $(VENV)/runtime

$(DESCRIPTIONS): $(VENV)/runtime $(SOURCES)
	@echo 'Describing the shipped jobs'
	@$(BIN)/python -m maintd.calendar.prebuild $@ || echo 'The daemon describes the jobs when it starts' >&2

run: $(VENV)/runtime $(DESCRIPTIONS) ## set up and run the daemon in the foreground, on SQLite, with the shipped calendar
	@$(BIN)/maintd --state-dir $(STATE) validate
	@echo 'Starting the daemon; in another terminal: $(BIN)/maintd --state-dir $(STATE) status'
	@exec $(BIN)/maintd --state-dir $(STATE) serve --trigger health_check

servers: ## install the servers that the tests start (Debian packages, as root)
	@bash tests/support/servers/install

test: $(VENV)/dev $(DESCRIPTIONS) servers ## set up and run all tests
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q $(ARGS)

test-fast: $(VENV)/dev $(DESCRIPTIONS) ## run the unit and contract tests that need no servers
	@$(BIN)/pytest -n $(WORKERS) -q -m 'not server and not engine and not slow' tests/unit tests/contracts tests/processes tests/cli $(ARGS)

lint: $(VENV)/dev $(DESCRIPTIONS) ## check formatting, lint rules, types, import layers and generated data
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --explicit-package-bases jobs
	@$(BIN)/mypy tests/endurance
	@$(BIN)/lint-imports
	@$(BIN)/python docs/data/generate.py --check

check: lint ## check all that `lint` does, and the documentation
	@$(BIN)/pytest -q tests/docs

docs: $(VENV)/dev $(DESCRIPTIONS) ## regenerate the generated parts of docs/
	@$(BIN)/python docs/generate.py

data: $(VENV)/dev ## regenerate the modules that are made from data/, and show how old the data are
	@$(BIN)/python docs/data/generate.py

bench: $(VENV)/dev $(DESCRIPTIONS) servers ## compare with other schedulers and print tables; never fails (ARGS=--quick)
	@$(BIN)/python bench/compare.py $(ARGS) || true

bench-parts: $(VENV)/dev $(DESCRIPTIONS) servers ## measure history, its chain, executor, API, notices, archives, Redis, logs, folders and tables; never fails
	@for script in history records latency api notices archives denied_requests redis_hygiene folder_sizes postgres_tables; do \
	  echo "== bench/$$script.py"; $(BIN)/python bench/$$script.py || true; done

endurance: $(VENV)/dev $(DESCRIPTIONS) servers ## inject random faults into a running daemon for MINUTES, from SEED
	@PYTHONPATH=tests $(BIN)/python -m endurance --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)
	@PYTHONPATH=tests $(BIN)/python -m endurance.procedure_trials

# atheris is not in uv.lock, because it has no wheels for some of the Python versions that maintd supports.
fuzz: $(VENV)/dev $(DESCRIPTIONS) ## fuzz TARGET (default all) for MINUTES each; failing inputs are kept
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(UV) pip install --quiet 'atheris>=3.0,<4' \
	  || { echo 'cannot install atheris for this Python; use Python 3.11' >&2; exit 1; }
	@PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(or $(MINUTES),5) --target $(or $(TARGET),all) --seed $(or $(SEED),1)

clean: ## remove the environment and caches, not the state directory
	@if [ -e $(VENV)/made ]; then rm -rf $(VENV); elif [ -e $(VENV) ]; then echo '$(VENV) was not made by make, and is kept'; fi
	@rm -rf .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
