# make run    the service, on SQLite and memory, at http://127.0.0.1:8888
# make test   every test; brings its own Redis and MongoDB-protocol servers
# The virtual environment in .venv is made, and brought up to date with the requirements, by whichever runs first.
# Another Python: make clean, then make PYTHON=python3.13 test.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What one process has compiled, the others need not: pytest's workers, and the hundreds that the tests start.
unexport PYTHONDONTWRITEBYTECODE

# Tests with Hypothesis. The suite runs few examples of each.
GENERATED := tests/api/contract/test_fast_path.py tests/contract/test_state_machine.py tests/simulation/test_history_checker.py \
	tests/integration/store/test_event_log_model.py tests/integration/store/test_event_shares.py

.DEFAULT_GOAL := help
.PHONY: help install install-run run test test-fast test-browser screenshots fuzz simulation nemesis bench cost docs coverage lint audit sbom format requirements clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/dev.done  ## create the virtual environment, with the packages for run, test and lint

install-run: $(VENV)/run.done  ## create the virtual environment, with only the packages for run

run: $(VENV)/run.done  ## run the service; ARGS="--port 9000" passes options on
	$(BIN)/python pdapt.py $(ARGS)

test: $(VENV)/dev.done  ## run every test, six at a time: they often wait; ARGS="-k racing" picks some
	$(BIN)/python -m pytest -n 6 --dist worksteal $(ARGS)

test-fast: $(VENV)/dev.done  ## run the unit and API tests on the default server, store and cache: the inner loop
	$(BIN)/python -m pytest -n logical --dist worksteal --defaults -m "not slow" tests/unit tests/api $(ARGS)

test-browser: $(VENV)/browser.done  ## run the tests that need Chromium, which must be on PATH, or packages of npm
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/browser $(ARGS)

screenshots: $(VENV)/browser.done  ## take the screenshots of the console in docs/images; needs Chromium
	$(BIN)/python -m tests.browser.screenshots

fuzz: $(VENV)/dev.done  ## generate 1,000 requests for each operation, and 250 with each kind of key, and run Hypothesis with many examples; ARGS="500 7": 500 requests, seed 7
	$(BIN)/python -m tests.fuzz $(ARGS)
	GUIDSVC_TEST_EXAMPLES=20 $(BIN)/python -m pytest -n 4 --dist worksteal --timeout 3600 $(GENERATED)

simulation: $(VENV)/dev.done  ## run the cache in a simulated world: 2,000 seeds, and every mutant of it; ARGS="--seeds 9" runs some seeds
	$(BIN)/python -m tests.simulation $(or $(ARGS),--seeds 2000)
	$(if $(ARGS),,$(BIN)/python -m tests.simulation --mutants)

nemesis: $(VENV)/dev.done  ## inject faults under load for ten minutes, and check the history; ARGS="--store mongo --seconds 60"
	$(BIN)/python -m tests.nemesis $(ARGS)

bench: $(VENV)/bench.done  ## measure guidsvc beside other servers; needs wrk and nginx; ARGS="--rounds 1 --seconds 1" is short
	$(BIN)/python -m bench $(ARGS)

cost: $(VENV)/dev.done  ## count the Python calls of a request on each path; ARGS="--write" records them, ARGS="--instructions" needs valgrind
	$(BIN)/python -m bench.cost $(ARGS)

docs: $(VENV)/docs.done  ## build the documentation as a site with search: docs/_build/index.html; a warning fails
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build

coverage: $(VENV)/dev.done  ## run every test and write htmlcov/index.html
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage html
	$(BIN)/python -m coverage report

lint: $(VENV)/dev.done  ## check style, types, the direction of imports, unsafe code and known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@# Bandit alone would warn of each piece of an f-string that a nosec on its line was not needed for.
	$(BIN)/python -c "import logging, bandit.cli.main as bandit; logging.disable(logging.WARNING); bandit.main()" \
		--quiet --recursive guidsvc guidsvc_client pdapt.py
	$(BIN)/python -m tests.meta.audit

audit: $(VENV)/dev.done  ## check the installed packages for known vulnerabilities
	$(BIN)/python -m tests.meta.audit

sbom: $(VENV)/dev.done  ## write the packages that the service uses, and their licences, to sbom.json, as CycloneDX
	$(BIN)/python -m tests.meta.sbom sbom.json

format: $(VENV)/dev.done  ## fix lint findings and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# In this order: what the later ones share with the earlier is pinned by those.
requirements: $(VENV)/uv.done  ## pin the packages of requirements*.in with hashes; ARGS="--upgrade" takes newer versions
	for name in requirements requirements-dev requirements-build requirements-bench requirements-browser requirements-docs; do \
		$(BIN)/uv pip compile --quiet --python $(BIN)/python --universal --python-version 3.11 --generate-hashes \
			--no-strip-extras --annotation-style line --custom-compile-command "make requirements" \
			--output-file $$name.txt $(ARGS) $$name.in || exit 1; \
	done

clean:  ## remove the files that the other targets create
	rm -rf $(VENV) docs/_build sbom.json htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/venv.done:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "guidsvc needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@echo "Making the virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Not with all of requirements-dev.txt: that may be what has to be written anew.
$(VENV)/uv.done: requirements-dev.in $(VENV)/venv.done
	@$(PIP) "$$(grep -o '^uv==[^ ]*' requirements-dev.in)"
	@touch $@

$(VENV)/run.done: requirements.txt $(VENV)/venv.done
	@echo "Installing the packages of requirements.txt; this takes about a minute ..."
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/dev.done: requirements.txt requirements-dev.txt $(VENV)/venv.done
	@echo "Installing the packages of requirements-dev.txt; this takes about two minutes ..."
	@$(PIP) -r requirements-dev.txt
	@touch $@ $(VENV)/run.done

$(VENV)/bench.done: requirements-bench.txt $(VENV)/dev.done
	@echo "Installing the packages of requirements-bench.txt; this takes about a minute ..."
	@$(PIP) -r requirements-bench.txt
	@touch $@

$(VENV)/docs.done: requirements-docs.txt $(VENV)/dev.done
	@echo "Installing the packages of requirements-docs.txt; this takes about a minute ..."
	@$(PIP) -r requirements-docs.txt
	@touch $@

$(VENV)/browser.done: requirements-browser.txt tests/browser/package.json tests/browser/package-lock.json $(VENV)/dev.done
	@echo "Installing the packages of requirements-browser.txt; this takes about a minute ..."
	@$(PIP) -r requirements-browser.txt
	@mkdir -p $(VENV)/browser
	@cp tests/browser/package.json tests/browser/package-lock.json $(VENV)/browser
	@$(BIN)/npm ci --prefix $(VENV)/browser --ignore-scripts --no-audit --no-fund --silent
	@touch $@
