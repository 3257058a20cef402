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

# Of the last commit alone: what is in the directory beside it stays out.
dist:
	test -n "$(TFP_VAE_URL)"  # the address of the repository, for the metadata
	rm -rf dist build/source
	mkdir -p build/source
	git archive HEAD | tar -x -C build/source
	TFP_VAE_URL="$(TFP_VAE_URL)" $(PYTHON) -m build --outdir dist build/source
	$(PYTHON) -m twine check --strict dist/*

# The tests of the source distribution with the package of the wheel, which comes first
# on the path.
PYTHON3 ?= python3
installed:
	rm -rf build/installed
	$(PYTHON3) -m venv build/installed/venv
	build/installed/venv/bin/pip install "$(CURDIR)/$$(ls dist/*.whl)[dev]"
	mkdir build/installed/source
	tar -xzf dist/*.tar.gz -C build/installed/source --strip-components 1
	cd build/installed/source && \
		PYTHONPATH=$$(echo ../venv/lib/python3*/site-packages):docs:examples:tests:. \
		../venv/bin/pytest --import-mode=importlib -o pythonpath= -o testpaths=tests
