# make demo    set up, run the first experiment, draw its figure
# make test    set up, run the tests
# make check   lint, format, types, import rule
# make bench   measured speeds
# make readme  rewrite the README's results table from the gallery
# make clean   remove .venv, caches and build products (never runs/)
#
# PYTHON=python3.12 make test   chooses the interpreter (3.11 or newer)

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= dev,sb3

# One thread a process: two threads on shared cores cost up to a thousand times.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1

# The first interpreter on PATH that runs, is recent enough and can build an environment.
FIND_PYTHON = for p in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then echo "$$p"; break; fi; done

.PHONY: demo test check lint types imports bench readme clean setup help

help:
	@sed -n '1,8s/^# \{0,1\}//p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@python=`$(FIND_PYTHON)`; \
	if [ -z "$$python" ]; then \
	echo "rlkit needs Python 3.11 or newer with venv; set PYTHON=/path/to/python" >&2; exit 2; fi; \
	echo "setting up $(VENV) with $$python"; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]' -c constraints.txt
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/rlkit figure informed_ts
	@echo
	@echo "The figure:   runs/figures/informed_ts.png (and .pdf, .claims.json)"
	@echo "The runs:     runs/informed_ts/"
	@echo "Live curves:  $(BIN)/rlkit board informed_ts"

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=worksteal

check: lint types imports

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m pytest tests/benchmarks -m benchmark --benchmark-enable -s

readme: $(STAMP)
	$(BIN)/python paper_figures/gallery/table.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find rlkit envs agents experiments paper_figures tests -name __pycache__ -type d -prune -exec rm -rf {} +
