# Two commands: `make run` (the daemon on SQLite, useful at once) and `make test` (all tests, on real servers).
# `make help` lists the others.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
STATE ?= .state
WORKERS ?= 2
UV := $(BIN)/python -m uv
# Bytecode is compiled when the environment is made: without it every start of the command takes twice as long.
SYNC := $(UV) sync --frozen --inexact --compile-bytecode --quiet

.PHONY: help run test test-fast check servers docs bench bench-parts endurance fuzz clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(VENV)/made:
	@[ -n "$(PYTHON)" ] || { echo 'maintd needs Python 3.11 or later: install it (Debian 12: apt-get install python3)' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null && $(PYTHON) -m venv $(VENV); \
	  else echo 'this Python has no venv: apt-get install python3-venv' >&2; exit 1; fi; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	@touch $@

$(VENV)/runtime: $(VENV)/made uv.lock pyproject.toml
	@$(SYNC) --no-dev
	@touch $@

$(VENV)/dev: $(VENV)/made uv.lock pyproject.toml
	@$(SYNC)
	@touch $@ $(VENV)/runtime

run: $(VENV)/runtime ## set up and run the daemon in the foreground, on SQLite, with the shipped calendar
	@$(BIN)/maintd --state-dir $(STATE) validate
	@echo 'in another terminal: $(BIN)/maintd --state-dir $(STATE) status'
	@exec $(BIN)/maintd --state-dir $(STATE) serve --trigger health_check

servers: ## install the servers that tests start (Debian packages, as root)
	@bash tests/support/servers/install

test: $(VENV)/dev servers ## set up and pass all tests
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile -q $(ARGS)

test-fast: $(VENV)/dev ## unit and contract tests without servers, in seconds
	@$(BIN)/pytest -n $(WORKERS) -q -m 'not server and not engine and not slow' tests/unit tests/contracts tests/processes tests/cli $(ARGS)

check: $(VENV)/dev ## lint, types, layers, documentation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --explicit-package-bases jobs
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q tests/docs

docs: $(VENV)/dev ## write the generated parts of docs/ again
	@$(BIN)/python docs/generate.py

bench: $(VENV)/dev servers ## measure beside other schedulers and the floors; prints tables, never fails (ARGS=--quick)
	@$(BIN)/python bench/compare.py $(ARGS) || true

bench-parts: $(VENV)/dev servers ## measure single parts: history, executor, archives, Redis, logs; prints tables, never fails
	@for script in history latency archives denied_requests redis_hygiene; do \
	  echo "== bench/$$script.py"; $(BIN)/python bench/$$script.py || true; done

endurance: $(VENV)/dev servers ## faults at random for MINUTES, from SEED
	@PYTHONPATH=tests $(BIN)/python -m endurance --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

# Beside what is locked, for atheris has no wheels for some Pythons that maintd runs on.
fuzz: $(VENV)/dev ## search for inputs that break TARGET (default all) for MINUTES each; what is found is kept
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(UV) pip install --quiet 'atheris>=3.0,<4' \
	  || { echo 'atheris cannot be installed for this Python; with Python 3.11 it can' >&2; exit 1; }
	@PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(or $(MINUTES),5) --target $(or $(TARGET),all) --seed $(or $(SEED),1)

clean: ## remove the environment and caches; the state directory stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
