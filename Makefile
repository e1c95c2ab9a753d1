# People and CI run the same few commands. `make help` lists them.
PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null)
PIP := $(BIN)/python -m pip install -qq --retries 10 --timeout 60 --disable-pip-version-check \
       $(if $(GPU),,-c constraints-cpu.txt)

.PHONY: help install improve test check docs bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

install: $(VENV)/.everything  ## make .venv with everything that development, tests and benches need

improve: $(VENV)/.enough  ## the main job on examples/support_triage; ARGS="--minutes 5" adds options
	@$(BIN)/edgewise improve examples/support_triage $(ARGS)

test: install  ## run all tests; ARGS="tests/toolkit -k task" picks some
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: install  ## ruff, pyright, generated docs are fresh, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python docs/generate.py --check
	@$(BIN)/python -m pytest tests/laws/test_imports.py

docs: install  ## write the generated pages
	@$(BIN)/python docs/generate.py

bench: install  ## run every bench/NAME.py and write docs/bench.md; ARGS="--quick" for the short ones, ARGS="null power" for some
	@$(BIN)/python bench/all.py $(ARGS)

clean:  ## remove .venv and caches; models and runs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says what .venv holds, so that a second call does nothing.
$(VENV)/.everything: pyproject.toml constraints-cpu.txt | $(VENV)/.made
	@echo "Installing Edgewise with its tools into $(VENV) (a few minutes) ..." >&2
	@$(PIP) -e '.[local,dev,data]'
	@touch $(VENV)/.enough $@

$(VENV)/.enough: pyproject.toml constraints-cpu.txt | $(VENV)/.made
	@echo "Installing Edgewise into $(VENV) (a minute or two) ..." >&2
	@$(PIP) -e '.[local]'
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Edgewise needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@
