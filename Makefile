# Linux and macOS; on Windows run the commands below by hand (see README.md).
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help book test lock clean

help:
	@echo "make book   execute the chapters and build the pages (book/_build/html/index.html)"
	@echo "make test   run all checks"
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

lock: .venv/.ready
	$(BIN)/uv pip compile --universal --generate-hashes --all-extras --python-version 3.11 \
	    pyproject.toml -o requirements.lock

clean:
	rm -rf .venv _build book/_build
