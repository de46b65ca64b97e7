# make demo    set up, train a small model on generated imagery, score it, draw what it found
# make test    set up, lint, check types, run all tests
# make lint    the first half of that;  make format  rewrites what it would complain about
# make clean   remove .venv and every cache; runs/ and datasets stay
#
# Settings: PYTHON=python3.12, TORCH_INDEX=URL, DETECTRON2=git; tools/setup.sh says what they do.

BIN := .venv/bin

.PHONY: help install demo lint format test clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

install:
	@tools/setup.sh

demo: install
	@$(BIN)/python tools/demo.py

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "error: files above are not formatted; run 'make format'" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo

format: install
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

test: lint
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal --cov --cov-report=term --durations=10

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .coverage build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
