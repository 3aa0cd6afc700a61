# Each command does its own set-up: a virtual environment in .venv, the CPU build of PyTorch, this package with all extras.
#   make demo       train a small network under each penalty and show the results (under a minute after set-up)
#   make test       all tests, doctests included
#   make test-extras  the tests of the parts that need no PyTorch, each in a clean environment with its extra alone
#   make lint       ruff, mypy, import-linter
#   make docs       the pages in docs/_build/html, gallery scripts run, warnings are errors
#   make bench      speed of the import, of the law, of log_prob, of the regularizer's step and of the training loop
#   make clean      remove .venv, caches and demo/
# Settings, e.g. `make test PYTHON=python3.13`:
PYTHON ?= python3
# Which PyTorch a fresh .venv gets, and where its CPU builds are (on Linux the plain PyPI build is the CUDA one, several GB).
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# How many processes share the tests, and further arguments of pytest, e.g. ARGS='tests/test_table.py -k certificate'.
JOBS ?= auto
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-extras lint docs bench clean

help:
	@sed -n 's/^#   make/make/p' Makefile

setup: $(READY)

demo: $(READY)
	$(BIN)/softdiamond compare digits --out demo
	@echo; echo "Open demo/report.html in a browser."

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadgroup $(ARGS)

test-extras: $(VENV)-sklearn/.ready $(VENV)-jax/.ready
	$(VENV)-sklearn/bin/python -m pytest --numprocesses $(JOBS) -q tests/test_sklearn.py tests/test_sklearn_input.py src/softdiamond/sklearn
	$(VENV)-jax/bin/python -m pytest --numprocesses $(JOBS) -q tests/test_jax.py src/softdiamond/jax.py

$(VENV)-%/.ready: $(VENV)/.created pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-$*
	$(VENV)-$*/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[$*]' hypothesis mpmath pytest pytest-xdist
	@$(VENV)-$*/bin/python -c 'import importlib.util as u; u.find_spec("torch") is None or exit("the extra $* brought PyTorch")'
	@touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo; echo "Open docs/_build/html/index.html in a browser."

bench: $(READY)
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/law.py
	$(BIN)/python benchmarks/log_prob.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/loop.py

clean:
	rm -rf $(VENV) $(VENV)-* demo dist docs/_build docs/api docs/auto_gallery .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "softdiamond needs Python 3.11 or newer; '$(PYTHON)' was not found. Install it, or: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("softdiamond needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Choose another: make PYTHON=python3.13")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# PyTorch alone first, without what it needs: one look-up in its index, which may be out of reach. The install of this package
# then finds it there and adds the rest. Delete .venv to get another TORCH.
$(VENV)/.torch: $(VENV)/.created
	$(PIP) install --quiet --no-deps --retries 0 --timeout 30 --extra-index-url $(TORCH_INDEX) '$(TORCH)' || $(PIP) install --no-deps '$(TORCH)'
	@touch $@

$(READY): $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet --editable '.[all,dev]'
	@touch $@
