# The commands of this repository; `make help` lists them. No target needs another to be run first.

# The first of these that runs and is new enough makes .venv; or give one: make setup PYTHON=python3.12
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
# uv when it works here, else pip (to force pip: make setup UV=)
UV ?= $(shell uv --version >/dev/null 2>&1 && echo uv)
# Test processes. Each imports torch (seconds, and about 1 GB), so this is not the number of cores.
WORKERS ?= 2
# More overrides for the demo (make demo ARGS="out=/tmp/demo") or arguments for pytest
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# One thread per process: with two, processes that share a machine are many times slower.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test lint format types bench clean
.DEFAULT_GOAL := help

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## make .venv with the pinned dependencies (does nothing when they are there)

demo: $(READY) ## compare scratch with pretrained on handwritten digits, and write the report
	$(BIN)/warmstart compare comparison=digits $(ARGS)

test: $(READY) ## run the whole test suite
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(READY) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## repair style and format where that can be done
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: $(READY) ## check the types of src/
	$(BIN)/mypy --strict src

bench: $(READY) ## measure the demo, the overhead over Lightning, sweeps, the input, and frozen features
	$(BIN)/python scripts/bench/demo.py
	$(BIN)/python scripts/bench/overhead.py
	$(BIN)/python scripts/bench/sweep.py
	$(BIN)/python scripts/bench/input.py
	$(BIN)/python scripts/bench/features.py

clean: ## remove .venv, caches and builds (results in outputs/ stay)
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The package is installed in place: a change in src/ or conf/ needs no new set-up.
$(READY): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	    found=; for python in $(PYTHON); do \
	        if $$python -c '$(NEW_ENOUGH)' 2>/dev/null; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "warmstart needs Python 3.11 or newer, and found none under the names: $(PYTHON)." >&2; \
	        echo "Install one, or say where it is: make setup PYTHON=/path/to/python3.12" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making .venv with $$($$found --version)"; \
	    rm -rf .venv; \
	    $(if $(UV),$(UV) venv --quiet --python "$$(command -v $$found)" .venv,$$found -m venv .venv); \
	fi
	@echo "Installing warmstart and its pinned dependencies with $(if $(UV),uv,pip) (a minute or more the first time)"
ifneq ($(UV),)
	@# Compiled now, or every process would do it anew where Python may keep no bytecode.
	@$(UV) pip install --quiet --python $(BIN)/python --compile-bytecode \
	    --constraints constraints.txt --build-constraints constraints.txt --editable '.[dev]'
else
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	    $(BIN)/python -m pip install --quiet --editable '.[dev]'
endif
	@touch $(READY)
