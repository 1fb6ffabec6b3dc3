# Everything a person or CI does here. `make run` and `make test` need only Python, a Rust toolchain and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
STAMPS := $(VENV)/stamps

# The extension has the docstrings of its stub.
RUST := $(shell find src -name '*.rs') build.rs python/chatring/_core.pyi Cargo.toml Cargo.lock pyproject.toml

# A process more than there are cores, because many tests wait for servers. At most four: each starts the servers it needs.
PROCESSES := $(shell $(PYTHON) -c "import os; print(min((os.cpu_count() or 1) + 1, 4))")
PYTEST_OPTIONS ?=
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal $(PYTEST_OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-rust test-python test-matrix test-long test-kills test-free-threaded instructions instructions-update lint format typecheck bench bench-full docs build release-check fuzz clean

help: ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

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

# The same, optimised for what benches/training.py does, as a release is: `make bench` measures this build. It takes a tool
# of the compiler's that not every installation has; without it the build stays as it was.
$(STAMPS)/profiled: $(STAMPS)/extension benches/training.py
	@if rustup component add llvm-tools >/dev/null 2>&1; then \
		echo "building with a profile (a few minutes)"; \
		VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --pgo --locked --quiet --extras cli && \
		echo "profile-guided" >$@; \
	else \
		echo "no llvm-tools: building without a profile" && echo "without a profile" >$@; \
	fi

run: $(STAMPS)/extension ## build, and show the window of the example conversation
	$(BIN)/chatring window examples/support-conversation.jsonl --token-limit 3000

test: test-rust instructions test-python ## all tests: Rust core without Python, all of Rust, Python

test-rust: | $(BIN)/python
	cargo test --locked --quiet --no-default-features
	PYO3_PYTHON=$(abspath $(BIN)/python) cargo test --locked --quiet

test-python: $(STAMPS)/extension $(STAMPS)/test $(STAMPS)/frameworks
	$(PYTEST)

test-fast: $(STAMPS)/extension $(STAMPS)/test ## before a commit: the core, and Python with few generated cases and no servers
	cargo test --locked --quiet --no-default-features
	HYPOTHESIS_PROFILE=fast $(PYTEST) -r fE # not what is skipped

NOX_OPTIONS ?=

test-matrix: $(STAMPS)/build $(STAMPS)/matrix ## every Python that is found, old and new releases of all that is needed
	$(BIN)/nox $(NOX_OPTIONS)

test-free-threaded: $(STAMPS)/extension $(STAMPS)/threads ## what concerns threads, on a PYTHON without a GIL
	PYTHON_GIL=0 $(PYTEST) tests/test_threads.py tests/test_reentrancy.py tests/test_reentrancy_additive.py tests/test_gc.py

test-long: $(STAMPS)/extension $(STAMPS)/test $(STAMPS)/frameworks ## ten times the generated cases
	HYPOTHESIS_PROFILE=long $(PYTEST) --timeout 3600

test-kills: $(STAMPS)/extension $(STAMPS)/test ## 240 kills of writers and servers over all stores on disk, 400 programs that fork, 7,000 calls through a pooler
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/stores/test_kill.py tests/stores/test_sqlite_fork.py tests/stores/test_postgresql_pooler.py --timeout 3600 -rP

instructions: ## the guard: instruction counts of the core against benches/instructions.json (needs valgrind)
	cargo bench --locked --quiet --no-default-features --bench instructions

instructions-update: ## store the instruction counts anew
	cargo bench --locked --quiet --no-default-features --bench instructions -- --update

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

typecheck: $(STAMPS)/lint $(STAMPS)/test $(STAMPS)/frameworks $(STAMPS)/bench $(STAMPS)/docs $(STAMPS)/extension ## mypy, and the stub against the extension
	$(BIN)/mypy
	$(BIN)/stubtest chatring._core --mypy-config-file pyproject.toml

BENCH_OPTIONS ?=

bench: $(STAMPS)/profiled $(STAMPS)/test $(STAMPS)/frameworks $(STAMPS)/bench ## the benchmarks, into docs/benchmarks/ and the README
	mkdir -p target/bench
	BUILD="$$(cat $(STAMPS)/profiled)" $(BIN)/python -m pytest benches --timeout 0 --benchmark-only --benchmark-json target/bench/timings.json $(BENCH_OPTIONS)
	$(BIN)/python -m benches.memory target/bench/memory.json
	cargo bench --locked --quiet --no-default-features --bench core -- --quick --noplot
	$(BIN)/python -m benches.report target/bench/timings.json target/bench/memory.json target/criterion

bench-full: ## the benchmarks with histories of ten million messages
	$(MAKE) bench BENCH_OPTIONS='$(BENCH_OPTIONS) --full'

DOCS_OPTIONS ?=

docs: $(STAMPS)/extension $(STAMPS)/docs ## the site, into target/site, and a check of its links and of each page in a browser
	$(BIN)/python docs/site/build.py
	$(BIN)/python docs/site/check.py $(DOCS_OPTIONS)

BUILD_OPTIONS ?=

build: | $(STAMPS)/build ## a release's wheel in target/wheels, profile-guided (needs rustup's llvm-tools)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin build --pgo --locked --interpreter $(BIN)/python $(BUILD_OPTIONS)

# A program that this group's package fetches, and some machines cannot: release-check says if it is not there.
$(STAMPS)/actionlint: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --group actionlint >/dev/null 2>&1 || true
	@touch $@

release-check: $(STAMPS)/build $(STAMPS)/release $(STAMPS)/actionlint ## workflows, licences, wheels for each Python that is found, an sdist: what a release needs
	$(BIN)/python release/checks.py

FUZZ_SECONDS ?= 60

fuzz: $(STAMPS)/extension $(STAMPS)/fuzz ## FUZZ_SECONDS (60) of generated input for each of what decodes files and rows
	$(BIN)/python fuzz/run.py --seconds $(FUZZ_SECONDS)

clean: ## remove everything that was built
	rm -rf $(VENV) target
