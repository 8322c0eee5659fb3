# `make sweep` runs the main job on the built-in facts and model, `make editors` compares editors, `make test` runs the tests.
# All set up .venv first (Python 3.11, pip); `make venv` only sets up.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv sweep editors patchers test lint slow lock clean

help:
	@echo "make sweep   set up, then run the layer search on the built-in facts and model (about two minutes)"
	@echo "make editors set up, then train and compare editors on the built-in facts and model (under ten minutes)"
	@echo "make patchers set up, then run streams of patch neurons on the built-in claims and model (under ten minutes)"
	@echo "make test    set up, then lint, type check and run the tests"
	@echo "make slow    the long tests: real Ray jobs, real data where it is at hand"
	@echo "make venv    only set up .venv from requirements.lock"
	@echo "make clean   remove .venv and caches; results in ~/babelsweep stay"

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@echo "Setting up $(VENV) from requirements.lock (about two minutes the first time) ..."
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or run 'make PYTHON=/path/to/python3.11 ...'"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --no-compile --requirement requirements.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
	@echo "Ready: $(BIN)/python"

sweep: $(STAMP)
	@$(BIN)/python jobs/lrp2_sweep.py --config jobs/presets/lrp2_atlas.yaml

editors: $(STAMP)
	@$(BIN)/python jobs/editor_sweep.py --config jobs/presets/editors_atlas.yaml

patchers: $(STAMP)
	@$(BIN)/python jobs/editor_sweep.py --config jobs/presets/patchers_atlas.yaml

lint: $(STAMP)
	@echo "Lint, format, types, import rules ..."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint
	@echo "Tests ..."
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

slow: $(STAMP)
	@$(BIN)/python -m pytest -m slow

# Rewrites the lock from what is installed; torch is pinned without its build (CPU or CUDA, as the machine has it).
lock: $(STAMP)
	@{ echo "# Everything this project runs and is tested with, exactly. Made in a fresh .venv by: make lock"; \
	   $(BIN)/pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
