# `make help` lists the targets. Everything runs in .venv, which `make setup` creates.
PYTHON ?= python3
# Another torch than the constraints choose, e.g. a CUDA build: see "On a GPU" in README.md.
TORCH ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all check tables figures report notebooks bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/installed ## create .venv and install the pinned packages

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(if $(TORCH),$(BIN)/pip install --quiet $(TORCH))
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: setup ## run the nine-run sweep on the embedded default, print its table, draw its figures
	$(BIN)/python -m src.run -m adapter=lora,lora_fa,lora_sb rank=4,8,16
	$(BIN)/python -m src.tables table=comparison
	$(BIN)/python -m src.figures

test: setup ## run the fast tests
	$(BIN)/python -m pytest -q -m 'not slow' -n 2

test-all: setup ## run all tests
	$(BIN)/python -m pytest -q -n 2

check: setup ## lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tables: setup ## write results/tables: the stored runs compared, reported parameter counts beside the ledger's
	$(BIN)/python -m src.tables

figures: setup ## draw results/figures from the stored runs
	$(BIN)/python -m src.figures

report: setup ## write results/report.html: all runs, tables and figures to sort, filter and look at
	$(BIN)/python -m src.report

notebooks: setup ## execute the notebooks again, in place
	$(BIN)/python notebooks/execute.py

bench: setup ## time a run beside the plain PEFT script, attention, GPT-3's count, logits, the analysis of 10,000 runs
	$(BIN)/python -m benchmarks.one_run
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.ledger
	$(BIN)/python -m benchmarks.answer_logits
	$(BIN)/python -m benchmarks.analysis

clean: ## delete caches and the environment, but no result
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache *.egg-info
