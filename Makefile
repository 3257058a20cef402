# The README's commands do everything these do; here they are one at a time.
PYTHON ?= .venv/bin/python

.PHONY: install lint format types test slow check newest example site dist installed

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

site:
	rm -rf docs/api/names output/site
	$(PYTHON) -m sphinx -W docs output/site

dist:
	rm -rf dist
	$(PYTHON) -m build
	$(PYTHON) -m twine check --strict dist/*

# The tests of the source distribution with the package of the wheel, which comes first
# on the path.
PYTHON3 ?= python3
INSTALLED ?= /tmp/tfp_vae_installed
installed:
	rm -rf $(INSTALLED)
	$(PYTHON3) -m venv $(INSTALLED)/venv
	$(INSTALLED)/venv/bin/pip install "$$(ls $(CURDIR)/dist/*.whl)[dev]"
	mkdir $(INSTALLED)/source
	tar -xzf dist/*.tar.gz -C $(INSTALLED)/source --strip-components 1
	cd $(INSTALLED)/source && \
		PYTHONPATH=$$(echo $(INSTALLED)/venv/lib/python3*/site-packages):docs:examples:tests:. \
		../venv/bin/pytest --import-mode=importlib -o pythonpath= -o testpaths=tests
