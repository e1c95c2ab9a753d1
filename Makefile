# People and CI run the same few commands. `make help` lists them.
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
NEWEST := .venv-newest
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null)
TORCH := $(if $(GPU),,-c constraints-cpu.txt)
pip = $(1)/bin/python -m pip install -qq --retries 10 --timeout 60 --disable-pip-version-check
pytest = OMP_WAIT_POLICY=passive $(1)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)
LOCKED := $(call pip,$(VENV)) --no-deps --no-build-isolation
# What builds packages is pinned as well: Edgewise's own backend, and the setuptools of the few that have no wheels.
BUILDS = $(BIN)/python -c 'import tomllib; print("setuptools", *tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
PINS = $(BUILDS) | $(BIN)/uv pip compile - pyproject.toml --quiet --upgrade --no-header \
       --universal --python-version 3.11 --generate-hashes --output-file $(VENV)/pins
# torch is left out, and with it what only its CUDA build needs: which build it is differs between machines.
WRITE = awk 'BEGIN {print "\# Written by make lock"} /^[a-z]/ {out = /^(torch=|triton=|nvidia-|cuda-)/} !out' $(VENV)/pins

.PHONY: help install improve test test-newest lock check docs bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

install: $(VENV)/.everything  ## make .venv with everything that development, tests and benches need

improve: $(VENV)/.enough  ## the main job on examples/support_triage; ARGS="--minutes 5" adds options
	@$(BIN)/edgewise improve examples/support_triage $(ARGS)

test: install  ## run all tests; ARGS="tests/toolkit -k task" picks some
	@$(call pytest,$(VENV))

test-newest: | $(NEWEST)/.made  ## the same with the newest versions that pyproject.toml allows, in .venv-newest
	@echo "Bringing $(NEWEST) to the newest versions (a few minutes) ..." >&2
	@$(call pip,$(NEWEST)) --upgrade --upgrade-strategy eager $(TORCH) -e '.[dev]'
	@$(call pytest,$(NEWEST))

lock: $(BIN)/uv  ## pin the newest versions for all other targets; read what `make test-newest` says first
	@$(PINS) -c constraints-cpu.txt --extra dev
	@$(WRITE) >requirements-dev.lock
	@$(PINS) -c requirements-dev.lock --extra local
	@$(WRITE) >requirements.lock

check: install  ## ruff, pyright, generated docs are fresh, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python docs/generate.py --check
	@$(BIN)/python -m pytest tests/laws/test_imports.py

docs: install  ## write the generated pages and build the site into site/; a dead link fails
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: install  ## run every bench/NAME.py and write docs/bench.md; ARGS="--quick" for the short ones, ARGS="null power" for some
	@$(BIN)/python bench/all.py $(ARGS)

clean:  ## remove .venv and caches; models and runs stay
	rm -rf $(VENV) $(NEWEST) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says what .venv holds, so that a second call does nothing.
$(VENV)/.everything: requirements-dev.lock constraints-cpu.txt $(VENV)/.enough
	@echo "Installing the tools into $(VENV) (a few minutes) ..." >&2
	@$(LOCKED) --require-hashes -r requirements-dev.lock
	@$(call pip,$(VENV)) $(TORCH) torch
	@touch $@

$(VENV)/.enough: requirements.lock pyproject.toml | $(VENV)/.made
	@echo "Installing Edgewise into $(VENV) (a minute or two) ..." >&2
	@$(LOCKED) --require-hashes -r requirements.lock
	@$(LOCKED) -e .
	@touch $@

$(VENV)/.made $(NEWEST)/.made: %/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Edgewise needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@rm -rf $*
	@$(PYTHON) -m venv $*
	@touch $@

$(BIN)/uv: | $(VENV)/.made
	@$(call pip,$(VENV)) uv
