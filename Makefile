# Everything a contributor runs. `make repro` and `make test` work on a fresh clone, each alone.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: setup repro grid smoke test check bench format ui serve lock clean help

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
MODEL ?= semi-mae
PORT ?= 5001
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## Make the virtual environment (an already installed torch is kept).

# torch is outside the hashed lock: its wheels differ per platform and accelerator.
$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python 3.11 or newer is needed; this is {v}" if v < (3, 11) else 0)'
	$(BIN)/python -m pip install -q --disable-pip-version-check "torch>=2.11,<3" "torchvision>=0.26,<1"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

repro: setup ## Run the whole pipeline; the report is reports/index.html.
	python -m pipeline grid --jobs $(JOBS)

grid: repro ## The same; JOBS=N cells at a time.

smoke: setup ## Run the same pipeline on a small subset, as CI does.
	dvc exp run -S train.steps=40 -S fine_tune.steps=10 -S 'ablation.method=[fixmatch,semi_mae]' \
	  -S 'ablation.mask_ratio=[0.75]' -S 'ablation.label_fraction=[0.1]' -S 'ablation.seed=[0]'

test: setup ## Run the tests.
	python -m pytest -q -n 2 --dist loadfile

check: setup ## Lint, format check, types.
	ruff check .
	ruff format --check .
	mypy

bench: setup ## Measure speed and memory here; the table is beside the JSON in benchmarks/results/.
	python -m benchmarks

format: setup ## Format and fix.
	ruff check --fix -q .
	ruff format -q .

ui: setup ## Open MLflow's UI on http://127.0.0.1:5000.
	mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

serve: setup ## Serve the headline's model on http://127.0.0.1:5001/invocations.
	MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" mlflow models serve \
	  --model-uri "models:/$(MODEL)@headline" --env-manager local --host 127.0.0.1 --port $(PORT)

lock: ## Renew requirements.lock (needs uv); torch and what comes with it stay out.
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate -q --no-emit-package torch --no-emit-package torchvision \
	  | awk '/^[a-z]/ {keep = !/^(cuda-|nvidia-|triton)/} keep' > requirements.lock

clean: ## Remove the virtual environment.
	rm -rf $(VENV)
