# Everything that contributors run. `make repro` and `make test` each work in a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup repro grid smoke test stack-test slurm-test soak docs audit check bench \
  gpu-check format ui serve lock clean help

PYTHON ?= python3
VENV ?= .venv
LABEL_STUDIO := .venv-label-studio/bin/label-studio
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

define TORCH_NOTE
Step 1 of 2: PyTorch. The default build for Linux brings CUDA: about 5.5 GB on disk, and it takes minutes.
For the small build without CUDA, press Ctrl-C and run: make setup TORCH_INDEX=URL
with the URL that pytorch.org, under Get Started, shows for the compute platform CPU.
endef
define NEXT_NOTE
The environment is ready. Next: source $(VENV)/bin/activate
Then: make repro for the demo, or python -m pipeline start FOLDER for your own images.
endef
export TORCH_NOTE NEXT_NOTE

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## Make the virtual environment (an already installed torch is kept).
	@$(if $(filter setup,$(MAKECMDGOALS)),echo "$$NEXT_NOTE")

# torch is outside the hashed lock: its wheels differ per platform and accelerator. pip skips the
# download if a suitable one is installed.
$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; v = sys.version_info[:2]; sys.exit(f"Python 3.11 or newer is needed; this is {v}" if v < (3, 11) else 0)'
	@$(BIN)/python -c 'import torch, torchvision' 2> /dev/null || echo "$$TORCH_NOTE"
	$(BIN)/python -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
	  "torch>=2.11,<3" "torchvision>=0.26,<1"
	@echo "Step 2 of 2: the other packages, about 1.5 GB on disk."
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# After Ctrl-C the command has said what it saved: then make ends by the same signal, in silence.
repro: setup ## Run the whole pipeline; the report is reports/index.html.
	@python -m pipeline grid $(if $(JOBS),--jobs "$(JOBS)") || \
	  { code=$$?; test $$code = 130 && kill -INT $$PPID && exit; exit $$code; }

grid: repro ## The same as repro; JOBS=N runs N cells at a time.

smoke: setup ## Run the same pipeline on a small subset, as CI does.
	dvc exp run -S train.steps=40 -S fine_tune.steps=10 \
	  -S fine_tune.optim.warmup_steps=1 -S 'ablation.method=[fixmatch,semi_mae]' \
	  -S 'ablation.mask_ratio=[0.75]' -S 'ablation.label_fraction=[0.1]' -S 'ablation.seed=[0]'

test: setup ## Run the tests.
	python -m pytest -q -n 2 --dist loadfile

stack-test: setup $(LABEL_STUDIO) ## Run against PostgreSQL, S3, MLflow and Label Studio.
	SEMIMAE_STACK=1 LABEL_STUDIO=$(abspath $(LABEL_STUDIO)) \
	  python -m pytest -q -n 0 tests/stack/test_stack.py tests/stack/test_label_studio.py

# In an environment of its own, for it pins many packages; pip takes very long to resolve them.
$(LABEL_STUDIO):
	$(PYTHON) -m venv .venv-label-studio
	.venv-label-studio/bin/pip install -q uv
	.venv-label-studio/bin/uv pip install -q --python .venv-label-studio label-studio==1.23.0
slurm-test: setup ## Run cells on a Slurm cluster of one node (as root).
	SEMIMAE_SLURM=1 python -m pytest -q -n 0 tests/stack/test_slurm.py

soak: setup ## Kill training and scoring at 200 random points and compare the bits.
	SEMIMAE_KILLS=200 python -m pytest -q -s tests/pipeline/test_kills.py

docs: setup ## Build the documentation site in site/; broken links are errors.
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
	python -m pipeline.results site/results

audit: setup ## Check the locked packages for known vulnerabilities; needs the network.
	@pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock || \
	  { echo "audit: failed. The lines above list vulnerable packages, or the service did not answer and nothing is known."; exit 1; }

check: setup ## Run the linter, the format check and the type checker.
	ruff check .
	ruff format --check .
	mypy

bench: setup ## Measure speed and memory on this machine; results are in benchmarks/results/.
	python -m benchmarks

gpu-check: setup ## Compare a GPU with the CPU: views, steps of all methods, options, resuming.
	python -m benchmarks.check

format: setup ## Format the code and fix what can be fixed automatically.
	ruff check --fix -q .
	ruff format -q .

ui: setup ## Start MLflow's UI on http://127.0.0.1:5000; PORT=N for another port.
	@python -m pipeline ui $(if $(PORT),--port "$(PORT)")

serve: setup ## Serve the headline model on http://127.0.0.1:5001/invocations.
	@python -m pipeline serve $(if $(PORT),--port "$(PORT)") $(if $(MODEL),--model "$(MODEL)")

# torch and its dependencies are left out, and so is pip, which a development tool requires.
COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q \
  --no-annotate --no-emit-package torch --no-emit-package torchvision --no-emit-package pip
KEEP := awk '/^[a-z]/ {keep = !/^(cuda-|nvidia-|triton)/} keep'
SERVER := boto3\nmlflow\npsycopg2-binary\n

lock: ## Update requirements.lock and the parts of it that the images install (needs uv).
	uv --version
	$(COMPILE) pyproject.toml --extra dev --extra server | $(KEEP) > requirements.lock
	$(COMPILE) pyproject.toml -c requirements.lock | $(KEEP) > docker/pipeline.lock
	printf '$(SERVER)' | $(COMPILE) - -c requirements.lock | $(KEEP) > docker/mlflow.lock

clean: ## Remove the virtual environment.
	rm -rf $(VENV)
