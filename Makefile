# Everything runs in .venv, which the first target that needs it sets up: only Python 3.11 or newer has to be there.
# It is set up again when pyproject.toml or constraints.txt change.
#
#   make demo PYTHON=python3.12            another interpreter
#   make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"    a CPU build of torch on Linux
#   make test PYTEST_ARGS="-k manifest"    some of the tests
#   make test WORKERS=0    one after the other, in one process; as many processes as cores otherwise

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= auto
DEMO_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Data sets and models that are too large or not free enough for the repository lie beside it, if anywhere.
ifneq ($(wildcard ../shared/data),)
export SAFELOX_DATA ?= $(abspath ../shared/data)
endif
ifneq ($(wildcard ../shared/models),)
export SAFELOX_MODELS ?= $(abspath ../shared/models)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format docs bench clean

help:
	@echo "make demo       set up, then harden a small trained model and show what that changed"
	@echo "make test       set up, then run the tests (make test-slow: the slow ones too)"
	@echo "make check      formatting, lint and types"
	@echo "make format     put the formatting right"
	@echo "make docs       the documentation as a site, in build/site"
	@echo "make bench      the benchmarks"
	@echo "make clean      remove .venv and everything that was built"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "safelox needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[all,docs,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/safelox demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --runslow $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/site

bench: $(STAMP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
