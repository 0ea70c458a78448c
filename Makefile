# Two commands do all the set-up: `make demo` runs the main job, `make test` runs the tests.
# Each needs Python 3.10 to 3.13 and pip, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
endif
# torch alone and first: nothing later then replaces a CPU build by a larger one. Without an NVIDIA card, set
# PIP_EXTRA_INDEX_URL to PyTorch's CPU index and TORCH=torch==2.13.0+cpu: 1.5 GB for the demo, 3 GB with the tests.
TORCH ?= torch==2.13.0

.PHONY: demo test check proofs bench screenshots slicer-test clean

demo: $(VENV)/.installed
	$(BIN)/sahlora demo demo

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not proof"

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proofs: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m proof --timeout 7200

bench: $(VENV)/.installed-test
	$(BIN)/python Testing/benchmarks/bench_inference.py --output Docs/evidence/benchmarks/inference.json
	$(BIN)/python Testing/benchmarks/bench_adapters.py --output Docs/evidence/benchmarks/adapters.json
	$(BIN)/python Testing/benchmarks/bench_training.py --output Docs/evidence/benchmarks/training.json
	$(BIN)/python Testing/benchmarks/bench_segmenter.py --output Docs/evidence/benchmarks/segmenter.json
	$(BIN)/python Testing/benchmarks/bench_trainer.py --output Docs/evidence/benchmarks/trainer.json

screenshots: $(VENV)/.installed-test
	$(BIN)/python Testing/slicer/screenshots.py Resources/Screenshots

# In a real Slicer: make slicer-test SLICER=/path/to/Slicer [SLICER_TEST_OPTIONS=--install]
slicer-test:
	$(PYTHON) Testing/slicer_app/run.py "$(SLICER)" --output slicer-test $(SLICER_TEST_OPTIONS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[test,bench]"
	touch $@

clean:
	rm -rf $(VENV) demo slicer-test build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
