# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` set up everything they need in .venv first; see README.md.

VENV := .venv
BIN := $(VENV)/bin
SET_UP := Utilities/make_environment.sh $(VENV)
DEMO_ARGS ?=
VIEW_ARGS ?=
TEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo view test lint format clean distclean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo:  ## segment a real head MRI and say where to look (DEMO_ARGS="--help" for more)
	@$(SET_UP) demo
	@$(BIN)/python -m DIANetLib.demo $(DEMO_ARGS)

view:  ## look at the demo's result in a browser (VIEW_ARGS="FOLDER --port 8000" for another)
	@$(SET_UP) demo,viewer
	@[ -n "$(VIEW_ARGS)" ] || [ -d demo-output ] || $(BIN)/python -m DIANetLib.demo
	@$(BIN)/dianet view $(or $(VIEW_ARGS),demo-output)

test: lint  ## run the checks and all tests, with coverage (TEST_ARGS="-k name" to choose)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --cov --cov-report=term $(TEST_ARGS)

lint:  ## run the checks alone: ruff, mypy, import-linter
	@$(SET_UP) dev,demo,train
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .cache/import-linter

format:  ## let ruff sort imports and lay out the code
	@$(SET_UP) dev,demo,train
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove caches and build products
	rm -rf .cache build dist *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## also remove the environment and the demo's output
	rm -rf $(VENV) demo-output
