# On a fresh machine with Python 3.11 or newer, pip and make, each target installs what it needs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: all serve serve-ray test check ray docker-test parity soak audit lint types format bench bench-ray agreement figures \
  pins hashes docs clean
all: lint types check ## what CI runs

serve: $(VENV)/serve ## serve the default model on port 8000
	$(BIN)/vitrine serve

test: $(VENV)/dev ## the tests of the foundation, in minutes, against the real model and real server processes
	$(BIN)/python -m pytest -q -m 'not soak and not thorough'

check: $(VENV)/dev ray ## all tests but the soak: every family of checkpoints, every fault, every dialect, the page in a browser
	$(BIN)/python -m pytest -q

docker-test: $(VENV)/dev ## the image and the compose file on this machine's Docker engine, from the build to the stop under load
	$(BIN)/python -m tests.deploy.docker.check

parity: $(VENV)/dev ## how far the answers lie from every original's: docs/parity.md
	$(BIN)/python -m tests.parity > docs/parity.md

soak: $(VENV)/dev ray ## the tests that take minutes to hours; SOAK_S seconds of mixed load
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

bench: $(VENV)/bench ## speed, as ratios within one run; ARGS='--quick', or the names of tables, or --help
	$(BIN)/python -m benchmarks.bench $(ARGS)

agreement: $(VENV)/dev ## how far half precision leaves the answers of float32, on PICTURES (a folder or a zip file)
	$(BIN)/python -m benchmarks.agreement $(PICTURES)

figures: $(VENV)/dev ## the figures of SECURITY.md, measured on an idle machine
	$(BIN)/python -m tests.faults.figures

bench-ray: $(VENV)/dev $(VENV)/ray ## what Ray Serve adds to a request, beside the plain service in one run
	$(BIN)/python -m benchmarks.ray_overhead

serve-ray: $(VENV)/ray ## the default model as a deployment of a local Ray, on port 8000
	$(BIN)/serve run deploy.ray.serve:app

pins: ## resolve requirements/ anew from the ranges in pyproject.toml
	rm -rf $(VENV)-pins && $(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/pip install --quiet torch==$(shell sed -n 's/^torch==//p' requirements/serve.txt) -e .
	( echo '# What `vitrine` runs on, exactly as tested. Made by `make pins`.'; \
	  $(VENV)-pins/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' ) > requirements/serve.txt
	$(VENV)-pins/bin/pip install --quiet "pip>=25.1" && $(VENV)-pins/bin/pip install --quiet --group dev
	( echo '# What the project is developed with, beside serve.txt. Made by `make pins`.'; echo '-r serve.txt'; \
	  $(VENV)-pins/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -vxFf requirements/serve.txt ) > requirements/dev.txt
	$(VENV)-pins/bin/pip install --quiet --group bench
	( echo '# What `make bench` compares with, beside dev.txt. Made by `make pins`.'; echo '-r dev.txt'; \
	  $(VENV)-pins/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' | \
	  grep -vxF -f requirements/serve.txt -f requirements/dev.txt ) > requirements/bench.txt
	$(VENV)-pins/bin/pip install --quiet uv
	( echo '# What deploy/ray runs on, beside serve.txt, exactly as tested. Made by `make pins`.'; echo '-r serve.txt'; \
	  $(VENV)-pins/bin/uv pip compile --quiet --group ray --no-annotate --no-header \
	    --constraints requirements/serve.txt --constraints requirements/dev.txt | grep -ivxFf requirements/serve.txt \
	) > requirements/ray.txt
	$(MAKE) hashes

hashes: ## what the image installs: serve.txt without torch, with the hash of every file that the index has
	test -d $(VENV)-pins || $(PYTHON) -m venv $(VENV)-pins
	$(VENV)-pins/bin/pip install --quiet uv
	( echo '# What the image installs beside torch: serve.txt with the hash of every file that the index has. Made by `make hashes`.'; \
	  grep -v '^torch==' requirements/serve.txt | $(VENV)-pins/bin/uv pip compile --quiet --no-deps --generate-hashes \
	    --no-annotate --no-header --format requirements.txt - ) > requirements/image.txt
	rm -rf $(VENV)-pins

docs: $(VENV)/dev ## write the tables of docs/operations.md anew, from the code
	$(BIN)/python -m tests.docs

clean: ## remove what the targets above have made
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/serve: pyproject.toml requirements/serve.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch and the other packages into $(VENV). This takes minutes; on Linux torch brings CUDA, some GB."
	$(BIN)/pip install --quiet -r requirements/serve.txt
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

# Where Ray cannot be had, its tests are skipped and say so.
ray: $(VENV)/dev
	@$(MAKE) --no-print-directory $(VENV)/ray || echo "Ray could not be installed; its tests will be skipped"

$(VENV)/ray: $(VENV)/serve requirements/ray.txt
	$(BIN)/pip install --quiet -r requirements/ray.txt
	@touch $@

$(VENV)/dev: $(VENV)/serve requirements/dev.txt requirements/originals.txt
	$(BIN)/pip install --quiet -r requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps -r requirements/originals.txt
	@touch $@

$(VENV)/bench: $(VENV)/dev requirements/bench.txt
	$(BIN)/pip install --quiet -r requirements/bench.txt
	@touch $@
