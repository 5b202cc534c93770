# dhcp-netlab. `make` says what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL_PATH ?= /opt/dhcp-netlab
LINK_PATH ?= /usr/local/bin
PROGRAMS := lab dhcp-server dhcp-relay dhcp-tester
PIP := --disable-pip-version-check --quiet --constraint constraints.txt
CLIENTS ?= 20000

.DEFAULT_GOAL := help
.PHONY: help needs-root demo test vm-test bench lint constraints install uninstall clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Debian splits ensurepip off into python3-venv; where it is missing, pip itself fills the venv.
$(READY): pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "dhcp-netlab needs Python 3.11 or later: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --without-pip $(VENV)
	@if [ -x $(BIN)/pip ]; then pip="$(BIN)/python -m pip"; \
	    else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
	    $$pip install $(PIP) --editable '.[dev]'
	@touch $@

needs-root:
	@if [ "$$(id -u)" != 0 ]; then echo "this builds network namespaces: sudo make $(MAKECMDGOALS)"; exit 1; fi

demo: needs-root $(READY)  ## build a lab, give 20,000 clients their leases, show the result, tear down
	@mkdir -p results
	@$(BIN)/lab test direct --name demo --json results/demo.json -- --clients $(CLIENTS) --progress

# What a compiler makes a difference to.
COMPILED = $(shell grep -lE "kernels|fastpath\.(wheel|frame|slots|build|delay|faults|histogram|siphash|record|jit)|tests\.(arena|deciding|serving|living|simulated|relay)" tests/unit/*.py)

# Interpreted, compiled, what has the machine to itself, and what mostly waits for others.
test: $(READY)  ## run all tests that this machine allows, and say what was left out
	@NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n auto tests/unit
	@$(BIN)/python -m pytest -n auto $(COMPILED)
	@$(BIN)/python -m pytest tests/faults tests/interop/test_peers_alone.py
	@$(BIN)/python -m pytest -n 4 tests/lab tests/interop tests/wire --ignore tests/interop/test_peers_alone.py

vm-test: needs-root  ## provision a Debian system as Vagrant does, boot it in qemu, test there
	@$(PYTHON) -m vagrant.vm_test --install

bench: needs-root $(READY)  ## measure side by side with perfdhcp and Kea; writes bench/latest.json
	@$(BIN)/python -m bench

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/mypy

constraints: $(READY)  ## write constraints.txt from what is installed now
	@{ head -2 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable; } > constraints.new
	@mv constraints.new constraints.txt

install:  ## install into INSTALL_PATH (/opt/dhcp-netlab), with links in LINK_PATH
	@mkdir -p $(INSTALL_PATH) $(LINK_PATH)
	@$(PYTHON) -m venv $(INSTALL_PATH) 2>/dev/null || $(PYTHON) -m venv --without-pip $(INSTALL_PATH)
	@if [ -x $(INSTALL_PATH)/bin/pip ]; then pip="$(INSTALL_PATH)/bin/python -m pip"; \
	    else pip="$(PYTHON) -m pip --python $(INSTALL_PATH)/bin/python"; fi; \
	    $$pip install $(PIP) .
	@for p in $(PROGRAMS); do ln -sf $(INSTALL_PATH)/bin/$$p $(LINK_PATH)/$$p; done
	@echo "installed: $(addprefix $(LINK_PATH)/,$(PROGRAMS))"

uninstall:  ## remove what install made
	@for p in $(PROGRAMS); do \
	    if [ "$$(readlink $(LINK_PATH)/$$p)" = $(INSTALL_PATH)/bin/$$p ]; then rm -f $(LINK_PATH)/$$p; fi; done
	@if [ -f $(INSTALL_PATH)/pyvenv.cfg ]; then rm -rf $(INSTALL_PATH); fi

clean:  ## remove what was built here
	@rm -rf $(VENV) build dist *.egg-info results .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
