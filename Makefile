# All set-up is done here: Python 3.10 or newer with its venv module is all that must be there.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
# Test processes at once. Each has a database server or databases of its own; 0 runs in one process.
JOBS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv check fix test lowest demo mutants bench build clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
	@echo
	@echo 'make test ARGS="tests/test_x.py -k name"   PYTHON=python3.12 VENV=.venv312 JOBS=0   SQLA_JOBS_TEST_DATABASE_URL=...'

$(VENV)/.installed: pyproject.toml
	@test -n '$(PYTHON)' || { echo 'make: no Python >= 3.10 found; name one: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo 'make: "$(PYTHON) -m venv $(VENV)" failed; on Debian: apt-get install python3-venv'; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

venv: $(VENV)/.installed ## make the virtual environment (the others do it as needed)

check: venv ## lint, format, types, import floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fix: venv ## let ruff repair and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: venv ## the tests, on an embedded PostgreSQL or SQLA_JOBS_TEST_DATABASE_URL
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

lowest: $(VENV)-lowest/.installed ## the tests that send SQL, on the lowest SQLAlchemy and psycopg (Python 3.10 to 3.12)
	$(VENV)-lowest/bin/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS) $(if $(ARGS),,$(NO_SQL:%=--ignore=tests/test_%.py))

# Tests of files, pages, wheels and pure functions, to which the versions are nothing, and of what stands in front of the
# reading side, whose own tests are not left out: a browser, a terminal, the admin interfaces.
NO_SQL = benchmarks cron cron_dst cron_oracle cron_syntax demo docs docs_complete errors mutants outcome packaging policy typing \
	cli_documents example_sqladmin example_starlette_admin redaction top top_keys top_state top_view \
	web_big web_browser web_flask web_intrusion web_live web_security

$(VENV)-lowest/.installed: pyproject.toml
	@$(PYTHON) -m venv $(VENV)-lowest
	PYTHONWARNINGS=ignore $(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[test]' 'sqlalchemy==2.0.30' 'psycopg==3.2.1' 'psycopg-binary==3.2.1'
	@touch $@

demo: venv ## the shop example: orders, workers, a kill -9
	$(BIN)/sqla-jobs demo $(ARGS)

mutants: venv ## break each fence, lock and guard in a copy: its test must fail
	$(BIN)/python tests/mutants/run.py --jobs $(if $(filter 0,$(JOBS)),1,$(JOBS)) $(ARGS)

bench: $(VENV)/.bench ## measure, beside other queues; ARGS="row --quick" measures less
	$(BIN)/python -m tests.benchmarks $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m tests.benchmarks.plot)

$(VENV)/.bench: $(VENV)/.installed
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

build: venv ## sdist and wheel in dist/
	$(BIN)/python -m build

clean: ## remove what the others made
	rm -rf $(VENV) $(VENV)-lowest build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
