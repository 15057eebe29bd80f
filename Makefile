# `make search` runs a search, `make test` checks everything; both first build .venv, once.
#
# Variables: ARGS (flags of the program), PYTHON (interpreter to build .venv with), EXTRAS (of
# `make install`, any that brings no TensorFlow), PYTEST_ARGS (flags of pytest, e.g. PYTEST_ARGS="-n 2"), SABOC_DATA_DIR, SABOC_GOLDEN_DIR.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
NEWER := import sys; sys.exit(sys.version_info < (3, 11))

# The first interpreter that is new enough; plain python3 if none is, so that the check below
# says what is wrong.
ifeq ($(origin PYTHON), undefined)
PYTHON = $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $$p -c '$(NEWER)' 2>/dev/null; then echo $$p; exit; fi; done; echo python3)
endif

# Data and reference values that lie beside the project are found without being asked for.
ifndef SABOC_DATA_DIR
ifneq ($(wildcard ../shared/data/.),)
export SABOC_DATA_DIR := $(abspath ../shared/data)
endif
endif
ifndef SABOC_GOLDEN_DIR
ifneq ($(wildcard ../shared/golden/.),)
export SABOC_GOLDEN_DIR := $(abspath ../shared/golden)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help install search test lint bench docs clean

help:  ## Show this list.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1  \2/p' $(firstword $(MAKEFILE_LIST)) | \
		awk '{ printf "  %s %-8s", $$1, $$2; $$1 = $$2 = ""; print }'

# The environment is exactly constraints.txt, so it is built anew when that file changes.
$(VENV)/.dependencies: constraints.txt
	@$(PYTHON) -c '$(NEWER)' || { \
		echo "Needed: Python 3.11 or newer; '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>&1 || true)." \
			"Name another with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) --no-deps --require-hashes --requirement constraints.txt
	@sed -e '/--hash=/d' -e 's/ *\\$$//' constraints.txt > $(VENV)/versions.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.dependencies pyproject.toml
	$(PIP) --no-deps --editable .
	@touch $@

# What a `pip install .` in .venv has put in place of the clone is taken back.
EDITABLE := import importlib.metadata as m, json, sys; \
	told = m.distribution("saboc_jax").read_text("direct_url.json") or "{}"; \
	sys.exit(not json.loads(told).get("dir_info", {}).get("editable"))

install: $(VENV)/.installed  ## Build .venv; EXTRAS=ray,figures adds extras.
	@$(BIN)/python -c '$(EDITABLE)' || $(PIP) --no-deps --editable .
	@test -z "$(EXTRAS)" || { \
		$(BIN)/python scripts/requirements_of.py "$(EXTRAS)" > $(VENV)/extras.txt && \
		$(PIP) --constraint $(VENV)/versions.txt --requirement $(VENV)/extras.txt; }

search: $(VENV)/.installed  ## Search an architecture: make search ARGS="--help".
	$(BIN)/python -m experiments.search $(ARGS)

lint: $(VENV)/.installed  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compiled programs are kept between test runs: most of a run is compilation.
test: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.5
# Most of a run is compiling programs that run once: as quickly as this XLA can, and without LLVM's
# optimisation. `make test XLA_FLAGS=` compiles as users do.
QUICKLY := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
# Two processes, a file each: compilation uses one core.
test: PYTEST_ARGS ?= --numprocesses=2 --dist=loadfile
test: lint  ## Check style and types, then run the tests.
	XLA_FLAGS="$${XLA_FLAGS-$$(scripts/known_xla_flags.sh $(BIN)/python $(QUICKLY))}" \
		$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.installed  ## Measure compile time and run time.
	$(BIN)/python -m experiments.benchmark $(ARGS)

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.installed  ## Build the documentation into site/.
	$(BIN)/python scripts/requirements_of.py docs > $(VENV)/extras.txt
	$(PIP) --constraint $(VENV)/versions.txt --requirement $(VENV)/extras.txt
	$(BIN)/python -m mkdocs build --strict

clean:  ## Remove .venv, caches and build products; results in runs/ stay.
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
