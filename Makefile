# `make` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
export VENV
PYTEST_ARGS ?=

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

.PHONY: setup setup-dev
setup: ## The environment to run Preceptor in (.venv)
	@scripts/setup.sh run
setup-dev: ## The environment to work on Preceptor in
	@scripts/setup.sh dev

.PHONY: demo demo-verify
demo: setup ## The whole loop, from an untrained model to runs/demo/report.html
	@$(BIN)/preceptor demo
demo-verify: setup ## The demo for three seeds, flipped labels, shuffled labels and without RL (half an hour on 4 cores)
	@$(BIN)/preceptor demo --verify

.PHONY: test test-fast check
test: setup-dev ## All tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)
test-fast: setup-dev ## The tests that take seconds
	@$(BIN)/python -m pytest -m 'not slow and not e2e' $(PYTEST_ARGS)
check: setup-dev ## Lint, types, import contracts, protos
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/buf lint protos
	@scripts/gen_protos.sh --check

.PHONY: protos lock fmt clean
protos: setup-dev ## Generate services/preceptor/api from protos/
	@scripts/gen_protos.sh
fmt: setup-dev ## Format the code
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .
lock: ## Resolve requirements/*.in anew into the lock files
	@scripts/lock.sh
clean: ## Remove caches and runs (not the environment)
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
