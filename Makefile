# make setup | app | lab | notebooks | test | test-all | fast | lint | lock | sbom: each sets up what it needs on a fresh machine, then runs.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
BIN := .venv/bin
# Where torch alone comes from, e.g. https://download.pytorch.org/whl/cpu, which has the small build for CPUs.
# It is pinned by version; all other packages, and torch from PyPI, by hashes.
TORCH_INDEX ?=
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Two processes of one thread each: on two cores that is sooner than one of two. A file's tests stay together.
# FULL: which tests marked full run: all, or a commit since which the files that they protect changed.
FULL ?=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -q -n 2 --dist loadfile

.PHONY: setup app lab notebooks test test-all fast lint lock sbom clean

setup: .venv/.installed .venv/.browser

.venv/.installed: requirements.lock requirements-dev.lock requirements-torch.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing some two gigabytes of packages into .venv; it takes minutes."
ifdef TORCH_INDEX
	$(INSTALL) --no-deps --index-url $(TORCH_INDEX) "$$(grep ^torch== requirements.txt)"
else
	$(INSTALL) --no-deps --require-hashes -r requirements-torch.lock
endif
	$(INSTALL) --no-deps --require-hashes -r requirements.lock -r requirements-dev.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# The browser tests drive a real Chromium: the system's, or one that Playwright can install.
.venv/.browser: .venv/.installed
	command -v chromium chromium-browser google-chrome >/dev/null \
	  || $(BIN)/python -m playwright install --with-deps chromium \
	  || { apt-get update -qq && apt-get install -y -qq chromium; }
	touch $@

app: .venv/.installed
	$(BIN)/python app.py

lab: .venv/.installed
	$(BIN)/jupyter lab notebooks

# Runs all notebooks and writes them back with their outputs, without what is of one machine alone.
notebooks: setup
	$(BIN)/python -m notebooks.execute

test: setup lint
	$(PYTEST) --full=$(FULL)

test-all: FULL = all
test-all: test

fast: setup
	$(PYTEST) -m "not browser and not slow"

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/wording.py

# After a change of requirements.txt or requirements-dev.txt; needs a connection.
lock: .venv/.installed
	$(INSTALL) uv==0.13.9
	$(BIN)/python -m tools.lock

# The packages of the app as a CycloneDX document, from the lock files alone.
sbom:
	test -x .sbom/bin/pip || $(PYTHON) -m venv .sbom
	.sbom/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	cat requirements.lock requirements-torch.lock | .sbom/bin/cyclonedx-py requirements - -o sbom.json

clean:
	rm -rf .venv .sbom sbom.json .pytest_cache .ruff_cache .mypy_cache *.egg-info
