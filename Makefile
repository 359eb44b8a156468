# migrate-v2. Every target makes the environment it needs first; none of them deletes anything in S3.
# make turns every failure into its own status 2: scripts that look at exit statuses call bin/migrate-v2.

PYTHON ?= python3
VENV := .venv
SERVERS := .venv-servers
BENCH := .venv-bench
RUN := bin/migrate-v2
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --require-hashes

.DEFAULT_GOAL := help
.PHONY: help setup dev servers peers migrate scan restore sync verify status demo test soak bench coverage check lock docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+( [a-z-]+)*:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 42

# --- the environment -------------------------------------------------------------------------

# The first line that pip gives `aws`, a script of the old kind, does not run where the path of this folder has a space in it.
# The program itself is not built: its console script is a link, and `python -m migrate_v2` finds it from any folder.
OWN_PROGRAMS = printf '%s\n' '\#!/bin/sh' 'exec "$${0%/*}/python" -m awscli "$$@"' > $(VENV)/bin/aws \
	&& chmod +x $(VENV)/bin/aws && ln -sf ../../bin/migrate-v2 $(VENV)/bin/migrate-v2 \
	&& pwd > "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/migrate-v2.pth"

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) -r requirements.lock
	@$(OWN_PROGRAMS)
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready requirements-dev.lock
	$(VENV)/bin/python $(PIP_INSTALL) -r requirements-dev.lock
	@touch $@

$(SERVERS)/ready: requirements-servers.lock
	$(PYTHON) -m venv $(SERVERS)
	$(SERVERS)/bin/python $(PIP_INSTALL) -r requirements-servers.lock
	@touch $@

$(BENCH)/ready: bench/requirements.lock
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python $(PIP_INSTALL) -r bench/requirements.lock
	@touch $@

# Compiled once: a program that compiles itself at each start takes twice as long, and Python may not be let write by itself.
COMPILE := -m compileall -q

setup: $(VENV)/ready  ## make the environment in .venv, with an `aws` in it
	@-$(VENV)/bin/python $(COMPILE) migrate_v2
dev: $(VENV)/ready-dev
	@-$(VENV)/bin/python $(COMPILE) migrate_v2 tests
servers: $(SERVERS)/ready
peers: $(BENCH)/ready

# --- the work --------------------------------------------------------------------------------

migrate scan restore sync verify status: setup  ## do this for BUCKET=name; more options go in ARGS="..."
	@test -n "$(BUCKET)" || { echo "name the bucket: make $@ BUCKET=name" >&2; exit 2; }
	@$(RUN) $@ $(ARGS) "$(BUCKET)"

demo: setup servers  ## the whole job on an embedded S3, no AWS account needed
	@$(VENV)/bin/python bin/demo

# --- the project -----------------------------------------------------------------------------

test: dev servers  ## all tests, on loopback only
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

soak: dev servers  ## what takes minutes and prints figures; in slices by ARGS="--rounds 200 -k flipped"
	@$(VENV)/bin/python -m pytest --soak $(ARGS)

# What leads to a DELETE, and the tests that have to go through every branch of it.
DELETING := migrate_v2/model.py,migrate_v2/deletion.py,migrate_v2/edges/ledger.py,migrate_v2/steps/delete.py,migrate_v2/steps/hold.py,migrate_v2/steps/settle.py
coverage: dev servers  ## every branch of what leads to a delete is tested
	$(VENV)/bin/coverage run --branch --data-file=.coverage --include=$(DELETING) \
		-m pytest -q tests/test_model.py tests/test_deletion.py tests/test_pipeline.py tests/edges/test_ledger.py \
		tests/steps/test_delete.py tests/steps/test_destination.py tests/steps/test_hold.py tests/steps/test_settle.py
	$(VENV)/bin/coverage report --show-missing --fail-under=100

bench: setup peers  ## measure against rclone, s5cmd and the AWS CLI on loopback; ARGS=--short takes 2 minutes
	@$(VENV)/bin/python -m bench $(ARGS)

check: dev  ## lint and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: dev  ## write the generated parts of the documents anew
	$(VENV)/bin/python -m tests.test_docs

UV_COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --custom-compile-command 'make lock'

lock: dev  ## write the lock files anew from pyproject.toml
	$(UV_COMPILE) --extra cli pyproject.toml -o requirements.lock
	$(UV_COMPILE) --extra cli --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(UV_COMPILE) --group servers -o requirements-servers.lock
	$(UV_COMPILE) --group bench -o bench/requirements.lock

clean:  ## remove the environments and caches, no data
	rm -rf $(VENV) $(SERVERS) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .hypothesis
