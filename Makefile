# Everything a contributor runs. `make repro` and `make test` work on a fresh clone, each alone.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup repro grid smoke test stack-test soak docs audit check bench gpu-check format ui serve \
  lock clean help

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
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
	dvc exp run -S train.steps=40 -S fine_tune.steps=10 \
	  -S fine_tune.optim.warmup_steps=1 -S 'ablation.method=[fixmatch,semi_mae]' \
	  -S 'ablation.mask_ratio=[0.75]' -S 'ablation.label_fraction=[0.1]' -S 'ablation.seed=[0]'

test: setup ## Run the tests.
	python -m pytest -q -n 2 --dist loadfile

stack-test: setup ## Run against PostgreSQL, an S3 store and MLflow, as compose starts them.
	SEMIMAE_STACK=1 python -m pytest -q -n 0 tests/stack

soak: setup ## Kill training and scoring at 200 random points and compare the bits.
	SEMIMAE_KILLS=200 python -m pytest -q -s tests/pipeline/test_kills.py

docs: setup ## Build the documentation site into site/; a broken link fails.
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

audit: setup ## Ask which locked packages have known vulnerabilities; needs the network.
	@pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock || \
	  { echo "audit: failed. The lines above name a vulnerable package, or a service that did not answer: then nothing is known."; exit 1; }

check: setup ## Lint, format check, types.
	ruff check .
	ruff format --check .
	mypy

bench: setup ## Measure speed and memory here; the table is beside the JSON in benchmarks/results/.
	python -m benchmarks

gpu-check: setup ## Compare a GPU with the CPU: views, one step of every method, options, resuming.
	python -m benchmarks.check

format: setup ## Format and fix.
	ruff check --fix -q .
	ruff format -q .

ui: setup ## Open MLflow's UI on http://127.0.0.1:5000; PORT=N elsewhere.
	@python -m pipeline ui $(if $(PORT),--port "$(PORT)")

serve: setup ## Serve the headline's model on http://127.0.0.1:5001/invocations.
	@python -m pipeline serve $(if $(PORT),--port "$(PORT)") $(if $(MODEL),--model "$(MODEL)")

# torch and what comes with it stay out; so does pip, which a tool of development asks for.
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q \
  --no-annotate --no-emit-package torch --no-emit-package torchvision --no-emit-package pip
KEEP := awk '/^[a-z]/ {keep = !/^(cuda-|nvidia-|triton)/} keep'
SERVER := boto3\nmlflow\npsycopg2-binary\n

lock: ## Renew requirements.lock, and the parts of it that the images install (needs uv).
	uv --version
	$(COMPILE) pyproject.toml --extra dev --extra server | $(KEEP) > requirements.lock
	$(COMPILE) pyproject.toml -c requirements.lock | $(KEEP) > docker/pipeline.lock
	printf '$(SERVER)' | $(COMPILE) - -c requirements.lock | $(KEEP) > docker/mlflow.lock

clean: ## Remove the virtual environment.
	rm -rf $(VENV)
