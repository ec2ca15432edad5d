# `make bookinfo` runs the demonstration, `make test` runs all tests. Both set up what they need in .venv.

PYTHON ?= python3
PORT ?= 9080
N ?= 20000
MINUTES ?= 60
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help bookinfo test lint unit e2e rotation bench grpcbench conformance push scale fuzz pythons clean

help: ## Lists the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

bookinfo: $(VENV)/.demo ## Runs Bookinfo on http://127.0.0.1:$(PORT)/productpage until Ctrl-C (PORT=9180 for another port).
	@$(BIN)/meshlib demo bookinfo --port $(PORT)

test: lint unit e2e ## Lint, types and all tests.

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

unit: $(VENV)/.test
	$(BIN)/pytest -q -n 6 --dist worksteal --ignore=tests/e2e --ignore=tests/conformance # they wait for processes: six keep two cores busy
	$(BIN)/pytest -q -n 2 tests/conformance # what is compared with Envoy has time-outs in it: not too many at once

e2e: $(VENV)/.test
	sh scripts/debian.sh
	$(BIN)/pytest -q -n 3 --dist loadfile tests/e2e

rotation: $(VENV)/.test ## Replaces certificates and roots for a minute under 200 requests a second (SECONDS=60).
	MESHLIB_TEST_ROTATION_SECONDS=$(or $(SECONDS),60) $(BIN)/pytest -q tests/e2e/test_rotations.py

bench: $(VENV)/.test ## Measures a meshed call against plain httpx over mutual TLS.
	$(BIN)/python -m bench

grpcbench: $(VENV)/.test ## Measures meshed gRPC calls against grpcio's own mutual TLS (3 minutes).
	$(BIN)/python -m bench.grpc

push: $(VENV)/.test ## Measures how long after `meshlib apply` a change is in force in all of Bookinfo.
	$(BIN)/python -m bench.push

scale: $(VENV)/.test ## Measures what one change costs with 1,000 streams, 1,000 services, 10,000 endpoints (2 minutes).
	ulimit -n 20000 2>/dev/null; $(BIN)/python -m bench.scale

conformance: $(VENV)/.test ## Envoy and we judge N drawn requests (N=20000 SEED=7 KIND=authorization).
	$(BIN)/python -m tests.conformance --n $(N) $(if $(SEED),--seed $(SEED)) $(if $(KIND),--kind $(KIND))

fuzz: $(VENV)/.test ## Bytes of strangers against everything that reads them, guided by coverage (MINUTES=60).
	@$(BIN)/pip install -q --group fuzz
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

pythons: ## Unit tests on every other supported Python that is installed.
	sh scripts/pythons.sh

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "meshlib needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --upgrade "pip>=25.1"

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml hatch_build.py
	@echo "Setting up $(VENV) ..."
	@$(BIN)/pip install -q -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml hatch_build.py
	@echo "Setting up $(VENV) for the tests ..."
	@$(BIN)/pip install -q -e '.[demo,httpx2,otel]' --group test --group lint
	@touch $@ $(VENV)/.demo

clean: ## Removes what these targets made.
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
