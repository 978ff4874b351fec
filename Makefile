# Every target creates what it needs; on a fresh machine only Python 3.11+ and make are asked for.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo check test test-fast format lock clean

setup: $(VENV)/.runtime

$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wattstreet needs Python 3.11 or newer; name one with PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@# What an editable install would do, without a build backend to download.
	@$(BIN)/python -c 'import site; open(site.getsitepackages()[0] + "/wattstreet.pth", "w").write("$(CURDIR)\n")'
	@printf '#!/bin/sh\nexec "%s/python" -m node "$$@"\n' '$(CURDIR)/$(BIN)' > $(BIN)/wattstreet
	@chmod +x $(BIN)/wattstreet
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/python -m node demo $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not system" -n 2 $(ARGS)

test: check
	deploy/install-test-tools.sh
	$(BIN)/python -m pytest $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

# Needs uv; the lock files carry hashes for every platform.
lock:
	uv pip compile -q --no-emit-index-url --universal --python-version 3.11 --generate-hashes pyproject.toml -o requirements.lock
	uv pip compile -q --no-emit-index-url --universal --python-version 3.11 --generate-hashes pyproject.toml --group dev -o requirements-dev.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist wattstreet-demo
