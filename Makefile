# Linux and macOS; on Windows run the commands below by hand (see README.md).
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help book test links lock clean

help:
	@echo "make book   execute the chapters and build the pages (book/_build/html/index.html)"
	@echo "make test   run all checks"
	@echo "make links  look whether the pages of others that the book links to are still there"
	@echo "make lock   write requirements.lock anew from pyproject.toml"
	@echo "make clean  remove the environment and everything that was built"

# The environment: made again whenever the lock file or the package's metadata change.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	    "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --progress-bar on --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	touch $@

book: .venv/.ready
	$(BIN)/micranet-book build --profile quick

test: .venv/.ready
	$(BIN)/python -m pytest

# Without outputs, since only the text has links. Fails if one is broken; no other target needs it.
links: .venv/.ready
	rm -rf _build/links _build/executed/links
	mkdir -p _build/executed && cp -r book _build/executed/links && rm -rf _build/executed/links/_build
	touch _build/executed/links/status.md
	$(BIN)/jupyter-book build _build/executed/links --path-output _build/links --builder linkcheck

lock: .venv/.ready
	$(BIN)/uv pip compile --universal --generate-hashes --all-extras --python-version 3.11 \
	    pyproject.toml -o requirements.lock

clean:
	rm -rf .venv _build book/_build
