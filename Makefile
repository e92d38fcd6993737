# make demo   sets up .venv and runs the main job on the embedded model
# make test   sets up .venv, checks style and types, and runs the tests
# make benchmark   measures the runtime beside its rivals, in an environment of their own (some 20 minutes)
# make chaos  kills workers, drivers and servers of real runs for DURATION seconds, in the order that SEED decides
# make fit    fits the default taggers again (needs DATA, a folder with the labelled sets)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DATA ?= ../shared/data
WORK ?= build/fit
SEED ?= 1
DURATION ?= 600

.PHONY: chaos demo test lint types benchmark fit clean

demo: $(VENV)/installed
	$(BIN)/assay demo

test: $(VENV)/tests-installed lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/tests-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The type checker needs the tree under the name it is installed as.
types: $(VENV)/tests-installed
	mkdir -p $(VENV)/types/assay
	for part in configs dashboard flows sae_runtime schemas taggers workers; do \
		ln -sfn "$(CURDIR)/$$part" $(VENV)/types/assay/$$part; done
	ln -sfn "$(CURDIR)/benchmarks" $(VENV)/types/benchmarks
	MYPYPATH=$(VENV)/types $(BIN)/mypy --config-file pyproject.toml -p assay -p benchmarks

# An idle machine, please: what else runs is in the figures.
benchmark: .venv-benchmarks/installed
	.venv-benchmarks/bin/python -m benchmarks.runtime $(BENCHMARK)

.venv-benchmarks/installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(MAKE) VENV=.venv-benchmarks .venv-benchmarks/bin/python
	.venv-benchmarks/bin/python -m pip --quiet install -c constraints.txt torch
	.venv-benchmarks/bin/python -m pip --quiet install -c constraints.txt -e . -r benchmarks/requirements.txt
	@touch $@

chaos: $(VENV)/tests-installed
	$(BIN)/python -m tests.faults.chaos --seed $(SEED) --duration $(DURATION)

fit: $(VENV)/tests-installed
	$(BIN)/assay fit --all-definitions default --data $(DATA) --work $(WORK) --out configs/taggers/embedded $(FIT)

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Assay needs Python 3.11 or later: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first and alone: other packages ask for it by range, which could fetch gigabytes of another build.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV): a few minutes, some 2 GB of packages"
	$(PIP) install -c constraints.txt setuptools wheel
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[fit]'
	@touch $@

$(VENV)/tests-installed: $(VENV)/installed tests/requirements.txt
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(PIP) install --require-hashes --no-deps -r tests/requirements.txt
	@touch $@
