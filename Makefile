# Everything a person or CI does here. `make run` and `make test` need only Python, a Rust toolchain and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps

RUST := $(shell find src -name '*.rs') Cargo.toml Cargo.lock pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help run test test-rust test-python lint format typecheck bench build clean

help: ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	mkdir -p $(STAMPS)

# One stamp for each dependency group of pyproject.toml.
$(STAMPS)/%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

# The release extension, in place: Python files are used from the tree.
$(STAMPS)/extension: $(RUST) | $(STAMPS)/build
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked --quiet --extras cli
	@touch $@

run: $(STAMPS)/extension ## build, and show the window of the example conversation
	$(BIN)/chatring window examples/support-conversation.jsonl --token-limit 3000

test: test-rust test-python ## all tests: Rust core without Python, all of Rust, Python

test-rust: | $(BIN)/python
	cargo test --locked --quiet --no-default-features
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo test --locked --quiet

test-python: $(STAMPS)/extension $(STAMPS)/test $(STAMPS)/bench
	$(BIN)/python -m pytest

lint: $(STAMPS)/lint ## formatting and lints of Rust and Python
	cargo fmt --check
	cargo clippy --locked --quiet --all-targets --no-default-features -- -D warnings
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo clippy --locked --quiet --all-targets -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMPS)/lint ## rewrite the sources in the project's format
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

typecheck: $(STAMPS)/lint $(STAMPS)/test $(STAMPS)/bench $(STAMPS)/extension ## mypy, and the stub against the extension
	$(BIN)/mypy
	$(BIN)/stubtest chatring --ignore-missing-stub

bench: $(STAMPS)/extension $(STAMPS)/test $(STAMPS)/bench ## the benchmarks
	$(BIN)/python -m pytest benches --benchmark-only

build: | $(STAMPS)/build ## a wheel in target/wheels
	$(BIN)/maturin build --release --locked

clean: ## remove everything that was built
	rm -rf $(VENV) target
