# `make study` runs the study in params.yaml; `make test` and `make lint` check the project.
# Each creates .venv, or brings it up to date, by itself.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)
export TOKENIZERS_PARALLELISM := false

.PHONY: study test lint clean

study: .venv/ready
	dvc repro
	@echo "The report is at $(CURDIR)/report/index.html"

test: .venv/ready-dev
	HF_HUB_OFFLINE=1 pytest

lint: .venv/ready-dev
	ruff check .
	ruff format --check .
	mypy

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kdcache needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a few minutes the first time) ..."
	$(INSTALL) --editable .
	@touch $@

.venv/ready-dev: .venv/ready
	$(INSTALL) --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
