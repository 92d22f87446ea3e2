# Every target sets up what it needs; nothing else has to be run first.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: env demo system test check faults bench clean

env: .venv/.installed
.venv/.installed: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Assay needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: env
	$(BIN)/assay demo --dir demo $(if $(KEEP),--keep)

# Chromium, for the tests that look at the log's pages, and PostgreSQL; without them those tests skip and say so.
system:
	@{ command -v chromium >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; } || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium postgresql >/dev/null; \
	  else echo "install chromium and postgresql (Debian: apt-get), or their tests will skip"; fi; } \
	|| echo "chromium or postgresql could not be installed: their tests will skip"

test: env system
	$(BIN)/python -m pytest -q -n 2 --dist worksteal tests

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The slow attacks with their full counts.
faults: env
	ASSAY_KILL_ROUNDS=50 $(BIN)/python -m pytest -q tests/faults
	ASSAY_FUZZ_ROUNDS=100000 $(BIN)/python -m pytest -q -n auto tests/attest/test_quote_fuzz.py

bench: env
	$(BIN)/python bench/log.py
	$(BIN)/python bench/quotes.py
	$(BIN)/python bench/measure.py
