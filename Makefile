# Linux and macOS; README.md has the commands for Windows.
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin
# While torch's threads wait they keep the cores busy by default: slow beside another process.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help book test test-quick test-faults benchmarks links lock clean

help:
	@echo "make book        execute the chapters that have changed and build the pages"
	@echo "                 (book/_build/html/index.html); start over: make book ARGS=--fresh"
	@echo "                 on open data, 30 minutes: make book PROFILE=online"
	@echo "make test        run all checks"
	@echo "make test-quick  run the fast tests, which need no browser and no real data"
	@echo "make test-faults kill, fill disks and read hostile files at length (about half an hour)"
	@echo "make benchmarks  measure speed and faults anew (hours on a quiet machine)"
	@echo "make links       check external links"
	@echo "make lock        update requirements.lock from pyproject.toml"
	@echo "make clean       remove the environment and everything that was built"
	@echo "TORCH=cpu        with any of these: install torch without CUDA (Linux)"

# uv installs in a third of pip's time; pip knows settings that uv does not, such as pip.conf.
INSTALL = $(BIN)/uv pip install --python $(BIN)/python $(1) || $(BIN)/python -m pip install $(1)

# The environment: made again whenever the lock file or the package's metadata change.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	    "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	awk '/^[a-z]/ {uv = /^uv==/} uv' $< > .venv/uv.lock
	$(BIN)/python -m pip install --require-hashes --no-deps -r .venv/uv.lock
ifeq ($(TORCH),cpu)
	awk '/^[a-z]/ {cuda = /^(torch==|torchvision==|triton==|cuda-|nvidia-)/} !cuda' $< > .venv/cpu.lock
	$(call INSTALL,--require-hashes --no-deps -r .venv/cpu.lock)
	$(call INSTALL,--no-deps --index-url https://download.pytorch.org/whl/cpu \
	    $$(sed -nE 's/^(torch|torchvision)==([0-9.]+).*/\1==\2+cpu/p' $<))
else
	$(call INSTALL,--require-hashes -r $<)
endif
	$(call INSTALL,--no-deps --no-build-isolation -e .)
	touch $@

book: .venv/.ready
	$(BIN)/micranet-book build --profile $(PROFILE) $(ARGS)

# A worker a core, of one thread, a file at a time: files share what is costly, such as the executed
# book. As for the book's kernels, glibc keeps the memory of large tensors: mapping it anew took 14 %
# of a U-Net's training step here, and in a busy moment 44 %.
KEEP := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824
PYTEST := OMP_NUM_THREADS=1 $(KEEP) $(BIN)/python -m pytest -n auto --dist loadfile \
    --no-loadscope-reorder

test: .venv/.ready
	$(PYTEST)

test-quick: .venv/.ready
	$(PYTEST) -m "not slow and not browser and not data"

test-faults: .venv/.ready
	MICRANET_FAULTS=1 $(PYTEST) -m faults

# Each prints its table, and writes it for the page of measurements.
benchmarks: .venv/.ready
	$(BIN)/python benchmarks/cam.py --save book/results/cam.md
	$(BIN)/python benchmarks/cam.py --bf16 --save book/results/cam-bf16.md
	$(BIN)/python benchmarks/cam.py --classes 12 --present 2 --save book/results/cam-classes.md
	$(BIN)/python benchmarks/large.py --network light --save book/results/large.md
	for each in digits speed study many memory threads crops fill explore faults; do \
	    $(BIN)/python benchmarks/$$each.py --save book/results/$$each.md; done

# Without outputs, as only the text has links. Fails if one is broken; no other target needs it.
links: .venv/.ready
	rm -rf _build/links _build/executed/links
	mkdir -p _build/executed && cp -r book _build/executed/links && rm -rf _build/executed/links/_build
	touch _build/executed/links/status.md
	$(BIN)/jupyter-book build _build/executed/links --path-output _build/links --builder linkcheck

lock: .venv/.ready
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 \
	    --extra book --extra baselines --extra export --extra large --extra dev \
	    pyproject.toml -o requirements.lock

clean:
	rm -rf .venv _build book/_build
