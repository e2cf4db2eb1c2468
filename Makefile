# make run    train DINO on the embedded scenes and show the result
# make test   every test, the notebooks included
# make test-fast   what to run while working: no notebook, no training of more than a few steps
# make book   build the site into _build/html; with REPOSITORY=owner/name on GitHub its pages have
#             buttons that run, edit and discuss them there, and the notebooks install from there
# make test-lowest   test-fast with the oldest versions that pyproject.toml allows, torch among them
# make gpu-records   train and record what wants a GPU, ten minutes at a time; see its list
# make pdf    the whole book on paper: _build/dino-tutorial.pdf, after make book
# The first of them creates .venv from requirements.lock. It needs Python 3.11 or newer.

VENV := .venv
STAMP := $(VENV)/.complete
BIN := $(VENV)/bin/python
# A slow or broken network: wait long, try again, keep what has arrived in pip's cache.
PIP := $(BIN) -m pip --disable-pip-version-check install --quiet --timeout 180 --retries 10
# As many test processes as this, one thread each, so that they do not fight for the cores.
WORKERS ?= 2
# Compiled code is kept whatever the shell says: hundreds of the tests start an interpreter.
QUIET := PYTHONDONTWRITEBYTECODE= TQDM_DISABLE=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg PYTHONHASHSEED=0
# OWNER/NAME on GitHub, for `make book`; no page leads to a repository without it.
REPOSITORY ?=
LOWEST := .venv-lowest
# The newest Python of these that is at least 3.11. Name another with `make PYTHON=…`.
PYTHON ?= $(shell for python in python3.12 python3.11 python3.13 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

# Of make gpu-records: how much (full, or smoke for a trial), where, and how many slices of ten
# minutes; DATA=cifar10=FOLDER reads a folder in place of a download.
SIZE ?= full
DEVICE ?= cuda
SLICES ?= 1

.PHONY: run test test-fast test-lowest book pdf notebooks lint lock bench gpu-records clean

run: $(STAMP)
	@$(VENV)/bin/dino-tutorial train dino --data patterns --preset laptop

test: $(STAMP)
	$(QUIET) $(BIN) -m pytest -n $(WORKERS)

test-fast: $(STAMP)
	$(QUIET) $(BIN) -m pytest tests -n $(WORKERS) -m "not slow and not site"

# The site's own tests are left out: they are of the newest versions.
test-lowest: $(STAMP)
	$(PIP) uv
	$(PYTHON) -m venv --clear $(LOWEST)
	$(VENV)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct \
	  --editable '.[test]'
	$(QUIET) $(LOWEST)/bin/python -m pytest tests --ignore tests/site -n $(WORKERS) -m "not slow"

book: export DINO_TUTORIAL_REPOSITORY := $(REPOSITORY)
book: $(STAMP)
	$(if $(REPOSITORY),$(BIN) tools/notebooks.py prepare --repository $(REPOSITORY))
	$(VENV)/bin/jupyter-book build . -nW --keep-going
	$(QUIET) DINO_TUTORIAL_SITE=_build/html $(BIN) -m pytest tests/site -q

pdf: $(STAMP)
	$(PIP) --constraint requirements.lock --editable '.[pdf]' --no-build-isolation
	$(BIN) tools/print_book.py

notebooks: $(STAMP)
	$(QUIET) $(BIN) tools/notebooks.py execute
	$(BIN) tools/notebooks.py check

lint: $(STAMP)
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check --quiet .
	$(BIN) -m mypy -p dino_tutorial

bench: $(STAMP)
	$(PIP) --constraint requirements.lock --editable '.[bench]' --no-build-isolation
	$(BIN) -m benchmarks

gpu-records: $(STAMP)
	$(BIN) tools/gpu_records.py --size $(SIZE) --device $(DEVICE) --slices $(SLICES) \
	  $(DATA:%=--data %)

# Everything that the extras book and test need, for Python 3.11 and later on every system.
lock: $(STAMP)
	$(PIP) uv
	{ echo "# Written by make lock out of pyproject.toml, extras book and test. Do not edit."; \
	  $(VENV)/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	    --no-header --no-emit-index-url --no-emit-find-links --extra book --extra test \
	    pyproject.toml | sed -e "/ == 'emscripten'/,+1d" -e "/ == 'pypy'/,+1d"; \
	} > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) $(LOWEST) _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# .venv counts as complete only when this stamp is in it. It names the folder, because a virtual
# environment that was moved does not work.
ifneq ($(shell $(BIN) -c '' 2>/dev/null && cat $(STAMP) 2>/dev/null),$(CURDIR))
$(shell rm -f $(STAMP))
endif

$(STAMP): requirements.lock pyproject.toml
ifeq ($(PYTHON),)
	@echo "dino-tutorial needs Python 3.11 or newer and found none: install it," \
	  "or name it with make PYTHON=/path/to/python." >&2; exit 1
endif
	@test -e $(STAMP) || { \
	  echo "Creating $(VENV) with $$($(PYTHON) --version): about 5 GB with PyTorch, some minutes."; \
	  $(PYTHON) -m venv --clear $(VENV) || { echo "Python's venv module is missing or broken." \
	    "On Debian and Ubuntu: apt install python3-venv." >&2; exit 1; }; }
	@rm -f $(STAMP)
	@for attempt in 1 2 3; do \
	  $(PIP) --requirement requirements.lock && exit 0; \
	  echo "Installing failed (attempt $$attempt of 3)." >&2; sleep 5; \
	done; echo "Could not install the packages: see the message above, then run make again." >&2; \
	exit 1
	@$(PIP) --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $(STAMP)
