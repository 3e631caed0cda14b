# `make help` lists the targets. Everything runs in .venv, which `make setup` creates: setup.sh finds the Python.
PYTHON ?=
# Another torch than pip's default, e.g. the CPU build: see docs/gpu.md.
TORCH ?=
# uv where it is installed, else pip.
INSTALLER ?=
export PYTHON TORCH INSTALLER
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all golden gpu test-pythons check tables figures report notebooks docs bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## create .venv with the newest Python from 3.11 to 3.14, and install the pinned packages
	@sh setup.sh

quickstart: setup ## run the nine-run sweep on the embedded default, print its table, draw its figures
	$(BIN)/python -m src.run -m adapter=lora,lora_fa,lora_sb rank=4,8,16
	$(BIN)/python -m src.tables table=comparison
	$(BIN)/python -m src.figures

test: setup ## run the fast tests
	$(BIN)/python -m pytest -q -m 'not slow' -n 2

test-all: setup ## run all tests
	$(BIN)/python -m pytest -q -n 2

golden: setup ## repeat one stored short run of each method: the code gives the results that it gave
	$(BIN)/python -m src.verify results/golden

gpu: setup ## on a GPU: its tests, the nine runs, a step of every model beside PEFT's
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python -m src.run -m adapter=lora,lora_fa,lora_sb rank=4,8,16 results_dir=results/gpu
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.memory

test-pythons: setup ## the first run and the fast tests on every Python there is, pinned and newest; the oldest versions
	$(BIN)/python -m nox

check: setup ## lint, check the format and the types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

tables: setup ## write results/tables: the stored runs compared, reported parameter counts beside the ledger's
	$(BIN)/python -m src.tables

figures: setup ## draw results/figures from the stored runs
	$(BIN)/python -m src.figures

report: setup ## write results/report.html: all runs, tables and figures to sort, filter and look at
	$(BIN)/python -m src.report

notebooks: setup ## execute the notebooks again, in place
	$(BIN)/python notebooks/execute.py

docs: setup ## build the documentation into site/, with every link and anchor checked
	@$(BIN)/python -c 'import material' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

bench: setup ## time a sweep and a step beside PEFT's, its growth, starts, load, attention, counts, logits, analysis, 5,000 jobs
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.starts
	$(BIN)/python -m benchmarks.under_load
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.ledger
	$(BIN)/python -m benchmarks.answer_logits
	$(BIN)/python -m benchmarks.analysis
	$(BIN)/python -m benchmarks.composition
	$(BIN)/python -m benchmarks.figures

clean: ## delete caches and the environment, but no result
	rm -rf .venv .nox .cache site .mypy_cache .ruff_cache .pytest_cache *.egg-info
