# Everything lives in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test check format clean

quickstart: $(VENV)/.lexicon  ## run the benchmark small, on a real language model
	$(BIN)/fedprofit quickstart

test: $(VENV)/.dev  ## run all tests: tiny models, no network
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "No virtual environment: on Debian, apt-get install python3-venv"; exit 1; }

$(VENV)/.lexicon: $(VENV)/bin/python constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[lexicon]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.lexicon

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
