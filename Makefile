# The README's commands do everything these do; here they are one at a time.
PYTHON ?= .venv/bin/python

.PHONY: install lint format types test slow check newest example

install:
	python3 -m venv .venv
	.venv/bin/pip install -e ".[dev]"

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

types:
	$(PYTHON) -m mypy

test:
	$(PYTHON) -m pytest

slow:
	$(PYTHON) -m pytest -m slow

check: lint types test

# The newest Keras and TensorFlow of the index, whatever setup.py allows.
newest:
	python3 -m venv .venv-newest
	.venv-newest/bin/pip install -e ".[dev]"
	.venv-newest/bin/pip install --upgrade keras tensorflow tf_keras
	.venv-newest/bin/python -m pytest

example:
	$(PYTHON) examples/train_vae.py
