# `make study` runs the study in params.yaml; `make test` and `make lint` check the project.
# Each creates .venv, or brings it up to date, by itself.
PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
# Python compiles a module when it is imported first; pip would compile all of them, which takes longer than the rest.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)
export TOKENIZERS_PARALLELISM := false
# The many short stages import the same modules: compiled ones are kept, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: study test lint docs bench reports fuzz floors floors-study clean

study: .venv/ready
	kdcache settle
	@echo "The report is at $(CURDIR)/report/index.html"

test: .venv/ready-dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder

# minutes; what they measure at full length is in docs/performance.md, and how
bench: .venv/ready
	python -m benchmarks.training --rounds 1 --hourly-rounds 1 --kd-rounds 3 --json build/training.json
	python -m benchmarks.end_to_end --study studies/smoke.yaml --rounds 1 --json build/end-to-end.json

# the report page of every study in results/
reports: .venv/ready
	python -m tools.reports

# the core with the lowest versions that pyproject.toml allows, in an environment of its own
floors:
	$(PYTHON) -m venv --clear build/floors
	build/floors/bin/python -m pip install --quiet --disable-pip-version-check pytest
	build/floors/bin/python -m tools.floors > build/floors.txt
	build/floors/bin/python -m pip install --quiet --disable-pip-version-check -c build/floors.txt .
	build/floors/bin/python -m pip check
	build/floors/bin/python -m pytest -q -p no:cacheprovider tests/test_core_install.py

# the extra `study` likewise: a small study, from the installed package, in a project of its own
floors-study:
	$(PYTHON) -m venv --clear build/floors-study
	build/floors-study/bin/python -m pip install --quiet --disable-pip-version-check packaging
	build/floors-study/bin/python -m tools.floors study > build/floors-study.txt
	build/floors-study/bin/python -m pip install --quiet --disable-pip-version-check -c build/floors-study.txt ".[study]"
	build/floors-study/bin/python -m pip check
	export PATH="$(CURDIR)/build/floors-study/bin:$$PATH" && project="$$(mktemp -d)/study" && \
	  kdcache init "$$project" --template images && cp studies/smoke.yaml "$$project/params.yaml" && \
	  cd "$$project" && rm -f settle.json && kdcache repro

# two hours or more: 100,000 odd and damaged inputs of every reader
fuzz: .venv/ready-dev
	OMP_NUM_THREADS=1 python -m tools.fuzz --cases 100000 --page docs/measured/fuzz.md

# the pages of docs/ and a reference of the library, as a site that needs no network
docs: .venv/ready
	$(INSTALL) --editable ".[docs]"
	python -m sphinx -W -q -b html -c docs/site . build/docs
	@echo "The site is at $(CURDIR)/build/docs/docs/site/index.html"

lint: .venv/ready-dev
	ruff check .
	ruff format --check .
	lint-imports
	python -m tools.house
	mypy

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kdcache needs Python 3.11 or newer; name one: make PYTHON=python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv (a few minutes the first time) ..."
	$(INSTALL) --editable ".[study]"
	@touch $@

.venv/ready-dev: .venv/ready
	$(INSTALL) --editable ".[study,dev]"
	@touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
