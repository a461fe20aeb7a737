# Remit's front door. `make run` and `make test` need nothing but Python 3.11 and git.
.DEFAULT_GOAL := help
.PHONY: help setup run test real real-kubernetes lint bench docs lock clean

# The first of these that runs and is new enough; set PYTHON to choose another.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3.14 python3 python; do \
  $$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$each; break; }; done)
BIN := .venv/bin
ARGS ?=
INSTALL = $$(command -v uv >/dev/null 2>&1 && echo uv pip install --quiet --python $(BIN)/python \
  || echo $(BIN)/python -m pip install --quiet --disable-pip-version-check)

help:
	@echo 'make run    set up, then show two agents being allowed and refused (ARGS=--once ends)'
	@echo 'make test   set up, then lint, types, import contracts and tests'
	@echo 'make real   the tests against real servers, as CI runs them'
	@echo 'make real-kubernetes  those against a kube-apiserver, which is built first: half an hour, and Go'
	@echo 'make lint   lint, types and import contracts alone'
	@echo 'make bench  ratios against a peer or a physical limit, in the same run'
	@echo 'make docs   the pages that are made from the code'
	@echo 'make clean  remove what make made'

setup: .venv/.done

# Each lock names every version and its hash; the second has what developing takes as well. uv is used
# where it is there; plain pip does as well.
.venv/.run: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "remit needs Python 3.11 or newer; here is $$(python3 --version 2>&1 | head -n 1): install one, or set PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making .venv with $(PYTHON)" >&2
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --allow-existing --python $(PYTHON) .venv; \
	  else $(PYTHON) -m venv .venv; fi
	@echo 'installing locked dependencies: a minute with pip, a moment with uv' >&2
	@$(INSTALL) --require-hashes -r requirements.lock
	@echo 'installing remit' >&2
	@$(INSTALL) --no-deps -e .
	@touch $@

.venv/.done: .venv/.run requirements-dev.lock
	@echo 'installing what the tests need' >&2
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

run: .venv/.run
	@$(BIN)/remit quickstart $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

test: lint
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -q -n auto -m 'not real' $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report | grep '^TOTAL'

real: setup
	@.ci/real-setup
	@$(BIN)/pytest -q -n 2 --dist loadfile -m real $(ARGS)

real-kubernetes: setup
	@.ci/kubernetes-setup
	@$(BIN)/pytest -q tests/cluster $(ARGS)

bench: setup
	@for each in bench/*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done

docs: setup
	@$(BIN)/python -m remit.policy.facts_page > docs/policy.md
	@$(BIN)/python -m remit.cli.reference > docs/cli.md

LOCK = $(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url

lock: setup
	@$(LOCK) --extra quickstart -o requirements.lock pyproject.toml
	@$(LOCK) --extra quickstart --group dev --constraint requirements.lock -o requirements-dev.lock pyproject.toml

clean:
	@rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
