# Needs python3 (3.11 or newer), cargo and the package registries; hooks and CI call these same targets.

PYTHON ?= python3
CARGO ?= cargo
# CI sets --locked: there Cargo.lock may not change.
LOCKED ?=

VENV := .venv
BIN := $(VENV)/bin
CORE := python/chinwag/_core.abi3.so
RUST := Cargo.toml $(wildcard Cargo.lock rust/*/Cargo.toml) $(shell find rust/*/src -name '*.rs')

# One interpreter for every build, so that neither cargo nor maturin builds pyo3 twice.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1
unexport CONDA_PREFIX PYTHONHOME

.NOTPARALLEL:
.PHONY: help dev demo test test-rust test-python lint lint-rust lint-python reference fmt bench dist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

dev: $(CORE) ## .venv with everything, the core built as it is shipped

$(BIN)/maturin: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("chinwag needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install 'maturin>=1.9.4,<2'
	@touch $@

$(CORE): $(BIN)/maturin $(RUST)
	$(BIN)/maturin develop --release $(LOCKED) --extras test,dev
	@touch $@

demo: dev ## a minute of group chat, handled before your eyes
	$(BIN)/chinwag demo

test: test-rust test-python ## all tests; the README and docs run too

test-rust: dev
	$(CARGO) test $(LOCKED) --workspace
	CARGO_TARGET_DIR=target/loom RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 $(CARGO) test $(LOCKED) --release -p chinwag-engine --test loom

test-python: dev
	$(BIN)/python -m pytest

lint: lint-rust lint-python ## formats, lints, types, stubs, reference, doc links, licences

lint-rust: dev
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --workspace --no-deps --quiet
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check licenses; \
	else echo "licences not checked: cargo install cargo-deny --locked"; fi

lint-python: dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/python -m mypy.stubtest chinwag._core
	$(BIN)/python docs/reference.py --check

reference: dev ## write docs/reference from the docstrings
	$(BIN)/python docs/reference.py

fmt: dev ## format everything, sort imports
	$(CARGO) fmt --all
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

bench: dev ## engine benches, then those that go through Python
	$(CARGO) bench $(LOCKED) -p chinwag-engine
	$(BIN)/python -m pytest benches -s -o python_files='bench_*.py' -o python_functions='bench_* test_*'

dist: dev ## wheel and source archive, installed and tested on every Python there is
	rm -rf dist
	$(BIN)/maturin build --release $(LOCKED) --out dist
	$(BIN)/maturin sdist --out dist
	$(BIN)/python .ci/dist.py dist $(LOCKED)

clean: ## remove what was built
	rm -rf target dist $(VENV) $(CORE) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
