# Everything runs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
RECIPE ?= recipes/quickstart.yaml

VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check bench clean

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(BASE) ## Run a whole job; another recipe with RECIPE=my.yaml
	$(BIN)/spaceevo run "$(RECIPE)"

test: $(DEV) ## Run the tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(DEV) ## Lint, formatting, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Speed and memory; what else lies in benchmarks/ takes longer, or needs files: the head of each script tells.
BENCHES := fake_quant lsq_step supernet_step loader spaces prediction_speed engines
bench: $(BASE) ## Run the benchmarks of speed and memory in turn
	@set -e; for name in $(BENCHES); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

clean: ## Remove .venv and caches; runs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# An installation with the tools for development is also one without them.
ifneq ($(filter test check,$(MAKECMDGOALS)),)
$(BASE): $(DEV)
	@touch $@
else
$(BASE): $(SOURCES) | $(BIN)/python
	@echo "Installing spaceevo into $(VENV) (the first time takes minutes; torch is large)"
	@$(PIP) -e .
	@touch $@
endif

$(DEV): $(SOURCES) | $(BIN)/python
	@echo "Installing spaceevo and its development tools into $(VENV) (the first time takes minutes; torch is large)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(BASE)

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "There is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "spaceevo needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" -V 2>&1)." \
			"Name a newer one: make PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); echo "The virtual environment could not be made." >&2; exit 1; }
