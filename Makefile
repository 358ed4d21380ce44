# Everything runs in the checkout's own .venv; `make demo` and `make test` need Python 3.11+, make and git only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos fuzz soak compose-check check static format benchmarks clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "worldloop needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(READY)  ## create .venv with the pinned versions of constraints.txt

GAME := Riverraid
DATASET := data/riverraid_frames.h5

$(DATASET): | $(READY)
	$(BIN)/worldloop data record --env ALE/$(GAME)-v5 --frames 10000 --size 64 --seed 0 --out $@

demo: $(READY) $(DATASET)  ## record a real game, train the three stages through their gates, run the inference gate
	$(BIN)/worldloop train --profile demo --dataset $(DATASET)

test: $(READY)  ## all tests, by two processes side by side
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

chaos: $(READY)  ## every fault of docs/reliability.md, within 50 minutes on 2 cores; the last line is the summary
	$(BIN)/python -m tests.chaos

fuzz: $(READY)  ## forty times as many damaged files, messages and arguments as `make test` tries (a quarter of an hour)
	WORLDLOOP_FUZZ_EXAMPLES=1000 $(BIN)/pytest tests/fuzz --timeout 3600

compose-check: $(READY) $(DATASET)  ## compose.yaml for real: needs Docker Compose and root, about 15 minutes
	$(BIN)/python -m docker.check $(DATASET)

soak: $(READY)  ## a run over several hosts whose network fails them (needs root; minutes)
	$(BIN)/pytest tests/soak/soak_several_hosts.py

static: $(READY)  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: static test  ## all that CI runs

format: $(READY)  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: $(READY)  ## the figures of docs/benchmarks.md
	$(BIN)/python benchmarks/gate_turnaround.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/threads.py
	$(BIN)/python benchmarks/detectors.py
	$(BIN)/python benchmarks/gatekeeper.py
	$(BIN)/python benchmarks/visual.py
	$(BIN)/python benchmarks/wandb_history.py
	$(BIN)/python -m benchmarks.page
	$(BIN)/python benchmarks/play.py
	$(BIN)/python benchmarks/quality.py Riverraid

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
