# Everything lives in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported when it first is; compiling all of it here takes as long as installing it.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable

.PHONY: quickstart smoke test check format notebook bench architectures clean

quickstart: $(VENV)/.lexicon  ## run the benchmark small, on a real language model; OPTIONS goes to it
	$(BIN)/fedprofit quickstart $(OPTIONS)

smoke: $(VENV)/.lexicon  ## run the paper's study, as small as it can be, and check its claims
	$(BIN)/fedprofit study studies/paper/smoke.yaml --out runs/paper-smoke --resume
	$(BIN)/fedprofit report runs/paper-smoke
	$(BIN)/fedprofit claims runs/paper-smoke

test: $(VENV)/.dev  ## run all tests: tiny models, no network
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(VENV)/.dev  ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebook: $(VENV)/.dev  ## execute the example notebook, on the quick start's model, and write its output into it
	$(BIN)/python examples/run_notebook.py

bench: $(VENV)/.bench  ## measure the engine and its peers; OPTIONS goes to all three scripts
	$(VENV)/bench/bin/python benchmarks/throughput.py --out runs/benchmarks $(OPTIONS)
	$(VENV)/bench/bin/python benchmarks/whole_process.py --out runs/benchmarks $(OPTIONS)
	$(VENV)/bench/bin/python benchmarks/generation.py --out runs/benchmarks $(OPTIONS)

architectures: $(VENV)/.dev  ## compare all of transformers' causal architectures, tiny, with transformers itself
	$(BIN)/python benchmarks/architectures.py --out docs/architectures.md

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "No virtual environment: on Debian, apt-get install python3-venv"; exit 1; }

$(VENV)/.lexicon: $(VENV)/bin/python constraints.txt pyproject.toml
	$(INSTALL) '.[lexicon,fast]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python constraints.txt pyproject.toml
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.lexicon

# An environment of its own inside .venv: Flower needs older typer and packaging than the tests pass with, and
# benchmarks/constraints.txt replaces those pins. pfl goes in without its dependencies: it asks for a
# dp-accounting that asks for an absl-py and attrs older than what the others need. It imports both privacy
# packages at its start, works with the newer ones, and finds the rest of its needs in the extra `bench`.
$(VENV)/.bench: $(VENV)/bin/python constraints.txt benchmarks/constraints.txt pyproject.toml
	$(BIN)/python -m venv $(VENV)/bench
	@awk -F== 'NR == FNR {own[$$1]} NR == FNR || !($$1 in own)' benchmarks/constraints.txt constraints.txt \
	  > $(VENV)/bench/constraints.txt
	$(VENV)/bench/bin/python -m pip install --quiet --constraint $(VENV)/bench/constraints.txt \
	  --editable '.[bench]'
	$(VENV)/bench/bin/python -m pip install --quiet --constraint $(VENV)/bench/constraints.txt \
	  --no-deps pfl dp-accounting prv-accountant
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
