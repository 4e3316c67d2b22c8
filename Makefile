# One set-up, three jobs. `make demo` prunes a real network and writes its page; `make test` runs every check.
# Idle OpenMP threads must sleep, not spin: on a busy machine spinning made the same run a hundred times slower.
export OMP_WAIT_POLICY := PASSIVE
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint set-up clean

demo: $(READY)
	$(BIN)/hedgerow run digits-demo --out runs/demo

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --timeout 600

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

set-up: $(READY)

# PyTorch first and by exact version: a CPU build found locally is then taken, and nothing later replaces it.
$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -e ".[dev,export]"
	touch $(READY)

clean:
	rm -rf .venv runs .cache
