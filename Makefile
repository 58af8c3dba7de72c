# make demo    a differentially private synthetic Adult table, from nothing
# make test    the whole test-suite
# make papers  published tables, the variants that end on two cores, published figures beside ours
# make mutants, random, proof, faults, fuzz    planted bugs, random configurations, independent recomputation,
#              injected faults, mutated files: what the privacy claim survives (minutes each)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check papers mutants random proof faults fuzz format clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dpforge needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[marginals,diffusion,dalle,dicom,joblib,slurm,ray,optuna,notebooks,test,dev]'
	touch $@

demo: setup
	$(BIN)/dpforge experiment=demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/dpforge-check --all

papers: setup
	$(BIN)/python scripts/papers.py

mutants: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants --clean

random: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants --random 200

proof: setup
	DPFORGE_PROOF=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/privacy/test_verify_agreement.py tests/privacy/test_accounting_oracles.py

faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --cells 1000

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seconds 60

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
