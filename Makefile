# make quickstart: set up, train on the embedded default, print the result, write a report of it.
# make test: set up, check, test.   make docs: the pages of docs/ and the reference as HTML, in site/.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test docs clean

quickstart: .venv/installed
	$(BIN)/transkimmer train --config configs/quickstart.py --workdir runs/quickstart
	$(BIN)/transkimmer report --model runs/quickstart/model --task movie_reviews --budgets 0.5 0.3 --output runs/quickstart/report.html
	$(BIN)/transkimmer report --run runs/quickstart --output runs/quickstart/run.html

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

docs: .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv site
