# `make demo` and `make test` do all the set-up themselves; the rest is for working on the code.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SET_UP := $(VENV)/.set-up
LOCKS := requirements/uv.txt requirements/main.txt requirements/models.txt

# pytest's own arguments: make test ARGS="tests/core -k plan"; without a path, all of tests/.
ARGS ?=

.PHONY: help setup demo test test-torch servers check format bench lock clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: $(SET_UP) ## make .venv from the locks (a no-op when nothing changed)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "mlplatform needs Python 3.11 or newer; name yours: make PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up $(VENV) from the locks; this takes a minute, once"
	@$(PYTHON) -m venv $(VENV)

# uv, itself installed by pip with its hash, does what pip does in a tenth of the time. Where it cannot
# (it reads none of pip's settings, so an index of your own is unknown to it), pip does it.
$(SET_UP): $(LOCKS) pyproject.toml serving/pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes --no-deps -r requirements/main.txt -r requirements/models.txt \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --compile --require-hashes --no-deps -r requirements/main.txt -r requirements/models.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e serving
	@touch $@

demo: setup ## the product's story, told in a temporary folder
	@$(BIN)/mlplatform demo

test: setup ## all tests; a real server that is missing is skipped and named at the end
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# torch's tests, in an environment of their own; `make test` names them as not run.
TORCH := .venv-torch
$(TORCH)/.set-up: requirements/torch.txt pyproject.toml serving/pyproject.toml | setup
	@echo "setting up $(TORCH) from its lock: 5.3 GB, once"
	@test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	@$(BIN)/uv pip install --quiet --python $(TORCH)/bin/python --require-hashes --no-deps -r requirements/torch.txt \
	  || $(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/torch.txt
	@$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e serving
	@touch $@

test-torch: $(TORCH)/.set-up ## the tests that need PyTorch
	MLPLATFORM_REQUIRE_TORCH=1 $(TORCH)/bin/python -m pytest -n 2 --dist loadfile -m torch $(or $(ARGS),$$(grep -rl --include='test_*.py' pytest.mark.torch tests))

servers: setup ## build or install the real servers into a cache, once
	$(BIN)/python -m tests.real.servers.build

check: setup ## lint, types, import contracts, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if [ -e tests/docs/generate.py ]; then \
	  echo $(BIN)/python -m tests.docs.generate --check; \
	  $(BIN)/python -m tests.docs.generate --check; fi

format: setup ## put the code into the shape that check asks for
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup ## the benchmarks: ratios against peers in the same run
	$(BIN)/python -m benchmarks

# Every .in becomes its .txt: one version of each package for all platforms, with hashes, no address.
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --universal --no-header --python-version 3.11
lock: setup ## write the locks anew (UPGRADE=--upgrade for newer versions)
	$(COMPILE) $(UPGRADE) requirements/main.in -o requirements/main.txt --no-emit-package mlplatform --no-emit-package mlplatform-serving
	$(COMPILE) $(UPGRADE) requirements/models.in -o requirements/models.txt --no-deps
	$(COMPILE) $(UPGRADE) requirements/torch.in -o requirements/torch.txt --no-emit-package mlplatform --no-emit-package mlplatform-serving
	for name in uv atheris bench-bentoml bench-litserve bench-polars bench-rclone caddy gcp-storage-emulator schemathesis tensorrt-rtx tritonclient; do $(COMPILE) $(UPGRADE) requirements/$$name.in -o requirements/$$name.txt; done
	@! grep -nE '://|^/|^\.' requirements/*.txt

clean: ## remove what the targets above made here (the servers' cache stays)
	rm -rf $(VENV) $(TORCH) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
