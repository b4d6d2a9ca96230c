# make book: the executed book in _build/html.  make test: every check.  Needed: Python 3.11, make, git, a package index.
PYTHON := $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# All models are files in the environment: whoever asks the hub for one here has a bug, and hears of it at once.
export HF_HUB_OFFLINE = 1
export TRANSFORMERS_OFFLINE = 1
export HF_HUB_DISABLE_PROGRESS_BARS = 1
export TRANSFORMERS_VERBOSITY = error
export TOKENIZERS_PARALLELISM = false
# Chapters run two at a time: one thread each is faster than sharing cores, and rounds the same on every machine.
export OMP_NUM_THREADS = 1

.PHONY: book pdf test lint outputs clean
.NOTPARALLEL:

# The cache is emptied and filled again, chapters in parallel: jupyter-book by itself runs them one after the other.
# Meanwhile the live page's model is traced, if it is not in .live already.
# A chapter that fails is not in the cache; jupyter-book then runs it again and -W stops on it with the traceback.
book: .venv/installed
	rm -rf _build
	$(BIN)/python book/_ext/live_model.py & $(BIN)/python book/_ext/notebooks.py execute && wait
	$(BIN)/jupyter-book build . --all -n -W --keep-going -q
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

# The built book on paper, _build/html/attattr.pdf; needs a Chromium.
pdf: .venv/installed
	$(BIN)/python book/_ext/whole_book.py _build/html/attattr.pdf

# One pytest for everything: unit tests, doctests, the built pages, and the chapters (by nbval: each runs again, checked cells must
# print what is stored). loadfile keeps the cells of one chapter in one process.
test: lint book
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --durations 10 attattr tests book/*.ipynb \
		--nbval-lax --nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 300

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After editing a chapter: runs it, and keeps in its file only the outputs that nbval compares.
outputs: .venv/installed
	$(BIN)/python book/_ext/notebooks.py execute
	$(BIN)/python book/_ext/notebooks.py store

clean:
	rm -rf _build .live .pytest_cache .ruff_cache .mypy_cache

.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt -e .
	touch $@
