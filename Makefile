# Everything a developer or a machine runs. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

VM_TESTS := tests/integration/linux tests/integration/engine/test_limits.py tests/integration/engine/test_user_namespaces.py \
	tests/integration/engine/test_security_switches.py tests/integration/runtime/test_confinement.py tests/integration/network/test_sctp.py \
	tests/integration/e2e/test_volume_sizes.py tests/integration/e2e/test_volume_nfs.py \
	tests/integration/network/test_on_parents.py tests/integration/network/test_overlay_encryption.py \
	tests/integration/overlay/test_static_cluster.py::test_containers_of_an_encrypted_network_talk_by_keys_that_engines_renew

.PHONY: help setup demo test guide differential load durability vm lint bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

setup: $(VENV)/.ready ## make .venv with the pinned dependencies

$(VENV)/.ready: requirements.lock pyproject.toml tools/system-packages tools/entry-points
	tools/system-packages setup
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python tools/entry-points $(VENV)
	@# Also where Python is told to write no bytecode: every command would compile the sources again.
	$(BIN)/python -m compileall -q src
	touch $@

demo: setup ## run the main job from Dockerfile to running application (KEEP=1 leaves it running)
	tools/system-packages demo
	$(BIN)/python examples/demo/demo.py $(if $(KEEP),--keep)

test: setup ## all tests (integration tests need root)
	tools/system-packages test
	$(BIN)/python -m pytest tests/unit tests/integration --ignore=tests/integration/load

guide: setup ## the deployment guide's Dockerfiles, built and run (minutes, downloads packages)
	tools/system-packages demo
	$(BIN)/python -m pytest tests/guide

differential: setup ## command lines and Dockerfiles on Debian's docker (and buildah, BuildKit) and on sampan (AGAINST=docker: the suite itself)
	tools/system-packages differential
	SAMPAN_DIFFERENTIAL_AGAINST=$(AGAINST) $(BIN)/python -m pytest tests/differential

load: setup ## hundreds of containers at once, a gigabyte of logs, many examples of properties (minutes)
	tools/system-packages test
	$(BIN)/python -m pytest -s tests/integration/load
	SAMPAN_PROPERTY_EXAMPLES=2000 $(BIN)/python -m pytest --timeout 1200 tests/integration/storage/test_layer_properties.py

durability: setup ## PostgreSQL under writes, killed 50 times with its engine: no committed row may be missing (minutes)
	tools/system-packages test
	SAMPAN_DURABILITY_KILLS=50 $(BIN)/python -m pytest -s tests/integration/crash/test_durability.py

vm: setup ## what depends on the kernel, on Debian's in a virtual machine: control groups v2, AppArmor (half an hour)
	tools/system-packages test
	tools/vm-test 'cd "$$CHECKOUT" && $(BIN)/python -m pytest -p no:cacheprovider --timeout 1200 $(VM_TESTS)'

lint: setup ## style, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## measure against docker and podman, write docs/benchmarks.md
	tools/system-packages bench
	$(BIN)/python -m compileall -q src
	$(BIN)/python bench/run.py

clean: ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .demo .bench build dist
