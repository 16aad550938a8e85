# Needs Python 3.11 or newer, pip and make. Each target installs what it needs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: all serve serve-ray test check ray docker-test parity soak audit lint types format bench bench-ray gpu agreement figures coverage \
  picture pins hashes docs clean
all: lint types check ## run what CI runs

serve: $(VENV)/serve ## serve the default model on port 8000
	$(BIN)/vitrine serve

test: $(VENV)/dev ## run the core tests, in minutes, against the real model and real server processes
	$(BIN)/python -m pytest -q -m 'not soak and not thorough'

check: $(VENV)/dev ray ## run all tests but the soak tests: checkpoint families, faults, dialects, the playground in a browser
	$(BIN)/python -m pytest -q

docker-test: $(VENV)/dev ## test the image and the compose file on this machine's Docker engine, from build to stop under load
	$(BIN)/python -m tests.deploy.docker.check

parity: $(VENV)/dev ## measure how far the answers are from each original implementation's, into docs/parity.md
	$(BIN)/python -m tests.parity > docs/parity.md

coverage: $(VENV)/dev ## measure which published networks are served and answer like their originals, into docs/coverage.md
	$(BIN)/python -m tests.coverage > docs/coverage.md

soak: $(VENV)/dev ray ## run the tests that take minutes to hours; SOAK_S is the duration of the mixed load in seconds
	$(BIN)/python -m pytest -q -m soak

audit: $(VENV)/dev ## look up known vulnerabilities of the pinned packages; needs the network
	$(BIN)/pip-audit -r requirements/serve.txt --no-deps --disable-pip

lint: $(VENV)/dev ## check style, complexity, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev ## check types with mypy --strict
	$(BIN)/mypy

format: $(VENV)/dev ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/bench ## measure speed, as ratios within one run; ARGS='--quick', names of tables, or --help
	$(BIN)/python -m benchmarks.bench $(ARGS)

agreement: $(VENV)/dev ## measure how far half precision is from float32 on PICTURES, a folder or a zip file
	$(BIN)/python -m benchmarks.agreement $(PICTURES)

figures: $(VENV)/dev ## measure the figures of SECURITY.md; needs an idle machine
	$(BIN)/python -m tests.faults.figures

# It installs nothing, so that it runs on a machine with a torch of its own and no network.
gpu: ## measure a GPU with the torch of PYTHON: tests, parity, speed, a profile, as one page; ARGS='--device cpu --quick' tries it
	"$(PYTHON)" -m benchmarks.gpu $(ARGS)

bench-ray: $(VENV)/dev $(VENV)/ray ## measure the latency that Ray Serve adds to a request
	$(BIN)/python -m benchmarks.ray_overhead

serve-ray: $(VENV)/ray ## serve the default model on a local Ray cluster, on port 8000
	$(BIN)/serve run deploy.ray.serve:app

# What only an older Python needs keeps its marker, so that a newer one installs the rest.
FREEZE = $(VENV)-pins/bin/pip freeze --exclude-editable | sed -e 's/+cpu$$//' -e 's/^backports\.zstd==.*/& ; python_version < "3.14"/'

pins: ## update requirements/ to the newest versions that pyproject.toml allows
	rm -rf $(VENV)-pins && "$(PYTHON)" -m venv $(VENV)-pins
	$(VENV)-pins/bin/pip install --quiet torch==$(shell sed -n 's/^torch==//p' requirements/serve.txt) -e .
	( echo '# What `vitrine` runs on, exactly as tested. Made by `make pins`.'; \
	  $(FREEZE) ) > requirements/serve.txt
	$(VENV)-pins/bin/pip install --quiet "pip>=25.1" && $(VENV)-pins/bin/pip install --quiet --group dev
	( echo '# What the project is developed with, beside serve.txt. Made by `make pins`.'; echo '-r serve.txt'; \
	  $(FREEZE) | grep -vxFf requirements/serve.txt ) > requirements/dev.txt
	$(VENV)-pins/bin/pip install --quiet --group bench
	( echo '# What `make bench` compares with, beside dev.txt. Made by `make pins`.'; echo '-r dev.txt'; \
	  $(FREEZE) | \
	  grep -vxF -f requirements/serve.txt -f requirements/dev.txt ) > requirements/bench.txt
	$(VENV)-pins/bin/pip install --quiet uv
	( echo '# What deploy/ray runs on, beside serve.txt, exactly as tested. Made by `make pins`.'; echo '-r serve.txt'; \
	  $(VENV)-pins/bin/uv pip compile --quiet --group ray --no-annotate --no-header \
	    --constraints requirements/serve.txt --constraints requirements/dev.txt | grep -ivxFf requirements/serve.txt \
	) > requirements/ray.txt
	$(MAKE) hashes

hashes: ## update requirements/image.txt: serve.txt without torch, with hashes
	test -d $(VENV)-pins || "$(PYTHON)" -m venv $(VENV)-pins
	$(VENV)-pins/bin/pip install --quiet uv
	( echo '# What the image installs beside torch: serve.txt with the hash of every file that the index has. Made by `make hashes`.'; \
	  grep -v '^torch==' requirements/serve.txt | $(VENV)-pins/bin/uv pip compile --quiet --universal --no-deps --generate-hashes \
	    --no-annotate --no-header --format requirements.txt - ) > requirements/image.txt
	rm -rf $(VENV)-pins

docs: $(VENV)/dev ## update the tables of docs/operations.md from the code
	$(BIN)/python -m tests.docs

picture: $(VENV)/dev ## take the picture of the README from the page as it is; needs Chromium
	$(BIN)/python -m tests.page.picture

clean: ## remove what the other targets have made
	rm -rf $(VENV) models/network/kernels/_native* build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/serve: pyproject.toml requirements/serve.txt $(wildcard models/network/kernels/native/*)
	test -d $(VENV) || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing torch and the other packages into $(VENV). This takes minutes; on Linux torch includes CUDA (some GB)."
	$(BIN)/pip install --quiet -r requirements/serve.txt
	$(BIN)/pip install --quiet --no-deps -e .
	@touch $@

# If Ray cannot be installed, its tests are skipped with a message.
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
