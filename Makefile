# On a fresh machine with Python 3.11 or newer, pip and make, each target installs what it needs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: all serve test parity lint types format bench pins clean
all: lint types test ## what CI runs

serve: $(VENV)/serve ## serve the default model on port 8000
	$(BIN)/vitrine serve

test: $(VENV)/dev ## the tests, against the real model and real server processes
	$(BIN)/python -m pytest -q

parity: $(VENV)/dev ## how far the answers lie from every original's: docs/parity.md
	$(BIN)/python -m tests.parity > docs/parity.md

soak: $(VENV)/dev ## the tests that take minutes to hours; SOAK_S seconds of mixed load
	$(BIN)/python -m pytest -q -m soak

audit: $(VENV)/dev ## known holes in what is installed; asks the network
	$(BIN)/pip-audit -r requirements/serve.txt --no-deps --disable-pip

lint: $(VENV)/dev ## style, complexity, and the arrows between the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev ## mypy --strict
	$(BIN)/mypy

format: $(VENV)/dev ## mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev ## speed, as ratios within one run
	$(BIN)/python -m benchmarks.bench

pins: ## resolve requirements/ anew from the ranges in pyproject.toml
	rm -rf $(VENV)-pins && $(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/pip install --quiet torch==$(shell sed -n 's/^torch==//p' requirements/serve.txt) -e .
	( echo '# What `vitrine` runs on, exactly as tested. Made by `make pins`.'; \
	  $(VENV)-pins/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' ) > requirements/serve.txt
	$(VENV)-pins/bin/pip install --quiet "pip>=25.1" && $(VENV)-pins/bin/pip install --quiet --group dev
	( echo '# What the project is developed with, beside serve.txt. Made by `make pins`.'; echo '-r serve.txt'; \
	  $(VENV)-pins/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -vxFf requirements/serve.txt ) > requirements/dev.txt
	rm -rf $(VENV)-pins

clean: ## remove what the targets above have made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/serve: pyproject.toml requirements/serve.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/serve.txt
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/dev: $(VENV)/serve requirements/dev.txt requirements/originals.txt
	$(BIN)/pip install --quiet -r requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps -r requirements/originals.txt
	@touch $@
